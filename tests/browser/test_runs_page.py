"The table of runs: its script in a plain page against real runs on the disk, and the whole of it in JupyterLab"

import json
import re
import time
from itertools import pairwise

import pytest
from harness import Plain
from test_panel_page import CONTRAST, OPEN, STARTED, drawn, run_events
from test_train import training_cell, trains

from trainopt_nb.events.records import Ended, Epoch
from trainopt_nb.panels import runs_panel
from trainopt_nb.panels.runs_panel import RunsPanel
from trainopt_nb.runs.run import Run
from trainopt_nb.sweeps.records import SweepStarted, TrialEnded, TrialStarted

pytestmark = pytest.mark.browser


def make_run(folder, name, steps, state=None, lift=0.0, **options):
    "A run with so many steps, which goes on where no state is given"
    run = Run.create(folder, name, {"epochs": 12, **options})
    run.start_writing()
    told = [
        e._replace(metrics={"accuracy": e.metrics["accuracy"] + lift}) if isinstance(e, Epoch) else e
        for e in run_events(steps)
    ]
    run.append([STARTED._replace(name=run.name), *told])
    if state:
        run.append([Ended(state, steps, steps // 28, "a reason", 1.79e9)])
        run.stop_writing()
    time.sleep(0.002)  # the newest stands first
    return run


WITH_TIMES = """
() => {
  const tell = window.toKernel;
  window.times = [];
  window.toKernel = (content) => { times.push(Date.now()); return tell(content); };
}
"""


class Page:
    "A page with the table, and the table's other end"

    comm_id, kernel = "page", True

    def __init__(self, plain, folder, look):
        self.done, self.waiting, self.asked = [], [], []
        note = lambda what: lambda run: self.done.append((what, run.name))
        self.panel = RunsPanel(
            folder, attach=note("attach"), resume=note("resume"), close=lambda: self.done.append("close")
        )
        self.panel.widget.comm = self
        self.page = plain.blank(self._click, **look)
        self.page.evaluate(WITH_TIMES)
        state = self.panel.widget.get_state()
        shown = {key: state[key] for key in ("whole", "texts")}
        self.page.evaluate(OPEN, {"esm": state["_esm"], "css": state["_css"], "state": shown})
        self.root = self.page.locator(".tonb-runs").first

    def send(self, data=None, metadata=None, buffers=None):
        self.waiting.append(json.loads(json.dumps(data, allow_nan=False)))

    def on_msg(self, callback):
        self.deliver = callback

    def close(self, *args, **kwargs):
        pass

    def _click(self, content):
        self.asked.append(content)
        self.deliver({"content": {"data": {"method": "custom", "content": content}}, "buffers": []})

    def settle(self):
        "Wait for the next question, and hand over what the kernel answers"
        before = len(self.asked)
        for _ in range(200):
            if len(self.asked) > before or self.waiting:
                break
            self.page.clock.run_for(50)  # the page asks each second by a clock that need not be waited for
        return self.hand_over()

    def waits(self):
        "Milliseconds between two questions, by the clock of the page"
        return [after - before for before, after in pairwise(self.page.evaluate("times"))]

    def hand_over(self):
        "Deliver what waits; returns it"
        self.page.wait_for_timeout(60)
        told = []
        while self.waiting:
            data = self.waiting.pop(0)
            told.append(json.loads(data["content"]["news"]))
            self.page.evaluate("(data) => fromKernel(data)", data)
        self.page.evaluate(
            "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )
        return told

    def row(self, run):
        return self.root.locator(f"tr[data-name='{run.name}']")

    def pick(self, *runs):
        for run in runs:
            self.row(run).locator(".tonb-pick").check()

    def press(self, name):
        self.root.get_by_role("button", name=name, exact=True).first.click()
        return self.hand_over()

    def enabled(self):
        return {b.inner_text() for b in self.root.locator(".tonb-controls button").all() if b.is_enabled()}


@pytest.fixture(scope="module")
def clocked(browser):
    "A page whose clock goes on as usual, and further when a test says so"
    plain = Plain(browser)
    plain.page.clock.install()
    yield plain
    plain.page.close()


@pytest.fixture
def open_table(clocked, tmp_path, monkeypatch):
    "A function that opens a table of the runs in a folder; at the end the page may not have complained"
    opened = []
    monkeypatch.setattr(
        runs_panel, "REST", 0
    )  # the kernel looks at each question, whatever the page's clock says

    def opening(width=1000, dark=False):
        opened.append(Page(clocked, tmp_path, {"width": width, "dark": dark}))
        return opened[-1]

    yield opening
    for page in opened:
        page.panel.widget.close()
    assert clocked.errors == []


def test_a_row_says_what_a_run_is(open_table, tmp_path):
    run = make_run(tmp_path, "digits", 140, "stopped", lr=0.01, loss="focal")
    never = Run.create(tmp_path, "never", {"epochs": 2})
    page = open_table()
    cells = [" ".join(text.split()) for text in page.row(run).locator("td").all_inner_texts()]
    assert cells[1] == f"▸{run.name}" and cells[3] == "5/12"
    assert cells[2] == "stopped a reason" and cells[4] == "94.4% accuracy, epoch 5"
    assert re.fullmatch(r"0\.\d+", cells[5]) and cells[7] == "lr 0.01, loss focal"
    assert "not begun" in page.row(never).inner_text()
    names = page.root.locator("tbody tr[data-name]").evaluate_all(
        "rows => rows.map((row) => row.dataset.name)"
    )
    assert names == [never.name, run.name]
    figures = [" ".join(text.split()) for text in page.root.locator(".tonb-figure").all_inner_texts()]
    assert figures[:3] == ["2 runs", "0 running", "– metric"]  # no record says what was learned


def test_only_changed_rows_travel_while_something_trains(open_table, tmp_path):
    old, running = make_run(tmp_path, "old", 56, "finished"), make_run(tmp_path, "running", 0)
    page = open_table()
    page.settle()  # what it asked before
    running.append(list(run_events(56)))
    news = page.settle()
    while not any(each["rows"] for each in news):  # a question may be older than the steps
        news += page.settle()
    assert [row["name"] for each in news for row in each["rows"]] == [running.name]
    assert {each["order"] for each in news} == {None}
    assert "2/12" in page.row(running).inner_text()
    assert [page.settle()[0]["rows"] for _ in range(2)] == [[], []]
    assert min(page.waits()[-2:]) > 1000  # a question a second at most
    assert page.row(old).count() == 1
    running.append([Ended("finished", 56, 2, "", 1.79e9)])
    running.stop_writing()
    for _ in range(2):  # the first question may be older than the end
        page.settle()
    assert "finished" in page.row(running).inner_text()
    page.page.clock.run_for(6000)
    page.settle()
    assert page.waits()[-1] > 5000  # nothing trains: it asks seldom


def test_a_page_that_is_not_looked_at_asks_nothing(open_table, tmp_path):
    make_run(tmp_path, "running", 10)
    page = open_table()
    page.settle()
    page.page.evaluate("() => Object.defineProperty(document, 'hidden', { value: true })")
    asked = len(page.asked)
    page.page.clock.run_for(2500)
    assert len(page.asked) == asked


def test_buttons_fit_what_is_chosen(open_table, tmp_path):
    done, stopped, running = (
        make_run(tmp_path, name, 56, state)
        for name, state in (("done", "finished"), ("stopped", "stopped"), ("running", None))
    )
    page = open_table()
    assert (
        page.enabled() == {"Close", "CSV"} and "select runs" in page.root.locator(".tonb-step").inner_text()
    )
    page.pick(stopped)
    assert page.enabled() == {"Compare", "Tag…", "Attach", "Resume", "Delete", "Close", "CSV"}
    page.press("Resume")
    page.press("Attach")
    assert page.done == [("resume", stopped.name), ("attach", stopped.name)]
    page.pick(running)
    assert page.enabled() == {"Compare", "Tag…", "Stop", "Close", "CSV"}
    inbox = running.inbox()
    page.press("Stop")
    assert "stopped by hand" in str(inbox()) and inbox() is None
    assert (
        "is stopped, so no process" in page.root.get_by_role("alert").inner_text()
    )  # the other one, which had ended
    page.row(running).locator(".tonb-pick").uncheck()
    page.row(stopped).locator(".tonb-run-name").click()  # a click on the row chooses as well
    page.pick(done)
    assert page.enabled() == {"Compare", "Tag…", "Attach", "Delete", "Close", "CSV"}
    assert f"resume {done.name} --epochs" in page.root.locator(".tonb-resume").get_attribute("title")


def test_delete_asks_first_and_never_takes_a_run_that_is_written(open_table, tmp_path):
    done, kept, running = (
        make_run(tmp_path, name, 56, state)
        for name, state in (("done", "finished"), ("kept", "stopped"), ("running", None))
    )
    page = open_table()
    page.pick(done)
    page.press("Delete")
    question = page.root.get_by_role("alertdialog")
    assert f"Permanently delete {done.name}" in question.inner_text() and "kB" in question.inner_text()
    page.page.keyboard.press("Enter")  # Cancel has the focus
    assert not question.is_visible() and done.path.exists()
    page.press("Delete")
    page.page.keyboard.press("Escape")
    assert not question.is_visible() and done.path.exists()
    page.press("Delete")
    question.get_by_role("button", name="Delete").click()
    page.hand_over()
    assert not done.path.exists() and page.row(done).count() == 0 and kept.path.exists()
    page.page.evaluate(
        "(names) => toKernel({ since: 0, curves: {}, do: 'delete', names })", [running.name, "../.."]
    )
    (news,) = [news for news in page.hand_over() if news["said"]]  # beside what the page asks each second
    assert running.path.exists() and "is being written" in news["said"] and "not in" in news["said"]


def test_curves_of_chosen_runs_lie_over_each_other(open_table, tmp_path):
    first, second = (
        make_run(tmp_path, "first", 336, "finished"),
        make_run(tmp_path, "second", 140, None, 0.01),
    )
    page = open_table()
    page.pick(first, second)
    page.press("Compare")
    chart = page.root.locator(".tonb-compared")
    assert (
        chart.get_attribute("data-lines") == "2"
        and page.root.locator(".tonb-metric").input_value() == "accuracy"
    )
    inks = {"first": (25, 118, 210), "second": (217, 95, 2)}
    assert all(drawn(page_like(page), ".tonb-compared", ink) > 60 for ink in inks.values())
    keys = [" ".join(text.split()) for text in page.root.locator(".tonb-key").all_inner_texts()]
    assert keys == [f"{first.name} 97.9%", f"{second.name} 95.4%"]
    second.append(list(run_events(168))[145:])
    for _ in range(3):
        page.settle()
    assert "95.9%" in page.root.locator(".tonb-key").nth(1).inner_text()  # it goes on
    page.root.locator(".tonb-metric").select_option("train loss")
    page.hand_over()  # a chart is drawn at the next frame
    assert "train loss" in page.root.locator(".tonb-compared .tonb-plot").get_attribute("aria-label")
    page.root.locator(".tonb-plot").focus()
    page.page.keyboard.press("Home")
    assert page.root.locator(".tonb-compared .tonb-legend").inner_text().startswith("epoch 0")
    page.row(first).locator(".tonb-pick").uncheck()
    page.hand_over()
    assert chart.get_attribute("data-lines") == "1"
    assert drawn(page_like(page), ".tonb-compared", inks["first"]) < 20  # colors stay with their runs


def page_like(page):
    "What `drawn` wants to know of a page"
    page.frame = page.hand_over
    return page


def test_text_is_only_text(open_table, tmp_path):
    nasty = "<img src=x onerror='window.hacked=1'>"
    run = make_run(tmp_path, "x", 28, "failed", loss=nasty)
    hostile = run.path.rename(tmp_path / nasty.replace("/", ""))
    page = open_table()
    page.root.locator(".tonb-pick").first.check()
    page.press("Compare")
    page.press("Delete")
    assert page.page.evaluate("() => [window.hacked, document.querySelectorAll('img, script').length]") == [
        None,
        0,
    ]
    assert hostile.name in page.root.locator(".tonb-run-name").inner_text()


@pytest.mark.parametrize("dark", [False, True])
def test_text_is_readable_and_keys_reach_everything(open_table, tmp_path, dark):
    runs = [make_run(tmp_path, state, 56, state, lr=0.01) for state in ("finished", "stopped", "failed")]
    make_run(tmp_path, "running", 30)
    page = open_table(dark=dark)
    page.pick(*runs)
    page.press("Compare")
    page.press("Delete")
    assert page.page.evaluate(CONTRAST) == []
    page.page.keyboard.press("Escape")
    seen = set()
    for _ in range(30):
        page.page.keyboard.press("Tab")
        seen.add(page.page.evaluate("() => document.activeElement.className.split(' ').at(-1)"))
        assert page.page.evaluate(
            "() => document.activeElement === document.body || getComputedStyle(document.activeElement).outlineStyle !== 'none'"
        )
    assert {"tonb-compare", "tonb-delete", "tonb-close", "tonb-pick", "tonb-metric", "tonb-plot"} <= seen


@pytest.mark.parametrize("width", [300, 480, 720, 1200])
def test_nothing_sticks_out(open_table, tmp_path, width):
    runs = [
        make_run(tmp_path, "a-rather-long-name-of-a-run-that-says-much", 56, "stopped", lr=0.01)
        for _ in range(3)
    ]
    page = open_table(width=width)
    page.pick(*runs)
    page.press("Compare")
    page.press("Delete")
    assert (
        page.page.evaluate(
            """() => [...document.querySelectorAll('.tonb-panel, .tonb-head *, .tonb-value, .uplot, .tonb-question *, .tonb-keys')]
          .filter((node) => node.offsetParent && (node.scrollWidth > node.clientWidth + 1 && node.clientWidth
            || node.getBoundingClientRect().right > innerWidth || node.getBoundingClientRect().left < 0))
          .map((node) => node.className)"""
        )
        == []
    )


# ---- in JupyterLab


def test_runs_are_stopped_resumed_compared_and_deleted_in_a_notebook(lab, server):
    "Two background runs, steered from the table alone"
    cell = lambda name: training_cell(3000).replace(
        "%%trainopt fit --name digits-cnn", f"%%trainopt fit --background --name {name}"
    )
    lab.open("%load_ext trainopt_nb", cell("one"), cell("two"), "%trainopt runs", "print(len(table))")
    for i in range(3):
        lab.run(i)
        lab.wait_done(i)
    trains(lab)
    lab.run(3)
    table = lab.output(3).locator(".tonb-runs")
    table.wait_for()
    row = lambda name: table.locator("tr", has_text=f"-{name}-")
    state = lambda name: lab.read(row(name).locator(".tonb-state"))
    lab.wait_for(lambda: {state("one"), state("two")} <= {"training", "validating"}, "both training")
    done = lambda: lab.read(row("one").locator(".tonb-cell-done"))
    before = done()
    lab.wait_for(lambda: done() != before, "a row that moves")

    row("one").locator(".tonb-pick").check()
    row("two").locator(".tonb-pick").check()
    table.locator(".tonb-compare").click()
    lab.wait_for(lambda: table.locator(".tonb-compared").get_attribute("data-lines") == "2", "two curves")
    lab.screenshot("runs-compared")
    row("two").locator(".tonb-pick").uncheck()
    table.locator(".tonb-stop").click()
    lab.wait_for(lambda: state("one") == "stopped", "the stop")
    assert state("two") in ("training", "validating")

    table.locator(".tonb-resume").click()
    lab.wait_for(lambda: state("one") in ("training", "validating"), "the resumed run", 60)
    below = lab.output(3).locator(".tonb-panel:not(.tonb-runs)")
    below.wait_for()
    first = int(below.get_attribute("data-step"))
    lab.wait_for(lambda: int(below.get_attribute("data-step")) > first + 5, "the attached panel moving")
    lab.screenshot("runs-resumed")
    below.locator(".tonb-stop").click()
    lab.wait_for(lambda: state("one") == "stopped", "the second stop")
    lab.wait_for(lambda: below.get_attribute("data-state") == "stopped", "the end in the attached panel")

    lab.save()
    lab.refresh()
    table.wait_for()
    row("two").locator(".tonb-pick").check()
    table.locator(".tonb-stop").click()
    lab.wait_for(lambda: state("two") == "stopped", "a stop from the refreshed page")
    lab.wait_for(lambda: table.locator(".tonb-delete").is_enabled(), "delete being allowed")
    table.locator(".tonb-delete").click()
    lab.screenshot("runs-question")
    table.locator(".tonb-yes").click()
    lab.wait_for(lambda: row("two").count() == 0, "the deleted row")
    assert [
        path.parent.name.split("-")[3]
        for path in (server.work / "runs").glob("*/run.json")
        if "-one-" in str(path) or "-two-" in str(path)
    ] == ["one"]
    table.locator(".tonb-close").click()
    lab.output(3).locator("table:not(.tonb-table)", has_text="-one-").wait_for()  # a table for each group
    assert lab.page.locator(".tonb-runs").count() == 0 and "-two-" not in lab.text(3)
    assert not lab.errors


def test_a_run_in_a_cell_is_seen_and_stopped_from_the_table(lab, server, kernel):
    "The kernel is busy with the run itself, and the table above it works"
    lab.open(
        "%load_ext trainopt_nb",
        "%trainopt runs",
        training_cell(3000),
        "print('after', run.state)",
        kernel=kernel,
    )
    lab.run_all()
    trains_in = lab.output(2).locator(".tonb-panel")
    trains_in.wait_for(timeout=60_000)
    table = lab.output(1).locator(".tonb-runs")
    named = trains_in.locator(".tonb-name")  # a run that an earlier cell left behind may be training too
    name = lab.wait_for(lambda: lab.read(named), "the name of the run", 30)
    row = table.locator(f"tr[data-name='{name}']")
    lab.wait_for(lambda: row.count() and "training" in lab.read(row), "the row of the run", 30)
    row.locator(".tonb-pick").check()
    table.locator(".tonb-stop").click()
    lab.wait_text(3, "after stopped")
    lab.wait_for(lambda: "stopped" in lab.read(row), "the row saying so")
    assert not lab.errors


def make_sweep(folder, name="search", trials=6):
    "A sweep whose first two trials have a directory; the last one trains"
    run = Run.create(folder, name, {}, type="sweep", goals=[["accuracy", "max"]])
    for number in range(2):
        trial = Run.create(run.path / "trials", str(number), {}, type="trial", dated=False, number=number)
        trial.start_writing()
        trial.append([STARTED._replace(name=trial.name), *run_events(56)])
        trial.append([Ended("finished", 56, 2, "", 1.79e9)])
        trial.stop_writing()
    run.start_writing()
    log = [SweepStarted(run.name, ["accuracy"], ["max"], {}, "tpe", "", "", "", 20, None, 2, 8, 0, 1.79e9)]
    for k in range(trials):
        at = 1.79e9 + 2 * k
        log.append(TrialStarted(k, {"lr": 10.0 ** (-k - 1), "width": 8 * k}, f"trials/{k}", 0, "sampled", at))
        if k < trials - 1:
            state = "pruned" if k % 3 == 2 else "done"
            log.append(
                TrialEnded(k, state, [0.9 + k / 100], 3 if state == "pruned" else 8, 1.5, "", at + 1.5)
            )
    run.append(log)
    return run


def test_a_sweep_is_unfolded_into_its_trials(open_table, tmp_path):
    run = make_sweep(tmp_path)
    make_run(tmp_path, "digits", 56, "finished")
    page = open_table()
    cells = [" ".join(text.split()) for text in page.row(run).locator("td").all_inner_texts()]
    assert cells[3] == "5/20 trials" and re.fullmatch(r"94\.0% accuracy, trial 4", cells[4])
    inner = page.root.locator("tr.tonb-inner")
    assert not inner.count()
    page.row(run).locator(".tonb-unfold").click()
    page.settle()
    texts = [" ".join(text.replace("▸", "").split()) for text in inner.all_inner_texts()]
    assert len(texts) == 6 and texts[0].startswith("trial 5 training") and "94.0%" in texts[1]
    assert texts[1].startswith("trial 4 finished 8/8") and "pruned" in texts[-1]
    bold = page.root.locator("tr.tonb-first .tonb-run-name")
    assert bold.all_inner_texts() == ["trial 4"]
    trials = [page.root.locator(f"tr[data-name='{run.name}/trials/{n}']") for n in (0, 1)]
    for trial in trials:
        trial.locator(".tonb-pick").check()
    assert "Delete" not in page.enabled() and "Compare" in page.enabled()
    page.press("Compare")
    page.settle()
    keys = " ".join(page.root.locator(".tonb-keys").inner_text().split())
    assert f"{run.name}, trial 0" in keys and f"{run.name}, trial 1" in keys
    trials[1].locator(".tonb-pick").uncheck()
    page.press("Attach")
    assert page.done == [("attach", "0")]
    page.row(run).locator(".tonb-unfold").click()
    page.hand_over()
    assert not inner.count() and "Attach" not in page.enabled()  # what is folded is not selected
    run.stop_writing()


def arranged(page):
    "What the page shows: the names of its runs, in their order"
    return page.root.locator("tbody tr[data-name]").evaluate_all(
        "rows => rows.map((row) => row.dataset.name)"
    )


def search(page, query):
    page.root.locator(".tonb-query").fill(query)
    for _ in range(20):
        page.page.clock.run_for(100)
        page.hand_over()
        if any("view" in content for content in page.asked[-3:]):
            break
    page.hand_over()


def test_runs_are_sorted_searched_and_annotated_and_it_stays_so(open_table, tmp_path):
    low, high = (
        make_run(tmp_path, "low", 56, "finished", lr=0.1),
        make_run(tmp_path, "high", 140, "failed", 0.02, lr=0.01),
    )
    mid = make_run(tmp_path, "mid", 140, "finished", lr=0.05)
    page = open_table(1200)
    head = page.root.locator("th.tonb-head-best")
    sort = head.locator("button")
    assert arranged(page) == [mid.name, high.name, low.name] and head.get_attribute("aria-sort") == "none"
    for names, way in (
        ([high, mid, low], "descending"),
        ([low, mid, high], "ascending"),
        ([mid, high, low], "none"),
    ):
        sort.focus()
        page.page.keyboard.press("Enter")
        page.hand_over()
        assert (arranged(page), head.get_attribute("aria-sort")) == ([run.name for run in names], way)
    page.root.get_by_role("button", name="lr", exact=True).click()
    page.hand_over()
    assert arranged(page) == [high.name, mid.name, low.name]
    search(page, "lr>=0.05")
    assert (
        arranged(page) == [mid.name, low.name] and "2 of 3" in page.root.locator(".tonb-count").inner_text()
    )
    search(page, "acuracy>1")
    assert "Did you mean 'accuracy'" in page.root.locator(".tonb-search [role=alert]").inner_text()
    search(page, "")
    page.row(high).locator(".tonb-unfold").click()
    page.settle()
    details = page.root.locator(f"tr[data-of='{high.name}']")
    assert (
        "a reason" in details.inner_text() and "a reason" in page.row(high).locator(".tonb-why").inner_text()
    )
    details.locator(".tonb-note-of").fill("a first try")
    details.locator(".tonb-tags-of").fill("baseline, paper")
    details.get_by_role("button", name="Save").click()
    page.hand_over()
    assert high.note() == "a first try" and high.tags == ("baseline", "paper")
    assert page.row(high).locator(".tonb-tag").all_inner_texts()[:2] == ["baseline", "paper"]
    page.press("CSV")
    assert "runs to" in page.root.locator(".tonb-told").inner_text()
    again = page.page.evaluate(
        "(state) => fromKernel({ method: 'update', state })", {"whole": page.panel.whole()}
    )
    assert again is None and arranged(page) == [
        high.name,
        mid.name,
        low.name,
    ]  # as a page that is loaded again has it


def test_values_in_which_runs_differ_stand_below_their_curves(open_table, tmp_path):
    runs = [
        make_run(tmp_path, name, 56, "finished", lr=lr, seed=0) for name, lr in (("one", 0.1), ("two", 0.2))
    ]
    page = open_table()
    page.pick(*runs)
    page.press("Compare")
    page.settle()
    rows = lambda: page.root.locator(".tonb-beside tbody th[scope=row]").all_inner_texts()
    assert "lr" in rows() and "seed" not in rows()
    page.root.get_by_label("Show equal values").check()
    assert "seed" in rows()


@pytest.mark.parametrize(("width", "shown"), [(390, 4), (760, 7), (1200, 8)])
def test_a_narrow_page_shows_what_matters_most(open_table, tmp_path, width, shown):
    runs = [make_run(tmp_path, name, 56, "finished", lr=lr) for name, lr in (("one", 0.1), ("two", 0.2))]
    page = open_table(width)
    heads = [head for head in page.root.locator(".tonb-table thead th").all() if head.is_visible()]
    assert len(heads) == shown and page.row(runs[0]).locator(".tonb-cell-best").is_visible()
