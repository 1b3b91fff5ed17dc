"Faults that other tests inject into one part, met through the public calls: in the background, on several devices, by `resume`"

import json
import os
import shutil

import pytest
import torch
from helpers import alive, over, quick_path, quiet, ranks_of, small_table, until  # noqa: F401
from starts import launch
from torch import nn

from trainopt_nb import Run, Task, TrainOptions, find_run, fit, resume
from trainopt_nb.events.records import Note
from trainopt_nb.store.checkpoint import checkpoints

X, Y, TRAIN, VALID = small_table()


def net():
    torch.manual_seed(0)
    return nn.Linear(6, 3)


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


@pytest.mark.parametrize("what", ["moved", "removed"])
def test_the_directory_of_a_run_in_other_processes_goes_away(what, tmp_path):
    run = launch(Task(net(), TRAIN), TrainOptions.of(epochs=100_000, device="cpu"), folder=tmp_path)
    until(lambda: run.progress.step > 5, "some steps")
    pids = [json.loads((run.path / "lock").read_text())["pid"]]
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
    done = resume(found, net(), TRAIN, epochs=found.progress.epoch + 1, write=quiet)
    assert done.state == "finished"
