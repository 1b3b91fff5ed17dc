"Take nbs/images/panel.png: the quickstart's panel in a real JupyterLab, while the run is under way"

import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/browser"))

from harness import CHROMIUM_FLAGS, Lab, Server, offer_kernels  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
EPOCH = 8  # that is shown, of the quickstart's 12


def main(
    picture: Path,  # that is written
):
    "Run the quickstart in a page and take the panel when it is two thirds through"
    home = Path(tempfile.mkdtemp(prefix="trainopt-"))
    share = home / "share"
    offer_kernels(share, home / "kernels")
    server = Server(home / "jupyter", share)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
            page = browser.new_page(viewport={"width": 1180, "height": 1500}, device_scale_factor=2)
            lab = Lab(server, page, home)
            lab.open_file(ROOT / "nbs/guides/70_quickstart.ipynb")
            lab.command("application:toggle-left-area")
            lab.run_all()
            panel = page.locator(".tonb-panel").first
            begun = f"document.querySelector('.tonb-panel')?.innerText.includes('epoch {EPOCH} of')"
            page.wait_for_function(begun, timeout=120_000)
            picture.parent.mkdir(parents=True, exist_ok=True)
            panel.screenshot(path=picture)
            browser.close()
    finally:
        server.close()


if __name__ == "__main__":
    main(ROOT / "nbs/images/panel.png")
