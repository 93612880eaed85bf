"""All checks, in order, and their results as a table."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from ase.data import atomic_numbers

from mtlpar.check import mechanics, symmetry
from mtlpar.check.subject import Subject, subject_of
from mtlpar.graph.settings import GraphSettings
from mtlpar.model.multitask import MultiTaskModel
from mtlpar.model.saved import SavedModel

# Smoothness is seen through finite steps, and Verlet's method has an error of its own.
_CUTOFF_TOLERANCE = 1e-6
_DRIFT_TOLERANCE = 0.02

LEGEND = """\
Numbers: the largest difference of an energy (eV/atom), force (eV/Å) or stress (eV/Å^3) from what it
should be, over the larger of its value and one; of the kink in eV/Å, of NVE the drift over the
kinetic energy.
"""
"""What the numbers of the tables are."""

Check = Callable[[Subject], float]


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """Result of one check in one precision.

    Attributes:
        check: Name of the check.
        deviation: What was found, None if the check does not apply.
        tolerance: What is allowed.
        reason: Why it does not apply.
    """

    check: str
    deviation: float | None
    tolerance: float
    reason: str = ""

    @property
    def is_refused(self) -> bool:
        """Whether the model fails the check; a deviation that is no number fails too."""
        return self.deviation is not None and not self.deviation <= self.tolerance


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A check and when it applies."""

    run: Check
    tolerance: float | None = None
    double_only: bool = False
    conservative_only: bool = False
    extensive_only: bool = False

    def why_not(self, subject: Subject) -> str:
        if self.double_only and not subject.is_double:
            return "needs float64"
        if self.conservative_only and not subject.is_conservative:
            return "forces are predicted directly"
        if self.extensive_only and not subject.is_extensive:
            return "the energy is a mean over atoms"
        return ""


CHECKS: Mapping[str, _Entry] = {
    "rotation": _Entry(run=symmetry.rotation),
    "reflection": _Entry(run=symmetry.reflection),
    "translation": _Entry(run=symmetry.translation),
    "permutation": _Entry(run=symmetry.permutation),
    "wrapping": _Entry(run=symmetry.wrapping),
    "supercell": _Entry(run=symmetry.supercell, extensive_only=True),
    "thin cells": _Entry(run=symmetry.thin_cells, extensive_only=True),
    "batch = alone": _Entry(run=symmetry.batching),
    "isolated atom": _Entry(run=symmetry.isolated_atom),
    "far-apart fragments": _Entry(run=symmetry.far_fragments, extensive_only=True),
    "no jump at the cutoff": _Entry(run=mechanics.cutoff_jump),
    "no kink at the cutoff": _Entry(
        run=mechanics.cutoff_kink, tolerance=_CUTOFF_TOLERANCE, double_only=True
    ),
    "forces = -dE/dx": _Entry(
        run=mechanics.forces_are_the_gradient, double_only=True, conservative_only=True
    ),
    "stress = dE/de / V": _Entry(
        run=mechanics.stress_is_the_strain_derivative, double_only=True, conservative_only=True
    ),
    "energy kept in NVE": _Entry(
        run=mechanics.energy_conservation,
        tolerance=_DRIFT_TOLERANCE,
        double_only=True,
        conservative_only=True,
    ),
}
"""Every check by the name that tables show."""


def run_checks(subject: Subject, *, only: Collection[str] = CHECKS) -> Iterator[CheckResult]:
    """Run the checks, or those named, that apply to a model; see `CHECKS`."""
    for name, entry in CHECKS.items():
        if name not in only:
            continue
        tolerance = subject.tolerance if entry.tolerance is None else entry.tolerance
        reason = entry.why_not(subject)
        deviation = None if reason else entry.run(subject)
        yield CheckResult(check=name, deviation=deviation, tolerance=tolerance, reason=reason)


def check_branch(
    network: MultiTaskModel, branch: str, *, elements: Sequence[int]
) -> dict[str, list[CheckResult]]:
    """Check one branch in float64 and in float32.

    Args:
        network: The network.
        branch: Name of the branch.
        elements: Atomic numbers that the branch knows.

    Returns:
        Findings by precision.
    """
    return {
        str(dtype).removeprefix("torch."): list(
            run_checks(subject_of(network, branch, elements=elements, dtype=dtype))
        )
        for dtype in (torch.float64, torch.float32)
    }


def check_model(
    model: SavedModel, *, source: str | None = None
) -> Iterator[tuple[str, dict[str, list[CheckResult]]]]:
    """Check the branches of a trained model, each on the elements that it saw.

    Args:
        model: The model.
        source: Check only the branch of this source.

    Yields:
        Name of a branch and its findings by precision.

    Raises:
        ValueError: If the source does not exist.
    """
    branches = model.branches if source is None else [model.branch_of(source)]
    for branch in branches:
        elements = [atomic_numbers[symbol] for symbol in model.elements(branch)]
        yield branch, check_branch(model.network, branch, elements=elements)


def refusals(findings: Mapping[str, Sequence[CheckResult]]) -> list[str]:
    """Names of the checks that the model fails in some precision."""
    failed = [found.check for column in findings.values() for found in column if found.is_refused]
    return list(dict.fromkeys(failed))


def verdict(branches: Sequence[Mapping[str, Sequence[CheckResult]]]) -> str:
    """What may be said of a model that fails no check: whether all of them looked at it.

    Args:
        branches: Findings of each branch by precision; see `check_branch`.
    """
    found = [finding for columns in branches for column in columns.values() for finding in column]
    applied = {finding.check for finding in found if finding.deviation is not None}
    left_out: dict[str, str] = {}
    for finding in found:
        if finding.check not in applied:
            # The first reason is that of float64, in which every check could apply.
            left_out.setdefault(finding.check, finding.reason)
    if not left_out:
        return "passes all checks"
    reasons = "; ".join(
        f"{', '.join(check for check, its in left_out.items() if its == reason)} ({reason})"
        for reason in dict.fromkeys(left_out.values())
    )
    count = f"{len(left_out)} of {len(applied | left_out.keys())} checks"
    return f"passes; {count} {'does' if len(left_out) == 1 else 'do'} not apply: {reasons}"


def table(findings: Mapping[str, Sequence[CheckResult]]) -> str:
    """Deviations by check and precision, for people."""
    head = f"{'check':24}" + "".join(f"{precision:>24}" for precision in findings)
    rows = [
        f"{row[0].check:24}" + "".join(f"{_cell(found):>24}" for found in row)
        for row in zip(*findings.values(), strict=True)
    ]
    notes = {found.reason for column in findings.values() for found in column if found.reason}
    return "\n".join([head, *rows, *(f"-: {note}" for note in sorted(notes))])


def truncation_note(graph: GraphSettings) -> str:
    """What the checks cannot excuse about a truncated neighbour list; empty if there is none."""
    if graph.max_neighbors is None:
        return ""
    return (
        f"warning: the graph keeps only the {graph.max_neighbors} nearest neighbours. Energies and "
        "forces jump where neighbours change order; the checks ran without this limit\n"
    )


def _cell(found: CheckResult) -> str:
    if found.deviation is None:
        return "-"
    sign, verdict = (">", "REFUSED") if found.is_refused else ("<=", "ok")
    return f"{found.deviation:.1e} {sign} {found.tolerance:.0e} {verdict}"
