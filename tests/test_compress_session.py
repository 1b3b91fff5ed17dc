"Steps are stacked on any kept candidate, taken, undone; a step that fails is said and loses nothing"

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from trainopt_nb.api.fit import fit
from trainopt_nb.base.errors import CompressError, OptionError
from trainopt_nb.base.options import Options
from trainopt_nb.compression import measure as measure_module
from trainopt_nb.compression.candidate import Verdict
from trainopt_nb.compression.compress import compress, line_of
from trainopt_nb.compression.compressed import Compressed
from trainopt_nb.compression.recipe import Recipe
from trainopt_nb.compression.served import TorchServed
from trainopt_nb.compression.session import Compression, Measured
from trainopt_nb.compression.steps import STEPS, Doing, Refused, Step
from trainopt_nb.task.train_options import TrainOptions


@pytest.fixture(scope="module")
def digits():
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    x, y = torch.tensor(images / 16, dtype=torch.float32)[order], torch.tensor(labels)[order]
    return (x[:1300], y[:1300]), (x[1300:], y[1300:])


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    folder = tmp_path_factory.mktemp("runs")
    fit(net, *digits, epochs=4, lr=3e-3, device="cpu", folder=folder, write=lambda line: None)
    return net


@pytest.fixture
def session(trained, digits, tmp_path):
    return Compression(
        trained, digits, "3%", seconds=0.05, also=(), options=TrainOptions(device="cpu"), folder=tmp_path
    )


def narrow(share):
    "A step that keeps the first channels of the first hidden layer, which is quick"

    def apply(work, options):
        yield Doing("narrow", "cuts")
        net = work.module("narrow")
        count = int(net[0].out_features * share)
        net[0].weight.data, net[0].bias.data = net[0].weight.data[:count], net[0].bias.data[:count]
        net[2].weight.data = net[2].weight.data[:, :count]
        net[0].out_features = net[2].in_features = count
        return TorchServed(net, f"narrowed to {count}")

    return Step(Options, apply, "narrow")


def fails(error):
    def apply(work, options):
        yield Doing("fails", "begins")
        raise error

    return Step(Options, apply, "fail")


@pytest.fixture
def steps():
    "Steps that are quick, and such that fail"
    own = {
        "narrow": narrow(0.9),
        "cut": narrow(0.02),
        "refuses": fails(CompressError("This model has no such layers.")),
        "library": fails(ValueError("Unsupported: aten::foo\n  at graph node 7")),
        "memory": fails(RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried")),
    }  # fmt: skip
    for name, step in own.items():
        STEPS.register(name, step)
    yield Recipe.of(", ".join(own))
    for name in own:
        STEPS.remove(name)


@pytest.fixture
def always_kept(monkeypatch):
    "Take the noise of timings out: only the floor refuses"
    from trainopt_nb.compression import session as module

    def judge(new, parent, original, floor, sizes):
        holds = floor.holds(new.figure, original.figure)
        return Verdict(holds, "faster" if holds else "under the floor", not holds)

    monkeypatch.setattr(module, "judge_candidate", judge)


def test_a_step_starts_from_what_is_taken_or_from_any_kept_candidate(session, steps, always_kept):
    narrow = steps[0]
    for start in (None, None, 1, 0):
        list(session.step(narrow, start))
    assert [each.number for each in session.candidates] == [0, 1, 2, 3, 4]
    assert [each.parent for each in session.candidates] == [-1, 0, 1, 1, 0]
    assert session.candidates[3].steps == ("narrow", "narrow") and session.candidates[4].steps == ("narrow",)
    widths = [each.served.module[0].out_features for each in session.candidates]
    assert widths == [128, 115, 103, 103, 115]


def test_taking_and_undoing(session, steps, always_kept):
    for start in (None, None, 0):
        list(session.step(steps[0], start))
    assert session.taken == 3 and session.earlier == [0, 1, 2]
    assert session.take(1).number == 1 and session.result.recipe == Recipe.of("narrow")
    session.take(1)  # again: nothing to undo more than once
    assert [session.undo().number for _ in range(4)] == [3, 2, 1, 0]
    assert session.result.best is session.candidates[0] and not session.result.recipe
    with pytest.raises(CompressError, match=r"nothing to undo.*'original'"):
        session.undo()
    with pytest.raises(CompressError, match="no candidate 9: there are 0 to 3"):
        session.take(9)


def test_only_the_new_model_is_judged_and_all_are_timed(session, steps, always_kept, monkeypatch):
    judged, timed, latencies = [], [], measure_module.latencies

    def timing(models, inputs, seconds):
        timed.append([each.name for each in models])
        return latencies(models, inputs, seconds)

    judge = session.judge
    monkeypatch.setattr(session, "judge", lambda served: judged.append(served.name) or judge(served))
    monkeypatch.setattr(measure_module, "latencies", timing)
    for _ in range(2):
        list(session.step(steps[0]))
    first, one, two = session.candidates
    assert judged == ["narrowed to 115", "narrowed to 103"]
    assert timed == [["fp32", "narrowed to 115"], ["fp32", "narrowed to 115", "narrowed to 103"]]
    assert two.measurement.macs < one.measurement.macs < first.measurement.macs
    assert len(first.measurement.times[1].calls) == len(two.measurement.times[1].calls)  # of the same turns


def test_a_refused_candidate_is_neither_taken_nor_stacked_on(session, steps, always_kept):
    *_, measured = session.step(steps[1])
    assert measured.candidate.verdict.under_floor and session.taken == 0
    with pytest.raises(CompressError, match=r"Candidate 1 \(cut\) cannot be taken.*under the floor"):
        session.take(1)
    (refused,) = session.step(steps[0], start=1)
    assert isinstance(refused, Refused) and "cannot be taken" in refused.reason
    assert session.result.model[0].out_features == 128


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (2, "This model has no such layers."),
        (3, "It failed (ValueError: Unsupported: aten::foo at graph node 7)."),
        (4, "The memory does not suffice"),
    ],
)
def test_a_step_that_fails_is_an_event_and_the_session_goes_on(session, steps, always_kept, place, said):
    *_, refused = session.step(steps[place])
    assert (
        refused.step == steps[place].name and refused.reason.startswith(said) and "\n" not in refused.reason
    )
    assert line_of(refused).startswith(f"{steps[place].name} made no candidate: {said}")
    *_, measured = session.step(steps[0])
    assert isinstance(measured, Measured) and session.taken == 1
    assert f"{steps[place].name} made no candidate: {said}" in repr(session.result)


def test_a_closed_step_leaves_the_session_as_it_was(session, steps, always_kept):
    going = session.step(steps[0])
    next(going)
    going.close()
    assert len(session.candidates) == 1 and session.taken == 0 and not session.refused
    *_, measured = session.step(steps[0])
    assert measured.candidate.number == 1


def test_a_recipe_goes_on_after_a_step_that_fails(trained, digits, tmp_path, steps, always_kept):
    lines, more = [], {"floor": "3%", "seconds": 0.05, "device": "cpu", "folder": tmp_path}
    found = compress(trained, digits, "narrow, library, narrow", write=lines.append, **more)
    assert len(found.candidates) == 3 and found.recipe == Recipe.of("narrow, narrow")
    assert [each.step for each in found.refused] == ["library"]
    assert any(line.startswith("library made no candidate: It failed (ValueError") for line in lines)
    with pytest.raises(
        CompressError, match=r"refuses made no candidate: This model.* library made no candidate"
    ):
        compress(trained, digits, "refuses, library", write=lines.append, **more)


@pytest.mark.slow
def test_the_code_of_a_recipe_makes_the_model_again(trained, digits, tmp_path, steps, always_kept):
    more = {"floor": "3%", "seconds": 0.05, "device": "cpu", "folder": str(tmp_path), "batch": (2, 4)}
    found = compress(trained, digits, "narrow, narrow", write=lambda line: None, lr=0.002, **more)
    names = {"model": trained, "task": digits}
    assert "lr=0.002" in found.code and "batch=(2, 4)" in found.code and "floor='3%'" in found.code
    exec(found.code, names)
    again = names["compressed"]
    assert isinstance(again, Compressed) and again.recipe == found.recipe
    assert torch.equal(again.model[0].weight, found.model[0].weight)
    original = compress(trained, digits, "cut", write=lambda line: None, **more)
    exec(original.code, names)
    assert names["compressed_model"] is trained


def test_batch_sizes_are_checked(trained, digits):
    with pytest.raises(OptionError, match="batch takes whole numbers"):
        compress(trained, digits, "prune 0.5", batch=0)
