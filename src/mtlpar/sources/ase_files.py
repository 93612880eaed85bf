"""Sources that only the configuration knows, in files that ASE reads.

Files are streamed record by record and are one piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from ase.data import chemical_symbols

from mtlpar.core.ase_structures import BESIDE_LABELS
from mtlpar.core.fields import SPLITS
from mtlpar.core.hashing import name_hash
from mtlpar.core.wording import counted
from mtlpar.sources.ase_containers import Container, container_of, errors_of
from mtlpar.sources.base import LabelUse, RawBlock, Source, matches
from mtlpar.sources.custom_labels import (
    as_text,
    choices_of,
    is_selected,
    label_columns,
    split_column,
    state_columns,
    stress_columns,
    used_keys,
    weight_columns,
)
from mtlpar.sources.reading import (
    Columns,
    Progress,
    as_atomic_numbers,
    as_floats,
    collect_records,
    reduced_formula,
)
from mtlpar.sources.registry import get_source, packaged_names
from mtlpar.sources.settings import CustomSource, SourceSettings

# What ASE adds to the labels of every structure.
_OF_ASE: Final = frozenset({"numbers", "positions", "pbc", "cell"})


def custom_source(name: str, custom: CustomSource) -> Source:
    """The source that a part of the configuration describes."""
    return Source(
        name=name,
        title=custom.title or name,
        data_files=custom.files,
        needs_all_files=True,
        level_of_theory=custom.level_of_theory,
        read=partial(read, _group_of_name(name, custom), custom),
        mirrors=custom.mirrors,
        has_given_splits=custom.splits is not None,
    )


def _group_of_name(name: str, custom: CustomSource) -> Callable[[str], int]:
    """What makes the hash of a group of its name.

    Raises:
        ValueError: If the source that names groups alike has no names for them.
    """
    like = custom.groups_like
    if like not in packaged_names():
        return partial(name_hash, name if like is None else like)
    found = get_source(like).group_of_name
    if found is None:
        raise ValueError(
            f"custom_sources.{name}.groups_like: {like} does not say how it names its groups; "
            "expected mptrj, alexandria or another custom source"
        )
    return found


def read(
    group_of_name: Callable[[str], int],
    custom: CustomSource,
    path: Path,
    _settings: SourceSettings,
) -> Iterator[RawBlock]:
    """Stream a file, given what makes the hash of a group of its name.

    Structures are left out as ``not_selected``, ``isolated_atom`` or ``missing_group``. Those that
    lack a label are kept and counted.

    Raises:
        ValueError: If the file is damaged, of another format or laid out otherwise.
    """
    container = container_of(path, custom.format)
    progress = Progress(path)
    reader = _RecordReader(group_of_name, custom, container, _split_of_file(custom, path))
    for block in collect_records(progress, container.records(path), reader.parse, *errors_of(path)):
        yield replace(block, labels=reader.use.take())
    if not progress.rows:
        raise ValueError(f"{path} holds no structures, expected {custom.format or 'some'}")


def _split_of_file(custom: CustomSource, path: Path) -> int:
    """Position in `SPLITS` of the split that a file is given for, -1 without one.

    Raises:
        ValueError: If splits are given by file and not for this one, or if it is in several.
    """
    if custom.splits is None or custom.splits.key is not None:
        return -1
    found = [
        index
        for index, split in enumerate(SPLITS)
        if any(_ends_like(path, pattern) for pattern in getattr(custom.splits, split))
    ]
    if len(found) != 1:
        names = " and ".join(SPLITS[index] for index in found) or "none"
        raise ValueError(f"{path}: splits put it into {names} of train, val and test, expected one")
    return found[0]


def _ends_like(path: Path, pattern: str) -> bool:
    """Whether the end of a path fits a pattern that may have folders."""
    return matches("/".join(path.parts[-len(pattern.split("/")) :]), pattern)


class _RecordReader:
    """Turns records of one file into columns, and keeps account of their labels."""

    def __init__(
        self,
        group_of_name: Callable[[str], int],
        custom: CustomSource,
        container: Container,
        split_of_file: int,
    ) -> None:
        self.use = LabelUse(choices=choices_of(custom))
        self._group_of_name, self._custom, self._container = group_of_name, custom, container
        self._split_of_file = split_of_file
        self._used = frozenset(used_keys(custom)) | _OF_ASE | BESIDE_LABELS
        options = {
            "energy_key": custom.energy_key,
            "forces_key": custom.forces_key,
            "stress_key": custom.stress_key,
            "charge_key": custom.charge_key,
            "spin_key": custom.spin_key,
        }
        # Only what somebody wrote into the configuration can be a mistake.
        self._asked = {
            option: key
            for option, key in options.items()
            if key is not None and option in custom.model_fields_set
        }
        self._asked |= {f"weights.{name}": key for name, key in custom.weights if key is not None}
        if custom.stress is not None:
            self._asked["stress.key"] = custom.stress.key

    def parse(self, content: Any, where: str) -> Columns | str:
        """Columns of a record, or why it is left out."""
        atoms, labels = self._container.open_record(content, where)
        self.use.see(map(str, labels), self._used)
        for choice in self.use.choices.values():
            if (found := labels.get(choice.key)) is not None:
                choice.see({as_text(found, choice.key, where): 1})
        if not is_selected(self._custom, labels, where):
            return "not_selected"
        if self._is_isolated_atom(atoms, labels, where):
            return "isolated_atom"
        columns = self._columns(atoms, labels, where)
        if not isinstance(columns, str):
            self.use.count(self._lacking(labels))
        return columns

    def _lacking(self, labels: dict[str, Any]) -> Iterable[str]:
        return [
            f"{option}: {key}" for option, key in self._asked.items() if labels.get(key) is None
        ]

    def _is_isolated_atom(self, atoms: Any, labels: dict[str, Any], where: str) -> bool:
        """Whether a record is a single atom that gives a reference energy; then it is noted.

        Raises:
            ValueError: If it is marked as one and has more atoms or no energy.
        """
        isolated = self._custom.isolated_atoms
        if isolated is None or labels.get(isolated.key) is None:
            return False
        if as_text(labels[isolated.key], isolated.key, where) != isolated.value:
            return False
        columns = label_columns(self._custom, labels, len(atoms.numbers), where)
        if len(atoms.numbers) != 1 or not columns["energy_mask"]:
            raise ValueError(
                f"{where}: {isolated.key!r} says {isolated.value!r}, expected one atom with an "
                f"energy, got {counted(len(atoms.numbers), 'atom')} and "
                f"{self._custom.energy_key!r} "
                f"{labels.get(str(self._custom.energy_key))!r}"
            )
        self.use.note_isolated(chemical_symbols[atoms.numbers[0]], columns["energy"], where)
        return True

    def _columns(self, atoms: Any, labels: dict[str, Any], where: str) -> Columns | str:
        custom, size = self._custom, len(atoms.numbers)
        group = reduced_formula(atoms.numbers.tolist())
        if custom.group_key is not None:
            if labels.get(custom.group_key) is None:
                return "missing_group"
            group = as_text(labels[custom.group_key], custom.group_key, where)
        cell = np.array(atoms.cell)
        return {
            "atomic_numbers": as_atomic_numbers(atoms.numbers, where=where),
            "positions": as_floats(atoms.positions, (size, 3), name="positions", where=where),
            "group": self._group_of_name(group),
            "cell": cell,
            "pbc": np.array(atoms.pbc, np.uint8),
            "official_split": split_column(custom, labels, self._split_of_file, where),
            **label_columns(custom, labels, size, where),
            **stress_columns(custom.stress_label, labels, cell, where),
            **state_columns(custom, labels, where),
            **weight_columns(custom, labels, where),
        }
