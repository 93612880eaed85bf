"""What the extract stage says of sources that only the configuration knows."""

import logging

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from helpers import write_raw_manifest

from mtlpar.core.files import file_digest, read_json
from mtlpar.core.paths import Workspace
from mtlpar.extract.settings import ExtractSettings
from mtlpar.extract.stage import _warn_of_files_that_look_like_splits, run
from mtlpar.sources import registry
from mtlpar.sources.settings import CustomSource
from mtlpar.store.bp import BpReader


def water(**info):
    rng = np.random.default_rng(0)
    atoms = Atoms("OH2", positions=rng.normal(size=(3, 3)), info=info)
    atoms.calc = SinglePointCalculator(atoms, energy=-10.0, forces=rng.normal(size=(3, 3)))
    return atoms


@pytest.fixture
def extract(tmp_path):
    """Extract files of extended XYZ, given as lists of structures; returns the manifest."""
    workspace = Workspace(raw=tmp_path / "raw", results=tmp_path / "results")

    def make(*files, jobs=1, **custom):
        described = CustomSource(format="extxyz", files=("*.xyz",), level_of_theory="X", **custom)
        registry.define_custom_sources({"mine": described})
        folder = workspace.raw_folder("mine")
        folder.mkdir(parents=True, exist_ok=True)
        entries = []
        for index, structures in enumerate(files):
            path = folder / f"data_{index}.xyz"
            write(path, structures, format="extxyz")
            size, digest = path.stat().st_size, file_digest(path)
            entries.append({"name": path.name, "bytes": size, "sha256": digest, "kind": "data"})
        write_raw_manifest(workspace, "mine", entries)
        run(
            "mine",
            workspace=workspace,
            settings=ExtractSettings(),
            jobs=jobs,
            code=described.model_dump_json(),
        )
        return read_json(workspace.extracted_manifest("mine"))

    yield make
    registry.define_custom_sources({})


def test_structures_that_lack_an_optional_label_are_counted_by_file_and_told(extract, caplog):
    # The second file has no charge at all: that is for the user to judge, not an error.
    files = [[water(total=1, spin=2), water(total=0)], [water(spin=1)]]
    keys = {"charge_key": "total", "spin_key": "spin"}
    with caplog.at_level(logging.WARNING):
        manifest = extract(*files, **keys)
    of_files = [file["checks"]["labels"] for file in manifest["files"]]
    assert [labels["rows"] for labels in of_files] == [2, 1]
    assert [labels["lacking"] for labels in of_files] == [
        {"spin_key: spin": 1},
        {"charge_key: total": 1},
    ]
    of_all = manifest["checks"]["labels"]
    assert of_all["rows"] == 3
    assert of_all["lacking"] == {"charge_key: total": 1, "spin_key: spin": 1}
    assert (
        "1 of 3 structures without the label of custom_sources.mine.spin_key: spin" in caplog.text
    )


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_key_that_no_structure_has_is_an_error_that_lists_those_there_are(extract, jobs):
    # With two jobs the counts come back from other processes.
    files = [[water(total=1)], [water(total=0, cluster="a")]]
    with pytest.raises(ValueError, match="charge_key: totl") as caught:
        extract(*files, jobs=jobs, charge_key="totl", stress_key="stress", spin_key=None)
    assert "custom_sources.mine.stress_key: stress" in str(caught.value)
    assert "there are cluster, energy, forces, total." in str(caught.value)


def test_structures_left_out_do_not_hide_a_key_that_no_structure_has(extract):
    # The only structure with the label is not selected: nothing of it arrives.
    files = [water(total=1, head="pbe"), water(head="ccsd")]
    with pytest.raises(ValueError, match="charge_key: total"):
        extract(files, charge_key="total", where={"head": "ccsd"})


def test_a_label_that_is_asked_for_and_nowhere_there_is_an_error_that_lists_the_keys(extract):
    with pytest.raises(ValueError, match="energy_key: enrgy") as caught:
        extract([water(), water()], [water(dft=1.5)], energy_key="enrgy")
    assert "there are dft, energy, forces" in str(caught.value)


def test_a_label_that_is_read_by_default_may_be_missing_everywhere(extract):
    frames = [water(), water(), water()]
    for atoms in frames:
        del atoms.calc.results["forces"]
    manifest = extract(frames)
    assert manifest["dropped"] == {}
    assert manifest["checks"]["without"] == {"energy": 0, "forces": 3, "stress": 3}


def test_if_no_structure_has_a_label_the_keys_that_are_there_are_named(extract):
    frames = [water(dft=1.5)]
    frames[0].calc = None
    told = r"no usable structure.*no_label.*look at .*energy_key and .*forces_key; the files have"
    with pytest.raises(ValueError, match=told):
        extract(frames)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda atoms: atoms.set_pbc(True), "look at cells and pbc, .* has to span"),
        (lambda atoms: atoms.info.update(energy=1e9), "look at the unit of energies"),
        (
            lambda atoms: atoms.arrays.update(forces=np.full((len(atoms), 3), 1e6)),
            "look at extract.max_force_ev_per_angstrom and the unit of forces",
        ),
    ],
)
def test_if_all_structures_are_dropped_the_advice_is_for_the_reason(extract, spoil, told):
    # It was the limit of forces, whatever was wrong.
    atoms = water()
    results = atoms.calc.results
    atoms.calc = None
    atoms.info["energy"], atoms.arrays["forces"] = results["energy"], results["forces"]
    spoil(atoms)
    with pytest.raises(ValueError, match=f"no usable structure.*{told}; the files have"):
        extract([atoms])


def test_keys_that_nothing_reads_are_named_once_with_their_count(extract, caplog):
    # Weights in the way of MACE change nothing unless the source says what they are.
    files = [[water(config_weight=0.0), water(config_weight=1.0)], [water(head="pbe")]]
    with caplog.at_level(logging.WARNING):
        manifest = extract(*files)
    assert manifest["checks"]["labels"]["unused"] == {"config_weight": 2, "head": 1}
    said = [record for record in caplog.records if "nothing reads" in record.message]
    assert len(said) == 1
    assert "config_weight (2), head (1)" in said[0].message


def test_of_predictions_only_what_says_whose_they_are_is_told(extract, caplog):
    # A student learns from files of `predict`: a warning of what that wrote helps nobody. Two
    # sources in one file are two levels of theory, and must not go unseen.
    frames = [water(energy_uncertainty=0.1, descriptors=[1.0, 2.0], source="a"), water(refused="x")]
    with caplog.at_level(logging.WARNING):
        manifest = extract(frames)
    assert manifest["checks"]["labels"]["unused"] == {"source": 1}


def test_energies_of_zero_beside_forces_are_none(extract):
    frames = [water() for _ in range(3)]
    for atoms in frames:
        atoms.calc.results["energy"] = 0.0
    # Two atoms are pulled and one is not: the number of those that are must not matter.
    frames[1].calc.results["forces"][0] = 0.0
    with pytest.raises(ValueError, match=r"exactly 0 eV in 3 structures, all of data_0\.xyz"):
        extract(frames)
    # One zero among energies is an energy, and without forces nobody can tell.
    frames[0].calc.results["energy"] = -1.0
    assert extract(frames)["rows"] == 3
    assert extract(frames[1:], energy_key=None)["checks"]["without"]["energy"] == 2


def test_one_energy_for_all_frames_is_none(extract):
    # As readers give that repeat the last energy of a file; forces show that frames differ.
    frames = [water() for _ in range(3)]
    for number, atoms in enumerate(frames):
        atoms.calc.results.update(energy=-7.25, forces=(1.0 + number) * atoms.get_forces())
    with pytest.raises(ValueError, match=r"exactly -7.25 eV in 3 structures, all of data_0\.xyz"):
        extract(frames)
    # Copies have one energy, and one energy that differs is enough.
    assert extract([frames[1]] * 3)["rows"] == 3
    frames[0].calc.results["energy"] = -7.5
    assert extract(frames)["rows"] == 3


def test_labels_filled_with_zeros_are_said(extract, caplog):
    frames = [water() for _ in range(4)]
    for atoms in frames:
        atoms.calc.results["forces"] = np.zeros((3, 3))
    # Nobody can tell energies beside forces of zero, and one such row may be at rest.
    manifest = extract(frames)
    assert manifest["checks"]["uncomputed"]["zeros"] == {"energy": 0, "forces": 4, "stress": 0}
    assert "forces: exactly 0 in 4 structures, all that have it" in caplog.text
    caplog.clear()
    mixed = [water() for _ in range(4)]
    mixed[0].calc.results.update(energy=0.0)
    mixed[1].calc.results.update(energy=0.0)
    mixed[2].calc.results.update(forces=np.zeros((3, 3)))
    extract(mixed)
    assert "the energy is exactly 0 in 2 structures" in caplog.text
    assert "forces: exactly 0" not in caplog.text


def test_isolated_atoms_are_references_and_no_rows(extract):
    atom = Atoms("H", calculator=SinglePointCalculator(Atoms("H"), energy=-13.6))
    atom.info["config_type"] = "IsolatedAtom"
    frames = [water(config_type="liquid"), atom, water()]
    manifest = extract(frames, isolated_atoms={"key": "config_type", "value": "IsolatedAtom"})
    assert manifest["dropped"] == {"isolated_atom": 1}
    assert manifest["checks"]["labels"]["isolated_atoms_ev"] == {"H": -13.6}


def test_values_that_no_structure_has_are_named_with_those_there_are(extract):
    atom = Atoms("H", calculator=SinglePointCalculator(Atoms("H"), energy=-13.6))
    atom.info["config_type"] = "isolated_atom"
    frames = [water(config_type="liquid", head="pbe"), atom, water(head="PBE")]
    told = r"no structure has 'IsolatedAtom' under the key 'config_type'; there are " + (
        r"isolated_atom \(1\), liquid \(1\)\. Correct custom_sources\.mine\.isolated_atoms"
    )
    with pytest.raises(ValueError, match=told):
        extract(frames, isolated_atoms={"key": "config_type", "value": "IsolatedAtom"})
    told = r"no structure has 'r2scan' under the key 'head'; there are PBE \(1\), pbe \(1\)"
    for wanted in ("r2scan", ("pbe", "r2scan")):
        with pytest.raises(ValueError, match=told):
            extract(frames, where={"head": wanted})
    with pytest.raises(ValueError, match="'pbe' under the key 'hed'; none has this key"):
        extract(frames, where={"hed": "pbe"})
    # What is wanted may be in any of the files.
    assert extract(frames[:1], frames[2:], where={"head": "PBE"})["rows"] == 2


def test_weights_that_no_structure_has_or_that_are_all_zero_are_said(extract, caplog):
    frames = [water(config_weight=0.0), water(config_weight=0.0)]
    with pytest.raises(
        ValueError, match=r"no structure has the label of .*weights\.structure: weigt"
    ):
        extract(frames, weights={"structure": "weigt"})
    manifest = extract(frames, weights={"structure": "config_weight"})
    assert manifest["checks"]["weightless"] == {"energy": 2, "forces": 2, "stress": 0}
    assert (
        "2 structures with a weight of 0 for energy, which no model learns from any" in caplog.text
    )


def test_isolated_atoms_of_two_files_that_contradict_each_other_are_refused(extract):
    files = []
    for energy in (-13.6, -12.0):
        atom = Atoms("H", calculator=SinglePointCalculator(Atoms("H"), energy=energy))
        atom.info["config_type"] = "IsolatedAtom"
        files.append([water(), atom])
    with pytest.raises(ValueError, match=r"isolated atom H has -12.0 eV, another one -13.6 eV"):
        extract(*files, isolated_atoms={})


def test_one_file_can_feed_two_sources(extract):
    # Two levels of theory, told apart by a key, as files for MACE have them.
    frames = [water(head="pbe"), water(head="ccsd"), water(head="ccsd"), water()]
    assert extract(frames, where={"head": "pbe"})["dropped"] == {"not_selected": 3}
    assert extract(frames, where={"head": ["pbe", "ccsd"]})["dropped"] == {"not_selected": 1}


def test_structures_that_differ_in_a_charge_nobody_reads_are_no_duplicates(extract, tmp_path):
    manifest = extract([water(charge=0), water(charge=1), water(charge=1)], charge_key=None)
    assert manifest["checks"]["labels"]["unused"] == {"charge": 3}
    (part,) = tmp_path.glob("results/extracted/mine/*.bp")
    with BpReader(part) as reader:
        ids = reader.read_column("structure_id")
    assert ids[1] == ids[2] != ids[0]


@pytest.mark.parametrize(
    ("names", "warned"),
    [
        (("train.xyz", "valid.xyz", "test.xyz"), True),
        (("water_train_0.xyz", "water-test.xyz"), True),
        (("training_only.xyz", "constrained.xyz"), False),
        (("latest.xyz", "strain.xyz", "interval.xyz"), False),
    ],
)
def test_files_that_look_like_splits_are_told_to_be_none(names, warned, caplog):
    with caplog.at_level(logging.WARNING):
        _warn_of_files_that_look_like_splits("mine", list(names))
    assert ("custom_sources.mine.splits" in caplog.text) is warned


def test_given_splits_are_kept_to_the_row(extract, tmp_path):
    files = [[water(part="a"), water(part="b")], [water(part="c")]]
    extract(*files, splits={"key": "part", "train": ["a"], "val": ["b"], "test": ["c"]})
    columns = [
        BpReader(part).read_column("official_split")
        for part in sorted(tmp_path.glob("results/extracted/mine/*.bp"))
    ]
    assert np.concatenate(columns).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="'part' is 'c', which is none of a, b, d"):
        extract(*files, splits={"key": "part", "train": ["a"], "val": ["b"], "test": ["d"]})
    by_file = {"train": ["data_0.xyz"], "val": ["data_2.xyz"], "test": ["data_*.xyz"]}
    with pytest.raises(ValueError, match=r"data_0\.xyz: splits put it into train and test"):
        extract(*files, splits=by_file)
