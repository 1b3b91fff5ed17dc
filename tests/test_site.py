"The documentation site: its sources, and with the slow tests the site itself, built once, complete, and looked at in a browser"

import importlib
import inspect
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import threading
from functools import cache, partial
from html import unescape
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup
from fastcore.docments import docments
from sphinx.util.inventory import InventoryFile
from warm_python import python, run_warm

import trainopt_nb
from trainopt_nb.base.flags import rows
from trainopt_nb.base.options import Options, declared
from trainopt_nb.compression.distill_step import StudentOptions
from trainopt_nb.compression.options import CompressOptions, StepOptions
from trainopt_nb.compression.steps import STEPS
from trainopt_nb.notebook.coach_verb import CoachOptions
from trainopt_nb.notebook.compress_task import TaskSource
from trainopt_nb.notebook.compress_verb import CompressCell
from trainopt_nb.notebook.new import NewOptions
from trainopt_nb.notebook.tune_verb import TuneOptions
from trainopt_nb.notebook.verb_help import verb_rows
from trainopt_nb.notebook.verbs import VERBS

ROOT = Path(__file__).parents[1]
BUILDER = ROOT / "nbs/_tools/docs.py"
sys.path.insert(0, str(BUILDER.parent))
FOUND_BY = {  # what people search for -> where they should come out
    "precision": ("how-to/precision.html", "reference/options.html#cmdoption-precision"),
    "resume": ("how-to/resume.html", "reference/magics.html#resume"),
    "schedule": ("reference/options.html#cmdoption-schedule",),
}
ASKED = {  # what people type -> the page that answers, among the first three
    "how do I predict on new data": "how-to/predict",
    "use in google colab": "how-to/colab",
    "save model": "how-to/save-model",
    "resume training": "how-to/resume",
    "change the optimizer": "how-to/optimizer",
    "use my csv": "tutorials/tables",
    "my own dataset": "tutorials/your-model",
    "early stopping": "how-to/early-stopping",
    "class imbalance": "how-to/class-imbalance",
    "CUDA out of memory": "how-to/troubleshooting",
    "multiple GPUs": "how-to/devices",
    "which learning rate": "how-to/learning-rate",
    "why is my accuracy low": "how-to/doctor",
    "export onnx": "how-to/onnx",
    "make the model smaller": "tutorials/compress",
    "hyperparameter search": "tutorials/sweep",
    "same result every time": "how-to/reproducibility",
    "Error displaying widget: model not found": "how-to/troubleshooting",
    "the kernel appears to have died": "how-to/troubleshooting",
    "pip behind a proxy": "how-to/troubleshooting",
    "vs code": "how-to/install",
}


@pytest.fixture(scope="session")
def sources(tmp_path_factory, give_way):
    "What Sphinx makes the site of: it raises for a link that leads nowhere, and takes a fifth of the time"
    folder = tmp_path_factory.mktemp("sources") / "source"
    code = f"import sys; sys.path.insert(0, {str(BUILDER.parent)!r}); from pathlib import Path; import docs; docs.write_sources(Path({str(folder)!r}))"
    done = run_warm(["-c", code], ROOT, dict(os.environ), 900, watch=give_way)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return folder


@pytest.fixture(scope="session")
def site(tmp_path_factory, give_way):
    "The site, as the one command builds it"
    folder = tmp_path_factory.mktemp("site") / "html"
    own = {**os.environ, "TMPDIR": str(folder.parent)}  # in memory: it writes each page twice
    done = run_warm([BUILDER, folder], ROOT, own, 900, watch=give_way)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return folder


@pytest.fixture(scope="module", autouse=True)
def forget_pages():
    "Parsed pages are millions of objects, which each garbage collection of a later test would look through"
    yield
    soup.cache_clear()
    destination.cache_clear()


@cache
def soup(path):
    "The text of a page, without what surrounds it on every page"
    page = path.read_text(encoding="utf-8")
    begin, end = page.index("<article"), page.rindex("</article>")
    return BeautifulSoup(page[begin:end], "html.parser")


class Tag(HTMLParser):
    "Name and attributes of a tag"

    def __init__(self, text):
        super().__init__()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.name, self.attributes = tag, dict(attributes)


tag_of = cache(Tag)  # most stand on hundreds of pages, such as those of the sidebar
TAG = re.compile(r'<[a-zA-Z][^<>"]*(?:"[^"]*"[^<>"]*)*>')
MARK = re.compile(rf"{TAG.pattern}|</\w+>")


class References:
    "What a whole page refers to, and the ids that others can refer to"

    def __init__(self, path):
        self.ids, self.links, self.files, self.pictures = set(), set(), set(), []
        for text in TAG.findall(path.read_text(encoding="utf-8")):
            if " id=" not in text and " href=" not in text and " src=" not in text:
                continue
            tag, found = tag_of(text).name, tag_of(text).attributes
            if "id" in found:
                self.ids.add(found["id"])
            if tag == "a" and "href" in found:
                self.links.add(found["href"])
            if tag in ("script", "link", "img", "iframe"):
                self.files.add(found.get("href" if tag == "link" else "src") or "")
            if tag == "img":
                self.pictures.append(found)


@cache
def references(path):
    return References(path)


def pages(site):
    "Every page but the listings of source code"
    return sorted(path for path in site.glob("**/*.html") if "_modules" not in path.parts)


def inventory(site):
    "Documented name -> its page and place, by kind of name"
    with open(site / "objects.inv", "rb") as file:
        found = InventoryFile.load(file, "", lambda base, uri: uri)
    return {kind: {name: item.uri for name, item in items.items()} for kind, items in found.items()}


@cache
def heads(path):
    "The HTML of a page, and the place of each entry in it: id -> where its head begins and ends"
    page = path.read_text(encoding="utf-8")
    return page, {found[1]: found.span() for found in HEAD.finditer(page)}


HEAD = re.compile(r'<dt [^>]*\bid="([^"]+)"[^>]*>.*?</dt>', re.DOTALL)
DD = re.compile(r"<(/?)dd\b[^>]*>")


def entry(site, uri):
    "Signature and text of a documented name, as HTML: to parse each page as a whole would take much longer"
    name, _, anchor = uri.partition("#")
    page, places = heads(site / name)
    assert anchor in places, uri
    (begin, end), depth = places[anchor], 0
    for tag in DD.finditer(page, end):
        depth += -1 if tag[1] else 1
        if not depth:
            return page[begin:end], page[end : tag.end()]
    raise AssertionError(f"{uri} does not end")


def words(part):
    "The text of HTML, or of a parsed tag"
    text = unescape(MARK.sub(" ", part)) if isinstance(part, str) else part.get_text(" ")
    return " ".join(text.split())


# complete


def public():
    "Every public name: full name -> object"
    found = {}
    for info in pkgutil.walk_packages(trainopt_nb.__path__, "trainopt_nb."):
        module = importlib.import_module(info.name)
        found |= {f"{info.name}.{name}": getattr(module, name) for name in getattr(module, "__all__", ())}
    return found | {f"trainopt_nb.{name}": getattr(trainopt_nb, name) for name in trainopt_nb.__all__}


def documented(site):
    return {
        name: uri
        for kind, names in inventory(site).items()
        if kind.startswith("py:")
        for name, uri in names.items()
    }


@pytest.mark.slow
def test_every_public_name_is_documented(site):
    missing = public().keys() - documented(site).keys()
    assert not missing


def plain(text):
    "A comment as a page shows it, without marks, spaces and the kind of quotes"
    return re.sub(r"[\s`'\"’‘“”]|noqa: \w+", "", text.replace("…", "..."))


SOURCE = re.compile(r'<a [^>]*\bhref="[^"]+"[^>]*><span class="viewcode-link">')


@pytest.mark.slow
def test_every_parameter_is_in_its_signature_and_every_comment_on_the_page(site):
    places, seen = documented(site), 0
    for name, value in public().items():
        made_here = inspect.isfunction(value) or (inspect.isclass(value) and not issubclass(value, Options))
        if not made_here or not value.__module__.startswith("trainopt_nb"):
            continue
        head, text = entry(site, places[name])
        assert SOURCE.search(head), f"{name} has no link to its source"
        said = plain(words(text))
        if value.__doc__ and not value.__doc__.startswith(f"{value.__name__}("):
            first = plain(value.__doc__.strip().split("\n")[0])
            assert first in said, name
        if inspect.isfunction(value):
            for parameter, comment in docments(value).items():
                assert parameter == "return" or parameter in words(head), (name, parameter)
                if comment:
                    seen += 1
                    assert plain(str(comment)) in said, (name, parameter, comment)
    assert seen > 100


@pytest.mark.slow
def test_errors_are_named(site):
    places = documented(site)
    for name, error in (
        ("fit", "DataError"),
        ("resume", "RunError"),
        ("find_run", "RunError"),
        ("Run", "RunError"),
    ):
        _, text = entry(site, places[f"trainopt_nb.{name}"])
        raised = BeautifulSoup(text, "html.parser").dd.find("p", class_="raises", recursive=False)
        assert error in words(raised) and raised.find("a", href=True), name


def option_sets():
    "Every class that declares options, and the command or step that its flags belong to where it is not the magic"
    found = [
        v for v in public().values() if inspect.isclass(v) and issubclass(v, Options) and v is not Options
    ]
    found = [cls for cls in found if any(not o.argument for o in declared(cls).values())]
    programs = {step.options: f"recipe-{name}" for name, step in STEPS.items()}
    programs |= {NewOptions: "trainopt-new", TuneOptions: "trainopt-tune", CoachOptions: "trainopt-coach"}
    programs |= {StudentOptions: "recipe-distill"} | dict.fromkeys(
        (StepOptions, CompressOptions, CompressCell, TaskSource), "trainopt-compress"
    )
    return {cls: programs.get(cls, "") for cls in found}


@pytest.mark.slow
@pytest.mark.parametrize("cls", option_sets())
def test_every_option_is_documented(site, cls):
    places, program = inventory(site)["std:cmdoption"], option_sets()[cls]
    for row in (row for row in rows(cls) if not declared(cls)[row["keyword"]].argument):
        typed = row["keyword"] if program.startswith("recipe-") else row["flag"]  # as in `prune epochs=3`
        name = f"{program}.{typed}".lstrip(".")
        assert name in places
        head, text = entry(site, places[name])
        said = plain(words(text)).lower()
        for what in ("help", "shown", "values"):  # the last two have the unit
            assert plain(str(row[what])).lower() in said, (name, what)
        assert f"keyword{row['keyword']}".lower() in said
        assert typed in words(head)
        if program.startswith("recipe-"):
            assert words(head).startswith(f"{typed} =") and "--" not in words(head)
        elif declared(cls)[row["keyword"]].type == "bool":
            assert name.replace("--", "--no-") in places


@pytest.mark.slow
def test_every_verb_is_documented(site):
    page = soup(site / "reference/magics.html")
    for verb, text in ((name, verb.help) for name, verb in VERBS.items()):
        section = page.find(id=verb)
        assert section is not None, verb
        assert plain(text).lower() in plain(words(section)).lower()


@pytest.mark.slow
def test_verbs_take_a_cell_where_the_page_says_so(site, tmp_path, monkeypatch):
    from IPython.core.error import UsageError
    from IPython.core.interactiveshell import InteractiveShell

    monkeypatch.chdir(tmp_path)
    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "trainopt_nb")
    takes = set()
    for verb in VERBS:
        line = {"sweep": "sweep --space lr"}.get(verb, verb)  # one that has something to search
        try:
            shell.run_cell_magic("trainopt", line, "raise StopAsyncIteration")
        except UsageError as error:
            assert "takes no cell body" in str(error), verb
        except StopAsyncIteration:
            takes.add(verb)
    assert takes == {row.name for row in verb_rows() if row.cell}


@pytest.mark.slow
def test_everything_that_is_shown_stands_among_the_panels(site):
    listed = {link.get_text() for link in soup(site / "reference/panels.html").select("table a.reference")}
    shown = {v.__name__ for v in public().values() if inspect.isclass(v) and "_repr_mimebundle_" in vars(v)}
    assert shown and shown <= listed


@pytest.mark.slow
def test_every_guide_has_a_page_and_a_place(site):
    listed = {
        room: {link["href"] for link in soup(site / room / "index.html").select("article a.reference")}
        for room in ("tutorials", "how-to", "explanation")
    }
    rooms = {"7": "tutorials", "8": "how-to", "9": "explanation"}
    guides = [path for path in (ROOT / "nbs/guides").glob("[789]*") if path.suffix in (".ipynb", ".md")]
    assert len(guides) > 15
    for guide in guides:
        room, name = rooms[guide.name[0]], re.sub(r"^\d+[a-z]?_", "", guide.stem).replace("_", "-")
        assert (site / room / f"{name}.html").exists() and f"{name}.html" in listed[room]
    assert "measured.html" in listed["explanation"]


def test_every_page_of_the_reference_is_written(sources):
    text = {path.stem: path.read_text(encoding="utf-8") for path in (sources / "reference").glob("*.md")}
    assert not [path for path in text if "{{" in text[path]]
    entries = {entry.partition("\n")[0]: entry for entry in text["python"].split("\n:canonical: ")[1:]}
    assert entries.keys() == {f"trainopt_nb.{name}" for name in trainopt_nb.__all__}
    assert not [name for name, entry in entries.items() if "\nExample:\n\n```ipython3" not in entry]
    for verb in VERBS:
        assert f"\n### {verb}\n" in text["magics"], verb
    shown = "\n".join(text.values())
    for cls, program in option_sets().items():
        flags = [row["keyword" if program.startswith("recipe-") else "flag"] for row in rows(cls)]
        assert not [
            flag for flag in flags if not re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", shown)
        ], cls


def test_every_notebook_has_a_source(sources):
    every = (path.relative_to(sources) for path in sources.rglob("*.ipynb"))
    made = {path for path in every if path.parts[0] != "files"}  # those that readers download
    notebooks = [path for path in ROOT.glob("nbs/*/[0-9]*.ipynb") if not path.parent.name.startswith("_")]
    assert len(made) == len(notebooks) > 700


def test_code_in_guides_and_templates_is_run():
    "Code stands in cells, which the tests run; a block in a text would be read and never tried"
    blocks = re.compile(r"^```[ \t]*(python|ipython3?|py|bash|sh|console|shell)\b", re.M)
    for path in [
        *ROOT.glob("nbs/guides/[89]*.ipynb"),
        *ROOT.glob("nbs/guides/[89]*.md"),
        *ROOT.glob("nbs/_site/**/*.md"),
    ]:
        text = path.read_text(encoding="utf-8").replace("\\n", "\n").replace('"', "\n")
        assert path.name.startswith("README") or not blocks.search(text), path


@pytest.mark.slow
def test_every_name_that_users_import_has_an_example(site):
    page, places = soup(site / "reference/python.html"), documented(site)
    for name in trainopt_nb.__all__:
        head = page.find(id=places[f"trainopt_nb.{name}"].partition("#")[2])
        example = head.find_parent("dl").find_next_sibling("div")
        assert name in words(example) and "ipython3" in str(example["class"]), name


@pytest.mark.slow
def test_guides_can_be_downloaded_and_leave_assertions_out(site):
    for guide in (ROOT / "nbs/guides").glob("[789]*.ipynb"):
        name = re.sub(r"^\d+[a-z]?_", "", guide.stem).replace("_", "-")
        path = site / {"7": "tutorials", "8": "how-to", "9": "explanation"}[guide.name[0]] / f"{name}.html"
        link = soup(path).find("a", class_="download")
        assert (path.parent / link["href"]).read_bytes() == guide.read_bytes()
        shown = [words(cell) for cell in soup(path).select("div.cell_input")]
        kept = guide.read_text(encoding="utf-8").count("| asserts: show")
        assert sum(bool(re.search(r"^assert |(?<!\S)assert (?!time)", cell)) for cell in shown) == kept, name


# sound


def test_a_broken_reference_fails(tmp_path):
    from convert import link_to

    with pytest.raises(SystemExit, match=r"nowhere\.ipynb"):
        link_to("nowhere.ipynb", ROOT / "nbs/index.ipynb", {}, tmp_path)
    source = tmp_path / "source"
    shutil.copytree(ROOT / "nbs/_site/_static", source / "_static")
    shutil.copy(ROOT / "nbs/_site/conf.py", source)
    broken = "# Page\n\n{py:obj}`trainopt_nb.nothing` {option}`--nothing` [gone](gone.md) [far](/index.md#nothing)\n"
    (source / "index.md").write_text(broken)
    words = ["-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "-b", "html"]
    done = subprocess.run(python(*words, source, tmp_path / "out"), capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if "WARNING" in line]
    assert done.returncode and len(said) == 4, done.stderr


def test_an_unrelated_folder_is_left_alone(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    done = subprocess.run(python(BUILDER, tmp_path), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode and "no site" in done.stderr and (tmp_path / "letter.txt").exists()


@cache
def destination(folder, link):
    "The file and the place in it that a link from a page in a folder names; None for another site, and no file for the page itself"
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return None
    file = os.path.normpath(os.path.join(folder, unquote(parts.path))) if parts.path else ""
    return file, unquote(parts.fragment)


def leads_somewhere(link, path, folder, files):
    found = destination(folder, link)
    if found is None:
        return True
    file, place = found[0] or str(path), found[1]
    if file not in files:
        return False
    return not (place and file.endswith(".html")) or place in references(Path(file)).ids


def faults(path, files):
    "Links of a page that lead nowhere, pictures that are missing or have no text, and what it would load from elsewhere"
    page, folder = references(path), str(path.parent)
    yield from (link for link in page.links if not leads_somewhere(link, path, folder, files))
    yield from (file for file in page.files if re.match(r"(https?:)?//", file))
    for picture in page.pictures:
        if "sidebar-logo" in picture.get("class", ""):
            continue
        source = picture["src"]
        if len(picture.get("alt") or "") < 10:
            yield f"a picture without a text: {source[:60]}"
        if not source.startswith("data:") and not (path.parent / unquote(source)).is_file():
            yield source


@pytest.mark.slow
def test_links_lead_somewhere_and_pictures_have_a_text(site):
    files = {str(path) for path in site.rglob("*") if path.is_file()}
    wrong = [
        (str(path.relative_to(site)), fault)
        for path in site.glob("**/*.html")
        for fault in faults(path, files)
    ]
    assert not wrong, wrong[:20]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["inside/train/strategy", "inside/train/index", "genindex"])
def test_sidebar_marks_the_page_and_opens_those_above_it(site, name):
    page = BeautifulSoup((site / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
    tree = page.find(class_="sidebar-tree")
    above = ["Source notebooks", "Train", "strategy"][: {"genindex": 0, "inside/train/index": 2}.get(name)]
    assert [words(entry.a) for entry in tree.select("li.current")] == above
    assert [words(entry.a) for entry in tree.select("li.current-page")] == above[-1:]
    assert [link["href"] for link in tree.select("a.current")] == ["#"] * len(above[-1:])
    opened = [box["aria-label"] for box in tree.select("input[checked]")]
    assert opened == [f"Toggle navigation of {title}" for title in above[:2]]
    shown = {os.path.normpath(site / name / ".." / link["href"]) for link in tree.select("a:not(.current)")}
    itself = {str(site / f"{name}.html")} if above else set()
    every = {str(path) for path in pages(site) if path.stem not in ("genindex", "search")}
    assert shown | itself == every - {str(site / "index.html")}


@pytest.mark.slow
def test_front_page_says_what_readme_says(site):
    page = words(soup(site / "index.html").article)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in re.findall(r"```bash\n(.*?)\n```", readme, re.S):
        assert plain(command) in plain(page)
    assert plain(re.search(r"^\| tasks \| (.*) \|$", readme, re.M)[1]) in plain(page)


# workflows


def test_workflows_do_what_is_done_here():
    flows = {
        path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github/workflows").glob("*.yml")
    }
    steps = {name: [s for job in flow["jobs"].values() for s in job["steps"]] for name, flow in flows.items()}
    runs = {name: [step["run"] for step in found if "run" in step] for name, found in steps.items()}
    assert runs["tests"] == [".ci/run"]
    assert "python -m pytest -m slow" in runs["nightly"] and "schedule" in flows["nightly"][True]
    assert "`pytest -m slow`" in (ROOT / "CONTRIBUTING.md").read_text()
    assert (
        "python nbs/_tools/docs.py" in runs["site"]
        and "pip install -c constraints.txt -e '.[docs]'" in runs["site"]
    )
    upload = next(s for s in steps["site"] if s.get("uses", "").startswith("actions/upload-pages-artifact@"))
    assert upload["with"]["path"] == "_docs"
    publish = flows["publish"]["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"} and publish["environment"] == "pypi"
    assert "password" not in str(publish) and publish["needs"] == "build"
    assert flows["publish"][True] == {"release": {"types": ["published"]}}  # YAML reads `on` as true
    assert all(flow["permissions"] == {"contents": "read"} for flow in flows.values())


# in a browser


@pytest.fixture(scope="session")
def server(site):
    "The site as a web server gives it"
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class Watched:
    "A page whose errors and requests are kept"

    def __init__(self, browser, base, **context):
        self.base, self.errors, self.outside = base, [], []
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._asked)

    def _said(self, message):
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def _asked(self, request):
        if not request.url.startswith((self.base, "data:", "blob:")):
            self.outside.append(request.url)

    def open(self, name):
        self.page.goto(self.base + name)
        return self.page


@pytest.fixture
def watch(browser):
    "Makes watched pages; at the end none of them may have had an error or have asked for anything outside"
    made = []

    def new(base, **context):
        made.append(Watched(browser, base, **context))
        return made[-1]

    yield new
    for watched in made:
        watched.context.close()
        assert not watched.errors and not watched.outside, (watched.errors, watched.outside)


def place(site):
    return f"{site.resolve().as_uri()}/"


def fit_for_a_phone(site, watch, chosen):
    watched = watch(place(site), viewport={"width": 390, "height": 844})
    wide = []
    for path in chosen:
        page = watched.open(str(path.relative_to(site)))
        overflow = page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        wide += [(path.name, overflow)] if overflow > 0 else []
    assert not wide, wide


def rooms(site):
    "Room -> the pages of its notebooks, which are many and alike"
    folders = [site / name for name in ("tutorials", "how-to", "explanation")]
    folders += [path for path in (site / "inside").iterdir() if path.is_dir()]
    return {room: sorted(room.glob("*.html")) for room in folders}


@pytest.mark.slow
@pytest.mark.browser
def test_pages_open_without_errors_and_fit_a_phone(site, watch):
    "Of the notebooks of each room the longest; all other pages"
    longest = {max(found, key=lambda path: path.stat().st_size) for found in rooms(site).values()}
    left_out = {path for found in rooms(site).values() for path in found} - longest
    chosen = [path for path in pages(site) if path not in left_out]
    assert len(longest) > 13 and len(chosen) > len(longest) + 10
    fit_for_a_phone(site, watch, chosen)


@pytest.mark.slow
@pytest.mark.browser
def test_every_notebook_opens_without_errors_and_fits_a_phone(site, watch):
    fit_for_a_phone(site, watch, [path for found in rooms(site).values() for path in found])


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize(
    ("how", "word"),
    [
        *(("file", word) for word in FOUND_BY),
        ("web", "precision"),
        *(pytest.param("web", word, marks=pytest.mark.slow) for word in FOUND_BY if word != "precision"),
    ],
)
def test_search_finds(site, server, watch, how, word):
    watched = watch(place(site) if how == "file" else server)
    page = watched.open("index.html")
    page.get_by_placeholder("Search").first.fill(word)
    page.keyboard.press("Enter")
    page.wait_for_function(
        "document.querySelector('#search-results p.search-summary')?.innerText.match(/\\d+ page/)"
    )
    page.wait_for_timeout(300)  # results come one by one
    links = page.eval_on_selector_all("#search-results li > a", "all => all.map(a => a.getAttribute('href'))")
    parts = map(urlsplit, links)
    found = [part.path + (f"#{part.fragment}" if part.fragment else "") for part in parts]
    for wanted in FOUND_BY[word]:
        assert wanted in found[:12], found[:20]
    if how == "web":  # a page that was opened as a file may not read its neighbors
        page.wait_for_selector("#search-results li p.context")
        assert word in page.locator("#search-results").inner_text().lower()


@pytest.mark.slow
@pytest.mark.browser
def test_questions_are_answered(site, watch):
    page = watch(place(site)).open("search.html?q=resume")
    page.wait_for_function("document.querySelector('#search-results li')")
    asked = """query => Search._performSearch(...Search._parseQuery(query)).reverse().slice(0, 3).map(([page]) => page)"""
    found = {query: page.evaluate(asked, query) for query in ASKED}
    assert not {query: found[query] for query in ASKED if ASKED[query] not in found[query]}


@pytest.mark.slow
@pytest.mark.browser
def test_the_sidebar_stays_where_it_was(site, watch):
    page = watch(place(site), viewport={"width": 1200, "height": 700}).open("how-to/resume.html")
    below = page.locator(".sidebar-tree a", has_text="Train on several hosts")
    below.evaluate("link => link.scrollIntoView({ block: 'center', behavior: 'instant' })")
    before = below.bounding_box()["y"]
    with page.expect_navigation():
        below.click()
    assert page.url.endswith("several-hosts.html") and abs(below.bounding_box()["y"] - before) < 2


@pytest.mark.slow
@pytest.mark.browser
def test_light_and_dark(site, watch):
    grounds = {}
    for theme in ("light", "dark"):
        page = watch(place(site), color_scheme=theme).open("index.html")
        grounds[theme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        shown = page.evaluate(
            "[...document.querySelectorAll('article img')].filter(i => i.offsetWidth).map(i => i.getAttribute('src'))"
        )
        assert len(shown) == 1 and shown[0].endswith("panel-dark.png") == (theme == "dark")
    page.locator(".theme-toggle:visible").first.click()
    assert grounds["light"] != grounds["dark"]
    assert page.evaluate("document.body.dataset.theme") == "light"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == grounds["light"]
