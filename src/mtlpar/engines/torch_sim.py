"""A trained model in torch-sim, which simulates many structures at a time.

torch-sim's own conventions: cells hold lattice vectors as columns, one periodicity counts for all
structures of a state, and what else a structure has is in the state's ``system_extras``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ase import Atoms
from torch import Tensor

from mtlpar.engines.optional import need
from mtlpar.engines.states import STATE, StateModel, check_precision, split

if TYPE_CHECKING:
    from torch_sim.state import SimState

interface = need("torch_sim.models.interface", install="torch-sim-atomistic")

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
        self._answers = StateModel(model_path, source=source, device=device, dtype=dtype)
        self.source = self._answers.source
        self._compute_stress, self._compute_forces = self._answers.has_stress, True

    def forward(self, state: SimState, **_: Any) -> dict[str, Tensor]:
        """Predict all structures of a state.

        Returns:
            ``energy`` (S,) in eV, ``forces`` (A, 3) in eV/Å and, from conservative models,
            ``stress`` (S, 3, 3) in eV/Å^3, tension positive.

        Raises:
            ValueError: If a structure cannot be answered for, as by `mtlpar.SavedModel.predict`, if
                charge or spin is missing where the model needs it, or if the state is not float64.
        """
        return self._answers.predict(self._structures(state))

    def _structures(self, state: SimState) -> list[Atoms]:
        check_precision(state.dtype, how_to_make="make it with dtype=model.dtype")
        if state.pbc.shape != (3,):
            raise ValueError(
                f"the state has pbc of shape {tuple(state.pbc.shape)}, expected (3,), one "
                "periodicity for all its structures: torch-sim does not keep others in order; make "
                "a state for each periodicity"
            )
        counts = torch.bincount(state.system_idx, minlength=len(state.cell)).tolist()
        extras = {name: state.system_extras[name] for name in STATE if name in state.system_extras}
        pieces = zip(
            split(state.atomic_numbers, counts),
            split(state.positions, counts),
            # torch-sim's vectors are columns.
            state.cell.detach().cpu().numpy().transpose(0, 2, 1),
            self._answers.infos(extras, len(counts), how_to_state=_HOW_TO_STATE),
            strict=True,
        )
        pbc = state.pbc.tolist()
        return [
            Atoms(numbers, positions, cell=cell, pbc=pbc, info=info)
            for numbers, positions, cell, info in pieces
        ]
