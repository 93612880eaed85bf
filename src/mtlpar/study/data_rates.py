"""Measures the rates of the stages that prepare data, on the embedded sample."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np

from mtlpar.core.hashing import derive_seed, mix64
from mtlpar.core.paths import IN_PROJECT, Workspace
from mtlpar.core.products import ExtractedManifest, RawManifest
from mtlpar.core.records import read_record, write_content
from mtlpar.core.structures import StructureBatch, content_hash
from mtlpar.download import stage as download
from mtlpar.download.settings import DownloadSettings
from mtlpar.extract import stage as extract
from mtlpar.extract.piece import PieceTask, extract_piece
from mtlpar.extract.settings import ExtractSettings
from mtlpar.graph.fingerprint import fingerprints
from mtlpar.normalize import stage as normalize
from mtlpar.normalize.settings import NormalizeSettings
from mtlpar.pack import stage as pack
from mtlpar.pack.settings import PackSettings
from mtlpar.plan.machine import DataRates
from mtlpar.plan.workload import PACK_BYTES_PER_ATOM, PACK_BYTES_PER_STRUCTURE
from mtlpar.sources.base import RawBlock, Source
from mtlpar.sources.registry import get_source
from mtlpar.store.bp import BpReader, write_bp
from mtlpar.store.dataset import PackedDataset
from mtlpar.store.extracted import ExtractedSource
from mtlpar.store.pack import Pack

SAMPLE: Final = Path("workflow/sample")
_REPEATS: Final = 2
# As many as make what a stage costs once not count.
_ROWS_READ: Final = 5_000
_STRUCTURES: Final = 50_000
_GROUP_ROWS: Final = 1_000
_POSITIONS_OF_GROUPS: Final = {"ani1x": "coordinates", "transition1x": "positions"}
_NOISE_ANGSTROM: Final = 1e-3
# What nobody measures by downloading: a usual rate of one host.
_DOWNLOAD_MB_PER_S: Final = 20.0


def measure_data_rates(sources: Sequence[str], *, like: DataRates | None = None) -> DataRates:
    """Run the stages on the embedded sample, many times over, and take the best CPU times.

    Files are read again and again within one run, and the other stages get displaced copies of
    the structures: what a stage costs once does not count, as it does not in the real archives.

    Args:
        sources: Sources to read.
        like: Where the rate of downloads comes from.

    Raises:
        ValueError: If the sample is not there.
    """
    if not SAMPLE.is_dir():
        raise ValueError(f"there is no embedded sample at {SAMPLE}; {IN_PROJECT} (--sample)")
    structures = atoms = 0
    read: dict[str, float] = {}
    seconds = {"normalize": 0.0, "pack": 0.0, "load": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(raw=Path(folder) / "raw", results=Path(folder) / "results")
        for source in sources:
            sample = DownloadSettings(mirrors=(str(SAMPLE),))
            download.run(source, workspace=workspace, settings=sample, catalogue=Path())
            read[source] = _rounded(_reading_rate(source, workspace))
            extract.run(source, workspace=workspace, settings=ExtractSettings())
            copies, their_atoms = _multiply(source, workspace)
            structures, atoms = structures + copies, atoms + their_atoms
            for stage, used in _seconds_of_stages(source, workspace).items():
                seconds[stage] += used
    return DataRates(
        download_mb_per_s=like.download_mb_per_s if like else _DOWNLOAD_MB_PER_S,
        extract_structures_per_s=read,
        normalize_structures_per_s=_rounded(structures / seconds["normalize"]),
        pack_structures_per_s=_rounded(structures / seconds["pack"]),
        load_structures_per_s=_rounded(structures / seconds["load"]),
        bytes_per_structure=_rounded(
            PACK_BYTES_PER_STRUCTURE + PACK_BYTES_PER_ATOM * atoms / structures
        ),
    )


def _reading_rate(source: str, workspace: Workspace) -> float:
    """Rows per second of CPU time that a source's first raw file adds to a run."""
    definition = get_source(source)
    files = read_record(workspace.raw_manifest(source), RawManifest, stage="download").files
    name = next(file.name for file in files if file.kind == "data")
    path = workspace.raw_folder(definition.files_name) / name
    if source in _POSITIONS_OF_GROUPS:
        path = _lengthen_groups(path, _POSITIONS_OF_GROUPS[source])
    return reading_rate(definition, path, workspace.extracted_folder(source))


def reading_rate(source: Source, path: Path, folder: Path) -> float:
    """Rows per second of CPU time that a raw file adds to a run of extract.

    Args:
        source: What reads it.
        path: The file; it is read as often as makes what a run costs once not count.
        folder: Where its structures go.
    """
    rows: dict[int, int] = {}

    def read_times(times: int) -> None:
        task = PieceTask(
            source=replace(source, read=partial(_again, source.read, times), divide=None),
            path=path,
            sha256="0" * 64,
            piece=None,
            folder=folder,
            name="rate",
            fingerprint="",
            level_of_theory="xTB",
            settings=ExtractSettings(),
            show_progress=False,
        )
        task.record.unlink(missing_ok=True)
        rows[times] = extract_piece(task).rows

    once = _seconds(partial(read_times, 1))
    times = 1 + -(-_ROWS_READ // rows[1])
    more = _seconds(partial(read_times, times))
    return (rows[times] - rows[1]) / max(more - once, 1e-9)


def _lengthen_groups(path: Path, positions: str) -> Path:
    """A copy of an HDF5 file with as many rows in each group as the real files have.

    The sample's groups are short, and opening them would take nearly all of the time.
    """
    copy = path.with_name(f"long-{path.name}")
    shutil.copyfile(path, copy)
    with h5py.File(copy, "r+") as file:
        groups: list[h5py.Group] = []
        file.visititems(lambda _, found: groups.append(found) if _has(found, positions) else None)
        for group in groups:
            rows = len(group[positions])
            for name in [name for name in group if name != "atomic_numbers" and rows > 1]:
                if isinstance(group[name], h5py.Dataset) and group[name].shape[:1] == (rows,):
                    values = group[name][()]
                    del group[name]
                    group[name] = np.concatenate([values] * -(-_GROUP_ROWS // rows))
    return copy


def _has(found: Any, name: str) -> bool:
    return isinstance(found, h5py.Group) and name in found


def _again(
    read: Callable[..., Iterator[RawBlock]], times: int, *arguments: Any
) -> Iterator[RawBlock]:
    for _ in range(times):
        yield from read(*arguments)


def _multiply(source: str, workspace: Workspace) -> tuple[int, int]:
    """Put displaced copies in the place of the extracted structures.

    Returns:
        How many structures and atoms there are then.
    """
    extracted = ExtractedSource(workspace, source)
    batch = StructureBatch.concatenate(BpReader(part).read() for part in extracted.part_paths)
    rng = np.random.default_rng(derive_seed(0, "data rates", source))
    copies = []
    for index in range(-(-_STRUCTURES // len(batch))):
        noise = rng.normal(0, _NOISE_ANGSTROM, batch.positions.shape)
        moved = {
            "positions": batch.positions + noise,
            "group": mix64(batch.group + np.uint64(index)),
        }
        copy = StructureBatch({**batch.columns(), **moved})
        copy.structure_id = content_hash(copy)
        copy.fingerprint = fingerprints(copy)
        copies.append(copy)
    count, atoms = len(copies) * len(batch), len(copies) * batch.total_atoms
    path = workspace.extracted_folder(source) / "copies.bp"
    write_bp(path, copies, num_structures=count, num_atoms=atoms, attributes={})
    part = {
        "name": path.name,
        "num_structures": count,
        "num_atoms": atoms,
        "data_digest": BpReader(path).data_digest,
    }
    content = extracted.manifest.given()
    file = {**content["files"][0], "rows": count, "dropped": {}}
    whole = {"rows": count, "dropped": {}, "files": [file], "parts": [part]}
    manifest = workspace.extracted_manifest(source)
    write_content(manifest, ExtractedManifest, {**content, **whole})
    return count, atoms


def _seconds_of_stages(source: str, workspace: Workspace) -> dict[str, float]:
    settings = NormalizeSettings(val_fraction=0.1, test_fraction=0.1)

    def load() -> None:
        for split in ("train", "val", "test"):
            PackedDataset(Pack.of(workspace, source, split))

    stages: dict[str, Callable[[], None]] = {
        "normalize": lambda: normalize.run(source, workspace=workspace, settings=settings, seed=0),
        "pack": lambda: pack.run(source, workspace=workspace, settings=PackSettings(), seed=0),
        "load": load,
    }
    return {stage: _seconds(work) for stage, work in stages.items()}


def _seconds(work: Callable[[], None]) -> float:
    """CPU time of all threads, the best of several runs."""
    times = []
    for _ in range(_REPEATS):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
