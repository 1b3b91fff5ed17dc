"""
Other trainers, each beside the same hand-written loop in a process and an environment of its own

    python tests/bench/rivals.py            # all of them, both models
    python tests/bench/rivals.py fastai     # one

Environments are made in a temporary folder with PyTorch taken from the running one, so that only small packages are
installed. All trainers get their batches ready made (an iterable that indexes tensors in memory, as the hand-written
loop does), the same fused optimizer, no checkpoints, no progress bar and no validation: what is measured is their loop.
fastai records the loss of every step as a matter of course; of the other two, a second row records it too.
"""

import atexit
import json
import logging
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import warnings
from functools import cache
from pathlib import Path
from types import SimpleNamespace

HERE = Path(__file__).parent
RIVALS = {  # name -> groups of packages, each installed by a call of its own
    # fastai asks for torchvision and spacy as well, which its training loop does not import
    "fastai": (("--no-deps", "fastai>=2.8"), ("fastcore>=2.2.22", "fastprogress", "fastdownload", "fasttransform", "plum-dispatch<2.10")),
    "lightning": (("lightning>=2.6,!=2.6.2,!=2.6.3",),),  # these two were poisoned
    "transformers": (("transformers>=5", "accelerate"),),
}  # fmt: skip
AMOUNTS = {"mlp": (10, 84), "cnn": (4, 16)}  # trainings of each kind, epochs of each


def install(name):  # the Python of an environment that has it
    "Make an environment that sees the packages of this one and has packages of its own before them"
    folder = Path(tempfile.mkdtemp(prefix=f"trainopt-bench-{name}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    places = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    own = subprocess.run([python, "-c", places], check=True, capture_output=True, text=True).stdout.strip()
    Path(own, "base.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    for packages in RIVALS[name]:
        pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", *packages]
        done = subprocess.run(pip, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(
                f"{' '.join(packages)} cannot be installed: {done.stderr.strip().splitlines()[-1]}"
            )
    return python


@cache
def measured(name):
    "What the process in the environment of its own found, or the sentence that says why there is nothing"
    try:
        done = subprocess.run([install(name), __file__, "--inside", name], capture_output=True, text=True)
    except RuntimeError as error:
        return str(error)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    return json.loads(done.stdout.splitlines()[-1])


def rival_rows(name, kind):
    "Lines of the table"
    from common import row

    found = measured(name)
    if isinstance(found, str):
        return [f"{name}: {found}"]
    return [row(f"{title} {found['version']}{more}", kind, *pairs) for title, more, pairs in found[kind]]


class Batches:
    "An epoch of batches as the hand-written loop makes them"

    def __init__(self, kind, form=lambda x, y: (x, y)):
        from common import BATCH, MODELS, shuffled

        self.x, self.y = MODELS[kind][1]()
        self.orders, self.size, self.form = shuffled(len(self.x)), BATCH, form

    def __len__(self):
        return -(-len(self.x) // self.size)

    def __iter__(self):
        for rows in next(self.orders).split(self.size):
            yield self.form(self.x[rows], self.y[rows])


def with_fastai(kind, turns, epochs):
    import torch
    import torch.nn.functional as F
    from common import LR, MODELS, adamw
    from fastai.basics import Callback, CancelValidException, Learner, OptimWrapper

    class Ends(Callback):
        def after_train(self):
            turns()

        def before_validate(self):
            raise CancelValidException

    class Loaders(SimpleNamespace):
        def __getitem__(self, i):
            return self.train

    model = MODELS[kind][0]()
    data = Loaders(train=Batches(kind), valid=[], device=torch.device("cpu"), n_inp=1, path=Path("."))
    make = lambda parameters, lr, **more: OptimWrapper(opt=adamw(model))
    learner = Learner(data, model, loss_func=F.cross_entropy, opt_func=make, lr=LR, cbs=[Ends()])
    with learner.no_logging():
        learner.fit(epochs)


def with_lightning(kind, turns, epochs, logged=False):
    import torch.nn.functional as F
    from common import MODELS, adamw
    from lightning import Callback, LightningModule, Trainer
    from lightning.pytorch.loggers import CSVLogger

    class Ends(Callback):
        def on_train_epoch_end(self, trainer, module):
            turns()

    class Module(LightningModule):
        def __init__(self):
            super().__init__()
            self.model = MODELS[kind][0]()

        def training_step(self, batch, number):
            x, y = batch
            loss = F.cross_entropy(self.model(x), y)
            if logged:
                self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            return adamw(self.model)

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu", devices=1, max_epochs=epochs, callbacks=[Ends()], default_root_dir=folder,
            logger=CSVLogger(folder) if logged else False, log_every_n_steps=1, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(Module(), Batches(kind))


def with_transformers(kind, turns, epochs, logged=False):
    import torch.nn.functional as F
    from common import LR, MODELS, adamw
    from torch import nn
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Ends(TrainerCallback):
        def on_epoch_end(self, arguments, state, control, **more):
            turns()

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = MODELS[kind][0]()

        def forward(self, x, labels):
            scores = self.model(x)
            return {"loss": F.cross_entropy(scores, labels), "logits": scores}

    class OwnBatches(Trainer):
        def get_train_dataloader(self):
            return batches

    batches, model = Batches(kind, lambda x, y: {"x": x, "labels": y}), Model()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, num_train_epochs=epochs, per_device_train_batch_size=64, learning_rate=LR, max_grad_norm=0,
            lr_scheduler_type="constant", use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True,
            logging_strategy="steps" if logged else "no", logging_steps=1,
        )  # fmt: skip
        trainer = OwnBatches(
            model,
            arguments,
            train_dataset=list(batches.y),
            optimizers=(adamw(model), None),
            callbacks=[Ends()],
        )
        for callback in list(trainer.callback_handler.callbacks):
            if type(callback).__name__ == "PrinterCallback":
                trainer.remove_callback(callback)
        trainer.train()


def inside(name):
    "In the environment of its own: print what was found"
    import importlib.metadata

    import torch
    from common import take_turns

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    trainings = {
        "fastai": {"": with_fastai},
        "lightning": {"": with_lightning, ", losses logged": lambda *a: with_lightning(*a, logged=True)},
        "transformers": {
            "": with_transformers,
            ", losses logged": lambda *a: with_transformers(*a, logged=True),
        },
    }[name]
    title = {"fastai": "fastai", "lightning": "Lightning", "transformers": "Transformers Trainer"}[name]
    found = {"version": importlib.metadata.version(name)}
    for kind, (instances, epochs) in AMOUNTS.items():
        pairs = take_turns(trainings, kind, instances, epochs)
        found[kind] = [(title, more, pairs[more]) for more in trainings]
    print("\n" + json.dumps(found))


def main(names):
    import torch
    from common import HEAD, machine

    torch.set_num_threads(1)
    print(machine())
    for kind in AMOUNTS:
        print(f"\n{kind}\n{HEAD}")
        for name in names:
            for line in rival_rows(name, kind):
                print(line, flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2])
    else:
        main(sys.argv[1:] or list(RIVALS))
