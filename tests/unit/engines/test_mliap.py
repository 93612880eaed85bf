"""The class for LAMMPS's ML-IAP says what the calculator says, on data as LAMMPS lays them out.

No package to install has this interface, so its data are made by hand here, after LAMMPS's sources
(src/ML-IAP/mliap_unified.cpp, src/KOKKOS/mliap_unified_couple_kokkos.pyx).
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from networks import ENCODERS
from rattled import expected, rattled, write_model
from torch import Tensor

from mtlpar.core.ase_structures import structure_batch
from mtlpar.engines.mliap import MliapModel
from mtlpar.graph.neighbors import neighbor_list
from mtlpar.graph.settings import GraphSettings


class _Data:
    """Owned atoms, ghosts behind them, and pairs of each owned atom, as on a rank of LAMMPS."""

    def __init__(self, atoms: Atoms, element_types: list[str]) -> None:
        edges = neighbor_list(structure_batch([atoms]), GraphSettings(cutoff_angstrom=5.0))
        images = np.column_stack([edges.sender, np.round(edges.shift, 6)])
        away = np.abs(edges.shift).max(axis=1, initial=0) > 0
        ghosts, which = np.unique(images[away], axis=0, return_inverse=True)
        self.nlocal, self.ntotal = len(atoms), len(atoms) + len(ghosts)
        self.owner = np.concatenate([np.arange(len(atoms)), ghosts[:, 0].astype(int)])
        self.elems = np.array([element_types.index(atoms.symbols[i]) for i in self.owner], np.int32)
        self.pair_i = edges.receiver.astype(np.int32)
        self.pair_j = edges.sender.astype(np.int32)
        self.pair_j[away] = len(atoms) + which.reshape(-1)
        self.npairs = len(self.pair_i)
        positions = atoms.positions
        self.rij = positions[edges.sender] + edges.shift - positions[edges.receiver]
        self.eatoms, self.energy = np.zeros(self.nlocal), None
        self.f, self.virial = np.zeros((self.ntotal, 3)), np.zeros((3, 3))

    def forward_exchange(self, given: Tensor, taken: Tensor, length: int) -> None:
        assert given.shape == taken.shape == (self.ntotal, length)
        taken.copy_(given[torch.from_numpy(self.owner)])

    def reverse_exchange(self, given: Tensor, taken: Tensor, length: int) -> None:
        # Copies stay where they were, beside the sums of their owners.
        taken.copy_(given)
        ghosts = torch.from_numpy(self.owner[self.nlocal :])
        taken.index_add_(0, ghosts, given[self.nlocal :])

    def update_pair_forces(self, pairs: np.ndarray) -> None:
        assert pairs.dtype == np.float64
        assert pairs.flags["C_CONTIGUOUS"]
        np.add.at(self.f, self.pair_i, pairs)
        np.subtract.at(self.f, self.pair_j, pairs)
        self.virial -= self.rij.T @ pairs

    def forces(self) -> np.ndarray:
        """Forces after those on ghosts went home to their owners, as by `newton on`."""
        found = np.zeros((self.nlocal, 3))
        np.add.at(found, self.owner, self.f)
        return found


def _check(data: _Data, right: dict[str, np.ndarray], atoms: Atoms) -> None:
    assert data.energy == pytest.approx(right["energy"], abs=1e-6)
    assert data.eatoms.sum() == pytest.approx(right["energy"], abs=1e-6)
    np.testing.assert_allclose(data.forces(), right["forces"], atol=1e-6)
    if "stress" in right:
        volume = abs(np.linalg.det(atoms.cell.array))
        np.testing.assert_allclose(-data.virial / volume, right["stress"], atol=1e-6)


@pytest.mark.parametrize("isolated_atoms", ["learned", "reference"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_it_says_what_the_calculator_says(
    encoder: str, isolated_atoms: str, tmp_path: Path
) -> None:
    # Three layers: gradients of ghosts then pass through an exchange twice.
    path = write_model(tmp_path, encoder=encoder, layers=3, isolated_atoms=isolated_atoms)
    model = MliapModel(path, source="pbe")
    ghosts = []
    for name, atoms in rattled().items():
        if name == "charged":
            continue
        data = _Data(atoms, model.element_types)
        model.compute_forces(data)
        _check(data, expected(path, atoms), atoms)
        ghosts.append(data.ntotal - data.nlocal)
    assert max(ghosts) > 100


@pytest.mark.parametrize("mode", [nullcontext, torch.inference_mode])
def test_charge_and_spin_are_told(
    tmp_path: Path, mode: Callable[[], AbstractContextManager[None]]
) -> None:
    # The state is a tensor that gradients pass by: made in inference mode, it had none.
    path, atoms = write_model(tmp_path, charge_and_spin=True), rattled()["charged"]
    with pytest.raises(ValueError, match="needs charge and spin"):
        MliapModel(path, source="pbe", charge=-1)
    with mode():
        model = MliapModel(path, source="pbe", charge=-1, spin=1)
        data = _Data(atoms, model.element_types)
        model.compute_forces(data)
    _check(data, expected(path, atoms), atoms)


def test_what_lammps_reads_answers_as_what_was_saved(tmp_path: Path) -> None:
    path, atoms = write_model(tmp_path), rattled()["crystal"]
    MliapModel(path, source="hybrid").save(tmp_path / "hybrid.pickle")
    model = pickle.loads((tmp_path / "hybrid.pickle").read_bytes())
    data = _Data(atoms, model.element_types)
    model.compute_forces(data)
    _check(data, expected(path, atoms, "hybrid"), atoms)


def test_without_an_exchange_nothing_is_answered(tmp_path: Path, monkeypatch) -> None:
    model = MliapModel(write_model(tmp_path), source="pbe")
    data = _Data(rattled()["crystal"], model.element_types)
    monkeypatch.delattr(_Data, "forward_exchange")
    with pytest.raises(ValueError, match="cannot exchange features"):
        model.compute_forces(data)
    assert data.energy is None


@pytest.mark.parametrize(
    ("options", "match"),
    [({"forces": "equivariant"}, "an engine differentiates"), ({"energy": "mean"}, "means over")],
)
def test_models_that_lammps_would_use_wrongly_are_refused(
    options: dict[str, str], match: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=match):
        MliapModel(write_model(tmp_path, **options), source="pbe")
