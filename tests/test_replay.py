"Steps that are recorded once and replayed: the same weights to the last bit, or a sentence that says why not"

import random

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from trainopt_nb import Task, TrainOptions
from trainopt_nb.api.fit import fit, resume
from trainopt_nb.events.records import Note, Step
from trainopt_nb.train.loop import Loop, train
from trainopt_nb.train.prepare import prepare
from trainopt_nb.train.replay_stepper import same_bits

BATCH = 16


def data(*shape, samples=90, classes=3):
    draw = torch.Generator().manual_seed(0)
    return torch.randn(samples, *shape, generator=draw), torch.randint(0, classes, (samples,), generator=draw)


def mlp():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


def cnn(channels=4):
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(4 * channels, 3),
    )  # fmt: skip


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True)
        self.layers, self.last = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.layers(x).mean(1))


class Recurrent(nn.Module):
    def __init__(self, kind=nn.LSTM):
        super().__init__()
        self.cells, self.last = kind(4, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.cells(x)[0][:, -1])


class Texts(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.last = nn.Embedding(20, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.table((x.abs() * 5).long().clamp(max=19)).mean(1))


def trained(make, samples, replay, epochs=4, **options):
    "The model, the losses of the steps, the notes about replay, and the stepper"
    torch.manual_seed(0)
    model = make()
    chosen = TrainOptions(
        **{
            "epochs": epochs,
            "batch_size": BATCH,
            "replay": replay,
            "device": "cpu",
            "doctor": False,
            "threads": 1,
            "lr": 0.01,
        }
        | options
    )
    torch.manual_seed(1)
    random.seed(1)
    loop = Loop(prepare(Task(model, samples, samples), chosen), chosen)
    events = [*loop.events()]
    notes = [str(e.text) for e in events if type(e) is Note and e.topic == "replay"]
    return model, [e.loss for e in events if type(e) is Step], notes, loop.state.stepper


def assert_same(make, samples, **options):
    usual, losses, _, _ = trained(make, samples, False, **options)
    model, again, notes, stepper = trained(make, samples, True, **options)
    assert losses == again
    for (name, a), b in zip(usual.state_dict().items(), model.state_dict().values(), strict=True):
        assert same_bits(a, b), name
    return notes, stepper


@pytest.mark.parametrize(
    "make, shape, options",
    [
        (mlp, (4,), {}),
        (mlp, (4,), {"clip": 0.5, "ema": 0.9, "schedule": "cosine", "l1": 1e-3}),
        (mlp, (4,), {"accumulate": 2, "optimizer": "momentum", "clip_value": 0.1}),
        (mlp, (4,), {"optimizer": "rmsprop", "precision": "bf16"}),
        (mlp, (4,), {"optimizer": "sgd", "doctor": True}),
        (cnn, (1, 4, 4), {"label_smoothing": 0.1}),
        (cnn, (1, 4, 4), {"channels_last": True, "optimizer": "adam"}),
        (lambda: cnn(16), (1, 4, 4), {"augment": "crop flip"}),
        (Encoder, (4, 8), {"clip": 1.0}),
        (Recurrent, (5, 4), {}),
        (lambda: Recurrent(nn.GRU), (5, 4), {}),
        (Texts, (6,), {}),
    ],
)
def test_the_weights_are_the_same_to_the_last_bit(make, shape, options):
    notes, stepper = assert_same(make, data(*shape), **options)
    assert stepper.replays >= 4 // options.get("accumulate", 1)
    assert len(notes) == 1 and "replayed" in notes[0]


def test_what_is_frozen_for_a_time_is_recorded_anew():
    _, stepper = assert_same(mlp, data(4, samples=160), freeze=("0",), unfreeze=2, epochs=5)
    assert len(stepper.recorded[0].params) == 4


class Reads(nn.Linear):
    def forward(self, x):
        return super().forward(x) * (2 if x.sum() > 0 else 1)


class Outside(nn.Linear):
    def forward(self, x):
        return super().forward(x) * float(x.detach().numpy().max())


class Draws(nn.Linear):
    def forward(self, x):
        return super().forward(x) * random.random()


class Counts(nn.Linear):
    steps = 0

    def forward(self, x):
        self.steps += self.training
        return super().forward(x) * (1 + self.steps)


class Mean(nn.Linear):
    "Keeps a mean in a tensor that is no buffer"

    def __init__(self):
        super().__init__(4, 3)
        self.means = {"x": torch.zeros(4)}

    def forward(self, x):
        self.means["x"].mul_(0.9).add_(x.mean(0), alpha=0.1)
        return super().forward(x - self.means["x"])


class Hot(nn.Linear):
    def forward(self, x):
        return super().forward(x) + nn.functional.one_hot((x[:, 0] > 0).long(), 3)


class Drawn(nn.Linear):
    def forward(self, x):
        return super().forward(x) + torch.distributions.Normal(x[:, :3], 1.0, validate_args=True).rsample()


class Again(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(checkpoint(self.first, x.requires_grad_(), use_reentrant=True))


class Hidden(nn.Linear):
    "Counts where no attribute of a module shows it"

    def __init__(self):
        super().__init__(4, 3)
        self.state = {"steps": 0}

    def forward(self, x):
        self.state["steps"] += self.training
        return super().forward(x) * (1 + self.state["steps"])


class Keeps(nn.Linear):
    def forward(self, x):
        last, self.last = getattr(self, "last", 0.0), x.detach().mean()
        return super().forward(x) + last


class Writes(nn.Linear):
    def forward(self, x):
        self.weight.data.clamp_(-0.4, 0.4)
        return super().forward(x)


def hooked():
    model = mlp()
    model[0].register_forward_hook(lambda *_: None)
    return model


class Sparse(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(20, 3, sparse=True)

    def forward(self, x):
        return self.table((x.abs() * 5).long().clamp(max=19)).mean(1)


def by_parts(scores, targets):
    return {"first": nn.functional.cross_entropy(scores, targets), "second": scores.pow(2).mean()}


@pytest.mark.parametrize(
    "make, options, reason",
    [
        (lambda: Reads(4, 3), {}, "reads values (in forward, line "),
        (lambda: Outside(4, 3), {}, "outside of PyTorch (Tensor.numpy)"),
        (lambda: Draws(4, 3), {}, "random numbers of Python"),
        (lambda: Counts(4, 3), {}, "changes Counts.steps"),
        (Hidden, {}, "gave another loss"),
        (lambda: Keeps(4, 3), {}, "changes Keeps.last"),
        (lambda: Writes(4, 3), {}, "no buffer (weight)"),
        (Mean, {}, "no buffer (means)"),
        (lambda: Hot(4, 3), {}, "F.one_hot looks at"),
        (lambda: Drawn(4, 3), {}, "validate_args=False"),
        (Again, {}, "use_reentrant=False"),
        (hooked, {}, "0 has hooks"),
        (Sparse, {"optimizer": "sgd"}, "gives sparse tensors (aten::"),
        (mlp, {"loss": by_parts}, "the loss is a dict"),
        (mlp, {"loss": lambda s, t: nn.functional.cross_entropy(s[t > 0], t[t > 0])}, "indexing by a mask"),
    ],
)
def test_refused_with_one_sentence_and_trained_the_usual_way(make, options, reason):
    notes, stepper = assert_same(make, data(4), **options)
    assert stepper.replays == 0
    assert len(notes) == 1 and reason in notes[0] and notes[0].startswith("Steps run the usual way"), notes


def test_code_that_changes_what_is_computed_later_is_found_and_said():
    factor = [1.0]
    loss = lambda scores, targets: nn.functional.cross_entropy(scores, targets) * factor[0]
    torch.manual_seed(0)
    options = TrainOptions(epochs=8, batch_size=BATCH, replay=True, device="cpu", loss=loss)
    notes = []
    for event in train(Task(mlp(), data(4)), options):
        if type(event) is Step and event.step == 20:
            factor[0] = 2.0
        elif type(event) is Note and event.topic == "replay":
            notes.append(str(event.text))
    assert len(notes) == 2 and "Train again without --replay" in notes[1]


def test_many_shapes_run_the_usual_way():
    draw = torch.Generator().manual_seed(0)
    batches = [
        (torch.randn(4, 2 + n % 6, 8, generator=draw), torch.randint(0, 3, (4,), generator=draw))
        for n in range(36)
    ]
    notes, stepper = assert_same(Encoder, batches, epochs=1)
    assert len(stepper.recorded) == 4 and any("more than 4 shapes" in note for note in notes)


class Noisy(nn.Linear):
    def __init__(self):
        super().__init__(4, 3)
        self.draw = torch.Generator().manual_seed(3)

    def forward(self, x):
        return super().forward(x + torch.randn(x.shape, generator=self.draw) * self.training)


def test_a_generator_of_the_models_own_is_left_alone():
    notes, stepper = assert_same(Noisy, data(4))
    assert not stepper.replays and "torch.Generator" in notes[0]


def test_what_a_kernel_writes_with_out_is_repeated():
    _, stepper = assert_same(
        lambda: nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3))), data(4)
    )
    assert stepper.replays > 5


def test_a_loss_that_is_not_finite_is_skipped_as_usual():
    x, y = data(4)
    x[70, 0] = torch.nan
    _, stepper = assert_same(mlp, (x, y), on_nonfinite="skip", epochs=6)
    assert stepper.replays > 5


def test_a_wrong_label_in_a_replayed_step_is_explained():
    x, y = data(4)
    model = mlp()
    options = TrainOptions(batch_size=BATCH, replay=True, device="cpu")
    prepared = prepare(Task(model, (x, y)), options)
    stepper = Loop(prepared, options).state.stepper
    batches = [(x[:16], y[:16])] * 5
    for batch in batches:
        stepper([batch])
    assert stepper.replays
    with pytest.raises(Exception, match="7"):
        stepper([(x[:16], torch.full((16,), 7))])


def test_other_devices_and_compiled_models_are_refused_before_the_first_step():
    from trainopt_nb.train.recordable import why_not

    options = TrainOptions(device="cpu", replay=True)
    prepared = prepare(Task(mlp(), data(4)), options)
    optimizer = Loop(prepared, options).state.optimizer
    assert why_not(prepared, options, optimizer) is None
    assert "torch.compile" in str(why_not(prepared, options.replace(compile=True), optimizer))
    prepared.device = torch.device("meta")
    assert "this run is on meta" in str(why_not(prepared, options, optimizer))


def test_stopped_and_resumed_gives_the_same(tmp_path):
    ends = []
    for replay, stop in ((False, None), (True, 11)):
        torch.manual_seed(0)
        model, options = (
            mlp(),
            {"epochs": 5, "batch_size": BATCH, "replay": replay, "device": "cpu", "threads": 1},
        )
        run = fit(model, data(4), folder=tmp_path, write=lambda *_: None, max_steps=stop, **options)
        if stop:
            torch.manual_seed(0)
            model = mlp()
            run = resume(run, model, data(4), write=lambda *_: None, max_steps=None)
        ends.append(model.state_dict())
    assert all(same_bits(a, b) for a, b in zip(*(end.values() for end in ends), strict=True))
