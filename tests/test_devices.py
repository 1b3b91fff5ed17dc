"Several devices train one model: the same numbers as one, commands and faults that reach all"

import json
import os
import signal
import subprocess
import textwrap
import time
from pathlib import Path

import pytest
import torch
from helpers import (
    alive,
    assert_still,
    losses,
    over,
    quiet,
    ranks_of,
    small_table,
    some_quick,
    until,
    weights,
)
from starts import launch, leave
from torch import nn
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler
from warm_python import python

from trainopt_nb import OptionError, RunError, Task, TrainOptions, fit, resume
from trainopt_nb.events.records import Note, Pause, Resume, Save, SetLr, Step, Stop, WorkerLoad
from trainopt_nb.store.lock import lock_owner
from trainopt_nb.workers.processes import warm

X, Y, TRAIN, VALID = small_table()


@pytest.fixture(scope="module", autouse=True)
def workers(warm_process):
    warm()


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))


class Rows(Dataset):
    "A dataset that knows nothing of tensors in memory"

    def __len__(self):
        return len(TRAIN[0])

    def __getitem__(self, place):
        return TRAIN[0][place], TRAIN[1][place]


class Slow(nn.Module):
    "Takes a while, and may come to grief"

    def __init__(self, seconds=0.01, fault=None):
        super().__init__()
        self.body, self.seconds, self.fault, self.calls = nn.Linear(6, 3), seconds, fault, 0

    def forward(self, x):
        time.sleep(self.seconds)
        self.calls += self.training
        if self.fault and self.calls == 20:
            self.fault(self, x)
        return self.body(x)


class Gate(nn.Module):
    "Lets so many batches through, and the others when a file is there"

    def __init__(self, file, batches):
        super().__init__()
        self.file, self.batches, self.calls = file, batches, 0

    def forward(self, x):
        self.calls += self.training
        while self.calls > self.batches and not self.file.exists():
            time.sleep(0.01)
        return x


class HalfUsed(nn.Module):
    "A layer that gets no gradient"

    def __init__(self):
        super().__init__()
        self.body, self.idle = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x):
        return self.body(x)


for kind in (Rows, Slow, HalfUsed, Gate):
    kind.__module__ = "__main__"  # travels by value, like a class of a notebook


def both(tmp_path, make, data, valid=VALID, devices=2, spread=None, **how):
    "The same run on one device and on several"
    torch.manual_seed(7)
    one = make()
    first = fit(one, data(), valid, folder=tmp_path / "one", write=quiet, **how)
    two = make()
    more = {"devices": devices, **(spread or {})}
    second = fit(two, data(), valid, folder=tmp_path / "two", write=quiet, **how, **more)
    return one, first, two, second


def assert_same(one, first, two, second):
    assert len(losses(first)) == len(losses(second))
    assert torch.allclose(losses(first), losses(second), rtol=1e-5, atol=1e-7)
    assert torch.allclose(weights(one), weights(two), rtol=1e-4, atol=1e-6)
    a, b = first.metrics, second.metrics
    assert a.keys() == b.keys()
    assert all(abs(a[name] - b[name]) < 1e-5 for name in a)
    assert not two.training


PLANS = {"data": {}, "shard": {"shard": True}, "tensor": {"tensor_plan": "auto"}}
RECIPES = {
    "plain": {},
    "accumulated, clipped, averaged": {"accumulate": 2, "clip": 0.5, "ema": 0.8, "schedule": "onecycle"},
    "momentum, weighted classes": {"optimizer": "momentum", "lr": 0.05, "class_weights": "balanced"},
    "groups, frozen": {"lr_for": "2=0.1x", "freeze": "0.bias", "schedule": "cosine"},
}


QUICK = {
    ("data", "momentum, weighted classes"),
    ("data", "accumulated, clipped, averaged"),
    ("shard", "groups, frozen"),
    ("tensor", "plain"),
}


@pytest.mark.parametrize(
    ("plan", "recipe"),
    [
        pytest.param(plan, recipe, marks=[] if (plan, recipe) in QUICK else [pytest.mark.slow])
        for plan in PLANS
        for recipe in RECIPES
    ],
)
def test_two_devices_compute_what_one_does(plan, recipe, tmp_path):
    how = {"epochs": 2, "batch_size": 32, "lr": 0.01} | RECIPES[recipe]
    assert_same(*both(tmp_path, net, lambda: TRAIN, spread=PLANS[plan], **how))


def test_copies_thaw_together(tmp_path):
    how = {"epochs": 3, "batch_size": 32, "lr": 0.01, "freeze": "0.bias,0.weight", "unfreeze": 1, "clip": 0.5}
    one, *rest = both(tmp_path, net, lambda: TRAIN, **how)
    assert not torch.equal(one[0].weight, net()[0].weight)
    assert_same(one, *rest)


class Bag(nn.Module):
    "Gives sparse gradients"

    def __init__(self):
        super().__init__()
        self.words, self.head = nn.EmbeddingBag(50, 8, sparse=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.words(x))


Bag.__module__ = "__main__"


def test_sparse_gradients_are_exchanged(tmp_path):
    words = torch.randint(0, 50, (241, 6), generator=torch.Generator().manual_seed(0))
    data, make = (words, words.sum(1) % 3), lambda: torch.manual_seed(1) and Bag()
    how = {"epochs": 2, "batch_size": 32, "lr": 0.1, "optimizer": "sgd", "clip": 0.5}
    assert_same(*both(tmp_path, make, lambda: data, valid=data, **how))


@pytest.mark.parametrize("plan", ["data", "tensor"])
def test_a_penalty_on_weights(plan, tmp_path):
    how = {"epochs": 1, "batch_size": 32, "l1": 1e-3}
    assert_same(*both(tmp_path, net, lambda: TRAIN, spread=PLANS[plan], **how))


def sampled():
    sampler = WeightedRandomSampler(torch.rand(241, generator=torch.Generator().manual_seed(1)), 200)
    return DataLoader(Rows(), 32, sampler=sampler)


SOURCES = {
    "a dataset": lambda: Rows(),
    "a loader with workers": lambda: DataLoader(Rows(), 32, shuffle=True, num_workers=1),
    "a list of batches": lambda: list(zip(TRAIN[0].split(30), TRAIN[1].split(30), strict=True)),
}


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_is_shared(source, tmp_path):
    assert_same(*both(tmp_path, net, SOURCES[source], epochs=2, batch_size=32))


def test_a_sampler_of_its_own_is_drawn_alike(tmp_path):
    "Ranks that drew different orders would see samples twice: then their losses would not be those of one order"
    run = fit(net(), sampled(), VALID, folder=tmp_path, epochs=3, devices=2, write=quiet)
    again = fit(net(), sampled(), VALID, folder=tmp_path, epochs=3, devices=2, write=quiet)
    assert torch.equal(losses(run), losses(again))
    assert [e.samples for e in run.events() if type(e) is Step] == [32, 32, 32, 32, 32, 32, 8] * 3


def test_more_devices_than_samples_in_the_last_batch(tmp_path):
    "241 = 7 * 34 + 3: of four ranks one has nothing to do in the last batch, and 3 of 31 validation samples in its last"
    valid = (VALID[0][:31], VALID[1][:31])
    assert_same(*both(tmp_path, net, lambda: TRAIN, valid, devices=4, epochs=2, batch_size=34))


def test_labels_that_are_passed_over(tmp_path):
    labels = TRAIN[1].clone()
    labels[::3] = -100
    labels[1:32:2] = -100  # in the first batch the second rank has none left
    assert_same(*both(tmp_path, net, lambda: (TRAIN[0], labels), epochs=2, batch_size=32, shuffle=False))


def test_a_layer_without_gradient(tmp_path):
    assert_same(*both(tmp_path, lambda: (torch.manual_seed(0), HalfUsed())[1], lambda: TRAIN, epochs=1))


RANK = """
import json, sys, torch
from torch import nn
from helpers import small_table
from trainopt_nb import Task, TrainOptions
from trainopt_nb.parallel.ranks import Ranks, init_process_group
from trainopt_nb.train.loop import Loop
from trainopt_nb.train.prepare import prepare
from trainopt_nb.train.sync import synced_events

rank, world, file = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if world > 1:
    init_process_group(rank, world, file, torch.device("cpu"))
*_, data, valid = small_table()

def changed(batch, training, draws):
    inputs, labels = batch
    if training and draws:
        other = torch.randperm(len(inputs))
        inputs = inputs + torch.rand(()) * inputs[other]
    return (2 * inputs if training else inputs / 2), labels

def losses(plan, draws):
    ranks = Ranks(rank, world, plan=plan)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
    more = {"pipeline_plan": "auto"} if plan == "pipeline" else {}
    options = TrainOptions.of(device="cpu", batch_size=32, epochs=2, accumulate=2, **more).on(ranks.data_shard[1])
    change = lambda batch, training: changed(batch, training, draws)
    loop = Loop(prepare(Task(model, data, valid), options, ranks, device_transforms=[change]), options)
    events = [e for e in synced_events(loop.events(), loop)]
    losses = [e.loss for e in events if type(e).__name__ == "Step"]
    return [losses, [e.valid_loss for e in events if type(e).__name__ == "Epoch"]]

found = [losses(plan, draws) for plan, draws in json.loads(sys.argv[4])]
if rank == 0:
    print(json.dumps(found))
"""


def losses_of_ranks(folder, *runs, world=2):
    "The losses of each run `(plan, draws)`, one after the other on several ranks, which are processes, with a device transform"
    words = [world, folder / "meeting", json.dumps(runs)]
    more = {"cwd": Path(__file__).parent, "text": True, "stdout": subprocess.PIPE}
    ranks = [subprocess.Popen(python("-c", RANK, rank, *words), **more) for rank in range(world)]
    said = [rank.communicate(timeout=120)[0] for rank in ranks]
    return [[torch.tensor(values) for values in run] for run in json.loads(said[0])]


@pytest.mark.slow
def test_device_transforms_on_several_ranks(tmp_path):
    "Every strategy applies them; ranks that share each batch draw the same random numbers for it, whatever the stage"
    (alone,) = losses_of_ranks(tmp_path, ("data", False), world=1)
    plain = [(plan, False) for plan in (*PLANS, "pipeline")]
    *several, tensor, pipeline = losses_of_ranks(tmp_path, *plain, ("tensor", True), ("pipeline", True))
    for (plan, _), found in zip(plain, several, strict=True):
        for one, two in zip(alone, found, strict=True):
            assert torch.allclose(one, two, rtol=1e-4, atol=1e-6), plan
    for one, two in zip(tensor, pipeline, strict=True):
        assert torch.allclose(one, two, rtol=1e-4, atol=1e-6)


def test_what_batch_size_counts(tmp_path):
    "Twice the batch a device and twice the rate, as the linear rule has it, is one run with both doubled"
    run = fit(net(), TRAIN, folder=tmp_path, epochs=1, batch_size=16, batch_scope="each", lr_rule="linear", lr=0.01, devices=2, optimizer="sgd", write=quiet)  # fmt: skip
    same = fit(
        net(),
        TRAIN,
        folder=tmp_path,
        epochs=1,
        batch_size=32,
        lr=0.02,
        optimizer="sgd",
        write=quiet,
    )
    assert torch.allclose(losses(run), losses(same), rtol=1e-5)
    said = next(e.text for e in run.events() if type(e) is Note and e.topic == "devices")
    assert "16 samples each of a batch of 32" in said and "0.02" in said
    assert run.options["batch_size"] == 16 and run.options["lr"] == 0.01


@pytest.mark.parametrize("plan", ["data", "shard"])
def test_a_checkpoint_knows_no_devices(plan, tmp_path):
    "Two devices begin, one goes on, two end: the same as one all the way"
    quiet = {"folder": tmp_path, "write": lambda line: None}
    how = {"epochs": 3, "batch_size": 32, "optimizer": "adamw", "ema": 0.9}
    whole = fit(net(), TRAIN, VALID, **how, **quiet)
    model = net()
    run = fit(model, TRAIN, VALID, **how | {"epochs": 1}, devices=2, **PLANS[plan], **quiet)
    resume(run, net(5), TRAIN, VALID, epochs=2, devices=1, shard=False, **quiet)
    last = net(6)
    resume(run, last, TRAIN, VALID, epochs=3, devices=2, **PLANS[plan], **quiet)
    assert torch.allclose(losses(run), losses(whole), rtol=1e-5)


@pytest.mark.parametrize("plan", some_quick(["data", "shard"], "data"))
def test_a_resume_with_running_statistics_is_exact(plan, tmp_path):
    "Each device has them of its own samples, and a checkpoint holds those of the first"

    def normed(seed=0):
        return nn.Sequential(nn.BatchNorm1d(6), net(seed))

    quiet = {"folder": tmp_path, "write": lambda line: None}
    how = {"batch_size": 32, "devices": 2, **PLANS[plan]}
    whole = fit(normed(), TRAIN, VALID, epochs=3, **how, **quiet)
    run = fit(normed(), TRAIN, VALID, epochs=1, **how, **quiet)
    resume(run, normed(5), TRAIN, VALID, epochs=3, **quiet)
    first, second = ([row.valid_loss for row in each.progress.epochs] for each in (whole, run))
    assert first == second and len(first) == 3


def test_an_optimizer_in_the_computers_memory(tmp_path):
    "The same numbers, to the last bit, also over a stop and a resume"
    how = {
        "epochs": 3,
        "batch_size": 32,
        "clip": 1.0,
        "ema": 0.9,
        "folder": tmp_path,
        "write": lambda line: None,
    }
    one, two = net(), net()
    fit(one, TRAIN, VALID, **how)
    run = fit(two, TRAIN, VALID, **how | {"epochs": 1}, offload=True)
    two = net(3)
    resume(run, two, TRAIN, VALID, epochs=3, folder=tmp_path, write=quiet)
    assert run.options["offload"] and torch.equal(weights(one), weights(two))
    assert_same(*both(tmp_path, net, lambda: TRAIN, spread={"offload": True}, epochs=1))


class Forgetful(torch.utils.data.Dataset):
    "Samples that are drawn a little differently each time"

    def __len__(self):
        return len(TRAIN[0])

    def __getitem__(self, i):
        return TRAIN[0][i] + 0.1 * torch.randn(TRAIN[0].shape[1:]), TRAIN[1][i]


Forgetful.__module__ = "__main__"  # as in a notebook


@pytest.mark.parametrize(
    "source", some_quick([Forgetful, lambda: TRAIN], Forgetful), ids=["dataset", "tensors"]
)
def test_random_numbers_of_each_rank_go_on(source, tmp_path):
    "Dropout draws what it would have drawn, to the last bit, where a run goes on in the middle of an epoch"

    gate = tmp_path / "open"

    def forgetful(seed=0):
        model = net(seed)
        return nn.Sequential(Gate(gate, 20), nn.Dropout(0.3), *model)

    how, place = {"epochs": 2, "batch_size": 4, "devices": 2}, {"folder": tmp_path / "runs"}
    one, two = forgetful(), forgetful(3)
    gate.touch()
    whole = fit(one, source(), VALID, **how, **place, write=quiet)
    gate.unlink()
    job = leave(Task(forgetful(), source(), VALID), TrainOptions.of(**how), **place)
    sent = []

    def stop():
        if job.progress.step > 3 and not sent:
            sent.append(True)
            return Stop()
        if sent:
            gate.touch()  # the command is in the inbox by now

    for _ in job.events(stop):
        pass
    job.close()
    assert job.progress.state == "stopped" and job.progress.step % 61, (
        "between two epochs there is nothing to lose"
    )
    resume(job.run, two, source(), VALID, **place, write=quiet)
    assert torch.equal(losses(whole), losses(job.run)) and torch.equal(weights(one), weights(two))


def test_words_before_anything_starts(tmp_path):
    with pytest.raises(OptionError, match="--devices 2 or more"):
        fit(net(), TRAIN, folder=tmp_path, shard=True)
    with pytest.raises(OptionError, match="choose one"):
        fit(net(), TRAIN, folder=tmp_path, shard=True, tensor_plan="auto", devices=2)
    with pytest.raises(OptionError, match="--weight-decay"):
        fit(net(), TRAIN, folder=tmp_path, shard=True, l1=0.1, devices=2)
    with pytest.raises(OptionError, match="1 to 4096 devices, or all"):
        fit(net(), TRAIN, folder=tmp_path, devices="many")
    assert not list(tmp_path.iterdir())
    with pytest.raises(RunError, match=r"pairs of nn\.Linear"):
        fit(nn.Linear(6, 3), TRAIN, folder=tmp_path, tensor_plan="auto", devices=2, write=quiet)
    with pytest.raises(RunError, match=f"{len(X)} rows of inputs and 5 targets"):
        fit(net(), (X, Y[:5]), folder=tmp_path, devices=2, write=quiet)


# commands


def begun(tmp_path, model=None, step=5, **how):
    how = {"devices": 2, "epochs": 1000, "batch_size": 32} | how
    run = launch(Task(model or Slow(), TRAIN, VALID), TrainOptions.of(**how), folder=tmp_path)
    until(lambda: run.progress.step >= step, "some steps")
    return run


@pytest.mark.parametrize("plan", ["data", "tensor"])
def test_commands_reach_all_ranks(plan, tmp_path):
    run = begun(tmp_path, Slow() if plan == "data" else net(), epochs=100_000, **PLANS[plan])
    run.send(Pause())
    until(lambda: run.state == "paused", "the pause")
    before = run.progress.step
    assert_still(lambda: run.progress.step)
    run.send(SetLr(0.5))
    run.send(Save())
    run.send(Resume())
    until(lambda: run.progress.step > before + 3, "more steps")
    assert run.progress.lr == 0.5 and run.progress.saved
    until(lambda: len(run.progress.workers) == 2, "how the ranks fare")
    run.send(Stop())
    over(run)
    assert run.state == "stopped"
    assert not any(alive(pid) for pid in ranks_of(run))
    load = [e for e in run.events() if type(e) is WorkerLoad]
    assert {e.rank for e in load} == {0, 1} and all(
        e.forward > 0 and e.backward > 0 and e.samples > 0 and e.memory > 1e6 for e in load
    )


@pytest.mark.parametrize("times", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_a_stop_is_obeyed_time_after_time(tmp_path, times):
    "Also after a matrix product with several threads, where workers that were forked from the kernel would hang"
    before = torch.get_num_threads()
    torch.set_num_threads(4)  # two for each of two workers
    torch.randn(500, 500) @ torch.randn(500, 500)
    try:
        stop_again_and_again(tmp_path, times)
    finally:
        torch.set_num_threads(before)


def stop_again_and_again(tmp_path, times):
    for _ in range(times):
        model = Slow(0.002)
        before = weights(model)
        job = leave(Task(model, TRAIN), TrainOptions.of(devices=2, epochs=1000), folder=tmp_path)
        asked = []

        def after_some_steps(job=job, asked=asked):
            if job.progress.step > 3 and not asked:
                asked.append(time.monotonic())
                return Stop()

        for _ in job.events(after_some_steps):
            pass
        job.close()
        assert job.progress.state == "stopped" and time.monotonic() - asked[0] < 5
        assert not torch.equal(before, weights(model))


# faults


def test_a_killed_rank_is_named_and_the_run_ends(tmp_path, undisturbed):
    run = begun(tmp_path)
    pid = ranks_of(run)[1]
    with undisturbed():
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        over(run)
        assert time.monotonic() - began < 3
    assert run.state == "failed"
    assert run.progress.reason.startswith(f"Rank 1 (process {pid}) was ended by SIGKILL")
    assert not any(alive(pid) for pid in ranks_of(run))


def launch_two(folder):
    "Begin a run on two devices, which may be replaced twice"
    how = {"epochs": 6, "batch_size": 32, "save_steps": 5, "restarts": 2, "devices": 2}
    torch.manual_seed(0)
    return launch(Task(Slow(), TRAIN, VALID), TrainOptions.of(**how), folder=folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "A run in which nothing happens"
    return over(launch_two(tmp_path_factory.mktemp("whole")))


@pytest.mark.parametrize("victim", some_quick([0, 1], 1))
def test_a_killed_rank_is_replaced(victim, whole, tmp_path):
    "The run goes on from its newest checkpoint and ends as if nothing had happened"
    run = launch_two(tmp_path)
    until(lambda: run.progress.step >= 17, "some steps")
    os.kill(ranks_of(run)[victim], signal.SIGKILL)
    over(run)
    assert run.state == "finished"
    assert torch.allclose(losses(run), losses(whole), rtol=1e-5)
    said = [e.text for e in run.events() if type(e) is Note and e.topic == "restart"]
    assert len(said) == 1 and f"Rank {victim}" in said[0] and "restart 1 of 2" in said[0]


def explode_on_second_rank(model, x):
    if torch.distributed.get_rank() == 1:
        raise ValueError("no good")


def poison_on_second_rank(model, x):
    if torch.distributed.get_rank() == 1:
        x.fill_(float("nan"))


for fault in (explode_on_second_rank, poison_on_second_rank):
    fault.__module__ = "__main__"


def test_an_error_on_one_rank(tmp_path):
    run = over(
        launch(
            Task(Slow(0, explode_on_second_rank), TRAIN),
            TrainOptions.of(devices=2, epochs=9),
            folder=tmp_path,
        )
    )
    assert run.state == "failed" and run.progress.reason == "rank 1: ValueError: no good"
    assert "ValueError: no good" in (run.path / "log.txt").read_text()


def test_a_loss_that_is_not_finite_on_one_rank(tmp_path):
    "All stop before the gradients are exchanged, and the one that knows says where it began"
    model = Slow(0, poison_on_second_rank)
    with pytest.raises(RunError, match="The loss became nan at step 20"):
        fit(model, TRAIN, folder=tmp_path, devices=2, epochs=9, batch_size=32, write=quiet)
    assert torch.isfinite(weights(model)).all()


SCRIPT = """
import sys, time
import torch
from torch import nn
from trainopt_nb import Task, TrainOptions, fit
from trainopt_nb.api.run_task import Where, run_task

class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(6, 3)

    def forward(self, x):
        time.sleep(0.01)
        return self.body(x)

x, y = torch.randn(200, 6), torch.randint(3, (200,))
"""


def test_workers_of_the_cell_die_with_the_kernel(tmp_path, undisturbed):
    source = SCRIPT + f"fit(Slow(), (x, y), folder={str(tmp_path)!r}, devices=2, epochs=1000)"
    process = subprocess.Popen(python("-c", source), stdout=subprocess.DEVNULL)
    run = until(lambda: [p.parent for p in tmp_path.glob("*/run.json")], "a run", 60)[0]
    from trainopt_nb import Run

    run = Run(run)
    until(lambda: run.progress.step > 3, "some steps")
    workers = [*ranks_of(run), lock_owner(run.path / "lock")["pid"]]
    assert len(workers) == 3 and process.pid not in workers
    with undisturbed():
        process.kill()
        process.wait()
        until(lambda: not any(alive(pid) for pid in workers), "the end of the workers", 1)
    assert run.state == "dead"


def test_ranks_of_the_background_outlive_the_kernel(tmp_path):
    source = SCRIPT + (
        f"run = run_task(Task(Slow(), (x, y)), TrainOptions.of(devices=2, epochs=20), Where({str(tmp_path)!r}, background=True)).run\n"
        "while run.progress.step < 3: time.sleep(0.01)"
    )
    process = subprocess.Popen(python("-c", source + "\ntime.sleep(60)"))
    from trainopt_nb import Run

    run = Run(until(lambda: [p.parent for p in tmp_path.glob("*/run.json")], "a run", 60)[0])
    until(lambda: run.progress.step > 3, "some steps")
    process.kill()
    process.wait()
    over(run)
    assert run.state == "finished" and run.progress.epoch == 20
    steps = [e.step for e in run.events() if type(e) is Step]
    assert steps == list(range(1, 81))


def test_a_script_needs_no_guard(tmp_path):
    "The workers do not run the script again"
    (tmp_path / "train.py").write_text(
        SCRIPT + "print('once'); run = fit(Slow(), (x, y), devices=2, epochs=1)\nprint(run.state)"
    )
    done = subprocess.run(python("train.py"), cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.count("once") == 1 and done.stdout.strip().endswith("finished"), done.stderr


TORCHRUN = """
import os, signal, time
import torch
from torch import nn
from trainopt_nb import fit
torch.manual_seed(0)
x, y = torch.randn(200, 6), torch.randint(3, (200,))

class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(6, 3)
        self.steps = 0

    def forward(self, x):
        self.steps += self.training
        if self.steps == 18 and os.environ["RANK"] == "1" and not os.path.exists("FOLDER-once"):
            open("FOLDER-once", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.body(x)

torch.manual_seed(0)
run = fit(Slow(), (x, y), (x, y), folder="FOLDER", epochs=9, batch_size=32, save_steps=4)
print("RANK", os.environ["RANK"], run.path.name, flush=True)
"""


@pytest.mark.slow
def test_two_elastic_agents(tmp_path):
    "Two hosts, as torchrun sees them, on this one: a rank that dies takes all down, and all go on from the checkpoint"
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(TORCHRUN).replace("FOLDER", str(tmp_path / "runs")))
    agents = []
    for _ in range(2):
        command = python(
            "-m",
            "torch.distributed.run",
            "--nnodes=2",
            "--nproc-per-node=1",
            "--max-restarts=3",
            "--no-python",
        )
        command += [
            "--rdzv-backend=c10d",
            "--rdzv-endpoint=127.0.0.1:29731",
            "--rdzv-id=job",
            "--local-addr=127.0.0.1",
        ]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        agents.append(subprocess.Popen([*command, *python(script)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))  # fmt: skip
    said = [agent.communicate(timeout=180)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    from trainopt_nb import list_runs

    (run,) = list_runs(tmp_path / "runs")
    assert run.state == "finished" and run.progress.epoch == 9
    torch.manual_seed(0)
    x, y = torch.randn(200, 6), torch.randint(3, (200,))
    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    alone = drive_quietly(model, (x, y), tmp_path)
    assert torch.allclose(losses(run), losses(alone), rtol=1e-5)


def drive_quietly(model, data, tmp_path):
    return fit(model, data, data, folder=tmp_path / "alone", epochs=9, batch_size=32, write=quiet)
