"The rooms of the house from the ground up: a module imports only from rooms above it in this list, and from its own room"

import json
import re
from functools import cache
from pathlib import Path

NBS = Path(__file__).parents[1]
ROOMS = {  # folder of nbs/ and of the package -> title and sentence
    "base": ("Base", "options, errors, texts, registries: no torch, no IPython"),
    "events": ("Events", "what a run yields and accepts, and the progress that follows from it"),
    "store": ("Store", "checkpoints and weights on the disk"),
    "runs": ("Runs", "the directory of a run, the table of runs, the static card and report"),
    "data": ("Data", "batches in a known order from whatever holds the data"),
    "augment": (
        "Augment",
        "random changes of training samples: policies, operations, the draws that they follow from",
    ),
    "feed": (
        "Feed",
        "files, folders, databases and foreign tables as data: read, decode, convert, load fast",
    ),
    "tables": ("Tables", "columns of a table as numbers that a model takes, fitted on the training rows"),
    "task": ("Task", "what is learned: options, task type, losses, metrics, checks before training"),
    "parallel": ("Parallel", "ranks, and the ways in which devices share a model"),
    "workers": ("Workers", "warm processes that run functions, their supervision, Ray"),
    "steps": ("Steps", "a step or a loss of the user's own: what it takes and gives, its trial"),
    "optim": ("Optim", "optimizers, parameter groups, frozen parts, learning rate schedules"),
    "train": ("Train", "the update, the state of a run, the training loop"),
    "script": ("Script", "the plain PyTorch script of a run"),
    "clean": ("Clean", "what is wrong with a task's data, and changes of it that can be undone"),
    "api": ("API", "run a task, here or elsewhere: `fit` and `resume`"),
    "insight": (
        "Insight",
        "what measuring a training tells: the learning rate test, where a model errs, and the doctor, which names faults and tries cures",
    ),
    "population": ("Population", "many trials as one program, equal to each of them alone"),
    "search": ("Search", "where to search, and how: the space, samplers, pruners, the study and its storage"),
    "sweeps": ("Sweeps", "trials in worker processes: the loop, its log, the cell as an objective"),
    "compression": ("Compression", "smaller and faster models: measured, pruned, quantized, exported"),
    "panels": ("Panels", "live views of a run, of all runs, and of the options"),
    "notebook": ("Notebook", "kernel, magics, command line"),
}


def order(
    path: Path,  # a notebook, or a name that begins as its name does
) -> tuple:  # sorts 9 before 9b before 10
    "Its place in its room"
    number, letter = re.match(r"(\d*)([a-z]?)", path.name).groups()
    return int(number or 0), letter, path.name


def notebooks() -> list[Path]:
    "The notebooks of all rooms, from the ground up"
    return [path for room in ROOMS for path in sorted(NBS.glob(f"{room}/[0-9]*.ipynb"), key=order)]


@cache
def modules() -> dict[str, Path]:
    "Full name of each exported module -> its notebook, from the ground up"
    found = {}
    for path in notebooks():
        for cell in json.loads(path.read_text())["cells"]:
            if name := re.search(r"^# ?\| default_exp (\S+)", "".join(cell["source"]), re.M):
                found[f"trainopt_nb.{name[1]}"] = path
    return found
