"""Runs the train stage for one named model."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mtlpar.core.files import read_json
from mtlpar.core.paths import Workspace
from mtlpar.core.references import References
from mtlpar.model.multitask import MultiTaskModel, TargetScale, parameter_counts
from mtlpar.model.saved import save_model
from mtlpar.model.settings import ModelSettings
from mtlpar.parallel.launch import RankContext
from mtlpar.parallel.layout import ParallelLayout
from mtlpar.store.bp import BpReader
from mtlpar.store.dataset import PackedDataset
from mtlpar.train.checkpoint import CheckpointFolder, Progress, model_state
from mtlpar.train.history import History
from mtlpar.train.loader import RankLoader
from mtlpar.train.sampler import EpochPlan
from mtlpar.train.settings import TrainSettings
from mtlpar.train.trainer import Trainer, TrainingData

logger = logging.getLogger(__name__)

# What may change between an interrupted run and the one that continues it.
_NOT_IN_FINGERPRINT = {"layout", "checkpoint_epochs"}


def run(
    name: str,
    *,
    branches: Mapping[str, tuple[str, ...]],
    workspace: Workspace,
    model_settings: ModelSettings,
    settings: TrainSettings,
    seed: int,
    context: RankContext,
) -> None:
    """Train one model and write ``model.pt`` (the best epoch) and ``metrics.jsonl``.

    All ranks of the context must call this. Checkpoints lie in a folder named after a fingerprint
    of data and settings, so an interrupted run continues and a changed one starts anew.

    Args:
        name: Name of the model.
        branches: Sources by branch.
        workspace: Paths of all products.
        model_settings: Architecture.
        settings: How to train.
        seed: The run's seed.
        context: Who this process is.

    Raises:
        ValueError: If packs are missing or damaged, or training diverges.
    """
    branch_of = {source: branch for branch, sources in branches.items() for source in sources}
    headers = {source: _header(workspace, source) for source in branch_of}
    layout = ParallelLayout.build(
        settings.layout,
        cost={
            branch: float(sum(headers[source]["num_atoms"] for source in sources))
            for branch, sources in branches.items()
        },
        world_size=context.world_size,
    )
    owned = layout.branches_of(context.rank)
    dtype = getattr(torch, settings.precision)
    model = MultiTaskModel(model_settings, owned, seed=seed)
    model.set_scales({branch: _scale(headers, branches[branch]) for branch in owned})
    model.to(context.device, dtype)
    _log_layout(name, layout, model, context)

    fingerprint = _fingerprint(branches, headers, model_settings, settings, seed)
    checkpoints = CheckpointFolder(
        workspace.checkpoints(name) / fingerprint[:16], rank=context.rank
    )
    data = _load_data(
        workspace,
        headers,
        branch_of,
        layout=layout,
        rank=context.rank,
        seed=seed,
        settings=settings,
        model_settings=model_settings,
    )
    trainer = Trainer(
        model, data, layout=layout, context=context, settings=settings, checkpoints=checkpoints
    )
    trainer.resume()
    history = History(
        checkpoints.folder / "metrics.jsonl",
        rank=context.rank,
        resume_step=trainer.progress.step,
    )
    progress = trainer.run(history)
    if context.rank == 0:
        _export(
            workspace.model(name),
            checkpoints,
            progress,
            branches=branches,
            headers=headers,
            model_settings=model_settings,
            dtype=dtype,
            training={
                "model": name,
                "seed": seed,
                "settings": settings.model_dump(mode="json"),
                "epochs": progress.epoch,
                "steps": progress.step,
                "best_step": progress.best_step,
                "best_score": progress.best_score,
                "fingerprint": fingerprint,
            },
        )
        history.publish(workspace.training_metrics(name))
        checkpoints.mark_finished(progress)
        logger.info("%s: wrote %s", name, workspace.model(name))
    if dist.is_initialized():
        dist.barrier()


def _header(workspace: Workspace, source: str) -> dict[str, Any]:
    """What a source's training pack says about itself, with the digests of its data."""
    with BpReader(workspace.pack(source, "train")) as reader:
        digests = {
            split: read_json(workspace.pack_manifest(source, split))["data_digest"]
            for split in ("train", "val")
        }
        return {**reader.attributes, "data_digests": digests}


def _scale(headers: Mapping[str, Mapping[str, Any]], sources: tuple[str, ...]) -> TargetScale:
    """Size of a branch's targets: root mean square over its sources, each counting alike."""

    def root_mean_square(key: str) -> float:
        squares = [headers[source]["train_statistics"][key] ** 2 for source in sources]
        # Sources without any signal, such as only relaxed structures, leave the scale at one.
        return float((sum(squares) / len(squares)) ** 0.5) or 1.0

    return TargetScale(
        root_mean_square("energy_rms_ev_per_atom"), root_mean_square("force_rms_ev_per_angstrom")
    )


def _load_data(
    workspace: Workspace,
    headers: Mapping[str, Mapping[str, Any]],
    branch_of: Mapping[str, str],
    *,
    layout: ParallelLayout,
    rank: int,
    seed: int,
    settings: TrainSettings,
    model_settings: ModelSettings,
) -> TrainingData:
    owned = layout.branches_of(rank)
    mine = [source for source, branch in branch_of.items() if branch in owned]
    packs = {
        split: {source: PackedDataset(workspace.pack(source, split)) for source in mine}
        for split in ("train", "val")
    }
    plan = EpochPlan(
        {source: headers[source]["num_structures"] for source in branch_of},
        settings.batch_structures,
        seed,
    )
    loader = RankLoader(
        packs["train"],
        branch_of,
        plan,
        layout,
        rank,
        model_settings.graph,
        getattr(torch, settings.precision),
    )
    return TrainingData(
        branch_of=branch_of,
        sizes={source: header["train_statistics"] for source, header in headers.items()},
        loader=loader,
        validation=packs["val"],
    )


def _fingerprint(
    branches: Mapping[str, tuple[str, ...]],
    headers: Mapping[str, Mapping[str, Any]],
    model_settings: ModelSettings,
    settings: TrainSettings,
    seed: int,
) -> str:
    content = {
        "branches": branches,
        "data": {source: header["data_digests"] for source, header in headers.items()},
        "model": model_settings.model_dump(mode="json"),
        "train": settings.model_dump(mode="json", exclude=_NOT_IN_FINGERPRINT),
        "seed": seed,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _log_layout(
    name: str, layout: ParallelLayout, model: MultiTaskModel, context: RankContext
) -> None:
    counts = parameter_counts(model)
    logger.info(
        "%s: %d rank(s), branch owners %s; rank 0 holds %s parameters (%s)",
        name,
        context.world_size,
        layout.describe(),
        f"{sum(counts.values()):,}",
        ", ".join(f"{part} {count:,}" for part, count in counts.items()),
    )


def _export(
    path: Path,
    checkpoints: CheckpointFolder,
    progress: Progress,
    *,
    branches: Mapping[str, tuple[str, ...]],
    headers: Mapping[str, Mapping[str, Any]],
    model_settings: ModelSettings,
    dtype: torch.dtype,
    training: Mapping[str, Any],
) -> None:
    """Collect all branches of the best checkpoint in one file."""
    full = MultiTaskModel(model_settings, branches, seed=0).to(dtype)
    checkpoints.load(model_state(full), progress.best_step, alone=True)
    save_model(
        path,
        state=full.state_dict(),
        settings=model_settings,
        branches=branches,
        references={
            source: References.from_dict(header["references_ev"])
            for source, header in headers.items()
        },
        level_of_theory={
            source: str(header["level_of_theory"]) for source, header in headers.items()
        },
        training=training,
    )
