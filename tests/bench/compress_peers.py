"""
Compression by this package beside what others do by default, each in a process of its own

    python tests/bench/compress_peers.py                             # all models, all of them
    python tests/bench/compress_peers.py resnet --log peers.jsonl    # one model; adds to a file, and leaves out what is in it
    python tests/bench/compress_peers.py mlp --only "trainopt_nb prune+quantize" "ONNX Runtime quantize_static"

For each: lines of code that a user writes, seconds to the result, accuracy on validation data, bytes of what is shipped, how many times
faster than the model in PyTorch at batch 1 and 64 (one thread, in turns with it), and whether its file loads again. Neural Compressor and
fasterai are installed in environments of their own.
"""

import argparse
import datetime
import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]
RECIPES = {  # ours, by model
    "resnet": ("quantize", "prune 0.5, quantize", "prune 0.7, quantize"),
    "mlp": ("quantize", "lowrank 0.8", "prune 0.8, quantize"),
    "encoder": ("quantize", "prune 0.5, quantize"),
}


def tune(model, data, epochs=6):
    "Train a pruned model as its authors' examples do; counts as ten lines"
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    (x, y), _ = data
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return model.eval()


def torchao_eager(model, data, folder):
    import torch
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    torch.save(model.state_dict(), folder / "weights.pt")
    return model, lambda: model.load_state_dict(torch.load(folder / "weights.pt"), assign=True) and model


def torchao_compiled(model, data, folder):
    import torch
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    torch.save(model.state_dict(), folder / "weights.pt")
    compiled = torch.compile(model)
    return compiled, lambda: model.load_state_dict(torch.load(folder / "weights.pt"), assign=True) and model


def pt2e(model, data, folder):
    import torch
    import torch._inductor.config
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    torch._inductor.config.freezing = True
    x = data[0][0][:256]
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    observed = prepare_pt2e(program, quantizer)
    observed(x)
    made = convert_pt2e(observed)
    found = torch.export.export(made, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(found, folder / "model.pt2")
    return torch.compile(made, dynamic=False), lambda: torch.export.load(folder / "model.pt2").module()


def ort_static(model, data, folder):
    import numpy as np
    import onnxruntime as ort
    import torch
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.rows = iter(data[0][0][:256].split(64))

        def get_next(self):
            rows = next(self.rows, None)
            return None if rows is None else {"x": np.asarray(rows)}

    shapes = ({0: torch.export.Dim("batch")},)
    torch.onnx.export(
        model, (data[0][0][:4],), folder / "fp32.onnx", input_names=["x"], dynamic_shapes=shapes, dynamo=True
    )
    quantize_static(folder / "fp32.onnx", folder / "model.onnx", Reader())
    for each in folder.glob("fp32*"):
        each.unlink()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = lambda: ort.InferenceSession(folder / "model.onnx", options)
    run = lambda opened: lambda x: torch.from_numpy(opened.run(None, {"x": np.asarray(x)})[0])
    return run(session()), lambda: run(session())


def torch_pruning(model, data, folder):
    import torch
    import torch_pruning as tp

    heads = [m for m in model.modules() if getattr(m, "out_features", 0) == 10]
    attention = {m: m.num_heads for m in model.modules() if isinstance(m, torch.nn.MultiheadAttention)}
    pruner = tp.pruner.BasePruner(
        model, data[0][0][:2], tp.importance.GroupMagnitudeImportance(), pruning_ratio=0.5, ignored_layers=heads, num_heads=attention
    )  # fmt: skip
    pruner.step()
    tune(model, data)
    torch.save(model, folder / "model.pt")
    return model, lambda: torch.load(folder / "model.pt", weights_only=False)


def nncf_openvino(model, data, folder):
    import nncf
    import openvino as ov
    import torch

    core = ov.Core()
    x = data[0][0]
    made = nncf.quantize(
        ov.convert_model(model, example_input=x[:2], input=[-1, *x.shape[1:]]), nncf.Dataset(x[:256].split(1))
    )
    ov.save_model(made, folder / "model.xml")
    how = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
    opened = lambda: core.compile_model(folder / "model.xml", "CPU", how)
    run = lambda ready: lambda x: torch.from_numpy(ready(x.numpy())[0].copy())
    return run(opened()), lambda: run(opened())


def neural_compressor(model, data, folder):
    import torch
    from neural_compressor.torch.export import export
    from neural_compressor.torch.quantization import TuningConfig, autotune, get_default_static_config

    torch._inductor.config.freezing = True
    (x, _), (valid_x, valid_y) = data
    score = lambda net: float((net(valid_x).argmax(1) == valid_y).float().mean())
    program = export(model, (x[:256],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    made = autotune(
        program, TuningConfig(config_set=[get_default_static_config()]), eval_fn=score, run_fn=lambda net: net(x[:256])
    )  # fmt: skip
    torch.export.save(torch.export.export(made, (x[:256],)), folder / "model.pt2")
    return torch.compile(made, dynamic=False), lambda: torch.export.load(folder / "model.pt2").module()


def fasterai(model, data, folder):
    import torch
    from fasterai.core.criteria import large_final
    from fasterai.prune.pruner import Pruner

    Pruner(model, 0.5, "local", large_final, example_inputs=data[0][0][:2]).prune_model()
    tune(model, data)
    torch.save(model, folder / "model.pt")
    return model, lambda: torch.load(folder / "model.pt", weights_only=False)


PEERS = {
    "torchao quantize_": torchao_eager,
    "torchao quantize_, compiled": torchao_compiled,
    "torchao PT2E, compiled": pt2e,
    "ONNX Runtime quantize_static": ort_static,
    "torch-pruning": torch_pruning,
    "NNCF and OpenVINO": nncf_openvino,
    "Neural Compressor autotune": neural_compressor,
    "fasterai Pruner": fasterai,
}
OWN = {  # peers with an environment of their own -> groups of packages, each installed by a call of its own
    "Neural Compressor autotune": (("--no-deps", "neural-compressor", "neural-compressor-pt"),),
    "fasterai Pruner": (
        ("--no-deps", "fasterai", "fastai", "fastcore>=2", "fastprogress<1.1", "fastdownload", "fasttransform", "plum-dispatch", "beartype",
         "accelerate", "torchvision==0.28.0"),
    ),
}  # fmt: skip


def lines_of(function):
    "Count the lines of a function's body, as a user writes them; those that train count too"
    body = [each for each in inspect.getsource(function).splitlines()[1:] if each.strip()]
    return len(body) + 10 * sum("tune(" in each for each in body)


def served(model):
    "Return what was made as `measure` takes it"
    from torch import nn

    from trainopt_nb.compression.served import Served, TorchServed

    class Called(Served):
        name = "peer"

        def __init__(self, function):
            self.function = function

        def _run(self, inputs, named):
            import torch

            with torch.no_grad():
                return self.function(*(each.clone() for each in inputs))

        @property
        def nbytes(self):
            return 0

    compiled = hasattr(model, "_torchdynamo_orig_callable") or type(model).__name__ in (
        "OptimizedModule",
        "function",
    )
    return Called(model) if compiled or not isinstance(model, nn.Module) else TorchServed(model)


def measured(net, made, again, data, folder, seconds):
    "Return a row: bytes, accuracy, latency beside the original, and whether the file gives the same answers"
    import torch

    from trainopt_nb.compression.measure import measure
    from trainopt_nb.task.task import Task

    rows = measure(net, Task(net, *data), (1, 64), [made], 1, 1.0).rows
    x, y = data[1]
    with torch.no_grad():
        out = made(x)
        right = lambda scores: float((scores.argmax(1) == y).float().mean())
        try:
            back = again()(x)
            loads = "yes" if (back - out).norm() < 0.02 * out.norm() else "other answers"
        except Exception as error:
            loads = f"no ({type(error).__name__})"
    files = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    weights = sum(p.numel() * p.element_size() for p in [*net.parameters(), *net.buffers()])
    return {
        "seconds": seconds, "accuracy": right(out), "original": right(net(x)), "bytes": files / weights,
        "b1": rows[1].speedup(rows[0], 1)[0], "b64": rows[1].speedup(rows[0], 64)[0], "loads": loads,
    }  # fmt: skip


def ours(net, data, folder, recipe):
    "Compress and export; return a row"
    from trainopt_nb import compress
    from trainopt_nb.compression.export import SHIPPED

    began = time.perf_counter()
    compressed = compress(
        net, data, recipe, floor="1%", batch=(1, 64), folder=folder / "runs", device="cpu", write=lambda line: None
    )  # fmt: skip
    exported = compressed.export(folder / "made")
    seconds = time.perf_counter() - began
    kind = type(compressed.served).__name__
    shipped = next((each for cls, each in SHIPPED.items() if cls.__name__ == kind), None)
    whole = folder / "files"
    whole.mkdir()
    for each in compressed.served.save(whole):
        assert each.exists()
    reopen = lambda: shipped.reopen(folder / "made") if shipped else compressed.served
    row = measured(net, compressed.served, reopen, data, whole, seconds)
    why = [each.verdict.reason for each in compressed.candidates[1:] if not each.verdict.kept]
    notes = "; ".join([*why, *map(str, compressed.refused)])
    taken = f"{compressed.best.name}: {compressed.served.name}"
    return row | {
        "lines": 2,
        "loads": row["loads"] if exported.agreement else "no",
        "notes": notes,
        "taken": taken,
    }


def inside(name, model, weights):
    "In a process of its own: print a row"
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    import bench_compress as bench

    if name == "fasterai Pruner":
        library = torch.library.Library("torchvision", "FRAGMENT")
        for each in ("nms", "qnms"):
            library.define(f"{each}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    data, net = bench.digits(), getattr(bench, model)()
    net.load_state_dict(torch.load(weights, weights_only=True))
    net.eval()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        try:
            if name.startswith("trainopt_nb "):
                row = ours(net, data, folder, name.removeprefix("trainopt_nb ").replace("+", ", "))
            else:
                from copy import deepcopy

                began = time.perf_counter()
                made, again = PEERS[name](deepcopy(net), data, folder)
                with torch.no_grad():
                    made(data[1][0][:1]), made(data[1][0][:64])  # compiles
                seconds = time.perf_counter() - began
                row = measured(net, served(made), again, data, folder, seconds)
                row["lines"] = lines_of(PEERS[name])
        except Exception as error:
            import traceback

            traceback.print_exc()
            row = {"refused": f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"}
    print("\n" + json.dumps({"model": model, "name": name, **row}), flush=True)


def run(name, model, weights):
    "Run one contender in a process; return its row"
    python = sys.executable
    if name in OWN:
        import rivals

        rivals.RIVALS.setdefault(name, OWN[name])
        try:
            python = os.environ.get("TRAINOPT_PEERS_PYTHON") or rivals.install(name)
        except RuntimeError as error:
            return {"model": model, "name": name, "refused": str(error)}
    words = [python, "-W", "ignore", __file__, "--inside", name, model, str(weights)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "NNCF_CI": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=env)
    rows = [line for line in done.stdout.splitlines() if line.startswith('{"model"')]
    if not rows:
        last = (done.stderr.strip().splitlines() or [str(done.returncode)])[-1]
        return {"model": model, "name": name, "refused": f"the process ended: {last[:160]}"}
    return json.loads(rows[-1])


def table(rows):
    "Print Markdown"
    from common import machine

    print(machine())
    for model in dict.fromkeys(row["model"] for row in rows):
        here = [row for row in rows if row["model"] == model]
        print(
            f"\n{model}, accuracy {100 * next((r['original'] for r in here if 'original' in r), float('nan')):.1f}%\n"
        )
        print(
            "| | lines | seconds | accuracy | bytes | batch 1 | batch 64 | loads |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |"
        )
        for row in here:
            if "refused" in row:
                print(f"| {row['name']} | | | refused: {row['refused']} | | | | |")
                continue
            print(
                f"| {row['name']} | {row['lines']} | {row['seconds']:.0f} | {100 * row['accuracy']:.1f} | {row['bytes']:.2f} | "
                f"{row['b1']:.2f}x | {row['b64']:.2f}x | {row['loads']} |"
            )
        for row in here:
            if row.get("notes") or row.get("taken"):
                print(f"\n{row['name']} took {row['taken']}. {row['notes']}")


def trained(model, folder):
    "Train a model once; return the file of its weights"
    import bench_compress as bench
    import torch

    from trainopt_nb.api.fit import fit

    target = folder / f"{model}.pt"
    if not target.exists():
        torch.manual_seed(0)
        net = getattr(bench, model)()
        how = {"epochs": 20, "device": "cpu", "threads": 1, "schedule": "cosine", "folder": folder / "runs"}
        fit(net, *bench.digits(), **how, write=lambda line: None)
        torch.save(net.state_dict(), target)
    return target


def main():
    reader = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    reader.add_argument("models", nargs="*", help="all where none is named")
    reader.add_argument("--only", nargs="*", help="names of contenders")
    reader.add_argument("--log", type=Path, help="file to which each row is added")
    reader.add_argument("--weights", type=Path, help="folder that keeps the trained models")
    reader.add_argument(
        "--minutes", type=float, default=1e9, help="after which no further contender is begun"
    )
    reader.add_argument("--inside", nargs=3, help=argparse.SUPPRESS)
    chosen = reader.parse_args()
    if chosen.inside:
        return inside(*chosen.inside)
    have = chosen.log and chosen.log.exists()
    rows = [json.loads(line) for line in chosen.log.read_text().splitlines()] if have else []
    known, began = {(row["model"], row["name"]) for row in rows}, time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.weights or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for model in chosen.models or RECIPES:
            own = [f"trainopt_nb {recipe.replace(', ', '+')}" for recipe in RECIPES[model]]
            for name in chosen.only or (*own, *PEERS):
                late = time.monotonic() - began > 60 * chosen.minutes
                if (model, name) in known or late:
                    continue
                row = run(name, model, trained(model, folder)) | {"date": str(datetime.date.today())}
                rows.append(row)
                print(row, flush=True)
                if chosen.log:
                    with chosen.log.open("a") as file:
                        file.write(json.dumps(row) + "\n")
    table(rows)


if __name__ == "__main__":
    main()
