"The log of a run, its summary and its curves"

import json
import math

import pytest

from trainopt_nb.events.curves import Curve
from trainopt_nb.events.progress import Progress, event_line
from trainopt_nb.events.records import Ended, Epoch, Started, State, Step, Unknown, from_lines, to_lines
from trainopt_nb.runs import report
from trainopt_nb.runs.run import Run

STARTED = Started("run", 0, 0, 3, 10, 30, "cpu", "fp32", 2, 640, 9610, "accuracy", "max", 1.79e9)


def steps(first, last):
    return [Step(i, (i - 1) // 10, 2 / i, 1e-3, 64, i * 0.01, 0.001) for i in range(first, last + 1)]


def epoch(number, best=True):
    return Epoch(
        number,
        number * 10,
        1 / number,
        0.9 / number,
        {"accuracy": 0.5 + number / 10},
        1e-3,
        number * 0.11,
        6400.0,
        best,
    )


def write(folder, state="finished", epochs=3):
    run = Run.create(folder, "digits", {"epochs": 3})
    run.start_writing()
    run.append([STARTED._replace(name=run.name)])
    for number in range(1, epochs + 1):
        run.append(steps(number * 10 - 9, number * 10))
        run.append([epoch(number)])
    if state:
        run.append([Ended(state, epochs * 10, epochs, "a reason", 1.79e9)])
        run.stop_writing()
    return run


# ---- events of unknown kinds


def test_an_unknown_event_is_passed_on_and_written_back():
    line = json.dumps({"kind": "Finding", "text": "a layer is dead", "value": {"float": "nan"}})
    first, unknown, last = from_lines([*to_lines([STARTED]), line, *to_lines([State("paused", 3)])])
    assert unknown.kind == "Finding" and unknown.body["text"] == "a layer is dead"
    assert json.loads(to_lines([unknown])[0]) == json.loads(line)
    progress = Progress().add([first, unknown, last])
    assert progress.state == "paused" and "a layer is dead" in event_line(progress, unknown)


def test_a_run_with_an_unknown_event_is_read(tmp_path):
    run = write(tmp_path, state=None)
    run.append([Unknown("Finding", {"text": "x"})])
    assert run.state == "training" and any(type(e) is Unknown for e in run.events())
    run.stop_writing()


# ---- following a log


def test_progress_reads_only_what_was_added(tmp_path, monkeypatch):
    run = write(tmp_path, state=None, epochs=2)
    seen, add = [], Progress.add

    def count(self, events):
        events = list(events)
        seen.append(len(events))
        return add(self, events)

    monkeypatch.setattr(Progress, "add", count)
    assert run.progress.step == 20 and run.progress.step == 20
    run.append(steps(21, 24))
    assert run.progress.step == 24 and seen == [23, 0, 4]
    run.stop_writing()


def test_a_tail_waits_for_the_end_of_a_line(tmp_path):
    run = write(tmp_path, state=None, epochs=1)
    tail, (line,) = run.tail(), to_lines(steps(11, 13))
    tail.read()
    run._file.write(line[:20].encode())
    assert tail.read() == [] and tail.progress.step == 10
    run._file.write(line[20:].encode() + b"\n")
    assert tail.read() == steps(11, 13) and tail.progress.step == 13
    run.stop_writing()


@pytest.mark.parametrize("longer", [False, True])
def test_a_tail_starts_again_when_the_log_was_replaced(tmp_path, longer):
    run = write(tmp_path, epochs=2)
    tail = run.tail()
    tail.read()
    events = [STARTED, *steps(1, 500 if longer else 3)]
    (run.path / "events.jsonl").write_text("\n".join(to_lines(events)) + "\n")
    assert tail.read() == events and tail.progress.step == len(events) - 1 and tail.progress.epochs == []
    assert tail.progress.curves["train loss"].x == list(range(1, len(events)))
    assert tail.progress.curves["accuracy"].x == []


def test_a_tail_follows_a_resumed_run(tmp_path):
    run = write(tmp_path, "stopped", epochs=2)
    tail = run.tail()
    tail.read()
    assert tail.progress.state == "stopped" and not tail.alive
    run.start_writing()
    run.append([STARTED._replace(step=10, epoch=1), *steps(11, 12)])
    tail.read()
    assert (tail.progress.state, tail.progress.step, tail.alive) == ("training", 12, True)
    assert tail.progress.curves["train loss"].x == list(range(1, 13))
    run.stop_writing()
    assert tail.read() == [] and tail.progress.state == "dead"


# ---- curves that keep a spike


def spiked():
    return [
        Step(i, 0, 50.0 if i == 7777 else math.nan if i == 12_345 else 1.0, 1e-3, 64, i * 0.001, 0.0)
        for i in range(1, 20_001)
    ]


def test_a_spike_survives_thinning():
    curve = Progress().add([STARTED, *spiked()]).curves["train loss"]
    assert len(curve.x) == len(curve.y) <= 1000 and curve.x == sorted(set(curve.x))
    assert curve.y[curve.x.index(7777)] == 50.0 and math.isnan(curve.y[curve.x.index(12_345)])
    assert sum(not math.isfinite(y) for y in curve.y) == 1


def test_a_spike_is_sent_to_the_page():
    from trainopt_nb.panels.train_panel import TrainPanel

    panel = TrainPanel(Progress().add([STARTED, *spiked()]))
    whole = json.loads(panel.widget.get_state("whole")["whole"])
    panel.widget.close()
    x, y = whole["curves"]["train loss"][-2:]
    assert y[x.index(7777)] == 50.0 and y[x.index(12_345)] is None


def test_a_spike_is_drawn_in_the_report(monkeypatch):
    drawn, picture = [], report._picture
    monkeypatch.setattr(report, "_picture", lambda lines, *rest: drawn.append(lines) or picture(lines, *rest))
    report.charts(Progress().add([STARTED, *spiked()]))
    x, y = drawn[0][0][:2]
    assert y[x.index(7777)] == 50.0


def test_every_point_of_a_thinned_curve_was_measured():
    curve, values = Curve(limit=50), {}
    for i in range(1, 3000):
        values[i] = math.sin(i) * i
        curve.add(i, values[i])
    assert all(values[x] == y for x, y in zip(curve.x, curve.y, strict=True))
    assert max(curve.y) == max(v for i, v in values.items() if i <= curve.x[-1]) and len(curve.x) <= 50
