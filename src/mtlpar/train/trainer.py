"""The training loop."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from mtlpar.model.multitask import MultiTaskModel
from mtlpar.parallel.launch import RankContext
from mtlpar.parallel.layout import ParallelLayout
from mtlpar.parallel.reduce import GradientReducer
from mtlpar.store.dataset import PackedDataset
from mtlpar.train.checkpoint import CheckpointFolder, Progress, model_state, optimizer_state
from mtlpar.train.history import History
from mtlpar.train.loader import LocalBatch, RankLoader
from mtlpar.train.objective import Objective
from mtlpar.train.optim import clip_gradients, make_optimizer, rate_factor
from mtlpar.train.settings import TrainSettings
from mtlpar.train.validate import relative_score, validation_errors

logger = logging.getLogger(__name__)

_TASKS = ("energy_mae_ev_per_atom", "force_mae_ev_per_angstrom")


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What one rank trains and validates on.

    Attributes:
        branch_of: Branch of every source of the model, in order.
        sizes: ``train_statistics`` of every source.
        loader: Training batches of this rank.
        validation: Validation sets of the sources whose branches this rank owns.
    """

    branch_of: Mapping[str, str]
    sizes: Mapping[str, Mapping[str, float]]
    loader: RankLoader
    validation: Mapping[str, PackedDataset]


class Trainer:
    """Trains a finished model according to a layout; all ranks run the same steps."""

    def __init__(
        self,
        model: MultiTaskModel,
        data: TrainingData,
        *,
        layout: ParallelLayout,
        context: RankContext,
        settings: TrainSettings,
        checkpoints: CheckpointFolder,
    ) -> None:
        """Attach optimizer and gradient reduction to a model that holds only this rank's branches.

        Args:
            model: The model, on its device.
            data: Batches and validation sets.
            layout: Who owns which branch.
            context: Who this process is.
            settings: How to train.
            checkpoints: Where to resume from and save to.
        """
        self.model = model
        self.data = data
        self.layout = layout
        self.context = context
        self.settings = settings
        self.checkpoints = checkpoints
        self.progress = Progress()
        self.sources = tuple(data.branch_of)
        self.steps_per_epoch = data.loader.plan.steps
        self.objective = Objective(
            self.sources,
            energy_weight=settings.energy_weight,
            force_weight=settings.force_weight,
            dataset_weights=settings.dataset_weights,
        )
        self.optimizer = make_optimizer(model, settings)
        self.reducer = GradientReducer(model, layout, rank=context.rank)

    def resume(self) -> None:
        """Continue from the newest checkpoint of an unfinished run, if there is one."""
        latest = self.checkpoints.latest()
        if latest is None:
            return
        if latest.finished:
            logger.info("an earlier run finished after %d epochs; starting anew", latest.epoch)
            return
        state = model_state(self.model) | optimizer_state(self.model, self.optimizer)
        self.checkpoints.load(state, latest.step)
        self.progress = latest
        logger.info("resumed after epoch %d, step %d", latest.epoch, latest.step)

    def run(self, history: History) -> Progress:
        """Train until the epochs are done or validation stops improving.

        Raises:
            ValueError: If loss or gradient stop being finite; all ranks stop before the step.
        """
        self.model.train()
        while self.progress.epoch < self.settings.epochs and not self._out_of_patience():
            started = time.monotonic()
            train_errors = self._epoch(history)
            errors = validation_errors(
                self.model,
                self.data.validation,
                branch_of=self.data.branch_of,
                layout=self.layout,
                rank=self.context.rank,
            )
            score = relative_score(errors, self.data.sizes)
            is_best = self._note_score(score)
            history.add(
                kind="epoch",
                epoch=self.progress.epoch,
                step=self.progress.step,
                score=score,
                is_best=is_best,
                train=train_errors,
                val=errors,
                seconds=round(time.monotonic() - started, 3),
            )
            self._log_epoch(score, errors, time.monotonic() - started, is_best)
            due = self.progress.epoch % self.settings.checkpoint_epochs == 0
            if is_best or due or self.progress.epoch == self.settings.epochs:
                state = model_state(self.model) | optimizer_state(self.model, self.optimizer)
                self.checkpoints.save(state, self.progress)
        return self.progress

    def _epoch(self, history: History) -> dict[str, dict[str, float]]:
        """Run the steps of one epoch and return the mean training errors by source."""
        epoch = self.progress.epoch
        structures = sum(self.data.loader.plan.num_structures.values()) / self.steps_per_epoch
        running = torch.zeros(len(self.sources), 2, dtype=torch.float64)
        bar = tqdm(
            self.data.loader.epoch(epoch),
            total=self.steps_per_epoch,
            desc=f"epoch {epoch + 1}/{self.settings.epochs}",
            unit_scale=structures,
            unit=" structures",
            leave=False,
            disable=self.context.rank != 0 or not sys.stderr.isatty(),
        )
        for batch in bar:
            terms = self._step(batch).double().cpu()
            running += terms
            history.add(
                kind="step",
                epoch=epoch + 1,
                step=self.progress.step,
                loss=float(self.objective.total(terms)),
                learning_rate=self.optimizer.param_groups[0]["lr"],
                terms=self._by_source(terms),
            )
        self.progress.epoch += 1
        return self._by_source(running / self.steps_per_epoch)

    def _step(self, batch: LocalBatch) -> Tensor:
        """One step of the optimizer; returns the errors of the global batch, (T, 2)."""
        factor = rate_factor(
            self.progress.step,
            total_steps=self.settings.epochs * self.steps_per_epoch,
            settings=self.settings,
        )
        self.optimizer.param_groups[0]["lr"] = self.settings.learning_rate * factor
        self.optimizer.zero_grad(set_to_none=True)
        terms = self._local_terms(batch)
        self.reducer.start(terms.flatten())
        if terms.requires_grad:
            self.objective.total(terms).backward()  # type: ignore[no-untyped-call]
        terms = self.reducer.finish().view_as(terms)
        self._stop_unless_finite(terms, batch)
        norm = clip_gradients(self.model, self.settings.max_gradient_norm)
        if not math.isfinite(norm):
            raise ValueError(
                f"the gradient of the encoder is not finite in step {self.progress.step + 1} "
                f"although the loss is; {self._blame(batch)}"
            )
        self.optimizer.step()
        self.progress.step += 1
        return terms

    def _local_terms(self, batch: LocalBatch) -> Tensor:
        device = self.context.device
        if batch.graph is None:
            return torch.zeros(len(self.sources), 2, dtype=self.data.loader.dtype, device=device)
        prediction = self.model(batch.graph.to(device), batch.segments)
        targets = type(batch.targets)(*(tensor.to(device) for tensor in batch.targets))
        return self.objective.terms(prediction, targets, batch.pieces)

    def _stop_unless_finite(self, terms: Tensor, batch: LocalBatch) -> None:
        if bool(torch.isfinite(terms).all()):
            return
        rows = (~torch.isfinite(terms).all(dim=1)).nonzero().flatten().tolist()
        names = ", ".join(self.sources[row] for row in rows)
        raise ValueError(
            f"the loss of {names} is not finite in step {self.progress.step + 1}; no rank took "
            f"the step. Lower train.learning_rate or look at the data; {self._blame(batch)}"
        )

    def _blame(self, batch: LocalBatch) -> str:
        ids = ", ".join(f"{identity:016x}" for identity in batch.structure_id)
        return f"structures on rank {self.context.rank}: {ids or 'none'}"

    def _note_score(self, score: float) -> bool:
        """Remember the best score; returns whether this is it."""
        best = self.progress.best_score
        if best is None or score < best:
            self.progress.best_score = score
            self.progress.best_step = self.progress.step
            self.progress.epochs_without_improvement = 0
            return True
        self.progress.epochs_without_improvement += 1
        return False

    def _out_of_patience(self) -> bool:
        patience = self.settings.patience_epochs
        return patience is not None and self.progress.epochs_without_improvement >= patience

    def _by_source(self, terms: Tensor) -> dict[str, dict[str, float]]:
        rows: Sequence[Sequence[float]] = terms.tolist()
        return {
            source: dict(zip(_TASKS, row, strict=True))
            for source, row in zip(self.sources, rows, strict=True)
        }

    def _log_epoch(
        self, score: float, errors: Mapping[str, Mapping[str, float]], seconds: float, best: bool
    ) -> None:
        details = "  ".join(
            f"{source} {error[_TASKS[0]]:.4f}/{error[_TASKS[1]]:.3f}"
            for source, error in errors.items()
        )
        rate = sum(self.data.loader.plan.num_structures.values()) / seconds
        logger.info(
            "epoch %d/%d  score %.4f%s  %s  (eV/atom / eV/Å)  %.0f structures/s",
            self.progress.epoch,
            self.settings.epochs,
            score,
            " *" if best else "",
            details,
            rate,
        )
