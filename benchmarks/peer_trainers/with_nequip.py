"""NequIP, at the size that its documentation calls a good default, without odd parities.

Cutoff 5 Å, three layers of 32 features up to l = 1, float32. Nothing is compiled, which would take
longer than a short training; its calculator then runs what was trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import loop
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.data import chemical_symbols
from nequip.data import AtomicDataDict
from nequip.data.ase import from_ase
from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
from nequip.integrations.ase import NequIPCalculator
from nequip.model import NequIPGNNModel
from nequip.utils.global_state import set_global_state


class Nequip(loop.Peer):
    """NequIP on its own graphs."""

    rate = 0.01

    def __init__(self, statistics: loop.Statistics) -> None:
        set_global_state()
        names = [chemical_symbols[number] for number in statistics.elements]
        self.transforms = [
            ChemicalSpeciesToAtomTypeMapper(names),
            NeighborListTransform(loop.CUTOFF_ANGSTROM),
        ]
        self.network = NequIPGNNModel(
            seed=torch.initial_seed(),
            model_dtype="float32",
            type_names=names,
            r_max=loop.CUTOFF_ANGSTROM,
            num_layers=3,
            l_max=1,
            parity=False,
            num_features=32,
            avg_num_neighbors=statistics.neighbors,
            per_type_energy_scales=statistics.force_rms,
            per_type_energy_shifts=0.0,
        )

    def graph(self, atoms: Atoms) -> Any:
        """Its dictionary with a list of neighbours."""
        data = from_ase(Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc))
        for transform in self.transforms:
            data = transform(data)
        return data

    def collate(self, graphs: Sequence[Any]) -> Any:
        """Its dictionary of several structures, which copies."""
        return AtomicDataDict.batched_from_list(list(graphs))

    def predict(
        self, network: torch.nn.Module, batch: Any, *, training: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Energies and forces; graphs of second derivatives are made in training alone."""
        network.train(training)
        found = network(batch)
        return found["total_energy"].squeeze(-1), found["forces"]

    def calculator(self) -> Calculator:
        """Its own, on the network in memory."""
        return NequIPCalculator(self.network, device="cpu", transforms=self.transforms)


if __name__ == "__main__":
    loop.run(Nequip)
