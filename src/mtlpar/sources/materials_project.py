"""Names of materials of the Materials Project: one for each, however its identifier is written."""

from __future__ import annotations

import re
from typing import Final

from mtlpar.core.hashing import name_hash

_LETTERS: Final = re.compile(r"(mp|mvc)-([a-z]+)")
_FIRST: Final = ord("a")
_BASE: Final = 26
_NAMESPACE: Final = "mptrj"


def material_name(identifier: str) -> str:
    """The identifier with its number in digits: ``mp-149`` for ``mp-149``, ``mp-ft``, ``mp-aaft``.

    Newer identifiers write the number in base 26 with the digits a to z, the most significant one
    first, and may have a's in front (emmet-core, class ``AlphaID`` in ``emmet/core/mpid.py``;
    compared with version 0.87.3). What is no such identifier is returned as it is.
    """
    found = _LETTERS.fullmatch(identifier)
    if found is None:
        return identifier
    prefix, letters = found.groups()
    number = 0
    for letter in letters:
        number = _BASE * number + ord(letter) - _FIRST
    return f"{prefix}-{number}"


def material_group(identifier: str) -> int:
    """Hash of the group of a material, the same in all sources that name materials so."""
    return name_hash(_NAMESPACE, material_name(identifier))
