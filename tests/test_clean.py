"Data are inspected, changed as a view, cleaned before a run, and changed again when it is resumed"

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from trainopt_nb import fit, resume
from trainopt_nb.api.run_task import Where, print_lines, run_task
from trainopt_nb.base.errors import DataError, OptionError, RunError
from trainopt_nb.clean.report import inspect_data
from trainopt_nb.clean.report_html import report_html
from trainopt_nb.data.changed_data import ChangedData
from trainopt_nb.data.changes import Change
from trainopt_nb.task.task import Task
from trainopt_nb.task.train_options import TrainOptions

quiet = {"write": lambda line: None}


def table(rows=200, columns=3, seed=0):
    x = np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)
    return x, (x.sum(1) > 0).astype(int)


def kinds(report):
    return [finding.kind for finding in report.findings]


def small():
    torch.manual_seed(0)
    return nn.Linear(3, 2)


# inspection


def test_a_clean_table_has_no_finding():
    report = inspect_data(Task(None, table(seed=1), table(60, seed=2)))
    assert [f for f in report.findings if f.kind != "outliers"] == []


def test_every_kind_of_fault_in_a_table_is_found():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(400, 3)), columns=["a", "b", "c"])
    frame["number"], frame["one"] = np.arange(400), 1.0
    frame["word"] = rng.choice(["x", "y"], 400)
    labels = pd.Series(np.where(frame["a"] > 0, "up", "down"))
    frame.loc[5, "a"], frame.loc[7, "word"], frame.loc[9, "b"] = np.nan, None, 60.0
    frame.loc[20], labels[20] = frame.loc[21], labels[21]
    valid = frame.iloc[21:90].copy()
    valid["c"] += 2
    report = inspect_data(Task(None, (frame, labels), (valid, labels.iloc[21:90])))
    found = {finding.kind: finding for finding in report.findings}
    assert set(found) >= {"duplicates", "missing", "constant", "outliers", "drift"}
    assert 9 in found["outliers"].rows and found["duplicates"].rows == (21,)
    assert "'one'" in found["constant"].text and "c" in [
        f.column for f in report.findings if f.kind == "drift"
    ]
    mended = report.apply("missing").train_data.view()[0]
    assert not mended.isna().any().any() and frame.isna().sum().sum() == 2


def test_overlap_and_conflicting_labels_are_found():
    x, y = table()
    y[3] = 1 - y[4]
    x[3] = x[4]
    report = inspect_data(Task(None, (x, y), (x[:10], y[:10])))
    found = {finding.kind: finding for finding in report.findings}
    assert set(found["conflicts"].rows) == {3, 4} and found["conflicts"].change is None
    assert set(found["overlap"].rows) == set(range(10)) and found["overlap"].sure == 1


def test_near_duplicates_of_images_and_texts_are_found():
    rng = np.random.default_rng(0)
    smooth = torch.nn.functional.interpolate(
        torch.tensor(rng.random((120, 3, 6, 6)), dtype=torch.float32), 32, mode="bilinear"
    )
    smooth[50] = (smooth[4] + 0.01 * torch.randn(3, 32, 32)).clamp(0, 1)
    report = inspect_data((smooth, torch.arange(120) % 3))
    near = next(f for f in report.findings if f.kind == "near duplicates")
    assert near.rows == (50,)
    words = [" ".join(rng.choice(list("abcdefghijklmnop"), 30)) for _ in range(50)]
    words[30] = words[2] + " z"
    report = inspect_data((words, [i % 2 for i in range(50)]))
    assert next(f for f in report.findings if f.kind == "near duplicates").rows == (30,)


def test_of_a_large_dataset_a_sample_is_looked_at_and_said():
    data = TensorDataset(torch.randn(500, 1, 8, 8), torch.arange(500) % 2)

    class Images(Dataset):
        def __len__(self):
            return 500

        def __getitem__(self, i):
            return data[i]

    report = inspect_data(Task(None, Images()), most=100)
    assert "20.0% (100) were looked at" in str(report) and report.train.kind == "images"


def test_sound_and_tokens_are_looked_at():
    sound = inspect_data((torch.randn(60, 4000), torch.arange(60) % 2))
    tokens = inspect_data((torch.randint(0, 100, (60, 20)), torch.arange(60) % 2))
    assert (sound.train.kind, tokens.train.kind) == ("sound", "tokens")


def test_polars_frames_are_looked_at():
    polars = pytest.importorskip("polars")
    x, y = table()
    x[20], y[20] = x[21], y[21]
    report = inspect_data((polars.DataFrame(x, schema=["a", "b", "c"]), polars.Series(y)))
    assert report.train.kind == "table" and "duplicates" in kinds(report)
    assert len(report.apply("duplicates").train_data.view()[0]) == 199


def test_markup_in_names_and_values_is_escaped():
    bad = "<img src=x onerror=alert(1)>\x1b[31m"
    frame = pd.DataFrame({bad: [np.nan, 2.0, 3.0, 3.0], "word": [bad] * 4})
    report = inspect_data((frame, np.array([bad, "b", "b", "b"])))
    page = report_html(report)
    assert "<img src=x" not in page and "&lt;img" in page and "\x1b" not in page + str(report)


# changes


def test_changes_leave_the_data_as_they_are_and_can_be_undone():
    x, y = table()
    before = x.copy(), y.copy()
    x[20], y[20] = x[21], y[21]
    report = inspect_data((x, y))
    task = report.apply("duplicates")
    task = report.change(Change("relabel", (3,), (1 - y[3],)), Change("mark", (4,), why="look"))
    assert len(task.train_data) == 199 and task.train_data.view()[1][3] == 1 - y[3]
    assert len(report.undo(3).train_data) == 200 and np.array_equal(before[0][:20], x[:20])


@pytest.mark.parametrize("frame", [False, True])
def test_the_changes_as_code_do_the_same(frame):
    x, y = table()
    data = (
        (pd.DataFrame(x, columns=list("abc")), pd.Series(y)) if frame else (torch.tensor(x), torch.tensor(y))
    )
    report = inspect_data(data)
    report.change(
        Change("drop", (1, 2)),
        Change("relabel", (5,), (1,)),
        Change("impute", (6,), (0.5,), "b" if frame else 1),
    )
    names = {"inputs": data[0], "targets": data[1]}
    exec(report.code(), names)
    want = ChangedData(data, report.changes).view()
    assert np.array_equal(np.asarray(names["inputs"]), np.asarray(want[0]))
    assert np.array_equal(np.asarray(names["targets"]), np.asarray(want[1]))


def test_datasets_and_loaders_are_changed_too():
    x, y = map(torch.tensor, table())
    changes = [Change("drop", (0,)), Change("relabel", (5,), (int(1 - y[5]),))]
    for data in (TensorDataset(x, y), DataLoader(TensorDataset(x, y), 16, shuffle=True)):
        view = ChangedData(data, changes).view()
        inner = getattr(view, "dataset", view)
        assert len(inner) == 199 and int(inner[4][1]) == 1 - y[5]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (Change("delete", (0,)), "one of drop"),
        (Change("drop", (999,)), "rows 0 to 199"),
        (Change("relabel", (0, 1), (1,)), "a label for each"),
        (Change("impute", (0,), (1.0,)), "the column, and one value or one for each of its 1 rows"),
        (Change("drop", tuple(range(200))), "drop all 200"),
    ],
)
def test_a_change_that_cannot_be_done_is_refused(change, said):
    with pytest.raises(DataError, match=said):
        ChangedData(table(), [change])


def test_bad_input_is_said_in_a_sentence():
    with pytest.raises(DataError, match="gives no rows by number"):
        inspect_data(iter([1, 2]))
    with pytest.raises(DataError, match="no samples"):
        inspect_data((np.zeros((0, 3)), np.zeros(0)))
    report = inspect_data(table())
    with pytest.raises(OptionError, match="Did you mean 'duplicates'"):
        report.apply("duplicate")
    with pytest.raises(OptionError, match="find_label_errors"):
        report.apply("labels")
    with pytest.raises(DataError, match="training the task's model"):
        report.find_label_errors()


# runs


def test_clean_is_applied_to_the_training_fold_and_said(tmp_path):
    x, y = table()
    x[20], y[20] = x[21], y[21]
    run = fit(
        small(),
        (x, y),
        (x[:10], y[:10]),
        epochs=1,
        clean="duplicates overlap outliers:0.02",
        folder=tmp_path,
        **quiet,
    )
    note = next(n.text for n in run.progress.notes if "cleaned" in n.text)
    assert "overlap: 10 of 200" in note and "duplicates: 1 of 190" in note and "outliers: 4 of 189" in note
    assert run.progress.started.samples == 185
    with pytest.raises(Exception, match="changed"):
        run.eject()


@pytest.mark.parametrize(
    ("where", "words"), [("background", "mislabeled"), ("two devices", "duplicates outliers:0.05")]
)
def test_clean_does_the_same_in_other_processes(where, words, tmp_path):
    x, y = table()
    x[20], y[20] = x[21], y[21]
    options = {"epochs": 2, "threads": 1, "clean": words, "valid_fraction": 0.2, "folder": tmp_path, **quiet}
    alone = fit(small(), (x, y), **options)
    how = {**options, "devices": 2, "batch_size": 32} if where == "two devices" else options
    folder, chosen = how.pop("folder"), TrainOptions.of(**{k: v for k, v in how.items() if k not in quiet})
    place = Where(folder, background=where == "background")
    handle = run_task(Task(small(), (x, y)), chosen, place)
    run = print_lines(handle, lambda line: None)
    assert run.state == "finished" and run.facts["changes"] == alone.facts["changes"]
    assert run.progress.started.samples == alone.progress.started.samples < 160
    notes = [[n.text for n in each.progress.notes if "cleaned" in n.text] for each in (run, alone)]
    assert notes[0] == notes[1] and len(notes[0]) == 1


def test_what_is_held_out_is_not_cleaned(tmp_path):
    x, y = table()
    x[100:], y[100:] = x[:100], y[:100]
    run = fit(
        small(), (x, y), epochs=1, clean="duplicates overlap", valid_fraction=0.3, folder=tmp_path, **quiet
    )
    facts = run.facts["changes"]
    assert facts["rows"] == 140 and any("30%" in n.text for n in run.progress.notes)


def test_a_resumed_run_has_the_same_data(tmp_path):
    x, y = table()
    x[20], y[20] = x[21], y[21]
    o = {
        "clean": "duplicates outliers:0.05",
        "valid_fraction": 0.2,
        "folder": tmp_path,
        "restore_best": False,
        **quiet,
    }
    whole, halves = small(), small()
    fit(whole, (x, y), epochs=4, **o)
    run = fit(halves, (x, y), epochs=2, **o)
    resume(run, small_again := small(), (x, y), epochs=4, **quiet)
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.state_dict().values(), small_again.state_dict().values(), strict=True)
    )
    with pytest.raises(RunError, match="before its cleaning"):
        resume(run, small(), (x[:150], y[:150]), epochs=9, **quiet)


def test_changed_data_are_stored_and_replayed(tmp_path):
    x, y = table()
    report = inspect_data((x, y))
    task = report.change(Change("drop", tuple(range(50)), why="by hand"))
    run = fit(small(), task.train_data, epochs=2, folder=tmp_path, **quiet)
    assert run.progress.started.samples == 150 and any("by hand" in n.text for n in run.progress.notes)
    again = resume(run, small(), (x, y), epochs=3, **quiet)
    assert again.progress.state == "finished"
    other = ChangedData((x, y), [Change("drop", (7,))])
    with pytest.raises(RunError, match="other changes"):
        resume(run, small(), other, epochs=4, **quiet)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("duplicate", "Did you mean 'duplicates'"),
        ("outliers:2", "share of samples"),
        ("overlap:1", "no number"),
        ("labels mislabeled", "choose one"),
        ("overlap overlap", "twice"),
    ],
)
def test_a_wrong_word_of_clean_is_refused(text, said):
    with pytest.raises(OptionError, match=said):
        TrainOptions.of(clean=text)


def test_streams_cannot_be_cleaned(tmp_path):
    x, y = map(torch.tensor, table())
    with pytest.raises(DataError, match="by row"):
        fit(
            small(),
            [(x[:50], y[:50]), (x[50:], y[50:])],
            epochs=1,
            clean="duplicates",
            folder=tmp_path,
            **quiet,
        )


def test_the_task_that_was_inspected_stays_as_it_is():
    task = Task(small(), table())
    report = inspect_data(task)
    changed = report.change(Change("drop", (0,)))
    assert task.train_data is report.task.train_data and dataclasses.replace(task) == task
    assert isinstance(changed.train_data, ChangedData) and changed.model is task.model
