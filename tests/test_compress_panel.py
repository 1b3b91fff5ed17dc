"What the page is told of a compression, what a click becomes, and what stays in a saved notebook: no browser is needed here"

import json
import math
import re
from pathlib import Path

import pytest
from test_panel import NASTY

from trainopt_nb.base.texts import wording
from trainopt_nb.compression.card import candidate_table, compress_figures
from trainopt_nb.compression.compressed_run import taken_code
from trainopt_nb.compression.progress import compression_of
from trainopt_nb.compression.records import (
    AddStep,
    CandidateMeasured,
    CompressStarted,
    Exported,
    ExportTo,
    FindBest,
    Finish,
    LayerCost,
    MeasureLayers,
    SearchEnded,
    StepRefused,
    StopStep,
    Take,
    Taken,
    Undo,
    Working,
)
from trainopt_nb.events.progress import Progress
from trainopt_nb.events.records import Ended, Note
from trainopt_nb.panels.base import read_static
from trainopt_nb.panels.compress_panel import CompressPanel

ROOT = Path(__file__).parents[1]

MACHINE = (
    "Intel(R) Xeon(R) Platinum 8488C (AVX512-VNNI, AMX-INT8, AMX-BF16), 1 thread of 2 cores, torch 2.11.0"
)
BEGAN = CompressStarted(
    "digits-cnn", "ResNet", "1%", 0.976, "Floor: at most 1 point of accuracy may be lost, which is 2.0 of 199 samples.",
    "accuracy", "max", True, [1], [1, 64], 1, MACHINE, None, 0.0,
)  # fmt: skip
COSTS = {
    "stem": 0.004,
    "block1.conv1": 0.0005,
    "block1.conv2": 0.0003,
    "block2.conv1": 0.0002,
    "block2.conv2": 0.0002,
    "head": 0.0009,
}


def candidate(number, parent, steps, engine, nbytes, one, many, speeds, metric, **more):
    "A candidate that was measured: bytes, milliseconds at batch 1 and 64, how many times faster, accuracy"
    latency = {"1": one / 1e3, "64": many / 1e3}
    fields = {
        "parameters": None if engine == "onnxruntime" else nbytes // 4, "macs": None if engine == "onnxruntime" else 7 * nbytes,
        "memory": 4 * nbytes, "kept": True, "under_floor": False, "notes": [], "seconds": 21.0, "time": 10.0 + 20 * number,
        "reason": f"{speeds[0]:.2f}× at batch 1, {nbytes / 2_820_000:.2f} of the bytes of the original",
    } | more  # fmt: skip
    return CandidateMeasured(
        number, parent, steps, engine, nbytes, latency, {size: 0.96 * value for size, value in latency.items()},
        {"1": 0.06, "64": 0.04}, dict(zip(("1", "64"), speeds, strict=True)), metric, metric - 0.01, metric + 0.01, **fields,
    )  # fmt: skip


def recorded():
    "The log of a compression: clicked steps, one that was refused, a search, an export"
    int8, ort = "quantize int8", "onnxruntime"
    yield BEGAN
    note = "199 of 398 validation samples judge; the others choose, and are not counted here."
    yield candidate(
        0,
        -1,
        [],
        "torch",
        2_820_000,
        4.1,
        71,
        (1.0, 1.0),
        0.986,
        reason="the original",
        notes=[note],
        seconds=4.0,
    )
    yield candidate(1, 0, ["prune 0.5"], "torch", 1_380_000, 2.02, 33, (2.03, 2.15), 0.985, seconds=31.0)
    yield Taken(1, [0])
    yield LayerCost("accuracy", COSTS, ["stem"])
    yield candidate(2, 1, ["prune 0.5", int8], ort, 380_000, 0.61, 7.6, (6.7, 9.3), 0.984, seconds=18.0)
    yield Taken(2, [0, 1])
    yield candidate(3, 0, ["lowrank 0.7"], "torch", 710_000, 1.19, 22, (3.4, 3.2), 0.967, kept=False, under_floor=True,
                    reason="under the floor: accuracy 96.7% ± 1.0, original 98.6% ± 1.0, floor 1%")  # fmt: skip
    yield candidate(4, 0, ["quantize int8-weights engine=torchao"], "torchao", 740_000, 5.41, 76, (0.76, 0.93), 0.986,
                    kept=False, reason="kept original: int8 weights is 0.76× here at batch 1")  # fmt: skip
    yield StepRefused(
        "distill small",
        "This model has 64 inputs, and the zoo has networks for images only: pass a student of your own.",
    )
    yield candidate(5, 0, [int8], ort, 770_000, 0.86, 13.9, (4.8, 5.1), 0.9845)
    yield candidate(6, 0, ["quantize bf16"], "torch compiled", 1_420_000, 1.71, 12.2, (2.4, 5.8), 0.986)
    yield candidate(
        7, 0, ["prune 0.75 macs", int8], ort, 210_000, 0.45, 5.6, (9.1, 12.7), 0.983, seconds=41.0
    )
    yield candidate(
        8, 0, ["lowrank 0.5", "prune 0.5", int8], ort, 240_000, 0.47, 5.8, (8.7, 12.2), 0.9785, seconds=44.0
    )
    yield candidate(9, 0, ["prune 0.95 macs", int8], ort, 90_000, 0.31, 3.1, (13.2, 22.9), 0.71, kept=False, under_floor=True,
                    reason="under the floor: accuracy 71.0% ± 3.2, original 98.6% ± 1.0, floor 1%")  # fmt: skip
    yield SearchEnded(
        "fastest",
        14,
        7,
        [7, 2, 5, 0],
        118.0,
        "9 recipes were left out, because their first step missed the floor.",
    )
    yield Taken(7, [0, 1, 2])
    yield Exported(
        7,
        "onnx int8",
        "exports/digits-cnn-7",
        214_000,
        "Loaded back in ONNX Runtime: the largest difference of its outputs is 1e-6.",
    )


def commands(panel):
    found = []
    while not panel.commands.empty():
        found.append(panel.commands.get_nowait())
    return found


@pytest.fixture
def progress():
    return Progress("digits-cnn").add(list(recorded()))


# ---- what is sent


def test_the_page_is_told_everything_of_a_compression(wired, progress):
    panel, _ = wired(CompressPanel, progress)
    whole = json.loads(panel.whole(), parse_constant=pytest.fail)
    face, rows = whole["face"], whole["rows"]
    assert (face["state"], face["taken"], face["recipe"]) == ("waits", 7, "prune 0.75 macs, quantize int8")
    assert face["headline"] == "9 candidates · on Intel Xeon Platinum 8488C, 1 thread · floor 97.6% · batch 1"
    assert [value for value, *_ in face["figures"]] == ["9.1×", "12.7×", "13.4×", "98.3%", "41 s"]
    assert face["figures"][3][2:4] == ["−0.3", False] and face["costs"][0] == ["stem", 0.004, True]
    assert rows["2"]["cost"] == 49.0 and not rows["2"]["module"] and rows["1"]["module"]
    assert (rows["3"]["kept"], rows["3"]["under"], rows["0"]["label"]) == (False, True, "")
    assert rows["8"]["label"] == "lowrank 0.5 + prune 0.5 + int8"


def test_what_happened_is_told_in_its_order(wired, progress):
    panel, _ = wired(CompressPanel, progress)
    notes = json.loads(panel.whole())["face"]["notes"]
    assert notes[0][1].startswith("The original: 4.10 ms, 71.0 ms, 2.82 MB, accuracy 98.6% ± 1.0. 199 of 398")
    assert notes[5] == ["warning", f"distill small: {compression_of(progress).refused[0].reason}"]
    assert notes[-2] == ["info", "9 recipes were left out, because their first step missed the floor."]
    assert "is exported as onnx int8 to exports/digits-cnn-7, 214 kB. Loaded back" in notes[-1][1]


def test_a_new_candidate_costs_one_row_and_another_original_all(wired, progress):
    panel, wire = wired(CompressPanel, progress)
    assert not panel.update()
    first = compression_of(progress).candidates[0]
    progress.add([compression_of(progress).candidates[5]._replace(number=10, metric=0.5)])
    panel.update()
    progress.add([first._replace(metric=0.99)])
    panel.update()
    one, whole = wire.news()
    assert list(one["rows"]) == ["10"] and not {"forms", "costs", "machine"} & one["face"].keys()
    assert whole["rows"].keys() == {str(n) for n in range(11)}


def test_each_state_has_its_word(wired):
    events = list(recorded())
    panel, _ = wired(CompressPanel, progress := Progress("x"))
    seen = [panel.facts()["state"]]
    for more in (
        events[:1],
        events[1:2],
        [Working("prune 0.5", "fine-tunes: epoch 2 of 6", 0.4)],
        [Working("search", "tries recipe 3")],
        [Working("", "")],
        [Ended("finished", 1, 0, "", 99.0)],
    ):
        progress.add(more)
        seen.append(panel.facts()["state"])
    assert seen == ["waiting", "measures", "waits", "works", "searches", "waits", "finished"]
    assert all(state in panel.texts for state in seen) and not panel.facts()["live"]


def test_the_code_of_the_page_has_the_options_of_the_training(wired, progress):
    began = BEGAN._replace(options={"lr": "0.002", "loss": "my_loss"}, threads=2)
    panel, _ = wired(CompressPanel, Progress("digits-cnn").add([began, *list(recorded())[1:]]))
    assert (
        panel.facts()["code"]
        == taken_code(compression_of(panel.progress))
        == (
            "from trainopt_nb import compress\n\ncompressed = compress(\n    model, (train_data, valid_data), 'prune 0.75 macs, quantize int8',\n"
            "    floor='1%',\n    batch=1,\n    threads=2,\n    lr=0.002,\n    loss=my_loss,\n)\n"
        )
    )


def test_no_number_that_json_lacks_and_no_damaged_log_breaks_the_page(wired):
    odd = candidate(0, -1, [], "torch", 0, math.nan, math.inf, (math.nan, 0.0), math.nan, seconds=math.inf)
    progress = Progress("x").add(
        [BEGAN._replace(floor_value=math.nan), odd, Taken(9, []), LayerCost("x", {"a": math.nan}, [])]
    )
    panel, _ = wired(CompressPanel, progress)
    json.loads(panel.whole(), parse_constant=pytest.fail), panel.still()
    lost = [e for e in recorded() if not isinstance(e, CompressStarted) and getattr(e, "number", 1)]
    panel, _ = wired(CompressPanel, Progress("x").add(lost))
    assert "9" in json.loads(panel.whole())["rows"] and panel.still()["text/plain"]


# ---- texts


def test_every_text_is_there_in_both_languages(wired, progress, monkeypatch):
    english, chinese = (wording("compress_panel", code=code) for code in ("en", "zh-CN"))
    assert english.keys() == chinese.keys()
    assert {key for key in english if english[key] == chinese[key]} == set()
    shown = "".join(read_static(f"compress_{part}.js") for part in ("picture", "controls", "panel"))
    python = "".join(
        (ROOT / f"trainopt_nb/panels/compress_{part}.py").read_text() for part in ("facts", "panel")
    )
    made = ("step_", "option_", "aim_")  # put together from a name
    unused = {key for key in english if not re.search(rf"texts\.{key}\b|[\"']{key}[\"']", shown + python)}
    assert {key for key in unused if not key.startswith(made)} <= {
        "again",
        "undo",
        "stop",
        "done",
        "copy",
        "copied",
    }  # by a name, or by all panels
    monkeypatch.setenv("TRAINOPT_LANGUAGE", "zh-CN")
    panel, _ = wired(CompressPanel, progress)
    assert json.loads(panel.whole())["face"]["headline"].startswith("9 个候选模型 · 设备：Intel")


@pytest.mark.parametrize("nasty", NASTY)
def test_no_text_changes_the_page(wired, nasty):
    began = BEGAN._replace(
        name=nasty, model=nasty, metric=nasty, machine=nasty, floor_said=nasty, floor=nasty
    )
    odd = candidate(1, 0, [nasty], nasty, 1000, 1, 2, (2.0, 3.0), 0.98, reason=nasty, notes=[nasty])
    more = [
        StepRefused(nasty, nasty),
        Exported(1, nasty, nasty, 5, nasty),
        Working(nasty, nasty),
        LayerCost(nasty, {nasty: 1.0}, []),
    ]
    panel, wire = wired(
        CompressPanel,
        Progress(nasty).add([began, list(recorded())[1], odd, Taken(1, [0]), *more]),
        run_path=nasty,
    )
    panel.update()
    assert "<" not in panel.whole() and all("<" not in json.dumps(message) for message in wire.sent)
    panel.still()["text/plain"].encode("utf-8")


def test_the_script_of_the_panel_makes_no_html_from_text():
    ours = CompressPanel.View._esm.split("// What the panels share")[1]
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "https:", "http:"):
        assert way not in ours
    assert "</style" not in CompressPanel.View._css and ".tonb-compress" in CompressPanel.View._css


def test_the_saved_text_holds_the_table(wired, progress):
    panel, _ = wired(CompressPanel, progress)
    text = panel.still()["text/plain"]
    assert "digits-cnn" in text and "0.45 ms  9.1×" in text and "under the floor: accuracy 71.0%" in text
    assert panel._repr_mimebundle_()[0]["text/plain"].startswith(text)


def test_the_report_says_of_a_candidate_what_the_panel_says(wired, progress):
    panel, _ = wired(CompressPanel, progress.add([Taken(2, [0, 1, 2, 7])]))
    figures = [figure[:4] for figure in panel.facts()["figures"]]
    assert figures == [list(each[:4]) for each in compress_figures(progress)]
    assert [value for value, *_ in figures] == ["6.7×", "9.3×", "7.4×", "98.4%", "49 s"]
    rows, (_, table, _) = json.loads(panel.whole())["rows"], candidate_table(progress)
    for row, (_, one, many, size, metric, _) in zip(rows.values(), table, strict=True):
        ratios = [*row["faster"].values(), row["smaller"]] if row["number"] else [""] * 3
        assert [cell.partition("  ")[2] for cell in (one, many, size)] == ratios
        assert metric.startswith(row["figure"]) and metric.endswith(row["change"][0])
        assert [cell.partition("  ")[0] for cell in (one, many)] == list(row["times"].values())
    assert table[3][1] == "1.21 ms  3.40×"  # what it takes beside the original as it is shown
    assert rows["3"]["beside"]["1"] == pytest.approx(0.0041 / 3.4)
    assert rows["3"]["times"]["1"] == "1.21 ms" and rows["3"]["measured"]["1"] == "1.19 ms"


# ---- what is clicked


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"command": "step", "step": "prune", "values": {}}, [AddStep("prune 0.5 macs milder=2")]),
        ({"command": "layers"}, [MeasureLayers()]),
        ({"command": "step", "step": "prune", "values": {"amount": "0.7", "target": "macs"}, "start": 1}, [AddStep("prune 0.7 macs", 1)]),
        ({"command": "step", "step": "quantize", "values": {"kind": "int8", "engine": "onnxruntime"}}, [AddStep("quantize int8 engine=onnxruntime")]),
        ({"command": "step", "step": "prune", "start": 3}, []),  # it was refused
        ({"command": "step", "step": "unknown"}, []),
        ({"command": "step", "step": "prune", "values": {"amount": 0.5}}, []),
        ({"command": "recipe", "text": "prune 0.5, quantize int8", "start": 0}, [AddStep("prune 0.5, quantize int8", 0)]),
        ({"command": "take", "number": 2}, [Take(2)]),
        ({"command": "take", "number": 9}, []),
        ({"command": "take", "number": True}, []),
        ({"command": "undo"}, [Undo()]),
        ({"command": "find", "minutes": 2, "aim": "smallest"}, [FindBest(2.0, "smallest")]),
        ({"command": "find", "minutes": 0.02, "aim": "fastest"}, [FindBest(0.02, "fastest")]),  # as on the line
        ({"command": "find", "minutes": 10_000, "aim": "fastest"}, [FindBest(10_000.0, "fastest")]),
        ({"command": "find", "minutes": 10_001, "aim": "fastest"}, []),
        ({"command": "find", "minutes": 0, "aim": "fastest"}, []),
        ({"command": "find", "minutes": 2, "aim": "best"}, []),
        ({"command": "export", "number": 7, "form": "onnx", "path": " exports/a "}, [ExportTo("exports/a", "onnx", 7)]),
        ({"command": "export", "number": 7, "form": "exe", "path": "a"}, []),
        ({"command": "stop"}, [StopStep()]),
        ({"command": "finish"}, [Finish()]),
        ({"command": ["stop"]}, []),
        ({"command": "Finish"}, []),
        ({}, []),
    ],
)  # fmt: skip
def test_a_click_becomes_a_command(wired, progress, message, expected):
    panel, wire = wired(CompressPanel, progress)
    wire.click({"protocol": 1, "language": "en", **message})
    assert commands(panel) == expected


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"command": "step", "step": "prune", "values": {"amount": "much"}}, "amount takes 0.01 to 0.98, and got 'much'."),
        ({"command": "recipe", "text": "prun 0.5"}, "Did you mean 'prune'?"),
        ({"command": "recipe", "text": " "}, "A recipe needs a step"),
        ({"command": "export", "number": 7, "form": "auto", "path": " "}, "Name the folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_a_sentence(wired, progress, message, said):
    panel, wire = wired(CompressPanel, progress)
    wire.click(message)
    assert commands(panel) == [] and said in panel.facts()["said"]
    wire.click({"command": "undo"})
    assert panel.facts()["said"] == ""


def test_every_step_of_the_registry_has_a_form_whose_defaults_can_be_sent(wired, progress):
    panel, wire = wired(CompressPanel, progress)
    for form in json.loads(panel.whole())["face"]["forms"]:
        values = {field["name"]: str(field["value"]) for field in form["fields"]}
        wire.click({"command": "step", "step": form["name"], "values": values, "start": 0})
        assert commands(panel) == [AddStep(form["text"], 0)]


def test_a_note_stands_where_it_was_told(wired, progress):
    panel, _ = wired(CompressPanel, Progress("x").add([Note("info", "first", 0, "a"), *recorded()]))
    panel.progress.add(
        [Note("warning", "Not exported: no room.", 10, "compress"), StepRefused("prune 0.5", "no")]
    )
    told = [text for _, text in panel.facts()["notes"]]
    assert told[0] == "first" and told[-2:] == ["Not exported: no room.", "prune 0.5: no"]
    panel.progress.add([Ended("failed", 9, 0, "The disk is full.", 9.0)])
    assert panel.facts()["notes"][-1] == ["error", "The disk is full."]
