"What all tests share"

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads a process on busy cores wait for each other
os.environ["TRAINOPT_LANGUAGE"] = "en"  # whatever the developer speaks
CHROMIUM = "/usr/bin/chromium"


def pytest_collection_modifyitems(items):
    "Browser tests come last: Playwright leaves an event loop running in the main thread"
    items.sort(key=lambda item: item.get_closest_marker("browser") is not None)


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
