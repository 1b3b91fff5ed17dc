"What all tests share: which of them run, where and in which order, and the fixtures"

import asyncio
import atexit
import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import properties  # noqa: F401 its profiles are there before a test or an option asks for one
import pytest
from machine import Machine
from warm_python import python
from xdist.scheduler import LoadScopeScheduling

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads a process on busy cores wait for each other
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # its helpers would each import PyTorch
os.environ["TRAINOPT_LANGUAGE"] = "en"  # whatever the developer speaks
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what runs in the background ignore it
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of processes would each compile the whole package
CHROMIUM = "/usr/bin/chromium"


# which tests run, and where


@pytest.hookimpl(tryfirst=True)  # before pytest looks where temporary files lie
def pytest_configure(config):
    "Leave slow tests out unless `-m` names them, and make a folder that all processes of this test run share"
    chosen = config.option.markexpr
    if "slow" not in chosen:
        config.option.markexpr = f"({chosen}) and not slow" if chosen else "not slow"
    if not hasattr(config, "workerinput"):  # not one of the processes of pytest-xdist
        folder = tempfile.TemporaryDirectory(prefix="trainopt-tests-", ignore_cleanup_errors=True)
        config.add_cleanup(folder.cleanup)
        if memory() and not config.option.basetemp:
            files = tempfile.TemporaryDirectory(
                prefix="trainopt-tests-", dir=memory(), ignore_cleanup_errors=True
            )
            config.add_cleanup(files.cleanup)
            config.option.basetemp = f"{files.name}/files"
        os.environ["TRAINOPT_TEST_RUN"] = folder.name
        # in memory, since each shell waits until the disk has its history; not the developer's
        os.environ["IPYTHONDIR"] = ipython = tempfile.mkdtemp(prefix="trainopt-tests-", dir=memory())
        atexit.register(shutil.rmtree, ipython, ignore_errors=True)  # after the shells of this process
        # PyTorch's compiler prepares its headers once for all programs, and does not try with g++ what the processor can do
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{folder.name}/inductor"
        os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")
        os.environ["XDG_STATE_HOME"] = folder.name  # the key that signs runs is not the developer's
        if config.args_source is config.ArgsSource.TESTPATHS:  # no files are named, which may need none of it
            start_warm(config.option)


def start_warm(option):
    "Have one warm process for all, of which the processes of pytest-xdist are forks: each would import for as long as it does"
    option.tx = [f"popen//python={python()[0]}" if how == "popen" else how for how in option.tx]


def memory():
    "Where there is room in memory for files: a disk that is told to write through takes most of a small run's time"
    place = "/dev/shm"
    return place if os.access(place, os.W_OK) and shutil.disk_usage(place).free > 2 << 30 else None


def is_marked(item, name):
    return item is not None and item.get_closest_marker(name) is not None


def pytest_collection_modifyitems(items):
    "What needs JupyterLab takes longest and comes first, and of it what measures time; notebooks are last, to fill the gaps"

    def turn(item):
        if in_lab(item.path):
            return -1 if "undisturbed" in item.fixturenames else 0
        return 2 if alone(item.nodeid) else 1

    items.sort(key=turn)


def alone(nodeid):
    "Whether a test may run in any process, wherever others of its file run"
    return "::test_notebook_runs[" in nodeid


@cache
def in_lab(path):
    "Whether a file has tests that drive JupyterLab, or the site in the same browser"
    return re.search(r"^def test_\w+\([^)]*\b(lab|watch)\b", path.read_text(), re.MULTILINE) is not None


class Groups(LoadScopeScheduling):
    "One process gets all files that drive JupyterLab; any other file is a group, and so is each notebook"

    def _split_scope(self, nodeid):
        if alone(nodeid):
            return nodeid
        file = nodeid.partition("::")[0]
        return "lab" if in_lab(self.config.rootpath / file) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return Groups(config, log)


# garbage collection: each one would look through half a million objects of imported modules, and what earlier files keep


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    "Nothing of what is imported is garbage, and to look for it would take a quarter of the time"
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def freeze_objects():
    "Leave what is there now out of later garbage collections"
    gc.collect()
    gc.freeze()


def pytest_collection_finish():
    freeze_objects()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    if nextitem is not None and nextitem.path != item.path:
        freeze_objects()


# tests that measure time


@cache
def machine():
    return Machine(os.environ["TRAINOPT_TEST_RUN"])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    "A test is in the room from its setup to its teardown"
    machine().enter(alone=False)
    try:
        return (yield)
    finally:
        machine().leave()


@contextmanager
def alone_on_machine():
    "Wait until no other process of this test run has a test; none begins one meanwhile"
    machine().enter(alone=True)
    try:
        yield
    finally:
        machine().enter(alone=False)


@pytest.fixture
def undisturbed():
    "`with undisturbed():` no other test runs beside what is measured; have all that takes long ready before"
    return alone_on_machine


@pytest.fixture(scope="session")
def give_way():
    "For a program that takes long, as `watch` of `run_warm`: a test that needs the machine alone does not wait for its end"
    return machine().give_way


@contextmanager
def no_loop(item):
    "Playwright leaves its loop marked as running; it needs that mark again, and the loop of another test must not meet it"
    loop = asyncio._get_running_loop()
    if not is_marked(item, "browser"):
        asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(asyncio._get_running_loop() or loop)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    with no_loop(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    with no_loop(item):
        return (yield)


# fixtures


@pytest.fixture(scope="session")
def browser():
    "A headless Chromium"
    if not Path(CHROMIUM).exists():
        pytest.fail(f"the browser tests need {CHROMIUM}: apt-get install chromium", pytrace=False)
    sys.path.insert(0, str(Path(__file__).parent / "browser"))
    from harness import CHROMIUM_FLAGS
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def shell(tmp_path, monkeypatch):
    "A shell of its own, in an empty folder"
    from IPython.core.interactiveshell import InteractiveShell

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRAINOPT_FLAGS", raising=False)
    shell = InteractiveShell.instance()
    shell.reset(new_session=False)
    shell.run_line_magic("load_ext", "trainopt_nb")
    shell.run_line_magic("reload_ext", "trainopt_nb")
    yield shell
    shell.run_line_magic("unload_ext", "trainopt_nb")


@pytest.fixture
def tmp_path():
    "A folder in memory where there is room"
    with tempfile.TemporaryDirectory(dir=memory(), ignore_cleanup_errors=True) as path:
        yield Path(path)


@pytest.fixture
def disk_path():
    "A folder on the disk: where a save is to be met while it is written, or memory is not what the test has"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as path:
        yield Path(path)


@pytest.fixture
def small_disk(tmp_path, request):
    "A file system of 1 MB; an indirect parameter gives other options of `mount`"
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", getattr(request, "param", "size=1m"), "none", disk]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here; limits of the system stand for it")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.fixture(scope="session")
def warm_process():
    "The workers of this process start quickly"
    python()


@pytest.fixture(scope="module")
def warm_kernel(tmp_path_factory):
    "The kernel `python3`, for nbconvert and papermill, starts from the warm process"
    share = tmp_path_factory.mktemp("share")
    spec = {"argv": python("-m", "ipykernel_launcher", "-f", "{connection_file}"), "display_name": "warm"}
    (share / "kernels/python3").mkdir(parents=True)
    (share / "kernels/python3/kernel.json").write_text(json.dumps(spec))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(share))
        yield


@pytest.fixture
def wired():
    "A function that makes a panel of a class, and returns it with the wire that it talks to"
    from helpers import Wire

    panels = []

    def build(cls, *args, **kwargs):
        panel = cls(*args, **kwargs)
        panels.append(panel)
        panel.widget.comm = Wire()
        return panel, panel.widget.comm

    yield build
    for panel in panels:
        panel.widget.close()
