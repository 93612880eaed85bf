import h5py
import numpy as np
import pytest

from mtlpar.core.hashing import name_hash
from mtlpar.sources.registry import get_source
from mtlpar.sources.settings import SourceSettings

HARTREE = 27.211386245988


def test_real_labels_are_converted_to_the_last_digit(excerpt, read):
    path = excerpt("ani1x/ani1_n5.hdf5")
    batch, dropped = read("ani1x", path)
    assert len(batch) == 8
    assert dropped == {}
    with h5py.File(path) as file:
        groups = [file[formula] for formula in file]
        energy = np.concatenate([group["wb97x_dz.energy"] for group in groups])
        forces = np.concatenate(
            [group["wb97x_dz.forces"][()].astype(np.float64).reshape(-1, 3) for group in groups]
        )
    # Energies near -15,000 eV: a detour through float32 would be off by half an meV.
    np.testing.assert_array_equal(batch.energy, energy * HARTREE)
    np.testing.assert_array_equal(batch.forces, (forces * HARTREE).astype(np.float32))
    assert batch.energy[0] == -559.9673266512569 * HARTREE


def test_conformers_keep_their_order_and_the_formula_is_the_group(ani1x_file, read):
    path = ani1x_file({"H2O1": 3, "D2O1": 2})
    batch, _ = read("ani1x", path)
    with h5py.File(path) as file:
        expected = np.concatenate([file["D2O1/coordinates"], file["H2O1/coordinates"]])
    np.testing.assert_array_equal(batch.positions, expected.reshape(-1, 3))
    groups = [name_hash("ani1x", formula) for formula in ("D2O1", "H2O1")]
    assert batch.group.tolist() == [groups[0]] * 2 + [groups[1]] * 3
    assert batch.atomic_numbers[:6].tolist() == [8, 1, 1, 8, 1, 1]
    assert batch.charge.tolist() == [0] * 5
    assert batch.spin.tolist() == [1] * 5


def test_rows_with_nan_labels_are_counted_and_nan_elsewhere_is_not(ani1x_file, read):
    def spoil(file):
        file["H2O1/wb97x_dz.energy"][1] = np.nan
        file["H2O1/wb97x_dz.forces"][3, 2, 0] = np.inf

    batch, dropped = read("ani1x", ani1x_file({"H2O1": 5}, change=spoil))
    assert dropped == {"non_finite_label": 2}
    assert len(batch) == 3


def test_large_groups_come_in_bounded_blocks(ani1x_file):
    path = ani1x_file({"H2O1": 10_000})
    blocks = list(get_source("ani1x").read(path, SourceSettings()))
    assert [block.rows for block in blocks] == [4096, 4096, 1808]


def replace(key, value):
    def change(file):
        del file[key]
        if value is not None:
            file[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replace("H2O1/wb97x_dz.forces", None), "'wb97x_dz.forces' is missing"),
        (replace("H2O1/wb97x_dz.energy", np.zeros(4)), r"has shape \(4\), expected \(5\)"),
        (replace("H2O1/coordinates", np.zeros((5, 2, 3))), r"expected \(any, 3, 3\)"),
        (replace("H2O1/atomic_numbers", np.array([8, 1, 300])), "expected integers"),
        (replace("H2O1/atomic_numbers", np.array([8.5, 1, 1])), "expected integers"),
        (replace("H2O1", np.zeros(3)), "expected an HDF5 group"),
    ],
)
def test_another_layout_is_named_with_file_and_key(ani1x_file, read, change, message):
    path = ani1x_file({"H2O1": 5}, change=change)
    with pytest.raises(ValueError, match=rf"ani1x-release\.h5, key H2O1: .*{message}"):
        read("ani1x", path)


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.95])
def test_a_cut_off_file_is_named(ani1x_file, read, keep):
    path = ani1x_file({"H2O1": 50})
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match=r"ani1x-release\.h5 is (damaged or cut off|empty)"):
        read("ani1x", path)
