"Faults that other tests inject into one part, met through the public calls: in the background, on several devices, by `resume`"

import json
import os
import shutil

import pytest
import torch
from helpers import alive, over, quiet, ranks_of, small_table, until
from starts import launch
from test_killed_processes import Fails
from torch import nn

from trainopt_nb import Run, RunError, Task, TrainOptions, find_run, fit, resume
from trainopt_nb.api.prepare_run import start
from trainopt_nb.events.records import LrChanged, Note, SetLr, Step
from trainopt_nb.store.checkpoint import checkpoints

X, Y, TRAIN, VALID = small_table()


def net():
    torch.manual_seed(0)
    return nn.Linear(6, 3)


def stepped(folder, steps, **more):
    "A run of this process, until so many steps are done"
    given = {"epochs": 2, "batch_size": 32, "device": "cpu", "schedule": "constant", **more}
    job = start(Task(net(), TRAIN, VALID), TrainOptions.of(**given), folder=folder)
    events = job.events(nap=0.0)
    while job.progress.step < steps:
        next(events)
    return job, events


def as_killed(job, folder):
    "The run as a kill leaves it now, under the same name in another folder"
    shutil.copytree(job.run.path, folder / job.run.path.name)
    for name in ("lock", ".lock"):
        (folder / job.run.path.name / name).unlink(missing_ok=True)
    return Run(folder / job.run.path.name)


def test_resume_sets_the_learning_rate_again_that_was_set_after_the_checkpoint(tmp_path):
    job, events = stepped(tmp_path, 5, save_steps=1000, save_seconds=1e6, epochs=9)
    job.send(SetLr(0.25))
    while not (found := [e for e in job.run.events() if type(e) is LrChanged]):
        next(events)
    runs = [as_killed(job, tmp_path / name) for name in ("killed", "another")]
    job.close()
    resume(runs[0], net(), TRAIN, VALID, write=quiet)
    rates = {e.step: e.lr for e in runs[0].events() if type(e) is Step}
    assert {rate for step, rate in rates.items() if step > found[0].step} == {0.25} != {rates[1]}
    resume(runs[1], net(), TRAIN, VALID, write=quiet, lr=0.125)  # what is asked for now holds
    assert [e.lr for e in runs[1].events() if type(e) is Step][-1] == 0.125


def test_a_damaged_log_and_a_damaged_newest_checkpoint_at_once(tmp_path):
    run = fit(
        net(), TRAIN, VALID, folder=tmp_path, epochs=2, batch_size=32, save_steps=4, keep=9, device="cpu", write=quiet
    )  # fmt: skip
    newest = checkpoints(run.path / "checkpoints")[0].folder / "model.safetensors"
    for path in (run.path / "events.jsonl", newest):
        data = bytearray(path.read_bytes())
        data[data.index(b'"kind"', 400) + 2 if path.suffix == ".jsonl" else -1] ^= 64
        path.write_bytes(data)
    damaged = Run(run.path)
    resume(damaged, net(), TRAIN, VALID, epochs=3, write=quiet)
    said = [e.text for e in damaged.events() if type(e) is Note and e.topic == "resume"]
    assert damaged.state == "finished" and damaged.progress.epoch == 3
    assert any("line of the run's log" in text for text in said) and any(
        "is damaged" in text for text in said
    )


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("what", ["moved", "removed"])
def test_the_directory_of_a_run_in_other_processes_goes_away(what, devices, tmp_path):
    run = launch(
        Task(net(), TRAIN), TrainOptions.of(epochs=100_000, device="cpu", devices=devices), folder=tmp_path
    )
    until(lambda: run.progress.step > 5, "some steps")
    pids = ranks_of(run) if devices > 1 else [json.loads((run.path / "lock").read_text())["pid"]]
    os.rename(run.path, tmp_path / "elsewhere") if what == "moved" else shutil.rmtree(run.path)
    until(lambda: not any(map(alive, pids)), "the end of the processes that write")
    saved = until(
        lambda: [p for p in tmp_path.glob("*rescued") if Run(p).state == "failed"], "the rescued run"
    )[0]
    found = find_run(saved.name, tmp_path)
    assert (
        "was moved, removed or replaced while it trained" in found.progress.reason
        and "\n" not in found.progress.reason
    )
    done = resume(found, net(), TRAIN, epochs=found.progress.epoch + 1, devices=devices, write=quiet)
    assert done.state == "finished"


class FailsSplit(Fails):
    "With layers that a plan can split"

    def __init__(self, where):
        super().__init__(where)
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


FailsSplit.__module__ = "__main__"  # travels by value


@pytest.mark.parametrize("where", ["step", "log"])
def test_an_error_on_the_first_rank_of_split_layers_ends_all_of_them(where, tmp_path):
    with pytest.raises(RunError, match="no good") as caught:
        fit(
            FailsSplit(where), TRAIN, VALID, folder=tmp_path, devices=2, epochs=50, batch_size=32, tensor_plan="auto", write=quiet
        )  # fmt: skip
    run = over(caught.value.run)
    assert run.state == "failed" and not any(map(alive, ranks_of(run)))
