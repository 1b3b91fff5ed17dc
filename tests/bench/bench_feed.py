"""How much of a step goes to data in memory, and how fast LMDB and TFRecord are read beside their own libraries

python tests/bench/bench_feed.py [rounds]: ratios of CPU times that are measured in turn, median of the rounds
"""

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
from common import BATCH, adamw, cnn, digits
from torch.utils.data import DataLoader, Dataset

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


def steps(batches):
    "Train on batches, as a loop by hand does"
    model = cnn()
    optimizer = adamw(model)

    def run():
        for inputs, targets in batches():
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()

    return run


def memory(rounds):
    "A step with data in memory over a step on one batch that is always there"
    x, y = digits(images=True)
    batches = open_data((x, y), batch_size=BATCH, drop_last=True).train
    batch = next(batches.epoch(0))
    ways = {"data": steps(lambda: batches.epoch(0)), "one batch": steps(lambda: [batch] * batches.steps)}
    return in_turn(ways, rounds)["data"]


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
    torch.set_num_threads(1)
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
    print(f"in memory: a step costs {memory(rounds):.3f} of a step without loading")
    found = in_turn({"ours": ours(folder / "a.lmdb"), "lmdb": through(lambda: by_hand)}, rounds)
    print(f"LMDB: {1 / found['ours']:.2f} of what the library delivers")
    found = in_turn({"ours": ours(folder / "a.tfrecord"), "tfrecord": through(lambda: library)}, rounds)
    print(f"TFRecord: {1 / found['ours']:.2f} of what the library delivers")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
