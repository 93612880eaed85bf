"""Made-up files of any size are what the readers expect, and their labels pass every check."""

import numpy as np
import pytest
from tools.full_size.native import WRITERS

from mtlpar.extract.checks import check
from mtlpar.sources.registry import get_source
from mtlpar.sources.settings import SourceSettings

# As many as the groups of a file have at least.
FEW = {"ani1x": 30, "qm7x": 16, "transition1x": 120, "mptrj": 110, "alexandria": 20}


@pytest.mark.parametrize("source", WRITERS)
def test_all_that_is_written_is_read_and_usable(tmp_path, source):
    written = WRITERS[source](tmp_path, FEW[source], np.random.default_rng(0))
    definition = get_source(source)
    rows = kept = 0
    for path in sorted(tmp_path.iterdir()):
        if not definition.is_data_file(path.name):
            continue
        for block in definition.read(path, SourceSettings()):
            assert block.damage is None
            rows += block.rows
            usable, dropped, *_ = check(block.batch, max_force=100.0)
            assert not dropped
            kept += len(usable)
            assert np.abs(block.batch.forces).max() > 0.01
    assert rows == written
    # Endpoints of reactions are on their path, and counted as repeated.
    assert kept == (written if source != "transition1x" else written - 30)
