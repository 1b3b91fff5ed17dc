"""
Time per step over a loop written by hand that does the same arithmetic

    python tests/bench/loop_overhead.py            # both models, the panel, other trainers
    python tests/bench/loop_overhead.py --quick    # a quarter of the repetitions, no other trainers

scikit-learn's digits, batch 64, fused AdamW with two parameter groups, one thread. Every training stops at each of its
epoch ends (23 steps) and lets the hand-written loop train an epoch in between. The CPU time (all threads of the process)
of 20 such epochs (4 with the convolutional network) over that of the hand-written ones gives a ratio; the median of all
ratios is printed with its 95% interval and their quartiles. The weights are compared first: after three epochs both loops agree to the last bit. Checkpoints and
validation are not in the ratios; what they cost stands below the table.
"""

import argparse
import shutil
import statistics
import tempfile
import time

import torch
from common import (
    DECAY,
    HEAD,
    LR,
    MODELS,
    by_generator,
    by_hand,
    by_hand_tuned,
    machine,
    repeated,
    row,
    take_turns,
)
from panel_cost import panel_rows
from rivals import RIVALS, rival_rows

from trainopt_nb import Run, Task, TrainOptions
from trainopt_nb.api.log import follow
from trainopt_nb.data.batches import order
from trainopt_nb.events.progress import Progress
from trainopt_nb.events.records import Epoch, Saved, State
from trainopt_nb.train.loop import train

AMOUNTS = {"mlp": (30, 104), "cnn": (8, 16)}  # trainings of each kind, epochs of each


def options(epochs, **more):
    "No epoch after the first is the best one and no checkpoint is due: their price is measured on its own"
    same = {"lr": LR, "weight_decay": DECAY, "min_delta": 1e9, "save_seconds": 1e9, "restore_best": False}
    return TrainOptions.of(**same | {"epochs": epochs} | more)


def task(kind):
    make, data = MODELS[kind]
    return Task(make(), data())


def events_alone(kind, turns, epochs):
    "The generator of events, consumed and forgotten"
    for event in train(task(kind), options(epochs)):
        if type(event) is Epoch:
            turns()


class StopAtEpochs:
    "Passes events on, and takes turns when the consumer comes back from an epoch's end, whatever it did with it"

    def __init__(self, events, turns):
        self.events, self.turns, self.ended = events, turns, False

    def send(self, command):
        if self.ended:
            self.turns()
        event = self.events.send(command)
        self.ended = type(event) is Epoch
        return event

    def close(self):
        self.events.close()


def recorded(kind, turns, epochs):
    "Events written to a run directory by the consumer that `fit` and the notebook use"
    folder = tempfile.mkdtemp(prefix="trainopt-bench-")
    run = Run.create(folder, kind, {})
    run.start_writing()
    events = train(task(kind), options(epochs), run.path, run.name)
    for _ in follow(StopAtEpochs(events, turns), run, Progress(run.name)):
        pass
    shutil.rmtree(folder)


def same_weights(kind, epochs=3):
    "Whether both loops do the same arithmetic: the answer must be yes, to the last bit"
    given, chosen = task(kind), options(epochs)
    torch.manual_seed(chosen.seed)
    for _ in train(given, chosen):
        pass
    orders = [order(len(given.train_data[0]), chosen.seed, number) for number in range(epochs)]
    epoch, hand = by_hand(kind, iter(orders))
    torch.manual_seed(chosen.seed)  # dropout
    for _ in range(epochs):
        epoch()
    states = given.model.state_dict().values(), hand.state_dict().values()
    return all(torch.equal(a, b) for a, b in zip(*states, strict=True))


TRAININGS = {
    "by hand, again (shows the noise)": repeated(by_hand),
    "by hand, tuned": repeated(by_hand_tuned),
    "by hand, as a generator of one record a step": repeated(by_generator),
    "trainopt_nb, events alone": events_alone,
    "trainopt_nb, recorded in a run directory": recorded,
}


def beside(kind):
    "What an epoch end costs: validation, the copy of a best epoch that is not written yet, a checkpoint"
    make, data = MODELS[kind]
    x, y = data()
    folder = tempfile.mkdtemp(prefix="trainopt-bench-")
    validation, saved, began = [], [], 0.0
    more = {"min_delta": 0.0, "save_steps": 100}
    for event in train(Task(make(), (x, y), (x[:360], y[:360])), options(40, **more), folder):
        if type(event) is State and event.state == "validating":
            began = time.process_time()
        elif type(event) is Epoch:
            validation.append(time.process_time() - began)
        elif type(event) is Saved:
            saved.append(event.seconds)
    shutil.rmtree(folder)
    kept = {}
    for name, delta in (("best", 0.0), ("not", 1e9)):
        times = []
        for _ in range(3):
            last = 0.0
            for event in train(task(kind), options(20, min_delta=delta)):
                if type(event) is Epoch:
                    times.append(time.process_time() - last)
                    last = time.process_time()
        kept[name] = statistics.median(times)
    return (
        f"beside these: validation of 360 samples {statistics.median(validation) * 1e3:.2f} ms, keeping a best epoch in "
        f"memory {max(0.0, kept['best'] - kept['not']) * 1e3:.2f} ms, a checkpoint {statistics.median(saved) * 1e3:.1f} ms"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="a quarter of the repetitions, no other trainers"
    )
    parser.add_argument("--only", choices=MODELS, help="one model only")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    for kind in [asked.only] if asked.only else MODELS:
        instances, epochs = AMOUNTS[kind]
        instances = instances // 4 or 1 if asked.quick else instances
        print(f"\n{kind}: same weights as by hand: {'yes' if same_weights(kind) else 'NO'}\n{HEAD}")
        for name, (times, reference) in take_turns(TRAININGS, kind, instances, epochs).items():
            print(row(name, kind, times, reference), flush=True)
        for line in panel_rows(kind, instances, epochs):
            print(line, flush=True)
        for name in [] if asked.quick else RIVALS:
            for line in rival_rows(name, kind):
                print(line, flush=True)
        print(beside(kind), flush=True)


if __name__ == "__main__":
    main()
