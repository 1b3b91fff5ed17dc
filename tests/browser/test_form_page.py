"The form in a plain page, joined to a real `OptionsForm`, and an automatic accessibility check of the panels by axe-core"

import queue
from pathlib import Path

import pytest
from test_panel_page import OPEN, STARTED, Page, run_events
from test_runs_page import make_run

from trainopt_nb.events.progress import Progress
from trainopt_nb.events.records import Resume, Stop
from trainopt_nb.panels.form import OptionsForm
from trainopt_nb.panels.runs_panel import RunsPanel
from trainopt_nb.panels.train_panel import TrainPanel
from trainopt_nb.task.train_options import TrainOptions

pytestmark = pytest.mark.browser

NEW_PLACE = """
() => {
  first.id = "full";
  document.body.append(Object.assign(document.createElement("div"), { id: "first" }));
}
"""
SERIOUS = """
async () => {
  const { violations } = await axe.run(".tonb-panel", { resultTypes: ["violations"] });
  const found = violations.filter((each) => ["serious", "critical"].includes(each.impact));
  return found.flatMap((each) => each.nodes.map((node) => [each.id, node.html, node.failureSummary]));
}
"""
AXE = Path(__file__).parents[1] / "fixtures/axe/axe.min.js"


class Form(Page):
    "A page with a form, and the form's other end"

    def __init__(self, plain, options=None, **look):
        self.waiting, self.commands = [], queue.SimpleQueue()
        self.panel = OptionsForm(options or TrainOptions(), self.commands, given="--name digits")
        self.panel.widget.comm = self
        self.page = plain.blank(self._click, **look)
        self.render()

    def render(self):
        "Show the form as a page does that has just been loaded"
        state = self.panel.widget.get_state()
        shown = {key: state[key] for key in ("whole", "texts")}
        self.page.evaluate("() => { window.remove?.(); }")
        self.page.evaluate(OPEN, {"esm": state["_esm"], "css": state["_css"], "state": shown})
        self.root = self.page.locator("#first .tonb-form")

    def settle(self):
        "Wait till what was clicked and typed has come back"
        for _ in range(2):
            self.frame()
            self.flush()
        self.frame()

    def field(self, name):
        return self.root.locator(f".tonb-option[data-name='{name}']")

    def shown(self):
        "Names of the fields that the page shows"
        return [each.get_attribute("data-name") for each in self.root.locator(".tonb-option").all()]

    def enter(self, label, text):
        self.root.get_by_label(label, exact=True).fill(text)
        self.settle()

    def open(self, section):
        self.root.get_by_role("tab", name=section).click()
        self.settle()

    def press(self, name):
        self.root.get_by_role("button", name=name, exact=True).click()
        self.settle()

    def focused(self):
        return self.page.evaluate("() => document.activeElement.closest('.tonb-option')?.dataset.name")


@pytest.fixture
def form(plain):
    form = Form(plain)
    yield form
    form.panel.widget.close()
    assert plain.errors == []


def test_fields_are_shown_where_they_count(form):
    assert form.shown() == ["epochs", "batch_size", "optimizer", "lr", "schedule", "precision"]
    form.root.get_by_label("Schedule", exact=True).select_option("step")
    form.root.get_by_label("Optimizer", exact=True).select_option("momentum")
    form.settle()
    assert form.shown() == [
        "epochs",
        "batch_size",
        "optimizer",
        "momentum",
        "lr",
        "schedule",
        "step_every",
        "gamma",
        "precision",
    ]
    form.enter("Epochs per drop", "4")
    form.root.get_by_label("Schedule", exact=True).select_option("constant")
    form.settle()  # a value that was entered is never hidden
    assert (
        "Changes nothing while Schedule is constant." in form.field("step_every").inner_text()
        and "gamma" not in form.shown()
    )
    form.open("Loss and metrics")
    assert "focal_gamma" not in form.shown()
    form.root.get_by_label("Loss", exact=True).select_option("focal")
    form.settle()
    assert "focal_gamma" in form.shown()


def test_search_finds_names_help_groups_values_and_the_other_language(form):
    def found(query):
        form.enter("Search", query)
        return form.shown()

    assert found("learning_rate") == ["lr"] and "Found as “learning_rate”" in form.field("lr").inner_text()
    assert "schedule" in found("cosine") and "Value: cosine" in form.field("schedule").inner_text()
    assert found("学习率 调度") == ["schedule"]
    assert {"dropout", "weight_decay", "ema"} <= set(found("overfitting"))
    assert (
        found("focal gamma") == ["focal_gamma"]
        and "Counts only with Loss: focal" in form.field("focal_gamma").inner_text()
    )
    assert found("zebra") == [] and "No option matches" in form.root.inner_text()
    form.page.keyboard.press("Escape")
    form.settle()
    assert form.root.get_by_label("Search").input_value() == "" and len(form.shown()) == 6
    form.enter("Search", "epochs per")
    form.page.keyboard.press("Enter")  # goes to what was found, and starts nothing
    assert form.focused() == "step_every" and form.commands.empty()


def test_what_was_changed_is_marked_and_put_back(form):
    form.enter("Learning rate", "1e-2")
    form.open("Against overfitting")
    form.enter("Dropout", "0.2")
    assert form.field("dropout").get_attribute("data-changed") == "true"
    assert (
        form.root.locator(".tonb-line").inner_text() == "%%trainopt fit --name digits --lr 0.01 --dropout 0.2"
    )
    form.press("Only changed")
    assert form.shown() == ["lr", "dropout"]
    form.press("Reset to 0.001: Learning rate")
    assert form.shown() == ["dropout"]
    form.press("Reset all")
    assert (
        form.root.locator(".tonb-line").inner_text() == "%%trainopt fit --name digits" and form.shown() == []
    )


def test_errors_stand_at_their_field_and_lose_nothing(form):
    form.open("Against overfitting")
    form.enter("Dropout", "3")
    assert not form.field("dropout").locator(".tonb-option-error").count()  # it may be on the way to 0.3
    form.open("Most used")
    form.enter("Learning rate", "fast")
    form.page.keyboard.press("Enter")
    form.settle()
    assert form.commands.empty() and form.focused() == "lr"
    entry = form.root.get_by_label("Learning rate", exact=True)
    assert entry.input_value() == "fast" and entry.get_attribute("aria-invalid") == "true"
    told = [
        form.page.locator(f"#{each}").inner_text() for each in entry.get_attribute("aria-describedby").split()
    ]
    assert told[0] == "Learning rate must be a number from 1e-12 to 1000 (you entered “fast”)."
    assert (
        form.root.get_by_role("alert").last.inner_text()
        == "2 fields need a correction: Learning rate, Dropout"
    )
    form.render()  # the page is loaded again
    assert form.root.get_by_label("Learning rate", exact=True).input_value() == "fast"
    form.enter("Learning rate", "2e-3")
    form.press("Dropout")
    assert form.focused() == "dropout"
    form.enter("Dropout", "0.3")
    form.press("Start training")
    assert form.panel.chosen == TrainOptions(lr=0.002, dropout=0.3) and isinstance(
        form.commands.get_nowait(), Resume
    )
    form.panel.close()
    form.settle()
    assert (
        form.root.locator(".tonb-line").inner_text()
        == "%%trainopt fit --name digits --lr 0.002 --dropout 0.3"
    )
    assert form.root.get_by_role("button").all_inner_texts() == ["Copy"]
    assert (
        form.page.evaluate("document.activeElement.innerText") == "Copy"
    )  # the button that had the focus is gone


def test_the_keyboard_is_enough(form):
    keys = form.page.keyboard
    form.root.get_by_role("tab", name="Most used").focus()
    for key in ("ArrowDown", "End", "Home"):
        keys.press(key)
    assert form.root.locator("[aria-selected=true]").inner_text() == "Most used"
    keys.press("Tab")
    assert form.focused() == "epochs"
    keys.press("ArrowUp")
    keys.press("Shift+ArrowUp")
    form.settle()
    assert form.panel.values.values["epochs"] == 16
    seen = []
    while not (seen and seen[-1] == "cancel") and len(seen) < 30:
        keys.press("Tab")
        seen.append(
            form.page.evaluate(
                "() => document.activeElement.closest('.tonb-option')?.dataset.name ?? [...document.activeElement.classList].at(-1).slice(5)"
            )
        )
        ring = form.page.evaluate(
            "() => { const e = document.activeElement; return [e, e.nextElementSibling].some((n) => n && getComputedStyle(n).outlineStyle === 'solid') }"
        )
        assert ring, seen
    assert [name for name in seen if name in ("batch_size", "precision")] == ["batch_size", "precision"]
    keys.press("Enter")
    form.settle()
    assert isinstance(form.commands.get_nowait(), Stop)


def test_the_form_has_room(form):
    outside = "() => [...document.querySelectorAll('.tonb-form *')].filter((e) => e.getBoundingClientRect().right > innerWidth).length"
    for width, columns in ((390, 1), (760, 2), (1200, 3)):
        form.page.set_viewport_size({"width": width, "height": 900})
        lefts = {round(each.bounding_box()["x"]) for each in form.root.locator(".tonb-option").all()}
        assert len(lefts) == columns
    form.enter("Search", "e")  # nearly all fields
    assert len(form.shown()) > 90
    for width in (390, 760, 1200):
        form.page.set_viewport_size({"width": width, "height": 900})
        assert form.page.evaluate(outside) == 0


def test_axe_finds_nothing_serious(plain, tmp_path):
    "In a form with an error, the training panel and the table of runs, in one page, light and dark"
    panel = TrainPanel(Progress().add([STARTED, *run_events(60)]))
    make_run(tmp_path, "digits", 60)
    others = [panel, RunsPanel(tmp_path)]
    form = Form(plain, TrainOptions(lr=0.01))
    form.enter("Epochs", "many")
    form.press("Start training")
    for other in others:
        form.page.evaluate(NEW_PLACE)
        state = other.widget.get_state()
        shown = {key: state[key] for key in ("whole", "texts")}
        form.page.evaluate(OPEN, {"esm": state["_esm"], "css": state["_css"], "state": shown})
    form.page.evaluate(AXE.read_text(encoding="utf-8"))
    for scheme in ("light", "dark"):
        form.page.emulate_media(color_scheme=scheme)
        form.page.locator(f".tonb-panel[data-theme={scheme}]").nth(2).wait_for()
        assert form.page.evaluate(SERIOUS) == []
    for each in (*others, form.panel):
        each.widget.close()
