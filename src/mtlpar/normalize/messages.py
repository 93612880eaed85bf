"""What the normalize stage tells people about a source."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import numpy.typing as npt

from mtlpar.core.hashing import UInt64Array
from mtlpar.core.ledger import Ledger
from mtlpar.core.wording import counted
from mtlpar.normalize.fit import ReferenceFit
from mtlpar.normalize.residuals import (
    IMPLAUSIBLE_SPREAD_EV_PER_ATOM,
    Spread,
    above_lowest,
    find_two_levels,
)

logger = logging.getLogger(__name__)


def report(
    source: str,
    ledger: Ledger,
    fit: ReferenceFit,
    spread: Spread,
    outliers: dict[str, Any],
) -> None:
    """Say what became of all rows, and warn of what may not be meant.

    Args:
        source: Name of the source.
        ledger: Its closed ledger.
        fit: Its references.
        spread: Centre and width of the targets.
        outliers: Content of the checks about energies far from it.
    """
    logger.info(
        "%s: %s = %s, dropped %d; %s, robust spread of the target %.4f eV/atom",
        source,
        counted(ledger.rows, "row"),
        ", ".join(f"{count} {name}" for name, count in ledger.splits.items()),
        ledger.dropped.total(),
        counted(len(fit.references.energies_ev), "element"),
        spread.deviation,
    )
    if fit.taken_from == "isolated atoms":
        logger.info(
            "%s: reference energies are those of isolated atoms; with model.head.isolated_atoms: "
            "reference a model predicts them exactly",
            source,
        )
    if fit.taken_from == "no energies":
        logger.warning(
            "%s: no structure has an energy; models learn its energies from forces, up "
            "to a constant, with reference energies of zero",
            source,
        )
    if ledger.is_leaky:
        logger.warning(
            "%s: split by %s: frames of one group, or copies of a geometry, lie in several splits; "
            "test errors will look better than they are",
            source,
            ledger.split_by,
        )
    if fit.undetermined:
        logger.warning(
            "%s: the data do not determine the reference energies of %s (fixed ratios or charge "
            "balance): the solution of least norm is taken",
            source,
            ", ".join(fit.undetermined),
        )
    if outliers["count"]:
        logger.warning(
            "%s: %s further than %.3g eV/atom from the median of train (kept)",
            source,
            counted(outliers["count"], "energy"),
            outliers["limit_ev_per_atom"],
        )


def warn_of_levels(
    source: str, target: npt.NDArray[np.float64], composition: UInt64Array, spread: Spread
) -> None:
    """Warn where energies of train look like several levels of theory.

    Args:
        source: Name of the source.
        target: Energies per atom less references in eV, (S,).
        composition: Hash of the composition of each structure, (S,).
        spread: Centre and width of the targets.
    """
    advice = (
        f"perhaps two levels of theory in one source. Tell them apart with custom_sources.{source}"
        ".where, or"
    )
    energies = {
        "less references": target,
        "above the lowest of the same composition": above_lowest(target, composition),
    }
    for which, values in energies.items():
        if levels := find_two_levels(values):
            logger.warning(
                "%s: the energies of train %s fall into two groups %.3g eV/atom apart (%d and %d "
                "structures): %s leave it if the structures explain it",
                source,
                which,
                levels.distance_ev_per_atom,
                *levels.sizes,
                advice,
            )
            return
    if spread.deviation > IMPLAUSIBLE_SPREAD_EV_PER_ATOM:
        logger.warning(
            "%s: the energies of train less references spread by %.3g eV/atom (robust standard "
            "deviation), and those of one level by less than %g: %s correct the energies' unit, "
            "key or references",
            source,
            spread.deviation,
            IMPLAUSIBLE_SPREAD_EV_PER_ATOM,
            advice,
        )
