"""Checks of mechanics: smoothness, forces and stress as derivatives, conservation of energy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ase import Atoms, units

from mtlpar.check.structures import moved, sample_structures, transformed
from mtlpar.check.subject import FloatArray, Subject, relative

_STEPS = 200
_TIME_STEP_FS = 0.25
_START_TEMPERATURE_K = 300.0
_STEP_ANGSTROM = 2e-4
_STRAIN_STEP = 5e-5
# In wide steps the fifth derivative of a steep energy shows, in narrow ones rounding.
_NARROWER = 8
# Central differences of fourth order: f'(0) h ~ sum_k w_k f(k h).
_STENCIL = {-2: 1 / 12, -1: -8 / 12, 1: 8 / 12, 2: -1 / 12}
# One-sided limits of f and of f' h at 0 from f(h), f(2h), f(3h), exact for a parabola.
_LIMIT = (3, -3, 1)
_LIMIT_OF_SLOPE = (-2.5, 4, -1.5)


def cutoff_jump(subject: Subject) -> float:
    """Energies and forces do not jump where a neighbour leaves the cutoff."""
    step = 1e-5 if subject.is_double else 1e-3
    worst = 0.0
    for place in _leaving(subject):
        inside, outside = (
            [subject.predict([place(subject.cutoff_angstrom + sign * k * step)]) for k in (1, 2, 3)]
            for sign in (-1, 1)
        )
        for quantity in ("energy_per_atom", "forces"):
            left, right = (
                sum(w * getattr(seen, quantity) for w, seen in zip(_LIMIT, side, strict=True))
                for side in (inside, outside)
            )
            worst = max(worst, relative(left, right))
    return worst


def cutoff_kink(subject: Subject) -> float:
    """The slope of the energy, in eV/Å, does not jump there either."""
    step = 1e-5
    worst = 0.0
    for place in _leaving(subject):
        left, right = (
            sum(
                weight * subject.energy(place(subject.cutoff_angstrom + sign * k * step))
                for k, weight in enumerate(_LIMIT_OF_SLOPE, start=1)
            )
            / (sign * step)
            for sign in (-1, 1)
        )
        worst = max(worst, relative(np.array(left), np.array(right)))
    return worst


def forces_are_the_gradient(subject: Subject) -> float:
    """F = -dE/dx by finite differences, along a random direction of all atoms."""
    worst = 0.0
    for seed, atoms in enumerate(sample_structures(subject.elements).values()):
        direction = np.random.default_rng(seed).normal(size=(len(atoms), 3))
        work = (subject.predict([atoms]).forces * direction).sum()

        def place(shift: float, atoms: Atoms = atoms, direction: FloatArray = direction) -> Atoms:
            return moved(atoms, shift * direction)

        worst = max(worst, _off_the_slope(subject, place, _STEP_ANGSTROM, -work))
    return worst


def stress_is_the_strain_derivative(subject: Subject) -> float:
    """V s = dE/de by finite differences, for a random symmetric strain e of everything."""
    worst = 0.0
    for seed, atoms in enumerate(sample_structures(subject.elements).values()):
        stress = subject.predict([atoms]).stress
        if stress is None or np.isnan(stress).any():
            continue
        strain = np.random.default_rng(seed).normal(size=(3, 3))
        strain = (strain + strain.T) / 2
        work = abs(np.linalg.det(atoms.cell.array)) * (stress[0] * strain).sum()

        def strained(size: float, atoms: Atoms = atoms, strain: FloatArray = strain) -> Atoms:
            return transformed(atoms, np.eye(3) + size * strain)

        worst = max(worst, _off_the_slope(subject, strained, _STRAIN_STEP, work))
    return worst


def energy_conservation(subject: Subject) -> float:
    """Drift of the total energy over 200 steps of velocity Verlet, per kinetic energy.

    The integrator's own error is second order in the step; a force that is not a gradient does
    work on closed paths and shows up whatever the step.
    """
    atoms = sample_structures(subject.elements)["molecule"]
    masses = atoms.get_masses()[:, None]
    step = _TIME_STEP_FS * units.fs
    thermal = np.sqrt(units.kB * _START_TEMPERATURE_K / masses)
    velocities = thermal * np.random.default_rng(0).normal(size=(len(atoms), 3))
    observed = subject.predict([atoms])
    kinetic, total = [], []
    for _ in range(_STEPS):
        kinetic.append(0.5 * float((masses * velocities**2).sum()))
        total.append(kinetic[-1] + float(observed.energy_per_atom[0]) * len(atoms))
        velocities = velocities + 0.5 * step * observed.forces / masses
        atoms = moved(atoms, step * velocities)
        observed = subject.predict([atoms])
        velocities = velocities + 0.5 * step * observed.forces / masses
    drift = float(np.ptp(total) / max(kinetic))
    return drift if np.isfinite(drift) else float("inf")


def _leaving(subject: Subject) -> list[Callable[[float], Atoms]]:
    """Arrangements whose last atom is at a given distance from the first."""

    def dimer(distance: float) -> Atoms:
        return Atoms(_first(subject, 2), [[0, 0, 0], [distance, 0, 0]])

    def trimer(distance: float) -> Atoms:
        # The middle atom keeps seeing both ends.
        positions = [[0, 0, 0], [0.5 * subject.cutoff_angstrom, 0.7, 0], [distance, 0, 0]]
        return Atoms(_first(subject, 3), positions)

    return [dimer, trimer]


def _first(subject: Subject, count: int) -> list[int]:
    return [subject.elements[index % len(subject.elements)] for index in range(count)]


def _off_the_slope(
    subject: Subject, path: Callable[[float], Atoms], step: float, expected: float
) -> float:
    """How far the slope of the energy at the start of a path is from what it should be.

    A second, narrower step is tried before a model is refused: what is no derivative is off by as
    much in both.
    """
    best = float("inf")
    for wide in (step, step / _NARROWER):
        rise = sum(weight * subject.energy(path(k * wide)) for k, weight in _STENCIL.items())
        best = min(best, relative(np.array(rise / wide), np.array(expected)))
        if best <= subject.tolerance:
            break
    return best
