"""What a raw file should be, what was received of it, and the part file in between."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Final

from mtlpar.download.catalogue import FileKind

logger = logging.getLogger(__name__)
CHUNK_BYTES: Final = 1 << 20
PART_ENDINGS: Final = (".part", ".part.version")
"""What is behind the name of a file that is not whole yet, and of the note where it is from."""

_POLL_S: Final = 0.5


class DiskError(ValueError):
    """This machine's disk is in the way; no other server would help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawFile:
    """A raw file that is to be fetched.

    Attributes:
        name: Its name in the raw folder.
        url: Address (http or https) or path that it is known by.
        kind: What the file is for.
        bytes: Its length, where it is known.
        md5: Its MD5 sum, where it is known.
        sha256: Its SHA-256 sum, where it is known.
        pinned_in: The lock file, if the SHA-256 sum is that of the first download.
        places: Addresses and paths to try, in this order, if ``url`` is not the only one.
    """

    name: str
    url: str
    kind: FileKind
    bytes: int | None = None
    md5: str | None = None
    sha256: str | None = None
    pinned_in: str | None = None
    places: tuple[str, ...] = ()

    @property
    def has_checksum(self) -> bool:
        """Whether the bytes can be distinguished from any others."""
        return self.md5 is not None or self.sha256 is not None


@dataclass(frozen=True, slots=True)
class Contents:
    """Length and checksums of bytes that were read."""

    bytes: int
    md5: str
    sha256: str

    def differences(self, file: RawFile) -> list[str]:
        """What contradicts the announced length and checksums, in words; empty if nothing does."""
        pinned = "" if file.pinned_in is None else f" as {file.pinned_in} has it"
        return [
            f"{name} is {got}, expected {expected}{origin}"
            for name, got, expected, origin in (
                ("length", self.bytes, file.bytes, ""),
                ("md5", self.md5, file.md5, ""),
                ("sha256", self.sha256, file.sha256, pinned),
            )
            if expected is not None and got != expected
        ]


class Checksums:
    """Length and checksums of bytes as they come."""

    def __init__(self) -> None:
        self.size = 0
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._sha256 = hashlib.sha256()

    def update(self, chunk: bytes | memoryview) -> None:
        """Take the bytes that follow."""
        self._md5.update(chunk)
        self._sha256.update(chunk)
        self.size += len(chunk)

    def contents(self) -> Contents:
        """What the bytes so far are."""
        return Contents(self.size, self._md5.hexdigest(), self._sha256.hexdigest())


class PartFile:
    """The bytes of a file that is not whole yet, hashed as they come.

    One process at a time has it: another one that wants the same file waits.

    Attributes:
        path: Where the bytes are.
    """

    def __init__(self, target: Path, *, pause: Callable[[float], None]) -> None:
        """Continue the part file of ``target``, or start it; waits for other processes.

        Raises:
            DiskError: If the file cannot be written here.
        """
        self._target = target
        self.path, self._version_path = (
            target.with_name(target.name + ending) for ending in PART_ENDINGS
        )
        self._checksums = Checksums()
        with self._disk_errors():
            self._stream = _open_alone(self.path, pause)
            self._stream.seek(0)
            while chunk := self._stream.read(CHUNK_BYTES):
                self._checksums.update(chunk)

    def __enter__(self) -> PartFile:
        return self

    def __exit__(self, *_: object) -> None:
        # Unlike what was received, an empty file is of no use to the next run.
        if self.size == 0 and not self._stream.closed:
            self._remove()
        self._stream.close()

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return self._checksums.size

    @property
    def origin(self) -> str:
        """The address that the bytes are from, empty if that is not known."""
        return self._read_version()[0]

    def version(self, url: str) -> str | None:
        """The name that a server has for this version of the file, if the bytes are from there."""
        origin, version = self._read_version()
        return version if version and origin == url else None

    def append(self, chunk: bytes) -> None:
        """Take the bytes that follow.

        Raises:
            DiskError: If they cannot be written.
        """
        rest = memoryview(chunk)
        while len(rest):
            with self._disk_errors():
                written = self._stream.write(rest)
            # What was written before the disk was full counts: the next run goes on behind it.
            self._checksums.update(rest[:written])
            rest = rest[written:]

    def restart(self, url: str = "", version: str | None = None) -> None:
        """Forget what was received; what follows is from this version of the file at ``url``."""
        with self._disk_errors():
            self._stream.truncate(0)
            self._checksums = Checksums()
            self._version_path.unlink(missing_ok=True)
            if url:
                self._version_path.write_text(f"{url} {version or ''}", encoding="utf-8")

    def differences(self, file: RawFile) -> list[str]:
        """What is wrong with the bytes, in words, if they are all there are."""
        return self._checksums.contents().differences(file) or ["it is empty"] * (self.size == 0)

    def finish(self) -> Contents:
        """Give the bytes their final name.

        Raises:
            DiskError: If that is not possible.
        """
        with self._disk_errors():
            os.fsync(self._stream.fileno())
            self.path.replace(self._target)
            self._version_path.unlink(missing_ok=True)
        self._stream.close()
        return self._checksums.contents()

    def _read_version(self) -> tuple[str, str]:
        if not self._version_path.is_file():
            return "", ""
        origin, _, version = self._version_path.read_text(encoding="utf-8").partition(" ")
        return origin, version

    def _remove(self) -> None:
        # In this order: a version without bytes misleads nobody, bytes without theirs might.
        self.path.unlink(missing_ok=True)
        self._version_path.unlink(missing_ok=True)

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        with disk_errors(self.path):
            yield


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Say what to do about errors of the operating system at a path.

    Raises:
        DiskError: In their place.
    """
    try:
        yield
    except OSError as error:
        raise DiskError(
            f"{path} cannot be written or read: {error.strerror or error}. Free space or correct "
            "permissions there and run again; what was received is kept"
        ) from error


def read_contents(path: Path, progress: Callable[[int], None] = lambda _: None) -> Contents:
    """Length and checksums of a file on disk.

    Args:
        path: The file.
        progress: Called with the number of bytes read so far.

    Raises:
        DiskError: If it cannot be read.
    """
    checksums = Checksums()
    with disk_errors(path), path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            checksums.update(chunk)
            progress(checksums.size)
    return checksums.contents()


def _open_alone(path: Path, pause: Callable[[float], None]) -> FileIO:
    """Open a file for appending once no other process (or thread) has it open this way."""
    waiting = False
    while True:
        stream = path.open("ab+", buffering=0)
        try:
            if _lock(stream) and _is_at(path, stream):
                return stream
            if not waiting:
                logger.info("%s is being fetched by another process; waiting for it", path)
                waiting = True
        except BaseException:
            stream.close()
            raise
        stream.close()
        pause(_POLL_S)


def _lock(stream: FileIO) -> bool:
    # The lock is the kernel's: it goes with the process, however that ends.
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        logger.warning(
            "%s: this file system has no locks (%s); run only one download here at a time",
            stream.name,
            error,
        )
    return True


def _is_at(path: Path, stream: FileIO) -> bool:
    """Whether a file is still the one of that name: others rename and remove theirs when done."""
    try:
        return os.path.samestat(path.stat(), os.fstat(stream.fileno()))
    except FileNotFoundError:
        return False
