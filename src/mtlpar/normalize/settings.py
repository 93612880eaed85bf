"""Settings of the normalize stage."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from mtlpar.core.ledger import SplitBy
from mtlpar.core.settings import Settings


class NormalizeSettings(Settings):
    """How structures are split and what reference energies are taken off."""

    split: SplitBy = Field(
        default="groups",
        description="What is dealt to the splits: whole groups (molecule, reaction, material), "
        "or single frames, to compare with published numbers. Frames of one group "
        "then lie in several splits, official splits are ignored, and results are "
        "labelled leaky.",
    )
    val_fraction: float = Field(
        default=0.05, gt=0, lt=1, description="Share of the groups that goes to validation."
    )
    test_fraction: float = Field(
        default=0.05, gt=0, lt=1, description="Share of the groups that goes to test."
    )
    official_splits: bool = Field(
        default=True, description="Use a source's own splits where it has them (Transition1x)."
    )
    reference_energies: dict[str, dict[str, float] | Path] = Field(
        default={},
        description="Reference energies by source, instead of a fit: eV by chemical symbol, or "
        "a JSON file with them. Every element of the source is needed.",
    )
    outlier_deviations: float = Field(
        default=20.0,
        gt=0,
        description="Energies per atom further from the median of train than this many robust "
        "standard deviations (1.4826 median absolute deviations) are counted as outliers.",
    )

    @model_validator(mode="after")
    def _leave_some_for_training(self) -> NormalizeSettings:
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"val_fraction + test_fraction = {self.val_fraction + self.test_fraction}; "
                "less than 1 is needed to leave structures for training"
            )
        return self

    @model_validator(mode="after")
    def _elements_exist(self) -> NormalizeSettings:
        for source, energies in self.reference_energies.items():
            if not isinstance(energies, Path):
                check_symbols(energies, f"reference_energies.{source}")
        return self


def check_symbols(symbols: object, where: str) -> None:
    """Make sure that all keys are chemical symbols.

    Raises:
        ValueError: If one is not, or if there is none.
    """
    if not isinstance(symbols, dict) or not symbols:
        raise ValueError(f"{where}: expected reference energies in eV by chemical symbol")
    # Every command reads these settings, and few need elements: ASE brings numpy.
    from ase.data import chemical_symbols

    if unknown := [str(symbol) for symbol in symbols if symbol not in chemical_symbols[1:]]:
        raise ValueError(f"{where}: no element is called {', '.join(unknown)}")
