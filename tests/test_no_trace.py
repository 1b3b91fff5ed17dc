"""The check before the first step changes nothing that can be observed: weights, attributes, data, random numbers

Models are put together at random from parts that keep state, and go with data of every form. What is observed is what `pickle` writes.
"""

import io
import pickle
import random

import numpy as np
import pytest
import torch
from helpers import options
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from torch import nn
from torch.utils.data import DataLoader, Dataset

from trainopt_nb import Task
from trainopt_nb.train.prepare import prepare

X, Y = torch.randn(24, 6, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 3
COUNT, TABLE = 0, {"rng": np.random.default_rng(3), "calls": []}


class Counts(nn.Module):
    shared = 0

    def __init__(self):
        super().__init__()
        self.calls, self.seen = 0, {"shapes": []}

    def forward(self, x):
        global COUNT
        COUNT += 1
        self.calls += 1
        type(self).shared += 1
        self.seen["shapes"].append(tuple(x.shape))
        self.seen[len(x)] = x.detach().mean()
        return x


class Draws(nn.Module):
    def __init__(self):
        super().__init__()
        self.held = [torch.Generator(), np.random.RandomState(1), random.Random(2)]

    def forward(self, x):
        noise = torch.rand(1, generator=self.held[0]) + self.held[1].rand() + self.held[2].random()
        TABLE["calls"].append(TABLE["rng"].normal())
        return x + noise + torch.randn(1) + np.random.rand() + random.random()


class Remembers(nn.Module):
    hidden = None

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(6), persistent=False)
        self.register_buffer("late", None)

    def forward(self, x):
        self.mean.lerp_(x.detach().mean(0), 0.5)
        self.late = x.detach().sum()
        self.hidden = x.mean(0) if self.hidden is None else (self.hidden.detach() + x.mean(0))
        return x + self.hidden


class Writes(nn.Module):
    "Writes to its input, and to its own weight"

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x):
        with torch.no_grad():
            self.scale.mul_(0.9)
            x.add_(1.0) if not x.requires_grad else None
        return x * self.scale


class Switches(nn.Module):
    "Changes what it is made of"

    def __init__(self):
        super().__init__()
        self.layers, self.extra = nn.ModuleList([nn.Linear(6, 6)]), None

    def forward(self, x):
        self.layers.append(nn.Linear(6, 6))
        self.extra = nn.Identity()
        self.register_buffer(f"made{len(self.layers)}", torch.ones(1))
        return self.layers[0](x)


PARTS = {
    "writes": Writes,
    "counts": Counts,
    "draws": Draws,
    "remembers": Remembers,
    "switches": Switches,
    "norm": lambda: nn.BatchNorm1d(6),
    "averaging norm": lambda: nn.BatchNorm1d(6, momentum=None),
    "dropout": lambda: nn.Dropout(0.5),
    "spectral norm": lambda: nn.utils.spectral_norm(nn.Linear(6, 6)),
    "linear": lambda: nn.Linear(6, 6),
}


class Rows(Dataset):
    def __init__(self):
        self.rng, self.calls, self.x = np.random.default_rng(4), [], X.clone()

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        self.calls.append(index)
        self.x[index] += 1
        return self.x[index] + self.rng.normal() + torch.randn(6), Y[index]


class Turns:
    def __init__(self):
        self.epoch = 0

    def __len__(self):
        return len(X)

    def __iter__(self):
        self.epoch += 1
        return iter(torch.randperm(len(X)).tolist())


class Stream:
    def __init__(self):
        self.position = 0

    def __iter__(self):
        for x, y in zip(X.split(8), Y.split(8), strict=True):
            self.position += 1
            yield x.clone(), y


FORMS = {
    "tensors": lambda: (X.clone(), Y.clone()),
    "arrays": lambda: (X.numpy().copy(), Y.numpy().copy()),
    "dataset": Rows,
    "loader": lambda: DataLoader(Rows(), 8, shuffle=True, generator=torch.Generator()),
    "own sampler": lambda: DataLoader(Rows(), 8, sampler=Turns()),
    "batches": lambda: [(x.clone(), y.clone()) for x, y in zip(X.split(8), Y.split(8), strict=True)],
    "stream": Stream,
}


class OwnLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0
        self.register_buffer("center", torch.zeros(3))

    def forward(self, scores, targets):
        self.calls += 1
        self.center.lerp_(scores.detach().mean(0), 0.3)
        return nn.functional.cross_entropy(scores - self.center, targets)


class Values(pickle.Pickler):
    "Pickles tensors and generators by their values: torch writes their addresses in memory too"

    def reducer_override(self, value):
        if isinstance(value, torch.Tensor):
            return list, (value.detach().reshape(-1).tolist(),), {"requires_grad": value.requires_grad}
        if isinstance(value, torch.Generator):
            return list, (value.get_state().tolist(),)
        return NotImplemented


def as_bytes(value):
    written = io.BytesIO()
    Values(written).dump(value)
    return written.getvalue()


def observed(model, lazy, *others):
    "All that can be seen, as text by name; a lazy layer is meant to know its shapes afterwards"
    kept = [layer for layer in model if not (lazy and layer is model[-1])]
    generators = torch.get_rng_state(), random.getstate(), np.random.get_state()
    globals_ = COUNT, Counts.shared, TABLE
    modes = [module.training for module in model.modules()]
    grads = [p.grad is None for layer in kept for p in layer.parameters()]
    seen = {
        "layers": kept,
        "others": others,
        "random": generators,
        "globals": globals_,
        "modes": modes,
        "grads": grads,
    }
    return {name: as_bytes(value) for name, value in seen.items()}


any_task = given(
    parts=st.lists(st.sampled_from(sorted(PARTS)), min_size=1, max_size=4),
    form=st.sampled_from(sorted(FORMS)),
    valid=st.sampled_from([None, *sorted(FORMS)]),
    own_loss=st.booleans(),
)


@pytest.mark.parametrize("lazy", [False, True])
@examples(12)
@any_task
def test_the_check_before_the_first_step_leaves_no_trace(lazy, parts, form, valid, own_loss):
    check_leaves_no_trace(lazy, parts, form, valid, own_loss)


@pytest.mark.slow
@pytest.mark.parametrize("lazy", [False, True])
@examples(100)
@any_task
def test_the_check_before_the_first_step_leaves_no_trace_in_many_tasks(lazy, parts, form, valid, own_loss):
    check_leaves_no_trace(lazy, parts, form, valid, own_loss)


def check_leaves_no_trace(lazy, parts, form, valid, own_loss):
    head = nn.LazyLinear(3) if lazy else nn.Linear(6, 3)
    model = nn.Sequential(*(PARTS[name]() for name in parts), head)
    loss, train_data, valid_data = OwnLoss() if own_loss else "auto", FORMS[form](), valid and FORMS[valid]()
    others = loss, train_data, valid_data
    before = observed(model, lazy, *others)
    prepare(Task(model, train_data, valid_data), options(loss=loss, batch_size=8))
    after = observed(model, lazy, *others)
    assert [name for name in before if before[name] != after[name]] == []
