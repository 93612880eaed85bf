"""The record of a run: which job made some outputs, of what and with which settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field

from mtlpar.core.records import Count, Digest, DigestedRecord, Record, read_record


class AttemptRecord(Record):
    """One attempt at a stage: when, for how many seconds, where, and how it ended."""

    started: Annotated[float, Field(ge=0, le=1e11)]
    seconds: float
    host: str
    job: str
    nodes: Count
    ranks: Count
    outcome: str


class RunRecord(DigestedRecord):
    """``results/provenance/<stage>/<target>.json``: what made some outputs, of what.

    Other versions note other things besides, which are passed over, and older ones no digest of the
    record. Digests are None for what is no file; settings are those of the stage as JSON.
    """

    # Not ignored: the record's digest is of them too.
    model_config = ConfigDict(extra="allow")

    stage: str
    target: str
    outputs: dict[str, Digest | None]
    settings: str | None = None
    inputs: dict[str, Digest | None]
    config_digest: Digest
    code_digest: str
    config: str
    versions: dict[str, str]
    machine: dict[str, str]
    attempts: Annotated[tuple[AttemptRecord, ...], Field(min_length=1)]
    node_hours: float
    digest: str = ""


def read_run(path: Path) -> RunRecord:
    """Read the record of a run.

    Raises:
        ValueError: If it is missing or damaged.
    """
    stage, target = path.parent.name, path.stem
    return read_record(path, RunRecord, stage=stage, expected={"stage": stage, "target": target})
