"""One step of the optimizer, the same on every layout."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mtlpar.core.collective import collective
from mtlpar.core.structures import StructureBatch
from mtlpar.graph.collate import collate
from mtlpar.model.cuda_graphs import replay_passes
from mtlpar.model.multitask import MultiTaskModel, Prediction
from mtlpar.parallel.agree import AgreedError, raise_together
from mtlpar.parallel.groups import encoder_mesh
from mtlpar.parallel.layout import ParallelLayout
from mtlpar.parallel.ranks import RankContext
from mtlpar.parallel.reduce import GradientReducer
from mtlpar.parallel.shard import end_passes, held_here, most_passes, shard_encoder
from mtlpar.parallel.trace import span
from mtlpar.train.cosines import EncoderGradients
from mtlpar.train.loader import LocalBatch
from mtlpar.train.objective import Objective, Targets
from mtlpar.train.optim import WeightAverage, clip_gradients, make_optimizer
from mtlpar.train.precision import arithmetic, matrix_products, weight_dtype
from mtlpar.train.settings import TrainSettings

# Ranks compare their steps modulo this: float32 adds such numbers exactly for any number of ranks.
_STEP_CYCLE = 64
_NOTHING = LocalBatch(
    None,
    Targets.of(StructureBatch.concatenate([]), np.zeros(0), dtype=torch.float32),
    (),
    (),
    np.zeros(0, dtype=np.uint64),
)


class Requests(NamedTuple):
    """What one rank would like all ranks to do after a step.

    Attributes:
        stop: Save a checkpoint and end.
        checkpoint: Save a checkpoint.
    """

    stop: bool = False
    checkpoint: bool = False


class StepResult(NamedTuple):
    """What a step did; the same on all ranks but for the seconds.

    Attributes:
        terms: Mean losses of the global batch by source and label, (T, 3) float64.
        counts: Labels of the global batch, (T, 3) float64.
        gradient_norm: Norm of the encoder's gradient before clipping.
        skipped: Whether the step was left out because something was not finite.
        requests: What any rank asked for.
        compute_seconds: Forward and backward passes, on this rank.
        reduce_seconds: Waiting for the sums of gradients after them, on this rank.
        gradient_products: Products of the encoder's gradients by source, (T, T), see
            `mtlpar.train.cosines`; None in steps in which they are not measured.
    """

    terms: Tensor
    counts: Tensor
    gradient_norm: float
    skipped: bool
    requests: Requests
    compute_seconds: float
    reduce_seconds: float
    gradient_products: Tensor | None = None


class TrainStep:
    """Holds what a step needs: model, objective, optimizer and gradient reduction."""

    @collective
    def __init__(
        self,
        model: MultiTaskModel,
        objective: Objective,
        *,
        layout: ParallelLayout,
        context: RankContext,
        settings: TrainSettings,
    ) -> None:
        """Attach to a finished model that holds only this rank's branches.

        Args:
            model: The model, on its device.
            objective: What is minimised.
            layout: Who owns which branch.
            context: Who this process is.
            settings: How to train.
        """
        self.model = model
        self.objective = objective
        self.context = context
        self.settings = settings
        self.average = WeightAverage(model, settings.ema_decay) if settings.ema_decay else None
        self._is_sharded = layout.encoder_shards > 1
        if self._is_sharded:
            mesh = encoder_mesh(
                layout,
                device_type=context.device.type,
                timeout_s=settings.collective_timeout_s,
            )
            for held in (model, self.average.model) if self.average else (model,):
                shard_encoder(held, mesh)
        self.optimizer = make_optimizer(model, settings)
        self.reducer = GradientReducer(
            model, layout, rank=context.rank, timeout_s=settings.collective_timeout_s
        )
        on_gpu = context.device.type == "cuda"
        moves = [parameter.requires_grad for parameter in model.encoder.parameters()]
        self._measures = settings.cosine_steps is not None and any(moves)
        can_replay = not (self._is_sharded or model.is_conservative or self._measures) and all(
            moves
        )
        if settings.cuda_graphs and on_gpu and can_replay:
            replay_passes(model)
        self._last: list[tuple[LocalBatch, Prediction]] = []

    @collective
    def run(
        self,
        passes: Sequence[LocalBatch],
        *,
        step: int,
        learning_rate: float,
        requests: Requests,
    ) -> StepResult:
        """Compute the gradient of the global batch and take a step.

        Args:
            passes: This rank's share of the batch, in pieces that are computed one by one.
            step: Steps taken before.
            learning_rate: Rate of this step.
            requests: What this rank asks for after the step.

        Raises:
            AgreedError: If something is not finite and the settings say to stop; on all ranks, and
                before the optimizer's step.
        """
        started = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["rate"]
        self.optimizer.zero_grad(set_to_none=True)
        by_source = self._gradients_to_measure(step)
        with span("compute"), matrix_products(self.settings):
            terms = self._backward(passes, step, requests, by_source)
        computed = time.perf_counter()
        with span("reduce"):
            sums = self._finish(step)
            products = None if by_source is None else by_source.products()
        reduced = time.perf_counter()
        counts = sums[terms.numel() : 2 * terms.numel()].view_as(terms)
        ranks, bad_branches, steps, stops, checkpoints = sums[2 * terms.numel() :].tolist()
        if steps != ranks * (step % _STEP_CYCLE):
            raise RuntimeError(
                f"rank {self.context.rank} is at step {step}, others are not: ranks have lost each "
                "other; start again from the last checkpoint"
            )
        terms = sums[: terms.numel()].view_as(terms)
        fit = bool(torch.isfinite(terms).all()) and not bad_branches
        with span("update"):
            norm, taken = self._update(step, fit=fit)
        if not taken and self.settings.on_nonfinite == "stop":
            self._stop(terms, step)
        return StepResult(
            terms=terms,
            counts=counts,
            gradient_norm=norm,
            skipped=not taken,
            requests=Requests(stop=stops > 0, checkpoint=checkpoints > 0),
            compute_seconds=computed - started,
            reduce_seconds=reduced - computed,
            gradient_products=products,
        )

    def held_bytes(self) -> dict[str, int]:
        """Exact bytes of parameters, gradients and the optimizer's moments on this rank."""
        parameters = list(self.model.parameters())
        moments = [
            value
            for state in self.optimizer.state.values()
            for value in state.values()
            if isinstance(value, Tensor) and value.dim() > 0
        ]
        return {
            "parameters": _local_bytes(parameters),
            "gradients": _local_bytes([p.grad for p in parameters if p.grad is not None]),
            "moments": _local_bytes(moments),
        }

    def _gradients_to_measure(self, step: int) -> EncoderGradients | None:
        """Room for the encoder's gradients by source, in steps in which they are measured."""
        every = self.settings.cosine_steps
        if not self._measures or every is None or step % every:
            return None
        return EncoderGradients(self.model.encoder, self.objective)

    @collective
    def _backward(
        self,
        passes: Sequence[LocalBatch],
        step: int,
        requests: Requests,
        by_source: EncoderGradients | None,
    ) -> Tensor:
        """Add up gradients of all passes; returns the sum of their terms, (T, 3)."""
        dtype = weight_dtype(self.settings)
        total = torch.zeros(self.objective.shape, dtype=dtype, device=self.context.device)
        counts = self.objective.count_labels(share for batch in passes for share in batch.pieces)
        self._last = []

        def extra() -> Tensor:
            unfit = not self._branches_are_finite()
            flags = (1, unfit, step % _STEP_CYCLE, requests.stop, requests.checkpoint)
            numbers = [*counts, *(float(flag) for flag in flags)]
            return torch.cat([total.flatten(), total.new_tensor(numbers)])

        passes = self._as_many_as_others(passes)
        for index, batch in enumerate(passes):
            terms = self._terms(batch)
            total += terms.detach()
            if by_source is not None and terms.requires_grad:
                by_source.add(terms, {piece.source for piece in batch.pieces})
            if index == len(passes) - 1:
                self.reducer.start(extra)
            if terms.requires_grad:
                self.objective.total(terms).backward()  # type: ignore[no-untyped-call]
        if self._is_sharded:
            end_passes(self.model)
        return total

    @collective
    def _as_many_as_others(self, passes: Sequence[LocalBatch]) -> Sequence[LocalBatch]:
        """Passes without structures in front where others have more: each gathers the shards."""
        if not self._is_sharded or self.settings.max_atoms_per_pass is None:
            return passes
        missing = most_passes(len(passes), self.context.device) - len(passes)
        return [*[_NOTHING] * missing, *passes]

    @collective
    def _finish(self, step: int) -> Tensor:
        try:
            return self.reducer.finish().double().cpu()
        except RuntimeError as error:
            raise RuntimeError(f"step {step + 1}: {error}") from error

    def _update(self, step: int, *, fit: bool) -> tuple[float, bool]:
        """Norm of the encoder's gradient, and whether everything is finite and the step taken."""
        norm = float(clip_gradients(self.model, self.settings.max_gradient_norm))
        finite = fit and math.isfinite(norm)
        if finite:
            self.optimizer.step()
            if self.average is not None:
                self.average.update(self.model, updates=step)
        return norm, finite

    def _terms(self, batch: LocalBatch) -> Tensor:
        device = self.context.device
        if batch.graph is None:
            return self._terms_of_nothing()
        with arithmetic(self.settings, device):
            prediction = self.model(batch.graph.to(device, non_blocking=True), batch.segments)
        targets = Targets(*(tensor.to(device, non_blocking=True) for tensor in batch.targets))
        seen = prediction.detach()
        self._last.append((batch, seen))
        return self.objective.terms(prediction, targets, batch.pieces)

    def _terms_of_nothing(self) -> Tensor:
        """Zeros; they depend on an encoder in shards, in whose passes every rank takes part."""
        device, dtype = self.context.device, weight_dtype(self.settings)
        zeros = torch.zeros(self.objective.shape, dtype=dtype, device=device)
        if not self._is_sharded:
            return zeros
        graph = collate(StructureBatch.concatenate([]), self.model.settings.graph, dtype=dtype)
        with arithmetic(self.settings, device):
            nothing = self.model(graph.to(device), ())
        nought: Tensor = nothing.energy_per_atom.sum() + nothing.forces.sum()
        return zeros + nought

    def _branches_are_finite(self) -> bool:
        gradients = [p.grad for p in self.model.heads.parameters() if p.grad is not None]
        return not gradients or bool(torch.isfinite(nn.utils.get_total_norm(gradients)))

    @collective
    def _stop(self, terms: Tensor, step: int) -> None:
        rows = (~torch.isfinite(terms).all(dim=1)).nonzero().flatten().tolist()
        names = ", ".join(self.objective.sources[row] for row in rows)
        what = f"the loss of {names}" if names else "the gradient, although the loss is,"
        message = f"{what} is not finite in step {step + 1}; no rank took the step"
        try:
            raise_together(self._culprits())
        except AgreedError as error:
            raise AgreedError(f"{message}. Structures: {error}") from None
        raise AgreedError(f"{message}. Lower train.learning_rate, or set train.max_gradient_norm")

    def _culprits(self) -> str | None:
        """Structures of this rank whose prediction or label is not finite."""
        found = []
        for batch, prediction in self._last:
            bad = _nonfinite_structures(batch, prediction)
            found += [
                f"{piece.source} {batch.structure_id[index]:016x}"
                for piece in batch.pieces
                for index in range(*piece.structures)
                if bad[index]
            ]
        more = f" and {len(found) - 8} more" if len(found) > 8 else ""
        return ", ".join(found[:8]) + more if found else None


def _local_bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in held_here(tensors))


def _nonfinite_structures(batch: LocalBatch, prediction: Prediction) -> list[bool]:
    assert batch.graph is not None
    structure_of_atom = batch.graph.batch.cpu()
    bad = ~torch.isfinite(prediction.energy_per_atom.cpu())
    bad |= ~torch.isfinite(batch.targets.energy_per_atom.cpu())
    for forces in (prediction.forces.cpu(), batch.targets.forces.cpu()):
        bad[structure_of_atom[~torch.isfinite(forces).all(dim=1)]] = True
    if prediction.stress is not None:
        finite = torch.isfinite(prediction.stress.cpu()).all(dim=(1, 2))
        bad |= (batch.targets.stress_weight.cpu() > 0) & ~finite
    flags: list[bool] = bad.tolist()
    return flags
