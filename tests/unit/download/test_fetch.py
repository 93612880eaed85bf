import hashlib

import numpy as np
import pytest

from mtlpar.download.fetch import fetch
from mtlpar.download.part import RawFile

# Random, so that a range glued on at the wrong place cannot look right; longer than one chunk.
CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


def get(server, folder, *, retries=2, **known):
    file = RawFile(name="a.h5", url=f"{server.url}/a.h5", kind="data", **known)
    return fetch(file, folder, retries=retries, timeout_s=5, backoff_s=0.01)


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_arrives_with_its_bytes_and_both_checksums(server, tmp_path):
    server.files["/a.h5"] = CONTENT
    contents = get(server, tmp_path, bytes=len(CONTENT), md5=MD5, sha256=SHA256)
    assert (tmp_path / "a.h5").read_bytes() == CONTENT
    assert (contents.bytes, contents.md5, contents.sha256) == (len(CONTENT), MD5, SHA256)
    assert leftovers(tmp_path) == ["a.h5"]


def test_a_file_that_is_there_and_correct_is_not_asked_for_again(server, tmp_path):
    (tmp_path / "a.h5").write_bytes(CONTENT)
    assert get(server, tmp_path, bytes=len(CONTENT), md5=MD5).sha256 == SHA256
    assert server.requests == []


@pytest.mark.parametrize("known", [{"md5": MD5}, {"sha256": SHA256}, {"bytes": len(CONTENT)}])
def test_a_wrong_file_under_the_final_name_is_replaced(server, tmp_path, known):
    # Same length for the checksums, so that only hashing can tell; another length for the third.
    wrong = bytes(len(CONTENT) - ("bytes" in known))
    (tmp_path / "a.h5").write_bytes(wrong)
    server.files["/a.h5"] = CONTENT
    get(server, tmp_path, **known)
    assert (tmp_path / "a.h5").read_bytes() == CONTENT


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_a_wrong_checksum_leaves_nothing_and_names_both_sums(server, tmp_path, algorithm):
    server.files["/a.h5"] = b"not it"
    expected = {"md5": MD5, "sha256": SHA256}[algorithm]
    got = hashlib.new(algorithm, b"not it").hexdigest()
    with pytest.raises(ValueError, match=f"{algorithm} is {got}, expected {expected}"):
        get(server, tmp_path, **{algorithm: expected})
    assert leftovers(tmp_path) == []


def test_a_length_that_contradicts_the_catalogue_is_refused_before_the_transfer(server, tmp_path):
    server.files["/a.h5"] = CONTENT
    with pytest.raises(ValueError, match=f"{len(CONTENT)} bytes, expected 12345"):
        get(server, tmp_path, bytes=12345)
    assert leftovers(tmp_path) == []


def test_a_dropped_connection_is_resumed_where_it_stopped(server, tmp_path):
    server.files["/a.h5"] = CONTENT
    server.cut_after["/a.h5"] = [1_000_000, 500_000]
    get(server, tmp_path, sha256=SHA256)
    assert server.ranges_asked("/a.h5") == [None, "bytes=1000000-", "bytes=1500000-"]


def test_attempts_that_get_further_do_not_use_up_the_retries(server, tmp_path):
    # Five interruptions with two retries: only standing still counts.
    server.files["/a.h5"] = CONTENT
    server.cut_after["/a.h5"] = [400_000] * 5
    get(server, tmp_path, retries=2, sha256=SHA256)
    assert (tmp_path / "a.h5").read_bytes() == CONTENT


def test_a_second_run_goes_on_with_what_the_first_one_left(server, tmp_path):
    server.files["/a.h5"] = CONTENT
    server.cut_after["/a.h5"] = [1_000_000]
    with pytest.raises(ValueError, match="1000000 bytes were received"):
        get(server, tmp_path, retries=0, sha256=SHA256)
    assert not (tmp_path / "a.h5").exists()
    get(server, tmp_path, retries=0, sha256=SHA256)
    assert server.ranges_asked("/a.h5")[-1] == "bytes=1000000-"
    assert leftovers(tmp_path) == ["a.h5"]


def test_a_server_without_ranges_is_read_from_the_start_again(server, tmp_path):
    # Appending the whole body to the first million bytes would be the obvious bug.
    server.files["/a.h5"] = CONTENT
    server.ranges = False
    server.cut_after["/a.h5"] = [1_000_000]
    get(server, tmp_path, sha256=SHA256)
    assert (tmp_path / "a.h5").read_bytes() == CONTENT


def test_a_file_that_changed_at_its_origin_is_not_glued_to_the_old_half(server, tmp_path):
    # No checksum is known, as for Alexandria: only the server's version tells the halves apart.
    server.files["/a.h5"] = CONTENT
    server.etag = '"first"'
    server.cut_after["/a.h5"] = [1_000_000]
    with pytest.raises(ValueError, match="could not be fetched"):
        get(server, tmp_path, retries=0)
    server.files["/a.h5"] = CONTENT[::-1]
    server.etag = '"second"'
    get(server, tmp_path)
    assert (tmp_path / "a.h5").read_bytes() == CONTENT[::-1]


def test_a_body_that_is_always_truncated_ends_in_an_error(server, tmp_path):
    server.files["/a.h5"] = CONTENT
    server.ranges = False
    server.cut_after["/a.h5"] = [1_000_000] * 10
    with pytest.raises(ValueError, match="3 attempts failed"):
        get(server, tmp_path, retries=2)
    assert not (tmp_path / "a.h5").exists()
    assert len(server.requests) == 3


def test_a_part_file_that_is_whole_already_needs_no_body(server, tmp_path):
    server.files["/a.h5"] = CONTENT
    (tmp_path / "a.h5.part").write_bytes(CONTENT)
    get(server, tmp_path)
    assert (tmp_path / "a.h5").read_bytes() == CONTENT


def test_a_part_file_longer_than_the_file_is_thrown_away(server, tmp_path):
    server.files["/a.h5"] = CONTENT
    (tmp_path / "a.h5.part").write_bytes(CONTENT + b"more")
    get(server, tmp_path)
    assert (tmp_path / "a.h5").read_bytes() == CONTENT


def test_a_missing_file_is_an_error_at_once(server, tmp_path):
    with pytest.raises(ValueError, match=r"answered 404 .*download\.mirror"):
        get(server, tmp_path)
    assert len(server.requests) == 1
    assert leftovers(tmp_path) == []


def test_an_overloaded_server_is_asked_again(server, tmp_path):
    server.files["/a.h5"] = CONTENT
    server.statuses["/a.h5"] = [503, 429]
    get(server, tmp_path, sha256=SHA256)
    assert len(server.requests) == 3


def test_an_error_page_is_not_taken_for_the_file(server, tmp_path):
    # figshare and Zenodo answer 200 with a page to some requests; without a checksum it would pass.
    server.files["/a.h5"] = b"<html>please log in</html>"
    server.content_type = "text/html; charset=utf-8"
    with pytest.raises(ValueError, match=r"HTML page instead of a\.h5"):
        get(server, tmp_path)
    assert leftovers(tmp_path) == []


def test_an_empty_body_is_not_a_file(server, tmp_path):
    server.files["/a.h5"] = b""
    with pytest.raises(ValueError, match="it is empty"):
        get(server, tmp_path)
    assert leftovers(tmp_path) == []


def test_a_server_that_does_not_answer_is_named(tmp_path):
    file = RawFile(name="a.h5", url="http://127.0.0.1:9/a.h5", kind="data")
    with pytest.raises(ValueError, match=r"http://127\.0\.0\.1:9/a\.h5 could not be fetched"):
        fetch(file, tmp_path, retries=1, timeout_s=2, backoff_s=0.01)
    assert leftovers(tmp_path) == []


class TestLocalCopy:
    def fetch(self, origin, folder, **known):
        file = RawFile(name="a.h5", url=str(origin), kind="data", **known)
        return fetch(file, folder, retries=0, timeout_s=1)

    def test_goes_through_the_same_checks(self, tmp_path):
        origin = tmp_path / "origin.h5"
        origin.write_bytes(CONTENT)
        assert self.fetch(origin, tmp_path / "raw", sha256=SHA256).md5 == MD5
        with pytest.raises(ValueError, match=f"sha256 is {SHA256}, expected {'0' * 64}"):
            self.fetch(origin, tmp_path / "other", sha256="0" * 64)
        assert leftovers(tmp_path / "other") == []

    def test_notices_an_origin_that_changed_without_changing_its_length(self, tmp_path):
        origin = tmp_path / "origin.h5"
        origin.write_bytes(b"first")
        self.fetch(origin, tmp_path / "raw")
        origin.write_bytes(b"other")
        self.fetch(origin, tmp_path / "raw")
        assert (tmp_path / "raw" / "a.h5").read_bytes() == b"other"

    def test_of_a_file_that_is_gone_is_an_error(self, tmp_path):
        with pytest.raises(ValueError, match="cannot be copied"):
            self.fetch(tmp_path / "gone", tmp_path / "raw")
        assert leftovers(tmp_path / "raw") == []
