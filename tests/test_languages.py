"Another language says the same: every word of the catalog, the whole README; the reader's choice counts"

import json
import os
import re
import string
from pathlib import Path

import pytest

from trainopt_nb.base import texts
from trainopt_nb.base.option_texts import option_help, option_label, option_unit, phrase
from trainopt_nb.base.options import declared
from trainopt_nb.notebook.verb_help import verb_row
from trainopt_nb.notebook.verbs import TERMINAL_COMMANDS, VERBS
from trainopt_nb.search.options import SweepOptions
from trainopt_nb.task.train_options import TrainOptions

ROOT = Path(__file__).parents[1]
LANGUAGES = ROOT / "trainopt_nb/base/languages"
OTHERS = [code for code in texts.languages() if code != texts.ENGLISH]
CATALOGUE = {
    code: json.loads((LANGUAGES / f"texts.{code}.json").read_text(encoding="utf-8"))
    for code in texts.languages()
}


def fields(text):
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def words(text):
    "What one types is the same in every language"
    return re.findall(r"%+trainopt [a-z-]+(?: NAME)?(?: --[a-z]+ N)?|■|1e-3|0\.001", text)


@pytest.mark.parametrize("code", OTHERS)
def test_every_text_is_translated_with_its_fields(code):
    english, other = CATALOGUE["en"], CATALOGUE[code]
    assert english.keys() == other.keys()
    for section in english.keys() - {"language"}:
        assert english[section].keys() == other[section].keys(), section
        for key, text in english[section].items():
            assert fields(text) == fields(other[section][key]), (section, key)
            assert words(text) == words(other[section][key]), (section, key)
            assert other[section][key].strip(), (section, key)


def test_chinese_is_chinese():
    for section in CATALOGUE["zh-CN"].keys() - {"language"}:
        for key, text in CATALOGUE["zh-CN"][section].items():
            assert re.search(r"[\u4e00-\u9fff]", text), (section, key)


@pytest.mark.parametrize("code", OTHERS)
def test_every_option_is_named_and_explained_in_the_form(code):
    known = declared(TrainOptions)
    for option in known.values():
        assert option_help(option, code) != option_help(option, "en"), option.name
        assert option_label(option, code) != option_label(option, "en") or option.name == "dropout"
        assert not option.unit or option_unit(option, code) != option.unit or option.unit == "Hz"
    for file in LANGUAGES.glob("options.*.json"):
        told = json.loads(file.read_text(encoding="utf-8"))
        assert told["labels"].keys() | told.get("help", {}).keys() <= known.keys()
    labels = [option_label(option, "en") for option in known.values()]
    assert len(set(labels)) == len(labels)


def test_every_group_of_options_has_a_name():
    groups = {option.group for each in (TrainOptions, SweepOptions) for option in declared(each).values()}
    assert groups <= CATALOGUE["en"]["form"].keys()


@pytest.mark.parametrize("code", OTHERS)
def test_the_help_of_every_verb_is_translated(code):
    "An English phrase that changes loses its translation, and is found here"
    verbs, forms, trained = (
        [verb for _, verb in VERBS.items()],
        CATALOGUE["en"]["form"],
        declared(TrainOptions),
    )
    options = [each for verb in verbs for cls in verb.option_classes for each in declared(cls).values()]
    places = {place for verb in verbs for _, place in verb_row(verb).usage}
    headings = {each.group for each in options} - {"", *forms} | {"Cell"}
    helps = {each.help for each in options if trained.get(each.name) != each}
    said = {*places, *headings, *helps, *(verb.help for verb in verbs)}
    said |= {command.help for _, command in TERMINAL_COMMANDS.items()}
    assert [text for text in said if phrase(text, code) == text] == []
    assert not [each.unit for each in options if each.unit and option_unit(each, code) == each.unit != "Hz"]


@pytest.fixture
def nobody(monkeypatch):
    "Neither user nor page nor system has said anything"
    for name in ("TRAINOPT_LANGUAGE", "LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(texts, "_page", "")
    return monkeypatch


def test_the_user_counts_before_the_page_before_the_system(nobody):
    assert texts.language() == "en"
    nobody.setenv("LANG", "zh_CN.UTF-8")
    assert texts.language() == "zh-CN"
    texts.hear("en")
    assert texts.language() == "en"
    nobody.setenv("TRAINOPT_LANGUAGE", "zh")
    assert texts.language() == "zh-CN"
    nobody.setenv("TRAINOPT_LANGUAGE", "tlh")  # nobody speaks it here
    assert texts.language() == "en"


@pytest.mark.parametrize("said", ["C", "C.UTF-8", "POSIX", "", "de_DE.UTF-8", "../../secret", "\x00"])
def test_what_is_not_spoken_is_english(nobody, said):
    texts.hear(said)
    assert texts.language() == "en"


# README


def shape(path):
    "What two languages of a page have in common"
    text = (ROOT / path).read_text(encoding="utf-8")
    outside = re.sub(r"```.*?```", "", text, flags=re.S)
    return {
        "code": re.findall(r"```(?:bash|python)\n.*?```", text, re.S),
        "headings": re.findall(r"^#+", outside, re.M),
        "rows": [line.count("|") for line in outside.splitlines() if line.startswith("|")],
        "left": [
            re.findall(r"`[^`]+`", line.split("|")[1])
            for line in outside.splitlines()
            if line.startswith("| `")
        ],
        "links": sorted(link for link in re.findall(r"\]\(([^)]+)\)", outside) if "README" not in link),
        "words": sorted(set(re.findall(r"`[^`\n]+`", outside))),
    }


def test_the_chinese_readme_says_what_the_english_one_says():
    english, chinese = shape("README.md"), shape("README.zh-CN.md")
    for part in english:
        assert english[part] == chinese[part], part
    assert "](README.zh-CN.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "](README.md)" in (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")


def test_links_of_the_chinese_readme_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.zh-CN.md").read_text(encoding="utf-8"))
    inside = [link for link in links if not link.startswith("https://")]
    assert inside
    for link in inside:
        assert os.path.exists(ROOT / link), link


def test_errors_of_data_are_said_in_the_language_of_the_page(nobody):
    import torch
    from IPython.core.error import UsageError
    from IPython.core.interactiveshell import InteractiveShell

    from trainopt_nb.base.errors import DataError
    from trainopt_nb.data.checks import check_labels

    with pytest.raises(DataError, match="Labels must run from 0 to 2") as refused:
        check_labels(torch.tensor([0, 1, 5, 5]), 3)
    nobody.setenv("TRAINOPT_LANGUAGE", "zh-CN")
    assert texts.fault_text(refused.value).startswith("标签必须在 0 到 2 之间")
    assert "让模型有 6 个输出" in texts.fault_text(refused.value)
    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "trainopt_nb")
    shell.user_ns |= {"train_data": {"a": 1}, "model": None}
    with pytest.raises(UsageError, match="样本按行查看和更改"):
        shell.run_line_magic("trainopt", "data")


def test_what_a_run_assumes_is_said_in_the_language_of_its_card():
    import torch
    from torch import nn

    from trainopt_nb.data.rows import held_out_note
    from trainopt_nb.task.task import Task
    from trainopt_nb.train.prepare import prepare
    from trainopt_nb.train.threads import Choice

    x, card = torch.randn(64, 4), texts.wording("card", code="zh-CN")
    cases = [((x[:, 0] > 0).long(), 2, {}), (x[:, :1], 1, {"loss": "huber"}), ((x[:, :3] > 0).float(), 3, {})]
    said = [
        str(held_out_note(0.2, 0)),
        *(
            Choice(1, 2, how, 2, 3.5, clear, "2026-11-28").text
            for how in ("size", "measured", "remembered")
            for clear in (True, False)
        ),
    ]
    for target, width, given in cases:
        task = prepare(Task(nn.Linear(4, width), (x, target)), TrainOptions(device="cpu", threads=1, **given))
        said += [row.text for row in task.assumptions]
    assert len(said) > 20
    assert [text for text in said if not re.search(r"[\u4e00-\u9fff]", texts.retold(text, card))] == []
    assert all(texts.retold(text, texts.wording("card", code="en")) == text for text in said)
    assert texts.retold("boom at four", card) == "boom at four"


def test_a_form_says_an_error_whole_in_one_language(nobody):
    from trainopt_nb.panels.form_values import FormValues

    nobody.setenv("TRAINOPT_LANGUAGE", "zh-CN")
    for given, chinese in (
        ({"lr": "abc"}, True),
        ({"augment": "flipp"}, False),
        ({"shard": "on", "tensor_plan": "auto"}, False),
    ):
        form = FormValues(TrainOptions())
        for name, text in given.items():
            form.type(name, text)
        form.finished()
        (error,) = form.errors.values()
        lead, marked, english = error(texts.wording("form")).partition("（英文）：")
        assert re.search(r"[\u4e00-\u9fff]", lead) and bool(marked) != chinese
        assert not re.search(r"[\u4e00-\u9fff]", english)
