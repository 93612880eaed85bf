"""Reads arrays from HDF5 files, with checked shapes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import numpy.typing as npt

from mtlpar.sources.base import Piece

HDF5_ERRORS: Final = (OSError, RuntimeError, KeyError)
"""What h5py raises for damaged files: KeyError and RuntimeError where it cannot follow a link."""

FloatArray = npt.NDArray[np.float64]

_METADATA_CACHE_BYTES: Final = 1 << 20


@contextmanager
def open_file(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for a single pass over its objects."""
    with h5py.File(path, "r") as file:
        # Nothing is asked for twice, but HDF5 would keep hundreds of MB of what it has seen.
        cache = file.id.get_mdc_config()
        cache.set_initial_size = True
        cache.initial_size = cache.min_size = cache.max_size = _METADATA_CACHE_BYTES
        file.id.set_mdc_config(cache)
        yield file


def members(group: Any, *, where: str) -> Iterator[tuple[str, Any]]:
    """Iterate over names and values of a group, in the order of the names.

    Raises:
        ValueError: If it is a dataset.
    """
    if not isinstance(group, h5py.Group):
        raise ValueError(f"{where}: expected an HDF5 group, got a dataset of shape {group.shape}")
    yield from group.items()


def dataset(group: Any, key: str, shape: tuple[int | None, ...], *, where: str) -> h5py.Dataset:
    """Return a dataset of a group without reading it.

    Args:
        group: The HDF5 group.
        key: Name of the dataset.
        shape: Expected shape; None accepts any length.
        where: File and group, for messages.

    Raises:
        ValueError: If there is no such dataset or it has another shape.
    """
    if not isinstance(group, h5py.Group):
        raise ValueError(f"{where}: expected an HDF5 group with {key!r}, got a dataset")
    if key not in group:
        raise ValueError(f"{where}: {key!r} is missing, got {', '.join(group) or 'no keys'}")
    found = group[key]
    if not isinstance(found, h5py.Dataset):
        raise ValueError(f"{where}: {key!r} is a group, expected a dataset of shape {_text(shape)}")
    if not _fits(found.shape, shape):
        raise ValueError(
            f"{where}: {key!r} has shape {_text(found.shape)}, expected {_text(shape)}"
        )
    if found.dtype.kind not in "fiu":
        raise ValueError(f"{where}: {key!r} has dtype {found.dtype}, expected numbers")
    return found


def array(group: Any, key: str, shape: tuple[int | None, ...], *, where: str) -> npt.NDArray[Any]:
    """Read a whole dataset; see `dataset`."""
    return np.asarray(dataset(group, key, shape, where=where)[()])


def float_array(
    group: h5py.h5g.GroupID, key: str, shape: tuple[int | None, ...], *, where: str
) -> FloatArray:
    """Read a whole dataset as float64; see `dataset`.

    QM7-X has 17 million arrays of a few numbers, which the low-level interface reads three times
    as fast if it is not asked for their dtype.
    """
    try:
        found = h5py.h5d.open(group, key.encode())
        if _fits(found.shape, shape):
            values = np.empty(found.shape)
            found.read(h5py.h5s.ALL, h5py.h5s.ALL, values, h5py.h5t.NATIVE_DOUBLE)
            return values
    except (KeyError, TypeError):
        pass  # not there or no numbers: the slow way says what is wrong
    return array(h5py.Group(group), key, shape, where=where).astype(np.float64)


def announced_rows(file: h5py.File, *datasets: str) -> int:
    """Sum of the first dimensions of some datasets, as far as they can be opened."""
    rows = 0
    for name in datasets:
        try:
            rows += file[name].shape[0]
        except (AttributeError, IndexError, *HDF5_ERRORS):
            continue
    return rows


def even_pieces(count: int, size_bytes: int, piece_bytes: int, **more: Any) -> list[Piece]:
    """Cut ``range(count)`` of a file of some size into pieces of about ``piece_bytes``."""
    pieces = max(1, min(count, -(-size_bytes // piece_bytes)))
    cuts = [count * index // pieces for index in range(pieces + 1)]
    return [Piece(start, stop, **more) for start, stop in pairwise(cuts)]


def chosen(names: list[str], piece: Piece | None) -> list[str]:
    """The names that a piece of `even_pieces` stands for; all without one."""
    return names if piece is None else names[piece.start : piece.stop]


def _fits(got: tuple[int, ...], shape: tuple[int | None, ...]) -> bool:
    return len(got) == len(shape) and all(
        expected in (None, length) for expected, length in zip(shape, got, strict=True)
    )


def _text(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("any" if length is None else str(length) for length in shape) + ")"
