"""What costs a step on many ranks, and who is to blame, from the times of every step and rank.

All ranks have the sum of the gradients at about the same moment, so a step lasts from one such
moment to the next. It goes the way of the rank that arrives last:

    step = compute + data + straggler + collective

compute     what the mean rank does between two sums: update, forward and backward pass
data        what the last rank waited for its loader
straggler   what the last rank computes beyond the mean
collective  the rest: from when the last rank has all its gradients to when the first has the sum,
            what sending held the last rank up, and what it left the sum before later than others

The parts add up in every step. So their covariances with the step add up to its variance, and their
means to its mean; intervals are of resampled steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from mtlpar.core.measurements import StepTraces

FloatArray = npt.NDArray[np.float64]

COLUMNS: Final = ("data", "compute", "sending", "arrived", "left")
"""What is noted of each step of a rank: three times seconds, and moments since the start."""

PARTS: Final = ("compute", "data", "straggler", "collective")
"""What a step is made of; all but the first are lost."""

# Below this share of a step nothing stands out.
_LEAST_SHARE: Final = 0.05
_RESAMPLES: Final = 1000
_COVERAGE: Final = (2.5, 97.5)
# A node whose pairs take so many times as long as those of the median node is slow.
_SLOW_NODE: Final = 2.0


class Interval(NamedTuple):
    """A mean and the interval that holds it in 95 % of resampled steps."""

    mean: float
    low: float
    high: float

    def text(self, scale: float, unit: str) -> str:
        """For people, for instance ``31 [29, 33] %``."""
        mean, low, high = (f"{scale * value:.3g}" for value in self)
        return f"{mean} [{low}, {high}] {unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Steps of all ranks of a run, seconds each, (R, S).

    Attributes:
        data: Waiting for the loader.
        compute: All that the rank did by itself since it had the last sums.
        sending: Handing gradients to the transport.
        arrived: When the rank had all its gradients, since the start.
        left: When it had their sums.
        ranks_per_node: Ranks of a node; nodes hold consecutive ranks.
        pair_seconds: A sum between each node and the next, the last with the first, on an idle
            network; empty where it was not measured.
    """

    data: FloatArray
    compute: FloatArray
    sending: FloatArray
    arrived: FloatArray
    left: FloatArray
    ranks_per_node: int
    pair_seconds: Sequence[float] = ()

    @classmethod
    def of(cls, trace: StepTraces) -> Steps:
        """Those of a record."""
        return cls(
            **{name: np.array(getattr(trace, name)) for name in COLUMNS},
            ranks_per_node=trace.ranks_per_node,
            pair_seconds=trace.pair_seconds,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a step is made of.

    Attributes:
        step: Seconds of a step.
        seconds: Those of each part.
        variance: Share of each part in the variance of the steps; they add up to one.
        cause: The part that costs most beside computing, or None if nothing stands out.
        culprit: Who it is, in words; None if it is nobody in particular.
        excess: Seconds by which the culprit exceeds the other ranks, where one was found by its
            steps.
    """

    step: Interval
    seconds: Mapping[str, Interval]
    variance: Mapping[str, float]
    cause: str | None
    culprit: str | None
    excess: Interval | None

    def lines(self) -> list[str]:
        """Two sentences for people."""
        parts = ", ".join(
            f"{part} {self.seconds[part].text(100 / self.step.mean, '%')}" for part in PARTS
        )
        shares = ", ".join(f"{part} {self.variance[part]:.0%}" for part in PARTS)
        made_of = (
            f"a step of {self.step.text(1e3, 'ms')} is {parts}; of the variance of the steps "
            f"{shares}"
        )
        if self.cause is None:
            return [made_of, f"verdict: nothing above {_LEAST_SHARE:.0%} of a step but computing"]
        who = self.culprit or _NOBODY[self.cause]
        by = f", by {self.excess.text(1e3, 'ms')} a step" if self.excess else ""
        return [made_of, f"verdict: {_NAMES[self.cause]}: {who}{by}"]


_NAMES: Final = {
    "data": "the loader",
    "straggler": "a rank that computes longer",
    "collective": "the sums of gradients",
}
_NOBODY: Final = {
    "data": "on all ranks alike",
    "straggler": "no rank in particular, they take turns",
    "collective": "between all ranks alike",
}


def judge(steps: Steps) -> Verdict:
    """Say what a step is made of, and who costs most.

    Args:
        steps: At least three steps; what happens before the first sum does not count.
    """
    last = steps.arrived.argmax(axis=0)
    ended = steps.left.min(axis=0)
    of_last = np.arange(len(last))
    length = np.diff(ended)
    table = {
        "compute": steps.compute.mean(axis=0)[1:],
        "data": steps.data[last, of_last][1:],
        "straggler": (steps.compute[last, of_last] - steps.compute.mean(axis=0))[1:],
    }
    table["collective"] = length - sum(table.values())
    resample = np.random.default_rng(0).integers(0, len(length), (_RESAMPLES, len(length)))
    seconds = {part: _interval(table[part], resample) for part in PARTS}
    step = _interval(length, resample)
    most = max(PARTS[1:], key=lambda part: seconds[part].mean)
    stands_out = seconds[most].low >= _LEAST_SHARE * step.mean
    culprit = excess = None
    if stands_out:
        held_up = steps.sending + steps.left - ended
        blamed = {"data": steps.data, "straggler": steps.compute, "collective": held_up}[most][
            :, 1:
        ]
        late = _late_ranks(blamed, seconds[most].mean)
        if culprit := _name(late, len(blamed), steps.ranks_per_node):
            others = np.delete(blamed, late, axis=0)
            excess = _interval(blamed[late].mean(axis=0) - others.mean(axis=0), resample)
        elif most == "collective":
            culprit = _slow_node(steps.pair_seconds)
    return Verdict(
        step=step,
        seconds=seconds,
        variance=_shares(table, length),
        cause=most if stands_out else None,
        culprit=culprit,
        excess=excess,
    )


def _interval(values: FloatArray, resample: npt.NDArray[np.int64]) -> Interval:
    low, high = np.percentile(values[resample].mean(axis=1), _COVERAGE)
    return Interval(float(values.mean()), float(low), float(high))


def _shares(table: Mapping[str, FloatArray], length: FloatArray) -> dict[str, float]:
    """Covariance of each part with the step over the variance of the step."""
    deviation = length - length.mean()
    variance = float(deviation @ deviation) or 1.0
    return {
        part: float((table[part] - table[part].mean()) @ deviation) / variance for part in PARTS
    }


def _late_ranks(seconds: FloatArray, lost: float) -> npt.NDArray[np.int64]:
    """Ranks that take longer than others again and again; none if ranks differ by little.

    Args:
        seconds: What is blamed, (R, S).
        lost: What all lose by it in the mean step.
    """
    means = seconds.mean(axis=1)
    between = (means.max() + means.min()) / 2
    if means.max() - means.min() < lost / 2:
        return np.zeros(0, np.int64)
    return np.flatnonzero(means > between)


def _name(late: npt.NDArray[np.int64], ranks: int, ranks_per_node: int) -> str | None:
    """One rank, one node or some ranks; None if it is nobody, or the larger part of all."""
    if len(late) == 0 or 2 * len(late) > ranks:
        return None
    node = int(late[0]) // ranks_per_node
    of_node = np.arange(node * ranks_per_node, min(ranks, (node + 1) * ranks_per_node))
    if len(late) == 1:
        return f"rank {late[0]} on node {node}"
    if late.tolist() == of_node.tolist() and len(of_node) < ranks:
        return f"node {node} (ranks {late[0]}-{late[-1]})"
    return "ranks " + ", ".join(map(str, late.tolist()))


def _slow_node(pair_seconds: Sequence[float]) -> str | None:
    """The node whose both pairs are slow; a chain of two has only one pair."""
    if len(pair_seconds) < 3:
        return None
    pairs = np.array(pair_seconds)
    # Pair n is between node n and the next: node n is in the pairs n - 1 and n.
    of_node = np.minimum(pairs, np.roll(pairs, 1))
    worst = int(of_node.argmax())
    if of_node[worst] < _SLOW_NODE * np.median(of_node):
        return None
    return f"the network of node {worst}"
