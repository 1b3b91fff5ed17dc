"A saved notebook shows its results where nothing of them runs any more: after a reload, a restart, a kill, for runs in the background, without trust, converted"

import re

import nbformat
import psutil
import pytest
from nbconvert import HTMLExporter, MarkdownExporter

pytestmark = [pytest.mark.browser, pytest.mark.slow]

TASK = """
import torch
from torch import nn
torch.manual_seed(0)
x = torch.randn(4000, 20)
train_data = valid_data = x, (x[:, 0] > 0).long()
model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 2))
"""
WIDGET = "application/vnd.jupyter.widget-view+json"
CELLS = {  # what becomes of the run -> its cell
    "finished": f"%%trainopt fit --name ended --epochs 3\n{TASK}",
    "stopped": f"%%trainopt fit --name behind --epochs 3000 --background\n{TASK}",
    "training": f"%%trainopt fit --name long --epochs 3000\n{TASK}",
}
NAMES = {1: "ended", 2: "behind", 3: "long"}


def cards(book):
    "The data of the card of each cell, as the file holds it"
    found = {}
    for i in NAMES:
        data = [
            o.data for o in book.cells[i].outputs if o.output_type == "display_data" and "text/html" in o.data
        ]
        assert data, (i, [dict(o) for o in book.cells[i].outputs])
        found[i] = data[0]
    return found


def check_file(lab, names):
    "Every cell has a card with its figures as html and as text, without a script and without a widget"
    lab.save()
    book = lab.saved()
    for i, data in cards(book).items():
        assert WIDGET not in data and "<script" not in data["text/html"]
        for text in (data["text/html"], data["text/plain"]):
            assert re.search(rf"{names[i]}-1.*epoch|epoch.*{names[i]}-1|3 epochs", text, re.S), (
                i,
                text[:300],
            )
            assert "train loss" in text
    return book


def shown(lab, i):
    return " ".join(lab.text(i).split())


def check_page(lab, names):
    "Every cell shows its card"
    for i, name in names.items():
        lab.wait_for(
            lambda i=i, name=name: name in shown(lab, i) and "train loss" in shown(lab, i),
            f"the card of {name}",
        )
        assert "Error displaying widget" not in shown(lab, i) and "Loading widget" not in shown(lab, i)


def check_charts(lab, panel):
    "The charts of a run that has ended tell values under the pointer, and zoom, while their kernel lives"
    panel.scroll_into_view_if_needed()
    plot, legend = panel.locator(".tonb-loss .u-over"), panel.locator(".tonb-loss .tonb-legend")
    box, mouse = plot.bounding_box(), lab.page.mouse
    mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    lab.wait_for(lambda: re.search(r"epoch \d\S* train \d", " ".join(lab.read(legend).split())), "a value")
    mouse.down()
    mouse.move(box["x"] + box["width"] * 0.8, box["y"] + box["height"] / 2, steps=4)
    mouse.up()
    panel.locator(".tonb-reset").first.click()


def kill_kernel(server):
    (session,) = server.ask("GET", "/api/sessions")
    for process in psutil.process_iter(["cmdline"]):
        if any(session["kernel"]["id"] in word for word in process.info["cmdline"] or []):
            process.kill()


@pytest.mark.parametrize("how", ["restarted", "killed"])
def test_a_saved_notebook_shows_its_results(lab, server, every_kernel, how):
    "Three panels: of a run that has ended, of one in the background, and of one that trains until its kernel ends"
    names = {
        i: f"{every_kernel}-{how}-{name}" for i, name in NAMES.items()
    }  # the tests share a folder of runs
    cells = [CELLS[kind].replace(NAMES[i], names[i], 1) for i, kind in enumerate(CELLS, 1)]
    lab.open("%load_ext trainopt_nb", *cells, kernel=every_kernel)
    panels = lab.page.locator(".tonb-panel")
    for i in range(3):
        lab.run(i)
        lab.wait_done(i)
    lab.run(3)
    lab.wait_for(lambda: panels.count() == 3 and "epoch" in shown(lab, 3), "three panels", 90)
    check_charts(lab, panels.first)
    lab.page.wait_for_timeout(11_000)  # the distance of two cards
    check_file(lab, names)

    lab.refresh()
    lab.wait_for(lambda: panels.count() == 3, "three panels after a reload")
    lab.wait_for(lambda: int(panels.nth(2).get_attribute("data-step") or 0) > 0, "the run that trains")
    check_charts(lab, panels.first)
    check_file(lab, names)

    if how == "restarted":
        lab.restart()
        lab.wait_idle()
    else:
        kill_kernel(server)
        lab.wait_for(lambda: "attach" in shown(lab, 3), "the sentence of a panel without its kernel")
    for button in lab.page.locator(".jp-Dialog .jp-mod-accept").all():
        button.click()
    check_file(lab, names)
    server.end_sessions()
    lab.refresh()  # beside a new kernel
    check_page(lab, names)
    assert panels.count() == 0
    lab.screenshot(f"saved-{every_kernel}-{how}")
    book = check_file(lab, names)

    page = HTMLExporter(sanitize_html=True).from_notebook_node(book)[0]  # neither scripts nor styles
    markdown = MarkdownExporter().from_notebook_node(book)[0]
    for name in names.values():
        assert f"{name}-1" in page and f"{name}-1" in markdown
    lab.open_file(untrusted(book, server.work), kernel=every_kernel)
    check_page(lab, names)
    lab.screenshot(f"saved-{every_kernel}-{how}-untrusted")
    lab.stale = True


def untrusted(book, folder):
    "The path of a copy that this user did not run"
    for cell in book.cells:
        cell.metadata.pop("trusted", None)
    nbformat.write(book, folder / "from-elsewhere.ipynb")
    return folder / "from-elsewhere.ipynb"
