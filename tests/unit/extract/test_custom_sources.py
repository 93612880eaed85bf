"""What the extract stage says of sources that only the configuration knows."""

import logging

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from mtlpar.core.files import file_digest, read_json, write_json
from mtlpar.core.paths import Workspace
from mtlpar.extract.settings import ExtractSettings
from mtlpar.extract.stage import run
from mtlpar.sources import registry
from mtlpar.sources.settings import CustomSource


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
        write_json(workspace.raw_manifest("mine"), {"source": "mine", "files": entries})
        run("mine", workspace=workspace, settings=ExtractSettings(), jobs=jobs)
        return read_json(workspace.extracted_manifest("mine"))

    yield make
    registry.define_custom_sources({})


def test_structures_that_lack_an_optional_label_are_counted_by_file_and_told(extract, caplog):
    # The second file has no charge at all: that is for the user to judge, not an error.
    files = [[water(total=1, spin=2), water(total=0)], [water(spin=1)]]
    keys = {"charge_key": "total", "spin_key": "spin"}
    with caplog.at_level(logging.WARNING):
        manifest = extract(*files, **keys)
    assert [file["checks"]["labels"] for file in manifest["files"]] == [
        {"rows": 2, "lacking": {"spin_key: spin": 1}},
        {"rows": 1, "lacking": {"charge_key: total": 1}},
    ]
    lacking = {"charge_key: total": 1, "spin_key: spin": 1}
    assert manifest["checks"]["labels"] == {"rows": 3, "lacking": lacking}
    assert "1 of 3 structures lack the label of custom_sources.mine.spin_key: spin" in caplog.text


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_key_that_no_structure_has_is_an_error_that_lists_those_there_are(extract, jobs):
    # With two jobs the counts come back from other processes.
    files = [[water(total=1)], [water(total=0, cluster="a")]]
    with pytest.raises(ValueError, match="charge_key: totl") as caught:
        extract(*files, jobs=jobs, charge_key="totl", stress_key="stress", spin_key=None)
    assert "custom_sources.mine.stress_key: stress" in str(caught.value)
    assert "there are cluster, energy, forces, numbers, positions, total." in str(caught.value)


def test_dropped_structures_do_not_hide_a_key_that_no_structure_has(extract):
    # The only structure with the label has no forces: nothing of it arrives.
    dropped = water(total=1)
    del dropped.calc.results["forces"]
    with pytest.raises(ValueError, match="charge_key: total"):
        extract([dropped, water()], charge_key="total")


def test_if_no_structure_is_usable_the_keys_to_correct_and_those_there_are_are_named(extract):
    with pytest.raises(ValueError, match="no usable structure") as caught:
        extract([water(), water()], [water(dft=1.5)], energy_key="enrgy")
    message = str(caught.value)
    assert "look at custom_sources.mine.energy_key; the files have the keys dft, energy" in message
    assert "extract.labels" not in message
