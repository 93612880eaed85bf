"""Which part of a stage's work falls to one of several jobs, perhaps on other nodes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Share:
    """The part of a source's work that one of several jobs does.

    Attributes:
        index: Which of them.
        count: How many there are.
    """

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Share:
        """Read ``2-of-8``, the third of eight.

        Raises:
            ValueError: If it is written otherwise or not among them.
        """
        index, separator, count = text.partition("-of-")
        if separator and index.isdigit() and count.isdigit() and int(index) < int(count):
            return cls(int(index), int(count))
        raise ValueError(f"share {text!r} must look like 0-of-8, the first of eight")

    def __str__(self) -> str:
        return f"{self.index}-of-{self.count}"

    def of_file(self, file: int, files: int) -> slice | None:
        """Pieces of a file that fall to this share: every so many from some on; None for none.

        With fewer shares than files a share has whole files, so that none is unpacked twice.
        """
        sharers = [one for one in range(self.count) if one % files == file] or [file % self.count]
        if self.index not in sharers:
            return None
        return slice(sharers.index(self.index), None, len(sharers))
