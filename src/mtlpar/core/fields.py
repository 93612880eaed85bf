"""The field registry: each quantity of a structure is defined here once and nowhere else.

Readers, the ``.bp`` store, collation and the documentation all take name, shape, dtype and unit
from this table. Adding a quantity means adding one row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

Level = Literal["structure", "atom"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One column of a `StructureBatch`.

    Attributes:
        name: Name of the column, everywhere.
        level: One row per structure or one row per atom.
        shape: Shape of one row; ``()`` for a scalar.
        dtype: NumPy dtype in memory.
        unit: Unit of the values, ``"1"`` for pure numbers.
        description: What the column holds, for people.
        packed: Whether packs for training keep it.
        default: Value where a source or a file does not say.
    """

    name: str
    level: Level
    shape: tuple[int, ...]
    dtype: str
    unit: str
    description: str
    packed: bool = True
    default: int = 0

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)


def _label_columns(label: str, *, default: int) -> tuple[Field, Field]:
    """Mask and weight of a label, which every label has under these names.

    Args:
        label: Name of its field.
        default: The mask where a reader does not say.
    """
    return (
        Field(
            name=f"{label}_mask",
            level="structure",
            shape=(),
            dtype="uint8",
            unit="1",
            description=f"1 where the structure has the label {label}",
            default=default,
        ),
        Field(
            name=f"{label}_weight",
            level="structure",
            shape=(),
            dtype="float32",
            unit="1",
            description=f"weight of the label {label} in the objective",
            default=1,
        ),
    )


_ALL: Final = (
    Field(
        name="num_atoms",
        level="structure",
        shape=(),
        dtype="int32",
        unit="1",
        description="number of atoms",
    ),
    Field(
        name="energy",
        level="structure",
        shape=(),
        dtype="float64",
        unit="eV",
        description="total energy as computed, references included; 0 where there is none",
    ),
    *_label_columns("energy", default=1),
    Field(
        name="cell",
        level="structure",
        shape=(3, 3),
        dtype="float32",
        unit="Å",
        description="lattice vectors in rows; zeros where there are none",
    ),
    Field(
        name="pbc",
        level="structure",
        shape=(3,),
        dtype="uint8",
        unit="1",
        description="1 where the structure repeats along that lattice vector",
    ),
    Field(
        name="charge",
        level="structure",
        shape=(),
        dtype="int8",
        unit="e",
        description="total charge",
    ),
    Field(
        name="spin",
        level="structure",
        shape=(),
        dtype="int8",
        unit="1",
        description="spin multiplicity 2S+1; 0 where the source does not say",
    ),
    Field(
        name="stress",
        level="structure",
        shape=(6,),
        dtype="float32",
        unit="eV/Å^3",
        description="stress, tension positive, order xx yy zz yz xz xy; 0 where there is none",
    ),
    *_label_columns("stress", default=0),
    *_label_columns("forces", default=1),
    Field(
        name="group",
        level="structure",
        shape=(),
        dtype="uint64",
        unit="1",
        description="hash of what must not be split: formula, molecule, reaction or material",
    ),
    Field(
        name="structure_id",
        level="structure",
        shape=(),
        dtype="uint64",
        unit="1",
        description="hash of elements, positions, cell, pbc, charge and spin",
    ),
    Field(
        name="fingerprint",
        level="structure",
        shape=(5,),
        dtype="uint32",
        unit="1",
        description="what rotation, translation, wrapping and the order of the atoms leave alone",
        packed=False,
    ),
    Field(
        name="official_split",
        level="structure",
        shape=(),
        dtype="int8",
        unit="1",
        description="the source's own split: 0 train, 1 val, 2 test, -1 none",
        packed=False,
        default=-1,
    ),
    Field(
        name="atomic_numbers",
        level="atom",
        shape=(),
        dtype="uint8",
        unit="1",
        description="atomic number Z",
    ),
    Field(
        name="positions",
        level="atom",
        shape=(3,),
        dtype="float32",
        unit="Å",
        description="Cartesian positions as the source gives them, or near the origin if far out",
    ),
    Field(
        name="forces",
        level="atom",
        shape=(3,),
        dtype="float32",
        unit="eV/Å",
        description="minus the gradient of the energy; 0 where there are none",
    ),
)

FIELDS: Final[dict[str, Field]] = {field.name: field for field in _ALL}
"""Every field by name, in storage order."""

LABELS: Final = ("energy", "forces", "stress")
"""What models learn. Any structure may lack any of them."""

SIX_OF_MATRIX: Final = ([0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1])
"""Rows and columns of a stress as a matrix that are its six numbers xx yy zz yz xz xy."""

MATRIX_OF_SIX: Final = [0, 5, 4, 5, 1, 3, 4, 3, 2]
"""Which of the six numbers are xx xy xz yx yy yz zx zy zz."""

MAX_ATOMIC_NUMBER: Final = 118

SPLITS: Final = ("train", "val", "test")
"""Names of the splits; their positions are the values of ``official_split``."""


def get_field(name: str) -> Field:
    """Return the definition of a field.

    Raises:
        ValueError: If no field has that name.
    """
    try:
        return FIELDS[name]
    except KeyError:
        raise ValueError(
            f"no field is called {name!r}; the registry has {', '.join(FIELDS)}. "
            "New fields are added in mtlpar/core/fields.py."
        ) from None
