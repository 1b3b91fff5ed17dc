"Models are measured beside each other, pruned, made thinner, and kept only where they are smaller, faster and above the floor"

import json
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from helpers import some_quick
from safetensors.torch import load_file
from sklearn.datasets import load_diabetes, load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from trainopt_nb.api.fit import fit
from trainopt_nb.api.prepare_run import stored_options
from trainopt_nb.base.errors import CompressError, OptionError, TaskError
from trainopt_nb.compression import layer_weights as layer_weights_module
from trainopt_nb.compression import sparse
from trainopt_nb.compression.candidate import Floor, judge_candidate
from trainopt_nb.compression.channels import find_channels, remove_channels
from trainopt_nb.compression.compress import Compression, Measured, compress
from trainopt_nb.compression.count import count_macs
from trainopt_nb.compression.figure import Figure, wilson
from trainopt_nb.compression.heads import attention_layers
from trainopt_nb.compression.importance import IMPORTANCE, Importance
from trainopt_nb.compression.judge import Judge, Judged, halves
from trainopt_nb.compression.measure import measure, measure_served
from trainopt_nb.compression.measurement import Measurement
from trainopt_nb.compression.recipe import Recipe, clicked_step, named_step
from trainopt_nb.compression.served import TorchServed
from trainopt_nb.compression.sparse import rows_of_layers, unpack, use_sparse
from trainopt_nb.compression.steps import Work
from trainopt_nb.compression.teacher import fine_tune, planned_epochs
from trainopt_nb.compression.timing import Times
from trainopt_nb.runs.table import list_runs
from trainopt_nb.task.task import Task
from trainopt_nb.task.train_options import TrainOptions

CPU = TrainOptions(device="cpu")


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)])
        self.beside = nn.Conv2d(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x):
        hidden = self.norms[0](self.first(x)).relu()
        return (self.norms[1](self.second(hidden)) + self.beside(x)).relu()


def resnet(width=16):
    torch.manual_seed(0)
    stem = nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    blocks = Block(width, width, 1), Block(width, 2 * width, 2)
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10))


class Encoder(nn.Module):
    "Eight rows of an image are eight words"

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True)
        self.words, self.layers = (
            nn.Linear(8, 32),
            nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
        )
        self.place, self.head = nn.Parameter(torch.zeros(8, 32)), nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.layers(self.words(x.squeeze(1)) + self.place).mean(1))


def mlp(width=128):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, 10),
    )


@pytest.fixture(scope="module")
def digits():
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(images / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)[order]
    y = torch.tensor(labels)[order]
    return (x[:1300], y[:1300]), (x[1300:], y[1300:])


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    net = mlp()
    fit(
        net,
        *digits,
        epochs=4,
        lr=3e-3,
        device="cpu",
        folder=tmp_path_factory.mktemp("runs"),
        write=lambda line: None,
    )
    return net


def candidate_of(made, recipe):
    "The candidate that a recipe of one step makes"
    return next(event.candidate for event in made.events(Recipe.of(recipe)) if isinstance(event, Measured))


def begun(net, data, folder, floor="2%", **more):
    return Compression(net, data, floor, seconds=0.1, options=CPU.replace(lr=3e-3), folder=folder, **more)


# --- measuring


def test_a_model_is_measured_beside_others(digits, trained, undisturbed):
    with undisturbed():
        rows = measure(trained, Task(trained, *digits), (1, 32), beside=[mlp(16)], seconds=0.1, options=CPU)
    first, second = rows
    assert first.macs == 64 * 128 + 128 * 128 + 128 * 10 and first.parameters == sum(
        p.numel() for p in trained.parameters()
    )
    assert first.nbytes == TorchServed(trained).nbytes and second.nbytes < first.nbytes / 5
    assert all(
        len(row.times[size].calls) >= 11 and row.times[size].p10 <= row.latency(size)
        for row in rows
        for size in (1, 32)
    )
    assert second.speedup(first, 32)[0] > 1.1
    assert first.figure.name == "accuracy" and first.figure.low < first.figure.value < first.figure.high
    text = repr(rows)
    assert "248 of 497" in text or "249 of 497" in text
    assert "1 thread of" in text and "torch" in text and "<td" in rows._repr_html_()


def test_the_metric_is_the_engines_own(digits, trained):
    x, y = digits[1]
    with torch.no_grad():
        right = (trained(x).argmax(1) == y).float()
    judged = Judge(Task(trained, *digits), CPU)(TorchServed(trained))
    first, second = halves(len(y))
    assert judged.whole.value == pytest.approx(float(right.mean()))
    assert judged.chooses.value == pytest.approx(float(right[first].mean()))
    assert judged.judges.value == pytest.approx(float(right[second].mean()))
    assert (judged.judges.low, judged.judges.high) == wilson(int(right[second].sum()), len(second))


def test_an_error_is_better_when_it_is_smaller():
    x, y = load_diabetes(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) * 20, torch.tensor(y, dtype=torch.float32)
    net = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 1))
    figure = Judge(Task(net, (x, y), (x, y)), CPU)(TorchServed(net)).judges
    assert (figure.name, figure.mode, figure.method) == (
        "mae",
        "min",
        "bootstrap",
    ) and figure.low < figure.value < figure.high
    worse = figure._replace(value=figure.value * 1.02)
    assert (
        worse.lost(figure) == pytest.approx(0.02)
        and not Floor.of("1%").holds(worse, figure)
        and Floor.of("3%").holds(worse, figure)
    )


def test_a_loss_and_an_evaluation_of_the_users_own_judge(digits, trained):
    def own(model, batch):
        return {"wrong": (model(batch[0]).argmax(1) != batch[1]).float().mean()}

    step = lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1])
    options = CPU.replace(training_step=step, eval_step=own, monitor="wrong", monitor_mode="min")
    judged = Judge(Task(trained, *digits), options)(TorchServed(trained))
    x, y = digits[1]
    assert judged.whole.value == pytest.approx(float((trained(x).argmax(1) != y).float().mean()), abs=1e-3)

    parts = options.replace(eval_step=lambda model, batch: {"wrong": (model[1](model[0](batch[0]))).mean()})
    with pytest.raises(CompressError, match=r"without calling model\(...\)"):
        Judge(Task(trained, *digits), parts)(TorchServed(mlp(16)))


def test_inputs_that_are_overwritten_are_found():
    class Overwrites(TorchServed):
        def _run(self, inputs, named):
            return inputs[0].add_(1)

    with pytest.raises(CompressError, match="changes its inputs"):
        measure_served([Overwrites(nn.Linear(1, 1), "net")], {1: torch.zeros(1, 4)})


# --- what is kept


def measured(name, value, seconds, nbytes):
    times = {1: Times(tuple(seconds * (1 + 0.01 * (i % 3)) for i in range(30)))}
    return Measurement(name, nbytes, times, judged=Judged(*[Figure("accuracy", value, None, None, 225)] * 3))


@pytest.mark.parametrize(
    ("value", "seconds", "nbytes", "said"),
    [
        (0.979, 0.001, 100, "under the floor: accuracy 97.9%"),
        (0.985, 0.0054, 100, "kept fp32: new is 0.74× here at batch 1"),
        (0.985, 0.001, 1100, "kept fp32: new takes 1.10 times the bytes"),
        (0.985, 0.004, 1000, "neither faster nor smaller"),
        (0.981, 0.002, 400, "2.00× at batch 1, 0.40 of the bytes of fp32"),
    ],
)
def test_a_candidate_is_kept_or_refused_with_the_reason(value, seconds, nbytes, said):
    dense = measured("fp32", 0.985, 0.004, 1000)
    verdict = judge_candidate(measured("new", value, seconds, nbytes), dense, dense, Floor.of("0.5%"), [1])
    assert said in str(verdict) and verdict.kept == said.startswith("2.00×")


@pytest.mark.parametrize("wrong", ["half", "0.5", True, "5%%", ""])
def test_a_floor_that_says_nothing_is_refused(wrong):
    with pytest.raises(CompressError, match="floor takes"):
        Floor.of(wrong)


def test_what_is_refused_is_never_returned(digits, trained, tmp_path):
    made = begun(trained, digits, tmp_path, "0%")
    found = candidate_of(made, "prune 0.9 macs epochs=0 random")
    assert not found.verdict.kept and "under the floor" in str(found.verdict)
    result = made.result
    assert result.best is made.candidates[0] and torch.equal(result.model[1].weight, trained[1].weight)
    assert "under the floor" in repr(result) and not result.recipe


def test_bad_input_is_one_sentence_before_anything_starts(digits, trained, tmp_path):
    train = digits[0]
    for arguments, match in (
        ((trained, train), "judged on validation data"),
        ((trained, "digits"), "takes a model and its Task"),
        ((trained, (train, None)), "judged on validation data"),
        ((nn.Linear(4, 2, device="meta"), digits), "meta device"),
    ):
        with pytest.raises(CompressError, match=match):
            compress(*arguments, "prune 0.5", folder=tmp_path, device="cpu", valid_fraction=0.0)
    with pytest.raises(CompressError, match="for at least 98% write 'min 98%', and 'none' for no floor"):
        compress(trained, digits, "prune 0.5", floor="98%", folder=tmp_path, device="cpu", seconds=0.02)
    with pytest.raises(CompressError, match="below the floor min"):
        compress(trained, digits, "prune 0.5", floor="min 99.9%", folder=tmp_path, device="cpu", seconds=0.05)
    for recipe, match in (
        ("shrink 0.5", "no compression step 'shrink'"),
        ("", "needs a step"),
        ("prune 0.5 epochs=-1", "epochs"),
    ):
        with pytest.raises(OptionError, match=match):
            compress(trained, digits, recipe, folder=tmp_path)
    assert not list_runs(tmp_path)


# --- pruning


def widths_of(net):
    return [layer.out_channels for layer in net.modules() if isinstance(layer, nn.Conv2d)]


@pytest.mark.parametrize("by", IMPORTANCE)
@pytest.mark.parametrize("scope", ["local", "global"])
def test_channels_are_removed_by_each_importance(digits, by, scope):
    net = resnet().eval()
    judge = Judge(Task(net, *digits), CPU.replace(batch_size=16))
    x = judge.inputs(2)
    before = deepcopy(net.state_dict())
    channels = find_channels(net, x)
    importance = Importance(by, deepcopy(net).requires_grad_(True), judge, batches=2)
    pruned = remove_channels(net, x, 0.5, importance, channels, scope, 2)
    assert count_macs(pruned, x) < 0.6 * count_macs(net, x) and pruned(x).shape == (2, 10)
    widths = widths_of(pruned)
    assert all(width % 2 == 0 for width in widths) and sum(widths) < sum(widths_of(net))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_layers_that_take_longer_lose_more(digits, monkeypatch):
    net = resnet().eval()
    judge = Judge(Task(net, *digits), CPU.replace(batch_size=16))
    x = judge.inputs(2)
    channels, importance = find_channels(net, x), Importance("magnitude", net)
    slow = channels.groups[-1][0]

    class Left:
        def __init__(self, work, module, of, seconds):
            assert of == "latency"

        def __call__(self, smaller):
            whole, now = (each.get_submodule(slow).out_channels for each in (net, smaller))
            return 0.5 if now < whole else 0.95

    monkeypatch.setattr(layer_weights_module, "Left", Left)
    work = SimpleNamespace(inputs=lambda count=2: judge.inputs(count))
    weights = layer_weights_module.layer_weights(work, net, importance, channels)
    assert weights.keys() == {name for group in channels.groups for name in group}
    assert weights[slow] > 2 > 1 > max(value for name, value in weights.items() if name != slow)
    pruned = remove_channels(net, x, 0.3, importance, channels._replace(weights=weights), "measured", 2)
    left = {
        name: pruned.get_submodule(name).out_channels / net.get_submodule(name).out_channels
        for name in weights
    }
    assert left[slow] < 0.5 < 0.8 < min(value for name, value in left.items() if name != slow)


def test_fine_tuning_takes_as_long_as_the_data_need(digits):
    net = mlp()
    work = SimpleNamespace(judge=Judge(Task(net, *digits), CPU.replace(batch_size=32)), notes=[])
    assert planned_epochs(work, "auto", 6) == 15 and planned_epochs(work, 3, 6) == 3
    assert planned_epochs(work, "auto", 20) == 20
    assert work.notes == ["Trained 15 epochs of 41 updates each, as epochs=auto does for little data."]


def test_gradients_choose_channels_that_matter():
    net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    with torch.no_grad():
        net[0].weight[:8] *= 30  # large, and without any effect
        net[2].weight[:, :8] = 0
    x = torch.randn(600, 4)
    task = Task(net, (x, (x.sum(1) > 0).long()), (x, (x.sum(1) > 0).long()))
    for by, same in (("taylor", True), ("hessian", True), ("magnitude", False)):
        importance = Importance(by, deepcopy(net).requires_grad_(True), Judge(task, CPU), batches=2)
        pruned = remove_channels(net, x[:2], 0.5, importance, find_channels(net, x[:2]), "local")
        with torch.no_grad():
            assert torch.allclose(pruned(x), net(x), atol=1e-5) == same, by


def test_a_transformer_loses_heads_and_feed_forward_parts(digits, tmp_path):
    net = Encoder()
    made = begun(net, digits, tmp_path, None)
    found = candidate_of(made, "prune 0.5 macs epochs=1 round_to=4")
    module, (x, _) = found.served.module, digits[1]
    assert 0.45 <= found.measurement.macs / made.candidates[0].measurement.macs <= 0.55
    assert all(layer.num_heads < 4 for layer in attention_layers(module).values())
    assert (
        all(layer.linear1.out_features < 64 for layer in module.layers.layers)
        and module.words.out_features == 32
    )
    with torch.no_grad():
        alone, together = module(x[:1]), module(x[:9])
    assert torch.allclose(alone, together[:1], atol=1e-4)


def test_what_cannot_be_pruned_is_named_and_the_rest_goes_on():
    class Views(nn.Module):
        def __init__(self):
            super().__init__()
            self.free, self.fixed, self.head = nn.Linear(16, 32), nn.Linear(32, 12), nn.Linear(12, 3)

        def forward(self, x):
            return self.head(self.fixed(self.free(x).relu()).view(len(x), 3, 4).relu().view(len(x), 12))

    net, x = Views(), torch.randn(2, 16)
    channels = find_channels(net, x)
    pruned = remove_channels(net, x, 0.5, Importance("magnitude", net), channels, "local")
    assert channels.fixed["fixed"] and "fixed (" in channels.sentence()
    assert pruned.free.out_features == 16 and pruned.fixed.out_features == 12


def test_a_model_without_layers_to_prune_is_refused(digits, tmp_path):
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    made = begun(linear, digits, tmp_path, None)
    *_, last = made.events(Recipe.of("prune 0.5 macs"))
    assert last.step == "prune 0.5 macs" and "cannot be pruned" in last.reason and made.refused == [last]


@pytest.mark.parametrize("target", ["macs", "size"])
def test_half_is_half_within_a_tenth(digits, trained, tmp_path, target):
    made = begun(trained, digits, tmp_path, None)
    list(made.events(Recipe.of(f"prune 0.5 {target} epochs=0")))
    first, last = made.candidates[0].measurement, made.candidates[-1].measurement
    left = {"macs": last.macs / first.macs, "size": last.nbytes / first.nbytes}[target]
    assert 0.45 <= left <= 0.55 and f"leaves {left:.2f} of the" in " ".join(made.candidates[-1].notes)


def test_the_target_is_met_in_several_rounds_with_training_between(digits, trained, tmp_path):
    made = begun(trained, digits, tmp_path, None)
    list(made.events(Recipe.of("prune 0.75 macs iterations=2 epochs=2")))
    first, last = made.candidates[0].measurement, made.candidates[-1].measurement
    assert 0.225 <= last.macs / first.macs <= 0.275
    assert (
        sorted(run.name.rpartition("-")[0][-7:] for run in list_runs(tmp_path))
        and len(list_runs(tmp_path)) == 2
    )


def test_training_recovers_and_a_stop_keeps_what_was_measured(digits, trained, tmp_path):
    made = begun(trained, digits, tmp_path, "3%")
    kept = candidate_of(made, "prune 0.7 macs epochs=3")
    assert kept.verdict.kept and kept.measurement.figure.lost(made.candidates[0].measurement.figure) <= 0.03
    going = made.events(Recipe.of("prune 0.5 macs epochs=50"))
    for event in going:
        if type(event).__name__ == "Epoch":
            break
    going.close()
    assert len(made.candidates) == 2 and made.result.best is kept
    assert {run.state for run in list_runs(tmp_path)} <= {"finished", "stopped"}


class Shifted(nn.Module):
    "Answers one class further than another network"

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x).roll(1, 1)


def tuned(net, data, folder, student, epochs=1, step_teacher=True, unlabeled=None, **options):
    "Fine-tune a student of a trained network; returns the work, and the run"
    options = CPU.replace(lr=0.01, batch_size=50, **options)
    task, original = Task(net, *data, unlabeled=unlabeled), TorchServed(net, "fp32")
    work = Work(original, original, task, options, Judge(task, options), seconds=0.1, folder=folder)
    list(fine_tune(work, student, epochs, step_teacher))
    (run,) = list_runs(folder)
    return work, run


def agreement(first, second, x):
    with torch.no_grad():
        return float((first(x).argmax(1) == second(x).argmax(1)).float().mean())


def few(digits):
    "Two hundred samples, whose labels are wrong"
    (x, y), valid = digits
    return (x[:200], (y[:200] + 2) % 10), valid


def test_the_teacher_teaches(digits, trained, tmp_path):
    student, (x, _) = mlp(32), digits[0]
    _, run = tuned(trained, few(digits), tmp_path, student, 20, distill_weight=1.0)
    losses = run.progress.curves["train loss"].y
    same = agreement(student, trained, x[:200])
    assert losses[-1] < losses[0] / 2 and same > 0.8


def test_another_teacher_than_the_original(digits, trained, tmp_path):
    student, x, other = mlp(32), digits[0][0][:200], Shifted(trained)
    work, run = tuned(
        trained, few(digits), tmp_path, student, 20, teacher=other, distill_weight=1.0, restore_best=False
    )
    assert agreement(student, other, x) > 0.8 and "Shifted" in run.options["teacher"] and not work.notes


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, {"distill": "logits:2", "distill_weight": 0.5}),
        ({"distill": "logits:8"}, {"distill": "logits:8", "distill_weight": 0.5}),
        ({"distill": "features:0.5", "distill_layers": "1"}, {"distill": "features:0.5"}),
        ({"distill_weight": 0.9}, {"distill": "logits:2", "distill_weight": 0.9}),
        ({"distill": "none", "distill_weight": 0.9}, {"distill": "auto"}),
    ],
)
def test_options_say_what_is_imitated_of_the_original(digits, trained, tmp_path, said, expected):
    work, run = tuned(trained, digits, tmp_path, mlp(32), **said)
    assert expected.items() <= run.options.items() and not work.notes
    assert (run.options["teacher"] == "none") == (said.get("distill") == "none")


def test_a_step_without_a_teacher_says_what_it_leaves_out(digits, trained, tmp_path):
    work, run = tuned(trained, digits, tmp_path, mlp(32), step_teacher=False, distill="logits:2")
    assert run.options["teacher"] == "none" and "teacher=no" in work.notes[0]


def own_loss(scores, targets):
    return nn.functional.multi_margin_loss(scores, targets)


def own_step(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def own_eval(model, batch):
    scores = model(batch[0])
    return {"loss": nn.functional.cross_entropy(scores, batch[1]), "scores": scores, "targets": batch[1]}


UNTEACHABLE = {
    "loss": ({"loss": own_loss}, "the loss is your own"),
    "step": ({"training_step": own_step, "eval_step": own_eval}, "training_step"),
    "weights": ({"batch_layout": "x, y, weight"}, "weights of samples"),
}


def unteachable(name, digits):
    "Data and options of a task that can have no teacher"
    options, sentence = UNTEACHABLE[name]
    if name == "weights":
        sets = (TensorDataset(*pair, torch.ones(len(pair[1]))) for pair in digits)
        digits = tuple(DataLoader(each, 100) for each in sets)
    return digits, options, sentence


@pytest.mark.parametrize("name", UNTEACHABLE)
def test_a_task_that_cannot_have_a_teacher_is_trained_without_one(digits, trained, tmp_path, name):
    data, options, sentence = unteachable(name, digits)
    compressed = compress(
        trained, data, "prune 0.4 macs magnitude iterations=2 epochs=2", floor=None, seconds=0.05, folder=tmp_path,
        device="cpu", lr=3e-3, write=lambda line: None, **options,
    )  # fmt: skip
    (text,) = (
        note for note in compressed.candidates[1].notes if note.startswith("Fine-tuning has no teacher.")
    )
    assert sentence in text
    assert [run.options["teacher"] for run in list_runs(tmp_path)] == ["none"] * 2


@pytest.mark.parametrize("name", UNTEACHABLE)
@pytest.mark.parametrize("asked", ["teacher", "distill"])
def test_a_teacher_that_was_asked_for_is_refused_before_anything_starts(
    digits, trained, tmp_path, name, asked
):
    data, options, sentence = unteachable(name, digits)
    options = options | ({"teacher": trained} if asked == "teacher" else {"distill": "logits:2"})
    with pytest.raises((OptionError, TaskError), match=sentence):
        compress(trained, data, "prune 0.4 macs", folder=tmp_path, device="cpu", write=pytest.fail, **options)
    assert not list_runs(tmp_path)


@pytest.mark.parametrize(
    "more",
    some_quick(
        [{"distill": "logits:2"}, {"distill": "features:0.1", "distill_layers": "1"}, {"unlabeled": True}],
        {"unlabeled": True},
    ),
)
def test_a_recipe_takes_the_options_that_the_model_was_distilled_with(digits, trained, tmp_path, more):
    (x, y), valid = digits
    student, options = mlp(64), {"teacher": trained, "device": "cpu", "lr": 3e-3, **more}
    pool = x[600:] if options.pop("unlabeled", False) else None
    data, quiet = ((x[:600], y[:600]), valid), {"folder": tmp_path, "write": lambda line: None}
    run = fit(student, *data, unlabeled=pool, epochs=5, batch_size=32, **options, **quiet)
    options = stored_options(run, {"teacher": trained}).changed()
    task = Task(student, *data, unlabeled=pool)
    compressed = compress(
        student, task, "prune 0.4 macs taylor epochs=3", floor=None, seconds=0.05, **options, **quiet
    )
    (tuned,) = [each for each in list_runs(tmp_path) if each.name != run.name]
    assert compressed.candidates[1].measurement.figure.value > 0.7
    assert {"teacher", "distill"} <= tuned.options.keys() and tuned.options["distill"] == run.options[
        "distill"
    ]
    assert any("unlabeled" in note.text for note in tuned.progress.notes) == (pool is not None)


# --- low rank, recipes


def test_a_click_on_prune_removes_less_where_the_floor_is_missed(digits, trained, tmp_path):
    "Without training, which makes it miss the floor"
    session = begun(trained, digits, tmp_path, also=())
    assert str(clicked_step("prune")) == "prune 0.5 macs milder=2"
    made = candidate_of(session, "prune 0.9 macs epochs=0 milder=5")
    tried = [note for note in made.notes if "misses the floor" in note]
    assert tried and tried[0].startswith(
        "Removing 90% of the multiplications misses the floor (validation accuracy"
    )
    assert "so 54% is tried." in tried[0] and made.verdict.kept, made
    first = session.candidates[0].measurement
    assert 0.3 < made.measurement.macs / first.macs < 0.98


@pytest.mark.parametrize("amount", [1 / 3, 0.1 + 0.2, 0.0123456789, 0.5, 0.05])
def test_a_recipe_and_a_floor_are_read_back_as_they_were(amount):
    from trainopt_nb.compression.candidate import Floor

    recipe = Recipe([named_step("prune", {"amount": amount}), named_step("distill", {"shrink": 3 + amount})])
    assert Recipe.of(str(recipe)) == recipe
    for floor in (Floor(amount), Floor(None, amount)):
        read = Floor.of(str(floor))
        assert (read.allowed or read.least) == pytest.approx(amount, rel=1e-11)
        assert (read.least is None) == (floor.least is None)
    assert str(Recipe.of("prune 50%, distill 4")) == "prune 0.5, distill 4"


def test_layers_become_thinner_where_it_costs_least(digits, trained, tmp_path):
    net = deepcopy(trained)
    made = begun(
        net, digits, tmp_path, "3%", batch_sizes=(64,)
    )  # alone, two small layers take longer than one
    found = candidate_of(made, "lowrank 0.5 size epochs=1")
    assert (
        0.45 <= found.measurement.nbytes / made.candidates[0].measurement.nbytes <= 0.55
        and found.verdict.kept
    )
    assert isinstance(found.served.module[5], nn.Linear)  # the head stays
    assert any(isinstance(layer, nn.Sequential) for layer in found.served.module)


def test_steps_stack_and_each_is_compared_with_what_it_came_from(digits, trained, tmp_path):
    compressed = compress(
        trained, digits, "prune 0.4 macs epochs=1, lowrank 0.3 size epochs=1", floor="4%", seconds=0.1,
        folder=tmp_path, device="cpu", lr=3e-3, write=lambda line: None,
    )  # fmt: skip
    assert len(compressed.candidates) == 3
    assert compressed.candidates[2].steps[-1].startswith("lowrank 0.3 size")
    sizes = [each.measurement.nbytes for each in compressed.candidates]
    assert sizes[0] > sizes[1] > sizes[2]


@pytest.mark.parametrize(
    "text",
    [
        "prune 0.5 taylor, lowrank 0.25",
        "lowrank 0.9 size epochs=0",
        "prune 0.3 macs hessian local iterations=3 round_to=1 teacher=no",
    ],
)
def test_a_recipe_reads_as_it_is_written(text, tmp_path):
    recipe = Recipe.of(text)
    assert (
        Recipe.of(str(recipe))
        == recipe
        == Recipe.load(recipe.save(tmp_path / "recipe.json"))
        == Recipe.load(recipe.save(tmp_path / "recipe.txt"))
    )


@pytest.mark.parametrize(
    ("text", "row", "said"),
    [
        (
            "prune 1.5",
            {"step": "prune", "amount": 1.5},
            "In the step prune, amount takes 0.01 to 0.98, and got ",
        ),
        (
            "lowrank epochs=-1",
            {"step": "lowrank", "epochs": -1},
            "In the step lowrank, epochs takes 0 to 10000 epochs",
        ),
        (
            "sparsify by=tailor",
            {"step": "sparsify", "by": "tailor"},
            "In the step sparsify, by takes magnitude, ",
        ),
        (
            "prune amout=1",
            {"step": "prune", "amout": 1},
            "The step prune has no option 'amout'. Did you mean 'amount'?",
        ),
    ],
)
def test_a_wrong_value_is_named_by_its_step_and_option(text, row, said, tmp_path):
    stored = tmp_path / "recipe.json"
    stored.write_text(json.dumps({"recipe": [row]}))
    for recipe in (text, stored):
        with pytest.raises(OptionError) as raised:
            Recipe.of(recipe)
        assert str(raised.value).startswith(said) and "--" not in str(raised.value)


def test_most_weights_become_zero_and_the_file_is_really_smaller(digits, trained, tmp_path):
    made = begun(trained, digits, tmp_path / "runs", "3%")
    found = candidate_of(made, "sparsify 0.8 iterations=2 epochs=2")
    (file,) = found.served.save(tmp_path / "shipped")
    state = unpack(load_file(file))
    zero = [float((state[name] == 0).float().mean()) for name in ("1.weight", "3.weight", "5.weight")]
    assert (zero[0] * 64 + zero[1] * 128) / 192 == pytest.approx(0.8, abs=0.01) and zero[
        2
    ] == 0  # the head stays
    assert file.stat().st_size == found.measurement.nbytes < 0.35 * TorchServed(trained).nbytes
    again, (x, _) = deepcopy(trained), digits[1]
    again.load_state_dict(state)
    with torch.no_grad():
        assert torch.allclose(again(x), found.served(x), atol=1e-4)


def test_sparse_matrices_are_used_only_where_they_are_faster(monkeypatch):
    net = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 8))
    with torch.no_grad():
        for layer in (net[0], net[1]):
            layer.weight[torch.rand_like(layer.weight) < 0.95] = 0
    monkeypatch.setattr(
        sparse, "sparse_gain", lambda layer, rows: 2.0 if layer.weight[0, 0] == net[0].weight[0, 0] else 0.8
    )
    x = torch.randn(3, 64)
    made, chosen = use_sparse(net, [rows_of_layers(net, x)])
    zeros = int((net[0].weight == 0).sum())
    assert chosen[0] == "0" and "2" not in chosen and torch.allclose(made(x), net(x), atol=1e-5)
    assert count_macs(made, x[:1]) <= count_macs(net, x[:1]) - zeros


def test_a_recipe_prunes_and_quantizes_and_exports(digits, trained, tmp_path):
    pytest.importorskip("onnxruntime")
    compressed = compress(
        trained, digits, "prune 0.4 macs epochs=1, quantize int8 engine=onnxruntime", floor="4%", seconds=0.1,
        folder=tmp_path / "runs", device="cpu", lr=3e-3, write=lambda line: None,
    )  # fmt: skip
    last = compressed.candidates[-1]
    assert (
        last.steps[-1].startswith("quantize int8")
        and last.measurement.nbytes < 0.4 * TorchServed(trained).nbytes
    )
    assert any("chosen" in note for note in last.notes)
    exported = compressed.export(tmp_path / "shipped")
    assert exported.folder == tmp_path / "shipped" and any(exported.folder.iterdir())
