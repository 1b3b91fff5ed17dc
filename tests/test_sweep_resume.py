"A sweep that goes on does what is left, and nothing twice"

import json
import sqlite3
import threading

import pytest
from test_sweep import LR, followed, of_type, started, task  # noqa: F401

from trainopt_nb.base.errors import RunError
from trainopt_nb.events.records import Ended, Note
from trainopt_nb.search import database, patient_storage
from trainopt_nb.search.leased_study import LeasedStudy
from trainopt_nb.search.parse_space import as_space
from trainopt_nb.search.quiet_optuna import study_in_memory
from trainopt_nb.sweeps.batching import Ending
from trainopt_nb.sweeps.messages import Outcome
from trainopt_nb.sweeps.modes import repeat_finalists
from trainopt_nb.sweeps.records import (
    Narrow,
    SpaceChanged,
    Spread,
    TrialEnded,
    TrialStarted,
    TryValues,
)
from trainopt_nb.sweeps.study_trials import EndingTrials
from trainopt_nb.sweeps.sweep import Sweep
from trainopt_nb.sweeps.trial_end import counts

pytestmark = pytest.mark.usefixtures("warm_process")


def left_at(handle, left):
    "Run a sweep until an event, and leave it there; returns the events"
    seen = []
    try:
        for new in handle.events():
            seen += new
            if any(map(left, new)):
                break
    finally:
        handle.close()
    return seen


# --- finalists


def test_finalists_that_were_left_in_the_middle_are_trained_to_the_end(task, tmp_path):  # noqa: F811
    how = {"trials": 6, "epochs": 2, "repeats": 2, "pruner": "none", "batch_trials": "off"}
    handle = started(tmp_path, task, LR, **how)
    ended = []

    def left(event):
        if isinstance(event, TrialEnded) and event.number < 0:
            ended.append(event.number)
        return len(ended) == 4

    left_at(handle, left)
    found = Sweep(handle.run)
    assert not found.progress.spreads and len(found.study.trials) == 6
    before = {
        (row.repeats, row.seed): row.number
        for row in found.trials
        if row.state == "done" and row.repeats is not None
    }
    events = followed(started(tmp_path, task, LR, handle.run, **how))
    repeats = of_type(events, TrialStarted)
    assert len(found.study.trials) == 6 and {event.origin for event in repeats} == {"repeat"}
    assert not {(event.repeats, event.seed) for event in repeats} & set(before)
    assert len(before) + len(repeats) == 10
    spreads = of_type(events, Spread)
    assert len(spreads) == 5 and all(len(spread.values) == 2 for spread in spreads)
    assert set(before.values()) <= {number for spread in spreads for number in spread.repeats}
    assert {found.run(number).options["seed"] for spread in spreads for number in spread.repeats} == {1, 2}
    again = followed(started(tmp_path, task, LR, handle.run, **how))
    assert not of_type(again, TrialStarted, Spread) and of_type(again, Ended)[-1].state == "finished"


def test_seeds_of_repeats_begin_again_behind_the_last_one():
    class Loop:
        over, repeats = True, []

    ended = study_in_memory(["maximize"])
    trials = EndingTrials(LeasedStudy(ended), as_space({"lr": (0.1, 0.2)}))
    made, _ = trials.tell(Outcome(trials.ask(0).number, "done", [0.9], 1, 0.1, ""))
    goal = type("Goal", (), {"direction": "max", "name": "accuracy"})
    list(repeat_finalists(goal, 1, 3, seed=2**32 - 2)(Loop, [Ending(made, "done", [0.9])]))
    assert Loop.repeats == [(0, 2**32 - 1), (0, 0), (0, 1)]


# --- the space


def test_coarse_to_fine_narrows_once(tmp_path):
    how = {"trials": 16, "coarse_to_fine": True, "goal": "max", "repeats": 0, "sampler": "random"}
    objective, space = lambda trial: trial.suggest("x"), {"x": (0.0, 1.0)}
    handle, ended = started(tmp_path, objective, space, **how), []
    first = left_at(
        handle, lambda event: isinstance(event, TrialEnded) and not ended.append(1) and len(ended) == 12
    )
    second = followed(started(tmp_path, objective, space, handle.run, **how))
    assert len(of_type(first, SpaceChanged)) == 1 and not of_type(second, SpaceChanged)
    assert Sweep(handle.run).directory.state == "finished"


def test_values_that_were_ruled_out_do_not_come_again():
    space = as_space({"lr": (1e-4, 1e-1, "log"), "width": [16, 32]})
    leased = LeasedStudy(study_in_memory(["maximize"]), fixed=lambda params: trials.again(params))
    trials = EndingTrials(leased, space)
    trials.queue({"lr": 0.05, "width": 16})
    outside = trials.ask(0)
    trials.queue({"lr": 0.002, "width": 16})
    inside = trials.ask(0)
    for made in (outside, inside):
        trials.lose(made.number, "its worker was killed")
    trials.queue({"lr": 0.09})
    trials.change(space.narrow("lr", high=0.01).add_value("width", 64))
    after = [trials.ask(0) for _ in range(3)]
    assert after[0].values == inside.values and after[0].origin == "retry"
    assert [made.origin for made in after[1:]] == ["sampled", "sampled"]
    assert all(made.values["lr"] <= 0.01 for made in after)
    assert [lost.values["lr"] for lost in leased.ruled_out] == [0.05, 0.09]
    states = [trial.state.name for trial in trials.study.trials]
    assert "WAITING" not in states and not any(counts(trial) for trial in trials.study.trials)


def test_a_range_that_was_narrowed_holds_for_trials_that_were_queued(tmp_path, recwarn):
    def react(event, handle):
        if isinstance(event, TrialStarted) and event.number == 0:
            handle.send(TryValues({"x": 0.9}))
            handle.send(Narrow("x", None, 0.5))

    handle = started(
        tmp_path, lambda trial: trial.suggest("x"), {"x": (0.0, 1.0)}, trials=8, goal="max", repeats=0
    )
    events = followed(handle, react)
    changed = next(i for i, event in enumerate(events) if isinstance(event, SpaceChanged))
    later = [event.values["x"] for event in of_type(events[changed:], TrialStarted)]
    assert later and all(x <= 0.5 for x in later) and len(of_type(events, TrialEnded)) == 8
    assert any(
        "is left out: its values are not searched any more" in note.text for note in of_type(events, Note)
    )
    assert not [w for w in recwarn if "out of range" in str(w.message)]


# --- what was lost


def test_a_trial_that_was_lost_is_not_one_that_failed(tmp_path):
    import os
    import signal

    flag = tmp_path / "killed"

    def objective(trial):
        x = trial.suggest_float("x", 0, 1)
        if trial.number == 1 and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if trial.number == 3:
            raise ValueError("no threes")
        return x

    handle = started(tmp_path / "runs", objective, trials=5, goal="max", repeats=0)
    events = followed(handle)
    found = Sweep(handle.run)
    s = found.progress
    assert [event.state for event in of_type(events, TrialEnded)].count("lost") == 1
    assert (s.done, s.failed, s.counts["lost"], s.ended, s.planned) == (4, 1, 1, 5, 5)
    assert sum(map(counts, found.study.trials)) == 5 and "SIGKILL" in s.trials[1].reason


# --- a database that is away


@pytest.fixture
def locked(tmp_path, monkeypatch):
    "A SQLite file, and a function that locks it for some seconds"
    monkeypatch.setattr(database, "_LOCKED", 0.1)
    path, others = tmp_path / "sweeps.db", []

    def lock(seconds=None):
        others.append(sqlite3.connect(path, check_same_thread=False, timeout=10))
        others[-1].execute("BEGIN EXCLUSIVE")
        if seconds:
            threading.Timer(seconds, others[-1].rollback).start()
        return others[-1]

    yield f"sqlite:///{path}", lock
    for other in others:
        other.close()


def test_a_database_that_comes_back_costs_a_sentence(tmp_path, locked):
    storage, lock = locked

    def react(event, handle):
        if isinstance(event, TrialEnded) and event.number == 2:
            lock(2.0)

    handle = started(
        tmp_path,
        lambda trial: trial.suggest_float("x", 0, 1),
        trials=6,
        goal="max",
        repeats=0,
        storage=storage,
    )
    events = followed(handle, react)
    assert of_type(events, Ended)[-1].state == "finished"
    assert [trial.state.name for trial in Sweep(handle.run).study.trials] == ["COMPLETE"] * 6
    assert any("did not answer for" in note.text for note in of_type(events, Note))


def test_a_database_that_stays_away_ends_the_sweep_in_one_sentence_and_it_goes_on_later(
    tmp_path, locked, monkeypatch
):
    monkeypatch.setattr(patient_storage, "PATIENCE", 0.5)
    storage, lock = locked
    how = {"trials": 6, "goal": "max", "repeats": 0, "storage": storage}
    objective, held = lambda trial: trial.suggest_float("x", 0, 1), []

    def react(event, handle):
        if isinstance(event, TrialEnded) and event.number == 2:
            held.append(lock())

    handle = started(tmp_path, objective, **how)
    with pytest.raises(RunError, match=r"sweeps[.]db cannot be used .*locked") as raised:
        followed(handle, react)
    assert "\n" not in str(raised.value) and handle.run.state == "failed"
    held[0].rollback()
    monkeypatch.undo()
    followed(started(tmp_path, objective, None, handle.run, **how))
    found = Sweep(handle.run)
    states = [trial.state.name for trial in found.study.trials]
    assert states.count("COMPLETE") == 6 and set(states) <= {"COMPLETE", "FAIL"}
    assert sum(map(counts, found.study.trials)) == 6 and found.directory.state == "finished"
    log = [json.loads(line) for line in (found.path / "events.jsonl").read_text().splitlines()]
    done = [e["number"] for e in log if e.get("kind") == "TrialEnded" and e["state"] == "done"]
    assert (
        sorted(done)
        == sorted(set(done))
        == [t.number for t in found.study.trials if t.state.name == "COMPLETE"]
    )
