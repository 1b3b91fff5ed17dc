"""Compress small models and print what it gained here

    python tests/bench/bench_compress.py                       # each model by recipes of its own
    python tests/bench/bench_compress.py "prune 0.5"           # by these recipes
    python tests/bench/bench_compress.py --find 2              # by the search, with a budget of two minutes
    python tests/bench/bench_compress.py --find 15 --cifar cifar10_18k.npz --weights weights.pt

Each model is trained on the digits of scikit-learn and compressed by each recipe, one thread, in turns with the original. With `--cifar` it is a small
ResNet on CIFAR-10; `--weights` keeps it after it was trained, and reads it the next time. The file of images holds `train_jpeg`, `train_length` and
`train_label` and the same for `test`.
"""

import argparse
import io
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from trainopt_nb.api.fit import fit
from trainopt_nb.base.errors import TrainoptError
from trainopt_nb.compression.compress import compress

RECIPES = {
    "resnet": ("prune 0.5", "prune 0.55 macs", "prune 0.5 magnitude local", "lowrank 0.4"),
    "mlp": ("prune 0.8", "lowrank 0.8", "sparsify 0.95", "prune 0.5, lowrank 0.5"),
    "encoder": ("prune 0.5", "lowrank 0.3"),
}


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        same = inputs == outputs and stride == 1
        beside = nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
        self.beside = nn.Identity() if same else nn.Sequential(*beside)

    def forward(self, x):
        return (self.body(x) + self.beside(x)).relu()


def resnet(width=48, channels=1):
    "0.7 million parameters"
    blocks = Block(width, width, 1), Block(width, 2 * width, 2), Block(2 * width, 4 * width, 2)
    stem = nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 10))


def mlp(width=1024):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
    )  # fmt: skip


class encoder(nn.Module):
    "Four layers; the eight rows of an image are eight words"

    def __init__(self, width=128):
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 8, 4 * width, 0.1, batch_first=True)
        self.words, self.head = nn.Linear(8, width), nn.Linear(width, 10)
        self.layers = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.place = nn.Parameter(torch.zeros(8, width))

    def forward(self, x):
        return self.head(self.layers(self.words(x.squeeze(1)) + self.place).mean(1))


def digits():
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    x, y = (
        torch.tensor(images / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)[order],
        torch.tensor(labels)[order],
    )
    return (x[:1300], y[:1300]), (x[1300:], y[1300:])


def cifar(path):
    archive, parts = np.load(path), []
    for part in ("train", "test"):
        packed, lengths = archive[f"{part}_jpeg"].tobytes(), archive[f"{part}_length"]
        ends = np.cumsum(lengths)
        images = [
            np.asarray(Image.open(io.BytesIO(packed[end - n : end])).convert("RGB"))
            for end, n in zip(ends, lengths, strict=True)
        ]
        x = torch.tensor(np.stack(images)).permute(0, 3, 1, 2).float() / 255
        parts.append(((x - 0.45) / 0.25, torch.tensor(archive[f"{part}_label"]).long()))
    return tuple(parts)


def small_resnet(data, weights, epochs, folder):
    "A ResNet with 0.18 million parameters on CIFAR-10, trained once"
    torch.manual_seed(0)
    net = resnet(24, 3)
    if weights and Path(weights).exists():
        net.load_state_dict(torch.load(weights, weights_only=True))
        return net
    how = {"epochs": epochs, "batch_size": 128, "lr": 5e-3, "schedule": "onecycle", "device": "cpu"}
    fit(net, *data, folder=folder, write=lambda line: print(line, flush=True), **how)
    if weights:
        torch.save(net.state_dict(), weights)
    return net


def find_best(name, net, data, chosen, folder):
    "Search, and print the table and the code"
    began, write = (
        time.perf_counter(),
        lambda line: print(f"{time.perf_counter() - began:6.1f} s  {line}", flush=True),
    )
    more = {
        "floor": chosen.floor,
        "device": "cpu",
        "folder": folder,
        "batch_size": 128 if chosen.cifar else 32,
    }
    found = compress(net, data, "best", minutes=chosen.find, aim=chosen.aim, write=write, **more)
    print(
        f"\n{name}, {chosen.find:g} minutes, {time.perf_counter() - began:.0f} s\n{found}\n{found.code}",
        flush=True,
    )


def fewer(found):
    "Say how many multiplications candidates make, beside how fast they are"
    first, *rest = found.candidates
    size = min(first.measurement.times)
    said = [
        f"{each.name}: {first.measurement.macs / each.measurement.macs:.2f}× fewer multiplications, {each.speedups[size]:.2f}× at batch {size}."
        for each in rest
        if each.measurement.macs
    ]
    return "\n".join(said)


def main():
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument(
        "recipes", nargs="*", help="recipes for all models; each model has its own where none is given"
    )
    reader.add_argument("--models", nargs="*", default=list(RECIPES), choices=list(RECIPES))
    reader.add_argument("--floor", default="1%")
    reader.add_argument("--find", type=float, help="minutes of a search in place of recipes")
    reader.add_argument("--aim", default="fastest", choices=("fastest", "smallest", "accurate"))
    reader.add_argument("--cifar", help="file of images, for a small ResNet in place of the models")
    reader.add_argument("--weights", help="file that keeps the ResNet after it was trained")
    reader.add_argument("--epochs", type=int, default=8, help="of the ResNet's training")
    chosen = reader.parse_args()
    if chosen.cifar:
        with tempfile.TemporaryDirectory() as folder:
            data = cifar(chosen.cifar)
            net = small_resnet(data, chosen.weights, chosen.epochs, folder)
            if chosen.find:
                find_best("small ResNet on CIFAR-10", net, data, chosen, folder)
        return
    data = digits()
    for name in chosen.models:
        torch.manual_seed(0)
        net = {"resnet": resnet, "mlp": mlp, "encoder": encoder}[name]()
        with tempfile.TemporaryDirectory() as folder:
            fit(
                net,
                *data,
                epochs=20,
                device="cpu",
                threads=1,
                schedule="cosine",
                folder=folder,
                write=lambda line: None,
            )
            if chosen.find:
                find_best(name, net, data, chosen, folder)
                continue
            for recipe in chosen.recipes or RECIPES[name]:
                began = time.perf_counter()
                try:
                    found = compress(
                        net,
                        data,
                        recipe,
                        floor=chosen.floor,
                        device="cpu",
                        folder=folder,
                        write=lambda line: None,
                    )
                    print(
                        f"\n{name}, {recipe}, {time.perf_counter() - began:.0f} s\n{found}\n{fewer(found)}",
                        flush=True,
                    )
                except TrainoptError as error:
                    print(f"\n{name}, {recipe}: refused, {error}", flush=True)


if __name__ == "__main__":
    main()
