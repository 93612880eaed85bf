"""Answers for all structures of a state, in tensors, as batched engines ask for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from ase import Atoms
from torch import Tensor

from mtlpar.core.fields import MATRIX_OF_SIX
from mtlpar.model.evaluator import Evaluator
from mtlpar.model.file import load_model
from mtlpar.model.saved import StructurePrediction

STATE = ("charge", "spin")
"""What a state says of each structure beside its atoms: charge in e and multiplicity 2S+1."""


class StateModel:
    """A branch of a model, for states in float64 whatever the precision of its weights.

    Attributes:
        source: Source whose level of theory is answered.
        has_stress: Whether there is a stress: not from models that predict forces directly.
    """

    def __init__(
        self,
        model_path: str | Path,
        *,
        source: str | None,
        device: torch.device | str,
        dtype: torch.dtype | None,
    ) -> None:
        """Load a model.

        Args:
            model_path: The ``model.pt`` that training wrote.
            source: Source whose level of theory is wanted; optional if the model has only one.
            device: Where to predict, and where answers are.
            dtype: Precision of the weights; see `mtlpar.load_model`.

        Raises:
            ValueError: If the source does not exist, or several exist and none was named.
        """
        self._device = torch.device(device)
        self._model = load_model(model_path, device=self._device, dtype=dtype)
        self.source = self._model.choose_source(source)
        self._evaluator = Evaluator(self._model, source=self.source)
        self.has_stress = self._model.network.is_conservative

    def predict(self, structures: Sequence[Atoms]) -> dict[str, Tensor]:
        """Predict the structures of a state.

        Returns:
            ``energy`` (S,) in eV, ``forces`` (A, 3) in eV/Å and, from conservative models,
            ``stress`` (S, 3, 3) in eV/Å^3, tension positive; NaN where a structure has none.

        Raises:
            ValueError: If a structure cannot be answered for, as by `mtlpar.SavedModel.predict`.
        """
        if len(structures) == 1:
            # The step of a simulation: neighbours of the one before still hold.
            found = [self._evaluator.predict(structures[0])]
        else:
            found = self._model.predict(structures, source=self.source)
        outputs = {
            "energy": np.array([one.energy for one in found]),
            "forces": np.concatenate([one.forces for one in found]),
        }
        if self.has_stress:
            outputs["stress"] = np.stack([_matrix(one) for one in found])
        return {name: torch.from_numpy(values).to(self._device) for name, values in outputs.items()}

    def infos(
        self, stated: Mapping[str, Tensor], count: int, *, how_to_state: str
    ) -> list[dict[str, float]]:
        """Charge and spin of each structure, for ``atoms.info``.

        Args:
            stated: Those of `STATE` that the state has, one value for each structure.
            count: Structures.
            how_to_state: What to do if one is absent.

        Raises:
            ValueError: If one is absent and the model needs it, or has another shape.
        """
        absent = [name for name in STATE if name not in stated]
        if absent and self._model.settings.encoder.charge_and_spin:
            raise ValueError(
                "this model needs charge and spin, and the state has no "
                f"{' and no '.join(absent)}: {how_to_state}"
            )
        columns = {name: values.reshape(count, -1).tolist() for name, values in stated.items()}
        if wrong := [name for name, values in columns.items() if any(len(v) != 1 for v in values)]:
            shape = tuple(stated[wrong[0]].shape)
            raise ValueError(
                f"{wrong[0]} has shape {shape}, expected ({count},): one per structure"
            )
        return [{name: columns[name][index][0] for name in columns} for index in range(count)]


def check_precision(dtype: torch.dtype, *, how_to_make: str) -> None:
    """Refuse a state that is not float64.

    Raises:
        ValueError: If so.
    """
    if dtype != torch.float64:
        raise ValueError(
            f"the state is {dtype}, expected torch.float64: total energies have more digits than "
            f"float32; {how_to_make}"
        )


def split(values: Tensor, counts: Sequence[int]) -> list[npt.NDArray[np.generic]]:
    """What belongs to the atoms of a state, (A, ...), by structure."""
    return np.split(values.detach().cpu().numpy(), np.cumsum(counts)[:-1])


def _matrix(found: StructurePrediction) -> npt.NDArray[np.float64]:
    """Stress as (3, 3)."""
    if found.stress is None:
        return np.full((3, 3), np.nan)
    return found.stress[MATRIX_OF_SIX].reshape(3, 3)
