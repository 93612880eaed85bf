"""Validation: every structure once, whatever the layout, and one number to compare epochs by."""

from __future__ import annotations

import statistics
from collections.abc import Container, Iterable, Mapping
from dataclasses import astuple

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from mtlpar.core.collective import collective
from mtlpar.core.error_names import MAE_NAMES, MEAN_ABS_NAMES
from mtlpar.core.metrics import ErrorSums
from mtlpar.core.structures import StructureBatch
from mtlpar.model.multitask import MultiTaskModel
from mtlpar.model.predict import predict_batches

FloatArray = npt.NDArray[np.float64]

_BATCH_ATOMS = 4096
# Means below this, in eV/atom, eV/Å and eV/Å^3, are rounding: the references explain everything.
_NO_SIGNAL = 1e-6
# A ratio of zero would outweigh all others.
_EXACT = 1e-9


@collective
def validation_errors(
    model: MultiTaskModel,
    datasets: Mapping[str, Iterable[tuple[StructureBatch, FloatArray]]],
    *,
    branch_of: Mapping[str, str],
) -> dict[str, dict[str, float]]:
    """Errors on every source's validation set, the same on all ranks.

    Args:
        model: The model with the branches of this rank.
        datasets: This rank's share of the validation data of the sources whose branches it owns,
            in pieces with their targets in eV/atom.
        branch_of: Branch of every source of the model, in order.

    Returns:
        For each source the means of `ErrorSums.as_dict`.
    """
    model.eval()
    sums = {source: ErrorSums() for source in branch_of}
    for source, pieces in datasets.items():
        for part, target in pieces:
            for found in predict_batches(
                model,
                part,
                branch=branch_of[source],
                graph=model.settings.graph,
                batch_atoms=_BATCH_ATOMS,
            ):
                sums[source].add(
                    part.slice(found.structures.start, found.structures.stop),
                    energy_error_ev_per_atom=found.energy_per_atom - target[found.structures],
                    forces=found.forces,
                    stress=found.six_stresses,
                )
    model.train()
    table = torch.tensor([astuple(entry) for entry in sums.values()], dtype=torch.float64)
    if dist.is_initialized():
        table = table.to(next(model.parameters()).device)
        dist.all_reduce(table)
    return {
        source: ErrorSums.from_numbers(row).as_dict()
        for source, row in zip(sums, table.tolist(), strict=True)
    }


def relative_score(
    errors: Mapping[str, Mapping[str, float]],
    sizes: Mapping[str, Mapping[str, float | None]],
    *,
    held: Container[str] = (),
) -> float:
    """Criterion of early stopping and of the best checkpoint.

    Each mean absolute error of a label that a source has and the model predicts is divided by the
    mean absolute value of the label, on train: one is as good as predicting zero. What is learned
    counts by the geometric mean of these ratios: a tenth less is worth the same for energies,
    forces and stresses, for large and small sources, and for one that is learned to a hundredth of
    its labels as for one, such as relaxed crystals with hardly any forces, that predicting zero
    beats.

    Sources whose branch is held still count all together as much as those that are learned, by the
    mean of their ratios: they say what is forgotten, and where the model that they are to be like
    has labelled them a ratio starts from zero, of which there is no part.

    Args:
        errors: Validation errors by source.
        sizes: ``train_statistics`` of the packs by source.
        held: Sources whose branch is held still.
    """
    ratios: dict[bool, list[float]] = {True: [], False: []}
    for source, error in errors.items():
        for label, mae_name in MAE_NAMES.items():
            size = sizes[source].get(MEAN_ABS_NAMES[label])
            # A label without any signal says nothing about how well it is predicted.
            if size is not None and size > _NO_SIGNAL and mae_name in error:
                ratios[source in held].append(error[mae_name] / size)
    means = [statistics.fmean(ratios[True])] if ratios[True] else []
    if ratios[False]:
        means.append(statistics.geometric_mean(max(one, _EXACT) for one in ratios[False]))
    return statistics.fmean(means) if means else 0.0
