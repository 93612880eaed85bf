"""The training loop: epochs of steps, validation, checkpoints."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from mtlpar.core.collective import collective
from mtlpar.core.error_names import MAE_NAMES
from mtlpar.core.wording import counted
from mtlpar.model.multitask import MultiTaskModel
from mtlpar.parallel.agree import AgreedError, Interrupted
from mtlpar.parallel.layout import ParallelLayout
from mtlpar.parallel.ranks import RankContext
from mtlpar.parallel.shard import whole_encoder
from mtlpar.train.checkpoint import CheckpointFolder, model_state, optimizer_state
from mtlpar.train.cosines import as_history
from mtlpar.train.data import TrainingData
from mtlpar.train.history import History
from mtlpar.train.loader import LocalBatch
from mtlpar.train.objective import Objective
from mtlpar.train.precision import arithmetic
from mtlpar.train.progress import TrainingProgress
from mtlpar.train.schedule import Cooldown, cooldown, learning_rate, settled_from
from mtlpar.train.settings import TrainSettings
from mtlpar.train.step import Requests, StepResult, TrainStep
from mtlpar.train.stopping import StopRequest
from mtlpar.train.telemetry import RankClock, log_held
from mtlpar.train.validate import relative_score, validation_errors

logger = logging.getLogger(__name__)

# An epoch of a low rate is kept unless the score of an earlier one was less than two thirds of it.
_SETTLED = 1.5


class Trainer:
    """Trains a finished model according to a layout; all ranks run the same steps."""

    @collective
    def __init__(
        self,
        model: MultiTaskModel,
        data: TrainingData,
        *,
        layout: ParallelLayout,
        context: RankContext,
        settings: TrainSettings,
        checkpoints: CheckpointFolder,
        stop: StopRequest,
    ) -> None:
        """Attach optimizer and gradient reduction to a model that holds only this rank's branches.

        Args:
            model: The model, on its device.
            data: Batches and validation sets.
            layout: Who owns which branch.
            context: Who this process is.
            settings: How to train.
            checkpoints: Where to resume from and save to.
            stop: Whether to end early.
        """
        self.model = model
        self.data = data
        self.layout = layout
        self.context = context
        self.settings = settings
        self.checkpoints = checkpoints
        self.stop = stop
        self.progress = TrainingProgress()
        self.sources = tuple(data.branch_of)
        self.steps_per_epoch = data.loader.plan.steps
        self._held = {
            source
            for source, branch in data.branch_of.items()
            if settings.branch_rates.get(branch) == 0
        }
        objective = Objective(
            {source: settings.weights_of(source) for source in self.sources}, settings.losses
        )
        self.train_step = TrainStep(
            model, objective, layout=layout, context=context, settings=settings
        )
        self._last_save = time.monotonic()
        self._is_first_step = True

    @collective
    def resume(self) -> None:
        """Continue from the newest checkpoint of an unfinished run, if there is one."""
        latest = self.checkpoints.latest()
        if latest is None:
            return
        if latest.finished:
            done = counted(latest.epoch, "epoch")
            logger.info("an earlier run finished after %s; starting again", done)
            self.checkpoints.clear()
            return
        self.checkpoints.load(self._state(), latest.step)
        self.progress = latest
        logger.info("resumed after epoch %d, step %d", latest.epoch, latest.step)

    @collective
    def run(self, history: History) -> TrainingProgress:
        """Train until the epochs are done or validation stops improving.

        Raises:
            AgreedError: If loss or gradient stop being finite; all ranks stop before the step.
            Interrupted: If a signal or the deadline asked for it; a checkpoint was saved.
        """
        self.model.train()
        logger.info(
            "an epoch's line has validation errors by source (energy in eV/atom / forces in eV/Å / "
            "stress in eV/Å^3, those it has) and the score, their geometric mean relative to "
            "predicting zero; *: the model to keep so far"
        )
        while self._has_more():
            clock = RankClock(self.context.device)
            stopping = self._epoch(history, clock)
            self._close_epoch(history, clock)
            if stopping and self._has_more():
                self._end_early()
        self.checkpoints.wait()
        if self.progress.early_start is not None:
            logger.info(
                "ended after epoch %d of at most %d at a learning rate of %.2g: patience ran out "
                "after epoch %d",
                self.progress.epoch,
                self.settings.epochs,
                self._rate(),
                self.progress.early_start,
            )
        return self.progress

    def _cooldown(self) -> Cooldown:
        return cooldown(self.settings, early_start=self.progress.early_start)

    @collective
    def load_best(self) -> MultiTaskModel:
        """This rank's part of the network after the best epoch.

        Raises:
            ValueError: If its checkpoint is damaged.
        """
        average = self.train_step.average
        model, prefix = (average.model, "average") if average else (self.model, "model")
        self.checkpoints.load(model_state(model, prefix=prefix), self.progress.best_step)
        return model

    def _has_more(self) -> bool:
        return self.progress.epoch < self._cooldown().end

    @collective
    def _epoch(self, history: History, clock: RankClock) -> bool:
        """Run the steps that are left of this epoch; returns whether to end early after it."""
        progress = self.progress
        stopping = False
        for passes in self._batches(clock):
            result = self.train_step.run(
                passes,
                step=progress.step,
                learning_rate=self._rate(),
                requests=Requests(self.stop.reason is not None, self._checkpoint_is_due()),
            )
            self._note_step(result, history, clock)
            if self._is_first_step:
                log_held(self.train_step.held_bytes())
                self._is_first_step = False
            stopping = result.requests.stop
            if progress.step == (progress.epoch + 1) * self.steps_per_epoch:
                # The epoch is validated and saved before anything else.
                break
            if stopping or result.requests.checkpoint:
                self._save()
            if stopping:
                self._end_early()
        return stopping

    def _batches(self, clock: RankClock) -> Iterator[Sequence[LocalBatch]]:
        """This rank's shares of the steps that are left, with a progress bar on rank 0."""
        epoch, plan = self.progress.epoch, self.data.loader.plan
        first = self.progress.step - epoch * self.steps_per_epoch
        per_step = sum(plan.num_samples.values()) / self.steps_per_epoch
        atoms = self.data.atoms_per_epoch / self.steps_per_epoch
        with tqdm(
            total=self.steps_per_epoch * per_step,
            initial=first * per_step,
            desc=f"epoch {epoch + 1}/{self._cooldown().end}",
            unit=" structures",
            unit_scale=True,
            leave=False,
            disable=self.context.rank != 0 or not sys.stderr.isatty(),
        ) as bar:
            shares = self.data.loader.epoch(epoch, first_step=first)
            for passes in clock.waiting_for("data", shares):
                yield passes
                bar.update(per_step)
                rate = bar.format_dict["rate"]
                if rate:
                    bar.set_postfix_str(f"{rate * atoms / per_step:,.0f} atoms/s", refresh=False)

    def _note_step(self, result: StepResult, history: History, clock: RankClock) -> None:
        progress, objective = self.progress, self.train_step.objective
        progress.step += 1
        clock.add("compute", result.compute_seconds)
        clock.add("reduce", result.reduce_seconds)
        if result.skipped:
            self._note_skipped(result)
        else:
            self._add_terms(result)
        history.add(
            kind="step",
            epoch=progress.epoch + 1,
            step=progress.step,
            loss=None if result.skipped else float(objective.total(result.terms)),
            learning_rate=self.train_step.optimizer.param_groups[0]["lr"],
            gradient_norm=None if result.skipped else result.gradient_norm,
            skipped=result.skipped,
            terms=None if result.skipped else self._by_source(result.terms, result.counts),
            seconds=clock.last(),
            **self._directions(result),
        )

    def _directions(self, result: StepResult) -> dict[str, Any]:
        """What the sources do to the encoder, where that was measured and is finite."""
        products = result.gradient_products
        if products is None or result.skipped or not torch.isfinite(products).all():
            return {}
        return {"encoder_gradients": as_history(self.sources, products)}

    def _add_terms(self, result: StepResult) -> None:
        """Add a step to what the epoch has so far: its terms, and which labels it held."""
        progress = self.progress
        rows = torch.cat([result.terms, (result.counts > 0).to(result.terms)], dim=1).tolist()
        for source, row in zip(self.sources, rows, strict=True):
            done = progress.epoch_terms.get(source, [0.0] * len(row))
            progress.epoch_terms[source] = [a + b for a, b in zip(done, row, strict=True)]
        progress.epoch_steps += 1

    def _note_skipped(self, result: StepResult) -> None:
        self.progress.skipped_steps += 1
        count, limit = self.progress.skipped_steps, self.settings.max_skipped_steps
        rows = (~torch.isfinite(result.terms).all(dim=1)).nonzero().flatten().tolist()
        logger.warning(
            "step %d left out: %s not finite (%d of at most %d)",
            self.progress.step,
            ", ".join(f"loss of {self.sources[row]}" for row in rows) or "gradient",
            count,
            limit,
        )
        if count > limit:
            raise AgreedError(
                f"{counted(count, 'step')} left out because loss or gradient were not finite, more "
                f"than train.max_skipped_steps = {limit}; lower train.learning_rate or check the "
                "data"
            )

    @collective
    def _close_epoch(self, history: History, clock: RankClock) -> None:
        """Validate, log, remember the best and save."""
        progress = self.progress
        started = time.perf_counter()
        average = self.train_step.average
        model = average.model if average else self.model
        with arithmetic(self.settings, self.context.device), whole_encoder(model):
            errors = validation_errors(
                model,
                self.data.validation,
                branch_of=self.data.branch_of,
            )
        clock.add("validate", time.perf_counter() - started)
        self._check_finite(errors)
        score = relative_score(errors, self.data.target_sizes, held=self._held)
        train = self._train_errors()
        progress.epoch += 1
        progress.epoch_terms, progress.epoch_steps = {}, 0
        is_best = self._note_score(score)
        if progress.epoch == self._cooldown().start:
            progress.before_cooldown = [progress.best_step, progress.step]
        ranks = clock.of_all_ranks()
        history.add(
            kind="epoch",
            epoch=progress.epoch,
            step=progress.step,
            score=score,
            is_best=is_best,
            train=train,
            val=errors,
            seconds={"total": clock.elapsed(), "ranks": ranks},
        )
        self._log_epoch(score, errors, clock.elapsed(), is_best)
        self._save()

    def _check_finite(self, errors: Mapping[str, Mapping[str, float]]) -> None:
        """Refuse validation errors that are no numbers; all ranks have the same ones."""
        lost = [
            name for name, error in errors.items() if not all(map(math.isfinite, error.values()))
        ]
        if lost:
            raise AgreedError(
                f"the validation error of {', '.join(lost)} is not finite after epoch "
                f"{self.progress.epoch + 1}: training diverged. Lower train.learning_rate, or set "
                "train.max_gradient_norm"
            )

    def _train_errors(self) -> dict[str, dict[str, float]]:
        """Mean terms over the steps of the epoch that held such a label of a source."""
        progress = self.progress
        if progress.epoch_steps == 0:
            raise AgreedError(
                f"all steps of epoch {progress.epoch + 1} were left out because loss or gradient "
                "were not finite; lower train.learning_rate or check the data"
            )
        rows = [progress.epoch_terms[source] for source in self.sources]
        sums, steps = torch.tensor(rows, dtype=torch.float64).chunk(2, dim=1)
        return self._by_source(sums / steps, steps)

    def _state(self) -> dict[str, Tensor]:
        state = model_state(self.model) | optimizer_state(self.model, self.train_step.optimizer)
        if self.train_step.average is not None:
            state |= model_state(self.train_step.average.model, prefix="average")
        return state

    def _save(self) -> None:
        self.checkpoints.save(self._state(), self.progress)
        self._last_save = time.monotonic()

    def _checkpoint_is_due(self) -> bool:
        minutes = (time.monotonic() - self._last_save) / 60
        return self.context.rank == 0 and minutes >= self.settings.checkpoint_minutes

    def _end_early(self) -> None:
        self.checkpoints.wait()
        raise Interrupted(
            f"stopped after step {self.progress.step} because of "
            f"{self.stop.reason or 'a request to another rank'}; a checkpoint was saved, the same "
            "command continues from it"
        )

    def _rate(self) -> float:
        return learning_rate(
            self.progress.step,
            steps_per_epoch=self.steps_per_epoch,
            plateaus=self.progress.plateaus,
            early_start=self.progress.early_start,
            settings=self.settings,
        )

    def _note_score(self, score: float) -> bool:
        """Remember the score of the epoch to keep; returns whether this is it."""
        progress = self.progress
        # Of equal ones the later: where validation has no label to say anything all are zero.
        if progress.best_score is None or score <= self._allowance() * progress.best_score:
            progress.best_score = score
            progress.best_step = progress.step
            progress.epochs_without_improvement = 0
            return True
        if self._score_counts():
            progress.epochs_without_improvement += 1
            if progress.epochs_without_improvement % self.settings.plateau_epochs == 0:
                progress.plateaus += 1
            if progress.epochs_without_improvement == self.settings.patience_epochs:
                self._begin_cooldown()
        return False

    def _allowance(self) -> float:
        """What the score of this epoch may be, as a multiple of that of the epoch to keep.

        While the rate is high weights jump about, and the luckiest of many epochs on a small
        validation set is worse elsewhere than one at the end (`docs/decisions.md`).
        """
        progress = self.progress
        settled = settled_from(self.settings, early_start=progress.early_start)
        best = progress.best_step / self.steps_per_epoch
        return _SETTLED if settled is not None and best < settled <= progress.epoch else 1.0

    def _score_counts(self) -> bool:
        """Whether a score that does not improve says anything about those to come.

        Along a cosine scores wander as long as the rate is high, and fall when it does. In the
        cooldown there is nothing left to decide.
        """
        epoch = self.progress.epoch
        if self.settings.schedule == "cosine" and 2 * epoch <= self.settings.epochs:
            return False
        return epoch < self._cooldown().start

    def _begin_cooldown(self) -> None:
        """Let the rate fall from now on, as in a training that was planned to be so short."""
        progress = self.progress
        progress.early_start = progress.epoch
        logger.info(
            "no better score for %s (train.patience_epochs): the learning rate falls from %.2g, "
            "and training ends with epoch %d",
            counted(progress.epochs_without_improvement, "epoch"),
            self._rate(),
            self._cooldown().end,
        )

    def _by_source(self, terms: Tensor, counts: Tensor) -> dict[str, dict[str, float]]:
        """Terms by source and name; those of labels that nothing had are left out."""
        names = self.train_step.objective.term_names
        by_source = {
            source: {
                name: term for name, term, count in zip(names, *rows, strict=True) if count > 0
            }
            for source, *rows in zip(self.sources, terms.tolist(), counts.tolist(), strict=True)
        }
        return {source: row for source, row in by_source.items() if row}

    def _log_epoch(
        self, score: float, errors: Mapping[str, Mapping[str, float]], seconds: float, best: bool
    ) -> None:
        details = "  ".join(
            f"{source} {'/'.join(f'{e[name]:.3g}' for name in MAE_NAMES.values() if name in e)}"
            for source, e in errors.items()
        )
        rate = sum(self.data.loader.plan.num_samples.values()) / seconds
        logger.info(
            "epoch %d/%d  score %.4f%s  %s  %.0f structures/s",
            self.progress.epoch,
            self._cooldown().end,
            score,
            " *" if best else "",
            details,
            rate,
        )
