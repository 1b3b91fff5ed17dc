"A sweep in JupyterLab: its panel answers while the cell searches, and a trial becomes a cell"

import json

import pytest
from test_train import ACT, panel, state

pytestmark = pytest.mark.browser

LIMIT = 300  # ms from a click to its effect, the step under way included
CELL = """%%trainopt sweep --trials 4000 --epochs 4 --batch-trials off --space lr=1e-4..1e-1:log batch_size=16|32
import torch
from torch import nn

torch.manual_seed(0)
width = 16  #@param {type:"slider", min:4, max:64}
x = torch.randn(96, 8)
y = (x.sum(1) > 0).long()
train_data, valid_data = (x[:64], y[:64]), (x[64:], y[64:])
model = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 2))"""


def log(server):
    "All records of the sweep"
    path = max((server.work / "runs").glob("*sweep*/events.jsonl"), key=lambda path: path.stat().st_mtime)
    return [json.loads(line) for line in path.read_text().splitlines()]


def of_kind(server, kind):
    return [record for record in log(server) if record["kind"] == kind]


def ended(lab):
    return panel(lab).locator("tr[data-trial][data-state=done]").count()


def act(lab, part, wanted):
    return lab.page.evaluate(ACT, [f".tonb-{part}", None, "state", wanted])


def test_a_sweep_answers_while_its_cell_searches(lab, server):
    lab.open("%load_ext trainopt_nb", CELL, "print('after', type(model).__name__, run.name, width)")
    lab.run_all()
    panel(lab).wait_for(timeout=60_000)
    lab.wait_for(lambda: ended(lab) >= 6, "six trials", 90)
    lab.screenshot("sweep-live")

    times = [act(lab, "pause", "paused")]
    assert state(lab) == "paused"
    end = panel(lab).locator(".tonb-dimension[data-name=lr] .tonb-end").first
    end.fill("0.01")
    end.press("Enter")
    lab.wait_for(lambda: of_kind(server, "SpaceChanged"), "the narrowed range")
    times.append(act(lab, "pause", "training"))
    begun = len(of_kind(server, "TrialStarted"))
    lab.wait_for(lambda: len(of_kind(server, "TrialStarted")) > begun + 5, "more trials")
    records = log(server)
    changed = next(i for i, record in enumerate(records) if record["kind"] == "SpaceChanged")
    later = [record["values"] for record in records[changed:] if record["kind"] == "TrialStarted"]
    assert later and all(0.01 <= values["lr"] <= 0.1 for values in later)

    axis = panel(lab).locator("[data-axis=lr] .tonb-hit")
    axis.scroll_into_view_if_needed()
    box = axis.bounding_box()
    lab.page.mouse.move(box["x"] + 14, box["y"] + 12)
    lab.page.mouse.down()
    lab.page.mouse.move(box["x"] + 14, box["y"] + 0.6 * box["height"], steps=5)
    lab.page.mouse.up()
    lab.wait_for(lambda: panel(lab).locator(".tonb-parallel").get_attribute("data-chosen"), "brushed trials")
    lab.screenshot("sweep-brushed")
    panel(lab).locator(".tonb-narrow-to").click()
    lab.wait_for(lambda: len(of_kind(server, "SpaceChanged")) >= 2, "the ranges of the brushed trials")

    best = int(panel(lab).locator("tr[data-trial]").first.get_attribute("data-trial"))
    panel(lab).locator(f"tr[data-trial='{best}'] [data-do=use]").click()
    panel(lab).locator(f"tr[data-trial='{best}'] td").first.click()
    panel(lab).locator(".tonb-freeze").click()
    times.append(act(lab, "stop", "stopped") if panel(lab).count() else 0)
    lab.wait_idle()
    lab.wait_text(3, rf"after Sequential {best} ")  # behind the frozen cell
    lab.screenshot("sweep-ended")
    assert max(times) < 3 * LIMIT and not lab.errors

    value = next(r["values"][0] for r in of_kind(server, "TrialEnded") if r["number"] == best)
    lab.save()
    frozen = [cell.source for cell in lab.saved().cells if cell.source.startswith("%%trainopt fit")]
    assert len(frozen) == 1 and "#@param" in frozen[0]
    lab.open("%load_ext trainopt_nb", frozen[0], "print('reached', run.metrics['accuracy'])")
    lab.run_all()
    lab.wait_text(2, f"reached {value}")
