"""Training keeps the memory that its steps free."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Two forks of one process that has imported torch and asked for no memory yet. By itself glibc
# takes the first block of this size from the system and gives it back when it is freed.
_FREE_AND_LOOK = """
import os, sys, torch
from mtlpar.parallel.allocator import keep_freed_memory
torch.set_num_threads(1)
keeps = os.fork() == 0
if keeps and not keep_freed_memory():
    sys.exit("the C library does not know mallopt")
def resident():
    with open("/proc/self/status") as stream:
        (line,) = (line for line in stream if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024
before = resident()
values = torch.ones(31 * 2**18)
del values
kept = resident() - before
if not keeps:
    os.wait()
print(kept, flush=True)
"""


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's C library")
def test_a_block_that_is_freed_stays_with_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FREE_AND_LOOK], capture_output=True, text=True, check=True
    )
    kept, given_back = map(int, done.stdout.split())
    assert kept > 24 * 2**20, (kept, given_back)
    assert given_back < 4 * 2**20, (kept, given_back)
