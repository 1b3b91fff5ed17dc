"Which engine quantizes, and which layers stay in float: chosen by what was measured"

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from trainopt_nb.api.fit import fit
from trainopt_nb.base.errors import CompressError
from trainopt_nb.compression.candidate import Floor
from trainopt_nb.compression.engines import ENGINES, Engine
from trainopt_nb.compression.examples import examples
from trainopt_nb.compression.int8_training import train_for_int8
from trainopt_nb.compression.judge import Judge
from trainopt_nb.compression.quantize import quantizing
from trainopt_nb.compression.quantize_step import QuantizeOptions, quantize_step
from trainopt_nb.compression.served import TorchServed
from trainopt_nb.compression.steps import LayersCost, Work
from trainopt_nb.task.task import Task
from trainopt_nb.task.train_options import TrainOptions


@pytest.fixture(scope="module")
def data():
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    return (x[:1000], y[:1000]), (x[1000:], y[1000:])


@pytest.fixture(scope="module")
def net(data, tmp_path_factory):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    more = {"epochs": 3, "lr": 3e-3, "device": "cpu", "write": lambda line: None}
    fit(net, *data, folder=tmp_path_factory.mktemp("runs"), **more)
    return net


def drain(events):
    "What a generator yields, and what it returns"
    found = []
    while True:
        try:
            found.append(next(events))
        except StopIteration as end:
            return [*found, end.value]


def test_engines_that_compile_come_last_and_not_where_another_is_faster_than_they_can_be(
    net, data, monkeypatch
):
    model, batches = net, examples(data[0][0])
    tried, speeds = [], {"slow": 9.0, "quick": 3.0, "later": 1.0}

    def engine(name, most):
        def make(wish):
            tried.append(name)
            return TorchServed(model, name)

        return Engine("int8", name, make, most=most)

    known = {"slow": engine("slow", lambda wish: 4.0), "hopeless": engine("hopeless", lambda wish: 2.5)}
    known |= {"quick": engine("quick", None), "later": engine("later", lambda wish: 3.5)}
    monkeypatch.setattr("trainopt_nb.compression.quantize._chosen", lambda kind, engine: known)
    look = lambda served: speeds[served.name]
    *_, found = drain(quantizing(model, batches, look=look))
    assert tried == ["quick", "slow"] and [each.engine for each in found] == list(known)
    assert found[1].reason.startswith(
        "not tried, because at most about 2.5× is expected of it here and slow is 9.0×"
    )
    assert "engine=later tries it" in found[3].reason and found[2].speedup == 3.0
    *_, found = drain(quantizing(model, batches))  # nothing is known of their speed
    assert all(each.served for each in found)


class Flipping(nn.Module):
    "Gives another class for one sample in forty"

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        scores, off = self.model(x), (1000 * x.flatten(1).sum(1)).long() % 40 == 0
        return torch.where(off[:, None], scores.roll(1, 1), scores)


@pytest.mark.parametrize("keep", ["", "auto"])
def test_layers_that_int8_harms_most_stay_in_float_where_the_floor_is_missed(
    net, data, monkeypatch, keep, tmp_path
):
    make = lambda wish: TorchServed(wish.module if wish.keep_float else Flipping(wish.module), "made")
    monkeypatch.setitem(ENGINES._entries, "harms", Engine("int8", "harms", make))
    monkeypatch.setattr(
        "trainopt_nb.compression.quantize_step.layers_to_keep", lambda effects, *_: [effects[0].layer]
    )
    task, options = Task(net, *data), TrainOptions(device="cpu")
    original = TorchServed(net, "fp32")
    work = Work(original, original, task, options, Judge(task, options), seconds=0.01, folder=tmp_path)
    work.floor = Floor.of("0.5%")
    *events, served = drain(quantize_step(work, QuantizeOptions("int8", engine="harms", keep=keep)))
    (costs,) = [each for each in events if isinstance(each, LayersCost)]
    assert type(served.module) is type(net) and len(costs.costs) == len(costs.costs.keys() | set(costs.kept))
    assert any(
        f"stay in float, because int8 harms the outputs most there: {costs.kept[0]}." in note
        for note in work.notes
    )
    assert sum("chosen" in note for note in work.notes) == 1
    assert any("harms without 1 layer:" in note for note in work.notes) == (not keep)


def test_epochs_train_the_network_to_bear_int8_before_an_engine_quantizes_it(net, data, tmp_path):
    before = net[0].weight.clone()
    task, options = Task(net, *data), TrainOptions(device="cpu", lr=1e-3)
    original = TorchServed(net, "fp32")
    work = Work(original, original, task, options, Judge(task, options), seconds=0.01, folder=tmp_path)
    wish = QuantizeOptions("int8", engine="onnxruntime int8 products", epochs=1)
    *events, served = drain(quantize_step(work, wish))
    assert any(getattr(each, "train_loss", None) for each in events), "it was a run"
    assert "Trained with layers that round as int8 does (epochs: 1, layers: 2)." in work.notes
    assert torch.equal(net[0].weight, before), "the original is as it was"
    x, y = data[1]
    right = sum(
        int(served(part).argmax(1).eq(label).sum()) for part, label in zip(x.split(1), y, strict=True)
    )
    assert right / len(y) > work.judge(original).whole.value - 0.02
    with pytest.raises(CompressError, match="bf16 needs no training: leave epochs out"):
        drain(quantize_step(work, QuantizeOptions("bf16", epochs=1)))
    work.served = TorchServed(nn.LayerNorm(64), "no layers")
    with pytest.raises(CompressError, match="has none that would round: leave epochs out"):
        drain(train_for_int8(work, 1))


def test_a_missed_floor_names_the_training_for_int8(net, data, monkeypatch, tmp_path):
    make = lambda wish: TorchServed(Flipping(wish.module), "made")
    monkeypatch.setitem(ENGINES._entries, "harms", Engine("int8", "harms", make))
    task, options = Task(net, *data), TrainOptions(device="cpu")
    original = TorchServed(net, "fp32")
    work = Work(original, original, task, options, Judge(task, options), seconds=0.01, folder=tmp_path)
    work.floor = Floor.of("0.5%")
    drain(quantize_step(work, QuantizeOptions("int8", engine="harms", keep="0")))
    assert work.notes[-1] == "The floor is missed: epochs=auto trains the network to bear int8."
