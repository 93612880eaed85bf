"""Which measurements make up a study. Light: every command imports it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mtlpar.study.settings import StudySettings

STUDIES = ("memory", "scaling", "comm", "transfer", "compatibility")
LAYOUTS = ("mtl-base", "mtl-par")
# Memory and communication are also those of an encoder spread over all ranks.
SHARDED = "mtl-par-sharded"
ALL_LAYOUTS = (*LAYOUTS, SHARDED)
# A rank of MTL-base holds the same whatever the number of ranks; two of them reduce.
_BASE_RANKS = 2


def measurements(study: str, settings: StudySettings, sources: Sequence[str]) -> list[str]:
    """Names of the measurements that a study is drawn from.

    Raises:
        ValueError: If the configuration has nothing to measure.
    """
    if study == "memory":
        return [
            f"{layout}-{branches}"
            for branches in settings.memory.branches
            for layout in ALL_LAYOUTS
        ]
    if study == "scaling":
        return [f"{ranks}-ranks" for ranks in settings.scaling.ranks]
    if study == "comm":
        return list(ALL_LAYOUTS)
    if study == "transfer":
        if not settings.transfer.families:
            raise ValueError(
                "the transfer study needs a family of structures that no model has seen; describe "
                "one in study.transfer.families"
            )
        subjects, seeds = list(settings.transfer.families), settings.transfer.seeds
    else:
        if len(sources) < 2:
            raise ValueError(
                "the compatibility study needs at least two sources; list more in sources"
            )
        subjects = ["+".join(mixture) for mixture in mixtures(sources)]
        seeds = settings.compatibility.seeds
    return [f"{subject}-{seed}" for subject in subjects for seed in range(seeds)]


def mixtures(sources: Sequence[str]) -> list[tuple[str, ...]]:
    """Each source alone, each pair, and all together."""
    every = [*combinations(sources, 1), *combinations(sources, 2), tuple(sources)]
    return list(dict.fromkeys(every))


def memory_ranks(layout: str, branches: int) -> int:
    """Ranks on which memory is measured: one per branch for MTL-par."""
    return _BASE_RANKS if layout == "mtl-base" else branches
