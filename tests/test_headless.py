"The quickstart where nobody looks: nbconvert, papermill, a terminal"

import json
import os
import re
import subprocess
from pathlib import Path

import nbformat
import pytest
from helpers import execute
from warm_python import python

import trainopt_nb
from trainopt_nb.runs.table import list_runs

QUICKSTART = Path(__file__).parents[1] / "nbs/guides/70_quickstart.ipynb"
WAYS = {
    "nbconvert": ["-m", "nbconvert", "--to", "notebook", "--execute", "book.ipynb", "--output", "done.ipynb"],
    "papermill": ["-m", "papermill", "book.ipynb", "done.ipynb", "--kernel", "python3"],
}


def write_book(folder):
    "The quickstart with fewer epochs and no outputs"
    notebook = nbformat.read(QUICKSTART, as_version=4)
    for cell in notebook.cells:
        cell.source = re.sub(r"--epochs \d+", "--epochs 4", cell.source).replace(">= 0.98", ">= 0.5")
        if cell.cell_type == "code":
            cell.outputs = []
    nbformat.write(notebook, folder / "book.ipynb")
    return folder


@pytest.fixture
def book(tmp_path, warm_kernel):
    "A notebook in a folder of its own"
    return write_book(tmp_path)


@pytest.fixture(scope="module")
def executed(tmp_path_factory, warm_kernel):
    "The folder in which each way has executed the notebook"
    folders = {way: write_book(tmp_path_factory.mktemp(way)) for way in WAYS}
    for way, folder in folders.items():
        done = execute(*WAYS[way], folder=folder)
        assert done.returncode == 0, done.stderr
    return folders


def outputs(path):
    return [
        output
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "code"
        for output in cell.outputs
    ]


@pytest.mark.parametrize("way", WAYS)
def test_run_all_leaves_the_run_and_static_outputs(executed, way):
    book = executed[way]
    (run,) = list_runs(book / "runs")
    assert run.state == "finished" and run.progress.epoch == 4
    found = outputs(book / "done.ipynb")
    text = "".join(o.get("text", "") for o in found)
    assert len(re.findall(r"epoch \d", text)) == 4 and "images are read correctly" in text
    pictures = [o.data["text/html"] for o in found if "text/html" in o.get("data", {})]
    assert len(pictures) == 1 and "data:image/png" in pictures[0] and "finished" in pictures[0]
    assert not any("widget-view" in kind for o in found for kind in o.get("data", {}))


@pytest.mark.slow
def test_both_leave_the_same_run(executed):
    "The same notebook gives the same weights and the same events, whoever runs it"
    told = []
    for folder in executed.values():
        (run,) = list_runs(folder / "runs")
        told.append([(e.epoch, e.train_loss, e.metrics) for e in run.progress.epochs])
    assert told[0] == told[1]


def test_an_error_stops_run_all(book):
    notebook = nbformat.read(book / "book.ipynb", as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace("%%trainopt fit", "%%trainopt fit --epoch 2")
    nbformat.write(notebook, book / "book.ipynb")
    done = execute(*WAYS["papermill"], folder=book)
    said = "".join(o.get("text", "") for o in outputs(book / "done.ipynb"))
    assert done.returncode != 0 and "Did you mean '--epochs'" in said and not (book / "runs").exists()


def test_exported_page_shows_the_end(executed):
    book = executed["nbconvert"]
    done = execute("-m", "nbconvert", "--to", "html", "done.ipynb", folder=book)
    assert done.returncode == 0, done.stderr
    page = (book / "done.html").read_text()
    assert "data:image/png;base64" in page and "finished" in page and "Error displaying widget" not in page


def command(folder, *words):
    code = "import sys; from trainopt_nb.notebook.cli import main; sys.exit(main())"
    return execute("-c", code, *words, folder=folder)


def test_terminal_runs_a_notebook_and_flags_win(book):
    done = command(book, "fit", "book.ipynb", "--epochs", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"^epoch \d", done.stdout, re.M)) == 2 and "epoch 2/2" in done.stdout
    (run,) = list_runs(book / "runs")
    ending = done.stdout.strip().splitlines()[-3:]
    assert f"best epoch: {run.progress.best.epoch}\n" in done.stdout
    assert (
        ending[0].startswith("accuracy: ")
        and ending[1] == f"run: {run.path}"
        and ending[2] == "open it: jupyter lab book.ipynb"
    )
    assert run.name in command(book, "runs").stdout


def test_terminal_runs_a_python_file(tmp_path):
    (tmp_path / "job.py").write_text(
        "import torch\nfrom torch import nn\nx = torch.randn(60, 4)\nmodel = nn.Linear(4, 2)\ntrain_data = (x, (x.sum(1) > 0).long())\n"
    )
    done = command(tmp_path, "fit", "job.py", "--epochs", "2", "--valid-fraction", "0.2")
    assert done.returncode == 0 and "epoch 2/2" in done.stdout, done.stdout + done.stderr
    done = command(tmp_path, "resume", "--epochs", "3")
    assert done.returncode == 0 and "epoch 3/3" in done.stdout, done.stdout + done.stderr


BODY = """import torch
from torch import nn
x = torch.randn(60, 4)
model = nn.Linear(4, 2)
train_data = (x, (x.sum(1) > 0).long())
"""
FILES = {
    "a line that loads": f"%load_ext trainopt_nb\n{BODY}",
    "a cell magic": f"%load_ext trainopt_nb\n%%trainopt fit --lr 0.1\n{BODY}",
    "percent": f"# %% [markdown]\n# text\n\n# %%\n# %load_ext trainopt_nb\n\n# %%\n# %%trainopt fit --lr 0.1\n{BODY}\n"
    "# %%\nassert run.state == 'finished'\n",
    "line magic": f"# %%\n%load_ext trainopt_nb\n{BODY}# %%\n%trainopt fit --lr 0.1\n",
    "calls": f"#!/usr/bin/env python\n# In[1]:\nget_ipython().run_line_magic('load_ext', 'trainopt_nb')\n# In[2]:\n"
    f"get_ipython().run_cell_magic('trainopt', 'fit --lr 0.1', {BODY!r})\nassert run.state == 'finished'\n",
}


@pytest.mark.parametrize("kind", FILES)
def test_terminal_runs_a_file_with_magics_once(tmp_path, kind):
    (tmp_path / "job.py").write_text(FILES[kind])
    done = command(tmp_path, "fit", "job.py", "--epochs", "2")
    assert done.returncode == 0 and "epoch 2/2" in done.stdout, done.stdout + done.stderr
    (run,) = list_runs(tmp_path / "runs")
    assert run.options["lr"] == (0.1 if "0.1" in FILES[kind] else 0.001)


def test_cells_that_cannot_be_told_apart_are_refused(tmp_path):
    (tmp_path / "job.py").write_text(f"# %load_ext trainopt_nb\n\n# %%trainopt fit\n{BODY}\nprint(run)\n")
    done = command(tmp_path, "fit", "job.py")
    assert (
        done.returncode == 1 and "jupytext --to py:percent" in done.stderr and "Traceback" not in done.stderr
    )


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["fit", "missing.ipynb"], 2, "no file 'missing.ipynb'"),
        (["fit", "job.py", "--epoch", "2"], 1, "Did you mean '--epochs'"),
        (["fti"], 2, "knows no 'fti'"),
        (["--help"], 0, "usage: trainopt fit FILE"),
        (["--version"], 0, f"trainopt {trainopt_nb.__version__}"),
        (["train", "missing.ipynb"], 2, "no file 'missing.ipynb'"),
        (["runs"], 0, "No runs here yet."),
        (["resume"], 1, "There are no runs"),
    ],
)
def test_terminal_says_what_is_wrong(tmp_path, words, status, said):
    (tmp_path / "job.py").write_text("1 / 0")
    done = command(tmp_path, *words)
    assert done.returncode == status and said in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_the_event_log_is_readable_by_anybody(book):
    "One JSON object a line, and options and facts beside it"
    command(book, "fit", "book.ipynb", "--epochs", "1")
    (run,) = list_runs(book / "runs")
    kinds = [json.loads(line)["kind"] for line in (run.path / "events.jsonl").read_text().splitlines()]
    assert kinds[0] == "Saved" and "steps" in kinds and kinds[-1] == "Ended"
    assert json.loads((run.path / "options.json").read_text())["epochs"] == 1


@pytest.mark.parametrize("verb", ["--help", "options"])
def test_a_reader_who_has_seen_enough_is_no_error(tmp_path, verb):
    "As in `trainopt options | head`"
    ours, theirs = os.pipe()
    os.close(ours)
    code = f"import sys; from trainopt_nb.notebook.cli import main; sys.exit(main([{verb!r}]))"
    done = subprocess.run(
        python("-c", code), cwd=tmp_path, stdout=theirs, stderr=subprocess.PIPE, text=True, timeout=120
    )
    os.close(theirs)
    assert (done.returncode, done.stderr) == (0, "")
