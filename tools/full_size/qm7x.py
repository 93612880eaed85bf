"""QM7-X: a group for each conformation, with all its properties, in xz-compressed HDF5."""

from __future__ import annotations

import lzma
import shutil
from pathlib import Path
from typing import Final

import h5py
import numpy as np

from .springs import FloatArray, Frames, IntArray, draw_frames, draw_numbers

CONFORMATIONS: Final = 606
"""Of a molecule, on average: 4.2 million of 6,950."""

_OF_AN_EQUILIBRIUM: Final = 101
_DISPERSION_EV: Final = -0.125
_FILES: Final = tuple(f"{number}000" for number in range(1, 9))
_ONE: Final = (
    "sRMSD", "eDFTB+MBD", "eAT", "eMBD", "eTS", "eNN", "eKIN", "eNE", "eEE", "eXC", "eX", "eC",
    "eXX", "eKSE", "eH", "eL", "HLgap", "DIP", "mC6", "mPOL",
)  # fmt: skip
_THREE: Final = ("vDIP", "vTQ", "vIQ", "vEQ")
_NINE: Final = ("sMIT", "mTPOL")
_PER_ATOM: Final = ("hVOL", "hRAT", "hCHG", "hDIP", "atC6", "atPOL", "vdwR")
_VECTORS: Final = ("vdwFOR", "hVDIP")


def write_qm7x(folder: Path, structures: int, rng: np.random.Generator) -> int:
    """Write eight files, and duplicates that are in none of them; return how many structures."""
    molecules = max(len(_FILES), round(structures / CONFORMATIONS))
    conformations = min(CONFORMATIONS, max(1, structures // molecules))
    parts = np.array_split(np.arange(1, molecules + 1), len(_FILES))
    for name, part in zip(_FILES, parts, strict=True):
        plain = folder / f".{name}.hdf5"
        write_molecules(plain, part.tolist(), conformations, rng)
        with plain.open("rb") as source, lzma.open(folder / f"{name}.xz", "wb", preset=0) as packed:
            shutil.copyfileobj(source, packed, 1 << 22)
        plain.unlink()
    (folder / "DupMols.dat").write_text(f"Geom-m{molecules + 1}-i1-c1-opt\n", encoding="ascii")
    return molecules * conformations


def write_molecules(
    path: Path, molecules: list[int], conformations: int, rng: np.random.Generator
) -> None:
    """Write one file as it is before compression.

    Args:
        path: The file.
        molecules: Numbers of its molecules.
        conformations: How many each has.
        rng: Where numbers come from.
    """
    with h5py.File(path, "w") as file:
        for molecule in molecules:
            numbers = draw_numbers(rng, int(rng.integers(11, 23)))
            frames = draw_frames(rng, numbers, conformations)
            group = file.create_group(str(molecule))
            for index in range(conformations):
                equilibrium, displaced = divmod(index, _OF_AN_EQUILIBRIUM)
                name = f"d{displaced}" if displaced else "opt"
                key = f"Geom-m{molecule}-i1-c{equilibrium + 1}-{name}"
                _write_conformation(group.create_group(key).id, frames, index, rng)


def _write_conformation(
    group: h5py.h5g.GroupID, frames: Frames, index: int, rng: np.random.Generator
) -> None:
    size = len(frames.numbers)
    forces, energy = frames.forces[index], frames.energy[index : index + 1]
    _write(group, "atNUM", frames.numbers)
    _write(group, "atXYZ", frames.positions[index])
    _write(group, "ePBE0+MBD", energy)
    _write(group, "ePBE0", energy - _DISPERSION_EV)
    for keys, shape in ((_ONE, 1), (_THREE, 3), (_NINE, 9), (_PER_ATOM, size)):
        for key, values in zip(keys, _coarse(rng, (len(keys), shape)), strict=True):
            _write(group, key, values)
    _write(group, "KSE", _coarse(rng, (2 * size,)))
    _write(group, "totFOR", forces)
    _write(group, "pbe0FOR", forces)
    for key in _VECTORS:
        _write(group, key, _coarse(rng, (size, 3)))


def _coarse(rng: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
    """Numbers of few digits, so that files are compressed to about the size of the real ones."""
    return rng.integers(-4096, 4096, shape) / 1024


def _write(group: h5py.h5g.GroupID, key: str, values: FloatArray | IntArray) -> None:
    # A fifth of what h5py's create_dataset takes, of which there are 170 million.
    kind = h5py.h5t.NATIVE_INT64 if values.dtype.kind == "i" else h5py.h5t.NATIVE_DOUBLE
    space = h5py.h5s.create_simple(values.shape)
    dataset = h5py.h5d.create(group, key.encode(), kind, space)
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(values))
