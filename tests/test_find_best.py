"A search over recipes keeps to its budget, shares what recipes have in common, gives up what is hopeless, and picks within the floor"

import time
from types import SimpleNamespace

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from trainopt_nb.api.fit import fit
from trainopt_nb.base.errors import CompressError, OptionError
from trainopt_nb.compression import budget as budget_module
from trainopt_nb.compression import find as search_module
from trainopt_nb.compression import measure as measure_module
from trainopt_nb.compression import proposals as proposals_module
from trainopt_nb.compression import session as session_module
from trainopt_nb.compression.candidate import Floor, Verdict
from trainopt_nb.compression.compress import compress
from trainopt_nb.compression.figure import Figure
from trainopt_nb.compression.find import find
from trainopt_nb.compression.front import AIMS, Merits
from trainopt_nb.compression.hopes import Hopes
from trainopt_nb.compression.proposals import Proposals
from trainopt_nb.compression.prune import PruneOptions
from trainopt_nb.compression.quantize_step import QuantizeOptions, loses_least
from trainopt_nb.compression.recipe import Recipe
from trainopt_nb.compression.serve_step import ServeOptions
from trainopt_nb.compression.served import OnnxServed, TorchServed, require_engine
from trainopt_nb.compression.session import Compression, Measured
from trainopt_nb.compression.shortlist import Shortlist
from trainopt_nb.compression.steps import STEPS, Doing, Refused, Searched, Step
from trainopt_nb.compression.timing import Times
from trainopt_nb.events.records import Epoch
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
    net = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    folder = tmp_path_factory.mktemp("runs")
    fit(net, *digits, epochs=4, lr=3e-3, device="cpu", folder=folder, write=lambda line: None)
    return net


# --- for real


def ready(found, digits, folder):
    "Whether the model that was picked is the smallest that was kept, holds the floor, and is the same when it is loaded again"
    best, original = found.best.measurement, found.candidates[0].measurement
    assert best.figure.lost(original.figure) <= 0.02
    assert best.judged.chooses.lost(original.judged.chooses) <= 0.02
    assert min(each.measurement.nbytes for each in found.candidates if each.verdict.kept) == best.nbytes
    if isinstance(found.served, OnnxServed):
        saved = found.served.save(folder / "saved")[0]
        x = digits[1][0][:5]
        assert torch.allclose(OnnxServed(saved)(x), found.served(x), atol=1e-5)
    return True


def test_one_call_finds_a_smaller_model(digits, trained, tmp_path, monkeypatch):
    "Of two recipes, so that a busy machine has time for both"
    require_engine("onnxscript", "the test")  # importing it takes seconds
    finish = "quantize int8 engine=onnxruntime"
    listed = Shortlist((finish,), ("prune",), ())
    monkeypatch.setattr(budget_module, "shortlist", lambda module, sizes: listed)
    monkeypatch.setattr(proposals_module, "_THEN", (("prune", 0.5),))
    monkeypatch.setattr(proposals_module, "_AMOUNTS", (0.5,))
    lines, more = [], {"floor": "2%", "seconds": 0.05, "folder": tmp_path, "lr": 3e-3, "batch": 1}
    found = compress(trained, digits, "best", minutes=10, aim="smallest", write=lines.append, **more)
    assert lines[0].startswith("search: 10 minutes for the smallest model: time for about ")
    names = [each.name for each in found.candidates]
    assert str(Recipe.of(finish)) in names and any(name.startswith("prune 0.5") for name in names), names
    assert ready(found, digits, tmp_path)
    assert found.best.measurement.nbytes < 0.5 * found.candidates[0].measurement.nbytes
    assert lines[-1] in repr(found) and str(found.recipe) in found.code


@pytest.mark.slow  # what it reaches in its time depends on the machine
def test_a_search_keeps_to_its_time(digits, trained, tmp_path):
    lines, more = [], {"floor": "2%", "seconds": 0.05, "folder": tmp_path, "lr": 3e-3, "batch": 1}
    require_engine("onnxscript", "the test")
    began = time.perf_counter()
    found = compress(trained, digits, "best", minutes=0.3, aim="smallest", write=lines.append, **more)
    longest = max(each.seconds for each in found.candidates)
    assert time.perf_counter() - began < 18 + longest + 5  # one step may take longer than was expected
    assert len(found.candidates) + len(found.refused) > 1 and ready(found, digits, tmp_path)


# --- its logic, with steps that take no time


class Lab:
    "Steps whose cost, speed and accuracy are known"

    def __init__(self, monkeypatch):
        self.calls, self.slow, self.epochs, self.patch = [], {}, {}, monkeypatch
        steps = {"prune": PruneOptions, "serve": ServeOptions, "quantize": QuantizeOptions}
        for name, options in steps.items():
            monkeypatch.setitem(STEPS._entries, name, Step(options, self.apply(name), ""))
        listed = Shortlist(("serve", "quantize int8"), ("prune",), ("an engine (not installed)",))
        monkeypatch.setattr(budget_module, "shortlist", lambda module, sizes: listed)
        monkeypatch.setattr(budget_module, "epoch_seconds", lambda work: 0.003)

        def judge(new, parent, original, floor, sizes):
            holds = floor.holds(new.figure, original.figure)
            return Verdict(holds, "as told" if holds else "under the floor", not holds)

        monkeypatch.setattr(session_module, "judge_candidate", judge)

    def apply(self, name):
        def run(work, options):
            text = f"{name} {options.amount:g}" if name == "prune" else name
            self.calls.append(text)
            yield Doing(name, "works")
            time.sleep(self.slow.get(name, 0))
            for number, value in enumerate(self.epochs.get(text, ()), 1):
                yield Epoch(number, number, 0.1, 0.1, {"accuracy": value}, 0.001, 1.0, 1.0, True)
            net = work.module(name)
            if name == "prune":  # narrower, by what was not needed
                keep = int(512 * (1 - options.amount))
                net[2].weight.data, net[2].bias.data = net[2].weight.data[:keep], net[2].bias.data[:keep]
                net[4].weight.data = net[4].weight.data[:, :keep]
            return TorchServed(net, text)

        return run


@pytest.fixture
def lab(monkeypatch):
    return Lab(monkeypatch)


@pytest.fixture
def session(trained, digits, tmp_path):
    options = TrainOptions(device="cpu")
    return Compression(trained, digits, None, seconds=0.01, also=(), options=options, folder=tmp_path)


def test_recipes_share_what_they_have_in_common(lab, session):
    events = list(find(session, minutes=0.5))
    pruned = [each for each in lab.calls if each.startswith("prune")]
    assert len(pruned) == len(set(pruned)) == 8  # each amount once, with all that follows on it
    steps = [each.steps for each in session.candidates]
    assert len(steps) == len(set(steps))
    by_steps = {each.steps: each for each in session.candidates}
    for each in session.candidates[1:]:
        assert by_steps[each.steps[:-1]].number == each.parent
    assert isinstance(events[-1], Searched) and events[-1].tried == len(lab.calls) == len(steps) - 1


def test_the_cheap_ways_come_first_and_clicked_candidates_count(lab, session):
    list(session.step(Recipe.of("serve")[0]))
    *_, ended = find(session, minutes=0.5)
    assert lab.calls[:3] == ["serve", "quantize", "prune 0.5"] and ended.tried == len(lab.calls) - 1


@pytest.mark.parametrize(
    ("aim", "planned", "later"),
    [
        ("fastest", {"quantize int8 engine=pt2e"}, ["quantize bf16 engine=torch"]),
        ("smallest", set(), ["quantize int8-dynamic engine=torchao", "quantize bf16 engine=torch", "quantize int8 engine=pt2e"]),
    ],
)  # fmt: skip
def test_engines_that_compile_come_late_or_not_at_all(lab, session, monkeypatch, aim, planned, later):
    bounds = {"quantize int8-dynamic engine=torchao": 2.9, "quantize bf16 engine=torch": 8.0, "quantize int8 engine=pt2e": 56.0}  # fmt: skip
    listed = Shortlist(("serve",), ("prune",), (), bounds)
    monkeypatch.setattr(budget_module, "shortlist", lambda module, sizes: listed)
    monkeypatch.setattr(search_module.Search, "_finished", lambda self: {"serve": Merits(1 / 3, 0.0, 1.0)})
    search = search_module.Search(session, 1.0, aim, 0)
    first = search.proposals.ask()
    assert first.steps == ("serve",) and not search.proposals.ahead
    search._stages.pop(0)()
    assert search.proposals.planned == planned and search.later == later
    said = (
        "quantize int8-dynamic engine=torchao (at most about 2.9× is expected of it here, and serve is 3.0×)"
    )
    assert search.listed.left_out == ((said,) if aim == "fastest" else ())


def test_a_search_on_little_data_trains_for_enough_updates(lab, session, monkeypatch):
    assert search_module.Search(session, 1.0, "fastest", 0).proposals.epochs == 29  # 21 updates each
    monkeypatch.setattr(budget_module, "epoch_seconds", lambda work: 0.01)
    assert search_module.Search(session, 0.02, "fastest", 0).proposals.epochs == 12  # a tenth of 1.2 s
    assert session.work.notes == []


def test_a_training_that_does_not_recover_is_given_up_and_larger_amounts_left_out(
    lab, trained, digits, tmp_path
):
    for amount in (0.5, 0.6, 0.7, 0.8):
        lab.epochs[f"prune {amount:g}"] = (0.2, 0.21, 0.22, 0.23, 0.24, 0.25, 0.26, 0.27)
    options = TrainOptions(device="cpu")
    session = Compression(trained, digits, "50%", seconds=0.01, also=(), options=options, folder=tmp_path)
    session.floor = session.work.floor = Floor.of("min 90%")
    events = list(find(session, minutes=0.2))
    given_up = [each for each in events if isinstance(each, Refused) and "given up" in each.reason]
    assert len(given_up) == 1 and "prune 0.5" in given_up[0].step
    assert "given up after 2 of 29 epochs: accuracy 21.0% is too far from the 90.0%" in given_up[0].reason
    assert not {"prune 0.6", "prune 0.7", "prune 0.8"} & set(lab.calls) and "prune 0.3" in lab.calls
    assert sum(isinstance(each, Epoch) for each in events) == 2


def test_a_step_that_takes_longer_than_what_is_left_is_not_begun(lab, session):
    lab.slow = {"serve": 0.2, "quantize": 0.2, "prune": 3.0}
    began = time.perf_counter()
    *_, ended = find(session, minutes=5.5 / 60)
    assert time.perf_counter() - began < 8 and ended.seconds < 8
    assert len([each for each in lab.calls if each.startswith("prune")]) <= 2
    assert "did not fit into the time" in ended.said and "an engine (not installed)" in ended.said


def test_a_search_that_is_closed_takes_the_best_until_then(lab, session):
    going = find(session, minutes=1)
    for event in going:
        if isinstance(event, Measured) and event.candidate.number == 2:
            break
    assert session.taken == 0 and session.work.seconds < 1
    going.close()
    assert session.work.seconds == 0.01 and session.taken in (0, 1, 2)
    list(session.step(Recipe.of("prune 0.3")[0]))
    assert session.candidates[3].number == 3


def test_the_finalists_are_measured_again_and_that_decides(lab, session, monkeypatch):
    def latencies(models, inputs, seconds):
        "Only one of them is fast"
        fast = min(range(1, len(models)), key=lambda at: models[at].nbytes)
        return [
            {size: Times((0.001 if at == fast else 0.01 if at else 0.005,) * 11) for size in inputs}
            for at in range(len(models))
        ]

    monkeypatch.setattr(search_module, "latencies", latencies)
    events = list(find(session, minutes=0.2))
    again = [each.candidate for each in events if isinstance(each, Measured) and each.again]
    assert again[0].number == 0 and 2 <= len(again) <= 5
    smallest = min(again[1:], key=lambda each: each.measurement.nbytes)
    assert events[-1].best == session.taken and session.best.speedups[1] == pytest.approx(5)
    assert session.best.measurement.nbytes == smallest.measurement.nbytes
    assert events[-1].best in events[-1].front


def test_the_original_stays_where_nothing_serves_the_aim(lab, trained, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(session_module, "judge_candidate", lambda *_: Verdict(False, "slower"))
    more = {"seconds": 0.01, "device": "cpu", "folder": tmp_path, "write": lambda line: None}
    found = compress(trained, digits, "best", minutes=0.05, **more)
    assert found.taken == 0 and "None of them is faster than the original" in repr(found)
    assert found.code.startswith("compressed_model = model")


@pytest.mark.parametrize("aim", AIMS)
def test_what_is_no_better_than_the_original_is_not_the_pick(lab, session, monkeypatch, aim):
    def latencies(models, inputs, seconds):
        "All are a little slower than the original"
        return [
            {size: Times((0.00102 if at else 0.001,) * 11) for size in inputs} for at in range(len(models))
        ]

    monkeypatch.setattr(measure_module, "latencies", latencies)
    monkeypatch.setattr(search_module, "latencies", latencies)
    list(session.step(Recipe.of("serve")[0]))
    assert session.taken == 1
    *_, ended = find(session, minutes=1, aim=aim)
    smaller = [
        each
        for each in session.candidates
        if each.measurement.nbytes < session.candidates[0].measurement.nbytes
    ]
    assert smaller and (
        ended.best in {each.number for each in smaller} if aim == "smallest" else ended.best is None
    )
    assert session.taken == (ended.best or 0)
    assert aim == "smallest" or "None of them is faster than the original within the floor" in ended.said


@pytest.mark.parametrize(
    ("recipe", "more", "match"),
    [
        ("best", {"minutes": 0}, "minutes takes 0.02 to 10000, and got 0"),
        ("best", {"minutes": "two"}, "minutes takes 0.02 to 10000, and got 'two'"),
        ("best", {"aim": "quickest"}, "aim takes fastest, smallest, accurate, and got 'quickest'"),
        ("prune 0.5", {"minutes": 2}, "minutes belongs to a search"),
        ("prune 0.5", {"minutes": 2, "aim": "fastest"}, "minutes and aim belongs? to a search"),
        ("bets", {}, "no compression step 'bets'"),
    ],
)
def test_what_a_search_cannot_mean_is_one_sentence(lab, trained, digits, tmp_path, recipe, more, match):
    with pytest.raises(OptionError, match=match):
        compress(trained, digits, recipe, seconds=0.01, device="cpu", folder=tmp_path, **more)


def test_the_same_seed_proposes_the_same():
    def proposed(seed):
        proposals = Proposals(Shortlist(("serve", "quantize int8"), ("prune", "lowrank"), ()), 3, seed)
        found = []
        for _ in range(16):
            if proposal := proposals.ask():
                found.append(proposal.steps)
                proposals.tell(proposal, Merits(0.5 - proposal.amount / 2, proposal.amount / 50, 0.3), 0.01)
        return found

    assert proposed(1) == proposed(1) != proposed(2) and len(proposed(1)) > 10


def test_a_step_that_refuses_itself_late_is_refused_once(lab, trained, digits, tmp_path, monkeypatch):
    def refuse(work, options):
        raise CompressError("It does not fit.")
        yield

    monkeypatch.setitem(STEPS._entries, "serve", Step(ServeOptions, refuse, ""))
    session = Compression(trained, digits, seconds=0.02, folder=tmp_path)
    search = search_module.Search(session, 1.0, "fastest", 0)
    monkeypatch.setattr(search_module.Search, "left", property(lambda self: 0.0))
    events = list(search._step(Recipe.of("serve")[0], 0))
    assert [event for event in events if isinstance(event, Refused)] == session.refused
    assert len(session.refused) == 1 and session.refused[0].reason == "It does not fit."


def test_the_model_that_loses_least_is_chosen_where_none_holds_the_floor():
    judged = lambda value: SimpleNamespace(
        judged=SimpleNamespace(chooses=Figure("mae", value, None, None, 300, "min"))
    )
    assert loses_least([judged(1.0), judged(3.0), judged(2.0), judged(4.0)]) == 2


def test_there_is_hope_while_the_metric_rises():
    original = Figure("mae", 10.0, None, None, 300, "min")
    epoch = lambda number, value: Epoch(number, 1, 0.1, 0.1, {"mae": value}, 0.001, 1.0, 1.0, True)
    rising, flat, without = (Hopes(Floor.of(floor), original, 6) for floor in ("5%", "5%", None))
    assert not any(rising(epoch(i, value)) for i, value in enumerate((30, 20, 14, 12, 11), 1))
    assert not flat(epoch(1, 30)) and "mae" in flat(epoch(2, 29.9))
    assert not without(epoch(1, 99)) and not without(epoch(2, 99))
