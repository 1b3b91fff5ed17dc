"The machine, which the processes of a test run share"

import fcntl
import os
import signal
from pathlib import Path


class Machine:
    "Two locks by which the processes of a test run share the machine, or one of them has it alone"

    def __init__(self, folder):
        self.door, self.room = (open(Path(folder, name), "w") for name in ("door", "room"))

    def enter(self, alone):
        "Wait for the machine; a process that waits to be alone holds the door, so that no other enters meanwhile"
        self.leave()
        fcntl.flock(self.door, fcntl.LOCK_EX)
        fcntl.flock(self.room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(self.door, fcntl.LOCK_UN)

    def leave(self):
        fcntl.flock(self.room, fcntl.LOCK_UN)

    def is_wanted(self):
        "Whether another process waits at the door"
        try:
            fcntl.flock(self.door, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self.door, fcntl.LOCK_UN)
        return False

    def give_way(self, pid):
        "Have a program and what it started stand still while another process has the machine alone"
        if self.is_wanted():
            os.killpg(pid, signal.SIGSTOP)
            self.enter(alone=False)
            os.killpg(pid, signal.SIGCONT)
