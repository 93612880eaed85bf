"""What a custom source says of a structure, as columns: units, conventions and electronic state."""

from __future__ import annotations

import json
from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any, Final

import numpy as np

from mtlpar.core.electronic_state import CHARGE_KEYS, SPIN_KEYS, find_charge, find_spin
from mtlpar.core.fields import LABELS, SIX_OF_MATRIX, SPLITS
from mtlpar.core.hashing import name_hash
from mtlpar.core.units import (
    BOHR_ANGSTROM,
    EV_PER_CUBIC_ANGSTROM_GPA,
    HARTREE_EV,
    KBAR_GPA,
    KCAL_PER_MOL_EV,
    KJ_PER_MOL_EV,
)
from mtlpar.sources.base import Choice
from mtlpar.sources.reading import Columns, FloatArray, as_floats
from mtlpar.sources.settings import CustomSource, StressLabel

_ENERGY: Final = {
    "eV": 1.0,
    "Hartree": HARTREE_EV,
    "kcal/mol": KCAL_PER_MOL_EV,
    "kJ/mol": KJ_PER_MOL_EV,
}
_LENGTH: Final = {"Å": 1.0, "Bohr": BOHR_ANGSTROM}
_STRESS: Final = {
    "eV/Å^3": 1.0,
    "GPa": 1 / EV_PER_CUBIC_ANGSTROM_GPA,
    "kbar": KBAR_GPA / EV_PER_CUBIC_ANGSTROM_GPA,
    "bar": KBAR_GPA / EV_PER_CUBIC_ANGSTROM_GPA / 1000,
    "Hartree/Bohr^3": HARTREE_EV / BOHR_ANGSTROM**3,
}
_OURS: Final = ("xx", "yy", "zz", "yz", "xz", "xy")
# Rounding of a matrix that was symmetric, relative to its largest component.
_ASYMMETRY: Final = 1e-2
# From here on a float stands for several integers.
_FIRST_INEXACT: Final = 2**53
_AUTO: Final = "auto"
# Structures that differ in these are no duplicates, whether they are read or not.
_STATE_KEYS: Final = (*CHARGE_KEYS, *SPIN_KEYS, "initial_charges", "initial_magmoms")


def label_columns(custom: CustomSource, labels: dict[str, Any], size: int, where: str) -> Columns:
    """Energy and forces in our units, with masks.

    Args:
        custom: The source.
        labels: What the record says, by key.
        size: Atoms of the structure.
        where: Place of the record, for messages.
    """
    energy_ev = _ENERGY[custom.energy_unit]
    force_unit = energy_ev / _LENGTH[custom.length_unit]
    columns: Columns = {"energy": 0.0, "energy_mask": 0}
    columns |= {"forces": np.zeros((size, 3)), "forces_mask": 0}
    if (found := _found(labels, custom.energy_key)) is not None:
        energy = _as_number(found, str(custom.energy_key), where)
        columns |= {"energy": energy * energy_ev, "energy_mask": 1}
    if (found := _found(labels, custom.forces_key)) is not None:
        forces = as_floats(found, (size, 3), name=str(custom.forces_key), where=where)
        columns |= {"forces": forces * force_unit, "forces_mask": 1}
    return columns


def stress_columns(
    stress: StressLabel | None, labels: dict[str, Any], cell: FloatArray, where: str
) -> Columns:
    """Stress in eV/Å^3, tension positive, in the order xx yy zz yz xz xy, with its mask.

    Args:
        stress: The label and its convention; None if the source has none.
        labels: What the record says, by key.
        cell: Lattice vectors in Å, (3, 3).
        where: Place of the record, for messages.
    """
    if stress is None or (found := _found(labels, stress.key)) is None:
        return {"stress": np.zeros(6), "stress_mask": 0}
    six = _six_numbers(found, stress, where)
    unit = stress.convention("unit")
    if stress.convention("kind") == "virial":
        volume = abs(float(np.linalg.det(cell)))
        # Without a volume it is no stress of anything; the checks count and remove it.
        factor = _ENERGY[unit] / volume if volume > 0 else 0.0
    else:
        factor = _STRESS[unit]
    sign = 1 if stress.convention("positive") == "tension" else -1
    return {"stress": sign * factor * six, "stress_mask": 1}


def _six_numbers(value: Any, stress: StressLabel, where: str) -> FloatArray:
    """The six numbers in our order, from six in a stated order or from a symmetric matrix.

    Raises:
        ValueError: If these are others, or if the matrix is not symmetric.
    """
    array = np.asarray(value)
    if array.size != 9:
        values = as_floats(array.reshape(-1), (6,), name=stress.key, where=where)
        return values[[stress.components.index(name) for name in _OURS]]
    matrix = as_floats(array.reshape(3, 3), (3, 3), name=stress.key, where=where)
    skew = np.abs(matrix - matrix.T).max()
    if skew > _ASYMMETRY * np.abs(matrix).max():
        raise ValueError(
            f"{where}: {stress.key!r} is {matrix.tolist()}, expected a symmetric matrix or six "
            "numbers"
        )
    return np.asarray((0.5 * (matrix + matrix.T))[SIX_OF_MATRIX])


def weight_columns(custom: CustomSource, labels: dict[str, Any], where: str) -> Columns:
    """Weights of the labels in the objective, if the source has any.

    Raises:
        ValueError: If a weight is negative or not finite.
    """
    weights = custom.weights
    keys = [weights.structure, *(getattr(weights, label) for label in LABELS)]
    if not any(keys):
        return {}

    def weight(key: str | None) -> float:
        found = _found(labels, key)
        value = 1.0 if found is None else _as_number(found, str(key), where)
        if not 0 <= value < np.inf:
            raise ValueError(f"{where}: {key!r} is {value}, expected a weight of zero or more")
        return value

    of_structure = weight(weights.structure)
    return {f"{label}_weight": of_structure * weight(getattr(weights, label)) for label in LABELS}


def state_columns(custom: CustomSource, labels: dict[str, Any], where: str) -> Columns:
    """Charge and spin multiplicity, and a hash of the electronic state that these do not tell."""
    read = set(used_keys(custom))
    unread = [key for key in _STATE_KEYS if key not in read and labels.get(key) is not None]
    text = json.dumps(
        [(key, np.asarray(labels[key]).tolist()) for key in unread if np.any(labels[key])]
    )
    return {
        "charge": find_charge(labels, where, keys=_keys_of(custom.charge_key, CHARGE_KEYS)),
        "spin": find_spin(labels, where, keys=_keys_of(custom.spin_key, SPIN_KEYS)),
        "identity": 0 if text == "[]" else name_hash("electronic state", text),
    }


def _keys_of(key: str | None, usual: tuple[str, ...]) -> tuple[str, ...]:
    """Keys to look under: the usual ones, the one that was named, or none."""
    if key == _AUTO:
        return usual
    return () if key is None else (key,)


def split_column(custom: CustomSource, labels: dict[str, Any], by_file: int, where: str) -> int:
    """Position in `SPLITS` of the split that is given for a structure, -1 without one.

    Args:
        custom: The source.
        labels: What the record says, by key.
        by_file: The split of the file.
        where: Place of the record, for messages.

    Raises:
        ValueError: If the key is missing or names no split.
    """
    splits = custom.splits
    if splits is None or splits.key is None:
        return by_file
    if labels.get(splits.key) is None:
        raise ValueError(
            f"{where}: {splits.key!r}, which says the split, is missing; got {', '.join(labels)}"
        )
    found = as_text(labels.get(splits.key), splits.key, where)
    for index, name in enumerate(SPLITS):
        if found in getattr(splits, name):
            return index
    raise ValueError(
        f"{where}: {splits.key!r} is {found!r}, which is none of "
        f"{', '.join(value for name in SPLITS for value in getattr(splits, name))}"
    )


def is_selected(custom: CustomSource, labels: dict[str, Any], where: str) -> bool:
    """Whether a structure is one that the source takes."""
    for key, wanted in custom.where.items():
        values = (wanted,) if isinstance(wanted, str) else wanted
        found = labels.get(key)
        if found is None or as_text(found, key, where) not in values:
            return False
    return True


def choices_of(custom: CustomSource) -> dict[str, Choice]:
    """Keys whose values decide what structures are used for, by option."""
    choices = {
        f"where.{key}": Choice(key, (wanted,) if isinstance(wanted, str) else tuple(wanted))
        for key, wanted in custom.where.items()
    }
    if isolated := custom.isolated_atoms:
        choices["isolated_atoms"] = Choice(isolated.key, (isolated.value,))
    return choices


def used_keys(custom: CustomSource) -> Iterator[str]:
    """Keys that mean something for the source."""
    weights = custom.weights
    named = (
        custom.energy_key,
        custom.forces_key,
        custom.group_key,
        custom.stress_label and custom.stress_label.key,
        custom.splits and custom.splits.key,
        custom.isolated_atoms and custom.isolated_atoms.key,
        weights.structure,
        *(getattr(weights, label) for label in LABELS),
        *custom.where,
    )
    yield from filter(None, named)
    yield from _keys_of(custom.charge_key, CHARGE_KEYS)
    yield from _keys_of(custom.spin_key, SPIN_KEYS)


def _found(labels: dict[str, Any], key: str | None) -> Any:
    """The value under a key; None where there is none, which NaN throughout says too."""
    value = None if key is None else labels.get(key)
    array = np.asarray(value)
    is_nothing = array.dtype.kind == "f" and array.size > 0 and bool(np.isnan(array).all())
    return None if is_nothing else value


def _as_number(value: Any, key: str, where: str) -> float:
    """A number, alone or as an array of one, as databases of SchNetPack hold energies."""
    alone = np.asarray(value).reshape(()) if np.shape(value) == (1,) else value
    return float(as_floats(alone, (), name=key, where=where))


def as_text(value: Any, key: str, where: str) -> str:
    """Text of a name, the same whether it was written as 7 or as 7.0.

    ASE reads what looks like a number as one; then large ones are rounded to the same float.
    """
    if isinstance(value, (str, bool, np.bool_, Integral)):
        return str(value)
    if not isinstance(value, Real) or not abs(float(value)) < _FIRST_INEXACT:
        raise ValueError(
            f"{where}: {key!r} is {value!r:.80}, which may not be a unique name; expected text or "
            f"a number below {_FIRST_INEXACT:,}: write the names as text that is not a number, for "
            "instance with a letter in front"
        )
    number = float(value)
    return str(int(number) if number.is_integer() else number)
