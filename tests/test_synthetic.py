"Synthetic samples: only in training, of the share that was asked for, and the same ones whatever the workers, devices and stops"

import random

import numpy as np
import pytest
import torch
from helpers import follow, losses, quiet, run_until_killed, until, weights
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from trainopt_nb import OptionError, Task, TrainOptions, features, find_run, fit, resume
from trainopt_nb.augment.synthetic import make_samples, synthetic_rows
from trainopt_nb.base.errors import DataError, TaskError
from trainopt_nb.data.dataset_batches import _SeededDataset
from trainopt_nb.events.records import Note, Step
from trainopt_nb.population.can_batch import can_batch
from trainopt_nb.store.checkpoint import load_checkpoint
from trainopt_nb.train.loop import train
from trainopt_nb.train.prepare import prepare

X = torch.randn(150, 6, generator=torch.Generator().manual_seed(1))
Y = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()
TRAIN, VALID = (X[:118], Y[:118]), (X[118:], Y[118:])


def make(seed):
    "A row, by each of the generators that people use"
    row = torch.randn(6) + torch.from_numpy(np.random.default_rng(seed).normal(size=6)).float()
    return row + random.random() + np.random.rand(), int((row[:2] > 0).sum())


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))


def flags(**more):
    return {"device": "cpu", "batch_size": 32, "synthetic": make, "synthetic_share": 0.25, **more}


@given(st.floats(0, 0.95), st.integers(1, 50), st.integers(1, 200))
def test_an_epoch_holds_the_share(share, batch, batches):
    rows = [synthetic_rows(share, number * batch, batch) for number in range(batches)]
    total = batch * batches
    assert abs(sum(rows) - total * share / (1 - share)) <= 1
    assert max(rows) - min(rows) <= 1


def test_batches_are_the_real_ones_and_more():
    options = TrainOptions(**flags(shuffle=False))
    prepared = prepare(Task(net(), TRAIN, VALID), options)
    batches = list(prepared.device_batches(prepared.data.train.epoch(1), 1))
    assert [len(x) for x, _ in batches] == [42, 43, 43, 29]  # of 32, 32, 32, 22
    assert all(torch.equal(x[:32], X[32 * n : 32 * n + 32]) for n, (x, _) in enumerate(batches[:3]))
    made = torch.cat([x[32:] for x, _ in batches[:3]])
    assert len({row.numpy().tobytes() for row in made}) == len(made)
    other = list(prepared.device_batches(prepared.data.train.epoch(2), 2))
    assert not torch.equal(batches[0][0][32:], other[0][0][32:])
    (x, y) = next(prepared.data.valid.epoch(0))
    assert prepared.on_device((x, y), False)[0] is x and len(x) == 32
    (text,) = [text for topic, text in prepared.notes if topic == "synthetic"]
    assert "make adds 10.67 samples to each training batch of 32" in text


class Rows(Dataset):
    def __len__(self):
        return len(TRAIN[0])

    def __getitem__(self, index):
        return TRAIN[0][index], TRAIN[1][index]


def test_workers_change_nothing(tmp_path):
    found = []
    for data, workers in ((TRAIN, 0), (Rows(), 0), (Rows(), 2)):
        model = net()
        fit(model, data, folder=tmp_path, workers=workers, write=quiet, **flags(epochs=2, augment="mixup"))
        found.append(weights(model))
    assert torch.equal(found[0], found[1]) and torch.equal(found[1], found[2])


@pytest.mark.skipif(torch.accelerator.is_available(), reason="PyTorch seeds the accelerator too")
def test_seeding_a_sample_formats_no_traceback(monkeypatch):
    "`torch.manual_seed` does, for each kind of device that is not in use: 0.2 ms a sample, in each worker of a loader too"
    monkeypatch.setattr("traceback.format_stack", lambda *_: pytest.fail("a traceback was formatted"))
    assert len(make_samples(make, [1, 2])) == 2
    assert len(_SeededDataset(list(zip(X, Y, strict=True)), 0, None)[0, 3]) == 2


def test_devices_change_nothing(tmp_path):
    model = lambda: net()[:2].append(net()[3])  # without dropout, which draws on each device
    runs = [
        fit(model(), TRAIN, VALID, folder=tmp_path, devices=devices, write=quiet, **flags(epochs=2))
        for devices in (1, 2)
    ]
    assert torch.allclose(losses(runs[0]), losses(runs[1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("data", ["memory", "loader"])
def test_stopped_and_resumed_is_uninterrupted(data, tmp_path):
    given_ = TRAIN if data == "memory" else DataLoader(Rows(), batch_size=32, shuffle=True)
    options = TrainOptions(**flags(epochs=3))
    whole, again = net(), net()
    follow(train(Task(whole, given_, VALID), options))
    at = lambda e: type(e) is Step and e.step == 6
    assert follow(train(Task(net(), given_, VALID), options, tmp_path), at)[-1].state == "stopped"
    _, model_state, training, _ = load_checkpoint(tmp_path / "checkpoints")
    events = follow(train(Task(again, given_, VALID), options, tmp_path, checkpoint=(model_state, training)))
    assert events[-1].state == "finished" and torch.equal(weights(whole), weights(again))
    assert not [e.text for e in events if type(e) is Note and "resume" in e.text]


KILLED = """
import sys
from test_synthetic import TRAIN, VALID, flags, net, quiet
from trainopt_nb import fit
fit(net(), TRAIN, VALID, folder=sys.argv[1], save_steps=1, write=quiet, **flags(epochs=3))
"""


def test_killed_and_resumed_is_uninterrupted(tmp_path):
    run_until_killed(KILLED, tmp_path / "killed")
    run = until(lambda: find_run(None, tmp_path / "killed"), "the killed run")
    assert 4 < run.progress.step < 12
    again, whole = net(), net()
    resume(None, again, TRAIN, VALID, folder=tmp_path / "killed", write=quiet, synthetic=make)
    fit(whole, TRAIN, VALID, folder=tmp_path / "whole", write=quiet, **flags(epochs=3))
    assert torch.equal(weights(again), weights(whole))


def test_it_helps_where_data_are_few():
    "The generator knows the rule, and twelve rows do not tell it"
    few, accuracy = (X[:12], Y[:12]), []
    exact = lambda seed: (lambda row: (row, int(row[0] > 0) + int(row[1] > 0)))(torch.randn(6))
    for share in (0.0, 0.9):
        options = TrainOptions(**flags(epochs=60, lr=0.01, synthetic=exact, synthetic_share=share))
        events = follow(train(Task(net(), few, VALID), options))
        accuracy.append([e.metrics["accuracy"] for e in events if hasattr(e, "metrics") and e.metrics][-1])
    assert accuracy[1] > accuracy[0] + 0.1


def test_rows_of_a_table_and_names_of_classes():
    import pandas as pd

    frame = pd.DataFrame({"age": range(20, 80), "city": ["Oslo", "Rome", None] * 20})
    table = features((frame, ["yes", "no"] * 30))
    row = lambda seed: ({"age": 20 + seed % 60, "city": "Rome"}, "yes")
    model = nn.Linear(table.width, 2)
    prepared = prepare(Task(model, table), TrainOptions(**flags(synthetic=row, batch_size=60, shuffle=False)))
    x, y = next(prepared.device_batches(prepared.data.train.epoch(0)))
    assert len(x) == 80 and (y[60:] == prepared.data.classes.index("yes")).all()
    assert (x[60:, table.names.index("city=Rome")] == 1).all()


def test_texts(tmp_path):
    for number in range(20):
        place = tmp_path / "data" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.txt").write_text(f"text {number} of this kind")

    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.last = nn.Embedding(512, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.last(self.words(x).mean(1))

    for augment in ("none", "swap"):
        made = lambda seed: ("a synthetic text", "a")
        how = flags(synthetic=made, vocabulary=512, augment=augment, batch_size=20)
        prepared = prepare(Task(Bag(), str(tmp_path / "data")), TrainOptions(**how))
        x, y = next(prepared.device_batches(prepared.data.train.epoch(0)))
        assert len(x) == 26 and not y[20:].any() and (x[20:, 3:] == 0).all()


def refused(error, match, data=TRAIN, **options):
    with pytest.raises(error, match=match) as caught:
        prepare(Task(net(), data), TrainOptions(device="cpu", **options))
    text = str(caught.value)
    assert "\n" not in text and text.endswith((".", "?", "zero", "required"))


def test_wrong_generators_get_one_sentence():
    row = torch.zeros(6)
    refused(
        DataError,
        r"with shape \(6,\), \(\), and gave some of shape \(7,\)",
        synthetic=lambda seed: (torch.zeros(7), 0),
    )
    refused(DataError, "floating-point numbers where it holds whole ones", synthetic=lambda seed: (row, 0.5))
    refused(
        DataError, "gave the class 'cat', and train_data has numbers", synthetic=lambda seed: (row, "cat")
    )
    refused(DataError, "synthetic gave", synthetic=lambda seed: (row, 3))
    refused(TaskError, "synthetic fails for seed 0: ZeroDivisionError", synthetic=lambda seed: 1 / (0 * seed))
    refused(DataError, "A sample must hold tensors", synthetic=lambda seed: (None, 0))
    with pytest.raises(OptionError, match="none, or a callable"):
        TrainOptions(synthetic="make_sample")
    unused = prepare(Task(net(), TRAIN), TrainOptions(device="cpu", synthetic_share=0.5))
    assert any("there is no --synthetic" in text for _, text in unused.notes)


def test_steps_of_the_users_own_and_what_declines(tmp_path):
    step = lambda model, batch: F.cross_entropy(model(batch[0]), batch[1])
    run = fit(net(), TRAIN, VALID, folder=tmp_path, write=quiet, **flags(epochs=1, training_step=step))
    assert run.state == "finished"
    run = fit(net(), TRAIN, VALID, folder=tmp_path, write=quiet, **flags(epochs=1))
    with pytest.raises(Exception, match="adds samples of a generator"):
        run.eject()
    assert "synthetic adds samples" in can_batch(Task(net(), TRAIN), TrainOptions(**flags()), ["lr"])
