"Edit notebooks as text: `open NB` writes a py:percent view, `save NB` puts it back under the same cell ids."

import subprocess
import sys
from pathlib import Path

import jupytext

VIEWS = Path(".text")  # git-ignored
TOOLS = Path(__file__).parent


def view(nb):
    return VIEWS / nb.with_suffix(".py")


def open_(nb):
    "Write the text view of notebook `nb`"
    view(nb).parent.mkdir(parents=True, exist_ok=True)
    jupytext.write(jupytext.read(nb), view(nb), fmt="py:percent")
    print(view(nb))


def save(nb):
    "Write the text view back to `nb`, then format, clean, export and run it"
    nb.parent.mkdir(parents=True, exist_ok=True)
    how = ["--update"] if nb.exists() else ["--set-kernel", "python3"]
    steps = (
        ["jupytext", "--quiet", "--to", "ipynb", *how, "-o", str(nb), str(view(nb))],
        ["ruff", "format", "--quiet", str(nb)],
        ["ruff", "check", "--quiet", "--fix", "--output-format", "concise", str(nb)],
        ["nbdev_clean", "--fname", str(nb)],
        ["nbdev_export", "--path", str(nb)],
        [sys.executable, str(TOOLS / "run.py"), str(nb)],
    )
    for step in steps:
        subprocess.run(step, check=True)
    open_(nb)


if __name__ == "__main__":
    {"open": open_, "save": save}[sys.argv[1]](Path(sys.argv[2]))
