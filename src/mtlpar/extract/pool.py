"""Divides raw files into pieces and extracts these side by side.

How a file is divided depends on the file alone, never on the number of processes or jobs, and each
piece writes parts of its own: the result is the same, byte for byte, however the work is spread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from tqdm import tqdm

from mtlpar.core.files import file_digest
from mtlpar.core.processes import Workers
from mtlpar.core.records import read_digested, write_digested
from mtlpar.core.share import Share
from mtlpar.extract.piece import PieceResult, PieceTask, extract_piece, read_record
from mtlpar.sources.base import Piece

Submit = Callable[[PieceTask], "Future[PieceResult]"]

_HINT = "use fewer jobs or lower extract.part_structures"


def extract_files(
    files: list[PieceTask], *, jobs: int, share: Share
) -> Iterator[list[PieceResult]]:
    """Extract files, piece by piece.

    Args:
        files: One task per whole file.
        jobs: Processes.
        share: What of it falls to this run.

    Yields:
        The outcomes of the pieces of each file, in order.

    Raises:
        ValueError: If a file is damaged, and damage is not to be skipped.
    """
    mine = [(file, share.of_file(index, len(files))) for index, file in enumerate(files)]
    work = [(file, pieces) for file, pieces in mine if pieces is not None]
    with Workers(jobs, hint=_HINT) as workers:

        def extract_one(item: tuple[PieceTask, slice]) -> list[PieceResult]:
            return _extract_file(*item, partial(workers.submit, extract_piece))

        if jobs == 1:
            yield from map(extract_one, work)
            return
        # A thread per file that is open: it divides the file and waits for its pieces.
        with ThreadPoolExecutor(jobs) as threads:
            try:
                outcomes = threads.map(extract_one, work)
                yield from tqdm(outcomes, total=len(work), unit="files", disable=None)
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise


def _extract_file(file: PieceTask, mine: slice, submit: Submit) -> list[PieceResult]:
    """Extract those pieces of a file that ``mine`` selects."""
    done = _recorded(file, mine)
    if done is not None:
        return done
    changes = _changes_since_download(file)
    with ExitStack() as stack:
        pieces: list[Piece | None] = [None]
        if file.source.divide is not None:
            try:
                divided = file.source.divide(file.path, file.settings.piece_bytes)
                pieces = [*stack.enter_context(divided)]
            except ValueError as error:
                if file.settings.on_error == "raise":
                    raise
                return [PieceResult(damage=[*changes, str(error)])]
        content = {"fingerprint": file.fingerprint, "pieces": len(pieces), "damage": changes}
        write_digested(file.record, content)
        tasks = [
            replace(file, piece=piece, name=name)
            for piece, name in zip(pieces, _piece_names(file, len(pieces)), strict=True)
        ]
        futures = [submit(task) for task in tasks[mine]]
        try:
            return [PieceResult(damage=changes), *(future.result() for future in futures)]
        finally:
            # The file must stay unpacked until the last process has read its piece.
            for future in futures:
                future.cancel()
            wait(futures)


def _changes_since_download(file: PieceTask) -> list[str]:
    """What is wrong with the checksum: formats have few or none, and a wrong bit is a wrong label.

    Raises:
        ValueError: If it is wrong, and damage is not to be skipped.
    """
    digest = file_digest(file.path) if file.path.is_file() else None
    if digest == file.sha256:
        return []
    got = "it is no file" if digest is None else f"sha256 is {digest}"
    message = (
        f"{file.path} has changed since its download: {got}, expected sha256 {file.sha256}; run "
        "mtlpar download again"
    )
    if file.settings.on_error == "raise":
        raise ValueError(message)
    return [message]


def _recorded(file: PieceTask, mine: slice) -> list[PieceResult] | None:
    """Outcomes of an earlier run, if it did all of ``mine``: then nothing need be unpacked."""
    content = read_digested(file.record)
    if content is None or content["fingerprint"] != file.fingerprint:
        return None
    results = [PieceResult(damage=content["damage"])]
    for name in _piece_names(file, content["pieces"])[mine]:
        result = read_record(replace(file, name=name).record, file.fingerprint)
        if result is None:
            return None
        results.append(result)
    return results


def _piece_names(file: PieceTask, count: int) -> list[str]:
    return [f"{file.name}-{index:05d}" for index in range(count)]
