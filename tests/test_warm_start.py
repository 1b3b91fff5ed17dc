"A sweep begins with what an earlier study found, or with values that are known to be good"

import optuna
import pytest
from helpers import some_quick
from test_sweep import LR, followed, of_type, started, task  # noqa: F401

from trainopt_nb.base.errors import OptionError, RunError
from trainopt_nb.events.records import Note
from trainopt_nb.search.options import SweepOptions
from trainopt_nb.search.quiet_optuna import study_in_memory
from trainopt_nb.sweeps.records import TrialStarted
from trainopt_nb.sweeps.run_sweep import sweep
from trainopt_nb.sweeps.sweep import Sweep
from trainopt_nb.sweeps.trial_end import EARLIER, counts

pytestmark = pytest.mark.usefixtures("warm_process")
SPACE = {"x": (0.0, 1.0), "kind": ["a", "b"]}
HOW = {"goal": "max", "repeats": 0}


def value(trial):
    return trial.suggest("x") + (trial.suggest("kind") == "b")


@pytest.fixture
def earlier(tmp_path):
    return sweep(
        value,
        {"x": (0.0, 2.0), "kind": ["a", "b"]},
        folder=tmp_path,
        name="earlier",
        trials=20,
        sampler="random",
        **HOW,
    )


def notes(events):
    return [note.text for note in of_type(events, Note) if note.topic == "warm start"]


@pytest.mark.parametrize(
    "kind",
    some_quick(
        ["sweep", "name", "directory", "journal", "study", "url"], "sweep", "directory", "journal", "study"
    ),
)
def test_trials_of_an_earlier_study_are_known_and_do_not_count(earlier, tmp_path, kind):
    given = {
        "sweep": earlier,
        "name": earlier.name,
        "directory": str(earlier.path),
        "journal": str(earlier.path / "study.log"),
        "study": earlier.study,
    }.get(kind)
    if kind == "url":
        given = f"sqlite:///{tmp_path}/studies.db"
        for name in ("first", "second"):
            optuna.copy_study(
                from_study_name=earlier.study.study_name,
                from_storage=earlier.study._storage,
                to_storage=given,
                to_study_name=name,
            )
        with pytest.raises(OptionError, match="There are 2 studies"):
            started(tmp_path / "wrong", value, SPACE, warm_start=given, **HOW)
        given += "#second"
    inside = [t for t in earlier.study.trials if t.params["x"] <= 1.0]
    handle = started(tmp_path, value, SPACE, warm_start=given, trials=3, **HOW)
    events = followed(handle)
    found = Sweep(handle.run)
    known = [t for t in found.study.trials if EARLIER in t.system_attrs]
    assert 0 < len(inside) < 20 and [t.params for t in known] == [t.params for t in inside]
    assert [t.value for t in known] == [t.value for t in inside] and [t.number for t in known] == list(
        range(len(inside))
    )
    assert (
        sum(map(counts, found.study.trials))
        == 3
        == len(of_type(events, TrialStarted))
        == found.progress.ended
    )
    assert len(found.trials) == 3 and found.best.result[0] == max(row.result[0] for row in found.trials)
    said = notes(events)[0]
    assert (
        f"learns from {len(inside)} of the 20 trials" in said and f"({20 - len(inside)}) lie outside" in said
    )
    again = followed(started(tmp_path, value, SPACE, handle.run, warm_start=given, trials=5, **HOW))
    assert len([t for t in found.study.trials if EARLIER in t.system_attrs]) == len(inside) and not notes(
        again
    )
    assert sum(map(counts, found.study.trials)) == 5


def test_the_sampler_learns_from_an_earlier_study(tmp_path):
    "All of 60 earlier trials are known to TPE, which proposes near their best from its first trial on"
    past = study_in_memory(["maximize"])
    for n in range(60):
        past.enqueue_trial({"x": n / 60})
        trial = past.ask()
        trial.suggest_float("x", 0, 1)
        past.tell(trial, -abs(n / 60 - 0.8))
    how = {"trials": 8, "sampler": "tpe", **HOW}
    far = lambda rows: sum(abs(row.values["x"] - 0.8) for row in rows) / len(rows)
    objective = lambda trial: -abs(trial.suggest("x") - 0.8)
    warm = sweep(objective, {"x": (0.0, 1.0)}, folder=tmp_path, warm_start=past, **how)
    cold = sweep(objective, {"x": (0.0, 1.0)}, folder=tmp_path, **how)
    assert far(warm.trials) < 0.15 < far(cold.trials)


def test_a_trial_that_lacks_a_dimension_is_left_out(tmp_path):
    past = study_in_memory(["maximize"])
    past.tell(past.ask({"x": optuna.distributions.FloatDistribution(0, 1)}), 0.5)
    events = followed(started(tmp_path, value, SPACE, warm_start=past, trials=1, **HOW))
    assert "learns from 0 of the 1 trials" in notes(events)[0]


def test_known_values_are_tried_first_and_known_results_are_not_tried(task, tmp_path):  # noqa: F811
    given = [{"lr": 0.02}, {"lr": 0.03}, ({"lr": 0.004}, 0.91)]
    found = sweep(task, LR, folder=tmp_path, trials=4, epochs=1, pruner="none", warm_start=given)
    assert [row.values["lr"] for row in found.trials][:2] == [0.02, 0.03] and len(found.trials) == 4
    assert [row.origin for row in found.trials] == ["queued", "queued", "sampled", "sampled"]
    known = [t for t in found.study.trials if EARLIER in t.system_attrs]
    assert [(t.params["lr"], t.value) for t in known] == [(0.004, 0.91)]


@pytest.mark.parametrize(
    "given, said",
    [
        ([{"x": 3.0}], "x takes 0.0..1.0 in this sweep, and got 3.0"),
        ([{"y": 0.5}], "does not search 'y'"),
        ([({"x": 0.5}, 1.0)], "kind is missing"),
        ([({"x": 0.5, "kind": "a"}, float("nan"))], "finite"),
        ([({"x": 0.5, "kind": "a"}, (1.0, 2.0))], "finite"),
        (study_in_memory(["minimize"]), "has the goal min, and this sweep value:max"),
        (study_in_memory(["maximize", "maximize"]), "has the goal max, max, and this sweep value:max"),
        ("nosuch", "nosuch"),
        ("oracel://me:secret@host/db", "not the URL of a database"),
    ],
)  # fmt: skip
def test_what_cannot_be_known_is_refused_before_the_first_trial(tmp_path, given, said):
    with pytest.raises((OptionError, RunError), match=said) as raised:
        started(tmp_path / "runs", value, SPACE, warm_start=given, **HOW)
    assert "\n" not in str(raised.value) and "secret" not in str(raised.value)
    assert not list((tmp_path / "runs").glob("*/run.json"))


def test_a_study_about_something_else_is_refused(task, tmp_path):  # noqa: F811
    past = sweep(task, LR, folder=tmp_path, trials=1, epochs=1, goal="valid_loss")
    with pytest.raises(OptionError, match="has the goal valid_loss:min, and this sweep accuracy:max"):
        sweep(task, LR, folder=tmp_path, trials=1, epochs=1, warm_start=past)
    with pytest.raises(OptionError, match="leave one of them out"):
        sweep(task, LR, folder=tmp_path, goal="valid_loss", warm_start=past, join=str(past.path))


@pytest.mark.parametrize("given", [3, [], [3], [({},), "x"]])
def test_what_is_no_study_and_no_values_is_refused(given):
    with pytest.raises(OptionError, match="--warm-start"):
        SweepOptions(warm_start=given)
