"""The quick way through JSON gives what the careful one gives, to the last bit and the last row."""

import bz2
import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtlpar.sources import pymatgen_json
from mtlpar.sources.compressed import read_bz2
from mtlpar.sources.json_members import MemberRun
from mtlpar.sources.registry import get_source
from mtlpar.sources.settings import SourceSettings

numbers = st.floats(-1e6, 1e6) | st.integers(-1000, 1000)
vectors = st.lists(numbers, min_size=3, max_size=3)
# Each spoils a frame in one way: what is missing, of another shape with the same count of numbers,
# of another type, or in a place where a mistake in one site could make up for one in another.
SPOILERS = {
    "nothing": lambda frame: None,
    "no stress": lambda frame: frame.update(stress=None),
    "no forces": lambda frame: frame.update(force=None),
    "a force without numbers": lambda frame: frame["force"].__setitem__(0, None),
    "no energy": lambda frame: frame.pop("uncorrected_total_energy"),
    "energy of a wrong type": lambda frame: frame.update(uncorrected_total_energy=True),
    "energy in a string": lambda frame: frame.update(uncorrected_total_energy="-7.5"),
    "forces transposed": lambda frame: frame.update(
        force=[list(row) for row in zip(*frame["force"], strict=True)]
    ),
    "forces flat": lambda frame: frame.update(
        force=[number for row in frame["force"] for number in row]
    ),
    "one force less": lambda frame: frame["force"].pop(),
    "xyz nested": lambda frame: frame["structure"]["sites"][0].update(xyz=[[1.0, 2.0, 3.0]]),
    "fractions only": lambda frame: [
        site.update(abc=site.pop("xyz")) for site in frame["structure"]["sites"]
    ],
    "a slab": lambda frame: frame["structure"]["lattice"].update(pbc=[True, True, False]),
    "periodic as said": lambda frame: frame["structure"]["lattice"].update(pbc=[True] * 3),
    "odd periodicity": lambda frame: frame["structure"]["lattice"].update(pbc=[True, None, 3]),
    "a shared and an empty site": lambda frame: frame["structure"]["sites"][0]["species"].append(
        frame["structure"]["sites"][1]["species"].pop()
    ),
    "a vacancy": lambda frame: frame["structure"]["sites"][0]["species"][0].update(occu=0.5),
    "an unknown element": lambda frame: frame["structure"]["sites"][0]["species"][0].update(
        element="Qq"
    ),
    "a matrix of two rows": lambda frame: frame["structure"]["lattice"]["matrix"].pop(),
    "no sites": lambda frame: frame["structure"].pop("sites"),
    "stress of another shape": lambda frame: frame.update(stress=[[1.0] * 9]),
    "a large number": lambda frame: frame.update(uncorrected_total_energy=10**25),
}


def outcome(path):
    """Everything that a reader says: the bytes of all columns, drops and damage."""
    blocks = list(get_source("mptrj").read(path, SourceSettings()))
    return [
        ({name: column.tobytes() for name, column in block.batch.columns().items()},
         dict(block.dropped), block.damage)
        for block in blocks
    ]  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_both_ways_agree_on_regular_and_on_spoilt_frames(mptrj_file, frame, monkeypatch, data):
    frames = {}
    for index in range(data.draw(st.integers(1, 4))):
        one = copy.deepcopy(frame())
        one["uncorrected_total_energy"] = data.draw(numbers)
        one["force"] = [data.draw(vectors), data.draw(vectors), data.draw(vectors)]
        one["structure"]["sites"].append(copy.deepcopy(one["structure"]["sites"][0]))
        one["structure"]["sites"][2]["xyz"] = data.draw(vectors)
        SPOILERS[data.draw(st.sampled_from(sorted(SPOILERS)))](one)
        frames[f"frame-{index}"] = one
    path = mptrj_file({"mp-1": frames, "mp-2": {"last": frame()}})
    quick = outcome(path)
    with monkeypatch.context() as patch:
        patch.setattr(pymatgen_json, "gather_quickly", lambda document, gather: None)
        careful = outcome(path)
    assert quick == careful


@pytest.mark.parametrize(
    "key", ["uncorrected_total_energy", "structure", "lattice", "matrix", "sites", "xyz", "element"]
)
def test_a_key_that_stands_twice_is_damage_either_way(mptrj_file, frame, monkeypatch, key):
    # simdjson would take the first value, orjson the last: a label that nobody chose.
    text = json.dumps({"mp-1": {"a": frame()}, "mp-2": {"b": frame()}})
    path = mptrj_file(text.replace(f'"{key}"', f'"{key}": null, "{key}"', 1))
    quick = outcome(path)
    with monkeypatch.context() as patch:
        patch.setattr(pymatgen_json, "gather_quickly", lambda document, gather: None)
        assert outcome(path) == quick
    [(_, dropped, damage)] = quick
    assert dropped == {"damaged_record": 1}
    assert "a key is repeated in bytes 1 to" in damage


@pytest.mark.parametrize("spoiler", ["a shared and an empty site", "forces transposed"])
def test_two_mistakes_do_not_make_up_for_each_other(mptrj_file, frame, read, spoiler):
    # Three atoms: nine numbers are there either way round, and three species on three sites.
    one = frame()
    SPOILERS[spoiler](one)
    if spoiler == "forces transposed":
        with pytest.raises(ValueError, match=r"'forces' has shape \(3, 2\), expected \(2, 3\)"):
            read("mptrj", mptrj_file({"mp-1": {"a": one}}))
    else:
        batch, dropped = read("mptrj", mptrj_file({"mp-1": {"a": one, "b": frame()}}))
        assert (len(batch), dropped) == (1, {"disordered_site": 1})


def test_regular_crystals_go_the_quick_way(
    mptrj_file, alexandria_file, frame, entry, read, monkeypatch
):
    # The careful way would read them as well, several times slower, and nobody would notice.
    def refuse(run, brackets):
        raise AssertionError("parsed into dictionaries")

    monkeypatch.setattr(MemberRun, "parse", refuse)
    assert len(read("mptrj", mptrj_file({"mp-1": {"a": frame(), "b": frame(stress=None)}}))[0]) == 2
    assert len(read("alexandria", alexandria_file({"entries": [entry()] * 3}))[0]) == 3


def test_a_number_in_a_string_is_damage(mptrj_file, frame, read):
    path = mptrj_file({"mp-1": {"a": frame(uncorrected_total_energy="-7.5")}})
    with pytest.raises(ValueError, match="key mp-1/a: 'energy' is not an array of numbers"):
        read("mptrj", path)


@pytest.mark.parametrize("pbc", [[True, None, True], [True, True], 1, [2, 1, 1]])
def test_a_periodicity_that_is_none_is_named(mptrj_file, frame, read, pbc):
    odd = frame()
    odd["structure"]["lattice"]["pbc"] = pbc
    with pytest.raises(ValueError, match=r"key mp-1/a: 'lattice.pbc' is .* expected three"):
        read("mptrj", mptrj_file({"mp-1": {"a": odd}}))


def test_bzip2_in_several_streams_is_read_to_the_end(alexandria_file, entry, read):
    # Parallel compressors write one stream for every block.
    path = alexandria_file([])
    text = json.dumps([entry()] * 200).encode()
    streams = [bz2.compress(text[start : start + 1000]) for start in range(0, len(text), 1000)]
    path.write_bytes(b"".join(streams))
    assert len(read("alexandria", path)[0]) == 200
    path.write_bytes(b"".join(streams) + b"padding")
    assert b"".join(read_bz2(path)) == text
    path.write_bytes(b"".join(streams)[:-5])
    with pytest.raises(ValueError, match="EOFError: the file ends before its compressed stream"):
        read("alexandria", path)
