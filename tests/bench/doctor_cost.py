"""What the doctor costs a training: interleaved pairs of runs with and without it

python tests/bench/doctor_cost.py [--pairs 5] [--seconds 6]

A small MLP, a CNN and a transformer encoder, batch 64, one thread. Each pair is two runs of about so many seconds that train in turns, 0.08 s of steps each in random order, so that what
else the machine does meets both. The CPU time with the doctor over that without it gives a ratio; the median of all pairs is printed with their quartiles, the number of looks, and whether
the weights of two runs, one after the other, are equal to the last bit.
"""

import argparse
import random
import statistics
import time

import torch
from torch import nn

from trainopt_nb import Task, TrainOptions
from trainopt_nb.events.records import Step
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


class Side:
    "A run with or without the doctor, that goes on a few steps at a time"

    def __init__(self, make, doctor, epochs):
        self.loop = loop_of(make, doctor, epochs)
        self.watched, self.events, self.took = watch(self.loop), self.loop.events(), 0.0

    def advance(self, steps):
        "Train so many steps; returns the wall time that passed, or None where the run has ended"
        if self.watched is not None:
            self.watched.woke()
        wall, began, done = time.perf_counter(), time.process_time(), 0
        for event in self.events:
            if self.watched is not None:
                self.watched.see(event)
            done += type(event) is Step
            if done == steps:
                break
        self.took += time.process_time() - began
        return time.perf_counter() - wall if done == steps else None


def in_turns(make, epochs, steps):
    "Train with and without the doctor in turns, so many steps each; returns the ratio of their CPU time and the number of looks"
    sides = {doctor: Side(make, doctor, epochs) for doctor in (True, False)}
    goes_on = True
    while goes_on:
        for doctor in random.sample((True, False), 2):
            passed = sides[doctor].advance(steps)
            goes_on = goes_on and passed is not None
            if not doctor:  # the budget is a share of the run's own time
                sides[True].watched.budget.began += passed or 0.0
    return sides[True].took / sides[False].took, sides[True].watched.budget.looks


def weights(make, doctor, epochs):
    side = Side(make, doctor, epochs)
    side.advance(None)
    return side.took, [*side.loop.prepared.model.parameters()]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for make in (mlp, cnn, encoder):
        weights(make, False, 1)
        single = weights(make, False, 4)[0] / 80
        epochs = max(3, round(asked.seconds / single / 20))
        found = [in_turns(make, epochs, max(1, round(0.08 / single))) for _ in range(asked.pairs)]
        ratios, looks = zip(*found, strict=True)
        low, middle, high = statistics.quantiles(ratios, n=4)
        equal = all(map(torch.equal, weights(make, True, 3)[1], weights(make, False, 3)[1]))
        print(
            f"{make.__name__:8} {middle:.3f} times ({low:.3f} to {high:.3f}), {statistics.median(looks):.0f} looks in {20 * epochs} steps, "
            f"{1000 * single:.2f} ms a step, weights {'equal' if equal else 'DIFFER'}",
            flush=True,
        )


if __name__ == "__main__":
    main()
