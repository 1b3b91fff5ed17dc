"Augmentation of sounds, spectrograms and tables: the effects are real, and one seed gives one result whatever the workers, devices and stops"

import pytest
import torch
from helpers import follow, losses, quiet, run_until_killed, some_quick, until, weights
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from trainopt_nb import OptionError, Task, TrainOptions, features, find_run, fit, resume
from trainopt_nb.augment.augment import Augment
from trainopt_nb.augment.columns import find_columns
from trainopt_nb.augment.kinds import find_kind
from trainopt_nb.augment.pitch import pitch, speed
from trainopt_nb.augment.policy import KINDS, Operation, read_policy
from trainopt_nb.augment.sounds import loudness, noise
from trainopt_nb.base.errors import DataError, TaskError
from trainopt_nb.events.records import Note, Step
from trainopt_nb.store.checkpoint import load_checkpoint
from trainopt_nb.train.loop import train
from trainopt_nb.train.prepare import prepare

SHAPES = {"sounds": (1, 400), "spectrograms": (1, 20, 30), "tables": (6,)}
NAMES = [(kind, name) for kind in SHAPES for name in KINDS[kind]]
MANY = {kind: " ".join(KINDS[kind]) for kind in SHAPES}
IDS = [f"{kind} {name}" for kind, name in NAMES]


def samples(kind, count=40, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, *SHAPES[kind], generator=generator).to(dtype)


def made(policy, kind, inputs, seed=0, **more):
    values = find_columns(inputs) if kind == "tables" else None
    return Augment(read_policy(policy, kind=kind), seed, values, **more)


def task_data(kind, count=118):
    x = samples(kind, count + 42)
    y = (x.flatten(1)[:, :3].sum(1) * 30).long() % 3
    return (x[:count], y[:count]), (x[count:], y[count:])


def net(kind, norm=False):
    torch.manual_seed(0)
    layers = {
        "sounds": [nn.Conv1d(1, 8, 9, 2), *[nn.BatchNorm1d(8)] * norm, nn.ReLU(), nn.AdaptiveAvgPool1d(4)],
        "spectrograms": [nn.Conv2d(1, 8, 3), *[nn.BatchNorm2d(8)] * norm, nn.ReLU(), nn.AdaptiveAvgPool2d(2)],
        "tables": [nn.Linear(6, 32), *[nn.BatchNorm1d(32)] * norm, nn.ReLU()],
    }[kind]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 3))


def options_of(kind, **more):
    return {"device": "cpu", "batch_size": 32, "augment": MANY[kind], "augment_kind": kind, **more}


# --- properties of every operation


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize(("kind", "name"), NAMES, ids=IDS)
def test_samples_keep_shape_and_type(kind, name, dtype):
    inputs, labels = samples(kind, dtype=dtype), torch.arange(40) % 3
    before, change = inputs.clone(), made(name, kind, samples(kind), classes=3)
    for number in range(2):
        change.at(0, number)
        changed, targets = change((inputs, labels), training=True)
        assert changed.shape == inputs.shape and changed.dtype == dtype and changed.isfinite().all()
        assert torch.allclose(targets.sum(1), torch.ones(40)) if name == "mixup" else targets is labels
    assert torch.equal(inputs, before) and change((inputs, labels), training=False)[0] is inputs


@examples(60)
@given(st.sampled_from(NAMES), st.integers(1, 9), st.integers(1, 3), st.integers(1, 40), st.integers(0, 2**32 - 1))  # fmt: skip
def test_any_size_and_seed(named, count, channels, length, seed):
    kind, name = named
    shape = {"sounds": (channels, length), "spectrograms": (channels, 5, length), "tables": (length,)}[kind]
    inputs, labels = torch.rand(count, *shape), torch.arange(count) % 2
    high = KINDS[kind][name].high
    for policy in (name, f"{name}:{high}"):
        changed, targets = made(policy, kind, inputs, seed, classes=2)((inputs, labels), training=True)
        assert changed.shape == inputs.shape and changed.isfinite().all()
        again, alike = made(policy, kind, inputs, seed, classes=2)((inputs, labels), training=True)
        assert torch.equal(changed, again) and torch.equal(targets, alike)


@pytest.mark.parametrize(("kind", "name"), NAMES, ids=IDS)
def test_each_sample_and_each_batch_has_draws_of_its_own(kind, name):
    one, labels = samples(kind, 1), torch.arange(64) // 32
    inputs = one.expand(64, *SHAPES[kind]).contiguous()
    if kind == "tables" or name == "mixup":
        inputs = inputs * torch.linspace(0.5, 1.5, 64).view(-1, *[1] * (inputs.dim() - 1))
    change = made(name, kind, inputs, classes=2)
    first = change((inputs, labels), training=True)[0]
    assert len({row.numpy().tobytes() for row in first}) > 6
    change.at(0, 1)
    assert not torch.equal(first, change((inputs, labels), training=True)[0])
    change.at(0, 0)
    assert torch.equal(first, change((inputs, labels), training=True)[0])


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize(("kind", "name"), [*NAMES, *((kind, MANY[kind]) for kind in MANY)])
def test_ranks_change_their_rows_as_one_process_does(kind, name, ranks):
    "Up to the rounding of Fourier transforms, which may depend on how many there are"
    inputs, labels = samples(kind), torch.arange(40) % 3
    whole = made(name, kind, inputs, classes=3)((inputs, labels), training=True)
    for rank in range(ranks):
        change = made(name, kind, inputs, classes=3, shard=(rank, ranks))
        part = change((inputs[rank::ranks], labels[rank::ranks]), training=True)
        assert torch.allclose(part[0], whole[0][rank::ranks], atol=1e-4)
        assert torch.equal(part[1], whole[1][rank::ranks])


def test_strength_zero_changes_nothing_and_more_changes_more():
    for kind, name in NAMES:
        if name == "mixup":
            continue
        inputs, sizes = samples(kind, 64), []
        inputs = (
            F.avg_pool1d(inputs, 9, 1, 4) if kind == "sounds" else inputs
        )  # pitch moves low tones less than noise
        for share in (0, 0.1, 0.8):
            change = made(f"{name}:{share * min(KINDS[kind][name].high, 4)}", kind, inputs)
            sizes.append((change((inputs, None), True)[0] - inputs).abs().mean())
        assert sizes[0] < 1e-4 < sizes[1] < sizes[2], (kind, name, sizes)


# --- the effects


TIME = torch.arange(8000) / 8000


def tone(hertz):
    return (2 * torch.pi * hertz * TIME).sin()


def peaks(waves):
    return torch.fft.rfft(waves * torch.hann_window(waves.shape[-1])).abs().argmax(-1)


def test_noise_has_the_energy_that_was_asked_for():
    waves = tone(300).expand(400, -1) * torch.logspace(-2, 0, 400).unsqueeze(1)
    draws = torch.rand(400, 3, generator=torch.Generator().manual_seed(0))
    added = noise(waves, draws, 0.3) - waves
    assert torch.allclose(added.square().mean(1).sqrt(), 0.3 * draws[:, 2] * loudness(waves), rtol=0.05)
    assert added.mean(1).abs().max() < 0.02
    padded = F.pad(waves, (0, 8000))
    assert torch.allclose(loudness(padded), loudness(waves), rtol=1e-3)  # padding does not make it softer


@pytest.mark.parametrize("semitones", [-7, -2, 1, 5, 12])
def test_pitch_moves_the_peak_and_keeps_duration_and_energy(semitones):
    waves = torch.stack([tone(hertz) for hertz in (220, 440, 1000)])
    draws = torch.full((3, 1), 1.0 if semitones > 0 else 0.0)
    changed = pitch(waves, draws, abs(semitones))
    expected = torch.tensor([220, 440, 1000]) * 2 ** (semitones / 12)
    assert ((peaks(changed) - expected).abs() < 3).all()
    energy = changed[:, 1000:7000].square().mean(1) / waves[:, 1000:7000].square().mean(1)
    assert (energy.log().abs() < 0.1).all()


def test_what_a_faster_sound_cannot_hold_does_not_come_back_as_a_false_tone():
    for operation, strength in ((speed, 0.5), (pitch, 12.0)):
        changed = operation(tone(3500).unsqueeze(0), torch.ones(1, 1), strength)
        assert changed[:, 500:4500].square().mean() < 1e-3


def test_speed_changes_duration_and_pitch():
    waves = torch.where(TIME < 0.5, tone(400), 0).expand(2, -1)
    changed = speed(waves, torch.tensor([[1.0], [0.0]]), 0.25)
    lasts = (changed.abs() > 0.05).float().cumsum(1).argmax(1) / 8000
    assert torch.allclose(lasts, torch.tensor([0.4, 0.5 / 0.75]), atol=0.02)
    assert abs(peaks(changed[:1, :3000])[0] * 8000 / 3000 - 500) < 5


def test_stereo_channels_are_changed_alike():
    left = samples("sounds")
    both = torch.cat([left, left], 1)
    for name in ("gain", "shift", "speed", "pitch", "time-mask", "frequency-mask"):
        changed = made(name, "sounds", both)((both, None), True)[0]
        assert torch.equal(changed[:, 0], changed[:, 1])


def test_categories_of_a_table_stay_whole():
    import pandas as pd

    frame = pd.DataFrame(
        {"age": range(60), "city": ["Oslo", "Rome", "Bonn"] * 20, "member": [True, False] * 30}
    )
    table = features((frame, [0, 1] * 30))
    model = nn.Sequential(nn.Linear(table.width, 8), nn.ReLU(), nn.Linear(8, 2))
    options = TrainOptions(
        device="cpu", augment="noise:0.5 feature-dropout:0.3", shuffle=False, batch_size=60
    )
    prepared = prepare(Task(model, table), options)
    said = {row.topic: row for row in prepared.assumptions}
    assert "inputs" not in said and said["noise"].text.startswith("of 1 of ")
    batch = next(iter(prepared.data.train.epoch(0)))[0].clone()
    changed = prepared.on_device((batch, torch.zeros(60).long()), True)[0]
    cities = [i for i, name in enumerate(table.names) if name.startswith("city")]
    kept = (changed[:, cities] == batch[:, cities]).all(1)
    blank = torch.isclose(changed[:, cities], batch[:, cities].mean(0)).all(1)
    assert (kept | blank).all() and 0.15 < blank.float().mean() < 0.45
    assert (changed[:, table.names.index("age")] != batch[:, table.names.index("age")]).all()


# --- one seed gives one result


class Rows(Dataset):
    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data[0])

    def __getitem__(self, index):
        return self.data[0][index], self.data[1][index]


@pytest.mark.parametrize("kind", some_quick(["sounds", "spectrograms"], "spectrograms"))
def test_workers_change_nothing(kind, tmp_path):
    found, (data, _) = [], task_data(kind)
    for given_, workers in ((data, 0), (Rows(data), 0), (Rows(data), 2)):
        model = net(kind, norm=True)
        fit(model, given_, folder=tmp_path, workers=workers, write=quiet, **options_of(kind, epochs=2))
        found.append(weights(model))
    assert torch.equal(found[0], found[1]) and torch.equal(found[1], found[2])


@pytest.mark.parametrize("kind", some_quick(["sounds", "tables"], "tables"))
def test_devices_change_nothing(kind, tmp_path):
    "Pitch has a test of its own: it follows the rounding of Fourier transforms, which depends on the processor"
    data, policy = task_data(kind), MANY[kind].replace("pitch ", "")
    how = options_of(kind, epochs=2) | {"augment": policy, "folder": tmp_path, "write": quiet}
    runs = [fit(net(kind), *data, devices=devices, **how) for devices in (1, 2)]
    assert torch.allclose(losses(runs[0]), losses(runs[1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", some_quick(SHAPES, "spectrograms", "tables"))
def test_stopped_and_resumed_is_uninterrupted(kind, tmp_path):
    options, data, whole = TrainOptions(**options_of(kind, epochs=3)), task_data(kind), net(kind)
    follow(train(Task(whole, *data), options))
    at = lambda e: type(e) is Step and e.step == 6  # within the second epoch
    assert follow(train(Task(net(kind), *data), options, tmp_path), at)[-1].state == "stopped"
    _, model_state, training, _ = load_checkpoint(tmp_path / "checkpoints")
    again = net(kind)
    events = follow(train(Task(again, *data), options, tmp_path, checkpoint=(model_state, training)))
    assert events[-1].state == "finished" and torch.equal(weights(whole), weights(again))
    assert not [e.text for e in events if type(e) is Note and "resume" in e.text]


KILLED = """
import sys
from test_augment_kinds import net, options_of, quiet, task_data
from trainopt_nb import fit
fit(net("sounds"), *task_data("sounds"), folder=sys.argv[1], save_steps=1, write=quiet, **options_of("sounds", epochs=3))
"""


@pytest.mark.slow
def test_killed_and_resumed_is_uninterrupted(tmp_path):
    run_until_killed(KILLED, tmp_path / "killed")
    run = until(lambda: find_run(None, tmp_path / "killed"), "the killed run")
    assert 4 < run.progress.step < 12
    again, whole, data = net("sounds"), net("sounds"), task_data("sounds")
    resume(None, again, *data, folder=tmp_path / "killed", write=quiet)
    fit(whole, *data, folder=tmp_path / "whole", write=quiet, **options_of("sounds", epochs=3))
    assert torch.equal(weights(again), weights(whole))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("kind", "name"), NAMES, ids=IDS)
def test_a_gpu_gives_what_the_cpu_gives(kind, name):
    inputs, labels = samples(kind), torch.arange(40) % 3
    change = made(name, kind, inputs, classes=3)
    here = change((inputs, labels), training=True)
    there = change((inputs.cuda(), labels.cuda()), training=True)
    assert torch.allclose(here[1], there[1].cpu(), atol=1e-5)
    assert (here[0] - there[0].cpu()).abs().mean() < 1e-3


# --- what is refused, and said


def refused(error, match, kind, data=None, model=None, **options):
    with pytest.raises(error, match=match) as caught:
        prepare(Task(model or net(kind), data or task_data(kind)[0]), TrainOptions(device="cpu", **options))
    text = str(caught.value)
    assert "\n" not in text and text.endswith((".", "?"))


def test_an_operation_of_another_kind_gets_one_sentence():
    for text, match in {
        "crop pitch": "a policy is for one kind of data, and got crop for images, pitch for sounds",
        "pich": "Did you mean 'pitch'",
        "noise:11": "strength of noise is 0 to 1",
    }.items():
        with pytest.raises(OptionError, match=match):
            TrainOptions(augment=text)
    assert TrainOptions(augment="noise:5").augment == "noise:5"  # right for sounds
    refused(OptionError, "noise is 0 to 1", "spectrograms", augment="noise:5")  # taken for images
    said = r"pitch is for sounds, and inputs of shape \(\d+, 1, 20, 30\) are taken for images, which have rotate, .*: choose of these, or say"
    refused(OptionError, said, "spectrograms", augment="pitch")
    pictures = torch.zeros(8, 3, 8, 8, dtype=torch.uint8), torch.arange(8)
    with pytest.raises(OptionError, match=r"gain is for sounds, .* \(8, 3, 8, 8\) are taken for images"):
        find_kind(pictures, "gain")
    refused(DataError, "it takes one input of shape", "sounds", augment="crop")
    refused(OptionError, "pitch is for sounds, and the data are tables, which have noise", "tables", augment="pitch", augment_kind="tables")  # fmt: skip
    refused(OptionError, "--augment pitch is for sounds: leave --tta out", "sounds", augment="pitch", tta=2)


def test_data_that_do_not_fit_get_one_sentence():
    (x, y), _ = task_data("sounds")

    class Casts(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net("sounds")

        def forward(self, x, lengths=None):
            return self.inner(x.float())

    whole = ((x * 1000).to(torch.int16), y)
    refused(DataError, r"int16: pass floating-point numbers, such as x.float\(\) / 32768", "sounds", whole, Casts(), augment="pitch")  # fmt: skip
    lengths = ((x, torch.full((118,), 400)), y)
    refused(DataError, "shift speed changes when sounds end, and the model gets their lengths", "sounds", lengths, Casts(), augment="shift speed gain")  # fmt: skip
    clean = nn.Conv1d(1, 1, 9, padding=4)
    refused(DataError, "follow them in time", "sounds", (x, x), clean, augment="shift", loss="mse")
    prepare(
        Task(clean, (x, x)), TrainOptions(device="cpu", augment="noise", augment_kind="sounds", loss="mse")
    )
    rows, labels = task_data("tables")[0]
    refused(DataError, "need all training rows beforehand", "tables", Rows((rows, labels)), augment="noise")
    prepare(Task(net("tables"), Rows((rows, labels))), TrainOptions(device="cpu", augment="mixup"))
    refused(
        TaskError, "name the loss", "tables", augment="mixup", loss=lambda s, t: F.multi_margin_loss(s, t)
    )


@pytest.mark.parametrize(("kind", "taken"), [("sounds", "sounds"), ("spectrograms", "images"), ("tables", "tables")])  # fmt: skip
def test_what_is_guessed_is_said(kind, taken):
    prepared = prepare(Task(net(kind), task_data(kind)[0]), TrainOptions(device="cpu", augment="noise"))
    (change,) = prepared.device_transforms
    assert change.kind == taken
    rows = [row for row in prepared.assumptions if row.topic == "inputs"]
    assert len(rows) == (kind != "spectrograms")
    if rows:
        assert f"taken for {taken}" in rows[0].text and not rows[0].certain
        assert rows[0].option == "--augment-kind"
    asked = TrainOptions(device="cpu", augment="noise", augment_kind=kind)
    prepared = prepare(Task(net(kind), task_data(kind)[0]), asked)
    assert prepared.device_transforms[0].kind == kind
    assert all(row.certain for row in prepared.assumptions if row.topic == "inputs")


def test_sounds_that_were_read_are_known(tmp_path):
    import soundfile

    for number in range(12):
        folder = tmp_path / "data" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        wave = tone(300 + 200 * (number % 2))[:4000].numpy()
        soundfile.write(folder / f"{number}.wav", 0.5 * wave, 8000)
    for how, kind in (("wave", "sounds"), ("log-mel", "spectrograms")):
        options = TrainOptions(device="cpu", augment="default", sound_features=how)
        model = nn.Sequential(nn.Flatten(), nn.LazyLinear(2))
        prepared = prepare(Task(model, str(tmp_path / "data")), options)
        (change,) = prepared.device_transforms
        assert change.kind == kind and not [row for row in prepared.assumptions if row.topic == "inputs"]
    refused(OptionError, "crop is for images, and the data are sounds, which have noise", "sounds", str(tmp_path / "data"), augment="crop")  # fmt: skip


def test_an_operation_of_the_users_own_for_sounds(tmp_path):
    echo = lambda waves, draws, strength, span: waves + strength * F.pad(waves, (50, -50))
    KINDS["sounds"].register("echo", Operation(echo, default=0.5))
    try:
        inputs = samples("sounds")
        changed = made("echo", "sounds", inputs)((inputs, None), True)[0]
        assert torch.allclose(changed[..., 50:], inputs[..., 50:] + 0.5 * inputs[..., :-50])
        run = fit(
            net("sounds"),
            *task_data("sounds"),
            folder=tmp_path,
            epochs=1,
            augment="echo gain",
            device="cpu",
            write=quiet,
        )
        assert run.state == "finished"
        with pytest.raises(Exception, match="augments by echo, which is not of this package"):
            run.eject()
    finally:
        KINDS["sounds"].remove("echo")


def test_a_table_has_no_script(tmp_path):
    run = fit(
        net("tables"), *task_data("tables"), folder=tmp_path, write=quiet, **options_of("tables", epochs=1)
    )
    with pytest.raises(Exception, match="noise and feature-dropout, which need the means"):
        run.eject()
