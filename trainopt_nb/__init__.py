"""Train, tune and shrink PyTorch models in a notebook, with live charts and controls: `%load_ext trainopt_nb`, then `%%trainopt`."""

__version__ = "0.1.0"

from trainopt_nb.catalogue import find_run, list_runs
from trainopt_nb.options import OptionError
from trainopt_nb.runs import Run, RunError
from trainopt_nb.train.fit import fit, resume
from trainopt_nb.train.lr_find import find_lr
from trainopt_nb.train.task import Task
from trainopt_nb.train.train_options import TrainOptions

__all__ = [
    "OptionError",
    "Run",
    "RunError",
    "Task",
    "TrainOptions",
    "find_lr",
    "find_run",
    "fit",
    "list_runs",
    "resume",
]


def load_ipython_extension(shell):
    "Register the magics (called by `%load_ext trainopt_nb`)"
    from trainopt_nb.notebook.magics import load

    load(shell)


def unload_ipython_extension(shell):
    "Remove the magics (called by `%unload_ext trainopt_nb`)"
    from trainopt_nb.notebook.magics import unload

    unload(shell)
