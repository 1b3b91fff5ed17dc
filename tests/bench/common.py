"What the benchmarks share: the data, two models, the loop that one would write by hand, and a fair comparison"

import datetime
import gc
import os
import platform
import random
import statistics
import time
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

BATCH, LR, DECAY = 64, 1e-3, 0.01


def digits(images=False):  # x float32 in 0 to 1, y int64
    "80% of scikit-learn's digits, in memory"
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    keep = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[: int(0.8 * len(x))]
    return (x[keep].reshape(-1, 1, 8, 8) if images else x[keep]), y[keep]


def mlp():
    "64-128-10"
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def cnn():
    "The quickstart's network"
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 4 * 4, 10),
    )  # fmt: skip


WINDOWS = {"mlp": 20, "cnn": 4}  # epochs whose times are added before they are compared: 0.1 to 0.3 s
MODELS = {"mlp": (mlp, partial(digits, images=False)), "cnn": (cnn, partial(digits, images=True))}


def groups(model):
    "Weight decay for matrices and kernels, none for biases and norms: what every careful loop does"
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": DECAY},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def adamw(model):
    return torch.optim.AdamW(groups(model), lr=LR, fused=True)


def shuffled(samples):
    "Orders of the samples, one an epoch"
    generator = torch.Generator().manual_seed(0)
    while True:
        yield torch.randperm(samples, generator=generator)


def by_hand(kind, orders=None):  # returns (a function that trains one epoch, the model)
    "The loop that everybody writes; the loss stays a tensor that nobody reads"
    make, data = MODELS[kind]
    model, (x, y) = make(), data()
    optimizer, orders = adamw(model), orders or shuffled(len(x))

    def epoch():
        for rows in next(orders).split(BATCH):
            loss = F.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return epoch, model


def by_hand_tuned(kind):
    "The same by somebody who knows where PyTorch's small change goes"
    make, data = MODELS[kind]
    model, (x, y) = make(), data()
    optimizer, orders = adamw(model), shuffled(len(x))
    parameters = list(model.parameters())

    def epoch():
        for rows in next(orders).split(BATCH):
            loss = F.cross_entropy(model(x.index_select(0, rows)), y.index_select(0, rows))
            loss.backward()
            optimizer.step()
            for p in parameters:
                p.grad = None

    return epoch, model


def by_generator(kind):
    "The hand-written loop as a generator of one small record a step"
    make, data = MODELS[kind]
    model, (x, y) = make(), data()
    optimizer, orders = adamw(model), shuffled(len(x))

    def steps():
        number = 0
        for rows in next(orders).split(BATCH):
            loss = F.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            number += 1
            yield number, loss.item()

    def epoch():
        for _ in steps():
            pass

    return epoch, model


def repeated(make):
    "A hand-written loop as a training that takes turns"

    def training(kind, turns, epochs):
        epoch, _ = make(kind)
        for _ in range(epochs):
            epoch()
            turns()

    return training


def steps_of(kind):
    "Steps of a window"
    return -(-len(digits()[0]) // BATCH) * WINDOWS[kind]


class Turns:
    """
    To be called at every epoch end of some training: lets the hand-written loop train an epoch of its own in between,
    so that both have the same neighbors in time. CPU seconds of the whole process, all of its threads.
    """

    def __init__(self, kind, skip=3):
        self.by_hand, self.skip = by_hand(kind)[0], skip  # epochs at the beginning that do not count
        self.window = WINDOWS[kind]
        self.times, self.reference, self.began = [], [], None

    def __call__(self):
        began = time.process_time()
        if self.began is not None:
            self.times.append(began - self.began)
            began = time.process_time()
            self.by_hand()
            self.reference.append(time.process_time() - began)
        else:
            self.by_hand()
        self.began = time.process_time()

    @property
    def pairs(self):
        "CPU seconds of some epochs together, long enough that what is done only now and then falls into each"
        starts = range(self.skip, len(self.times) - self.window + 1, self.window)
        return tuple(
            [sum(kept[i : i + self.window]) for i in starts] for kept in (self.times, self.reference)
        )


def take_turns(trainings, kind, instances, epochs):
    """
    Where a model lies in memory shifts its speed by a percent, so every training is begun anew many times.
    Returns name -> (CPU seconds of some epochs together, those of the hand-written ones in between).
    """
    found = {name: ([], []) for name in trainings}
    names = list(trainings)
    for _ in range(instances):
        random.shuffle(names)
        for name in names:
            turns = Turns(kind)
            gc.collect()
            trainings[name](kind, turns, epochs)
            for kept, new in zip(found[name], turns.pairs, strict=True):
                kept += new
    return found


def ratio(times, reference):  # (median, half width of its 95% interval, lower quartile, upper quartile)
    "Paired ratios: noise that lasts longer than two blocks falls out"
    ratios = [a / b for a, b in zip(times, reference, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    error = 1.96 * 1.2533 * (high - low) / 1.349 / len(ratios) ** 0.5
    return middle, error, low, high


HEAD = f"{'':44s} {'µs a step':>9s} {'ratio':>6s} {'±':>6s} {'quartiles':>13s}"


def row(name, kind, times, reference):
    middle, error, low, high = ratio(times, reference)
    each = statistics.median(times) / steps_of(kind) * 1e6
    return f"{name:44s} {each:9.1f} {middle:6.3f} {error:6.3f} {low:6.3f} {high:6.3f}"


def machine():
    "Date, processor and versions: no names of hosts"
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            model = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    return (
        f"{datetime.date.today()}, {model}, {os.cpu_count()} cores (load {load:.1f}), "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )
