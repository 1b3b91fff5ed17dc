"""A run that `max_steps` ended goes on with more steps as if it had had them from the beginning, to the last bit

The end may lie within an epoch, at its edge or in its validation. Weights, optimizer, random numbers, the position in the data, recorded
losses, figures and the best epoch are compared. Where a schedule follows the number of updates, the difference is said.
"""

import tempfile
from functools import cache

import pytest
import torch
from helpers import LONG, RECIPES, SOURCES, X, Y, follow, go_on, options, outcome, quiet, record, task
from test_exact import DATA, SETTINGS
from test_exact import go_on as go_on_with
from test_exact import made as setting
from torch import nn

from trainopt_nb import RunError, Task, fit, resume
from trainopt_nb.api.prepare_run import start
from trainopt_nb.events.progress import Progress
from trainopt_nb.events.records import Ended, Epoch, Heartbeat, Note, Started, Step
from trainopt_nb.store.checkpoint import checkpoints, load_checkpoint
from trainopt_nb.train.commands import earlier_commands
from trainopt_nb.train.loop import train

ENDS = {
    "within an epoch": 4,
    "at the edge of an epoch": 7,
    "within the next epoch": 9,
}  # of seven updates each
LENGTHLESS = [
    name for name in RECIPES if RECIPES[name].get("schedule") not in ("cosine", "onecycle", "linear")
]
CASES = [(source, "plain") for source in SOURCES] + [
    ("memory", name) for name in LENGTHLESS if name != "plain"
]
CASES += [
    ("dataset in two workers", "averaged, accumulated, clipped"),
    ("weighted sampler", "averaged, accumulated, clipped"),
]


@cache
def whole(source, recipe):
    "A run that has all steps from the beginning"
    with tempfile.TemporaryDirectory() as folder:
        made, how = task(source, recipe)
        events = follow(train(made, how.replace(max_steps=17), folder))
        assert events[-1].state == "finished", events[-1]
        return outcome(folder, made.model, events)


def cases():
    "Every case at every end; all but one end of each case may take long"
    for number, (source, recipe) in enumerate(CASES):
        for other, end in enumerate(ENDS):
            short = (other - number) % len(ENDS) == 0 and source not in LONG
            marks = [] if short else [pytest.mark.slow]
            yield pytest.param(source, recipe, ENDS[end], marks=marks, id=f"{source}-{recipe}-{end}")


@pytest.mark.parametrize(("source", "recipe", "end"), [*cases()])
def test_more_steps_are_those_of_a_run_that_had_them(source, recipe, end, tmp_path):
    end = (
        -(-3 * end // 7) if "accumulated" in recipe else end
    )  # three updates an epoch, of three batches each
    made, how = task(source, recipe)
    before = follow(train(made, how.replace(max_steps=end), tmp_path))
    assert before[-1].state == "finished" and before[-1].reason == f"all {end} steps are done"
    model, after = go_on(tmp_path, source, recipe, max_steps=17)
    assert outcome(tmp_path, model, before + after) == whole(source, recipe)


def of_settings():
    "Every place where the user's code keeps state, at one end; the others may take long"
    for number, name in enumerate(SETTINGS):
        for end in (3, 5, 7):  # of five updates each
            short = (
                name not in LONG
                and name in (*DATA, "BufferMadeLate", "buffers of a loss")
                and end == (3, 5, 7)[number % 3]
            )
            yield pytest.param(name, end, marks=[] if short else [pytest.mark.slow], id=f"{name}-{end}")


@pytest.mark.parametrize(("name", "end"), [*of_settings()])
def test_what_the_users_code_keeps_goes_on(name, end, tmp_path):
    found, more = [], {"schedule": "constant", "warmup": 0.0}
    for folder, first in (("whole", None), ("cut", end)):
        made, how = setting(name, 1)
        before = follow(train(made, how.replace(**more, max_steps=first), tmp_path / folder))
        assert before[-1].state == "finished", before[-1]
        if first:
            made.model, after = go_on_with(name, tmp_path / folder, before, **more)
        found.append(outcome(tmp_path / folder, made.model, before + after if first else before))
    assert found[0] == found[1]


@pytest.mark.parametrize("more", [{}, {"valid_fraction": 0.2}], ids=["all data", "with a hold-out"])
@pytest.mark.parametrize("recipe", ["onecycle", "augmented"])
@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])
def test_every_event_is_a_place_to_close(every, recipe, more, tmp_path):
    "Thirteen steps are more than an epoch, and with the hold-out more than two"
    recipes = {
        "onecycle": {"schedule": "onecycle", "ema": 0.8},
        "augmented": {"augment": "flip noise", "patience": 2},
    }
    given = {"max_steps": 13, "batch_size": 8, "epochs": 9, **recipes[recipe], **more}

    def made():
        torch.manual_seed(0)
        layers = (
            nn.Flatten(),
            nn.Linear(64, 8),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(8, 10),
        )
        return Task(nn.Sequential(*layers), (X[:60].view(-1, 1, 8, 8), Y[:60])), options(**given)

    def goes_on(folder, before):
        (again, how), (_, *checkpoint, _) = made(), load_checkpoint(folder / "checkpoints", "last")
        earlier = earlier_commands(before, checkpoint[1])
        return again.model, follow(train(again, how, folder, checkpoint=tuple(checkpoint), earlier=earlier))

    first, how = made()
    events = follow(train(first, how, tmp_path / "whole"))
    expected = outcome(tmp_path / "whole", first.model, events)
    assert events[-1].reason == "all 13 steps are done"
    for count in range(1, len(events), every):
        folder, left = tmp_path / str(count), [count]

        def here(event, left=left):
            left[0] -= 1
            return left[0] == 0

        cut, how = made()
        before = follow(train(cut, how, folder), here, how="close")
        model, after = goes_on(folder, before)
        assert outcome(folder, model, before + after) == expected, (count, before[-1])


# --- the best epoch


def scripted(values, folder, steps, checkpoint=None, **more):
    "Train a run of two updates an epoch whose figure is scripted, and return its model and events"
    import torchmetrics

    class Figure(torchmetrics.Metric):
        higher_is_better = True

        def update(self, scores, targets):
            pass

        def compute(self):
            return torch.tensor(float(next(script)))

    script = iter([0.0, *values])  # the metric is tried out once before the training
    torch.manual_seed(0)
    model = nn.Linear(64, 10)
    made = Task(model, (X[:48], Y[:48]), (X[60:70], Y[60:70]))
    how = options(epochs=9, metrics=[Figure()], max_steps=steps, keep=1, **more)
    return model, follow(train(made, how, folder, checkpoint=checkpoint))


@pytest.mark.parametrize("save_seconds", [0.0, 1e6])
def test_the_best_weights_within_an_epoch_are_the_best_until_it_goes_on(save_seconds, tmp_path):
    "The first epoch is the best one that is whole; its checkpoint is kept, though one alone is asked for"
    more = {"save_seconds": save_seconds}
    model, before = scripted([0.5, 0.9], tmp_path, 4, **more)
    assert [(e.epoch, e.step, e.best) for e in before if type(e) is Epoch] == [(1, 3, True), (2, 4, True)]
    best = load_checkpoint(tmp_path / "checkpoints", "best")
    assert best[0].step == 4 and torch.equal(best[1]["weight"], model.weight)
    _, *checkpoint, _ = load_checkpoint(tmp_path / "checkpoints", "last")
    model, after = scripted([0.4, 0.3, 0.2], tmp_path, 11, tuple(checkpoint), **more)
    assert [(e.epoch, e.step, e.best) for e in after if type(e) is Epoch] == [
        (2, 6, False), (3, 9, False), (4, 11, False)
    ]  # fmt: skip
    best = load_checkpoint(tmp_path / "checkpoints", "best")
    assert best[0].step == 3 and torch.equal(best[1]["weight"], model.weight) and not best[3]
    assert [c.step for c in checkpoints(tmp_path / "checkpoints")] == [11, 3]


# --- what the user reads


def small(folder, **more):
    torch.manual_seed(0)
    given = {"write": quiet, "batch_size": 16, "metrics": "none", "device": "cpu", **more}
    return fit(nn.Linear(64, 10), (X[:80], Y[:80]), (X[80:110], Y[80:110]), folder=folder, **given)


def longer(run, **more):
    model = nn.Linear(64, 10)
    return resume(run, model, (X[:80], Y[:80]), (X[80:110], Y[80:110]), write=quiet, **more), model


def said(run):
    return [e.text for e in run.events() if type(e) is Note and e.topic == "resume"]


def test_a_record_holds_each_epoch_once(tmp_path):
    run, _ = longer(small(tmp_path, max_steps=8), max_steps=14)
    through = small(tmp_path, max_steps=14)
    assert [(row["epoch"], row["step"]) for row in run.history] == [(1, 5), (2, 10), (3, 14)]
    assert record(run.events()) == record(through.events()) and not said(run)
    assert run.progress.curves["valid loss"].x == through.progress.curves["valid loss"].x == [5, 10, 14]
    assert run.summary.best_epoch == through.summary.best_epoch


def test_an_epoch_that_was_logged_and_not_saved_is_logged_once():
    "Stopped within the validation of the second epoch, resumed, and killed right after its row"
    start = Started("run", 0, 0, 3, 5, 15, "cpu", "fp32", 1, 80, 650, "valid_loss", "min", 0.0, 1)
    row = Epoch(1, 5, 1.0, 0.9, {}, 0.1, 1.0, 10.0, True)
    events = [start, row, row._replace(epoch=2, step=10, valid_loss=0.8), start._replace(step=10, epoch=1)]
    progress = Progress().add(events)
    assert [(e.epoch, e.step) for e in progress.epochs] == [(1, 5)] and progress.best == row
    assert progress.curves["valid loss"].x == [5]


@pytest.mark.parametrize(
    ("first", "then", "way"),
    [
        (
            {"max_steps": 8, "epochs": 50},
            {"epochs": 99},
            "all of its 8 steps: pass more, such as --max-steps 16",
        ),
        ({"max_steps": 8, "epochs": 2}, {}, "all of its 8 steps: pass more, such as --max-steps 16"),
        (
            {"max_steps": 10, "epochs": 2},
            {"max_steps": 20},
            "all of its 2 epochs: pass more, such as --epochs 4",
        ),
    ],
)
def test_a_run_without_anything_left_says_which_option_gives_more(first, then, way, tmp_path):
    run = small(tmp_path, **first)
    with pytest.raises(RunError, match=way):
        longer(run, **then)


def test_steps_that_end_within_the_last_epoch_are_the_reason(tmp_path):
    run = small(tmp_path, max_steps=8, epochs=2)
    assert [e.reason for e in run.events() if type(e) is Ended] == ["all 8 steps are done"]
    run, _ = longer(run, max_steps=None)
    assert (run.progress.step, run.progress.epoch, run.progress.reason) == (10, 2, "all 2 epochs are done")


def test_a_run_that_ran_out_of_steps_is_not_said_to_have_stopped_early(tmp_path):
    run, _ = longer(small(tmp_path, max_steps=8, patience=3, lr=1e-9, min_delta=1.0), max_steps=12)
    assert not said(run)


@pytest.mark.parametrize("schedule", ["cosine", "onecycle", "linear", "constant"])
def test_a_schedule_that_follows_the_number_of_updates_is_said(schedule, tmp_path):
    warmup = 0.5 if schedule == "constant" else 0.0
    run, _ = longer(small(tmp_path, max_steps=8, schedule=schedule, warmup=warmup, lr=0.1), max_steps=14)
    (text,) = said(run)
    rate = next(e.lr for e in run.events() if type(e) is Step and e.step == 9)
    assert "14 from now on and 8 so far: update 9 has the learning rate" in text and f"{rate:.3g}" in text
    assert (
        text.startswith("The warmup" if warmup else f"The schedule {schedule}")
        and "--schedule constant" in text
    )


@pytest.mark.parametrize("how", [{"schedule": "cosine"}, {"schedule": "exponential", "max_steps": 8}])
def test_nothing_is_said_where_no_rate_differs(how, tmp_path):
    "A stop within a run whose length stays, and a schedule that counts epochs"
    torch.manual_seed(0)
    made = Task(nn.Linear(64, 10), (X[:80], Y[:80]), (X[80:110], Y[80:110]))
    handle = start(made, options(**{"max_steps": 14, "metrics": "none", **how}), folder=tmp_path)
    if how["schedule"] == "cosine":
        events = handle.events()
        next(events)
        handle.close()
    else:
        handle.result()
    run, _ = longer(handle.run, max_steps=14)
    assert run.progress.step == 14 and not said(run)


def test_a_stop_within_a_validation_leaves_nothing_in_buffers(tmp_path):
    "A model that counts its calls in a buffer, also in evaluation mode"
    name, more = "BufferMadeLate", {"metrics": "none"}
    made, how = setting(name, 1)
    through = follow(train(made, how.replace(**more), tmp_path / "whole"))
    expected = outcome(tmp_path / "whole", made.model, through)
    made, how = setting(name, 1)
    before = follow(train(made, how.replace(**more), tmp_path / "cut"), lambda e: type(e) is Heartbeat)
    assert before[-1].state == "stopped"
    model, after = go_on_with(name, tmp_path / "cut", before, **more)
    assert outcome(tmp_path / "cut", model, before + after) == expected
