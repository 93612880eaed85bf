"""Native JSON files of MPtrj and Alexandria."""

from __future__ import annotations

import bz2
import json
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import numpy as np

from mtlpar.core.units import VASP_STRESS_KBAR_TO_EV_PER_CUBIC_ANGSTROM

from .base import SOURCES, FloatArray, random_stream, reference_energies
from .crystals import Crystal
from .draws import Trajectory
from .relaxation import Frame

Json = dict[str, Any]

ANION_CORRECTIONS: Final = {
    "O": -0.687, "S": -0.503, "F": -0.462, "Cl": -0.614, "Br": -0.534, "I": -0.379, "N": -0.361,
    "Se": -0.472, "H": -0.179, "Te": -0.422, "Sb": -0.192, "Si": 0.071,
}  # fmt: skip
"""Corrections in eV per anion, which depend on the class of the compound."""

_STREAM: Final = 104
_DIGITS: Final = 8
_TRANSITION_METALS: Final = frozenset({"Ti", "V", "Nb", "Mo", "Ta", "W", "Cu", "Sc", "Zr", "Hf"})
_OUTLIER_PER_ATOM: Final = 1.5
_FIRST_MP: Final = 1000
_FIRST_AGM: Final = 2000001
_FILES: Final = ("alexandria_000.json.bz2", "alexandria_001.json.bz2")


def write_mptrj(folder: Path, materials: Sequence[Trajectory], *, seed: int) -> None:
    """Write `MPtrj_2022.9_full.json`: one JSON object on one line, stress in kbar.

    Args:
        folder: Folder of the source.
        materials: Relaxations; the first half of each is called the first relaxation.
        seed: Seed of the identifiers.
    """
    rng = random_stream(seed, _STREAM, SOURCES.index("mptrj"))
    names = _FIRST_MP + rng.choice(200 * len(materials), size=len(materials), replace=False)
    references = _references(materials)
    content: dict[str, Json] = {}
    for number, material in zip(names.tolist(), materials, strict=True):
        mp_id, task_id = f"mp-{number}", f"mp-{number + 700000}"
        magnetic = bool(set(material.crystal.elements) & _TRANSITION_METALS)
        frames = {}
        second = len(material.frames) // 2
        for step, frame in enumerate(material.frames):
            place = f"1-{step}" if step < second else f"0-{step - second}"
            record = _mptrj_record(material, frame, references)
            record |= {
                "magmom": _magnetic_moments(frame, rng) if magnetic else None,
                "bandgap": _rounded(frame.label.gap) if frame.label.gap > 0.05 else None,
                "mp_id": mp_id,
            }
            frames[f"{task_id}-{place}"] = record
        content[mp_id] = frames
    text = json.dumps(content)
    (folder / "MPtrj_2022.9_full.json").write_text(text, encoding="utf-8")


def _mptrj_record(material: Trajectory, frame: Frame, references: dict[str, float]) -> Json:
    crystal = material.crystal
    size = len(crystal.elements)
    correction = anion_correction(crystal)
    reference = sum(references[element] for element in crystal.elements)
    energy = round(frame.label.energy, _DIGITS)
    relaxed = (material.frames[-1].label.energy + correction) / size
    return {
        "structure": _structure(crystal, frame),
        "uncorrected_total_energy": energy,
        "corrected_total_energy": _rounded(energy + correction),
        "energy_per_atom": _rounded((energy + correction) / size),
        "ef_per_atom": _rounded((energy + correction - reference) / size),
        "e_per_atom_relaxed": _rounded(relaxed),
        "ef_per_atom_relaxed": _rounded(relaxed),
        "force": _rounded(frame.label.forces),
        "stress": _rounded(vasp_stress(frame)),
    }


def write_alexandria(folder: Path, materials: Sequence[Trajectory], *, seed: int) -> None:
    """Write two `alexandria_NNN.json.bz2`, each `{"entries": [...]}`.

    A few entries lack forces, hold a site that is not fully occupied, or repeat another entry
    under another identifier.

    Args:
        folder: Folder of the source.
        materials: Relaxed crystals; those with an outlying energy are left out.
        seed: Seed of the identifiers and of the choice of odd entries.
    """
    materials = without_outliers(materials)
    rng = random_stream(seed, _STREAM, SOURCES.index("alexandria"))
    references = _references(materials)
    gaps = rng.integers(1, 400, size=len(materials))
    names = [_FIRST_AGM + int(offset) for offset in accumulate(gaps.tolist())]
    entries = [
        _entry(material, name, references) for material, name in zip(materials, names, strict=True)
    ]
    entries = _with_odd_entries(entries, names[-1] + 1, rng)
    half = (len(entries) + 1) // 2
    for number, name in enumerate(_FILES):
        text = json.dumps({"entries": entries[number * half : (number + 1) * half]})
        (folder / name).write_bytes(bz2.compress(text.encode("utf-8")))


def without_outliers(materials: Sequence[Trajectory]) -> list[Trajectory]:
    """Drop materials whose energy is far from what their elements let expect.

    The Gamma point alone is a poor approximation for some small cells, which shows in energies
    that no neighbour in composition shares.

    Args:
        materials: Relaxed crystals.

    Returns:
        Those within 1.5 eV per atom of references fitted to themselves.
    """
    kept = list(materials)
    while True:
        references = _references(kept)
        near = [item for item in kept if abs(_formation(item, references)) < _OUTLIER_PER_ATOM]
        if len(near) == len(kept):
            return kept
        kept = near


def _formation(material: Trajectory, references: dict[str, float]) -> float:
    """The energy per atom relative to the references in eV."""
    elements = material.crystal.elements
    reference = sum(references[element] for element in elements)
    return (material.frames[-1].label.energy - reference) / len(elements)


def anion_correction(crystal: Crystal) -> float:
    """The correction in eV, constant for all frames of a material.

    Args:
        crystal: The material; only elements with a negative charge are corrected.
    """
    return sum(
        ANION_CORRECTIONS.get(element, 0.0)
        for element in crystal.elements
        if crystal.charges[element] < 0
    )


def vasp_stress(frame: Frame) -> FloatArray:
    """The stress in kbar with positive values under compression, shape (3, 3)."""
    virial = 0.5 * (frame.label.virial + frame.label.virial.T)
    tension = virial / frame.volume
    return np.asarray(tension / VASP_STRESS_KBAR_TO_EV_PER_CUBIC_ANGSTROM)


def _entry(material: Trajectory, number: int, references: dict[str, float]) -> Json:
    crystal, frame = material.crystal, material.frames[-1]
    counts = Counter(crystal.elements)
    size = len(crystal.elements)
    energy = round(frame.label.energy, _DIGITS)
    correction = _rounded(anion_correction(crystal))
    formation = _formation(material, references)
    name = f"agm{number:09d}"
    label = "".join(f"{element}{counts[element]}" for element in sorted(counts))
    properties = [
        {"magmom": 0.0, "charge": _rounded(charge), "forces": _rounded(force)}
        for charge, force in zip(frame.label.charges, _without_noise(frame), strict=True)
    ]
    adjustment = {
        "@module": "pymatgen.entries.computed_entries",
        "@class": "ManualEnergyAdjustment",
        "@version": None,
        "value": correction,
    }
    return {
        "@module": "pymatgen.entries.computed_entries",
        "@class": "ComputedStructureEntry",
        "energy": energy,
        "composition": {element: float(count) for element, count in counts.items()},
        "entry_id": None,
        "correction": correction,
        "energy_adjustments": [adjustment],
        "parameters": {},
        "data": {
            "mat_id": name,
            "prototype_id": f"{crystal.prototype}_{size}_spg{crystal.spacegroup}",
            "location": f"database/batch-000/{label}/{name}_spg{crystal.spacegroup}",
            "formula": label,
            "elements": sorted(counts),
            "spg": crystal.spacegroup,
            "nsites": size,
            "stress": _rounded(vasp_stress(frame)),
            "energy_total": energy,
            "total_mag": 0.0,
            "band_gap_ind": _rounded(frame.label.gap),
            "band_gap_dir": _rounded(frame.label.gap),
            "dos_ef": _rounded(frame.label.orbitals[frame.label.occupied - 1]),
            "energy_corrected": _rounded(energy + correction),
            "e_above_hull": _rounded(max(0.0, formation)),
            "e_form": _rounded(formation),
            "e_phase_separation": _rounded(formation),
            "decomposition": f" {label} ",
        },
        "structure": _structure(crystal, frame, properties=properties, pbc=True),
    }


def _with_odd_entries(entries: list[Json], free_name: int, rng: np.random.Generator) -> list[Json]:
    """Add the oddities of the real files: missing forces, disorder and repetition."""
    size = len(entries)
    chosen = rng.permutation(size).tolist()
    silent = max(1, size // 75)
    for index in chosen[:silent]:
        for site in entries[index]["structure"]["sites"]:
            del site["properties"]["forces"]
    odd: list[Json] = []
    for index in chosen[silent : silent + max(1, size // 225)]:
        disordered = _renamed(entries[index], free_name + len(odd))
        disordered["structure"]["sites"][-1]["species"][0]["occu"] = 0.9
        odd.append(disordered)
    for index in chosen[-max(1, size // 450) :]:
        odd.append(_renamed(entries[index], free_name + len(odd)))
    return entries + odd


def _renamed(entry: Json, number: int) -> Json:
    copy = deepcopy(entry)
    name = f"agm{number:09d}"
    copy["data"]["location"] = copy["data"]["location"].replace(copy["data"]["mat_id"], name)
    copy["data"]["mat_id"] = name
    return copy


def _structure(
    crystal: Crystal,
    frame: Frame,
    *,
    properties: Sequence[Json] | None = None,
    pbc: bool = False,
) -> Json:
    """The dictionary that pymatgen makes of a structure."""
    lattice = np.round(frame.cell, _DIGITS)
    positions = np.round(frame.positions, _DIGITS)
    fractional = positions @ np.linalg.inv(lattice)
    sites = [
        {
            "species": [{"element": element, "occu": 1}],
            "abc": _rounded(abc),
            "xyz": _rounded(xyz),
            "label": element,
            "properties": {} if properties is None else properties[index],
        }
        for index, (element, abc, xyz) in enumerate(
            zip(crystal.elements, fractional, positions, strict=True)
        )
    ]
    return {
        "@module": "pymatgen.core.structure",
        "@class": "Structure",
        "charge": 0,
        "lattice": _lattice(lattice, pbc=pbc),
        "sites": sites,
    }


def _lattice(lattice: FloatArray, *, pbc: bool) -> Json:
    lengths = np.linalg.norm(lattice, axis=1)
    directions = lattice / lengths[:, None]
    pairs = {"alpha": (1, 2), "beta": (0, 2), "gamma": (0, 1)}
    angles = {
        name: _rounded(np.degrees(np.arccos(directions[i] @ directions[j])))
        for name, (i, j) in pairs.items()
    }
    content: Json = {"matrix": _rounded(lattice)}
    if pbc:
        content["pbc"] = [True, True, True]
    content |= {name: _rounded(length) for name, length in zip("abc", lengths, strict=True)}
    return content | angles | {"volume": _rounded(abs(np.linalg.det(lattice)))}


def _references(materials: Sequence[Trajectory]) -> dict[str, float]:
    elements = sorted({element for item in materials for element in item.crystal.elements})
    counts = np.array(
        [[item.crystal.elements.count(element) for element in elements] for item in materials],
        dtype=np.float64,
    )
    energies = np.array([item.frames[-1].label.energy for item in materials])
    return dict(zip(elements, reference_energies(counts, energies).tolist(), strict=True))


def _without_noise(frame: Frame) -> FloatArray:
    """Zero components that symmetry makes vanish, as plane-wave codes report them."""
    forces = frame.label.forces
    return np.where(np.abs(forces) < 2e-5, 0.0, forces)


def _magnetic_moments(frame: Frame, rng: np.random.Generator) -> list[float]:
    moments: list[float] = np.round(rng.normal(0.0, 0.01, len(frame.positions)), 3).tolist()
    return moments


def _rounded(value: Any) -> Any:
    """Round a number or an array to the digits of the files, without negative zeros."""
    return (np.round(value, _DIGITS) + 0.0).tolist()
