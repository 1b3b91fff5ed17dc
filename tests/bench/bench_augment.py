"""What augmentation costs, against kornia's own container and torchvision's transforms of one sample after the other, and what it gains on CIFAR-10

    python tests/bench/bench_augment.py                      # the cost, on one thread
    python tests/bench/bench_augment.py cifar10_18k.npz      # and the gain: test accuracy with and without, three seeds

The file holds `train_jpeg`, `train_length`, `train_label` and the same for `test`: JPEG bytes one after another, their lengths, the classes.
"""

import argparse
import io
import statistics
import tempfile
import time
import warnings

import numpy as np
import torch
from torch import nn

from trainopt_nb import fit
from trainopt_nb.augment.augment import Augment, find_values
from trainopt_nb.augment.policy import read_policy

KORNIA = {  # ours -> the same operations of kornia
    "crop flip rotate:10 color:0.3": lambda K: [
        K.RandomCrop((32, 32), padding=4),
        K.RandomHorizontalFlip(),
        K.RandomRotation(10.0),
        K.ColorJitter(0.3, 0.3, 0.3, 0.0),
    ],
    "crop flip blur:1 erase:0.2": lambda K: [
        K.RandomCrop((32, 32), padding=4),
        K.RandomHorizontalFlip(),
        K.RandomGaussianBlur((5, 5), (0.1, 1.0), p=1.0),
        K.RandomErasing(p=1.0),
    ],
}


TORCHVISION = {  # ours -> the same operations of torchvision, for one sample
    "crop flip rotate:10 color:0.3": lambda v2: [
        v2.RandomCrop(32, padding=4),
        v2.RandomHorizontalFlip(),
        v2.RandomRotation(10.0),
        v2.ColorJitter(0.3, 0.3, 0.3),
    ],
    "crop flip blur:1 erase:0.2": lambda v2: [
        v2.RandomCrop(32, padding=4),
        v2.RandomHorizontalFlip(),
        v2.GaussianBlur(5, (0.1, 1.0)),
        v2.RandomErasing(p=1.0),
    ],
}


def cost(function):
    "Seconds of processor time of one call"
    began = time.process_time()
    function()
    return time.process_time() - began


def compare(policy, name, theirs, rounds):
    "Print what 256 images of 3x32x32 cost by each, in turn"
    images, labels = torch.rand(256, 3, 32, 32), torch.zeros(256, dtype=torch.long)
    ours = Augment(read_policy(policy), 0, find_values(images))
    ways = {name: lambda: theirs(images), "ours": lambda: ours((images, labels), training=True)}
    with torch.no_grad():
        times = [{each: cost(way) for each, way in ways.items()} for _ in range(rounds + 2)][2:]
    ratios = sorted(row["ours"] / row[name] for row in times)
    middle = {each: 1e3 * statistics.median(row[each] for row in times) for each in ways}
    print(
        f"{policy}: {name} {middle[name]:.1f} ms, ours {middle['ours']:.1f} ms, "
        f"ratio {statistics.median(ratios):.2f} ({ratios[2]:.2f} to {ratios[-3]:.2f})"
    )


def compare_all():
    "Print the cost against each library that is installed"
    import kornia.augmentation as K

    for policy, theirs in KORNIA.items():
        compare(policy, "kornia", K.AugmentationSequential(*theirs(K), data_keys=["input"]), 15)
    try:
        from torchvision.transforms import v2
    except Exception as error:  # it is not installed, or not built for this version of torch
        print(f"no comparison with torchvision: {type(error).__name__}: {error}")
        return
    for policy, theirs in TORCHVISION.items():
        one = v2.Compose(theirs(v2))
        compare(policy, "torchvision", lambda images, one=one: torch.stack([one(x) for x in images]), 5)


def decoded(archive, part):
    "Images as uint8 of shape (samples, 3, 32, 32), and labels"
    from PIL import Image

    ends = np.cumsum(archive[f"{part}_length"])
    data = archive[f"{part}_jpeg"].tobytes()
    rows = [np.asarray(Image.open(io.BytesIO(data[a:b]))) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    labels = torch.from_numpy(np.asarray(archive[f"{part}_label"])).long()
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).contiguous(), labels


def small_cnn(seed, width):
    torch.manual_seed(seed)

    def block(a, b):
        return [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2)]

    layers = [*block(3, width), *block(width, 2 * width), *block(2 * width, 4 * width)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * width * 16, 10))


def gain(path, epochs, seeds, policies, rows, width):
    "Print the test accuracy after equal epochs"
    archive = np.load(path)
    (x, y), (x_test, y_test) = (decoded(archive, part) for part in ("train", "test"))
    mean, std = (x.float().mean((0, 2, 3), keepdim=True), x.float().std((0, 2, 3), keepdim=True))
    pick = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:rows]
    train, test = ((x[pick] - mean) / std, y[pick]), ((x_test - mean) / std, y_test)
    for seed in seeds:
        for policy in policies:
            with tempfile.TemporaryDirectory() as folder:
                run = fit(
                    small_cnn(seed, width), train, test, folder=folder, epochs=epochs, batch_size=128, lr=3e-3, schedule="onecycle", seed=seed,
                    augment=policy, restore_best=False, device="cpu", write=lambda text: None,
                )  # fmt: skip
                print(
                    f"seed {seed}  {policy:<20} test accuracy {run.progress.epochs[-1].metrics['accuracy']:.4f}",
                    flush=True,
                )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="?", help="cifar10_18k.npz")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=15_000, help="training images")
    parser.add_argument("--width", type=int, default=32, help="channels of the first layer")
    parser.add_argument("--policies", nargs="+", default=["none", "default"])
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    compare_all()
    if given.data:
        gain(given.data, given.epochs, given.seeds, given.policies, given.rows, given.width)
