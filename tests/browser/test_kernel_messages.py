"The page while a cell runs, seen from the wire and without anybody looking"

import json
import os
import subprocess
import time
from contextlib import suppress
from queue import Empty

import nbformat
import pytest
from harness import isolated_environment
from jupyter_client import KernelManager
from jupyter_client.kernelspec import KernelSpecManager
from warm_python import python

SOURCE = """
import time
from toy import steps, kernel
order, ends = [], []
def told(message):
    word = message['content']['data']
    (ends if word == 'end' else order).append(word)
def opened(channel, message):
    channel.on_msg(told)
get_ipython().kernel.comm_manager.register_target('toy', opened)
async def drive(page, seconds, fail=False):
    for _ in steps(seconds):
        await page.turn()
        if ends:
            ends.clear()
            break
    if fail:
        raise ValueError('failed')
    return len(order), page.how
def train(seconds, fail=False):
    page = kernel.find_page(get_ipython())
    return kernel.run_page(drive(page, seconds, fail), page)
"""


def start(name, specs, folder):
    "A client of a kernel that has just been started"
    manager = KernelManager(kernel_name=name, kernel_spec_manager=specs)
    manager.start_kernel(cwd=str(folder), env={**os.environ, "IPYTHONDIR": str(folder)})
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    return client


def end(client):
    client.stop_channels()
    client.parent.shutdown_kernel(now=True)


@pytest.fixture(scope="module")
def at_rest():
    "Clients of kernels that a test has left as it found them, by name"
    clients = {}
    yield clients
    for client in clients.values():
        end(client)


@pytest.fixture
def client(every_kernel, kernelspecs, tmp_path_factory, at_rest):
    "A client of a running kernel, as a front end would be; the kernel serves the next test too, where it is idle again"
    specs = KernelSpecManager(kernel_dirs=[str(kernelspecs / "kernels")])
    client = at_rest.pop(every_kernel, None) or start(every_kernel, specs, tmp_path_factory.mktemp("kernel"))
    yield client
    try:
        client.execute_interactive("%reset -f", timeout=5, allow_stdin=False)
    except (RuntimeError, TimeoutError, Empty):  # what failed may still run
        return end(client)
    at_rest[every_kernel] = client


def run(client, code):
    "Run code with a front end that lets it ask for input; returns the id of the request"
    return client.execute(code, allow_stdin=True)


def begins(client, request):
    "Wait until the kernel has begun with a request"
    while True:
        message = client.get_iopub_msg(timeout=30)
        if (
            message["parent_header"].get("msg_id") == request
            and message["content"].get("execution_state") == "busy"
        ):
            return


def comm(client, kind, data=None):
    "Send a comm message, as a widget does"
    content = {"comm_id": "one", "data": data, "target_name": "toy"}
    client.shell_channel.send(client.session.msg(kind, content))


def replies(client, last, timeout=30):
    "Replies on the shell channel until the one to request `last`, in their order"
    found = []
    while not found or found[-1]["parent_header"]["msg_id"] != last:
        found.append(client.get_shell_msg(timeout=timeout))
    return found


def newest_state(client):
    "The state that a page shows of the kernel"
    state = None
    with suppress(Empty):
        while True:
            message = client.get_iopub_msg(timeout=0.5)
            state = message["content"].get("execution_state", state)
    return state


def value(client, expression):
    "What an expression is in the kernel"
    reply = client.execute_interactive("", user_expressions={"x": expression}, timeout=30, allow_stdin=False)
    return eval(reply["content"]["user_expressions"]["x"]["data"]["text/plain"])


def test_comms_now_cells_later(client):
    "A hundred messages during a run: comms are handled in it, cells after it, both in their order"
    client.execute_interactive(SOURCE, timeout=60)
    comm(client, "comm_open")
    begins(client, run(client, "done = train(60)"))
    for i in range(50):
        comm(client, "comm_msg", i)
        last = run(client, f"order.append('cell {i}')")
    answers = replies(client, client.kernel_info())
    assert len(answers) == 1  # before that of the run: a page that is loaded again asks for it first
    assert newest_state(client) == "busy"  # what a page shows, though comms were answered
    completion = client.complete("orde")
    last = run(client, "order.append('last')")
    comm(client, "comm_msg", "end")
    kinds = [reply["msg_type"] for reply in replies(client, last)]
    assert kinds == ["execute_reply"] * 51 + ["complete_reply", "execute_reply"] and completion
    assert value(client, "done") == (50, "pump")
    assert value(client, "order") == [*range(50), *(f"cell {i}" for i in range(50)), "last"]


def test_a_failed_run_drops_the_cells_behind_it(client):
    "What an error drops in Jupyter is dropped, and what is sent later runs"
    client.execute_interactive(SOURCE, timeout=60)
    comm(client, "comm_open")
    begins(client, run(client, "train(60, fail=True)"))
    last = [run(client, f"order.append({i})") for i in range(5)][-1]
    comm(client, "comm_msg", "end")
    states = [reply["content"]["status"] for reply in replies(client, last)]
    assert states == ["error"] + ["aborted"] * 5
    assert value(client, "order") == []
    run(client, "train(.1)")
    last = run(client, "order.append('later')")
    assert [reply["content"]["status"] for reply in replies(client, last)] == ["ok", "ok"]


def test_interrupt_in_a_callback(client):
    "A callback that hangs is ended by the second interrupt, and nothing is lost"
    client.execute_interactive(SOURCE, timeout=60)
    code = """
from trainopt_nb.base.interrupts import interrupted, interrupts
def hangs(message):
    print('HANGS', flush=True)
    while not interrupted():
        time.sleep(.01)
    print('ASKED', flush=True)
    time.sleep(60)
def hang(channel, message):
    channel.on_msg(hangs)
get_ipython().kernel.comm_manager.register_target('toy', hang)
async def drive(page, seconds, fail=False):
    with interrupts():
        for _ in steps(seconds):
            await page.turn()
"""
    client.execute_interactive(code, timeout=60)
    comm(client, "comm_open")
    begins(client, run(client, "train(60)"))
    comm(client, "comm_msg", 1)
    last = run(client, "1")
    for said in ("HANGS", "ASKED"):  # two signals at the same time would be one
        while said not in str(client.get_iopub_msg(timeout=30)["content"].get("text", "")):
            pass
        client.parent.interrupt_kernel()
    states = [reply["content"].get("ename", reply["content"]["status"]) for reply in replies(client, last)]
    assert states == ["KeyboardInterrupt", "aborted"]
    last = run(client, "2")
    assert replies(client, last)[-1]["content"]["status"] == "ok"


TRAINING = """
%%trainopt fit --epochs 100000 --batch-size 8
import signal, torch
from torch import nn
class Net(nn.Linear):
    calls = 0
    def forward(self, inputs):
        Net.calls += 1
        if Net.calls == 100:
            signal.raise_signal(signal.SIGINT)
        return super().forward(inputs)
inputs = torch.randn(40, 2)
model, train_data = Net(2, 2), (inputs, (inputs[:, 0] > 0).long())
"""
NO_PUMP = """
def none(kernel): raise AttributeError('moved')
from trainopt_nb.notebook import kernel
MessagePump, kernel.MessagePump = kernel.MessagePump, none
%reload_ext trainopt_nb
"""
PUMP = """
kernel.MessagePump = MessagePump
%reload_ext trainopt_nb
"""


def test_an_interrupted_training_drops_the_cells_behind_it(client):
    "One sentence and no traceback, whether the cell pumps, awaits or does nothing; a cell run by hand sees run and model"
    client.execute_interactive("%load_ext trainopt_nb", timeout=60)
    for pump in (True, False):
        if not pump:
            client.execute_interactive(NO_PUMP, timeout=60)
        run(client, TRAINING.strip())
        failed, dropped = replies(client, run(client, "never = True"), timeout=60)[-2:]
        said = failed["content"]
        assert (said["status"], said["ename"]) == ("error", "Interrupted"), said
        assert said["traceback"] == [said["evalue"]] and said["evalue"].startswith(
            "The training was interrupted after step "
        )
        assert dropped["content"]["status"] == "aborted"
        step = int(said["evalue"].split(",")[0].rpartition(" ")[2])
        assert value(client, "run.state, run.progress.step, model.training") == ("stopped", step, False)
    client.execute_interactive(PUMP, timeout=60)


WHILE_READING = """
import signal, zmq
from trainopt_nb.base.interrupts import interrupts
recv = zmq.Socket.recv
def interrupted(self, *args, **kwargs):
    frame = recv(self, *args, **kwargs)
    if self is source:
        zmq.Socket.recv = recv
        signal.raise_signal(signal.SIGINT)
    return frame
async def drive(page, seconds, fail=False):
    global source
    source = page.pump.stream.socket
    with interrupts():
        signal.raise_signal(signal.SIGINT)
        zmq.Socket.recv = interrupted
        for _ in steps(seconds):
            await page.turn()
"""


def test_an_interrupt_while_a_message_is_read(client):
    "The second interrupt after the first frame of the next cell: all of it is read, and the cell is dropped rather than lost"
    client.execute_interactive(SOURCE + WHILE_READING, timeout=60)
    begins(client, run(client, "train(60)"))
    last = run(client, "1")
    states = [reply["content"].get("ename", reply["content"]["status"]) for reply in replies(client, last)]
    assert states == ["KeyboardInterrupt", "aborted"]
    last = run(client, "2")
    assert replies(client, last)[-1]["content"]["status"] == "ok"


def test_a_request_that_comes_with_a_reply_is_read(client):
    "A page that is loaded again asks while the kernel still answers the server; ipykernel 7.0 to 7.3 can miss such a request"
    client.execute_interactive(SOURCE, timeout=60)
    code = """
async def drive(page, seconds, fail=False):
    end = time.monotonic() + seconds
    while time.monotonic() < end:  # steps so short that a reply is under way most of the time
        time.sleep(.002)
        await page.turn()
"""
    client.execute_interactive(code, timeout=60)
    begins(client, run(client, "train(600)"))
    for i in range(300):
        server = client.parent.connect_shell()  # a peer that is gone before its reply
        client.session.send(server, "kernel_info_request")
        time.sleep(0.0005 * (i % 8))  # the two come in another distance each time
        asked = client.kernel_info()
        server.close(linger=0)
        assert replies(client, asked, timeout=20)
    client.parent.interrupt_kernel()


HEADLESS = ["from toy import *", "%%toy .3\nname = 1", "print('next', name)", "print(train(.3))"]
RUNNERS = {
    "nbconvert": ["nbconvert", "--to", "notebook", "--execute", "in.ipynb", "--output", "out.ipynb"],
    "papermill": ["papermill", "in.ipynb", "out.ipynb"],
}


def run_headless(kernel, kernelspecs, tmp_path, runner):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in HEADLESS])
    book.metadata.kernelspec = {"name": kernel, "display_name": kernel, "language": "python"}
    nbformat.write(book, tmp_path / "in.ipynb")
    environment = isolated_environment(tmp_path / "home", kernelspecs)
    subprocess.run(python("-m", *RUNNERS[runner]), cwd=tmp_path, env=environment, check=True)
    cells = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells
    assert "RESULT none after []" in json.dumps(cells[1].outputs[-1])
    assert cells[2].outputs[0].text == "next 1\n"
    assert cells[3].outputs[-1].text == "RESULT none after []\n"


def test_headless(every_kernel, kernelspecs, tmp_path):
    "Nobody looks: the page does nothing and Run All gives the same values"
    run_headless(every_kernel, kernelspecs, tmp_path, "nbconvert")


def test_headless_with_papermill(kernel, kernelspecs, tmp_path):
    "It runs cells by the same client as nbconvert"
    run_headless(kernel, kernelspecs, tmp_path, "papermill")


def test_terminal():
    "A plain IPython has no page either"
    code = "from trainopt_nb.notebook import kernel; print(kernel.find_page(get_ipython()).how)"
    done = subprocess.run(python("-m", "IPython", "-c", code), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "none"
