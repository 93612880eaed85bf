"""What lies where a file was not fetched is called by its name, wherever files are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mtlpar.config.load import read_yaml
from mtlpar.core.files import read_json, read_text
from mtlpar.core.first_bytes import kind_of
from mtlpar.core.products import RawManifest
from mtlpar.core.records import read_record
from mtlpar.store.checksums import CHECKSUMS, check_checksums, write_checksums

_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4096\n"
_PAGE = b"<!doctype html>\n<title>Sign in</title>"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_POINTER, "is a pointer of Git LFS in place of the file; fetch it with git lfs pull"),
        (_PAGE, "is a web page .*; download the file itself, by its raw address"),
    ],
)
@pytest.mark.parametrize(
    "read",
    [read_text, read_json, read_yaml, lambda path: read_record(path, RawManifest)],
    ids=["text", "json", "yaml", "record"],
)
def test_a_text_that_was_not_fetched_is_named(
    tmp_path: Path, content: bytes, message: str, read: Callable[[Path], object]
) -> None:
    # YAML reads a pointer as a mapping of one key, of which only "unknown key" would be said.
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path} {message}"):
        read(path)


@pytest.mark.parametrize("name", [CHECKSUMS, "data.0", "md.0"])
def test_a_folder_with_pointers_in_it_is_not_called_truncated(tmp_path: Path, name: str) -> None:
    for file in ("data.0", "md.0"):
        (tmp_path / file).write_bytes(bytes(4096))
    write_checksums(tmp_path)
    (tmp_path / name).write_bytes(_POINTER)
    with pytest.raises(ValueError, match=f"{name} is a pointer of Git LFS") as caught:
        check_checksums(tmp_path)
    assert "truncated" not in str(caught.value)


@pytest.mark.parametrize(
    "head",
    [b'{"source": 1}', b"3\nLattice=", b'<?xml version="1.0"?>\n<modeling>', b"version 1", b""],
)
def test_files_themselves_are_not_taken_for_something_in_their_place(head: bytes) -> None:
    assert "in place of" not in str(kind_of(head))
    assert "server" not in str(kind_of(head))
