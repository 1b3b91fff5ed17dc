"""How much of a step goes to data in memory, and how fast LMDB and TFRecord are read beside their own libraries

python tests/bench/bench_feed.py [rounds]: ratios of CPU times that are measured in turn, median of the rounds
python tests/bench/bench_feed.py memory [turns]: what the engine's feed costs beside tensors that a loop by hand indexes
"""

import itertools
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path

import lmdb
import numpy as np
import tfrecord.torch
import torch
import torch.nn.functional as F
from common import BATCH, MODELS, adamw, shuffled
from torch.utils.data import DataLoader, Dataset, TensorDataset

from trainopt_nb.data.source import open_data
from trainopt_nb.feed.convert import convert
from trainopt_nb.feed.options import FeedOptions
from trainopt_nb.feed.read import read_data

SAMPLES, SHAPE = 3000, (3, 32, 32)


def in_turn(ways, rounds):
    "Median over the rounds of the CPU time of each way, over that of the last one"
    ratios = {name: [] for name in ways}
    for number in range(rounds):
        took, names = {}, list(ways)[:: 1 if number % 2 else -1]
        for name in names:
            begun = time.process_time()
            ways[name]()
            took[name] = time.process_time() - begun
        for name in ways:
            ratios[name].append(took[name] / took[names[0] if number % 2 == 0 else names[-1]])
    return {name: statistics.median(values) for name, values in ratios.items()}


def endless(epochs):
    "Batches of one epoch after the other"
    for number in itertools.count():
        yield from epochs(number)


def by_hand(x, y):
    "Batches of a permutation of tensors, as one writes it; the last short one is left out, as of the others"
    orders = shuffled(len(x))

    def epoch(number):
        for rows in next(orders).split(BATCH):
            if len(rows) == BATCH:
                yield x[rows], y[rows]

    return endless(epoch)


def training(make, batches):
    "Return a function that does some steps"
    model = make()
    optimizer = adamw(model)

    def run(count):
        for inputs, targets in itertools.islice(batches, count):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()

    return run


def paired(ours, theirs, turns, steps):
    "Median ratio of the CPU times of two ways in short turns, and its 95% interval by order statistics"
    ratios = []
    for way in (ours, theirs):
        way(20)
    for number in range(turns):
        took = {}
        for way in (ours, theirs) if number % 2 else (theirs, ours):
            begun = time.process_time()
            way(steps)
            took[way] = time.process_time() - begun
        ratios.append(took[ours] / took[theirs])
    ratios.sort()
    half = 0.98 * math.sqrt(turns)
    low, high = max(0, int(turns / 2 - half)), min(turns - 1, math.ceil(turns / 2 + half))
    return statistics.median(ratios), ratios[low], ratios[high]


class Samples(Dataset):
    "A Dataset in memory that gives one sample at a time"

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, place):
        return self.x[place], self.y[place]


def memory(turns, only=""):
    "Steps that the engine feeds over steps on tensors that are indexed by a permutation by hand"
    for kind, steps in (("mlp", 30), ("cnn", 5)):
        make, data = MODELS[kind]
        x, y = data()
        forms = {
            "by hand, again": None,
            "tensors": (x, y),
            "NumPy": (x.numpy(), y.numpy()),
            "TensorDataset": TensorDataset(x, y),
            "Dataset": Samples(x, y),
        }
        for name, given in forms.items():
            if only and only not in name:
                continue
            if given is None:
                ours = by_hand(x, y)
            else:
                ours = endless(open_data(given, batch_size=BATCH, drop_last=True).train.epoch)
            found = paired(training(make, ours), training(make, by_hand(x, y)), turns, steps)
            print(f"| {kind} | {name} | {found[0]:.3f} | {found[1]:.3f} to {found[2]:.3f} |", flush=True)


class ByHand(Dataset):
    "What one writes around the library lmdb"

    def __init__(self, path, count, dtype, shape):
        self.transaction = lmdb.open(str(path), readonly=True, lock=False, readahead=False).begin(
            buffers=True
        )
        self.count, self.dtype, self.shape = count, dtype, shape

    def __len__(self):
        return self.count

    def __getitem__(self, place):
        data = self.transaction.get(b"%010d" % place)
        label = int.from_bytes(data[:8], "little")
        return torch.from_numpy(np.frombuffer(data, self.dtype, offset=8).reshape(self.shape).copy()), label


def write_by_hand(path, x, y):
    with lmdb.open(str(path), map_size=2**30) as environment, environment.begin(write=True) as transaction:
        for place, (inputs, target) in enumerate(zip(x, y, strict=True)):
            transaction.put(b"%010d" % place, int(target).to_bytes(8, "little") + inputs.tobytes())


def through(loader):
    "Read all batches of an epoch"

    def run():
        for _ in loader():
            pass

    return run


def ours(path):
    "Read an epoch through the front, decoded on demand"
    samples = read_data(path, None, FeedOptions(in_memory="no")).train
    batches = open_data(samples, batch_size=BATCH, shuffle=False).train
    return through(lambda: batches.epoch(0))


def main(rounds):
    folder = Path(tempfile.mkdtemp())
    x = np.random.default_rng(0).normal(size=(SAMPLES, *SHAPE)).astype("float32")
    y = np.arange(SAMPLES) % 10
    for ending in ("lmdb", "tfrecord"):
        convert((x, y), folder / f"a.{ending}", write=None)
    write_by_hand(folder / "hand.lmdb", x, y)
    by_hand = DataLoader(ByHand(folder / "hand.lmdb", SAMPLES, "float32", SHAPE), batch_size=BATCH)
    described = {"input": "float", "label": "int"}
    theirs = tfrecord.torch.TFRecordDataset(str(folder / "a.tfrecord"), None, described)
    library = DataLoader(theirs, batch_size=BATCH)
    found = in_turn({"ours": ours(folder / "a.lmdb"), "lmdb": through(lambda: by_hand)}, rounds)
    print(f"LMDB: {1 / found['ours']:.2f} of what the library delivers")
    found = in_turn({"ours": ours(folder / "a.tfrecord"), "tfrecord": through(lambda: library)}, rounds)
    print(f"TFRecord: {1 / found['ours']:.2f} of what the library delivers")


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["memory"]:
        memory(int(sys.argv[2]) if len(sys.argv) > 2 else 400, *sys.argv[3:])
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
