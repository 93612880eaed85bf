"""MPtrj and Alexandria: JSON of pymatgen's structures, one object and compressed lists."""

from __future__ import annotations

import bz2
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from ase.data import chemical_symbols

from .springs import FloatArray, Frames, draw_crystals

_FRAMES: Final = 11
"""Of a material of MPtrj, on average: 1,580,395 of 145,923."""
_ENTRIES: Final = 100_000
"""Of an archive of Alexandria."""


def write_mptrj(folder: Path, structures: int, rng: np.random.Generator) -> int:
    """Write ``MPtrj_2022.9_full.json``, one object on one line; return its structures."""
    materials = max(10, round(structures / _FRAMES))
    with (folder / "MPtrj_2022.9_full.json").open("w", encoding="ascii") as stream:
        stream.write("{")
        for index in range(materials):
            frames, side = draw_crystals(rng, int(np.clip(rng.gamma(2, 16), 2, 120)), _FRAMES)
            content = {
                f"mp-{index}-{row}-0": _frame(frames, row, side, rng) for row in range(_FRAMES)
            }
            stream.write(f'{", " if index else ""}"mp-{index}": {json.dumps(content)}')
        stream.write("}")
    return materials * _FRAMES


def _frame(frames: Frames, row: int, side: float, rng: np.random.Generator) -> dict[str, Any]:
    energy = float(frames.energy[row])
    size = len(frames.numbers)
    return {
        "structure": _structure(frames, row, side, with_forces=False),
        "uncorrected_total_energy": energy,
        "corrected_total_energy": energy,
        "energy_per_atom": energy / size,
        "ef_per_atom": -1.0,
        "e_per_atom_relaxed": energy / size,
        "ef_per_atom_relaxed": -1.0,
        "force": frames.forces[row].round(8).tolist(),
        "stress": _stress(rng),
        "magmom": None,
        "bandgap": 1.0,
        "mp_id": "mp-0",
    }


def write_alexandria(folder: Path, structures: int, rng: np.random.Generator) -> int:
    """Write ``alexandria_NNN.json.bz2`` of 100,000 entries each; return their structures."""
    for number, start in enumerate(range(0, structures, _ENTRIES)):
        path = folder / f"alexandria_{number:03d}.json.bz2"
        with bz2.open(path, "wt", compresslevel=1, encoding="ascii") as stream:
            stream.write('{"entries": [')
            for index in range(start, min(structures, start + _ENTRIES)):
                frames, side = draw_crystals(rng, int(np.clip(rng.gamma(4, 2.5), 2, 60)), 1)
                text = json.dumps(_entry(frames, side, index, rng))
                stream.write(f", {text}" if index > start else text)
            stream.write("]}")
    return structures


def _entry(frames: Frames, side: float, index: int, rng: np.random.Generator) -> dict[str, Any]:
    energy = float(frames.energy[0])
    data = {"mat_id": f"agm{index:09d}", "energy_total": energy, "stress": _stress(rng)}
    return {
        "@module": "pymatgen.entries.computed_entries",
        "@class": "ComputedStructureEntry",
        "energy": energy,
        "correction": 0.0,
        "data": {**data, "total_mag": 0.0, "band_gap_ind": 1.0, "e_form": -1.0},
        "structure": _structure(frames, 0, side, with_forces=True),
    }


def _structure(frames: Frames, row: int, side: float, *, with_forces: bool) -> dict[str, Any]:
    positions = frames.positions[row].round(8)
    inside = (positions / side).round(8).tolist()
    forces = frames.forces[row].round(8).tolist()
    sites = [
        {
            "species": [{"element": chemical_symbols[number], "occu": 1}],
            "abc": abc,
            "xyz": xyz,
            "label": chemical_symbols[number],
            "properties": {"magmom": 0.0, "forces": force} if with_forces else {},
        }
        for number, abc, xyz, force in zip(
            frames.numbers.tolist(), inside, positions.tolist(), forces, strict=True
        )
    ]
    matrix = (side * np.eye(3)).tolist()
    lengths = dict.fromkeys("abc", side) | dict.fromkeys(("alpha", "beta", "gamma"), 90.0)
    return {
        "@module": "pymatgen.core.structure",
        "@class": "Structure",
        "charge": 0,
        "lattice": {"matrix": matrix, **lengths, "volume": side**3},
        "sites": sites,
    }


def _stress(rng: np.random.Generator) -> Any:
    drawn: FloatArray = rng.normal(size=(3, 3))
    return (drawn + drawn.T).round(8).tolist()
