"""Native files of QM7-X: xz streams of one HDF5 file each, and the list of duplicates."""

from __future__ import annotations

import lzma
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np

from mtlpar.core.units import BOHR_ANGSTROM, HARTREE_EV

from .base import FloatArray, IntArray
from .dispersion import coefficients, dispersion
from .draws import Equilibrium, MoleculeFamily, TwiceLabelled
from .labels import Label, free_atom_energy
from .molecules import on_grid
from .native_molecules import HDF5_OPTIONS

_FILES: Final = ("1000.xz", "2000.xz")
_IDS_PER_FILE: Final = 1000
_FORCE_GRID: Final = 2.0**-20
_PROPERTY_GRID: Final = 2.0**-9
_VALENCE: Final = {1: 1, 6: 4, 7: 5, 8: 6, 16: 6, 17: 7}
_POLARIZABILITY: Final = {1: 4.5, 6: 12.0, 7: 7.4, 8: 5.4, 16: 19.6, 17: 15.0}
_RADIUS: Final = {1: 3.1, 6: 3.59, 7: 3.34, 8: 3.19, 16: 3.86, 17: 3.71}
_VOLUME: Final = {1: 9.2, 6: 34.4, 7: 25.9, 8: 22.1, 16: 75.2, 17: 65.7}


def write_qm7x(folder: Path, families: Sequence[MoleculeFamily]) -> None:
    """Write `1000.xz`, `2000.xz` and `DupMols.dat`, in eV and eV/Å.

    Args:
        folder: Folder of the source.
        families: The molecules; the first half goes to the first file.
    """
    half = (len(families) + 1) // 2
    duplicates: list[str] = []
    for number, name in enumerate(_FILES):
        members = families[number * half : (number + 1) * half]
        buffer = BytesIO()
        with h5py.File(buffer, "w", **HDF5_OPTIONS) as file:
            for offset, family in enumerate(members, start=1):
                identity = number * max(_IDS_PER_FILE, half) + offset
                keys = _write_family(file.create_group(str(identity)), identity, family)
                duplicates += keys if family.repeated else []
        (folder / name).write_bytes(lzma.compress(buffer.getvalue(), preset=6))
    (folder / "DupMols.dat").write_text("".join(f"{key}\n" for key in duplicates), encoding="ascii")


def _write_family(group: Any, identity: int, family: MoleculeFamily) -> list[str]:
    """Write all conformations of a molecule and returns the keys of its equilibria."""
    keys = []
    for equilibrium in family.equilibria:
        stem = f"Geom-m{identity}-i{equilibrium.isomer}-c{equilibrium.conformer}"
        keys.append(f"{stem}-opt")
        for suffix, frame in _named_frames(equilibrium):
            properties = _properties(family.numbers, frame, equilibrium.relaxed.positions)
            conformation = group.create_group(f"{stem}-{suffix}")
            for key, value in properties.items():
                conformation[key] = value
    return keys


def _named_frames(equilibrium: Equilibrium) -> list[tuple[str, TwiceLabelled]]:
    displaced = [(f"d{index}", frame) for index, frame in enumerate(equilibrium.displaced, 1)]
    return [("opt", equilibrium.relaxed), *displaced]


def _properties(
    numbers: IntArray, frame: TwiceLabelled, relaxed: FloatArray
) -> dict[str, FloatArray | IntArray]:
    label = frame.label
    attraction, attraction_forces = dispersion(numbers, frame.positions)
    # The two parts are rounded first, so that the parts add up to the total exactly.
    parts = on_grid(attraction_forces, _FORCE_GRID)
    total = on_grid(label.forces, _FORCE_GRID)
    free_atoms = sum(free_atom_energy("GFN1-xTB", int(number)) for number in numbers)
    properties: dict[str, FloatArray | IntArray] = {
        "atNUM": numbers,
        "atXYZ": frame.positions,
        "sRMSD": _coarse(np.sqrt(((frame.positions - relaxed) ** 2).sum(axis=1).mean())),
        "sMIT": on_grid(_inertia(numbers, frame.positions).ravel(), _PROPERTY_GRID),
        "ePBE0+MBD": _scalar(label.energy),
        "ePBE0": _scalar(label.energy - attraction),
        "eMBD": _scalar(attraction),
        "eTS": _coarse(1.1 * attraction),
        "eDFTB+MBD": _scalar(frame.other_energy),
        "eAT": _scalar(label.energy - attraction - free_atoms),
        "totFOR": total,
        "vdwFOR": parts,
        "pbe0FOR": total - parts,
    }
    properties |= _electronic_energies(numbers, frame.positions, label)
    properties |= _response(numbers, label)
    return properties


def _electronic_energies(
    numbers: IntArray, positions: FloatArray, label: Label
) -> dict[str, FloatArray | IntArray]:
    """The energy parts: orbital energies are real, the other parts only plausible."""
    valence = np.array([_VALENCE[int(number)] for number in numbers], dtype=float)
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    upper = np.triu_indices(len(numbers), 1)
    repulsion = HARTREE_EV * BOHR_ANGSTROM * (np.outer(valence, valence) / np.maximum(
        distances, 0.1
    ))[upper].sum()  # fmt: skip
    kinetic = -label.energy
    exchange = 0.35 * label.energy
    highest = label.orbitals[label.occupied - 1]
    lowest = highest + label.gap
    return {
        "eNN": _coarse(repulsion),
        "eKIN": _coarse(kinetic),
        "eNE": _coarse(2.5 * label.energy - 2.0 * repulsion),
        "eEE": _coarse(repulsion - 0.85 * label.energy),
        "eXC": _coarse(1.05 * exchange),
        "eX": _coarse(exchange),
        "eC": _coarse(0.05 * exchange),
        "eXX": _coarse(0.98 * exchange),
        "eKSE": _coarse(2.0 * label.orbitals[: label.occupied].sum()),
        "KSE": on_grid(label.orbitals, _PROPERTY_GRID),
        "eH": _coarse(highest),
        "eL": _coarse(lowest),
        "HLgap": _coarse(label.gap),
    }


def _response(numbers: IntArray, label: Label) -> dict[str, FloatArray | IntArray]:
    """Return multipoles, which are real, and local properties, which are only plausible."""
    charges = on_grid(label.charges, _PROPERTY_GRID)
    ratio = on_grid(0.95 - 0.2 * charges, _PROPERTY_GRID)
    polarizability = ratio * _per_atom(_POLARIZABILITY, numbers)
    c6 = coefficients(numbers) * ratio**2 / (HARTREE_EV * BOHR_ANGSTROM**6)
    vectors = np.outer(charges, [0.1, -0.05, 0.02])
    quadrupole = on_grid(label.quadrupole[:3], _PROPERTY_GRID)
    return {
        "DIP": _coarse(np.linalg.norm(label.dipole)),
        "vDIP": on_grid(label.dipole, _PROPERTY_GRID),
        "vTQ": quadrupole,
        "vIQ": -1.5 * quadrupole,
        "vEQ": 2.5 * quadrupole,
        "mC6": _coarse(np.sqrt(c6).sum() ** 2),
        "mPOL": _coarse(polarizability.sum()),
        "mTPOL": on_grid(np.eye(3) * polarizability.sum(), _PROPERTY_GRID).ravel(),
        "hVOL": on_grid(ratio * _per_atom(_VOLUME, numbers), _PROPERTY_GRID),
        "hRAT": ratio,
        "hCHG": charges,
        "hDIP": on_grid(np.linalg.norm(vectors, axis=1), _PROPERTY_GRID),
        "hVDIP": on_grid(vectors, _PROPERTY_GRID),
        "atC6": on_grid(c6, _PROPERTY_GRID),
        "atPOL": on_grid(polarizability, _PROPERTY_GRID),
        "vdwR": on_grid(np.cbrt(ratio) * _per_atom(_RADIUS, numbers), _PROPERTY_GRID),
    }


def _inertia(numbers: IntArray, positions: FloatArray) -> FloatArray:
    from ase.data import atomic_masses

    masses = atomic_masses[numbers]
    centered = positions - np.average(positions, axis=0, weights=masses)
    squares = (masses * (centered**2).sum(axis=1)).sum()
    return np.asarray(squares * np.eye(3) - np.einsum("i,ij,ik->jk", masses, centered, centered))


def _per_atom(table: dict[int, float], numbers: IntArray) -> FloatArray:
    return np.array([table[int(number)] for number in numbers])


def _scalar(value: Any) -> FloatArray:
    return np.array([float(value)])


def _coarse(value: Any) -> FloatArray:
    return on_grid(_scalar(value), _PROPERTY_GRID)
