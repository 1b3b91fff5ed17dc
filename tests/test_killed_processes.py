"""kill -9 of every process that a run has, alone and in pairs: nothing writes on, nobody waits, and the run resumes

A run in the cell, in the background, and on two devices, each with a loader that has workers. Its processes are the kernel (here a script),
the warm server from which others are forked, the process that trains or supervises, the ranks, and the workers of the loader.
"""

import json
import os
import random
import signal
import subprocess
import time
from itertools import combinations
from pathlib import Path

import psutil
import pytest
import torch
from helpers import alive, lock_owner, moving, over, quiet, ranks_of, small_table, some_quick, until
from starts import leave
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, TensorDataset
from warm_python import python

from trainopt_nb import Run, RunError, Task, TrainOptions, fit, resume
from trainopt_nb.events.records import Ended, Step, from_lines
from trainopt_nb.workers import supervise
from trainopt_nb.workers.processes import warm
from trainopt_nb.workers.submit import submit

X, Y, TRAIN, VALID = small_table()
ROLES = {
    "cell": ("kernel", "loader"),
    "background": ("kernel", "server", "trainer", "loader"),
    "devices": ("kernel", "server", "supervisor", "rank 0", "rank 1", "loader"),
}
PAIRS = [
    (where, pair)
    for where, roles in ROLES.items()
    for pair in [*((r,) for r in roles), *combinations(roles, 2)]
]
QUICK = [  # the worst of each kind
    ("cell", ("kernel",)),
    ("background", ("trainer", "server")),
    ("devices", ("rank 0", "loader")),
]  # and `test_ranks_end_within_a_second_of_their_supervisor`

SCRIPT = """
import os, sys, time
sys.path.insert(0, {tests!r})
from test_killed_processes import Slow, loader
from trainopt_nb import RunError, Task, TrainOptions, fit
from trainopt_nb.api.run_task import Where, run_task

print(os.getpid(), flush=True)
how = dict(epochs=10_000, save_steps=5, device="cpu")
where, folder = {where!r}, {folder!r}
try:
    if where == "background":
        job = run_task(Task(Slow(), loader()), TrainOptions.of(**how), Where(folder, background=True))
        job.result()
    else:
        fit(Slow(), loader(), folder=folder, devices=2 if where == "devices" else 1, write=lambda line: None, **how)
except RunError as error:
    print("RunError:", error, flush=True)
"""


@pytest.fixture(scope="module", autouse=True)
def workers(warm_process):
    warm()


class Slow(nn.Module):
    def __init__(self, seconds=0.01):
        super().__init__()
        self.body, self.seconds = nn.Linear(6, 3), seconds

    def forward(self, x):
        time.sleep(self.seconds)
        return self.body(x)


def loader(workers=1):
    return DataLoader(
        TensorDataset(*TRAIN), 32, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )


def begin(where, folder):
    "A script that trains, its run, and the ids of all processes by what they do"
    code = SCRIPT.format(tests=str(Path(__file__).parent), where=where, folder=str(folder))
    script = subprocess.Popen(python("-c", code), stdout=subprocess.PIPE, text=True)
    kernel = int(script.stdout.readline())
    run = Run(until(lambda: [p.parent for p in folder.glob("*/run.json")], "a run")[0])
    moving(run)
    until(lambda: run.progress.saved and run.progress.saved.step, "a checkpoint")
    owner = lock_owner(run.path / "lock")["pid"]
    processes = {"kernel": kernel}
    if where != "cell":
        processes |= {
            "trainer" if where == "background" else "supervisor": owner,
            "server": psutil.Process(owner).ppid(),
        }
    if where == "devices":
        processes |= {f"rank {n}": pid for n, pid in enumerate(ranks_of(run))}
    trains = processes.get("rank 0", owner)
    processes["loader"] = until(lambda: psutil.Process(trains).children(), "a worker of the loader")[0].pid
    return script, run, processes


def assert_no_writer(run, processes):
    "Nothing is left that could write the run, and its log stays as it is"
    over(run)
    writers = {
        pid for role, pid in processes.items() if role in ("trainer", "supervisor", "rank 0", "rank 1")
    }
    until(lambda: not any(map(alive, writers)), "the end of the processes that write", 5)
    log = run.path / "events.jsonl"
    size = log.stat().st_size
    time.sleep(0.3)
    assert log.stat().st_size == size and not lock_owner(run.path / "lock")


def kill_and_resume(where, victims, folder):
    "Kill processes of a run at one moment; the run ends by itself or goes on, and can be resumed"
    script, run, processes = begin(where, folder)
    time.sleep(random.uniform(0, 0.3))
    for role in victims:
        os.kill(processes[role], signal.SIGKILL)
    assert_ended_and_resume(where, victims, script, run, processes)


def assert_ended_and_resume(where, victims, script, run, processes):
    "A run of which processes were killed ends by itself or goes on, and can be resumed"
    spared = set(victims) <= ({"kernel", "server"} if where == "background" else {"server"})
    if spared:  # these do not train, and the run outlives them
        moving(run)
        run.send("stop")
    assert_no_writer(run, processes)
    assert run.state == "stopped" if spared else run.state in ("failed", "dead")
    said = script.communicate(timeout=60)[0]
    until(
        lambda: not alive(processes["loader"]),
        "the end of the loader's worker, which looks for its parent every 5 s",
    )
    if "kernel" not in victims:
        raised = said.startswith("RunError: ") or script.returncode == 1
        assert spared or raised, said  # nobody waits, and nobody takes it for a success
    done = run.progress.epoch
    again = resume(run, Slow(0), loader(0), write=quiet, devices=1, epochs=done + 2)
    events = list(from_lines(run.lines()[0]))
    assert all(json.loads(line) for line in run.lines()[0]) and again.state == "finished"
    steps = [e.step for e in run.events() if type(e) is Step]
    assert steps == list(range(1, len(steps) + 1)) and type(events[-1]) is Ended
    return said


@pytest.mark.parametrize(
    ("where", "victims"), QUICK, ids=lambda value: value if isinstance(value, str) else " and ".join(value)
)
def test_a_killed_process(where, victims, tmp_path):
    kill_and_resume(where, victims, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(50))
def test_fifty_kills(number, tmp_path):
    "Each process alone and each pair, again and again, at random moments"
    kill_and_resume(*PAIRS[number % len(PAIRS)], tmp_path)


# ranks and their supervisor


def test_ranks_end_within_a_second_of_their_supervisor(tmp_path, undisturbed):
    script, run, processes = begin("devices", tmp_path)
    with undisturbed():
        os.kill(processes["supervisor"], signal.SIGKILL)
        until(
            lambda: not alive(processes["rank 0"]) and not alive(processes["rank 1"]),
            "the end of the ranks",
            1,
        )
        # the first thread of a rank may be gone while the others, which have its open files, still end
        until(lambda: not run.alive, "the end of the last thread of a rank", 1)
    assert run.state == "dead"
    said = assert_ended_and_resume("devices", ("supervisor",), script, run, processes)
    assert "RunError: its process is gone" in said


def sleep_on(payload, arguments, ranks, share):
    Path(arguments[0], str(ranks.rank)).write_text(str(os.getpid()))
    time.sleep(600)


def supervise_by_pipe(folder):
    "Start ranks as where the system cannot kill them with their parent"
    supervise.die_with_parent = lambda parent: None
    launcher = supervise.LocalRanks()
    launcher.start(supervise.Group(sleep_on, b"", (folder,), folder, world=3))
    launcher.wait(None)


def test_the_pipes_alone_end_the_ranks(tmp_path):
    "Each rank is forked while the supervisor's ends of the other pipes are open"
    worker = submit(supervise_by_pipe, str(tmp_path))
    files = [tmp_path / str(rank) for rank in range(3)]
    until(lambda: all(file.exists() and file.read_text() for file in files), "three ranks")
    pids = [int(file.read_text()) for file in files]
    os.kill(worker.process.pid, signal.SIGKILL)
    until(lambda: not any(map(alive, pids)), "the end of the ranks", 5)
    with pytest.raises(RunError, match="SIGKILL"):
        worker.result(10)


# an error on the rank that writes


class Fails(nn.Module):
    "Comes to grief on the first rank only, in a step or where the events are written"

    def __init__(self, where):
        super().__init__()
        self.body, self.where, self.calls = nn.Linear(6, 3), where, 0

    def forward(self, x):
        self.calls += self.training
        if self.calls == 20 and torch.distributed.get_rank() == 0:
            self.fail()
        return self.body(x)

    def fail(self):
        if self.where == "step":
            raise ValueError("no good")
        from trainopt_nb.api.log import Log

        def take(self):
            raise ValueError("no good")

        Log.take = take


@pytest.mark.parametrize("where", some_quick(["step", "log"], "log"))
@pytest.mark.parametrize("plan", [{}, {"shard": True}], ids=["data", "shard"])
def test_an_error_on_the_rank_that_writes_ends_all_of_them(where, plan, tmp_path):
    "The others wait in a collective, and a checkpoint would be another one"
    began = time.monotonic()
    with pytest.raises(RunError, match="no good") as caught:
        fit(
            Fails(where),
            TRAIN,
            VALID,
            folder=tmp_path,
            devices=2,
            epochs=50,
            batch_size=32,
            write=quiet,
            **plan,
        )
    print(f"{time.monotonic() - began:.1f} s")
    run = caught.value.run
    assert run.state == "failed" and not any(map(alive, ranks_of(run))) and not run.alive


for local in (Slow, Fails, sleep_on, supervise_by_pipe):
    local.__module__ = "__main__"  # travels by value, like what a cell defines


# the kernel ends before its background run


def test_a_background_run_uses_nothing_of_a_kernel_that_has_ended(tmp_path):
    "Its loader makes new workers, which meet in the folder for sockets"
    code = SCRIPT.replace("job.result()", "while job.run.progress.step < 3: time.sleep(0.01)").replace(
        "loader", "anew"
    )
    code = code.replace("how =", "from multiprocessing.util import get_temp_dir\nget_temp_dir()\nhow =")
    code = code.format(tests=str(Path(__file__).parent), where="background", folder=str(tmp_path))
    subprocess.run(python("-c", code), check=True, stdout=subprocess.DEVNULL)
    (folder,) = tmp_path.glob("*")
    run = Run(folder)
    epoch = run.progress.epoch
    until(lambda: run.progress.epoch >= epoch + 2, "two more epochs")
    run.send("stop")
    assert over(run).state == "stopped"


def anew():
    "A loader that makes its workers anew for each epoch"
    return DataLoader(TensorDataset(*TRAIN), 32, shuffle=True, num_workers=2)


def test_a_run_of_the_cell_that_is_left_ends_with_the_kernel_however_many_children_it_has(tmp_path):
    "A child that the kernel has forked holds no end of the pipe to the supervisor"
    job = leave(Task(Slow(), TRAIN), TrainOptions.of(devices=2, epochs=10_000), folder=tmp_path)
    moving(job.run)
    if (child := os.fork()) == 0:
        time.sleep(600)
        os._exit(0)
    ranks = ranks_of(job.run)
    job.close()
    until(lambda: not any(map(alive, ranks)), "the end of the ranks", 10)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    over(job.run)


# workers of loaders


LOADERS = """
import multiprocessing, os, sys
sys.path.insert(0, {tests!r})
from test_killed_processes import Slow, reporting_loaders
from trainopt_nb import Task, TrainOptions, fit
from trainopt_nb.api.run_task import Where, run_task

if __name__ == "__main__":
    multiprocessing.set_start_method({method!r})
    print(os.getpid(), flush=True)
    data, how = reporting_loaders({folder!r}), dict(epochs=10_000, device="cpu")
    if {background!r}:
        run_task(Task(Slow(), *data), TrainOptions.of(**how), Where({folder!r}, background=True)).run.wait()
    else:
        fit(Slow(), *data, folder={folder!r}, write=lambda line: None, **how)
"""


class Report:
    "As `worker_init_fn`: writes down the id of the worker's process"

    def __init__(self, file):
        self.file = file

    def __call__(self, number):
        Path(f"{self.file}-new").write_text(str(os.getpid()))
        os.replace(f"{self.file}-new", self.file)  # a reader never sees it empty


def reporting_loaders(folder):
    "A loader with a sampler of its own, which is iterated as it is, and one whose dataset is loaded in the order of the run"
    rows, more = TensorDataset(*TRAIN), {"num_workers": 1, "persistent_workers": True}
    own = BatchSampler(SequentialSampler(rows), 32, drop_last=False)
    first = DataLoader(rows, batch_sampler=own, worker_init_fn=Report(f"{folder}/train.pid"), **more)
    return first, DataLoader(rows, 64, worker_init_fn=Report(f"{folder}/valid.pid"), **more)


@pytest.mark.parametrize("method", some_quick(["fork", "forkserver", "spawn"], "forkserver"))
@pytest.mark.parametrize("background", [False, True], ids=["cell", "background"])
def test_no_worker_of_a_loader_outlives_a_killed_trainer(method, background, tmp_path):
    "Whatever starts processes; a forkserver, the default from Python 3.14 on, lives on and is the parent that PyTorch's workers look for"
    code = LOADERS.format(
        tests=str(Path(__file__).parent), method=method, background=background, folder=str(tmp_path)
    )
    (tmp_path / "script.py").write_text(code)
    script = subprocess.Popen(python(tmp_path / "script.py"), stdout=subprocess.PIPE, text=True)
    kernel = int(script.stdout.readline())
    files = [tmp_path / "train.pid", tmp_path / "valid.pid"]
    pids = until(
        lambda: (
            [int(f.read_text()) for f in files if f.exists() and f.stat().st_size][1:]
            and [int(f.read_text()) for f in files]
        ),
        "two workers of loaders",
    )
    run = Run(next(tmp_path.glob("*/run.json")).parent)
    trainer = lock_owner(run.path / "lock")["pid"]
    assert all(map(alive, pids)) and (trainer == kernel) != background
    os.kill(trainer, signal.SIGKILL)
    until(lambda: not any(map(alive, pids)), "the end of the loaders' workers")
    script.kill()
    script.wait()
