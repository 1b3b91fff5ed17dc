"What was written can be read, whatever happened to it: damaged lines, other encodings, odd files, commands of another type, logs of any length"

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from helpers import quiet
from torch import nn
from warm_python import python

from trainopt_nb import RunError, TrainOptions, find_run, fit, list_runs, resume
from trainopt_nb.api.handle import FollowedRun, load_final_weights
from trainopt_nb.api.run_task import Where, print_lines, run_task
from trainopt_nb.base.errors import CheckpointError, TrainoptError
from trainopt_nb.events.records import Ended, Epoch, Note, SetLr, Started, Step, to_lines
from trainopt_nb.panels.watched_runs import RunsTable
from trainopt_nb.runs.report import report_html, report_text
from trainopt_nb.runs.run import Run
from trainopt_nb.runs.summary import read_summary
from trainopt_nb.runs.tail import Tail
from trainopt_nb.store.checkpoint import checkpoints, load_checkpoint
from trainopt_nb.task.task import Task

G = torch.Generator().manual_seed(0)
X = torch.randn(64, 4, generator=G)
Y = (X.sum(1) > 0).long()
STARTED = Started("digits", 0, 0, 3, 10, 30, "cpu", "fp32", 2, 640, 9610, "accuracy", "max", 1.79e9)


def net():
    torch.manual_seed(0)
    return nn.Linear(4, 2)


def trained(folder, **more):
    chosen = {"epochs": 2, "batch_size": 16, "device": "cpu", "save_seconds": 0.0, **more}
    return fit(net(), (X, Y), (X, Y), folder=folder, write=quiet, **chosen)


def resumed(run, **changes):
    return resume(run, net(), (X, Y), (X, Y), write=quiet, **{"epochs": 3, **changes})


def change(path, edit):
    "Replace the content of a file"
    path.write_bytes(edit(path.read_bytes()))


def flip(data, at):
    return data[:at] + bytes([data[at] ^ 64]) + data[at + 1 :]


# ---- damaged lines


@pytest.mark.parametrize("place", [3, 0.3, 0.6])
def test_a_flipped_bit_is_passed_over_said_and_marked_and_hides_nothing(tmp_path, place):
    run, other = trained(tmp_path), trained(tmp_path)
    whole = run.progress
    change(
        run.path / "events.jsonl",
        lambda data: flip(data, data.index(b'"kind"', int(place * len(data)) if place < 1 else 0) + 2),
    )
    damaged = Run(run.path)
    assert (
        damaged.progress.damaged == 1 and damaged.state == "finished" and damaged.progress.step == whole.step
    )
    assert "1 line of the log is damaged" in report_text(damaged.progress) and "1 damaged lines" in repr(
        damaged
    )
    table = list_runs(tmp_path)
    marks = {row[0]: row[1] for row in table.rows()[1]}
    assert marks == {run.name: "finished (damaged)", other.name: "finished"}
    assert f"{run.name}: 1 line of its log is damaged and passed over." in repr(table)
    assert "1 line of its log is damaged" in table._repr_mimebundle_()["text/html"]
    live = RunsTable(tmp_path)
    live.refresh()
    assert [bool(row["damage"]) for row in live.news()["rows"]] == [name == run.name for name in live._order]
    again = resumed(damaged)
    assert again.state == "finished" and again.progress.epoch == 3
    said = [event for event in again.events() if type(event) is Note and event.topic == "resume"]
    assert len(said) == 1 and said[0].text.startswith("1 line of the run's log cannot be read")


BROKEN = {
    "half of it": lambda line: line[: len(line) // 2],
    "bytes that are no UTF-8": lambda line: b"caf\xe9 \xff",
    "another value": lambda line: b"5",
    "no kind": lambda line: b'{"step": 3}',
    "deep": lambda line: b'{"kind": "Note", "text": ' + b"[" * 50_000,
    "a scalar for a list": lambda line: (
        b'{"kind": "steps", "step": 1, "epoch": 0, "loss": 1, "lr": 1, "samples": 1, "seconds": 1, "wait": 1}'
    ),
    "a huge number": lambda line: b'{"kind": "State", "state": "training", "step": 1' + b"0" * 400 + b"}",
    "zeros": lambda line: b"\0" * 4096,
    "text": lambda line: b"Traceback (most recent call last):",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_line_counts_as_one(tmp_path, name):
    run = Run.create(tmp_path, "digits", {})
    lines = [
        line.encode()
        for line in to_lines([STARTED, Step(1, 0, 0.5, 1e-3, 64, 0.1, 0.0), Ended("stopped", 1, 0, "", 1.0)])
    ]
    lines.insert(2, BROKEN[name](lines[1]))
    (run.path / "events.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    assert (run.progress.damaged, run.state, run.progress.step) == (1, "stopped", 1)
    assert run.summary.damaged == 1 and len(run.events()) == 4 and "(damaged)" in repr(list_runs(tmp_path))


def test_a_summary_from_which_a_reader_goes_on_agrees_with_the_whole_log(tmp_path):
    "Each prefix of a log with resumes, as a kill leaves it, with and without an earlier summary"
    rows = [
        Epoch(n, 10 * n, 1 / n, 0.9, {"accuracy": a}, 1e-3, n * 0.1, 6e3, b)
        for n, a, b in ((1, 0.5, True), (2, 0.4, False))
    ]
    step = lambda n: Step(n, 0, 1.0, 1e-3, 64, n * 0.01, 0.0)
    events = [STARTED, step(9), rows[0], step(15), rows[1], STARTED._replace(step=10, epoch=1), step(11), rows[1]._replace(best=True),
              STARTED._replace(step=0, epoch=0), step(1), Ended("stopped", 1, 0, "", 1.0)]  # fmt: skip
    lines, same = to_lines(events), []
    for first in range(len(lines) + 1):
        run = Run.create(tmp_path, "digits", {})
        log = run.path / "events.jsonl"
        log.write_text("".join(line + "\n" for line in lines[:first]))
        _ = run.summary
        for more in range(first, len(lines) + 1):
            log.write_text("".join(line + "\n" for line in lines[:more]))
            found = run.summary
            (run.path / "summary.json").unlink(missing_ok=True)
            expected = run.summary
            for one in (found, expected):  # sums in another order
                same.append(
                    one._replace(changed=0, seconds=round(one.seconds, 9), earlier=round(one.earlier, 9))
                )
            assert same[-1] == same[-2], (first, more)


# ---- encodings


def test_bytes_that_are_no_utf8_in_the_printed_log(tmp_path):
    run = trained(tmp_path)
    change(run.path / "events.jsonl", lambda data: b"".join(data.splitlines(True)[:-1]))
    (run.path / "log.txt").write_bytes(b"10%\r20%\ncaf\xe9 \x1b[31m\n")
    assert run.state == "dead" and "caf\ufffd" in run.progress.reason
    assert run.name in repr(list_runs(tmp_path)) and "\x1b" not in report_text(run.progress)


PRINTS = """
import sys, torch
from torch import nn
from trainopt_nb import Task, TrainOptions, list_runs
from trainopt_nb.api.run_task import Where, print_lines, run_task
class Talks(nn.Linear):
    def forward(self, x):
        print("\\u00e9\\u4e2d", flush=True)
        return super().forward(x)
x = torch.randn(32, 4)
handle = run_task(Task(Talks(4, 2), (x, (x[:, 0] > 0).long())), TrainOptions(epochs=1, device="cpu"), Where(sys.argv[1], background=True))
print(print_lines(handle).state, sys.stdout.encoding)
print(list_runs(sys.argv[1]))
"""


@pytest.mark.slow
def test_logs_are_utf8_whatever_the_locale(tmp_path):
    plain = {
        **os.environ,
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "LC_ALL": "C",
        "PYTHONIOENCODING": "ascii",
    }
    done = subprocess.run(
        [sys.executable, "-c", PRINTS, tmp_path],
        capture_output=True,
        text=True,
        env=plain,
        timeout=300,
        check=False,
    )
    assert "finished" in done.stdout, done.stdout + done.stderr
    (run,) = list_runs(tmp_path)
    assert run.state == "finished" and "é中" in (run.path / "log.txt").read_text(encoding="utf-8")


def test_a_terminal_without_the_letter_ends_no_run(tmp_path):
    def narrow(line):
        line.encode("ascii")
        lines.append(line)

    lines = []
    metrics = {"größe": 0.5}
    events = [
        STARTED,
        Epoch(1, 10, 1.0, 0.9, metrics, 1e-3, 0.1, 6e3, True),
        Ended("stopped", 10, 1, "é", 1.0),
    ]
    run = Run.create(tmp_path, "digits", {})
    (run.path / "events.jsonl").write_text("".join(line + "\n" for line in to_lines(events)))
    handle = FollowedRun(run)
    handle._tail = Tail(run.path)
    handle.progress = handle._tail.progress
    print_lines(handle, narrow)
    assert any("gr\\xf6\\xdfe" in line for line in lines)


# ---- commands


def test_a_command_of_another_type_is_refused_and_the_run_goes_on(tmp_path):
    handle = run_task(
        Task(net(), (X, Y)), TrainOptions(epochs=500, batch_size=16, device="cpu"), Where(tmp_path)
    )
    turns = handle.events()
    next(turns)
    for wrong in (SetLr("1e-4"), SetLr(None), "faster", 5, SetLr):
        for send in (handle.send, handle.run.send):
            with pytest.raises(RunError) as caught:
                send(wrong)
            assert "\n" not in str(caught.value)
    inbox = handle.run.path / "commands.jsonl"
    with open(inbox, "ab") as file:
        file.write(
            b'{"kind": "SetLr", "lr": "1e-4"}\n\xff\xfe\n{"kind": "Explode"}\n[1]\n{"kind": "SetLr", "lr": 0.5}\n'
        )
    handle.send(SetLr(np.float32(0.25)))
    seen = []
    for new in turns:
        seen += new
        if sum(type(event).__name__ == "LrChanged" for event in seen) == 2:
            break
    refused = [event.text for event in seen if type(event) is Note and event.topic == "command"]
    assert len(refused) == 4 and all("it goes on without it" in text for text in refused)
    assert "lr takes a number, and got '1e-4'" in refused[0]
    inbox.unlink()
    next(turns)
    os.mkfifo(inbox)
    next(turns)
    with pytest.raises(RunError, match="no regular file"):
        handle.run.send("save")
    inbox.unlink()
    handle.run.send("stop")
    assert list(turns)[-1][-1].state == handle.run.state == "stopped"


def test_a_command_of_another_type_sent_into_the_generator(tmp_path):
    from trainopt_nb.train.loop import train

    events = train(Task(net(), (X, Y)), TrainOptions(epochs=1, batch_size=16, device="cpu"), None)
    next(events)
    told = [events.send(SetLr("1e-4")), *events]
    assert (
        any(type(e) is Note and "lr takes a number" in e.text for e in told) and told[-1].state == "finished"
    )


# ---- weights of a background run


def test_older_weights_are_never_loaded_in_silence(tmp_path):
    run = trained(tmp_path, epochs=3, keep=5)
    best = load_checkpoint(run.path / "checkpoints", "best")[0]
    change(best.folder / "model.safetensors", lambda data: flip(data, len(data) - 1))
    said = load_final_weights(run, net())
    assert any(f"The checkpoint of step {best.step} is damaged" in sentence for sentence in said)
    for checkpoint in checkpoints(run.path / "checkpoints"):
        change(checkpoint.folder / "model.safetensors", lambda data: data[:-1])
    (said,) = load_final_weights(run, net())
    assert "does not get the weights" in said and "is whole" in said
    followed = FollowedRun(run, net())
    lines = []
    print_lines(followed, lines.append)
    assert any("does not get the weights" in line for line in lines)
    assert "does not get the weights" in report_text(followed.progress)
    (said,) = load_final_weights(trained(tmp_path), nn.Linear(3, 2))
    assert "size mismatch" in said and "\n" not in said


# ---- a directory that goes away while the run trains


def moved(path):
    path.rename(path.with_name("elsewhere"))


def replaced(path):
    (path / "copy").write_bytes((path / "events.jsonl").read_bytes())
    os.replace(path / "copy", path / "events.jsonl")


@pytest.mark.parametrize("what", [moved, shutil.rmtree, replaced], ids=lambda f: f.__name__)
def test_a_directory_that_goes_away_is_noticed_and_the_run_is_saved_beside_it(tmp_path, what):
    handle = run_task(
        Task(net(), (X, Y)), TrainOptions(epochs=10_000, batch_size=16, device="cpu"), Where(tmp_path)
    )
    turns = handle.events()
    for _ in turns:
        if handle.progress.step > 5:
            break
    what(handle.run.path)
    with pytest.raises(RunError, match="was moved, removed or replaced while it trained") as caught:
        handle.result()
    assert "\n" not in str(caught.value)
    saved = find_run("rescued", tmp_path)
    assert (
        saved.state == "failed" and str(saved.path) in str(caught.value) and saved.options["epochs"] == 10_000
    )
    at = saved.progress.step
    steps = [event.step for event in saved.events() if type(event) is Step]
    assert steps == list(range(1, at + 1)) and load_checkpoint(saved.path / "checkpoints")[0].step == at
    again = resumed(saved, epochs=at // 4 + 2)
    assert again.state == "finished" and again.progress.step > at


# ---- long logs


def long_log(folder, megabytes, epochs=0):
    "A run that was killed: a log of this size, most of it steps"
    run = Run.create(folder, "long", {})
    values = [random.Random(0).random() for _ in range(1000)]
    with open(run.path / "events.jsonl", "w") as log:
        log.write(to_lines([STARTED._replace(steps=None, steps_per_epoch=None)])[0] + "\n")
        step = 0
        while log.tell() < megabytes << 20:
            events = [
                Step(step + i + 1, 0, values[i], 1e-3, 64, (step + i) * 0.01 + values[i] * 1e-3, values[-i])
                for i in range(1000)
            ]
            step += 1000
            log.write("\n".join(to_lines(events)) + "\n")
    with open(run.path / "log.txt", "w") as printed:
        printed.write("a line that was printed\n" * (megabytes << 20 >> 5))
    return run, step


MEASURE = """
import resource, sys, time
from trainopt_nb import list_runs
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.process_time()
run = list_runs(sys.argv[1])[0]
said = repr(list_runs(sys.argv[1]))
first = time.process_time() - began
began = time.process_time()
repr(list_runs(sys.argv[1]))
second = time.process_time() - began
step = run.progress.step
print(step, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, first, second, "dead" in said)
"""


@pytest.mark.parametrize("megabytes", [5, pytest.param(200, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_a_log(tmp_path, megabytes):
    run, step = long_log(tmp_path, megabytes)
    done = subprocess.run(
        python("-c", MEASURE, tmp_path), capture_output=True, text=True, timeout=900, check=True
    )
    found, more, first, second, dead = done.stdout.split()
    assert (int(found), dead) == (step, "True") and int(more) < 100, (
        done.stdout
    )  # MB, of which 1 MB of text makes some
    assert float(second) < float(first) / 10 or float(second) < 0.1, (
        done.stdout
    )  # the second look reads a summary
    assert run.summary.step == step


def test_the_list_reads_only_what_came_after_the_summary(tmp_path, monkeypatch):
    run, step = long_log(tmp_path, 4)
    assert run.summary.step == step
    with open(run.path / "events.jsonl", "a") as log:
        log.write(to_lines([Step(step + 1, 0, 0.5, 1e-3, 64, 1e6, 0.0)])[0] + "\n")
    read, pieces = [], Tail._events_of

    def watch(self, file):
        begun = self.position
        yield from pieces(self, file)
        read.append(self.position - begun)

    monkeypatch.setattr(Tail, "_events_of", watch)
    assert run.summary.step == step + 1 and sum(read) < 1000
    live = RunsTable(tmp_path)
    live.refresh()
    assert live.news()["rows"][0]["state"] == "dead" and sum(read) < 1000
    assert (
        live.news(0, {run.name: 0})["curves"][run.name]["lines"]["train loss"][1][-1] <= step + 1
        and sum(read) > 4 << 20
    )


def test_a_run_keeps_its_summary_near_the_end_of_its_log(tmp_path, monkeypatch):
    "So that a killed run is listed from its summary and little more, also in the middle of a long epoch"
    monkeypatch.setattr("trainopt_nb.runs.writer.BEHIND", 5000)
    run = Run.create(tmp_path, "digits", {})
    run.start_writing()
    run.append([STARTED])
    for first in range(0, 3000, 10):
        run.append([Step(first + i, 0, random.random(), 1e-3, 64, first * 0.1, 0.0) for i in range(10)])
    assert (run.path / "events.jsonl").stat().st_size - read_summary(run.path).bytes < 6000
    run.stop_writing()


# ---- odd files


def test_a_file_that_the_manifest_leaves_out_is_damage(tmp_path):
    run = trained(tmp_path, keep=5)
    newest, older, *_ = checkpoints(run.path / "checkpoints")
    manifest = json.loads((newest.folder / "manifest.json").read_text())
    del manifest["files"]["training.safetensors"]
    (newest.folder / "manifest.json").write_text(json.dumps(manifest))
    checkpoint, *_, lost = load_checkpoint(run.path / "checkpoints")
    assert checkpoint.step == older.step and "does not list training.safetensors" in lost[0]


def test_links_are_no_runs_and_are_said(tmp_path):
    run = trained(tmp_path / "runs")
    (tmp_path / "runs" / "link").symlink_to(run.path)
    (tmp_path / "runs" / "loop").symlink_to("loop")
    table = list_runs(tmp_path / "runs")
    assert (
        [each.name for each in table] == [run.name]
        and len(table.left_out) == 1
        and "is a link" in repr(table)
    )
    with pytest.raises(RunError, match="links are not followed"):
        Run(tmp_path / "runs" / "link")
    (run.path / "checkpoints").rename(tmp_path / "checkpoints")
    (run.path / "checkpoints").symlink_to(tmp_path / "checkpoints")
    with pytest.raises(CheckpointError, match="is a link"):
        resumed(run)


def test_options_that_cannot_be_read_are_not_guessed(tmp_path):
    run = trained(tmp_path)
    (run.path / "options.json").write_text("[]")
    assert "options.json cannot be read" in repr(list_runs(tmp_path))
    with pytest.raises(RunError, match=r"options\.json cannot be read: it is no object of JSON"):
        resumed(run)


def test_runs_are_deleted_while_they_are_listed(tmp_path):
    "Another kernel makes and deletes runs"
    stop, wrong = threading.Event(), []

    def churn():
        while not stop.is_set():
            try:
                run = Run.create(tmp_path, "brief", {})
                (run.path / "events.jsonl").write_text("".join(line + "\n" for line in to_lines([STARTED])))
                run.delete()
            except Exception as error:
                wrong.append(error)

    thread = threading.Thread(target=churn)
    thread.start()
    live, until_then = RunsTable(tmp_path), time.monotonic() + 2
    try:
        while time.monotonic() < until_then:
            repr(list_runs(tmp_path))
            live.refresh()
            live.news()
    finally:
        stop.set()
        thread.join()
    assert not wrong


# ---- a fuzz: whatever happens to a run directory, each action ends in a result or in one sentence

HOSTILE = [
    "<script>alert(1)</script>",
    "\x1b[31mred\x07",
    "`code`",
    "\ud800",
    "a" * 5000,
    "%s{n}",
    "\u202egnp",
    "../../etc",
    "\0",
    "",
]
VALUES = [
    None,
    True,
    5,
    -1,
    2**70,
    0.5,
    float("nan"),
    "text",
    [],
    [1, [2]],
    {},
    {"a": {"b": []}},
    {"#tensor": "x"},
    *HOSTILE,
]
WRONG = [
    b"",
    b"5",
    b"[]",
    b"null",
    b'"text"',
    b"{",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"a": 1e999}',
    b"\0" * 1000,
    b'{"kind": "Summary"}',
]


def files_of(run, rng, suffix=""):
    return rng.choice(sorted(p for p in run.rglob(f"*{suffix}") if p.is_file() and not p.is_symlink()))


def flip_a_byte(run, rng):
    change(files_of(run, rng), lambda data: flip(data, rng.randrange(len(data))) if data else b"x")


def cut_a_file(run, rng):
    change(files_of(run, rng), lambda data: data[: rng.randrange(len(data) + 1)])


def remove_a_file(run, rng):
    files_of(run, rng).unlink()


def change_the_lines(run, rng):
    def edit(data):
        lines = data.splitlines(True)
        place = rng.randrange(len(lines))
        part = lines[place][: rng.randrange(len(lines[place]))]
        new = rng.choice(
            [
                [],
                [part],
                [part + b"\n"],
                lines[place : place + 1] * 2,
                [rng.choice(WRONG) + b"\n"],
                [rng.randbytes(50)],
            ]
        )
        return b"".join(lines[:place] + new + lines[place + 1 :])

    change(run / "events.jsonl", edit)


def put_anything_into_an_object(run, rng):
    file = files_of(run, rng, ".json*")

    def edit(data):
        lines = data.splitlines() if file.suffix == ".jsonl" else [data]
        place = rng.randrange(len(lines))
        body = json.loads(lines[place])
        inner = body
        while rng.random() < 0.5 and (deeper := [v for v in inner.values() if isinstance(v, dict) and v]):
            inner = rng.choice(deeper)
        inner[rng.choice([*inner, "new", *HOSTILE])] = rng.choice(VALUES)
        lines[place] = json.dumps(body).encode()
        return b"\n".join(lines) + b"\n"

    change(file, edit)


def put_another_content(run, rng):
    files_of(run, rng).write_bytes(rng.choice(WRONG))


def put_a_special_file(run, rng):
    path = rng.choice(
        [
            files_of(run, rng),
            run / "checkpoints",
            *(run / "checkpoints").iterdir(),
            run / "lock",
            run / "commands.jsonl",
        ]
    )
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    kind = rng.choice(
        ["pipe", "folder", "link to itself", "link to a file", "link to a folder", "endless", "nothing"]
    )
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind != "nothing":
        path.symlink_to(
            {
                "link to itself": path,
                "link to a file": "/etc/passwd",
                "link to a folder": "/",
                "endless": "/dev/zero",
            }[kind]
        )


def put_a_lock(run, rng):
    own = {
        "pid": rng.choice([*VALUES, 2**22 + 1]),
        "host": rng.choice([os.uname().nodename, *HOSTILE]),
        "started": rng.choice(VALUES),
    }
    (run / "lock").write_text(rng.choice([json.dumps(own), *(text.decode("latin-1") for text in WRONG)]))
    os.utime(run / "lock", (1, 1))


def add_noise(run, rng):
    (run / "log.txt").write_bytes(rng.randbytes(2000) + b"\n" * rng.randrange(3))
    with open(run / "events.jsonl", "ab") as log:
        log.write(
            rng.choice([rng.randbytes(300), b"x" * 100_000, b"\r\n" * 50, "é\u2028\n".encode("utf-16")])
        )


DAMAGES = [flip_a_byte, cut_a_file, remove_a_file, change_the_lines, put_anything_into_an_object, put_another_content, put_a_special_file,
           put_a_lock, add_noise]  # fmt: skip


class Slow(BaseException):
    "No error that code could take for one of the disk"


@pytest.fixture
def bounded():
    "Gives each action ten seconds"

    def late(*_):
        raise Slow("an action takes more than 10 s")

    before = signal.signal(signal.SIGALRM, late)
    yield lambda: signal.setitimer(signal.ITIMER_REAL, 10 * BUSY)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


BUSY = 6  # how much longer a busy machine takes


def one_sentence(action):
    "The result of an action; None where it is refused in one sentence"
    try:
        return action()
    except TrainoptError as error:
        text = str(error)
        assert text and "\n" not in text and "Traceback" not in text, text
        return None


def attached(run):
    handle = FollowedRun(run)
    for _ in handle.events():
        pass
    return report_text(handle.progress, run_path=str(run.path))


def use(folder, name, deep):
    "List, attach, report, resume and delete"
    table = one_sentence(lambda: list_runs(folder))
    assert table is None or (repr(table) and table._repr_mimebundle_()["text/plain"].encode())
    live = RunsTable(folder)
    live.refresh()
    json.dumps(live.news(0, {name: 0 for name in live._order}), allow_nan=False)
    run = one_sentence(lambda: find_run(name, folder))
    if run is None:
        return
    assert (
        repr(run).encode()
        and one_sentence(lambda: run.summary)
        and run.run_type
        and isinstance(run.classes, tuple)
    )
    assert run.alive or one_sentence(lambda: attached(run))
    one_sentence(run.events)
    one_sentence(lambda: run.load(net()))
    if deep:
        assert report_html(run.progress, run_path=str(run.path))
        one_sentence(lambda: resumed(run))
    one_sentence(run.delete)


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return trained(folder, epochs=2).path


@pytest.mark.parametrize("kind", ["pipe", "link to itself"])
@pytest.mark.parametrize(
    "name", ["lock", "events.jsonl", "run.json", "summary.json", "checkpoints/step-00000008"]
)
def test_what_is_no_file_and_no_folder_stops_nothing(tmp_path, finished_run, bounded, kind, name):
    folder = tmp_path / "runs"
    shutil.copytree(finished_run, folder / finished_run.name)
    path = folder / finished_run.name / name
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    os.mkfifo(path) if kind == "pipe" else path.symlink_to(path)
    # it has been there for a while; what is new may be in writing, which is waited for
    os.utime(path, (time.time() - 60,) * 2, follow_symlinks=False)
    bounded()
    use(folder, finished_run.name, deep=True)


def damaged_many_times(tmp_path, whole, seeds, bounded):
    for seed in seeds:
        rng = random.Random(seed)
        folder = tmp_path / str(seed)
        shutil.copytree(whole, folder / whole.name)
        done = [rng.choice(DAMAGES) for _ in range(rng.choice([1, 1, 2]))]
        bounded()
        try:
            for damage in done:
                damage(folder / whole.name, rng)
        except (ValueError, IndexError, OSError, AttributeError):
            pass  # the first one left nothing for the second
        try:
            use(folder, whole.name, seed % 4 == 0)
        except BaseException as error:
            raise AssertionError(
                f"seed {seed}: {[damage.__name__ for damage in done]}: {type(error).__name__}: {error}"
            ) from error
        shutil.rmtree(folder)


def test_damaged_run_directories_end_in_a_result_or_in_one_sentence(tmp_path, finished_run, bounded):
    damaged_many_times(tmp_path, finished_run, range(40), bounded)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_damaged_run_directories_many_more(tmp_path, finished_run, bounded, part):
    damaged_many_times(tmp_path, finished_run, range(40 + part, 4100, 10), bounded)
