"A student is made smaller, learns from the original, is measured and kept as any candidate, or refused in one sentence"

import sys
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from trainopt_nb.api.fit import fit
from trainopt_nb.base.errors import CompressError, OptionError
from trainopt_nb.compression.compress import compress
from trainopt_nb.compression.distill_step import STEP, DistillStepOptions, distill
from trainopt_nb.compression.recipe import Recipe
from trainopt_nb.compression.start import plan_compression
from trainopt_nb.compression.student import student
from trainopt_nb.compression.zoo import ZOO, bytes_of, light_network, sized_network
from trainopt_nb.runs.table import list_runs
from trainopt_nb.task.task import Task

IMAGES = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def convolutional(width=16, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.Conv2d(2 * width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10),
    )  # fmt: skip


class Encoder(nn.Module):
    "Eight rows of an image are eight words"

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True)
        self.words, self.head = nn.Linear(8, 32), nn.Linear(32, 10)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x):
        return self.head(self.layers(self.words(x.squeeze(1))).mean(1))


def made(*given, **more):
    "Return a student and the sentence about it"
    making = student(*given, **more)
    while True:
        try:
            next(making)
        except StopIteration as end:
            return end.value


@pytest.fixture(scope="module")
def digits():
    "300 images to learn from, 150 that are measured, and the others"
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(images / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)[order]
    y = torch.tensor(labels)[order]
    return (x[:300], y[:300]), (x[300:450], y[300:450]), (x[450:], y[450:])


HOW = {"device": "cpu", "batch_size": 32, "lr": 3e-3}


@pytest.fixture(scope="module")
def teacher(digits, tmp_path_factory):
    "A network that knows more images than a student sees"
    net, (x, y) = convolutional(), digits[2]
    quiet = {"folder": tmp_path_factory.mktemp("runs"), "write": lambda line: None}
    fit(net, (x[:800], y[:800]), epochs=8, schedule="cosine", **quiet, **HOW)
    return net


def run(net, data, recipe, folder, **more):
    quiet = {"folder": folder, "write": lambda line: None, "seconds": 0.05, "floor": None}
    return compress(net, data if isinstance(data, Task) else tuple(data[:2]), recipe, **quiet, **HOW, **more)


# --- students


@pytest.mark.parametrize("shrink", [2, 4, 10])
def test_a_narrowed_copy_has_the_size_that_was_asked_for(shrink):
    net = convolutional(32)
    before = deepcopy(net.state_dict())
    small, sentence = made(net, IMAGES, shrink)
    assert abs(bytes_of(net) / bytes_of(small) / shrink - 1) <= 0.12 and "nearer" not in sentence
    assert small(IMAGES).shape == (2, 10) and small is not net
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_a_size_that_no_copy_has_is_said():
    small, sentence = made(Encoder(), IMAGES, 20)
    assert "no narrower copy is nearer to 20" in sentence and small(IMAGES).shape == (2, 10)
    assert "nearer" not in made(Encoder(), IMAGES, 3)[1]


def test_light_networks_have_the_size_that_was_asked_for():
    for style in ZOO:
        for shape, nbytes in (((1, 8, 8), 30_000), ((3, 96, 64), 400_000)):
            net = sized_network(style, shape, 7, nbytes)
            assert abs(bytes_of(net) / nbytes - 1) < 0.1 and net.eval()(torch.rand(2, *shape)).shape == (2, 7)
    net = convolutional(32)
    small, sentence = made(net, IMAGES, 4, "mobile")
    assert sentence == f"The student mobile has {bytes_of(net) / bytes_of(small):.1f} times fewer bytes."


@pytest.mark.parametrize("style", [*ZOO, "timm:tiny", "own"])
def test_a_student_is_made_again_with_the_same_weights(monkeypatch, style):
    make = lambda *_, **__: nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=make))
    net = convolutional(32)
    before = torch.random.get_rng_state()
    one, other, third = (
        made(net, IMAGES, 4, make if style == "own" else style, seed=seed)[0] for seed in (5, 5, 6)
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(map(torch.equal, one.parameters(), other.parameters()))
    assert not all(map(torch.equal, one.parameters(), third.parameters()))


def test_a_network_of_timm_is_a_student(monkeypatch):
    known = {}

    def create_model(name, **how):
        known.update(how, name=name)
        return light_network("shuffle", (how["in_chans"], 8, 8), how["num_classes"], 8)

    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model))
    small, sentence = made(convolutional(32), IMAGES, 4, "timm:tiny")
    assert known == {"name": "tiny", "pretrained": False, "in_chans": 1, "num_classes": 10}
    assert "which it sets itself" in sentence and small.eval()(IMAGES).shape == (2, 10)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(CompressError, match="pip install timm"):
        made(convolutional(), IMAGES, 4, "timm:tiny")


def test_students_that_cannot_be_are_refused_in_one_sentence():
    net, flat = convolutional(), nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    cases = [
        ({"shrink": 1}, "shrink takes a number above 1"),
        (
            {"style": nn.Sequential(nn.Flatten(), nn.Linear(64, 5))},
            r"gives outputs of shape \(5,\).*gives \(10,\)",
        ),
        ({"style": nn.Linear(3, 10)}, "The student Linear cannot take the inputs"),
        ({"style": convolutional(64)}, "name or pass a smaller one"),
    ]
    for how, said in cases:
        with pytest.raises(CompressError, match=said):
            made(net, IMAGES, **how)
    with pytest.raises(CompressError, match=r"no narrower copy.*student=mobile"):
        made(flat, IMAGES)
    with pytest.raises(CompressError, match="student=mobile takes images"):
        made(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)), torch.rand(2, 64), 4, "mobile")


# --- in a recipe


def test_a_recipe_names_a_student_and_takes_one_of_the_users_own(tmp_path):
    mine = nn.Linear(2, 2)
    assert str(Recipe.of("distill 8 student=shuffle 20 features")) == (
        "distill 8 student=shuffle epochs=20 features"
    )
    assert Recipe.of("distill")[0].options == DistillStepOptions() == STEP.options()
    for recipe in (Recipe.of("distill 4 student=mine", {"mine": mine}), Recipe.of([distill(student=mine)])):
        assert recipe[0].options.student is mine and str(recipe) == "distill 4 student=own:Linear"
    for name in ("recipe.json", "recipe.txt"):
        again = Recipe.load(recipe.save(tmp_path / name))
        assert str(again) == str(recipe)
    with pytest.raises(CompressError, match=r"student of your own, Linear, and holds no network"):
        made(convolutional(), IMAGES, 4, again[0].options.student)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("distill 1", "takes 1.01 to 1000.*4 is a quarter of the bytes"),
        ("distill 4 student=mobil", "Did you mean 'mobile'"),
        ("distill 4 what=scores", "what"),
        ("distill 4 augment=rotat", "Did you mean 'rotate'"),
        ("distill 4 weight=2", "weight"),
    ],
)
def test_what_a_recipe_cannot_mean_is_refused(text, said):
    with pytest.raises(OptionError, match=said):
        Recipe.of(text)


# --- learning


def test_a_student_gains_from_its_teacher(digits, teacher, tmp_path):
    "A short version of tests/bench/bench_distill.py, with one seed"
    found = run(teacher, digits, "distill 4 epochs=10", tmp_path)
    first, last = found.candidates
    small, (x, y) = found.candidates[-1].served.module, digits[2]
    assert 3.6 < first.measurement.nbytes / last.measurement.nbytes < 4.4
    alone = deepcopy(small).requires_grad_(True)
    torch.manual_seed(0)
    for layer in alone.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    fit(alone, digits[0], epochs=10, schedule="cosine", folder=tmp_path, write=lambda line: None, **HOW)
    with torch.no_grad():
        taught, itself = ((net.eval()(x).argmax(1) == y)[800:].float().mean() for net in (small, alone))
    assert taught > itself + 0.02
    assert list_runs(tmp_path)[-1].options["distill"] == "logits:2"
    assert any("crop:0.1 rotate:10" in note for note in last.notes)


def test_a_student_is_stacked_and_the_original_stays(digits, teacher, tmp_path):
    before = deepcopy(teacher.state_dict())
    found = run(teacher, digits, "distill 4 epochs=1, prune 0.3 size epochs=0", tmp_path)
    sizes = [each.measurement.nbytes for each in found.candidates]
    assert [each.name for each in found.candidates][1] == "distill 4 epochs=1"
    assert sizes[0] > 3.5 * sizes[1] and sizes[1] > 1.2 * sizes[2]
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


@pytest.mark.parametrize("what", ["features layers=3", "attention"])
def test_layers_are_imitated(digits, teacher, tmp_path, what):
    found = run(teacher, digits, f"distill 4 {what} epochs=1 augment=none", tmp_path)
    assert len(found.candidates) == 2
    options = list_runs(tmp_path)[-1].options
    assert options["distill"].startswith("logits:2 " + what.split()[0]) and options["augment"] == "none"


def test_samples_without_labels_are_learned_from(digits, teacher, tmp_path):
    task = Task(teacher, *digits[:2], unlabeled=digits[2][0][:200])
    run(teacher, task, "distill 4 epochs=1", tmp_path)
    assert "200 unlabeled samples" in " ".join(note.text for note in list_runs(tmp_path)[-1].progress.notes)


def test_a_network_of_the_users_own_learns_and_stays_as_it_is(digits, teacher, tmp_path):
    mine = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    before = mine[1].weight.clone()
    found = run(teacher, digits, [distill(student=mine, epochs=1)], tmp_path)
    learned = found.candidates[-1].served.module
    assert str(found.recipe) == ("distill 4 student=own:Sequential epochs=1" if found.taken else "")
    assert torch.equal(before, mine[1].weight) and not torch.equal(before, learned[1].weight)
    assert found.candidates[-1].name == "distill 4 student=own:Sequential epochs=1"


def test_training_options_say_who_teaches(digits, teacher, tmp_path):
    two = [teacher, convolutional(seed=5)]
    how = {"teacher": two, "distill": "logits:7", "distill_weight": 0.3}
    for recipe, wanted in (
        ("distill 4 epochs=1", ("logits:7", 0.3)),
        ("distill 4 epochs=1 temperature=3 weight=1", ("logits:3", 1)),
    ):
        run(teacher, digits, recipe, tmp_path, **how)
        stored = list_runs(tmp_path)[0]  # the newest
        assert (stored.options["distill"], stored.options["distill_weight"]) == wanted
        assert "Sequential and Sequential" in str(stored.facts["assumptions"])


def test_a_task_without_a_teacher_is_refused_before_a_student_is_made(digits, teacher, tmp_path):
    def own(model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    with pytest.raises(CompressError, match=r"distill needs a teacher.*computes its own"):
        run(teacher, digits, "distill 4", tmp_path, training_step=own)
    assert not list_runs(tmp_path)


def test_a_run_in_another_process_takes_the_students_along(digits, teacher):
    mine = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    plan = plan_compression(teacher, tuple(digits[:2]), [distill(student=mine), "quantize int8"])
    assert [order.steps for order in plan.orders] == ["distill 4 student=own:Sequential", "quantize int8"]
    assert Recipe.of(plan.orders[0].steps, plan.names)[0].options.student is mine
