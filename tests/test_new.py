"`trainopt new`: notebooks that train at once, from a terminal and through nbconvert"

import json
import re

import nbformat
import numpy as np
import pandas as pd
import pytest
import soundfile
from helpers import execute, some_quick
from PIL import Image

from trainopt_nb import list_runs
from trainopt_nb.base.errors import OptionError, RunError
from trainopt_nb.notebook.cli import main
from trainopt_nb.notebook.new import new_notebook
from trainopt_nb.notebook.starters import STARTERS

LEAST = {"image": 0.97, "text": 0.95, "audio": 0.95, "table": 0.93}  # accuracy


@pytest.mark.parametrize("kind", some_quick(STARTERS, "text", "table"))
def test_each_kind_trains_from_a_terminal(kind, tmp_path):
    made = new_notebook(tmp_path / "mine", kind)
    start = "import sys; from trainopt_nb.notebook.cli import main; sys.exit(main(sys.argv[1:]))"
    done = execute("-c", start, "fit", made.name, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = list_runs(tmp_path / "runs")
    assert run.state == "finished" and run.metrics["accuracy"] >= LEAST[kind]
    assert "warning" not in (done.stdout + done.stderr).lower()
    if kind in ("table", "text"):
        with pytest.raises(RunError, match="preprocessing" if kind == "table" else "load_data"):
            run.eject()
        return
    script = run.eject().text
    assert "def load():" in script and "trainopt" not in re.sub("#.*", "", script)


FORMS = {
    "image": "pictures",
    "audio": "clips",
    "text": "reviews.csv",
    "table": "table.csv",
}  # what the comment names


def write_own(kind, folder):
    "Files such as a user has, of two labels"
    make, place = np.random.default_rng(0), folder / FORMS[kind]
    rows = [(label, number) for label in ("cat", "dog") for number in range(20)]
    for label, number in rows if kind in ("image", "audio") else ():
        (place / label).mkdir(parents=True, exist_ok=True)
        if kind == "image":
            pixels = (make.random((40, 48, 3)) * (100 if label == "cat" else 255)).astype("uint8")
            Image.fromarray(pixels).save(place / label / f"{number}.png")
        else:
            times = np.arange(2000) / 8000
            wave = np.sin(2 * np.pi * (200 if label == "cat" else 900) * times + number)
            soundfile.write(place / label / f"{number}.wav", wave.astype("float32"), 8000)
    if kind in ("text", "table"):
        table = pd.DataFrame(
            {"text": [f"the {label} number {n}" for label, n in rows], "label": [r[0] for r in rows]}
        )
        table["height"] = make.random(len(rows)) + (table["label"] == "dog")
        table[["text", "label"] if kind == "text" else ["height", "label"]].to_csv(place, index=False)


def with_own(source):
    "A cell whose lines for one's own data are no comments any more"
    before, own = source.split("# Your own", 1)
    title, *lines = own.splitlines(keepends=True)
    count = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    awake = [re.sub("^# ?", "", line) for line in lines[:count]]
    return f"{before}# Your own{title}{''.join([*awake, *lines[count:]])}"


@pytest.mark.parametrize("kind", STARTERS)
def test_the_lines_for_own_data_run_when_uncommented(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_own(kind, tmp_path)
    names = {}
    exec(with_own(STARTERS[kind].data), names)
    data = names["train_data"]
    labels = data["label"] if kind == "table" else data[1]
    assert {"cat", "dog"} == set(labels) and 30 <= len(labels) <= 40


@pytest.mark.slow
@pytest.mark.parametrize("kind", STARTERS)
def test_each_kind_trains_on_own_files(kind, tmp_path):
    write_own(kind, tmp_path)
    made = new_notebook(tmp_path / "mine", kind)
    book = nbformat.read(made, 4)
    cell = next(cell for cell in book.cells if "# Your own" in cell.source)
    cell.source = with_own(cell.source)
    nbformat.write(book, made)
    start = "import sys; from trainopt_nb.notebook.cli import main; sys.exit(main(sys.argv[1:]))"
    done = execute("-c", start, "fit", made.name, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list_runs(tmp_path / "runs")) == 1


def test_it_runs_as_a_notebook(tmp_path, warm_kernel):
    made = new_notebook(tmp_path / "mine.ipynb", "table")
    words = ("-m", "nbconvert", "--to", "notebook", "--execute", made.name, "--output", "done.ipynb")
    done = execute(*words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    outputs = [o for cell in nbformat.read(tmp_path / "done.ipynb", 4).cells for o in cell.get("outputs", [])]
    assert not any(o.output_type == "error" for o in outputs)
    assert "malignant" in outputs[-1].data["text/html"]


@pytest.mark.parametrize("kind", STARTERS)
def test_it_is_a_valid_notebook_that_reads_well(kind, tmp_path):
    made = new_notebook(tmp_path / kind, kind)
    nbformat.validate(nbformat.read(made, 4))
    words = ("ruff", "format", "--isolated", "--line-length", "110", "--diff", str(made))
    done = execute("-m", *words, folder=tmp_path)
    assert done.returncode == 0, done.stdout
    text = "".join("".join(cell["source"]) for cell in json.loads(made.read_text())["cells"])
    assert "Your own" in text and f"# {kind}\n" in text


def test_nothing_is_overwritten(tmp_path, capsys):
    path = tmp_path / "mine.ipynb"
    path.write_text("precious")
    with pytest.raises(OptionError, match="nothing is overwritten"):
        new_notebook(tmp_path / "mine")
    assert main(["new", str(path)]) == 2 and path.read_text() == "precious"
    assert "choose another name" in capsys.readouterr().err


def test_it_says_what_to_do_next(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["new", "my sounds", "--kind", "audio"]) == 0
    said = capsys.readouterr().out
    assert "trainopt fit 'my sounds.ipynb'" in said and "jupyter lab 'my sounds.ipynb'" in said
    assert "stft" in (tmp_path / "my sounds.ipynb").read_text()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["new"], "takes one name, and got none"),
        (["new", "a", "b"], "takes one name, and got a b"),
        (["new", "a", "--kind", "tabel"], "Did you mean 'table'"),
        (["new", "a", "--kin", "table"], "Did you mean '--kind'"),
    ],
)
def test_a_wrong_word_is_answered(words, sentence, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert re.search(re.escape(sentence), capsys.readouterr().err) and not list(tmp_path.iterdir())
