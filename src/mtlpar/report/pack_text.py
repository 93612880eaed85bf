"""A ``.bp`` folder explained in a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mtlpar.core.fields import FIELDS, LABELS, Field
from mtlpar.core.text_table import aligned
from mtlpar.store.header import BpHeader
from mtlpar.store.summary import FORCE_EDGES_EV_PER_ANGSTROM, Summary

_LEVELS: Final = " ▁▂▃▄▅▆▇█"
_BAR_CELLS: Final = 30
_BINS: Final = 60
_MAX_ELEMENTS: Final = 12
_MAX_FILES: Final = 5
_PERIODICITY: Final = ("molecules", "chains", "layers", "crystals")


def pack_text(summary: Summary) -> str:
    """Facts, columns and small histograms."""
    sections = [
        ("", aligned([*_facts(summary)], "ll")),
        ("Columns", aligned([*_columns(summary.header)], "llllll", indent=2)),
        (f"Elements, share of {_number(_atoms(summary))} atoms", _elements(summary)),
        ("Atoms per structure", _sizes(summary)),
        (f"{energy_title(summary)}, eV/atom", _energies(summary)),
        ("Length of the force on an atom, eV/Å (logarithmic)", _forces(summary)),
    ]
    return "\n\n".join("\n".join([title, *lines]).strip("\n") for title, lines in sections)


def energy_title(summary: Summary) -> str:
    """What the energies of a summary are."""
    return "Energy without references" if summary.has_references else "Total energy"


def _facts(summary: Summary) -> Iterable[tuple[str, str]]:
    header = summary.header
    structures, atoms = header.num_structures, header.num_atoms
    yield "file", str(summary.path)
    for key in ("source", "split", "level_of_theory"):
        if value := getattr(header, key):
            yield key.replace("_", " "), value
    if header.leaky:
        yield "LEAKY", "single frames were split: their neighbours lie in the other splits"
    yield "structures", f"{_number(structures)}, {header.atoms_per_structure:.1f} atoms on average"
    yield "atoms", _number(atoms)
    yield (
        "kinds",
        ", ".join(
            f"{_number(count)} {_PERIODICITY[dimension]}"
            for dimension, count in sorted(summary.structures_of_dimension.items())
        ),
    )
    for label in LABELS:
        yield f"with {label}", _number(summary.with_label[label])
    size = f"{summary.num_bytes / 1e6:,.2f} MB, {summary.num_bytes / max(atoms, 1):.1f} B per atom"
    yield "on disk", size
    yield "counted", _what_was_read(summary)
    yield from _provenance(header)


def _what_was_read(summary: Summary) -> str:
    if summary.is_complete:
        return "all structures; all checksums agree"
    return f"a sample of {_number(summary.structures)} structures; --verify reads all of them"


def _provenance(header: BpHeader) -> Iterable[tuple[str, str]]:
    if header.references_ev is not None:
        yield (
            "references",
            ", ".join(
                f"{symbol} {energy:.3f} eV" for symbol, energy in header.references_ev.items()
            ),
        )
    files = dict(header.raw_files or {})
    if header.raw_file is not None and header.raw_sha256 is not None:
        files[header.raw_file] = header.raw_sha256
    for name, sha256 in list(files.items())[:_MAX_FILES]:
        yield "raw file", f"{name}, SHA-256 {sha256[:16]}…"
    if len(files) > _MAX_FILES:
        yield "", f"and {len(files) - _MAX_FILES} more"
    if header.seed is not None:
        yield "shuffled with seed", str(header.seed)
    yield "schema version", str(header.schema_version)


def _columns(header: BpHeader) -> Iterable[tuple[str, ...]]:
    yield "name", "per", "shape", "type", "unit", "meaning"
    for name in header.fields:
        yield _column(FIELDS[name], FIELDS[name].description)
    for name, row in header.constants.items():
        values = sorted(set(np.ravel(row).tolist()))
        value = f"{values[0]:g}" if len(values) == 1 else str(row)
        yield _column(FIELDS[name], f"{value} in all structures: {FIELDS[name].description}")


def _column(field: Field, meaning: str) -> tuple[str, ...]:
    shape = "×".join(map(str, field.shape)) or "1"
    return field.name, field.level, shape, field.dtype, field.unit, meaning


def _elements(summary: Summary) -> list[str]:
    counts = summary.atoms_of_element.most_common()
    rest = sum(count for _, count in counts[_MAX_ELEMENTS:])
    total, largest = _atoms(summary), counts[0][1]
    rows = [
        (name, f"{count / total:6.1%}", "█" * max(1, round(_BAR_CELLS * count / largest)))
        for name, count in counts[:_MAX_ELEMENTS]
    ]
    if rest:
        # No bar: together they can be many times the largest.
        rows.append((f"{len(counts) - _MAX_ELEMENTS} more", f"{rest / total:6.1%}", ""))
    return aligned(rows, "lll", indent=2)


def _sizes(summary: Summary) -> list[str]:
    sizes = np.array(sorted(summary.structures_of_size))
    counts = np.array([summary.structures_of_size[size] for size in sizes.tolist()])
    bins = min(_BINS, int(sizes[-1] - sizes[0]) + 1)
    histogram, _ = np.histogram(sizes, bins, weights=counts)
    return _sparkline(histogram, f"{sizes[0]}", f"{sizes[-1]}")


def _energies(summary: Summary) -> list[str]:
    energies = summary.energies_ev_per_atom
    if len(energies) == 0:
        return ["none"]
    histogram, _ = np.histogram(energies, _BINS)
    return _sparkline(histogram, f"{energies.min():.4g}", f"{energies.max():.4g}")


def _forces(summary: Summary) -> list[str]:
    filled = np.flatnonzero(summary.atoms_of_force)
    first, last = filled[0], filled[-1] + 1
    edges = FORCE_EDGES_EV_PER_ANGSTROM
    high = f"{edges[last]:.2g}, longest {summary.max_force_ev_per_angstrom:.4g}"
    low = f"up to {edges[1]:.1e}" if first == 0 else f"{edges[first]:.2g}"
    return _sparkline(summary.atoms_of_force[first:last], low, high)


def _sparkline(counts: npt.NDArray[Any], low: str, high: str) -> list[str]:
    """Counts as blocks of eight heights, with the ends of the axis beside them."""
    heights = np.ceil(8 * counts / counts.max()).astype(int).tolist()
    return [f"  {low} {''.join(_LEVELS[height] for height in heights)} {high}"]


def _atoms(summary: Summary) -> int:
    return summary.atoms_of_element.total()


def _number(value: int) -> str:
    return f"{value:,}"
