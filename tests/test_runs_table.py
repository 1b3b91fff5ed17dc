"The table of runs: searched, sorted, grouped by task, compared, annotated and exported, the same everywhere"

import csv
import json

import pytest
import torch
from helpers import Wire
from torch import nn

from trainopt_nb.base.errors import OptionError, RunError
from trainopt_nb.base.texts import languages, wording
from trainopt_nb.events.records import Ended, Epoch, Started
from trainopt_nb.notebook.cli import main
from trainopt_nb.panels.runs_panel import RunsPanel
from trainopt_nb.runs.run import Run
from trainopt_nb.runs.table import RunTable, find_run, list_runs
from trainopt_nb.task.task import Task
from trainopt_nb.task.train_options import TrainOptions
from trainopt_nb.train.loop import Loop
from trainopt_nb.train.prepare import prepare
from trainopt_nb.train.task_record import task_record

LONG = "the loss is not finite (nan) at step 93: lower --lr, clip gradients with --clip-norm 1, or train with --precision fp32"


def record(folder, name, value, state="finished", monitor="accuracy", labels="9a0f", type="train", **options):
    "A run that has ended, validated on some labels"
    mode = "max" if monitor == "accuracy" else "min"
    seen = {"monitor": monitor, "mode": mode, "columns": 10, "valid": {"samples": 397}, "labels": labels}
    options = {"epochs": 4, "lr": 1e-3, "loss": "auto"} | options
    run = Run.create(folder, name, options, type=type, kind="classification", seen=seen, dated=False)
    run.start_writing()
    run.append([Started(name, 0, 0, 4, 10, 40, "cpu", "fp32", 2, 640, 9610, monitor, mode, 1.7e9)])
    metrics = {monitor: value} if monitor != "valid_loss" else {}
    run.append([Epoch(1, 10, 0.5, value if not metrics else 0.6, metrics, 1e-3, 4.0, 128.0, True)])
    run.append([Ended(state, 10, 1, LONG if state == "failed" else "all 4 epochs are done", 1.7e9)])
    run.stop_writing()
    run.add_facts(created=1.7e9 + len(list(folder.iterdir())))
    return run


@pytest.fixture
def folder(tmp_path):
    "Five runs of two tasks"
    runs = tmp_path / "runs"
    record(runs, "one", 0.91)
    record(runs, "two", 0.95, lr=1e-2, loss="focal")
    record(runs, "three", 0.4, "failed", lr=0.5)
    record(runs, "other", 0.99, labels="77b1")
    record(runs, "worse", 0.98, labels="77b1", lr=1e-2)
    return runs


def opened(folder):
    "A panel of the runs, and the wire to its page"
    panel, wire = RunsPanel(folder), Wire()
    panel.widget.comm = wire
    return panel, wire


def names(table):
    return [run.name for run in table]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", {"one", "two", "three", "other", "worse"}),
        ("focal", {"two"}),
        ("lr<=1e-3", {"one", "other"}),
        ("lr = 0.01 accuracy>96%", {"worse"}),
        ("state=failed", {"three"}),
        ("clip-norm", {"three"}),
        ("reason:finite", {"three"}),
        ("tag:base", {"one"}),
        ("tags=baseline", {"one"}),
        ("note:'plain model'", {"one"}),
        ('"plain model"', {"one"}),
        ("loss!=auto", {"two"}),
        ("time<1min o", {"one", "two", "other", "worse", "three"}),
        ("created>2023 lr=0.5", {"three"}),
        ("LR=0.5", {"three"}),
    ],
)
def test_a_query_finds_runs(folder, query, found):
    find_run("one", folder).tag("baseline")
    find_run("one", folder).note("the plain model")
    assert set(names(list_runs(folder).filter(query))) == found


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("acuracy>0.9", "Did you mean 'accuracy'"),
        ("lr<high", "lr is a number, and 'high' is none"),
        ("lr<", "value is missing after lr<"),
        ('"two', "quotation mark is missing"),
    ],
)
def test_a_query_that_says_nothing_is_a_sentence(folder, query, said, capsys):
    with pytest.raises(OptionError, match=said):
        list_runs(folder).filter(query)
    assert main(["runs", "--runs", str(folder), "--filter", query]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_sorting_puts_the_best_first_and_what_is_missing_last(folder):
    record(folder, "loss", 0.2, monitor="valid_loss")
    table = list_runs(folder)
    assert names(table.sort("accuracy")) == ["other", "worse", "two", "one", "three", "loss"]
    assert names(table.sort("-accuracy")) == ["three", "one", "two", "worse", "other", "loss"]
    assert names(table.sort("valid_loss"))[0] == "loss" and names(table.sort())[0] == "loss"
    assert names(table.sort("lr"))[-1] == "three"
    with pytest.raises(OptionError, match="'accuracy'"):
        table.sort("acuracy")


def test_runs_of_different_tasks_have_no_common_best(folder):
    table = list_runs(folder)
    groups = table.groups()
    assert [group.best.name for group in groups.values()] == ["other", "two"]
    assert len(groups) == 2 and all("data " in label for label in groups)  # else they would read the same
    with pytest.raises(RunError, match="2 tasks"):
        _ = table.best
    said = [line for line in repr(table).splitlines() if "best " in line and "runs" in line]
    assert ["other, accuracy 99.0%" in said[0], "two, accuracy 95.0%" in said[1]] == [True, True]
    record(folder, "focal", 0.2, monitor="valid_loss", loss="focal")
    record(folder, "cross", 0.3, monitor="valid_loss")
    assert len(list_runs(folder).groups()) == 4  # losses of two kinds are no more comparable than metrics


def test_runs_belong_together_when_their_validation_labels_do(tmp_path):
    x, y = torch.randn(60, 4), torch.arange(60) % 3

    def begin(inputs, labels, valid_data=None, **more):
        task = Task(nn.Linear(4, 3), (inputs, labels), valid_data)
        options = TrainOptions.of(epochs=1, device="cpu", **more)
        record = task_record(task, Loop(prepare(task, options), options))
        return Run.create(tmp_path, "real", options.plain(), **record)

    held = {begin(x * scale, y, valid_fraction=0.2, seed=seed).name for scale, seed in ((1, 0), (2, 1))}
    apart = begin(x, y, (x, y)), begin(x, y, (x, (y + 1) % 3))
    groups = [set(names(group)) for group in list_runs(tmp_path).groups().values()]
    assert sorted(map(len, groups)) == [1, 1, 2] and held in groups
    assert apart[0].facts["seen"]["model"] == "Linear" and apart[0].facts["seen"]["parameters"] == 15


def test_a_run_says_why_it_failed(folder):
    row = dict(
        zip(
            *(part if i == 0 else part[0] for i, part in enumerate(list_runs(folder).filter("three").rows())),
            strict=True,
        )
    )
    assert row["reason"] == "the loss is not finite (nan) at step 93"
    panel, wire = opened(folder)
    wire.click({"since": 0, "curves": {}, "open": {"three": -1}})
    news = json.loads(wire.sent[-1]["content"]["news"])
    (shown,) = [row for row in news["rows"] if row["name"] == "three"]
    assert shown["why"] == row["reason"] and news["details"]["three"]["reason"] == LONG
    panel.widget.close()


# ---- notes and tags


def test_notes_and_tags_stay_with_a_run_that_trains(folder):
    run = Run(folder / "one")
    run.start_writing()
    other = find_run("one", folder)
    other.tag("baseline", "paper")
    other.note("first try")
    other.untag("paper")
    run.append([Ended("stopped", 10, 1, "by hand", 1.7e9)])
    run.stop_writing()
    assert run.tags == ("baseline",) and run.note() == "first try" and Run(folder / "one").state == "stopped"
    for wrong in ("two words", "a,b", "", "a=b"):
        with pytest.raises(RunError, match="one word"):
            run.tag(wrong)
    with pytest.raises(RunError, match="has no tag 'paper'"):
        run.untag("paper")
    (run.path / "notes.json").write_text("not json")
    with pytest.raises(RunError, match="stays as it is"):
        run.note("lost?")
    assert (run.path / "notes.json").read_text() == "not json" and run.tags == ()


def test_sweeps_and_compressions_are_annotated_and_trials_by_their_sweep(folder):
    sweep, small = record(folder, "search", 0.9, type="sweep"), record(folder, "small", 0.9, type="compress")
    trial = Run.create(sweep.path / "trials", "0", {}, type="trial", dated=False)
    assert sweep.tag("a") == ("a",) and small.tag("b") == ("b",)
    with pytest.raises(RunError, match="part of its sweep"):
        trial.tag("c")
    assert names(list_runs(folder).filter("tag=a")) == ["search"]


def test_the_terminal_annotates_filters_sorts_and_exports(folder, tmp_path, capsys):
    say = lambda *words: (main(["runs", *words, "--runs", str(folder)]), capsys.readouterr())
    status, shown = say("two", "--tag", "baseline,paper", "--note", "with a focal loss")
    assert status == 0 and "baseline paper" in shown.out and Run(folder / "two").note() == "with a focal loss"
    assert say("two", "--untag", "paper")[0] == 0 and Run(folder / "two").tags == ("baseline",)
    _, shown = say("--filter", "lr>=1e-2 accuracy>0.5", "--sort", "accuracy")
    lines = shown.out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith(("two", "worse", "one"))] == ["worse", "two"]
    status, shown = say("--tag", "x")
    assert status == 2 and "about runs that you name" in shown.err
    status, shown = say("two", "one", "--tag", "both", "--untag", "baseline")
    assert status == 0 and Run(folder / "one").tags == Run(folder / "two").tags == ("both",)
    assert say("two", "nothing", "--tag", "half")[0] == 1 and Run(folder / "two").tags == ("both",)
    assert say("two", "one", "--untag", "both,absent")[0] == 1 and Run(folder / "one").tags == ("both",)
    status, shown = say("--csv", str(tmp_path / "out.csv"), "--filter", "name=one")
    assert status == 0 and "Wrote 1 run to" in shown.out
    with open(tmp_path / "out.csv", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert (row["run"], row["accuracy"], row["lr"]) == ("one", "0.91", "0.001")


# ---- export, comparison, panel


def test_a_frame_has_the_values_as_they_were_measured(folder):
    find_run("two", folder).tag("baseline")
    frame = list_runs(folder).sort("accuracy").frame()
    assert frame["accuracy"].tolist() == [0.99, 0.98, 0.95, 0.91, 0.4] and str(frame["lr"].dtype) == "float64"
    assert str(frame["epochs"].dtype) == "Int64" and str(frame["created"].dtype).startswith("datetime64")
    assert frame.loc[frame["tags"] == "baseline", "run"].tolist() == ["two"]
    assert (
        frame.groupby("task")["accuracy"].max().tolist() == [0.99] and list_runs(folder / "no").frame().empty
    )


def test_a_comparison_shows_what_differs(folder):
    beside = RunTable(find_run(name, folder) for name in ("one", "two")).compare()
    shown = {row[0]: row[1:] for row in beside.cells()[1]}
    assert shown["lr"] == ["0.001", "0.01"] and shown["loss"] == ["auto", "focal"] and "epochs" not in shown
    assert "epochs" in {row[0] for row in beside.cells(equal=True)[1]}
    with pytest.raises(RunError, match="Compare 2 to 8 runs: this table has 1"):
        list_runs(folder).filter("name=one").compare()


def test_the_page_shows_what_the_terminal_shows(folder):
    panel, wire = opened(folder)

    def ask(**more):
        wire.click({"since": 0, "curves": {}, "number": -1, **more})
        return json.loads(wire.sent[-1]["content"]["news"])

    news = ask(view={"query": "lr>=1e-2", "sort": "-accuracy"})
    printed = list_runs(folder).filter("lr>=1e-2").sort("-accuracy").groups()
    assert [g["names"] for g in news["shown"]["groups"]] == [names(group) for group in printed.values()]
    assert news["shown"]["count"] == [3, 5] and {g["best"] for g in news["shown"]["groups"]} == {"two", ""}
    wrong = ask(view={"query": "acuracy>1"})
    assert "Did you mean" in wrong["view"]["said"] and wrong["shown"]["count"] == [3, 5]  # the last one holds
    told = ask(do="export")["told"]
    assert "3 runs" in told and len((folder.parent / "runs.csv").read_text().splitlines()) == 4
    assert ask(do="export")["told"] == told and not (folder.parent / "runs-2.csv").exists()
    ask(do="annotate", names=["two"], note="from the page", tags=["paper"])
    assert Run(folder / "two").note() == "from the page" and Run(folder / "two").tags == ("paper",)
    ask(do="annotate", names=["two", "worse"], add=["both", "paper"])
    assert [Run(folder / name).tags for name in ("two", "worse")] == [("paper", "both"), ("both", "paper")]
    ask(do="annotate", names=["two", "worse"], remove=["both"])
    assert Run(folder / "worse").tags == ("paper",) and Run(folder / "two").note() == "from the page"
    assert "paper" in panel.still()["text/plain"] and "other" not in panel.still()["text/plain"]
    beside = ask(compare={"names": ["two", "worse"], "mark": None})["compared"]
    assert ["options", "loss", ["focal", "auto"], True] in beside["rows"]
    assert ask(compare={"names": ["two", "worse"], "mark": beside["mark"]})["compared"] is None
    panel.widget.close()


def test_heads_of_options_are_their_names_in_every_language(folder):
    record(folder, "long", 0.9, epochs=9, precision="bf16")
    panel, _ = opened(folder)
    panel.table.refresh()
    for code in languages():
        panel.view.arrange(panel.table, wording("base", "card", "tasks", "runs", code=code))
        heads = {key: title for key, title, kind in panel.view.shown["columns"] if kind == "option"}
        assert {"precision", "lr"} <= heads.keys() and all(k == title for k, title in heads.items()), code
        assert "epochs" not in heads  # the column of what is done has them
