"While one worker finds out whether trials train together, the others do not begin single ones"

import optuna
import pytest

from trainopt_nb.population.plan import BatchPlan
from trainopt_nb.search.leased_study import LeasedStudy
from trainopt_nb.search.parse_space import as_space
from trainopt_nb.sweeps import batching
from trainopt_nb.sweeps.batching import Batching, Limits
from trainopt_nb.sweeps.messages import PlanTrials, Ready, TrialBatch, TrialSpec
from trainopt_nb.sweeps.study_trials import EndingTrials
from trainopt_nb.sweeps.trial_loop import TrialLoop
from trainopt_nb.sweeps.trial_workers import Died


class Workers:
    "Workers that only hear"

    wanted = 2

    def __init__(self):
        self.heard = []

    def __len__(self):
        return self.wanted

    def resize(self, workers):
        self.wanted = workers

    def answer(self, worker, value):
        self.heard.append((worker, type(value)))


@pytest.fixture
def loop(tmp_path):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trials = EndingTrials(LeasedStudy(study), as_space({"lr": (1e-4, 1e-1, "log")}))
    made = TrialLoop(trials, Workers(), Limits(200, None), tmp_path, batching=Batching())
    for worker in range(2):
        list(made.on_ready(worker, Ready()))
    list(made.begin_trials())
    return made


def test_the_other_worker_begins_with_trials_that_train_together(loop):
    assert loop.workers.heard == [(0, PlanTrials)]
    list(loop.on_plan(0, BatchPlan("batch", 8, "", alone=1e-4, together=2e-5)))
    list(loop.on_ready(0, Ready()))
    list(loop.begin_trials())
    assert loop.workers.heard[1:] == [(0, TrialBatch), (1, TrialBatch)]


def test_it_begins_alone_where_trials_do_not_train_together(loop):
    list(loop.on_plan(0, BatchPlan(reason="they cannot.")))
    list(loop.begin_trials())
    assert loop.workers.heard[1:] == [(1, TrialSpec)]


def test_it_does_not_wait_for_a_worker_that_died(loop):
    list(loop.on_died(0, Died("killed")))
    list(loop.begin_trials())
    assert loop.workers.heard[1:] == [(1, TrialSpec)]


def test_it_does_not_wait_for_long(loop, monkeypatch):
    monkeypatch.setattr(batching, "_WAIT", 0.0)
    list(loop.begin_trials())
    assert loop.workers.heard[1:] == [(1, TrialSpec)]


def test_a_worker_that_is_one_too_many_does_not_wait(loop):
    loop.workers.wanted = 1
    list(loop.begin_trials())
    assert loop.workers.heard[1:] == [(1, type(None))]
