"""Measures the rates of the stages that prepare data, on the embedded sample."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from mtlpar.core.paths import Workspace
from mtlpar.download import stage as download
from mtlpar.download.settings import DownloadSettings
from mtlpar.extract import stage as extract
from mtlpar.extract.settings import ExtractSettings
from mtlpar.normalize import stage as normalize
from mtlpar.normalize.settings import NormalizeSettings
from mtlpar.pack import stage as pack
from mtlpar.pack.settings import PackSettings
from mtlpar.plan.machine import DataRates
from mtlpar.store.dataset import PackedDataset

SAMPLE: Final = Path("workflow/sample")
_REPEATS: Final = 3
# What nobody measures by downloading: a usual rate of one host.
_DOWNLOAD_MB_PER_S: Final = 20.0


def measure_data_rates(sources: Sequence[str], *, like: DataRates | None = None) -> DataRates:
    """Run the stages on the embedded sample and take the best times.

    The sample is small, so that what a stage costs once weighs more than in the real archives:
    these rates are lower limits.

    Args:
        sources: Sources to read.
        like: Where the rate of downloads comes from.

    Raises:
        ValueError: If the sample is not there.
    """
    if not SAMPLE.is_dir():
        raise ValueError(f"there is no embedded sample at {SAMPLE}; run in the repository")
    structures = 0
    read: dict[str, float] = {}
    seconds = {"normalize": 0.0, "pack": 0.0, "load": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(raw=Path(folder) / "raw", results=Path(folder) / "results")
        for source in sources:
            count, times = _measure(source, workspace)
            structures += count
            read[source] = _rounded(count / times["extract"])
            for stage in seconds:
                seconds[stage] += times[stage]
    return DataRates(
        download_mb_per_s=like.download_mb_per_s if like else _DOWNLOAD_MB_PER_S,
        extract_structures_per_s=read,
        normalize_structures_per_s=_rounded(structures / seconds["normalize"]),
        pack_structures_per_s=_rounded(structures / seconds["pack"]),
        load_structures_per_s=_rounded(structures / seconds["load"]),
    )


def _measure(source: str, workspace: Workspace) -> tuple[int, dict[str, float]]:
    """Structures of a source's sample, and the seconds of each stage."""
    sample = DownloadSettings(mirrors=(str(SAMPLE),))
    download.run(source, workspace=workspace, settings=sample, catalogue=Path())

    def load() -> int:
        return sum(
            len(PackedDataset(workspace.pack(source, split))) for split in ("train", "val", "test")
        )

    settings = NormalizeSettings(val_fraction=0.1, test_fraction=0.1)
    stages: dict[str, Callable[[], object]] = {
        "extract": lambda: extract.run(source, workspace=workspace, settings=ExtractSettings()),
        "normalize": lambda: normalize.run(source, workspace=workspace, settings=settings, seed=0),
        "pack": lambda: pack.run(source, workspace=workspace, settings=PackSettings(), seed=0),
        "load": load,
    }
    times = {stage: min(_seconds(work) for _ in range(_REPEATS)) for stage, work in stages.items()}
    return load(), times


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
