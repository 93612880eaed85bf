"""What stages and the loader need to find, around structures that are made up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mtlpar.core.paths import Workspace
from mtlpar.core.products import ExtractedManifest
from mtlpar.core.records import write_content
from mtlpar.core.structures import StructureBatch
from mtlpar.extract.findings import Findings
from mtlpar.graph.fingerprint import fingerprints
from mtlpar.store.bp import BpReader, write_bp


def write_extracted(workspace: Workspace, source: str, batches: Iterable[StructureBatch]) -> None:
    """Write parts and their manifest as the extract stage would, one part for each batch."""
    folder = workspace.extracted_folder(source)
    parts = []
    for index, batch in enumerate(batches):
        batch.fingerprint = fingerprints(batch)
        name = f"made-up-{index:05d}.bp"
        size = {"num_structures": len(batch), "num_atoms": batch.total_atoms}
        write_bp(folder / name, [batch], attributes={}, **size)
        with BpReader(folder / name) as reader:
            parts.append({"name": name, **size, "data_digest": reader.data_digest})
    rows = sum(part["num_structures"] for part in parts)
    checks = Findings().as_dict()
    labels = {**checks["labels"], "isolated_atoms_ev": {}}
    file = {"name": "made-up", "sha256": "0" * 64, "rows": rows, "dropped": {}, "damage": []}
    manifest = {
        "source": source,
        "level_of_theory": "none",
        "given_splits": False,
        "rows": rows,
        "dropped": {},
        "checks": {**checks, "labels": labels},
        "files": [{**file, "checks": checks}],
        "parts": parts,
    }
    write_content(workspace.extracted_manifest(source), ExtractedManifest, manifest)


def pack_attributes(source: str, references_ev: Mapping[str, float]) -> dict[str, Any]:
    """What the pack stage says of the training pack of a source."""
    units = {"energy": "ev_per_atom", "force": "ev_per_angstrom"}
    return {
        "source": source,
        "seed": 0,
        "split_by": "groups",
        "leaky": False,
        "num_labels": {"energy": 1, "forces": 1, "stress": 0},
        "level_of_theory": "none",
        "references_ev": dict(references_ev),
        "train_statistics": {
            f"{label}_{size}_{unit}": 1.0
            for label, unit in units.items()
            for size in ("mean_abs", "rms")
        },
        "raw_files": {},
        "split": "train",
    }
