"Property tests try the same examples wherever and whenever they run"

import importlib
import sys

import properties  # noqa: F401 its profile is what is tested
from hypothesis import given, settings
from hypothesis import strategies as st


def drawn():
    "The examples of a property test, as far as hypothesis chooses them"
    values = []

    @settings(settings.get_profile("same"))
    @given(st.tuples(st.integers(), st.text(), st.floats(allow_nan=False), st.sampled_from("abc")))
    def collect(example):
        values.append(example)

    collect()
    return values


def test_examples_do_not_depend_on_what_is_loaded(tmp_path, monkeypatch):
    first = drawn()
    constants = "\n".join(f"a{k}, b{k}, c{k} = {10_000_019 * k}, 'constant {k}', {k}.125" for k in range(300))
    (tmp_path / "full_of_constants.py").write_text(constants)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "full_of_constants", importlib.import_module("full_of_constants"))
    assert drawn() == first and len(first) >= 100
