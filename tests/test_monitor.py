"A run records what it uses of its machine and where its steps spend their time, and is the same run to the last bit"

import json
import time

import pytest
import torch
from torch import nn

from trainopt_nb.api.fit import fit
from trainopt_nb.base.texts import wording
from trainopt_nb.events.profiled import Profile, Profiled
from trainopt_nb.events.progress import Progress
from trainopt_nb.events.records import Ended, Note, Step, Stop
from trainopt_nb.events.usage import PARTS, Usage
from trainopt_nb.insight import monitor as module
from trainopt_nb.insight.gpu_meter import GpuMeter, gpu_meter
from trainopt_nb.insight.monitor import Monitor
from trainopt_nb.panels.train_facts import standing
from trainopt_nb.panels.train_panel import TrainPanel
from trainopt_nb.runs.report import report_html, report_text
from trainopt_nb.task.task import Task
from trainopt_nb.task.train_options import TrainOptions
from trainopt_nb.train.loop import Loop
from trainopt_nb.train.prepare import prepare
from trainopt_nb.train.sync import watchers_of

ROW = {"data": 0.04, "forward": 0.31, "backward": 0.48, "update": 0.17}
USED = Usage(0, "a1", "cpu", 480, 2.0, 12_300.0, 0.62, 2.0, 1_400_000_000, 24_000_000_000, ROW)


class Slow(nn.Module):
    "A model whose passes last as long as it is told"

    def __init__(self, seconds=0.0):
        super().__init__()
        self.layer, self.seconds = nn.Linear(4, 2), seconds

    def forward(self, x):
        time.sleep(self.seconds)
        return nn.functional.dropout(self.layer(x), 0.2, self.training)


class Samples(torch.utils.data.Dataset):
    "Samples that take a while to fetch"

    def __len__(self):
        return 32

    def __getitem__(self, number):
        time.sleep(0.001)
        return torch.full((4,), float(number)), number % 2


def loop_of(model=None, data=None, **more):
    torch.manual_seed(0)
    x = torch.randn(32, 4)
    options = TrainOptions.of(batch_size=8, device="cpu", **more)
    return Loop(prepare(Task(model or Slow(), data or (x, (x.sum(1) > 0).long())), options), options)


def weights(loop):
    return [p.detach().clone() for p in loop.prepared.model.parameters()]


@pytest.fixture
def quick(monkeypatch):
    "Every step is timed, and records come often"
    monkeypatch.setattr(module, "OFTEN", 0.0)
    return watched_events


def watched_events(loop, every=0.02):
    "Yield the events of a loop and records among them, as `follow` does"
    seen = Monitor(loop, every)
    for event in loop.events():
        if (record := seen.see(event)) is not None:
            yield record
        yield event
        seen.woke()
    seen.close()


def test_a_run_is_the_same_to_the_last_bit(quick):
    watched, plain = loop_of(epochs=15), loop_of(epochs=15)
    records = [event for event in quick(watched) if type(event) is Usage]
    kept = [tuple(event)[:5] for event in plain.events() if type(event) is Step]
    assert len(kept) == 60 and records
    assert all(map(torch.equal, weights(watched), weights(plain)))
    assert watched.state.random == plain.state.random


def test_the_time_of_steps_goes_where_it_goes(quick):
    timed = lambda loop: [e for e in quick(loop) if type(e) is Usage and "forward" in e.parts][-1]
    slow_model, slow_data = timed(loop_of(Slow(0.004), epochs=3)), timed(loop_of(data=Samples(), epochs=3))
    assert slow_model.parts["forward"] > 0.5 > slow_model.parts["data"]
    assert slow_data.parts["data"] > 0.5 > slow_data.parts["forward"]
    for record in (slow_model, slow_data):
        assert set(record.parts) <= set(PARTS) and sum(record.parts.values()) <= 1.001
        assert 0 < record.memory <= record.memory_limit and 0 <= record.cpu <= 1 and not record.gpu


def test_a_pause_of_the_consumer_is_no_part_of_a_step(quick):
    events, speeds = quick(loop_of(Slow(0.002), epochs=2)), []
    for event in events:
        if type(event) is Step:
            time.sleep(0.05)
        elif type(event) is Usage:
            speeds.append(event.speed)
    assert max(speeds) > 2 * 8 / 0.05  # with the naps it would be half of that at most


def test_functions_are_put_back_where_a_run_ends_early():
    loop = loop_of(epochs=50)
    plain, to_device, seen = loop.state.stepper.parts, loop.prepared.to_device, Monitor(loop)
    seen.often = 0.0
    events = loop.events()
    for event in events:
        seen.see(event)
        if seen.timed:
            break
    assert loop.state.stepper.parts is not plain
    seen.close()
    events.close()
    assert loop.state.stepper.parts is plain and loop.prepared.to_device is to_device


def test_a_recorded_run_holds_records_before_their_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(module.Monitor.__init__, "__defaults__", (0.02,))
    monkeypatch.setattr(module, "OFTEN", 0.0)
    torch.manual_seed(0)
    x = torch.randn(32, 4)
    run = fit(Slow(0.001), (x, (x.sum(1) > 0).long()), folder=tmp_path, batch_size=8, epochs=20)
    kinds = [type(event) for event in run.events()]
    assert Usage in kinds and kinds[-1] is Ended and set(run.progress.parts["usage"]) == {0}


def test_watched_by_default_and_not_where_it_is_not_wanted():
    assert watchers_of(loop_of(usage=False, doctor=False)) == []
    assert [type(each) for each in watchers_of(loop_of(doctor=False))] == [Monitor]


def test_short_runs_have_no_record():
    kinds = {type(event) for event in watched_events(loop_of(epochs=1), every=2.0)}
    assert Ended in kinds and Usage not in kinds


class Silent:
    "A library that tells nothing"


def test_without_a_gpu_nothing_is_measured_and_a_gpu_that_tells_nothing_is_no_fault():
    assert gpu_meter(torch.device("cpu")) is None
    assert GpuMeter(Silent(), None).measure() == {}


@pytest.mark.parametrize(
    ("code", "word"), [("en", "memory 1.4 of 24 GB · 12,300 samples/s"), ("zh-CN", "前向 31%")]
)
def test_panel_and_card_show_the_row(code, word):
    progress, texts = Progress().add([USED]), wording("base", "card", "panel", code=code)
    assert word in standing(progress, texts)["usage"]
    assert word in report_text(progress, texts=texts) and word in report_html(progress, texts=texts)
    assert standing(Progress(), texts)["usage"] == ""


def test_the_row_reaches_a_panel_that_lives():
    progress = Progress().add([USED])
    panel = TrainPanel(progress)
    progress.add([USED._replace(cpu=0.07)])
    assert "CPU 7%" in panel.news()


# ten profiled steps


def run_to_the_end(loop, send, folder=None):
    "The events of a run to which commands are sent at steps"
    events, seen, command = loop.events(folder), [], None
    while True:
        try:
            seen.append(events.send(command))
        except StopIteration:
            return seen
        command = send.get(seen[-1].step) if type(seen[-1]) is Step else None


def test_profiled_steps_are_the_same_to_the_last_bit_and_leave_a_trace(tmp_path):
    profiled, plain = loop_of(epochs=4), loop_of(epochs=4)
    seen = run_to_the_end(profiled, {3: Profile(6), 5: Profile(2)}, tmp_path)
    run_to_the_end(plain, {})
    (found,) = [event for event in seen if type(event) is Profiled]
    assert (found.step, found.steps, found.path) == (3, 6, "profile-3.json")
    assert sum(row[3] for row in found.rows) <= 1.001 and "aten::addmm" in [row[0] for row in found.rows]
    trace = json.loads((tmp_path / found.path).read_text())
    assert any(event.get("name") == "aten::addmm" for event in trace["traceEvents"])
    assert all(map(torch.equal, weights(profiled), weights(plain)))
    assert [e.text for e in seen if type(e) is Note and "profile is under way" in e.text]


def test_a_profile_ends_with_its_run():
    seen = run_to_the_end(loop_of(epochs=1), {1: Profile(500)})
    assert [(e.step, e.steps) for e in seen if type(e) is Profiled] == [(1, 3)]
    seen = run_to_the_end(loop_of(epochs=1), {1: Profile(3), 2: Stop("enough")})
    assert seen[-1].reason == "enough" and not any(type(e) is Profiled for e in seen)
    assert not torch.autograd._profiler_enabled()  # another one can start


def test_the_panel_asks_for_a_profile_and_shows_it():
    progress = Progress()
    panel = TrainPanel(progress)
    panel.receive({"command": "profile"})
    assert panel.commands.get_nowait() == Profile()
    progress.add([Profiled(120, 10, 0.05, [["aten::mm", 30, 0.002, 0.4]], "profile-120.json")])
    shown = json.loads(panel.news())["face"]["profile"]
    assert shown["rows"] == [["aten::mm", 30, "2 ms", "40.0%"]] and (shown["first"], shown["last"]) == (
        121,
        130,
    )
    assert "open it in https://ui.perfetto.dev" in str(progress.parts["profile"])
