"""Takes an HDF5 group apart into the bytes that say what it is and those that say where it lies.

Patterns are made of groups with symbol tables and of contiguous datasets, which is what HDF5 writes
if nothing else is asked for: sections III.A, III.B, III.D and IV.A of the HDF5 File Format
Specification (https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t4.html).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final

import h5py
import numpy as np
import numpy.typing as npt

from mtlpar.sources.hdf5 import HDF5_ERRORS

Bytes = npt.NDArray[np.uint8]

ADDRESS_BYTES: Final = 8

# Of an object's header: what precedes its messages, each of them, and their types.
_HEADER: Final = struct.Struct("<BxHII4x")
_MESSAGE: Final = struct.Struct("<HHB3x")
_LAYOUT, _CONTINUATION, _SYMBOL_TABLE, _TIME = 0x08, 0x10, 0x11, 0x12
# A layout of version 3 and class "contiguous"; its address follows. A time follows its version.
_CONTIGUOUS: Final = b"\x03\x01"
_TIME_PLACE: Final = 4
_TIME_BYTES: Final = 4
# Nodes of a group's tree, what these lead to, and the heap with the names.
_TREE: Final = struct.Struct("<4sBBH16x")
_SYMBOLS: Final = struct.Struct("<4sBxH")
_SYMBOL: Final = struct.Struct("<QQ24x")
_HEAP: Final = struct.Struct("<4sB3xQQQ")
_WORDS: Final = struct.Struct("<QQ")
_MOST_NUMBER_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Numbers:
    """The numbers of a dataset, one after another.

    Attributes:
        key: Name of the dataset.
        dtype: How they are stored.
        shape: Its shape.
    """

    key: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many bytes they are."""
        return self.dtype.itemsize * prod(self.shape)


@dataclass(frozen=True, slots=True)
class Part:
    """A run of metadata.

    Attributes:
        content: Its bytes, (B,).
        fixed: Which bits of them say what this is and not where or when it was written, (B,).
        leads: What its addresses lead to, by their places; not of those that no key needs.
    """

    content: Bytes
    fixed: Bytes
    leads: Mapping[int, Part | Numbers]


def pattern_of(content: memoryview, group: h5py.h5g.GroupID, keys: Sequence[str]) -> Part | None:
    """Take a group apart whose datasets h5py can read.

    Args:
        content: The bytes of the file.
        group: The group.
        keys: The datasets whose numbers are wanted.

    Returns:
        The header of the group and all that it leads to; None if it is laid out otherwise, or if
        h5py finds something else, or something elsewhere.
    """
    try:
        return _Anatomy(content).group(group, keys)
    except (_OtherLayoutError, struct.error, *HDF5_ERRORS, ValueError):
        return None


class _OtherLayoutError(Exception):
    """Not what patterns are made of."""


def _require(condition: bool) -> None:
    if not condition:
        raise _OtherLayoutError


class _Anatomy:
    def __init__(self, content: memoryview) -> None:
        self._content = content

    def group(self, group: h5py.h5g.GroupID, keys: Sequence[str]) -> Part:
        address = h5py.h5o.get_info(group).addr
        size, messages = self._messages(address)
        _require(_SYMBOL_TABLE in messages)
        tree_place = messages[_SYMBOL_TABLE]
        heap_place = tree_place + ADDRESS_BYTES
        tree, heap = _WORDS.unpack_from(self._content, address + tree_place)
        names, names_address = self._heap(heap)
        datasets = {key.encode(): self._dataset(group, key) for key in keys}
        leads = {tree_place: self._tree(tree, names_address, datasets), heap_place: names}
        return self._part(address, size, leads, leads)

    def _messages(self, address: int) -> tuple[int, dict[int, int]]:
        """Size of an object's header, and where in it the content of its messages begins."""
        version, count, _, size = _HEADER.unpack_from(self._content, address)
        _require(version == 1)
        messages: dict[int, int] = {}
        place = _HEADER.size
        for _ in range(count):
            kind, length, _ = _MESSAGE.unpack_from(self._content, address + place)
            messages[kind] = place + _MESSAGE.size
            place += _MESSAGE.size + length
        _require(_CONTINUATION not in messages and place == _HEADER.size + size)
        return place, messages

    def _heap(self, address: int) -> tuple[Part, int]:
        """The heap of a group's names, and where these are."""
        signature, version, size, _, data = _HEAP.unpack_from(self._content, address)
        _require((signature, version) == (b"HEAP", 0))
        place = _HEAP.size - ADDRESS_BYTES
        return self._part(address, _HEAP.size, [place], {place: self._part(data, size)}), data

    def _tree(self, address: int, names: int, datasets: dict[bytes, tuple[int, Part]]) -> Part:
        signature, kind, level, count = _TREE.unpack_from(self._content, address)
        _require((signature, kind, level) == (b"TREE", 0, 0))
        # A key, which is the place of a name, stands before, between and after the children.
        places = [_TREE.size + ADDRESS_BYTES + index * _WORDS.size for index in range(count)]
        wanted = dict(datasets)
        leads = {}
        for place in places:
            node = self._symbols(self._word(address + place), names, wanted)
            if node.leads:
                leads[place] = node
        _require(not wanted)
        size = _TREE.size + count * _WORDS.size + ADDRESS_BYTES
        return self._part(address, size, places, leads)

    def _symbols(self, address: int, names: int, wanted: dict[bytes, tuple[int, Part]]) -> Part:
        """A node with names and addresses of objects; those it has are taken out of ``wanted``."""
        signature, version, count = _SYMBOLS.unpack_from(self._content, address)
        _require((signature, version) == (b"SNOD", 1))
        places, leads = [], {}
        for index in range(count):
            start = _SYMBOLS.size + index * _SYMBOL.size
            name, target = _SYMBOL.unpack_from(self._content, address + start)
            places.append(start + ADDRESS_BYTES)
            for key, (header, dataset) in [*wanted.items()]:
                if self._bytes(names + name, len(key) + 1) == key + b"\0":
                    _require(header == target)
                    leads[places[-1]] = dataset
                    del wanted[key]
        return self._part(address, _SYMBOLS.size + count * _SYMBOL.size, places, leads)

    def _dataset(self, group: h5py.h5g.GroupID, key: str) -> tuple[int, Part]:
        """Where a dataset is, and the header of it."""
        found = h5py.h5d.open(group, key.encode())
        numbers = Numbers(key, found.dtype, found.shape)
        _require(numbers.dtype.kind in "fiu" and numbers.dtype.itemsize <= _MOST_NUMBER_BYTES)
        # h5py's dtype is silent about unused bits.
        _require(h5py.h5t.py_create(numbers.dtype) == found.get_type())
        address, start = h5py.h5o.get_info(found).addr, found.get_offset()
        size, messages = self._messages(address)
        _require(start is not None and _LAYOUT in messages)
        layout = address + messages[_LAYOUT]
        place = messages[_LAYOUT] + len(_CONTIGUOUS)
        _require(self._bytes(layout, len(_CONTIGUOUS)) == _CONTIGUOUS)
        _require(self._word(address + place) == start)
        _require(self._bytes(start, numbers.size) == h5py.Dataset(found)[()].tobytes())
        times = [messages[_TIME] + _TIME_PLACE] if _TIME in messages else []
        return address, self._part(address, size, [place], {place: numbers}, times=times)

    def _part(
        self,
        address: int,
        size: int,
        addresses: Iterable[int] = (),
        leads: Mapping[int, Part | Numbers] | None = None,
        *,
        times: Iterable[int] = (),
    ) -> Part:
        fixed = np.full(size, 0xFF, np.uint8)
        for place in addresses:
            fixed[place : place + ADDRESS_BYTES] = 0
        for place in times:
            fixed[place : place + _TIME_BYTES] = 0
        return Part(np.frombuffer(self._bytes(address, size), np.uint8), fixed, leads or {})

    def _word(self, address: int) -> int:
        return int.from_bytes(self._bytes(address, ADDRESS_BYTES), "little")

    def _bytes(self, address: int, size: int) -> bytes:
        found = bytes(self._content[address : address + size])
        _require(len(found) == size)
        return found
