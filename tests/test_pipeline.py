"A model in stages, one for each device: the same numbers as one process, checkpoints of one, faults that are named"

import os
import signal
import subprocess
import textwrap
import time

import pytest
import torch
from helpers import assert_still, losses, over, quiet, ranks_of, small_table, some_quick, until, weights
from starts import launch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from warm_python import python

from trainopt_nb import OptionError, RunError, Task, TrainOptions, fit, list_runs, resume
from trainopt_nb.events.records import Epoch, Note, Pause, Resume, Save, SetLr, Step, Stop, WorkerLoad
from trainopt_nb.parallel.pipeline import micro_batches, plan_micro_batches
from trainopt_nb.parallel.stages import balanced
from trainopt_nb.store.checkpoint import load_checkpoint
from trainopt_nb.workers.processes import warm

X, Y, TRAIN, VALID = small_table()
G = torch.Generator().manual_seed(1)
QUIET = {"write": quiet}


@pytest.fixture(scope="module", autouse=True)
def workers(warm_process):
    warm()


def net(seed=0, *more):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, 16), nn.Tanh(), nn.Sequential(nn.Linear(16, 16), nn.Tanh()), *more, nn.Linear(16, 3)
    )


class Skipping(nn.Module):
    "A forward by hand: a connection past a layer, a weight of its own that two stages need, a layer that is never used"

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.scale = nn.Parameter(torch.ones(16))
        self.first, self.second, self.third = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.idle = nn.Linear(2, 2)

    def forward(self, x):
        kept = F.dropout(self.first(x), 0.0, self.training).relu() * self.scale
        return self.third(self.second(kept).tanh() + kept * self.scale)


class Words(nn.Module):
    "Several inputs, one of them a mask that all stages need and that has no gradient"

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(50, 16), nn.Linear(16, 3)
        layer = lambda: nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.layers = nn.ModuleList(layer() for _ in range(2))

    def forward(self, words, mask):
        x = self.table(words)
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=mask)
        return self.head(x[:, 0])


class Slow(nn.Module):
    "Takes a while, and may come to grief"

    def __init__(self, fault=None, seconds=0.005):
        super().__init__()
        self.fault, self.seconds, self.calls = fault, seconds, 0

    def forward(self, x):
        time.sleep(self.seconds)
        self.calls += self.training
        return self.fault(x) if self.fault and self.calls > 40 else x


class Noisy(Dataset):
    "Each visit of a sample draws new noise, for the inputs and the label"

    def __len__(self):
        return 96

    def __getitem__(self, place):
        moved = torch.randint(2, ())
        return X[place] + moved * 100 + torch.randn(6), moved


for kind in (Skipping, Words, Slow, Noisy):
    kind.__module__ = "__main__"  # travels by value, like a class of a notebook


def both(tmp_path, make, data=TRAIN, valid=VALID, devices=2, plan="auto", parts="auto", **how):
    "The same run on one device and in stages"
    how = {"epochs": 2, "batch_size": 32, "lr": 0.01} | how
    one, two = make(), make()
    first = fit(one, data, valid, folder=tmp_path / "one", **how, **QUIET)
    in_stages = {"devices": devices, "pipeline_plan": plan, "micro_batches": parts}
    second = fit(two, data, valid, folder=tmp_path / "two", **how, **in_stages, **QUIET)
    assert len(losses(first)) == len(losses(second))
    assert torch.allclose(losses(first), losses(second), rtol=1e-5, atol=1e-7)
    assert torch.allclose(weights(one), weights(two), rtol=1e-4, atol=1e-6)
    samples = [[e.samples for e in run.events() if type(e) is Step] for run in (first, second)]
    assert samples[0] == samples[1] and not two.training
    for a, b in zip(*([e for e in run.events() if type(e) is Epoch] for run in (first, second)), strict=True):
        assert a.metrics.keys() == b.metrics.keys() and a.best == b.best
        assert all(abs(a.metrics[name] - b.metrics[name]) < 1e-5 for name in a.metrics)
        assert abs(a.train_loss - b.train_loss) < 1e-5
        assert valid is None or abs(a.valid_loss - b.valid_loss) < 1e-5
    return first, second


# how a model and a batch are cut


@pytest.mark.parametrize("size", [1, 2, 7, 32, 33, 241])
@pytest.mark.parametrize("parts", [1, 3, 8])
def test_micro_batches_hold_each_sample_once(size, parts):
    batch = torch.arange(size), torch.arange(size)
    cut = [part for piece, count in plan_micro_batches(batch, parts) for part in micro_batches(piece, count)]
    assert torch.cat([part[1] for part in cut]).tolist() == list(range(size))
    sizes = [len(part[0]) for part in cut]
    assert len(cut) == min(size, parts) and max(sizes) - min(sizes) <= 1
    assert all(len(piece[0]) % count == 0 for piece, count in plan_micro_batches(batch, parts))


def test_stages_are_as_equal_as_can_be():
    sizes = [3, 9, 1, 1, 0, 7, 2, 0, 8]
    best = min(max(sum(sizes[:a]), sum(sizes[a:b]), sum(sizes[b:])) for b in range(2, 9) for a in range(1, b))
    a, b = balanced(sizes, 3)
    assert max(sum(sizes[:a]), sum(sizes[a:b]), sum(sizes[b:])) == best


# the same numbers

RECIPES = {
    "accumulated, clipped, averaged": {"accumulate": 2, "clip": 0.05, "ema": 0.8, "schedule": "onecycle"},
    "momentum, weighted classes": {"optimizer": "momentum", "lr": 0.05, "class_weights": "balanced"},
    "penalty, clipped values": {"optimizer": "sgd", "l1": 1e-3, "clip_value": 1e-3, "lr": 1.0},
    "kept by the computer": {"optimizer": "adagrad", "offload": True, "weight_decay": 0.1},
}


@pytest.mark.parametrize(
    "recipe", some_quick(RECIPES, "accumulated, clipped, averaged", "kept by the computer")
)
def test_two_stages_compute_what_one_process_does(recipe, tmp_path):
    both(tmp_path, net, **RECIPES[recipe])


def labels_passed_over():
    labels = TRAIN[1].clone()
    labels[::3] = labels[1:32:2] = -100
    labels[4:9] = -100  # micro-batches without any
    return TRAIN[0], labels


CASES = {
    "three stages, odd batches": {"devices": 3, "batch_size": 37},
    "named in a nested model": {"plan": "2.1"},
    "one micro-batch": {"parts": 1},
    "three of unequal size": {"parts": 3},
    "as many as samples": {"parts": 64, "data": (X[:65], Y[:65])},
    "labels that are passed over": {"data": labels_passed_over(), "shuffle": False},
    "no validation": {"make": lambda: net(0, nn.LayerNorm(16)), "plan": ["3"], "valid": None},
    "a stage without weights": {"make": lambda: nn.Sequential(nn.Flatten(), *net()), "plan": "1"},
}


@pytest.mark.parametrize(
    "case", some_quick(CASES, "three stages, odd batches", "labels that are passed over", "no validation")
)
def test_however_it_is_cut(case, tmp_path):
    both(tmp_path, **{"make": net, "epochs": 1} | CASES[case])


def test_a_forward_by_hand(tmp_path):
    both(tmp_path, Skipping, plan=["second", "third"], devices=3, epochs=1)
    words, mask = torch.randint(1, 50, (331, 9), generator=G), torch.rand(331, 9, generator=G) > 0.7
    mask[:, 0] = False
    data, valid = ((words[:241], mask[:241]), TRAIN[1]), ((words[241:], mask[241:]), VALID[1])
    both(tmp_path, Words, data, valid, plan="layers.1", epochs=1, optimizer="sgd")


def test_images_with_channels_last(tmp_path):
    "What travels, forth and back, lies in memory otherwise than the layers have it"
    make = lambda: (
        torch.manual_seed(0),
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 3)),
    )[1]
    x = torch.randn(331, 3, 8, 8, generator=G)
    both(tmp_path, make, (x[:241], TRAIN[1]), (x[241:], VALID[1]), plan="2", epochs=1, channels_last=True)


def test_numbers_of_16_bits(tmp_path):
    "Stages compute and hand on bf16; sums are in another order, so the numbers are near"
    how = {"epochs": 1, "batch_size": 32, "precision": "bf16", "folder": tmp_path} | QUIET
    one, two = (
        fit(net(), TRAIN, VALID, **how),
        fit(net(), TRAIN, VALID, **how, devices=2, pipeline_plan="auto"),
    )
    assert torch.allclose(losses(one), losses(two), rtol=1e-2)
    assert not torch.equal(losses(one), losses(fit(net(), TRAIN, VALID, **how | {"precision": "fp32"})))


def test_all_stages_see_the_same_samples(tmp_path):
    "Inputs are used by the first stage, labels by the last: drawn apart, they would not belong together"
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2))
    run = fit(model, Noisy(), Noisy(), folder=tmp_path, epochs=8, devices=2, batch_size=16, pipeline_plan="auto", lr=0.01, **QUIET)  # fmt: skip
    assert run.metrics["accuracy"] > 0.95


def test_normalization_over_the_batch_is_said(tmp_path):
    "Each micro-batch by itself; finding out shapes leaves no trace in the running statistics"
    make = lambda: net(0, nn.BatchNorm1d(16))
    how = {"epochs": 1, "batch_size": 32, "folder": tmp_path, "lr": 1e-9} | QUIET
    one, two = make(), make()
    fit(one, TRAIN, VALID, **how)
    run = fit(two, TRAIN, VALID, **how, devices=2, pipeline_plan="auto", micro_batches=1)
    assert torch.allclose(one[3].running_mean, two[3].running_mean, atol=1e-5)
    assert one[3].num_batches_tracked == two[3].num_batches_tracked == 8
    fit(two, TRAIN, VALID, **how, devices=2, pipeline_plan="auto")
    assert two[3].num_batches_tracked == 8 + 7 * 8 + 8  # the last batch of 17 has 8 micro-batches too
    assert any("BatchNorm normalizes each micro-batch" in e.text for e in run.events() if type(e) is Note)


# checkpoints


def _leaves(tree, path=()):
    if isinstance(tree, (dict, list, tuple)):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from _leaves(value, (*path, key))
    else:
        yield path, tree


@pytest.mark.parametrize("optimizer", some_quick(["adamw", "adagrad", "nesterov"], "adamw"))
def test_a_checkpoint_is_that_of_one_process(optimizer, tmp_path):
    "The same names in the same order, of the same shape and type, whoever wrote it"
    make = lambda: net(0, nn.LayerNorm(16))
    first, second = both(tmp_path, make, epochs=1, optimizer=optimizer, ema=0.9, devices=3)
    one, two = (dict(_leaves(load_checkpoint(r.path / "checkpoints", "last")[1:3])) for r in (first, second))
    one, two = ({path: v for path, v in each.items() if "random" not in path} for each in (one, two))
    assert list(one) == list(two)  # of random numbers each rank has its own
    for path, value in one.items():
        assert type(value) is type(two[path]), path
        if isinstance(value, torch.Tensor):
            assert value.shape == two[path].shape and value.dtype == two[path].dtype, path
    model = make()
    second.load(model)
    mine = model.state_dict()
    assert all(torch.allclose(mine[n], v, atol=1e-6) for n, v in load_checkpoint(first.path / "checkpoints", "last")[1].items())  # fmt: skip


def test_a_run_goes_on_with_any_number_of_devices(tmp_path):
    "Two stages begin, one process goes on, two copies, then three stages end: the same as one process all the way"
    how = {"batch_size": 32, "optimizer": "adamw", "ema": 0.9, "folder": tmp_path} | QUIET
    whole = fit(net(), TRAIN, VALID, **how, epochs=4)
    run = fit(net(), TRAIN, VALID, **how, epochs=1, devices=2, pipeline_plan="auto")
    for epochs, devices, plan in ((2, 1, "none"), (3, 2, "none"), (4, 3, "auto")):
        last = net(epochs)
        change = {"epochs": epochs, "devices": devices, "pipeline_plan": plan}
        resume(run, last, TRAIN, VALID, **change, **QUIET)
    told = losses(run)
    assert len(told) == len(losses(whole)) == 32 and torch.allclose(told, losses(whole), rtol=1e-5)
    again = net(9)
    run.load(again)
    assert torch.equal(weights(again), weights(last))


# commands and faults


def begun(tmp_path, model, step=5, **how):
    how = {"devices": 2, "pipeline_plan": "1", "epochs": 1000, "batch_size": 32, "micro_batches": 2} | how
    run = launch(Task(model, TRAIN, VALID), TrainOptions.of(**how), folder=tmp_path)
    until(lambda: run.progress.step >= step, "some steps")
    return run


def test_commands_reach_all_stages(tmp_path):
    run = begun(tmp_path, nn.Sequential(Slow(), *net()))
    run.send(Pause())
    until(lambda: run.state == "paused", "the pause")
    before = run.progress.step
    assert_still(lambda: run.progress.step)
    for command in (SetLr(0.5), Save(), Resume()):
        run.send(command)
    until(lambda: run.progress.step > before + 3 and run.progress.lr == 0.5, "more steps")
    until(lambda: len(run.progress.workers) == 2, "how the ranks fare")
    run.send(Stop())
    assert over(run).state == "stopped" and run.progress.saved
    load = {e.rank: e for e in run.events() if type(e) is WorkerLoad}
    assert all(e.forward > 0 and e.backward > 0 and e.samples > 0 and e.memory > 1e6 for e in load.values())
    assert (
        load[0].forward > load[1].forward and load[1].waiting > load[0].waiting
    )  # the first one sleeps, the second waits


def test_a_killed_stage_is_named(tmp_path, undisturbed):
    run = begun(tmp_path, nn.Sequential(Slow(), *net()))
    pid = ranks_of(run)[1]
    with undisturbed():
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        assert over(run).state == "failed" and time.monotonic() - began < 3
    assert run.progress.reason.startswith(f"Rank 1 (process {pid}) was ended by SIGKILL")


def test_a_killed_stage_is_replaced(tmp_path):
    "In the middle of an epoch, with dropout: as if nothing had happened"
    model = nn.Sequential(Slow(), *net(0, nn.Dropout(0.5)))
    how = {"epochs": 3, "save_steps": 5, "restarts": 1}
    whole = over(begun(tmp_path, model, **how))
    run = begun(tmp_path, model, 12, **how)
    os.kill(ranks_of(run)[0], signal.SIGKILL)
    assert over(run).state == "finished"
    assert torch.allclose(losses(run), losses(whole), rtol=1e-5)
    assert sum(type(e) is Note and e.topic == "restart" for e in run.events()) == 1


def poison(x):
    return x * float("nan")


def explode(x):
    raise ValueError("no good")


for fault in (poison, explode):
    fault.__module__ = "__main__"


def test_a_loss_that_is_not_finite(tmp_path):
    "Whoever has the layer that began it says so, and no stage has changed its weights"
    model = nn.Sequential(*net(), nn.Identity())
    model[2].append(Slow(poison, 0))
    model[4] = nn.Linear(3, 3)
    with pytest.raises(
        RunError, match=r"The loss became nan at step \d+ .*first in the output of layer 2\.2 \(Slow\)"
    ):
        fit(model, TRAIN, folder=tmp_path, devices=3, pipeline_plan="2,4", batch_size=32, epochs=9, **QUIET)
    assert torch.isfinite(weights(model)).all()
    bad = TRAIN[0].clone()
    bad[40] = float("nan")
    how = {"devices": 2, "pipeline_plan": "auto", "on_nonfinite": "skip", "shuffle": False, "batch_size": 32}
    run = fit(net(), (bad, TRAIN[1]), folder=tmp_path, epochs=1, **how, **QUIET)
    assert [e.samples for e in run.events() if type(e) is Step] == [32] * 6 + [17]
    assert any("in the inputs of the batch" in e.text for e in run.events() if type(e) is Note)


def test_an_error_in_a_layer_is_told_as_it_is(tmp_path):
    model = nn.Sequential(*net(), Slow(explode, 0))
    with pytest.raises(RunError, match=r"^rank 1: ValueError: no good$"):
        fit(model, TRAIN, folder=tmp_path, devices=2, pipeline_plan="3", epochs=9, **QUIET)


# what cannot be


def tied():
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
    model[2].weight = model[0].weight
    return model


class Deciding(Skipping):
    def forward(self, x):
        return self.third(self.second(self.first(x))) if x.sum() > 0 else self.third(self.first(x))


REFUSED = {
    "--devices 2 or more": (net, {"pipeline_plan": "auto", "devices": 1}),
    "--shard and --pipeline-plan both say": (net, {"pipeline_plan": "auto", "shard": True}),
    "--tensor-plan and --pipeline-plan both": (net, {"pipeline_plan": "2", "tensor_plan": "auto"}),
    "leave one of them out": (net, {"pipeline_plan": "auto", "compile": True}),
    "use bf16 or fp32": (net, {"pipeline_plan": "auto", "precision": "fp16"}),
    "names of layers, such as": (net, {"pipeline_plan": {"2": 1}}),
    "the model is a Skipping": (Skipping, {"pipeline_plan": "auto"}),
    "the model has 5: use --devices 5": (net, {"pipeline_plan": "auto", "devices": 6}),
    "for 3 devices that is 2, and 1 is given": (net, {"pipeline_plan": "2", "devices": 3}),
    "no layer '2.7'. Did you mean '2": (net, {"pipeline_plan": "2.7"}),
    "leaves a stage without a layer": (net, {"pipeline_plan": ["0"]}),
    "never calls 'idle': name a layer that it calls, such as third": (Skipping, {"pipeline_plan": "idle"}),
    "share the weight 0.weight": (tied, {"pipeline_plan": "2"}),
    "cannot follow the model's forward": (Deciding, {"pipeline_plan": "second"}),
    "takes 1 to 100000, or auto": (net, {"micro_batches": "many"}),
}


@pytest.mark.parametrize("words", REFUSED)
def test_refused_before_anything_begins(words, tmp_path):
    make, how = REFUSED[words]
    with pytest.raises(OptionError) as told:
        fit(make(), TRAIN, folder=tmp_path, **{"devices": 2} | how)
    assert words in str(told.value) and not list(tmp_path.iterdir())


def test_micro_batches_without_stages_are_said_to_be_idle(tmp_path):
    run = fit(net(), TRAIN, folder=tmp_path, epochs=1, micro_batches=4, **QUIET)
    assert any(
        "--micro-batches 4 (because there is no --pipeline-plan)" in e.text
        for e in run.events()
        if type(e) is Note
    )


class OwnLoss(nn.Module):
    def __init__(self, gives):
        super().__init__()
        self.first, self.second, self.gives = nn.Linear(6, 6), nn.Linear(6, 3), gives

    def forward(self, x, labels=None):
        scores = self.second(self.first(x))
        loss = None if labels is None else F.cross_entropy(scores, labels)
        return {"loss": loss, "logits": scores} if self.gives == "loss" else (scores, scores)


OwnLoss.__module__ = "__main__"


@pytest.mark.parametrize(
    "gives, data, words",
    [
        ("loss", {"x": TRAIN[0], "labels": TRAIN[1]}, "the model computes its own"),
        ("scores", {"x": TRAIN[0], "labels": TRAIN[1]}, "inputs are a tensor or a tuple of tensors"),
        ("scores", TRAIN, "gives a tuple: let it return its scores"),
    ],
)
def test_refused_when_the_task_is_seen(gives, data, words, tmp_path):
    with pytest.raises(RunError, match=words):
        fit(OwnLoss(gives), data, folder=tmp_path, devices=2, pipeline_plan="second", **QUIET)
    (run,) = list_runs(tmp_path)
    assert not run.progress.step and "Traceback" in (run.path / "log.txt").read_text()


TORCHRUN = """
import os
import torch
from torch import nn
from trainopt_nb import fit
torch.manual_seed(0)
x, y = torch.randn(200, 6), torch.randint(3, (200,))
model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
run = fit(model, (x, y), (x, y), folder="FOLDER", epochs=2, batch_size=32, pipeline_plan="auto")
with open(f"FOLDER-{os.environ['RANK']}", "w") as file:
    print(run.name, *(p.sum().item() for p in model.parameters()), file=file)
"""


def test_a_script_under_torchrun(tmp_path):
    "At the end each process has the whole model"
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(TORCHRUN).replace("FOLDER", str(tmp_path / "runs")))
    launcher = python("-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "--no-python")
    command = [*launcher, *python(script)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = ((tmp_path / f"runs-{rank}").read_text().split() for rank in range(2))
    assert first == second and len(first) == 5
    (run,) = list_runs(tmp_path / "runs")
    assert run.state == "finished" and run.progress.epoch == 2
