import json

import numpy as np
import pytest

from mtlpar.core.hashing import name_hash
from mtlpar.sources.registry import get_source
from mtlpar.sources.settings import SourceSettings


def test_real_frames_agree_with_an_independent_reading(excerpt, read):
    # The same eleven frames in an ASE database that others wrote, with the stress in eV/Å^3.
    from ase.db import connect

    batch, dropped = read("mptrj", excerpt("mptrj/derived_native_layout.json"))
    assert dropped == {}
    assert len(batch) == 11
    rows = list(connect(excerpt("mptrj/10_thin_mp_traj_systems.db")).select())
    found = {
        (tuple(batch.atomic_numbers[first:last]), round(float(batch.energy[index]), 6)): index
        for index, (first, last) in enumerate(
            zip(batch.offsets[:-1], batch.offsets[1:], strict=True)
        )
    }
    assert len(found) == 11
    for row in rows:
        index = found[tuple(row.numbers), round(row.energy, 6)]
        assert batch.energy[index] == pytest.approx(row.energy, abs=1e-9)
        atoms = slice(*batch.offsets[index : index + 2])
        np.testing.assert_allclose(batch.positions[atoms], row.positions, atol=1e-6)
        np.testing.assert_allclose(batch.forces[atoms], row.forces, atol=1e-6)
        np.testing.assert_allclose(batch.cell[index], row.cell, atol=1e-6)
        np.testing.assert_allclose(batch.stress[index], row.stress, rtol=1e-5, atol=1e-9)
        assert batch.stress_mask[index] == 1
    assert batch.spin.tolist() == [0] * 11


def test_the_default_energy_is_the_uncorrected_one(excerpt, read):
    path = excerpt("mptrj/derived_native_layout.json")
    raw, _ = read("mptrj", path)
    corrected, _ = read("mptrj", path, mptrj_energy="corrected")
    # Ba6Ir4Sm2O18: 18 oxygen atoms at -0.687 eV each, by MP2020.
    index = int(np.flatnonzero(raw.num_atoms == 30)[0])
    assert corrected.energy[index] - raw.energy[index] == pytest.approx(18 * -0.687)


def test_the_level_of_theory_says_which_energy():
    source = get_source("mptrj")
    assert "without corrections" in source.theory(SourceSettings())
    assert "MP2020" in source.theory(SourceSettings(mptrj_energy="corrected"))


def test_frames_of_a_material_share_a_group(mptrj_file, frame, read):
    # Frame keys name tasks, which differ within a material: the outer key is the material.
    content = {"mp-1": {"mp-77-0-0": frame(), "mp-78-1-3": frame()}, "mp-2": {"mp-77-0-1": frame()}}
    batch, _ = read("mptrj", mptrj_file(content))
    first, second = name_hash("mptrj", "mp-1"), name_hash("mptrj", "mp-2")
    assert batch.group.tolist() == [first, first, second]


def test_stress_changes_unit_sign_and_order(mptrj_file, frame, read):
    batch, _ = read("mptrj", mptrj_file({"mp-1": {"a": frame(), "b": frame(stress=None)}}))
    # 10 kbar is 1 GPa; VASP counts compression as positive. All six numbers differ.
    expected = np.array([10, 20, 30, 3, 2, 1]) * -0.1 / 160.21766208
    np.testing.assert_allclose(batch.stress[0], expected, rtol=1e-6)
    np.testing.assert_array_equal(batch.stress[1], 0)
    assert batch.stress_mask.tolist() == [1, 0]


def test_cartesian_positions_come_from_xyz_or_from_fractions(mptrj_file, frame, read):
    fractional = frame()
    for site, abc in zip(fractional["structure"]["sites"], ([0, 0, 0], [0.5, 0, 0.5]), strict=True):
        del site["xyz"]
        site["abc"] = abc
    batch, _ = read("mptrj", mptrj_file({"mp-1": {"a": frame(), "b": fractional}}))
    # The lattice has one oblique vector, so that abc @ matrix and matrix @ abc differ.
    np.testing.assert_allclose(batch.positions[1], [1, 2, 3])
    np.testing.assert_allclose(batch.positions[3], [2.5, 0, 3])


def test_periodicity_is_that_of_the_lattice_and_full_by_default(mptrj_file, frame, read):
    slab = frame()
    slab["structure"]["lattice"]["pbc"] = [True, True, False]
    batch, _ = read("mptrj", mptrj_file({"mp-1": {"a": frame(), "b": slab}}))
    assert batch.pbc.tolist() == [[1, 1, 1], [1, 1, 0]]


def without(frame, key):
    return {name: value for name, value in frame.items() if name != key}


def test_frames_that_cannot_be_used_are_counted_by_reason(mptrj_file, frame, read):
    shared, vacant = frame(), frame()
    shared["structure"]["sites"][0]["species"].append({"element": "K", "occu": 0.5})
    vacant["structure"]["sites"][1]["species"][0]["occu"] = 0.5
    frames = [
        frame(),
        shared,
        vacant,
        frame(force=None),
        without(frame(), "force"),
        frame(force=[[0.0, 0.0, None], [0.0, 0.0, 0.0]]),
        frame(force=[None, None]),
        frame(uncorrected_total_energy=None),
        without(frame(), "uncorrected_total_energy"),
    ]
    content = {"mp-1": {str(index): value for index, value in enumerate(frames)}}
    batch, dropped = read("mptrj", mptrj_file(content))
    assert len(batch) == 1
    assert dropped == {"disordered_site": 2, "missing_forces": 4, "missing_energy": 2}


def test_deuterium_is_hydrogen(mptrj_file, frame, read):
    heavy = frame()
    heavy["structure"]["sites"][0]["species"][0]["element"] = "D"
    batch, _ = read("mptrj", mptrj_file({"mp-1": {"a": heavy}}))
    assert batch.atomic_numbers.tolist() == [1, 17]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"force": [[0.0, 0.0, 0.0]]}, r"'forces' has shape \(1, 3\), expected \(2, 3\)"),
        ({"force": 7}, r"'forces' has shape \(\), expected \(2, 3\)"),
        ({"force": [[0.0], [0.0, 1.0]]}, "'forces' is not an array of numbers"),
        ({"stress": [1, 2, 3]}, r"'stress' has shape \(3,\), expected \(3, 3\)"),
        ({"uncorrected_total_energy": "low"}, "not an array of numbers"),
        ({"structure": {"sites": []}}, "'lattice' is missing"),
        ({"structure": {"lattice": {"matrix": [1]}, "sites": []}}, r"expected \(3, 3\)"),
    ],
)
def test_another_layout_is_named_with_file_and_key(mptrj_file, frame, read, changes, message):
    path = mptrj_file({"mp-1": {"mp-7-0-0": frame(**changes)}})
    with pytest.raises(ValueError, match=rf"full\.json, key mp-1/mp-7-0-0: .*{message}"):
        read("mptrj", path)


@pytest.mark.parametrize("species", [[{"element": "Qq", "occu": 1}], [{"occu": 1}], None])
def test_a_site_without_an_element_is_named(mptrj_file, frame, read, species):
    odd = frame()
    odd["structure"]["sites"][1]["species"] = species
    with pytest.raises(ValueError, match="site 1: expected one species"):
        read("mptrj", mptrj_file({"mp-1": {"a": odd}}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds no frames"),
        ({"mp-1": [1, 2]}, r"key mp-1: expected an object of frames, got \[1, 2\]"),
        ({"mp-1": {"a": 3}}, r"key mp-1/a: expected an object with 'structure', got 3"),
        ({"mp-1": {"a": {"force": []}}}, "'structure' is missing, got force"),
        ("", "the file is empty, expected"),
        ("[]", r"the file begins with b'\[\]', expected \{material"),
    ],
)
def test_a_file_of_something_else_is_named(mptrj_file, read, content, message):
    with pytest.raises(ValueError, match=message):
        read("mptrj", mptrj_file(content))


def test_a_cut_off_file_says_how_far_it_was_read(mptrj_file, frame, read):
    text = json.dumps({f"mp-{index}": {"a": frame(), "b": frame()} for index in range(4)})
    path = mptrj_file(text[: int(0.8 * len(text))])
    # Three materials are whole.
    with pytest.raises(ValueError, match=r"6 structures could be read, the last key .* mp-2/b"):
        read("mptrj", path)


@pytest.mark.parametrize(
    "text",
    ['{"mp-1": {"a": FRAME, "a": FRAME}}', '{"mp-1": {"a": FRAME}, "mp-1": {"b": FRAME}}'],
)
def test_a_repeated_key_is_an_error_because_one_of_its_values_would_be_lost(
    mptrj_file, frame, read, text
):
    with pytest.raises(ValueError, match="a key is repeated"):
        read("mptrj", mptrj_file(text.replace("FRAME", json.dumps(frame()))))


def test_a_frame_that_is_no_json_costs_its_material_and_is_counted(mptrj_file, frame):
    good, bad = json.dumps({"a": frame()}), json.dumps({"a": frame(), "b": frame(stress="BAD")})
    text = f'{{"mp-1": {good}, "mp-2": {bad}, "mp-3": {good}}}'.replace('"BAD"', "nan")
    [block] = get_source("mptrj").read(mptrj_file(text), SourceSettings())
    assert len(block.batch) == 2
    assert block.dropped == {"damaged_record": 2}
    assert "no JSON in bytes" in block.damage


def test_what_python_writes_for_no_number_costs_nothing_in_a_field_that_is_not_read(
    mptrj_file, frame
):
    # JSON has no NaN: all of mp-2 was gone. Text that looks alike has to stay as it is.
    bad = frame(magmom=[float("nan")] * 2, e_per_atom_relaxed=float("-inf"))
    bad["note"] = 'a "quoted": [NaN, Infinity] in text'
    text = json.dumps({"mp-1": {"a": frame()}, "mp-2": {"a": bad, "b": frame()}})
    [block] = get_source("mptrj").read(mptrj_file(text), SourceSettings())
    assert (len(block.batch), dict(block.dropped), block.damage) == (3, {}, None)


@pytest.mark.parametrize("value", ["1e999", r'"\ud800"', r'{"\udc00": -1e400}'])
def test_what_only_python_reads_costs_nothing_in_a_field_that_is_not_read(mptrj_file, frame, value):
    # Python's own parser takes both, and all of mp-2 was gone.
    members = json.dumps({"mp-1": {"a": frame()}, "mp-2": {"a": {**frame(), "note": 7.25}}})
    [block] = get_source("mptrj").read(mptrj_file(members.replace("7.25", value)), SourceSettings())
    assert (len(block.batch), dict(block.dropped), block.damage) == (2, {}, None)


@pytest.mark.parametrize("key", ["uncorrected_total_energy", "force", "stress"])
def test_a_label_that_is_no_number_costs_its_frame_and_is_named(mptrj_file, frame, key):
    bad = json.dumps({"a": {**frame(), key: float("nan")}, "b": frame()})
    [block] = get_source("mptrj").read(mptrj_file(f'{{"mp-1": {bad}}}'), SourceSettings())
    assert (len(block.batch), dict(block.dropped)) == (1, {"damaged_record": 1})
    name = "energy" if key.endswith("energy") else key
    assert f"'{name}" in block.damage
    assert "got 'NaN'" in block.damage
