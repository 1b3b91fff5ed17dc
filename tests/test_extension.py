"A capability from another package: its own files and one line in each registry, and it is seen wherever people look"

import importlib
import queue
import signal
import sys

import pytest
from helpers import small_table
from IPython.core.interactiveshell import InteractiveShell
from torch import nn

from trainopt_nb.api.run_task import Where, run_task
from trainopt_nb.base.errors import OptionError
from trainopt_nb.base.registry import Registry
from trainopt_nb.events.progress import Progress, event_line
from trainopt_nb.events.records import Step
from trainopt_nb.events.registry import COMMANDS, EVENTS, WORDS
from trainopt_nb.notebook import fit_verbs
from trainopt_nb.notebook.completion import completions
from trainopt_nb.notebook.kernel import Page
from trainopt_nb.notebook.verb_help import terminal_usage, verb_rows
from trainopt_nb.notebook.verbs import OPTION_SETS, VERBS
from trainopt_nb.runs.run import Run
from trainopt_nb.task.task import Task
from trainopt_nb.task.train_options import TrainOptions
from trainopt_nb.train.commands import EXECUTORS
from trainopt_nb.workers.submit import submit

OPTIONS = """
from dataclasses import dataclass
from trainopt_nb.base.options import Options, option


@dataclass(frozen=True, repr=False)
class PrivateOptions(Options):
    "How private a training is"

    noise: float = option(0.0, "noise added to each gradient", low=0, high=10, search=(0.1, 2), group="Privacy")
    guard: str = option("none", "what is protected", choices=("none", "sample", "user"), group="Privacy")
"""
VERB = """
from trainopt_nb.notebook.verbs import Call, RunArgument, RunFolder, Verb
from trainopt_nb.runs.table import find_run
from .options import PrivateOptions


def _audit(call: Call) -> str:
    run = find_run(call.options(RunArgument).run or None, call.options(RunFolder).runs)
    chosen = call.options(PrivateOptions)
    return f"{run.name} protects {chosen.guard} with {chosen.noise:g}, trained with {run.facts['added_options']}"


AUDIT = Verb("audit", "say how private a run is", _audit, (RunArgument, RunFolder, PrivateOptions))
"""
PARTS = """
from typing import NamedTuple
from trainopt_nb.events.registry import command, event
from trainopt_nb.train.commands import EXECUTORS


@event(line=lambda progress, told: f"budget {told.spent:g} of {told.budget:g}")
class Spent(NamedTuple):
    "How much of the privacy budget is used"

    step: int  # updates so far
    spent: float  # epsilon so far
    budget: float  # epsilon in all


@command(word="spend")
class Spend(NamedTuple):
    "Use some of the budget"

    epsilon: float = 0.25


@EXECUTORS.register("Spend")
def spend(commands, command):
    yield from commands.emit(Spent(commands.state.step, command.epsilon, 2.0))


def account(steps):
    for step in range(1, steps + 1):
        yield Spent(step, 0.5 * step, 2.0)
    return "accounted"
"""
INIT = """
from trainopt_nb.notebook.verbs import OPTION_SETS, VERBS, OptionSet
from .options import PrivateOptions

OPTION_SETS.register("privacy", OptionSet(PrivateOptions, ("fit", "form")))
VERBS.register("audit", "trainopt_private.verb:AUDIT")
"""
CELL = """
import torch
from torch import nn
x = torch.randn(60, 4)
model = nn.Linear(4, 2)
train_data = (x, (x.sum(1) > 0).long())
"""


@pytest.fixture
def extension(tmp_path, monkeypatch):
    "A package that registers what it adds when it is imported, and is gone afterwards"
    folder = tmp_path / "packages/trainopt_private"
    folder.mkdir(parents=True)
    for name, text in (("options", OPTIONS), ("verb", VERB), ("parts", PARTS), ("__init__", INIT)):
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRAINOPT_FLAGS", raising=False)
    yield importlib.import_module("trainopt_private")
    OPTION_SETS.remove("privacy")
    VERBS.remove("audit")
    EVENTS.remove("Spent")
    COMMANDS.remove("Spend")
    WORDS.pop("spend", None)
    EXECUTORS.remove("Spend")
    for name in [name for name in sys.modules if name.split(".")[0] == "trainopt_private"]:
        del sys.modules[name]


@pytest.fixture
def shell(extension):
    shell = InteractiveShell.instance()
    shell.reset(new_session=False)
    shell.run_line_magic("load_ext", "trainopt_nb")
    yield shell
    shell.run_line_magic("unload_ext", "trainopt_nb")


def test_an_option_is_in_help_tab_and_reference(shell, capsys):
    shell.run_line_magic("trainopt", "fit --help")
    said = capsys.readouterr().out
    assert "Privacy:" in said and "--noise" in said and "noise added to each gradient" in said
    assert completions("%%trainopt fit --noi")[1] == ["--noise"]
    assert completions("%%trainopt fit --guard us")[1] == ["user"]
    rows = {row.name: row for row in verb_rows()}
    assert {"--noise", "--guard"} <= set(rows["fit"].flags) and "--noise" not in rows["resume"].flags
    with pytest.raises(Exception, match="There is no flag --noise"):
        shell.run_line_magic("trainopt", "resume --noise 1")
    with pytest.raises(Exception, match=r"--noise .* takes 0 to 10, and got '11'"):
        shell.run_cell_magic("trainopt", "fit --noise 11", "1 / 0")


@pytest.mark.parametrize("cell", ["%%trainopt fit --help", "%%trainopt train --help\n\n"])
def test_help_above_nothing_is_that_of_the_line(shell, capsys, cell):
    "IPython refuses a cell magic with an empty body; so does a shell that has left the extension"
    assert shell.run_cell(cell).success
    assert "fit: train `model` on `train_data`" in capsys.readouterr().out
    shell.run_line_magic("unload_ext", "trainopt_nb")
    assert shell.transform_cell("%%trainopt fit").count("run_cell_magic") == 1
    shell.run_line_magic("load_ext", "trainopt_nb")


def test_an_option_is_stored_with_the_run(shell):
    shell.run_cell_magic("trainopt", "fit --epochs 1 --noise 0.5", CELL)
    assert shell.user_ns["run"].facts["added_options"] == {"privacy": {"noise": 0.5, "guard": "none"}}
    shell.run_cell_magic("trainopt", "fit --epochs 1", CELL)
    assert "added_options" not in shell.user_ns["run"].facts


def test_an_option_is_a_control_of_the_form(shell, monkeypatch):
    from trainopt_nb.panels.form import OptionsForm

    async def ask(options, page, **more):
        form = OptionsForm(options, queue.SimpleQueue(), **more)
        form.receive({"set": [["noise", "0.25"], ["epochs", "1"]], "do": "start"})
        assert form.line()[0] == "%%trainopt fit --epochs 1 --noise 0.25 --guard user"
        return form.chosen

    monkeypatch.setattr(fit_verbs, "ask", ask)
    monkeypatch.setattr(fit_verbs, "find_page", lambda shell, awaited: Page("await"))
    from trainopt_nb.notebook.messages import finish

    finish(shell.run_cell_magic("trainopt", "form --guard user", CELL))
    run = shell.user_ns["run"]
    assert run.options["epochs"] == 1 and run.facts["added_options"]["privacy"] == {
        "noise": 0.25,
        "guard": "user",
    }


def test_a_verb_is_in_help_tab_reference_and_terminal(shell, capsys):
    shell.run_line_magic("trainopt", "help")
    assert "audit    say how private a run is" in capsys.readouterr().out
    assert "audit" in completions("%trainopt au")[1]
    assert "trainopt audit [RUN] [flags]" in terminal_usage()
    row = next(row for row in verb_rows() if row.name == "audit")
    assert row.flags == ["--runs", "--noise", "--guard"] and [a["flag"] for a in row.arguments] == ["RUN"]
    with pytest.raises(Exception, match="Did you mean 'audit'"):
        shell.run_line_magic("trainopt", "audits")


def test_a_verb_works_on_a_line_and_in_a_terminal(shell, capsys):
    from trainopt_nb.notebook.cli import main

    shell.run_cell_magic("trainopt", "fit --epochs 1 --noise 0.5 --name mine", CELL)
    said = shell.run_line_magic("trainopt", "audit mine --guard sample")
    assert "mine" in said and "protects sample with 0" in said and "'noise': 0.5" in said
    capsys.readouterr()
    assert main(["audit", "--noise", "2"]) == 0 and "protects none with 2" in capsys.readouterr().out
    assert main(["audit", "--nois", "2"]) == 2 and "Did you mean '--noise'" in capsys.readouterr().err


def test_a_name_is_never_taken_twice(extension):
    with pytest.raises(OptionError, match="registered already"):
        VERBS.register("audit", "somewhere:ELSE")


def test_an_event_is_in_the_log_and_has_its_line(extension, tmp_path):
    parts = importlib.import_module("trainopt_private.parts")
    run = Run.create(tmp_path / "runs", "private", {})
    told = parts.Spent(3, 1.5, 2.0)
    run.start_writing()
    run.append([told])
    run.stop_writing()
    assert Run(run.path).events() == [told]
    progress = Progress(run.name).add([told])
    assert progress.step == 0 and event_line(progress, told) == "budget 1.5 of 2"


def test_a_command_is_executed(extension, tmp_path):
    parts = importlib.import_module("trainopt_private.parts")
    _, _, train, _ = small_table()
    options = TrainOptions.of(device="cpu", epochs=500, batch_size=32)
    handle = run_task(Task(nn.Linear(6, 3), train), options, Where(tmp_path / "runs"))
    spent = []
    for events in handle.events():
        if not spent and any(type(event) is Step for event in events):
            handle.send("spend")
        if new := [event for event in events if type(event) is parts.Spent]:
            spent += new
            handle.send("stop")
    handle.close()
    assert [event.spent for event in spent][:1] == [0.25] and handle.run.state == "stopped"
    assert parts.Spent in map(type, handle.run.events())


def test_a_function_runs_in_a_worker_and_gives_its_events(extension):
    parts = importlib.import_module("trainopt_private.parts")
    with submit(parts.account, 2) as handle:
        events = list(handle.events())
        assert [tuple(event) for event in events] == [(1, 0.5, 2.0), (2, 1.0, 2.0)]
        assert handle.result(60) == "accounted"


def test_an_interrupt_while_an_entry_is_imported_leaves_no_half_of_its_packages(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "interrupted_parts.py").write_text(
        "import signal\nsignal.raise_signal(signal.SIGINT)\ndone = True\n"
    )
    (tmp_path / "interrupted_verb.py").write_text("import interrupted_parts\nVERB = 'made'\n")
    entries = Registry("verb")
    entries.register("slow", "interrupted_verb:VERB")
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        entries["slow"]
    assert sys.modules["interrupted_verb"].VERB == "made" and sys.modules["interrupted_parts"].done
    assert entries["slow"] == "made" and signal.getsignal(signal.SIGINT) is before
