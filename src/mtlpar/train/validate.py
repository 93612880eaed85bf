"""Validation: every structure once, whatever the layout, and one number to compare epochs by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import astuple

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from mtlpar.core.metrics import ErrorSums
from mtlpar.core.structures import StructureBatch
from mtlpar.model.multitask import MultiTaskModel
from mtlpar.model.predict import predict

FloatArray = npt.NDArray[np.float64]

_BATCH_ATOMS = 4096
# Means below this, in eV/atom and eV/Angstrom, are rounding: the references explain everything.
_NO_SIGNAL = 1e-6


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
            first_atom = part.offsets
            for chosen, energy, forces in predict(
                model,
                part,
                branch=branch_of[source],
                graph=model.settings.graph,
                batch_atoms=_BATCH_ATOMS,
            ):
                atoms = slice(first_atom[chosen.start], first_atom[chosen.stop])
                sums[source].add(energy - target[chosen], forces - part.forces[atoms])
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
    errors: Mapping[str, Mapping[str, float]], sizes: Mapping[str, Mapping[str, float]]
) -> float:
    """Criterion of early stopping and of the best checkpoint.

    Mean over sources of the mean relative error of energy and forces: each mean absolute error
    divided by the mean absolute value of what is predicted, on train. One is as good as predicting
    zero; energies and forces, and large and small sources, count alike.

    Args:
        errors: Validation errors by source.
        sizes: ``train_statistics`` of the packs by source.
    """
    ratios = []
    for source, error in errors.items():
        size = sizes[source]
        energy_size = size["energy_mean_abs_ev_per_atom"]
        force_size = size["force_mean_abs_ev_per_angstrom"]
        # A source without any signal says nothing about how well it is predicted.
        if energy_size > _NO_SIGNAL:
            ratios.append(error["energy_mae_ev_per_atom"] / energy_size)
        if force_size > _NO_SIGNAL:
            ratios.append(error["force_mae_ev_per_angstrom"] / force_size)
    return sum(ratios) / len(ratios) if ratios else 0.0
