"""Predicts time, memory and disk of the stages that prepare data, from rates and dataset sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mtlpar.plan.machine import DataRates, Machine
from mtlpar.plan.workload import Dataset

STAGES: Final = ("download", "extract", "normalize", "pack", "load")
# What lies between a download and the first training.
_PREPARING: Final = ("extract", "normalize", "pack")

# extract and pack stream: a job holds blocks of a bounded size.
_STREAMING_BYTES: Final = 1e9
# Part of packing that one process does, whatever the cores: it writes what others sort and gather.
_WRITING: Final = 0.25
# Part that jobs on several nodes can do (benchmarks/pack.py).
_SORTING: Final = 0.5
# A structure of a source that is normalized, as benchmarks/normalize.py measures it.
_NORMALIZE_BYTES: Final = 130.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCost:
    """What one stage takes for one source.

    Attributes:
        source: The source.
        stage: The stage.
        seconds: Time.
        spreading_s: What of it several nodes can share.
        memory_bytes: Memory of all its jobs together.
        disk_bytes: What it leaves on disk.
    """

    source: str
    stage: str
    seconds: float
    spreading_s: float
    memory_bytes: float
    disk_bytes: float


def rates_of(machine: Machine) -> DataRates:
    """Rates of the data stages.

    Raises:
        ValueError: If the machine's file has none.
    """
    if machine.data is None:
        raise ValueError(
            f"the file of {machine.description} has no rates for data; measure with --measure on "
            "the machine, or take another --machine"
        )
    return machine.data


def plan_data(datasets: Sequence[Dataset], rates: DataRates, *, cores: int) -> list[StageCost]:
    """Predict every stage for every source.

    Args:
        datasets: The sources.
        rates: Structures per second of one core, bytes per second of a download.
        cores: Cores that work on a source side by side; downloads and normalisation do not use
            them.

    Raises:
        ValueError: If there is no rate for reading a source.
    """
    costs = []
    for dataset in datasets:
        if dataset.name not in rates.extract_structures_per_s:
            raise ValueError(
                f"no rate for reading {dataset.name}; there are "
                f"{', '.join(rates.extract_structures_per_s)}. --measure takes those of the "
                "embedded sample, benchmarks/catalogue.py others; write them into a machine file"
            )
        count, packed = dataset.structures, dataset.pack_bytes
        moved = count * _size_factor(dataset, rates)
        streaming = _STREAMING_BYTES * cores
        extract_rate = rates.extract_structures_per_s[dataset.name]
        packing_s = moved / rates.pack_structures_per_s
        by_stage = {
            "download": (dataset.raw_bytes / (rates.download_mb_per_s * 1e6), 0.0),
            "extract": (count / extract_rate / cores, streaming),
            "normalize": (
                count / rates.normalize_structures_per_s,
                count * _NORMALIZE_BYTES,
            ),
            "pack": (packing_s * (_WRITING + (1 - _WRITING) / cores), streaming),
            "load": (moved / rates.load_structures_per_s / cores, packed),
        }
        spreading = {"extract": by_stage["extract"][0], "pack": packing_s * _SORTING / cores}
        disk = {"download": dataset.raw_bytes, "extract": packed, "pack": packed}
        costs += [
            StageCost(
                source=dataset.name,
                stage=stage,
                seconds=by_stage[stage][0],
                spreading_s=spreading.get(stage, 0.0),
                memory_bytes=by_stage[stage][1],
                disk_bytes=disk.get(stage, 0.0),
            )
            for stage in STAGES
        ]
    return costs


def _size_factor(dataset: Dataset, rates: DataRates) -> float:
    """How much longer a structure takes than one of those that were measured: by its bytes."""
    if rates.bytes_per_structure is None:
        return 1.0
    return max(1.0, dataset.bytes_per_structure / rates.bytes_per_structure)


def nodes_to_be_ready(costs: Sequence[StageCost], *, hours: float) -> Mapping[str, int]:
    """Nodes for each source, side by side, to be packed within some hours of the download.

    Reading and sorting spread over nodes (`extract.shares`, `pack.shares`); normalizing, gathering
    and writing of a source stay on one.

    Args:
        costs: What `plan_data` predicts for the cores of one node.
        hours: Time for extract, normalize and pack.

    Raises:
        ValueError: If what stays on one node takes longer for a source.
    """
    nodes = {}
    for source in dict.fromkeys(cost.source for cost in costs):
        mine = [cost for cost in costs if cost.source == source and cost.stage in _PREPARING]
        spreading = sum(cost.spreading_s for cost in mine)
        staying = sum(cost.seconds for cost in mine) - spreading
        if staying >= 3600 * hours:
            raise ValueError(
                f"{source} cannot be ready in {hours:g} h: what stays on one node of normalize and "
                f"pack takes {staying / 3600:.3g} h; give more hours or more cores"
            )
        nodes[source] = max(1, math.ceil(spreading / (3600 * hours - staying)))
    return nodes
