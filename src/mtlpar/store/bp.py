"""Reads and writes `StructureBatch` columns in ADIOS2 ``.bp`` folders.

Layout: one step; each field of the registry is one global array, atom columns concatenated in the
order of the structures, which ``num_atoms`` cuts. A column that is alike in all structures can be
an attribute instead. Every array carries its unit, description and checksums as attributes, and
everything else that a stranger needs (counts, schema version, what the stage adds) is one JSON
attribute, so ``bpls -A`` explains the file. ``docs/packs.md`` specifies it.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Generic, Self, TypeVar, overload

import numpy as np
import numpy.typing as npt

from mtlpar.core.fields import FIELDS, LABELS, Field
from mtlpar.core.files import atomic_path, missing, run_first
from mtlpar.core.hashing import json_digest
from mtlpar.core.hidden import torch_hidden
from mtlpar.core.records import parse_record
from mtlpar.core.structures import StructureBatch, label_bits
from mtlpar.store.adios import open_to_write
from mtlpar.store.checksums import check_checksums, write_checksums
from mtlpar.store.header import SCHEMA_VERSION, BpHeader

with torch_hidden():
    import adios2

Header = TypeVar("Header", bound=BpHeader)

_HEADER: Final = "mtlpar"
_ABOUT: Final = (
    "Atomistic structures in columns, written by mtlpar. A variable has one row per structure, or "
    "one row per atom: first the atoms of structure 0, then those of structure 1, and so on; "
    "num_atoms says how many rows each structure has. <name>/unit, <name>/description and "
    "<name>/level explain a column. A column that is alike in all structures is not stored: "
    "<name>/constant is its row. <name>/crc32 are checksums, one for the rows of each block of "
    "structures; the attribute mtlpar (JSON) lists the blocks and where the data come from."
)
# Written data are handed to the file system in pieces of this size; ADIOS2 would keep them all.
_FLUSH_BYTES: Final = 1 << 26


def write_bp(
    path: Path,
    batches: Iterable[StructureBatch],
    *,
    num_structures: int,
    num_atoms: int,
    attributes: Mapping[str, Any],
    fields: Sequence[str] = tuple(FIELDS),
    constants: Mapping[str, npt.NDArray[Any]] | None = None,
) -> None:
    """Write batches one after another as one ``.bp`` folder; it appears only when whole.

    Args:
        path: Folder to write.
        batches: The structures, in order; only one batch is held at a time.
        num_structures: Structures in all batches; at least one, as ADIOS2 cannot hold none.
        num_atoms: Atoms in all batches.
        attributes: What describes the file, by the names in `mtlpar.store.header.BpHeader`.
        fields: Names of the columns to write.
        constants: Rows of the structure columns that are alike in all structures, by name; they
            become attributes instead of columns.

    Raises:
        ValueError: If the batches do not hold the announced numbers.
        OSError: If the disk is full, or the folder cannot be written for another such reason.
    """
    if num_structures == 0:
        raise ValueError(f"{path}: a .bp file must hold at least one structure, got none")
    with atomic_path(path) as temporary:
        with open_to_write(temporary) as stream:
            stream.begin_step()
            writer = _Writer(stream, num_structures, num_atoms, fields, constants or {})
            for batch in batches:
                writer.write(batch)
            if writer.done != writer.totals:
                raise ValueError(
                    f"{path}: got {writer.done} rows to write, expected {writer.totals}"
                )
            writer.describe(attributes)
            stream.end_step()
        write_checksums(temporary)


class _Writer:
    """Writes blocks of rows into an open ADIOS2 step, and describes them at the end."""

    def __init__(
        self,
        stream: adios2.Stream,
        num_structures: int,
        num_atoms: int,
        fields: Sequence[str],
        constants: Mapping[str, npt.NDArray[Any]],
    ) -> None:
        self.totals = {"structure": num_structures, "atom": num_atoms}
        self.done = {"structure": 0, "atom": 0}
        self._stream = stream
        self._stored = [FIELDS[name] for name in fields if name not in constants]
        self._constants = constants
        self._blocks: dict[str, list[int]] = {"num_structures": [], "num_atoms": []}
        self._checksums: dict[str, list[int]] = {field.name: [] for field in self._stored}
        self._unflushed_bytes = 0

    def write(self, batch: StructureBatch) -> None:
        """Write one block; an empty one leaves no trace."""
        if len(batch) == 0:
            return
        for name, row in self._constants.items():
            assert (getattr(batch, name) == row).all(), f"{name} is not constant"
        for field in self._stored:
            # ADIOS2 writes wrong bytes, without an error, from arrays that are not contiguous.
            values = np.ascontiguousarray(getattr(batch, field.name))
            self._checksums[field.name].append(zlib.crc32(values.data))
            self._put(field, values)
        self._blocks["num_structures"].append(len(batch))
        self._blocks["num_atoms"].append(batch.total_atoms)
        self.done["structure"] += len(batch)
        self.done["atom"] += batch.total_atoms
        if self._unflushed_bytes > _FLUSH_BYTES:
            self._stream.engine.perform_data_write()
            self._unflushed_bytes = 0

    def describe(self, attributes: Mapping[str, Any]) -> None:
        """Write what explains the file."""
        header = {
            **attributes,
            "schema_version": SCHEMA_VERSION,
            "num_structures": self.totals["structure"],
            "num_atoms": self.totals["atom"],
            "fields": [field.name for field in self._stored],
            "constants": {name: np.asarray(row).tolist() for name, row in self._constants.items()},
            "blocks": self._blocks,
        }
        write = self._stream.write_attribute
        write("about", _ABOUT)
        write(_HEADER, json.dumps(header, ensure_ascii=False))
        for field in (*self._stored, *(FIELDS[name] for name in self._constants)):
            write(f"{field.name}/unit", field.unit)
            write(f"{field.name}/description", field.description)
            write(f"{field.name}/level", field.level)
        for name, checksums in self._checksums.items():
            write(f"{name}/crc32", np.array(checksums, dtype=np.uint32))
        for name, row in self._constants.items():
            write(f"{name}/constant", np.array(row, dtype=FIELDS[name].dtype).reshape(-1))

    def _put(self, field: Field, values: npt.NDArray[Any]) -> None:
        if len(values) == 0:
            return
        inner = list(field.shape)
        self._stream.write(
            field.name,
            values,
            [self.totals[field.level], *inner],
            [self.done[field.level], *([0] * len(inner))],
            [len(values), *inner],
        )
        self._unflushed_bytes += values.nbytes


class BpReader(Generic[Header]):
    """Random access by slices to one ``.bp`` folder.

    Every block of rows that a read covers whole is compared with its checksum.

    Attributes:
        path: The folder.
        header: What it says about itself.
    """

    @overload
    def __init__(self: BpReader[BpHeader], path: Path) -> None: ...

    @overload
    def __init__(self, path: Path, kind: type[Header], *, stage: str) -> None: ...

    def __init__(self, path: Path, kind: type[Any] = BpHeader, *, stage: str | None = None) -> None:
        """Open a folder that `write_bp` wrote.

        Args:
            path: The folder.
            kind: What its header has to hold.
            stage: The command that writes it.

        Raises:
            ValueError: If it is missing, foreign, truncated, damaged or of another schema version.
        """
        self.path = path
        if not path.exists():
            raise ValueError(missing(path, stage))
        if not path.is_dir():
            raise ValueError(f"{path} is not a .bp folder; {run_first(stage)}")
        check_checksums(path)
        try:
            self._reader = adios2.FileReader(str(path))
            text = self._reader.read_attribute(_HEADER)
        except (KeyError, RuntimeError, ValueError) as error:
            raise ValueError(f"{path} cannot be opened as a .bp of mtlpar: {error}") from error
        self.header: Header = parse_record(
            text, kind, where=f"header of {path}", advice="write the folder again"
        )
        self._check_shapes()
        blocks = self.header.blocks
        self._borders = {
            level: np.concatenate([[0], np.cumsum(rows)])
            for level, rows in (("structure", blocks.num_structures), ("atom", blocks.num_atoms))
        }
        self._offsets: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return self.header.num_structures

    @property
    def num_atoms(self) -> int:
        """Atoms in all structures."""
        return self.header.num_atoms

    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        """First atom of each structure, and the end of the last: (S + 1,)."""
        if self._offsets is None:
            counts = self.read_column("num_atoms")
            self._offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        return self._offsets

    @property
    def data_digest(self) -> str:
        """Digest of all columns, from the checksums of their blocks."""
        checksums = {name: self._checksums(name).tolist() for name in self.header.fields}
        return json_digest([self.header.blocks.plain(), checksums])

    def read_column(self, name: str) -> npt.NDArray[Any]:
        """Read one column of all structures.

        Raises:
            ValueError: If the data do not have their checksum.
        """
        return self._column(FIELDS[name], 0, self._rows(FIELDS[name]))

    def read(self, start: int = 0, stop: int | None = None) -> StructureBatch:
        """Read structures ``start`` to ``stop``; columns the file lacks get their defaults.

        Raises:
            ValueError: If there are no such structures, or if data do not have their checksum.
        """
        stop = len(self) if stop is None else stop
        if not 0 <= start <= stop <= len(self):
            raise ValueError(f"{self.path}: no structures {start} to {stop} among {len(self)}")
        if start == stop:
            return StructureBatch.concatenate([])
        return self._batch((start, stop), (int(self.offsets[start]), int(self.offsets[stop])))

    @property
    def block_borders(self) -> npt.NDArray[np.int64]:
        """First structure of each block, and the end of the last: (B + 1,)."""
        return self._borders["structure"]

    def read_block(self, block: int) -> StructureBatch:
        """Read one block of structures, without having to know where all the others lie.

        Raises:
            ValueError: If the data do not have their checksum.
        """
        first_atom, last_atom = self._borders["atom"][block : block + 2].tolist()
        return self._batch(self._block(block), (first_atom, last_atom))

    def read_block_sizes(self, block: int) -> npt.NDArray[np.int32]:
        """Read only how many atoms the structures of a block have.

        Raises:
            ValueError: If the data do not have their checksum.
        """
        return self._column(FIELDS["num_atoms"], *self._block(block))

    def read_block_labels(self, block: int) -> npt.NDArray[np.uint8]:
        """Read only which labels the structures of a block have, as `StructureBatch.label_bits`.

        Raises:
            ValueError: If the data do not have their checksum.
        """
        return self._label_bits(*self._block(block))

    def read_labels(self) -> npt.NDArray[np.uint8]:
        """Read which labels all structures have, as `StructureBatch.label_bits`, (S,).

        Raises:
            ValueError: If the data do not have their checksum.
        """
        return self._label_bits(0, len(self))

    def slices(self, size: int) -> Iterator[tuple[int, int]]:
        """Cut the structures into consecutive pieces of at most ``size``, or of one block.

        Only whole blocks are compared with their checksums.
        """
        borders = self._borders["structure"]
        start = 0
        while start < len(self):
            fitting, after = np.searchsorted(borders, [start + size, start], side="right")
            stop = int(borders[max(fitting - 1, after)])
            yield start, stop
            start = stop

    def part(self, first: int, last: int, *, size: int) -> Iterator[tuple[int, StructureBatch]]:
        """Read some structures in order, in pieces of about ``size`` whose checksums are compared.

        Yields:
            Number of the first structure of a piece, and the piece.

        Raises:
            ValueError: If data do not have their checksum.
        """
        for start, stop in self.slices(size):
            low, high = max(start, first), min(stop, last)
            if low < high:
                # Whole blocks are read, because others have no checksum.
                yield low, self.read(start, stop).slice(low - start, high - start)

    def close(self) -> None:
        """Close the underlying file; the reader must not be used afterwards."""
        # The engine's own close() writes a profile into /tmp; dropping the engine does not.
        del self._reader

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _block(self, block: int) -> tuple[int, int]:
        start, stop = self._borders["structure"][block : block + 2].tolist()
        return start, stop

    def _batch(self, structures: tuple[int, int], atoms: tuple[int, int]) -> StructureBatch:
        rows = {"structure": structures, "atom": atoms}
        return StructureBatch(
            {name: self._column(field, *rows[field.level]) for name, field in FIELDS.items()}
        )

    def _label_bits(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        masks = {label: self._column(FIELDS[f"{label}_mask"], start, stop) for label in LABELS}
        return label_bits(masks)

    def _rows(self, field: Field) -> int:
        return len(self) if field.level == "structure" else self.num_atoms

    def _column(self, field: Field, start: int, stop: int) -> npt.NDArray[Any]:
        if field.name in self.header.fields:
            return self._read(field, start, stop)
        row = self.header.constants.get(field.name, field.default)
        return np.full((stop - start, *field.shape), row, field.dtype)

    def _read(self, field: Field, start: int, stop: int) -> npt.NDArray[Any]:
        inner = list(field.shape)
        values = self._reader.read(field.name, [start, *([0] * len(inner))], [stop - start, *inner])
        values = np.asarray(values).reshape(stop - start, *inner).astype(field.dtype, copy=False)
        self._verify(field, values, start)
        return values

    def _verify(self, field: Field, values: npt.NDArray[Any], start: int) -> None:
        """Compare the blocks that lie in the rows from ``start`` on with their checksums."""
        borders = self._borders[field.level]
        first = int(np.searchsorted(borders, start))
        last = int(np.searchsorted(borders, start + len(values), side="right")) - 1
        expected = self._checksums(field.name)
        for block in range(first, last):
            rows = values[borders[block] - start : borders[block + 1] - start]
            if zlib.crc32(rows.data) != expected[block]:
                structures = self._borders["structure"][block : block + 2]
                raise ValueError(
                    f"{self.path} is damaged: column {field.name!r} of structures {structures[0]} "
                    f"to {structures[1]} has checksum {zlib.crc32(rows.data):08x}, expected "
                    f"{expected[block]:08x}; write or copy it again"
                )

    def _checksums(self, name: str) -> npt.NDArray[np.uint32]:
        return np.atleast_1d(self._reader.read_attribute(f"{name}/crc32"))

    def _check_shapes(self) -> None:
        available = self._reader.available_variables()
        for name in self.header.fields:
            field = FIELDS.get(name)
            if field is None or name not in available:
                raise ValueError(f"{self.path} announces the column {name!r} but does not hold it")
            shape = [int(size) for size in available[name]["Shape"].split(",")]
            expected = [self._rows(field), *field.shape]
            if shape != expected:
                raise ValueError(f"{self.path}: column {name!r} is {shape}, expected {expected}")
        for name, row in self.header.constants.items():
            field = FIELDS.get(name)
            if field is None or np.shape(row) != field.shape:
                raise ValueError(
                    f"header of {self.path}: constants.{name} is not a row of a column"
                )
