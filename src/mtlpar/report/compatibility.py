"""Table and figure of the compatibility study: which sources help each other, and which harm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from scipy.special import stdtrit

from mtlpar.core.grouping import grouped
from mtlpar.core.measurements import CompatibilityRecord, LevelsRecord
from mtlpar.core.wording import counted
from mtlpar.report.grid import Cell, Grid, format_number, text_row
from mtlpar.report.heatmap import draw_cell
from mtlpar.report.names import source_title
from mtlpar.report.style import DIVERGING, FAINT

_LABELS: Final = ("energy", "forces")
_ALL: Final = "all"
_CONFIDENCE: Final = 0.95
# An interval within a tenth of one says that there is no effect worth speaking of, also beside one;
# a wider one that crosses one says nothing.
_NO_EFFECT: Final = 1.1
# Fewer geometries say little of two levels of theory.
_FEWEST_SHARED: Final = 10
_NONE: Final = "–"
_HEADER: Final = (
    "Source", "With", "Energy (×)", "energy interval", "energy verdict", "Forces (×)",
    "forces interval", "forces verdict", "Cosine", "Shared", "Mean (eV/atom)", "Spread",
)  # fmt: skip

Sources = tuple[str, ...]


class Ratio(NamedTuple):
    """Error of a source with others over its error alone.

    Attributes:
        mean: Geometric mean over the seeds.
        low: Lower end of its interval.
        high: Upper end.
    """

    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """What the interval allows to say."""
        if self.low >= 1 / _NO_EFFECT and self.high <= _NO_EFFECT:
            return "none"
        if self.high < 1:
            return "gain"
        return "harm" if self.low > 1 else "undecided"


def ratio_of(together: Sequence[float], alone: Sequence[float]) -> Ratio:
    """Ratio of errors, and its interval of 95 % by Student's t over logarithms of the seeds.

    Args:
        together: Errors with others, one for each seed.
        alone: Errors alone with the same seeds.
    """
    logs = np.log(np.divide(together, alone))
    mean = logs.mean()
    error = logs.std(ddof=1) / np.sqrt(len(logs))
    half = error * stdtrit(len(logs) - 1, (1 + _CONFIDENCE) / 2)
    return Ratio(*(float(np.exp(one)) for one in (mean, mean - half, mean + half)))


@dataclass(frozen=True)
class Measured:
    """Records of a study, by sources and seed."""

    records: Mapping[Sources, Mapping[int, CompatibilityRecord]]

    @classmethod
    def of(cls, records: Sequence[CompatibilityRecord]) -> Measured:
        """Gather records."""
        found: dict[Sources, dict[int, CompatibilityRecord]] = {}
        for record in sorted(records, key=lambda one: one.seed):
            found.setdefault(record.sources, {})[record.seed] = record
        return cls(found)

    @property
    def sources(self) -> Sources:
        """All sources."""
        return max(self.records, key=len)

    def pair(self, one: str, other: str) -> Mapping[int, CompatibilityRecord]:
        """Records of a pair by seed, in whichever order."""
        return self.records[(one, other) if (one, other) in self.records else (other, one)]

    def ratio(self, source: str, other: str, label: str) -> Ratio | None:
        """What another source, or all of them, does to the errors of one; None without labels."""
        mixture = self.records[self.sources] if other == _ALL else self.pair(source, other)
        alone = self.records[(source,)]
        if label not in alone[min(alone)].errors[source]:
            return None
        return ratio_of(
            *([run[seed].errors[source][label] for seed in alone] for run in (mixture, alone))
        )

    def cosine(self, one: str, other: str) -> float:
        """Mean cosine of the encoder's gradients in the model of all, over the seeds."""
        names = (f"{one} {other}", f"{other} {one}")
        runs = self.records[self.sources].values()
        found = [run.cosines[name] for run in runs for name in names if name in run.cosines]
        return float(np.mean(found))

    def levels(self, one: str, other: str) -> LevelsRecord:
        """How far their levels of theory are apart; the same with every seed."""
        runs = self.pair(one, other)
        found = runs[min(runs)].levels
        assert found is not None, "records of two sources have levels"
        return found

    def may_share_a_branch(self, one: str, other: str) -> bool:
        """Whether neither harms the other, and a branch could not tell their levels apart.

        That is so for the same level of theory, and where energies of one geometry differ by less
        (root mean square) than either model alone errs.
        """
        ratios = [
            self.ratio(*pair, label) for pair in ((one, other), (other, one)) for label in _LABELS
        ]
        if any(ratio is not None and ratio.verdict == "harm" for ratio in ratios):
            return False
        levels = self.levels(one, other)
        if levels.difference is None or levels.same or levels.shared < _FEWEST_SHARED:
            return levels.same
        errors = [
            np.mean([run.errors[source]["energy"] for run in self.records[(source,)].values()])
            for source in (one, other)
        ]
        return bool(np.hypot(*levels.difference) < min(errors))


def suggested_branches(measured: Measured) -> list[Sources]:
    """Groups of sources of which every two may share a branch; those that pull alike come first."""
    pairs = sorted(combinations(measured.sources, 2), key=lambda pair: -measured.cosine(*pair))
    return grouped(measured.sources, pairs, measured.may_share_a_branch)


def compatibility_grid(records: Sequence[CompatibilityRecord]) -> Grid:
    """What each source gains or loses by each other one, and by all."""
    measured = Measured.of(records)
    partners = {
        source: [*(other for other in measured.sources if other != source), _ALL]
        for source in measured.sources
    }
    seeds = len(measured.records[measured.sources])
    branches = "; ".join(" + ".join(group) for group in suggested_branches(measured))
    return Grid(
        label="compatibility",
        title="Which sources help each other",
        caption="Test error of a source when the encoder is trained with another one, or all, too, "
        f"over that of the source alone: geometric mean over {counted(seeds, 'seed')} with the "
        f"interval of 95 % by their spread (Student's t), {counted(records[0].epochs, 'epoch')} "
        "each. None: the interval is within a tenth of 1; gain or harm: it is below or above 1; "
        "else undecided. Cosine: of the encoder's gradients in that of all. Shared: geometries "
        "that both have; mean and spread of the difference of their energies there (source minus "
        "the other), references removed. Suggested branches, where no two harm each other and "
        f"levels of theory differ by less than the error alone: {branches}.",
        columns="llrllrllrrrr",
        header=_HEADER,
        rows=tuple(
            _row(measured, source, other) for source, others in partners.items() for other in others
        ),
    )


def _row(measured: Measured, source: str, other: str) -> tuple[Cell, ...]:
    texts = [source, other]
    for label in _LABELS:
        ratio = measured.ratio(source, other, label)
        texts += (
            [_NONE] * 3
            if ratio is None
            else [f"{ratio.mean:.2f}", f"{ratio.low:.2f} to {ratio.high:.2f}", ratio.verdict]
        )
    if other == _ALL:
        return text_row(*texts, *[_NONE] * 4)
    levels = measured.levels(source, other)
    texts.append(f"{measured.cosine(source, other):.2f}")
    if levels.difference is None:
        return text_row(*texts, *[_NONE] * 3)
    mean, spread = levels.difference
    # The record has the difference of the first source minus the second.
    sign = 1 if measured.sources.index(source) < measured.sources.index(other) else -1
    return text_row(*texts, str(levels.shared), format_number(sign * mean), format_number(spread))


def draw_compatibility(records: Sequence[CompatibilityRecord]) -> Figure:
    """Heat maps: ratios of errors of energies and forces, and cosines of gradients."""
    measured = Measured.of(records)
    count = len(measured.sources)
    figure = Figure(figsize=(3 * (1.2 + 0.55 * count) + 1.2, 1.8 + 0.42 * count))
    for axes, label in zip(figure.subplots(1, 3), (*_LABELS, None), strict=True):
        _draw_map(axes, measured, label)
    figure.supxlabel(
        "error with the source of the column, or all, over the error alone; boxed: gain or harm, "
        "beyond the spread of the seeds; ?: undecided",
        fontsize=8,
        color=FAINT,
    )
    return figure


def _draw_map(axes: Axes, measured: Measured, label: str | None) -> None:
    """Ratios of errors of a label; cosines without one."""
    rows, columns = measured.sources, [*measured.sources, *([_ALL] if label else [])]
    # Red is harm in all maps; a factor of two, or a cosine of one, is as dark as can be.
    norm = Normalize(-1, 1, clip=True)
    for y, source in enumerate(rows):
        for x, other in enumerate(columns):
            ratio = measured.ratio(source, other, label) if label and source != other else None
            if source == other or (label and ratio is None):
                axes.text(x, y, _NONE, ha="center", va="center", color=FAINT)
                continue
            cosine = 0.0 if ratio else measured.cosine(source, other)
            shade = np.log2(ratio.mean) if ratio else -cosine
            color = matplotlib.colormaps[DIVERGING](float(norm(shade)))
            verdict = ratio.verdict if ratio else None
            text = f"{ratio.mean if ratio else cosine:.2f}{'?' * (verdict == 'undecided')}"
            is_boxed = verdict in ("gain", "harm")
            draw_cell(axes, x, y, text=text, color=color, is_boxed=is_boxed)
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    titles = [source_title(name) for name in columns]
    axes.set_xticks(range(len(columns)), titles, rotation=45, ha="right")
    axes.set_yticks(range(len(rows)), titles[: len(rows)])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(f"Error of {label}, with / alone" if label else "Cosine of gradients")
