"""Cuts fall between members, whatever the strings in a document hold."""

import json
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtlpar.sources.ahead import ahead
from mtlpar.sources.json_members import DepthScanner, JsonDamageError, MemberRun, Members

OBJECT = re.compile(rb"\s*\{")
# Strings full of what could be mistaken for structure: quotes, brackets, escapes at any place.
TEXTS = st.text(alphabet='"\\{}[],: aé\n', max_size=8)
VALUES = st.recursive(
    st.none() | st.integers(-9, 9) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
FRAMES = st.dictionaries(TEXTS, st.dictionaries(TEXTS, VALUES, max_size=3), max_size=3)
DOCUMENTS = st.dictionaries(TEXTS, FRAMES, max_size=6)


def chunked(text, size):
    return [text[start : start + size] for start in range(0, len(text), size)]


def first_and_rest(text, size):
    # The head must stand in the first chunk, as it does in a real one.
    return [text[:1], *chunked(text[1:], size)]


def runs_of(text, size):
    members = Members(first_and_rest(text, size), OBJECT, expected="{}")
    return list(members.runs(members.chunks, offset=1))


@pytest.mark.long
@given(DOCUMENTS, st.integers(1, 40), st.booleans(), st.sampled_from([None, 1]))
def test_runs_hold_every_member_once_and_in_order(document, size, ascii_only, indent):
    text = json.dumps(document, ensure_ascii=ascii_only, indent=indent).encode()
    runs = runs_of(text, size)
    found = [item for run in runs for item in run.parse(b"{}").items()]
    assert found == list(document.items())
    assert sum(len(run.ends) for run in runs) == len(document)


@pytest.mark.long
@given(DOCUMENTS, st.integers(1, 40), st.integers(1, 60))
def test_pieces_between_cuts_hold_every_member_once(document, size, every_bytes):
    text = json.dumps(document).encode()
    members = Members(first_and_rest(text, size), OBJECT, expected="{}")
    cuts = [1, *members.cuts(members.chunks, every_bytes=every_bytes), len(text)]
    found = []
    for start, stop in pairwise(cuts):
        piece = members.runs(
            chunked(text[start:stop], size), offset=start, to_end=stop == len(text)
        )
        found += [item for run in piece for item in run.parse(b"{}").items()]
    assert found == list(document.items())


@pytest.mark.long
@given(DOCUMENTS.filter(bool), st.integers(1, 40), st.data())
def test_a_document_that_is_cut_off_is_never_taken_for_whole(document, size, data):
    text = json.dumps(document).encode()
    cut = text[: data.draw(st.integers(1, len(text) - 1))]
    with pytest.raises(JsonDamageError):
        runs_of(cut, size)


@pytest.mark.parametrize("tail", ['{"mp-9": {}}', "x", "}", ', "mp-9": {}'])
def test_what_follows_the_end_is_not_left_unread(tail):
    with pytest.raises(JsonDamageError, match="follows the last member"):
        runs_of(b'{"mp-1": {"a": {}}}' + tail.encode(), 7)


def test_members_that_follow_a_damaged_one_can_still_be_parsed():
    [run] = runs_of(b'{"a": {"x": {}}, "b": {"x": {}, "y": {"z": nan}}, "c": {}}', 99)
    with pytest.raises(JsonDamageError, match=r"no JSON in bytes 1 to \d+"):
        run.parse(b"{}")
    first, second, third = run.members()
    assert first.parse(b"{}") == {"a": {"x": {}}}
    assert third.parse(b"{}") == {"c": {}}
    with pytest.raises(JsonDamageError):
        second.parse(b"{}")


@pytest.mark.parametrize("number", [b"nan", b"-NaN1", b"1.", b"01", b"NaN NaN"])
def test_numbers_that_are_no_json_are_refused(number):
    with pytest.raises(JsonDamageError):
        MemberRun(b'"a": {"x": ' + number + b"}", 0, []).parse(b"{}")


@pytest.mark.parametrize("text", ['{"x": NaN}', "[-Infinity,NaN , Infinity]", '[[NaN], "NaN"]'])
def test_what_python_writes_for_no_number_is_read_as_text(text):
    # Not as null, which would make a missing label of a wrong one.
    expected = json.loads(text, parse_constant=str)
    assert MemberRun(b'"a": ' + text.encode(), 0, []).parse(b"{}") == {"a": expected}


def test_text_that_looks_like_no_number_stays_as_it_is():
    texts = [": NaN, ", "\\[NaN]", '"[Infinity,', "NaN"]
    document = json.dumps([*texts, float("nan")]).encode()
    [found] = MemberRun(document, 0, []).parse(b"[]")
    assert found == [*texts, "NaN"]


def test_depth_carries_over_chunks_that_split_strings_and_escapes():
    text = rb'{"a\\\"{": ["}", {"b": "]\\"}]}'
    whole = DepthScanner()
    positions, depths = whole.closings(text)
    split = DepthScanner()
    found = []
    for index in range(len(text)):
        one, depth = split.closings(text[index : index + 1])
        found += [(int(p) + index, int(d)) for p, d in zip(one, depth, strict=True)]
    assert found == list(zip(positions.tolist(), depths.tolist(), strict=True))
    assert depths.tolist() == [2, 1, 0]


def test_working_ahead_keeps_order_and_errors_and_can_be_left():
    def numbers():
        yield from range(20)
        raise OSError("damaged")

    items = ahead(numbers())
    assert [next(items) for _ in range(20)] == list(range(20))
    with pytest.raises(OSError, match="damaged"):
        next(items)
    endless = ahead(iter(int, 1))
    assert next(endless) == 0
    endless.close()
