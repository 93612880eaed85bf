"""The record of a run: which job made some outputs, of what and with which settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from pydantic import ConfigDict, Field

from mtlpar.core.records import Count, Digest, DigestedRecord, Record, read_record

# Stages whose command has another name, and what says their target.
_COMMANDS: Final = {"find_leaks": "leaks", "extract_share": "extract", "pack_share": "pack",
                    "study": "study draw"}  # fmt: skip
_OPTIONS: Final = {
    "--source": ("download", "extract", "normalize", "pack"),
    "--model": ("train", "evaluate"),
    "--item": ("report",),
    "--study": ("study",),
}


def command_of(stage: str, target: str) -> str:
    """What users type to run a stage on a target."""
    words = f"mtlpar {_COMMANDS.get(stage, stage)}"
    options = (f" {option} {target}" for option, stages in _OPTIONS.items() if stage in stages)
    return words + next(options, "")


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
    command = _COMMANDS.get(stage, stage)
    return read_record(path, RunRecord, stage=command, expected={"stage": stage, "target": target})
