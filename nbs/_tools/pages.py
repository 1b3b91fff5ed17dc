"Pages of the site that are made from declarations: options, magics, panels, records, names, and the lists of what there is"

import ast
import re
from pathlib import Path

import api
from convert import cells_of, convert_text, directives, pictures

from trainopt_nb.base.options import declared, rows
from trainopt_nb.events.records import COMMANDS, EVENTS
from trainopt_nb.notebook.new import NewOptions
from trainopt_nb.notebook.verb_help import terminal_usage, verb_rows
from trainopt_nb.notebook.verbs import CellOptions
from trainopt_nb.task.train_options import TrainOptions

PLACE = re.compile(r"\{\{ ([^{}\n]+) \}\}")


def fill(
    path: Path,  # a template, which is replaced
    values: dict,  # name between double braces -> text
):
    "Put texts into their places; raises SystemExit where a place has none"

    def value(match):
        if match[1].startswith("picture: "):
            name, _, alt = match[1].removeprefix("picture: ").partition(" - ")
            return pictures(name, alt)
        if match[1] not in values:
            raise SystemExit(f"{path.name} has a place {match[0]}, and only {', '.join(values)} are known.")
        return values[match[1]]

    path.write_text(PLACE.sub(value, path.read_text(encoding="utf-8")), encoding="utf-8")


# lists


def listing(
    inside: list,  # pages of one room
) -> str:
    "The pages of a room with their sentences, and the tree that the sidebar shows"
    items = [f"[{page.title}](/{page.name}{page.source.suffix})\n: {page.lead}" for page in inside]
    return "\n\n".join(items) + "\n\n" + tree([f"/{page.name}" for page in inside])


def tree(names, caption=""):
    head = ":hidden:\n" + (f":caption: {caption}\n" if caption else "")
    return f"```{{toctree}}\n{head}\n" + "\n".join(names) + "\n```"


def write_inside(
    folder: Path,  # of these pages
    by_floor: dict,  # folder of nbs/ -> pages
    titles: dict,  # folder of nbs/ -> title and sentence
):
    "A page for each floor and one above them"
    names = []
    for floor, inside in by_floor.items():
        title, lead = titles.get(floor, (floor.capitalize(), ""))
        name = "ground" if floor == "." else floor
        (folder / name).mkdir(parents=True, exist_ok=True)
        text = f"# {title}\n\n{{.lead}}\n{lead.capitalize()}\n\n{listing(inside)}\n"
        (folder / name / "index.md").write_text(text, encoding="utf-8")
        names.append((name, title, lead))
    items = [f"[{title}](/inside/{name}/index.md)\n: {lead}" for name, title, lead in names]
    floors = "\n\n".join(items) + "\n\n" + tree([f"/inside/{name}/index" for name, _, _ in names])
    fill(folder / "index.md", {"floors": floors})


# the front page


def front(
    path: Path,  # nbs/index.ipynb
) -> str:
    "What README says, as one text"
    found = []
    for cell in cells_of(path):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            found.append(source)
        elif not {"hide", "default_exp", "export"} & directives(source).keys():
            found.append(f"```python\n{source}\n```")
    return "\n\n".join(found)


def sections(
    text: str,  # of the front page
) -> dict[str, str]:  # heading -> what stands below it; `lead` is the sentence at the top
    "README by its headings"
    lead = re.search(r"\{\.lead\}\n(.+?)\n\n", text + "\n\n", re.S)[1]
    parts = re.split(r"^## (.+)\n", text, flags=re.M)
    return {"lead": lead} | dict(zip(parts[1::2], parts[2::2], strict=True))


# reference


def write_reference(
    folder: Path,  # of these pages
    by_floor: dict,  # folder of nbs/ -> pages
):
    "Fill the templates of the reference"
    every = {f"api {name}": api.entry(full) for full, name in api.places().items() if name}
    values = {
        **every,
        "options": _options(TrainOptions),
        "cell options": _options(CellOptions),
        "new options": _options(NewOptions, "trainopt new"),
        "front options": _front(),
        "verbs": _verbs(),
        "usage": terminal_usage().strip(),
        "form": _form(),
        "shown": _shown(),
        "events": _records(["Step", *EVENTS]),
        "commands": _records([*COMMANDS]),
        "names": _names(by_floor),
    }
    for path in folder.glob("*.md"):
        fill(
            path,
            {
                k: convert_text(v, path, {}, folder) if k in ("verbs", "form") else v
                for k, v in values.items()
            },
        )


def _plain(row):
    "Default with its unit, in words"
    default = row["default"] or "nothing"
    return f"{default} {row['unit']}".strip() if row["default"] not in ("none", "") else default


def _option(o, row):
    "The entry of one option"
    head = f"{o.flag}, --no-{o.flag[2:]}" if o.type == "bool" else f"{o.flag} {_METAVAR[o.type]}"
    said = [f"Default **{_plain(row)}**", f"takes {row['values']}"]
    if o.dimension is not None and o.dimension.choices:
        said.append(f"worth trying: {', '.join(map(str, o.dimension.choices))}")
    elif o.dimension is not None:
        said.append(
            f"sensible from {o.dimension.low:g} to {o.dimension.high:g}" + (", by factors" if o.log else "")
        )
    said.append(f"keyword `{o.name}`")
    if o.aliases:
        said.append(f"elsewhere called {', '.join(f'`{alias}`' for alias in o.aliases)}")
    help = row["help"][:1].upper() + row["help"][1:]
    return f":::{{option}} {head}\n{help}.\n\n{{.facts}}\n{' · '.join(said)}\n:::"


_METAVAR = {"int": "N", "float": "X", "choice": "NAME", "text": "TEXT", "numbers": "N,N,..."}


def _options(cls, program=""):
    "All options of a class under the headings of their groups; those of a command of its own are told from the others"
    known, parts, group = declared(cls), [f"```{{program}} {program}\n```"] if program else [], None
    for row in rows(cls):
        if row["group"] != group:
            group = row["group"]
            parts += [f"## {group}"] if group and not program else []
        parts.append(_option(known[row["keyword"]], row))
    return "\n\n".join(parts)


def _front():
    "The options that people change first, as a table"
    known = declared(TrainOptions)
    lines = ["| option | default | meaning |", "| --- | --- | --- |"]
    for row in rows(TrainOptions):
        if known[row["keyword"]].front:
            lines.append(f"| {{option}}`{row['flag']}` | {_plain(row)} | {row['help']} |")
    return "\n".join(lines)


def _verbs():
    "An entry for each verb"
    parts = []
    for row in verb_rows():
        width = max(len(text) for text, _ in row.usage)
        usage = "\n".join(f"{text:<{width}}   # {place}" for text, place in row.usage)
        sentence = row.help[:1].upper() + row.help[1:]
        part = f"### {row.name}\n\n```text\n{usage}\n```\n\n{sentence.rstrip('.')}."
        if "--epochs" in row.flags:
            part += " Takes the [flags of the cell](/reference/magics.md#cell) and all [options](/reference/options.md)."
        parts.append(part)
    return "\n\n".join(parts)


def _form():
    "What the form shows: the options that people change first, and groups to open"
    known, lines = declared(TrainOptions), ["| group | controls |", "| --- | --- |"]
    front = [o for o in known.values() if o.front]
    groups = {"at the top": front}
    for o in known.values():
        if not o.front:
            groups.setdefault(o.group, []).append(o)
    lines += [f"| {name} | {', '.join(f'`{o.flag}`' for o in inside)} |" for name, inside in groups.items()]
    return "\n".join(lines)


def _shown():
    "Every public class that a notebook shows as more than text"
    lines = ["| shown | what it is |", "| --- | --- |"]
    for full in api.places():
        node = api.module(full.rpartition(".")[0]).nodes[full.rpartition(".")[2]]
        if isinstance(node, ast.ClassDef) and any(
            getattr(n, "name", "") == "_repr_mimebundle_" for n in node.body
        ):
            lines.append(f"| {{py:obj}}`{node.name} <{full}>` | {api.summary(full)} |")
    return "\n".join(lines)


def _records(names):
    "The records of the module `events`, with their fields"
    home, parts = api.module("trainopt_nb.events.records"), []
    for name in names:
        node = home.nodes[name]
        lines = [f"### {name}", "", f"{{py:obj}}`{home.name}.{name}`: {ast.get_docstring(node)}."]
        own = api.fields(home, node)
        if own:
            lines += ["", "| field | type | meaning |", "| --- | --- | --- |"]
            lines += [f"| `{n}` | {kind.replace('|', 'or')} | {text} |" for n, (kind, _, text) in own.items()]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _names(by_floor):
    "Every public name with its sentence, by module"
    parts = []
    of_module = {}
    for inside in by_floor.values():
        for page in inside:
            if name := re.search(r"# ?\| ?default_exp (\S+)", page.source.read_text(encoding="utf-8")):
                of_module[f"{api.LIB}.{name[1].strip(chr(34)).removesuffix(chr(92) + 'n')}"] = page
    for module, page in of_module.items():
        home = api.module(module)
        if not home.public:
            continue
        lines = [f"## [{module}](/{page.name}.ipynb)", "", f"{page.lead}", "", "| name | |", "| --- | --- |"]
        for name in home.public:
            full = f"{module}.{name}"
            text = api.summary(full).replace("|", "\\|")
            lines.append(f"| {{py:obj}}`{name} <{full}>` | {text} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)
