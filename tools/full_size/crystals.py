"""MPtrj and Alexandria: JSON of pymatgen's structures, one object and compressed lists.

Texts are templates that are filled in for many structures of the same size at once.
"""

from __future__ import annotations

import bz2
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from ase.data import chemical_symbols

from .springs import FloatArray, Frames, draw_crystals, draw_elements

_FRAMES: Final = 11
"""Of a material of MPtrj, on average: 1,580,395 of 145,923."""
_ENTRIES: Final = 100_000
"""Of an archive of Alexandria."""
_ALIKE: Final = 100
"""Entries of Alexandria with the same number of atoms in a row, as those of a prototype."""
_SYMBOLS: Final = np.array(chemical_symbols, object)

_VECTOR: Final = "[%.8f, %.8f, %.8f]"
_MATRIX: Final = f"[{_VECTOR}, {_VECTOR}, {_VECTOR}]"
_SITE: Final = (
    '{"species": [{"element": "%s", "occu": 1}], '
    f'"abc": {_VECTOR}, "xyz": {_VECTOR}, "label": "%s", "properties": '
)
_STRUCTURE: Final = (
    '{"@module": "pymatgen.core.structure", "@class": "Structure", "charge": 0, '
    f'"lattice": {{"matrix": {_MATRIX}, "a": %.8f, "b": %.8f, "c": %.8f, "alpha": 90.0, '
    '"beta": 90.0, "gamma": 90.0, "volume": %.8f}, "sites": ['
)
_ENTRY: Final = (
    '{"@module": "pymatgen.entries.computed_entries", "@class": "ComputedStructureEntry", '
    '"energy": %.8f, "correction": 0.0, "data": {"mat_id": "agm%09d", "energy_total": %.8f, '
    f'"stress": {_MATRIX}, "total_mag": 0.0, "band_gap_ind": 1.0, "e_form": -1.0}}, "structure": '
)

Objects = npt.NDArray[np.object_]


def write_mptrj(folder: Path, structures: int, rng: np.random.Generator) -> int:
    """Write ``MPtrj_2022.9_full.json``, one object on one line; return its structures."""
    materials = max(10, round(structures / _FRAMES))
    with (folder / "MPtrj_2022.9_full.json").open("w", encoding="ascii") as stream:
        stream.write("{")
        for index in range(materials):
            frames, side = draw_crystals(rng, int(np.clip(rng.gamma(2, 16), 2, 120)), _FRAMES)
            content = ", ".join(_frames(frames, side, index, rng))
            stream.write(f'{", " if index else ""}"mp-{index}": {{{content}}}')
        stream.write("}")
    return materials * _FRAMES


def _frames(frames: Frames, side: float, material: int, rng: np.random.Generator) -> Iterator[str]:
    size = len(frames.numbers)
    per_atom = frames.energy / size
    template = (
        f'"mp-{material}-%d-0": {{"structure": {_STRUCTURE}{", ".join([_SITE + "{}}"] * size)}]}}, '
        '"uncorrected_total_energy": %.8f, "corrected_total_energy": %.8f, '
        '"energy_per_atom": %.8f, "ef_per_atom": -1.0, "e_per_atom_relaxed": %.8f, '
        f'"ef_per_atom_relaxed": -1.0, "force": [{", ".join([_VECTOR] * size)}], '
        f'"stress": {_MATRIX}, "magmom": null, "bandgap": 1.0, "mp_id": "mp-0"}}'
    )
    return _filled(
        template,
        np.arange(len(frames.energy)),
        *_structures(frames, side, _SYMBOLS[frames.numbers]),
        *(frames.energy, frames.energy, per_atom, per_atom),
        frames.forces,
        _stress(rng, len(frames.energy)),
    )


def write_alexandria(folder: Path, structures: int, rng: np.random.Generator) -> int:
    """Write ``alexandria_NNN.json.bz2`` of 100,000 entries each; return their structures."""
    for number, start in enumerate(range(0, structures, _ENTRIES)):
        path = folder / f"alexandria_{number:03d}.json.bz2"
        stop = min(structures, start + _ENTRIES)
        with bz2.open(path, "wt", compresslevel=1, encoding="ascii") as stream:
            stream.write('{"entries": [')
            for first in range(start, stop, _ALIKE):
                indices = np.arange(first, min(stop, first + _ALIKE))
                stream.write(", " if first > start else "")
                stream.write(", ".join(_entries(indices, rng)))
            stream.write("]}")
    return structures


def _entries(indices: npt.NDArray[np.int64], rng: np.random.Generator) -> Iterator[str]:
    size, count = int(np.clip(rng.gamma(4, 2.5), 2, 60)), len(indices)
    frames, side = draw_crystals(rng, size, count)
    symbols = _SYMBOLS[draw_elements(rng, size, count)]
    site = _SITE + f'{{"magmom": 0.0, "forces": {_VECTOR}}}}}'
    return _filled(
        f"{_ENTRY}{_STRUCTURE}{', '.join([site] * size)}]}}}}",
        frames.energy,
        indices,
        frames.energy,
        _stress(rng, count),
        *_structures(frames, side, symbols, frames.forces),
    )


def _structures(
    frames: Frames, side: float, symbols: Objects, *of_sites: FloatArray
) -> tuple[Objects, Objects]:
    """What goes into the templates of structures: of the lattice and of the sites.

    Args:
        frames: The structures, F of N atoms.
        side: Edge of the cell, Å.
        symbols: Of elements, (F, N) or (N,).
        of_sites: Properties of sites, (F, N, 3).
    """
    count = len(frames.energy)
    lattice = np.array([*(side * np.eye(3)).ravel(), side, side, side, side**3], object)
    named = np.broadcast_to(symbols[..., None], (*frames.positions.shape[:2], 1))
    inside = frames.positions / side
    sites = np.concatenate(
        [named, inside, frames.positions, named, *of_sites], axis=2, dtype=object
    )
    return np.broadcast_to(lattice, (count, len(lattice))), sites


def _filled(template: str, *values: npt.NDArray[Any]) -> Iterator[str]:
    """The template for each structure, with all its values, (F, ...), in their order."""
    columns = [array.reshape(len(array), -1).astype(object) for array in values]
    return (template % tuple(row) for row in np.hstack(columns).tolist())


def _stress(rng: np.random.Generator, count: int) -> FloatArray:
    drawn: FloatArray = rng.normal(size=(count, 3, 3))
    return drawn + drawn.swapaxes(1, 2)
