"Parameter groups and frozen parts by patterns of names: the same as torch's own groups in a loop by hand, to the last bit"

import math

import pytest
import torch
from helpers import follow, quiet, small_table
from torch import nn
from torch.nn import functional as F

from trainopt_nb import Task, TrainOptions, find_lr, fit
from trainopt_nb.base.errors import OptionError
from trainopt_nb.events.records import LrChanged, Note, SetLr, Step
from trainopt_nb.store.checkpoint import load_checkpoint
from trainopt_nb.train.loop import Loop, train
from trainopt_nb.train.prepare import prepare

X, Y, TRAIN, VALID = small_table()
BATCHES = list(zip(TRAIN[0].split(64), TRAIN[1].split(64), strict=True))  # four, the last one of 49


class Net(nn.Module):
    def __init__(self, seed=1):
        super().__init__()
        torch.manual_seed(seed)
        self.backbone = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(torch.relu(self.backbone(x)))


def options(**more):
    return TrainOptions.of(
        **{"epochs": 3, "shuffle": False, "device": "cpu", "optimizer": "adam", "weight_decay": 0.0, **more}
    )


def adam(groups):
    return torch.optim.Adam(groups, lr=1e-3, fused=True)


def by_hand(model, optimizer, epochs=3, factor=None, begin=lambda epoch: None):
    "The loop that people write; `begin` is called before each epoch"
    base, step, total = [g["lr"] for g in optimizer.param_groups], 0, epochs * len(BATCHES)
    model.train()
    for epoch in range(epochs):
        begin(epoch)
        for x, y in BATCHES:
            if factor:
                for group, lr in zip(optimizer.param_groups, base, strict=True):
                    group["lr"] = lr * factor(step / total)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            step += 1
    return model


def assert_equal(model, other):
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def trained(**more):
    "A model after a run, and the events"
    model = Net()
    return model, follow(train(Task(model, TRAIN), options(**more)))


@pytest.mark.parametrize(
    ("schedule", "factor"),
    [
        ("constant", None),
        ("cosine", lambda part: (1 + math.cos(math.pi * part)) / 2),
        ("linear", lambda part: 1 - part),
    ],
)
def test_learning_rates_by_name(schedule, factor):
    model, events = trained(lr_for={"backbone.*": 1e-5, "*.bias": "0.5x"}, schedule=schedule)
    other = Net()
    named = dict(other.named_parameters())
    biases = [p for n, p in named.items() if n.endswith("bias")]
    slow = [p for n, p in named.items() if n.startswith("backbone") and not n.endswith("bias")]
    groups = [{"params": [other.head.weight]}, {"params": slow, "lr": 1e-5}, {"params": biases, "lr": 5e-4}]
    assert_equal(model, by_hand(other, adam(groups), factor=factor))
    assert next(e.lr for e in events if type(e) is Step) == 1e-3  # what is shown is the usual one


def test_weight_decay_by_name():
    model, _ = trained(optimizer="adamw", weight_decay=0.1, weight_decay_for="backbone=0, head.weight=0.5x")
    other = Net()
    groups = [
        {"params": other.backbone.parameters(), "weight_decay": 0.0},
        {"params": [other.head.weight], "weight_decay": 0.05},
        {"params": [other.head.bias], "weight_decay": 0.0},
    ]
    assert_equal(model, by_hand(other, torch.optim.AdamW(groups, lr=1e-3, fused=True)))


def test_what_is_frozen_stays_as_it_is():
    "Running statistics among it; afterwards the model's owner has it as before"
    model, events = trained(freeze="backbone.*")
    other = Net()
    other.backbone.requires_grad_(False)
    by_hand(other, adam(other.head.parameters()), begin=lambda epoch: other.backbone[1].eval())
    assert_equal(model, other)
    assert_equal(model.backbone, Net().backbone)
    assert all(p.requires_grad for p in model.parameters())
    assert any("6 of 8 parameters are frozen" in e.text for e in events if type(e) is Note)


def test_thawing_is_adding_a_group():
    "As `add_param_group` at the beginning of an epoch, from the last pattern to the first"
    model, events = trained(
        epochs=5, freeze=["backbone.0", "backbone.1", "backbone.3"], unfreeze=2, lr_for="backbone=0.1x"
    )
    other = Net()
    other.backbone.requires_grad_(False)
    optimizer = adam(other.head.parameters())

    def begin(epoch):
        if epoch in (2, 4):
            part = other.backbone[3 if epoch == 2 else 1].requires_grad_(True)
            optimizer.add_param_group({"params": part.parameters(), "lr": 1e-4})
        other.backbone[1].train(epoch == 4)

    assert_equal(model, by_hand(other, optimizer, epochs=5, begin=begin))
    said = [e.text for e in events if type(e) is Note and e.topic == "frozen"]
    assert "backbone.0 stays frozen in all 5 epochs" in said[0]
    assert said[1:] == ["Epoch 3 trains backbone.3 too.", "Epoch 5 trains backbone.1 too."]


def test_what_its_owner_froze_can_thaw():
    model = Net()
    model.backbone.requires_grad_(False)
    follow(train(Task(model, TRAIN), options(freeze="backbone", unfreeze=1)))
    assert not torch.equal(model.backbone[0].weight, Net().backbone[0].weight)
    assert not any(p.requires_grad for p in model.backbone.parameters())


def test_a_rate_set_by_hand_keeps_the_proportion():
    loop = Loop(prepare(Task(Net(), TRAIN), options(lr_for="backbone=0.1x")), options(lr_for="backbone=0.1x"))
    sent = []

    def command(event):
        if type(event) is Step and event.step == 2 and not sent:
            sent.append(SetLr(0.02))
            return sent[0]

    seen = follow(loop.events(), command=command)
    assert [e.lr for e in seen if type(e) is LrChanged] == [0.02]
    assert [g["lr"] for g in loop.state.optimizer.param_groups] == pytest.approx([0.02, 0.002], rel=1e-12)


RECIPES = {
    "groups": {"lr_for": "backbone=0.1x", "weight_decay_for": "head.weight=0.1", "schedule": "cosine"},
    "stages": {"freeze": "backbone.0,backbone.3", "unfreeze": 1, "ema": 0.9, "clip": 0.1, "l1": 1e-4},
    "plateau": {
        "lr_for": "backbone=1e-4",
        "schedule": "plateau",
        "plateau_patience": 0,
        "optimizer": "momentum",
    },
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_resumed_run_keeps_its_groups(recipe, tmp_path):
    how = options(**RECIPES[recipe], save_seconds=0.0)
    whole, part, rest = Net(), Net(), Net(seed=5)
    follow(train(Task(whole, TRAIN, VALID), how, tmp_path / "whole"))
    follow(
        train(Task(part, TRAIN, VALID), how, tmp_path / "part"),
        stop_at=lambda e: type(e) is Step and e.step == 6,
    )
    _, *checkpoint, _ = load_checkpoint(tmp_path / "part" / "checkpoints")
    follow(train(Task(rest, TRAIN, VALID), how, tmp_path / "part", checkpoint=tuple(checkpoint)))
    assert_equal(whole, rest)


def test_a_run_is_resumed_with_everything_thawed(tmp_path):
    "The head first, then the whole model: the usual way to fine-tune"
    model = Net()
    follow(train(Task(model, TRAIN), options(epochs=1, freeze="backbone"), tmp_path))
    _, *checkpoint, _ = load_checkpoint(tmp_path / "checkpoints")
    assert_equal(model.backbone, Net().backbone)
    follow(train(Task(model, TRAIN), options(epochs=2), tmp_path, checkpoint=tuple(checkpoint)))
    assert not torch.equal(model.backbone[0].weight, Net().backbone[0].weight)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            {"lr_for": "bacbone.*=1e-5"},
            "--lr-for: 'bacbone.*' fits no parameter of the model. Did you mean 'backbone'",
        ),
        (
            {"freeze": "encoder"},
            "--freeze: 'encoder' fits no parameter of the model. Its parts are backbone, head.",
        ),
        ({"weight_decay_for": "heed=0"}, "Did you mean 'head'"),
        ({"weight_decay_for": "*.bias=0.1"}, "--decay-all"),
        ({"freeze": "*"}, "freezes every parameter"),
        ({"unfreeze": 2}, "--unfreeze needs --freeze"),
        (
            {"lr_for": "head=1e-2", "optimizer": lambda p: torch.optim.SGD(p, 0.1)},
            "--lr-for needs an optimizer by name",
        ),
    ],
)
def test_a_pattern_that_can_do_nothing_is_refused(wrong, said):
    model = Net()
    with pytest.raises(OptionError) as error:
        follow(train(Task(model, TRAIN), options(**wrong)))
    assert said in str(error.value)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    "wrong", ["backbone", "=1", "a=x", "a=-1", "a=nan", 3, {"a": None}, "a=0", {"a": "0x"}]
)
def test_a_rate_that_is_none_is_refused(wrong):
    with pytest.raises(OptionError, match="--lr-for"):
        TrainOptions.of(lr_for=wrong)


def test_a_rate_of_zero_is_answered_with_freeze():
    with pytest.raises(OptionError, match="use --freeze"):
        TrainOptions.of(lr_for={"backbone.*": 0})
    assert TrainOptions.of(weight_decay_for={"backbone.*": 0}).weight_decay_for == ("backbone.*=0.0",)


def test_rates_follow_the_rule_of_several_devices():
    more = {"batch_scope": "each", "lr_rule": "linear", "lr_for": {"a": 1e-3, "b": "0.1x"}}
    assert TrainOptions.of(**more).on(4).lr_for == ("a=0.004", "b=0.1x")


def test_parts_of_layers_do_not_thaw():
    with pytest.raises(OptionError, match="--unfreeze"):
        _ = TrainOptions.of(freeze="a", unfreeze=1, shard=True).plan


def test_the_range_test_keeps_proportions_and_what_is_frozen():
    model = Net()
    find_lr(Task(model, TRAIN), options(freeze="backbone.0", lr_for="backbone.3=0.1x"), steps=30)
    assert_equal(model, Net())
    assert all(p.requires_grad for p in model.parameters())


# --- what trains nothing is said


def notes(model, **more):
    return [e.text for e in follow(train(Task(model, TRAIN), options(**more))) if type(e) is Note]


def test_parameters_in_no_group_are_said():
    model = Net()
    own = lambda parameters: torch.optim.SGD(model.head.parameters(), 0.1)
    said = notes(model, optimizer=own, epochs=1)
    assert any("6 of 8 parameters are in no group of the optimizer" in text for text in said)
    assert not any("no group" in text for text in notes(Net(), epochs=1))


def test_what_its_owner_froze_is_said():
    model = Net()
    model.backbone.requires_grad_(False)
    said = notes(model, epochs=1)
    assert any("6 of 8 parameters have requires_grad=False" in text for text in said)
    assert any("BatchNorm still updates its statistics in backbone.1" in text for text in said)
    assert not torch.equal(model.backbone[1].running_mean, torch.zeros(16))  # as in plain PyTorch


class Longer(torch.utils.data.IterableDataset):
    "Gives more than its length says"

    def __len__(self):
        return 128

    def __iter__(self):
        return iter([(X[i], Y[i]) for i in range(241)])


def test_a_learning_rate_of_zero_is_said(tmp_path):
    run = fit(Net(), Longer(), epochs=3, schedule="cosine", threads=1, folder=tmp_path, write=quiet)
    said = [note.text for note in run.progress.notes]
    assert any("its length says" in text for text in said)
    assert any("The learning rate is 0 from update 7 on" in text for text in said)
