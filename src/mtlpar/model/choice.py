"""Which source's training data a structure is like, where nobody says at which level to predict.

Structures are compared by x, the means over their atoms of the encoder's features, which are the
same whatever the branch. The training structures of a source s are taken as normally distributed,
with the mean m_s and the covariance S_s of their x, so that the logarithm of the density at x is

    -(d_s^2 + ln det S_s) / 2 + constant,   d_s^2 = (x - m_s)^T S_s^-1 (x - m_s).

Of the sources that know all elements, the charge and the spin of a structure, the one of the
largest density is chosen. Where even that one is further away than nearly all of its validation
structures are, none is. Energies are those of one source, never a mean of several.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch

from mtlpar.core.ase_structures import AtomsLike, structure_batch
from mtlpar.graph.collate import collate
from mtlpar.model.multitask import Segment
from mtlpar.model.predict import bounded_slices
from mtlpar.model.saved import SavedModel
from mtlpar.model.uncertainty import FloatArray, SourceFeatures, squared_norms, whitening

AUTO: Final = "auto"
"""What stands for a source that is to be chosen for each structure."""

_FAR: Final = 99
"""Quantile, in percent, of the distances of validation structures beyond which nothing fits."""
# Relative to the mean variance of a feature: what float32 rounds off features must not count.
_REGULARISER: Final = 1e-5
_SMALLEST: Final = 1e-30


class Choice(NamedTuple):
    """What was chosen for a structure.

    Attributes:
        source: The source; None if none fits.
        reason: Why, for people; before a colon the kind of a refusal.
    """

    source: str | None
    reason: str


@dataclass(frozen=True)
class Cloud:
    """The training structures of a source as a normal distribution; see the module's formula.

    Attributes:
        mean: m, (F,).
        white: W with W W^T = S^-1, (F, F).
        log_determinant: ln det S.
    """

    mean: FloatArray
    white: FloatArray
    log_determinant: float

    @classmethod
    def of(cls, spread: FloatArray) -> Cloud:
        """From the mean of x x^T, (F + 1, F + 1), where the last component of x is a one."""
        mean = spread[-1, :-1]
        covariance = spread[:-1, :-1] - np.outer(mean, mean)
        floor = _REGULARISER * float(np.trace(covariance)) / len(mean)
        # All structures may be the same one.
        white = whitening(covariance, max(floor, _SMALLEST))
        return cls(mean, white, -2 * float(np.log(np.diag(white)).sum()))

    def squared_distance(self, descriptors: FloatArray) -> FloatArray:
        """d^2 of x, (S,), from x without the one, (S, F)."""
        return squared_norms(descriptors - self.mean, self.white)


class SourceChooser:
    """Chooses a source for each of many structures."""

    def __init__(self, model: SavedModel) -> None:
        """Prepare what the model knows of its training data.

        Raises:
            ValueError: If it knows of none.
        """
        self._model = model
        self._features = {
            source: known.sources[source]
            for source in model.sources
            if (known := model.uncertainty_of(source)) is not None
        }
        if not self._features:
            raise ValueError(
                f"source {AUTO}: this model does not know how its training data are spread. "
                f"{model.no_uncertainty_because(model.sources[0])}. Name one of its sources: "
                f"{', '.join(model.sources)}"
            )
        self._clouds = {
            source: Cloud.of(_numpy(found, "spread")) for source, found in self._features.items()
        }
        self._far = {
            source: float(_numpy(found, "distances")[_FAR])
            for source, found in self._features.items()
        }

    def choose(self, structures: Sequence[AtomsLike], *, batch_atoms: int) -> list[Choice]:
        """Choose for each structure.

        Args:
            structures: The structures.
            batch_atoms: Atoms computed at a time.

        Raises:
            ValueError: If one has a charge or spin that the encoder has no embedding for.
        """
        refusals = [self._model.refusals(atoms, self._features) for atoms in structures]
        known = [index for index, of in enumerate(refusals) if None in of.values()]
        choices = [
            Choice(None, "")
            if None in of.values()
            else Choice(None, f"fits no source: {self._model.refusal_by_all(atoms, of)}")
            for atoms, of in zip(structures, refusals, strict=True)
        ]
        if not known:
            return choices
        descriptors = self._descriptors([structures[index] for index in known], batch_atoms)
        scores = self._scores(descriptors)
        for row, index in enumerate(known):
            fitting = [source for source, reason in refusals[index].items() if reason is None]
            ratios, densities = (
                {source: float(column[source][row]) for source in fitting} for column in scores
            )
            choices[index] = _choice(ratios, densities)
        return choices

    def _descriptors(self, structures: Sequence[AtomsLike], batch_atoms: int) -> FloatArray:
        network = self._model.network
        branch, parameter = next(iter(network.heads)), next(network.parameters())
        batch = structure_batch(structures)
        parts = []
        for start, stop in bounded_slices(batch.num_atoms, batch_atoms):
            part = batch.slice(start, stop)
            graph = collate(
                part, self._model.settings.graph, dtype=torch.float64, device=parameter.device
            )
            segment = Segment(branch, 0, len(part), (0, part.total_atoms))
            parts.append(network.pool(graph, [segment]).descriptors.cpu())
        return np.asarray(torch.cat(parts).numpy())

    def _scores(
        self, descriptors: FloatArray
    ) -> tuple[Mapping[str, FloatArray], Mapping[str, FloatArray]]:
        """Distances in units of the furthest that fits, and densities, by source, (S,) each."""
        ratios, densities = {}, {}
        for source, cloud in self._clouds.items():
            square = cloud.squared_distance(descriptors)
            ratios[source] = np.sqrt(square / self._far[source])
            densities[source] = -(square + cloud.log_determinant) / 2
        return ratios, densities


def _choice(ratios: Mapping[str, float], densities: Mapping[str, float]) -> Choice:
    if not all(map(math.isfinite, ratios.values())):
        return Choice(None, "features are not finite: two of its atoms coincide")
    best = max(densities, key=lambda source: densities[source])
    distances = ", ".join(f"{source} {ratio:.2f}" for source, ratio in ratios.items())
    if ratios[best] > 1:
        return Choice(
            None,
            f"fits no source: unlike the training data; distance, where 1 holds {_FAR} % of the "
            f"validation structures: {distances}",
        )
    if len(ratios) == 1:
        return Choice(best, f"the only source that knows its elements; distance {distances}")
    return Choice(best, f"likeliest of {len(ratios)} that know its elements; distances {distances}")


def _numpy(features: SourceFeatures, name: str) -> FloatArray:
    values: torch.Tensor = getattr(features, name)
    return np.asarray(values.cpu().double().numpy())
