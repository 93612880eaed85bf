import bz2
import json

import numpy as np
import pytest

from mtlpar.sources.registry import get_source


@pytest.fixture
def paths_file(tmp_path):
    """Write ``pbe_0000.json.bz2``."""

    def write(content):
        path = tmp_path / "pbe_0000.json.bz2"
        path.write_bytes(bz2.compress(json.dumps(content).encode()))
        return path

    return write


@pytest.fixture
def step(frame):
    """One step of a relaxation: NaCl with all its labels."""

    def make(**changes):
        whole = frame()
        known = {"structure": whole["structure"], "energy": -7.5, "forces": whole["force"]}
        return {**known, "stress": whole["stress"], **changes}

    return make


def calculation(*steps):
    # The nested list at the depth of the steps must not be taken for one.
    return {"functional": "PBE", "kpoints": [[1, 2], [3]], "steps": list(steps)}


def test_every_step_of_every_calculation_is_a_row(paths_file, step, read):
    path = paths_file(
        {
            "agm1": [calculation(step(energy=-1.0), step(energy=-2.0)), calculation(step())],
            "agm2": [],
            "agm3": [calculation(step(energy=-4.0))],
        }
    )
    batch, dropped = read("alexandria_paths", path)
    assert dropped == {}
    assert batch.energy.tolist() == [-1.0, -2.0, -7.5, -4.0]
    np.testing.assert_array_equal(batch.forces[0], [0, 0, 0.125])
    expected = np.array([10, 20, 30, 3, 2, 1]) * -0.1 / 160.21766208
    np.testing.assert_allclose(batch.stress[0], expected, rtol=1e-6)


def test_steps_with_null_labels_are_counted(paths_file, step, read):
    steps = [
        step(),
        step(energy=None),
        step(forces=None),
        step(forces=[[0.0, None, 0.0], [0.0, 0.0, 0.0]]),
    ]
    batch, dropped = read("alexandria_paths", paths_file({"agm1": [calculation(*steps)]}))
    assert len(batch) == 1
    assert dropped == {"missing_energy": 1, "missing_forces": 2}


def test_a_composition_is_in_the_same_split_as_among_the_relaxed_structures(
    paths_file, step, alexandria_file, entry, read
):
    paths, _ = read("alexandria_paths", paths_file({"agm1": [calculation(step())]}))
    relaxed, _ = read("alexandria", alexandria_file({"entries": [entry()]}))
    assert paths.group.tolist() == relaxed.group.tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds no steps"),
        ({"agm1": {"steps": []}}, "key agm1: expected a list"),
        ({"agm1": [{"functional": "PBE"}]}, r"key agm1\.0: 'steps' is missing"),
        ([], "the file begins with"),
    ],
)
def test_a_file_of_something_else_is_named(paths_file, read, content, message):
    with pytest.raises(ValueError, match=rf"pbe_0000\.json\.bz2.*{message}"):
        read("alexandria_paths", paths_file(content))


@pytest.mark.parametrize(
    ("name", "is_data"),
    [
        ("pbe_0000.json.bz2", True),
        ("pbe_2d_0001.json.bz2", True),
        ("alex_go_aaa_000.json.bz2", True),
        ("alexandria_000.json.bz2", False),
        ("pbesol_0000.json.bz2", False),
    ],
)
def test_shards_are_told_from_relaxed_structures(name, is_data):
    assert get_source("alexandria_paths").is_data_file(name) == is_data
    assert get_source("alexandria").is_data_file(name) != is_data or not is_data
