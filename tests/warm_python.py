"""
Start Python programs from a warm process, which has imported torch, IPython, this package and whatever else takes long

`subprocess.run(python("-c", code))` runs a program that starts in a tenth of a second instead of four: a fork of the warm process, which takes
over the command's open files, folder and environment. Processes of `multiprocessing` that are not forked start in the same way, here and in
the program. Use `[sys.executable, "-c", code]` where the start of a process is what is tested.
"""

import fcntl
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from contextlib import suppress

HUGE, COLLAPSE = 2 << 20, 25  # the size of a huge page, and MADV_COLLAPSE of Linux 6.1
PLACE = "TRAINOPT_TEST_WARM"  # environment variable: where the warm process listens
PRELOADED = """torch torch._dynamo torch.utils.data torchmetrics.classification numpy pandas sklearn.datasets
matplotlib.pyplot matplotlib_inline.backend_inline IPython.core.interactiveshell IPython.terminal.ipapp
IPython.core.magics.execution IPython.core.oinspect IPython.core.logger zmq tornado jupyter_client nbformat nbclient nbconvert papermill cloudpickle nbdev.test
safetensors.torch optuna.importance torch._functorch.aot_autograd torch.export torch.onnx._internal.exporter._compat
onnxscript.function_libs.torch_lib.ops torch_pruning torch.distributed.pipelining
torch._inductor.fx_passes.dedupe_symint_uses torch._functorch._aot_autograd.subclass_parametrization""".split()  # not ipykernel, of which several are tested; not ipywidgets, which tells
# the kernel that imports it how to bring widgets back to a page that is loaded again
PACKAGE = "trainopt_nb"
PACKAGE_PARTS = (
    "notebook.magics",
    "sweeps.trial_workers",
    "sweeps.run_sweep",
    "compression.compressed_run",
    "compression.to_onnx",
)  # what most programs come to import


# the tests


def python(
    *words: str,  # arguments for Python: a file, `-m module` or `-c code`, and what the program itself takes
) -> list[str]:  # for `subprocess`
    "The command that starts a program from the warm process of this process"
    if PLACE not in os.environ:
        os.environ[PLACE] = start()
        start_processes_warm()
    return [os.environ[PLACE] + "/python", *map(str, words)]


def run_warm(
    words: list[str],  # as for `python`
    cwd,  # folder that the program runs in
    env: dict[str, str],
    timeout: float = 600,  # seconds after which the program is killed; raises `TimeoutError`
    watch=None,  # function that is called with the program's process id, 20 times a second while it runs
):  # what `subprocess.run` returns, with its texts
    "Run a program from the warm process, and no process that stands for it, which would take a third of a short program's time"
    import subprocess

    folder = os.path.dirname(python()[0])
    command = {
        "words": [*map(str, words)],
        "cwd": str(cwd),
        "env": {**env, PLACE: folder},
        "files": [0, 1, 2],
    }
    with (
        open(os.devnull) as nothing,
        open(os.memfd_create("out"), "w+") as out,
        open(os.memfd_create("err"), "w+") as err,
        socket.socket(socket.AF_UNIX) as connection,
    ):
        connection.settimeout(timeout)
        connection.connect(f"{folder}/socket")
        send(connection, command, [file.fileno() for file in (nothing, out, err)])
        (pid,) = struct.unpack("i", connection.recv(4))
        end = time.monotonic() + timeout
        while watch and not select.select([connection], [], [], 0.05)[0]:
            watch(pid)
            if time.monotonic() > end:
                raise TimeoutError(f"not within {timeout} s")
        (code,) = struct.unpack("i", connection.recv(4))
        out.seek(0), err.seek(0)
        return subprocess.CompletedProcess(words, code, out.read(), err.read())


def start_processes_warm():
    import multiprocessing

    multiprocessing.set_executable(os.environ[PLACE] + "/python")


def start():
    "Start a warm process that ends with this one; returns its folder, where `python` asks it and `socket` is where it listens"
    import subprocess
    import tempfile

    folder = tempfile.mkdtemp(prefix="trainopt-warm-")
    with open(f"{folder}/python", "w") as file, open(__file__) as source:
        file.write(f"#!{sys.executable} -IS\n{source.read()}")
    os.chmod(file.name, 0o700)
    cold = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, __file__, "serve", folder], env=cold, stdin=pipe, stdout=pipe)
    assert process.stdout.readline(), "the warm process did not start"
    start.process = process  # its standard input closes with this process, which ends it
    return folder


# between them: a small process that stands for the program


def inherited():
    "Open files that the parent of this process wants it to have"
    for number in map(int, os.listdir("/dev/fd")):
        with suppress(OSError):
            if os.get_inheritable(number):
                yield number


def send(connection, command, files):
    data = json.dumps(command).encode()
    socket.send_fds(connection, [struct.pack("i", len(data))], files)
    connection.sendall(data)


def ask(folder):
    "Have the warm process run the command line of this process, and end as the program does"
    words, files = sys.argv[1:], sorted(inherited())
    while words[0][:1] == "-" and words[0] not in ("-c", "-m"):  # flags of the interpreter
        del words[: 2 if words[0] in ("-W", "-X") else 1]
    command = {"words": words, "cwd": os.getcwd(), "env": dict(os.environ), "files": files}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"{folder}/socket")
        signal.signal(
            signal.SIGINT, lambda signum, _: os.killpg(pid, signum)
        )  # as from a terminal or JupyterLab
        signal.signal(signal.SIGTERM, lambda signum, _: os.kill(pid, signum))
        send(connection, command, files)
        (pid,) = struct.unpack("i", connection.recv(4))
        answer = connection.recv(4)
    code = struct.unpack("i", answer)[0] if answer else 1
    if code < 0:  # killed by a signal
        with suppress(OSError):  # SIGKILL takes no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


# the warm process


def serve(folder):
    "Fork a child for each command; answer with its process id, and its exit code when it ends"
    import gc
    import importlib
    import shutil

    gc.disable()  # nothing of what is imported is garbage
    for name in PRELOADED:
        importlib.import_module(name)
    package = import_package()
    read_operators(package.modules[f"{PACKAGE}.compression.to_onnx"])
    find_backends()
    forget_ends()
    gc.enable()
    gc.freeze()  # what is never looked at by the garbage collector stays shared with the children
    use_huge_pages()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{folder}/socket")
    listener.listen(64)
    woken, wake = socket.socketpair()
    woken.setblocking(False)
    wake.setblocking(False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    os.write(1, b"ready\n")
    children = {}  # process id -> connection to the process that stands for it
    while True:
        ready, _, _ = select.select([0, listener, woken, *children.values()], [], [])
        if 0 in ready:  # the tests have ended
            return shutil.rmtree(folder)
        if woken in ready:
            woken.recv(4096)
        for pid in [pid for pid, connection in children.items() if connection in ready]:
            with suppress(ProcessLookupError):  # the process that stands for it was killed
                os.kill(pid, signal.SIGKILL)
        while children and (ended := os.waitpid(-1, os.WNOHANG))[0]:
            with suppress(OSError), children.pop(ended[0]) as connection:
                connection.sendall(struct.pack("i", os.waitstatus_to_exitcode(ended[1])))
        if listener in ready:
            connection, _ = listener.accept()
            try:
                command, files = receive(connection)
            except (OSError, EOFError, ValueError):  # the process that asks was killed before it had asked
                connection.close()
                continue
            if (pid := os.fork()) == 0:
                signal.set_wakeup_fd(-1)
                for each in (listener, woken, wake, connection, *children.values()):
                    each.close()
                sys.meta_path.insert(0, package)
                return run(command, files)
            for file in files:
                os.close(file)
            children[pid] = connection
            with suppress(OSError):  # killed since then: its connection is closed, which ends the child
                connection.sendall(struct.pack("i", pid))


class Ready:
    "Gives a program that imports the package the modules of the warm process, if it would find the same package"

    def __init__(self, modules):
        self.modules, self.spec = modules, modules[PACKAGE].__spec__

    def find_spec(self, name, path=None, target=None):
        if name != PACKAGE:
            return None
        others = (finder.find_spec(name, path) for finder in sys.meta_path if finder is not self)
        found = next(filter(None, others), None)
        if found is not None and found.origin == self.spec.origin:
            found.loader = self
        return found

    def create_module(self, spec):
        return self.modules[PACKAGE]

    def exec_module(self, module):
        module.__spec__ = self.spec
        sys.modules.update(self.modules)


def import_package():
    "Import the package that is tested, and take it out of the imported modules, so that programs without it have no trace of it"
    import importlib

    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sys.path.insert(0, root)
    for part in PACKAGE_PARTS:
        importlib.import_module(f"{PACKAGE}.{part}")
    sys.path.remove(root)
    ours = [name for name in sys.modules if name.partition(".")[0] == PACKAGE]
    return Ready({name: sys.modules.pop(name) for name in ours})


def read_operators(to_onnx):
    "Have PyTorch read which operators it can write in ONNX, as it does once a process at the first export"
    import logging

    from torch.onnx._internal.exporter import _compat, _registration

    logging.disable(logging.WARNING)
    to_onnx.remember_operators()
    _registration.ONNXRegistry.from_torchlib(opset_version=_compat.onnx_constants.ONNX_DEFAULT_OPSET)
    logging.disable(logging.NOTSET)


def find_backends():
    "Have matplotlib look through all that is installed, as it does once a process when IPython begins"
    from matplotlib.backends import backend_registry

    backend_registry.list_all()


def use_huge_pages():
    """
    Have Linux keep what is in memory in pages of 2 MB, so that a fork copies a hundredth of the entries: it takes a third of the time

    What a child changes is copied in pages of 4 KB as before. A system that cannot do it leaves everything as it is.
    """
    import ctypes

    with suppress(OSError), open("/proc/self/maps") as maps:
        lines = [line.split() for line in maps]
        anonymous = [words for words in lines if len(words) == 5 or words[5] == "[heap]"]
        madvise = ctypes.CDLL(None).madvise
        for place in (words[0] for words in anonymous if words[1].startswith("rw")):
            begin, end = (int(number, 16) for number in place.split("-"))
            for page in range(-(-begin // HUGE) * HUGE, end // HUGE * HUGE, HUGE):
                madvise(ctypes.c_void_p(page), ctypes.c_size_t(HUGE), COLLAPSE)


def forget_ends():
    "Leave out what imported modules do at the end of a process: PyTorch takes its libraries apart, which takes longer than the fork"
    import atexit
    import weakref

    from torch._dynamo.utils import dump_compile_times

    atexit.unregister(dump_compile_times)
    for each in list(weakref.finalize._registry):  # those that a program makes itself still run
        each.atexit = False


def receive(connection):
    "A command and its open files; raises `EOFError` where not all of it comes within ten seconds"
    connection.settimeout(10)
    header, files, _, _ = socket.recv_fds(connection, 4, 200)
    try:
        if len(header) < 4:
            raise EOFError
        (size,) = struct.unpack("i", header)
        with connection.makefile("rb") as stream:
            data = stream.read(size)
        if len(data) < size:
            raise EOFError
        connection.settimeout(None)
        return json.loads(data), files
    except (OSError, EOFError, ValueError):
        for file in files:
            os.close(file)
        raise


def run(command, files):
    "Run a program in a forked child and end it as Python does, but for taking all modules apart, which takes seconds"
    import atexit
    import threading

    code = 0
    try:
        become(command, files)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if code and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except BaseException:
        code = 1
        sys.excepthook(*sys.exc_info())
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def become(command, files):
    "Turn a forked child into the program"
    import runpy
    import tempfile
    import types
    from multiprocessing import process

    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    aside = [
        fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 300) for file in files
    ]  # above any number that is wanted
    os.closerange(3, 300)
    for file, number in zip(aside, command["files"], strict=True):
        os.dup2(file, number)
        os.close(file)
    os.chdir(command["cwd"])
    os.environ.clear()
    os.environ.update(command["env"])
    tempfile.tempdir = None  # where the program's TMPDIR says, and not the warm process's
    os.environ["JPY_PARENT_PID"] = str(os.getppid())  # a kernel looks whether its parent is there
    start_processes_warm()
    process.ORIGINAL_DIR = os.getcwd()  # from which multiprocessing finds the main script again
    how, *words = command["words"]
    more = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    sys.path[:] = [{"-c": "", "-m": os.getcwd()}.get(how, os.path.dirname(how)), *more, *sys.path[1:]]
    sys.argv[:] = ["-c", *words[1:]] if how == "-c" else words if how == "-m" else [how, *words]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    if how == "-m":
        runpy._run_module_as_main(words[0])
    elif how == "-c":
        exec(compile(words[0], "<string>", "exec"), main.__dict__)
    else:
        main.__file__ = how
        with open(how, "rb") as script:
            exec(compile(script.read(), how, "exec"), main.__dict__)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2])
    else:
        ask(os.environ[PLACE])
