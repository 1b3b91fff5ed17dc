"""What a small model gains from a teacher, on 300 images of scikit-learn's digits

    python tests/bench/bench_distill.py            # test accuracy, three seeds
    python tests/bench/bench_distill.py --seeds 0

All students of a group are one architecture with a quarter of the teacher's bytes. They learn from the same 300 labeled images in as many updates. The gain
is over new weights that learn from the labels alone. `distill 4` is the step of a recipe as it is without further options. One teacher learned from 1137
images, as a model does that is to be made smaller; the other from the same 300 images, changed at random.
"""

import argparse
import statistics
import sys
import tempfile
from copy import deepcopy

import torch
from sklearn.datasets import load_digits
from torch import nn

from trainopt_nb import fit
from trainopt_nb.compression.compress import compress
from trainopt_nb.compression.distill_step import UPDATES
from trainopt_nb.compression.student import student
from trainopt_nb.compression.zoo import bytes_of

FEW, MANY = 300, 1137
HOW = {"device": "cpu", "threads": 1, "batch_size": 32, "lr": 3e-3, "restore_best": False}
USUAL = {"augment": "crop:0.1 rotate:10"}  # of the step, for images of one channel


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


def trained(model, train, seed, folder, **how):
    "Train a model for as many updates as the step has"
    quiet = {"folder": folder, "write": lambda line: None}
    fit(model, train, epochs=10_000, max_steps=UPDATES, seed=seed, schedule="cosine", **quiet, **HOW, **how)
    return model


def small(teacher, inputs, style="narrow"):
    "Return a student before it learns"
    making = student(teacher, inputs, 4, style)
    while True:
        try:
            next(making)
        except StopIteration as end:
            return end.value[0]


def anew(model, seed):
    "Return the same architecture with new weights"
    torch.manual_seed(seed)
    copied = deepcopy(model)
    for layer in copied.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    return copied


def step(teacher, few, judged, recipe, seed, folder):
    "Return the student that a recipe makes; the few images that it measures are too few to choose the best epoch by"
    valid = judged[0][:150], judged[1][:150]
    quiet = {"folder": folder, "write": lambda line: None, "seconds": 0.05, "floor": None}
    found = compress(teacher, (few, valid), recipe, seed=seed, **quiet, **HOW)
    return found.candidates[-1].served.module


def run(seed, width, folder, found, short):
    few, many, judged = data(seed)

    def note(name, model):
        found.setdefault(name, []).append(accuracy(model, judged))
        print(f"seed {seed}, {name}: {found[name][-1]:.1f}", file=sys.stderr, flush=True)

    learn = lambda model, data=few, **how: trained(model, data, seed, folder, **how)
    big = learn(network(width, 100 + seed), many)
    cut, mobile = small(big, few[0]), small(big, few[0], "mobile")
    new, taught = anew(cut, seed), {"teacher": big, "distill": "logits:2", "distill_weight": 0.9}
    note("the teacher of 1137 images", big)
    note("new weights: labels alone", learn(deepcopy(new)))
    note("distill 4", step(big, few, judged, "distill 4", seed, folder))
    if short:
        return [bytes_of(model) for model in (big, cut)]
    note("new weights: labels alone, changed at random", learn(deepcopy(new), **USUAL))
    note("new weights: teacher, changed at random", learn(deepcopy(new), **taught, **USUAL))
    note("the teacher's weights: labels alone", learn(deepcopy(cut)))
    pool = many[0][FEW:]
    note("new weights: teacher, 837 images without labels", learn(deepcopy(new), unlabeled=pool, **taught))
    note("mobile: labels alone", learn(anew(mobile, seed)))
    note("mobile: distill 4 student=mobile", step(big, few, judged, "distill 4 student=mobile", seed, folder))
    same = learn(network(width, 200 + seed), few, **USUAL)
    note("the teacher of 300 images", same)
    note("distill 4, of the teacher of 300", step(same, few, judged, "distill 4", seed, folder))
    note("the teacher's weights: labels alone, changed at random", learn(deepcopy(cut), **USUAL))
    cut = small(same, few[0])
    note("weights of the teacher of 300: labels alone, changed at random", learn(cut, **USUAL))
    return [bytes_of(model) for model in (big, cut, mobile)]


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--short", action="store_true", help="only labels alone and distill 4")
    options.add_argument("--width", type=int, default=24)
    given = options.parse_args()
    torch.set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in given.seeds:
            sizes = run(seed, given.width, folder, found, given.short)
    print("bytes of the teacher and its students:", *sizes)
    print(f"accuracy on 660 images, {len(given.seeds)} seeds, {UPDATES} updates\n")
    print("| what the student learns from | accuracy by seed | mean | gain |\n| --- | --- | ---: | ---: |")
    for name, values in found.items():
        alone = "mobile: labels alone" if name.startswith("mobile") else "new weights: labels alone"
        gain = statistics.mean(values) - statistics.mean(found[alone])
        said = "" if name.startswith("the teacher of") else f"{gain:+.1f}"
        seeds = " / ".join(f"{value:.1f}" for value in values)
        print(f"| {name} | {seeds} | {statistics.mean(values):.1f} | {said} |")


if __name__ == "__main__":
    main()
