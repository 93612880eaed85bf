"""Runs the train stage for one named model."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mtlpar.core.files import file_digest, write_json
from mtlpar.core.paths import Workspace
from mtlpar.core.references import References
from mtlpar.model.messages import has_kernels
from mtlpar.model.multitask import MultiTaskModel, parameter_counts
from mtlpar.model.saved import FORMAT_VERSION, load_model, save_model
from mtlpar.model.settings import ModelSettings
from mtlpar.model.start import start_from
from mtlpar.parallel.agree import check_same, failing_together
from mtlpar.parallel.layout import ParallelLayout
from mtlpar.parallel.ranks import RankContext
from mtlpar.parallel.roll import RankLostError
from mtlpar.store.header import read_header, training_digest
from mtlpar.train.checkpoint import CheckpointFolder, Progress, model_state
from mtlpar.train.data import edges_per_atom, load_data, plan_epochs, target_scale
from mtlpar.train.history import History
from mtlpar.train.layout import choose_layout
from mtlpar.train.precision import weight_dtype
from mtlpar.train.settings import TrainSettings
from mtlpar.train.stopping import StopRequest
from mtlpar.train.trackers import open_trackers
from mtlpar.train.trainer import Trainer

logger = logging.getLogger(__name__)

_OF_SOURCE = ("num_structures", "num_atoms", "level_of_theory", "references_ev", "data_digests")


@dataclass(frozen=True, kw_only=True)
class Start:
    """A trained model to start from.

    Attributes:
        path: Its file.
        new_branches: Branches of the new model by the branch of that one they start from.
    """

    path: Path
    new_branches: Mapping[str, str]


def run(
    name: str,
    *,
    branches: Mapping[str, tuple[str, ...]],
    workspace: Workspace,
    model_settings: ModelSettings,
    settings: TrainSettings,
    seed: int,
    context: RankContext,
    start: Start | None = None,
    deadline_s: float | None = None,
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
        start: Trained model to start from; random weights if None.
        deadline_s: Seconds after which to save a checkpoint and stop.

    Raises:
        ValueError: If packs are missing or damaged, ranks were given different things, or training
            diverges.
        Interrupted: If a signal or the deadline asked to stop; the same call continues.
    """
    stop = StopRequest(deadline_s)
    with stop.listening():
        job = _Job(name, branches, workspace, model_settings, settings, seed, context, start)
        trainer = job.trainer(stop)
        context.roll.speak(lambda ranks, fate: job.loss_of(trainer, ranks, fate))
        trainer.resume()
        history = job.history(trainer.progress.step)
        try:
            progress = trainer.run(history)
        except RuntimeError as error:
            if told := context.roll.explain(error):
                raise RankLostError(told) from error
            raise
        finally:
            history.close()
        if context.rank == 0:
            job.export(progress)
            history.publish(workspace.training_metrics(name))
            job.checkpoints.mark_finished(progress)
            logger.info("%s: wrote %s", name, workspace.model(name))
    if dist.is_initialized():
        dist.barrier()


class _Job:
    """One model's training on this rank: what `run` was given and what follows from it."""

    def __init__(
        self,
        name: str,
        branches: Mapping[str, tuple[str, ...]],
        workspace: Workspace,
        model_settings: ModelSettings,
        settings: TrainSettings,
        seed: int,
        context: RankContext,
        start: Start | None,
    ) -> None:
        self.name = name
        self.branches = branches
        self.workspace = workspace
        self.model_settings = model_settings
        self.settings = settings
        self.seed = seed
        self.context = context
        self.start = start
        self.branch_of = {source: branch for branch in branches for source in branches[branch]}
        with failing_together():
            if start is not None and not start.path.is_file():
                raise ValueError(f"{name} starts from {start.path}: there is none; train it first")
            self.headers = {source: read_header(workspace, source) for source in self.branch_of}
        self.fingerprint = self._fingerprint()
        self._check_ranks()
        self.checkpoints = CheckpointFolder(
            workspace.checkpoints(name) / self.fingerprint[:16],
            rank=context.rank,
            keep=settings.keep_checkpoints,
        )
        if context.rank == 0:
            self._describe()

    def trainer(self, stop: StopRequest) -> Trainer:
        """Build the part of the model that this rank holds, and read the data it needs."""
        plan = plan_epochs(self.headers, self.settings, seed=self.seed)
        with failing_together():
            layout = choose_layout(
                self.branches,
                self.headers,
                plan,
                edges_per_atom={
                    source: edges_per_atom(self.workspace, source, self.model_settings.graph)
                    for source in self.branch_of
                },
                settings=self.settings,
                model_settings=self.model_settings,
                context=self.context,
            )
        check_same({"branch owners": layout.describe()}, advice="give all ranks alike devices")
        model = self._model(layout.branches_of(self.context.rank))
        self._log_layout(layout, model)
        data = load_data(
            self.workspace,
            self.headers,
            self.branch_of,
            plan,
            layout=layout,
            rank=self.context.rank,
            device=self.context.device,
            settings=self.settings,
            model_settings=self.model_settings,
        )
        return Trainer(
            model,
            data,
            layout=layout,
            context=self.context,
            settings=self.settings,
            checkpoints=self.checkpoints,
            stop=stop,
        )

    def loss_of(self, trainer: Trainer, ranks: Sequence[int], fate: str) -> str:
        """What the fate of some ranks means for the training."""
        lost = ", ".join(
            f"rank {rank} (branch {', '.join(trainer.layout.branches_of(rank))})" for rank in ranks
        )
        step = trainer.progress.step
        return f"after step {step}, {lost} {fate}; start again from the last checkpoint"

    def _check_ranks(self) -> None:
        """Make sure that all ranks mean the same training, on the same data."""
        settings = {**self._settings(), "execution": self.settings.model_dump(mode="json")}
        data = {
            f"data of {source} (branch {self.branch_of[source]}) with the digest": training_digest(
                header
            )
            for source, header in self.headers.items()
        }
        check_same(
            {"settings with the digest": _digest(settings), **data},
            advice="give all ranks the same config and the same packs",
        )

    def _model(self, owned: tuple[str, ...]) -> MultiTaskModel:
        """Encoder and some branches, on their device, as they are before the first step."""
        model = MultiTaskModel(self.model_settings, owned, seed=self.seed)
        model.set_scales(
            {branch: target_scale(self.headers, self.branches[branch]) for branch in owned}
        )
        model.to(self.context.device, weight_dtype(self.settings))
        if self.start is not None:
            trained = load_model(self.start.path, device=self.context.device)
            start_from(model, trained, new_branches=self.start.new_branches)
        if self.settings.compile:
            model.compile_parts()
        return model

    def history(self, resume_step: int) -> History:
        """The run's history, beside its checkpoints."""
        is_first = self.context.rank == 0
        return History(
            self.checkpoints.folder / "metrics.jsonl",
            rank=self.context.rank,
            resume_step=resume_step,
            trackers=open_trackers(
                self.settings.trackers if is_first else (),
                run=f"{self.name}-{self.fingerprint[:8]}",
                folder=self.checkpoints.folder,
                settings=self._settings(),
            ),
        )

    def export(self, progress: Progress) -> None:
        """Collect all branches of the best checkpoint in one file."""
        model = MultiTaskModel(self.model_settings, self.branches, seed=0)
        model.to(weight_dtype(self.settings))
        prefix = "average" if self.settings.ema_decay else "model"
        state = model_state(model, prefix=prefix)
        self.checkpoints.load(state, progress.best_step, alone=True)
        save_model(
            self.workspace.model(self.name),
            state=model.state_dict(),
            settings=self.model_settings,
            branches=self.branches,
            references={
                source: References.from_dict(header["references_ev"])
                for source, header in self.headers.items()
            },
            level_of_theory={
                source: str(header["level_of_theory"]) for source, header in self.headers.items()
            },
            training={
                "model": self.name,
                "seed": self.seed,
                "settings": self.settings.model_dump(mode="json"),
                "epochs": progress.epoch,
                "steps": progress.step,
                "skipped_steps": progress.skipped_steps,
                "best_step": progress.best_step,
                "best_score": progress.best_score,
                "fingerprint": self.fingerprint,
                "data": self._data(),
                "leaky_sources": [
                    source
                    for source, header in self.headers.items()
                    if header["split_by"] == "frames"
                ],
            },
        )

    def _describe(self) -> None:
        """Say beside the checkpoints what they are of: what the fingerprint is a digest of."""
        write_json(
            self.checkpoints.folder / "run.json",
            {
                "model": self.name,
                "fingerprint": self.fingerprint,
                **self._settings(),
                "sources": {
                    source: {key: header[key] for key in _OF_SOURCE}
                    for source, header in self.headers.items()
                },
            },
        )

    def _settings(self) -> dict[str, Any]:
        """What the trained model depends on besides its data, as plain values."""
        return {
            "branches": {branch: list(sources) for branch, sources in self.branches.items()},
            "model": self.model_settings.model_dump(mode="json"),
            "model_format": FORMAT_VERSION,
            "train": self.settings.of_result(),
            "seed": self.seed,
            "start": self.start and [file_digest(self.start.path), dict(self.start.new_branches)],
        }

    def _fingerprint(self) -> str:
        return _digest({**self._settings(), "data": self._data()})

    def _data(self) -> dict[str, str]:
        return {source: training_digest(header) for source, header in self.headers.items()}

    def _log_layout(self, layout: ParallelLayout, model: MultiTaskModel) -> None:
        counts = parameter_counts(model)
        logger.info(
            "%s: %d rank(s), branch owners %s; rank 0 holds %s parameters (%s)",
            self.name,
            self.context.world_size,
            layout.describe(),
            f"{sum(counts.values()):,}",
            ", ".join(f"{part} {count:,}" for part, count in counts.items()),
        )
        device = self.context.device
        if device.type == "cuda":
            name = torch.cuda.get_device_name(device)
            logger.info("rank 0 computes on %s in %s", name, self.settings.precision)
            if not has_kernels(device):
                logger.warning("Triton is not installed: messages take longer than they need to")


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
