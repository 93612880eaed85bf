"""What a check of the machine found, and the table of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Level = Literal["ok", "note", "FAULT"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        check: What was looked at.
        result: What is there.
        level: ``ok``; ``note`` for what may be meant; ``FAULT`` for what will fail or be slow.
        advice: What to do about it.
    """

    check: str
    result: str
    level: Level = "ok"
    advice: str = ""


def as_table(findings: Sequence[Finding]) -> str:
    """One line per finding, its advice below it."""
    width = max(len(finding.check) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<5}  {finding.check:<{width}}  {finding.result}")
        if finding.advice:
            lines.append(f"{'':<5}  {'':<{width}}  -> {finding.advice}")
    return "\n".join(lines)


def as_plain(findings: Sequence[Finding]) -> list[dict[str, str]]:
    """Findings as JSON values."""
    return [asdict(finding) for finding in findings]
