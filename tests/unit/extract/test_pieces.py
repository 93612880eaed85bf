"""One raw file in many pieces, over any number of processes and jobs: the same bytes."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest
from helpers import REPOSITORY
from hypothesis import given
from hypothesis import strategies as st

from mtlpar.core import processes
from mtlpar.core.files import read_json
from mtlpar.core.paths import Workspace
from mtlpar.core.records import read_digested, write_digested
from mtlpar.core.share import Share
from mtlpar.download import stage as download
from mtlpar.download.settings import DownloadSettings
from mtlpar.extract import piece
from mtlpar.extract.settings import ExtractSettings
from mtlpar.extract.stage import run
from mtlpar.store.bp import BpReader
from mtlpar.store.extracted import ExtractedSource

SAMPLE = REPOSITORY / "workflow" / "sample"
# Several pieces of each file of the sample, and parts that end inside a piece.
SETTINGS = ExtractSettings(piece_bytes=500_000, part_structures=150)
DIVIDED = ("ani1x", "qm7x", "mptrj", "transition1x")


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    workspace = Workspace(raw=folder, results=folder / "none")
    for source in (*DIVIDED, "alexandria"):
        download.run(
            source,
            workspace=workspace,
            settings=DownloadSettings(mirrors=str(SAMPLE)),
            catalogue=folder / "unused.csv",
        )
    return folder


def digests(workspace, source):
    """Checksum of every file that the stage left."""
    folder = workspace.extracted_folder(source)
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def extracted(raw, results, source, settings=SETTINGS, **how):
    workspace = Workspace(raw=raw, results=results)
    run(source, workspace=workspace, settings=settings, **how)
    return workspace


@pytest.fixture(scope="module")
def by_one(raw, tmp_path_factory):
    """What one process makes of a source, which is read only."""
    folder = tmp_path_factory.mktemp("one")
    return cache(lambda source: extracted(raw, folder / source, source))


def column(source, name):
    return np.concatenate([BpReader(path).read_column(name) for path in source.part_paths])


@pytest.mark.parametrize("source", DIVIDED)
def test_pieces_together_are_the_whole_file(raw, by_one, tmp_path, source):
    # Rows lost or read twice at a cut would change a column, rows in another order too.
    cut = ExtractedSource(by_one(source), source)
    whole = ExtractedSource(extracted(raw, tmp_path, source, ExtractSettings()), source)
    assert len(cut.part_paths) > len(whole.part_paths)
    for name in ("structure_id", "energy", "group", "forces", "official_split"):
        assert column(cut, name).tobytes() == column(whole, name).tobytes(), name
    for key in ("rows", "dropped", "level_of_theory"):
        assert getattr(cut.manifest, key) == getattr(whole.manifest, key)


def test_two_processes_write_the_same_bytes_as_one(raw, by_one, tmp_path):
    one = digests(by_one("mptrj"), "mptrj")
    assert len(one) > 5
    assert digests(extracted(raw, tmp_path, "mptrj", jobs=2), "mptrj") == one


@pytest.mark.parametrize("source", ["mptrj", "qm7x"])
def test_seven_workers_write_the_same_bytes_as_one(raw, by_one, tmp_path, source, monkeypatch):
    # More workers than files and than pieces of a file. Threads stand in for processes, which
    # take seconds to start; what is scheduled and collected is the same.
    one = digests(by_one(source), source)
    monkeypatch.setattr(
        processes, "ProcessPoolExecutor", lambda jobs, **_: ThreadPoolExecutor(jobs)
    )
    assert digests(extracted(raw, tmp_path, source, jobs=7), source) == one


@pytest.mark.parametrize(("source", "count"), [("mptrj", 7), ("qm7x", 3), ("alexandria", 2)])
def test_any_number_of_shares_writes_the_same_bytes(
    raw, by_one, tmp_path, source, count, monkeypatch
):
    alone = digests(by_one(source), source)
    for index in reversed(range(count)):
        workspace = extracted(raw, tmp_path, source, share=Share(index, count))
        assert workspace.extracted_share(source, f"{index}-of-{count}").is_file()
        assert not workspace.extracted_manifest(source).exists()
        workspace.extracted_share(source, f"{index}-of-{count}").unlink()
    # The job that gathers must find all of it done.
    monkeypatch.setattr(piece, "_fill_parts", None)
    assert digests(extracted(raw, tmp_path, source), source) == alone


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 40))
def test_every_piece_falls_to_exactly_one_share(files, count, pieces):
    for file in range(files):
        taken = []
        for index in range(count):
            mine = Share(index, count).of_file(file, files)
            taken += [] if mine is None else range(pieces)[mine]
        assert sorted(taken) == list(range(pieces))


@pytest.mark.parametrize("text", ["3-of-3", "1/3", "-1-of-3", "", "of-3"])
def test_a_share_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="must look like 0-of-8"):
        Share.parse(text)
    assert str(Share.parse("2-of-3")) == "2-of-3"


def test_an_interrupted_run_continues_and_ends_with_the_same_bytes(
    raw, by_one, tmp_path, monkeypatch
):
    undisturbed = digests(by_one("mptrj"), "mptrj")
    write, written = piece.write_bp, []

    def write_until_killed(path, *arguments, **more):
        if len(written) == 4:
            raise KeyboardInterrupt
        written.append(path.name)
        write(path, *arguments, **more)

    monkeypatch.setattr(piece, "write_bp", write_until_killed)
    with pytest.raises(KeyboardInterrupt):
        extracted(raw, tmp_path, "mptrj")
    first = written.pop(0)
    written.clear()

    def write_and_note(path, *arguments, **more):
        written.append(path.name)
        write(path, *arguments, **more)

    monkeypatch.setattr(piece, "write_bp", write_and_note)
    first, written = written, []
    monkeypatch.setattr(
        piece, "write_bp", lambda path, *a, **k: (written.append(path.name), write(path, *a, **k))
    )
    assert digests(extracted(raw, tmp_path, "mptrj"), "mptrj") == undisturbed
    # The first piece was whole: it is not written again.
    assert first not in written


def test_pieces_of_other_settings_or_other_code_are_not_used(raw, tmp_path):
    extracted(raw, tmp_path, "mptrj", share=Share(), code="old")
    strict = SETTINGS.model_copy(update={"max_force_ev_per_angstrom": 1.0})
    workspace = extracted(raw, tmp_path, "mptrj", strict, code="old")
    assert read_json(workspace.extracted_manifest("mptrj"))["dropped"]["force_too_large"] > 0
    workspace = extracted(raw, tmp_path, "mptrj", share=Share(), code="old")
    record = next(workspace.extracted_folder("mptrj").glob("*-00000.piece.json"))
    content = read_digested(record)
    assert content is not None
    write_digested(record, {**content, "rows": 10**6})
    workspace = extracted(raw, tmp_path, "mptrj", code="new")
    assert read_json(workspace.extracted_manifest("mptrj"))["rows"] == 840


def test_only_the_raw_files_stay_in_the_raw_folder(raw, tmp_path):
    names = sorted(path.name for path in (raw / "qm7x").iterdir())
    extracted(raw, tmp_path, "qm7x", jobs=2)
    assert sorted(path.name for path in (raw / "qm7x").iterdir()) == names
