"""ASE calculator on a trained model: total energies and forces at one source's level of theory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator as AseCalculator
from ase.calculators.calculator import all_changes

from mtlpar.core.structures import StructureBatch
from mtlpar.model.predict import predict
from mtlpar.model.saved import load_model


class Calculator(AseCalculator):
    """Predicts ``energy`` (eV, references included), ``free_energy`` and ``forces`` (eV/Å).

    Heads are asked for by the source whose level of theory they learned. Energies of different
    heads are not comparable, so a model with several heads never picks one by itself.

    Example:
        >>> atoms.calc = mtlpar.Calculator("results/models/mtl/model.pt", head="ani1x")
        >>> atoms.get_potential_energy()
    """

    implemented_properties = ["energy", "free_energy", "forces"]  # noqa: RUF012 - as in ASE

    def __init__(self, model_path: str | Path, *, head: str | None = None, **kwargs: Any) -> None:
        """Load a model.

        Args:
            model_path: The ``model.pt`` that training wrote.
            head: Source whose level of theory is wanted; optional if the model has only one.
            **kwargs: What every ASE calculator takes.

        Raises:
            ValueError: If the head does not exist, or several exist and none was named.
        """
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]
        self.model = load_model(model_path)
        if head is None:
            if len(self.model.sources) > 1:
                levels = ", ".join(
                    f"{source} ({self.model.level_of_theory[source]})"
                    for source in self.model.sources
                )
                raise ValueError(
                    f"{model_path} has several heads; choose one with head=...: {levels}"
                )
            head = self.model.sources[0]
        self.head = head
        self.branch = self.model.branch_of(head)
        self.references = self.model.references[head]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Predict one structure; called by ASE.

        Raises:
            ValueError: If the structure holds an element that this head never saw.
        """
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        structure = self.atoms
        if not isinstance(structure, Atoms):
            raise ValueError("the calculator has no structure; attach it as atoms.calc first")
        batch = structure_batch([structure])
        reference = self.references.sums(batch)
        ((_, energy_per_atom, forces),) = predict(
            self.model.network,
            batch,
            branch=self.branch,
            graph=self.model.settings.graph,
            batch_atoms=len(structure),
        )
        energy = float(energy_per_atom[0] * len(structure) + reference[0])
        self.results = {"energy": energy, "free_energy": energy, "forces": forces}


def structure_batch(structures: list[Atoms]) -> StructureBatch:
    """Columns of ASE structures, with zero labels."""
    num_atoms = [len(atoms) for atoms in structures]
    positions = np.concatenate([atoms.positions for atoms in structures])
    return StructureBatch.from_labels(
        num_atoms=num_atoms,
        atomic_numbers=np.concatenate([atoms.numbers for atoms in structures]),
        positions=positions,
        energy=np.zeros(len(structures)),
        forces=np.zeros_like(positions),
        group=np.zeros(len(structures)),
        cell=np.stack([atoms.cell.array for atoms in structures]),
        pbc=np.stack([atoms.pbc for atoms in structures]),
    )
