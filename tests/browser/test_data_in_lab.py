"The data panel in JupyterLab: sliders change the preview, label errors are marked, undone and trained on, a sound plays"

import json

import pytest

pytestmark = pytest.mark.browser

DIGITS = """%load_ext trainopt_nb
import torch
from sklearn.datasets import load_digits
from torch import nn

digits = load_digits()
x, y = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None], torch.tensor(digits.target)
given = y[:600].clone()
given[:30] = (given[:30] + 1) % 10
train_data, valid_data = (x[:600], given), (x[600:900], y[600:900])
torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))"""
FIT = "%%trainopt fit --epochs 1 --name digits\n# the variables are those of the cells above"
SAID = """print("trained on", [str(change) for change in run.changes], len(train_data), int((train_data.data[1] == given).sum()))"""
SOUNDS = """import numpy as np

time = np.arange(2400) / 8000
train_data = np.stack([np.sin(2 * np.pi * 40 * (k + 6) * time) for k in range(20)]).astype("float32"), np.arange(20) % 2
valid_data = model = None"""
CELLS = (
    DIGITS,
    "%trainopt data --epochs 12 --lr 1e-2",
    "print('free', 6 * 7)",
    FIT,
    SAID,
    SOUNDS,
    "%trainopt data --sound-rate 8000",
)

SOURCES = (
    "() => window.jupyterapp.shell.currentWidget.content.model.sharedModel.cells.map((cell) => cell.source)"
)


def strips(panel):
    "The pictures of the preview by the name of their row"
    return panel.locator(".tonb-strips").evaluate(
        """(grid) => Object.fromEntries([...grid.querySelectorAll(".tonb-strip-name")].map((name) =>
        [name.querySelector("b").textContent, name.nextElementSibling.querySelector("i").style.backgroundImage]))"""
    )


def changes(panel):
    return int(panel.get_attribute("data-changes"))


def test_data_are_seen_cleaned_undone_and_trained_on(lab, server):
    lab.open(*CELLS)
    for i in (0, 1):
        lab.run(i)
    panel = lab.output(1).locator(".tonb-data")
    panel.wait_for(timeout=60_000)
    lab.wait_done(1)

    panel.get_by_role("button", name="Check labels").click()
    lab.wait_for(lambda: panel.get_attribute("data-search") == "running", "the search")
    lab.run(2)
    lab.wait_text(2, "free 42")  # while labels are checked

    panel.get_by_role("tab", name="Augment").click()
    before = strips(panel)
    panel.locator("input[data-name=rotate]").fill("90")
    lab.wait_for(lambda: strips(panel)["rotate"] != before["rotate"], "another picture")
    after = strips(panel)
    assert after["original"] == before["original"] and after["whole policy"] != before["whole policy"]
    assert lab.read(panel.locator(".tonb-flags code")) == '--augment "crop:0.1 rotate:90"'

    panel.get_by_role("tab", name="Problems").click()
    lab.wait_for(lambda: panel.get_attribute("data-search") == "done", "the end of the search", 120)
    wrong = panel.locator("tr[data-problem='labels/train']")
    wrong.locator(".tonb-look").click()
    lab.wait_for(lambda: panel.locator(".tonb-image.tonb-flag").count() > 9, "samples with a suggestion")
    for box in panel.locator(".tonb-image .tonb-pick").all()[:10]:
        box.check()
    lab.screenshot("data-labels")
    panel.get_by_role("button", name="Relabel", exact=True).last.click()
    lab.wait_for(lambda: changes(panel) == 1, "a change")
    panel.get_by_role("button", name="Undo").click()
    lab.wait_for(lambda: changes(panel) == 0, "no change")
    panel.get_by_role("button", name="Redo").click()
    panel.get_by_role("tab", name="Changes").click()
    cells = lab.page.evaluate(SOURCES)
    panel.get_by_role("button", name="Insert as a cell").click()
    panel.locator(".tonb-inserted").get_by_text("new cell below").wait_for()
    more = lab.page.evaluate(SOURCES)
    assert more[:2] + more[3:] == cells and more[2].startswith(
        "import torch\n\ninputs, targets = train_data\n"
    )
    lab.page.evaluate("() => window.jupyterapp.shell.currentWidget.content.model.sharedModel.deleteCell(2)")
    panel.get_by_role("button", name="Use as train_data").click()
    panel.locator(".tonb-told").get_by_text("stores the changes").wait_for()
    panel.get_by_role("button", name="Insert as a cell").click()  # of what is in use already
    lab.wait_for(lambda: "isinstance(train_data, ChangedData)" in lab.page.evaluate(SOURCES)[2], "the cell")
    lab.run(2)
    lab.wait_done(2)
    assert not lab.text(2)
    lab.page.evaluate("() => window.jupyterapp.shell.currentWidget.content.model.sharedModel.deleteCell(2)")
    panel.get_by_role("button", name="Use as train_data").click()

    panel.get_by_role("tab", name="Loading").click()
    panel.get_by_role("button", name="Measure").click()
    lab.wait_for(lambda: panel.locator("[data-loading=done]").count(), "a measurement", 120)
    assert "in memory" in lab.read(panel.locator(".tonb-loading-said"))
    assert panel.locator(".tonb-loading tbody tr").count() == 1 and panel.locator(".tonb-step-parts").count()
    lab.screenshot("data-loading")
    for i in (3, 4):
        lab.run(i)
        lab.wait_done(i)
    lab.wait_text(4, r"trained on \['relabel 10 rows \(labels\)'\] 600 600")
    log = next(server.work.glob("runs/*digits*/events.jsonl")).read_text().splitlines()
    (stored,) = [event for line in log if (event := json.loads(line))["kind"] == "DataChanged"]
    assert len(stored["rows"]) == 10 and sum(row < 30 for row in stored["rows"]) >= 8

    for i in (5, 6):
        lab.run(i)
        lab.wait_done(i)
    sounds = lab.output(6).locator(".tonb-data")
    sounds.get_by_role("tab", name="Samples").click()
    sounds.get_by_role("button", name="Play row 0").click()
    heard = "document.querySelectorAll('.tonb-audio')[0]?.currentTime > 0.1"
    lab.page.wait_for_function(heard, timeout=20_000)
    lab.screenshot("data-sound")
    sounds.get_by_role("button", name="Play row 0").wait_for()  # at its end
    sounds.get_by_role("tab", name="Augment").click()
    sounds.get_by_role("button", name="Play sample 2 of speed").click()
    lab.page.wait_for_function(heard, timeout=20_000)
    sounds.get_by_role("button", name="Close").click()
    lab.wait_for(lambda: sounds.count() == 0 and "training samples" in lab.text(6), "the printed report")
    assert not lab.errors
