"""Memory does not grow with the file: the MPtrj file alone has 12 GB on one line."""

import tracemalloc

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from mtlpar.sources import ase_databases, ase_files, compressed, json_members, reading
from mtlpar.sources.registry import get_source
from mtlpar.sources.settings import CustomSource, SourceSettings


def peak_while_reading(source, path):
    """Python memory in use at most while a file is read, in bytes."""
    source = get_source(source) if isinstance(source, str) else source
    tracemalloc.start()
    try:
        for _ in source.read(path, SourceSettings()):
            pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    # Files of many blocks are then small enough for a test.
    monkeypatch.setattr(reading, "BLOCK_STRUCTURES", 16)
    monkeypatch.setattr(json_members, "CHUNK_BYTES", 4096)
    monkeypatch.setattr(compressed, "_PACKED_BYTES", 64)
    monkeypatch.setattr(compressed, "_CHUNK_BYTES", 4096)
    monkeypatch.setattr(compressed, "_PLAIN_BYTES", 4096)


@pytest.mark.long
def test_materials_of_mptrj_are_read_one_by_one(mptrj_file, frame):
    peaks = []
    for materials in (200, 1200):
        path = mptrj_file({f"mp-{index}": {"a": frame()} for index in range(materials)})
        peaks.append(peak_while_reading("mptrj", path))
    # Parsed as a whole, six times the materials take six times the memory.
    assert peaks[1] < 1.5 * peaks[0]


@pytest.mark.long
def test_entries_of_alexandria_are_read_one_by_one(alexandria_file, entry):
    peaks = []
    for entries in (200, 1200):
        path = alexandria_file({"entries": [entry()] * entries})
        peaks.append(peak_while_reading("alexandria", path))
    assert peaks[1] < 1.5 * peaks[0]


@pytest.mark.long
@pytest.mark.parametrize(("form", "counts"), [("extxyz", (300, 1500)), ("db", (30, 300))])
def test_structures_that_ase_reads_come_one_by_one(tmp_path, monkeypatch, form, counts):
    monkeypatch.setattr(ase_databases, "_ROWS_AT_ONCE", 16)
    atoms = Atoms("OH2", positions=np.eye(3))
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.eye(3))
    custom = CustomSource(files=("*",), level_of_theory="X", format=form)
    peaks = []
    for count in counts:
        path = tmp_path / f"{count}.{form}"
        write(path, [atoms] * count, format=form)
        peaks.append(peak_while_reading(ase_files.custom_source("mine", custom), path))
    assert peaks[1] < 1.5 * peaks[0]
