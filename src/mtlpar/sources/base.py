"""What a source of structures is: the contract between readers and the extract stage.

A reader streams one raw file and yields blocks of columns. It never holds the whole file, never
guesses, and accounts for every row: what it does not yield it counts under a reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from mtlpar.core.structures import StructureBatch
from mtlpar.sources.settings import SourceSettings

DAMAGED_RECORD: Final = "damaged_record"
"""Reason under which rows are counted that are there but cannot be understood."""

_MAX_KEYS: Final = 100
_MAX_VALUES: Final = 20
_SAME_ENERGY_EV: Final = 1e-6


@dataclass(slots=True)
class Choice:
    """A key whose value decides what a row is used for.

    Attributes:
        key: The key in the files.
        wanted: Values that the configuration names.
        values: How many rows have each value; of others than these the first twenty.
    """

    key: str
    wanted: tuple[str, ...]
    values: Counter[str] = field(default_factory=Counter)

    def see(self, values: Mapping[str, int]) -> None:
        """Take in how many rows have each value."""
        for value, count in values.items():
            if value in self.wanted or value in self.values or len(self.values) < _MAX_VALUES:
                self.values[value] += count

    def unmet(self) -> str | None:
        """What no row has, and what there is instead; None if every wanted value occurs."""
        absent = [value for value in self.wanted if not self.values[value]]
        if not absent:
            return None
        there = ", ".join(f"{value} ({count})" for value, count in sorted(self.values.items()))
        return f"no structure has {' or '.join(map(repr, absent))} under the key {self.key!r}; " + (
            f"there are {there}" if there else "none has this key"
        )


@dataclass(slots=True)
class LabelUse:
    """Which labels rows have, which of them are used, and which that were asked for they lack.

    A key that no row has is a mistake; one that some rows lack is perhaps none, so it is counted.

    Attributes:
        rows: Rows looked at that were not left out.
        lacking: How many of them have no such label, by option and key: ``charge_key: total``.
        keys: Labels that any row has, left out ones too; at least the first hundred.
        unused: How many rows have a label that nothing reads, by its key.
        isolated_atoms_ev: Energies of isolated atoms by chemical symbol.
        choices: Values that decide what rows are used for, by option; of left out rows too.
    """

    rows: int = 0
    lacking: Counter[str] = field(default_factory=Counter)
    keys: set[str] = field(default_factory=set)
    unused: Counter[str] = field(default_factory=Counter)
    isolated_atoms_ev: dict[str, float] = field(default_factory=dict)
    choices: dict[str, Choice] = field(default_factory=dict)

    def see(self, keys: Iterable[str], used: Container[str]) -> None:
        """Take in the labels that a row has, and which keys mean something."""
        for key in keys:
            # Files may have a key of its own in every row.
            if key in self.keys or len(self.keys) < _MAX_KEYS:
                self.keys.add(key)
                if key not in used:
                    self.unused[key] += 1

    def count(self, lacking: Iterable[str]) -> None:
        """Take in a row that was not left out."""
        self.rows += 1
        self.lacking.update(lacking)

    def note_isolated(self, symbol: str, energy_ev: float, where: str) -> None:
        """Take in the energy of an isolated atom.

        Raises:
            ValueError: If another one was seen before.
        """
        known = self.isolated_atoms_ev.setdefault(symbol, energy_ev)
        if abs(known - energy_ev) > _SAME_ENERGY_EV:
            raise ValueError(
                f"{where}: an isolated atom {symbol} has {energy_ev} eV, another one {known} eV; "
                "keep one, or tell levels of theory apart with `where`"
            )

    def merge(self, other: LabelUse) -> None:
        """Take in what other rows have."""
        self.rows += other.rows
        self.lacking.update(other.lacking)
        self.unused.update(other.unused)
        self.keys.update(sorted(other.keys)[: max(0, _MAX_KEYS - len(self.keys))])
        for symbol, energy_ev in other.isolated_atoms_ev.items():
            self.note_isolated(symbol, energy_ev, "another file of the source")
        for option, choice in other.choices.items():
            self.choices.setdefault(option, Choice(choice.key, choice.wanted)).see(choice.values)

    def take(self) -> LabelUse:
        """Return what was taken in since the last time."""
        taken = replace(self)
        self.rows, self.lacking, self.keys = 0, Counter(), set()
        self.unused, self.isolated_atoms_ev = Counter(), {}
        self.choices = {
            option: Choice(choice.key, choice.wanted) for option, choice in self.choices.items()
        }
        return taken


@dataclass(frozen=True, slots=True)
class RawBlock:
    """Consecutive rows of a raw file.

    Attributes:
        batch: The usable structures, in file order.
        dropped: Rows that cannot be used, counted by reason. The rows of the block are
            ``len(batch)`` plus all of these.
        damage: What is wrong with the first row counted as `DAMAGED_RECORD`, or with something
            whose rows cannot be counted. The extract stage stops there, or goes on if the user
            wants it to.
        labels: What labels the rows have, where the configuration says which to read.
    """

    batch: StructureBatch
    dropped: Counter[str] = field(default_factory=Counter)
    damage: str | None = None
    labels: LabelUse = field(default_factory=LabelUse)

    @property
    def rows(self) -> int:
        """Rows of the raw file that this block accounts for."""
        return len(self.batch) + sum(self.dropped.values())


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a raw file that can be read by itself, perhaps by another process.

    Attributes:
        start: First row, group or byte, as the reader counts.
        stop: The one after the last.
        unpacked: The file to read instead of the raw one, for readers that must unpack it first.
    """

    start: int
    stop: int
    unpacked: Path | None = None


ReadFunction = Callable[..., Iterator[RawBlock]]
"""``read(path, settings)``, and ``read(path, settings, piece)`` where the source can divide."""

DivideFunction = Callable[[Path, int], AbstractContextManager[list[Piece]]]
"""``divide(path, piece_bytes)``: pieces of about that many bytes, usable inside the context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One source of structures.

    Attributes:
        name: Name in config, results and tables.
        title: Name for people.
        data_files: Names or shell patterns of the raw files that hold structures.
        sidecar_files: Names or shell patterns of raw files that a reader needs beside them; each
            must be there.
        needs_all_files: Whether each of ``data_files`` must be there, not only one.
        level_of_theory: How the labels were computed, with the default settings.
        read: Streams one data file, or one piece of it; raises ValueError that names file and key
            where it cannot go on.
        divide: Cuts a data file into pieces. All pieces one after another must give the same
            structures as the whole file, and the cuts may depend on nothing but the file and the
            size. Left out where a file can only be read from start to end.
        level_of_theory_for: How the labels were computed, where that depends on the settings.
        mirrors: Where its files are, if not where those of all sources are.
        files_of: The source whose raw files it reads, where several labels are in one file: they
            are downloaded and kept once, under that name.
        has_given_splits: Whether ``official_split`` is the user's, of every row, and kept as it is.
        group_of_name: Hash of a group by its name, where sources of the configuration may name the
            same groups: see `CustomSource.groups_like`.
    """

    name: str
    title: str
    data_files: tuple[str, ...]
    sidecar_files: tuple[str, ...] = ()
    needs_all_files: bool = False
    level_of_theory: str
    read: ReadFunction
    divide: DivideFunction | None = None
    level_of_theory_for: Callable[[SourceSettings], str] | None = None
    mirrors: tuple[str, ...] = ()
    files_of: str | None = None
    has_given_splits: bool = False
    group_of_name: Callable[[str], int] | None = None

    @property
    def files_name(self) -> str:
        """Name under which catalogue, mirrors and the folder of raw files have its files."""
        return self.files_of or self.name

    def theory(self, settings: SourceSettings) -> str:
        """How the labels were computed that these settings choose."""
        if self.level_of_theory_for is None:
            return self.level_of_theory
        return self.level_of_theory_for(settings)

    def is_data_file(self, file_name: str) -> bool:
        """Whether a file of that name holds structures of this source."""
        return any(matches(file_name, pattern) for pattern in self.data_files)

    def is_sidecar_file(self, file_name: str) -> bool:
        """Whether a file of that name belongs beside this source's data files."""
        return any(matches(file_name, pattern) for pattern in self.sidecar_files)


def matches(file_name: str, pattern: str) -> bool:
    """Whether a name fits a shell pattern; hidden files, as in a shell, only fit one with a dot.

    Names and patterns may have folders, ``run*/frames.xyz``: each part fits its own. macOS puts a
    hidden ``._name`` beside each file that it copies.
    """
    parts, wanted = file_name.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(_part_matches, parts, wanted))


def _part_matches(name: str, pattern: str) -> bool:
    is_hidden = name.startswith(".") and not pattern.startswith(".")
    return fnmatchcase(name, pattern) and not is_hidden
