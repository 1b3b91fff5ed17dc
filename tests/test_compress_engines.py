"Quantization by each engine, and exports that others run without this package"

import json
import os
from collections import Counter
from copy import deepcopy
from functools import cache

import numpy as np
import onnx
import pytest
import torch
from helpers import some_quick
from onnx import numpy_helper
from sklearn.datasets import load_digits
from torch import nn
from warm_python import run_warm

from trainopt_nb.base.errors import CompressError, OptionError
from trainopt_nb.compression.agreement import agreement, compare, outputs_on
from trainopt_nb.compression.chip import this_chip
from trainopt_nb.compression.compiled import CompiledServed, converted
from trainopt_nb.compression.engines import ENGINES, Engine, Wish
from trainopt_nb.compression.examples import examples
from trainopt_nb.compression.export import export
from trainopt_nb.compression.onnx_int8 import dynamic_int8, onnx_layers, static_int8
from trainopt_nb.compression.openvino import openvino_int8
from trainopt_nb.compression.program import to_program
from trainopt_nb.compression.quantize import quantize, quantizing
from trainopt_nb.compression.sensitivity import layers_to_keep, sensitivity
from trainopt_nb.compression.served import OnnxServed, TorchServed, require_engine
from trainopt_nb.compression.to_onnx import to_onnx
from trainopt_nb.compression.torchao import called_layers, quantized_linear, torchao_program
from trainopt_nb.tables.feature_words import read_words
from trainopt_nb.tables.features import Known, fit_features


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        conv = lambda: nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.a, self.an, self.b, self.bn = conv(), nn.BatchNorm2d(width), conv(), nn.BatchNorm2d(width)

    def forward(self, x):
        return torch.relu(x + self.bn(self.b(torch.relu(self.an(self.a(x))))))


class Encoder(nn.Module):
    "Reads the rows of an image as tokens, and returns a dict"

    def __init__(self):
        super().__init__()
        self.embed, self.place = nn.Linear(8, 16), nn.Parameter(torch.randn(8, 16) / 2)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return {
            "logits": self.head(
                self.layers(self.embed(x.flatten(1).unflatten(1, (8, 8))) + self.place).mean(1)
            )
        }


def resnet():
    body = nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), Block(16)
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 10))


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


@cache
def digits():
    x, y = load_digits(return_X_y=True)
    x = torch.tensor(x, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    return x, torch.tensor(y)


@cache
def trained(make):
    "A model that knows digits, and training examples"
    torch.manual_seed(0)
    model, (x, y) = make(), digits()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for step in range(240 if make is Encoder else 60):
        rows = torch.arange(step * 64, step * 64 + 64) % 1400
        out = model(x[rows])
        loss = nn.functional.cross_entropy(out["logits"] if isinstance(out, dict) else out, y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval(), examples(x[:128])


@cache
def exported(make):
    return to_onnx(*trained(make))


def accuracy(served):
    x, y = digits()
    out = served(x[1400:])
    return float(((out["logits"] if isinstance(out, dict) else out).argmax(1) == y[1400:]).float().mean())


def weights(data):
    held = [numpy_helper.to_array(each) for each in onnx.load_from_string(data).graph.initializer]
    return [w for w in held if w.size > 60 and w.dtype != np.int32]


MODELS = [resnet, mlp, Encoder]


@pytest.mark.parametrize("make", MODELS)
def test_onnx_gives_the_outputs_of_the_module_at_any_batch_size(make):
    model, _ = trained(make)
    served, original = OnnxServed(exported(make), threads=1), TorchServed(model)
    for size in (1, 5, 64):
        out, expected = served(digits()[0][:size]), original(digits()[0][:size])
        assert type(out) is type(expected)
        out, expected = (o["logits"] if isinstance(o, dict) else o for o in (out, expected))
        torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("make", MODELS)
def test_int8_keeps_the_accuracy_and_takes_a_third_of_the_bytes(make):
    model, batches = trained(make)
    data = static_int8(exported(make), batches)
    before, after = accuracy(TorchServed(model)), accuracy(OnnxServed(data, threads=1))
    assert before > 0.7 and after > before - 0.02
    held = sum(w.nbytes for w in weights(data) if w.dtype == np.int8)
    assert held > 0.95 * sum(w.size for w in weights(exported(make)))
    assert sum(w.nbytes for w in weights(data)) < 0.35 * sum(w.nbytes for w in weights(exported(make)))


def test_dynamic_int8_of_an_encoder_agrees():
    model, batches = trained(Encoder)
    served = OnnxServed(dynamic_int8(exported(Encoder)), threads=1)
    assert agreement(served, TorchServed(model), batches).error < 0.05


def test_weights_have_7_bits_where_vnni_is_missing(monkeypatch):
    "ONNX Runtime's kernels do not obey the variable, so what is checked is that nothing can saturate: |weight| <= 64"
    model, batches = trained(resnet)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    for data in (static_int8(exported(resnet), batches), dynamic_int8(exported(mlp))):
        assert max(int(np.abs(w.astype(int)).max()) for w in weights(data) if w.dtype == np.int8) <= 64
    served = OnnxServed(static_int8(exported(resnet), batches), threads=1)
    assert not agreement(served, TorchServed(model), batches).reason()


def test_layers_that_are_named_stay_in_float():
    _, batches = trained(resnet)
    layers = list(onnx_layers(exported(resnet)))
    assert layers == ["0", "3.a", "3.b", "6"]
    data = static_int8(exported(resnet), batches, keep_float=["3.a"])
    floats = [w.shape for w in weights(data) if w.dtype == np.float32]
    assert (16, 16, 3, 3) in floats and len(floats) == 1
    with pytest.raises(CompressError, match="no layer 'head' that int8 could leave"):
        static_int8(exported(resnet), batches, keep_float=["head"])


def test_a_layer_that_is_not_there_is_named_with_the_nearest_one():
    model, batches = trained(mlp)
    said = "no layer 'hidden' that int8 could leave as it is"
    with pytest.raises(CompressError, match=said):
        quantize(model, batches, keep_float=["hidden"])
    with pytest.raises(CompressError, match=said):
        quantized_linear(model, "Int8WeightOnlyConfig", ("hidden",))
    with pytest.raises(CompressError, match=r"Did you mean '3\.b'"):
        quantize(trained(resnet)[0], batches, keep_float=["3.bb"])


def test_openvino_names_a_layer_that_is_not_there():
    pytest.importorskip("nncf")
    _, batches = trained(resnet)
    with pytest.raises(CompressError, match=r"Did you mean '3\.b'"):
        openvino_int8(exported(resnet), batches, ("3.bb",))


def test_wrong_numerics_are_refused_with_the_reason(monkeypatch):
    model, batches = trained(mlp)

    class Wrong(nn.Module):
        def forward(self, x):
            return -model(x)

    monkeypatch.setitem(ENGINES._entries, "wrong", Engine("int8", "wrong", lambda wish: TorchServed(Wrong())))
    (found,) = quantize(model, batches, engine="wrong")
    assert found.served is None and "differ from the original's by 200%" in found.reason


def test_each_engine_is_named_before_it_is_tried(monkeypatch):
    model, batches = trained(mlp)
    for name in ("first", "second"):
        made = Engine("int8", name, lambda wish: TorchServed(model))
        monkeypatch.setitem(ENGINES._entries, name, made)
    monkeypatch.setattr(
        "trainopt_nb.compression.quantize._chosen",
        lambda kind, engine: {n: ENGINES[n] for n in ("first", "second")},
    )
    said = [(doing.text, doing.fraction) for doing in quantizing(model, batches)]
    assert said == [("tries int8 by first", 0.0), ("tries int8 by second", 0.5)]


def test_an_engine_that_is_not_installed_is_one_sentence():
    with pytest.raises(CompressError, match=r"int8 needs no_engine.*pip install 'trainopt_nb\[compress\]'"):
        require_engine("no_engine", "int8")


def test_unknown_words_are_refused_before_anything_starts():
    for words in ({"kind": "int4.5"}, {"engine": "magic"}, {"kind": "int8 weights", "engine": "onnxruntime"}):
        with pytest.raises(OptionError):
            quantize(mlp(), None, **words)


def test_an_original_with_nan_or_another_shape_never_agrees():
    ones = torch.ones(4, 3)
    assert compare(ones * float("nan"), ones).reason() and compare(ones, ones * float("nan")).reason()
    with pytest.raises(CompressError, match="shape"):
        compare(ones[:2], ones)


def test_inputs_of_a_served_module_stay_as_they_are():
    served = TorchServed(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 2)))
    x = -torch.ones(2, 3)
    for _ in range(3):
        served(x)
    assert x.eq(-1).all()


def test_pt2e_agrees_and_keeps_no_float_copies():
    model, batches = trained(resnet)
    float_program = to_program(model, batches)
    small = converted(float_program, batches)
    assert agreement(small, TorchServed(model), batches).error < 0.05
    kinds = {t.dtype for t in small.program.state_dict.values() if t.dim() > 1}
    assert kinds == {torch.int8} and small.nbytes < float_program.nbytes
    mixed = converted(float_program, batches, keep_float=("3.a",))
    floats = [t for t in mixed.program.state_dict.values() if t.dim() > 1 and t.dtype == torch.float32]
    assert [tuple(t.shape) for t in floats] == [(16, 16, 3, 3)]


def test_other_batch_sizes_are_filled_up_or_cut_and_compiled_once_that_pays(monkeypatch):
    "Compiling is replaced by the program itself, which takes any size"
    made = []

    def compiled(program, tensors):
        made.append(len(tensors[0]))
        return program

    monkeypatch.setattr("trainopt_nb.compression.compiled.compiled", compiled)
    model, batches = trained(Encoder)
    served, original = CompiledServed(to_program(model, batches), (1, 16)), TorchServed(model)
    x = digits()[0]
    patience = [3600.0] * 6 + [0.0] * 2  # seconds that compiling takes
    for size, served._compiling in zip((1, 16, 5, 37, 5, 37, 5, 37), patience, strict=True):
        assert served._compiling == 0.0 or made in ([], [1], [1, 16])
        before = x[:size].clone()
        out = served(x[:size])["logits"]
        torch.testing.assert_close(out, original(before)["logits"], atol=1e-4, rtol=1e-4)
        assert torch.equal(x[:size], before)
    assert made == [1, 16, 5, 37] and served.batch_sizes == [1, 16, 5, 37]
    served.expect([8])  # there are four programs
    assert len(served.batch_sizes) == CompiledServed.most


@pytest.mark.parametrize("make", [resnet, Encoder])
def test_bf16_agrees_at_any_batch_size_and_takes_half_the_bytes(make, monkeypatch):
    "Compiling is replaced by the program itself"
    monkeypatch.setattr("trainopt_nb.compression.compiled.compiled", lambda program, tensors: program)
    model, batches = trained(make)
    (found,) = quantize(model, batches, "bf16", batch_sizes=(1, 16))
    assert found.served is not None, found.reason
    assert found.agreement.error < 0.05
    assert all(t.dtype == torch.bfloat16 for t in found.served.program.state_dict.values() if t.dim() > 1)


def test_without_a_compiler_there_is_one_sentence(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    model, batches = trained(mlp)
    found = quantize(model, batches, engine="pt2e")
    assert [each.served for each in found] == [None] and "C++ compiler" in found[0].reason


@pytest.mark.parametrize("config", ["Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig"])
def test_torchao_agrees_and_is_shipped_as_a_program(config):
    model, batches = trained(mlp)
    served = torchao_program(Wish(model, batches, bytes), config)
    assert agreement(served, TorchServed(model), batches).error < 0.05
    held = [t for t in served.program.state_dict.values() if t.numel() > 500]
    assert all(t.dtype == torch.int8 for t in held)


def test_attention_is_exported_in_few_operations():
    graph = onnx.load_from_string(exported(Encoder)).graph
    kinds = Counter(node.op_type for node in graph.node)
    assert kinds["Softmax"] == 2 and kinds["Transpose"] <= 6 and len(graph.node) < 70, kinds


def test_torchao_leaves_layers_that_attention_reads_by_itself():
    model, batches = trained(Encoder)
    called = called_layers(model, batches)
    small = quantized_linear(model, "Int8DynamicActivationInt8WeightConfig", (), called)
    kinds = {
        name: type(each.weight).__name__
        for name, each in small.named_modules()
        if isinstance(each, nn.Linear)
    }
    assert {name for name, kind in kinds.items() if kind == "Parameter"} == {f"layers.layers.{i}.self_attn.out_proj" for i in (0, 1)}  # fmt: skip
    assert agreement(TorchServed(small), TorchServed(model), batches).error < 0.05


@pytest.mark.skipif(this_chip().saturates, reason="OpenVINO's int8 is refused for processors without VNNI")
@pytest.mark.parametrize("make", [resnet, Encoder])
def test_openvino_agrees_and_its_script_runs(make, tmp_path):
    model, batches = trained(make)
    served = openvino_int8(exported(make), batches).set_threads(1)
    assert agreement(served, TorchServed(model), batches).error < 0.1
    export(served, tmp_path / "model", batches)
    run_script(tmp_path / "model", tmp_path)


LIMITED = """
import json, sys
sys.path.insert(0, "tests")
from test_compress_engines import mlp, trained
from trainopt_nb.compression.agreement import agreement
from trainopt_nb.compression.chip import this_chip
from trainopt_nb.compression.compiled import CompiledServed, Pt2eServed, converted
from trainopt_nb.compression.engines import ENGINES, Wish
from trainopt_nb.compression.program import to_program
from trainopt_nb.compression.quantize import quantize
from trainopt_nb.compression.served import TorchServed
from trainopt_nb.compression.torchao import torchao_program
assert this_chip().saturates and not this_chip().bf16
model, batches = trained(mlp)
found = [each for name in ("onnxruntime", "openvino", "torchao int8 dynamic") for each in quantize(model, batches, engine=name)]
errors = {each.engine: each.agreement and each.agreement.error for each in found}
wish = Wish(model, batches, None)
made = {
    "pt2e int8": (Pt2eServed, converted(to_program(model, batches), batches)),
    "torchao int8 weights": (CompiledServed, torchao_program(wish, "Int8WeightOnlyConfig")),
}
for name, (kind, served) in made.items():
    served = kind(served, (64,)) if COMPILE else served
    errors[name] = agreement(served, TorchServed(model), batches[:1]).error
for name, engine in ENGINES.items():
    if why := engine.when():
        errors[name] = None
assert set(errors) == set(ENGINES), errors
print(json.dumps(errors))
"""


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_on_a_chip_without_vnni_no_engine_gives_wrong_logits(compile):
    "PyTorch's kernels obey the variable, those of ONNX Runtime do not: of these only the range of weights is checked above"
    env = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "PYTHONPATH": os.getcwd()}
    done = run_warm(["-c", LIMITED.replace("COMPILE", str(compile))], os.getcwd(), env)
    assert done.returncode == 0, done.stderr[-2000:]
    errors = json.loads(done.stdout.splitlines()[-1])
    assert {name for name, error in errors.items() if error is None} == {
        "openvino int8",
        "torch bf16",
        "torchao int8 dynamic",
    }
    assert all(error < 0.05 for error in errors.values() if error is not None), errors


def test_the_layer_that_int8_harms_is_found_and_can_stay_in_float():
    model, batches = trained(mlp)
    harmed = deepcopy(model)
    with torch.no_grad():  # each unit gets one weight far larger than its others, as outliers are
        harmed[1].weight[:, 0] = 300.0  # the first pixel is always black
    before = harmed[1].weight.clone()
    effects = sensitivity(harmed, batches)
    assert torch.equal(harmed[1].weight, before)
    assert effects[0].layer == "1" and effects[0].error > 2 * effects[1].error
    assert layers_to_keep(effects, most=(effects[1].error + effects[0].error) / 2) == ["1"]
    bad = compare(
        outputs(static_int8(to_onnx(harmed, batches), batches), batches), outputs_on(harmed, batches)
    )
    data = static_int8(to_onnx(harmed, batches), batches, keep_float=["1"])
    good = compare(outputs(data, batches), outputs_on(harmed, batches))
    assert good.error < bad.error / 2


def outputs(data, batches):
    return outputs_on(OnnxServed(data, threads=1), batches)


# exports


def run_script(folder, tmp_path, given="example.npz"):
    "Run `run.py` in a process that cannot import this package; its outputs"
    block = "import sys; sys.modules['trainopt_nb'] = None; sys.argv = sys.argv[1:]; import os, runpy; sys.path.insert(0, os.path.dirname(sys.argv[0])); runpy.run_path(sys.argv[0])"
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = run_warm(["-c", block, folder / "run.py", folder / given], tmp_path, env)
    assert done.returncode == 0, done.stderr[-2000:]
    found, expected = np.load(tmp_path / "outputs.npz"), np.load(folder / "expected.npz")
    assert list(found) == list(expected)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "form", some_quick(["onnx", "onnx int8", "torch.export", "safetensors"], "onnx", "safetensors")
)
def test_the_script_of_an_export_runs_without_this_package(form, tmp_path):
    model, batches = trained(Encoder)
    found = export(model, tmp_path / "model", batches, form=form, metric={"accuracy": 0.9}, run="digits")
    assert found.agreement.error < 1e-3
    run_script(tmp_path / "model", tmp_path)
    said = json.loads((tmp_path / "model/provenance.json").read_text())
    assert said["run"] == "digits" and said["metric"] == {"accuracy": 0.9} and "torch" in said["versions"]
    assert said["inputs"] == [{"name": "x", "type": "float32", "shape": ["batch", 1, 8, 8]}]
    for name, facts in said["files"].items():
        assert (tmp_path / "model" / name).stat().st_size == facts["bytes"]
    code = (tmp_path / "model/run.py").read_text()
    assert "trainopt" not in code and len([line for line in code.splitlines() if line]) <= 12


def test_no_training_sample_travels_with_an_export(tmp_path):
    model, batches = trained(mlp)
    for form in ("onnx", "torch.export"):
        export(model, tmp_path / form, batches, form=form)
        sample = batches[0].args[0][0].numpy().tobytes()
        for path in (tmp_path / form).iterdir():
            assert sample not in path.read_bytes(), path


def test_a_failed_export_leaves_nothing_and_an_earlier_one_is_kept(tmp_path):
    model, batches = trained(mlp)

    class Depends(nn.Linear):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else x

    with pytest.raises(CompressError, match=r"torch\.export cannot trace the model"):
        export(Depends(3, 3), tmp_path / "model", torch.randn(8, 3), form="torch.export")
    assert not (tmp_path / "model").exists()
    export(model, tmp_path / "model", batches)
    with pytest.raises(CompressError, match="overwrite=True"):
        export(model, tmp_path / "model", batches)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.tex").write_text("three years")
    with pytest.raises(CompressError, match="holds something else"):
        export(model, tmp_path / "other", batches, overwrite=True)


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("onnx", ""),
        pytest.param("onnx", "bins:age:3 cross:city:kind poly:2 target:city", marks=pytest.mark.slow),
        pytest.param("torch.export", "quantile", marks=pytest.mark.slow),
        ("safetensors", "power ordinal:city pca:3"),
    ],
)
def test_fitted_preprocessing_goes_along_and_needs_nothing_of_ours(form, words, tmp_path):
    pandas = pytest.importorskip("pandas")
    draw = np.random.default_rng(0)
    frame = pandas.DataFrame(
        {
            "age": draw.normal(40, 9, 60).round(1),
            "pay": draw.lognormal(7, 1, 60).round(),
            "city": draw.choice(["Oslo", "Rome", "Łódź"], 60),
            "kind": draw.choice(["a", "b", None], 60),
            "since": pandas.date_range("2024-01-30", periods=60).astype(str),
        }
    )
    frame.loc[:5, "age"] = np.nan
    known = Known(draw.integers(0, 2, 60), 2)
    features, x, _ = fit_features(frame, known, read_words(words))
    net = nn.Linear(x.shape[1], 2)
    export(net, tmp_path / "model", torch.from_numpy(x), form=form, features=features)
    run_script(tmp_path / "model", tmp_path, "example.csv")
    rows = pandas.read_csv(tmp_path / "model/example.csv")
    expected = net(torch.from_numpy(features.transform(rows))).detach()
    np.testing.assert_allclose(np.load(tmp_path / "outputs.npz")["arr_0"], expected, atol=1e-4, rtol=1e-4)
    if words:
        return
    frame.drop(columns="pay").to_csv(tmp_path / "short.csv")
    with pytest.raises(AssertionError, match="DataError: the table lacks the column pay"):
        run_script(tmp_path / "model", tmp_path, tmp_path / "short.csv")
