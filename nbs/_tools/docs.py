"""
Build the documentation site from the notebooks, without network access and without executing them

    python nbs/_tools/docs.py            # into _docs/, to be opened as _docs/index.html
    python nbs/_tools/docs.py FOLDER
"""

import gc
import inspect
import re
import shutil
import sys
import tempfile
from configparser import ConfigParser
from functools import cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

gc.disable()  # looking for garbage takes a third of the time, and all of it needs 1.5 GB
inspect.getsourcelines = cache(inspect.getsourcelines)  # asked three times about each function
from sphinx.cmd.build import main as sphinx  # noqa: E402

ROOT = Path(__file__).parents[2]
NBS = ROOT / "nbs"
SITE = NBS / "_site"
sys.path[:0] = [str(Path(__file__).parent), str(ROOT)]

import pages  # noqa: E402
import public  # noqa: E402
from convert import convert_notebook, convert_text, examples, headline  # noqa: E402
from rooms import ROOMS, notebooks, order  # noqa: E402

GUIDES = {"7": "tutorials", "8": "how-to", "9": "explanation"}  # by the first digit of the number
TEXTS = {"CHANGELOG.md": "changelog", "CONTRIBUTING.md": "contributing"}
MEASURED = ROOT / "tests/bench/results.md"
CHINESE = (
    "README.zh-CN.md",
    "nbs/README.zh-CN.md",
    "nbs/guides/README.zh-CN.md",
    "nbs/_site/README.zh-CN.md",
)


class Page(NamedTuple):
    "One page of the site"

    source: Path  # notebook or text
    name: str  # path without suffix, such as `tutorials/quickstart`
    title: str
    lead: str  # the sentence below the title


def _page(source, room):
    stem = re.sub(r"^\d+[a-z]?_", "", source.stem).replace("_", "-")
    title, lead = headline(source)
    return Page(source, f"{room}/{stem}" if room else stem, title, lead)


def guides() -> dict[str, list[Page]]:  # room -> pages
    "List the guides by room, and the page of measurements"
    found = {room: [] for room in GUIDES.values()}
    for source in sorted([*NBS.glob("guides/*.ipynb"), *NBS.glob("guides/*.md")], key=order):
        if room := GUIDES.get(source.name[0]):
            found[room].append(_page(source, room))
    found["explanation"].append(Page(MEASURED, "explanation/measured", *headline(MEASURED)))
    return found


def rooms_inside() -> dict[str, list[Page]]:  # room -> pages
    "List the notebooks that export modules, by room"
    found = {}
    for source in notebooks():
        found.setdefault(source.parent.name, []).append(_page(source, f"inside/{source.parent.name}"))
    return found


def texts() -> list[Page]:
    "List the pages that are text files of the repository"
    found = [(ROOT / file, name) for file, name in TEXTS.items()]
    found += [(ROOT / file, "zh-CN") for file in CHINESE if (ROOT / file).exists()][:1]
    return [Page(source, name, *headline(source)) for source, name in found]


def settings():
    parser = ConfigParser(delimiters=["="])
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    return parser["DEFAULT"]


def write_sources(
    folder: Path,  # read by Sphinx
):
    "Write all pages for Sphinx"
    shutil.copytree(SITE, folder, ignore=shutil.ignore_patterns("README*", "__pycache__"))
    shutil.copytree(NBS / "images", folder / "images")
    (folder / "files").mkdir()
    by_room, by_floor, plain = guides(), rooms_inside(), texts()
    every = [*chain(*by_room.values()), *chain(*by_floor.values()), *plain]
    known = {page.source: f"/{page.name}{page.source.suffix}" for page in every}
    known |= {NBS / "index.ipynb": "/index.md", ROOT / "README.md": "/index.md"}
    for page in every:
        target = folder / f"{page.name}{page.source.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        if page.source.suffix == ".ipynb":
            convert_notebook(page.source, target, known, folder)
        else:
            target.write_text(
                convert_text(page.source.read_text(encoding="utf-8"), page.source, known, folder)
            )
    for room, inside in by_room.items():
        pages.fill_room(folder / room / "index.md", inside)
    pages.write_inside(folder / "inside", by_floor, ROOMS)
    pages.write_reference(
        folder / "reference", by_floor, examples(chain(*by_room.values(), *by_floor.values()))
    )
    front = convert_text(pages.front(NBS / "index.ipynb"), NBS / "index.ipynb", known, folder)
    names = {"zh-CN": "In Chinese <zh-CN>"}  # its title is that of the front page
    values = pages.sections(front) | {"texts": "\n".join(names.get(page.name, page.name) for page in plain)}
    pages.fill(folder / "index.md", values)


def build(
    out: Path,  # folder of the site, which is overwritten
):
    "Build the site with Sphinx; raise SystemExit if anything is wrong"
    if out.exists() and any(out.iterdir()) and not (out / "searchindex.js").exists():
        raise SystemExit(f"{out} holds something that is no site: name another folder.")
    with tempfile.TemporaryDirectory(prefix="trainopt-docs-") as place:
        source, made = Path(place, "source"), Path(place, "site")
        write_sources(source)
        words = ["--fail-on-warning", "--keep-going", "--quiet", "-b", "html"]
        words += ["-d", f"{place}/doctrees", "-D", f"release={settings()['version']}"]
        if sphinx([*words, str(source), str(made)]):  # here, where the package is imported already
            raise SystemExit("The site was not built: the warnings above name what is wrong.")
        (made / ".buildinfo").unlink(missing_ok=True)
        (made / ".nojekyll").touch()  # for GitHub Pages: folders with _ are part of the site
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(made, out)


if __name__ == "__main__":
    words = sys.argv[1:]
    if len(words) > 1 or words[:1] in (["-h"], ["--help"]):
        raise SystemExit(__doc__)
    target = Path(words[0] if words else ROOT / "_docs").absolute()
    build(target)
    print(f"open it: {target / 'index.html'} ({len(public.places())} public names)")
