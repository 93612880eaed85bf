import lzma

import numpy as np
import pytest

from mtlpar.core.hashing import name_hash
from mtlpar.sources.registry import get_source
from mtlpar.sources.settings import SourceSettings

OPT = "Geom-m1-i1-c1-opt"


def test_energy_and_forces_are_a_consistent_pair(qm7x_file, read):
    # In this file all PBE0 labels are one more than those of PBE0+MBD, so a mixture would show.
    path = qm7x_file({"1": [OPT]})
    with_dispersion, _ = read("qm7x", path)
    without, _ = read("qm7x", path, qm7x_dispersion=False)
    assert without.energy - with_dispersion.energy == pytest.approx(1)
    np.testing.assert_allclose(without.forces - with_dispersion.forces, 1, rtol=1e-6)


def test_the_level_of_theory_follows_the_choice_of_labels():
    source = get_source("qm7x")
    assert source.theory(SourceSettings()) == "PBE0+MBD"
    assert source.theory(SourceSettings(qm7x_dispersion=False)) == "PBE0"


def test_duplicates_go_with_everything_displaced_from_them_and_nothing_else(qm7x_file, read):
    # c10 and i11 begin like the duplicate's name; m2 has the same numbers after another molecule.
    kept = ["Geom-m1-i1-c10-opt", "Geom-m1-i1-c10-d1", "Geom-m1-i11-c1-opt"]
    gone = ["Geom-m1-i1-c1-opt", "Geom-m1-i1-c1-d1", "Geom-m1-i1-c1-d100", "Geom-m1-i1-c1-7"]
    path = qm7x_file({"1": kept + gone, "2": ["Geom-m2-i1-c1-opt"]}, duplicates=[OPT])
    batch, dropped = read("qm7x", path)
    assert dropped == {"listed_duplicate": 4}
    groups = [name_hash("qm7x", molecule) for molecule in ("1", "1", "1", "2")]
    assert batch.group.tolist() == groups


def test_displaced_structures_may_be_named_as_in_the_readme(qm7x_file, read):
    batch, _ = read("qm7x", qm7x_file({"1": [OPT, "Geom-m1-i1-c1-50", "Geom-m1-i1-c1-d51"]}))
    assert len(batch) == 3


def test_the_unpacked_file_does_not_stay(qm7x_file, read, tmp_path):
    read("qm7x", qm7x_file({"1": [OPT]}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1000.xz", "DupMols.dat"]


def test_a_foreign_key_is_an_error_that_names_it(qm7x_file, read):
    path = qm7x_file({"1": [OPT, "Geom-m1-i1-c1-x7"]})
    with pytest.raises(ValueError, match=r"1000\.xz, key 1/Geom-m1-i1-c1-x7 is not the name"):
        read("qm7x", path)


def test_a_missing_list_of_duplicates_is_an_error(qm7x_file, read, tmp_path):
    path = qm7x_file({"1": [OPT]})
    (tmp_path / "DupMols.dat").unlink()
    with pytest.raises(ValueError, match=r"DupMols\.dat is missing"):
        read("qm7x", path)


def test_a_list_of_duplicates_with_another_content_is_an_error(qm7x_file, read):
    path = qm7x_file({"1": [OPT]}, duplicates=[OPT, "<html>"])
    with pytest.raises(ValueError, match=r"DupMols\.dat line 2 is '<html>'"):
        read("qm7x", path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("totFOR", None, "'totFOR' is missing"),
        ("totFOR", np.zeros((2, 3)), r"shape \(2, 3\), expected \(3, 3\)"),
        ("ePBE0+MBD", np.zeros(2), r"shape \(2\), expected \(1\)"),
        ("atXYZ", np.zeros((3, 2)), r"shape \(3, 2\), expected \(3, 3\)"),
    ],
)
def test_another_layout_is_named_with_file_and_key(qm7x_file, read, key, value, message):
    def change(file):
        del file[f"1/{OPT}/{key}"]
        if value is not None:
            file[f"1/{OPT}/{key}"] = value

    path = qm7x_file({"1": [OPT]}, change=change)
    with pytest.raises(ValueError, match=rf"1000\.xz, key 1/{OPT}: .*{message}"):
        read("qm7x", path)


def test_a_molecule_that_is_no_group_is_named(qm7x_file, read):
    def change(file):
        file["2"] = np.zeros(3)

    with pytest.raises(ValueError, match=r"key 2: expected an HDF5 group"):
        read("qm7x", qm7x_file({"1": [OPT]}, change=change))


@pytest.mark.parametrize("keep", [0, 3, 0.5, 0.99])
def test_a_cut_off_archive_is_named_and_leaves_nothing(qm7x_file, read, tmp_path, keep):
    path = qm7x_file({"1": [OPT]})
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match=r"1000\.xz (is damaged or cut off|is empty|begins with)"):
        read("qm7x", path)
    assert len(list(tmp_path.iterdir())) == 2


def test_an_archive_of_something_else_is_named(qm7x_file, read):
    path = qm7x_file({"1": [OPT]})
    path.write_bytes(lzma.compress(b"not HDF5"))
    with pytest.raises(ValueError, match=r"content of .*1000\.xz begins with b'not HDF5'"):
        read("qm7x", path)
