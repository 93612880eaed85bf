"""Single structures, of ASE or as light as a reader can make them, as columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
from ase import Atoms
from ase.symbols import Symbols

from mtlpar.core.electronic_state import find_charge, find_spin
from mtlpar.core.fields import MAX_ATOMIC_NUMBER
from mtlpar.core.room import LEAST_ROOM, room
from mtlpar.core.structures import DoubleStructureBatch, StructureBatch
from mtlpar.core.wording import counted

BESIDE_LABELS: Final = frozenset(
    {"energies", "energy_uncertainty", "chosen", "refused", "unseen_pairs", "descriptors"}
)
"""What `mtlpar predict` writes of a structure that is no label, nor says whose a label is."""

# Å; vectors that span a volume and are shorter are independent as far as float64 tells.
_LONG: Final = 1e4
# In double precision places there are known to 1e-7 Å; in single precision, none is known to 10 Å.
_FARTHEST: Final = 1e9


class AtomsLike(Protocol):
    """What is read of a structure: `ase.Atoms` has it, and `Structure`, which is made faster."""

    @property
    def numbers(self) -> npt.NDArray[Any]:
        """Atomic numbers, (N,)."""

    @property
    def positions(self) -> npt.NDArray[np.float64]:
        """Positions in Å, (N, 3)."""

    @property
    def cell(self) -> Any:
        """Cell vectors in Å, (3, 3), or what NumPy makes that of."""

    @property
    def pbc(self) -> npt.NDArray[np.bool_]:
        """Which of them are periodic, (3,)."""

    @property
    def info(self) -> Mapping[str, Any]:
        """Charge, spin and what else somebody noted."""

    def __len__(self) -> int:
        """Number of atoms N."""


@dataclass(frozen=True, slots=True)
class Structure:
    """A structure as columns hold it; see `AtomsLike`."""

    numbers: npt.NDArray[Any]
    positions: npt.NDArray[np.float64]
    cell: npt.NDArray[np.float64]
    pbc: npt.NDArray[np.bool_]
    info: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.numbers)


def iterate_structures(batch: StructureBatch) -> Iterator[Structure]:
    """Structures of a batch without labels, with their charge and, if one is stated, their spin."""
    numbers, pbc = batch.atomic_numbers, batch.pbc.astype(np.bool_)
    positions, cell = batch.positions.astype(np.float64), batch.cell.astype(np.float64)
    states = zip(batch.charge.tolist(), batch.spin.tolist(), strict=True)
    for index, ((first, last), (charge, spin)) in enumerate(
        zip(pairwise(batch.offsets.tolist()), states, strict=True)
    ):
        info = {"charge": charge, "spin": spin} if spin else {"charge": charge}
        yield Structure(numbers[first:last], positions[first:last], cell[index], pbc[index], info)


def structure_batch(structures: Sequence[AtomsLike] | Atoms) -> DoubleStructureBatch:
    """Columns of single structures, with float64 geometry and no labels.

    Charge and spin multiplicity are read from ``atoms.info``, under the keys of
    `mtlpar.core.electronic_state`; without them a structure has charge 0 and a spin that nobody
    stated.

    Raises:
        ValueError: If this is no list of structures, or an empty one, or a structure has no atoms,
            unknown ones or a degenerate cell, or is not finite.
    """
    if isinstance(structures, Atoms):
        raise ValueError(f"expected a list of structures, got one: {structures}; write [atoms]")
    for index, atoms in enumerate(structures):
        if not hasattr(atoms, "positions"):
            raise ValueError(
                f"structure {index} is {atoms!r:.80}, expected ase.Atoms; read files first, with "
                'ase.io.read(file, ":")'
            )
    empty = [index for index, atoms in enumerate(structures) if len(atoms) == 0]
    if empty or not structures:
        raise ValueError(
            f"nothing to predict: got {counted(len(structures), 'structure')}, empty: {empty}"
        )
    num_atoms = np.array([len(atoms) for atoms in structures])
    numbers = np.concatenate([atoms.numbers for atoms in structures])
    positions = np.concatenate([atoms.positions for atoms in structures])
    cell = np.stack([np.asarray(atoms.cell) for atoms in structures])
    pbc = np.stack([atoms.pbc for atoms in structures])
    for index in _suspects(numbers, positions, cell, pbc, num_atoms):
        if fault := fault_of(structures[index]):
            raise ValueError(
                f"structure {index} of {counted(num_atoms[index], 'atom')} has {fault}"
            )
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
        charge=[charge_of(atoms, number) for number, atoms in enumerate(structures)],
        spin=[spin_of(atoms, number) for number, atoms in enumerate(structures)],
    )


def charge_of(atoms: AtomsLike, number: int | None = None) -> int:
    """Total charge in e; see `structure_batch`.

    Args:
        atoms: The structure.
        number: Its number among those that are looked at, for messages.

    Raises:
        ValueError: If it is not a whole number.
    """
    return _of_info(find_charge, atoms, number)


def spin_of(atoms: AtomsLike, number: int | None = None) -> int:
    """Spin multiplicity, 0 if nobody stated it; see `charge_of`."""
    return _of_info(find_spin, atoms, number)


def _of_info(
    find: Callable[[Mapping[str, Any], str], int], atoms: AtomsLike, number: int | None
) -> int:
    if not atoms.info:
        return 0
    try:
        return find(atoms.info, "atoms.info")
    except ValueError:
        # The place takes longer to write down than all the rest, and only an error needs it.
        which = "" if number is None else f"structure {number}, "
        return find(atoms.info, f"atoms.info of {which}{Symbols(atoms.numbers)}")


def fault_of(atoms: AtomsLike) -> str | None:
    """What makes an answer impossible, if anything does; it would look like one."""
    cell = np.asarray(atoms.cell)
    if not (np.isfinite(atoms.positions).all() and np.isfinite(cell).all()):
        # Atoms that are nowhere have no neighbours.
        return "positions or a cell that are not finite"
    if (np.abs(atoms.positions) > _FARTHEST).any():
        return f"positions beyond {_FARTHEST:g} Å, where distances have no digits; give them in Å"
    foreign = (atoms.numbers < 1) | (atoms.numbers > MAX_ATOMIC_NUMBER)
    if foreign.any():
        unknown = np.unique(atoms.numbers[foreign]).tolist()
        # As bytes, 257 would be hydrogen.
        return f"atomic numbers {unknown}, expected 1 to {MAX_ATOMIC_NUMBER}"
    if not atoms.pbc.any():
        return None
    if np.linalg.matrix_rank(cell[atoms.pbc]) < atoms.pbc.sum():
        return (
            f"a cell {cell.tolist()} that does not span the periodic directions of pbc "
            f"{atoms.pbc.tolist()}; correct one of them"
        )
    [space] = room([cell], [atoms.pbc], [len(atoms)])
    if space < LEAST_ROOM:
        return (
            f"a cell {cell.tolist()} that leaves no room for its atoms ({space:.2g}, "
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
    is_sound = bool(np.abs(positions).max() <= _FARTHEST) and np.isfinite(cell).all()
    is_sound = is_sound and numbers.min() >= 1 and numbers.max() <= MAX_ATOMIC_NUMBER
    if not is_sound:
        return np.arange(len(num_atoms))
    is_roomy = np.abs(np.linalg.det(cell)) > 2 * LEAST_ROOM * num_atoms
    is_roomy &= np.abs(cell).max(axis=(1, 2)) < _LONG
    return np.flatnonzero(pbc.any(axis=1) & ~is_roomy)
