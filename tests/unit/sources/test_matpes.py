"""MatPES: six numbers of stress in kbar, and the materials of the Materials Project."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from mtlpar.core.hashing import name_hash
from mtlpar.sources.materials_project import material_group
from mtlpar.sources.registry import get_source
from mtlpar.sources.settings import SourceSettings

# 1 eV/Å^3 is 160.21766208 GPa; compression is positive in VASP.
KBAR = -0.1 / 160.21766208


@pytest.fixture
def matpes_file(tmp_path):
    """Write ``MatPES-PBE-2025.1.json.gz`` from entries."""

    def write(entries, name="MatPES-PBE-2025.1.json.gz"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(json.dumps(entries).encode()))
        return path

    return write


@pytest.fixture
def matpes_entry(frame):
    """An entry with the keys of the published example, for NaCl."""

    def make(*, material="mp-22862", **changes):
        known = frame()
        return {
            "builder_meta": {"emmet_version": "0"},
            "nsites": 2,
            "elements": ["Cl", "Na"],
            "composition": {"Na": 1.0, "Cl": 1.0},
            "structure": known["structure"],
            "energy": -7.5,
            "forces": known["force"],
            "stress": [10.0, 20.0, 30.0, 1.0, 2.0, 3.0],
            "abs_forces": [0.125, 0.125],
            "matpes_id": "matpes-20240214_22862_1",
            "bandgap": 5.0,
            "functional": "PBE",
            "provenance": {"original_mp_id": material, "md_step": 93},
            **changes,
        }

    return make


# A partner that is not regular sends the whole run through the careful reader.
@pytest.fixture(params=["quick", "careful"])
def entries(request, matpes_entry):
    odd = {"energy": None} if request.param == "careful" else {}
    return [matpes_entry(), matpes_entry(material="mp-aaft", energy=-8.0), matpes_entry(**odd)]


def test_labels_are_in_our_units_order_and_sign(matpes_file, entries, read):
    batch, _ = read("matpes", matpes_file(entries))
    assert batch.energy[:2].tolist() == [-7.5, -8.0]
    np.testing.assert_array_equal(batch.forces[:2], [[0, 0, 0.125], [0, 0, -0.125]])
    # All six differ, so that a wrong order of the last three, as VASP's own, shows.
    expected = np.array([10, 20, 30, 1, 2, 3]) * KBAR
    np.testing.assert_allclose(batch.stress[0], expected, rtol=1e-6)
    assert batch.stress_mask[:2].tolist() == [1, 1]
    assert batch.pbc[0].tolist() == [1, 1, 1]


def test_materials_are_groups_and_those_of_mptrj(matpes_file, entries, read):
    batch, _ = read("matpes", matpes_file(entries))
    # The second is silicon's identifier in letters.
    assert batch.group[:2].tolist() == [
        name_hash("mptrj", "mp-22862"),
        name_hash("mptrj", "mp-149"),
    ]


def test_what_lacks_a_label_is_counted(matpes_file, matpes_entry, read):
    entries = [matpes_entry(), matpes_entry(energy=None), matpes_entry(forces=None)]
    batch, dropped = read("matpes", matpes_file(entries))
    assert len(batch) == 1
    assert dropped == {"missing_energy": 1, "missing_forces": 1}


def test_a_stress_that_is_not_symmetric_is_none(matpes_file, matpes_entry, read):
    # Then the file has stress_matrix instead.
    batch, _ = read("matpes", matpes_file([matpes_entry(stress=None)]))
    assert batch.stress_mask.tolist() == [0]


@pytest.mark.parametrize("provenance", [None, {}, {"original_mp_id": None}])
def test_an_entry_of_no_material_is_grouped_by_composition(
    matpes_file, matpes_entry, read, provenance
):
    batch, _ = read("matpes", matpes_file([matpes_entry(provenance=provenance)]))
    assert batch.group.tolist() == [name_hash("matpes", "11:1-17:1")]


@pytest.mark.parametrize(
    "changes",
    [{"stress": [1.0] * 5}, {"stress": [[1.0] * 3] * 3}, {"provenance": {"original_mp_id": 149}}],
)
def test_what_is_laid_out_otherwise_is_damage(matpes_file, matpes_entry, changes):
    path = matpes_file([matpes_entry(), matpes_entry(**changes)])
    blocks = list(get_source("matpes").read(path, SourceSettings()))
    assert sum(len(block.batch) for block in blocks) == 1
    assert "entries.1 (matpes-20240214_22862_1)" in blocks[0].damage


@pytest.mark.parametrize("spoil", [lambda data: data[:-200], lambda data: data[:99] + b"\xff" * 60])
def test_a_damaged_file_is_named(matpes_file, matpes_entry, read, spoil):
    path = matpes_file([matpes_entry(energy=float(index)) for index in range(300)])
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match=r"MatPES-PBE-2025\.1\.json\.gz is damaged or cut off"):
        read("matpes", path)


def test_both_functionals_have_a_source_and_the_same_groups(matpes_file, matpes_entry, read):
    name = "MatPES-R2SCAN-2025.1.json.gz"
    batch, _ = read("matpes_r2scan", matpes_file([matpes_entry()], name))
    assert batch.group.tolist() == [material_group("mp-22862")]
    for source, wanted in (("matpes", "MatPES-PBE-2025.1.json.gz"), ("matpes_r2scan", name)):
        files = [wanted, "MatPES-PBE-atoms.json.gz", "MatPES-R2SCAN-atoms.json.gz"]
        assert [file for file in files if get_source(source).is_data_file(file)] == [wanted]
