"""Structures as data files of LAMMPS, with the boundaries that belong to them.

LAMMPS wants lattice vectors as a lower triangle with a positive diagonal, and a box in directions
that do not repeat too. The lattice is kept as it is: no vector is replaced by a shorter one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from ase import Atoms, units

from mtlpar.core.ase_structures import fault_of
from mtlpar.core.files import write_text

FloatArray = npt.NDArray[np.float64]

# Room beyond the outermost atoms where a structure does not repeat; the box grows with them.
_MARGIN_ANGSTROM: Final = 1.0
_ANGSTROM_PER_PS: Final = 1000 * units.fs


class Box(NamedTuple):
    """How a structure lies in the box of LAMMPS.

    Attributes:
        rotation: Turns row vectors of the structure into those of LAMMPS, (3, 3).
        vectors: Lattice vectors as rows, a lower triangle, (3, 3) in Å.
        low: Corner of the box in Å, (3,).
        boundary: What follows the command ``boundary``.
    """

    rotation: FloatArray
    vectors: FloatArray
    low: FloatArray
    boundary: str

    @classmethod
    def of(cls, atoms: Atoms) -> Box:
        """The box of a structure."""
        spanned = _spanned(atoms.cell.array, atoms.pbc)
        q, r = np.linalg.qr(spanned.T)
        signs = np.sign(np.diag(r))
        rotation, vectors = q * signs, (r * signs[:, None]).T
        vectors[np.triu_indices(3, 1)] = 0.0
        low = np.zeros(3)
        positions = atoms.positions @ rotation
        for axis in np.flatnonzero(~atoms.pbc):
            low[axis] = positions[:, axis].min() - _MARGIN_ANGSTROM
            vectors[axis, axis] = positions[:, axis].max() + _MARGIN_ANGSTROM - low[axis]
        return cls(rotation, vectors, low, " ".join("p" if one else "m" for one in atoms.pbc))


def write_data(path: Path, atoms: Atoms, elements: Sequence[str]) -> Box:
    """Write a structure for ``atom_style atomic`` and ``units metal``, with velocities if any.

    Args:
        path: File to write.
        atoms: The structure.
        elements: Symbol of each atom type, in order.

    Returns:
        How it lies there, and the boundaries that LAMMPS must be told before it reads the file.

    Raises:
        ValueError: If it holds an element that is no type, atoms of one element have several
            masses, or LAMMPS cannot hold it.
    """
    if fault := fault_of(atoms):
        raise ValueError(f"the structure has {fault}")
    box = Box.of(atoms)
    masses = _masses(atoms, elements)
    types = [elements.index(symbol) + 1 for symbol in atoms.symbols]
    lines = ["LAMMPS data, written by mtlpar", "", f"{len(atoms)} atoms"]
    lines += [f"{len(elements)} atom types", ""]
    for axis, name in enumerate("xyz"):
        low = box.low[axis]
        lines.append(f"{low:.16g} {low + box.vectors[axis, axis]:.16g} {name}lo {name}hi")
    tilts = box.vectors[(1, 2, 2), (0, 0, 1)]
    if tilts.any():
        lines.append(f"{' '.join(f'{tilt:.16g}' for tilt in tilts)} xy xz yz")
    lines += ["", "Masses", ""]
    lines += [
        f"{index} {mass:.16g}  # {symbol}"
        for index, (symbol, mass) in enumerate(zip(elements, masses, strict=True), 1)
    ]
    lines += ["", "Atoms  # atomic", ""]
    for index, (kind, place) in enumerate(
        zip(types, (atoms.positions @ box.rotation).tolist(), strict=True), 1
    ):
        lines.append(f"{index} {kind} {_three(place)}")
    if "momenta" in atoms.arrays:
        velocities = atoms.arrays["momenta"] / atoms.get_masses()[:, None]
        velocities = velocities @ box.rotation * _ANGSTROM_PER_PS
        lines += ["", "Velocities", ""]
        lines += [f"{index} {_three(row)}" for index, row in enumerate(velocities.tolist(), 1)]
    write_text(path, "\n".join(lines) + "\n")
    return box


def _three(row: Sequence[float]) -> str:
    return " ".join(f"{value:.16g}" for value in row)


def _spanned(cell: FloatArray, pbc: npt.NDArray[np.bool_]) -> FloatArray:
    """Right-handed vectors: those that repeat, and unit vectors across them."""
    spanned = np.where(pbc[:, None], cell, 0.0)
    for axis in np.flatnonzero(~pbc):
        # The last of the right singular vectors is at right angles to all others.
        spanned[axis] = np.linalg.svd(np.delete(spanned, axis, axis=0))[2][-1]
    if np.linalg.det(spanned) < 0:
        # The other way round, an open direction is the same, and so is a lattice.
        spanned[np.flatnonzero(~pbc)[0] if not pbc.all() else 2] *= -1
    return spanned


def _masses(atoms: Atoms, elements: Sequence[str]) -> list[float]:
    """Mass of each type in u."""
    if unknown := sorted(set(atoms.symbols) - set(elements)):
        raise ValueError(
            f"the structure holds {', '.join(unknown)}, which is not an atom type; the types are "
            f"{' '.join(elements)}, from the script's pair_coeff"
        )
    found = []
    for symbol in elements:
        masses = set(atoms.get_masses()[atoms.symbols == symbol].tolist())
        masses = masses or set(Atoms(symbol).get_masses().tolist())
        if len(masses) > 1:
            raise ValueError(
                f"atoms of {symbol} have the masses {sorted(masses)}; an atom type has one"
            )
        found.append(masses.pop())
    return found
