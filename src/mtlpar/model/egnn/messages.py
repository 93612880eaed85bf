"""Messages of an EGNN layer, summed over receivers without keeping what edges made on the way.

For an edge from j to i with radial functions e_ij, unit vector u_ij, the vectors V_i and V_j of its
atoms, and per-atom terms a = W_i h + b and s = W_j h that are products per atom, not per edge,

    p = a_i + s_j + W_x [e_ij, V_i.u_ij, V_j.u_ij],
    z = W silu(p) + w,   m = silu(z) * (W_f e_ij),
    received_i = sum_j m / sqrt(16),   pushed_i = sum_j ((W_v m) u_ij + (W_c m) V_j) / sqrt(16).

The radial functions vanish at the cutoff, so every message does. This function is computed in four
ways: in the kernels of `triton.py` on a GPU; along the table of `tabled` on a CPU; in the blocks of
`blocked.py` elsewhere, and where a GPU's forces are gradients, whose second derivatives are in
`twice.py`; and by ordinary operations, which can be differentiated by anything in any order.
"""

from __future__ import annotations

import importlib.util
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear, silu
from torch.utils.checkpoint import checkpoint

from mtlpar.model.egnn.edges import PreparedEdges, in_blocks
from mtlpar.model.egnn.functions import BlockedMessages
from mtlpar.model.egnn.tabled.functions import TableMessages
from mtlpar.model.egnn.tabled.memory import in_table
from mtlpar.model.geometry import Edge, find_runs, sum_to_receivers
from mtlpar.model.passes import forces_come_first


class MessageWeights(NamedTuple):
    """Weights of the formula above, for K radial functions and atoms with D vectors.

    Attributes:
        feature: W_x, (F, K + 2 D).
        message: W, (F, F).
        bias: w, (F,).
        filter: W_f, (F, K).
        vector: W_v above W_c, (C + D, F). Atoms come with as many vectors as they get, D = C, or
            with none yet.
    """

    feature: Tensor
    message: Tensor
    bias: Tensor
    filter: Tensor
    vector: Tensor


def has_kernels(device: torch.device) -> bool:
    """Whether messages go through kernels of their own there.

    Their compiler, Triton, comes with PyTorch for GPUs, but not on every system.
    """
    return device.type == "cuda" and importlib.util.find_spec("triton") is not None


def prepare(edge: Edge, num_atoms: int, sizes: tuple[int, int]) -> PreparedEdges:
    """Choose the way of the messages, and find what all layers share.

    Args:
        edge: Geometry of the edges.
        num_atoms: A.
        sizes: F and C, vectors that a layer adds to each atom.
    """
    radial, forces = edge.radial, None
    if radial.requires_grad:
        forces = forces_come_first()
        # Whoever wants any other gradient by the geometry gets it from ordinary operations.
        if forces is None:
            return PreparedEdges(edge)
    # float64 is for checks.
    elif radial.dtype == torch.float32 and has_kernels(radial.device):
        return PreparedEdges(edge, runs=find_runs(edge.sender, edge.receiver, num_atoms))
    # Products along a table are not rounded, and its shape comes from numbers, which tensors of a
    # planner or a tracer do not have.
    takes_table = radial.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    if takes_table and type(radial.detach()) is Tensor and num_atoms:
        table = in_table(edge, num_atoms, sizes, forces)
        return PreparedEdges(table.edge, table=table)
    return in_blocks(edge, num_atoms, sizes[1], forces)


def exchange(
    at_receiver: Tensor,
    at_sender: Tensor,
    vectors: Tensor,
    weights: MessageWeights,
    prepared: PreparedEdges,
    *,
    recompute: bool,
) -> tuple[Tensor, Tensor]:
    """Send a message along every edge; see the module's formula.

    Args:
        at_receiver: a, (A, F).
        at_sender: s, (A, F).
        vectors: V, (A, D, 3).
        weights: The layer's weights.
        prepared: The edges, by `prepare`; atoms are in the order of its rows.
        recompute: Keep no edge features for the backward pass.

    Returns:
        Sums of messages (A, F) and of vectors (A, C, 3).
    """
    keep = torch.is_grad_enabled() and not recompute
    edge = prepared.edge
    # A compiler fuses ordinary operations better than it sees through a loop over blocks.
    if prepared.runs is None and torch.compiler.is_compiling():
        return _composed(at_receiver, at_sender, vectors, weights, edge)
    if prepared.runs is not None:
        # Not imported before it is needed: PyTorch for CPUs comes without Triton.
        from mtlpar.model.egnn.triton import KernelOperands, messages_in_kernels

        ends = (edge.radial, edge.direction, edge.receiver, edge.sender)
        operands = KernelOperands(at_receiver, at_sender, vectors, *weights, *ends)
        sums: tuple[Tensor, Tensor] = messages_in_kernels(keep, operands, prepared.runs)
        return sums
    if prepared.blocks is not None:
        return BlockedMessages.apply(  # type: ignore[no-untyped-call,no-any-return]
            keep,
            prepared.blocks,
            at_receiver,
            at_sender,
            vectors,
            *weights,
            edge.radial,
            prepared.blocks.directions,
        )
    if prepared.table is not None:
        table = prepared.table
        received, pushed, *_ = TableMessages.apply(  # type: ignore[no-untyped-call]
            keep, table, at_receiver, at_sender, vectors, *weights, table.radial, table.direction
        )
        return received, pushed
    if recompute:
        return checkpoint(  # type: ignore[no-any-return]
            _composed, at_receiver, at_sender, vectors, weights, edge, use_reentrant=False
        )
    return _composed(at_receiver, at_sender, vectors, weights, edge)


def _composed(
    at_receiver: Tensor, at_sender: Tensor, vectors: Tensor, weights: MessageWeights, edge: Edge
) -> tuple[Tensor, Tensor]:
    carried = vectors[edge.sender]
    along = [
        (ends * edge.direction[:, None, :]).sum(dim=2).to(edge.radial.dtype)
        for ends in (vectors[edge.receiver], carried)
    ]
    features = torch.cat([edge.radial, *along], dim=1)
    hidden = at_receiver[edge.receiver] + at_sender[edge.sender] + linear(features, weights.feature)
    message = silu(linear(silu(hidden), weights.message, weights.bias))
    message = message * linear(edge.radial, weights.filter)
    lengths = linear(message, weights.vector)[:, :, None]
    channels = len(weights.vector) - vectors.shape[1]
    pushes = lengths[:, :channels] * edge.direction[:, None, :]
    if vectors.shape[1]:
        pushes = pushes + lengths[:, channels:] * carried
    atoms = at_receiver.shape[0]
    return (
        sum_to_receivers(message, edge.receiver, atoms),
        sum_to_receivers(pushes, edge.receiver, atoms),
    )
