"Edit notebooks as text: `open NB` writes a py:percent view, `save NB` puts it back under the same cell ids."

import subprocess
import sys
from pathlib import Path

import jupytext

VIEWS = Path(".text")  # git-ignored
TOOLS = Path(__file__).parent


def view(nb):
    return VIEWS / nb.with_suffix(".py")


def base(nb):
    "What the notebook said when its view was opened"
    return view(nb).with_suffix(".base")


def text(nb):
    return jupytext.writes(jupytext.read(nb), fmt="py:percent")


def open_(nb):
    "Write the text view of notebook `nb`; a view with changes that were not saved is kept beside it"
    view(nb).parent.mkdir(parents=True, exist_ok=True)
    now = text(nb)
    if view(nb).exists() and base(nb).exists() and view(nb).read_text() not in (now, base(nb).read_text()):
        kept = view(nb).replace(view(nb).with_suffix(".unsaved.py"))
        print(f"changes that were not saved are kept in {kept}")
    view(nb).write_text(now)
    base(nb).write_text(now)
    print(view(nb))


def save(nb):
    "Write the text view back to `nb`, then format, clean, export and run it"
    if nb.exists() and (not base(nb).exists() or base(nb).read_text() != text(nb)):
        sys.exit(
            f"{nb} has changed since its view was opened: open it again, which keeps your changes apart."
        )
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
    try:
        for step in steps:
            subprocess.run(step, check=True)
    finally:  # whatever failed, these changes are the view's own
        if nb.exists():
            base(nb).write_text(text(nb))
    view(nb).write_text(text(nb))


if __name__ == "__main__":
    try:
        {"open": open_, "save": save}[sys.argv[1]](Path(sys.argv[2]))
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error.cmd[0]} failed: the notebook is written, put its view right and save again.")
