"What the page is told of a run, and what stays of it: no browser is needed here"

import json
import math
import threading
from html.parser import HTMLParser

import ipywidgets.embed
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from properties import examples

from trainopt_nb.events.curves import Curve
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
from trainopt_nb.panels.runs_panel import RunsPanel
from trainopt_nb.panels.train_panel import TrainPanel
from trainopt_nb.panels.watched_runs import RunsTable
from trainopt_nb.runs.card import escape, json_text, plain
from trainopt_nb.runs.report import report_bundle, report_html, report_text
from trainopt_nb.runs.run import Run

STARTED = Started("digits", 0, 0, 3, 10, 30, "cpu", "fp32", 2, 640, 9610, "accuracy", "max", 1.79e9)


def train(progress, first, last, metric="accuracy"):
    "Steps `first` to `last`, with an epoch after every ten"
    for step in range(first, last + 1):
        progress.add([Step(step, (step - 1) // 10, 2 / step, 1e-3, 64, step * 0.01, 0.001)])
        if step % 10 == 0:
            progress.add(
                [
                    Epoch(
                        step // 10,
                        step,
                        2 / step,
                        2.1 / step,
                        {metric: 1 - 1 / step},
                        1e-3,
                        1.0,
                        6400.0,
                        True,
                    )
                ]
            )
    return progress


# ---- text from elsewhere

NASTY = [
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "<!--<script>",
    "--!><svg/onload=alert(1)>",
    "]]></style></textarea><b>",
    "&lt;b&gt; &amp;amp;",
    "\x1b[31mred\x00\x08",
    "half \ud800 of a pair",
    "$\\frac{1}{0}$",
    "\u202egnp.exe",
    "line\r\nbreak\u2028end",
    "/etc/passwd",
    "{now} {0} %s",
]
texts = st.one_of(st.sampled_from(NASTY), st.text(st.characters(exclude_categories=()), max_size=40))


class Skeleton(HTMLParser):
    "Tags with the names of their attributes, and the text between"

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.words, self.alts = [], "", ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self.alts += "".join(value or "" for name, value in attrs if name == "alt")

    def handle_data(self, data):
        self.words += data

    def handle_comment(self, data):
        self.tags.append(("comment", ()))

    handle_decl = handle_pi = unknown_decl = handle_comment


def told_by(name, metric, note, reason, place, path):
    "A failed run in which every word comes from somebody else"
    progress = Progress().add([STARTED._replace(name=name, monitor=metric, device=place)])
    train(progress, 1, 20, metric)
    progress.add([Note("warning", note, 20, "x"), Ended("failed", 20, 2, reason, 1.79e9)])
    return progress, place, path


HARMLESS = Skeleton(report_html(*told_by("a", "b", "c", "d", "e", "f"))).tags


def other_words(*words):
    "Words that do not coincide with the names of the losses or with each other"
    return len({plain(w) for w in words}) == len(words) and not {"train loss", "valid loss"} & {
        plain(w) for w in words
    }


@examples(40)
@given(name=texts, metric=texts, note=texts, reason=texts, place=texts, path=texts)
def test_no_text_changes_the_report(name, metric, note, reason, place, path):
    assume(metric.strip() and reason and place and path and other_words(metric, note, reason))
    page = report_html(*told_by(name, metric, note, reason, place, path))
    page.encode("utf-8")
    found = Skeleton(page)
    assert found.tags == HARMLESS
    for text in (name, metric, note, reason, place, path):
        assert plain(text) in found.words
    assert plain(metric) in found.alts


@given(text=texts)
def test_escaped_text_is_inert_everywhere(text):
    written = escape(text)
    assert not set(written) & set("<>\"'\x00\x1b\u202e\ud800")
    inside = Skeleton(f'<i title="{written}">{written}</i>')
    assert inside.words == plain(text) and inside.tags == [("i", ("title",))]
    assert json.loads(json_text([text])) == [text] and not set(json_text([text])) & set("<>&")


@examples(40, fixtures=True)
@given(name=texts, metric=texts, note=texts, reason=texts, place=texts, path=texts)
def test_no_text_breaks_a_page_that_holds_the_widget(wired, name, metric, note, reason, place, path):
    progress, place, path = told_by(name, metric, note, reason, place, path)
    panel, wire = wired(TrainPanel, progress, place=place, run_path=path)
    state = panel.widget.get_state()
    bare = {key: value for key, value in state.items() if isinstance(value, str)}
    page = f"<body><script type='application/json'>{json.dumps(bare)}</script><p>after</p>"  # as a careless exporter does
    found = Skeleton(page)
    assert [tag for tag, _ in found.tags] == ["body", "script", "p"] and found.words.endswith("after")
    face = json.loads(state["whole"])["face"]
    assert face["name"] == plain(name) and face["metrics"] == [plain(metric)]
    assert ["warning", plain(note)] in face["notes"]
    progress.add([State("training", 20)])
    panel.update()
    panel.close()
    assert all("<" not in json.dumps(message) for message in wire.sent)
    report_text(progress, place, path).encode("utf-8")


def test_exported_page_holds_the_state(wired):
    progress, *_ = told_by(NASTY[0], NASTY[1], NASTY[2], NASTY[3], "", "")
    panel, _ = wired(TrainPanel, progress)
    state = ipywidgets.embed.dependency_state([panel.widget], drop_defaults=False)
    page = ipywidgets.embed.embed_snippet(views=[panel.widget], state=state)
    assert (
        page.count("</script>") == Skeleton(page).tags.count(("script", ("type",))) + 2
    )  # two more load the manager
    assert "alert(1)</script>" not in page


def test_script_and_style_can_stand_in_a_page():
    views = TrainPanel.View, RunsPanel.View
    for text in (*(view._esm for view in views), views[0]._css):
        assert not any(end in text for end in ("</script", "<script", "<!--", "</style"))
    ours = "".join(view._esm.split("// What the panels share")[1] for view in views)
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "https:", "http:"):
        assert way not in ours


def test_a_path_as_a_name_is_only_a_name(tmp_path):
    file = tmp_path / "secret.txt"
    file.write_text("do not tell")
    bundle = report_bundle(Progress(str(file)))
    assert "do not tell" not in str(bundle) and str(file) in bundle["text/plain"]


# ---- what is sent


def test_only_what_is_new_is_sent(wired):
    progress = train(Progress().add([STARTED]), 1, 5)
    panel, wire = wired(TrainPanel, progress)
    assert not panel.update() and wire.sent == []
    train(progress, 6, 8)
    assert panel.update()
    (news,) = wire.news()
    assert news["curves"] == {"train loss": [1, 5, [6, 7, 8], [2 / 6, 2 / 7, 2 / 8]]}
    assert (
        news["face"]["step"] == 8 and not {"name", "state", "notes", "machine", "axis"} & news["face"].keys()
    )
    progress.add([State("paused", 8)])
    panel.update()
    (news,) = wire.news()
    assert news["face"]["state"] == "paused" and news["curves"] == {}


def test_a_followed_panel_rests_but_shows_a_new_state_at_once(wired):
    progress = Progress().add([STARTED])
    panel, wire = wired(TrainPanel, progress)
    train(progress, 1, 1)
    assert panel.follow("training") and len(wire.news()) == 1
    train(progress, 2, 3)
    assert not panel.follow("training") and wire.news() == []  # it rests
    progress.add([State("paused", 3)])
    assert panel.follow("paused")
    assert wire.news()[-1]["face"]["state"] == "paused"


def rebuilt(messages, curves=None):
    "The curves that a page has after `messages`"
    curves = curves or {}
    for message in messages:
        for name, (stride, start, *new) in message["curves"].items():
            held = [*curves.get(name, [stride])[1:], [], [], []]
            curves[name] = [stride, *(old[:start] + part for old, part in zip(held, new, strict=False))]
    return curves


def as_told(progress):
    known = lambda values: [v if math.isfinite(v) else None for v in values]
    curves = {**progress.curves, "learning rate": progress.rates.curve}
    return {
        name: [c.stride, c.x, known(c.y), *([known(c.mean)] if c.stride > 1 else [])]
        for name, c in curves.items()
    }


def test_page_follows_thinning_and_going_back(wired):
    progress = Progress()
    progress.curves["train loss"] = Curve(limit=64)
    progress.add([STARTED._replace(steps=2000, epochs=200)])
    panel, wire = wired(TrainPanel, progress)
    messages = [json.loads(panel.widget.get_state("whole")["whole"])]
    for first in range(1, 1000, 7):
        train(progress, first, first + 6)
        panel.update()
    assert progress.curves["train loss"].version >= 4
    messages += wire.news()
    assert rebuilt(messages) == as_told(progress)
    progress.add([STARTED._replace(step=500, epoch=50, steps=2000, epochs=200)])  # goes on from a checkpoint
    panel.update()
    train(progress, 501, 507)
    panel.update()
    messages += wire.news()
    assert rebuilt(messages) == as_told(progress)
    assert [m["seq"] for m in messages] == list(range(1, len(messages) + 1))


def test_whole_state_equals_the_curves_after_thinning(wired):
    progress = Progress()
    progress.curves["train loss"] = Curve(limit=32)
    panel, _ = wired(TrainPanel, train(progress.add([STARTED]), 1, 700))
    whole = json.loads(panel.widget.get_state()["whole"])
    assert rebuilt([whole]) == as_told(progress)


def test_losses_that_are_not_numbers_leave_gaps(wired):
    progress = train(Progress().add([STARTED]), 1, 3)
    panel, wire = wired(TrainPanel, progress)
    values = [math.nan, math.inf, -math.inf, 0.5]
    progress.add([Step(4 + i, 0, loss, 1e-3, 64, 0.05, 0.0) for i, loss in enumerate(values)])
    panel.update()
    (news,) = wire.news()
    assert news["curves"]["train loss"][3] == [None, None, None, 0.5]
    report_html(progress)


def test_a_new_page_gets_everything_while_the_run_goes_on(wired):
    progress = Progress()
    progress.curves["train loss"] = Curve(limit=128)
    panel, _ = wired(TrainPanel, progress.add([STARTED._replace(steps=10**6, epochs=10**5)]))
    wrong, over = [], threading.Event()

    def ask():
        while not over.is_set():
            curves = json.loads(panel.widget.get_state("whole")["whole"])["curves"]
            for _, _, x, y, *_ in curves.values():
                if len(x) != len(y) or x != sorted(set(x)):
                    wrong.append((x, y))

    target_check = threading.Thread(target=ask)
    target_check.start()
    for first in range(1, 6000, 5):
        train(progress, first, first + 4)
        panel.update()
    over.set()
    target_check.join()
    assert wrong == []


def test_a_page_that_missed_something_is_sent_the_whole(wired):
    progress = train(Progress().add([STARTED]), 1, 5)
    panel, wire = wired(TrainPanel, progress)
    wire.click({"ready": 1})
    assert not panel.update() and wire.sent == []  # it has everything
    train(progress, 6, 6)
    panel.update()
    wire.news()
    wire.click({"ready": 1})
    assert wire.sent == []  # nothing is sent from the callback, which may run in another thread
    panel.update()
    (data,) = wire.sent
    assert data["method"] == "update" and rebuilt(wire.news()) == as_told(progress)


def test_the_end_is_sent_whole_and_stays_available(wired):
    progress = train(Progress().add([STARTED]), 1, 30)
    panel, wire = wired(TrainPanel, progress)
    progress.add([Saved(30, "c", 1, 0.1, True, 1.79e9), Ended("finished", 30, 3, "", 1.79e9)])
    panel.close()
    (whole,) = wire.news()
    assert rebuilt([whole]) == as_told(progress)
    assert not whole["face"]["live"] and whole["face"]["state"] == "finished"
    wire.click({"ready": 0})  # a page that comes after the end
    assert rebuilt(wire.news()) == as_told(progress)


def test_a_zoom_gets_closer_points_at_the_next_update(wired):
    progress = Progress()
    progress.curves["train loss"] = Curve(limit=64)
    panel, wire = wired(TrainPanel, train(progress.add([STARTED]), 1, 1000))
    wire.click({"piece": [500, 540]})
    assert wire.sent == []  # nothing is sent from the callback, which may run in another thread
    panel.update()
    (answer,) = wire.news()
    (loss,) = answer["piece"]["curves"].values()
    assert loss["x"] == list(range(500, 541)) and loss["y"] == loss["mean"] == [
        2 / x for x in range(500, 541)
    ]
    assert loss["stride"] == 1 and sum(500 <= x <= 540 for x in progress.curves["train loss"].x) < 10
    panel.update()
    assert wire.news() == []
    panel.close()
    wire.news()
    wire.click({"piece": [500, 540]})  # the run is over: nothing changes any more
    assert wire.news()[0]["piece"] == answer["piece"]


@pytest.mark.parametrize(
    "piece", [None, 5, [5], [9, 5], ["a", "b"], [math.nan, 1], [0, math.inf], {"from": 1}]
)
def test_a_range_that_is_none_is_not_answered(wired, piece):
    panel, wire = wired(TrainPanel, train(Progress().add([STARTED]), 1, 10))
    wire.click({"piece": piece})
    panel.update()
    assert wire.sent == []


def test_base_and_changes_of_the_learning_rate_are_told(wired):
    progress = Progress().add([STARTED._replace(lr=4e-3)])
    panel, _ = wired(TrainPanel, train(progress, 1, 5))
    assert panel.facts()["base"] == ["0.004", "0.25"] and panel.facts()["by_hand"] == []
    progress.add([LrChanged(5, 2e-3, 8e-3), Step(6, 0, 0.1, 2e-3, 64, 0.06, 0.001)])
    assert panel.facts()["base"] == ["0.008", "0.25"] and panel.facts()["by_hand"] == [[5, "0.002", "0.001"]]
    progress.add([LrChanged(6, 3e-3)])  # a run of an earlier version does not tell its base
    assert panel.facts()["base"] == ["", ""] and progress.lr == 3e-3
    progress.add([STARTED._replace(step=5)])  # goes on from a checkpoint before it
    assert len(panel.facts()["by_hand"]) == 1 and progress.rates.curve.x[-1] <= 5


def test_buttons_are_off_when_the_cell_is_over_whatever_the_run_said(wired):
    panel, wire = wired(TrainPanel, train(Progress().add([STARTED]), 1, 5))
    panel.close()
    assert not wire.news()[0]["face"]["live"]


# ---- what is clicked


def test_clicks_wait_in_the_queue(wired):
    panel, wire = wired(TrainPanel, Progress().add([STARTED]))
    clicks = [{"command": c} for c in ("pause", "resume", "save")]
    for click in [
        *clicks,
        {"command": "lr", "value": 1e-4},
        {"command": "lr", "value": 1},
        {"command": "stop"},
    ]:
        wire.click(click)
    waiting = [panel.commands.get_nowait() for _ in range(panel.commands.qsize())]
    assert waiting == [Pause(), Resume(), Save(), SetLr(1e-4), SetLr(1.0), Stop()]
    assert wire.sent == []


@pytest.mark.parametrize("value", [0, -1, "0.1", None, True, [1], math.nan, math.inf])
def test_a_learning_rate_that_is_none_is_dropped(wired, value):
    panel, wire = wired(TrainPanel, Progress().add([STARTED]))
    wire.click({"command": "lr", "value": value})
    assert panel.commands.empty()


@pytest.mark.parametrize(
    "content", [{}, {"command": "rm"}, {"command": None}, {"ready": "x"}, {"command": ["lr"]}, "pause", None]
)
def test_messages_of_no_meaning_do_nothing(wired, caplog, content):
    panel, wire = wired(TrainPanel, Progress().add([STARTED]))
    wire.click(content)
    assert panel.commands.empty() and caplog.text == ""


# ---- what stays


def test_report_is_small_and_needs_nothing(wired):
    progress = Progress().add([STARTED._replace(epochs=300, steps=3000)])
    page = report_html(train(progress, 1, 3000), "this kernel", "runs/x")
    assert len(page) < 40_000
    found = Skeleton(page)
    assert found.tags.count(("img", ("alt", "style", "src"))) == 2
    assert not {"script", "style", "link"} & {tag for tag, _ in found.tags}
    assert "http" not in page and "class=" in page
    assert "train loss from" in found.alts and "accuracy from" in found.alts


def test_report_says_how_it_ended():
    progress = train(Progress().add([STARTED]), 1, 12)
    progress.add([Ended("failed", 12, 1, "the loss became nan at step 13", 1.79e9)])
    for text in (report_html(progress), report_text(progress)):
        assert "failed" in text and "epoch 1 of 3" in text and "the loss became nan at step 13" in text


def test_report_of_a_run_that_only_began():
    assert "<img" not in report_html(Progress("x")) and report_text(Progress("x")).startswith("waiting  x")


def test_report_leaves_the_users_matplotlib_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"text.usetex": True, "font.family": ["fantasy"], "figure.dpi": 10}):
        strange = report_html(train(Progress().add([STARTED]), 1, 20))
    assert strange == report_html(train(Progress().add([STARTED]), 1, 20))
    assert dict(matplotlib.rcParams) == before


# ---- the table of runs


def write(folder, name, steps, state=None, **options):
    "A run on the disk, which goes on where no state is given"
    run = Run.create(folder, name, {"epochs": 3, **options})
    run.start_writing()
    told = []

    class Told:
        add = staticmethod(told.extend)

    train(Told, 1, steps)
    run.append([STARTED._replace(name=run.name), *told])
    if state:
        run.append([Ended(state, steps, steps // 10, "a reason", 1.79e9)])
        run.stop_writing()
    return run


@pytest.fixture
def tabled(tmp_path, wired):
    "A table of runs, and the wire that it talks to"
    return lambda **does: wired(RunsPanel, tmp_path, **does)


def answers(wire):
    sent, wire.sent = wire.sent, []
    return [json.loads(data["content"]["news"]) for data in sent]


def test_a_table_tells_what_changed_since_any_version(tmp_path):
    one, two = write(tmp_path, "one", 10), write(tmp_path, "two", 20, "finished")
    table = RunsTable(tmp_path)
    table.refresh()
    first = table.version
    assert {row["name"] for row in table.news()["rows"]} == {one.name, two.name}
    table.refresh()
    assert table.version == first  # nothing happened, nothing is new
    one.append([Step(11, 1, 0.1, 1e-3, 64, 0.2, 0.0)])
    three = write(tmp_path, "three", 5, "stopped")
    table.refresh()
    news = table.news(first)
    assert {row["name"] for row in news["rows"]} == {one.name, three.name} and three.name in news["order"]
    two.delete()
    table.refresh()
    assert two.name not in table.news(news["version"])["order"] and not table.news(news["version"])["rows"]
    assert len(table.news()["rows"]) == 2  # a page that begins anew has everything
    one.stop_writing()


def test_a_row_knows_resumed_and_dead_runs(tmp_path):
    run = write(tmp_path, "one", 20, "stopped", lr=0.5)
    table = RunsTable(tmp_path)
    state = lambda: (table.refresh(), table.news()["rows"][0])[1]
    assert state()["resumable"] and state()["changed"] == "lr 0.5" and state()["time"]
    run.start_writing()
    run.append([STARTED._replace(step=10, epoch=1), Step(11, 1, 0.1, 1e-3, 64, 0.01, 0.0)])
    assert state()["state"] == "training" and state()["alive"] and not state()["resumable"]
    assert table.news(0, {run.name: -1})["curves"][run.name]["lines"]["train loss"][1] == list(range(1, 12))
    lock = json.loads((run.path / "lock").read_text())
    run.stop_writing()  # what a killed process leaves is its record
    (run.path / "lock").write_text(json.dumps(lock | {"pid": 2**22 + 1, "started": 0.0}))
    assert state()["state"] == "dead" and state()["resumable"] and "process is gone" in state()["why"]


def test_two_pages_are_answered_as_they_ask(tabled, tmp_path):
    run = write(tmp_path, "one", 10)
    panel, wire = tabled()
    wire.click({"since": 0, "curves": {run.name: -1}})
    wire.click({"since": 1, "curves": {}})
    wire.click({"since": 1, "curves": {run.name: panel.table._watched[run.name].place}})
    whole, little, drawn = answers(wire)
    assert len(whole["rows"]) == 1 and run.name in whole["curves"]
    assert not little["rows"] and not little["curves"] and not drawn["curves"]
    run.stop_writing()


@pytest.mark.parametrize(
    "content",
    [
        None,
        "stop",
        {},
        {"since": "x", "curves": {}},
        {"since": 0},
        {"since": 0, "curves": [], "do": "delete"},
    ],
)
def test_questions_of_no_meaning_get_no_answer(tabled, caplog, content):
    _, wire = tabled()
    wire.click(content)
    assert wire.sent == [] and caplog.text == ""


def test_clicks_on_runs_call_the_plain_functions(tabled, tmp_path):
    done, running = write(tmp_path, "done", 30, "finished"), write(tmp_path, "running", 10)
    shown, inbox = [], running.inbox()
    _, wire = tabled(attach=shown.append)

    def click(what, *names):
        wire.click({"since": 0, "curves": {}, "do": what, "names": [*names]})
        return answers(wire)[-1]

    assert click("stop", running.name, done.name)["said"].startswith(f"The run {done.name} is finished")
    assert inbox() == Stop() and inbox() is None
    click("attach", done.name)
    assert [run.name for run in shown] == [done.name]
    assert (
        click("resume", done.name)["said"] == "" and "resume" not in click("", "")["offers"]
    )  # was not handed in
    for name in (running.name, "../..", "..", ""):
        assert click("delete", name)["said"] and running.path.exists()
    assert click("delete", done.name)["order"] == [running.name] and not done.path.exists()
    running.stop_writing()


@examples(25, fixtures=True)
@given(metric=texts, option=texts, reason=texts)
def test_no_text_breaks_a_page_that_holds_the_table(tmp_path_factory, metric, option, reason):
    folder = tmp_path_factory.mktemp("runs")
    run = Run.create(folder, "x", {"loss": option})
    run.start_writing()
    run.append([STARTED._replace(monitor=metric), Epoch(1, 1, 1.0, 1.0, {metric: 0.5}, 1e-3, 1.0, 1.0, True)])
    run.append([Ended("failed", 1, 1, reason, 1.79e9)])
    run.stop_writing()
    panel = RunsPanel(folder)
    whole = panel.widget.get_state("whole")["whole"]
    panel.widget.close()
    assert not set(whole) & set("<>&") and json.loads(whole)["rows"][0]["why"] == plain(reason)
