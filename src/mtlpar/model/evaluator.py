"""One structure after another, as simulations ask for them: what holds for the next one is kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from ase import Atoms
from torch import Tensor

from mtlpar.core.electronic_state import CHARGE_KEYS, SPIN_KEYS
from mtlpar.graph.skin import SkinList
from mtlpar.model.geometry import forces_of
from mtlpar.model.predict import BranchAnswers, plain_mode
from mtlpar.model.saved import SavedModel, StructurePrediction, check_finite, six_numbers

FloatArray = npt.NDArray[np.float64]
IntegerArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


class Evaluator:
    """Predicts what `SavedModel.predict` predicts, for one structure at a time.

    Where the uncertainty of energies is known, it is always given.

    Of the structure before it keeps elements, charge, spin, references and the pairs of atoms that
    can become neighbours (`mtlpar.graph.skin`) as long as they hold, so that no prediction depends
    on the one before. It has the weights of the moment when it is made.

    Attributes:
        searches: How often a structure was prepared and its neighbours searched.
    """

    def __init__(self, model: SavedModel, *, source: str) -> None:
        """Prepare the branch of a source.

        Raises:
            ValueError: If the model did not learn from that source.
        """
        self._model, self._source = model, source
        self._uncertainty = model.uncertainty_of(source)
        self._answers = BranchAnswers(model.network, model.branch_of(source))
        self._prepared: _Prepared | None = None
        self.searches = 0

    def predict(self, atoms: Atoms) -> StructurePrediction:
        """Total energy, forces and, from conservative models, stress; see `SavedModel.predict`.

        Raises:
            ValueError: As there.
        """
        with plain_mode(self._model.network.encoder.species.weight.device):
            if self._prepared is None or not self._prepared.still_holds(atoms):
                self._prepared = None
                self._prepared = self._prepare(atoms)
            return self._predict(atoms, self._prepared)

    def _prepare(self, atoms: Atoms) -> _Prepared:
        self.searches += 1
        batch, _ = self._model.columns_of([atoms], self._source)
        encoder = self._model.network.encoder
        device = encoder.species.weight.device
        z, charge, spin, structure = (
            torch.from_numpy(values.astype(np.int64)).to(device)
            for values in (batch.atomic_numbers, batch.charge, batch.spin, 0 * batch.atomic_numbers)
        )
        return _Prepared(
            numbers=atoms.numbers.copy(),
            cell=atoms.cell.array.copy(),
            pbc=atoms.pbc.copy(),
            state=electronic_state(atoms),
            skin=SkinList(batch, self._model.settings.graph, device),
            z=z,
            batch=structure,
            num_atoms=torch.tensor([len(z)], device=device),
            count=torch.full_like(z, len(z)),
            scalars=encoder.embed(z, charge, spin, structure),
            references=self._model.references[self._source].table()[batch.atomic_numbers],
        )

    def _predict(self, atoms: Atoms, prepared: _Prepared) -> StructurePrediction:
        z, scalars = prepared.z, prepared.scalars
        edge_index, vector = prepared.skin.edges(atoms.positions)
        vector = vector.to(scalars.dtype)
        found = self._answers.of(scalars, z, edge_index, vector, prepared.count)
        forces, stress = found.forces, None
        if found.gradient is not None:
            gradient = found.gradient.T
            forces = forces_of(gradient, edge_index, len(z))
            stress = _stress(vector @ gradient, atoms)
        assert forces is not None
        of_atoms = found.energies.double().cpu().numpy()
        # Not the sum of both together, which would round to the digits of the references.
        energy = float(of_atoms.sum() + prepared.references.sum())
        check_finite(np.array([energy]), first=None)
        return StructurePrediction(
            energy,
            forces.double().cpu().numpy(),
            stress,
            of_atoms + prepared.references,
            self._deviation(prepared, found.last),
        )

    def _deviation(self, prepared: _Prepared, last: Tensor) -> float | None:
        """Standard deviation of the energy in eV from what that of the atoms is linear in."""
        if self._uncertainty is None:
            return None
        pooled = self._model.network.pool_last(prepared, last).cpu().numpy()
        return len(last) * float(self._uncertainty.energy_ev_per_atom(pooled)[0])


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """What holds for a structure until more changes than its atoms' places, and those not far."""

    numbers: IntegerArray
    cell: FloatArray
    pbc: BoolArray
    state: tuple[str, ...]
    skin: SkinList
    z: Tensor
    batch: Tensor
    num_atoms: Tensor
    count: Tensor
    scalars: Tensor
    references: FloatArray

    def still_holds(self, atoms: Atoms) -> bool:
        return (
            np.array_equal(self.numbers, atoms.numbers)
            and np.array_equal(self.cell, atoms.cell.array)
            and np.array_equal(self.pbc, atoms.pbc)
            and self.state == electronic_state(atoms)
            and self.skin.still_holds(atoms.positions)
        )


def electronic_state(atoms: Atoms) -> tuple[str, ...]:
    """What a structure says of its charge and spin, to be compared.

    As text: values may be arrays, of which no comparison is true or false.
    """
    return tuple(repr(atoms.info.get(key)) for key in (*CHARGE_KEYS, *SPIN_KEYS))


def has_stress(atoms: Atoms) -> bool:
    """Whether a stress is defined: the structure repeats, and its cell has a volume."""
    return bool(atoms.pbc.any() and abs(np.linalg.det(atoms.cell.array)) > 0)


def _stress(virial: Tensor, atoms: Atoms) -> FloatArray | None:
    """Stress in ASE's order from r dE/dr (3, 3) in eV, as `geometry.forces_and_stress` does."""
    if not has_stress(atoms):
        return None
    matrix = virial.double().cpu().numpy()
    return six_numbers((matrix + matrix.T) / (2 * abs(np.linalg.det(atoms.cell.array))))
