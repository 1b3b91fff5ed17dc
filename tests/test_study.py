"The study of a sweep: a journal that survives what kills its writers, leases of trials, and several processes that carry one study"

import ast
import errno
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import optuna
import pytest
from helpers import some_quick, until
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import TrialState
from warm_python import python

from trainopt_nb.base.errors import OptionError, RunError
from trainopt_nb.search import journal_lock, leased_study, leases, study_journal
from trainopt_nb.search.journal_lock import JournalLock
from trainopt_nb.search.leased_study import LeasedStudy
from trainopt_nb.search.quiet_optuna import quiet_optuna
from trainopt_nb.search.study_journal import StudyJournal
from trainopt_nb.search.study_record import StudyRecord, check_joined, read_record
from trainopt_nb.search.study_storage import (
    join_study,
    open_study,
    patiently,
    settle,
    storage_notes,
    study_errors,
)

RANGE = optuna.distributions.FloatDistribution(0, 1)
COMPLETE, FAIL, PRUNED, RUNNING, WAITING = (
    TrialState[s] for s in "COMPLETE FAIL PRUNED RUNNING WAITING".split()
)


@pytest.fixture
def folder(tmp_path):
    return tmp_path


def opened(folder, **how):
    return open_study("", "digits", ["maximize"], folder=folder, **how)


def replace(path, data):
    "Write a new file: one that is overwritten is forced to the disk by ext4"
    path.unlink()
    path.write_bytes(data)


def plain(path):
    "The same study, opened by Optuna alone"
    return optuna.load_study(study_name="digits", storage=JournalStorage(JournalFileBackend(str(path))))


def add(study, x):
    "A trial whose value is its parameter, so that mixed trials show"
    study.enqueue_trial({"x": x})
    trial = study.ask({"x": RANGE})
    trial.report(x, 1)
    study.tell(trial, x)


def whole(study):
    "Values of the trials that are complete, each of which is its own parameter"
    done = [t for t in study.trials if t.state == COMPLETE]
    assert all(t.params.get("x", t.value) == t.value for t in done)
    return [t.value for t in done]


# --- the journal


def finished(storage):
    "Number, parameters and value of the trials that have ended"
    trials = storage.get_all_trials(0, deepcopy=False)
    return [(t.number, t.params, t.value) for t in trials if t.state.is_finished()]


def test_a_journal_cut_at_any_byte_opens_and_goes_on(folder):
    study = opened(folder)
    for x in (0.125, 0.25, 0.5):
        add(study, x)
    path = folder / "study.log"
    data = path.read_bytes()
    all_three = finished(study._storage)
    ends = [n + 1 for n, byte in enumerate(data) if byte == 10]
    for size in range(ends[-4], len(data) + 1):
        replace(path, data[:size])
        journal = StudyJournal(path)
        storage = JournalStorage(journal)
        assert finished(storage) == all_three[: 3 if size == len(data) else 2]
        assert path.stat().st_size == max(end for end in ends if end <= size)
        assert len(journal.notes) == (size not in ends)
        trial = storage.create_new_trial(0)
        storage.set_trial_param(trial, "x", 0.75, RANGE)
        assert storage.get_trial(trial).number == 3
        for backend in (StudyJournal(path), JournalFileBackend(str(path))):
            found = JournalStorage(backend).get_all_trials(0, deepcopy=False)
            assert found == storage.get_all_trials(0, deepcopy=False)


@pytest.mark.parametrize("what", [b"\0", b"\xff", b"{"])
@pytest.mark.parametrize("with_its_end", [False, True])
def test_a_damaged_record_costs_itself_alone(folder, what, with_its_end):
    study = opened(folder)
    for n in range(4):
        add(study, n / 8)
    path = folder / "study.log"
    data = path.read_bytes()
    lines = data.splitlines(keepends=True)
    begin = len(lines[0])
    for line in lines[1:]:
        end = begin + len(line)
        cut = end if with_its_end else end - 1
        replace(path, data[:begin] + what * (cut - begin) + data[cut:])
        again = opened(folder)
        assert len(again.trials) >= 3 and len(set(whole(again)) - {0, 1 / 8, 1 / 4, 3 / 8}) == 0
        assert len(whole(again)) >= 3
        add(again, 0.5)
        assert whole(opened(folder)) == whole(plain(path)) == whole(again)
        assert len(storage_notes(again)) == 1
        begin = end


def test_what_waits_to_be_written_is_read_here_at_once_and_elsewhere_when_it_is_written(folder):
    here, there = opened(folder), opened(folder)
    trial = here.ask({"x": RANGE})
    with patiently(here):
        trial.report(0.25, 1)
        trial.set_user_attr("note", [1, 2])
    add(there, 0.5)
    assert here.trials[0].intermediate_values == {1: 0.25} and here.trials[1].value == 0.5
    assert there.trials[0].intermediate_values == {} == there.trials[0].user_attrs
    settle(here, after=60.0)  # it has not waited so long
    assert there.trials[0].intermediate_values == {}
    settle(here, 0.0)
    assert there.trials == here.trials == plain(folder / "study.log").trials
    assert there.trials[0].intermediate_values == {1: 0.25}


@pytest.mark.parametrize("seed", range(5))
def test_records_that_wait_leave_every_reader_with_the_same_study(folder, seed):
    draw, studies = random.Random(seed), [opened(folder) for _ in range(3)]
    running = {n: [] for n in range(3)}
    for step in range(150):
        n = draw.randrange(3)
        study, mine = studies[n], running[n]
        kind = draw.choice(["ask", "note", "note", "note", "tell", "settle", "look"])
        if kind == "ask":
            trial = study.ask()
            with patiently(study):
                trial.suggest_float("x", 0, 1)
            mine.append(trial)
        elif kind == "note" and mine:
            with patiently(study):
                draw.choice(mine).report(draw.random(), step)
        elif kind == "tell" and mine:
            study.tell(mine.pop(draw.randrange(len(mine))), draw.random())
        elif kind == "settle":
            settle(study, draw.choice([0.0, 60.0]))
        else:
            assert all(len(t.params) for t in study.trials if t.state == COMPLETE)
    for study in studies:
        settle(study, 0.0)
    assert studies[0].trials == studies[1].trials == studies[2].trials == plain(folder / "study.log").trials
    assert sum(len(trial.intermediate_values) for trial in studies[0].trials) > 20


def test_what_waits_survives_a_disk_that_was_full(folder, monkeypatch):
    study, real = opened(folder), study_journal._write
    trial = study.ask({"x": RANGE})
    with patiently(study):
        trial.report(0.25, 1)

    def full(file, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(study_journal, "_write", full)
    with pytest.raises(RunError):
        study.tell(trial, 0.5)
    with pytest.raises(RunError):
        settle(study, 0.0)
    assert plain(folder / "study.log").trials[0].state == RUNNING == study.trials[0].state
    monkeypatch.setattr(study_journal, "_write", real)
    study.tell(trial, 0.5)
    assert study.trials == plain(folder / "study.log").trials
    assert study.trials[0].intermediate_values == {1: 0.25}


def test_ends_of_trials_are_forced_to_the_disk_where_the_loop_has_time(folder, monkeypatch):
    study, forced, now, start = opened(folder), [], [0.0], time.monotonic()
    monkeypatch.setattr(study_journal.time, "monotonic", lambda: start + now[0])
    monkeypatch.setattr(study_journal.os, "fsync", lambda file: forced.append(now[0]))
    for now[0] in (200.0, 200.1, 200.2):
        add(study, 0.5)
    for now[0] in (200.9, 201.1, 201.2, 300.0):
        settle(study, 0.0)
    assert forced == [200.0, 201.1]
    for now[0] in (301.0, 301.5, 302.6):  # nobody settles
        add(study, 0.5)
    assert forced[2:] == [301.0, 302.6]


def test_a_journal_without_its_beginning_is_not_taken_for_a_new_one(folder):
    add(opened(folder), 0.5)
    path = folder / "study.log"
    data = path.read_bytes()
    path.write_bytes(b"\0" * (data.index(b"\n")) + data[data.index(b"\n") :])
    before = path.read_bytes()
    with pytest.raises(RunError, match="where its study began: restore it from a backup"):
        opened(folder)
    assert path.read_bytes() == before


def test_what_optuna_wrote_behind_a_part_of_a_record_counts(folder):
    path = folder / "study.log"
    add(opened(folder), 0.5)
    other = plain(path)
    with path.open("ab") as file:
        file.write(b'{"op_code":5,"worker_id":"killed","trial_id":0,"par')
    other.set_user_attr("by", "plain Optuna")
    again = opened(folder)
    assert again.user_attrs == {"by": "plain Optuna"} and whole(again) == [0.5]
    assert plain(path).user_attrs == {"by": "plain Optuna"}


def test_a_disk_that_is_full_loses_nothing(folder):
    study = opened(folder)
    add(study, 0.5)
    path = folder / "study.log"
    size, (soft, hard) = path.stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))
    try:
        with pytest.raises(RunError, match=r"study.log cannot be written: File too large"):
            study.ask()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    assert path.stat().st_size == size
    add(study, 0.25)
    assert whole(opened(folder)) == whole(study) == [0.5, 0.25] and storage_notes(study) == []


def test_a_journal_that_was_removed_or_replaced_is_said(folder):
    study = opened(folder)
    add(study, 0.5)
    path = folder / "study.log"
    kept = path.read_bytes()
    path.write_bytes(kept[: kept.index(b"\n") + 1])
    with pytest.raises(RunError, match="replaced or shortened by another program: open the study again"):
        study.ask()
    path.unlink()
    with pytest.raises(RunError, match="cannot be written: No such file"):
        study.ask()
    assert not path.exists()


WRITES = """
import sys, optuna
from trainopt_nb.search.study_storage import open_study
from pathlib import Path
study = open_study("", "digits", ["maximize"], folder=Path(sys.argv[1]))
while True:
    trial = study.ask()
    x = trial.suggest_float("x", 0, 1)
    trial.report(x, 1)
    study.tell(trial, x)
    print(trial.number, x, flush=True)
"""


def test_killed_writers_lose_no_trial_that_had_ended(folder):
    path, told = folder / "study.log", {}
    for n in range(4):
        writer = subprocess.Popen(python("-c", WRITES, folder), stdout=subprocess.PIPE, text=True)
        lines = [writer.stdout.readline()]
        time.sleep(0.017 * n)
        writer.kill()
        lines += writer.communicate()[0].splitlines(keepends=True)
        told.update((int(a), float(b)) for a, b in (line.split() for line in lines if line.endswith("\n")))
    assert len(told) >= 4
    for study in (opened(folder), plain(path)):
        assert {t.number: t.value for t in study.trials if t.number in told} == told


# --- the lock


def test_a_killed_process_keeps_nobody_waiting(folder):
    path = folder / "study.log"
    opened(folder)
    code = "import sys, time\nfrom pathlib import Path\nfrom trainopt_nb.search.journal_lock import JournalLock\nwith JournalLock(Path(sys.argv[1])).held():\n    print(1, flush=True)\n    time.sleep(60)"
    holder = subprocess.Popen(python("-c", code, path), stdout=subprocess.PIPE)
    holder.stdout.readline()
    blocked = subprocess.Popen(python("-c", WRITES, folder), stdout=subprocess.PIPE)
    assert path.with_name("study.log.lock").is_symlink()
    holder.kill(), holder.wait()
    began = time.monotonic()
    blocked.stdout.readline()
    add(opened(folder), 0.5)
    assert time.monotonic() - began < 10  # Optuna gives a lock that was left behind 30 seconds
    blocked.kill(), blocked.wait()


def test_plain_optuna_and_we_wait_for_each_other(folder):
    path = folder / "study.log"
    study, theirs, done = opened(folder), JournalFileSymlinkLock(str(folder / "study.log")), []
    theirs.acquire()
    ours = threading.Thread(target=lambda: (add(study, 0.5), done.append("ours")))
    ours.start()
    time.sleep(0.2)
    assert done == []
    theirs.release()
    ours.join()
    with JournalLock(path).held():
        other = threading.Thread(target=lambda: (theirs.acquire(), done.append("theirs"), theirs.release()))
        other.start()
        time.sleep(0.2)
        assert done == ["ours"]
    other.join()
    assert done == ["ours", "theirs"] and sorted(os.listdir(folder)) == [".study.log", "study.log"]


def test_a_stopped_process_with_the_lock_is_said(folder, monkeypatch):
    monkeypatch.setattr(journal_lock, "PATIENCE", 0.3)
    study = opened(folder)
    with (
        JournalLock(folder / "study.log").held(),
        pytest.raises(RunError, match="has been locked by another process"),
    ):
        study.ask()


# --- opening and joining


@pytest.mark.parametrize(
    "storage, error, said",
    [
        ("postgresql://me:secret@127.0.0.1:1/sweeps", (RunError, OptionError), "cannot be used|needs psycopg"),
        ("postgers://me:secret@host/sweeps", OptionError, "is not the URL of a database, such as"),
        ("postgresql://host:port/x", OptionError, "is not the URL of a database"),
        ("nosuch+driver://me:secret@host/x", OptionError, "is not the URL of a database"),
        ("mysql://me:secret@host/x", OptionError, "needs MySQLdb, which is not installed: pip install 'mysqlclient', or conda"),
        ("mysql+nosuchdriver://me:secret@host/x", OptionError, "is not the URL of a database"),
        ("sqlite:////nosuch/directory/x.db", RunError, "check that its directory exists"),
        ("redis://:secret@127.0.0.1:1/0", (RunError, OptionError), "needs redis, which is not installed: pip install 'redis'|cannot be used"),
        ("/nosuch/directory/study.log", OptionError, "There is no directory /nosuch/directory"),
    ],
)  # fmt: skip
def test_a_storage_that_cannot_be_used_is_one_sentence(folder, storage, error, said):
    with pytest.raises(error, match=said) as raised:
        open_study(storage, "digits", ["maximize"], folder=folder)
    assert "secret" not in str(raised.value) and "\n" not in str(raised.value)


def test_joining_needs_the_same_objectives_and_a_study(folder, capsys):
    for path in (folder / "study.log", folder):
        with pytest.raises(OptionError, match="There is no journal"):
            join_study(path)
    assert os.listdir(folder) == []
    StudyJournal(folder / "study.log")
    with pytest.raises(OptionError, match="There is no study in this storage yet"):
        join_study(str(folder))
    add(opened(folder), 0.5)
    assert whole(join_study(str(folder))) == whole(join_study(str(folder / "study.log"), "digits")) == [0.5]
    with pytest.raises(
        OptionError, match=r"1 objective .maximize., and this sweep has 1 objective .minimize."
    ):
        open_study("", "digits", ["minimize"], folder=folder)
    with pytest.raises(OptionError, match=r"no study 'digitz' in this storage. Did you mean 'digits'"):
        join_study(str(folder), "digitz")
    open_study(str(folder), "letters", ["minimize"], folder=Path("/"))
    with pytest.raises(OptionError, match="There are 2 studies in this storage: name one of digits, letters"):
        join_study(str(folder))
    assert capsys.readouterr() == ("", "")


def test_a_study_of_plain_optuna_is_joined_where_its_parameters_fit(folder):
    from trainopt_nb.base.options import Dimension
    from trainopt_nb.search.space import Space

    study = opened(folder)
    assert read_record(study) is None
    study.ask({"x": RANGE})
    with pytest.raises(OptionError, match=r"Trial 0 of the study has another kind of x than a[|]b"):
        check_joined(study, StudyRecord(Space({"x": Dimension("choice", choices=("a", "b"))}), ("accuracy",)))
    mine = StudyRecord(Space({"x": Dimension("float", 0, 2)}), ("accuracy",))
    assert check_joined(study, mine) == mine == read_record(opened(folder))


CARRY = """
def carry(storage, trials):
    from trainopt_nb.search.leased_study import LeasedStudy
    from trainopt_nb.search.study_storage import join_study

    leased, had = LeasedStudy(join_study(storage)), {}
    yield
    for _ in range(trials):
        trial = leased.ask()
        had[trial.number] = trial.suggest_float("x", 0, 1)
        leased.tell(trial.number, had[trial.number])
    leased.end()
    yield had
"""
RECOVER = """
def recover(storage):
    from trainopt_nb.search.leased_study import LeasedStudy
    from trainopt_nb.search.study_storage import join_study

    leased = LeasedStudy(join_study(storage))
    yield
    yield [each.number for each in leased.recover()]
"""
AS_A_PROGRAM = """
import sys
steps = {call}
next(steps), print("ready", flush=True)
sys.stdin.readline(), print(repr(next(steps)), flush=True)
sys.stdin.readline()
"""


def in_two_processes(code, call):
    "What a function returns in this process and in another one, which begin at once"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    other = subprocess.Popen(python("-c", code + AS_A_PROGRAM.format(call=call)), **pipes)
    names = {}
    exec(code, names)
    steps = eval(call, names)
    next(steps)
    assert other.stdout.readline() == "ready\n"
    other.stdin.write("\n"), other.stdin.flush()
    here = next(steps)
    there = ast.literal_eval(other.stdout.readline())
    other.communicate("\n")
    return here, there


def check_carried(storage, trials):
    "Two processes carry one study: no trial is taken twice, and everyone sees all"
    study = join_study(storage)
    queued = [n / 100 for n in range(trials)]
    for x in queued:
        study.enqueue_trial({"x": x})
    one, two = in_two_processes(CARRY, f"carry({storage!r}, {trials})")
    assert len(one) == len(two) == trials and not set(one) & set(two)
    for each in (study, join_study(storage)):
        assert {t.number: t.value for t in each.trials} == one | two
    assert [t.value for t in study.trials[:trials]] == queued


@pytest.mark.parametrize("kind", some_quick(["journal", "sqlite"], "journal"))
def test_two_processes_carry_one_study(folder, kind):
    storage = str(folder / "study.log") if kind == "journal" else f"sqlite:///{folder}/sweeps.db"
    open_study(storage, "digits", ["maximize"], folder=folder)
    check_carried(storage, 6)


# --- leases


def left_behind(storage, code="", trials=2):
    "Numbers of trials that a process was running when it was killed"
    script = f"""
import os, sys
from trainopt_nb.search.leased_study import LeasedStudy
from trainopt_nb.search.study_storage import join_study
leased = LeasedStudy(join_study(sys.argv[1]))
{code}
for _ in range({trials}):
    trial = leased.ask()
    trial.suggest_float("x", 0, 1)
    print(trial.number, flush=True)
os.kill(os.getpid(), 9)
"""
    return [
        int(n) for n in subprocess.run(python("-c", script, storage), stdout=subprocess.PIPE).stdout.split()
    ]


def states(study):
    return [trial.state for trial in study.trials]


def test_trials_of_a_killed_process_come_again_once(folder):
    study, storage = opened(folder), str(folder)
    leased = LeasedStudy(study, folder)
    mine = leased.ask()
    assert left_behind(storage) == [1, 2]
    lost = leased.recover()
    assert [(each.number, each.again) for each in lost] == [(1, True), (2, True)]
    assert leased.recover() == LeasedStudy(join_study(storage)).recover() == []
    assert states(study) == [RUNNING, FAIL, FAIL, WAITING, WAITING]
    assert study.trials[1].system_attrs["fail_reason"] == "the process that ran it was killed"
    again = leased.ask()
    assert again.suggest_float("x", 0, 1) == lost[0].values["x"]
    assert leased.tell(again.number, 0.5) == 3 and leased.tell(mine.number, 0.25) == 0
    assert left_behind(storage, trials=1) == [4]
    assert [each.number for each in leased.recover()] == [4]
    leased.end()


@pytest.mark.parametrize("kind", some_quick(["journal", "sqlite"], "journal"))
def test_two_processes_that_recover_at_once_do_it_once(folder, kind):
    storage = str(folder / "study.log") if kind == "journal" else f"sqlite:///{folder}/sweeps.db"
    study = open_study(storage, "digits", ["maximize"], folder=folder)
    lost = left_behind(storage, trials=4)
    one, two = in_two_processes(RECOVER, f"recover({storage!r})")
    assert sorted(one + two) == lost
    assert states(study) == [FAIL] * 4 + [WAITING] * 4
    assert sorted(t.system_attrs["trainopt:retry"]["of"] for t in study.trials[4:]) == lost


def test_a_process_killed_between_failing_a_trial_and_queueing_it_is_made_up_for(folder, monkeypatch):
    study = opened(folder)
    assert left_behind(str(folder), trials=1) == [0]
    code = "leased._queue = lambda *_: os.kill(os.getpid(), 9)\nleased.recover()"
    left_behind(str(folder), code)
    assert states(study) == [FAIL]
    monkeypatch.setattr(leased_study, "PATIENCE", 0.0)
    leased = LeasedStudy(study, folder)
    assert leased.recover() == [] and states(study) == [FAIL, WAITING]
    assert leased.recover() == [] and states(study) == [FAIL, WAITING]
    leased._queue(
        study.trials[0], study.trials[0].system_attrs["trainopt:lost"]
    )  # as another one did at the same moment
    assert leased.ask().number == 1 and leased.ask().number == 3
    assert states(study) == [FAIL, RUNNING, FAIL, RUNNING]
    leased.end()


def test_a_trial_that_uses_up_the_memory_twice_or_dies_five_times_does_not_come_again(folder):
    leased = LeasedStudy(opened(folder), folder)
    for memory, times in ((True, 2), (False, 5)):
        for left in reversed(range(times)):
            trial = leased.ask()
            trial.suggest_float("x", 0, 1)
            lost = leased.lose(trial.number, "its worker was killed", memory)
            assert lost.again == (left > 0) and lost.reason == "its worker was killed"
            assert leased.lose(trial.number, "again", memory) is None
    assert WAITING not in states(leased.study)
    leased.end()


def test_a_value_outside_the_present_space_does_not_come_again(folder):
    leased = LeasedStudy(opened(folder), folder, lambda values: values if values.get("x", 0) < 0 else None)
    trial = leased.ask()
    trial.suggest_float("x", 0, 1)
    assert not leased.lose(trial.number, "killed").again and states(leased.study) == [FAIL]
    leased.end()


def test_a_process_on_another_machine_is_watched_for_its_beats(folder, monkeypatch):
    monkeypatch.setattr(leases, "SILENCE", 0.5)
    study = opened(folder)
    code = """
import os, sys, time
from trainopt_nb.search import leases
here = leases.describe_process
leases.describe_process = lambda pid: {**here(pid), "boot": "another", "host": "elsewhere"}
leases.EVERY = 0.05
from trainopt_nb.search.leased_study import LeasedStudy
from trainopt_nb.search.study_storage import join_study
leased = LeasedStudy(join_study(sys.argv[1]))
leased.ask().suggest_float("x", 0, 1)
print(os.getpid(), flush=True)
while sys.stdin.readline():
    leased.leases.renew()
    print("beaten", flush=True)
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    other = subprocess.Popen(python("-c", code, folder), **pipes)
    pid, leased = int(other.stdout.readline()), LeasedStudy(study, folder)
    for _ in range(4):
        time.sleep(0.2)
        began = time.monotonic()
        other.stdin.write("\n"), other.stdin.flush()
        assert other.stdout.readline() == "beaten\n"
        assert leased.recover() == []
    os.kill(pid, signal.SIGSTOP)  # as a laptop that sleeps
    [lost] = until(leased.recover, "the silent process is given up")
    assert lost.number == 0 and time.monotonic() - began > 0.4
    os.kill(pid, signal.SIGKILL), other.communicate()
    leased.end()


CARRIES_ON = """
import sys, time
from trainopt_nb.search import leased_study
from trainopt_nb.search.study_storage import join_study
leased_study.MOST, leased_study.PATIENCE = 1000, 0.5
leased = leased_study.LeasedStudy(join_study(sys.argv[1]))
print("ready", flush=True)
while True:
    leased.recover()
    if not any(t.state.name in ("WAITING", "RUNNING") for t in leased.study.get_trials(deepcopy=False)):
        time.sleep(0.6)
        if leased.recover() == [] and leased._take_waiting() is None:
            break
    waiting = leased._take_waiting()
    if waiting is not None:
        trial = leased_study.Trial(leased.study, waiting)
        x = trial.suggest_float("x", 0, 1)
        time.sleep(0.1)
        leased.tell(trial.number, x)
leased.end()
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind, trials, most", [("journal", 100, 15), ("sqlite", 40, 6)])
def test_three_processes_killed_at_random_lose_and_repeat_nothing(folder, kind, trials, most):
    storage = str(folder / "study.log") if kind == "journal" else f"sqlite:///{folder}/sweeps.db"
    study = open_study(storage, "digits", ["maximize"], folder=folder)
    queued = [n / 128 for n in range(trials)]
    for x in queued:
        study.enqueue_trial({"x": x})
    chance, kills, running = random.Random(0), 0, []

    def begin():
        running.append(subprocess.Popen(python("-c", CARRIES_ON, storage), stdout=subprocess.PIPE))

    for _ in range(3):
        begin()
    while running:
        process = running.pop(0)
        if process.stdout.readline() and kills < most:  # else it has ended
            time.sleep(chance.uniform(0, 0.3))
            process.kill(), process.wait()
            kills += 1
            begin()
        assert process.wait() in (0, -signal.SIGKILL)
    LeasedStudy(study).recover()
    assert sorted(whole(study)) == queued and {*states(study)} == {COMPLETE, FAIL}


def test_the_result_of_a_trial_that_was_taken_for_lost_counts_once(folder):
    study = opened(folder)
    sleeper, other = LeasedStudy(study, folder), LeasedStudy(opened(folder), folder)
    for n in range(3):
        trial = sleeper.ask()
        trial.suggest_float("x", 0, 1)
        trial.report(n / 8, 1)
    assert all(other.lose(n, "its process was silent").again for n in range(3))
    assert other.ask().number == 3  # trial 0 again
    assert sleeper.tell(0, 0.5) is None
    assert sleeper.tell(1, 0.5) == 4 and sleeper.tell(2, state=PRUNED) == 5
    assert sleeper.tell(2, state=FAIL) is None
    late = study.trials[4]
    assert (
        late.params == study.trials[1].params and late.intermediate_values == {1: 1 / 8} and late.value == 0.5
    )
    assert states(study) == [FAIL, FAIL, FAIL, RUNNING, COMPLETE, PRUNED]
    assert sleeper.recover() == other.recover() == []
    sleeper.end(), other.end()


def test_a_sweep_that_began_anew_in_the_same_kernel_takes_its_trials_up(folder):
    first = LeasedStudy(opened(folder), folder)
    first.ask().suggest_float("x", 0, 1)
    second = LeasedStudy(opened(folder), folder)
    assert second.recover() == []
    first.end(), first.end()
    assert [each.number for each in second.recover()] == [0]
    second.end()


def test_trials_of_plain_optuna_are_left_alone(folder):
    study = plain_study = opened(folder)
    plain_study.ask()
    leased = LeasedStudy(study, folder)
    assert leased.recover() == [] and states(study) == [RUNNING]
    leased.end()


@pytest.mark.parametrize(
    "sampler", [optuna.samplers.TPESampler, optuna.samplers.RandomSampler, optuna.samplers.QMCSampler]
)
def test_the_same_trials_are_asked_as_by_optuna_itself(folder, sampler):
    def xs(ask, study):
        found = []
        for _ in range(14):
            trial = ask()
            found.append(trial.suggest_float("x", 0, 1))
            study.tell(trial.number, (found[-1] - 0.3) ** 2)
        return found

    with quiet_optuna():
        memory = optuna.create_study(sampler=sampler(seed=1))
        leased = LeasedStudy(open_study("", "digits", ["minimize"], sampler(seed=1), folder=folder), folder)
    assert xs(leased.ask, leased.study) == xs(memory.ask, memory)
    leased.end()


# --- other programs


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def postgres_programs():
    "The folder of `initdb` and `postgres`, which Debian keeps out of the path"
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [shutil.which("initdb")]
    return found[-1] and Path(found[-1]).parent


@pytest.fixture
def postgres():
    "A PostgreSQL server on loopback: its process, and its URL"
    programs = postgres_programs()
    if programs is None or find_spec("psycopg") is None:
        pytest.skip("needs Debian's postgresql and pip install 'trainopt_nb[postgres]'")
    user = (
        {"user": 65534, "group": 65534, "extra_groups": []} if os.getuid() == 0 else {}
    )  # PostgreSQL refuses root
    folder, port = Path(tempfile.mkdtemp(prefix="trainopt-postgres-")), free_port()
    (folder / "password").write_text("secret")
    if user:
        os.chown(folder, 65534, 65534), os.chown(folder / "password", 65534, 65534)
    how = [
        "-U",
        "me",
        "-A",
        "scram-sha-256",
        f"--pwfile={folder}/password",
        "--no-sync",
        "--no-locale",
        "-E",
        "UTF8",
    ]
    command = [programs / "initdb", "-D", folder / "data", *how]
    subprocess.run(command, **user, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    command = [
        programs / "postgres",
        "-D",
        folder / "data",
        "-k",
        folder,
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
        "-F",
    ]
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(command, **user, cwd=folder, stderr=log)
    try:
        until(lambda: "ready to accept connections" in (folder / "log").read_text(), "PostgreSQL starts")
        yield server, f"postgresql://me:secret@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)  # ends without waiting for connections
        server.wait()
        shutil.rmtree(folder)


@pytest.mark.slow
def test_two_processes_carry_one_study_in_postgresql(folder, postgres):
    server, storage = postgres
    study = open_study(storage, "digits", ["maximize"], folder=folder)
    check_carried(storage, 5)
    leased = LeasedStudy(study)
    [number] = left_behind(storage, trials=1)
    [lost] = leased.recover()
    assert lost.number == number and leased.recover() == [] and states(study)[-2:] == [FAIL, WAITING]
    with pytest.raises(RunError, match="password authentication failed") as wrong:
        open_study(storage.replace("secret", "wrong"), "digits", ["maximize"], folder=folder)
    with pytest.raises(RunError, match=r"database .nosuch. does not exist"):
        open_study(storage.replace("/postgres", "/nosuch"), "digits", ["maximize"], folder=folder)
    server.send_signal(signal.SIGINT), server.wait()
    with pytest.raises(RunError, match="check that the server runs") as gone, study_errors(study._storage):
        leased.ask()
    assert all("me:***@127.0.0.1" in str(e.value) and "\n" not in str(e.value) for e in (wrong, gone))


@pytest.mark.slow
def test_the_dashboard_of_optuna_opens_a_journal(folder):
    if find_spec("optuna_dashboard") is None:
        pytest.skip("needs pip install optuna-dashboard")
    study = opened(folder)
    for x in (0.25, 0.5):
        add(study, x)
    study.ask({"x": RANGE})
    port = free_port()
    code = "from optuna_dashboard._cli import main; main()"
    command = [
        sys.executable,
        "-c",
        code,
        str(folder / "study.log"),
        "--port",
        str(port),
        "--host",
        "127.0.0.1",
    ]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def read(path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/{path}") as answer:
                return json.load(answer)
        except OSError:
            return None

    try:
        [found] = until(lambda: read("studies"), "the dashboard starts")["study_summaries"]
        assert (found["study_name"], found["directions"]) == ("digits", ["maximize"])
        trials = read(f"studies/{found['study_id']}")["trials"]
        assert [trial["state"] for trial in trials] == ["Complete", "Complete", "Running"]
        assert [trial["values"] for trial in trials[:2]] == [[0.25], [0.5]]
    finally:
        server.terminate(), server.wait()
    add(study, 0.75)
    assert whole(opened(folder)) == [0.25, 0.5, 0.75] and storage_notes(study) == []
