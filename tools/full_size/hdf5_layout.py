"""HDF5 laid out by hand: for files of so many small datasets that library calls take hours.

It is what HDF5 writes if nothing else is asked for: sections II.A, III.A, III.B, III.D and IV.A of
the HDF5 File Format Specification
(https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t4.html).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import h5py
import numpy as np

SUPERBLOCK_BYTES: Final = 96

_SYMBOLS: Final = 8
"""Members that a node has room for, and below that children of a node of the tree above."""
_CHILDREN: Final = 32
_NODE_BYTES: Final = 24 + 16 * _CHILDREN + 8
_NOWHERE: Final = (1 << 64) - 1
_SYMBOL_TABLE: Final = 0x11
_NOTHING_FREE: Final = 1


def superblock(root: int, end: int) -> bytes:
    """The beginning of a file.

    Args:
        root: Address of the root group.
        end: How many bytes the file has.
    """
    sizes = struct.pack("<8BHHI", 0, 0, 0, 0, 0, 8, 8, 0, _SYMBOLS // 2, _CHILDREN // 2, 0)
    addresses = struct.pack("<4Q", 0, _NOWHERE, end, _NOWHERE)
    return b"\x89HDF\r\n\x1a\n" + sizes + addresses + struct.pack("<QQ24x", 0, root)


def names(members: Sequence[str]) -> bytes:
    """The names of a group's members, as they lie in its heap after an empty one."""
    return bytes(8) + b"".join(_padded(member) for member in members)


def group(at: int, members: Sequence[tuple[str, int]], names_at: int) -> tuple[bytes, int]:
    """A group with its members.

    Args:
        at: Address of what is returned.
        members: Names in the order of their bytes, and addresses.
        names_at: Address of the names.

    Returns:
        The bytes, and the address of the group.
    """
    content, place, children = b"", 8, []
    for start in range(0, len(members), _SYMBOLS):
        some = members[start : start + _SYMBOLS]
        symbols = b""
        for name, address in some:
            symbols += struct.pack("<QQ24x", place, address)
            last, place = place, place + len(_padded(name))
        children.append((last, at + len(content)))
        content += struct.pack("<4sBxH", b"SNOD", 1, len(some)) + symbols.ljust(
            40 * _SYMBOLS, b"\0"
        )
    level = 0
    while level == 0 or len(children) > 1:
        nodes, children = _tree(level, children, at + len(content))
        content += nodes
        level += 1
    heap = at + len(content)
    content += struct.pack("<4s4xQQQ", b"HEAP", place, _NOTHING_FREE, names_at)
    header = struct.pack("<BxHII4x", 1, 1, 1, 24)
    message = struct.pack("<HHB3xQQ", _SYMBOL_TABLE, 16, 0, children[0][1], heap)
    return content + header + message, at + len(content)


def _tree(
    level: int, children: list[tuple[int, int]], at: int
) -> tuple[bytes, list[tuple[int, int]]]:
    """Nodes of one level, and the last name and the address of each.

    Args:
        level: How many levels are below.
        children: Place of the last name and address of each.
        at: Address of the first node.
    """
    content, nodes = b"", []
    key = 0
    for start in range(0, len(children), _CHILDREN):
        some = children[start : start + _CHILDREN]
        here = at + len(content)
        left = here - _NODE_BYTES if start else _NOWHERE
        right = here + _NODE_BYTES if start + _CHILDREN < len(children) else _NOWHERE
        node = struct.pack("<4sBBHQQQ", b"TREE", 0, level, len(some), left, right, key)
        for key, address in some:
            node += struct.pack("<QQ", address, key)
        content += node.ljust(_NODE_BYTES, b"\0")
        nodes.append((key, here))
    return content, nodes


def dataset(shape: tuple[int, ...], dtype: np.dtype[Any], numbers_at: int) -> bytes:
    """The header of a contiguous dataset.

    Args:
        shape: Its shape.
        dtype: Of its numbers.
        numbers_at: Their address.
    """
    header, place = _header(shape, dtype)
    return header[:place] + struct.pack("<Q", numbers_at) + header[place + 8 :]


@cache
def _header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[bytes, int]:
    """A header as HDF5 writes it, and the place of the address in it."""
    with h5py.File("header", "w", driver="core", backing_store=False) as file:
        file["dataset"] = np.zeros(shape, dtype)
        file.flush()
        image, found = file.id.get_file_image(), file["dataset"].id
        at, place = h5py.h5o.get_info(found).addr, found.get_offset()
    _, _, _, size = struct.unpack_from("<BxHII", image, at)
    header = image[at : at + 16 + size]
    return header, header.index(struct.pack("<Q", place))


def _padded(name: str) -> bytes:
    return name.encode() + bytes(8 - len(name) % 8)
