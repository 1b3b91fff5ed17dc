"The warm process from which the tests start their programs"

import json
import os
import socket
import struct
import subprocess
import threading
from pathlib import Path

import pytest
from helpers import alive, assert_still, until
from machine import Machine
from warm_python import PLACE, python, run_warm

COMMAND = json.dumps(
    {"words": ["-c", "import time; time.sleep(60)"], "cwd": "/", "env": {}, "files": []}
).encode()
ROOT = Path(__file__).parents[1]
SIZE = struct.pack("i", len(COMMAND))


@pytest.mark.parametrize("sent", [b"", SIZE[:2], SIZE, SIZE + COMMAND[:20], SIZE + COMMAND], ids=len)
def test_it_outlives_those_that_are_killed_while_they_ask(sent):
    command = python("-c", "print('here')")
    for _ in range(20):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(f"{os.environ[PLACE]}/socket")
            connection.sendall(sent)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "here\n", done.stderr


def test_a_program_gets_the_package_that_it_would_find(tmp_path):
    "That of the warm process or another one, and none where it imports none"
    other = tmp_path / "trainopt_nb/__init__.py"
    other.parent.mkdir()
    other.touch()
    code = (
        "import sys; before = {n for n in sys.modules if n.startswith('trainopt_nb')}; import trainopt_nb; "
        "print(len(before), 'trainopt_nb.runs.run' in sys.modules, trainopt_nb.__file__)"
    )
    command = python("-c", code)
    for root, ours in ((ROOT, True), (tmp_path, False)):
        own = {**os.environ, "PYTHONPATH": str(root)}
        done = subprocess.run(command, cwd="/", env=own, capture_output=True, text=True, timeout=60)
        assert done.stdout == f"0 {ours} {root}/trainopt_nb/__init__.py\n", done.stderr


def test_a_program_has_its_own_folder_for_temporary_files(tmp_path):
    command = python("-c", "import tempfile; print(tempfile.gettempdir())")
    own = {**os.environ, "TMPDIR": str(tmp_path)}
    assert subprocess.run(command, env=own, capture_output=True, text=True).stdout == f"{tmp_path}\n"


def test_a_program_that_no_process_stands_for_has_its_own_texts_and_end(tmp_path):
    code = "import os, sys; print(os.getcwd(), os.environ['A'], 'HOME' in os.environ, sys.stdin.read()); sys.exit('failed')"
    done = run_warm(["-c", code], tmp_path, {"A": "b"})
    assert done.returncode == 1 and done.stderr == "failed\n"
    assert done.stdout == f"{tmp_path} b False \n"
    done = run_warm(["-c", "import os; os.kill(os.getpid(), 9)"], tmp_path, {})
    assert done.returncode == -9
    code = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    begun = tmp_path / "pid"
    for seconds in (2, 20):
        if not (begun.exists() and begun.read_text()):  # a busy machine may take longer until it begins
            with pytest.raises(TimeoutError):
                run_warm(["-c", code], tmp_path, {}, timeout=seconds)
    until(lambda: not alive(int(begun.read_text())), "the end of the program")


def test_what_a_program_leaves_for_its_end_is_done_and_nothing_of_pytorch(tmp_path):
    "Its own functions and temporary folders; taking PyTorch's libraries apart would take longer than all else"
    code = (
        "import atexit, tempfile, torch, weakref\n"
        f"folder = tempfile.TemporaryDirectory(dir={str(tmp_path)!r})\n"
        "atexit.register(print, 'function')\n"
        "class Held: pass\n"
        "held = Held()\n"
        "weakref.finalize(held, print, 'object')\n"
        "torch.library._del_library = torch._dynamo.utils.compile_times = lambda *a, **k: print('PyTorch')\n"
        "for each in weakref.finalize._registry.values():\n"
        "    if each.func.__module__ == 'torch.library': each.func = torch.library._del_library\n"
    )
    done = subprocess.run(python("-c", code), capture_output=True, text=True, timeout=60)
    assert sorted(done.stdout.split()) == ["function", "object"], done.stderr
    assert not list(tmp_path.iterdir())


def test_a_long_program_stands_still_while_another_process_has_the_machine_alone(tmp_path):
    mine, other, count = Machine(tmp_path), Machine(tmp_path), tmp_path / "count"
    code = (
        "import time; from pathlib import Path; count = 0\n"
        "while not Path('end').exists():\n"
        "    count += 1; Path('new').write_text(str(count)); Path('new').rename('count'); time.sleep(0.005)\n"
    )

    def measure():
        until(count.exists, "the program")
        other.enter(alone=True)
        assert_still(count.read_text, 0.2)
        still = count.read_text()
        other.leave()
        until(lambda: count.read_text() != still, "the program going on")
        Path(tmp_path, "end").touch()

    mine.enter(alone=False)
    thread = threading.Thread(target=measure)
    thread.start()
    done = run_warm(["-c", code], tmp_path, dict(os.environ), 60, watch=mine.give_way)
    thread.join()
    assert done.returncode == 0 and Path(tmp_path, "end").exists(), done.stderr
