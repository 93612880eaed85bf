"""Reads arrays from HDF5 files, with checked shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import numpy.typing as npt

from mtlpar.core.first_bytes import HDF5
from mtlpar.sources.base import Piece, RawBlock
from mtlpar.sources.file_kinds import require_kind
from mtlpar.sources.reading import Progress, collect_groups, damage_named

HDF5_ERRORS: Final = (
    OSError, RuntimeError, KeyError, TypeError, OverflowError, MemoryError, SystemError,
)  # fmt: skip
"""What h5py raises for damaged files, besides ValueError: HDF5 checks next to nothing itself."""

FloatArray = npt.NDArray[np.float64]

_SIGNATURE: Final = b"\x89HDF\r\n\x1a\n"
_END_ADDRESS: Final = {0: 40, 1: 44, 2: 28, 3: 28}
"""Where each version of the superblock says at which byte the file ends, in 8 bytes."""
_METADATA_CACHE_BYTES: Final = 1 << 20
_LARGE_BYTES: Final = 1 << 24
_MOST_COMPRESSED: Final = 1100  # deflate reaches 1032
_DOUBLE_BYTES: Final = 8
_KEYS_SHOWN: Final = 20


@contextmanager
def open_file(path: Path, *, to_end: bool = False) -> Iterator[h5py.File]:
    """Open an HDF5 file for a single pass over its objects.

    Args:
        path: The file.
        to_end: Whether nothing may follow what HDF5 reads; looked at when the pass is over.

    Raises:
        ValueError: If it is something else, or something follows, for instance another file.
    """
    # Behind a user block its signature stands elsewhere than at the beginning.
    if not h5py.is_hdf5(path):
        require_kind(path, HDF5)
    with h5py.File(path, "r") as file:
        # Nothing is asked for twice, but HDF5 would keep hundreds of MB of what it has seen.
        cache = file.id.get_mdc_config()
        cache.set_initial_size = True
        cache.initial_size = cache.min_size = cache.max_size = _METADATA_CACHE_BYTES
        file.id.set_mdc_config(cache)
        yield file
    if to_end:
        _refuse_more(path)


def read_groups(
    path: Path,
    piece: Piece | None,
    keys: Callable[[h5py.File], list[str]],
    read_group: Callable[[h5py.File, str, str], Iterator[RawBlock]],
    announced: Callable[[h5py.File, str], int],
) -> Iterator[RawBlock]:
    """Stream a file, or some of its groups, one group after the other.

    Args:
        path: The file.
        piece: Which groups; all if None.
        keys: Names the groups of a file.
        read_group: Reads a group: the file, its key, and where that is, for messages.
        announced: How many rows a damaged group was to have.

    Raises:
        ValueError: If the file is damaged or laid out otherwise.
    """
    progress = Progress(path)
    first = piece is None or piece.start == 0
    with damage_named(progress, *HDF5_ERRORS), open_file(path, to_end=first) as file:
        yield from collect_groups(
            progress,
            chosen(keys(file), piece),
            partial(read_group, file),
            partial(announced, file),
            *HDF5_ERRORS,
        )


def announced_end(path: Path) -> int | None:
    """At which byte an HDF5 file ends by its superblock; None if that is of an unknown kind."""
    with path.open("rb") as stream:
        superblock = stream.read(48)
    address = _END_ADDRESS.get(superblock[8])
    if not superblock.startswith(_SIGNATURE) or address is None:
        return None  # behind a user block, or of a version to come
    return int.from_bytes(superblock[address : address + 8], "little")


def _refuse_more(path: Path) -> None:
    size, end = path.stat().st_size, announced_end(path)
    if end is not None and size > end:
        raise ValueError(
            f"{path} has {size} bytes, but by its superblock ends after {end}: what follows is not "
            "read; is it two files in one?"
        )


def names(group: Any, *, where: str) -> list[str]:
    """Names of what is in a group, in order.

    A name that is damaged beyond UTF-8 is spelt in a way that nothing is found under.

    Raises:
        ValueError: If it is no group.
    """
    if not isinstance(group, h5py.Group):
        raise ValueError(f"{where}: expected an HDF5 group, got {group!r:.80}")
    return [
        name if isinstance(name, str) else name.decode(errors="backslashreplace") for name in group
    ]


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
        found = ", ".join(names(group, where=where)[:_KEYS_SHOWN])
        raise ValueError(f"{where}: {key!r} is missing, got {found or 'no keys'}")
    found = group[key]
    if not isinstance(found, h5py.Dataset):
        raise ValueError(f"{where}: {key!r} is a group, expected a dataset of shape {_text(shape)}")
    if not _fits(found.shape, shape):
        raise ValueError(
            f"{where}: {key!r} has shape {_text(found.shape)}, expected {_text(shape)}"
        )
    if found.dtype.kind not in "fiu":
        raise ValueError(f"{where}: {key!r} has dtype {found.dtype}, expected numbers")
    if found.nbytes > _LARGE_BYTES:
        _check_stored(found, where=f"{where}: {key!r}")
    return found


def _check_stored(found: h5py.Dataset, *, where: str) -> None:
    """Refuse what would fill the memory with nothing: a damaged shape announces any size."""
    stored = found.id.get_storage_size()
    if found.nbytes > _MOST_COMPRESSED * stored:
        raise ValueError(
            f"{where} announces {found.nbytes} bytes by its shape {_text(found.shape)}, but the "
            f"file stores {stored}"
        )


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
        if _fits(found.shape, shape) and _DOUBLE_BYTES * prod(found.shape) <= _LARGE_BYTES:
            values = np.empty(found.shape)
            found.read(h5py.h5s.ALL, h5py.h5s.ALL, values, h5py.h5t.NATIVE_DOUBLE)
            return values
    except (KeyError, TypeError):
        pass  # not there or no numbers: the slow way says what is wrong
    return array(h5py.Group(group), key, shape, where=where).astype(np.float64)


def announced_rows(file: h5py.File, groups: Iterable[str], *names: str) -> int:
    """Rows of some groups, each by the first of several datasets that can be opened."""
    return sum(
        next(filter(None, (_length(file, f"{group}/{name}") for name in names)), 0)
        for group in groups
    )


def _length(file: h5py.File, name: str) -> int:
    try:
        return int(file[name].shape[0])
    except (AttributeError, IndexError, ValueError, *HDF5_ERRORS):
        return 0


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
