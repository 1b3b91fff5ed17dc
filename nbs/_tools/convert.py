"Convert notebooks and texts of the repository to MyST pages, with links to pages and public names"

import ast
import json
import os
import re
import shutil
from functools import cache
from pathlib import Path

import api
import public

ROOT = Path(__file__).parents[2]
WIDGET = "application/vnd.jupyter.widget-view+json"
HIDE = {"hide", "default_exp"}
DIRECTIVE = re.compile(r"^# ?\| ?(.*)\n?", re.M)
ASKED = re.compile(r"^<!-- search: (.+?) -->$", re.M)
LEAD = re.compile(r"\{\.lead\}\n(?:.+\n?)+")


def cells_of(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def headline(
    path: Path,  # a notebook or a text
) -> tuple[str, str]:  # title, and the sentence quoted below it (or nothing)
    "Return the title of a page and the sentence below it"
    notebook = path.suffix == ".ipynb"
    text = "".join(cells_of(path)[0]["source"]) if notebook else path.read_text(encoding="utf-8")
    title = re.search(r"^# (.+)$", text, re.M)
    lead = re.search(r"^# .+\n+((?:> .*\n?)+)", text, re.M)
    if title is None or (notebook and lead is None):
        raise SystemExit(f"{path} must begin with `# title`, and a notebook with `> one sentence` below it.")
    return title[1], " ".join(line[2:] for line in lead[1].splitlines()) if lead else ""


# text


def _outside_fences(text, change):
    "Apply a function to the text outside fenced code"
    parts = re.split(r"(^(```+|~~~+).*?^\2[ \t]*$)", text, flags=re.M | re.S)
    kept = [part for i, part in enumerate(parts) if i % 3 != 2]  # the fence marks are groups of the pattern
    return "".join(part if i % 2 else change(part) for i, part in enumerate(kept))


def _lead(text):
    "Mark the sentence below the title, which is set in larger type"
    return re.sub(
        r"\A(?:<!--.*?-->\s*)?(# .+\n+)((?:> .*\n?)+)",
        lambda m: m[1] + "{.lead}\n" + re.sub(r"^> ", "", m[2], flags=re.M),
        text,
    )


def _lexer(text):
    "Highlight Python code with magics as IPython"
    magic = lambda m: f"```ipython3\n{m[1]}```" if re.search(r"^\s*%", m[1], re.M) else m[0]
    return re.sub(r"```python\n(.*?)```", magic, text, flags=re.S)


def link_to(
    target: str,  # as it is written, relative to its source
    source: Path,  # where it is written
    known: dict,  # file of the repository -> page
    folder: Path,  # of the site's sources
) -> str:
    "Return the target of a link on the site; raise SystemExit if it does not exist"
    place, mark, anchor = target.partition("#")
    if re.match(r"[a-z]+:", target) or not place or place.startswith("/"):
        return target
    file = Path(os.path.normpath(source.parent / place))
    if file in known:
        return known[file] + mark + anchor
    if (ROOT / "nbs/images") in file.parents and file.exists():
        return f"/images/{file.relative_to(ROOT / 'nbs/images')}"
    if not file.is_file() or ROOT not in file.parents:
        raise SystemExit(f"{source.relative_to(ROOT)} has a link to {target!r}, which does not exist.")
    copy = folder / "files" / file.relative_to(ROOT)
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, copy)
    return f"/files/{file.relative_to(ROOT)}"


@cache
def _declared():
    "Return the documented flags and verbs"
    from trainopt_nb.base.options import declared
    from trainopt_nb.notebook.sweep_verbs import SpaceWords
    from trainopt_nb.notebook.verbs import VERBS, CellOptions
    from trainopt_nb.search.options import SweepOptions
    from trainopt_nb.task.train_options import TrainOptions

    shown = (CellOptions, TrainOptions, SpaceWords, SweepOptions)
    flags = {o.flag for cls in shown for o in declared(cls).values()}
    return flags, set(VERBS)


def _refer(match):
    "Link a name, flag or magic in backticks if it can mean only one"
    text = match[1]
    flags, verbs = _declared()
    if text.startswith("--"):
        flag = re.split(r"[ =]", text)[0]
        return f"{{option}}`{text} <{flag}>`" if flag in flags else match[0]
    if found := re.match(r"%?%trainopt ([a-z-]+)(?: [^`]*)?$", text):
        return f"[`{text}`](/reference/magics.md#{found[1]})" if found[1] in verbs else match[0]
    return public.reference(text) or match[0]


def convert_text(
    text: str,  # Markdown
    source: Path,
    known: dict,  # file of the repository -> page
    folder: Path,  # of the site's sources
) -> str:  # MyST
    "Convert the links, names and magics in a text"

    def change(part):
        part = re.sub(r"\]\(([^)\s]+)\)", lambda m: f"]({link_to(m[1], source, known, folder)})", part)
        return re.sub(r"(?<![`}\[])`([^`\n]+)`(?![`\]])", _refer, part)

    return _outside_fences(_lexer(ASKED.sub(_answers, _lead(text))), change)


def _answers(match):
    "Let the search find this place by the words that people type"
    asked = (f"! {words.strip()}" for words in match[1].split(","))
    return f"```{{index}} {', '.join(asked)}\n```\n\n"


# notebooks


def without_asserts(
    source: str,  # of a cell
) -> str:
    "Leave out the assertions of a cell, which are for the tests; those in functions belong to the code"
    head, line, body = source.partition("\n") if source.startswith("%%") else ("", "", source)
    try:
        tree = ast.parse(re.sub(r"^[%!]", "#", body, flags=re.M))
    except SyntaxError:
        return source
    blocks, left_out = [tree.body], set()
    for block in blocks:
        for node in block:
            if isinstance(node, ast.Assert) and (block is tree.body or len(block) > 1):
                left_out |= set(range(node.lineno, node.end_lineno + 1))
            if isinstance(node, (ast.With, ast.For, ast.If, ast.Try)):
                blocks += [
                    getattr(node, name) for name in ("body", "orelse", "finalbody") if hasattr(node, name)
                ]
            blocks += [handler.body for handler in getattr(node, "handlers", ())]
    kept = [text for number, text in enumerate(body.split("\n"), 1) if number not in left_out]
    return head + line + "\n".join(kept).strip("\n")


def directives(source):
    "Read the directives after `#|`: name -> rest"
    found = (line.strip().partition(" ") for line in DIRECTIVE.findall(source))
    return {name.rstrip(":"): rest.strip() for name, _, rest in found}


def _defined_in(source, wanted):
    "Yield the public names that an exported cell defines, in their order"
    tree = ast.parse(DIRECTIVE.sub("", source))
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield from [node.name] if node.name in wanted else []
        yield from (name for name in public.targets(node) if name in wanted)


def _entries(source, module):
    "Yield a cell for each public name of an exported cell; names that users import are documented in the reference"
    for name in _defined_in(source, getattr(public.modules().get(module), "__all__", ())):
        full = f"{module}.{name}"
        there = f"{{py:obj}}`{name} <{full}>` is in the reference: {public.link(api.summary(full))}"
        yield _markdown(f"{{.also}}\n{there}" if public.places()[full] else api.entry(full))


def _markdown(text):
    return {"cell_type": "markdown", "metadata": {}, "source": text}


def _picture_of(path):
    "Return the picture that replaces a widget, which would need a kernel"
    name = re.sub(r"^\d+[a-z]?_", "", path.stem)
    return pictures(name, f"The {name} below the cell in JupyterLab")


def pictures(
    name: str,  # of a file in nbs/images, without ending
    alt: str,  # what it shows, in words
) -> str:
    "Show a picture, with another one for the dark theme if there is one"
    dark = (ROOT / f"nbs/images/{name}-dark.png").exists()
    light = f"![{alt}](/images/{name}.png)" + ("{.only-light}" if dark else "")
    return light + (f"\n![{alt}](/images/{name}-dark.png){{.only-dark}}" if dark else "")


def _code(cell, words, path):
    "Yield a visible cell, and the picture that replaces its widget"
    tags = [
        tag
        for tag, asked in (
            ("remove-input", words.get("echo") == "false"),
            ("remove-output", words.get("output") == "false"),
        )
        if asked
    ]
    outputs = [o for o in cell["outputs"] if WIDGET not in o.get("data", {})]
    source = DIRECTIVE.sub("", "".join(cell["source"]))
    if path.parent.name == "guides" and words.get("asserts") != "show":
        source = without_asserts(source)
        if not source and not outputs:
            return
    yield {
        **cell,
        "source": source,
        "metadata": {"tags": tags},
        "outputs": outputs,
    }
    if len(outputs) < len(cell["outputs"]):
        yield _markdown(_picture_of(path))


def convert_notebook(
    path: Path,  # of the repository
    target: Path,  # of the site's sources
    known: dict,  # file of the repository -> page
    folder: Path,  # of the site's sources
):
    "Write a notebook for myst-nb, with exported code replaced by the documentation of what it defines"
    cells, module = [], None
    for cell in cells_of(path):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            cells.append(_markdown(convert_text(source, path, known, folder)))
            continue
        words = directives(source)
        if "default_exp" in words:
            module = f"{public.LIB}.{words['default_exp']}"
            cells.append(_markdown(f"```{{py:module}} {module}\n```"))
        elif {"export", "exporti"} & words.keys():
            cells += _entries(source, module)
        elif not HIDE & words.keys():
            cells += _code(cell, words, path)
    if path.parent.name == "guides":
        place = f"/files/{path.name}"
        shutil.copy(path, folder / place[1:])
        link = f"\n{{.download}}\n{{download}}`Download this notebook <{place}>`\n"
        cells[0]["source"] = LEAD.sub(lambda m: f"{m[0].rstrip()}\n{link}\n", cells[0]["source"], count=1)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    info = {"name": "python", "pygments_lexer": "ipython3"}
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    book = {
        "cells": cells,
        "metadata": {"kernelspec": kernel, "language_info": info},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    target.write_text(json.dumps(book), encoding="utf-8")


def examples(
    pages: list,  # of notebooks
) -> dict[str, str]:  # name that users import -> MyST
    "Collect the cells that are marked as the example of a name, with what they returned"
    found = {}
    for page in pages:
        if page.source.suffix != ".ipynb" or "| example:" not in page.source.read_text(encoding="utf-8"):
            continue
        for cell in cells_of(page.source):
            source = "".join(cell["source"])
            if name := directives(source).get("example"):
                shown = without_asserts(DIRECTIVE.sub("", source))
                given = "".join(_plain(output) for output in cell["outputs"]).rstrip()
                found[name] = f"```ipython3\n{shown}\n```\n" + (f"\n```text\n{given}\n```\n" if given else "")
    return found


def _plain(output):
    "Return an output as text"
    return "".join(output.get("text") or output.get("data", {}).get("text/plain", "")) + "\n"
