"""Errors of every branch on a source that none of them learned.

Forces need nothing. Energies of another level of theory need an offset for each element, which is
fitted to a few structures of the test set; these are not tested on. Whoever predicts new structures
has to have as many labels at that level. Where none of these has an energy, as in a test set of one
structure, energies are not tested.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from ase.data import chemical_symbols

from mtlpar.evaluate.errors import predict_dataset, sums_of, zero_of
from mtlpar.evaluate.settings import EvaluateSettings
from mtlpar.model.saved import SavedModel
from mtlpar.store.dataset import PackedDataset
from mtlpar.train.start_references import fit_to

OFFSET_STRUCTURES: Final = 32
"""Structures that offsets are fitted to; of small test sets half of them."""


def zero_shot(
    model: SavedModel, dataset: PackedDataset, settings: EvaluateSettings
) -> dict[str, dict[str, Any]]:
    """Test errors by branch, best first by forces or, where there are none, by energies.

    Args:
        model: A model without a branch for the source.
        dataset: Test set of the source.
        settings: Size of batches.

    Returns:
        By branch the means of `ErrorSums.as_dict`, the number of ``offset_structures`` and of
        ``num_structures`` tested, ``unknown_elements``, and the errors of the ``zero_predictor`` on
        the same structures.
    """
    count = min(OFFSET_STRUCTURES, len(dataset) // 2)
    fitted = dataset.structures.slice(0, count)
    tested = dataset.part(count, len(dataset))
    has_offsets = bool(fitted.has("energy").any())
    if not has_offsets:
        # A slice shares its columns with the whole.
        tested.structures = tested.structures.take(np.arange(len(tested)))
        tested.structures.energy_mask[:] = 0
    found = {}
    for branch in model.branches:
        own = dataset.header.references
        offsets = fit_to(fitted, own, model, branch).references if has_offsets else own
        predicted = predict_dataset(model, tested, branch, settings, references=offsets)
        found[branch] = {
            **sums_of(tested, predicted).as_dict(),
            "offset_structures": count if has_offsets else 0,
            "num_structures": len(tested),
            "unknown_elements": new_elements(model, branch, dataset),
            "zero_predictor": sums_of(tested, zero_of(tested)).as_dict(),
        }
    return dict(sorted(found.items(), key=lambda item: _order(item[1])))


def new_elements(model: SavedModel, branch: str, dataset: PackedDataset) -> list[str]:
    """Symbols of elements of a test set that a branch never saw, in alphabetical order."""
    found = {chemical_symbols[z] for z in set(dataset.structures.atomic_numbers.tolist())}
    return sorted(found - set(model.elements(branch)))


def _order(errors: dict[str, Any]) -> tuple[float, float]:
    return tuple(
        errors.get(name, float("inf"))
        for name in ("force_mae_ev_per_angstrom", "energy_mae_ev_per_atom")
    )
