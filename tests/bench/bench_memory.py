"""Memory that was predicted, and memory that whole trainings took

python tests/bench/bench_memory.py [--part errors|tries] [--batch 256] [--tries 100] [--models MLP CNN]

`errors`: for each model, the bytes that batches up to 2/5 of the size let expect, those that `will_it_fit` tells after its
real training, and the peak of a whole training in a fresh process. `tries`: models, batch sizes and limits drawn at random;
each is asked about with `limit=`, and then trained whole in a process whose memory cgroup (version 1, as root) has that limit.
"""

import argparse
import random
import tempfile
from pathlib import Path

import psutil
import torch
from memory_tasks import task, tasks

from trainopt_nb import TrainOptions, fit, will_it_fit
from trainopt_nb.base.errors import WorkerError
from trainopt_nb.base.peak_memory import PeakMeter
from trainopt_nb.workers.submit import submit

GROUPS = Path("/sys/fs/cgroup/memory/trainopt_bench")


def whole(task, options, limit=None):
    "Train whole, in a process of its own; returns (bytes before, bytes added)"
    torch.set_num_threads(1)
    meter = PeakMeter()
    if limit:
        (GROUPS / "memory.limit_in_bytes").write_text(str(limit))
        (GROUPS / "tasks").write_text("0")
    with tempfile.TemporaryDirectory() as folder:
        chosen = {"epochs": options.epochs, "batch_size": options.batch_size}
        run = fit(
            task.model, task.train_data, task.valid_data, folder=folder, write=lambda line: None, **chosen
        )
        assert run.progress.state == "finished", run
    return meter.base, meter.added


def errors(names, batch):
    print(
        f"| model, batch {batch} | expected | after a real training | whole training | error | error after it | of the process |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in names:
        one, options = task(name), TrainOptions(batch_size=batch, epochs=3)
        report = will_it_fit(one, options, seconds=90, largest=False)
        with submit(whole, one, options) as handle:
            base, real = handle.result(600)
        mb = [
            f"{x / 1e6:.0f} MB" if x else "-"
            for x in (report.predicted, report.tried and report.tried.size, real)
        ]
        part = [
            f"{(x / real - 1) * 100:+.0f}%" if x else "-"
            for x in (report.predicted, report.tried and report.tried.size)
        ]
        total = f"{((base + report.needs) / (base + real) - 1) * 100:+.1f}%"
        print("|", name, "|", " | ".join([*mb, *part, total]), "|", flush=True)


def tries(names, count):
    GROUPS.mkdir(exist_ok=True)
    draw, told, wrong, missed, needs = random.Random(0), {}, [], 0, {}
    for number in range(count):
        name, batch = draw.choice(names), draw.choice([8, 16, 32, 64, 128])
        one, options = task(name), TrainOptions(batch_size=batch, epochs=2)
        if (name, batch) not in needs:
            with submit(whole, one, options) as handle:
                needs[name, batch] = handle.result(600)[1]
        room = int(needs[name, batch] * draw.uniform(0.7, 1.5))
        report = will_it_fit(
            one, options, limit=room + psutil.Process().memory_info().rss, seconds=40, largest=False
        )
        told[report.verdict] = told.get(report.verdict, 0) + 1
        try:
            with submit(whole, one, options, report.room.size) as handle:
                handle.result(600)
            fitted = True
        except WorkerError as error:
            fitted = False
            died = str(error)
        if report.fits and not fitted:
            wrong.append((name, batch, room / needs[name, batch], died))
        missed += fitted and report.verdict == "does_not_fit"
        print(
            number + 1,
            name,
            batch,
            f"{room / needs[name, batch]:.2f}",
            report.verdict,
            "fitted" if fitted else "did not fit",
            flush=True,
        )
    GROUPS.rmdir()
    print(
        f"{count} tries: {told}; said to fit and did not: {len(wrong)} {wrong}; said not to fit and did: {missed}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--part", choices=["errors", "tries"], default="errors")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--tries", type=int, default=100)
    parser.add_argument("--models", nargs="*", default=list(tasks()))
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.part == "errors":
        errors(given.models, given.batch)
    else:
        tries(given.models, given.tries)
