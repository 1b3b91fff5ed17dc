"Runs written by version 0.1.0 open, are listed and shown, and go on as that version itself went on with them"

import json
import shutil
from pathlib import Path

import pytest
import torch
from fixtures.make_run_0_1_0 import CHANGES, HOW, data, net
from safetensors.torch import load_file

from trainopt_nb import find_run, list_runs, resume

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(params=list(HOW))
def old(request, tmp_path):
    "A copy of a folder with one old run, and its name"
    shutil.copytree(FIXTURES / f"run-0.1.0-{request.param}", tmp_path / "runs")
    return tmp_path / "runs", request.param


def test_an_old_run_is_listed_and_shown(old):
    folder, name = old
    (run,) = list_runs(folder)
    assert run.name == find_run(None, folder).name == f"2026-11-25-{name}-1"
    assert run.progress.state == name
    assert run.progress.step == 9
    assert run.options["optimizer"] == HOW[name]["optimizer"]
    assert f"2026-11-25-{name}-1: {name}, epoch" in repr(run)
    assert f"2026-11-25-{name}-1" in run._repr_mimebundle_()["text/html"]


def test_an_old_run_goes_on_bit_for_bit(old):
    folder, name = old
    expected, about = (
        load_file(folder / "resumed.safetensors"),
        json.loads((folder / "resumed.json").read_text()),
    )
    model = net(77)
    run = resume(None, model, *data(), folder=folder, write=lambda line: None, **CHANGES[name])
    assert (run.progress.state, run.progress.step) == ("finished", about["steps"])
    same = torch.backends.cpu.get_cpu_capability() == about["cpu"] and torch.__version__ == about["torch"]
    for key, value in model.state_dict().items():
        if same:  # other kernels add in another order
            assert torch.equal(value, expected[key]), key
        torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-5)
    losses = [row.valid_loss for row in run.progress.epochs]
    assert losses == (about["valid_loss"] if same else pytest.approx(about["valid_loss"], rel=1e-4))


def test_the_script_of_an_old_run_is_written(old):
    folder, _ = old
    script = find_run(None, folder).eject()
    compile(script.text, "train.py", "exec")
