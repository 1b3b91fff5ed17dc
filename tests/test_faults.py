"Faults that users meet, injected into real runs: what is said, and what is left"

import gc
import os
import subprocess
import sys
import textwrap
import weakref

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from trainopt_nb import RunError, Task, TrainOptions, fit, list_runs
from trainopt_nb.data.tensors import DataError
from trainopt_nb.events import Ended, Note, Step
from trainopt_nb.store.checkpoint import load_checkpoint
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


@pytest.mark.parametrize(("policy", "said"), [("stop", "Memory ran out at step 1"), ("shrink", "FINISHED")])
def test_a_real_lack_of_memory(tmp_path, policy, said):
    words = [sys.executable, "-c", textwrap.dedent(REAL), tmp_path, policy]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert said in done.stdout, done.stdout + done.stderr


# rows 14, 33 and 34: data


BAD = {
    "label -1": ((X, torch.where(Y == 0, -1, Y)), None, "holds -1"),
    "label C": ((X, Y + 1), None, "need 1 subtracted"),
    "label out of range in validation": ((X, Y), (X[:5], Y[:5] + 2), "valid_data holds"),
    "no rows": ((X[:0], Y[:0]), None, "holds no samples"),
    "no rows to validate": ((X, Y), (X[:0], Y[:0]), "valid_data holds no samples"),
    "different lengths": ((X, Y[:5]), None, "5 and 160 rows"),
    "a column of NaN": (
        (pd.DataFrame({"age": [1.0, 2], "income": [float("nan")] * 2, "a": [0.0, 1], "b": [0.0, 1]}), Y[:2]),
        None,
        "income",
    ),
    "a column of text": ((pd.DataFrame({"city": ["Rome", "Oslo"]}), Y[:2]), None, "'city'"),
    "a label unseen in training": ((X[:2], np.array(["ant", "bee"])), (X[:1], np.array(["cat"])), "'cat'"),
    "a missing label": ((X[:2], np.array(["ant", None], dtype=object)), None, "row 1"),
    "a target that is NaN": ((X, X[:, 0] / 0), None, "finite numbers"),
    "an empty list": ([], None, "holds no samples"),
    "a path": ("digits.csv", None, "and is a str"),
    "a generator": ((b for b in [(X, Y)]), None, "is an iterator"),
}


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


# row 26: a last batch of one


def test_a_last_batch_of_one_is_dropped_for_batch_normalisation(tmp_path):
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
        fit(net(), (X, Y), loss=loss, folder=tmp_path, batch_size=16, metrics="none", write=lambda line: None)
    (run,) = list_runs(tmp_path)
    assert run.state == "failed" and "ZeroDivisionError: mine" in run.progress.reason
    assert any(frame.name == "loss" for frame in caught.traceback) and not os.path.exists(run.path / "lock")
