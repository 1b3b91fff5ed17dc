"A compression is a run: commands, its directory, its end, the verb, the terminal"

import json
import os
import shutil
import time
from dataclasses import replace

import psutil
import pytest
import torch
from helpers import execute, magic, over, until
from IPython.core.error import UsageError
from sklearn.datasets import load_digits
from torch import nn

from trainopt_nb.api.in_workers import Where
from trainopt_nb.base.errors import OptionError, RunError
from trainopt_nb.compression.compressed_run import CompressedRun
from trainopt_nb.compression.going_on import plan_again
from trainopt_nb.compression.loop import CompressLoop
from trainopt_nb.compression.options import typed_steps
from trainopt_nb.compression.progress import compression_of
from trainopt_nb.compression.records import (
    AddStep,
    CompressStarted,
    ExportTo,
    FindBest,
    Finish,
    LayerCost,
    MeasureLayers,
    StepRefused,
    StopStep,
    Take,
    Taken,
    Undo,
    Working,
)
from trainopt_nb.compression.start import new_compression, plan_compression, start_compress, start_plan
from trainopt_nb.compression.steps import STEPS, Doing, Step
from trainopt_nb.events.progress import Progress
from trainopt_nb.events.records import Heartbeat, Stop, command_line
from trainopt_nb.notebook.compress_task import _named_run
from trainopt_nb.runs.run import Run
from trainopt_nb.runs.table import list_runs
from trainopt_nb.store.lock import lock_owner
from trainopt_nb.task.task import Task
from trainopt_nb.task.train_options import TrainOptions
from trainopt_nb.workers.processes import warm

HALF = "prune 0.5 macs epochs=0"
INT8 = "quantize int8 engine=onnxruntime"
HOW = {"floor": "none", "seconds": 0.02, "device": "cpu"}
CELL = """
import torch
from torch import nn
from sklearn.datasets import load_digits
images, labels = load_digits(return_X_y=True)
x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
train_data, valid_data = (x[:1200], y[:1200]), (x[1200:], y[1200:])
torch.manual_seed(0)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    def forward(self, x):
        return self.body(x)
model = Net()
"""


@pytest.fixture(scope="module", autouse=True)
def workers(warm_process):
    warm()


@pytest.fixture(scope="module")
def digits():
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    return (x[:1200], y[:1200]), (x[1200:], y[1200:])


def mlp(width=512):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
    )


def pid_of(run):
    return lock_owner(run.path / "lock")["pid"]


# the loop


def drive(plan, folder, answers):
    "The records of a loop; `answers` has a command for some of them"
    records, command = [], None
    events = CompressLoop(plan, new_compression(plan, Where(folder))).events()
    while True:
        try:
            records.append(events.send(command))
        except StopIteration:
            return records
        command = answers(records)


def once(*pairs):
    "Answer each record for which a condition holds by a command, in this order"
    left = list(pairs)

    def answer(records):
        if left and left[0][0](records[-1]):
            return left.pop(0)[1]
        return None

    return answer


def fake(name, served=None, wait=0.0):
    "A step that copies the model, without its second layer where it is to be smaller"

    def apply(work, options):
        module = work.module(name)
        yield Doing(name, "computes")
        until_ = time.monotonic() + wait
        while time.monotonic() < until_:
            sum(range(1000))
        yield Doing(name, "has computed")
        if served is None:
            raise ValueError("this one fails")
        return served(module)

    return Step(STEPS["prune"].options, apply, name)


@pytest.fixture
def steps():
    "Steps that take no time: one makes a smaller model, one fails, one computes for a minute"
    from trainopt_nb.compression.served import TorchServed

    smaller = lambda module: TorchServed(nn.Sequential(module[0], module[1], module[4]), "smaller")
    made = {"cut": fake("cut", smaller), "fail": fake("fail"), "slow": fake("slow", smaller, wait=60)}
    for name, step in made.items():
        STEPS.register(name, step)
    yield
    for name in made:
        STEPS.remove(name)


def test_commands_of_the_loop(digits, tmp_path, steps):
    plan = plan_compression(mlp(), digits, **HOW)
    kind = lambda cls, **want: (
        lambda e: isinstance(e, cls) and all(getattr(e, k) == v for k, v in want.items())
    )
    records = drive(
        plan,
        tmp_path,
        once(
            (kind(Taken, number=0), AddStep("cut 0.5, fail 0.5, cut 0.1")),
            (kind(StepRefused, step="fail 0.5"), Take(0)),  # while the recipe goes on
            (kind(Heartbeat), Undo()),  # it waits
            (kind(Taken), Take(7)),
            (lambda e: "7" in getattr(e, "text", ""), AddStep("prnue")),
            (kind(StepRefused), ExportTo(str(tmp_path / "served"), "safetensors", 1)),
            (lambda e: type(e).__name__ == "Exported", Finish()),
        ),
    )
    c = compression_of(Progress().add(records))
    assert [each.steps for each in c.candidates.values()][:2] == [[], ["cut 0.5"]]
    assert c.candidates[1].kept and [each.step for each in c.refused][:1] == ["fail 0.5"]
    assert "ValueError: this one fails" in c.refused[0].reason
    notes = [e.text for e in records if type(e).__name__ == "Note"]
    assert any("There is no candidate 7" in text for text in notes) and "prnue" in c.refused[-1].step
    assert (tmp_path / "served/model.py").exists() and c.exported[0].number == 1
    assert records[-1].state == "finished" and records[-2] == Working("", "")
    assert c.working is None and not any(isinstance(e, Heartbeat) for e in records[:3])


def test_what_the_user_takes_meanwhile_stays(digits, tmp_path, steps):
    plan = plan_compression(mlp(), digits, "cut 0.5, cut 0.4", **HOW)
    second = lambda e: isinstance(e, Working) and (e.step, e.text) == ("cut 0.4", "has computed")
    records = drive(plan, tmp_path, once((second, Take(0))))
    c = compression_of(Progress().add(records))
    assert c.taken == 0 and c.undo == [0, 1]


def test_stop_step_and_stop(digits, tmp_path, steps):
    plan = plan_compression(mlp(), digits, "cut 0.5, cut 0.4, cut 0.3", **HOW)
    first = lambda e: isinstance(e, Working) and e.text == "computes"
    records = drive(plan, tmp_path, once((first, StopStep())))
    c = compression_of(Progress().add(records))
    assert len(c.candidates) == 1 and c.refused[0].reason == "you stopped it"
    assert records[-1].state == "finished"  # the others were not asked for any more
    records = drive(plan, tmp_path, once((first, Stop("interrupted"))))
    c = compression_of(Progress().add(records))
    assert len(c.candidates) == 2 and records[-1][:1] == ("stopped",) and records[-1].reason == "interrupted"


def test_what_each_layer_costs_is_measured_on_request(digits, tmp_path):
    first = lambda e: isinstance(e, Taken)
    told = lambda e: isinstance(e, LayerCost)
    records = drive(
        plan_compression(mlp(64), digits, **HOW), tmp_path, once((first, MeasureLayers()), (told, Finish()))
    )
    costs = compression_of(Progress().add(records)).costs
    assert costs.metric == "outputs" and set(costs.costs) == {"0", "2", "4"} and costs.kept_float == []
    assert all(0 < value < 0.05 for value in costs.costs.values())


def test_a_compression_goes_on_with_the_steps_that_are_left(digits, tmp_path, steps):
    plan = plan_compression(mlp(), digits, "cut 0.5", **HOW)
    plan.orders += [AddStep("fail 0.5"), AddStep("cut 0.4", 0), ExportTo("served", "safetensors")]
    plan.home = str(tmp_path)
    run, before = new_compression(plan, Where(tmp_path)), []
    for record in CompressLoop(plan, run).events():
        before.append(record)
        if isinstance(record, Working) and record.step == "cut 0.4":
            break  # as if its process were killed
    run.start_writing()
    run.append([record for record in before if not isinstance(record, Heartbeat)])
    run.stop_writing()
    known = compression_of(run.progress)
    again = plan_again(run, Task(None, *digits), plan.options)
    assert again.home == plan.home and again.orders == plan.orders[2:] and again.how == plan.how
    records = list(CompressLoop(again, run, known).events())
    begun = next(e for e in records if isinstance(e, CompressStarted))
    assert begun.seconds == known.seconds > 0 and begun.options == {"device": "'cpu'"}
    assert {e.step for e in records if isinstance(e, Working)} == {"measure", "cut 0.4", "export", ""}
    c = compression_of(run.progress.add(records))
    assert [each.steps for each in c.candidates.values()] == [[], ["cut 0.5"], ["cut 0.4"]]
    assert [each.parent for each in c.candidates.values()] == [-1, 0, 0] and c.undo == [0, 1] and c.taken == 2
    assert (tmp_path / "served/run.py").exists() and records[-1].state == "finished"
    assert len([e for e in c.told if isinstance(e, StepRefused)]) == 1


def test_a_candidate_whose_model_is_lost_is_not_taken_again(digits, tmp_path, steps):
    plan = plan_compression(mlp(64), digits, "cut 0.5", **HOW)
    run = new_compression(plan, Where(tmp_path))
    before = [e for e in CompressLoop(plan, run).events() if not isinstance(e, Heartbeat)]
    run.start_writing()
    run.append(before)
    run.stop_writing()
    shutil.rmtree(run.path / "candidates/1")
    known = compression_of(Progress().add(before))
    assert known.taken == 1
    again = replace(plan_again(run, Task(None, *digits), plan.options), alone=True)  # it does not wait
    loop = CompressLoop(again, run, known)
    c = compression_of(Progress().add([*before, *loop.events()]))
    assert c.taken == 0 and not c.candidates[1].kept and "is not in" in c.candidates[1].reason


def test_a_search_is_part_of_a_compression(digits, tmp_path):
    plan = plan_compression(mlp(128), digits, best=FindBest(0.05), **HOW)
    records = drive(plan, tmp_path, lambda records: None)
    c = compression_of(Progress().add(records))
    assert len(c.searches) == 1 and c.searches[0].tried >= 1 and "Tried" in c.searches[0].said
    assert c.taken == (c.searches[0].best or 0) and records[-1].state == "finished"
    measured = lambda e: isinstance(e, Working) and e.step == "search" and len(kept) > 1
    kept = []

    def stop(records):
        kept[:] = compression_of(Progress().add(records)).candidates
        return StopStep() if measured(records[-1]) else None

    records = drive(plan_compression(mlp(128), digits, best=FindBest(5.0), **HOW), tmp_path, stop)
    c = compression_of(Progress().add(records))
    assert "ended early" in c.searches[0].said or c.refused[-1].step == "search"


# in a process of its own


def test_a_recipe_runs_in_its_own_process_and_leaves_models(digits, tmp_path):
    handle = start_compress(mlp(), digits, f"{HALF}, {INT8}", where=Where(tmp_path), **HOW)
    handle.result()
    run = handle.run
    compressed = CompressedRun(Run(run.path))  # as another process sees it
    c = compressed.progress
    assert run.state == "finished" and run.run_type == "compress" and len(c.candidates) == 3
    assert c.candidates[1].kept and c.candidates[1].macs < 0.6 * c.candidates[0].macs
    assert compressed.load(1).module[0].weight.shape[0] < 512
    written = str(list_runs(tmp_path))
    assert "2/2 candidates" in written and run.name in written
    bundle = run._repr_mimebundle_()
    assert "svg+xml" in bundle["text/html"] and HALF in compressed._repr_mimebundle_()["text/plain"]
    out = handle.compressed.export(tmp_path / "served", "safetensors", number=1)
    assert "model.py" in out.files and (tmp_path / "served/run.py").exists()
    with pytest.raises(RunError, match="this process has none"):
        compressed.export(tmp_path / "other", number=1)


def test_a_step_that_computes_long_ends_within_a_moment(digits, tmp_path, steps):
    handle = start_compress(mlp(64), digits, where=Where(tmp_path), **HOW)  # the step travels along
    compressed = handle.compressed
    until(lambda: compressed.candidates, "the original")
    handle.send(AddStep("slow 0.5"))
    until(lambda: getattr(compressed.progress.working, "text", "") == "computes", "the step")
    began = time.monotonic()
    handle.send(StopStep())
    until(lambda: compressed.progress.refused, "the end of the step", 20)
    assert time.monotonic() - began < 20 and compressed.progress.refused[0].reason == "you stopped it"
    handle.send(AddStep("cut 0.5"))
    until(lambda: len(compressed.candidates) == 2, "the next step")
    handle.send("finish")
    assert handle.result().state == "finished" and compressed.candidates[1].steps == ["cut 0.5"]


def test_a_killed_process_leaves_its_candidates(digits, tmp_path):
    handle = start_compress(mlp(), digits, where=Where(tmp_path), **HOW)
    run = handle.run
    until(lambda: handle.compressed.candidates, "the original")
    handle.send(AddStep(HALF))
    until(lambda: len(handle.compressed.candidates) == 2, "a candidate")
    supervisor = psutil.Process(pid_of(run))
    for each in [*supervisor.children(), supervisor]:
        each.kill()
    until(lambda: run.state == "dead", "the death")
    assert "candidates that were kept are still" in run.progress.reason
    compressed = CompressedRun(run.path)
    compressed.take(1)
    assert compressed.model[0].weight.shape[0] < 512 and str(compressed.recipe) == HALF
    compressed.undo()
    assert compressed.taken.number == 0 and run.state == "dead"
    handle.close()
    plan = plan_again(run, Task(None, *digits), TrainOptions(device="cpu"))
    handle = start_plan(plan, resume=run)
    until(lambda: len(compressed.progress.told) > 2, "the note that it goes on")
    handle.send(AddStep("prune 0.3 macs epochs=0", 1))
    until(lambda: len(compressed.candidates) == 3, "the next step")
    handle.send("finish")
    assert handle.result().state == "finished" and list(compressed.candidates) == [0, 1, 2]
    assert compressed.candidates[2].steps == [HALF, "prune 0.3 macs epochs=0"]
    assert "Goes on with 1 candidate." in run.progress.notes[-1].text


OWNER = """
import sys
sys.path.insert(0, {tests!r})
from test_compress_run import HALF, HOW, Where, load_digits, mlp, start_compress, torch
images, labels = load_digits(return_X_y=True)
x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
handle = start_compress(mlp(), ((x[:1200], y[:1200]), (x[1200:], y[1200:])), {recipe}, where=Where('.', background={background}), **HOW)
while not handle.run.alive or handle.starting or len(handle.compressed.candidates) < {least}:
    pass
import os
os._exit(0)
"""


@pytest.mark.parametrize("background", [True, False])
def test_only_a_background_run_outlives_its_owner(tmp_path, background):
    tests = os.path.dirname(__file__)
    recipe, least = ("HALF", 0) if background else ("None", 1)
    code = OWNER.format(tests=tests, recipe=recipe, background=background, least=least)
    assert execute("-c", code, folder=tmp_path).returncode == 0
    (run,) = list_runs(tmp_path)
    over(run)
    assert run.state == ("finished" if background else "dead")
    assert len(CompressedRun(run).candidates) == (2 if background else 1)


# what is typed


def test_the_verb_without_a_page(shell, capsys):
    magic(shell, "fit --epochs 3 --device cpu", CELL)
    trained = shell.user_ns["run"].metrics["accuracy"]
    magic(
        shell,
        "compress model --prune 0.5 macs epochs=0 --floor none --seconds 0.02 --export served --export-form safetensors",
    )
    compressed, printed = shell.user_ns["compressed"], capsys.readouterr().out
    assert "kept" in printed and "× at batch 1" in printed and "exported to" in printed
    assert abs(compressed.candidates[0].metric - trained) < 0.05  # of one half of the validation data
    assert os.path.exists("served/run.py") and str(compressed.recipe) == "prune 0.5 macs epochs=0"
    assert (
        type(compressed.load(1).module) is shell.user_ns["Net"] and shell.user_ns["run"].run_type == "train"
    )
    for name in ("model", "train_data", "valid_data", "compressed"):
        del shell.user_ns[name]
    magic(shell, "compress --seconds 0.02")
    printed = capsys.readouterr().out
    assert "its stored cell was executed" in printed and "no steps were named" in printed
    assert "model" not in shell.user_ns and len(shell.user_ns["compressed"].candidates) == 1
    magic(shell, f"attach {compressed.run.name}")
    assert shell.user_ns["compressed"].run.name == compressed.run.name
    exec(CELL, shell.user_ns)
    with pytest.raises(UsageError, match="has done all its steps"):
        magic(shell, f"resume {compressed.run.name}")
    facts = json.loads((compressed.run.path / "run.json").read_text())
    facts["orders"].append(command_line(AddStep("sparsify 0.5 epochs=0")))  # as if it had been killed before
    (compressed.run.path / "run.json").write_text(json.dumps(facts))
    magic(shell, f"resume {compressed.run.name}")
    again = shell.user_ns["compressed"].progress
    assert (
        again.refused + list(again.candidates.values())[2:] and "goes on" in capsys.readouterr().out.lower()
    )


def test_a_step_takes_a_variable_of_the_notebook(shell, capsys):
    exec(f"{CELL}\nsmall = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))", shell.user_ns)
    magic(
        shell, "compress --recipe 'distill 4 student=small epochs=1' --floor none --seconds 0.02 --device cpu"
    )
    compressed = shell.user_ns["compressed"]
    assert str(compressed.recipe) == "distill 4 student=own:Sequential epochs=1"
    assert [tuple(p.shape) for p in compressed.model.parameters()] == [(16, 64), (16,), (10, 16), (10,)]
    shell.user_ns["other"] = nn.Sequential(nn.Linear(64, 10))
    with pytest.raises(UsageError, match="Two objects of the recipe are a Sequential"):
        magic(shell, "compress --distill student=small --distill student=other")


def test_mistakes_are_one_sentence(shell, tmp_path):
    exec(CELL, shell.user_ns)
    shell.user_ns |= {"table": [1], "empty": nn.Linear(4, 2, device="meta")}
    said = {
        "compress --batch 0": "whole numbers above 0",
        "compress --floor 3": "write '3%'",
        "compress --pruen 0.5": "Did you mean '--prune'",
        "compress --prune 0.5 macz": "Did you mean 'macs'",
        "compress --recipe 'quantise int8'": "Did you mean 'quantize'",
        "compress table --prune 0.5": "table is a list and no nn.Module",
        "compress nothing --prune 0.5": "no variable 'nothing'",
        "compress empty --prune 0.5": "on the meta device",
        "compress --minutes 2": "add --best",
        "compress --export served": "there are none",
        "compress --background": "--background needs steps",
    }
    for line, sentence in said.items():
        with pytest.raises(UsageError, match=sentence.replace("(", r"\(")):
            magic(shell, line)
    del shell.user_ns["valid_data"]
    with pytest.raises(UsageError, match="validation data, and there is none"):
        magic(shell, "compress --prune 0.5")
    assert not (tmp_path / "runs").exists()


def test_a_floor_above_the_original_ends_the_run_with_its_sentence(digits, tmp_path):
    handle = start_compress(mlp(), digits, HALF, where=Where(tmp_path), **HOW | {"floor": "min 99%"})
    with pytest.raises(RunError, match="below the floor"):
        handle.result()


def test_a_task_that_cannot_travel(digits, tmp_path):
    import threading

    net = mlp()
    net.lock = threading.Lock()
    with pytest.raises(RunError, match=r"model\.lock is a lock"):
        start_compress(net, digits, where=Where(tmp_path), **HOW)
    with pytest.raises(RunError, match=r"model\.lock is a lock"):
        start_compress(net, digits, HALF, where=Where(tmp_path, background=True), **HOW)
    assert not list_runs(tmp_path)


def test_the_order_of_the_line_is_the_order_of_the_steps():
    words = "net --quantize int8 --prune=0.5 --recipe 'x' --floor 2%".replace("'x'", "lowrank").split()
    steps, rest = typed_steps(words)
    assert [*map(str, steps)] == ["quantize int8", "prune 0.5", "lowrank 0.5"]
    assert rest == ["net", "--floor", "2%"]
    assert str(typed_steps(["--prune", "0.5", "--prune", "0.3"])[0]) == "prune 0.5, prune 0.3"
    with pytest.raises(OptionError, match="twice"):
        typed_steps(["--prune", "0.5", "macs", "size"])


def test_the_terminal(tmp_path):
    (tmp_path / "train.py").write_text(CELL)
    code = "import sys; from trainopt_nb.notebook.cli import main; sys.exit(main(sys.argv[1:]))"
    done = execute("-c", code, "fit", "train.py", "--epochs", "1", "--device", "cpu", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    line = "compress net-1 --prune 0.5 macs epochs=0 --floor none --seconds 0.02 --export served"
    done = execute("-c", code, *line.split(), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "prune 0.5 macs epochs=0" in done.stdout and "exported to" in done.stdout
    assert (tmp_path / "served/model.onnx").exists()
    done = execute("-c", code, *line.split(), folder=tmp_path)
    assert done.returncode == 1 and "served exists already" in done.stderr


def test_a_run_is_found_by_its_whole_name_also_where_others_begin_with_it(tmp_path):
    runs = [Run.create(tmp_path, "net", {}) for _ in range(10)]
    assert runs[9].name.startswith(runs[0].name)
    assert _named_run(runs[0].name, tmp_path).name == runs[0].name
    assert _named_run(str(runs[3].path), "elsewhere").name == runs[3].name
    assert _named_run("other", tmp_path) is None
