"Data in sweeps: read and fitted once in a worker, cleaned in each trial as a run alone does"

import numpy as np
import pandas as pd
import pytest
import torch
from test_trial_cost import PLACE, Silent
from torch import nn

import trainopt_nb as t
from trainopt_nb.sweeps import read_once
from trainopt_nb.sweeps.messages import TrialSpec
from trainopt_nb.sweeps.objective import TaskObjective
from trainopt_nb.sweeps.read_once import ReadOnce
from trainopt_nb.sweeps.run_trial import run_trial
from trainopt_nb.task.task import Task
from trainopt_nb.task.train_options import TrainOptions


def net(inputs):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, 2))


def people(rows=200):
    x = np.random.default_rng(0).normal(size=(rows, 2))
    city = np.where(x[:, 1] > 0, "Oslo", "Rome")
    return pd.DataFrame({"age": x[:, 0], "city": city, "rich": np.where(x[:, 0] > 0, "yes", "no")})


def twice():
    "Rows of which 50 come again, and validation rows of which 10 are training rows"
    x = np.random.default_rng(0).normal(size=(150, 3)).astype("float32")
    x = np.concatenate([x, x[:50]])
    y = (x[:, 0] > 0).astype(int)
    return (x, y), (np.concatenate([x[50:60], 9 + x[:30]]), np.concatenate([y[50:60], y[:30]]))


def counted(monkeypatch):
    "Count what is read and what is fitted"
    calls = []
    for name in ("read_task", "make_table"):
        own = getattr(read_once, name)
        monkeypatch.setattr(read_once, name, lambda *a, own=own, name=name: calls.append(name) or own(*a))
    return calls


OPTIONS = {"epochs": 2, "valid_fraction": 0.25, "threads": 1, "lr": 0.01}


def test_trials_of_a_worker_read_and_fit_once_and_become_what_they_become_alone(tmp_path, monkeypatch):
    people().to_csv(tmp_path / "t.csv", index=False)
    calls, weights = counted(monkeypatch), {}
    objective = TaskObjective(
        Task(net(3), str(tmp_path / "t.csv")), TrainOptions.of(target="rich", **OPTIONS)
    )
    for name, read in (("shared", ReadOnce()), ("alone", None)):
        runs = [tmp_path / f"{name}-{i}" for i in range(3)]
        for i, path in enumerate(runs):
            spec = TrialSpec(i, {}, {"lr": 0.1 / (1 + i)}, str(path))
            outcome = run_trial(spec, objective, PLACE, Silent(), None, read)
            assert outcome.state == "done", outcome.reason
        found = [t.find_run(path).load(net(3)).state_dict() for path in runs]
        weights[name] = [torch.cat([w.reshape(-1) for w in each.values()]) for each in found]
        assert calls.count("read_task") == calls.count("make_table") == (1 if read else 3)
        calls.clear()
        assert t.find_run(runs[2]).predict(people().drop(columns="rich"), net(3)).classes == ("no", "yes")
    assert all(map(torch.equal, weights["shared"], weights["alone"]))


@pytest.mark.parametrize("change", ["file", "option", "features", "nothing"])
def test_what_is_read_differently_is_read_again(change, tmp_path, monkeypatch):
    people().to_csv(tmp_path / "t.csv", index=False)
    calls, read = counted(monkeypatch), ReadOnce()
    task, options = Task(net(3), tmp_path / "t.csv"), TrainOptions.of(target="rich")
    assert len(read(task, options).train_data.train[0]) == 200
    if change == "file":
        people(100).to_csv(tmp_path / "t.csv", index=False)
    new = {"option": {"target": "city"}, "features": {"features": "robust"}}.get(change, {"lr": 0.5})
    again = read(task, options.replace(**new))
    assert len(again.train_data.train[0]) == (100 if change == "file" else 200)
    expected = {"file": (2, 2), "option": (2, 2), "features": (1, 2), "nothing": (1, 1)}[change]
    assert (calls.count("read_task"), calls.count("make_table")) == expected


def test_texts_that_change_in_each_epoch_and_cleaned_data_belong_to_their_trial(tmp_path):
    texts, read = (["a good film", "a bad film"] * 8, [1, 0] * 8), ReadOnce()
    task = Task(nn.EmbeddingBag(100, 2), texts)
    plain = read(task, TrainOptions(vocabulary=100))
    changing = TrainOptions(vocabulary=100, augment="swap")
    assert read(task, changing) is task and ReadOnce()(task, changing).train_data.change is not None
    assert read(task, TrainOptions(vocabulary=100)).train_data is plain.train_data
    table = Task(net(3), (people().drop(columns="rich"), people()["rich"]))
    assert read(table, TrainOptions(clean="duplicates")).train_data is table.train_data
    wrong = Task(net(3), tmp_path / "nothing.csv")
    assert read(wrong, TrainOptions()) is wrong  # the run of the trial says what is wrong


def test_a_trial_that_changes_its_table_in_place_changes_no_other():
    read, frame = ReadOnce(), people()
    task = Task(net(3), (frame.drop(columns="rich"), frame["rich"]))
    numbers = read(task, TrainOptions()).train_data.train[0]
    before = numbers.clone()
    numbers.zero_()
    assert read.put_back() == 0 and torch.equal(read(task, TrainOptions()).train_data.train[0], before)


def test_trials_of_a_file_that_are_trained_together_are_whole_runs(tmp_path):
    people().to_csv(tmp_path / "t.csv", index=False)
    how = {"sampler": "random", "trials": 10, "batch_trials": "on", "repeats": 0, "folder": tmp_path}
    found = t.sweep(
        Task(net(3), str(tmp_path / "t.csv")), {"lr": (0.001, 0.1)}, target="rich", **how, **OPTIONS
    )
    run = found.run(0)
    assert run.facts["together"] and run.classes == ("no", "yes") and run.facts["read"]["kind"] == "table"
    assert run.predict(people(5).drop(columns="rich"), net(3)).labels
    again = t.resume(run, net(3), str(tmp_path / "t.csv"), epochs=3, write=lambda line: None)
    assert again.state == "finished" and again.progress.started.samples == 150


def test_clean_can_be_searched_and_is_done_in_each_trial(tmp_path):
    train, valid = twice()
    words = ["none", "duplicates", "duplicates overlap"]
    options = {"epochs": 2, "threads": 1, "folder": tmp_path}
    found = t.sweep(
        Task(net(3), train, valid), {"clean": words}, sampler="grid", trials=3, repeats=0, **options
    )
    assert {row.values["clean"]: row.state for row in found.trials} == dict.fromkeys(words, "done")
    for row in found.trials:
        model, trial = net(3), found.run(row.number)
        alone = t.fit(model, train, valid, clean=row.values["clean"], write=lambda line: None, **options)
        assert trial.progress.started.samples == alone.progress.started.samples
        assert trial.facts.get("changes") == alone.facts.get("changes")
        assert trial.metrics["valid_loss"] == alone.metrics["valid_loss"]
    assert sorted(found.run(i).progress.started.samples for i in range(3)) == [140, 150, 200]


def test_clean_holds_for_trials_that_could_be_trained_together(tmp_path, capsys):
    train, valid = twice()
    how = {"sampler": "random", "trials": 8, "batch_trials": "on", "repeats": 0, "folder": tmp_path}
    space = {"lr": (0.001, 0.1)}
    found = t.sweep(Task(net(3), train, valid), space, clean="duplicates", epochs=1, threads=1, **how)
    assert all(found.run(i).progress.started.samples == 150 for i in range(8))
    assert "one by one: clean" in capsys.readouterr().out


def test_a_wrong_word_in_a_space_is_said_before_the_first_trial(tmp_path):
    train, valid = twice()
    for name, word in (("clean", "duplicate"), ("features", "onehit"), ("impute", "meen")):
        with pytest.raises(t.OptionError, match="Did you mean"):
            t.sweep(Task(net(3), train, valid), {name: ["none", word]}, trials=1, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_trials_of_a_file_train_on_two_devices(tmp_path):
    people().to_csv(tmp_path / "t.csv", index=False)
    how = {"trials": 2, "sampler": "random", "repeats": 0, "folder": tmp_path, "devices": 2, "batch_size": 32}
    found = t.sweep(
        Task(net(3), str(tmp_path / "t.csv")),
        {"lr": (0.001, 0.1)},
        target="rich",
        **how,
        **OPTIONS,
    )
    assert [row.state for row in found.trials] == ["done", "done"], [row.reason for row in found.trials]
    assert found.run(1).predict(people(5).drop(columns="rich"), net(3)).classes == ("no", "yes")
