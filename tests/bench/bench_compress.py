"""Compress small models and print what it gained here: `python tests/bench/bench_compress.py [recipe ...]`

Each model is trained on the digits of scikit-learn and compressed by each recipe, one thread, in turns with the original.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from trainopt_nb.api.fit import fit
from trainopt_nb.base.errors import TrainoptError
from trainopt_nb.compress.compress import compress

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


def resnet(width=48):
    "0.7 million parameters"
    blocks = Block(width, width, 1), Block(width, 2 * width, 2), Block(2 * width, 4 * width, 2)
    stem = nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
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


def main():
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument(
        "recipes", nargs="*", help="recipes for all models; each model has its own where none is given"
    )
    reader.add_argument("--models", nargs="*", default=list(RECIPES), choices=list(RECIPES))
    reader.add_argument("--floor", default="1%")
    chosen, data = reader.parse_args(), digits()
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
                    print(f"\n{name}, {recipe}, {time.perf_counter() - began:.0f} s\n{found}", flush=True)
                except TrainoptError as error:
                    print(f"\n{name}, {recipe}: refused, {error}", flush=True)


if __name__ == "__main__":
    main()
