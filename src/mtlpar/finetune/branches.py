"""Which branch of a model is the best start for new data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols

from mtlpar.core.error_names import ERROR_UNITS, MAE_NAMES
from mtlpar.model.saved import SavedModel
from mtlpar.store.pack import Pack
from mtlpar.train.start_references import StartFit, fit_references


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A branch, and how well it predicts new data before any training.

    Attributes:
        branch: Its name.
        levels: Levels of theory that it learned.
        fit: References for the new data with it, and what is left.
        unknown: Elements of the data that it never saw.
    """

    branch: str
    levels: tuple[str, ...]
    fit: StartFit
    unknown: tuple[str, ...]

    @property
    def score(self) -> tuple[int, float]:
        """Smaller is better: unknown elements first, then errors relative to the mean's."""
        ratios = [error / self.fit.sizes[name] for name, error in self.fit.errors.items()]
        return len(self.unknown), float(np.mean(ratios))


def rank_branches(model: SavedModel, pack: Pack) -> list[Candidate]:
    """All branches of a model, the best start for a source first.

    Args:
        model: The model.
        pack: Training pack of the source.

    Raises:
        ValueError: If the pack is damaged.
    """
    elements = set(pack.header.references.energies_ev)
    found = [
        Candidate(
            branch=branch,
            levels=tuple(model.level_of_theory[source] for source in sources),
            fit=fit_references(pack, model, branch),
            unknown=tuple(sorted(elements - set(model.elements(branch)), key=_atomic_number)),
        )
        for branch, sources in model.branches.items()
    ]
    return sorted(found, key=lambda one: one.score)


def candidates_text(candidates: Sequence[Candidate], *, chosen: str | None) -> str:
    """A table of branches: errors on the new data before training, and what they do not know.

    Args:
        candidates: All branches, the best first.
        chosen: The one that is started from; None for random weights.
    """
    labels = [label for label, name in MAE_NAMES.items() if name in candidates[0].fit.errors]
    heads = [f"{label} {ERROR_UNITS[label]}" for label in labels]
    width = max(len("predicting the mean"), *(len(one.branch) + 2 for one in candidates))
    lines = [f"{'start':{width}}" + "".join(f"{head:>17}" for head in heads) + "  level of theory"]
    for one in candidates:
        mark = "* " if one.branch == chosen else "  "
        unknown = f"; never saw {' '.join(one.unknown)}" if one.unknown else ""
        numbers = "".join(f"{one.fit.errors[MAE_NAMES[label]]:17.4f}" for label in labels)
        level = ", ".join(dict.fromkeys(one.levels))
        lines.append(f"{mark + one.branch:{width}}{numbers}  {level}{unknown}")
    doubts = [line for one in candidates if one.branch == chosen for line in one.fit.doubts]
    sizes = "".join(f"{candidates[0].fit.sizes[MAE_NAMES[label]]:17.4f}" for label in labels)
    lines.append(f"{'predicting the mean':{width}}{sizes}")
    return "\n".join([*lines, *(f"warning: {doubt}" for doubt in doubts)])


def _atomic_number(symbol: str) -> int:
    return chemical_symbols.index(symbol)
