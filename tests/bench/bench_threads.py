"""The chosen number of CPU threads against PyTorch's own: four networks, as the machine is, and with a busy core beside

python tests/bench/bench_threads.py --data FOLDER [--updates 1000] [--pairs 5] [--only mlp]

FOLDER holds `tinyshakespeare.txt.gz`. `ratio` is the time of a training of so many updates with PyTorch's number, over that with the chosen one and
its measurement: at least 0.97. Steps are timed in turns.
"""

import argparse
import gzip
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from common import cnn, digits, mlp
from torch import nn

from trainopt_nb import Task, TrainOptions
from trainopt_nb.train.prepare import prepare
from trainopt_nb.train.threads import choose_threads
from trainopt_nb.train.trial_step import trial_step

BUSY = "while True: pass"


class Letters(nn.Module):
    "A block of attention over 64 letters, which says the next letter at each place"

    def __init__(self, letters, width=128, length=64):
        super().__init__()
        self.embed, self.place = nn.Embedding(letters, width), nn.Embedding(length, width)
        self.block = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.1, batch_first=True, norm_first=True)
        self.head = nn.Linear(width, letters)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(length))

    def forward(self, x):
        hidden = self.embed(x) + self.place(torch.arange(x.shape[1]))
        return self.head(self.block(hidden, src_mask=self.mask, is_causal=True)).transpose(1, 2)


def letters(folder):
    text = gzip.open(Path(folder) / "tinyshakespeare.txt.gz", "rt").read()[:400_000]
    known = {letter: number for number, letter in enumerate(sorted(set(text)))}
    rows = torch.tensor([known[letter] for letter in text[: len(text) // 65 * 65]]).view(-1, 65)
    return Letters(len(known)), (rows[:, :-1].contiguous(), rows[:, 1:].contiguous())


def wide_cnn():
    layers, channels = [], 3
    for width in (64, 128):
        layers += [
            nn.Conv2d(channels, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 64, 10))


def programs(folder):
    draw = torch.Generator().manual_seed(0)
    yield "mlp 64-128-10", lambda: (mlp(), digits()), 64
    yield "cnn on digits", lambda: (cnn(), digits(images=True)), 64
    yield "gpt block", lambda: letters(folder), 32
    pictures = torch.rand(512, 3, 32, 32, generator=draw), torch.randint(10, (512,), generator=draw)
    yield "cnn of 32x32", lambda: (wide_cnn(), pictures), 32


def seconds(step, threads, least=0.2):
    "Return the time of one step"
    torch.set_num_threads(threads)
    step()
    count, begun = 0, time.perf_counter()
    while not count or time.perf_counter() - begun < least:
        step()
        count += 1
    return (time.perf_counter() - begun) / count


def row(name, make, batch, updates, pairs):
    "Choose, and time both numbers"
    model, data = make()
    options = TrainOptions(batch_size=batch, device="cpu", max_steps=updates, epochs=100_000)
    usual = torch.get_num_threads()
    prepared = prepare(Task(model, data), options)
    with trial_step(prepared, options) as step:
        step()  # what a process does once, such as imports, is no part of the choice
    begun = time.perf_counter()
    choice = choose_threads(prepared, options)
    choosing = time.perf_counter() - begun
    with trial_step(prepared, options) as step:
        times = [(seconds(step, usual), seconds(step, choice.threads)) for _ in range(pairs)]
    torch.set_num_threads(usual)
    if choice.threads == usual:  # the same setting, so what differs is noise
        times = [(b, b) for _, b in times]
    before, after = (1000 * statistics.median(each) for each in zip(*times, strict=True))
    ratio = statistics.median(a * updates / (choosing + b * updates) for a, b in times)
    why = choice.how + ("" if choice.clear or choice.how == "size" else ", undecided")
    print(
        f"| {name} | {choice.threads} ({why}) | {choosing:.2f} | {before:.2f} | {after:.2f} | {ratio:.2f} |",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--updates", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    print(
        f"load {os.getloadavg()[0]:.1f}, {torch.get_num_threads()} threads by default, torch {torch.__version__}"
    )
    for name, busy in (("as it is", 0), ("one busy core beside", 1)):
        print(
            f"\n| {name} | threads | choice, s | default, ms | chosen, ms | ratio |\n| --- | ---: | ---: | ---: | ---: | ---: |"
        )
        others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
        try:
            with tempfile.TemporaryDirectory() as folder:
                os.environ["XDG_STATE_HOME"] = folder  # nothing is remembered
                for program in programs(given.data):
                    if given.only in program[0]:
                        row(*program, given.updates, given.pairs)
        finally:
            for other in others:
                other.kill()


if __name__ == "__main__":
    main()
