"Write README.md from nbs/index.ipynb"

import re
from pathlib import Path

from execnb.nbio import read_nb
from nbdev.config import get_config

HIDE = ("hide", "export", "default_exp")


def link(text):
    "Links that lead from nbs/ to their file lead there from the top as well"
    text = re.sub(r"\]\((?!\.\./|https?:|#)", "](nbs/", text)
    return text.replace("](../", "](")


def outputs(cell):
    "What a cell showed, as text"
    for output in cell.outputs:
        data = output.get("data", {})
        if "text/markdown" in data:
            yield "".join(data["text/markdown"])
        elif text := "".join(output.get("text") or data.get("text/plain") or ""):
            yield f"```text\n{text.rstrip()}\n```"


def parts(nb):
    "The pieces of the page, one for each thing that a reader sees"
    for cell in nb.cells:
        directives = [found.strip() for found in re.findall(r"^# ?[|](.*)", cell.source, re.M)]
        if any(word.startswith(HIDE) for word in directives):
            continue
        if cell.cell_type == "markdown":
            yield link(cell.source)
            continue
        if "echo: false" not in directives:
            yield "```python\n" + re.sub(r"^# ?[|].*\n?", "", cell.source, flags=re.M) + "\n```"
        yield from outputs(cell)


if __name__ == "__main__":
    config = get_config()
    page = "\n\n".join(parts(read_nb(config.nbs_path / "index.ipynb")))
    Path(config.config_path, "README.md").write_text(
        f"<!-- from nbs/index.ipynb by nbs/_tools/readme.py -->\n\n{page}\n", encoding="utf-8"
    )
