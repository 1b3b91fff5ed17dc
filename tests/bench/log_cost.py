"""What `--log` costs a training: pairs of runs with and without it, in random order

python tests/bench/log_cost.py [--pairs 7] [--seconds 5] [--writer tensorboard]

A small MLP (64, 128, 10), batch 64, one thread, losses of every step. The writer follows the run's own log in a thread, so its CPU time is part of the process's. Printed are the CPU time
of a step and the wall time of a step with the writer, each over that without it: the median of the pairs, with their quartiles. Both runs of a pair have equally many steps.
"""

import argparse
import random
import statistics
import tempfile
import time

import torch
from torch import nn

from trainopt_nb import fit

SAMPLES, BATCH = 6400, 64


def timed(log, epochs):
    "Train once; returns seconds of CPU time and of the clock"
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    data = torch.rand(SAMPLES, 64), torch.randint(10, (SAMPLES,))
    with tempfile.TemporaryDirectory() as folder:
        cpu, wall = time.process_time(), time.perf_counter()
        fit(
            model, data, epochs=epochs, batch_size=BATCH, device="cpu", threads=1, restore_best=False, log=log, folder=folder,
            write=lambda line: None,
        )  # fmt: skip
        return time.process_time() - cpu, time.perf_counter() - wall


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--writer", default="tensorboard")
    asked = parser.parse_args()
    timed((), 2), timed((asked.writer,), 2)  # imports
    epochs = max(2, round(4 * asked.seconds / timed((), 4)[1]))
    ratios = []
    for number in range(asked.pairs):
        order = random.Random(number).sample([(), (asked.writer,)], 2)
        took = {log: timed(log, epochs) for log in order}
        ratios.append([a / b for a, b in zip(took[(asked.writer,)], took[()], strict=True)])
    steps = epochs * SAMPLES // BATCH
    for name, column in zip(("CPU time", "clock"), zip(*ratios, strict=True), strict=True):
        low, middle, high = statistics.quantiles(column, n=4)
        print(f"{asked.writer}, {steps:,} steps, {name}: {middle:.3f} ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
