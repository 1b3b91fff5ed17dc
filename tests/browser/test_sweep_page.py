"The panel of a sweep in a real page: what is shown, what is clicked, and that both stay in step with the kernel"

import json
import re
import time

import pytest
from helpers import Wire
from test_new_panel_page import SHOW
from test_sweep_panel import BEGAN, SPACE, searched

from trainopt_nb.events.preparing import Preparing
from trainopt_nb.events.progress import Progress
from trainopt_nb.events.records import Ended, Note, State
from trainopt_nb.panels.sweep_panel import SweepPanel
from trainopt_nb.search.space_record import to_json
from trainopt_nb.sweeps.progress import sweep_of
from trainopt_nb.sweeps.records import SpaceChanged, TrialEnded, TrialReport, TrialStarted

pytestmark = pytest.mark.browser


class Sweep:
    "A panel in a page, without a kernel between them"

    def __init__(self, plain, events, width=960):
        self.done = []
        self.progress = Progress().add(events)
        actions = {
            name: lambda trial, name=name: self.done.append((name, trial))
            for name in ("open", "use", "freeze")
        }
        self.panel = SweepPanel(self.progress, run_path="runs/search-1", **actions)
        self.panel.widget.comm = Wire()
        self.page = plain.blank(width=width, height=1400)
        self.errors = plain.errors
        state = self.panel.widget.get_state()
        shown = {key: state[key] for key in ("whole", "texts")}
        self.page.evaluate(SHOW, {"esm": state["_esm"], "css": state["_css"], "state": shown})
        self.page.locator(".tonb-sweep svg").first.wait_for()

    def add(self, *events):
        "Something happened in the sweep"
        self.progress.add(events)
        if news := self.panel.news():
            self.page.evaluate("(news) => tell({ news })", news)

    def clicks(self):
        "Deliver what the page sent to the panel, and return it"
        sent = self.page.evaluate("() => sent.splice(0)")
        for content in sent:
            self.panel.widget.comm.click(content)
        own = ("protocol", "language", "ready")
        return [rest for each in sent if (rest := {k: v for k, v in each.items() if k not in own})]

    def button(self, name):
        return self.page.get_by_role("button", name=name, exact=True)


@pytest.fixture(scope="module")
def log():
    return list(searched(40))


@pytest.fixture
def sweep(plain, log):
    running = [
        TrialStarted(40, {"lr": 2e-3, "schedule": "cosine"}, "trials/40", 0, "queued", 1090.0),
        TrialReport(40, 1, [0.7], 0.3),
    ]
    sweep = Sweep(plain, [*log, *running])
    sweep.clicks()
    yield sweep
    assert sweep.errors == []
    sweep.panel.widget.close()


def test_the_page_shows_the_sweep_and_follows_it(sweep):
    page = sweep.page
    assert page.locator(".tonb-step").inner_text().startswith("40 of 200 trials · 2 at once")
    assert page.locator("tr[data-trial]").count() == 41
    best = sweep_of(sweep.progress).best
    assert page.locator("tbody tr").first.get_attribute("data-trial") == str(best)
    assert page.locator("tr[data-trial='40'] .tonb-origin").inner_text() == "your values"
    sweep.add(TrialEnded(40, "done", [0.999], 8, 2.0, "", 1092.0))
    assert page.locator("tbody tr").first.get_attribute("data-trial") == "40"
    assert page.locator(".tonb-figure b").nth(1).inner_text() == "40"
    assert page.locator(".tonb-bar-row").first.inner_text().startswith("lr")
    assert page.locator(".tonb-axis").evaluate_all("all => all.map((each) => each.dataset.axis)") == [
        *SPACE,
        "accuracy",
    ]


def test_the_page_counts_the_seconds_until_the_workers_are_there(plain, log):
    "Of a sweep that goes on after its process was killed"
    sweep = Sweep(plain, [*log, BEGAN._replace(done=40)])
    step = sweep.page.locator(".tonb-step")
    sweep.add(Preparing("workers", 40, time.time() - 5))
    first = step.inner_text()
    assert re.match(r"starting worker processes · [567] s$", first)
    sweep.page.wait_for_function(
        "(first) => document.querySelector('.tonb-step').innerText !== first", arg=first
    )
    assert step.inner_text().startswith("starting worker processes · ")  # the kernel said nothing in between
    sweep.add(TrialStarted(40, {"lr": 2e-3, "schedule": "cosine"}, "trials/40", 0, "sampled", 1090.0))
    assert step.inner_text().startswith("40 of 200 trials")
    sweep.panel.widget.close()


def test_buttons_send_commands_and_wait_for_their_effect(sweep):
    pause = sweep.page.locator(".tonb-pause")
    pause.click()
    assert sweep.clicks() == [{"command": "pause"}] and "tonb-pending" in pause.get_attribute("class")
    sweep.add(State("paused", 40))
    assert (
        "tonb-pending" not in pause.get_attribute("class")
        and sweep.page.locator(".tonb-head .tonb-state").inner_text() == "paused"
    )
    workers = sweep.page.get_by_role("textbox", name="trials that train at once")
    workers.fill("many")
    workers.press("Enter")
    assert (
        "whole number from 1 to 1024" in sweep.page.get_by_role("alert").inner_text() and sweep.clicks() == []
    )
    workers.fill("4")
    workers.press("Enter")
    sweep.page.locator("tr[data-trial='40'] .tonb-stop-trial").click()
    assert sweep.clicks() == [{"command": "workers", "value": 4}, {"command": "stop_trial", "value": 40}]


def test_a_pruned_trial_is_taken_up_again(sweep):
    s = sweep_of(sweep.progress)
    pruned = next(row.number for row in s.trials.values() if row.state == "pruned")
    assert not sweep.page.locator("tr[data-state=done] .tonb-continue-trial").count()
    button = sweep.page.locator(f"tr[data-trial='{pruned}'] .tonb-continue-trial")
    button.click()
    assert sweep.clicks() == [{"command": "continue_trial", "value": pruned}]
    assert "tonb-pending" in button.get_attribute("class")
    sweep.add(Note("info", f"Trial {pruned} continues next, as a new trial.", 40, "queue"))
    sweep.page.wait_for_function(
        "(button) => !button.classList.contains('tonb-pending')", arg=button.element_handle()
    )
    sweep.add(Ended("finished", 40, 0, "", 4000.0))
    assert not sweep.page.locator(".tonb-continue-trial").count()


def test_the_best_are_selected_and_the_ranges_narrowed_to_them(sweep):
    sweep.button("Select the best tenth").click()
    chosen = int(sweep.page.locator(".tonb-parallel").get_attribute("data-chosen"))
    assert 3 <= chosen < 40
    sweep.button("Narrow the ranges to them").click()
    (click,) = sweep.clicks()
    s = sweep_of(sweep.progress)
    worst = min(s.trials[number].value() for number in click["trials"])
    assert len(click["trials"]) == chosen and s.best in click["trials"]
    assert all(row.value() <= worst for number, row in s.trials.items() if number not in click["trials"])
    assert sweep.panel.commands.get_nowait().trials == click["trials"]


def test_a_brush_on_an_axis_selects_what_lies_under_it(sweep):
    box = sweep.page.locator("[data-axis=lr] .tonb-hit").bounding_box()
    x = box["x"] + box["width"] / 2
    sweep.page.mouse.move(x, box["y"] + 8)
    sweep.page.mouse.down()
    sweep.page.mouse.move(x, box["y"] + box["height"] / 2, steps=4)
    sweep.page.mouse.up()
    sweep.button("Narrow the ranges to them").click()
    (click,) = sweep.clicks()
    rates = [sweep_of(sweep.progress).trials[number].values["lr"] for number in click["trials"]]
    assert rates and min(rates) > 7e-4  # the upper half of a logarithmic axis from 1e-5 to 1e-1
    assert sweep.page.locator(".tonb-brush").count() == 0


def test_ranges_move_by_keys_by_typing_and_by_chips(sweep):
    page = sweep.page
    low = page.get_by_role("slider", name="lr, lowest value")
    low.focus()
    low.press("ArrowRight")
    (click,) = sweep.clicks()
    assert click["name"] == "lr" and 1e-5 < click["low"] < 2e-5 and click["high"] == 0.1
    assert float(low.get_attribute("aria-valuenow")) == click["low"]  # it stays while the kernel thinks
    field = page.get_by_role("textbox", name="weight_decay, highest value")
    field.fill("-3")
    field.press("Tab")
    assert "weight_decay" in page.get_by_role("alert").inner_text() and sweep.clicks() == []
    field.fill("0.2")
    field.press("Tab")
    page.locator("[data-name=schedule]").get_by_role("button", name="constant").click()
    clicks = sweep.clicks()
    assert clicks == [
        {"command": "range", "name": "weight_decay", "low": 0, "high": 0.2},
        {"command": "choices", "name": "schedule", "kept": [1, 2]},
    ]
    smaller = SPACE.keep("schedule", "cosine", "onecycle").narrow("lr", low=1e-4)
    sweep.add(SpaceChanged(to_json(smaller), "", 41))
    pressed = page.locator(".tonb-chip").evaluate_all(
        "all => all.map((each) => each.getAttribute('aria-pressed'))"
    )
    assert pressed == ["false", "true", "true"] and low.get_attribute("aria-valuenow") == "0.0001"


def test_values_are_tried_and_wrong_ones_are_refused_in_a_sentence(sweep):
    page = sweep.page
    sweep.button("Try values…").click()
    form = page.get_by_role("form")
    rate, decay = form.get_by_label("lr"), form.get_by_label("weight_decay")
    assert float(rate.input_value()) == pytest.approx(
        sweep_of(sweep.progress).trials[sweep_of(sweep.progress).best].values["lr"], rel=1e-4
    )
    rate.fill("7")
    sweep.button("Try").click()
    assert (
        "lr must be a number between 1e-5 and 0.1 (you entered “7”)" in page.get_by_role("alert").inner_text()
    )
    rate.fill("3e-3")
    decay.fill("")
    form.get_by_label("schedule").select_option(label="onecycle")
    sweep.button("Try").click()
    (click,) = sweep.clicks()
    assert (
        click["values"]["lr"] == 3e-3
        and click["values"]["schedule"] == 2
        and "weight_decay" not in click["values"]
    )
    assert form.count() == 0 and sweep.panel.commands.get_nowait().values["schedule"] == "onecycle"


def test_a_trial_is_opened_used_and_frozen(sweep):
    page, best = sweep.page, sweep_of(sweep.progress).best
    row = page.locator(f"tr[data-trial='{best}']")
    row.get_by_role("button", name="Open").click()
    row.get_by_role("button", name="Use").click()
    sweep.button(f"Freeze trial {best} into a cell").click()
    sweep.clicks()
    assert sweep.done == []  # what the notebook offers is done between two steps
    sweep.panel.act()
    assert sweep.done == [("open", best), ("use", best), ("freeze", best)]
    page.locator("th[data-column=trial] button").click()
    assert page.locator("tbody tr").first.get_attribute("data-trial") == "40"


def test_a_trial_that_is_pointed_at_is_read_and_one_that_is_clicked_stays_marked(sweep):
    page = sweep.page
    box = page.locator(".tonb-best svg").bounding_box()
    mark = page.locator(".tonb-best .tonb-mark-best").evaluate(
        "(node) => { const { x, y, width, height } = node.getBBox(); return [x + width / 2, y + height / 2]; }"
    )
    page.mouse.move(box["x"] + mark[0], box["y"] + mark[1])
    best = sweep_of(sweep.progress).best
    assert page.locator(".tonb-best .tonb-legend").inner_text().startswith(f"trial {best}:")
    page.mouse.down()
    page.mouse.up()
    assert page.locator("tr.tonb-chosen").get_attribute("data-trial") == str(best)
    page.get_by_role("tab", name="Curves of all trials").click()
    assert page.locator(".tonb-curves .tonb-on").get_attribute("d") != ""


@pytest.mark.parametrize("width", [960, 720, 480])
def test_nothing_stands_outside_the_panel(plain, log, width):
    sweep = Sweep(plain, log, width)
    wide = sweep.page.evaluate("() => document.documentElement.scrollWidth")
    outside = """() => [...document.querySelectorAll('.tonb-sweep *')].filter((node) => {
      const box = node.getBoundingClientRect(), panel = document.querySelector('.tonb-sweep').getBoundingClientRect();
      return box.width && !node.closest('.tonb-wide, .tonb-scroll') && (box.right > panel.right + 1 || box.left < panel.left - 1);
    }).map((node) => node.className.baseVal ?? node.className)"""
    assert wide <= width and sweep.page.evaluate(outside) == [] and sweep.errors == []
    sweep.panel.widget.close()


def test_a_thousand_trials_are_drawn_in_a_few_nodes_and_a_new_one_quickly(plain, undisturbed):
    start = TrialStarted(
        0,
        {"lr": 1e-3, "schedule": "cosine", "weight_decay": 0.01, "batch_size": 64},
        "",
        0,
        "sampled",
        1000.0,
    )
    many = [BEGAN._replace(trials=2000)]
    for number in range(1000):
        many += [start._replace(number=number, values=start.values | {"lr": 1e-5 * (number + 1)})]
        many += [
            TrialReport(number, 1, [0.5 + number / 4000], 0.1),
            TrialEnded(number, "done", [0.6 + number / 4000], 8, 1.0, "", 1001.0 + number),
        ]
    sweep = Sweep(plain, many)
    assert sweep.page.locator(".tonb-sweep *").count() < 3000
    sweep.add(start._replace(number=1000))
    news = json.dumps(sweep.panel._link.sent.whole())
    assert len(news) < 1_500_000
    with undisturbed():
        spent = sweep.page.evaluate(
            """() => { const from = performance.now(); document.querySelector('tr[data-trial]').click(); return performance.now() - from; }"""
        )
    assert spent < 300  # a click answers, whatever the number of trials
    assert sweep.page.locator(".tonb-sweep").get_attribute("data-trials") == "1001" and sweep.errors == []
    sweep.panel.widget.close()
