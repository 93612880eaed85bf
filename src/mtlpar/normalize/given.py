"""Reference energies that the user gives instead of a fit."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ase.data import chemical_symbols

from mtlpar.core.files import read_text
from mtlpar.core.references import References
from mtlpar.normalize.fit import ReferenceFit
from mtlpar.normalize.settings import NormalizeSettings, check_symbols


def given_references(source: str, settings: NormalizeSettings) -> References | None:
    """References of the settings for a source, or None where they are to be fitted.

    Raises:
        ValueError: If a file cannot be read or holds anything but numbers by chemical symbol.
    """
    entry = settings.reference_energies.get(source)
    if entry is None:
        return None
    return References.from_dict(_read(source, entry) if isinstance(entry, Path) else entry)


def _read(source: str, path: Path) -> dict[str, Any]:
    where = f"normalize.reference_energies.{source}: {path}"
    try:
        energies = json.loads(read_text(path))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{where}: expected a JSON file with energies in eV by chemical symbol ({error})"
        ) from error
    check_symbols(energies, where)
    if wrong := {symbol: e for symbol, e in energies.items() if not _is_number(e)}:
        raise ValueError(f"{where}: expected energies in eV, got {wrong}")
    return dict(energies)


def _is_number(value: object) -> bool:
    """Whether a value is a finite number; JSON knows truth values, Python's also NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def require_elements(source: str, fit: ReferenceFit, undefined: frozenset[int]) -> None:
    """Make sure that references that were not fitted are complete.

    Args:
        source: Name of the source.
        fit: What was given.
        undefined: Atomic numbers of elements that occur without a reference.

    Raises:
        ValueError: If there are any; the message lists them.
    """
    if undefined:
        missing = ", ".join(chemical_symbols[z] for z in sorted(undefined))
        if fit.taken_from == "isolated atoms":
            raise ValueError(
                f"{source}: no isolated atom of {missing}, which the source holds; there are "
                f"{', '.join(fit.references.energies_ev)}. Add them, or leave isolated_atoms out "
                "to fit all"
            )
        raise ValueError(
            f"normalize.reference_energies.{source} lacks {missing}, which the source holds; got "
            f"{', '.join(fit.references.energies_ev)}. Add them, or leave {source} out to fit all"
        )
