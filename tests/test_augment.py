"Augmentation: labels stay right, and one seed gives one result whatever the workers, the devices and the stops"

import math
import subprocess
import threading
from functools import partial

import pytest
import torch
from helpers import follow, losses, quiet, run_until_killed, until, weights
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from warm_python import python

from trainopt_nb import OptionError, Task, TrainOptions, find_run, fit, resume
from trainopt_nb.api.in_workers import pack_task
from trainopt_nb.augment.augment import Augment, find_values
from trainopt_nb.augment.mixing import class_shares
from trainopt_nb.augment.pixels import blur
from trainopt_nb.augment.policy import OPERATIONS, Operation, read_policy
from trainopt_nb.augment.views import view_of
from trainopt_nb.base.errors import DataError, RunError, TaskError
from trainopt_nb.data.batches import mix, order
from trainopt_nb.data.generators import seed_everything
from trainopt_nb.events.records import Epoch, Note, Step
from trainopt_nb.population.can_batch import can_batch
from trainopt_nb.search.parse_space import parse_space
from trainopt_nb.store.checkpoint import load_checkpoint
from trainopt_nb.task.loss_step import make_sample_weight, task_loss
from trainopt_nb.train.loop import train
from trainopt_nb.train.prepare import prepare

NAMES = list(OPERATIONS)
MANY = "rotate crop flip color noise mixup cutmix"
X = torch.rand(160, 3, 12, 12, generator=torch.Generator().manual_seed(1))
Y = (X.mean((1, 2, 3)) * 300).long() % 3
TRAIN, VALID = (X[:118], Y[:118]), (X[118:], Y[118:])


def net(channels=3, outputs=3, norm=True):
    torch.manual_seed(0)
    layers = [nn.Conv2d(channels, 8, 3), *[nn.BatchNorm2d(8)] * norm, nn.ReLU(), nn.AdaptiveAvgPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, outputs))


def made(policy, images, seed=0, **more):
    return Augment(read_policy(policy), seed, find_values(images), **more)


def images_like(kind, count=16, channels=3, height=10, width=14):
    images = torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(2))
    return {"uint8": (images * 255).to(torch.uint8), "unit": images, "normalized": 4 * images - 2, "half": images.half(), "double": images.double()}[kind]  # fmt: skip


# --- properties of every operation


@pytest.mark.parametrize("kind", ["uint8", "unit", "normalized", "half", "double"])
@pytest.mark.parametrize("name", NAMES)
def test_images_keep_shape_type_and_range(name, kind):
    for channels in (1, 2, 3, 4):
        images = images_like(kind, channels=channels)
        before, labels = images.clone(), torch.arange(16) % 3
        change = made(name, images, classes=3)
        for number in range(2):
            change.at(0, number)
            changed, targets = change((images, labels), training=True)
            assert (
                changed.shape == images.shape and changed.dtype == images.dtype and changed.isfinite().all()
            )
            if kind != "normalized":
                assert 0 <= changed.min() and changed.max() <= find_values(images).high
            mixes = OPERATIONS[name].mix is not None
            assert torch.allclose(targets.sum(1), torch.ones(16)) if mixes else targets is labels
        assert torch.equal(images, before)
        assert change((images, labels), training=False)[0] is images


@examples(40)
@given(
    st.sampled_from(NAMES),
    st.integers(1, 20),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(0, 2**32 - 1),
)
def test_any_size_and_seed(name, count, height, width, channels, seed):
    images, labels = torch.rand(count, channels, height, width), torch.arange(count) % 2
    changed, targets = made(name, images, seed=seed, classes=2)((images, labels), training=True)
    assert changed.shape == images.shape and changed.isfinite().all()
    again, alike = made(name, images, seed=seed, classes=2)((images, labels), training=True)
    assert torch.equal(changed, again) and torch.equal(targets, alike)


@pytest.mark.parametrize("name", NAMES)
def test_each_sample_has_draws_of_its_own_and_each_batch_too(name):
    images = torch.rand(1, 3, 10, 14).expand(64, -1, -1, -1).contiguous()
    images = torch.cat([images[:32], 1 - images[32:]]) if OPERATIONS[name].mix else images
    change, labels = made(name, images, classes=2), torch.arange(64) // 32
    first = change((images, labels), training=True)[0]
    assert len({row.numpy().tobytes() for row in first}) > (1 if "flip" in name else 8)
    change.at(0, 1)
    assert not torch.equal(first, change((images, labels), training=True)[0])
    change.at(0, 0)
    assert torch.equal(first, change((images, labels), training=True)[0])


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("policy", [*NAMES, MANY])
def test_ranks_change_their_rows_as_one_process_does(policy, ranks):
    "Bit for bit, partners included"
    images, labels = torch.rand(40, 3, 8, 8), torch.arange(40) % 3
    whole = made(policy, images, classes=3)((images, labels), training=True)
    for rank in range(ranks):
        change = made(policy, images, classes=3, shard=(rank, ranks))
        part = change((images[rank::ranks], labels[rank::ranks]), training=True)
        assert torch.equal(part[0], whole[0][rank::ranks]) and torch.equal(part[1], whole[1][rank::ranks])


def test_strength_zero_changes_nothing_and_more_changes_more():
    images = torch.rand(64, 3, 16, 16)
    for name in ("rotate", "crop", "resize-crop", "flip", "color", "blur", "noise", "erase"):
        sizes = []
        for share in (0, 0.2, 0.9):
            high = min(OPERATIONS[name].high, 3.0) if name != "rotate" else 90
            sizes.append(
                (made(f"{name}:{share * high}", images)((images, None), True)[0] - images).abs().mean()
            )
        assert sizes[0] < 1e-5 < sizes[1] < sizes[2], (name, sizes)


# --- by hand


def test_flip_and_crop_move_whole_pixels():
    images, labels = torch.rand(64, 3, 8, 8), torch.zeros(64)
    padded = F.pad(images, (2, 2, 2, 2), mode="replicate")
    padded[:, :, 2:-2, 2:-2] = images
    padded = torch.cat([images[:, :, :2].flip(2), images, images[:, :, -2:].flip(2)], 2)
    padded = torch.cat([padded[..., :2].flip(3), padded, padded[..., -2:].flip(3)], 3)
    crops = [padded[:, :, i : i + 8, j : j + 8] for i in range(5) for j in range(5)]
    changed = made("crop:0.25 flip", images)((images, labels), True)[0]
    found = [
        sum(torch.equal(row, v) for c in crops for v in (c[n], c[n].flip(-1)))
        for n, row in enumerate(changed)
    ]
    assert found == [1] * 64


@pytest.mark.parametrize("strength", [0.3, 1.0, 1.5, 1.6, 4.0])
def test_blur_is_a_convolution_with_a_gaussian_of_each_image(strength):
    "However many threads compute it, and whatever else is in the batch"
    images, draws = torch.rand(9, 3, 13, 17), torch.linspace(0, 0.99, 9).unsqueeze(1)
    reach = math.ceil(2 * strength)
    changed = blur(images, draws, strength, (0.0, 1.0))
    for image, draw, mine in zip(images, draws[:, 0], changed, strict=True):
        weights = (
            -(((torch.arange(2 * reach + 1) - reach) / (draw * strength).clamp(min=1e-3)) ** 2) / 2
        ).exp()
        kernel = (weights[:, None] * weights / weights.sum() ** 2).expand(3, 1, -1, -1)
        wide = F.pad(image[None], [reach] * 4, mode="replicate")
        assert torch.allclose(F.conv2d(wide, kernel, groups=3)[0], mine, atol=1e-6)
    many = torch.rand(64, 3, 33, 31)
    whole, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            whole.append(blur(many, torch.linspace(0, 1, 64)[:, None], strength, (0.0, 1.0)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(whole[0], whole[1]) and torch.equal(whole[0], whole[2])
    assert torch.equal(blur(many[5:6], torch.tensor([[5 / 63]]), strength, (0.0, 1.0)), whole[0][5:6])


def test_masks_follow_images():
    images = torch.rand(32, 1, 16, 16)
    masks = (images[:, 0] > 0.5).long()
    same, moved = made("crop flip vertical-flip", images)((images, masks), True)
    assert torch.equal((same[:, 0] > 0.5).long(), moved) and not torch.equal(moved, masks)
    smooth = F.interpolate(torch.rand(32, 1, 4, 4), size=16, mode="bilinear")
    masks = (smooth[:, 0] > 0.5).long()
    same, moved = made("rotate:40 resize-crop flip", smooth)((smooth, masks), True)
    assert ((same[:, 0] > 0.5).long() == moved).float().mean() > 0.95 and moved.dtype == masks.dtype
    channel = made("flip", smooth)((smooth, masks.unsqueeze(1)), True)[1]
    assert channel.shape == (32, 1, 16, 16)


def test_mixup_is_that_of_a_hand_written_loop():
    "Images, labels, losses and the training loss of the epoch"
    options = TrainOptions(device="cpu", batch_size=32, epochs=2, optimizer="sgd", lr=0.1, weight_decay=0.0, augment="mixup:0.4")  # fmt: skip
    events = follow(train(Task(net(), TRAIN, VALID), options))
    model, (x, y), told = net(), TRAIN, []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    change = made("mixup:0.4", X, classes=3)
    seed_everything(0)
    for epoch in range(2):
        for number, rows in enumerate(order(len(x), 0, epoch).split(32)):
            change.at(epoch, number)
            images, targets = change((x[rows], y[rows]), True)
            share, other = targets.gather(1, y[rows].unsqueeze(1))[:, 0], targets.clone()
            other.scatter_(1, y[rows].unsqueeze(1), 0)
            second = torch.where(other.sum(1) > 0, other.argmax(1), y[rows])
            scores, each = model(images), nn.CrossEntropyLoss(reduction="none")
            loss = (share * each(scores, y[rows]) + (1 - share) * each(scores, second)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            told.append((loss.item(), len(rows)))
    steps = [e.loss for e in events if type(e) is Step]
    assert steps == pytest.approx([loss for loss, _ in told], rel=1e-4)
    last = told[len(told) // 2 :]
    mean = sum(loss * n for loss, n in last) / sum(n for _, n in last)
    assert [e.train_loss for e in events if type(e) is Epoch][-1] == pytest.approx(mean, rel=1e-4)


@pytest.mark.parametrize("weight", [None, torch.tensor([0.5, 2.0, 1.0])])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("loss", ["cross-entropy", "focal"])
def test_losses_of_shares_are_sums_of_losses_of_classes(loss, smoothing, weight):
    scores, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    options = TrainOptions(loss=loss, label_smoothing=smoothing)
    soft = task_loss(options, "classification", weight, scores, labels, mixed=True)
    mixed = torch.rand(6, 1)
    targets = mixed * class_shares(labels, 3) + (1 - mixed) * class_shares(labels.flip(0), 3)
    of_class = [soft(scores, class_shares(torch.full((6,), k), 3)) for k in range(3)]
    if loss == "cross-entropy":
        expected = F.cross_entropy(scores, targets, weight, label_smoothing=smoothing)
        assert torch.allclose(soft(scores, targets), expected)
    each = task_loss(options, "classification", weight, scores, labels, reduction="none", mixed=True)
    parts = torch.stack([each(scores, class_shares(torch.full((6,), k), 3)) for k in range(3)], 1)
    assert torch.allclose(each(scores, targets), (targets * parts).sum(1), atol=1e-6)
    assert torch.allclose(parts.mean(0), torch.stack(of_class), atol=1e-6)
    if weight is None:
        assert torch.allclose(soft(scores, class_shares(labels, 3)), soft(scores, labels))
    batch = torch.zeros(6, 3), targets
    assert make_sample_weight("classification", weight, None)(batch) == 6


@pytest.mark.parametrize("flags", [{"loss": "focal"}, {"class_weights": "balanced"}, {"label_smoothing": 0.1}, {"precision": "bf16"}])  # fmt: skip
def test_mixing_trains_with_each_loss(flags):
    options = TrainOptions(
        device="cpu", epochs=2, batch_size=32, accumulate=2, augment="mixup cutmix", **flags
    )
    events = follow(train(Task(net(), TRAIN, VALID), options))
    assert events[-1].state == "finished" and all(e.loss > 0 for e in events if type(e) is Step)


@pytest.mark.parametrize(("targets", "outputs"), [((Y > 0).long(), 1), ((X[:, :, 0, 0] > 0.5).float(), 3), (X.mean((1, 2, 3)), 1)])  # fmt: skip
def test_answers_and_numbers_are_mixed_too(targets, outputs):
    "Also in batches of a loader, whose answers are checked before they are mixed"
    rows = list(zip(X, targets, strict=True))
    for data in ((X, targets), DataLoader(rows, batch_size=32)):
        options = TrainOptions(
            device="cpu", epochs=1, augment="mixup", task_type="auto" if outputs == 1 else "multilabel"
        )
        prepared = prepare(Task(net(outputs=outputs), data, (X, targets)), options)
        mixed = next(prepared.device_batches(iter(prepared.data.train.epoch(0))))[1]
        assert mixed.dtype == torch.float32 and ((mixed > 0) & (mixed < 1)).any()
        assert follow(train(prepared, options))[-1].state == "finished"


def test_views_are_averaged_in_the_validation():
    options = TrainOptions(device="cpu", epochs=1, augment="crop flip", tta=4)
    prepared = prepare(Task(net(), TRAIN, VALID), options)
    (row,) = [e for e in follow(train(prepared, options)) if type(e) is Epoch]
    views = [(False, False, 0, 0), (True, False, 0, 0), (False, False, -1, -1), (True, False, -1, -1)]
    model = prepared.model.eval()
    with torch.no_grad():
        scores = torch.stack([model(view_of(VALID[0], *view)) for view in views]).mean(0)
    assert row.valid_loss == pytest.approx(F.cross_entropy(scores, VALID[1]).item(), rel=1e-5)
    assert row.metrics["accuracy"] == pytest.approx((scores.argmax(1) == VALID[1]).float().mean().item())


# --- one seed gives one result


class Rows(Dataset):
    def __len__(self):
        return len(TRAIN[0])

    def __getitem__(self, index):
        return TRAIN[0][index], TRAIN[1][index]


def test_workers_change_nothing(tmp_path):
    found = []
    for data, workers in ((TRAIN, 0), (Rows(), 0), (Rows(), 2)):
        model = net()
        fit(
            model,
            data,
            folder=tmp_path,
            epochs=2,
            batch_size=32,
            augment=MANY,
            workers=workers,
            device="cpu",
            write=quiet,
        )
        found.append(weights(model))
    assert torch.equal(found[0], found[1]) and torch.equal(found[1], found[2])


def test_devices_change_nothing(tmp_path):
    "Two processes see the batches of one; the last one is of 22 samples"
    runs = [
        fit(net(norm=False), TRAIN, VALID, folder=tmp_path, epochs=2, batch_size=32, augment=MANY, tta=2, devices=devices, device="cpu", write=quiet)
        for devices in (1, 2)
    ]  # fmt: skip
    assert torch.allclose(losses(runs[0]), losses(runs[1]), rtol=1e-4, atol=1e-5)
    assert runs[0].progress.epochs[-1].valid_loss == pytest.approx(
        runs[1].progress.epochs[-1].valid_loss, rel=1e-4
    )


@pytest.mark.parametrize("step", [3, 6])  # within the first epoch, within the second
def test_stopped_and_resumed_is_uninterrupted(step, tmp_path):
    options = TrainOptions(device="cpu", epochs=3, batch_size=32, augment=MANY, tta=2)
    whole = net()
    follow(train(Task(whole, TRAIN, VALID), options))
    at = lambda e: type(e) is Step and e.step == step
    assert follow(train(Task(net(), TRAIN, VALID), options, tmp_path), at)[-1].state == "stopped"
    _, model_state, training, _ = load_checkpoint(tmp_path / "checkpoints")
    again = net()
    events = follow(train(Task(again, TRAIN, VALID), options, tmp_path, checkpoint=(model_state, training)))
    assert events[-1].state == "finished" and torch.equal(weights(whole), weights(again))
    assert not [e.text for e in events if type(e) is Note and "resume" in e.text]


KILLED = """
import sys
from test_augment import MANY, TRAIN, VALID, net, quiet
from trainopt_nb import fit
fit(net(), TRAIN, VALID, folder=sys.argv[1], epochs=3, batch_size=32, augment=MANY, save_steps=1, device="cpu", write=quiet)
"""


def test_killed_and_resumed_is_uninterrupted(tmp_path):
    run_until_killed(KILLED, tmp_path / "killed")
    run = until(lambda: find_run(None, tmp_path / "killed"), "the killed run")
    assert 4 < run.progress.step < 12
    again, whole = net(), net()
    resume(None, again, TRAIN, VALID, folder=tmp_path / "killed", write=quiet)
    fit(
        whole,
        TRAIN,
        VALID,
        folder=tmp_path / "whole",
        epochs=3,
        batch_size=32,
        augment=MANY,
        device="cpu",
        write=quiet,
    )
    assert torch.equal(weights(again), weights(whole))


def test_nothing_is_drawn_from_global_generators():
    state = torch.random.get_rng_state()
    made(MANY, X, classes=3)((X, Y), True)
    assert torch.equal(state, torch.random.get_rng_state())
    numbers = {mix(seed, epoch, batch, 11) for seed in range(3) for epoch in range(20) for batch in range(50)}
    assert len(numbers) == 3000


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("policy", [*NAMES, MANY])
def test_a_gpu_gives_what_the_cpu_gives(policy):
    "Up to rounding; where a pixel is read may round to its neighbor"
    images, labels = torch.rand(40, 3, 16, 16), torch.arange(40) % 3
    change = made(policy, images, classes=3)
    here = change((images, labels), training=True)
    there = change((images.cuda(), labels.cuda()), training=True)
    assert torch.allclose(here[1], there[1].cpu(), atol=1e-5)
    assert (here[0] - there[0].cpu()).abs().mean() < 1e-3


# --- what is refused, and said


def refused(error, match, data=TRAIN, model=None, **options):
    with pytest.raises(error, match=match) as caught:
        prepare(Task(model or net(), data, None), TrainOptions(device="cpu", **options))
    text = str(caught.value)
    assert "\n" not in text and text.endswith((".", "?"))


def test_wrong_policies_are_refused_with_the_nearest_right_one():
    for text, match in {
        "flipp": "no operation 'flipp'. Did you mean 'flip'?",
        "crop color:2": "strength of color is 0 to 1",
        "rotate:nan": "strength of rotate is 0 to 180",
        "crop:": "strength of crop",
        "flip flip": "stands twice",
        "default crop": "default stands alone",
    }.items():
        with pytest.raises(OptionError, match=match.replace("?", r"\?")):
            TrainOptions(augment=text)
    assert TrainOptions(augment="none").augment == "none"
    assert read_policy("color:0.1+hflip, Resize_Crop") == read_policy("color:0.1 flip resize-crop")


def test_data_that_is_not_for_images_is_refused():
    refused(
        DataError, r"found \(6\)|found \(8, 6\)", (torch.rand(40, 6), Y[:40]), nn.Linear(6, 3), augment="flip"
    )
    last = nn.Sequential(nn.Flatten(), nn.Linear(432, 3))
    refused(
        DataError, r"x.permute\(0, 3, 1, 2\)", (X.permute(0, 2, 3, 1).contiguous(), Y), last, augment="flip"
    )
    whole = nn.Sequential(nn.Flatten(), nn.Linear(432, 3))

    class Casts(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = whole

        def forward(self, x):
            return self.inner(x.float())

    refused(DataError, "found int64", ((X * 255).long(), Y), Casts(), augment="color")


def test_labels_that_would_not_stay_right_are_refused():
    boxes = torch.rand(160, 2, 4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(432, 8), nn.Unflatten(1, (2, 4)))
    refused(DataError, "would stay where they are", (X, boxes), model, augment="color crop", loss="mse")
    prepare(Task(model, (X, boxes), None), TrainOptions(device="cpu", augment="color", loss="mse"))
    masks = (X[:, 0] > 0.5).long()
    refused(DataError, "mixes labels", (X, masks), nn.Conv2d(3, 2, 1), augment="cutmix")
    ignored = torch.where(torch.arange(160) % 7 == 0, -100, Y)
    refused(DataError, "-100, which is no class", (X, ignored), augment="mixup")
    refused(TaskError, "name the loss", augment="mixup", loss=lambda s, t: F.multi_margin_loss(s, t))
    step = lambda model, batch: F.cross_entropy(model(batch[0]), batch[1])
    refused(TaskError, "training_step may not take", augment="mixup", training_step=step)


def test_a_step_of_the_users_own_gets_changed_images(tmp_path):
    seen = []

    def step(model, batch):
        seen.append(batch[0])
        return F.cross_entropy(model(batch[0]), batch[1])

    options = TrainOptions(
        device="cpu", epochs=1, shuffle=False, batch_size=32, augment="flip:1", training_step=step
    )
    prepared = prepare(Task(net(), TRAIN), options)
    seen.clear()
    assert follow(train(prepared, options))[-1].state == "finished"
    assert torch.equal(seen[0], X[:32].flip(-1)) and "flip:1" in str(prepared.assumptions)


def test_views_that_are_not_there_are_refused():
    refused(OptionError, "has 1 view: name flip", tta=2)
    refused(OptionError, "has 2 views: pass at most 2", augment="flip color", tta=3)
    refused(
        OptionError,
        "leave it out for masks",
        (X, (X[:, 0] > 0.5).long()),
        nn.Conv2d(3, 2, 1),
        augment="flip",
        tta=2,
    )
    step = lambda model, batch: F.cross_entropy(model(batch[0]), batch[1])
    refused(OptionError, "judge batches by themselves", augment="flip", tta=2, training_step=step)


def test_what_is_guessed_is_said():
    default = prepare(Task(net(), TRAIN), TrainOptions(device="cpu", augment="default"))
    said = {row.topic: row for row in default.assumptions}
    assert "the usual one for 3 channels" in said["augment"].text and "values" not in said
    rows = prepare(Task(net(), (X - 0.5, Y)), TrainOptions(device="cpu", augment="color")).assumptions
    (values,) = [row for row in rows if row.topic == "values"]
    assert "normalized" in values.text and not values.certain and values.option == "--augment-values"
    told = TrainOptions(device="cpu", augment="color", augment_values="normalized")
    assert all(row.certain for row in prepare(Task(net(), TRAIN), told).assumptions if row.topic == "values")
    numbers = prepare(
        Task(net(outputs=1), (X, X.mean((1, 2, 3)))), TrainOptions(device="cpu", augment="crop")
    )
    assert any("places in the image" in text for topic, text in numbers.notes if topic == "augment")
    unused = prepare(Task(net(), TRAIN), TrainOptions(device="cpu", augment_strength=0.5))
    assert any("there is no --augment" in text for _, text in unused.notes)


def test_an_operation_of_the_users_own(tmp_path):
    OPERATIONS.register("invert", Operation(lambda images, draws, strength, span: span[0] + span[1] - images))
    try:
        images = made("invert", X)((X, Y), True)[0]
        assert torch.allclose(images, 1 - X)
        run = fit(net(), TRAIN, folder=tmp_path, epochs=1, augment="flip invert", device="cpu", write=quiet)
        assert run.state == "finished"
        with pytest.raises(Exception, match="augments by invert, which is not of this package"):
            run.eject()
        OPERATIONS.register("broken", Operation(lambda images, draws, strength, span: images[:, :1]))
        refused(TaskError, "must keep the shape", augment="broken")
    finally:
        OPERATIONS.remove("invert")
        OPERATIONS.remove("broken")


def test_a_cell_that_runs_again_registers_its_operation_again():
    "Its functions are other ones then; those of a module are not replaced"
    made_in = lambda module: type(lambda: 0)((lambda images, *rest: images).__code__, {"__name__": module})
    try:
        for _ in range(2):
            OPERATIONS.register("again", Operation(made_in("__main__"), default=0.5))
        for name, function in (("again", made_in("elsewhere")), ("flip", made_in("__main__"))):
            with pytest.raises(OptionError, match="registered already"):
                OPERATIONS.register(name, Operation(function))
    finally:
        OPERATIONS.remove("again")


OWN = """
import sys
import torch
from torch import nn
from trainopt_nb import Task, TrainOptions, fit, sweep
from trainopt_nb.api.run_task import Where, run_task
from trainopt_nb.augment.policy import OPERATIONS, Operation

SHADE = 0.25
OPERATIONS.register("shade", Operation(lambda images, draws, strength, span: images * 0 + SHADE))


class Sees(nn.Module):
    "Fails where an image in training is not of one shade"

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(3, 3)

    def forward(self, x):
        assert not self.training or bool((x == SHADE).all()) or len(x) < 16, "not shaded"
        return self.last(x.mean((2, 3)))


if __name__ == "__main__":
    data, folder = (torch.rand(64, 3, 6, 6), torch.arange(64) % 3), sys.argv[1]
    more = dict(epochs=1, batch_size=32, augment="flip shade", device="cpu")
    run = fit(Sees(), data, data, folder=folder, devices=2, write=lambda line: None, **more)
    handle = run_task(Task(Sees(), data), TrainOptions.of(**more), Where(folder, background=True))
    for _ in handle.events():
        pass
    found = sweep(Task(Sees(), data, data), {"lr": (1e-3, 1e-1, "log"), "augment": ["shade", "flip shade"]}, folder=folder, trials=2, jobs=2, **more | {"augment": "none"})
    print(run.state, handle.run.state, [trial.state for trial in found.trials])
"""


def test_an_operation_of_the_users_own_travels(tmp_path):
    "To several devices, into the background, and to the workers of a sweep"
    ended = subprocess.run(python("-c", OWN, tmp_path), capture_output=True, text=True, timeout=300)
    said = ended.stdout + ended.stderr
    assert ended.stdout.rstrip().endswith("finished finished ['done', 'done']"), said


def test_an_operation_that_cannot_travel_is_named_before_the_run_begins():
    held = partial(lambda lock, images, *rest: images, threading.Lock())
    OPERATIONS.register("locked", Operation(held))
    try:
        with pytest.raises(RunError, match=r"the augmentation 'locked'.*cannot pickle '_thread\.lock'"):
            pack_task(Task(net(), TRAIN), TrainOptions(augment="locked"))
    finally:
        OPERATIONS.remove("locked")


def test_sweeps_search_policies_and_strengths_one_by_one():
    space = parse_space("augment=none|crop+flip|'crop color:0.3' augment_strength=0.5..2")
    assert space["augment"].choices == ("none", "crop+flip", "crop color:0.3")
    assert (space["augment_strength"].low, space["augment_strength"].high) == (0.5, 2.0)
    with pytest.raises(OptionError, match="Did you mean 'flip'"):
        parse_space("augment=none|flipp")
    reason = can_batch(Task(net(), TRAIN), TrainOptions(device="cpu", augment="flip"), ["lr", "augment"])
    assert reason.startswith("trials differ in augment")
    assert "tta" in can_batch(Task(net(), TRAIN), TrainOptions(device="cpu", tta=2), ["lr"])
