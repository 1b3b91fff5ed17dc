"The coach recommends what it measured, says what it did not, and leaves no trace in the task"

import json
import math
import re
from copy import deepcopy

import pytest
import torch
from torch import nn

from trainopt_nb import Task, TrainOptions, coach, fit
from trainopt_nb.base.errors import OptionError, RunError, TaskError
from trainopt_nb.base.flags import parse_flags, split
from trainopt_nb.insight.choosing import confirm
from trainopt_nb.insight.coach import ANSWER
from trainopt_nb.insight.coach_rows import fit_line, patience_row
from trainopt_nb.insight.coach_signs import Signs
from trainopt_nb.insight.coach_task import coach_task
from trainopt_nb.insight.coach_texts import CoachRow, Comparison
from trainopt_nb.insight.coached import Coached
from trainopt_nb.insight.comparing import Arm, Bench
from trainopt_nb.insight.gains import gain_of
from trainopt_nb.insight.ideas import IDEAS, Proposal, idea
from trainopt_nb.insight.short_trainings import Trainer, Training

OPTIONS = TrainOptions(epochs=2, device="cpu", threads=1)
LONG = 600.0  # seconds that suffice on a busy machine too: what there is to measure here takes about one


def task(valid=200, noise=0.0):
    "Which of two numbers is larger; with noise 0.5 the labels say nothing"
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(100 + valid, 4, generator=draw)
    y = ((x[:, 0] > x[:, 1]) ^ (torch.rand(100 + valid, generator=draw) < noise)).long()
    torch.manual_seed(0)
    return Task(nn.Linear(4, 2), (x[:100], y[:100]), (x[100:], y[100:]))


@pytest.fixture
def only(monkeypatch):
    "Some of the ideas, and others for a test"

    def choose(*names):
        for name in list(IDEAS):
            if name not in names:
                monkeypatch.delitem(IDEAS._entries, name)

    return choose


class Drawn(Trainer):
    "Figures that are drawn, with a gain for each learning rate"

    def __init__(self, gains, spread):
        super().__init__(task(), OPTIONS)
        self.gains, self.spread = gains, spread
        super().__call__({}, 0)

    def __call__(self, changes, seed, end=math.inf, data=None):
        lr = changes.get("lr", 0.0)
        draw = torch.Generator().manual_seed(hash((round(lr * 1e6), seed)) % 2**31)
        figure = 0.8 + self.gains.get(lr, 0.0) + self.spread * float(torch.randn((), generator=draw))
        return Training(figure, 0.001, 10, ())


def test_what_is_confirmed_is_seldom_noise_and_large_gains_are_found():
    found = {0.0: 0, 0.1: 0}
    for gain in found:
        trainer = Drawn({0.5: gain}, 0.02)
        for number in range(30):
            bench = Bench(trainer, 600.0, 10_000 * number)
            arm = Arm("lr", {"lr": 0.5})
            bench.arms = [arm]
            bench.measure(bench.base, bench.seed)
            confirm(bench, [arm])
            found[gain] += arm.why == "better"
    assert found[0.0] <= 2 and found[0.1] == 30


def test_a_rate_that_is_too_small_is_found_and_the_task_stays_as_it_was(only):
    only("lr")
    given = task()
    before, random = deepcopy(given.model.state_dict()), torch.random.get_rng_state()
    found = coach_task(given, OPTIONS.replace(lr=1e-4), seconds=LONG)
    assert torch.equal(random, torch.random.get_rng_state())
    assert all(
        torch.equal(a, b) for a, b in zip(before.values(), given.model.state_dict().values(), strict=True)
    )
    assert found.best.why == "better" and found.options.lr >= 0.003 and found.best.low > 0
    assert (
        parse_flags(split(found.line.removeprefix("%%trainopt fit ")), TrainOptions)[0]["lr"]
        == found.options.lr
    )
    assert "not measured" in repr(found) and found.line in re.sub("<.*?>", "", found._repr_html_())


def test_changes_that_fail_or_change_nothing_are_told_and_not_recommended(only):
    only()

    @idea("breaks")
    def breaks(now):
        return [Proposal({"optimizer": "sparseadam"}, 1.0)]

    @idea("nothing")
    def nothing(now):
        return [Proposal({"keep": 3}, 1.0)]

    try:
        found = coach_task(task(noise=0.5), OPTIONS, seconds=LONG)
    finally:
        for name in ("breaks", "nothing"):
            IDEAS._entries.pop(name)
    rows = {row.idea: row for row in found.table}
    assert rows["breaks"].why == "failed" and rows["breaks"].more
    assert (
        not rows["nothing"].recommended and found.best is None and found.options == OPTIONS and not found.line
    )


def test_the_answer_is_kept_with_the_run_and_a_damaged_one_is_not_shown(only, tmp_path):
    only("lr")
    given = task()
    run = fit(
        given.model,
        given.train_data,
        given.valid_data,
        folder=tmp_path,
        write=lambda line: None,
        **OPTIONS.replace(lr=1e-4).changed(),
    )
    found = coach(run, seconds=LONG)
    assert any(key == "coach_redrawn" for key, _ in found.notes)
    again = run.coach()
    assert again.date and again.line == found.line and again.best.mean == found.best.mean
    with pytest.raises(OptionError, match="not kept"):
        again.options  # noqa: B018
    stored = json.loads((run.path / ANSWER).read_text())
    stored["rows"][0][1] = {"__class__": "x"}
    (run.path / ANSWER).write_text(json.dumps(stored))
    run.given = ()
    with pytest.raises(RunError, match="not known here"):
        run.coach()


def test_early_stopping_is_read_off_curves_and_only_where_no_seed_loses():
    trainer = Drawn({}, 0.0)
    trainer.steps, trainer.monitor = None, "accuracy"
    from trainopt_nb.events.records import Epoch

    def bench_of(*bests):
        bench = Bench(trainer, 60.0, 0)
        for seed, best in enumerate(bests):
            values = [0.5 + 0.01 * min(i, 2 * best - i) for i in range(60)]
            rows = tuple(
                Epoch(i + 1, i, 0.1, 0.1, {"accuracy": v}, 0.1, 0.0, 1.0, False) for i, v in enumerate(values)
            )
            bench.base.done[seed] = Training(max(values), 1.0, 60, rows)
        return bench

    row = patience_row(bench_of(5, 6, 7), OPTIONS)
    assert row.why == "faster" and row.changes == {"patience": 6} and 0.15 < row.cost < 0.3
    late = bench_of(5, 6, 7)
    dips = [*late.base.done[2].rows[:59], late.base.done[2].rows[0]._replace(metrics={"accuracy": 0.9})]
    late.base.done[2] = late.base.done[2]._replace(rows=tuple(dips))
    assert patience_row(late, OPTIONS) is None and patience_row(bench_of(5, 6), OPTIONS) is None


def test_losses_fall_and_nan_counts_as_the_worst():
    how = Comparison("valid_loss", True, -0.5, 10, 100, 0.1, 50, 0.01, 3.0)
    row = CoachRow("lr", {"lr": 0.01}, "better", 0.1, 0.05, 0.15, 4, 1.0, "%%trainopt fit --lr 0.01")
    text = repr(Coached((row,), how, OPTIONS))
    assert (
        "valid loss −0.1 (−0.15 to −0.05)" in text
        and "10 of 100 updates" in text
        and "valid loss is 0.5" in text
    )
    assert gain_of([1.0], [2.0]).low == -math.inf and Signs().names == []
    assert "--lr" in fit_line(OPTIONS.replace(lr=0.5, loss=nn.MSELoss())) and "MSE" not in fit_line(
        OPTIONS.replace(loss=nn.MSELoss())
    )


def test_wrong_input_is_one_sentence():
    given = task()
    with pytest.raises(TaskError, match="takes a run or a task"):
        coach(given.model)
    with pytest.raises(OptionError, match="seconds"):
        coach(given, seconds=1)
    with pytest.raises(TaskError, match="held-out"):
        coach(Task(given.model, given.train_data))
