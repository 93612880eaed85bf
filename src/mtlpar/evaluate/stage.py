"""Runs the evaluate stage for one named model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtlpar.core.files import atomic_path, write_json
from mtlpar.core.hashing import derive_seed
from mtlpar.core.metrics import ErrorSums
from mtlpar.core.paths import Workspace
from mtlpar.core.structures import atom_indices
from mtlpar.evaluate.settings import EvaluateSettings
from mtlpar.model.predict import FloatArray, predict
from mtlpar.model.saved import SavedModel, load_model
from mtlpar.parallel.device import local_device
from mtlpar.store.dataset import PackedDataset
from mtlpar.store.pack import Pack

logger = logging.getLogger(__name__)

# Energies in eV/atom without references, and forces in eV/Å.
Predicted = tuple[FloatArray, FloatArray]


def run(
    name: str,
    *,
    workspace: Workspace,
    settings: EvaluateSettings,
    sources: Sequence[str],
    seed: int,
) -> None:
    """Test one model on every source and write its errors and a sample for parity plots.

    A model with a branch for the source uses it; a model with one branch for everything uses that.
    One with several branches is not tested on a source that fed none of them: its metrics say so.
    Energies are compared per atom with the test source's own references removed, which is the same
    as comparing total energies divided by the number of atoms.

    Args:
        name: Name of the model.
        workspace: Paths of all products.
        settings: Size of batches and of the parity sample.
        sources: Sources whose test sets are predicted.
        seed: The run's seed; it picks the parity sample.

    Raises:
        ValueError: If a pack is missing or damaged, the model was trained on other data of a source
            than its packs hold, or a prediction is not finite.
    """
    model = load_model(workspace.model(name), device=local_device())
    for source in sources:
        with Pack.open(workspace.pack(source, "test")) as pack:
            _check_data(model, pack)
            dataset = PackedDataset(pack)
        branch = model.branch_for_foreign(source)
        sample = workspace.predictions(name, source)
        result: dict[str, Any] = {}
        if branch is None:
            logger.warning("%s has no branch for %s and is not tested on it", name, source)
            _write_parity_sample(sample, dataset, None, settings, seed)
        else:
            predicted = _predict(model, dataset, branch, settings)
            result = _errors(name, dataset, predicted)
            _write_parity_sample(sample, dataset, predicted, settings, seed)
        zero = np.zeros_like(dataset.target_ev_per_atom), np.zeros(dataset.structures.forces.shape)
        write_json(
            workspace.metrics(name, source),
            {
                "model": name,
                "source": source,
                "branch": branch,
                "level_of_theory": dataset.header.level_of_theory,
                "split_by": dataset.header.split_by,
                **result,
                "num_structures": len(dataset),
                "num_atoms": dataset.structures.total_atoms,
                "zero_predictor": _sums(dataset, zero).as_dict(),
            },
        )


def _check_data(model: SavedModel, pack: Pack) -> None:
    """Refuse packs made of other splits or references than those that the model learned from.

    It may have been trained on what they hold for tests, and its energies are relative to others.
    """
    source = pack.header.source
    learned = model.training.get("data", {}).get(source)
    if learned is None:
        return
    found = pack.manifest.training_digest
    if found != learned:
        raise ValueError(
            f"the model learned {source} from data with the digest {learned[:12]}, but "
            f"{pack.path.parent} has {found[:12]}: splits, labels or "
            "references have changed since; train it again, or put back those packs"
        )


def _errors(name: str, dataset: PackedDataset, predicted: Predicted) -> dict[str, float]:
    """Test errors, which are logged too."""
    result = _sums(dataset, predicted).as_dict()
    logger.info(
        "%s on %s: energy MAE %.4f eV/atom, force MAE %.4f eV/Å (%d structures)",
        name,
        dataset.header.source,
        result["energy_mae_ev_per_atom"],
        result["force_mae_ev_per_angstrom"],
        len(dataset),
    )
    return result


def _sums(dataset: PackedDataset, predicted: Predicted) -> ErrorSums:
    energy, forces = predicted
    sums = ErrorSums()
    labels = dataset.structures.forces.astype(np.float64)
    sums.add(energy - dataset.target_ev_per_atom, forces - labels)
    return sums


def _predict(
    model: SavedModel, dataset: PackedDataset, branch: str, settings: EvaluateSettings
) -> Predicted:
    pieces = list(
        predict(
            model.network,
            dataset.structures,
            branch=branch,
            graph=model.settings.graph,
            batch_atoms=settings.batch_atoms,
        )
    )
    energy = np.concatenate([energy for _, energy, _ in pieces])
    forces = np.concatenate([forces for _, _, forces in pieces])
    if not (np.isfinite(energy).all() and np.isfinite(forces).all()):
        bad = dataset.structures.structure_id[~np.isfinite(energy)]
        raise ValueError(
            f"predictions on {dataset.header.source} are not finite, for instance for structures "
            f"{', '.join(f'{identity:016x}' for identity in bad[:5])}; train the model again"
        )
    return energy, forces


def _write_parity_sample(
    path: Path,
    dataset: PackedDataset,
    predicted: Predicted | None,
    settings: EvaluateSettings,
    seed: int,
) -> None:
    """Write labels and predictions of some structures; of none where nothing was predicted."""
    rng = np.random.default_rng(derive_seed(seed, "parity", dataset.header.source))
    count = min(settings.parity_structures, len(dataset)) if predicted else 0
    energy, forces = predicted or (np.zeros(0), np.zeros((0, 3)))
    chosen = np.sort(rng.choice(len(dataset), count, replace=False))
    atoms = atom_indices(dataset.structures.offsets, chosen)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(
            stream,
            energy_label_ev_per_atom=dataset.target_ev_per_atom[chosen],
            energy_prediction_ev_per_atom=energy[chosen],
            force_label_ev_per_angstrom=dataset.structures.forces[atoms],
            force_prediction_ev_per_angstrom=forces[atoms].astype(np.float32),
        )
