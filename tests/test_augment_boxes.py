"Boxes, key points and masks of objects follow their images"

import math
from types import SimpleNamespace

import pytest
import torch
from helpers import follow, losses, quiet, weights
from hypothesis import example, given
from hypothesis import strategies as st
from properties import examples
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from trainopt_nb import Task, TrainOptions, fit
from trainopt_nb.augment.augment import Augment, find_values
from trainopt_nb.augment.boxes import moved_boxes
from trainopt_nb.augment.moves import rotate
from trainopt_nb.augment.objects import check_objects
from trainopt_nb.augment.policy import read_policy
from trainopt_nb.base.errors import DataError, OptionError
from trainopt_nb.train.loop import train
from trainopt_nb.train.prepare import prepare


def scene(seed, height=24, width=32, objects=2):
    "An image with rectangles that do not touch, each bright in a channel of its own, and their boxes"
    g = torch.Generator().manual_seed(seed)
    image, boxes = torch.zeros(3, height, width), []
    for place in range(objects):
        left = 2 + 15 * place + int(torch.randint(0, 4, (), generator=g))
        top = 2 + int(torch.randint(0, 10, (), generator=g))
        wide, high = (int(n) for n in torch.randint(5, 9, (2,), generator=g))
        image[place, top : top + high, left : left + wide] = 1
        boxes.append([left, top, left + wide, top + high])
    return image, torch.tensor(boxes, dtype=torch.float32)


def target(boxes, image, **more):
    masks = torch.zeros(len(boxes), *image.shape[-2:], dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.long().tolist(), strict=True):
        mask[top:bottom, left:right] = True
    centers = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, torch.full((len(boxes), 1), 2.0)], 1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return {"boxes": boxes, "labels": torch.arange(len(boxes)) + 1, "masks": masks, "keypoints": centers[:, None], "area": area, **more}  # fmt: skip


def made(policy, images, seed=0, **more):
    return Augment(read_policy(policy), seed, find_values(images), **more)


def bright(image, place):
    "The smallest box around the pixels of an object; None where there are none"
    rows, columns = (image[place] > 0.5).nonzero().unbind(1)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else None


@examples(60)
@given(
    st.sampled_from(["rotate:40", "crop", "resize-crop", "flip:1", "vertical-flip:1 crop:0.3"]),
    st.integers(0, 2**31),
    st.sampled_from([(24, 32), (30, 30), (40, 33)]),
)
@example("vertical-flip:1 crop:0.3", 612934, (30, 30))  # all boxes of an image left it
def test_boxes_are_where_the_objects_are(policy, seed, size):
    "Of objects that are still whole, as seen in the pixels of the image"
    pairs = [scene(seed + k, *size) for k in range(6)]
    images = torch.stack([image for image, _ in pairs])
    targets = [{"boxes": boxes, "labels": torch.arange(2)} for _, boxes in pairs]
    changed, fitting = made(policy, images, seed)((images, targets), training=True)
    assert changed.shape == images.shape and len(fitting) == 6
    room = 8 if policy.startswith("rotate") else 1.5  # the box of turned corners is wider than the object
    for image, row in zip(changed, fitting, strict=True):
        assert row["boxes"].shape == (len(row["labels"]), 4)
        assert (row["boxes"] >= 0).all() and (row["boxes"] <= torch.tensor(size).flip(0).repeat(2)).all()
        for box, label in zip(row["boxes"].tolist(), row["labels"].tolist(), strict=True):
            seen = bright(image, label)
            if seen is not None and all(
                2 < v < limit - 2 for v, limit in zip(seen, [size[1], size[0]] * 2, strict=True)
            ):
                assert all(abs(a - b) <= room for a, b in zip(box, seen, strict=True)), (box, seen)


def test_flips_and_shifts_are_exact():
    pairs = [scene(k) for k in range(16)]
    images = torch.stack([image for image, _ in pairs])
    targets = [target(boxes, image) for image, boxes in pairs]
    changed, fitting = made("flip vertical-flip crop:0.5", images)((images, targets), True)
    whole = 0
    for image, row in zip(changed, fitting, strict=True):
        for box, label, mask in zip(row["boxes"].tolist(), row["labels"].tolist(), row["masks"], strict=True):
            assert box == [float(v) for v in bright(image, label - 1)]
            inside = torch.zeros_like(mask)
            left, top, right, bottom = map(int, box)
            inside[top:bottom, left:right] = True
            assert torch.equal(mask, inside)
            whole += 1
        assert len({len(v) for v in row.values()}) == 1
    assert 20 < whole < 32  # some left the image, and took all that belongs to them along


def test_a_turned_box_is_that_of_its_corners():
    box = torch.tensor([[10.0, 8.0, 20.0, 14.0]])
    turned, kept = moved_boxes(box, rotate(torch.tensor([[1.0]]), 90.0, 24, 32), 24, 32)  # by 90 degrees
    wide, high = (turned[0, 2:] - turned[0, :2]).tolist()
    assert kept and (wide, high) == pytest.approx((6, 10))
    turned, _ = moved_boxes(box, rotate(torch.tensor([[0.75]]), 90.0, 24, 32), 24, 32)
    assert (turned[0, 2:] - turned[0, :2]).tolist() == pytest.approx([16 / math.sqrt(2)] * 2, abs=1e-4)


def test_key_points_that_leave_the_image_are_no_longer_visible():
    image, boxes = scene(0)
    one = target(boxes, image)
    _, (row,) = made("crop:0.6", image[None], seed=3)((image[None], [one]), True)
    centers = (row["boxes"][:, :2] + row["boxes"][:, 2:]) / 2
    assert len(row["boxes"]) < 2 or (row["keypoints"][:, 0, 2] > 0).any()
    for points, center in zip(row["keypoints"][:, 0], centers, strict=True):
        assert points[2] in (0, 2) and (points[2] == 0) == bool((points == 0).all())
        assert points[2] == 0 or (points[:2] - center).abs().max() < 5


def test_lists_of_images_of_several_sizes_change_as_each_alone_would():
    "Whatever stands beside it: its place in the batch decides"
    sizes = [(24, 32), (30, 36), (24, 32), (26, 34)]
    pairs = [scene(k, *size) for k, size in enumerate(sizes)]
    images = [image for image, _ in pairs]
    targets = [target(boxes, image, image_id=torch.tensor([k])) for k, (image, boxes) in enumerate(pairs)]
    change = made("crop rotate:20 color:0.2 flip", images[0])
    changed, fitting = change((images, targets), True)
    assert isinstance(changed, list) and [image.shape for image in changed] == [
        image.shape for image in images
    ]
    assert [int(row["image_id"]) for row in fitting] == [0, 1, 2, 3]
    for k in range(4):  # the same image four times
        alone, own = change(([images[k]] * 4, [targets[k]] * 4), True)
        assert torch.allclose(alone[k], changed[k], atol=1e-6) and torch.equal(
            own[k]["boxes"], fitting[k]["boxes"]
        )


def test_padded_rows_become_padding():
    pairs = [scene(k) for k in range(16)]
    images = torch.stack([image for image, _ in pairs])
    boxes = torch.stack([torch.cat([boxes, torch.zeros(1, 4)]) for _, boxes in pairs])
    labels = torch.tensor([[1, 2, 0]] * 16)
    for batch in (
        (images, {"boxes": boxes, "labels": labels}),
        {"image": images, "boxes": boxes, "labels": labels},
    ):
        change = made("crop:0.5 flip", images, padding=0)
        found = change(batch, True)
        row = found if isinstance(found, dict) else found[1]
        gone = (row["boxes"] == 0).all(2)
        assert torch.equal(gone, row["labels"] == 0) and 16 < gone.sum() < 40 and gone[:, 2].all()
        listed = [{"boxes": b[:2], "labels": torch.tensor([1, 2])} for b in boxes]
        kept = made("crop:0.5 flip", images)((images, listed), True)[1]
        assert torch.equal(torch.cat([each["boxes"] for each in kept]), row["boxes"][~gone])


def test_what_lies_beyond_the_border_holds_no_mirrored_object():
    image = torch.zeros(1, 1, 12, 12)
    image[..., 1:4, 1:4] = 1
    images, box = image.expand(32, -1, -1, -1).contiguous(), torch.tensor([[1.0, 1.0, 4.0, 4.0]])
    for policy in ("crop:0.5", "rotate:45"):
        changed, rows = made(policy, images)((images, [{"boxes": box}] * 32), True)
        for one, row in zip(changed, rows, strict=True):
            seen = (one[0] > 0.5).nonzero()
            if len(row["boxes"]) and len(seen):
                low, high = seen.amin(0).flip(0), seen.amax(0).flip(0) + 1
                assert (low >= row["boxes"][0, :2] - 1).all() and (high <= row["boxes"][0, 2:] + 1).all()
    plain, filled = (
        made("crop:0.5", images)((images, targets), True)[0] for targets in (None, [{"boxes": box}] * 32)
    )
    assert (filled[plain != filled] == image.mean()).all() and (plain != filled).any()


# --- tasks


class Scenes(Dataset):
    def __init__(self, count=24, sizes=((24, 32),)):
        self.rows = [scene(k, *sizes[k % len(sizes)]) for k in range(count)]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        image, boxes = self.rows[index]
        return image, {"boxes": boxes, "labels": torch.arange(len(boxes)) + 1}


def listed(rows):
    return tuple(map(list, zip(*rows, strict=True)))


class Finder(nn.Module):
    "Looks for one box in an image of any size"

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 4)
        )

    def forward(self, images):
        return torch.cat([self.layers(image[None]) for image in images])


def find_step(model, batch):
    images, targets = batch
    wanted = torch.stack([row["boxes"].mean(0) if len(row["boxes"]) else torch.zeros(4) for row in targets])
    return F.l1_loss(model(images) * 10, wanted)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_step_of_the_users_own_gets_moved_boxes(workers, tmp_path):
    seen = []

    def step(model, batch):
        seen.append(batch)
        return find_step(model, batch)

    data = Scenes(sizes=((24, 32), (30, 36)))
    loader = DataLoader(data, batch_size=8, collate_fn=listed, num_workers=workers)
    options = TrainOptions(device="cpu", epochs=1, augment="flip:1 color:0.1", training_step=step)
    prepared = prepare(Task(Finder(), loader, loader), options)
    said = {row.topic: row for row in prepared.assumptions}
    assert "objects of which less than a tenth is left are taken out" in said["targets"].text
    assert said["targets"].option == "--augment-targets"
    seen.clear()
    assert follow(train(prepared, options))[-1].state == "finished"
    images, targets = seen[0]
    for image, row, (before, boxes) in zip(images, targets, data.rows[:8], strict=True):
        width = image.shape[-1]
        assert torch.equal(
            row["boxes"], torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
        )
        assert (image - before.flip(-1)).abs().mean() < 0.2
    assert torch.equal(seen[-1][1][0]["boxes"], data.rows[16][1])  # the validation is not changed


def test_devices_and_stops_change_nothing(tmp_path):
    def trained(**more):
        model = Finder()
        loader = DataLoader(Scenes(), batch_size=8, collate_fn=listed)
        run = fit(model, loader, folder=tmp_path, epochs=2, augment="crop rotate:20 flip", device="cpu", write=quiet, training_step=find_step, **more)  # fmt: skip
        return run, weights(model)

    (one, left), (again, right) = trained(), trained()
    assert torch.equal(left, right) and torch.equal(losses(one), losses(again))


def test_one_box_for_each_image_follows_where_it_is_declared():
    "An image whose box would leave it is not moved, so that there is always a target"
    pairs = [scene(k, objects=1) for k in range(64)]
    x, y = torch.stack([image for image, _ in pairs]), torch.cat([boxes for _, boxes in pairs])
    model = lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 32, 4))
    options = TrainOptions(
        device="cpu", epochs=1, augment="crop:0.8 flip", augment_targets="boxes", batch_size=64, shuffle=False
    )
    prepared = prepare(Task(model(), (x, y)), options)
    (said,) = [row.text for row in prepared.assumptions if row.topic == "targets"]
    assert said.startswith("one box for each image")
    images, boxes = next(prepared.device_batches(iter(prepared.data.train.epoch(0))))
    still = sum(torch.equal(a, b) for a, b in zip(images, x, strict=True))
    assert 5 < still < 50 and ((boxes[:, 2:] - boxes[:, :2]).prod(1) > 1).all()
    for image, box in zip(images, boxes.tolist(), strict=True):
        assert box == [float(v) for v in bright(image, 0)]
    assert follow(train(prepared, options))[-1].state == "finished"
    centers = (y[:, :2] + y[:, 2:]) / 2
    points = prepare(Task(nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 32, 2)), (x, centers)), TrainOptions(device="cpu", augment="flip:1", augment_targets="points", batch_size=64, shuffle=False))  # fmt: skip
    _, moved = next(points.device_batches(iter(points.data.train.epoch(0))))
    assert torch.allclose(moved, torch.stack([32 - centers[:, 0], centers[:, 1]], 1))


def refused(error, match, data, model=None, **options):
    with pytest.raises(error, match=match) as caught:
        prepare(Task(model or Finder(), data, None), TrainOptions(device="cpu", **options))
    text = str(caught.value)
    assert "\n" not in text and text.endswith((".", "?"))


def of(change):
    "Batches whose boxes are in another form"
    data = Scenes()
    rows = [(image, {"boxes": change(boxes), "labels": torch.arange(2)}) for image, boxes in data.rows]
    return DataLoader(rows, batch_size=8, collate_fn=listed)


def test_places_in_another_form_get_one_sentence():
    any_form = lambda model, batch: model(batch[0]).sum() * len(batch[1][0]["boxes"])
    step = {"training_step": any_form, "augment": "flip crop"}
    refused(
        DataError,
        "ends before it begins: pass corners",
        of(lambda b: torch.cat([b[:, 2:], b[:, :2]], 1)),
        **step,
    )
    refused(DataError, "in pixels, and none of these is above 1", of(lambda b: b / 40), **step)
    refused(DataError, "boxes of four numbers", of(lambda b: torch.cat([b, b[:, :1]], 1)), **step)
    refused(DataError, "mixes labels", of(lambda b: b), **step | {"augment": "mixup"})

    centers = torch.ones(1, 4)
    centers.format = SimpleNamespace(name="CXCYWH")  # as of torchvision's tv_tensors
    with pytest.raises(DataError, match="these have the format CXCYWH: pass corners") as refusal:
        check_objects([{"boxes": centers}], 24, 32)
    names = {"torch": torch, "boxes": torch.tensor([[10.0, 6, 8, 4]])}
    exec(str(refusal.value).partition("for instance by ")[2].rstrip("."), names)  # the sentence has the code
    assert names["boxes"].tolist() == [[6, 4, 14, 8]]
    x = torch.rand(40, 3, 24, 32)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 32, 3))
    for how, shape in (("points", (40, 3)), ("boxes", (40, 3))):
        refused(
            DataError,
            "augment-targets points takes|boxes of four",
            (x, torch.rand(*shape) * 20),
            flat,
            augment="flip",
            augment_targets=how,
        )
    refused(
        OptionError, "Did you mean|boxes", (x, torch.rand(40, 3)), flat, augment="flip", augment_targets="box"
    )
    both = {"image": x, "depth": torch.rand(40, 24, 32), "label": torch.arange(40) % 3}
    refused(
        DataError,
        "would stay as it is: make it a channel",
        DataLoader([{k: v[i] for k, v in both.items()} for i in range(40)], batch_size=8),
        flat,
        augment="flip",
        training_step=lambda m, b: m(b["image"]).mean(),
    )


def test_targets_that_stay_can_be_declared():
    x, shares = torch.rand(40, 3, 8, 8), torch.rand(40, 2, 3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.Unflatten(1, (2, 3)))
    refused(
        DataError,
        "Declare boxes or points in one tensor by --augment-targets",
        (x, shares),
        model,
        augment="flip",
        loss="mse",
    )
    prepare(
        Task(model, (x, shares)),
        TrainOptions(device="cpu", augment="flip", loss="mse", augment_targets="still"),
    )


def test_a_run_with_boxes_has_no_script(tmp_path):
    pairs = [scene(k, objects=1) for k in range(32)]
    data = torch.stack([image for image, _ in pairs]), torch.cat([boxes for _, boxes in pairs])
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 32, 4))
    run = fit(
        model,
        data,
        folder=tmp_path,
        epochs=1,
        augment="flip",
        augment_targets="boxes",
        device="cpu",
        write=quiet,
    )
    with pytest.raises(Exception, match="moves boxes or points with its images"):
        run.eject()


def test_masks_of_whole_numbers_keep_objects_by_answers():
    from trainopt_nb.augment.boxes import moved_objects

    masks, same = torch.zeros(2, 8, 8, dtype=torch.uint8), torch.eye(2, 3).repeat(2, 1, 1)
    masks[0, 2:4, 2:4] = 1
    _, kept = moved_objects({"masks": masks}, same, 8, 8)
    assert kept.dtype == torch.bool and kept.tolist() == [True, False]
