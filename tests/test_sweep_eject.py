"A trial of a sweep as a plain script: it runs alone and reaches the figures of its trial"

import json
import re

import pytest
import torch
from helpers import execute, magic
from IPython.core.interactiveshell import InteractiveShell

from trainopt_nb import Task, sweep
from trainopt_nb.script.reasons import TOGETHER
from trainopt_nb.store.checkpoint import load_checkpoint

DATA = """
import torch
from torch import nn

generator = torch.Generator().manual_seed(1)
x = torch.randn(210, 4, generator=generator)
y = (x.sum(1) > 0).long()
train_data, valid_data = (x[:160], y[:160]), (x[160:], y[160:])
"""
TUNABLE = f"""
width = 8  #@param {{type:"slider", min:4, max:16}}
deep = False  #@param {{type:"boolean"}}
second = 4
if deep:
    second = 6  #@param {{type:"slider", min:4, max:8}}
{DATA}
end = [nn.Linear(width, second), nn.ReLU(), nn.Linear(second, 2)] if deep else [nn.Linear(width, 2)]
model = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Dropout(0.1), *end)"""
FIXED = f"{DATA}\nmodel = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2))"
SPACE = "--space lr=1e-3..1e-1:log schedule=constant|cosine"
CASES = {  # kind of trial -> (cell, flags); the first two train alone
    "cell": (TUNABLE, "--trials 4"),
    "options": (FIXED, "--trials 2 --batch-trials off --repeats 1"),
    "together": (FIXED, "--trials 9 --batch-trials on --sampler random"),
}
RUNNER = """
import json, os, runpy, sys
for script in json.loads(sys.argv[1]):
    os.chdir(os.path.dirname(script))
    runpy.run_path(script, run_name="__main__")
    print("---")
assert not any(name.startswith("trainopt") for name in sys.modules)
"""
EPOCH = re.compile(r"train_loss ([\d.]+) +valid_loss ([\d.]+) +accuracy ([\d.]+)")


@pytest.fixture(scope="module")
def ejected(tmp_path_factory, warm_process):
    "Kind of trial -> list of (run, script, what the script printed)"
    folder, shell = tmp_path_factory.mktemp("eject"), InteractiveShell.instance()
    shell.run_line_magic("load_ext", "trainopt_nb")
    runs = {}
    for kind, (cell, flags) in CASES.items():
        line = f"sweep --runs {folder} --name {kind} --epochs 3 --threads 1 {flags} {SPACE}"
        magic(shell, line, cell)
        found = shell.user_ns["sweep"]
        runs[kind] = [found.run(row.number) for row in found.trials if row.run]
    InteractiveShell.clear_instance()
    scripts = {kind: [run.eject() for run in each] for kind, each in runs.items()}
    paths = json.dumps([str(script.path) for each in scripts.values() for script in each])
    done = execute("-c", RUNNER, paths, folder=folder)
    assert done.returncode == 0, done.stderr
    said = iter(done.stdout.split("---\n"))
    return {
        kind: [(run, script, next(said)) for run, script in zip(each, scripts[kind], strict=True)]
        for kind, each in runs.items()
    }


def weights(run):
    "Of the script, and of the best epoch of the run"
    (file,) = run.path.glob("*.pt")
    return torch.load(file), load_checkpoint(run.path / "checkpoints", "best")[1]


@pytest.mark.parametrize("kind", ["cell", "options"])
def test_a_trial_that_trained_alone_is_its_script_bit_for_bit(ejected, kind):
    for run, script, said in ejected[kind]:
        assert script.exact, script.notes
        mine, theirs = weights(run)
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in theirs)
        shown = [
            f"{value:.4f}"
            for e in run.progress.epochs
            for value in (e.train_loss, e.valid_loss, e.metrics["accuracy"])
        ]
        assert shown and [value for row in EPOCH.findall(said) for value in row] == shown


def test_the_script_of_a_trial_has_its_values(ejected):
    drawn = [run.facts["values"] for run, *_ in ejected["cell"]]
    assert {values["deep"] for values in drawn} == {True, False}
    for (run, script, _), values in zip(ejected["cell"], drawn, strict=True):
        constants = script.text.split("# Data and model")[0]
        assert re.search(rf"\bwidth = {values['width']}\b", script.text) and repr(values["lr"]) in constants
        assert re.search(
            rf"\bsecond = {values.get('second', 6)}\b", script.text
        )  # as written where not drawn
        assert run.name in next(run.path.glob("*.pt")).stem and "trainopt" not in script.text.split('"""')[2]


def test_a_repeat_has_a_seed_of_its_own(ejected):
    texts = {run.name: script.text for run, script, _ in ejected["options"]}
    repeats = [name for name in texts if "repeat" in name]
    assert repeats and all("SEED = 1\n" in texts[name] for name in repeats)
    assert all("SEED = 0\n" in texts[name] for name in texts.keys() - set(repeats))


def test_a_trial_that_trained_with_others_says_that_it_is_near(ejected):
    together = [(run, script, said) for run, script, said in ejected["together"] if TOGETHER in script.notes]
    assert len(together) > 4
    for run, script, said in together:
        assert script.notes == (TOGETHER,)
        mine, theirs = weights(run)
        assert all(torch.allclose(mine[name], theirs[name], rtol=1e-3, atol=1e-4) for name in theirs)
        known = [
            value
            for e in run.progress.epochs
            for value in (e.train_loss, e.valid_loss, e.metrics["accuracy"])
        ]
        found = [float(value) for row in EPOCH.findall(said) for value in row]
        assert found == pytest.approx(known, abs=2e-4)


def test_a_trial_from_python_says_where_its_code_goes(tmp_path):
    x = torch.randn(64, 4)
    task = Task(torch.nn.Linear(4, 2), (x, (x.sum(1) > 0).long()))
    found = sweep(task, {"lr": (1e-3, 1e-1, "log")}, trials=1, epochs=1, threads=1, folder=tmp_path)
    script = found.run(0).eject()
    assert "begun from Python" in script.notes[0] and "model = ..." in script.text
    filled = script.text.replace("model = ...", "import torch\nmodel = torch.nn.Linear(4, 2)")
    filled = filled.replace("train_data = ...", "train_data = torch.zeros(64, 4), torch.zeros(64).long()")
    script.path.write_text(filled)
    done = execute(script.path.name, folder=script.path.parent)
    assert done.returncode == 0 and "epoch 1/1" in done.stdout, done.stderr
