"""What rates of data are measured on is enough of it, and all of it counts."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import REPOSITORY, make_structures, write_extracted

from mtlpar.core.ledger import Ledger
from mtlpar.core.paths import Workspace
from mtlpar.normalize import stage as normalize
from mtlpar.normalize.settings import NormalizeSettings
from mtlpar.sources.registry import get_source
from mtlpar.sources.settings import SourceSettings
from mtlpar.study import data_rates

SAMPLE = REPOSITORY / "workflow" / "sample"


def test_copies_of_structures_are_no_duplicates_and_fill_the_books(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Exact copies would all be dropped by normalize, and packing would seem to take no time.
    monkeypatch.setattr(data_rates, "_STRUCTURES", 200)
    workspace = Workspace(raw=tmp_path / "raw", results=tmp_path / "results")
    write_extracted(workspace, "ani1x", make_structures(60, seed=1), make_structures(30, seed=2))
    structures, atoms = data_rates._multiply("ani1x", workspace)
    assert structures == 270
    assert atoms % 3 == 0  # three copies of the ninety
    settings = NormalizeSettings(val_fraction=0.1, test_fraction=0.1)
    normalize.run("ani1x", workspace=workspace, settings=settings, seed=0)
    ledger = Ledger.read(workspace.ledger("ani1x"))
    assert (ledger.rows, sum(ledger.splits.values())) == (270, 270)


def test_a_file_has_a_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What it writes is checked as it is in every other run.
    monkeypatch.setattr(data_rates, "_ROWS_READ", 1)
    path = next((SAMPLE / "alexandria").glob("*.json.bz2"))
    assert data_rates.reading_rate(get_source("alexandria"), path, tmp_path) > 0


@pytest.mark.long
@pytest.mark.parametrize(
    ("source", "file", "positions"),
    [
        ("ani1x", "ani1x-release.h5", "coordinates"),
        ("transition1x", "Transition1x.h5", "positions"),
    ],
)
def test_lengthened_groups_are_read_as_the_short_ones_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, file: str, positions: str
) -> None:
    monkeypatch.setattr(data_rates, "_GROUP_ROWS", 50)
    path = tmp_path / file
    path.write_bytes((SAMPLE / source / file).read_bytes())
    longer = data_rates._lengthen_groups(path, positions)
    sizes: list[int] = []
    with h5py.File(longer) as content:
        content.visititems(
            lambda _, found: (
                sizes.append(len(found[positions])) if data_rates._has(found, positions) else None
            )
        )
    # Records of a reactant, product or transition state stay single.
    assert {size for size in sizes if size < 50} <= {1}
    blocks = list(get_source(source).read(longer, SourceSettings()))
    assert all(block.damage is None for block in blocks)
    assert np.isfinite(np.concatenate([block.batch.energy for block in blocks])).all()
