"The number of CPU threads is measured once, the same for equal runs, stored with the run, and put back"

import contextlib
import json
import os

import pytest
import torch
from helpers import until
from torch import nn

from trainopt_nb import Run, Task, TrainOptions, fit, resume
from trainopt_nb.api.in_workers import Where
from trainopt_nb.api.prepare_run import start
from trainopt_nb.api.run_task import run_task
from trainopt_nb.train.threads import threads_given

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
X = torch.randn(256, 12, generator=torch.Generator().manual_seed(0))
DATA = X, X[:, :3].argmax(1)
HOW = {
    "epochs": 80,
    "batch_size": 64,
    "device": "cpu",
    "write": lambda text: None,
}  # 320 updates, enough to measure
pytestmark = pytest.mark.skipif(CORES < 2, reason="one core leaves nothing to choose")


@pytest.fixture(autouse=True)
def untold(monkeypatch, tmp_path):
    "PyTorch's own number of threads, and nothing remembered"
    before = torch.get_num_threads()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_THREAD_LIMIT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "state"))
    torch.set_num_threads(CORES)
    yield
    torch.set_num_threads(before)


def net(seed=0, width=256):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(12, width),
        nn.BatchNorm1d(width),
        nn.Dropout(0.2),
        nn.Linear(width, width),
        nn.Linear(width, 3),
    )


def remembered(tmp_path):
    return list(tmp_path.glob("state/trainopt_nb/threads/*.json"))


def begun(folder, shared=False, model=None, **options):
    "A run that was prepared, and does no step"
    kept = {name: value for name, value in HOW.items() if name != "write"}
    with contextlib.closing(
        start(Task(model or net(), DATA), TrainOptions.of(**kept | options), folder=folder, shared=shared)
    ) as handle:
        return Run(handle.run.path)


def equal(first, second):
    return all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_equal_runs_use_the_number_that_the_first_one_measured(tmp_path):
    models, runs = [net(), net(), net(5)], []
    for model, seed, folder in zip(models, (0, 0, 7), "aab", strict=True):
        runs.append(fit(model, DATA, seed=seed, folder=tmp_path / folder, **HOW))
        assert torch.get_num_threads() == CORES
    assert [run.facts["threads"]["how"] for run in runs] == ["measured", "remembered", "remembered"]
    assert len(remembered(tmp_path)) == 1
    chosen = runs[0].facts["threads"]["threads"]
    for run in runs:
        assert (
            run.options["threads"]
            == run.progress.started.threads
            == run.facts["threads"]["threads"]
            == chosen
        )
        assert any("CPU thread" in note.text and note.level == "info" for note in run.progress.notes)
    assert equal(*models[:2]) and not equal(*models[1:])
    again = net()
    fit(
        again, DATA, seed=0, threads=chosen, folder=tmp_path, **HOW
    )  # a measurement leaves no trace in the training
    assert equal(again, models[0])


def test_a_resumed_run_keeps_its_number_whatever_is_remembered(tmp_path):
    whole, half = net(), net()
    fit(whole, DATA, folder=tmp_path / "whole", **HOW)
    run = fit(half, DATA, folder=tmp_path / "half", max_steps=310, **HOW)
    file, first = remembered(tmp_path)[0], run.options["threads"]
    other = CORES if first == 1 else 1
    file.write_text(json.dumps(json.loads(file.read_text()) | {"threads": other}))
    done = resume(run, half, DATA, max_steps=None, write=HOW["write"])
    assert done.progress.step == 320 and done.options["threads"] == done.progress.started.threads == first
    assert equal(whole, half)
    assert begun(tmp_path).options["threads"] == other  # a new run asks


@pytest.mark.slow
def test_a_run_in_the_background_uses_the_same_number(tmp_path):
    here, there = net(), net()
    first = fit(here, DATA, folder=tmp_path, **HOW)
    options = TrainOptions(**{name: value for name, value in HOW.items() if name != "write"})
    with contextlib.closing(run_task(Task(there, DATA), options, Where(tmp_path, background=True))) as handle:
        run = until(
            lambda: (run := Run(handle.run.path)).state == "finished" and run, "the end of the run", 300
        )
    assert run.facts["threads"]["how"] == "remembered" and run.options["threads"] == first.options["threads"]
    run.load(there)
    assert equal(here, there)


def test_what_the_user_sets_is_used_and_not_measured(tmp_path, monkeypatch):
    run = begun(tmp_path, threads=2)
    assert run.options["threads"] == 2 and "threads" not in run.facts
    torch.set_num_threads(CORES + 1)
    assert threads_given() and begun(tmp_path).options["threads"] is None
    torch.set_num_threads(CORES)
    assert not threads_given()
    monkeypatch.setenv("OMP_NUM_THREADS", str(CORES))
    assert threads_given() and begun(tmp_path).options["threads"] is None
    assert not remembered(tmp_path)


def test_a_rule_without_clock_decides_where_nothing_can_be_measured_or_kept(tmp_path, monkeypatch):
    def how(model=None, **options):
        return begun(tmp_path, model=model, **options).facts["threads"]

    assert how(net(width=24))["how"] == "size" and how(net(width=24))["threads"] == 1
    assert how(epochs=2)["how"] == "size" and how(epochs=2)["threads"] == CORES
    own = lambda parameters: torch.optim.SGD(parameters, 0.1)  # it may remember what it made
    assert how(optimizer=own)["how"] == "size"
    assert not remembered(tmp_path)
    (tmp_path / "file").write_text("")
    for name in ("XDG_STATE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "file"))
    assert how()["how"] == "size"


def test_a_trial_of_a_sweep_keeps_the_threads_of_its_place(tmp_path):
    assert begun(tmp_path, shared=True).options["threads"] is None and not remembered(tmp_path)
