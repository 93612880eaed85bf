"""Labels that some structures lack: any layout takes the same steps, and each row what it has.

The masks leave ranks without a single label of some kind in many steps, and some global batches
too: a count of structures instead of labels, a mean of per-rank means or a label that is missing
and counted as zero would show up far above the tolerance.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from helpers import make_structures, write_extracted
from training import MODEL, epoch_lines, history, losses, run_alone, run_ranks

from mtlpar.core.paths import Workspace
from mtlpar.core.structures import StructureBatch
from mtlpar.model.file import load_model
from mtlpar.normalize import stage as normalize
from mtlpar.normalize.settings import NormalizeSettings
from mtlpar.pack import stage as pack
from mtlpar.pack.settings import PackSettings

BRANCHES = {"mixed": ("mixed",), "energies": ("energies",), "pulls": ("pulls",)}


def with_masks(batch: StructureBatch, **has: np.ndarray) -> StructureBatch:
    """Structures that have only some labels; the values of the others are absurd on purpose."""
    for label, rows in has.items():
        mask = getattr(batch, f"{label}_mask")
        mask[:] = rows
        values = getattr(batch, label)
        values[np.repeat(rows == 0, batch.num_atoms) if label == "forces" else rows == 0] = 1e3
    return batch


def crystals(count: int, *, seed: int) -> StructureBatch:
    """Molecules in cells of their own, with stresses that mean nothing but are all different."""
    batch = make_structures(count, seed=seed)
    rng = np.random.default_rng(seed)
    batch.pbc[:] = 1
    batch.cell[:] = 9 * np.eye(3) + rng.normal(scale=0.5, size=(count, 3, 3))
    batch.stress[:] = 0.1 * rng.normal(size=(count, 6))
    return batch


@pytest.fixture(scope="module")
def partly_labelled(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Packs of a source with every pattern of labels, one of energies and one without energies."""
    folder = tmp_path_factory.mktemp("partly")
    workspace = Workspace(raw=folder / "raw", results=folder / "results")
    rng = np.random.default_rng(7)
    mixed = crystals(60, seed=1)
    masks = {label: rng.integers(0, 2, 60, np.uint8) for label in ("energy", "forces", "stress")}
    # Weights of single structures, some of them zero.
    mixed.energy_weight[:] = rng.choice([0.0, 0.5, 1.0, 2.0], 60)
    every = np.ones(31, np.uint8)
    batches = {
        "mixed": with_masks(mixed, **masks),
        "energies": with_masks(make_structures(31, seed=2), forces=0 * every),
        "pulls": with_masks(crystals(31, seed=3), energy=0 * every, stress=every),
    }
    for source, batch in batches.items():
        write_extracted(workspace, source, batch)
        settings = NormalizeSettings(val_fraction=0.15, test_fraction=0.15)
        normalize.run(source, workspace=workspace, settings=settings, seed=0)
        pack.run(source, workspace=workspace, settings=PackSettings(), seed=0)
    return workspace


# Isolated atoms are encoded on every rank, also on those without structures of a branch.
HEAD = {"forces": "conservative", "isolated_atoms": "reference"}
CONSERVATIVE = MODEL.model_copy(update={"head": MODEL.head.model_copy(update=HEAD)})


OPTIONS = {"model": CONSERVATIVE, "source_weights": {}, "epochs": 3}


@pytest.fixture(scope="module")
def alone(partly_labelled: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The training of one process that all layouts must equal."""
    results = tmp_path_factory.mktemp("alone")
    (results / "packed").symlink_to(partly_labelled.results / "packed")
    workspace = Workspace(raw=partly_labelled.raw, results=results)
    run_alone(workspace, BRANCHES, **OPTIONS)
    return workspace


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("ranks", "layout", "changes"),
    [
        pytest.param(3, "mtl-par", {}, id="a branch per rank"),
        pytest.param(5, "mtl-base", {"max_atoms_per_pass": 20}, id="five ranks, several passes"),
        pytest.param(7, "mtl-par", {"data": "stream"}, id="streamed", marks=pytest.mark.slow),
    ],
)
def test_missing_labels_leave_all_layouts_on_the_same_steps(
    alone: Workspace,
    copy_of: Callable[[Workspace], Workspace],
    ranks: int,
    layout: str,
    changes: dict[str, object],
) -> None:
    workspace = copy_of(alone)
    done = run_ranks(workspace, ranks, branches=BRANCHES, layout=layout, **OPTIONS, **changes)
    assert done.returncode == 0, done.stderr
    assert len(losses(workspace)) >= 12
    np.testing.assert_allclose(losses(workspace), losses(alone), rtol=1e-10)
    for got, wanted in zip(epoch_lines(workspace), epoch_lines(alone), strict=True):
        for part in ("train", "val"):
            for source, errors in wanted[part].items():
                assert got[part][source] == pytest.approx(errors, rel=1e-9)


def test_the_model_file_says_whose_energies_no_label_taught(alone: Workspace) -> None:
    training = load_model(alone.model("mtl")).training
    assert training["without_energies"] == ["pulls"]


def test_metrics_have_the_labels_that_there_are_and_no_others(alone: Workspace) -> None:
    for line in epoch_lines(alone):
        for part in ("train", "val"):
            assert set(line[part]["mixed"]) >= {
                "energy_mae_ev_per_atom",
                "force_mae_ev_per_angstrom",
                "stress_mae_ev_per_cubic_angstrom",
            }
            assert all("force" not in name for name in line[part]["energies"])
            assert all("energy" not in name for name in line[part]["pulls"])
            # What is missing was stored as a thousand: nothing may have learned or counted it.
            assert all(value < 100 for errors in line[part].values() for value in errors.values())
    steps = [line for line in history(alone) if line["kind"] == "step"]
    assert all("force_mae_ev_per_angstrom" not in s["terms"].get("energies", {}) for s in steps)
