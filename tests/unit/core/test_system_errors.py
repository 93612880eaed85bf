"""What the system refuses is said with its cause."""

from __future__ import annotations

import os

import pytest

from mtlpar.core.files import write_text
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


def test_a_link_that_leads_to_itself_is_named_though_it_is_no_error_of_the_system(tmp_path) -> None:
    loop = tmp_path / "model.pt"
    loop.symlink_to(loop)
    with pytest.raises(RuntimeError) as found:
        loop.resolve()
    words = words_of(found.value)
    assert words is not None
    assert str(loop) in words
    assert "Correct that name or link" in words
    assert words_of(RuntimeError("a fault of the code")) is None


def test_a_folder_in_the_place_of_a_file_is_named_and_not_the_temporary_file(tmp_path) -> None:
    (tmp_path / "card.md").mkdir()
    with pytest.raises(OSError) as raised:
        write_text(tmp_path / "card.md", "text")
    told = words_of(raised.value)
    assert told is not None
    assert told.startswith(f"{tmp_path / 'card.md'}: Is a directory. Something else is in the way")
