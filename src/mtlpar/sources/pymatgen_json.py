"""Parses the dictionaries that pymatgen writes, without pymatgen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mtlpar.core.units import VASP_STRESS_KBAR_TO_EV_PER_CUBIC_ANGSTROM
from mtlpar.sources.json_members import JsonDamageError, MemberRun, RepeatedKeyError
from mtlpar.sources.quick_crystals import (
    ELEMENT_NUMBERS,
    PERIODIC,
    VOIGT,
    Gather,
    gather_quickly,
)
from mtlpar.sources.reading import (
    Columns,
    Damage,
    FloatArray,
    Parsed,
    Progress,
    as_floats,
    require,
)

_ONCE_PER_ROW: Final = (b'"structure"', b'"lattice"', b'"sites"')


@dataclass(frozen=True, slots=True)
class CrystalRecord:
    """An ordered structure of N atoms.

    Attributes:
        atomic_numbers: (N,).
        positions: Å, (N, 3).
        cell: Lattice vectors in rows, Å, (3, 3).
        pbc: 1 where the structure is periodic, (3,).
    """

    atomic_numbers: npt.NDArray[np.uint8]
    positions: FloatArray
    cell: FloatArray
    pbc: npt.NDArray[np.uint8]


def parse_structure(structure: Any, *, where: str) -> CrystalRecord | None:
    """Parse a ``Structure`` dictionary; None if a site is shared or partly empty.

    Raises:
        ValueError: If it is laid out otherwise.
    """
    lattice = require(structure, "lattice", where)
    cell = as_floats(require(lattice, "matrix", where), (3, 3), name="lattice.matrix", where=where)
    pbc = lattice.get("pbc")
    sites = require(structure, "sites", where)
    try:
        alone = [len(site["species"]) for site in sites].count(1)
        species = [one for site in sites for one in site["species"]]
        full = [one["occu"] for one in species].count(1)
        numbers = [ELEMENT_NUMBERS[one["element"]] for one in species]
        if not len(sites) == alone == full:
            return None
    except (KeyError, TypeError):
        raise ValueError(_odd_site(sites, where)) from None
    return CrystalRecord(
        atomic_numbers=np.array(numbers, np.uint8),
        positions=_positions(sites, cell, where=where),
        cell=cell,
        pbc=_parse_pbc(PERIODIC if pbc is None else pbc, where=where),
    )


def _parse_pbc(pbc: Any, *, where: str) -> npt.NDArray[np.uint8]:
    if not (isinstance(pbc, list) and len(pbc) == 3 and all(one in (0, 1) for one in pbc)):
        raise ValueError(f"{where}: 'lattice.pbc' is {pbc!r:.80}, expected three booleans")
    return np.array(pbc, np.uint8)


def _odd_site(sites: Any, where: str) -> str:
    for index, site in enumerate(sites if isinstance(sites, list) else [sites]):
        try:
            if all(one["element"] in ELEMENT_NUMBERS and "occu" in one for one in site["species"]):
                continue
        except (KeyError, TypeError):
            pass
        return (
            f"{where}, site {index}: expected one species with the symbol of an 'element' and its "
            f"'occu', got {site!r:.200}"
        )
    return f"{where}: expected a list of 'sites', got {sites!r:.200}"


def parse_stress(stress: Any, *, where: str) -> FloatArray | None:
    """Convert VASP's stress tensor to our convention; None stays None.

    Args:
        stress: kbar, compression positive, (3, 3).
        where: File and key, for messages.

    Returns:
        eV/Å^3, tension positive, in the order xx yy zz yz xz xy, (6,).
    """
    if stress is None:
        return None
    tensor = as_floats(stress, (3, 3), name="stress", where=where)
    return tensor.take(VOIGT) * VASP_STRESS_KBAR_TO_EV_PER_CUBIC_ANGSTROM


def parse_forces(forces: Any, size: int, *, where: str) -> FloatArray | None:
    """Convert forces in eV/Å to (N, 3); None if they are missing in whole or in part.

    Raises:
        ValueError: If there are forces for another number of atoms.
    """
    if forces is None or (isinstance(forces, list) and None in forces):
        return None
    values = as_floats(forces, (size, 3), name="forces", where=where)
    # JSON has no NaN: these were null.
    return None if np.isnan(values).any() else values


def parse_labelled(
    structure: Any, *, energy: Any, forces: Any, stress: Any, where: str
) -> Columns | str:
    """Turn a structure and its labels into columns, all but the group.

    Args:
        structure: A ``Structure`` dictionary of N sites.
        energy: Total energy in eV, or None.
        forces: eV/Å, (N, 3), or None in whole or in part.
        stress: kbar, compression positive, (3, 3), or None.
        where: File and key, for messages.

    Returns:
        The columns, or why there are none: ``disordered_site``, ``missing_energy`` or
        ``missing_forces``.

    Raises:
        ValueError: If anything is laid out otherwise.
    """
    crystal = parse_structure(structure, where=where)
    if crystal is None:
        return "disordered_site"
    if energy is None:
        return "missing_energy"
    values = parse_forces(forces, len(crystal.atomic_numbers), where=where)
    if values is None:
        return "missing_forces"
    tensor = parse_stress(stress, where=where)
    return {
        "atomic_numbers": crystal.atomic_numbers,
        "positions": crystal.positions,
        "energy": float(as_floats(energy, (), name="energy", where=where)),
        "forces": values,
        "cell": crystal.cell,
        "pbc": crystal.pbc,
        "stress": np.zeros(6) if tensor is None else tensor,
        "stress_mask": 0 if tensor is None else 1,
    }


def parse_runs(
    runs: Iterable[MemberRun],
    brackets: bytes,
    records_of: Callable[[Any], Iterator[tuple[str, Any]]],
    progress: Progress,
    gather: Gather,
) -> Iterator[tuple[str, Any] | Damage | Parsed]:
    """Parse runs of members into records; what is damaged costs the member that it is in.

    Args:
        runs: Members of the container.
        brackets: The container's own, ``b"{}"`` or ``b"[]"``.
        records_of: Key and content of the records in a parsed run; raises ValueError if a member
            is laid out otherwise.
        progress: For messages.
        gather: Adds the records of a run to columns, if all are regular.
    """
    for run in runs:
        quick = gather_quickly(run.document(brackets), gather)
        if quick is not None:
            yield Parsed(*quick)
            continue
        try:
            records = list(records_of(run.parse(brackets)))
        except (JsonDamageError, ValueError) as error:
            if len(run.ends) > 1:
                yield from parse_runs(run.members(), brackets, records_of, progress, gather)
                if isinstance(error, RepeatedKeyError):
                    # One by one they are all read, even if two members have the same key.
                    yield Damage(progress.damage(error), 0)
            elif isinstance(error, ValueError):
                yield Damage(progress.named(error), _rows(run))
            else:
                yield Damage(progress.damage(error), _rows(run))
        else:
            yield from records


def _rows(run: MemberRun) -> int:
    """Rows in members that cannot be parsed, where brackets and quotes need not be in pairs."""
    # One of the keys may be damaged or stand twice.
    return max(len(run.ends), sorted(run.text.count(key) for key in _ONCE_PER_ROW)[1])


def _positions(sites: list[Any], cell: FloatArray, *, where: str) -> FloatArray:
    shape = (len(sites), 3)
    if not sites:
        return np.zeros(shape)
    try:
        return as_floats([site["xyz"] for site in sites], shape, name="xyz", where=where)
    except KeyError:
        fractional = [require(site, "abc", where) for site in sites]
        return as_floats(fractional, shape, name="abc", where=where) @ cell
