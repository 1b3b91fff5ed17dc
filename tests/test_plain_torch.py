"Nothing is done unasked that breaks what plain PyTorch does: sparse and complex parameters, wrapped and lazy models, odd data"

import functools

import pytest
import torch
from helpers import follow, quiet, small_table
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from trainopt_nb import Task, TrainOptions, find_lr, fit
from trainopt_nb.base.errors import DataError, OptionError, TaskError
from trainopt_nb.base.flags import parse_flags, split
from trainopt_nb.events.progress import Progress
from trainopt_nb.events.records import Note, Started, State, Step
from trainopt_nb.events.step_lines import StepLines
from trainopt_nb.store.checkpoint import load_checkpoint
from trainopt_nb.train.loop import train

X, Y, TRAIN, VALID = small_table()
WORDS = torch.randint(0, 50, (200, 6), generator=torch.Generator().manual_seed(0))
LABELS = WORDS.sum(1) % 3


def options(**more):
    return TrainOptions.of(
        **{"epochs": 2, "batch_size": 50, "shuffle": False, "device": "cpu", "lr": 0.1, **more}
    )


class Bag(nn.Module):
    def __init__(self, sparse=True):
        super().__init__()
        torch.manual_seed(1)
        self.words, self.head = nn.EmbeddingBag(50, 8, sparse=sparse), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.words(x))


class Functional(Bag):
    "Sparse gradients that no attribute tells of"

    def __init__(self):
        super().__init__(sparse=False)

    def forward(self, x):
        return self.head(F.embedding(x, self.words.weight, sparse=True).mean(1))


def run(model, data=(WORDS, LABELS), folder=None, **more):
    "Train; returns the model"
    follow(train(Task(model, data), options(**more), folder))
    return model


def by_hand(model, make, data=(WORDS, LABELS), epochs=2):
    optimizer = make(model.parameters())
    for _ in range(epochs):
        for x, y in zip(data[0].split(50), data[1].split(50), strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model


def assert_near(model, other, tolerance=1e-6):
    for name, value in model.state_dict().items():
        assert torch.allclose(value, other.state_dict()[name], rtol=0, atol=tolerance), name


# --- sparse gradients


@pytest.mark.parametrize("net", [Bag, Functional])
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("sgd", lambda p: torch.optim.SGD(p, 0.1)),
        ("momentum", lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
        ("adagrad", lambda p: torch.optim.Adagrad(p, 0.1)),
    ],
)
def test_sparse_gradients(net, name, make):
    assert_near(run(net(), optimizer=name, weight_decay=0), by_hand(net(), make))


@pytest.mark.parametrize(
    "more",
    [{"clip": 0.1}, {"clip_value": 0.001}, {"accumulate": 2}, {"ema": 0.9}, {"clip": 0.1, "accumulate": 4}],
    ids=str,
)
def test_sparse_gradients_give_what_dense_ones_give(more):
    assert_near(
        run(Bag(), optimizer="sgd", weight_decay=0, **more),
        run(Bag(False), optimizer="sgd", weight_decay=0, **more),
    )


def test_weight_decay_spares_sparse_tables():
    "They are spared whatever the weight decay, since its default is not 0"
    groups = lambda p: torch.optim.SGD(
        [{"params": [p[1]], "weight_decay": 0.01}, {"params": [p[0], p[2]]}], 0.1
    )
    assert_near(run(Bag(), optimizer="sgd"), by_hand(Bag(), lambda p: groups(list(p))))


def test_sparse_adam():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(1)
            self.words = nn.Embedding(50, 3, sparse=True)

        def forward(self, x):
            return self.words(x).mean(1)

    made = run(Table(), optimizer="sparseadam", lr_for="words=0.5x")
    assert_near(made, by_hand(Table(), lambda p: torch.optim.SparseAdam(p, 0.05)))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"optimizer": "adamw"}, "AdamW takes no sparse gradients, and the layer words"),
        ({"optimizer": "sgd", "decay_all": True}, "--decay-all changes each row"),
    ],
)
def test_what_takes_no_sparse_gradients_says_so(more, said):
    with pytest.raises(OptionError, match=said):
        run(Bag(), **more)
    with pytest.raises(OptionError, match="--weight-decay 0"):
        run(Functional(), optimizer="sgd")


# --- complex parameters


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.wave, self.head = nn.Linear(6, 8, dtype=torch.complex64), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.wave(x.to(torch.complex64)).abs())


@pytest.mark.parametrize(("name", "make"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam)])
def test_complex_parameters(name, make):
    data = X[:200], Y[:200]
    made = run(Complex(), data, optimizer=name, weight_decay=0, lr=0.01)
    assert_near(made, by_hand(Complex(), lambda p: make(p, 0.01), data))


def test_complex_weights_are_averaged_too():
    data, average = (X[:200], Y[:200]), None
    model = run(Complex(), data, optimizer="sgd", weight_decay=0, ema=0.5, epochs=1)
    other, step = Complex(), 0
    optimizer = torch.optim.SGD(other.parameters(), 0.1)
    average = {name: p.detach().clone() for name, p in other.named_parameters()}
    for x, y in zip(data[0].split(50), data[1].split(50), strict=True):
        optimizer.zero_grad()
        F.cross_entropy(other(x), y).backward()
        optimizer.step()
        step += 1
        decay = min(0.5, (1 + step) / (10 + step))
        for name, p in other.named_parameters():
            average[name] = decay * average[name] + (1 - decay) * p.detach()
    for name, p in model.named_parameters():
        assert torch.allclose(p, average[name], atol=1e-6), name


def test_clipping_by_value_needs_real_numbers():
    with pytest.raises(OptionError, match=r"wave\.weight is complex: use --clip"):
        run(Complex(), (X[:200], Y[:200]), optimizer="sgd", clip_value=1.0)


# --- wrapped models


def small():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def half_compiled():
    model = small()
    model[0] = torch.compile(model[0], backend="eager")
    return model


WRAPPED = {
    "compiled": lambda: torch.compile(small(), backend="eager"),
    "a compiled layer": half_compiled,
    "data parallel": lambda: nn.DataParallel(small()),
    "both": lambda: torch.compile(nn.DataParallel(small()), backend="eager"),
}


@pytest.mark.parametrize("wrap", WRAPPED)
def test_the_plain_model_loads_what_a_wrapped_one_saved(wrap, tmp_path):
    model = run(WRAPPED[wrap](), TRAIN, tmp_path, lr_for="3=0.1x", freeze="0", ema=0.9)
    _, state, training, _ = load_checkpoint(tmp_path / "checkpoints")
    plain = small()
    plain.load_state_dict(state)
    values = dict(zip(plain.state_dict(), model.state_dict().values(), strict=True))
    assert all(torch.equal(value, values[name]) for name, value in plain.state_dict().items())
    again = WRAPPED[wrap]()
    how = options(epochs=3, lr_for="3=0.1x", freeze="0", ema=0.9)
    events = follow(train(Task(again, TRAIN), how, tmp_path, checkpoint=(state, training)))
    assert events[-1].state == "finished" and events[-1].epoch == 3


class Counting(nn.Linear):
    "Keeps what is no tensor"

    calls = 0

    def forward(self, x):
        self.calls += self.training
        return super().forward(x)

    def get_extra_state(self):
        return {"calls": self.calls}

    def set_extra_state(self, state):
        self.calls = state["calls"]


def test_extra_state_is_kept(tmp_path):
    data = X[:200], Y[:200]
    model = run(Counting(6, 3), data, tmp_path, epochs=1)
    assert model.calls == 4
    _, *checkpoint, _ = load_checkpoint(tmp_path / "checkpoints")
    again = Counting(6, 3)
    follow(train(Task(again, data), options(epochs=2), tmp_path, checkpoint=tuple(checkpoint)))
    assert again.calls == 8


def test_lazy_modules():
    lazy = lambda: nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(3))
    assert "learning rate" in repr(find_lr(Task(lazy(), TRAIN), options(), steps=40))
    model = run(lazy(), TRAIN, freeze="1", lr_for="0=0.1x")
    assert model[0].in_features == 6


def test_a_batch_of_one_from_a_sampler():
    x, y = X[:129], Y[:129]
    loader = DataLoader(TensorDataset(x, y), 64, sampler=WeightedRandomSampler(torch.ones(129), 129))
    events = follow(train(Task(small(), loader), options()))
    assert events[-1].state == "finished"
    assert any("holds one sample" in e.text for e in events if type(e) is Note)


# --- a loss on another device


class Weighted(nn.Module):
    def __init__(self, device):
        super().__init__()
        self.scale = torch.ones(3, device=device)

    def forward(self, scores, targets):
        if self.scale.device != scores.device:  # as a GPU says it; the meta device lets some operations pass
            raise RuntimeError("Expected all tensors to be on the same device")
        return F.cross_entropy(scores * self.scale, targets)


def closure(device):
    scaled = Weighted(device)
    return lambda scores, targets: scaled(scores, targets)


LOSSES = {
    "weight": lambda device: nn.CrossEntropyLoss(torch.ones(3, device=device)),
    " weight": lambda device: functools.partial(F.cross_entropy, weight=torch.ones(3, device=device)),
    "scale": Weighted,
    " scale": closure,
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_on_another_device_is_named(name):
    with pytest.raises(TaskError, match=f"holds {name.strip()} on meta, and the model trains on cpu"):
        run(small(), TRAIN, loss=LOSSES[name]("meta"))
    run(small(), TRAIN, loss=LOSSES[name]("cpu"), epochs=1)


def test_a_loss_that_moves_its_tensors_is_left_alone():
    elsewhere = torch.ones(3, device="meta")
    run(
        small(),
        TRAIN,
        loss=lambda s, t: F.cross_entropy(s, t, torch.ones_like(elsewhere, device=s.device)),
        epochs=1,
    )


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_on_the_cpu_is_named_on_a_gpu(name):
    if name == "weight":  # a module is moved with the model
        run(small(), TRAIN, loss=LOSSES[name]("cpu"), device="cuda")
    else:
        with pytest.raises(TaskError, match=f"holds {name.strip()} on cpu, and the model trains on cuda"):
            run(small(), TRAIN, loss=LOSSES[name]("cpu"), device="cuda")
    run(small(), TRAIN, loss=LOSSES[name]("cuda"), device="cuda")


# --- what is answered with the way out


def test_a_switch_takes_a_word():
    read = lambda line: parse_flags(split(line), TrainOptions)
    assert read("--shuffle off --compile on") == ({"shuffle": False, "compile": True}, [])
    assert read("--shuffle net") == ({"shuffle": True}, ["net"])
    with pytest.raises(OptionError, match="use --shuffle off"):
        read("--no-shuffle off")
    assert read("--freeze a --freeze b,c")[0] == {"freeze": ("a", "b", "c")}


def test_an_optimizer_that_was_made_is_answered_with_its_factory(tmp_path):
    made = torch.optim.Adam(small().parameters(), lr=0.02, betas=(0.8, 0.99))
    with pytest.raises(OptionError) as error:
        fit(small(), TRAIN, optimizer=made, folder=tmp_path)
    code = str(error.value).partition("pass optimizer=")[2].rstrip(".")
    again = eval(code, {"torch": torch})(small().parameters())
    assert again.param_groups[0]["lr"] == 0.02 and again.param_groups[0]["betas"] == (0.8, 0.99)


def test_sparse_inputs_are_answered_with_the_dense_form():
    scipy = pytest.importorskip("scipy.sparse")
    table = scipy.csr_matrix(X[:200].numpy())
    for wrong, way in (
        ((table, Y[:200]), r"\.toarray\(\)"),
        ({"x": X[:200].to_sparse(), "y": Y[:200]}, r"\.to_dense\(\)"),
        (((X[:200], X[:200].to_sparse_csr()), Y[:200]), r"\.to_dense\(\)"),
    ):
        for more in ({}, {"valid_fraction": 0.2}):
            with pytest.raises(DataError, match=way):
                run(small(), wrong, **more)


class Named(nn.Module):
    "Takes its input by name"

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        return self.layer(x)


def test_a_target_column_called_class():
    model = Named()
    before = model.layer.weight.clone()
    run(model, {"x": X[:200], "class": Y[:200]})
    assert not torch.equal(before, model.layer.weight)


# --- progress within a long epoch


def test_lines_come_at_growing_distances_and_none_in_short_epochs():
    started = Started("run", 0, 0, 2, 1000, 2000, "cpu", "fp32", 1, 64_000, 9, "accuracy", "max", 0.0)
    progress, now = Progress("run").add([started]), 0.0
    lines, said = StepLines(clock=lambda: now), []
    for step in range(1, 1001):
        now = step * 0.5
        progress.add([Step(step, 0, 1.0, 0.1, 64, now, 0.0)])
        if line := lines.due(progress):
            said.append((now, line))
    assert [when for when, _ in said] == [10, 30, 70, 150, 310]
    assert said[0][1] == "epoch 1/2  step 20/2000  train loss 1  128 samples/s  16 min 30 s left"
    progress.add([State("validating", 1000)])
    now += 1000
    assert lines.due(progress) == "epoch 1/2  step 1000/2000  validating"
    short = StepLines(clock=lambda: now)
    for _ in range(100):
        now += 9
        assert not short.due(progress)
        short.printed()  # a line of an epoch


def test_a_long_epoch_shows_that_it_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(StepLines.__init__, "__defaults__", (0.0, 600.0, StepLines.__init__.__defaults__[2]))
    said = []
    fit(small(), TRAIN, epochs=1, threads=1, folder=tmp_path, write=said.append)
    assert any("  step " in line for line in said)
    fit(small(), TRAIN, epochs=1, threads=1, folder=tmp_path, write=quiet)
