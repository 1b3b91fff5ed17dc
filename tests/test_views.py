"Every view of every state that a run can be in is drawn, whatever its log holds"

import json
from typing import Literal, get_args, get_origin

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from properties import examples

from trainopt_nb.events.fields import fits
from trainopt_nb.events.progress import Progress, epoch_line, event_line
from trainopt_nb.events.records import (
    COMMANDS,
    EVENTS,
    Damaged,
    Ended,
    Epoch,
    Started,
    State,
    Step,
    from_lines,
    to_lines,
)
from trainopt_nb.panels.runs_rows import run_curves, run_row
from trainopt_nb.panels.train_facts import moving, standing
from trainopt_nb.runs import card
from trainopt_nb.runs.annotations import Annotations
from trainopt_nb.runs.arranged import cell_text, find_columns
from trainopt_nb.runs.entry import SmallFiles, make_entry
from trainopt_nb.runs.report import report_bundle, report_html, report_text
from trainopt_nb.runs.summary import summarize

STARTED = Started("digits", 0, 0, 3, 10, 30, "cpu", "fp32", 2, 640, 9610, "accuracy", "max", 1.79e9)
OWN = [cls for name, cls in EVENTS.items() if cls.__module__ == Started.__module__]

# ---- histories that no training writes

NAMES = st.sampled_from(
    ["accuracy", "train_loss", "valid_loss", "f1", "train loss", "a_b", "", "<b>&"]
) | st.text(max_size=5)
COUNTS = st.integers(-3, 40) | st.sampled_from([0, 2**31, 2**62, -(2**62)])
NUMBERS = st.floats() | st.sampled_from([0.0, -1e308, 1e308, 5e-324, 1, 2**60])


def values(hint):
    "What a field can hold that passes the check of its type"
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if hint in (int, int | None):
        return COUNTS if hint is int else COUNTS | st.none()
    if hint in (float, float | None):
        return NUMBERS if hint is float else NUMBERS | st.none()
    return {str: NAMES, bool: st.booleans()}.get(hint, st.dictionaries(NAMES, NUMBERS, max_size=3))


def records(cls):
    return st.builds(cls, **{name: values(hint) for name, hint in cls.__annotations__.items()})


HISTORIES = st.lists(
    st.one_of(*map(records, [Step, *OWN]), st.builds(Damaged, st.text(max_size=3))), max_size=12
)

# ---- histories as trainings write them: killed anywhere, resumed anywhere, with lines that are lost


@st.composite
def trainings(draw):
    events, step = [], 0
    for _ in range(draw(st.integers(1, 3))):
        begin = draw(st.integers(0, step))
        events.append(
            STARTED._replace(step=begin, epoch=begin // 10, steps=draw(st.sampled_from([30, None])))
        )
        for step in range(begin + 1, begin + 1 + draw(st.integers(0, 25))):
            events.append(Step(step, (step - 1) // 10, 2 / step, 1e-3, 64, step * 0.01, 0.001))
            if step % 10 == 0:
                metrics = {"accuracy": 1 - 1 / step} if draw(st.booleans()) else {}
                loss = draw(st.sampled_from([0.5, None]))
                row = Epoch(step // 10, step, 0.5, loss, metrics, 1e-3, step * 0.01, 6e3, draw(st.booleans()))
                events += [State("validating", step), row]
        if draw(st.booleans()):
            state = draw(st.sampled_from(["finished", "stopped", "failed"]))
            events.append(Ended(state, step, step // 10, draw(NAMES), 1.8e9))
    lost = draw(st.sets(st.integers(0, len(events) - 1), max_size=3))
    return [Damaged("") if i in lost else event for i, event in enumerate(events)]


def described(progress):
    "Everything that is shown of a run without drawing a picture"
    entry = make_entry(progress.name, summarize(progress, 0), SmallFiles({}, {"lr": 0.1}, Annotations()))
    row = run_row(entry, False, progress.fraction)
    row["cells"] = [cell_text(entry, column) for column in find_columns([entry])]
    panel = standing(progress) | moving(progress) | {"notes": card.messages(progress)}
    shown = [row, run_curves(progress), panel]
    for each in shown:
        card.json_text(each)
    lines = [epoch_line(progress, each) for each in progress.epochs]
    text = "\n".join([report_text(progress), repr(summarize(progress, 0)), *lines])
    text.encode(errors="surrogatepass")
    return report_text(progress)


def check(events, view):
    progress = Progress("digits")
    for event in events:  # as the log brings them, one after the other
        (read,) = from_lines(to_lines([event])) if type(event) is not Damaged else [event]
        progress.add([read])
        assert isinstance(event_line(progress, read), str)
    view(progress)
    for state in ("waiting", "dead", "not begun", "unreadable", "paused"):
        progress.state, progress.reason = state, "a reason"
        view(progress)
    return progress


@examples(150)
@given(HISTORIES)
@example(
    [Step(1, 0, 1.0, 1e-3, 64, 0.1, 0.0), Epoch(1, 1, 1.0, 0.5, {"accuracy": 0.5}, 1e-3, 0.1, 64.0, True)]
)
def test_every_view_of_any_history_is_drawn(events):
    check(events, described)


@examples(100)
@given(trainings())
def test_every_view_of_every_training_is_drawn(events):
    progress = check(events, described)
    lost = sum(type(event) is Damaged for event in events)
    assert progress.damaged == lost and (f"{lost} lines of the log are damaged" in report_text(progress)) == (
        lost > 1
    )


@examples(15)
@given(HISTORIES | trainings())
@example(
    [
        STARTED,
        *(Step(i, 0, 1.0, 1e-3, 64, 0.1, 0.0) for i in range(1, 11)),
        STARTED,
        Ended("stopped", 3, 0, "", 1.0),
    ]
)
@example([STARTED, Step(1, 0, 1e308, 1e-3, 64, 0.1, 0.0), Step(2, 0, -1e308, 1e-3, 64, 0.2, 0.0)])
@example([STARTED._replace(steps=None, steps_per_epoch=None), Step(2**62, 0, 1.0, 1e-3, 64, 0.1, 0.0)])
def test_every_card_is_drawn(events):
    progress = Progress("digits").add(events)
    assert report_html(progress).count("<div") > 5 and report_bundle(progress)["text/plain"] == report_text(
        progress
    )


# ---- lines that hold anything

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KINDS = st.sampled_from(["steps", *EVENTS, "Finding"]) | JSON


@examples(300)
@given(st.lists(JSON.map(json.dumps) | st.binary(max_size=20), max_size=5))
def test_lines_of_anything_are_read(lines):
    assert len(list(from_lines(lines))) == len(lines)


@examples(300)
@given(st.sampled_from([Step, *OWN]), st.data())
def test_a_value_of_another_type_is_damage_and_nothing_else(cls, data):
    "One field of a whole line is replaced"
    (line,) = to_lines([data.draw(records(cls))])
    body = json.loads(line)
    name = data.draw(st.sampled_from(list(body)))
    body[name] = data.draw(JSON)
    events = list(from_lines([json.dumps(body)]))
    progress = Progress("digits").add(events)
    described(progress)


@pytest.mark.parametrize("kind", list(COMMANDS))
def test_commands_are_registered_with_types(kind):
    "No field takes just anything: a value of a type that it does not name is refused"
    assert not any(fits(object(), hint) for hint in COMMANDS[kind].__annotations__.values())
