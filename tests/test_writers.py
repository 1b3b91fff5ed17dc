"No run has two writers: locks that several processes want, full disks, children that are forked, processes that cannot be started"

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import torch
from helpers import alive, execute, lock_owner, quiet, small_table, until
from torch import nn
from warm_python import python

from trainopt_nb import RunError, fit, list_runs, resume
from trainopt_nb.events.records import Step, from_lines
from trainopt_nb.runs.directory import make_directory
from trainopt_nb.runs.run import Run
from trainopt_nb.store import lock as locks
from trainopt_nb.store import os_lock
from trainopt_nb.store.lock import claim_lock, lock_log, release_lock, take_lock, unlock_log
from trainopt_nb.store.process_record import boot_id, describe_process

X, Y, TRAIN, VALID = small_table()
GONE = {"ticks": 1, "started": 0.0}  # a process that had this one's number before


@pytest.fixture
def run(tmp_path):
    return Run(make_directory(tmp_path, "digits", {}))


@pytest.fixture
def path(run):
    return run.path / "lock"


@contextmanager
def other_process(code, *words):
    "Another process that runs code with `path`, prints a line, and goes on until the block ends"
    source = "import os, sys, time\nfrom pathlib import Path\nfrom trainopt_nb.store.lock import *\npath = Path(sys.argv[1])\n"
    source += code + "\nprint(os.getpid(), flush=True)\ntime.sleep(600)"
    process = subprocess.Popen(python("-c", source, *words), stdout=subprocess.PIPE, text=True)
    pid = int(process.stdout.readline())
    try:
        yield pid
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # the command only stands for it
        until(lambda: not alive(pid), "the end of the other process")
        process.wait()


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


# several processes want one lock

RACE = """
import json, os, sys, time
from pathlib import Path
from trainopt_nb.store import lock, os_lock
from trainopt_nb.store.process_record import describe_process

folder, kind, rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
os_lock.PATIENCE = 0.01  # else a refusal takes its time
if kind == "no locks":
    def refuse(*_):
        raise OSError(37, "No locks available")
    os_lock.fcntl.flock = refuse
stale = describe_process(os.getpid()) | {"ticks": 1, "started": 0.0}
stale = {
    "killed": stale | {"locked": True}, "claimed": stale | {"locked": False}, "no locks": stale | {"locked": False},
    "version 0.1.0": {"pid": 2**22 + 1, "host": stale["host"], "started": 0.0},
}[kind]

def contend(path, at, answer):
    while time.monotonic() < at:
        pass
    try:
        lock.take_lock(path)
        os.write(answer, b"1")
    except lock.RunError:
        os.write(answer, b"0")
    time.sleep(60)  # it writes for a while

writers = []
for number in range(rounds):
    path = folder / str(number) / "lock"
    path.parent.mkdir()
    path.write_text(json.dumps(stale))
    (path.parent / ".lock").touch()
    at, (read, write), children = time.monotonic() + 0.01, os.pipe(), []
    for _ in range(2 + number % 3):
        if (child := os.fork()) == 0:
            contend(path, at, write)
        children.append(child)
    answers = b""
    while len(answers) < len(children):
        answers += os.read(read, len(children))
    for child in children:
        os.kill(child, 9)
        os.waitpid(child, 0)
    os.close(read), os.close(write)
    writers.append(answers.count(b"1"))
print(json.dumps(writers))
"""


@pytest.mark.parametrize("kind", ["killed", "claimed", "version 0.1.0", "no locks"])
@pytest.mark.parametrize("rounds", [15, pytest.param(300, marks=pytest.mark.slow)])
def test_one_of_several_takes_over_a_stale_lock(kind, rounds, tmp_path):
    done = execute("-c", RACE, tmp_path, kind, rounds, folder=tmp_path)
    assert json.loads(done.stdout or "[]") == [1] * rounds, done.stderr


def test_a_living_writer_is_not_replaced_whatever_its_record_says(path, monkeypatch):
    "The record was removed, is damaged, or names a process that has ended: the guard is locked all the same"
    monkeypatch.setattr(locks, "WAIT", 0.1)
    with other_process("take_lock(path)", path):
        for record in (
            None,
            "{",
            "[1]",
            '"x"',
            json.dumps({"pid": "x"}),
            json.dumps(describe_process(1) | GONE),
        ):
            path.unlink() if record is None else path.write_text(record)
            with pytest.raises(RunError, match=r"stop that one first|stop it first"):
                take_lock(path)
    take_lock(path)  # it was killed
    release_lock(path)
    assert not [p for p in path.parent.iterdir() if "lock" in p.name]


def test_a_guard_that_was_removed_is_not_that_of_a_dead_writer(path):
    with other_process("take_lock(path)", path):
        path.with_name(".lock").unlink()
        for _ in range(2):
            assert lock_owner(path)
            with pytest.raises(RunError, match="stop that one first"):
                take_lock(path)
    take_lock(path)
    release_lock(path)


def test_a_lock_ends_with_its_process_and_not_with_its_children(path):
    code = "import os\ntake_lock(path)\nif os.fork() == 0:\n    time.sleep(60)\n    os._exit(0)"
    with other_process(code, path) as owner:
        (child,) = psutil.Process(owner).children()
        os.kill(owner, signal.SIGKILL)
        until(lambda: not alive(owner), "the end of the owner")
        assert alive(child.pid) and lock_owner(path) is None
        take_lock(path)
        child.kill()
    release_lock(path)


def test_a_forked_child_does_not_give_the_lock_back(path):
    take_lock(path)
    if (child := os.fork()) == 0:
        release_lock(path)
        os._exit(0)
    os.waitpid(child, 0)
    assert lock_owner(path)["pid"] == os.getpid()
    release_lock(path)
    assert lock_owner(path) is None


# where processes cannot see each other


CONTAINED = """
import sys
from pathlib import Path
from trainopt_nb.base.errors import RunError
from trainopt_nb.store.lock import take_lock
path = Path(sys.argv[1])
try:
    take_lock(path)
except RunError as error:
    print(error, flush=True)
assert sys.stdin.readline() == "again\\n"
take_lock(path)
"""


def test_a_lock_of_another_container(path):
    "Another namespace of process ids on the same machine: the system's lock is seen, process ids mean nothing"
    command = [
        "unshare",
        "--pid",
        "--fork",
        "--mount-proc",
        "--uts",
        "sh",
        "-c",
        'hostname elsewhere; exec "$@"',
        "sh",
    ]
    if not shutil.which("unshare") or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("namespaces are not allowed here; the next test stands for it")
    command += [sys.executable, "-c", CONTAINED, path]
    take_lock(path)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as contained:
        assert "stop that one first" in contained.stdout.readline()
        release_lock(path)
        contained.stdin.write("again\n")
        contained.stdin.close()
    assert contained.returncode == 0  # and it ended without giving the lock back
    assert json.loads(path.read_text())["namespace"] != describe_process(os.getpid())["namespace"]
    assert json.loads(path.read_text())["host"] == "elsewhere" and lock_owner(path) is None
    take_lock(path)
    release_lock(path)


@pytest.mark.parametrize(
    "other",
    [
        {"namespace": "pid:[1]", "locked": False},
        {"host": "elsewhere", "boot": "x"},
        {"host": "elsewhere", "boot": "x", **GONE},
    ],
    ids=str,
)
def test_what_cannot_be_told_is_refused_with_the_way_out(other, path):
    take_lock(path)
    record = json.loads(path.read_text())
    release_lock(path)
    path.write_text(json.dumps(record | other))
    assert lock_owner(path)
    with pytest.raises(RunError, match=rf"cannot be told.*stop it first, or remove {path}") as caught:
        take_lock(path)
    assert "\n" not in str(caught.value)
    path.unlink()
    take_lock(path)
    release_lock(path)


def test_the_machine_was_restarted(path):
    with other_process("take_lock(path)", path):
        pass
    change(path, boot="of yesterday")
    assert boot_id() != "of yesterday" and lock_owner(path) is None
    take_lock(path)
    release_lock(path)


def test_the_clock_is_set_while_a_run_is_claimed(path, monkeypatch):
    "A claim has no guard, so its record decides; the wall clock was part of it"
    claim_lock(path, "secret")
    real = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: real(self) + 3600)
    assert lock_owner(path)
    with other_process(
        "import psutil, os\ntry:\n    take_lock(path)\n    sys.exit(1)\nexcept Exception as error:\n    assert 'being written' in str(error)",
        path,
    ):
        pass
    take_lock(path, "secret")
    release_lock(path)


def test_a_file_system_without_locks(path, monkeypatch):
    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(os_lock.fcntl, "flock", refuse)
    take_lock(path)
    code = "from trainopt_nb.store import os_lock\ndef refuse(*_):\n    raise OSError(37, '')\nos_lock.fcntl.flock = refuse\n"
    other = "try:\n    take_lock(path)\n    sys.exit(1)\nexcept Exception as error:\n    assert 'stop that one first' in str(error)"
    with other_process(code + other, path):
        release_lock(path)
    with other_process(code + "take_lock(path)", path):
        with pytest.raises(RunError, match="stop that one first"):
            take_lock(path)
    take_lock(path)  # it was killed
    release_lock(path)
    path.with_name(".lock.d").mkdir()  # of a process that was killed while it took the lock
    monkeypatch.setattr(locks, "WAIT", 0.1)
    with pytest.raises(RunError, match=rf"remove {path.with_name('.lock.d')}"):
        take_lock(path)


# what a killed process leaves behind


def test_a_run_is_not_free_before_the_last_process_that_can_write_it_has_ended(run, path, monkeypatch):
    monkeypatch.setattr(locks, "WAIT", 0.2)
    with other_process("take_lock(path)", path):
        pass  # the supervisor was killed
    with other_process("kept = lock_log(path)", path):
        assert run.alive
        with pytest.raises(
            RunError, match=r"still written by process \d+, which process \d+ on .* left behind"
        ):
            run.start_writing()
        assert lock_owner(path)  # as it was
    assert not run.alive
    run.start_writing()
    run.stop_writing()


def test_a_claim_outlives_its_launcher_only_in_the_process_that_was_started(path):
    with other_process("claim_lock(path, 'secret')", path):
        with pytest.raises(RunError, match="stop that one first"):
            take_lock(path, "another secret")
    assert lock_owner(path) is None  # nobody can tell whether the worker comes
    take_lock(path, "secret")
    claim_lock(path, "secret", 1)  # too late to hand it on
    assert lock_owner(path)["pid"] == os.getpid()
    release_lock(path)


def test_a_claim_for_a_process_that_has_ended_is_dropped(path):
    claim_lock(path, "secret")
    claim_lock(path, "secret", 2**22 + 1)
    assert lock_owner(path) is None and not path.exists()
    claim_lock(path, "secret")
    release_lock(path, "another")
    assert path.exists()
    release_lock(path, "secret")
    assert not path.exists()


def test_the_log_has_one_appender(run, path, monkeypatch):
    monkeypatch.setattr(locks, "WAIT", 0.1)
    run.start_writing()
    with pytest.raises(RunError, match="being written by process"):
        lock_log(path)
    run.stop_writing()
    unlock_log(lock_log(path), path)


# a disk that is full


def fill(disk):
    "Take all room of a disk; returns the file to remove"
    filler = disk / "filler"
    with open(filler, "wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(1024)) or file.write(bytes(1))
    return filler


def net():
    torch.manual_seed(0)
    return nn.Linear(6, 3)


def local(folder, **more):
    "A run of this process that is to be stepped by hand"
    from trainopt_nb import Task, TrainOptions
    from trainopt_nb.api.prepare_run import start

    given = {"epochs": 3, "batch_size": 32, "device": "cpu", **more}
    return start(Task(net(), TRAIN, VALID), TrainOptions.of(**given), folder=folder)


def test_pause_on_a_full_disk_and_resume_when_there_is_room(small_disk):
    job = local(small_disk)
    events = job.events(nap=0.0)
    while job.progress.step < 3:
        next(events)
    filler = fill(small_disk)
    job.send("pause")
    while job.progress.state != "paused":
        next(events)
    filler.unlink()
    job.send("resume")
    for _ in events:
        pass
    lines = (job.run.path / "events.jsonl").read_text().splitlines()
    assert all(isinstance(json.loads(line), dict) for line in lines)
    steps = [e.step for e in from_lines(lines) if type(e) is Step]
    assert job.run.state == "finished" and steps == list(range(1, 25))
    states = [json.loads(line)["state"] for line in lines if '"kind": "State"' in line]
    assert "paused" in states


PART = """
import json, resource, signal, sys
from trainopt_nb.events.records import State
from trainopt_nb.runs.run import Run
run = Run(sys.argv[1])
run.start_writing()
log = run.path / "events.jsonl"
wanted = []
for number in range(40):
    room = log.stat().st_size + number
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, -1))
    try:
        run.append([State("paused", number)])
        wanted.append(number)
    except OSError:
        pass
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    run.append([State("training", -number)])
    wanted.append(-number)
run.stop_writing()
found = [json.loads(line)["step"] for line in log.read_text().splitlines()]
assert found == wanted, (found, wanted)
"""


def test_no_part_of_a_line_stays_whatever_room_there_was(run, tmp_path):
    done = execute("-c", PART, run.path, folder=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("left", [0, 1, 3])
def test_resume_on_a_full_disk_is_one_sentence_and_gives_the_lock_back(left, small_disk):
    run = fit(net(), TRAIN, VALID, folder=small_disk, epochs=1, batch_size=32, device="cpu", write=quiet)
    filler = fill(small_disk)
    os.truncate(filler, filler.stat().st_size - left * 4096)  # pages of a file each
    with pytest.raises(RunError, match=r"No space left on device|has no room|are free") as caught:
        resume(run, net(), TRAIN, VALID, epochs=2, write=quiet)
    assert "\n" not in str(caught.value) and lock_owner(run.path / "lock") is None
    filler.unlink()
    assert not [
        p.name for p in run.path.iterdir() if p.name.startswith((".lock-", ".options", ".run", ".summary"))
    ]
    assert resume(run, net(), TRAIN, VALID, epochs=2, write=quiet).state == "finished"


# what is no full disk is not called one


OPEN_FILES_RUN_OUT = """
import resource, sys
from trainopt_nb import Task, TrainOptions
from trainopt_nb.api.prepare_run import start
from helpers import TRAIN, VALID, net

options = TrainOptions.of(epochs=3, batch_size=16, device="cpu", save_steps=1)
job = start(Task(net(), TRAIN, VALID), options, folder=sys.argv[1])
events = job.events(nap=0.0)
while job.progress.step < 3:
    next(events)
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
for _ in events:
    pass
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
job.close()
"""


def test_open_files_run_out(tmp_path):
    "In a process of its own: threads of other tests, such as a server of pages, could open no files either"
    done = execute("-c", OPEN_FILES_RUN_OUT, tmp_path, folder=Path(__file__).parent)
    assert done.returncode == 0, done.stderr
    (run,) = list_runs(tmp_path)
    assert run.state == "failed" and not (run.path / "lock").exists()
    assert "Too many open files" in run.progress.reason and "room" not in run.progress.reason


class Forks(nn.Module):
    "Forks a child in its fifth step, as a library of the user's may"

    def __init__(self, how):
        super().__init__()
        self.body, self.how, self.calls, self.child = nn.Linear(6, 3), how, 0, 0

    def forward(self, x):
        self.calls += self.training
        if self.calls == 5 and self.training and not self.child:
            self.child = os.fork() or -1
            if self.child == -1 and self.how == "exits":
                sys.exit(0)
            elif self.child == -1 and self.how == "fails":
                raise ValueError("in the child")
        return self.body(x)


CHILD = """
import os, sys
sys.path.insert(0, {tests!r})
from test_writers import Forks, TRAIN, VALID, fit, quiet
parent, code = os.getpid(), 1
try:
    model = Forks({how!r})
    run = fit(model, TRAIN, VALID, folder={folder!r}, epochs=3, batch_size=32, save_steps=1, device="cpu", write=quiet)
    assert os.waitpid(model.child, 0)
    print(run.state)
    code = 0
finally:
    if os.getpid() != parent:
        sys.stderr.flush()
        os._exit(0)
"""


@pytest.mark.parametrize("how", ["exits", "fails", "goes on"])
def test_only_the_process_that_opened_a_run_writes_it(how, tmp_path):
    code = CHILD.format(tests=str(Path(__file__).parent), how=how, folder=str(tmp_path))
    done = execute("-c", code, folder=tmp_path)
    (run,) = list_runs(tmp_path)
    events = list(from_lines(run.lines()[0]))
    kinds = [type(e).__name__ for e in events]
    assert run.state == "finished" and done.stdout == "finished\n", done.stderr
    assert kinds.count("Ended") == 1 and [e.step for e in events if type(e) is Step] == list(range(1, 25))
    assert not list((run.path / "checkpoints").glob(".tmp*"))


# processes that cannot be started

START = """
import sys, time, resource, os
sys.path.insert(0, {tests!r})
from test_writers import TRAIN, VALID, net
from trainopt_nb import RunError, Task, TrainOptions, fit
from trainopt_nb.api.run_task import Where, run_task
{before}
try:
    print("finished" if fit(net(), TRAIN, VALID, folder={folder!r}, epochs=1, devices=2, write=lambda line: None).state == "finished" else "?")
except RunError as error:
    print(error)
job = run_task(Task(net(), TRAIN, VALID), TrainOptions.of(epochs=1), Where({folder!r}, background=True))
for _ in job.events():
    pass
print(job.progress.state, job.progress.reason)
"""


def started(tmp_path, before="", interpreter=(), **environment):
    folder = tmp_path / "runs"
    folder.mkdir()
    code = START.format(tests=str(Path(__file__).parent), before=textwrap.dedent(before), folder=str(folder))
    began = time.monotonic()
    done = subprocess.run(
        [*interpreter, "-c", code] if interpreter else python("-c", code),
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    print(f"{time.monotonic() - began:.0f} s")
    assert done.returncode == 0, done.stderr
    runs = list_runs(folder)
    assert len(runs) == 2 and not any(run.alive for run in runs)
    return done.stdout.splitlines()


def test_a_folder_for_temporary_files_whose_path_is_too_long_for_a_socket(tmp_path):
    long = tmp_path / ("x" * 100) / ("y" * 100)
    long.mkdir(parents=True)
    foreground, background = started(tmp_path, TMPDIR=str(long))
    assert foreground == "finished" and background.startswith("finished")


FILES = "resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir('/proc/self/fd')) + 2, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))"
PROCESSES = "resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))"
NO_ROOT = ["setpriv", "--ruid", "65534", "--bounding-set=-sys_resource,-sys_admin"]  # for whom no limit holds


@pytest.mark.parametrize(
    ("before", "cause"),
    [
        (FILES, "Too many open files"),
        pytest.param(PROCESSES, "temporarily unavailable", marks=pytest.mark.slow),
    ],
    ids=["files", "processes"],
)
def test_a_process_that_cannot_be_started_is_said_at_once(before, cause, tmp_path):
    "No run waits for it, in the foreground or in the background, and none keeps its lock"
    interpreter = []
    if before == PROCESSES and os.getuid() == 0:
        if not shutil.which("setpriv") or subprocess.run([*NO_ROOT, "true"], capture_output=True).returncode:
            pytest.skip("root has no limit of processes, and cannot become another user here")
        interpreter = [*NO_ROOT, sys.executable]  # the user of the warm process is another one
    foreground, background = started(tmp_path, before, interpreter)
    assert "could not be started" in foreground and cause in foreground
    assert background.startswith("failed") and cause in background
