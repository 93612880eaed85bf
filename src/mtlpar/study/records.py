"""Which measurements make up a study. Light: every command imports it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mtlpar.core.paths import Workspace
    from mtlpar.study.settings import StudySettings

STUDIES = ("memory", "scaling", "comm", "transfer", "compatibility")
LAYOUTS = ("mtl-base", "mtl-par")
# Memory and communication are also those of an encoder spread over all ranks.
SHARDED = "mtl-par-sharded"
ALL_LAYOUTS = (*LAYOUTS, SHARDED)
# A rank of MTL-base holds the same whatever the number of ranks; two of them reduce.
_BASE_RANKS = 2


def records_of(
    study: str, workspace: Workspace, settings: StudySettings, sources: Sequence[str]
) -> list[Path]:
    """Files that a study is drawn from."""
    if study == "memory":
        return [
            workspace.memory_record(layout, branches)
            for branches in settings.memory.branches
            for layout in ALL_LAYOUTS
        ]
    if study == "comm":
        return [workspace.comm_record(layout) for layout in ALL_LAYOUTS]
    if study == "transfer":
        return [
            workspace.transfer_record(family, seed)
            for family in settings.transfer.families
            for seed in range(settings.transfer.seeds)
        ]
    if study == "compatibility":
        return [
            workspace.compatibility_record("+".join(mixture), seed)
            for mixture in mixtures(sources)
            for seed in range(settings.compatibility.seeds)
        ]
    return [workspace.scaling_record(ranks) for ranks in settings.scaling.ranks]


def mixtures(sources: Sequence[str]) -> list[tuple[str, ...]]:
    """Each source alone, each pair, and all together."""
    every = [*combinations(sources, 1), *combinations(sources, 2), tuple(sources)]
    return list(dict.fromkeys(every))


def memory_ranks(layout: str, branches: int) -> int:
    """Ranks on which memory is measured: one per branch for MTL-par."""
    return _BASE_RANKS if layout == "mtl-base" else branches
