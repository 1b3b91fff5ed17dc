"A student learns from its teachers: equal to a loop by hand, resumed to the last bit, with every other option, and refused in one sentence"

import copy
from functools import partial

import pytest
import torch
from helpers import follow, quiet, run_until_killed, some_quick, until, weights
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from trainopt_nb import OptionError, Task, TrainOptions, find_run, fit, resume
from trainopt_nb.base.errors import DataError, RunError, TaskError
from trainopt_nb.data.batches import order
from trainopt_nb.events.records import Epoch, Note, Step
from trainopt_nb.population.can_batch import can_batch
from trainopt_nb.store.checkpoint import load_checkpoint
from trainopt_nb.task.distill_options import Imitated
from trainopt_nb.train.loop import train
from trainopt_nb.train.prepare import prepare
from trainopt_nb.train.taps import LayerLosses, find_pairs

X = torch.randn(150, 6, generator=torch.Generator().manual_seed(1))
Y = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()
TRAIN, VALID = (X[:118], Y[:118]), (X[118:], Y[118:])
POOL = torch.randn(70, 6, generator=torch.Generator().manual_seed(2))


def net(width=8, outputs=3, seed=0, dropout=0.2):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, outputs)
    )


def big(outputs=3, seed=3):
    "A teacher whose running statistics are not those it began with"
    teacher = net(32, outputs, seed)
    with torch.no_grad():
        teacher(X + 1)
    return teacher


class Pixels(nn.Sequential):
    "A network for images of 8 x 8, as wide as asked for"

    def __init__(self, width, seed=0):
        torch.manual_seed(seed)
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU())
        self.stage = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU())
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 3))


IMAGES = torch.rand(96, 1, 8, 8, generator=torch.Generator().manual_seed(4))
LABELS = (IMAGES[:, 0, :4].mean((1, 2)) > IMAGES[:, 0, 4:].mean((1, 2))).long() + 0
PIXELS, JUDGED = (IMAGES[:64], LABELS[:64]), (IMAGES[64:], LABELS[64:])


def flags(**more):
    return {"device": "cpu", "batch_size": 32, "epochs": 2, **more}


# --- equal to a loop by hand


HAND = {"optimizer": "sgd", "lr": 0.1}  # Adam makes a whole step of a rounding error


def by_hand(model, data, soft, hard=F.cross_entropy, weight=0.7, epochs=2, batch=32):
    "Train by a plain loop"
    inputs, targets = data
    decayed = [p for p in model.parameters() if p.dim() > 1]
    spared = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": spared, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    model.train()
    torch.manual_seed(0)
    for epoch in range(epochs):
        for rows in order(len(targets), 0, epoch).split(batch):
            scores = model(inputs[rows])
            loss = (1 - weight) * hard(scores, targets[rows]) + weight * soft(scores, inputs[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return weights(model)


def asked(teacher):
    teacher = copy.deepcopy(teacher).eval()

    def scores(inputs):
        with torch.no_grad():
            return teacher(inputs)

    return scores


def test_logits_are_those_of_a_loop_by_hand(tmp_path):
    teacher, model = big(), net()
    before, modes = weights(teacher).clone(), teacher.training
    ask = asked(teacher)

    def soft(scores, inputs):
        logs, wanted = (scores / 3).log_softmax(1), (ask(inputs) / 3).log_softmax(1)
        return F.kl_div(logs, wanted, reduction="batchmean", log_target=True) * 9

    run = fit(
        model, TRAIN, folder=tmp_path, write=quiet, **HAND, **flags(teacher=teacher, distill="logits:3")
    )
    assert torch.allclose(weights(model), by_hand(net(), TRAIN, soft), atol=1e-6)
    assert torch.equal(weights(teacher), before) and teacher.training == modes
    assert all(p.requires_grad and p.grad is None for p in teacher.parameters())
    _, model_state, training, _ = load_checkpoint(run.path / "checkpoints")
    assert model_state.keys() == net().state_dict().keys()
    assert (
        training["teachers"]["teachers"] == ["Sequential"]
        and len(training["teachers"]["fingerprints"][0]) == 16
    )


@pytest.mark.parametrize("kind", ["multilabel", "regression"])
def test_other_tasks_are_those_of_a_loop_by_hand(kind, tmp_path):
    several = kind == "multilabel"
    targets = (X[:118, :2] > 0).float() if several else X[:118, :1] * 2
    teacher, model = big(2 if several else 1), net(outputs=2 if several else 1)
    ask = asked(teacher)

    def answers(scores, inputs):
        wanted = ask(inputs) / 4
        cross = F.binary_cross_entropy_with_logits(scores / 4, wanted.sigmoid())
        return 16 * (cross - F.binary_cross_entropy_with_logits(wanted, wanted.sigmoid()))

    soft = answers if several else lambda scores, inputs: F.mse_loss(scores, ask(inputs))
    hard = F.binary_cross_entropy_with_logits if several else F.mse_loss
    fit(model, (X[:118], targets), folder=tmp_path, write=quiet, **HAND, **flags(teacher=teacher))
    expected = by_hand(net(outputs=targets.shape[1]), (X[:118], targets), soft, hard)
    assert torch.allclose(weights(model), expected, atol=1e-6)


def test_several_teachers_are_the_mean_of_their_logits(tmp_path):
    first, second, model = big(seed=3), big(seed=4), net()
    asks = asked(first), asked(second)

    def soft(scores, inputs):
        wanted = ((asks[0](inputs) + asks[1](inputs)) / 2 / 4).log_softmax(1)
        return F.kl_div((scores / 4).log_softmax(1), wanted, reduction="batchmean", log_target=True) * 16

    fit(model, TRAIN, folder=tmp_path, write=quiet, **HAND, **flags(teacher=[first, second]))
    assert torch.allclose(weights(model), by_hand(net(), TRAIN, soft), atol=1e-6)


def test_a_teacher_that_ends_with_softmax_teaches_the_same(tmp_path):
    ends = []
    for teacher in (big(), nn.Sequential(big(), nn.Softmax(1))):
        ends.append(net())
        fit(ends[-1], TRAIN, folder=tmp_path, write=quiet, **HAND, **flags(teacher=teacher))
    assert torch.allclose(weights(ends[0]), weights(ends[1]), atol=1e-4)


def test_the_figures_of_the_validation_are_those_of_the_labels():
    options = TrainOptions(**flags(teacher=big(), restore_best=False))
    task = Task(net(), TRAIN, VALID)
    epoch = [e for e in follow(train(task, options)) if type(e) is Epoch][-1]
    model = task.model.eval()
    with torch.no_grad():
        assert abs(epoch.valid_loss - float(F.cross_entropy(model(VALID[0]), VALID[1]))) < 1e-5


def test_dense_targets(tmp_path):
    masks = (IMAGES[:, 0] > 0.5).long()
    dense = lambda width: nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 2, 1))
    run = fit(dense(4), (IMAGES, masks), folder=tmp_path, write=quiet, **flags(teacher=dense(16)))
    assert run.state == "finished"


# --- layers


@pytest.mark.parametrize("distill", ["features", "attention", "logits features:0.5 attention:2"])
def test_layers_are_imitated_and_adapters_stay_behind(distill, tmp_path):
    teacher, model = Pixels(8, seed=5), Pixels(3)
    run = fit(model, PIXELS, JUDGED, folder=tmp_path, write=quiet, **flags(teacher=teacher, distill=distill))
    rows = {row[0]: row[1] for row in run.facts["assumptions"]}
    assert rows["layers"].startswith("stage:") and model.state_dict().keys() == Pixels(3).state_dict().keys()
    assert not any(m._forward_hooks for m in model.modules())
    _, model_state, training, _ = load_checkpoint(run.path / "checkpoints")
    assert model_state.keys() == model.state_dict().keys()
    assert ("loss_module" in training) == ("features" in distill)


def test_features_come_near():
    teacher, far = Pixels(8, seed=5), []
    for epochs in (1, 40):
        options = TrainOptions(
            **flags(teacher=teacher, distill="features", distill_layers="stem,stage", epochs=epochs, lr=0.01)
        )
        events = follow(train(Task(Pixels(3), PIXELS), options))
        far.append([e.loss for e in events if type(e) is Step][-1])
    assert far[1] < far[0]


class Last(nn.Sequential):
    "A network for images that has its channels on the last axis"

    def __init__(self, width, seed=0):
        torch.manual_seed(seed)
        super().__init__()
        self.stem = Moved()
        self.stage = nn.Sequential(nn.Linear(1, width), nn.ReLU())
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(64 * width, 3))


class Moved(nn.Module):
    def forward(self, x):
        return x.movedim(1, -1)


@pytest.mark.parametrize("widths", [(4, 4), (4, 6)])
def test_attention_maps_are_means_over_channels_wherever_these_are(widths):
    student, teacher = (Last(width, seed) for seed, width in enumerate(widths))
    run = lambda model: model(IMAGES)
    pairs = find_pairs(("stage",), student, teacher, run, places=True)
    losses = LayerLosses(Imitated(attention=1.0), pairs, student, teacher, 0)
    with losses.student, losses.teacher:
        student(IMAGES), teacher(IMAGES)
    maps = [
        F.normalize(m.stage(m.stem(IMAGES)).square().mean(-1).flatten(1), dim=1) for m in (student, teacher)
    ]
    assert torch.allclose(losses.total(), (maps[0] - maps[1]).square().sum(1).mean())


def test_attention_maps_of_activations_after_a_convolution():
    first, second = (nn.Sequential(nn.Conv1d(1, 5, 3), nn.ReLU(), nn.Flatten()) for _ in range(2))
    x = torch.rand(4, 1, 9)
    ((pair, *_),) = find_pairs(("1",), first, second, lambda model: model(x), places=True)
    assert not pair.last


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((64,), r"shape \(2, 64\), and --distill attention needs a tensor with 3 to 5 axes"),
        ((1, 2, 2, 2, 8), r"\(2, 1, 2, 2, 2, 8\), and --distill attention needs a tensor with 3 to 5 axes"),
        ((64, 1, 1), "has one place, and --distill attention compares several"),
    ],
)
def test_attention_of_a_layer_without_places_is_one_sentence(shape, said):
    model = nn.Sequential(nn.Unflatten(1, shape), nn.Flatten(), nn.Linear(64, 3))
    x = torch.rand(2, 64)
    with pytest.raises(TaskError, match=said):
        find_pairs(("0",), model, model, lambda each: each(x), places=True)


# --- unlabeled samples


def test_unlabeled_samples_count_for_the_teacher_alone():
    options = TrainOptions(**flags(shuffle=False, teacher=big(), unlabeled_share=0.5))
    prepared = prepare(Task(net(dropout=0), TRAIN, VALID, unlabeled=POOL), options)
    batches = list(prepared.device_batches(prepared.data.train.epoch(1), 1))
    assert [len(batch.inputs) for batch in batches] == [64, 64, 64, 44]
    assert torch.equal(batches[0].inputs[:32], X[:32])
    met = torch.cat([batch.inputs[int(batch.labeled.sum()) :] for batch in batches])
    assert {row.numpy().tobytes() for row in met} == {row.numpy().tobytes() for row in POOL}
    model, batch = prepared.model.train(), batches[0]
    again = copy.deepcopy(model)
    loss, scores = prepared.loss_step(batch), again(batch.inputs)
    wanted = (asked(options.teacher)(batch.inputs) / 4).log_softmax(1)
    soft = F.kl_div((scores / 4).log_softmax(1), wanted, reduction="batchmean", log_target=True) * 16
    assert torch.allclose(loss, 0.3 * F.cross_entropy(scores[:32], Y[:32]) + 0.7 * soft, atol=1e-6)
    assert prepared.sample_weight(batch) == 64
    (text,) = [text for topic, text in prepared.notes if topic == "unlabeled"]
    assert "70 unlabeled samples" in text


class Rows(Dataset):
    def __len__(self):
        return len(POOL)

    def __getitem__(self, index):
        return POOL[index], -1


def test_a_dataset_gives_the_same_samples(tmp_path):
    found = []
    for source in (POOL, Rows(), (POOL, torch.zeros(70))):
        model = net()
        fit(model, TRAIN, folder=tmp_path, write=quiet, unlabeled=source, **flags(teacher=big()))
        found.append(weights(model))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


# --- with every other option


MORE = {
    "mixup": {"augment": "flip mixup"},
    "bf16": {"precision": "bf16"},
    "accumulate": {"accumulate": 2, "clip": 1.0},
    "ema": {"ema": 0.9},
    "frozen": {"freeze": "stem"},
    "features": {"distill": "logits features", "ema": 0.9, "accumulate": 2},
    "focal": {"loss": "focal", "class_weights": "balanced", "accumulate": 2},
}


@pytest.mark.parametrize("name", some_quick(MORE, "mixup", "features", "focal"))
@pytest.mark.parametrize("unlabeled", [False, True])
def test_stopped_and_resumed_is_uninterrupted(name, unlabeled, tmp_path):
    options = TrainOptions(**flags(epochs=3, batch_size=16, teacher=Pixels(8, seed=5), **MORE[name]))
    task = lambda model: Task(model, PIXELS, JUDGED, unlabeled=IMAGES[64:] if unlabeled else None)
    whole, again = Pixels(3), Pixels(3)
    follow(train(task(whole), options))
    at = lambda e: type(e) is Step and e.step == (3 if options.accumulate > 1 else 6)
    assert follow(train(task(Pixels(3)), options, tmp_path), at)[-1].state == "stopped"
    _, model_state, training, _ = load_checkpoint(tmp_path / "checkpoints")
    events = follow(train(task(again), options, tmp_path, checkpoint=(model_state, training)))
    assert events[-1].state == "finished" and torch.equal(weights(whole), weights(again))
    assert not [e.text for e in events if type(e) is Note and "resume" in e.text]


def test_the_teacher_sees_the_augmented_batch():
    class Remembers(nn.Module):
        def __init__(self):
            super().__init__()
            self.seen, self.layer = [], nn.Linear(6, 3)

        def __deepcopy__(self, memo):
            return self

        def forward(self, x):
            self.seen.append(x.clone())
            return self.layer(x)

    teacher, model = Remembers(), net(dropout=0)
    prepared = prepare(Task(model, TRAIN), TrainOptions(**flags(teacher=teacher, augment="noise mixup")))
    batch = next(prepared.device_batches(prepared.data.train.epoch(0)))
    prepared.loss_step(batch)
    assert torch.equal(teacher.seen[-1], batch[0]) and batch[1].is_floating_point()


def test_accumulated_is_one_large_batch():
    ends = []
    for size, accumulate in ((32, 1), (8, 4)):
        model = net(dropout=0)[:1].append(nn.ReLU()).append(nn.Linear(8, 3))
        torch.manual_seed(0)
        options = TrainOptions(
            **flags(teacher=big(), batch_size=size, accumulate=accumulate, optimizer="sgd", lr=0.1)
        )
        torch.manual_seed(7)
        model[-1].reset_parameters()
        follow(train(Task(model, TRAIN), options))
        ends.append(weights(model))
    assert torch.allclose(*ends, atol=1e-5)


@pytest.mark.slow
def test_compiled_is_near(tmp_path, monkeypatch):
    monkeypatch.setattr(
        torch, "compile", partial(torch.compile, backend="aot_eager")
    )  # traced, and not built
    ends = []
    for compile in (False, True):
        ends.append(net(dropout=0))
        fit(ends[-1], TRAIN, folder=tmp_path, write=quiet, **HAND, **flags(teacher=big(), compile=compile))
    assert torch.allclose(weights(ends[0]), weights(ends[1]), atol=1e-4)


@pytest.mark.parametrize("distill", ["logits", "logits features"])
def test_devices_change_nothing(distill, tmp_path):
    ends = []
    for devices in (1, 2):
        ends.append(Pixels(3))
        how = flags(teacher=Pixels(8, seed=5), distill=distill, optimizer="sgd", lr=0.1, devices=devices)
        fit(ends[-1], PIXELS, JUDGED, folder=tmp_path, write=quiet, unlabeled=IMAGES[64:], **how)
    assert torch.allclose(weights(ends[0]), weights(ends[1]), atol=1e-5)


def test_sweeps_train_by_themselves(tmp_path):
    options = TrainOptions(**flags(teacher=big()))
    assert "teacher adds to the loss" in can_batch(Task(net(), TRAIN), options, ["lr"])


# --- runs


KILLED = """
import sys
from test_distill import TRAIN, VALID, POOL, big, flags, net, quiet
from trainopt_nb import fit
fit(net(), TRAIN, VALID, folder=sys.argv[1], save_steps=1, write=quiet, unlabeled=POOL, **flags(epochs=3, teacher=big()))
"""


def test_killed_and_resumed_is_uninterrupted(tmp_path):
    run_until_killed(KILLED, tmp_path / "killed")
    run = until(lambda: find_run(None, tmp_path / "killed"), "the killed run")
    go_on = lambda **more: resume(run, net(), TRAIN, VALID, folder=tmp_path / "killed", write=quiet, **more)
    with pytest.raises(OptionError, match="a resume needs it again"):
        go_on(unlabeled=POOL)
    with pytest.raises(TaskError, match="learned from another teacher"):
        go_on(unlabeled=POOL, teacher=big(seed=9))
    with pytest.raises(TaskError, match="began with 70 unlabeled samples, and has 0 now"):
        go_on(teacher=big())
    again, whole = net(), net()
    resume(run, again, TRAIN, VALID, folder=tmp_path / "killed", write=quiet, unlabeled=POOL, teacher=big())
    fit(
        whole,
        TRAIN,
        VALID,
        folder=tmp_path / "whole",
        write=quiet,
        unlabeled=POOL,
        **flags(epochs=3, teacher=big()),
    )
    assert torch.equal(weights(again), weights(whole))


def test_a_stored_run_teaches(tmp_path):
    taught = big()
    first = fit(taught, TRAIN, VALID, folder=tmp_path, write=quiet, **flags())
    ends = [net(), net(), net()]
    how = dict(folder=tmp_path, write=quiet)
    second = fit(ends[0], TRAIN, VALID, **how, **flags(teacher=first))
    assert second.options["teacher"] == str(first.path)
    fit(ends[1], TRAIN, VALID, **how, **flags(teacher=taught))
    assert torch.equal(weights(ends[0]), weights(ends[1]))
    with pytest.raises(OptionError, match="not the class of its model"):
        fit(ends[2], TRAIN, VALID, **how, **flags(teacher=str(first.path)))
    third = fit(
        ends[2], TRAIN, VALID, **how, **flags(teacher=str(second.path), epochs=1)
    )  # of the same class
    resume(third, ends[2], TRAIN, VALID, **how, epochs=2)


def test_a_stored_run_teaches_in_the_background(tmp_path):
    from trainopt_nb.api.run_task import Where, run_task

    first = fit(net(seed=4), TRAIN, VALID, folder=tmp_path, write=quiet, **flags())
    model, other = net(), net()
    options = TrainOptions(**flags(teacher=str(first.path)))
    run = run_task(Task(model, TRAIN, VALID), options, Where(tmp_path, background=True)).result()
    assert run.options["teacher"] == str(first.path)
    fit(other, TRAIN, VALID, folder=tmp_path, write=quiet, **flags(teacher=str(first.path)))
    assert torch.equal(
        weights(run.load(net(), "last")), weights(find_run(None, tmp_path).load(net(), "last"))
    )


# --- what is refused


def refused(error, match, data=TRAIN, model=None, unlabeled=None, **options):
    with pytest.raises(error, match=match) as caught:
        prepare(Task(model or net(), data, unlabeled=unlabeled), TrainOptions(device="cpu", **options))
    text = str(caught.value)
    assert "\n" not in text and text.endswith((".", ")"))


def test_what_does_not_fit_gets_one_sentence():
    step = lambda model, batch: F.cross_entropy(model(batch[0]), batch[1])
    refused(OptionError, "needs a model to learn from", distill="logits:2")
    refused(OptionError, "neither a variable", teacher="no such thing")
    refused(TaskError, r"gives scores of shape \(8, 5\) and the model \(8, 3\)", teacher=big(5))
    refused(TaskError, "fails on the first batch", teacher=nn.Linear(9, 3))
    refused(OptionError, "training_step", teacher=big(), training_step=step)
    refused(OptionError, "names 2: name one", teacher=[big(), big()], distill="features")
    refused(
        OptionError, "the model has the layers 0, 1", teacher=big(), distill="features", distill_layers="body"
    )
    refused(
        TaskError, "needs a tensor with 3 to 5 axes", teacher=big(), distill="attention", distill_layers="0"
    )
    refused(OptionError, "--compile fuses them", teacher=big(), distill="features", compile=True)
    refused(OptionError, "--pipeline-plan cuts it", teacher=big(), pipeline_plan="auto")
    own = lambda scores, targets: F.multi_margin_loss(scores, targets)
    refused(TaskError, "name it by --task-type", teacher=big(), loss=own)
    model = net()
    refused(OptionError, "is the model that is trained", model=model, teacher=model)
    refused(OptionError, "--unlabeled needs a teacher", unlabeled=POOL)
    refused(
        DataError, r"of shape \(6,\), and gave some of shape \(5,\)", unlabeled=POOL[:, :5], teacher=big()
    )
    refused(
        TaskError,
        "needs a loss of PyTorch",
        unlabeled=POOL,
        teacher=big(),
        loss=own,
        task_type="classification",
    )
    with pytest.raises(OptionError, match="Did you mean 'logits'"):
        TrainOptions(distill="logit:4")


def test_what_changes_nothing_is_said():
    said = lambda **o: [
        t
        for topic, t in prepare(Task(net(), TRAIN), TrainOptions(device="cpu", **o)).notes
        if topic == "options"
    ]
    assert "there is no --teacher" in said(distill_weight=0.5)[0]
    assert "compares no logits" in said(teacher=big(), distill="features", distill_weight=0.5)[0]
    assert "--distill is none" in said(teacher=big(), distill="none")[0]
    assert (
        "--unlabeled-share 0.2 (because there is no --unlabeled)"
        in said(teacher=big(), unlabeled_share=0.2)[0]
    )


def test_what_no_script_repeats(tmp_path):
    run = fit(net(), TRAIN, folder=tmp_path, write=quiet, **flags(teacher=big(), distill="features"))
    with pytest.raises(RunError, match="compares inner layers"):
        run.eject()
