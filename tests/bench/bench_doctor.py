"""Planted faults and healthy programs: what the doctor names first, false alarms, and what it costs

python tests/bench/bench_doctor.py [--data FOLDER] [--part planted|healthy|cost] [--steps 300]

FOLDER holds `adult-train.csv.gz`; without it only digits are used.
"""

import argparse
import sys
import time
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import plants

HARM = 0.02  # of accuracy, from which a planted fault counts


def planted(name, data, steps):
    "Print a row for each fault and model"
    rows = []
    for kind in plants.MODELS:
        _, usual = plants.Program(data, kind).run(steps, watched=False)
        for fault, (right, plant) in plants.PLANTED.items():
            began = time.process_time()
            program = plants.Program(data, kind)
            plant(program)
            w, figure = program.run(steps)
            found = program.prove(w)
            places = [i for i, each in enumerate(found) if each.name in right.split()]
            place = places[0] + 1 if places else 0
            told = bool(place) and found[place - 1].told
            harm = usual - figure >= HARM
            rows.append((harm, place, told))
            gain = next((f"{each.proof.gain:+.2f}" for each in found[:1] if each.proof), "")
            words = "named" if told else "proposed" if place else "missed"
            print(
                f"{name:7} {kind:5} {fault:30} {figure:.2f} of {usual:.2f} {'' if harm else '(no harm)':10}"
                f"{words:9} {place or '-':>2} {gain:6} {time.process_time() - began:5.1f} s",
                flush=True,
            )
    return rows


def silent(name, data, steps):
    "Print each healthy program about which something is told; returns how many there were, proposals and alarms"
    count = proposed = alarms = 0
    for label, make in plants.healthy(data):
        program = make(steps)
        w, figure = program.run(steps)
        before = [each.name for each in w.findings]
        found = program.prove(w) if before else []
        told = [each.name for each in found if each.told]
        count, proposed, alarms = count + 1, proposed + bool(before), alarms + bool(told)
        if before:
            print(f"{name:7} {label:28} {figure:.2f} proposed {before}, told {told}", flush=True)
    return count, proposed, alarms


def cost(data, pairs=9, steps=600):
    "Print the ratio of the CPU time with and without the doctor, interleaved"
    for kind in plants.MODELS:
        ratios = []
        for seed in range(pairs):
            times = []
            for watched in (True, False):
                program = plants.Program(data, kind, seed)
                began = time.process_time()
                program.run(steps, epoch=steps, watched=watched)
                times.append(time.process_time() - began)
            ratios.append(times[0] / times[1])
        print(f"{kind}: {sorted(ratios)[pairs // 2]:.3f} times the CPU time of {steps} updates without it")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data")
    parser.add_argument("--part", choices=["planted", "healthy", "cost"])
    parser.add_argument("--steps", type=int, default=300)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    sets = {"digits": plants.digits()} | ({"adult": plants.adult(asked.data)} if asked.data else {})
    rows, counts = [], [0, 0, 0]
    for name, data in sets.items():
        if asked.part in (None, "planted"):
            rows += planted(name, data, asked.steps)
        if asked.part in (None, "healthy"):
            counts = [a + b for a, b in zip(counts, silent(name, data, asked.steps), strict=True)]
    if harmful := [row for row in rows if row[0]]:
        first, two = (sum(told and 0 < place <= n for _, place, told in harmful) for n in (1, 2))
        print(f"{len(harmful)} harmful faults: {first} named first, {two} in the first two")
    if counts[0]:
        print(f"{counts[0]} healthy programs: {counts[1]} with a proposal, {counts[2]} with an alarm")
    if asked.part in (None, "cost"):
        cost(sets["digits"])


if __name__ == "__main__":
    main()
