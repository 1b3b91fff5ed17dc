"A cell as the objective of a sweep: each trial equals the frozen cell to the last bit, and data are loaded once"

import random

import cloudpickle
import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from trainopt_nb.notebook.execute_cell import execute_cell
from trainopt_nb.sweeps.cell_objective import CellObjective
from trainopt_nb.sweeps.freeze import frozen_cell

EARLIER = """
import random
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

def load(rows=6):
    loads.append(rows)
    return torch.rand(rows, 3)

def halve(x):
    x *= 0.5
    return x

def shifted(x):
    x += 1
    return x.sum(1)

class Scaler:
    mean = 0.0
    def fit(self, x):
        self.mean = x.mean()
        return self
    def scaled(self, x):
        self.mean = self.mean * 2
        return x - self.mean

class Noisy(Dataset):
    def __init__(self, x, strength=1.0):
        self.x, self.strength, self.asked = x, strength, 0
        self.rng, self.own = np.random.default_rng(3), torch.Generator().manual_seed(4)
    def __len__(self): return len(self.x)
    def __getitem__(self, i):
        self.asked += 1
        noise = self.rng.random() + torch.rand(1, generator=self.own).item()
        return self.x[i] + self.strength * noise, i % 2

loads = []
torch.manual_seed(5)
X, Y, Z, A = torch.rand(6, 3), torch.arange(6) % 2, torch.zeros(6), np.ones((6, 3))
alias, order, scaler, data = X, [3, 1, 2], Scaler(), Noisy(X)
width, scale, which = 4, 1.0, "a"
body = nn.Linear(3, 3)
model = nn.Linear(3, 2)
g = lambda: X
"""
STATEMENTS = """
width = 4  #@param {type:"slider", min:1, max:8}
scale = 1.0  #@param {type:"slider", min:0.0, max:2.0}
which = "a"  #@param ["a", "b"]
X = load()
X = load(6) / 2
Y = torch.randint(0, 2, (6,))
X /= 2
X[0] = scale
X[1] += 1
A[1] += 1
A = np.random.rand(6, 3)
A *= scale
X = torch.from_numpy(A)
halve(X)
alias = X
alias[2] = scale
halve(alias)
Z = shifted(X)
Z = alias.sum(1)
Z = halve(Z + 1) * width
torch.manual_seed(3)
np.random.seed(7)
order = list(range(6))
random.shuffle(order)
order.append(width)
scaler = Scaler()
X = scaler.scaled(X)
scaler.fit(X)
data = Noisy(X)
data = Noisy(X, scale)
data.strength = scale
data.asked += 1
held = {"data": data, "order": order}
held = [Noisy(alias), X, {"deep": (A, Y)}]
body = nn.Linear(3, 3)
body.eval()
body = nn.Sequential(nn.Linear(3, width), nn.Linear(width, 3))
X = body(X.float()).detach()
model = nn.Sequential(body, nn.Linear(3, 2))
model = nn.Linear(3, 2)
if width > 4: X = load()
if which == "b": halve(X)
for i in range(width): torch.rand(1)
for i in range(3): Y = Y + i
with torch.no_grad(): Z = X.sum(1)
def g(): return X * scale
def g(): return X.shape[0] + len(order)
def g(x=[1]): x.append(2); return torch.tensor(x)
Z = g()
class Scaler(Scaler): factor = scale
class Scaler(Scaler): seen = []
Scaler.seen = [*getattr(Scaler, "seen", ()), width]
loader = DataLoader(TensorDataset(X.float(), Y), batch_size=width, shuffle=True, generator=torch.Generator().manual_seed(1))
loader = DataLoader(data, batch_size=2, shuffle=True)
assert len(X) == 6
import math
""".strip().splitlines()
LAST = "used = X, Y, Z, A, alias, order, data, scaler, body, model, g"  # so that each of these travels
COMPARED = "X Y Z A alias order data held model body loader i scaler".split()


def plain(value):
    "What is equal for objects that are equal to the last bit"
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.detach().contiguous().numpy().tobytes()
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, nn.Module):
        return value.training, {name: plain(tensor) for name, tensor in value.state_dict().items()}
    if isinstance(value, torch.Generator):
        return plain(value.get_state())
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, (int, float, str, type(None))):
        return value
    own = {k: v for k, v in vars(value).items() if k in ("x", "strength", "asked", "rng", "own", "dataset", "batch_size", "generator", "mean")}
    kind = {k: v for k, v in vars(type(value)).items() if k in ("factor", "seen")}
    return type(value).__name__, plain(own), plain(kind)


def state():
    "All random generators"
    return plain(torch.get_rng_state()), random.getstate(), plain(list(np.random.get_state()))


def use(names, spoil):
    "What a training does with the variables, as far as they can notice it; returns what comes out"
    given = [names["data"][i][0] for i in range(3)]
    given += [batch for batch, _ in names["loader"]] if "loader" in names else []
    with torch.no_grad():
        for tensor in names["model"].parameters():
            tensor.add_(1)
        if spoil:
            names["X"].mul_(3)
    names["order"].append("used")
    called = names["g"]() if not isinstance(names["g"](), int) else 0
    return plain([*given, called])


def outcome(names, spoil):
    found = {name: plain(names[name]) for name in COMPARED if name in names}
    return found, state(), use(names, spoil), state()


def alone(shell, cell, seed, spoil):
    "The outcome of a cell that `%%trainopt fit` executes in a new notebook"
    names = {"__name__": "__main__"}
    exec(EARLIER, names)
    line, _, body = cell.partition("\n")
    execute_cell(shell, body, seed=seed, names=names)
    return outcome(names, spoil)


def trials(cell, given=(), searched=()):
    "Return the objective of a cell, as a worker has it"
    names = {"__name__": "__main__"}
    exec(EARLIER, names)
    return cloudpickle.loads(cloudpickle.dumps(CellObjective(cell, names, dict(given), searched=searched)))


VALUES = st.fixed_dictionaries(
    {"width": st.integers(1, 8), "scale": st.floats(0, 2), "which": st.sampled_from("ab"), "seed": st.integers(0, 2), "spoil": st.booleans()}
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from(STATEMENTS), min_size=3, max_size=14), st.lists(VALUES, min_size=2, max_size=5))
def test_a_trial_equals_the_frozen_cell_to_the_last_bit(shell, lines, values):
    lines = [line for n, line in enumerate(lines) if "#@param" not in line or lines.index(line) == n]  # each once
    cell = "\n".join([*lines, LAST])
    objective = trials(cell)
    for wanted in values:
        drawn = {}

        def suggest(name, written, wanted=wanted, drawn=drawn):
            drawn[name] = wanted[name]
            return wanted[name]

        names = objective.run(suggest, wanted["seed"])
        got = outcome(names, wanted["spoil"])
        expected = alone(shell, frozen_cell(cell, drawn), wanted["seed"], wanted["spoil"])
        assert got == expected, objective.notes
