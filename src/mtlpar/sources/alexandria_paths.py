"""Alexandria's relaxation paths: where its forces are, since relaxed crystals have next to none.

Each ``geo_opt_paths`` shard is a bzip2-compressed ``{material: [calculation, ...]}``, a calculation
being ``{"functional": ..., "steps": [{structure, energy, forces, stress}, ...]}``. A composition is
in the same split here and among the relaxed structures, because both name their groups alike. The
stress is taken to be VASP's in kbar, as there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from mtlpar.sources.alexandria import (
    THEORY,
    ArchiveLayout,
    composition_group,
    grouped,
    read_archive,
)
from mtlpar.sources.base import RawBlock, Source
from mtlpar.sources.pymatgen_json import parse_labelled
from mtlpar.sources.quick_crystals import CrystalColumns, unique_keys, vectors
from mtlpar.sources.reading import Columns, Progress, require
from mtlpar.sources.settings import SourceSettings


def read(path: Path, _settings: SourceSettings) -> Iterator[RawBlock]:
    """Stream one shard, for instance ``pbe_0000.json.bz2``.

    Steps are dropped as ``disordered_site``, ``missing_energy`` or ``missing_forces``.

    Raises:
        ValueError: If the file is damaged or laid out otherwise.
    """
    return read_archive(path, _LAYOUT)


def _steps(progress: Progress, materials: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for material, calculations in materials.items():
        where = f"{progress.path}, key {material}"
        for number, calculation in enumerate(_list(calculations, where)):
            steps = _list(require(calculation, "steps", f"{where}.{number}"), f"{where}.{number}")
            for index, step in enumerate(steps):
                yield _key(material, number, index), step


def _list(values: Any, where: str) -> list[Any]:
    if not isinstance(values, list):
        raise ValueError(f"{where}: expected a list, got {values!r:.80}")
    return values


def _key(material: str, number: int, index: int) -> str:
    return f"{material}.{number}.steps.{index}"


def _gather(_progress: Progress, materials: Any, columns: CrystalColumns) -> str:
    last = ""
    for material in unique_keys(materials):
        for number, calculation in enumerate(materials[material]):
            unique_keys(calculation)
            for index, step in enumerate(calculation["steps"]):
                unique_keys(step)
                columns.add(
                    step["structure"],
                    energy=step["energy"],
                    forces=vectors(step["forces"]),
                    stress=step.get("stress"),
                    group=composition_group,
                )
                last = _key(material, number, index)
    return last


def _parse(step: Any, where: str) -> Columns | str:
    return grouped(
        parse_labelled(
            require(step, "structure", where),
            energy=step.get("energy"),
            forces=step.get("forces"),
            stress=step.get("stress"),
            where=where,
        )
    )


_LAYOUT: Final = ArchiveLayout(
    head=re.compile(rb"\s*\{"),
    expected='{material: [{"steps": [...]}, ...]}',
    brackets=b"{}",
    rows="steps",
    records=_steps,
    parse=_parse,
    gather=_gather,
)

SOURCE: Final = Source(
    name="alexandria_paths",
    title="Alexandria paths",
    # The newer and the older names of the PBE shards; other functionals have folders of their own.
    data_files=("pbe_[0-9]*.json.bz2", "pbe_[12]d_[0-9]*.json.bz2", "alex_go_*.json.bz2"),
    level_of_theory=THEORY,
    read=read,
)
