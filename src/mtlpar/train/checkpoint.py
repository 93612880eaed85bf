"""Checkpoints that any layout can load, written whole or not at all, beside the training.

A checkpoint is a folder ``step-<n>`` made by `torch.distributed.checkpoint`: tensors by name, such
as ``model.heads.ani1x.energy.0.weight``, each stored once however many ranks hold it. Ranks read
the names they own, so a run may continue on another number of ranks. ``progress.json`` beside the
tensors is written before the folder gets its name, and so are checksums of all of them: torch
itself loads flipped bits without a word. That training ended well is noted beside them, later.

Nothing else is needed to continue bit by bit: order and content of the batches follow from the
seed and the step, and nothing in a step is random.
"""

from __future__ import annotations

import copy
import logging
import shutil
import time
import warnings
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from mtlpar.core.collective import collective
from mtlpar.core.files import remove
from mtlpar.model.multitask import MultiTaskModel
from mtlpar.parallel.agree import AgreedError, failing_together
from mtlpar.store.checksums import write_checksums
from mtlpar.train.progress import (
    ADVICE,
    TrainingProgress,
    checked_progress,
    forget_seals,
    note_finished,
    progress_at,
    remove_steps,
    step_folder,
    steps_in,
    write_progress,
)

logger = logging.getLogger(__name__)

RUN: Final = "run.json"
"""Name of the file beside the checkpoints that says which training made them."""
HISTORY: Final = "metrics.jsonl"
"""Name of the file beside the checkpoints that says what happened."""


class CheckpointFolder:
    """The checkpoints of one run: the newest few and the best."""

    @collective
    def __init__(self, folder: Path, *, rank: int, keep: int = 2) -> None:
        """Look at a folder, which need not exist.

        Args:
            folder: Where the checkpoints of this run lie.
            rank: This rank.
            keep: Newest checkpoints to keep.
        """
        self.folder = folder
        self.rank = rank
        self.keep = keep
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="mtlpar-checkpoint")
        self._pending: Future[None] | None = None
        # Ranks write while they train: what they say to each other must not mix.
        self._group = dist.new_group(backend="gloo") if dist.is_initialized() else None

    def path(self, step: int) -> Path:
        """Folder of the checkpoint at a step."""
        return step_folder(self.folder, step)

    def take_over(self, folder: Path, progress: TrainingProgress) -> None:
        """Copy the checkpoints that another run continues from; only rank 0 calls this.

        Args:
            folder: Checkpoints of the other run.
            progress: How far it had come, as this run is to see it.

        Raises:
            ValueError: If one of them is damaged.
        """
        for step in sorted({progress.best_step, progress.step}):
            theirs, final = step_folder(folder, step), self.path(step)
            found = checked_progress(theirs)
            temporary = final.with_name(f".{final.name}.tmp")
            remove(temporary)
            shutil.copytree(theirs, temporary)
            # They are checkpoints of this training from now on.
            forget_seals(temporary)
            self._write_progress(temporary, progress if step == progress.step else found)
            write_checksums(temporary)
            temporary.rename(final)

    @collective
    def latest(self) -> TrainingProgress | None:
        """Progress of the newest complete checkpoint, or None; the same on all ranks.

        Raises:
            ValueError: If it is damaged; see `read_progress`.
        """
        found: list[TrainingProgress | None] = [None]
        with failing_together():
            # One rank's view of a shared file system decides.
            steps = steps_in(self.folder) if self.rank == 0 else []
            if steps:
                newest = progress_at(self.folder, steps[-1])
                found = [self._with_its_best(newest)]
        if self._group is not None:
            dist.broadcast_object_list(found, src=0, group=self._group)
        return found[0]

    def _with_its_best(self, progress: TrainingProgress) -> TrainingProgress:
        """Let a checkpoint stand for the best one, where that was damaged and removed."""
        best = self.path(progress.best_step)
        if progress.best_score is not None and not best.exists():
            logger.warning("%s, the best checkpoint, is gone: the newest takes its place", best)
            progress.best_score, progress.best_step = None, progress.step
            progress.epochs_without_improvement = 0
        return progress

    @collective
    def clear(self) -> None:
        """Remove what an earlier run left."""
        if self.rank == 0:
            remove_steps(self.folder)
        self._barrier()

    @collective
    def save(self, state: Mapping[str, Tensor], progress: TrainingProgress) -> None:
        """Copy the state and write it in the background.

        Raises:
            AgreedError: If the checkpoint before this one could not be written.
        """
        self.wait()
        snapshot = {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}
        self._pending = self._writer.submit(self._write, snapshot, copy.deepcopy(progress))

    def wait(self) -> None:
        """Wait until the last checkpoint is on disk.

        Raises:
            AgreedError: If it could not be written.
        """
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def mark_finished(self, progress: TrainingProgress) -> None:
        """Note in the newest checkpoint that training ended well; only rank 0 calls this."""
        progress.finished = True
        note_finished(self.path(progress.step))

    @collective
    def load(self, state: Mapping[str, Tensor], step: int, *, alone: bool = False) -> None:
        """Fill the tensors of ``state`` in place from the checkpoint at a step.

        Args:
            state: Tensors by the names to look up.
            step: Which checkpoint.
            alone: Whether only this rank loads; otherwise all ranks must call this together.

        Raises:
            ValueError: If the checkpoint is damaged or files of it are missing.
        """
        path, no_dist = self.path(step), alone or self._group is None
        self._check(path, alone=alone)
        try:
            with _one_process_is_meant():
                load(dict(state), checkpoint_id=path, no_dist=no_dist)
        except CheckpointException as error:
            # Torch's is no `Exception`, is raised on every rank, and names neither file nor cause.
            cause = " ".join(str(next(iter(error.failures.values()))[0]).split())
            raise ValueError(f"the checkpoint {path} cannot be read ({cause}); {ADVICE}") from error

    @collective
    def _check(self, path: Path, *, alone: bool) -> None:
        """Compare a checkpoint with its checksums and its place; one rank does so for all."""
        with nullcontext() if alone else failing_together():
            if alone or self.rank == 0:
                checked_progress(path)

    @collective
    def _write(self, state: dict[str, Tensor], progress: TrainingProgress) -> None:
        started = time.monotonic()
        final = self.path(progress.step)
        temporary = final.with_name(f".{final.name}.tmp")
        if self.rank == 0:
            remove(temporary)
            self.folder.mkdir(parents=True, exist_ok=True)
        self._barrier()
        with _one_process_is_meant(), _saying_what_cannot_be_written(final, self._group):
            save(
                state,
                checkpoint_id=temporary,
                process_group=self._group,
                no_dist=self._group is None,
            )
        if self.rank == 0:
            # Rank 0 wrote the metadata after hearing from all others: the folder is complete.
            self._write_progress(temporary, progress)
            write_checksums(temporary)
            remove(final)
            temporary.rename(final)
            self._prune({progress.best_step, *progress.before_cooldown})
            logger.debug("%s written in %.2f s", final, time.monotonic() - started)

    @collective
    def _barrier(self) -> None:
        if self._group is not None:
            dist.barrier(group=self._group)

    def _write_progress(self, folder: Path, progress: TrainingProgress) -> None:
        write_progress(folder, progress, training=self.folder.name)

    def _prune(self, needed: Collection[int]) -> None:
        for step in steps_in(self.folder)[: -self.keep]:
            if step not in needed:
                remove(self.path(step))


def model_state(model: MultiTaskModel, *, prefix: str = "model") -> dict[str, Tensor]:
    """A model's tensors under their checkpoint names."""
    return {f"{prefix}.{name}": tensor for name, tensor in model.state_dict().items()}


def optimizer_state(model: MultiTaskModel, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's moments under their checkpoint names; created where no step was taken yet."""
    state: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        moments = optimizer.state[parameter]
        if not moments:
            moments["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            moments["exp_avg"] = torch.zeros_like(parameter)
            moments["exp_avg_sq"] = torch.zeros_like(parameter)
        state |= {f"optimizer.{name}.{key}": value for key, value in moments.items()}
    return state


@contextmanager
def _saying_what_cannot_be_written(path: Path, group: dist.ProcessGroup | None) -> Iterator[None]:
    """Turn what torch raises on a full disk into one line; it names neither file nor cause.

    Raises:
        AgreedError: If the block cannot write; torch tells all ranks.
    """
    try:
        yield
    except (CheckpointException, RuntimeError, OSError) as error:
        if group is not None and not isinstance(error, CheckpointException):
            # A rank is lost: nobody tells the others, and nothing is wrong with the disk.
            raise
        failures = error.failures if isinstance(error, CheckpointException) else {}
        cause = next((one[0] for one in failures.values()), error)
        raise AgreedError(
            f"the checkpoint {path} cannot be written ({' '.join(str(cause).split())}). Free space "
            "or correct permissions there, and rerun: training continues from the one before it"
        ) from error


@contextmanager
def _one_process_is_meant() -> Iterator[None]:
    """Silence torch's guess that a single process may be a mistake."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
