"""ANI1x and Transition1x: HDF5 files of groups with many structures each."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np

from .springs import Frames, draw_frames, draw_numbers

_HARTREE_EV: Final = 27.211386245988
_CONFORMERS: Final = 1592
"""Of a formula of ANI1x, on average: 4,956,005 of 3,114."""
_FRAMES: Final = 955
"""Of a reaction of Transition1x, on average: 9.6 million of 10,073."""
_SPLITS: Final = ("train",) * 8 + ("val", "test")
_ENERGIES: Final = (
    "ccsd(t)_cbs.energy", "hf_dz.energy", "hf_tz.energy", "hf_qz.energy", "mp2_dz.corr_energy",
    "mp2_tz.corr_energy", "mp2_qz.corr_energy", "npno_ccsd(t)_dz.corr_energy",
    "npno_ccsd(t)_tz.corr_energy", "tpno_ccsd(t)_dz.corr_energy", "wb97x_tz.energy",
)  # fmt: skip
_PER_ATOM: Final = (
    "wb97x_dz.cm5_charges", "wb97x_dz.hirshfeld_charges", "wb97x_tz.mbis_charges",
    "wb97x_tz.mbis_dipoles", "wb97x_tz.mbis_quadrupoles", "wb97x_tz.mbis_octupoles",
    "wb97x_tz.mbis_volumes",
)  # fmt: skip


def write_ani1x(folder: Path, structures: int, rng: np.random.Generator) -> int:
    """Write ``ani1x-release.h5``, NaN for most labels as in the real one; return its structures."""
    groups = max(10, round(structures / _CONFORMERS))
    conformers = max(1, structures // groups)
    with h5py.File(folder / "ani1x-release.h5", "w") as file:
        for index in range(groups):
            numbers = draw_numbers(rng, int(rng.integers(8, 23)))
            frames = draw_frames(rng, numbers, conformers)
            group = file.create_group(f"F{index}")
            group["atomic_numbers"] = numbers.astype(np.uint8)
            group["coordinates"] = frames.positions.astype(np.float32)
            group["wb97x_dz.energy"] = frames.energy / _HARTREE_EV
            group["wb97x_dz.forces"] = (frames.forces / _HARTREE_EV).astype(np.float32)
            group["wb97x_tz.forces"] = np.full(frames.forces.shape, np.nan, np.float32)
            group["wb97x_dz.dipole"] = rng.normal(size=(conformers, 3)).astype(np.float32)
            group["wb97x_tz.dipole"] = np.full((conformers, 3), np.nan, np.float32)
            group["wb97x_dz.quadrupole"] = np.full((conformers, 6), np.nan, np.float32)
            for key in _ENERGIES:
                group[key] = np.full(conformers, np.nan)
            for key in _PER_ATOM:
                group[key] = rng.random((conformers, len(numbers)), np.float32)
    return groups * conformers


def write_transition1x(folder: Path, structures: int, rng: np.random.Generator) -> int:
    """Write ``Transition1x.h5``, reactions under ``data`` and linked under their split."""
    reactions = max(10, round(structures / _FRAMES))
    frames = max(12, structures // reactions)
    with h5py.File(folder / "Transition1x.h5", "w") as file:
        for index in range(reactions):
            numbers = draw_numbers(rng, int(rng.integers(8, 21)))
            drawn = draw_frames(rng, numbers, frames)
            key = f"F{index % 100}/rxn{index:05d}"
            group = file.create_group(f"data/{key}")
            _write_frames(group, drawn, slice(None))
            for end, rows in (("reactant", slice(1)), ("product", slice(9, 10))):
                _write_frames(group.create_group(end), drawn, rows)
            _write_frames(group.create_group("transition_state"), drawn, slice(-1, None))
            file[f"{_SPLITS[index % len(_SPLITS)]}/{key}"] = group
    return reactions * (frames + 3)


def _write_frames(group: Any, frames: Frames, rows: slice) -> None:
    group["atomic_numbers"] = frames.numbers
    group["positions"] = frames.positions[rows]
    group["wB97x_6-31G(d).energy"] = frames.energy[rows]
    group["wB97x_6-31G(d).forces"] = frames.forces[rows]
