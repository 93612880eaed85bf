"""Frames of extended XYZ with predictions, as ASE and OVITO read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson
from ase.data import chemical_symbols

from mtlpar.core.ase_structures import AtomsLike
from mtlpar.core.electronic_state import CHARGE_KEYS, SPIN_KEYS
from mtlpar.core.fields import MATRIX_OF_SIX
from mtlpar.model.predict import bounded_slices
from mtlpar.model.saved import StructurePrediction

_SYMBOLS: Final = dict(enumerate(chemical_symbols))
_WORDS: Final = {False: "F", True: "T"}
_STATE_KEYS: Final = (*CHARGE_KEYS, *SPIN_KEYS)
# Their words are single strings for a moment, which take several times the memory of the text.
_ATOMS_AT_ONCE: Final = 4096


class Frame(NamedTuple):
    """A structure with its prediction.

    Attributes:
        name: File and number of the row.
        atoms: The structure.
        found: The prediction.
        source: Source at whose level of theory it is.
        why: Why that source was chosen, if it was.
    """

    name: str
    atoms: AtomsLike
    found: StructurePrediction
    source: str
    why: str | None = None


def frame_texts(frames: Sequence[Frame]) -> Iterator[str]:
    """Each as a frame: total energy, energies of atoms, forces, perhaps stress.

    Numbers of many atoms become text at once, in half of the time that they take structure by
    structure.
    """
    sizes = np.array([len(one.atoms) for one in frames])
    for start, stop in bounded_slices(sizes, _ATOMS_AT_ONCE):
        yield from _together(frames[start:stop])


def _together(frames: Sequence[Frame]) -> Iterator[str]:
    lines = _lines(
        np.concatenate([one.atoms.numbers for one in frames]),
        np.concatenate([one.atoms.positions for one in frames]),
        # Single precision, like most networks; twice the digits would be noise.
        np.concatenate([one.found.forces for one in frames]).astype(np.float32),
        np.concatenate([one.found.atom_energies for one in frames])[:, None],
    )
    properties = "Properties=species:S:1:pos:R:3:forces:R:3:energies:R:1"
    for one in frames:
        size = len(one.atoms)
        atoms = "\n".join(islice(lines, size))
        yield f"{size}\n{_entries(one)} {properties}\n{atoms}\n"


def _entries(frame: Frame) -> str:
    """What a frame says of the structure as a whole."""
    found = frame.found
    entries = [f"energy={found.energy!r}"]
    if found.stress is not None:
        entries.append(f'stress="{_numbers(found.stress[MATRIX_OF_SIX])}"')
    if found.energy_uncertainty is not None:
        entries.append(f"energy_uncertainty={found.energy_uncertainty!r}")
    entries += [f'source="{frame.source}"', _about(frame.name, frame.atoms)]
    if frame.why is not None:
        entries.append(f'chosen="{_quoted(frame.why)}"')
    if found.unseen_pairs:
        entries.append(f'unseen_pairs="{" ".join(found.unseen_pairs)}"')
    if found.descriptors is not None:
        entries.append(f'descriptors="{" ".join(f"{one:.9g}" for one in found.descriptors)}"')
    return " ".join(entries)


def refused_text(name: str, atoms: AtomsLike, reason: str) -> str:
    """A row that was not predicted, and why; atoms are none if it could not be read."""
    head = f'refused="{_quoted(" ".join(reason.split()))}"'
    if not len(atoms):
        return f'0\n{head} row="{_quoted(name)}" Properties=species:S:1:pos:R:3 pbc="F F F"\n'
    lines = "\n".join(_lines(atoms.numbers, atoms.positions))
    entries = f"{head} {_about(name, atoms)} Properties=species:S:1:pos:R:3"
    return f"{len(atoms)}\n{entries}\n{lines}\n"


def _lines(numbers: npt.NDArray[Any], *columns: npt.NDArray[np.floating]) -> Iterator[str]:
    """A line for each of A atoms.

    Args:
        numbers: Atomic numbers, (A,); X stands for one that is none, with which a structure is
            refused.
        columns: What stands beside them, each (A, K).
    """
    words = [[_SYMBOLS.get(number, "X") for number in numbers.tolist()]]
    for values in columns:
        width = values.shape[1]
        found = _words(values)
        words += [found[column::width] for column in range(width)]
    return map(" ".join, zip(*words, strict=True))


def _words(values: npt.NDArray[np.floating]) -> list[str]:
    """Numbers in the fewest digits that read back as the same ones; there is at least one."""
    text = orjson.dumps(values.ravel(), option=orjson.OPT_SERIALIZE_NUMPY).decode()
    if not np.isfinite(values).all():
        # JSON has no word for what is no number.
        text = text.replace("null", "nan")
    return text[1:-1].split(",")


def _about(name: str, atoms: AtomsLike) -> str:
    """Where a structure comes from, its cell and its electronic state."""
    parts = [f'row="{_quoted(name)}"']
    for key in _STATE_KEYS:
        value: Any = atoms.info.get(key)
        if value is None:
            continue
        if isinstance(value, str):
            parts.append(f'{key}="{_quoted(value)}"')
        elif isinstance(value, int | float) or np.ndim(value) == 0:
            parts.append(f"{key}={value}")
    cell = np.asarray(atoms.cell)
    if any(cell.ravel().tolist()):
        parts.append(f'Lattice="{_numbers(cell)}"')
    first, second, third = map(_WORDS.__getitem__, atoms.pbc.tolist())
    parts.append(f'pbc="{first} {second} {third}"')
    return " ".join(parts)


def _quoted(text: str) -> str:
    """What may stand between quotes on one line; a file may be called anything."""
    return " ".join(text.replace("\\", "\\\\").replace('"', "'").splitlines())


def _numbers(values: npt.NDArray[np.float64]) -> str:
    return " ".join(_words(np.asarray(values, np.float64)))
