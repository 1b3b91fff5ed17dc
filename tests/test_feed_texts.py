"Texts in memory train as texts of files do, and new samples of any kind are decoded as those of the training were"

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from torch import nn

import trainopt_nb
from trainopt_nb.base.errors import DataError, TrainoptError
from trainopt_nb.clean.report import inspect_data
from trainopt_nb.data.changed_data import ChangedData
from trainopt_nb.data.changes import Change
from trainopt_nb.feed.options import FeedOptions
from trainopt_nb.feed.read import read_data
from trainopt_nb.task.task import Task
from trainopt_nb.task.train_options import TrainOptions

datasets = pytest.importorskip("datasets")
Image = pytest.importorskip("PIL.Image")
WORDS = {"neg": "a dull and slow film", "pos": "a bright and quick film"}


def reviews(each=12):
    "Texts and the names of their classes, in the order in which a folder has them"
    names = [name for name in WORDS for _ in range(each)]
    return [f"{WORDS[name]} number {i}" for i, name in enumerate(names)], names


def folder_of(path, texts, names):
    for i, (text, name) in enumerate(zip(texts, names, strict=True)):
        (path / name).mkdir(parents=True, exist_ok=True)
        (path / name / f"{i:02d}.txt").write_text(text)
    return path


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.EmbeddingBag(500, 8, padding_idx=0), nn.Linear(8, 2))


def trained(data, folder, valid=None, model=None, **options):
    said, model = [], model or net()
    how = {"epochs": 6, "lr": 0.05, "batch_size": 8, "vocabulary": 500, "threads": 1, **options}
    run = trainopt_nb.fit(model, data, valid, folder=folder, write=said.append, **how)
    return model, run, "\n".join(said)


def weights(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


FORMS = {
    "lists": lambda texts, names: (texts, names),
    "arrays": lambda texts, names: (np.array(texts), np.array(names)),
    "pandas": lambda texts, names: (pd.Series(texts), pd.Series(names)),
    "polars": lambda texts, names: (pl.Series(texts), pl.Series(names)),
    "a dict": lambda texts, names: {"text": texts, "label": names},
    "samples": lambda texts, names: list(zip(texts, names, strict=True)),
    "columns of a dataset": lambda texts, names: tuple(
        datasets.Dataset.from_dict({"a": texts, "b": names})[:].values()
    ),
    "a dataset": lambda texts, names: datasets.Dataset.from_dict({"text": texts, "label": names}),
}


@pytest.fixture(scope="module")
def by_path(tmp_path_factory):
    "What the same texts give in files"
    folder = tmp_path_factory.mktemp("texts")
    model, run, said = trained(folder_of(folder / "reviews", *reviews()), folder / "runs")
    return weights(model), run, said


@pytest.mark.parametrize("form", FORMS)
def test_texts_in_memory_train_as_texts_by_path(form, by_path, tmp_path):
    model, run, said = trained(FORMS[form](*reviews()), tmp_path)
    assert torch.equal(weights(model), by_path[0]) and run.facts["read"] == by_path[1].facts["read"]
    assert "words a text" in said and "--text-length" in said and "held in memory" in said
    found = run.predict(["bright quick", "dull slow"])
    assert found.labels == ["pos", "neg"] and found.classes == ("neg", "pos")


@pytest.mark.parametrize("form", ["lists", "a dataset"])
def test_validation_texts_take_the_classes_and_the_length_of_the_training_texts(form, tmp_path):
    texts, names = reviews()
    valid = FORMS[form](["film " * 40, "quick"], ["pos", "pos"])
    read = read_data(FORMS[form](texts, names), valid, FeedOptions(vocabulary=500))
    assert read.valid[0].shape[1] == read.train[0].shape[1] and read.valid[1].tolist() == [1, 1]
    with pytest.raises(DataError, match="'odd'"):
        read_data(FORMS[form](texts, names), FORMS[form](["x"], ["odd"]))
    both = datasets.DatasetDict(
        {"train": FORMS["a dataset"](texts, names), "test": FORMS["a dataset"](["x"], ["pos"])}
    )
    assert read_data(both).valid[1].tolist() == [1]


def test_options_of_texts_hold_for_texts_in_memory(tmp_path):
    texts, names = reviews()
    read = read_data((texts, names), None, FeedOptions(text_tokens="bytes", text_length=5, with_lengths=True))
    (tokens, lengths), _ = read.train
    assert tokens.shape == (24, 5) and lengths.tolist() == [5] * 24 and tokens[0, 0] == 1 + ord("a")
    _, run, said = trained((texts, names), tmp_path, augment="swap", epochs=1)
    assert "changed by --augment" in said and run.predict(texts[:2]).labels
    empty = read_data((["", "a"], [0, 1]), None, FeedOptions(text_tokens="bytes"))
    assert empty.train[0].tolist() == [[0], [98]]


WRONG = {  # data -> a part of the sentence
    "a label too few": (lambda texts, names: (texts, names[1:]), "24 texts and 23 targets"),
    "a gap": (lambda texts, names: ([*texts[1:], None], names), "no text in 1 row, first in row 23"),
    "a number": (
        lambda texts, names: ([*texts[1:], 3], names),
        "Row 23 of train_data holds a value of type int",
    ),
    "no labels": (lambda texts, names: (texts, "pos"), "its labels are a str"),
    "a label that is missing": (lambda texts, names: (texts, [*names[1:], None]), "row 23 .* has none"),
    "a sample too long": (
        lambda texts, names: [*zip(texts, names, strict=True), ("a", 1, 2)],
        "Sample 24 .* no pair",
    ),
    "a frame of texts alone": (
        lambda texts, names: (
            pd.DataFrame({"words": [f"{i} {t}" for i, t in enumerate(texts * 4)]}),
            names * 4,
        ),
        r"pass \(frame\['words'\], targets\)",
    ),
    "half a surrogate": (
        lambda texts, names: ([*texts[1:], "\ud800"], names),
        "text 23 cannot be decoded as a text",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_texts_are_one_sentence_before_anything_starts(name, tmp_path):
    make, sentence = WRONG[name]
    with pytest.raises(TrainoptError, match=sentence) as caught:
        trained(make(*reviews()), tmp_path)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_numbers_and_numbers_as_texts_are_no_texts():
    for data in (
        ([1, 2], [0, 1]),
        (["1", "2.5"], [0, 1]),
        (pd.Series(["a", "b"], dtype="category"), [0, 1]),
        ([], []),
    ):
        assert read_data(data) is None
    with pytest.raises(DataError, match="valid_data holds texts, and train_data is"):
        read_data((torch.zeros(2, 3).long(), torch.tensor([0, 1])), (["a", "b"], [0, 1]))


def test_texts_that_were_changed_by_row_train_and_resume(tmp_path):
    texts, names = reviews()
    changed = ChangedData((texts, names), [Change("drop", (0,)), Change("relabel", (1,), ("pos",))])
    _, run, said = trained(changed, tmp_path, epochs=1)
    assert run.progress.started.samples == 23 and "The training data were changed" in said
    again = trainopt_nb.resume(run, net(), (texts, names), epochs=2, write=lambda line: None)
    assert again.state == "finished" and again.progress.started.samples == 23


def test_label_errors_of_texts_in_memory_are_found():
    texts, names = reviews(30)
    names[3] = "pos"
    task = Task(net(), (texts, names))
    report = inspect_data(task, TrainOptions.of(epochs=12, lr=0.05, vocabulary=500, threads=1))
    report.find_label_errors(folds=3, workers=0)
    finding = next(each for each in report.findings if each.kind == "labels")
    assert finding.rows == (3,) and finding.change.values == ("neg",)


# new samples of any kind ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for label, name in enumerate(("dark", "light")):
        (folder / "train" / name).mkdir(parents=True)
        for i in range(8):
            values = np.random.default_rng(i).integers(0, 60, (6, 6)) + 180 * label
            Image.fromarray(values.astype("uint8")).save(folder / "train" / name / f"{i}.png")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(2))
    _, run, _ = trained(folder / "train", folder / "runs", model=model)
    return folder / "train", run


def test_new_images_are_given_by_their_paths(pictures, tmp_path):
    folder, run = pictures
    expected = ["dark"] * 8 + ["light"] * 8
    found = run.predict(str(folder))
    assert (
        found.labels == expected
        and "16 images" in found.notes[0]
        and "dark/0.png to light/7.png" in found.notes[0]
    )
    assert run.predict(folder / "light/3.png").labels == ["light"]
    assert run.predict([folder / "light/3.png", str(folder / "dark/1.png")]).labels == ["light", "dark"]
    Image.open(folder / "light/3.png").resize((20, 10)).convert("RGB").save(tmp_path / "large.jpg")
    assert run.predict(tmp_path).labels == ["light"]
    assert run.predict(read_data(folder).train).labels == expected  # tensors, as before


def test_new_files_that_cannot_be_predicted_are_one_sentence(pictures, tmp_path):
    folder, run = pictures
    (tmp_path / "broken.png").write_bytes(b"no image")
    (tmp_path / "empty").mkdir()
    for new, said in (
        (tmp_path / "broken.png", "broken.png cannot be decoded as an image .*: replace it, or leave it out"),
        (tmp_path / "empty", "holds no images: the run was trained on images"),
        (tmp_path / "brocken.png", "Did you mean"),
        ([folder], "is a folder: pass that folder alone"),
    ):
        with pytest.raises(DataError, match=said) as caught:
            run.predict(new)
        assert "\n" not in str(caught.value)


def test_new_texts_come_in_files_and_in_a_list(by_path, tmp_path):
    run, folder = by_path[1], folder_of(tmp_path, ["dull slow", "bright quick"], ["a", "b"])
    assert run.predict(folder).labels == ["neg", "pos"] == run.predict(["dull slow", "bright quick"]).labels
    assert run.predict((pd.Series(["dull slow"]), ["?"])).labels == ["neg"]
    with pytest.raises(DataError, match="new_data is one text"):
        run.predict("dull slow")


def test_a_table_is_predicted_by_its_path(tmp_path):
    frame = pd.DataFrame({"a": [0.0, 1.0] * 20, "kind": ["no", "yes"] * 20})
    frame.to_csv(tmp_path / "t.csv", index=False)
    model = nn.LazyLinear(2)
    _, run, _ = trained(tmp_path / "t.csv", tmp_path / "runs", model=model, target="kind", features="robust")
    assert run.predict(tmp_path / "t.csv").labels == run.predict(frame).labels
