"""Structures of every kind that a neighbour list must get right, drawn at random."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from hypothesis import assume
from hypothesis import strategies as st


@st.composite
def random_atoms(draw: st.DrawFn) -> Atoms:
    """One to seven atoms in a skewed, thin or roomy cell, periodic or not along each vector.

    Some lie far outside the cell, and vectors along open directions may be zero or meaningless.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pbc = np.array(draw(st.tuples(st.booleans(), st.booleans(), st.booleans())))
    lengths = draw(st.tuples(*[st.sampled_from([1.2, 3.0, 5.5, 14.0])] * 3))
    skew = draw(st.sampled_from([0.0, 0.3, 0.8]))
    cell = np.diag(lengths) + skew * rng.uniform(-1, 1, (3, 3)) * np.array(lengths)[:, None]
    assume(abs(np.linalg.det(cell)) > 0.05 * np.prod(lengths))
    spread = draw(st.sampled_from([1.0, 4.0]))
    fractional = spread * rng.uniform(-1, 1, (draw(st.integers(1, 7)), 3))
    positions = np.where(pbc, fractional, rng.uniform(0, 1, fractional.shape)) @ cell
    if draw(st.booleans()):
        cell[~pbc] = 0
    cell, positions = cell.astype(np.float32), positions.astype(np.float32)
    return Atoms(numbers=np.full(len(positions), 6), positions=positions, cell=cell, pbc=pbc)
