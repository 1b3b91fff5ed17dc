"The magics in a real shell, without a page"

import json

import pytest
from helpers import magic, until
from IPython.core.completer import provisionalcompleter
from IPython.core.error import UsageError

from trainopt_nb.base.errors import Interrupted, RunError
from trainopt_nb.events.records import Pause, SetLr, Started
from trainopt_nb.runs.run import Run
from trainopt_nb.runs.table import find_run, list_runs

CELL = """
import torch
from torch import nn
x = torch.randn(120, 4)
y = (x.sum(1) > 0).long()
model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
train_data, valid_data = (x[:80], y[:80]), (x[80:], y[80:])
"""


def test_fit_leaves_the_model_and_the_run(shell, capsys):
    magic(shell, "fit --epochs 3 --lr 0.01 --name toy", CELL)
    run, said = shell.user_ns["run"], capsys.readouterr().out
    assert run.state == "finished" and run.options["epochs"] == 3 and "toy" in run.name
    assert said.count("epoch ") >= 3 and "accuracy" in said
    assert "nn.Linear(4, 16)" in (run.path / "cell.py").read_text()
    assert not shell.user_ns["model"].training


def test_the_verb_is_optional_and_the_same_cell_gives_the_same_bits(shell):
    magic(shell, "--epochs 2 --seed 5", CELL)
    first = {k: v.clone() for k, v in shell.user_ns["model"].state_dict().items()}
    magic(shell, "fit --epochs 2 --seed 5", CELL)
    assert all((first[k] == v).all() for k, v in shell.user_ns["model"].state_dict().items())
    magic(shell, "fit --epochs 2 --seed 6", CELL)
    assert any((first[k] != v).any() for k, v in shell.user_ns["model"].state_dict().items())


def test_variables_may_stand_in_for_names(shell):
    cell = (
        CELL
        + "def half(outputs, targets): return nn.functional.cross_entropy(outputs, targets) / 2\nnet = model; del model"
    )
    magic(
        shell,
        "fit --model net --loss half --optimizer make --epochs 1",
        cell + "\nmake = lambda p: torch.optim.SGD(p, lr=0.3)",
    )
    assert "half" in shell.user_ns["run"].options["loss"]


def test_a_loss_named_loss_counts(shell):
    magic(
        shell, "fit --epochs 1", CELL + "\nloss = nn.CrossEntropyLoss(label_smoothing=0.1)\nmetrics = ['f1']"
    )
    run = shell.user_ns["run"]
    assert "CrossEntropyLoss" in run.options["loss"] and "f1" in run.metrics


def test_a_tensor_left_over_as_loss_does_not_count(shell):
    magic(shell, "fit --epochs 1", CELL + "\nloss = torch.tensor(1.0)")
    assert shell.user_ns["run"].options["loss"] == "auto"


def test_what_earlier_cells_left_is_said(shell, capsys):
    "It counts, and the output, the run and its report say so; what the cell itself defines needs no word"
    shell.run_cell(
        "from torch import nn\nclass Focal(nn.CrossEntropyLoss): pass\nloss, metrics = Focal(), ['f1']"
    )
    magic(shell, "fit --epochs 1", CELL)
    run, said = shell.user_ns["run"], capsys.readouterr().out
    sentence = (
        "Taken from an earlier cell: loss (Focal), metrics (f1). If that is not meant: del loss, metrics."
    )
    assert f"info: {sentence}" in said and "Focal" in run.options["loss"] and "f1" in run.metrics
    assert [note.text for note in run.progress.notes] == [sentence]
    magic(shell, "fit --epochs 1 --loss auto", CELL + "\nmetrics = ['recall']")
    assert "Taken from" not in capsys.readouterr().out
    magic(
        shell,
        "fit --epochs 1 --loss auto --metrics auto",
        CELL.replace("train_data, valid_data = ", "train_data, _ = "),
    )
    assert "Taken from an earlier cell: valid_data. If" in capsys.readouterr().out
    magic(shell, "fit --epochs 1 --loss auto --metrics auto", "model = nn.Linear(4, 2)")
    assert "Taken from" not in capsys.readouterr().out  # the data stand above on purpose


def test_a_form_without_a_page_says_that_it_trains(shell, capsys):
    magic(shell, "form --epochs 1 --lr 0.01", CELL)
    said = capsys.readouterr().out
    assert said.startswith("A form cannot be shown here") and "lr=0.01" in said.splitlines()[0]
    assert shell.user_ns["run"].state == "finished"


@pytest.mark.parametrize(
    ("line", "cell", "said"),
    [
        ("fit --epoch 3", CELL, "Did you mean '--epochs'"),
        ("fit --optimizer adamv", CELL, "Did you mean 'adam'"),
        ("fit --epochs", CELL, "needs a value"),
        ("fit --name 'open", CELL, "quote"),
        ("fot", CELL, "Did you mean 'fit'"),
        ("fit extra", CELL, "takes flags only"),
        ("runs", CELL, "takes no cell body"),
        ("fit", "net = 1", "There is no variable 'model'"),
        ("fit", CELL + "net = model; del model", "--model net"),
        ("fit", CELL + "data = train_data; del train_data", "--train-data data"),
        ("fit --valid-data other", CELL, "There is no variable 'other'"),
        ("fit --valid-data other", CELL + "a = b = train_data; x_test = valid_data", "--valid-data x_test"),
        ("fit", CELL.replace("> 0).long()", "> 0).long() + 5"), "Labels must run from 0 to 1"),
        ("fit --monitor f2", CELL, "--monitor takes valid_loss"),
        ("fit --precision fp16", CELL, "use bf16"),
        ("fit --device cuda:9", CELL, "use --device auto or cpu"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence_and_leaves_no_run(shell, tmp_path, line, cell, said):
    with pytest.raises(UsageError) as caught:
        magic(shell, line, cell)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.glob("runs/*"))


def test_wrong_flags_are_refused_before_the_body_runs(shell):
    with pytest.raises(UsageError):
        magic(shell, "fit --lr fast", "touched = True")
    assert "touched" not in shell.user_ns


def test_errors_of_the_body_are_the_users(shell):
    with pytest.raises(ZeroDivisionError):
        magic(shell, "fit", "1 / 0")
    assert not shell.run_cell("%%trainopt fit\n1 / 0").success


INTERRUPTING = (
    CELL
    + """
import signal
class Interrupting(nn.Sequential):
    calls = 0
    def forward(self, inputs):
        Interrupting.calls += 1
        if Interrupting.calls == 40:
            signal.raise_signal(signal.SIGINT)
        return super().forward(inputs)
model = Interrupting(*model)
"""
)


def test_an_interrupted_training_ends_its_cell_with_one_sentence(shell, capsys):
    "As Run All and nbclient see it; what was trained is there, and goes on"
    cell = f"%%trainopt fit --epochs 30{INTERRUPTING}"
    done = shell.run_cell(cell)
    run, said = shell.user_ns["run"], capsys.readouterr().out
    with pytest.raises(
        Interrupted,
        match=f"^The training was interrupted after step {run.progress.step}, and everything is saved",
    ):
        done.raise_error()
    assert said.rstrip().endswith(str(done.error_in_exec)) and "Traceback" not in said
    assert run.state == "stopped" and not shell.user_ns["model"].training
    magic(shell, "resume")
    assert run.state == "finished"


def test_a_stop_by_command_ends_the_cell_normally(shell):
    stopping = "signal.raise_signal(signal.SIGINT)"
    asked = "__import__('trainopt_nb').list_runs('runs')[0].send('stop')"
    assert shell.run_cell(f"%%trainopt fit --epochs 400{INTERRUPTING.replace(stopping, asked)}").success
    assert shell.user_ns["run"].state == "stopped"


def test_runs_attach_resume(shell, capsys, monkeypatch):
    magic(shell, "fit --epochs 2 --name first", CELL)
    magic(shell, "fit --epochs 1 --lr 0.1 --name second", CELL)
    table = magic(shell, "runs")
    assert len(table) == 2 and "lr" in table.rows()[0] and "<table" in table._repr_mimebundle_()["text/html"]
    magic(shell, "attach first")
    capsys.readouterr()
    assert [row[3] for row in table.rows()[1]] != ["", ""]
    with pytest.raises(UsageError, match="has done all of its 2 epochs"):
        magic(shell, "resume first")
    magic(shell, "resume first --epochs 4")
    said = capsys.readouterr().out
    assert "epoch 3/4" in said and "epoch 4/4" in said and "epoch 2/4" not in said
    with pytest.raises(UsageError, match="fits no run"):
        magic(shell, "resume third")


def test_resume_after_early_stopping_names_the_patience(shell, capsys):
    magic(shell, "fit --epochs 9 --patience 2 --lr 1e-12", CELL)
    assert shell.user_ns["run"].progress.epoch == 3
    with pytest.raises(UsageError, match=r"did not improve for 2 epochs.*--patience 4, or --patience none"):
        magic(shell, "resume --epochs 12")
    magic(shell, "resume --epochs 12 --patience 4")
    assert "goes on counting up to its patience of 4" in capsys.readouterr().out
    assert shell.user_ns["run"].progress.epoch == 5


def test_the_time_of_a_resumed_run_is_that_of_all_its_processes(shell):
    magic(shell, "fit --epochs 2", CELL)
    run = shell.user_ns["run"]
    first = run.progress.seconds
    magic(shell, "resume --epochs 3")
    progress = run.progress
    assert progress.earlier == first and progress.all_seconds > first > 0


def test_resume_in_a_fresh_namespace_runs_the_stored_cell(shell, capsys):
    magic(shell, "fit --epochs 2", CELL)
    shell.reset(new_session=False)
    magic(shell, "resume --epochs 3")
    assert "epoch 3/3" in capsys.readouterr().out and shell.user_ns["run"].state == "finished"


def test_lr_find_changes_nothing(shell):
    curve = magic(shell, "lr-find", CELL)
    assert 1e-5 < curve.suggestion < 10 and "<img" in curve._repr_mimebundle_()["text/html"]
    assert "run" not in shell.user_ns


def test_options_and_help(shell, capsys):
    assert "--weight-decay" in repr(magic(shell, "options"))
    magic(shell, "help")
    magic(shell, "")
    assert capsys.readouterr().out.count("lr-find") == 2


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("%%trainopt ", "fit"),
        ("%trainopt re", "resume"),
        ("%%trainopt fit --sch", "--schedule"),
        ("%%trainopt fit --schedule on", "onecycle"),
        ("%%trainopt fit --schedule=on", "onecycle"),
        ("%%trainopt fit --epochs 3 --opt", "--optimizer"),
        ("%%trainopt --ep", "--epochs"),
        ("run = %trainopt resume --ep", "--epochs"),
    ],
)
def test_tab(shell, text, wanted):
    with provisionalcompleter():
        found = [completion.text for completion in shell.Completer.completions(text, len(text))]
    assert wanted in found, found


def test_tab_knows_the_runs(shell):
    magic(shell, "fit --epochs 1 --name mine", CELL)
    name = shell.user_ns["run"].name
    with provisionalcompleter():
        text = f"%trainopt attach {name[:6]}"
        assert name in [completion.text for completion in shell.Completer.completions(text, len(text))]


def test_unload_takes_everything_back(shell):
    shell.run_line_magic("unload_ext", "trainopt_nb")
    assert shell.find_line_magic("trainopt") is None and shell.find_cell_magic("trainopt") is None
    shell.run_line_magic("load_ext", "trainopt_nb")
    matchers = [
        m for m in shell.Completer.custom_matchers if getattr(m, "__name__", "") == "trainopt_matcher"
    ]
    assert len(matchers) == 1


def test_a_failed_run_is_kept_and_named(shell):
    bad = CELL + "\nx[70] = float('nan')\ntrain_data = (x[:80], y[:80])"
    with pytest.raises(UsageError, match="in the inputs of the batch"):
        magic(shell, "fit --epochs 1", bad)
    run = shell.user_ns["run"]
    assert run.state == "failed" and find_run(run.name).path == run.path
    assert json.loads((run.path / "run.json").read_text())["name"] == run.name


def test_tracebacks_hold_the_users_frames_only(shell, capsys):
    shell.run_cell("%%trainopt fit\ndef deep():\n    return 1 / 0\ndeep()")
    said = capsys.readouterr().out
    assert (
        "ZeroDivisionError" in said
        and "deep()" in said
        and "trainopt_nb/notebook" not in said
        and "magics.py" not in said
    )


def test_loading_warms_what_the_first_run_needs():
    import sys

    from trainopt_nb.notebook.magics import WARM, _warm

    _warm()
    assert set(WARM) <= set(sys.modules)


# ---- what a run offers beside its magics


@pytest.fixture
def run(tmp_path):
    "A run that this process writes"
    run = Run.create(tmp_path / "runs", "toy", {"epochs": 2})
    run.start_writing()
    run.append([Started(run.name, 0, 0, 2, 10, 20, "cpu", "fp32", 1, 80, 10, "accuracy", "max", 1.7e9)])
    yield run
    run.stop_writing()


def test_a_command_may_be_a_word(run):
    inbox = run.inbox()
    for command in ("pause", SetLr(1e-4), Pause()):
        run.send(command)
    assert [inbox(), inbox(), inbox(), inbox()] == [Pause(), SetLr(1e-4), Pause(), None]
    for wrong in ("stopp", Pause, 3, None):
        with pytest.raises(RunError, match="takes the words pause, resume, stop, save"):
            run.send(wrong)
    assert inbox() is None


def test_history_is_a_row_an_epoch(shell):
    import pandas

    magic(shell, "fit --epochs 3 --metrics accuracy,f1", CELL)
    rows = shell.user_ns["run"].history
    table = pandas.DataFrame(rows)
    assert list(table["epoch"]) == [1, 2, 3] and {"train_loss", "valid_loss", "accuracy", "f1", "lr"} <= set(
        table
    )
    assert max(table["accuracy"]) == shell.user_ns["run"].metrics["accuracy"]


def test_a_run_that_never_began_is_not_dead(tmp_path):
    run = Run.create(tmp_path / "runs", "early", {})
    (run.path / "log.txt").write_text("Traceback\nImportError: no module named mine\n")
    assert run.state == "not begun" and "no module named mine" in run.progress.reason
    for shown in (repr(list_runs(tmp_path / "runs")), run._repr_mimebundle_()["text/html"]):
        assert "not begun" in shown
    assert "no module named mine" in run._repr_mimebundle_()["text/html"]


def test_a_run_that_is_written_cannot_be_deleted(run):
    (run.path / "checkpoints").mkdir()
    with pytest.raises(RunError, match="is being written"):
        Run(run.path).delete()
    assert run.state == "training"
    run.stop_writing()
    run.delete()
    assert not run.path.exists() and not list_runs(run.path.parent)


def test_a_stopped_run_goes_on_behind_and_leaves_the_notebook_alone(shell):
    from trainopt_nb.notebook.runs_page import resume_behind
    from trainopt_nb.runs.signature import sign

    magic(shell, "fit --epochs 2", CELL)
    run, model = shell.user_ns["run"], shell.user_ns["model"]
    run.change_options(run.options | {"epochs": 4})  # as if it had been stopped on its way
    shell.run_cell("helper = 1; del x, y, train_data")
    resume_behind(run, shell)
    until(lambda: not run.alive, "the end of the run in the background")
    assert run.state == "finished" and run.progress.epoch == 4 and run.progress.earlier > 0
    assert shell.user_ns["model"] is model and "train_data" not in shell.user_ns
    (run.path / "cell.py").write_text("model = nothing_of_the_kind")
    sign(run.path, cell=run.cell)
    with pytest.raises(RunError, match="does not run here: NameError: name 'nothing_of_the_kind'"):
        resume_behind(run, shell)
    (run.path / "cell.py").unlink()
    with pytest.raises(RunError, match="No cell is stored"):
        resume_behind(run, shell)


def test_the_table_is_a_list_where_nobody_clicks(shell):
    magic(shell, "fit --epochs 1", CELL)
    table = magic(shell, "runs")
    assert type(table).__name__ == "RunTable" and not hasattr(table, "_ipython_display_")
