"""Alexandria: relaxed PBE crystals, bzip2-compressed JSON files of pymatgen entries.

Files hold ``{"entries": [...]}``, or the bare list. The energy is ``data.energy_total``, forces
stand with the sites, and the stress is taken to be VASP's in kbar: its documentation does not say,
but its size rules out eV/Å^3. Structures of two and one dimensions are periodic in all three, with
15 Å of vacuum, and are taken as their files give them.

A bzip2 stream can only be read from its start, so a file is one piece; the release has fifty.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from mtlpar.core.hashing import name_hash
from mtlpar.sources.base import RawBlock, Source
from mtlpar.sources.compressed import read_bz2
from mtlpar.sources.json_members import JSON_ERRORS, MemberRun, Members
from mtlpar.sources.pymatgen_json import parse_labelled, parse_runs
from mtlpar.sources.quick_crystals import CrystalColumns, unique_keys, vector
from mtlpar.sources.reading import Columns, Progress, collect_records, reduced_formula, require
from mtlpar.sources.settings import SourceSettings

THEORY: Final = "PBE or PBE+U per material (VASP), without corrections"


def read(path: Path, _settings: SourceSettings) -> Iterator[RawBlock]:
    """Stream one ``alexandria_*.json.bz2``.

    Entries are dropped as ``disordered_site``, ``missing_energy`` or ``missing_forces``.

    Raises:
        ValueError: If the file is damaged or laid out otherwise.
    """
    return read_archive(path, _LAYOUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveLayout:
    """What a compressed JSON document of crystals looks like.

    Attributes:
        head: Matches its beginning up to the bracket that opens the container.
        expected: The layout, for people.
        brackets: Those of the container.
        rows: What holds a structure, for people.
        records: Key and content of each record among parsed members.
        parse: Turns the content of a record and its place into columns, or into the reason why it
            cannot be used.
        gather: The same for regular records, all at once: see `gather_quickly`.
    """

    head: re.Pattern[bytes]
    expected: str
    brackets: bytes
    rows: str
    records: Callable[[Progress, Any], Iterator[tuple[str, Any]]]
    parse: Callable[[Any, str], Columns | str]
    gather: Callable[[Progress, Any, CrystalColumns], str]


def read_archive(
    path: Path, layout: ArchiveLayout, *, unpack: Callable[[Path], Iterator[bytes]] = read_bz2
) -> Iterator[RawBlock]:
    """Stream a compressed JSON document of crystals.

    Args:
        path: The file.
        layout: What the document looks like.
        unpack: Streams the content of the file.

    Raises:
        ValueError: If the file is damaged, laid out otherwise or holds nothing.
    """
    progress = Progress(path)
    records = parse_runs(
        _runs(unpack(path), layout),
        layout.brackets,
        partial(layout.records, progress),
        progress,
        partial(layout.gather, progress),
    )
    yield from collect_records(progress, records, layout.parse, *JSON_ERRORS)
    if not progress.rows:
        raise ValueError(f"{path} holds no {layout.rows}, expected {layout.expected}")


def _runs(content: Iterator[bytes], layout: ArchiveLayout) -> Iterator[MemberRun]:
    members = Members(content, layout.head, expected=layout.expected)
    yield from members.runs(members.chunks, offset=len(members.head))


def _entries(progress: Progress, entries: list[Any]) -> Iterator[tuple[str, Any]]:
    for index, entry in enumerate(entries, start=progress.rows):
        data = entry.get("data") if isinstance(entry, dict) else None
        yield _key(index, data.get("mat_id") if isinstance(data, dict) else None), entry


def _key(index: int, material: Any) -> str:
    return f"entries.{index}" + (f" ({material})" if material else "")


def _gather(progress: Progress, entries: Any, columns: CrystalColumns) -> str:
    columns.once_per_site.add(b'"forces"')
    data = {}
    for entry in entries:
        unique_keys(entry)
        data = entry["data"]
        unique_keys(data)
        structure = entry["structure"]
        columns.add(
            structure,
            energy=data["energy_total"],
            forces=b"".join([vector(site["properties"]["forces"]) for site in structure["sites"]]),
            stress=data.get("stress"),
            group=composition_group,
        )
    return _key(progress.rows + len(columns) - 1, data.get("mat_id"))


def _parse(entry: Any, where: str) -> Columns | str:
    structure = require(entry, "structure", where)
    data = require(entry, "data", where)
    labels = data if isinstance(data, dict) else {}
    sites = require(structure, "sites", where)
    if not isinstance(sites, list):
        raise ValueError(f"{where}: expected a list of 'sites', got {sites!r:.80}")
    return grouped(
        parse_labelled(
            structure,
            energy=labels.get("energy_total"),
            forces=[_forces_of(site) for site in sites],
            stress=labels.get("stress"),
            where=where,
        )
    )


def _forces_of(site: Any) -> Any:
    return (site.get("properties") or {}).get("forces") if isinstance(site, dict) else None


def grouped(columns: Columns | str) -> Columns | str:
    """Add the group to the columns of a crystal."""
    if isinstance(columns, str):
        return columns
    return {**columns, "group": composition_group(columns["atomic_numbers"].tolist())}


def composition_group(atomic_numbers: list[int]) -> int:
    """Group of a crystal: all polymorphs and cell sizes of a composition share it."""
    return _group_of_formula(reduced_formula(atomic_numbers))


def _group_of_formula(formula: str) -> int:
    return name_hash(SOURCE.name, formula)


_LAYOUT: Final = ArchiveLayout(
    head=re.compile(rb'\s*(?:\[|\{\s*"entries"\s*:\s*\[)'),
    expected='{"entries": [...]} or a list',
    brackets=b"[]",
    rows="entries",
    records=_entries,
    parse=_parse,
    gather=_gather,
)

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
    group_of_name=_group_of_formula,
)
