"""Reads and writes `StructureBatch` columns in ADIOS2 ``.bp`` folders.

Layout: one step; each field of the registry is one global array, atom columns concatenated in the
order of the structures, which ``num_atoms`` cuts. Every array carries its unit and description as
attributes, and everything else that a stranger needs (counts, schema version, what the stage adds)
is one JSON attribute, so ``bpls -A`` explains the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import adios2
import numpy as np
import numpy.typing as npt

from mtlpar.core.fields import FIELDS, Field
from mtlpar.core.files import atomic_path
from mtlpar.core.structures import StructureBatch, iterate_slices

SCHEMA_VERSION: Final = 1
_ATTRIBUTES: Final = "mtlpar"


def write_bp(
    path: Path,
    batches: Iterable[StructureBatch],
    *,
    num_structures: int,
    num_atoms: int,
    attributes: dict[str, Any],
    fields: Sequence[str] = tuple(FIELDS),
) -> None:
    """Write batches one after another as one ``.bp`` folder; it appears only when whole.

    Args:
        path: Folder to write.
        batches: The structures, in order; only one batch is held at a time.
        num_structures: Structures in all batches; at least one, as ADIOS2 cannot hold none.
        num_atoms: Atoms in all batches.
        attributes: What describes the file, as JSON values.
        fields: Names of the columns to write.

    Raises:
        ValueError: If the batches do not hold the announced numbers.
    """
    if num_structures == 0:
        raise ValueError(f"{path}: a .bp file must hold at least one structure, got none")
    totals = {"structure": num_structures, "atom": num_atoms}
    done = {"structure": 0, "atom": 0}
    header = {
        **attributes,
        "schema_version": SCHEMA_VERSION,
        "num_structures": int(num_structures),
        "num_atoms": int(num_atoms),
        "fields": list(fields),
    }
    with atomic_path(path) as temporary:
        with adios2.Stream(str(temporary), "w") as stream:
            stream.begin_step()
            stream.write_attribute(_ATTRIBUTES, json.dumps(header, ensure_ascii=False))
            for name in fields:
                stream.write_attribute(f"{name}/unit", FIELDS[name].unit)
                stream.write_attribute(f"{name}/description", FIELDS[name].description)
            for batch in batches:
                for name in fields:
                    _write_block(stream, FIELDS[name], getattr(batch, name), totals, done)
                done["structure"] += len(batch)
                done["atom"] += batch.total_atoms
            stream.end_step()
        # The profile holds timings: with it, equal data would not give equal bytes.
        (temporary / "profiling.json").unlink(missing_ok=True)
        if done != totals:
            raise ValueError(f"{path}: got {done} rows to write, expected {totals}")


def _write_block(
    stream: adios2.Stream,
    field: Field,
    values: npt.NDArray[Any],
    totals: dict[str, int],
    done: dict[str, int],
) -> None:
    if len(values) == 0:
        return
    inner = list(field.shape)
    stream.write(
        field.name,
        # ADIOS2 writes wrong bytes, without an error, from arrays that are not contiguous.
        np.ascontiguousarray(values),
        [totals[field.level], *inner],
        [done[field.level], *([0] * len(inner))],
        [len(values), *inner],
    )


class BpReader:
    """Random access by slices to one ``.bp`` folder.

    Attributes:
        attributes: What `write_bp` was told about the file, with counts and schema version.
    """

    def __init__(self, path: Path) -> None:
        """Open a folder that `write_bp` wrote.

        Raises:
            ValueError: If it is missing, foreign, damaged or of another schema version.
        """
        self.path = path
        if not path.is_dir():
            raise ValueError(f"{path} is not a .bp folder; run the stage that writes it first")
        try:
            self._reader = adios2.FileReader(str(path))
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{path} cannot be opened as ADIOS2 .bp: {error}") from error
        if _ATTRIBUTES not in self._reader.available_attributes():
            raise ValueError(
                f"{path} was not written by mtlpar: it has no {_ATTRIBUTES!r} attribute"
            )
        self.attributes: dict[str, Any] = json.loads(self._reader.read_attribute(_ATTRIBUTES))
        version = self.attributes["schema_version"]
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"{path} has schema version {version}, expected {SCHEMA_VERSION}; "
                "write it again with this version of mtlpar"
            )
        self._check_shapes()
        self._offsets: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return int(self.attributes["num_structures"])

    @property
    def num_atoms(self) -> int:
        """Atoms in all structures."""
        return int(self.attributes["num_atoms"])

    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        """First atom of each structure, and the end of the last: (S + 1,)."""
        if self._offsets is None:
            counts = self.read_column("num_atoms")
            self._offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        return self._offsets

    def read_column(self, name: str) -> npt.NDArray[Any]:
        """Read one column of all structures."""
        return self._read(name, 0, self._rows(FIELDS[name]))

    def read(self, start: int = 0, stop: int | None = None) -> StructureBatch:
        """Read structures ``start`` to ``stop``; columns the file lacks get their defaults."""
        stop = len(self) if stop is None else stop
        if not 0 <= start <= stop <= len(self):
            raise ValueError(f"{self.path}: no structures {start} to {stop} among {len(self)}")
        if start == stop:
            return StructureBatch.concatenate([])
        first, last = int(self.offsets[start]), int(self.offsets[stop])
        columns: dict[str, npt.NDArray[Any]] = {}
        for name, field in FIELDS.items():
            begin, end = (start, stop) if field.level == "structure" else (first, last)
            if name in self.attributes["fields"]:
                columns[name] = self._read(name, begin, end)
            else:
                columns[name] = np.full((end - begin, *field.shape), field.default, field.dtype)
        return StructureBatch(columns)

    def iterate(self, size: int) -> Iterator[StructureBatch]:
        """Read everything in order, at most ``size`` structures at a time."""
        for start, stop in iterate_slices(len(self), size):
            yield self.read(start, stop)

    def close(self) -> None:
        """Close the underlying file; the reader must not be used afterwards."""
        # The engine's own close() writes a profile into /tmp; dropping the engine does not.
        del self._reader

    def __enter__(self) -> BpReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _rows(self, field: Field) -> int:
        return len(self) if field.level == "structure" else self.num_atoms

    def _read(self, name: str, start: int, stop: int) -> npt.NDArray[Any]:
        field = FIELDS[name]
        inner = list(field.shape)
        values = self._reader.read(name, [start, *([0] * len(inner))], [stop - start, *inner])
        return np.asarray(values).reshape(stop - start, *inner).astype(field.dtype, copy=False)

    def _check_shapes(self) -> None:
        available = self._reader.available_variables()
        for name in self.attributes["fields"]:
            field = FIELDS.get(name)
            if field is None or name not in available:
                raise ValueError(f"{self.path} announces the column {name!r} but does not hold it")
            shape = [int(size) for size in available[name]["Shape"].split(",")]
            expected = [self._rows(field), *field.shape]
            if shape != expected:
                raise ValueError(f"{self.path}: column {name!r} is {shape}, expected {expected}")
