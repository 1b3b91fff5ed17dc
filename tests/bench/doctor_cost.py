"""What the doctor costs a training: interleaved pairs of runs with and without it

python tests/bench/doctor_cost.py [--pairs 9] [--seconds 4]

A small MLP, a CNN and a transformer encoder, batch 64, one thread. Each pair is two whole runs of about so many seconds with the same batches, in random order. The CPU time of the process
over that of the run without the doctor gives a ratio; the median of all pairs is printed with their quartiles, the number of looks, and whether the weights are equal to the last bit.
"""

import argparse
import random
import statistics
import time

import torch
from torch import nn

from trainopt_nb import Task, TrainOptions
from trainopt_nb.insight.training_doctor import watch
from trainopt_nb.train.loop import Loop
from trainopt_nb.train.prepare import prepare


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(1000, 64)
        layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
        self.layers, self.head = (
            nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
            nn.Linear(64, 10),
        )

    def forward(self, x):
        return self.head(self.layers(self.table(x)).mean(1))


def mlp():
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)), torch.rand(1280, 64)


def cnn():
    body = [
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
    ]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(512, 10)), torch.rand(1280, 1, 8, 8)


def encoder():
    return Encoder(), torch.randint(1000, (1280, 16))


def loop_of(make, doctor, epochs):
    torch.manual_seed(0)
    model, x = make()
    options = TrainOptions.of(epochs=epochs, device="cpu", threads=1, doctor=doctor, restore_best=False)
    return Loop(prepare(Task(model, (x, torch.randint(10, (len(x),)))), options), options)


def run(make, doctor, epochs):
    "Train; returns CPU seconds, looks, and the weights"
    loop = loop_of(make, doctor, epochs)
    watched, events, began = watch(loop), loop.events(), time.process_time()
    for event in events:
        if watched is not None:
            watched.see(event)
    took = time.process_time() - began
    return took, 0 if watched is None else watched.budget.looks, [*loop.prepared.model.parameters()]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=4.0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for make in (mlp, cnn, encoder):
        run(make, False, 1)
        epochs = max(2, round(5 * asked.seconds / run(make, False, 5)[0]))
        ratios, looks, equal = [], [], True
        for _ in range(asked.pairs):
            order = random.sample((True, False), 2)
            found = {doctor: run(make, doctor, epochs) for doctor in order}
            ratios.append(found[True][0] / found[False][0])
            looks.append(found[True][1])
            equal = equal and all(map(torch.equal, found[True][2], found[False][2]))
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(
            f"{make.__name__:8} {middle:.3f} times ({low:.3f} to {high:.3f}), {statistics.median(looks):.0f} looks in {20 * epochs} steps, "
            f"{1000 * found[False][0] / (20 * epochs):.2f} ms a step, weights {'equal' if equal else 'DIFFER'}",
            flush=True,
        )


if __name__ == "__main__":
    main()
