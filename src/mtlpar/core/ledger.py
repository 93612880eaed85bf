"""The ledger: every row of the raw files ends in exactly one place, and the books balance."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtlpar.core.fields import SPLITS
from mtlpar.core.files import read_json, write_json


@dataclass(kw_only=True)
class Ledger:
    """Where the rows of one source went.

    Attributes:
        rows: Structures in the raw files.
        splits: Structures in each of train, val and test.
        dropped: Structures left out, by reason.
    """

    rows: int = 0
    splits: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    dropped: Counter[str] = field(default_factory=Counter)

    def check(self, where: str) -> None:
        """Make sure that no row is lost or counted twice.

        Raises:
            ValueError: If rows and destinations do not add up.
        """
        total = sum(self.splits.values()) + sum(self.dropped.values())
        if total != self.rows:
            raise ValueError(
                f"ledger of {where} does not balance: {self.rows} rows were read, but "
                f"{self.splits} + dropped {dict(self.dropped)} = {total}"
            )

    def as_dict(self) -> dict[str, Any]:
        """Plain content, as it is written to ``results/ledger/<source>.json``."""
        return {"rows": self.rows, **self.splits, "dropped": dict(sorted(self.dropped.items()))}

    def write(self, path: Path) -> None:
        """Check the books and write them."""
        self.check(path.stem)
        write_json(path, self.as_dict())

    @classmethod
    def read(cls, path: Path) -> Ledger:
        """Read a ledger written by `write`."""
        content = read_json(path)
        return cls(
            rows=content["rows"],
            splits={split: content[split] for split in SPLITS},
            dropped=Counter(content["dropped"]),
        )
