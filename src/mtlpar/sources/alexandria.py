"""Alexandria: relaxed PBE crystals, bzip2-compressed JSON files of pymatgen entries.

Files hold ``{"entries": [...]}``, or the bare list. The energy is ``data.energy_total``, forces
stand with the sites, and the stress is taken to be VASP's in kbar: its documentation does not say,
but its size rules out eV/Å^3. Structures of two and one dimensions are periodic in all three, with
15 Å of vacuum, and are taken as their files give them.

A bzip2 stream can only be read from its start, so a file is one piece; the release has fifty.
"""

from __future__ import annotations

import bz2
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mtlpar.core.hashing import name_hash
from mtlpar.sources.ahead import ahead
from mtlpar.sources.base import RawBlock, Source
from mtlpar.sources.json_members import JsonDamageError, Members, Run, read_chunks
from mtlpar.sources.pymatgen_json import parse_labelled, parse_runs
from mtlpar.sources.reading import (
    Columns,
    Progress,
    collect_records,
    reduced_formula,
    require,
)
from mtlpar.sources.settings import SourceSettings

THEORY: Final = "PBE or PBE+U per material (VASP), without corrections"
_HEAD: Final = re.compile(rb'\s*(?:\[|\{\s*"entries"\s*:\s*\[)')
_EXPECTED: Final = '{"entries": [...]} or a list'


def read(path: Path, _settings: SourceSettings) -> Iterator[RawBlock]:
    """Stream one ``alexandria_*.json.bz2``.

    Entries are dropped as ``disordered_site``, ``missing_energy`` or ``missing_forces``.

    Raises:
        ValueError: If the file is damaged or laid out otherwise.
    """
    progress = Progress(path)
    records = parse_runs(_runs(path), b"[]", partial(_entries, progress), progress)
    return collect_records(progress, records, _parse, OSError, EOFError, JsonDamageError)


def _runs(path: Path) -> Iterator[Run]:
    with bz2.BZ2File(path) as stream:
        members = Members(ahead(read_chunks(stream)), _HEAD, expected=_EXPECTED)
        runs = members.runs(members.chunks, offset=len(members.head), row_depth=members.depth)
        count = 0
        for run in runs:
            count += 1
            yield run
    if not count:
        raise ValueError(f"{path} holds no entries, expected {_EXPECTED}")


def _entries(progress: Progress, entries: list[Any]) -> Iterator[tuple[str, Any]]:
    for index, entry in enumerate(entries, start=progress.rows):
        data = entry.get("data") if isinstance(entry, dict) else None
        material = data.get("mat_id") if isinstance(data, dict) else None
        yield f"entries.{index}" + (f" ({material})" if material else ""), entry


def _parse(entry: Any, where: str) -> Columns | str:
    structure = require(entry, "structure", where)
    data = require(entry, "data", where)
    labels = data if isinstance(data, dict) else {}
    sites = require(structure, "sites", where)
    columns = parse_labelled(
        structure,
        energy=labels.get("energy_total"),
        forces=[_forces_of(site) for site in sites],
        stress=labels.get("stress"),
        where=where,
    )
    if isinstance(columns, str):
        return columns
    return {**columns, "group": composition_group(columns["atomic_numbers"])}


def _forces_of(site: Any) -> Any:
    return (site.get("properties") or {}).get("forces") if isinstance(site, dict) else None


def composition_group(atomic_numbers: npt.NDArray[np.uint8]) -> int:
    """Group of a crystal: all polymorphs and cell sizes of a composition share it."""
    return name_hash(SOURCE.name, reduced_formula(atomic_numbers))


SOURCE: Final = Source(
    name="alexandria",
    title="Alexandria",
    # Everything but alexandria_ps_* (PBEsol) and alexandria_scan_*: other levels of theory.
    data_files=(
        "alexandria_[!ps]*.json.bz2",
        "alexandria_p[!s]*.json.bz2",
        "alexandria_s[!c]*.json.bz2",
    ),
    level_of_theory=THEORY,
    read=read,
)
