"""Ten tasks of a newcomer: the steps and words that each takes here, in fastai and in Lightning

    python tests/bench/ten_tasks.py                # counts, and runs every program, the others in environments of their own
    python tests/bench/ten_tasks.py --count        # counts only

All begin with the same two cells, which do not count: arrays of digits, a CSV file, and a model. The first two tasks are whole programs. Each of the others is
what is added to the first program, or what replaces lines of it. A step is a cell to run, a line to change or a button to press; words are what stands between
spaces, brackets, dots, commas and quotes.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import textwrap

from rivals import install

SHARED = """
import numpy as np, pandas as pd, torch
from sklearn.datasets import load_digits
from torch import nn
images, digits = load_digits(return_X_y=True)
images = images.astype("float32") / 16
train_data, valid_data = (images[:1400], digits[:1400]), (images[1400:], digits[1400:])
new_images = images[:5]
rng = np.random.default_rng(0)
people = pd.DataFrame({"age": rng.integers(18, 80, 600), "job": rng.choice(["smith", "baker", None], 600), "hours": rng.normal(40, 9, 600)})
people["rich"] = np.where(people.hours + people.age / 4 > 52, "yes", "no")
people.to_csv("people.csv", index=False)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
"""
PRESS = "# press "  # a click


# Each program: cells, apart by a blank line
TASKS = {
    "train on arrays": {
        "trainopt_nb": "%trainopt fit --epochs 5 --lr 3e-3",
        "fastai": """
            from fastai.tabular.all import *
            from torch.utils.data import TensorDataset
            pairs = [TensorDataset(torch.tensor(x), torch.tensor(y)) for x, y in (train_data, valid_data)]
            dls = DataLoaders.from_dsets(*pairs, bs=32)
            learn = Learner(dls, model, loss_func=CrossEntropyLossFlat(), metrics=accuracy)
            learn.fit(5, lr=3e-3)""",
        "lightning": """
            import lightning as L
            from torch.utils.data import DataLoader, TensorDataset
            from torchmetrics.functional import accuracy
            class Digits(L.LightningModule):
                def __init__(self, model):
                    super().__init__()
                    self.model = model
                def training_step(self, batch):
                    x, y = batch
                    loss = nn.functional.cross_entropy(self.model(x), y)
                    self.log("train_loss", loss)
                    return loss
                def validation_step(self, batch):
                    x, y = batch
                    scores = self.model(x)
                    self.log("valid_loss", nn.functional.cross_entropy(scores, y))
                    self.log("accuracy", accuracy(scores, y, "multiclass", num_classes=10))
                def configure_optimizers(self):
                    return torch.optim.AdamW(self.parameters(), lr=3e-3)
            pairs = [TensorDataset(torch.tensor(x), torch.tensor(y)) for x, y in (train_data, valid_data)]
            loaders = DataLoader(pairs[0], 32, shuffle=True), DataLoader(pairs[1], 32)
            lit, trainer = Digits(model), L.Trainer(max_epochs=5)
            trainer.fit(lit, *loaders)""",
    },
    "train on a CSV file with text and missing values": {
        "trainopt_nb": """
            %%trainopt fit --target rich --epochs 5
            train_data, valid_data = "people.csv", None
            model = nn.Sequential(nn.LazyLinear(64), nn.ReLU(), nn.LazyLinear(2))""",
        "fastai": """
            from fastai.tabular.all import *
            frame = pd.read_csv("people.csv")
            numbers, names = cont_cat_split(frame, dep_var="rich")
            dls = TabularDataLoaders.from_df(frame, procs=[Categorify, FillMissing, Normalize], cat_names=names, cont_names=numbers, y_names="rich")
            learn = tabular_learner(dls, metrics=accuracy)
            learn.fit(5)""",
        "lightning": """
            from sklearn.compose import make_column_selector, make_column_transformer
            from sklearn.impute import SimpleImputer
            from sklearn.pipeline import make_pipeline
            from sklearn.preprocessing import LabelEncoder, OneHotEncoder, StandardScaler
            frame = pd.read_csv("people.csv")
            prepare = make_column_transformer(
                (make_pipeline(SimpleImputer(), StandardScaler()), make_column_selector(dtype_include="number")),
                (OneHotEncoder(handle_unknown="ignore"), make_column_selector(dtype_exclude="number")))
            rows = prepare.fit_transform(frame.drop(columns="rich")[:500]).astype("float32")
            held = prepare.transform(frame.drop(columns="rich")[500:]).astype("float32")
            labels = LabelEncoder().fit_transform(frame["rich"])
            model = nn.Sequential(nn.Linear(rows.shape[1], 64), nn.ReLU(), nn.Linear(64, 2))
            import lightning as L
            from torch.utils.data import DataLoader, TensorDataset
            class Rich(L.LightningModule):
                def __init__(self, model):
                    super().__init__()
                    self.model = model
                def training_step(self, batch):
                    x, y = batch
                    return nn.functional.cross_entropy(self.model(x), y)
                def validation_step(self, batch):
                    x, y = batch
                    self.log("accuracy", (self.model(x).argmax(1) == y).float().mean())
                def configure_optimizers(self):
                    return torch.optim.AdamW(self.parameters(), lr=1e-3)
            pairs = [TensorDataset(torch.tensor(x), torch.tensor(y)) for x, y in ((rows, labels[:500]), (held, labels[500:]))]
            L.Trainer(max_epochs=5).fit(Rich(model), DataLoader(pairs[0], 32, shuffle=True), DataLoader(pairs[1], 32))""",
    },
    "change the optimizer": {
        "trainopt_nb": "--optimizer sgd",
        "fastai": "opt_func=SGD",
        "lightning": "return torch.optim.SGD(self.parameters(), lr=3e-3)",
    },
    "see why accuracy is low": {
        "trainopt_nb": "%trainopt inspect",
        "fastai": """
            pairs[1].vocab = list("0123456789")
            seen = ClassificationInterpretation.from_learner(learn)
            seen.plot_confusion_matrix()
            seen.most_confused()""",
        "lightning": """
            from sklearn.metrics import ConfusionMatrixDisplay
            with torch.no_grad():
                scores = model(torch.tensor(valid_data[0]))
            ConfusionMatrixDisplay.from_predictions(valid_data[1], scores.argmax(1))
            losses = nn.functional.cross_entropy(scores, torch.tensor(valid_data[1]), reduction="none")
            losses.topk(9)""",
    },
    "stop, and resume tomorrow": {
        "trainopt_nb": "# press Stop\n\n%trainopt resume",
        "fastai": """
            # press interrupt

            learn.save("digits")

            learn.load("digits")
            learn.fit(5, lr=3e-3, start_epoch=2)""",
        "lightning": """
            # press interrupt

            trainer = L.Trainer(max_epochs=9)
            trainer.fit(lit, *loaders, ckpt_path="last")""",
    },
    "use the model on new data": {
        "trainopt_nb": "run.predict(new_images)",
        "fastai": """
            scores, _ = learn.get_preds(dl=learn.dls.valid.new(TensorDataset(torch.tensor(new_images), torch.zeros(5).long())))
            scores.argmax(1)""",
        "lightning": """
            with torch.no_grad():
                scores = model.eval()(torch.tensor(new_images))
            scores.softmax(1), scores.argmax(1)""",
    },
    "balance rare classes": {
        "trainopt_nb": "--balance weighted",
        "fastai": """
            weights = 1 / np.bincount(digits[:1400])[digits[:1400]]
            dls = DataLoaders(WeightedDL(pairs[0], bs=32, wgts=weights), DataLoader(pairs[1], bs=32))""",
        "lightning": """
            from torch.utils.data import WeightedRandomSampler
            weights = 1 / np.bincount(digits[:1400])[digits[:1400]]
            loaders = DataLoader(pairs[0], 32, sampler=WeightedRandomSampler(weights, 1400)), DataLoader(pairs[1], 32)""",
    },
    "augment the training data": {
        "trainopt_nb": "--augment noise:0.1",
        "fastai": """
            class Noise(Callback):
                def before_batch(self):
                    if self.training:
                        self.learn.xb = (self.x + 0.1 * torch.randn_like(self.x),)

            cbs=Noise()""",
        "lightning": "x = x + 0.1 * torch.randn_like(x)",
    },
    "search the learning rate and the batch size": {
        "trainopt_nb": """
            %%trainopt sweep --trials 4 --epochs 2 --space lr=1e-4..1e-1:log batch_size=32|64
            model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))""",
        "fastai": """
            import optuna
            def objective(trial):
                dls = DataLoaders.from_dsets(*pairs, bs=trial.suggest_categorical("bs", [32, 64]))
                learn = Learner(dls, deepcopy(model), loss_func=CrossEntropyLossFlat(), metrics=accuracy)
                learn.fit(2, lr=trial.suggest_float("lr", 1e-4, 1e-1, log=True))
                return float(learn.recorder.values[-1][-1])
            study = optuna.create_study(direction="maximize")
            study.optimize(objective, n_trials=4)""",
        "lightning": """
            import optuna
            from copy import deepcopy
            class Searched(Digits):
                def __init__(self, model, lr):
                    super().__init__(model)
                    self.lr = lr
                def configure_optimizers(self):
                    return torch.optim.AdamW(self.parameters(), lr=self.lr)
            def objective(trial):
                lit = Searched(deepcopy(model), trial.suggest_float("lr", 1e-4, 1e-1, log=True))
                size = trial.suggest_categorical("batch_size", [32, 64])
                trainer = L.Trainer(max_epochs=2)
                trainer.fit(lit, DataLoader(pairs[0], size, shuffle=True), DataLoader(pairs[1], size))
                return trainer.callback_metrics["accuracy"].item()
            study = optuna.create_study(direction="maximize")
            study.optimize(objective, n_trials=4)""",
    },
    "make the model smaller, and export it as ONNX": {
        "trainopt_nb": "%trainopt compress model --prune 0.5 --floor 2%\ncompressed.export('small')",
        "fastai": """
            import torch_pruning as tp
            smaller = deepcopy(learn.model).eval()
            pruner = tp.pruner.MagnitudePruner(smaller, torch.zeros(1, 64), tp.importance.MagnitudeImportance(), pruning_ratio=0.5, ignored_layers=[smaller[-1]])
            pruner.step()
            small = Learner(dls, smaller, loss_func=CrossEntropyLossFlat(), metrics=accuracy)
            small.fit(2)
            torch.onnx.export(smaller.eval(), torch.zeros(1, 64), "small.onnx")""",
        "lightning": """
            import torch_pruning as tp
            from copy import deepcopy
            smaller = deepcopy(model).eval()
            pruner = tp.pruner.MagnitudePruner(smaller, torch.zeros(1, 64), tp.importance.MagnitudeImportance(), pruning_ratio=0.5, ignored_layers=[smaller[-1]])
            pruner.step()
            L.Trainer(max_epochs=2).fit(Digits(smaller), *loaders)
            torch.onnx.export(smaller.eval(), torch.zeros(1, 64), "small.onnx")""",
    },
}
# how a part of a program becomes a whole one, so that it can be run
FIT = TASKS["train on arrays"]


def count(program):
    "Steps and words of a program"
    cells = [cell for cell in textwrap.dedent(program).strip().split("\n\n") if cell.strip()]
    return len(cells), len(re.findall(r"[^\s()\[\]{}.,:=*'\"#%|+<>/-]+", program))


def _whole(tool, task, program):
    "The cells of a program that runs, where `program` is a part of one"
    program = textwrap.dedent(program).strip()
    first = textwrap.dedent(FIT[tool]).strip()
    if task in ("train on arrays", "train on a CSV file with text and missing values"):
        return [program]
    if tool == "trainopt_nb":
        if program.startswith("--"):
            return [f"{first} {program}"]
        if "resume" in program:  # nobody presses Stop, so there is something left to do only with more epochs
            return [first, f"{program.removeprefix(PRESS + 'Stop').strip()} --epochs 9"]
        return [first, program]
    if task == "change the optimizer":
        old = {
            "fastai": "metrics=accuracy)",
            "lightning": "return torch.optim.AdamW(self.parameters(), lr=3e-3)",
        }[tool]
        return [first.replace(old, f"metrics=accuracy, {program})" if tool == "fastai" else program)]
    if task == "augment the training data":
        if tool == "lightning":
            return [first.replace("x, y = batch\n", f"x, y = batch\n        {program}\n", 1)]
        callback, given = program.rsplit("\n\n", 1)
        lines = first.splitlines()
        return [
            "\n".join([lines[0], callback, *lines[1:]]).replace(
                "metrics=accuracy)", f"metrics=accuracy, {given})"
            )
        ]
    return [first, *(cell for cell in program.split("\n\n") if not cell.startswith(PRESS))]


def check(tool, python):
    "Run every program of a tool in a process of its own; return the tasks that failed with the last line of the error"
    failed = {}
    for task, tools in TASKS.items():
        cells = [SHARED, *_whole(tool, task, tools[tool])]
        if tool == "trainopt_nb":
            lines = "\n".join(
                f"shell.run_cell({cell!r}).raise_error()" for cell in ["%load_ext trainopt_nb", *cells]
            )
            program = f"from IPython.core.interactiveshell import InteractiveShell\nshell = InteractiveShell.instance()\n{lines}"
        else:
            program = "import matplotlib; matplotlib.use('agg')\n" + "\n".join(cells)
        with tempfile.TemporaryDirectory() as folder:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            done = subprocess.run(
                [python, "-c", program], cwd=folder, env=environment, capture_output=True, text=True
            )
        if done.returncode:
            failed[task] = (done.stderr.strip().splitlines() or ["?"])[-1]
        print(f"{tool}: {task}: {'failed: ' + failed[task] if task in failed else 'runs'}", flush=True)
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", action="store_true", help="count only")
    asked = parser.parse_args()
    print("| task | trainopt_nb: steps, words | fastai | Lightning |\n| --- | ---: | ---: | ---: |")
    for task, tools in TASKS.items():
        print(
            f"| {task} | " + " | ".join("{}, {}".format(*count(program)) for program in tools.values()) + " |"
        )
    if not asked.count:
        for tool in FIT:
            check(tool, sys.executable if tool == "trainopt_nb" else install(tool))


if __name__ == "__main__":
    main()
