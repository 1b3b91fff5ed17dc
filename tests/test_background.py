"Runs in a process of their own: what they give, how they end, what cannot travel"

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import suppress

import psutil
import pytest
import torch
from helpers import assert_still, moving, over, quiet, some_quick, until
from starts import launch
from torch import nn
from warm_python import python

from trainopt_nb.api.fit import fit, resume
from trainopt_nb.api.handle import load_final_weights
from trainopt_nb.base.errors import RunError
from trainopt_nb.events.records import Pause, Resume, Save, SetLr, Stop
from trainopt_nb.runs.run import Run
from trainopt_nb.runs.table import list_runs
from trainopt_nb.store.lock import lock_owner
from trainopt_nb.task.task import Task
from trainopt_nb.task.train_options import TrainOptions
from trainopt_nb.workers.processes import warm

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(400, 4, generator=GENERATOR)
Y = (X.sum(1) > 0).long()
DATA = (X[:300], Y[:300]), (X[300:], Y[300:])


@pytest.fixture(scope="module", autouse=True)
def workers(warm_process):
    warm()


class Slow(nn.Module):
    "A model whose steps take a while; its class comes along, as one from a cell would"

    def __init__(self, seconds=0.005, fault=None):
        super().__init__()
        self.body, self.seconds, self.fault, self.calls = nn.Linear(4, 2), seconds, fault, 0

    def forward(self, x):
        time.sleep(self.seconds)
        self.calls += 1
        if self.fault and self.calls > 20:
            self.fault()
        return self.body(x)


Slow.__module__ = "__main__"  # travels by value, like a class of a notebook


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 2))


def slow_run(tmp_path, fault=None, **options):
    return launch(
        Task(Slow(fault=fault), *DATA),
        TrainOptions.of(epochs=1000, save_seconds=0.2, **options),
        folder=tmp_path,
    )


def test_it_gives_the_same_bits_as_a_run_in_the_cell(tmp_path):
    here, there = model(), model()
    fit(here, *DATA, folder=tmp_path / "here", epochs=4, write=quiet)
    run = over(launch(Task(there, *DATA), TrainOptions(epochs=4), folder=tmp_path / "there"))
    assert run.state == "finished" and load_final_weights(run, there) == []
    assert all(
        torch.equal(a, b)
        for a, b in zip(here.state_dict().values(), there.state_dict().values(), strict=True)
    )
    told = [
        [(e.epoch, e.train_loss, e.valid_loss) for e in r.progress.epochs]
        for r in (run, list_runs(tmp_path / "here")[0])
    ]
    assert told[0] == told[1]


def test_commands_reach_it(tmp_path):
    run = slow_run(tmp_path)
    moving(run)
    run.send(Pause())
    until(lambda: run.state == "paused", "the pause")
    assert_still(lambda: run.progress.step)
    run.send(SetLr(0.5))
    until(
        lambda: any(type(e).__name__ == "LrChanged" for e in run.events()),
        "the new learning rate, although it is paused",
    )
    run.send(Resume())
    moving(run)
    saved = run.progress.saved.step
    run.send(Save())
    until(lambda: run.progress.saved.step > saved, "a checkpoint")
    sent = time.monotonic()
    run.send(Stop())
    over(run)
    print(f"stop to the end of the process: {(time.monotonic() - sent) * 1000:.0f} ms")
    assert run.state == "stopped" and run.progress.lr == 0.5
    told = [e.step for e in run.events() if type(e).__name__ == "Step"]
    assert told == list(range(1, len(told) + 1))
    with pytest.raises(RunError, match="no process takes its commands"):
        run.send(Pause())


def test_wait_returns_at_the_end_and_says_what_goes_on(tmp_path):
    run = slow_run(tmp_path)
    with pytest.raises(RunError, match=r"is .* after 0\.1 s of waiting, and goes on"):
        run.wait(0.1)
    moving(run)
    threading.Timer(0.3, run.send, ["stop"]).start()
    assert run.wait() is run and run.state == "stopped" and not run.alive
    failed = slow_run(tmp_path, fault=lambda: 1 / 0)
    with pytest.raises(RunError, match="is failed: ZeroDivisionError"):
        failed.wait()
    local = Run.create(tmp_path, "local", {})
    local.start_writing()
    with pytest.raises(RunError, match="would wait for itself"):
        local.wait()
    local.stop_writing()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_killed_worker_is_told_apart_and_resumed(tmp_path, number):
    run = slow_run(tmp_path)
    moving(run)
    until(lambda: run.progress.saved and run.progress.saved.step, "a checkpoint")
    os.kill(lock_owner(run.path / "lock")["pid"], number)
    until(lambda: run.state == "dead", "the death")
    if number == signal.SIGSEGV:
        until(lambda: "Segmentation fault" in (run.path / "log.txt").read_text(), "the last words", 10)
    done = run.progress.saved.step
    again = resume(run, Slow(seconds=0), *DATA, epochs=done // 5 + 2, write=quiet)
    assert again.state == "finished"


def boom():
    raise ValueError("the model gives up")


def test_an_exception_is_shown_with_its_log(tmp_path):
    run = over(slow_run(tmp_path, fault=boom))
    assert run.state == "failed" and "the model gives up" in run.progress.reason
    until(
        lambda: "Traceback" in (run.path / "log.txt").read_text(), "the traceback, which is written last", 10
    )


def test_a_run_that_cannot_begin_says_why(tmp_path):
    run = over(launch(Task(nn.Linear(5, 2), *DATA), TrainOptions(), folder=tmp_path))
    assert run.state == "failed" and "cannot take the first batch" in run.progress.reason


def test_memory_limit(tmp_path):
    "The operating system refuses memory: the run ends with a sentence, the caller is well"

    def hungry():
        import resource

        limit = psutil.Process().memory_info().vms + 2**30  # a torch for CUDA takes much from the start
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        torch.zeros(2**34, dtype=torch.uint8)

    run = over(slow_run(tmp_path, fault=hungry))
    assert run.state == "failed" and "emory" in run.progress.reason


@pytest.mark.parametrize(
    ("name", "value"),
    [("train_data.rows", (i for i in range(3))), ("train_data.lock", __import__("threading").Lock())],
)
def test_what_cannot_travel_is_named(tmp_path, name, value):
    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, i):
            return X[i], Y[i]

    data = Rows()
    setattr(data, name.split(".")[1], value)
    with pytest.raises(RunError, match=name) as caught:
        launch(Task(model(), data), TrainOptions(), folder=tmp_path)
    assert "__getitem__" in str(caught.value) and not list(tmp_path.iterdir())


PARENT = """
import multiprocessing, os, sys, time, torch
from torch import nn
from trainopt_nb.api.run_task import Where, run_task
from trainopt_nb.task.task import Task
from trainopt_nb.task.train_options import TrainOptions
class Slow(nn.Linear):
    def forward(self, x):
        time.sleep(0.005)
        return super().forward(x)
if __name__ == "__main__":
    multiprocessing.set_executable(sys.argv[2])
    x = torch.randn(100, 4)
    run = run_task(Task(Slow(4, 2), (x, (x.sum(1) > 0).long())), TrainOptions(epochs=20_000), Where(sys.argv[1], background=True)).run
    print(run.path, os.getpid(), sep="\\n", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("how", some_quick(["killed", "ends"], "ends"))
def test_it_outlives_its_parent(tmp_path, how):
    (tmp_path / "parent.py").write_text(textwrap.dedent(PARENT))
    # the warm process gives each process a group of its own; started cold, the forkserver is in that of the parent
    forkserver = sys.executable if how == "killed" else python()[0]
    words = python(tmp_path / "parent.py", tmp_path / "runs", forkserver)
    pipe = subprocess.PIPE
    parent = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True)
    run, pid = Run(parent.stdout.readline().strip()), int(parent.stdout.readline())
    moving(run)
    worker = psutil.Process(lock_owner(run.path / "lock")["pid"])
    if how == "killed":
        assert os.getpgid(worker.ppid()) == pid
        os.killpg(pid, signal.SIGKILL)
    else:
        parent.stdin.close()
    assert parent.wait(20) == (-signal.SIGKILL if how == "killed" else 0)
    assert worker.is_running() and run.state == "training"
    moving(run)
    run.send(Stop())
    over(run)
    assert run.state == "stopped"


def test_no_step_is_taken_in_a_pause_whatever_is_asked(tmp_path):
    run = slow_run(tmp_path)
    moving(run)
    run.send(Pause())
    until(lambda: run.state == "paused", "the pause")
    still = run.progress.step
    for _ in range(6):
        run.send(Save())
        assert_still(lambda: run.progress.step, 0.1)
    assert run.progress.step == still and run.state == "paused"
    run.send(Stop())
    with suppress(RunError):  # a run that has ended by then takes no command
        run.send(Stop())
        run.send(SetLr(0.1))
    over(run)
    assert run.state == "stopped"


def test_a_run_in_a_terminal_obeys_other_processes(tmp_path):
    source = (
        "import torch, time\nfrom torch import nn\nfrom trainopt_nb import fit\n"
        "class Slow(nn.Linear):\n    def forward(self, x):\n        time.sleep(0.01)\n        return super().forward(x)\n"
        f"fit(Slow(4, 2), (torch.randn(80, 4), torch.randint(2, (80,))), epochs=1000, batch_size=8, folder={str(tmp_path)!r})"
    )
    process = subprocess.Popen(python("-c", source), stdout=subprocess.PIPE, text=True)
    run = until(lambda: list_runs(tmp_path), "a run", 60)[0]
    moving(run)
    run.send(SetLr(0.5))
    until(lambda: run.progress.lr == 0.5, "the new learning rate")
    run.send("stop")
    assert "stopped: stopped by hand" in process.communicate(timeout=30)[0]
    assert process.returncode == 0
