"A compression in JupyterLab: its panel takes clicks while other cells run, and its table and picture stay in the saved notebook"

import pytest

pytestmark = pytest.mark.browser

TRAIN = """%%trainopt fit --epochs 6 --batch-size 64 --lr 3e-3
import torch
from sklearn.datasets import load_digits
from torch import nn

torch.manual_seed(0)
images, digits = load_digits(return_X_y=True)
x, y = torch.tensor(images / 16).float(), torch.tensor(digits)
train_data, valid_data = (x[:1300], y[:1300]), (x[1300:], y[1300:])
model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10))"""
COMPRESS = "%trainopt compress model --floor 5% --seconds 0.1 --epochs 1"
RESULT = "print('has', len(compressed.candidates), compressed.recipe)"


def panel(lab):
    return lab.page.locator(".tonb-compress")  # the panel of the training before it stays in the page


def state(lab):
    return panel(lab).get_attribute("data-state")


def candidates(lab):
    return panel(lab).locator("tr[data-candidate]").count()


def press(lab, name):
    panel(lab).get_by_role("button", name=name, exact=True).click()


def used(lab):
    "Number of the candidate in use"
    return panel(lab).locator("tr.tonb-taken").get_attribute("data-candidate")


def step(lab, name, **values):
    "Fill the form of a step, and wait until it has ended"
    had = candidates(lab)
    press(lab, f"{name}: options")
    form = panel(lab).get_by_role("form")
    for option, value in values.items():
        field = form.locator(f"[data-option={option}] :is(input, select)").last
        field.select_option(value) if field.evaluate("(node) => node.tagName") == "SELECT" else field.fill(
            value
        )
    form.get_by_role("button", name="Run").click()
    lab.wait_for(lambda: candidates(lab) > had, f"the candidate of {name}", 120)
    waits(lab, f"the end of {name}")


def waits(lab, what, seconds=90):
    lab.wait_for(lambda: state(lab) == "waits", what, seconds)


def test_a_model_is_compressed_by_clicks(lab, server):
    lab.open("%load_ext trainopt_nb", TRAIN, COMPRESS, RESULT)
    for cell in (0, 1):
        lab.run(cell)
    lab.wait_done(1, 90)
    lab.run(2)
    lab.wait_for(lambda: lab.page.locator(".tonb-compress").count(), "the panel", 60)
    waits(lab, "the original")
    assert candidates(lab) == 1

    step(lab, "Prune", target="macs", epochs="1")
    assert candidates(lab) == 2 and used(lab) == "1"
    step(lab, "Quantize", kind="int8", engine="onnxruntime")
    assert candidates(lab) == 3 and used(lab) in "12"
    lab.screenshot("compress-live")

    dot = panel(lab).locator("g[data-candidate='0'] .tonb-spot-dot")
    dot.scroll_into_view_if_needed()
    dot.click(force=True)
    card = panel(lab).locator(".tonb-card")
    assert lab.read(card.locator(".tonb-card-name")) == "original"
    before = used(lab)
    card.get_by_role("button", name="Use", exact=True).click()
    lab.wait_for(lambda: used(lab) == "0", "the original taken")
    press(lab, "Undo")
    lab.wait_for(lambda: used(lab) == before, "the candidate that was taken before")
    panel(lab).get_by_role("textbox", name="minutes that the search may take").fill("0.1")
    press(lab, "Find the best")
    lab.wait_for(lambda: state(lab) == "searches", "the search")
    waits(lab, "the end of the search", 120)
    assert "Tried" in lab.read(panel(lab).locator(".tonb-now-text"))
    count, before = candidates(lab), used(lab)
    assert count > 3
    lab.screenshot("compress-searched")
    row = panel(lab).locator(f"tr[data-candidate='{before}']")
    row.get_by_role("button", name="Export…").click()
    panel(lab).get_by_role("form").get_by_label("folder").fill("exports/digits")
    panel(lab).get_by_role("form").get_by_role("button", name="Export").click()
    lab.wait_for(lambda: "Exported" in lab.read(card), "the exported model", 60)
    assert (server.work / "exports/digits/provenance.json").exists()

    press(lab, "Done")
    lab.wait_for(lambda: panel(lab).get_attribute("data-state") in ("finished", "stopped"), "the end", 60)
    lab.run(3)
    lab.wait_text(3, rf"has {count} ")
    lab.screenshot("compress-ended")

    def shown():
        lab.save()
        page = lab.saved().cells[2].outputs[0].data["text/html"]
        return all(part in page for part in ("prune 0.5 macs", "quantize int8", "<table", "<img"))

    lab.wait_for(shown, "the table and the picture of the end in the file")
    assert not lab.errors
