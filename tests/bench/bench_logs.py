"""What `--log tensorboard` adds to a step

    python tests/bench/bench_logs.py [INSTANCES] [MODEL]

The trainings of loop_overhead.py with their run directory, without and with values for TensorBoard: each takes turns with the loop by hand at its epoch
ends, and the processor time of all threads counts, so that what the writer does beside the training is in it. The last row is the one over the other.
"""

import random
import shutil
import statistics
import sys
import tempfile

import torch
from common import HEAD, Turns, machine, row
from loop_overhead import AMOUNTS, StopAtEpochs, options, task

from trainopt_nb import Run
from trainopt_nb.api.log import Log, follow
from trainopt_nb.events.progress import Progress
from trainopt_nb.train.loop import train


def recorded(kind, turns, epochs, logs):
    folder = tempfile.mkdtemp(prefix="trainopt-bench-")
    run = Run.create(folder, kind, {})
    run.start_writing()
    progress = Progress(run.name)
    events = StopAtEpochs(train(task(kind), options(epochs), run.path, run.name), turns)
    for _ in follow(events, run, progress, log=Log(run, progress, logs=logs)):
        pass
    assert bool(list(run.path.glob("tensorboard/events*"))) == bool(logs)
    shutil.rmtree(folder)


def main():
    torch.set_num_threads(1)
    print(machine())
    for kind in sys.argv[2:] or AMOUNTS:
        instances, epochs = AMOUNTS[kind]
        ways = {"recorded in a run directory": (), "with --log tensorboard": ("tensorboard",)}
        found = {name: ([], []) for name in ways}
        for _ in range(int((*sys.argv[1:], instances)[0])):
            for name in random.sample(list(ways), 2):
                turns = Turns(kind)
                recorded(kind, turns, epochs, ways[name])
                for kept, new in zip(found[name], turns.pairs, strict=True):
                    kept += new
        print(f"\n{kind}\n{HEAD}")
        for name, (times, reference) in found.items():
            print(row(name, kind, times, reference))
        plain, logged = (
            statistics.median(a / b for a, b in zip(*pair, strict=True)) for pair in found.values()
        )
        print(f"with over without: {logged / plain:.3f}", flush=True)


if __name__ == "__main__":
    main()
