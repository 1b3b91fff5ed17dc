"What a model learned: the same numbers as scikit-learn's, the right samples, and nothing changed by looking"

import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from trainopt_nb import Run, Task, TrainOptions, fit, inspect_results
from trainopt_nb.base.errors import DataError, OptionError, RunError, TaskError
from trainopt_nb.insight.results_html import results_html
from trainopt_nb.notebook.cli import main

CPU = TrainOptions(device="cpu", batch_size=8)  # validation batches of 32
NAMES = ("cat", "dog", "fox", "owl")


def drawn(rows=150, classes=4, seed=0):
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 6, generator=random)
    y = (x[:, :classes] + torch.randn(rows, classes, generator=random)).argmax(1)
    return x, y


def net(outputs=4, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, outputs))


@torch.no_grad()
def scores_of(model, x):
    model.eval()
    found = model(x)
    model.train()
    return found


def rows_of(results, n=None):
    return [wrong.row for wrong in results.most_wrong(n)]


# the numbers


def test_classes_are_counted_as_scikit_learn_does():
    x, y = drawn()
    model = net()
    r = inspect_results(Task(model, (x, y), (x, y)), CPU, classes=NAMES, n=5)
    scores = scores_of(model, x)
    chances, found = scores.softmax(1).numpy(), scores.argmax(1).numpy()
    assert (r.confusion == sk.confusion_matrix(y, found)).all() and r.wrong_count == int(
        (found != y.numpy()).sum()
    )
    precision, recall, f1, support = sk.precision_recall_fscore_support(y, found, zero_division=np.nan)
    rows = r.frames["classes"]
    assert rows["name"].tolist() == list(NAMES) and rows["support"].tolist() == support.tolist()
    for name, wanted in (("precision", precision), ("recall", recall), ("f1", f1)):
        np.testing.assert_allclose(rows[name], wanted, atol=1e-6)
    frequency, confidence = calibration_curve(found == y.numpy(), chances.max(1), n_bins=15)
    full = r.calibration.counts > 0
    np.testing.assert_allclose(r.calibration.frequency[full], frequency)
    np.testing.assert_allclose(r.calibration.confidence[full], confidence, atol=1e-6)
    assert r.calibration.error == pytest.approx(
        (np.abs(frequency - confidence) * r.calibration.counts[full]).sum() / len(y)
    )
    losses = F.cross_entropy(scores, y, reduction="none")
    assert rows_of(r) == losses.topk(5).indices.tolist() and r.loss == pytest.approx(losses.mean().item())
    first = r.most_wrong(1)[0]
    assert (first.truth, first.prediction) == (NAMES[y[first.row]], NAMES[found[first.row]])
    assert first.probability == pytest.approx(chances[first.row].max(), abs=1e-6)
    assert first.of_truth == pytest.approx(chances[first.row, y[first.row]], abs=1e-6)


@pytest.mark.parametrize("form", ["logits", "probabilities"])
def test_yes_and_no(form):
    x, y = drawn(classes=2)
    model = nn.Sequential(net(1), *[nn.Sigmoid()] * (form == "probabilities"))
    r = inspect_results(Task(model, (x, y.float()), (x, y.float())), CPU)
    yes = scores_of(model, x)[:, 0]
    yes = (yes.sigmoid() if form == "logits" else yes).numpy()
    assert r.kind == "binary" and (r.confusion == sk.confusion_matrix(y, yes > 0.5)).all()
    frequency, confidence = calibration_curve(y, yes, n_bins=15)
    full = r.calibration.counts > 0
    np.testing.assert_allclose(r.calibration.frequency[full], frequency)
    np.testing.assert_allclose(r.calibration.confidence[full], confidence, atol=1e-6)


def test_several_labels():
    x, _ = drawn()
    y = (x[:, :3] > 0.3).float()
    model = net(3)
    r = inspect_results(Task(model, (x, y), (x, y)), CPU, classes=NAMES[:3])
    found = (scores_of(model, x) > 0).numpy()
    rows = r.frames["classes"]
    np.testing.assert_allclose(rows["f1"], sk.f1_score(y, found, average=None), atol=1e-6)
    np.testing.assert_allclose(rows["iou"], sk.jaccard_score(y, found, average=None), atol=1e-6)
    first = r.most_wrong(1)[0]
    assert first.truth == tuple(name for name, yes in zip(NAMES, y[first.row], strict=False) if yes)
    assert r.confusion is None and r.most_confused() == [] and "IoU" in results_html(r)


def test_numbers_and_their_residuals():
    x, _ = drawn()
    y = torch.stack([x[:, 0] * 3 + 100, x[:, 1]], 1)
    model = net(2)
    r = inspect_results(Task(model, (x, y), (x, y)), CPU, n=4)
    found = scores_of(model, x)
    for i, each in enumerate(r.residuals):
        wanted = (
            sk.r2_score(y[:, i], found[:, i]),
            sk.mean_absolute_error(y[:, i], found[:, i]),
            float((found - y)[:, i].mean()),
        )
        assert (each.r2, each.mae, each.bias) == pytest.approx(wanted, rel=1e-4)
        assert sorted(each.truth) == pytest.approx(sorted(y[:, i].tolist()))
    assert rows_of(r) == (found - y).square().mean(1).topk(4).indices.tolist()
    assert list(r.figures()) == [
        f"{name} of output {i}" for i in (0, 1) for name in ("predictions", "residuals")
    ]


def test_masks_with_places_that_do_not_count():
    random = torch.Generator().manual_seed(0)
    x, y = torch.rand(20, 1, 9, 8, generator=random), torch.randint(0, 3, (20, 9, 8), generator=random)
    y[:, :2] = -100
    torch.manual_seed(0)
    model = nn.Conv2d(1, 3, 3, padding=1)
    r = inspect_results(Task(model, (x, y), (x, y)), CPU, n=3)
    scores = scores_of(model, x)
    kept, found = y >= 0, scores.argmax(1)
    assert (r.confusion == sk.confusion_matrix(y[kept], found[kept])).all()
    wanted = sk.jaccard_score(y[kept], found[kept], average=None)
    assert [row.iou for row in r.classes] == pytest.approx(wanted.tolist())
    each = F.cross_entropy(scores, y, reduction="none").flatten(1).sum(1) / kept.flatten(1).sum(1)
    assert rows_of(r) == each.topk(3).indices.tolist()
    assert r.most_wrong(1)[0].right == pytest.approx(((found == y) & kept)[rows_of(r)[0]].sum().item() / 56)
    assert results_html(r).count("<figure") == 6  # each with its true and its predicted mask


# losses of one's own


def own(outputs, targets):
    return (F.cross_entropy(outputs, targets, reduction="none") ** 2).mean()


def contrastive(outputs, targets):
    return (outputs @ outputs.T).var(correction=0) * 1e-3


@pytest.mark.parametrize(
    "loss",
    [own, nn.CrossEntropyLoss(label_smoothing=0.1), nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2, 3, 4]))],
)
def test_a_loss_of_ones_own_orders_the_samples(loss):
    x, y = drawn(60)
    model = net()
    r = inspect_results(Task(model, (x, y), (x, y)), CPU.replace(loss=loss), n=5)
    scores = scores_of(model, x)
    each = torch.stack([loss(scores[i : i + 1], y[i : i + 1]) for i in range(60)])
    assert rows_of(r) == each.topk(5).indices.tolist()


def test_a_loss_that_compares_samples_says_so():
    x, y = drawn(60)
    r = inspect_results(
        Task(net(), (x, y), (x, y)), CPU.replace(loss=contrastive, task_type="classification")
    )
    assert r.most_wrong() == [] and r.confusion.sum() == 60
    assert (
        "The loss contrastive of a batch is not the mean over its samples, so single samples have no loss."
        in r.notes
    )


class Speaker(nn.Module):
    "A language model that returns its own loss"

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Embedding(12, 8), nn.Linear(8, 12)

    def forward(self, input_ids, labels=None):
        logits = self.head(self.body(input_ids))
        loss = (
            {}
            if labels is None
            else {"loss": F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())}
        )
        return {"logits": logits, **loss}


def test_a_language_model_shows_its_worst_sequences():
    ids = torch.randint(0, 12, (30, 7), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model, data = Speaker(), {"input_ids": ids, "labels": ids}
    r = inspect_results(Task(model, data, data), CPU, n=3)
    with torch.no_grad():
        each = torch.stack([model(ids[i : i + 1], ids[i : i + 1])["loss"] for i in range(30)])
    assert rows_of(r) == each.topk(3).indices.tolist()
    html = results_html(r)
    assert " ".join(map(str, ids[rows_of(r)[0]].tolist())) in html and "matrix of tokens" in html


# nothing is changed by looking


def test_the_model_and_random_numbers_stay_as_they_are():
    x, y = drawn()
    model = net()
    model[0].weight.requires_grad_(False)
    model(x).sum().backward()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    torch.manual_seed(3)
    wanted = torch.rand(2), np.random.default_rng(0).random()
    torch.manual_seed(3)
    first = inspect_results(Task(model, (x, y), (x, y)), CPU)
    assert torch.equal(torch.rand(2), wanted[0]) and model.training and not model[0].weight.requires_grad
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    for p, gradient in zip(model.parameters(), gradients, strict=True):
        assert (p.grad is None) if gradient is None else torch.equal(p.grad, gradient)
    again = inspect_results(Task(model, (x, y), (x, y)), CPU)  # with dropout, it would differ
    assert again.loss == first.loss and again.most_wrong() == first.most_wrong()


class Rows(Dataset):
    def __init__(self, x, y):
        self.x, self.y, self.classes = x, y, list(NAMES)

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return self.x[i], int(self.y[i])


@pytest.mark.parametrize("kind", ["dataset", "loader", "shuffled", "batches"])
def test_rows_are_those_of_the_data(kind):
    x, y = drawn(90)
    model, data = net(), Rows(x, y)
    if kind == "loader":
        data = DataLoader(data, batch_size=16)
    elif kind == "shuffled":
        data = DataLoader(data, batch_size=16, shuffle=True)
    elif kind == "batches":
        data = [(x[i : i + 20], y[i : i + 20]) for i in range(0, 90, 20)]
    r = inspect_results(Task(model, data, data), CPU, n=4)
    assert rows_of(r) == F.cross_entropy(scores_of(model, x), y, reduction="none").topk(4).indices.tolist()
    assert r.names == (tuple("0123") if kind == "batches" else NAMES)


def test_only_counts_and_the_worst_samples_are_kept():
    x, y = drawn(300)
    r = inspect_results(Task(net(), (x, y), (x, y)), CPU, n=2)
    assert len(r.part.inputs) == len(r.most_wrong()) == 2
    with pytest.raises(
        DataError, match=r"keeps the 2 most wrong samples, and 5 were asked for: inspect again with n=5"
    ):
        r.most_wrong(5)


# runs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "A run whose first epoch is its best"
    x, y = drawn()
    options = {"epochs": 2, "device": "cpu", "lr": 0.05, "monitor": "train_loss", "restore_best": False}
    return fit(
        net(),
        (x[:100], y[:100]),
        (x[100:], y[100:]),
        folder=tmp_path_factory.mktemp("runs"),
        write=str,
        **options,
    )


def test_a_run_is_judged_by_its_own_weights(run):
    x, y = drawn()
    found = run.inspect(n=3)
    assert found.metrics["accuracy"] == pytest.approx(run.progress.epochs[-1].metrics["accuracy"])
    model = net(seed=1)  # other weights, which stay
    before = model[0].weight.clone()
    stored = Run(run.path).inspect(*[(x[:100], y[:100]), (x[100:], y[100:])], model=model, n=3)
    assert stored.most_wrong() == found.most_wrong() and (stored.confusion == found.confusion).all()
    assert torch.equal(model[0].weight, before) and stored.title == f"{run.name}, epoch 2"
    json.dumps([wrong._asdict() for wrong in stored.most_wrong()])  # plain values


def test_a_table_is_shown_as_it_was_given(tmp_path):
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"age": random.integers(20, 80, 90), "city": random.choice(["Rome", "Oslo"], 90)})
    frame["rich"] = np.where((frame.age > 50) ^ (random.random(90) < 0.1), "yes", "no")
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 2))
    how = {"target": "rich", "epochs": 1, "device": "cpu", "folder": tmp_path, "write": str}
    run = fit(model, frame, valid_fraction=0.3, **how)
    r = run.inspect(n=4)
    assert r.part.inputs.equals(frame.loc[rows_of(r), ["age", "city"]])  # rows of the table that was given
    assert [wrong.truth for wrong in r.most_wrong()] == frame.rich[rows_of(r)].tolist()
    assert "rows are those of the training data" in r.notes[-1] and "Oslo" in results_html(r)
    new = Run(run.path).inspect(valid_data=frame.iloc[::-1].reset_index(drop=True), model=model, n=4)
    assert new.samples == 90 and new.names == ("no", "yes")


def test_texts_are_shown_as_they_were_given(tmp_path):
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.EmbeddingBag(20_000, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.body(x % 20_000))

    texts = [f"a {'good' if i % 2 else 'bad'} film number {i}" for i in range(40)]
    labels = ["good" if i % 2 else "bad" for i in range(40)]
    run = fit(
        Words(),
        (texts, labels),
        (texts[:12], labels[:12]),
        epochs=1,
        device="cpu",
        folder=tmp_path,
        write=str,
    )
    r = run.inspect(n=3)
    assert r.part.inputs == [texts[row] for row in rows_of(r)] and texts[rows_of(r)[0]] in results_html(r)


# what is refused


def test_what_cannot_be_inspected_is_said_with_a_way_out(run, tmp_path, monkeypatch):
    x, y = drawn(40)
    for name in ("model", "train_data"):  # of other tests
        monkeypatch.delattr(sys.modules["__main__"], name, raising=False)
    task = Task(net(), (x, y), (x, y))
    with pytest.raises(
        TaskError, match=r"There is no validation data to inspect: pass valid_data, or valid_fraction=0.2"
    ):
        inspect_results(Task(net(), (x, y)), CPU)
    with pytest.raises(OptionError, match="There are 4 classes, and 2 names were given: give one for each"):
        inspect_results(task, CPU, classes=("a", "b"))
    with pytest.raises(OptionError, match="keeps from 1 to 1,000 of the most wrong samples"):
        inspect_results(task, CPU, n=0)
    with pytest.raises(
        RunError,
        match=r"The data of \S+ are not known here: pass them by run.inspect\(train_data, valid_data\)",
    ):
        Run(run.path).inspect(model=net())
    with pytest.raises(RunError, match=r"stores weights .* or pass it by run.inspect\(model=\.\.\.\)"):
        Run(run.path).inspect((x, y), (x, y))
    sweep = Run.create(tmp_path, "s", {}, type="sweep")
    with pytest.raises(
        RunError, match="is a run of type sweep, which trains no single model: name a training run or a trial"
    ):
        sweep.inspect()
    bare = Run.create(tmp_path, "bare", {})
    with pytest.raises(RunError, match="has no weights to inspect"):
        bare.inspect((x, y), (x, y), model=net())


def test_classes_that_are_numbered_otherwise_are_refused(tmp_path):
    x, y = drawn(60, 2)
    names = np.array(["no", "yes"])[y]
    run = fit(net(2), (x, names), (x, names), epochs=1, device="cpu", folder=tmp_path, write=str)
    assert run.inspect().names == ("no", "yes")
    run.start_writing()
    run.add_facts(classes=["yes", "no"])
    with pytest.raises(
        DataError,
        match="The run numbers its classes yes, no, and these data no, yes: pass the training data too",
    ):
        Run(run.path).inspect(valid_data=(x, names), model=net(2))
    run.stop_writing()


# how it is shown


def test_of_many_classes_the_most_confused_are_shown():
    x = torch.randn(400, 6, generator=torch.Generator().manual_seed(0))
    y = torch.arange(40).repeat(10)
    r = inspect_results(Task(net(40), (x, y), (x, y)), CPU)
    places, matrix = r.matrix_shown(30)
    assert matrix.shape == (len(places),) * 2 and len(places) <= 30 and r.confusion.shape == (40, 40)
    top = r.most_confused(1)[0]
    assert {int(top.truth), int(top.prediction)} <= set(places)
    assert f"the {len(places)} of 40 classes that are confused most" in results_html(r)


@pytest.mark.parametrize("code", ["en", "zh"])
def test_names_of_classes_are_text_and_nothing_else(code, monkeypatch):
    monkeypatch.setenv("TRAINOPT_LANGUAGE", code)
    x, y = drawn(60)
    bad = ("<script>alert(1)</script>", '"onload=x', "$\\frac{1}$", "\x1b[31mred")
    r = inspect_results(Task(net(), (x, y), (x, y)), CPU, classes=bad)
    html = r._repr_mimebundle_()["text/html"]
    assert "<script" not in html and '"onload' not in html and "\x1b" not in repr(r)
    assert ("混淆矩阵" if code == "zh" else "Confusion matrix") in html


# the verb

CELL = """
import torch
from torch import nn
torch.manual_seed(0)
x = torch.randn(80, 6)
y = (x[:, 0] > 0).long()
train_data, valid_data = (x[:60], y[:60]), (x[60:], y[60:])
model = nn.Sequential(nn.Linear(6, 2))
words = ["low", "high"]
"""


def test_the_verb_inspects_the_run_of_the_cell_above_and_a_stored_one(shell, capsys):
    shell.run_cell_magic("trainopt", "fit --epochs 1 --device cpu", CELL)
    held = shell.user_ns["run"]
    found = shell.run_line_magic("trainopt", "inspect --class-names words --n 3 --classes 5")
    assert (
        found.samples == 20
        and found.names == ("low", "high")
        and len(found.most_wrong()) == 3
        and found.shown == 5
    )
    for name in ("run", "model", "train_data", "valid_data"):
        del shell.user_ns[name]
    state = torch.get_rng_state()
    stored = shell.run_line_magic("trainopt", f"inspect {held.name}")
    assert stored.most_wrong(3) == [
        wrong._replace(truth=str(int(wrong.truth == "high")), prediction=str(int(wrong.prediction == "high")))
        for wrong in found.most_wrong()
    ]
    assert "model" not in shell.user_ns and torch.equal(torch.get_rng_state(), state)
    capsys.readouterr()
    assert main(["inspect", held.name, "--n", "2"]) == 0
    assert "20 validation samples" in (printed := capsys.readouterr().out) and "most wrong:" in printed
    assert main(["inspect", "nothing"]) == 1


def test_scores_that_are_not_finite_are_told():
    x, y = drawn(40)
    x[3, 0] = np.nan
    some = repr(inspect_results(Task(net(), (x[4:], y[4:]), (x, y)), CPU))
    assert (
        "The model gives NaN or infinity for 1 of 40 samples, so their predictions mean nothing. Look for NaN in the inputs of these samples."
        in some
    )
    broken = net()
    with torch.no_grad():
        broken[3].weight.fill_(np.nan)
    found = inspect_results(Task(broken, (x[4:], y[4:]), (x[4:], y[4:])), CPU)
    assert "for 36 of 36 samples" in repr(found) and "Look for NaN in the weights." in repr(found)
    assert "nan" not in repr(found) and "nan%" not in results_html(found)


def test_what_is_no_task_is_told_in_one_sentence():
    x, y = drawn(40)
    with pytest.raises(TaskError, match=r"Pass a task to inspect: Task\(.* \(you passed Sequential\)"):
        inspect_results(net())
    with pytest.raises(TaskError, match=r"The model must be a torch\.nn\.Module, and is a NoneType"):
        inspect_results(Task(None, (x, y), (x, y)))
