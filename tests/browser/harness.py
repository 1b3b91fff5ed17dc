"JupyterLab in a headless Chromium: the server, the kernels that it offers, and a page that tests drive"

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
import urllib.request
from collections import deque
from contextlib import suppress
from pathlib import Path

import nbformat
import psutil
from playwright.sync_api import TimeoutError as PageTimeout
from warm_python import python

from trainopt_nb.store.lock import lock_owner

HERE = Path(__file__).resolve().parent  # cells can import what lies here
ROOT = HERE.parents[1]  # the checkout that is tested
KERNELS = {"ipykernel6": "6.31.*", "ipykernel73": "7.3.*", "ipykernel7": None}  # None: the installed one
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {
        "checkForUpdates": False,
        "fetchNews": "false",
        "doNotDisturbMode": True,
    },
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
}
RUN_CELL = """
async (i) => {
  const notebook = window.jupyterapp.shell.currentWidget.content;
  const code = notebook.widgets.filter((cell) => cell.model.type === "code");
  notebook.activeCellIndex = notebook.widgets.indexOf(code[i]);
  window.jupyterapp.commands.execute("notebook:run-cell");
}
"""
IDLE = """
() => {
  const context = window.jupyterapp?.shell.currentWidget?.sessionContext;
  return context?.isReady && context.session?.kernel?.status === "idle";
}
"""
ANSWERS = """
async (seconds) => {
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  const answer = kernel.requestExecute({ code: "", silent: true, store_history: false }).done.then(() => true);
  return Promise.race([answer, new Promise((resolve) => setTimeout(() => resolve(false), 1000 * seconds))]);
}
"""
NUDGE = """
() => { window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.requestKernelInfo().catch(() => {}) }
"""
CONNECTION = """
() => {
  const kernel = window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel;
  return kernel && { connection: kernel.connectionStatus, kernel: kernel.status, comms: kernel.handleComms };
}
"""
COMMS_PLUGIN = "@jupyterlab/apputils-extension:kernels-settings"
SEND_COMMS = "(how) => { window.jupyterapp.serviceManager.kernels.commsOverSubshells = how }"
CELL = ".jp-Notebook .jp-CodeCell"
READ = """
(node) => {
  const { style } = node.closest(".jp-Cell"), before = style.contentVisibility;
  style.contentVisibility = "visible";
  const text = node.innerText;
  style.contentVisibility = before;
  return text;
}
"""
OPEN_ANOTHER = """
async (path) => {
  const app = window.jupyterapp;
  // a question left open, such as that a kernel died, keeps the focus, and the next notebook would never be the current one
  for (const button of document.querySelectorAll(".jp-Dialog .jp-mod-accept")) button.click();
  for (const widget of [...app.shell.widgets("main")]) {
    if (widget.context) widget.context.model.dirty = false;
    widget.dispose();
  }
  await app.commands.execute("docmanager:open", { path, factory: "Notebook" });
}
"""


def fetch_kernel(
    version: str,  # such as `6.31.*`
    cache: Path,  # folder that is kept between sessions
) -> Path:  # folder to put in front of PYTHONPATH
    "Unpack one ipykernel release beside the installed one, once"
    folder = cache / f"ipykernel-{version.rstrip('.*')}"
    if folder.exists():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    half = cache / f".{folder.name}.{os.getpid()}"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--target", half, f"ipykernel=={version}"], check=True)
    try:
        half.rename(folder)
    except OSError:  # another session was faster
        shutil.rmtree(half)
    return folder


def write_kernelspec(
    folder: Path,  # of the kernelspec
    paths,  # folders in front of PYTHONPATH
):
    "A kernelspec that runs this interpreter with another ipykernel"
    folder.mkdir(parents=True, exist_ok=True)
    spec = {
        "argv": python("-m", "ipykernel_launcher", "-f", "{connection_file}"),
        "display_name": folder.name,
        "language": "python",
        "env": {"PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"},
    }
    (folder / "kernel.json").write_text(json.dumps(spec))


def offer_kernels(
    share: Path,  # the `share/jupyter` folder that gets the kernelspecs
    cache: Path,  # folder that is kept between sessions
):
    "Write one kernelspec for each ipykernel that is tested"
    for name, version in KERNELS.items():
        paths = [fetch_kernel(version, cache)] if version else []
        write_kernelspec(share / "kernels" / name, [*paths, ROOT, HERE])


def isolated_environment(
    home: Path,  # folder for everything that Jupyter writes
    share: Path,  # a `share/jupyter` folder with kernelspecs
) -> dict[str, str]:  # environment variables
    "An environment in which the user's own Jupyter settings play no part"
    home.mkdir(parents=True, exist_ok=True)
    names = ("CONFIG", "DATA", "RUNTIME")
    places = {f"JUPYTER_{name}_DIR": str(home / name.lower()) for name in names}
    return {
        **os.environ,
        **places,
        "JUPYTER_PATH": str(share),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
    }


class Server:
    "JupyterLab on loopback, with its own settings, kernels and notebooks"

    def __init__(
        self,
        home: Path,  # an empty folder
        share: Path,  # a `share/jupyter` folder with kernelspecs
    ):
        self.home, self.work, self.token = home, home / "work", secrets.token_hex(16)
        self.environment = isolated_environment(home, share)
        self.work.mkdir(parents=True)
        self.log = (home / "server.log").open("wb")
        flags = {
            "ServerApp.ip": "127.0.0.1",
            "ServerApp.port": 0,
            "ServerApp.open_browser": False,
            "ServerApp.allow_root": True,
            "ServerApp.root_dir": self.work,
            "IdentityProvider.token": self.token,
            "LabApp.expose_app_in_browser": True,
            "LabApp.news_url": "None",
            "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
            "LabApp.extension_manager": "readonly",
            # each page that is loaded would have Node look whether JupyterLab should be built anew
            "ServerApp.tornado_settings": {
                "page_config_data": {"buildCheck": False, "buildAvailable": False}
            },
        }
        command = [sys.executable, "-m", "jupyterlab", *(f"--{k}={v}" for k, v in flags.items())]
        self.process = subprocess.Popen(
            command, cwd=self.work, env=self.environment, stdout=self.log, stderr=self.log
        )
        self.url = self._wait()
        for plugin, values in SETTINGS.items():
            self.set(plugin, **values)

    def _wait(self):
        info = self.home / "runtime" / f"jpserver-{self.process.pid}.json"
        end = time.monotonic() + 60
        while time.monotonic() < end and self.process.poll() is None:
            with suppress(OSError, ValueError):
                self.url = f"http://127.0.0.1:{json.loads(info.read_text())['port']}"
                self.ask("GET", "/api/status")
                return self.url
            time.sleep(0.1)
        raise RuntimeError(f"JupyterLab did not start:\n{(self.home / 'server.log').read_text()[-3000:]}")

    def ask(
        self,
        method: str,  # such as GET
        path: str,  # such as `/api/sessions`
        body=None,  # sent as JSON
    ):
        "One request to the server's own interface; returns the JSON that it answers"
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"token {self.token}"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def set(self, plugin, **values):
        "Write settings of a JupyterLab plugin; pages loaded later see them"
        self.ask("PUT", f"/lab/api/settings/{plugin}", {"raw": json.dumps(values)})

    def kernels(self):
        "The kernels that run now, as the server describes them"
        return self.ask("GET", "/api/kernels")

    def end_sessions(self):
        "Kill every kernel, and end with it what the last test left running: the server waits seconds for a busy one to end itself"
        running = {kernel["id"] for kernel in self.kernels()}
        for process in psutil.process_iter(["cmdline"]):
            if any(each in word for word in process.info["cmdline"] or [] for each in running):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        for session in self.ask("GET", "/api/sessions"):
            with suppress(OSError):
                self.ask("DELETE", f"/api/sessions/{session['id']}")
        for kernel in self.kernels():
            with suppress(OSError):
                self.ask("DELETE", f"/api/kernels/{kernel['id']}")

    def end_runs(self):
        "Kill what still trains in the background: it would slow down every test that follows"
        for lock in self.work.glob("**/runs/*/lock"):
            if (owner := lock_owner(lock)) and owner["pid"]:
                with suppress(psutil.NoSuchProcess):
                    psutil.Process(owner["pid"]).kill()

    def close(self):
        "End the server and every process that it started"
        with suppress(OSError):
            self.end_sessions()
        with suppress(psutil.NoSuchProcess):
            family = psutil.Process(self.process.pid).children(recursive=True)
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        self.log.close()


BLANK = """<!doctype html><meta charset="utf-8"><style>body { margin: 0; background: #fff }
@media (prefers-color-scheme: dark) { body { background: #111 } }</style><div id="first"></div><div id="second"></div>"""


class Plain:
    "A page without JupyterLab that is blank for each test: another page would take the browser longer than most of them"

    def __init__(self, browser):
        self.page = browser.new_page()
        self.page.expose_function("toKernel", lambda content: self.take(content))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._complaint)
        self.errors = []  # what the page complained of since it was blank

    def _complaint(self, message):
        # a test that reads the canvas is what Chromium comments on
        if message.type in ("error", "warning") and "getImageData" not in message.text:
            self.errors.append(message.text)

    def blank(
        self,
        take=lambda content: None,  # gets what a script of the page gives to `toKernel`
        *,
        width: int = 1000,
        height: int = 900,
        dark: bool = False,  # the colors that the page prefers
    ):
        "The page, as if it was new"
        self.take = lambda content: None
        self.page.mouse.move(-9, -9)  # away from where the next test has something
        self.page.goto("about:blank")
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.emulate_media(color_scheme="dark" if dark else "light")
        self.page.set_content(BLANK)
        self.take, self.errors = take, []
        return self.page


class Lab:
    "One browser page of JupyterLab, with one notebook open at a time; loading it takes seconds, opening another notebook does not"

    def __init__(
        self,
        server: Server,
        page,  # of Playwright; use it for anything that is not offered here
        shots: Path,  # folder for screenshots
    ):
        self.server, self.page, self.shots = server, page, shots
        self.errors = []  # uncaught errors of the page
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.console = deque(maxlen=30)  # what the page warned of
        self.heard, self.ear = deque(maxlen=200), None  # messages between page and kernels, after `hear`
        page.on("console", lambda said: said.type in ("warning", "error") and self.console.append(said.text))
        page.on("dialog", lambda dialog: dialog.accept())  # leave a page with unsaved changes
        self.name = None
        self.stale = True  # the next notebook needs a page that is loaded anew

    # the notebook

    def open(
        self,
        *cells: str,  # sources of the code cells
        kernel: str = "ipykernel7",  # name of a kernelspec
    ):
        "Write a notebook, open it and wait for its kernel"
        return self._show(
            nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells]), kernel
        )

    def open_file(
        self,
        path: Path,  # a notebook of the project, such as a guide
        kernel: str = "ipykernel7",  # name of a kernelspec
    ):
        "Open a copy of a notebook and wait for its kernel"
        return self._show(nbformat.read(path, as_version=4), kernel)

    def _show(self, book, kernel):
        if self.ear:
            self.page.remove_listener("websocket", self.ear)
        self.heard.clear()
        self.ear = None
        self.name = f"{kernel}-{secrets.token_hex(4)}.ipynb"
        book.metadata.kernelspec = {"name": kernel, "display_name": kernel, "language": "python"}
        nbformat.write(book, self.server.work / self.name)
        for _ in range(3):
            if self.stale:
                self.page.goto(f"{self.server.url}/lab/tree/{self.name}?token={self.server.token}&reset")
            else:
                self.page.evaluate(OPEN_ANOTHER, self.name)
            self.stale = False
            self.page.wait_for_selector(CELL, timeout=60_000)
            if self._is_answered():
                self.errors.clear()  # of the notebook that was closed
                return self
            self.server.end_sessions()
            self.stale = True
        raise AssertionError(f"{kernel} does not answer its page, three times")

    def _is_answered(self):
        "Whether the kernel answers within a minute; a page can miss what it says first, and learns it when it asks again"
        for _ in range(12):
            with suppress(PageTimeout):
                self.wait_idle(5)
                return self.page.evaluate(ANSWERS, 20)
            self.page.evaluate(NUDGE)
        return False

    def default_comms(self):
        "How JupyterLab sends messages of widgets unless it is told otherwise"
        schema = self.server.ask("GET", f"/lab/api/settings/{COMMS_PLUGIN}")["schema"]
        return schema["properties"]["commsOverSubshells"]["default"]

    def send_comms(self, how):
        "Choose how messages of widgets are sent; the page does at once what it does when its setting is changed"
        self.server.set(COMMS_PLUGIN, commsOverSubshells=how)
        if not self.stale:
            self.page.evaluate(SEND_COMMS, how)

    def cell(self, i):
        "Locator of code cell `i`"
        return self.page.locator(CELL).nth(i)

    def output(self, i):
        "Locator of the output area of code cell `i`"
        return self.cell(i).locator(".jp-Cell-outputArea")

    def read(
        self,
        part,  # locator of one element within a cell
    ):
        "The text of a part of a cell; that of Playwright's `inner_text` is empty while the cell is scrolled out of view"
        return part.evaluate(READ)

    def text(self, i):
        "What code cell `i` shows"
        area = self.output(i)
        return self.read(area) if area.count() else ""

    def prompt(self, i):
        "`[*]` while code cell `i` runs or waits, `[3]` after it was the third to run"
        return self.read(self.cell(i).locator(".jp-InputPrompt")).strip().rstrip(":")

    def run(self, i):
        "Run code cell `i`; does not wait for its end"
        self.page.evaluate(RUN_CELL, i)

    def run_all(self):
        "Run every cell from the top; does not wait for the end"
        self.page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")

    def save(self):
        "Save the notebook"
        self.command("docmanager:save")

    def hear(self):
        "Keep the newest messages of kernels to the page from its next load on, for the report of a failed test"
        began = time.monotonic()

        def listen(socket):
            def keep(way, data):
                raw = data if isinstance(data, bytes) else data.encode()
                types, state = (
                    re.findall(rb'"msg_type":\s*"(\w+)"', raw),
                    re.search(rb'"execution_state":\s*"(\w+)"', raw),
                )
                words = [word.decode() for word in (*types[:2], *(state.groups() if state else ()))]
                self.heard.append(
                    f"{time.monotonic() - began:.2f} {way} {id(socket) % 1000} {' '.join(words)}"
                )

            self.heard.append(f"{time.monotonic() - began:.2f} opens {id(socket) % 1000}")
            socket.on("framereceived", lambda data: keep("gets", data))
            socket.on("framesent", lambda data: keep("sends", data))
            socket.on(
                "close",
                lambda _: self.heard.append(f"{time.monotonic() - began:.2f} closes {id(socket) % 1000}"),
            )

        self.ear = listen
        self.page.on("websocket", listen)

    def refresh(self):
        "Load the page again; waits for the notebook, not for its kernel"
        self.page.reload()
        self.page.wait_for_selector(CELL, timeout=60_000)

    def saved(self):
        "The notebook file as it lies on the disk"
        return nbformat.read(self.server.work / self.name, as_version=4)

    def story(self):
        "What every code cell shows, for the report of a failed test"
        return "\n".join(f"{self.prompt(i)} {self.text(i)}" for i in range(self.page.locator(CELL).count()))

    def complaints(self):
        "How the page, the kernel and the server are, for the report of a failed test"
        said = [str(self.page.evaluate(CONNECTION)), *self.errors, *self.console, *self.heard]
        logs = sorted(self.server.work.glob("**/events.jsonl"), key=lambda path: path.stat().st_mtime)
        for log in logs[-1:]:  # whether the kernel goes on
            line = log.read_text(errors="replace").splitlines()[-1:]
            said.append(
                f"newest run: written {time.time() - log.stat().st_mtime:.1f} s ago, last {line}"[:400]
            )
        server = (self.server.home / "server.log").read_text(errors="replace")
        return "\n".join([*said, "end of the server's log:", server[-3000:]])

    def screenshot(self, name):
        "Save a picture of the page; returns its path"
        self.shots.mkdir(parents=True, exist_ok=True)
        path = self.shots / f"{name}.png"
        self.page.screenshot(path=path)
        return path

    # the kernel

    def command(self, name, **arguments):
        "Run a command of JupyterLab and wait until it is done"
        return self.page.evaluate(
            "async ([name, args]) => { await window.jupyterapp.commands.execute(name, args) }",
            [name, arguments],
        )

    def interrupt(self):
        "Press the toolbar's stop button"
        self.page.locator("[data-jp-item-name=interrupt] jp-button").first.click()

    def restart(self):
        "Press the toolbar's restart button and confirm"
        self.page.locator("[data-jp-item-name=restart] jp-button").first.click()
        self.page.locator(".jp-Dialog button.jp-mod-accept").click()

    def wait_idle(self, timeout=60):
        "Until the kernel says that it has nothing to do"
        self.page.wait_for_function(IDLE, timeout=timeout * 1000)

    # waiting

    def wait_for(self, check, what, timeout=60):
        "Until `check()` is true; returns what it returned. Each look takes the browser 10 ms, so there are 20 in a second"
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if found := check():
                return found
            self.page.wait_for_timeout(40)
        self.screenshot("timeout")
        raise AssertionError(f"not within {timeout} s: {what}")

    def wait_text(self, i, pattern, timeout=60):
        "Until the output of cell `i` matches; returns the match"
        try:
            return self.wait_for(lambda: re.search(pattern, self.text(i)), f"{pattern} in cell {i}", timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}, which shows:\n{self.text(i)}") from None

    def wait_done(self, i, timeout=60):
        "Until cell `i` has run; returns its prompt"
        done = lambda: (p := self.prompt(i)) not in ("[ ]", "[*]", "[]") and p
        return self.wait_for(done, f"cell {i} is done", timeout)
