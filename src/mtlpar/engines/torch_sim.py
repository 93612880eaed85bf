"""A trained model in torch-sim, which simulates many structures at a time.

torch-sim's own conventions: cells hold lattice vectors as columns, one periodicity counts for all
structures of a state, and what else a structure has is in the state's ``system_extras``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from ase import Atoms
from torch import Tensor

from mtlpar.core.fields import MATRIX_OF_SIX
from mtlpar.engines.optional import need
from mtlpar.model.evaluator import Evaluator
from mtlpar.model.file import load_model
from mtlpar.model.saved import StructurePrediction

if TYPE_CHECKING:
    from torch_sim.state import SimState

interface = need("torch_sim.models.interface", install="torch-sim-atomistic")

_STATE = ("charge", "spin")
_HOW_TO_STATE = (
    'pass system_extras_map={"charge": "charge", "spin": "spin"} to atoms_to_state and have both '
    "in the info of every structure (spin is the multiplicity 2S+1; 0 if unknown), "
    "or _system_extras={...} to SimState"
)


class TorchSimModel(interface.ModelInterface):  # type: ignore[misc, name-defined]
    """Total energies (eV, references included), forces and stresses of torch-sim states.

    Numbers are those of `mtlpar.Calculator`. States are float64, as in the calculator, whatever the
    precision of the weights. Models that predict forces directly have no stress, and where a
    structure has none, because it does not repeat, the stress is NaN.

    Examples:
        >>> model = TorchSimModel("model.pt", source="mptrj")
        >>> torch_sim.optimize(atoms, model, optimizer=torch_sim.Optimizer.fire)
    """

    def __init__(
        self,
        model_path: str | Path,
        *,
        source: str | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> None:
        """Load a model.

        Args:
            model_path: The ``model.pt`` that training wrote.
            source: Source whose level of theory is wanted; optional if the model has only one.
            device: Where to predict, and where states must be.
            dtype: Precision of the weights; see `mtlpar.load_model`.

        Raises:
            ValueError: If the source does not exist, or several exist and none was named.
        """
        super().__init__()
        self._device, self._dtype = torch.device(device), torch.float64
        self._model = load_model(model_path, device=self._device, dtype=dtype)
        self.source = self._model.choose_source(source)
        self._evaluator = Evaluator(self._model, source=self.source)
        self._compute_stress, self._compute_forces = self._model.network.is_conservative, True

    def forward(self, state: SimState, **_: Any) -> dict[str, Tensor]:
        """Predict all structures of a state.

        Returns:
            ``energy`` (S,) in eV, ``forces`` (A, 3) in eV/Å and, from conservative models,
            ``stress`` (S, 3, 3) in eV/Å^3, tension positive.

        Raises:
            ValueError: If a structure cannot be answered for, as by `mtlpar.SavedModel.predict`, if
                charge or spin is missing where the model needs it, or if the state is not float64.
        """
        structures = self._structures(state)
        if len(structures) == 1:
            # The step of a simulation: neighbours of the one before still hold.
            found = [self._evaluator.predict(structures[0])]
        else:
            found = self._model.predict(structures, source=self.source)
        outputs = {
            "energy": np.array([one.energy for one in found]),
            "forces": np.concatenate([one.forces for one in found]),
        }
        if self._compute_stress:
            outputs["stress"] = np.stack([_matrix(one) for one in found])
        return {name: torch.from_numpy(values).to(state.device) for name, values in outputs.items()}

    def _structures(self, state: SimState) -> list[Atoms]:
        if state.dtype != torch.float64:
            raise ValueError(
                f"the state is {state.dtype}, expected torch.float64: total energies have more "
                "digits than float32; make it with dtype=model.dtype"
            )
        if state.pbc.shape != (3,):
            raise ValueError(
                f"the state has pbc of shape {tuple(state.pbc.shape)}, expected (3,), one "
                "periodicity for all its structures: torch-sim does not keep others in order; make "
                "a state for each periodicity"
            )
        counts = torch.bincount(state.system_idx, minlength=len(state.cell)).tolist()
        pieces = zip(
            np.split(state.atomic_numbers.cpu().numpy(), np.cumsum(counts)[:-1]),
            np.split(state.positions.detach().cpu().numpy(), np.cumsum(counts)[:-1]),
            # torch-sim's vectors are columns.
            state.cell.detach().cpu().numpy().transpose(0, 2, 1),
            self._infos(state, len(counts)),
            strict=True,
        )
        pbc = state.pbc.tolist()
        return [
            Atoms(numbers, positions, cell=cell, pbc=pbc, info=info)
            for numbers, positions, cell, info in pieces
        ]

    def _infos(self, state: SimState, count: int) -> list[dict[str, float]]:
        """Charge and spin of each structure."""
        extras = {name: state.system_extras[name] for name in _STATE if name in state.system_extras}
        absent = [name for name in _STATE if name not in extras]
        if absent and self._model.settings.encoder.charge_and_spin:
            raise ValueError(
                f"this model needs charge and spin, and the state has no {' and no '.join(absent)} "
                f"in its system_extras: {_HOW_TO_STATE}"
            )
        columns = {name: values.reshape(count, -1).tolist() for name, values in extras.items()}
        if wrong := [name for name, values in columns.items() if any(len(v) != 1 for v in values)]:
            shape = tuple(extras[wrong[0]].shape)
            raise ValueError(
                f"{wrong[0]} has shape {shape}, expected ({count},): one per structure"
            )
        return [{name: columns[name][index][0] for name in columns} for index in range(count)]


def _matrix(found: StructurePrediction) -> npt.NDArray[np.float64]:
    """Stress as (3, 3)."""
    if found.stress is None:
        return np.full((3, 3), np.nan)
    return found.stress[MATRIX_OF_SIX].reshape(3, 3)
