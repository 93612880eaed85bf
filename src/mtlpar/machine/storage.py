"""Checks of where results go: the store of packs, and what the file system guarantees."""

from __future__ import annotations

import fcntl
import shutil
import time
from pathlib import Path
from typing import Final

import numpy as np

from mtlpar.core.files import scratch_folder
from mtlpar.core.structures import StructureBatch
from mtlpar.machine.finding import Finding
from mtlpar.store.bp import BpReader, write_bp

_STORE_STRUCTURES: Final = 20_000
_CLOCK_TOLERANCE_S: Final = 5.0
_FREE_BYTES: Final = 10 << 30


def check_store(folder: Path) -> list[Finding]:
    """Write a pack, read it back, compare; with the bandwidth of both."""
    batch = _made_up(_STORE_STRUCTURES)
    with scratch_folder(folder / "doctor") as probe:
        path = probe / "probe.bp"
        started = time.perf_counter()
        write_bp(
            path,
            [batch],
            num_structures=len(batch),
            num_atoms=batch.total_atoms,
            attributes={"source": "probe"},
        )
        written = time.perf_counter()
        with BpReader(path) as reader:
            again = reader.read()
        read = time.perf_counter()
        megabytes = sum(file.stat().st_size for file in path.rglob("*")) / 1e6
    if not np.array_equal(again.positions, batch.positions):
        advice = "ADIOS2 or the file system loses data: do not go on, try another build or folder"
        return [Finding("store", "reads back other values than were written", "FAULT", advice)]
    rates = f"write {megabytes / (written - started):.0f} MB/s"
    rates += f", read {megabytes / (read - written):.0f} MB/s"
    return [Finding("store", f"round trip of {megabytes:.0f} MB, {rates}")]


def check_file_system(folder: Path) -> list[Finding]:
    """What leases, atomic outputs and HDF5 ask of the file system of the results."""
    findings = []
    with scratch_folder(folder / "doctor") as probe:
        findings += [_check_exclusive(probe), _check_rename(probe), _check_clock(probe)]
        findings.append(_check_locks(probe))
    free = shutil.disk_usage(folder).free
    advice = "set paths.results to a folder of the parallel file system"
    result = f"{free / 1e9:.0f} GB free"
    findings.append(
        Finding("space", result) if free > _FREE_BYTES else Finding("space", result, "note", advice)
    )
    return findings


def _check_exclusive(folder: Path) -> Finding:
    path = folder / "exclusive"
    path.open("x").close()
    try:
        path.open("x").close()
    except FileExistsError:
        return Finding("exclusive creation", "works")
    advice = "two jobs could write one output: use another file system for paths.results"
    return Finding("exclusive creation", "creates a file that exists", "FAULT", advice)


def _check_rename(folder: Path) -> Finding:
    old, new = folder / "old", folder / "new"
    for path in (old, new):
        path.mkdir()
    (old / "content").write_text("whole")
    try:
        old.rename(new)
    except OSError as error:
        advice = "outputs could appear half written: use another file system for paths.results"
        return Finding("rename", str(error), "FAULT", advice)
    return Finding("rename", "replaces a folder at once")


def _check_clock(folder: Path) -> Finding:
    path = folder / "clock"
    before = time.time()
    path.touch()
    skew = path.stat().st_mtime - before
    if abs(skew) <= _CLOCK_TOLERANCE_S:
        return Finding("clock", f"within {_CLOCK_TOLERANCE_S:.0f} s of the file system's")
    advice = "Snakemake compares times of files: outputs may look older than inputs; tell the site"
    return Finding("clock", f"{skew:+.0f} s from the file system's", "FAULT", advice)


def _check_locks(folder: Path) -> Finding:
    with (folder / "lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            advice = "reading HDF5 fails here unless env.sh exports HDF5_USE_FILE_LOCKING=FALSE"
            return Finding("file locks", f"{error}", "note", advice)
    return Finding("file locks", "work")


def _made_up(count: int) -> StructureBatch:
    rng = np.random.default_rng(0)
    atoms = 10 * count
    return StructureBatch.from_labels(
        num_atoms=np.full(count, 10),
        atomic_numbers=rng.integers(1, 90, atoms),
        positions=rng.normal(size=(atoms, 3)).astype(np.float32),
        energy=rng.normal(size=count),
        forces=rng.normal(size=(atoms, 3)).astype(np.float32),
        group=np.arange(count),
    )
