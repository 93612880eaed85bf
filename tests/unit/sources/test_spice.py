"""SPICE: atomic units, gradients for forces, charges in the SMILES."""

from __future__ import annotations

import re

import ase.units
import h5py
import numpy as np
import pytest

from mtlpar.core.hashing import name_hash
from mtlpar.sources.registry import get_source
from mtlpar.sources.settings import SourceSettings
from mtlpar.sources.spice import divide, formal_charge

# Ammonium and hydroxide with explicit, numbered atoms, as the file has them.
AMMONIUM = "[H:2][N+:1]([H:3])([H:4])[H:5]"
HYDROXIDE = "[H:2][O-:1]"
STIFFNESS = 0.3


@pytest.fixture
def spice_file(tmp_path):
    """Write ``SPICE-2.0.1.hdf5`` as its authors' script does, from ``{key: (Z, SMILES, count)}``.

    Atoms are on springs of 0.3 Hartree/Bohr^2 to the origin, so that the gradient is known.
    """

    def write(molecules, *, change=None):
        path = tmp_path / "SPICE-2.0.1.hdf5"
        with h5py.File(path, "w") as file:
            for index, (key, (numbers, smiles, count)) in enumerate(molecules.items()):
                rng = np.random.default_rng(index)
                bohr = rng.normal(0, 2, (count, len(numbers), 3)).astype(np.float32)
                group = file.create_group(key)
                group.create_dataset("subset", data=["SPICE ..."], dtype=h5py.string_dtype())
                group.create_dataset("smiles", data=[smiles], dtype=h5py.string_dtype())
                group.create_dataset("atomic_numbers", data=numbers, dtype=np.int16)
                group.create_dataset("conformations", data=bohr, dtype=np.float32)
                energy = 0.5 * STIFFNESS * (bohr.astype(float) ** 2).sum(axis=(1, 2))
                group.create_dataset("formation_energy", data=energy, dtype=np.float64)
                group.create_dataset("dft_total_energy", data=energy - 50, dtype=np.float64)
                gradient = STIFFNESS * bohr
                group.create_dataset("dft_total_gradient", data=gradient, dtype=np.float32)
            if change is not None:
                change(file)
        return path

    return write


@pytest.fixture
def ions(spice_file):
    return spice_file(
        {"103914790": ([7, 1, 1, 1, 1], AMMONIUM, 3), HYDROXIDE: ([8, 1], HYDROXIDE, 2)}
    )


def test_labels_are_in_our_units_and_forces_are_minus_the_gradient(ions, read):
    batch, dropped = read("spice", ions)
    assert dropped == {}
    assert batch.num_atoms.tolist() == [5, 5, 5, 2, 2]
    with h5py.File(ions) as file:
        bohr = file["103914790/conformations"][0].astype(float)
    atoms = slice(0, 5)
    np.testing.assert_allclose(batch.positions[atoms], bohr * ase.units.Bohr, rtol=1e-6)
    # The spring pulls towards the origin: a gradient that was not negated would push.
    spring = STIFFNESS * ase.units.Hartree / ase.units.Bohr**2
    np.testing.assert_allclose(batch.forces[atoms], -spring * batch.positions[atoms], rtol=1e-5)
    energy = (0.5 * STIFFNESS * (bohr**2).sum() - 50) * ase.units.Hartree
    assert batch.energy[0] == pytest.approx(energy, rel=1e-7)


def test_charges_come_from_the_smiles_and_multiplicities_are_unknown(ions, read):
    batch, _ = read("spice", ions)
    assert batch.charge.tolist() == [1, 1, 1, -1, -1]
    assert batch.spin.tolist() == [0] * 5


@pytest.mark.parametrize(
    ("smiles", "charge"),
    [
        ("[H:1][H:2]", 0),
        (AMMONIUM, 1),
        ("[Ca+2:1]", 2),
        ("[Mg++:1]", 2),
        ("[O-:1][N+:2](=[O:3])[H:4]", 0),
        ("[Na+:1].[Cl-:2].[Cl-:3]", -1),
        # Bonds and stereo marks outside and inside of brackets are no charges.
        ("[H:3][C@@:1]([H:4])-[C@H:2]/[C:5]=[C:6]\\[F:7]", 0),
        ("[15NH3+:1]", 1),
        ("[O--:1]", -2),
    ],
)
def test_formal_charges_of_atoms_in_brackets_add_up(smiles, charge):
    assert formal_charge(smiles) == charge


def test_a_molecule_of_two_names_is_one_group(spice_file, read):
    # A monomer of DES370K is called by its SMILES, the same molecule of PubChem by a number.
    water = ([8, 1, 1], "[H:2][O:1][H:3]", 1)
    batch, _ = read("spice", spice_file({"[H]O[H]": water, "24425": water}))
    assert batch.group.tolist() == [name_hash("spice", "1:2-8:1")] * 2


def test_pieces_hold_what_the_file_holds(spice_file):
    water = ([8, 1, 1], "[H:2][O:1][H:3]", 4)
    path = spice_file({f"{number}": water for number in range(7)})
    reader = get_source("spice").read
    with divide(path, path.stat().st_size // 3) as pieces:
        parts = [
            block.batch.energy.tolist()
            for piece in pieces
            for block in reader(path, SourceSettings(), piece)
        ]
    assert len(pieces) > 1
    whole = [block.batch.energy.tolist() for block in reader(path, SourceSettings())]
    assert parts == whole
    assert sum(map(len, whole)) == 28


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("smiles", None, "expected one text 'smiles'"),
        ("dft_total_gradient", None, "'dft_total_gradient' is missing"),
        ("dft_total_energy", np.zeros(3), r"'dft_total_energy' has shape \(3\), expected \(2\)"),
    ],
)
def test_a_molecule_that_lacks_something_is_damage_with_its_rows(spice_file, key, value, message):
    def change(file):
        del file[HYDROXIDE][key]
        if value is not None:
            file[HYDROXIDE][key] = value

    path = spice_file({HYDROXIDE: ([8, 1], HYDROXIDE, 2)}, change=change)
    [block] = get_source("spice").read(path, SourceSettings())
    assert block.dropped == {"damaged_record": 2}
    assert re.search(message, block.damage)


def test_the_first_version_is_not_read_with_the_second():
    assert not get_source("spice").is_data_file("SPICE-1.1.4.hdf5")
    assert get_source("spice").is_data_file("SPICE-2.0.1.hdf5")
