"""Alexandria: relaxed PBE crystals, bzip2-compressed JSON files of pymatgen entries.

Files hold ``{"entries": [...]}``, or the bare list. The energy is ``data.energy_total``, forces
stand with the sites, and the stress is taken to be VASP's in kbar: its documentation does not say,
but its size rules out eV/Å^3.
"""

from __future__ import annotations

import bz2
from collections import Counter
from collections.abc import Iterator
from math import gcd
from pathlib import Path
from typing import Any, Final

import ijson
import numpy as np
import numpy.typing as npt

from mtlpar.core.hashing import name_hash
from mtlpar.sources.base import RawBlock, Source
from mtlpar.sources.pymatgen_json import (
    parse_forces,
    parse_stress,
    parse_structure,
    stress_columns,
)
from mtlpar.sources.reading import (
    BlockBuilder,
    Progress,
    as_floats,
    damage_named,
    require,
)
from mtlpar.sources.settings import SourceSettings


def read(path: Path, _settings: SourceSettings) -> Iterator[RawBlock]:
    """Stream one ``alexandria_*.json.bz2``.

    Entries are dropped as ``disordered_site``, ``missing_energy`` or ``missing_forces``.

    Raises:
        ValueError: If the file is damaged or laid out otherwise.
    """
    progress = Progress(path)
    block = BlockBuilder()
    with (
        damage_named(progress, OSError, EOFError, ijson.JSONError),
        bz2.BZ2File(path) as stream,
    ):
        prefix = "item" if stream.peek(1).lstrip()[:1] == b"[" else "entries.item"
        for entry in ijson.items(stream, prefix, use_float=True):
            progress.last = _name(entry, progress.rows)
            _add(block, entry, where=progress.where())
            progress.rows += 1
            if block.full:
                yield block.take()
    if not progress.rows:
        raise ValueError(f'{path} holds no entries, expected {{"entries": [...]}} or a list')
    if block.rows:
        yield block.take()


def _name(entry: Any, index: int) -> str:
    data = entry.get("data") if isinstance(entry, dict) else None
    material = data.get("mat_id") if isinstance(data, dict) else None
    return f"entries.{index}" + (f" ({material})" if material else "")


def _add(block: BlockBuilder, entry: Any, *, where: str) -> None:
    structure = require(entry, "structure", where)
    crystal = parse_structure(structure, where=where)
    if crystal is None:
        return block.drop("disordered_site")
    data = require(entry, "data", where)
    if not isinstance(data, dict) or data.get("energy_total") is None:
        return block.drop("missing_energy")
    energy = as_floats(data["energy_total"], (), name="energy_total", where=where)
    per_site = [(site.get("properties") or {}).get("forces") for site in structure["sites"]]
    forces = parse_forces(per_site, len(per_site), where=where)
    if forces is None:
        return block.drop("missing_forces")
    return block.add(
        atomic_numbers=crystal.atomic_numbers,
        positions=crystal.positions,
        energy=float(energy),
        forces=forces,
        group=name_hash(SOURCE.name, reduced_formula(crystal.atomic_numbers)),
        cell=crystal.cell,
        pbc=crystal.pbc,
        **stress_columns(parse_stress(data.get("stress"), where=where)),
    )


def reduced_formula(atomic_numbers: npt.NDArray[np.uint8]) -> str:
    """Name a composition, the same for all its polymorphs and cell sizes, e.g. ``8:3-26:2``."""
    counts = Counter(atomic_numbers.tolist())
    divisor = gcd(*counts.values())
    return "-".join(f"{number}:{counts[number] // divisor}" for number in sorted(counts))


SOURCE: Final = Source(
    name="alexandria",
    title="Alexandria",
    # Everything but alexandria_ps_* (PBEsol) and alexandria_scan_*: other levels of theory.
    data_files=(
        "alexandria_[!ps]*.json.bz2",
        "alexandria_p[!s]*.json.bz2",
        "alexandria_s[!c]*.json.bz2",
    ),
    level_of_theory="PBE or PBE+U per material (VASP), without corrections",
    read=read,
)
