"""
What the check before the first step costs in memory: `python tests/bench/bench_check.py [--mb 400] [--rounds 3]`

The highest resident memory of a process up to the end of its first step, beyond what it held with the model made, in multiples of the parameters.
By hand and with the check are measured in turns, each in a forked process, for Adam and for SGD. Linux only.
"""

import argparse
import json
import os
import re
import statistics
from tempfile import TemporaryDirectory

import torch
from common import machine
from torch import nn
from torch.nn import functional as F

from trainopt_nb import Task, TrainOptions
from trainopt_nb.train.loop import train
from trainopt_nb.train.prepare import prepare

WIDTH = 2000  # of a layer, which holds 16 MB
OPTIMIZERS = {  # of the user's
    "Adam": lambda parameters: torch.optim.Adam(parameters),
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=1e-3),
}


def memory(field):  # bytes; `VmRSS` now, `VmHWM` the highest since `reset`
    with open("/proc/self/status") as file:
        return int(re.search(rf"{field}:\s+(\d+)", file.read())[1]) * 1024


def reset():
    "Forget the highest resident memory"
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def large(mb):
    "A perceptron with so many MB of parameters, all of them in memory"
    layers = [nn.Linear(WIDTH, WIDTH, device="meta") for _ in range(max(1, round(mb * 1e6 / 4 / WIDTH**2)))]
    model = nn.Sequential(*layers).to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1 / WIDTH)
    return model


def by_hand(model, data, make, tell):
    "One step of the loop that everybody writes"
    optimizer = make(model.parameters())
    loss = F.mse_loss(model(data[0]), data[1])
    loss.backward()
    optimizer.step()
    tell()


def check(model, data, make, tell):
    "The check alone"
    prepare(Task(model, data), TrainOptions.of(optimizer=make, loss="mse", device="cpu"))
    tell()


def check_and_step(model, data, make, tell):
    "The check, the first checkpoint and the first step of a run"

    def watched(parameters):
        optimizer = make(parameters)
        optimizer.register_step_post_hook(lambda *_: tell())
        return optimizer

    options = TrainOptions.of(optimizer=watched, loss="mse", epochs=1, device="cpu")
    list(train(Task(model, data), options, os.getcwd()))


WAYS = {"by hand": by_hand, "the check alone": check, "the check and a step": check_and_step}


def measure(way, make, mb, pipe):
    "Send what a way takes, and end this process"
    model, data = large(mb), (torch.ones(2, WIDTH), torch.ones(2, WIDTH))
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    reset()
    before = memory("VmRSS")

    def tell():
        os.write(pipe, json.dumps((memory("VmHWM") - before) / size).encode())
        os._exit(0)

    way(model, data, make, tell)


def peak(way, make, mb):
    "Measure one way in a forked process"
    mine, theirs = os.pipe()
    with TemporaryDirectory() as folder:
        if (pid := os.fork()) == 0:
            os.chdir(folder)
            measure(way, make, mb, theirs)
        os.close(theirs)
        with open(mine) as file:
            answer = file.read()
        os.waitpid(pid, 0)
    return json.loads(answer)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mb", type=float, default=400, help="of parameters")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{machine()}, {asked.mb:g} MB of parameters, medians of {asked.rounds} rounds, in multiples of the parameters\n"
    )
    print(f"{'':8s}" + "".join(f"{name:>24s}" for name in WAYS))
    for kind, make in OPTIMIZERS.items():
        found = [{name: peak(way, make, asked.mb) for name, way in WAYS.items()} for _ in range(asked.rounds)]
        columns = (f"{statistics.median(row[name] for row in found):24.2f}" for name in WAYS)
        print(f"{kind:8s}" + "".join(columns), flush=True)


if __name__ == "__main__":
    main()
