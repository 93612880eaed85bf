"""The folder of a student: a small conservative model of one branch that a trained model teaches.

What it learns from are sources with books of their own: the labels that are there (packs of the
teacher's source), and structures that the teacher labels: those of the packs, of packs of its other
sources, structures that are given, and structures that an earlier student met in its own dynamics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from ase.data import atomic_numbers

from mtlpar.config import Config
from mtlpar.config.load import Stack
from mtlpar.core.fields import SPLITS
from mtlpar.core.files import write_json
from mtlpar.core.structures import StructureBatch
from mtlpar.finetune.folder import files_of, only_packs, refuse_own, write_own_config
from mtlpar.finetune.teacher import Labels, Teacher
from mtlpar.model.settings import ModelSettings
from mtlpar.sources.registry import packaged_names
from mtlpar.store.pack import Pack

STUDENT: Final = "student"
"""Name of the model that is wanted."""

FIRST: Final = "first"
"""Name of the student before it, whose dynamics show what it has to know besides."""

_TRAIN: Final[Mapping[str, Any]] = {"epochs": 40, "batch_structures": 16}
_NORMALIZE: Final = {"val_fraction": 0.1, "test_fraction": 0.1}
_REFERENCES: Final = "references.json"
_LOOKED_AT: Final = 256


class Others(NamedTuple):
    """Structures of other sources.

    Attributes:
        sources: Names of the sources.
        passes: How often an epoch visits each structure: together they are then as many as those
            of the teacher's own source.
    """

    sources: tuple[str, ...]
    passes: float


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """What a student is taught on.

    Attributes:
        packs: Whether packs of the teacher's source are there.
        others: Structures of other sources of the teacher that are taught too, if there are any.
        structures: Files of further structures.
        frames: Structures to take from the dynamics of an earlier student.
        temperature_k: Temperature of these dynamics in K.
        assignments: Settings, such as ``train.epochs=5``.
    """

    packs: bool
    others: Others | None
    structures: Sequence[Path]
    frames: int
    temperature_k: float
    assignments: Sequence[str]

    def sources(self, source: str) -> dict[str, str]:
        """Names of the sources whose labels the teacher gives, by their kind."""
        is_there = {
            "taught": self.packs,
            "others": self.others,
            "given": self.structures,
            "dynamics": self.frames,
        }
        return {kind: f"{source}_{kind}" for kind, wanted in is_there.items() if wanted}


def smaller(settings: ModelSettings) -> dict[str, Any]:
    """Architecture of a student that takes about a quarter of the time of a teacher.

    Half of the layers, each of half of the width, take a sixth of the operations; what does not
    shrink, such as finding neighbours, makes that a quarter of the time from some hundred atoms on.

    Args:
        settings: Architecture of the teacher.
    """
    content = settings.model_dump(mode="json")
    encoder, head = content["encoder"], content["head"]
    for block, key, least in (
        (encoder, "width", 8),
        (encoder, "vector_channels", 2),
        (encoder, "radial_basis", 4),
        (head, "width", 8),
    ):
        # Radial functions come in pairs. Only some kinds of encoders have channels.
        if key in block:
            block[key] = min(block[key], max(least, block[key] // 4 * 2))
    encoder["layers"] = -(-encoder["layers"] // 2)
    head["forces"] = "conservative"
    return content


def find_others(teacher: Teacher, packed: Path) -> Others | None:
    """Other sources of a teacher whose structures can teach a student of its source.

    Their packs are there, most of their structures have only elements that the source has, and
    these repeat as those of the source do: molecules say little about crystals.

    Args:
        teacher: Who teaches.
        packed: Folder of the packs of its sources.

    Returns:
        What was found; None also if there are no packs of the teacher's own source.

    Raises:
        ValueError: If a pack is damaged.
    """
    files = {source: packed / source / "train.bp" for source in teacher.model.sources}
    looked_at = {source: _look_at(path) for source, path in files.items() if path.is_dir()}
    if teacher.source not in looked_at:
        return None
    own, like = looked_at.pop(teacher.source)
    known = [atomic_numbers[one] for one in teacher.model.references[teacher.source].energies_ev]
    sources, total = [], 0
    for source, (count, some) in looked_at.items():
        is_known = np.logical_and.reduceat(np.isin(some.atomic_numbers, known), some.offsets[:-1])
        if some.pbc.any() == like.pbc.any() and is_known.mean() > 0.5:
            sources.append(source)
            total += count
    return Others(tuple(sources), min(1.0, own / total)) if sources else None


def _look_at(path: Path) -> tuple[int, StructureBatch]:
    """Number of a pack's structures, and some of them."""
    with Pack.open(path) as pack:
        return len(pack), pack.first(_LOOKED_AT)


def write_config(
    folder: Path, teacher: Teacher, lessons: Lessons, labels: Mapping[str, Labels]
) -> Config:
    """Write ``config.yaml`` of a student.

    Args:
        folder: Where to.
        teacher: Who teaches.
        lessons: What is asked for.
        labels: What is labelled already, by kind.

    Returns:
        What it says.

    Raises:
        ValueError: If settings have a mistake, or the folder has a ``config.yaml`` that is not as
            this function wrote it.
    """
    taught = lessons.sources(teacher.source)
    own = [teacher.source] if lessons.packs else []
    sources = [*own, *taught.values()]
    custom = {source: _source(teacher, kind, labels.get(kind)) for kind, source in taught.items()}
    if own and teacher.source not in packaged_names():
        custom[teacher.source] = only_packs(teacher.model.level_of_theory[teacher.source])
    branch = teacher.model.branch_of(teacher.source)
    models: dict[str, Any] = {STUDENT: {"branches": {branch: sources}}}
    if "dynamics" in taught:
        before = [source for source in sources if source != taught["dynamics"]]
        models = {FIRST: {"branches": {branch: before}}, **models}
    content: dict[str, Any] = {
        "sources": list(sources),
        "custom_sources": custom,
        "normalize": {
            **_NORMALIZE,
            # One branch has one zero of energy, whoever labels.
            "reference_energies": dict.fromkeys(taught.values(), _REFERENCES),
        },
        "train": dict(_TRAIN),
        "model": smaller(teacher.model.settings),
        "models": models,
    }
    if lessons.others:
        content["train"]["passes_per_epoch"] = {taught["others"]: lessons.others.passes}
    data = "name packs with --packs and files with --structures"
    own_keys = {f"models.{model}.branches": data for model in models}
    refuse_own(
        lessons.assignments,
        {"sources": data, "paths.results": "name the model with --out", **own_keys},
    )
    stack = Stack(content)
    for assignment in lessons.assignments:
        stack.add_override(assignment, option="--set")
    config = stack.check("distillation")
    if FIRST in models:
        # It only has to find out where it goes wrong.
        epochs = max(1, config.train_of(FIRST).epochs // 2)
        models[FIRST].setdefault("train", {}).setdefault("epochs", epochs)
    write_own_config(folder, content, command="distill", model=STUDENT)
    return config


def write_references(teacher: Teacher, packs: Path | None) -> None:
    """Write the reference energies of all that the teacher labels, in the present folder.

    They are those of the packs, if there are any: a branch learns what is left of all its sources.

    Args:
        teacher: Who teaches.
        packs: Folder with the packs of its source.

    Raises:
        ValueError: If a pack is damaged.
    """
    energies = dict(teacher.model.references[teacher.source].energies_ev)
    if packs is not None:
        with Pack.open(packs / "train.bp") as pack:
            energies |= pack.header.references.energies_ev
    write_json(Path(_REFERENCES), energies)


def _source(teacher: Teacher, kind: str, labels: Labels | None) -> dict[str, Any]:
    """A source that the teacher labels; without labels yet, one that only has a name."""
    files = {} if labels is None else labels.files
    content: dict[str, Any] = {
        **(files_of(files.values()) if files else {"files": [f"{kind}.extxyz"]}),
        "level_of_theory": teacher.level_of_theory,
        # Frames that the teacher refused have no source.
        "where": {"source": teacher.source},
    }
    if kind != "given":
        # Whose splits they are is known. Then a group is nothing that could be in several.
        content["splits"] = {
            split: [files[split].name if files else f"{kind}-{split}.extxyz"] for split in SPLITS
        }
        content["group_key"] = "row"
    if any(_has_stress(path) for path in files.values()):
        content["stress"] = {"key": "stress"}
    if labels is not None and labels.usual_ev_per_atom is not None:
        content["weights"] = {"structure": "weight"}
    return content


def _has_stress(path: Path) -> bool:
    """Whether some frame has a stress: those of molecules and of direct forces have none."""
    with path.open(encoding="utf-8") as stream:
        return any("energy=" in line and ' stress="' in line for line in stream)
