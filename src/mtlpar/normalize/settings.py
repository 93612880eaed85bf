"""Settings of the normalize stage."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from mtlpar.core.settings import Settings

Deal = Literal["groups", "frames", "blocks"]


class NormalizeSettings(Settings):
    """How structures are split and what reference energies are taken off."""

    split: Deal | dict[str, Deal] = Field(
        default="groups",
        description="What is dealt to the splits, for all sources or by source (then groups where "
        "not given). groups: whole groups (molecule, reaction, material). blocks: of each group "
        "the first frames to train, the next to val, the last to test, for sources of few groups "
        "such as one trajectory. frames: single frames at random, for comparison with published "
        "numbers. With blocks and frames a group lies in several splits, official splits are "
        "ignored, and the source is labelled leaky. Splits that a custom source gives are kept.",
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

    def split_of(self, source: str) -> Deal:
        """What of a source is dealt to the splits."""
        return self.split.get(source, "groups") if isinstance(self.split, dict) else self.split

    def of(self, source: str) -> NormalizeSettings:
        """What of these settings one source depends on."""
        energies = self.reference_energies
        own = {source: energies[source]} if source in energies else {}
        return self.model_copy(update={"split": self.split_of(source), "reference_energies": own})

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
