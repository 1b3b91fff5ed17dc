"What a run stores, who can read it, what of it is executed, and what is sent where"

import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

import mistune
import pytest
import torch
from helpers import execute, magic, quiet, until
from hypothesis import example, given
from hypothesis import strategies as st
from IPython.core.error import UsageError
from markdown_it import MarkdownIt
from properties import examples
from starts import leave
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import trainopt_nb
from trainopt_nb import Run, RunError, Task, TrainOptions, find_run, fit, list_runs, resume
from trainopt_nb.api.elsewhere import newest_run, sign_places
from trainopt_nb.api.prepare_run import stored_options
from trainopt_nb.base.options import declared
from trainopt_nb.base.secret_values import with_secrets, without_secrets
from trainopt_nb.data import shared_memory
from trainopt_nb.data.source import open_data
from trainopt_nb.notebook.cli import main
from trainopt_nb.notebook.new import new_notebook
from trainopt_nb.notebook.runs_page import resume_behind
from trainopt_nb.panels.watched_runs import RunsTable
from trainopt_nb.runs.plain_text import fenced, markdown, plain
from trainopt_nb.script.write import Script
from trainopt_nb.store.private import state_folder, user_key
from trainopt_nb.workers.processes import warm

CELL = """
import torch
from torch import nn
x = torch.arange(240.0).reshape(60, 4) / 240
model = nn.Linear(4, 2)
train_data, valid_data = (x[:40], torch.arange(40) % 2), (x[40:], torch.arange(20) % 2)
"""
PLANTED = "open('executed', 'w').close()" + CELL
ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no modes of this kind")


@pytest.fixture(scope="module", autouse=True)
def workers(warm_process):
    warm()


def begun(shell, cell=CELL, line="fit --epochs 1"):
    "A run of this user, in a notebook that has forgotten it"
    magic(shell, line, cell)
    run = shell.user_ns["run"]
    shell.reset(new_session=False)
    return run


def foreign(shell, run, cell=PLANTED, **options):
    "Another user's run beside it: newer by its own word, signed with another key"
    path = run.path.with_name("2099-01-01-foreign-1")
    shutil.copytree(run.path, path)
    facts = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps(facts | {"name": path.name, "created": 4e9}))
    (path / "cell.py").write_text(cell)
    (path / "options.json").write_text(json.dumps(run.options | {"epochs": 2} | options))
    return Run(path)


# who can read it


@contextmanager
def as_nobody():
    "Be a user without rights for a while; only root can"
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def modes(folder):
    "Mode of each file and folder, by path"
    return {path: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")]}


@posix
def test_a_run_is_private_whatever_the_umask_is(shell, tmp_path):
    before = os.umask(0)
    try:
        run = begun(shell, line="fit --epochs 1000000 --background")
        until(lambda: run.progress.epoch or not run.alive, "the first epoch", 240)
        run.send("stop")  # a command, which is a file too
        until(lambda: not run.alive, "the end of the run", 240)
        run.eject()
    finally:
        os.umask(before)
    found = modes(run.path)
    assert {path.name for path in found} >= {"cell.py", "log.txt", "train.py", "commands.jsonl", "state.json"}
    wrong = {
        str(path): oct(mode) for path, mode in found.items() if mode != (0o700 if path.is_dir() else 0o600)
    }
    assert wrong == {}
    assert set(modes(state_folder()).values()) == {0o700, 0o600}


@posix
@pytest.mark.skipif(not ROOT, reason="only root can become another user")
def test_another_user_reads_nothing_and_lists_only_what_is_theirs(tmp_path):
    tmp_path.chmod(0o755)
    run = fit(
        nn.Linear(2, 2), (torch.randn(8, 2), torch.arange(8) % 2), folder=tmp_path, epochs=1, write=quiet
    )
    (tmp_path / "open.txt").write_text("for everybody")
    with as_nobody():
        assert (tmp_path / "open.txt").read_text() == "for everybody"
        for path in ("run.json", "options.json", "events.jsonl", "checkpoints"):
            with pytest.raises(PermissionError):
                os.stat(run.path / path)
        table = RunsTable(tmp_path)
        table.refresh()
        assert list_runs(tmp_path) == [] and table.news()["order"] in ([], None)
        with pytest.raises(RunError, match="no runs"):
            find_run(run.path, tmp_path)


# what is executed


def test_a_cell_from_elsewhere_is_shown_and_not_executed(shell, tmp_path, capsys):
    other = foreign(shell, begun(shell))
    with pytest.raises(UsageError, match=r"was not executed.*--trust"):
        magic(shell, f"resume {other.name}")
    assert PLANTED.strip() in capsys.readouterr().out
    with pytest.raises(RunError, match="was not executed"):
        resume_behind(other, shell)
    magic(shell, f"attach {other.name}")
    assert main(["resume", other.name, "--runs", "runs"]) == 1
    assert "was not executed" in capsys.readouterr().err
    with pytest.raises(UsageError, match="was not executed"):
        magic(shell, f"resume {other.name} --background")
    assert not Path("executed").exists() and "model" not in shell.user_ns
    magic(shell, f"resume {other.name} --trust")
    assert Path("executed").exists() and other.progress.epoch == 2
    shell.reset(new_session=False)
    magic(shell, f"resume {other.name} --epochs 3")  # trusted once, it is this user's
    assert other.progress.epoch == 3


def test_a_resume_without_a_name_takes_a_run_of_this_user(shell, tmp_path, capsys):
    run = begun(shell)
    other = foreign(shell, run)
    assert find_run(None, "runs").name == other.name
    magic(shell, "resume --epochs 2")
    assert run.progress.epoch == 2 and other.progress.epoch == 1 and not Path("executed").exists()
    data = torch.randn(8, 4), torch.arange(8) % 2
    assert resume(None, nn.Linear(4, 2), data, data, write=quiet, epochs=3).name == run.name
    shutil.rmtree(run.path)
    said = []
    assert newest_run("runs", said.append).name == other.name
    assert "did not begin it on this machine" in said[0]


def test_what_was_changed_in_a_run_of_this_user_is_asked_about(shell, tmp_path):
    run = begun(shell)
    (run.path / "cell.py").write_text(PLANTED)
    with pytest.raises(UsageError, match="was not executed"):
        magic(shell, "resume --epochs 2")
    assert not Path("executed").exists()
    (run.path / "cell.py").write_text(CELL)
    magic(shell, "resume --epochs 2")
    assert run.progress.epoch == 2


def test_a_run_of_this_user_may_be_moved(shell, tmp_path):
    run = begun(shell)
    moved = tmp_path / "archive" / run.name
    moved.parent.mkdir()
    run.path.rename(moved)
    magic(shell, "resume --runs archive --epochs 2")
    assert Run(moved).progress.epoch == 2


@pytest.mark.parametrize("how", ["version 0.1.0", "new home", "hostile file", "readable key"])
def test_a_run_without_a_valid_signature_takes_one_step(shell, tmp_path, monkeypatch, how):
    run = begun(shell)
    if how == "version 0.1.0":
        (run.path / "signature.json").unlink()
    elif how == "hostile file":
        (run.path / "signature.json").write_text('{"cell": ["\\ud800"], "created": null}')
    elif how == "readable key":
        (state_folder() / "key").chmod(0o644)
    else:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "home"))
    if how == "readable key" and os.name == "nt":
        pytest.skip("Windows has no modes of this kind")
    assert not run.begun_here
    with pytest.raises(UsageError, match="--trust"):
        magic(shell, "resume --epochs 2")
    magic(shell, "resume --epochs 2 --trust")
    shell.reset(new_session=False)
    magic(shell, f"resume {run.name} --epochs 3")
    assert run.progress.epoch == 3


def test_without_a_home_runs_of_this_process_go_on(shell, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for name in ("XDG_STATE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "file"))
    run = begun(shell)
    magic(shell, "resume --epochs 2")
    assert run.progress.epoch == 2 and len(user_key()) == 32


def test_a_model_of_the_notebook_needs_no_trust(shell, tmp_path):
    other = foreign(shell, begun(shell))
    shell.run_cell(CELL)
    magic(shell, f"resume {other.name}")
    assert other.progress.epoch == 2 and not Path("executed").exists()
    shell.reset(new_session=False)
    with pytest.raises(UsageError, match="was not executed"):  # resuming it did not make its cell one's own
        magic(shell, f"resume {other.name} --epochs 3")


# what is sent where


@pytest.fixture
def door():
    "An address at which somebody waits"
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        yield f"127.0.0.1:{server.getsockname()[1]}", server


def test_an_address_of_a_foreign_run_is_not_used(shell, tmp_path, door):
    address, server = door
    other = foreign(shell, begun(shell), cluster=address)
    shell.run_cell(CELL)
    data = torch.randn(8, 4), torch.arange(8) % 2
    with pytest.raises(
        RunError, match=f"names '{address}'.*--cluster {address} goes there, --cluster '' trains here"
    ):
        resume(other, nn.Linear(4, 2), data, write=quiet)
    with pytest.raises(UsageError, match="Say where to train"):
        magic(shell, f"resume {other.name}")
    with pytest.raises(UsageError, match="Say where to train"):
        magic(shell, f"resume {other.name} --background --trust")
    with pytest.raises(RunError, match="Say where to train"):
        resume_behind(other, shell)
    with pytest.raises(TimeoutError):
        server.accept()
    magic(shell, f"resume {other.name} --cluster ''")
    assert other.progress.epoch == 2


def test_an_address_of_ones_own_run_is_used_again(tmp_path):
    run = Run.create(tmp_path, "digits", {"cluster": "ray://10.0.0.5:10001"})
    sign_places(run, TrainOptions(cluster="ray://10.0.0.5:10001"))
    assert stored_options(run, {}).cluster == "ray://10.0.0.5:10001"
    run.change_options({"cluster": "ray://10.0.0.6:10001"})
    with pytest.raises(RunError, match=r"10\.0\.0\.6"):
        stored_options(run, {})


def test_every_free_text_says_whether_it_is_a_place():
    free = {name for name, o in declared(TrainOptions).items() if o.type == "text"}
    places = {name for name, o in declared(TrainOptions).items() if o.place}
    assert places == {"cluster"}
    assert free - places == {
        "augment", "batch_layout", "clean", "device", "distill", "features", "image_size", "impute", "loss_weights",
        "metrics", "monitor", "pipeline_plan", "synonyms", "target", "teacher",
    }  # fmt: skip


_heard, _listening = [], []
NET = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto")


def _hook(event, arguments):
    if not _listening:
        return
    if event in NET:
        _heard.append((event, arguments[1:]))
    elif event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        path = os.path.abspath(os.fsdecode(arguments[0])) if isinstance(arguments[0], (str, bytes)) else ""
        if path and not path.startswith((*_listening, "/dev/")):
            _heard.append((event, path))


def test_a_training_in_this_process_opens_no_connection_and_writes_only_its_run(tmp_path):
    sys.addaudithook(_hook)
    data = torch.randn(40, 4), torch.arange(40) % 2
    fit(nn.Linear(4, 2), data, data, folder=tmp_path, epochs=1, write=quiet).eject()  # imports, and the key
    _listening.append(str(tmp_path))
    try:
        run = fit(nn.Linear(4, 2), data, data, folder=tmp_path, epochs=2, write=quiet)
        resume(run, nn.Linear(4, 2), data, data, epochs=3, write=quiet)
        run.eject()
    finally:
        _listening.clear()
    assert _heard == []


def test_no_data_is_stored(tmp_path):
    inputs, targets = torch.randn(40, 4), torch.randn(40, 1)
    run = fit(nn.Linear(4, 1), (inputs, targets), epochs=2, folder=tmp_path, write=quiet)
    stored = [path.read_bytes() for path in run.path.rglob("*") if path.is_file()]
    rows = [row.numpy().tobytes() for row in (*inputs, targets.reshape(-1)[:4])]
    assert len(stored) > 6 and not [row for row in rows if any(row in content for content in stored)]


def test_devices_of_this_machine_meet_on_loopback(tmp_path):
    import psutil

    data = torch.randn(64, 4), torch.arange(64) % 2
    job = leave(
        Task(nn.Linear(4, 2), data), TrainOptions.of(devices=2, epochs=100_000, device="cpu"), folder=tmp_path
    )
    events = job.events()
    until(lambda: next(events) is not None and job.progress.step > 2, "the first steps")
    lines = (job.run.path / "log.txt").read_text().splitlines()
    ranks = [int(pid) for line in lines if line.startswith("ranks ") for pid in line[6:].split(", ")]
    found = [c for pid in ranks for c in psutil.Process(pid).net_connections("inet")]
    job.run.send("stop")
    job.result()
    ends = {end.ip for c in found for end in (c.laddr, c.raddr) if end}
    assert len(ranks) == 2 and ends and ends <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


@posix
def test_a_folder_of_ray_that_others_can_open_is_refused(tmp_path):
    from trainopt_nb.workers.ray_connection import check_private

    tmp_path.chmod(0o700)
    check_private(str(tmp_path))
    tmp_path.chmod(0o777)
    with pytest.raises(RunError, match="mode 777, expected 700"):
        check_private(str(tmp_path))


# secrets

KEY = "A1b2C3d4E5f6G7h8I9j0" * 2  # parts, so that no scanner takes this file for a leak
SECRETS = {
    "name": ('password = "hunter2!"', "hunter2!"),
    "attribute with a type": ('db.password: str = "hunter2"', "hunter2"),
    "camel case": ('myApiKey = "abcd1234"', "abcd1234"),
    "keyword": ('connect(user="ann", passwd="xyzzy1")', "xyzzy1"),
    "dict": ('{"client_secret": "xyzzy1"}', "xyzzy1"),
    "environment": (f'os.environ["HF_TOKEN"] = "hf_{KEY}"', KEY),
    "default": ('os.environ.setdefault("KAGGLE_KEY", "xyzzy1")', "xyzzy1"),
    "comment": ("# api_key='old-one-1'", "old-one-1"),
    "bytes": ('SECRET = b"topsecret"', "topsecret"),
    "vague name": (f'token = "{KEY}"', KEY),
    "login": (f'login("hf_{KEY}")', KEY),
    "magic": ("%env WANDB_API_KEY=xyzzy1", "xyzzy1"),
    "magic with a space": ("%env WANDB_API_KEY xyzzy1", "xyzzy1"),
    "shell": ("!export DB_PASSWORD='xyzzy1' && run", "xyzzy1"),
    "flag": ("!login --password xyzzy1", "xyzzy1"),
    "address": ('read("postgresql://ann:xyzzy1@db.example.org/x")', "xyzzy1"),
    "header": (f'headers = {{"Authorization": "Bearer {KEY}"}}', KEY),
    "GitHub": (f"clone('https://ghp_{KEY}@github.com/x/y')", KEY),
    "AWS": ("x = '" + "AKIA" + "ABCDEFGHIJKLMNOP'", "ABCDEFGHIJKLMNOP"),
    "OpenAI": (f"x = 'sk-proj-{KEY}'", KEY),
    "Google": ("x = '" + "AIza" + KEY[:35] + "'", KEY[:35]),
    "Slack": (f"x = 'xoxb-{KEY}'", KEY),
    "web token": (f"x = 'eyJ{KEY}.eyJ{KEY}.{KEY}'", KEY),
    "private key": (
        "x = '''-----BEGIN RSA " + f"PRIVATE KEY-----\n{KEY}\n-----END RSA PRIVATE KEY-----'''",
        KEY,
    ),
}
ORDINARY = [
    'tokenizer = load("bert-base-uncased", pad_token="[PAD]", eos_token="</s>", key="image")',
    'columns = ["password", "strength"]',
    'target_key = "label_of_2019_v2"',
    'if key == "target": token = "<|begin_of_text|>"',
    'password = getpass("Your password: ")',
    'secret = os.environ["SECRET"]',
    'headers = {"Authorization": f"Bearer {token}"}',
    'pwd = "/home/ann/work"',
    'model = "sk-learn-random-forest-classifier"',
    'url = "http://localhost:8080/a@b"',
    "%time model = net()",
    "!pip install torch --index-url https://download.pytorch.org/whl/cpu",
    'api_key = ""',
]


@pytest.mark.parametrize("line, secret", SECRETS.values(), ids=SECRETS)
def test_a_secret_is_left_out_and_can_be_put_back(line, secret):
    source = f"import os\n{line}\nmodel = net()\n"
    text, names = without_secrets(source)
    assert secret not in text and len(names) == 1 and text.startswith("import os\n")
    assert without_secrets(text) == (text, ())
    (mark,) = re.findall(r"<left-out:\w+>", text)
    value = source[text.index(mark) :].removesuffix(text[text.index(mark) + len(mark) :])
    if "\n" not in value:
        assert with_secrets(text, {names[0]: value}) == source
    with pytest.raises(RunError, match=names[0]):
        with_secrets(text, {})


@pytest.mark.parametrize("line", ORDINARY)
def test_ordinary_code_is_stored_as_it_is(line):
    assert without_secrets(f"{line}\n") == (f"{line}\n", ())


def test_no_file_of_a_run_holds_a_secret(shell, tmp_path, monkeypatch):
    token = f"hf_{KEY}"
    shell.run_cell(f'width = 2\nHF_TOKEN = "{token}"', store_history=True).raise_error()
    cell = f'{CELL}\nimport os\nclasses = width\nused = HF_TOKEN\nWANDB_API_KEY = "{KEY}"\n'
    magic(shell, "fit --epochs 1", cell)
    run = shell.user_ns["run"]
    held = [path.name for path in run.path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert held == [] and "width = 2" in run.facts["earlier"]
    assert sorted(run.facts["left_out"]) == ["HF_TOKEN", "WANDB_API_KEY"]
    notes = " ".join(note.text for note in run.progress.notes)
    assert "HF_TOKEN" in notes and "WANDB_API_KEY" in notes and KEY not in notes
    script = run.eject()
    assert (
        KEY not in script.text and any("WANDB_API_KEY" in note for note in script.notes) and not script.exact
    )
    shell.reset(new_session=False)
    shell.user_ns.update(width=2, HF_TOKEN="")
    with pytest.raises(UsageError, match="set the environment variable WANDB_API_KEY"):
        magic(shell, "resume --epochs 2")
    monkeypatch.setenv("WANDB_API_KEY", "another")
    magic(shell, "resume --epochs 2")
    assert run.progress.epoch == 2 and shell.user_ns["WANDB_API_KEY"] == "another"


# what becomes Markdown


class Tags(HTMLParser):
    "Tags of a page, and its text"

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.text = set(), ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text += data

    def handle_comment(self, data):
        self.tags.add("comment")

    handle_decl = handle_pi = unknown_decl = handle_comment


RENDERERS = {
    "CommonMark, which JupyterLab follows": MarkdownIt("commonmark", {"html": True})
    .enable(["table", "strikethrough"])
    .render,
    "mistune, as nbconvert has it": mistune.create_markdown(
        escape=False, plugins=["strikethrough", "table", "url", "task_lists", "def_list"]
    ),
}
HOSTILE = [
    "```\n<img src=x onerror=alert(1)>\n```",
    "`````\n</code></pre><script>alert(1)</script>",
    "~~~\n<b>",
    "# x\n- [a](javascript:alert(1))",
    "1. a\n2) b\n---\n===",
    "<!-- ",
    "![x](http://evil/x.png) https://evil www.evil.org a@evil.org",
    "| a | b |\n|--|--|\n| <i> | ~~x~~ |",
    "&lt;b&gt; \\* $\\frac{1}{0}$ :smile: [x]: y",
    "\x1b[31mred\u202e\r\n    indented\u2028<b>",
    "- [ ] x",
    "a\n: b",
]
foreign_text = st.one_of(
    st.sampled_from(HOSTILE),
    st.lists(st.sampled_from([*"`~#-+*_<>[]()!|&:$\\ \n\r\t\"'=.1a", "```", "<b>", "http://"])).map("".join),
)


@pytest.mark.parametrize("render", RENDERERS.values(), ids=RENDERERS)
@examples(60)
@given(code=foreign_text, note=foreign_text)
@example(
    code="x = '''\n```\n<img src=x onerror=alert(1)>\n'''", note="The option <b>`x`</b>=1 is not written."
)
def test_a_script_on_a_page_is_only_code_and_text(render, code, note):
    bundle = Script(Path("train.py"), code, (note or "a",))._repr_mimebundle_()
    found = Tags(render(bundle["text/markdown"]))
    assert found.tags <= {"pre", "code", "ul", "li"}
    assert plain(code).strip("\n") in found.text
    assert " ".join(plain(note).split()) in " ".join(found.text.split())
    assert "\x1b" not in bundle["text/plain"]


@pytest.mark.parametrize("render", RENDERERS.values(), ids=RENDERERS)
@examples(60)
@given(text=foreign_text)
def test_text_stays_text_and_code_stays_code(render, text):
    heading = Tags(render(f"# {markdown(text)}\n\nbelow"))
    assert heading.tags <= {"h1", "p"} and heading.text.split() == [*plain(text).split(), "below"]
    block = Tags(render(f"{fenced(text)}\nbelow"))
    assert block.tags <= {"pre", "code", "p"} and block.text.endswith("below\n")


@pytest.mark.parametrize("render", RENDERERS.values(), ids=RENDERERS)
def test_an_ejected_run_from_elsewhere_draws_nothing_live(render, shell, tmp_path):
    live = "\n```\n<img src=x onerror=alert(1)>\n"
    run = begun(shell, f"{CELL}text = '''{live}'''\n")
    facts = json.loads((run.path / "run.json").read_text())
    facts["seen"]["changed"] += ["<img src=y>", "`z`"]
    facts["names"]["loss"] = "model); import os; os.abort("
    (run.path / "run.json").write_text(json.dumps(facts))
    chosen = {"<img src=y>": live, "`z`": live, "monitor": f"valid_loss{live}"}
    (run.path / "options.json").write_text(json.dumps(run.options | chosen))
    script = Run(run.path).eject()
    compile(script.text, "train.py", "exec")
    assert "os.abort" not in script.text
    found = Tags(render(script._repr_mimebundle_()["text/markdown"]))
    assert found.tags <= {"pre", "code", "ul", "li"} and "onerror=alert(1)" in found.text


def test_the_name_of_a_new_notebook_is_text(tmp_path):
    cells = json.loads(new_notebook(tmp_path / "a <b>name `x`").read_text())["cells"]
    render = RENDERERS["mistune, as nbconvert has it"]
    assert "b" not in Tags(render("".join(cells[0]["source"]))).tags
    assert "--name 'a <b>name `x`' " in "".join("".join(cell["source"]) for cell in cells)


def test_every_place_that_draws_is_known():
    "A new one belongs into a property test: here for Markdown, in test_panel.py for HTML"
    package = Path(trainopt_nb.__file__).parent
    drawn = {
        str(path.relative_to(package)): {
            kind for kind in ("markdown", "html") if f'"text/{kind}":' in path.read_text()
        }
        for path in package.rglob("*.py")
    }
    assert {name: kinds for name, kinds in drawn.items() if kinds} == {
        "script/write.py": {"markdown"},
        "runs/report.py": {"html"},
        "clean/report.py": {"html"},
        "compression/report.py": {"html"},
        "sweeps/report.py": {"html"},
        "runs/table.py": {"html"},
        "runs/comparison.py": {"html"},  # a table, whose cells `table_html` escapes
        "panels/form.py": {"html"},  # with a hostile line in test_saved.py
        "notebook/look_offers.py": {"html"},  # one sentence, escaped
        "notebook/waiting.py": {"html"},  # names of phases, escaped
        "panels/kept.py": {"html"},  # the state of a panel, in a test of its own
        "sweeps/sweep.py": {"html"},  # a table, whose cells `table_html` escapes
        "insight/lr_find.py": {"html"},
        "insight/results.py": {"html"},  # with hostile names in test_inspect.py
        "notebook/verb_help.py": {"html"},
    }


@posix
def test_a_terminal_gets_no_control_characters(shell, tmp_path, capsys):
    run = begun(shell)
    other = run.path.rename(run.path.with_name("2099-\x1b[2Jred\u202e\n1"))
    (other / "options.json").write_text(json.dumps(run.options | {"monitor": "\x1b[31m"}))
    begun(shell)
    assert (
        main(["runs"]) == 0 and main(["attach", "\x1b"]) == 0 and main(["resume", "nothing of the kind"]) == 1
    )
    shown = "".join(capsys.readouterr())
    assert "red" in shown and not set(shown) & {"\x1b", "\u202e"}


# shared memory

SMALL = """
import ctypes, os, subprocess, torch
user, group = os.getuid(), os.getgid()
assert ctypes.CDLL(None).unshare(0x10000000 | 0x00020000) == 0  # CLONE_NEWUSER | CLONE_NEWNS
for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
    with open(f"/proc/self/{name}", "w") as file:
        file.write(text)
subprocess.run("mount -t tmpfs -o size=5m tmpfs /dev/shm".split(), check=True)
from torch import nn
from torch.utils.data import Dataset
from trainopt_nb import fit

class Images(Dataset):
    def __len__(self):
        return 96
    def __getitem__(self, i):
        return torch.full((3, 64, 64), float(i)), i % 2

net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
run = fit(net, Images(), epochs=1, batch_size=32, workers=4, device="cpu")
print(run.state, *[note.text for note in run.progress.notes])
"""


def test_a_container_with_little_shared_memory_gets_fewer_workers(disk_path):
    "Four workers need 14 MB here and there are 5: one loads the data, and the run ends well"
    mount = "unshare -Urm mount -t tmpfs -o size=5m tmpfs /dev/shm"
    if subprocess.run(mount.split(), capture_output=True).returncode:
        pytest.skip("this user may not make a mount namespace")
    (disk_path / "small.py").write_text(SMALL)  # `tmp_path` is in the memory that is hidden here
    done = execute("small.py", folder=disk_path)
    assert done.returncode == 0, done.stderr
    assert "finished" in done.stdout and "4 workers for train_data need up to 14 MB" in done.stdout
    assert "1 worker loads it" in done.stdout


def images(**loader):
    return DataLoader(TensorDataset(torch.zeros(64, 3, 32, 32), torch.arange(64) % 2), 32, **loader)


@pytest.mark.parametrize(
    "room, workers", [(10**9, 3), (3_000_000, 3), (2_500_000, 2), (1_300_000, 1), (300_000, 0)]
)
@pytest.mark.parametrize("kind", ["default order", "sampler of its own"])
def test_as_many_workers_as_fit(monkeypatch, room, workers, kind):
    monkeypatch.setattr(shared_memory, "shared_room", lambda: room)
    more = {"sampler": torch.utils.data.RandomSampler(range(64), replacement=True)} if "own" in kind else {}
    mine = images(num_workers=3, timeout=30, **more)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    data = open_data(mine)
    assert torch.equal(before, torch.get_rng_state())
    assert shared_memory._loader_of(data.train).num_workers == workers and mine.num_workers == 3
    assert len(data.notes) == (workers < 3)
    if workers < 2:
        assert sum(len(y) for _, y in data.train.epoch(0)) == 64


def test_several_ranks_share_the_memory(monkeypatch):
    monkeypatch.setattr(shared_memory, "shared_room", lambda: 3_000_000)
    data = open_data(images(num_workers=3), data_shard=(0, 2))
    assert shared_memory._loader_of(data.train).num_workers == 1
