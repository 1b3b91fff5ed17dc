"Two devices in JupyterLab: the class is in a cell, the panel answers, the weights come home, and no worker stays"

import re

import pytest
from helpers import alive
from test_train import act, events, panel, step, trains

pytestmark = pytest.mark.browser

MODEL = """
import torch
from torch import nn
(torch.randn(600, 600) @ torch.randn(600, 600)).sum()

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, x):
        return self.body(x)
"""
CELL = """%%trainopt fit --devices 2 --epochs 3000
from sklearn.datasets import load_digits
x, y = load_digits(return_X_y=True)
x = (x / 16).astype("float32")
train_data, valid_data = (x[:1437], y[:1437]), (x[1437:], y[1437:])
model = Net()
before = model.body[0].weight.clone()
"""


def workers(server):
    "Processes of the newest run"
    log = max((server.work / "runs").glob("*/log.txt"), key=lambda path: path.stat().st_mtime).read_text()
    return [int(pid) for pid in re.findall(r"\d+", re.findall(r"^ranks (.*)$", log, re.MULTILINE)[-1])]


@pytest.mark.parametrize(
    "where", ["", pytest.param("--cluster local", marks=pytest.mark.slow)], ids=["here", "ray"]
)
def test_two_devices_in_a_cell(lab, server, where):
    lab.open(
        "%load_ext trainopt_nb",
        MODEL,
        CELL.replace("--devices 2", f"--devices 2 {where}"),
        "print('home', bool((before != model.body[0].weight).any()), run.state)",
    )
    lab.run_all()
    trains(lab, patience=240 if where else 60)  # a cluster starts a dozen processes
    act(lab, "pause", "paused")
    still = step(lab)
    lab.page.wait_for_timeout(1000)
    assert step(lab) == still
    act(lab, "pause", "training")
    panel(lab).locator(".tonb-lr").fill("0.002")
    panel(lab).locator(".tonb-lr").press("Enter")
    rows = panel(lab).locator(".tonb-devices tbody tr")
    lab.wait_for(lambda: rows.count() == 2, "a row for each device")
    lab.screenshot("devices")
    pids = workers(server)
    assert len(pids) == 2
    act(lab, "stop", "stopped")
    lab.wait_text(3, "home True stopped")
    cells = lab.output(2).locator("table").first.locator("td")
    lab.wait_for(lambda: cells.count() == 10, "the card that remains, with five cells a device")
    assert cells.evaluate_all("all => all.every(td => td.scrollWidth <= td.clientWidth)"), "cells overlap"
    lab.screenshot("devices-card")
    lab.wait_for(lambda: not any(alive(pid) for pid in pids), "the end of the workers")
    assert any(e["kind"] == "LrChanged" and e["lr"] == 0.002 for e in events(server))


def test_interrupting_two_devices(lab, server):
    "Once stops with everything saved, and the cell behind is dropped"
    lab.open("%load_ext trainopt_nb", MODEL, CELL, "print('next', run.state)")
    lab.run_all()
    trains(lab)
    lab.interrupt()
    lab.wait_text(2, "The training was interrupted after step .* everything is saved")
    lab.wait_for(lambda: lab.prompt(3) == "[ ]", "the cell behind is dropped")
    lab.wait_idle()
    lab.run(3)
    lab.wait_text(3, "next stopped")


def test_a_restart_of_the_kernel_ends_the_workers_of_its_cell(lab, server):
    lab.open("%load_ext trainopt_nb", MODEL, CELL)
    lab.run_all()
    trains(lab)
    pids = workers(server)
    lab.restart()
    lab.wait_for(lambda: not any(alive(pid) for pid in pids), "the end of the workers", 5)
