"The data panel in a plain page: readable in both themes, whole on a narrow page, and usable with the keyboard"

import json

import numpy as np
import pandas as pd
import pytest
from test_panel_page import CONTRAST, OPEN

from trainopt_nb.clean.report import inspect_data
from trainopt_nb.data.changes import Change
from trainopt_nb.panels.data_panel import DataPanel
from trainopt_nb.task.task import Task

pytestmark = pytest.mark.browser
KINDS = ("sounds", "spectrograms", "texts", "tables")
TABS = ("Problems", "Samples", "Classes", "Augment", "Changes")


def images():
    "Images with duplicates, one of which is among the validation data"
    x = np.random.default_rng(0).random((60, 3, 8, 8)).astype(np.float32)
    y = np.array(["first", "second", "third"])[np.arange(60) % 3]
    x[5], y[5] = x[8], y[8]
    return Task(None, (x, y), (x[:10], y[:10]))


def other(kind):
    "Samples of a kind that are no images"
    rng, labels = np.random.default_rng(0), np.arange(40) % 2
    frame = pd.DataFrame({"age": rng.normal(40, 9, 40), "job": rng.choice(["smith", "baker"], 40)})
    frame.loc[3, "age"] = np.nan
    inputs = {
        "sounds": np.sin(np.outer(np.arange(40) + 5, np.arange(2400)) / 40).astype(np.float32),
        "spectrograms": rng.normal(size=(40, 40, 90)).astype(np.float32),
        "texts": [f"The good dog number {i} was happy and ran home to its big house" for i in range(40)],
        "tables": frame,
    }[kind]
    return Task(None, (inputs, labels))


class Page:
    "A page with the panel, and the panel's other end"

    comm_id, kernel = "page", True

    def __init__(self, plain, task, width, dark=False):
        self.waiting = []
        self.report = inspect_data(task)
        self.panel = DataPanel(self.report, use=lambda report: None, close=lambda: None)
        self.panel.widget.comm = self
        self.page = plain.blank(self._click, width=width, dark=dark)
        state = self.panel.widget.get_state()
        shown = {key: state[key] for key in ("whole", "texts")}
        self.page.evaluate(OPEN, {"esm": state["_esm"], "css": state["_css"], "state": shown})
        self.root = self.page.locator(".tonb-data")

    def send(self, data=None, metadata=None, buffers=None):
        self.waiting.append(json.loads(json.dumps(data, allow_nan=False)))

    def on_msg(self, callback):
        self.deliver = callback

    def close(self, *args, **kwargs):
        pass

    def _click(self, content):
        self.deliver({"content": {"data": {"method": "custom", "content": content}}, "buffers": []})

    def settle(self):
        "Hand over what the kernel said"
        self.page.wait_for_timeout(60)
        while self.waiting:
            self.page.evaluate("(data) => fromKernel(data)", self.waiting.pop(0))
        self.page.wait_for_timeout(30)

    def tab(self, name):
        self.root.get_by_role("tab", name=name).click()
        self.settle()


@pytest.fixture
def open_page(plain):
    "A function that shows the panel, in place of one that it showed before; the page may not have complained at the end"
    opened = []

    def opening(width=1200, dark=False, task=None):
        assert not opened or plain.errors == []
        opened.append(Page(plain, task or images(), width, dark))
        return opened[-1]

    yield opening
    for page in opened:
        page.panel.widget.close()
    assert plain.errors == []


@pytest.mark.parametrize("dark", [False, True])
def test_every_tab_is_readable(open_page, dark):
    page = open_page(dark=dark)
    page.report.change(
        Change("relabel", (2,), ("first",), why="labels"), Change("drop", (4,), why="outliers")
    )
    page.settle()
    for name in TABS:
        page.tab(name)
        assert page.page.evaluate(CONTRAST) == [], name
    page.tab("Samples")
    page.root.locator(".tonb-image .tonb-pick").first.check()
    assert page.page.evaluate(CONTRAST) == []


def test_a_narrow_page_shows_all_of_it(open_page):
    page = open_page(width=360)
    page.report.apply("duplicates")
    page.settle()
    for name in TABS:
        page.tab(name)
        wide = page.page.evaluate(
            """() => [...document.querySelectorAll(".tonb-data, .tonb-data button, .tonb-data select, .tonb-data input")]
            .filter((node) => node.offsetParent && !node.closest(".tonb-tabs, .tonb-samples .tonb-scroll")
              && node.getBoundingClientRect().right > innerWidth + 1).map((node) => node.outerHTML)"""
        )
        assert wide == [], name


def test_a_page_of_samples_is_selected_dropped_and_brought_back(open_page):
    page = open_page()
    page.tab("Samples")
    page.root.get_by_label("Class").select_option("second")
    page.settle()
    assert page.root.locator(".tonb-samples").get_attribute("data-total") == "20"
    page.root.get_by_label("Select page").press("Space")
    assert page.root.locator(".tonb-count").inner_text() == "20 selected"
    page.root.locator(".tonb-actions .tonb-drop").press("Enter")
    page.settle()
    assert [len(change.rows) for change in page.report.changes] == [20]
    assert page.root.locator(".tonb-none").first.inner_text() == "No sample is left here."
    page.root.get_by_role("button", name="Undo").click()
    page.settle()
    assert page.root.locator(".tonb-image").count() == 20 and page.report.changes == ()


def test_a_slider_that_is_dragged_ends_where_it_was_left(open_page):
    page = open_page()
    page.tab("Augment")
    slider = page.root.locator("input[data-name=crop]")
    for value in (0.1, 0.3, 0.2):  # the kernel answers once they are all moved
        slider.fill(str(value))
    for _ in range(4):
        page.settle()
    assert page.panel.report.options.augment == "none"
    assert page.root.locator(".tonb-flags code").inner_text() == '--augment "crop:0.2 flip:0.5"'
    page.root.get_by_role("button", name="mixup").click()
    page.settle()
    assert page.root.locator("[data-operation=mixup]").count() == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("width", "dark"), [(360, True), (1200, False)])
def test_the_preview_of_other_samples_is_readable_and_whole(open_page, kind, width, dark):
    page = open_page(width, dark, other(kind))
    page.tab("Augment")
    assert page.root.locator(".tonb-preview").get_attribute("data-kind") == kind
    assert page.page.evaluate(CONTRAST) == []
    if kind == "tables":
        page.tab("Features")
        assert page.root.locator(".tonb-feature-row").count() == 2 and page.page.evaluate(CONTRAST) == []
        page.tab("Augment")
    assert (
        page.page.evaluate(
            """() => [...document.querySelectorAll(".tonb-preview *, .tonb-data > *")].filter((node) => node.getBoundingClientRect().right > innerWidth + 1).length"""
        )
        == 0
    )


def test_sliders_change_words_and_cells(open_page):
    page = open_page(task=other("texts"))
    page.tab("Augment")
    gone = page.root.locator("[data-operation=delete] + * del")
    page.root.locator("input[data-name=delete]").fill("0")
    page.settle()
    assert gone.count() == 0
    page.root.locator("input[data-name=delete]").fill("0.6")
    page.settle()
    assert gone.count() > 2
    page = open_page(task=other("tables"))
    page.tab("Augment")
    page.root.locator("input[data-name=feature-dropout]").fill("1")
    page.settle()
    assert page.root.locator("[data-operation=feature-dropout] + * .tonb-changed-cell").count() >= 8
    assert page.root.locator(".tonb-flags code").inner_text() == '--augment "noise:0.1 feature-dropout:1"'


def test_a_sound_of_the_preview_is_played_anew_after_a_change(open_page):
    page = open_page(task=other("sounds"))
    page.page.evaluate(
        "() => { HTMLMediaElement.prototype.play = function () { window.heard = this.src; return Promise.resolve(); }; }"
    )
    page.tab("Augment")
    heard = []
    for strength in ("0.3", "0.8"):
        page.root.locator("input[data-name=noise]").fill(strength)
        page.settle()
        page.root.get_by_role("button", name="Play sample 1 of noise").click()
        page.settle()
        heard.append(page.page.evaluate("window.heard"))
        page.root.get_by_role("button", name="Stop sample 1 of noise").click()
    assert heard[0] != heard[1] and all(url.startswith("data:audio/wav") for url in heard)


def test_a_click_on_a_missing_value_leads_to_its_column(open_page):
    page = open_page(task=other("tables"))
    page.tab("Samples")
    page.root.locator(".tonb-gap").click()
    page.settle()
    row = page.root.locator("tr[data-problem='missing/train/age']")
    row.get_by_label("what is written into Missing values: age").select_option("mean")
    row.get_by_role("button", name="Fill").click()
    page.settle()
    (change,) = page.report.changes
    assert change.values[0] == pytest.approx(page.report.train.inputs["age"].mean())
    page.root.get_by_role("button", name="Undo").click()
    page.settle()
    row.get_by_label("what is written into Missing values: age").select_option("constant")
    row.locator(".tonb-entry").fill("many")
    row.get_by_role("button", name="Fill").click()
    page.settle()
    assert page.root.locator(".tonb-say").inner_text() == "Column age holds numbers, and many is none."


def test_code_is_selected_where_the_page_adds_no_cells(open_page):
    page = open_page()
    for row in range(12, 40):
        page.report.change(Change("relabel", (row,), ("first",)))
    page.tab("Changes")
    page.root.get_by_role("button", name="Insert as a cell").click()
    assert "copy it into a new cell" in page.root.locator(".tonb-inserted").inner_text()
    assert page.page.evaluate("getSelection().toString()").strip() == page.report.cell("train_data").strip()
