"""Alexandria's relaxation paths: where its forces are, since relaxed crystals have next to none.

Each ``geo_opt_paths`` shard is a bzip2-compressed ``{material: [calculation, ...]}``, a calculation
being ``{"functional": ..., "steps": [{structure, energy, forces, stress}, ...]}``. A composition is
in the same split here and among the relaxed structures, because both name their groups alike. The
stress is taken to be VASP's in kbar, as there.
"""

from __future__ import annotations

import bz2
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from mtlpar.sources.ahead import ahead
from mtlpar.sources.alexandria import THEORY, composition_group
from mtlpar.sources.base import RawBlock, Source
from mtlpar.sources.json_members import JsonDamageError, Members, Run, read_chunks
from mtlpar.sources.pymatgen_json import parse_labelled, parse_runs
from mtlpar.sources.reading import Columns, Progress, collect_records, require
from mtlpar.sources.settings import SourceSettings

_HEAD: Final = re.compile(rb"\s*\{")
_EXPECTED: Final = '{material: [{"steps": [...]}, ...]}'


def read(path: Path, _settings: SourceSettings) -> Iterator[RawBlock]:
    """Stream one shard, for instance ``pbe_0000.json.bz2``.

    Steps are dropped as ``disordered_site``, ``missing_energy`` or ``missing_forces``.

    Raises:
        ValueError: If the file is damaged or laid out otherwise.
    """
    progress = Progress(path)
    records = parse_runs(_runs(path), b"{}", partial(_steps, path), progress)
    yield from collect_records(progress, records, _parse, OSError, EOFError, JsonDamageError)
    if not progress.rows:
        raise ValueError(f"{path} holds no steps, expected {_EXPECTED}")


def _runs(path: Path) -> Iterator[Run]:
    with bz2.BZ2File(path) as stream:
        members = Members(ahead(read_chunks(stream)), _HEAD, expected=_EXPECTED)
        yield from members.runs(members.chunks, offset=len(members.head))


def _steps(path: Path, materials: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for material, calculations in materials.items():
        where = f"{path}, key {material}"
        if not isinstance(calculations, list):
            raise ValueError(f"{where}: expected a list, got {calculations!r:.80}")
        for number, calculation in enumerate(calculations):
            steps = require(calculation, "steps", f"{where}.{number}")
            for index, step in enumerate(steps):
                yield f"{material}.{number}.steps.{index}", step


def _parse(step: Any, where: str) -> Columns | str:
    columns = parse_labelled(
        require(step, "structure", where),
        energy=step.get("energy"),
        forces=step.get("forces"),
        stress=step.get("stress"),
        where=where,
    )
    if isinstance(columns, str):
        return columns
    return {**columns, "group": composition_group(columns["atomic_numbers"])}


SOURCE: Final = Source(
    name="alexandria_paths",
    title="Alexandria paths",
    # The newer and the older names of the PBE shards; other functionals have folders of their own.
    data_files=("pbe_[0-9]*.json.bz2", "pbe_[12]d_[0-9]*.json.bz2", "alex_go_*.json.bz2"),
    level_of_theory=THEORY,
    read=read,
)
