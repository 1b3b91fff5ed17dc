"Whatever an objective does, it ends its own trial and not the sweep"

import os
import re
import sys
import time

import numpy as np
import pytest
import torch
from test_sweep import LR, followed, of_type, started, task  # noqa: F401

from trainopt_nb.base.errors import OptionError
from trainopt_nb.events.records import Ended, Note
from trainopt_nb.search.options import SweepOptions
from trainopt_nb.sweeps.plan_sweep import plan_sweep
from trainopt_nb.sweeps.records import (
    ContinueTrial,
    NarrowTo,
    SetWorkers,
    StopTrial,
    TrialEnded,
    TrialReport,
    TrialStarted,
    TrialValues,
)
from trainopt_nb.sweeps.run_sweep import sweep
from trainopt_nb.sweeps.sweep import Sweep
from trainopt_nb.task.train_options import TrainOptions

pytestmark = pytest.mark.usefixtures("warm_process")


def raises(error):
    raise error


class Unpicklable(Exception):
    def __init__(self, first, second):
        super().__init__(first)
        self.second = lambda: second


class Silent(Exception):
    def __str__(self):
        raise ValueError("no text")


FAULTS = {  # what an objective does in every second trial -> a part of what is said
    "sys.exit": (lambda trial: sys.exit("bye"), "SystemExit: bye"),
    "os._exit": (lambda trial: os._exit(3), "exit code 3"),
    "an interrupt of its own": (lambda trial: raises(KeyboardInterrupt()), "KeyboardInterrupt"),
    "the end of a generator": (lambda trial: raises(GeneratorExit()), "GeneratorExit"),
    "an exception that cannot be pickled": (lambda trial: raises(Unpicklable(1, 2)), "Unpicklable: 1"),
    "an exception without a text": (lambda trial: raises(Silent()), "Silent"),
    "NaN": (lambda trial: float("nan"), "NaN"),
    "a complex number": (lambda trial: 1j, "1j"),
    "an array": (lambda trial: np.ones(2), "array"),
    "a tensor of two": (lambda trial: torch.ones(2), "tensor"),
    "two numbers": (lambda trial: (1.0, 2.0), "2 numbers, and"),
    "nothing": (lambda trial: None, "None"),
    "a report without a number": (lambda trial: trial.report("a", 1), "could not convert"),
    "a report before the first step": (lambda trial: trial.report(1.0, -1), "at least 0"),
    "a note that is not JSON": (lambda trial: trial.set_user_attr("k", torch.ones(2)), "'k' is a Tensor"),
    "a choice that is not JSON": (lambda trial: trial.suggest_categorical("c", [dict]), "c: "),
    "an empty range": (lambda trial: trial.suggest_float("z", 1, 0), "low"),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.filterwarnings("ignore:Choices for a categorical:UserWarning")
def test_a_fault_of_a_trial_is_recorded_and_the_sweep_goes_on(name, tmp_path):
    do, said = FAULTS[name]

    def objective(trial):
        x = trial.suggest_int("x", 0, 3)
        return float(x) if x % 2 else do(trial)

    found = sweep(
        objective, {"x": [0, 1, 2, 3]}, goal="max", folder=tmp_path, trials=4, sampler="grid", repeats=0
    )
    states = {row.values["x"]: row.state for row in found.trials}
    assert states == {0: "failed", 1: "done", 2: "failed", 3: "done"} and found.directory.state == "finished"
    reasons = [row.reason for row in found.trials if row.state == "failed"]
    assert all(said in reason and "\n" not in reason for reason in reasons), reasons
    assert not [trial for trial in found.study.trials if trial.state.name in ("RUNNING", "WAITING")]


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), np.float32(2.5), torch.tensor(2.5), True])
def test_a_number_of_another_kind_is_taken(value, tmp_path):
    found = sweep(
        lambda trial: (trial.suggest_float("x", 0, 1), value)[1], goal="max", folder=tmp_path, trials=2
    )
    assert [row.result for row in found.trials if row.origin != "repeat"] == [[float(value)]] * 2


def test_choices_that_change(tmp_path):
    def objective(trial):
        return trial.suggest_categorical("c", list(range(trial.number + 1)))

    found = sweep(objective, goal="max", folder=tmp_path, trials=3, repeats=0)
    assert [row.state for row in found.trials] == ["done", "failed", "failed"]
    assert all(row.reason.startswith("c: ") for row in found.trials[1:])


def test_an_objective_that_always_ends_its_worker_ends_the_sweep(tmp_path):
    with pytest.raises(Exception, match="exit code 7"):
        sweep(lambda trial: os._exit(7), goal="max", folder=tmp_path, trials=50)


def test_repeats_of_a_trial_that_draws_something_else(task, tmp_path):  # noqa: F811
    def make_task(trial):
        trial.set_user_attr("seen", 1)
        trial.suggest_float("x", 0, 1)
        if trial.number < 0:
            trial.suggest_float("y", 0, 1)
        return task

    found = sweep(make_task, folder=tmp_path, trials=3, repeats=1, epochs=1)
    repeats = [row for row in found.trials if row.origin == "repeat"]
    assert len(repeats) == 3 and all(row.state == "failed" and "y: " in row.reason for row in repeats)
    assert found.directory.state == "finished"


def test_a_trial_that_goes_on_is_not_lost_in_a_batch(task, tmp_path):  # noqa: F811
    "Trials are trained together, and one that goes on from its checkpoint is trained alone"
    sent = []

    def react(event, handle):
        if isinstance(event, TrialReport) and event.step == 1 and not sent:
            sent.append(handle.send(StopTrial(event.number)))
        if isinstance(event, TrialEnded) and event.state == "stopped":
            handle.send(ContinueTrial(event.number))

    # those who follow a batch hear of it every tenth of a second, in which it may do dozens of epochs: the stop comes before its end
    handle = started(tmp_path, task, LR, trials=4, epochs=120, batch_trials="on", pruner="none", repeats=0)
    events = followed(handle, react)
    (again,) = [event for event in of_type(events, TrialStarted) if event.origin == "continued"]
    ends = [event for event in of_type(events, TrialEnded)]
    assert len(ends) == 4 == len({event.number for event in ends})
    assert next(event for event in ends if event.number == again.number).epochs == 120


def test_numbers_of_trials_that_are_not_there(tmp_path):
    sent = [NarrowTo([77]), StopTrial(77), ContinueTrial(77)]

    def react(event, handle):
        if isinstance(event, TrialEnded) and event.number == 1:
            for command in sent:
                handle.send(command)

    handle = started(
        tmp_path, lambda trial: trial.suggest("x"), {"x": (0.0, 1.0)}, trials=4, goal="max", repeats=0
    )
    events = followed(handle, react)
    notes = [note.text for note in of_type(events, Note) if note.topic == "command"]
    assert len(notes) == len(sent) and len(of_type(events, TrialEnded)) == 4, notes
    assert events[-1].state == "finished"


def test_a_trial_without_a_checkpoint_is_not_taken_up(tmp_path):
    def react(event, handle):
        if isinstance(event, TrialEnded) and event.number == 0:
            handle.send(ContinueTrial(0))

    handle = started(tmp_path, lambda trial: trial.suggest_float("x", 0, 1), trials=3, goal="max", repeats=0)
    events = followed(handle, react)
    assert any("has no checkpoint" in note.text for note in of_type(events, Note))
    assert {event.origin for event in of_type(events, TrialStarted)} == {"sampled"}


def test_workers_that_leave_and_are_wanted_again(tmp_path):
    def react(event, handle):
        if isinstance(event, TrialEnded) and event.number in (10, 20, 30):
            handle.send(SetWorkers(1))
            handle.send(SetWorkers(3))

    handle = started(
        tmp_path, lambda trial: trial.suggest_float("x", 0, 1), trials=60, jobs=3, goal="max", repeats=0
    )
    events = followed(handle, react)
    assert {event.worker for event in of_type(events, TrialStarted)[-12:]} == {0, 1, 2}


def test_a_worker_that_cannot_be_started(tmp_path, monkeypatch):
    from trainopt_nb.base.errors import RunError
    from trainopt_nb.sweeps import trial_workers

    real, refused = trial_workers.submit, []

    def submit(*arguments):
        if handle.run.progress.parts["sweep"].ended >= 2:
            refused.append(1)
            raise RunError("A worker process could not be started (no room).")
        return real(*arguments)

    def react(event, handle):
        if isinstance(event, TrialEnded) and event.number == 3:
            handle.send(SetWorkers(3))

    handle = started(tmp_path, lambda trial: trial.suggest_float("x", 0, 1), trials=8, goal="max", repeats=0)
    monkeypatch.setattr(trial_workers, "submit", submit)
    events = followed(handle, react)
    assert refused and any("could not be started" in note.text for note in of_type(events, Note))
    assert of_type(events, Ended)[-1].state == "finished" and len(of_type(events, TrialEnded)) == 8


def test_a_trial_that_never_reports_is_stopped_with_its_worker(tmp_path, monkeypatch):
    from trainopt_nb.sweeps import trial_end

    monkeypatch.setattr(trial_end, "DEAF", 0.5)

    def objective(trial):
        x = trial.suggest_float("x", 0, 1)
        if trial.number == 1:
            time.sleep(600)
        return x

    def react(event, handle):
        if isinstance(event, TrialValues) and event.number == 1:
            handle.send(StopTrial(1))

    handle = started(tmp_path, objective, trials=4, goal="max", repeats=0)
    events = followed(handle, react)
    ends = {event.number: (event.state, event.reason) for event in of_type(events, TrialEnded)}
    assert ends == {0: ("done", ""), 1: ("stopped", "stopped by hand"), 2: ("done", ""), 3: ("done", "")}
    assert of_type(events, Ended)[-1].state == "finished"


def test_a_trial_that_reports_now_and_then_is_waited_for(monkeypatch):
    from trainopt_nb.sweeps import trial_end

    monkeypatch.setattr(trial_end, "DEAF", 0.01)
    silent, slow = (trial_end.RunningTrial(n, None, {}, "sampled", 0) for n in range(2))
    slow.reports, slow.heard = 2, 60.0
    for made in (silent, slow):
        assert not made.is_deaf
        made.ask_to_end("stopped by hand")
    time.sleep(0.05)
    assert silent.is_deaf and not slow.is_deaf


def test_what_a_trial_changes_in_its_process_is_put_back(tmp_path):
    def state():
        return [
            os.getcwd(), str(torch.get_default_dtype()), str(torch.get_default_device()), torch.is_grad_enabled(),
            torch.are_deterministic_algorithms_enabled(), torch.get_num_threads(), np.geterr()["divide"], os.environ.get("HOME"),
        ]  # fmt: skip

    def objective(trial):
        trial.set_user_attr("found", state())
        os.chdir("/")
        os.environ["HOME"] = "/elsewhere"
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        torch.set_grad_enabled(False)
        torch.use_deterministic_algorithms(True)
        torch.set_num_threads(3)
        np.seterr(divide="raise")
        trial.set_user_attr("left", state())
        return 1.0

    handle = started(tmp_path, objective, trials=3, goal="max", repeats=0)
    events = followed(handle)
    trials = Sweep(handle.run).study.trials
    assert len(trials) == 3
    for trial in trials:
        assert trial.user_attrs["found"] == trials[0].user_attrs["found"]
        assert all(a != b for a, b in zip(trial.user_attrs["found"], trial.user_attrs["left"], strict=True))
    assert [
        note.text.startswith("A trial changed the working directory")
        for note in of_type(events, Note)
        if note.topic == "worker"
    ] == [True]


@pytest.mark.parametrize(
    ("typed", "found", "said"),
    [
        ("valid_accuracy", "accuracy", ""),
        ("accuracy", "accuracy", ""),
        (
            "min",
            "",
            "--goal min alone is for a function that returns a number. Here, say what to improve: accuracy",
        ),
    ],
)
def test_a_goal_may_have_the_name_that_the_run_shows(task, typed, found, said):  # noqa: F811
    plan = lambda: plan_sweep(
        task, {"lr": (1e-3, 1e-1)}, how=SweepOptions(goal=(typed,)), options=TrainOptions(epochs=1, threads=1)
    )
    if said:
        with pytest.raises(OptionError, match=re.escape(said)):
            plan()
    else:
        assert [goal.name for goal in plan().described.goals] == [found]


def test_what_has_no_effect_is_said(task):  # noqa: F811
    short = TrainOptions(epochs=1, threads=1)

    def plan(objective, options=short, **how):
        how = SweepOptions.of(goal="max", **how) if callable(objective) else SweepOptions.of(**how)
        return plan_sweep(objective, {"lr": (1e-3, 1e-1)}, how=how, options=options)

    assert list(plan(task, batch_trials="on").without_effect()) == []
    alone = list(plan(lambda trial: 1.0, batch_trials="on").without_effect())
    assert alone == [
        "Trials are trained one by one although --batch-trials is on: each trial makes a model of its own."
    ]
    again = list(plan(task, TrainOptions(epochs=1, threads=1, restarts=3)).without_effect())
    assert len(again) == 1 and again[0].startswith("--restarts has no effect in a sweep")


def test_a_weight_that_is_not_finite_is_named_in_a_sentence(task, tmp_path):  # noqa: F811
    def make_task(trial):
        trial.suggest_float("x", 0, 1)
        torch.nn.init.constant_(next(task.model.parameters()), float("nan"))
        return task

    found = sweep(make_task, trials=1, goal="accuracy:max", epochs=1, threads=1, folder=tmp_path)
    (row,) = found.trials
    assert row.state == "failed" and row.reason.startswith(
        ("A weight is NaN or infinite", "The loss became nan")
    )
