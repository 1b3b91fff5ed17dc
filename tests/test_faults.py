"Faults that users meet, injected into real runs: what is said, and what is left"

import gc
import os
import subprocess
import textwrap
import weakref

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import quiet
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset
from torchmetrics import MetricCollection, classification
from warm_python import python

from trainopt_nb import RunError, Task, TrainOptions, fit, list_runs, resume
from trainopt_nb.base.errors import DataError, OptionError, TaskError
from trainopt_nb.events.records import Ended, Note, Step
from trainopt_nb.store.checkpoint import load_checkpoint
from trainopt_nb.task.loss_step import check_before_transfer, target_check
from trainopt_nb.train.loop import train

G = torch.Generator().manual_seed(0)
X = torch.randn(160, 4, generator=G)
Y = (X.sum(1) > 0).long()


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))


def run_of(folder, model, train_data, valid_data=None, **options):
    "A run and what it said, also where it fails"
    said = []
    try:
        run = fit(model, train_data, valid_data, folder=folder, write=said.append, device="cpu", **options)
    except RunError as error:
        run = error.run
        said.append(str(error))
    return run, said


def notes(run, topic):
    return [e for e in run.events() if type(e) is Note and e.topic == topic]


def steps(run):
    return [e for e in run.events() if type(e) is Step]


# row 12: a loss that is not finite


def test_nan_in_a_batch_stops_there_with_the_weights_from_before(tmp_path):
    x = X.clone()
    x[100, 2] = float("nan")
    model = net()
    run, said = run_of(tmp_path, model, (x, Y), epochs=1, batch_size=16, shuffle=False)
    assert run.state == "failed" and len(steps(run)) == 6
    assert (
        "The loss became nan at step 7 (epoch 1, batch 7)" in said[-1]
        and "in the inputs of the batch" in said[-1]
    )
    assert "after step 6" in said[-1] and "--on-nonfinite skip" in said[-1]
    reference, _ = run_of(
        tmp_path,
        expected := net(),
        (X, Y),
        epochs=1,
        batch_size=16,
        shuffle=False,
        max_steps=6,
        schedule="constant",
    )
    assert reference.state == "finished"
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))
    _, saved, _, _ = load_checkpoint(run.path / "checkpoints")
    assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())


class Unreadable(Dataset):
    "Pairs of which one cannot be read from some time on"

    def __init__(self, rows=64, fails=None):
        self.x, self.fails, self.reads = torch.linspace(-1, 1, 4 * rows).view(rows, 4), fails, 0

    def __len__(self):
        return len(self.x)

    def __getitem__(self, row):
        self.reads += 1
        if self.fails is not None and self.reads > self.fails and row == len(self.x) // 2:
            raise OSError("picture.png cannot be read")
        return self.x[row], row % 2


@pytest.mark.parametrize("part", ["train_data", "valid_data"])
def test_what_was_done_before_an_error_of_the_data_is_saved(tmp_path, part):
    model, whole = nn.Linear(4, 2), nn.Linear(4, 2)
    whole.load_state_dict(model.state_dict())
    data = {"train_data": Unreadable(), "valid_data": Unreadable()}
    options = dict(epochs=3, batch_size=8, folder=tmp_path, write=quiet)
    fit(whole, **data, **options)
    bad = Unreadable(fails=150)
    with pytest.raises(OSError, match=r"picture\.png"):
        fit(model, **data | {part: bad}, **options)
    (run,) = (each for each in list_runs(tmp_path) if each.state == "failed")
    assert run.progress.step > 8 and notes(run, "saved")
    bad.fails = None
    resume(run, model, **data | {part: bad}, write=quiet)
    assert all(map(torch.equal, model.parameters(), whole.parameters()))


class LogOfNegative(nn.Module):
    def __init__(self, after):
        super().__init__()
        self.after, self.calls = after, 0

    def forward(self, x):
        self.calls += 1
        return x.log() if self.training and self.calls > self.after else x


def test_the_first_layer_that_goes_wrong_is_named(tmp_path):
    model = nn.Sequential(nn.Linear(4, 8), LogOfNegative(after=3), nn.Linear(8, 2))
    run, said = run_of(tmp_path, model, (X, Y), epochs=1, batch_size=16)
    assert run.state == "failed" and "layer 1 (LogOfNegative)" in said[-1] and "--lr" in said[-1]


def test_spoiled_weights_are_rolled_back(tmp_path):
    "A rate so high that an update makes the weights infinite: the last good ones come back"
    model = net()
    run, said = run_of(
        tmp_path, model, (X * 100, Y), epochs=3, batch_size=16, optimizer="sgd", lr=1e3, save_steps=2, l1=1e30
    )
    assert run.state == "failed" and "The loss became" in said[-1]
    assert all(torch.isfinite(p).all() for p in model.parameters())
    _, saved, _, _ = load_checkpoint(run.path / "checkpoints")
    assert all(torch.isfinite(value).all() for value in saved.values())


def test_bad_batches_can_be_left_out(tmp_path):
    x = X.clone()
    x[100, 2] = float("nan")
    run, _said = run_of(tmp_path, net(), (x, Y), epochs=2, batch_size=16, shuffle=False, on_nonfinite="skip")
    assert run.state == "finished" and len(steps(run)) == 18 and len(notes(run, "nonfinite")) == 1


# row 13: memory


class Hungry(nn.Module):
    "Runs out of memory with more samples than `most`, as a device would"

    def __init__(self, most):
        super().__init__()
        self.body, self.most = net(), most

    def forward(self, x):
        held = self.body(x)
        if len(x) > self.most:
            raise torch.OutOfMemoryError("Tried to allocate 2.00 GiB")
        return held


def test_out_of_memory_says_what_was_needed_and_lets_go(tmp_path):
    model = Hungry(most=8)
    freed = []
    model.body.register_forward_hook(lambda m, i, out: freed.append(weakref.ref(out)))
    run, said = run_of(tmp_path, model, (X, Y), epochs=1, batch_size=32)
    assert (
        run.state == "failed"
        and "Memory ran out at step 1 with 32 samples" in said[-1]
        and "2 GiB more were wanted" in said[-1]
    )
    assert "--batch-size 16 --accumulate 2" in said[-1] and "--on-memory shrink" in said[-1]
    gc.collect()
    assert all(ref() is None for ref in freed)


def test_shrinking_gives_the_same_update(tmp_path):
    hungry, plenty = Hungry(most=8), Hungry(most=1000)
    run, _ = run_of(tmp_path / "a", hungry, (X, Y), epochs=2, batch_size=32, on_memory="shrink")
    other, _ = run_of(tmp_path / "b", plenty, (X, Y), epochs=2, batch_size=32)
    assert run.state == other.state == "finished" and notes(run, "memory")
    assert all(
        torch.allclose(a, b, atol=1e-5) for a, b in zip(hungry.parameters(), plenty.parameters(), strict=True)
    )
    assert [e.loss for e in steps(run)] == pytest.approx([e.loss for e in steps(other)], abs=1e-5)


REAL = """
import resource, sys, torch
from torch import nn
from trainopt_nb import fit, RunError
class Big(nn.Linear):
    def forward(self, x):
        return super().forward(x) + torch.ones(len(x), 2**20 * 20).mean()
x = torch.randn(64, 4)
size = 3 * 2**30 + int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (size, size))
try:
    fit(Big(4, 2), (x, (x.sum(1) > 0).long()), epochs=1, batch_size=64, folder=sys.argv[1], on_memory=sys.argv[2], device="cpu")
    print("FINISHED")
except RunError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("policy", "said"),
    [("stop", "Memory ran out at step 1"), pytest.param("shrink", "FINISHED", marks=pytest.mark.slow)],
)
def test_a_real_lack_of_memory(tmp_path, policy, said):
    done = subprocess.run(
        python("-c", textwrap.dedent(REAL), tmp_path, policy), capture_output=True, text=True, timeout=120
    )
    assert said in done.stdout, done.stdout + done.stderr


# rows 14, 33 and 34: data


BAD = {
    "label -1": ((X, torch.where(Y == 0, -1, Y)), None, "holds -1"),
    "label C": ((X, Y + 1), None, "need 1 subtracted"),
    "label out of range in validation": ((X, Y), (X[:5], Y[:5] + 2), "valid_data holds"),
    "no rows": ((X[:0], Y[:0]), None, "holds no samples"),
    "no rows to validate": ((X, Y), (X[:0], Y[:0]), "valid_data holds no samples"),
    "different lengths": ((X, Y[:5]), None, "160 rows of inputs and 5 targets"),
    "a column of NaN": (
        (pd.DataFrame({"age": [1.0, 2], "income": [float("nan")] * 2, "a": [0.0, 1], "b": [0.0, 1]}), Y[:2]),
        None,
        "income",
    ),
    "an array of text": ((np.array([["Rome"], ["Oslo"]]), Y[:2]), None, "a data frame"),
    "a column of dicts": ((pd.DataFrame({"city": [{}, []]}), Y[:2]), None, "'city'"),
    "a label unseen in training": ((X[:2], np.array(["ant", "bee"])), (X[:1], np.array(["cat"])), "'cat'"),
    "a missing label": ((X[:2], np.array(["ant", None], dtype=object)), None, "row 1"),
    "a target that is NaN": ((X, X[:, 0] / 0), None, "finite numbers"),
    "an empty list": ([], None, "holds no samples"),
    "a path that is not there": ("digits.csv", None, "no such file"),
    "a generator": ((b for b in [(X, Y)]), None, "is an iterator"),
    "no full batch": (DataLoader(TensorDataset(X[:5], Y[:5]), 16, drop_last=True), None, "holds 5 samples, less than a batch, and drop_last"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_broken_data_are_refused_in_one_sentence_before_anything_is_written(tmp_path, name):
    train_data, valid_data, said = BAD[name]
    with pytest.raises(DataError) as caught:
        fit(nn.Linear(4, 1) if "target" in name else net(), train_data, valid_data, folder=tmp_path / "runs")
    assert said in str(caught.value) and "\n" not in str(caught.value) and not (tmp_path / "runs").exists()


ODD = {
    "an empty class": (nn.Linear(4, 3), (X, Y), None, "labels", "No training sample has the label 2"),
    "a class of one row": (
        nn.Linear(4, 3),
        (X, torch.cat([Y[:-1], torch.tensor([2])])),
        None,
        "labels",
        "Only one training sample has the label 2",
    ),
    "one label for all": (net(), (X, Y * 0), None, "labels", "nothing to tell apart"),
    "one target for all": (nn.Linear(4, 1), (X, X[:, 0] * 0 + 3), None, "targets", "Every target is 3"),
    "rows in both sets": (
        net(),
        (X, Y),
        (X[100:], Y[100:]),
        "overlap",
        "60 of 60 validation rows are also training rows",
    ),
    "one row": (net(), (X[:1], Y[:1]), None, "labels", "nothing to tell apart"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_data_are_said_before_the_first_step(tmp_path, name):
    model, train_data, valid_data, topic, text = ODD[name]
    run, said = run_of(tmp_path, model, train_data, valid_data, epochs=1)
    kinds = [type(e) for e in run.events()]
    assert run.state == "finished" and any(text in note.text for note in notes(run, topic))
    assert kinds.index(Note) < kinds.index(Step) and any(text in line for line in said)


# rows 14 and 33: labels that no class stands for, in every kind of data


class Rows(Dataset):
    "Loads a sample when it is asked for one; what it keeps under `name` is visible"

    def __init__(self, x, y, name="hidden", shift=0):
        self.x, self.name, self.shift = x, name, shift
        setattr(self, name, y)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], getattr(self, self.name)[i] - self.shift


HIGH, LOW = torch.cat([Y[:100], torch.full((60,), 2)]), torch.where(torch.arange(160) == 100, -1, Y)
KNOWN = {
    "targets": (Rows(X, HIGH.tolist(), "targets"), "holds 2 in row"),
    "labels": (Rows(X, LOW.numpy(), "labels"), "holds -1 in row 100"),
    "a part": (Subset(Rows(X, LOW, "targets"), range(90, 150)), "holds -1 in row 10"),
    "two put together": (ConcatDataset([TensorDataset(X, Y), Rows(X, LOW, "targets")]), "holds -1 in row 260"),
    "a loader with a collation of its own": (DataLoader(TensorDataset(X, LOW), 16, collate_fn=lambda s: [torch.stack(p) for p in zip(*s, strict=True)]), "row 100"),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_labels_that_a_dataset_shows_are_checked_before_anything_is_written(tmp_path, name):
    data, said = KNOWN[name]
    for sets in ((data, None), ((X, Y), data)):
        with pytest.raises(DataError, match="Labels must run from 0 to 1") as caught:
            fit(net(), *sets, folder=tmp_path / "runs")
        assert said in str(caught.value) and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("more", [{}, {"workers": 1}, {"loss": "focal"}, {"label_smoothing": 0.1}])
def test_labels_that_a_dataset_hides_are_explained_when_they_come(tmp_path, more):
    for data, said in ((Rows(X, HIGH), "holds 2"), (Rows(X, LOW), "holds -1")):
        with pytest.raises(DataError, match="a batch of train_data " + said):
            fit(net(), data, folder=tmp_path, device="cpu", write=quiet, **more)
    if not more:
        with pytest.raises(DataError, match="a batch of valid_data holds -1 in row 100"):
            fit(net(), (X, Y), Rows(X, LOW), folder=tmp_path, device="cpu", write=quiet)
    assert "Labels must run" in list_runs(tmp_path)[0].progress.reason


def test_labels_are_seen_before_they_reach_an_accelerator():
    "On a GPU the error would come too late: the batch is not even moved"
    moved = []
    place = check_before_transfer(moved.append, target_check("classification", 2, -100), wait=False)
    place((X[:4], torch.tensor([0, 1, -100, 1])))
    with pytest.raises(DataError, match="holds 2 in row 1"):
        place((X[:4], torch.tensor([0, 2, 1, 1])))
    assert len(moved) == 1


def test_what_a_dataset_stores_is_not_held_against_what_it_gives(tmp_path):
    "A transform of the targets makes 0 and 1 of 1 and 2"
    run, _ = run_of(tmp_path, net(), Rows(X, Y + 1, "targets", shift=1), epochs=1)
    assert run.state == "finished" and not notes(run, "labels")


def test_labels_that_only_a_loss_of_ones_own_knows(tmp_path):
    ignore = torch.where(torch.arange(160) < 20, 255, Y)
    own = nn.CrossEntropyLoss(ignore_index=255)
    run, _ = run_of(tmp_path, net(), (X, ignore), (X, ignore), epochs=1, loss=own)
    assert run.state == "finished" and "accuracy" in run.metrics and not notes(run, "labels")
    with pytest.raises(DataError, match="holds -1"):
        fit(net(), (X, LOW), loss=own, folder=tmp_path)
    ordinal = lambda out, y: nn.functional.multilabel_margin_loss(out, torch.stack([y % 2, y * 0 - 1], 1))
    run, _ = run_of(tmp_path, net(), (X, HIGH), (X, HIGH), epochs=1, loss=ordinal)
    assert run.state == "finished" and "accuracy" not in run.metrics and not notes(run, "labels")


def test_answers_that_are_neither_yes_nor_no(tmp_path):
    with pytest.raises(DataError, match="takes targets from 0 to 1, and train_data holds -1 in row"):
        fit(nn.Linear(4, 1), (X, Y.float() * 2 - 1), loss="bce", folder=tmp_path)
    with pytest.raises(DataError, match="a batch holds 2"):
        fit(nn.Linear(4, 1), Rows(X, HIGH), folder=tmp_path, device="cpu", write=quiet)


# what does not fit: one sentence with the way out, before the first step


class Named(nn.Module):
    "Takes one keyword and knows nothing of labels"

    def __init__(self):
        super().__init__()
        self.body = net()

    def forward(self, x):
        return self.body(x)


class Gives(Named):
    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, x):
        return self.change(self.body(x))


FRAME = pd.DataFrame(X.numpy(), columns=list("abcd")).assign(paid=Y.numpy())
UNEQUAL = Rows([torch.ones(4 + i % 2) for i in range(160)], Y)
MATRIX, VECTOR = (
    classification.MulticlassConfusionMatrix(2),
    classification.MulticlassAccuracy(2, average=None),
)
MISFITS = {
    "a loss for each sample": (net, (X, Y), {"loss": nn.CrossEntropyLoss(reduction="none")}, "reduction='mean'"),
    "a loss without gradient": (net, (X, Y), {"loss": lambda o, t: o.mean().detach()}, "without a gradient"),
    "a loss that is a float": (net, (X, Y), {"loss": lambda o, t: o.mean().item()}, "leave out .item()"),
    "a loss that fails": (net, (X, Y), {"loss": nn.MSELoss()}, "MSELoss fails for scores of (8, 2) float32"),
    "a loss that broadcasts": (lambda: nn.Linear(4, 1), (X, X[:, 0]), {"loss": nn.MSELoss()}, "every score with every target"),
    "a loss that is a class": (net, (X, Y), {"loss": nn.CrossEntropyLoss}, "CrossEntropyLoss(), with brackets"),
    "a matrix for a metric": (net, (X, Y), {"metrics": MATRIX}, "result of shape (2, 2)"),
    "a metric for each class": (net, (X, Y), {"metrics": VECTOR}, "average='macro'"),
    "a metric of other classes": (net, (X, Y), {"metrics": classification.MulticlassAccuracy(5)}, "cannot take scores of shape (8, 2)"),
    "a metric that is a class": (net, (X, Y), {"metrics": classification.MulticlassAccuracy}, "with brackets"),
    "a metric that is a function": (net, (X, Y), {"metrics": lambda o, t: 0.0}, "torchmetrics.Metric"),
    "samples of unequal shape": (net, UNEQUAL, {}, "train_data gives (4,) and (5,)"),
    "the same in a worker": (net, UNEQUAL, {"workers": 1}, "train_data gives (4,) and (5,)"),
    "rows of unequal length": (net, ([[1.0, 2], [1.0]], [0, 1]), {}, "rows of shape (2,) and (1,)"),
    "a sample that is None": (net, Rows([None] * 160, Y), {}, "holds None"),
    "text for labels": (net, [(x, "ant") for x in X], {}, "tuple of str"),
    "a frame alone": (net, FRAME, {}, "frame.drop(columns='paid'), frame['paid']"),
    "inputs alone": (net, X, {}, "pass the pair (inputs, targets)"),
    "a list for a pair": (net, [X, Y], {}, "round brackets"),
    "three arrays": (net, (X, X, Y), {}, "--batch-layout 'x, y, _'"),
    "a pair the wrong way round": (net, (Y, X), {}, "seem to be swapped"),
    "another keyword": (Named, {"z": X, "labels": Y}, {}, "forward takes x, and a batch holds z, labels"),
    "labels that are no whole numbers": (net, (X, Y.float()), {}, "convert the labels to int64"),
    "numbers for one score": (lambda: nn.Linear(4, 1), (X, Y * 3), {}, "--loss mse"),
    "answers for two scores": (net, (X, Y), {"loss": "bce"}, "--loss bce compares number with number"),
    "whole numbers for scores": (lambda: Gives(lambda o: o.argmax(1)), (X, Y), {}, "leave out argmax"),
    "one row of scores": (lambda: Gives(lambda o: o.mean(0)), (X, Y), {}, "scores for each of the 8 samples"),
    "bytes": (net, ((X * 9).byte(), Y), {}, "astype('float32') / 255"),
    "channels last": (lambda: nn.Conv2d(3, 2, 3), (torch.ones(9, 8, 8, 3), Y[:9]), {}, "permute"),
    "no flattening": (lambda: nn.Linear(64, 2), (torch.ones(9, 8, 8), Y[:9]), {}, "nn.Flatten()"),
    "a missing column": (lambda: nn.Linear(1, 1), (X[:, 0], X[:, 1]), {}, "inputs[:, None]"),
    "tokens beyond the table": (lambda: nn.Embedding(5, 2), ((X > 0).long() * 7, Y), {}, "Embedding of 5 rows"),
    "data without numbers": (net, (X.to("meta"), Y), {}, "meta device"),
    "a model without numbers": (lambda: nn.Linear(4, 2, device="meta"), (X, Y), {}, "meta device"),
    "a model that is a class": (lambda: nn.Linear, (X, Y), {}, "Linear(...), with brackets"),
    "a nullable label": (net, (X[:3], pd.Series([0, None, 1], dtype="Int64")), {}, "row 1"),
    "dates": (net, (X[:2], np.array(["2026-01-01", "2026-01-02"], "M8[D]")), {}, "hold datetime64"),
    "batches of one": (lambda: nn.Sequential(nn.BatchNorm1d(4), net()), (X, Y), {"batch_size": 1}, "--batch-size 2"),
    "muon and biases": (net, (X, Y), {"optimizer": "muon"}, "2 of 4 parameters are something else, first 0.bias"),
    "sparseadam": (net, (X, Y), {"optimizer": "sparseadam"}, "nn.Embedding(sparse=True)"),
    "an optimizer that is made": (net, (X, Y), {"optimizer": torch.optim.SGD(net().parameters())}, "an object of type SGD"),
    "a keyword that does not exist": (net, (X, Y), {"epoch": 2}, "Did you mean 'epochs'? help(trainopt_nb.TrainOptions)"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_is_explained_before_anything_is_written(tmp_path, name):
    make, data, more, said = MISFITS[name]
    valid = (X[:40], Y[:40]) if "metric" in name else None
    with pytest.raises((DataError, TaskError, OptionError)) as caught:
        fit(make(), data, valid, folder=tmp_path / "runs", device="cpu", **more)
    assert said in str(caught.value) and "\n" not in str(caught.value) and not (tmp_path / "runs").exists()


VALID = {
    "other columns": ((X[:, :3], Y), "cannot take valid_data, inputs of (8, 3)"),
    "other columns in a dataset": (Rows(X[:, :3], Y), "cannot take valid_data, inputs of (8, 3)"),
    "labels that are no whole numbers": ((X, Y.float()), "valid_data do not fit the training"),
    "no labels": (X, "hold inputs and no targets"),
}


@pytest.mark.parametrize("name", VALID)
def test_validation_data_are_tried_before_the_first_epoch(tmp_path, name):
    with pytest.raises(TaskError) as caught:
        fit(net(), (X, Y), VALID[name][0], folder=tmp_path / "runs")
    assert VALID[name][1] in str(caught.value) and not (tmp_path / "runs").exists()


SAID = {
    "a second softmax": (lambda: nn.Sequential(net(), nn.Softmax(1)), (X, Y), {}, "loss", "without the softmax it is computed from logits"),
    "a second sigmoid": (lambda: nn.Sequential(nn.Linear(4, 1), nn.Sigmoid()), (X, Y), {}, "loss", "sigmoid"),
    "a sigmoid before a loss with one": (lambda: nn.Sequential(nn.Linear(4, 1), nn.Sigmoid()), (X, Y[:, None].float()), {"loss": nn.BCEWithLogitsLoss(), "doctor": False}, "twice", "the loss applies one of its own"),
    "no log_softmax before a loss that needs it": (net, (X, Y), {"loss": nn.NLLLoss()}, "loss", "end the model with log_softmax"),
    "weights of 16 bits": (lambda: net().bfloat16(), (X, Y), {}, "precision", "small updates vanish"),
    "a batch size beside a loader": (net, DataLoader(Rows(X, Y), 32), {"batch_size": 8}, "options", "--batch-size 8 (because train_data is a DataLoader"),
    "a batch size beside batches": (net, [(X, Y)], {"batch_size": 8}, "options", "gives whole batches"),
    "gamma without focal": (net, (X, Y), {"focal_gamma": 3.0}, "options", "--focal-gamma 3.0 (because the loss is cross-entropy)"),
    "weights for a loss of one's own": (net, (X, Y), {"class_weights": "balanced", "label_smoothing": 0.1, "loss": nn.CrossEntropyLoss()}, "options", "--class-weights balanced, --label-smoothing 0.1 (because the loss is a function of yours)"),
    "metrics without validation": (net, (X, Y), {"metrics": "f1"}, "options", "--metrics f1 (because there is no validation data)"),
    "a rate beside a factory": (net, (X, Y), {"lr": 0.5, "optimizer": lambda p: torch.optim.SGD(p, 0.1)}, "options", "--lr 0.5"),
}  # fmt: skip


@pytest.mark.parametrize("name", SAID)
def test_what_is_chosen_or_changes_nothing_is_said(tmp_path, name):
    make, data, more, topic, text = SAID[name]
    run, _ = run_of(tmp_path, make(), data, epochs=1, **more)
    (note,) = notes(run, topic)
    assert text in note.text, note.text


class OwnLogSoftmax(nn.Linear):
    def forward(self, x):
        scores = super().forward(x)
        return scores - scores.logsumexp(1, keepdim=True)


@pytest.mark.parametrize(
    "make", [lambda: nn.Sequential(net(), nn.LogSoftmax(1)), lambda: OwnLogSoftmax(4, 2)]
)
def test_log_probabilities_need_nothing_more(tmp_path, make):
    run, _ = run_of(tmp_path, make(), (X, Y), epochs=1, loss=nn.NLLLoss())
    assert not notes(run, "loss")


def test_options_that_count_are_not_called_idle(tmp_path):
    more = {"loss": "focal", "focal_gamma": 3.0, "label_smoothing": 0.1, "class_weights": "balanced", "batch_size": 8, "lr": 0.1,
            "schedule": "step", "step_every": 1, "gamma": 0.5, "optimizer": "nesterov", "momentum": 0.5, "metrics": "f1", "monitor": "f1",
            "decay_all": True, "valid_fraction": 0.2, "drop_last": True}  # fmt: skip
    run, _ = run_of(tmp_path, net(), (X, Y), epochs=1, **more)
    assert run.state == "finished" and not notes(run, "options")


def test_weights_of_another_model_are_told_apart(tmp_path):
    run, _ = run_of(tmp_path, net(), (X, Y), epochs=1)
    with pytest.raises(RunError, match=r"those of another model: size mismatch for 0\.weight"):
        run.load(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))


def test_first_rows_that_look_like_answers_make_no_classifier(tmp_path):
    "Eight zeros and ones are no proof, since all targets are known"
    counts = torch.cat([Y[:20].float(), X[20:].square().sum(1)])
    run, _ = run_of(tmp_path, nn.Linear(4, 1), (X, counts), (X, counts), epochs=1)
    assert "mae" in run.metrics and not notes(run, "data")


def test_a_collection_of_metrics_becomes_figures(tmp_path):
    parts = {"hits": classification.MulticlassAccuracy(2), "f": classification.MulticlassF1Score(2)}
    both = MetricCollection(parts, prefix="my_")
    run, _ = run_of(tmp_path, net(), (X, Y), (X, Y), epochs=2, metrics=[both, "accuracy"], monitor="my_f")
    assert {"my_hits", "my_f", "accuracy"} < set(run.metrics) and run.state == "finished"
    alone = classification.MulticlassRecall(2, average="macro")
    run, _ = run_of(tmp_path, net(), (X, Y), (X, Y), epochs=1, metrics=alone)
    assert set(run.metrics) == {"train_loss", "valid_loss", "multiclassrecall"}


# row 26: a last batch of one


def test_a_last_batch_of_one_is_dropped_for_batch_normalization(tmp_path):
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    run, said = run_of(tmp_path, model, (X[:65], Y[:65]), epochs=2, batch_size=32)
    assert run.state == "finished" and [e.samples for e in steps(run)] == [32, 32] * 2
    assert any("left out of each epoch" in line for line in said)
    run, _ = run_of(tmp_path, net(), (X[:65], Y[:65]), epochs=1, batch_size=32)
    assert [e.samples for e in steps(run)] == [32, 32, 1]


# rows 2 and 3 in a run


def full(*_, **__):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(("policy", "state"), [("stop", "failed"), ("continue", "finished")])
def test_a_disk_that_fills_up(tmp_path, monkeypatch, policy, state):
    "Older checkpoints stay whole; the run ends, or goes on and says so"
    events = train(
        Task(net(), (X, Y)),
        TrainOptions(epochs=2, batch_size=16, save_steps=3, on_disk_full=policy, device="cpu"),
        tmp_path,
    )
    told = []
    for event in events:
        told.append(event)
        if type(event) is Step and event.step == 4:
            monkeypatch.setattr("os.fsync", full)
    monkeypatch.undo()
    assert isinstance(told[-1], Ended) and told[-1].state == state
    said = told[-1].reason if state == "failed" else next(e.text for e in told if type(e) is Note)
    assert "bytes" in said and str(tmp_path) in said
    checkpoint, _, _, lost = load_checkpoint(tmp_path / "checkpoints")
    assert checkpoint.step == 3 and not lost


def test_a_folder_that_cannot_be_written_fails_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    calls = []
    model = net()
    model.register_forward_hook(lambda m, i, o: calls.append(m.training))
    with pytest.raises(RunError, match="Choose another folder"):
        fit(model, (X, Y), folder=tmp_path / "file" / "runs")
    assert True not in calls


def test_an_error_of_the_users_keeps_its_traceback_and_is_recorded(tmp_path):
    def loss(outputs, targets):
        if len(calls) > 5:
            raise ZeroDivisionError("mine")
        calls.append(1)
        return outputs.square().mean()

    calls = []
    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        fit(net(), (X, Y), loss=loss, folder=tmp_path, batch_size=16, metrics="none", write=quiet)
    (run,) = (each for each in list_runs(tmp_path) if each.state == "failed")
    assert "ZeroDivisionError: mine" in run.progress.reason
    assert any(frame.name == "loss" for frame in caught.traceback) and not os.path.exists(run.path / "lock")
