"Training loops written by hand, healthy ones and ones with a planted fault, for the doctor's tests and its benchmark"

from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from trainopt_nb.base.errors import TaskError
from trainopt_nb.insight.watch import watch

ADULT = "adult-train.csv.gz"


class Data:
    "Standardized inputs and labels, shuffled and split"

    def __init__(self, x, y, shape=None):
        order = np.random.default_rng(0).permutation(len(x))
        x, y = torch.tensor(x[order], dtype=torch.float32), torch.tensor(y[order])
        cut = int(0.75 * len(x))
        self.x, self.y, self.vx, self.vy = x[:cut], y[:cut], x[cut:], y[cut:]
        self.width, self.classes, self.shape = x.shape[1], int(y.max()) + 1, shape


@cache
def digits():
    found = load_digits()
    return Data(found.data / 16, found.target, (8, 8))


@cache
def adult(folder):
    "The numeric columns of Adult, and its categories as numbers of their own"
    import pandas as pd

    frame = pd.read_csv(Path(folder) / ADULT, nrows=6000)
    target = frame.pop(frame.columns[-1]).astype("category").cat.codes.to_numpy().astype("int64")
    wide = pd.get_dummies(frame, dtype=float).to_numpy()
    wide = wide[:, wide.std(0) > 0.05]
    return Data((wide - wide.mean(0)) / wide.std(0), target)


def mlp(data, outputs, act=nn.ReLU, width=64, extra=lambda n: ()):
    return nn.Sequential(
        nn.Linear(data.width, width), *extra(width), act(), nn.Linear(width, width), *extra(width), act(),
        nn.Linear(width, outputs),
    )  # fmt: skip


def conv(data, outputs, act=nn.ReLU):
    if data.shape is None:
        first = [nn.Unflatten(1, (1, data.width)), nn.Conv1d(1, 8, 5, 2, 2), nn.BatchNorm1d(8)]
        size = 8 * -(-data.width // 2)
    else:
        first = [nn.Unflatten(1, (1, *data.shape)), nn.Conv2d(1, 8, 3, 1, 1), nn.BatchNorm2d(8)]
        size = 8 * data.width
    return nn.Sequential(
        *first, act(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(size, 32), act(), nn.Linear(32, outputs)
    )


MODELS = {"mlp": mlp, "conv": conv}


class Loose(nn.Module):
    "Hidden layers in a list"

    def __init__(self, inner):
        super().__init__()
        self.layers, self.head = [*inner][:-1], inner[-1]

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class Cut(nn.Module):
    "A graph that is cut before the last layer"

    def __init__(self, inner, how):
        super().__init__()
        self.body, self.head, self.how = inner[:-1], inner[-1], how

    def forward(self, x):
        if self.how == "no_grad":
            with torch.no_grad():
                x = self.body(x)
            return self.head(x)
        return self.head(self.body(x).detach())


def floored(scores, targets):
    return F.mse_loss(torch.floor(scores).softmax(1), F.one_hot(targets, scores.shape[1]).float())


def answers(loss):
    "A loss of one column with the question whether the label is in the upper half"
    return lambda scores, targets: loss(scores, targets.to(scores.dtype))


def optimizer_of(model, name="sgd", lr=0.1, **more):
    kinds = {
        "sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "rmsprop": torch.optim.RMSprop,
        "adagrad": torch.optim.Adagrad, "nadam": torch.optim.NAdam,
    }  # fmt: skip
    return kinds[name](model.parameters(), lr=lr, **more)


class Program:
    "A loop and its parts; a plant changes some of them"

    def __init__(self, data, kind="mlp", seed=0, outputs=None):
        torch.manual_seed(seed)
        self.data, self.seed, self.make = data, seed, lambda n: MODELS[kind](data, n)
        self.x, self.y, self.vx, self.vy = data.x, data.y, data.vx, data.vy
        self.model, self.loss = self.make(outputs or data.classes), F.cross_entropy
        self.optimizer = optimizer_of(self.model, "adam", 1e-3)
        self.train_mode = self.eval_mode = self.zero = self.shuffle = True
        self.gone, self.sign, self.schedule, self.accumulate, self.decide = False, 1.0, None, 1, None

    def refit(self, model, *how, **more):
        self.model = model
        self.optimizer = optimizer_of(model, *(how or ("adam", 1e-3)), **more)

    def scores(self, x):
        return self.model(x)

    def validate(self):
        self.model.train(not self.eval_mode)
        with torch.no_grad():
            out = torch.cat([self.scores(rows) for rows in self.vx.split(256)])
        decided = (
            out.argmax(1)
            if out.dim() > 1 and out.shape[1] > 1
            else (out.reshape(-1) > (self.decide or 0)).long()
        )
        return float((decided == self.vy.reshape(len(decided), -1)[:, 0]).float().mean())

    def rows(self):
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            n = len(self.y)
            order = torch.randperm(n, generator=generator) if self.shuffle else torch.arange(n)
            yield from [rows for rows in order.split(64) if len(rows) == 64]

    def update(self, rows, number):
        self.model.train(self.train_mode)
        if self.zero and number % self.accumulate == 0:
            self.optimizer.zero_grad()
        loss = self.sign * self.loss(self.scores(self.x[rows]), self.y[rows])
        (loss / self.accumulate if self.accumulate > 1 else loss).backward()
        if self.gone:
            self.optimizer.zero_grad()
        if (number + 1) % self.accumulate == 0:
            self.optimizer.step()
            if self.schedule is not None:
                self.schedule.step()

    def run(self, steps=300, epoch=50, watched=True):
        "Train; returns what the doctor saw, and the last accuracy on held-out data"
        w, figure = watch(self.model, self.optimizer, show=False), 0.0
        if watched:
            w.__enter__()
        try:
            for number, rows in zip(range(steps), self.rows(), strict=False):
                self.update(rows, number)
                if (number + 1) % epoch == 0:
                    figure = self.validate()
        finally:
            if watched:
                w.__exit__(None, None, None)
        return w, figure

    def prove(self, w, seconds=10.0):
        "Try the changes that are proposed"
        if not any(each.change.amend for each in w.findings):
            return w.findings
        try:
            return w.prove((self.x, self.y), (self.vx, self.vy), seconds=seconds)
        except TaskError:  # a loss that it doesn't know
            return w.findings


def _last(*layers):
    def plant(p):
        p.refit(nn.Sequential(*p.model, *layers))

    return plant


def _loss(loss, *layers):
    def plant(p):
        p.loss = loss
        if layers:
            _last(*layers)(p)

    return plant


def _binary(loss, *layers, shape=None):
    "A question with two answers"

    def plant(p):
        p.y, p.vy = ((each >= p.data.classes / 2).float().view(-1, 1) for each in (p.y, p.vy))
        p.refit(nn.Sequential(*p.make(1), *layers))
        p.loss, p.decide = loss, 0.5 if layers or loss is F.mse_loss else None
        if shape:
            p.y = p.y.view(-1)

    return plant


def _one_column(p):
    p.refit(p.make(1))
    p.loss = lambda scores, targets: F.cross_entropy(scores, torch.zeros_like(targets))


def _set(**what):
    def plant(p):
        for name, value in what.items():
            setattr(p, name, value)

    return plant


def _stale(p):
    p.model = p.make(p.data.classes)


def _stale_head(p):
    p.model[-1] = nn.Linear(p.model[-1].in_features, p.data.classes)


def _same(p):
    with torch.no_grad():
        for module in p.model:
            if hasattr(module, "weight") and module.weight.dim() > 1:
                module.weight.fill_(0.01)


def _inputs(change):
    def plant(p):
        p.x, p.vx = change(p.x), change(p.vx)

    return plant


def _sorted(p):
    order = p.y.argsort(stable=True)
    p.x, p.y, p.shuffle = p.x[order], p.y[order], False


def _fit(*how, **more):
    return lambda p: p.refit(p.model, *how, **more)


def _dead(p):
    with torch.no_grad():
        for module in [m for m in p.model if isinstance(m, (nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d))][:-1]:
            module.bias.fill_(-20.0)


def _deep_sigmoid(p):
    layers = [part for _ in range(8) for part in (nn.Linear(64, 64), nn.Sigmoid())]
    p.refit(
        nn.Sequential(nn.Linear(p.data.width, 64), nn.Sigmoid(), *layers, nn.Linear(64, p.data.classes)),
        "sgd",
        0.1,
    )


def _own_optimizer(p):
    p.refit(Loose(p.model))


def _nan_inputs(p):
    p.x = p.x.clone()
    p.x[:, 0] = float("nan")


MSE = answers(F.mse_loss)
BCE = answers(F.binary_cross_entropy_with_logits)
PLANTED = {  # name -> (names of findings that are right, plant)
    "softmax before cross-entropy": ("probabilities_to_cross_entropy", _last(nn.Softmax(1))),
    "sigmoid before cross-entropy": ("probabilities_to_cross_entropy", _last(nn.Sigmoid())),
    "sigmoid before logits loss": ("sigmoid_before_logits_loss", _binary(F.binary_cross_entropy_with_logits, nn.Sigmoid())),
    "raw scores to nll": ("no_log_softmax", _loss(F.nll_loss)),
    "softmax to nll": ("no_log_softmax", _loss(F.nll_loss, nn.Softmax(1))),
    "relu on scores": ("relu_on_scores", _last(nn.ReLU())),
    "broadcast mse": ("broadcast", _binary(F.mse_loss, shape=True)),
    "broadcast by hand": ("broadcast", _binary(lambda s, t: ((s - t) ** 2).mean(), shape=True)),
    "one column": ("one_column", _one_column),
    "negated loss": ("negated_loss", _set(sign=-1.0)),
    "optimizer of the old model": ("optimizer_of_another_model", _stale),
    "optimizer of the old head": ("optimizer_of_another_model", _stale_head),
    "layers in a list": ("loose_layers", _own_optimizer),
    "detached body": ("cut_graph", lambda p: p.refit(Cut(p.model, "detach"))),
    "body under no_grad": ("cut_graph", lambda p: p.refit(Cut(p.model, "no_grad"))),
    "floor in the loss": ("flat_loss", _loss(floored)),
    "no zero_grad": ("gradients_add_up", _set(zero=False)),
    "zero_grad before step": ("gradients_gone", _set(gone=True)),
    "trains in eval mode": ("trains_in_evaluation_mode", _set(train_mode=False)),
    "validates in train mode": ("validates_in_training_mode", _set(eval_mode=False)),
    "constant weights": ("equal_units", _same),
    "constant inputs": ("constant_inputs", _inputs(lambda x: x * 0)),
    "inputs times 10000": ("unscaled_inputs", _inputs(lambda x: x * 10000 + 3e4)),
    "sorted data": ("sorted_batches", _sorted),
    "NaN in the inputs": ("not_finite", _nan_inputs),
    "lr too high, SGD": ("lr_too_high not_finite", _fit("sgd", 30.0)),
    "lr too high, Adam": ("lr_too_high", _fit("adam", 3.0)),
    "lr too low, SGD": ("lr_too_low", _fit("sgd", 1e-6)),
    "lr too low, Adam": ("lr_too_low", _fit("adam", 1e-8)),
    "vanishing gradient": ("vanishing", _deep_sigmoid),
    "dead units": ("dead_units", _dead),
    "weight decay": ("decay_too_strong", _fit("sgd", 0.1, weight_decay=1.0)),
    "weight decay, AdamW": ("decay_too_strong", _fit("adamw", 1e-2, weight_decay=10.0)),
}  # fmt: skip


# healthy programs


class Residual(nn.Module):
    "Blocks whose last layer begins at zero"

    def __init__(self, data, width=48):
        super().__init__()
        self.first, self.last = nn.Linear(data.width, width), nn.Linear(width, data.classes)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
            for _ in range(3)
        )
        for block in self.blocks:
            nn.init.zeros_(block[-1].weight)

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)


class Attention(nn.Module):
    "An encoder over the columns"

    def __init__(self, data, width=16):
        super().__init__()
        self.size = 8 if data.width % 8 == 0 else 1
        self.embed = nn.Linear(data.width // self.size if self.size > 1 else data.width, width)
        self.encoder = nn.TransformerEncoderLayer(width, 2, 32, batch_first=True)
        self.head = nn.Linear(width, data.classes)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x.view(len(x), self.size, -1))).mean(1))


class Recurrent(nn.Module):
    "Reads the columns in eight parts"

    def __init__(self, data):
        super().__init__()
        self.size = 8 if data.width % 8 == 0 else 1
        self.cell = nn.LSTM(data.width // self.size, 32, batch_first=True)
        self.head = nn.Linear(32, data.classes)

    def forward(self, x):
        return self.head(self.cell(x.view(len(x), self.size, -1))[0][:, -1])


def _net(make):
    return lambda d: make(d)


NETS = {
    "mlp": lambda d: mlp(d, d.classes),
    "tanh": lambda d: mlp(d, d.classes, nn.Tanh),
    "gelu": lambda d: mlp(d, d.classes, nn.GELU),
    "sigmoid": lambda d: mlp(d, d.classes, nn.Sigmoid),
    "norm": lambda d: mlp(d, d.classes, extra=lambda n: (nn.BatchNorm1d(n),)),
    "dropout": lambda d: mlp(d, d.classes, width=128, extra=lambda n: (nn.Dropout(0.5),)),
    "linear": lambda d: nn.Linear(d.width, d.classes),
    "conv": lambda d: conv(d, d.classes),
    "residual": Residual,
    "attention": Attention,
    "lstm": Recurrent,
}
WAYS = {
    "Adam 1e-3": ("adam", 1e-3, {}), "Adam 1e-2": ("adam", 1e-2, {}), "Adam 2e-4": ("adam", 2e-4, {}),
    "AdamW": ("adamw", 2e-3, {"weight_decay": 0.05}), "RMSprop": ("rmsprop", 1e-3, {}), "NAdam": ("nadam", 1e-3, {}),
    "SGD 0.1": ("sgd", 0.1, {}), "SGD 0.01": ("sgd", 0.01, {}), "SGD 0.5": ("sgd", 0.5, {}),
    "momentum": ("sgd", 0.05, {"momentum": 0.9, "weight_decay": 5e-4}), "Adagrad": ("adagrad", 0.02, {}),
}  # fmt: skip


def _decayed(p, steps):
    p.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(p.optimizer, steps)


def _one_cycle(p, steps):
    p.schedule = torch.optim.lr_scheduler.OneCycleLR(p.optimizer, 0.1, total_steps=steps + 1)


def _accumulated(p, steps):
    p.accumulate = 4


def _smoothed(p, steps):
    p.loss = lambda scores, targets: F.cross_entropy(scores, targets, label_smoothing=0.1)


def _frozen(p, steps):
    next(p.model.children()).requires_grad_(False)
    p.optimizer = torch.optim.Adam([each for each in p.model.parameters() if each.requires_grad], lr=1e-2)


def _only_head(p, steps):
    p.optimizer = torch.optim.Adam([*p.model.children()][-1].parameters(), lr=1e-2)


def _noisy(p, steps):
    wrong = torch.rand(len(p.y), generator=torch.Generator().manual_seed(0)) < 0.2
    p.y = torch.where(wrong, p.y.roll(1), p.y)


def _log_scores(p, steps):
    p.refit(nn.Sequential(p.model, nn.LogSoftmax(1)))
    p.loss = F.nll_loss


def _numbers(p, steps):
    _binary(F.mse_loss)(p)


def _logits(p, steps):
    _binary(F.binary_cross_entropy_with_logits)(p)


def _probabilities(p, steps):
    _binary(F.binary_cross_entropy, nn.Sigmoid())(p)


def _distilled(p, steps):
    p.loss = lambda s, t: F.kl_div(
        s.log_softmax(1), F.one_hot(t, s.shape[1]).float() * 0.9 + 0.01, reduction="batchmean"
    )


TWISTS = {
    "cosine": _decayed, "one cycle": _one_cycle, "accumulated": _accumulated, "smoothed": _smoothed, "frozen": _frozen,
    "only the head": _only_head, "noisy labels": _noisy, "nll": _log_scores, "regression": _numbers, "bce": _logits,
    "sigmoid, bce": _probabilities, "kl": _distilled,
}  # fmt: skip


def healthy(data, seed=0):
    "Yield the name of each healthy program and a function that makes it"
    for net, make in NETS.items():
        for way, (name, lr, more) in WAYS.items():

            def program(steps, make=make, name=name, lr=lr, more=more):
                p = Program(data, seed=seed)
                torch.manual_seed(seed)
                p.refit(make(data), name, lr, **more)
                return p

            yield f"{net}, {way}", program
    for twist, change in TWISTS.items():

        def twisted(steps, change=change):
            p = Program(data, "mlp", seed=seed)
            change(p, steps)
            return p

        yield twist, twisted
