"One declaration, five faces: flag, control, keyword, search dimension, documentation"

import math
import queue

import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell

from trainopt_nb.base.errors import OptionError
from trainopt_nb.base.flags import parse_flags, rows, split
from trainopt_nb.base.help_text import help_text
from trainopt_nb.base.options import declared
from trainopt_nb.notebook.completion import completions
from trainopt_nb.notebook.verbs import CellOptions
from trainopt_nb.panels.form import OptionsForm, sections
from trainopt_nb.panels.form_fields import field_text, read
from trainopt_nb.panels.form_values import FormValues, line_of
from trainopt_nb.task.clean_options import parse_clean
from trainopt_nb.task.train_options import GROUPS, TrainOptions
from trainopt_nb.task.variables import TaskNames

OPTIONS = declared(TrainOptions)
NAMES = pytest.mark.parametrize("name", OPTIONS)


def samples(option):
    "Values that an option can have: its default, its ends, its choices"
    values = [option.default]
    if option.type in ("int", "float"):
        kind = int if option.type == "int" else float
        ends = [option.low, option.high, *option.search]
        values += [kind(v) for v in ends if v is not None]
    elif option.type == "bool":
        values += [True, False]
    elif option.type == "choice":
        values += list(option.choices)
    elif option.type == "numbers":
        values += [(3.0,), (3.0, 6.0)]
    elif option.type == "names":
        values += [("backbone.*",), ("backbone.*", "head")]
    elif option.type == "words":
        values += [("tensorboard",), ("tensorboard", "mlflow")]
    elif option.type == "rates":
        values += [("backbone.*=1e-05",), ("backbone.*=0.1x", "head=0.5")]
    else:
        values += list(option.search) or ["accuracy"]
    return values


def typed(option, value):
    "How a value is typed after the flag"
    if isinstance(value, bool):
        return option.flag if value else "--no-" + option.flag[2:]
    if option.type == "words":
        return f"{option.flag} {' '.join(value)}"
    text = (
        ",".join(map(str, value))
        if isinstance(value, tuple)
        else str(value).lower()
        if value is None
        else str(value)
    )
    return f"{option.flag} '{text}'"


@NAMES
def test_five_faces_agree(name):
    "Each value means the same as a keyword, a flag, a control, and lies within the search dimension's type"
    option = OPTIONS[name]
    for value in samples(option):
        by_keyword = getattr(TrainOptions.of(**{name: value}), name)
        if value != ():
            flags, rest = parse_flags(split(typed(option, value)), TrainOptions)
            assert flags == {name: by_keyword} and not rest
        assert read(option, field_text(option, by_keyword)) == by_keyword
    row = next(row for row in rows(TrainOptions) if row["keyword"] == name)
    assert row["flag"] == option.flag and row["help"] == option.help
    assert (
        row["values"].replace(f" {option.unit}", "", 1 if option.unit else 0) == option.values
    )  # with its unit
    assert option.flag in help_text(TrainOptions) and option.help in help_text(TrainOptions)
    assert option.flag in completions(f"%%trainopt fit {option.flag[:3]}")[1]


@NAMES
def test_search_dimension_lies_within_the_option(name):
    option, found = OPTIONS[name], OPTIONS[name].dimension
    if found is None:
        return
    for value in (found.low, found.high, *found.choices):
        if value is not None:
            assert option.check(value) == value
    if found.type in ("int", "float"):
        assert found.low < found.high and (not found.log or found.low > 0)


@NAMES
def test_every_option_is_documented(name):
    option = OPTIONS[name]
    assert option.help and option.group and option.help[-1] != "." and not name.startswith("_")
    assert option.check(option.default) == option.default or option.default is None


@NAMES
def test_wrong_values_are_refused_alike(name):
    "By keyword, flag and control, with the option named"
    option = OPTIONS[name]
    if option.type in ("text", "bool", "names", "words"):
        return
    for wrong in (
        "no such thing",
        *([option.low - 1] if option.low is not None else []),
        *([option.high * 2] if option.high else []),
    ):
        for attempt in (
            lambda wrong=wrong: TrainOptions.of(**{name: wrong}),
            lambda wrong=wrong: parse_flags(split(f"{option.flag}='{wrong}'"), TrainOptions),
            lambda wrong=wrong: read(option, str(wrong)),
        ):
            with pytest.raises(OptionError, match=option.flag):
                attempt()


@pytest.mark.parametrize(
    ("given_", "nearest"),
    [
        ("learning_rate", "lr"),
        ("bs", "batch_size"),
        ("n_epochs", "epochs"),
        ("epoch", "epochs"),
        ("sheduler", "schedule"),
        ("wd", "weight_decay"),
    ],
)
def test_the_nearest_name_is_given(given_, nearest):
    with pytest.raises(OptionError, match=f"Did you mean '{nearest}'"):
        TrainOptions.of(**{given_: 1})
    with pytest.raises(OptionError, match=f"Did you mean '--{nearest.replace('_', '-')}'"):
        parse_flags(["--" + given_.replace("_", "-"), "1"], TrainOptions)


@pytest.mark.parametrize(
    ("name", "wrong", "nearest"),
    [
        ("optimizer", "adamv", "adam"),
        ("schedule", "cosin", "cosine"),
        ("precision", "bf-16", "bf16"),
        ("loss", "crossentropy", "cross-entropy"),
    ],
)
def test_the_nearest_value_is_given(name, wrong, nearest):
    with pytest.raises(OptionError, match=f"Did you mean '{nearest}'"):
        TrainOptions.of(**{name: wrong})


def test_lines_are_split_as_a_shell_does():
    words = split("fit --lr -1e-3 --name 'my run' # a note")
    assert words == ["fit", "--lr", "-1e-3", "--name", "my run"]
    with pytest.raises(OptionError, match="quote"):
        split("--name 'open")


@given(st.text())
def test_no_line_gives_a_raw_error(line):
    "Whatever is typed is read or refused in one sentence"
    try:
        parse_flags(split(line), CellOptions, TrainOptions)
    except OptionError as error:
        assert str(error)


@given(st.floats() | st.integers() | st.text() | st.none() | st.booleans() | st.binary())
def test_no_keyword_gives_a_raw_error(value):
    for name in OPTIONS:
        try:
            kept = getattr(TrainOptions.of(**{name: value}), name)
        except OptionError as error:
            assert OPTIONS[name].flag in str(error)
        else:
            assert not (isinstance(kept, float) and math.isnan(kept))


@NAMES
def test_form_gives_what_flags_give(name):
    "Each value that a field can have, alone: the form, its line read again, and the keyword agree"
    option = OPTIONS[name]
    for value in samples(option):
        form = FormValues(TrainOptions())
        form.type(name, field_text(option, value))
        chosen = TrainOptions() if option.choices == ("none",) else TrainOptions.of(**{name: value})
        assert form.finished() == chosen
        words = split(line_of(chosen, form.values)[0].removeprefix("%%trainopt fit"))
        assert TrainOptions.of(**parse_flags(words, TrainOptions)[0]) == chosen


def test_the_line_of_a_form_gives_exactly_its_options():
    "Several at once, an object by its name in the notebook, flags of the cell; an object without a name is told"

    def my_loss(scores, targets):
        return (scores - targets).mean()

    many = {
        "lr": 3e-7,
        "clip": 1.5,
        "milestones": (3.0, 6.0),
        "shuffle": False,
        "augment": "flip color:0.3",
        "loss": my_loss,
    }
    form = OptionsForm(
        TrainOptions(**many), queue.SimpleQueue(), given="--name 'my run'", names={"my_loss": my_loss}
    )
    form.receive({"set": [["freeze", "backbone.*, head"], ["epochs", "7"]], "do": "start"})
    words = split(form.line()[0].removeprefix("%%trainopt fit"))
    values, rest = parse_flags(words, CellOptions, TrainOptions, names={"my_loss": my_loss})
    assert values.pop("name") == "my run" and not rest
    assert (
        TrainOptions.of(**values)
        == form.chosen
        == TrainOptions(**many, freeze=("backbone.*", "head"), epochs=7)
    )
    line, unsaid = line_of(form.chosen, vars(form.chosen))
    assert unsaid == ["loss"] and "--loss" not in line


def test_a_field_is_shown_where_it_counts():
    "By the declaration alone, which also says what a run calls given in vain"
    form = OptionsForm(TrainOptions(), queue.SimpleQueue())
    idle = lambda: {name for name, row in {**form._link.sent.rows, **form.rows()}.items() if "idle" in row}
    assert {
        "focal_gamma",
        "momentum",
        "step_every",
        "gamma",
        "distill",
        "distill_weight",
        "unfreeze",
    } <= idle()
    form.receive({"set": [["loss", "focal"], ["optimizer", "momentum"], ["schedule", "step"]]})
    assert not {"focal_gamma", "momentum", "step_every", "gamma"} & idle() and "final_lr" in idle()
    for name, option in OPTIONS.items():
        if option.counts:
            assert option.counts.option in OPTIONS and name in idle() | {
                "focal_gamma",
                "momentum",
                "step_every",
                "gamma",
                "class_weights",
                "label_smoothing",
                "weight_decay",
                "decay_all",
                "vocabulary",
            }


def test_every_option_has_its_place_in_the_form():
    assert {option.group for option in OPTIONS.values()} == set(GROUPS)
    assert sorted(name for names in sections(TrainOptions()).values() for name in names) == sorted(OPTIONS)


def test_nothing_typed_is_lost_by_an_error():
    form = OptionsForm(TrainOptions(), queue.SimpleQueue())
    form.receive({"set": [["lr", "fast"], ["epochs", "7"], ["dropout", "3"]], "do": "start"})
    rows = form._link.sent.rows
    assert form.chosen is None and form._commands.empty() and rows["epochs"]["text"] == "7"
    assert rows["lr"]["text"] == "fast" and rows["lr"]["error"].startswith(
        "Learning rate must be a number from 1e-12"
    )
    assert rows["dropout"]["error"].endswith("(you entered “3”).") and "--" not in rows["dropout"]["error"]
    assert form.facts()["first"] == ["lr", 1]
    form.receive(
        {
            "put_back": ["dropout"],
            "set": [["lr", "1e-2"], ["shard", "on"], ["tensor_plan", "auto"]],
            "do": "start",
        }
    )
    assert "both say what a device keeps" in form._link.sent.rows["shard"]["error"] and form.facts()[
        "first"
    ] == ["shard", 2]
    form.receive({"put_back": ["shard", "tensor_plan"], "do": "start"})
    assert form.chosen == TrainOptions(lr=0.01, epochs=7)


def test_help_lists_every_flag(capsys):
    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "trainopt_nb")
    shell.run_line_magic("trainopt", "fit --help")
    said = capsys.readouterr().out
    assert all(
        option.flag in said for cls in (CellOptions, TrainOptions) for option in declared(cls).values()
    )


def test_former_names_and_words_are_still_read(tmp_path):
    "As stored runs and scripts have them; the newer name counts where both stand"
    line = "--unlabelled pool --unlabelled-share 0.2 --augment-values normalised --image-mode grey --metrics accuracy, f1 auroc"
    values, rest = parse_flags(split(line), TaskNames, TrainOptions)
    assert values == {
        "unlabeled": "pool", "unlabeled_share": 0.2, "augment_values": "normalized", "image_mode": "gray", "metrics": "accuracy,f1,auroc"
    } and not rest  # fmt: skip
    assert TrainOptions.of(unlabelled_share=0.1, unlabeled_share=0.3).unlabeled_share == 0.3
    assert TrainOptions.of(clean="mislabelled").clean == "mislabelled" and parse_clean("mislabelled") == {
        "mislabeled": 1
    }
