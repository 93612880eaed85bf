import bz2
import json

import numpy as np
import pytest

from mtlpar.sources.registry import get_source
from mtlpar.sources.settings import SourceSettings


def load(path):
    content = json.loads(bz2.decompress(path.read_bytes()))
    return content if isinstance(content, list) else content["entries"]


@pytest.mark.parametrize(
    ("name", "count"),
    [("derived_alexandria_000", 10), ("derived_matsciml_98_entries", 98)],
)
def test_real_entries_keep_their_values(excerpt, read, name, count):
    path = excerpt(f"alexandria/{name}.json.bz2")
    batch, dropped = read("alexandria", path)
    entries = load(path)
    assert dropped == {}
    assert len(batch) == len(entries) == count
    assert batch.energy.tolist() == [entry["data"]["energy_total"] for entry in entries]
    sites = [site for entry in entries for site in entry["structure"]["sites"]]
    np.testing.assert_array_equal(
        batch.forces, np.array([site["properties"]["forces"] for site in sites], np.float32)
    )
    np.testing.assert_array_equal(
        batch.positions, np.array([site["xyz"] for site in sites], np.float32)
    )
    assert batch.pbc.all()
    assert batch.stress_mask.tolist() == ["stress" in entry["data"] for entry in entries]


def test_a_bare_list_holds_the_same_as_an_object_with_entries(excerpt, read):
    wrapped, _ = read("alexandria", excerpt("alexandria/derived_alexandria_000.json.bz2"))
    bare, _ = read("alexandria", excerpt("alexandria/optimade_maker_part_1.json.bz2"))
    for name, column in wrapped.columns().items():
        np.testing.assert_array_equal(column, getattr(bare, name), err_msg=name)


def test_the_total_energy_is_read_and_not_a_formation_or_entry_energy(alexandria_file, entry, read):
    # The entry's own energy is set to 999 here; e_form is what another code once trained on.
    batch, _ = read("alexandria", alexandria_file({"entries": [entry(e_form=-0.5)]}))
    assert batch.energy.tolist() == [-7.5]
    assert batch.charge.tolist() == [0]


def test_polymorphs_and_supercells_share_a_group_and_other_compositions_do_not(
    alexandria_file, entry, read
):
    def cell_of(*elements):
        return entry(
            sites=[
                {
                    "species": [{"element": element, "occu": 1.0}],
                    "xyz": [index, 0.0, 0.0],
                    "properties": {"forces": [0.0, 0.0, 0.0]},
                }
                for index, element in enumerate(elements)
            ]
        )

    entries = [
        cell_of("Na", "Cl"),
        cell_of("Cl", "Na"),
        cell_of("Na", "Na", "Cl", "Cl"),
        cell_of("Na", "Cl", "Cl"),
        cell_of("K", "Cl"),
    ]
    group = read("alexandria", alexandria_file({"entries": entries}))[0].group
    assert group[0] == group[1] == group[2]
    assert len(set(group.tolist())) == 3


def test_entries_that_cannot_be_used_are_counted_by_reason(alexandria_file, entry, read):
    bare = entry()
    for site in bare["structure"]["sites"]:
        del site["properties"]
    half, shared = entry(), entry()
    half["structure"]["sites"][1]["properties"]["forces"] = None
    shared["structure"]["sites"][0]["species"][0]["occu"] = 0.5
    entries = [entry(), bare, half, shared, entry(energy_total=None)]
    batch, dropped = read("alexandria", alexandria_file({"entries": entries}))
    assert len(batch) == 1
    assert dropped == {"missing_forces": 2, "disordered_site": 1, "missing_energy": 1}


@pytest.mark.long
def test_many_entries_come_in_bounded_blocks(alexandria_file, entry):
    path = alexandria_file({"entries": [entry()] * 5000})
    blocks = list(get_source("alexandria").read(path, None))
    assert [block.rows for block in blocks] == [4096, 904]


def test_another_layout_is_named_with_the_material(alexandria_file, entry, read):
    odd = entry(stress=[[1, 2], [3, 4]], mat_id="agm42")
    with pytest.raises(ValueError, match=r"key entries\.1 \(agm42\): 'stress' has shape \(2, 2\)"):
        read("alexandria", alexandria_file({"entries": [entry(), odd]}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"entries": []}, "holds no entries"),
        ({"agm1": [{"steps": []}]}, "the file begins with .*agm1.*expected .*entries"),
        ([3], r"entries\.0: expected an object with 'structure', got 3"),
        ([{"data": {}}], "'structure' is missing, got data"),
    ],
)
def test_a_file_of_something_else_is_named(alexandria_file, read, content, message):
    with pytest.raises(ValueError, match=rf"alexandria_000\.json\.bz2.*{message}"):
        read("alexandria", alexandria_file(content))


def test_forces_that_stand_twice_on_a_site_are_damage(alexandria_file, entry):
    # The reader looks at no site's keys; taking either value would be a guess.
    path = alexandria_file([entry(), entry()])
    text = bz2.decompress(path.read_bytes()).replace(
        b'"forces"', b'"forces": [0, 0, 0], "forces"', 1
    )
    path.write_bytes(bz2.compress(text))
    [block] = get_source("alexandria").read(path, SourceSettings())
    assert dict(block.dropped) == {"damaged_record": 1}
    assert "a key is repeated" in block.damage
    assert len(block.batch) == 1


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.95])
def test_a_cut_off_archive_is_named(alexandria_file, entry, read, keep):
    path = alexandria_file({"entries": [entry()] * 100})
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ValueError, match=r"000\.json\.bz2 is (damaged or cut off|empty)"):
        read("alexandria", path)


def test_an_archive_with_flipped_bytes_is_named(alexandria_file, entry, read):
    path = alexandria_file({"entries": [entry()] * 100})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="is damaged or cut off"):
        read("alexandria", path)


def test_whole_archives_of_cut_off_json_are_named(alexandria_file, entry, read):
    path = alexandria_file({"entries": [entry()] * 3})
    text = bz2.decompress(path.read_bytes())
    path.write_bytes(bz2.compress(text[: int(0.8 * len(text))]))
    with pytest.raises(
        ValueError,
        match=r"JsonDamageError: the file ends inside .* 2 structures could",
    ):
        read("alexandria", path)


@pytest.mark.parametrize(
    ("name", "is_data"),
    [
        ("alexandria_000.json.bz2", True),
        ("alexandria_00000.json.bz2", True),
        ("alexandria_2d_001.json.bz2", True),
        ("alexandria_1d_000.json.bz2", True),
        ("alexandria_ps_000.json.bz2", False),
        ("alexandria_scan_000.json.bz2", False),
        ("alexandria_sample.json.bz2", True),
        ("alexandria_pbe.json.bz2", True),
        ("convex_hull.json.bz2", False),
        ("alexandria_000.json.bz2.part", False),
    ],
)
def test_files_of_other_functionals_are_not_data(name, is_data):
    assert get_source("alexandria").is_data_file(name) == is_data
