"""Runs the pack stage for one source."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np

from mtlpar.core.fields import FIELDS, SPLITS
from mtlpar.core.files import read_json, write_json
from mtlpar.core.hashing import derive_seed, mix64
from mtlpar.core.paths import Workspace
from mtlpar.core.structures import StructureBatch, iterate_slices
from mtlpar.pack.settings import PackSettings
from mtlpar.store.bp import SCHEMA_VERSION, write_bp
from mtlpar.store.extracted import ExtractedSource

logger = logging.getLogger(__name__)

PACKED_FIELDS = tuple(name for name, field in FIELDS.items() if field.packed)


def run(source: str, *, workspace: Workspace, settings: PackSettings, seed: int) -> None:
    """Write train, val and test of one source, each shuffled, and their manifests last.

    The order within a split follows from hashes of the structures, so equal data give equal bytes
    whatever the order of the raw files. A pack holds total energies and, as attributes, the
    references that take them off: changing how a target is built never needs a repack.

    Args:
        source: Name of the source.
        workspace: Paths of all products.
        settings: Size of the blocks.
        seed: The run's seed.

    Raises:
        ValueError: If a split is empty.
    """
    extracted = ExtractedSource(workspace, source)
    split = np.load(workspace.splits(source))
    references = read_json(workspace.references(source))
    for index, name in enumerate(SPLITS):
        batch = StructureBatch.concatenate(
            part
            for _, part in extracted.iterate(
                split == index, block_structures=settings.block_structures
            )
        )
        if len(batch) == 0:
            raise ValueError(
                f"{source}: no structure for the split {name!r}; see {workspace.ledger(source)} "
                "for where the rows went, and normalize.*_fraction in the config"
            )
        attributes: dict[str, Any] = {
            "source": source,
            "split": name,
            "seed": seed,
            "level_of_theory": references["level_of_theory"],
            "references_ev": references["energies_ev"],
            "train_statistics": references["train_statistics"],
            "raw_files": {file["name"]: file["sha256"] for file in extracted.manifest["files"]},
        }
        digest = _write_split(batch, workspace, settings, attributes)
        logger.info("%s %s: %d structures, %d atoms", source, name, len(batch), batch.total_atoms)
        write_json(
            workspace.pack_manifest(source, name),
            {
                "source": source,
                "split": name,
                "schema_version": SCHEMA_VERSION,
                "num_structures": len(batch),
                "num_atoms": batch.total_atoms,
                "data_digest": digest,
            },
        )


def _write_split(
    batch: StructureBatch, workspace: Workspace, settings: PackSettings, attributes: dict[str, Any]
) -> str:
    seed = derive_seed(attributes["seed"], "shuffle", attributes["source"], attributes["split"])
    order = np.argsort(mix64(batch.structure_id ^ np.uint64(seed)), kind="stable")
    digest = hashlib.sha256()

    def blocks() -> Iterator[StructureBatch]:
        for start, stop in iterate_slices(len(batch), settings.block_structures):
            block = batch.take(order[start:stop])
            for name in PACKED_FIELDS:
                digest.update(getattr(block, name).tobytes())
            yield block

    write_bp(
        workspace.pack(attributes["source"], attributes["split"]),
        blocks(),
        num_structures=len(batch),
        num_atoms=batch.total_atoms,
        attributes=attributes,
        fields=PACKED_FIELDS,
    )
    return digest.hexdigest()
