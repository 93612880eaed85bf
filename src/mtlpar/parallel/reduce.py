"""Sums gradients over the ranks that share a parameter, while the backward pass still runs.

The objective is a sum over samples divided by global counts, so gradients are *summed*: those of
the encoder over all ranks, unless `mtlpar.parallel.shard` does that, and those of a branch over its
owners. Parameters are packed into buckets;
a bucket is sent as soon as all its gradients exist and all buckets before it were sent. The fixed
order keeps ranks in step even where one of them has no sample for a branch, or none at all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mtlpar.core.collective import collective
from mtlpar.model.multitask import MultiTaskModel
from mtlpar.parallel.agree import check_same
from mtlpar.parallel.groups import branch_groups
from mtlpar.parallel.layout import ParallelLayout
from mtlpar.parallel.trace import span

BUCKET_BYTES: Final = 16 * 2**20
"""Gradients that travel together."""


@dataclass(eq=False)
class _Bucket:
    """Parameters whose gradients travel together; the last bucket takes extra numbers along."""

    part: str
    parameters: list[nn.Parameter]
    group: dist.ProcessGroup | None
    pending: int = 0
    buffer: Tensor | None = None
    work: dist.Work | None = None

    @collective
    def send(self, extra: Tensor | None) -> None:
        parts = [p.grad.reshape(-1) for p in self.parameters if p.grad is not None]
        if extra is not None:
            parts.append(extra.to(parts[0]) if parts else extra)
        self.buffer = torch.cat(parts)
        with self._explained(), span(f"sum {self.part}"):
            self.work = dist.all_reduce(self.buffer, group=self.group, async_op=True)

    def receive(self) -> Tensor:
        """Wait, put the sums where the gradients belong, and return what rode along."""
        assert self.work is not None
        assert self.buffer is not None
        with self._explained():
            self.work.wait()
        offset = 0
        for parameter in self.parameters:
            end = offset + parameter.numel()
            parameter.grad = self.buffer[offset:end].view_as(parameter)
            offset = end
        extra = self.buffer[offset:]
        self.work = self.buffer = None
        return extra

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise RuntimeError(
                f"the gradients of {self.part} could not be summed: another rank has "
                "stopped, hangs, or reduces something else; its own log says why. The transport "
                f"says: {error}"
            ) from error


class GradientReducer:
    """Adds up gradients over ranks according to a layout.

    Use: `start` before the backward pass whose gradients complete the step, `finish` after it.
    Gradients of earlier backward passes stay where they are and are added to.
    """

    @collective
    def __init__(
        self, model: MultiTaskModel, layout: ParallelLayout, *, rank: int, timeout_s: float
    ) -> None:
        """Attach to a finished model.

        Args:
            model: Holds the encoder and the branches that the layout gives this rank.
            layout: Which ranks own which branch.
            rank: This rank.
            timeout_s: How long this rank waits for another in a sum.

        Raises:
            AgreedError: If ranks hold something else under the same name.
        """
        self._model = model
        self._buckets: list[_Bucket] = []
        self._next = 0
        self._armed = False
        self._extra: Callable[[], Tensor] = lambda: torch.zeros(0)
        if layout.world_size == 1:
            return
        _check_parts(model)
        device_type = next(model.parameters()).device.type
        groups = branch_groups(layout, rank=rank, device_type=device_type, timeout_s=timeout_s)
        parts = [(f"branch {name}", model.heads[name], group) for name, group in groups.items()]
        for name, part, group in parts:
            self._buckets += [_Bucket(name, chunk, group) for chunk in _chunks(part)]
        # Shards are summed by FSDP, and an encoder may stay as it is.
        chunks = list(_chunks(model.encoder)) if layout.encoder_shards == 1 else []
        self._buckets += [_Bucket("the encoder", chunk, None) for chunk in chunks]
        if not chunks:
            # What goes to all ranks travels alone.
            self._buckets.append(_Bucket("the loss terms", [], None))
        for bucket in self._buckets:
            for parameter in bucket.parameters:
                self._send_after_gradient(parameter, bucket)

    def start(self, extra: Callable[[], Tensor]) -> None:
        """Prepare for the last backward pass of a step.

        Args:
            extra: Gives numbers to sum over all ranks beside the gradients, (K,), once all
                gradients of this rank exist. They ride in the last bucket and cost no collective
                of their own.
        """
        self._extra = extra
        self._next = 0
        self._armed = True
        for bucket in self._buckets:
            bucket.pending = len(bucket.parameters)

    @collective
    def finish(self) -> Tensor:
        """Wait until all gradients are summed.

        Returns:
            The sum over all ranks of the numbers given to `start`, (K,).

        Raises:
            RuntimeError: If another rank is gone or does something else.
        """
        # What has no gradient, because this rank had no sample for it, counts as zero. The same
        # on every layout: an optimizer treats a missing gradient otherwise than a zero one.
        for parameter in self._model.parameters():
            if parameter.grad is None and parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in self._buckets[self._next :]:
            bucket.pending = 0
        self._send_ready()
        self._armed = False
        received = [bucket.receive() for bucket in self._buckets]
        return received[-1] if received else self._extra()

    @collective
    def _send_after_gradient(self, parameter: nn.Parameter, bucket: _Bucket) -> None:
        def hook(_: Tensor) -> None:
            if self._armed:
                bucket.pending -= 1
                self._send_ready()

        parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]

    @collective
    def _send_ready(self) -> None:
        while self._next < len(self._buckets) and not self._buckets[self._next].pending:
            is_last = self._next == len(self._buckets) - 1
            self._buckets[self._next].send(self._extra() if is_last else None)
            self._next += 1


@collective
def _check_parts(model: MultiTaskModel) -> None:
    """Make sure that what ranks are about to add up is alike.

    Transports do not: sums of different lengths abort a process, or are waited for in vain.
    """
    parts: dict[str, nn.Module] = {"the encoder": model.encoder}
    parts |= {f"branch {name}": head for name, head in model.heads.items()}
    check_same(
        {f"tensors of {name}:": _outline(part) for name, part in parts.items()},
        advice="let all ranks run the same version of mtlpar",
    )


def _outline(part: nn.Module) -> str:
    """Names, shapes and types of the parameters of a part, in short."""
    tensors = [(name, tuple(p.shape), str(p.dtype)) for name, p in part.named_parameters()]
    numbers = sum(parameter.numel() for parameter in part.parameters())
    digest = hashlib.sha256(repr(tensors).encode()).hexdigest()
    return f"{numbers:,} numbers in {len(tensors)}, {digest[:8]}"


def _chunks(part: nn.Module) -> Iterator[list[nn.Parameter]]:
    """Pack what moves in reverse order: roughly the order in which gradients appear."""
    chunk: list[nn.Parameter] = []
    size = 0
    for parameter in reversed([p for p in part.parameters() if p.requires_grad]):
        size += parameter.numel() * parameter.element_size()
        chunk.append(parameter)
        if size >= BUCKET_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
