"""
A training with recorded steps over a loop written by hand that does the same arithmetic

    python tests/bench/bench_replay.py                  # perceptron, convolutional network, encoder, LSTM
    python tests/bench/bench_replay.py --only mlp cnn --instances 4
    python tests/bench/bench_replay.py --parts          # what a step consists of

Random samples of the size of scikit-learn's digits, batch 64, fused AdamW with two parameter groups, one thread. As in `loop_overhead.py`, every
training stops at each of its epoch ends (23 steps) and lets the hand-written loop train an epoch in between; the CPU time of some epochs over that of the
hand-written ones gives a ratio. The weights are compared first. Bars: at most 0.60 for the perceptron, 0.75 for the convolutional network and the encoder.
"""

import argparse
import statistics
import time
from functools import partial

import common
import torch
import torch.nn.functional as F
from bench_population import MODELS
from common import HEAD, by_hand, by_hand_tuned, machine, repeated, row, take_turns
from loop_overhead import options, task
from torch import nn

from trainopt_nb.data.batches import order
from trainopt_nb.events.records import Epoch
from trainopt_nb.train.loop import train
from trainopt_nb.train.recorded_step import RecordedStep

SAMPLES = 1437
BARS = {"mlp": 0.60, "cnn": 0.75, "encoder": 0.75}


class LastOfLSTM(nn.Module):
    "The last hidden state of an LSTM"

    def __init__(self):
        super().__init__()
        self.cells, self.last = nn.LSTM(8, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x):
        return self.last(self.cells(x)[0][:, -1])


def made(make):
    torch.manual_seed(0)
    return make()


def samples(shape):
    draw = torch.Generator().manual_seed(0)
    return torch.randn(SAMPLES, *shape, generator=draw), torch.randint(0, 10, (SAMPLES,), generator=draw)


MAKERS = {name: MODELS[name][:2] for name in ("mlp", "cnn", "encoder")} | {"lstm": (LastOfLSTM, (8, 8))}
common.MODELS.clear()
common.MODELS.update(
    {name: (partial(made, make), partial(samples, shape)) for name, (make, shape) in MAKERS.items()}
)
common.WINDOWS.update(dict.fromkeys(MAKERS, 4))


def by_engine(kind, turns, epochs, replay):
    for event in train(task(kind), options(epochs, replay=replay)):
        if type(event) is Epoch:
            turns()


def same_weights(kind, epochs=4):
    "Whether the loop by hand and both trainings agree to the last bit"
    states = []
    for replay in (False, True):
        given = task(kind)
        torch.manual_seed(0)
        for _ in train(given, options(epochs, replay=replay)):
            pass
        states.append(given.model.state_dict())
    epoch, hand = by_hand(kind, iter([order(SAMPLES, 0, number) for number in range(epochs)]))
    for _ in range(epochs):
        epoch()
    states.append(hand.state_dict())
    return all(torch.equal(states[0][name], other[name]) for other in states[1:] for name in other)


TRAININGS = {
    "by hand, again (shows the noise)": repeated(by_hand),
    "by hand, tuned": repeated(by_hand_tuned),
    "trainopt_nb": partial(by_engine, replay=False),
    "trainopt_nb, --replay on": partial(by_engine, replay=True),
}


def parts(kind, rounds=15, steps=40):
    "Microseconds of the passes by autograd and by the recording, and of the kernels of the recording alone"
    model, (x, y) = common.MODELS[kind][0](), common.MODELS[kind][1]()
    batch, weights = (x[:64], y[:64]), [*model.parameters()]
    loss_step = lambda batch: F.cross_entropy(model(batch[0]), batch[1])
    recorded = RecordedStep(loss_step, model, [batch], {})

    def passes():
        loss_step(batch).backward()
        for p in weights:
            p.grad = None

    found = {"autograd": [], "recording": []}
    for _ in range(rounds):
        for name, call in (("autograd", passes), ("recording", lambda: recorded.run([batch]))):
            began = time.process_time()
            for _ in range(steps):
                call()
            found[name].append((time.process_time() - began) / steps * 1e6)
    with torch.profiler.profile() as profile:
        for _ in range(steps):
            recorded.run([batch])
    kernels = (
        sum(event.self_cpu_time_total for event in profile.key_averages() if event.key.startswith("aten::"))
        / steps
    )
    middle = {name: round(statistics.median(times)) for name, times in found.items()}
    return (
        f"forward and backward pass in µs: {middle}; in PyTorch's operators under its profiler: {kernels:.0f}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=MAKERS, default=[*MAKERS])
    parser.add_argument("--instances", type=int, default=6, help="trainings of each kind")
    parser.add_argument("--epochs", type=int, default=60, help="of each training")
    parser.add_argument("--parts", action="store_true", help="what a step consists of")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    for kind in asked.only:
        bar = f" (bar {BARS[kind]})" if kind in BARS else ""
        print(f"\n{kind}{bar}: same weights as by hand: {'yes' if same_weights(kind) else 'NO'}\n{HEAD}")
        for name, (times, reference) in take_turns(TRAININGS, kind, asked.instances, asked.epochs).items():
            print(row(name, kind, times, reference), flush=True)
        if asked.parts:
            print(parts(kind), flush=True)


if __name__ == "__main__":
    main()
