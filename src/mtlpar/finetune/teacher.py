"""A trained model that labels structures for another one to learn from."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from mtlpar.core.files import atomic_path, file_digest
from mtlpar.core.hashing import json_digest
from mtlpar.finetune.kept import keep, kept
from mtlpar.model.file import load_model
from mtlpar.model.saved import SavedModel
from mtlpar.parallel.device import local_device
from mtlpar.parallel.ranks import RankContext
from mtlpar.predict import stage
from mtlpar.store.bp import BpReader

_DIGITS: Final = 12
_UNCERTAINTY: Final = re.compile(r" energy_uncertainty=(\S+) ")


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A model file and the source at whose level of theory it teaches.

    Attributes:
        path: The file.
        model: What is in it.
        source: One of its sources.
    """

    path: Path
    model: SavedModel
    source: str

    @classmethod
    def load(cls, path: Path, source: str | None) -> Teacher:
        """Read a model file; the source may be left out if it has only one.

        Raises:
            ValueError: If it is no model file, or has no such source.
        """
        model = load_model(path)
        return cls(path=path, model=model, source=model.choose_source(source))

    @cached_property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of the file."""
        return file_digest(self.path)

    @property
    def level_of_theory(self) -> str:
        """What its labels are, for people: tables, packs and model files say this of a student."""
        name = self.model.training.get("model", self.path.name)
        level = self.model.level_of_theory[self.source]
        return f"{level}, as {name} predicts it (sha256 {self.digest[:_DIGITS]})"

    @property
    def knows_uncertainty(self) -> bool:
        """Whether it knows how far off its energies may be."""
        return self.model.uncertainty_of(self.source) is not None


class Labels(NamedTuple):
    """What a teacher has labelled.

    Attributes:
        files: Extended XYZ with a frame for each structure, by split. One that the teacher refuses
            has a frame without labels that says why.
        usual_ev_per_atom: Uncertainty from which on its labels count less; None where the teacher
            does not know its own.
    """

    files: dict[str, Path]
    usual_ev_per_atom: float | None


def write_labels(
    teacher: Teacher,
    inputs: Mapping[str, Sequence[Path]],
    folder: Path,
    kind: str,
    *,
    origin: Mapping[str, Any],
    usual_ev_per_atom: float | None = None,
) -> Labels:
    """Label files of structures, unless the very same was done before.

    Names of the files have a digest of the teacher and the structures, so that whatever is made of
    them is made again for another teacher. A record lies beside them.

    Where the teacher knows how far off its energies may be, a frame has a ``weight``
    min(1, (s / sigma)^2): sigma is the standard deviation per atom, s the usual one.

    Args:
        teacher: Who labels.
        inputs: Files, packs or folders by split.
        folder: Where to write.
        kind: What the structures are, for the names of the files.
        origin: Where the structures are from, as plain values for the record.
        usual_ev_per_atom: The usual uncertainty; by default the median of these structures.

    Raises:
        ValueError: If a file cannot be read, or the teacher refuses all structures.
    """
    digests = {split: [_digest_of(path) for path in paths] for split, paths in inputs.items()}
    facts: dict[str, Any] = {
        "teacher": teacher.digest,
        "source": teacher.source,
        "structures": digests,
        "usual_ev_per_atom": usual_ev_per_atom,
    }
    stem = f"{kind}-{json_digest(facts)[:_DIGITS]}"
    found = {split: folder / f"{stem}-{split}.extxyz" for split in inputs}
    record = folder / f"{stem}.json"
    if (before := kept(record, found)) is not None:
        return Labels(found, before["usual_ev_per_atom"])
    outcomes = {
        split: stage.run(
            teacher.model,
            inputs[split],
            path,
            wanted=stage.Wanted(source=teacher.source, uncertainty=teacher.knows_uncertainty),
            model_file=teacher.path,
            context=RankContext(0, 1, local_device()),
        )
        for split, path in found.items()
    }
    _require_some(teacher, inputs, outcomes.values())
    counts = {
        split: {"labelled": one.predicted, "refused": dict(one.refused)}
        for split, one in outcomes.items()
    }
    if teacher.knows_uncertainty:
        usual_ev_per_atom = _write_weights(found.values(), usual_ev_per_atom)
    facts |= {"model": str(teacher.path), **origin, "counts": counts}
    keep(record, found, {**facts, "usual_ev_per_atom": usual_ev_per_atom})
    return Labels(found, usual_ev_per_atom)


def _require_some(
    teacher: Teacher, inputs: Mapping[str, Sequence[Path]], outcomes: Collection[stage.Outcome]
) -> None:
    """Refuse structures of which the teacher refuses every one."""
    if any(one.predicted for one in outcomes):
        return
    reasons = sum((one.refused for one in outcomes), Counter[str]())
    names = ", ".join(str(path) for paths in inputs.values() for path in paths)
    if not reasons:
        raise ValueError(f"{names}: no structures; expected some to teach")
    raise ValueError(
        f"{names}: {teacher.path} as {teacher.source} predicts none of the structures: "
        + "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3))
    )


def _write_weights(paths: Iterable[Path], usual_ev_per_atom: float | None) -> float | None:
    """Give frames their weights; returns the usual uncertainty in eV/atom, if there is any."""
    frames = {path: list(_uncertainties(path)) for path in paths}
    every = [one for found in frames.values() for one in found if one is not None]
    if not every:
        return usual_ev_per_atom
    usual = float(np.median(every)) if usual_ev_per_atom is None else usual_ev_per_atom
    for path, found in frames.items():
        _write_weights_of(path, [one and min(1.0, (usual / one) ** 2) for one in found])
    return usual


def _digest_of(path: Path) -> str:
    if path.suffix != ".bp":
        return file_digest(path)
    with BpReader(path) as reader:
        return reader.data_digest


def _write_weights_of(path: Path, weights: Sequence[float | None]) -> None:
    left = iter(weights)
    with (
        path.open(encoding="utf-8") as old,
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8") as new,
    ):
        for line in old:
            if _is_header(line) and (weight := next(left)) is not None:
                new.write(f"weight={weight:.6g} ")
            new.write(line)


def _is_header(line: str) -> bool:
    return line.startswith(("energy=", "refused="))


def _uncertainties(path: Path) -> Iterator[float | None]:
    """Standard deviation of the energy of each frame in eV/atom; None if it was refused."""
    size = 0
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            if _is_header(line):
                found = _UNCERTAINTY.search(line)
                yield float(found[1]) / size if found else None
            elif line.strip().isdigit():
                size = int(line)
