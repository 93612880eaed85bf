"""Checkpoints that any layout can load, written whole or not at all.

A checkpoint is a folder ``step-<n>`` made by `torch.distributed.checkpoint`: tensors by name, such
as ``model.heads.ani1x.energy.0.weight``, each stored once however many ranks hold it. Ranks read
the names they own, so a run may continue on another number of ranks. ``progress.json`` beside the
tensors is written last and marks the folder as complete.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from mtlpar.core.files import read_json, remove, write_json
from mtlpar.model.multitask import MultiTaskModel

logger = logging.getLogger(__name__)

_PROGRESS = "progress.json"


@dataclass(kw_only=True)
class Progress:
    """How far training has come.

    Attributes:
        epoch: Epochs completed.
        step: Steps completed.
        best_score: Smallest validation score so far.
        best_step: Step of the checkpoint that has it.
        epochs_without_improvement: Epochs since then.
        finished: Whether training ended well.
    """

    epoch: int = 0
    step: int = 0
    best_score: float | None = None
    best_step: int = 0
    epochs_without_improvement: int = 0
    finished: bool = False


class CheckpointFolder:
    """The checkpoints of one run; keeps the latest and the best."""

    def __init__(self, folder: Path, *, rank: int) -> None:
        """Look at a folder, which need not exist."""
        self.folder = folder
        self.rank = rank

    def path(self, step: int) -> Path:
        """Folder of the checkpoint at a step."""
        return self.folder / f"step-{step:08d}"

    def latest(self) -> Progress | None:
        """Progress of the newest complete checkpoint, or None."""
        complete = sorted(self.folder.glob(f"step-*/{_PROGRESS}"))
        return Progress(**read_json(complete[-1])) if complete else None

    def save(self, state: Mapping[str, Tensor], progress: Progress) -> None:
        """Write a checkpoint; all ranks must call this together."""
        final = self.path(progress.step)
        temporary = final.with_name(f".{final.name}.tmp")
        if self.rank == 0:
            remove(temporary)
            self.folder.mkdir(parents=True, exist_ok=True)
        _barrier()
        with _one_process_is_meant():
            save(dict(state), checkpoint_id=temporary, no_dist=not dist.is_initialized())
        if self.rank == 0:
            write_json(temporary / _PROGRESS, asdict(progress))
            remove(final)
            temporary.rename(final)
            self._prune(keep={progress.step, progress.best_step})
        _barrier()

    def mark_finished(self, progress: Progress) -> None:
        """Note in the newest checkpoint that training ended well."""
        latest = self.latest()
        if self.rank == 0 and latest is not None:
            latest.finished = progress.finished = True
            write_json(self.path(latest.step) / _PROGRESS, asdict(latest))

    def load(self, state: Mapping[str, Tensor], step: int, *, alone: bool = False) -> None:
        """Fill the tensors of ``state`` in place from the checkpoint at a step.

        Args:
            state: Tensors by the names to look up.
            step: Which checkpoint.
            alone: Whether only this rank loads; otherwise all ranks must call this together.
        """
        no_dist = alone or not dist.is_initialized()
        with _one_process_is_meant():
            load(dict(state), checkpoint_id=self.path(step), no_dist=no_dist)

    def _prune(self, *, keep: set[int]) -> None:
        for path in self.folder.glob("step-*"):
            if path not in {self.path(step) for step in keep}:
                remove(path)


def model_state(model: MultiTaskModel) -> dict[str, Tensor]:
    """The model's tensors under their checkpoint names."""
    return {f"model.{name}": tensor for name, tensor in model.state_dict().items()}


def optimizer_state(model: MultiTaskModel, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's moments under their checkpoint names; created where no step was taken yet."""
    state: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        moments = optimizer.state[parameter]
        if not moments:
            moments["step"] = torch.zeros((), dtype=torch.float32)
            moments["exp_avg"] = torch.zeros_like(parameter)
            moments["exp_avg_sq"] = torch.zeros_like(parameter)
        state |= {f"optimizer.{name}.{key}": value for key, value in moments.items()}
    return state


@contextmanager
def _one_process_is_meant() -> Iterator[None]:
    """Silence torch's guess that a single process may be a mistake."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()
