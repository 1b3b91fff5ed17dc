"What the page is told of a sweep, what a click becomes, and what stays in a saved notebook: no browser is needed here"

import json
import math
import random
import re
import time
from statistics import median

import optuna
import pytest
from helpers import Wire, some_quick
from test_panel import NASTY, Skeleton

from trainopt_nb.base.cell_options import cell_options
from trainopt_nb.base.errors import RunError
from trainopt_nb.base.option_texts import option_label
from trainopt_nb.base.options import declared
from trainopt_nb.base.texts import wording
from trainopt_nb.base.tunables import find_tunables
from trainopt_nb.events.progress import Progress
from trainopt_nb.events.records import Ended, Note, Pause, Resume, State, Stop, from_lines, to_lines
from trainopt_nb.panels.folded_trials import FoldedTable, trial_rows
from trainopt_nb.panels.runs_panel import RunsPanel
from trainopt_nb.panels.runs_rows import TEXTS
from trainopt_nb.panels.sweep_panel import SweepPanel, sweep_facts
from trainopt_nb.panels.watched_runs import RunsTable
from trainopt_nb.runs.card import plain
from trainopt_nb.runs.run import Run
from trainopt_nb.runs.summary import read_summary
from trainopt_nb.runs.table import list_runs
from trainopt_nb.search.parse_space import parse_space
from trainopt_nb.search.space_record import to_json
from trainopt_nb.sweeps.importance import FEWEST, Importance
from trainopt_nb.sweeps.lines import method_title
from trainopt_nb.sweeps.progress import sweep_of
from trainopt_nb.sweeps.records import (
    AddValue,
    ContinueTrial,
    KeepValues,
    Narrow,
    NarrowTo,
    SetWorkers,
    SpaceChanged,
    Spread,
    StopTrial,
    SweepStarted,
    TrialEnded,
    TrialReport,
    TrialStarted,
    TryValues,
    Widen,
    WorkersChanged,
)
from trainopt_nb.sweeps.report import best_trials, sweep_bundle, sweep_html, sweep_text, trial_table

SPACE = parse_space(
    "lr=1e-5..1e-1:log schedule=constant|cosine|onecycle weight_decay=0..0.1 batch_size=16..256"
)
BEGAN = SweepStarted(
    "digits", ["accuracy"], ["max"], to_json(SPACE), "TPE", "", "median", "", 200, None, 2, 8, 0, 1000.0
)


def quality(values):
    "The accuracy that a training with these values ends with"
    far = math.log10(values["lr"]) + 2.5
    return 0.985 - 0.03 * far**2 - 0.01 * (values["schedule"] == "constant")


def searched(count, began=BEGAN, space=SPACE, seed=0):
    "The log of a sweep in which Optuna's own sampler and pruner chose, with the curve of each trial"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2),
    )
    yield began
    for number in range(count):
        trial, now = study.ask(), 1000.0 + 2 * number
        values = space.draw(trial)
        yield TrialStarted(number, values, f"trials/{number}", number % 2, "sampled", now)
        for epoch in range(1, 9):
            reached = quality(values) - 0.5 * math.exp(-epoch)
            yield TrialReport(number, epoch, [reached], 0.2 * epoch)
            trial.report(reached, epoch)
            if trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                yield TrialEnded(
                    number,
                    "pruned",
                    [reached],
                    epoch,
                    0.2 * epoch,
                    "worse than the median",
                    now + 0.2 * epoch,
                )
                break
        else:
            study.tell(trial, reached)
            yield TrialEnded(number, "done", [reached], 8, 1.6, "", now + 1.6)


@pytest.fixture(scope="module")
def log():
    return list(searched(40))


def commands(panel):
    found = []
    while not panel.commands.empty():
        found.append(panel.commands.get_nowait())
    return found


# ---- the progress of a sweep


def test_the_progress_of_a_sweep_survives_its_log(log):
    live, read = Progress().add(log), Progress().add(from_lines(to_lines(log)))
    of_live, of_read = sweep_of(live), sweep_of(read)
    assert of_live.counts == of_read.counts and of_live.best == of_read.best and of_live.ended == 40
    assert {n: vars(row) for n, row in of_live.trials.items()} == {
        n: vars(row) for n, row in of_read.trials.items()
    }
    done = {n: row.result[0] for n, row in of_live.trials.items() if row.state == "done"}
    assert of_live.best == max(done, key=done.get) and of_live.pruned == 40 - len(done)


def test_the_best_of_a_minimum_is_the_smallest_and_not_finite_is_never_best():
    began = BEGAN._replace(objectives=["loss"], directions=["min"])
    results = [0.4, math.nan, -math.inf, 0.2, 0.3]
    ends = [TrialEnded(i, "done", [value], 8, 1.0, "", 1001.0 + i) for i, value in enumerate(results)]
    assert sweep_of(Progress().add([began, *ends])).best == 3


def test_a_trial_that_is_taken_up_again_keeps_its_curve_and_counts_once():
    start = TrialStarted(0, {"lr": 1e-3}, "trials/0", 0, "sampled", 1000.0)
    progress = Progress().add([BEGAN, start, TrialReport(0, 1, [0.5], 0.2)])
    progress.add([TrialEnded(0, "pruned", [0.5], 1, 0.3, "", 1000.3)])
    progress.add([start._replace(origin="continued", time=1010.0), TrialReport(0, 2, [0.9], 1.0)])
    s = sweep_of(progress)
    assert s.counts["training"] == 1 and s.ended == 0 and [r.step for r in s.trials[0].reports] == [1, 2]
    progress.add([start._replace(origin="retry", time=1020.0)])
    assert s.trials[0].reports == [] and s.counts["training"] == 1


def test_a_process_that_died_leaves_no_trial_running(log):
    progress = Progress().add([*log, TrialStarted(40, {"lr": 1e-3}, "trials/40", 0, "sampled", 1090.0)])
    progress.add(
        [TrialStarted(41, {"lr": 1e-3}, "", -1, "sampled", 1090.0)]
    )  # of another kernel, which lives
    progress.add([BEGAN._replace(done=40, time=2000.0)])
    s = sweep_of(progress)
    assert (s.trials[40].state, s.trials[41].state) == ("lost", "training")
    assert s.failed == 0 and s.ended == 40


def test_events_of_a_damaged_log_break_no_view():
    "The lines that say how a sweep and its trials began are gone"
    lost = [TrialReport(3, 1, [0.5], 0.1), TrialEnded(3, "done", [0.9], 8, 1.0, "", 5.0), Spread(9, [], [])]
    lost += [
        SpaceChanged({"dimensions": 7}, "", 0),
        WorkersChanged(3),
        TrialEnded(4, "done", None, 0, 1.0, "", 6.0),
    ]
    progress = Progress("x").add(lost)
    sweep_html(progress)
    panel = SweepPanel(progress)
    assert json.loads(panel.whole())["rows"].keys() == {"3", "4"} and panel.widget.close() is None
    foreign = Progress("x").add(
        [BEGAN._replace(space={"dimensions": {"lr": {"type": "float"}}, "first": {}}), *lost]
    )
    sweep_html(foreign), sweep_text(foreign)


# ---- summaries and tables


def test_a_sweep_is_a_row_of_the_table_of_runs(tmp_path, log):
    run = Run.create(tmp_path, "search", {}, type="sweep")
    run.start_writing()
    run.append([*log, State("paused", 40)])
    assert read_summary(run.path).unit == "trial"  # while it is written
    run.stop_writing()
    head, (cells,) = list_runs(tmp_path).rows()
    row = dict(zip(head, cells, strict=True))
    s = sweep_of(Progress().add(log))
    assert row["done"] == "40/200 trials" and row["best"] == f"trial {s.best}" and row["state"] == "dead"
    assert row["accuracy"] == f"{s.trials[s.best].result[0] * 100:.1f}%"
    table = RunsTable(tmp_path)
    table.refresh()
    (shown,) = table.news()["rows"]
    assert shown["done"] == [40, 200] and shown["unit"] == "trial" and shown["best"][2] == s.best
    assert "40/200 trials" in repr(Run(run.path)) and f"best trial {s.best}" in repr(Run(run.path))


def folded(folder, log):
    "A sweep on the disk that is written, with a directory for its trial 3"
    run = Run.create(folder, "search", {}, type="sweep", goals=[["accuracy", "max"]])
    trial = Run.create(run.path / "trials", "3", {}, type="trial", dated=False, number=3)
    run.start_writing()
    run.append(log)
    return run, trial


def test_the_trials_of_a_sweep_are_unfolded_on_demand(tmp_path, log):
    run, trial = folded(tmp_path, log)
    table = FoldedTable(tmp_path)
    table.refresh()
    assert table.news()["trials"] == {} and len(table.news()["rows"]) == 1
    told = table.news(trials={run.name: -1})["trials"][run.name]
    best = sweep_of(Progress().add(log)).best
    assert [row["number"] for row in told["rows"] if row["first"]] == [best] == [told["rows"][0]["number"]]
    states = [row["state"] for row in told["rows"]]
    assert len(states) == 40 and states == sorted(states, key=["finished", "pruned"].index)
    assert not table.news(trials={run.name: told["mark"]})["trials"]  # nothing is new
    run.append([TrialStarted(40, {"lr": 1e-3}, "trials/40", 0, "sampled", 2000.0)])
    table.refresh()
    now = table.news(trials={run.name: told["mark"]})["trials"][run.name]
    assert (now["rows"][0]["number"], now["rows"][0]["state"], now["rows"][0]["changed"]) == (
        40,
        "training",
        "lr 0.001",
    )
    assert table[f"{run.name}/trials/3"].path == trial.path
    for name in ("trials/7", "trials/../lock", "trials/.hidden", "../search", "trials"):
        with pytest.raises(RunError):
            table[f"{run.name}/{name}"]
    assert not table.news(trials={"gone": -1, "": 3})["trials"]
    run.stop_writing()


def test_a_sweep_of_many_trials_shows_the_best_and_says_how_many_are_left(tmp_path):
    run, _ = folded(tmp_path, list(searched(70)))
    rows = trial_rows(run.name, run.progress)
    assert len(rows["rows"]) == 50 and rows["more"] == 20
    run.stop_writing()


def test_a_trial_that_comes_again_stands_behind_the_others(tmp_path, log):
    lost = TrialStarted(40, {"lr": 1e-3}, "trials/40", 0, "sampled", 2000.0)
    run, _ = folded(
        tmp_path, [*log, lost, TrialEnded(40, "lost", None, 0, 0.2, "its worker was killed", 2001.0)]
    )
    last = trial_rows(run.name, run.progress)["rows"][-1]
    assert (last["number"], last["why"]) == (40, "its worker was killed")
    assert TEXTS[last["state"]] == "lost" != TEXTS["lost"]
    run.stop_writing()


def test_a_trial_of_the_table_is_stopped_by_its_sweep_and_not_deleted(tmp_path, log):
    run, trial = folded(tmp_path, log)
    panel = RunsPanel(tmp_path)
    panel.widget.comm = wire = Wire()
    name = f"{run.name}/trials/3"
    inbox = run.inbox()
    wire.click({"since": 0, "curves": {}, "trials": {run.name: -1}, "do": "stop", "names": [name]})
    assert inbox() == StopTrial(3)
    wire.click({"since": 0, "curves": {name: -1}, "do": "delete", "names": [name]})
    told = wire.news()
    assert len(told[0]["trials"][run.name]["rows"]) == 40
    assert "deleted with it" in told[1]["said"] and trial.path.is_dir()
    wire.click({"since": 0, "curves": {}, "trials": [run.name]})  # no page of ours
    assert not wire.news()
    panel.widget.close()
    run.stop_writing()


def test_a_sweep_that_goes_on_is_summarized_with_all_of_its_trials(tmp_path, log):
    run = Run.create(tmp_path, "search", {}, type="sweep")
    for part in (
        log,
        [
            BEGAN._replace(done=40, time=3000.0),
            *list(searched(45))[-9:],
            Ended("finished", 45, 0, "", 4000.0),
        ],
    ):
        run.start_writing()
        run.append(part)
        run.stop_writing()
    assert (run.summary.state, run.summary.epoch) == ("finished", sweep_of(run.progress).ended)
    assert run.summary.epoch > 40 and run.summary.metrics.keys() == {"accuracy"}
    page = run._repr_mimebundle_()["text/html"]
    assert page.count("<img") == 3 and 'aria-label="Sweep"' in page


# ---- what is sent


def test_a_new_trial_costs_one_row(wired, log):
    progress = Progress().add(log)
    panel, wire = wired(SweepPanel, progress)
    assert not panel.update()
    progress.add([TrialStarted(40, {"lr": 1e-3}, "trials/40", 0, "queued", 1100.0)])
    progress.add([TrialReport(40, 1, [0.6], 0.2)])
    panel.update()
    (news,) = wire.news()
    assert news["rows"].keys() == {"40"} and news["rows"]["40"]["reports"] == [[1, 0.6]]
    assert not {"axes", "ranges", "importance", "notes", "name"} & news["face"].keys()
    whole = json.loads(panel.whole())
    assert whole["rows"].keys() == {str(n) for n in range(41)}


def test_the_page_has_what_the_log_says_after_any_number_of_messages(wired, log):
    progress = Progress()
    panel, wire = wired(SweepPanel, progress)
    rows, face = {}, {}
    for event in log:
        progress.add([event])
        panel.update()
    for news in wire.news():
        rows |= news.get("rows", {})
        face |= news["face"]
    whole = json.loads(panel.whole())
    assert rows == whole["rows"] and face.items() <= whole["face"].items()
    again, _ = wired(SweepPanel, Progress().add(log))
    assert json.loads(again.whole())["rows"] == rows


def test_rows_of_a_log_that_was_replaced_are_gone(wired, log):
    progress = Progress().add(log)
    panel, wire = wired(SweepPanel, progress)
    progress.reset()
    progress.add([BEGAN, TrialStarted(2, {"lr": 1e-3}, "", 0, "sampled", 1000.0)])
    panel.update()
    (news,) = wire.news()
    assert news["rows"]["2"]["state"] == "training" and news["rows"]["5"] is None
    assert json.loads(panel.whole())["rows"].keys() == {"2"}


def test_no_number_that_json_lacks_reaches_the_page(wired):
    progress = Progress().add([BEGAN._replace(time=math.inf)])
    progress.add(
        [TrialStarted(0, {"lr": math.nan, "x": math.inf, "t": [1, (2, 3)]}, "", 0, "sampled", math.nan)]
    )
    progress.add([TrialReport(0, 1, [math.nan], math.inf), TrialReport(0, 2, [], 0.1)])
    progress.add([TrialEnded(0, "done", [-math.inf], 8, math.inf, "", math.nan)])
    panel, _ = wired(SweepPanel, progress)
    row = json.loads(panel.whole(), parse_constant=pytest.fail)["rows"]["0"]
    assert row["values"] == {"lr": None, "x": None, "t": "(1, (2, 3))"} and row["result"] == [None]
    sweep_html(progress)


def test_an_update_of_500_trials_takes_less_than_3_ms(wired):
    events = list(searched(24))
    starts = [e for e in events if isinstance(e, TrialStarted)]
    progress, draws = Progress().add(events[:1]), random.Random(0)
    for number in range(500):
        values = draws.choice(starts).values
        progress.add([TrialStarted(number, values, "", 0, "sampled", 1000.0 + number)])
        progress.add([TrialReport(number, step, [draws.random()], 0.1 * step) for step in range(1, 9)])
        progress.add([TrialEnded(number, "done", [draws.random()], 8, 0.9, "", 1000.9 + number)])
    panel, _ = wired(SweepPanel, progress)
    spent = []
    for number in range(500, 530):
        progress.add([TrialStarted(number, starts[0].values, "", 0, "sampled", 1600.0 + number)])
        before = time.process_time()
        assert panel.news()
        spent.append(time.process_time() - before)
    assert median(spent) < 0.003 and len(panel.news() or "") < 2000


# ---- texts


def test_every_text_is_there_in_both_languages_and_shown():
    english, chinese = (wording("sweep", code=code) for code in ("en", "zh-CN"))
    assert english.keys() == chinese.keys()
    fields = lambda text: sorted(set(re.findall(r"{(\w+)}", text)))
    assert [key for key in english if fields(english[key]) != fields(chinese[key])] == []
    same = {key for key in english if english[key] == chinese[key]}
    assert same == set()


def test_the_panel_speaks_the_language_of_the_page(wired, log, monkeypatch):
    monkeypatch.setenv("TRAINOPT_LANGUAGE", "zh-CN")
    panel, _ = wired(SweepPanel, Progress().add(log))
    face = json.loads(panel.whole())["face"]
    assert face["headline"].startswith("40 / 200 次试验") and "最佳 accuracy" in face["figures"][0][1]
    assert re.fullmatch(r"\+[\d.]+", face["figures"][0][2]) and "较试验" in face["figures"][0][4]
    assert "最佳值" in sweep_html(Progress().add(log))


def with_text(log, text):
    "The log of a sweep that has a text of others wherever one may stand"
    began = BEGAN._replace(name=text, objectives=[text], sampler=text, pruner=text)
    odd = [TrialStarted(40, {text: text, "lr": 1e-3}, text, 0, "queued", 1100.0)]
    odd += [TrialEnded(40, "failed", None, 0, 0.1, text, 1101.0), Note("warning", text, 1, "x")]
    return Progress().add([began, *log[1:], *odd])


@pytest.fixture(scope="module")
def tags_of_the_card(log):
    "Those of a card with a text that is as good as none"
    return Skeleton(sweep_html(with_text(log, "a"), run_path="a")).tags


@pytest.mark.parametrize("nasty", some_quick(NASTY, *NASTY[::4]))
def test_no_text_changes_the_card_or_the_page(wired, log, tags_of_the_card, nasty):
    page = sweep_html(with_text(log, nasty), run_path=nasty)
    assert Skeleton(page).tags == tags_of_the_card
    assert plain(nasty) in Skeleton(page).words
    panel, wire = wired(SweepPanel, with_text(log, nasty))
    assert json.loads(panel.whole())["face"]["name"] == plain(nasty)
    panel.update()
    assert "<" not in panel.whole() and all("<" not in json.dumps(message) for message in wire.sent)
    sweep_text(with_text(log, nasty)).encode("utf-8")


def test_the_script_of_the_panel_makes_no_html_from_text():
    ours = SweepPanel.View._esm.split("// What the panels share")[1]
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "https:", "http:"):
        assert way not in ours
    assert "</style" not in SweepPanel.View._css and ".tonb-sweep" in SweepPanel.View._css


# ---- what is clicked


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"command": "pause"}, [Pause()]),
        ({"command": "resume"}, [Resume()]),
        ({"command": "stop"}, [Stop()]),
        ({"command": "workers", "value": 4}, [SetWorkers(4)]),
        ({"command": "stop_trial", "value": 12}, [StopTrial(12)]),
        ({"command": "continue_trial", "value": 12}, [ContinueTrial(12)]),
        ({"command": "continue_trial", "value": "12"}, []),
        ({"command": "narrow_to", "trials": [1, 2]}, [NarrowTo([1, 2])]),
        ({"command": "range", "name": "lr", "low": 1e-4, "high": 0.1}, [Narrow("lr", 1e-4, None)]),
        (
            {"command": "range", "name": "lr", "low": 1e-6, "high": 1e-2},
            [Widen("lr", 1e-6, None), Narrow("lr", None, 1e-2)],
        ),
        (
            {"command": "range", "name": "batch_size", "low": 31.7, "high": 256},
            [Narrow("batch_size", 32, None)],
        ),
        ({"command": "choices", "name": "schedule", "kept": [1]}, [KeepValues("schedule", ["cosine"])]),
        (
            {"command": "try", "values": {"lr": 0.01, "schedule": 2, "batch_size": 64.0}},
            [TryValues({"lr": 0.01, "schedule": "onecycle", "batch_size": 64})],
        ),
        ({"command": "range", "name": "lr", "low": 0.1, "high": 1e-4}, []),
        ({"command": "range", "name": "lr", "low": -1, "high": 1e-4}, []),
        ({"command": "range", "name": "schedule", "low": 0, "high": 1}, []),
        ({"command": "range", "name": ["lr"], "low": 0, "high": 1}, []),
        ({"command": "choices", "name": "schedule", "kept": []}, []),
        ({"command": "choices", "name": "schedule", "kept": [9, "x"]}, []),
        ({"command": "try", "values": {"unknown": 1}}, []),
        ({"command": "try", "values": {"schedule": 7}}, []),
        ({"command": "workers", "value": True}, []),
        ({"command": "workers", "value": 0}, []),
        ({"command": "narrow_to", "trials": ["1"]}, []),
        ({"command": "SetLr", "lr": 1}, []),
        ({"do": "open", "trial": 1}, []),
        ({}, []),
    ],
)
def test_a_click_becomes_a_command(wired, log, message, expected):
    panel, wire = wired(SweepPanel, Progress().add(log))
    wire.click({"protocol": 1, "language": "en", **message})
    assert commands(panel) == expected


def test_a_choice_that_was_dropped_comes_back(wired, log):
    smaller = SPACE.keep("schedule", "cosine", "onecycle")
    panel, wire = wired(SweepPanel, Progress().add([*log, SpaceChanged(to_json(smaller), "", 40)]))
    face = json.loads(panel.whole())["face"]
    assert face["ranges"]["schedule"] == [False, True, True]
    wire.click({"command": "choices", "name": "schedule", "kept": [0, 2]})
    assert commands(panel) == [
        AddValue("schedule", "constant"),
        KeepValues("schedule", ["constant", "onecycle"]),
    ]


def test_the_notebook_offers_what_it_can_and_a_refusal_is_shown(wired, log):
    opened = []

    def refuse(number):
        raise RunError(f"Trial {number} has no run.")

    panel, wire = wired(SweepPanel, Progress().add(log), open=opened.append, use=refuse)
    assert json.loads(panel.whole())["face"]["offers"] == ["open", "use"]
    for message in (
        {"do": "open", "trial": 3},
        {"do": "open", "trial": 999},
        {"do": "freeze", "trial": 3},
        {"do": "open", "trial": [3]},
    ):
        wire.click(message)
    assert not opened  # a click may arrive in another thread, and what it displays belongs to no cell
    panel.act()
    assert opened == [3]
    wire.click({"do": "use", "trial": 3})
    panel.act()
    panel.update()
    assert wire.news()[-1]["face"]["said"] == "Trial 3 has no run."
    wire.click({"do": "open", "trial": 4})
    panel.act()
    panel.update()
    assert wire.news()[-1]["face"]["said"] == ""


def test_each_click_says_what_it_did(wired, log):
    offers = {"open": lambda number: "told_open", "use": lambda number: "told_use"}
    panel, wire = wired(SweepPanel, Progress().add(log), **offers)
    told = []
    for what, trial in (("open", 3), ("use", 4), ("open", 5)):
        wire.click({"do": what, "trial": trial})
        panel.act()
        panel.update()
        told.append(wire.news()[-1]["face"]["told"])
    assert told == [
        "The run of trial 3 is shown below.",
        "When the sweep ends, `run` and `model` are those of trial 4.",
        "The run of trial 5 is shown below.",
    ]


def test_a_sweep_that_ended_takes_no_commands_but_its_trials_open(wired, log):
    progress = Progress().add([*log, Ended("stopped", 40, 0, "stopped by hand", 1200.0)])
    panel, _ = wired(SweepPanel, progress, open=print)
    face = json.loads(panel.whole())["face"]
    assert not face["live"] and face["offers"] == ["open"] and ["info", "stopped by hand"] in face["notes"]


# ---- importance


def test_what_decides_comes_first_and_few_trials_say_nothing(log):
    ends = [i for i, event in enumerate(log) if isinstance(event, TrialEnded)]
    early = sweep_of(Progress().add(log[: ends[FEWEST - 2] + 1]))
    assert Importance().of(early) == {}
    shares = Importance().of(sweep_of(Progress().add(log)), now=True)
    assert (
        next(iter(shares)) == "lr"
        and sum(shares.values()) == pytest.approx(1)
        and shares.keys() == set(SPACE)
    )


def test_importance_as_it_goes_equals_importance_at_once(log):
    progress, rolling = Progress(), Importance()
    for event in log:
        progress.add([event])
        rolling.of(sweep_of(progress))
    at_once = Importance().of(sweep_of(Progress().add(log)), now=True)
    assert rolling.of(sweep_of(progress), now=True) == pytest.approx(at_once)


def test_importance_takes_changed_choices_and_conditional_values(log):
    wider = SPACE.add_value("schedule", "linear")
    more = [SpaceChanged(to_json(wider), "", 40)]
    for number in range(40, 60):
        values = {"lr": 3e-3, "schedule": "linear", "momentum": 0.5 + number / 200}
        more += [
            TrialStarted(number, values, "", 0, "queued", 1100.0),
            TrialEnded(number, "done", [0.9], 8, 1.0, "", 1101.0),
        ]
    shares = Importance().of(sweep_of(Progress().add([*log, *more])), now=True)
    assert shares.keys() == {*SPACE, "momentum"}


# ---- several objectives, and the static card


def test_the_front_is_that_of_optuna():
    draws, began = (
        random.Random(0),
        BEGAN._replace(objectives=["accuracy", "latency"], directions=["max", "min"]),
    )
    study = optuna.create_study(directions=["maximize", "minimize"])
    progress = Progress().add([began])
    for number in range(60):
        result = [round(draws.random(), 2), round(draws.random(), 2)]
        study.add_trial(optuna.trial.create_trial(values=result))
        progress.add([TrialEnded(number, "done", result, 8, 1.0, "", 1001.0 + number)])
    s = sweep_of(progress)
    ours = {tuple(s.trials[number].result) for number in s.front}
    assert ours == {tuple(trial.values) for trial in study.best_trials}
    assert best_trials(s)[0].number == s.best
    assert "Accuracy / latency" in sweep_html(progress)


def test_the_card_has_pictures_the_best_ten_and_plain_text(log):
    bundle = sweep_bundle(Progress().add([*log, Ended("finished", 40, 0, "", 1200.0)]), run_path="runs/a")
    page, text = bundle["text/html"], bundle["text/plain"]
    assert page.count("<img") == 3 and page.count("<tr>") == 11 and "<script" not in page
    assert all(alt for alt in re.findall(r'<img alt="([^"]*)"', page))
    assert len(page) < 250_000 and text.splitlines()[0].startswith("finished  digits  40 of 200 trials")
    assert "<img" not in sweep_html(Progress("x"))


# ---- words and units


def test_methods_have_the_names_of_the_literature_and_figures_their_units():
    began = BEGAN._replace(
        objectives=["accuracy", "latency"], directions=["max", "min"], sampler="tpe", pruner="none"
    )
    ends = [(0.9, 0.0181), (0.85, 0.0182), (0.8, 0.0183), (0.95, 0.29)]  # the last is slow, and on the front
    progress = Progress("digits").add([began])
    for number, values in enumerate(ends):
        progress.add(
            [
                TrialStarted(number, {"lr": 0.01 + number}, f"trials/{number}", 0, "sampled", 1.0),
                TrialEnded(number, "done", list(values), 8, 1.0, "", 2.0),
            ]
        )
    facts = sweep_facts(progress)
    assert [name for name, _ in facts["methods"]] == ["TPE", "no pruning"]
    assert facts["objectives"] == [["accuracy", "max", True, ""], ["latency", "min", False, "ms"]]
    assert "0.0181 ms" in sweep_text(progress, wording("card", "sweep", code="en")) or "0.0181 ms" in str(
        trial_table(progress, wording("card", "sweep", code="en"))
    )
    assert method_title("halving:4") == "successive halving 4" and method_title("MySampler") == "MySampler"


def test_a_value_of_the_cell_is_shown_by_its_own_name():
    known = declared(cell_options(find_tunables('hidden_size = 8  #@param {type:"integer", min:1, max:9}')))
    assert [option_label(each) for each in known.values()] == ["hidden_size"]
