"""In which directions the sources of a model pull its encoder.

With L_t the part of the objective that belongs to source t (`mtlpar.train.objective`) and

    g_t = dL_t / d(encoder),

the encoder moves along sum_t g_t. Two sources help each other, to first order, where

    cos_tu = g_t . g_u / (|g_t| |g_u|)

is above zero: a small step that lowers one loss lowers the other. Each g_t is summed over passes
and ranks before anything is multiplied, so that no layout changes a cosine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from mtlpar.core.collective import collective
from mtlpar.core.grouping import grouped
from mtlpar.core.wording import counted
from mtlpar.train.objective import Objective


class EncoderGradients:
    """Gradients of the encoder by source, of one step."""

    def __init__(self, encoder: nn.Module, objective: Objective) -> None:
        """Begin a step.

        Args:
            encoder: The encoder; what does not move has no part in it.
            objective: What is minimised.
        """
        self._parameters = [one for one in encoder.parameters() if one.requires_grad]
        self._objective = objective
        size = sum(one.numel() for one in self._parameters)
        like = self._parameters[0]
        self._sums = like.new_zeros(len(objective.sources), size)

    def add(self, terms: Tensor, sources: Iterable[str]) -> None:
        """Add what one pass contributes; its graph is kept for the backward pass of the step.

        Args:
            terms: Its terms, (T, 3), as `Objective.terms` gives them.
            sources: Sources that have structures in it.
        """
        for row, source in enumerate(self._objective.sources):
            if source not in sources:
                continue
            loss = (self._objective.weights[row].to(terms) * terms[row]).sum()
            found = torch.autograd.grad(
                loss, self._parameters, retain_graph=True, materialize_grads=True
            )
            self._sums[row] += torch.cat([one.reshape(-1) for one in found])

    @collective
    def products(self) -> Tensor:
        """g_t . g_u of the global batch, (T, T) float64."""
        if dist.is_initialized():
            dist.all_reduce(self._sums)
        sums = self._sums.double()
        return (sums @ sums.T).cpu()


def as_history(sources: Sequence[str], products: Tensor) -> dict[str, Any]:
    """What a line of the history says: the norm of each g_t, and cosines of all pairs.

    Args:
        sources: Sources in the order of the products.
        products: g_t . g_u, (T, T).
    """
    norms = products.diagonal().sqrt().tolist()
    cosines = {
        f"{sources[one]} {sources[other]}": float(products[one, other])
        / (norms[one] * norms[other])
        for one, other in combinations(range(len(sources)), 2)
        # A source without structures in the step pulls nowhere.
        if norms[one] and norms[other]
    }
    return {"norms": dict(zip(sources, norms, strict=True)), "cosines": cosines}


class PairCosine(NamedTuple):
    """How two sources pulled over a training.

    Attributes:
        pair: The sources.
        mean: Mean cosine.
        error: Its standard error, from ten consecutive parts of the training.
        by_part: Mean cosine in each of them, in order.
        steps: Steps that were measured.
    """

    pair: tuple[str, str]
    mean: float
    error: float
    by_part: tuple[float, ...]
    steps: int

    @property
    def verdict(self) -> str:
        """What two standard errors allow to say."""
        if abs(self.mean) <= 2 * self.error:
            return "undecided"
        return "together" if self.mean > 0 else "against each other"


_PARTS = 10


def pair_cosines(lines: Iterable[Mapping[str, Any]]) -> list[PairCosine]:
    """Mean cosines of all pairs over a training.

    Args:
        lines: Lines of its history.

    Raises:
        ValueError: If it was not measured, or too seldom for standard errors.
    """
    found: dict[tuple[str, str], list[float]] = {}
    for line in lines:
        for pair, cosine in line.get("encoder_gradients", {}).get("cosines", {}).items():
            one, other = pair.split()
            found.setdefault((one, other), []).append(cosine)
    if not found or min(map(len, found.values())) < _PARTS:
        most = max(map(len, found.values()), default=0)
        raise ValueError(
            f"the directions of the sources were measured in {counted(most, 'step')}, expected at "
            f"least {_PARTS} with both sources of every pair: train with train.cosine_steps, for "
            "instance 10, a model of several sources"
        )
    return [_pair(pair, cosines) for pair, cosines in found.items()]


def _pair(pair: tuple[str, str], cosines: Sequence[float]) -> PairCosine:
    # Steps that follow one another see like weights: their cosines are not independent.
    parts = [float(part.mean()) for part in np.array_split(np.array(cosines), _PARTS)]
    error = float(np.std(parts, ddof=1) / np.sqrt(_PARTS))
    return PairCosine(pair, float(np.mean(cosines)), error, tuple(parts), len(cosines))


def suggested_groups(pairs: Sequence[PairCosine]) -> list[tuple[str, ...]]:
    """Groups of sources of which all pairs pull together, the strongest pair first.

    Args:
        pairs: All pairs of some sources.
    """
    together = {frozenset(one.pair) for one in pairs if one.verdict == "together"}
    sources = dict.fromkeys(name for one in pairs for name in one.pair)
    strongest_first = [one.pair for one in sorted(pairs, key=lambda one: -one.mean)]
    return grouped(sources, strongest_first, lambda one, other: {one, other} in together)


def table(pairs: Sequence[PairCosine]) -> str:
    """Pairs with their cosines, from pulling together to pulling against each other."""
    width = max(len(" ".join(one.pair)) for one in pairs) + 2
    lines = [f"{'sources':{width}}{'cosine':>18}{'first tenth':>13}{'last tenth':>12}  verdict"]
    for one in sorted(pairs, key=lambda one: -one.mean):
        cosine = f"{one.mean:.3f} ± {one.error:.3f}"
        ends = f"{one.by_part[0]:13.3f}{one.by_part[-1]:12.3f}"
        lines.append(f"{' '.join(one.pair):{width}}{cosine:>18}{ends}  {one.verdict}")
    groups = "; ".join(" ".join(group) for group in suggested_groups(pairs))
    return "\n".join([*lines, "", f"groups of which all pairs pull together: {groups}"])
