"""Trials that train on two devices each: equal to `fit` on two, pruned, killed, stopped and resumed as those on one device

Ranks on the CPU stand for devices. A trial has its ranks from `WarmRanks`, whose first rank is the worker of the sweep.
"""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import optuna
import psutil
import pytest
import torch
from helpers import alive, magic, quiet, some_quick, until, weights
from torch import nn
from torch.utils.data import Dataset
from warm_python import python

from trainopt_nb import Task, TrainOptions, fit
from trainopt_nb.api.in_workers import Where
from trainopt_nb.base.errors import OptionError
from trainopt_nb.events.records import Epoch, Note, Pause, Resume
from trainopt_nb.notebook.cli import run_file
from trainopt_nb.search.options import SweepOptions
from trainopt_nb.store.checkpoint import load_checkpoint
from trainopt_nb.sweeps.machine import gpu_names, seats
from trainopt_nb.sweeps.plan_sweep import plan_sweep
from trainopt_nb.sweeps.records import ContinueTrial, StopTrial, TrialEnded, TrialReport
from trainopt_nb.sweeps.run_sweep import start_sweep, sweep
from trainopt_nb.sweeps.sweep import Sweep

LR = {"lr": (1e-3, 1e-1, "log")}
HOW = {"sampler": "random", "repeats": 0, "pruner": "none", "batch_trials": "off"}


@pytest.fixture(scope="module", autouse=True)
def workers(warm_process):
    pass


def net(width=8, dropout=0.2):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 2))


torch.manual_seed(0)
X = torch.randn(96, 4)
DATA = X, (X.sum(1) > 0).long()


class Acts(nn.Module):
    "Acts once on one rank, in its third step of training: `kill` ends the process, `fail` raises"

    def __init__(self, act, folder, rank=1):
        super().__init__()
        self.body, self.act, self.mark, self.rank, self.calls = nn.Linear(4, 2), act, folder / "mark", rank, 0

    def forward(self, x):
        self.calls += self.training
        if self.calls == 3 and torch.distributed.get_rank() == self.rank and not self.mark.exists():
            self.mark.write_text(str(os.getpid()))
            if self.act == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("no good")
        return self.body(x)


class Slow(Dataset):
    "Takes some seconds for an epoch, and writes down which processes load it"

    def __init__(self, folder, seconds=0.002):
        self.folder, self.seconds = folder, seconds

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        (self.folder / f"pid-{os.getpid()}").touch()
        time.sleep(self.seconds)
        return DATA[0][i], DATA[1][i]


for local in (Acts, Slow):
    local.__module__ = "__main__"  # travels by value, like what a cell defines


def processes(folder):
    "Return the ranks that live"
    found = [int(path.name.removeprefix("pid-")) for path in folder.glob("pid-*")]
    return [pid for pid in found if alive(pid) and pid != os.getpid()]


def assert_gone(folder):
    until(lambda: not processes(folder), "the end of the ranks", 5)


def ranks_seen(folder):
    "Return how many ranks there were; this process has looked at the data too"
    return len({path.name for path in folder.glob("pid-*")} - {f"pid-{os.getpid()}"})


def search(task, folder, space=LR, **options):
    return sweep(task, space, folder=folder, **{**HOW, "devices": 2, "epochs": 2, **options})


def epochs(run):
    return [epoch.values for epoch in run.progress.epochs]


def assert_equals_fit(found, number, model, folder, **options):
    "A trial of a sweep and a run of `fit` on two devices are equal to the last bit"
    run = fit(model, DATA, DATA, folder=folder, devices=2, epochs=2, write=quiet, **options)
    trial = found.run(number)
    assert epochs(trial) == epochs(run) and len(epochs(run)) == 2
    states = [load_checkpoint(each.path / "checkpoints", "best")[1] for each in (trial, run)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    return run


# --- the same as `fit`


def test_trials_on_two_devices_equal_fit_on_two(tmp_path):
    model = net()
    found = search(Task(model, DATA, DATA), tmp_path, trials=2, seed=3)
    assert found.directory.state == "finished" and [row.state for row in found.trials] == ["done"] * 2
    assert torch.equal(weights(model), weights(net()))
    for row in found.trials:
        assert_equals_fit(found, row.number, net(), tmp_path, seed=3, **row.values)
    trial = found.run(0)
    assert trial.facts["type"] == "trial" and trial.progress.started.devices == 2
    assert not list(found.path.rglob(".meeting"))


@pytest.mark.parametrize(
    "plan", some_quick([{"shard": True}, {"tensor_plan": "auto"}, {"pipeline_plan": "auto"}], {"shard": True})
)
def test_every_plan_trains_one_trial_after_the_other(plan, tmp_path):
    "The third trial meets what the process group of the first two left behind"
    found = search(Task(net(dropout=0), DATA, DATA), tmp_path, trials=3, goal="accuracy,parameters", **plan)
    assert [row.state for row in found.trials] == ["done"] * 3, [row.reason for row in found.trials]
    assert {row.result[1] for row in found.trials} == {58}  # of the whole model
    assert_equals_fit(found, 2, net(dropout=0), tmp_path, **plan, **found.trials[2].values)


def test_a_function_makes_the_task_once_for_all_ranks(tmp_path):
    def make_task(trial):
        with open(tmp_path / "calls", "a") as file:
            file.write(f"{os.getpid()}\n")
        width = trial.suggest_int("width", 2, 9)
        return Task(net(width), DATA, DATA), TrainOptions(devices=2, epochs=2, lr=0.01)

    found = sweep(make_task, trials=2, folder=tmp_path, **HOW)
    calls = (tmp_path / "calls").read_text().split()
    assert len(calls) == 3 and len(set(calls[1:])) == 1  # the first is the look before the sweep
    for row in found.trials:
        assert_equals_fit(found, row.number, net(row.values["width"]), tmp_path, lr=0.01)


CELL = """
import torch
from torch import nn

width = 8  #@param {type:"slider", min:4, max:16}
class Net(nn.Sequential):
    pass

torch.manual_seed(1)
x = torch.randn(96, 4)
train_data = valid_data = x, (x.sum(1) > 0).long()
model = Net(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))
"""


def test_a_tunable_cell(shell, tmp_path):
    line = f"sweep --devices 2 --trials 3 --epochs 2 --sampler random --repeats 0 --runs {tmp_path} --space lr=1e-3..1e-1:log"
    magic(shell, line, CELL)
    found = shell.user_ns["sweep"]
    assert [row.state for row in found.trials] == ["done"] * 3
    assert len({row.values["width"] for row in found.trials}) > 1
    assert isinstance(shell.user_ns["model"], shell.user_ns["Net"])
    best = found.best
    cell = CELL.replace("width = 8", f"width = {best.values['width']}")
    magic(shell, f"fit --devices 2 --epochs 2 --runs {tmp_path} --lr {best.values['lr']!r}", cell)
    assert epochs(shell.user_ns["run"]) == epochs(found.run())


@pytest.mark.slow
def test_a_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text(CELL)
    flags = "--devices 2 -j 2 --trials 4 --epochs 2 --repeats 0 --sampler random --runs runs".split()
    assert run_file(Path("train.py"), flags, "sweep") == 0
    found = Sweep(next(tmp_path.glob("runs/*")))
    assert [row.state for row in found.trials] == ["done"] * 4
    assert {found.run(row.number).progress.started.devices for row in found.trials} == {2}


# --- a trial that ends early


def test_a_trial_is_pruned_and_its_ranks_train_the_next_one(tmp_path):
    pruner = optuna.pruners.ThresholdPruner(lower=2.0, n_warmup_steps=2)  # no accuracy is so good
    task = Task(net(), Slow(tmp_path, 0), DATA)
    found = search(task, tmp_path, trials=2, epochs=4, pruner=pruner, goal="accuracy")
    assert [(row.state, row.epochs) for row in found.trials] == [("pruned", 2)] * 2
    assert [found.run(n).state for n in (0, 1)] == ["stopped"] * 2
    assert (
        found.study.trials[0].state.name == "PRUNED" and len(found.study.trials[0].intermediate_values) == 2
    )
    assert ranks_seen(tmp_path) == 2  # two ranks, for both trials
    assert_gone(tmp_path)


def started(folder, task, **options):
    how = {name: options.pop(name) for name in ("trials", "jobs", "batch_trials") if name in options}
    how = SweepOptions.of(**{**HOW, **how})
    chosen = TrainOptions.of(devices=2, **options)
    return start_sweep(plan_sweep(task, LR, how=how, options=chosen), Where(folder))


def test_a_trial_is_stopped_paused_and_taken_up(tmp_path):
    # the stop arrives some epochs late, since a trial asks while it trains on
    handle = started(tmp_path, Task(net(), Slow(tmp_path), DATA), trials=3, epochs=9, batch_size=32)
    commands = {TrialReport: [Pause(), StopTrial(0)], TrialEnded: [ContinueTrial(0)]}  # after the first ones
    waiting, paused = [], 0

    def asked():
        nonlocal paused
        if handle.progress.state == "paused":
            paused += 1
            return Resume() if paused == 5 else None
        return waiting.pop(0) if waiting else None

    for new in handle.events(asked):
        for event in new:
            waiting += commands.pop(type(event), [])
    handle.close()
    found = handle.sweep
    first, again = found.trials[0], next(row for row in found.trials if row.origin == "continued")
    assert paused >= 5 and (first.state, again.state) == ("stopped", "done")
    assert first.epochs < 9 == again.epochs and again.values == first.values
    steps = [event.epoch for event in found.run(again.number).events() if isinstance(event, Epoch)]
    assert steps == [*range(1, 10)] and found.directory.state == "finished"
    assert_gone(tmp_path)


# --- faults


def test_a_killed_rank_costs_its_trial_one_more_try(tmp_path):
    found = search(Task(Acts("kill", tmp_path), Slow(tmp_path, 0), DATA), tmp_path, trials=2, batch_size=16)
    lost, again = found.trials[:2]
    assert (lost.state, again.state) == ("lost", "done") and again.values == lost.values
    pid = (tmp_path / "mark").read_text()
    assert lost.reason.startswith(f"Rank 1 (process {pid}) was ended by SIGKILL")
    assert found.progress.done == 2 and found.directory.state == "finished"
    assert_gone(tmp_path)


def test_a_killed_first_rank(tmp_path):
    task = Task(Acts("kill", tmp_path, rank=0), Slow(tmp_path, 0), DATA)
    found = search(task, tmp_path, trials=2, batch_size=16)
    assert [row.state for row in found.trials] == ["lost", "done", "done"]
    assert_gone(tmp_path)


@pytest.mark.parametrize("rank", some_quick([0, 1], 1))
def test_an_error_on_one_rank_fails_its_trial_and_others_train_the_next(rank, tmp_path):
    task = Task(Acts("fail", tmp_path, rank), Slow(tmp_path, 0), DATA)
    found = search(task, tmp_path, trials=2, batch_size=16)
    assert [row.state for row in found.trials] == ["failed", "done"]
    assert "ValueError: no good" in found.trials[0].reason
    assert found.run(0).state == "failed" and "no good" in found.run(0).progress.reason
    assert ranks_seen(tmp_path) == 4
    assert_gone(tmp_path)


def life(folder, name=""):
    "A sweep in a process of its own"
    print("kernel", os.getpid(), flush=True)
    search(
        Task(net(), Slow(folder), DATA), folder / "runs", trials=3, batch_size=16, jobs=1, resume=name or None
    )


def test_nothing_outlives_a_killed_kernel_and_the_sweep_goes_on(tmp_path):
    kernel = subprocess.Popen(python(__file__, str(tmp_path)), stdout=subprocess.PIPE, text=True)
    until(lambda: len(processes(tmp_path)) == 3, "the kernel, which looks at the data, and two ranks")
    found = Sweep(until(lambda: list((tmp_path / "runs").glob("*")), "the sweep")[0])
    until(lambda: found.progress.done, "a trial that is done")
    os.kill(kernel.pid, signal.SIGKILL)
    kernel.communicate()
    until(lambda: not processes(tmp_path), "the end of the ranks", 10)
    before = found.trials[0]
    found = search(
        Task(net(), Slow(tmp_path, 0), DATA), tmp_path / "runs", trials=3, batch_size=16, resume=found
    )
    assert [row.state for row in found.trials if row.state == "done"] == ["done"] * 3
    assert found.trials[0].values == before.values and found.directory.state == "finished"
    assert sum(trial.state.name == "COMPLETE" for trial in found.study.trials) == 3


# --- what cannot be


def numbers(trial):
    return trial.suggest_float("x", 0, 1)


def own_options(trial):
    return Task(net(), DATA, DATA), TrainOptions(lr=trial.suggest_float("lr", 0.01, 0.1))


for local in (numbers, own_options):
    local.__module__ = "__main__"


@pytest.mark.parametrize(
    ("objective", "space", "options", "said"),
    [
        (Task(net(), DATA, DATA), {"devices": [1, 2]}, {}, "--devices cannot be searched"),
        (numbers, None, {"goal": "max", "devices": 2}, "returns numbers, so it trains by itself and --devices 2 has no"),
        (own_options, None, {"devices": 2}, "of its own with devices=1, so devices=2 of the sweep has no effect"),
        (Task(net(), DATA, DATA), LR, {"shard": True}, "add --devices 2 or more"),
        (Task(nn.Linear(4, 2), DATA, DATA), LR, {"devices": 2, "pipeline_plan": "auto"}, "Linear"),
    ],
    ids=["space", "numbers", "own options", "one device", "pipeline"],
)  # fmt: skip
def test_what_cannot_be_is_said_before_anything_starts(objective, space, options, said, tmp_path):
    with pytest.raises(OptionError, match=said):
        sweep(objective, space, folder=tmp_path / "runs", trials=2, **options)
    assert not (tmp_path / "runs").exists()


def test_trials_that_ask_for_other_devices_fail_with_the_reason(tmp_path):
    def spread(trial):
        return Task(net(), DATA, DATA), TrainOptions(devices=2, lr=trial.suggest_float("lr", 0.01, 0.1))

    found = sweep(spread, folder=tmp_path, trials=1, goal="accuracy:max", **HOW)
    assert found.trials[0].state == "failed" and "devices=2" in found.trials[0].reason


def test_a_task_that_cannot_travel_fails_its_trial_with_the_reason(tmp_path):
    def make_task(trial):
        data = Slow(tmp_path, 0)
        data.lock = threading.Lock()
        return Task(net(trial.suggest_int("width", 2, 9)), data, DATA)

    found = sweep(make_task, folder=tmp_path, trials=2, devices=2, epochs=1, **HOW)
    assert [row.state for row in found.trials] == ["failed"] * 2
    assert "train_data.lock is a lock, which cannot travel to another process" in found.trials[0].reason
    assert "leave out --devices" in found.trials[0].reason


# --- the machine


def test_a_sweep_says_that_processes_share_cores_and_why_trials_do_not_train_together(tmp_path):
    cores = len(psutil.Process().cpu_affinity())
    found = search(Task(net(), DATA, DATA), tmp_path, trials=3, jobs=cores, batch_trials="on", epochs=1)
    said = [each.text for each in found.directory.events() if isinstance(each, Note)]
    assert any(f"-j {cores} with --devices 2 trains in {2 * cores} processes" in text for text in said)
    assert any("one by one: several devices or a cluster share the training" in text for text in said)
    assert [row.state for row in found.trials] == ["done"] * 3


def test_a_budget_is_measured_on_the_devices_of_a_trial(tmp_path):
    plan = plan_sweep(
        Task(net(), Slow(tmp_path, 0), DATA),
        LR,
        how=SweepOptions.of(budget="10x"),
        options=TrainOptions.of(devices=2, epochs=2, batch_size=16),
    )
    assert plan.budget().limit > 0
    until(lambda: not processes(tmp_path), "the end of the ranks")
    assert ranks_seen(tmp_path) == 2


def test_each_trial_has_gpus_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [seat.gpus for seat in seats(2, 2, gpu_names("auto"))] == ["0,1", "2,3"]
    assert [seat.gpus for seat in seats(3, 1, gpu_names("cuda"))] == ["0", "1", "2"]
    assert [seat.gpus for seat in seats(2, 3, gpu_names("cuda"))] == ["0,1,2", "3,0,1"]
    assert gpu_names("cpu") == gpu_names("cuda:1") == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b, GPU-c,GPU-d")
    assert [seat.gpus for seat in seats(2, 2, gpu_names("auto"))] == ["GPU-a,GPU-b", "GPU-c,GPU-d"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert [seat.gpus for seat in seats(2, 1, gpu_names("auto"))] == ["", ""]


if __name__ == "__main__":
    import sys

    life(Path(sys.argv[1]))
