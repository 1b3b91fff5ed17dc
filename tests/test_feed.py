"Data by their path: what each kind of file gives, the same samples in any process, and one sentence where it is wrong"

import io
import tarfile
import time

import numpy as np
import pytest
import torch
from helpers import some_quick
from torch import nn

import trainopt_nb
from trainopt_nb.api.run_task import Where, run_task
from trainopt_nb.base.errors import DataError, OptionError
from trainopt_nb.events.records import Stop
from trainopt_nb.feed import records as records_module
from trainopt_nb.feed.convert import convert
from trainopt_nb.feed.options import FeedOptions
from trainopt_nb.feed.read import read_data
from trainopt_nb.task.task import Task
from trainopt_nb.task.train_options import TrainOptions

Image = pytest.importorskip("PIL.Image")
CLASSES = ("ant", "bee", "cat")
SUFFIX = {"image": "png", "sound": "wav", "text": "txt"}


def picture(seed, size=(8, 8), mode="L"):
    noise = np.random.default_rng(seed).integers(
        0, 256, (*size, {"L": 1, "RGB": 3, "RGBA": 4}[mode]), "uint8"
    )
    return Image.fromarray(noise.squeeze(), mode)


def encoded(kind, seed, label=0):
    "A small file of a kind, whose content says its class"
    if kind == "text":
        return f"{CLASSES[label]} says {seed} things {'and more ' * (seed % 5)}".encode()
    file = io.BytesIO()
    if kind == "image":
        Image.fromarray((np.asarray(picture(seed)) // 8 + 100 * label).astype("uint8")).save(file, "PNG")
        return file.getvalue()
    soundfile = pytest.importorskip("soundfile")
    time = np.arange(800 + 40 * (seed % 3)) / 8000
    soundfile.write(file, np.sin(2 * np.pi * 400 * (1 + label) * time), 8000, format="WAV")
    return file.getvalue()


def folder_of(path, kind, each=12):
    for label, name in enumerate(CLASSES):
        for number in range(each):
            file = path / name / f"{number:02d}.{SUFFIX[kind]}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encoded(kind, 100 * label + number, label))
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("feed") / "pictures", "image")


def net(kind="image"):
    torch.manual_seed(0)
    if kind == "text":
        return nn.Sequential(nn.Embedding(500, 8), nn.Flatten(), nn.LazyLinear(3))
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(3))


def trained(data, folder, model=None, **options):
    model = model or net()
    said = []
    how = {"epochs": 2, "lr": 1e-2, "batch_size": 8, **options}
    run = trainopt_nb.fit(model, data, folder=folder, write=said.append, **how)
    return model, run, "\n".join(said)


def weights(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


# what each kind gives ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["image", "sound", "text"])
def test_a_folder_by_class_is_trained_by_its_path(kind, tmp_path):
    data = folder_of(tmp_path / "data", kind)
    _, run, said = trained(str(data), tmp_path, net(kind), valid_fraction=0.25, vocabulary=500, epochs=20)
    assert run.classes == CLASSES and run.metrics["accuracy"] > 0.6
    assert f"{kind}s" in said and "held in memory" in said
    assert run.facts["read"]["kind"] == kind


def test_a_folder_with_a_split_says_which_part_is_what(tmp_path):
    for part in ("train", "val", "test"):
        folder_of(tmp_path / "pets" / part, "image", each=4)
    _, run, said = trained(tmp_path / "pets", tmp_path)
    assert "accuracy" in run.metrics and "is used for validation" in said and "is left alone" in said


def test_validation_takes_the_classes_and_the_decoder_of_the_training_data(pictures, tmp_path):
    (tmp_path / "valid/bee").mkdir(parents=True)
    picture(1, (20, 30), "RGBA").save(tmp_path / "valid/bee/1.png")
    read = read_data(pictures, tmp_path / "valid")
    assert read.valid[0].shape == (1, 1, 8, 8) and read.valid[1].tolist() == [1]
    (tmp_path / "valid/owl").mkdir()
    picture(1).save(tmp_path / "valid/owl/1.png")
    with pytest.raises(DataError, match="has the class 'owl', which the training data do not have"):
        read_data(pictures, tmp_path / "valid")


def write_table(path, kind):
    pandas = pytest.importorskip("pandas")
    x = np.random.default_rng(0).normal(size=(60, 2))
    frame = pandas.DataFrame({"a": x[:, 0], "b": x[:, 1], "kind": np.where(x[:, 0] > 0, "yes", "no")})
    if kind in ("csv", "tsv", "csv.gz"):
        frame.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
    elif kind == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=True)
    return frame


@pytest.mark.parametrize("kind", ["csv", "tsv", "csv.gz", "parquet", "jsonl"])
def test_a_table_is_trained_by_its_path(kind, tmp_path):
    write_table(tmp_path / f"t.{kind}", kind)
    model = nn.LazyLinear(2)
    _, run, _ = trained(tmp_path / f"t.{kind}", tmp_path, model, target="kind", epochs=20, valid_fraction=0.2)
    assert run.classes == ("no", "yes") and run.metrics["accuracy"] > 0.8 and model.in_features == 2


def test_polars_frames_are_trained(tmp_path):
    polars = pytest.importorskip("polars")
    frame = polars.from_pandas(write_table(tmp_path / "t.csv", "csv"))
    for data in (frame, frame.lazy(), (frame.drop("kind"), frame["kind"])):
        read = read_data(data, None, FeedOptions(target="kind"))
        assert list(read.train[0].columns) == ["a", "b"] and len(read.train[1]) == 60


def test_a_frame_is_taken_apart_where_its_target_is_named(tmp_path):
    frame = write_table(tmp_path / "t.csv", "csv")
    assert read_data(frame) is None
    assert list(read_data(frame, None, FeedOptions(target="kind")).train[0].columns) == ["a", "b"]


@pytest.mark.parametrize("kept", ["object", "saved"])
def test_hugging_face_datasets_are_trained(kept, pictures, tmp_path):
    datasets = pytest.importorskip("datasets")
    files = sorted(pictures.rglob("*.png"))
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    rows = {
        "image": [{"bytes": file.read_bytes(), "path": None} for file in files],
        "label": [CLASSES.index(file.parent.name) for file in files],
    }
    data = datasets.Dataset.from_dict(rows, features=kinds)
    data = datasets.DatasetDict({"train": data, "validation": data})
    if kept == "saved":
        data.save_to_disk(tmp_path / "saved")
        data = tmp_path / "saved"
    read, plain = read_data(data), read_data(pictures)
    assert read.classes == CLASSES and torch.equal(read.train[0], plain.train[0]) and len(read.valid[1]) == 36


def test_a_hugging_face_dataset_of_numbers_is_left_to_the_engine():
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"a": [1.0, 2.0], "b": [1.0, 2.0], "label": [0, 1]})
    assert read_data(data).train is data


# any process, any place -------------------------------------------------------------------------------------------


def test_workers_memory_and_this_process_give_the_same_weights(pictures, tmp_path):
    ways = (
        {},
        {"in_memory": "no"},
        {"in_memory": "no", "workers": 2},
        {"in_memory": "no", "workers": 1, "prefetch": 5},
    )
    found = [weights(trained(pictures, tmp_path, valid_fraction=0.25, **how)[0]) for how in ways]
    assert all(torch.equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize("kind", ["lmdb", "tfrecord", "webdataset", "parquet"])
def test_databases_give_the_same_weights_in_workers(kind, pictures, tmp_path):
    target = convert(pictures, tmp_path / f"pictures.{kind}", to=kind, write=None)
    plain = weights(trained(pictures, tmp_path)[0])
    for how in ({}, {"in_memory": "no", "workers": 2}):
        model, run, _ = trained(target, tmp_path, **how)
        assert torch.equal(weights(model), plain) and run.classes == CLASSES


class Slow(nn.Module):
    "Lets a command arrive in the middle of an epoch"

    def forward(self, inputs):
        time.sleep(0.05 * self.training)
        return inputs


@pytest.mark.parametrize(
    "how",
    some_quick(
        [
            {"in_memory": "no"},
            {"in_memory": "no", "workers": 2},
            {"pack_by_length": True},
            {"pack_by_length": True, "workers": 2},
        ],
        {"pack_by_length": True},
    ),
)
def test_a_run_resumes_exactly_in_the_middle_of_an_epoch(how, tmp_path):
    data = folder_of(tmp_path / "data", "text")
    make = lambda: nn.Sequential(Slow(), nn.EmbeddingBag(500, 8, padding_idx=0), nn.Linear(8, 3))
    torch.manual_seed(0)
    begun = make().state_dict()

    def start():
        model = make()
        model.load_state_dict(begun)
        return model

    how = {**how, "vocabulary": 500, "lr": 1e-2, "batch_size": 8, "epochs": 5, "schedule": "constant"}
    whole = start()
    trainopt_nb.fit(whole, data, folder=tmp_path, write=lambda line: None, **how)
    handle = run_task(Task(start(), data), TrainOptions.of(**how), Where(tmp_path))
    for _ in handle.events(lambda: Stop("enough") if handle.progress.step >= 7 else None):
        pass
    handle.close()
    assert handle.run.progress.step % 5, "it stopped in the middle of an epoch"
    resumed = make()
    trainopt_nb.resume(handle.run, resumed, data, folder=tmp_path, write=lambda line: None)
    assert torch.equal(weights(whole), weights(resumed))


# what is said -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_color_mode_becomes_the_shape_that_is_asked_for(mode, tmp_path):
    image = (
        Image.fromarray(np.full((6, 9), 30000, "uint16"))
        if mode == "I;16"
        else picture(0, (6, 9), "RGB").convert("RGB")
    )
    image = (
        image
        if mode in ("RGB", "I;16")
        else image.convert("L").convert(mode)
        if mode in ("LA", "1", "L")
        else image.convert(mode)
    )
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / ("x.tif" if mode == "CMYK" else "x.png"))
    inputs = read_data(tmp_path, None, FeedOptions(image_size="4x5", image_mode="rgb")).train[0]
    assert inputs.shape == (2, 3, 4, 5) and 0 <= inputs.min() and inputs.max() <= 1 and inputs.mean() > 0.1


def test_sounds_of_several_rates_and_lengths_are_said(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    data = folder_of(tmp_path / "data", "sound")
    soundfile.write(data / "ant" / "long.wav", np.zeros((48_000, 2)), 16_000)
    read = read_data(data)
    text = read.assumptions[0].text
    assert "8,000 Hz (1 of 37 resampled)" in text and "1 cut" in text and not read.assumptions[0].certain
    mel = read_data(data, None, FeedOptions(sound_features="log-mel", with_lengths=True)).train
    (spectrograms, lengths), _ = mel
    assert spectrograms.shape[1:3] == (1, 40) and lengths.max() <= spectrograms.shape[-1]


def test_memory_is_taken_by_choice(pictures):
    lazy = read_data(pictures, None, FeedOptions(in_memory="no")).train
    assert isinstance(lazy, torch.utils.data.Dataset) and len(lazy) == 36


def test_a_missing_library_is_one_sentence_with_its_line(tmp_path, monkeypatch):
    (tmp_path / "data.mdb").write_bytes(b"x")

    def lacking(module, *rest):
        raise DataError(f"needs {module}: pip install {module}")

    monkeypatch.setattr("trainopt_nb.feed.lmdb_records.require", lacking)
    with pytest.raises(DataError, match="pip install lmdb"):
        read_data(tmp_path)
    with pytest.raises(DataError, match=r"pip install no_such, or pip install 'trainopt_nb\[lmdb\]'"):
        records_module.require("no_such.part", "An LMDB environment", "lmdb")


# wrong data -------------------------------------------------------------------------------------------------------


def broken_folder(tmp_path):
    data = folder_of(tmp_path / "data", "image", each=4)
    (data / "bee/00.png").write_bytes(b"no image")
    (data / "bee/01.png").write_bytes(encoded("image", 1)[:-30])
    return data


def test_broken_images_are_named_counted_and_can_be_left_out(tmp_path):
    data = broken_folder(tmp_path)
    for how in ({}, {"in_memory": "no"}):
        with pytest.raises(
            DataError, match=r"bee/00.png cannot be decoded as an image \(.*\), and 1 more.*--on-broken skip"
        ):
            read_data(data, None, FeedOptions(**how))
        read = read_data(data, None, FeedOptions(on_broken="skip", **how))
        assert len(read.train if how else read.train[1]) == 10
        assert any("2 of 12 images cannot be decoded and are left out" in note for note in read.notes)


def test_a_break_in_the_middle_of_an_image_is_said_before_the_first_step(tmp_path):
    data = folder_of(tmp_path / "data", "image", each=4)
    good = bytearray((data / "cat/02.png").read_bytes())
    middle = good.index(b"IDAT") + 6
    good[middle : middle + 8] = b"\0" * 8
    (data / "cat/02.png").write_bytes(bytes(good))
    with pytest.raises(DataError, match=r"cat/02\.png cannot be decoded"):
        trained(data, tmp_path)
    assert not list(tmp_path.glob("20*"))


def table(text):
    return lambda path: (path / "t.csv").write_text(text) and path / "t.csv"


def file(name, data):
    def write(path):
        (path / name).write_bytes(data)
        return path / name

    return write


def one_class(path):
    (path / "d/only").mkdir(parents=True)
    picture(0).save(path / "d/only/1.png")
    return path / "d"


def empty_class(path):
    folder_of(path / "d", "image", each=1)
    (path / "d/dog").mkdir()
    return path / "d"


def flat(path):
    (path / "d").mkdir()
    picture(0).save(path / "d/1.png")
    return path / "d"


def object_array(path):
    np.save(path / "o.npy", np.array([{}], dtype=object))
    return path / "o.npy"


def object_npz(path):
    np.savez(path / "o.npz", x=np.array([{}], dtype=object), y=np.zeros(1))
    return path / "o.npz"


def pickled_shard(path):
    with tarfile.open(path / "s.tar", "w") as tar:
        for name in ("0.pyd", "0.cls"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    return path / "s.tar"


def cut_tar(path):
    convert(folder_of(path / "d", "image"), path / "w", to="webdataset", write=None)
    shard = path / "w/shard-000000.tar"
    shard.write_bytes(shard.read_bytes()[:5000])
    return path / "w"


def cut_tfrecord(path):
    target = convert(folder_of(path / "d", "image"), path / "w.tfrecord", to="tfrecord", write=None)
    target.write_bytes(target.read_bytes()[:-7])
    return target


def unfinished(path):
    target = convert(folder_of(path / "d", "image"), path / "w.tfrecord", to="tfrecord", write=None)
    target.with_name("w.tfrecord.unfinished").write_text("{}")
    return target


def foreign_lmdb(path):
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(path / "l")) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"k", b"v")
    return path / "l"


def near(path):
    (path / "trein").mkdir()
    return path / "train"


WRONG = {
    "not there": (near, "there is no such file or folder. Did you mean '.*trein'"),
    "empty file": (file("a.csv", b""), "is empty, a file of 0 bytes"),
    "unknown kind": (file("a.xyz", b"?"), "whose kind is not known"),
    "one class": (one_class, "holds one class, 'only'"),
    "empty class": (empty_class, "The class folder dog in .* holds no samples"),
    "no class folders": (flat, "holds 1 image and no folder for each class"),
    "ragged row": (table("a,b,label\n1,2,0\n1,2\n"), "Line 3 of .* has 2 fields, and the first line has 3"),
    "long row": (table("a,b,label\n1,2,0\n1,2,3,4\n"), "Line 3 of .* has 4 fields"),
    "no rows": (table("a,b,label\n"), "holds names of columns and no rows"),
    "no target": (
        table("a,b\n1,2\n"),
        "nothing says which of its 2 columns is the target: name it by --target",
    ),
    "not UTF-8": (file("a.csv", b"a,label\n\xff,1\n"), "is no UTF-8 at byte"),
    "no JSON": (file("a.jsonl", b'{"a": 1}\n{"a"\n'), "Line 2 of .* is no JSON"),
    "cut Parquet": (file("a.parquet", b"PAR1abc"), "is no whole Parquet file"),
    "torch file": (file("a.pt", b"x"), "read by unpickling, which can run code"),
    "pickle": (file("a.pkl", b"x"), "read by unpickling, which can run code"),
    "object npy": (object_array, "holds Python objects, which are read by unpickling"),
    "object npz": (object_npz, "holds Python objects, which are read by unpickling"),
    "pickle in a shard": (pickled_shard, "read by unpickling, and that can run code"),
    "foreign TFRecord": (file("a.tfrecord", b"this is something else"), "is no TFRecord file"),
    "cut TFRecord": (cut_tfrecord, "is cut off: record 35"),
    "cut shard": (cut_tar, "is cut off"),
    "no tar": (file("a.tar", b"this is no tar file" * 99), "is no tar file"),
    "foreign LMDB": (foreign_lmdb, "was not written by trainopt_nb"),
    "missing shard": (
        lambda path: str(path / "s-{00..03}.tar"),
        "names the files 00 to 03, and .*s-00.tar is not there",
    ),
    "unfinished": (unfinished, "is not finished"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_data_is_one_sentence_before_anything_starts(name, tmp_path):
    make, sentence = WRONG[name]
    data = make(tmp_path)
    with pytest.raises(DataError, match=sentence) as caught:
        trained(data, tmp_path / "runs")
    assert "\n" not in str(caught.value) and not list(tmp_path.glob("runs/20*"))


def test_a_wrong_size_is_refused(pictures):
    with pytest.raises(OptionError, match="--image-size takes auto, one number"):
        read_data(pictures, None, FeedOptions(image_size="big"))


def test_a_tfrecord_that_tensorflow_wrote_is_understood(tmp_path):
    "As tf.io.TFRecordWriter writes it, with the usual names, with an index and without"
    tfrecord = pytest.importorskip("tfrecord")
    from tfrecord.tools.tfrecord2idx import create_index

    writer = tfrecord.TFRecordWriter(str(tmp_path / "pets.tfrecord"))
    for number in range(6):
        data = encoded("image", number)
        writer.write(
            {
                "image/encoded": (data, "byte"),
                "image/class/label": (number % 3, "int"),
                "image/height": (8, "int"),
            }
        )
    writer.close()
    plain = read_data(tmp_path / "pets.tfrecord")
    create_index(str(tmp_path / "pets.tfrecord"), str(tmp_path / "pets.tfrecord.index"))
    indexed = read_data(tmp_path / "pets.tfrecord")
    assert plain.train[1].tolist() == [0, 1, 2, 0, 1, 2] and torch.equal(plain.train[0], indexed.train[0])
    assert any("'image/encoded' is the input" in note for note in plain.notes)


def test_shards_that_webdataset_wrote_are_understood(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    with webdataset.ShardWriter(str(tmp_path / "s-%06d.tar"), maxcount=4, verbose=0) as writer:
        for number in range(10):
            writer.write(
                {"__key__": f"a{number}", "png": encoded("image", number), "json": {"label": number % 3}}
            )
    read = read_data(str(tmp_path / "s-{000000..000002}.tar"))
    assert read.train[1].tolist() == [n % 3 for n in range(10)]
