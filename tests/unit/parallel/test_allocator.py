"""Training keeps the memory that its steps free."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Two forks of one process that has imported torch and asked for no memory yet.
_COUNT_FAULTS = """
import os, resource, sys, torch
from mtlpar.parallel.allocator import keep_freed_memory
torch.set_num_threads(1)
keeps = os.fork() == 0
if keeps and not keep_freed_memory():
    sys.exit("the C library does not know mallopt")
values = torch.ones(16384, 64)
for _ in range(3):
    [values * 2 for _ in range(8)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    [values * 2 for _ in range(8)]
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
if not keeps:
    os.wait()
print(faults, flush=True)
"""


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's C library")
def test_blocks_that_are_freed_and_asked_for_again_cost_no_page_faults() -> None:
    # 8 results of 4 MiB are alive at once and freed together, which is when glibc gives the top
    # of its heap back by itself.
    done = subprocess.run(
        [sys.executable, "-c", _COUNT_FAULTS], capture_output=True, text=True, check=True
    )
    kept, given_back = map(int, done.stdout.split())
    assert kept < given_back / 10, (kept, given_back)
