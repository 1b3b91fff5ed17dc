"""Train, tune and shrink PyTorch models in a notebook, with live charts and controls: `%load_ext trainopt_nb`, then `%%trainopt`."""

__version__ = "0.1.0"

from trainopt_nb.runs.table import find_run, list_runs
from trainopt_nb.base.errors import OptionError, RunError
from trainopt_nb.runs.run import RUN_ACTIONS, RUN_REPORTS, Run
from trainopt_nb.api.fit import fit, resume
from trainopt_nb.api.load_data import load_data
from trainopt_nb.compression import lines as _compress_lines  # readers of a log know the events of a compression
from trainopt_nb.events import profiled as _profiled, tuned as _tuned, usage as _usage  # the same for those that a run tells of itself
from trainopt_nb.feed.convert import convert
from trainopt_nb.insight.lr_find import find_lr
from trainopt_nb.sweeps import lines as _lines, trial_values as _trial_values  # readers of a log know the events of a sweep
from trainopt_nb.tables.make_table import features
from trainopt_nb.task.task import Task
from trainopt_nb.task.train_options import TrainOptions

__all__ = [
    "OptionError",
    "Run",
    "RunError",
    "Sweep",
    "Task",
    "TrainOptions",
    "check_environment",
    "coach",
    "compress",
    "convert",
    "doctor",
    "features",
    "find_lr",
    "find_run",
    "fit",
    "inspect_results",
    "list_runs",
    "load_data",
    "measure",
    "resume",
    "sweep",
    "tune",
    "watch",
    "will_it_fit",
]

_LATER = {  # they import Optuna, or what measures, inspects, watches and changes models
    "Sweep": "trainopt_nb.sweeps.sweep",
    "check_environment": "trainopt_nb.insight.check_environment",
    "compress": "trainopt_nb.compression.compress",
    "doctor": "trainopt_nb.insight.doctor",
    "inspect_results": "trainopt_nb.insight.inspect",
    "measure": "trainopt_nb.compression.measure",
    "sweep": "trainopt_nb.sweeps.run_sweep",
    "coach": "trainopt_nb.insight.coach",
    "tune": "trainopt_nb.insight.tune",
    "watch": "trainopt_nb.insight.watch",
    "will_it_fit": "trainopt_nb.insight.will_it_fit",
}

RUN_REPORTS.register("sweep", "trainopt_nb.sweeps.report:sweep_bundle")
RUN_REPORTS.register("compress", "trainopt_nb.compression.report:compress_bundle")
RUN_ACTIONS.register("coach", "trainopt_nb.insight.coach:coach")
RUN_ACTIONS.register("eject", "trainopt_nb.script.write:write_script")
RUN_ACTIONS.register("inspect", "trainopt_nb.insight.inspect_run:inspect_run")
RUN_ACTIONS.register("log", "trainopt_nb.runs.write_logs:write_logs")
RUN_ACTIONS.register("profile", "trainopt_nb.insight.profiler:profile_run")
RUN_ACTIONS.register("predict", "trainopt_nb.api.predict:predict")
RUN_ACTIONS.register("sweep", "trainopt_nb.sweeps.run_sweep:sweep")


def __getattr__(name: str):
    "Import what few programs need when it is first used"
    if name in _LATER:
        import importlib

        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_ipython_extension(shell):
    "Register the magics (called by `%load_ext trainopt_nb`)"
    from trainopt_nb.notebook.magics import load

    load(shell)


def unload_ipython_extension(shell):
    "Remove the magics (called by `%unload_ext trainopt_nb`)"
    from trainopt_nb.notebook.magics import unload

    unload(shell)
