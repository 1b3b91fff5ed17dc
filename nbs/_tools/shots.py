"""
Take the pictures of the panels in a real JupyterLab, light and dark, into nbs/images

    python nbs/_tools/shots.py                # all of them
    python nbs/_tools/shots.py panel form     # some
"""

import os
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests/browser"), str(ROOT / "tests")]

from harness import CHROMIUM_FLAGS, Lab, Server, offer_kernels  # noqa: E402
from PIL import Image  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
EPOCH = 8  # that is shown, of the quickstart's 12
THEMES = {"": "JupyterLab Light", "-dark": "JupyterLab Dark"}  # ending of the file -> theme
LOAD = "%load_ext trainopt_nb"
TASK = """from sklearn.datasets import load_digits
from torch import nn

images, digits = load_digits(return_X_y=True)
images = images.astype("float32") / 16
train_data, valid_data = (images[:1400], digits[:1400]), (images[1400:], digits[1400:])
model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))"""
IMAGES = f"{TASK}\nimages = images.reshape(-1, 1, 8, 8)\ntrain_data, valid_data = (images[:1200], digits[:1200]), (images[1200:], digits[1200:])\nmodel = nn.Sequential(nn.Flatten(), *model)"
WIDE = f"{TASK}\ntrain_data, valid_data = (images[:1200], digits[:1200]), (images[1200:], digits[1200:])\nmodel = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))"
COMPRESS = "%trainopt compress model --floor 3% --batch 1,64 --seconds 0.3"
STEPS = (
    ("Prune", {"amount": "0.5", "target": "macs", "epochs": "4"}),
    ("Quantize", {"kind": "int8", "engine": "onnxruntime"}),
)


def tutorial(guide, epoch, lab, assumed=False):
    "The first panel of a tutorial at an epoch, with its assumptions open or closed"
    lab.open_file(ROOT / f"nbs/guides/{guide}.ipynb")
    lab.command("application:toggle-left-area")
    lab.run_all()
    shown = lab.page.locator(".tonb-panel").first
    if assumed:
        shown.locator(".tonb-assumed-head button").click(timeout=120_000)
    reached = f"document.querySelector('.tonb-panel')?.innerText.includes('epoch {epoch} of')"
    lab.page.wait_for_function(reached, timeout=120_000)
    return shown


def inspect(lab):
    "The report on a run of digits"
    lab.open(LOAD, f"%%trainopt fit --name digits --epochs 4 --lr 3e-3\n{IMAGES}", "%trainopt inspect --n 6")
    lab.command("application:toggle-left-area")
    lab.run_all()
    lab.wait_text(2, "calibration", 120)
    lab.page.wait_for_timeout(800)
    return lab.output(2).locator(".jp-OutputArea-output").first


def compress(lab):
    "The panel of a compression after two steps"
    lab.open(
        LOAD,
        f"%%trainopt fit --name digits --epochs 8 --lr 3e-3 --schedule onecycle --device cpu --threads 1\n{WIDE}",
        COMPRESS,
    )
    lab.command("application:toggle-left-area")
    lab.run_all()
    shown = lab.page.locator(".tonb-compress")
    ended = "document.querySelector('.tonb-compress[data-state=waits]')?.querySelectorAll('tr[data-candidate]').length >= "
    lab.page.wait_for_function(f"{ended}1", timeout=120_000)
    for count, (step, values) in enumerate(STEPS, 2):
        shown.get_by_role("button", name=f"{step}: options", exact=True).click()
        form = shown.get_by_role("form")
        for option, value in values.items():
            field = form.locator(f"[data-option={option}] :is(input, select)").last
            chosen = field.evaluate("(node) => node.tagName") == "SELECT"
            field.select_option(value) if chosen else field.fill(value)
        form.get_by_role("button", name="Run").click()
        lab.page.wait_for_function(f"{ended}{count}", timeout=180_000)
    lab.page.mouse.move(5, 5)
    lab.page.wait_for_timeout(800)
    return shown


def form(lab):
    "The form before the training, with changed values, and a field that counts with one of them"
    lab.open(LOAD, f"%%trainopt form --epochs 8 --lr 3e-3\n{TASK}")
    lab.command("application:toggle-left-area")
    lab.run_all()
    shown = lab.output(1).locator(".tonb-form")
    shown.get_by_label("Schedule", exact=True).select_option("cosine", timeout=60_000)
    shown.get_by_label("Final learning rate", exact=True).fill("0.1")
    shown.get_by_label("Final learning rate", exact=True).press("Tab")
    lab.page.mouse.move(5, 5)
    lab.page.wait_for_timeout(500)
    return shown


def runs(lab):
    "The table of runs of two tasks, with a note and tags, sorted by the best figure, and three of them beside each other"
    ways = ("", "--lr 3e-3", "--lr 1e-2", "--lr 1e-2 --schedule onecycle")
    fits = [f"%%trainopt fit --name digits --epochs 8 {way}\n{TASK}" for way in ways]
    even = f"{TASK.replace('10))', '2))')}\ntrain_data, valid_data = ((x, y % 2) for x, y in (train_data, valid_data))"
    notes = "%trainopt runs digits-1 --tag baseline --note 'all options as they are'"
    lab.open(
        LOAD,
        *fits,
        f"%%trainopt fit --name even --epochs 3\n{even}",
        notes,
        "%trainopt runs --runs runs --sort best",
    )
    lab.command("application:toggle-left-area")
    lab.run_all()
    shown = lab.output(7).locator(".tonb-runs")
    shown.wait_for(timeout=240_000)
    for box in shown.locator("tr[data-name*=digits] input[type=checkbox]").all()[:3]:
        box.click()
    shown.get_by_role("button", name="Compare").click()
    shown.locator(".tonb-compared canvas").wait_for()
    shown.locator(".tonb-beside").wait_for()
    lab.page.wait_for_timeout(800)
    return shown


def devices(lab):
    "The panel of a run on two devices, with what their seconds went into"
    lab.open(LOAD, f"%%trainopt fit --name digits --devices 2 --epochs 60 --batch-size 128\n{TASK}")
    lab.command("application:toggle-left-area")
    lab.run_all()
    shown = lab.page.locator(".tonb-panel").first
    begun = "document.querySelector('.tonb-panel')?.innerText.match(/epoch (4\\d|5\\d) of/)"
    lab.page.wait_for_function(begun, timeout=120_000)
    shown.locator(".tonb-devices tbody tr").nth(1).wait_for()
    return shown


def sweep(lab):
    "The panel of a sweep when it is half through, with a narrowed range, a choice switched off and the best trials selected"
    space = "lr=1e-5..1e-1:log batch_size=32|64|128|256 schedule=constant|cosine|onecycle weight_decay=0..0.1 label_smoothing=0..0.3"
    flags = "--name digits --trials 100 --epochs 8 --repeats 0 --threads 1 -j 2 --batch-trials off"
    lab.open(LOAD, f"%%trainopt sweep {flags} --space {space}\n{TASK}")
    lab.command("application:toggle-left-area")
    lab.run_all()
    shown = lab.page.locator(".tonb-panel").first
    _wait_for_trials(lab, 30)
    end = shown.locator(".tonb-dimension[data-name=lr] .tonb-end").first
    end.fill("0.0005")
    end.press("Enter")
    shown.locator(".tonb-dimension[data-name=schedule] .tonb-chip").first.click()
    _wait_for_trials(lab, 64)
    _select(lab, shown.locator("[data-axis=accuracy] .tonb-hit"), 0.35)
    lab.page.wait_for_timeout(300)
    return shown


def _wait_for_trials(lab, count):
    "Wait until the panel shows that so many trials have ended"
    reached = f"+(document.querySelector('.tonb-panel')?.innerText.match(/(\\d+) of \\d+ trials/)?.[1] ?? 0) >= {count}"
    lab.page.wait_for_function(reached, timeout=600_000)


def _select(lab, axis, share):
    "Drag over the upper end of an axis"
    axis.scroll_into_view_if_needed()
    box = axis.bounding_box()
    lab.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 2)
    lab.page.mouse.down()
    lab.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + share * box["height"], steps=5)
    lab.page.mouse.up()


def data(lab):
    "The data panel after its labels were checked, with some of the wrong ones selected"
    wrong = "given = digits[:1400].copy()\ngiven[:1400:20] = (given[:1400:20] + 3) % 10"
    images = "images = images.reshape(-1, 1, 8, 8)\nmodel = nn.Sequential(nn.Flatten(), *model)"
    lab.open(
        LOAD,
        f"{TASK}\n{images}\n{wrong}\ntrain_data, valid_data = (images[:1400], given), (images[1400:], digits[1400:])",
        "%trainopt data --epochs 15 --lr 1e-2",
    )
    lab.command("application:toggle-left-area")
    lab.run_all()
    shown = lab.output(2).locator(".tonb-data")
    shown.get_by_role("button", name="Check labels").click(timeout=60_000)
    lab.page.wait_for_function("document.querySelector('.tonb-data[data-search=done]')", timeout=180_000)
    shown.locator(
        "tr[data-problem='overlap/train'] .tonb-settle, tr[data-problem='outliers/train'] .tonb-settle"
    ).first.click()
    boxes = shown.locator(".tonb-image .tonb-pick")
    boxes.nth(3).wait_for(state="attached")
    for box in boxes.all()[:4]:
        box.check()
    lab.page.mouse.move(5, 5)
    lab.page.wait_for_timeout(500)
    return shown


PICTURES = {
    "panel": partial(tutorial, "70_quickstart", EPOCH),
    "form": form,
    "runs": runs,
    "devices": devices,
    "sweep": sweep,
    "data": data,
    "compress": compress,
    "inspect": inspect,
    "own-model": partial(tutorial, "71_your_model", 5, assumed=True),
    "eject": partial(tutorial, "75_eject", 4),
    "images": partial(tutorial, "77_images", 9, assumed=True),
}


def _fewer_colors(path):
    "Keep 256 colors of a picture, which are enough for a panel"
    Image.open(path).quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def main(
    names: list[str],  # of `PICTURES`
    folder: Path,  # into which they go
):
    "Take each picture in both themes"
    home = Path(tempfile.mkdtemp(prefix="trainopt-"))
    share = home / "share"
    offer_kernels(share, home / "kernels")
    server = Server(home / "jupyter", share)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
            for ending, theme in THEMES.items():
                server.set("@jupyterlab/apputils-extension:themes", theme=theme)
                for name in names:
                    page = browser.new_page(viewport={"width": 1180, "height": 1500}, device_scale_factor=2)
                    shown = PICTURES[name](Lab(server, page, home))
                    shown.screenshot(path=folder / f"{name}{ending}.png")
                    _fewer_colors(folder / f"{name}{ending}.png")
                    page.close()
                    server.end_sessions()
                    shutil.rmtree(
                        server.work / "runs", ignore_errors=True
                    )  # the next one counts from 1 again
            browser.close()
    finally:
        server.close()


if __name__ == "__main__":
    main(sys.argv[1:] or list(PICTURES), ROOT / "nbs/images")
