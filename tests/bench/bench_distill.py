"""What a small model gains from a teacher, on 300 images of scikit-learn's digits

    python tests/bench/bench_distill.py            # test accuracy, three seeds
    python tests/bench/bench_distill.py --seeds 5

The student has a quarter of the teacher's parameters or less, the same 300 labelled images in every row, and as many updates. The teacher of the first rows
learned from 1137 images, as a model does that is to be made smaller; that of the last row from the same 300.
"""

import argparse
import statistics
import tempfile

import torch
from sklearn.datasets import load_digits
from torch import nn

from trainopt_nb import fit

FEW, MANY = 300, 1137
HOW = {
    "device": "cpu",
    "threads": 1,
    "batch_size": 32,
    "lr": 3e-3,
    "schedule": "cosine",
    "restore_best": False,
}


def network(width, seed):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()),
        nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU()),
        nn.Sequential(nn.Conv2d(2 * width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU()),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10)),
    )


def data(seed):
    "Few and many images to train on, and those to judge by"
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.tensor(y)
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    pick = lambda some: (x[some], y[some])
    return pick(rows[:FEW]), pick(rows[:MANY]), pick(rows[MANY:])


def accuracy(model, judged):
    with torch.no_grad():
        return 100 * float((model.eval()(judged[0]).argmax(1) == judged[1]).float().mean())


def trained(model, train, epochs, seed, folder, **how):
    "Train a model for as many updates as the few images have in these epochs"
    updates = epochs * -(-FEW // HOW["batch_size"])
    quiet = {"folder": folder, "write": lambda line: None}
    fit(model, train, epochs=1000, max_steps=updates, seed=seed, **quiet, **HOW, **how)
    return model


WAYS = {
    "labels alone": {},
    "logits:4": {"distill": "logits:4"},
    "logits:4, weight 0.9": {"distill": "logits:4", "distill_weight": 0.9},
    "logits:4, weight 1": {"distill": "logits:4", "distill_weight": 1},
    "attention": {"distill": "attention:10", "distill_layers": "1"},
    "features": {"distill": "features", "distill_layers": "1,2"},
    "logits:4 features": {"distill": "logits:4 features", "distill_layers": "1,2"},
    "logits:4 and the other images without labels": {"distill": "logits:4", "unlabelled": True},
}


def run(seed, epochs, width, folder, found):
    few, many, judged = data(seed)
    big = trained(network(4 * width, 100 + seed), many, 2 * epochs, seed, folder)
    same = trained(network(4 * width, 200 + seed), few, epochs, seed, folder)
    found.setdefault("the teacher", []).append(accuracy(big, judged))
    for name, how in WAYS.items():
        how = dict(how, teacher=big) if how else {}
        if how.pop("unlabelled", False):
            how["unlabelled"] = many[0][FEW:]
        student = trained(network(width, seed), few, epochs, seed, folder, **how)
        found.setdefault(name, []).append(accuracy(student, judged))
    found.setdefault("the teacher of 300 images", []).append(accuracy(same, judged))
    student = trained(network(width, seed), few, epochs, seed, folder, teacher=same)
    found.setdefault("logits:4 of the teacher of 300 images", []).append(accuracy(student, judged))


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--epochs", type=int, default=40)
    options.add_argument("--width", type=int, default=6)
    given = options.parse_args()
    torch.set_num_threads(1)
    sizes = [
        sum(p.numel() for p in network(width, 0).parameters()) for width in (4 * given.width, given.width)
    ]
    print(f"teacher {sizes[0]} parameters, student {sizes[1]}; accuracy on 660 images, {given.seeds} seeds\n")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(given.seeds):
            run(seed, given.epochs, given.width, folder, found)
    alone = statistics.mean(found["labels alone"])
    print("| what the student learns from | accuracy by seed | mean | gain |\n| --- | --- | ---: | ---: |")
    for name, values in found.items():
        mean = statistics.mean(values)
        gain = "" if name.startswith("the teacher") else f"{mean - alone:+.1f}"
        print(f"| {name} | {' / '.join(f'{value:.1f}' for value in values)} | {mean:.1f} | {gain} |")


if __name__ == "__main__":
    main()
