"""Native HDF5 files of ANI1x and Transition1x."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from hashlib import sha1
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np

from mtlpar.core.units import HARTREE_EV

from .base import SOURCES, FloatArray, IntArray, random_stream
from .draws import ConformerPool
from .labels import Label
from .reactions import IMAGES, Reaction
from .relaxation import Frame

HDF5_OPTIONS: Final = {"libver": ("v108", "v110"), "track_order": False}
"""Compact object headers, and no times of creation, which would differ between runs."""

_SYMBOLS: Final = {1: "H", 6: "C", 7: "N", 8: "O", 16: "S", 17: "Cl"}
_STREAM: Final = 103
_COUPLED_CLUSTER_GROUPS: Final = 0.2
_LARGE_BASIS_GROUPS: Final = 0.15
_NO_DIPOLE_GROUPS: Final = 0.06
_NO_QUADRUPOLE_GROUPS: Final = 0.55

_CORRELATION_KEYS: Final = {
    "hf_dz.energy": 0.99511,
    "hf_tz.energy": 0.99540,
    "hf_qz.energy": 0.99549,
    "mp2_dz.corr_energy": 0.0028,
    "mp2_tz.corr_energy": 0.0035,
    "mp2_qz.corr_energy": 0.0037,
    "npno_ccsd(t)_dz.corr_energy": 0.0029,
    "npno_ccsd(t)_tz.corr_energy": 0.0036,
    "tpno_ccsd(t)_dz.corr_energy": 0.0029,
}
_PER_ATOM_LARGE_BASIS: Final = (
    "wb97x_tz.mbis_charges",
    "wb97x_tz.mbis_dipoles",
    "wb97x_tz.mbis_quadrupoles",
    "wb97x_tz.mbis_octupoles",
    "wb97x_tz.mbis_volumes",
)


def formula(numbers: IntArray, *, explicit_ones: bool) -> str:
    """The formula with carbon first and the other symbols in alphabetical order.

    Args:
        numbers: Atomic numbers, shape (atoms,).
        explicit_ones: Writes `C1H4` instead of `CH4`.
    """
    counts: dict[str, int] = defaultdict(int)
    for number in numbers:
        counts[_SYMBOLS[int(number)]] += 1
    ordered = sorted(counts, key=lambda symbol: (symbol != "C", symbol))
    return "".join(
        f"{symbol}{counts[symbol] if explicit_ones or counts[symbol] > 1 else ''}"
        for symbol in ordered
    )


def write_ani1x(folder: Path, pools: Sequence[ConformerPool], *, seed: int) -> None:
    """Write `ani1x-release.h5`: one group per formula, in Hartree and Hartree/Å.

    Args:
        folder: Folder of the source.
        pools: Labelled geometries; those with the same formula share a group.
        seed: Seed that decides which of the other keys are NaN.
    """
    by_formula: dict[str, list[ConformerPool]] = defaultdict(list)
    for pool in pools:
        by_formula[formula(pool.numbers, explicit_ones=True)].append(pool)
    with h5py.File(folder / "ani1x-release.h5", "w", **HDF5_OPTIONS) as file:
        for number, name in enumerate(sorted(by_formula)):
            members = by_formula[name]
            frames = [frame for pool in members for frame in pool.frames]
            rng = random_stream(seed, _STREAM, SOURCES.index("ani1x"), number)
            _write_formula(file.create_group(name), members[0].numbers, frames, rng)


def _write_formula(
    group: Any,
    numbers: IntArray,
    frames: Sequence[tuple[FloatArray, Label]],
    rng: np.random.Generator,
) -> None:
    labels = [label for _, label in frames]
    energies = np.array([label.energy for label in labels]) / HARTREE_EV
    forces = np.array([label.forces for label in labels]) / HARTREE_EV
    charges = np.array([label.charges for label in labels])
    dipoles = np.array([label.dipole for label in labels])
    quadrupoles = np.array([label.quadrupole for label in labels])
    rows = np.arange(len(frames))
    group["atomic_numbers"] = numbers.astype(np.uint8)
    group["coordinates"] = np.array([positions for positions, _ in frames], dtype=np.float32)
    group["wb97x_dz.energy"] = energies
    group["wb97x_dz.forces"] = forces.astype(np.float32)
    group["wb97x_dz.cm5_charges"] = (1.2 * charges).astype(np.float32)
    group["wb97x_dz.hirshfeld_charges"] = (0.7 * charges).astype(np.float32)
    dipole_rows = rows if rng.random() > _NO_DIPOLE_GROUPS else rows[:0]
    quadrupole_rows = rows[::2] if rng.random() > _NO_QUADRUPOLE_GROUPS else rows[:0]
    _partly(group, "wb97x_dz.dipole", dipoles, dipole_rows, np.float32)
    _partly(group, "wb97x_dz.quadrupole", quadrupoles, quadrupole_rows, np.float32)
    coupled = _some(rows, rng, share_of_groups=_COUPLED_CLUSTER_GROUPS)
    # A source of its own: tools/sample/coupled_cluster.py computes them, nothing makes them up.
    _partly(group, "ccsd(t)_cbs.energy", energies, rows[:0], np.float64)
    for key, factor in _CORRELATION_KEYS.items():
        _partly(group, key, factor * energies, coupled, np.float64)
    large = _some(rows, rng, share_of_groups=_LARGE_BASIS_GROUPS)
    _partly(group, "wb97x_tz.energy", 1.0005 * energies, large, np.float64)
    _partly(group, "wb97x_tz.forces", 1.01 * forces, large, np.float32)
    _partly(group, "wb97x_tz.dipole", 0.98 * dipoles, large, np.float32)
    for power, key in enumerate(_PER_ATOM_LARGE_BASIS, start=1):
        _partly(group, key, np.abs(charges) ** power, large, np.float32)


def _some(rows: IntArray, rng: np.random.Generator, *, share_of_groups: float) -> IntArray:
    """Return about half of the rows in some groups and none in the others."""
    if rng.random() > share_of_groups:
        return rows[:0]
    return rows[rng.random(len(rows)) < 0.5]


def _partly(group: Any, key: str, values: FloatArray, rows: IntArray, dtype: Any) -> None:
    """Write some rows; the others are NaN, which takes no space where all of them are."""
    dataset = group.create_dataset(key, shape=values.shape, dtype=dtype, fillvalue=np.nan)
    if len(rows):
        filled = np.full(values.shape, np.nan, dtype=dtype)
        filled[rows] = values[rows]
        dataset[...] = filled


def write_transition1x(folder: Path, reactions: Sequence[Reaction], *, seed: int) -> None:
    """Write `Transition1x.h5`: the reactions under `data` and again under their split.

    The splits hold hard links to the groups of `data`, so that nothing is stored twice.

    Args:
        folder: Folder of the source.
        reactions: The reactions.
        seed: Seed of the split.
    """
    order = random_stream(seed, _STREAM, SOURCES.index("transition1x")).permutation(len(reactions))
    held = max(1, round(0.1 * len(reactions))) if len(reactions) > 2 else 0
    split_of = dict.fromkeys(order[:held].tolist(), "val")
    split_of |= dict.fromkeys(order[held : 2 * held].tolist(), "test")
    with h5py.File(folder / "Transition1x.h5", "w", **HDF5_OPTIONS) as file:
        for name in ("data", "train", "val", "test"):
            file.create_group(name)
        for number, reaction in enumerate(reactions):
            name = formula(reaction.numbers, explicit_ones=False)
            # Groups made on the way to a path would hold the time of their creation.
            group = file["data"].require_group(name).create_group(f"rxn{number:04d}")
            _write_path(group, reaction, number)
            split = file[split_of.get(number, "train")]
            split.require_group(name)[f"rxn{number:04d}"] = group


def _write_path(group: Any, reaction: Reaction, number: int) -> None:
    digest = np.bytes_(sha1(f"{number}:{reaction.name}:{reaction.smiles}".encode()).hexdigest())
    _write_frames(group, reaction.numbers, reaction.frames, digest)
    ends = {
        "reactant": reaction.frames[0],
        "product": reaction.frames[IMAGES - 1],
        "transition_state": reaction.transition_state,
    }
    for name, frame in ends.items():
        _write_frames(group.create_group(name), reaction.numbers, [frame], digest)


def _write_frames(
    group: Any, numbers: IntArray, frames: Sequence[Frame], digest: np.bytes_
) -> None:
    group["atomic_numbers"] = numbers.astype(np.int32)
    group["positions"] = np.array([frame.positions for frame in frames])
    group["wB97x_6-31G(d).energy"] = np.array([frame.label.energy for frame in frames])
    group["wB97x_6-31G(d).forces"] = np.array([frame.label.forces for frame in frames])
    group["hash"] = digest
