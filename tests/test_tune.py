"Tuning proposes only what is clearly faster, leaves no trace, and a run with --tune stores what it trained with"

import random
import re

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from trainopt_nb import Run, Task, TrainOptions, fit, resume
from trainopt_nb.base.errors import DataError, OptionError, TaskError
from trainopt_nb.events.tuned import Tuned
from trainopt_nb.insight.candidates import CANDIDATES, candidate
from trainopt_nb.insight.tune import tune
from trainopt_nb.runs.report import report_html

QUIET = {"write": lambda text: None, "device": "cpu", "threads": 1}


class Rows(Dataset):
    "Makes a tensor of each sample out of Python numbers"

    def __init__(self, count=120, drawn=False):
        self.rows = torch.rand(count, 8, 8, generator=torch.Generator().manual_seed(0)).numpy()
        self.drawn = drawn

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        noise = random.random() if self.drawn else 0.0
        return torch.tensor(
            [[v / 16 + noise for v in row] for row in self.rows[i]], dtype=torch.float32
        ), i % 3


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


@pytest.fixture(autouse=True)
def unknown(monkeypatch, tmp_path):
    "Nothing is remembered"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "state"))


@pytest.fixture
def only(monkeypatch):
    "Some of the candidates, and others for a test"

    def choose(*names):
        for name in [name for name in CANDIDATES if name not in names]:
            monkeypatch.delitem(CANDIDATES._entries, name)

    return choose


def test_rows_of_a_dataset_are_proposed_to_be_kept_and_nothing_of_the_user_changes(only):
    only("in_memory")
    task = Task(net(), Rows())
    weights, torch_state, python_state = net().state_dict(), torch.get_rng_state(), random.getstate()
    threads, options = torch.get_num_threads(), TrainOptions(device="cpu", threads=1, epochs=7)
    found = tune(task, options, seconds=30)  # it ends as soon as it is clear
    assert found.line == "--in-memory yes" and found.options == options.replace(in_memory="yes")
    assert found.whole.low > 1 and "in_memory" in repr(found)
    assert "--in-memory yes" in re.sub("<.*?>", "", found._repr_html_())
    assert all(torch.equal(weights[name], value) for name, value in task.model.state_dict().items())
    assert torch.equal(torch_state, torch.get_rng_state()) and python_state == random.getstate()
    assert task.model.training and torch.get_num_threads() == threads
    with pytest.raises(OptionError, match="workers"):
        found.apply("workers")
    lines = dict(found._replace(given="--epochs 7").lines)
    assert lines["All"] == lines["in_memory yes"] == "%%trainopt fit --epochs 7 --in-memory yes"
    assert (
        lines["None"] == "%%trainopt fit --epochs 7"
        and found._repr_html_().count("<details") == len(lines) == 3
    )


def test_kept_rows_train_to_the_same_weights_and_random_samples_are_refused(tmp_path):
    made = []
    for keep in ("auto", "yes"):
        model = net()
        loader = DataLoader(Rows(), 32, shuffle=True)
        fit(model, loader, folder=tmp_path, epochs=2, in_memory=keep, **QUIET)
        made.append(model.state_dict())
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])
    with pytest.raises(DataError, match="random"):
        fit(net(), Rows(drawn=True), folder=tmp_path, epochs=1, in_memory="yes", **QUIET)


def test_random_samples_are_not_kept(only):
    only("in_memory")
    found = tune(Task(net(), Rows(drawn=True)), TrainOptions(device="cpu", threads=1), seconds=30)
    (row,) = found.table
    assert row.why == "failed" and "random" in row.more and not found.line


def test_a_run_stores_what_it_trained_with_and_resumes_exactly(only, tmp_path, monkeypatch):
    only("in_memory")
    monkeypatch.setattr("trainopt_nb.insight.settings.LEAST", 20.0)
    how = {"folder": tmp_path, "batch_size": 16, **QUIET}
    run = fit(net(), Rows(), epochs=2, tune=True, **how)
    (told,) = [event for event in Run(run.path).events() if isinstance(event, Tuned)]
    assert told.flags == "--in-memory yes" and run.options["in_memory"] == "yes" and run.options["tune"]
    assert "--in-memory yes" in report_html(run.progress, drawn=False)
    again = net()
    resume(run, again, Rows(), epochs=3, write=lambda text: None)
    whole = net()
    fit(whole, Rows(), epochs=3, **how)
    assert all(
        torch.equal(a, b)
        for a, b in zip(again.state_dict().values(), whole.state_dict().values(), strict=True)
    )
    second = fit(net(), Rows(), epochs=2, tune=True, **how)
    (told,) = [event for event in Run(second.path).events() if isinstance(event, Tuned)]
    assert told.date and told.flags == "--in-memory yes"  # remembered


def test_a_setting_that_fails_is_a_row_and_useless_ones_are_not_taken(only, monkeypatch):
    only("threads")

    @candidate("breaks")
    def breaks(now):
        return [{"batch_layout": "nonsense, that, no, batch, has"}]

    @candidate("nothing")
    def nothing(now):
        return [{"seed": 5}]

    monkeypatch.delitem(CANDIDATES._entries, "threads")
    try:
        x = torch.randn(256, 8, 8)
        options = TrainOptions(device="cpu", threads=1)
        found = tune(Task(net(), (x, torch.arange(256) % 3)), options, seconds=3)
    finally:
        for name in ("breaks", "nothing"):
            CANDIDATES._entries.pop(name)
    rows = {row.setting: row for row in found.table}
    assert rows["breaks"].why == "failed" and rows["breaks"].more
    assert not rows["nothing"].taken and not found.line and found.options == options


def test_larger_batches_that_learn_less_are_proposed_and_not_taken(only):
    only("batch_size")
    data = torch.randn(640, 8, 8), torch.arange(640) % 3
    options = TrainOptions(device="cpu", threads=1, batch_size=4)
    found = tune(Task(net(), data), options, seconds=5)  # without validation data nothing is proved
    tried = [row for row in found.table if row.pairs]
    assert tried and all(row.why in ("unproven", "slower") for row in tried) and not found.line
    assert found.apply("batch_size").batch_size > 4


def test_wrong_input_is_one_sentence():
    with pytest.raises(TaskError, match="takes a task"):
        tune(net())
    with pytest.raises(OptionError, match="seconds"):
        tune(Task(net(), Rows()), seconds=0)
