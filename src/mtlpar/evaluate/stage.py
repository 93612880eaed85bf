"""Runs the evaluate stage for one named model."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mtlpar.core.error_names import ERROR_UNITS, MAE_NAMES
from mtlpar.core.fields import LABELS
from mtlpar.core.files import atomic_path
from mtlpar.core.hashing import derive_seed
from mtlpar.core.paths import Workspace
from mtlpar.core.products import MetricsRecord
from mtlpar.core.records import write_content
from mtlpar.core.structures import StructureBatch, atom_indices
from mtlpar.core.wording import counted
from mtlpar.evaluate.errors import Predicted, predict_dataset, sums_of, zero_of
from mtlpar.evaluate.settings import EvaluateSettings
from mtlpar.evaluate.uncertainty import uncertainty_quality
from mtlpar.evaluate.zero_shot import new_elements, zero_shot
from mtlpar.model.file import load_model
from mtlpar.model.saved import SavedModel
from mtlpar.parallel.device import local_device
from mtlpar.store.dataset import PackedDataset
from mtlpar.store.pack import Pack

logger = logging.getLogger(__name__)

# What parity samples hold where nothing was predicted.
_NO_PARITY: Final[dict[str, npt.NDArray[Any]]] = {
    f"{label}_{what}_{unit}": np.zeros(shape, np.float32)
    for label, unit, shape in (
        ("energy", "ev_per_atom", (0,)),
        ("force", "ev_per_angstrom", (0, 3)),
        ("stress", "ev_per_cubic_angstrom", (0, 6)),
    )
    for what in ("label", "prediction")
}


def run(
    name: str,
    *,
    workspace: Workspace,
    settings: EvaluateSettings,
    sources: Sequence[str],
    seed: int,
    branches: Mapping[str, tuple[str, ...]] | None = None,
) -> None:
    """Test one model on every source and write its errors and a sample for parity plots.

    A model with a branch for the source uses it; a model with one branch for everything uses that.
    One with several branches has none for a source that fed none of them: then all are tried, with
    the new level's offsets fitted to a few of the structures; see `zero_shot`.
    Energies are compared per atom with the test source's own references removed, which is the same
    as comparing total energies divided by the number of atoms.

    Args:
        name: Name of the model.
        workspace: Paths of all products.
        settings: Size of batches and of the parity sample.
        sources: Sources whose test sets are predicted.
        seed: The run's seed; it picks the parity sample.
        branches: Sources by branch that the model has to have; None if any will do.

    Raises:
        ValueError: If a pack is missing or damaged, the model has other branches or was trained on
            other data of a source than its packs hold, or a prediction is not finite.
    """
    model = load_model(workspace.model(name), device=local_device())
    _check_branches(name, model, branches or {})
    for source in sources:
        with Pack.of(workspace, source, "test") as pack:
            _check_data(model, pack)
            dataset = PackedDataset(pack)
        branch = model.branch_for_foreign(source)
        predicted: Predicted | None = None
        if branch is None:
            result: dict[str, Any] = {"zero_shot": zero_shot(model, dataset, settings)}
            _log_zero_shot(name, source, result["zero_shot"])
        else:
            predicted, result = _test(name, model, branch, dataset, settings)
        sample = workspace.predictions(name, source)
        _write_parity_sample(sample, dataset, predicted, settings, seed)
        write_content(
            workspace.metrics(name, source),
            MetricsRecord,
            {
                "model": name,
                "source": source,
                "branch": branch,
                "level_of_theory": dataset.header.level_of_theory,
                "split_by": dataset.header.split_by,
                **result,
                "num_structures": len(dataset),
                "num_atoms": dataset.structures.total_atoms,
                "num_labels": {label: int(dataset.structures.has(label).sum()) for label in LABELS},
                "zero_predictor": sums_of(dataset, zero_of(dataset)).as_dict(),
            },
        )


def _test(
    name: str, model: SavedModel, branch: str, dataset: PackedDataset, settings: EvaluateSettings
) -> tuple[Predicted, dict[str, Any]]:
    """Predictions of a branch on a test set, with their errors and the quality of uncertainties."""
    source = dataset.header.source
    own = model.references.get(source)
    known = model.uncertainty_of(source) if source in model.sources else None
    predicted = predict_dataset(
        model, dataset, branch, settings, references=own, pool=known is not None
    )
    new = new_elements(model, branch, dataset)
    result = _errors(name, dataset, predicted, unseen=len(new))
    if known is not None:
        result["uncertainty"] = uncertainty_quality(known, source, dataset, predicted)
    return predicted, result


def _log_zero_shot(name: str, source: str, found: Mapping[str, Mapping[str, Any]]) -> None:
    logger.warning("%s has no branch for %s; trying each of them", name, source)
    for branch, errors in found.items():
        shown = [
            f"{label} {errors[mae_name]:.4f}"
            for label, mae_name in MAE_NAMES.items()
            if mae_name in errors
        ]
        unknown = errors["unknown_elements"]
        seen = f"; it never saw {' '.join(unknown)}" if unknown else ""
        logger.info("  branch %s: MAE %s%s", branch, ", ".join(shown) or "of no label", seen)
    if any(not errors["offset_structures"] for errors in found.values()):
        logger.warning(
            "energies of %s are not tested: the offsets of its level of theory are fitted to the "
            "first half of its test set, which has no energy",
            source,
        )


def _check_branches(name: str, model: SavedModel, branches: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse a file that is not the model of that name, whatever brought it there."""
    # A model may answer for more sources than it was trained on here: see `start_from`.
    if not all(
        set(sources) <= set(model.branches.get(branch, ())) for branch, sources in branches.items()
    ):
        raise ValueError(
            f"{name}: the model file has the branches {_listed(model.branches)}, but the "
            f"configuration says {_listed(branches)}; train it again, or correct models.{name}"
        )


def _listed(branches: Mapping[str, tuple[str, ...]]) -> str:
    return ", ".join(f"{branch} [{', '.join(sources)}]" for branch, sources in branches.items())


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
            f"{pack.path.parent} has {found[:12]}: splits, labels or references have changed "
            "since; train it again, or restore those packs"
        )


def _errors(
    name: str, dataset: PackedDataset, predicted: Predicted, *, unseen: int
) -> dict[str, Any]:
    """Test errors, which are logged too."""
    result: dict[str, Any] = sums_of(dataset, predicted).as_dict()
    logger.info(
        "%s on %s: MAE %s (%s)%s",
        name,
        dataset.header.source,
        ", ".join(
            f"{label} {result[mae_name]:.4f} {ERROR_UNITS[label]}"
            for label, mae_name in MAE_NAMES.items()
            if mae_name in result
        )
        or "of no label",
        len(dataset),
        f"; it never saw {counted(unseen, 'element')} of these" if unseen else "",
    )
    return result


def _write_parity_sample(
    path: Path,
    dataset: PackedDataset,
    predicted: Predicted | None,
    settings: EvaluateSettings,
    seed: int,
) -> None:
    """Write labels and predictions of some structures; of none where nothing was predicted."""
    rng = np.random.default_rng(derive_seed(seed, "parity", dataset.header.source))
    structures = dataset.structures
    columns: dict[str, npt.NDArray[Any]] = {}
    if predicted is not None:
        count = min(settings.parity_structures, len(dataset))
        chosen = np.sort(rng.choice(len(dataset), count, replace=False))
        columns = _parity_columns(dataset, predicted, structures.take(chosen), chosen)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        arrays: dict[str, Any] = {**_NO_PARITY, **columns}
        np.savez_compressed(stream, **arrays)


def _parity_columns(
    dataset: PackedDataset,
    predicted: Predicted,
    sample: StructureBatch,
    chosen: npt.NDArray[np.int64],
) -> dict[str, npt.NDArray[Any]]:
    """Labels and predictions of a sample of structures, where it has labels."""
    atoms = atom_indices(dataset.structures.offsets, chosen)
    energies = chosen[sample.has("energy")]
    forces = atoms[np.repeat(sample.has("forces"), sample.num_atoms)]
    columns: dict[str, npt.NDArray[Any]] = {
        "energy_label_ev_per_atom": dataset.target_ev_per_atom[energies],
        "energy_prediction_ev_per_atom": predicted.energy_per_atom[energies],
        "force_label_ev_per_angstrom": dataset.structures.forces[forces],
        "force_prediction_ev_per_angstrom": predicted.forces[forces].astype(np.float32),
    }
    if predicted.stress is not None:
        stresses = chosen[sample.has("stress")]
        columns["stress_label_ev_per_cubic_angstrom"] = dataset.structures.stress[stresses]
        columns["stress_prediction_ev_per_cubic_angstrom"] = predicted.stress[stresses].astype(
            np.float32
        )
    return columns
