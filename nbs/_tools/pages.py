"Write the generated pages of the site: options, magics, panels, events, names and the lists of pages"

import re
from pathlib import Path

import api
import public
from convert import cells_of, convert_text, directives, pictures

from trainopt_nb.base.flags import rows
from trainopt_nb.base.options import combine, declared
from trainopt_nb.base.texts import wording
from trainopt_nb.compression.options import CompressOptions, StepOptions
from trainopt_nb.compression.steps import STEPS
from trainopt_nb.events.records import COMMANDS, EVENTS, Step
from trainopt_nb.notebook.coach_verb import CoachOptions
from trainopt_nb.notebook.compress_verb import CompressCell
from trainopt_nb.notebook.convert_verb import ConvertArguments
from trainopt_nb.notebook.data_verb import DataView
from trainopt_nb.notebook.doctor_verb import DoctorOptions
from trainopt_nb.notebook.inspect_verb import InspectOptions
from trainopt_nb.notebook.memory_verb import MemoryOptions
from trainopt_nb.notebook.new import NewOptions
from trainopt_nb.notebook.predict_verb import PredictOptions
from trainopt_nb.notebook.profile_verb import ProfileOptions
from trainopt_nb.notebook.runs_verb import RunsOptions
from trainopt_nb.notebook.sweep_verbs import SpaceWords
from trainopt_nb.notebook.tune_verb import TuneOptions
from trainopt_nb.notebook.verb_help import terminal_usage, verb_rows
from trainopt_nb.notebook.verbs import CellOptions, Trust
from trainopt_nb.panels.form import sections as form_sections
from trainopt_nb.search.options import SweepOptions
from trainopt_nb.task.train_options import TrainOptions

GROUPS = wording("form", code="en")  # group of options -> its name in the form
PLACE = re.compile(r"\{\{ ([^{}\n]+) \}\}")


def fill(
    path: Path,  # a template, which is overwritten
    values: dict,  # name between double braces -> text
):
    "Fill the places of a template; raise SystemExit if a place has no value"

    def value(match):
        if match[1].startswith("picture: "):
            name, _, alt = match[1].removeprefix("picture: ").partition(" - ")
            return pictures(name, alt)
        if match[1] not in values:
            raise SystemExit(
                f"{path.name} contains {match[0]}, and only {', '.join(values)} can be filled in."
            )
        return values[match[1]]

    path.write_text(PLACE.sub(value, path.read_text(encoding="utf-8")), encoding="utf-8")


# lists


def listing(
    inside: list,  # pages of one room
) -> str:
    "List the pages of a room with their sentences, and add them to the sidebar"
    return _items(inside) + "\n\n" + tree([f"/{page.name}" for page in inside])


def _items(inside):
    return "\n\n".join(f"[{page.title}](/{page.name}{page.source.suffix})\n: {page.lead}" for page in inside)


def fill_room(
    path: Path,  # a template with places such as `guides: resume background`, and `pages` for all others
    inside: list,  # pages of the room
):
    "List the guides of a room under the headings of its template"
    left, values, order = {page.name.rpartition("/")[2]: page for page in inside}, {}, []
    for place in PLACE.findall(path.read_text(encoding="utf-8")):
        if place.startswith("guides: "):
            group = [left.pop(name) for name in place.removeprefix("guides: ").split()]
            values[place] = _items(group)
            order += group
    more = "## More\n\n" if order and left else ""
    order += left.values()
    values["pages"] = more + _items(left.values()) + "\n\n" + tree([f"/{page.name}" for page in order])
    fill(path, values)


def tree(names, caption=""):
    head = ":hidden:\n" + (f":caption: {caption}\n" if caption else "")
    return f"```{{toctree}}\n{head}\n" + "\n".join(names) + "\n```"


def write_inside(
    folder: Path,  # of these pages
    by_floor: dict,  # folder of nbs/ -> pages
    titles: dict,  # folder of nbs/ -> title and sentence
):
    "Write a page for each room of notebooks, and the page that lists the rooms"
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
    "Return the text of README"
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
    "Split README at its headings"
    lead = re.search(r"\{\.lead\}\n(.+?)\n\n", text + "\n\n", re.S)[1]
    parts = re.split(r"^## (.+)\n", text, flags=re.M)
    return {"lead": lead} | dict(zip(parts[1::2], parts[2::2], strict=True))


# reference


def write_reference(
    folder: Path,  # of these pages
    by_floor: dict,  # folder of nbs/ -> pages
    shown: dict[str, str],  # name that users import -> its example
):
    "Fill the templates of the reference"
    every = {
        f"api {name}": api.entry(full) + _example(shown.get(name.removeprefix(f"{public.LIB}.")))
        for full, name in public.places().items()
        if name
    }
    values = {
        **every,
        "options": _options(TrainOptions),
        "sweep options": _plain_options(combine(SpaceWords, SweepOptions)),
        "cell options": _options(CellOptions),
        "trust options": _plain_options(Trust),
        "predict options": _plain_options(PredictOptions),
        "runs options": _plain_options(RunsOptions),
        "profile options": _plain_options(ProfileOptions),
        "inspect options": _plain_options(InspectOptions),
        "doctor options": _plain_options(DoctorOptions),
        "tune options": _options(TuneOptions, "trainopt tune") + "\n\n```{program} None\n```",
        "coach options": _options(CoachOptions, "trainopt coach") + "\n\n```{program} None\n```",
        "memory options": _plain_options(MemoryOptions),
        "data options": _plain_options(DataView),
        "convert options": _plain_options(ConvertArguments),
        "new options": _options(NewOptions, "trainopt new"),
        "compress options": _options(
            combine(StepOptions, CompressOptions, CompressCell), "trainopt compress"
        ),
        "recipe steps": _recipe_steps(),
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


def _example(text):
    return f"\n\n{{.also}}\nExample:\n\n{text}" if text else ""


def _head(o):
    "Write an option as it is typed behind a command"
    letter = f"-{o.short}, " if o.short else ""
    return letter + (f"{o.flag}, --no-{o.flag[2:]}" if o.type == "bool" else f"{o.flag} {_METAVAR[o.type]}")


def _word(o):
    "Write an option as it is typed in a recipe"
    return f"{o.name}={'yes|no' if o.type == 'bool' else _METAVAR[o.type]}"


def _option(o, row, head=_head):
    "Document one option"
    said = [f"Default **{row['shown']}**", f"takes {str(row['values']).replace('*', chr(92) + '*')}"]
    if o.dimension is not None and o.dimension.choices:
        said.append(f"sensible: {', '.join(map(str, o.dimension.choices))}")
    elif o.dimension is not None:
        said.append(
            f"sensible: {o.dimension.low:g} to {o.dimension.high:g}" + (" (log scale)" if o.log else "")
        )
    said.append(f"keyword `{o.name}`")
    if o.aliases:
        said.append(f"also known as {', '.join(f'`{alias}`' for alias in o.aliases)}")
    help = (row["help"][:1].upper() + row["help"][1:]).replace("*", r"\*")
    return f":::{{option}} {head(o)}\n{help}.\n\n{{.facts}}\n{' · '.join(said)}\n:::"


_METAVAR = {
    "int": "N", "float": "X", "choice": "NAME", "text": "TEXT", "numbers": "N,N,...", "names": "NAME,NAME,...",
    "rates": "NAME=X,...", "duration": "TIME", "share": "SHARE", "words": "WORD ...",
}  # fmt: skip


def _options(cls, program="", head=_head):
    "Document all options of a class by group; `program` separates the flags of another command"
    known, parts, group = declared(cls), [f"```{{program}} {program}\n```"] if program else [], None
    order = list(dict.fromkeys(row["group"] for row in rows(cls)))
    for row in sorted(rows(cls), key=lambda row: order.index(row["group"])):
        if row["group"] != group:
            group = row["group"]
            parts += [f"## {GROUPS.get(group, group)}"] if group and not program else []
        parts.append(_option(known[row["keyword"]], row, head))
    return "\n\n".join(parts)


def _plain_options(cls):
    "Document all options of a class without headings; arguments stand in the usage of their command"
    known = declared(cls)
    options = [row for row in rows(cls) if not known[row["keyword"]].argument]
    return "\n\n".join(_option(known[row["keyword"]], row) for row in options)


def _recipe_steps():
    "Document the steps of a recipe"
    parts = [
        f"## {name}\n\n{step.help[:1].upper()}{step.help[1:]}.\n\n{_options(step.options, f'recipe {name}', _word)}"
        for name, step in STEPS.items()
    ]
    return "\n\n".join(parts)


def _front():
    "Write a table of the most important options"
    known = declared(TrainOptions)
    lines = ["| option | default | meaning |", "| --- | --- | --- |"]
    for row in rows(TrainOptions):
        if known[row["keyword"]].front:
            lines.append(f"| {{option}}`{row['flag']}` | {row['shown']} | {row['help']} |")
    return "\n".join(lines)


def _verbs():
    "Document the verbs"
    parts = []
    for row in verb_rows():
        width = max(len(text) for text, _ in row.usage)
        usage = "\n".join(f"{text:<{width}}   # {place}" for text, place in row.usage)
        sentence = row.help[:1].upper() + row.help[1:]
        part = f"### {row.name}\n\n```text\n{usage}\n```\n\n{sentence.rstrip('.')}."
        if "--epochs" in row.flags:
            part += " Accepts the [flags of the cell](/reference/magics.md#cell) and all [options](/reference/options.md)."
        if row.name == "sweep":
            part += " Its own are the [options of sweeps](/reference/options.md#sweeps)."
        if row.name == "compress":
            part += " Its own stand [below](/reference/magics.md#compress-options); the options of training are those of fine-tuning."
        parts.append(part)
    return "\n\n".join(parts)


def _form():
    "Write a table of the fields of the form, by section"
    known, lines = declared(TrainOptions), ["| section | fields |", "| --- | --- |"]
    lines += [
        f"| {GROUPS.get(name, name)} | {', '.join(f'`{known[each].flag}`' for each in inside)} |"
        for name, inside in form_sections(TrainOptions()).items()
    ]
    return "\n".join(lines)


def _shown():
    "Write a table of the classes that display themselves in a notebook"
    lines = ["| class | shows |", "| --- | --- |"]
    for full in public.places():
        _, name, value, _ = public.find(full)
        if isinstance(value, type) and "_repr_mimebundle_" in vars(value):
            lines.append(f"| {{py:obj}}`{name} <{full}>` | {api.summary(full)} |")
    return "\n".join(lines)


def _records(names):
    "Document the events or the commands with their fields"
    known, parts = {"Step": Step} | {n: each[n] for each in (EVENTS, COMMANDS) for n in each}, []
    for name in names:
        full = f"{known[name].__module__}.{name}"
        _, _, cls, node = public.find(full)
        lines = [f"### {name}", "", f"{{py:obj}}`{full}`: {api.summary(full)}."]
        own = api.fields(cls, node)
        if own:
            lines += ["", "| field | type | meaning |", "| --- | --- | --- |"]
            for n, (kind, _, text) in own.items():
                kind = re.sub(r"~[\w.]+\.", "", kind).replace("|", "or")
                lines.append(f"| `{n}` | {kind} | {text} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _names(by_floor):
    "List every public name with its sentence, by module"
    parts = []
    of_module = {}
    for inside in by_floor.values():
        for page in inside:
            if name := re.search(r"# ?\| ?default_exp (\S+)", page.source.read_text(encoding="utf-8")):
                of_module[f"{public.LIB}.{name[1].strip(chr(34)).removesuffix(chr(92) + 'n')}"] = page
    for module, page in of_module.items():
        if module not in public.modules():
            continue
        lines = [f"## [{module}](/{page.name}.ipynb)", "", f"{page.lead}", "", "| name | |", "| --- | --- |"]
        for name in public.modules()[module].__all__:
            full = f"{module}.{name}"
            text = api.summary(full).replace("|", "\\|")
            lines.append(f"| {{py:obj}}`{name} <{full}>` | {text} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)
