"Any function in a worker process: its result, its events, its errors, its death, and no orphans"

import errno
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from helpers import alive, until
from warm_python import python

from trainopt_nb.base.errors import RunError, WorkerError
from trainopt_nb.workers import processes
from trainopt_nb.workers.processes import warm
from trainopt_nb.workers.submit import submit, wait_for

PATIENCE = 60  # seconds in which a loaded machine gives an answer


@pytest.fixture(scope="module", autouse=True)
def forkserver(warm_process):
    warm()


def search(goal, nap=0.0):
    "Yield ever closer guesses; a command is another goal"
    guess = 0.0
    try:
        while True:
            time.sleep(nap)
            guess += (goal - guess) / 2
            goal = (yield guess) or goal
    except GeneratorExit:
        return guess


search.__module__ = "__main__"  # travels by value, like a function of a notebook


def fail(value):
    return 1 / value


def test_a_result_comes_back_and_a_class_of_a_cell_travels():
    layer = torch.nn.Linear(3, 2)
    found = submit(lambda x, scale: layer(x).detach() * scale, torch.ones(1, 3), scale=2.0).result(PATIENCE)
    assert torch.equal(found, layer(torch.ones(1, 3)).detach() * 2.0)


EARLY = """
import os, signal, threading, time
from multiprocessing import get_context
from trainopt_nb.workers import processes
signal.signal(signal.SIGINT, lambda *_: None)
processes.PRELOAD[1:] = ["slow_module"]
begin = threading.Thread(target=lambda: processes.start(print, "begun").join())
begin.start()
while begin.is_alive():
    os.killpg(0, signal.SIGINT)
    time.sleep(0.002)
del __file__  # a kernel is no script that a process could import
with get_context("forkserver").Pool(1) as pool:
    print(pool.apply(signal.getsignal, (signal.SIGINT,)).__name__, pool.apply(signal.pthread_sigmask, (signal.SIG_BLOCK, ())))
"""


def test_interrupts_while_the_first_worker_starts_end_nothing(tmp_path):
    "The forkserver imports for seconds; a process that the user starts by it still gets its interrupts"
    (tmp_path / "slow_module.py").write_text("import time; time.sleep(0.5)")
    (tmp_path / "early.py").write_text(EARLY)
    places = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "early.py"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": places},
        capture_output=True, text=True, start_new_session=True, timeout=60,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("begun\ndefault_int_handler set()\n", "")


def test_the_worker_is_another_process_and_the_same_for_nobody():
    pids = {submit(os.getpid).result(PATIENCE) for _ in range(2)}
    assert len(pids) == 2 and os.getpid() not in pids


def test_events_commands_and_what_a_stop_returns():
    with submit(search, 8.0) as worker:
        events = worker.events(PATIENCE)
        assert [next(events) for _ in range(3)] == [4.0, 6.0, 7.0]
        worker.send(-8.0)
        assert any(event < -7.9 for event in events)
        began = time.perf_counter()
        assert worker.stop(PATIENCE) == pytest.approx(-8.0, abs=0.1)
        print(f"stop to result: {(time.perf_counter() - began) * 1000:.0f} ms")
    assert worker.done and list(worker.events()) == []
    until(lambda: not alive(worker.process.pid), "the end of the process")


def test_a_function_that_ends_gives_its_events_then_its_result():
    def count(n):
        yield from range(n)
        return "counted"

    worker = submit(count, 3)
    assert list(worker.events(PATIENCE)) == [0, 1, 2] and worker.result() == "counted"


def test_an_error_is_named_with_the_workers_traceback():
    with pytest.raises(WorkerError, match="fail: ZeroDivisionError: division by zero") as caught:
        submit(fail, 0).result(PATIENCE)
    assert "return 1 / value" in caught.value.details


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_death_is_named_at_once(number):
    with submit(search, 1.0, nap=0.01) as worker:
        next(worker.events(PATIENCE))
        os.kill(worker.process.pid, number)
        with pytest.raises(WorkerError, match=rf"search \(process {worker.process.pid}\).*{number.name}"):
            worker.result(PATIENCE)


def test_what_cannot_be_pickled_is_named_in_both_directions():
    with pytest.raises(RunError, match=r"argument 1\['lock'\] is a lock"):
        submit(len, {"lock": threading.Lock()})
    with pytest.raises(WorkerError, match="is a lock, which cannot travel"):
        submit(threading.Lock).result(PATIENCE)


def test_a_plain_function_that_is_stopped_is_killed():
    worker = submit(time.sleep, 600)
    assert worker.stop(0.1) is None and not alive(worker.process.pid)
    with pytest.raises(WorkerError, match="stopped before it had a result"):
        worker.result()
    with pytest.raises(TimeoutError), submit(time.sleep, 600) as slow:
        slow.result(0.1)
    assert not alive(slow.process.pid)


def test_several_at_once():
    waiting, found = [submit(fail, n) for n in (1, 2, 4)], []
    while waiting:
        for worker in wait_for(waiting, PATIENCE):
            found.append(worker.result(PATIENCE))
            waiting.remove(worker)
    assert sorted(found) == [0.25, 0.5, 1.0]


PARENT = """
import os, time
from trainopt_nb.workers.submit import submit
if __name__ == "__main__":
    workers = [submit(time.sleep, 600) for _ in range(2)]
    print(os.getpid(), *(worker.process.pid for worker in workers), flush=True)
    time.sleep(600)
"""


def test_no_worker_outlives_a_killed_parent(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    parent = subprocess.Popen(python(tmp_path / "parent.py"), stdout=subprocess.PIPE, text=True)
    pid, *workers = map(int, parent.stdout.readline().split())
    assert len(workers) == 2 and all(map(alive, workers))
    os.kill(pid, signal.SIGKILL)
    parent.wait()
    until(lambda: not any(map(alive, workers)), "the end of the workers", 10)


def test_no_file_for_what_starts_processes_is_said_in_a_sentence(monkeypatch):
    def full():
        raise OSError(errno.EMFILE, "Too many open files", "forkserver.py")

    monkeypatch.setattr(processes, "_context", full)
    with pytest.raises(RunError, match=r"could not be started .Too many open files.: close open files"):
        processes.start(print)
