"The doctor: names planted faults in loops written by hand, is silent beside healthy ones, proves its changes, and leaves no trace"

import copy

import plants
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import trainopt_nb
from trainopt_nb.base.errors import TaskError, TrainoptError
from trainopt_nb.insight.detectors import DETECTORS, detector
from trainopt_nb.insight.doctor import doctor
from trainopt_nb.insight.finding import Change, Finding
from trainopt_nb.insight.trial import Trial, prove
from trainopt_nb.insight.watch import watch
from trainopt_nb.task.task import Task
from trainopt_nb.task.train_options import TrainOptions

SHORT = {  # exact ones, and updates after which they must be known
    "softmax before cross-entropy": 2, "sigmoid before logits loss": 2, "raw scores to nll": 2, "broadcast mse": 2,
    "broadcast by hand": 2, "one column": 2, "negated loss": 4, "optimizer of the old model": 2,
    "optimizer of the old head": 2, "layers in a list": 2, "detached body": 4, "body under no_grad": 4,
    "floor in the loss": 4, "no zero_grad": 5, "zero_grad before step": 4, "constant weights": 4,
    "constant inputs": 4, "NaN in the inputs": 2, "relu on scores": 81, "sorted data": 101,
}  # fmt: skip
MODES = {"trains in eval mode": 4, "validates in train mode": 10}
HEALTHY = (
    "mlp, SGD 0.1",
    "norm, Adam 1e-2",
    "dropout, momentum",
    "lstm, Adam 1e-3",
    "residual, AdamW",
)


def program(name, kind="mlp"):
    made = plants.Program(plants.digits(), kind)
    plants.PLANTED[name][1](made)
    return made


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("name", SHORT)
def test_an_exact_fault_is_named_first(name):
    w, _ = program(name).run(SHORT[name])
    assert w.findings and w.findings[0].told, name
    assert w.findings[0].name == plants.PLANTED[name][0]


@pytest.mark.parametrize("name", MODES)
def test_modes_are_told_for_a_model_that_has_them(name):
    w, _ = program(name, "conv").run(MODES[name], epoch=5)
    assert [finding.name for finding in w.findings] == [plants.PLANTED[name][0]]
    w, _ = program(name, "mlp").run(MODES[name], epoch=5)
    assert w.findings == []


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_loop_is_left_alone(name):
    made = dict(plants.healthy(plants.digits()))[name](80)
    w, _ = made.run(80)
    assert w.findings == []


@pytest.mark.parametrize("name", plants.TWISTS)
def test_a_loop_with_a_twist_is_left_alone(name):
    made = dict(plants.healthy(plants.digits()))[name](60)
    w, _ = made.run(60)
    assert w.findings == []


@pytest.mark.parametrize("name", ["lr too high, SGD"])
def test_a_change_is_proven_by_the_metric_on_held_out_data(name):
    made = program(name)
    w, _ = made.run(130)
    assert not any(finding.told for finding in w.findings)
    first = made.prove(w)[0]
    assert first.name in plants.PLANTED[name][0] and first.confidence == "proven" and first.proof.gain > 0.1


def test_a_change_that_gives_nothing_is_withdrawn_and_stays_silent():
    p = plants.Program(plants.digits())
    trial = Trial(p.model, p.optimizer, F.cross_entropy, (p.x, p.y), (p.vx, p.vy))
    before = copy.deepcopy(p.model.state_dict())
    assert prove(Finding("none", "Nothing.", Change("Nothing.", amend=lambda trial: None)), trial, 10) is None
    assert all(torch.equal(before[name], value) for name, value in p.model.state_dict().items())
    w, _ = program("softmax before cross-entropy").run(2)
    w.silence("probabilities_to_cross_entropy")
    w.looked()
    assert w.findings == []


def test_hooks_are_gone_after_an_error_too():
    p = plants.Program(plants.digits())
    with pytest.raises(ZeroDivisionError), watch(p.model, p.optimizer):
        p.update(torch.arange(64), 0)
        p.model(p.x[:2])
        raise ZeroDivisionError
    hooks = [h for m in p.model.modules() for h in (m._forward_hooks, m._forward_pre_hooks)]
    hooks += [p.optimizer._optimizer_step_pre_hooks, p.optimizer._optimizer_step_post_hooks]
    assert not any(hooks) and not torch.overrides._get_current_function_mode_stack()


def test_watching_changes_no_weight():
    with_doctor, without = (plants.Program(plants.digits(), "conv") for _ in range(2))
    torch.manual_seed(0)
    with_doctor.run(25)
    torch.manual_seed(0)
    without.run(25, watched=False)
    pairs = zip(with_doctor.model.parameters(), without.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_two_models_that_train_against_each_other_are_left_alone():
    torch.manual_seed(0)
    makes, judges = (nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, n)) for n in (8, 1))
    first, second = (torch.optim.Adam(m.parameters(), lr=2e-3) for m in (makes, judges))
    loss = F.binary_cross_entropy_with_logits
    with watch(judges, second, show=False) as w:
        for _ in range(70):
            real, made = torch.randn(32, 8) + 1, makes(torch.randn(32, 8))
            second.zero_grad()
            told = judges(real), judges(made.detach())
            (loss(told[0], torch.ones(32, 1)) + loss(told[1], torch.zeros(32, 1))).backward()
            second.step()
            first.zero_grad()
            loss(judges(made), torch.ones(32, 1)).backward()
            first.step()
    assert w.findings == []


def test_the_doctor_leaves_a_task_as_it_was():
    d = plants.digits()
    torch.manual_seed(0)
    model = plants.mlp(d, 10)
    task = Task(model, (d.x, d.y), (d.vx, d.vy))
    weights, drawn = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    found = doctor(task, TrainOptions(optimizer="sgd", lr=1e-6, device="cpu"), steps=121)
    assert [(each.name, each.confidence) for each in found.findings] == [("lr_too_low", "proven")]
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert torch.equal(drawn, torch.get_rng_state())


def test_nan_in_a_task_is_named_where_it_begins():
    d = plants.digits()
    model = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    with torch.no_grad():
        model[0].weight.mul_(1e30)
        model[2].weight.mul_(1e30)
    found = doctor(Task(model, (d.x, d.y), (d.vx, d.vy)), TrainOptions(device="cpu"), steps=5)
    assert found.findings[0].name == "not_finite" and "layer 2" in repr(found)


def test_a_detector_is_added_in_one_line():
    @detector("too_bright")
    def _(seen):
        return Finding("too_bright", "Too bright.", Change("Dim it."), confidence="exact")

    try:
        p = plants.Program(plants.digits())
        assert [each.name for each in p.run(2)[0].findings] == ["too_bright"]
    finally:
        DETECTORS.remove("too_bright")
    assert trainopt_nb.watch is watch and trainopt_nb.doctor is doctor


def test_a_detector_that_fails_does_not_end_a_training():
    @detector("broken")
    def _(seen):
        raise ZeroDivisionError

    try:
        assert program("negated loss").run(4)[0].findings[0].name == "negated_loss"
    finally:
        DETECTORS.remove("broken")
    w, _ = program("NaN in the inputs").run(81)  # so many looks that the rules on learning rates are asked
    assert w.findings[0].name == "not_finite"


class Parts(nn.Module):
    "Runs a part before the model that learns, and uses none of what it gives"

    def __init__(self, part, model, graph=True):
        super().__init__()
        self.part, self.model, self.graph = part, model, graph

    def forward(self, x):
        with torch.set_grad_enabled(self.graph):
            self.part(x)
        return self.model(x)


@pytest.mark.parametrize("name", ["unused branch", "teacher"])
def test_a_part_that_the_loss_does_not_need_is_no_cut(name):
    p = plants.Program(plants.digits())
    unused = Parts(nn.Linear(64, 3), p.model, graph=name == "unused branch")
    p.refit(unused)
    if name == "teacher":  # which the optimizer does not have
        unused.part = plants.mlp(p.data, 3)
    assert p.run(5)[0].findings == []


def test_optimizers_that_take_turns_each_set_their_own_gradients_to_zero():
    makes, judges = nn.Linear(8, 8), nn.Linear(8, 1)
    first, second = (torch.optim.Adam(m.parameters(), lr=2e-3) for m in (makes, judges))
    loss = F.binary_cross_entropy_with_logits
    with watch(nn.Sequential(makes, judges), [second, first], show=False) as w:
        for _ in range(6):
            second.zero_grad()
            noise = torch.randn(32, 8)
            loss(
                judges(torch.cat([noise + 1, makes(noise).detach()])),
                torch.eye(2).repeat_interleave(32, 0)[:, :1],
            ).backward()
            second.step()
            first.zero_grad()
            loss(judges(makes(noise)), torch.ones(32, 1)).backward()
            first.step()
    assert w.findings == []


@pytest.mark.parametrize("each", [False, True])
def test_gradients_of_torch_func_do_not_stop_a_loop(each):
    p = plants.Program(plants.digits())
    x, y = p.x[:8], p.y[:8]

    def loss(weights, x, y):
        return F.cross_entropy(torch.func.functional_call(p.model, weights, (x.view(-1, 64),)), y.view(-1))

    found = torch.func.grad(loss)
    with watch(p.model, p.optimizer, show=False) as w:
        for _ in range(3):
            weights = {name: value.detach() for name, value in p.model.named_parameters()}
            grads = torch.func.vmap(found, (None, 0, 0))(weights, x, y) if each else found(weights, x, y)
            for name, value in p.model.named_parameters():
                value.grad = grads[name].mean(0) if each else grads[name]
            p.optimizer.step()
    assert w.step == 3 and w.findings == []


def test_a_compiled_model_is_told_by_watch_and_seen_by_the_doctor(capsys):
    d = plants.digits()
    model = torch.compile(nn.Sequential(plants.mlp(d, 10), nn.ReLU()), backend="eager")
    model.train()
    model._orig_mod[0].eval()
    with watch(model, torch.optim.SGD(model.parameters(), lr=0.1)):
        pass
    assert (
        capsys.readouterr().out
        == "watch did not look at the compiled model. Watch it without torch.compile.\n"
    )
    found = doctor(Task(model, (d.x, d.y)), TrainOptions(device="cpu"), steps=2)
    assert found.looks == 2 and repr(found).startswith("certain: The model ends with ReLU")
    assert model.training and not model._orig_mod[0].training


class Unreadable(torch.Tensor):
    "A tensor whose norm cannot be taken"

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if "norm" in getattr(function, "__name__", ""):
            raise NotImplementedError("no norm")
        return super().__torch_function__(function, types, args, kwargs or {})


@pytest.mark.parametrize("lazy", [True, False])
def test_what_cannot_be_read_never_ends_a_loop(lazy, capsys):
    if lazy:
        model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 2))
    else:
        model = nn.Linear(4, 2)
        model.weight = nn.Parameter(model.weight.detach().as_subclass(Unreadable))
    optimizer, x, done = torch.optim.SGD(model.parameters(), 0.1), torch.rand(16, 4), 0
    with watch(model, optimizer) as watched:
        for _ in range(30):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), torch.zeros(16, dtype=int)).backward()
            optimizer.step()
            done += 1
    said = capsys.readouterr().out
    assert done == 30 and not model._forward_pre_hooks
    assert watched.error is not None and said.count("cannot read a step") == 1


def test_what_cannot_be_watched_is_told_in_one_sentence():
    d = plants.digits()
    model = plants.mlp(d, 10)
    for broken, says in {
        (
            lambda: doctor(model)
        ): r"The doctor takes a task: pass Task\(model, train_data, valid_data\) \(you passed Seq",
        (lambda: doctor(Task(None, (d.x, d.y)))): "The model must be a torch.nn.Module, and is a NoneType.",
        (lambda: doctor(Task(model, (d.x, d.y)), steps=0)): r"at least 1 update \(you asked for 0\)",
        (lambda: watch(model, [])): r"takes the optimizer of the loop, or a list of them \(you passed list\)",
        (lambda: watch(model, model)): r"\(you passed Sequential\)",
        (lambda: watch("model", [])): "The model must be a torch.nn.Module, and is a str.",
    }.items():
        with pytest.raises(TrainoptError, match=says):
            broken()
    with watch(model, torch.optim.SGD(model.parameters(), lr=0.1)) as w:
        pass
    assert w.prove((d.x, d.y), (d.vx, d.vy)) == []


@pytest.mark.parametrize(
    "loss, why",
    [
        (lambda s, t: F.cross_entropy(s, t), ""),
        (lambda s, t: F.cross_entropy(s, t) + 0.1 * F.mse_loss(s, torch.zeros_like(s)), "several terms"),
        (lambda s, t: F.cross_entropy(2 * s, t), "cross_entropy gets something else than the model returns"),
    ],
)
def test_a_loss_that_a_trial_cannot_repeat_is_told_and_can_be_passed(loss, why):
    made = plants.Program(d := plants.digits())
    made.loss, pairs = loss, ((d.x, d.y), (d.vx, d.vy))
    w, _ = made.run(2)
    if why:
        with pytest.raises(TaskError, match=f"{why}.*Pass the loss to watch, as loss=function"):
            w.trial(*pairs)
        w.loss = loss
    assert w.trial(*pairs).loss in (loss, F.cross_entropy)


def test_the_doctor_takes_the_loss_of_the_task():
    d, own = plants.digits(), lambda s, t: F.cross_entropy(s, t) + 0.1 * F.mse_loss(s, torch.zeros_like(s))
    model = nn.Sequential(nn.Linear(d.width, d.classes), nn.Softmax(1))
    found = doctor(Task(model, (d.x, d.y), (d.vx, d.vy)), TrainOptions(loss=own), steps=4, seconds=1)
    assert found.findings and found.untried == ""
