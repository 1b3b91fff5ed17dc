"Wrong labels are found by models that did not train on them"

import numpy as np
import pytest
import torch
from helpers import some_quick
from torch import nn

from trainopt_nb import fit
from trainopt_nb.base.errors import DataError, TaskError
from trainopt_nb.clean.fold_table import table_columns, with_fold_table
from trainopt_nb.clean.labels import find_label_errors
from trainopt_nb.clean.report import inspect_data
from trainopt_nb.task.task import Task
from trainopt_nb.task.train_options import TrainOptions


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def flipped_digits(seed, share=0.05):
    "Digits in random order, of which some training labels are wrong"
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    rng = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(y), generator=rng)
    x, y = x[order], y[order]
    noisy, wrong = y[:1200].clone(), torch.randperm(1200, generator=rng)[: round(1200 * share)]
    noisy[wrong] = (noisy[wrong] + torch.randint(1, 10, (len(wrong),), generator=rng)) % 10
    return (x[:1200], noisy), (x[1200:], y[1200:]), set(wrong.tolist())


@pytest.fixture(scope="module")
def found():
    reports = []
    for seed in (31, 32):
        train, valid, wrong = flipped_digits(seed)
        report = inspect_data(Task(network(), train, valid), TrainOptions.of(epochs=20, lr=3e-3))
        report.find_label_errors()
        reports.append((report, wrong))
    return reports


def test_flipped_labels_are_found(found):
    for report, wrong in found:
        rows = set(report.findings[0].rows)
        hits = len(rows & wrong)
        assert hits / len(wrong) >= 0.85 and hits / len(rows) >= 0.75, (hits, len(wrong), len(rows))


def test_the_rule_finds_more_than_cleanlab_on_the_same_probabilities(found):
    cleanlab = pytest.importorskip("cleanlab.filter")
    ours, theirs = 0.0, 0.0
    for report, wrong in found:
        labels = report.train.labels
        truth = np.isin(np.arange(len(labels)), list(wrong))
        mine = np.isin(np.arange(len(labels)), find_label_errors(labels, report.chances).places)
        other = cleanlab.find_label_issues(labels, report.chances, n_jobs=1)
        f1 = lambda flags, truth=truth: 2 * (flags & truth).sum() / (flags.sum() + truth.sum())
        ours, theirs = ours + f1(mine), theirs + f1(other)
    assert ours >= theirs - 0.02


def test_training_on_cleaned_labels_is_better(found, tmp_path):
    losses = {"noisy": 0.0, "cleaned": 0.0}
    right = {"noisy": 0, "cleaned": 0}
    for report, _ in found:
        for name, train in (
            ("noisy", report.task.train_data),
            ("cleaned", report.apply("labels").train_data),
        ):
            model = network()
            run = fit(
                model,
                train,
                report.task.valid_data,
                epochs=40,
                lr=3e-3,
                restore_best=False,
                folder=tmp_path,
                write=lambda s: None,
            )
            losses[name] += run.progress.last["valid_loss"] if hasattr(run.progress, "last") else 0
            x, y = report.task.valid_data
            with torch.no_grad():
                right[name] += int((model(x).argmax(1) == y).sum())
    assert right["cleaned"] > right["noisy"], right


def test_folds_in_this_process_give_what_workers_give():
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    task = Task(nn.Linear(2, 2), (x, (x.sum(1) > 0).long()))
    o = TrainOptions.of(epochs=2, threads=1)
    chances = []
    for workers in (0, 2):
        report = inspect_data(task, o)
        report.find_label_errors(folds=3, workers=workers)
        chances.append(report.chances)
    assert np.array_equal(*chances)


def test_a_budget_that_ends_leaves_samples_without_a_judgement():
    x = torch.randn(60, 2)
    report = inspect_data(Task(nn.Linear(2, 2), (x, (x.sum(1) > 0).long())))
    report.find_label_errors(folds=3, workers=0, budget=0.0)
    assert np.isnan(report.chances).all()


def test_labels_that_are_no_classes_are_refused():
    report = inspect_data(Task(nn.Linear(2, 1), (torch.randn(60, 2), torch.randn(60))))
    with pytest.raises(DataError, match="one of several classes"):
        report.find_label_errors()


def test_clean_labels_is_an_option_of_a_run(tmp_path):
    train, valid, wrong = flipped_digits(33)
    run = fit(
        network(), train, valid, epochs=15, lr=3e-3, clean="labels", folder=tmp_path, write=lambda s: None
    )
    kind, rows, *_ = run.facts["changes"]["cleaned"][0]
    assert kind == "relabel" and len(wrong & set(rows)) >= 0.8 * len(wrong)


def people(rows=240, seed=0):
    "A frame with text and gaps, whose rarest category only one row has, and two wrong labels"
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {"a": rng.normal(size=rows), "job": rng.choice(["smith", "baker", "clerk"], rows), "city": "Rome"}
    )
    right = np.where(frame["a"] + 2 * (frame["job"] == "smith") > 0.7, "yes", "no")
    frame.loc[5, "city"], frame.loc[[6, 9], "a"] = "Oslo", np.nan
    labels = right.copy()
    for row in (10, 20):
        labels[row] = "no" if right[row] == "yes" else "yes"
    return frame, labels


@pytest.mark.parametrize("impute", some_quick(["auto", "drop"], "drop"))
def test_labels_of_a_frame_with_text_are_checked_with_preprocessing_of_each_fold(impute):
    frame, labels = people()
    torch.manual_seed(0)
    model = nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.Linear(16, 2))
    options = TrainOptions.of(epochs=15, lr=0.02, batch_size=16, impute=impute)
    report = inspect_data(Task(model, (frame, labels)), options)
    found = report.find_label_errors(workers=0)
    assert {10, 20} <= set(found.rows) and len(found.rows) < 10
    assert np.isnan(report.chances).any(1).nonzero()[0].tolist() == ([6, 9] if impute == "drop" else [])


def test_a_model_of_another_width_than_the_table_is_told_before_folds_are_trained():
    report = inspect_data(Task(nn.Linear(3, 2), people()))
    with pytest.raises(TaskError, match=r"nn.Linear\(7, 2\)"):
        report.find_label_errors(workers=0)


def test_the_preprocessing_of_a_fold_knows_only_its_own_rows():
    frame, labels = people()
    task, options = Task(None, (frame, labels)), TrainOptions()
    columns = table_columns(task, options)
    rest, held = np.arange(5, 240), np.arange(5)
    parts = [(frame.iloc[rows], torch.tensor(labels[rows] == "yes").long()) for rows in (rest, held)]
    made = with_fold_table(Task(None, *parts), options, columns)
    x = made.train_data[0][:, columns.index("a")]
    assert abs(float(x.mean())) < 1e-5 and made.valid_data[0].shape == (5, len(columns))
    swapped = with_fold_table(Task(None, *parts[::-1]), options, columns)
    assert swapped.valid_data[0][:, columns.index("city=Oslo")].abs().sum() == 0
