"""Spoken digits, Adult and Tiny Shakespeare, from the files to figures on test data, each by a notebook that is run in a kernel

    python tests/bench/bench_notebooks.py FOLDER [--only speech adult shakespeare] [--keep NOTEBOOKS]

FOLDER holds spoken_digits.npz, adult-train.csv.gz, adult-test.csv.gz and tinyshakespeare.txt.gz. The cells are those that a reader would write: the data,
a look at them by `%trainopt data`, one `%%trainopt fit`, and `run.predict` on test data that the training has not seen.
"""

import argparse
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

LOAD = "%load_ext trainopt_nb\nimport torch\nfrom torch import nn\nimport numpy as np\ntorch.manual_seed(0)"

SPEECH = [
    """import soundfile
z = np.load(f"{FOLDER}/spoken_digits.npz")
samples, ends = z["samples"], np.cumsum(z["length"])
for start, end, digit, speaker, index in zip(ends - z["length"], ends, z["digit"], z["speaker"], z["index"]):
    part = "test" if index < 5 else "train"  # the official split
    path = Path(f"speech/{part}/{digit}/{speaker}_{index}.wav")
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples[start:end], 8000)""",
    'train_data = "speech/train"\n%trainopt data',
    """%%trainopt fit --sound-features log-mel --valid-fraction 0.1 --augment "time-mask frequency-mask" --epochs 10 --lr 3e-3 --schedule onecycle --threads 1
def block(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2))

train_data = "speech/train"
model = nn.Sequential(
    nn.BatchNorm2d(1), block(1, 16), block(16, 32), block(32, 64), nn.Flatten(), nn.Dropout(0.3), nn.LazyLinear(10)
)""",
    """files = sorted(Path("speech/test").glob("*/*.wav"))
found = run.predict(files)
right = np.mean([str(label) == file.parent.name for label, file in zip(found.labels, files)])
print(f"RESULT speech: {len(files)} recordings of the test split, accuracy {right:.4f} (at least 0.95)")""",
]
ADULT = [
    """import pandas as pd
names = "age workclass fnlwgt education years marital occupation relationship race sex gain loss hours country income".split()

def adult(part):
    frame = pd.read_csv(f"{FOLDER}/adult-{part}.csv.gz", names=names, skipinitialspace=True, na_values="?")
    return frame.assign(income=frame["income"].str.rstrip("."))

train_data, test = adult("train"), adult("test")""",
    "%trainopt data --target income",
    """%%trainopt fit --target income --valid-fraction 0.1 --epochs 6 --batch-size 256 --lr 2e-3 --schedule onecycle --features quantile --threads 1
model = nn.Sequential(nn.LazyLinear(128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 2))""",
    """right = (pd.Series(run.predict(test).labels) == test["income"]).mean()
print(f"RESULT adult: {len(test)} rows of the test part, accuracy {right:.4f} (at least 0.85)")""",
]
SHAKESPEARE = [
    """import gzip
text = gzip.open(f"{FOLDER}/tinyshakespeare.txt.gz", "rt").read()
letters = sorted(set(text))
numbers = torch.tensor([letters.index(letter) for letter in text])
rows = numbers[: len(numbers) // 65 * 65].reshape(-1, 65)
cut = len(rows) * 9 // 10
train_data, valid_data = (rows[:cut, :-1], rows[:cut, 1:]), (rows[cut:, :-1], rows[cut:, 1:])""",
    "%trainopt data",
    """%%trainopt fit --epochs 4 --batch-size 64 --lr 5e-3 --threads 1 --schedule onecycle
class Writer(nn.Module):
    def __init__(self, width=160):
        super().__init__()
        self.embed = nn.Embedding(len(letters), 48)
        self.read = nn.GRU(48, width, batch_first=True)
        self.score = nn.Linear(width, len(letters))

    def forward(self, x):
        return self.score(self.read(self.embed(x))[0])

model = Writer()""",
    """x, y = rows[:cut, :-1].flatten(), rows[:cut, 1:].flatten()
counts = torch.ones(len(letters), len(letters)).index_put((x, y), torch.ones(len(x)), accumulate=True)
table = (counts / counts.sum(1, keepdim=True)).log()
pairs = -table[rows[cut:, :-1], rows[cut:, 1:]].mean().item()
loss = nn.functional.cross_entropy(model.eval()(rows[cut:, :-1]).flatten(0, 1), rows[cut:, 1:].flatten()).item()
print(f"RESULT shakespeare: {len(rows) - cut} lines held out, loss {loss:.3f} nats a letter, pairs of letters {pairs:.3f}")""",
]
TASKS = {"speech": SPEECH, "adult": ADULT, "shakespeare": SHAKESPEARE}


def run(name, data, keep):
    "Run one notebook and print its figures; keep it where asked"
    cells = [LOAD, f"from pathlib import Path\nFOLDER = {str(data)!r}", *TASKS[name]]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    with tempfile.TemporaryDirectory() as folder:
        began = time.time()
        NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": folder}}).execute()
    for line in "".join(
        each.get("text", "") for cell in notebook.cells for each in cell.outputs
    ).splitlines():
        if line.startswith("RESULT "):
            print(f"{line.removeprefix('RESULT ')}; {time.time() - began:.0f} s in all", flush=True)
    if keep:
        nbformat.write(notebook, Path(keep) / f"{name}.ipynb")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=lambda text: Path(text).resolve(), help="where the files are")
    parser.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--keep", help="folder for the notebooks with their outputs")
    asked = parser.parse_args()
    for name in asked.only:
        run(name, asked.folder, asked.keep)


if __name__ == "__main__":
    main()
