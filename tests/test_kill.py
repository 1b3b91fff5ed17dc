"""kill -9 at random moments: each time the run goes on and ends equal to the uninterrupted one to the last bit

A helper process imports torch once and forks a child for each life of a run, so that fifty kills take seconds. The children train by
the public calls, save every second update, and are killed with SIGKILL.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from helpers import fingerprint, quiet, record, task
from warm_python import python

from trainopt_nb import RunError, find_run, fit, list_runs, resume
from trainopt_nb.api.prepare_run import resume_in as prepare_to_go_on
from trainopt_nb.api.prepare_run import start, stored_options
from trainopt_nb.base.errors import CheckpointError
from trainopt_nb.events.records import Ended, Epoch, Saved, Started, Step, from_lines
from trainopt_nb.store.checkpoint import load_checkpoint
from trainopt_nb.store.lock import lock_owner

SOURCES = {  # of data -> how often a run is killed where it may take long
    "memory": 50,
    "weighted sampler with its own generator": 12,
    "iterable dataset": 12,
}
OFTEN = {"save_steps": 2, "epochs": 4, "max_steps": 25, "schedule": "cosine", "ema": 0.9, "keep": 2}


# --- the helper process


def live(folder, source, outcome):
    "One life: begin, or go on, until the end or a kill"
    torch.set_num_threads(1)
    made, how = task(source, seed=random.randrange(1000) if any(folder.iterdir()) else 1)
    given = {**how.changed(), **OFTEN}
    try:
        run = resume(None, made.model, made.train_data, made.valid_data, folder=folder, write=quiet, **given)
    except (RunError, CheckpointError) as error:
        if "has done all" in str(error):  # killed after the end, before its outcome was written
            run = find_run(None, folder)
            run.load(made.model)
        else:  # killed before there was anything to go on from
            made, _ = task(source)
            run = fit(made.model, made.train_data, made.valid_data, folder=folder, write=quiet, **given)
    _, model_state, training, lost = load_checkpoint(run.path / "checkpoints", "last")
    best = load_checkpoint(run.path / "checkpoints", "best")[1]
    found = {
        "record": record(run.events()),
        "model": fingerprint(dict(made.model.state_dict())),
        "last": fingerprint({"model": dict(model_state), **training}),
        "best": fingerprint(dict(best)),
        "lost": lost,
    }
    part = outcome.with_suffix(".part")  # whole or absent: a kill may come while it is written
    part.write_text(json.dumps(found))
    part.replace(outcome)


def fork(folder, source, outcome):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            live(folder, source, outcome)
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    return child


def read_while_it_is_there(folder):
    "Any process may read a run at any moment; nothing before a torn line is lost"
    for run in list_runs(folder):
        lines, _ = run.lines()
        assert all(json.loads(line) for line in lines)
        steps = [e.step for e in run.events() if type(e) is Step]
        assert steps == list(range(1, len(steps) + 1)), steps
        assert repr(run)


def serve(root, source, kills, seed):
    "Trials until there were enough kills; each trial's outcome is written down"
    import torchmetrics  # noqa: F401 so that no child need import it, nor what the first optimizer imports

    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])

    draw, done, number, told = random.Random(seed), 0, 0, []
    root = Path(root)
    began = time.perf_counter()
    (root / "whole").mkdir()
    assert os.waitpid(fork(root / "whole", source, root / "whole.json"), 0)[1] == 0
    length = time.perf_counter() - began
    while done < kills:
        number += 1
        folder, outcome, here = root / str(number), root / f"{number}.json", 0
        folder.mkdir()
        while not outcome.exists():
            child = fork(folder, source, outcome)
            if here < 4:  # and then it may live
                time.sleep(draw.uniform(0, length * 0.9))
                read_while_it_is_there(folder)
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            if os.WIFSIGNALED(status):
                here += 1
                read_while_it_is_there(folder)
            else:
                assert status == 0 and outcome.exists(), f"trial {number} failed after {here} kills"
        done += here
        told.append(here)
    (root / "kills.json").write_text(json.dumps(told))


# --- the tests


@pytest.mark.parametrize(
    "source, kills",
    [
        ("memory", 3),
        *(pytest.param(source, kills, marks=pytest.mark.slow) for source, kills in SOURCES.items()),
    ],
)
def test_killed_at_random_moments(source, kills, tmp_path):
    seed = random.randrange(2**32)
    command = python(__file__, tmp_path, source, kills, seed)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    subprocess.run(command, check=True, cwd=Path(__file__).parent, env=environment)
    told = json.loads((tmp_path / "kills.json").read_text())
    assert sum(told) >= kills
    expected = json.loads((tmp_path / "whole.json").read_text())
    steps = [r[1] for r in expected["record"] if r[0] == "step"]
    assert steps == list(range(1, 26)) and len([r for r in expected["record"] if r[0] == "epoch"]) == 4
    for number in range(1, len(told) + 1):
        assert json.loads((tmp_path / f"{number}.json").read_text()) == expected, (source, number, seed)
        runs = list_runs(tmp_path / str(number))
        assert [run.state for run in runs].count("finished") == 1
        left = [
            p.name
            for run in runs
            for p in (run.path / "checkpoints").glob(".tmp*")
            if run.state == "finished"
        ]
        assert not left and not lock_owner(runs[0].path / "lock")


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    "A run that was killed in the middle, in a process of its own"
    folder = tmp_path_factory.mktemp("killed")
    script = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from helpers import task
from trainopt_nb.api.prepare_run import start
made, how = task()
job = start(made, how.replace(save_steps=1, epochs=2), folder={str(folder)!r})
for told in job.events():
    if job.progress.step >= 5:
        os.kill(os.getpid(), 9)
"""
    assert subprocess.run(python("-c", script)).returncode == -signal.SIGKILL
    return folder


@pytest.fixture
def run(killed, tmp_path):
    "The same for each test"
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    return find_run(None, tmp_path)


def go_on(run, **changes):
    made, _ = task(seed=30)
    return resume(run, made.model, made.train_data, made.valid_data, write=quiet, **changes)


def test_the_torn_line_is_cut_and_nothing_before_it(run):
    assert run.state == "dead" and "resume" in run.progress.reason
    log = run.path / "events.jsonl"
    whole = log.read_bytes()
    told = len(list(from_lines(run.lines()[0])))
    for torn in (b'{"kind": "steps", "step": [6, 7', b'{"kind": "Note", "text": "\xc3', b"\x00\x00\x00"):
        log.write_bytes(whole + torn)
        assert len(list(from_lines(run.lines()[0]))) == told  # a reader leaves half a line for later
        assert log.read_bytes() == whole + torn
    done = go_on(run)
    text = log.read_bytes()
    assert text.startswith(whole) and b"\x00" not in text and b"\xc3" not in text
    assert [e.step for e in done.events() if type(e) is Step] == list(range(1, 15))
    assert [e.epoch for e in done.events() if type(e) is Epoch] == [1, 2]
    assert [type(e) for e in done.events()].count(Started) == 2 and done.events()[-1].state == "finished"


def test_a_log_of_nothing_but_a_torn_line(run):
    (run.path / "events.jsonl").write_bytes(b'{"kind": "Sta')
    assert run.events() == [] and run.state == "dead"
    assert go_on(run).state == "finished"


def test_a_live_writer_is_told_from_a_dead_one(run, tmp_path):
    assert json.loads((run.path / "lock").read_text())["pid"] not in psutil.pids()
    made, _ = task()
    job = prepare_to_go_on(run, made, stored_options(run, {}))  # the dead one's lock is taken over
    next(job.events())
    assert find_run(run.name, tmp_path).state == "training"
    before = (run.path / "options.json").read_text(), (run.path / "events.jsonl").read_bytes()
    script = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_kill; from trainopt_nb import find_run; "
    script += f"test_kill.go_on(find_run(None, {str(tmp_path)!r}), epochs=9)"
    refused = subprocess.run(python("-c", script), capture_output=True, text=True)
    assert refused.returncode == 1
    said = refused.stderr.strip().splitlines()[-1]
    assert (
        said.startswith("trainopt_nb.")
        and f"process {os.getpid()} on" in said
        and "stop that one first" in said
    )
    assert ((run.path / "options.json").read_text(), (run.path / "events.jsonl").read_bytes()) == before
    job.close()
    assert not (run.path / "lock").exists() and go_on(run).state == "finished"


@pytest.mark.parametrize("change", ["another start", "no process"])
def test_a_stale_lock_is_taken_over(change, run):
    owner = json.loads((run.path / "lock").read_text())
    if change == "another start":  # the number of the dead process was given to a new one
        owner |= {"pid": os.getpid(), "locked": False}
    (run.path / "lock").write_text(json.dumps(owner))
    assert run.state == "dead" and go_on(run).state == "finished"


def test_a_writer_on_another_machine_is_believed(run):
    owner = json.loads((run.path / "lock").read_text())
    (run.path / "lock").write_text(json.dumps({**owner, "host": "elsewhere", "boot": "of another kernel"}))
    with pytest.raises(RunError, match=r"process .* on elsewhere.*cannot be told.*or remove"):
        go_on(run)


def test_a_resume_that_is_refused_leaves_the_run_as_it_was(run):
    made, _ = task()
    kept = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="another model"):
        resume(run, torch.nn.Linear(64, 10), made.train_data, made.valid_data, write=quiet)
    with pytest.raises(ValueError, match="epochs"):
        resume(run, made.model, made.train_data, made.valid_data, write=quiet, epochs=0)
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == kept
    assert go_on(run).state == "finished"


def test_what_a_closed_job_says(tmp_path):
    made, how = task()
    job = start(made, how, folder=tmp_path)
    next(job.events())
    job.close()
    job.close()
    events = job.run.events()
    assert type(events[-1]) is Ended and events[-1].state == "stopped" and "saved" in events[-1].reason
    assert [type(e) for e in events].count(Saved) >= 1 and not made.model.training


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
