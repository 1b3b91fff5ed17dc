"The doctor in every training: told once, silent where it is asked to be, the same run to the last bit, and proven in a run that goes on"

import copy
import time
from itertools import pairwise

import pytest
import torch
from torch import nn

import trainopt_nb
from trainopt_nb.api.handle import LocalRun
from trainopt_nb.api.prepare_run import start
from trainopt_nb.events.found import Found, Tell, told_of
from trainopt_nb.events.progress import Progress
from trainopt_nb.events.records import Step
from trainopt_nb.insight import observer
from trainopt_nb.insight.silence import FILE, silence
from trainopt_nb.insight.step_mode import StepMode
from trainopt_nb.insight.training_doctor import Budget, TrainingDoctor, watch
from trainopt_nb.runs.report import report_html, report_text
from trainopt_nb.task.task import Task
from trainopt_nb.task.train_options import TrainOptions
from trainopt_nb.train.loop import Loop
from trainopt_nb.train.prepare import prepare

NAME = "probabilities_to_cross_entropy"


def task_of(*last, scale=1.0, valid=True):
    torch.manual_seed(0)
    x = torch.randn(256, 16) * scale
    y = (x[:, :4].sum(1) > 0).long()
    model = nn.Sequential(
        nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 2), *last
    )
    return Task(model, (x[:192], y[:192]), (x[192:], y[192:]) if valid else None)


def options_of(**more):
    return TrainOptions.of(**{"epochs": 3, "batch_size": 16, "device": "cpu", "threads": 1, **more})


def train(task, folder, **more):
    return start(task, options_of(**more), folder=folder, name="t").result()


def softmax_twice(folder, **more):
    return train(task_of(nn.Softmax(1)), folder, loss=nn.CrossEntropyLoss(), **more)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"accumulate": 2, "clip": 1.0},
        {"ema": 0.9, "precision": "bf16"},
        {"optimizer": "sgd", "schedule": "cosine"},
    ],
)
def test_a_run_is_the_same_to_the_last_bit(tmp_path, monkeypatch, more):
    monkeypatch.setattr(Budget, "due", lambda self, step: step % 2 == 0)
    runs, states = [], []
    for doctor in (True, False):
        task = task_of()
        runs.append(train(task, tmp_path, doctor=doctor, **more))
        states.append({**task.model.state_dict(), "drawn": torch.rand(3)})
    rows = [[(e.epoch, e.train_loss, e.valid_loss, e.metrics) for e in run.progress.epochs] for run in runs]
    assert rows[0] == rows[1] and len(rows[0]) == 3
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])


def test_what_is_certain_is_told_once_before_the_second_step(tmp_path):
    run = softmax_twice(tmp_path)
    events = list(run.events())
    told = [event for event in events if type(event) is Found]
    assert [(found.name, found.confidence) for found in told] == [(NAME, "exact")]
    assert not any(type(event) is Step and event.step > 1 for event in events[: events.index(told[0])])
    assert not [note for note in run.progress.notes if "leave out" in note.text]
    for text in (report_text(run.progress), report_html(run.progress)):
        assert "softmax" in text


def test_a_remark_of_the_checks_stays_where_the_doctor_does_not_look(tmp_path):
    run = softmax_twice(tmp_path, doctor=False)
    assert [note.topic for note in run.progress.notes if "leave out" in note.text] == ["twice"] and told_of(
        run.progress
    ) == []


def test_silenced_findings_stay_silent_in_later_runs(tmp_path):
    assert told_of(softmax_twice(tmp_path, silence=NAME).progress) == []
    silence(NAME, tmp_path)
    run = softmax_twice(tmp_path)
    assert told_of(run.progress) == [] and not [note for note in run.progress.notes if "softmax" in note.text]
    (tmp_path / FILE).unlink()
    assert told_of(softmax_twice(tmp_path).progress)


def test_proposals_are_kept_and_not_told(tmp_path, monkeypatch):
    monkeypatch.setattr(Budget, "due", lambda self, step: True)
    said = []
    task = task_of(scale=500.0)
    bare = nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 2))
    run = trainopt_nb.fit(
        bare,
        task.train_data,
        task.valid_data,
        folder=tmp_path,
        write=said.append,
        lr=0.1,
        optimizer="sgd",
        epochs=2,
        device="cpu",
    )
    found = run.progress.parts["found"]["unscaled_inputs"]
    assert found.confidence == "proposed" and found.triable and not any("scaled" in line for line in said)
    assert "scaled" not in report_text(run.progress)


def test_a_proof_is_written_into_a_run_that_goes_on_and_stays_when_it_is_resumed(tmp_path):
    handle = start(task_of(nn.Softmax(1)), options_of(loss=nn.CrossEntropyLoss(), epochs=20), folder=tmp_path)
    assert type(handle) is LocalRun
    events, sent = handle.events(), False
    for _ in events:
        if told_of(handle.progress) and not sent:
            (found,) = told_of(handle.progress)
            proof = {"metric": "accuracy", "steps": 66, "before": [0.2, 0.3], "after": [0.9, 0.8]}
            handle.send(Tell(found._replace(proof=proof)._asdict()))
            sent = True
    handle.close()
    (found,) = told_of(handle.run.progress)
    assert found.proof == proof and "Tried" in report_text(handle.run.progress)
    again = Progress().add([*handle.run.events(), found._replace(proof={})])
    assert told_of(again) == [found]


def test_a_proof_that_is_none_is_refused(tmp_path):
    handle = start(task_of(), options_of(epochs=8), folder=tmp_path)
    handle.send(Tell({"name": "x", "text": 3}))
    handle.result()
    assert any("is not written down" in note.text for note in handle.progress.notes)


def test_the_doctor_stays_away_where_it_cannot_look():
    loop = lambda **more: Loop(prepare(task_of(), options_of(**more)), options_of(**more))
    assert type(watch(loop())) is TrainingDoctor and watch(loop(doctor=False)) is None
    trial = type("Run", (), {"run_type": "trial"})()
    assert watch(loop(), trial) is None


def test_looks_are_far_apart_where_steps_are_short(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    budget, looks = Budget(), []
    for step in range(20_000):
        now[0] += 0.001
        if budget.due(step):
            now[0] += 0.006
            looks.append(step)
            budget.looked(step, 0.007, 0.006)
        else:
            budget.plain(0.001)
    assert looks[:2] == [0, 1] and budget.spent <= 0.02 * now[0] + 0.006
    assert min(b - a for a, b in pairwise(looks[2:])) >= 200


def test_functions_are_put_back_where_a_run_ends_early():
    loop = Loop(prepare(task_of(), options_of()), options_of())
    plain, seen, events = loop.state.stepper.forward_backward, watch(loop), loop.events()
    for event in events:
        seen.see(event)
        if seen.looking:
            break
    copy.deepcopy(loop.prepared.model)  # nothing of the doctor hangs on it between steps
    assert loop.state.stepper.forward_backward != plain
    seen.close()
    events.close()
    hooks = [h for m in loop.prepared.model.modules() for h in (m._forward_hooks, m._forward_pre_hooks)]
    assert loop.state.stepper.forward_backward == plain and not any(hooks)
    assert not torch.overrides._get_current_function_mode_stack()


@pytest.mark.parametrize(
    "part", [(StepMode, "ran_through"), (observer, "Weights")], ids=["hook", "beginning"]
)
def test_a_look_that_fails_never_ends_the_training(tmp_path, monkeypatch, part):
    def fails(*args):
        raise RuntimeError("cannot be read")

    monkeypatch.setattr(*part, fails)
    run = train(task_of(), tmp_path)
    (note,) = [note for note in run.progress.notes if note.topic == "doctor"]
    assert run.state == "finished" and "cannot be read" in note.text and note.level == "info"
