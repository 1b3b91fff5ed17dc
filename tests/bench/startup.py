"""
What one waits for: `import trainopt_nb`, and `%load_ext trainopt_nb` to the first training step

    python tests/bench/startup.py            # 10 fresh processes of each
    python tests/bench/startup.py 20

Medians, and the quickest in brackets. Wall time is at the mercy of what else the machine does; importing is work for one
core (of all threads only one can run Python), so CPU time is what a quiet machine would take. The first step is that of
the quickstart's cell, run at once: the extension imports in the background what the first optimizer needs, so that
whoever needs a second to type waits less. What scikit-learn takes to import is the cell's own affair: it is measured
alone and taken off.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
IMPORT = """
import json, time
import torch, IPython
began, cpu = time.perf_counter(), time.process_time()
import trainopt_nb
print(json.dumps({"import": time.perf_counter() - began, "import CPU": time.process_time() - cpu}))
"""
SKLEARN = """
import json, time
import torch
began, cpu = time.perf_counter(), time.process_time()
import sklearn.datasets, sklearn.model_selection
print(json.dumps({"sklearn": time.perf_counter() - began, "sklearn CPU": time.process_time() - cpu}))
"""
FIRST_STEP = """
import json, os, tempfile, time
began, cpu = time.perf_counter(), time.process_time()
import torch
found = {"torch": time.perf_counter() - began, "torch CPU": time.process_time() - cpu}
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
os.chdir(tempfile.mkdtemp(prefix="trainopt-bench-"))
began, cpu = time.perf_counter(), time.process_time()
shell.run_line_magic("load_ext", "trainopt_nb")
found |= {"load_ext": time.perf_counter() - began, "load_ext CPU": time.process_time() - cpu}
from trainopt_nb.train.state import TrainingState
advance = TrainingState.advance
def first(*arguments):
    found.update({"first": time.perf_counter() - began, "first CPU": time.process_time() - cpu})
    TrainingState.advance = advance
    return advance(*arguments)
TrainingState.advance = first
answer = shell.run_cell('''%%trainopt fit --epochs 1 --batch-size 32 --schedule onecycle --lr 3e-3
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

images, labels = load_digits(return_X_y=True)
images = images.reshape(-1, 1, 8, 8).astype("float32") / 16
train_x, valid_x, train_y, valid_y = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=0)
train_data, valid_data = (train_x, train_y), (valid_x, valid_y)

model = nn.Sequential(
    nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
    nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
    nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 4 * 4, 10),
)
''')
answer.raise_error()
print("\\n" + json.dumps(found))
import shutil
shutil.rmtree(os.getcwd())
"""


def fresh(source):
    "What a new process prints last"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main(times):
    from common import machine

    print(machine(), f"medians of {times} fresh processes (the quickest in brackets)\n", sep=", ")
    fresh(FIRST_STEP)  # files come into the cache
    found = [fresh(IMPORT) | fresh(SKLEARN) | fresh(FIRST_STEP) for _ in range(times)]
    for row in found:
        for kind in ("", " CPU"):
            row["beyond" + kind] = row["first" + kind] - row["sklearn" + kind]
    lines = {
        "torch": "import torch",
        "import": "import trainopt_nb, beyond torch and IPython: at most 0.15",
        "load_ext": "%load_ext trainopt_nb, torch imported",
        "sklearn": "import of scikit-learn, alone",
        "first": "%load_ext to the first step, torch imported",
        "beyond": "  without what scikit-learn takes: at most 1",
    }
    print(f"{'':60s} {'wall, s':>15s} {'CPU, s':>15s}")
    for key, text in lines.items():
        wall, cpu = ([row[key + kind] for row in found] for kind in ("", " CPU"))
        columns = (f"{statistics.median(values):6.3f} ({min(values):.3f})" for values in (wall, cpu))
        print(f"{text:60s} {'  '.join(columns)}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
