"""Anything that ASE reads, described by configuration alone."""

import bz2
import codecs
import errno
import gzip
import lzma
import sqlite3
import sys
from contextlib import closing
from functools import partial

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.db import connect
from ase.io import write

from mtlpar.core.hashing import name_hash
from mtlpar.core.structures import StructureBatch
from mtlpar.core.units import HARTREE_EV
from mtlpar.extract.checks import check
from mtlpar.normalize.split import assign_splits
from mtlpar.sources.alexandria import composition_group
from mtlpar.sources.ase_containers import CONTAINERS
from mtlpar.sources.ase_files import custom_source
from mtlpar.sources.materials_project import material_group
from mtlpar.sources.settings import CustomSource, SourceSettings, StressLabel


def water(energy=-10.0, *, forces=True, **info):
    rng = np.random.default_rng(abs(int(1000 * (energy or 0))))
    atoms = Atoms("OH2", positions=rng.normal(size=(3, 3)), info=info)
    labels = {"forces": rng.normal(size=(3, 3))} if forces else {}
    if energy is not None:
        labels["energy"] = energy
    atoms.calc = SinglePointCalculator(atoms, **labels)
    return atoms


def slab():
    atoms = Atoms(
        "Cu2", positions=[[0, 0, 0], [1.5, 1.5, 2]], cell=np.diag([3, 3, 20.0]), pbc=[1, 1, 0]
    )
    atoms.calc = SinglePointCalculator(
        atoms, energy=-3.0, forces=np.full((2, 3), 0.5), stress=np.arange(1.0, 7.0)
    )
    atoms.set_constraint(FixAtoms([0]))
    return atoms


def read_all(path, **custom):
    source = custom_source("mine", CustomSource(files=("*",), level_of_theory="X", **custom))
    blocks = list(source.read(path, SourceSettings()))
    damage = [block.damage for block in blocks if block.damage]
    dropped = sum((block.dropped for block in blocks), start=type(blocks[0].dropped)())
    return StructureBatch.concatenate(block.batch for block in blocks), dict(dropped), damage


@pytest.fixture(params=["extxyz", "db"])
def file_of(request, tmp_path):
    """Write structures in each of the formats: (path, format)."""

    def make(structures):
        path = tmp_path / f"data.{'xyz' if request.param == 'extxyz' else 'db'}"
        if request.param == "extxyz":
            write(path, structures, format="extxyz")
        else:
            with connect(path) as database:
                for atoms in structures:
                    database.write(atoms, key_value_pairs=atoms.info)
        return path, request.param

    return make


def test_labels_come_back_and_constraints_take_nothing_from_forces(file_of):
    # ASE's get_forces() would set the forces on the fixed atom to zero.
    structures = [water(-10.0), slab(), water(-12.5)]
    path, form = file_of(structures)
    batch, dropped, damage = read_all(path, format=form, stress_key="stress")
    assert (dropped, damage) == ({}, [])
    assert batch.energy.tolist() == [-10.0, -3.0, -12.5]
    assert batch.num_atoms.tolist() == [3, 2, 3]
    assert batch.atomic_numbers.tolist() == [8, 1, 1, 29, 29, 8, 1, 1]
    raw = np.concatenate([atoms.calc.results["forces"] for atoms in structures])
    np.testing.assert_allclose(batch.forces, raw, atol=1e-7)
    positions = np.concatenate([atoms.positions for atoms in structures])
    np.testing.assert_allclose(batch.positions, positions, atol=1e-7)
    assert batch.pbc.tolist() == [[0, 0, 0], [1, 1, 0], [0, 0, 0]]
    np.testing.assert_array_equal(batch.cell[1], np.diag([3, 3, 20]))
    np.testing.assert_allclose(batch.stress[1], np.arange(1, 7), rtol=1e-6)
    assert batch.stress_mask.tolist() == [0, 1, 0]


def test_what_lacks_a_label_is_kept_for_those_it_has(file_of):
    path, form = file_of([water(), water(None), water(forces=False), water(trajectory="a")])
    batch, dropped, _ = read_all(path, format=form)
    assert dropped == {}
    assert batch.energy_mask.tolist() == [1, 0, 1, 1]
    assert batch.forces_mask.tolist() == [1, 1, 0, 1]
    # Nothing is guessed where there is nothing: the rest of such a structure is as it was.
    assert batch.energy[1] == 0
    assert not batch.forces[6:9].any()
    assert batch.forces[3:6].any()
    batch, dropped, _ = read_all(path, format=form, group_key="trajectory")
    assert batch.group.tolist() == [name_hash("mine", "a")]
    assert dropped == {"missing_group": 3}


def test_labels_that_do_not_count_are_switched_off(file_of):
    path, form = file_of([water(), water()])
    batch, _, _ = read_all(path, format=form, energy_key=None)
    assert (batch.energy_mask.tolist(), batch.forces_mask.tolist()) == ([0, 0], [1, 1])
    batch, _, _ = read_all(path, format=form, forces_key=None)
    assert (batch.energy_mask.tolist(), batch.forces_mask.tolist()) == ([1, 1], [0, 0])


def test_nan_throughout_says_that_there_is_no_label(tmp_path):
    # As programs write columns of which some rows have no value; a single NaN is a fault.
    frames = [water(), water(), water()]
    frames[0].calc.results["energy"] = np.nan
    frames[1].calc.results["forces"][:] = np.nan
    frames[2].calc.results["forces"][1, 2] = np.nan
    write(tmp_path / "data.xyz", frames, format="extxyz")
    batch, _, _ = read_all(tmp_path / "data.xyz", format="extxyz")
    assert batch.energy_mask.tolist() == [0, 1, 1]
    assert batch.forces_mask.tolist() == [1, 0, 1]
    assert check(batch, max_force=1e3).dropped == {"non_finite_forces": 1}


def test_without_a_group_key_a_composition_stays_together(file_of):
    path, form = file_of([water(-1.0), water(-2.0), slab()])
    group = read_all(path, format=form)[0].group
    assert group[0] == group[1] != group[2]


def test_a_group_is_the_same_whether_its_number_is_written_as_an_integer_or_a_float(tmp_path):
    # As files of two programs have it: the parts of one trajectory would lie in train and in test.
    path = tmp_path / "data.xyz"
    write(path, [water(trajectory="@")] * 8, format="extxyz")
    parts = path.read_text().split("trajectory=@")
    names = ["7", "7.0", "7e0", "-0.0", "0", "0.5", "T", "9007199254740993"]
    text = "".join(f"{part}trajectory={name}" for part, name in zip(parts, names, strict=False))
    path.write_text(text + parts[-1])
    batch, dropped, _ = read_all(path, format="extxyz", group_key="trajectory")
    expected = ["7", "7", "7", "0", "0", "0.5", "True", "9007199254740993"]
    assert batch.group.tolist() == [name_hash("mine", name) for name in expected]
    assert dropped == {}


@pytest.mark.parametrize(
    "name", ["nan", "inf", '"1 2 3"', "12345678901234567890", "9007199254740992.0"]
)
def test_what_names_no_group_for_certain_is_refused(tmp_path, name):
    # 12345678901234567890 and ...891 are the same float, and no number is equal to nan.
    path = tmp_path / "data.xyz"
    write(path, [water(trajectory="a"), water(trajectory="@")], format="extxyz")
    path.write_text(path.read_text().replace("trajectory=@", f"trajectory={name}"))
    batch, dropped, damage = read_all(path, format="extxyz", group_key="trajectory")
    assert (len(batch), dropped) == (1, {"damaged_record": 1})
    assert "data.xyz, key frame 1: 'trajectory' is" in damage[0]
    assert "write the names as text that is not a number" in damage[0]


def test_charge_and_spin_come_from_their_keys(file_of):
    path, form = file_of([water(total_charge=-1, multiplicity=2), water()])
    keys = {"charge_key": "total_charge", "spin_key": "multiplicity"}
    batch, _, _ = read_all(path, format=form, **keys)
    assert batch.charge.tolist() == [-1, 0]
    assert batch.spin.tolist() == [2, 0]


def test_all_results_of_a_calculator_can_be_labels(file_of):
    # What is a key in one format is one in the other.
    atoms = water()
    atoms.calc.results |= {"free_energy": -11.0, "magmom": 2.0}
    path, form = file_of([atoms])
    batch, _, _ = read_all(path, format=form, energy_key="free_energy", spin_key="magmom")
    assert (batch.energy.tolist(), batch.spin.tolist()) == ([-11.0], [2])


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("total_charge", 0.5, "0.5, expected an integer from -127 to 127"),
        ("total_charge", np.inf, "inf, expected an integer from -127"),
        ("total_charge", np.nan, "nan, expected an integer from -127"),
        ("total_charge", 128, "128.0, expected an integer from -127"),
        ("multiplicity", -3, "-3.0, expected an integer from 0 to 127"),
    ],
)
def test_charges_and_spins_that_are_none_are_named_by_key(tmp_path, key, value, expected):
    # A model refuses to predict a spin of -3, so it must not learn one.
    path = tmp_path / "data.xyz"
    write(path, [water(**{key: value}), water()], format="extxyz")
    keys = {"charge_key": "total_charge", "spin_key": "multiplicity"}
    batch, dropped, damage = read_all(path, format="extxyz", **keys)
    assert (len(batch), dropped) == (1, {"damaged_record": 1})
    assert f"data.xyz, key frame 0: {key!r} is {expected}" in damage[0]


@pytest.mark.parametrize(
    ("units", "energy_ev", "force_ev_per_angstrom"),
    [
        ({}, 1, 1),
        ({"energy_unit": "Hartree", "length_unit": "Bohr"}, 27.211386245988, 51.422067),
        ({"energy_unit": "Hartree"}, 27.211386245988, 27.211386245988),
        ({"energy_unit": "kcal/mol"}, 0.0433641, 0.0433641),
        ({"energy_unit": "kJ/mol"}, 0.01036427, 0.01036427),
    ],
)
def test_units_are_converted(file_of, units, energy_ev, force_ev_per_angstrom):
    atoms = water(-4.0)
    path, form = file_of([atoms])
    batch, _, _ = read_all(path, format=form, **units)
    assert batch.energy[0] == pytest.approx(-4 * energy_ev, rel=1e-6)
    np.testing.assert_allclose(
        batch.forces, atoms.calc.results["forces"] * force_ev_per_angstrom, rtol=1e-5
    )
    # Whatever the labels, positions are in Å.
    np.testing.assert_allclose(batch.positions, atoms.positions, atol=1e-7)


def test_labels_may_have_other_keys_and_files_may_be_compressed(tmp_path):
    atoms = Atoms("OH2", positions=np.eye(3), info={"dft_energy": -5.0})
    atoms.arrays["dft_forces"] = np.full((3, 3), 0.25)
    write(tmp_path / "data.xyz", [atoms] * 3, format="extxyz")
    path = tmp_path / "data.xyz.bz2"
    path.write_bytes(bz2.compress((tmp_path / "data.xyz").read_bytes()))
    keys = {"energy_key": "dft_energy", "forces_key": "dft_forces"}
    batch, dropped, damage = read_all(path, format="extxyz", **keys)
    assert (batch.energy.tolist(), dropped, damage) == ([-5.0] * 3, {}, [])
    without, _, _ = read_all(path, format="extxyz")
    assert not (without.energy_mask | without.forces_mask).any()


@pytest.mark.parametrize("ending", ["xyz", "xyz.gz"])
def test_a_mark_of_the_encoding_in_front_is_no_damage(tmp_path, ending):
    path = tmp_path / f"data.{ending}"
    write(tmp_path / "plain.xyz", [water(-1.0), water(-2.0)], format="extxyz")
    content = codecs.BOM_UTF8 + (tmp_path / "plain.xyz").read_bytes()
    path.write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
    assert read_all(path, format="extxyz")[0].energy.tolist() == [-1.0, -2.0]


def test_a_damaged_frame_is_counted_and_the_next_one_is_read(tmp_path):
    path = tmp_path / "data.xyz"
    write(path, [water(-1.0), water(-2.0), water(-3.0)], format="extxyz")
    lines = path.read_text().splitlines()
    lines[7] = "O zero 0.0 0.0 0.0 0.0 0.0"
    path.write_text("\n".join(lines) + "\n")
    batch, dropped, damage = read_all(path, format="extxyz")
    assert batch.energy.tolist() == [-1.0, -3.0]
    assert dropped == {"damaged_record": 1}
    assert "data.xyz, key frame 1: ASE cannot read it" in damage[0]


@pytest.mark.parametrize(
    ("symbol", "message"),
    [("D", "there is no element 'D' (write H: isotopes do"), ("Qq", "there is no element 'Qq'")],
)
def test_a_symbol_that_is_no_element_is_named(tmp_path, symbol, message):
    # ASE's own error is the symbol in quotes and nothing else.
    path = tmp_path / "data.xyz"
    write(path, [water()], format="extxyz")
    path.write_text(path.read_text().replace("\nO ", f"\n{symbol} "))
    _, dropped, damage = read_all(path, format="extxyz")
    assert dropped == {"damaged_record": 1}
    assert message in damage[0]


@pytest.mark.parametrize(
    ("change", "rows", "message"),
    [
        (lambda text: text[:-120], 2, "ends inside frame 2|cannot read"),
        (lambda text: text + "three\n", 3, "frame 3 begins with b'three"),
        (lambda text: "<html></html>", 0, "is a web page"),
        (
            lambda text: text.replace("3\n", "2\n", 1),
            1,
            "frame 1 begins with .*does frame 0",
        ),
        (lambda text: "", 0, "holds no structures"),
    ],
)
def test_a_damaged_file_gives_what_stands_before_the_damage(tmp_path, change, rows, message):
    path = tmp_path / "data.xyz"
    write(path, [water(-1.0), water(-2.0), water(-3.0)], format="extxyz")
    path.write_text(change(path.read_text()))
    source = custom_source("mine", CustomSource(files=("*",), level_of_theory="X", format="extxyz"))
    kept = []

    def read_until_damage():
        for block in source.read(path, SourceSettings()):
            kept.append(len(block.batch))
            if block.damage:
                raise ValueError(block.damage)

    with pytest.raises(ValueError, match=rf"data\.xyz.*({message})"):
        read_until_damage()
    assert sum(kept) == rows


@pytest.mark.parametrize(
    ("ending", "compress"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)]
)
def test_a_damaged_archive_is_named_whatever_its_library_raises(tmp_path, ending, compress):
    # Noise in the middle is no end of file and no wrong checksum: zlib has an error of its own.
    write(tmp_path / "data.xyz", [water(-float(i)) for i in range(1, 30)], format="extxyz")
    content = bytearray(compress((tmp_path / "data.xyz").read_bytes()))
    content[len(content) // 2 :] = b"\xff" * 200
    path = tmp_path / f"data.xyz.{ending}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"data\.xyz\.{ending} is damaged or cut off"):
        read_all(path, format="extxyz")


def test_a_file_of_frames_without_atoms_is_read_and_its_frames_are_left_to_the_checks(tmp_path):
    path = tmp_path / "empty.xyz"
    path.write_text("0\nProperties=species:S:1:pos:R:3 energy=1.0\n" * 2)
    batch, dropped, damage = read_all(path)
    assert (len(batch), batch.total_atoms, dropped, damage) == (2, 0, {}, [])
    assert check(batch, max_force=50.0).dropped == {"no_atoms": 2}


def test_a_header_of_absurdly_many_columns_is_damage_and_takes_no_memory(tmp_path):
    # A flipped digit; ASE would make a list of a billion columns.
    path = tmp_path / "data.xyz"
    write(path, [water(-1.0), water(-2.0)], format="extxyz")
    path.write_text(path.read_text().replace("pos:R:3", "pos:R:3000000000", 1))
    batch, dropped, damage = read_all(path, format="extxyz")
    assert (batch.energy.tolist(), dropped) == ([-2.0], {"damaged_record": 1})
    assert "key frame 0: Properties have b':R:30000'" in damage[0]


@pytest.mark.parametrize("content", [b"", b"no database", None])
def test_a_database_that_is_none_is_named(tmp_path, content):
    path = tmp_path / "data.db"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(ValueError, match=r"data\.db"):
        read_all(path, format="db")


def test_databases_of_lmdb_need_a_package_and_the_error_says_which(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ase_db_backends", None)
    path = tmp_path / "data.aselmdb"
    path.write_bytes(bytes(16) + b"\xde\xc0\xef\xbe")
    with pytest.raises(ValueError, match=r"data\.aselmdb.*pip install ase-db-backends"):
        read_all(path, format="db")


def test_databases_of_lmdb_are_read_and_not_changed(tmp_path):
    # As OMat24 comes. More rows than a block of the other databases has.
    pytest.importorskip("ase_db_backends.aselmdb")
    path = tmp_path / "data.aselmdb"
    with connect(path, use_lock_file=False) as database:
        for index in range(300):
            database.write(water(-1.0 - index), data={"trajectory": "a"})
    (tmp_path / "data.aselmdb-lock").unlink()
    content = path.read_bytes()
    batch, dropped, _ = read_all(path, format="db", group_key="trajectory")
    assert batch.energy.tolist() == [-1.0 - index for index in range(300)]
    assert dropped == {}
    assert path.read_bytes() == content
    assert [file.name for file in tmp_path.iterdir()] == ["data.aselmdb"]


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_a_database_is_not_changed_by_being_read(tmp_path, journal):
    # Checksums of raw files are those of the download; a database in WAL mode is read by way of
    # files beside it.
    path = tmp_path / "data #1%.db"
    with connect(path, use_lock_file=False) as database:
        database.write(water())
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA journal_mode={journal}")
    content = path.read_bytes()
    assert len(read_all(path, format="db")[0]) == 1
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_a_database_of_something_else_is_named_and_not_changed(tmp_path):
    # ASE would add its tables to it.
    path = tmp_path / "data.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE molecules (id INTEGER)")
    content = path.read_bytes()
    with pytest.raises(ValueError, match=r"data\.db is not an ASE database: .*only molecules"):
        read_all(path, format="db")
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", ["{}", "[1]", '{"ids": [1], "nextid": 2}', '{"1": {}}', "{"])
def test_a_json_file_that_is_no_database_is_named(tmp_path, content):
    path = tmp_path / "data.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"data\.json"):
        read_all(path, format="db")
    assert path.read_text() == content


def test_a_trajectory_is_read_whatever_the_configuration_calls_it(tmp_path):
    path = tmp_path / "data.traj"
    write(path, [water(-1.0), water(-2.0), slab()])
    for form in (None, "traj", "extxyz"):
        batch, dropped, _ = read_all(path, format=form)
        assert batch.energy[:2].tolist() == [-1.0, -2.0]
        assert (len(batch), dropped) == (3, {})


@pytest.mark.parametrize("name", ["data.traj", "data.xyz", "data.db"])
def test_atoms_that_change_places_take_their_elements_along(tmp_path, name):
    # As in Monte Carlo of an alloy. dpdata 1.1.0 gives all frames of a trajectory the elements of
    # the first; only the positions tell such frames apart otherwise, and here they do not either.
    frames = []
    for symbols in ("AuCu", "CuAu", "Cu2"):
        atoms = Atoms(symbols, [[0, 0, 0], [0, 0, 2.5]], cell=[5, 5, 5], pbc=True)
        forces = [[0, 0, 0.1], [0, 0, -0.1]]
        atoms.calc = SinglePointCalculator(atoms, energy=-len(frames), forces=forces)
        frames.append(atoms)
    write(tmp_path / name, frames)
    batch, dropped, _ = read_all(tmp_path / name, format=None)
    assert (batch.atomic_numbers.tolist(), dropped) == ([79, 29, 29, 79, 29, 29], {})


_TAR = bytes(257) + b"ustar\x00" + bytes(250)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("data.xyz", b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file"),
        ("data.db", b"PK\x03\x04" + bytes(100), "a zip archive"),
        ("data.xyz.gz", gzip.compress(_TAR, mtime=0), "a tar archive"),
        ("data.xyz", b"ITEM: TIMESTEP\n0\n", "a LAMMPS dump"),
        ("data.db", b"\x93NUMPY" + bytes(100), "a NumPy array"),
        ("data.xyz.zst", b"\x28\xb5\x2f\xfd" + bytes(9), "a file of Zstandard"),
        ("data.xyz", b"\xff\xfe" + "3\n".encode("utf-16-le"), "text in UTF-16"),
        ("data.xyz", b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        ("data.db", b"\n<!DOCTYPE html>", "a web page"),
    ],
)
def test_whole_files_of_another_format_are_called_by_their_name(tmp_path, name, content, kind):
    # Such files were called damaged, with the advice to download them again.
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"is {kind}.*expected .xyz") as caught:
        read_all(path, format=None)
    assert "damaged" not in str(caught.value)


SIX = np.array([0.1, 0.2, 0.3, 0.04, 0.05, 0.06])


@pytest.mark.parametrize("key", ["stress", "virial", "my_stress"])
@pytest.mark.parametrize(
    ("stress", "written"),
    [
        ({}, SIX),
        ({"unit": "GPa"}, SIX * 160.21766208),
        ({"preset": "vasp"}, -1602.1766208 * SIX[[0, 1, 2, 5, 3, 4]]),
        ({"preset": "lammps"}, -1602176.6208 * SIX[[0, 1, 2, 5, 4, 3]]),
        ({"preset": "virial"}, -SIX * 60.0),
        ({"preset": "virial"}, -60.0 * SIX[[0, 5, 4, 5, 1, 3, 4, 3, 2]]),
        ({"kind": "virial", "unit": "kJ/mol", "positive": "tension"}, SIX * 60.0 * 96.48533212),
        ({"order": "yz xz xy xx yy zz"}, SIX[[3, 4, 5, 0, 1, 2]]),
        ({"order": "xx xy xz yy yz zz"}, SIX[[0, 5, 4, 1, 3, 2]]),
    ],
)
def test_a_stress_is_the_same_in_every_convention_under_every_key(tmp_path, key, stress, written):
    # Six different numbers, so that no two components can be exchanged; the volume is 60.
    atoms = Atoms("Cu", cell=[3.0, 4.0, 5.0], pbc=True, info={"energy": -1.0})
    write(tmp_path / "plain.xyz", atoms, format="extxyz")
    numbers = " ".join(f"{value:.12g}" for value in written)
    text = (tmp_path / "plain.xyz").read_text().replace("energy=", f'{key}="{numbers}" energy=')
    (tmp_path / "data.xyz").write_text(text)
    batch, _, _ = read_all(tmp_path / "data.xyz", format="extxyz", stress={"key": key, **stress})
    assert batch.stress_mask.tolist() == [1]
    np.testing.assert_allclose(batch.stress[0], SIX, rtol=1e-6)


def test_a_calculators_own_stress_has_its_order_whatever_files_have(tmp_path):
    # ASE keeps results in one order; a preset for files must not turn them round.
    atoms = Atoms("Cu", cell=[3.0, 4.0, 5.0], pbc=True)
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, stress=SIX)
    for name in ("data.traj", "data.db"):
        write(tmp_path / name, atoms)
        stress = {"key": "stress", "order": "xx xy xz yy yz zz"}
        batch, _, _ = read_all(tmp_path / name, format=None, stress=stress)
        np.testing.assert_allclose(batch.stress[0], SIX, rtol=1e-6)


def test_a_convention_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="the unit of a stress cannot be eV"):
        StressLabel(key="s", unit="eV")
    with pytest.raises(ValueError, match="the unit of a virial cannot be GPa"):
        StressLabel(key="s", preset="virial", unit="GPa")
    with pytest.raises(ValueError, match="expected xx, yy, zz, yz, xz and xy once each"):
        StressLabel(key="s", order="xx yy zz xy xy xz")


def test_weights_of_mace_count_where_the_source_says_so(tmp_path):
    frames = [water(config_weight=0.5, config_forces_weight=0.0), water()]
    write(tmp_path / "data.xyz", frames, format="extxyz")
    weights = {"structure": "config_weight", "forces": "config_forces_weight"}
    batch, _, _ = read_all(tmp_path / "data.xyz", format="extxyz", weights=weights)
    assert batch.energy_weight.tolist() == [0.5, 1.0]
    assert batch.forces_weight.tolist() == [0.0, 1.0]
    assert read_all(tmp_path / "data.xyz", format="extxyz")[0].energy_weight.tolist() == [1.0, 1.0]
    bad = [water(config_weight=-1.0)]
    write(tmp_path / "bad.xyz", bad, format="extxyz")
    _, _, damage = read_all(tmp_path / "bad.xyz", format="extxyz", weights=weights)
    assert "'config_weight' is -1.0, expected a weight of zero or more" in damage[0]


@pytest.mark.parametrize("note", ["note=", 'note=""', "note=''", 'note="" other='])
def test_an_entry_without_a_value_does_not_swallow_the_one_behind_it(note: str) -> None:
    # ASE takes the energy for the value of the note, and the structure for one without an energy.
    header = f'Properties=species:S:1:pos:R:3 {note} energy=-3.5 said="a= b" pbc="T T F"'
    text = f"1\n{header}\nCu 0.0 0.0 0.0\n".encode()
    atoms, labels = CONTAINERS["extxyz"].open_record(text, "here")
    assert labels["energy"] == -3.5
    assert labels["said"] == "a= b"
    assert atoms.pbc.tolist() == [True, True, False]


def test_matrices_of_the_format_s_own_library_are_whole() -> None:
    # ASE cuts them at their blanks: a first word and two remarks called "3.0]" or the like, or,
    # for a cell, an error. libAtoms' cells have vectors as columns.
    header = (
        "energy=-3.5 stress=[[1.0, 6.0, 5.0], [6.0, 2.0, 4.0], [5.0, 4.0, 3.0]] "
        "alpha=[[1, 2], [3, 4], [5, 6]] words=[[T, no]] said='a=[[1, 2]]' "
        "Lattice=[[4.0, 1.0, 2.0], [0.0, 5.0, 3.0], [0.0, 0.0, 6.0]] pbc=[T, T, F] "
        "Properties=species:S:1:pos:R:3"
    )
    text = f"1\n{header}\nCu 0.0 0.0 0.0\n".encode()
    atoms, labels = CONTAINERS["extxyz"].open_record(text, "here")
    assert atoms.cell.array.tolist() == [[4, 0, 0], [1, 5, 0], [2, 3, 6]]
    assert atoms.pbc.tolist() == [True, True, False]
    assert labels["energy"] == -3.5
    assert np.array_equal(labels["stress"], [[1, 6, 5], [6, 2, 4], [5, 4, 3]])
    assert np.array_equal(labels["alpha"], [[1, 2], [3, 4], [5, 6]])
    assert labels["said"] == "a=[[1, 2]]"
    wrong = text.replace(b"[0.0, 0.0, 6.0]]", b"[0.0, 0.0]]")
    with pytest.raises(ValueError, match="ASE cannot read it"):
        CONTAINERS["extxyz"].open_record(wrong, "here")


def test_json_that_is_no_database_is_called_so_and_not_damaged(tmp_path):
    # A whole file: to remove and download it again would bring the same.
    path = tmp_path / "data.json"
    path.write_text('[{"energy": 1.0}]')
    with pytest.raises(ValueError, match="is not an ASE database") as caught:
        read_all(path)
    assert "damaged" not in str(caught.value)


def test_names_that_yaml_reads_as_numbers_choose_structures(tmp_path):
    frames = [water(-float(index + 1), level=index % 3, temperature=300.0) for index in range(6)]
    write(tmp_path / "data.xyz", frames, format="extxyz")
    batch, dropped, _ = read_all(
        tmp_path / "data.xyz", where={"level": [0, 2.0], "temperature": 300.0}
    )
    assert batch.energy.tolist() == [-1, -3, -4, -6]
    assert dropped == {"not_selected": 2}
    splits = {"key": "level", "train": [0], "val": [1], "test": [2]}
    batch, _, _ = read_all(tmp_path / "data.xyz", splits=splits)
    assert batch.official_split.tolist() == [0, 1, 2, 0, 1, 2]


def test_a_key_of_splits_that_a_structure_lacks_is_called_missing(tmp_path):
    write(tmp_path / "data.xyz", [water(-1.0, fold="a")], format="extxyz")
    splits = {"key": "part", "train": ["a"], "val": ["b"], "test": ["c"]}
    _, _, damage = read_all(tmp_path / "data.xyz", splits=splits)
    assert "'part', which says the split, is missing; got" in damage[0]
    assert "fold" in damage[0]


@pytest.mark.parametrize("name", ["data.extxyz", "data.traj", "data.db"])
def test_places_are_no_forces(tmp_path, name):
    # ASE keeps both in one dictionary, and both have three numbers for each atom.
    write(tmp_path / name, [water(-1.0)])
    batch, _, damage = read_all(tmp_path / name, forces_key="positions")
    assert damage == []
    assert not batch.forces_mask.any()


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("lattice=", "Lattice="),
        ("LATTICE=", "Lattice="),
        ("Cell=", "Lattice="),
        ("cell = ", "Lattice="),
        ("PBC=", "pbc="),
        ("properties=", "Properties="),
    ],
)
def test_a_frame_with_a_key_of_the_format_in_other_letters_is_refused_alone(tmp_path, wrong, right):
    # ASE takes it for a remark: crystals became molecules, slabs were repeated in all directions.
    path = tmp_path / "some.xyz"
    write(path, [slab() for _ in range(5)], format="extxyz")
    lines = path.read_text().splitlines(keepends=True)
    size = len(lines) // 5
    lines[size + 1] = lines[size + 1].replace(right, wrong)
    path.write_text("".join(lines))
    batch, dropped, damage = read_all(path)
    assert len(batch) == 4
    assert (batch.pbc == [1, 1, 0]).all()
    assert dropped == {"damaged_record": 1}
    told = f"frame 1: {wrong.strip(' =')}= stands in its second line, expected {right}"
    assert told in str(damage)


def test_such_a_key_beside_the_right_one_or_in_a_remark_is_none(tmp_path):
    path = tmp_path / "some.xyz"
    write(path, [slab()], format="extxyz")
    text = path.read_text()
    path.write_text(text.replace("Lattice=", 'cell=3 note="lattice=5 Cell= 3" Lattice='))
    batch, dropped, damage = read_all(path)
    assert len(batch) == 1
    assert batch.pbc[0].tolist() == [1, 1, 0]
    assert not dropped
    assert not damage


@pytest.mark.parametrize(
    "word", ["no no no", "f f f", "FFF", ".false. .false. .false.", "{F F F}", "2 0 0", "nan 0 0"]
)
def test_a_word_that_is_neither_true_nor_false_is_no_periodicity(tmp_path, word):
    # ASE takes any word for true: molecules became crystals.
    path = tmp_path / "some.xyz"
    write(path, [slab(), slab()], format="extxyz")
    path.write_text(path.read_text().replace('pbc="T T F"', f'pbc="{word}"', 1))
    batch, dropped, damage = read_all(path)
    assert batch.pbc.tolist() == [[1, 1, 0]]
    assert dropped == {"damaged_record": 1}
    assert "expected T or F for each direction" in str(damage)


@pytest.mark.parametrize("columns", ["species:S:1", "pos:R:3", "foo", "species:S:1:forces:R:3"])
def test_a_frame_without_a_column_of_elements_or_places_is_refused(tmp_path, columns):
    # ASE puts all atoms into one place, or finds none.
    path = tmp_path / "some.xyz"
    write(path, [water(-1.0)], format="extxyz")
    good = path.read_text()
    line = "0.0 0.0 0.0" if columns == "pos:R:3" else "H 0.0 0.0 0.0"
    path.write_text(f"{good}2\nenergy=-1.0 Properties={columns}\n{line}\n{line}\n")
    batch, dropped, damage = read_all(path)
    assert len(batch) == 1
    assert dropped == {"damaged_record": 1}
    assert f"Properties={columns} have no columns of elements" in str(damage)


def test_a_row_of_a_database_without_places_is_refused_alone(tmp_path):
    path = tmp_path / "some.json"
    with connect(path) as database:
        for energy in (-1.0, -2.0):
            database.write(water(energy))
    text = path.read_text()
    path.write_text(text.replace('"positions"', '"posit"', 1))
    batch, dropped, damage = read_all(path)
    assert len(batch) == 1
    assert dropped == {"damaged_record": 1}
    assert "positions of the row should be numbers, there are none" in str(damage)


@pytest.mark.parametrize("key", ["energy", "Properties", "REF_energy"])
def test_a_frame_that_says_something_twice_is_refused_alone(tmp_path, key):
    # ASE takes the last one: another energy, or columns without the forces.
    path = tmp_path / "some.xyz"
    write(path, [water(-1.0), water(-2.0), water(-3.0)], format="extxyz")
    first, second, *rest = path.read_text().split("pbc=")
    again = {"energy": "energy=-9.0", "Properties": "Properties=species:S:1:pos:R:3"}.get(
        key, "REF_energy=-2.0 REF_energy=-3.0"
    )
    second = f'{second}{again} note="energy=5" '
    path.write_text("pbc=".join([first, second, *rest]))
    batch, dropped, damage = read_all(path)
    assert batch.energy.tolist() == [-1.0, -3.0]
    assert dropped == {"damaged_record": 1}
    assert f"{key}= stands in its second line more than once" in str(damage)


def test_a_frame_whose_species_and_numbers_differ_is_refused_alone(tmp_path):
    # ASE takes the numbers, which may be nuclear charges or types of a force field.
    path = tmp_path / "some.xyz"
    columns = "Properties=pos:R:3:species:S:1:Z:I:1"
    frames = [f"2\nenergy=-1 {columns}\n0 0 0 H 1\n0 0 1 {other}\n" for other in ("o 8", "O 6")]
    path.write_text("".join(frames))
    batch, dropped, damage = read_all(path)
    assert batch.atomic_numbers.tolist() == [1, 8]
    assert dropped == {"damaged_record": 1}
    assert "frame 1: atom 1 is O by its species and C by its Z" in str(damage)


def test_species_that_are_no_elements_are_names_where_there_are_numbers(tmp_path):
    # Deuterium, and atom types as other programs write them.
    path = tmp_path / "some.xyz"
    columns = "Properties=species:S:1:pos:R:3:Z:I:1"
    path.write_text(f"3\nenergy=-1 {columns}\nD 0 0 0 1\nFe1 0 0 2 26\nX 0 2 0 8\n")
    batch, dropped, damage = read_all(path)
    assert batch.atomic_numbers.tolist() == [1, 26, 8]
    assert not dropped
    assert not damage


def test_what_a_user_stored_under_a_name_that_rows_compute_is_taken(tmp_path):
    # Every row said a charge of zero, the sum of its initial charges.
    path = tmp_path / "some.db"
    with connect(path) as database:
        for charge in (1, -1):
            database.write(water(), charge=charge, mass=-7.5, volume=2.0, get=3)
    batch, dropped, damage = read_all(path, charge_key="charge", energy_key="mass")
    assert not dropped
    assert not damage
    assert batch.charge.tolist() == [1, -1]
    assert batch.energy.tolist() == [-7.5, -7.5]


@pytest.mark.parametrize("kind", ["xyz", "db"])
def test_a_truth_value_is_no_energy(tmp_path, kind):
    # True was 1.0 eV.
    path = tmp_path / f"some.{kind}"
    if kind == "db":
        with connect(path) as database:
            database.write(water(), data={"mine": True})
    else:
        path.write_text("1\nmine=T Properties=species:S:1:pos:R:3\nH 0 0 0\n")
    _, dropped, damage = read_all(path, energy_key="mine", forces_key=None)
    assert dropped == {"damaged_record": 1}
    assert "'mine' is not an array of numbers" in damage[0]


@pytest.mark.parametrize("atoms", [3, 4])
@pytest.mark.parametrize("column", ["forces", "positions"])
def test_a_row_in_single_precision_costs_itself_and_is_named(tmp_path, atoms, column):
    # The file was called damaged, and all rows of its block were gone with the bad one. Of an even
    # number of atoms ASE makes doubles of pairs of numbers, without a word.
    path = tmp_path / "some.db"
    molecule = water() if atoms == 3 else Atoms("H4", np.eye(4, 3))
    with connect(path) as database:
        for energy in range(6):
            molecule.calc = SinglePointCalculator(
                molecule, energy=energy, forces=np.ones((atoms, 3))
            )
            database.write(molecule)
    with closing(sqlite3.connect(path)) as database:
        single = np.ones((atoms, 3), np.float32).tobytes()
        database.execute(f"UPDATE systems SET {column} = ? WHERE id = 5", (single,))
        database.commit()
    batch, dropped, damage = read_all(path)
    assert batch.energy.tolist() == [0, 1, 2, 3, 5]
    assert dropped == {"damaged_record": 1}
    assert f"row 5: {column} are in single precision" in damage[0]
    assert "damaged" not in damage[0]


def test_a_row_that_is_damaged_otherwise_is_not_said_to_be_in_single_precision(tmp_path):
    path = tmp_path / "some.db"
    with connect(path) as database:
        for _ in range(3):
            database.write(water(), mine=1)
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE systems SET key_value_pairs = '{\"mine\": ' WHERE id = 2")
        database.commit()
    _, dropped, damage = read_all(path)
    assert dropped == {"damaged_record": 1}
    assert "row 2: ASE cannot read it" in damage[0]


def test_a_database_that_is_open_already_is_no_damaged_one(tmp_path):
    # LMDB opens a file once in a process. ASE cleans up with a second failure, a traceback.
    pytest.importorskip("ase_db_backends.aselmdb")
    path = tmp_path / "some.aselmdb"
    with connect(path, use_lock_file=False) as database:
        database.write(water())
    other = connect(path, readonly=True, use_lock_file=False)
    with pytest.raises(ValueError, match="is open in this process already") as caught:
        read_all(path)
    assert "damaged" not in str(caught.value)
    other.close()
    assert len(read_all(path)[0]) == 1


def test_energies_of_schnetpack_are_arrays_of_one(tmp_path):
    # Its databases hold every property as an array, among the data of the row.
    path = tmp_path / "data.db"
    with connect(path, use_lock_file=False) as database:
        atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.74]])
        data = {"energy": np.array([-0.5]), "forces": np.full((2, 3), 0.25)}
        database.write(atoms, data=data)
    batch, dropped, damage = read_all(path, energy_unit="Hartree")
    assert (dropped, damage) == ({}, [])
    assert batch.energy.tolist() == [-0.5 * HARTREE_EV]


def test_an_energy_of_two_numbers_is_none(tmp_path):
    path = tmp_path / "data.db"
    with connect(path, use_lock_file=False) as database:
        database.write(Atoms("H"), data={"energy": np.array([-0.5, -0.25])})
    assert "'energy' has shape (2,), expected ()" in read_all(path)[2][0]


@pytest.mark.parametrize(
    ("groups_like", "name", "expected"),
    [
        # The same material, written in letters by one and in digits by the other.
        ("mptrj", "mp-ft", material_group("mp-149")),
        ("alexandria", "8:1", composition_group([8, 8])),
        ("theirs", "mp-ft", name_hash("theirs", "mp-ft")),
        (None, "mp-ft", name_hash("mine", "mp-ft")),
    ],
)
def test_groups_are_those_of_the_source_that_names_them_alike(
    tmp_path, groups_like, name, expected
):
    path = tmp_path / "data.xyz"
    atoms = water(-1.0)
    atoms.info["material"] = name
    write(path, atoms, format="extxyz")
    batch, _, _ = read_all(path, group_key="material", groups_like=groups_like)
    assert batch.group.tolist() == [expected]


def test_a_material_of_two_sources_is_dealt_to_one_split(tmp_path):
    # Enough materials that equal splits of all of them are no chance: 100 in three splits.
    path = tmp_path / "data.xyz"
    letters = [_letters(number) for number in range(1, 101)]
    frames = [water(-1.0) for _ in letters]
    for frame, name in zip(frames, letters, strict=True):
        frame.info["material"] = f"mp-{name}"
    write(path, frames, format="extxyz")
    batch, _, _ = read_all(path, group_key="material", groups_like="mptrj")
    theirs = np.array([name_hash("mptrj", f"mp-{number}") for number in range(1, 101)], np.uint64)
    deal = partial(
        assign_splits,
        official_split=np.full(100, -1, np.int8),
        val_fraction=0.3,
        test_fraction=0.3,
        seed=0,
    )
    assert set(deal(theirs).tolist()) == {0, 1, 2}
    assert deal(batch.group).tolist() == deal(theirs).tolist()


def _letters(number):
    return (_letters(number // 26) if number >= 26 else "") + "abcdefghijklmnopqrstuvwxyz"[
        number % 26
    ]


def test_a_source_that_does_not_name_its_groups_is_no_example(tmp_path):
    with pytest.raises(ValueError, match=r"custom_sources\.mine\.groups_like: qm7x does not say"):
        read_all(tmp_path / "data.xyz", groups_like="qm7x")


def test_a_database_that_somebody_writes_is_no_damaged_one(tmp_path, monkeypatch):
    path = tmp_path / "some.db"
    with connect(path) as database:
        database.write(water())

    def connect_impatiently(database):
        return sqlite3.connect(database.filename, timeout=0)

    monkeypatch.setattr("ase.db.sqlite.SQLite3Database._connect", connect_impatiently)
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ValueError, match=r"some\.db is in use \(database is locked\)"):
            read_all(path)


@pytest.mark.parametrize("name", ["some.xyz", "some.xyz.gz", "some.xyz.xz"])
def test_what_a_file_begins_with_says_how_it_is_compressed_not_its_name(tmp_path, name):
    write(tmp_path / "plain.xyz", [water(-1.0)], format="extxyz")
    plain = (tmp_path / "plain.xyz").read_bytes()
    for content in (plain, gzip.compress(plain), bz2.compress(plain)):
        (tmp_path / name).write_bytes(content)
        assert read_all(tmp_path / name)[0].energy.tolist() == [-1.0]


@pytest.mark.parametrize("name", ["some.json", "some", "some.db"])
def test_what_a_file_begins_with_says_which_database_it_is_not_its_name(tmp_path, name):
    with connect(tmp_path / "made.db") as database:
        database.write(water(-1.0))
    (tmp_path / "made.db").rename(tmp_path / name)
    assert read_all(tmp_path / name, format="db")[0].energy.tolist() == [-1.0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "some.db.gz",
            gzip.compress(b"SQLite format 3\0" + bytes(99), mtime=0),
            "SQLite.* unpack it",
        ),
        ("some.db", b"{}", "begins with b'{}', expected an SQLite database"),
        ("some.traj", b"", "is empty, expected an ASE trajectory"),
        ("some.json", b'{"a": 1}\n{"b": 2}\n', "several JSON documents"),
        ("some.xyz", b"NaCl\n1.0\n", "begins with b'NaCl.*', expected a number of atoms"),
    ],
)
def test_sound_files_that_are_not_read_are_not_called_damaged(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_all(tmp_path / name)
    assert "damaged" not in str(caught.value)


def test_a_remark_in_another_encoding_costs_nothing(tmp_path):
    # An angstrom sign in Latin-1. Elsewhere a wrong byte may be a lost key, and costs the frame.
    path = tmp_path / "some.xyz"
    write(path, [water(-1.0)] * 2, format="extxyz")
    text = path.read_bytes().replace(b"pbc=", b'note="1 \xc5" pbc=', 1)
    path.write_bytes(text)
    assert read_all(path)[0].energy.tolist() == [-1.0, -1.0]
    path.write_bytes(text.replace(b"energy", b"\xe5nergy", 1))
    assert read_all(path)[1] == {"damaged_record": 1}


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    path = tmp_path / "some.xyz"
    write(path, [water(-1.0)], format="extxyz")

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("mtlpar.sources.ase_containers.open_unpacked", refuse)
    with pytest.raises(PermissionError) as caught:
        read_all(path)
    # The command line says what to do about it, and needs the name.
    assert caught.value.filename == str(path)


def test_a_trajectory_that_announces_more_than_memory_holds_is_damaged(tmp_path):
    # Eight bytes of its header say how many images there are.
    path = tmp_path / "some.traj"
    write(path, [water(-1.0), water(-2.0)])
    content = bytearray(path.read_bytes())
    content[32:40] = (1 << 50).to_bytes(8, "little")
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"some\.traj is damaged or cut off: .*more than memory"):
        read_all(path)


def test_a_database_with_text_that_is_none_is_damaged(tmp_path):
    # Python, not SQLite, finds that out, and its error has no code of SQLite's.
    path = tmp_path / "some.db"
    with connect(path) as database:
        database.write(water(-1.0), key="caption")
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE systems SET key_value_pairs = CAST(x'FFFE7B7D' AS TEXT)")
        database.commit()
    with pytest.raises(ValueError, match=r"some\.db is damaged or cut off: .*UTF-8"):
        read_all(path)


def test_a_text_database_with_a_type_of_numbers_that_is_none_is_damaged(tmp_path):
    # NumPy parses it as Python would, whose errors are those of syntax.
    path = tmp_path / "some.json"
    with connect(path) as database:
        database.write(water(-1.0))
    path.write_text(path.read_text().replace('"float64"', '"1 2"'))
    with pytest.raises(ValueError, match=r"some\.json"):
        read_all(path)
