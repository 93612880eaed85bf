"""Checks of what must not matter: frame, order, images, company."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ase import Atoms

from mtlpar.check.structures import moved, sample_structures, shaken, transformed
from mtlpar.check.subject import FloatArray, Observed, Subject, deviation, relative


def rotation(subject: Subject) -> float:
    """E(R x) = E(x), F(R x) = R F(x), and the stress turns on both sides."""
    return _turned(subject, _rotation(7))


def reflection(subject: Subject) -> float:
    """As `rotation`, with a mirror."""
    return _turned(subject, -_rotation(8))


def translation(subject: Subject) -> float:
    """E(x + t) = E(x) and F(x + t) = F(x), near and far."""
    shifts = [(3.0, -1.5, 0.25), (0.0, 700.0, 0.0)]
    return max(_unchanged(subject, lambda atoms, t=t: moved(atoms, t)) for t in shifts)  # type: ignore[misc]


def permutation(subject: Subject) -> float:
    """The order of the atoms does not matter."""
    worst = 0.0
    for atoms in sample_structures(subject.elements).values():
        order = np.random.default_rng(0).permutation(len(atoms))
        before, after = subject.predict([atoms]), subject.predict([atoms[order]])
        worst = max(worst, deviation(after, before._replace(forces=before.forces[order])))
    return worst


def wrapping(subject: Subject) -> float:
    """It does not matter which periodic image of an atom is given."""

    def jump(atoms: Atoms) -> Atoms:
        cells = np.random.default_rng(1).integers(-2, 3, (len(atoms), 3)) * atoms.pbc
        return moved(atoms, cells @ atoms.cell.array)

    return _unchanged(subject, jump)


def supercell(subject: Subject) -> float:
    """A cell taken twice has the same energy per atom, forces and stress."""
    return max(_repeated(subject, name, (2, 1, 1)) for name in ("crystal", "oblique cell"))


def thin_cells(subject: Subject) -> float:
    """A cell thinner than the cutoff is as good as one in which no atom sees itself."""
    return max(
        _repeated(subject, name, repeats)
        for name, repeats in {"thin cell": (3, 3, 1), "one-atom cell": (3, 2, 2)}.items()
    )


def batching(subject: Subject) -> float:
    """A structure in a batch equals the structure alone."""
    structures = list(sample_structures(subject.elements).values())
    alone = [subject.predict([atoms]) for atoms in structures]
    return deviation(
        subject.predict(structures),
        Observed(
            np.concatenate([one.energy_per_atom for one in alone]),
            np.concatenate([one.forces for one in alone]),
            _joined([one.stress for one in alone]),
        ),
    )


def isolated_atom(subject: Subject) -> float:
    """A lone atom of each element has an energy that does not depend on its place, and no force."""
    atoms = [Atoms([z], [[0.3, 0.2, 0.1]]) for z in subject.elements]
    there = subject.predict([moved(one, [-7.0, 2.0, 5.0]) for one in atoms])
    return deviation(subject.predict(atoms), there._replace(forces=np.zeros((len(atoms), 3))))


def far_fragments(subject: Subject) -> float:
    """Energies of fragments beyond each other's cutoff add up, and neither pulls the other."""
    one = sample_structures(subject.elements)["molecule"]
    other = shaken(one[:5], 11)
    parts = [subject.predict([one]), subject.predict([other])]
    together = subject.predict([one + moved(other, [64.0, 0, 0])])
    total = sum(
        part.energy_per_atom * len(atoms) for part, atoms in zip(parts, (one, other), strict=True)
    )
    assert not isinstance(total, int)
    forces = np.concatenate([part.forces for part in parts])
    return max(
        relative(together.energy_per_atom, total / (len(one) + len(other))),
        relative(together.forces, forces),
    )


def _rotation(seed: int) -> FloatArray:
    matrix, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return np.array(matrix if np.linalg.det(matrix) > 0 else -matrix)


def _turned(subject: Subject, matrix: FloatArray) -> float:
    worst = 0.0
    for atoms in sample_structures(subject.elements).values():
        before = subject.predict([atoms])
        stress = None if before.stress is None else matrix @ before.stress @ matrix.T
        expected = Observed(before.energy_per_atom, before.forces @ matrix.T, stress)
        worst = max(worst, deviation(subject.predict([transformed(atoms, matrix)]), expected))
    return worst


def _unchanged(subject: Subject, change: Callable[[Atoms], Atoms]) -> float:
    return max(
        deviation(subject.predict([change(atoms)]), subject.predict([atoms]))
        for atoms in sample_structures(subject.elements).values()
    )


def _repeated(subject: Subject, name: str, repeats: tuple[int, int, int]) -> float:
    atoms = sample_structures(subject.elements)[name]
    once = subject.predict([atoms])
    forces = np.tile(once.forces, (int(np.prod(repeats)), 1))
    larger = atoms.repeat(repeats)  # type: ignore[no-untyped-call]
    return deviation(subject.predict([larger]), once._replace(forces=forces))


def _joined(parts: list[FloatArray | None]) -> FloatArray | None:
    present = [part for part in parts if part is not None]
    return np.concatenate(present) if present else None
