import h5py
import numpy as np
import pytest

from mtlpar.core.hashing import name_hash
from mtlpar.sources.registry import get_source
from mtlpar.sources.settings import SourceSettings

HARTREE = 27.211386245988
ENERGIES = "ccsd(t)_cbs.energy"


@pytest.fixture
def ani1ccx_file(ani1x_file):
    """Write ``ani1x-release.h5`` with coupled-cluster energies of some rows: {formula: rows}."""

    def write(counts, labelled):
        def fill(file):
            for formula, rows in labelled.items():
                for row in rows:
                    file[formula][ENERGIES][row] = -76.0 - row / 7

        return ani1x_file(counts, change=fill)

    return write


def test_rows_are_those_with_an_energy_which_is_exact_and_comes_without_forces(ani1ccx_file, read):
    path = ani1ccx_file({"H2O1": 6, "D2O1": 3, "T2O1": 2}, {"H2O1": [1, 4], "T2O1": [0]})
    batch, dropped = read("ani1ccx", path)
    assert dropped == {}
    # Not the energies and forces of wB97X, which the same rows have too.
    assert batch.energy.tolist() == [
        (-76 - 1 / 7) * HARTREE,
        (-76 - 4 / 7) * HARTREE,
        -76 * HARTREE,
    ]
    assert batch.has("energy").tolist() == [True] * 3
    assert batch.has("forces").tolist() == [False] * 3
    assert not batch.forces.any()
    with h5py.File(path) as file:
        expected = [file["H2O1/coordinates"][row] for row in (1, 4)] + [file["T2O1/coordinates"][0]]
    np.testing.assert_array_equal(batch.positions, np.concatenate(expected))


def test_groups_are_those_of_ani1x_so_that_a_formula_is_dealt_alike(ani1ccx_file, read):
    path = ani1ccx_file({"D2O1": 2, "H2O1": 2}, {"D2O1": [0, 1], "H2O1": [0, 1]})
    ours, _ = read("ani1ccx", path)
    theirs, _ = read("ani1x", path)
    assert ours.group.tolist() == theirs.group.tolist()
    assert ours.group[0] == name_hash("ani1x", "D2O1")


def test_a_structure_of_both_sources_is_recognised_as_the_same_geometry(ani1ccx_file, read):
    path = ani1ccx_file({"H2O1": 2}, {"H2O1": [0, 1]})
    ours, _ = read("ani1ccx", path)
    theirs, _ = read("ani1x", path)
    # Leaks between the two are found by it.
    assert ours.structure_id.tolist() == theirs.structure_id.tolist()


def test_infinite_energies_are_dropped_and_counted(ani1x_file, read):
    def spoil(file):
        file["H2O1"][ENERGIES][:3] = [-76.0, np.inf, -np.inf]

    batch, dropped = read("ani1ccx", ani1x_file({"H2O1": 5}, change=spoil))
    assert len(batch) == 1
    assert dropped == {"non_finite_label": 2}


def test_formulas_beyond_a_block_are_read_whole(ani1ccx_file):
    path = ani1ccx_file({"H2O1": 10_000}, {"H2O1": [0, 4095, 4096, 9999]})
    blocks = list(get_source("ani1ccx").read(path, SourceSettings()))
    assert [block.rows for block in blocks] == [2, 1, 1]


def test_a_file_of_another_release_is_told_which_key_it_lacks(ani1x_file, read):
    def take_away(file):
        del file["H2O1"][ENERGIES]

    path = ani1x_file({"H2O1": 5}, change=take_away)
    with pytest.raises(ValueError, match=r"key H2O1: .*'ccsd\(t\)_cbs\.energy' is missing"):
        read("ani1ccx", path)


def test_real_energies_are_converted_to_the_last_digit_and_nan_is_no_row(excerpt, read):
    path = excerpt("ani1x/ani1_n5.hdf5")
    batch, dropped = read("ani1ccx", path)
    with h5py.File(path) as file:
        energy = np.concatenate([file[formula][ENERGIES] for formula in file])
    known = ~np.isnan(energy)
    assert 0 < known.sum() < len(energy)
    np.testing.assert_array_equal(batch.energy, energy[known] * HARTREE)
    assert dropped == {}
