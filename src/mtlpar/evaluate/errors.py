"""Test errors of one branch on one test set."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mtlpar.core.metrics import ErrorSums
from mtlpar.core.references import References
from mtlpar.evaluate.settings import EvaluateSettings
from mtlpar.model.predict import FloatArray, predict_batches
from mtlpar.model.saved import SavedModel
from mtlpar.store.dataset import PackedDataset


class Predicted(NamedTuple):
    """Predictions of a whole test set.

    Attributes:
        energy_per_atom: Energies per atom without references in eV/atom, (S,).
        forces: Forces in eV/Å, (A, 3).
        stress: Stresses in eV/Å^3, (S, 6), NaN where undefined; None if there are none.
        last_features: What energies per atom are linear in, (S, K); None if not asked for.
    """

    energy_per_atom: FloatArray
    forces: FloatArray
    stress: FloatArray | None
    last_features: FloatArray | None = None


def zero_of(dataset: PackedDataset) -> Predicted:
    """The prediction that everything is zero but the references."""
    structures = dataset.structures
    return Predicted(
        np.zeros(len(dataset)), np.zeros(structures.forces.shape), np.zeros(structures.stress.shape)
    )


def predict_dataset(
    model: SavedModel,
    dataset: PackedDataset,
    branch: str,
    settings: EvaluateSettings,
    *,
    references: References | None,
    pool: bool = False,
) -> Predicted:
    """Predict a test set.

    Args:
        model: The model.
        dataset: The test set.
        branch: The branch that predicts it.
        settings: Size of batches.
        references: Those of the predictions; None for the packs' own.
        pool: Whether features are wanted too.

    Raises:
        ValueError: If a prediction is not finite.
    """
    parts = list(
        predict_batches(
            model.network,
            dataset.structures,
            branch=branch,
            graph=model.settings.graph,
            batch_atoms=settings.batch_atoms,
            pool=pool,
        )
    )
    energy = np.concatenate([part.energy_per_atom for part in parts])
    if references is not None:
        # A model that started from another one may have other references than the packs.
        energy += dataset.target_ev_per_atom - references.to_target(dataset.structures)
    forces = np.concatenate([part.forces for part in parts])
    stresses = [part.six_stresses for part in parts]
    stress = np.concatenate([one for one in stresses if one is not None] or [np.zeros((0, 6))])
    if not (np.isfinite(energy).all() and np.isfinite(forces).all()):
        bad = dataset.structures.structure_id[~np.isfinite(energy)]
        raise ValueError(
            f"predictions on {dataset.header.source} are not finite, for instance for structures "
            f"{', '.join(f'{identity:016x}' for identity in bad[:5])}; train the model again"
        )
    features = [part.last_features for part in parts if part.last_features is not None]
    return Predicted(
        energy,
        forces,
        stress if len(stress) else None,
        np.concatenate(features) if features else None,
    )


def sums_of(dataset: PackedDataset, predicted: Predicted) -> ErrorSums:
    """Error sums over the labels that a test set has."""
    sums = ErrorSums()
    sums.add(
        dataset.structures,
        energy_error_ev_per_atom=predicted.energy_per_atom - dataset.target_ev_per_atom,
        forces=predicted.forces,
        stress=predicted.stress,
    )
    return sums
