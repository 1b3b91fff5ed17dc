"A training that is not one: 20 ms steps that keep the processor busy, and a small panel. Runs in the kernel under test"

import time

import ipywidgets as W
from IPython import get_ipython
from IPython.core.magic import register_line_cell_magic
from IPython.display import display

from trainopt_nb.base.interrupts import interrupts
from trainopt_nb.notebook import await_magic, kernel

STEP = 0.02  # seconds


def steps(seconds):
    "Busy steps, as long as asked"
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        now = time.monotonic()
        while time.monotonic() < now + STEP:
            pass
        yield


class Panel:
    "A button, a number to edit, a button that fails and a line that tells"

    def __init__(self):
        self.inbox = []  # callbacks can come in another thread: they only leave a word
        stop, click, boom = (
            W.Button(description="stop"),
            W.Button(description="click"),
            W.Button(description="boom"),
        )
        stop.on_click(lambda _: self.inbox.append("stop"))
        click.on_click(lambda _: self.inbox.append("click"))
        boom.on_click(lambda _: 1 / 0)
        self.number, self.line = W.IntText(value=0, continuous_update=True), W.Label()
        self.number.observe(lambda change: self.inbox.append(f"number {change['new']}"), "value")
        for name, part in dict(stop=stop, click=click, boom=boom, number=self.number, line=self.line).items():
            part.add_class(f"toy-{name}")
        self.box = W.VBox([stop, click, boom, self.number, self.line])


async def drive(page, seconds, stubborn=False):
    "As the real driver does it: step, look, give the page its turn; a stubborn one does not stop when asked"
    panel, seen, shown, count = Panel(), [], 0.0, 0
    display(panel.box)
    with interrupts() as interrupt:
        for count, _ in enumerate(steps(seconds), 1):
            if interrupt.requested and "interrupt" not in seen:
                seen.append("interrupt")
                if not stubborn:
                    break
            if time.monotonic() - shown < 0.1:
                continue
            await page.turn()
            seen += panel.inbox
            panel.inbox.clear()
            panel.line.value = f"step {count} {page.how} {' '.join(seen[-1:])}"
            shown = time.monotonic()
            if "stop" in seen:
                break
    return f"RESULT {page.how} after {seen}"


def train(seconds=60, stubborn=False):
    "The plain function"
    page = kernel.find_page(get_ipython())
    return kernel.run_page(drive(page, seconds, stubborn), page)


@register_line_cell_magic
def toy(line, cell=""):
    "The magic: `%%toy SECONDS [stubborn]`"
    page = kernel.find_page(get_ipython(), awaited=await_magic.is_awaited())
    seconds, *stubborn = line.split()
    exec(cell, get_ipython().user_ns)
    return kernel.run_page(drive(page, float(seconds), bool(stubborn)), page)


def cost(page, turns=2000):
    "Milliseconds of one turn when nothing is waiting, median"

    async def measure():
        times = []
        for _ in range(turns):
            start = time.perf_counter()
            await page.turn()
            times.append(time.perf_counter() - start)
        return sorted(times)[turns // 2] * 1000

    return kernel.run_page(measure(), page)


await_magic.await_magics(get_ipython(), "toy")
