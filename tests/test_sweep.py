"A sweep from a script: its trials, its commands, its faults, its resume"

import json
import os
import signal
import subprocess
import textwrap
import time

import optuna
import pytest
import torch
from torch import nn
from warm_python import python

from trainopt_nb import Task, TrainOptions, fit
from trainopt_nb.api.in_workers import Where
from trainopt_nb.base.errors import OptionError, RunError, TrainoptError
from trainopt_nb.base.options import declared
from trainopt_nb.events.records import Ended, Note, Stop
from trainopt_nb.runs.run import Run
from trainopt_nb.search.options import SweepOptions
from trainopt_nb.sweeps.records import (
    ContinueTrial,
    KeepValues,
    Narrow,
    SetWorkers,
    SpaceChanged,
    StopTrial,
    TrialEnded,
    TrialReport,
    TrialStarted,
    TryValues,
)
from trainopt_nb.sweeps.run_sweep import plan_sweep, start_sweep, sweep
from trainopt_nb.sweeps.sweep import Sweep

LR = {"lr": (1e-4, 1e-1, "log")}


@pytest.fixture
def task():
    torch.manual_seed(0)
    x = torch.randn(96, 8)
    y = (x.sum(1) > 0).long()
    return Task(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)), (x, y), (x, y))


def started(folder, make_task, space=None, resume=None, **options):
    "Begin a sweep as the magic does"
    of = lambda cls: cls.of(**{name: value for name, value in options.items() if name in declared(cls)})
    plan = plan_sweep(make_task, space, how=of(SweepOptions), options=of(TrainOptions))
    return start_sweep(plan, Where(folder), resume)


def followed(handle, react=lambda event, handle: None):
    "Run a sweep to its end, and return its events; `react` sees each"
    seen = []
    try:
        for new in handle.events():
            for event in new:
                seen.append(event)
                react(event, handle)
    finally:
        handle.close()
    return seen


def of_type(events, *types):
    return [event for event in events if isinstance(event, types)]


def test_a_trial_is_what_fit_trains(task, tmp_path):
    found = sweep(task, {**LR, "batch_size": [16, 32]}, folder=tmp_path, trials=3, epochs=3, pruner="none")
    for row in found.trials:
        torch.manual_seed(0)
        run = fit(
            *_again(task),
            lr=row.values["lr"],
            batch_size=row.values["batch_size"],
            epochs=3,
            folder=tmp_path / "fit",
        )
        alone, trial = run.progress.epochs, found.run(row.number).progress.epochs
        same = lambda epochs: [(e.train_loss, e.valid_loss, e.metrics) for e in epochs]
        assert same(alone) == same(trial) and row.result == [max(e.metrics["accuracy"] for e in alone)]
    assert found.best.result[0] == max(row.result[0] for row in found.trials)
    assert found.study.best_value == found.best.result[0]


def _again(task):
    from copy import deepcopy

    return deepcopy(task.model), task.train_data, task.valid_data


def test_the_same_seed_gives_the_same_trials(task, tmp_path):
    one, two = (sweep(task, LR, folder=tmp_path, trials=12, epochs=2, name=f"s{k}") for k in range(2))
    told = lambda s: [(row.values, row.state, row.result, row.epochs) for row in s.trials]
    assert told(one) == told(two)
    other = sweep(task, LR, folder=tmp_path, trials=2, epochs=2, seed=1)
    assert other.trials[0].values != one.trials[0].values


def test_a_function_for_optuna_is_taken_as_it_is(tmp_path):
    def objective(trial):
        kind = trial.suggest_categorical("kind", ["line", "curve"])
        x = trial.suggest_float("x", -2, 2)
        if kind == "curve":
            x = x ** trial.suggest_int("power", 2, 4, step=2)
        for step in range(3):
            trial.report(x, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        trial.set_user_attr("seen", kind)
        return x

    found = sweep(objective, goal="min", folder=tmp_path, trials=15, pruner="median")
    kinds = {row.values["kind"]: set(row.values) for row in found.trials}
    assert kinds == {"line": {"kind", "x"}, "curve": {"kind", "x", "power"}}
    trials = found.study.trials
    assert [t.params for t in trials] == [row.values for row in found.trials]
    assert {t.user_attrs.get("seen") for t in trials if t.state.name == "COMPLETE"} <= {"line", "curve"}
    assert found.best.number == found.study.best_trial.number


def test_a_function_may_return_a_task(task, tmp_path):
    def make_task(trial):
        width = trial.suggest_int("width", 4, 32)
        torch.manual_seed(0)
        return Task(
            nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 2)),
            task.train_data,
            task.valid_data,
        )

    found = sweep(make_task, LR, folder=tmp_path, trials=3, epochs=2)
    assert found.goals == ["accuracy"] and all({"width", "lr"} == set(row.values) for row in found.trials)
    for row in found.trials:
        assert found.run(row.number).options["lr"] == row.values["lr"]


def test_commands_while_it_runs(task, tmp_path):
    handle, done = (
        started(tmp_path, task, {**LR, "batch_size": [16, 32]}, trials=14, epochs=2, pruner="none"),
        [],
    )

    def react(event, handle):
        if isinstance(event, TrialEnded):
            done.append(event.number)
            if len(done) == 3:
                handle.send(Narrow("lr", 1e-3, 1e-2))
                handle.send(KeepValues("batch_size", [32]))
                handle.send(Narrow("lr", 1.0, 2.0))  # outside: a sentence, and nothing is lost
                handle.send(TryValues({"lr": 5e-3}))
            if len(done) == 6:
                handle.send(SetWorkers(2))

    events = followed(handle, react)
    changed = [i for i, event in enumerate(events) if isinstance(event, SpaceChanged)]
    later = of_type(events[changed[-1] :], TrialStarted)
    assert len(changed) == 2 and later
    assert all(1e-3 <= e.values["lr"] <= 1e-2 and e.values["batch_size"] == 32 for e in later)
    assert [e.values["lr"] for e in later if e.origin == "queued"] == [5e-3]
    assert any("widen it" in note.text for note in of_type(events, Note))
    assert {e.worker for e in of_type(events, TrialStarted)} == {0, 1}
    assert of_type(events, Ended)[-1].state == "finished" and len(of_type(events, TrialEnded)) == 14


def test_a_trial_and_the_sweep_are_stopped_within_a_step(task, tmp_path):
    handle = started(tmp_path, task, LR, trials=3, epochs=100_000, pruner="none")
    times = {}

    def react(event, handle):
        if isinstance(event, TrialReport) and event.step > 2 and event.number not in times:
            times[event.number] = time.perf_counter()
            handle.send(StopTrial(event.number) if event.number == 0 else Stop("enough"))
        if isinstance(event, TrialEnded):
            times[event.number] = time.perf_counter() - times[event.number]

    events = followed(handle, react)
    ended = of_type(events, TrialEnded)
    assert [(e.number, e.state, e.reason) for e in ended] == [
        (0, "stopped", "stopped by hand"),
        (1, "stopped", "enough"),
    ]
    assert of_type(events, Ended)[-1].state == "stopped" and max(times.values()) < 5.0
    assert Sweep(handle.run).run(0).path.joinpath("checkpoints").is_dir()


def test_a_trial_that_was_ended_goes_on_from_its_checkpoint(task, tmp_path):
    handle, sent = (
        started(tmp_path, task, LR, trials=2, epochs=200, pruner="none"),
        [],
    )  # more than it trains until the stop arrives

    def react(event, handle):
        if isinstance(event, TrialReport) and event.step == 2 and not sent:
            sent.append(handle.send(StopTrial(event.number)))
        if isinstance(event, TrialEnded) and event.state == "stopped":
            handle.send(ContinueTrial(event.number))

    events = followed(handle, react)
    again = next(e for e in of_type(events, TrialStarted) if e.origin == "continued")
    found = Sweep(handle.run)
    first, second = found.trials[0], found.trials[again.number]
    assert first.values == second.values and second.epochs == 200 and second.state == "done"
    assert min(report.step for report in second.reports) > first.epochs
    alone = fit(*_again(task), lr=first.values["lr"], epochs=200, folder=tmp_path / "fit")
    assert second.result == [max(e.metrics["accuracy"] for e in alone.progress.epochs)]


def test_a_fault_of_one_trial_ends_that_trial(tmp_path):
    def objective(trial):
        x = trial.suggest_int("x", 0, 5)
        if x == 0:
            raise ValueError("no zeros here")
        if x == 1:
            raise MemoryError("too large")
        if x == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return float(x) if x != 3 else "three"

    found = sweep(
        objective, goal="max", folder=tmp_path, sampler="grid", space={"x": [0, 1, 2, 3, 4, 5]}, trials=6
    )
    rows = {}
    for row in found.trials:
        rows.setdefault(row.values["x"], []).append(row)
    assert "no zeros here" in rows[0][0].reason and "memory" in rows[1][0].reason.lower()
    assert [row.state for row in rows[2]] == ["lost", "failed"] and rows[2][1].origin == "retry"
    assert "SIGKILL" in rows[2][0].reason and "'three'" in rows[3][0].reason
    assert found.best.values["x"] == 5 and not [t for t in found.study.trials if t.state.name == "RUNNING"]
    states = {t.params["x"]: t.state.name for t in found.study.trials}
    assert (
        states[1] == "PRUNED" and states[0] == "FAIL"
    )  # the sampler is told to turn away from what needs too much


KERNEL = """
    import os, signal, sys
    from trainopt_nb.sweeps.run_sweep import sweep

    def objective(trial):
        x = trial.suggest_float("x", 0, 1)
        for step in range(5):
            trial.report(x, step)
        return x

    if __name__ == "__main__":
        sweep(objective, goal="max", folder=sys.argv[1], trials=40, jobs=2, resume=sys.argv[2] or None, pruner="none")
"""


def test_a_sweep_goes_on_after_its_kernel_was_killed(tmp_path):
    script = tmp_path / "kernel.py"
    script.write_text(textwrap.dedent(KERNEL))
    runs, name = tmp_path / "runs", ""
    for ends in (8, 20):
        kernel = subprocess.Popen(python(script, runs, name), stdout=subprocess.PIPE, text=True)
        seen = 0
        for line in kernel.stdout:
            seen += line.startswith("trial ")
            if seen == ends:
                kernel.send_signal(signal.SIGKILL)
        kernel.wait()
        assert seen >= ends
        name = next(runs.iterdir()).name
    done = subprocess.run(python(script, runs, name), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = Sweep(next(runs.iterdir()))
    states = [trial.state.name for trial in found.study.trials]
    assert states.count("COMPLETE") == 40 and "RUNNING" not in states
    values = [trial.params["x"] for trial in found.study.trials if trial.state.name == "COMPLETE"]
    assert len(set(values)) == 40 and found.directory.state == "finished"


class Signed(torch.utils.data.Dataset):
    "Samples that leave a file named after each process that reads them"

    def __init__(self, x, y, folder):
        self.x, self.y, self.folder = x, y, folder

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        (self.folder / str(os.getpid())).touch()
        return self.x[index], self.y[index]


def test_no_worker_outlives_its_sweep(task, tmp_path):
    import psutil

    x, y = task.train_data
    handle = started(
        tmp_path / "runs",
        Task(task.model, Signed(x, y, tmp_path), task.valid_data),
        LR,
        trials=50,
        epochs=3,
        jobs=2,
    )
    try:
        for new in handle.events():
            if of_type(new, TrialEnded):
                break
        workers = [psutil.Process(int(sign.name)) for sign in tmp_path.glob("[0-9]*")]
    finally:
        handle.close()
    workers = [worker for worker in workers if worker.pid != os.getpid()]  # which looks at the first sample
    assert workers
    assert not psutil.wait_procs(workers, timeout=10)[1]
    assert Run(handle.run.path).state == "stopped"
    assert not [t for t in Sweep(handle.run).study.trials if t.state.name == "RUNNING"]


def test_several_goals_and_repeats(task, tmp_path):
    two = sweep(task, LR, folder=tmp_path, goal="accuracy,parameters", trials=3, epochs=2)
    assert two.goals == ["accuracy", "parameters"] and two.best.result[1] == 178
    assert len(two.study.best_trials) == len(two.front) >= 1
    one = sweep(task, LR, folder=tmp_path, trials=6, epochs=2, repeats=2, coarse_to_fine=True, pruner="none")
    spread = one.progress.spreads[one.best.number]
    assert len(spread.values) == 2 and len(one.study.trials) == 6
    again = one.progress.trials[spread.repeats[0]]
    assert again.values == one.best.values and one.run(again.number).options["seed"] == 1
    log = [json.loads(line) for line in (one.path / "events.jsonl").read_text().splitlines()]
    assert any(entry.get("kind") == "SpaceChanged" for entry in log)


@pytest.mark.parametrize(
    "given, said",
    [
        ({"space": {}}, "nothing to search"),
        ({"space": {"lr": (0.1, 0.01)}}, "lr"),
        ({"space": {"learning_rate": (0.01, 0.1)}}, "lr"),
        ({"space": {"lr": (0.01, 1e9)}}, "1000"),
        ({"space": LR, "trails": 5}, "trials"),
        ({"space": LR, "goal": "acuracy"}, "accuracy"),
        ({"space": LR, "sampler": "tpee"}, "tpe"),
        ({"space": LR, "pruner": "halfing"}, "halving"),
        ({"space": LR, "trials": 0}, "trials"),
        ({"space": None}, "nothing to search"),
    ],
)
def test_wrong_input_is_said_before_the_first_trial(task, tmp_path, given, said):
    with pytest.raises((OptionError, RunError), match=said) as raised:
        sweep(task, given.pop("space"), folder=tmp_path / "runs", **given)
    assert len(str(raised.value)) < 300 and not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize(
    "function, space, said",
    [
        (5, {"x": (0.0, 1.0)}, "^A sweep takes a Task or a function of a trial, and got 5"),
        (lambda trial: 1.0, 5, "^A space is a dict of names, such as .* and got 5"),
        (lambda trial: 1 / 0, {"x": (0.0, 1.0)}, "^The function failed before the first trial, .*: ZeroDiv"),
        (lambda trial: "good", {"x": (0.0, 1.0)}, "^The objective returned 'good': a number"),
        (lambda trial: 1.0, {"x": (0.0, 1.0)}, "^The objective returns a number: say with goal"),
    ],
)
def test_a_function_that_cannot_be_searched_is_said_in_the_words_of_its_user(tmp_path, function, space, said):
    with pytest.raises(TrainoptError, match=said) as raised:
        sweep(function, space, folder=tmp_path / "runs", trials=2)
    assert "_describe" not in str(raised.value) and not list(tmp_path.glob("runs/*"))


def test_an_objective_without_a_direction_or_a_number(tmp_path):
    with pytest.raises(TrainoptError, match='goal="max"'):
        sweep(lambda trial: trial.suggest_float("x", 0, 1), folder=tmp_path, trials=2)
    found = sweep(lambda trial: "good", goal="max", folder=tmp_path, trials=2)
    assert all("'good'" in row.reason for row in found.trials) and found.best is None
    with pytest.raises(RunError, match="no trial that was done"):
        found.run()


def test_trials_as_one_program_are_the_same_trials(task, tmp_path):
    how = {"trials": 12, "epochs": 3, "sampler": "random", "pruner": "none", "folder": tmp_path}
    one, many = (sweep(task, LR, batch_trials=mode, **how) for mode in ("off", "on"))
    told = lambda s: [(row.values, row.state, row.result, row.epochs) for row in s.trials]
    assert told(one) == told(many)
    notes = [note.text for note in many.directory.progress.notes]
    assert any("trained together" in text for text in notes)
    same = lambda s: [(e.train_loss, e.valid_loss, e.metrics) for e in s.run().progress.epochs]
    for mine, theirs in zip(same(one), same(many), strict=True):
        assert mine[:2] == pytest.approx(theirs[:2], rel=1e-5) and mine[2] == theirs[2]
    fresh, best = _again(task)[0], _again(task)[0]
    fresh.load_state_dict(_weights(one)), best.load_state_dict(_weights(many))
    assert all(
        torch.allclose(a, b, rtol=1e-4, atol=1e-5)
        for a, b in zip(fresh.parameters(), best.parameters(), strict=True)
    )


def _weights(found):
    from trainopt_nb.store.checkpoint import load_checkpoint

    return load_checkpoint(found.run().path / "checkpoints", "best")[1]


def test_what_a_trial_leaves_in_the_data_is_put_back(tmp_path):
    class Counted(torch.utils.data.Dataset):
        "Each epoch that was read changes what the next one gives"

        def __init__(self):
            self.read, self.noise = 0, torch.Generator().manual_seed(3)

        def __len__(self):
            return 64

        def __getitem__(self, i):
            self.read += 1
            x = torch.randn(8, generator=self.noise) + self.read / 1000
            return x, int(x.sum() > 0)

    torch.manual_seed(0)
    task = Task(nn.Linear(8, 2), Counted(), (torch.randn(32, 8), torch.arange(32) % 2))
    one = sweep(task, {"lr": [0.01, 0.1]}, folder=tmp_path, trials=2, epochs=2, sampler="grid")
    two = sweep(task, {"lr": [0.1, 0.01]}, folder=tmp_path, trials=2, epochs=2, sampler="grid", seed=0)
    by_lr = lambda s: {
        row.values["lr"]: [e.train_loss for e in s.run(row.number).progress.epochs] for row in s.trials
    }
    assert by_lr(one) == by_lr(two) and task.train_data.read == 0


def test_two_processes_search_one_study(tmp_path):
    def objective(trial):
        time.sleep(0.05)
        return trial.suggest_float("x", 0, 1)

    first = started(
        tmp_path, objective, goal=("max",), trials=30, pruner="none", storage=str(tmp_path / "shared.log")
    )
    second = started(
        tmp_path, objective, goal=("max",), trials=30, pruner="none", join=str(tmp_path / "shared.log")
    )
    turns, seen = [first.events(), second.events()], [[], []]
    while turns[0] or turns[1]:
        for k, turn in enumerate(turns):
            new = next(turn, None) if turn else None
            turns[k] = turn if new is not None else None
            seen[k] += new or []
    for handle in (first, second):
        handle.close()
    own = [{e.number for e in of_type(events, TrialStarted) if e.worker >= 0} for events in seen]
    trials = first.sweep.study.get_trials()
    assert len(own[0]) > 5 and len(own[1]) > 5 and not own[0] & own[1]
    assert {t.state.name for t in trials} == {"COMPLETE"} and 30 <= len(trials) <= 31
    assert len({t.params["x"] for t in trials}) == len(trials)
    for handle in (first, second):
        assert (
            len(Sweep(handle.run).progress.trials) >= 29
        )  # what the other one did last may come after the end


def test_a_grid_ends_by_itself_and_time_ends_any_search(tmp_path):
    def objective(trial):
        return float(trial.params["x"])

    grid = sweep(objective, {"x": [1, 2, 3]}, goal="max", folder=tmp_path, sampler="grid", time=60)
    assert len(grid.trials) == 3 and grid.best.values["x"] == 3
    timed = sweep(objective, {"x": (0.0, 1.0)}, goal="max", folder=tmp_path, sampler="random", time=0.5)
    assert 3 < len(timed.trials) < 500


def wide_of_the_middle(trial):
    "Fails everywhere but in the middle of its range"
    if (x := trial.suggest_float("x", 0, 1)) != 0.5:
        raise ValueError("too far")
    return x


def test_the_last_line_says_that_no_trial_has_a_result(tmp_path, capsys):
    found = sweep(wide_of_the_middle, goal="min", folder=tmp_path, trials=3)
    assert found.best is None
    assert (
        capsys.readouterr().out.strip().splitlines()[-1].endswith("3 trials have ended, none with a result")
    )


def test_a_sweep_begins_another_one_under_the_name_of_the_function(tmp_path, capsys):
    found = sweep(lambda trial: trial.suggest_float("x", 0, 1), goal="min", folder=tmp_path, trials=1)
    assert "searching: 1 trial " in (said := capsys.readouterr().out) and "1 trial has ended" in said
    again = found(lambda trial: trial.suggest_float("x", 2, 3), goal="max", folder=tmp_path, trials=2)
    assert isinstance(again, Sweep) and len(again.trials) == 2 and again.path != found.path
    with pytest.raises(OptionError, match="trails"):
        found(lambda trial: 0.0, trails=2)


def test_a_sweep_that_went_on_with_more_trials_keeps_their_number(task, tmp_path):
    first = sweep(task, LR, folder=tmp_path, trials=2, epochs=1, repeats=0)
    sweep(task, LR, folder=tmp_path, resume=first, trials=4, epochs=2, repeats=0)
    assert (first.directory.options["trials"], first.directory.options["epochs"]) == (4, 2)
    assert len(first.trials) == 4


def test_finalists_are_no_more_than_trials(task, tmp_path, capsys):
    found = sweep(task, LR, folder=tmp_path, trials=2, epochs=1, repeats=1, seed=3)
    said = capsys.readouterr().out
    assert "searching: 4 trials" in said and "with seed 4" in said and "with 1 other seed:" in said
    assert "trial -" not in said and len(found.study.trials) == 2


class AtTheEnd(optuna.pruners.BasePruner):
    "Prunes a trial of three epochs when all of them are done"

    def prune(self, study, trial):
        return trial.last_step == 3


@pytest.mark.parametrize("batch_trials", ["off", "on"])
def test_a_trial_that_did_all_of_its_epochs_is_not_pruned(task, tmp_path, batch_trials):
    how = {"folder": tmp_path, "trials": 3, "epochs": 3, "repeats": 0, "batch_trials": batch_trials}
    found = sweep(task, LR, pruner=AtTheEnd(), **how)
    assert [row.state for row in found.trials] == ["done"] * 3
