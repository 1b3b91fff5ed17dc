"What all tests share"

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads a process on busy cores wait for each other
