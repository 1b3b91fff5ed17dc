"What the tests of other processes share: waiting for something that is to happen, and who is there"

import time

import psutil


def until(check, what, seconds=30):
    "The first true answer of `check`"
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := check():
            return found
        time.sleep(0.01)
    raise AssertionError(f"not within {seconds} s: {what}")


def alive(pid):
    "Whether a process is there; one that ended and was not asked for its exit code is not"
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def ranks_of(run):
    "Processes of the ranks that began last, as the supervisor wrote them into the log"
    log = run.path / "log.txt"
    lines = until(lambda: [x for x in log.read_text().splitlines() if x.startswith("ranks ")], "ranks")
    return [int(pid) for pid in lines[-1].removeprefix("ranks ").split(", ")]
