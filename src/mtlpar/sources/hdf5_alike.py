"""Reads numbers from many HDF5 groups that are alike at once, without library calls for each.

Opening a small dataset takes HDF5 far longer than its bytes take. One group is read by h5py and
becomes the pattern. Another whose metadata are the same bytes, but for addresses and times, means
the same to HDF5, so its numbers lie where its own addresses lead. A group that differs in a single
bit, or leads out of the file, is left to h5py, which names what is wrong.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import numpy.typing as npt

from mtlpar.core.hashing import UInt64Array
from mtlpar.sources.hdf5 import HDF5_ERRORS, announced_end
from mtlpar.sources.hdf5_pattern import ADDRESS_BYTES, Bytes, Numbers, Part, pattern_of

Bools = npt.NDArray[np.bool_]

_NOWHERE: Final = (1 << 64) - 1
_WORD_SIZES: Final = (8, 8)
# Patterns that are tried again: molecules of QM7-X have 4 to 23 atoms.
_KEPT: Final = 24


class AlikeGroups:
    """Reads groups of an HDF5 file that h5py has open.

    Args:
        file: The file.
        path: Its path. The file is mapped into memory, and may not be cut off meanwhile.
    """

    def __init__(self, file: h5py.File, path: Path) -> None:
        creation = file.id.get_create_plist()
        usual = creation.get_sizes() == _WORD_SIZES and creation.get_userblock() == 0
        with path.open("rb") as stream:
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        # HDF5 refuses addresses behind the end that the file announces.
        end = announced_end(path) if usual else None
        self._content: Bytes = np.frombuffer(self._map, np.uint8)[: end or 0]
        self._known: dict[tuple[str, ...], list[Part]] = {}

    def read(
        self, parent: h5py.h5g.GroupID, names: Sequence[str], keys: Sequence[str]
    ) -> tuple[Bools, dict[str, npt.NDArray[Any]]]:
        """Read datasets of those groups that are like the first of them.

        Patterns of groups that were read before are tried first.

        Args:
            parent: The group that the groups are in.
            names: The groups, N of them.
            keys: The datasets of each.

        Returns:
            Which groups are like the first, (N,): none if that is laid out in another way. And for
            each key the numbers of these as they are stored, (n, *shape); no keys if none is.
        """
        pattern = self._pattern(parent, names[0], keys) if names else None
        if pattern is None:
            return np.zeros(len(names), np.bool_), {}
        addresses = np.array([_address(parent, name) for name in names], np.uint64)
        alike = addresses != _NOWHERE
        found: dict[str, npt.NDArray[Any]] = {}
        self._follow(pattern, addresses, alike, found)
        # What was read stays in the system's cache, but is no memory of this process.
        self._map.madvise(mmap.MADV_DONTNEED)
        return alike, {key: found[key][alike] for key in keys}

    def _pattern(self, parent: h5py.h5g.GroupID, name: str, keys: Sequence[str]) -> Part | None:
        """The pattern of a group: a known one, or that which it is itself."""
        known = self._known.setdefault(tuple(keys), [])
        address = np.array([_address(parent, name)], np.uint64)
        pattern = next((one for one in known if self._is_like(one, address)), None)
        if pattern is None:
            try:
                group = h5py.h5g.open(parent, name.encode())
            except (ValueError, *HDF5_ERRORS):
                return None
            pattern = pattern_of(self._content.data, group, keys)
        if pattern is not None:
            known[:] = [pattern, *(one for one in known if one is not pattern)][:_KEPT]
        return pattern

    def _is_like(self, pattern: Part, address: UInt64Array) -> bool:
        alike = address != _NOWHERE
        self._follow(pattern, address, alike, {})
        return bool(alike.all())

    def _follow(
        self,
        part: Part | Numbers,
        addresses: UInt64Array,
        alike: Bools,
        found: dict[str, npt.NDArray[Any]],
    ) -> None:
        """Compare a part of the pattern, and all that it leads to, with that of each group."""
        if isinstance(part, Numbers):
            rows = self._rows(addresses, part.size, alike)
            found[part.key] = rows.view(part.dtype).reshape(-1, *part.shape)
            return
        rows = self._rows(addresses, len(part.content), alike)
        alike &= ~((rows ^ part.content) & part.fixed).any(axis=1)
        if not alike.any():
            return
        for place, lead in part.leads.items():
            words = np.ascontiguousarray(rows[:, place : place + ADDRESS_BYTES])
            self._follow(lead, words.view("<u8")[:, 0], alike, found)

    def _rows(self, addresses: UInt64Array, size: int, alike: Bools) -> Bytes:
        """The bytes from each address on, (N, size); a group that leads out of the file differs."""
        # The pattern itself is in the file, so that is no shorter than any part.
        alike &= addresses <= len(self._content) - size
        starts = np.where(alike, addresses, 0).astype(np.int64)
        rows: Bytes = np.lib.stride_tricks.sliding_window_view(self._content, size)[starts]
        return rows


def _address(parent: h5py.h5g.GroupID, name: str) -> int:
    try:
        link = parent.links.get_info(name.encode())
    except (ValueError, *HDF5_ERRORS):
        return _NOWHERE
    return int(link.u) if link.type == h5py.h5l.TYPE_HARD else _NOWHERE
