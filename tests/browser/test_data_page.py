"The data panel in a plain page: readable in both themes, whole on a narrow page, and usable with the keyboard"

import json

import numpy as np
import pytest
from test_panel_page import BLANK, CONTRAST, OPEN

from trainopt_nb.clean.report import inspect_data
from trainopt_nb.data.changes import Change
from trainopt_nb.panels.data_panel import DataPanel
from trainopt_nb.task.task import Task

pytestmark = pytest.mark.browser
TABS = ("Problems", "Samples", "Classes", "Augment", "Changes")


def images():
    "Images with duplicates, one of which is among the validation data"
    x = np.random.default_rng(0).random((60, 3, 8, 8)).astype(np.float32)
    y = np.array(["first", "second", "third"])[np.arange(60) % 3]
    x[5], y[5] = x[8], y[8]
    return Task(None, (x, y), (x[:10], y[:10]))


class Page:
    "A page with the panel, and the panel's other end"

    comm_id, kernel = "page", True

    def __init__(self, browser, task, width, dark=False):
        self.errors, self.waiting = [], []
        self.report = inspect_data(task)
        self.panel = DataPanel(self.report, use=lambda report: None, close=lambda: None)
        self.panel.widget.comm = self
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
        )
        self.page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.set_content(BLANK)
        self.page.expose_function("toKernel", self._click)
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
def open_page(browser):
    opened = []

    def opening(width=1200, dark=False, task=None):
        opened.append(Page(browser, task or images(), width, dark))
        return opened[-1]

    yield opening
    for page in opened:
        assert page.errors == []
        page.context.close()
        page.panel.widget.close()


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
