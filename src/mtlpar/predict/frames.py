"""Frames of extended XYZ with predictions, as ASE and OVITO read them."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import orjson
from ase.data import chemical_symbols

from mtlpar.core.ase_structures import AtomsLike
from mtlpar.core.electronic_state import CHARGE_KEYS, SPIN_KEYS
from mtlpar.core.fields import MATRIX_OF_SIX
from mtlpar.model.saved import StructurePrediction

_SYMBOLS: Final = dict(enumerate(chemical_symbols))
# Of the JSON of a matrix: rows become lines, and commas the spaces between numbers.
_AS_TEXT: Final = bytes.maketrans(b",]", b" \n")


def frame_text(
    name: str, atoms: AtomsLike, found: StructurePrediction, source: str, why: str | None = None
) -> str:
    """A structure with its prediction: total energy, energies of atoms, forces, perhaps stress.

    Args:
        name: File and number of the row.
        atoms: The structure.
        found: The prediction.
        source: Source at whose level of theory it is.
        why: Why that source was chosen, if it was.
    """
    entries = [f"energy={found.energy!r}", f'source="{source}"', _about(name, atoms)]
    if why is not None:
        entries.append(f'chosen="{_quoted(why)}"')
    if found.energy_uncertainty is not None:
        entries.insert(1, f"energy_uncertainty={found.energy_uncertainty!r}")
    if found.unseen_pairs:
        entries.append(f'unseen_pairs="{" ".join(found.unseen_pairs)}"')
    if found.descriptors is not None:
        entries.append(f'descriptors="{" ".join(f"{one:.9g}" for one in found.descriptors)}"')
    if found.stress is not None:
        entries.insert(1, f'stress="{_numbers(found.stress[MATRIX_OF_SIX])}"')
    properties = "Properties=species:S:1:pos:R:3:forces:R:3:energies:R:1"
    columns = (
        _symbols(atoms),
        _rows(atoms.positions),
        # Single precision, like most networks; twice the digits would be noise.
        _rows(found.forces.astype(np.float32)),
        _rows(found.atom_energies[:, None]),
    )
    lines = "\n".join(map(" ".join, zip(*columns, strict=True)))
    return f"{len(atoms)}\n{' '.join([*entries, properties])}\n{lines}\n"


def refused_text(name: str, atoms: AtomsLike, reason: str) -> str:
    """A row that was not predicted, and why; atoms are none if it could not be read."""
    head = f'refused="{_quoted(" ".join(reason.split()))}"'
    if not len(atoms):
        return f'0\n{head} row="{_quoted(name)}" Properties=species:S:1:pos:R:3 pbc="F F F"\n'
    lines = "\n".join(map(" ".join, zip(_symbols(atoms), _rows(atoms.positions), strict=True)))
    entries = f"{head} {_about(name, atoms)} Properties=species:S:1:pos:R:3"
    return f"{len(atoms)}\n{entries}\n{lines}\n"


def _symbols(atoms: AtomsLike) -> list[str]:
    """Symbols of the elements; X for a number that is none, with which a structure is refused."""
    return [_SYMBOLS.get(number, "X") for number in atoms.numbers.tolist()]


def _rows(values: npt.NDArray[np.floating]) -> list[str]:
    """Rows of numbers, (N, K) with N > 0, in the fewest digits that read back as the same ones."""
    text = orjson.dumps(np.ascontiguousarray(values), option=orjson.OPT_SERIALIZE_NUMPY)
    # The comma between two rows begins the second; what JSON has no number for is its null.
    rows = text.translate(_AS_TEXT, b"[").replace(b"\n ", b"\n").replace(b"null", b"nan")
    return rows.decode().split("\n")[:-2]


def _about(name: str, atoms: AtomsLike) -> str:
    """Where a structure comes from, its cell and its electronic state."""
    parts = [f'row="{_quoted(name)}"']
    parts += [
        f'{key}="{_quoted(value)}"'
        if isinstance(value := atoms.info[key], str)
        else f"{key}={value}"
        for key in (*CHARGE_KEYS, *SPIN_KEYS)
        if key in atoms.info and np.ndim(atoms.info[key]) == 0
    ]
    cell = np.asarray(atoms.cell)
    if cell.any():
        parts.append(f'Lattice="{_numbers(cell)}"')
    pbc = " ".join("T" if periodic else "F" for periodic in atoms.pbc.tolist())
    return " ".join([*parts, f'pbc="{pbc}"'])


def _quoted(text: str) -> str:
    """What may stand between quotes on one line; a file may be called anything."""
    return " ".join(text.replace("\\", "\\\\").replace('"', "'").splitlines())


def _numbers(values: npt.NDArray[np.float64]) -> str:
    return _rows(np.asarray(values, np.float64).reshape(1, -1))[0]
