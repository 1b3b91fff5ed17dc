"Many trials as one program: each becomes what it becomes alone, to the last digits, and what cannot be trained so is refused with a reason"

import random
from copy import deepcopy

import numpy as np
import pytest
import torch
from helpers import some_quick
from torch import nn
from torch.nn import functional as F

from trainopt_nb import Task, TrainOptions
from trainopt_nb.events.records import Ended, Epoch, Step, Stop
from trainopt_nb.population import chunks, plan
from trainopt_nb.population.can_batch import batch_layout, can_batch, find_layout
from trainopt_nb.population.cuda_graphs import make_replay
from trainopt_nb.population.fold import Unbatchable
from trainopt_nb.population.plan import plan_batch
from trainopt_nb.population.population import Population
from trainopt_nb.population.train_trials import Drop, prepare_trials, train_trials, trial_options
from trainopt_nb.population.trial_batches import epoch_batches
from trainopt_nb.train.loop import train
from trainopt_nb.train.record import Recorder

G = torch.Generator().manual_seed(0)
X, V = torch.randn(200, 6, generator=G), torch.randn(60, 6, generator=G)


def classes(x):
    return (x.sum(1) > 0).long() + (x[:, 0] > 1).long()


def seeded(build, dtype=torch.float64):
    torch.manual_seed(0)
    return build().to(dtype)


def mlp():
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))


def plain_mlp():
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))


def task_of(build=mlp, dtype=torch.float64, valid=True):
    return Task(seeded(build, dtype), (X, classes(X)), (V, classes(V)) if valid else None)


def alone(task, options, **more):
    "The events of the engine, and the model"
    model = deepcopy(task.model)
    return [*train(Task(model, task.train_data, task.valid_data), options, **more)], model


def step_losses(task, options, trials, layout="batch", chunk=3):
    "The loss of every update of every trial, trained together, and their weights"
    prepared, made, losses = prepare_trials(task, options), trial_options(options, trials), []
    population = Population(prepared, made, layout=layout, chunk=chunk)
    for epoch in range(options.epochs):
        for batch, own in epoch_batches(population, epoch):
            losses.append(population.step(batch, own))
        for state in population.states:
            state.end_epoch()
    return losses, [population.weights(k) for k in range(len(trials))]


def together(task, options, trials, commands=(), **how):
    "All figures of trials that are trained together, and what they left"
    commands, told, command = dict(commands), [], None
    training = train_trials(task, options, trials, **how)
    while True:
        try:
            told.append(training.send(command))
        except StopIteration as done:
            return told, done.value
        command = commands.pop(told[-1].step, None)


def assert_as_alone(task, options, trials, layout="batch", within=1e-8, least=1):
    losses, weights = step_losses(task, options, trials, layout)
    assert len(losses) >= least
    for k, values in enumerate(trials):
        events, model = alone(task, options.replace(**values))
        single = [e.loss for e in events if isinstance(e, Step)]
        assert max(abs(step[k] - loss) for step, loss in zip(losses, single, strict=True)) < within
        for name, value in model.state_dict().items():
            assert torch.allclose(value.double(), weights[k][name].double(), rtol=1e-5, atol=1e-6), name


# --- numbers that differ

TRIALS = [
    {"lr": 1e-3},
    {"lr": 1e-2, "dropout": 0.1, "label_smoothing": 0.1},
    {"schedule": "cosine", "clip": 0.5, "ema": 0.9},
    {"optimizer": "nesterov", "lr": 0.1, "warmup": 0.2, "weight_decay": 0.1},
    {"seed": 3, "clip_value": 0.01},
    {"optimizer": "rmsprop", "l1": 1e-3},
    {
        "dropout": 0.0,
        "schedule": "plateau",
        "optimizer": lambda ps: torch.optim.Adam(ps, 0.01, betas=(0.5, 0.9), fused=True),
    },
    {"optimizer": "momentum", "momentum": 0.5, "lr_for": ("4.*=0.1x",), "schedule": "onecycle"},
]


def test_trials_that_differ_in_everything_lose_what_they_lose_alone():
    options = TrainOptions(epochs=15, batch_size=32, lr=0.01, restore_best=False)
    assert_as_alone(task_of(valid=False), options, TRIALS, least=100)


def test_epochs_metrics_best_weights_and_ends_are_those_of_a_run():
    options = TrainOptions(epochs=4, batch_size=32, lr=0.03)
    trials = [
        {"lr": 0.1},
        {"ema": 0.8, "dropout": 0.2},
        {"epochs": 2},
        {"patience": 1, "lr": 1e-12},
        {"max_steps": 17},
    ]
    task = task_of()
    told, ends = together(task, options, trials, chunk=2)
    for k, values in enumerate(trials):
        events, model = alone(task, options.replace(**values))
        mine = [figures.epochs[k] for figures in told if k in figures.epochs]
        rows = [e for e in events if isinstance(e, Epoch)]
        for a, b in zip(rows, mine, strict=True):
            assert (a.epoch, a.step, a.lr, a.best, a.metrics) == (b.epoch, b.step, b.lr, b.best, b.metrics)
            assert abs(a.train_loss - b.train_loss) < 1e-9 and abs(a.valid_loss - b.valid_loss) < 1e-6
        ended = next(e for e in events if isinstance(e, Ended))
        assert (ends[k].state, ends[k].reason, ends[k].step) == (ended.state, ended.reason, ended.step)
        assert all(torch.allclose(v, ends[k].weights[n], atol=1e-7) for n, v in model.state_dict().items())


def test_trials_of_one_other_seed_have_the_order_of_that_seed():
    assert_as_alone(
        task_of(valid=False), TrainOptions(epochs=2, batch_size=64), [{"seed": 4}, {"seed": 4, "lr": 0.01}]
    )


PICTURES = torch.rand(96, 3, 8, 8, generator=G)


@pytest.mark.parametrize("policy", ["crop flip color:0.3", "rotate noise mixup cutmix"])
def test_trials_with_augmentation_see_what_they_see_alone(policy):
    "Each by the draws of its seed, in each epoch and batch"
    build = lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    task = Task(seeded(build), (PICTURES, (PICTURES.mean((1, 2, 3)) * 300).long() % 3))
    options = TrainOptions(epochs=3, batch_size=40, augment=policy, device="cpu")
    trials = [{"lr": 0.1}, {"lr": 0.01}, {"seed": 3}, {"seed": 5, "optimizer": "sgd"}]
    assert can_batch(task, options, ["lr", "seed"]) == ""
    assert_as_alone(task, options, trials, layout="channel", least=9)
    assert_as_alone(task, options, trials[:2], layout="channel", least=9)  # they share their batches
    said = can_batch(task, options, ["lr", "augment_strength"])
    assert said.startswith("trials differ in augment_strength")


def test_frozen_parts_stay_and_their_statistics_too():
    options = TrainOptions(epochs=3, batch_size=32, freeze=("0.*", "1.*"))
    assert_as_alone(task_of(valid=False), options, [{"lr": 0.1}, {"lr": 0.01}])


# --- layers


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.place = nn.Linear(1, 8), nn.Parameter(torch.randn(6, 8) * 0.02)
        layer = nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True)
        self.layers, self.last = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.layers(self.first(x.unsqueeze(2)) + self.place).mean(1))


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.table = nn.Embedding(9, 5, padding_idx=4)
        self.layer, self.last = (
            kind(5, 7, 2, batch_first=True, dropout=0.2, bidirectional=True),
            nn.Linear(14, 3),
        )

    def forward(self, x):
        return self.last(self.layer(self.table(x.clamp(-4, 4).long() + 4))[0][:, -1])


def images(norm):
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 3, padding=1), norm(), nn.ReLU(), nn.Dropout2d(0.2),
        nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=False), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(6, 3),
    )  # fmt: skip


LAYERS = {
    "batch norm": lambda: images(lambda: nn.BatchNorm2d(4)),
    "group norm": lambda: images(lambda: nn.GroupNorm(2, 4)),
    "conv1d": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 3)),
        nn.Conv1d(2, 4, 3, padding=1),
        nn.BatchNorm1d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12, 3),
    ),
    "layer norm": lambda: nn.Sequential(
        nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Dropout(0.5), nn.Linear(8, 3)
    ),
    "encoder": Encoder,
    "lstm": lambda: Recurrent(nn.LSTM),
    "gru": lambda: Recurrent(nn.GRU),
    "rnn": lambda: Recurrent(nn.RNN),
}


@pytest.mark.parametrize("name", some_quick(LAYERS, "batch norm", "layer norm", "encoder", "rnn"))
def test_layers_with_weights_are_trained_as_alone(name):
    task, options = task_of(LAYERS[name], valid=False), TrainOptions(epochs=2, batch_size=40, lr=0.01)
    trials = [{"lr": 0.03}, {"dropout": 0.4, "lr": 0.003}, {"seed": 5}]
    layout, why = find_layout(task, options, trials)
    assert why == ""
    assert_as_alone(task, options, trials, layout)


@pytest.mark.parametrize(
    "name, layout",
    [("batch norm", "channel"), ("encoder", "batch"), ("lstm", "batch"), ("conv1d", "channel")],
)
def test_layers_are_evaluated_as_alone(name, layout):
    task, options, trials = (
        task_of(LAYERS[name]),
        TrainOptions(epochs=2, batch_size=40),
        [{"lr": 0.03}, {"ema": 0.5, "lr": 0.01}],
    )
    told, _ = together(task, options, trials, layout=layout)
    for k, values in enumerate(trials):
        rows = [e for e in alone(task, options.replace(**values))[0] if isinstance(e, Epoch)]
        for a, b in zip(rows, [f.epochs[k] for f in told if f.epochs], strict=True):
            assert abs(a.valid_loss - b.valid_loss) < 1e-6 and a.metrics == b.metrics


def weighted(scores, targets):
    return (F.cross_entropy(scores, targets, reduction="none") * (1 + targets)).mean()


@pytest.mark.parametrize(
    "targets, columns, values",
    [
        (X[:, :1] * 2, 1, {"loss": "huber", "huber_delta": 0.5}),
        ((X[:, 0] > 0).float(), 1, {}),
        ((X[:, :3] > 0).float(), 3, {"class_weights": "balanced"}),
        (classes(X), 3, {"loss": "focal", "focal_gamma": 1.0}),
        (classes(X), 3, {"class_weights": "balanced", "label_smoothing": 0.1}),
        (classes(X), 3, {"loss": weighted}),
        (torch.where(X[:, 1] > 0, classes(X), -100), 3, {}),
    ],
    ids=["regression", "binary", "multilabel", "focal", "balanced", "own", "ignored labels"],
)
def test_every_loss_is_the_engine_s_own(targets, columns, values):
    single = values.get("class_weights") == "balanced"  # weights of classes are in single precision
    model = seeded(
        lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, columns)),
        torch.float32 if single else torch.float64,
    )
    task, options = (
        Task(model, (X, targets), (X[:50], targets[:50])),
        TrainOptions(epochs=2, batch_size=64, **values),
    )
    trials = [{"lr": 0.1}, {"lr": 0.01, "seed": 1}]
    told, _ = together(task, options, trials)
    for k, each in enumerate(trials):
        rows = [e for e in alone(task, options.replace(**each))[0] if isinstance(e, Epoch)]
        for a, b in zip(rows, [f.epochs[k] for f in told if k in f.epochs], strict=True):
            assert abs(a.train_loss - b.train_loss) < (1e-5 if single else 1e-9)
            assert abs(a.valid_loss - b.valid_loss) < 1e-5 and a.metrics == pytest.approx(b.metrics, abs=1e-4)


# --- single precision


def test_single_precision_of_a_perceptron_stays_within_1e_5():
    options = TrainOptions(epochs=15, batch_size=32, restore_best=False)
    trials = [{"lr": 1e-3}, {"lr": 1e-2, "weight_decay": 0.1}, {"optimizer": "momentum", "lr": 0.05}]
    task = task_of(plain_mlp, torch.float32, valid=False)
    assert_as_alone(task, options, trials, within=1e-5, least=100)


def test_single_precision_of_a_convolution_stays_within_its_own_floor():
    "The floor is what the same trial alone shows when the samples of each batch are reversed"
    build = lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)),
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24, 3),
    )
    x = X[:192]
    turned = x.view(6, 32, 6).flip(1).reshape(192, 6)
    options = TrainOptions(epochs=17, batch_size=32, shuffle=False, restore_best=False, lr=0.01)
    trials = [{"lr": 0.01}, {"lr": 0.02}]
    task, other = (Task(seeded(build, torch.float32), (v, classes(v))) for v in (x, turned))
    losses, _ = step_losses(task, options, trials, "channel")
    for k, values in enumerate(trials):
        a, b = (
            [e.loss for e in alone(t, options.replace(**values))[0] if isinstance(e, Step)]
            for t in (task, other)
        )
        floor = max(abs(one - two) for one, two in zip(a, b, strict=True))
        assert max(abs(step[k] - loss) for step, loss in zip(losses, a, strict=True)) < max(4 * floor, 1e-6)


# --- dropping, stopping, failing


def test_dropped_trials_leave_the_others_as_they_are_and_go_on_from_their_checkpoints():
    options = TrainOptions(epochs=4, batch_size=32, lr=0.01)
    trials = [{"lr": 10 ** -(k / 3 + 1), "dropout": 0.1 * k, "seed": k % 2} for k in range(7)]
    task = task_of()
    commands = {7: Drop((0, 4)), 14: Drop((6, 1, 2)), 17: Drop((5,), "enough")}
    told, ends = together(task, options, trials, commands, chunk=2, every=1)
    assert [ends[k].state for k in range(7)] == [
        "dropped",
        "dropped",
        "dropped",
        "finished",
        "dropped",
        "dropped",
        "dropped",
    ]
    assert ends[5].reason == "enough" and (ends[0].step, ends[6].step, ends[5].step) == (7, 14, 17)
    for k in range(7):
        wanted = [e for e in alone(task, options.replace(**trials[k]))[0] if isinstance(e, Epoch)]
        mine = [f.epochs[k] for f in told if k in f.epochs]
        if ends[k].state == "dropped":
            mine += [
                e
                for e in alone(task, options.replace(**trials[k]), checkpoint=ends[k].checkpoint)[0]
                if isinstance(e, Epoch)
            ]
        assert [e.train_loss for e in mine] == pytest.approx([e.train_loss for e in wanted], abs=1e-9)
        assert [e.metrics for e in mine] == [e.metrics for e in wanted]


def test_trials_that_ran_out_of_steps_go_on_within_the_epoch():
    options, task = TrainOptions(epochs=4, batch_size=32, lr=0.01, patience=3), task_of()
    trials = [{"max_steps": steps, "dropout": 0.1, "ema": 0.8} for steps in (3, 8, 13)]  # of eight an epoch
    _, ends = together(task, options, trials, chunk=2)
    for k, values in enumerate(trials):
        more = options.replace(**{**values, "max_steps": 20})
        wanted = [e for e in alone(task, more)[0] if isinstance(e, Epoch)]
        mine = [e for e in alone(task, more, checkpoint=ends[k].checkpoint)[0] if isinstance(e, Epoch)]
        assert [(e.epoch, e.step) for e in mine] == [(e.epoch, e.step) for e in wanted][-len(mine) :]
        assert len(mine) == (3, 2, 2)[k]
        losses = [e.train_loss for e in wanted][-len(mine) :]
        assert [e.train_loss for e in mine] == pytest.approx(losses, abs=1e-9)


def test_stop_ends_all_trials_with_their_weights():
    options = TrainOptions(epochs=50, batch_size=32)
    told, ends = together(task_of(), options, [{"lr": 0.1}, {"lr": 0.2}], {14: Stop("by hand")}, every=2)
    assert {(e.state, e.reason, e.step) for e in ends.values()} == {("stopped", "by hand", 14)}
    assert [f.step for f in told][:4] == [2, 4, 6, 7] and ends[0].weights.keys() == mlp().state_dict().keys()


def test_a_trial_whose_loss_is_not_finite_fails_and_the_others_go_on():
    options = TrainOptions(epochs=3, batch_size=32, optimizer="sgd")
    trials = [{"lr": 0.1}, {"lr": 1000.0, "weight_decay": 10.0}, {"lr": 0.01}]
    task = task_of(lambda: nn.Sequential(nn.Linear(6, 32), nn.Linear(32, 32), nn.Linear(32, 3)), valid=False)
    told, ends = together(task, options, trials)
    assert [ends[k].state for k in range(3)] == ["finished", "failed", "finished"]
    assert "not finite in update" in ends[1].reason and told[-1].losses == {}
    rows = [e.train_loss for e in alone(task, options.replace(**trials[2]))[0] if isinstance(e, Epoch)]
    assert [f.epochs[2].train_loss for f in told if f.epochs] == pytest.approx(rows, abs=1e-9)


def test_random_numbers_outside_are_left_as_they_were():
    task = task_of()
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    together(task, TrainOptions(epochs=1, batch_size=64), [{"dropout": 0.1}, {"dropout": 0.4}])
    assert torch.equal(torch.rand(2), expected)


# --- what cannot be trained together


class Own(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.first, self.last, self.change = nn.Linear(6, 8), nn.Linear(8, 3), change
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        return self.last(self.change(self, self.first(x)))


def counted(model, h):
    model.seen += 1
    return h


REFUSED = {
    "samples are mixed": (lambda m, h: h - h.mean(0), "mixes samples or channels"),
    "noise": (lambda m, h: h + torch.randn(8, dtype=h.dtype), "draws random numbers in forward"),
    "functional dropout": (lambda m, h: F.dropout(h, 0.5, m.training), "draws random numbers in forward"),
    "Python's random numbers": (lambda m, h: h * (1 + random.random()), "random numbers"),
    "NumPy's random numbers": (lambda m, h: h * float(1 + np.random.rand()), "random numbers"),
    "a value decides": (lambda m, h: h if h.sum() > 0 else -h, "reads values"),
    "a buffer of its own": (counted, "changes its buffer seen"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_cannot_be_folded_are_refused_with_the_reason(name):
    change, said = REFUSED[name]
    assert said in can_batch(task_of(lambda: Own(change), valid=False), TrainOptions(), ["lr"])


@pytest.mark.parametrize(
    "values, varying, said",
    [
        ({}, ["lr", "batch_size"], "trials differ in batch_size"),
        ({"accumulate": 2}, ["lr"], "accumulate"),
        ({"precision": "bf16"}, ["lr"], "precision bf16"),
        ({"compile": True}, ["lr"], "compile"),
        ({"freeze": ("0.*",), "unfreeze": 1}, ["lr"], "unfreeze"),
        ({"on_nonfinite": "skip"}, ["lr"], "on_nonfinite"),
        ({"training_step": lambda model, batch: model(batch[0]).sum()}, ["lr"], "training_step"),
    ],
)
def test_options_that_change_more_than_numbers_are_refused(values, varying, said):
    assert said in can_batch(task_of(), TrainOptions(**values), varying)


def test_a_layer_without_a_rule_is_named():
    build = lambda: nn.Sequential(nn.Linear(6, 3), nn.PReLU())
    assert (
        can_batch(task_of(build), TrainOptions(), ["lr"]) == "layer 1 is a PReLU, for which there is no rule."
    )
    plan = plan_batch(task_of(build), TrainOptions(), [{"lr": 0.1}, {"lr": 0.2}])
    assert (
        not plan.faster
        and str(plan) == "Trials are trained one by one: layer 1 is a PReLU, for which there is no rule."
    )


def test_a_parameter_that_the_loss_does_not_reach_is_named():
    def build():
        net = Own(lambda model, h: h)
        net.more = nn.Linear(2, 2)
        return net

    assert (
        can_batch(task_of(build, valid=False), TrainOptions(), ["lr"])
        == "the loss does not reach the parameter more.weight."
    )


def test_models_that_differ_in_more_than_their_weights_are_refused():
    models = [nn.Linear(6, 3), nn.Sequential(nn.Linear(6, 3))]
    with pytest.raises(Unbatchable, match="differ in their weights"):
        Population(
            prepare_trials(Task(models[0], (X, classes(X))), TrainOptions()), [TrainOptions()] * 2, models
        )


# --- the decision


def test_a_small_perceptron_is_found_to_train_faster_together(undisturbed):
    task = task_of(plain_mlp, torch.float32)
    with undisturbed():
        plan = plan_batch(task, TrainOptions(), [{"lr": 10 ** -(1 + k / 16)} for k in range(64)])
    assert plan.faster and plan.speedup > 2 and plan.chunk >= 8, str(plan)


def test_a_step_that_is_computed_several_times_before_it_is_kept(monkeypatch):
    "As a CUDA graph is: masks and running statistics are those of one step"

    def make_late(compute, *args):
        for _ in range(2):
            with Recorder():
                compute()
        return make_replay(compute, *args)

    monkeypatch.setattr(chunks, "make_replay", make_late)
    assert_as_alone(
        task_of(valid=False), TrainOptions(epochs=2, batch_size=32), [{"lr": 0.01}, {"dropout": 0.1}]
    )


def test_a_pass_that_does_not_fit_the_memory_is_not_chosen(monkeypatch):
    class Small(Population):
        def __init__(self, prepared, trials, *args, **kwargs):
            if len(trials) > 4:
                raise torch.OutOfMemoryError("out of memory")
            super().__init__(prepared, trials, *args, **kwargs)

    monkeypatch.setattr(plan, "Population", Small)
    trials = [{"lr": 10 ** -(1 + k / 16)} for k in range(16)]
    found = plan_batch(task_of(plain_mlp, torch.float32), TrainOptions(), trials)
    assert found.layout and found.chunk <= 4


# --- on a GPU


on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def draws_in_its_kernel(module):
    return isinstance(module, (nn.MultiheadAttention, nn.RNNBase))


@pytest.mark.cuda
@on_a_gpu
@pytest.mark.parametrize("name", LAYERS)
def test_trials_on_a_gpu_are_trained_as_alone_by_a_cuda_graph(name):
    options = TrainOptions(epochs=4, batch_size=40, lr=0.01, device="cuda")
    task = task_of(LAYERS[name], valid=False)
    trials = [{"lr": 0.03}, {"lr": 0.003, "clip": 0.1, "dropout": 0.4}, {"seed": 5, "ema": 0.9}]
    for module in filter(draws_in_its_kernel, task.model.modules()):
        module.dropout = 0.0
    layout, why = find_layout(task, options, trials)
    assert why == ""
    assert_as_alone(task, options, trials, layout, within=1e-7)


@pytest.mark.cuda
@on_a_gpu
@pytest.mark.parametrize("name", ["encoder", "lstm"])
def test_dropout_within_a_kernel_of_a_gpu_is_a_reason(name):
    why = can_batch(task_of(LAYERS[name]), TrainOptions(device="cuda"), ["lr"])
    assert "draw their dropout within their kernels" in why


@pytest.mark.cuda
@on_a_gpu
@pytest.mark.parametrize("seed", [0, 4])
def test_trials_of_single_precision_on_a_gpu(seed):
    options = TrainOptions(epochs=2, batch_size=40, lr=0.01, device="cuda", seed=seed)
    task = task_of(LAYERS["layer norm"], torch.float32, valid=False)
    assert_as_alone(task, options, [{"lr": 0.03}, {"dropout": 0.1}, {"dropout": 0.1, "lr": 0.1}], within=1e-4)


def test_a_bias_before_batchnorm_does_not_hinder_an_adaptive_optimizer():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)
    )
    x, y = torch.randn(64, 1, 8, 8), torch.randint(0, 3, (64,))
    trials = [{"lr": 1e-3, "weight_decay": 1e-4}, {"lr": 0.1, "weight_decay": 1e-2}]
    layout, reason = batch_layout(Task(model, (x, y)), TrainOptions(optimizer="adamw"), trials)
    assert layout and not reason
