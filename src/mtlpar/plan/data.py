"""Predicts time, memory and disk of the stages that prepare data, from rates and dataset sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mtlpar.plan.machine import DataRates, Machine
from mtlpar.plan.workload import Dataset

STAGES: Final = ("download", "extract", "normalize", "pack", "load")

# extract and pack stream: a job holds blocks of a bounded size.
_STREAMING_BYTES: Final = 1e9
# A structure of a source that is normalized, as benchmarks/normalize.py measures it.
_NORMALIZE_BYTES: Final = 130.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCost:
    """What one stage takes for one source.

    Attributes:
        source: The source.
        stage: The stage.
        seconds: Time.
        memory_bytes: Memory of all its jobs together.
        disk_bytes: What it leaves on disk.
    """

    source: str
    stage: str
    seconds: float
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
                f"{', '.join(rates.extract_structures_per_s)}. Measure with --measure"
            )
        count, packed = dataset.structures, dataset.pack_bytes
        streaming = _STREAMING_BYTES * cores
        extract_rate = rates.extract_structures_per_s[dataset.name]
        by_stage = {
            "download": (dataset.raw_bytes / (rates.download_mb_per_s * 1e6), 0.0),
            "extract": (count / extract_rate / cores, streaming),
            "normalize": (
                count / rates.normalize_structures_per_s,
                count * _NORMALIZE_BYTES,
            ),
            "pack": (count / rates.pack_structures_per_s / cores, streaming),
            "load": (count / rates.load_structures_per_s / cores, packed),
        }
        disk = {"download": dataset.raw_bytes, "extract": packed, "pack": packed}
        costs += [
            StageCost(
                source=dataset.name,
                stage=stage,
                seconds=by_stage[stage][0],
                memory_bytes=by_stage[stage][1],
                disk_bytes=disk.get(stage, 0.0),
            )
            for stage in STAGES
        ]
    return costs
