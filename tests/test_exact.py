"""A killed run that goes on equals the uninterrupted one to the last bit, wherever the user's code keeps its state

Each setting keeps state in another place: closures, slots, globals, samplers, optimizers. A run is copied while it trains, as a kill leaves
it: without what would have been saved at a stop. The copy goes on with objects that are made anew, with other weights and other seeds.
What cannot be stored must be named.
"""

import itertools
import random
import shutil
import tempfile
from collections import deque
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import LONG, Epochs, Stream, follow, options, outcome, seeded
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

from trainopt_nb import Task
from trainopt_nb.events.records import Epoch, Heartbeat, LrChanged, Note, SetLr, Step
from trainopt_nb.store.checkpoint import load_checkpoint
from trainopt_nb.train.commands import earlier_commands
from trainopt_nb.train.loop import train

X = torch.randn(44, 6, generator=seeded(0))
Y = (X[:, :3] @ torch.ones(3) > 0).long() + (X[:, 3] > 0.5).long()
TRAIN, VALID = (X[:36], Y[:36]), (X[36:], Y[36:])  # five batches of eight, the last one of four
SETTINGS = {}  # name -> function of a seed that returns (model, options), and train_data where it is another


def setting(make):
    SETTINGS[make.__name__.removeprefix("_").replace("_", " ")] = make
    return make


def net(seed, *more):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), *more, nn.ReLU(), nn.Linear(8, 3))


# --- state of models


class Model(nn.Module):
    "Adds what `extra` returns to its scores"

    def __init__(self, seed):
        super().__init__()
        self.net = net(seed)
        self.begin(seed)

    def begin(self, seed):
        pass

    def forward(self, x):
        return self.net(x) + self.extra(x)


@setting
class CounterInTheModel(Model):
    calls = 0

    def extra(self, x):
        self.calls += self.training
        return 0.01 * self.calls


@setting
class CountersInContainers(Model):
    def begin(self, seed):
        self.seen = {"calls": [0], 3: deque(maxlen=4)}

    def extra(self, x):
        self.seen["calls"][0] += 1
        self.seen[3].append(x.mean().item())
        return 0.01 * self.seen["calls"][0] + sum(self.seen[3])


@setting
class GeneratorOfTheModel(Model):
    def begin(self, seed):
        self.generator = seeded(seed)

    def extra(self, x):
        return torch.rand(3, generator=self.generator).to(x.device)


@setting
class GeneratorMadeLate(Model):
    generator = None

    def extra(self, x):
        if self.generator is None:
            self.generator = np.random.default_rng(7)
        return self.generator.normal()


@setting
class OtherGenerators(Model):
    def begin(self, seed):
        self.held = [np.random.RandomState(seed), {"python": random.Random(seed)}]

    def extra(self, x):
        return self.held[0].rand() + self.held[1]["python"].random()


@setting
class BufferThatIsNotPersistent(Model):
    def begin(self, seed):
        self.register_buffer("mean", torch.zeros(6), persistent=False)

    def extra(self, x):
        self.mean.lerp_(x.detach().mean(0), 0.1)
        return self.mean.sum()


@setting
class BufferMadeLate(Model):
    def begin(self, seed):
        self.register_buffer("mean", None)

    def extra(self, x):
        self.mean = x.detach().mean() + (0 if self.mean is None else 0.9 * self.mean)
        return self.mean


@setting
class ProjectionInAnAttribute(Model):
    def begin(self, seed):
        self.projection = torch.randn(6, 3)

    def extra(self, x):
        return x @ self.projection.to(x.device)


@setting
class HiddenState(Model):
    hidden = None

    def extra(self, x):
        self.hidden = torch.tanh(x.detach().mean(0)[:3] + (0 if self.hidden is None else self.hidden))
        return self.hidden


@setting
class CacheByLength(Model):
    def begin(self, seed):
        self.cache = {}

    def extra(self, x):
        if len(x) not in self.cache:
            self.cache[len(x)] = torch.randn(
                3, device=x.device
            )  # from the global generator, at different moments
        return self.cache[len(x)]


@setting
class ArrayInTheModel(Model):
    def begin(self, seed):
        self.usage = np.zeros(3)

    def extra(self, x):
        self.usage += x.detach().cpu().numpy().mean()
        return torch.from_numpy(self.usage).float().to(x.device)


@setting
class SharedByTheClass(Model):
    rng, calls = np.random.default_rng(1), 0

    def begin(self, seed):
        type(self).rng, type(self).calls = np.random.default_rng(seed), 0

    def extra(self, x):
        type(self).calls += 1
        return self.rng.normal() + 0.01 * self.calls


@setting
class ExtraState(Model):
    def begin(self, seed):
        self.count = torch.zeros(())

    def get_extra_state(self):
        return {"count": self.count.clone()}

    def set_extra_state(self, state):
        self.count = state["count"]

    def extra(self, x):
        self.count = self.count + 1
        return 0.01 * self.count


class Noise:
    __slots__ = ("calls", "counts", "rng")

    def __init__(self, seed, counts=True):
        self.rng, self.calls, self.counts = np.random.default_rng(seed), 0, counts

    def __call__(self, x):
        self.calls += self.counts
        return x + 0.1 * self.rng.normal() + 0.001 * self.calls


@setting
class SlotsInTheModel(Model):
    def begin(self, seed):
        self.noise = Noise(seed)

    def extra(self, x):
        return self.noise(0.0)


@setting
class StateOfAHook(Model):
    def begin(self, seed):
        calls = [0]

        def hook(module, inputs, outputs):
            calls[0] += 1
            return outputs + 0.01 * calls[0]

        self.net[0].register_forward_hook(hook)

    def extra(self, x):
        return 0


GENERATOR, CALLS = seeded(0), 0


def global_noise():
    global CALLS
    CALLS += 1
    return torch.rand(3, generator=GENERATOR) + 0.01 * CALLS


@setting
class GlobalVariables(Model):
    def begin(self, seed):
        global CALLS
        CALLS = 0
        GENERATOR.manual_seed(seed)

    def extra(self, x):
        return global_noise().to(x.device)


# --- state of losses


@setting
def closure_of_a_loss(seed):
    generator, calls = seeded(seed), 0

    def loss(scores, targets):
        nonlocal calls
        calls += 1
        noise = torch.rand(scores.shape, generator=generator).to(scores.device)
        return F.cross_entropy(scores + noise, targets) * (1 + 0.1 * calls)

    return net(seed), {"loss": loss}


@setting
def default_argument_of_a_loss(seed):
    def loss(scores, targets, memory={"calls": 0}):  # noqa: B006 as users write it
        memory["calls"] += 1
        return F.cross_entropy(scores, targets) * (1 + 0.1 * memory["calls"])

    loss.__defaults__[0]["calls"] = 0
    return net(seed), {"loss": loss}


class CentredLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("center", torch.zeros(3))
        self.register_buffer("steps", torch.tensor(0), persistent=False)

    def forward(self, scores, targets):
        self.center.lerp_(scores.detach().mean(0), 0.2)
        self.steps += 1
        return F.cross_entropy(scores - self.center, targets) * (1 + 0.1 * self.steps)


@setting
def buffers_of_a_loss(seed):
    return net(seed), {"loss": CentredLoss()}


@setting
def history_of_a_loss(seed):
    history = deque([1.0], maxlen=5)

    def loss(scores, targets):
        value = F.cross_entropy(scores, targets)
        history.append(value.item())
        return value * sum(history)

    return net(seed), {"loss": loss, "accumulate": 2}


# --- state of optimizers


class Wobbling(torch.optim.SGD):
    "Counts by itself, and draws from a generator of its own"

    def __init__(self, parameters, lr, seed):
        super().__init__(parameters, lr)
        self.turn, self.generator = 0, seeded(seed)

    def step(self, closure=None):
        self.turn += 1
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    noise = torch.randn(p.shape, generator=self.generator).to(p.device)
                    p.grad.add_(noise, alpha=0.01 * self.turn)
        return super().step(closure)


@setting
def python_state_of_an_optimizer(seed):
    return net(seed), {"optimizer": lambda parameters: Wobbling(parameters, 0.05, seed), "lr": 0.05}


@setting
def scheduler_of_the_user(seed):
    def make(parameters):
        optimizer = torch.optim.SGD(parameters, 0.05, momentum=0.5)
        optimizer.scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        seen = optimizer.scheduler

        def after(*_):
            seen.step()
            for group in optimizer.param_groups:
                group["momentum"] = 0.5 + 0.01 * seen.last_epoch

        optimizer.register_step_post_hook(after)
        return optimizer

    return net(seed), {"optimizer": make, "lr": 0.05}


@setting
def several_parameter_groups(seed):
    def make(parameters):
        return torch.optim.AdamW(
            [{"params": parameters[:2], "lr": 0.01}, {"params": parameters[2:]}], lr=0.02
        )

    return net(seed), {"optimizer": make, "schedule": "cosine", "lr": 0.02}


OPTIMIZERS = "sgd momentum nesterov adagrad rmsprop adam adamw adadelta adamax nadam radam asgd rprop adafactor".split()
for name in OPTIMIZERS:
    SETTINGS[f"optimizer {name}"] = lambda seed, name=name: (net(seed), {"optimizer": name})


@setting
def sparse_embeddings(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.EmbeddingBag(20, 3, sparse=True))
    words = (X * 4).long().abs().clamp(max=19)
    return model, {"optimizer": "sparseadam"}, (words[:36], Y[:36]), (words[36:], Y[36:])


# --- options


RECIPES = {
    "average": {"ema": 0.8, "schedule": "onecycle"},
    "average of accumulated and clipped": {
        "ema": 0.8,
        "accumulate": 2,
        "clip": 0.1,
        "clip_value": 0.05,
        "l1": 1e-4,
    },
    "plateau": {"schedule": "plateau", "plateau_patience": 0, "monitor": "train_loss", "lr": 0.2},
    "bf16": {"precision": "bf16", "schedule": "linear", "warmup": 0.2},
    "balanced focal": {
        "loss": "focal",
        "class_weights": "balanced",
        "schedule": "multistep",
        "milestones": (1,),
    },
    "skipped batches": {"on_nonfinite": "skip", "schedule": "exponential"},
}
for name, more in RECIPES.items():
    SETTINGS[name] = lambda seed, more=more: (net(seed, nn.BatchNorm1d(8), nn.Dropout(0.3)), dict(more))


@setting
def lazy_modules(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(3)), {}


@setting
def parametrizations(seed):
    torch.manual_seed(seed)
    first = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 8))
    return nn.Sequential(first, nn.ReLU(), nn.utils.parametrizations.weight_norm(nn.Linear(8, 3))), {}


# --- state of data


class Rows(Dataset):
    "What a dataset can keep: a generator in the slots of its transform, and how often it was asked"

    def __init__(self, seed=None, counts=False):
        self.noise, self.counts, self.calls = None if seed is None else Noise(seed, counts), counts, 0

    def __len__(self):
        return len(TRAIN[0])

    def __getitem__(self, index):
        self.calls += self.counts
        x = TRAIN[0][index] + 0.01 * self.calls + 0.1 * torch.randn(6) + 0.1 * random.random()
        return x if self.noise is None else self.noise(x), TRAIN[1][index]


def noisy_collate(seed):
    generator = seeded(seed)

    def collate(samples):
        x, y = torch.utils.data.default_collate(samples)
        return x + 0.1 * torch.randn(x.shape, generator=generator), y

    return collate


class EpochSampler:
    "Counts its epochs by itself"

    def __init__(self):
        self.epoch = 0

    def __len__(self):
        return len(TRAIN[0])

    def __iter__(self):
        self.epoch += 1
        return iter(torch.randperm(len(self), generator=seeded(self.epoch)).tolist())


class Growing:
    "An iterable that gives its batches with growing noise, and knows no length"

    def __init__(self):
        self.epoch = 0

    def __iter__(self):
        self.epoch += 1
        for x, y in zip(TRAIN[0].split(8), TRAIN[1].split(8), strict=True):
            yield x + self.epoch * torch.randn(x.shape), y


class Remembering:
    "A stream that stores its position by itself"

    def __init__(self, seed):
        self.position, self.generator = 0, seeded(seed)

    def state_dict(self):
        return {"position": self.position, "generator": self.generator.get_state()}

    def load_state_dict(self, state):
        self.position = state["position"]
        self.generator.set_state(state["generator"])

    def __iter__(self):
        while self.position < 5:
            rows = slice(8 * self.position, 8 * self.position + 8)
            self.position += 1
            yield TRAIN[0][rows] + torch.rand(1, generator=self.generator), TRAIN[1][rows]
        self.position = 0


class Shuffled(Stream):
    data, room = TRAIN, 9


def weighted(seed, dataset, **more):
    sampler = WeightedRandomSampler(torch.linspace(0.1, 1, 36), 36, generator=seeded(seed))
    return DataLoader(dataset, 8, sampler=sampler, **more)


def stateful(seed):
    from torchdata.stateful_dataloader import StatefulDataLoader

    return StatefulDataLoader(Rows(seed), 8, shuffle=True)


def in_turn():
    return Epochs([(x.clone(), y) for x, y in zip(TRAIN[0].split(8), TRAIN[1].split(8), strict=True)])


DATA = {  # name -> (train_data of a seed, options)
    "dataset": (lambda seed: Rows(), {}),
    "dataset in two workers": (lambda seed: Rows(seed), {"workers": 2}),
    "generator in slots of a transform": (lambda seed: Rows(seed, counts=True), {}),
    "counter of a dataset": (lambda seed: Rows(counts=True), {}),
    "generator of collate_fn": (
        lambda seed: DataLoader(Rows(), 8, shuffle=True, collate_fn=noisy_collate(seed)),
        {},
    ),
    "the same in two workers": (
        lambda seed: DataLoader(Rows(), 8, shuffle=True, collate_fn=noisy_collate(seed), num_workers=2),
        {},
    ),
    "sampler that counts its epochs": (lambda seed: DataLoader(Rows(), 8, sampler=EpochSampler()), {}),
    "the same, accumulated": (
        lambda seed: DataLoader(Rows(counts=True), 8, sampler=EpochSampler()),
        {"accumulate": 2},
    ),
    "weighted sampler": (lambda seed: weighted(seed, Rows(seed)), {}),
    "weighted sampler with two workers": (lambda seed: weighted(seed, Rows(), num_workers=2), {}),
    "iterable that counts its epochs": (lambda seed: Growing(), {}),
    "iterable dataset": (lambda seed: Shuffled(), {"batch_size": 8}),
    "stream with a state": (Remembering, {}),
    "stateful loader": (stateful, {}),
    "batches in turn": (lambda seed: in_turn(), {}),
}
for name, (make, more) in DATA.items():
    SETTINGS[name] = lambda seed, make=make, more=more: (net(seed), dict(more), make(seed))


# --- runs


def made(name, seed):
    "A task and its options, made anew"
    found = SETTINGS[name](seed)
    model, more, *data = (found, {}) if isinstance(found, nn.Module) else found
    given = {"epochs": 2, "batch_size": 8, "lr": 0.02, "save_steps": 2, "metrics": "none", **more}
    train_data, valid_data = (*data, TRAIN, VALID)[:2] if len(data) != 1 else (data[0], VALID)
    return Task(model, train_data, valid_data), options(**given)


def killed(events, folder, place, copy, command=None):
    "Follow a run up to a place, and copy its folder there; returns the events so far"
    seen, answer = [], None
    while True:
        try:
            seen.append(events.send(answer))
        except StopIteration:
            pytest.fail(f"the run ended before {place}")
        if place(seen[-1]):
            break
        answer = command(seen[-1]) if command else None
    shutil.copytree(folder, copy)
    events.close()
    return seen


def go_on(name, folder, before, seed=77, **more):
    task, how = made(name, seed)
    how = how.replace(**more)
    random.seed(seed)
    np.random.seed(seed)
    _, *checkpoint, lost = load_checkpoint(folder / "checkpoints", "last")
    assert not lost
    earlier = earlier_commands(before, checkpoint[1])
    return task.model, follow(train(task, how, folder, checkpoint=tuple(checkpoint), earlier=earlier))


def whole(name, folder, command=None, **more):
    task, how = made(name, 1)
    events = follow(train(task, how.replace(**more), folder), command=command)
    assert events[-1].state == "finished", events[-1]
    assert [e for e in events if type(e) is Note and e.topic == "resume"] == []
    return outcome(folder, task.model, events)


PLACES = [(f"step {n}", lambda e, n=n: type(e) is Step and e.step == n) for n in range(1, 6)]
PLACES += [(f"epoch {n}", lambda e, n=n: type(e) is Epoch and e.epoch == n) for n in (1,)]
PLACES += [("validation", lambda e: type(e) is Heartbeat)]
LATER = [(f"step {n}", lambda e, n=n: type(e) is Step and e.step == n) for n in range(6, 11)]


def kills():
    "Every setting at one place; all other places may take long"
    for number, name in enumerate(SETTINGS):
        places = PLACES if "accumulate" in name or name in ("history of a loss",) else PLACES + LATER
        for other, (place, check) in enumerate(places):
            short = other == (number * 3 + 2) % len(places) and name not in LONG
            marks = [] if short else [pytest.mark.slow]
            yield pytest.param(name, check, marks=marks, id=f"{name}-{place}")


@pytest.mark.parametrize(("name", "place"), [*kills()])
def test_killed_and_resumed_is_uninterrupted(name, place, tmp_path):
    task, how = made(name, 1)
    before = killed(train(task, how, tmp_path / "cut"), tmp_path / "cut", place, tmp_path / "copy")
    model, after = go_on(name, tmp_path / "copy", before)
    assert outcome(tmp_path / "copy", model, before + after) == uninterrupted(name)


@cache
def uninterrupted(name):
    with tempfile.TemporaryDirectory() as folder:
        return whole(name, Path(folder))


def test_there_are_enough_settings():
    assert len(SETTINGS) >= 40


# --- commands


@pytest.mark.parametrize("name", ["optimizer adamw", "plateau"])
@pytest.mark.parametrize("kind", [Step, Epoch, Heartbeat])
def test_a_learning_rate_set_by_hand_is_set_again(name, kind, tmp_path):
    "Before the newest checkpoint, after it, and at the end of an epoch whose validation may lower the rate"

    def commands():
        asked = {Step: [(3, 0.5), (5, 0.01), (7, 0.03)], Epoch: [(5, 0.5)], Heartbeat: [(5, 0.5)]}[kind]

        def command(event):
            if type(event) is kind and asked and event.step == asked[0][0]:
                return SetLr(asked.pop(0)[1])

        return command

    more = {"save_steps": 4, "save_seconds": 1e6}  # the checkpoint of step 4 is the newest
    expected = whole(name, tmp_path / "whole", commands(), **more)
    task, how = made(name, 1)
    how = how.replace(**more)
    place = lambda e: type(e) is Step and e.step == (7 if kind is Step else 6)
    before = killed(
        train(task, how, tmp_path / "cut"), tmp_path / "cut", place, tmp_path / "copy", commands()
    )
    if kind is Step:
        before.append(LrChanged(7, 0.03))  # executed and logged, and then the process was killed
    model, after = go_on(name, tmp_path / "copy", before, **more)
    assert outcome(tmp_path / "copy", model, before + after) == expected


def test_a_second_kill_and_a_new_decision():
    "What was set again is logged again; a rate that is set anew holds in place of those that were to come"
    log = [LrChanged(3, 0.5), LrChanged(8, 0.1), LrChanged(9, 0.2), LrChanged(8, 0.1)]
    training = {"step": 6, "epoch": 0, "commands": []}
    assert earlier_commands(log, training) == [(8, 0, SetLr(0.1)), (9, 0, SetLr(0.2))]
    assert earlier_commands([*log, LrChanged(7, 0.3)], training) == [(7, 0, SetLr(0.3))]


# --- what cannot be stored is named


class Late:
    def __init__(self):
        self.calls = 0


class MakesLate(Model):
    helper = None

    def extra(self, x):
        self.helper = self.helper or Late()
        self.helper.calls += 1
        return self.helper.calls


class DrawsFromIterator(Model):
    def begin(self, seed):
        self.numbers = itertools.count()

    def extra(self, x):
        return next(self.numbers)


class Large(Model):
    def begin(self, seed):
        self.memory = np.zeros(2**24)

    def extra(self, x):
        self.memory += 1
        return 0


NAMED = {  # what is named -> (model, train_data)
    "model.helper is a Late that was made during training": (MakesLate, lambda: TRAIN),
    "model.numbers is an iterator (count)": (DrawsFromIterator, lambda: TRAIN),
    "model.memory changes during training and takes 128 MB": (Large, lambda: TRAIN),
    "the samples of train_data depend on those drawn before": (
        net,
        lambda: DataLoader(Rows(counts=True), 8, num_workers=1),
    ),
    "the worker processes of train_data keep random numbers": (
        net,
        lambda: weighted(1, Rows(), num_workers=1, persistent_workers=True),
    ),
}


@pytest.mark.parametrize("expected", NAMED)
def test_what_no_checkpoint_holds_is_named(expected, tmp_path):
    model, data = NAMED[expected]
    events = follow(
        train(Task(model(1), data(), VALID), options(epochs=1, batch_size=8, metrics="none"), tmp_path)
    )
    said = [e.text for e in events if type(e) is Note and e.topic == "resume"]
    assert len(said) == 1 and said[0].startswith(f"Exact resume is not possible here, because {expected}"), (
        said
    )
    assert events[-1].state == "finished"


@pytest.mark.parametrize("data", [lambda: Rows(1), lambda: weighted(1, Rows(), num_workers=1)])
def test_nothing_is_named_without_need(data, tmp_path):
    events = follow(train(Task(net(1), data(), VALID), options(epochs=1, batch_size=8, workers=1), tmp_path))
    assert [e for e in events if type(e) is Note and e.topic == "resume"] == []
