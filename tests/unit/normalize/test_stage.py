"""The normalize stage closes the books and looks at train only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from helpers import make_structures, write_extracted

from mtlpar.core.files import read_json
from mtlpar.core.ledger import Ledger
from mtlpar.core.paths import Workspace
from mtlpar.core.structures import StructureBatch
from mtlpar.normalize import stage
from mtlpar.normalize.settings import NormalizeSettings

SETTINGS = NormalizeSettings(val_fraction=0.2, test_fraction=0.2)


def _run(folder: Path, *batches: StructureBatch) -> Workspace:
    workspace = Workspace(raw=folder / "raw", results=folder / "results")
    write_extracted(workspace, "ani1x", *batches)
    stage.run("ani1x", workspace=workspace, settings=SETTINGS, seed=0)
    return workspace


def test_every_row_ends_in_exactly_one_place(tmp_path: Path) -> None:
    batch = make_structures(60, seed=1)
    workspace = _run(tmp_path, batch, batch.take([3, 3, 10]))
    ledger = Ledger.read(workspace.ledger("ani1x"))
    ledger.check("ani1x")
    assert ledger.rows == 63
    assert ledger.dropped == {"duplicate": 3}


def test_labels_outside_train_do_not_touch_the_references(tmp_path: Path) -> None:
    batch = make_structures(60, seed=1)
    before = _run(tmp_path / "a", batch)
    split = np.load(before.splits("ani1x"))
    batch.energy[split != 0] += 1.0 * batch.num_atoms[split != 0]
    after = _run(tmp_path / "b", batch)
    assert before.references("ani1x").read_bytes() == after.references("ani1x").read_bytes()


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    batch = make_structures(60, seed=1)
    first, second = _run(tmp_path / "a", batch), _run(tmp_path / "b", batch)
    for path in ("splits", "references", "ledger"):
        assert (
            getattr(first, path)("ani1x").read_bytes()
            == getattr(second, path)("ani1x").read_bytes()
        )


def test_element_seen_only_outside_train_is_dropped_and_counted(tmp_path: Path) -> None:
    batch = make_structures(60, seed=1)
    split = np.load(_run(tmp_path / "a", batch).splits("ani1x"))
    victim = int(np.flatnonzero(split == 2)[0])
    batch.atomic_numbers[batch.offsets[victim]] = 92
    ledger = Ledger.read(_run(tmp_path / "b", batch).ledger("ani1x"))
    assert ledger.dropped == {"element_not_in_train": 1}


def test_statistics_are_those_of_predicting_zero_on_train(tmp_path: Path) -> None:
    batch = make_structures(60, seed=1)
    workspace = _run(tmp_path, batch)
    train = batch.take(np.flatnonzero(np.load(workspace.splits("ani1x")) == 0))
    statistics = read_json(workspace.references("ani1x"))["train_statistics"]
    np.testing.assert_allclose(
        statistics["force_mean_abs_ev_per_angstrom"], np.abs(train.forces).mean(), rtol=1e-6
    )
