"""MatPES: crystals out of dynamics at room temperature, a gzip-compressed JSON list of entries.

An entry has ``structure`` (pymatgen), ``energy`` in eV, ``forces`` in eV/Å, ``stress`` as six
numbers in kbar, and ``provenance.original_mp_id`` (``pages/dataset.py`` of
materialsvirtuallab/matpes). The six are xx yy zz yz xz xy (``MLTrainDoc`` in ``emmet/core/ml.py``)
and have VASP's sign: the authors' tutorial multiplies by -0.1 for GPa. Materials are the groups,
the same ones as in MPtrj; an entry without an identifier is grouped by its composition.

A gzip stream can only be read from its start, so a file is one piece.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from mtlpar.core.hashing import name_hash
from mtlpar.sources.alexandria import ArchiveLayout, read_archive
from mtlpar.sources.base import RawBlock, Source
from mtlpar.sources.compressed import read_gz
from mtlpar.sources.materials_project import material_group
from mtlpar.sources.pymatgen_json import parse_labelled
from mtlpar.sources.quick_crystals import CrystalColumns, matrix_of_six, unique_keys, vectors
from mtlpar.sources.reading import Columns, Progress, as_floats, reduced_formula, require
from mtlpar.sources.settings import SourceSettings

_NAME: Final = "matpes"
# Where the rows of a matrix are among xx yy zz yz xz xy.
_MATRIX: Final = ((0, 5, 4), (5, 1, 3), (4, 3, 2))


def read(path: Path, _settings: SourceSettings) -> Iterator[RawBlock]:
    """Stream one ``MatPES-*.json.gz``.

    Entries are dropped as ``disordered_site``, ``missing_energy`` or ``missing_forces``.

    Raises:
        ValueError: If the file is damaged or laid out otherwise.
    """
    return read_archive(path, _LAYOUT, unpack=read_gz)


def _entries(progress: Progress, entries: list[Any]) -> Iterator[tuple[str, Any]]:
    for index, entry in enumerate(entries, start=progress.rows):
        yield _key(index, entry.get("matpes_id") if isinstance(entry, dict) else None), entry


def _key(index: int, name: Any) -> str:
    return f"entries.{index}" + (f" ({name})" if name else "")


def _gather(progress: Progress, entries: Any, columns: CrystalColumns) -> str:
    name = None
    for entry in entries:
        unique_keys(entry)
        stress = entry.get("stress")
        columns.add(
            entry["structure"],
            energy=entry["energy"],
            forces=vectors(entry["forces"]),
            stress=None if stress is None else matrix_of_six(stress),
            group=material_group(entry["provenance"]["original_mp_id"]),
        )
        name = entry.get("matpes_id")
    return _key(progress.rows + len(columns) - 1, name)


def _parse(entry: Any, where: str) -> Columns | str:
    columns = parse_labelled(
        require(entry, "structure", where),
        energy=entry.get("energy"),
        forces=entry.get("forces"),
        stress=_matrix(entry.get("stress"), where),
        where=where,
    )
    if isinstance(columns, str):
        return columns
    provenance = entry.get("provenance")
    material = provenance.get("original_mp_id") if isinstance(provenance, dict) else None
    if material is None:
        formula = reduced_formula(columns["atomic_numbers"].tolist())
        return {**columns, "group": name_hash(_NAME, formula)}
    if not isinstance(material, str):
        raise ValueError(f"{where}: 'original_mp_id' is {material!r:.80}, expected a text")
    return {**columns, "group": material_group(material)}


def _matrix(stress: Any, where: str) -> Any:
    """The matrix of six numbers in Voigt's order; None stays None."""
    if stress is None:
        return None
    six = as_floats(stress, (6,), name="stress", where=where)
    return [[six[place] for place in row] for row in _MATRIX]


_LAYOUT: Final = ArchiveLayout(
    head=re.compile(rb"\s*\["),
    expected="a list of entries",
    brackets=b"[]",
    rows="entries",
    records=_entries,
    parse=_parse,
    gather=_gather,
)

SOURCE: Final = Source(
    name=_NAME,
    title="MatPES",
    # Not MatPES-PBE-atoms.json.gz, the free atoms.
    data_files=("MatPES-PBE-20*.json.gz",),
    level_of_theory="PBE (VASP, MatPESStaticSet)",
    read=read,
)
