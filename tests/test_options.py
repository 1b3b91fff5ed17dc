"One declaration, five faces: flag, control, keyword, search dimension, documentation"

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell

from trainopt_nb.base.errors import OptionError
from trainopt_nb.base.flags import help_text, parse_flags, rows, split
from trainopt_nb.base.options import declared
from trainopt_nb.notebook.completion import completions
from trainopt_nb.notebook.verbs import CellOptions
from trainopt_nb.panels.form import OptionsForm, control, read
from trainopt_nb.task.train_options import TrainOptions

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
        by_control = read(option, control(option, by_keyword).value)
        assert by_control == by_keyword or (by_control is None and by_keyword is None)
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


def test_form_gives_what_flags_give():
    import queue

    form = OptionsForm(TrainOptions(), queue.SimpleQueue())
    assert form.options() == TrainOptions()
    form.controls["lr"].value, form.controls["schedule"].value, form.controls["clip"].value = (
        "0.01",
        "cosine",
        "1",
    )
    flags, _ = parse_flags(split("--lr 0.01 --schedule cosine --clip 1"), TrainOptions)
    assert form.options() == TrainOptions.of(**flags)


def test_help_lists_every_flag(capsys):
    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "trainopt_nb")
    shell.run_line_magic("trainopt", "fit --help")
    said = capsys.readouterr().out
    assert all(
        option.flag in said for cls in (CellOptions, TrainOptions) for option in declared(cls).values()
    )
