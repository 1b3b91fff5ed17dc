"Checkpoints survive kills, full disks and flipped bytes, and no file that is read can run code (FAULTS 1 to 9)"

import json
import math
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter, OrderedDict, defaultdict, deque
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers import alive, until
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from properties import examples
from warm_python import python

from trainopt_nb.base.errors import CheckpointError, DiskFullError, WeightsError
from trainopt_nb.store.checkpoint import checkpoints, keep_checkpoints, load_checkpoint, save_checkpoint
from trainopt_nb.store.folders import probe_folder, remove_orphans
from trainopt_nb.store.plain import pack, random_state, set_random_state, unpack
from trainopt_nb.store.tensors import damage, read_safetensors, write_safetensors
from trainopt_nb.store.weights import read_weights
from trainopt_nb.store.wrapped_models import plain_state

ROOT = Path(__file__).parents[1]
FILES = {"model.safetensors", "training.safetensors", "state.json", "manifest.json"}


def there_and_back(tree):
    plain, tensors = pack(tree)
    return unpack(json.loads(json.dumps(plain, allow_nan=False)), tensors)


def same(a, b):
    "Equal in value and in type, all the way down; NaN equals NaN and -0.0 differs from 0.0"
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and raw(a) == raw(b)
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and np.shape(a) == np.shape(b) and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        factory = getattr(a, "default_factory", None) is getattr(b, "default_factory", None)
        return factory and same(list(a), list(b)) and same(list(a.values()), list(b.values()))
    if isinstance(a, list | tuple | deque):
        return len(a) == len(b) and all(map(same, a, b))
    return repr(a) == repr(b) if isinstance(a, float | complex) else a == b


def raw(tensor):
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    return plain.as_strided((plain.numel(),), (1,)).view(torch.uint8).numpy().tobytes()


def flip(path, where=-1):
    data = bytearray(path.read_bytes())
    data[where] ^= 1
    path.write_bytes(data)


def sentence(text):
    assert "\n" not in text and text.endswith((".", "?")) and "Traceback" not in text, text
    return text


# --- what a checkpoint may hold (9) ---

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**52, 2**200)
    | st.floats()
    | st.text()
    | st.binary()
    | st.complex_numbers()
    | st.sampled_from(
        [torch.float32, torch.bfloat16, torch.Size([2, 3]), torch.device("cuda:1"), Path("a/b")]
    )
)
dtypes = hnp.scalar_dtypes() | hnp.unicode_string_dtypes() | hnp.byte_string_dtypes()
arrays = hnp.arrays(dtypes, hnp.array_shapes(min_dims=0, max_side=3, min_side=0))
tensors_ = hnp.arrays(st.sampled_from("f4 f8 i8 u1 ?".split()), hnp.array_shapes(min_dims=0, min_side=0)).map(
    lambda array: torch.from_numpy(array.copy())
)
keys = (
    st.text()
    | st.integers()
    | st.booleans()
    | st.tuples(st.integers(), st.text())
    | st.sampled_from(["#tensor", "#", ""])
)
trees = st.recursive(
    scalars | arrays | tensors_ | arrays.filter(lambda a: a.size).map(lambda a: a.reshape(-1)[0]),
    lambda t: (
        st.lists(t, max_size=4)
        | st.tuples(t, t)
        | st.dictionaries(keys, t, max_size=4)
        | st.dictionaries(keys, t, max_size=3).map(OrderedDict)
        | st.dictionaries(keys, t, max_size=3).map(lambda d: defaultdict(list, d))
    ),
    max_leaves=12,
)


@given(trees)
@examples(150)
def test_any_tree_comes_back(tree):
    assert same(there_and_back(tree), tree)


@given(st.dictionaries(st.text(), tensors_, max_size=5))
@examples(40)
def test_any_tensors_come_back_and_anybody_reads_them(tmp_path_factory, tensors):
    tensors.pop("__metadata__", None)
    path = tmp_path_factory.mktemp("any") / "any.safetensors"
    told = write_safetensors(path, tensors)
    assert told["bytes"] == path.stat().st_size
    assert read_safetensors(path).keys() == tensors.keys()
    for back in (read_safetensors(path), safetensors.torch.load_file(path)):
        assert all(same(tensor, tensors[name]) for name, tensor in back.items())


@pytest.mark.parametrize(
    "value",
    [
        Counter([30, 30, 60]),
        OrderedDict(b=1, a=2),
        defaultdict(dict, {1: {"x": 2}}),
        defaultdict(None, {1: 2}),
        {1, 2, (3, "x")},
        frozenset({"a"}),
        deque([1, 2], maxlen=5),
        (),
        torch.Size([]),
        np.float64(0.1),
        np.float32("nan"),
        np.bool_(True),
        np.str_(""),
        np.datetime64("2026-11-21"),
        np.array(3),
        np.arange(6).reshape(2, 3).T,
        np.array([1, 2], dtype=">f4"),
        {True: 1, "True": 2},
        {0: "a", "0": "b"},
        {"a.b": torch.ones(1), "a": {"b": torch.zeros(1)}},
        {"__metadata__": torch.ones(1), "\ud800": torch.zeros(2)},
        -0.0,
        math.nan,
        10**5000,
        "a\0b\u2028\ud800",
    ],
    ids=lambda value: type(value).__name__,
)
def test_kinds_of_values(value):
    assert same(there_and_back({"value": value})["value"], value)


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch about half complex and quantized ones
@pytest.mark.parametrize(
    "kind", sorted({d for d in vars(torch).values() if isinstance(d, torch.dtype)}, key=str), ids=str
)
def test_every_type_of_tensor(tmp_path, kind):
    if kind in (torch.qint8, torch.qint32, torch.quint8, torch.quint4x2, torch.quint2x4):
        with pytest.raises(TypeError, match="a quantized or nested tensor"):
            pack(torch.quantize_per_tensor(torch.ones(2), 1, 0, torch.qint8))
        return
    size = torch.empty(0, dtype=kind).element_size()
    tensor = torch.arange(4 * size, dtype=torch.uint8).view(kind).reshape(2, 2)
    if kind is torch.bool:
        tensor = torch.tensor([[True, False], [False, True]])
    state = {"tensor": tensor, "scalar": tensor[0, 0], "empty": torch.empty(0, 3, dtype=kind)}
    save_checkpoint(tmp_path, 1, state, {"same": tensor})
    _, model_state, training, _ = load_checkpoint(tmp_path)
    assert same(dict(model_state), state) and same(training["same"], tensor)


def test_tensors_that_are_views(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    state = {
        "turned": base.T,
        "slice": base[1:3, ::2],
        "expanded": torch.ones(1).expand(5),
        "conjugate": torch.tensor([1 + 2j]).conj(),
        "trained": base.clone().requires_grad_() * 2,
    }
    save_checkpoint(tmp_path, 1, state, {"front": base[:2], "overlap": base[1:3]})
    _, model_state, training, _ = load_checkpoint(tmp_path)
    assert same(
        list(model_state.values()), [tensor.detach().resolve_conj().contiguous() for tensor in state.values()]
    )
    assert training["front"].equal(base[:2]) and training["overlap"].equal(base[1:3])
    training["front"].zero_()
    assert training["overlap"].equal(base[1:3])


def test_the_order_in_memory_comes_back(tmp_path):
    image = torch.randn(2, 3, 4, 5)
    state = {
        "last": image.to(memory_format=torch.channels_last),
        "one by one": torch.randn(4, 3, 1, 1).to(memory_format=torch.channels_last),
        "turned": torch.randn(3, 4).T,
        "odd": torch.randn(6).as_strided((1, 6), (1, 1)),
        "nothing": torch.empty(0, 3).T,
        "double": torch.randn(3, 4, dtype=torch.complex128).T,
    }
    save_checkpoint(tmp_path, 1, state, {"same": state["last"]})
    _, model_state, training, _ = load_checkpoint(tmp_path)
    assert same(dict(model_state), state) and same(training["same"], state["last"])
    for name in state.keys() - {"nothing"}:
        assert model_state[name].stride() == state[name].stride(), name
    plain = safetensors.torch.load_file(tmp_path / "step-00000001" / "model.safetensors")
    assert plain["last"].equal(image) and plain["turned"].equal(state["turned"])
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(4, 4, 3)).to(
        memory_format=torch.channels_last
    )
    save_checkpoint(tmp_path, 2, model.state_dict(), {})
    assert load_checkpoint(tmp_path)[1]["1.weight"].is_contiguous(memory_format=torch.channels_last)


def test_tied_weights_are_stored_once(tmp_path):
    class Language(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = torch.nn.Embedding(50, 8), torch.nn.Linear(8, 50, bias=False)
            self.head.weight = self.embed.weight

    model = Language()
    saved = save_checkpoint(tmp_path, 1, model.state_dict(), {})
    assert list(safetensors.torch.load_file(saved.folder / "model.safetensors")) == ["embed.weight"]
    for back in (load_checkpoint(tmp_path)[1], read_weights(saved.folder)):
        assert back["head.weight"] is back["embed.weight"]
        Language().load_state_dict(back)
    safetensors.torch.load_model(Language(), saved.folder / "model.safetensors")
    safetensors.torch.save_model(model, tmp_path / "theirs.safetensors")
    Language().load_state_dict(read_weights(tmp_path / "theirs.safetensors"))


def test_state_that_is_no_tensor(tmp_path):
    class Counting(torch.nn.Linear):
        seen = None

        def get_extra_state(self):
            return {"seen": self.seen, "mean": torch.tensor([0.5])}

        def set_extra_state(self, state):
            self.seen = state["seen"]

    model = torch.nn.Sequential(Counting(2, 2), torch.nn.BatchNorm1d(2))
    model[0].seen = {3: "three"}
    save_checkpoint(tmp_path, 1, model.state_dict(), {})
    _, model_state, _, _ = load_checkpoint(tmp_path)
    assert model_state._metadata == model.state_dict()._metadata
    other = torch.nn.Sequential(Counting(2, 2), torch.nn.BatchNorm1d(2))
    other.load_state_dict(model_state)
    assert other[0].seen == {3: "three"}
    assert "0._extra_state" not in safetensors.torch.load_file(
        tmp_path / "step-00000001" / "model.safetensors"
    )


class Stateful:
    pass


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"scheduler": {"fn": lambda epoch: 1}}, "training['scheduler']['fn']: a function"),
        ({"a": [1, Stateful()]}, "training['a'][1]: a Stateful"),
        ({3: {"b": np.array([object()])}}, "training[3]['b']: a NumPy value of type object"),
        ({"s": torch.ones(2).to_sparse()}, "training['s']: a tensor of layout torch.sparse_coo"),
        ({"m": torch.ones(2, device="meta")}, "training['m']: a tensor on the meta device"),
        ({"d": defaultdict(lambda: 1)}, "training['d']: a defaultdict whose factory is <lambda>"),
        ({"t": {torch.ones(1): 1}}, "training['t']: a tensor as a key"),
        ({"c": Stateful}, "training['c']: a function or class (Stateful)"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_cannot_be_stored_is_named(tmp_path, tree, words):
    save_checkpoint(tmp_path, 1, {}, {})
    with pytest.raises(CheckpointError) as caught:
        save_checkpoint(tmp_path, 2, {}, tree)
    assert sentence(str(caught.value)).startswith(words)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def test_a_tree_that_contains_itself():
    tree = {}
    tree["again"] = tree
    with pytest.raises(TypeError, match="contains itself"):
        pack(tree)


def test_every_optimizer_goes_on(tmp_path):
    kinds = [
        kind
        for kind in vars(torch.optim).values()
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
    ]
    kinds = [kind for kind in kinds if kind not in (torch.optim.Optimizer, torch.optim.SparseAdam)]
    assert len(kinds) >= 12
    for number, kind in enumerate(kinds):
        model = torch.nn.Linear(3, 2)
        weights = [model.weight] if kind.__name__ == "Muon" else list(model.parameters())
        optimizer = kind(weights, lr=0.01)
        step_all(optimizer, weights, 3)
        save_checkpoint(
            tmp_path, number, dict(enumerate_names(weights)), {"optimizer": optimizer.state_dict()}
        )
        step_all(optimizer, weights, 2)

        _, model_state, training, _ = load_checkpoint(tmp_path)
        twin = [torch.nn.Parameter(tensor) for tensor in model_state.values()]
        other = kind(twin, lr=0.5)
        other.load_state_dict(training["optimizer"])
        step_all(other, twin, 2)
        assert all(a.equal(b) for a, b in zip(weights, twin, strict=True)), kind


def enumerate_names(weights):
    return ((f"weight{i}", weight.detach()) for i, weight in enumerate(weights))


def step_all(optimizer, weights, count):
    for i in range(count):
        for weight in weights:
            weight.grad = torch.sin(weight.detach() + i)
        optimizer.step(lambda: torch.tensor(1.0))


def test_schedules_go_on(tmp_path):
    s = torch.optim.lr_scheduler
    makers = [
        lambda o: s.StepLR(o, 2),
        lambda o: s.MultiStepLR(o, [2, 4]),
        lambda o: s.ExponentialLR(o, 0.9),
        lambda o: s.CosineAnnealingLR(o, 9),
        lambda o: s.OneCycleLR(o, 0.1, 20),
        lambda o: s.CyclicLR(o, 0.01, 0.1),
        lambda o: s.CosineAnnealingWarmRestarts(o, 3),
        lambda o: s.PolynomialLR(o, 9),
        lambda o: s.ReduceLROnPlateau(o, patience=1),
        lambda o: s.LambdaLR(o, lambda epoch: 0.9**epoch),
        lambda o: s.SequentialLR(o, [s.LinearLR(o), s.CosineAnnealingLR(o, 5)], [3]),
        lambda o: s.ChainedScheduler([s.LinearLR(o), s.ExponentialLR(o, 0.9)]),
    ]

    def go(optimizer, schedule, count):
        rates = []
        for i in range(count):
            optimizer.step()
            schedule.step(*([1.0 + i] if isinstance(schedule, s.ReduceLROnPlateau) else []))
            rates.append(float(optimizer.param_groups[0]["lr"]))
        return rates

    for make in makers:
        optimizer, other = (
            torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1, momentum=0.9) for _ in range(2)
        )
        schedule, twin = make(optimizer), make(other)
        go(optimizer, schedule, 4)
        copy = there_and_back({"o": optimizer.state_dict(), "s": schedule.state_dict()})
        other.load_state_dict(copy["o"])
        twin.load_state_dict(copy["s"])
        assert go(optimizer, schedule, 5) == go(other, twin, 5), type(schedule)


def test_random_states_go_on():
    def draw():
        return (
            torch.rand(3).tolist(),
            torch.randn(1).item(),
            random.random(),
            random.gauss(0, 1),
            np.random.randn(3).tolist(),
        )

    for skip in range(3):  # after an odd number of normal draws the generators hold a half-used pair
        for _ in range(skip):
            draw(), random.gauss(0, 1), np.random.randn()
        state = there_and_back(random_state())
        expected = draw()
        assert draw() != expected
        set_random_state(state)
        assert draw() == expected


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_states_and_tensors(tmp_path):
    tensor = torch.randn(3, 4, device="cuda", dtype=torch.bfloat16)
    state = random_state()
    save_checkpoint(tmp_path, 1, {"w": tensor, "tied": tensor, "turned": tensor.T}, {"random": state})
    expected = torch.rand(3, device="cuda")
    _, model_state, training, _ = load_checkpoint(tmp_path)
    set_random_state(training["random"])
    assert torch.rand(3, device="cuda").equal(expected)
    assert model_state["w"].equal(tensor.cpu()) and model_state["turned"].equal(tensor.T.cpu())


def test_every_file_is_plain(tmp_path):
    "Nothing of ours is needed to read a checkpoint, and nothing in it can run (9)"
    training = {
        "path": Path("x"),
        "counts": defaultdict(int, a=1),
        "best": np.float64(0.5),
        "random": random_state(),
    }
    saved = save_checkpoint(tmp_path, 7, torch.nn.Linear(2, 1).state_dict(), training, best=True)
    assert {p.name for p in saved.folder.iterdir()} == FILES
    assert safetensors.torch.load_file(saved.folder / "model.safetensors").keys() == {"weight", "bias"}
    assert "random.torch" in safetensors.torch.load_file(saved.folder / "training.safetensors")
    strict = {"parse_constant": lambda name: pytest.fail(f"{name} is no JSON")}
    state = json.loads((saved.folder / "state.json").read_text(), **strict)
    assert (state["step"], state["best"]) == (7, True)
    assert json.loads((saved.folder / "manifest.json").read_text(), **strict)["files"].keys() == FILES - {
        "manifest.json"
    }
    assert saved.bytes == sum(p.stat().st_size for p in saved.folder.iterdir())
    assert saved == checkpoints(tmp_path)[0] == load_checkpoint(tmp_path)[0]


# --- killed while saving (1) ---

NURSERY = """
import json, os, signal, sys, traceback
import torch, numpy, safetensors.torch
from trainopt_nb.base.errors import *
from trainopt_nb.store.checkpoint import *
from trainopt_nb.store.folders import *
torch.set_num_threads(1)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
for line in sys.stdin:
    task = json.loads(line)
    pid = os.fork()
    if pid:
        print(pid, flush=True)
        continue
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    out = os.open(task["out"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1), os.dup2(out, 2)
    try:
        exec(task["code"], dict(task["names"]) | {k: v for k, v in globals().items() if k[0] != "_"})
        print("done", flush=True)
    except BaseException:
        traceback.print_exc()
    os._exit(0)
"""


class Nursery:
    "Forks processes that have torch at hand"

    def __init__(self):
        words, pipe = python("-c", NURSERY), subprocess.PIPE
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, env=environment)
        assert self.process.stdout.readline() == "ready\n"

    def start(self, code, out, **names):
        task = {"code": code, "out": str(out), "names": {name: str(value) for name, value in names.items()}}
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def run(self, code, out, **names):
        pid = self.start(code, out, **names)
        until(lambda: not alive(pid), "the end of the child")
        text = Path(out).read_text()
        assert text.endswith("done\n"), text
        return text.removesuffix("done\n")


@pytest.fixture(scope="module")
def nursery():
    started = Nursery()
    yield started
    started.process.stdin.close()
    started.process.wait(10)


SAVE_FOR_EVER = """
n = 1 + max((c.order for c in checkpoints(folder)), default=0)
while True:  # every step is saved three times, so that folders are replaced as well as made
    value = torch.full((4096,), float(n))
    save_checkpoint(folder, n // 3, {"w": value, "tied": value}, {"n": n, "m": torch.full((16384,), float(n))}, best=n % 15 == 2)
    os.write(1, f"{n}\\n".encode())
    if n % 4 == 0:
        keep_checkpoints(folder, 2)
    n += 1
"""


@pytest.mark.parametrize("kills", [12, pytest.param(60, marks=pytest.mark.slow)])
def test_killed_while_saving(kills, disk_path, nursery):
    folder, out = disk_path / "checkpoints", disk_path / "out"
    chance, orphans, aside, acknowledged = random.Random(0), 0, 0, 0
    for _ in range(kills):
        pid = nursery.start(SAVE_FOR_EVER, out, folder=folder)
        before = out.stat().st_size if out.exists() else 0
        until(lambda: out.exists() and out.stat().st_size > before, "a save")  # noqa: B023
        time.sleep(chance.uniform(0, 0.03))
        os.kill(pid, signal.SIGKILL)
        until(lambda: not alive(pid), "the end of the child")  # noqa: B023

        acknowledged = int(out.read_text().split("\n")[-2])
        left = [p.name for p in folder.iterdir() if p.name.startswith(".tmp-") or ".old-" in p.name]
        orphans, aside = orphans + len(left), aside + any(".old-" in name for name in left)
        for checkpoint in checkpoints(folder):
            assert not damage(checkpoint.folder), checkpoint
        checkpoint, model_state, training, lost = load_checkpoint(folder)
        n = training["n"]
        assert n >= acknowledged and lost == [] and checkpoint.step == n // 3
        assert set(model_state["w"].tolist()) == set(training["m"].tolist()) == {float(n)}
        assert model_state["tied"] is model_state["w"]
        if acknowledged >= 18:
            _, _, best, lost = load_checkpoint(folder, "best")
            assert best["n"] % 15 == 2 and lost == []
    assert orphans >= kills / 3, "the kills came too late to prove anything"
    remove_orphans(folder)
    assert all(p.name.startswith("step-") and ".old-" not in p.name for p in folder.iterdir())
    assert load_checkpoint(folder)[2]["n"] >= acknowledged
    print(f"{orphans} orphans, {aside} kills between two renames, {acknowledged} saves")


def test_killed_between_the_two_renames(tmp_path):
    for n in (1, 2):
        save_checkpoint(tmp_path, 1, {"w": torch.tensor(n)}, {"n": n})
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = os.uname().nodename.replace("-", "_").replace(".", "_")
    (tmp_path / "step-00000001").rename(tmp_path / f"step-00000001.old-{dead.pid}-{host}")
    checkpoint, _, training, lost = load_checkpoint(tmp_path)
    assert (checkpoint.step, training["n"], lost) == (1, 2, [])
    save_checkpoint(tmp_path, 2, {}, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]


def test_an_interrupt_loses_nothing(disk_path, nursery):
    code = """
import _thread, signal, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let what runs in the background ignore it
save_checkpoint(folder, 1, {"w": torch.ones(1)}, {})
cut = 0
for i in range(60):
    try:
        threading.Timer(i * 0.0001, _thread.interrupt_main).start()
        save_checkpoint(folder, 1, {"w": torch.full((1000,), float(i))}, {"m": torch.ones(100_000)})
        time.sleep(0.05)
    except KeyboardInterrupt:
        cut += 1
        assert load_checkpoint(folder)[3] == []
        remove_orphans(folder)
        assert os.listdir(folder) == ["step-00000001"], os.listdir(folder)
print(cut)
"""
    assert int(nursery.run(code, disk_path / "out", folder=disk_path / "c")) > 10


# --- the disk is full (2) ---


def test_a_limit_of_the_system_while_writing(tmp_path, nursery):
    "The write itself fails, after the check for room passed"
    code = """
import resource
save_checkpoint(folder, 1, {"w": torch.ones(10)}, {"n": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
try:
    save_checkpoint(folder, 1, {"w": torch.ones(10)}, {"big": torch.ones(1_000_000)})
except DiskFullError as error:
    assert error.needed > 4_000_000 and error.free > 0, error
    print(error)
"""
    text = nursery.run(code, tmp_path / "out", folder=tmp_path / "c").strip()
    assert "step-00000001 needs 4,0" in sentence(text) and "File too large" in text
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["step-00000001"]
    assert load_checkpoint(tmp_path / "c")[2]["n"] == 1


def test_the_need_is_checked_beforehand(tmp_path):
    save_checkpoint(tmp_path, 1, {}, {"n": 1})
    huge = torch.ones(1).expand(1 << 25, 1 << 30)  # 128 PiB that take no memory
    with pytest.raises(DiskFullError) as caught:
        save_checkpoint(tmp_path, 1, {"w": huge}, {})
    assert caught.value.needed > 2**57 and caught.value.path == tmp_path / "step-00000001"
    assert f"{caught.value.free:,} are free" in sentence(str(caught.value))
    assert load_checkpoint(tmp_path)[2]["n"] == 1


@pytest.mark.parametrize("small_disk", ["size=2m,nr_inodes=12"], indirect=True, ids=["few files"])
def test_a_full_disk(small_disk):
    folder = small_disk / "checkpoints"
    save_checkpoint(folder, 1, {"w": torch.ones(200_000)}, {"n": 1})
    with pytest.raises(DiskFullError) as caught:  # by the check beforehand
        save_checkpoint(folder, 2, {"w": torch.ones(400_000)}, {})
    assert caught.value.free < 1_300_000 < 1_600_000 < caught.value.needed
    save_checkpoint(folder, 2, {}, {"n": 2})
    with pytest.raises(DiskFullError) as caught:  # room for the bytes, none for the files: the write fails
        save_checkpoint(folder, 2, {"w": torch.ones(10)}, {})
    assert "No space left on device" in sentence(str(caught.value))
    assert load_checkpoint(folder)[2]["n"] == 2 and load_checkpoint(folder, 1)[2]["n"] == 1
    assert len(list(folder.iterdir())) == 2
    shutil.rmtree(folder / "step-00000001")
    save_checkpoint(folder, 3, {"w": torch.ones(10)}, {})
    assert load_checkpoint(folder)[0].step == 3


# --- no permission (3) ---


def test_probing_a_folder(tmp_path, nursery):
    probe_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written: Not a directory; make"):
        probe_folder(tmp_path / "file" / "checkpoints")
    if os.geteuid() == 0:  # root may write anywhere, so somebody else tries
        os.chmod(tmp_path, 0o777)
    for parent in tmp_path.parents:
        os.chmod(parent, parent.stat().st_mode | 0o011)
    code = """
folder = f"{place}/locked/checkpoints"
os.makedirs(folder)
os.chmod(folder, 0o555)
if os.geteuid() == 0:
    os.setgid(65534), os.setuid(65534)
for attempt in (lambda: probe_folder(folder), lambda: save_checkpoint(folder, 1, {}, {})):
    try:
        attempt()
    except CheckpointError as error:
        print(error)
"""
    told = nursery.run(code, tmp_path / "out", place=tmp_path).splitlines()
    assert len(told) == 2
    assert all("Permission denied" in sentence(text) and "locked" in text for text in told)


# --- damage on the disk (4, 5) ---


@pytest.fixture
def three(tmp_path):
    for step in (10, 20, 30):
        save_checkpoint(
            tmp_path,
            step,
            {"w": torch.full((50,), float(step))},
            {"n": step, "m": torch.ones(9)},
            best=step == 20,
        )
    return tmp_path


def break_off(path):
    path.write_bytes(path.read_bytes()[:-7])


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize(
    "fault", [flip, break_off, empty, Path.unlink], ids=["flip", "cut", "empty", "missing"]
)
def test_a_damaged_newest_checkpoint(three, name, fault):
    path = three / "step-00000030" / name
    where = (path.stat().st_size // 2,) if fault is flip else ()
    fault(path, *where)
    checkpoint, model_state, training, lost = load_checkpoint(three)
    if fault is flip and name == "manifest.json" and checkpoint.step == 30:
        return  # a byte of the layout: what is said of the files still holds
    assert checkpoint.step == training["n"] == 20 and set(model_state["w"].tolist()) == {20.0}
    (told,) = lost
    assert "step 30 is damaged" in sentence(told) and "10 steps are lost" in told
    assert name in told or name == "manifest.json"  # a wrong digit in the manifest blames the file
    if name in ("model.safetensors", "manifest.json"):
        with pytest.raises(WeightsError, match="is damaged"):
            read_weights(three / "step-00000030")


def test_any_flipped_byte_of_any_file_is_seen_or_harmless(three):
    expected = load_checkpoint(three, 30)
    chance = random.Random(1)
    for name in sorted(FILES):
        path = three / "step-00000030" / name
        whole = path.read_bytes()
        for _ in range(40):
            data = bytearray(whole)
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            path.write_bytes(data)
            checkpoint, model_state, training, lost = load_checkpoint(three, 30)
            if checkpoint.step == 30:
                assert same([*model_state.values(), training], [*expected[1].values(), expected[2]])
            else:
                assert checkpoint.step == 20 and len(lost) == 1
        path.write_bytes(whole)


def test_falling_back_further(three):
    flip(three / "step-00000030" / "model.safetensors")
    shutil.rmtree(three / "step-00000020")
    (three / "step-00000020").mkdir()
    checkpoint, _, _, lost = load_checkpoint(three)
    assert checkpoint.step == 10 and len(lost) == 2
    assert "20 steps are lost" in lost[0] and "10 steps are lost" in lost[1]
    flip(three / "step-00000010" / "state.json")
    with pytest.raises(CheckpointError, match=r"No checkpoint in .* is whole"):
        load_checkpoint(three)
    assert len(checkpoints(three)) == 3
    saved = save_checkpoint(three, 5, {}, {})  # a run that begins anew in the same place
    assert load_checkpoint(three)[0] == saved


def test_the_mark_of_the_best_stays_with_the_weights(three):
    save_checkpoint(three, 20, {"w": torch.full((50,), 20.0)}, {"n": "stopped"})
    checkpoint, _, training, _ = load_checkpoint(three, "best")
    assert (checkpoint.step, training["n"]) == (20, "stopped")
    save_checkpoint(three, 20, {"w": torch.full((50,), 21.0)}, {"n": "another way"})
    assert not any(checkpoint.best for checkpoint in checkpoints(three))


def test_which(three):
    assert load_checkpoint(three, "best")[0].step == 20
    assert load_checkpoint(three, 10)[0].step == 10
    flip(three / "step-00000020" / "model.safetensors")
    checkpoint, _, _, lost = load_checkpoint(three, "best")
    assert checkpoint.step == 30 and "so that of step 30 is loaded." in sentence(lost[0])
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 7; there are those of 30, 20, 10"):
        load_checkpoint(three, 7)
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load_checkpoint(three / "nowhere")
    save_checkpoint(three / "other", 1, {}, {})
    assert "No checkpoint is marked as best" in sentence(load_checkpoint(three / "other", "best")[3][0])


def test_a_run_that_went_back_goes_on_from_its_last_save(three):
    save_checkpoint(three, 15, {}, {"n": 15})
    assert load_checkpoint(three)[0].step == 15
    assert [c.step for c in checkpoints(three)] == [15, 30, 20, 10]


def test_what_is_loaded_does_not_hang_on_the_file(three):
    _, model_state, training, _ = load_checkpoint(three)
    for path in three.glob("*/*"):
        os.truncate(path, 0)
    assert model_state["w"].sum() == 1500 and training["m"].sum() == 9


# --- keeping ---


def test_keeping(three):
    assert keep_checkpoints(three, 5) == []
    assert [c.step for c in keep_checkpoints(three, 1)] == [10]  # 20 is the best
    for step in (40, 50, 60):
        save_checkpoint(three, step, {"w": torch.ones(3)}, {})
    flip(three / "step-00000060" / "model.safetensors")
    flip(three / "step-00000050" / "model.safetensors")
    keep_checkpoints(three, 1)
    assert [c.step for c in checkpoints(three)] == [60, 40, 20]
    assert load_checkpoint(three)[0].step == 40
    flip(three / "step-00000040" / "state.json")
    flip(three / "step-00000020" / "state.json")
    assert keep_checkpoints(three, 1) == []  # nothing is whole, so nothing goes
    with pytest.raises(CheckpointError, match="keep=0"):
        keep_checkpoints(three, 0)


def test_a_living_writer_is_left_alone(tmp_path, nursery):
    code = "save_checkpoint(folder, 1, {}, {}); os.mkdir(f'{folder}/.tmp-x-{os.getpid()}-{host}'); print('here', flush=True); import time; time.sleep(60)"
    host = os.uname().nodename.replace("-", "_").replace(".", "_")
    folder, out = tmp_path / "c", tmp_path / "out"
    pid = nursery.start(code, out, folder=folder, host=host)
    until(lambda: out.exists() and "here" in out.read_text(), "the child being there")
    assert remove_orphans(folder) == []
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid), "the end of the child")
    assert len(remove_orphans(folder)) == 1


# --- files of others (6, 7, 8) ---


class Planted:
    "Unpickling it makes a folder"

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


class Net(torch.nn.Linear):
    pass


def test_weights_of_many_kinds(tmp_path):
    state = torch.nn.Linear(3, 2).state_dict()
    torch.save(state, tmp_path / "a.pt")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.save({"epoch": 3, "state_dict": state, "lr": 0.1}, tmp_path / "lightning.ckpt")
    safetensors.torch.save_file(state, tmp_path / "b.safetensors")
    shutil.copy(tmp_path / "b.safetensors", tmp_path / "no-suffix")
    (tmp_path / "face").mkdir()
    torch.save(state, tmp_path / "face" / "pytorch_model.bin")
    parts = tmp_path / "parts"
    parts.mkdir()
    for name, tensor in state.items():
        safetensors.torch.save_file({name: tensor}, parts / f"{name}.safetensors")
    index = {"weight_map": {name: f"{name}.safetensors" for name in state}}
    (parts / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "manifest.json").write_text('{"name": "a web application", "files": ["a.pt"]}')
    for name in ("a.pt", "old.pth", "lightning.ckpt", "b.safetensors", "no-suffix", "face", "parts"):
        back = read_weights(tmp_path / name)
        assert back.keys() == state.keys() and all(same(back[key], state[key]) for key in state), name


def malicious(path, planted):
    "Write the same trap in each form that a pickle takes"
    trap = {"weight": torch.ones(2), "extra": Planted(planted)}
    torch.save(trap, path / "new.pt")
    torch.save(trap, path / "old.pt", _use_new_zipfile_serialization=False)
    for protocol in range(6):
        (path / f"protocol{protocol}.pkl").write_bytes(pickle.dumps(trap["extra"], protocol))
    return ["new.pt", "old.pt", *(f"protocol{protocol}.pkl" for protocol in range(6))]


def test_malicious_pickles(tmp_path):
    planted = tmp_path / "planted"
    for name in malicious(tmp_path, planted):
        with pytest.raises(WeightsError) as caught:
            read_weights(tmp_path / name)
        text = sentence(str(caught.value))
        if name != "protocol0.pkl":  # that one is text, and refused as such
            assert "posix.mkdir" in text and "state_dict as safetensors" in text, text
        assert not planted.exists()
    pickle.loads((tmp_path / "protocol2.pkl").read_bytes())
    assert planted.exists(), "the trap does not work, so the test proves nothing"


def test_a_whole_pickled_model(tmp_path):
    torch.save(Net(2, 2), tmp_path / "net.pt")
    with pytest.raises(WeightsError, match=r"refers to .*\.Net") as caught:
        read_weights(tmp_path / "net.pt")
    sentence(str(caught.value))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch about TorchScript
def test_foreign_programs(tmp_path):
    planted = tmp_path / "planted"
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),))
    torch.export.save(program, tmp_path / "program.pt2")
    with (
        zipfile.ZipFile(tmp_path / "program.pt2") as archive,
        zipfile.ZipFile(tmp_path / "trap.pt2", "w") as trap,
    ):
        for name in archive.namelist():
            data = (
                pickle.dumps(Planted(planted)) if name.endswith((".pt", "weight_0")) else archive.read(name)
            )
            trap.writestr(name, data)
    shutil.copy(tmp_path / "trap.pt2", tmp_path / "renamed.pt")
    (tmp_path / "bare.pt2").write_bytes(pickle.dumps(Planted(planted)))
    for name in ("program.pt2", "trap.pt2", "renamed.pt", "bare.pt2"):
        with pytest.raises(WeightsError, match=r"exported program \(\.pt2\).* can run code"):
            read_weights(tmp_path / name)
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "script.pt")
    with pytest.raises(WeightsError, match="TorchScript program"):
        read_weights(tmp_path / "script.pt")
    assert not planted.exists()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.pt", b"", "is empty"),
        ("a.safetensors", b"", "is empty"),
        ("a.safetensors", LFS, "Git LFS pointer"),
        ("a.bin", LFS, "Git LFS pointer"),
        ("a.pt", b"\n<!DOCTYPE html>\n<html><body>Sign in", "is a web page"),
        ("a.pt", b"<HTML>404", "is a web page"),
        ("a.safetensors", b"404: Not Found", "is a text file that begins '404: Not Found'"),
        ("a.pt", '{"message": "nicht möglich"}\n'.encode(), "is a text file that begins"),
        ("a.pt", ("é" * 400).encode(), "is a text file"),
        ("a.pt", b"\x1f\x8b\x08\0\0\0\0\0\0\x03abc", "compressed by gzip"),
        ("a.gguf", b"GGUF\3\0\0\0", "GGUF"),
        ("a.h5", b"\x89HDF\r\n\x1a\n", "HDF5"),
        ("a.pt", b"\x93NUMPY\1\0v\0{'descr'", "NumPy array"),
        ("a.pt", bytes(range(255, 0, -1)), "is neither safetensors nor what torch.save wrote"),
        ("a.safetensors", b"\x10\0\0\0\0\0\0\0{", "was cut short: it has 9 bytes and needs 24"),
        ("a.safetensors", b"\x10\0\0\0\0\0\0\0{not json at all}", "no valid safetensors"),
        ("a.safetensors", b"\xff" * 30, "was cut short"),
    ],
)
def test_files_that_are_no_weights(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        read_weights(tmp_path / name)
    assert words in sentence(str(caught.value))


def test_half_a_file(tmp_path):
    state = {"weight": torch.arange(1000.0), "bias": torch.ones(10)}
    torch.save(state, tmp_path / "a.pt")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    for path in sorted(tmp_path.iterdir()):
        whole = path.read_bytes()
        for size in (*range(1, 12), 20, 60, 100, 200, 400, 1500, len(whole) - 100, len(whole) - 1):
            cut = tmp_path / f"cut{path.suffix}"
            cut.write_bytes(whole[:size])
            with pytest.raises(WeightsError) as caught:
                read_weights(cut)
            text = sentence(str(caught.value))
            if size > 60:
                assert "cut short" in text, (path.name, size, text)


def test_a_flipped_byte_in_a_file_of_torch_save(tmp_path):
    state = {"weight": torch.zeros(1000)}
    torch.save(state, tmp_path / "a.pt")
    flip(tmp_path / "a.pt", (tmp_path / "a.pt").stat().st_size // 2)
    assert torch.load(tmp_path / "a.pt", weights_only=True)["weight"].any(), "the wrong byte was flipped"
    with pytest.raises(WeightsError, match="does not match its checksum"):
        read_weights(tmp_path / "a.pt")
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, tmp_path / "none.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_weights(tmp_path / "none.pt")["weight"].sum() == 0


@given(st.data())
@examples(150)
def test_no_bytes_whatsoever_raise_anything_else(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    if not folder.exists():
        folder.mkdir()
        state = {"weight": torch.arange(20.0)}
        torch.save(state, folder / "a.pt")
        torch.save(state, folder / "old.pt", _use_new_zipfile_serialization=False)
        safetensors.torch.save_file(state, folder / "a.safetensors")
    source = folder / data.draw(st.sampled_from(["a.pt", "old.pt", "a.safetensors"]))
    changed = bytearray(source.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    target = folder / f"changed{source.suffix}"
    target.write_bytes(changed)
    try:
        assert isinstance(read_weights(target), dict)
    except WeightsError as error:
        sentence(str(error))


def test_what_is_not_there_or_not_allowed(tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "weights.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"epoch": 1, "lr": 0.1}, tmp_path / "none.pt")
    save_checkpoint(tmp_path / "run", 1, {"w": torch.ones(1)}, {})
    (tmp_path / "void").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.safetensors.index.json").write_text('{"weight_map": {"w": "../weights.pt"}}')
    for name, words in {
        "weigths.pt": "does not exist; did you mean weights.pt?",
        "zzz": "does not exist; give the path",
        "list.pt": "holds no state_dict; expected names with tensors, found a list",
        "none.pt": "found epoch, lr",
        "run": "holds several checkpoints; name one",
        "void": "holds no weights; expected model.safetensors, found nothing",
        "out": "outside its folder",
        "weights.pt/x": "cannot be read: Not a directory",
    }.items():
        with pytest.raises(WeightsError) as caught:
            read_weights(tmp_path / name)
        assert words in sentence(str(caught.value))
    assert read_weights(tmp_path / "run" / "step-00000001")["w"] == 1


def test_weights_have_their_names_while_another_thread_imports_the_compiler(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch._dynamo.eval_frame", ModuleType("torch._dynamo.eval_frame"))
    assert list(plain_state(torch.nn.Linear(2, 2))) == ["weight", "bias"]
