"""
Many trials as one program, over the same trials one after another

    python tests/bench/bench_population.py                   # one process: a hand-written tuned loop, the engine's step, trials together
    python tests/bench/bench_population.py workers           # the same in two processes of one thread, trial-steps a second
    python tests/bench/bench_population.py extras            # what dropout, clipping, averages, schedules and own batches cost
    python tests/bench/bench_population.py prune             # dropping trials, and what is left when few are left
    python tests/bench/bench_population.py plan              # what the measured decision says, and how long it takes
    ... --models mlp cnn --trials 64 --rounds 9
    ... --device cuda                                        # parts one_process, prune and plan on a GPU

Random data, batch 64, AdamW, one thread. Variants take turns in slices of a tenth of a second of processor time; a ratio is the median of
the ratios within a round. `others` is what other processes took of the machine's cores meanwhile. The part `workers` measures by the clock on
the wall, and so do all parts on a GPU. The tuned loop is fused AdamW with gradients set to None.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

from trainopt_nb import Task, TrainOptions
from trainopt_nb.population.plan import plan_batch
from trainopt_nb.population.population import Population
from trainopt_nb.population.train_trials import prepare_trials, trial_options
from trainopt_nb.population.trial_batches import epoch_batches
from trainopt_nb.train.prepare import prepare
from trainopt_nb.train.state import TrainingState

median = statistics.median


def mlp():
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def dropped():
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10))


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip


def cnn32():
    def block(a, b):
        return nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2)

    return nn.Sequential(*block(3, 16), *block(16, 32), *block(32, 64), nn.Flatten(), nn.Linear(1024, 10))


class Encoder(nn.Module):
    def __init__(self, d=32):
        super().__init__()
        self.first, self.place = nn.Linear(8, d), nn.Parameter(torch.randn(8, d) * 0.02)
        layer = nn.TransformerEncoderLayer(d, 4, 64, 0.0, batch_first=True)
        self.layers, self.last = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(d, 10)

    def forward(self, x):
        return self.last(self.layers(self.first(x) + self.place).mean(1))


MODELS = {  # name -> model, shape of a sample, layout, trials in one pass
    "mlp": (mlp, (64,), "batch", 32),
    "cnn": (cnn, (1, 8, 8), "channel", 8),
    "encoder": (Encoder, (8, 8), "batch", 8),
    "cnn32": (cnn32, (3, 32, 32), "channel", 1),
}


DEVICE = "cpu"  # of all parts, by --device


def now():
    "Seconds of this process on a CPU, of the clock on the wall on a GPU that has nothing left to do"
    if DEVICE == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def task_of(make, shape, samples=1437):
    return Task(make(), (torch.randn(samples, *shape), torch.randint(0, 10, (samples,))))


def options_of(**more):
    return TrainOptions(decay_all=True, device=DEVICE, **more)


def trials_of(count, **more):
    return [
        {"lr": 10 ** -(1 + 3 * k / count), **{n: f(k / count) for n, f in more.items()}} for k in range(count)
    ]


def together(make, shape, layout, chunk, count, options=None, **more):
    "A function that does one step of several trials"
    options, task = options or options_of(), task_of(make, shape)
    trials = trials_of(count, **more)
    population = Population(
        prepare_trials(task, options), trial_options(options, trials), layout=layout, chunk=chunk
    )
    batch, own = next(epoch_batches(population, 0))
    return lambda: population.step(batch, own), population


def by_engine(make, shape):
    options = options_of()
    prepared = prepare(task_of(make, shape), options)
    state = TrainingState(prepared, options)
    batch = next(iter(prepared.device_batches(iter(prepared.data.train.epoch(0)))))
    return lambda: state.stepper([batch])


def by_hand(make, shape, channels_last=False):
    model = make().train().to(DEVICE)
    x, y = torch.randn(64, *shape, device=DEVICE), torch.randint(0, 10, (64,), device=DEVICE)
    if channels_last:
        model, x = (
            model.to(memory_format=torch.channels_last),
            x.contiguous(memory_format=torch.channels_last),
        )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def step():
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def busy():
    fields = [int(v) for v in open("/proc/stat").readline().split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def own_time():
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system


def turns(variants, rounds, seconds=0.1):
    "Prints microseconds of a trial-step for each variant {name: (step, trials)}, and how many times faster it is than the first"
    found, began = {n: [] for n in variants}, (busy(), own_time(), time.perf_counter())
    for step, _ in variants.values():
        step(), step(), step()
    for _ in range(rounds):
        for name, (step, count) in variants.items():
            n, t = 0, now()
            while n == 0 or (time.process_time() if DEVICE == "cpu" else time.perf_counter()) - t < seconds:
                step()
                n += 1
            found[name].append((now() - t) / n / count * 1e6)
    others = (busy() - began[0] - own_time() + began[1]) / (time.perf_counter() - began[2])
    base = found[next(iter(variants))]
    each = {
        n: [round(median(v)), round(median(b / a for a, b in zip(v, base, strict=True)), 2)]
        for n, v in found.items()
    }
    return {"others": round(others, 2), **each}


def one_process(a):
    for name in a.models:
        make, shape, layout, chunk = MODELS[name]
        variants = {"by hand": (by_hand(make, shape), 1)}
        if len(shape) == 3:
            variants["by hand, channels last"] = by_hand(make, shape, channels_last=True), 1
        variants["engine"] = by_engine(make, shape), 1
        for size in [chunk] if DEVICE == "cpu" else [8, 32, a.trials]:
            named = "together" if DEVICE == "cpu" else f"together, {size} in one pass"
            variants[named] = together(make, shape, layout, size, a.trials)[0], a.trials
        yield {"model": name, "trials": a.trials, **turns(variants, a.rounds)}


def _worker(pipe, name, count):
    torch.set_num_threads(1)
    make, shape, layout, chunk = MODELS[name]
    steps = {
        "by hand": (by_hand(make, shape), 1),
        "by hand, channels last": (by_hand(make, shape, len(shape) == 3), 1),
        "together": (together(make, shape, layout, chunk, count)[0], count),
    }
    for step, _ in steps.values():
        step(), step()
    pipe.send("ready")
    while (order := pipe.recv()) is not None:
        (step, trials), n, t = steps[order[0]], 0, time.perf_counter()
        while time.perf_counter() - t < order[1]:
            step()
            n += 1
        pipe.send(n * trials / (time.perf_counter() - t))


def workers(a):
    context = multiprocessing.get_context("spawn")
    for name in a.models:
        pipes, jobs = [], []
        for _ in range(2):
            here, there = context.Pipe()
            jobs.append(context.Process(target=_worker, args=(there, name, a.trials // 2), daemon=True))
            jobs[-1].start()
            pipes.append(here)
        [p.recv() for p in pipes]
        found = {kind: [] for kind in ("by hand", "by hand, channels last", "together")}
        for _ in range(a.rounds):
            for kind, rates in found.items():
                [p.send((kind, 1.0)) for p in pipes]
                rates.append(sum(p.recv() for p in pipes))
        [p.send(None) for p in pipes]
        [job.join() for job in jobs]
        base = found["by hand"]
        ratio = lambda rates, base=base: round(median(r / b for r, b in zip(rates, base, strict=True)), 2)
        yield {
            "model": name,
            "trials": a.trials,
            **{k: [round(median(v)), ratio(v)] for k, v in found.items()},
        }


def extras(a):
    make = lambda net=mlp, options=None, **more: (
        together(net, (64,), "batch", 16, a.trials, options, **more)[0],
        a.trials,
    )
    variants = {
        "plain": make(),
        "label smoothing": make(label_smoothing=lambda part: 0.2 * part),
        "clipping": make(clip=lambda part: 0.1 + part),
        "average": make(ema=lambda part: 0.9),
        "schedule": make(options=TrainOptions(decay_all=True, schedule="cosine")),
        "weight decay in two groups": make(options=TrainOptions()),
        "one rate of dropout": make(dropped),
        "rates of dropout": make(dropped, dropout=lambda part: 0.1 + part / 2),
        "seeds": make(seed=lambda part: int(1000 * part)),
        "seeds with dropout": make(dropped, seed=lambda part: int(1000 * part)),
        "by hand": (by_hand(mlp, (64,)), 1),
        "by hand with dropout": (by_hand(dropped, (64,)), 1),
    }
    yield {"trials": a.trials, **turns(variants, a.rounds)}


def prune(a):
    for name in a.models:
        make, shape, layout, chunk = MODELS[name]
        step, population = together(make, shape, layout, chunk, a.trials)
        step()
        left, found = a.trials, {}
        while left > 1:
            began = now()
            population.drop([t for t in population.trials if t is not None][left // 2 :])
            dropping, left = now() - began, left // 2
            step()
            first, began = now() - began - dropping, now()
            for _ in range(20):
                step()
            usual = (now() - began) / 20
            found[left] = {
                "drop ms": round(dropping * 1e3, 1),
                "first ms": round(first * 1e3, 1),
                "us": round(usual / left * 1e6),
            }
        yield {"model": name, **found}


def plan(a):
    for name in a.models:
        make, shape, _, _ = MODELS[name]
        found = plan_batch(task_of(make, shape), TrainOptions(device=DEVICE), trials_of(a.trials))
        yield {"model": name, "plan": str(found), "layout": found.layout, "start s": round(found.start, 2)}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "part",
        nargs="?",
        default="one_process",
        choices=["one_process", "workers", "extras", "prune", "plan"],
    )
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    a = parser.parse_args()
    global DEVICE
    DEVICE = a.device
    torch.set_num_threads(1)
    for row in globals()[a.part](a):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
