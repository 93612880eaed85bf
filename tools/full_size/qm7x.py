"""QM7-X: a group for each conformation, with all its properties, in xz-compressed HDF5."""

from __future__ import annotations

import lzma
from functools import cache
from math import prod
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from . import hdf5_layout
from .springs import FloatArray, IntArray, draw_frames, draw_numbers

Bytes = npt.NDArray[np.uint8]
UInt64Array = npt.NDArray[np.uint64]

CONFORMATIONS: Final = 606
"""Of a molecule, on average: 4.2 million of 6,950."""

_FILES: Final = range(1, 9)
_OF_AN_EQUILIBRIUM: Final = 101
_DISPERSION_EV: Final = -0.125
_WORD: Final = np.dtype("<u8")
_FAR: Final = 1 << 40

_ONE: Final = (
    "sRMSD", "eDFTB+MBD", "eAT", "eMBD", "eTS", "eNN", "eKIN", "eNE", "eEE", "eXC", "eX", "eC",
    "eXX", "eKSE", "eH", "eL", "HLgap", "DIP", "mC6", "mPOL",
)  # fmt: skip
_THREE: Final = ("vDIP", "vTQ", "vIQ", "vEQ")
_NINE: Final = ("sMIT", "mTPOL")
_PER_ATOM: Final = ("hVOL", "hRAT", "hCHG", "hDIP", "atC6", "atPOL", "vdwR")
_VECTORS: Final = ("vdwFOR", "hVDIP")


def write_qm7x(folder: Path, structures: int, rng: np.random.Generator) -> int:
    """Write eight files, and duplicates that are in none of them; return how many structures.

    The n-th molecules of all files have as many atoms, so that their metadata are the same. With
    those properties that nobody reads these are most of the bytes, and they are compressed once: a
    file of xz may have several streams.
    """
    count = max(1, round(structures / CONFORMATIONS / len(_FILES)))
    conformations = min(CONFORMATIONS, max(1, structures // count // len(_FILES)))
    sizes = rng.integers(11, 23, count).tolist()
    shared, addresses, end = [], [], hdf5_layout.SUPERBLOCK_BYTES
    for size in sizes:
        content, address, end = _rest(rng, end, size, conformations)
        shared.append(_packed(content))
        addresses.append(address)
    for file in _FILES:
        # Names are as long in all files, and in the same order: 867 at full size.
        molecules = [f"{file}{index:03d}" for index in range(count)]
        names = hdf5_layout.names(molecules)
        members = [*zip(molecules, addresses, strict=True)]
        group, root = hdf5_layout.group(end + len(names), members, end)
        with (folder / f"{file}000.xz").open("wb") as stream:
            stream.write(_packed(hdf5_layout.superblock(root, end + len(names + group))))
            for molecule, size, rest in zip(molecules, sizes, shared, strict=True):
                labels = _labels(rng, size, conformations)
                stream.write(_packed(_names(molecule, conformations) + labels.tobytes()))
                stream.write(rest)
            stream.write(_packed(names + group))
    (folder / "DupMols.dat").write_text("Geom-m9999-i1-c1-opt\n", encoding="ascii")
    return count * conformations * len(_FILES)


def _packed(content: bytes) -> bytes:
    return lzma.compress(content, preset=0)


def _keys(molecule: str, conformations: int) -> list[str]:
    """Names of conformations: equilibria, and after each the structures displaced from it."""
    places = [divmod(index, _OF_AN_EQUILIBRIUM) for index in range(conformations)]
    return [
        f"Geom-m{molecule}-i1-c{equilibrium + 1}-{f'd{displaced}' if displaced else 'opt'}"
        for equilibrium, displaced in places
    ]


def _names(molecule: str, conformations: int) -> bytes:
    return hdf5_layout.names(sorted(_keys(molecule, conformations)))


def _labels(rng: np.random.Generator, size: int, conformations: int) -> FloatArray:
    """Numbers of the datasets of `_label_shapes` of each conformation, (conformations, words)."""
    frames = draw_frames(rng, draw_numbers(rng, size), conformations)
    values = {
        "atNUM": np.tile(frames.numbers.view(np.float64), (conformations, 1)),
        "atXYZ": frames.positions,
        "ePBE0": frames.energy - _DISPERSION_EV,
        "ePBE0+MBD": frames.energy,
        "pbe0FOR": frames.forces,
        "totFOR": frames.forces,
    }
    return np.hstack([values[key].reshape(conformations, -1) for key in _label_shapes(size)])


def _rest(
    rng: np.random.Generator, at: int, size: int, conformations: int
) -> tuple[bytes, int, int]:
    """What of a molecule follows the names and labels of its conformations.

    Args:
        rng: Where the properties come from.
        at: Address of the names.
        size: Number of atoms.
        conformations: How many there are.

    Returns:
        The bytes, the address of the molecule's group, and the address behind the bytes.
    """
    labels_at = at + len(_names("0000", conformations))
    labels_bytes = _bytes(_label_shapes(size))
    start = labels_at + conformations * labels_bytes
    template, address, own, foreign = _template(size)
    rows = np.tile(template, (conformations, 1))
    steps = np.arange(conformations, dtype=_WORD)
    _move(rows, own, start + steps * len(template))
    _move(rows, foreign, labels_at + steps * labels_bytes)
    words = _bytes(_property_shapes(size)) // _WORD.itemsize
    # Of so few digits that files are compressed to about the size of the real ones.
    properties = rng.integers(-(1 << 27), 1 << 27, (conformations, words)) / 1024
    rows[:, : words * _WORD.itemsize] = properties.view(np.uint8)
    addresses = (start + address + steps * len(template)).tolist()
    members = sorted(zip(_keys("0000", conformations), addresses, strict=True))
    content, group = hdf5_layout.group(start + rows.size, members, at)
    return rows.tobytes() + content, group, start + rows.size + len(content)


@cache
def _template(size: int) -> tuple[Bytes, int, IntArray, IntArray]:
    """A conformation at address 0 whose labels are at address 0.

    Returns:
        The bytes, (B,); where among them the group is; and the places of addresses that lead to
        these bytes, and of those that lead to the labels.
    """
    content, address = _conformation(size, 0, 0)
    template = np.frombuffer(content, np.uint8)
    elsewhere = [_conformation(size, *places)[0] for places in ((_FAR, 0), (0, _FAR))]
    # So far away an address differs in this byte alone.
    byte = _FAR.bit_length() // 8
    own, foreign = (
        np.flatnonzero(np.frombuffer(other, np.uint8) != template) - byte for other in elsewhere
    )
    return template, address, own, foreign


def _conformation(size: int, at: int, labels_at: int) -> tuple[bytes, int]:
    """Properties and metadata of a conformation, and the address of its group."""
    properties, labels = _property_shapes(size), _label_shapes(size)
    content, members = bytes(_bytes(properties)), []
    for shapes, place in ((properties, at), (labels, labels_at)):
        for key, shape in shapes.items():
            members.append((key, at + len(content)))
            dtype = np.dtype(np.int64 if key == "atNUM" else np.float64)
            content += hdf5_layout.dataset(shape, dtype, place)
            place += _bytes({key: shape})
    members.sort()
    names_at = at + len(content)
    content += hdf5_layout.names([key for key, _ in members])
    group, address = hdf5_layout.group(at + len(content), members, names_at)
    return content + group, address


def _move(rows: Bytes, places: IntArray, by: UInt64Array) -> None:
    """Add to the addresses at some places of each row, (N, B), what belongs to the row, (N,)."""
    index = places[:, None] + np.arange(_WORD.itemsize)
    words = np.ascontiguousarray(rows[:, index]).view(_WORD) + by[:, None, None]
    rows[:, index] = words.view(np.uint8)


def _label_shapes(size: int) -> dict[str, tuple[int, ...]]:
    """Shapes of what is read, in the order of the numbers."""
    shapes: dict[str, tuple[int, ...]] = {"atNUM": (size,), "ePBE0": (1,), "ePBE0+MBD": (1,)}
    return shapes | dict.fromkeys(("atXYZ", "pbe0FOR", "totFOR"), (size, 3))


def _property_shapes(size: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the rest, in the order of the numbers."""
    return {
        **dict.fromkeys(_ONE, (1,)),
        **dict.fromkeys(_THREE, (3,)),
        **dict.fromkeys(_NINE, (9,)),
        **dict.fromkeys(_PER_ATOM, (size,)),
        **dict.fromkeys(_VECTORS, (size, 3)),
        "KSE": (2 * size,),
    }


def _bytes(shapes: dict[str, tuple[int, ...]]) -> int:
    return _WORD.itemsize * sum(map(prod, shapes.values()))
