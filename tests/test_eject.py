"A run as a plain script: it needs nothing of this package, reads well, and ends with the same weights"

import json
import re
import runpy
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import execute, quiet
from IPython.core.interactiveshell import InteractiveShell

from trainopt_nb import RunError, TrainOptions, find_run, fit, resume
from trainopt_nb.base.cells import earlier_cells, missing_names, plain_source
from trainopt_nb.base.options import declared
from trainopt_nb.script.constants import write_functions
from trainopt_nb.script.parts import Part
from trainopt_nb.script.pieces import loop_imports
from trainopt_nb.script.reasons import OF_DEVICES, REFUSED, SILENT, UNWRITTEN, WRITTEN
from trainopt_nb.script.source import Known
from trainopt_nb.script.write import script_text

DATA = """
import torch
from torch import nn

generator = torch.Generator().manual_seed(1)
x = torch.randn(210, 4, generator=generator)
y = (x.sum(1) > 0).long() + (x[:, 0] > 1).long()
"""
MODEL = """
model = nn.Sequential(
    nn.Linear(4, 16),
    nn.ReLU(),
    nn.Dropout(0.2),
    nn.Linear(16, {outputs}),
)
"""
SPLIT = "train_data, valid_data = (x[:161], y[:161]), (x[161:], y[161:])\n"
PLAIN = DATA + SPLIT + MODEL.format(outputs=3)
NORMED = (DATA + SPLIT + MODEL.format(outputs=3)).replace("nn.ReLU()", "nn.BatchNorm1d(16),\n    nn.ReLU()")
IMAGES = """
import torch
from torch import nn

generator = torch.Generator().manual_seed(1)
x = torch.rand(120, 3, 12, 12, generator=generator)
y = (x.mean((1, 2, 3)) * 300).long() % 3
train_data, valid_data = (x[:90], y[:90]), (x[90:], y[90:])
model = nn.Sequential(
    nn.Conv2d(3, 8, 3),
    nn.ReLU(),
    nn.AdaptiveAvgPool2d(2),
    nn.Flatten(),
    nn.Linear(32, 3),
)
"""
SOUNDS = """
import torch
from torch import nn

generator = torch.Generator().manual_seed(1)
x = torch.randn(120, 1, 400, generator=generator)
y = (x[:, 0, :9].sum(1) * 30).long() % 3
train_data, valid_data = (x[:90], y[:90]), (x[90:], y[90:])
model = nn.Sequential(
    nn.Conv1d(1, 8, 9, stride=2),
    nn.ReLU(),
    nn.AdaptiveAvgPool1d(4),
    nn.Flatten(),
    nn.Linear(32, 3),
)
"""
CASES = {  # name -> (cell, flags); all of them in memory, on the CPU, in fp32
    "defaults": (PLAIN, ""),
    "no validation": (PLAIN.replace("train_data, valid_data =", "train_data, other ="), ""),
    "sgd, no decay": (PLAIN, "--optimizer sgd --weight-decay 0 --lr 0.1"),
    "nesterov": (PLAIN, "--optimizer nesterov --momentum 0.8 --lr 0.05 --decay-all"),
    "rprop": (PLAIN, "--optimizer rprop"),
    "rmsprop, clip": (PLAIN, "--optimizer rmsprop --clip 0.5 --clip-value 0.01"),
    "linear": (PLAIN, "--schedule linear --final-lr 0.1 --warmup 0.2"),
    "step": (PLAIN, "--schedule step --step-every 1 --gamma 0.5"),
    "multistep": (PLAIN, "--schedule multistep --milestones 1,2"),
    "exponential": (PLAIN, "--schedule exponential --gamma 0.8 --warmup 0.3"),
    "cosine": (PLAIN, "--schedule cosine --warmup 0.1"),
    "cosine to": (PLAIN, "--schedule cosine --final-lr 0.2"),
    "onecycle": (PLAIN, "--schedule onecycle --warmup 0.4"),
    "plateau": (PLAIN, "--schedule plateau --plateau-patience 0 --epochs 6 --lr 0.2 --gamma 0.3"),
    "plateau, warm-up": (PLAIN, "--schedule plateau --plateau-patience 0 --epochs 6 --warmup 0.2 --lr 0.2"),
    "accumulate, ema": (PLAIN, "--accumulate 3 --ema 0.95 --batch-size 16"),
    "ema, last": (NORMED, "--ema 0.9 --no-restore-best"),
    "batch norm": (NORMED, "--batch-size 32"),  # leaves 161 = 5 * 32 + 1: the last batch of one is left out
    "drop last": (PLAIN, "--batch-size 50 --drop-last --no-shuffle"),
    "l1, dropout": (PLAIN, "--l1 1e-3 --dropout 0.5"),
    "smoothing, weights": (PLAIN, "--label-smoothing 0.1 --class-weights balanced --accumulate 2"),
    "focal": (PLAIN, "--loss focal --focal-gamma 1.5 --class-weights balanced"),
    "patience": (PLAIN, "--epochs 30 --patience 2 --min-delta 0.02 --lr 0.05 --monitor valid_loss"),
    "steps": (PLAIN, "--max-steps 7 --epochs 50 --deterministic --seed 5"),
    "held out": (PLAIN.replace("train_data, valid_data =", "train_data, other ="), "--valid-fraction 0.3"),
    "metrics": (PLAIN, "--metrics accuracy,f1,auroc --monitor f1 --monitor-mode max"),
    "frozen": (PLAIN + "model[0].requires_grad_(False)\n", ""),
    "frozen by name": (PLAIN, "--freeze 0"),
    "groups": (NORMED, "--lr-for 0=0.1x,*.bias=2e-3 --weight-decay-for 4=0.1 --schedule cosine"),
    "stages": (NORMED, "--freeze 0,1 --unfreeze 2 --lr-for 0=1e-4 --epochs 5 --clip 1"),
    "teacher": (
        PLAIN + "teacher = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3))\n",
        "--teacher teacher --distill logits:3 --distill-weight 0.6",
    ),
    "teacher of numbers": (
        DATA + "y = x.square().sum(1)\n" + SPLIT + MODEL.format(outputs=1) + "big = nn.Linear(4, 1)\n",
        "--teacher big --accumulate 2",
    ),
    "teacher of answers": (
        DATA + "y = (x[:, :2] > 0).float()\n" + SPLIT + MODEL.format(outputs=2) + "big = nn.Linear(4, 2)\n",
        "--teacher big",
    ),
    "ignored": (DATA + "y[::7] = -100\n" + SPLIT + MODEL.format(outputs=3), "--accumulate 2 --batch-size 4"),
    "binary": (DATA + "y = (y > 0).long()\n" + SPLIT + MODEL.format(outputs=1), "--class-weights balanced"),
    "regression": (
        DATA + "y = x.square().sum(1)\n" + SPLIT + MODEL.format(outputs=1),
        "--loss huber --huber-delta 0.5",
    ),
    "float64": (
        DATA + "x, y = x.double().numpy(), x.sum(1).double().numpy()\n" + SPLIT + MODEL.format(outputs=1),
        "--metrics r2",
    ),
    "multilabel": (
        DATA + "y = (x[:, :2] > 0).long()\n" + SPLIT + MODEL.format(outputs=2),
        "--metrics f1,auroc",
    ),
    "many labels": (DATA + "y = (x[:, :2] > 0).float()\n" + SPLIT + MODEL.format(outputs=2), ""),
    "tensor dataset": (
        DATA + "from torch.utils.data import DataLoader, TensorDataset\n\n"
        "train_data = DataLoader(TensorDataset(x[:161], y[:161]), 25, shuffle=True)\n"
        "valid_data = TensorDataset(x[161:], y[161:])\n" + MODEL.format(outputs=3),
        "",
    ),
    "text labels": (
        DATA + "import pandas as pd\n\n"
        'names = pd.Series(["low", "middle", "high"])[y.numpy()]\n'
        "table = pd.DataFrame(x.numpy())\n"
        "train_data = table[:161], names[:161]\n"
        "valid_data = table[161:], names[161:]\n" + MODEL.format(outputs=3),
        "",
    ),
    "two inputs": (
        DATA + "\n\nclass Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(4, 3)\n"
        "        self.norm = nn.LayerNorm([1, 3])\n\n"
        "    def forward(self, first, second):\n"
        "        return self.norm(self.layer(torch.cat([first, second], 1))[:, None])[:, 0]\n\n\n"
        "train_data = (x[:161, :2], x[:161, 2:].numpy()), y[:161].int()\n"
        "valid_data = (x[161:, :2], x[161:, 2:].numpy()), y[161:].int()\n"
        "model = Net()\n",
        "",
    ),
    "own loss inside": (
        DATA + "\n\nclass Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(4, 3)\n\n"
        "    def forward(self, inputs, labels):\n"
        "        logits = self.layer(inputs)\n"
        "        loss = nn.functional.cross_entropy(logits, labels)\n"
        '        return {"loss": loss, "logits": logits}\n\n\n'
        'train_data = {"inputs": x[:161], "labels": y[:161]}\n'
        'valid_data = {"inputs": x[161:], "labels": y[161:]}\n'
        "net = Net()\n",
        "--model net --metrics f1,accuracy",
    ),
    "target by name": (
        DATA + "\n\nclass Net(nn.Sequential):\n"
        "    def forward(self, inputs):\n"
        "        return super().forward(inputs)\n\n\n"
        'train_data = {"inputs": x[:161], "class": y[:161]}\n'
        'valid_data = {"inputs": x[161:], "class": y[161:]}\n'
        "model = Net(nn.Linear(4, 3))\n",
        "--accumulate 2",
    ),
    "loss of the cell": (
        PLAIN
        + "\n\ndef loss(outputs, targets):\n    return nn.functional.multi_margin_loss(outputs, targets)\n",
        "",
    ),
    "objects of the cell": (
        PLAIN + "import torchmetrics\n\n"
        "criterion = nn.CrossEntropyLoss(label_smoothing=0.2)\n"
        'metrics = [torchmetrics.classification.MulticlassRecall(3), "f1"]\n',
        "--loss criterion",
    ),
    "optimizer of the cell": (
        PLAIN + "\n\ndef optimizer(parameters):\n    return torch.optim.Adam(parameters, lr=0.02)\n",
        "--optimizer optimizer",
    ),
    "sequences": (
        DATA + "\n\nclass Tagger(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(1, 3)\n\n"
        "    def forward(self, inputs):\n"
        "        return self.layer(inputs[:, :, None])\n\n\n"
        "tags = (x > 0).long() + (x > 1).long()\n"
        "train_data, valid_data = (x[:161], tags[:161]), (x[161:], tags[161:])\n"
        "model = Tagger()\n",
        "--class-axis -1",
    ),
    "answers as numbers": (
        DATA + "y = (y > 0).float()\n" + SPLIT + MODEL.format(outputs=1),
        "--task-type regression",
    ),
    "probabilities": (
        PLAIN + "model = nn.Sequential(model, nn.Softmax(1))\n",
        "--scores probabilities --metrics accuracy,auroc",
    ),
    "augment": (IMAGES, "--augment default --augment-values 1 --augment-targets still --tta 2"),
    "augment, mixing": (
        IMAGES,
        "--augment 'rotate crop flip noise erase mixup cutmix' --class-weights balanced --label-smoothing 0.1 --accumulate 2 --batch-size 16",
    ),
    "augment, focal": (
        IMAGES,
        "--augment 'randaugment blur color cutmix' --augment-strength 0.5 --loss focal",
    ),
    "augment, bytes": (
        IMAGES.replace("x = torch.rand(120", "x = 255 * torch.rand(120")
        .replace("train_data,", "x = x.to(torch.uint8)\ntrain_data,")
        .replace(
            "model = nn.Sequential(",
            "\n\nclass ToFloat(nn.Module):\n    def forward(self, x):\n        return x / 255\n\n\nmodel = nn.Sequential(\n    ToFloat(),",
        ),
        "--augment 'trivialaugment resize-crop vertical-flip'",
    ),
    "augment, masks": (
        IMAGES.replace("y = (x.mean((1, 2, 3)) * 300).long() % 3", "y = (x.mean(1) * 3).long()")
        .replace(
            "    nn.AdaptiveAvgPool2d(2),\n    nn.Flatten(),\n    nn.Linear(32, 3),\n",
            "    nn.Conv2d(8, 3, 1),\n",
        )
        .replace("3, 8, 3)", "3, 8, 3, padding=1)"),
        "--augment 'rotate flip'",
    ),
    "augment, sounds": (
        SOUNDS,
        "--augment 'noise gain shift speed pitch time-mask frequency-mask mixup' --augment-kind sounds",
    ),
    "augment, spectrograms": (
        IMAGES.replace("120, 3, 12", "120, 1, 12").replace("Conv2d(3", "Conv2d(1"),
        "--augment 'noise shift speed time-mask frequency-mask' --augment-kind spectrograms",
    ),
    "names that clash": (
        PLAIN + "LR = 0.5\nEPOCHS = 99\n\n\ndef order(samples, epoch):\n    return LR * EPOCHS\n",
        "--lr 0.01",
    ),
}
OTHERS = {  # near the run, not bit for bit, and said so: name -> (cell, flags)
    "bf16": (PLAIN, "--precision bf16"),
    "compiled": (PLAIN, "--compile --epochs 1"),
    "dataset": (
        DATA + "\n\nclass Rows:\n"
        "    def __init__(self, first, last):\n"
        "        self.rows = range(first, last)\n\n"
        "    def __len__(self):\n"
        "        return len(self.rows)\n\n"
        "    def __getitem__(self, i):\n"
        "        return x[self.rows[i]], y[self.rows[i]]\n\n\n"
        "train_data, valid_data = Rows(0, 161), Rows(161, 210)\n" + MODEL.format(outputs=3),
        "--class-weights balanced",
    ),
    "loader": (
        DATA + "from torch.utils.data import DataLoader, WeightedRandomSampler\n\n"
        "rows = list(zip(x, y))\n"
        "sampler = WeightedRandomSampler(torch.ones(161), 161)\n"
        "train_data = DataLoader(rows[:161], batch_size=32, sampler=sampler)\n"
        "valid_data = DataLoader(rows[161:], batch_size=32)\n" + MODEL.format(outputs=3),
        "--accumulate 2",
    ),
    "batches": (
        DATA + "train_data = list(zip(x[:160].split(20), y[:160].split(20)))\n"
        "valid_data = list(zip(x[160:].split(20), y[160:].split(20)))\n" + MODEL.format(outputs=3),
        "",
    ),
}


FOR_GPU = "batch norm"  # the case whose script is also written for a GPU
SLOW = {
    *("compiled", "rprop", "cosine to", "plateau", "frozen by name", "many labels"),
    *(
        "no validation",
        "exponential",
        "frozen",
        "teacher of numbers",
        "teacher of answers",
        "binary",
        "float64",
        "tensor dataset",
        "two inputs",
        "augment, bytes",
        "augment, masks",
        "augment, sounds",
        "target by name",
    ),
}  # PyTorch's compiler takes long, and other cases stand for the rest


def rows(table):
    "Names of a table of cases, those that take long marked so"
    return [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in table]


@pytest.fixture(scope="module")
def shell():
    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "trainopt_nb")
    yield shell
    InteractiveShell.clear_instance()


def trained(shell, folder, cell, flags, epochs="--epochs 3"):
    "The run of a cell, and the weights that it left in the kernel's model"
    for name in ("model", "train_data", "valid_data", "loss", "metrics", "run", "net", "optimizer", "other"):
        shell.user_ns.pop(name, None)
    line = f"%%trainopt fit --runs {folder} --name case --lr 0.01 {epochs} {flags}\n"
    result = shell.run_cell(line + cell.lstrip(), store_history=True)
    result.raise_error()
    model = shell.user_ns[re.search(r"--model (\w+)", flags)[1] if "--model" in flags else "model"]
    return shell.user_ns["run"], {name: value.clone() for name, value in model.state_dict().items()}


RUNNER = """
import json, os, pathlib, runpy, sys, warnings
import torch
warnings.simplefilter("error", UserWarning)
assert not any(name.startswith("trainopt") for name in sys.modules)
for script, folder in json.loads(sys.argv[1]):
    pathlib.Path(folder).mkdir()
    os.chdir(folder)
    try:
        runpy.run_path(script, run_name="__main__")
    except BaseException as error:
        pathlib.Path("error.txt").write_text(f"{type(error).__name__}: {error}")
    torch.use_deterministic_algorithms(False)
assert not any(name.startswith("trainopt") for name in sys.modules)
"""


def asked(session):
    "Names of the cases that the tests of this session are about"
    chosen = {
        item.callspec.params.get("name")
        for item in session.items
        if item.path == Path(__file__) and hasattr(item, "callspec")
    }
    return [name for name in {**CASES, **OTHERS} if name in {*chosen, FOR_GPU}]


@pytest.fixture(scope="module")
def ended(shell, request, tmp_path_factory):
    "The cases that are asked for as they were trained and as their scripts ended, the scripts in one process"
    folder = tmp_path_factory.mktemp("eject")
    found = {}
    for number, name in enumerate(asked(request.session)):
        cell, flags = {**CASES, **OTHERS}[name]
        run, weights = trained(shell, folder / f"runs{number}", cell, flags)
        found[name] = run, run.eject(), weights, folder / f"script{number}"
    jobs = json.dumps([(str(script.path), str(place)) for _, script, _, place in found.values()])
    done = execute("-c", RUNNER, jobs, folder="/")
    assert done.returncode == 0, done.stderr
    return found


def left(place):
    "The weights that a script saved"
    assert not (place / "error.txt").exists(), (place / "error.txt").read_text()
    (file,) = place.glob("*.pt")
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("name", rows(CASES))
def test_script_ends_with_the_weights_of_the_run(ended, name):
    run, script, weights, place = ended[name]
    assert run.state == "finished" and script.exact, script.notes
    now = left(place)
    assert weights.keys() == now.keys()
    different = [key for key in weights if not torch.equal(weights[key], now[key])]
    assert not different, (place, different)


@pytest.mark.parametrize("name", rows(OTHERS))
def test_what_is_not_promised_is_near_and_said(ended, name):
    _, script, weights, place = ended[name]
    assert script.notes and not script.exact
    assert all(" ".join(note.split()) in " ".join(script.text.split()) for note in script.notes)
    now = left(place)
    assert all(torch.allclose(weights[key], now[key], atol=0.1) for key in weights)


@pytest.mark.parametrize("name", rows({**CASES, **OTHERS}))
def test_script_reads_as_if_written_by_hand(ended, name):
    "No trace of this package, no constant that is not used"
    text = ended[name][1].text
    assert not re.search(r"trainopt", text)
    constants = re.findall(r"^([A-Z_0-9]+) = ", text, re.M)
    assert all(len(re.findall(rf"\b{constant}\b", text)) > 1 for constant in constants)


@pytest.mark.parametrize("cases", ["quick", pytest.param("slow", marks=pytest.mark.slow)])
def test_ruff_would_change_no_script(ended, cases, tmp_path):
    "In any line length, by its own defaults; all scripts of the session at once, which is quicker than one by one"
    for name, (_, script, _, _) in ended.items():
        (tmp_path / f"{re.sub(r'[^a-z0-9]+', '_', name)}.py").write_text(script.text)
    assert len([*tmp_path.iterdir()]) == len(ended)
    for words in (["check"], ["format", "--diff"], ["format", "--diff", "--line-length", "110"]):
        command = [Path(sysconfig.get_path("scripts"), "ruff"), *words, "--isolated", "--no-cache", tmp_path]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_cases_cover_the_options():
    "Each option that a script writes is set by some case that is not slow, or needs a device that is not here"
    flags = {name: flags.replace("--no-", "--") for name, (_, flags) in {**CASES, **OTHERS}.items()}
    unsaid = lambda said: {name for name in WRITTEN if "--" + name.replace("_", "-") not in said}
    missing = unsaid(" ".join(flags.values()))
    assert missing <= {"epochs", "device", "threads", "workers", "channels_last"}
    quick = " ".join(said for name, said in flags.items() if name not in SLOW)
    assert unsaid(quick) - missing == {"compile"}
    assert {*WRITTEN, *SILENT, *OF_DEVICES, *UNWRITTEN, *REFUSED} <= set(declared(TrainOptions))


def test_constants_have_the_same_order_in_every_process():
    "Where they stood in the order of a set, a script that was written again was another one"
    names = {letter * 3: place for place, letter in enumerate("ABCDEFGH")}
    part = Part(f"def total():\n    return {' + '.join(reversed(names))}\n", names)
    cut = SimpleNamespace(parts={"total": part}, known=lambda part: Known({}, part.names))
    assert [*write_functions(cut, {}).constants] == [*names]


def test_an_option_that_no_script_knows_is_said(tmp_path):
    "As one that will be declared some day"
    run = fit(net(), pair(), folder=tmp_path, epochs=1, write=quiet)
    facts, options = json.loads((run.path / "run.json").read_text()), run.options
    facts["seen"]["changed"].append("freeze_epochs")
    (run.path / "run.json").write_text(json.dumps(facts))
    (run.path / "options.json").write_text(json.dumps({**options, "freeze_epochs": 3}))
    assert "The option freeze_epochs=3 is not written." in run.eject().notes


@pytest.mark.parametrize("options", [
    {"precision": "fp16", "clip": 1.0, "accumulate": 2, "schedule": "cosine", "ema": 0.9},
    {"precision": "tf32", "channels_last": True, "threads": 2, "device": "cuda:1"},
    {"precision": "bf16", "compile": True, "on_nonfinite": "skip", "class_weights": "balanced", "metrics": "f1"},
])  # fmt: skip
def test_a_script_for_a_gpu_reads_well(ended, options, tmp_path):
    "It cannot run here, but what it says is complete and formatted"
    run = ended[FOR_GPU][0]
    facts = run.facts
    facts["seen"] |= {"device": "cuda", "images": True}
    stored = {**run.options, "device": "auto", **options}
    text, notes = script_text("2026-01-01-gpu-1", stored, facts, run.events(), NORMED)
    path = tmp_path / "train.py"
    path.write_text(text)
    for words in (["check"], ["format", "--diff"]):
        done = subprocess.run(
            [Path(sysconfig.get_path("scripts"), "ruff"), *words, "--isolated", path],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    wanted = {
        "fp16": [
            "GradScaler(device.type)",
            "scaler.unscale_(optimizer)",
            "scaler.step(optimizer)",
            "torch.float16",
        ],
        "tf32": [
            'set_float32_matmul_precision("high")',
            "channels_last",
            'torch.device("cuda:1")',
            "set_num_threads(2)",
        ],
        "bf16": ["torch.bfloat16", "torch.compile(model)", ".to(device)", "continue"],
    }[options["precision"]]
    assert all(part in text for part in wanted), text
    assert any("cuda" in note for note in notes)


# what cannot be written


def net():
    torch.manual_seed(0)
    return torch.nn.Linear(4, 3)


def pair():
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    return x, (x.sum(1) > 0).long()


def test_a_run_from_python_has_places_to_fill_in(tmp_path):
    run = fit(net(), pair(), folder=tmp_path, epochs=1, write=quiet)
    script = run.eject(tmp_path / "script.py")
    assert (
        "model = ..." in script.text
        and "train_data = ..." in script.text
        and "holds no code" in script.notes[0]
    )
    compile(script.text, "script.py", "exec")


def test_a_loss_from_elsewhere_is_asked_for(tmp_path):
    elsewhere = torch.nn.CrossEntropyLoss(label_smoothing=0.3)
    script = fit(net(), pair(), folder=tmp_path, epochs=1, write=quiet, loss=elsewhere).eject()
    assert "raise NotImplementedError" in script.text
    assert any("CrossEntropyLoss" in note for note in script.notes)


def test_what_was_done_by_hand_is_said(tmp_path):
    run = fit(net(), pair(), folder=tmp_path, epochs=1, write=quiet)
    resume(run, net(), pair(), epochs=2, write=quiet)
    assert any("resumed" in note for note in run.eject().notes)
    assert "EPOCHS = 2" in run.eject().text


def test_a_file_of_the_users_is_not_overwritten(tmp_path):
    run = fit(net(), pair(), folder=tmp_path, epochs=1, write=quiet)
    path = run.eject(tmp_path / "mine.py").path
    assert run.eject(path).path == path  # the same text
    path.write_text("# mine")
    with pytest.raises(RunError, match="overwrite=True"):
        run.eject(path)
    assert path.read_text() == "# mine"
    assert run.eject(path, overwrite=True).text == path.read_text()


def test_a_run_without_facts_is_refused(tmp_path):
    run = fit(net(), pair(), folder=tmp_path, epochs=1, write=quiet)
    facts = json.loads((run.path / "run.json").read_text())
    del facts["seen"]
    (run.path / "run.json").write_text(json.dumps(facts))
    with pytest.raises(RunError, match="no facts"):
        find_run(run.path).eject()


def test_on_a_page_it_is_code(tmp_path):
    script = fit(net(), pair(), folder=tmp_path, epochs=1, write=quiet).eject()
    bundle = script._repr_mimebundle_()
    assert bundle["text/markdown"].startswith("```python\n") and "train.py" in bundle["text/plain"]


# cells


def test_cells_that_a_cell_stands_on_come_along(shell, tmp_path):
    for cell in ("%pwd\nimport torch\nfrom torch import nn", "width = 8", "print('hello')\nunused = 1"):
        shell.run_cell(cell, store_history=True).raise_error()
    cell = "x = torch.ones(60, 4)\ntrain_data = x, torch.arange(60) % 3\nmodel = nn.Sequential(nn.Linear(4, width), nn.Linear(width, 3))\n"
    run, weights = trained(shell, tmp_path / "runs", cell, "")
    script = run.eject()
    assert (
        "width = 8" in script.text
        and "unused" not in script.text
        and "%pwd" not in script.text
        and script.exact
    )
    done = execute(script.path, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    now = torch.load(tmp_path / "case.pt", weights_only=True)
    assert all(torch.equal(weights[key], now[key]) for key in weights)


@pytest.mark.parametrize(
    ("cell", "needed"),
    [
        ("x = x / 2", ["x"]),
        ("x += 1", ["x"]),
        ("for i in range(3): total = i", []),
        ("def f(a, b=c):\n    return a + late\nlate = 1", ["c"]),
        ("class A(Base):\n    z = q\n    def f(self):\n        return np.ones(self.z)", ["Base", "q", "np"]),
        ("[n for n in rows if n > low]", ["rows", "low"]),
        ("{k: [j for j in v] for k, v in pairs} | {n for n in rows}", ["pairs", "rows"]),
        ("found = [n for n in rows]\nn", ["rows", "n"]),
        ("with open(path) as file: text = file.read()", ["path"]),
        ("f'{a} {b!r}'", ["a", "b"]),
        ("try:\n    import fast\nexcept ImportError:\n    fast = None\nfast", []),
        ("lambda q: q + r", ["r"]),
    ],
)
def test_needed_names_are_found(cell, needed):
    assert sorted(missing_names(cell)) == sorted(needed)


@pytest.mark.parametrize(
    ("cell", "plain"),
    [
        ("%load_ext x\na = 1", "a = 1"),
        ("if a:\n    !ls\n    b = 2", "if a:\n    pass  # !ls\n    b = 2"),
        ("%time a = f()", "a = f()"),
        ("a = 1  #@param {min: 0}", "a = 1"),
        ("%%time\na = 1", "a = 1"),
        ("%%bash\nls", ""),
        ("a = (b\n% c)", "a = (b\n% c)"),
        ("help?\na = 1", "a = 1"),
    ],
)
def test_magics_are_taken_out(cell, plain):
    assert plain_source(cell)[0] == plain


def test_the_last_cell_that_binds_a_name_counts():
    history = ["a = 1", "a = 2", "b = a"]
    assert earlier_cells("c = b", history) == "a = 2\n\nb = a"


def test_modules_may_be_imported_while_a_script_is_written(monkeypatch):
    "As the magics do in a thread, right after they were loaded"

    class Name(str):
        def startswith(self, *words):
            monkeypatch.setitem(sys.modules, "imported_meanwhile", sys)
            return super().startswith(*words)

    monkeypatch.setitem(sys.modules, Name("being_imported"), sys)
    assert "torch" in loop_imports.__wrapped__()


# what a script repeats, says or refuses of steps, losses and batches of the user's own

IDS = torch.randint(0, 5, (40, 6), generator=torch.Generator().manual_seed(0))


class Language(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Embedding(5, 5)

    def forward(self, x):
        return self.layer(x)


class Scaled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, x, lengths):
        return self.layer(x) * lengths[:, None]


class First(torch.nn.Linear):
    def __init__(self):
        super().__init__(4, 3)

    def forward(self, first):
        return super().forward(first)


class Temperature(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, outputs, targets):
        return torch.nn.functional.cross_entropy(outputs * self.scale, targets)


def next_token(outputs, targets):
    return torch.nn.functional.cross_entropy(outputs[:, :-1].flatten(0, 1), targets[:, 1:].flatten())


def with_margin(outputs, targets, margins):
    return (torch.nn.functional.cross_entropy(outputs, targets, reduction="none") - margins).relu().mean()


def in_turn(model, batch):
    yield "0", torch.nn.functional.cross_entropy(model(batch[0]), batch[1])


def triples():
    x, y = pair()
    return torch.utils.data.TensorDataset(x, y, torch.ones(60))


def cross_entropy_step(model, batch):
    return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])


def parts_of(outputs, targets):
    return {"ce": torch.nn.functional.cross_entropy(outputs, targets), "size": outputs.square().mean()}


def figures_of(model, batch):
    return {"loss": torch.nn.functional.cross_entropy(model(batch[0]), batch[1])}


REFUSALS = {  # name -> (model, train_data, options, what the sentence says)
    "a layout": (Scaled, triples, {"batch_layout": "x, y, lengths"}, "arranges the items of its batches"),
    "a layout of a dict": (
        First,
        lambda: dict(zip(("first", "answer"), pair(), strict=True)),
        {"batch_layout": "inputs: first; targets: answer"},
        "arranges the items of its batches",
    ),
    "a loss of three": (net, triples, {"loss": with_margin}, "arranges the items of its batches"),
    "weights": (net, triples, {"batch_layout": "x, y, weight"}, "hold weights of samples"),
    "a shifted loss": (Language, lambda: (IDS, IDS), {"loss": next_token}, "with the next target"),
    "a step": (net, pair, {"training_step": cross_entropy_step}, "trains by a training_step"),
    "a step in turn": (lambda: torch.nn.Sequential(net()), pair, {"training_step": in_turn}, "trains by a training_step"),
    "an evaluation": (net, pair, {"eval_step": figures_of}, "validates by an eval_step"),
    "parts": (net, pair, {"loss": parts_of}, "a dict of parts (ce, size)"),
    "parameters": (net, pair, {"loss": Temperature()}, "has parameters of its own"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_what_no_script_repeats_is_refused_in_one_sentence(name, tmp_path):
    model, data, options, said = REFUSALS[name]
    run = fit(model(), data(), data(), folder=tmp_path, epochs=1, device="cpu", write=quiet, **options)
    with pytest.raises(RunError, match=re.escape(said)) as error:
        run.eject()
    text = str(error.value)
    assert ":" in text and text.endswith(".") and "\n" not in text and not (run.path / "train.py").exists()


LABELED = DATA + "y[::7] = -100\n" + SPLIT + MODEL.format(outputs=3)
AGREE = {  # name -> (cell, flags): the same weights bit for bit
    "items that are alike": (
        DATA + "\n\nclass Both(nn.Linear):\n    def forward(self, first, second):\n        return super().forward(first - second)\n\n\n"
        "from torch.utils.data import TensorDataset\n\n"
        "train_data = TensorDataset(x[:161], x[:161] / 2, y[:161])\nvalid_data = TensorDataset(x[161:], x[161:] / 2, y[161:])\n"
        "model = Both(4, 3)\n",
        "",
    ),
    "a layout that is the usual one": (PLAIN, "--batch-layout x,y"),
    "a loss that counts samples": (
        PLAIN + "\n\ndef loss(outputs, targets):\n    return nn.functional.cross_entropy(outputs, targets)\n",
        "--accumulate 3 --batch-size 24",
    ),
    "groups, frozen, in stages": (
        NORMED, "--lr-for 4=0.5x --weight-decay-for 4=0 --freeze 0,1 --unfreeze 1 --accumulate 2 --l1 1e-3"
    ),
    "frozen, with an optimizer of the cell": (
        PLAIN + "\n\ndef optimizer(parameters):\n    return torch.optim.Adam(parameters, lr=0.02)\n",
        "--optimizer optimizer --freeze 0 --unfreeze 1",
    ),
}  # fmt: skip
COUNTED = {  # losses that count labels: the script is written, and says where it differs
    "labels left out": "loss = nn.CrossEntropyLoss()\n",
    "classes that weigh": "loss = nn.CrossEntropyLoss(torch.tensor([1.0, 2, 5]))\n",
    "a function": "\n\ndef loss(outputs, targets):\n    return nn.functional.cross_entropy(outputs, targets)\n",
}


def ran(script, folder, monkeypatch):
    "The weights that a script leaves"
    monkeypatch.chdir(folder)
    runpy.run_path(str(script.path), run_name="__main__")
    return left(folder)


@pytest.mark.parametrize("name", AGREE)
def test_what_a_script_repeats_ends_with_the_same_weights(shell, name, tmp_path, monkeypatch):
    run, weights = trained(shell, tmp_path / "runs", *AGREE[name])
    script = run.eject()
    assert script.exact, script.notes
    now = ran(script, tmp_path, monkeypatch)
    assert weights.keys() == now.keys() and all(torch.equal(weights[key], now[key]) for key in weights)


@pytest.mark.parametrize("name", COUNTED)
def test_a_loss_that_counts_labels_is_said(shell, name, tmp_path):
    run, _ = trained(
        shell, tmp_path / "runs", LABELED + COUNTED[name], "--accumulate 3 --batch-size 8", "--epochs 1"
    )
    (note,) = run.eject().notes
    assert "weighs each batch by the labels that its loss counts" in note
