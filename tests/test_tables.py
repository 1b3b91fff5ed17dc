"Tables: what is fitted, on which rows, what is stored, and what a prediction makes of it"

import json
import queue
import re
import sys

import numpy as np
import pandas as pd
import polars
import pytest
import torch
from helpers import execute
from torch import nn

import trainopt_nb as t
from trainopt_nb.base.errors import DataError, OptionError, RunError, TaskError
from trainopt_nb.data.batches import order
from trainopt_nb.panels.form import OptionsForm
from trainopt_nb.tables.categories import encode, fit_target
from trainopt_nb.tables.feature_words import Impute, read_words
from trainopt_nb.tables.features import Known, fit_features
from trainopt_nb.tables.frames import as_frame
from trainopt_nb.tables.make_table import make_table
from trainopt_nb.tables.numbers import fill, fit_fill, fit_scale, scale
from trainopt_nb.tables.stored import stored_features
from trainopt_nb.tables.table import TableChoices
from trainopt_nb.task.train_options import TrainOptions


def people(rows=400, seed=0):
    "A table with text, dates, booleans and gaps, whose target follows from age and city"
    g = np.random.default_rng(seed)
    age = g.integers(18, 80, rows).astype(float)
    city = g.choice(["Oslo", "Rome", "Bern"], rows)
    rich = np.where((age > 45) ^ (city == "Rome"), "yes", "no")
    age[g.random(rows) < 0.05] = np.nan
    frame = pd.DataFrame({"age": age, "city": city, "member": g.random(rows) < 0.5})
    frame["since"] = pd.to_datetime("2020-01-01") + pd.to_timedelta(g.integers(0, 900, rows), unit="D")
    frame["since"] = frame["since"].mask(g.random(rows) < 0.05)
    frame["job"] = pd.Series(g.choice(["a", "b"], rows)).mask(g.random(rows) < 0.1)
    return frame.assign(rich=rich)


def net(outputs=2):
    torch.manual_seed(0)
    return nn.Sequential(nn.LazyLinear(32), nn.ReLU(), nn.Linear(32, outputs))


def fit(tmp_path, frame, model=None, said=None, **options):
    options = {"epochs": 2, "target": "rich", "valid_fraction": 0.25, "lr": 0.01} | options
    write = (lambda line: None) if said is None else said.append
    return t.fit(model or net(), frame, folder=tmp_path, write=write, **options)


def test_a_table_with_text_dates_and_gaps_trains_and_predicts_by_name(tmp_path):
    said, frame = [], people()
    run = fit(tmp_path, frame, said=said, epochs=40)
    assert run.metrics["accuracy"] > 0.9
    assert all(word in "\n".join(said) for word in ("--impute", "--features"))
    found = run.predict(frame.drop(columns="rich")[["job", "since", "city", "member", "age"]])
    assert np.mean(np.array(found.labels) == frame["rich"]) > 0.9
    assert list(found.frame) == ["prediction", "probability of no", "probability of yes"]
    assert np.allclose(found.probabilities.sum(1), 1)


def test_polars_and_pandas_give_the_same_weights(tmp_path):
    frame = people()
    ours, theirs = net(), net()
    fit(tmp_path, frame, ours)
    fit(
        tmp_path,
        polars.from_dicts(
            frame.astype(object).where(frame.notna(), None).to_dict("records"), infer_schema_length=None
        ),
        theirs,
    )
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize(
    "words",
    [
        "",
        "robust poly:2",
        "power",
        "quantile",
        "minmax",
        "target:city select:5",
        "target pca:3",
        "rfe:4",
        "importance:4",
        "bins:age:4 cross:city:job variance:0.01",
    ],
)
@pytest.mark.parametrize("how", ["fraction", "given"])
def test_nothing_of_the_validation_rows_is_fitted(words, how):
    "Other values in the validation rows change nothing in the training rows, and not what was fitted"
    frame = people(200)
    choices = TableChoices("rich", words or "auto", valid_fraction=0.25 if how == "fraction" else 0.0)
    if how == "given":
        plain = make_table(frame[:150], frame[150:], choices)
        other = frame[150:].assign(age=1e6, city="Paris", rich=frame["rich"][150:][::-1].to_numpy())
        changed = make_table(frame[:150], other, choices)
    else:
        plain = make_table(frame, None, choices)
        held = order(len(frame), choices.seed, 0)[:50].numpy()
        other = frame.copy()
        other.loc[held, "age"], other.loc[held, "city"] = 1e6, "Paris"
        other.loc[held, "rich"] = np.where(other.loc[held, "rich"] == "yes", "no", "yes")
        changed = make_table(other, None, choices)
    assert torch.equal(plain.train[0], changed.train[0])
    assert plain.features.names == changed.features.names
    assert not torch.equal(plain.valid[0], changed.valid[0]) or words in ("rfe:4", "importance:4")


def test_the_target_encoding_of_a_row_has_not_seen_its_target():
    "Categories with one row each must tell nothing about a random target"
    g = np.random.default_rng(0)
    names, y = np.array([str(i) for i in range(300)], dtype=object), g.integers(0, 2, 300)
    known = Known(y, 2)
    state = fit_target(names, known.numbers(), known.folds())
    leaky, clean = encode(state, names)[:, 0], encode(state, names, known.folds())[:, 0]
    assert np.corrcoef(leaky, y)[0, 1] > 0.9 and abs(np.corrcoef(clean, y)[0, 1]) < 0.3


def test_arithmetic_is_that_of_scikit_learn():
    from sklearn.feature_selection import SelectKBest, mutual_info_classif
    from sklearn.impute import KNNImputer, SimpleImputer
    from sklearn.preprocessing import (
        MinMaxScaler,
        PowerTransformer,
        QuantileTransformer,
        RobustScaler,
        StandardScaler,
        TargetEncoder,
    )

    g = np.random.default_rng(0)
    x, new = g.exponential(size=(300, 4)), g.exponential(size=(50, 4)) * 2 - 0.5
    theirs = {
        "standard": StandardScaler(),
        "robust": RobustScaler(),
        "minmax": MinMaxScaler(),
        "power": PowerTransformer(),
    }
    theirs["quantile"] = QuantileTransformer(n_quantiles=300, output_distribution="normal")
    for how, other in theirs.items():
        assert np.allclose(scale(fit_scale(x, how), new), other.fit(x).transform(new), atol=1e-6), how
    gaps = np.where(g.random(x.shape) < 0.1, np.nan, x)
    for how, other in {
        "mean": SimpleImputer(),
        "median": SimpleImputer(strategy="median"),
        "mode": SimpleImputer(strategy="most_frequent"),
    }.items():
        assert np.allclose(fill(fit_fill(gaps, Impute(how)), gaps)[0], other.fit_transform(gaps))
    assert np.allclose(
        fill(fit_fill(gaps, Impute("knn", 3)), gaps)[0], KNNImputer(n_neighbors=3).fit_transform(gaps)
    )
    names, y = g.choice(["a", "b", "c"], 300).astype(object), g.integers(0, 2, 300)
    other = TargetEncoder(smooth=10.0).fit(names[:, None], y).transform(names[:, None])
    known = Known(y, 2)
    assert np.allclose(encode(fit_target(names, known.numbers(), known.folds()), names), other)
    x[:, 2] += y
    kept = fit_features(pd.DataFrame(x, columns=list("abcd")), known, read_words("select:2"))[0].names
    wanted = SelectKBest(lambda x, y: mutual_info_classif(x, y, random_state=0), k=2).fit(
        StandardScaler().fit_transform(x), y
    )
    assert kept == [n for n, keep in zip("abcd", wanted.get_support(), strict=True) if keep]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"features": "target:city robust poly:2 select:6"},
        {"features": "pca:3", "impute": "knn:3"},
        {"impute": "drop"},
    ],
)
def test_a_resumed_run_ends_with_the_weights_of_one_that_went_through(tmp_path, options):
    frame, whole, model = people(), net(), net()
    fit(tmp_path, frame, whole, epochs=4, **options)
    run = fit(tmp_path, frame, model, epochs=2, **options)
    before = (run.path / "features.json").read_bytes()
    t.resume(run, model, frame, epochs=4, write=lambda line: None)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), model.parameters(), strict=True))
    assert (run.path / "features.json").read_bytes() == before


def test_a_resumed_run_applies_what_it_stored(tmp_path):
    frame, model = people(), net()
    run = fit(tmp_path, frame, model, valid_fraction=0.0)
    stored = stored_features(run.path)
    t.resume(run, model, frame.assign(age=frame["age"] * 100), epochs=3, write=lambda line: None)
    assert (
        stored_features(run.path).state["fill"]["values"].tolist() == stored.state["fill"]["values"].tolist()
    )


def test_what_is_stored_holds_no_code_and_is_private(tmp_path):
    run = fit(tmp_path, people(), features="power target:city pca:4", impute="knn")
    plain = json.loads((run.path / "features.json").read_text())
    assert plain["names"] == [f"component {i}" for i in range(1, 5)]
    for name in ("features.json", "features.safetensors"):
        assert (run.path / name).stat().st_mode & 0o077 == 0
    (run.path / "features.safetensors").write_bytes(b"broken")
    with pytest.raises(RunError, match="preprocessing of the run"):
        run.predict(people(5))


def test_a_prediction_needs_no_scikit_learn(tmp_path, monkeypatch):
    frame = people()
    run = fit(tmp_path, frame, features="quantile target:city select:6 pca:3")
    before = run.predict(frame).probabilities
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert torch.equal(run.predict(frame).probabilities, before)


def test_categories_that_training_did_not_have_are_predicted(tmp_path):
    run = fit(tmp_path, people())
    found = run.predict([{"age": 30, "city": "Paris", "member": None, "since": None, "job": "z"}])
    assert len(found) == 1 and found.labels[0] in ("yes", "no")


def test_width_is_told_beforehand(tmp_path):
    frame = people()
    table = t.features(frame, target="rich", valid_fraction=0.25)
    assert table.width == len(table.names)
    model = nn.Sequential(nn.Linear(table.width, 8), nn.ReLU(), nn.Linear(8, 2))
    fit(tmp_path, frame, model)
    fit(tmp_path, table, model, target="", valid_fraction=0.0)
    with pytest.raises(
        TaskError, match=f"become {table.width} numbers, and the first layer of the model takes 5"
    ):
        fit(tmp_path, frame, nn.Sequential(nn.Linear(5, 2)))


BAD = {  # what is wrong -> (change of the table, options, a part of the sentence)
    "all missing": (lambda f: f.assign(age=np.nan), {}, "'age' holds no value at all"),
    "a list": (lambda f: f.assign(job=[[1]] * len(f)), {}, "'job' holds a list in row 0"),
    "a gap in the target": (
        lambda f: f.assign(rich=f["rich"].mask(f.index == 7)),
        {},
        "no value in 1 row of train_data, first in row 7",
    ),
    "no such target": (lambda f: f, {"target": "ritch"}, "Did you mean 'rich'"),
    "no such column": (lambda f: f, {"features": "target:citty"}, "Did you mean 'city'"),
    "no such word": (lambda f: f, {"features": "onehit"}, "Did you mean 'onehot'"),
    "no such imputation": (lambda f: f, {"impute": "meen"}, "Did you mean 'mean'"),
    "two columns of a name": (
        lambda f: f.set_axis(["age", "age", *f.columns[2:]], axis=1),
        {},
        "several columns that are called 'age'",
    ),
    "labels from -1": (
        lambda f: f.assign(rich=np.where(f["rich"] == "yes", 1, -1)),
        {},
        "Labels must run from 0 to 1",
    ),
    "no row left": (
        lambda f: f.assign(a=[1.0, *[np.nan] * (len(f) - 1)], b=[np.nan, *[1.0] * (len(f) - 1)]),
        {"impute": "drop", "valid_fraction": 0.0},
        "leaves no row",
    ),
    "an array": (lambda f: (torch.rand(9, 3, 3), torch.zeros(9).long()), {}, "--target is about tables"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_nothing_is_written(tmp_path, name):
    change, options, said = BAD[name]
    with pytest.raises((DataError, OptionError, TaskError), match=said) as caught:
        fit(tmp_path, change(people()), **options)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


WRONG_WORDS = {  # option and text -> a part of the sentence
    ("features", "onehit"): "Did you mean 'onehot'",
    ("features", "robust power"): "two scalings",
    ("features", "'a"): "open quote",
    ("features", "pca"): "needs a number",
    ("features", "pca:inf"): "whole number of at least 1",
    ("features", "select:nan"): "whole number of at least 1",
    ("features", "drop:a:b"): "at most 1 part behind",
    ("features", "dates:since:minute"): "not 'minute'",
    ("impute", "meen"): "Did you mean 'mean'",
    ("impute", "knn:inf"): "knn:5",
    ("impute", "constant:nan"): "constant:0",
    ("clean", "duplicate"): "Did you mean 'duplicates'",
    ("clean", "outliers:2"): "share of samples",
    ("balance", "smot"): "Did you mean 'smote'",
}


@pytest.mark.parametrize(("name", "text"), WRONG_WORDS)
def test_words_are_checked_with_the_other_options_and_in_the_form(name, text):
    said = re.escape(WRONG_WORDS[name, text])
    form = OptionsForm(TrainOptions(), queue.SimpleQueue())
    with pytest.raises(OptionError, match=said) as caught:
        TrainOptions(**{name: text})
    assert f"--{name}" in str(caught.value) and "--" not in caught.value.page
    if name != "balance":  # which is chosen from a list
        form.receive({"set": [[name, text]], "do": "start"})
        assert form.chosen is None and re.search(said, form._link.sent.rows[name]["error"])


@pytest.mark.parametrize("fraction", [0.0, 0.25])
@pytest.mark.parametrize("kind", ["arrays", "frame", "several inputs"])
def test_inputs_and_targets_of_different_length_are_refused_with_a_way_out(kind, fraction, tmp_path):
    "Also before rows are held out, where the surplus would be left out in silence"
    x, y = torch.rand(40, 3), torch.arange(30) % 2
    inputs = {"arrays": x, "frame": pd.DataFrame(x.numpy()), "several inputs": (x, x[:, 0])}[kind]
    with pytest.raises(
        DataError, match=r"train_data has 40 rows of inputs and 30 targets.*leave out"
    ) as caught:
        t.fit(nn.Linear(3, 2), (inputs, y), folder=tmp_path, valid_fraction=fraction)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_a_missing_target_is_said_in_one_way_for_files_frames_and_tables(tmp_path):
    frame = people(20)
    frame.to_csv(tmp_path / "t.csv", index=False)
    said = "nothing says which of its 6 columns is the target: name it by --target, such as --target 'rich'"
    for data in (frame, tmp_path / "t.csv"):
        with pytest.raises(DataError, match=said):
            t.fit(nn.Linear(3, 2), data, folder=tmp_path)
    with pytest.raises(DataError, match=said):
        t.features(frame)
    wrong = "has no column 'ritch', which --target names. Did you mean 'rich'. It has age, city"
    for data in (frame, tmp_path / "t.csv"):
        with pytest.raises(DataError, match=wrong):
            t.fit(nn.Linear(3, 2), data, folder=tmp_path, target="ritch")


def test_a_constant_target_and_a_class_with_one_row_are_said(tmp_path):
    said = []
    fit(tmp_path, people().assign(rich="no"), said=said)
    assert any("there is nothing to tell apart" in line for line in said)
    said.clear()
    one = people()
    one["rich"] = ["maybe", *["no", "yes"] * 199, "no"]
    fit(tmp_path, one, net(3), said=said, valid_fraction=0.0)
    assert any("Only one training sample has the label 'maybe'" in line for line in said)


def test_columns_that_teach_nothing_are_left_out_and_said(tmp_path):
    said, frame = [], people()
    frame = frame.assign(name=[f"person {i}" for i in range(len(frame))], country="here")
    run = fit(tmp_path, frame, said=said)
    assert not {"name", "country"} & set(stored_features(run.path).columns)
    assert any("nearly every row has another text" in line for line in said)


def test_a_table_of_numbers_is_trained_on_as_it_is(tmp_path):
    frame = pd.DataFrame(np.random.default_rng(0).random((80, 3)), columns=list("abc"))
    run = t.fit(
        nn.Linear(3, 2),
        (frame, (frame["a"] > 0.5).astype(int)),
        folder=tmp_path,
        epochs=1,
        write=lambda line: None,
    )
    assert stored_features(run.path) is None and as_frame(frame).equals(frame)


@pytest.mark.parametrize("held", ["array", "tensor", "pair", "dataset", "loader"])
def test_predictions_of_what_is_no_table(tmp_path, held, monkeypatch):
    monkeypatch.delattr(
        sys.modules["__main__"], "model", raising=False
    )  # a shell of another test may have one
    torch.manual_seed(0)
    x = torch.randn(120, 1, 6, 6)
    y = (x.mean((1, 2, 3)) > 0).long()
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    run = t.fit(model, (x, y), folder=tmp_path, epochs=2, write=lambda line: None)
    dataset = torch.utils.data.TensorDataset(x, y)
    given = {"array": x.numpy(), "tensor": x, "pair": (x, y), "dataset": [dataset[i] for i in range(120)]}
    data = (
        given.get(held, None) if held != "loader" else torch.utils.data.DataLoader(dataset, 32, shuffle=True)
    )
    found = run.predict(data)
    with torch.no_grad():
        assert torch.equal(found.labels, model(x).argmax(1))
    with torch.no_grad():
        model[1].weight.zero_()  # the weights of the run count, not those that the model has by now
    assert torch.equal(run.predict(data).labels, found.labels) and not model[1].weight.any()
    with pytest.raises(RunError, match="give a model"):
        t.find_run(run.name, tmp_path).predict(x)


def test_a_run_of_a_table_has_no_script_and_says_why(tmp_path):
    with pytest.raises(RunError, match="fits the preprocessing of a table"):
        fit(tmp_path, people()).eject()


CELL = """
import pandas as pd
import torch
from torch import nn
model = nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.Linear(16, 2))
train_data = pd.read_csv({path!r}, parse_dates=["since"])
"""


def test_the_terminal_predicts_a_file(tmp_path):
    "Another process has neither the model nor the preprocessing: both come from the run"

    def trainopt(*words):
        start = "import sys; from trainopt_nb.notebook.cli import main; sys.exit(main(sys.argv[1:]))"
        return execute("-c", start, *words, folder=tmp_path)

    frame = people(120)
    frame.to_csv(tmp_path / "train.csv", index=False)
    (tmp_path / "job.py").write_text(CELL.format(path=str(tmp_path / "train.csv")))
    done = trainopt("fit", "job.py", "--target", "rich", "--epochs", "1")
    assert done.returncode == 0, done.stderr
    frame.drop(columns="rich").assign(color=1).to_csv(tmp_path / "new.csv", index=False)
    name = t.find_run(None, tmp_path / "runs").name
    done = trainopt("predict", name, "new.csv", "--out", "found.csv")
    assert done.returncode == 0 and "no column color" in done.stdout, done.stderr
    assert len(pd.read_csv(tmp_path / "found.csv")) == 120
    done = trainopt("predict", name, "none.csv")
    assert done.returncode == 1 and "There is no file" in done.stderr
    frame[["age"]].to_csv(tmp_path / "short.csv", index=False)
    done = trainopt("predict", name, "short.csv")
    assert done.returncode == 1 and "lacks the columns city, member, since, job" in done.stderr
