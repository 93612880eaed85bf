"""How far off energies may be: the covariance of what the last layer of an energy head sees.

The energy per atom of a structure is linear in phi: the mean over its atoms of what enters the last
layer of the energy head, and a one for the bias of that layer. With C the mean of phi phi^T over
the training structures, the Laplace approximation of the last layer has the variance

    sigma^2 = alpha^2 phi^T (C + rho I)^-1 phi

(last-layer prediction rigidity; Bigi, Chong, Ceriotti and Grasselli 2024, arXiv 2403.02251). Both
rho and alpha are chosen on validation structures: rho by the likelihood of their errors, and alpha
so that nine in ten of them are within 1.645 sigma, as of a normal distribution.

phi^T C^-1 phi alone is called the leverage.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from ase.data import chemical_symbols
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator
from torch import Tensor

from mtlpar.core.composition import compositions
from mtlpar.core.fields import MAX_ATOMIC_NUMBER
from mtlpar.core.structures import StructureBatch

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

COVERAGE: Final = 0.9
"""Share of validation errors that are within `HALF_WIDTH` standard deviations."""
HALF_WIDTH: Final = 1.6448536269514722
"""Half the width of the interval that holds nine tenths of a normal distribution."""

NUM_QUANTILES: Final = 101
"""Quantiles of leverages that are kept of a source, from the smallest to the largest."""

# Relative to the mean eigenvalue of C. Below, what float32 rounds off features would count.
_REGULARISERS: Final = np.logspace(-8, 0, 25)
# Nats for each structure, twice.
_AS_GOOD: Final = 0.01


class SourceFeatures(BaseModel):
    """What a branch saw of the structures of a source.

    Attributes:
        num_structures: Training structures that the sums are over.
        moments: Mean of phi phi^T over them, (K, K) float64.
        seen: Quantiles of the leverage over them, (101,).
        together: Which elements occur together in some structure of them, (119, 119).
        spread: Mean of x x^T over them, (F + 1, F + 1) float64, where x is the mean of the
            encoder's features over the atoms of a structure, and a one.
        distances: Quantiles over validation structures of their squared distances in these
            features, see `mtlpar.model.choice`, (101,).
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True)

    num_structures: int = Field(gt=0)
    moments: Tensor
    seen: Tensor
    together: Tensor
    spread: Tensor
    distances: Tensor

    @model_validator(mode="after")
    def _fits(self) -> SourceFeatures:
        shapes = {
            "moments": (len(self.moments), len(self.moments)),
            "seen": (NUM_QUANTILES,),
            "together": (MAX_ATOMIC_NUMBER + 1, MAX_ATOMIC_NUMBER + 1),
            "spread": (len(self.spread), len(self.spread)),
            "distances": (NUM_QUANTILES,),
        }
        for name, shape in shapes.items():
            tensor = getattr(self, name)
            if tuple(tensor.shape) != shape or not torch.isfinite(tensor).all():
                raise ValueError(f"{name} has no finite numbers of shape {shape}")
        return self


class BranchUncertainty(BaseModel):
    """What is known of a branch's energies besides the weights; see the module's formula.

    Attributes:
        sources: What the branch saw, by source.
        regulariser: rho.
        factor: alpha, in eV/atom.
        num_validation: Structures that these two were chosen on.
        num_groups: Groups that these belong to; errors within a group are alike, so few groups
            calibrate badly.
    """

    model_config = ConfigDict(frozen=True)

    sources: dict[str, SourceFeatures] = Field(min_length=1)
    regulariser: FiniteFloat = Field(gt=0)
    factor: FiniteFloat = Field(ge=0)
    num_validation: int = Field(gt=0)
    num_groups: int = Field(gt=0)

    @model_validator(mode="after")
    def _alike(self) -> BranchUncertainty:
        if len({len(one.moments) for one in self.sources.values()}) > 1:
            raise ValueError("its sources have different numbers of features")
        return self

    def plain(self) -> dict[str, object]:
        """As a model file holds it: plain values and tensors."""
        sources = {name: dict(one) for name, one in self.sources.items()}
        return {**dict(self), "sources": sources}

    @property
    def together(self) -> BoolArray:
        """Which elements occur together in training structures of any source, (119, 119)."""
        seen = [one.together.cpu().numpy().astype(bool) for one in self.sources.values()]
        return np.asarray(np.logical_or.reduce(seen))

    @cached_property
    def covariance(self) -> FloatArray:
        """C over the training structures of all sources, (K, K)."""
        counts = [one.num_structures for one in self.sources.values()]
        moments = [one.moments.cpu().double().numpy() for one in self.sources.values()]
        return np.asarray(np.average(moments, axis=0, weights=counts))

    @cached_property
    def _whitening(self) -> FloatArray:
        return whitening(self.covariance, self.regulariser)

    def leverage(self, features: FloatArray) -> FloatArray:
        """phi^T (C + rho I)^-1 phi of each structure, (S,), from its phi, (S, K)."""
        return squared_norms(features, self._whitening)

    def energy_ev_per_atom(self, features: FloatArray) -> FloatArray:
        """Standard deviations of energies per atom in eV/atom, (S,), from phi, (S, K)."""
        return self.factor * np.sqrt(self.leverage(features))


class Calibration(NamedTuple):
    """rho and alpha of the module's formula."""

    regulariser: float
    factor: float


def calibrate(covariance: FloatArray, features: FloatArray, error: FloatArray) -> Calibration:
    """Choose rho and alpha.

    Args:
        covariance: C, (K, K).
        features: phi of validation structures, (S, K), at least one.
        error: Errors of their energies per atom in eV/atom, (S,).
    """
    size = float(np.trace(covariance)) / len(covariance)
    unlikely = []
    for regulariser in _REGULARISERS * size:
        leverage = squared_norms(features, whitening(covariance, regulariser))
        variance = max(float(np.mean(error**2 / leverage)), np.finfo(float).tiny)
        # Minus twice the logarithm of the likelihood, with the best factor for this regulariser.
        unlikely.append(math.log(variance) + float(np.mean(np.log(leverage))))
    # Of those that are as good, the largest: the others count what is rounded off features.
    as_good = np.flatnonzero(np.array(unlikely) <= min(unlikely) + _AS_GOOD)
    best = float(_REGULARISERS[as_good[-1]] * size)
    leverage = squared_norms(features, whitening(covariance, best))
    # One more than there are: so nine tenths hold for a new structure, too.
    rank = min(math.ceil(COVERAGE * (len(error) + 1)), len(error))
    scaled = np.sort(np.abs(error) / np.sqrt(leverage))
    return Calibration(best, float(scaled[rank - 1]) / HALF_WIDTH)


def whitening(covariance: FloatArray, regulariser: float) -> FloatArray:
    """W with W W^T = (C + rho I)^-1, (K, K)."""
    shifted = covariance + regulariser * np.eye(len(covariance))
    return np.asarray(np.linalg.inv(np.linalg.cholesky(shifted)).T)


def squared_norms(rows: FloatArray, white: FloatArray) -> FloatArray:
    """Squared lengths of x^T W, (S,), from the rows x, (S, K), and W, (K, K)."""
    product = _product(rows, white)
    return np.asarray(np.einsum("sk,sk->s", product, product))


def _product(left: FloatArray, right: FloatArray) -> FloatArray:
    """Product of matrices, with as many threads as torch may use.

    NumPy's product takes all cores, whatever torch was told, and its threads spin for some
    milliseconds after it: fifty times what one of these takes.
    """
    return np.asarray((torch.from_numpy(left) @ torch.from_numpy(right)).numpy())


def pairs_never_seen(structures: StructureBatch, together: BoolArray) -> BoolArray:
    """Which structures hold an element never seen, or two never seen in one structure, (S,).

    Args:
        structures: S structures.
        together: Which elements were, (119, 119).
    """
    found = compositions(structures.num_atoms, structures.atomic_numbers)
    # How many of the pairs of a composition are among those never seen. As a product of matrices it
    # takes a twentieth of the time of one sum over pairs of elements.
    present = (found.counts > 0).astype(np.float64)
    apart = _product(present, (~together).astype(np.float64))
    return np.asarray((apart * present).any(axis=1))[found.member]


def name_unseen_pairs(numbers: npt.ArrayLike, together: BoolArray) -> tuple[str, ...]:
    """What of the elements of a structure was never seen: ``Cu``, and of those that were, ``N-O``.

    Args:
        numbers: Atomic numbers, (N,).
        together: Which elements were seen in one structure, (119, 119).
    """
    elements = np.unique(numbers)
    is_seen = together.diagonal()[elements]
    seen = elements[is_seen]
    apart = np.triu(~together[np.ix_(seen, seen)], k=1)
    symbols = [chemical_symbols[number] for number in seen]
    return (
        *(chemical_symbols[number] for number in elements[~is_seen]),
        *(f"{symbols[i]}-{symbols[j]}" for i, j in np.argwhere(apart)),
    )


def share_below(values: FloatArray, of: FloatArray) -> FloatArray:
    """Share of a sample that is smaller than each of some numbers, from its quantiles.

    Args:
        values: The numbers, (S,).
        of: Quantiles of the sample, (101,).
    """
    return np.interp(values, of, np.linspace(0, 1, len(of)))


def quantiles(values: FloatArray) -> Tensor:
    """`NUM_QUANTILES` quantiles of some numbers (S,), at least one."""
    return torch.from_numpy(np.quantile(values, np.linspace(0, 1, NUM_QUANTILES)))
