"A cell as the objective of a sweep: each trial equals the frozen cell to the last bit, and data are loaded once"

import os
import random
import sys

import cloudpickle
import numpy as np
import pytest
import torch
from helpers import execute, losses, magic, quiet, weights
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.error import UsageError
from properties import examples
from torch import nn

from trainopt_nb.api.run_task import Where, print_lines, run_task
from trainopt_nb.base.errors import OptionError, RunError, TaskError
from trainopt_nb.notebook.cli import run_file
from trainopt_nb.notebook.execute_cell import execute_cell
from trainopt_nb.sweeps.cell_objective import CellObjective
from trainopt_nb.sweeps.freeze import frozen_cell
from trainopt_nb.task.variables import Variable
from trainopt_nb.workers.submit import submit

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
    own = {
        k: v
        for k, v in vars(value).items()
        if k in ("x", "strength", "asked", "rng", "own", "dataset", "batch_size", "generator", "mean")
    }
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
    _, _, body = cell.partition("\n")
    execute_cell(shell, body, seed=seed, names=names)
    return outcome(names, spoil)


def trials(cell, given=(), searched=()):
    "Return the objective of a cell, as a worker has it"
    names = {"__name__": "__main__"}
    exec(EARLIER, names)
    return cloudpickle.loads(cloudpickle.dumps(CellObjective(cell, names, dict(given), searched=searched)))


VALUES = st.fixed_dictionaries(
    {
        "width": st.integers(1, 8),
        "scale": st.floats(0, 2),
        "which": st.sampled_from("ab"),
        "seed": st.integers(0, 2),
        "spoil": st.booleans(),
    }
)


@examples(25, fixtures=True)
@given(
    st.lists(st.sampled_from(STATEMENTS), min_size=3, max_size=14), st.lists(VALUES, min_size=2, max_size=5)
)
def test_a_trial_equals_the_frozen_cell_to_the_last_bit(shell, lines, values):
    lines = [
        line for n, line in enumerate(lines) if "#@param" not in line or lines.index(line) == n
    ]  # each once
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


# --- trained to the end


DIGITS = """
from sklearn.datasets import load_digits
width = 24  #@param {type:"slider", min:8, max:64}
drop = 0.3  #@param {type:"slider", min:0.0, max:0.5}
norm = True  #@param {type:"boolean"}
strength = 0.1  #@param {type:"slider", min:0.0, max:1.0}
images, labels = load_digits(return_X_y=True)
images /= 16
X, Y = torch.tensor(images, dtype=torch.float32), torch.tensor(labels)
order = torch.randperm(len(X))

class Blurred(torch.utils.data.Dataset):
    def __init__(self, rows):
        self.rows, self.rng = rows, np.random.default_rng(2)
    def __len__(self):
        return len(self.rows)
    def __getitem__(self, i):
        noise = random.random() + torch.randn(64) + np.random.rand() + self.rng.random()
        return X[self.rows[i]] + strength * noise.float(), Y[self.rows[i]]

train_data = torch.utils.data.DataLoader(Blurred(order[:60]), batch_size=20, shuffle=True)
valid_data = X[order[1200:1300]], Y[order[1200:1300]]
layers = [torch.nn.Linear(64, width), torch.nn.ReLU(), torch.nn.Dropout(drop)]
if norm:
    layers.insert(1, torch.nn.BatchNorm1d(width))
model = torch.nn.Sequential(*layers, torch.nn.Linear(width, 10))
def half(outputs, targets): return 0.5 * torch.nn.functional.cross_entropy(outputs, targets)
"""


def trained(objective, values, folder):
    "Train one trial as a worker does, and return its run and its model"
    task, options = objective(lambda name, written: values[name])
    return print_lines(run_task(task, options, Where(folder)), quiet), task.model


def test_the_frozen_cell_reaches_the_figures_of_its_trial_by_fit(shell, tmp_path):
    shell.run_cell("import random, torch, numpy as np")
    given = {"epochs": 2, "loss": Variable("half"), "momentum": 0.8}
    objective = CellObjective(DIGITS, shell.user_ns, given, searched=("lr", "optimizer", "seed"))
    objective = cloudpickle.loads(cloudpickle.dumps(objective))
    for trial, width in enumerate((24, 9)):
        values = {"width": width, "drop": 0.1 / 3, "norm": width > 9, "strength": 0.1 * trial}
        values |= {"lr": 0.01 / 3, "optimizer": ["adamw", "sgd"][trial], "seed": trial}
        run, model = trained(objective, values, tmp_path / "trials")
        line, cell = frozen_cell(DIGITS, values, given).split("\n", 1)
        assert "--loss half" in line and f"--lr {0.01 / 3}" in line and cell.count("#@param") == 4
        magic(shell, line.removeprefix("%%trainopt "), cell)
        alone = shell.user_ns["run"]
        assert len(losses(run)) == 6 and torch.equal(losses(run), losses(alone))
        assert run.metrics == alone.metrics
        assert torch.equal(weights(model), weights(shell.user_ns["model"]))
    assert {"images", "X", "Y", "order"} <= objective._runner.kept_names and objective.notes == []


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    "A module `counted` whose function `rows` makes data; returns a function that tells how often it did"
    (tmp_path / "counted.py").write_text(
        f"import torch\ndef rows(n):\n    print(n, file=open({str(tmp_path / 'made')!r}, 'a'))\n    return torch.rand(n, 3), torch.arange(n) % 2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda: (tmp_path / "made").read_text().split()
    sys.modules.pop("counted", None)


CELL = """
from counted import rows
from torch import nn
width = 4  #@param {type:"slider", min:1, max:8}
train_data = rows(20)
model = nn.Sequential(nn.Linear(3, width), nn.Linear(width, 2))
"""


def test_data_are_loaded_once(loaded):
    objective = CellObjective(CELL, {})
    first, *others = [objective(lambda name, written, width=width: width)[0] for width in (4, 8, 4)]
    assert loaded() == ["20"] and all(task.train_data is first.train_data for task in others)
    assert (
        torch.equal(others[1].model[0].weight, first.model[0].weight) and others[0].model[0].out_features == 8
    )


@pytest.mark.parametrize(
    "cell, times",
    [
        (CELL + "train_data = train_data[0] * width, train_data[1]", 1),
        (CELL + "if width > 4:\n    train_data[0].mul_(2)", 2),  # the trial with 8 changes what was kept
        (CELL.replace("rows(20)", "rows(width)"), 3),
        (CELL.replace("rows(20)", "rows(20 if width else 1)"), 3),
        (CELL + "exec('width')", 3),
        (CELL.replace("from torch import nn", "from torch import *"), 3),
        (CELL.replace("rows(20)", "rows(20)\nx, y = train_data; x -= x.mean()"), 1),
        (
            CELL.replace(
                "rows(20)", "rows(20)\nscaler = Scaler().fit(train_data[0])\nx = scaler.scaled(train_data[0])"
            ),
            1,
        ),
        ("def load(): return rows(width)\n" + CELL.replace("rows(20)", "load()"), 3),
        ("def load(n=20): return rows(n)\n" + CELL.replace("rows(20)", "load()"), 1),
    ],
)
def test_what_does_not_depend_on_the_trial_is_kept_and_nothing_else(cell, times, loaded):
    names = {"__name__": "__main__"}
    exec(EARLIER, names)
    objective = CellObjective(cell, names)
    for width in (4, 8, 4):
        objective.run(lambda name, written, width=width: width, 0)
    assert len(loaded()) == times


def test_what_a_trial_changes_is_said_and_ends_the_keeping(loaded):
    objective = CellObjective(CELL, {})
    drawn = lambda name, written: 4
    task, _ = objective(drawn)
    before = task.train_data[0].clone()
    task.train_data[0].add_(1)  # as a step that works in place on its batch
    task, _ = objective(drawn)
    assert torch.equal(task.train_data[0], before)
    [note] = objective.notes
    assert "because a trial changed train_data in place" in note


# --- in a worker


def in_worker(objective, widths):
    return [weights(objective(lambda name, written, width=width: width)[0].model) for width in widths]


def test_a_worker_gets_large_data_by_shared_memory_and_earlier_models_anew():
    names = {"__name__": "__main__"}
    exec(EARLIER, names)
    names["big"] = torch.rand(2**19)
    cell = """
width = 4  #@param {type:"slider", min:1, max:8}
with torch.no_grad():
    body.weight += big[:9].reshape(3, 3) * width
big[0] += 1
model = nn.Sequential(body, nn.Linear(3, 2))
train_data = X, Y
"""
    objective = CellObjective(cell, names)
    assert objective.shared.size == 2**21 and len(cloudpickle.dumps(objective)) < 2**17
    first, other, again = submit(in_worker, objective, (4, 8, 4)).result(60)
    assert torch.equal(first, again) and not torch.equal(first, other)
    with torch.no_grad():
        expected = names["body"].weight + names["big"][:9].reshape(3, 3) * 4
    assert torch.equal(
        first[:9].reshape(3, 3), expected
    )  # neither the kernel's data nor its model have changed


# --- what cannot be


@pytest.mark.parametrize(
    "cell, names, said",
    [
        ("files = !ls", {}, "Line 1: the trials of a sweep have no shell"),
        ("lr = 1\nout = %who", {}, "Line 2: the trials of a sweep have no shell"),
        ("get_ipython().run_line_magic('who', '')", {}, "The cell calls get_ipython()"),
        (
            "x = lock",
            {"lock": __import__("threading").Lock()},
            "lock is a lock, which cannot travel to another process",
        ),
        (
            "x = rows",
            {"rows": (i for i in range(3))},
            "rows is a generator, which cannot travel to another process",
        ),
    ],
)
def test_a_cell_that_cannot_travel_is_refused_in_one_sentence(cell, names, said):
    with pytest.raises((OptionError, RunError)) as error:
        CellObjective(cell, names)
    assert str(error.value).startswith(said) and "\n" not in str(error.value)


def test_lines_that_need_a_shell_are_left_out_and_said(loaded):
    objective = CellObjective("%matplotlib inline\n" + CELL.strip(), {})
    assert objective(lambda name, written: 4)[0].model[0].out_features == 4
    assert objective.notes == ["The trials skip what needs a shell: %matplotlib inline."]
    with pytest.raises(TaskError, match="There is no variable 'train_data' that holds the training data"):
        CellObjective("import torch\nmodel = torch.nn.Linear(3, 2)", {})(None)


def test_an_error_in_a_trial_shows_the_line_of_the_cell(loaded):
    objective = CellObjective(CELL + "model = nn.Linear(width, 1 / 0)", {})
    with pytest.raises(ZeroDivisionError) as error:
        objective(lambda name, written: 4)
    frame = error.traceback[-1]
    assert frame.lineno + 1 == 7 and "1 / 0" in str(frame.statement)


# --- the verbs


def test_the_best_trial_of_the_verb_is_what_its_frozen_cell_trains(shell, capsys):
    shell.run_cell("import random, torch, numpy as np")
    cell = DIGITS.replace("(order[:60])", "(order[:40])")
    magic(shell, "sweep --trials 2 --repeats 0 --jobs 1 --epochs 1 --space lr=1e-3..1e-1:log", cell)
    best, swept = shell.user_ns["run"], weights(shell.user_ns["model"])
    assert best.name == str(shell.user_ns["sweep"].best.number)
    capsys.readouterr()
    magic(shell, "freeze")
    line, frozen = capsys.readouterr().out.strip().split("\n", 1)
    magic(shell, line.removeprefix("%%trainopt "), frozen)
    assert torch.equal(losses(best), losses(shell.user_ns["run"]))
    assert torch.equal(swept, weights(shell.user_ns["model"]))


def test_where_no_trial_has_a_result_the_variables_are_not_taken_for_one(shell, capsys):
    shell.run_cell("run = 'of an earlier sweep'")
    cell = (
        "import torch\n"
        'n = 1  #@param {type:"slider", min:2, max:8}\n'
        "x = torch.randn(40, 3)\n"
        "train_data = valid_data = x, (x.sum(1) > 0).long()\n"
        "model = torch.nn.Linear(3, 2)\n"
        "if n > 1: raise ValueError('not with this n')\n"
    )
    magic(shell, "sweep --trials 2 --repeats 0 --jobs 1 --epochs 1", cell)
    said = capsys.readouterr().out
    assert "model is not trained, and run has not changed." in said
    assert "2 of its trials failed, the last one with: ValueError: not with this n" in said
    assert shell.user_ns["run"] == "of an earlier sweep" and shell.user_ns["sweep"].best is None


def test_a_terminal_searches_a_file(shell, tmp_path, monkeypatch):
    (tmp_path / "job.py").write_text(
        "import torch\n"
        'width = 4  #@param {type:"slider", min:1, max:8}\n'
        "x = torch.randn(40, 3)\n"
        "train_data = valid_data = x, (x.sum(1) > 0).long()\n"
        "model = torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.Linear(width, 2))\n"
    )
    program = "import sys; from trainopt_nb.notebook.cli import main; sys.exit(main(sys.argv[1:]))"
    words = "sweep job.py --trials 2 --repeats 0 -j 1 --epochs 1".split()
    done = execute("-c", program, *words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sum(line.startswith("trial ") for line in lines) == 2 and "width" in done.stdout
    path = lines[[line.startswith("sweep: ") for line in lines].index(True)].removeprefix("sweep: ")
    assert (tmp_path / path / "study.log").exists()
    (tmp_path / "other.py").write_text("%trainopt runs\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with pytest.raises(UsageError, match=r"other\.py has no cell below %%trainopt sweep"):
        run_file(tmp_path / "other.py", [], "sweep")
