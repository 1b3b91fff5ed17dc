"Commands of all kinds at random moments: nothing raises, and the log says what the study says"

import random

import pytest
from test_sweep import followed, of_type, started, task  # noqa: F401

from trainopt_nb.base.options import declared
from trainopt_nb.events.records import Pause, Resume, Stop
from trainopt_nb.search.dimensions import holds
from trainopt_nb.search.space_record import from_json
from trainopt_nb.sweeps.records import (
    AddValue,
    ContinueTrial,
    KeepValues,
    Narrow,
    NarrowTo,
    SetWorkers,
    SpaceChanged,
    StopTrial,
    TrialEnded,
    TrialStarted,
    TryValues,
    Widen,
)
from trainopt_nb.sweeps.sweep import Sweep
from trainopt_nb.sweeps.trial_end import counts
from trainopt_nb.task.train_options import TrainOptions

pytestmark = pytest.mark.usefixtures("warm_process")
SPACE = {"lr": (1e-4, 1e-1, "log"), "batch_size": [16, 32], "weight_decay": (0.0, 0.1)}
OPEN = {"batch_trials": "off"}, {"batch_trials": "on"}


def command(draw, number):
    "Return a random command, which may ask for what is not possible"
    low = 10 ** draw.uniform(-5, -1)
    return draw.choice(
        [
            Narrow("lr", low, None),
            Narrow("lr", low, low * 10),
            Widen("lr", None, 0.2),
            Narrow("weight_decay", None, draw.uniform(0.01, 0.2)),
            AddValue("batch_size", draw.choice([8, 24, 48])),
            KeepValues("batch_size", [draw.choice([8, 16, 32])]),
            NarrowTo([draw.randrange(0, number + 2) for _ in range(2)]),
            TryValues({"lr": 10 ** draw.uniform(-5, 0)}),
            StopTrial(draw.randrange(0, number + 2)),
            ContinueTrial(draw.randrange(0, number + 2)),
            SetWorkers(draw.randint(1, 3)),
            Narrow("nothing", 0.1, 0.2),
        ]
    )


def one_life(handle, draw, until):
    "Send commands while trials end; returns the events. `until` is after how many trials the sweep is stopped or closed"
    events, ended = [], 0
    try:
        for new in handle.events():
            events += new
            for event in of_type(new, TrialEnded):
                ended += 1
                for _ in range(draw.choice([0, 1, 1, 2])):
                    handle.send(command(draw, event.number))
                if draw.random() < 0.2:
                    handle.send(Pause())
                    handle.send(Resume())
            if ended >= until:
                if draw.random() < 0.5:
                    break
                handle.send(Stop("enough"))
                until = 10**9
    finally:
        handle.close()
    return events


def check_spaces(events):
    "Trials that were drawn after a change of the space are in it"
    space = None
    for event in events:
        if isinstance(event, SpaceChanged):
            space = from_json(event.space, declared(TrainOptions))
        if isinstance(event, TrialStarted) and event.origin == "sampled" and space is not None:
            assert all(holds(space[name], value) for name, value in event.values.items()), (event, space)


@pytest.mark.parametrize("how", OPEN, ids=["alone", "together"])
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 12))])
def test_random_histories(how, seed, task, tmp_path):  # noqa: F811
    draw, resume = random.Random(seed), None
    options = {"trials": 24, "epochs": 2, "sampler": "random", "repeats": 0, "pruner": "none", **how}
    events = []
    for until in (8, 8, 10**9):
        handle = started(tmp_path, task, SPACE, resume, **options)
        events += one_life(handle, draw, until)
        resume = handle.run
    check_spaces(events)
    found = Sweep(resume)
    study = {trial.number: trial for trial in found.study.trials}
    assert sum(map(counts, study.values())) == 24 and found.directory.state == "finished"
    assert "RUNNING" not in {trial.state.name for trial in study.values()}
    logged = {row.number: row for row in found.trials}
    for number, trial in study.items():
        if trial.state.name == "COMPLETE":
            assert logged[number].state == "done" and logged[number].result == trial.values
    assert found.progress.done == sum(trial.state.name == "COMPLETE" for trial in study.values())
    queued = [event.values["lr"] for event in of_type(events, TrialStarted) if event.origin == "queued"]
    assert len(queued) == len(set(queued))
