"""ASE structures as columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from ase import Atoms

from mtlpar.core.electronic_state import find_charge, find_spin
from mtlpar.core.fields import MAX_ATOMIC_NUMBER
from mtlpar.core.room import LEAST_ROOM, room
from mtlpar.core.structures import DoubleStructureBatch

# Å; vectors that span a volume and are shorter are independent as far as float64 tells.
_LONG: Final = 1e4


def structure_batch(structures: Sequence[Atoms] | Atoms) -> DoubleStructureBatch:
    """Columns of ASE structures, with float64 geometry and no labels.

    Charge and spin multiplicity are read from ``atoms.info``, under the keys of
    `mtlpar.core.electronic_state`; without them a structure has charge 0 and a spin that nobody
    stated.

    Raises:
        ValueError: If this is no list, or an empty one, or a structure has no atoms, unknown ones
            or a degenerate cell, or is not finite.
    """
    if isinstance(structures, Atoms):
        raise ValueError(f"expected a list of structures, got one: {structures}; write [atoms]")
    empty = [index for index, atoms in enumerate(structures) if len(atoms) == 0]
    if empty or not structures:
        raise ValueError(f"nothing to predict: got {len(structures)} structures, empty: {empty}")
    num_atoms = np.array([len(atoms) for atoms in structures])
    numbers = np.concatenate([atoms.numbers for atoms in structures])
    positions = np.concatenate([atoms.positions for atoms in structures])
    cell = np.stack([atoms.cell.array for atoms in structures])
    pbc = np.stack([atoms.pbc for atoms in structures])
    for index in _suspects(numbers, positions, cell, pbc, num_atoms):
        if fault := fault_of(structures[index]):
            raise ValueError(f"structure {index} of {num_atoms[index]} atoms has {fault}")
    return DoubleStructureBatch.from_labels(
        num_atoms=num_atoms,
        atomic_numbers=numbers,
        positions=positions,
        energy=np.zeros(len(structures)),
        energy_mask=np.zeros(len(structures)),
        forces=np.zeros_like(positions),
        forces_mask=np.zeros(len(structures)),
        group=np.zeros(len(structures)),
        cell=cell,
        pbc=pbc,
        charge=[charge_of(atoms) for atoms in structures],
        spin=[spin_of(atoms) for atoms in structures],
    )


def charge_of(atoms: Atoms) -> int:
    """Total charge in e; see `structure_batch`.

    Raises:
        ValueError: If it is not a whole number.
    """
    return _of_info(find_charge, atoms)


def spin_of(atoms: Atoms) -> int:
    """Spin multiplicity, 0 if nobody stated it; see `structure_batch`.

    Raises:
        ValueError: If it is not a whole number.
    """
    return _of_info(find_spin, atoms)


def _of_info(find: Callable[[Mapping[str, Any], str], int], atoms: Atoms) -> int:
    if not atoms.info:
        return 0
    try:
        return find(atoms.info, "atoms.info")
    except ValueError:
        # The place takes longer to write down than all the rest, and only an error needs it.
        return find(atoms.info, f"atoms.info of {atoms}")


def fault_of(atoms: Atoms) -> str | None:
    """What makes an answer impossible, if anything does; it would look like one."""
    if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
        # Atoms that are nowhere have no neighbours.
        return "positions or a cell that are not finite"
    foreign = (atoms.numbers < 1) | (atoms.numbers > MAX_ATOMIC_NUMBER)
    if foreign.any():
        unknown = np.unique(atoms.numbers[foreign]).tolist()
        # As bytes, 257 would be hydrogen.
        return f"atomic numbers {unknown}, expected 1 to {MAX_ATOMIC_NUMBER}"
    if not atoms.pbc.any():
        return None
    if np.linalg.matrix_rank(atoms.cell.array[atoms.pbc]) < atoms.pbc.sum():
        return (
            f"a cell {atoms.cell.array.tolist()} that does not span the periodic directions of pbc "
            f"{atoms.pbc.tolist()}; correct one of them"
        )
    [space] = room([atoms.cell.array], [atoms.pbc], [len(atoms)])
    if space < LEAST_ROOM:
        return (
            f"a cell {atoms.cell.array.tolist()} that leaves no room for its atoms ({space:.2g}, "
            f"expected at least {LEAST_ROOM} Å^3 for each); give it in Å"
        )
    return None


def _suspects(
    numbers: npt.NDArray[np.int64],
    positions: npt.NDArray[np.float64],
    cell: npt.NDArray[np.float64],
    pbc: npt.NDArray[np.bool_],
    num_atoms: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """Structures that may have a fault; a look at all at once clears those of usual cells."""
    is_sound = np.isfinite(positions).all() and np.isfinite(cell).all()
    is_sound = is_sound and numbers.min() >= 1 and numbers.max() <= MAX_ATOMIC_NUMBER
    if not is_sound:
        return np.arange(len(num_atoms))
    is_roomy = np.abs(np.linalg.det(cell)) > 2 * LEAST_ROOM * num_atoms
    is_roomy &= np.abs(cell).max(axis=(1, 2)) < _LONG
    return np.flatnonzero(pbc.any(axis=1) & ~is_roomy)
