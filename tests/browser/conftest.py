"One JupyterLab and one page of it for all tests that drive it, with new kernels for each"

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from harness import KERNELS, Lab, Plain, Server, offer_kernels


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    "A failed browser test reports what its page showed"
    report = yield
    lab = item.funcargs.get("lab") if call.when == "call" and report.failed else None
    if lab is not None and lab.name:
        with suppress(Exception):
            report.sections.append((f"cells of {lab.name}, {lab.screenshot(item.name)}", lab.story()))
            report.sections.append(("the page", lab.complaints()))
        lab.stale = True
    return report


@pytest.fixture(scope="session")
def cache():
    "Folder that is kept between sessions, for the unpacked kernels"
    return Path(os.environ.get("TRAINOPT_TEST_CACHE") or Path(tempfile.gettempdir()) / "trainopt-test-cache")


@pytest.fixture(scope="session")
def kernelspecs(tmp_path_factory, cache):
    "A `share/jupyter` folder that offers every ipykernel that is tested"
    share = tmp_path_factory.mktemp("share")
    offer_kernels(share, cache)
    return share


@pytest.fixture(scope="session")
def server(tmp_path_factory, kernelspecs):
    "JupyterLab with the kernels that are tested; `server.set(plugin, name=value)` changes its settings"
    server = Server(tmp_path_factory.mktemp("jupyter"), kernelspecs)
    yield server
    server.close()


@pytest.fixture(scope="session")
def shots():
    "Folder for screenshots: $TRAINOPT_SHOTS, else a temporary one that is removed"
    if "TRAINOPT_SHOTS" in os.environ:
        yield Path(os.environ["TRAINOPT_SHOTS"])
        return
    folder = Path(tempfile.mkdtemp(prefix="trainopt-shots-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def plain(browser):
    "A page without JupyterLab; `plain.blank()` empties it"
    plain = Plain(browser)
    yield plain
    plain.page.close()


@pytest.fixture(scope="session")
def only_lab(server, browser, shots):
    "The page"
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(60_000)
    yield Lab(server, page, shots)
    page.close()


@pytest.fixture
def lab(only_lab):
    "The page; its kernels and what trains in the background end with the test"
    only_lab.name = None
    yield only_lab
    only_lab.server.end_sessions()
    only_lab.server.end_runs()


OLD = [name for name, version in KERNELS.items() if version]


@pytest.fixture(
    params=[*(k for k in KERNELS if k not in OLD), *(pytest.param(k, marks=pytest.mark.slow) for k in OLD)]
)
def kernel(request):
    "Name of a kernelspec: a test that asks for it runs on the installed kernel, and on the older ones where it may take long"
    return request.param


@pytest.fixture(params=list(KERNELS))
def every_kernel(request):
    "Name of a kernelspec: a test that asks for it always runs on every kernel"
    return request.param
