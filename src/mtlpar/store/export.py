"""Writes structures of a ``.bp`` folder in formats that other programs read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import ase.db
import numpy as np
import numpy.typing as npt
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols
from tqdm import tqdm

from mtlpar.core.fields import MATRIX_OF_SIX
from mtlpar.core.files import atomic_path
from mtlpar.core.structures import StructureBatch
from mtlpar.core.wording import counted
from mtlpar.store.bp import BpReader
from mtlpar.store.header import BpHeader
from mtlpar.store.pack import open_folder

_BLOCK_STRUCTURES: Final = 4096
_SYMBOLS: Final = np.array(chemical_symbols)
# An ASE database has a column "charge" of its own, with another meaning.
_DATABASE_NAMES: Final = {"charge": "total_charge", "spin": "spin_multiplicity"}
# Nine digits tell any two float32 apart.
_ATOM_LINE: Final = {numbers: "%s" + " %.9g" * numbers + "\n" for numbers in (3, 6)}


def export(path: Path, out: Path, *, start: int = 0, limit: int | None = None) -> int:
    """Write structures of a ``.bp`` folder, from ``start`` on, to one file, in order.

    Energies are total energies in eV; positions, cells, forces and stresses have all digits that
    the folder has.

    Args:
        path: The folder.
        out: File to write; ``.extxyz`` or ``.xyz`` for extended XYZ, ``.db`` for an ASE database.
        start: First structure.
        limit: Most structures to write (default: all).

    Returns:
        Number of structures written.

    Raises:
        ValueError: If the folder is not usable, the format is unknown, or there are no such
            structures.
    """
    if out.suffix not in _WRITERS:
        raise ValueError(
            f"{out}: unknown format {out.suffix!r}; known formats: {', '.join(_WRITERS)}"
        )
    with open_folder(path) as reader, atomic_path(out) as temporary:
        stop = len(reader) if limit is None else min(start + limit, len(reader))
        if not 0 <= start < stop:
            raise ValueError(
                f"{path} has {counted(len(reader), 'structure')}: none to write from {start} on"
                + ("" if limit is None else f", at most {limit}")
            )
        _WRITERS[out.suffix](temporary, _batches(reader, start, stop), reader.header)
        return stop - start


def iterate_atoms(batch: StructureBatch, header: BpHeader) -> Iterator[Atoms]:
    """Yield each structure as `ase.Atoms` with its labels as calculator results.

    Args:
        batch: The structures.
        header: What their folder says about itself.
    """
    for index, (first, last) in enumerate(_atom_ranges(batch)):
        atoms = Atoms(
            numbers=batch.atomic_numbers[first:last],
            positions=batch.positions[first:last],
            cell=batch.cell[index],
            pbc=batch.pbc[index].astype(bool),
            info=_facts(batch, index, header),
        )
        atoms.calc = _labels(batch, index, slice(first, last), atoms)
        yield atoms


def _labels(batch: StructureBatch, index: int, of: slice, atoms: Atoms) -> SinglePointCalculator:
    """The labels that a structure has; ``of`` are its atoms."""
    labels = {
        "energy": float(batch.energy[index]),
        "forces": batch.forces[of].astype(np.float64),
        "stress": batch.stress[index].astype(np.float64),
    }
    there = {name: value for name, value in labels.items() if _has(batch, name, index)}
    return SinglePointCalculator(atoms, **there)  # type: ignore[no-untyped-call]


def _batches(reader: BpReader[BpHeader], start: int, stop: int) -> Iterator[StructureBatch]:
    with tqdm(total=stop - start, unit="structures", unit_scale=True, disable=None) as bar:
        for first in range(start, stop, _BLOCK_STRUCTURES):
            batch = reader.read(first, min(first + _BLOCK_STRUCTURES, stop))
            yield batch
            bar.update(len(batch))


def _write_extxyz(path: Path, batches: Iterator[StructureBatch], header: BpHeader) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for batch in batches:
            symbols = _SYMBOLS[batch.atomic_numbers].tolist()
            rows = np.concatenate([batch.positions, batch.forces], axis=1).tolist()
            for index, (first, last) in enumerate(_atom_ranges(batch)):
                stream.write(f"{last - first}\n{_comment(batch, index, header)}\n")
                columns = 6 if _has(batch, "forces", index) else 3
                line = _ATOM_LINE[columns]
                stream.writelines(
                    line % (symbol, *row[:columns])
                    for symbol, row in zip(symbols[first:last], rows[first:last], strict=True)
                )


def _comment(batch: StructureBatch, index: int, header: BpHeader) -> str:
    """Second line of a frame in extended XYZ."""
    facts = {
        key: f'"{value}"' if isinstance(value, str) else str(value)
        for key, value in _facts(batch, index, header).items()
    }
    lattice = {"Lattice": _numbers(batch.cell[index])} if batch.cell[index].any() else {}
    labels = {
        "energy": repr(float(batch.energy[index])),
        "stress": _numbers(batch.stress[index, MATRIX_OF_SIX]),
    }
    forces = ":forces:R:3" if _has(batch, "forces", index) else ""
    entries = {
        **lattice,
        "Properties": f"species:S:1:pos:R:3{forces}",
        "pbc": '"' + " ".join("T" if periodic else "F" for periodic in batch.pbc[index]) + '"',
        **{name: text for name, text in labels.items() if _has(batch, name, index)},
        **facts,
    }
    return " ".join(f"{key}={value}" for key, value in entries.items())


def _write_ase_db(path: Path, batches: Iterator[StructureBatch], header: BpHeader) -> None:
    # SQLite says neither where nor why.
    path.touch()
    database = ase.db.connect(path, type="db", use_lock_file=False)  # type: ignore[no-untyped-call]
    for batch in batches:
        # One transaction per batch; one per structure would wait for the disk each time.
        with database:
            for atoms in iterate_atoms(batch, header):
                pairs = {_DATABASE_NAMES.get(key, key): atoms.info[key] for key in atoms.info}
                database.write(atoms, key_value_pairs=pairs)
    database.metadata = {
        "title": f"{header.source or ''} {header.split or ''}".strip(),
        "level_of_theory": header.level_of_theory or "",
    }


_WRITERS: Final[dict[str, Callable[[Path, Iterator[StructureBatch], BpHeader], None]]] = {
    ".extxyz": _write_extxyz,
    ".xyz": _write_extxyz,
    ".db": _write_ase_db,
}


def _facts(batch: StructureBatch, index: int, header: BpHeader) -> dict[str, Any]:
    """What a structure is and where it comes from."""
    names = {"source": header.source, "split": header.split}
    facts: dict[str, Any] = {key: name for key, name in names.items() if name is not None}
    # As text: readers would turn such large integers into floats.
    facts["structure_id"] = f"0x{batch.structure_id[index]:016x}"
    facts["group_id"] = f"0x{batch.group[index]:016x}"
    # Where predictions look for them.
    facts["charge"] = int(batch.charge[index])
    if batch.spin[index]:
        facts["spin"] = int(batch.spin[index])
    return facts


def _has(batch: StructureBatch, label: str, index: int) -> bool:
    """Whether a structure has a label; what stands in its place otherwise means nothing."""
    return bool(getattr(batch, f"{label}_mask")[index])


def _atom_ranges(batch: StructureBatch) -> Iterator[tuple[int, int]]:
    return pairwise(batch.offsets.tolist())


def _numbers(values: npt.NDArray[np.float32]) -> str:
    return '"' + " ".join(f"{value:.9g}" for value in values.reshape(-1).tolist()) + '"'
