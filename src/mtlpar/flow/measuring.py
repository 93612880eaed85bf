"""How many nodes and ranks the measurements of the studies run on, for their rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from mtlpar.config import Config
from mtlpar.study.records import memory_ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One kind of measurement.

    Attributes:
        ranks: Ranks of a measurement, by the wildcards of its rule.
        options: Options of the command that say which measurement it is, by the same.
        minutes: Walltime that always suffices.
    """

    ranks: Callable[[Config, Mapping[str, str]], int]
    options: Callable[[Mapping[str, str]], str]
    minutes: int

    def nodes(self, config: Config) -> Callable[[Mapping[str, str]], int]:
        """Nodes, by the wildcards of the rule."""
        return lambda wildcards: study_nodes(config, self.ranks(config, wildcards))

    def ranks_per_node(self, config: Config) -> Callable[[Mapping[str, str]], int]:
        """Ranks on each of these nodes, by the wildcards of the rule."""
        return lambda wildcards: study_ranks_per_node(config, self.ranks(config, wildcards))

    def tasks_per_node(self, config: Config) -> Callable[[Mapping[str, str]], int]:
        """Tasks to ask Slurm for on each of these nodes: its plugin refuses one; two hold it."""
        return lambda wildcards: max(2, self.ranks_per_node(config)(wildcards))


MEASUREMENTS: Final = {
    "memory": Measurement(
        ranks=lambda _, wildcards: memory_ranks(wildcards["layout"], int(wildcards["branches"])),
        options=lambda wildcards: (
            f"--layout {wildcards['layout']} --branches {wildcards['branches']}"
        ),
        minutes=20,
    ),
    "scaling": Measurement(
        ranks=lambda _, wildcards: int(wildcards["ranks"]), options=lambda _: "", minutes=30
    ),
    "comm": Measurement(
        ranks=lambda config, _: config.study.comm.ranks,
        options=lambda wildcards: f"--layout {wildcards['layout']}",
        minutes=20,
    ),
}
"""What each study measures."""

TRAININGS: Final[Mapping[str, Callable[[Mapping[str, str]], str]]] = {
    "transfer": lambda wildcards: f"--family {wildcards['family']} --seed {wildcards['seed']}",
    "compatibility": lambda wildcards: (
        f"--mixture {wildcards['mixture']} --seed {wildcards['seed']}"
    ),
}
"""Options of the studies whose measurements are trainings, by the wildcards of their rules."""


def study_nodes(config: Config, ranks: int) -> int:
    """Nodes for so many ranks of a study."""
    return -(-ranks // config.study.ranks_per_node)


def study_ranks_per_node(config: Config, ranks: int) -> int:
    """Ranks on each of these nodes.

    Raises:
        ValueError: If the ranks do not fill them evenly.
    """
    nodes = study_nodes(config, ranks)
    if ranks % nodes:
        raise ValueError(
            f"study: {ranks} ranks do not fill {nodes} nodes evenly; "
            "change study.ranks_per_node or the numbers of ranks"
        )
    return ranks // nodes
