"""
Runs in processes of their own: how long one waits for the first step, for the weights after a stop, for the word of a death

    python tests/bench/workers.py            # 20 starts of each kind, 50 stops
    python tests/bench/workers.py 5          # a tenth of these

scikit-learn's digits and a small perceptron. Times are wall times, medians with the slowest in brackets. A start is measured from
the call to the moment in which the first step is done, as its process wrote it down; a stop from the call to the moment in which
the caller's own model holds the weights, less the step under way, which takes less than a millisecond here. Before the stops a
product of matrices with two threads was computed, after which workers that are forked from the caller would hang.
"""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch
from common import digits, machine, mlp

sys.path.insert(0, str(Path(__file__).parents[1]))
from starts import launch, leave

from trainopt_nb import Task, TrainOptions
from trainopt_nb.events.progress import Progress
from trainopt_nb.events.records import Started, Step, Stop, from_lines
from trainopt_nb.notebook.followers import FOLLOW
from trainopt_nb.store.lock import lock_owner
from trainopt_nb.workers.processes import warm

FOLDER = tempfile.mkdtemp(prefix="trainopt-bench-")
DATA = digits()


def told(name, values, limit, unit="ms"):
    "A line of the table"
    scale = 1000 if unit == "ms" else 1
    middle, most = statistics.median(values) * scale, max(values) * scale
    print(f"{name:62s} {middle:8.1f} ({most:.1f}) {unit}   at most {limit}", flush=True)


def options(devices, **more):
    return TrainOptions.of(devices=devices, epochs=100_000, batch_size=64, **more)


def first_step(run):
    "When the first step was done, in seconds since 1970"
    while True:
        events = list(from_lines(run.lines()[0]))
        step = next((e for e in events if type(e) is Step), None)
        if step:
            return next(e.time for e in events if type(e) is Started) + step.seconds
        time.sleep(0.002)


def ended(run):
    while lock_owner(run.path / "lock") is not None:
        time.sleep(0.005)


def starts(devices, times):
    "Seconds to the cell's return, and to the first step"
    back, first = [], []
    for _ in range(times):
        began, clock = time.time(), time.perf_counter()
        run = launch(Task(mlp(), DATA), options(devices), folder=FOLDER)
        back.append(time.perf_counter() - clock)
        first.append(first_step(run) - began)
        run.send(Stop())
        ended(run)
    return back, first


def stops(devices, times):
    "Seconds from a stop to the weights"
    found = []
    for _ in range(times):
        job, asked = leave(Task(mlp(), DATA), options(devices), folder=FOLDER), []

        def after_a_while(job=job, asked=asked):
            if not asked and job.progress.step > 20:
                asked.append(time.perf_counter())
                return Stop()

        for _ in job.events(after_a_while):
            pass
        job.close()
        found.append(time.perf_counter() - asked[0])
        assert job.progress.state == "stopped"
    return found


def deaths(times):
    "Seconds from the death of one of two ranks to its name in the run"
    found = []
    for _ in range(times):
        run = launch(Task(mlp(), DATA), options(2), folder=FOLDER)
        first_step(run)
        line = [x for x in (run.path / "log.txt").read_text().splitlines() if x.startswith("ranks ")][-1]
        victim = int(line.rpartition(", ")[2])
        began = time.perf_counter()
        os.kill(victim, signal.SIGKILL)
        while run.state != "failed":
            time.sleep(0.002)
        found.append(time.perf_counter() - began)
        assert f"process {victim}" in run.progress.reason
        ended(run)
    return found


ORPHANS = """
import sys
sys.path.insert(0, {here!r})
import torch
from common import digits, mlp
from trainopt_nb import fit
fit(mlp(), digits(), folder={folder!r}, devices=2, epochs=100000, write=lambda line: None)
"""


def orphans(times):
    "Seconds from the death of the process that asked for two devices to that of its workers"
    found = []
    for number in range(times):
        folder = Path(FOLDER, f"orphans-{number}")
        source = ORPHANS.format(here=str(Path(__file__).parent), folder=str(folder))
        process = subprocess.Popen([sys.executable, "-c", source])
        while not (logs := [x for x in folder.glob("*/events.jsonl") if '"steps"' in x.read_text()]):
            time.sleep(0.02)
        path = logs[0].parent
        pids = [json.loads((path / "lock").read_text())["pid"]]
        line = [x for x in (path / "log.txt").read_text().splitlines() if x.startswith("ranks ")][-1]
        pids += [int(pid) for pid in line.removeprefix("ranks ").split(", ")]
        began = time.perf_counter()
        process.kill()
        while any(_there(pid) for pid in pids):
            time.sleep(0.005)
        found.append(time.perf_counter() - began)
        process.wait()
    return found


def _there(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def following(seconds=5):
    "Share of one core that the caller spends on following a run"
    job, own = leave(Task(mlp(), DATA), options(2), folder=FOLDER), psutil.Process()
    events = job.events(lambda: Stop() if time.perf_counter() > end else None)
    end = time.perf_counter() + 60
    for _ in events:
        if job.progress.step > 20:
            break
    before, began = sum(own.cpu_times()[:2]), time.perf_counter()
    end = began + seconds
    for _ in events:
        if time.perf_counter() > end:
            break
    share = (sum(own.cpu_times()[:2]) - before) / (time.perf_counter() - began)
    for _ in events:
        pass
    job.close()
    return share


def followed(rounds, nap):
    "CPU time of a step of a worker while somebody looks at its run all `nap` seconds, over that while nobody does; in turns, a ratio each"
    run = launch(Task(mlp(), DATA), options(1, threads=1), folder=FOLDER)
    first_step(run)
    worker, progress, place = psutil.Process(lock_owner(run.path / "lock")["pid"]), Progress(run.name), 0

    def look():
        nonlocal place
        lines, place = run.lines(place)
        spent = sum(worker.cpu_times()[:2])
        progress.add(from_lines(lines))
        return progress.step, spent

    def a_step(nap, seconds=1.0):
        step, spent = look()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            time.sleep(nap)
            if nap < seconds:
                look()
        later, more = look()
        return (more - spent) / (later - step)

    a_step(1.0)
    ratios = []
    for number in range(rounds):  # the one that comes first changes, since the machine changes too
        naps = (nap, 1.0) if number % 2 else (1.0, nap)
        cost = {each: a_step(each) for each in naps}
        ratios.append(cost[nap] / cost[1.0])
    run.send(Stop())
    ended(run)
    return ratios


COLD = """
import sys, time
sys.path.insert(0, {here!r})
import torch
from common import digits, mlp
from trainopt_nb import Task, TrainOptions
from trainopt_nb.api.run_task import Where, run_task
from workers import first_step, ended
from trainopt_nb.events.records import Stop
data = digits()
began = time.time()
run = run_task(Task(mlp(), data), TrainOptions.of(devices={devices}, epochs=100000), Where({folder!r}, background=True)).run
print(first_step(run) - began)
run.send(Stop())
ended(run)
"""


def cold(devices, times):
    source = COLD.format(here=str(Path(__file__).parent), devices=devices, folder=FOLDER)
    runs = [
        subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
        for _ in range(times)
    ]
    return [float(run.stdout.split()[0]) for run in runs]


def main(share):
    torch.set_num_threads(2)
    print(machine(), f"medians, the slowest in brackets; load {psutil.getloadavg()[0]:.1f}\n", sep=", ")
    warm()
    amount = lambda number: max(1, round(number * share))
    for devices, limit in ((1, "300"), (2, "500")):
        back, first = starts(devices, amount(20))
        told(f"{devices} in the background, warm: the call is back", back, "50")
        told(f"{devices} in the background, warm: to the first step", first, limit)
    torch.randn(800, 800) @ torch.randn(800, 800)
    for devices in (1, 2):
        told(
            f"{devices} in the cell: from a stop to the weights, {amount(50)} times",
            stops_of(devices, amount(50)),
            "150",
        )
    told("a killed rank is named in the run", deaths(amount(10)), "100")
    told("no worker is left after the caller was killed", orphans(amount(5)), "1000")
    for devices in (1, 2):
        told(f"{devices} in the background, cold: to the first step", cold(devices, amount(5)), "4", "s")
    print(f"{'following a run of two, share of one core':62s} {following():8.1%}            at most 5%")
    for nap, who in ((FOLLOW, "by a panel"), (0.01, "by the cell that waits for it")):
        ratios = followed(amount(40), nap)
        more, spread = statistics.median(ratios) - 1, statistics.pstdev(ratios) / len(ratios) ** 0.5
        name = f"being followed {who}, share of the worker's time"
        print(f"{name:62s} {more:8.1%} (+- {spread:.1%})  at most 1%")
    shutil.rmtree(FOLDER, ignore_errors=True)


def stops_of(devices, times):
    "One device in the cell is trained by the caller itself; with a restart to spare it is not"
    if devices > 1:
        return stops(devices, times)
    found = []
    for _ in range(times):
        model = mlp()
        run = launch(Task(model, DATA), options(1), folder=FOLDER)
        first_step(run)
        from trainopt_nb.api.handle import load_final_weights

        began = time.perf_counter()
        run.send(Stop())
        ended(run)
        assert load_final_weights(run, model) == []
        found.append(time.perf_counter() - began)
    return found


if __name__ == "__main__":
    main(float(sys.argv[1]) / 50 if len(sys.argv) > 1 else 1.0)
