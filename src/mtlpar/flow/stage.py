"""What a stage of the workflow promises: one contract for rules, records and commands."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mtlpar.config import Config

Outputs = dict[str, list[Path]]


def _nothing(_config: Config, _target: str) -> list[Path]:
    return []


def _no_settings(_config: Config, _target: str) -> str:
    return plain_settings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What a stage reads, writes and depends on.

    All functions take the configuration and the target; those that the outputs come from also take
    a target with wildcards in it, such as ``"{source}"``.

    Attributes:
        name: Name of the stage; also that of its rule, unless each target has a rule.
        target: What the stage works on, with wildcards where there are several.
        outputs: Files it writes, by the name that they have in the rule.
        code: Digest of the code that makes them.
        inputs: Files it reads.
        settings: What the outputs depend on besides inputs and code.
        after: Files that must be there first, but whose changes do not matter.
        folders: Folders it writes besides; one of the outputs speaks for each.
        rule_per_target: Whether each target has a rule of its name.
    """

    name: str
    target: str
    outputs: Callable[[Config, str], Outputs]
    code: Callable[[Config, str], str]
    inputs: Callable[[Config, str], list[Path]] = _nothing
    settings: Callable[[Config, str], str] = _no_settings
    after: Callable[[Config, str], list[Path]] = _nothing
    folders: Callable[[Config, str], list[Path]] = _nothing
    rule_per_target: bool = False

    def rule_of(self, target: str) -> str:
        """Name of the rule that runs the stage on a target."""
        return target if self.rule_per_target else self.name

    def output_files(self, config: Config, target: str) -> list[Path]:
        """Files the stage writes, in one list."""
        return [path for paths in self.outputs(config, target).values() for path in paths]


def plain_settings(*blocks: BaseModel | int | Sequence[str] | Mapping[str, Any]) -> str:
    """What a stage depends on besides its inputs, as one line of JSON.

    Snakemake runs a job again when this line changes, and only then: a stage is given just the
    blocks that it reads.
    """
    plain = [
        block.model_dump(mode="json") if isinstance(block, BaseModel) else block for block in blocks
    ]
    return json.dumps(plain, ensure_ascii=False)
