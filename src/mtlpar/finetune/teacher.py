"""A trained model that labels structures for another one to learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from mtlpar.core.files import file_digest, write_json
from mtlpar.core.hashing import json_digest
from mtlpar.model.saved import SavedModel, load_model
from mtlpar.parallel.device import local_device
from mtlpar.parallel.ranks import RankContext
from mtlpar.predict import stage
from mtlpar.store.bp import BpReader

_DIGITS: Final = 12


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


def write_labels(
    teacher: Teacher,
    inputs: Mapping[str, Sequence[Path]],
    folder: Path,
    kind: str,
    *,
    origin: Mapping[str, Any],
) -> dict[str, Path]:
    """Label files of structures, unless the very same was done before.

    Names of the files have a digest of the teacher and the structures, so that whatever is made of
    them is made again for another teacher. A record lies beside them.

    Args:
        teacher: Who labels.
        inputs: Files, packs or folders by split.
        folder: Where to write.
        kind: What the structures are, for the names of the files.
        origin: Where the structures are from, as plain values for the record.

    Returns:
        Extended XYZ with a frame for each structure, by split. One that the teacher refuses has a
        frame without labels that says why.

    Raises:
        ValueError: If a file cannot be read.
    """
    digests = {split: [_digest_of(path) for path in paths] for split, paths in inputs.items()}
    facts = {"teacher": teacher.digest, "source": teacher.source, "structures": digests}
    stem = f"{kind}-{json_digest(facts)[:_DIGITS]}"
    found = {split: folder / f"{stem}-{split}.extxyz" for split in inputs}
    record = folder / f"{stem}.json"
    if record.exists() and all(path.exists() for path in found.values()):
        return found
    outcomes = {
        split: stage.run(
            teacher.model,
            inputs[split],
            path,
            wanted=stage.Wanted(source=teacher.source),
            model_file=teacher.path,
            context=RankContext(0, 1, local_device()),
        )
        for split, path in found.items()
    }
    counts = {
        split: {"labelled": one.predicted, "refused": dict(one.refused)}
        for split, one in outcomes.items()
    }
    write_json(record, {**facts, "model": str(teacher.path), **origin, "counts": counts})
    return found


def _digest_of(path: Path) -> str:
    if path.suffix != ".bp":
        return file_digest(path)
    with BpReader(path) as reader:
        return reader.data_digest
