"""MPTrj: relaxation paths of the Materials Project, one JSON object of 12 GB on one line.

``{material: {frame: {structure, energies, force, stress, ...}}}``. It is streamed material by
material. Forces are gradients of the raw DFT energy; the corrections of MP2020 are constant along a
path but jump between classes of compounds, so the uncorrected energy is the default.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import ijson

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


def read(path: Path, settings: SourceSettings) -> Iterator[RawBlock]:
    """Stream ``MPtrj_2022.9_full.json``.

    Frames are dropped as ``disordered_site``, ``missing_energy`` or ``missing_forces``.

    Raises:
        ValueError: If the file is damaged or laid out otherwise.
    """
    progress = Progress(path)
    block = BlockBuilder()
    energy_key = f"{settings.mptrj_energy}_total_energy"
    with damage_named(progress, OSError, ijson.JSONError), path.open("rb") as stream:
        for material, frames in ijson.kvitems(stream, "", use_float=True):
            progress.last = material
            if not isinstance(frames, dict):
                raise ValueError(
                    f"{progress.where()}: expected an object of frames, got {frames!r:.80}"
                )
            group = name_hash(SOURCE.name, material)
            for name, frame in frames.items():
                progress.last = f"{material}/{name}"
                _add(block, frame, group, energy_key, where=progress.where())
                progress.rows += 1
                if block.full:
                    yield block.take()
    if not progress.rows:
        raise ValueError(f"{path} holds no frames, expected {{material: {{frame: {{...}}}}}}")
    if block.rows:
        yield block.take()


def _add(block: BlockBuilder, frame: Any, group: int, energy_key: str, *, where: str) -> None:
    crystal = parse_structure(require(frame, "structure", where), where=where)
    if crystal is None:
        return block.drop("disordered_site")
    if frame.get(energy_key) is None:
        return block.drop("missing_energy")
    energy = as_floats(frame[energy_key], (), name=energy_key, where=where)
    forces = parse_forces(frame.get("force"), len(crystal.atomic_numbers), where=where)
    if forces is None:
        return block.drop("missing_forces")
    return block.add(
        atomic_numbers=crystal.atomic_numbers,
        positions=crystal.positions,
        energy=float(energy),
        forces=forces,
        group=group,
        cell=crystal.cell,
        pbc=crystal.pbc,
        **stress_columns(parse_stress(frame.get("stress"), where=where)),
    )


def _theory(settings: SourceSettings) -> str:
    corrections = "without" if settings.mptrj_energy == "uncorrected" else "with MP2020"
    return f"PBE or PBE+U per material (VASP), {corrections} corrections"


SOURCE: Final = Source(
    name="mptrj",
    title="MPTrj",
    data_files=("MPtrj_2022.9_full.json",),
    level_of_theory=_theory(SourceSettings()),
    read=read,
    level_of_theory_for=_theory,
)
