"""Property tests: the same examples each time, so that none fails by chance

`--hypothesis-profile random` draws others, and 15 times as many: run it by hand, so that what it finds becomes an example.
"""

import sys

from hypothesis import HealthCheck, register_random, settings
from hypothesis.internal.conjecture import providers

BUSY = [HealthCheck.too_slow, HealthCheck.data_too_large]  # a busy machine is no fault
settings.register_profile(
    "same", deadline=None, derandomize=True, database=None, suppress_health_check=BUSY, max_examples=100
)
settings.register_profile(
    "random", settings.get_profile("same"), derandomize=False, print_blob=True, max_examples=1500
)
settings.load_profile("same")

# hypothesis also draws numbers and texts that it finds in the modules that are loaded: the examples would change with
# the order of the tests, and with every line of the package
found_in_modules = providers._get_local_constants
providers._get_local_constants = lambda: (
    providers._local_constants if settings.default.derandomize else found_in_modules()
)


class TorchNumbers:
    "PyTorch's random numbers: the same for an example whenever it is tried"

    def seed(self, number):
        sys.modules["torch"].manual_seed(number)

    def getstate(self):
        return sys.modules["torch"].get_rng_state()

    def setstate(self, state):
        sys.modules["torch"].set_rng_state(state)


torch_numbers = TorchNumbers()


def examples(
    count: int,  # in the profile `same`
    fixtures: bool = False,  # whether all examples may share what a fixture of the test made
):
    "Settings of a property test"
    if "torch" in sys.modules:
        register_random(torch_numbers)
    checks = [*BUSY, HealthCheck.function_scoped_fixture] if fixtures else BUSY
    return settings(max_examples=count * settings().max_examples // 100, suppress_health_check=checks)
