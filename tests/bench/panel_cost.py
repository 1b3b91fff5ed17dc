"""
What the live panel costs: the same training, recorded, without and with a panel in a real kernel

    python tests/bench/panel_cost.py

A kernel is started as a front end starts it, and this process plays the front end: it reads every message, counts those
of the panel, and answers as the page would. Inside, the run is driven by what `%%trainopt fit` uses, with the kernel's
own way of giving the page its turn, and takes turns with the hand-written loop at its epoch ends.
"""

import json
import queue
import subprocess
import sys
import threading
from pathlib import Path

HERE = Path(__file__).parent
CELL = """
import sys
sys.path[:0] = {paths!r}
import torch
torch.set_num_threads(1)
import panel_cost
panel_cost.found = await panel_cost.inside({kind!r}, {instances}, {epochs})
"""


async def inside(kind, instances, epochs):
    "In the kernel: CPU seconds an epoch and those of the hand-written ones, with and without a panel"
    import random
    import shutil
    import tempfile

    from common import Turns
    from IPython import get_ipython
    from loop_overhead import StopAtEpochs, options, task

    from trainopt_nb import Run
    from trainopt_nb.api.handle import LocalRun
    from trainopt_nb.api.log import follow
    from trainopt_nb.events.progress import Progress
    from trainopt_nb.notebook.kernel import find_page
    from trainopt_nb.notebook.train_in_cell import train_with_panel
    from trainopt_nb.train.loop import train

    page = find_page(get_ipython(), awaited=True)
    found = {name: ([], []) for name in ("without", "with")}

    async def one(name, folder):
        turns, given = Turns(kind), task(kind)
        run = Run.create(folder, kind, {})
        run.start_writing()
        progress = Progress(run.name)
        told = follow(StopAtEpochs(train(given, options(epochs), run.path, run.name), turns), run, progress)
        if name == "with":
            job = LocalRun(run, progress, told, given.model)
            if page.how == "pump":
                with page.pump:
                    await train_with_panel(job, page)
            else:
                await train_with_panel(job, page)
        else:
            for _ in told:
                pass
        for kept, new in zip(found[name], turns.pairs, strict=True):
            kept += new

    names = list(found)
    for _ in range(instances):
        random.shuffle(names)
        for name in names:
            folder = tempfile.mkdtemp(prefix="trainopt-bench-")
            await one(name, folder)
            shutil.rmtree(folder)
    print(json.dumps({"how": page.how, **found}))


class FrontEnd(threading.Thread):
    "Reads what the kernel publishes, as a page would"

    def __init__(self, client):
        super().__init__(daemon=True)
        self.client, self.news, self.bytes, self.text = client, 0, 0, ""
        self.done = threading.Event()

    def run(self):
        while True:
            try:
                message = self.client.get_iopub_msg(timeout=1)
            except queue.Empty:
                continue
            except Exception:  # the channel was closed
                return
            kind, content = message["msg_type"], message["content"]
            if kind == "comm_msg":
                self.news += 1
                self.bytes += len(json.dumps(content))
            elif kind == "stream" and content["name"] == "stdout":
                self.text += content["text"]
                if self.text.endswith("}\n"):
                    self.done.set()


def panel_rows(kind, instances, epochs):
    "Lines of the table"
    from common import ratio, row
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3", stderr=subprocess.DEVNULL)
    page = FrontEnd(client)
    page.start()
    try:
        paths = [str(HERE), str(HERE.parent.parent)]
        asked = client.execute(
            CELL.format(paths=paths, kind=kind, instances=instances, epochs=epochs), allow_stdin=True
        )
        while (reply := client.get_shell_msg(timeout=1800))["parent_header"].get("msg_id") != asked:
            pass  # a late answer to what was asked while the kernel started
        answer = reply["content"]
        if answer["status"] != "ok":
            raise RuntimeError("\n".join(answer["traceback"]))
        page.done.wait(10)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    found = json.loads(page.text)
    more = ratio(*found["with"])[0] - ratio(*found["without"])[0]
    return [
        row("in a kernel: recorded", kind, *found["without"]),
        row(f"in a kernel: recorded, with the panel ({found['how']})", kind, *found["with"]),
        f"    the panel costs {more:+.3f}; {page.news} messages of {page.bytes / max(page.news, 1) / 1000:.1f} kB",
    ]


def main():
    import torch
    from common import HEAD, MODELS, machine

    torch.set_num_threads(1)
    print(machine())
    for kind in MODELS:
        print(f"\n{kind}\n{HEAD}")
        for line in panel_rows(kind, *{"mlp": (12, 204), "cnn": (3, 24)}[kind]):
            print(line, flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent.parent))
    main()
