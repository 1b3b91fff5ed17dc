"A training on a GPU: against a loop written by hand there, resumed exactly, and what is wrong is said before it reaches the GPU"

import subprocess
import sys

import pytest
import torch
from helpers import made, quiet, sgd, three_classes
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from trainopt_nb import Task, TrainOptions, fit, resume
from trainopt_nb.base.errors import DataError, TaskError
from trainopt_nb.data.batches import order
from trainopt_nb.data.generators import seed_everything
from trainopt_nb.events.records import Ended, Epoch, Stop
from trainopt_nb.store.checkpoint import load_checkpoint
from trainopt_nb.train.loop import train
from trainopt_nb.train.prepare import prepare

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
X, Y, Z = three_classes()
EPOCHS, SIZE = 3, 32


def net(outputs=3):
    return nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, outputs)
    )


def batches(*data, size=SIZE):
    "The batches of a run on arrays, with the random numbers of a run"
    seed_everything(0)
    for epoch in range(EPOCHS):
        for rows in order(len(data[0]), 0, epoch).split(size):
            yield tuple(each[rows].cuda() for each in data)


def by_hand(model, loss_of, *data, context=torch.no_grad, scale=False, clip=None, own=()):
    "The plain loop on the GPU"
    model.cuda().train()
    optimizer = sgd([*model.parameters(), *own])
    scaler = torch.amp.GradScaler("cuda", enabled=scale)
    for batch in batches(*data):
        optimizer.zero_grad()
        with context():
            loss = loss_of(model, *batch)
        scaler.scale(loss).backward()
        if clip:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_([*model.parameters(), *own], clip)
        scaler.step(optimizer)
        scaler.update()
    return model


def trained(model, *data, **options):
    options = {
        "epochs": EPOCHS,
        "batch_size": SIZE,
        "device": "cuda",
        "optimizer": sgd,
        "restore_best": False,
        **options,
    }
    return list(train(Task(model, data), TrainOptions.of(**options)))


def same(first, second, **close):
    pairs = list(zip(first.state_dict().values(), second.state_dict().values(), strict=True))
    test = (lambda a, b: torch.allclose(a.float(), b.float(), **close)) if close else torch.equal
    return len(pairs) > 0 and all(test(a, b.to(a.device)) for a, b in pairs)


class Temperature(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, scores, targets):
        return F.cross_entropy(scores * self.scale, targets)


BF16 = lambda: torch.autocast("cuda", torch.bfloat16)
FP16 = lambda: torch.autocast("cuda", torch.float16)
WEIGHT = torch.tensor([1.0, 2.0, 3.0])
ce = lambda m, x, y: F.cross_entropy(m(x), y)
CASES = {  # name -> (outputs, targets, loss by hand, how by hand, options)
    "classes": (3, Y, ce, {}, {}),
    "numbers": (1, Z, lambda m, x, z: F.mse_loss(m(x), z), {}, {}),
    "bf16": (3, Y, ce, {"context": BF16}, {"precision": "bf16"}),
    "fp16, clipped": (3, Y, ce, {"context": FP16, "scale": True, "clip": 0.5}, {"precision": "fp16", "clip": 0.5}),
    "a loss with weights made on the CPU": (
        3, Y, lambda m, x, y: F.cross_entropy(m(x), y, WEIGHT.to(x.device)), {}, {"loss": lambda: nn.CrossEntropyLoss(WEIGHT.clone())}
    ),
    "a step": (3, Y, ce, {}, {"training_step": lambda: lambda m, batch: {"ce": F.cross_entropy(m(batch[0]), batch[1])}}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_training_is_that_of_a_loop_by_hand(name):
    outputs, targets, loss_of, how, options = CASES[name]
    options = {key: value() if callable(value) else value for key, value in options.items()}
    context = how.pop("context", torch.enable_grad) if isinstance(how, dict) else None
    model, plain = made(lambda: net(outputs)), made(lambda: net(outputs))
    trained(model, X, targets, **options)
    by_hand(plain, loss_of, X, targets, context=context, **how)
    assert same(model, plain, atol=1e-6, rtol=1e-5), name


def test_a_loss_with_a_parameter_is_trained_there():
    model, plain, loss, own = made(net), made(net), Temperature(), Temperature().cuda()
    trained(model, X, Y, loss=loss)
    by_hand(plain, lambda m, x, y: own(m(x), y), X, Y, context=torch.enable_grad, own=list(own.parameters()))
    assert same(model, plain, atol=1e-6, rtol=1e-5) and same(loss, own, atol=1e-6, rtol=1e-5)
    assert loss.scale.item() != 1.0


def gan():
    return nn.ModuleDict({"critic": nn.Linear(6, 1), "generator": nn.Linear(4, 6)})


def gan_step(model, batch):
    x, _ = batch
    critic, generator = model["critic"], model["generator"]
    z = torch.randn(len(x), 4, device=x.device)
    yield "critic", F.softplus(-critic(x)).mean() + F.softplus(critic(generator(z).detach())).mean()
    yield "generator", F.softplus(-critic(generator(torch.randn(len(x), 4, device=x.device)))).mean()


def test_parts_are_trained_in_turn_there():
    model, plain = made(gan), made(gan).cuda()
    trained(model, X, Y, training_step=gan_step)
    optimizer = sgd(plain.parameters())
    for batch in batches(X, Y):
        for name, loss in gan_step(plain, batch):
            optimizer.zero_grad()
            gradients = torch.autograd.grad(loss, list(plain[name].parameters()))
            for parameter, gradient in zip(plain[name].parameters(), gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
    assert same(model, plain, atol=1e-6, rtol=1e-5)


RESUMED = {
    "plain": (net, {}),
    "average, bf16, groups": (
        net,
        {"ema": 0.9, "precision": "bf16", "optimizer": "adamw", "lr_for": ("0=0.1x",)},
    ),
    "scaler": (net, {"precision": "fp16", "optimizer": "adamw", "accumulate": 2}),
    "unfrozen later": (net, {"optimizer": "adamw", "freeze": ("0",), "unfreeze": 1}),
    "turns": (gan, {"training_step": gan_step, "optimizer": "adamw"}),
    "own generator": (lambda: nn.Sequential(Noise(), net()), {"optimizer": "adamw"}),
}


class Noise(nn.Module):
    "Noise from a generator of its own on the GPU"

    def forward(self, x):
        if not hasattr(self, "generator"):
            self.generator = torch.Generator(x.device).manual_seed(3)
        return x + torch.randn(x.shape, device=x.device, generator=self.generator)


@pytest.mark.parametrize("stop", [1, 4, 8])
@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_run_is_the_uninterrupted_one(name, stop, tmp_path):
    build, more = RESUMED[name]
    o = TrainOptions.of(
        epochs=EPOCHS, batch_size=SIZE // 2, device="cuda", save_seconds=0, restore_best=False, **more
    )

    def run_to(folder, model, stop=None, checkpoint=None):
        events, command = [], None
        generator = train(Task(model, (X, Y), (X[:30], Y[:30])), o, folder, checkpoint=checkpoint)
        while True:
            try:
                event = generator.send(command)
            except StopIteration:
                return events
            events.append(event)
            command = Stop() if type(event).__name__ == "Step" and event.step == stop else None

    whole, again = made(build), made(build)
    straight = run_to(tmp_path / "whole", whole)
    first = run_to(tmp_path / "parted", made(build), stop)
    _, model_state, training, _ = load_checkpoint(tmp_path / "parted/checkpoints", "last")
    second = run_to(tmp_path / "parted", again, checkpoint=(model_state, training))
    rows = lambda events: {
        e.epoch: (e.train_loss, e.valid_loss, e.metrics) for e in events if type(e) is Epoch
    }
    assert type(straight[-1]) is Ended and rows(first) | rows(second) == rows(straight)
    assert same(again, whole)


def test_the_check_before_the_first_step_leaves_nothing_there():
    model, loss = made(net).cuda(), nn.CrossEntropyLoss(WEIGHT.clone()).cuda()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    memory, state = torch.cuda.memory_allocated(), torch.cuda.get_rng_state()
    prepare(Task(model, (X, Y), (X, Y)), TrainOptions.of(device="cuda", batch_size=SIZE, loss=loss))
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.cuda.memory_allocated() - memory < 2**20


@pytest.mark.parametrize("bad", [0, 50])
def test_a_label_without_a_score_is_said_and_the_gpu_goes_on(bad, tmp_path):
    labels = Y.clone()
    labels[bad] = 7
    rows = list(zip(X, labels, strict=True))
    with pytest.raises((DataError, Exception), match="holds 7") as error:
        fit(net(), DataLoader(rows, 16), epochs=1, device="cuda", folder=tmp_path, write=quiet)
    assert "device-side" not in str(error.value)
    assert (
        torch.ones(3, device="cuda").sum().item() == 3
    )  # an assertion on the GPU would end every later call


def test_a_tensor_of_a_loss_on_the_cpu_is_named(tmp_path):
    weight = torch.ones(3)
    with pytest.raises(TaskError, match="holds weight on cpu, and the model trains on cuda"):
        fit(
            net(),
            (X, Y),
            loss=lambda s, y: F.cross_entropy(s, y, weight),
            device="cuda",
            folder=tmp_path,
            write=quiet,
        )


def test_a_loss_that_is_not_finite_names_the_layer(tmp_path):
    x = X.clone()
    x[70] = float("inf")
    with pytest.raises(Exception, match="The loss became"):
        fit(
            net(),
            list(zip(x.split(30), Y.split(30), strict=True)),
            epochs=1,
            device="cuda",
            folder=tmp_path,
            write=quiet,
        )


def test_a_run_begun_on_the_gpu_goes_on_on_the_cpu(tmp_path):
    model = made(net)
    run = fit(model, (X, Y), (X, Y), epochs=1, device="cuda", folder=tmp_path, write=quiet)
    back = resume(run.name, made(net), (X, Y), (X, Y), folder=tmp_path, epochs=2, device="cpu", write=quiet)
    assert back.state == "finished" and back.progress.epoch == 2


def test_a_loss_that_no_label_fits_is_recognized_without_a_fault_of_the_gpu(tmp_path):
    "Three grades in two columns: as classes they would be out of range"
    above = lambda labels: (labels[:, None] > torch.arange(2, device=labels.device)).float()
    ordered = lambda scores, labels: F.binary_cross_entropy_with_logits(scores, above(labels))
    how = {"loss": ordered, "metrics": "none", "epochs": 1, "device": "cuda"}
    assert fit(net(2), (X, Y), folder=tmp_path, write=quiet, **how).state == "finished"
    assert torch.ones(3, device="cuda").sum().item() == 3


def test_a_training_on_the_cpu_leaves_the_gpu_alone(tmp_path):
    code = (
        "import sys, torch; from torch import nn; from torch.utils.data import TensorDataset, Subset; from trainopt_nb import fit\n"
        "rows = Subset(TensorDataset(torch.randn(64, 4), torch.randint(0, 2, (64,))), range(64))\n"
        "run = fit(nn.Linear(4, 2), rows, epochs=1, device='cpu', folder=sys.argv[1], write=lambda line: None)\n"
        "assert run.state == 'finished' and not torch.cuda.is_initialized()"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
