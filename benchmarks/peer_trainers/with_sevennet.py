"""SevenNet, as its `base.yaml` has it, with features up to l = 1.

Cutoff 5 Å, three layers of 32 channels, no odd parities, float32. It is NequIP's architecture.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import loop
import sevenn._keys as keys
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator
from sevenn._const import DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG
from sevenn.atom_graph_data import AtomGraphData
from sevenn.calculator import SevenNetCalculator
from sevenn.model_build import build_E3_equivariant_model
from sevenn.train.dataload import unlabeled_atoms_to_graph
from torch_geometric.data import Batch


class Sevennet(loop.Peer):
    """SevenNet on its own graphs."""

    rate = 0.005

    def __init__(self, statistics: loop.Statistics) -> None:
        self.network = build_E3_equivariant_model(
            deepcopy(DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG)
            | {
                keys.CUTOFF: loop.CUTOFF_ANGSTROM,
                keys.IS_PARITY: False,
                keys.NUM_SPECIES: len(statistics.elements),
                keys.TYPE_MAP: {number: i for i, number in enumerate(statistics.elements)},
                keys.CONV_DENOMINATOR: [statistics.neighbors] * 3,
                keys.SHIFT: 0.0,
                keys.SCALE: statistics.force_rms,
            }
        )

    def graph(self, atoms: Atoms) -> Any:
        """Its graph, less the notes that it cannot put together."""
        columns = unlabeled_atoms_to_graph(atoms, loop.CUTOFF_ANGSTROM)
        del columns[keys.INFO]
        return AtomGraphData.from_numpy_dict(columns)

    def collate(self, graphs: Sequence[Any]) -> Any:
        """A batch of PyG."""
        return Batch.from_data_list(list(graphs))

    def predict(
        self, network: torch.nn.Module, batch: Any, *, training: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Energies and forces; graphs of second derivatives are made in training alone."""
        network.train(training)
        found = network(batch)
        return found[keys.PRED_TOTAL_ENERGY], found[keys.PRED_FORCE]

    def calculator(self) -> Calculator:
        """Its own, on a copy: it turns the network into one for single structures."""
        return SevenNetCalculator(deepcopy(self.network), file_type="model_instance", device="cpu")


if __name__ == "__main__":
    loop.run(Sevennet)
