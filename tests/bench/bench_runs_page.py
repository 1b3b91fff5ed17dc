"""The table of hundreds of runs in the page: what the kernel and Chromium take

    python tests/bench/bench_runs_page.py [RUNS]

A real training of ten epochs is copied RUNS times with other options, values and ends. `first paint` is from the call in the kernel to the second
frame after the rows are in the page; `sort` and `filter` are from the click or the last key, without the 200 ms that the page waits for another key,
to the second frame with the answer. `idle` is the processor time of the kernel for a look at the folder in which nothing changed, with its answer.
"""

import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path[:0] = [str(Path(__file__).parents[1] / "browser"), str(Path(__file__).parents[1])]

import torch  # noqa: E402
from harness import CHROMIUM_FLAGS, Plain  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402
from test_runs_page import Page  # noqa: E402
from torch import nn  # noqa: E402

from trainopt_nb import fit  # noqa: E402
from trainopt_nb.panels import runs_panel  # noqa: E402
from trainopt_nb.runs.table import list_runs  # noqa: E402

STATES = {
    "finished": "all 10 epochs are done",
    "stopped": "stopped by hand",
    "failed": "the loss is not finite (nan) at step 93",
}
FRAMES = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


def train(folder):
    "Return the directory of a real run"
    x, y = torch.randn(1000, 32), torch.arange(1000) % 10
    how = {"folder": folder, "epochs": 10, "write": lambda line: None}
    return fit(nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10)), (x, y), (x, y), **how).path


def copy(original, folder, number, draw):
    "Write another run with other options, values and another end"
    path = folder / f"2026-11-{1 + number % 28:02}-bench-{number}"
    shutil.copytree(original, path, ignore=shutil.ignore_patterns("summary.json", "lock*"))
    facts, options = (json.loads((path / name).read_text()) for name in ("run.json", "options.json"))
    options |= {
        "lr": 10 ** draw.uniform(-4, -1),
        "batch_size": draw.choice([32, 64, 128]),
        "seed": draw.randint(0, 5),
    }
    options["optimizer"], state = (
        draw.choice(["adamw", "sgd", "adam"]),
        draw.choices(list(STATES), [8, 1, 1])[0],
    )
    facts |= {"name": path.name, "created": 1.79e9 + number}
    facts["seen"]["labels"] = f"task {number % 4}"
    best, lines = draw.uniform(0.5, 0.99), []
    for line in (path / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["kind"] == "Epoch":
            event["metrics"] = {"accuracy": best * (1 - 2.0 ** -event["epoch"])}
        if event["kind"] == "Ended":
            event |= {"state": state, "reason": STATES[state]}
        lines.append(json.dumps(event))
    (path / "events.jsonl").write_text("\n".join(lines) + "\n")
    (path / "run.json").write_text(json.dumps(facts))
    (path / "options.json").write_text(json.dumps(options))


def waited(page, does, shows):
    "Milliseconds from an action to the second frame in which the page shows what follows from it"
    begun = time.perf_counter()
    does()
    while not page.page.evaluate(shows):
        page.hand_over_now()
    page.page.evaluate(FRAMES)
    return (time.perf_counter() - begun) * 1000


class Quick(Page):
    "A page whose answers are handed over at once"

    def hand_over_now(self):
        self.page.wait_for_timeout(0)
        while self.waiting:
            self.page.evaluate("(data) => fromKernel(data)", self.waiting.pop(0))


def measure(browser, folder):
    "Return the figures of one opening of the table"
    plain, figures = Plain(browser), {}
    begun = time.perf_counter()
    page = Quick(plain, folder, {"width": 1200})
    page.page.evaluate(FRAMES)
    figures["first paint"] = (time.perf_counter() - begun) * 1000
    page.hand_over_now()
    sort = lambda word: page.root.locator(".tonb-sort", has_text=word).first.evaluate(
        "(node) => node.click()"
    )
    shows = lambda way: (
        f"() => document.querySelector('.tonb-head-option[aria-sort={way}], .tonb-head-best[aria-sort={way}]') !== null"
    )
    figures["sort by lr"] = waited(page, lambda: sort("lr"), shows("ascending"))
    figures["sort by best"] = waited(page, lambda: sort("best"), shows("descending"))
    query = "(box) => { box.value = 'adam lr<1e-2 state=finished'; box.dispatchEvent(new Event('input', { bubbles: true })); }"
    counted = "() => document.querySelector('.tonb-count').textContent.includes(' of ')"
    figures["filter"] = waited(page, lambda: page.root.locator(".tonb-query").evaluate(query), counted) - 200
    spent = []
    for _ in range(20):
        before = time.process_time()
        page.panel.receive(
            {"since": page.panel.table.version, "number": page.panel.view.number, "curves": {}}
        )
        spent.append((time.process_time() - before) * 1000)
    figures["idle"] = median(spent)
    page.panel.widget.close()
    plain.page.close()
    return figures


if __name__ == "__main__":
    runs, draw = int((*sys.argv[1:], "500")[0]), random.Random(0)
    runs_panel.REST = 0
    with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        original, folder = train(Path(home) / "one"), Path(home) / "runs"
        for number in range(runs):
            copy(original, folder, number, draw)
        list_runs(folder).entries()  # writes the summaries, as each run would have
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM_FLAGS)
        found = [measure(browser, folder) for _ in range(5)]
        browser.close()
    for name in found[0]:
        print(f"{name}: {median(each[name] for each in found):.0f} ms")
