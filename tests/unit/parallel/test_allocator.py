"""Training keeps the memory that its steps free."""

from __future__ import annotations

import subprocess
import sys

import pytest

_COUNT_FAULTS = """
import resource, sys, torch
from mtlpar.parallel.allocator import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit("the C library does not know mallopt")
torch.set_num_threads(1)
values = torch.ones(16384, 64)
for _ in range(3):
    [values * 2 for _ in range(8)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    [values * 2 for _ in range(8)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's C library")
def test_blocks_that_are_freed_and_asked_for_again_cost_no_page_faults() -> None:
    # 8 results of 4 MiB are alive at once and freed together, which is when glibc gives the top
    # of its heap back by itself.
    faults = {
        how: int(
            subprocess.run(
                [sys.executable, "-c", _COUNT_FAULTS, how],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for how in ("keep", "give back")
    }
    assert faults["keep"] < faults["give back"] / 10, faults
