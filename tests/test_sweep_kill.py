"""kill -9 of workers and of the kernel at random moments: the sweep ends with each finished trial in the study once

Each life of the sweep is a process of its own. Its workers write down their process ids, and which trials they have trained to the end.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
import torch
from helpers import until
from torch import nn
from warm_python import python

from trainopt_nb import Task
from trainopt_nb.store.checkpoint import load_checkpoint
from trainopt_nb.sweeps.run_sweep import sweep
from trainopt_nb.sweeps.sweep import Sweep
from trainopt_nb.sweeps.trial_end import counts

KINDS = {"numbers": {"goal": "max"}, "a task": {"epochs": 3, "repeats": 0}}


# --- one life


def live(kind, folder, trials, jobs, name):
    (folder / "pids").mkdir(exist_ok=True)

    def numbers(trial):
        (folder / "pids" / str(os.getpid())).touch()
        x = trial.suggest_float("x", 0, 1)
        for step in range(4):
            time.sleep(0.002)
            trial.report(x, step)
        return x

    def make_task(trial):
        (folder / "pids" / str(os.getpid())).touch()
        width = trial.suggest_int("width", 2, 10_000)
        torch.manual_seed(0)
        x = torch.randn(64, 4)
        y = (x.sum(1) > 0).long()
        return Task(
            nn.Sequential(nn.Linear(4, width % 32 + 2), nn.ReLU(), nn.Linear(width % 32 + 2, 2)),
            (x, y),
            (x, y),
        )

    objective = numbers if kind == "numbers" else make_task
    print("kernel", os.getpid(), flush=True)
    found = {
        "folder": folder / "runs",
        "trials": trials,
        "jobs": jobs,
        "resume": name or None,
        "pruner": "none",
    }
    sweep(objective, sampler="random", **KINDS[kind], **found)


# --- kills


def workers(folder):
    "Return the workers that live"
    pids = [int(path.name) for path in (folder / "pids").iterdir()] if (folder / "pids").exists() else []
    return [
        pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    ]


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return 0
    return 1


def life(kind, folder, trials, draw, kills):
    "Begin the sweep or go on, kill some workers and then perhaps the kernel; returns how many kills there were, and whether it ended"
    name = next((path.name for path in folder.glob("runs/*")), "")
    command = python(__file__, kind, folder, trials, draw.choice([1, 2]), name)
    done, kernel, next_kill = 0, None, draw.randrange(1, 6)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parent
    )
    for line in process.stdout:
        kernel = int(line.split()[1]) if line.startswith("kernel") else kernel
        next_kill -= line.startswith("trial ")
        if next_kill <= 0 and done < kills:
            next_kill = draw.randrange(1, 6)
            time.sleep(draw.uniform(0, 0.03))
            if draw.random() < 0.3:
                done += kill(kernel)
            elif alive := workers(folder):
                done += kill(draw.choice(alive))
    process.wait()
    error = process.stderr.read()
    assert process.returncode in (0, -signal.SIGKILL), error
    return done, process.returncode == 0


# --- what must hold


def check(found, folder, planned):
    study = found.study.trials
    assert {trial.state.name for trial in study} <= {"COMPLETE", "FAIL"}, "a trial runs or waits for ever"
    assert sum(map(counts, study)) == planned
    done = [trial for trial in study if trial.state.name == "COMPLETE"]
    assert len({str(trial.params) for trial in done}) >= len(done) - (0 if "x" in done[0].params else 2)
    assert len(done) > 0.6 * planned
    check_log(found, {trial.number: trial for trial in study}, done)
    until(lambda: not workers(folder), "workers that end with their kernel", 20)


def check_log(found, study, done):
    "Each finished trial has ended once in the log, with the values that the study has"
    lines = (found.path / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    ends = [event for event in events if event.get("kind") == "TrialEnded"]
    assert [n for n, count in Counter(end["number"] for end in ends).items() if count > 1] == []
    said = {end["number"]: end["values"] for end in ends if end["state"] == "done"}
    assert said == {trial.number: trial.values for trial in done}
    rows = {row.number: row for row in found.trials}
    for trial in done:
        assert rows[trial.number].state == "done" and rows[trial.number].values == trial.params
    assert found.progress.done == len(done) and found.directory.state == "finished"
    assert (
        found.progress.ended == found.progress.planned
        and found.progress.failed == found.progress.ended - len(done)
    )
    assert all(json.loads(line) for line in (found.path / "study.log").read_text().splitlines())
    assert not any(row.state == "training" for row in rows.values()) and set(rows) <= set(study)


def check_runs(found):
    for row in found.trials:
        if row.state == "done":
            run = found.run(row.number)
            assert run.state == "finished" and len(run.progress.epochs) == 3
            _, weights, _, lost = load_checkpoint(run.path / "checkpoints", "best")
            assert weights and not lost


@pytest.mark.parametrize(
    "kind, kills, trials",
    [
        ("numbers", 5, 24),
        ("a task", 3, 10),
        pytest.param("numbers", 200, 300, marks=pytest.mark.slow),
        pytest.param("a task", 40, 80, marks=pytest.mark.slow),
    ],
)
def test_killed_at_random_moments(kind, kills, trials, tmp_path):
    seed = random.randrange(2**32)
    draw, ended = random.Random(seed), False
    print("seed", seed)
    while not ended:
        done, ended = life(kind, tmp_path, trials, draw, kills)
        kills -= done
    found = Sweep(next(tmp_path.glob("runs/*")))
    check(found, tmp_path, trials)
    if kind == "a task":
        check_runs(found)


@pytest.mark.parametrize("more", [0, 1])
def test_a_trial_whose_end_is_only_in_the_study(more, tmp_path):
    "The kernel was killed after it had told the study and before it wrote the log; so were some that went on, at their first event"
    how = {"goal": "max", "folder": tmp_path, "sampler": "random", "repeats": 0}
    objective = lambda trial: trial.suggest_float("x", 0, 1)
    before = sweep(objective, trials=4, **how)
    log = before.path / "events.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    last = max(i for i, line in enumerate(lines) if line.get("kind") == "TrialEnded")
    kept = [line for line in lines[:last] if (line.get("kind"), line.get("number")) != ("TrialValues", 3)]
    kept += [line for line in kept if line.get("kind") == "SweepStarted"] * more
    log.write_text("".join(json.dumps(line) + "\n" for line in kept))
    row = before.progress.trials[3]
    assert row.state == ("lost" if more else "training") and not row.values
    found = sweep(objective, trials=6, resume=before, **how)
    check(found, tmp_path, 6)
    assert found.progress.trials[3].values == found.study.trials[3].params and len(found.study.trials) == 6


if __name__ == "__main__":
    live(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
