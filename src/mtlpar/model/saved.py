"""A trained model, ready to use: network, architecture, references and where they come from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from ase import Atoms
from ase.data import chemical_symbols

from mtlpar.core.ase_structures import (
    AtomsLike,
    charge_of,
    fault_of,
    spin_of,
    structure_batch,
)
from mtlpar.core.fields import SIX_OF_MATRIX
from mtlpar.core.references import References
from mtlpar.core.structures import StructureBatch
from mtlpar.model.multitask import MultiTaskModel
from mtlpar.model.predict import FloatArray, PredictedBatch, predict_batches
from mtlpar.model.settings import ModelSettings
from mtlpar.model.uncertainty import BranchUncertainty, name_unseen_pairs, pairs_never_seen
from mtlpar.model.upgrades import FORMAT_VERSION

_UNSEEN: Final = "element never seen"


class StructurePrediction(NamedTuple):
    """What a model says about one structure.

    Attributes:
        energy: Total energy in eV, references included.
        forces: Forces in eV/Å, (N, 3).
        stress: Stress in eV/Å^3 in ASE's order xx yy zz yz xz xy, tension positive, (6,). None if
            forces are not conservative or the structure has no volume.
        atom_energies: Energies of the atoms in eV, (N,), references included; they add up to the
            energy, and only their sum was learned.
        energy_uncertainty: Standard deviation of the energy in eV, see `mtlpar.model.uncertainty`;
            None if it was not asked for or is not known.
        descriptors: Means of the encoder's invariant features over the atoms, (F,); None if they
            were not asked for.
        unseen_pairs: Pairs of its elements that no training structure of the branch has together,
            such as ``N-O``, and elements that none has, such as ``Cu``; empty too where the model
            file does not know.
    """

    energy: float
    forces: FloatArray
    stress: FloatArray | None
    atom_energies: FloatArray
    energy_uncertainty: float | None = None
    descriptors: FloatArray | None = None
    unseen_pairs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, repr=False)
class SavedModel:
    """Everything that prediction needs, ready to use.

    Attributes:
        network: The network with all its branches, in evaluation mode.
        settings: Its architecture.
        branches: Sources by branch.
        references: Reference energies by source; they bring predictions back to total energies.
        level_of_theory: How each source's labels were computed.
        training: Seed, settings and history, for people.
        uncertainty: How far off energies may be, by branch; branches without are missing.
        format_version: Version of the file that it was read from.
        digest: Digest of the file's content, which was compared; None if an older version wrote it.
    """

    network: MultiTaskModel
    settings: ModelSettings
    branches: Mapping[str, tuple[str, ...]]
    references: Mapping[str, References]
    level_of_theory: Mapping[str, str]
    training: dict[str, Any] = field(default_factory=dict)
    uncertainty: Mapping[str, BranchUncertainty] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    digest: str | None = None

    def __repr__(self) -> str:
        """One line: the layers of the network would fill pages."""
        encoder = self.settings.encoder
        heads = ", ".join(self.sources)
        return f"<SavedModel: {encoder.layers} x {encoder.width} {encoder.kind}, heads {heads}>"

    @property
    def sources(self) -> tuple[str, ...]:
        """Sources the model learned from; each can be asked for."""
        return tuple(source for sources in self.branches.values() for source in sources)

    def elements(self, branch: str) -> tuple[str, ...]:
        """Symbols of the elements that some source of a branch has a reference energy for."""
        return tuple(
            dict.fromkeys(
                symbol
                for source in self.branches[branch]
                for symbol in self.references[source].energies_ev
            )
        )

    def uncertainty_of(self, source: str) -> BranchUncertainty | None:
        """How far off energies of a source may be; None if that is not known."""
        found = self.uncertainty.get(self.branch_of(source))
        return found if found is not None and source in found.sources else None

    def no_uncertainty_because(self, source: str) -> str | None:
        """Why the uncertainty of a source's energies is not known; None if it is."""
        if self.uncertainty_of(source) is not None:
            return None
        reason = self.training.get("no_uncertainty", {}).get(
            source, "the file is of a version that did not measure it; train the model again"
        )
        return f"how far off energies of {source} may be is not known: {reason}"

    def choose_source(self, source: str | None) -> str:
        """The source whose level of theory is wanted; may be left out if there is only one.

        Raises:
            ValueError: If it does not exist, or several exist and none was named.
        """
        if source is None and len(self.sources) > 1:
            levels = ", ".join(f"{name} ({self.level_of_theory[name]})" for name in self.sources)
            raise ValueError(
                "this model has several levels of theory; name one as source (on the command line "
                f"--source): {levels}"
            )
        source = self.sources[0] if source is None else source
        self.branch_of(source)
        return source

    def predict(
        self,
        structures: Iterable[AtomsLike],
        *,
        source: str | None = None,
        batch_atoms: int = 4096,
        uncertainty: bool = False,
        descriptors: bool = False,
    ) -> list[StructurePrediction]:
        """Total energies, forces and, from conservative models, stresses of ASE structures.

        Charge and spin multiplicity are read from ``atoms.info``; see `structure_batch`.

        Args:
            structures: The structures.
            source: Source whose level of theory is wanted; optional if the model has only one.
            batch_atoms: Atoms predicted at a time.
            uncertainty: Whether standard deviations of energies are wanted.
            descriptors: Whether means of features are wanted.

        Raises:
            ValueError: If the source does not exist or was not chosen, if a structure holds an
                element that the source does not have, if it is charged or open-shell and the model
                was not trained with charge and spin, if its energy is not a number, or if the
                uncertainty is wanted and not known.
        """
        source = self.choose_source(source)
        known = self.uncertainty_of(source) if uncertainty else None
        if uncertainty and known is None:
            raise ValueError(self.no_uncertainty_because(source))
        structures = structures if isinstance(structures, Atoms) else list(structures)
        if not structures:
            return []
        batch, references = self.columns_of(structures, source)
        of_elements = self.references[source].table()
        predictions: list[StructurePrediction] = []
        for part in predict_batches(
            self.network,
            batch,
            branch=self.branch_of(source),
            graph=self.settings.graph,
            batch_atoms=batch_atoms,
            pool=uncertainty or descriptors,
        ):
            if not descriptors:
                part = part._replace(descriptors=None)
            atoms = slice(*batch.offsets[[part.structures.start, part.structures.stop]])
            predictions += _each(
                part,
                sizes=batch.num_atoms[part.structures],
                references=references[part.structures],
                atom_references=of_elements[batch.atomic_numbers[atoms]],
                known=known,
                first=part.structures.start if len(batch) > 1 else None,
            )
        seen = self.uncertainty_of(source)
        for index in [] if seen is None else np.flatnonzero(pairs_never_seen(batch, seen.together)):
            atoms = slice(*batch.offsets[[index, index + 1]])
            pairs = self.unseen_pairs(batch.atomic_numbers[atoms], source)
            predictions[index] = predictions[index]._replace(unseen_pairs=pairs)
        return predictions

    def unseen_pairs(self, numbers: npt.ArrayLike, source: str) -> tuple[str, ...]:
        """Pairs of elements, such as ``N-O``, that no training structure of a branch has together.

        Elements that none has, such as ``Cu``, stand alone. There is nothing where the model file
        does not know.

        Args:
            numbers: Atomic numbers of a structure, (N,).
            source: Source whose branch is asked.
        """
        seen = self.uncertainty_of(source)
        return () if seen is None else name_unseen_pairs(numbers, seen.together)

    def columns_of(
        self, structures: Sequence[AtomsLike] | Atoms, source: str
    ) -> tuple[StructureBatch, FloatArray]:
        """Columns of structures that a source can answer for, and sums of their references in eV.

        Raises:
            ValueError: If it cannot; see `predict`.
        """
        batch = structure_batch(structures)
        self._check_charge_and_spin(batch)
        references = self.references[source]
        try:
            return batch, references.sums(batch)
        except ValueError as error:
            if len(batch) == 1:
                raise
            strange = np.isnan(references.table()[batch.atomic_numbers]).argmax()
            first = np.searchsorted(batch.offsets, strange, side="right") - 1
            raise ValueError(f"structure {first}: {error}") from None

    def refusal(self, atoms: AtomsLike, *, source: str) -> str | None:
        """See `refusals`."""
        return self.refusals(atoms, [source])[source]

    def refusals(self, atoms: AtomsLike, sources: Iterable[str]) -> dict[str, str | None]:
        """Why a structure cannot be predicted by source, before a colon its kind; None if it can.

        Args:
            atoms: The structure.
            sources: Sources whose levels of theory are wanted.
        """
        if at_no_level := self._refusal(atoms):
            return dict.fromkeys(sources, at_no_level)
        return {
            source: f"{_UNSEEN}: {unseen} with {source}" if unseen else None
            for source, unseen in self._unseen_elements(atoms, sources).items()
        }

    def refusal_by_all(self, atoms: AtomsLike, sources: Iterable[str]) -> str:
        """Why a structure that all of these sources refuse cannot be predicted; see `refusals`."""
        if at_no_level := self._refusal(atoms):
            return at_no_level
        alike = dict[str, list[str]]()
        for source, unseen in self._unseen_elements(atoms, sources).items():
            alike.setdefault(unseen, []).append(source)
        whose = (f"{unseen} with {', '.join(names)}" for unseen, names in alike.items())
        return f"{_UNSEEN}: {'; '.join(whose)}"

    def _unseen_elements(self, atoms: AtomsLike, sources: Iterable[str]) -> dict[str, str]:
        """Symbols of the elements that each source does not know."""
        symbols = {chemical_symbols[number] for number in atoms.numbers.tolist()}
        return {
            source: " ".join(sorted(symbols - self.references[source].energies_ev.keys()))
            for source in sources
        }

    def _refusal(self, atoms: AtomsLike) -> str | None:
        """Why a structure cannot be predicted at any level of theory."""
        if not len(atoms):
            return "no atoms"
        if fault := fault_of(atoms):
            return f"no structure: it has {fault}"
        try:
            unseen = self._unseen_state(charge_of(atoms), spin_of(atoms))
        except ValueError as error:
            unseen = str(error)
        return f"charge or spin: {unseen}" if unseen else None

    def _check_charge_and_spin(self, batch: StructureBatch) -> None:
        special = np.flatnonzero((batch.charge != 0) | (batch.spin > 1))
        for first in special[:1]:
            if unseen := self._unseen_state(batch.charge[first], batch.spin[first]):
                raise ValueError(f"structure {first} has {unseen}")

    def _unseen_state(self, charge: int, spin: int) -> str | None:
        """What of an electronic state the model does not see, and why."""
        if self.settings.encoder.charge_and_spin or (charge == 0 and spin <= 1):
            return None
        stated = f"charge {charge} and spin multiplicity {spin}" if spin else f"charge {charge}"
        return (
            f"{stated}, but this model does not know about charge and spin: it was trained with "
            "model.encoder.charge_and_spin off"
        )

    def branch_of(self, source: str) -> str:
        """Branch that answers for a source.

        Raises:
            ValueError: If the model did not learn from that source.
        """
        for branch, sources in self.branches.items():
            if source in sources:
                return branch
        raise ValueError(
            f"no source is called {source!r}; this model learned from {', '.join(self.sources)}"
        )

    def branch_for_foreign(self, source: str) -> str | None:
        """Branch to try on any source: its own, or the only one of a single-branch model.

        None if the model has several branches and none of them learned from the source.
        """
        if source in self.sources:
            return self.branch_of(source)
        return next(iter(self.branches)) if len(self.branches) == 1 else None


def _each(
    part: PredictedBatch,
    *,
    sizes: npt.NDArray[np.int32],
    references: FloatArray,
    atom_references: FloatArray,
    known: BranchUncertainty | None,
    first: int | None,
) -> Iterator[StructurePrediction]:
    """What a batch's prediction says about each structure.

    Args:
        part: Prediction of S structures with A atoms.
        sizes: Numbers of atoms, (S,).
        references: Sums of reference energies in eV, (S,).
        atom_references: Reference energies of the atoms in eV, (A,).
        known: How far off energies may be, if that is wanted.
        first: See `check_finite`.
    """
    energy = part.energy_per_atom * sizes + references
    check_finite(energy, first=first)
    bounds = [*pairwise([0, *np.cumsum(sizes).tolist()])]
    atom_energies = part.atom_energies + atom_references
    nothing = [None] * len(sizes)
    deviation: Iterable[float | None] = nothing
    if known is not None and part.last_features is not None:
        deviation = (sizes * known.energy_ev_per_atom(part.last_features)).tolist()
    return map(
        StructurePrediction,
        energy.tolist(),
        [part.forces[first:last] for first, last in bounds],
        nothing if part.stress is None else map(six_numbers, part.stress),
        [atom_energies[first:last] for first, last in bounds],
        deviation,
        nothing if part.descriptors is None else part.descriptors,
    )


def check_finite(energy: FloatArray, *, first: int | None) -> None:
    """Refuse energies in eV that are no numbers.

    Args:
        energy: The energies, (S,).
        first: Number of the first of these structures, for messages; None of one that has none.

    Raises:
        ValueError: If there is one.
    """
    wrong = np.flatnonzero(~np.isfinite(energy))
    if len(wrong):
        which = "" if first is None else f" of structure {first + wrong[0]}"
        raise ValueError(
            f"the energy{which} is not finite: two of its atoms coincide, or the model's weights "
            "are not finite (`mtlpar check` says which)"
        )


def six_numbers(stress: FloatArray) -> FloatArray | None:
    """Stress (3, 3) in ASE's order, or None if it is not defined."""
    return None if np.isnan(stress).any() else stress[SIX_OF_MATRIX]
