"Sweeps whose loop runs in another process: begun in the background, followed and steered from here, orphaned and killed"

import asyncio
import os
import signal
import subprocess
import textwrap
import time
from types import SimpleNamespace

import pytest
import torch
from helpers import Wire, alive, magic, over, until
from IPython.core.error import UsageError
from warm_python import python

from trainopt_nb.api.handle import FollowedRun
from trainopt_nb.api.in_workers import Where
from trainopt_nb.base.errors import RunError
from trainopt_nb.notebook import followers, train_in_cell
from trainopt_nb.notebook.freeze_verb import offers_elsewhere
from trainopt_nb.notebook.sweep_verbs import SWEEP, _CellSweep
from trainopt_nb.notebook.verbs import Call
from trainopt_nb.panels.sweep_panel import SweepPanel
from trainopt_nb.runs.table import list_runs
from trainopt_nb.search.options import SweepOptions
from trainopt_nb.store.checkpoint import load_checkpoint
from trainopt_nb.store.lock import lock_owner
from trainopt_nb.sweeps.background import start_behind
from trainopt_nb.sweeps.plan_sweep import plan_sweep
from trainopt_nb.sweeps.records import SetWorkers
from trainopt_nb.sweeps.sweep import Sweep
from trainopt_nb.task.train_options import TrainOptions

CELL = """
import torch
from torch import nn

torch.manual_seed(0)
width = 8  #@param {type:"slider", min:4, max:16}
x = torch.randn(64, 4)
y = (x.sum(1) > 0).long()
train_data = valid_data = (x, y)
model = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))
"""
PLAIN = CELL.replace('  #@param {type:"slider", min:4, max:16}', "")
LINE = "sweep --background --trials 4 --epochs 2 --threads 1 --batch-trials off --runs {} --space lr=1e-3..1e-1:log"


@pytest.fixture(scope="module", autouse=True)
def workers(warm_process):
    pass


def slow(trial):
    "An objective that takes half a second and knows which process it runs in"
    import time

    x = trial.suggest_float("x", 0, 1)
    trial.set_user_attr("worker", os.getpid())
    for step in range(50):
        time.sleep(0.01)
        trial.report(x, step)
        if trial.should_prune():
            break
    return x


slow.__module__ = "__main__"  # travels by value, like a function of a notebook


def begin(folder, trials=6, objective=slow, space=None, resume=None, **how):
    how = SweepOptions.of(goal="max", trials=trials, pruner="none", sampler="random", **how)
    return start_behind(plan_sweep(objective, space, how=how, options=TrainOptions()), Where(folder), resume)


def ended(found):
    return [row for row in found.trials if row.state == "done"]


def test_a_cell_is_back_at_once_and_the_sweep_can_be_read_meanwhile(shell, tmp_path, capsys):
    magic(shell, LINE.format(tmp_path), CELL)
    found = shell.user_ns["sweep"]
    assert f"{found.name} runs in a process of its own" in capsys.readouterr().out
    assert found.directory.alive and "run" not in shell.user_ns
    until(lambda: ended(found), "a trial", 90)
    assert len(found.study.trials) >= len(ended(found))
    over(found.directory)
    assert found.directory.state == "finished" and len(ended(found)) == 4
    assert found.directory.cell == CELL and (found.path / "log.txt").exists()
    assert lock_owner(found.path / "lock") is None


@pytest.mark.parametrize(("cell", "taken"), [(PLAIN, True), (CELL, False)])
def test_the_variables_get_what_needs_no_cell(shell, tmp_path, monkeypatch, cell, taken):
    monkeypatch.setattr(train_in_cell, "has_frontend", lambda shell: True)

    async def cell_and_after():
        magic(shell, LINE.format(tmp_path), cell)
        before = [each.clone() for each in shell.user_ns["model"].parameters()]
        await asyncio.wait_for(asyncio.gather(*train_in_cell._watching), 120)
        return before

    before = asyncio.run(cell_and_after())
    found, model, run = (shell.user_ns[name] for name in ("sweep", "model", "run"))
    assert run.path == found.run().path
    monkeypatch.undo()
    if taken:
        best = load_checkpoint(run.path / "checkpoints", "best")[1]
        assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), best.values(), strict=True))
    else:
        assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        magic(shell, f"resume {found.name} --runs {tmp_path}")
        assert shell.user_ns["width"] == found.best.values["width"] == shell.user_ns["model"][0].out_features


def test_a_trial_that_the_user_chose_is_left_in_place_of_the_best(shell, tmp_path, capsys):
    magic(shell, LINE.format(tmp_path).replace("--background", ""), CELL)
    capsys.readouterr()
    found = _CellSweep(Call(SWEEP, shell, {}), CELL)
    found.handle = SimpleNamespace(sweep=shell.user_ns["sweep"])
    best = found.handle.sweep.best.number
    other = next(row.number for row in ended(found.handle.sweep) if row.number != best)
    assert found.take(other) == "told_use"
    found.leave()
    assert shell.user_ns["run"].name == str(other)
    assert (
        f"`run` and `model` are those of trial {other}, which you chose. The best is trial {best}."
        in capsys.readouterr().out
    )
    assert [found.freeze(number) for number in (best, best, other)] == [
        "told_freeze",
        "told_freeze",
        "told_freeze_instead",
    ]


def test_the_panel_of_a_sweep_that_runs_elsewhere_opens_and_freezes(shell, tmp_path):
    magic(shell, LINE.format(tmp_path).replace("--background", ""), CELL)
    found, shown = shell.user_ns["sweep"], []
    offers = offers_elsewhere(found.directory, shell, shown.append)
    assert [offers["open"](found.best.number), offers["freeze"](found.best.number)] == [
        "told_open",
        "told_freeze_shown",
    ]
    assert shown[0].path == found.run().path and shown[1].data.startswith("%%trainopt fit")


def test_a_panel_moves_while_another_cell_is_busy(shell, tmp_path, monkeypatch):
    monkeypatch.setattr(train_in_cell, "has_frontend", lambda shell: True)
    shown = []

    async def busy():
        magic(shell, LINE.format(tmp_path), PLAIN)
        monkeypatch.setattr(SweepPanel, "update", lambda self: shown.append(self.progress.state))
        while "finished" not in shown:  # the event loop does not get a turn
            followers.look_at_followed()
            time.sleep(0.05)
        await asyncio.wait_for(asyncio.gather(*train_in_cell._watching), 20)

    asyncio.run(asyncio.wait_for(busy(), 120))
    assert "finished" in shown


def test_commands_reach_it(tmp_path):
    handle = begin(tmp_path, trials=1000)
    found = handle.sweep
    until(lambda: ended(found), "a trial", 90)
    found.send("pause")
    until(lambda: found.directory.state == "paused", "the pause")
    found.send("resume")
    found.send(SetWorkers(2))
    until(lambda: found.progress.workers == 2, "the second worker")
    found.send("stop")
    over(found.directory)
    assert found.directory.state == "stopped" and not [r for r in found.trials if r.state == "training"]
    with pytest.raises(RunError, match="no process takes its commands"):
        found.send("stop")


def test_what_cannot_travel_is_named_and_leaves_no_run(tmp_path):
    rows = (i for i in range(3))
    with pytest.raises(RunError, match="generator") as caught:
        begin(tmp_path, objective=lambda trial: next(rows))
    assert "without --background" in str(caught.value) or "function" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_what_cannot_begin_says_why(tmp_path):
    handle = begin(tmp_path, storage=f"sqlite:///{tmp_path}/not/there/study.db")
    with pytest.raises(RunError):
        handle.result()
    assert handle.run.state == "failed" and "not/there" in handle.progress.reason.replace("\\", "/")


PARENT = """
import os, sys, torch
from trainopt_nb.api.in_workers import Where
from trainopt_nb.search.options import SweepOptions
from trainopt_nb.sweeps.background import start_behind
from trainopt_nb.sweeps.plan_sweep import plan_sweep
from trainopt_nb.task.task import Task
from trainopt_nb.task.train_options import TrainOptions

data = torch.ones(2**20)  # large enough to be shared with workers

def objective(trial):
    import time
    x = trial.suggest_float("x", 0, 1)
    trial.set_user_attr("worker", os.getpid())
    time.sleep(0.2)
    return x * data.mean().item()

if __name__ == "__main__":
    how = SweepOptions.of(goal="max", trials=12, sampler="random")
    run = start_behind(plan_sweep(objective, how=how, options=TrainOptions()), Where(sys.argv[1])).run
    print(run.path, flush=True)
    sys.stdin.read()
"""


def workers_of(found):
    return {trial.user_attrs["worker"] for trial in found.study.trials if "worker" in trial.user_attrs}


def test_it_outlives_its_kernel_and_its_workers(tmp_path):
    (tmp_path / "parent.py").write_text(textwrap.dedent(PARENT))
    words = python(tmp_path / "parent.py", tmp_path / "runs")
    parent = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    found = Sweep(parent.stdout.readline().strip())
    until(lambda: ended(found), "a trial", 90)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait(20)
    (worker,) = workers_of(found)
    os.kill(worker, signal.SIGKILL)  # the next one gets the data of a kernel that is gone
    over(found.directory)
    assert found.directory.state == "finished" and len(ended(found)) == 12
    assert len(workers_of(found)) == 2 and not any(map(alive, workers_of(found)))
    assert all(row.result == [row.values["x"]] for row in ended(found))


def test_a_killed_loop_takes_its_workers_along_and_goes_on(tmp_path):
    handle = begin(tmp_path, trials=5)
    found = handle.sweep
    until(lambda: ended(found), "a trial", 90)
    os.kill(lock_owner(found.path / "lock")["pid"], signal.SIGKILL)
    until(lambda: found.directory.state == "dead", "the death")
    until(lambda: not any(map(alive, workers_of(found))), "the end of its workers")
    done = {row.number for row in ended(found)}
    begin(tmp_path, trials=5, resume=found.directory)
    over(found.directory)
    again = Sweep(found.path)
    assert again.directory.state == "finished" and len(ended(again)) == 5
    assert done <= {row.number for row in ended(again)}


KERNEL = """
import sys, time
import optuna
from trainopt_nb import sweep

def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    for step in range(100 if trial.number else 6000):  # the first one is there until it is stopped
        time.sleep(0.01)
        trial.report(x, step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return x

sweep(objective, goal="max", trials=1000, sampler="random", pruner="none", folder=sys.argv[1])
"""


def test_the_panel_of_another_kernel_steers_a_sweep(tmp_path):
    "Two processes: one searches in its cell, this one attaches a panel and clicks"
    kernel = subprocess.Popen(python("-c", KERNEL, tmp_path), stdout=subprocess.PIPE, text=True)
    (run,) = until(lambda: [run for run in list_runs(tmp_path) if run.alive], "the sweep", 90)
    handle = FollowedRun(run)
    panel = train_in_cell.panel_of(handle)
    panel.widget.comm = Wire()
    steps = iter(turns(panel, Sweep(run)))
    step, late = next(steps), time.monotonic() + 120
    for _ in handle.events(lambda: train_in_cell._clicked(panel)):
        assert time.monotonic() < late, "a click had no effect"
        panel.update()
        if step and step():
            step = next(steps, None)
    handle.close()
    panel.close()
    assert handle.progress.state == "stopped" and kernel.wait(30) == 0
    kernel.stdout.close()


def turns(panel, found):
    "Click one thing after the other, and yield what is to be seen before the next"
    click, trials = panel.widget.comm.click, lambda: found.progress.trials
    face = lambda: panel.facts()
    running = lambda: [row.number for row in trials().values() if row.state == "training"]
    yield running
    (first,) = running()
    click({"command": "stop_trial", "value": first})
    yield lambda: trials()[first].state == "stopped"
    click({"command": "pause"})
    yield lambda: face()["state"] == "paused"
    click({"command": "try", "values": {"x": 0.125}})
    click({"command": "workers", "value": 2})
    click({"command": "resume"})
    yield lambda: any(row.values.get("x") == 0.125 and row.origin == "queued" for row in trials().values())
    yield lambda: face()["workers"] == 2
    click({"command": "stop"})
    yield lambda: False


def test_a_space_is_narrowed_from_another_process(tmp_path):
    handle = begin(tmp_path, trials=1000, objective=lambda trial: trial.suggest("x"), space={"x": (0.0, 1.0)})
    panel = train_in_cell.panel_of(handle)
    panel.widget.comm = Wire()
    clicked, late = False, time.monotonic() + 120
    for _ in handle.events(lambda: train_in_cell._clicked(panel)):
        assert time.monotonic() < late, "the range was not narrowed"
        panel.update()
        if not clicked and ended(handle.sweep):
            clicked = True
            panel.widget.comm.click({"command": "range", "name": "x", "low": 0.5, "high": 1.0})
        changed = [e for e in handle.run.events() if type(e).__name__ == "SpaceChanged"] if clicked else []
        if changed and len(handle.sweep.trials) > changed[0].trial + 10:
            handle.send("stop")
    later = [row for row in handle.sweep.trials if row.number >= changed[0].trial]
    assert later and all(row.values["x"] >= 0.5 for row in later)
    panel.close()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--cluster head", "--cluster takes local"),
        ("--shard", "add --devices 2"),
    ],
)
@pytest.mark.parametrize("background", ["", " --background"])
def test_a_trial_that_cannot_be_spread_is_said_before_the_first_one(shell, tmp_path, flags, said, background):
    with pytest.raises(UsageError, match=said):
        magic(shell, f"sweep --trials 2 --runs {tmp_path}/runs --space lr {flags}{background}", PLAIN)
    assert not (tmp_path / "runs").exists()
