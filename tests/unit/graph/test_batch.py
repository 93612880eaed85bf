"""A batch is the one that PyTorch Geometric would make, and never changes."""

from __future__ import annotations

import dataclasses
import subprocess

import pytest
import torch
from ase.build import bulk, molecule
from warm import warm_python

from mtlpar.core.ase_structures import structure_batch
from mtlpar.graph.batch import GraphBatch
from mtlpar.graph.collate import collate
from mtlpar.graph.settings import GraphSettings

# Sizes differ, one atom has no neighbours, and one structure repeats.
STRUCTURES = [molecule("CH3OH"), molecule("Na"), bulk("NaCl", "rocksalt", a=5.64)]


def _batch(*structures) -> GraphBatch:
    return collate(structure_batch(structures), GraphSettings(cutoff_angstrom=4.0))


def test_fields_are_those_of_a_batch_that_pyg_makes_of_single_structures() -> None:
    # Atoms of edges counted within their structure, or a ptr without its end, would differ.
    from torch_geometric.data import Batch, Data

    single = []
    for atoms in STRUCTURES:
        tensors = _batch(atoms).tensors()
        del tensors["batch"], tensors["ptr"]
        single.append(Data(**tensors))
    expected = Batch.from_data_list(single)
    got = _batch(*STRUCTURES)
    assert set(got.tensors()) == set(expected.keys())
    for name, tensor in got.tensors().items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0, msg=name)
    sizes = (expected.num_graphs, expected.num_nodes, expected.num_edges)
    assert (got.num_graphs, got.num_nodes, got.num_edges) == sizes


def test_to_pyg_shares_the_tensors() -> None:
    from torch_geometric.data import Batch

    batch = _batch(*STRUCTURES)
    graph = batch.to_pyg()
    assert isinstance(graph, Batch)
    assert graph.num_graphs == 3
    assert all(graph[name] is tensor for name, tensor in batch.tensors().items())


def test_a_batch_cannot_be_changed_and_moving_it_makes_another() -> None:
    # A batch that moved in place would stay on the device for as long as the loader's is alive.
    batch = _batch(*STRUCTURES)
    with pytest.raises(dataclasses.FrozenInstanceError):
        batch.pos = batch.pos + 1
    moved = batch.to("meta")
    assert {tensor.device.type for tensor in moved.tensors().values()} == {"meta"}
    assert {tensor.device.type for tensor in batch.tensors().values()} == {"cpu"}
    assert moved.num_edges == batch.num_edges


@pytest.mark.long
def test_a_batch_for_pyg_warns_of_nothing_that_users_can_change() -> None:
    # PyG calls torch.jit.script as it is imported, of which newer versions of torch warn aloud.
    code = (
        "import warnings\n"
        "warnings.filterwarnings('error', '`torch.jit.script` is deprecated')\n"
        "from mtlpar.core.quiet import without_jit_warnings\n"
        "with without_jit_warnings():\n"
        "    warnings.warn('`torch.jit.script` is deprecated. Please switch.', FutureWarning)\n"
        "import torch\n"
        "from mtlpar.graph.batch import GraphBatch\n"
        "empty = GraphBatch.__new__(GraphBatch)\n"
        "GraphBatch.tensors = lambda self: {}\n"
        "empty.to_pyg()\n"
    )
    # A fork of what has imported torch, and nothing of PyG.
    done = subprocess.run([*warm_python(), "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
