"""Reference energies that the user gives instead of a fit."""

from __future__ import annotations

from pathlib import Path

from ase.data import chemical_symbols

from mtlpar.core.files import read_json
from mtlpar.core.references import References
from mtlpar.normalize.settings import NormalizeSettings, check_symbols


def given_references(source: str, settings: NormalizeSettings) -> References | None:
    """References of the settings for a source, or None where they are to be fitted.

    Raises:
        ValueError: If a file is missing or holds anything but numbers by chemical symbol.
    """
    entry = settings.reference_energies.get(source)
    if entry is None:
        return None
    energies = read_json(entry) if isinstance(entry, Path) else entry
    where = str(entry) if isinstance(entry, Path) else f"normalize.reference_energies.{source}"
    check_symbols(energies, where)
    try:
        return References.from_dict(energies)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: expected energies in eV, got {energies} ({error})") from error


def require_elements(source: str, references: References, undefined: frozenset[int]) -> None:
    """Make sure that given references are complete.

    Args:
        source: Name of the source.
        references: What was given.
        undefined: Atomic numbers of elements that occur without a reference.

    Raises:
        ValueError: If there are any; the message lists them.
    """
    if undefined:
        missing = ", ".join(chemical_symbols[z] for z in sorted(undefined))
        raise ValueError(
            f"normalize.reference_energies.{source} lacks {missing}, which the source holds; got "
            f"{', '.join(references.energies_ev)}. Add them, or leave {source} out to fit all"
        )
