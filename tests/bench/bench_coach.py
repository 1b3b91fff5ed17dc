"""What the coach recommends, and what that gives on data that it never saw

python tests/bench/bench_coach.py [--seconds 60] [--tasks overfits stopped low high good adult texts] [--seeds 5] [--data FOLDER]

Each task has training, validation and test data. The coach sees the first two. Then the training as it is and the recommended one are done at full
length with other seeds, and both are judged on the test data. `adult` reads adult-train.csv.gz and `texts` reads tinyshakespeare.txt.gz of a folder;
a task whose file is not there is left out.
"""

import argparse
import gzip
import re
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev

import torch
from torch import nn

from trainopt_nb import Task, TrainOptions, fit
from trainopt_nb.insight.coach_task import coach_task

HERE = {"device": "cpu", "threads": 1}


def split(x, y, train, valid, test):
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))[: train + valid + test]
    x, y = x[order], y[order]
    ends = (0, train, train + valid, train + valid + test)
    return [(x[a:b], y[a:b]) for a, b in pairwise(ends)]


def digits(train):
    from sklearn.datasets import load_digits

    data = load_digits()
    x, y = torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)
    return split(x, y, train, 500, len(y) - train - 500)


def mlp(inputs, width, outputs, layers=1):
    torch.manual_seed(0)
    inner = [part for _ in range(layers - 1) for part in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), *inner, nn.Linear(width, outputs))


def adult(folder):
    import pandas as pd

    frame = pd.read_csv(folder / "adult-train.csv.gz", header=None)
    target = frame.columns[-1]
    y = torch.tensor(pd.factorize(frame[target], sort=True)[0])
    columns = pd.get_dummies(frame.drop(columns=target), dtype=float)
    x = torch.tensor(((columns - columns.mean()) / (columns.std() + 1e-9)).to_numpy(), dtype=torch.float32)
    parts = split(x, y, 2000, 1500, 8000)
    return mlp(x.shape[1], 64, 2), parts, {"epochs": 15}


def texts(folder):
    "Which of the four most frequent speakers says a line, by its words"
    text = gzip.open(folder / "tinyshakespeare.txt.gz", "rt").read()
    said = re.findall(r"^([A-Z][A-Za-z ]+):\n((?:.+\n)+)", text, re.MULTILINE)
    names = sorted({name for name, _ in said}, key=lambda n: -sum(name == n for name, _ in said))[:4]
    rows = [(line, names.index(name)) for name, lines in said if name in names for line in lines.splitlines()]
    words = [re.findall(r"[a-z']+", line.lower())[:12] for line, _ in rows]
    ids = torch.tensor([[hash_of(word) for word in line] + [0] * (12 - len(line)) for line in words])
    parts = split(ids, torch.tensor([label for _, label in rows]), 1500, 800, 1500)
    torch.manual_seed(0)
    return nn.Sequential(nn.EmbeddingBag(2000, 32, padding_idx=0), nn.Linear(32, 4)), parts, {"epochs": 15}


def hash_of(word):
    return 1 + sum(ord(letter) * 31**place for place, letter in enumerate(word)) % 1999


def tasks(folder):
    known = {
        "overfits": lambda: (mlp(64, 256, 10, 2), digits(200), {"epochs": 40, "batch_size": 32}),
        "stopped": lambda: (mlp(64, 64, 10), digits(800), {"epochs": 2, "batch_size": 32}),
        "low": lambda: (mlp(64, 64, 10), digits(800), {"epochs": 5, "lr": 1e-5, "batch_size": 32}),
        "high": lambda: (mlp(64, 64, 10), digits(800), {"epochs": 5, "lr": 3.0, "batch_size": 32}),
        "good": lambda: (
            mlp(64, 128, 10),
            digits(1000),
            {"epochs": 20, "lr": 3e-3, "batch_size": 32, "schedule": "cosine", "label_smoothing": 0.1},
        ),
    }
    if (folder / "adult-train.csv.gz").exists():
        known["adult"] = lambda: adult(folder)
    if (folder / "tinyshakespeare.txt.gz").exists():
        known["texts"] = lambda: texts(folder)
    return known


def judged(model, train, valid, test, options, folder):
    "Train at full length, and return the accuracy on the test data"
    run = fit(deepcopy(model), train, valid, folder=folder, write=lambda line: None, **options.changed())
    trained = run.trained.eval()
    with torch.no_grad():
        return float((trained(test[0]).argmax(1) == test[1]).float().mean())


def main(names, seconds, seeds, folder, runs):
    known = tasks(folder)
    print("| task | recommended | said | on test data, other seeds | measured for |")
    print("| --- | --- | --- | --- | --- |")
    for name in names or known:
        if name not in known:
            print(f"| {name} | its data are not in {folder} | | | |")
            continue
        model, (train, valid, test), changes = known[name]()
        options = TrainOptions(**changes, **HERE)
        found = coach_task(Task(model, train, valid), options, seconds=seconds)
        best = found.best
        if best is None:
            more = (
                ""
                if found.how.visible != found.how.visible
                else f"; {found.how.visible * 100:.1f} points would have been seen"
            )
            print(f"| {name} | nothing{more} | | | {found.how.seconds:.0f} s |", flush=True)
            continue
        gains = []
        for seed in range(500, 500 + seeds):
            pair = [
                judged(model, train, valid, test, each.replace(seed=seed), runs)
                for each in (options, found.options)
            ]
            gains.append(100 * (pair[1] - pair[0]))
        what = ", ".join(f"{key} {value}" for key, value in best.changes.items())
        said = f"{best.mean * 100:+.1f} ({best.low * 100:+.1f} to {best.high * 100:+.1f}), {best.why}"
        print(
            f"| {name} | {what} | {said} | {fmean(gains):+.1f} ± {stdev(gains):.1f} | {found.how.seconds:.0f} s |",
            flush=True,
        )


if __name__ == "__main__":
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--tasks", nargs="*", default=[])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data", type=Path, default=Path("data"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as runs:
        main(given.tasks, given.seconds, given.seeds, given.data, runs)
