"What tests share: waiting, processes, small tasks of every kind, and whether two runs are equal to the last bit"

import hashlib
import json
import os
import random
import subprocess
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, WeightedRandomSampler
from warm_python import python

from trainopt_nb import Task, TrainOptions
from trainopt_nb.events.records import Epoch, Started, Step, Stop
from trainopt_nb.store.checkpoint import load_checkpoint
from trainopt_nb.store.lock import lock_owner
from trainopt_nb.store.plain import pack
from trainopt_nb.train.loop import train

DEVICE = os.environ.get(
    "TRAINOPT_TEST_DEVICE", "cpu"
)  # on which tests train, where they compare what is computed

# --- which tests are quick


def some_quick(
    values,  # of a parameter
    *quick,  # those that stand for all of them in the quick set
) -> list:
    "Return the values of a parameter, of which all but a few run with the slow tests"
    assert all(any(each is value or each == value for value in values) for each in quick), quick
    keep = [any(each is value or each == value for each in quick) for value in values]
    return [v if k else pytest.param(v, marks=pytest.mark.slow) for v, k in zip(values, keep, strict=True)]


# sources that start processes at each epoch: one of them is in the quick set, "dataset in two workers"
LONG = (
    "the same in two workers",
    "loader with two workers",
    "stateful loader with two workers",
    "weighted sampler with two workers",
)


# --- waiting


def until(
    check,  # function without arguments
    what: str,  # what is waited for, to be read after "not within 60 s:"
    seconds: float = 60,  # how long it may take on a busy machine
):  # the first true answer
    "Wait until `check()` is true"
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := check():
            return found
        time.sleep(0.005)
    raise AssertionError(f"not within {seconds} s: {what}")


def assert_still(
    value,  # function without arguments
    seconds: float = 0.5,  # many steps long
):
    "`value()` does not change for a while"
    before, end = value(), time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.02)
        assert value() == before


def moving(run, more=5):
    "Wait until a run has begun and goes on"
    first = until(lambda: run.progress.step, "the first step")
    until(lambda: run.progress.step >= first + more, "more steps")


def over(run):
    "Wait until no process writes a run; returns the run"
    until(lambda: lock_owner(run.path / "lock") is None, "the end of the run")
    return run


# --- processes


def execute(*words, folder, **more):
    "Run Python with these arguments in a folder; returns what `subprocess.run` does, with its texts"
    return subprocess.run(python(*words), cwd=folder, capture_output=True, text=True, timeout=300, **more)


_KILLED = """
import os, signal
import trainopt_nb.train.update as update
step, calls = update.Stepper.__call__, []
def counted(self, batches):
    calls.append(0)
    if len(calls) == {update}:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batches)
update.Stepper.__call__ = counted
"""


def run_until_killed(code, *arguments, update=7):
    "Run Python code that trains, in a process that is killed when this update begins"
    command = python("-c", _KILLED.format(update=update) + code, *arguments)
    assert subprocess.run(command, cwd=Path(__file__).parent).returncode != 0


def alive(pid):
    "Whether a process is there; one that ended and whose exit code was not asked for is not"
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def ranks_of(run):
    "Processes of the ranks that began last, as the supervisor wrote them into the log"
    log = run.path / "log.txt"
    lines = until(lambda: [x for x in log.read_text().splitlines() if x.startswith("ranks ")], "ranks")
    return [int(pid) for pid in lines[-1].removeprefix("ranks ").split(", ")]


# --- small tasks


images, labels = load_digits(return_X_y=True)
X, Y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
TRAIN, VALID = (
    (X[:110], Y[:110]),
    (X[200:350], Y[200:350]),
)  # seven batches of 16, the last one of 14; three of 64


def net(normalize=True, dropout=0.3, seed=1):
    torch.manual_seed(seed)
    norm = [nn.BatchNorm1d(24)] if normalize else []
    return nn.Sequential(nn.Linear(64, 24), *norm, nn.ReLU(), nn.Dropout(dropout), nn.Linear(24, 10))


class Augmented(Dataset):
    "Adds noise from every generator that people use"

    def __init__(self, held=False):
        self.rng = np.random.default_rng(5) if held else None
        self.transform = {"generator": torch.Generator().manual_seed(3)} if held else None

    def __len__(self):
        return len(TRAIN[0])

    def __getitem__(self, index):
        noise = (
            0.1 * torch.randn(64) + 0.1 * random.random() + 0.1 * torch.from_numpy(np.random.rand(64)).float()
        )
        if self.rng is not None:
            noise += torch.from_numpy(self.rng.normal(size=64)).float()
            noise += torch.randn(64, generator=self.transform["generator"])
        return TRAIN[0][index] + noise, TRAIN[1][index]


class Stream(IterableDataset):
    "Has no length and a buffer that it shuffles"

    data, room = TRAIN, 20  # of the class: an attribute of the object would be stored as its state

    def __iter__(self):
        inputs, targets = self.data
        buffer = []
        for i in range(len(inputs)):
            buffer.append(i)
            if len(buffer) == self.room:
                yield inputs[(j := buffer.pop(random.randrange(self.room)))], targets[j]
        for j in buffer:
            yield inputs[j], targets[j]


class Epochs(list):
    "Batches in an order that is a function of the epoch"

    number = 0

    def set_epoch(self, number):
        self.number = number

    def __iter__(self):
        return (self[(i + self.number) % len(self)] for i in range(len(self)))


def batches():
    return [(x, y) for x, y in zip(TRAIN[0].split(16), TRAIN[1].split(16), strict=True)]


def weighted(generator=None, workers=0):
    sampler = WeightedRandomSampler(torch.linspace(0.1, 1, 110), 110, generator=generator)
    return DataLoader(Augmented(), 16, sampler=sampler, num_workers=workers)


def stateful(workers):
    from torchdata.stateful_dataloader import StatefulDataLoader

    return StatefulDataLoader(Augmented(), 16, shuffle=True, num_workers=workers)


def seeded(number):
    return torch.Generator().manual_seed(number)


SOURCES = {  # name -> (function that makes train_data, options that go with it)
    "memory": (lambda: TRAIN, {}),
    "memory in order": (lambda: TRAIN, {"shuffle": False}),
    "dataset": (Augmented, {}),
    "dataset in two workers": (Augmented, {"workers": 2}),
    "dataset with generators of its own": (lambda: Augmented(held=True), {}),
    "the same in two workers": (lambda: Augmented(held=True), {"workers": 2}),
    "loader": (lambda: DataLoader(Augmented(), 16, shuffle=True), {}),
    "loader with two workers": (lambda: DataLoader(Augmented(), 16, shuffle=True, num_workers=2), {}),
    "loader with its own generator": (
        lambda: DataLoader(Augmented(), 16, shuffle=True, generator=seeded(4)),
        {},
    ),
    "weighted sampler": (weighted, {}),
    "weighted sampler with its own generator": (lambda: weighted(seeded(9)), {}),
    "weighted sampler with two workers": (lambda: weighted(seeded(9), workers=2), {}),
    "list of batches": (batches, {}),
    "batches by epoch": (lambda: Epochs(batches()), {}),
    "iterable dataset": (Stream, {"batch_size": 16}),
    "loader of an iterable dataset": (lambda: DataLoader(Stream(), 16), {}),
    "stateful loader": (lambda: stateful(0), {}),
    "stateful loader with two workers": (lambda: stateful(2), {}),
}

RECIPES = {  # name -> options
    "plain": {},
    "accumulated": {"accumulate": 2, "optimizer": "momentum", "schedule": "cosine", "warmup": 0.2},
    "averaged": {"ema": 0.9, "schedule": "onecycle", "lr": 1e-2},
    "averaged, accumulated, clipped": {"ema": 0.9, "accumulate": 3, "clip": 0.5, "l1": 1e-4, "optimizer": "nesterov"},
    "plateau": {"schedule": "plateau", "plateau_patience": 0, "monitor": "valid_loss", "lr": 0.03},
    "balanced focal": {"loss": "focal", "class_weights": "balanced", "optimizer": "rmsprop", "schedule": "step", "step_every": 1},
    "bf16": {"precision": "bf16", "optimizer": "adam", "schedule": "linear"},
    "limited": {"max_steps": 17, "optimizer": "adagrad", "schedule": "exponential", "gamma": 0.7},
    "no validation": {"optimizer": "sgd", "lr": 0.1, "ema": 0.5},
}  # fmt: skip


def options(**more):
    return TrainOptions.of(
        **{"epochs": 3, "batch_size": 16, "lr": 3e-3, "device": DEVICE, "save_seconds": 0.0, **more}
    )


def task(source="memory", recipe="plain", seed=1):
    "A task made anew, and its options"
    make, more = SOURCES[source]
    valid = None if recipe == "no validation" else VALID
    return Task(net(seed=seed), make(), valid), options(**more, **RECIPES[recipe])


def small_table():
    "331 rows with six features and three classes: inputs, labels, and pairs to train and to validate"
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(331, 6, generator=generator)
    y = (x[:, :3] @ torch.ones(3) > 0).long() + (x[:, 3] > 0.8).long()
    return x, y, (x[:241], y[:241]), (x[241:], y[241:])


def three_classes():
    "90 rows with six features: inputs, labels of three classes, and a number for each row"
    x = torch.randn(90, 6, generator=seeded(0))
    return x, (x.sum(1) > 0).long() + (x[:, 0] > 1).long(), x[:, :1] * 2 - x[:, 1:2]


def made(build):
    "What `build()` gives, always with the same weights"
    torch.manual_seed(0)
    return build().to(DEVICE)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


# --- running


def magic(shell, line, cell=None):
    "Run `%trainopt line`, or `%%trainopt line` over a cell"
    if cell is None:
        return shell.run_line_magic("trainopt", line)
    return shell.run_cell_magic("trainopt", line, cell)


def quiet(line):
    "As `write`: prints nothing"


def follow(events, stop_at=None, how="stop", command=None):
    "All events, up to a stop at the first for which `stop_at` holds"
    seen, answer = [], None
    try:
        while True:
            seen.append(events.send(answer))
            answer = command(seen[-1]) if command else None
            if stop_at and stop_at(seen[-1]):
                stop_at = None
                if how == "close":
                    events.close()
                    return seen
                answer = Stop()
    except StopIteration:
        return seen


def go_on(folder, source, recipe, seed=77, **changes):
    "Resume with a model, data and options that are made anew"
    again, how = task(source, recipe, seed)
    random.seed(seed)
    np.random.seed(seed)
    _, *checkpoint, lost = load_checkpoint(Path(folder) / "checkpoints", "last")
    assert not lost
    return again.model, follow(train(again, how.replace(**changes), folder, checkpoint=tuple(checkpoint)))


# --- a page


class Wire:
    "Stands for the connection to the page, and keeps what was sent"

    comm_id, kernel = "wire", True

    def __init__(self):
        self.sent = []

    def send(self, data=None, metadata=None, buffers=None):
        self.sent.append(json.loads(json.dumps(data, allow_nan=False)))

    def on_msg(self, callback):
        self.deliver = callback

    def close(self, *args, **kwargs):
        pass

    def click(self, content):
        "A message from the page"
        self.deliver({"content": {"data": {"method": "custom", "content": content}}, "buffers": []})

    def news(self):
        "What the page was sent since the last call"
        sent, self.sent = self.sent, []
        return [
            json.loads(data["content"]["news"] if data["method"] == "custom" else data["state"]["whole"])
            for data in sent
        ]


# --- comparing


def losses(run):
    "The loss of each step"
    return torch.tensor([e.loss for e in run.events() if type(e) is Step])


def weights(model):
    "All parameters as one vector"
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def fingerprint(tree):
    "Equal for trees that are equal to the last bit"
    plain, tensors = pack(tree)
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        data = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + data)
    return digest.hexdigest()


def record(events):
    "What does not depend on the clock: steps and epochs, each once"
    kept = []
    for e in events:
        if type(e) is Started:
            kept = [k for k in kept if (k[1] <= e.step if k[0] == "step" else k[1] <= e.epoch)]
        elif type(e) is Step:
            kept.append(("step", e.step, e.epoch, e.loss, e.lr, e.samples))
        elif type(e) is Epoch:
            kept.append(("epoch", e.epoch, e.step, e.train_loss, e.valid_loss, e.metrics, e.lr, e.best))
    return kept


def outcome(folder, model, events):
    "Everything that must be equal"
    found = {
        "record": record(events),
        "model": fingerprint(dict(model.state_dict())),
        "ended": events[-1][:4],
    }
    for which in ("last", "best"):
        _, model_state, training, _ = load_checkpoint(Path(folder) / "checkpoints", which)
        training = {k: v for k, v in training.items() if which == "last"}
        found[which] = fingerprint({"model": dict(model_state), **training})
    return found
