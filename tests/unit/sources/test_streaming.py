"""Memory does not grow with the file: the MPtrj file alone has 12 GB on one line."""

import tracemalloc

import pytest

from mtlpar.sources import json_members, reading
from mtlpar.sources.registry import get_source
from mtlpar.sources.settings import SourceSettings


def peak_while_reading(source, path):
    """Python memory in use at most while a file is read, in bytes."""
    tracemalloc.start()
    try:
        for _ in get_source(source).read(path, SourceSettings()):
            pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    # Files of many blocks are then small enough for a test.
    monkeypatch.setattr(reading, "BLOCK_STRUCTURES", 16)
    monkeypatch.setattr(json_members, "CHUNK_BYTES", 4096)


def test_materials_of_mptrj_are_read_one_by_one(mptrj_file, frame):
    peaks = []
    for materials in (300, 3000):
        path = mptrj_file({f"mp-{index}": {"a": frame()} for index in range(materials)})
        peaks.append(peak_while_reading("mptrj", path))
    # Parsed as a whole, ten times the materials take ten times the memory.
    assert peaks[1] < 1.5 * peaks[0]


def test_entries_of_alexandria_are_read_one_by_one(alexandria_file, entry):
    peaks = []
    for entries in (300, 3000):
        path = alexandria_file({"entries": [entry()] * entries})
        peaks.append(peak_while_reading("alexandria", path))
    assert peaks[1] < 1.5 * peaks[0]
