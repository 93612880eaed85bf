"""MACE (mace-torch), small and invariant: its quickest network, at the rate of its documentation.

Cutoff 5 Å, two layers of 64 scalar channels (``max_L=0``), correlation order 2, float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import loop
import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator
from e3nn import o3
from mace.calculators import MACECalculator
from mace.data import AtomicData, config_from_atoms
from mace.modules import ScaleShiftMACE, interaction_classes
from mace.tools import AtomicNumberTable, torch_geometric


class Mace(loop.Peer):
    """MACE on its own graphs."""

    rate = 0.01

    def __init__(self, statistics: loop.Statistics) -> None:
        self.table = AtomicNumberTable(statistics.elements)
        self.network = ScaleShiftMACE(
            atomic_inter_scale=statistics.force_rms,
            atomic_inter_shift=0.0,
            r_max=loop.CUTOFF_ANGSTROM,
            num_bessel=8,
            num_polynomial_cutoff=5,
            max_ell=2,
            interaction_cls=interaction_classes["RealAgnosticResidualInteractionBlock"],
            interaction_cls_first=interaction_classes["RealAgnosticResidualInteractionBlock"],
            num_interactions=2,
            num_elements=len(statistics.elements),
            hidden_irreps=o3.Irreps("64x0e"),
            MLP_irreps=o3.Irreps("16x0e"),
            atomic_energies=np.zeros(len(statistics.elements)),
            avg_num_neighbors=statistics.neighbors,
            atomic_numbers=statistics.elements,
            correlation=2,
            gate=torch.nn.functional.silu,
        )

    def graph(self, atoms: Atoms) -> Any:
        """Its AtomicData."""
        return AtomicData.from_config(
            config_from_atoms(atoms), z_table=self.table, cutoff=loop.CUTOFF_ANGSTROM
        )

    def collate(self, graphs: Sequence[Any]) -> Any:
        """Its batch, as the dictionary that the network takes."""
        return torch_geometric.Batch.from_data_list(list(graphs)).to_dict()

    def predict(
        self, network: torch.nn.Module, batch: Any, *, training: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Energies and forces; graphs of second derivatives are made in training alone."""
        found = network(batch, training=training)
        return found["energy"], found["forces"]

    def calculator(self) -> Calculator:
        """Its own, on the network in memory."""
        return MACECalculator(models=[self.network], default_dtype="float32")


if __name__ == "__main__":
    loop.run(Mace)
