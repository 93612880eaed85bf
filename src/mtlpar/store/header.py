"""What the packs of a source say about their data without being read."""

from __future__ import annotations

from typing import Any

from mtlpar.core.files import read_json
from mtlpar.core.paths import Workspace
from mtlpar.store.bp import BpReader


def read_header(workspace: Workspace, source: str) -> dict[str, Any]:
    """Attributes of a source's training pack, with the ``training_digest``.

    Raises:
        ValueError: If the pack is missing or damaged.
    """
    digest = training_digest(workspace, source, "train")
    with BpReader(workspace.pack(source, "train"), stage="pack") as reader:
        return {**reader.attributes, "training_digest": digest}


def training_digest(workspace: Workspace, source: str, split: str) -> str:
    """One digest of all that a model learns from a source: structures, labels and references.

    Every pack of the source has it, that of the test split too, so that a model can be tested
    where the others are not.

    Args:
        workspace: Paths of all products.
        source: Name of the source.
        split: Pack that is there.

    Raises:
        ValueError: If the pack is missing or of an earlier version.
    """
    path = workspace.pack_manifest(source, split)
    digest = read_json(path, stage="pack").get("training_digest")
    if digest is None:
        raise ValueError(f"{path} is of an earlier version; run mtlpar pack again")
    return str(digest)
