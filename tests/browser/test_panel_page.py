"The panel's script in a plain page of a real browser, joined to a real `TrainPanel` by the messages that both send"

import json
import math
import random
import re
import time

import pytest
from harness import Plain
from helpers import some_quick

from trainopt_nb.events.assumptions import Assumption, Assumptions
from trainopt_nb.events.curves import Curve
from trainopt_nb.events.preparing import Preparing
from trainopt_nb.events.progress import Progress
from trainopt_nb.events.records import (
    Ended,
    Epoch,
    LrChanged,
    Note,
    Pause,
    Resume,
    Save,
    Saved,
    SetLr,
    Started,
    State,
    Step,
    Stop,
)
from trainopt_nb.panels.train_panel import TrainPanel
from trainopt_nb.runs.axes import smooth
from trainopt_nb.runs.scales import fence, is_log

pytestmark = pytest.mark.browser

STARTED = Started("digits-cnn", 0, 0, 12, 28, 336, "cpu", "fp32", 2, 1437, 9610, "accuracy", "max", 1.79e9)
OPEN = """
async ({ esm, css, state }) => {
  const style = document.createElement("style");
  style.textContent = css;
  document.head.append(style);
  const handlers = {};
  const call = (name, ...args) => (handlers[name] ?? []).forEach((handler) => handler(...args));
  const model = {
    get: (key) => state[key],
    set: (key, value) => { state[key] = value; },
    save_changes() {},
    on(name, handler) { (handlers[name] ??= []).push(handler); },
    off() {},
    send(content) { toKernel(content); },
  };
  window.fromKernel = (data) => {
    if (data.method === "custom") return call("msg:custom", data.content);
    for (const [key, value] of Object.entries(data.state)) { state[key] = value; call(`change:${key}`); }
  };
  const module = await import(URL.createObjectURL(new Blob([esm], { type: "text/javascript" })));
  const widget = await module.default();
  await widget.initialize({ model });
  window.render = (id) => widget.render({ model, el: document.getElementById(id) });
  window.remove = await render("first");
}
"""


def run_events(steps=336, seed=0):
    "A loss that falls and trembles, and a metric that rises"
    chance = random.Random(seed)
    for step in range(1, steps + 1):
        loss = 0.05 + 2.2 * math.exp(-step / 45) * (1 + chance.gauss(0, 0.1))
        yield Step(step, (step - 1) // 28, loss, 3e-3, 51, step * 0.003, 1e-5)
        if step % 28 == 0:
            fallen = math.exp(-step / 50)
            metrics = {"accuracy": 0.98 - 0.6 * fallen, "mae": fallen}
            yield Epoch(
                step // 28, step, loss, 0.07 + 2.2 * fallen, metrics, 3e-3, step * 0.003, 17000.0, True
            )


class Page:
    "A page with a panel, and the panel's other end"

    def __init__(self, plain, progress, look, **kwargs):
        self.progress, self.waiting = progress, []
        self.panel = TrainPanel(progress, **kwargs)
        self.panel.widget.comm = self
        self.page = plain.blank(self._click, **look)
        state = self.panel.widget.get_state()
        shown = {key: state[key] for key in ("whole", "texts")}
        # what the script writes on an axis is on a canvas: its own function is shown to the tests
        esm = (
            state["_esm"]
            + "\nwindow.panelCompact = compact; window.panelScales = { smoothed, isLog, fenceOf };"
        )
        self.page.evaluate(OPEN, {"esm": esm, "css": state["_css"], "state": shown})
        self.root = self.page.locator(".tonb-panel").first

    # what ipywidgets takes for a connection
    comm_id, kernel = "page", True

    def send(self, data=None, metadata=None, buffers=None):
        self.waiting.append(json.loads(json.dumps(data, allow_nan=False)))

    def on_msg(self, callback):
        self.deliver = callback

    def close(self, *args, **kwargs):
        pass

    def _click(self, content):
        self.deliver({"content": {"data": {"method": "custom", "content": content}}, "buffers": []})

    def tell(self, *events):
        "Something happens in the run, and the page is told"
        self.progress.add(events)
        self.panel.update()
        self.flush()

    def flush(self):
        waiting, self.waiting = self.waiting, []
        for data in waiting:
            self.page.evaluate("(data) => fromKernel(data)", data)

    def clicked(self):
        "Commands that have arrived"
        self.page.wait_for_timeout(30)
        return [self.panel.commands.get_nowait() for _ in range(self.panel.commands.qsize())]

    def text(self, name):
        return self.root.locator(name).first.inner_text()

    def data(self, name, selector=None):
        return (self.root.locator(selector) if selector else self.root).get_attribute(f"data-{name}")

    def frame(self):
        "Wait till what was told is drawn"
        self.page.evaluate(
            "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )


@pytest.fixture
def open_panel(plain):
    "A function that opens a panel in a page, which may not have complained at the end"
    opened = []

    def opening(progress=None, *, width=1000, dark=False, place_in=plain, **kwargs):
        progress = Progress().add([STARTED]) if progress is None else progress
        opened.append((place_in, Page(place_in, progress, {"width": width, "dark": dark}, **kwargs)))
        return opened[-1][1]

    yield opening
    for place_in, page in opened:
        page.panel.widget.close()
        assert place_in.errors == []


@pytest.fixture
def clocked(browser):
    "A page whose clock a test turns on"
    plain = Plain(browser)
    yield plain
    plain.page.close()


@pytest.mark.parametrize("dark", [False, True])
def test_keyboard_reaches_every_control(open_panel, dark):
    page = open_panel(dark=dark)
    page.tell(*run_events(30))
    keys = page.page.keyboard

    def press(name, key):
        for _ in range(12):
            if page.page.evaluate("(name) => document.activeElement.classList.contains(name)", name):
                break
            keys.press("Tab")
        ring = page.page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
        assert ring == "solid", f"no focus is seen on {name}"
        keys.press(key)

    press("tonb-lr", "ControlOrMeta+A")
    keys.type("1e-4")
    keys.press("Enter")
    assert page.clicked() == [SetLr(1e-4)]
    press("tonb-pause", "Enter")
    assert page.clicked() == [Pause()]
    page.tell(State("paused", 30))
    assert page.text(".tonb-pause") == "Resume" and page.data("state") == "paused"
    press("tonb-pause", "Space")
    page.tell(State("training", 30))
    press("tonb-save", "Enter")
    press("tonb-stop", "Space")
    assert page.clicked() == [Resume(), Save(), Stop()]
    assert page.data("theme") == ("dark" if dark else "light")


def test_names_and_roles(open_panel):
    page = open_panel()
    page.tell(*run_events(84))
    page.frame()
    shown = page.page
    for name in ("Pause", "Save", "Stop"):
        assert shown.get_by_role("button", name=name, exact=True).is_enabled()
    assert shown.get_by_role("textbox", name="learning rate").input_value() == "0.003"
    assert shown.get_by_role("progressbar").get_attribute("aria-valuenow") == "25"
    assert shown.get_by_role("status").inner_text() == "training"
    assert shown.locator("[aria-live]").count() == 1
    assert shown.get_by_role("group", name="Training run").count() == 1
    label = shown.get_by_role("img").first.get_attribute("aria-label")
    assert re.match(r"Loss: train loss from 2\.\S+ to \S+, valid loss from \S+ to \S+\. Arrow keys", label)


def test_shows_what_is_told(open_panel):
    page = open_panel(run_path="runs/one", place="this kernel")
    page.tell(*run_events(196), Saved(196, "c", 1, 0.1, True, 1.79e9))
    assert page.data("step") == "196" and page.data("state") == "training"
    assert page.text(".tonb-step").startswith("epoch 8 of 12 · step 196 of 336")
    assert [page.data("points", name) for name in (".tonb-loss", ".tonb-other")] == ["196", "7"]
    assert page.text(".tonb-foot").split("\n")[0].startswith("run runs/one")
    figures = [" ".join(text.split()) for text in page.root.locator(".tonb-figure").all_inner_texts()]
    assert figures[2].startswith("96.8% accuracy +") and figures[3].endswith("k/s samples")


def test_what_comes_before_the_first_step_is_told(open_panel):
    page = open_panel(Progress("digits-cnn"))
    page.tell(Preparing("data", 0, time.time() - 5))
    assert (
        re.match(r"reading the data · [567] s$", page.text(".tonb-step")) and page.data("state") == "waiting"
    )
    page.tell(STARTED, *run_events(20))
    assert page.text(".tonb-step").startswith("epoch 1 of 12")


def drawn(page, chart, color):
    "How many pixels of about `color` the chart's canvas holds"
    page.frame()
    return page.page.evaluate(
        """([chart, [r, g, b]]) => {
          const canvas = document.querySelector(`${chart} canvas`);
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          let count = 0;
          for (let i = 0; i < data.length; i += 4)
            count += data[i + 3] > 200 && Math.abs(data[i] - r) + Math.abs(data[i + 1] - g) + Math.abs(data[i + 2] - b) < 60;
          return count;
        }""",
        [chart, color],
    )


BLUE, ORANGE = (
    {"light": (25, 118, 210), "dark": (100, 181, 246)},
    {"light": (224, 101, 0), "dark": (255, 183, 77)},
)


def test_charts_follow_a_theme_that_is_switched(open_panel):
    page = open_panel()
    page.tell(*run_events(200))
    for theme in ("light", "dark", "light"):
        page.page.emulate_media(color_scheme=theme)
        page.page.wait_for_selector(f".tonb-panel[data-theme={theme}]")
        other = "light" if theme == "dark" else "dark"
        assert drawn(page, ".tonb-loss", BLUE[theme]) > 100 and drawn(page, ".tonb-loss", BLUE[other]) < 20
        assert drawn(page, ".tonb-other", ORANGE[theme]) > 100
    # a front end that switches by its own variables
    page.page.evaluate(
        "() => { document.body.style.setProperty('--jp-layout-color0', '#111');"
        " document.body.style.setProperty('--jp-ui-font-color1', '#eee') }"
    )
    page.page.wait_for_selector(".tonb-panel[data-theme=dark]")
    assert drawn(page, ".tonb-loss", BLUE["dark"]) > 100


@pytest.mark.parametrize(
    "typed",
    some_quick(["fast", "-1", "0", "1e999", "0x10", "1,5", "", "NaN", "<b>"], "fast", "-1", "", "1e999"),
)
def test_wrong_learning_rate_is_refused_with_a_sentence(open_panel, typed):
    page = open_panel()
    page.tell(*run_events(3))
    field = page.root.locator(".tonb-lr")
    field.fill(typed)
    field.press("Enter")
    field.blur()
    assert page.clicked() == []
    said = page.page.get_by_role("alert").inner_text()
    assert "must be a number above 0" in said and (typed or "nothing") in said
    assert field.get_attribute("aria-invalid") == "true"
    page.tell(Step(4, 0, 1.0, 2e-3, 51, 0.01, 0.0))
    assert field.input_value() == typed  # what is being typed is not overwritten
    field.press("Escape")
    assert field.input_value() == "0.002" and not page.root.locator(".tonb-say").is_visible()


def test_text_is_only_text(open_panel):
    nasty = '</b><img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
    progress = Progress().add([STARTED._replace(name=nasty, monitor=nasty, device=nasty)])
    page = open_panel(progress, place=nasty, run_path=nasty)
    page.tell(Note("warning", nasty, 1, "x"), Note("info", nasty + "2", 1, "x"))
    page.tell(Epoch(1, 28, 0.1, 0.1, {nasty: 0.5, nasty + "b": 1.0}, 1e-3, 1.0, 1.0, True))
    page.frame()
    assert page.page.evaluate("() => [window.hacked, document.querySelectorAll('img, script').length]") == [
        None,
        0,
    ]
    assert page.text(".tonb-name") == nasty and nasty in page.text(".tonb-note")


def test_lost_messages_are_asked_for(open_panel):
    page = open_panel()
    events = list(run_events(60))
    page.tell(*events[:20])
    page.progress.add(events[20:40])
    page.panel.update()
    page.waiting.clear()  # lost on the way
    page.tell(*events[40:])
    assert page.data("points", ".tonb-loss") == "20"
    page.page.wait_for_timeout(50)
    page.tell()  # the question has arrived: the next update answers it
    assert page.data("points", ".tonb-loss") == str(len(page.progress.curves["train loss"].x)) == "60"


def test_a_second_view_has_everything(open_panel):
    page = open_panel()
    page.tell(*run_events(100))
    page.page.evaluate("() => render('second')")
    second = page.page.locator("#second .tonb-panel")
    assert second.get_attribute("data-step") == "100"
    assert second.locator(".tonb-loss").get_attribute("data-points") == "100"
    page.page.evaluate("() => remove()")
    assert page.page.locator("#first .tonb-panel").count() == 0
    page.tell(*list(run_events(112))[103:])
    assert second.get_attribute("data-step") == "112"


def test_thinned_curves_are_replaced(open_panel):
    progress = Progress()
    progress.curves["train loss"] = Curve(limit=50)
    page = open_panel(progress.add([STARTED]))
    for step in range(1, 300, 20):
        page.tell(*[Step(i, 0, 1 / i, 1e-3, 51, i * 0.01, 0.0) for i in range(step, step + 20)])
    assert page.data("points", ".tonb-loss") == str(len(progress.curves["train loss"].x))
    assert progress.curves["train loss"].version > 1


def test_drag_zooms_and_double_click_shows_all(open_panel):
    page = open_panel()
    page.tell(*run_events(200))
    page.frame()
    plot, reset = page.root.locator(".tonb-loss .u-over"), page.root.locator(".tonb-reset")
    box, mouse = plot.bounding_box(), page.page.mouse

    def drag():
        mouse.move(box["x"] + 40, box["y"] + 60)
        mouse.down()
        mouse.move(box["x"] + 90, box["y"] + 60, steps=4)
        page.tell(*list(run_events(210))[208:])  # new points do not disturb it
        mouse.move(box["x"] + 140, box["y"] + 60, steps=4)
        mouse.up()

    assert not reset.is_visible()
    drag()
    assert reset.is_visible()
    page.page.mouse.dblclick(box["x"] + 60, box["y"] + 60)
    assert not reset.is_visible()
    drag()
    reset.click()
    assert not reset.is_visible()


def test_hover_and_arrow_keys_show_values(open_panel):
    page = open_panel()
    page.tell(*run_events(200))
    page.frame()
    legends = [page.root.locator(f"{name} .tonb-legend") for name in (".tonb-loss", ".tonb-other")]
    before = legends[1].inner_text()
    assert before.startswith("best 96.8% at epoch 7")
    box = page.root.locator(".tonb-loss .u-over").bounding_box()
    page.page.mouse.move(box["x"] + box["width"] * 3 / 12, box["y"] + 50)
    loss, other = (" ".join(legend.inner_text().split()) for legend in legends)
    assert re.fullmatch(r"epoch (2\.9\d|3|3\.0\d) train 0\.\d+ valid 0\.\d+", loss)
    assert re.fullmatch(r"epoch 3 \d\d(\.\d)?%", other)  # the other chart shows the same place
    page.page.mouse.move(5, 5)
    assert legends[1].inner_text() == before
    page.root.locator(".tonb-other .tonb-plot").focus()
    page.page.keyboard.press("Home")
    assert legends[1].inner_text().split()[:2] == ["epoch", "1"]
    page.page.keyboard.press("ArrowRight")
    assert legends[1].inner_text().split()[:2] == ["epoch", "2"]
    page.page.keyboard.press("+")
    assert page.root.locator(".tonb-reset").is_visible()
    page.page.keyboard.press("Escape")
    assert not page.root.locator(".tonb-reset").is_visible() and legends[1].inner_text() == before


def test_another_metric_can_be_chosen(open_panel):
    page = open_panel()
    page.tell(*run_events(200))
    page.frame()
    choice = page.page.get_by_role("combobox", name="metric to plot")
    assert choice.locator("option").all_inner_texts() == ["Accuracy", "MAE"]
    choice.select_option("mae")
    page.tell(*list(run_events(230))[207:])
    assert choice.input_value() == "mae" and page.data("points", ".tonb-other") == "8"


def test_page_and_picture_smooth_and_scale_alike(open_panel):
    page, chance = open_panel(), random.Random(1)
    shapes = {
        "falls": lambda step: 0.1 + 2 * 0.99**step,
        "falls deep": lambda step: 2 * 0.98**step,
        "spikes": lambda step: 300.0 if step % 90 == 50 else 0.5,
        "diverges": lambda step: 1.1 ** max(0, step - 400),
        "has gaps": lambda step: math.nan if step % 7 == 3 else 3.0,
        "is negative": lambda step: -1.0 - step,
    }
    for name, shape in shapes.items():
        for curve in (Curve(), Curve(limit=60)):
            for step in range(500):
                curve.add(step, shape(step) * (1 + 0.1 * chance.random()))
            known = lambda values: [value if math.isfinite(value) else None for value in values]
            sent = {"stride": curve.stride, "x": curve.x, "y": known(curve.y), "mean": known(curve.mean)}
            log = is_log([curve])
            shown, scale, edges = page.page.evaluate(
                """(curve) => { const { smoothed, isLog, fenceOf } = panelScales, log = isLog([curve]), edges = fenceOf(curve, log);
                  return [smoothed(curve, 0.8, edges).y, log, edges]; }""",
                sent,
            )
            assert scale == log, name
            assert edges == pytest.approx(fence(curve, log)), name
            assert shown == pytest.approx(known(smooth(curve, inside=fence(curve, log)))), name


def test_a_reader_chooses_what_the_charts_show(open_panel):
    "Outliers, scale, smoothing, several metrics, a place where the rate was changed, closer points, and a rate that would explode"
    progress = Progress()
    progress.curves["train loss"] = Curve(limit=100)
    progress.add([STARTED._replace(lr=6e-3)])
    for event in run_events(250):
        spike = type(event) is Step and event.step % 60 == 50
        progress.add([event._replace(loss=500.0) if spike else event])
        if event.step == 120 and type(event) is Step:
            progress.add([LrChanged(120, 3e-3, 6e-3)])
    page = open_panel(progress)
    page.frame()
    loss, shown = page.root.locator(".tonb-loss"), page.page
    assert page.data("scale", ".tonb-loss") == "linear"
    beyond = loss.get_by_role("button", name="outside")
    assert beyond.inner_text() == "4 outside"
    beyond.click()
    assert loss.get_by_role("button", name="Leave out").is_visible()
    loss.get_by_role("button", name="Log").click()
    assert page.data("scale", ".tonb-loss") == "log"
    slider = shown.get_by_role("slider", name="Smoothing")
    slider.focus()
    slider.press("Home")
    assert page.text(".tonb-smooth-value") == "0.00"

    shown.get_by_role("button", name="Add a chart of another metric").click()
    assert [c.inner_text() for c in page.root.locator(".tonb-other .tonb-metric option:checked").all()] == [
        "Accuracy",
        "MAE",
    ]
    shown.get_by_role("button", name="Remove this chart").first.click()
    assert page.root.locator(".tonb-other").count() == 1

    page.frame()
    rate = page.root.locator(".tonb-rate")
    assert "0.003 = base 0.006 × 0.5" in rate.inner_text()
    box = rate.locator(".u-over").bounding_box()
    shown.mouse.move(box["x"] + box["width"] * 120 / 336, box["y"] + 50)
    assert "set by hand: 0.003, before 0.003" in rate.inner_text()

    before = int(page.data("points", ".tonb-loss"))
    box = loss.locator(".u-over").bounding_box()
    shown.mouse.move(box["x"] + 40, box["y"] + 120)
    shown.mouse.down()
    shown.mouse.move(box["x"] + 70, box["y"] + 120, steps=3)
    shown.mouse.up()
    shown.wait_for_timeout(30)
    page.tell()
    assert int(page.data("points", ".tonb-loss")) > before

    field = page.root.locator(".tonb-lr")
    field.fill("0.5")
    field.press("Enter")
    assert page.clicked() == [] and "0.5 is 170 times the current learning rate (0.003)" in page.text(
        ".tonb-question"
    )
    shown.get_by_role("button", name="Keep current", exact=True).click()
    assert page.clicked() == [] and field.input_value() == "0.003"
    field.fill("0.5")
    field.press("Enter")
    shown.get_by_role("button", name="Use it").click()
    assert page.clicked() == [SetLr(0.5)] and not page.root.locator(".tonb-question").is_visible()


BOXES = """() => Object.fromEntries([...document.querySelectorAll(
  '.tonb-controls > *, .tonb-figure, .tonb-value, .tonb-chart, .tonb-plot, .tonb-bar, .tonb-foot')].map((node, i) => {
    const { x, y, width, height } = node.getBoundingClientRect();
    return [`${i} ${node.className}`, [x, y, width, height].map(Math.round)];
}))"""


@pytest.mark.parametrize("width", [240, 360, 480, 720, 960, 1200])
def test_nothing_moves_and_nothing_sticks_out(open_panel, width):
    page = open_panel(width=width, run_path="runs/2026-11-21-a-rather-long-name-of-a-run-3")
    page.tell(*run_events(5))
    page.frame()
    before = page.page.evaluate(BOXES)
    for step in (6, 40, 41, 99, 100, 200, 300):
        loss = 12345.678 if step == 41 else 1e-7 if step == 99 else 0.5
        page.tell(*(Step(step, step // 28, loss, 1.23e-5 * step, 51, step * 0.5, 0.3),))
        page.frame()
        assert page.page.evaluate(BOXES) == before
    page.tell(State("paused", 300))
    assert page.page.evaluate(BOXES) == before
    assert (
        page.page.evaluate(
            """() => [...document.querySelectorAll('.tonb-panel, .tonb-panel button, .tonb-panel input, .tonb-value, .uplot')]
          .filter((node) => node.offsetParent && (node.scrollWidth > node.clientWidth + 1
            || node.getBoundingClientRect().right > innerWidth || node.getBoundingClientRect().left < 0))
          .map((node) => node.className)"""
        )
        == []
    )


def test_a_long_path_loses_its_middle(open_panel):
    path = "/home/ann/work/2026/experiments/digits/second-try/notebooks/runs/2026-11-21-digits-cnn-3"
    page = open_panel(run_path=path)
    shown = page.text(".tonb-path")
    assert (
        len(shown) <= 60
        and shown.startswith("/home/ann/")
        and shown.endswith("…/runs/2026-11-21-digits-cnn-3")
    )
    assert page.root.locator(".tonb-path").get_attribute("title") == path


def test_a_loss_that_explodes_stays_readable(open_panel):
    page = open_panel()
    page.tell(*[Step(i, 0, 10.0**i, 3e-3, 51, i * 0.003, 0.0) for i in range(1, 17)])
    page.frame()
    assert re.fullmatch(r"\d(\.\d+)?e1\d", page.text(".tonb-value"))
    assert page.page.evaluate("() => [1.234e12, 5e12, -4e30, 2e6, 7e-5].map(panelCompact)") == [
        "1.23e12",
        "5e12",
        "-4e30",
        "2 M",
        "7e-5",
    ]


def test_the_end_turns_the_buttons_off(open_panel):
    page = open_panel()
    page.tell(*run_events())
    page.progress.add([Ended("finished", 336, 12, "", 1.79e9)])
    page.panel.close()
    page.flush()
    for name in (".tonb-pause", ".tonb-save", ".tonb-stop", ".tonb-lr"):
        assert page.root.locator(name).is_disabled()
    assert page.text(".tonb-state") == "finished" and page.text(".tonb-step").startswith(
        "12 epochs · 336 steps"
    )
    assert page.page.get_by_role("progressbar").get_attribute("aria-valuenow") == "100"


def test_a_view_of_another_process_has_no_controls(open_panel):
    page = open_panel(live=False)
    page.tell(*run_events(5))
    assert not page.root.locator(".tonb-controls").is_visible() and page.data("step") == "5"


def test_a_short_validation_is_not_announced(open_panel, clocked):
    page = open_panel(place_in=clocked)
    page.tell(*run_events(27))
    page.page.clock.install()
    page.tell(State("validating", 27))
    assert page.data("state") == "validating" and page.text(".tonb-state") == "training"
    page.page.clock.run_for(1200)
    assert page.text(".tonb-state") == "validating"
    page.tell(State("training", 27))
    assert page.text(".tonb-state") == "training"


def test_a_kernel_that_does_not_answer_is_explained(open_panel, clocked):
    page = open_panel(place_in=clocked)
    page.tell(*run_events(5))
    page.page.clock.install()
    page.root.locator(".tonb-pause").click()
    page.page.clock.run_for(5500)
    assert "interrupt the kernel" in page.page.get_by_role("alert").inner_text()
    page.tell(State("paused", 5))
    assert not page.root.locator(".tonb-say").is_visible()


CONTRAST = """() => {
  const canvas = document.createElement("canvas"); canvas.width = canvas.height = 1;
  const ctx = canvas.getContext("2d", { willReadFrequently: true });
  const over = (colors) => {  // the color that is seen when they lie on each other
    ctx.clearRect(0, 0, 1, 1);
    for (const color of colors) { ctx.fillStyle = color; ctx.fillRect(0, 0, 1, 1); }
    return [...ctx.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => rgb.map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const weak = [];
  for (const node of document.querySelectorAll(".tonb-panel *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!own || !node.offsetParent || node.disabled) continue;
    const grounds = [];
    for (let up = node; up; up = up.parentElement) grounds.unshift(getComputedStyle(up).backgroundColor);
    const ground = over(["#fff", ...grounds]), ink = over(["#fff", ...grounds, getComputedStyle(node).color]);
    const [a, b] = [light(ground), light(ink)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) weak.push([node.className, node.textContent, Math.round(ratio * 100) / 100]);
  }
  return weak;
}"""


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("state", ["training", "paused", "stopped", "failed"])
def test_text_is_readable(open_panel, dark, state):
    page = open_panel(dark=dark, run_path="runs/one")
    page.tell(*run_events(100), Note("info", "one", 1, "a"), Note("warning", "two", 1, "a"))
    page.tell(Assumptions([Assumption("task", "regression", "--task-type", certain=state != "paused")]))
    page.frame()
    if state in ("paused", "training"):
        page.tell(State(state, 100), Note("error" if state == "paused" else "warning", "three", 100, "b"))
        page.root.locator(".tonb-lr").fill("x")
        page.root.locator(".tonb-lr").press("Enter")
    else:
        page.tell(Ended(state, 100, 3, "a reason", 1.79e9))
    page.root.locator(".tonb-note .tonb-more").click()
    page.frame()
    assert page.page.evaluate(CONTRAST) == []
