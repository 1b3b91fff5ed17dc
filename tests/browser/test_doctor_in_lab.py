"What the doctor found in JupyterLab: the finding, its evidence, the trial, the change written out, and a next run that is right"

import pytest
from test_train import events, panel

pytestmark = [pytest.mark.browser, pytest.mark.slow]

TASK = """from sklearn.datasets import load_digits
from torch import nn
import torch

images, digits = load_digits(return_X_y=True)
images = images.astype("float32"){scale}
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 32), {layer}, nn.Linear(32, 10){last})
train_data, valid_data = (images[:1200], digits[:1200]), (images[1200:], digits[1200:])
"""
TWICE = TASK.format(scale=" / 16", layer="nn.ReLU()", last=", nn.Softmax(1)") + "loss = nn.CrossEntropyLoss()"
UNSCALED = TASK.format(scale=" * 40", layer="nn.Tanh()", last="")


def told(server):
    "Names of the findings that the newest run told"
    return [
        e["name"] for e in events(server) if e["kind"] == "Found" and e["confidence"] in ("exact", "proven")
    ]


def row(lab, name):
    found = panel(lab).locator(f".tonb-found[data-finding={name}]")
    found.wait_for(timeout=120_000)
    return found


def write(lab, source):
    "Put a new cell in the place of the second one, with a new kernel's outputs"
    lab.page.evaluate(
        "(source) => window.jupyterapp.shell.currentWidget.content.widgets[1].model.sharedModel.setSource(source)",
        source,
    )
    lab.run(1)


def widths(lab, name):
    "Pictures of the panel as it is, at three widths, light and dark"
    lab.command("application:toggle-left-area")
    for theme in ("JupyterLab Dark", "JupyterLab Light"):
        lab.command("apputils:change-theme", theme=theme)
        for width in (1280, 830, 480):
            lab.page.set_viewport_size({"width": width, "height": 1000})
            panel(lab).locator(".tonb-found").scroll_into_view_if_needed()
            lab.page.wait_for_timeout(300)
            lab.screenshot(f"{name}-{width}-{theme[11:].lower()}")
    lab.command("application:toggle-left-area")
    lab.page.set_viewport_size({"width": 1280, "height": 1000})


def test_softmax_before_cross_entropy_is_told_proven_and_gone_in_the_next_run(lab, server):
    first = "%%trainopt fit --epochs 4000 --lr 1e-2\n"
    lab.open("%load_ext trainopt_nb", first + TWICE)
    lab.run_all()
    found = row(lab, "probabilities_to_cross_entropy")
    assert panel(lab).get_attribute("data-state") in ("training", "validating")
    found.locator(".tonb-show-evidence").click()
    found.locator(".tonb-evidence-bars").wait_for()
    found.locator(".tonb-prove").click()
    found.locator(".tonb-sides").wait_for(timeout=60_000)
    assert "with the change" in lab.read(found)
    found.locator(".tonb-apply").click()
    new = lab.read(found.locator(".tonb-code-new"))
    assert "Softmax" not in new and "line 9" in lab.read(found)
    widths(lab, "doctor-softmax")
    panel(lab).locator(".tonb-stop").click()
    lab.wait_done(1, 60)
    (proven,) = [e for e in events(server) if e["kind"] == "Found" and e["proof"]]
    assert min(proven["proof"]["after"]) > max(proven["proof"]["before"])
    old = lab.read(found.locator(".tonb-code-old"))
    write(lab, first.replace("4000", "5") + TWICE.replace(old, new))
    lab.wait_for(lambda: panel(lab).get_attribute("data-state") == "finished", "the end of the next run", 120)
    assert panel(lab).locator(".tonb-found").count() == 0
    assert told(server) == []


def test_unscaled_inputs_are_told_once_they_are_proven(lab, server):
    first = "%%trainopt fit --epochs 60 --optimizer sgd --lr 0.05\n"
    lab.open("%load_ext trainopt_nb", first + UNSCALED)
    lab.run_all()
    found = row(lab, "unscaled_inputs")
    assert panel(lab).get_attribute("data-state") == "finished" and "Proven" in lab.read(found)
    found.locator(".tonb-show-evidence").click()
    found.locator(".tonb-apply").click()
    widths(lab, "doctor-unscaled")
    new = lab.read(found.locator(".tonb-code-new"))
    write(lab, f"{first}{UNSCALED}\n{new}")
    lab.wait_for(
        lambda: (
            panel(lab).get_attribute("data-state") == "finished"
            and not panel(lab).locator(".tonb-found").count()
        ),
        "a run without a finding",
        120,
    )
    assert told(server) == []


def test_a_silenced_finding_stays_silent(lab, server):
    cell = "%%trainopt fit --epochs 3\n" + TWICE
    lab.open("%load_ext trainopt_nb", cell)
    lab.run_all()
    row(lab, "probabilities_to_cross_entropy").locator(".tonb-silence").click()
    lab.wait_for(lambda: not panel(lab).locator(".tonb-found").count(), "the finding to go", 30)
    silenced = server.work / "runs/silenced.txt"
    try:
        lab.wait_for(silenced.exists, "the file of silenced findings", 30)
        write(lab, cell)
        lab.wait_for(
            lambda: panel(lab).get_attribute("data-state") == "finished", "the end of the next run", 120
        )
        assert told(server) == []
    finally:
        silenced.unlink(missing_ok=True)
