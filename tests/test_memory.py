"Will it fit: what is measured, what is said of it, and that nothing of the user's is touched"

import math
import re
import signal

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from trainopt_nb import OptionError, Task, TrainOptions, fit, will_it_fit
from trainopt_nb.api.in_workers import pack_task
from trainopt_nb.base.errors import WorkerError
from trainopt_nb.base.peak_memory import PeakMeter
from trainopt_nb.insight.memory_line import first_sizes, fit_line, keep_effective
from trainopt_nb.insight.memory_report import MemoryReport
from trainopt_nb.insight.memory_room import Room, as_bytes
from trainopt_nb.insight.memory_step import MemoryPoint, measure_point


def point(batch, size, **more):
    return MemoryPoint(batch, 1, size, 10**8, 0.01)._replace(**more)


def wide_task(rows=256, width=2000):
    "A task whose weights are small, and whose activations take 0.5 MB a sample"
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 64), nn.Unflatten(1, (64, 1)), nn.Linear(1, width), nn.Tanh(), nn.Flatten()
    )
    model.append(nn.Linear(64 * width, 2))
    return Task(
        model, (torch.randn(rows, 8), torch.arange(rows) % 2), (torch.randn(64, 8), torch.arange(64) % 2)
    )


@pytest.mark.parametrize(
    "text, size", [("2GB", 2 * 10**9), ("512 MiB", 2**29), (4096, 4096), ("1.5g", 1_500_000_000)]
)
def test_a_limit_is_read_as_people_write_it(text, size):
    assert as_bytes(text) == size


@pytest.mark.parametrize("text", ["much", "", "0", "-2GB", "1..2 GB"])
def test_a_wrong_limit_is_refused_in_one_sentence(text):
    with pytest.raises(OptionError, match="such as 2GB"):
        as_bytes(text)


def test_the_line_goes_through_the_larger_points_and_says_how_far_it_missed():
    line = fit_line([point(4, 300), point(16, 260), point(64, 740)])
    assert line.at(256) == 2660 and line.error > 0.5
    assert fit_line([point(4, 300, outcome="refused")]) is None
    assert first_sizes(256) == [16, 43, 102] and first_sizes(2, 2) == []


@pytest.mark.parametrize("effective", (1, 7, 64, 100, 197))
def test_a_cut_batch_keeps_the_effective_batch_as_nearly_as_it_can(effective):
    for most in (1, 3, 8, 50, 300):
        size, parts = keep_effective(effective, most)
        assert size <= most and 0 <= size * parts - effective < parts


def test_a_short_peak_is_seen_after_it_is_gone():
    meter = PeakMeter()
    block = torch.ones(2**24)
    del block
    meter.close()
    assert 0.95 * 2**26 < meter.added < 2**27  # the system counts in lots of pages


@pytest.mark.slow
def test_a_real_training_is_measured_and_nothing_of_the_task_changes():
    task = wide_task()
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    random = torch.get_rng_state()
    report = will_it_fit(task, TrainOptions(batch_size=64), largest=False)
    assert report.fits, report
    assert report.tried.batch == 64 and report.tried.rounds >= 3
    assert 64 * 64 * 2000 * 4 < report.needs < 2e9
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in task.model.state_dict().items())
    assert task.model.training and all(p.grad is None for p in task.model.parameters())


def test_where_nothing_is_free_nothing_is_tried():
    report = will_it_fit(wide_task(), TrainOptions(), limit="1MB")
    assert report.verdict == "does_not_fit" and not report.points and report.room.size == 0
    assert repr(report).startswith("Does not fit: Nothing is free within the limit")


def test_what_does_not_fit_is_an_answer_and_no_error():
    payload = pack_task(wide_task(), TrainOptions())
    found = measure_point(payload, 256, 1, room=2**26)
    assert found.outcome in ("refused", "killed") and not found.fits


class Crashing(nn.Linear):
    def forward(self, x):
        signal.raise_signal(signal.SIGSEGV)


def test_a_crash_is_an_error_and_no_answer_about_memory():
    payload = pack_task(Task(Crashing(8, 2), (torch.randn(8, 8), torch.arange(8) % 2)), TrainOptions())
    with pytest.raises(WorkerError, match=r"crashed at batch size 4.*SIGSEGV.*nothing about memory"):
        measure_point(payload, 4, 1, room=2**30)


def test_a_batch_holds_no_more_samples_than_there_are_and_auto_chooses_it(tmp_path):
    x, y = torch.randn(3, 8), torch.arange(3) % 2
    report = will_it_fit(Task(nn.Linear(8, 2), (x, y)), TrainOptions(batch_size=64), largest=False)
    assert report.batch == 3 and "few" in report.notes and "the 3 samples of train_data" in repr(report)
    how = {"folder": tmp_path, "device": "cpu", "write": lambda text: None}
    run = fit(nn.Linear(8, 2), (x, y), epochs=1, batch_size="auto", effective_batch=2, **how)
    assert (run.options["batch_size"], run.options["accumulate"]) == (2, 1)
    assert any("--batch-size 2 settles it" in str(note.text) for note in run.progress.notes)
    assert run.given[1].batch_size == 2 and "accuracy" in run.inspect(valid_data=(x, y)).metrics
    with pytest.raises(OptionError, match="batches of its own"):
        fit(nn.Linear(8, 2), DataLoader(TensorDataset(x, y), 8), epochs=1, batch_size="auto", **how)


@pytest.mark.slow
def test_the_largest_batch_is_confirmed_and_the_effective_batch_is_kept():
    report = will_it_fit(wide_task(1024), TrainOptions(batch_size=512), limit="1200MB", seconds=120)
    assert report.verdict == "does_not_fit" and 1 <= report.largest < 512
    size, parts = report.keeps
    assert size * parts == 512 and size <= report.largest
    assert any(p.fits and (p.batch, p.accumulate) == (size, parts) for p in report.points)
    assert f"--batch-size {size} --accumulate {parts}" in repr(report)


@pytest.mark.slow
def test_batches_of_varying_length_are_not_certain():
    def pad(rows):
        return torch.ones(len(rows), max(rows)).unsqueeze(2), torch.arange(len(rows)) % 2

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.out = nn.GRU(1, 8, batch_first=True), nn.Linear(8, 2)

        def forward(self, x):
            return self.out(self.rnn(x)[0][:, -1])

    loader = DataLoader([3, 5, 9, 4, 30, 2, 8, 7], batch_size=2, collate_fn=pad)
    report = will_it_fit(Task(Net(), loader), TrainOptions(), largest=False)
    assert (
        report.verdict == "uncertain" and "varied" in report.notes and report.own_size and report.batch == 2
    )


@pytest.mark.parametrize("code", ["en", "zh-CN"])
def test_every_verdict_is_said_and_drawn(code, monkeypatch):
    monkeypatch.setenv("TRAINOPT_LANGUAGE", code)
    line = fit_line([point(4, 10**6), point(16, 10**7)])
    for tried in (
        None,
        point(64, 10**7),
        point(64, 0, outcome="killed"),
        point(64, 0, outcome="slow", seconds=math.nan),
    ):
        for verdict in ("fits", "does_not_fit", "uncertain"):
            if verdict == "fits" and (tried is None or not tried.fits):
                continue
            for kind in ("machine", "container", "process", "limit", "gpu"):
                for some in (line, None):
                    report = MemoryReport(
                        verdict,
                        64,
                        1,
                        Room(10**8, kind),
                        (point(16, 10**7),),
                        some,
                        tried,
                        32,
                        True,
                        (32, 2),
                        notes=("varied",),
                    )
                    assert "--batch-size 32 --accumulate 2" in repr(report)
                    assert "{" not in repr(report) and "--accumulate 2" in re.sub(
                        "<.*?>", "", report._repr_html_()
                    )


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_memory_of_a_gpu_is_what_pytorch_reserves():
    report = will_it_fit(wide_task(), TrainOptions(batch_size=64, device="cuda"), largest=False)
    assert report.fits and report.room.kind == "gpu" and report.needs > 64 * 64 * 2000 * 4
    assert not will_it_fit(
        wide_task(), TrainOptions(batch_size=256, device="cuda"), limit="100MB", largest=False
    ).fits
