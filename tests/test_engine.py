"What the engine can be asked for, one by one, on small data"

import math

import numpy as np
import pandas as pd
import pytest
import torch
import torchmetrics
from helpers import quiet
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.metrics import f1_score, roc_auc_score
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from trainopt_nb import Task, TrainOptions, find_lr, fit
from trainopt_nb.base.errors import OptionError, TaskError
from trainopt_nb.data.batches import order
from trainopt_nb.data.device_transforms import InputTransform
from trainopt_nb.data.generators import seed_everything
from trainopt_nb.events.records import Ended, Epoch, Note, Step
from trainopt_nb.insight.lr_find import LrCurve, as_written
from trainopt_nb.optim.optimizers import make_optimizer
from trainopt_nb.optim.parameter_groups import parameter_groups
from trainopt_nb.task.losses import balanced_weights
from trainopt_nb.task.train_options import LOSSES, OPTIMIZERS, SCHEDULES
from trainopt_nb.train.loop import train
from trainopt_nb.train.prepare import prepare
from trainopt_nb.train.update import Stepper, make_step

G = torch.Generator().manual_seed(0)
X = torch.randn(240, 4, generator=G)
Y = (X.sum(1) > 0).long() + (X[:, 0] > 1).long()  # three classes
SPLIT = slice(0, 180), slice(180, 240)


def pair(x=X, y=Y):
    return tuple((x[part], y[part]) for part in SPLIT)


def net(outputs=3, width=16):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, outputs))


def events_of(model, train_data, valid_data=None, **options):
    return list(train(Task(model, train_data, valid_data), TrainOptions.of(device="cpu", **options)))


def losses(events):
    return [e.loss for e in events if type(e) is Step]


def epochs(events):
    return [e for e in events if type(e) is Epoch]


@pytest.mark.parametrize("optimizer", [o for o in OPTIMIZERS if o not in ("sparseadam", "muon")])
def test_every_optimizer_learns(optimizer):
    told = losses(
        events_of(
            net(), pair()[0], optimizer=optimizer, lr=1.0 if optimizer == "adadelta" else 0.02, epochs=8
        )
    )
    assert sum(told[-3:]) < sum(told[:3])


def test_muon_takes_matrices_only():
    "torch's Muon refuses biases; the sentence says so"
    model = nn.Linear(4, 3, bias=False)
    told = losses(events_of(model, pair()[0], optimizer="muon", lr=0.1, epochs=12))
    assert told[-1] < told[0]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup", [0.0, 0.25])
def test_every_schedule_runs_and_warms_up(schedule, warmup):
    more = {"milestones": (2, 3)} if schedule == "multistep" else {}
    told = [
        e.lr
        for e in events_of(net(), *pair(), schedule=schedule, warmup=warmup, epochs=4, lr=0.01, **more)
        if type(e) is Step
    ]
    assert all(0 <= lr <= 0.0101 for lr in told) and max(told) > 0.005
    if warmup:
        assert told[0] < told[2]


@pytest.mark.parametrize("loss", [name for name in LOSSES if name not in ("auto", "model")])
def test_every_loss_falls(loss):
    y = X[:, :1] * 2 if loss in ("mse", "mae", "huber") else (X[:, 0] > 0).float() if loss == "bce" else Y
    outputs = 3 if loss in ("cross-entropy", "focal") else 1
    told = losses(events_of(net(outputs), pair(y=y)[0], loss=loss, lr=0.02, epochs=10))
    assert told[-1] < told[0] * 0.8


def one_step(model, data, **options):
    "The gradients of one step over all of the data, by ours"
    options = TrainOptions.of(
        device="cpu", batch_size=10_000, optimizer="sgd", lr=1.0, weight_decay=0, **options
    )
    prepared = prepare(Task(model, data), options)
    stepper = Stepper(prepared, make_optimizer(model, options), options)
    before = [p.detach().clone() for p in model.parameters()]
    model.train()
    stepper([next(iter(prepared.data.train.epoch(0)))])
    return [b - p.detach() for b, p in zip(before, model.parameters(), strict=True)]


def reference(model, loss):
    return list(torch.autograd.grad(loss(model), list(model.parameters())))


def same(ours, theirs):
    return all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours, theirs, strict=True))


WEIGHT = balanced_weights(Y, 3)
REFERENCES = {
    "plain": ({}, lambda m: nn.functional.cross_entropy(m(X), Y)),
    "smooth": ({"label_smoothing": 0.1}, lambda m: nn.functional.cross_entropy(m(X), Y, label_smoothing=0.1)),
    "weighted": ({"class_weights": "balanced"}, lambda m: nn.functional.cross_entropy(m(X), Y, WEIGHT)),
    "focal": (
        {"loss": "focal", "focal_gamma": 1.5},
        lambda m: (
            ((1 - m(X).softmax(1).gather(1, Y[:, None])[:, 0]) ** 1.5)
            * nn.functional.cross_entropy(m(X), Y, reduction="none")
        ).mean(),
    ),
    "l1": (
        {"l1": 0.01},
        lambda m: (
            nn.functional.cross_entropy(m(X), Y)
            + 0.01 * sum(p.abs().sum() for p in m.parameters() if p.dim() > 1)
        ),
    ),
    "accumulated": ({"accumulate": 3}, lambda m: nn.functional.cross_entropy(m(X), Y)),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_gradients_are_those_of_a_hand_written_loss(name):
    options, loss = REFERENCES[name]
    model = net()
    theirs = reference(model, loss)
    model(X).sum().backward()  # what somebody left in the gradients plays no part
    assert same(one_step(model, (X, Y), **options), theirs)


def test_clipping_by_norm_and_value():
    model = net()
    whole = reference(model, lambda m: nn.functional.cross_entropy(m(X), Y))
    norm = torch.cat([g.flatten() for g in whole]).norm()
    assert same(one_step(net(), (X, Y), clip=float(norm) / 2), [g / 2 for g in whole])
    assert same(one_step(net(), (X, Y), clip_value=0.01), [g.clamp(-0.01, 0.01) for g in whole])


def hooked_weights(*hooks, **options):
    "The weights after three epochs in which each update calls the hooks"
    torch.manual_seed(0)
    options = TrainOptions.of(device="cpu", batch_size=16, epochs=3, optimizer="adamw", lr=0.01, **options)
    model = net()
    list(train(prepare(Task(model, (X, Y)), options, gradient_hooks=hooks), options))
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_a_gradient_hook_sees_the_gradients_before_they_are_clipped():
    norms = []
    hook = lambda parameters: norms.append(nn.utils.get_total_norm([p.grad for p in parameters]).item())
    plain = hooked_weights(clip=0.01, accumulate=2)
    assert torch.equal(hooked_weights(hook, clip=0.01, accumulate=2), plain)  # looking changes nothing
    assert len(norms) == 3 * -(-len(X) // 32)
    assert min(norms) > 0.01


def test_a_gradient_hook_can_change_the_gradients():
    def zero(parameters):
        for p in parameters:
            p.grad.zero_()

    begin = torch.cat([p.detach().flatten() for p in net().parameters()])
    assert torch.equal(hooked_weights(zero, weight_decay=0.0), begin)
    assert not torch.equal(hooked_weights(weight_decay=0.0), begin)


def test_without_gradient_hooks_nothing_is_added_to_the_update():
    options = TrainOptions(device="cpu", optimizer="sgd")
    prepared = prepare(Task(net(), (X, Y)), options)
    optimizer = make_optimizer(prepared.model, options)
    parts = make_step(prepared, optimizer, options)
    assert (parts.loss_step, parts.update, dict(parts.states)) == (prepared.loss_step, optimizer.step, {})


def mixed(batch, training):
    "Noise and mixup in training, a normalization always"
    inputs, labels = batch
    if training:
        ratio, other = torch.rand(()), torch.randperm(len(inputs))
        inputs = ratio * inputs + (1 - ratio) * inputs[other] + 0.1 * torch.randn_like(inputs)
        soft = nn.functional.one_hot(labels, 3).float()
        labels = ratio * soft + (1 - ratio) * soft[other]
    return (inputs - 0.5) / 2, labels


def dropout_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.3), nn.ReLU(), nn.Linear(16, 3))


def test_device_transforms_are_those_of_a_hand_written_loop():
    "Bit for bit: the random numbers of mixup and dropout come from the same generator in the same order"
    (x, y), (x_valid, y_valid) = pair()
    options = TrainOptions(device="cpu", batch_size=16, epochs=3, optimizer="sgd", lr=0.1, weight_decay=0.0)
    prepared = prepare(Task(dropout_net(), *pair()), options, device_transforms=[mixed])
    events = list(train(prepared, options))

    model = dropout_net()
    optimizer, told, valid = torch.optim.SGD(model.parameters(), lr=0.1), [], []
    seed_everything(options.seed)
    for epoch in range(3):
        model.train()
        for rows in order(len(x), options.seed, epoch).split(16):
            inputs, labels = mixed((x[rows], y[rows]), training=True)
            loss = nn.functional.cross_entropy(model(inputs), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            told.append(loss.item())
        model.eval()
        scores = model((x_valid - 0.5) / 2)
        valid.append((scores.argmax(1) == y_valid).float().mean().item())
    assert losses(events) == told
    assert all(
        torch.equal(a, b) for a, b in zip(prepared.model.parameters(), model.parameters(), strict=True)
    )
    assert [e.metrics["accuracy"] for e in epochs(events)] == pytest.approx(valid)


def test_a_model_sees_only_what_the_device_transforms_return():
    "The check of the first batch, training, its pieces, validation and the search for a bad number; with soft labels, class weights too"
    images = (X.clamp(0, 1) * 255).to(torch.uint8)
    to_float = InputTransform(lambda images: images / 255, evaluation=True)
    seen = []
    model = net()
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    options = TrainOptions(device="cpu", batch_size=16, accumulate=2, class_weights="balanced")
    data = (images[:180], Y[:180]), (images[180:], Y[180:])
    prepared = prepare(Task(model, *data), options, device_transforms=[to_float, mixed])
    events = list(train(prepared, options))
    assert events[-1].state == "finished" and set(seen) == {torch.float32}
    batch = prepared.on_device((images[:8], Y[:8]), training=True)
    assert prepared.sample_weight(batch) == 8


def test_without_device_transforms_nothing_is_added():
    options = TrainOptions(device="cpu")
    prepared = prepare(Task(net(), (X, Y)), options)
    batches = prepared.data.train.epoch(0)
    assert prepared.device_batches(batches) is batches
    prepared = prepare(Task(net(), (X, Y)), options, device_transforms=[mixed])  # without a state
    assert (
        "device_transforms"
        not in Stepper(prepared, torch.optim.SGD(net().parameters()), options).state_dict()
    )


def test_the_wrappers_of_an_update_keep_their_state():
    options = TrainOptions(device="cpu", ema=0.9)
    make = lambda: Stepper(
        prepare(Task(net(), (X, Y)), options), torch.optim.SGD(net().parameters()), options
    )
    first, second = make(), make()
    first.average.values[0].fill_(3.0)
    first.average.count = 7
    second.load_state_dict(first.state_dict())
    assert (second.average.count, second.average.values[0].unique().tolist()) == (7, [3.0])
    assert {"pieces", "scaler", "average"} == set(first.state_dict())  # the keys of version 0.1.0


def test_accumulation_equals_the_large_batch():
    small = events_of(
        a := net(),
        pair()[0],
        batch_size=15,
        accumulate=4,
        epochs=3,
        optimizer="momentum",
        lr=0.05,
        shuffle=False,
    )
    large = events_of(
        b := net(), pair()[0], batch_size=60, epochs=3, optimizer="momentum", lr=0.05, shuffle=False
    )
    assert len(losses(small)) == len(losses(large))
    assert losses(small) == pytest.approx(losses(large), abs=1e-5)
    assert same([p.detach() for p in a.parameters()], [p.detach() for p in b.parameters()])


def test_weight_decay_spares_biases_and_norms():
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    decayed, spared = parameter_groups(model, 0.1)
    assert (
        [p.dim() for p in decayed["params"]] == [2, 2]
        and all(p.dim() == 1 for p in spared["params"])
        and spared["weight_decay"] == 0
    )
    (everything,) = parameter_groups(model, 0.1, decay_all=True)
    assert len(everything["params"]) == 8


def test_dropout_override(capsys):
    model = nn.Sequential(nn.Dropout(0.1), nn.Linear(4, 3), nn.Dropout(0.2))
    events_of(model, pair()[0], dropout=0.4, epochs=1)
    assert [m.p for m in model if isinstance(m, nn.Dropout)] == [0.4, 0.4]
    assert any(
        "changes nothing" in e.text
        for e in events_of(net(), pair()[0], dropout=0.4, epochs=1)
        if type(e) is Note
    )


def test_moving_average_is_validated_and_kept():
    told = epochs(events_of(model := net(), *pair(), ema=0.9, epochs=6, lr=0.02))
    with torch.no_grad():
        kept = nn.functional.cross_entropy(model(X[SPLIT[1]]), Y[SPLIT[1]]).item()
    best = max(told, key=lambda e: (e.metrics["accuracy"], -e.epoch))
    assert kept == pytest.approx(best.valid_loss, rel=1e-4)


def test_bf16_learns_on_the_cpu():
    told = losses(events_of(net(), pair()[0], precision="bf16", epochs=8, lr=0.02))
    assert told[-1] < told[0]


@pytest.mark.parametrize("precision", ["fp16", "tf32"])
def test_precision_that_the_device_lacks_is_refused(precision):
    with pytest.raises(OptionError, match="use"):
        events_of(net(), pair()[0], precision=precision)


@pytest.mark.slow
def test_compile_gives_the_same_model():
    plain = losses(events_of(net(), pair()[0], epochs=1))
    model = net()
    assert losses(events_of(model, pair()[0], epochs=1, compile=True)) == pytest.approx(plain, rel=1e-4)
    assert list(model.state_dict()) == list(net().state_dict())


def test_channels_last():
    images, labels = load_digits(return_X_y=True)
    data = torch.tensor(images[:200].reshape(-1, 1, 8, 8) / 16, dtype=torch.float32), labels[:200]
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    told = losses(events_of(model, data, channels_last=True, epochs=6, lr=0.01))
    assert told[-1] < told[0] and model[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_early_stopping_restores_the_best():
    told = events_of(
        model := net(), *pair(), epochs=200, patience=2, monitor="valid_loss", lr=0.3, optimizer="sgd"
    )
    rows = epochs(told)
    best = min(rows, key=lambda e: e.valid_loss)
    assert len(rows) == best.epoch + 2 < 200 and "did not improve for 2 epochs" in told[-1].reason
    with torch.no_grad():
        assert nn.functional.cross_entropy(model(X[SPLIT[1]]), Y[SPLIT[1]]).item() == pytest.approx(
            best.valid_loss, rel=1e-4
        )


def test_min_delta_counts_small_changes_as_none():
    rows = epochs(events_of(net(), *pair(), epochs=50, patience=3, min_delta=10.0, monitor="valid_loss"))
    assert len(rows) == 4


def test_max_steps():
    told = events_of(net(), *pair(), max_steps=7, epochs=50)
    assert len(losses(told)) == 7 and isinstance(told[-1], Ended) and told[-1].state == "finished"


def test_valid_fraction_is_held_out_and_said():
    told = events_of(net(), (X, Y), valid_fraction=0.25, epochs=1)
    assert epochs(told)[0].valid_loss is not None and any(
        "held out" in e.text for e in told if type(e) is Note
    )


# kinds of tasks, on real data


def test_classification_metrics_are_those_of_scikit_learn(tmp_path):
    x, y = load_wine(return_X_y=True)
    x = (x - x.mean(0)) / x.std(0)
    order = np.random.RandomState(0).permutation(len(x))
    x, y = x[order], y[order]
    model = nn.Sequential(nn.Linear(13, 16), nn.ReLU(), nn.Linear(16, 3))
    run = fit(
        model,
        (x[:120], y[:120]),
        (x[120:], y[120:]),
        epochs=10,
        lr=0.01,
        metrics="accuracy,f1,auroc",
        folder=tmp_path,
        write=lambda s: None,
    )
    with torch.no_grad():
        scores = model(torch.tensor(x[120:], dtype=torch.float32)).softmax(1).numpy()
    assert run.metrics["accuracy"] == pytest.approx((scores.argmax(1) == y[120:]).mean(), abs=1e-6)
    assert run.metrics["f1"] == pytest.approx(f1_score(y[120:], scores.argmax(1), average="macro"), abs=1e-6)
    assert run.metrics["auroc"] == pytest.approx(roc_auc_score(y[120:], scores, multi_class="ovr"), abs=1e-3)


def test_binary_with_one_output():
    x, y = load_breast_cancer(return_X_y=True)
    x = (x - x.mean(0)) / x.std(0)
    data = (x[:400], y[:400]), (x[400:], y[400:])
    rows = epochs(
        events_of(
            nn.Linear(30, 1), *data, epochs=10, lr=0.02, metrics="accuracy,auroc", class_weights="balanced"
        )
    )
    assert rows[-1].metrics["accuracy"] > 0.9 and rows[-1].metrics["auroc"] > 0.95


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_regression_does_not_broadcast(shape):
    x, y = load_diabetes(return_X_y=True)
    y = (y / 100).reshape(shape)
    rows = epochs(
        events_of(
            nn.Linear(10, 1), (x[:350], y[:350]), (x[350:], y[350:]), epochs=60, lr=0.1, metrics="mae,r2,rmse"
        )
    )
    assert rows[-1].metrics["r2"] > 0.3 and rows[-1].metrics["rmse"] ** 2 == pytest.approx(
        rows[-1].valid_loss, rel=1e-3
    )


def test_multilabel():
    y = torch.stack([X[:, 0] > 0, X[:, 1] > 0, X[:, 2] > 1], 1)
    for targets in (y.float(), y.long(), y):
        rows = epochs(events_of(net(3), *pair(y=targets), epochs=15, lr=0.02, metrics="f1,accuracy"))
        assert rows[-1].metrics["accuracy"] > 0.85


def test_segmentation_and_sequences_with_ignored_labels():
    images = torch.randn(40, 1, 8, 8, generator=G)
    labels = (images[:, 0] > 0).long()
    labels[:, 0] = -100
    rows = epochs(events_of(nn.Conv2d(1, 2, 1), (images, labels), epochs=5, lr=0.1))
    assert rows[-1].train_loss < rows[0].train_loss

    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(7, 8), nn.Linear(8, 5)

        def forward(self, tokens):
            return self.head(self.embed(tokens))

    tokens = torch.randint(0, 7, (60, 6), generator=G)
    rows = epochs(events_of(Tagger(), (tokens, tokens % 5), (tokens, tokens % 5), epochs=15, lr=0.05))
    assert rows[-1].metrics["accuracy"] > 0.9


class OwnLoss(nn.Module):
    "In the manner of Hugging Face: labels go in, a loss comes out"

    def __init__(self):
        super().__init__()
        self.body = net()

    def forward(self, values, labels=None):
        scores = self.body(values)
        out = {"logits": scores}
        return out if labels is None else {"loss": nn.functional.cross_entropy(scores, labels), **out}


class Rows(Dataset):
    def __init__(self, x=X, y=Y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return {"values": self.x[i], "labels": self.y[i]}


class Stream(IterableDataset):
    def __iter__(self):
        return iter(list(zip(X, Y, strict=True)))


class Keyword(nn.Module):
    "Takes its input by name and knows nothing of labels"

    def __init__(self):
        super().__init__()
        self.body = net()

    def forward(self, values):
        return self.body(values)


class Inner(Keyword):
    "Gives the scores of an inner layer too while it trains, as GoogLeNet does"

    def forward(self, values):
        scores = self.body(values)
        return (scores, scores.detach()) if self.training else scores


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = net()

    def forward(self, a, b):
        return self.body(torch.cat([a, b], 1))


FORMS = {
    "tensors": (net, (X, Y)),
    "numpy": (net, (X.numpy().astype("float64"), Y.numpy())),
    "lists of text labels": (net, (X.numpy(), np.array(["ant", "bee", "cat"])[Y])),
    "frame and series": (
        net,
        (pd.DataFrame(X.numpy(), columns=list("abcd")), pd.Series(Y.numpy(), index=range(100, 340))),
    ),
    "frame and categories": (
        net,
        (pd.DataFrame(X.numpy()), pd.Series(pd.Categorical(np.array(["x", "y", "z"])[Y]))),
    ),
    "lists": (net, (X.tolist(), Y.tolist())),
    "lists of rows and text": (net, (list(X), [("ant", "bee", "cat")[y] for y in Y])),
    "nullable columns": (
        net,
        (pd.DataFrame(X.numpy()).convert_dtypes(), pd.Series(Y.numpy()).astype("Int64")),
    ),
    "a column of labels": (net, (X, pd.Series(Y.numpy()).to_frame())),
    "a column of text labels": (net, (X, pd.DataFrame({"kind": np.array(["ant", "bee", "cat"])[Y]}))),
    "dataset with a column of labels": (net, TensorDataset(X, Y[:, None].int())),
    "labels of 32 bits": (net, DataLoader(list(zip(X.numpy(), Y.int().numpy(), strict=True)), 32)),
    "list of samples": (net, list(zip(X, Y, strict=True))),
    "list of samples in float64": (net, list(zip(X.double().numpy(), Y.tolist(), strict=True))),
    "rows of numbers in dicts": (
        Keyword,
        [{"values": x, "labels": y} for x, y in zip(X.tolist(), Y.tolist(), strict=True)],
    ),
    "dict of lists": (Keyword, {"values": X.tolist(), "labels": Y.tolist()}),
    "dict with text labels": (Keyword, {"values": X, "labels": np.array(["ant", "bee", "cat"])[Y]}),
    "dataset of dicts, labels unknown to the model": (Keyword, Rows()),
    "compiled model of dicts": (lambda: torch.compile(Keyword(), backend="eager"), Rows()),
    "inner scores": (Inner, (X, Y)),
    "model in double": (lambda: net().double(), (X.double(), Y)),
    "tuple of inputs": (Two, ((X[:, :2], X[:, 2:]), Y)),
    "dict of inputs": (Two, ({"a": X[:, :2], "b": X[:, 2:]}, Y)),
    "dict with labels": (OwnLoss, {"values": X, "labels": Y}),
    "dataset of dicts": (OwnLoss, Rows()),
    "tensor dataset": (net, TensorDataset(X, Y)),
    "loader": (net, DataLoader(TensorDataset(X, Y), batch_size=32, shuffle=True)),
    "loader of dicts": (OwnLoss, DataLoader(Rows(), batch_size=32)),
    "iterable dataset": (net, Stream()),
    "list of batches": (net, [(X[i : i + 40], Y[i : i + 40]) for i in range(0, 240, 40)]),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_data_learns(form, tmp_path):
    make, data = FORMS[form]
    torch.manual_seed(0)
    run = fit(make(), data, data, epochs=15, lr=0.02, folder=tmp_path, write=quiet)
    assert run.metrics["accuracy"] > 0.85, run.metrics
    if "text" in form:
        assert run.classes == ("ant", "bee", "cat")
    if "categories" in form:
        assert run.classes == ("x", "y", "z")


def test_the_same_rows_in_any_form_give_the_same_losses():
    forms = ("tensors", "numpy", "tensor dataset", "frame and series", "lists", "nullable columns")
    forms = (*forms, "list of samples", "list of samples in float64", "a column of labels")
    told = [losses(events_of(net(), FORMS[form][1], epochs=2)) for form in forms]
    assert all(each == told[0] for each in told)


def test_labels_keep_the_order_that_a_category_declares(tmp_path):
    sizes = pd.Series(
        np.array(["small", "middle", "large"])[Y], dtype=pd.CategoricalDtype(["small", "middle", "large"])
    )
    run = fit(net(), (X, sizes), epochs=1, folder=tmp_path, write=quiet)
    assert run.classes == ("small", "middle", "large")
    told = losses(events_of(net(), (X, sizes), epochs=1))
    assert told == losses(events_of(net(), (X, Y), epochs=1))


@pytest.mark.parametrize("channel", [False, True])
@pytest.mark.parametrize(
    ("classes", "dtype"), [(3, torch.uint8), (3, torch.int64), (1, torch.int64), (1, torch.float32)]
)
def test_masks_with_and_without_a_channel(channel, classes, dtype):
    images = torch.randn(40, 3, 6, 6, generator=G)
    masks = (images.argmax(1) if classes > 1 else (images[:, 0] > 0)).to(dtype)
    data = images, masks[:, None] if channel else masks
    torch.manual_seed(0)
    model = nn.Conv2d(3, classes, 1)
    row = epochs(events_of(model, data, data, epochs=20, lr=0.1, class_weights="balanced"))[-1]
    assert row.metrics["accuracy"] > 0.9


def test_custom_loss_and_torchmetrics_objects():
    metric = torchmetrics.classification.MulticlassAccuracy(num_classes=3, average="macro")
    told = events_of(
        net(),
        *pair(),
        loss=lambda out, y: nn.functional.multi_margin_loss(out, y),
        metrics=[metric, "f1"],
        epochs=40,
        lr=0.02,
    )
    assert (
        set(epochs(told)[-1].metrics) == {"multiclassaccuracy", "f1"} and epochs(told)[-1].metrics["f1"] > 0.7
    )


def test_optimizers_of_ones_own():
    for own in (torch.optim.NAdam, lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.5)):
        told = losses(events_of(net(), pair()[0], optimizer=own, lr=0.02, epochs=8))
        assert told[-1] < told[0]
    with pytest.raises(OptionError, match="must return"):
        events_of(net(), pair()[0], optimizer=lambda parameters: "adam")


def test_a_frozen_model_is_refused():
    with pytest.raises(OptionError, match="requires_grad"):
        events_of(net().requires_grad_(False), pair()[0])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"loss": "model"}, "returns its loss"),
        ({"metrics": "acuracy"}, "Did you mean 'accuracy'"),
        ({"schedule": "multistep"}, "--milestones"),
        ({"monitor": "auroc"}, "--monitor takes"),
    ],
)
def test_what_does_not_fit_is_said(options, said):
    with pytest.raises((OptionError, TaskError), match=said):
        events_of(net(), *pair(), **options)


def test_schedules_need_a_length():
    with pytest.raises(OptionError, match="--max-steps"):
        events_of(net(), Stream(), schedule="cosine")
    assert len(losses(events_of(net(), Stream(), schedule="cosine", max_steps=6, epochs=9))) == 6


def test_learning_rates_as_people_write_them():
    curve = LrCurve([1e-5, 1.0], [1.0, 0.5], 10.2, 97.0)
    assert repr(curve) == "learning rate 10 suggested (loss falls fastest), at most 97; use --lr 10"
    assert [as_written(lr) for lr in (1e-7, 3.16e-5, 0.00123, 0.1, 2)] == [
        "1e-7",
        "3.2e-5",
        "0.0012",
        "0.1",
        "2",
    ]


def test_the_range_test_changes_nothing():
    model = net()
    before, drawn = [p.detach().clone() for p in model.parameters()], torch.get_rng_state()
    curve = find_lr(Task(model, pair()[0]), TrainOptions(device="cpu"))
    assert same(before, [p.detach() for p in model.parameters()]) and torch.equal(
        drawn, torch.get_rng_state()
    )
    assert curve.lrs[0] < curve.suggestion < curve.lrs[-1] and all(map(math.isfinite, curve.losses))


def test_seeds_decide_everything():
    first, again, other = (
        losses(events_of(nn.Sequential(net(), nn.Dropout(0.3)), pair()[0], epochs=2, seed=s))
        for s in (1, 1, 2)
    )
    assert first == again != other
    assert (
        losses(events_of(net(), pair()[0], epochs=1, deterministic=True))
        and not torch.are_deterministic_algorithms_enabled()
    )


def test_ignored_labels_count_neither_in_the_loss_nor_in_the_metrics():
    tokens = torch.randint(0, 20, (60, 12), generator=G)
    labels = tokens % 5
    labels[:, 6:] = -100
    labels[50:, 1:] = -100
    model = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 5))
    row = epochs(
        events_of(
            model,
            (tokens, labels),
            (tokens, labels),
            epochs=40,
            lr=0.03,
            batch_size=7,
            metrics="accuracy,f1",
            monitor="valid_loss",
        )
    )[-1]
    with torch.no_grad():
        kept = labels != -100
        whole = nn.functional.cross_entropy(model(tokens)[kept], labels[kept]).item()
    assert row.metrics == {"accuracy": 1.0, "f1": 1.0} and whole < 0.3
    assert row.valid_loss == pytest.approx(whole, rel=0.3)


@pytest.mark.parametrize("batch_size", [16, 64, 1000])
def test_a_weighted_loss_does_not_depend_on_the_batch_size(batch_size):
    order = Y.argsort()
    model = net()
    row = epochs(
        events_of(
            model,
            (X, Y),
            (X[order], Y[order]),
            class_weights="balanced",
            lr=1e-9,
            epochs=1,
            batch_size=batch_size,
        )
    )[0]
    with torch.no_grad():
        whole = nn.functional.cross_entropy(model(X), Y, WEIGHT).item()
    assert row.valid_loss == pytest.approx(whole, rel=1e-4) and row.train_loss == pytest.approx(
        whole, rel=1e-4
    )


def test_loss_and_metric_agree_on_the_axis_of_the_classes():
    images = torch.randn(30, 4, 4, 4, generator=G)
    labels = images.argmax(1)
    row = epochs(events_of(nn.Conv2d(4, 4, 1), (images, labels), (images, labels), epochs=30, lr=0.1))[-1]
    assert row.metrics["accuracy"] > 0.9 and row.valid_loss < 0.5


def test_metrics_without_meaning_are_refused_and_equal_names_kept_apart():
    with pytest.raises(OptionError, match="balanced_accuracy"):
        events_of(nn.Linear(4, 1), pair(y=(Y > 0).long())[0], metrics="balanced_accuracy")
    two = [
        torchmetrics.F1Score(task="multiclass", num_classes=3),
        torchmetrics.F1Score(task="multiclass", num_classes=3, average="macro"),
    ]
    assert len(epochs(events_of(net(), *pair(), metrics=two, epochs=1))[0].metrics) == 2


def test_a_loader_with_a_batch_sampler_of_its_own():
    loader = DataLoader(
        TensorDataset(X, Y), batch_sampler=[list(range(i, i + 40)) for i in range(0, 240, 40)]
    )
    assert [e.samples for e in events_of(net(), loader, epochs=1) if type(e) is Step] == [40] * 6
