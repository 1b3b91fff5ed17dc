"What the trials of one task share, and that it changes nothing"

import queue
import time
from collections import Counter
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from optuna.pruners import NopPruner
from optuna.samplers import TPESampler
from optuna.trial import TrialState, create_trial
from torch import nn

from trainopt_nb import Task, TrainOptions
from trainopt_nb.api import log as logging
from trainopt_nb.api import rescue as rescuing
from trainopt_nb.api.in_workers import Where
from trainopt_nb.base.errors import DataError, RunError
from trainopt_nb.events.progress import Progress
from trainopt_nb.events.records import Epoch, Note, Step, Stop
from trainopt_nb.runs.run import Run
from trainopt_nb.runs.writer import LogWriter
from trainopt_nb.search.foresight import Foreseen
from trainopt_nb.search.leased_study import LeasedStudy
from trainopt_nb.search.options import Goal, SweepOptions
from trainopt_nb.search.parse_space import as_space
from trainopt_nb.search.space_sampler import SpaceSampler
from trainopt_nb.search.study_storage import join_study, open_study
from trainopt_nb.store.checkpoint import load_checkpoint
from trainopt_nb.sweeps.line import Line, WorkerLine
from trainopt_nb.sweeps.messages import Answer, EndTrial, Outcome, Ready, Report, Reports, TrialSpec
from trainopt_nb.sweeps.objective import TaskObjective
from trainopt_nb.sweeps.records import TrialEnded, TrialReport, TrialStarted
from trainopt_nb.sweeps.run_sweep import plan_sweep, start_sweep
from trainopt_nb.sweeps.run_trial import Place, run_trial
from trainopt_nb.sweeps.study_trials import EndingTrials
from trainopt_nb.train import prepare as preparing
from trainopt_nb.train import saver as saving
from trainopt_nb.train.known_task import WITHOUT_EFFECT, KnownTask
from trainopt_nb.workers.channel import Channel

PLACE = Place("sweep", (Goal("accuracy", "max"),))


class Silent(Line):
    "Ends no trial"

    def ask(self, question):
        return [""]


def data(rows=96):
    x = torch.randn(rows, 8, generator=torch.Generator().manual_seed(1))
    return x, (x.sum(1) > 0).long()


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2))


def trained(objective, folder, *values, place=PLACE):
    "Train trials in this process, and return what is on the disk of each"
    for number, own in enumerate(values):
        outcome = run_trial(
            TrialSpec(number, own, own, str(folder / str(number))), objective, place, Silent()
        )
        assert outcome.state == "done", outcome
    return [left(Run(folder / str(number))) for number in range(len(values))]


def left(run):
    epochs = [e._replace(seconds=0, samples_per_second=0) for e in run.events() if isinstance(e, Epoch)]
    notes = [(e.level, e.text, e.topic) for e in run.events() if isinstance(e, Note)]
    _, weights, training, _ = load_checkpoint(run.path / "checkpoints")
    return epochs, notes, {n: w.tolist() for n, w in weights.items()}, training["step"], run.progress.state


@pytest.fixture
def tried(monkeypatch):
    "How often the first batch was tried"
    count, real = Counter(), preparing.try_task

    def counted(*arguments):
        count["times"] += 1
        return real(*arguments)

    monkeypatch.setattr(preparing, "try_task", counted)
    return count


VALUES = [
    {"lr": 0.01, "dropout": 0.1},
    {"lr": 0.1, "dropout": 0.5, "weight_decay": 0.1, "seed": 4},
    {"lr": 0.01, "label_smoothing": 0.2, "schedule": "onecycle", "optimizer": "sgd", "ema": 0.9},
]


def test_what_is_known_of_the_first_batch_changes_no_trial(tmp_path, tried):
    objective = TaskObjective(Task(net(), data(), data(48)), TrainOptions(epochs=3))
    (tmp_path / "known").mkdir(), (tmp_path / "anew").mkdir()
    known = trained(objective, tmp_path / "known", *VALUES)
    assert tried["times"] == 1
    objective.known = None
    assert known == trained(objective, tmp_path / "anew", *VALUES)
    assert tried["times"] == 1 + len(VALUES)


def test_an_option_that_changes_what_is_tried_has_it_tried(tmp_path, tried):
    objective = TaskObjective(Task(net(), data(), data(48)), TrainOptions(epochs=1))
    trained(
        objective, tmp_path, {"batch_size": 16}, {"batch_size": 32}, {"batch_size": 16}, {"freeze": ("0",)}
    )
    assert tried["times"] == 3
    assert {"batch_size", "loss", "freeze", "precision", "metrics", "class_weights"}.isdisjoint(
        WITHOUT_EFFECT
    )


def test_data_that_a_trial_spoilt_are_looked_at_again():
    train, known = data(), KnownTask()
    preparing.prepare(Task(net(), train), TrainOptions(), known=known)
    train[0][3] = float("nan")
    notes = preparing.prepare(Task(net(), train), TrainOptions(lr=0.1), known=known).notes
    assert any("NaN" in text or "not finite" in text for _, text in notes), notes
    train[1][0] = 7
    with pytest.raises(DataError, match="7"):
        preparing.prepare(Task(net(), train), TrainOptions(lr=0.2), known=known)


def test_what_the_user_s_own_code_decides_is_tried_each_time(tmp_path, tried):
    loss = lambda outputs, targets: nn.functional.cross_entropy(outputs, targets)
    objective = TaskObjective(Task(net(), data(), data(48)), TrainOptions(epochs=1, loss=loss))
    trained(objective, tmp_path, {"lr": 0.01}, {"lr": 0.1}, place=Place("s", (Goal("train_loss", "min"),)))
    assert tried["times"] == 2


def test_a_model_that_waits_for_its_shapes_gets_them_in_each_trial(tmp_path, tried):
    lazy = nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.LazyLinear(2))
    objective = TaskObjective(Task(lazy, data(), data(48)), TrainOptions(epochs=1))
    trained(objective, tmp_path, {"lr": 0.01}, {"lr": 0.1})
    assert tried["times"] == 2


def test_a_trial_that_cannot_begin_has_a_directory(tmp_path):
    objective = TaskObjective(Task(nn.Linear(5, 2), data()), TrainOptions())
    outcome = run_trial(TrialSpec(0, {}, {}, str(tmp_path / "0")), objective, PLACE, Silent())
    assert outcome.state == "failed" and "cannot take the first batch" in outcome.reason
    assert Run(tmp_path / "0").facts["type"] == "trial"


def test_a_report_that_decides_nothing_is_not_waited_for_but_one_is_the_most():
    commands, said = queue.SimpleQueue(), []
    line = WorkerLine(Channel(said.append, commands))
    line.ask_ahead(Reports([]))  # returns without an answer
    commands.put((EndTrial(1, "by hand"),))
    commands.put((Answer([""]),))
    line.ask_ahead(Reports([]))
    commands.put((Answer([""]),))
    commands.put((Answer("a trial"),))
    assert line.ask(Ready()) == "a trial" and line.ended(1) == "by hand"
    assert len(said) == 3


def test_a_trial_that_nothing_prunes_stands_still_while_its_sweep_is_paused(tmp_path):
    task = Task(net(), data(960), data(48))
    how = SweepOptions.of(trials=1, pruner="none", batch_trials="off")
    plan = plan_sweep(task, {"lr": (1e-4, 1e-1, "log")}, how=how, options=TrainOptions(epochs=200))
    handle, seen = start_sweep(plan, Where(tmp_path)), []
    try:
        for new in handle.events():
            seen += new
            if any(isinstance(event, TrialReport) for event in new):
                break  # nobody asks for the next event, as in a pause
        log = handle.run.path / "trials" / "0"
        told = max(e.step for e in seen if isinstance(e, TrialReport))
        time.sleep(1.0)
        assert Run(log).progress.epoch <= told + 3
        handle.send(Stop())
        for new in handle.events():
            seen += new
    finally:
        handle.close()
    (end,) = [e for e in seen if isinstance(e, TrialEnded)]
    assert end.state == "stopped" and end.epochs < 200


def test_a_report_that_no_pruner_waits_for_is_in_the_study_within_a_second(tmp_path):
    def objective(trial):
        trial.report(0.5, 1)
        time.sleep(60)
        return 0.5

    how = SweepOptions.of(trials=1, pruner="none", goal=("value:max",))
    handle = start_sweep(plan_sweep(objective, None, how=how, options=TrainOptions()), Where(tmp_path))
    seen = None
    try:
        for new in handle.events():
            if seen is None and any(isinstance(event, TrialReport) for event in new):
                seen = time.monotonic()
            trials = join_study(handle.run.path).trials if seen else []
            if trials and trials[0].intermediate_values:
                break
            assert seen is None or time.monotonic() - seen < 10
    finally:
        handle.close()
    assert trials[0].intermediate_values == {1: 0.5}


def short_sweep(folder, objective, trials=3):
    how = SweepOptions.of(trials=trials, sampler="random", pruner="none", goal=("value:max",))
    return start_sweep(plan_sweep(objective, None, how=how, options=TrainOptions()), Where(folder))


def test_a_stop_at_the_end_of_a_trial_loses_no_event_of_the_next_one(tmp_path):
    handle, stopped = short_sweep(tmp_path, lambda trial: trial.suggest_float("x", 0, 1), 50), False
    try:
        for new in handle.events():
            if not stopped and any(isinstance(event, TrialEnded) for event in new):
                handle.send(Stop())
                stopped = True
    finally:
        handle.close()
    events = handle.run.events()
    begun = [event.number for event in events if isinstance(event, TrialStarted)]
    assert sorted(begun) == sorted(event.number for event in events if isinstance(event, TrialEnded))
    assert begun == [trial.number for trial in join_study(handle.run.path).trials] and len(begun) < 10


def test_trials_that_have_ended_are_in_the_log_where_the_sweep_then_fails(tmp_path):
    handle = short_sweep(tmp_path, lambda trial: 1 / 0, 20)
    try:
        with pytest.raises(RunError, match="all failed with the same error"):
            for _ in handle.events():
                pass
    finally:
        handle.close()
    ends = [event.number for event in handle.run.events() if isinstance(event, TrialEnded)]
    assert ends == [0, 1, 2, 3, 4]


def test_a_trial_without_a_cell_has_no_signature_to_read(tmp_path, monkeypatch):
    looked = Counter()
    real = rescuing.is_signed
    monkeypatch.setattr(rescuing, "is_signed", lambda *a: looked.update(["times"]) or real(*a))
    trained(TaskObjective(Task(net(), data(), data(48)), TrainOptions(epochs=5)), tmp_path, {"lr": 0.01})
    assert not looked


def test_the_log_of_a_trial_is_written_seldom_and_has_everything_before_a_checkpoint(tmp_path, monkeypatch):
    written, saved, real, save = [], [], LogWriter.append, saving.save_checkpoint

    def append(self, events):
        written.append(len(events))
        real(self, events)

    def saved_checkpoint(folder, *arguments, **keywords):
        saved.append([type(event) for event in Run(folder.parent).events()].count(Epoch))
        return save(folder, *arguments, **keywords)

    monkeypatch.setattr(LogWriter, "append", append)
    monkeypatch.setattr(saving, "save_checkpoint", saved_checkpoint)
    monkeypatch.setattr(logging, "time", SimpleNamespace(perf_counter=lambda: 0.0, time=time.time))
    trained(TaskObjective(Task(net(), data(), data(48)), TrainOptions(epochs=5)), tmp_path, {"lr": 0.01})
    ends = [event.seconds for event in Run(tmp_path / "0").events() if isinstance(event, Epoch)]
    long = sum(end - begin > 0.1 for begin, end in pairwise([0.0, *ends]))  # on a busy machine
    assert len(ends) == 5 and len(written) <= 3 + long
    assert saved and set(saved) == {5}


@pytest.mark.parametrize("wait", [0.0, 0.1])
def test_events_that_are_taken_wait_for_the_disk_no_longer_than_they_may(tmp_path, monkeypatch, wait):
    now = [0.0]
    monkeypatch.setattr(logging, "time", SimpleNamespace(perf_counter=lambda: now[0], time=time.time))
    run = Run.create(tmp_path, "run", {})
    run.start_writing()
    log = logging.Log(run, Progress(run.name), wait=wait)
    for step in range(1, 11):
        now[0] = 0.03 * step
        log.new.append(Step(step, 0, 0.5, 0.1, 8, 0.0, 0.0))
        assert len(log.take()) == 1 and log.progress.step == step
        assert step - len(run.events()) <= (3 if wait else 0)
    log.write()
    assert len(run.events()) == 10 and not log.lost
    for seconds in (0.05, 0.5):
        log.new.append(Epoch(1, 10, 0.5, None, {}, 0.1, seconds, 100.0, False))
        log.take()
        assert len(run.events()) == (12 if seconds > 0.1 else 10 if wait else 11)
    run.stop_writing()


def test_the_last_report_of_a_trial_says_with_which_values_it_ends(tmp_path):
    told = []

    class Told(Silent):
        def ask(self, question):
            told.extend(question.reports)
            return [""]

    objective = TaskObjective(Task(net(), data(), data(48)), TrainOptions(epochs=4, lr=0.3))
    outcome = run_trial(TrialSpec(0, {}, {}, str(tmp_path / "0")), objective, PLACE, Told())
    assert [report.final for report in told] == [None, None, None, outcome.values]


SPACE = as_space({"lr": (1e-4, 1e-1, "log"), "width": [32, 64]})


def searched(folder, foresees, between):
    "What trials tried whose sampler chose before the trial in front had ended, or when it had"
    folder.mkdir()
    sampler = SpaceSampler(lambda space, changes: TPESampler(seed=3 + changes), SPACE)
    study = open_study("", "s", ["maximize"], sampler, NopPruner(), folder=folder)
    trials = EndingTrials(LeasedStudy(study, folder, lambda params: trials.again(params)), SPACE)
    tried = []
    for _ in range(17):
        made = trials.ask(0)
        tried.append(made.values)
        values = [-abs(made.values["lr"] - 0.01)]
        if foresees:
            trials.foresee(Report(made.number, 1, values, 0.1, values))
        between(trials, made, folder)
        if made.number in trials.running:
            trials.tell(Outcome(made.number, "done", values, 1, 0.1, ""))
    return tried


def at_some(act):
    return lambda trials, made, folder: (
        act(trials, made.number, folder) if made.number in (4, 11, 14) else None
    )


def add_another(trials, number, folder):
    "Add the trial of another process"
    params = {name: trials.values(number)[name] for name in ("lr", "width")}
    dims = trials.study.trials[number].distributions
    other = create_trial(
        state=TrialState.COMPLETE, value=1.0, params=params | {"lr": 0.05}, distributions=dims
    )
    join_study(folder).add_trial(other)


END = Outcome(0, "done", [0.5], 1, 0.1, "")


@pytest.mark.parametrize(
    ("act", "used"),
    [
        (lambda trials, number, folder: None, 16),
        (lambda trials, number, folder: trials.tell(END._replace(number=number)), 13),
        (
            lambda trials, number, folder: trials.tell(
                END._replace(number=number, state="failed", reason="x")
            ),
            13,
        ),
        (lambda trials, number, folder: trials.queue({"lr": 0.05, "width": 64}), 13),
        (lambda trials, number, folder: trials.change(trials.space.narrow("lr", high=0.2 / number)), 4),
        (add_another, 13),
    ],
    ids=["as foreseen", "another value", "failed", "queued", "changed", "of another process"],
)
def test_what_is_foreseen_counts_only_where_it_comes_and_no_trial_is_another(
    tmp_path, monkeypatch, act, used
):
    found, holds = [], Foreseen.holds
    monkeypatch.setattr(
        Foreseen, "holds", lambda self, trials: found.append(holds(self, trials)) or found[-1]
    )
    ahead = searched(tmp_path / "ahead", True, at_some(act))
    assert sum(found) == used
    assert ahead == searched(tmp_path / "now", False, at_some(act)) and len({x["lr"] for x in ahead}) > 13
