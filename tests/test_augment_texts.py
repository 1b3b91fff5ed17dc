"Augmentation of texts: rates are those that were asked for, and one seed gives one result whatever the workers and the stops"

import pickle
from random import Random

import pytest
import torch
from helpers import follow, quiet, run_until_killed, until, weights
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from torch import nn

from trainopt_nb import OptionError, Task, TrainOptions, find_run, fit, resume
from trainopt_nb.augment.policy import KINDS, Operation, read_policy
from trainopt_nb.augment.synonyms import find_synonyms, usual_synonyms
from trainopt_nb.augment.texts import TextAugment, make_text_augment
from trainopt_nb.augment.words import Means
from trainopt_nb.base.errors import DataError, TaskError
from trainopt_nb.events.records import Note, Step
from trainopt_nb.store.checkpoint import load_checkpoint
from trainopt_nb.train.loop import train
from trainopt_nb.train.prepare import prepare

NAMES = list(KINDS["texts"])
MANY = "synonym:0.3 swap delete insert reorder"
WORDS = "the king begins to buy a big city quickly and people talk of it".split()
MEANS = Means(find_synonyms(), str.upper)


def write_texts(folder, count=60):
    draw = Random(1)
    for number in range(count):
        place = folder / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        words = [WORDS[int(draw.random() * len(WORDS))] for _ in range(12)]
        (place / f"{number:03}.txt").write_text(
            " ".join(["good", "bad"][number % 2 :][:1] + words[:6]) + ". " + " ".join(words[6:]) + "."
        )
    return str(folder)


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.last = nn.Embedding(512, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.last(self.words(x).mean(1))


def flags(**more):
    return {"device": "cpu", "vocabulary": 512, "batch_size": 16, "augment": MANY, **more}


# --- the effects


@examples(40)
@given(st.sampled_from(NAMES), st.text(max_size=60), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_any_text_and_strength(name, text, strength, seed):
    change = TextAugment(read_policy(f"{name}:{strength}", kind="texts"), seed, MEANS)
    changed = change(text, 0, 0)
    assert isinstance(changed, str) and bool(changed.strip()) == bool(text.strip())
    assert change(text, 0, 0) == changed
    still = TextAugment(read_policy(f"{name}:0", kind="texts"), seed, MEANS)
    assert still(text, 0, 0) == text


def test_rates_are_those_that_were_asked_for():
    text = " ".join(f"w{number}" for number in range(4000))
    rate = lambda policy: len(TextAugment(read_policy(policy, kind="texts"), 0)(text, 0, 0).split()) / 4000
    assert rate("delete:0.25") == pytest.approx(0.75, abs=0.02)
    assert rate("insert:0.25") == pytest.approx(1.25, abs=0.02)
    swapped = TextAugment(read_policy("swap:0.25", kind="texts"), 0)(text, 0, 0).split()
    assert sorted(swapped) == sorted(text.split())
    moved = sum(a != b for a, b in zip(swapped, text.split(), strict=True)) / 4000
    assert moved == pytest.approx(0.25, abs=0.04)
    known = [word for word in usual_synonyms() if word.isalpha()][:4000]
    other = TextAugment(read_policy("synonym:0.25", kind="texts"), 0, MEANS)(" ".join(known), 0, 0).split()
    changed = [(a, b) for a, b in zip(known, other, strict=True) if a != b]
    assert len(changed) / len(known) == pytest.approx(0.25, abs=0.03)
    assert all(b in usual_synonyms()[a] for a, b in changed)


def test_each_text_and_each_epoch_has_draws_of_its_own():
    text = " ".join(WORDS)
    change = TextAugment(read_policy("swap:0.5", kind="texts"), 0)
    assert len({change(text, 0, place) for place in range(20)}) > 17
    assert len({change(text, epoch, 0) for epoch in range(20)}) > 17
    assert change(text, 0, 0) != TextAugment(change.policy, 1)(text, 0, 0)


def test_only_training_texts_are_changed(tmp_path):
    folder = write_texts(tmp_path / "data")
    for valid, fraction in ((folder, 0.0), (None, 0.3)):
        options = TrainOptions(**flags(augment="delete:0.5", valid_fraction=fraction, shuffle=False))
        prepared = prepare(Task(Bag(), folder, valid), options)
        plain = prepare(Task(Bag(), folder, valid), options.replace(augment="none"))
        for part, same in (("train", False), ("valid", True)):
            rows = [torch.cat([x for x, _ in getattr(p.data, part).epoch(1)]) for p in (prepared, plain)]
            assert torch.equal(*rows) is same, (part, fraction)
        assert "augment" in {row.topic for row in prepared.assumptions}


# --- one seed gives one result


@pytest.mark.slow
def test_workers_and_packing_change_nothing(tmp_path):
    folder = write_texts(tmp_path / "data")
    for packed in (False, True):
        found = []
        for workers in (0, 2):
            model = Bag()
            how = flags(epochs=3, workers=workers, pack_by_length=packed)
            fit(model, folder, folder=tmp_path / "runs", write=quiet, **how)
            found.append(weights(model))
        plain = Bag()
        fit(plain, folder, folder=tmp_path / "runs", write=quiet, **how | {"augment": "none"})
        assert torch.equal(*found) and not torch.equal(found[0], weights(plain))


@pytest.mark.parametrize("workers", [0, 2])
def test_stopped_and_resumed_is_uninterrupted(workers, tmp_path):
    folder, options = write_texts(tmp_path / "data"), TrainOptions(**flags(epochs=3, workers=workers))
    whole, again = Bag(), Bag()
    follow(train(Task(whole, folder), options))
    at = lambda e: type(e) is Step and e.step == 6  # within the second epoch
    assert follow(train(Task(Bag(), folder), options, tmp_path), at)[-1].state == "stopped"
    _, model_state, training, _ = load_checkpoint(tmp_path / "checkpoints")
    events = follow(train(Task(again, folder), options, tmp_path, checkpoint=(model_state, training)))
    assert events[-1].state == "finished" and torch.equal(weights(whole), weights(again))
    assert not [e.text for e in events if type(e) is Note and "resume" in e.text]


KILLED = """
import sys
from test_augment_texts import Bag, flags, quiet
from trainopt_nb import fit
fit(Bag(), sys.argv[1], folder=sys.argv[2], save_steps=1, write=quiet, **flags(epochs=3))
"""


@pytest.mark.slow
def test_killed_and_resumed_is_uninterrupted(tmp_path):
    folder = write_texts(tmp_path / "data")
    run_until_killed(KILLED, folder, tmp_path / "killed")
    run = until(lambda: find_run(None, tmp_path / "killed"), "the killed run")
    assert 4 < run.progress.step < 12
    again, whole = Bag(), Bag()
    resume(None, again, folder, folder=tmp_path / "killed", write=quiet)
    fit(whole, folder, folder=tmp_path / "whole", write=quiet, **flags(epochs=3))
    assert torch.equal(weights(again), weights(whole))


# --- what the user gives


def test_a_translation_and_synonyms_of_the_users_own(tmp_path):
    folder, seen = write_texts(tmp_path / "data"), []

    def translate(text):
        seen.append(text)
        return text.replace("king", "queen")

    how = flags(
        epochs=2,
        augment="back-translate:1 synonym:1",
        back_translation=translate,
        synonyms={"queen": ["duke"]},
    )
    model = Bag()
    run = fit(model, folder, folder=tmp_path / "runs", write=quiet, **how)
    assert run.state == "finished" and len(seen) >= 120
    change = make_text_augment("back-translate:1 synonym:1", 1.0, 0, {"queen": ["duke"]}, translate)
    assert change("The king. King", 0, 0) == "The duke. King"
    with pytest.raises(Exception, match="Pass it again"):
        resume(None, Bag(), folder, folder=tmp_path / "runs", write=quiet)


def refused(error, match, data, **options):
    with pytest.raises(error, match=match) as caught:
        prepare(Task(Bag(), data), TrainOptions(device="cpu", vocabulary=512, **options))
    text = str(caught.value)
    assert "\n" not in text and text.endswith((".", "?", "'wrong'"))


def test_wrong_input_gets_one_sentence(tmp_path):
    folder = write_texts(tmp_path / "data")
    refused(
        OptionError,
        "pitch is for sounds, and the data are texts, which have synonym",
        folder,
        augment="pitch",
    )
    refused(OptionError, "noise is for images and sounds", folder, augment="noise")
    refused(OptionError, "needs a function from text to text", folder, augment="back-translate")
    refused(
        DataError,
        "no folder of WordNet's files: cntlist.rev is missing",
        folder,
        augment="synonym",
        synonyms=str(tmp_path),
    )
    ids = torch.randint(1, 512, (40, 7)), torch.arange(40) % 2
    refused(
        DataError,
        "rewrites texts before they become numbers, and train_data holds numbers",
        ids,
        augment="swap",
    )

    def wrong(text):
        raise KeyError("wrong")

    refused(
        TaskError,
        "back-translate fails on text 0 of the training data: KeyError: 'wrong'",
        folder,
        augment="back-translate:1",
        back_translation=wrong,
    )
    refused(
        TaskError,
        "must give a text, and gave a list",
        folder,
        augment="back-translate:1",
        back_translation=str.split,
    )
    refused(OptionError, "crop for images, swap for texts", folder, augment="crop swap")


def shout(text, draw, strength, means):
    return text.upper()


def test_an_own_operation_reaches_worker_processes_that_are_not_forked():
    KINDS["texts"].register("shout", Operation(draws=0, rewrite=shout))
    try:
        sent = pickle.dumps(make_text_augment("shout"))
    finally:
        KINDS["texts"].remove("shout")
    assert pickle.loads(sent)("a word", 0, 0) == "A WORD"  # where the operation was never registered
