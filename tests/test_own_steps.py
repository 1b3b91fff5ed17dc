"A step and a loss of one's own: each against a loop written by hand, and what cannot be is said in one sentence"

import math
from itertools import islice

import pytest
import torch
import torchmetrics
from helpers import DEVICE, made, sgd, three_classes
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from trainopt_nb import Task, TrainOptions, find_lr, fit, resume
from trainopt_nb.base.errors import DataError, OptionError, RunError, TaskError
from trainopt_nb.data.batches import order
from trainopt_nb.data.generators import seed_everything
from trainopt_nb.events.assumptions import Assumptions
from trainopt_nb.events.records import Ended, Epoch, Note, Step, Stop
from trainopt_nb.store.checkpoint import load_checkpoint
from trainopt_nb.train.loop import train

X, Y, Z = three_classes()
EPOCHS, SIZE = 3, 32


def events_of(model, train_data, valid_data=None, **options):
    options = {"epochs": EPOCHS, "batch_size": SIZE, "device": DEVICE, "optimizer": sgd, **options}
    return list(train(Task(model, train_data, valid_data), TrainOptions.of(**options)))


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.01, betas=(0.5, 0.999))


def batches(data, epochs=EPOCHS, size=SIZE):
    "The batches of a run on arrays, with the random numbers of a run"
    seed_everything(0)
    for epoch in range(epochs):
        for rows in order(len(data[0]), 0, epoch).split(size):
            yield tuple(each[rows].to(DEVICE) for each in data)


def by_hand(model, loss_of, data, parameters=(), make=sgd, **more):
    "The plain loop: loss, gradients, update"
    model.train()
    optimizer, told = make([*model.parameters(), *parameters]), []
    for batch in batches(data, **more):
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        told.append(loss.item())
    return told


def notes(events):
    return [e.text for e in events if type(e) is Note]


def epochs_of(events):
    return [e for e in events if type(e) is Epoch]


def equal(first, second):
    pairs = list(zip(first.state_dict().values(), second.state_dict().values(), strict=True))
    return len(pairs) > 0 and all(torch.equal(a, b) for a, b in pairs)


def sentence(error):
    "A refusal is one sentence, or two: what, and the way out"
    text = str(error.value)
    assert "\n" not in text and text.endswith(".") and len(text) < 420, text
    return text


# --- parts of a loss


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Linear(6, 4), nn.Linear(2, 6)

    def forward(self, x):
        mean, log_variance = self.encode(x).chunk(2, 1)
        z = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return self.decode(z), mean, log_variance


def vae_step(model, batch):
    x = batch[0]
    restored, mean, log_variance = model(x)
    kl = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).mean()
    return {"rec": F.mse_loss(restored, x), "kl": kl, "spread": mean.detach().std()}


def test_a_vae_with_parts_equals_the_loop_by_hand():
    model, plain, parts = made(VAE), made(VAE), []
    events = events_of(model, (X, Y), training_step=vae_step, loss_weights="kl=0.1")

    def loss_of(model, batch):
        found = vae_step(model, batch)
        parts.append(({name: float(value) for name, value in found.items()}, len(batch[0])))
        return found["rec"] + found["kl"] * 0.1

    told = by_hand(plain, loss_of, (X, Y))
    assert equal(model, plain)
    assert [e.loss for e in events if type(e) is Step] == told
    last = parts[-len(parts) // EPOCHS :]
    for name in ("rec", "kl", "spread"):
        mean = sum(found[name] * size for found, size in last) / sum(size for _, size in last)
        assert epochs_of(events)[-1].metrics[f"train_{name}"] == pytest.approx(mean, rel=1e-6)
    assert any(
        "the sum of the parts rec, kl times 0.1; spread is only recorded" in text for text in notes(events)
    )


def test_validation_gives_the_same_parts_without_gradients():
    model = made(VAE)
    events = events_of(model, (X, Y), (X[:40], Y[:40]), training_step=vae_step, epochs=1)
    row = epochs_of(events)[0]
    assert row.valid_loss == pytest.approx(row.metrics["valid_rec"] + row.metrics["valid_kl"], rel=1e-5)
    assert {"train_spread", "valid_spread"} <= row.metrics.keys()
    assert any("valid_loss is what training_step gives" in text for text in notes(events))


def test_a_given_sum_is_the_loss():
    def step(model, batch):
        out = model(batch[0])
        return {"loss": F.cross_entropy(out, batch[1]), "norm": out.square().mean()}

    model, plain = made(lambda: nn.Linear(6, 3)), made(lambda: nn.Linear(6, 3))
    events = events_of(model, (X, Y), training_step=step)
    by_hand(plain, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), (X, Y))
    assert equal(model, plain) and "train_norm" in epochs_of(events)[0].metrics


def test_parts_accumulate_to_the_large_batch():
    def step(model, batch):
        out = model(batch[0])
        return {"mse": F.mse_loss(out, batch[1]), "flat": out.square().mean()}

    small, large = made(lambda: nn.Linear(6, 1)), made(lambda: nn.Linear(6, 1))
    first = events_of(small, (X, Z), training_step=step, batch_size=15, accumulate=2)
    second = events_of(large, (X, Z), training_step=step, batch_size=30)
    assert torch.allclose(small.weight, large.weight, atol=1e-6)
    for name in ("train_mse", "train_flat"):
        assert epochs_of(first)[-1].metrics[name] == pytest.approx(
            epochs_of(second)[-1].metrics[name], rel=1e-5
        )
    assert any("averages training_step over 2 batches" in text for text in notes(first))


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.kind, self.size = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 1)

    def forward(self, x):
        hidden = self.trunk(x).relu()
        return {"kind": self.kind(hidden), "size": self.size(hidden)}


def two_losses(outputs, targets):
    return {
        "ce": F.cross_entropy(outputs["kind"], targets["kind"]),
        "mse": F.mse_loss(outputs["size"], targets["size"]),
    }


class TwoTargets(Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return X[i], {"kind": Y[i], "size": Z[i]}


def test_several_tasks_with_weights_by_a_loss_that_is_a_dict():
    model, plain = made(TwoHeads), made(TwoHeads)
    events = events_of(
        model, TwoTargets(), TwoTargets(), loss=two_losses, loss_weights={"mse": 0.25}, shuffle=False
    )
    plain.train()
    optimizer = sgd(plain.parameters())
    for _ in range(EPOCHS):
        for rows in torch.arange(len(X)).split(SIZE):
            x, kind, size = (each[rows].to(DEVICE) for each in (X, Y, Z))
            found = two_losses(plain(x), {"kind": kind, "size": size})
            optimizer.zero_grad()
            (found["ce"] + found["mse"] * 0.25).backward()
            optimizer.step()
    assert all(
        torch.allclose(a, b, atol=1e-6) for a, b in zip(model.parameters(), plain.parameters(), strict=True)
    )
    row = epochs_of(events)[-1]
    assert row.valid_loss == pytest.approx(
        row.metrics["valid_ce"] + 0.25 * row.metrics["valid_mse"], rel=1e-5
    )


class Experts(nn.Module):
    "A mixture of experts that returns its balance loss beside the scores"

    def __init__(self):
        super().__init__()
        self.gate, self.experts = nn.Linear(6, 2), nn.ModuleList(nn.Linear(6, 3) for _ in range(2))

    def forward(self, x, labels=None):
        share = self.gate(x).softmax(1)
        scores = sum(share[:, i : i + 1] * expert(x) for i, expert in enumerate(self.experts))
        balance = 2 * share.mean(0).square().sum()
        if labels is None:
            return scores
        return {"logits": scores, "loss_ce": F.cross_entropy(scores, labels), "loss_balance": balance}


def test_a_mixture_of_experts_with_an_auxiliary_loss():
    step = lambda model, batch: model(*batch)
    step_ = lambda model, batch: {n: v for n, v in step(model, batch).items() if n != "logits"}
    model, plain = made(Experts), made(Experts)
    events_of(model, (X, Y), training_step=step_, loss_weights="loss_balance=0.01")

    def loss_of(model, batch):
        found = model(*batch)
        return found["loss_ce"] + found["loss_balance"] * 0.01

    by_hand(plain, loss_of, (X, Y))
    assert equal(model, plain)


def test_losses_that_a_model_returns_by_name_are_summed_and_recorded():
    data = {"x": X, "labels": Y}
    model, plain = made(Experts), made(Experts)
    events = events_of(model, data, data)
    by_hand(plain, lambda m, b: sum(v for n, v in m(b[0], b[1]).items() if n != "logits"), (X, Y))
    assert all(
        torch.allclose(a, b, atol=1e-6) for a, b in zip(model.parameters(), plain.parameters(), strict=True)
    )
    assert {"train_loss_ce", "valid_loss_balance"} <= epochs_of(events)[0].metrics.keys()


# --- parts of a model in turn


def gan():
    return nn.ModuleDict(
        {"critic": nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1)), "generator": nn.Linear(3, 6)}
    )


def gan_step(model, batch):
    real, critic, generator = batch[0], model["critic"], model["generator"]
    fake = generator(torch.randn(len(real), 3, device=real.device))
    yield "critic", F.softplus(-critic(real)).mean() + F.softplus(critic(fake.detach())).mean()
    yield generator, F.softplus(-critic(generator(torch.randn(len(real), 3, device=real.device)))).mean()


def gan_by_hand(model, data, make=adam, epochs=EPOCHS, context=None, clip=None):
    "A loop with one optimizer for each network"
    optimizers = {name: make(part.parameters()) for name, part in model.items()}
    for batch in batches(data, epochs):
        for name, loss in _losses(model, batch, context):
            optimizers[name].zero_grad()
            loss.backward()
            if clip:
                nn.utils.clip_grad_norm_(model[name].parameters(), clip)
            optimizers[name].step()


def _losses(model, batch, context):
    "The losses of `gan_step`, written out"
    on = lambda: torch.autocast(DEVICE, torch.bfloat16, enabled=context is not None)
    real, critic, generator = batch[0], model["critic"], model["generator"]
    with on():
        fake = generator(torch.randn(len(real), 3, device=real.device))
        loss = F.softplus(-critic(real)).mean() + F.softplus(critic(fake.detach())).mean()
    yield "critic", loss
    with on():
        loss = F.softplus(-critic(generator(torch.randn(len(real), 3, device=real.device)))).mean()
    yield "generator", loss


@pytest.mark.parametrize("more", [{}, {"clip": 0.1}, {"precision": "bf16"}], ids=["plain", "clip", "bf16"])
def test_a_gan_equals_the_loop_by_hand(more):
    model, plain = made(gan), made(gan)
    events = events_of(model, (X, Y), training_step=gan_step, optimizer=adam, **more)
    gan_by_hand(plain, (X, Y), context=more.get("precision"), clip=more.get("clip"))
    assert equal(model, plain)
    assert {"train_critic", "train_generator"} == epochs_of(events)[0].metrics.keys()
    assert sum(type(e) is Step for e in events) == EPOCHS * 3  # one step a batch


def test_a_critic_that_is_trained_five_times_and_clamped():
    "Wasserstein GAN (Arjovsky et al., 2017)"

    def step(model, batch):
        real, critic, generator = batch[0], model["critic"], model["generator"]
        for _ in range(5):
            fake = generator(torch.randn(len(real), 3, device=real.device)).detach()
            yield "critic", critic(fake).mean() - critic(real).mean()
            with torch.no_grad():
                for weight in critic.parameters():
                    weight.clamp_(-0.05, 0.05)
        yield "generator", -critic(generator(torch.randn(len(real), 3, device=real.device))).mean()

    make = lambda parameters: torch.optim.RMSprop(parameters, lr=0.005)
    model, plain = made(gan), made(gan)
    events_of(model, (X, Y), training_step=step, optimizer=make)
    optimizers = {name: make(part.parameters()) for name, part in plain.items()}
    critic, generator = plain["critic"], plain["generator"]
    for real, _ in batches((X, Y)):
        for _ in range(5):
            optimizers["critic"].zero_grad()
            (
                critic(generator(torch.randn(len(real), 3, device=real.device)).detach()).mean()
                - critic(real).mean()
            ).backward()
            optimizers["critic"].step()
            for weight in critic.parameters():
                weight.data.clamp_(-0.05, 0.05)
        optimizers["generator"].zero_grad()
        (-critic(generator(torch.randn(len(real), 3, device=real.device))).mean()).backward()
        optimizers["generator"].step()
    assert equal(model, plain)


def penalised_step(model, batch, step):
    "A gradient penalty (Gulrajani et al., 2017), and a generator that is trained at every second batch"
    real, critic, generator = batch[0], model["critic"], model["generator"]
    fake = generator(torch.randn(len(real), 3, device=real.device)).detach()
    mixed = (real + (fake - real) * torch.rand(len(real), 1, device=real.device)).requires_grad_()
    (slope,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    yield (
        "critic",
        {
            "gap": critic(fake).mean() - critic(real).mean(),
            "penalty": (slope.norm(dim=1) - 1).square().mean(),
        },
    )
    if step % 2:
        yield "generator", -critic(generator(torch.randn(len(real), 3, device=real.device))).mean()


def test_a_gradient_penalty_and_a_part_that_is_trained_at_some_steps():
    model, plain = made(gan), made(gan)
    events = events_of(model, (X, Y), training_step=penalised_step, optimizer=adam, loss_weights="penalty=10")
    optimizers = {name: adam(part.parameters()) for name, part in plain.items()}
    for number, batch in enumerate(batches((X, Y))):
        for name, loss in penalised_step(plain, batch, number):
            loss = loss["gap"] + loss["penalty"] * 10 if isinstance(loss, dict) else loss
            optimizers[name].zero_grad()
            loss.backward()
            optimizers[name].step()
    assert equal(model, plain)
    assert {"train_gap", "train_penalty", "train_critic", "train_generator"} == epochs_of(events)[
        0
    ].metrics.keys()
    assert not [text for text in notes(events) if "No loss reaches" in text]


def in_two_rates(model, batch):
    out = model["head"](model["body"](batch[0]).relu())
    yield "body", F.mse_loss(out, batch[1])
    yield "head", F.mse_loss(model["head"](model["body"](batch[0]).relu()), batch[1])


def test_two_optimizers_with_two_learning_rates_in_turn():
    build = lambda: nn.ModuleDict({"body": nn.Linear(6, 8), "head": nn.Linear(8, 1)})
    each = {
        "body": lambda parameters: torch.optim.SGD(parameters, lr=0.001, momentum=0.5),
        "head": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    }
    model, plain = made(build), made(build)
    events = events_of(model, (X, Z), training_step=in_two_rates, optimizer=each, schedule="cosine")
    optimizers = {name: make(plain[name].parameters()) for name, make in each.items()}
    rates, number = {"body": 0.001, "head": 0.01}, 0
    for batch in batches((X, Z)):
        factor = (1 + math.cos(math.pi * number / 9)) / 2
        number += 1
        for name, loss in in_two_rates(plain, batch):
            for group in optimizers[name].param_groups:
                group["lr"] = rates[name] * factor
            optimizers[name].zero_grad()
            loss.backward()
            optimizers[name].step()
    assert equal(model, plain)
    assert type(events[-1]) is Ended and events[-1].state == "finished"


def test_the_average_follows_once_a_step():
    model = made(gan)
    state = [e for e in events_of(model, (X, Y), training_step=gan_step, ema=0.5, epochs=1)]
    plain = made(gan)
    make, average, count = sgd, None, 0
    optimizers = {name: make(part.parameters()) for name, part in plain.items()}
    average = [p.detach().clone() for p in plain.parameters()]
    for batch in batches((X, Y), 1):
        for name, loss in _losses(plain, batch, None):
            optimizers[name].zero_grad()
            loss.backward()
            optimizers[name].step()
        count += 1
        decay = min(0.5, (1 + count) / (10 + count))
        average = [a.lerp(p.detach(), 1 - decay) for a, p in zip(average, plain.parameters(), strict=True)]
    assert state[-1].state == "finished"
    assert all(torch.allclose(a, p, atol=1e-6) for a, p in zip(average, model.parameters(), strict=True))


# --- exact resume


def run_to(folder, model, stop=None, checkpoint=None, **options):
    "Train, and stop at a step; returns the events"
    o = TrainOptions.of(epochs=EPOCHS, batch_size=SIZE, device=DEVICE, save_seconds=0, **options)
    generator, events = train(Task(model, (X, Y), (X[:30], Y[:30])), o, folder, checkpoint=checkpoint), []
    command = None
    while True:
        try:
            event = generator.send(command)
        except StopIteration:
            return events
        events.append(event)
        command = Stop() if type(event) is Step and event.step == stop else None


RESUMED = {
    "gan": (gan, {"training_step": gan_step, "optimizer": adam}),
    "numbered": (
        gan,
        {"training_step": penalised_step, "optimizer": adam, "loss_weights": "penalty=10", "ema": 0.9},
    ),
    "two optimizers": (
        gan,
        {"training_step": gan_step, "optimizer": {"critic": sgd, "generator": adam}, "schedule": "linear"},
    ),
    "parts": (VAE, {"training_step": vae_step, "optimizer": adam, "loss_weights": "kl=0.1"}),
}


@pytest.mark.parametrize("stop", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_run_is_the_uninterrupted_one(name, stop, tmp_path):
    build, options = RESUMED[name]
    whole, parted = made(build), made(build)
    straight = run_to(tmp_path / "whole", whole, **options)
    first = run_to(tmp_path / "parted", parted, stop, **options)
    _, model_state, training, _ = load_checkpoint(tmp_path / "parted/checkpoints", "last")
    second = run_to(tmp_path / "parted", made(build), checkpoint=(model_state, training), **options)
    assert first[-1].state == "stopped" and second[-1].state == "finished"
    rows = {e.epoch: (e.train_loss, e.metrics) for e in (*epochs_of(first), *epochs_of(second))}
    assert rows == {e.epoch: (e.train_loss, e.metrics) for e in epochs_of(straight)}
    ends = [load_checkpoint(tmp_path / place / "checkpoints", "last")[1] for place in ("whole", "parted")]
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_fit_and_resume_take_the_step_again(tmp_path):
    model = made(gan)
    run = fit(
        model, (X, Y), training_step=gan_step, epochs=1, folder=tmp_path, device="cpu", write=lambda _: None
    )
    again = resume(
        run, model, (X, Y), training_step=gan_step, epochs=2, folder=tmp_path, write=lambda _: None
    )
    assert again.progress.epoch == 2 and "train_critic" in again.progress.curves
    with pytest.raises(RunError) as error:
        resume(run, model, (X, Y), epochs=3, folder=tmp_path)
    assert "Pass it again" in sentence(error)


# --- evaluation


def score(model, batch):
    "What an evaluation of classes gives"
    return model(batch[0]), batch[1]


def ce_step(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def test_figures_are_averaged_over_samples():
    figures = lambda model, batch: {"largest": batch[0].max().item(), "loss": batch[0][:, 0].mean()}
    loader = DataLoader(torch.utils.data.TensorDataset(X[:50], Y[:50]), batch_size=20)
    events = events_of(
        made(lambda: nn.Linear(6, 3)), (X, Y), loader, training_step=ce_step, eval_step=figures
    )
    row = epochs_of(events)[0]
    assert row.metrics["largest"] == pytest.approx(
        sum(X[a:b].max().item() * (b - a) for a, b in ((0, 20), (20, 40), (40, 50))) / 50
    )
    assert row.valid_loss == pytest.approx(X[:50, 0].mean().item(), abs=1e-6)


def test_scores_and_targets_go_to_the_metrics():
    events = events_of(
        made(lambda: nn.Linear(6, 3)),
        (X, Y),
        (X[:50], Y[:50]),
        training_step=ce_step,
        eval_step=score,
        metrics="accuracy,f1",
    )
    model = made(lambda: nn.Linear(6, 3))
    by_hand(model, ce_step, (X, Y), epochs=1)
    row = epochs_of(events)[0]
    assert row.valid_loss is None
    assert row.metrics["accuracy"] == pytest.approx((model(X[:50]).argmax(1) == Y[:50]).float().mean().item())
    assert next(e for e in events if hasattr(e, "monitor")).monitor == "accuracy"


def test_the_best_epoch_is_that_of_the_figure_that_is_named():
    values = iter([0.0, 3.0, 1.0, 2.0])  # the first is the trial's
    step = lambda model, batch: {"spread": next(values)}
    with pytest.raises(OptionError) as error:
        events_of(
            made(lambda: nn.Linear(6, 3)),
            (X, Y),
            (X[:9], Y[:9]),
            training_step=ce_step,
            eval_step=step,
            monitor="spread",
        )
    assert "--monitor-mode min or --monitor-mode max" in sentence(error)
    values = iter([0.0, 3.0, 1.0, 2.0])
    events = events_of(
        made(lambda: nn.Linear(6, 3)), (X, Y), (X[:9], Y[:9]),
        training_step=ce_step, eval_step=step, monitor="spread", monitor_mode="min",
    )  # fmt: skip
    assert [e.best for e in epochs_of(events)] == [True, True, False]


def test_a_figure_without_direction_restores_nothing():
    events = events_of(
        made(lambda: nn.Linear(6, 3)),
        (X, Y),
        (X[:9], Y[:9]),
        training_step=ce_step,
        eval_step=lambda m, b: {"spread": 1.0},
    )
    assert any("the last weights are kept" in text for text in notes(events))
    plain = made(lambda: nn.Linear(6, 3))
    by_hand(plain, ce_step, (X, Y))
    model = made(lambda: nn.Linear(6, 3))
    events_of(model, (X, Y), (X[:9], Y[:9]), training_step=ce_step, eval_step=lambda m, b: {"spread": 1.0})
    assert equal(model, plain)


def test_turns_without_an_evaluation_leave_validation_out():
    model, plain = made(gan), made(gan)
    events = events_of(model, (X, Y), (X, Y), training_step=gan_step, optimizer=adam)
    gan_by_hand(plain, (X, Y))
    assert equal(model, plain)
    assert all(row.valid_loss is None for row in epochs_of(events))
    assert any("valid_data have no loss and are left out: write eval_step" in text for text in notes(events))


@pytest.mark.parametrize("held_out", [False, True])
def test_validation_data_that_no_evaluation_judges_are_not_called_missing(held_out):
    "In the assumptions that every view shows, and where options have no effect"
    more = {"valid_fraction": 0.2} if held_out else {}
    events = events_of(
        gan(), (X, Y), None if held_out else (X, Y), training_step=gan_step, epochs=1, metrics="f1", **more
    )
    rows = next(e for e in events if type(e) is Assumptions).rows
    assert ("best epoch", "the last: no eval_step judges the validation data", "--eval-step", True) in rows
    assert any(
        "--metrics f1 (because no eval_step judges the validation data)" in text for text in notes(events)
    )
    assert "no validation data" not in str(events)
    missing = events_of(gan(), (X, Y), training_step=gan_step, epochs=1)
    rows = next(e for e in missing if type(e) is Assumptions).rows
    assert ("best epoch", "the last: there is no validation data", "--valid-fraction", True) in rows


def test_an_evaluation_step_beside_a_named_loss():
    error = lambda model, batch: {"error": (model(batch[0]).argmax(1) != batch[1]).float().mean()}
    events = events_of(made(lambda: nn.Linear(6, 3)), (X, Y), (X[:50], Y[:50]), eval_step=error)
    row = epochs_of(events)[0]
    assert row.valid_loss is None and 0 < row.metrics["error"] < 1
    started = next(e for e in events if hasattr(e, "monitor"))
    assert (started.monitor, started.mode) == ("error", "min")


# --- losses with parameters and buffers


class Temperature(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, outputs, targets):
        return F.cross_entropy(outputs * self.scale, targets)


class Centres(nn.Module):
    "A head of angles and centers, as ArcFace's"

    def __init__(self):
        super().__init__()
        self.centers = nn.Parameter(torch.randn(3, 4, generator=torch.Generator().manual_seed(1)))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, outputs, targets):
        self.seen += 1
        return F.cross_entropy(8 * F.normalize(outputs) @ F.normalize(self.centers).T, targets)


@pytest.mark.parametrize("loss, width", [(Temperature, 3), (Centres, 4)])
def test_a_loss_with_parameters_is_trained(loss, width, tmp_path):
    model, plain, own, other = (
        made(lambda: nn.Linear(6, width)),
        made(lambda: nn.Linear(6, width)),
        made(loss),
        made(loss),
    )
    before = [p.detach().clone() for p in own.parameters()]
    events = events_of(model, (X, Y), loss=own)
    by_hand(plain, lambda m, batch: other(m(batch[0]), batch[1]), (X, Y), other.parameters())
    assert equal(model, plain) and equal(own, other)
    assert not any(torch.equal(a, b) for a, b in zip(before, own.parameters(), strict=True))
    assert any("of its own, which is trained with the model" in text for text in notes(events))


def test_a_loss_with_parameters_is_resumed(tmp_path):
    straight, parted = made(Centres), made(Centres)
    whole = made(lambda: nn.Linear(6, 4))
    run_to(tmp_path / "whole", whole, loss=straight, optimizer=adam)
    run_to(tmp_path / "parted", made(lambda: nn.Linear(6, 4)), 4, loss=parted, optimizer=adam)
    _, model_state, training, _ = load_checkpoint(tmp_path / "parted/checkpoints", "last")
    again, model = made(Centres), made(lambda: nn.Linear(6, 4))
    run_to(tmp_path / "parted", model, checkpoint=(model_state, training), loss=again, optimizer=adam)
    assert equal(again, straight)


def test_the_modules_of_a_step_are_trained_where_they_are_given_as_loss():
    own, other = made(Temperature), made(Temperature)
    model, plain = made(lambda: nn.Linear(6, 3)), made(lambda: nn.Linear(6, 3))
    step = lambda model, batch: own(model(batch[0]), batch[1])
    events_of(model, (X, Y), training_step=step, loss=own)
    by_hand(plain, lambda m, batch: other(m(batch[0]), batch[1]), (X, Y), other.parameters())
    assert equal(model, plain) and equal(own, other)


@pytest.mark.parametrize("where", ["step", "loss"])
def test_parameters_that_nothing_trains_are_said(where):
    outside = made(Temperature)
    step = {
        "step": {"training_step": lambda model, batch: outside(model(batch[0]), batch[1])},
        "loss": {"loss": lambda outputs, targets: outside(outputs, targets)},
    }[where]
    events = events_of(made(lambda: nn.Linear(6, 3)), (X, Y), epochs=1, **step)
    assert any("depends on a parameter that is not trained" in text for text in notes(events))
    assert outside.scale.item() == 1.0


# --- batches and outputs of every form


def collated(rows):
    "Four arguments: inputs, targets in a row, and their lengths"
    inputs, targets = zip(*rows, strict=True)
    lengths = torch.tensor([len(each) for each in inputs]), torch.tensor([len(each) for each in targets])
    return nn.utils.rnn.pad_sequence(inputs, batch_first=True), torch.cat(targets), *lengths


def test_ctc_with_four_arguments():
    g = torch.Generator().manual_seed(0)
    rows = [
        (torch.randn(8 + i % 3, 5, generator=g), torch.randint(1, 4, (2 + i % 2,), generator=g))
        for i in range(24)
    ]

    def step(model, batch):
        inputs, targets, long, short = batch
        return F.ctc_loss(model(inputs).log_softmax(2).transpose(0, 1), targets, long, short)

    loader = DataLoader(rows, batch_size=6, collate_fn=collated)
    model, plain = made(lambda: nn.Linear(5, 4)), made(lambda: nn.Linear(5, 4))
    events = events_of(model, loader, loader, training_step=step)
    optimizer = sgd(plain.parameters())
    for _ in range(EPOCHS):
        for start in range(0, 24, 6):
            optimizer.zero_grad()
            step(plain, collated(rows[start : start + 6])).backward()
            optimizer.step()
    assert equal(model, plain)
    with torch.no_grad():
        valid = sum(step(plain, collated(rows[start : start + 6])) * 6 for start in range(0, 24, 6)) / 24
    assert epochs_of(events)[-1].valid_loss == pytest.approx(valid.item(), rel=1e-6)
    assert events[-1].state == "finished"


def test_contrastive_pairs_and_triplets():
    def pairs(model, batch):
        first, second, same = batch
        distance = (model(first) - model(second)).norm(dim=1)
        return (same * distance**2 + (1 - same) * (1 - distance).clamp_min(0) ** 2).mean()

    def triplets(model, batch):
        return F.triplet_margin_loss(*map(model, batch))

    same = (Y[:45] == Y[45:]).float()
    for step, data in ((pairs, (X[:45], X[45:], same)), (triplets, (X[:30], X[30:60], X[60:]))):
        model, plain = made(lambda: nn.Linear(6, 4)), made(lambda: nn.Linear(6, 4))
        events_of(model, torch.utils.data.TensorDataset(*data), training_step=step)
        by_hand(plain, step, data)
        assert equal(model, plain)


class Detector(nn.Module):
    "Called as torchvision's detectors are: a dict of losses in training, predictions in evaluation"

    def __init__(self):
        super().__init__()
        self.boxes, self.kind = nn.Linear(3, 4), nn.Linear(3, 2)

    def forward(self, images, targets=None):
        found = torch.stack([image.mean((1, 2)) for image in images])
        boxes, kinds = self.boxes(found), self.kind(found)
        if not self.training:
            return [{"boxes": b[None], "labels": k.argmax()[None]} for b, k in zip(boxes, kinds, strict=True)]
        wanted = torch.stack([target["boxes"].mean(0) for target in targets])
        labels = torch.stack([target["labels"][0] for target in targets])
        return {"loss_box": F.l1_loss(boxes, wanted), "loss_classifier": F.cross_entropy(kinds, labels)}


class Right(torchmetrics.Metric):
    "The share of images whose first label was found"

    higher_is_better = True

    def __init__(self):
        super().__init__()
        self.add_state("right", torch.tensor(0.0), "sum")
        self.add_state("count", torch.tensor(0.0), "sum")

    def update(self, found, wanted):
        self.right += sum(float(f["labels"][0] == w["labels"][0]) for f, w in zip(found, wanted, strict=True))
        self.count += len(wanted)

    def compute(self):
        return self.right / self.count


def pictures():
    g = torch.Generator().manual_seed(0)
    sizes = [(6 + i % 3, 7) for i in range(20)]
    each = lambda i: {
        "boxes": torch.rand(1 + i % 2, 4, generator=g),
        "labels": torch.tensor([i % 2] * (1 + i % 2)),
    }
    return [(torch.rand(3, *size, generator=g), each(i)) for i, size in enumerate(sizes)]


def listed(rows):
    return tuple(map(list, zip(*rows, strict=True)))


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_detector_trains_on_its_own_losses_and_predicts_in_validation(wrapped):
    rows = pictures()
    loader = DataLoader(rows, batch_size=8, collate_fn=listed)
    more = (
        {"training_step": lambda model, batch: model(*batch), "eval_step": lambda m, b: (m(b[0]), b[1])}
        if wrapped
        else {}
    )
    model, plain = made(Detector), made(Detector)
    events = events_of(model, loader, loader, metrics=[Right()], restore_best=False, **more)
    optimizer = sgd(plain.parameters())
    for _ in range(EPOCHS):
        for start in range(0, 20, 8):
            optimizer.zero_grad()
            found = plain(*listed(rows[start : start + 8]))
            (found["loss_box"] + found["loss_classifier"]).backward()
            optimizer.step()
    ended = epochs_of(events)
    assert equal(model, plain)
    assert {"right", "train_loss_box", "train_loss_classifier"} == ended[0].metrics.keys()
    assert ended[0].valid_loss is None and [e.samples for e in events if type(e) is Step][:3] == [8, 8, 4]


def test_a_batch_that_is_an_object_stays_one():
    class Graph:
        def __init__(self, x, y):
            self.x, self.y = x, y

    step = lambda model, batch: F.cross_entropy(model(batch.x), batch.y)
    data = [Graph(X[i : i + 30], Y[i : i + 30]) for i in (0, 30, 60)]
    model, plain = made(lambda: nn.Linear(6, 3)), made(lambda: nn.Linear(6, 3))
    events = events_of(model, data, data[:1], training_step=step, restore_best=False)
    optimizer = sgd(plain.parameters())
    for graph in data * EPOCHS:
        optimizer.zero_grad()
        step(plain, graph).backward()
        optimizer.step()
    assert equal(model, plain)
    assert epochs_of(events)[-1].valid_loss == pytest.approx(float(step(plain, data[0])), rel=1e-5)


# --- the trial leaves nothing, and a fault takes nothing along


def test_the_trial_changes_nothing():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.head, self.calls = nn.BatchNorm1d(6), nn.Linear(6, 3), 0

        def forward(self, x):
            self.calls += 1
            return self.head(self.norm(x))

    model, counts = made(Counting), []

    def step(model, batch):
        counts.append(model.calls)
        return ce_step(model, batch)

    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = train(Task(model, (X, Y), (X, Y)), TrainOptions(device="cpu", training_step=step))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.calls == 0 and len(counts) == 0
    generator.close()


def test_a_loss_that_is_not_finite_is_named_by_its_layer():
    def step(model, batch):
        yield "critic", model["critic"](batch[0]).mean()
        yield (
            "generator",
            model["critic"](model["generator"](batch[0][:, :3])).mean() * (0 * batch[1].sum()).log(),
        )

    events = events_of(made(gan), (X, Y), training_step=step)
    assert events[-1].state == "failed" and "The loss became" in events[-1].reason


def test_a_skipped_batch_leaves_its_parts_out():
    bad = X.clone()
    bad[5] = float("nan")

    def step(model, batch):
        out = model(batch[0])
        return {"mse": F.mse_loss(out, batch[1]), "flat": out.square().mean()}

    events = events_of(
        made(lambda: nn.Linear(6, 1)), (bad, Z), training_step=step, on_nonfinite="skip", epochs=1
    )
    assert math.isfinite(epochs_of(events)[0].metrics["train_mse"])


# --- what cannot be is said


def two(model, batch):
    yield "critic", model["critic"](batch[0]).mean()


REFUSED = [
    (dict(training_step=lambda batch: 0), TaskError, "training_step takes (model, batch)"),
    (dict(training_step=lambda model, batch: 0.5), TaskError, "returned a float: leave out .item()"),
    (dict(training_step=lambda model, batch: None), TaskError, "returned nothing: end it with return loss"),
    (dict(training_step=lambda model, batch, batch_idx: 0), TaskError, "this one takes batch_idx"),
    (dict(training_step=lambda model, batch: model["critic"](batch[0])), TaskError, "must give one number"),
    (dict(training_step=lambda model, batch: {"a": model["critic"](batch[0])}), TaskError, "Each part of a loss must be one number"),
    (dict(training_step=lambda model, batch: {"a": torch.ones(())}), TaskError, "no part with a gradient"),
    (dict(training_step=lambda model, batch: model["critic"](batch[0]).mean().detach()), TaskError, "without a gradient"),
    (dict(training_step=lambda model, batch: batch["x"]), TaskError, "training_step fails for a batch of (8, 6) float32"),
    (dict(training_step=lambda model, batch: (yield 3)), TaskError, "must yield (part, loss)"),
    (dict(training_step=lambda model, batch: (yield 3, 4)), TaskError, "yields a int"),
    (dict(training_step=lambda model, batch: (yield "decoder", 4)), TaskError, "the model holds critic, generator"),
    (dict(training_step=lambda model, batch: (yield "generator", model["critic"](batch[0]).mean())), TaskError, "reaches none of its parameters"),
    (dict(training_step=two, accumulate=2), OptionError, "--accumulate has no meaning"),
    (dict(training_step=two, l1=0.1), OptionError, "--l1 adds a penalty"),
    (dict(training_step=two, loss_weights="kl=1"), OptionError, "--loss-weights weighs the parts"),
    (dict(training_step=two, loss_weights="kl"), OptionError, "--loss-weights takes parts"),
    (dict(training_step=two, optimizer={"critic": sgd}), OptionError, "would have no optimizer"),
    (dict(training_step=two, eval_step=lambda model, batch: "fine"), TaskError, "eval_step must return"),
    (dict(training_step=two, eval_step=lambda model, batch: {"rows": batch[1]}), TaskError, "'rows' has shape"),
    (dict(training_step=two, eval_step=lambda model: 1), TaskError, "eval_step takes (model, batch)"),
    (dict(training_step=two, eval_step=lambda model, batch: {"a": 1}, metrics="accuracy"), OptionError, "--metrics needs scores"),
    (dict(training_step=two, eval_step=lambda model, batch: {"a": 1}, monitor="valid_loss"), OptionError, "needs a loss"),
    (dict(training_step=two, eval_step=lambda model, batch: ([{}], [{}]), metrics="accuracy"), OptionError, "takes tensors"),
]  # fmt: skip


@pytest.mark.parametrize("options, kind, words", REFUSED, ids=[words for _, _, words in REFUSED])
def test_what_cannot_be_is_said_in_one_sentence(options, kind, words):
    with pytest.raises(kind) as error:
        events_of(made(gan), (X, Y), (X, Y), **options)
    assert words in sentence(error)


def test_turns_that_share_a_graph_are_explained():
    def step(model, batch):
        out = model["critic"](model["generator"](batch[0][:, :3])).mean()
        yield "critic", out
        yield "generator", -out

    with pytest.raises(TaskError) as error:
        events_of(made(gan), (X, Y), training_step=step)
    assert "compute the loss of a turn after the turn before" in sentence(error)


def test_the_learning_rate_test_wants_one_loss():
    with pytest.raises(TaskError) as error:
        find_lr(Task(made(gan), (X, Y)), TrainOptions(training_step=gan_step, device="cpu"))
    assert "needs one loss" in sentence(error)
    curve = find_lr(
        Task(made(lambda: nn.Linear(6, 3)), (X, Y)), TrainOptions(training_step=ce_step, device="cpu")
    )
    assert curve.suggestion > 0


def test_data_without_batches():
    with pytest.raises(DataError):
        events_of(made(gan), islice([], 0), training_step=gan_step)
