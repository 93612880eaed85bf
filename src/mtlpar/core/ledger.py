"""The ledger: every row of the raw files ends in exactly one place, and the books balance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mtlpar.core.fields import SPLITS
from mtlpar.core.records import Count, Record, read_record, write_content

SplitBy = Literal["groups", "frames", "blocks", "given"]
"""What was dealt to the splits; `NormalizeSettings.split` explains them."""


class _Rows(Record):
    """Where rows went, as a file says it."""

    rows: Count
    train: Count
    val: Count
    test: Count
    dropped: dict[str, Count]
    kept_without: dict[str, Count]


class _FileRows(_Rows):
    """The same of a raw file."""

    name: str
    damage: tuple[str, ...]


class LedgerRecord(_Rows):
    """``results/ledger/<source>.json``."""

    source: str
    split_by: SplitBy
    leaky: bool
    files: tuple[_FileRows, ...]


@dataclass(kw_only=True)
class Ledger:
    """Where the rows of one source, or of one raw file, went.

    Attributes:
        rows: Structures in the raw files.
        splits: Structures in each of train, val and test.
        dropped: Structures left out, by reason.
        without: Structures in the splits that lack a label, by label.
        split_by: What was dealt to the splits.
        is_leaky: Whether frames of one molecule or material may lie in several splits.
        files: The same for each raw file by name, where the rows are those of a source.
        damage: What of a raw file could not be read and was skipped: the place, and how far it was
            read. Rows after that are not in the books, for nobody knows how many there are.
    """

    rows: int = 0
    splits: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    dropped: Counter[str] = field(default_factory=Counter)
    without: Counter[str] = field(default_factory=Counter)
    split_by: SplitBy = "groups"
    is_leaky: bool = False
    files: dict[str, Ledger] = field(default_factory=dict)
    damage: list[str] = field(default_factory=list)

    @property
    def lost(self) -> int:
        """Rows that went nowhere; anything but zero is an error."""
        return self.rows - sum(self.splits.values()) - sum(self.dropped.values())

    @classmethod
    def total(cls, ledgers: Iterable[Ledger], **attributes: Any) -> Ledger:
        """Add up ledgers; ``attributes`` are those that are not added."""
        total = cls(**attributes)
        for ledger in ledgers:
            total.rows += ledger.rows
            total.splits = {split: total.splits[split] + ledger.splits[split] for split in SPLITS}
            total.dropped.update(ledger.dropped)
            total.without.update(ledger.without)
        return total

    def check(self, where: str) -> None:
        """Make sure that no row is lost or counted twice, in any file and in all together.

        Raises:
            ValueError: If rows and destinations do not add up.
        """
        if self.lost:
            raise ValueError(
                f"ledger of {where} does not balance: {self.rows} rows were read, but "
                f"{self.splits} + dropped {dict(self.dropped)} = {self.rows - self.lost}"
            )
        for name, ledger in self.files.items():
            ledger.check(f"{where}, file {name}")
        of_files = Ledger.total(self.files.values())
        if self.files and _plain(of_files) != _plain(self):
            raise ValueError(
                f"ledger of {where} does not balance: its files add up to {_plain(of_files)}, "
                f"expected {_plain(self)}"
            )

    def as_dict(self, source: str) -> dict[str, Any]:
        """Plain content, as it is written to ``results/ledger/<source>.json``."""
        return {
            "source": source,
            "split_by": self.split_by,
            "leaky": self.is_leaky,
            **_plain(self),
            "files": [
                {"name": name, **_plain(ledger), "damage": ledger.damage}
                for name, ledger in self.files.items()
            ],
        }

    def write(self, path: Path) -> None:
        """Check the books and write them."""
        self.check(path.stem)
        write_content(path, LedgerRecord, self.as_dict(path.stem))

    @classmethod
    def read(cls, path: Path) -> Ledger:
        """Read a ledger written by `write`.

        Raises:
            ValueError: If it is missing, is no ledger, is that of another source, or does not
                balance.
        """
        content = read_record(path, LedgerRecord, stage="normalize", expected={"source": path.stem})
        ledger = cls(
            **_from_record(content),
            split_by=content.split_by,
            is_leaky=content.leaky,
            files={
                file.name: cls(**_from_record(file), damage=list(file.damage))
                for file in content.files
            },
        )
        ledger.check(str(path))
        return ledger


def _plain(ledger: Ledger) -> dict[str, Any]:
    dropped = {reason: count for reason, count in sorted(ledger.dropped.items()) if count}
    without = {label: count for label, count in sorted(ledger.without.items()) if count}
    return {"rows": ledger.rows, **ledger.splits, "dropped": dropped, "kept_without": without}


def _from_record(content: _Rows) -> dict[str, Any]:
    return {
        "rows": content.rows,
        "splits": {split: getattr(content, split) for split in SPLITS},
        "dropped": Counter(content.dropped),
        "without": Counter(content.kept_without),
    }
