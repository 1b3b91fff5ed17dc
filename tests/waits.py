"What the tests of other processes share: waiting for something that is to happen"

import time


def until(check, what, seconds=30):
    "The first true answer of `check`"
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := check():
            return found
        time.sleep(0.01)
    raise AssertionError(f"not within {seconds} s: {what}")
