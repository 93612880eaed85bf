"""Every reader against every way to spoil its file: damage is named, and no row goes unseen.

The files are small and in the native formats. A reader may raise nothing but a ValueError that
names the file, and where it finds nothing wrong all rows must be there. `tests/unit/extract` claims
the same of whole runs.
"""

import bz2
import io
import json
import lzma
import random
import re
import zipfile
from collections import Counter
from contextlib import nullcontext

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from mtlpar.extract.checks import check
from mtlpar.sources.registry import define_custom_sources, get_source
from mtlpar.sources.settings import CustomSource, SourceSettings

HDF5 = ("ani1x", "qm7x", "transition1x")
JSON = ("mptrj", "alexandria", "alexandria_paths")
ASE = ("xyz", "xyz_packed", "database")
ALL = (*HDF5, *JSON, *ASE)
ROWS = {
    "ani1x": 52, "qm7x": 9, "transition1x": 63, "mptrj": 12, "alexandria": 12,
    "alexandria_paths": 12, "xyz": 10, "xyz_packed": 10, "database": 10,
}  # fmt: skip


@pytest.fixture(autouse=True)
def custom_sources():
    """Sources that only a configuration knows, in the formats of ASE."""
    formats = {"xyz": "extxyz", "xyz_packed": "extxyz", "database": "db"}
    define_custom_sources(
        {
            name: CustomSource(format=one, files=("*",), level_of_theory="any")
            for name, one in formats.items()
        }
    )
    yield
    define_custom_sources({})


def crystal_json(source, frame, entry):
    """Twelve crystals as one of the JSON sources writes them; each value can be changed."""
    if source == "alexandria":
        return {"entries": [entry(mat_id=f"agm{index}") for index in range(12)]}
    if source == "mptrj":
        return {f"mp-{index}": {"a": frame(), "b": frame()} for index in range(6)}
    one = frame()
    step = {"structure": one["structure"], "energy": -7.5, "forces": one["force"], "stress": None}
    return {f"agm{index}": [{"steps": [step, step, step]}] for index in range(4)}


def write_ase(folder, source):
    """Ten frames of a molecule, each with its energy and forces."""
    rng = np.random.default_rng(0)
    frames = []
    for index in range(10):
        atoms = Atoms("OH2", positions=rng.normal(size=(3, 3)))
        forces = rng.normal(size=(3, 3))
        atoms.calc = SinglePointCalculator(atoms, energy=-10.0 - index, forces=forces)
        frames.append(atoms)
    path = folder / {"xyz": "a.extxyz", "xyz_packed": "a.extxyz.xz", "database": "a.db"}[source]
    if source == "database":
        with ase.db.connect(path) as database:
            for atoms in frames:
                database.write(atoms)
    else:
        text = io.StringIO()
        ase.io.write(text, frames, format="extxyz")
        path.write_bytes(pack(source, text.getvalue().encode()))
    return path


@pytest.fixture
def native(tmp_path, ani1x_file, qm7x_file, transition1x_file, frame, entry):
    """Write a small file of a source, with a change to its content."""

    def write(source, change=None):
        if source == "ani1x":
            return ani1x_file({"C1H2O1": 5, "H2O1": 40, "H4O2": 7}, change=change)
        if source == "qm7x":
            names = {m: [f"Geom-m{m}-i1-c1-{u}" for u in ("opt", "d1", "d2")] for m in "123"}
            return qm7x_file(names, change=change)
        if source == "transition1x":
            return transition1x_file(("train", "val", "test"), change=change)
        if source in ASE:
            return write_ase(tmp_path, source)
        content = crystal_json(source, frame, entry)
        if change is not None:
            change(content)
        name = {"mptrj": "MPtrj_2022.9_full.json", "alexandria": "alexandria_000.json.bz2"}
        path = tmp_path / name.get(source, "pbe_0000.json.bz2")
        path.write_bytes(pack(source, json.dumps(content).encode()))
        return path

    return write


def pack(source, content):
    """Compress as the source does."""
    if source in ("qm7x", "xyz_packed"):
        return lzma.compress(content, preset=0)
    return bz2.compress(content) if source.startswith("alexandria") else content


def unpack(source, content):
    """What `pack` compressed."""
    if source in ("qm7x", "xyz_packed"):
        return lzma.decompress(content)
    return bz2.decompress(content) if source.startswith("alexandria") else content


def account(source, path):
    """Rows, rows left out by reason, and messages, when damage is skipped as extract does it."""
    reader = get_source(source)
    rows, dropped, errors = 0, Counter(), []
    try:
        pieces = reader.divide(path, 1000) if reader.divide else nullcontext([None])
        with pieces as all_pieces, np.errstate(over="ignore", invalid="ignore"):
            for piece in all_pieces:
                try:
                    some = () if piece is None else (piece,)
                    for block in reader.read(path, SourceSettings(), *some):
                        rows += block.rows
                        dropped += block.dropped + check(block.batch, max_force=1000.0)[1]
                        errors += [ValueError(block.damage)] if block.damage else []
                except ValueError as error:
                    errors.append(error)
    except ValueError as error:
        errors.append(error)
    for error in errors:
        # UnicodeDecodeError and the like are ValueErrors that say nothing to a user.
        assert type(error) is ValueError
        assert str(path) in str(error)
    return rows, dict(dropped), [str(error) for error in errors]


@pytest.mark.parametrize("source", ALL)
def test_a_file_that_is_whole_is_read_without_a_complaint(native, source):
    rows, _, messages = account(source, native(source))
    assert (rows, messages) == (ROWS[source], [])


def zipped(content):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("file", content)
    return stream.getvalue()


FOREIGN = {
    "nothing": lambda content: b"",
    "one byte": lambda content: content[:1],
    "an HTML page": lambda content: b"<!DOCTYPE html><html><body>403 Forbidden</body></html>",
    "a zip archive": zipped,
    "zeros": lambda content: bytes(len(content)),
    "a mark of UTF-16": lambda content: b"\xff\xfe" + content,
    "HDF5 without a body": lambda content: b"\x89HDF\r\n\x1a\n" + bytes(2000),
    "JSON of another kind": lambda content: b'{"status": "error", "message": "not found"}',
}


@pytest.mark.parametrize("wrapped", [False, True], ids=["as it is", "compressed as expected"])
@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("source", ALL)
def test_a_file_of_another_kind_is_named(native, source, kind, wrapped):
    path = native(source)
    content = path.read_bytes()
    if wrapped:
        path.write_bytes(pack(source, FOREIGN[kind](unpack(source, content))))
    else:
        path.write_bytes(FOREIGN[kind](content))
    rows, dropped, messages = account(source, path)
    assert (rows - sum(dropped.values()), len(messages) > 0) == (0, True)


@pytest.mark.parametrize("source", ALL)
def test_a_folder_or_nothing_in_its_place_is_named(native, source):
    path = native(source)
    path.unlink()
    assert account(source, path)[2]
    path.mkdir()
    assert account(source, path)[2]


@pytest.mark.parametrize("spoilt", [b"Geom-m1\xff", b"<html>", b"Geom-m1-i1-c1-opt\0\n"])
def test_a_list_of_duplicates_that_is_none_is_named(native, spoilt):
    path = native("qm7x")
    duplicates = path.with_name("DupMols.dat")
    duplicates.write_bytes(spoilt)
    with pytest.raises(ValueError, match=re.escape(f"{duplicates} line 1 is")) as error:
        list(get_source("qm7x").read(path, SourceSettings()))
    assert error.type is ValueError


@pytest.mark.parametrize("other", ["ani1x", "qm7x", "transition1x", "mptrj", "alexandria"])
@pytest.mark.parametrize("source", ALL)
def test_a_file_of_another_source_is_named(native, source, other):
    path, foreign = native(source), native(other)
    if source == other:
        return
    content = unpack(other, foreign.read_bytes())
    path.write_bytes(pack(source, content))
    rows, dropped, messages = account(source, path)
    assert (rows - sum(dropped.values()), len(messages) > 0) == (0, True)


@pytest.mark.parametrize("source", ALL)
def test_a_file_that_was_cut_off_anywhere_is_named(native, source):
    path = native(source)
    content = path.read_bytes()
    for start, inner in ((content, False), (unpack(source, content), True)):
        for part in range(1, 8):
            # Frames of text have no end mark: nobody can tell a cut between two of the ten, or
            # one inside their last number.
            cut = start[: len(start) * part // 8 - 30]
            path.write_bytes(pack(source, cut) if inner else cut)
            rows, _, messages = account(source, path)
            assert messages, f"cut to {len(cut)} of {len(start)} bytes"
            assert rows <= ROWS[source]


@pytest.mark.parametrize("inner", [False, True], ids=["as it is", "before compression"])
@pytest.mark.parametrize("source", ALL)
def test_a_flipped_bit_is_named_or_costs_no_row(native, source, inner):
    path = native(source)
    content = path.read_bytes()
    plain = unpack(source, content) if inner else content
    dice = random.Random(source)
    for _ in range(12):
        spoilt = bytearray(plain)
        place, bit = dice.randrange(len(spoilt)), dice.randrange(8)
        spoilt[place] ^= 1 << bit
        path.write_bytes(pack(source, bytes(spoilt)) if inner else spoilt)
        rows, _, messages = account(source, path)
        assert messages or rows == ROWS[source], f"bit {bit} of byte {place}"


@pytest.mark.parametrize("source", HDF5)
def test_two_hdf5_files_in_one_are_named_because_hdf5_reads_only_the_first(native, source):
    path = native(source)
    path.write_bytes(2 * path.read_bytes())
    rows, _, messages = account(source, path)
    assert rows == ROWS[source]
    assert "what follows is not read" in messages[0]


@pytest.mark.parametrize("source", ["qm7x", "alexandria", "alexandria_paths", "xyz_packed"])
def test_one_content_in_two_compressed_streams_is_read_whole(native, source):
    path = native(source)
    plain = unpack(source, path.read_bytes())
    path.write_bytes(pack(source, plain[:700]) + pack(source, plain[700:]))
    assert account(source, path)[::2] == (ROWS[source], [])
    # Cut in the middle of the second stream.
    path.write_bytes(path.read_bytes()[:-20])
    assert account(source, path)[2]


# A group of each HDF5 source: its path, names of numbers, positions, energy and forces, its rows.
GROUPS = {
    "ani1x": ("H2O1", "atomic_numbers", "coordinates", "wb97x_dz.energy", "wb97x_dz.forces", 40),
    "qm7x": ("2/Geom-m2-i1-c1-d1", "atNUM", "atXYZ", "ePBE0+MBD", "totFOR", 1),
    "transition1x": (
        "val/CH3/rxn-val", "atomic_numbers", "positions", "wB97x_6-31G(d).energy",
        "wB97x_6-31G(d).forces", 21,
    ),
}  # fmt: skip


def replaced(index, new):
    """A change that puts something else in the place of one array of `GROUPS`."""

    def change(source, file):
        group, *names, _ = GROUPS[source]
        old = file[group][names[index]][()]
        del file[group][names[index]]
        values = new(old)
        if values is not None:
            file[group][names[index]] = values

    return change


def unwritten(source, file):
    group, numbers, *_ = GROUPS[source]
    del file[group][numbers]
    file[group].create_dataset(numbers, shape=(1 << 40,), dtype="u1", chunks=(1 << 16,))


def subgroup(source, file):
    group, numbers, *_ = GROUPS[source]
    del file[group][numbers]
    file[group].create_group(numbers)


NUMBERS, POSITIONS, ENERGY, FORCES = range(4)
WRONG_ARRAYS = {
    "no atomic numbers": replaced(NUMBERS, lambda old: None),
    "no positions": replaced(POSITIONS, lambda old: None),
    "no energy": replaced(ENERGY, lambda old: None),
    "no forces": replaced(FORCES, lambda old: None),
    "an atom less": replaced(NUMBERS, lambda old: old[:-1]),
    "an energy more": replaced(ENERGY, lambda old: np.append(old, 1.0)),
    "no energies": replaced(ENERGY, lambda old: old[:0]),
    "energies in a matrix": replaced(ENERGY, lambda old: np.reshape(old, (1, -1, 1))),
    "forces in two dimensions": replaced(FORCES, lambda old: old[..., :2]),
    "forces of other atoms": replaced(FORCES, lambda old: old[..., :-1, :]),
    "strings": replaced(FORCES, lambda old: np.full(old.shape, b"1.5")),
    "complex numbers": replaced(FORCES, lambda old: old.astype(np.complex64)),
    "records": replaced(ENERGY, lambda old: np.zeros(old.shape, [("a", "f8"), ("b", "f8")])),
    "a negative atomic number": replaced(NUMBERS, lambda old: -old.astype(np.int32)),
    "a large atomic number": replaced(NUMBERS, lambda old: old.astype(np.int32) + 256),
    "half an atomic number": replaced(NUMBERS, lambda old: old + 0.5),
    "no number for an atomic number": replaced(NUMBERS, lambda old: old * np.nan),
    "a group": subgroup,
    "a shape that would fill the memory": unwritten,
}


@pytest.mark.parametrize("name", WRONG_ARRAYS)
@pytest.mark.parametrize("source", HDF5)
def test_a_wrong_array_costs_its_group_and_nothing_else(native, source, name):
    path = native(source, lambda file: WRONG_ARRAYS[name](source, file))
    rows, dropped, messages = account(source, path)
    group, *_, own_rows = GROUPS[source]
    assert any(group in message for message in messages), messages
    assert (rows, dropped["damaged_record"]) == (ROWS[source], own_rows)


def spoilt(index, value):
    """A change that puts a value into the first place of one array of `GROUPS`."""

    def change(source, file):
        group, *names, _ = GROUPS[source]
        array = file[group][names[index]]
        array[(0,) * array.ndim] = value

    return change


UNUSABLE = {
    "non_finite_positions": spoilt(POSITIONS, np.inf),
    "non_finite_energy": spoilt(ENERGY, np.nan),
    "non_finite_forces": spoilt(FORCES, -np.inf),
    "force_too_large": spoilt(FORCES, 1e5),
    "unknown_element": spoilt(NUMBERS, 200),
}


@pytest.mark.parametrize("reason", UNUSABLE)
@pytest.mark.parametrize("source", HDF5)
def test_a_row_with_an_impossible_number_is_counted(native, source, reason):
    path = native(source, lambda file: UNUSABLE[reason](source, file))
    rows, dropped, messages = account(source, path)
    assert (rows, messages) == (ROWS[source], [])
    own = (
        {"ani1x": "non_finite_label"}
        if reason in ("non_finite_energy", "non_finite_forces")
        else {}
    )
    assert dropped[own.get(source, reason)] >= 1


def crystals(source, content):
    """The structure of a record in the middle, and the object that holds its energy and forces."""
    if source == "mptrj":
        frame = content["mp-3"]["b"]
        return frame["structure"], frame, "uncorrected_total_energy", "force"
    if source == "alexandria":
        entry = content["entries"][5]
        return entry["structure"], entry["data"], "energy_total", None
    # The steps of the sample are one object.
    step = content["agm2"][0]["steps"][1] = json.loads(json.dumps(content["agm2"][0]["steps"][1]))
    return step["structure"], step, "energy", "forces"


def in_structure(*path_and_value):
    """A change of one value inside the structure."""

    def change(source, content):
        target, *_ = crystals(source, content)
        *path, last, value = path_and_value
        for key in path:
            target = target[key]
        target[last] = value

    return change


def energy(value):
    """Another energy."""

    def change(source, content):
        _, labels, key, _ = crystals(source, content)
        labels[key] = value

    return change


def forces(value):
    """Other forces on the first atom."""

    def change(source, content):
        structure, labels, _, key = crystals(source, content)
        if key is None:
            structure["sites"][0]["properties"]["forces"] = value
        else:
            labels[key][0] = value

    return change


WRONG_JSON = {
    "energy in a string": energy("-7.5"),
    "energy in a list": energy([-7.5]),
    "energy in an object": energy({}),
    "energy that is true": energy(True),
    "force in a string": forces("abc"),
    "force of strings": forces(["0.1", "0.2", "0.3"]),
    "force of two numbers": forces([0.1, 0.2]),
    "force one level deeper": forces([[0.1, 0.2, 0.3]]),
    "no matrix": in_structure("lattice", {}),
    "matrix in a string": in_structure("lattice", "matrix", "cubic"),
    "matrix of two rows": in_structure("lattice", "matrix", [[1.0, 0, 0], [0, 1.0, 0]]),
    "lattice of nothing": in_structure("lattice", None),
    "sites of nothing": in_structure("sites", None),
    "sites in a number": in_structure("sites", 3),
    "sites in an object": in_structure("sites", {"Na": {}}),
    "a site of nothing": in_structure("sites", 0, None),
    "an element by its number": in_structure("sites", 0, "species", 0, "element", 11),
    "an element in a list": in_structure("sites", 0, "species", 0, "element", ["Na"]),
    "an element that is none": in_structure("sites", 0, "species", 0, "element", "Qq"),
    "a dummy atom": in_structure("sites", 0, "species", 0, "element", "X"),
    "species in a string": in_structure("sites", 0, "species", "Na"),
    "a position in a string": in_structure("sites", 0, "xyz", "0 0 0"),
    "a position of two": in_structure("sites", 0, "xyz", [0.0, 0.0]),
    "a position of nothing": in_structure("sites", 0, "xyz", None),
    "an odd periodicity": in_structure("lattice", "pbc", "xyz"),
}


@pytest.mark.parametrize("name", WRONG_JSON)
@pytest.mark.parametrize("source", JSON)
def test_a_wrong_value_costs_its_record_and_nothing_else(native, source, name):
    path = native(source, lambda content: WRONG_JSON[name](source, content))
    rows, dropped, [message] = account(source, path)
    assert (rows, dropped) == (ROWS[source], {"damaged_record": 1})
    key = {"mptrj": "mp-3/b", "alexandria": "entries.5", "alexandria_paths": "agm2.0.steps.1"}
    assert key[source] in message


IMPOSSIBLE = {
    "non_finite_positions": in_structure("sites", 0, "xyz", [None, 0.0, 0.0]),
    "non_finite_cell": in_structure("lattice", "matrix", 0, [None, 0.0, 0.0]),
    "singular_cell": in_structure("lattice", "matrix", [[0.0, 0.0, 0.0]] * 3),
    "force_too_large": forces([1e300, 0.0, 0.0]),
    "missing_forces": forces([None, 0.0, 0.0]),
    "missing_energy": energy(None),
    "disordered_site": in_structure("sites", 0, "species", 0, "occu", 0.5),
}


@pytest.mark.parametrize("reason", IMPOSSIBLE)
@pytest.mark.parametrize("source", JSON)
def test_a_record_that_cannot_be_used_is_counted(native, source, reason):
    path = native(source, lambda content: IMPOSSIBLE[reason](source, content))
    rows, dropped, messages = account(source, path)
    assert (rows, messages) == (ROWS[source], [])
    # In float32 a force that large is infinite.
    expected = "non_finite_forces" if reason == "force_too_large" else reason
    assert dropped == {expected: 1}


WRONG_TEXT = {
    "a comma too many": lambda text: text[:-1] + "," + text[-1],
    "a bracket too many": lambda text: text + text[-1],
    "the same once more": lambda text: text + text,
    "a word behind": lambda text: text + " end",
    "no number": lambda text: text.replace("-7.5", "NaN", 1),
    "a number that is none": lambda text: text.replace("-7.5", "-7.5.5", 1),
    "a number beyond any": lambda text: text.replace("-7.5", "1e999", 1),
    "brackets in brackets": lambda text: text.replace("-7.5", "[" * 1010 + "]" * 1010, 1),
    "brackets without end": lambda text: text.replace("-7.5", "[" * 5000 + "]" * 5000, 1),
    "a key twice": lambda text: text.replace('"structure"', '"structure": 1, "structure"', 1),
    "half a character": lambda text: text.replace("Na", "\udcc3", 1),
}


@pytest.mark.parametrize("name", WRONG_TEXT)
@pytest.mark.parametrize("source", JSON)
def test_what_is_no_json_is_named_and_costs_no_more_than_its_member(native, source, name):
    path = native(source)
    text = WRONG_TEXT[name](unpack(source, path.read_bytes()).decode())
    path.write_bytes(pack(source, text.encode(errors="surrogateescape")))
    rows, dropped, messages = account(source, path)
    assert messages
    # A member is a material or an entry.
    assert rows - sum(dropped.values()) >= ROWS[source] - MEMBER_ROWS[source]


MEMBER_ROWS = {"mptrj": 2, "alexandria": 1, "alexandria_paths": 3}
UNPAIRED = {
    "an object that ends early": lambda text: text.replace("-7.5", '0} {"a": -7.5', 1),
    "a bracket for another": lambda text: text.replace('"xyz": [', '"xyz": {', 1),
    "two lost quotes": lambda text: text.replace('"xyz"', "xyz", 1),
    "a colon for a comma": lambda text: text.replace("-7.5,", "-7.5:", 1),
}


@pytest.mark.parametrize("name", UNPAIRED)
@pytest.mark.parametrize("source", JSON)
def test_rows_of_a_member_that_is_no_json_are_counted_all_the_same(native, source, name):
    # Its brackets and quotes tell nothing about them any more.
    path = native(source)
    text = UNPAIRED[name](unpack(source, path.read_bytes()).decode())
    path.write_bytes(pack(source, text.encode()))
    rows, dropped, messages = account(source, path)
    assert messages
    assert rows == ROWS[source]
    assert dropped["damaged_record"] == MEMBER_ROWS[source]
