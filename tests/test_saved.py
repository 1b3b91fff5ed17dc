"What a saved notebook holds in the place of each panel, at the level of messages, and what the card of a finished run says"

import json
import queue
import re
import time

import nbformat
import pytest
import torch
from nbconvert import HTMLExporter, MarkdownExporter
from test_panel import NASTY, STARTED, Skeleton, train
from torch import nn

from trainopt_nb import Task, TrainOptions
from trainopt_nb.base.texts import wording
from trainopt_nb.clean.report import inspect_data
from trainopt_nb.events.preparing import Preparing
from trainopt_nb.events.progress import Progress
from trainopt_nb.events.records import Ended, Epoch, State
from trainopt_nb.panels import kept
from trainopt_nb.panels.compress_panel import CompressPanel
from trainopt_nb.panels.data_panel import DataPanel
from trainopt_nb.panels.form import OptionsForm
from trainopt_nb.panels.runs_panel import RunsPanel
from trainopt_nb.panels.sweep_panel import SweepPanel
from trainopt_nb.panels.train_panel import TrainPanel
from trainopt_nb.runs.card import plain
from trainopt_nb.runs.held import final_figures, final_headline, held_epoch
from trainopt_nb.runs.report import report_html, report_text
from trainopt_nb.runs.run import Run
from trainopt_nb.train.loop import train as train_task

WIDGET = "application/vnd.jupyter.widget-view+json"
INPUTS = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
DATA = INPUTS, (INPUTS[:, 0] > 0).long()


def stored(panel):
    "The card that the page has for the file, by MIME type"
    return json.loads(panel.widget.kept).get("data")


def keeps(panel):
    "As a page says it that stores cards"
    panel.widget._handle_custom_msg({"keeps": True}, [])


def panel_of(kind, folder):
    if kind == "runs":
        Run.create(folder, "digits", {"lr": 0.1}).stop_writing()
        return RunsPanel(folder)
    if kind == "data":
        return DataPanel(inspect_data(Task(None, DATA)))
    if kind == "form":
        return OptionsForm(TrainOptions(epochs=7), queue.SimpleQueue())
    made = {"train": TrainPanel, "sweep": SweepPanel, "compress": CompressPanel}[kind]
    return made(Progress("digits"), run_path="runs/digits")


@pytest.mark.parametrize("kind", ["train", "sweep", "compress", "runs", "data", "form"])
def test_every_output_has_a_card_from_the_first_moment(kind, tmp_path):
    "Beside the widget stand text and HTML, which needs no script, no style sheet and no class"
    panel = panel_of(kind, tmp_path)
    bundle = panel._repr_mimebundle_()
    bundle = bundle[0] if isinstance(bundle, tuple) else bundle
    page, text = bundle["text/html"], bundle["text/plain"]
    assert bundle[WIDGET]["model_id"] and "Box(" not in text and "View(" not in text
    assert {"runs": "digits", "data": "60", "form": "%%trainopt fit --epochs 7"}.get(kind, "waiting") in page
    assert re.search("Run %trainopt attach digits|Run the cell again", text)
    assert not re.search("<(script|style|link|iframe|svg|canvas)", page)


@pytest.mark.parametrize("made", [TrainPanel, SweepPanel, CompressPanel])
def test_a_card_says_what_comes_before_the_first_step(made):
    page = made(Progress("digits").add([Preparing("data", 0, time.time() - 5)]))._card()
    assert (
        re.search(r"reading the data · \d+ s", page["text/html"]) and "reading the data" in page["text/plain"]
    )


def test_cards_can_be_read_where_notebooks_are_converted_or_not_trusted():
    "nbconvert to Markdown, and to HTML from which styles and scripts are taken out"
    panel = TrainPanel(train(Progress("digits").add([STARTED]), 1, 20), run_path="runs/digits")
    live = panel._card()
    panel.close()
    outputs = [nbformat.v4.new_output("display_data", data) for data in (live, panel._card())]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=outputs)])
    page = HTMLExporter(sanitize_html=True).from_notebook_node(book)[0]
    for text in (page, MarkdownExporter().from_notebook_node(book)[0]):
        assert text.count("train loss") >= 2 and text.count("epoch") >= 2 and "Run %trainopt attach" in text


@pytest.mark.parametrize("text", NASTY)
def test_no_text_changes_the_state_of_a_panel(text):
    "Whatever names and figures say, the card has the same tags, and says it"
    card = lambda each: kept.with_note(
        kept.still_card({"state": each, "name": each, "figures": [(each, each)]}, {}), each
    )
    page = Skeleton(card(text)["text/html"])
    assert page.tags == Skeleton(card("a")["text/html"]).tags and plain(text) in page.words
    assert plain(text) in card(text)["text/plain"]


def test_the_page_has_the_newest_card():
    "A page that stores cards gets one when it says so, when the run begins, from time to time, and at the end"
    progress = Progress("digits")
    panel = TrainPanel(progress)
    panel.update()
    assert stored(panel) is None  # no page asked for any
    keeps(panel)
    panel.update()
    assert stored(panel)["text/plain"].startswith("waiting  digits")
    train(progress.add([STARTED]), 1, 5)
    panel.update()
    assert "step 5 of 30" in stored(panel)["text/html"] and "attach digits" in stored(panel)["text/html"]
    train(progress, 6, 8)
    panel.update()
    assert "step 5 of 30" in stored(panel)["text/html"]  # too soon for another one
    panel.kept._pace._next = 0.0
    panel.update()
    assert "step 8 of 30" in stored(panel)["text/html"] and "<img" not in stored(panel)["text/html"]
    train(progress, 9, 30).add([Ended("finished", 30, 3, "all epochs are done", 1.79e9, 3)])
    panel.close()
    page = stored(panel)["text/html"]
    assert "finished" in page and "<img" in page and "attach" not in page


def test_a_pause_costs_no_card(monkeypatch):
    "A card takes longer than a click may: states that follow each other share one"
    panel, cards = TrainPanel(train(Progress("digits").add([STARTED]), 1, 5)), []
    monkeypatch.setattr(panel.kept, "_card", lambda: cards.append(1) or {})
    keeps(panel)
    for state in ("paused", "training", "validating", "training"):
        panel.progress.add([State(state, 5)])
        panel.update()
    assert len(cards) == 1


def test_a_card_that_cannot_be_made_ends_no_training(monkeypatch):
    panel = TrainPanel(train(Progress("digits").add([STARTED]), 1, 5))
    keeps(panel)
    monkeypatch.setattr(panel.kept, "_card", lambda: 1 / 0)
    panel.update()
    with pytest.raises(ZeroDivisionError):
        panel.close()  # the end says it


def test_a_page_that_was_loaded_after_the_end_has_the_last_card():
    panel = TrainPanel(train(Progress("digits").add([STARTED]), 1, 5))
    panel.progress.add([Ended("stopped", 5, 0, "stopped by hand", 1.79e9)])
    panel.close()
    assert stored(panel) is None
    keeps(panel)
    assert "stopped by hand" in stored(panel)["text/plain"]


def test_a_panel_gives_way_only_where_no_page_stores_its_card():
    "VS Code and Colab say nothing: there the card replaces the panel at the end"
    for said in (False, True):
        panel, put = TrainPanel(train(Progress("digits").add([STARTED]), 1, 5)), []
        if said:
            keeps(panel)
        panel.close()
        panel.give_way(put.append)
        assert [sorted(each) for each in put] == ([] if said else [["text/html", "text/plain"]])


def test_a_box_is_stored_under_its_own_name(tmp_path):
    "The page finds the output by what it shows"
    panel, other = panel_of("runs", tmp_path), panel_of("form", tmp_path)
    panel.shown_in(other.widget)
    keeps(panel)
    panel.kept.renew()
    assert json.loads(panel.widget.kept)["id"] == other.widget.model_id
    assert panel._repr_mimebundle_()[0][WIDGET]["model_id"] == other.widget.model_id


# ---- what a finished run left in the model


def run_of(best, last=None, holds=None, state="finished"):
    "A run of three epochs whose second is best, with two metrics"
    progress = Progress().add([STARTED])
    for epoch, value in ((1, 0.5), (2, best), (3, last or best / 2)):
        metrics = {"accuracy": value, "f1": value - 0.1}
        progress.add([Epoch(epoch, 10 * epoch, 0.3, 1 - value, metrics, 1e-3, 1.0, 640.0, epoch < 3)])
    return progress.add([Ended(state, 30, 3, "all epochs are done", 1.79e9, 2 if holds is None else holds)])


def test_a_finished_card_headlines_what_the_model_has():
    progress = run_of(0.994, 0.981)
    assert final_headline(progress).startswith("accuracy 99.4%, best, epoch 2 · 3 epochs")
    shown = [(f.value, f.label, f.change) for f in final_figures(progress)]
    assert shown[:4] == [
        ("99.4%", "accuracy", "· last 98.1%"),
        ("89.4%", "f1", "· last 88.1%"),
        ("0.006", "valid loss", "· last 0.019"),
        ("0.3", "train loss", ""),
    ]
    panel = TrainPanel(progress)
    assert panel.facts()["headline"] == final_headline(progress)
    assert panel.facts()["figures"][0] == ["99.4%", "accuracy", "· last 98.1%", False]
    for text in (report_html(progress), report_text(progress)):
        assert "accuracy 99.4%, best, epoch 2" in text
    assert report_html(progress).count("<img") == 3  # the losses, and both metrics
    assert "准确" not in final_headline(progress, wording("card", code="zh-CN"))
    assert "最佳，第 2 轮" in final_headline(progress, wording("card", code="zh-CN"))


def test_a_card_claims_no_more_than_is_known():
    "A run that was stopped, or that an earlier version wrote, shows its newest figures"
    for progress in (run_of(0.9, holds=0), run_of(0.9, holds=0, state="stopped")):
        assert held_epoch(progress) is None and final_headline(progress).startswith(("3 epochs", "epoch 3"))
    last = run_of(0.9, 0.8, holds=3)
    assert (
        final_headline(last).startswith("accuracy 80.0%, epoch 3 ·") and final_figures(last)[0].change == ""
    )


@pytest.mark.parametrize("restore", [True, False])
def test_a_run_says_which_epoch_it_leaves(restore):
    torch.manual_seed(0)
    options = TrainOptions(epochs=3, lr=30.0, seed=1, restore_best=restore, batch_size=20)
    progress = Progress().add(train_task(Task(nn.Linear(3, 2), DATA, DATA), options))
    assert progress.holds == (progress.best.epoch if restore else 3)


def test_rests_follow_from_what_a_card_costs():
    assert kept.REST >= 10 and kept.SHARE >= 100  # at most one percent of the time


def test_the_card_of_a_form_holds_its_line_as_text():
    form = OptionsForm(TrainOptions(), queue.SimpleQueue(), given="--name '<img src=x onerror=alert(1)>'")
    page = form.still()["text/html"]
    assert "&lt;img" in page and "<img" not in page
