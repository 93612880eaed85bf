"""The transfer study: what a pre-trained model saves on a family that it never saw.

For each number of labels a configuration is written as a user would write it: the family as a
source, one model from scratch and one for each start and mode. All have the same labels and the
same number of steps. What pre-training knew before is tested again afterwards.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from ase import Atoms
from ase.io import iread, write

from mtlpar.config import Config
from mtlpar.core.files import scratch_folder, write_text
from mtlpar.core.measurements import TransferRecord
from mtlpar.core.paths import Workspace
from mtlpar.core.records import write_content
from mtlpar.core.system_errors import is_of_the_system
from mtlpar.core.wording import counted
from mtlpar.core.yaml_text import dump_yaml
from mtlpar.evaluate.metrics import read_metrics
from mtlpar.finetune.branches import rank_branches
from mtlpar.finetune.folder import Command, only_packs, prepare, working_in
from mtlpar.finetune.rates import encoder_rate
from mtlpar.finetune.replay import hold_still, link_packs, replay_passes, sizes_of
from mtlpar.model.file import load_model
from mtlpar.model.saved import SavedModel
from mtlpar.sources.registry import packaged_names
from mtlpar.store.pack import Pack
from mtlpar.study.settings import TransferFamily, TransferStudySettings

logger = logging.getLogger(__name__)

SCRATCH: Final = "scratch"
_HERE: Final = Workspace(raw=Path("data/raw"), results=Path("results"))
_FEWEST_STEPS_PER_EPOCH: Final = 20
"""Shorter epochs would spend their time on validation and checkpoints."""


@dataclass(frozen=True, kw_only=True)
class _Start:
    """A trained model to start from.

    Attributes:
        name: Its name in the configuration.
        model: The model.
        path: Its file.
    """

    name: str
    model: SavedModel
    path: Path


@dataclass(frozen=True, kw_only=True)
class _Variant:
    """One way to train; from scratch without a start."""

    start: _Start | None = None
    mode: str = ""

    @property
    def name(self) -> str:
        """Name of its model."""
        if self.start is None:
            return SCRATCH
        return f"{self.start.name}_{self.mode}".replace(":", "_")


def run(out: Path, *, config: Config, family: str, seed: int, command: Command) -> None:
    """Measure one family with one seed, and write the errors of all variants.

    Args:
        out: Record to write.
        config: The configuration, whose models are there.
        family: Name of the family.
        seed: Which labels are drawn, and the random weights.
        command: Runs a stage.

    Raises:
        ValueError: If a model or the family's file is missing, or that has too few structures.
    """
    settings = config.study.transfer
    described = settings.families[family]
    pool, test = _parts(described.file, most=max(settings.labels))
    variants = [_Variant(), *_variants(config, described)]
    packed = (config.workspace.results / "packed").resolve()
    cells = []
    out = out.resolve()
    with scratch_folder(out) as folder:
        for labels in settings.labels:
            cell = _Cell(folder / str(labels), config, family, labels, seed)
            cell.write_frames(pool, test)
            with working_in(cell.folder):
                cells += cell.measure(variants, packed, command)
    before = {
        variant.start.name: _errors_of(config.workspace, variant.start.name)
        for variant in variants
        if variant.start is not None
    }
    write_content(
        out,
        TransferRecord,
        {
            "family": family,
            "level_of_theory": described.level_of_theory,
            "single": described.single,
            "seed": seed,
            "steps": settings.steps,
            "num_test": len(test),
            "before": before,
            "cells": cells,
        },
    )


def _parts(path: Path, *, most: int) -> tuple[list[Atoms], list[Atoms]]:
    """Structures to learn from, and those of other groups to test on.

    Raises:
        ValueError: If one belongs to neither, or there are too few of them.
    """
    if not path.is_file():
        raise ValueError(f"study.transfer: there is no {path}; see workflow/transfer/README.md")
    parts: dict[str, list[Atoms]] = {"pool": [], "test": []}
    for index, atoms in enumerate(_frames(path)):
        part = atoms.info.get("part")
        if part not in parts:
            raise ValueError(
                f"{path}: frame {index} has the part {part!r}, expected pool or test; see "
                "workflow/transfer/README.md"
            )
        parts[part].append(atoms)
    if not parts["test"]:
        raise ValueError(f"{path} has no structure of the part test, which models are tested on")
    if len(parts["pool"]) < most:
        raise ValueError(
            f"study.transfer.labels: {path} has {counted(len(parts['pool']), 'structure')} to "
            f"learn from, expected {most}; ask for fewer labels"
        )
    return parts["pool"], parts["test"]


def _frames(path: Path) -> Iterator[Atoms]:
    """Structures of a family with all that is said of them.

    Raises:
        ValueError: If ASE cannot read one of them.
    """
    index = 0
    try:
        for atoms in iread(path, format="extxyz"):
            yield atoms
            index += 1
    except Exception as error:  # readers of ASE raise whatever they stumble over
        if is_of_the_system(error):
            raise
        raise ValueError(
            f"{path}: frame {index}: ASE cannot read it: {type(error).__name__}: {error}; expected "
            "extended XYZ, perhaps compressed, see workflow/transfer/README.md"
        ) from error


def _variants(config: Config, family: TransferFamily) -> Iterator[_Variant]:
    for name, modes in config.study.transfer.starts.items():
        model = family.single if name == "single" else name
        config.model_entry(model)
        path = config.workspace.model(model).resolve()
        start = _Start(name=model, model=load_model(path), path=path)
        for mode in modes:
            yield _Variant(start=start, mode=mode)


@dataclass(frozen=True)
class _Cell:
    """One number of labels of a family, in a folder of its own."""

    folder: Path
    config: Config
    family: str
    labels: int
    seed: int

    @property
    def settings(self) -> TransferStudySettings:
        return self.config.study.transfer

    def write_frames(self, pool: Sequence[Atoms], test: Sequence[Atoms]) -> None:
        """Draw the labels; a tenth of them, two at least, are for validation."""
        rng = np.random.default_rng([self.seed, self.labels])
        chosen = [pool[index] for index in rng.permutation(len(pool))[: self.labels]]
        self.folder.mkdir(parents=True)
        for split, part in (
            ("train", chosen[self._num_val :]),
            ("val", chosen[: self._num_val]),
            ("test", test),
        ):
            write(self.folder / f"{split}.extxyz", part, format="extxyz")

    @property
    def _num_val(self) -> int:
        return max(2, self.labels // 10)

    def measure(
        self, variants: Sequence[_Variant], packed: Path, command: Command
    ) -> list[dict[str, Any]]:
        """Train and test all variants in the present folder."""
        self._write_config(variants, {}, ())
        prepare(self.family, command)
        starts = {one.start.name: one.start for one in variants if one.start is not None}
        with Pack.open(Path("results/packed", self.family, "train.bp")) as pack:
            branches = {
                name: rank_branches(start.model, pack)[0].branch for name, start in starts.items()
            }
        sources = sorted(
            {
                source
                for start in starts.values()
                for source in link_packs(start.model, packed, Path("results/packed"))
            }
        )
        self._write_config(variants, branches, sources)
        for variant in variants:
            command("train", "--model", variant.name)
            command("evaluate", "--model", variant.name)
        return [self._result(variant, sources) for variant in variants]

    def _result(self, variant: _Variant, sources: Sequence[str]) -> dict[str, Any]:
        errors = _errors_of(_HERE, variant.name)
        result: dict[str, Any] = {
            "labels": self.labels,
            "start": None if variant.start is None else variant.start.name,
            "mode": variant.mode,
            "errors": errors[self.family],
            "pretraining": {},
        }
        if variant.start is not None:
            known = variant.start.model.sources
            result["pretraining"] = {one: errors[one] for one in sources if one in known}
        logger.info(
            "%s, %s, %s: %s",
            self.family,
            counted(self.labels, "label"),
            variant.name,
            ", ".join(f"{name} {error:.4f}" for name, error in errors[self.family].items()),
        )
        return result

    def _write_config(
        self, variants: Sequence[_Variant], branches: Mapping[str, str], sources: Sequence[str]
    ) -> None:
        settings = self.settings
        described = settings.families[self.family]
        levels = {
            source: level
            for variant in variants
            if variant.start is not None
            for source, level in variant.start.model.level_of_theory.items()
        }
        own: dict[str, Any] = {
            "files": ["*.extxyz"],
            "mirrors": [str(self.folder)],
            "level_of_theory": described.level_of_theory,
            "group_key": "group",
            "splits": {split: [f"{split}.extxyz"] for split in ("train", "val", "test")},
        }
        packaged = packaged_names()
        content = {
            "seed": self.seed,
            "sources": [self.family, *sources],
            "custom_sources": {
                self.family: own,
                **{one: only_packs(levels[one]) for one in sources if one not in packaged},
            },
            "model": self.config.model.model_dump(mode="json"),
            "train": self._train(),
            "models": {one.name: self._model(one, branches, sources) for one in variants},
        }
        text = dump_yaml(content)
        write_text(self.folder / "config.yaml", text)

    def _train(self) -> dict[str, Any]:
        """Training settings of all variants: the same number of steps for any number of labels."""
        settings = self.settings
        samples = max(
            self.labels - self._num_val, _FEWEST_STEPS_PER_EPOCH * settings.batch_structures
        )
        steps_per_epoch = math.ceil(samples / settings.batch_structures)
        return {
            "epochs": max(1, round(settings.steps / steps_per_epoch)),
            "batch_structures": settings.batch_structures,
            "passes_per_epoch": {self.family: samples / (self.labels - self._num_val)},
            "learning_rate": settings.learning_rate,
            "warmup_steps": min(50, settings.steps // 4),
            "patience_epochs": None,
        }

    def _model(
        self, variant: _Variant, branches: Mapping[str, str], sources: Sequence[str]
    ) -> dict[str, Any]:
        own = {self.family: [self.family]}
        if variant.start is None:
            return {"branches": own, "train": {"learning_rate": self.settings.scratch_rate}}
        start = variant.start
        replayed = [one for one in sources if one in start.model.sources]
        replay = variant.mode == "replay" and branches
        mode = "full" if variant.mode == "replay" else variant.mode
        entry: dict[str, Any] = {
            "branches": dict(own),
            "start_from": {
                "model": str(start.path),
                "branches": {self.family: branches[start.name]} if branches else {},
                "mode": mode,
            },
            "train": {"encoder_rate": encoder_rate(mode, same_forces=True)},
        }
        if replay:
            for source in replayed:
                branch = start.model.branch_of(source)
                entry["branches"].setdefault(branch, []).append(source)
            held = hold_still(name for name in entry["branches"] if name not in own)
            entry["train"] |= {**self._replay_passes(replayed), **held}
        return entry

    def _replay_passes(self, sources: Sequence[str]) -> dict[str, Any]:
        passes: dict[str, float] = self._train()["passes_per_epoch"]
        new = passes[self.family] * (self.labels - self._num_val)
        packs = Path("results/packed")
        return {"passes_per_epoch": passes | replay_passes(sizes_of(packs, sources), new)}


def _errors_of(workspace: Workspace, model: str) -> dict[str, dict[str, float]]:
    """Test errors of a model by source and label, where it has a branch for the source."""
    folder = workspace.results / "metrics" / model
    sources = sorted(path.stem for path in folder.glob("*.json"))
    return {source: read_metrics(workspace, model, source).by_label() for source in sources}
