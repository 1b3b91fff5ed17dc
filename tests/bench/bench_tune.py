"""Tuning: a naive script on digits to 97%, random starts of which none may end slower, and an exhaustive search of a small grid

python tests/bench/bench_tune.py --part naive
python tests/bench/bench_tune.py --part starts --starts 200 [--seconds 5] [--first 0]
python tests/bench/bench_tune.py --part grid

`naive`: seconds to 97% by a loop as many write it (a sample made in Python by `__getitem__`, `collate_fn`, PyTorch's own threads), by a run with
default options, and by a run with what `tune` proposed, with and without the tuning. `starts`: random networks, data and options; what comes out is
compared with its start in fresh pairs, and is slower where the whole interval is below 1. `grid`: all values of some options in turns; `reached` is
the speed of what `tune` proposed over that of the fastest, at least 0.95.
"""

import argparse
import itertools
import random
import statistics
import tempfile
import time

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, Dataset

from trainopt_nb import Task, TrainOptions
from trainopt_nb.api.run_task import Where, run_task
from trainopt_nb.events.records import Epoch
from trainopt_nb.insight.real_steps import RealSteps
from trainopt_nb.insight.tune import tune
from trainopt_nb.train.pairs import compare
from trainopt_nb.train.prepare import prepare
from trainopt_nb.train.threads import threads_by_size

GOAL = 0.97


class Digits(Dataset):
    "Makes the tensor of a sample out of Python numbers, each time that it is read"

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        rows = [[value / 16.0 for value in row] for row in self.images[i]]
        return torch.tensor([rows], dtype=torch.float32), torch.tensor(int(self.labels[i]))


def collate(samples):
    images, labels = zip(*samples, strict=True)
    return torch.stack(images), torch.stack(labels)


def parts():
    digits = load_digits()
    split = train_test_split(
        digits.images, digits.target, test_size=360, random_state=0, stratify=digits.target
    )
    return Digits(split[0], split[2]), Digits(split[1], split[3])


def mlp(width=128, depth=2, seed=0):
    torch.manual_seed(seed)
    layers = [nn.Flatten(), nn.Linear(64, width), nn.ReLU()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def cnn(width=8, seed=0):
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(32 * width, 10))


def by_hand(model, epochs=60):
    "The loop of a script: seconds to the goal"
    train, valid = parts()
    optimizer, loss = torch.optim.AdamW(model.parameters(), lr=1e-3), nn.CrossEntropyLoss()
    batches = DataLoader(train, 32, shuffle=True, collate_fn=collate)
    judged = DataLoader(valid, 128, collate_fn=collate)
    began = time.perf_counter()
    for _ in range(epochs):
        model.train()
        for x, y in batches:
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            right = sum((model(x).argmax(1) == y).sum().item() for x, y in judged)
        if right / len(valid) >= GOAL:
            break
    return time.perf_counter() - began


def by_run(task, options):
    "A run: seconds to the goal with its preparation, and epochs"
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        handle = run_task(task, options, Where(folder))
        for events in handle.events():
            rows = [e for e in events if isinstance(e, Epoch) and e.metrics["accuracy"] >= GOAL]
            if rows:
                spent = time.perf_counter() - began
                handle.close()
                return spent, rows[0].epoch
    return float("nan"), options.epochs


def naive(args):
    options = TrainOptions(batch_size=32, epochs=60, device="cpu")
    by_run(Task(mlp(16), *parts()), options.replace(epochs=1))  # imports
    rows = {"by hand": [], "plain": [], "tuned": [], "tuning": []}
    for _ in range(args.rounds):
        rows["by hand"].append(by_hand(mlp()))
        rows["plain"].append(by_run(Task(mlp(), *parts()), options)[0])
        began = time.perf_counter()
        found = tune(Task(mlp(), *parts()), options, seconds=args.seconds)
        rows["tuning"].append(time.perf_counter() - began)
        rows["tuned"].append(by_run(Task(mlp(), *parts()), found.options)[0])
        print(found, flush=True)
    print(f"threads of PyTorch: {torch.get_num_threads()}")
    for name, values in rows.items():
        print(f"{name:8} {statistics.median(values):8.2f} s   {[round(v, 2) for v in values]}")
    hand, tuned, spent = (statistics.median(rows[name]) for name in ("by hand", "tuned", "tuning"))
    print(f"times as fast: {hand / tuned:.1f} without the tuning, {hand / (tuned + spent):.1f} with it")


def drawn(number):
    "A random training"
    draw = random.Random(number)
    train, valid = parts()
    model = draw.choice(
        [lambda: mlp(draw.choice([16, 128, 512]), draw.choice([1, 3])), lambda: cnn(draw.choice([4, 16]))]
    )()
    batch = draw.choice([16, 32, 64, 128])
    kind = draw.choice(["dataset", "tensors", "loader"])
    if kind == "tensors":
        train, valid = (collate([part[i] for i in range(len(part))]) for part in (train, valid))
    elif kind == "loader":
        train = DataLoader(train, batch, shuffle=True, collate_fn=collate)
    options = TrainOptions(
        batch_size=batch, device="cpu", optimizer=draw.choice(["adamw", "sgd", "momentum"]),
        threads=draw.choice([None, 1, 2]), channels_last=draw.random() < 0.3, epochs=draw.choice([5, 50]),
        in_memory=draw.choice(["auto", "yes"]) if kind == "dataset" else "auto",
    )  # fmt: skip
    return Task(model, train, valid), options, f"{kind}, batch {batch}, threads {options.threads}"


def _as_run(task, options):
    "The options with the threads that a run chooses where nothing is said"
    if options.threads:
        return options
    return options.replace(threads=threads_by_size(prepare(task, options), options))


def starts(args):
    slower, ratios, kept = [], [], 0
    for number in range(args.first, args.first + args.starts):
        task, options, text = drawn(number)
        found = tune(task, options, seconds=args.seconds)
        if not found.line:
            kept += 1
            ratios.append(1.0)
            print(f"{number}: {text}: start kept ({found.seconds:.1f} s)", flush=True)
            continue
        first, second = (RealSteps(task, _as_run(task, each)) for each in (options, found.options))
        size = options.batch_size / found.options.batch_size
        pair = compare(first, lambda n, second=second, size=size: second(n) * size, 5.0, few=False)
        ratios.append(pair.ratio)
        if pair.high < 1:
            slower.append(number)
        print(
            f"{number}: {text}: {found.line}: said {found.whole.ratio:.2f}, fresh {pair.ratio:.2f} "
            f"({pair.low:.2f} to {pair.high:.2f}, {pair.pairs} pairs; {found.seconds:.1f} s)",
            flush=True,
        )
    print(f"{args.starts} starts: {len(slower)} slower {slower}, {kept} kept; lowest {min(ratios):.2f}, median {statistics.median(ratios):.2f}")  # fmt: skip


def grid(args):
    for name, model in (("mlp", mlp(128)), ("cnn", cnn(16))):
        task = Task(model, *parts())
        values = {"in_memory": ["auto", "yes"], "threads": [1, 2], "channels_last": [False, True]}
        options = [
            TrainOptions(batch_size=32, device="cpu", **dict(zip(values, each, strict=True)))
            for each in itertools.product(*values.values())
        ]
        found = tune(task, options[0].replace(threads=2, in_memory="auto"), seconds=args.seconds)
        sides, times = [RealSteps(task, each) for each in options], [[] for _ in options]
        for side in sides:
            side(2)
        for _ in range(args.rounds):
            for place in random.sample(range(len(sides)), len(sides)):
                times[place].append(sides[place](max(2, round(0.1 / sides[place](2)))))
        speed = [1 / statistics.median(each) for each in times]
        chosen = found.apply(*[row.setting for row in found.table if row.taken and row.setting in values])
        place = next(
            i for i, each in enumerate(options) if all(getattr(each, n) == getattr(chosen, n) for n in values)
        )
        for each, value in zip(options, speed, strict=True):
            print(f"  {each.in_memory:5} threads {each.threads} channels_last {each.channels_last!s:6} {value:8.1f} steps/s")  # fmt: skip
        print(f"{name}: {found.line or 'start kept'}: reached {speed[place] / max(speed):.3f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", choices=("naive", "starts", "grid"), required=True)
    parser.add_argument("--starts", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    {"naive": naive, "starts": starts, "grid": grid}[args.part](args)
