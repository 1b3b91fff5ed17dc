"What a user may get wrong with a sweep is said in a sentence, and no file of the user's is touched"

import math
import os
import shutil
import threading
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
import torch
from helpers import magic
from IPython.core.error import UsageError
from optuna.trial import TrialState
from test_sweep import LR, followed, of_type, started, task  # noqa: F401
from torch import nn

from trainopt_nb import Task, TrainOptions
from trainopt_nb.base.errors import OptionError, RunError, TrainoptError
from trainopt_nb.events.records import Note
from trainopt_nb.runs.run import Run
from trainopt_nb.search.pruners import RankPruner
from trainopt_nb.sweeps.no_effect import crowded
from trainopt_nb.sweeps.records import TrialEnded, TrialStarted
from trainopt_nb.sweeps.run_sweep import sweep
from trainopt_nb.sweeps.sweep import Sweep
from trainopt_nb.train.loop import train
from trainopt_nb.workers.processes import pickle_parts

pytestmark = pytest.mark.usefixtures("warm_process")
X = {"x": (0.0, 1.0)}


def value(trial):
    return trial.params["x"]


def said(events):
    return [note.text for note in of_type(events, Note)]


@pytest.mark.parametrize("content", [b"SQLite format 3\0\n\n", b"\x80\x04weights\nmore", b"to do\n"])
def test_a_file_that_is_no_journal_is_left_alone(tmp_path, content):
    path = tmp_path / "mine.db"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"mine.db is no journal of Optuna: .* sqlite:///mine.db"):
        sweep(value, X, goal="min", trials=2, folder=tmp_path / "runs", storage=path)
    assert path.read_bytes() == content and sorted(os.listdir(tmp_path)) == ["mine.db", "runs"]
    assert os.listdir(tmp_path / "runs") == []


def draws_twice(trial):
    return trial.suggest_float("x", 0, 1) + trial.suggest_int("x", 0, 3)


def draws_what_the_space_has(trial):
    return trial.suggest_float("x", 0, 5)


def draws_otherwise_than_the_space(trial):
    return trial.suggest_categorical("x", ["a", "b"])


def draws_the_same_twice(trial):
    return trial.suggest_float("x", 0, 1) + trial.suggest_float("x", 0, 1)


def test_a_name_that_is_drawn_in_two_ways_is_said(tmp_path):
    [twice] = sweep(draws_twice, goal="min", trials=1, folder=tmp_path).trials
    assert twice.state == "failed" and "draws 'x' twice, from numbers from 0.0 to 1.0" in twice.reason
    [other] = sweep(draws_otherwise_than_the_space, X, goal="min", trials=1, folder=tmp_path).trials
    assert "and the function draws it from the choices 'a', 'b'" in other.reason
    [same] = sweep(draws_the_same_twice, goal="min", trials=1, folder=tmp_path).trials
    assert same.result == [2 * same.values["x"]]
    events = followed(started(tmp_path, draws_what_the_space_has, X, goal=("min",), trials=3))
    assert sum("the space decides" in text for text in said(events)) == 1
    assert all(0 <= end.values[0] <= 1 for end in of_type(events, TrialEnded))


def test_what_is_searched_in_vain_is_said(task, tmp_path):  # noqa: F811
    space = {**LR, "momentum": (0.1, 0.9), "dropout": (0.0, 0.5), "label_smoothing": (0.0, 0.2)}
    events = followed(started(tmp_path, task, space, trials=1, epochs=1))
    vain = [text for text in said(events) if text.startswith("Searching")]
    assert [text.split()[1] for text in vain] == ["momentum", "dropout"] and "nesterov" in vain[0]
    space = {
        "momentum": (0.1, 0.9),
        "optimizer": ["adamw", "momentum"],
        "gamma": (0.1, 0.9),
        "schedule": ["step", "none"],
    }
    space["schedule"] = ["step", "cosine"]
    events = followed(started(tmp_path, task, space, trials=1, epochs=1))
    assert not any(text.startswith("Searching") for text in said(events))


def test_a_sweep_that_goes_on_searches_what_it_searched(tmp_path):
    found = sweep(value, X, goal="min", trials=2, folder=tmp_path)
    with pytest.raises(OptionError, match=r"searches x, and the space that was given has y"):
        sweep(value, {"y": (0, 1)}, goal="min", trials=3, folder=tmp_path, resume=found)
    events = followed(started(tmp_path, value, {"x": (0.0, 0.5)}, found.directory, goal=("min",), trials=3))
    assert any("goes on with x in 0.0..1.0" in text for text in said(events))
    moved = found.path.rename(tmp_path / "moved")
    again = sweep(value, X, goal="min", trials=4, folder=tmp_path, resume=Sweep(moved))
    assert [row.number for row in again.trials] == [0, 1, 2, 3]


def test_an_option_that_cannot_be_followed_is_said(tmp_path):
    with pytest.raises(OptionError, match=r"coarse-to-fine .* draws its values itself"):
        sweep(draws_the_same_twice, goal="min", trials=9, coarse_to_fine=True, folder=tmp_path)
    with pytest.raises(OptionError, match=r"--repeats .* with 2 goals"):
        sweep(value, X, goal="a:min,b:max", trials=9, repeats=2, folder=tmp_path)
    found = sweep(value, X, goal="min", trials=2, repeats=1, folder=tmp_path)
    assert [row.repeats for row in found.trials] == [None, None, *(row.repeats for row in found.trials[2:])]
    assert len(found.trials) == 4


def fails_alike(trial):
    raise KeyError("width")


def fails_at_first(trial):
    if trial.number < 4:
        raise KeyError("width")
    return 1.0


def test_a_sweep_ends_where_its_first_trials_all_fail_alike(tmp_path):
    with pytest.raises(RunError, match=r"first 5 trials all failed with the same error.*KeyError: 'width'"):
        sweep(fails_alike, X, goal="min", trials=50, folder=tmp_path)
    assert len(sweep(fails_at_first, X, goal="min", trials=8, folder=tmp_path).trials) == 8
    assert (
        len(sweep(lambda t: 1 / (t.number - t.number), X, goal="min", trials=4, folder=tmp_path).trials) == 4
    )


def test_an_infinite_value_is_said(tmp_path, capsys):
    found = sweep(lambda trial: -math.inf, X, goal="min", trials=1, folder=tmp_path)
    assert "trial 0: an infinite value is never the best" in capsys.readouterr().out
    assert "1 trial, none of them with a finite result" in repr(found)


def test_more_trials_at_once_than_cores_are_said():
    assert crowded(2, cores=2) == [] and (
        torch.cuda.is_available() or "share 2 cores" in crowded(8, cores=2)[0]
    )


def test_numbers_of_numpy_are_ranges_and_choices(tmp_path):
    space = {
        "x": (np.float32(0), np.float64(1)),
        "n": (np.int64(1), np.int64(4)),
        "c": [np.int64(1), np.int64(2)],
    }
    row = sweep(value, space, goal="min", trials=1, folder=tmp_path).best
    assert [type(row.values[name]) for name in "xnc"] == [float, int, int]
    for wrong in ({3: (0, 1)}, {"": (0, 1)}):
        with pytest.raises(OptionError, match=r"by texts"):
            sweep(value, wrong, goal="min", trials=1, folder=tmp_path)


def test_the_study_is_not_in_the_workers(tmp_path):
    [row] = sweep(lambda trial: trial.study.best_value, X, goal="min", trials=1, folder=tmp_path).trials
    assert "not in the worker processes" in row.reason


class Locked(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.lock = nn.Linear(8, 2), threading.Lock()

    def forward(self, x):
        return self.layer(x)


def test_what_cannot_travel_is_named(task, tmp_path):  # noqa: F811
    function = (lambda lock: lambda trial: lock)(threading.Lock())
    with pytest.raises(RunError, match=r"^lock in <lambda> is a lock, which cannot travel"):
        pickle_parts(function, {"the function": function})
    with pytest.raises(RunError, match=r"^model.lock is a lock, which cannot travel"):
        sweep(Task(Locked(), task.train_data, task.valid_data), LR, trials=2, folder=tmp_path)


def test_a_decimal_comma_is_named(tmp_path):
    with pytest.raises(OptionError, match=r"got '0,01'\. A number has a decimal point, not a comma: 0\.01\."):
        sweep(value, X, goal="min", lr="0,01", folder=tmp_path)
    with pytest.raises(OptionError, match=r"takes 1 to 1000000 trials, or none, and got 0"):
        sweep(value, X, goal="min", trials=0, folder=tmp_path)


def test_a_sweep_whose_directory_is_removed_keeps_its_study(tmp_path):
    handle = started(tmp_path / "runs", value, X, goal=("min",), trials=200, sampler="random")

    def remove(event, handle):
        if isinstance(event, TrialStarted) and event.number == 20:
            shutil.rmtree(handle.run.path)

    with pytest.raises(TrainoptError, match=r"What was kept of it \(log, study.log\) is in .*-rescued"):
        followed(handle, remove), handle.result()
    saved = Run(handle.run.path.with_name(f"{handle.run.name}-rescued"))
    assert saved.state == "failed"
    known = sum(trial.state is TrialState.COMPLETE for trial in Sweep(saved).study.trials)
    assert known >= 19
    again = sweep(
        value,
        X,
        goal="min",
        trials=known + 3,
        sampler="random",
        folder=tmp_path / "runs",
        resume=Sweep(saved),
    )
    assert sum(trial.state is TrialState.COMPLETE for trial in again.study.trials) == known + 3


CELL = """
import os
from torch import nn
os.chdir(elsewhere)
width = 4  #@param {type:"slider", min:2, max:8}
train_data = valid_data = data
model = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 2))
"""


@pytest.mark.parametrize("line", ["fit --epochs 1", "sweep --epochs 1 --trials 2 --storage study.log"])
def test_a_cell_that_changes_the_directory_leaves_its_run_where_it_began(shell, task, tmp_path, capsys, line):  # noqa: F811
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shell.user_ns.update(elsewhere=str(elsewhere), data=task.train_data)
    magic(shell, line, CELL)
    assert os.listdir(elsewhere) == [] and len(os.listdir(tmp_path / "runs")) == 1
    assert "The cell changed the working directory" in capsys.readouterr().out
    assert ("sweep" not in line) or (tmp_path / "study.log").is_file()


@pytest.mark.parametrize("line", ["fit --epochs 1", "sweep --epochs 1 --trials 2"])
def test_a_cell_whose_earlier_cells_did_not_run_is_said(shell, task, tmp_path, line):  # noqa: F811
    shell.user_ns.update(elsewhere=str(tmp_path), data=task.train_data)
    magic(shell, line, CELL)
    for name in ("data", "model", "train_data"):
        del shell.user_ns[name]
    with pytest.raises(UsageError, match=r"reads data, which nothing has defined here"):
        shell.find_line_magic("trainopt")(
            f"resume {shell.user_ns['run'].name if 'fit' in line else shell.user_ns['sweep'].name}"
        )


def test_the_best_trial_of_another_process_is_said(shell, task, tmp_path, capsys):  # noqa: F811
    study = optuna.create_study(study_name="s", storage=f"sqlite:///{tmp_path}/s.db", direction="maximize")
    shell.user_ns.update(elsewhere=str(tmp_path), data=task.train_data)
    magic(
        shell,
        f"sweep --epochs 1 --trials 1 --goal accuracy:max --storage sqlite:///{tmp_path}/s.db --study s",
        CELL,
    )
    study.add_trial(
        optuna.create_trial(
            value=2.0,
            params={"width": 8},
            distributions={"width": optuna.distributions.IntDistribution(2, 8)},
        )
    )
    capsys.readouterr()
    magic(shell, f"sweep --epochs 1 --trials 3 --goal accuracy:max --join sqlite:///{tmp_path}/s.db", CELL)
    out = capsys.readouterr().out
    assert "The best trial, 1 (accuracy" in out and "was trained by another process" in out
    found, run = shell.user_ns["sweep"], shell.user_ns["run"]
    assert found.best.number == 1 and run.path == found.path / found.best_here.run
    with pytest.raises(RunError, match=r"Trial 1 of .* has no run here: another process trained it"):
        found.run()


def test_the_frozen_cell_of_one_thread_needs_no_flag(shell, task, tmp_path, capsys):  # noqa: F811
    shell.user_ns.update(elsewhere=str(tmp_path), data=task.train_data)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        magic(shell, "sweep --epochs 1 --trials 1", CELL)
        assert shell.user_ns["run"].progress.started.threads == 1
        capsys.readouterr()
        shell.find_line_magic("trainopt")("freeze")
        assert "--threads" not in capsys.readouterr().out
    finally:
        torch.set_num_threads(before)


def test_a_run_may_be_in_the_working_directory(task, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    list(train(task, TrainOptions(epochs=1), folder="."))
    assert (tmp_path / "checkpoints").is_dir()


class Counted(dict):
    "Reports that count how often all of them are read"

    reads = 0

    def __iter__(self):
        Counted.reads += 1
        return super().__iter__()


def test_the_rank_pruner_reads_the_reports_of_an_ended_trial_once():
    study = optuna.create_study(direction="maximize")
    ended = [optuna.trial.create_trial(state=TrialState.COMPLETE, value=0.5) for _ in range(6)]
    for number, trial in enumerate(ended):
        trial.number, trial.intermediate_values = (
            number,
            Counted({step: 0.1 * number for step in range(1, 5)}),
        )
    own = optuna.trial.create_trial(state=TrialState.RUNNING)
    own.number, own.intermediate_values = 6, {step: 0.55 for step in range(1, 5)}
    known = SimpleNamespace(
        study_name=study.study_name, direction=study.direction, get_trials=lambda **_: [*ended, own]
    )
    pruner = RankPruner(0.25, 0)
    answers = [pruner.prune(known, own) for _ in range(3)]
    assert answers == [False] * 3 and Counted.reads == len(ended)
