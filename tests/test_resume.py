"""A run that is stopped and goes on equals the uninterrupted one to the last bit (FAULTS 10)

Weights, optimizer, random numbers, recorded losses and figures are compared, for every kind of data and every kind of recipe, with
stops at an epoch's edge, within an epoch and within a validation, by command and by closing; in this process and in a fresh one.
"""

import json
import re
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch
from helpers import LONG, RECIPES, SOURCES, follow, go_on, options, outcome, quiet, record, task
from torch import nn
from warm_python import python

from trainopt_nb import Task, fit, resume
from trainopt_nb.events.records import Ended, Epoch, Heartbeat, LrChanged, Save, Saved, SetLr, State, Step
from trainopt_nb.store.checkpoint import load_checkpoint
from trainopt_nb.train.loop import train
from trainopt_nb.train.prepare import prepare

PLACES = {
    "within an epoch": lambda e: type(e) is Step and e.step == (2 if e.step < 4 else 5),
    "at an epoch's edge": lambda e: type(e) is Epoch and e.epoch == 1,
    "within a validation": lambda e: type(e) is Heartbeat and e.step > 3,
}
CASES = [(source, "plain") for source in SOURCES] + [
    ("memory", recipe) for recipe in RECIPES if recipe != "plain"
]
CASES += [("dataset in two workers", "accumulated"), ("weighted sampler", "averaged, accumulated, clipped")]
CASES += [
    ("iterable dataset", "accumulated"),
    ("stateful loader", "averaged"),
    ("list of batches", "plateau"),
]
UNLENGTHY = (
    "iterable dataset",
    "loader of an iterable dataset",
)  # schedules that need a length are given one


def case(source, recipe, seed=1):
    made, how = task(source, recipe, seed)
    return made, how.replace(max_steps=11) if source in UNLENGTHY and recipe != "plain" else how


@cache
def whole(source, recipe):
    "The uninterrupted run"
    with tempfile.TemporaryDirectory() as folder:
        made, how = case(source, recipe)
        events = follow(train(made, how, folder))
        assert events[-1].state == "finished", events[-1]
        return outcome(folder, made.model, events)


def stop(folder, source, recipe, place, how="stop"):
    made, given = case(source, recipe)
    events = follow(train(made, given, folder), PLACES[place], how)
    assert how == "close" or events[-1].state == "stopped", (place, events[-1])
    assert not made.model.training
    return events


def changes(source, recipe):
    return {"max_steps": 11} if source in UNLENGTHY and recipe != "plain" else {}


def stops():
    "Every case at every place; all but one place of each case may take long"
    for number, (source, recipe) in enumerate(CASES):
        for other, place in enumerate(PLACES):
            short = (other - number) % len(PLACES) == 0 and source not in LONG
            marks = [] if short else [pytest.mark.slow]
            yield pytest.param(source, recipe, place, marks=marks, id=f"{source}-{recipe}-{place}")


@pytest.mark.parametrize(("source", "recipe", "place"), [*stops()])
def test_stopped_and_resumed_is_uninterrupted(source, recipe, place, tmp_path):
    if recipe == "no validation" and place == "within a validation":
        place = "at an epoch's edge"
    before = stop(tmp_path, source, recipe, place)
    model, after = go_on(tmp_path, source, recipe, **changes(source, recipe))
    assert outcome(tmp_path, model, before + after) == whole(source, recipe)


@pytest.mark.parametrize("place", PLACES)
def test_closed_and_resumed_is_uninterrupted(place, tmp_path):
    before = stop(tmp_path, "dataset", "averaged", place, how="close")
    model, after = go_on(tmp_path, "dataset", "averaged")
    assert outcome(tmp_path, model, before + after) == whole("dataset", "averaged")


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])
def test_in_a_fresh_process(every, tmp_path):
    for number, (source, recipe) in enumerate(CASES[::every]):
        place = list(PLACES)[number % 3]
        place = "within an epoch" if recipe == "no validation" else place
        stop(tmp_path / str(number), source, recipe, place)
    subprocess.run(python(__file__, tmp_path, every), check=True, cwd=Path(__file__).parent)
    told = json.loads((tmp_path / "outcomes.json").read_text())
    for number, (source, recipe) in enumerate(CASES[::every]):
        expected = whole(source, recipe)
        assert told[number] == {k: expected[k] for k in ("model", "last", "best")}, (source, recipe)


def test_every_step_is_a_place_to_stop(tmp_path):
    "With stops all along, one after the other"
    expected, events = whole("weighted sampler with its own generator", "plain"), []
    made, how = case("weighted sampler with its own generator", "plain")
    events += follow(train(made, how, tmp_path), lambda e: type(e) is Step)
    model = made.model
    for _ in range(30):
        if events[-1].state == "finished":
            break
        made, how = case("weighted sampler with its own generator", "plain", seed=50)
        _, *checkpoint, _ = load_checkpoint(tmp_path / "checkpoints", "last")
        events += follow(
            train(made, how, tmp_path, checkpoint=tuple(checkpoint)), lambda e: type(e) in (Step, Epoch)
        )
        model = made.model
    assert outcome(tmp_path, model, events) == expected


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])
def test_every_event_is_a_place_to_close(every, tmp_path):
    expected, count = whole("memory", "averaged, accumulated, clipped"), 1 - every
    while True:
        count += every
        folder = tmp_path / str(count)
        made, how = case("memory", "averaged, accumulated, clipped")
        left = [count]

        def here(event, left=left):
            left[0] -= 1
            return left[0] == 0

        before = follow(train(made, how, folder), here, how="close")
        if left[0] > 0:
            break
        model, after = go_on(folder, "memory", "averaged, accumulated, clipped")
        found = outcome(folder, model, before + after)
        if type(before[-1]) is Ended:  # nothing was left to do; going on says so once more
            found["ended"] = expected["ended"]
        assert found == expected, (count, before[-1])
    assert count > 20


def test_saving_by_hand_while_the_average_is_judged(tmp_path):
    "The checkpoint holds the weights of the run, not the average that stands in for them meanwhile"
    made, how = case("dataset", "averaged")
    asked = iter([Save()])
    events = follow(
        train(made, how.replace(save_seconds=1e6), tmp_path),
        command=lambda e: next(asked, None) if type(e) is Heartbeat and e.step > 8 else None,
    )
    saved = [e for e in events if type(e) is Saved]
    assert [e.step for e in saved][:3] == [0, 7, 14] and record(events) == whole("dataset", "averaged")[
        "record"
    ]
    made, _ = case("dataset", "averaged", seed=5)
    _, *checkpoint, _ = load_checkpoint(tmp_path / "checkpoints", 14)
    after = follow(train(made, how, tmp_path, checkpoint=tuple(checkpoint)))
    assert outcome(tmp_path, made.model, events + after) == whole("dataset", "averaged")


def test_a_learning_rate_set_by_hand_survives(tmp_path):
    def by_hand(event):
        return SetLr(0.02) if type(event) is Step and event.step == 3 else None

    runs = []
    for name, stop_at in (("whole", None), ("cut", lambda e: type(e) is Step and e.step == 9)):
        made, how = case("memory", "accumulated")
        how = how.replace(epochs=5)
        events = follow(train(made, how, tmp_path / name), stop_at, command=by_hand)
        assert [e.lr for e in events if type(e) is LrChanged] == [0.02]
        if stop_at:
            made, _ = case("memory", "accumulated", seed=8)
            _, *checkpoint, _ = load_checkpoint(tmp_path / name / "checkpoints", "last")
            events += follow(train(made, how, tmp_path / name, checkpoint=tuple(checkpoint)))
        runs.append(outcome(tmp_path / name, made.model, events))
    assert runs[0] == runs[1]
    steps = [r for r in runs[0]["record"] if r[0] == "step"]
    assert steps[3][4] == pytest.approx(0.02) and steps[-1][4] < 0.001  # the schedule went on from there


def test_an_option_that_is_changed_at_the_resume_holds(tmp_path):
    before = stop(tmp_path, "memory", "plain", "at an epoch's edge")
    _model, after = go_on(tmp_path, "memory", "plain", lr=1e-5, weight_decay=0.5)
    assert {e.lr for e in before if type(e) is Step} == {3e-3}
    assert {e.lr for e in after if type(e) is Step} == {1e-5}
    _, _, training, _ = load_checkpoint(tmp_path / "checkpoints", "last")
    assert [g["weight_decay"] for g in training["optimizer"]["param_groups"]] == [0.5, 0.0]


class GrowingNoise(nn.Module):
    "A device transform that keeps how often it was called, and draws random numbers"

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, batch, training):
        inputs, labels = batch
        if training:
            self.calls += 1
            inputs = inputs + 0.01 * self.calls * torch.randn_like(inputs)
        return inputs, labels


@pytest.mark.parametrize("place", PLACES)
def test_device_transforms_go_on(place, tmp_path):
    def prepared():
        made, how = task("memory", "accumulated")
        return prepare(made, how, device_transforms=[GrowingNoise()]), how

    (one, how), (two, _), (three, _) = prepared(), prepared(), prepared()
    whole = follow(train(one, how, tmp_path / "one"))
    assert follow(train(two, how, tmp_path / "two"), PLACES[place], "stop")[-1].state == "stopped"
    _, model_state, training, _ = load_checkpoint(tmp_path / "two" / "checkpoints")
    assert 0 < training["device_transforms"]["states"][0]["calls"] < one.device_transforms[0].calls
    assert (
        follow(train(three, how, tmp_path / "two", checkpoint=(model_state, training)))[-1].state
        == "finished"
    )
    assert whole[-1].state == "finished"
    assert three.device_transforms[0].calls == one.device_transforms[0].calls
    pairs = zip(one.model.state_dict().values(), three.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("first, then", [({"ema": 0.9}, {"ema": None}), ({"ema": None}, {"ema": 0.9})])
def test_the_average_may_be_turned_on_and_off_at_a_resume(first, then, tmp_path):
    made, how = task()
    follow(train(made, how.replace(**first), tmp_path), PLACES["at an epoch's edge"])
    _model, events = go_on(tmp_path, "memory", "plain", **then)
    assert events[-1].state == "finished" and events[-2].best in (True, False)
    assert min(e.valid_loss for e in events if type(e) is Epoch) < 2.2


# --- the best epoch


def best_of(script, tmp_path, stop_at=None, save_seconds=1e6, how="stop", watch=None, **more):
    "Train a run whose figure is scripted by a metric; returns weights of each epoch and the run's last events"
    import torchmetrics

    class Figure(torchmetrics.Metric):
        higher_is_better = True

        def __init__(self):
            super().__init__()
            self.value = None

        def update(self, scores, targets):
            pass

        def compute(self):
            return torch.tensor(float(next(script)))

    script = iter([0.0, *script])  # the metric is tried out once before the training
    torch.manual_seed(0)
    model = nn.Linear(64, 10)
    made = Task(model, (torch.rand(32, 64), torch.arange(32) % 10), (torch.rand(8, 64), torch.arange(8) % 10))
    asked = options(epochs=6, metrics=[Figure()], save_seconds=save_seconds, **more)
    weights = {}

    def note(event):
        if type(event) is Epoch:
            weights[event.epoch] = model.weight.detach().clone()
        if watch:
            watch(event)

    events = follow(train(made, asked, tmp_path), stop_at, how, command=note)
    return made, asked, weights, events


@pytest.mark.parametrize("save_seconds", [0.0, 1e6])
@pytest.mark.parametrize("save_steps", [None, 1, 2, 5])
@pytest.mark.parametrize("best", [1, 3, 6])
def test_the_best_epoch_comes_back(best, save_steps, save_seconds, tmp_path):
    script = [1.0 if n == best else 0.5 / (n + 1) for n in range(1, 7)]
    made, _, weights, events = best_of(
        script, tmp_path, save_seconds=save_seconds, save_steps=save_steps, keep=1
    )
    assert events[-1].state == "finished"
    assert torch.equal(made.model.weight, weights[best])
    checkpoint, state, _, lost = load_checkpoint(tmp_path / "checkpoints", "best")
    assert not lost and checkpoint.step == 2 * best and torch.equal(state["weight"], weights[best])


@pytest.mark.parametrize("how", ["stop", "close"])
@pytest.mark.parametrize("place", [Epoch, State])
def test_a_best_epoch_is_marked_wherever_the_run_stops(place, how, tmp_path):
    "The row of the best epoch, or the state right before the next validation, is the last that is heard"
    script = [0.2, 0.9, 0.1, 0.1, 0.1, 0.1]
    torch.manual_seed(0)
    seen = []

    def here(event):
        seen.append(event)
        rows = [e for e in seen if type(e) is Epoch]
        return type(event) is place and len(rows) == 2

    _made, _options, weights, _ = best_of(script, tmp_path, stop_at=here)
    _, *checkpoint, _ = load_checkpoint(tmp_path / "checkpoints", "last")
    assert checkpoint[1]["best_epoch"] == 2
    found, state, _, lost = load_checkpoint(tmp_path / "checkpoints", "best")
    assert not lost and found.step == 4 and torch.equal(state["weight"], weights[2])


def test_a_damaged_best_checkpoint_is_said(tmp_path):
    def spoil(event):
        if type(event) is Epoch and event.epoch == 5:
            for found in (tmp_path / "checkpoints").glob("*"):
                if json.loads((found / "state.json").read_text())["best"]:
                    (found / "model.safetensors").write_bytes(b"gone")

    _, _, _, events = best_of(
        [0.2, 0.9, 0.1, 0.1, 0.1, 0.1], tmp_path, watch=spoil, save_seconds=0.0, keep=10
    )
    assert events[-1].state == "finished"
    said = [e.text for e in events if getattr(e, "topic", "") == "restore"]
    assert len(said) == 2 and all("damaged" in sentence for sentence in said)


def test_patience_counts_across_a_resume(tmp_path):
    script = [0.9, 0.1, 0.1, 0.1, 0.1, 0.1]
    seen = []

    def here(event):
        seen.append(event)
        return type(event) is Epoch and event.epoch == 3

    made, how, _, events = best_of(script, tmp_path, stop_at=here, patience=2)
    assert events[-1].state == "stopped" and events[-1].epoch == 3
    _, *checkpoint, _ = load_checkpoint(tmp_path / "checkpoints", "last")
    after = follow(train(made, how, tmp_path, checkpoint=tuple(checkpoint)))
    assert not [e for e in after if type(e) is Step]  # nothing was left to do
    assert after[-1][:4] == (
        "finished",
        6,
        3,
        "accuracy did not improve for 2 epochs".replace("accuracy", "figure"),
    )


# --- the plain calls


def test_fit_and_resume_keep_one_record(tmp_path):
    made, how = task("weighted sampler", "accumulated")
    given = {**how.changed(), "epochs": 2}
    run = fit(made.model, made.train_data, made.valid_data, folder=tmp_path, write=quiet, **given)
    again, _ = task("weighted sampler", "accumulated", seed=9)
    said = []
    back = resume(
        run.name,
        again.model,
        again.train_data,
        again.valid_data,
        folder=tmp_path,
        epochs=4,
        write=said.append,
    )
    assert back.path == run.path and back.state == "finished"
    steps = [e.step for e in back.events() if type(e) is Step]
    assert steps == list(range(1, 17)) and [e.epoch for e in back.events() if type(e) is Epoch] == [
        1,
        2,
        3,
        4,
    ]
    epochs = [line for line in said if re.match(r"epoch \d+/4  train", line)]
    assert len(epochs) == 2 and back.options["epochs"] == 4


def test_an_interrupted_fit_goes_on_as_if_nothing_had_happened(tmp_path):
    "SIGINT in the middle ends it after the step under way; then the public call"
    import os
    import signal

    class Interrupting(nn.Sequential):
        calls = 0

        def forward(self, x):
            self.calls += self.training
            if self.training and self.calls == 10:
                os.kill(os.getpid(), signal.SIGINT)
            return super().forward(x)

    made, how = task("dataset", "plain")
    model = Interrupting(*made.model)
    run = fit(model, made.train_data, made.valid_data, folder=tmp_path, write=quiet, **how.changed())
    assert run.state == "stopped" and run.progress.step == 10
    again, _ = task("dataset", "plain", seed=9)
    done = resume(run, again.model, again.train_data, again.valid_data, write=quiet)
    assert done.state == "finished"
    assert outcome(run.path, again.model, run.events())["record"] == whole("dataset", "plain")["record"]


if __name__ == "__main__":  # the fresh process
    folder, every, told = Path(sys.argv[1]), int((*sys.argv, 1)[2]), []
    for number, (source, recipe) in enumerate(CASES[::every]):
        model, events = go_on(folder / str(number), source, recipe, **changes(source, recipe))
        found = outcome(folder / str(number), model, events)
        told.append({k: found[k] for k in ("model", "last", "best")})
    (folder / "outcomes.json").write_text(json.dumps(told))
