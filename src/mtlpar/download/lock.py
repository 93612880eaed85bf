"""The lock file of a source: which files a listing had, and what the first download contained.

It lies beside the catalogue, in a folder named after it (``sources.csv`` has ``sources.lock/``),
and belongs into version control: everybody who has it gets the same bytes or an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from pydantic import Field, ValidationError

from mtlpar.core.files import read_text, write_text
from mtlpar.core.settings import Settings
from mtlpar.download.part import Contents, RawFile, disk_errors


class LockedFile(Settings):
    """A file as it was found; length and checksum are known once it was downloaded."""

    name: str = Field(min_length=1)
    url: str = Field(min_length=1)
    bytes: int | None = Field(gt=0)
    sha256: str | None = Field(pattern=r"^[0-9a-f]{64}$")


class _LockFile(Settings):
    source: str
    files: tuple[LockedFile, ...]


class Lock:
    """What is locked of one source.

    Attributes:
        path: The lock file; it need not exist.
        files: Locked files by name.
    """

    def __init__(self, catalogue: Path, source: str) -> None:
        """Read the lock file of a source.

        Raises:
            ValueError: If there is one that cannot be read.
        """
        self.path = catalogue.with_suffix(".lock") / f"{source}.json"
        self._source = source
        self.files: dict[str, LockedFile] = {}
        if self.path.is_file():
            try:
                content = _LockFile.model_validate_json(read_text(self.path))
            except ValidationError as error:
                raise ValueError(
                    f"{self.path} is not a lock file: {error.errors()[0]['msg']}. Restore it from "
                    "version control, or make a new one with `mtlpar download --relock`"
                ) from error
            self.files = {file.name: file for file in content.files}

    def clear(self) -> None:
        """Forget everything; the file on disk stays until something is written."""
        self.files = {}

    def cover(self, files: Iterable[RawFile]) -> None:
        """Cover exactly those files whose checksum is not published, with what is known of them."""
        known = self.files
        self.files = {
            file.name: known.get(file.name)
            or LockedFile(name=file.name, url=file.url, bytes=file.bytes, sha256=None)
            for file in files
            if not file.has_checksum or file.pinned_in is not None
        }

    def pin(self, name: str, contents: Contents) -> None:
        """Write down what a file contains, if it is covered; later downloads must bring the same.

        Raises:
            ValueError: If the lock file cannot be written.
        """
        if name in self.files:
            self.files[name] = self.files[name].model_copy(
                update={"bytes": contents.bytes, "sha256": contents.sha256}
            )
            self.save()

    def save(self) -> None:
        """Write the lock file, unless there is nothing to lock or nothing new.

        Raises:
            ValueError: If that is not possible.
        """
        files = [self.files[name].model_dump() for name in sorted(self.files)]
        text = json.dumps({"source": self._source, "files": files}, indent=2) + "\n"
        with disk_errors(self.path):
            old = self.path.read_text(encoding="utf-8") if self.path.is_file() else None
            if text != old and (files or old is not None):
                write_text(self.path, text)
