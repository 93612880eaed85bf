"""Runs the pack stage for one source."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from mtlpar.core.fields import SPLITS
from mtlpar.core.files import file_digest, remove, remove_leftovers, scratch_folder, write_json
from mtlpar.core.hashing import derive_seed, json_digest
from mtlpar.core.paths import Workspace
from mtlpar.core.processes import Workers
from mtlpar.core.products import ReferencesRecord
from mtlpar.core.records import read_record, write_record
from mtlpar.core.share import Share
from mtlpar.core.wording import counted
from mtlpar.pack.kept_runs import KeptRuns
from mtlpar.pack.settings import PackSettings
from mtlpar.pack.shuffle import (
    PACKED_FIELDS,
    BlockTask,
    Run,
    RunTask,
    Shuffle,
    gather_block,
    packed_bytes,
    split_constants,
)
from mtlpar.store.bp import write_bp
from mtlpar.store.extracted import ExtractedSource
from mtlpar.store.pack import Pack, PackManifest

logger = logging.getLogger(__name__)

_RUN_STRUCTURES: Final = 200_000
_HINT: Final = "use fewer jobs, or lower extract.part_structures and pack.block_structures"


def run(
    source: str,
    *,
    workspace: Workspace,
    settings: PackSettings,
    seed: int,
    jobs: int = 1,
    code: str = "",
) -> None:
    """Write train, val and test of one source, each shuffled, and their manifests last.

    The order within a split follows from hashes of the structures, so equal data give equal bytes
    whatever the order of the raw files and the number of jobs and shares. Memory is bounded by a
    few parts and blocks per job, whatever the size of the source; the disk holds a copy of it
    meanwhile. A pack holds total energies and, as attributes, the references that take them off:
    changing how a target is built never needs a repack.

    Args:
        source: Name of the source.
        workspace: Paths of all products.
        settings: Size of the blocks.
        seed: The run's seed.
        jobs: Processes that sort and gather at the same time.
        code: Digest of the code; runs that `sort_share` left under another one are not used.

    Raises:
        ValueError: If splits are out of date, a part is damaged, references are not those
            of the splits, or the disk lacks room.
    """
    work = _Work.of(source, workspace, settings, seed, code)
    references = read_record(
        workspace.references(source),
        ReferencesRecord,
        stage="normalize",
        expected={"source": source, "train_digest": work.extracted.train_digest(work.split)},
    )
    folder = workspace.pack(source, SPLITS[0]).parent
    for name in SPLITS:
        remove(workspace.pack_manifest(source, name))
    remove_leftovers(folder)
    _check_disk(work, folder)
    with Workers(jobs, hint=_HINT) as workers, scratch_folder(folder / "runs") as scratch:
        tasks = list(work.tasks(scratch))
        sorting = workers.map(work.kept.find, tasks)
        runs = list(tqdm(sorting, total=len(tasks), desc=f"{source}: sort", disable=None))
        attributes = _attributes(work.extracted, references, seed)
        has = work.extracted.has_labels()
        for index, name in enumerate(SPLITS):
            chosen = work.split == index
            labels = {label: int((rows & chosen).sum()) for label, rows in has.items()}
            of_split = {**attributes, "split": name, "num_labels": labels}
            _write_split(workspace.pack(source, name), index, runs, work.shuffle, of_split, workers)
    _write_manifests(workspace, source)
    remove(work.kept.folder)


def sort_share(
    source: str,
    *,
    share: Share,
    workspace: Workspace,
    settings: PackSettings,
    seed: int,
    jobs: int = 1,
    code: str = "",
) -> None:
    """Sort one share of a source's runs, and keep them on disk for the `run` that packs it.

    Args:
        source: Name of the source.
        share: Which runs.
        workspace: Paths of all products.
        settings: Size of the blocks.
        seed: The run's seed.
        jobs: Processes that sort at the same time.
        code: Digest of the code; runs that other code has sorted are sorted again.

    Raises:
        ValueError: If splits are out of date, a part is damaged, or the disk lacks room.
    """
    work = _Work.of(source, workspace, settings, seed, code)
    _check_disk(work, workspace.pack(source, SPLITS[0]).parent)
    with Workers(jobs, hint=_HINT) as workers:
        tasks = list(work.tasks(work.kept.folder))[share.index :: share.count]
        sorting = workers.map(work.kept.keep, tasks)
        for _ in tqdm(sorting, total=len(tasks), desc=f"{source}: sort {share}", disable=None):
            pass
    write_json(workspace.packed_share(source, str(share)), {"source": source})


@dataclass(frozen=True, slots=True)
class _Work:
    """What is shuffled, and how."""

    extracted: ExtractedSource
    split: npt.NDArray[np.int8]
    shuffle: Shuffle
    kept: KeptRuns

    @classmethod
    def of(
        cls, source: str, workspace: Workspace, settings: PackSettings, seed: int, code: str
    ) -> Self:
        """Look at what is there; the arguments are those of `run`."""
        extracted = ExtractedSource(workspace, source)
        extracted.check_parts()
        split = extracted.splits()
        shuffle = Shuffle(
            seeds=tuple(derive_seed(seed, "shuffle", source, name) for name in SPLITS),
            num_blocks=tuple(
                -(-int((split == index).sum()) // settings.block_structures)
                for index in range(len(SPLITS))
            ),
        )
        of_splits = file_digest(workspace.splits(source))
        depends_on = [code, extracted.digest, of_splits, shuffle.seeds, shuffle.num_blocks]
        kept = KeptRuns(workspace.sorted_runs(source), json_digest(depends_on))
        return cls(extracted, split, shuffle, kept)

    def tasks(self, folder: Path) -> Iterator[RunTask]:
        """Consecutive parts with at most `_RUN_STRUCTURES` structures, or one larger part."""
        first = 0
        for index, (parts, count) in enumerate(self.extracted.groups_of_parts(_RUN_STRUCTURES)):
            split = self.split[first : first + count]
            yield RunTask(parts, split, self.shuffle, folder / f"{index:05d}")
            first += count


def _check_disk(work: _Work, folder: Path) -> None:
    """Look for room for the runs and for what is packed from them, before work is lost."""
    atoms = sum(part.num_atoms for part in work.extracted.manifest.parts)
    needed = 2 * packed_bytes(len(work.extracted), atoms) - work.kept.total_bytes
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(
            f"{folder} has {free / 1e9:.2f} GB free, expected {needed / 1e9:.2f} GB: packing takes "
            "room for two copies of the source, one of them removed at the end"
        )


def _attributes(
    extracted: ExtractedSource, references: ReferencesRecord, seed: int
) -> dict[str, Any]:
    return {
        "source": references.source,
        "seed": seed,
        "split_by": references.split_by,
        "leaky": references.leaky,
        "level_of_theory": references.level_of_theory,
        "references_ev": references.energies_ev,
        "train_statistics": references.train_statistics.given(),
        "raw_files": {file.name: file.sha256 for file in extracted.manifest.files},
    }


def _write_split(
    path: Path,
    index: int,
    runs: Sequence[Run],
    shuffle: Shuffle,
    attributes: dict[str, Any],
    workers: Workers,
) -> None:
    num_blocks = shuffle.num_blocks[index]
    constants = split_constants(runs, index)
    tasks = (
        BlockTask(tuple(run.piece(index, block) for run in runs), shuffle.seeds[index], constants)
        for block in range(num_blocks)
    )
    blocks = workers.map(gather_block, tasks)
    write_bp(
        path,
        tqdm(
            blocks,
            total=num_blocks,
            desc=f"{attributes['source']}: {attributes['split']}",
            disable=None,
        ),
        num_structures=sum(run.rows("structure", index) for run in runs),
        num_atoms=sum(run.rows("atom", index) for run in runs),
        attributes=attributes,
        fields=[field.name for field in PACKED_FIELDS],
        constants=constants,
    )


def _write_manifests(workspace: Workspace, source: str) -> None:
    packs = {split: Pack.open(workspace.pack(source, split)) for split in SPLITS}
    digests = {split: pack.data_digest for split, pack in packs.items()}
    # A pack holds total energies; what is learned is left when the references are taken off.
    learned = [digests[split] for split in ("train", "val")]
    training_digest = json_digest([learned, packs["train"].header.references_ev])
    for split, pack in packs.items():
        manifest = PackManifest(
            source=source,
            split=pack.header.split,
            schema_version=pack.header.schema_version,
            num_structures=len(pack),
            num_atoms=pack.num_atoms,
            data_digest=digests[split],
            training_digest=training_digest,
        )
        write_record(workspace.pack_manifest(source, split), manifest)
        logger.info(
            "%s %s: %s, %s",
            source,
            split,
            counted(manifest.num_structures, "structure"),
            counted(manifest.num_atoms, "atom"),
        )
