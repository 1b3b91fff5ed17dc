"""A table of runs: the time to list and print runs with and without their summaries

    python tests/bench/bench_runs_listing.py [RUNS] [STEPS]

Each run has STEPS steps in 10 epochs. `with summaries` is what a user waits for; `first listing` is a folder of version 0.1.0, whose
logs are parsed once and get their summaries; `logs parsed` counts the logs that were read.
"""

import sys
import tempfile
import time
from pathlib import Path

from trainopt_nb.events.records import Ended, Epoch, Started, Step, to_lines
from trainopt_nb.runs.files import LOG
from trainopt_nb.runs.run import Run
from trainopt_nb.runs.summary import SUMMARY
from trainopt_nb.runs.table import list_runs
from trainopt_nb.runs.tail import Tail


def make(folder, runs, steps):
    "Write runs that differ in their learning rate"
    each = steps // 10
    for number in range(runs):
        run = Run.create(folder, "bench", {"epochs": 10, "lr": 10 ** -(1 + number % 5)})
        events = [
            Started(run.name, 0, 0, 10, each, steps, "cpu", "fp32", 2, 640, 9610, "accuracy", "max", 1.7e9)
        ]
        for epoch in range(1, 11):
            first = (epoch - 1) * each
            events += [
                Step(first + i, epoch - 1, 2 / (first + i), 1e-3, 64, (first + i) * 1e-3, 1e-5)
                for i in range(1, each + 1)
            ]
            events.append(
                Epoch(
                    epoch,
                    epoch * each,
                    0.5,
                    0.6,
                    {"accuracy": epoch / 11},
                    1e-3,
                    epoch * each * 1e-3,
                    64e3,
                    True,
                )
            )
        events.append(Ended("finished", steps, 10, "all 10 epochs are done", 1.7e9))
        (run.path / LOG).write_text("\n".join(to_lines(events)) + "\n")


def timed(folder):
    "Seconds to list and print all runs, and the logs that were parsed"
    parsed, read = [], Tail.read
    Tail.read = lambda self: parsed.append(self.path) or read(self)
    try:
        start = time.perf_counter()
        repr(list_runs(folder))
        return time.perf_counter() - start, len(parsed)
    finally:
        Tail.read = read


if __name__ == "__main__":
    runs, steps = (int(word) for word in (*sys.argv[1:], "1000", "1000")[:2])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, runs, steps)
        assert not list(folder.glob(f"*/{SUMMARY}"))
        first = timed(folder)
        again = min(timed(folder) for _ in range(3))
    print(f"{runs} runs of {steps} steps")
    print(f"first listing:  {first[0]:.2f} s, {first[1]} logs parsed")
    print(f"with summaries: {again[0]:.2f} s, {again[1]} logs parsed")
