"What a run says before its first step, and what an interrupt does there: one sentence, no process left, the cells behind do not run"

import os
import signal
import sys
import time
from functools import partial

import psutil
import pytest
import torch
from helpers import until
from jupyter_client import KernelManager
from torch import nn
from warm_python import python

from trainopt_nb import Run, Task, TrainOptions
from trainopt_nb.api import run_task as run_task_module
from trainopt_nb.api.run_task import Where, begin_in_lines, print_lines, run_task
from trainopt_nb.base.phases import phases_watched, tell_phase
from trainopt_nb.events.preparing import Preparing
from trainopt_nb.events.records import Stop

TASK = """
import torch
from torch import nn
torch.manual_seed(0)
x = torch.randn(4000, 20)
train_data = valid_data = x, (x[:, 0] > 0).long()
model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 2))
"""
CELLS = {
    "here": f"%%trainopt fit --epochs 3000\n{TASK}",
    "background": f"%%trainopt fit --epochs 3000 --background\n{TASK}",
    "devices": f"%%trainopt fit --epochs 3000 --devices 2 --device cpu\n{TASK}",
    "sweep": f"%%trainopt sweep --trials 500 --epochs 50 -j 1 --space lr=1e-4..1e-1:log\n{TASK}",
    "compress": "%trainopt compress --prune 0.5 --quantize int8",
}
SENTENCES = (
    "The cell was interrupted",
    "The training was interrupted",
    "The sweep was",
    "The compression was",
)


def small_task():
    x = torch.randn(100, 2)
    return Task(nn.Linear(2, 2), (x, (x[:, 0] > 0).long()))


def test_a_background_run_says_what_it_does_before_its_first_step(tmp_path):
    handle = run_task(small_task(), TrainOptions(epochs=1), Where(tmp_path, background=True))
    seen = []
    for new in handle.events():
        seen += [(e.phase, handle.progress.state) for e in new if isinstance(e, Preparing)]
    phases = [phase for phase, _ in seen]
    assert phases[:2] == ["process", "task"] and phases[-1] == "check" and {s for _, s in seen} == {"waiting"}
    assert handle.progress.state == "finished" and Run(handle.run.path).state == "finished"


def test_a_terminal_prints_what_lasts(monkeypatch):
    monkeypatch.setattr(run_task_module, "phases_watched", partial(phases_watched, after=0.3))
    lines = []

    def begin():
        tell_phase("check")
        tell_phase("data")
        time.sleep(0.7)
        return "the handle"

    assert begin_in_lines(begin, lines.append) == "the handle"
    assert lines == ["reading the data …"]


def test_a_stop_that_is_sent_while_the_process_starts_is_not_lost(tmp_path):
    handle = run_task(small_task(), TrainOptions(epochs=100_000), Where(tmp_path, background=True))
    handle.send("stop")
    assert handle.result().state == "stopped"
    assert handle.progress.step < 100


def test_ranks_that_are_interrupted_before_their_first_step_end_at_once(tmp_path):
    handle = run_task(small_task(), TrainOptions(epochs=100_000, devices=2, device="cpu"), Where(tmp_path))
    for _ in handle.events(lambda: Stop("interrupted")):
        pass
    lines = []
    assert print_lines(handle, lines.append) is handle.run
    assert lines == ["not begun: interrupted before the first step; run its cell again"]
    until(lambda: not Run(handle.run.path).alive, "the end of the processes", 60)
    assert Run(handle.run.path).state == "not begun"


# a kernel, as a page has it


def kernel_in(folder, warm):
    "A kernel and its client; a warm one is a fork in which everything is imported"
    manager = KernelManager(kernel_name="python3")
    start = python("-m", "ipykernel_launcher", "-f", "{connection_file}")
    manager.kernel_spec.argv = (
        start if warm else [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    )
    manager.start_kernel(cwd=str(folder), env={**os.environ, "IPYTHONDIR": str(folder / "ipython")})
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=120)
    return manager, client


def interrupted(client, pid, cell, moment):
    "Run a cell and one behind it, press stop after some seconds; the replies to both"
    request = client.execute(cell, allow_stdin=True)
    behind = client.execute("ran_on = True", allow_stdin=True)
    time.sleep(moment)
    os.kill(pid, signal.SIGINT)
    replies = {}
    while not replies.keys() >= {request, behind}:
        reply = client.get_shell_msg(timeout=120)
        replies[reply["parent_header"]["msg_id"]] = reply["content"]
    return replies[request], replies[behind]


def check_interrupt(folder, kind, moment, warm):
    manager, client = kernel_in(folder, warm)
    mine = psutil.Process(kernel_pid(client))
    try:
        client.execute_interactive("%load_ext trainopt_nb", timeout=120, output_hook=lambda m: None)
        if kind == "compress":
            first = f"%%trainopt fit --epochs 1\n{TASK}"
            client.execute_interactive(first, timeout=120, output_hook=lambda m: None)
        said, behind = interrupted(client, mine.pid, CELLS[kind], moment)
        if said["status"] == "error":
            assert said["ename"] == "Interrupted", said
            assert said["traceback"] == [said["evalue"]] and said["evalue"].startswith(SENTENCES), said
            assert behind["status"] == "aborted"
        else:  # a run in the background had begun, and its cell was back
            assert kind == "background" and behind["status"] == "ok"
        children = mine.children(recursive=True)
        runs = [Run(path.parent) for path in folder.glob("runs/*/run.json")]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    if kind == "background":
        for run in runs:
            until(
                lambda run=run: run.progress.step or not run.alive, "the run going on without its kernel", 120
            )
            if run.alive:
                run.send("stop")
                run.wait(60)
    _, left = psutil.wait_procs(children, 60)
    assert not left, left
    for run in runs:
        until(lambda run=run: not run.alive, "the end of the run", 60)
        assert run.state in ("stopped", "finished", "not begun"), (run.name, run.state)


def kernel_pid(client):
    reply = client.execute_interactive(
        "import os", user_expressions={"pid": "os.getpid()"}, timeout=60, output_hook=lambda m: None
    )
    return int(reply["content"]["user_expressions"]["pid"]["data"]["text/plain"])


def test_an_interrupt_in_the_first_second(tmp_path):
    "Of a run on two devices, whose processes have not begun"
    check_interrupt(tmp_path, "devices", 0.5, warm=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("moment", [0.1, 0.5, 1, 2, 3, 5])
def test_an_interrupt_at_any_moment_of_a_fresh_kernel(kind, moment, tmp_path):
    check_interrupt(tmp_path, kind, moment, warm=False)
