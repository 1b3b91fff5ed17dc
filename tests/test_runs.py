"The log of a run, its summary and its curves"

import json
import math
from types import SimpleNamespace

import pytest

from trainopt_nb.events.curves import Curve
from trainopt_nb.events.progress import Progress, event_line
from trainopt_nb.events.records import Ended, Epoch, Started, State, Step, Unknown, from_lines, to_lines
from trainopt_nb.runs import pictures, writer
from trainopt_nb.runs.run import Run
from trainopt_nb.runs.summary import read_summary
from trainopt_nb.runs.table import list_runs
from trainopt_nb.runs.tail import Tail

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


def write(folder, state="finished", epochs=3, late=False):
    run = Run.create(folder, "digits", {"epochs": 3})
    run.start_writing(late=late)
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
    seen, read = [], Tail._new_events

    def count(self):
        events = list(read(self))
        seen.append(sum(map(len, events)))
        return events

    monkeypatch.setattr(Tail, "_new_events", count)
    assert run.progress.step == 20 and run.progress.step == 20
    run.append(steps(21, 24))
    assert run.progress.step == 24 and seen[:3] == [23, 0, 4]
    run.stop_writing()


def test_a_tail_waits_for_the_end_of_a_line(tmp_path):
    run = write(tmp_path, state=None, epochs=1)
    tail, (line,) = run.tail(), to_lines(steps(11, 13))
    tail.read()
    run._log.file.write(line[:20].encode())
    assert tail.read() == [] and tail.progress.step == 10
    run._log.file.write(line[20:].encode() + b"\n")
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
    x, y = whole["curves"]["train loss"][2:4]
    assert y[x.index(7777)] == 50.0 and y[x.index(12_345)] is None


def test_a_spike_is_drawn_in_the_report(monkeypatch):
    drawn, picture = [], pictures._picture
    monkeypatch.setattr(
        pictures, "_picture", lambda lines, *rest: drawn.append(lines) or picture(lines, *rest)
    )
    pictures.charts(Progress().add([STARTED, *spiked()]))
    x, y = drawn[0][0][:2]
    assert y[x.index(7777)] == 50.0


def test_every_point_of_a_thinned_curve_was_measured():
    curve, values = Curve(limit=50), {}
    for i in range(1, 3000):
        values[i] = math.sin(i) * i
        curve.add(i, values[i])
    assert all(values[x] == y for x, y in zip(curve.x, curve.y, strict=True))
    assert max(curve.y) == max(v for i, v in values.items() if i <= curve.x[-1]) and len(curve.x) <= 50


# ---- summaries


@pytest.fixture
def parsed(monkeypatch):
    "The runs whose log was parsed"
    names, read = [], Tail.update
    monkeypatch.setattr(Tail, "update", lambda self: names.append(self.path.name) or read(self))
    return names


def test_a_table_parses_no_log(tmp_path, parsed):
    runs = [write(tmp_path, state) for state in ("finished", "stopped", "failed", None)]
    parsed.clear()
    table = list_runs(tmp_path)
    bundle = table._repr_mimebundle_()
    assert parsed == [] and all(run.name in bundle["text/plain"] for run in runs)
    row = dict(zip(*(table.rows()[0], table.rows()[1][-1]), strict=True))
    assert (row["state"], row["done"], row["best epoch"], row["accuracy"]) == (
        "finished",
        "3/3",
        "3",
        "80.0%",
    )
    runs[-1].stop_writing()


def test_a_summary_agrees_with_the_log(tmp_path):
    for state in ("finished", "stopped", "failed"):
        run = write(tmp_path, state)
        progress, summary = run.progress, run.summary
        assert (
            summary == read_summary(run.path) and summary.bytes == (run.path / "events.jsonl").stat().st_size
        )
        assert (summary.state, summary.reason) == (progress.state, progress.reason)
        assert (summary.epoch, summary.step, summary.seconds) == (3, 30, progress.all_seconds)
        assert summary.best_epoch == progress.best.epoch and summary.metrics == run.metrics


def test_a_run_without_a_summary_is_parsed_once(tmp_path, parsed):
    run = write(tmp_path)
    whole = run.summary
    (run.path / "summary.json").unlink()
    parsed.clear()
    assert run.summary == whole and parsed == [run.name]
    assert run.summary == whole and parsed == [run.name]


def test_a_stale_summary_is_parsed_again(tmp_path, parsed):
    run = write(tmp_path, state=None, epochs=2)
    run._log.file.write("\n".join([*to_lines([epoch(3)]), '{"kind": "Epoch", "ep']).encode())
    assert run.summary.state == "training"  # its process lives
    run.stop_writing()
    parsed.clear()
    assert (run.summary.state, run.summary.epoch) == ("dead", 3) and parsed == [run.name]
    assert run.summary.state == "dead" and parsed == [run.name]


def test_a_resumed_run_keeps_its_earlier_epochs_in_the_summary(tmp_path):
    run = write(tmp_path, "stopped", epochs=2)
    run.start_writing()
    run.append([STARTED._replace(step=20, epoch=2), *steps(21, 30), epoch(3, best=False)])
    run.append([Ended("finished", 30, 3, "all 3 epochs are done", 1.79e9)])
    run.stop_writing()
    assert run.summary.best_epoch == 2 and run.summary.seconds == run.progress.all_seconds
    assert run.summary == read_summary(run.path)


def test_a_late_run_that_is_over_soon_has_one_summary(tmp_path, monkeypatch):
    now, written, real = [100.0], [], writer.write_summary
    monkeypatch.setattr(writer, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(writer, "write_summary", lambda *a: written.append(now[0]) or real(*a))
    assert write(tmp_path).summary.state == "finished" and len(written) == 2
    del written[0]
    run = write(tmp_path, late=True)
    assert len(written) == 2 and run.summary.state == "finished"
    del written[0]
    run.start_writing()
    run.append([STARTED._replace(step=30, epoch=3)])
    assert len(written) == 2 and run.summary.state == "training"
    for seconds in (0.2, 0.4, 0.6, 0.8, 1.2):  # steps say that time has passed since an epoch
        now[0] = 100.0 + seconds
        run.append([epoch(4, best=False)] if seconds == 0.4 else steps(31, 32))
    assert written[2:] == [100.6]
    run.stop_writing()


def test_small_files_have_a_line_for_each_value(tmp_path):
    run = Run.create(tmp_path, "digits", {"epochs": 3, "lr": 1e-3, "betas": [0.9, 0.99]})
    text = (run.path / "options.json").read_text()
    assert [line.strip("{}, ") for line in text.splitlines()][:2] == ['"epochs": 3', '"lr": 0.001']
    assert run.options == {"epochs": 3, "lr": 1e-3, "betas": [0.9, 0.99]}


def test_a_run_has_a_type_and_a_parent(tmp_path):
    run = Run.create(tmp_path, "trial", {}, type="trial", parent="sweep-1")
    assert (Run(run.path).run_type, Run(run.path).parent) == ("trial", "sweep-1")
    facts = json.loads((run.path / "run.json").read_text())
    for name in ("type", "parent"):
        del facts[name]
    (run.path / "run.json").write_text(json.dumps(facts))  # as 0.1.0 wrote it
    assert (Run(run.path).run_type, Run(run.path).parent) == ("train", None)
