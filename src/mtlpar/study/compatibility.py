"""The compatibility study: errors of sources that are trained alone, in pairs, and all together.

Every training has a branch for each of its sources and sees each of them equally often, so that
the encoder is all that they share. What two sources say of one geometry shows how far their levels
of theory are apart.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mtlpar.core.fields import SPLITS
from mtlpar.core.files import scratch_folder
from mtlpar.core.hashing import UInt64Array
from mtlpar.core.measurements import CompatibilityRecord
from mtlpar.core.paths import Workspace
from mtlpar.core.records import write_content
from mtlpar.evaluate import stage as evaluate
from mtlpar.evaluate.metrics import read_metrics
from mtlpar.evaluate.settings import EvaluateSettings
from mtlpar.graph.fingerprint import fingerprints
from mtlpar.model.settings import ModelSettings
from mtlpar.normalize.copies import name_geometries
from mtlpar.parallel.ranks import RankContext
from mtlpar.store.pack import Pack
from mtlpar.study.settings import CompatibilityStudySettings
from mtlpar.train import stage as train
from mtlpar.train.cosines import pair_cosines
from mtlpar.train.history import read_lines
from mtlpar.train.settings import TrainSettings

logger = logging.getLogger(__name__)

_MODEL: Final = "together"
_BLOCK: Final = 4096


def run(
    out: Path,
    *,
    sources: Sequence[str],
    seed: int,
    workspace: Workspace,
    model: ModelSettings,
    training: TrainSettings,
    testing: EvaluateSettings,
    context: RankContext,
) -> None:
    """Train one model on some sources, and write its test errors.

    Args:
        out: Record to write.
        sources: The sources, each with a branch of its own.
        seed: Of the random weights and of the order of the structures.
        workspace: Where the packs lie.
        model: Architecture.
        training: How to train, see `training_of`.
        testing: How to test.
        context: This process, without others.

    Raises:
        ValueError: If packs are missing or damaged, training diverges, or it was too short for the
            cosines.
    """
    measures = training.cosine_steps is not None
    with scratch_folder(out.resolve()) as folder:
        (folder / "packed").symlink_to((workspace.results / "packed").resolve())
        own = Workspace(raw=workspace.raw, results=folder)
        train.run(
            _MODEL,
            branches={source: (source,) for source in sources},
            workspace=own,
            model_settings=model,
            settings=training,
            seed=seed,
            context=context,
        )
        evaluate.run(_MODEL, workspace=own, settings=testing, sources=sources, seed=seed)
        errors = {source: read_metrics(own, _MODEL, source).by_label() for source in sources}
        history = read_lines(own.training_metrics(_MODEL)) if measures else []
    cosines = {" ".join(one.pair): one.mean for one in pair_cosines(history)} if measures else {}
    write_content(
        out,
        CompatibilityRecord,
        {
            "sources": list(sources),
            "seed": seed,
            "epochs": training.epochs,
            "errors": errors,
            "cosines": cosines,
            "levels": _levels(sources, workspace) if len(sources) == 2 else None,
        },
    )
    logger.info("%s, seed %d: wrote %s", " + ".join(sources), seed, out)


def training_of(
    training: TrainSettings, settings: CompatibilityStudySettings, *, are_all: bool
) -> TrainSettings:
    """How a model of some sources is trained.

    Args:
        training: How models of the configuration are.
        settings: What the study changes.
        are_all: Whether there are no other sources; then the cosines of gradients are measured.
    """
    changes = {
        "epochs": settings.epochs,
        "patience_epochs": None,
        "encoder_shards": 1,
        "cosine_steps": settings.cosine_steps if are_all else None,
        "trackers": (),
    }
    return training.model_copy(update=changes)


def _levels(sources: Sequence[str], workspace: Workspace) -> dict[str, Any]:
    """How far the energies of two sources are apart on geometries that both have.

    Each source's references are taken off first: a branch that both feed would learn what is left.
    """
    read = [_energies(source, workspace) for source in sources]
    names = name_geometries(
        np.concatenate([words for words, _, _ in read]),
        np.concatenate([ids for _, ids, _ in read]),
    )
    first = len(read[0][1])
    _, one, other = np.intersect1d(names[:first], names[first:], return_indices=True)
    differences = read[0][2][one] - read[1][2][other]
    return {
        "same": len({_level(source, workspace) for source in sources}) == 1,
        "shared": len(one),
        "mean": float(differences.mean()) if len(one) else None,
        "spread": float(differences.std()) if len(one) else None,
    }


def _energies(
    source: str, workspace: Workspace
) -> tuple[npt.NDArray[np.uint32], UInt64Array, npt.NDArray[np.float64]]:
    """Fingerprint (S, 5), hash (S,) and energy in eV/atom (S,) of what has an energy."""
    parts = []
    for split in SPLITS:
        with Pack.of(workspace, source, split) as pack:
            for first, last in pack.slices(_BLOCK):
                batch = pack.read(first, last)
                chosen = batch.energy_mask == 1
                energies = pack.header.references.to_target(batch)
                words = fingerprints(batch)
                parts.append((words[chosen], batch.structure_id[chosen], energies[chosen]))
    words, ids, energies = (np.concatenate(column) for column in zip(*parts, strict=True))
    return words, ids, energies


def _level(source: str, workspace: Workspace) -> str:
    with Pack.of(workspace, source, "train") as pack:
        return pack.header.level_of_theory
