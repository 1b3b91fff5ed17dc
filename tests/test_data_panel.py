"The data panel without a browser: what the page is told, what a click becomes, and what a run stores of it"

import json
import re
import shlex
import time

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import Wire, some_quick
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from trainopt_nb import features, fit, resume
from trainopt_nb.augment.policy import Step
from trainopt_nb.base.errors import DataError, RunError
from trainopt_nb.base.texts import said_in, wording
from trainopt_nb.clean.file_texts import file_texts
from trainopt_nb.clean.report import inspect_data
from trainopt_nb.data.changed_data import ChangedData
from trainopt_nb.data.changes import Change
from trainopt_nb.insight.loading import measure_loading
from trainopt_nb.notebook.data_verb import UsedData
from trainopt_nb.panels.data_panel import DataPanel
from trainopt_nb.runs.plain_text import plain
from trainopt_nb.task.read_task import read_task
from trainopt_nb.task.task import Task
from trainopt_nb.task.train_options import TrainOptions
from trainopt_nb.task.variables import TaskNames

quiet = {"write": lambda line: None}
NASTY = "<script>alert(1)</script>\x1b[31m{n}"


def table(rows=120, seed=0):
    x = np.random.default_rng(seed).normal(size=(rows, 3)).astype(np.float32)
    return x, (x.sum(1) > 0).astype(np.int64)


def faulty():
    "A frame with missing values, duplicates, an identifier and names that want to be code"
    x, y = table()
    frame = pd.DataFrame(x, columns=["a", NASTY, "c"])
    frame["job"] = np.where(x[:, 1] > 0, "smith", "baker")
    frame.loc[[3, 4], "a"], frame.loc[5, "job"] = np.nan, None
    frame.loc[20] = frame.loc[21]
    labels = pd.Series(np.where(y > 0, "yes", NASTY))
    labels[20] = labels[21]
    return (frame, labels), (frame.iloc[60:80], labels.iloc[60:80])


def opened(data, valid=None, **how):
    panel = DataPanel(
        inspect_data(Task(how.pop("model", None), data, valid), how.pop("options", TrainOptions())), **how
    )
    panel.widget.comm = Wire()
    return panel


def face(panel):
    return json.loads(panel.whole())["face"]


def small():
    torch.manual_seed(0)
    return nn.Linear(3, 2)


# what the page is told


def test_the_page_gets_sizes_problems_and_samples_of_a_table():
    panel = opened(*faulty())
    told = face(panel)
    rows = {row["key"]: row for row in told["problems"]}
    assert {"duplicates/train", "overlap/train", "missing/train/a", "missing/train/job"} <= rows.keys()
    assert rows["missing/train/a"]["act"] == "impute" and rows["missing/train/job"]["value"] in (
        "smith",
        "baker",
    )
    assert told["headline"].startswith("120 rows of 4 columns · 2 classes · validation 20")
    assert [n for _, n, _ in told["classes"]] and sum(n for _, n, _ in told["classes"]) == 120
    panel.receive({"show": {"problem": "missing/train/a"}})
    page = face(panel)["page"]
    assert page["heads"][0] == "a" and [s["cells"][0] for s in page["samples"]] == [None, None]
    assert "\x1b" not in panel.whole() and page["total"] == 2


def test_a_page_is_short_whatever_the_data(monkeypatch):
    x = np.random.default_rng(0).integers(0, 255, (3000, 3, 32, 32), dtype=np.uint8)
    panel = opened((x, np.arange(3000) % 7))
    panel.receive({"show": {"part": "train", "label": "3", "page": 4}})
    page = face(panel)["page"]
    assert (
        len(page["samples"]) == 24 and page["pages"] == 18 and {s["label"] for s in page["samples"]} == {"3"}
    )
    assert len(panel.whole()) < 400_000
    panel.receive({"show": {"part": "train", "page": 10**9}})
    assert face(panel)["page"]["page"] == 124


def test_only_what_changed_travels():
    panel = opened(*faulty())
    panel.widget.comm.click({"show": {"part": "valid"}})
    (news,) = panel.widget.comm.news()
    assert set(news["face"]) == {"page"} and news["face"]["page"]["part"] == "valid"
    panel.widget.comm.click({"show": {"part": "valid"}})
    assert panel.widget.comm.news() == []
    panel.widget.comm.click({"ready": 10**6})
    (whole,) = panel.widget.comm.news()
    assert "problems" in whole["face"]


def test_the_panel_speaks_chinese(monkeypatch):
    monkeypatch.setenv("TRAINOPT_LANGUAGE", "zh")
    told = face(opened(*faulty()))
    assert "验证集" in told["headline"] and told["problems"][0]["title"] in wording("findings").values()


def findings():
    "One finding of each sentence that the checks can say"
    data, valid = faulty()
    data[0]["empty"], data[0]["one"], data[0]["id"] = np.nan, 1, [f"u{i}" for i in range(120)]
    valid = valid[0].assign(empty=np.nan, one=1, id="new"), valid[1]
    drifted = table(400, 1)[0] + [3, 0, 0], np.arange(400) % 50 // 49
    x, _ = table(400)
    images = np.random.default_rng(0).random((60, 1, 8, 8)).astype(np.float32)
    images[0], images[1, 0, 0, 0] = images[2] + 1e-3, np.nan
    far = np.concatenate([x, [[99.0, 99, 99]]]), np.zeros(401, int)
    reports = [
        inspect_data(Task(None, *each))
        for each in (faulty(), (data, valid), ((x, np.arange(400) % 50 // 49), drifted), ((images, np.arange(60) % 2), (images[:30] * 9, np.zeros(30, int))), (far,))
    ]  # fmt: skip
    twice = table()
    twice[0][5], twice[1][5] = twice[0][6], 1 - twice[1][6]
    return [f for report in (*reports, inspect_data(Task(None, twice))) for f in report.findings]


def test_every_sentence_about_data_is_said_in_chinese():
    chinese, found = wording("findings", code="zh-CN"), findings()
    kinds = {f.kind for f in found}
    assert kinds >= {"duplicates", "overlap", "conflicts", "missing", "constant", "identifier", "imbalance", "outliers", "drift"}  # fmt: skip
    for finding in found:
        for text in filter(None, (finding.text, finding.effect)):
            assert said_in(text, wording("findings", code="en")) == text == str(text)
            said = said_in(text, chinese)
            words = set(re.findall(r"[A-Za-z]{3,}", said)) - set(
                re.findall(r"[A-Za-z]{3,}", str(finding.column) + NASTY)
            )
            assert re.search(r"[\u4e00-\u9fff]", said), said
            assert words <= {
                "NaN",
                "AUC",
                "class",
                "weights",
                "balanced",
                "empty",
                "one",
                "baker",
                "smith",
            }, (said, words)


@pytest.mark.parametrize("kind", ["text", "sound", "tokens", "dataset"])
def test_every_kind_of_data_has_samples(kind):
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    data = {
        "text": ([f"{NASTY} number {i} of {i % 7}" for i in range(40)], labels),
        "sound": (rng.normal(size=(40, 2000)).astype(np.float32), labels),
        "tokens": (rng.integers(0, 99, (40, 12)), labels),
        "dataset": TensorDataset(torch.rand(40, 1, 8, 8), torch.tensor(labels)),
    }[kind]
    panel = opened(data)
    panel.receive({"show": {"part": "train"}})
    page = face(panel)["page"]
    assert page["total"] == 40 and len(page["samples"]) > 5
    if kind == "sound":
        panel.receive({"play": 3, "part": "train"})
        part, row, url = face(panel)["sound"]
        assert (part, row) == ("train", 3) and url.startswith("data:audio/wav") and face(panel)["rate"][1]


# clicks


def test_clicks_change_undo_and_redo():
    data, valid = faulty()
    before = data[0].copy()
    panel = opened(data, valid)
    click = panel.widget.comm.click
    click({"do": "settle", "problem": "duplicates/train"})
    click({"do": "settle", "problem": "missing/train/a", "value": "1.5"})
    click({"do": "relabel", "rows": [1, 2], "label": "yes"})
    click({"do": "keep", "rows": [9]})
    kinds = [change.kind for change in panel.report.changes]
    assert kinds == ["drop", "impute", "relabel", "mark"] and face(panel)["figures"][0][0] == "119"
    made = panel.report.change().train_data.view()
    assert made[0]["a"].iloc[3] == 1.5 and made[1].iloc[1] == "yes" and len(made[1]) == 119
    for _ in range(4):
        click({"do": "undo"})
    assert panel.report.changes == () and face(panel)["undone"] == 4
    click({"do": "redo"})
    click({"do": "drop", "rows": [30]})
    assert [c.kind for c in panel.report.changes] == ["drop", "drop"] and face(panel)["undone"] == 0
    assert [e.action for e in panel.report.log.events].count("undone") == 4
    pd.testing.assert_frame_equal(data[0], before)


def test_a_column_is_filled_as_the_reader_chooses():
    (frame, labels), _ = faulty()
    frame["size"] = pd.Categorical(["small", "large", None, *["small"] * 117])
    frame["count"] = pd.array([1, 2, None, *[8] * 117], dtype="Int64")
    panel = opened((frame, labels))
    rows = {row["column"]: row for row in face(panel)["problems"] if row["kind"] == "missing"}
    assert [how for how, _ in rows["a"]["fills"]] == ["median", "mean", "mode", "nearest"]
    assert rows["size"]["fills"] == [["mode", "small"], ["nearest", ""]]
    click = panel.widget.comm.click
    click({"do": "settle", "problem": "missing/train/a", "how": "mean"})
    click({"do": "settle", "problem": "missing/train/count", "how": "mean"})
    click({"do": "settle", "problem": "missing/train/size", "value": "huge"})
    assert "size" in face(panel)["said"] and "huge" in face(panel)["said"]
    click({"do": "settle", "problem": "missing/train/size", "how": "mode"})
    made = panel.report.change().train_data.view()[0]
    assert made["a"].iloc[3] == pytest.approx(frame["a"].mean()) and made["count"].iloc[2] == 8
    assert made["size"].iloc[2] == "small" and face(panel)["said"] == ""
    exec(panel.report.cell(), held := {"train_data": (frame, labels)})
    pd.testing.assert_frame_equal(held["train_data"][0].reset_index(drop=True), made.reset_index(drop=True))


@pytest.mark.parametrize(
    "content",
    [
        {"do": "settle", "problem": "missing/train/a", "how": "drop it"},
        {"tab": ["augment"]},
        {"play": 99, "part": "preview", "row": "original"},
        {"do": "drop", "rows": [999]},
        {"do": "drop", "rows": "all"},
        {"do": "drop", "rows": [True]},
        {"do": "relabel", "rows": [1], "label": "no such class"},
        {"do": "relabel", "rows": [1]},
        {"do": "settle", "problem": "missing/train/a", "value": "{n} many"},
        {"do": "settle", "problem": "none of these"},
        {"do": "__init__"},
        {"do": ["drop"]},
        {"show": {"problem": 3, "page": -1, "change": "x"}},
        {"policy": [["fly", 1]], "factor": "x"},
        {"play": 10**9},
    ],
)
def test_a_wrong_message_changes_nothing(content):
    panel = opened(*faulty())
    panel.widget.comm.click(content)
    assert panel.report.changes == ()
    said = face(panel)["said"]
    assert face(panel)["sound"] is None
    assert bool(said) == ("label" in content or content.get("do") == "relabel" or "value" in content)


def test_dropping_everything_is_refused_with_a_sentence(monkeypatch):
    panel = opened((np.zeros((30, 3), np.float32), np.arange(30) % 2))
    panel.widget.comm.click({"do": "drop", "rows": list(range(30))})
    assert "undo one of them" in face(panel)["said"] and panel.report.changes == ()
    monkeypatch.setenv("TRAINOPT_LANGUAGE", "zh")
    panel.widget.comm.click({"show": {}})
    assert "撤销" in face(panel)["said"]


def test_changes_of_a_cell_reach_the_panel():
    panel = opened(*faulty())
    panel.report.apply("duplicates")
    (news,) = panel.widget.comm.news()
    assert news["face"]["changes"] and panel.report.left(panel.report.findings[0]) == ()


# the preview


def test_the_preview_follows_strengths_and_says_the_option():
    x = torch.rand(40, 3, 16, 16)
    panel = opened((x, torch.arange(40) % 4), options=TrainOptions.of(augment="flip color:0.2"))
    before = json.loads(panel.whole())["rows"]
    panel.widget.comm.click(
        {"policy": [["flip", 0.5], ["color", 0.9], ["mixup", 0.4]], "factor": 0.5, "turn": 1}
    )
    (news,) = panel.widget.comm.news()
    assert set(news["rows"]) == {"color", "mixup", "policy", "flip"} - (
        {"flip"} if "flip" not in news["rows"] else set()
    )
    assert (
        news["face"]["preview"]["flags"] == '--augment "flip:0.5 color:0.9 mixup:0.4" --augment-strength 0.5'
    )
    after = json.loads(panel.whole())["rows"]
    assert after["original"] == before["original"] and after["color"] != before["color"]
    TrainOptions.of(augment="flip:0.5 color:0.9 mixup:0.4")


def test_images_that_no_run_augments_get_its_sentence():
    panel = opened((torch.rand(40, 16, 16, 3), torch.arange(40) % 4))
    assert "x.permute(0, 3, 1, 2)" in face(panel)["preview"]["why"]


def shown(panel):
    "The rows of the preview, once its tab is open"
    panel.widget.comm.click({"tab": "augment"})
    return json.loads(panel.whole()).get("rows")


def test_sounds_are_previewed_and_heard():
    waves = np.sin(np.outer(np.arange(20) + 5, np.arange(2400)) / 40).astype(np.float32) * 0.4
    panel = opened((waves, np.arange(20) % 2), rate=8000)
    panel.widget.comm.click(
        {"policy": [["gain", 12.0], ["time-mask", 0.5], ["mixup", 0.4]], "factor": 1, "turn": 1}
    )
    rows, told = shown(panel), face(panel)["preview"]
    assert told["kind"] == "sounds" and [len(row["waves"]) for row in rows.values()] == [3] * 5
    assert rows["gain"]["waves"] != rows["original"]["waves"] and len(rows["original"]["waves"][0]) == 90
    heard = {}
    for name in rows:
        panel.widget.comm.click({"play": 1, "part": "preview", "row": name})
        part, key, heard[name] = face(panel)["sound"]
        assert (part, key) == ("preview", f"{told['made']}/{name}/1") and heard[name].startswith(
            "data:audio/wav"
        )
    assert len(set(heard.values())) == 5
    TrainOptions.of(augment="gain:12 time-mask:0.5 mixup:0.4")


def test_sounds_of_whole_numbers_get_the_sentence_of_a_run():
    waves = np.arange(20, dtype=np.int16)[:, None, None] + np.arange(2400, dtype=np.int16)
    assert "x.float() / 32768" in face(opened((waves, np.arange(20) % 2)))["preview"]["why"]


def test_spectrograms_are_pictures():
    panel = opened(
        (np.random.default_rng(0).normal(size=(20, 40, 300)).astype(np.float32), np.arange(20) % 2)
    )
    rows, told = shown(panel), face(panel)["preview"]
    assert told["kind"] == "spectrograms" and rows["original"]["shape"] == [180, 40]
    assert (
        rows["original"]["url"] != rows["time-mask"]["url"] and "--augment-kind spectrograms" in told["flags"]
    )


def test_texts_are_previewed_with_marks():
    texts = [
        f"{NASTY} The good dog number {i} was happy and ran home to its big house. It slept."
        for i in range(30)
    ]
    panel = opened((texts, np.arange(30) % 3))
    panel.widget.comm.click(
        {"policy": [["delete", 0.4], ["insert", 0.3], ["back-translate", 1.0]], "factor": 1, "turn": 1}
    )
    rows = shown(panel)
    assert "--back-translation" in rows["back-translate"]["said"] and "\x1b" not in panel.whole()
    for pieces in rows["delete"]["texts"]:
        assert {mark for _, mark in pieces} == {"", "-"}
        before = rows["original"]["texts"][rows["delete"]["texts"].index(pieces)][0][0]
        assert "".join(f"{text.rstrip()} " for text, _ in pieces).split() == before.split()
    assert any(mark == "+" for pieces in rows["insert"]["texts"] for _, mark in pieces)


def test_a_table_is_previewed_as_the_model_gets_it():
    data, valid = faulty()
    panel = opened(data, valid)
    assert face(panel)["preview"]["waits"] and "rows" not in json.loads(panel.whole())
    rows, told = shown(panel), face(panel)["preview"]
    assert told["fitted"] and told["heads"][:2] == ["a", plain(NASTY)] and set(told["labels"]) >= {"yes"}
    marks = [[mark for _, mark in cells] for cells in rows["noise"]["cells"]]
    assert all(row[:3] == [True] * 3 for row in marks) and not any(
        m for cells in rows["original"]["cells"] for _, m in cells
    )
    panel.widget.comm.click({"do": "settle", "problem": "missing/train/job"})
    assert (
        "job=missing" not in str(panel._clicked.preview._held.names) and face(panel)["preview"]["why"] == ""
    )


def test_a_table_that_no_run_takes_gets_its_sentence():
    frame = pd.DataFrame({"a": np.arange(30.0), "job": ["smith", "baker"] * 15})
    panel = opened(frame)
    shown(panel)
    assert "--target" in face(panel)["preview"]["why"]


# columns


def columns(panel):
    "What the page is told of the columns, once their tab is open"
    panel.widget.comm.click({"tab": "features"})
    return face(panel)["features"]


def test_each_column_says_what_becomes_of_it():
    (frame, labels), _ = faulty()
    frame["zip"], frame["name"], frame["planet"] = (
        np.arange(120) % 30,
        [f"u {i}" for i in range(120)],
        "earth",
    )
    panel = opened((frame, labels), options=TrainOptions.of(features="ordinal:job robust"))
    assert face(panel)["features"] is None
    told = columns(panel)
    rows = {row[0]: row[1:] for row in told["rows"]}
    assert rows["a"] == ["numbers", "median 0, distance of the quartiles 1; 2 missing: the median, and a column that says so", 2, "--features bins:a"]  # fmt: skip
    assert rows["job"][1].startswith("the number of the category, of 2") and rows["job"][3] == ""
    assert rows["zip"][3] == "--features category:zip"
    assert rows["name"] == ["left out", "nearly every row has another text", 0, "--features onehot:name"]
    assert rows["planet"][0] == "left out" and "\x1b" not in panel.whole()
    table = features((frame, labels), features="ordinal:job robust")
    assert sum(row[2] for row in rows.values()) == table.width and f" {table.width} numbers" in told["said"]
    for name in ("a", "zip", "name", "planet"):  # what is proposed is an option of a run
        TrainOptions.of(features=shlex.split(rows[name][3])[1])
    panel.widget.comm.click({"do": "settle", "problem": "missing/train/a", "how": "mean"})
    assert {row[0]: row[3] for row in face(panel)["features"]["rows"]}["a"] == 1


def test_columns_of_plain_numbers_stay_as_they_are():
    x, y = table()
    assert "as they are" in columns(opened((x, y)))["why"]
    scaled = columns(opened((x, y), options=TrainOptions.of(features="pca:2")))
    assert [row[3] for row in scaled["rows"]] == [None] * 3 and " 2 numbers" in scaled["said"]
    x[3, 1] = np.nan
    assert "--impute median" in columns(opened((x, y)))["why"]


def test_a_frame_with_its_target_is_taken_apart():
    (frame, labels), _ = faulty()
    whole = frame.assign(answer=labels)
    panel = opened(whole, options=TrainOptions.of(target="answer"))
    told = face(panel)
    assert "4 columns · 2 classes" in told["headline"] and len(columns(panel)["rows"]) == 4
    panel.widget.comm.click({"do": "settle", "problem": "missing/train/a"})
    panel.widget.comm.click({"do": "relabel", "rows": [1], "label": "yes"})
    exec(panel.report.cell(), held := {"train_data": whole})
    made = panel.report.change().train_data.view()
    pd.testing.assert_frame_equal(held["train_data"][0], made[0])
    assert held["train_data"][1].tolist() == made[1].tolist() and whole["a"].isna().sum() == 2


# texts of files


def test_texts_of_files_are_seen_as_texts(tmp_path):
    for kind, words in (
        ("good", "a fine and happy day with friends"),
        ("bad", "an awful day of rain and noise"),
    ):
        (tmp_path / kind).mkdir()
        for i in range(20):
            (tmp_path / kind / f"{i:02}.txt").write_text(f"{words} number {i}")
    options = TrainOptions.of(valid_fraction=0.25, augment="delete:0.4")
    given = Task(None, str(tmp_path))
    report = inspect_data(read_task(given, options), options)
    report.texts = file_texts(given, options, [report.train, report.valid])
    panel = DataPanel(report)
    panel.widget.comm = Wire()
    panel.receive({"show": {"part": "valid"}})
    page = face(panel)["page"]
    assert page["kind"] == "text" and page["total"] == 10 and report.train.kind == "tokens"
    assert all(("fine" in sample["text"]) == (sample["label"] == "good") for sample in page["samples"])
    rows, told = shown(panel), face(panel)["preview"]
    assert told["kind"] == "texts" and told["flags"] == '--augment "delete:0.4"'
    assert any(mark == "-" for pieces in rows["delete"]["texts"] for _, mark in pieces)


# runs


def changed(data):
    return ChangedData(
        data, [Change("drop", (0, 5)), Change("relabel", (7,), (1,), why="labels"), Change("mark", (8,))]
    )


def test_a_run_stores_the_changes_as_events_and_goes_on_with_them(tmp_path):
    data = table()
    run = fit(small(), changed(data), table(40, 1), epochs=2, folder=tmp_path, **quiet)
    assert [str(change) for change in run.changes] == ["drop 2 rows", "relabel 1 row (labels)", "mark 1 row"]
    assert run.progress.started.samples == 118 and "changes" in run.facts
    again = resume(run, small(), data, table(40, 1), epochs=3, **quiet)
    assert len(again.changes) == 3 and again.progress.epoch == 3
    with pytest.raises(RunError, match="changed"):
        run.eject()


def test_a_cleaned_run_names_what_was_cleaned(tmp_path):
    x, y = table()
    x[4], y[4] = x[9], y[9]
    run = fit(small(), (x, y), epochs=1, clean="duplicates", folder=tmp_path, **quiet)
    assert [(c.source, c.rows) for c in run.changes] == [("clean", [9])]


class Rows(Dataset):
    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data[1])

    def __getitem__(self, i):
        return torch.from_numpy(self.data[0])[i], int(self.data[1][i])


@pytest.mark.parametrize(
    ("form", "how"),
    [
        ("pair", {"devices": 2}),
        ("dataset", {"workers": 2}),
        ("loader", {}),
        ("pair", {"balance": "over"}),
        ("dataset", {"valid_fraction": 0.2}),
    ],
)
def test_changed_data_train_in_every_way(tmp_path, form, how):
    data = table()
    data = {"pair": data, "dataset": Rows(data), "loader": DataLoader(Rows(data), 16)}[form]
    run = fit(small(), changed(data), epochs=1, folder=tmp_path, device="cpu", **how, **quiet)
    rows = 94 if "valid_fraction" in how else 118
    assert run.state == "finished" and len(run.changes) == 3
    assert "balance" in how or run.progress.started.samples == rows


def test_a_sweep_trains_on_changed_data(tmp_path):
    from trainopt_nb import sweep

    task = Task(small(), changed(table()), table(40, 1))
    found = sweep(task, {"lr": (1e-3, 1e-1)}, folder=tmp_path, trials=2, epochs=1)
    assert len(found.trials) == 2 and all(row.state == "done" for row in found.trials)


# the cell


@pytest.mark.parametrize("form", ["torch", "numpy", "pandas", "tensors", "dataset"])
def test_the_cell_does_what_the_panel_did(form):
    x, y = table()
    names = np.where(y > 0, "up", "down")
    data = {
        "torch": (torch.tensor(x), torch.tensor(y)),
        "numpy": (x, names),
        "pandas": (pd.DataFrame(x, columns=list("abc")), pd.Series(names)),
        "tensors": TensorDataset(torch.tensor(x), torch.tensor(y)),
        "dataset": Rows((x, y)),
    }[form]
    label = 1 if form in ("torch", "tensors", "dataset") else "sideways"
    report = inspect_data(Task(None, data))
    changes = [Change("drop", (0, 5)), Change("relabel", (7, 8), (label, label)), Change("mark", (9,))]
    if form in ("torch", "numpy", "pandas"):
        changes.append(Change("impute", (3,), (2.5,), "b" if form == "pandas" else 1))
    want = report.change(*changes).train_data.view()
    held = {"train_data": data}
    exec(report.cell(), held)
    made = held["train_data"]
    made = made.view() if isinstance(made, ChangedData) else made
    both = [
        [tuple(map(str, part)) for part in (each if isinstance(each, tuple) else zip(*each, strict=True))]
        for each in (want, made)
    ]
    assert both[0] == both[1]


def test_each_gap_of_a_column_is_filled_from_the_nearest_rows():
    rng = np.random.default_rng(0)
    group = np.arange(120) % 3
    frame = pd.DataFrame(
        {"x": group * 10 + rng.normal(size=120), "y": group * 5.0, "word": np.array(list("abc"))[group]}
    )
    frame.loc[[1, 2], "y"], frame.loc[3, "word"] = np.nan, None
    panel = opened((frame, pd.Series(group % 2)))
    rows = {row["column"]: row for row in face(panel)["problems"] if row["kind"] == "missing"}
    assert rows["y"]["fills"][-1] == ["nearest", ""]
    click = panel.widget.comm.click
    click({"do": "settle", "problem": "missing/train/y", "how": "nearest"})
    click({"do": "settle", "problem": "missing/train/word", "how": "nearest"})
    made = panel.report.change().train_data.view()[0]
    assert made["y"].iloc[[1, 2]].tolist() == [5, 10] and made["word"].iloc[3] == "a"
    assert "→ 5, 10" in face(panel)["changes"][0][0]
    exec(panel.report.cell(), held := {"train_data": (frame, pd.Series(group % 2))})
    pd.testing.assert_frame_equal(held["train_data"][0], made)


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_a_frame_without_a_header_is_taken_apart_by_its_cell(kind):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(60, 3)))
    frame[3] = (frame[0] > 0).astype(int)
    frame.iloc[::9, 1] = np.nan
    if kind == "polars":
        polars = pytest.importorskip("polars")
        frame = polars.DataFrame({f"column_{i}": frame[i].tolist() for i in frame})
    target, gaps = ("3", "1") if kind == "pandas" else ("column_3", "column_1")
    panel = opened(frame, options=TrainOptions.of(target=target))
    panel.widget.comm.click({"do": "settle", "problem": f"missing/train/{gaps}"})
    made = panel.report.change().train_data.view()
    result = lambda names: names["train_data"].view() if kind == "polars" else names["train_data"]
    exec(panel.report.cell(), held := {"train_data": frame})
    pd.testing.assert_frame_equal(result(held)[0], made[0])
    panel.report.used = True  # the variable stands for the changed data
    for variable in (frame, panel.report.change().train_data):
        exec(panel.report.cell(), held := {"train_data": variable})
        pd.testing.assert_frame_equal(result(held)[0], made[0])


@pytest.mark.parametrize("form", ["pair", "tensors", "dataset"])
def test_the_cell_works_before_and_after_the_variable_is_used(form):
    x, y = torch.arange(40.0).reshape(20, 2), torch.arange(20) % 2
    data = {"pair": (x, y), "tensors": TensorDataset(x, y), "dataset": Rows((x.numpy(), y.numpy()))}[form]
    report = inspect_data(Task(None, data))
    report.change(Change("drop", (0, 5)), Change("relabel", (7,), (0,)))
    names = {"train_data": data}
    UsedData(names, TaskNames())(report)
    cell = report.cell()
    for held in ({"train_data": data}, names):
        exec(cell, held)
        made = held["train_data"]
        made = made.view() if isinstance(made, ChangedData) else made
        assert len(made[1] if isinstance(made, tuple) else made) == 18
        exec(cell, names := {"train_data": report.change().train_data})
    with pytest.raises(DataError, match="changed already"):
        list(report.change().train_data)


def test_classes_have_the_names_of_their_folders(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(20):
            pixels = rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    options = TrainOptions()
    report = inspect_data(read_task(Task(None, str(tmp_path)), options), options)
    assert "2 classes: cat 20, dog 20" in str(report) and "cat" in report._repr_mimebundle_()["text/html"]
    panel = DataPanel(report)
    panel.widget.comm = Wire()
    assert [row[0] for row in face(panel)["classes"]] == ["cat", "dog"]
    click = panel.widget.comm.click
    click({"show": {"label": "dog"}})
    page = face(panel)["page"]
    assert page["total"] == 20 and {sample["label"] for sample in page["samples"]} == {"dog"}
    click({"do": "relabel", "rows": [page["samples"][0]["row"]], "label": "cat"})
    (change,) = report.changes
    assert change.values == (0,) and "→ cat" in face(panel)["changes"][0][0]
    assert face(panel)["classes"] == [["cat", 21, None], ["dog", 19, None]]
    click({"tab": "augment"})
    assert set(face(panel)["preview"]["labels"]) <= {"cat", "dog"}
    names = {"train_data": str(tmp_path)}
    exec(report.cell(), names)
    assert len(names["train_data"]) == 40


def test_spectrograms_are_called_so():
    data = np.random.default_rng(0).random((30, 20, 40), dtype=np.float32), np.arange(30) % 2
    assert "30 images of 20×40" in face(opened(data))["headline"]
    told = opened(data, options=TrainOptions.of(augment_kind="spectrograms"))
    assert "30 spectrograms of 20×40" in face(told)["headline"] and "spectrograms" in str(told.report)


def test_a_cell_of_held_out_data_changes_the_rows_that_are_kept():
    x, y = table()
    report = inspect_data(Task(None, (x, y)), TrainOptions.of(valid_fraction=0.25))
    want = report.change(Change("drop", (0, 1))).train_data.view()
    exec(report.cell(), held := {"train_data": (x, y)})
    assert np.array_equal(held["train_data"].view()[0], want[0]) and len(held["valid_data"][1]) == 30


def _files(folder, y):
    from PIL import Image

    rng = np.random.default_rng(0)
    for label in (0, 1):
        (folder / str(label)).mkdir()
        for row in np.flatnonzero(y == label):
            Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(
                folder / str(label) / f"{row}.png"
            )
    return str(folder)


def _rows_of(made):
    "Rows of data as text"
    made = made.view() if isinstance(made, ChangedData) else made
    if isinstance(made, tuple):
        inputs = made[0].to_numpy() if hasattr(made[0], "columns") else made[0]
        return list(zip(map(str, np.asarray(inputs)), map(str, np.asarray(made[1])), strict=True))
    return [(str(np.asarray(x)), str(int(y))) for x, y in (made[i] for i in range(len(made)))]


FORMS = ("tensors", "arrays", "set", "dataset", "frames", "frame", "polars", "files")


@pytest.mark.parametrize("held_out", [False, True], ids=["whole", "held_out"])
@pytest.mark.parametrize("form", some_quick(FORMS, "tensors", "dataset", "polars", "files"))
def test_a_cell_that_runs_twice_gives_the_same_data(tmp_path, form, held_out):
    x, y = table(60)
    frame = pd.DataFrame(x, columns=list("abc")).assign(label=y)
    data = {
        "tensors": lambda: (torch.tensor(x), torch.tensor(y)),
        "arrays": lambda: (x, y),
        "set": lambda: TensorDataset(torch.tensor(x), torch.tensor(y)),
        "dataset": lambda: Rows((x, y)),
        "frames": lambda: (frame[list("abc")], frame["label"]),
        "frame": lambda: frame,
        "polars": lambda: pytest.importorskip("polars").DataFrame(frame.to_dict("list")),
        "files": lambda: _files(tmp_path, y),
    }[form]()
    options = TrainOptions.of(
        valid_fraction=0.25 if held_out else 0, target="label" if form in ("frame", "polars") else ""
    )
    report = inspect_data(
        read_task(Task(None, data), options) if form == "files" else Task(None, data), options
    )
    report.change(Change("drop", (0, 5)), Change("relabel", (7,), (1 - int(report.train.labels[7]),)))
    for used in (False, True):  # whether the variable stands for the changed data already
        names = {"train_data": data}
        if used:
            UsedData(names, TaskNames())(report)
        exec(cell := report.cell(), names)
        first, held = _rows_of(names["train_data"]), names.get("valid_data")
        assert first == _rows_of(report.change().train_data)
        exec(cell, names)
        assert _rows_of(names["train_data"]) == first and names.get("valid_data") is held
        assert (held is not None) == held_out or form == "files"


def test_a_cell_of_other_rows_says_so():
    x, y = table(60)
    report = inspect_data(Task(None, (x, y)))
    report.change(Change("drop", (0, 5)))
    with pytest.raises(ValueError, match="These changes are of 60 rows, and there are 50"):
        exec(report.cell(), {"train_data": (x[:50], y[:50])})


# objects in images


class Objects(Dataset):
    "Images with a square, of several sizes or of one; targets are boxes and masks of objects, or a mask of classes"

    classes = ("nothing", "square")

    def __init__(self, several, objects=True):
        self.several, self.objects = several, objects

    def __len__(self):
        return 30

    def __getitem__(self, place):
        rng = np.random.default_rng(0 if place == 5 else place)  # one image twice
        high, wide = map(int, rng.integers(40, 150, 2)) if self.several else (24, 32)
        image, mask = rng.random((3, high, wide)).astype(np.float32) / 16, np.zeros((high, wide), np.uint8)
        mask[2:12, 4:20] = 1
        image[:, mask > 0] = 1
        if not self.objects:
            return torch.from_numpy(image), torch.from_numpy(mask)
        boxes = {"boxes": torch.tensor([[4.0, 2, 20, 12]]), "labels": torch.tensor([1])}
        return torch.from_numpy(image), boxes | {"masks": torch.from_numpy(mask)[None]}


def pixels_of(url):
    import base64
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGBA"))


def test_images_of_several_sizes_are_looked_at_and_shown_as_they_are():
    data = Objects(several=True)
    panel = opened(data, data, options=TrainOptions.of(augment="flip:1"))
    found = {(finding.kind, finding.part): finding for finding in panel.report.findings}
    assert found["duplicates", "train"].rows == (5,) and len(found["overlap", "train"].rows) == 30
    (low, high), _, _ = panel.report.train.sizes
    assert f"30 images of 3 × {low}–{high} × " in face(panel)["headline"] and f"3 x {low}–{high} x" in str(
        panel.report
    )
    click = panel.widget.comm.click
    click({"show": {"part": "train"}})
    page = face(panel)["page"]
    shape = data[1][0].shape[1:]
    made = pixels_of(page["samples"][1]["url"]).shape[:2]
    assert made[0] / made[1] == pytest.approx(shape[0] / shape[1], rel=0.05)
    assert page["legend"] == [["square", "#1f9bff"]]
    rows, preview = panel._clicked.preview._held, panel.facts()["preview"]
    assert preview["why"] == "" and preview["legend"] == page["legend"] and "flip" in preview["flags"]
    images, targets = rows.changed_pair((Step("flip", 1.0),), 0)
    for image, target, before in zip(images, targets, rows.samples, strict=True):
        wide = image.shape[-1]
        assert torch.equal(image, before.flip(-1)) and target["boxes"].tolist() == [
            [wide - 20, 2, wide - 4, 12]
        ]
    shown = panel._clicked.preview.rows()
    assert pixels_of(shown["flip"]["url"]).shape == (96, 8 * 96, 4) and "said" not in shown["flip"]
    click({"do": "drop", "rows": [5]})
    assert len(panel.report.change().train_data.view()) == 29


@pytest.mark.parametrize("form", ["pair", "dataset", "objects"])
def test_masks_are_drawn_over_their_images_and_follow_them(form):
    data = Objects(several=False, objects=form == "objects")
    if form == "pair":
        data = tuple(torch.stack(part) for part in zip(*(data[i] for i in range(30)), strict=True))
    panel = opened(data, options=TrainOptions.of(augment="vertical-flip:1"))
    panel.widget.comm.click({"show": {"part": "train"}})
    page = face(panel)["page"]
    assert page["legend"] == [["1" if form == "pair" else "square", "#1f9bff"]]
    blue = lambda pixels: np.argwhere((pixels[..., 2].astype(int) - pixels[..., 0]) > 80)[:, 0]
    first = blue(pixels_of(page["samples"][0]["url"]))
    assert 2 <= first.min() and first.max() <= 12
    preview = panel._clicked.preview
    rows = preview.rows()
    flipped = blue(pixels_of(rows["vertical-flip"]["url"])[:, :32])
    assert rows["vertical-flip"]["shape"] == [32, 24] and 11 <= flipped.min() and flipped.max() <= 22
    assert preview.facts()["legend"] == page["legend"]


def test_samples_of_several_shapes_that_are_no_images_are_refused_in_one_sentence():
    rows = [(torch.zeros(3 + i % 2, 5), i % 2) for i in range(8)]
    with pytest.raises(DataError, match=r"Samples have shapes \(3, 5\), \(4, 5\) and others"):
        inspect_data(Task(None, rows))


# loading


class Slow(Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, place):
        time.sleep(0.003)
        return torch.zeros(3), place % 2


def measured(panel, seconds):
    panel.loading.seconds = seconds
    panel.widget.comm.click({"do": "measure"})
    panel.loading.wait(120)
    return face(panel)["loading"]


def test_loading_is_measured_beside_the_notebook():
    panel = opened(Slow(), model=small(), options=TrainOptions.of(batch_size=16))
    assert face(panel)["loading"]["state"] == ""
    told = measured(panel, 2)
    assert told["state"] == "done" and "The model waits" in told["said"] and told["rows"][0][4] == ""
    assert told["bar"][0] > told["bar"][1] and len(told["rows"]) > 1
    assert any("--workers" in row[4] for row in told["rows"])


def test_loading_of_data_in_memory_has_nothing_to_choose(monkeypatch):
    monkeypatch.setenv("TRAINOPT_LANGUAGE", "zh")
    told = measured(opened(table()), 0.5)
    assert (
        told["state"] == "done" and len(told["rows"]) == 1 and told["bar"] is None and "内存" in told["said"]
    )


def test_loading_is_measured_and_each_module_keeps_its_mode():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    model[1].eval()  # as a user freezes its statistics
    before = [module.training for module in model.modules()]
    data = torch.randn(64, 4), torch.randint(0, 2, (64,))
    measure_loading(Task(model, data), TrainOptions(device="cpu"), seconds=0.05)
    assert [module.training for module in model.modules()] == before


def test_loading_that_fails_says_why():
    told = measured(opened(table(), model=nn.Linear(4, 2)), 0.5)
    assert told["state"] == "failed" and "4" in told["said"]


# boxes


class Boxes(Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, place):
        image = torch.zeros(3, 40, 40)
        image[:, 10:20, place : place + 12] = 0.5
        boxes = torch.tensor([[place, 10.0, place + 12, 20]])
        return image, {"boxes": boxes, "labels": torch.tensor([1])}


def test_boxes_are_drawn_and_follow_their_images(monkeypatch):
    drawn = []
    module = __import__("trainopt_nb.panels.image_rows", fromlist=["drawn"])
    real = module.drawn
    monkeypatch.setattr(
        module,
        "drawn",
        lambda image, target, span: drawn.append(target["boxes"]) or real(image, target, span),
    )
    panel = opened(Boxes(), options=TrainOptions.of(augment="flip:1"))
    page = face(panel)["page"]
    panel.widget.comm.click({"show": {}})
    page = face(panel)["page"]
    assert all(sample["label"] == "" and sample["url"] for sample in page["samples"])
    rows = shown(panel)
    assert rows["original"]["url"] != rows["flip"]["url"] and len(drawn) == 16
    before, after = np.concatenate(drawn[:8]), np.concatenate(drawn[8:])
    assert np.allclose(after[:, [2, 0]], 40 - before[:, [0, 2]])


def test_gaps_in_texts_and_a_missing_variable_are_one_sentence():
    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "trainopt_nb")
    for code, match in (
        ("train_data = (['a text', None, 'another'], [0, 1, 0])", "has no text in 1 row"),
        ("train_data = None", "no variable 'train_data'"),
        ("train_data = {'a': 1}", "looked at and changed by row"),
    ):
        shell.user_ns.pop("model", None)
        shell.run_cell(code)
        with pytest.raises(UsageError, match=match):
            shell.run_line_magic("trainopt", "data")


def test_a_word_names_a_variable_or_files(tmp_path):
    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "trainopt_nb")
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for number in range(3):
            Image.new("RGB", (8, 8), (40 * number, 0, 90)).save(tmp_path / label / f"{number}.png")
    shell.user_ns.pop("model", None)
    shell.user_ns["train_data"] = shell.user_ns["valid_data"] = np.eye(4, dtype="float32"), np.arange(4) % 2
    shell.user_ns["others"] = np.eye(6, dtype="float32"), np.arange(6) % 3
    for word, samples, valid in (
        (str(tmp_path), 6, None),
        ("others", 6, None),
        ("others --valid-data valid_data", 6, 4),
        ("train_data", 4, 4),
    ):
        shell.run_line_magic("trainopt", f"data {word}")
        report = shell.user_ns["report"]
        assert report.train.rows == samples, word
        assert (report.valid and report.valid.rows) == valid, word
    with pytest.raises(UsageError, match="no variable and no file 'othres'"):
        shell.run_line_magic("trainopt", "data othres")
