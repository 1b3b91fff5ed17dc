"The panel of a compression in a real page: what is shown, what is clicked, and that nothing jumps"

import pytest
from helpers import Wire
from test_compress_panel import candidate, recorded
from test_new_panel_page import SHOW

from trainopt_nb.compression.records import (
    AddStep,
    ExportTo,
    FindBest,
    Finish,
    StepRefused,
    StopStep,
    Take,
    Taken,
    Undo,
    Working,
)
from trainopt_nb.events.progress import Progress
from trainopt_nb.events.records import Ended
from trainopt_nb.panels.compress_panel import CompressPanel

pytestmark = pytest.mark.browser

WIDE = 1200
BESIDE = SHOW.replace("el: document.body", "el: document.body.appendChild(document.createElement('div'))")


class Compression:
    "A panel in a page, without a kernel between them"

    def __init__(self, page, events):
        self.progress = Progress("digits-cnn").add(events)
        self.panel = CompressPanel(self.progress, run_path="runs/digits-cnn-compress-1")
        self.panel.widget.comm = Wire()
        self.page, self.errors = page, []
        self.error = lambda error: self.errors.append(str(error))
        page.on("pageerror", self.error)
        state = self.panel.widget.get_state()
        page.evaluate(
            "() => { document.body.replaceChildren(); document.head.replaceChildren(); window.sent = []; }"
        )
        shown = {key: state[key] for key in ("whole", "texts")}
        page.evaluate(BESIDE, {"esm": state["_esm"], "css": state["_css"], "state": shown})
        page.locator(".tonb-compress svg").wait_for()
        page.evaluate("() => sent.splice(0)")

    def add(self, *events):
        "Something happened"
        self.progress.add(events)
        self.tell()

    def tell(self):
        if news := self.panel.news():
            self.page.evaluate("(news) => tell({ news })", news)

    def commands(self):
        "Deliver what the page sent to the panel, and return the commands that came of it"
        for content in self.page.evaluate("() => sent.splice(0)"):
            self.panel.widget.comm.click(content)
        self.tell()
        found = []
        while not self.panel.commands.empty():
            found.append(self.panel.commands.get_nowait())
        return found

    def button(self, name):
        return self.page.get_by_role("button", name=name, exact=True)

    def row(self, number):
        return self.page.locator(f"tr[data-candidate='{number}']")

    def dot(self, number):
        "The middle of a dot in the page"
        box = self.page.locator(f"g[data-candidate='{number}'] .tonb-spot-dot").bounding_box()
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def close(self):
        self.page.remove_listener("pageerror", self.error)
        self.panel.widget.close()


@pytest.fixture(scope="module")
def only_page(browser):
    page = browser.new_page(viewport={"width": WIDE, "height": 1300}, reduced_motion="reduce")
    yield page
    page.close()


@pytest.fixture
def shown(only_page):
    "The recorded compression, which waits for a click"
    only_page.set_viewport_size({"width": WIDE, "height": 1300})
    shown = Compression(only_page, list(recorded()))
    yield shown
    assert shown.errors == []
    shown.close()


def test_the_page_shows_the_candidates_and_follows_the_compression(shown):
    page = shown.page
    assert page.locator(".tonb-head .tonb-state").inner_text() == "waiting for you"
    assert page.locator(".tonb-figure b").all_inner_texts() == ["9.1×", "12.7×", "13.4×", "98.3%", "41 s"]
    order = page.locator("tr[data-candidate]").evaluate_all("all => all.map((row) => row.dataset.candidate)")
    assert order == [
        "0",
        "7",
        "8",
        "2",
        "5",
        "6",
        "1",
        "9",
        "3",
        "4",
    ]  # the original, the fastest, the refused
    assert page.locator("tr.tonb-off").count() == 3 and "in use" in shown.row(7).inner_text()
    assert page.locator("g.tonb-refused").count() == 3 and page.locator("g.tonb-in-use").count() == 1
    assert page.locator(".tonb-floor-text").text_content() == "floor 97.6%"
    shown.add(Working("prune 0.5", "fine-tunes: epoch 2 of 6, accuracy 97.8%", 0.4))
    assert (
        page.locator(".tonb-now-text").inner_text() == "prune 0.5: fine-tunes: epoch 2 of 6, accuracy 97.8%"
    )
    assert page.get_by_role("progressbar").get_attribute("aria-valuenow") == "40"
    more = candidate(10, 1, ["prune 0.5", "prune 0.5"], "torch", 700_000, 1.0, 15, (4.1, 4.7), 0.982)
    shown.add(more, Taken(10, [7]), Working("", ""))
    assert shown.row(10).count() == 1 and "in use" in shown.row(10).inner_text()
    page.locator(".tonb-told").click()
    assert page.locator(".tonb-earlier li").count() == 13
    page.locator("th[data-column=size] button").click()
    assert page.locator("tbody tr").first.get_attribute("data-candidate") == "9"


def test_one_click_takes_the_defaults_of_a_step(shown):
    prune = shown.button("Prune")
    assert prune.get_attribute("title").startswith("prune 0.5 macs milder=2: remove channels")
    prune.click()
    assert "tonb-pending" in prune.get_attribute("class")
    prune.click()  # it waits for the first
    assert shown.commands() == [
        AddStep("prune 0.5 macs milder=2", 0)
    ]  # what is in use is run by ONNX Runtime
    shown.add(Working("prune 0.5", "removes channels"))
    assert "tonb-pending" not in prune.get_attribute("class")
    assert "“prune 0.5” is running" in shown.button("Quantize").get_attribute("title")
    for button in (shown.button("Quantize"), shown.row(2).get_by_role("button", name="Use")):
        button.click(force=True)  # they are off, and can be reached by the keyboard
    assert shown.commands() == []
    shown.button("Stop").click()
    assert shown.commands() == [StopStep()]
    shown.add(StepRefused("prune 0.5", "It was stopped."), Working("", ""))
    assert "prune 0.5: It was stopped." in shown.page.locator(".tonb-now-text").inner_text()


def test_the_form_of_a_step_is_filled_by_the_keyboard_and_keeps_what_was_refused(shown):
    page = shown.page
    shown.button("Prune: options").press("Enter")
    form = page.get_by_role("form")
    slider = form.get_by_role("slider", name="amount")
    assert slider.evaluate("(node) => node === document.activeElement")
    slider.press("ArrowRight")
    amount = form.get_by_role("textbox", name="amount")
    assert amount.input_value() == "0.51"
    amount.fill("7")
    form.get_by_label("target").select_option("macs")
    form.get_by_label("epochs").fill("2")
    form.get_by_label("start from").select_option(label="1: prune 0.5")
    amount.press("Enter")
    assert shown.commands() == []
    assert page.get_by_role("alert").inner_text() == "amount takes 0.01 to 0.98, and got '7'."
    assert form.count() == 1 and form.get_by_label("target").input_value() == "macs"
    amount.fill("0.6")
    form.get_by_role("button", name="Run").click()
    assert shown.commands() == [AddStep("prune 0.6 macs epochs=2 milder=2", 1)]
    shown.add(Working("prune 0.6 macs epochs=2", "removes channels"))
    assert form.count() == 0 and page.get_by_role("alert").count() == 0


def test_the_search_takes_minutes_and_an_aim(shown):
    minutes = shown.page.get_by_role("textbox", name="minutes that the search may take")
    minutes.fill("soon")
    shown.button("Find the best").click()
    assert "you entered “soon”" in shown.page.get_by_role("alert").inner_text() and shown.commands() == []
    minutes.fill("0.5")
    shown.page.get_by_label("aim").select_option(label="smallest")
    minutes.press("Enter")
    assert shown.commands() == [FindBest(0.5, "smallest")]


def test_a_dot_is_read_chosen_and_used(shown):
    page = shown.page
    page.mouse.move(*shown.dot(3))
    tip = page.locator(".tonb-tip").inner_text()
    assert "lowrank 0.7" in tip and "1.21 ms 3.40×" in tip and "under the floor" in tip
    page.mouse.click(*shown.dot(1))
    card = page.locator(".tonb-card")
    assert "2.02 ms 2.03×" in card.inner_text() and "Steps start from here." in card.inner_text()
    assert shown.row(1).get_attribute("class") == "tonb-chosen"
    shown.button("Quantize").click()
    assert shown.commands() == [AddStep("quantize", 1)]
    for working in (Working("quantize", "tries"), Working("", "")):
        shown.add(working)
    card.get_by_role("button", name="Use").click()
    assert shown.commands() == [Take(1)]
    shown.add(Taken(1, [7]))
    picture = page.locator(".tonb-front svg")
    picture.press("ArrowLeft")  # to the next faster one
    assert page.locator(".tonb-card-name").inner_text() == "quantize bf16"
    picture.press("Escape")
    assert page.locator(".tonb-card-name").inner_text() == "prune 0.5"
    page.locator(".tonb-front select").select_option(label="Latency at batch 64")
    assert "batch 64" in picture.get_attribute("aria-label")


def test_a_candidate_is_exported_and_the_end_is_said(shown):
    shown.row(1).get_by_role("button", name="Export…").click()
    form = shown.page.get_by_role("form", name="Export prune 0.5")
    form.get_by_label("format").select_option("onnx int8")
    assert form.get_by_label("folder").input_value() == "exports/digits-cnn-1-onnx-int8"
    form.get_by_role("button", name="Export").click()
    assert shown.commands() == [ExportTo("exports/digits-cnn-1-onnx-int8", "onnx int8", 1)]
    shown.row(7).get_by_role("button", name="Export…").click()  # its folder is there already
    assert shown.page.get_by_label("folder").input_value() == "exports/digits-cnn-7-2"
    assert shown.page.get_by_label("format").locator("option").all_inner_texts() == ["as it runs"]
    shown.button("Cancel").click()
    assert "Loaded back in ONNX Runtime" in shown.page.locator(".tonb-card").inner_text()
    for working in (Working("export", "writes"), Working("", "")):
        shown.add(working)
    shown.button("Undo").click()
    assert shown.commands() == [Undo()]
    shown.add(Taken(2, [0, 1]))
    shown.button("Done").click()
    assert shown.commands() == [Finish()]
    shown.add(Ended("finished", 9, 0, "", 400.0))
    assert shown.button("Prune").get_attribute("title") == "The compression has ended"
    assert shown.page.locator(".tonb-head .tonb-state").inner_text() == "finished"


def test_a_recipe_is_edited_and_run(shown):
    shown.button("Recipe…").click()
    field = shown.page.get_by_label("recipe", exact=True)
    assert field.input_value() == "prune 0.75 macs, quantize int8"
    field.fill("prune 0.6, quantize int8")
    field.press("Enter")
    assert shown.commands() == [AddStep("prune 0.6, quantize int8", 0)]


def test_what_each_layer_costs_is_a_tab(shown):
    shown.page.get_by_role("tab", name="Candidate").press("ArrowRight")
    bars = shown.page.locator(".tonb-bar-row")
    assert bars.count() == 6 and bars.first.inner_text().split() == ["stem", "0.40", "stays", "in", "float"]


BOXES = """() => ['.tonb-figures', '.tonb-front svg', '.tonb-side', '.tonb-candidates', '.tonb-now', '.tonb-steps'].map((name) => {
  const box = document.querySelector(name).getBoundingClientRect();
  return [name, box.top, box.left, box.width];
})"""


def test_nothing_moves_while_a_step_works(shown):
    events = [each for each in recorded()][:3]
    shown.close()
    shown.__init__(shown.page, events)
    before = shown.page.evaluate(BOXES)
    for text in ("removes channels", "fine-tunes: epoch 1 of 6, accuracy 91.8%, " + "a long sentence " * 20):
        shown.add(Working("prune 0.5", text, 0.2))
        assert shown.page.evaluate(BOXES) == before
    shown.add(list(recorded())[5], Taken(2, [0, 1]), Working("", ""))
    assert shown.page.evaluate(BOXES) == before


LABELS = """() => {
  const boxes = [...document.querySelectorAll('.tonb-spot text, .tonb-floor-text')].map((node) => [node.textContent, node.getBoundingClientRect()]);
  const meet = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3;
  return boxes.flatMap(([name, a], i) => boxes.slice(i + 1).filter(([, b]) => meet(a, b)).map(([other]) => [name, other]));
}"""
OUTSIDE = """() => [...document.querySelectorAll('.tonb-compress *')].filter((node) => {
  const box = node.getBoundingClientRect(), panel = document.querySelector('.tonb-compress').getBoundingClientRect();
  return box.width > 1 && !node.closest('.tonb-scroll') && (box.right > panel.right + 1 || box.left < panel.left - 1);
}).map((node) => node.className.baseVal ?? node.className)"""


def test_it_fits_into_every_width_and_no_labels_meet(shown):
    for width in (360, 480, 720, 1000, WIDE):
        shown.page.set_viewport_size({"width": width, "height": 1300})
        shown.page.wait_for_timeout(60)
        assert shown.page.evaluate("() => document.documentElement.scrollWidth") <= width
        assert shown.page.evaluate(OUTSIDE) == [] and shown.page.evaluate(LABELS) == []
        assert shown.page.locator(".tonb-spot text").count() >= 5


def test_what_was_measured_in_other_turns_is_drawn_beside_the_original(shown):
    "The machine was busy when the one in use was measured: it is the faster one all the same"
    busy = candidate(10, 0, ["quantize int8"], "onnxruntime", 770_000, 9.0, 140, (12.0, 14.0), 0.984)
    shown.add(busy, Taken(10, [7]))
    assert shown.dot(10)[0] < shown.dot(7)[0] < shown.dot(0)[0]
