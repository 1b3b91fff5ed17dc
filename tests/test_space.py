"Tunables of a cell, and the space that a sweep searches while its user changes it"

import json
import pickle
import queue
import traceback
import warnings

import optuna
import pytest
from helpers import some_quick
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import GPSampler, NSGAIISampler, QMCSampler, RandomSampler, TPESampler

from trainopt_nb.base.cell_options import cell_options, chosen_values
from trainopt_nb.base.errors import OptionError
from trainopt_nb.base.form_comments import form_comment
from trainopt_nb.base.options import Dimension
from trainopt_nb.base.tunables import Draws, define_by_run, find_tunables, run_drawn, with_values
from trainopt_nb.notebook import fit_verbs
from trainopt_nb.notebook.kernel import Page
from trainopt_nb.notebook.messages import finish
from trainopt_nb.panels.form import OptionsForm
from trainopt_nb.search.any_space import take_space
from trainopt_nb.search.parse_space import as_space, parse_space
from trainopt_nb.search.space import Space
from trainopt_nb.search.space_record import from_json, to_json
from trainopt_nb.search.space_sampler import SpaceSampler
from trainopt_nb.task.train_options import TrainOptions


@pytest.mark.parametrize(
    "line, dimension",
    [
        ('lr = 1e-3 #@param {type:"slider", min:1e-5, max:1e-1, log:true}', Dimension("float", 1e-5, 0.1, True)),
        ("lr = 1e-3 # @param {'type': 'slider', 'min': 1e-5, 'max': 0.1, 'log': True,}", Dimension("float", 1e-5, 0.1, True)),
        ('n = 3 #@param {type:"slider", min:1, max:8}', Dimension("int", 1, 8)),
        ('n = 3 #@param {type:"slider", min:1, max:8, step:1}', Dimension("int", 1, 8)),
        ('n = 4 #@param {type:"slider", min:2, max:8, step:2}', Dimension("int", 2, 8, step=2)),
        ('cfg = 4 #@param {type:"slider", min:1, max:10, step:0.1}', Dimension("float", 1, 10, step=0.1)),
        ('p = 0.5 #@param {type:"slider", min:0, max:1}', Dimension("float", 0, 1)),
        ('n = 3 #@param {type:"number", min:1, max:8}', Dimension("float", 1, 8)),
        ('n = 3 #@param {type:"integer", min:1, max:8}', Dimension("int", 1, 8)),
        ('n = 64 #@param {type:"slider", min:1e-5, max:1e3, step:1e-5, log:true}', Dimension("float", 1e-5, 1e3, True)),
        ('o = "a" #@param ["a", "b"]', Dimension("choice", choices=("a", "b"))),
        ("o = 'a' #@param ['a', 'b',]  # mine", Dimension("choice", choices=("a", "b"))),
        ('n = 1 #@param [1, 2, 4]', Dimension("choice", choices=(1, 2, 4))),
        ('n = 1 #@param ["1", "2"] {type:"raw", allow-input: true}', Dimension("choice", choices=(1, 2))),
        ('m = ("v2", 224) #@param ["(\\"v2\\", 224)", "(\\"v3\\", 299)"] {type:"raw"}', Dimension("choice", choices=(("v2", 224), ("v3", 299)))),
        ('b = True #@param {type:"boolean"}', Dimension("choice", choices=(False, True))),
        ("b: bool = True #@param", Dimension("choice", choices=(False, True))),
        ("n = 3 #@param {type: integer}", None),
        ('s = "x" #@param {type:"string", placeholder:"a name"}', None),
        ('d = "2018-03-22" #@param {type:"date"}', None),
        ("n = a + 1 #@param [1, 2]", None),
        ('w = (64, 32) #@param {type:"raw"}', None),
        ("config.lr = 0.1 #@param {min:0, max:1}", Dimension("float", 0, 1)),
        ("if True: p = 0.1 #@param {min:0, max:1}", Dimension("float", 0, 1)),
    ],
)  # fmt: skip
def test_a_form_comment_gives_its_dimension(line, dimension):
    [found] = find_tunables(line)
    assert found.dimension == dimension
    assert type(found.dimension and found.dimension.low) is type(dimension and dimension.low)
    assert bool(found.reason) == (dimension is None)


@pytest.mark.parametrize(
    "cell, said",
    [
        ("x = 1\na, b = 1, 2 #@param [1]", "Line 2: a form comment needs one name"),
        ("a = b = 1 #@param {type:'integer'}", "Line 1: a form comment needs one name to the left of =, and got a = b"),
        ("a = 1; b = 2 #@param {type:'integer'}", "Line 1: there are 2 statements"),
        ("x = [\n 1, #@param {type:'integer'}\n 2]", "Line 2: write the form comment behind the end of its value, on line 3"),
        ("for lr in [1, 2]: #@param [1, 2]\n    pass", "Line 1: a form comment stands behind a value"),
        ("print(3) #@param [1, 2]", "Line 1: a form comment stands behind a value"),
        ("#@param [1, 2]", "Line 1: a form comment stands behind a value"),
        ("lr *= 3 #@param [1, 2]", "Line 1: a form comment stands behind a value"),
        ("lr: float #@param [1, 2]", "Line 1: a form comment stands behind a value"),
        ("a = 1 #@param [1, 2]\nif a:\n    a = 2 #@param [1, 2]", "Line 3: a has a form comment on line 1 already"),
        ("a = 1 #@param ['1', '2']", 'write {type:"raw"}'),
        ("a = 1 #@param {type:'slider', min:3, max:3}", "min must be below max"),
        ("a = 1 #@param {type:'slider', min:0, max:3, log:true}", "a logarithmic range begins above 0"),
        ("a = 1 #@param {type:'slider', min:0, max:3, step:5}", "step 5, which does not fit"),
        ("a = 1 #@param {type:'slidr'}", "there is no type 'slidr'"),
        ("a = 1 #@param {type:'slider', maxx:3}", "did you mean 'max'?"),
        ("a = 1 #@param {type:'slider', max:x}", "max is 'x', which is no number"),
        ("a = 1 #@param {type:'slider'", "} is missing at the end"),
        ("a = 1 #@param [1 2]", "a comma or ] is missing before 2"),
        ("a = 1 #@param [1, 2] min", "min stands behind its end"),
        ("a = 1 #@param {type:'boolean'}", "is for True or False"),
        ("a = 'x' #@param {type:'slider', min:0, max:3}", "is for a number"),
        ("a = 1 #@param [1, 'b + 2'] {type:'raw'}", "no plain Python value"),
        ("a = 'x' #@param ['x', 'X']", "differ in nothing but case"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_with_its_line(cell, said):
    with pytest.raises(OptionError) as error:
        find_tunables(cell)
    assert said in str(error.value) and str(error.value).startswith("Line ")
    assert "\n" not in str(error.value).replace(cell, "")


LAYOUT = """%time x = 1
import math
text = "#@param {type:'slider'}"  # lr = 3 #@param {type:"slider"}
größe = 1e-3   #@param {type:"slider", min:1e-5, max:1e-1, log:true}
match x:
    case 1:
        widths = (
            64,
            32,
        )  #@param {type:"raw"}
class Config:
    depth: int = -2  #@param {type:"slider", min:-4, max:8}
!ls
files = !ls
"""


def test_other_values_keep_comments_layout_and_lines():
    found = {t.name: (t.line, t.written, t.value) for t in find_tunables(LAYOUT)}
    assert found["größe"] == (4, "1e-3", 1e-3) and found["depth"] == (12, "-2", -2)
    assert found["widths"][0] == 7 and found["widths"][2] == (64, 32) and len(found) == 3
    new = with_values(LAYOUT, {"größe": 0.02, "widths": (8,), "depth": 3})
    assert new.split("\n") == [
        *LAYOUT.split("\n")[:3],
        'größe = 0.02   #@param {type:"slider", min:1e-5, max:1e-1, log:true}',
        *LAYOUT.split("\n")[4:6],
        '        widths = (8,)  #@param {type:"raw"}',
        "class Config:",
        '    depth: int = 3  #@param {type:"slider", min:-4, max:8}',
        *LAYOUT.split("\n")[12:],
    ]
    assert with_values(new, {"größe": 1e-3, "widths": (64, 32), "depth": -2}).count("64, 32") == 1
    assert with_values(LAYOUT, {}) == LAYOUT


@pytest.mark.parametrize("values", [{"grose": 1}, {"depth": float("nan")}, {"depth": object()}])
def test_a_value_that_cannot_be_written_is_refused(values):
    with pytest.raises(OptionError):
        with_values(LAYOUT, values)


CONDITIONAL = """
kind = "sgd"  #@param ["sgd", "adam"]
if kind == "sgd":
    momentum = 0.9  #@param {min:0.5, max:0.99}
else:
    beta = 0.95  #@param {min:0.8, max:0.999}
def width():
    n = 8  #@param [8, 16]
    return n
sizes = [width() for _ in range(3)]
for _ in range(3):
    seed = 0  #@param {type:"integer"}
"""


def test_a_value_is_drawn_once_and_only_where_the_cell_reaches_it():
    asked = []

    def suggest(name, written):
        asked.append((name, written))
        return {"kind": "adam", "n": 16}.get(name, written)

    names = {}
    run_drawn(CONDITIONAL, Draws(suggest), names)
    assert asked == [("kind", "sgd"), ("beta", 0.95), ("n", 8), ("seed", 0)]
    assert names["sizes"] == [16, 16, 16] and "momentum" not in names and names["beta"] == 0.95
    plain = {}
    exec(CONDITIONAL, plain)  # the cell runs alone
    assert plain["momentum"] == 0.9 and plain["sizes"] == [8, 8, 8]


def test_a_traceback_names_the_line_of_the_cell():
    cell = "lr = 0.1  #@param {min:0, max:1}\n\nwidths = (\n  1,\n)  #@param {type:'raw'}\nlr / 0"
    with pytest.raises(ZeroDivisionError) as error:
        run_drawn(cell, Draws(lambda name, written: written), {}, "<cell 7>")
    last = traceback.extract_tb(error.value.__traceback__)[-1]
    assert (last.filename, last.lineno) == ("<cell 7>", 6)


def test_a_value_that_was_drawn_goes_along_to_another_process_and_another_is_refused():
    draws = Draws(lambda name, written: 5)
    draws("n", 1)
    there = pickle.loads(pickle.dumps(draws))
    assert there("n", 1) == 5
    with pytest.raises(OptionError, match="another process"):
        there("m", 1)


def test_magics_are_never_dropped_from_a_cell_that_runs():
    with pytest.raises(SyntaxError):
        define_by_run("!ls\nlr = 0.1  #@param {min:0, max:1}")
    with pytest.raises(SyntaxError):
        find_tunables("lr = = 3")


def test_comments_of_other_kinds_are_no_form_comments():
    assert [form_comment(c) for c in ("# param", "#@title x", "#@parameter [1]", "# see #@param [1]")] == [
        None
    ] * 4


CELL = """
width = 64  #@param {type:"slider", min:16, max:512, log:true}
layers = 2  #@param {type:"integer"}
seed = 0  #@param {type:"integer", min:0, max:9}
act = "relu"  #@param ["relu", "gelu"]
n = 2 * layers  #@param {type:"integer"}
"""


@pytest.fixture(autouse=True)
def quiet_optuna():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


@pytest.mark.parametrize(
    "word, dimension",
    [
        ("lr=1e-5..1e-1:log", Dimension("float", 1e-5, 0.1, True)),
        ("--lr=1e-5..1e-1:log", Dimension("float", 1e-5, 0.1, True)),
        ("lr", Dimension("float", 1e-5, 0.1, True)),
        ("momentum=0..0.9:step=0.3", Dimension("float", 0.0, 0.9, step=0.3)),
        ("epochs=1..8", Dimension("int", 1, 8)),
        ("epochs=1..8:step=2", Dimension("int", 1, 7, step=2)),
        ("batch-size=32|64|128", Dimension("choice", choices=(32, 64, 128))),
        ("batch_size=8..512:log", Dimension("int", 8, 512, True)),
        ("schedule=cosine|OneCycle", Dimension("choice", choices=("cosine", "onecycle"))),
        ("shuffle=on|off", Dimension("choice", choices=(True, False))),
        ("shuffle", Dimension("choice", choices=(False, True))),
        ("unfreeze=1|3|none", Dimension("choice", choices=(1, 3, None))),
        ("loss_weights='kl=0.1|x'|'kl=1'", Dimension("choice", choices=("kl=0.1|x", "kl=1"))),
        ("layers=1..8", Dimension("int", 1, 8)),
        ("width=1..9999", Dimension("int", 1, 9999)),
        ("act", Dimension("choice", choices=("relu", "gelu"))),
        ("act=gelu|relu", Dimension("choice", choices=("gelu", "relu"))),
    ],
)  # fmt: skip
def test_a_word_gives_its_dimension(word, dimension):
    tunables = find_tunables(CELL)
    space = parse_space([word], tunables)
    name = word.removeprefix("--").partition("=")[0].replace("-", "_")
    assert space[name] == dimension
    assert type(space[name].low) is type(dimension.low)
    assert set(space) == {"width", "seed", "act", name}
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    for _ in range(5):
        assert space.contains(space.draw(study.ask()))


@pytest.mark.parametrize(
    "words, said",
    [
        ("lr=1e-1..1e-5", "reversed: write 1e-05..0.1"),
        ("lr=0.1..0.1", "holds one value"),
        ("lr=0..0.1:log", "takes 1e-12 to 1000, and got '0'"),
        ("momentum=0..0.9:log", "a logarithmic range begins above 0"),
        ("lr=1e-4..2000", "takes 1e-12 to 1000, and got '2000'"),
        ("lr=", ""),
        ("lr=0.1", "needs a range or more than one choice"),
        ("schedule=cosine", "needs a range or more than one choice"),
        ("batch_size=32", "batch_size=32|64|128 or batch_size=16..128"),
        ("unheard_of=1..2", "write #@param behind it"),
        ("schedule=cosine|cosine", "is twice among its choices"),
        ("schedule=cosine|onecicle", "Did you mean 'onecycle'?"),
        ("schedule=a..b", "list choices"),
        ("epochs=1.5..8", "and got '1.5'"),
        ("epochs=1..8:step=0.5", "whole numbers"),
        ("epochs=1..8:step=9", "does not fit"),
        ("lr=1e-5..1e-1:log:step=0.1", "either log or a step"),
        ("lr=1e-5..1e-1:lgo", "comes :log or :step=NUMBER, and got :lgo"),
        ("learning_rat=1..2", "Did you mean 'lr'?"),
        ("widht=1..2", "Did you mean 'width'?"),
        ("seed=1..2", "--seed or seed in line 4 of the cell"),
        ("n=1..2", "its value is an expression, 2 * layers"),
        ("layers", "since it is a number without min and max: give one, as layers=LOW..HIGH"),
        ("workers", "has no range of its own"),
        ("shuffle=on|maybe", "neither on nor off"),
        ("lr=1e-5..1e-1 lr=1..2", "given twice"),
        ("act=relu|tanh", "takes relu, gelu"),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_said_before_the_first_trial(words, said):
    if words == "lr=":  # nothing behind it is as the name alone
        assert parse_space(words)["lr"] == Dimension("float", 1e-5, 0.1, True)
        return
    with pytest.raises(OptionError) as error:
        parse_space(words, find_tunables(CELL))
    assert str(error.value).startswith("--space") and said in str(error.value)
    assert "\n" not in str(error.value)


def test_tunables_are_searched_without_a_word_and_can_be_fixed():
    tunables = find_tunables(CELL)
    assert list(parse_space([], tunables)) == ["width", "seed", "act"]
    assert list(parse_space("act=fixed lr", tunables)) == ["width", "seed", "lr"]
    said = "nothing to search: layers in line 1 has no range of its own, since .*: give one, as --space layers=LOW"
    with pytest.raises(OptionError, match=said):
        parse_space([], find_tunables("layers = 2  #@param {type:'integer'}"))
    for cell in ("layers = 2", "layers = 2 * 2  #@param"):
        with pytest.raises(OptionError, match=r"nothing to search: write #@param \{type"):
            parse_space([], find_tunables(cell))


def test_a_space_from_python():
    space = as_space(
        {
            "lr": (1e-5, 1, "log"),
            "dropout": (0, 0.5),
            "batch_size": [32, 64],
            "epochs": IntDistribution(1, 9, step=2),
            "schedule": CategoricalDistribution(["cosine", "step"]),
            "momentum": Dimension("float", 0.5, 0.9),
            "label_smoothing": FloatDistribution(0, 0.3, step=0.1),
        },
        TrainOptions,
    )
    assert space["lr"] == Dimension("float", 1e-5, 1.0, True) and space["dropout"].type == "float"
    assert space["epochs"] == Dimension("int", 1, 9, step=2) and space["batch_size"].choices == (32, 64)
    assert space["label_smoothing"].step == 0.1 and space["schedule"].choices == ("cosine", "step")
    for given in (
        {"lr": (1, 2, "lin")},
        {"lr": 3},
        {"lr": [1]},
        {"lrr": (1, 2)},
        {"lr": (0.0, 1.0)},
        {"schedule": ["a", "b"]},
    ):
        with pytest.raises(OptionError):
            as_space(given, TrainOptions)
    assert take_space(space) is space and as_space({"x": (0, 1)})["x"].type == "int"


def begun():
    return Space(
        {
            "x": Dimension("float", 0.0, 1.0),
            "n": Dimension("int", 1, 8),
            "how": Dimension("choice", choices=("a", "b")),
            "widths": Dimension("choice", choices=((64,), (64, 32))),
        }
    )


def test_changes_give_new_spaces_within_what_a_name_may_be():
    space = begun()
    later = space.narrow("x", 0.2).widen("n", high=16).add_value("how", "c").keep("widths", (64,))
    assert (later["x"].low, later["n"].high) == (0.2, 16) and later["widths"].choices == ((64,),)
    assert later.changed and not space.changed and space == begun()
    assert later.stored_name("how") == "how[a|b|c]" and later.stored_name("x") == "x"
    assert later.keep("how", "b", "a").stored_name("how") == "how"  # as it was
    changes = [
        lambda: space.narrow("x", -1), lambda: space.narrow("x", 0.5, 0.5), lambda: space.widen("x", 0.1),
        lambda: space.add_value("x", 3), lambda: space.narrow("how", 1, 2), lambda: space.keep("how", "z"),
        lambda: space.add_value("how", "a"), lambda: space.keep("how"), lambda: space.narrow("y", 1),
        lambda: space.add_value("how", print), lambda: parse_space("lr").widen("lr", high=1e9),
    ]  # fmt: skip
    for change in changes:
        with pytest.raises(OptionError):
            change()


def test_the_log_holds_a_space():
    options = {"lr": parse_space("lr").options["lr"]}
    later = parse_space("lr").narrow("lr", 1e-4)
    for space in (begun().add_value("widths", (8, 8)).narrow("x", 0.0, 0.5), later):
        again = from_json(json.loads(json.dumps(to_json(space))), options)
        assert again == space and again.first == space.first and again.changed
    with pytest.raises(OptionError, match="1e-12 to 1000"):
        again.widen("lr", high=1e9)


def test_values_go_to_a_study_and_come_back():
    space = begun().add_value("widths", (8, 8))
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    tried = {"x": 0.5, "n": 3, "how": "b", "widths": (8, 8)}
    study.enqueue_trial(space.stored(tried))
    trial = study.ask()
    assert space.draw(trial) == tried == space.read(trial.params)
    assert space.read({"how[a|b|c]": "c", "other": 3}) == {"how": "c"}
    with pytest.raises(OptionError, match=r"n takes 1\.\.8 in this sweep, and got 9"):
        space.stored({"n": 9})
    assert not space.contains({"how": "c"}) and not space.contains({"n": True})


def goal(values):
    return (values["x"] - 0.7) ** 2 + (0.2 if values["how"] == "a" else 0) + 0.01 * values["n"]


def searched(sampler, trials, study=None):
    study = study or optuna.create_study(sampler=sampler)
    for _ in range(trials):
        trial = study.ask()
        study.tell(trial, goal(sampler.space.draw(trial)))
    return study


@pytest.mark.parametrize(
    "kind",
    some_quick(
        [TPESampler, RandomSampler, QMCSampler, NSGAIISampler, GPSampler],
        TPESampler,
        RandomSampler,
        QMCSampler,
        NSGAIISampler,
    ),
    ids=lambda k: k.__name__,
)
def test_every_sampler_follows_a_space_that_changes(kind):
    more = (
        {"population_size": 6}
        if kind is NSGAIISampler
        else {"n_startup_trials": 4}
        if kind is GPSampler
        else {}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampler = SpaceSampler(lambda space, changes: kind(seed=changes, **more), begun())
        study = searched(sampler, 12)
        later = begun().narrow("x", 0.1, 0.6).add_value("how", "c").keep("widths", (64, 32))
        sampler.change(later)
        searched(sampler, 12, study)
        wide = later.widen("x", -1.0, 2.0).widen("n", high=20).keep("how", "b", "c")
        sampler.change(wide)
        searched(sampler, 12, study)
    values = [wide.read(trial.params) for trial in study.trials]
    assert all(later.contains(each) for each in values[12:24])
    assert all(wide.contains(each) for each in values[24:])
    if kind in (TPESampler, RandomSampler):  # the others use a value of one dimension again
        assert len({each["x"] for each in values}) == 36
    assert any(each["how"] == "c" for each in values[12:])
    assert [t.state.name for t in study.trials] == ["COMPLETE"] * 36


def test_tpe_learns_jointly_from_trials_outside_the_new_range():
    sampler = SpaceSampler(lambda space, changes: TPESampler(seed=changes), begun())
    study = searched(sampler, 30)
    sampler.change(begun().narrow("x", 0.0, 0.5).add_value("how", "c"))
    assert sum(trial.params["x"] > 0.5 for trial in study.trials) > 15
    trial = study.get_trials(deepcopy=False)[study.ask().number - 1]
    joint = sampler.infer_relative_search_space(study, trial)
    assert set(joint) == {"x", "n", "how[a|b|c]", "widths"} and joint["x"].high == 0.5
    searched(sampler, 10, study)
    xs = [trial.params["x"] for trial in study.trials[-10:]]
    assert sorted(xs)[5] > 0.35  # the best of what is left is at its upper end


def test_without_a_change_a_sampler_gives_what_it_gives_alone():
    alone = optuna.create_study(sampler=TPESampler(seed=3))
    for _ in range(14):
        trial = alone.ask()
        alone.tell(trial, goal(begun().draw(trial)))
    within = searched(SpaceSampler(TPESampler(seed=3), begun()), 14)
    assert [t.params for t in alone.trials] == [t.params for t in within.trials]


def test_a_sweep_with_changes_gives_the_same_trials_twice():
    def whole():
        sampler = SpaceSampler(lambda space, changes: TPESampler(seed=changes), begun())
        study = searched(sampler, 12)
        sampler.change(begun().narrow("x", 0.2).add_value("how", "c"))
        return [trial.params for trial in searched(sampler, 8, study).trials]

    assert whole() == whole()


def test_trials_that_run_across_a_change_end_as_they_began():
    sampler = SpaceSampler(lambda space, changes: TPESampler(seed=changes, n_startup_trials=2), begun())
    study = searched(sampler, 4)
    running = [study.ask() for _ in range(2)]
    before = [begun().draw(trial) for trial in running]
    sampler.change(begun().narrow("x", 0.0, 0.1).keep("how", "b"))
    searched(sampler, 3, study)
    for trial, values in zip(running, before, strict=True):
        study.tell(trial, goal(values))
    searched(sampler, 3, study)
    assert [t.state.name for t in study.trials] == ["COMPLETE"] * 12
    assert [begun().read(trial.params) for trial in study.trials[4:6]] == before


def test_spaces_of_ray_tune_are_taken_as_they_are():
    tune = pytest.importorskip("ray.tune")
    given = {
        "model": tune.choice([{"kind": "tree", "depth": tune.randint(1, 9)}, {"kind": "net", "widths": [tune.qrandint(8, 64, 8), 10]}]),
        "lr": tune.qloguniform(1e-4, 1e-1, 5e-5),
        "mean": tune.randn(1, 2),
        "seed": tune.grid_search([0, 1, 2]),
        "double": tune.sample_from(lambda config: 2 * config["seed"]),
    }  # fmt: skip
    foreign = take_space(given)
    assert set(foreign.space) == {"model", "model:0/depth", "model:1/widths/0", "lr", "mean", "seed"}
    assert foreign.space["model:0/depth"] == Dimension("int", 1, 8) and len(foreign.notes) == 1
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    kinds = set()
    for _ in range(20):
        trial = study.ask()
        config = foreign.draw(trial)
        kinds.add(config["model"]["kind"])
        assert config["double"] == 2 * config["seed"] and set(config) == set(given)
        assert ("model:0/depth" in trial.params) == (config["model"]["kind"] == "tree")
        assert abs(config["lr"] / 5e-5 - round(config["lr"] / 5e-5)) < 1e-6
        if config["model"]["kind"] == "net":
            assert config["model"]["widths"][0] % 8 == 0 and config["model"]["widths"][1] == 10
    assert kinds == {"tree", "net"}


def test_spaces_of_hyperopt_are_taken_as_they_are():
    hyperopt = pytest.importorskip("hyperopt")
    hp = hyperopt.hp
    given = {
        "model": hp.choice("model", [
            {"kind": "svm", "C": hp.lognormal("C", 0, 1), "kernel": hp.choice("kernel", ["linear", "rbf"])},
            {"kind": "tree", "depth": hp.uniformint("depth", 1, 8), "leaf": hp.choice("leaf", [1, {"min": hp.randint("min", 2, 6)}])},
        ]),
        "lr": hp.qloguniform("lr", -8, 0, 0.001),
        "q": hp.quniform("q", 0, 1, 0.25),
        "kind": hp.pchoice("kind", [(0.9, "a"), (0.1, "b")]),
        "pair": (hp.uniform("u", -1, 1), 3),
    }  # fmt: skip
    foreign = take_space(given)
    labels = {"model", "C", "kernel", "depth", "leaf", "min", "lr", "q", "kind", "u"}
    assert set(foreign.space) == labels and foreign.space["kernel"].choices == ("linear", "rbf")
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    shapes = set()
    for _ in range(40):
        trial = study.ask()
        drawn = foreign.draw(trial)
        params = foreign.space.read(trial.params)
        indices = {
            name: foreign.space[name].choices.index(value) if foreign.space[name].type == "choice" else value
            for name, value in params.items()
        }
        if "lr" in indices:
            indices["lr"] = drawn["lr"]
        expected = hyperopt.space_eval(given, indices)  # what Hyperopt itself makes of these values
        assert drawn == expected and type(drawn["pair"]) is type(expected["pair"])
        assert ("C" in params) == (drawn["model"]["kind"] == "svm")
        shapes.add(str(sorted(params)))
    assert len(shapes) == 3 and len(foreign.notes) == 2


FORM_CELL = """
import torch
width = 8  #@param {type:"slider", min:4, max:64}
lr = 1e-3  #@param {type:"number"}
kind = "none"  #@param ["relu", "gelu"]
depths = [1, 2]  #@param {type:"raw"}
shift = -3  #@param {type:"integer"}
x = torch.randn(64, 4)
model = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.Linear(width, 2))
train_data = x, (x.sum(1) > 0).long()
"""


def test_the_form_draws_the_values_of_the_cell_before_the_cell_runs(shell, monkeypatch):
    async def ask(options, page, **more):
        assert "model" not in shell.user_ns
        form = OptionsForm(options, queue.SimpleQueue(), **more)
        shown = {name: text for name, text in form.values.texts.items() if name.startswith("cell_")}
        assert shown == {
            "cell_width": "8", "cell_lr": "0.001", "cell_kind": "none", "cell_depths": "[1, 2]", "cell_shift": "-3"
        }  # fmt: skip
        form.receive({"set": [["cell_width", "16"], ["cell_kind", "gelu"], ["epochs", "1"]], "do": "start"})
        assert form.line()[0] == "%%trainopt fit --epochs 1 --lr 0.02"
        assert form.cell_lines() == ["width = 16", "kind = 'gelu'"]
        return form.chosen

    monkeypatch.setattr(fit_verbs, "ask", ask)
    monkeypatch.setattr(fit_verbs, "find_page", lambda shell, awaited: Page("await"))
    finish(shell.run_cell_magic("trainopt", "form --lr 0.02", FORM_CELL))
    run, names = shell.user_ns["run"], shell.user_ns
    assert names["model"][0].out_features == names["width"] == 16 and names["kind"] == "gelu"
    assert run.options["epochs"] == 1 and run.options["lr"] == 0.02 and names["lr"] == 1e-3
    assert run.cell == FORM_CELL.replace("width = 8", "width = 16").replace('kind = "none"', "kind = 'gelu'")


def test_a_form_that_is_cancelled_runs_nothing(shell, monkeypatch):
    async def ask(options, page, **more):
        return None

    monkeypatch.setattr(fit_verbs, "ask", ask)
    monkeypatch.setattr(fit_verbs, "find_page", lambda shell, awaited: Page("await"))
    finish(shell.run_cell_magic("trainopt", "form", FORM_CELL))
    assert "model" not in shell.user_ns and "run" not in shell.user_ns


def test_what_is_typed_into_the_form_is_checked():
    tunables = find_tunables(FORM_CELL)
    form = OptionsForm(cell_options(tunables)(), queue.SimpleQueue())
    values = form.values
    assert chosen_values(tunables, values.finished()) == {}
    values.type("cell_depths", "[3]")
    values.type("cell_lr", "2e-2")
    assert chosen_values(tunables, values.finished()) == {"lr": 0.02, "depths": [3]}
    for name, wrong in {"cell_lr": "fast", "cell_depths": "[3"}.items():
        before = values.texts[name]
        values.type(name, wrong)
        assert values.finished() is None and list(values.errors) == [name]
        values.type(name, before)
