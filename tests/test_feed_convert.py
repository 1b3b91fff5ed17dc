"Conversion between forms, its resumable write, the choice of how data are loaded, and batches of similar length"

import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from helpers import some_quick
from torch import nn
from torch.utils.data import Dataset
from warm_python import python

import trainopt_nb
from trainopt_nb.base.errors import DataError, OptionError
from trainopt_nb.feed import convert as convert_module
from trainopt_nb.feed.convert import check_room, convert
from trainopt_nb.feed.options import FeedOptions
from trainopt_nb.feed.packed_batches import packed_order
from trainopt_nb.feed.read import read_data
from trainopt_nb.feed.records_of import records_of
from trainopt_nb.feed.tune_loading import Setting, Tried, choose
from trainopt_nb.notebook.cli import main
from trainopt_nb.task.task import Task
from trainopt_nb.task.train_options import TrainOptions
from trainopt_nb.train.task_data import tune_task

FORMS = {"lmdb": "lmdb", "tfrecord": "tfrecord", "webdataset": "tar", "parquet": "parquet", "numpy": "npy"}
ALL_FORMS = pytest.mark.parametrize("form", FORMS)


def numbers(count=2500):
    x = np.random.default_rng(0).normal(size=(count, 3)).astype("float32")
    return x, np.arange(count) % 3


def same(target, x, y):
    read = read_data(target, None, FeedOptions(in_memory="yes")).train
    assert np.array_equal(np.asarray(read[0]), x) and np.array_equal(np.asarray(read[1]), y)


@ALL_FORMS
@pytest.mark.parametrize("kind", ["classes", "numbers", "several", "wide"])
def test_each_form_gives_back_what_was_written(form, kind, tmp_path):
    x, y = numbers(20)
    y = {"classes": y, "numbers": y / 7, "several": np.stack([y, y / 3], 1).astype("float32"), "wide": y}[
        kind
    ]
    x = x.astype("float64") if kind == "wide" else x
    same(convert((x, y), tmp_path / f"a.{FORMS[form]}", write=None), x, y)
    assert [path.name for path in tmp_path.iterdir() if "unfinished" in path.name] == []


class Ends(Dataset):
    "Fails at a sample, as a kill would"

    def __init__(self, x, y, at):
        self.x, self.y, self.at = x, y, at

    def __len__(self):
        return len(self.y)

    def __getitem__(self, place):
        if place == self.at:
            raise KeyboardInterrupt
        return self.x[place], self.y[place]


@ALL_FORMS
@pytest.mark.parametrize("at", some_quick([300, 1700, 2490], 1700))
def test_an_interrupted_conversion_goes_on(form, at, tmp_path):
    x, y = numbers()
    target, said = tmp_path / f"a.{FORMS[form]}", []
    with pytest.raises(KeyboardInterrupt):
        convert(Ends(x, y, at), target, write=None)
    with pytest.raises(DataError, match=r"is not finished|there is no such file"):
        read_data(target)
    convert(Ends(x, y, None), target, write=said.append)
    safe = at // 1000 * 1000
    assert not safe or said[0] == f"Going on after {safe:,} of 2,500 samples."
    same(target, x, y)


KILLED = """
import os, sys, numpy as np
from trainopt_nb.feed.convert import convert
class Ends:
    x = np.random.default_rng(0).normal(size=(2500, 3)).astype("float32")
    def __len__(self):
        return 2500
    def __getitem__(self, place):
        if place == int(sys.argv[2]):
            os.kill(os.getpid(), 9)
        return self.x[place], place % 3
convert(Ends(), sys.argv[1], write=None)
"""


@pytest.mark.parametrize("form", ["lmdb", "tfrecord"])
def test_a_killed_conversion_goes_on(form, disk_path):
    target = disk_path / f"a.{FORMS[form]}"
    command = python("-c", KILLED, target)
    assert subprocess.run([*command, "2200"], check=False).returncode == -signal.SIGKILL
    assert target.with_name(target.name + ".unfinished").exists()
    subprocess.run([*command, "-1"], check=True)
    same(target, *numbers())


def test_what_is_there_is_not_overwritten(tmp_path):
    convert(numbers(5), tmp_path / "a.lmdb", write=None)
    with pytest.raises(DataError, match="exists already: remove it, or choose another target"):
        convert(numbers(5), tmp_path / "a.lmdb")


def test_another_source_does_not_go_on_with_what_was_begun(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        convert(Ends(*numbers(), 1500), tmp_path / "a.lmdb", write=None)
    with pytest.raises(DataError, match="is an unfinished conversion of Ends with 2500 samples"):
        convert(numbers(5), tmp_path / "a.lmdb")


@ALL_FORMS
def test_damage_is_found_when_it_is_read_back(form, tmp_path, monkeypatch):
    "One sample of what was written differs"
    monkeypatch.setattr(
        convert_module, "checksum", lambda records, place, before=0: before + place * id(records)
    )
    with pytest.raises(DataError, match="does not hold what was written"):
        convert(numbers(5), tmp_path / f"a.{FORMS[form]}", write=None)
    with pytest.raises(DataError, match="is not finished"):
        read_data(tmp_path / f"a.{FORMS[form]}")


def test_no_room_is_seen_before_anything_is_written(tmp_path, monkeypatch):
    records, _ = records_of(numbers())
    with pytest.raises(DataError, match=r"needs about .* MiB, and 0.1 MiB are free"):
        check_room(records, tmp_path / "a.lmdb", free=lambda folder: 2**17)
    monkeypatch.setattr(convert_module.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    with pytest.raises(DataError, match="make room"):
        convert(numbers(), tmp_path / "a.lmdb")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_what_is_safe(tmp_path):
    from trainopt_nb.feed.tfrecord import TfrecordWriter

    class Full(TfrecordWriter):
        def commit(self):
            if self.position:
                raise OSError(28, "No space left on device")
            super().commit()

    convert_module.FORMS.register("full", convert_module.Form(f"{__name__}:Full", (".full",)))
    sys.modules[__name__].Full = Full
    try:
        with pytest.raises(
            DataError, match=r"cannot be written: No space left on device. 1,000 of 2,500 samples are safe"
        ):
            convert(numbers(), tmp_path / "a.tfrecord", to="full", write=None)
    finally:
        convert_module.FORMS.remove("full")
    same(convert(numbers(), tmp_path / "a.tfrecord", write=None), *numbers())


def test_a_form_that_is_not_known_is_named(tmp_path):
    with pytest.raises(OptionError, match=r"The ending of .* says no form"):
        convert(numbers(5), tmp_path / "a.xyz")
    with pytest.raises(OptionError, match="Did you mean 'tfrecord'"):
        convert(numbers(5), tmp_path / "a", to="tfrecords")


def test_a_split_becomes_one_file_for_each_part(tmp_path):
    for part in ("train", "test"):
        for number, name in enumerate(("neg", "pos")):
            (tmp_path / "films" / part / name).mkdir(parents=True)
            (tmp_path / "films" / part / name / "1.txt").write_text(f"film {number}")
    target = convert(tmp_path / "films", tmp_path / "films.lmdb", write=None)
    read = read_data(target)
    assert read.classes == ("neg", "pos") and len(read.train[1]) == len(read.valid[1]) == 2


def test_the_terminal_and_the_magic_convert(tmp_path, capsys, shell):
    (tmp_path / "t.csv").write_text("a,b,label\n1,2,x\n3,4,y\n5,6,x\n")
    assert main(["convert", str(tmp_path / "t.csv"), str(tmp_path / "t.lmdb")]) == 0
    assert "3 samples written and read back" in capsys.readouterr().out
    assert main(["convert", str(tmp_path / "t.csv"), str(tmp_path / "t.lmdb")]) == 1
    assert "exists already" in capsys.readouterr().err
    shell.user_ns["mine"] = numbers(4)
    shell.run_line_magic("trainopt", f"convert mine {tmp_path}/m.npy")
    assert read_data(tmp_path / "t.lmdb").classes == ("x", "y") and (tmp_path / "m.npy/inputs.npy").exists()


# how data are loaded ----------------------------------------------------------------------------------------------


class Sleepy(Dataset):
    "A sample takes a moment, as decoding does on a disk that is far"

    def __len__(self):
        return 240

    def __getitem__(self, place):
        time.sleep(0.02)  # long beside what busy processors add
        return torch.full((4,), place / 240), place % 2


def test_the_choice_is_measured_said_and_stored(tmp_path):
    said = []
    run = trainopt_nb.fit(
        nn.Linear(4, 2),
        Sleepy(),
        folder=tmp_path,
        write=said.append,
        tune_loading=True,
        epochs=1,
        batch_size=8,
    )
    text = "\n".join(said)
    assert "Loading was measured" in text and "samples/s" in text and run.options["workers"] > 0
    assert f"Chosen: {run.options['workers']} worker" in text


def test_what_was_asked_for_stays_where_nothing_is_clearly_faster():
    asked, near, far = (Tried(Setting(n, 2), rate, 3) for n, rate in ((0, 100.0), (1, 109.0), (2, 111.0)))
    assert choose([asked, near]) is asked and choose([asked, near, far]) is far


def test_data_in_memory_have_nothing_to_choose():
    task = Task(nn.Linear(3, 3), tuple(map(torch.as_tensor, numbers(40))))
    options, said = tune_task(task, TrainOptions(tune_loading=True))
    assert options == TrainOptions(tune_loading=True) and "the data are in memory" in said[0]


def test_files_that_fit_into_memory_are_measured_there_too(tmp_path):
    target = convert(numbers(200), tmp_path / "a.lmdb", write=None)
    options, said = tune_task(Task(nn.Linear(3, 3), target), TrainOptions(), seconds=1.0)
    assert "decoded once, in memory" in said[0] and options.workers == 0 and options.in_memory != "no"


# similar lengths --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "batch_size"), [(1, 4), (4, 4), (103, 8), (1000, 7)])
def test_each_sample_comes_once_and_only_the_last_batch_is_short(count, batch_size):
    lengths = np.random.default_rng(count).integers(1, 99, count)
    for epoch in range(2):
        places = packed_order(lengths, batch_size, 3, epoch)
        assert sorted(places.tolist()) == list(range(count))
    assert count < 9 or packed_order(lengths, batch_size, 3, 0).tolist() != places.tolist()


def test_packing_leaves_little_padding_and_trains(tmp_path):
    rng = np.random.default_rng(0)
    for label in range(2):
        (tmp_path / "data" / str(label)).mkdir(parents=True)
        for number in range(100):
            (tmp_path / "data" / str(label) / f"{number}.txt").write_text(f"w{label} " * rng.integers(1, 200))

    class Counts(nn.Module):
        seen = 0

        def __init__(self):
            super().__init__()
            self.net = nn.EmbeddingBag(1000, 2, padding_idx=0)

        def forward(self, tokens, lengths):
            assert ((tokens != 0).sum(1) == lengths).all()
            if self.training:
                Counts.seen += tokens.numel()
            return self.net(tokens)

    how = {
        "vocabulary": 1000,
        "with_lengths": True,
        "batch_size": 10,
        "epochs": 2,
        "lr": 0.05,
        "folder": tmp_path,
    }
    cost = {}
    for packed in (False, True):
        Counts.seen = 0
        run = trainopt_nb.fit(
            Counts(),
            tmp_path / "data",
            write=lambda line: None,
            pack_by_length=packed,
            valid_fraction=0.2,
            **how,
        )
        cost[packed] = Counts.seen
    assert cost[True] < 0.65 * cost[False] and run.metrics["accuracy"] == 1
