"The structure of the package: small rooms, modules and functions, and short ways through them"

import ast
import contextlib
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from IPython.core.inputtransformer2 import TransformerManager

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "trainopt_nb"
VENDORED = {"uplot.js", "preact.js"}
LESSONS = sorted(set((ROOT / "nbs").glob("*/[0-9]*.ipynb")) - set((ROOT / "nbs/guides").iterdir()))
HOPS = 12

CELL = """
import torch
from torch import nn
model = nn.Linear(4, 2)
x = torch.randn(64, 4)
train_data = x, (x.sum(1) > 0).long()
"""


def sources():
    "Python and JavaScript of ours, without what is generated as an index"
    found = [path for path in PACKAGE.glob("*/**/*") if path.suffix in (".py", ".js")]
    return [path for path in found if path.name not in VENDORED]


def test_no_room_is_too_big():
    lines = {}
    for path in sources():
        room = path.relative_to(PACKAGE).parts[0]
        lines[room] = lines.get(room, 0) + len(path.read_text().splitlines())
    whole = sum(lines.values())
    assert {room: n for room, n in lines.items() if n > 0.15 * whole} == {}


@pytest.mark.parametrize("path", [p for p in sources() if p.suffix == ".py"], ids=lambda p: p.stem)
def test_modules_and_functions_are_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 250
    functions = [
        n for n in ast.walk(ast.parse(text)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    assert [f.name for f in functions if f.end_lineno - f.lineno + 1 > 40] == []


def test_what_a_cell_shows_is_read_where_it_is_out_of_view_too():
    "JupyterLab leaves out what is not in view, and `inner_text` is empty there: `lab.read` is not"
    hasty = []
    for path in (ROOT / "tests/browser").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and "lab" in [each.arg for each in node.args.args]:
                hasty += [
                    f"{path.name}:{each.lineno}"
                    for each in ast.walk(node)
                    if getattr(each, "attr", "") in ("inner_text", "all_inner_texts")
                    or "innerText" in str(getattr(each, "value", ""))
                ]
    assert hasty == []


def used_names(source):
    "Names that a cell reads, in its code, its magics and the programs that it holds as text"
    found = set()
    for node in ast.walk(ast.parse(TransformerManager().transform_cell(source))):
        match node:
            case ast.Name(id=name, ctx=ast.Load()) | ast.Attribute(attr=name):
                found.add(name)
            case ast.Call(
                ast.Attribute(attr="run_line_magic" | "run_cell_magic"), [_, ast.Constant(line), *_]
            ):
                found.update(re.findall(r"\w+", line))
            case ast.Constant(str(text)) if "\n" in text:
                with contextlib.suppress(SyntaxError):  # prose
                    found.update(used_names(text))
    return found


def public_names(source):
    "Functions and classes that a cell defines for others"
    defined = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [n.name for n in ast.parse(source).body if isinstance(n, defined) and n.name[0] != "_"]


def test_notebooks_show_each_exported_thing_in_short_cells():
    wrong = []
    for path in LESSONS:
        cells = [
            "".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"
        ]
        exported = [cell for cell in cells if re.match(r"# ?\| ?export", cell)]
        shown = set().union(*(used_names(cell) for cell in cells if cell not in exported))
        long = [n for n in (len(cell.splitlines()) for cell in exported) if n > 60]
        missing = [name for cell in exported for name in public_names(cell) if name not in shown]
        if long or missing:
            wrong.append(f"{path.relative_to(ROOT)}: long cells {long}; not shown {missing}")
    assert wrong == [], "\n" + "\n".join(wrong)


BRITISH = re.compile(
    r"(?i)\b(\w*(?:colour|behaviour|neighbour|favour|centre[sd]?\b|centring|artefact|judgement|labell(?:ed|ing)|cancell(?:ed|ing)|travell(?:ed|ing)"
    r"|modell(?:ed|ing)|(?:normal|standard|regular|optim|initial|recogn|quant|util|minim|maxim|general|special|organ|serial|synchron|parallel)"
    r"is(?:e[sd]?|ing|ations?)\b)\w*|grey|towards|learnt|whilst|analys(?:ed?|ing))\b"
)
NAMED = re.compile(r"```.*?```|`[^`]*`|\]\([^)]*\)|https?://\S+|--[\w-]+|<!--.*?-->|^# \S+$", re.S | re.M)


def test_words_are_spelled_as_in_the_documentation_of_pytorch():
    told = {"CHANGELOG.md", "README.md", "CONTRIBUTING.md"}
    texts = {name: (ROOT / name).read_text() for name in told}
    texts |= {str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / "nbs").rglob("*.md")}
    for path in (ROOT / "nbs").rglob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        texts[str(path.relative_to(ROOT))] = "\n\n".join(
            "".join(c["source"]) for c in cells if c["cell_type"] == "markdown"
        )
    for path in (PACKAGE / "base/languages").glob("*.en.json"):
        texts[path.name] = "\n".join(re.findall(r'": "(.*)"', path.read_text()))
    found = {name: [hit[0] for hit in BRITISH.finditer(NAMED.sub(" ", text))] for name, text in texts.items()}
    assert {name: hits for name, hits in found.items() if hits} == {}


def modules_on_the_stack():
    "Modules of ours from the outermost frame to here, each once for a visit"
    found, frame = [], sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.startswith("trainopt_nb.") and (not found or found[-1] != name):
            found.append(name)
        frame = frame.f_back
    return found[::-1]


def test_the_way_from_the_magic_to_the_step_is_short(shell):
    seen = []

    class Watched(torch.optim.SGD):
        def step(self, closure=None):
            seen.append(modules_on_the_stack())
            return super().step(closure)

    shell.user_ns["Watched"] = Watched
    shell.run_cell_magic("trainopt", "fit --epochs 1 --optimizer Watched", CELL)
    way = seen[0]
    assert way[0] == "trainopt_nb.notebook.magics" and way[-1].startswith("trainopt_nb.train.")
    assert len(way) <= HOPS, way
    page = (ROOT / "nbs/guides/95_from_cell_to_step.md").read_text()
    missing = [name for name in way if f"`{name.removeprefix('trainopt_nb.')}`" not in page]
    assert missing == [], (missing, way)
