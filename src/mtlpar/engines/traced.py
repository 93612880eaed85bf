"""One branch as a graph of plain tensor operations, which needs none of this library's code to run.

The graph is traced with symbolic sizes, so it takes any number of structures, atoms and edges.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from mtlpar.model.describe import CONSERVATIVE_INSTEAD, NO_GRADIENT
from mtlpar.model.encoder import MAX_CHARGE
from mtlpar.model.heads import Branch
from mtlpar.model.saved import SavedModel

INPUTS: Final = ("numbers", "charge", "spin", "structure", "edge_index", "vector")
"""What a graph is given, see `trace`."""


def require_exportable(model: SavedModel) -> None:
    """Refuse a model that another engine would use for what it is not.

    Raises:
        ValueError: If its forces are no gradient, or it truncates its neighbours.
    """
    if not model.network.is_conservative:
        raise ValueError(
            f"this model cannot be exported: an engine differentiates energies, and its "
            f"{NO_GRADIENT}; {CONSERVATIVE_INSTEAD}"
        )
    if (limit := model.settings.graph.max_neighbors) is not None:
        raise ValueError(
            f"this model cannot be exported: it sees the nearest {limit} neighbours of an atom, "
            "and an engine gives it all; train one with graph.max_neighbors empty"
        )


def trace(model: SavedModel, source: str, *, gradient: bool) -> fx.GraphModule:
    """Trace the branch of a source.

    The graph takes, for S structures with A atoms and E edges, what `INPUTS` names: atomic numbers
    (A,), total charges in e (S,), spin multiplicities (S,), the structure of each atom (A,),
    senders and receivers (2, E), all int64, and edge vectors from receiver to sender's image in Å,
    (E, 3) float64. Edges need no order.

    It gives energies of the atoms in eV, (A,) float64, references of the source included: NaN for
    an element that the source does not have.

    Args:
        model: The model.
        source: Source whose level of theory is wanted.
        gradient: Give the gradient of the summed energies by the edge vectors too, (E, 3) in eV/Å.

    Raises:
        ValueError: See `require_exportable`.
    """
    require_exportable(model)
    energies = _Energies(model, source)

    def with_gradient(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        found = energies(*inputs)
        (slope,) = torch.autograd.grad([found.sum()], [inputs[-1]])
        return found, slope

    # Weights are constants of the graph, which symbolic tracing has to be told to accept.
    tracer = make_fx(
        with_gradient if gradient else energies,
        tracing_mode="symbolic",
        _allow_non_fake_inputs=True,
    )
    with torch.enable_grad():
        graph = tracer(*_example(next(model.network.parameters()).device))
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


class _Energies:
    """Energies of atoms as ordinary operations, so that they can be differentiated."""

    def __init__(self, model: SavedModel, source: str) -> None:
        branch = model.network.heads[model.branch_of(source)]
        assert isinstance(branch, Branch)
        self._encoder, self._branch = model.network.encoder, branch
        self._is_mean = model.settings.head.energy == "mean"
        weight = self._encoder.species.weight
        table = model.references[source].table()
        self._references, self._dtype = torch.from_numpy(table).to(weight.device), weight.dtype

    def __call__(
        self,
        numbers: Tensor,
        charge: Tensor,
        spin: Tensor,
        structure: Tensor,
        edge_index: Tensor,
        vector: Tensor,
    ) -> Tensor:
        scalars = self._encoder.species(numbers)
        if (state := self._encoder.state) is not None:
            # Not its forward pass, whose check of the range looks at numbers. Beyond the table the
            # look-up itself fails.
            embedded = state.charge(charge + MAX_CHARGE) + state.spin(spin)
            scalars = scalars + embedded[structure]
        atoms = self._encoder.encode(scalars, numbers, edge_index, vector.to(self._dtype))
        energies = self._branch.atom_energies(atoms).double()
        if self._is_mean:
            ones = torch.ones_like(energies)
            counts = energies.new_zeros(charge.shape[0]).index_add(0, structure, ones)
            energies = energies / counts[structure]
        return energies + self._references[numbers]


def _example(device: torch.device) -> tuple[Tensor, ...]:
    """Inputs to trace with.

    All sizes differ, from the two rows of edges too, and no tensor comes twice: equal sizes and
    equal tensors are taken for the same.
    """
    numbers = torch.tensor([1, 6, 8, 8, 1], device=device)
    charge, spin = (torch.zeros(4, dtype=torch.int64, device=device) for _ in range(2))
    structure = torch.tensor([0, 1, 1, 2, 3], device=device)
    edges = [[0, 1, 2, 0, 2, 3, 4], [1, 0, 0, 2, 1, 4, 3]]
    vector = torch.ones(7, 3, dtype=torch.float64, device=device).requires_grad_()
    return (numbers, charge, spin, structure, torch.tensor(edges, device=device), vector)


def as_torchscript(graph: fx.GraphModule) -> torch.jit.ScriptModule:
    """The same graph in TorchScript, which other engines read."""
    graph = fx.GraphModule(graph, _plain(graph))
    return torch.jit.script(graph)


def _plain(graph: fx.GraphModule) -> fx.Graph:
    """Operations by names that TorchScript knows: without overloads, and sizes by a method."""
    plain = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for node in graph.graph.nodes:
        copied[node] = copy = plain.node_copy(node, copied.__getitem__)
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            if node.target == torch.ops.aten.sym_size.int:
                copy.op, copy.target = "call_method", "size"
            else:
                copy.target = node.target.overloadpacket
            # It would be the device of the tracing.
            copy.kwargs = {k: v for k, v in copy.kwargs.items() if k not in _OF_THE_TRACING}
    return plain


_OF_THE_TRACING: Final = ("pin_memory", "device", "layout")
