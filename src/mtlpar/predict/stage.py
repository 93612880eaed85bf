"""Predicts all rows of some files, in chunks that any number of ranks share out.

A chunk is a fixed number of rows and one file of output; what is there already is not predicted
again, and the files are joined at the end. So neither the number of ranks nor a crash in between
changes a byte of the result. Names of chunks have a digest: they may lie there for days.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import torch.distributed as dist
from ase import Atoms
from tqdm import tqdm

from mtlpar.core.ase_structures import AtomsLike
from mtlpar.core.collective import collective
from mtlpar.core.files import atomic_path, file_digest, write_text
from mtlpar.core.hashing import json_digest
from mtlpar.core.records import read_digested, write_digested
from mtlpar.core.wording import counted
from mtlpar.model.choice import AUTO, Choice, SourceChooser
from mtlpar.model.saved import SavedModel, StructurePrediction
from mtlpar.parallel.agree import failing_together, gather
from mtlpar.parallel.ranks import RankContext
from mtlpar.predict.frames import Frame, frame_texts, refused_text
from mtlpar.predict.rows import STDIN, Row, input_files, rows_of
from mtlpar.train.loader import one_thread_each, prefetch

logger = logging.getLogger(__name__)

T = TypeVar("T")

CHUNK_ROWS: Final = 512
"""Rows that are predicted and written together."""

# Of a frame the source of its energy, or why it has none. A line is before each, and a newline is
# found several times as fast as the beginning of a line.
_HEADS: Final = re.compile(rb'\n(?:energy=.*? source="([^"]*)"|refused="([^":]*))')
# No name of a row has such quotes. With the space before it, each space would be looked at.
_UNSEEN: Final = re.compile(rb'unseen_pairs="([^"]*)"')


class Outcome(NamedTuple):
    """What became of some rows.

    Attributes:
        sources: How many were predicted at the level of theory of each source.
        refused: How many were not, by reason.
        unseen: How many were predicted though they hold elements that training never had together.
        unseen_pairs: How many of these hold each pair.
    """

    sources: Counter[str]
    refused: Counter[str]
    unseen: int
    unseen_pairs: Counter[str]

    @property
    def predicted(self) -> int:
        """How many were predicted."""
        return self.sources.total()


class Wanted(NamedTuple):
    """What is predicted of a structure besides energy, forces and stress.

    Attributes:
        source: Source whose level of theory is wanted; `AUTO` to choose one for each structure.
        uncertainty: Whether the standard deviation of the energy is.
        descriptors: Whether means of the encoder's features over the atoms are.
    """

    source: str
    uncertainty: bool = False
    descriptors: bool = False


@collective
def run(
    model: SavedModel,
    inputs: Sequence[Path],
    out: Path,
    *,
    wanted: Wanted,
    model_file: Path,
    context: RankContext,
    batch_atoms: int = 4096,
) -> Outcome:
    """Predict files, and write a file of extended XYZ with a frame for each row, in order.

    A row that cannot be predicted becomes a frame without labels that says why, and so does what
    cannot be read of a damaged file.

    Args:
        model: The model.
        inputs: Files, packs, folders, or ``-`` for extended XYZ from standard input.
        out: File to write.
        wanted: What to predict, at which level of theory.
        model_file: Where the model comes from, to tell one run from another.
        context: Who this process is.
        batch_atoms: Atoms predicted at a time.

    Returns:
        What became of all rows.

    Raises:
        ValueError: If an input does not exist or is the file to write, or no row can be read
            because inputs are damaged or of other formats.
    """
    with failing_together():
        parts = out.with_name(f"{out.name}.parts")
        files = input_files(inputs, without=(out, parts), tell=context.rank == 0)
        if context.world_size > 1 and any(str(path) == STDIN for path in files):
            raise ValueError("standard input is read by one process only; name a file")
        chooser = SourceChooser(model) if wanted.source == AUTO else None
        if context.rank == 0:
            _prepare(parts, _identity(files, model_file, wanted))
    _meet()
    finished = _finished(parts)

    def predict(item: tuple[int, list[Row] | None]) -> int:
        index, rows = item
        if rows is not None and index not in finished:
            text = _predict_chunk(
                model, rows, wanted=wanted, chooser=chooser, batch_atoms=batch_atoms
            )
            write_text(parts / _part_name(index, text.encode()), text)
        return index + 1

    with (
        _none_left_empty(parts, context),
        failing_together(),
        one_thread_each() as threads,
    ):
        done = prefetch(predict, _chunks(files, context), threads=threads, ahead=2 * threads)
        chunks = max(done, default=0)
    _meet()
    with failing_together():
        outcome = _join(parts, chunks, out) if context.rank == 0 else None
    return gather(outcome)[0] or Outcome(Counter(), Counter(), 0, Counter())


@collective
def _meet() -> None:
    if dist.is_initialized():
        dist.barrier()


def _identity(files: Sequence[Path], model_file: Path, wanted: Wanted) -> str:
    """Digest of what decides about the output; sizes and times stand for the content of inputs."""
    facts = [
        [str(path), *([path.stat().st_size, path.stat().st_mtime_ns] if path.exists() else [])]
        for path in files
    ]
    return json_digest(
        {"inputs": facts, "model": file_digest(model_file), "rows": CHUNK_ROWS, **wanted._asdict()}
    )


def _prepare(parts: Path, identity: str) -> None:
    """Make room for the parts; those of another run, or that were changed, are removed."""
    note = parts / "run.json"
    if read_digested(note) == {"identity": identity}:
        for path in list(parts.glob("*.extxyz")):
            if path.name != _part_name(_number(path), path.read_bytes()):
                logger.warning("%s is damaged or was changed, and predicted again", path)
                path.unlink()
        done = len(_finished(parts))
        logger.info("%s: continuing after %s of %d rows", parts, counted(done, "chunk"), CHUNK_ROWS)
        return
    if parts.exists():
        shutil.rmtree(parts)
    parts.mkdir(parents=True)
    write_digested(note, {"identity": identity})


@contextmanager
def _none_left_empty(parts: Path, context: RankContext) -> Iterator[None]:
    """Remove the folder of parts where a failure comes before the first of them."""
    try:
        yield
    except BaseException:
        if context.rank == 0 and not _finished(parts):
            shutil.rmtree(parts, ignore_errors=True)
        raise


def _part_name(index: int, content: bytes) -> str:
    digest = hashlib.sha256(b"%d " % index + content).hexdigest()
    return f"{index:08d}-{digest[:16]}.extxyz"


def _number(path: Path) -> int:
    """The number of a chunk, from its name; -1 if that has none."""
    number = path.name.partition("-")[0]
    return int(number) if number.isdecimal() else -1


def _finished(parts: Path) -> dict[int, Path]:
    """The chunks that are there."""
    return {_number(path): path for path in parts.glob("*.extxyz")}


def _chunks(files: Sequence[Path], context: RankContext) -> Iterator[tuple[int, list[Row] | None]]:
    """Number and rows of each chunk; None instead of the rows of another rank's."""
    rows = _rows(files, is_first=context.rank == 0)
    silent = True if context.rank else None
    with tqdm(unit="structures", unit_scale=True, disable=silent) as bar:
        for index in itertools.count():
            chunk = list(itertools.islice(rows, CHUNK_ROWS))
            if not chunk:
                return
            yield index, chunk if index % context.world_size == context.rank else None
            bar.update(len(chunk))


def _rows(files: Sequence[Path], *, is_first: bool) -> Iterator[Row]:
    """Rows of all files; the first rank says which files cannot be read, or not to their end.

    Raises:
        ValueError: If there is nothing else.
    """
    lost, is_any = list[str](), False
    for row in itertools.chain.from_iterable(rows_of(file, tell=is_first) for file in files):
        if row.damage is None:
            is_any = True
        else:
            lost.append(row.damage)
            if is_first:
                logger.warning("%s is refused: %s", row.name, row.damage)
        yield row
    if lost and not is_any:
        raise ValueError("; ".join(lost))


def _predict_chunk(
    model: SavedModel,
    rows: Sequence[Row],
    *,
    wanted: Wanted,
    chooser: SourceChooser | None,
    batch_atoms: int,
) -> str:
    """Frames of all rows, as extended XYZ."""
    opened = [_open(row) for row in rows]
    choices = _choose([atoms for atoms, _ in opened], wanted, chooser, batch_atoms)
    choices = [
        Choice(None, refusal) if refusal else choice
        for (_, refusal), choice in zip(opened, choices, strict=True)
    ]
    found: list[StructurePrediction | str] = [choice.reason for choice in choices]
    for source in dict.fromkeys(choice.source for choice in choices if choice.source):
        here = [index for index, choice in enumerate(choices) if choice.source == source]
        predicted = _each(
            partial(
                model.predict, batch_atoms=batch_atoms, **{**wanted._asdict(), "source": source}
            ),
            [opened[index][0] for index in here],
            refusal=partial(model.refusal, source=source),
        )
        for index, one in zip(here, predicted, strict=True):
            found[index] = one
    frames = frame_texts(
        [
            Frame(row.name, atoms, one, choice.source, choice.reason if chooser else None)
            for row, (atoms, _), choice, one in zip(rows, opened, choices, found, strict=True)
            if choice.source is not None and not isinstance(one, str)
        ]
    )
    return "".join(
        refused_text(row.name, atoms, one) if isinstance(one, str) else next(frames)
        for row, (atoms, _), one in zip(rows, opened, found, strict=True)
    )


def _open(row: Row) -> tuple[AtomsLike, str | None]:
    """A structure; empty, with the reason, if it cannot be read."""
    try:
        return row.open(), None
    except ValueError as error:
        return Atoms(), f"unreadable: {error}"


def _choose(
    structures: Sequence[AtomsLike], wanted: Wanted, chooser: SourceChooser | None, batch_atoms: int
) -> list[Choice]:
    """The source of each structure, and why; none if no source fits."""
    if chooser is None:
        return [Choice(wanted.source, "named")] * len(structures)
    chosen = _each(partial(chooser.choose, batch_atoms=batch_atoms), structures)
    return [Choice(None, one) if isinstance(one, str) else one for one in chosen]


def _each(
    compute: Callable[[Sequence[AtomsLike]], Sequence[T]],
    structures: Sequence[AtomsLike],
    *,
    refusal: Callable[[AtomsLike], str | None] = lambda _: None,
) -> list[T | str]:
    """Results of all structures, or the reason where one of them fails, so that it costs no other.

    Args:
        compute: Gives the results, or raises `ValueError`.
        structures: The structures.
        refusal: Says beforehand why one would fail, if that is known; asked only if one does.
    """
    try:
        return [*compute(structures)]
    except ValueError as error:
        message = str(error)
    refusals = [refusal(atoms) for atoms in structures]
    if any(refusals):
        fine = [atoms for atoms, reason in zip(structures, refusals, strict=True) if not reason]
        results = iter(_each(compute, fine))
        return [reason or next(results) for reason in refusals]
    if len(structures) == 1:
        return [message]
    half = len(structures) // 2
    return [*_each(compute, structures[:half]), *_each(compute, structures[half:])]


def _join(parts: Path, chunks: int, out: Path) -> Outcome:
    """Put the chunks together, and count what is in them."""
    sources, refused, pairs = Counter[str](), Counter[str](), Counter[str]()
    unseen = 0
    finished = _finished(parts)
    with atomic_path(out) as temporary, temporary.open("wb") as stream:
        for index in range(chunks):
            content = finished[index].read_bytes()
            stream.write(content)
            for head in _HEADS.finditer(content):
                source, reason = head.groups()
                if source is not None:
                    sources[source.decode()] += 1
                else:
                    refused[reason.decode()] += 1
            for found in _UNSEEN.finditer(content):
                unseen += 1
                pairs.update(found[1].decode().split())
    shutil.rmtree(parts)
    return Outcome(sources, refused, unseen, pairs)
