"""
What a sweep costs, and what it gains: `python tests/bench/bench_sweep.py [turns function training race] [--quick] [--seeds 10] [--from 0] [--starts 5]`

`turns`: the small training, 200 trials. Each second trial of a sweep beside a plain `train(task, options)` of the same values, which the same
worker process does at the beginning of the next trial: two processes that train the same differ by milliseconds, one does not. A trial takes the
time from the end of the trial before, as the loop of the sweep hears of it, to its own end, so that all is counted that the sweep does in between.
`function`: a function of three numbers, TPE, 200 trials, one worker: what a trial takes where training takes nothing.
`training`: a small training. `plain` calls `train(task, options)` in a loop with values drawn beforehand; a trial of each way of searching
costs what it takes beyond that. Both take the seconds on the clock and those of the processors, of all processes together.
`race`: digits, a small CNN, six dimensions: seconds until a trial has a validation accuracy of 98.5% after some epoch, two processes of one
thread. The rival is Optuna's default TPE without pruning over the same training code, whose clock begins when both of its processes are ready;
ours begins with the call, which starts its workers.
"""

import argparse
import json
import logging
import math
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy

import optuna
import psutil
import torch
from common import machine
from torch import nn

from trainopt_nb import Task, TrainOptions
from trainopt_nb.api.in_workers import Where
from trainopt_nb.events.records import Epoch
from trainopt_nb.search.options import SweepOptions
from trainopt_nb.sweeps.objective import TaskObjective
from trainopt_nb.sweeps.records import TrialEnded, TrialReport, TrialStarted
from trainopt_nb.sweeps.run_sweep import plan_sweep, start_sweep
from trainopt_nb.train.loop import train

WARM = 4  # trials that are not counted: the process is not warm before
RAY_SHARE = 10  # Ray gets one of so many trials


def numbers(images: bool) -> tuple:
    "scikit-learn's digits: 1437 for training, 360 for validation"
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    x = x.reshape(-1, 1, 8, 8) if images else x
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train_rows, valid_rows = order[:1437], order[1437:]
    return (x[train_rows], y[train_rows]), (x[valid_rows], y[valid_rows])


class Clock:
    "Seconds of the clock, and of the processors for this process and all below it"

    def __init__(self):
        self.began = self._now()

    @staticmethod
    def _now():
        me, spent = psutil.Process(), 0.0
        for each in (me, *me.children(recursive=True)):
            try:
                spent += sum(each.cpu_times()[:4])
            except psutil.Error:
                pass  # it has just ended
        return time.perf_counter(), spent

    def per(self, trials: int) -> tuple[float, float]:
        "Return milliseconds of both since the beginning, for each trial"
        return tuple(
            1e3 * (now - before) / trials for now, before in zip(self._now(), self.began, strict=True)
        )


# ---------------------------------------------------------------- what a trial costs


def valley(trial) -> float:
    "A function of three numbers"
    x = trial.suggest_float("x", -5, 5)
    y = trial.suggest_float("y", 1e-3, 1e3, log=True)
    n = trial.suggest_int("n", 1, 64)
    return x * x + math.log10(y) ** 2 + abs(n - 20) / 20


def small() -> tuple[Task, TrainOptions]:
    "A perceptron on digits, 5 epochs, one thread"
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 10))
    return Task(model, *numbers(False)), TrainOptions(epochs=5, threads=1)


SMALL = {"lr": (1e-4, 1e-2, "log"), "weight_decay": (1e-4, 1e-1, "log"), "dropout": (0.0, 0.5)}


class Training:
    "The same training as an objective of Optuna"

    def __init__(self, given: tuple[Task, TrainOptions] | None = None):
        self.task, self.options = given or small()

    def __call__(self, trial) -> float:
        return self.accuracy({name: _suggest(trial, name, *given) for name, given in SMALL.items()})

    def accuracy(self, values: dict) -> float:
        task = Task(deepcopy(self.task.model), self.task.train_data, self.task.valid_data)
        events = train(task, self.options.replace(**values))
        return max(event.metrics["accuracy"] for event in events if isinstance(event, Epoch))


def _suggest(trial, name, low, high, *log):
    return trial.suggest_float(name, low, high, log=bool(log))


def ours(kind: str, trials: int) -> tuple[float, float]:
    "From the first beginning of a trial to the end of the last: the process of the worker is warm by then"
    how = {"trials": trials, "sampler": "tpe", "pruner": "none", "batch_trials": "off"}
    goal = {"goal": ("value:min",)} if kind == "function" else {}
    task, options = (valley, TrainOptions()) if kind == "function" else small()
    space = None if kind == "function" else SMALL
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_sweep(task, space, how=SweepOptions.of(**how, **goal), options=options)
        handle, clock, ended = start_sweep(plan, Where(folder)), None, 0
        try:
            for new in handle.events():
                for event in new:
                    if clock is None and isinstance(event, TrialEnded):
                        clock = Clock()
                    elif isinstance(event, TrialEnded):
                        ended += 1
                        found = clock.per(ended) if ended == trials - 1 else None
        finally:
            handle.close()
    return found


def optuna_alone(kind: str, trials: int, journal: bool = False, jobs: int = 1) -> tuple[float, float]:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    objective = valley if kind == "function" else Training()
    direction = "minimize" if kind == "function" else "maximize"
    with tempfile.TemporaryDirectory() as folder:
        storage = JournalStorage(JournalFileBackend(f"{folder}/study.log")) if journal else None
        study = optuna.create_study(
            storage=storage, direction=direction, sampler=optuna.samplers.TPESampler(seed=0)
        )
        study.optimize(objective, n_trials=1)
        clock = Clock()
        study.optimize(objective, n_trials=trials - 1, n_jobs=jobs)
        return clock.per(trials - 1)


def ray_tune(kind: str, trials: int) -> tuple[float, float]:
    "Ray Tune with a class trainable whose actor is used again, random values"
    from ray import tune

    class Trainable(tune.Trainable):
        def setup(self, config):
            self.config = config
            self.training = None if kind == "function" else Training()

        def reset_config(self, config):
            self.config = config
            return True

        def step(self):
            fixed = optuna.trial.FixedTrial(self.config)
            value = valley(fixed) if self.training is None else self.training(fixed)
            return {"value": value, "done": True}

        def save_checkpoint(self, folder):  # Ray saves each trial when it ends
            return None

        def load_checkpoint(self, checkpoint):
            pass

    if kind == "function":
        space = {"x": tune.uniform(-5, 5), "y": tune.loguniform(1e-3, 1e3), "n": tune.randint(1, 65)}
    else:
        space = {
            n: (tune.loguniform if log else tune.uniform)(low, high) for n, (low, high, *log) in SMALL.items()
        }
    with tempfile.TemporaryDirectory() as folder:
        config = tune.TuneConfig(num_samples=trials, reuse_actors=True, max_concurrent_trials=1)
        run = tune.RunConfig(storage_path=folder, verbose=0)
        tuner = tune.Tuner(Trainable, param_space=space, tune_config=config, run_config=run)
        clock = Clock()
        found = tuner.fit()
        first = min(row["timestamp"] - row["time_total_s"] for row in (each.metrics for each in found))
        wall = 1e3 * (max(each.metrics["timestamp"] for each in found) - first) / trials
        return wall, clock.per(trials)[1]


def plain(kind: str, trials: int) -> tuple[float, float]:
    "The training in a loop, without a search"
    if kind == "function":
        return 0.0, 0.0
    training, draws = Training(), random.Random(0)
    between = lambda low, high, *log: (
        math.exp(draws.uniform(math.log(low), math.log(high))) if log else draws.uniform(low, high)
    )
    drawn = [{name: between(*given) for name, given in SMALL.items()} for _ in range(trials)]
    training.accuracy(drawn[0])
    clock = Clock()
    for values in drawn[1:]:
        training.accuracy(values)
    return clock.per(trials - 1)


WAYS: dict[str, Callable[[str, int], tuple[float, float]]] = {
    "plain": plain,
    "trainopt_nb": ours,
    "Optuna in memory": optuna_alone,
    "Optuna with a journal": lambda kind, trials: optuna_alone(kind, trials, journal=True),
    "Optuna in memory n_jobs=2": lambda kind, trials: optuna_alone(kind, trials, jobs=2),
    "Ray Tune": lambda kind, trials: ray_tune(kind, max(4, trials // RAY_SHARE)),
}


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):8.2f} ({min(values):.2f} to {max(values):.2f})"


def cost(kind: str, trials: int, rounds: int, ways: list[str]):
    "Print milliseconds of a trial beyond the plain training of the same round"
    found = {name: [] for name in ways}
    for _ in range(rounds):
        order = [name for name in ways if name != "plain"]
        random.shuffle(order)
        alone = WAYS["plain"](kind, trials)
        found["plain"].append(alone)
        for name in order:
            each = WAYS[name](kind, trials)
            found[name].append(tuple(a - b for a, b in zip(each, alone, strict=True)))
    print(
        f"\n{kind}, {trials} trials, {rounds} rounds: ms a trial beyond its training, median (lowest to highest)"
    )
    print(f"{'':30s} {'clock':>30s} {'processors':>30s}")
    for name, pairs in found.items():
        title = "training itself" if name == "plain" else name
        print(f"{title:30s} {_spread([a for a, _ in pairs]):>30s} {_spread([b for _, b in pairs]):>30s}")


class Beside(TaskObjective):
    "The same task; before each second trial its process trains the values of the trial before by a plain call"

    def __init__(self, task: Task, options: TrainOptions, path: str):
        super().__init__(task, options)
        self.path, self.values = path, {}

    def __call__(self, trial):
        began = time.perf_counter(), time.process_time()
        if trial.number % 2:
            Training((self.task, self.options)).accuracy(self.values)
        now = time.perf_counter(), time.process_time()
        self.values = trial.spec.options
        row = {"began": began[1], "clock": now[0] - began[0], "processor": now[1] - began[1]}
        with open(self.path, "a", buffering=1) as file:
            file.write(json.dumps(row) + "\n")
        return super().__call__(trial)


def _turns(trials: int) -> dict[str, list[float]]:
    "Return milliseconds of each second trial beyond the same training in the same process, and of that training"
    how = SweepOptions.of(trials=trials, sampler="tpe", pruner="none", repeats=0, batch_trials="off")
    task, options = small()
    ended, spent = [], []
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_sweep(task, SMALL, how=how, options=options)
        plan.objective = Beside(task, options, f"{folder}/plain.jsonl")
        handle = start_sweep(plan, Where(folder))
        try:
            for event in (event for new in handle.events() for event in new):
                if isinstance(event, TrialEnded):
                    ended.append(event.time)  # when the loop of the sweep heard of it
                    spent.append(time.process_time())
        finally:
            handle.close()
        with open(plan.objective.path) as file:
            rows = [json.loads(line) for line in file]
    second = range(WARM, trials - 1, 2)  # the trial after it begins with the plain training
    took = [ended[i] - ended[i - 1] for i in second]
    alone, own = ([rows[i + 1][kind] for i in second] for kind in ("clock", "processor"))
    worker = [rows[i + 1]["began"] - rows[i]["began"] for i in second]
    quarter = lambda values: statistics.quantiles(values, n=4)[0]
    found = {
        "clock": [a - b for a, b in zip(took, alone, strict=True)],
        "fast": [quarter(took) - quarter(alone)],
        "worker": [a - b for a, b in zip(worker, own, strict=True)],
        "loop": [(spent[-1] - spent[WARM]) / (trials - 1 - WARM)],
        "training": alone,
    }
    return {name: [1e3 * each for each in values] for name, values in found.items()}


SHOWN = {
    "clock": "clock",
    "fast": "clock, difference of the lower quarters",
    "worker": "processors: of the worker",
    "loop": "processors: of the loop, beside the training too",
    "training": "the training itself, clock",
}


def _in_fresh_processes(trials: int) -> dict[str, list[float]]:
    code = f"import bench_sweep as b, json\nwith b._quiet(): print(json.dumps(b._turns({trials})))"
    here = os.path.dirname(os.path.abspath(__file__))
    paths = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": paths}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    if out.returncode:
        raise SystemExit(out.stderr)
    return json.loads(out.stdout.splitlines()[-1])


def turns(trials: int, starts: int):
    "Print milliseconds of a trial beyond the same training in the same process, each start in fresh processes"
    each = []
    for start in range(starts):
        each.append(_in_fresh_processes(trials))
        found = each[-1]["clock"]
        low, middle, high = (f"{value:.1f}" for value in statistics.quantiles(found, n=4))
        mean = f"{statistics.mean(found):.1f}"
        print(
            f"start {start + 1}: {len(found)} pairs, median {middle} ({low} to {high}), mean {mean}",
            flush=True,
        )
    print(
        f"\nturns, {trials} trials: ms of a trial beyond the same training, median of {starts} starts (lowest to highest)"
    )
    print(f"{'':50s} {'their medians':>26s} {'their means':>26s}")
    for name, title in SHOWN.items():
        ways = [[of(one[name]) for one in each] for of in (statistics.median, statistics.mean)]
        print(f"{title:50s}", *(f"{_spread(values):>26s}" for values in ways))


# ---------------------------------------------------------------- the race

TARGET, EPOCHS, LIMIT = 0.985, 30, 300.0  # accuracy; of a full trial; seconds after which a race is given up
RACE = {
    "lr": (1e-5, 0.3, "log"),
    "weight_decay": (1e-6, 1e-1, "log"),
    "momentum": (0.5, 0.99),
    "label_smoothing": (0.0, 0.3),
    "dropout": (0.0, 0.7),
    "schedule": ["constant", "cosine", "onecycle"],
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.2), nn.Linear(16 * 4 * 4, 10),
    )  # fmt: skip


def race_task(seed: int) -> tuple[Task, TrainOptions]:
    return Task(network(), *numbers(True)), TrainOptions(optimizer="sgd", epochs=EPOCHS, seed=seed, threads=1)


def race_ours(seed: int, target: float, **more) -> tuple[float, int]:
    "Return seconds, and how many trials had begun"
    task, options = race_task(seed)
    how = {"trials": 200, "jobs": 2, **more}
    with tempfile.TemporaryDirectory() as folder:
        began, begun = time.perf_counter(), 0
        handle = start_sweep(
            plan_sweep(task, RACE, how=SweepOptions.of(**how), options=options), Where(folder)
        )
        try:
            for new in handle.events():
                begun += sum(isinstance(event, TrialStarted) for event in new)
                reached = [e for e in new if isinstance(e, TrialReport) and e.values[0] >= target]
                if reached or time.perf_counter() - began > LIMIT:
                    return time.perf_counter() - began, begun
        finally:
            handle.close()
    return math.inf, begun


def _rival(seed: int, target: float, number: int, path: str, ready, begin, ends):
    "One of the two processes of plain Optuna"
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    task, options = race_task(seed)
    sampler = optuna.samplers.TPESampler(seed=2 * seed + number)
    storage = JournalStorage(JournalFileBackend(path))
    study = optuna.load_study(
        study_name="race", storage=storage, sampler=sampler, pruner=optuna.pruners.NopPruner()
    )

    def objective(trial):
        values = {
            name: trial.suggest_categorical(name, given)
            if isinstance(given, list)
            else _suggest(trial, name, *given)
            for name, given in RACE.items()
        }
        own = Task(deepcopy(task.model), task.train_data, task.valid_data)
        best = 0.0
        for event in train(own, options.replace(**values)):
            if isinstance(event, Epoch):
                best = max(best, event.metrics["accuracy"])
                if best >= target:
                    ends.put((time.perf_counter(), trial.number + 1))
                    break
        return best

    ready.wait()
    begin.wait()
    study.optimize(objective)


def race_optuna(seed: int, target: float) -> tuple[float, int]:
    "The same for plain Optuna: a study in a journal that two processes share"
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    context = multiprocessing.get_context("spawn")
    ready, begin, ends = context.Barrier(3), context.Event(), context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/study.log"
        optuna.create_study(
            study_name="race", storage=JournalStorage(JournalFileBackend(path)), direction="maximize"
        )
        processes = [
            context.Process(target=_rival, args=(seed, target, number, path, ready, begin, ends))
            for number in range(2)
        ]
        for process in processes:
            process.start()
        try:
            ready.wait(120)
            began = time.perf_counter()
            begin.set()
            ended, begun = ends.get(timeout=LIMIT)
            return ended - began, begun
        except Exception:  # nothing within the limit
            return math.inf, 0
        finally:
            for process in processes:
                process.kill()
                process.join()


@contextmanager
def _quiet() -> Iterator[None]:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    yield


def race(seeds: range, target: float, **more):
    "Print the seconds of each seed"
    print(f"\nrace to {target:.1%}, two processes of one thread: seconds (trials begun)")
    race_ours(seeds[0], 0.5)  # starts the process from which workers are forked
    found = []
    for seed in seeds:
        pair = [race_ours(seed, target, **more), race_optuna(seed, target)]
        found.append([seconds for seconds, _ in pair])
        cells = [
            f"{name} {seconds:7.2f} ({n})"
            for name, (seconds, n) in zip(("ours", "Optuna"), pair, strict=True)
        ]
        print(f"seed {seed}: {'   '.join(cells)}", flush=True)
    mine, theirs = (statistics.median(each) for each in zip(*found, strict=True))
    print(f"median: ours {mine:.2f}, Optuna {theirs:.2f}: {theirs / mine:.2f} times sooner")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", help="turns, function, training, race; all when omitted")
    parser.add_argument("--quick", action="store_true", help="few trials and seeds, without Ray")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--from", type=int, default=0, dest="first", help="first seed")
    parser.add_argument("--starts", type=int, default=5, help="of fresh processes, for turns")
    parser.add_argument("--target", type=float, default=TARGET, help="accuracy that ends a race")
    parser.add_argument("--ways", help="some of the ways to search, by comma")
    given = parser.parse_args()
    what = given.what or ["turns", "function", "training", "race"]
    ways = ["plain", *given.ways.split(",")] if given.ways else list(WAYS)
    ways = [name for name in ways if not (given.quick and name == "Ray Tune")]
    print(machine())
    with _quiet():
        if "turns" in what:
            turns(*((30, 1) if given.quick else (200, given.starts)))
        if "function" in what:
            cost("function", *((40, 1) if given.quick else (200, 5)), ways)
        if "training" in what:
            cost("training", *((20, 1) if given.quick else (200, 3)), ways)
        if "race" in what:
            race(range(given.first, given.first + (2 if given.quick else given.seeds)), given.target)


if __name__ == "__main__":
    main()
