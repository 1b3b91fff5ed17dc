"Write README.md from nbs/index.ipynb"

import re
from pathlib import Path

from execnb.nbio import read_nb
from nbdev.config import get_config

HIDE = ("hide", "export", "default_exp")


def link(text):
    "Change links relative to nbs/ into links relative to the repository"
    text = re.sub(r"\]\((?!\.\./|https?:|#)", "](nbs/", text)
    return text.replace("](../", "](")


def outputs(cell):
    "Yield the outputs of a cell as text"
    for output in cell.outputs:
        data = output.get("data", {})
        if "text/markdown" in data:
            yield "".join(data["text/markdown"])
        elif text := "".join(output.get("text") or data.get("text/plain") or ""):
            yield f"```text\n{text.rstrip()}\n```"


def parts(nb):
    "Yield the visible parts of the page"
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
