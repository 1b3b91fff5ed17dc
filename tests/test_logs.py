"TensorBoard, MLflow, Weights & Biases and writers of the user's own get each step of a run once, whatever happens to it, and never hinder it"

import json
import os
import signal
import struct
from pathlib import Path

import pytest
import torch
from helpers import until
from torch import nn

from trainopt_nb import OptionError, Run, RunError, Task, fit, list_runs, resume, sweep
from trainopt_nb.api.in_workers import Where
from trainopt_nb.api.run_task import run_task
from trainopt_nb.events.records import Ended, Epoch, Started, Step
from trainopt_nb.runs.logged_values import LOGS
from trainopt_nb.runs.tensorboard_log import check_package
from trainopt_nb.task.train_options import TrainOptions

X = torch.randn(600, 4, generator=torch.Generator().manual_seed(0))
DATA = (X[:500], (X[:500, 0] > 0).long()), (X[500:], (X[500:, 0] > 0).long())
KINDS = ("tensorboard", "mlflow", "wandb")
BLOCK = 32768  # bytes


@pytest.fixture(autouse=True)
def no_addresses(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "WANDB_"))]:
        monkeypatch.delenv(name)


def net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))


def quiet(*_):
    pass


# --- what the real libraries read back: name -> [(step, value)], state, options, name of the parent


def of_tensorboard(run):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read = accumulator.EventAccumulator(str(run.path / "tensorboard"), {"tensors": 0, "scalars": 0}).Reload()
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    content = read.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    options = HParamsPluginData.FromString(content).session_start_info.hparams
    end = read.Tensors("run/end/text_summary")[-1].tensor_proto.string_val[0].decode()
    values = {name: [(p.step, p.value) for p in read.Scalars(name)] for name in read.Tags()["scalars"]}
    return values, end.split(":")[0], {"epochs": int(options["epochs"].number_value)}, None


def of_mlflow(run):
    client = pytest.importorskip("mlflow").MlflowClient(
        tracking_uri=f"sqlite:///{(run.path.parents[2] if run.parent else run.path.parent) / 'mlflow.db'}"
    )
    held = client.get_run(json.loads((run.path / "logs/mlflow.json").read_text())["id"])
    history = lambda name: [(m.step, m.value) for m in client.get_metric_history(held.info.run_id, name)]
    parent = held.data.tags.get("mlflow.parentRunId")
    parent = client.get_run(parent).info.run_name if parent else None
    status = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}[held.data.tags["state"]]
    assert held.info.status == status
    assert run.run_type == "sweep" or "accuracy" in held.data.tags["assumed.metrics"]
    return {n: history(n) for n in held.data.metrics}, held.data.tags["state"], held.data.params, parent


def wandb_records(file):
    "The records of a `.wandb` file: a header of 7 bytes, then blocks of 32 KiB with parts of records, as LevelDB's log has them"
    data, place, record = file.read_bytes(), 7, b""
    while place < len(data):
        room = BLOCK - place % BLOCK
        length, kind = struct.unpack_from("<HB", data, place + 4) if room >= 7 else (0, 0)
        if not kind:  # the block ends
            place += room
            continue
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield record
            record = b""


def of_wandb(run):
    "Its files, the end of the newest included, which a busy machine may write after the end of the run"
    return until(lambda: read_wandb(run), "the end of the file of Weights & Biases", 120)


def read_wandb(run):
    Record = pytest.importorskip("wandb.proto.wandb_internal_pb2").Record

    values, summary, config, group, ended = {}, {}, {}, None, False
    read = lambda items: {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
    for file in sorted(run.path.glob("wandb/offline-run-*/*.wandb"), key=lambda file: file.stat().st_mtime):
        ended, done = False, max((step for rows in values.values() for step, _ in rows), default=-1)
        for data in wandb_records(file):
            record = Record.FromString(data)
            row = read(record.history.item)
            if row and row["_step"] <= done:  # `wandb sync` passes over a step that it knows
                continue
            for name, value in row.items():
                values.setdefault(name, []).append((row["_step"], value))
            summary |= read(record.summary.update)
            config |= read(record.run.config.update)
            group = record.run.run_group or group
            ended = record.HasField("exit")
    return ended and (values, summary["state"], config, group)


READERS = {"tensorboard": of_tensorboard, "mlflow": of_mlflow, "wandb": of_wandb}


def check_complete(run, kind):
    "Each epoch is there once, with the values of the run, and each step is told by one point"
    values, state, options, _ = READERS[kind](run)
    near = lambda rows: [(step, pytest.approx(value)) for step, value in rows]
    epochs = [e for e in run.events() if isinstance(e, Epoch)]
    assert values["valid/accuracy"] == near((e.step, e.metrics["accuracy"]) for e in epochs)
    assert values["train/epoch_loss"] == near((e.step, e.train_loss) for e in epochs)
    steps = [step for step, _ in values["train/loss"]]
    assert steps == sorted(set(steps)) and {e.step for e in epochs} <= set(steps)
    assert state == run.state
    return values, options


# --- one run


@pytest.mark.parametrize(
    "kind", [KINDS[0], *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[1:])]
)
def test_a_run_and_its_resume_are_one_run_of_the_library(kind, tmp_path):
    pytest.importorskip(kind)
    said, model = [], net()
    run = fit(model, *DATA, folder=tmp_path, epochs=2, log=kind, usage=False, write=said.append)
    assert any(line.startswith("info:") and str(tmp_path) in line for line in said)
    values, options = check_complete(run, kind)
    assert int(options["epochs"]) == 2 and dict(values["train/lr"])[16] == pytest.approx(0.001)
    # a kill before the writer had noted what it wrote: it knows less than the run, and less than the library
    mark = run.path / "logs" / f"{kind}.json"
    kept = json.loads(mark.read_text())
    log = (run.path / "events.jsonl").read_bytes()
    epoch_1 = (
        log.index(b"\n", log.index(b'"epoch": 1') if b'"epoch": 1' in log else log.index(b'"epoch":1')) + 1
    )
    if kind != "wandb":  # which takes a step again where it is synced, and then passes over it
        mark.write_text(json.dumps(kept | {"position": epoch_1, "step": 8}))
    run = resume(run, model, *DATA, epochs=4, write=quiet)
    values, _ = check_complete(run, kind)
    assert len(values["valid/loss"]) == 4
    if kind != "wandb":
        assert dict(values["best/epoch"])[32] == run.progress.best.epoch
    if kind == "tensorboard":  # a kill before the first note
        mark.unlink()
        run.log(kind)
        assert len(check_complete(run, kind)[0]["valid/loss"]) == 4


class Breaks(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.calls = nn.Linear(4, 2), 0

    def forward(self, x):
        self.calls += self.training
        if self.calls > 12:
            raise ValueError("the sensor is gone")
        return self.layer(x)


@pytest.mark.parametrize(
    "kind", [KINDS[0], *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[1:])]
)
def test_a_run_that_fails_is_marked_failed(kind, tmp_path):
    pytest.importorskip(kind)
    with pytest.raises(ValueError, match="sensor"):
        fit(Breaks(), *DATA, folder=tmp_path, log=[kind], usage=False, write=quiet)
    (run,) = [Run(row.path) for row in list_runs(tmp_path)]
    assert READERS[kind](run)[1] == "failed"


# --- writers of one's own, and what may go wrong


class Mine:
    def __init__(self, run=None, kept=None):
        self.events, self.closed = [], 0

    def write(self, event):
        self.events.append(event)

    def close(self):
        self.closed += 1


def test_an_object_and_a_function_of_ones_own_see_each_event_once(tmp_path):
    mine, seen, said, model = Mine(), [], [], net()

    def broken(event):
        raise ConnectionError("the server is gone")

    run = fit(model, *DATA, folder=tmp_path, epochs=2, log=[mine, seen.append, broken], write=said.append)
    assert run.state == "finished" and mine.closed == 1
    assert [e.step for e in mine.events if isinstance(e, Step)] == list(range(1, 17))
    assert sum(isinstance(e, Started) for e in mine.events) == 1 and isinstance(mine.events[-1], Ended)
    assert seen == mine.events
    (line,) = [line for line in said if "broken" in line]
    assert line == (
        "warning: The log broken is not called any more (ConnectionError: the server is gone). The training goes on."
    )
    with pytest.raises(OptionError, match="A writer of your own is passed as an object"):
        resume(run, model, *DATA, epochs=3, write=quiet)
    again = Mine()
    resume(run, model, *DATA, epochs=3, log=again, write=quiet)
    assert [e.step for e in again.events if isinstance(e, Step)] == list(range(17, 25))


def test_a_registered_log_is_an_option_and_catches_up_after_a_failure(tmp_path):
    down, got = [True], []

    class Server(Mine):
        def write(self, event):
            if down[0] and isinstance(event, Epoch):
                raise OSError(28, "No space left on device")
            got.append(event)

    LOGS.register("server", Server)
    try:
        said = []
        run = fit(net(), *DATA, folder=tmp_path, epochs=2, log="server", write=said.append)
        (line,) = [line for line in said if "server" in line]
        assert "No space left on device" in line and 'run.log("server")' in line and run.state == "finished"
        down[0] = False
        got.clear()
        run.log("server")
        assert got == [e for e in run.tail().read()]
        run.log("server")
        assert len(got) == len(run.tail().read())  # nothing twice
    finally:
        LOGS.remove("server")


def test_what_is_wrong_is_said_before_the_first_step(tmp_path):
    with pytest.raises(OptionError, match=r"There is no log 'tensorbord'\. Did you mean 'tensorboard'"):
        fit(net(), *DATA, folder=tmp_path / "runs", log="tensorbord")
    with pytest.raises(
        OptionError,
        match=r"needs no_such_one, which is not installed: pip install 'trainopt_nb\[no_such_one\]'",
    ):
        check_package("--log x", "no_such_one", "no-such-one")
    with pytest.raises(OptionError, match="or objects with write"):
        fit(net(), *DATA, folder=tmp_path / "runs", log=[3])
    assert not (tmp_path / "runs").exists()


# --- elsewhere


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_sweep_has_each_trial_as_a_run_of_its_own(kind, tmp_path):
    pytest.importorskip(kind)
    found = sweep(
        Task(net(), *DATA), {"lr": [0.001, 0.01, 0.1]}, trials=3, epochs=2, folder=tmp_path, log=kind, jobs=2
    )
    run = Run(found.path)
    values, state, _, _ = READERS[kind](run)
    assert len(values["trial/accuracy"]) == 3 and state == "finished"
    for number in range(3):
        trial = Run(run.path / f"trials/{number}")
        values, _ = check_complete(trial, kind)
        assert len(values["valid/accuracy"]) == 2
        if kind != "tensorboard":  # which groups by folders
            assert READERS[kind](trial)[3] == run.name


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_in_the_background_goes_on_in_the_same_place(kind, tmp_path, monkeypatch):
    pytest.importorskip(kind)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "digits")  # later than the server of processes
    options = TrainOptions(epochs=3000, log=kind, save_steps=50, save_seconds=0)
    handle = run_task(Task(net(), *DATA), options, Where(tmp_path, background=True))
    run = Run(handle.run.path)
    until(lambda: (run.path / "logs" / f"{kind}.json").exists() and run.progress.epoch > 20, "20 epochs", 120)
    os.kill(json.loads((run.path / "lock").read_text())["pid"], signal.SIGKILL)
    until(lambda: not run.alive, "the end")
    done = run.progress.epoch
    run = resume(run, net(), *DATA, epochs=done + 3, write=quiet)
    check_complete(run, kind)
    if kind == "mlflow":
        import mlflow

        client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
        assert len(client.search_runs([client.get_experiment_by_name("digits").experiment_id])) == 1


@pytest.mark.slow
def test_only_the_first_of_several_devices_writes(tmp_path):
    pytest.importorskip("tensorboard")
    run = fit(net(), *DATA, folder=tmp_path, epochs=2, devices=2, log="tensorboard", write=quiet)
    check_complete(run, "tensorboard")
    assert len(list(Path(run.path).glob("tensorboard/events*"))) == 1


def test_a_run_that_is_still_written_is_not_written_twice(tmp_path):
    handle = run_task(Task(net(), *DATA), TrainOptions(epochs=2), Where(tmp_path))
    LOGS.register("mine", Mine)
    try:
        with pytest.raises(RunError, match="is still written"):
            handle.run.log("mine")
    finally:
        LOGS.remove("mine")
        handle.close()
