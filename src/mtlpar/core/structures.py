"""Structures in columns: many structures as a few flat arrays, never one object per structure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from mtlpar.core.fields import FIELDS, LABELS, get_field
from mtlpar.core.hashing import UInt64Array, mix64
from mtlpar.core.origin import near_origin
from mtlpar.core.ragged import ragged_arange

IndexArray = npt.NDArray[np.int64]


class StructureBatch:
    """S structures with A atoms in all, one array per field of the registry.

    Columns are attributes with the names, shapes and dtypes of `mtlpar.core.fields`: structure
    columns have S rows, atom columns have A rows in the order of the structures. The offsets that
    cut the atom columns into structures follow from ``num_atoms``.
    """

    num_atoms: npt.NDArray[np.int32]
    energy: npt.NDArray[np.float64]
    energy_mask: npt.NDArray[np.uint8]
    energy_weight: npt.NDArray[np.float32]
    cell: npt.NDArray[np.float32]
    pbc: npt.NDArray[np.uint8]
    charge: npt.NDArray[np.int8]
    spin: npt.NDArray[np.int8]
    stress: npt.NDArray[np.float32]
    stress_mask: npt.NDArray[np.uint8]
    stress_weight: npt.NDArray[np.float32]
    forces_mask: npt.NDArray[np.uint8]
    forces_weight: npt.NDArray[np.float32]
    group: UInt64Array
    structure_id: UInt64Array
    fingerprint: npt.NDArray[np.uint32]
    official_split: npt.NDArray[np.int8]
    atomic_numbers: npt.NDArray[np.uint8]
    positions: npt.NDArray[np.float32]
    forces: npt.NDArray[np.float32]

    _DTYPES: ClassVar[Mapping[str, str]] = {name: field.dtype for name, field in FIELDS.items()}

    def __init__(self, columns: Mapping[str, npt.ArrayLike]) -> None:
        """Take columns by name; see `from_labels` for how readers build a batch.

        Raises:
            ValueError: If a column is unknown or missing, or if lengths or shapes disagree.
        """
        for name in columns:
            get_field(name)
        missing = [name for name in FIELDS if name not in columns]
        if missing:
            raise ValueError(f"a batch of structures lacks the columns {', '.join(missing)}")
        arrays = {
            name: np.ascontiguousarray(columns[name], dtype=dtype)
            for name, dtype in self._DTYPES.items()
        }
        num_structures = len(arrays["num_atoms"])
        rows = {"structure": num_structures, "atom": int(arrays["num_atoms"].sum())}
        for name, field in FIELDS.items():
            expected = (rows[field.level], *field.shape)
            if arrays[name].shape != expected:
                raise ValueError(
                    f"column {name!r} has shape {arrays[name].shape}, expected {expected} "
                    f"for {num_structures} structures with {rows['atom']} atoms"
                )
            setattr(self, name, arrays[name])

    @classmethod
    def from_labels(
        cls,
        *,
        num_atoms: npt.ArrayLike,
        atomic_numbers: npt.ArrayLike,
        positions: npt.ArrayLike,
        energy: npt.ArrayLike,
        forces: npt.ArrayLike,
        group: npt.ArrayLike,
        identity: npt.ArrayLike | None = None,
        **optional: npt.ArrayLike,
    ) -> Self:
        """Build a batch from what a source gives, filling the rest with its documented default.

        Args:
            num_atoms: Atoms per structure, (S,).
            atomic_numbers: Atomic numbers, (A,).
            positions: Positions in Å, (A, 3). Those of structures far from the origin are brought
                near it before they are rounded, see `mtlpar.core.origin`.
            energy: Total energies in eV, (S,).
            forces: Forces in eV/Å, (A, 3).
            group: Hashes of what must not be split, (S,).
            identity: Hashes of what tells structures apart besides their columns, zero for
                nothing, (S,).
            **optional: Any other field except ``structure_id``, which is computed here. Defaults:
                no cell, not periodic, charge 0, spin unknown, no official split; energies and
                forces of all structures, stresses of none, each label with weight 1; no
                fingerprint, which the extract stage computes.
        """
        num_structures = len(np.asarray(num_atoms))
        columns: dict[str, npt.ArrayLike] = {
            "num_atoms": num_atoms,
            "atomic_numbers": atomic_numbers,
            "positions": positions,
            "energy": energy,
            "forces": forces,
            "group": group,
        }
        for name, field in FIELDS.items():
            if field.level == "structure" and name not in columns:
                shape = (num_structures, *field.shape)
                columns[name] = np.full(shape, field.default, field.dtype)
        columns |= optional
        if cls._DTYPES["positions"] == "float32":
            columns["positions"] = _rounded_well(columns)
        batch = cls(columns)
        batch.structure_id = content_hash(batch)
        if identity is not None:
            # So that `identity_of` can take it off again.
            batch.structure_id ^= np.asarray(identity, np.uint64)
        return batch

    def __len__(self) -> int:
        return len(self.num_atoms)

    def has(self, label: str) -> npt.NDArray[np.bool_]:
        """Which structures have a label of `mtlpar.core.fields.LABELS`, (S,)."""
        mask: npt.NDArray[np.bool_] = getattr(self, f"{label}_mask").astype(np.bool_)
        return mask

    @property
    def label_bits(self) -> npt.NDArray[np.uint8]:
        """Labels of each structure: bit i is set where it has that of `LABELS` at i, (S,)."""
        return label_bits({label: getattr(self, f"{label}_mask") for label in LABELS})

    @property
    def total_atoms(self) -> int:
        """Number of atoms in all structures together."""
        return len(self.atomic_numbers)

    @cached_property
    def offsets(self) -> IndexArray:
        """First atom of each structure, and the end of the last: (S + 1,)."""
        return np.concatenate([[0], np.cumsum(self.num_atoms, dtype=np.int64)])

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """All columns by name."""
        return {name: getattr(self, name) for name in FIELDS}

    def take(self, indices: npt.ArrayLike) -> Self:
        """Return the structures at ``indices``, in that order."""
        chosen = np.asarray(indices, dtype=np.int64)
        atoms = atom_indices(self.offsets, chosen)
        rows = {"structure": chosen, "atom": atoms}
        # ndarray.take is several times faster than indexing where rows are short.
        return type(self)(
            {
                name: getattr(self, name).take(rows[field.level], axis=0)
                for name, field in FIELDS.items()
            }
        )

    def slice(self, start: int, stop: int) -> Self:
        """Return structures ``start`` to ``stop`` as views, without copying."""
        offsets = self.offsets
        rows = {"structure": slice(start, stop), "atom": slice(offsets[start], offsets[stop])}
        return type(self)(
            {name: getattr(self, name)[rows[field.level]] for name, field in FIELDS.items()}
        )

    @staticmethod
    def concatenate(batches: Iterable[StructureBatch]) -> StructureBatch:
        """Join batches in order; none give an empty batch, one is returned as it is."""
        parts = list(batches)
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return StructureBatch(
                {name: np.zeros((0, *field.shape), field.dtype) for name, field in FIELDS.items()}
            )
        return StructureBatch(
            {name: np.concatenate([getattr(part, name) for part in parts]) for name in FIELDS}
        )


def _rounded_well(columns: Mapping[str, npt.ArrayLike]) -> npt.ArrayLike:
    """Positions that float32 resolves; those that are float32 already have nothing to lose."""
    positions = np.asarray(columns["positions"])
    if positions.dtype != np.float64 or positions.ndim != 2:
        return positions
    return near_origin(
        positions,
        np.asarray(columns["num_atoms"]).astype(np.int64),
        np.asarray(columns["cell"], np.float64),
        np.asarray(columns["pbc"]),
    )


class DoubleStructureBatch(StructureBatch):
    """Structures whose geometry keeps float64: what simulations move by less than float32 sees."""

    _DTYPES: ClassVar[Mapping[str, str]] = {
        **StructureBatch._DTYPES,
        "positions": "float64",
        "cell": "float64",
    }


def label_bits(masks: Mapping[str, npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    """Masks of all labels in one column, see `StructureBatch.label_bits`."""
    bits = np.zeros(len(masks[LABELS[0]]), np.uint8)
    for place, label in enumerate(LABELS):
        bits |= (masks[label] != 0).astype(np.uint8) << place
    return bits


def atom_indices(offsets: IndexArray, structures: IndexArray) -> IndexArray:
    """Rows of the atom columns that belong to ``structures``, in order.

    Args:
        offsets: First atom of each structure and the end, (S + 1,).
        structures: Structures to gather, (K,).

    Returns:
        Row numbers, one per atom of the chosen structures.
    """
    starts = offsets[structures]
    return ragged_arange(starts, offsets[structures + 1] - starts)


def segment_sum(values: npt.NDArray[Any], num_atoms: npt.NDArray[np.int32]) -> npt.NDArray[Any]:
    """Sum integer rows of an atom column over each structure; no atoms give zero.

    Args:
        values: (A, ...) integers. Sums wrap exactly; floats would lose digits to the running sum.
        num_atoms: (S,) atoms per structure.
    """
    ends = np.cumsum(num_atoms, dtype=np.int64)
    running = np.concatenate(
        [np.zeros((1, *values.shape[1:]), values.dtype), np.cumsum(values, axis=0)]
    )
    sums: npt.NDArray[Any] = running[ends] - running[ends - num_atoms]
    return sums


def content_hash(batch: StructureBatch) -> UInt64Array:
    """Hash of each structure's elements, positions, cell, pbc, charge and spin, (S,).

    Exact duplicates have equal hashes; labels and groups do not count. The order of the atoms
    counts: two orders of one geometry are two records.
    """
    offsets = batch.offsets
    index_in_structure = np.arange(batch.total_atoms) - np.repeat(offsets[:-1], batch.num_atoms)
    salt = mix64(index_in_structure.astype(np.uint64))
    atom_hash = mix64(salt + batch.atomic_numbers)
    for axis in range(3):
        values = batch.positions[:, axis].astype(np.float32, copy=False)
        atom_hash = mix64(atom_hash + _float_bits(values))
    # Wrapping integer sums are exact, so the running-sum trick of segment_sum is safe here.
    structure_hash = mix64(
        segment_sum(atom_hash, batch.num_atoms) + batch.num_atoms.view(np.uint32)
    )
    for column in (
        batch.cell.reshape(-1, 9),
        batch.pbc,
        batch.charge[:, None],
        batch.spin[:, None],
    ):
        for values in column.T:
            structure_hash = mix64(structure_hash + _float_bits(values.astype(np.float32)))
    return structure_hash


def identity_of(batch: StructureBatch) -> UInt64Array:
    """What tells structures apart besides their columns, as `StructureBatch.from_labels` took it.

    Returns:
        Hashes, zero for nothing, (S,).
    """
    return batch.structure_id ^ content_hash(batch)


def _float_bits(values: npt.NDArray[np.float32]) -> UInt64Array:
    # Adding zero turns -0.0 into 0.0, which is the same position.
    return (values + np.float32(0)).view(np.uint32).astype(np.uint64)


def iterate_slices(num_structures: int, size: int) -> Sequence[tuple[int, int]]:
    """Cut ``range(num_structures)`` into consecutive ``(start, stop)`` pieces of at most size."""
    return [(start, min(start + size, num_structures)) for start in range(0, num_structures, size)]
