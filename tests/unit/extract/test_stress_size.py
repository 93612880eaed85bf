"""Stresses without neighbouring frames are judged by structures of other volume."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from mtlpar.core.ase_structures import structure_batch
from mtlpar.core.structures import StructureBatch
from mtlpar.extract.stress_size import MIN_PAIRS, StressSize

MODULUS = 0.8
"""Of copper, in eV/Å^3."""


def cubes(symbols: str, log_volumes: np.ndarray, *, factor: float = 1.0) -> StructureBatch:
    """Cubic cells whose pressure follows from their volume, as a stress with tension positive."""
    edges = np.exp(log_volumes / 3)
    batch = structure_batch([Atoms(symbols, cell=[edge] * 3, pbc=True) for edge in edges])
    batch.stress[:] = 0.0
    batch.stress[:, :3] = factor * MODULUS * (log_volumes - log_volumes.mean())[:, None]
    batch.stress_mask[:] = 1
    return batch


def test_many_cells_of_nearly_one_volume_are_judged_all_the_same() -> None:
    # Thirty strained cells: between one and the next larger there is hardly a difference.
    volumes = np.log(47.0) + np.linspace(-0.03, 0.03, 30)
    size = StressSize()
    size.add(cubes("Cu", volumes))
    assert np.diff(volumes).max() < 5e-3
    assert size.as_dict()["pairs"] > MIN_PAIRS
    assert size.as_dict()["bulk_modulus_ev_per_cubic_angstrom"] == pytest.approx(MODULUS, rel=0.05)
    assert size.problem() is None


@pytest.mark.parametrize(
    ("factor", "word"), [(47.0, "virials"), (160.2, "another unit"), (-1.0, "sign"), (1e-4, "less")]
)
def test_other_conventions_are_questioned(factor: float, word: str) -> None:
    size = StressSize()
    size.add(cubes("Cu", np.log(47.0) + np.linspace(-0.03, 0.03, 30), factor=factor))
    problem = size.problem()
    assert problem is not None
    assert word in problem


def test_structures_are_compared_with_those_of_their_composition_alone() -> None:
    # Pressed large cells beside pulled small ones: across compositions the sign would be wrong.
    small = cubes("Cu", np.log(40.0) + np.linspace(-0.03, 0.03, 30))
    large = cubes("Ag", np.log(60.0) + np.linspace(-0.03, 0.03, 30))
    large.stress[:, :3] -= 5.0
    size = StressSize()
    size.add(StructureBatch.concatenate([small, large]))
    assert size.as_dict()["bulk_modulus_ev_per_cubic_angstrom"] == pytest.approx(MODULUS, rel=0.05)
