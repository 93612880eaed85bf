"""The trained model as one file: weights, architecture, references and where they come from."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator
from torch import Tensor

from mtlpar.core.ase_structures import charge_of, fault_of, spin_of, structure_batch
from mtlpar.core.fields import SIX_OF_MATRIX
from mtlpar.core.files import atomic_path
from mtlpar.core.references import References
from mtlpar.core.structures import StructureBatch
from mtlpar.model.digest import DIGEST, content_digest
from mtlpar.model.multitask import MultiTaskModel
from mtlpar.model.predict import FloatArray, predict_batches
from mtlpar.model.settings import ModelSettings
from mtlpar.model.uncertainty import BranchUncertainty
from mtlpar.model.undrawn import undrawn_network

logger = logging.getLogger(__name__)

FORMAT_VERSION: Final = 8
"""1: EGNN with direct forces. 2: the settings say which encoder, energy and forces. 3: messages of
the EGNN have a filter and carry vectors. 4: its atoms mix vectors before they multiply them. 5:
half of the radial functions measure distances by covalent radii. 6: the file has a digest. 7: an
encoder has no settings of another kind. 8: isolated atoms may be the zero of energies."""
WEIGHTS_VERSION: Final = 5
"""The last version that changed what weights mean: a training cannot go on across it."""
_OLDEST_VERSION: Final = 2
_WITH_DIGEST: Final = 6
_AGAIN: Final = "copy it again, or export it with mtlpar train"


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
    """

    energy: float
    forces: FloatArray
    stress: FloatArray | None
    atom_energies: FloatArray
    energy_uncertainty: float | None = None
    descriptors: FloatArray | None = None


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
                f"this model has several levels of theory; choose source=...: {levels}"
            )
        source = self.sources[0] if source is None else source
        self.branch_of(source)
        return source

    def predict(
        self,
        structures: Iterable[Atoms],
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
            sizes = batch.num_atoms[part.structures]
            energy = part.energy_per_atom * sizes + references[part.structures]
            check_finite(energy, first=part.structures.start)
            ends = np.cumsum(sizes)[:-1]
            stress = [None] * len(sizes) if part.stress is None else map(six_numbers, part.stress)
            atoms = slice(*batch.offsets[[part.structures.start, part.structures.stop]])
            of_atoms = part.atom_energies + of_elements[batch.atomic_numbers[atoms]]
            nothing = [None] * len(sizes)
            deviation: Iterable[float | None] = nothing
            if known is not None and part.last_features is not None:
                deviation = (sizes * known.energy_ev_per_atom(part.last_features)).tolist()
            predictions += map(
                StructurePrediction,
                energy.tolist(),
                np.split(part.forces, ends),
                stress,
                np.split(of_atoms, ends),
                deviation,
                part.descriptors if descriptors and part.descriptors is not None else nothing,
            )
        return predictions

    def columns_of(
        self, structures: Sequence[Atoms] | Atoms, source: str
    ) -> tuple[StructureBatch, FloatArray]:
        """Columns of structures that a source can answer for, and sums of their references in eV.

        Raises:
            ValueError: If it cannot; see `predict`.
        """
        batch = structure_batch(structures)
        self._check_charge_and_spin(batch)
        return batch, self.references[source].sums(batch)

    def refusal(self, atoms: Atoms, *, source: str) -> str | None:
        """Why a structure cannot be predicted, before a colon its kind; None if it can.

        Args:
            atoms: The structure.
            source: Source whose level of theory is wanted.
        """
        if not len(atoms):
            return "no atoms"
        if fault := fault_of(atoms):
            return f"no structure: it has {fault}"
        symbols = {chemical_symbols[number] for number in atoms.numbers}
        if unknown := sorted(symbols - set(self.references[source].energies_ev)):
            return f"element never seen: {' '.join(unknown)} with {source}"
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
        return (
            f"charge {charge} and spin multiplicity {spin}, but this model does not know about "
            "charge and spin: it was trained with model.encoder.charge_and_spin off"
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


def save_model(
    path: Path,
    *,
    state: Mapping[str, Tensor],
    settings: ModelSettings,
    branches: Mapping[str, tuple[str, ...]],
    references: Mapping[str, References],
    level_of_theory: Mapping[str, str],
    training: Mapping[str, Any],
    uncertainty: Mapping[str, BranchUncertainty] | None = None,
) -> None:
    """Write a model file atomically, with a digest; it loads with ``weights_only=True``.

    Args:
        path: File to write.
        state: State of a network that holds all branches.
        settings: Its architecture.
        branches: Sources by branch.
        references: Reference energies by source.
        level_of_theory: Level of theory by source.
        training: Plain values that say how the model was trained.
        uncertainty: How far off energies may be, by branch.
    """
    content = {
        "format_version": FORMAT_VERSION,
        "settings": settings.model_dump(mode="json"),
        "branches": {branch: list(sources) for branch, sources in branches.items()},
        "references_ev": {name: dict(refs.energies_ev) for name, refs in references.items()},
        "level_of_theory": dict(level_of_theory),
        "training": dict(training),
        "uncertainty": {name: one.plain() for name, one in (uncertainty or {}).items()},
        "state": {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()},
    }
    content[DIGEST] = content_digest(content)
    # Into a stream: given a path, torch writes the temporary name into the file.
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        torch.save(content, stream)


def load_model(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> SavedModel:
    """Load a model file that the train stage wrote, of this or an older format.

    Args:
        path: The ``model.pt``.
        device: Where to put the network.
        dtype: ``torch.float32`` or ``torch.float64``; by default that of the weights. In the latter
            forces are smooth enough for tight relaxations and finite differences.

    Raises:
        ValueError: If the file is missing or damaged, is not such a model or has a newer format, or
            if there is no such device or it is another precision.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; expected a model file, such as {path / 'model.pt'}")
    if not path.is_file():
        raise ValueError(f"there is no model at {path}; the train stage writes it")
    if dtype not in (None, torch.float32, torch.float64):
        raise ValueError(f"a model predicts in torch.float32 or torch.float64, not in {dtype}")
    _check_device(device)
    # Whatever modes the caller has set: of weights made in inference mode there are no gradients,
    # and a default device may be one that holds nothing (meta).
    with torch.inference_mode(False), torch.device("cpu"):
        return _load(path, device, dtype)


def _load(path: Path, device: torch.device | str, dtype: torch.dtype | None) -> SavedModel:
    content = _read(path)
    digest = _checked_digest(content, path)
    content = _upgrade(content, path)
    try:
        whole = _ModelFile.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path} is not a complete model file: {where}: {first['msg']}") from None
    network = undrawn_network(whole.settings, whole.branches)
    try:
        network.load_state_dict(whole.state, assign=True)
    except RuntimeError as error:
        raise ValueError(f"the weights in {path} do not fit its settings: {error}") from error
    network.to(device=device, dtype=dtype or next(iter(whole.state.values())).dtype)
    network.eval()
    return SavedModel(
        network=network,
        settings=whole.settings,
        branches=whole.branches,
        references={name: References(energies) for name, energies in whole.references_ev.items()},
        level_of_theory=whole.level_of_theory,
        training=whole.training,
        uncertainty=whole.uncertainty,
        format_version=whole.written_as,
        digest=digest,
    )


class _ModelFile(BaseModel):
    """What a file of the current format holds."""

    model_config = ConfigDict(arbitrary_types_allowed=True, protected_namespaces=())

    written_as: int
    settings: ModelSettings
    branches: dict[str, tuple[str, ...]] = Field(min_length=1)
    references_ev: dict[str, dict[str, FiniteFloat]]
    level_of_theory: dict[str, str]
    training: dict[str, Any]
    # What earlier versions did not know.
    uncertainty: dict[str, BranchUncertainty] = Field(default_factory=dict)
    state: dict[str, Tensor] = Field(min_length=1)

    @model_validator(mode="after")
    def _knows_every_source(self) -> _ModelFile:
        for source in (source for sources in self.branches.values() for source in sources):
            if not self.references_ev.get(source):
                raise ValueError(f"there are no reference energies of {source}")
            if source not in self.level_of_theory:
                raise ValueError(f"there is no level of theory of {source}")
            foreign = self.references_ev[source].keys() - atomic_numbers.keys()
            if foreign:
                raise ValueError(f"{source} has references of no elements: {sorted(foreign)}")
        return self


def _check_device(device: torch.device | str) -> None:
    """Tell a device that is not there from a file that cannot be read."""
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        first_line = str(error).partition("\n")[0]
        raise ValueError(f"the device {device} cannot be used: {first_line}") from error


def _read(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Torch would advise to load it all the same, whatever code is in it.
        raise ValueError(
            f"{path} is damaged or not a model file, or holds more than plain values; {_AGAIN}"
        ) from error
    # Damaged bytes are instructions of a pickle: there is nothing that they do not raise.
    except Exception as error:
        first_line = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"{path} is damaged or not a model file ({first_line}); {_AGAIN}"
        ) from error


def _checked_digest(content: Any, path: Path) -> str | None:
    """Compare what was read with the file's digest, and give that back.

    Raises:
        ValueError: If they differ, or if there is none where there should be.
    """
    if not isinstance(content, dict):
        return None
    expected = content.get(DIGEST)
    if expected is None:
        version = content.get("format_version")
        if isinstance(version, int) and version >= _WITH_DIGEST:
            raise ValueError(f"{path} is damaged: it has no digest; {_AGAIN}")
        if version is not None:
            logger.warning(
                "%s has no digest: an older version of mtlpar wrote it, and damage to its weights "
                "would go unnoticed",
                path,
            )
        return None
    try:
        found = content_digest(content)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}; {_AGAIN}") from error
    if found != expected:
        raise ValueError(
            f"{path} is damaged or was edited: the digest of its content is {found}, expected "
            f"{expected}; {_AGAIN}"
        )
    return found


def _upgrade(content: Any, path: Path) -> dict[str, Any]:
    """Bring the content of a file to the current format, one version at a time."""
    version: Any = content.get("format_version") if isinstance(content, dict) else None
    known = range(_OLDEST_VERSION, FORMAT_VERSION + 1)
    if not isinstance(content, dict) or not isinstance(version, int) or version not in known:
        raise ValueError(
            f"{path} has model format {version!r}; this version of mtlpar reads {_OLDEST_VERSION} "
            f"to {FORMAT_VERSION}. A newer format needs a newer mtlpar, an older model has to be "
            "trained again"
        )
    content["written_as"] = version
    for step in range(version, FORMAT_VERSION):
        try:
            _UPGRADES[step](content)
        except ValueError as error:
            raise ValueError(f"{path} has model format {version}: {error}") from None
        except (LookupError, TypeError) as error:
            raise ValueError(f"{path} is not a complete model file: {error!r}") from error
    return content


def _from_2(content: dict[str, Any]) -> None:
    if content["settings"]["encoder"]["kind"] == "egnn":
        raise ValueError(
            "its EGNN sends messages without filter and vectors, which this version of mtlpar "
            "cannot compute; train it again, or use the version that wrote it"
        )


def _from_3(content: dict[str, Any]) -> None:
    encoder, state = content["settings"]["encoder"], content["state"]
    if encoder["kind"] == "egnn":
        # Squared lengths were products of each vector with itself.
        same = torch.eye(encoder["vector_channels"]).repeat(2, 1)
        for layer in range(encoder["layers"]):
            prefix = f"encoder.layers.{layer}"
            like = state[f"{prefix}.update.0.weight"]
            state[f"{prefix}.inner_products.mix.weight"] = same.to(like)


def _from_4(content: dict[str, Any]) -> None:
    encoder, state = content["settings"]["encoder"], content["state"]
    # All functions were of the distance alone: the other half gets weights of zero.
    count = encoder["radial_basis"]
    encoder["radial_basis"] = 2 * count
    names = ("features_in", "filter") if encoder["kind"] == "egnn" else ("filter",)
    for layer in range(encoder["layers"]):
        for name in names:
            weight = state[f"encoder.layers.{layer}.{name}.weight"]
            parts = [weight[:, :count], torch.zeros_like(weight[:, :count]), weight[:, count:]]
            state[f"encoder.layers.{layer}.{name}.weight"] = torch.cat(parts, dim=1)


def _from_5(_: dict[str, Any]) -> None:
    """Only the digest is new."""


def _from_6(content: dict[str, Any]) -> None:
    encoder = content["settings"]["encoder"]
    if encoder["kind"] == "painn":
        del encoder["vector_channels"]


def _from_7(_: dict[str, Any]) -> None:
    """Isolated atoms are learned where nothing else is said."""


_UPGRADES: Final[Mapping[int, Callable[[dict[str, Any]], None]]] = {
    2: _from_2,
    3: _from_3,
    4: _from_4,
    5: _from_5,
    6: _from_6,
    7: _from_7,
}


def check_finite(energy: FloatArray, *, first: int = 0) -> None:
    """Refuse energies in eV that are no numbers, (S,), of structures from ``first`` on.

    Raises:
        ValueError: If there is one.
    """
    wrong = np.flatnonzero(~np.isfinite(energy))
    if len(wrong):
        raise ValueError(
            f"the energy of structure {first + wrong[0]} is not finite: two of its atoms coincide, "
            "or the model's weights are not finite (`mtlpar check` says which)"
        )


def six_numbers(stress: FloatArray) -> FloatArray | None:
    """Stress (3, 3) in ASE's order, or None if it is not defined."""
    return None if np.isnan(stress).any() else stress[SIX_OF_MATRIX]
