"""Conformations that are alike are read at once; whatever is not alike, h5py reads one by one.

Both ways have to give the same bits, the same counts and the same messages, of any file.
"""

import random
import re

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qm7x_properties import write_conformation

from mtlpar.sources import hdf5_alike, qm7x
from mtlpar.sources.base import Piece
from mtlpar.sources.hdf5_alike import AlikeGroups
from mtlpar.sources.registry import get_source
from mtlpar.sources.settings import SourceSettings

KEYS = ("atNUM", "atXYZ", "ePBE0+MBD", "totFOR")
MOLECULE = [f"Geom-m1-i1-c1-{name}" for name in ("d1", "d2", "d3", "opt")]


def nothing_is_alike(self, parent, names, keys):
    return np.zeros(len(names), bool), {}


def outcome(path, molecules=10):
    """All that extract learns from a file: columns, counts and messages, bit by bit."""
    raw = path.with_name("1000.xz")
    seen = []
    try:
        for block in get_source("qm7x").read(raw, SourceSettings(), Piece(0, molecules, path)):
            columns = {name: column.tobytes() for name, column in block.batch.columns().items()}
            seen.append((columns, dict(block.dropped), message(block.damage)))
    except ValueError as error:
        seen.append(message(error))
    return seen


def message(error):
    """A message without HDF5's reason in brackets, which depends on what is in its cache."""
    return error and re.sub(r" \([^()]*\)", "", str(error))


@pytest.fixture
def both(tmp_path, monkeypatch):
    """What a file gives at once, and one by one."""
    (tmp_path / "DupMols.dat").write_text("Geom-m1-i9-c1-opt\n")
    # Messages end otherwise where the raw file is missing, too.
    (tmp_path / "1000.xz").touch()

    def read(path):
        at_once = outcome(path)
        with monkeypatch.context() as patch:
            patch.setattr(AlikeGroups, "read", nothing_is_alike)
            return at_once, outcome(path)

    return read


@pytest.fixture
def plain_file(tmp_path):
    """Write an unpacked file as QM7-X has them, of molecules with three atoms, four and so on."""

    def write(molecules=2, *, change=None, **options):
        path = tmp_path / "plain.hdf5"
        with h5py.File(path, "w", **options) as file:
            for molecule in range(1, molecules + 1):
                for index, name in enumerate(MOLECULE):
                    rng = np.random.default_rng(10 * molecule + index)
                    positions, forces = rng.normal(size=(2, molecule + 2, 3))
                    group = file.create_group(f"{molecule}/{name}")
                    numbers = np.arange(1, molecule + 3)
                    write_conformation(group, numbers, positions, rng.normal(size=1), forces)
            if change is not None:
                change(file)
        return path

    return write


def no_single_reads(*args, **kwargs):
    raise AssertionError("a conformation was read by itself")


def test_a_file_as_h5py_writes_it_is_read_at_once(plain_file, both, monkeypatch):
    # Without this test all others would pass with a reader that finds nothing alike.
    path = plain_file()
    at_once, one_by_one = both(path)
    assert at_once == one_by_one
    monkeypatch.setattr(qm7x, "float_array", no_single_reads)
    assert outcome(path) == one_by_one


def test_a_pattern_that_is_known_is_not_taken_from_another_group(plain_file, monkeypatch):
    # Molecules of few conformations would take longer to learn from than to read one by one.
    path = plain_file(1)
    with h5py.File(path) as file:
        groups, molecule = AlikeGroups(file, path), file["1"].id
        alike, numbers = groups.read(molecule, MOLECULE, KEYS)
        monkeypatch.setattr(hdf5_alike, "pattern_of", no_single_reads)
        alike_again, numbers_again = groups.read(molecule, MOLECULE[1:], KEYS)
    assert alike.all()
    assert alike_again.all()
    for key in KEYS:
        np.testing.assert_array_equal(numbers[key][1:], numbers_again[key])


def test_times_of_creation_may_differ(plain_file, both, monkeypatch):
    # Files of older h5py have them. They are changed by hand, as a test cannot wait for seconds.
    def with_times(file):
        for name in MOLECULE:
            group = file[f"1/{name}"]
            forces = group["totFOR"][()]
            del group["totFOR"]
            group.create_dataset("totFOR", data=forces, track_times=True)

    path = plain_file(1, change=with_times)
    # A message of type 0x12 with 8 bytes: version 1, three bytes of nothing, the time.
    start = bytes.fromhex("120008000000000001000000")
    first, *others = path.read_bytes().split(start)
    times = [(1_600_000_000 + index).to_bytes(4, "little") for index in range(len(others))]
    changed = [start + time + rest[4:] for time, rest in zip(times, others, strict=True)]
    path.write_bytes(first + b"".join(changed))
    monkeypatch.setattr(qm7x, "float_array", no_single_reads)
    [(columns, dropped, damage)] = outcome(path)
    assert (len(columns["energy"]) // 8, dropped, damage) == (4, {}, None)


def test_a_conformation_unlike_the_others_is_read_in_its_place(plain_file, both):
    # The second has other atoms, the third its forces elsewhere in the order of keys.
    def change(file):
        group = file[f"1/{MOLECULE[1]}"]
        for key, shape in (("atNUM", 5), ("atXYZ", (5, 3)), ("totFOR", (5, 3))):
            del group[key]
            group[key] = np.ones(shape)
        other = file[f"1/{MOLECULE[2]}"]
        other.move("atC6", "z")

    at_once, one_by_one = both(plain_file(change=change))
    assert at_once == one_by_one
    assert np.frombuffer(at_once[0][0]["num_atoms"], np.int32).tolist() == [3, 5, 3, 3, 4, 4, 4, 4]


@pytest.mark.parametrize("value", [-1, 256, 0.5, np.nan, np.inf])
def test_an_impossible_atomic_number_is_named_in_its_place(plain_file, both, value):
    def change(file):
        for name in MOLECULE:
            group = file[f"2/{name}"]
            numbers = group["atNUM"][()].astype(np.float64)
            numbers[1] = value if name == MOLECULE[1] else numbers[1]
            del group["atNUM"]
            group["atNUM"] = numbers

    at_once, one_by_one = both(plain_file(change=change))
    assert at_once == one_by_one
    [(_, dropped, damage)] = at_once
    assert dropped == {"damaged_record": 1}
    assert f"2/{MOLECULE[1]}: atomic numbers are" in damage


def link_away(file):
    file[f"1/{MOLECULE[1]}/atXYZ"][...] = 7.0
    del file[f"1/{MOLECULE[2]}"]
    file[f"1/{MOLECULE[2]}"] = h5py.SoftLink(f"/1/{MOLECULE[1]}")


def attributes(file):
    for index in range(20):
        file[f"1/{MOLECULE[0]}/totFOR"].attrs[f"unit {index}"] = "eV/Å"


LAYOUTS = {
    "new groups": ({"libver": "latest"}, None),
    "groups and headers of HDF5 1.8": ({"libver": ("v108", "v110")}, None),
    "a user block": ({"userblock_size": 512}, None),
    "order of creation": ({"track_order": True}, None),
    "a soft link": ({}, link_away),
    "attributes": ({}, attributes),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_files_of_another_layout_are_read_all_the_same(plain_file, both, name):
    options, change = LAYOUTS[name]
    at_once, one_by_one = both(plain_file(change=change, **options))
    assert at_once == one_by_one
    [(columns, dropped, damage)] = at_once
    assert (len(columns["energy"]) // 8, dropped, damage) == (8, {}, None)


LAYOUT = st.sampled_from(
    [
        {},
        {},
        {"chunks": True},
        {"chunks": True, "compression": "gzip"},
        {"chunks": True, "shuffle": True, "fletcher32": True},
        {"compact": True},
        {"track_times": True},
    ]
)
DTYPE = st.sampled_from(["<f8", "<f8", "<f4", ">f8", "<i8", "<i4", ">i2", "<u8", "u1", "<f2"])


@st.composite
def conformations(draw):
    """Layout and dtype of each dataset, mostly the same for all conformations of a molecule."""
    usual = [(draw(LAYOUT), draw(DTYPE)) for _ in KEYS]
    return [
        usual if draw(st.integers(0, 3)) else [(draw(LAYOUT), draw(DTYPE)) for _ in KEYS]
        for _ in range(draw(st.integers(1, 5)))
    ]


def write_layouts(path, libver, molecules, seed):
    rng = np.random.default_rng(seed)
    with h5py.File(path, "w", libver=libver) as file:
        for molecule, layouts in enumerate(molecules, start=1):
            for index, datasets in enumerate(layouts):
                size = molecule + 1
                group = file.create_group(f"{molecule}/Geom-m{molecule}-i1-c1-d{index}")
                shapes = ((size,), (size, 3), (1,), (size, 3))
                for key, shape, (layout, dtype) in zip(KEYS, shapes, datasets, strict=True):
                    values = rng.normal(scale=50, size=shape).astype(dtype)
                    if key == "atNUM":
                        values = rng.integers(1, 90, shape).astype(dtype)
                    write_dataset(group, key, values, **layout)


def write_dataset(group, key, values, *, compact=False, **layout):
    if not compact:
        group.create_dataset(key, data=values, **layout)
        return
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_layout(h5py.h5d.COMPACT)
    space, kind = h5py.h5s.create_simple(values.shape), h5py.h5t.py_create(values.dtype)
    dataset = h5py.h5d.create(group.id, key.encode(), kind, space, creation)
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, values)


@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    libver=st.sampled_from(["earliest", "earliest", ("earliest", "v108"), "latest"]),
    molecules=st.lists(conformations(), min_size=1, max_size=2),
    seed=st.integers(0, 1000),
)
def test_any_layout_gives_the_same_both_ways(tmp_path, both, libver, molecules, seed):
    path = tmp_path / "plain.hdf5"
    write_layouts(path, libver, molecules, seed)
    at_once, one_by_one = both(path)
    assert at_once == one_by_one
    assert sum(map(len, molecules)) == len(at_once[0][0]["energy"]) // 8


def test_a_flipped_bit_gives_the_same_both_ways(plain_file, both):
    # Most bits are of datasets that nothing reads, so the ones in between are tried more often: the
    # groups and the headers of datasets, which are not zero.
    path = plain_file(1)
    content = path.read_bytes()
    places = [place for place, byte in enumerate(content) if byte]
    dice = random.Random(0)
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(30):
            spoilt = bytearray(content)
            place, bit = dice.choice(places), dice.randrange(8)
            spoilt[place] ^= 1 << bit
            path.write_bytes(spoilt)
            at_once, one_by_one = both(path)
            assert at_once == one_by_one, f"bit {bit} of byte {place}"


def test_a_file_that_was_cut_off_or_goes_on_gives_the_same_both_ways(plain_file, both):
    path = plain_file(1)
    content = path.read_bytes()
    for part in range(1, 8):
        path.write_bytes(content[: len(content) * part // 8])
        at_once, one_by_one = both(path)
        assert at_once == one_by_one
        assert "is damaged or cut off" in at_once[-1]
    path.write_bytes(content + bytes(100))
    at_once, one_by_one = both(path)
    assert at_once == one_by_one
    assert "what follows is not read" in at_once[-1]


def test_an_address_behind_the_announced_end_is_left_to_h5py(plain_file, both):
    # Bytes are there, so nothing but the announced end stands against reading them.
    places = {}

    def note(file):
        found = file[f"1/{MOLECULE[1]}/totFOR"].id
        places["header"] = h5py.h5o.get_info(found).addr
        places["data"] = found.get_offset()

    path = plain_file(1, change=note)
    content = path.read_bytes()
    header = content[places["header"] : places["header"] + 200]
    address = places["header"] + header.index(places["data"].to_bytes(8, "little"))
    moved = len(content).to_bytes(8, "little")
    path.write_bytes(content[:address] + moved + content[address + 8 :] + bytes(1000))
    at_once, one_by_one = both(path)
    assert at_once == one_by_one
    assert at_once[0][1] == {"damaged_record": 1}
