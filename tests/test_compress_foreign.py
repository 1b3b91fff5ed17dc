"Models as others write them: what they do differently is compressed, or refused with the reason"

import threading
from http import HTTPStatus

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trainopt_nb.base.errors import CompressError
from trainopt_nb.compression.channels import find_channels, remove_channels
from trainopt_nb.compression.compiled import CompiledServed
from trainopt_nb.compression.examples import examples
from trainopt_nb.compression.factor import can_factor, factor, full_rank
from trainopt_nb.compression.importance import Importance
from trainopt_nb.compression.judge import Judge
from trainopt_nb.compression.loss_of_scores import LOSSES, find_loss
from trainopt_nb.compression.program import to_program
from trainopt_nb.compression.rebuild import CodeServed, read_code
from trainopt_nb.compression.recipe import read_step
from trainopt_nb.compression.served import TorchServed
from trainopt_nb.compression.session import Compression
from trainopt_nb.compression.to_onnx import to_onnx
from trainopt_nb.task.task import Task
from trainopt_nb.task.train_options import TrainOptions

X, Y = torch.randn(64, 16, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 4


def done(session, text):
    "Run one step on the original; return what it yielded last"
    return list(session.step(read_step(text), start=0, take=False))[-1]


class OwnLoss(nn.Module):
    "Takes labels and returns the loss beside the scores, as models of transformers do"

    def __init__(self, factor=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.factor = nn.Linear(16, 4), factor

    def forward(self, x, labels=None):
        scores = self.layer(x)
        if labels is None:
            return {"logits": scores}
        return {"loss": self.factor * F.cross_entropy(scores, labels), "logits": scores}


def only_scores(model):
    "A runtime whose file takes no labels"
    return lambda x, **named: {"logits": model(x)["logits"]}


def test_the_loss_that_a_model_returns_is_computed_for_a_runtime_that_returns_only_scores():
    model, data = OwnLoss(), {"x": X, "labels": Y}
    judge = Judge(Task(model, data, data))
    assert judge.name == "valid_loss"
    own, other = judge(TorchServed(model)).whole, judge(only_scores(model)).whole
    assert other.value == pytest.approx(own.value) == pytest.approx(model(X, Y)["loss"].item())


def test_a_loss_that_scores_do_not_give_is_refused_unless_a_metric_decides():
    model, data = OwnLoss(1.5), {"x": X, "labels": Y}
    with pytest.raises(CompressError, match=r"computes its loss itself.*metrics='accuracy'"):
        Judge(Task(model, data, data))(only_scores(model))
    judge = Judge(Task(model, data, data), TrainOptions(device="cpu", metrics="accuracy"))
    assert judge(only_scores(model)).whole == judge(TorchServed(model)).whole


@pytest.mark.parametrize("name", LOSSES)
def test_each_known_loss_is_told_from_the_others(name):
    torch.manual_seed(0)
    scores, labels = torch.randn(6, 5, 5), torch.randint(5, (6, 5))
    if name == "squared error":
        scores, labels = torch.randn(6, 1), torch.randn(6)
    elif name.startswith("binary"):
        scores, labels = torch.randn(6, 3), torch.randint(2, (6, 3)).float()
    assert find_loss(scores, labels, LOSSES[name](scores, labels)) == name
    assert find_loss(scores, labels, LOSSES[name](scores, labels) + 0.1) is None


class ReadsWeight(nn.Module):
    "Multiplies by the weight of a layer that it does not call"

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Linear(16, 64), nn.Linear(64, 64), nn.Linear(64, 4)

    def forward(self, x):
        return self.head(F.linear(self.first(x).relu(), self.second.weight).relu())


def test_a_layer_whose_weight_the_model_reads_itself_is_left_and_the_others_become_thinner():
    session = Compression(ReadsWeight(), ((X, Y), (X, Y)), None, (1,), (), 1, 0.01)
    list(session.step(read_step("lowrank 0.1 size epochs=0"), start=0, take=False))
    assert not session.refused
    said = " ".join(session.candidates[-1].notes)
    assert "network fails with thinner layers in their place: second (AttributeError" in said
    assert "Replacing 1 layer by" in said


class Standardized(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight / self.weight.norm(), self.bias)


class Three(nn.Conv2d):
    "A convolution with a constructor of its own"

    def __init__(self, width):
        super().__init__(width, width, 3)


def test_a_convolution_of_another_class_becomes_thinner_only_where_it_computes_as_pytorchs():
    torch.manual_seed(0)
    layer, x = Three(16), torch.randn(2, 16, 5, 5)
    assert not can_factor(Standardized(16, 16, 3)) and can_factor(layer)
    torch.testing.assert_close(factor(layer, full_rank(layer))(x), layer(x), atol=1e-4, rtol=1e-4)


def test_a_step_that_changes_nothing_makes_no_candidate():
    thin = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))
    session = Compression(thin, ((X, Y), (X, Y)), None, (1,), (), 1, 0.01)
    for text in ("lowrank 0.01 size epochs=0", "prune 0.01 size epochs=0 round_to=12"):
        assert done(session, text).reason.startswith(
            ("No layer was made thinner", "No channels were removed", "This model")
        )
    assert not session.candidates[1:]


class Attention(nn.Module):
    "Heads come before queries, keys and values among the outputs of a layer, or after them"

    def __init__(self, heads_first):
        super().__init__()
        torch.manual_seed(0)
        self.num_heads, self.head_dim, self.heads_first = 4, 4, heads_first
        self.qkv, self.proj, self.head = nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x):
        order = (self.num_heads, 3) if self.heads_first else (3, self.num_heads)
        parts = self.qkv(x).unflatten(-1, (*order, self.head_dim))
        q, k, v = parts.movedim(-2 if self.heads_first else -3, 0).transpose(2, 3)
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head(x + self.proj(out)).mean(1)


def wrapped(heads_first):
    return nn.Sequential(nn.Linear(8, 16), Attention(heads_first))


def test_heads_are_removed_only_where_their_order_is_known():
    words = torch.randn(2, 5, 8)
    net = wrapped(False)
    channels = find_channels(net, words)
    fewer = remove_channels(net, words, 0.5, Importance("magnitude", net), channels, "local")
    assert channels.heads and fewer[1].num_heads == 2
    with pytest.raises(CompressError, match="heads in an order that is not known"):
        find_channels(wrapped(True), words)


class Windows(nn.Module):
    "Makes a plain number of the batch size"

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        windows = self.layer(x.reshape(-1, 4))
        return self.head(windows.view(int(windows.shape[0] / 4), 4, 4).mean(1))


@pytest.mark.parametrize("export", [to_onnx, to_program])
def test_a_model_that_fixes_the_batch_size_is_refused_with_the_line_to_change(export):
    with pytest.raises(CompressError, match="plain number of the batch size"):
        export(Windows(), examples(X))


class Aux(nn.Module):
    "Returns a number for the batch, and states whose first axis is not the batch"

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(16, 4)

    def forward(self, x):
        scores = self.layer(x)
        return {
            "logits": scores,
            "mean": scores.mean(),
            "states": torch.stack([scores, 2 * scores, 3 * scores]),
        }


def test_outputs_without_a_row_for_each_sample_are_never_computed_in_parts(monkeypatch):
    monkeypatch.setattr("trainopt_nb.compression.compiled.compiled", lambda program, tensors: program)
    model = Aux()
    served = CompiledServed(to_program(model, examples(X)), (1, 3))
    for size in (1, 3, 5):
        torch.testing.assert_close(served(X[:size]), model(X[:size]))


class Keeps(nn.Module):
    "Keeps what a call computed, with its graph, as LeViT keeps its biases"

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.scale, self.kept, self.head = (
            nn.Linear(16, 32),
            nn.Parameter(torch.ones(1)),
            None,
            nn.Linear(32, 4),
        )

    def forward(self, x):
        if self.training or self.kept is None:
            self.kept = None if self.training else 2 * self.scale
        return self.head(self.layer(x).relu() * 2 * self.scale)


def test_a_model_that_keeps_what_a_call_computed_is_pruned():
    session = Compression(Keeps(), ((X, Y), (X, Y)), None, (1,), (), 1, 0.01)
    list(session.step(read_step("prune 0.5 size epochs=0"), start=0, take=False))
    assert not session.refused and session.candidates[1].served.module.layer.out_features < 32


class Holds(nn.Module):
    "Holds a member of an enumeration and an infinite bound"

    def __init__(self):
        super().__init__()
        self.layer, self.layout, self.bound = nn.Linear(16, 4), HTTPStatus.OK, float("inf")

    def forward(self, x):
        return self.layer(x).clamp(max=self.bound) if self.layout is HTTPStatus.OK else x


def test_members_of_an_enumeration_and_infinite_numbers_are_rebuilt(tmp_path):
    served = CodeServed(Holds(), "safetensors")
    served.save(tmp_path)
    assert torch.equal(read_code(tmp_path)(X), served(X))


class Settings:
    def __init__(self, width):
        self.width, self.act, self.layers = width, nn.functional.silu, {"first": [width, None]}


class Configured(nn.Module):
    def __init__(self, settings, inner=None):
        super().__init__()
        self.settings, self.inner = settings, inner

    def forward(self, x):
        x = self.settings.act(x) * self.settings.width
        return self.inner(x) if self.inner else x


def test_objects_that_modules_share_are_written_once(tmp_path):
    settings = Settings(3)
    served = CodeServed(Configured(settings, Configured(settings)), "safetensors")
    served.save(tmp_path)
    again = read_code(tmp_path)
    assert torch.equal(again(X), served(X)) and again.module.settings is again.module.inner.settings
    served.module.settings.lock = threading.Lock()
    with pytest.raises(CompressError, match="holds a lock, which no code can rebuild"):
        served.save(tmp_path)
