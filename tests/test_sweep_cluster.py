"Sweeps whose trials train on a Ray cluster: the values of local workers, commands, deaths, runs that travel home"

import importlib.util
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time

import psutil
import pytest
import torch
from helpers import magic, until, weights
from test_cluster import gone, of_ray
from test_sweep import followed, of_type, started, task  # noqa: F401 a fixture
from test_sweep_elsewhere import PLAIN
from torch import nn
from warm_python import python

from trainopt_nb import Task, TrainOptions
from trainopt_nb.base.errors import OptionError, RunError, WorkerError
from trainopt_nb.events.records import Note, Stop
from trainopt_nb.runs.run import Run
from trainopt_nb.sweeps.records import ContinueTrial, SetWorkers, StopTrial, TrialEnded, TrialStarted
from trainopt_nb.sweeps.run_sweep import sweep
from trainopt_nb.workers.board import Board
from trainopt_nb.workers.ray_connection import explain_refusal

SPACE = {"lr": (1e-4, 1e-1, "log"), "batch_size": [16, 32]}
HOW = {"epochs": 3, "repeats": 0, "pruner": "none", "sampler": "random", "threads": 1, "batch_trials": "off"}
START = 240  # seconds: Ray begins with a dozen processes of Python, which takes a minute on busy cores
RAY = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # then the address of a node is 127.0.0.1
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_prestart_worker_first_driver": "0",
}
HEAD = """
import sys
import ray
ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=200 * 2**20, logging_level="ERROR", _temp_dir=sys.argv[1])
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
ray.shutdown()
"""


@pytest.fixture(scope="module", autouse=True)
def workers(warm_process):
    pass


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def cluster(monkeypatch_module):
    "The address of a cluster with two cores, of which nothing listens on more than loopback"
    before = of_ray()
    for name, value in RAY.items():
        monkeypatch_module.setenv(name, value)
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as folder:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        paths = os.pathsep.join(
            [os.path.dirname(__file__), *filter(None, sys.path)]
        )  # methods travel by name
        pipes["env"] = os.environ | {"PYTHONPATH": paths}
        with subprocess.Popen([sys.executable, "-c", HEAD, folder], text=True, **pipes) as head:
            yield head.stdout.readline().strip()
            head.stdin.close()
            head.wait(30)
        until(lambda: gone(before), "the end of Ray", 20)


def results(found):
    return {row.number: (row.values, row.result) for row in found.trials}


@pytest.mark.slow
def test_trials_are_those_of_local_workers(task, tmp_path, cluster):  # noqa: F811
    "As many at once as there is room for; the weights of the best trial are at home"
    here = sweep(task, SPACE, folder=tmp_path, trials=6, jobs=1, **HOW)
    there = sweep(task, SPACE, folder=tmp_path, trials=6, cluster=cluster, **HOW)
    assert results(there) == results(here)
    for number in range(6):
        models = [each.run(number).load(nn.Sequential(*map(_again, task.model))) for each in (here, there)]
        assert torch.equal(*map(weights, models))
    said = [e.text for e in there.directory.events() if type(e) is Note and e.topic == "cluster"]
    assert said == [f"Trains 2 trials at once on the Ray cluster {cluster}."]
    assert there.directory.options["cluster"] == cluster and there.progress.started.workers == 2
    assert there.run().options["cluster"] == "" and not Board(there.path).path.exists()


def _again(layer):
    return nn.Linear(layer.in_features, layer.out_features) if isinstance(layer, nn.Linear) else nn.ReLU()


class Slow(nn.Module):
    "Takes long, and writes down where"

    def __init__(self, file=None, seconds=0.1):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.file, self.seconds = nn.Linear(8, 2), file, seconds

    def forward(self, x):
        if self.file:
            self.file.with_name(f"{os.getpid()}").touch()
        time.sleep(self.seconds)
        return self.body(x)


Slow.__module__ = "__main__"


def slow_task(file=None, seconds=0.1):
    torch.manual_seed(0)
    x = torch.randn(64, 8)
    y = (x.sum(1) > 0).long()
    return Task(Slow(file, seconds), (x, y), (x, y))


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_its_trial_comes_again(tmp_path, cluster):
    (tmp_path / "pids").mkdir()
    killed = []

    def react(event, handle):
        pids = list((tmp_path / "pids").iterdir())
        if not killed and len(pids) == 2:
            killed.append(int(pids[0].name))
            os.kill(killed[0], signal.SIGKILL)

    handle = started(
        tmp_path, slow_task(tmp_path / "pids/x"), SPACE, trials=5, cluster=cluster, **(HOW | {"epochs": 2})
    )
    seen = followed(handle, react)
    lost = [e for e in of_type(seen, TrialEnded) if e.state == "lost"]
    assert len(lost) == 1 and f"process {killed[0]} on" in lost[0].reason and "SIGKILL" in lost[0].reason
    states = [row.state for row in handle.sweep.trials]
    assert states.count("done") == 5 and states.count("lost") == 1
    values = next(row.values for row in handle.sweep.trials if row.number == lost[0].number)
    assert sorted(row.state for row in handle.sweep.trials if row.values == values) == ["done", "lost"]
    assert len(list((tmp_path / "pids").iterdir())) == 3


@pytest.mark.slow
def test_a_trial_and_the_sweep_are_stopped(tmp_path, cluster):
    "A number of workers for which there is no room is said"
    asked = []

    def react(event, handle):
        running = [row.number for row in handle.sweep.trials if row.state == "training"]
        if not asked and len(running) == 2 and all(row.reports for row in handle.sweep.trials):
            asked.append(time.monotonic())
            handle.send(SetWorkers(3))
            handle.send(StopTrial(running[0]))
        elif type(event) is TrialEnded and len(asked) == 1:
            asked.append(time.monotonic())
        elif type(event) is TrialStarted and len(asked) == 2:
            asked.append(time.monotonic())
            handle.send(Stop("enough"))

    how = HOW | {"epochs": 1000}
    handle = started(tmp_path, slow_task(seconds=0.02), SPACE, trials=5, cluster=cluster, **how)
    seen = followed(handle, react)
    ended = of_type(seen, TrialEnded)
    assert ended[0].state == "stopped" and ended[0].reason == "stopped by hand" and asked[1] - asked[0] < 5
    assert handle.progress.state == "stopped" and [row.state for row in handle.sweep.trials][1:] != []
    assert all((handle.sweep.run(e.number).path / "checkpoints").exists() for e in ended if e.epochs)
    said = [e.text for e in of_type(seen, Note) if "has room for" in e.text]
    assert len(said) == 1 and "room for 2 workers with 1 CPU each, and 3 are wanted" in said[0]


@pytest.mark.slow
def test_runs_travel_home_from_a_node_that_does_not_see_the_folder(task, tmp_path, cluster, monkeypatch):  # noqa: F811
    "And a trial that goes on from a checkpoint finds it there"
    monkeypatch.chdir(tmp_path)
    here = sweep(task, SPACE, trials=3, jobs=1, **HOW)
    monkeypatch.setattr(Board, "put_up", lambda board: "a word that is not there")
    there = sweep(task, SPACE, trials=3, jobs=2, cluster=cluster, **HOW)
    assert results(there) == results(here)
    for number in range(3):
        ours, theirs = here.run(number), there.run(number)
        files = [
            sorted(str(p.relative_to(r.path)) for p in r.path.rglob("*") if p.is_file())
            for r in (ours, theirs)
        ]
        assert files[0] == files[1] and theirs.state == "finished"
        assert theirs.path.stat().st_mode & 0o777 == 0o700
        models = [r.load(nn.Sequential(*map(_again, task.model))) for r in (ours, theirs)]
        assert torch.equal(*map(weights, models))
    assert not list(tmp_path.rglob("*.part"))

    stopped, states = [], set()

    def react(event, handle):
        rows = {row.number: row for row in handle.sweep.trials}
        if 0 in rows and rows[0].reports and not stopped:
            states.add(handle.sweep.run(0).state)
            stopped.append(rows[0])
            handle.send(StopTrial(0))
        elif type(event) is TrialEnded and event.number == 0:
            handle.send(ContinueTrial(0))

    how = HOW | {"epochs": 40}
    handle = started(tmp_path, slow_task(seconds=0.02), SPACE, trials=2, jobs=1, cluster=cluster, **how)
    followed(handle, react)
    assert states == {"training"}  # while it trains elsewhere, its run is not taken for a dead one
    first, second = handle.sweep.run(0), handle.sweep.run(1)
    assert first.state == "stopped" and 0 < len(first.history) < 40
    assert second.state == "finished" and [row["epoch"] for row in second.history] == list(range(1, 41))
    left = [p for p in os.scandir(tempfile.gettempdir()) if p.name.startswith("trainopt-trials-")]
    assert not [p for each in left if psutil.pid_exists(int(each.name.split("-")[2])) for p in os.scandir(each)
                if any(os.scandir(p))]  # fmt: skip


@pytest.mark.slow
def test_many_trials_as_one_program(task, tmp_path, cluster):  # noqa: F811
    how = HOW | {"batch_trials": "on"}
    space = {"lr": SPACE["lr"]}
    here = sweep(task, space, folder=tmp_path, trials=8, jobs=1, **how)
    there = sweep(task, space, folder=tmp_path, trials=8, jobs=1, cluster=cluster, **how)
    assert there.run(0).facts["together"] and results(there) == results(here)


@pytest.mark.slow
def test_what_a_node_lacks_is_said_before_the_first_trial(task, tmp_path, cluster, monkeypatch):  # noqa: F811
    (tmp_path / "only_here.py").write_text("def scale(x):\n    return 2 * x\n")
    monkeypatch.syspath_prepend(tmp_path)
    import only_here

    def objective(trial):
        return only_here.scale(trial.suggest_float("x", 0, 1))

    with pytest.raises(
        RunError, match=r"cannot open what it gets \(ModuleNotFoundError: No module named 'only_here'\)"
    ):
        sweep(objective, goal="min", folder=tmp_path / "runs", trials=2, cluster=cluster)
    with pytest.raises(RunError, match="--device cuda needs a GPU, and the Ray cluster"):
        sweep(task, SPACE, folder=tmp_path / "runs", trials=2, cluster=cluster, device="cuda")
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.slow
def test_a_cell_searches_on_a_cluster_of_this_machine(shell, tmp_path):
    before = of_ray()
    magic(
        shell,
        f"sweep --cluster local -j 2 --trials 3 --epochs 2 --repeats 0 --runs {tmp_path} --space lr",
        PLAIN,
    )
    names = shell.user_ns
    assert [row.state for row in names["sweep"].trials] == ["done"] * 3
    best = names["sweep"].run().load(type(names["model"])(*map(_again, names["model"])))
    assert (
        torch.equal(weights(names["model"]), weights(best)) and names["run"].path == names["sweep"].run().path
    )
    until(lambda: gone(before), "the end of Ray", 20)


SCRIPT = """
import sys, time
from trainopt_nb import sweep

def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    for step in range(10_000):
        trial.report(x, step)
        time.sleep(0.01)
    return x

sweep(objective, goal="min", folder=sys.argv[1], cluster="local", jobs=2, pruner="none")
"""


@pytest.mark.slow
def test_nothing_is_left_when_the_kernel_is_killed(tmp_path):
    before = of_ray()
    process = subprocess.Popen(python("-c", SCRIPT, str(tmp_path)), stdout=subprocess.DEVNULL)
    run = Run(until(lambda: [p.parent for p in tmp_path.glob("*/run.json")], "a run", START)[0])
    until(lambda: run.progress.overall or len(list(run.events())) > 10, "some reports", START)
    process.kill()
    process.wait()
    until(lambda: gone(before), "the end of Ray", 20)
    assert run.state == "dead"


# what needs no cluster


@pytest.mark.parametrize("address", ["head", "http://head:10001", "ray://", "a b:1"])
def test_an_address_that_is_none(task, address, tmp_path):  # noqa: F811
    with pytest.raises(OptionError, match="--cluster takes local"):
        sweep(task, SPACE, folder=tmp_path, cluster=address)
    assert not list(tmp_path.iterdir())


def test_where_ray_is_not_installed(task, tmp_path, monkeypatch):  # noqa: F811
    find_spec = importlib.util.find_spec
    absent = lambda name, *more: None if name == "ray" else find_spec(name, *more)
    monkeypatch.setattr(importlib.util, "find_spec", absent)
    with pytest.raises(OptionError, match=r"pip install 'trainopt_nb\[ray\]'"):
        sweep(task, SPACE, folder=tmp_path, cluster="local")
    assert not list(tmp_path.iterdir())


def test_a_cluster_that_does_not_answer(task, tmp_path):  # noqa: F811
    with pytest.raises(
        RunError, match=r"^The Ray cluster 127\.0\.0\.1:1 cannot be used: nothing answers there \(.*\)\.$"
    ):
        sweep(task, SPACE, folder=tmp_path, cluster="127.0.0.1:1")
    assert not list(tmp_path.iterdir())


def test_what_cannot_travel_is_named_before_anything_starts(tmp_path):
    lock = threading.Lock()

    def objective(trial):
        with lock:
            return trial.suggest_float("x", 0, 1)

    with pytest.raises(
        (RunError, WorkerError), match=r"lock in objective is a lock, which cannot travel to another process"
    ):
        sweep(objective, goal="min", folder=tmp_path, cluster="127.0.0.1:1")
    assert not list(tmp_path.iterdir())


def test_other_versions_are_said_in_one_sentence():
    said = "Version mismatch: The cluster was started with:\n    Ray: 2.60.0\n    Python: 3.12.3\n"
    said += "This process on 10.0.0.5 was started with:\n    Ray: 2.60.0\n    Python: 3.11.2\n"
    found = explain_refusal("head:6379", RuntimeError(said))
    assert "\n" not in found and "Python 3.12.3" in found and "Python 3.11.2. Use the same versions" in found


def test_an_objective_with_a_cluster_of_its_own(task, tmp_path):  # noqa: F811
    def objective(trial):
        return task, TrainOptions(cluster="local", lr=trial.suggest_float("lr", 0.1, 1))

    with pytest.raises((OptionError, WorkerError), match="give it to the sweep"):
        sweep(objective, folder=tmp_path, trials=2)
    assert not list(tmp_path.iterdir())
