"The project as a whole: format, notebooks and package in step, floors, README, and the package as it is installed"

import ast
import json
import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from configparser import ConfigParser
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from warm_python import python, run_warm

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "trainopt_nb"
GENERATED = (
    "20??-??-??-*",
    "__pycache__",
    ".ipynb_checkpoints",
    ".hypothesis",
    ".git",
    ".text",
    "build",
    "*.egg-info",
    ".venv",
)
IMPORT_NAMES = {
    "scikit-learn": "sklearn",
    "imbalanced-learn": "imblearn",
    "ipython": "IPython",
    "pillow": "PIL",
}  # of distributions that are imported under another name
BROUGHT = {
    "traitlets": "ipywidgets",
    "PIL": "matplotlib",
}  # imported, and declared by what cannot be without it
sys.path.insert(0, str(ROOT / "nbs/_tools"))
import constraints  # noqa: E402
from rooms import ROOMS, modules, order  # noqa: E402

PAGE = {"IPython", "ipywidgets", "anywidget", "traitlets", "ipykernel", "comm", "jupyter_client"}
HEAVY = (
    "ipywidgets",
    "anywidget",
    "pandas",
    "sklearn",
    "torchmetrics",
    "matplotlib",
    "torch._dynamo",
    "scipy",
    "PIL",
)
POISONED = {"torchvision", "torchaudio", "timm", "lightning", "pytorch-lightning"}


LONG = {  # notebooks that take seconds, by their folder: they run with the slow tests
    "compression": "21b_session 34_to_onnx 35_onnx_int8 36_program 37_compiled 39_openvino 40_onnx_engines 51_export 69_find 79_start",
    "guides": "71_your_model 72_learning_rate 74_background 75_eject 77_images 80d_python 81b_augment 81d_clean_data 81e_see_data 81f_augment_other 82b_distill 82c_cpu_server 82d_onnx 82e_floor 82f_recipe 85d_doctor 86b_sweep_budget 86c_sweep_pruning 86d_sweep_goals 86e_sweep_workers 86f_sweep_function 87b_devices 88_without_a_page 88b_several_hosts 88c_files 89e_time 89f_logs 89h_tune 89i_coach 92_responsive",
    "insight": "02_loading 15_monitor 40_environment 40c_import_check 50b_memory_step 53_will_it_fit 64_tune 78_coach_task 79_coach",
    "notebook": "06q_coach_verb",
    "panels": "08c_label_search",
    "search": "15a_pruned_gp 18a_patient_storage",
    "sweeps": "23b_trial_ranks",
}


def call(*words, cwd=ROOT, **environment):
    "Run a command; its output, or a failure that shows it"
    env = {**os.environ, "NO_COLOR": "1", **environment}
    done = subprocess.run(
        words, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1500
    )
    assert done.returncode == 0, f"{' '.join(map(str, words))}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
    return done.stdout


def settings():
    parser = ConfigParser(delimiters=["="])
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    return parser["DEFAULT"]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    "The checkout without what it ignores, to change at will"
    folder = tmp_path_factory.mktemp("checkout") / "project"
    return shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*GENERATED))


def tool(name):
    "A command of this environment"
    return Path(sysconfig.get_path("scripts"), name)


# notebooks


def test_ruff_is_content():
    call(tool("ruff"), "check", "--no-cache", ".")
    call(tool("ruff"), "format", "--no-cache", "--check", ".")


def contents(folder):
    "What must not change when notebooks are exported and cleaned"
    places = ("nbs/**/*.ipynb", "trainopt_nb/**/*.py", "README.md")
    return {path.relative_to(folder): path.read_bytes() for place in places for path in folder.glob(place)}


def test_notebooks_package_and_readme_are_in_step(copy):
    before = contents(copy)
    call(tool("nbdev_export"), cwd=copy)
    call(tool("nbdev_clean"), cwd=copy)
    call(sys.executable, "nbs/_tools/readme.py", cwd=copy)
    after = contents(copy)
    changed = sorted(
        str(path) for path in before.keys() | after.keys() if before.get(path) != after.get(path)
    )
    assert not changed, "run nbdev_export, nbdev_clean and nbs/_tools/readme.py"


def test_the_tool_that_takes_pictures_starts():
    seen = "import sys; sys.path.insert(0, 'nbs/_tools'); import shots; print(*shots.PICTURES)"
    assert call(*python("-c", seen), PYTHONPATH=str(ROOT), cwd=ROOT).split()[:2] == ["panel", "form"]


def notebooks():
    "Those that run, the long ones marked so"
    long = {f"nbs/{folder}/{name}.ipynb" for folder, names in LONG.items() for name in names.split()}
    assert not [name for name in long if not (ROOT / name).exists()], (
        "LONG names notebooks that are not there"
    )
    for path in sorted(ROOT.glob("nbs/**/*.ipynb")):
        place = path.relative_to(ROOT)
        of_runs = "runs" in place.parts[2:]  # folders that notebooks made; `nbs/runs` is a room
        if not of_runs and not any(part.startswith((".", "_")) for part in place.parts):
            marks = [pytest.mark.slow] if place.as_posix() in long else []
            yield pytest.param(place, marks=marks, id=str(place))


@pytest.fixture(scope="module")
def warm_commands(tmp_path_factory):
    "A folder with Python and the commands that notebooks call: they start from the warm process"
    folder = tmp_path_factory.mktemp("bin")
    (folder / "python").symlink_to(python()[0])
    run = '#!/bin/sh\n{first}exec {folder}/python {script} "$@"\n'
    for name in ("trainopt", "papermill", "torchrun"):
        (folder / name).write_text(run.format(first="", folder=folder, script=tool(name)))
    jupyter = run.format(first="command=$1; shift; ", folder=folder, script=f"{tool('jupyter')}-$command")
    (folder / "jupyter").write_text(jupyter)
    for path in folder.iterdir():
        path.chmod(0o700)
    return folder


@pytest.mark.parametrize("notebook", [*notebooks()])
def test_notebook_runs(copy, notebook, warm_kernel, warm_commands, tmp_path):
    "As `nbdev_test` runs it, but for processes that it starts as `sys.executable` and commands beside that, which start warm"
    flags = settings()["tst_flags"].split()
    code = (
        "import os, sys; sys.executable = os.environ['PYTHON_EXEC']\n"
        "from pathlib import Path; from nbdev.test import test_nb; "
        f"done, _ = test_nb(Path({str(copy / notebook)!r}), {flags!r}, basepath={str(ROOT)!r}); sys.exit(not done)"
    )
    own = {
        "PYTHONPATH": str(ROOT),  # where the warm process imported the package
        "PYTHON_EXEC": str(warm_commands / "python"),  # torchrun reads it, too
        "PATH": f"{warm_commands}:{os.environ['PATH']}",  # for `!trainopt` and other commands of a cell
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(tmp_path),  # in memory
    }
    done = run_warm(["-c", code], copy / "nbs", {**os.environ, "NO_COLOR": "1", **own})
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-6000:]}"


def test_stored_outputs_name_no_place_of_a_machine():
    home = re.compile(r"(?<![\w.])/(home|root|Users|tmp|var|work)/")
    for path in ROOT.glob("nbs/**/*.ipynb"):
        if not {".ipynb_checkpoints"} & set(path.parts):
            found = [
                o
                for c in json.loads(path.read_text())["cells"]
                for o in c.get("outputs", [])
                if home.search(str(o))
            ]
            assert not found, (path, found)


# floors


def path_of(module):
    return ROOT / f"{module.replace('.', '/')}.py"


def imports(module, known):
    "Full names of what a module imports anywhere: modules of ours, and of others"
    package = module.split(".")[:-1]
    for node in ast.walk(ast.parse(path_of(module).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = (
                [*package[: len(package) + 1 - node.level], *([node.module] if node.module else [])]
                if node.level
                else [node.module]
            )
            base = ".".join(start)
            if base == "trainopt_nb" and [each.name for each in node.names] == ["__version__"]:
                continue  # it is there before the modules are
            yield from (f"{base}.{a.name}" if f"{base}.{a.name}" in known else base for a in node.names)


def place(module):
    "Where a module stands: its room, then its notebook's number"
    return list(ROOMS).index(module.split(".")[1]), order(modules()[module])[:2]


def test_every_module_is_exported_from_one_notebook():
    written = {
        path.relative_to(ROOT)
        for path in PACKAGE.glob("**/*.py")
        if path.name not in ("__init__.py", "_modidx.py")
    }
    exported = modules()
    assert written == {path_of(name).relative_to(ROOT) for name in exported}
    assert all(notebook.parent.name == name.split(".")[1] for name, notebook in exported.items())
    assert len({place(name) for name in exported}) == len(exported), "two notebooks have the same number"


@pytest.mark.parametrize("module", modules())
def test_floors_hold(module):
    "A module imports only what stands below it, and only panels/ and notebook/ know of a page"
    known = modules()
    ours = [name for name in imports(module, known) if name.split(".")[0] == "trainopt_nb"]
    unknown = [name for name in ours if name not in known]
    assert not unknown, "import from the module itself, not from its package"
    above = {name: place(name) for name in ours if place(name) >= place(module)}
    assert not above, f"{module} is {place(module)}"
    if module.split(".")[1] not in ("panels", "notebook"):
        assert not PAGE & {name.split(".")[0] for name in imports(module, known)}


def test_what_is_imported_is_declared():
    words = " ".join(
        settings()[f"{group}requirements"]
        for group in ("", "ray_", "hyperopt_", "clean_", "tables_", "tensorboard_", "mlflow_", "wandb_")
    )
    known, declared = modules(), [Requirement(word).name for word in words.split()]
    allowed = {IMPORT_NAMES.get(name, name) for name in declared} | sys.stdlib_module_names | {"trainopt_nb"}
    allowed |= {name for name, by in BROUGHT.items() if by in declared}
    found = {name.split(".")[0] for module in known for name in imports(module, known)}
    assert found <= allowed, found - allowed


def test_nothing_is_imported_by_star():
    for path in [*PACKAGE.glob("**/*.py"), *ROOT.glob("tests/**/*.py"), *ROOT.glob("nbs/_tools/*.py")]:
        nodes = ast.walk(ast.parse(path.read_text()))
        assert not any(isinstance(n, ast.ImportFrom) and n.names[0].name == "*" for n in nodes), path
    for path in ROOT.glob("nbs/**/[0-9]*.ipynb"):
        assert not re.search(r'"\s*from \S+ import \*', path.read_text()), path


LIBRARIES = ("lmdb", "tfrecord", "webdataset", "datasets", "soundfile", "polars", "pyarrow")  # of readers
LIGHT = {  # what is imported, one after the other in one process -> what that must not bring
    "import trainopt_nb": HEAVY,
    "from trainopt_nb.feed.readers import READERS; assert len(READERS.items()) > 8": LIBRARIES,
    "from trainopt_nb.runs import report": ("IPython", "ipywidgets", "anywidget", "matplotlib"),
    "import trainopt_nb.task.light_torchmetrics": ("scipy.signal", "scipy.stats", "pandas", "sklearn"),
}


def test_import_is_light():
    "The package, its readers, which import what they need when they read, the report, which needs no widget, and metrics"
    seen = "import sys"
    for code, names in LIGHT.items():
        seen += f"\n{code}\nprint([name for name in {names} if name in sys.modules])"
    assert call(sys.executable, "-c", seen, PYTHONPATH=str(ROOT)).split() == ["[]"] * len(LIGHT)


# what is needed


def groups():
    "The package's own requirements and those of each extra but for those that are not pinned"
    config, unpinned = settings(), constraints.UNPINNED
    keys = [key for key in config if key == "requirements" or key.endswith("_requirements")]
    keys = [key for key in keys if key not in unpinned]
    return {key: [Requirement(word) for word in config[key].split()] for key in keys}


def test_constraints_pin_what_is_declared():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    assert pins["torch"] == "2.13.0" and not POISONED & pins.keys()
    for need in (need for group in groups().values() for need in group):
        assert need.specifier.contains(pins[canonicalize_name(need.name)]), need


def test_pinned_versions_install_on_the_oldest_patch_of_python():
    "Debian 12 has Python 3.11.2"
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    for name, version in (line.split("==") for line in lines):
        package = distribution(name)
        if Version(package.version).public == version:
            assert SpecifierSet(package.metadata.get("Requires-Python") or "").contains("3.11.0"), name


def closure(needs):
    "Requirements and all that they bring: name of a distribution -> distribution; each must be met here"
    waiting, seen, found = list(needs), set(), {}
    while waiting:
        need = waiting.pop()
        if str(need) in seen:
            continue
        seen.add(str(need))
        package = distribution(need.name)
        assert need.specifier.contains(package.version, prereleases=True), (need, package.version)
        found[canonicalize_name(need.name)] = package
        for line in map(Requirement, package.requires or []):
            if not line.marker or any(
                line.marker.evaluate({"extra": extra}) for extra in need.extras or {""}
            ):
                waiting.append(line)
    return found


@pytest.mark.parametrize("group", groups())
def test_requirements_are_met_here(group):
    "What is installed satisfies every requirement, directly or through others, and nothing poisoned comes along"
    assert not POISONED & closure([*groups()[group], *groups()["requirements"]]).keys()


def unguarded(tree):
    "Modules that a text of Python imports, but for those it does without: in `try`"
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]
        elif not isinstance(node, ast.Try):
            yield from unguarded(node)


def test_guides_need_no_more_than_the_first_command_installs():
    here = closure([*groups()["requirements"], *groups()["lab_requirements"]])
    commands = {point.name for d in here.values() for point in d.entry_points} | {"trainopt"}
    homes, missing = packages_distributions(), []
    for path in ROOT.glob("nbs/guides/[78]*.ipynb"):
        for cell in json.loads(path.read_text())["cells"]:
            lines = "".join(cell["source"]).splitlines()
            if cell["cell_type"] != "code":
                continue
            called = {line[1:].split()[0] for line in lines if line.startswith("!")}
            missing += [(path.name, name) for name in called - commands]
            tree = ast.parse("\n".join(line for line in lines if line[:1] not in ("%", "!")))
            for name in set(unguarded(tree)) - sys.stdlib_module_names - {"trainopt_nb"}:
                if not here.keys() & {canonicalize_name(home) for home in homes.get(name, ())}:
                    missing.append((path.name, name))
    assert not missing


# README


def commands():
    "README's two commands"
    return re.findall(r"```bash\n(.*?)\n```", (ROOT / "README.md").read_text(), re.S)


def test_continuous_integration_runs_the_second_command():
    first, second = commands()
    assert (ROOT / ".ci/run").read_text().splitlines()[-1] == second and second.endswith(
        "&& python -m pytest"
    )
    assert all("-c constraints.txt" in command for command in (first, second))


def test_pythons_are_the_same_everywhere():
    "README names what the workflow tests, and the oldest of it is the oldest that installs"
    found = re.search(r"with Python (.*):$", (ROOT / "README.md").read_text(), re.M)
    named = re.findall(r"\d\.\d+", found[1])
    workflow = (ROOT / ".github/workflows/tests.yml").read_text()
    assert json.loads(re.search(r"python: (\[.*\])", workflow)[1]) == named
    assert (
        settings()["min_python"] == named[0] and f"Python {named[0]} on" in (ROOT / "README.md").read_text()
    )
    assert all(version in (ROOT / "README.zh-CN.md").read_text() for version in named)


def test_readme_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text()):
        assert link.startswith("https://") or (ROOT / link).exists(), link


def test_readme_names_the_verbs_that_exist():
    from trainopt_nb.notebook.verbs import VERBS

    named = set(re.findall(r"\btrainopt ([a-z-]+)", (ROOT / "README.md").read_text()))
    assert named == set(VERBS)


def test_readme_code_runs(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)\n```", (ROOT / "README.md").read_text(), re.S)
    monkeypatch.chdir(tmp_path)
    code = json.dumps(blocks)
    script = (
        "import json, sys\n"
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance()\n"
        f"for block in json.loads({code!r}):\n"
        "    assert shell.run_cell(block).success, block\n"
        "assert shell.user_ns['run'].state == 'finished'\n"
        "print('accuracy', shell.user_ns['run'].metrics['accuracy'])\n"
    )
    said = call(*python("-c", script), cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert float(said.split()[-1]) > 0.85 and len(list((tmp_path / "runs").iterdir())) == 2


# installed


@pytest.fixture(scope="module")
def built(copy):
    "A source archive and a wheel, built where an earlier build left a module that is no more"
    stale = copy / "build/lib/trainopt_nb/removed.py"
    stale.parent.mkdir(parents=True)
    stale.touch()
    kinds = ("--sdist", "--wheel")
    call(sys.executable, "-m", "build", "--no-isolation", *kinds, "--outdir", copy / "dist", cwd=copy)
    (archive,), (wheel,) = (copy / "dist").glob("*.tar.gz"), (copy / "dist").glob("*.whl")
    return archive, wheel


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    "A virtual environment with the wheel, which borrows everything else from this one"
    folder = tmp_path_factory.mktemp("installed") / "venv"
    call(sys.executable, "-m", "venv", "--without-pip", folder)
    (libraries,) = folder.glob("lib/python*/site-packages")
    here = [path for path in map(Path, site.getsitepackages()) if path.is_dir()]
    (libraries / "borrowed.pth").write_text("\n".join(map(str, here)))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", folder / "bin/python"]
    call(*pip, "install", "--quiet", "--no-deps", "--no-index", "--force-reinstall", built[1])
    found = "from importlib.util import find_spec; print(find_spec('trainopt_nb').origin)"
    assert "site-packages" in call(folder / "bin/python", "-c", found, cwd="/", PYTHONPATH="")
    return folder


def test_archives_hold_everything(built):
    archive, wheel = built
    inside = set(zipfile.ZipFile(wheel).namelist())
    package = {
        str(path.relative_to(ROOT))
        for path in PACKAGE.glob("**/*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert package <= inside
    info = wheel.name.split("-py3")[0] + ".dist-info"
    assert inside - package <= {
        f"{info}/{name}"
        for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt", "licenses/LICENSE")
    }
    assert {
        "base.js",
        "base.css",
        "kept.js",
        "charts.js",
        "train_panel.js",
        "runs_panel.js",
        "form.css",
        "uplot.js",
        "uplot.css",
        "uplot.LICENSE",
        "preact.js",
        "preact.LICENSE",
    } <= {Path(name).name for name in inside}
    meta = zipfile.ZipFile(wheel).read(f"{info}/METADATA").decode()
    assert (
        "License-Expression: Apache-2.0" in meta and f"Requires-Python: >={settings()['min_python']}" in meta
    )
    assert set(re.findall(r"\]\((\w+)", meta)) == {"https"}, (
        "a link that leads nowhere from the package's page"
    )
    names = {name.partition("/")[2] for name in tarfile.open(archive).getnames()}
    assert package | {"LICENSE", "README.md", "CHANGELOG.md", "settings.ini"} <= names


def test_licence_is_whole():
    text = (ROOT / "LICENSE").read_text()
    assert text.strip().startswith("Apache License\n                           Version 2.0, January 2004")
    assert (
        all(f"\n   {number}. " in text for number in range(1, 10)) and "END OF TERMS AND CONDITIONS" in text
    )


def test_first_command_trains_from_the_wheel(installed, tmp_path):
    "What README's first command runs after installing: the quickstart, with its accuracy, its run and the way to open it"
    command = commands()[0].split(" && ")[1].split()
    notebook = shutil.copytree(
        ROOT / "nbs/guides", tmp_path / "nbs/guides", ignore=shutil.ignore_patterns(*GENERATED)
    )
    said = call(installed / "bin" / command[0], *command[1:], cwd=tmp_path, PYTHONPATH="")
    *_, accuracy, where, how = said.strip().splitlines()
    assert float(accuracy.removeprefix("accuracy: ").removesuffix("%")) >= 98
    run = Path(where.removeprefix("run: "))
    assert run.parent == tmp_path / "runs" and (run / "events.jsonl").exists()
    assert how.startswith("open it: jupyter lab ") and Path(tmp_path, how.split()[-1]).parent == notebook


def test_command_says_what_it_can(installed, tmp_path):
    said = call(installed / "bin/trainopt", "--help", cwd=tmp_path)
    assert all(f"trainopt {verb}" in said for verb in ("fit", "runs", "resume", "options"))
    assert not list(tmp_path.iterdir())
