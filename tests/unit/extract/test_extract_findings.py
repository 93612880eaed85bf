"""Physics checks count what they should, and energies against work tell units and signs."""

import json
import logging
import re

import numpy as np
import pytest
from ase import Atoms
from ase.neighborlist import neighbor_list
from helpers import make_structures
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlpar.core.structures import StructureBatch
from mtlpar.extract.close_atoms import has_close_atoms
from mtlpar.extract.energy_work import MIN_PAIRS, EnergyWork
from mtlpar.extract.findings import Findings
from mtlpar.extract.settings import PhysicsSettings

DEFAULT = PhysicsSettings()
HARTREE = 27.211386245988
BOHR = 0.529177210903


NO_CELL = ((0, 0, 0),) * 3


def lone(positions, *, cell=NO_CELL, pbc=(0, 0, 0)):
    """One structure of hydrogen atoms."""
    count = len(positions)
    return StructureBatch.from_labels(
        num_atoms=[count],
        atomic_numbers=np.ones(count),
        positions=positions,
        energy=[0.0],
        forces=np.zeros((count, 3)),
        group=[0],
        cell=[cell],
        pbc=[pbc],
    )


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    pbc=st.tuples(*[st.integers(0, 1)] * 3),
    count=st.integers(1, 6),
    limit=st.sampled_from([0.3, 0.6, 1.2]),
    width=st.sampled_from([0.8, 2.0, 5.0]),
)
def test_close_atoms_are_those_that_ase_finds(seed, pbc, count, limit, width):
    # Skewed cells, thin ones among them, and atoms far outside the cell.
    rng = np.random.default_rng(seed)
    cell = rng.normal(size=(3, 3)) * width
    if abs(np.linalg.det(cell)) < 0.3 * width**3:
        cell = np.eye(3) * width
    positions = rng.normal(size=(count, 3)) * 3
    batch = StructureBatch.concatenate(
        [lone(rng.normal(size=(4, 3))), lone(positions, cell=cell, pbc=pbc)]
    )
    atoms = Atoms(f"H{count}", batch.positions[4:], cell=batch.cell[1], pbc=pbc)
    assert has_close_atoms(batch, limit)[1] == (len(neighbor_list("i", atoms, limit)) > 0)


def test_an_atom_and_its_own_image_can_be_too_close():
    cell = np.diag([0.4, 9.0, 9.0])
    assert has_close_atoms(lone([[0, 0, 0]], cell=cell, pbc=(1, 0, 0)), 0.5)[0]
    assert not has_close_atoms(lone([[0, 0, 0]], cell=cell, pbc=(0, 1, 1)), 0.5)[0]


def test_atoms_of_different_structures_are_never_neighbours():
    same_place = StructureBatch.concatenate([lone([[0, 0, 0]]), lone([[0, 0, 0]])])
    assert not has_close_atoms(same_place, 0.5).any()


def test_net_forces_are_counted_and_kept():
    batch = make_structures(5, seed=1)
    batch.forces[batch.offsets[2]] += [0.0, 0.0, 0.5]
    findings = Findings()
    findings.add(batch, DEFAULT)
    assert findings.net_force == 1
    assert findings.largest_net_force_ev_per_angstrom == pytest.approx(0.5, abs=1e-5)
    assert findings.structures == 5


def vibration(frames, *, energy=1.0, force=1.0, position=1.0, cell=None):
    """Frames of a dimer on a spring, with energies, forces or positions in other units."""
    length = 1.0 + 0.3 * np.sin(0.4 * np.arange(frames))
    positions = np.zeros((frames, 2, 3))
    positions[:, 1, 0] = length
    pull = np.zeros((frames, 2, 3))
    pull[:, 1, 0] = -2.0 * 3.0 * (length - 1.1)
    pull[:, 0, 0] = -pull[:, 1, 0]
    box = (
        {} if cell is None else {"cell": np.tile(cell, (frames, 1, 1)), "pbc": np.ones((frames, 3))}
    )
    if cell is not None:
        # Every other frame has its second atom in the next cell.
        positions[::2, 1] += cell[0]
    return StructureBatch.from_labels(
        num_atoms=np.full(frames, 2),
        atomic_numbers=np.full(2 * frames, 7),
        positions=position * positions.reshape(-1, 3),
        energy=energy * (3.0 * (length - 1.1) ** 2 - 3000.0),
        forces=force * pull.reshape(-1, 3),
        group=np.zeros(frames),
        **box,
    )


def energy_work(*batches):
    work = EnergyWork()
    for batch in batches:
        work.add(batch)
    return work


def slope(*batches):
    return energy_work(*batches).forces.quantile(0.5, at_least=MIN_PAIRS)


def test_consistent_energies_and_forces_have_slope_one():
    assert slope(vibration(200)) == pytest.approx(1.0, rel=0.02)
    assert slope(vibration(200, cell=np.eye(3) * 6)) == pytest.approx(1.0, rel=0.02)
    assert energy_work(vibration(200)).problem_of_forces() is None


@pytest.mark.parametrize(
    ("units", "expected", "named"),
    [
        ({"force": -1}, -1, "the sign of forces or energies is wrong"),
        ({"force": 1 / HARTREE}, HARTREE, "forces in Hartree/Å"),
        ({"energy": 1 / HARTREE}, 1 / HARTREE, "energies in Hartree beside forces in eV/Å"),
        ({"energy": 23.060548}, 23.06, "energies in kcal/mol"),
        ({"force": -23.060548}, -1 / 23.06, "sign.* and forces in kcal/mol"),
        ({"force": BOHR}, 1 / BOHR, "forces per bohr"),
        ({"force": BOHR / HARTREE}, HARTREE / BOHR, "forces in Hartree/bohr"),
        ({"position": 1 / BOHR}, BOHR, "positions in bohr beside forces per"),
        ({"energy": 7.0}, 7.0, "units of energies and forces do not match"),
    ],
)
def test_mistaken_units_and_signs_are_named(units, expected, named):
    findings = Findings()
    findings.add(vibration(400, **units), DEFAULT)
    assert findings.energy_work.forces.quantile(0.5, at_least=MIN_PAIRS) == pytest.approx(
        expected, rel=0.03
    )
    with pytest.raises(ValueError, match=f"made-up: energies change .*: .*{named}"):
        findings.report("made-up", DEFAULT)


def test_a_wrong_slope_can_be_let_through_with_a_warning(caplog):
    findings = Findings()
    findings.add(vibration(200, force=-1), DEFAULT)
    with caplog.at_level(logging.WARNING):
        findings.report("made-up", PhysicsSettings(wrong_slope="warn"))
    assert "the sign of forces or energies is wrong" in caplog.text


def breathing(frames=120, *, factor=1.0):
    """Frames of a cell that breathes: atoms keep their fractions and forces are zero."""
    edge = 4.0 * (1 + 0.04 * np.sin(0.3 * np.arange(frames)))
    volume = edge**3
    return StructureBatch.from_labels(
        num_atoms=np.full(frames, 1),
        atomic_numbers=np.full(frames, 29),
        positions=np.stack([edge / 4] * 3, axis=1),
        energy=0.5 * 0.8 * (volume - 60.0) ** 2 / 60.0 - 3.0,
        forces=np.zeros((frames, 3)),
        group=np.zeros(frames),
        cell=edge[:, None, None] * np.eye(3),
        pbc=np.ones((frames, 3)),
        stress=factor * np.stack([0.8 * (volume - 60.0) / 60.0] * 3 + [0 * edge] * 3, axis=1),
        stress_mask=np.ones(frames),
    )


def test_strain_of_the_cell_does_work_too():
    # Without the stress the energies would seem to change by themselves.
    batch = breathing()
    assert energy_work(batch).as_dict()["stress"]["slope"] == pytest.approx(1.0, rel=0.03)
    assert slope(batch) is None
    batch.stress_mask[:] = 0
    assert energy_work(batch).as_dict()["stress"]["pairs"] == 0


GPA = 160.21766208


@pytest.mark.parametrize(
    ("factor", "named"),
    [
        (-1.0, "the sign of the stress is wrong"),
        (GPA, "numbers in GPa taken as eV"),
        (-10 * GPA, "the sign of the stress is wrong and numbers in kbar taken as eV"),
        (1 / GPA, "numbers in eV/Å.3 taken as GPa"),
        (0.1, "numbers in GPa taken as kbar"),
    ],
)
def test_a_wrong_stress_is_blamed_and_not_the_forces(factor, named):
    # Shrunk to a 160th, the work of the stress lies below every threshold: only the energies that
    # change for no reason are left as evidence.
    findings = Findings()
    findings.add(breathing(factor=factor), DEFAULT)
    with pytest.raises(ValueError, match=f"as much as the stress says .*: {named}"):
        findings.report("made-up", DEFAULT)


def sheared(frames=160):
    """A cell whose six strains all move, with the stress of a simple elastic energy."""
    rng = np.random.default_rng(3)
    strain = np.cumsum(rng.normal(scale=0.004, size=(frames, 3, 3)), axis=0)
    strain = 0.5 * (strain + strain.transpose(0, 2, 1))
    rest = np.array([[4.0, 0.3, 0.1], [0.0, 3.5, 0.4], [0.2, 0.0, 4.5]])
    cell = rest @ (np.eye(3) + strain)
    volume = np.abs(np.linalg.det(cell))
    # Springs of other strengths for each component, so that no two can be exchanged unnoticed.
    springs = np.array([[2.0, 0.5, 1.5], [0.5, 3.0, 4.0], [1.5, 4.0, 1.0]])
    energy = 30.0 * 0.5 * (springs * (strain + 0.02) ** 2).sum(axis=(1, 2))
    by_strain = 30.0 * springs * (strain + 0.02)
    # dE/d(strain of the present cell) = dE/d(strain of the cell at rest) (1 + strain).
    full = by_strain @ (np.eye(3) + strain) / volume[:, None, None]
    full = 0.5 * (full + full.transpose(0, 2, 1))
    six = full[:, [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    return cell, volume, energy, six


@pytest.mark.parametrize(
    ("written", "named"),
    [
        (lambda six, _: six, None),
        (lambda six, _: six[:, [0, 1, 2, 5, 3, 4]], "looks like xy yz xz .VASP"),
        (lambda six, _: six[:, [0, 1, 2, 5, 4, 3]], "looks like xy xz yz .LAMMPS"),
        (lambda six, volume: -six * volume[:, None], "it looks like a virial in eV .stress times"),
        (lambda six, volume: six * volume[:, None], "a virial in eV, tension positive"),
    ],
)
def test_other_conventions_of_a_stress_are_told_by_name(written, named):
    cell, volume, energy, six = sheared()
    frames = len(energy)
    batch = StructureBatch.from_labels(
        num_atoms=np.ones(frames),
        atomic_numbers=np.full(frames, 29),
        positions=np.zeros((frames, 3)),
        energy=energy - 3000.0,
        forces=np.zeros((frames, 3)),
        group=np.zeros(frames),
        cell=cell,
        pbc=np.ones((frames, 3)),
        stress=written(six, volume),
        stress_mask=np.ones(frames),
    )
    problem = energy_work(batch).problem_of_stress()
    assert (problem is None) if named is None else re.search(named, problem)


def test_steps_that_leave_the_cell_alone_judge_the_forces_whatever_the_stress_is():
    moving, strained = vibration(200, force=-1), breathing()
    work = energy_work(moving, strained)
    assert "the sign of forces or energies" in work.problem_of_forces()
    assert work.problem_of_stress() is None


def test_frames_of_other_groups_or_far_apart_are_no_steps():
    batch = vibration(200)
    batch.group = np.arange(200, dtype=np.uint64)
    assert slope(batch) is None
    assert slope(vibration(200).take(np.arange(0, 200, 8)[::-1])) is None


def test_findings_of_pieces_add_up():
    # One step is lost at each border and nothing else changes.
    whole, first, second = Findings(), Findings(), Findings()
    batch = vibration(200)
    batch.forces[7] += 1.0
    whole.add(batch, DEFAULT)
    first.add(batch.slice(0, 90), DEFAULT)
    second.add(batch.slice(90, 200), DEFAULT)
    total = Findings.total([first, second])
    lost = EnergyWork()
    lost.add(batch.slice(89, 91))
    total.energy_work.merge(lost)
    assert total.as_dict() == whole.as_dict()


def test_findings_survive_the_record_of_a_piece() -> None:
    # What an interrupted run found must not be lost, and JSON has no tuples for keys.
    findings = Findings()
    findings.add(vibration(60), DEFAULT)
    again = Findings.from_record(json.loads(json.dumps(findings.to_record())))
    assert again.as_dict() == findings.as_dict()
    assert again.energy_work.forces.bins == findings.energy_work.forces.bins
    assert findings.energy_work.forces.count > 0
