"""Leases: at most one process at a time writes an output, on shared file systems too.

A lease is a small file beside the output, ``.lease-<name>-<generation>``, that names its owner and
beats: the owner rewrites it every few seconds. To take a lease is to *create* the file of the next
generation, which of several processes only one can do, on NFS and Lustre as on a local disk; file
locks (``fcntl``) are not asked, because many clusters mount their file systems without them. The
highest generation counts. No generation is given twice, so a process that was thought dead and
wakes up finds a higher one and stops.

A lease is free when it was released, or when it is stale: its owner is a process of this machine
that has gone, it has not beaten while we watched for `STALE_AFTER_S`, or its last beat is so old
that no error of a clock explains it.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from mtlpar.core.files import write_json

logger = logging.getLogger(__name__)

BEAT_S: Final = 5.0
STALE_AFTER_S: Final = 120.0
_CLOCK_TOLERANCE_S: Final = 900.0
# Who takes a lease fills its file in a moment, and a beat mends one that was damaged since.
_NAMELESS_STALE_AFTER_S: Final = 1.5 * BEAT_S
_REMIND_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds a lease.

    Attributes:
        host: Name of the machine.
        pid: Process on it.
        scope: Boot and process namespace, within which pids mean the same.
        start: When the process started; tells a reused pid from the owner's.
        job: Job of the scheduler, or nothing.
        nodes: Nodes that work on the output.
        ranks: Processes that work on the output.
        since: Unix time at which the lease was taken.
    """

    host: str
    pid: int
    scope: str
    start: str
    job: str = ""
    nodes: int = 1
    ranks: int = 1
    since: float = field(default_factory=time.time)

    @classmethod
    def this_process(cls, *, job: str = "", nodes: int = 1, ranks: int = 1) -> Owner:
        """The running process."""
        pid = os.getpid()
        return cls(
            socket.gethostname(), pid, _scope(), _start_of(pid), job=job, nodes=nodes, ranks=ranks
        )

    def has_gone(self) -> bool:
        """Whether it is a process of this machine that runs no more; False where unknown."""
        here = self.host == socket.gethostname() and self.scope == _scope()
        return here and self.start != _start_of(self.pid)

    def __str__(self) -> str:
        where = f"process {self.pid} on {self.host}"
        return f"{where}, job {self.job}" if self.job else where


@dataclass(frozen=True, slots=True)
class Lease:
    """What a lease file says.

    Attributes:
        generation: Number of this lease; the highest one counts.
        owner: Who holds it; None while its file is being written.
        beats: How often it has beaten.
        beat_at: Unix time of the last beat by the owner's clock.
        released: Whether the owner is done.
    """

    generation: int
    owner: Owner | None
    beats: int = 0
    beat_at: float = 0.0
    released: bool = False

    @property
    def holder(self) -> str:
        """The owner, for messages."""
        return str(self.owner or "a process that has not left its name yet")


_LEASE: Final = TypeAdapter(Lease)


class LeaseFolder:
    """The generations of one lease in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        """Look at the lease ``name`` of a folder, which need not exist."""
        self.folder = folder
        self.name = name

    def __str__(self) -> str:
        # Of the present folder "." would be the name.
        return f"{self.name} in {self.folder if self.folder.name else self.folder.resolve()}"

    def path(self, generation: int) -> Path:
        """File of a generation."""
        return self.folder / f".lease-{self.name}-{generation:06d}"

    def generations(self) -> list[int]:
        """Generations whose file is there."""
        pattern = re.compile(re.escape(f".lease-{self.name}-") + r"(\d{6,})")
        if not self.folder.is_dir():
            return []
        matches = (pattern.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def current(self) -> Lease | None:
        """The lease that counts, or None if there never was one."""
        for generation in reversed(self.generations()):
            with suppress(FileNotFoundError):
                return _parse(generation, self.path(generation).read_bytes())
        return None

    def create(self, generation: int, owner: Owner) -> bool:
        """Take a generation; False if another process was faster."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            # Exclusive creation is atomic on NFS and Lustre too.
            stream = self.path(generation).open("x", encoding="utf-8")
        except FileExistsError:
            return False
        try:
            with stream:
                json.dump(_plain(Lease(generation, owner, beat_at=time.time())), stream)
        except OSError:
            # On a full disk. Nobody could tell whose this is, and all would wait for them.
            self.path(generation).unlink()
            raise
        # Its file may have been free because the generation was over long ago.
        *older, newest = self.generations()
        if newest != generation:
            self.path(generation).unlink()
            return False
        for old in older:
            self.path(old).unlink(missing_ok=True)
        return True

    def write(self, lease: Lease) -> None:
        """Replace the file of a lease."""
        write_json(self.path(lease.generation), _plain(lease))


class HeldLease:
    """A lease that this process holds and that beats until it is released.

    Attributes:
        previous: The lease before this one, if its owner never released it.
        waited: Whether another process held the lease when this one asked for it.
    """

    def __init__(
        self,
        files: LeaseFolder,
        lease: Lease,
        *,
        previous: Lease | None,
        waited: bool,
        on_loss: Callable[[], None],
    ) -> None:
        """Start the heart of a lease that was just taken."""
        self.previous = previous
        self.waited = waited
        self._files = files
        self._lease = lease
        self._on_loss = on_loss
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._heart.start()

    def release(self) -> None:
        """Let the next one write.

        Raises:
            ValueError: If the lease was lost: another process took this one for dead.
        """
        self._stop.set()
        self._heart.join()
        self._check()
        try:
            self._rewrite(released=True)
        except OSError as error:
            # What the run itself has come to matters more, and others see when it has gone.
            logger.warning("%s: cannot release the lease: %s", self._files, error)

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_S):
            try:
                self._check()
                self._rewrite(released=False)
            except ValueError as error:
                logger.critical("%s", error)
                self._on_loss()
                return
            except OSError as error:
                # A file system that hangs for a moment is no reason to stop; the next beat tells.
                logger.warning("%s: cannot renew the lease: %s", self._files, error)

    def _check(self) -> None:
        current = self._files.current()
        if current and current.generation > self._lease.generation:
            raise ValueError(
                f"{self._files}: lost the lease to {current.holder}, "
                "which saw no sign of life from this process; this process stops and writes "
                "nothing more"
            )

    def _rewrite(self, *, released: bool) -> None:
        lease = self._lease
        self._lease = Lease(
            lease.generation, lease.owner, lease.beats + 1, time.time(), released=released
        )
        self._files.write(self._lease)


@contextmanager
def hold(
    folder: Path,
    name: str,
    owner: Owner,
    *,
    patience_s: float | None = None,
    on_loss: Callable[[], None] | None = None,
) -> Iterator[HeldLease]:
    """Hold the lease of an output for as long as the block lasts.

    Args:
        folder: Folder of the output.
        name: Name of the output in it.
        owner: Who asks.
        patience_s: How long to wait for another owner; None for ever.
        on_loss: What to do if the lease is lost, by default to end the process at once.

    Raises:
        ValueError: If another process holds the lease and patience runs out, or if the lease was
            lost meanwhile.
    """
    held = _take(LeaseFolder(folder, name), owner, patience_s, on_loss or _end_process)
    try:
        yield held
    finally:
        held.release()


def _take(
    files: LeaseFolder, owner: Owner, patience_s: float | None, on_loss: Callable[[], None]
) -> HeldLease:
    started = watched = time.monotonic()
    reminded = float("-inf")
    seen: Lease | None = None
    waited = False
    while True:
        current = files.current()
        if current != seen:
            seen, watched = current, time.monotonic()
        if current is None or current.released or _is_stale(current, time.monotonic() - watched):
            generation = current.generation + 1 if current else 1
            if files.create(generation, owner):
                break
            continue
        waited = waited or not (current.owner and current.owner.has_gone())
        now = time.monotonic()
        if patience_s is not None and now - started >= patience_s:
            raise ValueError(
                f"{files} is being written by {current.holder}; waited "
                f"{now - started:.0f} s. Wait for it or end it (`mtlpar jobs`), then run again"
            )
        if now - reminded >= _REMIND_S:
            logger.info("%s: waiting for %s, which writes it", files, current.holder)
            reminded = now
        time.sleep(BEAT_S / 10)
    previous = current if current and not current.released else None
    if previous:
        logger.warning("%s: took over from %s, which is gone", files, previous.holder)
    lease = Lease(generation, owner, beat_at=time.time())
    return HeldLease(files, lease, previous=previous, waited=waited, on_loss=on_loss)


def _is_stale(lease: Lease, unchanged_s: float) -> bool:
    if unchanged_s >= STALE_AFTER_S:
        return True
    if lease.owner is None:
        # It was killed at that moment. If it only slept, it sees the generation after its own.
        return unchanged_s >= _NAMELESS_STALE_AFTER_S
    if lease.owner.has_gone():
        # Ranks on other nodes outlive the first one by a moment.
        return lease.owner.ranks == 1 or unchanged_s >= BEAT_S
    return time.time() - lease.beat_at > STALE_AFTER_S + _CLOCK_TOLERANCE_S


def _end_process() -> None:
    # Whatever the process is about to write is no longer its to write; os._exit asks nobody.
    os._exit(1)


def _scope() -> str:
    """Boot and process namespace of this process, as far as the system tells."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def _start_of(pid: int) -> str:
    """When a process of this machine started, in ticks since boot; empty if it does not run."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return "" if Path("/proc/self/stat").exists() else _start_without_proc(pid)
    # The name in parentheses may hold anything; the start is the 20th field after it.
    fields = status.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]


def _start_without_proc(pid: int) -> str:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "unknown"


def _plain(lease: Lease) -> dict[str, Any]:
    return {key: value for key, value in asdict(lease).items() if key != "generation"}


def _parse(generation: int, content: bytes) -> Lease:
    try:
        return _LEASE.validate_python({**json.loads(content), "generation": generation})
    except (ValueError, TypeError, RecursionError):
        # Created, but not filled yet, or damaged.
        return Lease(generation, None)
