"A real Ray cluster of two workers on this machine: the numbers of one process, commands and faults"

import importlib.util
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import torch
from helpers import alive, losses, quiet, ranks_of, small_table, until, weights
from starts import launch, leave
from torch import nn
from warm_python import python

from trainopt_nb import OptionError, Run, RunError, Task, TrainOptions, fit
from trainopt_nb.api.train_ranks import needs_of
from trainopt_nb.events.records import Note, SetLr, Stop, WorkerLoad
from trainopt_nb.store.lock import lock_owner
from trainopt_nb.workers.board import Board
from trainopt_nb.workers.processes import warm

X, Y, TRAIN, VALID = small_table()
START = 240  # seconds: Ray begins with a dozen processes of Python, which takes a minute on busy cores
HOW = {"epochs": 6, "batch_size": 32, "lr": 0.01, "save_steps": 5}


@pytest.fixture(scope="module", autouse=True)
def workers(warm_process):
    warm()


class Slow(nn.Module):
    "A class of a notebook, which travels by value"

    def __init__(self, seconds=0.0, fault=""):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.seconds, self.fault = nn.Linear(6, 3), seconds, fault

    def forward(self, x):
        time.sleep(self.seconds)
        if self.fault and self.training and torch.is_grad_enabled() and torch.distributed.get_rank() == 1:
            raise ValueError(self.fault)
        return self.body(x)


Slow.__module__ = "__main__"


def of_ray():
    "Processes of Ray that are there"
    found = []
    for process in psutil.process_iter():
        try:
            words = " ".join(process.cmdline())
            if process.status() != psutil.STATUS_ZOMBIE and ("/ray/" in words or words.startswith("ray::")):
                found.append(process)
        except psutil.Error:
            continue
    return found


def gone(before):
    "Whether no process of Ray is left but those that were there"
    return not [process for process in of_ray() if process not in before]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    "The same run in one process"
    model = Slow()
    return model, fit(model, TRAIN, VALID, folder=tmp_path_factory.mktemp("one"), write=quiet, **HOW)


@pytest.mark.slow
def test_two_workers_compute_what_one_process_does_and_are_steered(alone, tmp_path):
    "Beside it: nothing listens on more than loopback, no other user can open Ray's folder, and nothing of Ray is left"
    before, model, folders = of_ray(), Slow(), set(Path("/tmp").glob("ray-*"))
    job = leave(
        Task(model, TRAIN, VALID), TrainOptions.of(cluster="local", devices=2, **HOW), folder=tmp_path
    )
    heard = set()
    for told in job.events():
        if told and not heard:
            ours = [p for p in of_ray() if p not in before]
            heard = {c.laddr.ip for p in ours for c in p.net_connections("inet") if c.status == "LISTEN"}
            (folder,) = set(Path("/tmp").glob("ray-*")) - folders
            assert (folder / "r").exists() and folder.stat().st_mode & 0o777 == 0o700
    job.close()
    one, first = alone
    assert job.progress.state == "finished"
    assert torch.allclose(losses(job.run), losses(first), rtol=1e-5, atol=1e-7)
    assert torch.allclose(weights(model), weights(one), rtol=1e-4, atol=1e-6)
    assert job.run.metrics.keys() == first.metrics.keys()
    assert all(abs(value - first.metrics[name]) < 1e-5 for name, value in job.run.metrics.items())
    assert heard and heard <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert not Board(job.run.path).path.exists()
    until(lambda: gone(before), "the end of Ray", 20)


@pytest.mark.slow
def test_commands_reach_the_workers_and_a_stop_brings_the_weights(tmp_path):
    before, model = of_ray(), Slow(0.01)
    was = weights(model)
    job = leave(
        Task(model, TRAIN),
        TrainOptions.of(cluster="local", devices=2, epochs=10_000, batch_size=32),
        folder=tmp_path,
    )
    asked = []

    def words():
        if not asked and job.progress.step > 3:
            assert job.run.state == "training" and lock_owner(job.run.path / "lock")["pid"] != os.getpid()
            asked.append(time.monotonic())
            return SetLr(0.5)
        if len(asked) == 1 and job.progress.lr == 0.5 and job.progress.workers:
            asked.append(time.monotonic())
            return Stop()
        return None

    for _ in job.events(words):
        pass
    took = time.monotonic() - asked[1]
    job.close()
    assert job.progress.state == "stopped" and took < 5
    assert not torch.equal(was, weights(model))
    assert {e.rank for e in job.run.events() if type(e) is WorkerLoad} == {0, 1}
    until(lambda: gone(before), "the end of Ray", 20)


@pytest.mark.slow
def test_a_killed_worker_is_replaced(alone, tmp_path):
    "The run goes on from its newest checkpoint and ends as if nothing had happened"
    options = TrainOptions.of(cluster="local", devices=2, restarts=1, **HOW)
    run = launch(Task(Slow(0.02), TRAIN, VALID), options, folder=tmp_path)
    until(lambda: run.progress.step >= 12, "some steps", START)
    victim = ranks_of(run)[1]
    os.kill(victim, signal.SIGKILL)
    until(lambda: lock_owner(run.path / "lock") is None, "the end", START)
    assert run.state == "finished", run.progress.reason
    assert torch.allclose(losses(run), losses(alone[1]), rtol=1e-5, atol=1e-7)
    said = [e.text for e in run.events() if type(e) is Note and e.topic == "restart"]
    assert len(said) == 1 and f"Rank 1 (process {victim}" in said[0] and "restart 1 of 1" in said[0]


@pytest.mark.slow
def test_an_error_in_a_worker_is_told_and_not_repeated(tmp_path):
    before = of_ray()
    with pytest.raises(RunError, match=r"^rank 1: ValueError: no good$") as caught:
        fit(
            Slow(fault="no good"),
            TRAIN,
            folder=tmp_path,
            cluster="local",
            devices=2,
            restarts=3,
            write=quiet,
        )
    run = caught.value.run
    assert run.state == "failed" and not [e for e in run.events() if type(e) is Note and e.topic == "restart"]
    assert "ValueError: no good" in (run.path / "log.txt").read_text()
    until(lambda: gone(before), "the end of Ray", 20)


SCRIPT = """
import time
import torch
from torch import nn
from trainopt_nb import fit

class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(6, 3)

    def forward(self, x):
        time.sleep(0.01)
        return self.body(x)

x, y = torch.randn(200, 6), torch.randint(3, (200,))
"""


@pytest.mark.slow
def test_nothing_is_left_when_the_kernel_is_killed(tmp_path):
    before = of_ray()
    source = (
        SCRIPT + f"fit(Slow(), (x, y), folder={str(tmp_path)!r}, cluster='local', devices=2, epochs=100_000)"
    )
    process = subprocess.Popen(python("-c", source), stdout=subprocess.DEVNULL)
    run = Run(until(lambda: [p.parent for p in tmp_path.glob("*/run.json")], "a run", START)[0])
    until(lambda: run.progress.step > 3, "some steps", START)
    ours = [lock_owner(run.path / "lock")["pid"], *ranks_of(run)]
    process.kill()
    process.wait()
    until(lambda: not any(alive(pid) for pid in ours[1:]), "the end of the workers", 5)
    until(lambda: not alive(ours[0]) and gone(before), "the end of Ray", 20)
    assert run.state == "dead"


# what needs no cluster


@pytest.mark.parametrize("address", ["head", "http://head:10001", "ray://", "a b:1"])
def test_an_address_that_is_none(address, tmp_path):
    with pytest.raises(OptionError, match="--cluster takes local"):
        fit(nn.Linear(6, 3), TRAIN, folder=tmp_path, cluster=address)
    assert not list(tmp_path.iterdir())


def test_what_a_cluster_is_asked_for():
    needs = needs_of(TrainOptions.of(cluster="ray://head:10001", devices=64, threads=4, device="cuda"))
    assert (needs["world"], needs["cpus"], needs["device"]) == (64, 4, "cuda")
    assert needs_of(TrainOptions.of(cluster="auto", devices="all"))["world"] == 0


def test_a_folder_that_is_not_shared(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    word = Board(tmp_path / "a").put_up()
    Board(tmp_path / "a").check(word)
    for other in ("b", "c"):
        with pytest.raises(RunError, match=r"does not see the run's folder .*--runs"):
            Board(tmp_path / other).check(word)
    Board(tmp_path / "b").put_up()
    with pytest.raises(RunError, match="does not see"):
        Board(tmp_path / "b").check(word)


def test_where_ray_is_not_installed(monkeypatch):
    find_spec = importlib.util.find_spec
    absent = lambda name, *more: None if name == "ray" else find_spec(name, *more)
    monkeypatch.setattr(importlib.util, "find_spec", absent)
    with pytest.raises(OptionError, match=r"pip install 'trainopt_nb\[ray\]'"):
        needs_of(TrainOptions.of(cluster="local"))


def test_a_cluster_that_is_not_there(tmp_path):
    with pytest.raises(RunError, match=r"The Ray cluster 127\.0\.0\.1:1 cannot be used"):
        fit(nn.Linear(6, 3), TRAIN, folder=tmp_path, cluster="127.0.0.1:1", write=quiet)
