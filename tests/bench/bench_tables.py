"Accuracy and seconds on Adult: a perceptron on the columns of `--features`, beside scikit-learn's gradient boosting"

import argparse
import tempfile
import time

import pandas as pd
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import nn

import trainopt_nb as t

NAMES = "age workclass fnlwgt education years marital occupation relationship race sex gain loss hours country income"


def adult(folder, part):
    "Return one part of Adult as a table"
    path = f"{folder}/adult-{part}.csv.gz"
    frame = pd.read_csv(path, names=NAMES.split(), skipinitialspace=True, na_values="?")
    return frame.assign(income=frame["income"].str.rstrip("."))


def perceptron(train, test, seed, **options):
    "Train once; return the accuracy on the test rows and the CPU seconds"
    torch.manual_seed(seed)
    layers = nn.LazyLinear(128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 64), nn.ReLU(), nn.Dropout(0.2)
    model, begun = nn.Sequential(*layers, nn.Linear(64, 2)), time.process_time()
    how = {
        "target": "income",
        "valid_fraction": 0.1,
        "epochs": 6,
        "batch_size": 256,
        "lr": 2e-3,
        "seed": seed,
    }
    folder = tempfile.mkdtemp()
    run = t.fit(model, train, folder=folder, schedule="onecycle", write=lambda line: None, **how, **options)
    found = run.predict(test).labels
    return (pd.Series(found) == test["income"]).mean(), time.process_time() - begun


def boosting(train, test):
    "Return the accuracy of gradient boosting on the same rows, and the CPU seconds"
    begun, inputs = (
        time.process_time(),
        lambda frame: frame.drop(columns="income").astype(
            {name: "category" for name in frame if frame[name].dtype.kind not in "iuf" and name != "income"}
        ),
    )
    model = HistGradientBoostingClassifier(categorical_features="from_dtype", random_state=0)
    model.fit(inputs(train), train["income"])
    return model.score(inputs(test), test["income"]), time.process_time() - begun


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="where adult-train.csv.gz and adult-test.csv.gz are")
    parser.add_argument("--seeds", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    train, test = adult(asked.folder, "train"), adult(asked.folder, "test")
    print("gradient boosting: accuracy {:.4f}, {:.1f} s".format(*boosting(train, test)))
    for words in ("auto", "quantile", "auto target:country", "auto bins:age:8 bins:hours:5"):
        for seed in range(asked.seeds):
            accuracy, seconds = perceptron(train, test, seed, features=words)
            print(f"perceptron, --features '{words}', seed {seed}: accuracy {accuracy:.4f}, {seconds:.1f} s")


if __name__ == "__main__":
    main()
