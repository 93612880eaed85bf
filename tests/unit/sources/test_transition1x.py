import json

import h5py
import numpy as np
import pytest

from mtlpar.core.hashing import name_hash

FORCES = "wB97x_6-31G(d).forces"
ENERGY = "wB97x_6-31G(d).energy"


def test_every_record_of_a_reaction_is_a_frame_or_counted_as_repeated(transition1x_file, read):
    batch, dropped = read("transition1x", transition1x_file(("train",), count=26))
    assert len(batch) == 26
    assert dropped == {"repeated_endpoint": 2, "repeated_transition_state": 1}


def test_reactions_are_not_read_again_from_data(transition1x_file, read):
    # data holds the three reactions of the splits once more, as in the released file.
    batch, _ = read("transition1x", transition1x_file())
    assert len(batch) == 3 * 18
    assert batch.official_split.tolist() == [0] * 18 + [1] * 18 + [2] * 18
    names = ("train", "val", "test")
    groups = [name_hash("transition1x", "CH3", f"rxn-{name}") for name in names]
    assert batch.group.tolist() == np.repeat(np.array(groups, np.uint64), 18).tolist()


def test_data_is_read_where_there_are_no_splits(transition1x_file, read):
    batch, _ = read("transition1x", transition1x_file(("data",)))
    assert len(batch) == 3 * 18
    assert set(batch.official_split.tolist()) == {-1}


def test_data_with_only_some_splits_is_refused(transition1x_file, read):
    with pytest.raises(ValueError, match="twice or not at all"):
        read("transition1x", transition1x_file(("data", "train")))


def test_other_top_level_groups_are_named(transition1x_file, read):
    with pytest.raises(ValueError, match=r"top-level groups \['other'\]"):
        read("transition1x", transition1x_file(("other",)))


@pytest.mark.parametrize("end", ["reactant", "product", "transition_state"])
def test_a_record_that_is_not_on_the_path_is_kept(transition1x_file, read, end):
    # A change of one coordinate makes it another geometry: dropping it would lose a structure.
    def change(file):
        file[f"train/CH3/rxn-train/{end}/positions"][0, 1, 2] += 1e-4

    batch, dropped = read("transition1x", transition1x_file(("train",), change=change))
    assert len(batch) == 19
    assert sum(dropped.values()) == 2
    assert len(set(batch.structure_id.tolist())) == 19


def test_frames_keep_their_labels(transition1x_file, read):
    path = transition1x_file(("val",))
    batch, _ = read("transition1x", path)
    with h5py.File(path) as file:
        group = file["val/CH3/rxn-val"]
        np.testing.assert_array_equal(batch.energy, group[ENERGY])
        np.testing.assert_array_equal(
            batch.forces, group[FORCES][()].reshape(-1, 3).astype(np.float32)
        )
    assert batch.spin.tolist() == [1] * 18


def test_the_end_points_of_a_real_reaction_are_recognised(excerpt, read, tmp_path):
    # The excerpt has the frames as the authors' loader yields them: reactant, product, path.
    first = excerpt("transition1x/rxn1961_results_0000_0026.json")
    records = []
    for path in sorted(first.parent.glob("rxn1961_results_*.json")):
        records += json.loads(path.read_text())
    positions = np.array([record["positions"] for record in records])
    energy = np.array([record["wB97x.energy"] for record in records])
    path = tmp_path / "Transition1x.h5"
    with h5py.File(path, "w") as file:
        parts = {"": slice(2, None), "/reactant": slice(0, 1), "/product": slice(1, 2)}
        for end, rows in parts.items():
            group = file.create_group(f"data/C2H5NO2/rxn1961{end}")
            group["atomic_numbers"] = np.array(records[0]["atomic_numbers"])
            group["positions"] = positions[rows]
            group[ENERGY] = energy[rows]
            group[FORCES] = np.zeros_like(positions[rows])
    batch, dropped = read("transition1x", path)
    assert len(records) == 268
    assert len(batch) == 266
    assert dropped == {"repeated_endpoint": 2}
    np.testing.assert_array_equal(batch.energy, energy[2:])
    assert len(set(batch.structure_id.tolist())) == 266


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (FORCES, None, f"'{FORCES[:5]}.* is missing"),
        (FORCES, np.zeros((17, 4, 3)), r"shape \(17, 4, 3\), expected \(18, 4, 3\)"),
        (ENERGY, np.zeros(()), r"shape \(\), expected \(18\)"),
        ("positions", np.zeros((18, 3, 3)), r"shape \(18, 3, 3\), expected \(any, 4, 3\)"),
    ],
)
def test_another_layout_is_named_with_file_and_key(transition1x_file, read, key, value, message):
    def change(file):
        group = file["train/CH3/rxn-train"]
        del group[key]
        if value is not None:
            group[key] = value

    path = transition1x_file(("train",), change=change)
    with pytest.raises(
        ValueError, match=rf"Transition1x\.h5, key train/CH3/rxn-train: .*{message}"
    ):
        read("transition1x", path)


@pytest.mark.parametrize("keep", [0, 0.5, 0.95])
def test_a_cut_off_file_is_named(transition1x_file, read, keep):
    path = transition1x_file()
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ValueError, match=r"Transition1x\.h5 is (damaged or cut off|empty)"):
        read("transition1x", path)
