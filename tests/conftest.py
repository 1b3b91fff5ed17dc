"What all tests share: which of them run, where and in which order, and the fixtures"

import asyncio
import fcntl
import json
import os
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest
from warm_python import python

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads a process on busy cores wait for each other
os.environ["TRAINOPT_LANGUAGE"] = "en"  # whatever the developer speaks
CHROMIUM = "/usr/bin/chromium"


# which tests run, and where


def pytest_configure(config):
    "Leave slow tests out unless `-m` names them, and make a folder that all processes of this test run share"
    chosen = config.option.markexpr
    if "slow" not in chosen:
        config.option.markexpr = f"({chosen}) and not slow" if chosen else "not slow"
    if not hasattr(config, "workerinput"):  # not one of the processes of pytest-xdist
        folder = tempfile.TemporaryDirectory(prefix="trainopt-tests-")
        config.add_cleanup(folder.cleanup)
        os.environ["TRAINOPT_TEST_RUN"] = folder.name


def is_marked(item, name):
    return item is not None and item.get_closest_marker(name) is not None


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items):
    "One process has what measures time and what needs JupyterLab, and begins with it; else each file is a group"
    first = lambda item: is_marked(item, "quiet") or "lab" in item.fixturenames
    items.sort(key=lambda item: (not first(item), not is_marked(item, "quiet"), is_marked(item, "browser")))
    for item in items:
        if not is_marked(item, "xdist_group"):
            item.add_marker(pytest.mark.xdist_group("lab" if first(item) else item.path.stem))


# tests that measure time


class Machine:
    "Two locks by which the processes of a test run share the machine, or one of them has it alone"

    def __init__(self, folder):
        self.door, self.room = (open(Path(folder, name), "w") for name in ("door", "room"))
        self.alone = False

    def enter(self, alone):
        "Wait for the machine; a process that waits to be alone holds the door, so that no other enters meanwhile"
        if alone and self.alone:
            return
        self.leave()
        fcntl.flock(self.door, fcntl.LOCK_EX)
        fcntl.flock(self.room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(self.door, fcntl.LOCK_UN)
        self.alone = alone

    def leave(self):
        fcntl.flock(self.room, fcntl.LOCK_UN)
        self.alone = False


@cache
def machine():
    return Machine(os.environ["TRAINOPT_TEST_RUN"])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    "Tests that measure time run while no other process of this test run has a test"
    machine().enter(alone=is_marked(item, "quiet"))
    try:
        return (yield)
    finally:
        if not (is_marked(item, "quiet") and is_marked(nextitem, "quiet")):
            machine().leave()


def pytest_runtest_setup(item):
    if not is_marked(item, "browser"):
        asyncio._set_running_loop(None)  # Playwright leaves its loop marked as running until it is used again


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
