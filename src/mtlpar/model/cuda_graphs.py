"""Training passes as CUDA graphs: hundreds of kernels, started at once.

Most kernels of a step take a GPU less time than Python takes to start them. A CUDA graph starts all
of them together, but works on fixed sizes at fixed addresses. So batches are padded to one of few
sizes: with atoms that have edges to themselves alone, longer than the cutoff. These carry nothing,
receive no gradient, and add exact zeros to the gradients of the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.nn.functional import pad

from mtlpar.core.wording import counted
from mtlpar.model.encoder import AtomFeatures, Encoder
from mtlpar.model.heads import Branch
from mtlpar.model.multitask import MultiTaskModel

# Sizes between one power of two and the next; a batch is padded by 3 % in the mean.
_SIZES_PER_OCTAVE: Final = 16
_SMALLEST_STEP: Final = 64
# No atom should have many more edges than others: its sums are made by one program.
_EDGES_PER_PADDING_ATOM: Final = 32
# Of each part: recording one takes several passes, and its inputs and outputs stay.
_MOST_GRAPHS: Final = 64
_WARM_UPS: Final = 3


def replay_passes(model: MultiTaskModel) -> None:
    """Let encoder and branches train by CUDA graphs, which are recorded as sizes come up.

    Weights must stay where they are. Each forward pass that keeps gradients must be followed by its
    backward pass before the next one; passes without gradients are not concerned.

    Args:
        model: A model on a GPU, with forces from a head.

    Raises:
        ValueError: If its forces are gradients, which training differentiates once more.
    """
    if model.is_conservative:
        raise ValueError("a CUDA graph has no second derivatives; conservative forces need them")
    model.encoder.replay = EncoderGraphs(model.encoder)
    for branch in model.heads.values():
        assert isinstance(branch, Branch)
        branch.replay = BranchGraphs(branch)


class EncoderGraphs:
    """Does what `Encoder.encode` does."""

    def __init__(self, encoder: Encoder) -> None:
        """Record nothing yet."""
        embeddings = ("species.", "state.")
        weights = {
            name: weight
            for name, weight in encoder.named_parameters()
            if not name.startswith(embeddings)
        }
        self.graphs = _Graphs(_Part(encoder, "encode"), weights)
        self.cutoff = encoder.basis.cutoff

    def __call__(
        self, scalars: Tensor, z: Tensor, edge_index: Tensor, vector: Tensor
    ) -> AtomFeatures:
        """See `Encoder.encode`."""
        padded = pad_edges(scalars, z, edge_index, vector, cutoff_angstrom=self.cutoff)
        outputs = self.graphs.run(padded, [scalars])
        return AtomFeatures(*outputs or self.graphs.part(scalars, z, edge_index, vector))


class BranchGraphs:
    """Does what `Branch.decode` does."""

    def __init__(self, branch: Branch) -> None:
        """Record nothing yet."""
        self.graphs = _Graphs(_Part(branch, "decode"), dict(branch.named_parameters()))

    def __call__(self, scalars: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """See `Branch.decode`."""
        spare = _round_up(len(scalars)) - len(scalars)
        padded = [pad(scalars, (0, 0, 0, spare)), pad(vectors, (0, 0, 0, 0, 0, spare))]
        outputs = self.graphs.run(padded, [scalars, vectors])
        energies, forces = outputs or self.graphs.part(scalars, vectors)
        return energies, forces


def pad_edges(
    scalars: Tensor, z: Tensor, edge_index: Tensor, vector: Tensor, *, cutoff_angstrom: float
) -> list[Tensor]:
    """Add atoms and edges that change nothing, up to one of few sizes.

    Args:
        scalars: (A, F) what the atoms are.
        z: (A,) atomic numbers.
        edge_index: (2, E) senders and receivers, sorted by receiver.
        vector: (E, 3) edge vectors in Å.
        cutoff_angstrom: Longer edges carry nothing.

    Returns:
        The same four, with more rows.
    """
    missing = _round_up(len(vector)) - len(vector)
    spare = _round_up(len(z) + -(-missing // _EDGES_PER_PADDING_ATOM)) - len(z)
    owner = len(z) + torch.arange(missing, device=z.device) * spare // max(1, missing)
    return [
        pad(scalars, (0, 0, 0, spare)),
        pad(z, (0, spare)),
        torch.cat([edge_index, owner.expand(2, -1)], dim=1),
        pad(vector, (0, 0, 0, missing), value=2 * cutoff_angstrom),
    ]


def _round_up(size: int) -> int:
    octave = 1 << max(0, size.bit_length() - 1)
    step = max(_SMALLEST_STEP, octave // _SIZES_PER_OCTAVE)
    return max(step, -(-size // step) * step)


class _Part(nn.Module):
    """A method of a module, as a module."""

    def __init__(self, part: nn.Module, method: str) -> None:
        super().__init__()
        self.part, self.method = part, method

    def forward(self, *inputs: Tensor) -> Sequence[Tensor]:
        """Call the method."""
        return getattr(self.part, self.method)(*inputs)  # type: ignore[no-any-return]


class _Graphs:
    """Recorded passes of a part of the model, by sizes and arithmetic.

    All of them work in the same memory, so only one is between its passes at a time. Parts have
    memory of their own.

    Attributes:
        part: What is recorded.
        weights: Its parameters that are differentiated.
        gradients: What every backward pass writes for them.
        uses: Passes so far.
    """

    def __init__(self, part: _Part, weights: Mapping[str, Tensor]) -> None:
        self.part, self.weights = part, list(weights.values())
        self.gradients = [torch.empty_like(weight) for weight in self.weights]
        # Tensors of their own at the same addresses. Gradients of a parameter itself arrive on the
        # stream where an earlier pass used it, if that pass still lives; one that is being recorded
        # cannot go there.
        self._aliases = {
            f"part.{name}": weight.detach().requires_grad_() for name, weight in weights.items()
        }
        self.uses = 0
        self._pool = torch.cuda.graph_pool_handle()
        self._recorded: dict[tuple[Any, ...], _Passes] = {}

    def run(
        self, padded: Sequence[Tensor], differentiated: Sequence[Tensor]
    ) -> Sequence[Tensor] | None:
        """What the part makes of padded inputs, without the padding's rows.

        Args:
            padded: All inputs.
            differentiated: Those that have gradients, which come first, before padding.

        Returns:
            The outputs, or None if there are too many sizes to record another.
        """
        key = (
            *(tensor.shape for tensor in padded),
            torch.is_autocast_enabled("cuda"),
            torch.get_autocast_dtype("cuda"),
            torch.get_float32_matmul_precision(),
        )
        if key not in self._recorded:
            if len(self._recorded) == _MOST_GRAPHS:
                return None
            self._recorded[key] = self._record(padded)
        passes = self._recorded[key]
        with torch.no_grad():
            for to, given in zip(passes.inputs, padded, strict=True):
                to.copy_(given)
        outputs: Sequence[Tensor] = _Replay.apply(  # type: ignore[no-untyped-call]
            self, passes, len(differentiated[0]), *differentiated, *self.weights
        )
        return outputs

    def _record(self, inputs: Sequence[Tensor]) -> _Passes:
        try:
            return _Passes(self.part, self._aliases, inputs, self.gradients, self._pool)
        except RuntimeError as error:
            raise RuntimeError(
                f"a pass of {counted(len(inputs[0]), 'atom')} cannot be recorded as a CUDA graph; "
                f"train.cuda_graphs=false trains without: {error}"
            ) from error


class _Passes:
    """A forward and a backward pass of a part, at fixed addresses.

    Attributes:
        inputs: What the forward pass reads.
        outputs: What it writes.
        grad_outputs: What the backward pass reads.
        grad_inputs: What it writes for inputs that have gradients.
    """

    def __init__(
        self,
        part: _Part,
        weights: Mapping[str, Tensor],
        inputs: Sequence[Tensor],
        gradients: list[Tensor],
        pool: Any,
    ) -> None:
        self._part, self._weights = part, dict(weights)
        self.inputs = [
            tensor.detach().clone().requires_grad_(tensor.requires_grad) for tensor in inputs
        ]
        self._warm_up()
        self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        # Other threads put batches into page-locked memory meanwhile, which is none of a graph's
        # business.
        with torch.cuda.graph(self.forward, pool=pool, capture_error_mode="thread_local"):
            outputs = self._compute()
        self.grad_outputs = [torch.zeros_like(output) for output in outputs]
        with torch.cuda.graph(self.backward, pool=pool, capture_error_mode="thread_local"):
            found = self._differentiate(outputs, self.grad_outputs)
            self.grad_inputs = found[: -len(gradients)]
            # To where all sizes write them: weights are many, and sizes too.
            torch._foreach_copy_(gradients, found[-len(gradients) :])
        self.outputs = [output.detach() for output in outputs]

    def _warm_up(self) -> None:
        """Compile kernels and choose algorithms, which cannot be done while recording."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                outputs = self._compute()
                self._differentiate(outputs, [torch.zeros_like(output) for output in outputs])
        torch.cuda.current_stream().wait_stream(stream)

    def _compute(self) -> Sequence[Tensor]:
        # Casts of weights must be part of what is recorded, not found in a cache.
        enabled, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
        with torch.autocast("cuda", dtype, enabled=enabled, cache_enabled=False):
            outputs: Sequence[Tensor] = functional_call(
                self._part, self._weights, tuple(self.inputs)
            )
        return outputs

    def _differentiate(
        self, outputs: Sequence[Tensor], grad_outputs: Sequence[Tensor]
    ) -> list[Tensor]:
        """Gradients of inputs that have them, then of the weights."""
        inputs = [tensor for tensor in self.inputs if tensor.requires_grad]
        sources = [*inputs, *self._weights.values()]
        return list(torch.autograd.grad(outputs, sources, grad_outputs))


class _Replay(torch.autograd.Function):
    """Arguments: graphs, passes, rows that are not padding, what has gradients, and the weights."""

    @staticmethod
    def forward(
        ctx: Any, graphs: _Graphs, passes: _Passes, rows: int, *_: Tensor
    ) -> tuple[Tensor, ...]:
        passes.forward.replay()
        graphs.uses += 1
        ctx.graphs, ctx.passes, ctx.use, ctx.rows = graphs, passes, graphs.uses, rows
        return tuple(output[:rows] for output in passes.outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        graphs, passes = ctx.graphs, ctx.passes
        if graphs.uses != ctx.use:
            raise RuntimeError(
                "CUDA graphs hold one batch at a time: take the gradient of a forward pass once, "
                "and before the next one"
            )
        graphs.uses += 1
        for to, grad in zip(passes.grad_outputs, grads, strict=True):
            to[: ctx.rows].copy_(grad)
            to[ctx.rows :].zero_()
        passes.backward.replay()
        # Copies, all in one launch: the next backward pass writes to the same addresses.
        of_weights = torch._foreach_mul(graphs.gradients, 1.0)
        return (None, None, None, *(grad[: ctx.rows] for grad in passes.grad_inputs), *of_weights)
