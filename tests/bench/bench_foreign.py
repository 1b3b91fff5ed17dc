"""
Models that no one here wrote, through every step of a compression: 20 of timm and 4 of transformers, with random weights

    python tests/bench/bench_foreign.py                              # all models, all steps
    python tests/bench/bench_foreign.py resnet18 gpt2 --steps prune lowrank
    python tests/bench/bench_foreign.py --log foreign.jsonl          # adds to the file, and leaves out what is in it
    python tests/bench/bench_foreign.py --log foreign.jsonl --table  # prints the table of a file

Each model has a process of its own, one thread and small inputs. A step either makes a model that is kept, and whose files give the same answers
when they are loaded back; or it is refused with one sentence. What else happens is a fault: a process that dies, an error that is none of the
package's, other answers on new inputs, a model that is kept and slower.
"""

import argparse
import datetime
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import types
import warnings
from enum import Enum
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]
SIDE, ROWS = 64, 32  # pixels of an image; samples to train on, and as many to judge by
TIMM = {  # name -> how it is narrowed
    "resnet18": {}, "resnext50_32x4d": {"layers": (1, 1, 1, 1)}, "mobilenetv2_035": {}, "mobilenetv3_small_050": {}, "efficientnet_b0": {},
    "lcnet_050": {}, "tinynet_e": {}, "ghostnet_050": {}, "regnetx_002": {}, "densenet121": {"growth_rate": 16, "block_config": (2, 2, 2, 2)},
    "repvgg_a0": {}, "convnext_atto": {}, "edgenext_xx_small": {}, "fastvit_t8": {}, "mixnet_s": {}, "mobilevit_xxs": {},
    "vit_tiny_patch16_224": {"img_size": SIDE, "depth": 4}, "mixer_s32_224": {"img_size": SIDE, "num_blocks": 3},
    "swin_tiny_patch4_window7_224": {"img_size": SIDE, "embed_dim": 48, "depths": (1, 1, 2, 1), "window_size": 4},
    "levit_128s": {"img_size": SIDE},
}  # fmt: skip
TRANSFORMERS = ("bert", "distilbert", "gpt2", "vit")
ENGINES = (
    "onnxruntime int8", "onnxruntime int8 products", "onnxruntime int8 dynamic", "openvino int8", "torch bf16", "pt2e int8", "torchao int8 dynamic",
    "torchao int8 weights",
)  # fmt: skip
STEPS = (
    "prune", "lowrank", "serve onnxruntime", "serve openvino", *ENGINES, "export onnx", "export torch.export", "export safetensors",
)  # fmt: skip


class Modes(Enum):
    "What timm reads of torchvision's modes"

    NEAREST, BILINEAR, BICUBIC, BOX, HAMMING, LANCZOS = (
        "nearest", "bilinear", "bicubic", "box", "hamming", "lanczos",
    )  # fmt: skip


class StandIn(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    "In the place of torchvision, whose operators timm's models do not use"

    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        from torch import nn

        made = types.ModuleType(spec.name)
        made.__path__, made.__version__, made.InterpolationMode = [], "0.28.0", Modes

        def absent(name):
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (nn.Module,), {})

        made.__getattr__ = absent
        return made

    def exec_module(self, module):
        pass


def import_timm():
    "Import timm where torchvision is absent, or where its operators do not fit this PyTorch"
    import torch

    if importlib.util.find_spec("torchvision") is None:
        sys.meta_path.insert(0, StandIn())
    else:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import_timm.kept = library
    import timm

    return timm


def labeled():
    import torch

    return torch.arange(ROWS) % 10


def make(name):
    "Return a model with random weights, and training and validation data"
    import torch

    torch.manual_seed(0)
    if name in TIMM:
        model = import_timm().create_model(name, num_classes=10, **TIMM[name])
    else:
        model = of_transformers(name)
    if name in TRANSFORMERS and name != "vit":
        words = lambda: {
            "input_ids": torch.randint(1, 100, (ROWS, 16)), "attention_mask": torch.ones(ROWS, 16, dtype=torch.long), "labels": labeled(),
        }  # fmt: skip
        return model, (words(), words())
    side = 32 if name == "vit" else SIDE
    return model, tuple((torch.randn(ROWS, 3, side, side), labeled()) for _ in range(2))


def of_transformers(name):
    import transformers as tf

    small = {"vocab_size": 100, "num_labels": 10}
    if name == "bert":
        how = tf.BertConfig(
            **small, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128
        )
        return tf.BertForSequenceClassification(how)
    if name == "distilbert":
        return tf.DistilBertForSequenceClassification(
            tf.DistilBertConfig(**small, dim=64, n_layers=2, n_heads=4, hidden_dim=128)
        )
    if name == "gpt2":
        how = tf.GPT2Config(
            **small, n_embd=64, n_layer=2, n_head=4, pad_token_id=0, bos_token_id=1, eos_token_id=1
        )
        return tf.GPT2ForSequenceClassification(how)
    how = tf.ViTConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, image_size=32, patch_size=8,
        num_labels=10,
    )  # fmt: skip
    return tf.ViTForImageClassification(how)


def step_of(name):
    "Return the step of a recipe"
    from trainopt_nb.compression.engines import ENGINES as KNOWN
    from trainopt_nb.compression.recipe import named_step, read_step

    if name in ENGINES:
        return named_step(
            "quantize", {"engine": name, "kind": KNOWN[name].kind.replace(" ", "-"), "keep": ""}
        )
    return read_step(f"{name} 0.3 macs epochs=0" if name in ("prune", "lowrank") else name)


def on_new_inputs(again, made, original, inputs, bound):
    "Return what is wrong with a model that was loaded back, empty where nothing is"
    from trainopt_nb.compression.agreement import agreement
    from trainopt_nb.compression.examples import as_arguments

    for rows in (1, 3, 16):
        one = [as_arguments(inputs(rows))]
        found = agreement(again, made, one)
        if not found.error <= 2e-3:
            return f"FAULT: loaded back, it differs from the model by {found.error:.1%} at batch size {rows}"
        if bound and (reason := agreement(made, original, one).reason()):
            return f"FAULT: at batch size {rows} {reason}"
    return ""


def checked(served, session, form, bound):
    "Export a model, load it back and compare on new inputs; return the outcome"
    from trainopt_nb.base.errors import TrainoptError
    from trainopt_nb.compression.export import SHIPPED, export

    forms = {"onnx": "OnnxServed", "torch.export": "ProgramServed", "safetensors": "CodeServed"}
    with tempfile.TemporaryDirectory() as folder:
        try:
            export(served, Path(folder, "made"), session.task, form)
        except TrainoptError as error:
            return f"refused: {error}"
        kind = forms.get(form, type(served).__name__)
        shipped = next(each for cls, each in SHIPPED.items() if cls.__name__ == kind)
        again = shipped.reopen(Path(folder, "made")).set_threads(1)
        original = session.candidates[0].served
        return on_new_inputs(again, served, original, session.work.inputs, bound)


def outcome(session, name):
    "Run one step on the original; return the outcome in words"
    first = session.candidates[0].served
    if name.startswith("export "):
        return checked(first, session, name.partition(" ")[2], False) or "loaded back with the same answers"
    events, found = session.step(step_of(name), start=0, take=False), None
    while True:
        try:
            next(events)
        except StopIteration as done:
            found = done.value
            break
    if found is None:
        reason = session.refused[-1].reason
        return f"{'FAULT' if reason.startswith('It failed') else 'refused'}: {reason}"
    speed, size = (
        found.speedups[1],
        found.measurement.nbytes / session.candidates[0].measurement.nbytes,
    )
    said = f"{speed:.2f}x, {size:.2f} of the bytes"
    if not found.verdict.kept:
        return f"refused: {found.verdict.reason}"
    if speed < 0.9 and size > 0.98:
        return f"FAULT: kept, {said}"
    form = "torch.export" if name in ("prune", "lowrank") else "auto"
    wrong = checked(found.served, session, form, name in ENGINES or name.startswith("serve"))
    return f"{said}; {wrong}" if wrong else f"kept: {said}, loaded back with the same answers"


def export_once():
    "Let all steps of a model share one export to ONNX, which takes longer than what they do with it"
    from trainopt_nb.compression import export, quantize, serve_step

    made, to_onnx = {}, quantize.to_onnx

    def exported(module, batches):
        key = tuple((name, str(t.shape), float(t.double().sum())) for name, t in module.state_dict().items())
        if key not in made:
            made[key] = to_onnx(module, batches)
        return made[key]

    for each in (export, quantize, serve_step):
        each.to_onnx = exported


def inside(name, steps):
    "In a process of its own: print a line before and after each step"
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    from trainopt_nb.compression.session import Compression

    say = lambda **row: print("\n" + json.dumps({"model": name, **row}), flush=True)
    say(step="begin")
    export_once()
    model, data = make(name)
    with tempfile.TemporaryDirectory() as folder:
        session = Compression(model, data, None, (1,), (), 1, 0.2, folder=folder)
        for step in steps:
            say(step=step)
            began = time.perf_counter()
            try:
                found = outcome(session, step)
            except Exception as error:
                import traceback

                traceback.print_exc()
                found = f"FAULT: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
            say(step=step, outcome=found, seconds=round(time.perf_counter() - began, 1))


def run_model(name, steps, seconds):
    "Run a model in a process, and in a new one where that dies; yield a row for each step"
    left = list(steps)
    while left:
        words = [sys.executable, "-W", "ignore", __file__, "--inside", name, "--steps", *left]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        rows, killed = [], ""
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, env=env)
            out, err, killed = (
                done.stdout, done.stderr, f"the process ended with {done.returncode}" if done.returncode else "",
            )  # fmt: skip
        except subprocess.TimeoutExpired as late:
            out, err, killed = (
                (late.stdout or b"").decode(), (late.stderr or b"").decode(), f"no end after {seconds} seconds",
            )  # fmt: skip
        rows = [json.loads(line) for line in out.splitlines() if line.startswith('{"model"')]
        finished = [row for row in rows if "outcome" in row]
        yield from finished
        left = left[len(finished) :]
        if left:
            last = rows[-1]["step"] if rows else "begin"
            said = killed if last != "begin" or "no end" in killed else " ".join(err.split()[-60:])[-300:]
            yield {"model": name, "step": left[0], "outcome": f"FAULT: {said}", "seconds": 0.0}
            left = left[1:] if last != "begin" else []


LIBRARIES = ("timm", "transformers", "torch-pruning", "onnxruntime", "openvino", "nncf", "torchao")


def versions():
    from importlib.metadata import version

    return ", ".join(f"{name} {version(name)}" for name in LIBRARIES)


def short(outcome):
    "Return an outcome for a table"
    said = outcome.removesuffix(", loaded back with the same answers").replace("|", "/")
    return said if len(said) < 170 else said[:167] + "…"


def table(rows):
    "Print all outcomes in Markdown"
    from common import machine

    print(f"{machine()}, {versions()}\n\n| model | step | outcome | seconds |\n| --- | --- | --- | ---: |")
    for row in rows:
        print(f"| {row['model']} | {row['step']} | {short(row['outcome'])} | {row['seconds']:.0f} |")
    kinds = [row["outcome"].split(":")[0].split(",")[0] for row in rows]
    kept = sum(kind in ("kept", "loaded back with the same answers") for kind in kinds)
    faults = sum("FAULT" in row["outcome"] for row in rows)
    print(
        f"\n{len(rows)} steps: {kept} kept and loaded back, {len(rows) - kept - faults} refused with a reason, {faults} faults"
    )


def main():
    reader = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    reader.add_argument("models", nargs="*", help="all where none is named")
    reader.add_argument("--steps", nargs="*", default=list(STEPS))
    reader.add_argument("--log", type=Path, help="file to which each outcome is added")
    reader.add_argument("--seconds", type=int, default=500, help="that a model may take")
    reader.add_argument("--minutes", type=float, default=1e9, help="after which no further model is begun")
    reader.add_argument("--table", action="store_true", help="only print the table of the log")
    reader.add_argument("--inside", help=argparse.SUPPRESS)
    chosen = reader.parse_args()
    if chosen.inside:
        return inside(chosen.inside, chosen.steps)
    rows = (
        [json.loads(line) for line in chosen.log.read_text().splitlines()]
        if chosen.log and chosen.log.exists()
        else []
    )
    known, began = {(row["model"], row["step"]) for row in rows}, time.monotonic()
    for name in () if chosen.table else chosen.models or (*TIMM, *TRANSFORMERS):
        steps = [step for step in chosen.steps if (name, step) not in known]
        if time.monotonic() - began > 60 * chosen.minutes:
            break
        for row in run_model(name, steps, chosen.seconds) if steps else ():
            row["date"] = str(datetime.date.today())
            rows.append(row)
            print(
                f"{row['model']:24s} {row['step']:26s} {row['seconds']:6.1f} s  {row['outcome']}", flush=True
            )
            if chosen.log:
                with chosen.log.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    order = {name: place for place, name in enumerate((*TIMM, *TRANSFORMERS))}
    table(sorted(rows, key=lambda row: (order[row["model"]], STEPS.index(row["step"]))))


if __name__ == "__main__":
    main()
