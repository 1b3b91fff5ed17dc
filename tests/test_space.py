"Tunables of a cell: found, refused with their line, written anew, and drawn while the cell runs"

import pickle
import traceback

import pytest

from trainopt_nb.base.errors import OptionError
from trainopt_nb.base.form_comments import form_comment
from trainopt_nb.base.options import Dimension
from trainopt_nb.base.tunables import Draws, define_by_run, find_tunables, run_drawn, with_values


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
