"""The work of every structure of a pack, counted by all ranks together."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from helpers import make_structures, pack_attributes

from mtlpar.core.fields import FIELDS
from mtlpar.graph.collate import collate
from mtlpar.graph.settings import GraphSettings
from mtlpar.store.bp import write_bp
from mtlpar.store.pack import Pack
from mtlpar.train import work
from mtlpar.train.work import gather_work

GRAPH = GraphSettings(cutoff_angstrom=4.0, max_neighbors=6)
BLOCKS = (9, 3, 12, 1, 8)


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    """A pack of several blocks of unequal length."""
    whole = make_structures(sum(BLOCKS), seed=4)
    ends = np.cumsum([0, *BLOCKS]).tolist()
    write_bp(
        tmp_path / "train.bp",
        [whole.slice(first, last) for first, last in itertools.pairwise(ends)],
        num_structures=len(whole),
        num_atoms=whole.total_atoms,
        attributes=pack_attributes("made_up", dict.fromkeys("HCO", -13.6)),
        fields=[field for field in FIELDS if FIELDS[field].packed],
    )
    return Pack.open(tmp_path / "train.bp")


@pytest.mark.parametrize("world_size", [1, 3, 40])
def test_parts_of_all_ranks_are_the_edges_and_atoms_of_the_pack_in_its_order(
    pack: Pack, world_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of forty ranks seven have no structure, and pieces end in the middle of ranks' parts.
    monkeypatch.setattr(work, "_PIECE_STRUCTURES", 5)
    parts = [
        gather_work({"made_up": pack}, GRAPH, rank=rank, world_size=world_size)["made_up"]
        for rank in range(world_size)
    ]
    whole = pack.read()
    expected = []
    for index in range(len(whole)):
        graph = collate(whole.slice(index, index + 1), GRAPH)
        expected.append(graph.num_edges + 3 * graph.num_nodes)
    assert np.concatenate(parts).tolist() == expected
    assert len(set(expected)) > 3


def test_too_many_structures_for_the_ranks_are_not_counted_one_by_one(
    pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Start-up must not grow with the data; the unit stays, for sources are dealt together.
    monkeypatch.setattr(work, "_MOST_COUNTED", len(pack) // 3 - 1)
    found = gather_work({"made_up": pack}, GRAPH, rank=1, world_size=3)["made_up"]
    of_atom = work.edges_per_atom(pack, GRAPH) + 3
    assert found.tolist() == [int(atoms * of_atom) for atoms in pack.read().num_atoms]
