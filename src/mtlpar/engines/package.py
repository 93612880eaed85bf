"""A branch as a package of `torch.export`: energies, forces and virials without any Python code.

Whoever runs it finds the neighbours; the package is the function of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from mtlpar.core.files import atomic_path
from mtlpar.engines.provenance import facts
from mtlpar.engines.traced import AtomEnergies, example, trace
from mtlpar.model.saved import SavedModel

FACTS: Final = "mtlpar.json"
"""Name of the file inside a package that says what it is."""

_INPUTS: Final = {
    "numbers": torch.int64,
    "positions": torch.float64,
    "edge_index": torch.int64,
    "shift": torch.float64,
    "structure": torch.int64,
    "charge": torch.int64,
    "spin": torch.int64,
}


# Whatever mode the caller has set: what is traced differentiates.
@torch.inference_mode(False)
def export(model: SavedModel, source: str, path: Path, *, model_file: Path) -> None:
    """Write the branch of a source as a package.

    Args:
        model: The model, on the CPU.
        source: Source whose level of theory is exported.
        path: File to write, ``.pt2``.
        model_file: Where the model comes from.

    Raises:
        ValueError: If the model cannot be exported; see `mtlpar.engines.traced`.
    """
    inputs = _example()
    graph = trace(_Answer(AtomEnergies(model, source)), inputs)
    atoms, edges, structures = (torch.export.Dim(name) for name in ("atoms", "edges", "structures"))
    of_atoms, of_edges, of_structures = {0: atoms}, {0: edges}, {0: structures}
    sizes = (of_atoms, of_atoms, {1: edges}, of_edges, of_atoms, of_structures, of_structures)
    with torch.no_grad():
        program = torch.export.export(graph, inputs, dynamic_shapes=sizes)
    said = facts(model, source, model_file)
    said |= {"inputs": " ".join(_INPUTS), "outputs": "energy_ev forces_ev_per_angstrom virial_ev"}
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        torch.export.save(program, stream, extra_files={FACTS: json.dumps(said, indent=1)})


class _Answer:
    """Energies, forces and virials of structures from positions and neighbours."""

    def __init__(self, energies: AtomEnergies) -> None:
        self._energies = energies

    def __call__(
        self,
        numbers: Tensor,
        positions: Tensor,
        edge_index: Tensor,
        shift: Tensor,
        structure: Tensor,
        charge: Tensor,
        spin: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        given = (numbers, positions, edge_index, shift, structure, charge, spin)
        for tensor, dtype in zip(given, _INPUTS.values(), strict=True):
            # Part of the graph: positions in float32 would be taken, coarser than the model sees.
            torch.ops.aten._assert_tensor_metadata.default(tensor, dtype=dtype)
        sender, receiver = edge_index.unbind(0)
        vector = positions[sender] + shift - positions[receiver]
        vector = vector.detach().requires_grad_()
        of_atoms = self._energies(numbers, charge, spin, structure, edge_index, vector)
        (slope,) = torch.autograd.grad([of_atoms.sum()], [vector])
        energy = of_atoms.new_zeros(charge.shape[0]).index_add(0, structure, of_atoms)
        forces = torch.zeros_like(positions)
        forces = forces.index_add(0, receiver, slope).index_add(0, sender, -slope)
        virial = slope.new_zeros(charge.shape[0], 3, 3).index_add(
            0, structure[receiver], vector[:, :, None] * slope[:, None, :]
        )
        return energy, forces, (virial + virial.transpose(1, 2)) / 2


def _example() -> tuple[Tensor, ...]:
    numbers, charge, spin, structure, edge_index, _ = example()
    positions = torch.arange(15.0, dtype=torch.float64).reshape(5, 3)
    shift = torch.zeros(7, 3, dtype=torch.float64)
    return numbers, positions, edge_index, shift, structure, charge, spin
