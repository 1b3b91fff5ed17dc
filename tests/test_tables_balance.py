"Balanced training: which rows an epoch visits, the same with workers and after a resume, and never of the validation"

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import quiet, run_until_killed, until, weights
from sklearn.datasets import make_classification
from torch import nn

import trainopt_nb as t
from trainopt_nb.base.errors import DataError, OptionError
from trainopt_nb.data.balance import Balance
from trainopt_nb.data.source import open_data
from trainopt_nb.tables.category_groups import category_groups
from trainopt_nb.tables.make_table import features
from trainopt_nb.task.balance_task import balance_data
from trainopt_nb.task.train_options import TrainOptions

HOWS = ("over", "under", "weighted", "smote")


def rare(rows=4020, share=1 / 201):
    "A table in which one row of 201 is of the second class"
    x, y = make_classification(
        rows, 6, n_informative=4, n_redundant=0, weights=[1 - share], flip_y=0, class_sep=0.8, random_state=0
    )
    return pd.DataFrame(x, columns=list("abcdef")), pd.Series(y)


class Rows(torch.utils.data.Dataset):
    "A dataset that keeps its labels"

    def __init__(self, x, targets):
        self.x, self.targets = x, targets

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], self.targets[i]


def net(inputs=6):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, 2))


def fit(tmp_path, data, model, **options):
    options = {"epochs": 2, "lr": 0.01} | options
    return t.fit(model, data, folder=tmp_path, write=lambda line: None, **options)


def recalls(run, x, y):
    labels = np.asarray(run.predict(x).labels)
    return np.mean([(labels[y == each] == each).mean() for each in (0, 1)])


def test_balanced_accuracy_on_200_to_1_is_better(tmp_path):
    x, y = rare(16080)
    train, test = (x[:8040], y[:8040]), (x[8040:], y[8040:].to_numpy())
    plain = recalls(fit(tmp_path, train, net(), features="standard"), *test)
    for how in ("over", "weighted", "smote", "under"):
        epochs = 30 if how == "under" else 2
        found = recalls(fit(tmp_path, train, net(), features="standard", balance=how, epochs=epochs), *test)
        assert found > plain + 0.1, (how, found, plain)


@pytest.mark.parametrize("how", HOWS)
def test_rows_of_the_validation_are_in_no_training_batch(how):
    x, y = rare()
    x = torch.tensor(x.to_numpy(), dtype=torch.float32)
    data = balance_data(open_data((x, torch.tensor(y)), valid_fraction=0.3), TrainOptions(balance=how))
    held = {tuple(row) for batch, _ in data.valid.epoch(0) for row in batch.tolist()}
    seen = {tuple(row) for batch, _ in data.train.epoch(0) for row in batch.tolist()}
    assert not held & seen and sum(len(b) for b, _ in data.valid.epoch(0)) == len(held) == round(0.3 * len(x))


@pytest.mark.parametrize("how", HOWS[:3])
def test_workers_change_nothing(how):
    x, y = rare(1206)
    x, y = torch.tensor(x.to_numpy(), dtype=torch.float32), torch.tensor(y.to_numpy())
    options, epochs = TrainOptions(balance=how), []
    size = 2 if how == "under" else 16  # of 12 rows, or of hundreds: workers take milliseconds for each batch
    for given, workers in (((x, y), 0), (Rows(x, y), 0), (Rows(x, y), 2)):
        data = balance_data(open_data(given, workers=workers, batch_size=size), options)
        epochs.append([batch for batch, _ in data.train.epoch(1)])
        assert torch.equal(torch.cat(epochs[-1][1:]), torch.cat([b for b, _ in data.train.epoch(1, 1)]))
    assert all(torch.equal(torch.cat(epochs[0]), torch.cat(each)) for each in epochs[1:])


@pytest.mark.parametrize("how", HOWS)
def test_a_resumed_run_is_the_same(tmp_path, how):
    data, whole, model = rare(), net(), net()
    options = {"features": "standard", "balance": how, "valid_fraction": 0.2}
    fit(tmp_path, data, whole, epochs=4, **options)
    run = fit(tmp_path, data, model, epochs=2, **options)
    t.resume(run, model, data, epochs=4, write=lambda line: None)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), model.parameters(), strict=True))


MIXED = {
    "augment": "noise feature-dropout mixup",
    "balance": "over",
    "features": "robust onehot pca:5",
    "impute": "knn:3",
    "valid_fraction": 0.2,
    "batch_size": 64,
    "lr": 0.01,
    "epochs": 3,
}
KILLED = """
import sys
from test_tables_balance import MIXED, gappy, lazy
import trainopt_nb as t
t.fit(lazy(), gappy(), folder=sys.argv[1], save_steps=7, write=lambda line: None, **MIXED)
"""


def gappy():
    "A table with a rare class, a column of text and missing values"
    x, y = rare(1206, 1 / 20)
    x["city"] = np.where(x["a"] > 0, "Oslo", "Rome")
    x.loc[::9, "b"] = np.nan
    return x, y


def lazy():
    torch.manual_seed(0)
    return nn.Sequential(nn.LazyLinear(32), nn.ReLU(), nn.Linear(32, 2))


def test_augmented_balanced_and_fitted_is_the_same_after_a_kill(tmp_path):
    "Also with two worker processes"
    run_until_killed(KILLED, tmp_path / "killed", update=30)
    run = until(lambda: t.find_run(None, tmp_path / "killed"), "the killed run")
    assert 7 <= run.progress.step < 31
    whole, again, fast = lazy(), lazy(), lazy()
    t.fit(whole, gappy(), folder=tmp_path / "whole", write=quiet, **MIXED)
    t.resume(None, again, gappy(), folder=tmp_path / "killed", write=quiet)
    t.fit(fast, gappy(), folder=tmp_path / "fast", write=quiet, workers=2, **MIXED)
    assert torch.equal(weights(whole), weights(again)) and torch.equal(weights(whole), weights(fast))


def test_over_sampling_visits_every_row_and_under_sampling_another_part_each_epoch():
    labels = torch.tensor([0] * 50 + [1] * 7)
    over, under = Balance(labels, "over"), Balance(labels, "under")
    assert set(over.order(0).tolist()) == set(range(57)) and torch.bincount(
        labels[over.order(0)]
    ).tolist() == [50, 50]
    assert set(under.order(0).tolist()) != set(under.order(1).tolist()) and under.samples == 14


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (lambda x, y: (x, y.float() + 0.5), {"balance": "over"}, "needs one class a row"),
        (lambda x, y: (x, y * 0), {"balance": "over"}, "needs two classes"),
        (lambda x, y: (x, y - 1), {"balance": "over"}, "needs labels from 0"),
        (
            lambda x, y: (x[:201], torch.tensor([0] * 200 + [1])),
            {"balance": "smote"},
            "class 1 has one training row",
        ),
        (lambda x, y: (x.masked_fill(x > 2, torch.nan), y), {"balance": "smote"}, "hold NaN or infinity"),
        (lambda x, y: (x.reshape(-1, 1, 2, 3), y), {"balance": "adasyn"}, "no such table"),
        (lambda x, y: [(x[:64], y[:64])], {"balance": "over"}, "does not show them"),
    ],
)
def test_what_cannot_be_balanced_is_one_sentence(change, options, said):
    x, y = rare()
    x, y = torch.tensor(x.to_numpy(), dtype=torch.float32), torch.tensor(y.to_numpy())
    with pytest.raises((DataError, OptionError), match=said):
        balance_data(open_data(change(x, y)), TrainOptions(**options))


def test_three_rows_get_fewer_neighbours_and_two_ways_at_once_are_refused():
    x, y = torch.randn(203, 4), torch.tensor([0] * 200 + [1] * 3)
    notes = balance_data(open_data((x, y)), TrainOptions(balance="smote")).notes
    assert any("uses 2 neighbors in place of 5" in note for note in notes)
    with pytest.raises(OptionError, match="choose one"):
        balance_data(open_data((x, y)), TrainOptions(balance="over", class_weights="balanced"))


def mixed(rows=603, share=1 / 20):
    "A table of numbers, categories, gaps and a date, whose rare class lives in one city"
    x, y = rare(rows, share)
    rng = np.random.default_rng(1)
    x["city"] = np.where(
        (y == 1) & (rng.random(rows) < 0.9), "Oslo", rng.choice(["Rome", "Bonn", "Graz"], rows)
    )
    x.loc[::9, "b"] = np.nan
    return x, y


@pytest.mark.parametrize("words", ["auto", "ordinal", "onehot:city select:6"])
def test_smote_leaves_categories_whole_and_says_so(words, tmp_path):
    x, y = mixed()
    run = fit(tmp_path, (x, y), lazy(), balance="smote", features=words, valid_fraction=0.2, batch_size=64)
    said = next(n.text for n in run.progress.notes if "SMOTENC" in n.text)
    assert "the table has" in said and "of categories" in said
    table = features((x, y), features=words, valid_fraction=0.2)
    data = balance_data(open_data(table.train, table.valid), TrainOptions(balance="smote"), table)
    made = torch.cat([inputs for inputs, _ in data.train.epoch(0)])
    for group in category_groups(table.features):
        known = {tuple(row) for row in table.train[0][:, group].tolist()}
        assert {tuple(row) for row in made[:, group].tolist()} <= known
    assert len(made) == 2 * int((table.train[1] == 0).sum()) == data.train.samples
    held = {tuple(row) for inputs, _ in data.valid.epoch(0) for row in inputs.tolist()}
    assert not held & {tuple(row) for row in made.tolist()}


def test_rows_of_categories_alone_are_made_too():
    x, y = mixed()
    city = pd.DataFrame({"city": x["city"], "job": x["city"].str[:1]})
    table = features((city, y))
    data = balance_data(open_data(table.train), TrainOptions(balance="smote"), table)
    made = torch.cat([inputs for inputs, _ in data.train.epoch(0)])
    assert set(made.unique().tolist()) == {0.0, 1.0} and len(made) > len(city)


def test_other_ways_to_make_rows_say_that_categories_are_numbers_to_them():
    table = features(mixed())
    notes = balance_data(open_data(table.train), TrainOptions(balance="borderline-smote"), table).notes
    assert any("can lie between two categories" in note for note in notes)
    mixed_up = features(mixed(), features="pca:4")
    notes = balance_data(open_data(mixed_up.train), TrainOptions(balance="smote"), mixed_up).notes
    assert not any("categor" in note for note in notes)


def test_a_run_with_made_categories_is_resumed_exactly(tmp_path):
    whole, model, options = lazy(), lazy(), {"balance": "smote", "valid_fraction": 0.2, "batch_size": 64}
    fit(tmp_path, mixed(), whole, epochs=4, **options)
    run = fit(tmp_path, mixed(), model, epochs=2, **options)
    t.resume(run, model, mixed(), epochs=4, write=lambda line: None)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), model.parameters(), strict=True))
