"""What the system refuses is said with its cause."""

from __future__ import annotations

import os

import pytest

from mtlpar.core.system_errors import words_of


def test_a_name_in_other_bytes_than_utf_8_is_named_with_what_to_do() -> None:
    # As Python gives the name of a file that was written on a system in Latin-1.
    name = os.fsdecode(b"k\xf6rper.extxyz")
    with pytest.raises(UnicodeEncodeError) as caught:
        f'{{"inputs": ["data/{name}"]}}'.encode()
    said = words_of(caught.value)
    assert said is not None
    assert said.isascii()
    assert said.startswith(
        "'k\\udcf6rper.extxyz' has letters that are not in utf-8: rename the file"
    )
