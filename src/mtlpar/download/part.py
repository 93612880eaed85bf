"""What a raw file should be, what was received of it, and the part file in between."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mtlpar.download.catalogue import FileKind

_CHUNK_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RawFile:
    """A raw file that is to be fetched.

    Attributes:
        name: Its name in the raw folder.
        url: Address (http or https), or a path on this machine.
        kind: What the file is for.
        bytes: Its length, where it is known.
        md5: Its MD5 sum, where it is known.
        sha256: Its SHA-256 sum, where it is known.
    """

    name: str
    url: str
    kind: FileKind
    bytes: int | None = None
    md5: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Contents:
    """Length and checksums of bytes that were read."""

    bytes: int
    md5: str
    sha256: str

    def differences(self, file: RawFile) -> list[str]:
        """What contradicts the announced length and checksums, in words; empty if nothing does."""
        return [
            f"{name} is {got}, expected {expected}"
            for name, got, expected in (
                ("length", self.bytes, file.bytes),
                ("md5", self.md5, file.md5),
                ("sha256", self.sha256, file.sha256),
            )
            if expected is not None and got != expected
        ]


class PartFile:
    """The bytes of a file that is not whole yet, hashed as they come.

    Attributes:
        path: Where the bytes are.
        size: How many there are.
    """

    def __init__(self, target: Path) -> None:
        """Continue the part file of ``target``, or start it."""
        self._target = target
        self.path = target.with_name(f"{target.name}.part")
        self._validator_path = target.with_name(f"{target.name}.part.version")
        self._stream = self.path.open("ab+")
        self._reset_hashes()
        self._stream.seek(0)
        while chunk := self._stream.read(_CHUNK_BYTES):
            self._count(chunk)

    def __enter__(self) -> PartFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        if self.size == 0:
            self._remove()

    @property
    def version(self) -> str | None:
        """The server's name for the version of the file that the bytes are from."""
        if not self._validator_path.is_file():
            return None
        return self._validator_path.read_text(encoding="utf-8")

    def append(self, chunk: bytes) -> None:
        """Take the bytes that follow."""
        self._stream.write(chunk)
        self._count(chunk)

    def restart(self, version: str | None = None) -> None:
        """Forget what was received; what follows is from this version of the file."""
        self._stream.truncate(0)
        self._reset_hashes()
        self._validator_path.unlink(missing_ok=True)
        if version is not None:
            self._validator_path.write_text(version, encoding="utf-8")

    def finish(self, file: RawFile) -> Contents:
        """Give the file its name if it is what was announced; otherwise remove it.

        Raises:
            ValueError: If length or checksums are not the announced ones.
        """
        self._stream.close()
        contents = Contents(self.size, self._md5.hexdigest(), self._sha256.hexdigest())
        differences = contents.differences(file)
        if differences or self.size == 0:
            self._remove()
            raise ValueError(
                f"{file.name} from {file.url} is not the expected file: "
                f"{'; '.join(differences) or 'it is empty'}. What was received is removed. Run "
                "again; if it stays like this, the file has been replaced at its origin."
            )
        self.path.replace(self._target)
        self._validator_path.unlink(missing_ok=True)
        return contents

    def _count(self, chunk: bytes) -> None:
        self._md5.update(chunk)
        self._sha256.update(chunk)
        self.size += len(chunk)

    def _reset_hashes(self) -> None:
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._sha256 = hashlib.sha256()
        self.size = 0

    def _remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self._validator_path.unlink(missing_ok=True)
