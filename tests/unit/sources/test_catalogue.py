"""Published sets, written as they come and read by the blocks and readers of the catalogue."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from helpers import REPOSITORY

from mtlpar.config.load import load_config
from mtlpar.core.hashing import name_hash
from mtlpar.core.structures import StructureBatch
from mtlpar.core.yaml_text import dump_yaml, load_yaml
from mtlpar.sources.alexandria import composition_group
from mtlpar.sources.base import matches
from mtlpar.sources.registry import define_custom_sources, get_source
from mtlpar.sources.settings import SourceSettings

BLOCKS = {path.stem: path for path in (REPOSITORY / "workflow/catalogue").glob("*.yaml")}
SETS = (*BLOCKS, "spice", "matpes")
LMDB = ("omat24", "omol25")
WITH_STRESS = ("omat24", "matpes")
WITH_CHARGE = ("omol25", "qcml", "spice")


@pytest.fixture(scope="module")
def native():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(REPOSITORY / "tools" / "catalogue")
        yield importlib.import_module("native")


@pytest.fixture(scope="module")
def custom_sources():
    return load_config([REPOSITORY / "config.yaml", *BLOCKS.values()]).custom_sources


@pytest.fixture(autouse=True)
def _blocks(custom_sources):
    define_custom_sources(custom_sources)
    yield
    define_custom_sources({})


@pytest.fixture(scope="module", params=SETS)
def both(request, native, custom_sources, tmp_path_factory):
    """Name of a set, what was written in its format, and what was read of it."""
    define_custom_sources(custom_sources)
    name, folder = request.param, tmp_path_factory.mktemp("set")
    if name in LMDB:
        pytest.importorskip("ase_db_backends.aselmdb")
    # An ion, a neutral molecule and a dication: the last has the multiplicity of the second.
    charges = (1, 0, 2) if name in WITH_CHARGE else (0,)
    is_crystal = name in native.CRYSTALS
    written = native.make_structures(3, atoms=6, is_crystal=is_crystal, charges=charges)
    path = native.WRITERS[name](folder, written)
    source = get_source(name)
    assert any(matches(str(path.relative_to(folder)), pattern) for pattern in source.data_files)
    blocks = list(source.read(path, SourceSettings()))
    assert [block.damage for block in blocks if block.damage] == []
    assert all(not block.dropped for block in blocks)
    batch = StructureBatch.concatenate(block.batch for block in blocks)
    if name == "spice":
        # Conformations of one charge are a molecule there.
        written = sorted(written, key=lambda one: one.charge)
    return name, written, batch


def test_structures_are_what_was_written(both):
    _, written, batch = both
    assert batch.num_atoms.tolist() == [6, 6, 6]
    assert batch.atomic_numbers.tolist() == np.concatenate([w.numbers for w in written]).tolist()
    positions = np.concatenate([one.positions for one in written])
    np.testing.assert_allclose(batch.positions, positions, rtol=0, atol=1e-6)
    np.testing.assert_allclose(batch.cell, [one.cell for one in written], atol=1e-6)
    assert batch.pbc.tolist() == [[int(one.cell.any())] * 3 for one in written]


def test_energies_and_forces_are_in_our_units(both):
    _, written, batch = both
    # Single precision, in which QCML comes, is 3e-5 eV at these energies.
    np.testing.assert_allclose(batch.energy, [one.energy for one in written], atol=1e-4)
    assert batch.energy_mask.tolist() == batch.forces_mask.tolist() == [1, 1, 1]
    # Forces on fixed atoms too, which some writers of these sets have.
    forces = np.concatenate([one.forces for one in written])
    np.testing.assert_allclose(batch.forces, forces, rtol=2e-6, atol=2e-6)


def test_stresses_have_our_sign_and_order(both):
    name, written, batch = both
    if name not in WITH_STRESS:
        assert not batch.stress_mask.any()
        return
    assert batch.stress_mask.tolist() == [1, 1, 1]
    np.testing.assert_allclose(batch.stress, [one.stress for one in written], rtol=1e-5)


def test_charges_and_multiplicities_are_those_of_the_files(both):
    name, written, batch = both
    charged = name in WITH_CHARGE
    assert batch.charge.tolist() == [one.charge if charged else 0 for one in written]
    states = [one.multiplicity for one in written] if name in ("omol25", "qcml") else [0, 0, 0]
    assert batch.spin.tolist() == states


def test_groups_keep_together_what_belongs_together(both):
    name, written, batch = both
    numbers = written[0].numbers.tolist()
    expected = {
        # Its crystals come from Alexandria, whose compositions are dealt alike.
        "omat24": composition_group(numbers),
        # Silicon, as in MPtrj.
        "matpes": name_hash("mptrj", "mp-149"),
    }
    assert len(set(batch.group.tolist())) == 1
    if name in expected:
        assert batch.group[0] == expected[name]
    else:
        assert batch.group[0] != composition_group(numbers)


def test_outliers_of_qcml_are_left_out(native, tmp_path):
    qcml = importlib.import_module("qcml")
    one, two = native.make_structures(2, atoms=3, is_crystal=False)
    path = native.write_qcml(tmp_path, [one, two])
    text = path.read_text()
    path.write_text(text.replace("is_outlier=0", "is_outlier=1", 1))
    blocks = list(get_source("qcml").read(path, SourceSettings()))
    assert sum(len(block.batch) for block in blocks) == 1
    assert blocks[0].dropped == {"not_selected": 1}
    assert qcml.STRUCTURES_OF_A_FILE > 0


@pytest.mark.parametrize("name", ["oc22", "odac23"])
def test_joined_trajectories_have_every_frame_with_its_labels(native, tmp_path, name):
    join = importlib.import_module("join").join
    energies = []
    for index in range(5):
        # Trajectories of other sizes: ASE writes what stays the same once.
        written = native.make_structures(3, atoms=4 + index, is_crystal=True, seed=index)
        folder = tmp_path / "raw" / str(index)
        folder.mkdir(parents=True)
        native.WRITERS[name](folder, written)
        energies += [one.energy for one in written]
    if name == "odac23":
        # A last line that does not end must not run into the next frame.
        for path in (tmp_path / "raw").rglob("*.extxyz"):
            path.write_text(path.read_text().rstrip("\n"))
    files = join(tmp_path / "raw", tmp_path / "joined", megabytes=5e-3)
    # Two or three trajectories in each.
    assert 1 < len(files) < 5
    source = get_source(name)
    assert all(source.is_data_file(path.name) for path in files)
    blocks = [block for path in files for block in source.read(path, SourceSettings())]
    batch = StructureBatch.concatenate(block.batch for block in blocks)
    np.testing.assert_allclose(batch.energy, energies, atol=1e-7)
    assert batch.forces_mask.all()
    # Fixed atoms keep their forces.
    springs = -native.STIFFNESS * batch.positions
    np.testing.assert_allclose(batch.forces, springs, atol=1e-5)


def test_nothing_to_join_is_an_error(native, tmp_path):
    with pytest.raises(ValueError, match=r"expected files of one of \.traj, \.extxyz, got \[\]"):
        importlib.import_module("join").join(tmp_path, tmp_path / "out", megabytes=1)


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_describes_one_source_and_nothing_else(name):
    # Blocks are laid over a configuration: another key in one would change that.
    content = load_yaml(BLOCKS[name].read_text())
    assert list(content) == ["custom_sources"]
    assert list(content["custom_sources"]) == [name]


def test_blocks_may_all_be_used_together(tmp_path):
    mine = tmp_path / "mine.yaml"
    models = {"all": {"branches": {name: [name] for name in SETS}}}
    mine.write_text(dump_yaml({"sources": list(SETS), "models": models}))
    config = load_config([mine, *BLOCKS.values()])
    assert set(config.custom_sources) == set(BLOCKS)
    assert [get_source(name).name for name in config.sources] == list(SETS)
