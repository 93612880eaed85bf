import contextlib
import errno
import hashlib
from io import FileIO

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtlpar.download import part as part_module
from mtlpar.download.fetch import fetch
from mtlpar.download.part import RawFile
from mtlpar.download.web import Web

# Random, so that a range glued on at the wrong place cannot look right; longer than one chunk.
CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


def get(server, folder, *, retries=2, timeout_s=5, **known):
    file = RawFile(name="a.h5", url=f"{server.url}/a.h5", kind="data", **known)
    with Web(retries=retries, timeout_s=timeout_s, backoff_s=0.01) as web:
        return fetch(file, folder, web=web)


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
    # Two interruptions with one retry, each after more than the megabyte that counts as a step.
    server.files["/a.h5"] = CONTENT
    server.cut_after["/a.h5"] = [1_100_000] * 2
    get(server, tmp_path, retries=1, sha256=SHA256)
    assert (tmp_path / "a.h5").read_bytes() == CONTENT


def test_attempts_that_gain_a_few_bytes_each_do_not_go_on_for_ever(server, tmp_path):
    server.files["/a.h5"] = CONTENT
    server.cut_after["/a.h5"] = [10] * 1000
    with pytest.raises(ValueError, match="3 attempts failed"):
        get(server, tmp_path, retries=2, sha256=SHA256)
    assert len(server.requests) == 3


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
    get(server, tmp_path, sha256=SHA256)
    assert server.sent_bytes == 0
    assert (tmp_path / "a.h5").read_bytes() == CONTENT


def test_a_part_file_longer_than_the_file_is_thrown_away(server, tmp_path):
    server.files["/a.h5"] = CONTENT
    (tmp_path / "a.h5.part").write_bytes(CONTENT + b"more")
    get(server, tmp_path)
    assert (tmp_path / "a.h5").read_bytes() == CONTENT


def test_a_missing_file_is_an_error_at_once(server, tmp_path):
    with pytest.raises(ValueError, match=r"answered 404 .*download\.mirrors"):
        get(server, tmp_path)
    assert len(server.requests) == 1
    assert leftovers(tmp_path) == []


def test_an_overloaded_server_is_asked_again(server, tmp_path):
    server.files["/a.h5"] = CONTENT
    server.statuses["/a.h5"] = [503, 429]
    get(server, tmp_path, sha256=SHA256)
    assert len(server.requests) == 3


@pytest.mark.parametrize("headers", [{"Content-Type": "text/html; charset=utf-8"}, {}])
def test_an_error_page_is_not_taken_for_the_file(server, tmp_path, headers):
    # figshare and Zenodo answer 200 with a page to some requests; without a checksum it would pass.
    server.files["/a.h5"] = b"<html>please log in</html>"
    server.headers = headers
    with pytest.raises(
        ValueError, match=r"web page \(HTML.*instead of a\.h5; download the file it"
    ):
        get(server, tmp_path)
    assert leftovers(tmp_path) == []


def test_a_pointer_of_git_lfs_is_not_taken_for_the_file(server, tmp_path):
    # Raw addresses of repositories give it; 130 bytes that extract would find out about.
    server.files["/a.h5"] = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"
    with pytest.raises(
        ValueError, match=r"pointer of Git LFS .*instead of a\.h5; fetch it with git"
    ):
        get(server, tmp_path)
    assert leftovers(tmp_path) == []


def test_an_empty_body_is_not_a_file(server, tmp_path):
    server.files["/a.h5"] = b""
    with pytest.raises(ValueError, match=r"it is empty\..* if this persists"):
        get(server, tmp_path)
    assert leftovers(tmp_path) == []


def test_an_empty_file_of_ones_own_has_no_origin_that_replaced_it(server, tmp_path):
    mine = tmp_path / "mine.extxyz"
    mine.touch()
    (tmp_path / "raw").mkdir()
    with pytest.raises(ValueError, match=r"it is empty\..* Put the whole file there and run again"):
        get(server, tmp_path / "raw", places=(str(mine),))
    assert leftovers(tmp_path / "raw") == []


def test_a_server_that_does_not_answer_is_named(tmp_path):
    file = RawFile(name="a.h5", url="http://127.0.0.1:9/a.h5", kind="data")
    with (
        Web(retries=1, timeout_s=2, backoff_s=0.01) as web,
        pytest.raises(ValueError, match=r"http://127\.0\.0\.1:9/a\.h5 could not be fetched"),
    ):
        fetch(file, tmp_path, web=web)
    assert leftovers(tmp_path) == []


def test_a_length_that_nobody_says_is_no_length(server, tmp_path):
    # HTTP/1.0 ends a body by hanging up, so half a file looks like a whole one.
    server.files["/a.h5"] = CONTENT
    server.length_is_said = False
    with pytest.raises(ValueError, match="a cut-off download would go unnoticed"):
        get(server, tmp_path)
    server.cut_after["/a.h5"] = [1_000_000]
    with pytest.raises(ValueError, match="length is 1000000, expected 3000000"):
        get(server, tmp_path, bytes=len(CONTENT))
    assert leftovers(tmp_path) == []
    get(server, tmp_path, bytes=len(CONTENT))
    assert (tmp_path / "a.h5").read_bytes() == CONTENT


def test_compression_in_transit_is_refused(server, tmp_path):
    # The length would be that of the compressed bytes, and without a checksum they would be kept.
    server.files["/a.h5"] = CONTENT
    server.headers = {"Content-Encoding": "gzip"}
    with pytest.raises(ValueError, match=r"compressed once more \(gzip\)"):
        get(server, tmp_path)
    assert leftovers(tmp_path) == []


def test_a_server_that_goes_silent_is_left_and_asked_again(server, tmp_path):
    server.files["/a.h5"] = CONTENT
    server.stall_after["/a.h5"] = [1_000_000]
    get(server, tmp_path, timeout_s=0.2, sha256=SHA256)
    assert server.ranges_asked("/a.h5") == [None, "bytes=1000000-"]


def test_a_server_that_always_goes_silent_ends_in_an_error(server, tmp_path):
    server.files["/a.h5"] = CONTENT
    server.stall_after["/a.h5"] = [0] * 9
    said = r"2 attempts failed, the last with no answer in time.*another place .* download\.mirrors"
    with pytest.raises(ValueError, match=said):
        get(server, tmp_path, retries=1, timeout_s=0.2, sha256=SHA256)


def test_a_trickle_is_a_stall(server, tmp_path):
    # A hundred bytes each 20 ms never time out, but would take ten minutes here.
    server.files["/a.h5"] = CONTENT
    server.chunk_bytes, server.chunk_pause_s = 100, 0.02
    with pytest.raises(ValueError, match=r"only \d+ bytes arrived in"):
        get(server, tmp_path, retries=0, timeout_s=0.2, sha256=SHA256)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (403, "refuses this machine"),
        (401, "wants a login"),
        (410, "withdrawn"),
        (202, "answered 202"),
    ],
)
def test_a_refusal_is_explained_at_once(server, tmp_path, status, said):
    server.files["/a.h5"] = CONTENT
    server.statuses["/a.h5"] = [status]
    with pytest.raises(ValueError, match=said):
        get(server, tmp_path)
    assert len(server.requests) == 1
    assert leftovers(tmp_path) == []


class TestOfALockedOrFullDisk:
    def test_a_full_disk_is_an_error_and_what_came_is_kept(self, server, tmp_path, monkeypatch):
        server.files["/a.h5"] = CONTENT

        class FullDisk(FileIO):
            def write(self, chunk):
                room = 1_000_000 - self.tell()
                if room <= 0:
                    raise OSError(errno.ENOSPC, "No space left on device")
                # A disk takes what fits before it fails.
                return super().write(chunk[:room])

        with monkeypatch.context() as patch:
            patch.setattr(part_module, "_open_alone", lambda path, pause: FullDisk(path, "ab+"))
            with pytest.raises(ValueError, match=r"a\.h5\.part .*No space left.* run again"):
                get(server, tmp_path, sha256=SHA256)
        assert len(server.requests) == 1
        assert (tmp_path / "a.h5.part").read_bytes() == CONTENT[:1_000_000]
        get(server, tmp_path, sha256=SHA256)
        assert server.ranges_asked("/a.h5") == [None, "bytes=1000000-"]
        assert (tmp_path / "a.h5").read_bytes() == CONTENT

    @pytest.mark.parametrize("name", ["a.h5", "a.h5.part"])
    def test_a_folder_in_the_way_is_named_before_any_transfer(self, server, tmp_path, name):
        server.files["/a.h5"] = CONTENT
        (tmp_path / name).mkdir()
        with pytest.raises(ValueError, match=rf"{name} (is a folder|.*Is a directory)"):
            get(server, tmp_path)
        assert server.requests == []

    def test_a_file_where_the_folder_should_be_is_named(self, server, tmp_path):
        (tmp_path / "raw").write_text("")
        with pytest.raises(ValueError, match=r"raw cannot be .*File exists"):
            get(server, tmp_path / "raw")


def test_a_part_that_another_process_just_renamed_is_not_written_to(tmp_path, monkeypatch):
    # The other one finishes between opening the part file and locking it: the lock is then on the
    # finished file, and what is appended would be appended to that.
    target, part = tmp_path / "a.h5", tmp_path / "a.h5.part"
    part.write_bytes(b"finished")
    lock = part_module._lock

    def finish_first(stream):
        if not target.exists():
            part.replace(target)
        return lock(stream)

    monkeypatch.setattr(part_module, "_lock", finish_first)
    with part_module.PartFile(target, pause=lambda _: None) as mine:
        assert mine.size == 0
        mine.append(b"more")
    assert target.read_bytes() == b"finished"


class TestResuming:
    """What is not known to be one file is never glued together."""

    def test_a_part_of_unknown_origin_is_not_continued_without_a_checksum(self, server, tmp_path):
        server.files["/a.h5"] = CONTENT
        (tmp_path / "a.h5.part").write_bytes(CONTENT[:1000][::-1])
        get(server, tmp_path)
        assert (tmp_path / "a.h5").read_bytes() == CONTENT

    def test_a_wrong_beginning_costs_one_more_transfer_but_no_error(self, server, tmp_path):
        server.files["/a.h5"] = CONTENT
        (tmp_path / "a.h5.part").write_bytes(CONTENT[:1000][::-1])
        get(server, tmp_path, sha256=SHA256)
        assert server.ranges_asked("/a.h5") == ["bytes=1000-", None]
        assert (tmp_path / "a.h5").read_bytes() == CONTENT

    def test_the_version_of_one_server_says_nothing_about_another(
        self, server, other_server, tmp_path
    ):
        # Both call their file version 1, but the contents differ.
        for each, content in ((server, CONTENT), (other_server, CONTENT[::-1])):
            each.files["/a.h5"] = content
            each.etag = '"1"'
        server.cut_after["/a.h5"] = [1_000_000]
        with pytest.raises(ValueError, match="could not be fetched"):
            get(server, tmp_path, retries=0)
        get(other_server, tmp_path)
        assert (tmp_path / "a.h5").read_bytes() == CONTENT[::-1]


@pytest.mark.long
@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    runs=st.lists(st.tuples(st.integers(0, 3_000_000), st.booleans(), st.booleans()), max_size=4),
    checksum=st.booleans(),
)
def test_whatever_happens_on_the_way_the_bytes_are_right(server, tmp_path_factory, runs, checksum):
    # Each run is cut somewhere, by a server that may have no ranges and may have got a new version
    # of the file; the last one is undisturbed. With a checksum there is only one right version.
    folder = tmp_path_factory.mktemp("any")
    content, server.etag = CONTENT, '"0"'
    for number, (cut, ranges, is_replaced) in enumerate(runs, start=1):
        if is_replaced and not checksum:
            content, server.etag = content[::-1], f'"{number}"'
        server.files["/a.h5"], server.ranges = content, ranges
        server.cut_after["/a.h5"] = [cut]
        with contextlib.suppress(ValueError):
            get(server, folder, retries=0, sha256=SHA256 if checksum else None)
        if (folder / "a.h5").exists():
            break
    server.files["/a.h5"], server.cut_after["/a.h5"] = content, []
    get(server, folder, retries=0, sha256=SHA256 if checksum else None)
    assert (folder / "a.h5").read_bytes() == content


class TestPlaces:
    """Several places for one file."""

    def get(self, folder, *servers, **known):
        places = tuple(f"{server.url}/a.h5" for server in servers)
        file = RawFile(name="a.h5", url="https://nowhere/a.h5", kind="data", places=places, **known)
        with Web(retries=0, timeout_s=5) as web:
            return fetch(file, folder, web=web)

    def test_the_next_one_is_taken_with_a_warning(self, server, other_server, tmp_path, caplog):
        other_server.files["/a.h5"] = CONTENT
        self.get(tmp_path, server, other_server)
        assert (tmp_path / "a.h5").read_bytes() == CONTENT
        assert "answered 404 Not Found" in caplog.text
        assert f"trying {other_server.url}/a.h5" in caplog.text

    def test_wrong_bytes_of_one_do_not_spoil_those_of_the_next(
        self, server, other_server, tmp_path
    ):
        server.files["/a.h5"] = CONTENT[::-1]
        other_server.files["/a.h5"] = CONTENT
        self.get(tmp_path, server, other_server, sha256=SHA256)
        assert (tmp_path / "a.h5").read_bytes() == CONTENT

    def test_the_next_one_continues_where_the_first_failed(self, server, other_server, tmp_path):
        server.files["/a.h5"] = other_server.files["/a.h5"] = CONTENT
        server.cut_after["/a.h5"] = [1_000_000]
        self.get(tmp_path, server, other_server, sha256=SHA256)
        assert other_server.ranges_asked("/a.h5") == ["bytes=1000000-"]
        assert (tmp_path / "a.h5").read_bytes() == CONTENT

    def test_an_interrupted_transfer_goes_on_at_its_place(self, server, other_server, tmp_path):
        # The first mirror has the file only now; what came from the second is not thrown away.
        other_server.files["/a.h5"] = CONTENT
        other_server.cut_after["/a.h5"] = [1_000_000]
        with pytest.raises(ValueError, match="1000000 bytes were received"):
            self.get(tmp_path, server, other_server, sha256=SHA256)
        server.files["/a.h5"] = CONTENT[::-1]
        self.get(tmp_path, server, other_server, sha256=SHA256)
        assert other_server.ranges_asked("/a.h5") == [None, "bytes=1000000-"]
        assert len(server.requests) == 1

    def test_if_all_fail_each_one_is_named_with_its_reason(self, server, other_server, tmp_path):
        other_server.statuses["/a.h5"] = [403]
        with pytest.raises(ValueError) as caught:
            self.get(tmp_path, server, other_server)
        assert f"{server.url}/a.h5 answered 404" in str(caught.value)
        assert f"{other_server.url}/a.h5 answered 403" in str(caught.value)


class TestLocalCopy:
    def fetch(self, origin, folder, **known):
        file = RawFile(name="a.h5", url=str(origin), kind="data", **known)
        with Web(retries=0, timeout_s=1) as web:
            return fetch(file, folder, web=web)

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
