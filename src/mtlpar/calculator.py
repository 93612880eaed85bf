"""ASE calculator on a trained model: total energies and forces at one source's level of theory."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator as AseCalculator
from ase.calculators.calculator import PropertyNotImplementedError, all_changes

from mtlpar.core.ase_structures import structure_batch
from mtlpar.model.describe import CONSERVATIVE_INSTEAD, NO_GRADIENT
from mtlpar.model.evaluator import Evaluator, electronic_state, has_stress
from mtlpar.model.file import load_model

__all__ = ["Calculator", "DirectForcesWarning", "UnseenPairsWarning", "structure_batch"]


class DirectForcesWarning(UserWarning):
    """A calculator's forces are not the gradient of its energy."""


class UnseenPairsWarning(UserWarning):
    """A structure holds elements that no training structure has together."""


class Calculator(AseCalculator):
    """Predicts ``energy`` (eV, references included), ``free_energy``, ``energies`` and ``forces``.

    Models with conservative forces also predict ``stress`` (eV/Å^3, ASE's order and sign) of
    structures that repeat; others give a `DirectForcesWarning` with their first prediction. Where
    it is known, ``energy_uncertainty`` is the standard deviation of the energy in eV, among
    ``results`` and as a property; forces have none, see `docs/uncertainty.md`. A model
    is asked for a source, which stands for a level of theory. Energies of different sources are not
    comparable, so a model of several never picks one by itself.

    Examples:
        >>> atoms.calc = mtlpar.Calculator("results/models/mtl/model.pt", source="ani1x")
        >>> atoms.get_potential_energy()
    """

    implemented_properties = ["energy", "free_energy", "energies", "forces"]  # noqa: RUF012 - as in ASE

    def __init__(
        self,
        model_path: str | Path,
        *,
        source: str | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> None:
        """Load a model.

        Args:
            model_path: The ``model.pt`` that training wrote.
            source: Source whose level of theory is wanted; optional if the model has only one.
            device: Where to predict.
            dtype: Precision to predict in; see `mtlpar.load_model`.

        Raises:
            ValueError: If the source does not exist, or several exist and none was named.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.model = load_model(model_path, device=device, dtype=dtype)
        self._set_source(source)
        self._has_warned = self.model.network.is_conservative
        self._unseen_pairs: set[str] = set()
        if self.model.network.is_conservative:
            self.implemented_properties = [*self.implemented_properties, "stress"]
        # Asked for by name, it tells why it is missing where it is.
        self.implemented_properties = [*self.implemented_properties, "energy_uncertainty"]

    @property
    def source(self) -> str:
        """Source at whose level of theory is predicted; another one may be set at any time."""
        return self._source

    @source.setter
    def source(self, source: str) -> None:
        self._set_source(source)
        self.reset()  # type: ignore[no-untyped-call]

    def _set_source(self, source: str | None) -> None:
        self._source = self.model.choose_source(source)
        self.evaluator = Evaluator(self.model, source=self._source)

    def set(self, **changes: Any) -> dict[str, Any]:
        """Change the source, as ASE changes parameters; there is no other one.

        Charge and spin belong to a structure: ``atoms.info["charge"]`` and ``["spin"]``.
        """
        if unknown := sorted(changes.keys() - {"source"}):
            raise ValueError(
                f"the calculator has no parameter {', '.join(unknown)}, only source; charge "
                'and spin are read from atoms.info["charge"] and atoms.info["spin"]'
            )
        if "source" not in changes or changes["source"] == self.source:
            return {}
        self.source = changes["source"]
        return changes

    def _get_name(self) -> str:
        """What ASE's databases and trajectories call this calculator."""
        return "mtlpar"

    def todict(self, skip_default: bool = True) -> dict[str, Any]:  # noqa: ARG002 - as in ASE
        """Whose results these are, as ASE writes it beside them: energies alone do not tell."""
        return {
            "source": self.source,
            "level_of_theory": self.model.level_of_theory[self.source],
            "model": self.model.digest,
        }

    def check_state(self, atoms: Atoms, tol: float = 0.0) -> list[str]:  # noqa: ARG002 - as in ASE
        """What has changed since the last prediction, charge and spin included.

        Exact, where ASE's own comparison allows for a tolerance, does not look at ``info`` and
        takes a fifth of the time of a small molecule's forces.
        """
        before = self.atoms
        if not isinstance(before, Atoms):
            return [*all_changes]
        changes = [
            name
            for name in ("positions", "numbers", "cell", "pbc")
            if not np.array_equal(getattr(before, name), getattr(atoms, name))
        ]
        if electronic_state(before) != electronic_state(atoms):
            changes.append("info")
        return changes

    def get_property(
        self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True
    ) -> Any:
        """Give a result to ASE, or say why there is none.

        Raises:
            PropertyNotImplementedError: If it is a stress that the model or the structure lacks, or
                an uncertainty that is not known.
        """
        if name == "stress" and not self.model.network.is_conservative:
            raise PropertyNotImplementedError(
                "this model predicts forces directly, and no stress, which cells need; "
                f"{CONSERVATIVE_INSTEAD}"
            )
        if name == "energy_uncertainty":
            reason = self.model.no_uncertainty_because(self.source)
            if reason is not None:
                raise PropertyNotImplementedError(reason)
        structure = self.atoms if atoms is None else atoms
        if name == "stress" and isinstance(structure, Atoms) and not has_stress(structure):
            raise PropertyNotImplementedError(
                f"this structure has no stress: it repeats along {structure.pbc.tolist()}, and its "
                f"cell {structure.cell.array.tolist()} has a volume of "
                f"{abs(np.linalg.det(structure.cell.array)):g} Å^3; a stress needs a cell with a "
                "volume, periodic in all directions or with vacuum in the others: set "
                "atoms.cell and atoms.pbc"
            )
        return super().get_property(name, atoms, allow_calculation)  # type: ignore[no-untyped-call]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Predict one structure; called by ASE.

        Raises:
            ValueError: If the structure holds an element that this source does not have, or a
                charge or spin that the model does not know about.
        """
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        structure = self.atoms
        if not isinstance(structure, Atoms):
            raise ValueError("the calculator has no structure; attach it as atoms.calc first")
        if not self._has_warned:
            self._has_warned = True
            text = f"{NO_GRADIENT}; there, {CONSERVATIVE_INSTEAD}"
            warnings.warn(text, DirectForcesWarning, stacklevel=2)
        found = self.evaluator.predict(structure)
        if "numbers" in system_changes:
            self._warn_of_unseen_pairs(structure)
        self.results = {
            "energy": found.energy,
            "free_energy": found.energy,
            "energies": found.atom_energies,
            "forces": found.forces,
        }
        if found.stress is not None:
            self.results["stress"] = found.stress
        if found.energy_uncertainty is not None:
            self.results["energy_uncertainty"] = found.energy_uncertainty

    def _warn_of_unseen_pairs(self, structure: Atoms) -> None:
        """Name pairs of elements that training never had together, each once."""
        new = {*self.model.unseen_pairs(structure.numbers, self.source)} - self._unseen_pairs
        if new:
            self._unseen_pairs |= new
            text = (
                f"no training structure of {self.source} has {', '.join(sorted(new))} (an element, "
                "or two together): trust energies and forces less than energy_uncertainty says"
            )
            warnings.warn(text, UnseenPairsWarning, stacklevel=3)
