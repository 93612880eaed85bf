"""Closes the books: what became of every row of every raw file of a source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from mtlpar.core.fields import SPLITS
from mtlpar.core.ledger import Ledger, SplitBy
from mtlpar.core.products import ExtractedManifest
from mtlpar.core.wording import counted
from mtlpar.normalize.split import DROPPED, SplitArray

BoolArray = npt.NDArray[np.bool_]


class Books:
    """Follows the extracted structures of a source from raw files to splits.

    Attributes:
        split: Split of each structure, `DROPPED` where it was left out, (S,).
        file_names: Raw files in the order of their structures.
        file_ends: The structure after the last of each file.
    """

    def __init__(self, manifest: ExtractedManifest, split: SplitArray) -> None:
        """Open the books.

        Args:
            manifest: The extract stage's manifest.
            split: Split of each extracted structure, (S,).

        Raises:
            ValueError: If the manifest's files do not add up to the structures.
        """
        self.split = split
        self._source = manifest.source
        self._files = manifest.files
        self._dropped = [Counter[str](file.dropped) for file in self._files]
        self.file_names: list[str] = [file.name for file in self._files]
        kept = [file.rows - sum(file.dropped.values()) for file in self._files]
        self.file_ends: npt.NDArray[np.int64] = np.cumsum(kept, dtype=np.int64)
        if sum(kept) != len(split):
            raise ValueError(
                f"{self._source}: the extract stage kept {counted(sum(kept), 'row')} by its "
                f"manifest, but its parts hold {counted(len(split), 'structure')}; run "
                "mtlpar extract again"
            )

    def drop(self, mask: BoolArray, reason: str) -> None:
        """Leave out the structures in ``mask`` (S,) that are still in."""
        mask = mask & (self.split != DROPPED)
        for counter, count in zip(self._dropped, self._by_file(mask), strict=True):
            if count:
                counter[reason] += count
        self.split[mask] = DROPPED

    def close(
        self, split_by: SplitBy, *, is_leaky: bool, without: Mapping[str, BoolArray]
    ) -> Ledger:
        """The ledger, with one of its own for each raw file.

        Args:
            split_by: What was dealt to the splits.
            is_leaky: Whether frames of one group lie in several of them.
            without: Structures that lack each label, (S,).
        """
        is_kept = self.split != DROPPED
        lacking = {label: self._by_file(is_kept & rows) for label, rows in without.items()}
        counts = [self._by_file(self.split == index) for index in range(len(SPLITS))]
        files = {
            file.name: Ledger(
                rows=file.rows,
                splits=dict(zip(SPLITS, of_file, strict=True)),
                dropped=dropped,
                without=Counter({label: by_file[index] for label, by_file in lacking.items()}),
                damage=list(file.damage),
            )
            for index, (file, dropped, of_file) in enumerate(
                zip(self._files, self._dropped, zip(*counts, strict=True), strict=True)
            )
        }
        ledger = Ledger.total(files.values(), split_by=split_by, is_leaky=is_leaky, files=files)
        ledger.check(self._source)
        return ledger

    def _by_file(self, mask: BoolArray) -> list[int]:
        running = np.concatenate([[0], np.cumsum(mask, dtype=np.int64)])
        counts: list[int] = np.diff(running[self.file_ends], prepend=0).tolist()
        return counts
