"""
Execute one notebook in place: cell ids stay, widgets get the same ids on every run, skipped cells keep their outputs,
and printed text keeps neither speeds nor the machine's folders
"""

import itertools
import os
import re
import sys
import uuid
from pathlib import Path
from tempfile import TemporaryDirectory

from execnb.nbio import read_nb, write_nb
from execnb.shell import CaptureShell
from nbdev.clean import clean_nb
from nbdev.config import get_config
from nbdev.process import NBProcessor

os.environ["TRAINOPT_LANGUAGE"] = "en"  # whatever the developer speaks
WIDGETS = "application/vnd.jupyter.widget-state+json"


def skipped(cell):
    "Cells that `nbdev_test` does not run either"
    d = cell.directives_
    return (
        cell.cell_type != "code"
        or d.get("eval:") == ["false"]
        or bool(d.keys() & set(get_config().tst_flags.split()))
    )


NOISE = (  # what differs from machine to machine in printed text
    (r"  [\d.]+(?: [kMG])? samples/s", ""),
    (r"\b20\d\d-\d\d-\d\d-(?=[a-z])", "2026-01-01-"),  # the day in the name of a run
    (r"(?:/[\w.@+-]+)+/(?=runs/)", ""),  # where the folder of runs is
    (r"^(trial \d+.*?)  \d+(?:\.\d)? (?:s|min|h)(?: \d\d (?:s|min))?(?=  )", r"\1"),  # how long a trial took
    (r"(: stopped, epoch \d+, step )\d+", r"\1…"),  # how far it was when it was stopped
    (r"^importing PyTorch …\n", ""),  # said where it lasts
    (r"\[IPKernelApp\] WARNING .*\n?", ""),  # how a kernel is reached
    (r"\r\n", "\n"),
)


MEASURED = r"^[%!]trainopt compress "  # its tables are latencies of this machine


def steady(nb):
    "Take out of printed text what differs from machine to machine"
    for cell in nb.cells:
        if re.search(MEASURED, cell.source, flags=re.M) and "outputs" in cell:
            cell.outputs = [o for o in cell.outputs if o.output_type == "error"]
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            for holder, key in ((output, "text"), (data, "text/plain"), (data, "text/markdown")):
                text = kept = "".join(holder.get(key) or "")
                for pattern, instead in NOISE:
                    kept = re.sub(pattern, instead, kept, flags=re.M)
                if kept != text:
                    holder[key] = kept.splitlines(keepends=True)
        if "outputs" in cell:
            cell.outputs = [o for o in cell.outputs if o.get("text", True)]


def run(path):
    "Execute the notebook at `path` and write its outputs and widget state back"
    path = Path(path).absolute()
    nb, skip = read_nb(path), {c.id for c in NBProcessor(path).nb.cells if skipped(c)}
    count = itertools.count()
    uuid.uuid4 = lambda: uuid.uuid5(uuid.NAMESPACE_URL, f"{path.name}/{next(count)}")
    sys.path.insert(0, str(get_config().config_path))
    shell = CaptureShell(path)
    with TemporaryDirectory() as empty:  # a guide's runs have the same numbers each time
        os.chdir(empty if path.parent.name == "guides" else path.parent)
        try:
            shell.run_all(nb, exc_stop=True, preproc=lambda c: c.id in skip)
        finally:
            os.chdir(path.parent)
    if "ipywidgets" in sys.modules:  # anywidget needs drop_defaults=False
        state = sys.modules["ipywidgets"].Widget.get_manager_state(drop_defaults=True)
        if state["state"]:
            nb.metadata["widgets"] = {WIDGETS: state}
    steady(nb)
    clean_nb(nb)
    write_nb(nb, path)


if __name__ == "__main__":
    run(sys.argv[1])  # one notebook a process, so that widget ids start at zero
