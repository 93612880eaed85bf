"""What the packs of a source say about their data without being read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from mtlpar.core.files import read_json
from mtlpar.core.paths import Workspace
from mtlpar.store.bp import BpReader


def read_header(workspace: Workspace, source: str) -> dict[str, Any]:
    """Attributes of a source's training pack, with the digests of train and val.

    Raises:
        ValueError: If the packs are missing or damaged.
    """
    with BpReader(workspace.pack(source, "train"), stage="pack") as reader:
        digests = {
            split: read_json(workspace.pack_manifest(source, split), stage="pack")["data_digest"]
            for split in ("train", "val")
        }
        return {**reader.attributes, "data_digests": digests}


def training_digest(header: Mapping[str, Any]) -> str:
    """One digest of all that a model learns from a source: structures, labels and references.

    Packs hold total energies; what is learned is left when references are taken off.

    Args:
        header: What `read_header` returns.
    """
    content = [header["data_digests"], header["references_ev"]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
