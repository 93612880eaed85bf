"""One branch as a graph of plain tensor operations, which needs none of this library's code to run.

The graph is traced with symbolic sizes, so it takes any number of structures, atoms and edges.
Models are traced on the CPU.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from mtlpar.core.quiet import without_jit_warnings
from mtlpar.model.describe import CONSERVATIVE_INSTEAD, NO_GRADIENT
from mtlpar.model.encoder import MAX_CHARGE
from mtlpar.model.heads import Branch
from mtlpar.model.saved import SavedModel


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


def trace(function: Callable[..., Any], inputs: Sequence[Tensor]) -> fx.GraphModule:
    """Trace a function with symbolic sizes.

    Args:
        function: What to trace.
        inputs: What to trace it with, see `example`.
    """
    # Weights are constants of the graph, which symbolic tracing has to be told to accept.
    tracer = make_fx(function, tracing_mode="symbolic", _allow_non_fake_inputs=True)
    with torch.enable_grad():
        graph: fx.GraphModule = tracer(*inputs)
    graph.graph.eliminate_dead_code()
    for node in graph.graph.nodes:
        # Places in files of whoever exports, which would go into the file.
        node.meta.pop("stack_trace", None)
    graph.recompile()
    return graph


class AtomEnergies:
    """Energies of atoms by the branch of a source, as operations that can be traced."""

    def __init__(self, model: SavedModel, source: str) -> None:
        """Take the branch.

        Raises:
            ValueError: See `require_exportable`.
        """
        require_exportable(model)
        # Weights that want gradients would have whoever runs the graph keep all of its numbers.
        network = copy.deepcopy(model.network).requires_grad_(False)
        branch = network.heads[model.branch_of(source)]
        assert isinstance(branch, Branch)
        self._encoder, self._branch = network.encoder, branch
        self._isolated = network.isolated(model.branch_of(source))
        self._is_mean = model.settings.head.energy == "mean"
        self._references = torch.from_numpy(model.references[source].table())
        self._dtype = self._encoder.species.weight.dtype

    def __call__(
        self,
        numbers: Tensor,
        charge: Tensor,
        spin: Tensor,
        structure: Tensor,
        edge_index: Tensor,
        vector: Tensor,
    ) -> Tensor:
        """Energies in eV, (A,) float64, of S structures with A atoms and E edges.

        References of the source are included: NaN for an element that it does not have.

        Args:
            numbers: (A,) atomic numbers.
            charge: (S,) total charges in e.
            spin: (S,) spin multiplicities.
            structure: (A,) the structure of each atom.
            edge_index: (2, E) senders and receivers, in any order.
            vector: (E, 3) from receiver to sender's image in Å, float64, with gradients.
        """
        scalars = self._encoder.species(numbers)
        if (state := self._encoder.state) is not None:
            # Not its forward pass, whose check of the range looks at numbers. Beyond the table the
            # look-up itself fails.
            embedded = state.charge(charge + MAX_CHARGE) + state.spin(spin)
            scalars = scalars + embedded[structure]
        atoms = self._encoder.encode(scalars, numbers, edge_index, vector.to(self._dtype))
        energies = self._branch.atom_energies(atoms).double()
        if self._isolated is not None:
            energies = energies - self._isolated.energies.double()[numbers]
        if self._is_mean:
            ones = torch.ones_like(energies)
            counts = energies.new_zeros(charge.shape[0]).index_add(0, structure, ones)
            energies = energies / counts[structure]
        return energies + self._references[numbers]


def example() -> tuple[Tensor, ...]:
    """Inputs of `AtomEnergies` to trace it with.

    All sizes differ, from the two rows of edges too, and no tensor comes twice: equal sizes and
    equal tensors are taken for the same.
    """
    charge, spin = (torch.zeros(4, dtype=torch.int64) for _ in range(2))
    edges = [[0, 1, 2, 0, 2, 3, 4], [1, 0, 0, 2, 1, 4, 3]]
    vector = torch.ones(7, 3, dtype=torch.float64).requires_grad_()
    structure = torch.tensor([0, 1, 1, 2, 3])
    return (torch.tensor([1, 6, 8, 8, 1]), charge, spin, structure, torch.tensor(edges), vector)


def as_torchscript(graph: fx.GraphModule) -> torch.jit.ScriptModule:
    """The same graph in TorchScript, which other engines read."""
    graph = fx.GraphModule(graph, _plain(graph))
    with without_jit_warnings():
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
