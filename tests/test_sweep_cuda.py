"A sweep on a GPU: its trials are what fit trains there, one by one, beside each other and as one program; memory that runs out"

from copy import deepcopy

import pytest
import torch
from helpers import three_classes
from torch import nn

from trainopt_nb import Task, fit
from trainopt_nb.sweeps.run_sweep import sweep

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
X, Y, _ = three_classes()
LR = {"lr": (1e-4, 1e-1, "log")}
DEVICE = "cuda"


@pytest.fixture
def task():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    return Task(net, (X, Y), (X, Y))


def figures(run):
    return [(e.train_loss, e.valid_loss, e.metrics) for e in run.progress.epochs]


def test_a_trial_there_is_what_fit_trains_there(task, tmp_path):
    how = {"epochs": 3, "device": DEVICE}
    found = sweep(task, LR, folder=tmp_path, trials=3, pruner="none", batch_trials="off", **how)
    for row in found.trials:
        torch.manual_seed(0)
        again = deepcopy(task.model), task.train_data, task.valid_data
        run = fit(*again, lr=row.values["lr"], folder=tmp_path / "fit", **how)
        assert figures(run) == figures(found.run(row.number))
        assert run.progress.started.device.startswith(DEVICE)


def test_two_workers_share_a_gpu(task, tmp_path):
    found = sweep(task, LR, folder=tmp_path, trials=8, epochs=3, jobs=2, device=DEVICE, batch_trials="off")
    assert {row.state for row in found.trials} <= {"done", "pruned"} and len(found.trials) == 8
    assert len({row.worker for row in found.trials}) == 2


def test_trials_are_trained_there_as_one_program(task, tmp_path):
    how = {
        "folder": tmp_path,
        "trials": 24,
        "epochs": 3,
        "device": DEVICE,
        "sampler": "random",
        "pruner": "none",
    }
    one, many = (sweep(task, LR, batch_trials=mode, **how) for mode in ("off", "on"))
    assert [row.values for row in one.trials] == [row.values for row in many.trials]
    for a, b in zip(one.trials, many.trials, strict=True):
        for first, second in zip(figures(one.run(a.number)), figures(many.run(b.number)), strict=True):
            assert first[0] == pytest.approx(second[0], abs=1e-4), (a.values, first, second)


def test_memory_that_runs_out_ends_one_trial(task, tmp_path):
    def objective(trial):
        size = trial.suggest_categorical("gigabytes", [0.001, 4000])
        held = torch.zeros(int(size * 2**28), device=DEVICE)
        return float(held[0]) + size

    found = sweep(objective, goal="min", folder=tmp_path, trials=8, sampler="random", seed=1)
    states = {row.values["gigabytes"]: row.state for row in found.trials}
    assert states[0.001] == "done" and states.get(4000, "failed") == "failed", states
    assert found.best.values["gigabytes"] == 0.001
