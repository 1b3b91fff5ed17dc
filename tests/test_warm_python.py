"The warm process from which the tests start their programs"

import json
import os
import socket
import struct
import subprocess

import pytest
from warm_python import PLACE, python

COMMAND = json.dumps(
    {"words": ["-c", "import time; time.sleep(60)"], "cwd": "/", "env": {}, "files": []}
).encode()
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
