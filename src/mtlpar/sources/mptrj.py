"""MPTrj: relaxation paths of the Materials Project, one JSON object of 12 GB on one line.

``{material: {frame: {structure, energies, force, stress, ...}}}``, read in runs of whole materials.
Forces are gradients of the raw DFT energy; the corrections of MP2020 are constant along a path but
jump between classes of compounds, so the uncorrected energy is the default.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from mtlpar.sources.base import Piece, RawBlock, Source
from mtlpar.sources.json_members import JSON_ERRORS, MemberRun, Members, read_chunks
from mtlpar.sources.materials_project import material_group
from mtlpar.sources.pymatgen_json import parse_labelled, parse_runs
from mtlpar.sources.quick_crystals import CrystalColumns, unique_keys, vectors
from mtlpar.sources.reading import Columns, Progress, collect_records, damage_named, require
from mtlpar.sources.settings import SourceSettings

_HEAD: Final = re.compile(rb"\s*\{")
_EXPECTED: Final = "{material: {frame: {...}}}"


def read(path: Path, settings: SourceSettings, piece: Piece | None = None) -> Iterator[RawBlock]:
    """Stream ``MPtrj_2022.9_full.json``, or the materials between two bytes of it.

    Frames are dropped as ``disordered_site``, ``missing_energy`` or ``missing_forces``.

    Raises:
        ValueError: If the file is damaged or laid out otherwise.
    """
    progress = Progress(path)
    energy_key = f"{settings.mptrj_energy}_total_energy"
    parse, gather = partial(_parse, energy_key), partial(_gather, energy_key)
    records = parse_runs(_runs(path, piece), b"{}", partial(_frames, path), progress, gather)
    return collect_records(progress, records, parse, *JSON_ERRORS)


@contextmanager
def divide(path: Path, piece_bytes: int) -> Iterator[list[Piece]]:
    """Cut the file between materials."""
    with damage_named(Progress(path), *JSON_ERRORS), path.open("rb") as stream:
        members = Members(read_chunks(stream), _HEAD, expected=_EXPECTED)
        inner = members.cuts(members.chunks, every_bytes=piece_bytes)
        cuts = [len(members.head), *inner, path.stat().st_size]
    yield [Piece(start, stop) for start, stop in pairwise(cuts)]


def _runs(path: Path, piece: Piece | None) -> Iterator[MemberRun]:
    with path.open("rb") as stream:
        members = Members(read_chunks(stream), _HEAD, expected=_EXPECTED)
        start = len(members.head) if piece is None else piece.start
        stop = None if piece is None or piece.stop == path.stat().st_size else piece.stop
        stream.seek(start)
        runs = members.runs(read_chunks(stream, stop), offset=start, to_end=stop is None)
        count = 0
        for run in runs:
            count += 1
            yield run
    if not count and start == len(members.head):
        raise ValueError(f"{path} holds no frames, expected {_EXPECTED}")


def _frames(path: Path, materials: dict[str, Any]) -> Iterator[tuple[str, tuple[int, Any]]]:
    for material, frames in materials.items():
        if not isinstance(frames, dict):
            raise ValueError(
                f"{path}, key {material}: expected an object of frames, got {frames!r:.80}"
            )
        group = material_group(material)
        for name, frame in frames.items():
            yield f"{material}/{name}", (group, frame)


def _gather(energy_key: str, materials: Any, columns: CrystalColumns) -> str:
    last = ""
    for material in unique_keys(materials):
        group = material_group(material)
        frames = materials[material]
        for name in unique_keys(frames):
            frame = frames[name]
            unique_keys(frame)
            columns.add(
                frame["structure"],
                energy=frame[energy_key],
                forces=vectors(frame["force"]),
                stress=frame.get("stress"),
                group=group,
            )
            last = f"{material}/{name}"
    return last


def _parse(energy_key: str, record: tuple[int, Any], where: str) -> Columns | str:
    group, frame = record
    columns = parse_labelled(
        require(frame, "structure", where),
        energy=frame.get(energy_key),
        forces=frame.get("force"),
        stress=frame.get("stress"),
        where=where,
    )
    return columns if isinstance(columns, str) else {**columns, "group": group}


def _theory(settings: SourceSettings) -> str:
    corrections = "without" if settings.mptrj_energy == "uncorrected" else "with MP2020"
    return f"PBE or PBE+U per material (VASP), {corrections} corrections"


SOURCE: Final = Source(
    name="mptrj",
    title="MPTrj",
    data_files=("MPtrj_2022.9_full.json",),
    level_of_theory=_theory(SourceSettings()),
    read=read,
    divide=divide,
    level_of_theory_for=_theory,
    group_of_name=material_group,
)
