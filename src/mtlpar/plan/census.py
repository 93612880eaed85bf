"""Counts what a training step does, by running the model on tensors without data.

The model runs once forward and backward on PyTorch's ``meta`` device for a few made-up batches.
Every operation is seen on its way: its floating-point operations, the bytes it reads and writes,
and the storage that is alive. Nothing is computed, so a count takes a fraction of a second whatever
the size of the model, and it follows the model: no formula has to be kept in step with the code.

All counts follow the batch as

    count = c_0 + c_1 * branches + c_2 * S + c_3 * A + c_4 * E + c_5 * branches * A,

the last because each branch gives back a gradient for all atoms. Six batches determine the six
coefficients.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from mtlpar.graph.collate import collate
from mtlpar.model.multitask import MultiTaskModel, Segment, parameter_counts
from mtlpar.model.settings import ModelSettings
from mtlpar.plan.synthetic import make_structures

# Products of matrices below this many operations per byte are bound by memory on every machine
# that we know: about 15 on a GPU in float32, 5 to 10 on a core of a CPU.
_COMPUTE_BOUND_FLOP_PER_BYTE: Final = 20.0


@dataclass(frozen=True, slots=True)
class BatchShape:
    """Size of one rank's batch.

    Attributes:
        branches: Branches that have structures in it.
        structures: S.
        atoms: A.
        edges: E, directed.
    """

    branches: float
    structures: float
    atoms: float
    edges: float

    def row(self) -> tuple[float, ...]:
        """What the coefficients of a count are multiplied with."""
        return (
            1.0, self.branches, self.structures, self.atoms, self.edges, self.branches * self.atoms,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Count:
    """One quantity as a function of the batch; see the module's formula."""

    coefficients: tuple[float, ...]

    def of(self, shape: BatchShape) -> float:
        """The quantity for a batch."""
        return sum(c * x for c, x in zip(self.coefficients, shape.row(), strict=True))


@dataclass(frozen=True, slots=True)
class ModelCensus:
    """What one forward and backward pass of a model takes.

    Attributes:
        flops: Floating-point operations of products that are bound by arithmetic.
        memory_bytes: Bytes read and written by everything else.
        kernels: Operations started.
        activation_bytes: Largest sum of what is alive at once, without parameters.
        encoder_parameters: Ps, parameters of the encoder.
        branch_parameters: Ph, parameters of a branch.
        layers: Layers of the encoder.
    """

    flops: Count
    memory_bytes: Count
    kernels: Count
    activation_bytes: Count
    encoder_parameters: int
    branch_parameters: int
    layers: int


@dataclass(slots=True)
class StepCounts:
    """The same quantities for one batch."""

    flops: float = 0.0
    memory_bytes: float = 0.0
    kernels: float = 0.0
    activation_bytes: float = 0.0


@cache
def take_census(settings: ModelSettings, *, itemsize: int = 4) -> ModelCensus:
    """Count the work of a training step.

    Args:
        settings: Architecture.
        itemsize: Bytes of a number: 4 for float32, 8 for float64.
    """
    model = MultiTaskModel(settings, ("first", "second"), seed=0)
    sizes = parameter_counts(model)
    model.to("meta", {4: torch.float32, 8: torch.float64}[itemsize])
    probes: list[tuple[int, int, int, float]] = [
        # branches, structures, atoms of each, grid spacing: enough to tell all six apart
        (1, 60, 15, 2.0), (2, 60, 15, 2.0), (1, 120, 15, 2.0), (1, 60, 25, 2.0), (1, 60, 15, 2.6),
        (2, 60, 25, 2.0),
    ]  # fmt: skip
    shapes, counted = zip(*(_probe(model, settings, *probe) for probe in probes), strict=True)
    rows = np.array([shape.row() for shape in shapes])

    def solve(quantity: str) -> Count:
        values = [getattr(counts, quantity) for counts in counted]
        return Count(tuple(np.linalg.solve(rows, np.array(values)).tolist()))

    return ModelCensus(
        **{field.name: solve(field.name) for field in fields(StepCounts)},
        encoder_parameters=sizes["encoder"],
        branch_parameters=sizes["first"],
        layers=settings.encoder.layers,
    )


def count_step(
    model: MultiTaskModel, settings: ModelSettings, *, branches: int, structures: int, atoms: int
) -> tuple[BatchShape, StepCounts]:
    """Count one step of a model on the ``meta`` device for a made-up batch."""
    return _probe(model, settings, branches, structures, atoms, 2.0)


def _probe(
    model: MultiTaskModel,
    settings: ModelSettings,
    branches: int,
    structures: int,
    atoms: int,
    spacing: float,
) -> tuple[BatchShape, StepCounts]:
    batch = collate(
        make_structures(structures, atoms=atoms, seed=0, spacing_angstrom=spacing),
        settings.graph,
        dtype=next(model.parameters()).dtype,
    )
    bounds = [index * structures // branches for index in range(branches + 1)]
    segments = [
        Segment(name, first, last)
        for name, first, last in zip(model.heads, bounds[:-1], bounds[1:], strict=False)
    ]
    shape = BatchShape(branches, structures, structures * atoms, batch.edge_index.shape[1])
    ptr = batch.ptr
    batch = batch.to("meta")
    # Where branches begin and end is asked for by value.
    batch.ptr = ptr
    model.zero_grad(set_to_none=True)
    with _Counter(known=model.parameters()) as counter:
        prediction = model(batch, segments)
        loss = prediction.energy_per_atom.abs().sum() + prediction.forces.abs().sum()
        del prediction
        loss.backward()
    return shape, counter.counts


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation: its arithmetic, its traffic, and the storage that is alive."""

    def __init__(self, known: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts = StepCounts()
        self._alive_bytes = 0
        self._seen = weakref.WeakSet(tensor.untyped_storage() for tensor in known)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        outputs = _tensors(result)
        if func.is_view:
            return result
        traffic = sum(t.numel() * t.element_size() for t in [*_tensors(args), *outputs])
        formula = flop_registry.get(func.overloadpacket)
        flops = formula(*args, **(kwargs or {}), out_val=result) if formula else 0
        self.counts.kernels += 1
        if flops > _COMPUTE_BOUND_FLOP_PER_BYTE * traffic:
            self.counts.flops += flops
        else:
            self.counts.memory_bytes += traffic
        for tensor in outputs:
            self._watch(tensor.untyped_storage())
        return result

    def _watch(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self._alive_bytes += size
        self.counts.activation_bytes = max(self.counts.activation_bytes, self._alive_bytes)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self._alive_bytes -= size


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, list | tuple):
        return [tensor for value in values for tensor in _tensors(value)]
    return []
