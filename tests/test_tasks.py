"""Tasks of many kinds, each against a loop written by hand: the same weights, the same figures, or the one sentence that is right

`TRAINOPT_TEST_DEVICE=cuda pytest tests/test_tasks.py` trains them on a GPU, and by hand on the CPU.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass

import pytest
import torch
from helpers import DEVICE, quiet
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from trainopt_nb import fit
from trainopt_nb.base.errors import DataError, OptionError, TaskError

ROWS, VALID, SIZE = 22, 10, 5  # training rows, validation rows, rows a batch: the last batch is short
G = torch.Generator().manual_seed(1)
CLOSE = {"atol": 1e-6, "rtol": 1e-5} if DEVICE == "cpu" else {"atol": 2e-5, "rtol": 1e-4}


def randn(*shape):
    return torch.randn(*shape, generator=G)


def randint(high, *shape):
    return torch.randint(0, high, shape, generator=G)


def part(data, rows):
    "The rows of tensors in tuples, dicts and dataclasses"
    if is_dataclass(data):
        return type(data)(**{field.name: part(getattr(data, field.name), rows) for field in fields(data)})
    if isinstance(data, dict):
        return {name: part(item, rows) for name, item in data.items()}
    return tuple(part(item, rows) for item in data) if isinstance(data, tuple) else data[rows]


def batches(data, rows, size=SIZE):
    return [part(data, slice(i, min(i + size, rows.stop))) for i in range(rows.start, rows.stop, size)]


TRAIN, HELD = slice(0, ROWS), slice(ROWS, ROWS + VALID)


@dataclass
class Case:
    "A task, and what a loop by hand computes for it"

    name: str
    model: Callable  # makes it
    data: object  # tensors of all rows, training and validation
    loss: Callable  # by hand: from the model and a batch to the loss
    options: dict = field(default_factory=dict)
    figures: dict = field(default_factory=dict)  # name -> by hand: from the model and the validation rows
    stream: bool = False  # whether the data are a list of batches rather than arrays
    mass: Callable = lambda batch: len(first(batch))  # by hand: what a batch counts in the validation loss
    monitor: str = ""  # the figure that must decide which epoch is best
    lr: float = 0.05


def first(batch):
    "The first tensor of a batch"
    while not isinstance(batch, torch.Tensor):
        batch = next(iter(batch.values())) if isinstance(batch, dict) else batch[0]
    return batch


def by_hand(case, accumulate=1):
    "Train by hand"
    torch.manual_seed(0)
    model = case.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=case.lr)
    model.train()
    for _ in range(2):
        for batch in batches(case.data, TRAIN, SIZE * accumulate):
            optimizer.zero_grad()
            case.loss(model, batch).backward()
            optimizer.step()
        with torch.no_grad():  # a model may hold a state that validation changes
            for batch in batches(case.data, HELD):
                case.loss(model.eval(), batch)
        model.train()
    return model.eval()


def trained(case, write=quiet, **more):
    "Train by the engine"
    torch.manual_seed(0)
    model = case.model()
    parts = part(case.data, TRAIN), part(case.data, HELD)
    if case.stream:
        parts = batches(case.data, TRAIN), batches(case.data, HELD)
    run = fit(
        model, *parts, epochs=2, lr=case.lr, optimizer="sgd", schedule="constant", weight_decay=0, batch_size=SIZE,
        shuffle=False, restore_best=False, threads=1, device=DEVICE, write=write, **{**case.options, **more},
    )  # fmt: skip
    return model.cpu(), run


def same_weights(found, wanted):
    for (name, one), other in zip(found.state_dict().items(), wanted.state_dict().values(), strict=True):
        assert torch.allclose(one.float(), other.float(), **CLOSE), name


# --- models


class Softly(nn.Module):
    "A linear layer and a function at its end"

    def __init__(self, outputs, end, inputs=4):
        super().__init__()
        self.body, self.end = nn.Linear(inputs, outputs), end

    def forward(self, x):
        return self.end(self.body(x))


class Images(nn.Module):
    "A convolution, and what becomes of its outputs"

    def __init__(self, classes, end=lambda scores: scores):
        super().__init__()
        self.body, self.end = nn.Conv2d(2, classes, 3, padding=1), end

    def forward(self, x):
        return self.end(self.body(x))


class Tokens(nn.Module):
    "An embedding and a linear layer over its last axis"

    def __init__(self, words, classes, end=lambda scores: scores, sparse=False):
        super().__init__()
        self.body, self.head, self.end = nn.Embedding(words, 6, sparse=sparse), nn.Linear(6, classes), end

    def forward(self, x):
        return self.end(self.head(self.body(x)))


class LanguageModel(Tokens):
    "A model in the manner of Hugging Face, with its own loss of the next token"

    def __init__(self, shift):
        super().__init__(9, 9)
        self.shift = shift

    def forward(self, input_ids, labels=None):
        scores = super().forward(input_ids)
        if self.shift:
            loss = F.cross_entropy(scores[:, :-1].reshape(-1, 9), labels[:, 1:].reshape(-1))
        else:
            loss = F.cross_entropy(scores.reshape(-1, 9), labels.reshape(-1))
        return {"loss": loss, "logits": scores}


class Two(nn.Module):
    "Two inputs"

    def __init__(self, outputs):
        super().__init__()
        self.left, self.right = nn.Linear(4, outputs), nn.Linear(3, outputs)

    def forward(self, left, right):
        return self.left(left) + self.right(right)


class Heads(nn.Module):
    "Two heads"

    def __init__(self, form=dict):
        super().__init__()
        self.body, self.kind, self.size, self.form = nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(5, 1), form

    def forward(self, x):
        inner = self.body(x).tanh()
        kind, size = self.kind(inner), self.size(inner)
        return {"kind": kind, "size": size} if self.form is dict else (kind, size)


class Auxiliary(nn.Module):
    "Scores of an inner layer in training, as GoogLeNet has them"

    def __init__(self):
        super().__init__()
        self.body, self.head, self.inner = nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, x):
        inner = self.body(x).relu()
        return (self.head(inner), self.inner(inner)) if self.training else self.head(inner)


class Experts(nn.Module):
    "A mixture of experts, whose loss contains the balance of its gate"

    def __init__(self):
        super().__init__()
        self.gate, self.experts = nn.Linear(4, 2), nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 3)])

    def forward(self, x, labels=None):
        share = self.gate(x).softmax(1)
        scores = sum(share[:, i : i + 1] * expert(x) for i, expert in enumerate(self.experts))
        return F.cross_entropy(scores, labels) + 0.1 * share.mean(0).square().sum(), scores


class Coder(nn.Module):
    "A variational autoencoder without noise"

    def __init__(self):
        super().__init__()
        self.mean, self.spread, self.back = nn.Linear(4, 2), nn.Linear(4, 2), nn.Linear(2, 4)

    def forward(self, x):
        mean, spread = self.mean(x), self.spread(x)
        return self.back(mean), mean, spread


class Embeds(nn.Module):
    "One embedding for each of its inputs"

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 3)

    def forward(self, *items):
        return tuple(self.body(item) for item in items)


class Pairs(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 3)

    def forward(self, one, other):
        return self.body(one), self.body(other)


class Triplets(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 3)

    def forward(self, anchor, positive, negative):
        return self.body(anchor), self.body(positive), self.body(negative)


class Packed(nn.Module):
    "Takes the lengths of its sequences"

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.GRU(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.head(self.body(packed)[1][-1])


class Masked(nn.Module):
    "Takes a mask of its sequences"

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 3)

    def forward(self, x, mask):
        return (self.body(x) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)


class Stateful(nn.Module):
    "A recurrent model that goes on from the state of the batch before, and forgets it where the size differs"

    def __init__(self):
        super().__init__()
        self.body, self.head, self.state = nn.GRU(4, 5, batch_first=True), nn.Linear(5, 2), None

    def forward(self, x):
        if self.state is not None and self.state.shape[1] != len(x):
            self.state = None
        out, state = self.body(x, self.state)
        self.state = state.detach()
        return self.head(out[:, -1])


class Speech(nn.Module):
    "Log-probabilities as CTC takes them: time, samples, classes"

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 5)

    def forward(self, x):
        return self.body(x).log_softmax(-1).transpose(0, 1)


class Ensemble(nn.Module):
    "What becomes of the outputs of two members"

    def __init__(self, outputs, end):
        super().__init__()
        self.members, self.end = nn.ModuleList([nn.Linear(4, outputs), nn.Linear(4, outputs)]), end

    def forward(self, x):
        return self.end([member(x) for member in self.members])


class Tied(nn.Module):
    "Scores by the weights of an embedding"

    def __init__(self):
        super().__init__()
        self.body, self.labels = nn.Embedding(9, 5), nn.Embedding(7, 5)

    def forward(self, x):
        return torch.einsum("btd,vd->btv", self.body(x), self.labels.weight)


class Generator(Tokens):
    "A language model in the manner of nanoGPT: scores, and the loss after them"

    def forward(self, idx, targets=None):
        scores = super().forward(idx)
        return scores, None if targets is None else F.cross_entropy(
            scores.flatten(0, 1), targets.flatten(), ignore_index=-1
        )


@dataclass
class Labels:
    "Targets in an object"

    kind: torch.Tensor
    size: torch.Tensor


class Tagged(Dataset):
    "Samples as dicts"

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return {"x": self.x[i], "labels": self.y[i]}


# --- data, all rows

N = ROWS + VALID
x, y = randn(N, 4), randint(3, N)
z = (x[:, 0] > 0).float()
t = x.sum(1) + 0.1 * randn(N)
w = torch.rand(N, generator=G) + 0.1
ignored = y.where(torch.rand(N, generator=G) > 0.3, torch.tensor(-100))
ignored[[0, 5, 10, 15, 20, 22, 27]] = 1  # each batch has a label that counts
soft = randn(N, 3).softmax(1)
many = (randn(N, 3) > 0).float()
images, pixels = randn(N, 2, 6, 5), randint(3, N, 6, 5)
holes = pixels.where(torch.rand(N, 6, 5, generator=G) > 0.3, torch.tensor(-100))
words, tags = randint(9, N, 7), randint(3, N, 7)
padded = tags.where(torch.arange(7) < randint(6, N, 1) + 1, torch.tensor(-100))
square = randint(7, N, 7)  # as many steps as classes
masked = words.where(torch.rand(N, 7, generator=G) > 0.6, torch.tensor(-100))
masked[:, 0] = words[:, 0]
series = randn(N, 8, 4)
lengths = randint(5, N) + 3
lengths[::SIZE] = lengths[ROWS::SIZE] = 8
sides = 2 * randint(2, N) - 1.0
spoken = randint(4, N, 2) + 1


def right(scores, targets):
    kept = targets != -100
    return ((scores.argmax(1) == targets) & kept).sum() / kept.sum()


def accuracy(model, held):
    return right(model(held[0]), held[1])


def labels_of(targets):
    return (targets != -100).sum().item()


def plain(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def linear(outputs, inputs=4):
    return lambda: nn.Linear(inputs, outputs)


def weighted(each, weight):
    return (each * weight).sum() / weight.sum()


ce, bce, mse = F.cross_entropy, F.binary_cross_entropy_with_logits, F.mse_loss
CLASS = {"accuracy": accuracy}
CASES = [
    # classes
    Case("classes", linear(3), (x, y), plain, figures=CLASS, monitor="accuracy"),
    Case("classes of a stream", linear(3), (x, y), plain, figures=CLASS, stream=True),
    Case("a column of labels", linear(3), (x, y[:, None]), lambda m, b: ce(m(b[0]), b[1][:, 0]),
         figures={"accuracy": lambda m, h: right(m(h[0]), h[1][:, 0])}),
    Case("uint8 labels", linear(3), (x, y.to(torch.uint8)), lambda m, b: ce(m(b[0]), b[1].long()), figures=CLASS),
    Case("one-hot labels", linear(3), (x, F.one_hot(y, 3).float()), lambda m, b: ce(m(b[0]), b[1]),
         figures={"accuracy": lambda m, h: right(m(h[0]), h[1].argmax(1))}),
    Case("whole one-hot labels", linear(3), (x, F.one_hot(y, 3)), lambda m, b: ce(m(b[0]), b[1].float()),
         figures={"accuracy": lambda m, h: right(m(h[0]), h[1].argmax(1))}),
    Case("soft labels", linear(3), (x, soft), lambda m, b: ce(m(b[0]), b[1])),
    Case("softmax in the model", lambda: Softly(3, lambda s: s.softmax(1)), (x, y),
         lambda m, b: F.nll_loss(m(b[0]).log(), b[1]), figures=CLASS),
    Case("log_softmax in the model", lambda: Softly(3, lambda s: s.log_softmax(-1)), (x, y),
         lambda m, b: F.nll_loss(m(b[0]), b[1]), figures=CLASS),
    Case("nll_loss", lambda: Softly(3, lambda s: s.log_softmax(-1)), (x, y),
         lambda m, b: F.nll_loss(m(b[0]), b[1]), {"loss": nn.NLLLoss()}, CLASS),
    Case("CrossEntropyLoss", linear(3), (x, y), plain, {"loss": nn.CrossEntropyLoss()}, CLASS, monitor="accuracy"),
    Case("F.cross_entropy", linear(3), (x, y), plain, {"loss": F.cross_entropy}, CLASS, monitor="accuracy"),
    Case("an own cross-entropy", linear(3), (x, y), plain, {"loss": lambda o, t: ce(o, t)}, CLASS, monitor="valid_loss"),
    Case("weights of classes", linear(3), (x, y), lambda m, b: ce(m(b[0]), b[1], torch.tensor([1.0, 2.0, 0.5])),
         {"loss": nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 0.5]))}, CLASS,
         mass=lambda b: torch.tensor([1.0, 2.0, 0.5])[b[1]].sum().item()),
    Case("label smoothing", linear(3), (x, y), lambda m, b: ce(m(b[0]), b[1], label_smoothing=0.1),
         {"label_smoothing": 0.1}, CLASS),
    Case("ignored labels", linear(3), (x, ignored), plain, figures=CLASS, mass=lambda b: labels_of(b[1])),
    Case("another ignored label", linear(3), (x, y), lambda m, b: ce(m(b[0]), b[1], ignore_index=0),
         {"loss": nn.CrossEntropyLoss(ignore_index=0)}, mass=lambda b: (b[1] != 0).sum().item()),
    Case("a sum", linear(3), (x, y), lambda m, b: ce(m(b[0]), b[1], reduction="sum"),
         {"loss": nn.CrossEntropyLoss(reduction="sum")}, CLASS, lr=0.005),
    # answers
    Case("answers", linear(1), (x, z), lambda m, b: bce(m(b[0])[:, 0], b[1]),
         figures={"accuracy": lambda m, h: ((m(h[0])[:, 0] > 0) == h[1]).float().mean()}),
    Case("whole answers", linear(1), (x, z.long()), lambda m, b: bce(m(b[0])[:, 0], b[1].float()),
         figures={"accuracy": lambda m, h: ((m(h[0])[:, 0] > 0) == h[1]).float().mean()}),
    Case("sigmoid in the model", lambda: Softly(1, torch.sigmoid), (x, z),
         lambda m, b: F.binary_cross_entropy(m(b[0])[:, 0], b[1]),
         figures={"accuracy": lambda m, h: ((m(h[0])[:, 0] > 0.5) == h[1]).float().mean()}),
    Case("a sigmoid in a squeezed model", lambda: Softly(1, lambda s: s.squeeze(1).sigmoid()), (x, z),
         lambda m, b: F.binary_cross_entropy(m(b[0]), b[1])),
    Case("BCELoss", lambda: Softly(1, lambda s: s.squeeze(1).sigmoid()), (x, z),
         lambda m, b: F.binary_cross_entropy(m(b[0]), b[1]), {"loss": nn.BCELoss()},
         {"accuracy": lambda m, h: ((m(h[0]) > 0.5) == h[1]).float().mean()}),
    Case("pos_weight", lambda: Softly(1, lambda s: s.squeeze(1)), (x, z),
         lambda m, b: bce(m(b[0]), b[1], pos_weight=torch.tensor(3.0)),
         {"loss": nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0))},
         {"accuracy": lambda m, h: ((m(h[0]) > 0) == h[1]).float().mean()}),
    Case("several answers", linear(3), (x, many), lambda m, b: bce(m(b[0]), b[1])),
    Case("several whole answers", linear(3), (x, many.long()), lambda m, b: bce(m(b[0]), b[1].float())),
    Case("several answers by sigmoids", lambda: Softly(3, torch.sigmoid), (x, many),
         lambda m, b: F.binary_cross_entropy(m(b[0]), b[1])),
    # numbers
    Case("numbers", linear(1), (x, t), lambda m, b: mse(m(b[0])[:, 0], b[1]),
         figures={"mae": lambda m, h: (m(h[0])[:, 0] - h[1]).abs().mean()}, monitor="mae"),
    Case("a column of numbers", linear(1), (x, t[:, None]), lambda m, b: mse(m(b[0]), b[1])),
    Case("numbers of 0 and 1", linear(1), (x, z), lambda m, b: mse(m(b[0])[:, 0], b[1]), {"task_type": "regression"}),
    Case("two numbers", linear(2), (x, x[:, :2] + 1), lambda m, b: mse(m(b[0]), b[1])),
    Case("mean absolute error", linear(1), (x, t), lambda m, b: F.l1_loss(m(b[0])[:, 0], b[1]), {"loss": "mae"}),
    Case("Huber", linear(1), (x, t), lambda m, b: F.huber_loss(m(b[0])[:, 0], b[1]), {"loss": "huber"}),
    Case("Poisson", linear(1), (x, t.exp().round()), lambda m, b: F.poisson_nll_loss(m(b[0])[:, 0], b[1]),
         {"loss": lambda o, c: F.poisson_nll_loss(o[:, 0], c)}, lr=0.001, monitor="valid_loss"),
    Case("quantiles", linear(1), (x, t), lambda m, b: (b[1] - m(b[0])[:, 0]).mul(0.9).maximum((m(b[0])[:, 0] - b[1]).mul(0.1)).mean(),
         {"loss": lambda o, s: (s - o[:, 0]).mul(0.9).maximum((o[:, 0] - s).mul(0.1)).mean()}, monitor="valid_loss"),
    Case("survival", linear(1), (x, torch.stack([t.exp(), z], 1)),
         lambda m, b: ((m(b[0])[:, 0].exp() * b[1][:, 0]) - b[1][:, 1] * m(b[0])[:, 0]).mean(),
         {"loss": lambda o, s: ((o[:, 0].exp() * s[:, 0]) - s[:, 1] * o[:, 0]).mean()}, lr=0.001),
    Case("a mean and its variance", lambda: Softly(2, lambda s: (s[:, 0], s[:, 1].exp())), (x, t),
         lambda m, b: F.gaussian_nll_loss(m(b[0])[0], b[1], m(b[0])[1]),
         {"loss": lambda o, s: F.gaussian_nll_loss(o[0], s, o[1])}, lr=0.01),
    # pictures
    Case("segmentation", lambda: Images(3), (images, pixels), plain,
         figures={"accuracy": lambda m, h: right(m(h[0]), h[1])}),
    Case("segmentation with holes", lambda: Images(3), (images, holes), plain,
         figures={"accuracy": lambda m, h: right(m(h[0]), h[1])}, mass=lambda b: labels_of(b[1])),
    Case("a mask with a channel", lambda: Images(3), (images, pixels[:, None]), lambda m, b: ce(m(b[0]), b[1][:, 0])),
    Case("one class of pixels", lambda: Images(1), (images, (pixels > 1).float()[:, None]), lambda m, b: bce(m(b[0]), b[1])),
    Case("channels at the end", lambda: Images(3, lambda s: s.permute(0, 2, 3, 1)), (images, pixels),
         lambda m, b: ce(m(b[0]).movedim(-1, 1), b[1]),
         figures={"accuracy": lambda m, h: right(m(h[0]).movedim(-1, 1), h[1])}),
    Case("auxiliary heads", Auxiliary, (x, y), lambda m, b: ce(m(b[0])[0] if m.training else m(b[0]), b[1]), figures=CLASS),
    # sequences
    Case("tagging", lambda: Tokens(9, 3), (words, tags), lambda m, b: ce(m(b[0]).movedim(-1, 1), b[1]),
         figures={"accuracy": lambda m, h: right(m(h[0]).movedim(-1, 1), h[1])}),
    Case("tagging with padding", lambda: Tokens(9, 3), (words, padded), lambda m, b: ce(m(b[0]).movedim(-1, 1), b[1]),
         figures={"accuracy": lambda m, h: right(m(h[0]).movedim(-1, 1), h[1])}, mass=lambda b: labels_of(b[1])),
    Case("as many steps as classes", lambda: Tokens(9, 7), (words, square), lambda m, b: ce(m(b[0]).movedim(-1, 1), b[1]),
         figures={"accuracy": lambda m, h: right(m(h[0]).movedim(-1, 1), h[1])}),
    Case("as many steps as classes, classes second", lambda: Tokens(9, 7, lambda s: s.transpose(1, 2)), (words, square),
         lambda m, b: ce(m(b[0]), b[1]), figures={"accuracy": lambda m, h: right(m(h[0]), h[1])}),
    Case("as many steps as classes, as said", lambda: Tokens(9, 7, lambda s: (s + s.transpose(1, 2)) / 2), (words, square),
         lambda m, b: ce(m(b[0]), b[1]), {"class_axis": 1}),
    Case("a causal language model", lambda: LanguageModel(True), {"input_ids": words, "labels": words},
         lambda m, b: m(**b)["loss"], {"metrics": "accuracy,perplexity"},
         {"accuracy": lambda m, h: right(m(**h)["logits"][:, :-1].movedim(-1, 1), h["labels"][:, 1:]),
          "perplexity": lambda m, h: m(**h)["loss"].exp()}, mass=lambda b: b["labels"][:, 1:].numel()),
    Case("a causal language model's best epoch", lambda: LanguageModel(True), {"input_ids": words, "labels": words},
         lambda m, b: m(**b)["loss"], mass=lambda b: b["labels"][:, 1:].numel(), monitor="valid_loss"),
    Case("a masked language model", lambda: LanguageModel(False), {"input_ids": words, "labels": masked},
         lambda m, b: m(**b)["loss"], mass=lambda b: labels_of(b["labels"])),
    Case("CTC", Speech, (series, spoken, torch.full((N,), 8), torch.full((N,), 2)),
         lambda m, b: F.ctc_loss(m(b[0]), *b[1:]), {"loss": nn.CTCLoss()}, stream=True),
    Case("lengths at the end", Packed, (series, y, lengths), lambda m, b: ce(m(b[0], b[2]), b[1]),
         figures={"accuracy": lambda m, h: right(m(h[0], h[2]), h[1])}, stream=True),
    Case("lengths in the middle", Packed, (series, lengths, y), lambda m, b: ce(m(b[0], b[1]), b[2]),
         figures={"accuracy": lambda m, h: right(m(h[0], h[1]), h[2])}, stream=True),
    Case("a mask", Masked, (series, (torch.arange(8) < lengths[:, None]).float(), y), lambda m, b: ce(m(b[0], b[1]), b[2]),
         figures={"accuracy": lambda m, h: right(m(h[0], h[1]), h[2])}, stream=True),
    Case("a state that goes on", Stateful, (series, y % 2), plain, stream=True),
    # batches and models of other forms
    Case("two inputs", lambda: Two(3), ((x, series[:, 0, :3]), y), lambda m, b: ce(m(*b[0]), b[1]),
         figures={"accuracy": lambda m, h: right(m(*h[0]), h[1])}),
    Case("a layout", lambda: Two(3), (x, y, series[:, 0, :3]), lambda m, b: ce(m(b[0], b[2]), b[1]),
         {"batch_layout": "x, y, extra"}, {"accuracy": lambda m, h: right(m(h[0], h[2]), h[1])}, stream=True),
    Case("an item left out", linear(3), (x, y, lengths), plain, {"batch_layout": "x, y, _"}, CLASS, stream=True),
    Case("roles in a dict", linear(3), {"input": x, "kind": y, "size": t}, lambda m, b: ce(m(b["input"]), b["kind"]),
         {"batch_layout": "inputs: input; targets: kind"}, {"accuracy": lambda m, h: right(m(h["input"]), h["kind"])}),
    Case("several tasks", Heads, (x, {"kind": y, "size": t}),
         lambda m, b: ce(m(b[0])["kind"], b[1]["kind"]) + 0.3 * mse(m(b[0])["size"][:, 0], b[1]["size"]),
         {"loss": lambda o, s: ce(o["kind"], s["kind"]) + 0.3 * mse(o["size"][:, 0], s["size"])}, stream=True, monitor="valid_loss"),
    Case("several targets", lambda: Heads(tuple), (x, y, t),
         lambda m, b: ce(m(b[0])[0], b[1]) + mse(m(b[0])[1][:, 0], b[2]),
         {"loss": lambda o, kind, size: ce(o[0], kind) + mse(o[1][:, 0], size)}, stream=True),
    Case("an autoencoder", linear(4), (x,), lambda m, b: mse(m(b[0]), b[0]), {"loss": lambda o, b: mse(o, b[0])}, stream=True),
    Case("a variational autoencoder", Coder, (x, x),
         lambda m, b: vae(m(b[0]), b[1]), {"loss": lambda o, s: vae(o, s)}, monitor="valid_loss"),
    Case("pairs", Pairs, (x, series[:, 0], sides), lambda m, b: F.cosine_embedding_loss(*m(b[0], b[1]), b[2]),
         {"loss": lambda o, s: F.cosine_embedding_loss(*o, s), "batch_layout": "a, b, y"}, stream=True),
    Case("triplets", Triplets, (x, series[:, 0], series[:, 1]), lambda m, b: F.triplet_margin_loss(*m(*b)),
         {"loss": lambda o, b: F.triplet_margin_loss(*o)}, stream=True),
    Case("a mixture of experts", Experts, (x, y), lambda m, b: m(*b)[0], {"batch_layout": "inputs: 0, 1"}, monitor="valid_loss"),
    Case("sparse gradients", lambda: Tokens(9, 3, lambda s: s.mean(1), sparse=True), (words, y), plain, figures=CLASS),
    # weights of samples
    Case("weighted classes", linear(3), (x, y, w), lambda m, b: weighted(ce(m(b[0]), b[1], reduction="none"), b[2]),
         {"batch_layout": "x, y, weight"}, CLASS, mass=lambda b: b[2].sum().item()),
    Case("weighted numbers", linear(1), (x, t, w),
         lambda m, b: weighted(mse(m(b[0])[:, 0], b[1], reduction="none"), b[2]), {"batch_layout": "x, y, weight"},
         mass=lambda b: b[2].sum().item()),
    Case("weighted answers", linear(1), (x, z, w),
         lambda m, b: weighted(bce(m(b[0])[:, 0], b[1], reduction="none"), b[2]), {"batch_layout": "x, y, weight"},
         mass=lambda b: b[2].sum().item()),
    Case("weighted ignored labels", linear(3), (x, ignored, w),
         lambda m, b: weighted(ce(m(b[0]), b[1], reduction="none"), b[2] * (b[1] != -100)), {"batch_layout": "x, y, weight"},
         CLASS, mass=lambda b: (b[2] * (b[1] != -100)).sum().item()),
    Case("a weighted loss of PyTorch's", linear(3), (x, y, w),
         lambda m, b: weighted(ce(m(b[0]), b[1], reduction="none"), b[2]),
         {"batch_layout": "x, y, weight", "loss": nn.CrossEntropyLoss()}, CLASS, mass=lambda b: b[2].sum().item()),
    Case("an own weighted loss", linear(3), (x, y, w), lambda m, b: weighted(ce(m(b[0]), b[1], reduction="none"), b[2]),
         {"loss": lambda o, s, weight: weighted(ce(o, s, reduction="none"), weight)}, stream=True),
    # probabilities that no last layer tells
    Case("a mean of softmaxes", lambda: Ensemble(3, lambda each: torch.stack([s.softmax(-1) for s in each]).mean(0)), (x, y),
         lambda m, b: F.nll_loss(m(b[0]).log(), b[1]), figures=CLASS),
    Case("the largest of sigmoids", lambda: Ensemble(1, lambda each: torch.cat(each, 1).sigmoid().amax(1)), (x, z),
         lambda m, b: F.binary_cross_entropy(m(b[0]), b[1]),
         figures={"accuracy": lambda m, h: ((m(h[0]) > 0.5) == h[1]).float().mean()}),
    Case("p and 1 - p, as said", lambda: Softly(1, lambda s: torch.cat([1 - s.sigmoid(), s.sigmoid()], 1)), (x, z.long()),
         lambda m, b: F.nll_loss(m(b[0]).log(), b[1]), {"scores": "probabilities"}, CLASS),
    Case("experts that a softmax weighs", lambda: Ensemble(3, lambda each: each[0].softmax(-1) * each[1]), (x, y), plain, figures=CLASS),
    # more sequences
    Case("tied weights, as many steps as classes", Tied, (words, square), lambda m, b: ce(m(b[0]).movedim(-1, 1), b[1]),
         figures={"accuracy": lambda m, h: right(m(h[0]).movedim(-1, 1), h[1])}),
    Case("a loss after the scores", lambda: Generator(9, 9), (words[:, :-1], words[:, 1:]), lambda m, b: m(*b)[1],
         {"batch_layout": "inputs: 0, 1"}, monitor="valid_loss"),
    Case("a language model that learns answers only", lambda: LanguageModel(True), {"input_ids": words, "labels": masked},
         lambda m, b: m(**b)["loss"], mass=lambda b: labels_of(b["labels"][:, 1:]), monitor="valid_loss"),
    # losses over all pairs of a batch, and targets in objects
    Case("supervised contrast", linear(3), (x, y), lambda m, b: contrast(m(b[0]), b[1]), {"loss": lambda o, s: contrast(o, s)}, stream=True),
    Case("partial likelihood", linear(1), (x, torch.stack([t.exp(), z], 1)), lambda m, b: cox(m(b[0]), b[1]),
         {"loss": lambda o, s: cox(o, s)}, stream=True),
    Case("grades in order", linear(2), (x, y), lambda m, b: bce(m(b[0]), grades(b[1])),
         {"loss": lambda o, s: bce(o, grades(s))}, monitor="valid_loss"),
    Case("targets in a dataclass", Heads, (x, Labels(y, t)), lambda m, b: heads(m(b[0]), b[1]), {"loss": lambda o, s: heads(o, s)}, stream=True),
]  # fmt: skip


def contrast(outputs, labels):
    unit = F.normalize(outputs, dim=1)
    near = unit @ unit.T / 0.5
    same = (labels[:, None] == labels[None]).float() - torch.eye(len(labels), device=labels.device)
    return -(same * near.log_softmax(1)).sum() / same.sum().clamp_min(1)


def grades(labels):
    return (labels[:, None] > torch.arange(2, device=labels.device)).float()


def cox(outputs, seen):
    at_risk = (seen[None, :, 0] >= seen[:, None, 0]).float()
    risk = outputs[:, 0]
    return -(seen[:, 1] * (risk - (at_risk * risk.exp()[None]).sum(1).log())).mean()


def heads(outputs, targets):
    return ce(outputs["kind"], targets.kind) + mse(outputs["size"][:, 0], targets.size)


def vae(outputs, targets):
    back, mean, spread = outputs
    return mse(back, targets) - 0.05 * (1 + spread - mean.square() - spread.exp()).mean()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_task_is_that_of_a_loop_by_hand(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, run = trained(case)
    hand = by_hand(case)
    same_weights(model, hand)
    held = part(case.data, HELD)
    with torch.no_grad():
        for name, compute in case.figures.items():
            assert run.history[-1][name] == pytest.approx(float(compute(hand, held)), abs=1e-5), name
        sizes = SIZE if case.stream else 4 * SIZE  # validation takes larger batches of arrays
        parts = [
            (float(case.loss(hand, batch)), case.mass(batch)) for batch in batches(case.data, HELD, sizes)
        ]
    if not isinstance(hand, Stateful):
        mean = sum(value * mass for value, mass in parts) / sum(mass for _, mass in parts)
        assert run.history[-1]["valid_loss"] == pytest.approx(mean, rel=1e-5)
    if case.monitor:
        assert run.progress.started.monitor == case.monitor


EXACT = [
    "classes", "ignored labels", "weights of classes", "label smoothing", "segmentation with holes", "tagging with padding",
    "several answers", "numbers", "an own cross-entropy", "another ignored label", "a causal language model", "weighted classes",
    "weighted ignored labels", "a weighted loss of PyTorch's",
]  # fmt: skip


@pytest.mark.parametrize("case", [case for case in CASES if case.name in EXACT], ids=lambda case: case.name)
def test_accumulation_is_the_update_of_the_whole_batch(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, run = trained(case, accumulate=2)
    same_weights(model, by_hand(case, accumulate=2))
    assert not [note for note in run.progress.notes if note.topic == "accumulate"]


def test_accumulation_of_an_unknown_loss_says_that_it_may_differ(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    case = next(case for case in CASES if case.name == "an own weighted loss")
    _, run = trained(case, accumulate=2)
    assert [note.level for note in run.progress.notes if note.topic == "accumulate"] == ["warning"]


REFUSED = [
    ("three items", linear(3), (x, y, lengths), {}, TaskError, "forward takes only input: pass --batch-layout"),
    ("two readings of an axis", lambda: Tokens(9, 7, lambda s: (s + s.transpose(1, 2)) / 2), (words, square), {}, TaskError,
     "pass --class-axis 1 .* or --class-axis -1"),
    ("every score with every target", linear(1), (x, t), {"loss": lambda o, s: (o - s).square().mean()}, TaskError,
     "would compare every score with every target"),
    ("a label without a score", linear(2), (x, y), {}, DataError, "label"),
    ("weights that a loss can't take", linear(3), (x, y, w), {"batch_layout": "x, y, weight", "loss": lambda o, s: ce(o, s)},
     TaskError, "takes only outputs and targets"),
    ("a layout of another length", linear(3), (x, y), {"batch_layout": "x, y, weight"}, OptionError, "names 3 items"),
    ("a layout without a target", linear(3), (x, y), {"batch_layout": "x, lengths"}, OptionError, "has no target"),
    ("a class axis that does not fit", lambda: Tokens(9, 3), (words, tags), {"class_axis": 1}, TaskError, "does not fit"),
    ("a task type that does not fit", linear(3), (x, y), {"task_type": "regression"}, TaskError, "does not fit"),
    ("probabilities or logits", lambda: Softly(1, lambda s: torch.cat([1 - s.sigmoid(), s.sigmoid()], 1)), (x, z.long()), {}, TaskError,
     "from a sigmoid and further operations.* --scores probabilities"),
    ("a number after the scores", lambda: Softly(3, lambda s: (s, s.square().mean())), (x, y), {}, TaskError, "pass --loss model if it is the whole"),
    ("a loss that takes another number of items", linear(3), (x, y), {"loss": lambda o, a, b: o.mean()}, TaskError, "missing 1 required"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "data", "options", "error", "said"),
    [row[1:] for row in REFUSED],
    ids=[row[0] for row in REFUSED],
)
def test_what_has_two_readings_is_asked(model, data, options, error, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=said) as found:
        fit(model(), batches(data, TRAIN), batches(data, HELD), epochs=1, threads=1, write=quiet, **options)
    assert "\n" not in str(found.value) and len(str(found.value)) < 400


def test_weights_of_classes_and_of_samples_together_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TaskError, match="leave one of them out"):
        fit(
            nn.Linear(4, 3),
            (x, y, w),
            batch_layout="x, y, weight",
            class_weights="balanced",
            threads=1,
            write=quiet,
        )


def test_dict_samples_of_a_dataset(tmp_path, monkeypatch):
    "As `datasets` and tokenizers give them"
    monkeypatch.chdir(tmp_path)

    class Named(nn.Linear):
        def forward(self, x):
            return super().forward(x)

    torch.manual_seed(0)
    model = Named(4, 3)
    fit(
        model, DataLoader(Tagged(x[TRAIN], y[TRAIN]), SIZE), epochs=2, lr=0.05, optimizer="sgd", weight_decay=0,
        schedule="constant", threads=1, device="cpu",
    )  # fmt: skip
    same_weights(model, by_hand(Case("", lambda: Named(4, 3), (x, y), plain)))


def test_a_class_that_validation_lacks_is_left_out_of_averages_and_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    held = y[HELD].where(y[HELD] != 2, torch.tensor(0))
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    run = fit(
        model,
        (x[TRAIN], y[TRAIN]),
        (x[HELD], held),
        epochs=1,
        threads=1,
        device="cpu",
        metrics="balanced_accuracy,f1,auroc",
        write=quiet,
    )
    with torch.no_grad():
        scores = model(x[HELD])
    found = run.history[-1]
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(held, scores.argmax(1)))
    assert found["f1"] == pytest.approx(f1_score(held, scores.argmax(1), labels=[0, 1], average="macro"))
    each = [roc_auc_score(held == c, scores.softmax(1)[:, c]) for c in (0, 1)]
    assert found["auroc"] == pytest.approx(sum(each) / 2)
    assert [note.text for note in run.progress.notes if note.topic == "classes"] == [
        "valid_data holds no sample of class 2: averages over classes leave it out."
    ]


# --- what was assumed


def assumed(run):
    return {row.topic: row for row in run.progress.assumptions}


def test_a_run_states_its_assumptions(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _, run = trained(CASES[0], write=print)
    rows = assumed(run)
    assert rows["task"].text == "classification into 3 classes" and rows["task"].option == "--task-type"
    assert rows["best epoch"].text == "highest accuracy" and all(row.certain for row in rows.values())
    said = capsys.readouterr().out
    assert all(row.text in said and row.option in said for row in rows.values())
    assert "?" not in said.split("epoch 1/2")[0]
    assert json.loads((run.path / "run.json").read_text())["assumptions"] == [
        list(row) for row in run.progress.assumptions
    ]


def test_what_is_less_than_certain_is_marked(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    case = next(case for case in CASES if case.name == "answers")
    _, run = trained(case, write=print)
    assert [row.topic for row in assumed(run).values() if not row.certain] == ["task"]
    assert "? task" in capsys.readouterr().out


def test_which_of_several_outputs_are_the_scores_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for end, certain in ((list, False), (lambda each: {"inner": each[0], "logits": each[1]}, True)):
        case = Case("", lambda end=end: Ensemble(3, end), (x, y), plain)
        row = assumed(trained(case)[1])["outputs"]
        assert (row.certain, row.option) == (certain, "--loss") and "of 2 outputs of shape (5, 3)" in row.text


def test_scores_that_a_tanh_bounds_are_marked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    case = Case("", lambda: Softly(1, lambda s: (s.tanh() + 1) / 2), (x, z.long()), plain)
    row = assumed(trained(case)[1])["scores"]
    assert not row.certain and "tanh" in row.text and row.option == "--scores"


def test_a_question_about_a_batch_logs_nothing_of_pytorch(caplog):
    "Shapes are tried without numbers, of which PyTorch logs each misfit with its traceback"
    with pytest.raises(TaskError, match="nothing tells which is the target"):
        fit(Pairs(), [(y[:5], x[:5], x[5:10])], epochs=1, threads=1, write=quiet)
    assert [record for record in caplog.records if record.name.startswith("torch")] == []
