"What `%trainopt doctor --environment` finds, in folders of packages that are really on the disk"

import base64
import hashlib
import sys

import pytest

from trainopt_nb.base.broken_packages import import_despite
from trainopt_nb.insight.check_environment import check_environment
from trainopt_nb.insight.environment import read_environment
from trainopt_nb.insight.environment_rules import check_packages
from trainopt_nb.insight.import_check import explain, try_imports


@pytest.fixture
def site(tmp_path):
    "Return a function that installs a package into a folder, as pip would"

    def install(name, version, requires=(), folder="site", **files):
        where = tmp_path / folder
        info = where / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        needs = "".join(f"Requires-Dist: {each}\n" for each in requires)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        record = []
        for path, text in files.items():
            path = path.replace("__", "/", 1) + ".py" if path.count("__") else f"{path}.py"
            (where / path).parent.mkdir(parents=True, exist_ok=True)
            (where / path).write_text(text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record.append(f"{path},sha256={digest},{len(text)}\n")
        (info / "RECORD").write_text("".join(record))
        return where

    return install


def found(folder, *more, beside=None):
    empty = folder.parent / "empty"
    empty.mkdir(exist_ok=True)
    here = read_environment([str(folder), *map(str, more)], beside or empty)
    return here._replace(gpu=False, shared_memory=None), {
        each.name: each for each in check_packages(here._replace(gpu=False, shared_memory=None))
    }


def test_packages_that_fit_give_no_finding(site):
    site("one", "1.0", ["two>=1", 'three; extra == "more"', 'four; python_version < "3"'], one="")
    here, said = found(site("two", "1.5", two=""))
    assert not said and here.modules == {"one": "one", "two": "two"}


def test_a_malicious_release_is_named_and_not_imported(site, monkeypatch):
    folder = site("lightning", "2.6.2", lightning="raise SystemExit('imported')")
    said = found(folder)[1]["malicious"]
    assert "GHSA-w37p-236h-pfx3" in said.text and "2.6.1" in said.change.text
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    report = check_environment()
    assert "lightning 2.6.2" in repr(report) and "Nothing was imported" in repr(report) and not report.imports
    assert "Environment" in report._repr_html_() and "lightning" not in sys.modules


def test_the_way_out_of_versions_fits_all_who_ask(site):
    site("low", "1.0", ["shared>=2,<4"])
    site("high", "1.0", ["shared>=3"])
    folder = site("shared", "1.0")
    assert 'pip install "shared>=3,<4"' in found(folder)[1]["unmet"].change.text
    site("older", "1.0", ["shared<2.5"])
    assert "No version fits all" in found(folder)[1]["unmet"].change.text
    site("lost", "1.0", ["missing>=1"])
    assert any("missing is not installed" in each.text for each in check_packages(found(folder)[0]))


def test_files_of_two_packages(site):
    site("onnx-cpu", "1", run__a="cpu", run__b="cpu", space____init__="")
    folder = site("onnx-gpu", "1", run__a="gpu", run__b="gpu", space____init__="")
    said = found(folder)[1]
    assert said.keys() == {"overwritten"}
    assert "onnx-cpu and onnx-gpu" in said["overwritten"].text and "1 more" in said["overwritten"].text


def test_what_runs_is_not_what_is_installed(site, tmp_path):
    later = site("twin", "1.0", folder="later", twin="")
    folder = site("twin", "2.0", twin="")
    here, said = found(folder, later)
    assert "2.0 in" in said["twice"].text and "1.0 in" in said["twice"].text
    assert [each.name for each in check_packages(here._replace(hidden=(), loaded={"twin": "1.9"}))] == [
        "stale"
    ]
    assert not check_packages(here._replace(hidden=(), loaded={"twin": "2.0+cpu"}))
    beside = tmp_path / "work"
    (beside / "twin").mkdir(parents=True)
    for name in ("twin/__init__.py", "random.py", "mine.py"):
        (beside / name).write_text("")
    said = [each.text for each in check_packages(found(folder, beside=beside)[0])]
    assert len(said) == 2 and said[0].startswith("random.py") and said[1].startswith("twin/")


def test_the_package_at_fault_is_named_once(site, monkeypatch):
    site("broken", "3.0", broken="raise RuntimeError('operator torchvision::nms does not exist')")
    site("user", "1.0", ["broken"], user="import broken")
    site("dies", "1.0", dies="import os; os._exit(3)")
    site("talks", "1.0", talks="print('hello')")
    folder = site("waits", "1.0", waits="import time; time.sleep(60)")
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    tried = try_imports(["broken", "user", "dies", "talks", "waits"], seconds=2)
    here = read_environment([str(folder)])
    said = [each.text for each in explain(here, [each for each in tried if each.error])]
    assert [each.module for each in tried if not each.error] == ["talks"]
    assert said[0].startswith("broken 3.0 cannot") and "user cannot be imported either" in said[0]
    assert "ended the process" in said[1] and "more than 2 s" in said[2] and len(said) == 3


@pytest.mark.parametrize(
    "gpu, builds, told", [(True, ("", ""), True), (True, ("13.0", ""), False), (False, ("", ""), False)]
)
def test_a_build_without_the_gpu(site, gpu, builds, told):
    here = found(site("torch", "2.13.0+cpu"))[0]._replace(gpu=gpu, torch_builds=builds)
    assert bool(check_packages(here)) is told


def test_small_shared_memory(site):
    here = found(site("one", "1"))[0]
    said = check_packages(here._replace(shared_memory=64 << 20))
    assert "64 MB" in said[0].text and not check_packages(here._replace(shared_memory=1 << 30))


def test_in_a_terminal(capsys):
    from trainopt_nb.notebook.cli import main

    assert main(["doctor"]) == 2
    assert "--environment" in capsys.readouterr().err


def test_a_package_is_imported_although_others_that_it_uses_are_broken(site, monkeypatch):
    site("first", "1", first="raise RuntimeError('first is broken')")
    site("second", "1", second="import nothing_of_this_name")
    site("uses", "1", uses="from first.models import net\nimport second.parts as parts\nanswer = 42")
    site("third", "1", third="import ctypes\nctypes.CDLL('libnothing_of_this_name.so')")
    folder = site(
        "bad",
        "1",
        bad="import first\n",
        worse="raise ValueError('of its own')",
        binary="import third\nanswer = 1",
    )
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    uses = import_despite("uses")
    assert uses.answer == 42 and not {"first", "second"} & sys.modules.keys()
    with pytest.raises(ImportError, match=r"first\.models\.net is not available.*first is broken"):
        uses.net(1)
    with pytest.raises(ImportError, match="second cannot be imported"):
        uses.parts.anything()
    assert (
        import_despite("binary").answer == 1 and "ctypes" in sys.modules
    )  # Python's own modules are never at fault
    with pytest.raises(ValueError, match="of its own"):
        import_despite("worse")
    with pytest.raises(RuntimeError, match="first is broken"):
        import_despite("bad", trusted=("first",))
