"""Draw what every source asks for, in several processes, and write it."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Final

from .base import SOURCES, SampleError
from .draws import Drawn, Task, perform, structures_in, tasks
from .labels import prepare_tblite
from .native import write_source
from .smiles import prepare_rdkit

CHECKSUMS: Final = "checksums.txt"
"""Name of the file with the checksums, in the format of sha256sum."""

SHARES: Final = {
    "ani1x": 7 / 6,
    "qm7x": 13 / 12,
    "transition1x": 13 / 12,
    "mptrj": 0.7,
    "alexandria": 0.15,
}
"""Structures of every source in units of `structures_per_source`; unequal as in reality.

About a fifth of the materials drawn for Alexandria are outliers and are not written.
"""

logger = logging.getLogger(__name__)
_THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_AHEAD: Final = 4


def generate(
    folder: Path,
    *,
    structures_per_source: int,
    seed: int,
    processes: int = 1,
    sources: Sequence[str] | None = None,
) -> None:
    """Generate the sample and writes it in the native formats of the five sources.

    The files are `<folder>/<source>/<native file names>` and `<folder>/checksums.txt`, which
    lists every file of the sample. The content follows from the seed alone: it is the same for
    any number of processes and for any selection of sources. All computations run in worker
    processes with one thread each, so that a script that calls this function needs the usual
    `if __name__ == "__main__":` guard.

    Args:
        folder: Where to write; existing files of the same names are replaced.
        structures_per_source: Size of the sample. The sources get the multiples of it that
            `SHARES` gives, rounded up to whole molecules, reactions or materials.
        seed: Seed of all random numbers, non-negative.
        processes: Number of worker processes.
        sources: Names of the sources to generate, all five by default.

    Raises:
        SampleError: An argument is out of range, a package of the extra `sample` is missing,
            or fewer structures can be drawn than asked for.
    """
    chosen = _checked_sources(sources)
    if structures_per_source < 1 or seed < 0 or processes < 1:
        raise SampleError(
            "structures_per_source and processes must be at least 1 and seed at least 0, got "
            f"{structures_per_source}, {processes} and {seed}"
        )
    prepare_rdkit()
    prepare_tblite()
    with _worker_pool(processes) as pool:
        for source in chosen:
            wanted = max(1, round(structures_per_source * SHARES[source]))
            drawn = _collect(pool, source, wanted, seed, _AHEAD * processes)
            write_source(source, folder / source, drawn, seed=seed)
    _write_checksums(folder)


def _checked_sources(sources: Sequence[str] | None) -> tuple[str, ...]:
    chosen = SOURCES if sources is None else tuple(sources)
    unknown = [name for name in chosen if name not in SOURCES]
    if unknown:
        raise SampleError(f"unknown sources {unknown}; the sources are {list(SOURCES)}")
    return chosen


@contextmanager
def _worker_pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Open a pool whose workers use one thread, which fixes the last bits of the results."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(processes, mp_context=context, initializer=prepare_rdkit) as pool:
            yield pool
            pool.shutdown(cancel_futures=True)
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _collect(
    pool: ProcessPoolExecutor,
    source: str,
    wanted: int,
    seed: int,
    ahead: int,
) -> list[Drawn]:
    """Take draws in their order until there are enough structures."""
    drawn: list[Drawn] = []
    structures = reported = 0
    for result in _in_order(pool, tasks(source, seed), ahead):
        if isinstance(result, str):
            logger.debug("%s: dropped a candidate: %s", source, result)
            continue
        drawn.append(result)
        structures += structures_in(result)
        if structures * 10 // wanted > reported:
            reported = structures * 10 // wanted
            logger.info("%s: %d of %d structures", source, structures, wanted)
        if structures >= wanted:
            return drawn
    raise SampleError(
        f"{source}: only {structures} of {wanted} structures could be drawn; "
        "ask for fewer with structures_per_source"
    )


def _in_order(
    pool: ProcessPoolExecutor, queue: Iterator[Task], ahead: int
) -> Iterator[Drawn | str]:
    pending: list[Future[Drawn | str]] = [
        pool.submit(perform, task) for task in islice(queue, ahead)
    ]
    try:
        while pending:
            yield pending.pop(0).result()
            pending += [pool.submit(perform, task) for task in islice(queue, 1)]
    finally:
        for future in pending:
            future.cancel()


def _write_checksums(folder: Path) -> None:
    files = {
        f"{name}/{path.name}": path
        for name in SOURCES
        for path in (folder / name).glob("*")
        if path.is_file()
    }
    lines = [f"{sha256(files[name].read_bytes()).hexdigest()}  {name}\n" for name in sorted(files)]
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")
