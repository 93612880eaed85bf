"""Training batches of 14-atom structures from the packed store: ours against the usual ways.

Every way starts from the same structures in a shuffled order, on one core: read or copy them, find
their neighbours (5 Å, 20 nearest; prebuilt graphs have theirs) and collate them in batches. Rates
are per second of CPU time of this process, all threads included, and the best of several rounds in
alternation. The last table is the time a training step of the `paper` preset waits for its data.
"""

from __future__ import annotations

import argparse
import pickle
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from machine import describe_machine
from made_up import pack_attributes
from neighbors import molecules
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

from mtlpar.config.load import load_config
from mtlpar.core.fields import FIELDS
from mtlpar.core.structures import StructureBatch, iterate_slices
from mtlpar.graph.collate import collate
from mtlpar.graph.settings import GraphSettings
from mtlpar.model.multitask import MultiTaskModel
from mtlpar.parallel.layout import ParallelLayout
from mtlpar.store.bp import BpReader, write_bp
from mtlpar.store.dataset import PackedDataset
from mtlpar.store.pack import Pack
from mtlpar.store.streaming import StreamedDataset
from mtlpar.train.loader import RankLoader
from mtlpar.train.objective import Objective
from mtlpar.train.sampler import EpochPlan

GRAPH = GraphSettings(cutoff_angstrom=5.0, max_neighbors=20)
REPOSITORY = Path(__file__).parents[1]
BRANCH = "made-up"
BLOCK = 4096


def write_pack(path: Path, structures: StructureBatch) -> None:
    """A pack such as the stage writes, with one element."""
    write_bp(
        path,
        [structures.slice(*bounds) for bounds in iterate_slices(len(structures), BLOCK)],
        num_structures=len(structures),
        num_atoms=structures.total_atoms,
        attributes=pack_attributes(BRANCH, {"C": -1000.0}),
        fields=[name for name, field in FIELDS.items() if field.packed],
    )


def rank_loader(path: Path, batch: int, threads: int, *, window: int | None = None) -> RankLoader:
    """The project's loader on one rank, from memory or in windows from disk."""
    pack = Pack.open(path)
    dataset = PackedDataset(pack) if window is None else StreamedDataset(pack)
    return RankLoader(
        {BRANCH: dataset},
        {BRANCH: BRANCH},
        EpochPlan(
            {BRANCH: len(dataset)},
            batch,
            seed=0,
            blocks={BRANCH: pack.header.blocks.num_structures},
            window=window or len(dataset),
        ),
        ParallelLayout(1, {BRANCH: (0,)}),
        0,
        GRAPH,
        torch.float32,
        threads=threads,
    )


def from_bp(path: Path, batch: int, structures: int) -> Iterator[int]:
    """Batches read structure by structure from the pack, then collated as ours."""
    with BpReader(path) as reader:
        order = np.random.default_rng(0).permutation(len(reader))[:structures]
        for chosen in np.split(order, range(batch, len(order), batch)):
            parts = [reader.read(int(i), int(i) + 1) for i in chosen]
            yield collate(StructureBatch.concatenate(parts), GRAPH).num_graphs


def per_structure_graphs(structures: StructureBatch) -> list[Data]:
    """One PyG object per structure with its graph, as other projects store them."""
    graphs = []
    for index in range(len(structures)):
        one = structures.slice(index, index + 1)
        graph = collate(one, GRAPH)
        graphs.append(
            Data(
                z=graph.z,
                pos=graph.pos,
                edge_index=graph.edge_index,
                edge_shift=graph.edge_shift,
                y=torch.from_numpy(one.energy),
                forces=torch.from_numpy(one.forces),
            )
        )
    return graphs


class Pickled(torch.utils.data.Dataset):
    """Graphs that are unpickled when they are asked for."""

    def __init__(self, graphs: Sequence[Data]) -> None:
        self.records = [pickle.dumps(graph) for graph in graphs]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Data:
        return pickle.loads(self.records[index])


def best_rates(ways: dict[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """Structures per second of CPU time."""
    best = dict.fromkeys(ways, 0.0)
    for _ in range(rounds):
        for name, run in ways.items():
            started = time.process_time()
            structures = run()
            best[name] = max(best[name], structures / (time.process_time() - started))
    return best


def structures_of(loader: RankLoader) -> int:
    """Go through an epoch; returns its structures."""
    return sum(part.graph.num_graphs for parts in loader.epoch(0) for part in parts)


def compare_ways(path: Path, structures: StructureBatch, batch: int, rounds: int) -> None:
    """Print the rates of all ways."""
    few = structures.slice(0, min(len(structures), 16 * batch))
    graphs = per_structure_graphs(few)
    pickled = Pickled(graphs)
    loader = rank_loader(path, batch, threads=1)
    streamed = rank_loader(path, batch, threads=1, window=4 * BLOCK)
    ways = {
        "mtlpar, from the store": lambda: structures_of(loader),
        "mtlpar, streamed": lambda: structures_of(streamed),
        "read from .bp": lambda: sum(from_bp(path, batch, 4 * batch)),
        "PyG, prebuilt graphs": lambda: sum(
            b.num_graphs for b in DataLoader(graphs, batch, shuffle=True)
        ),
        "PyG, pickled graphs": lambda: sum(
            b.num_graphs for b in DataLoader(pickled, batch, shuffle=True)
        ),
    }
    rates = best_rates(ways, rounds)
    ours, *others = rates.items()
    print(f"\nbatches of {batch} structures of 14 atoms, per core")
    for name, rate in rates.items():
        print(f"  {name:<26}{rate:>10,.0f} structures/s")
    for name, rate in others:
        print(f"  ratio to {name:<22}{ours[1] / rate:>6.1f}x")
    record = sum(map(len, pickled.records)) / few.total_atoms
    print(f"  a pickled graph takes {record:.0f} B an atom")
    print(f"ratio  {ours[1] / 40_000:.2f}x  (target 1.00x of 40,000/s)")


def data_wait(path: Path, steps: int) -> None:
    """Print how long a step of the paper's model waits for its batch."""
    files = [REPOSITORY / "config.yaml", REPOSITORY / "workflow" / "presets" / "paper.yaml"]
    config = load_config(files)
    model = MultiTaskModel(config.model, [BRANCH], seed=0)
    optimizer = torch.optim.AdamW(model.parameters())
    objective = Objective({BRANCH: config.train.weights_of(BRANCH)})
    batches = rank_loader(path, config.train.batch_structures, threads=2).epoch(0)
    # The first batch is built while nothing else goes on.
    next(batches)
    waits, works = [], []
    for _ in range(steps):
        started = time.perf_counter()
        (batch,) = next(batches)
        ready = time.perf_counter()
        terms = objective.terms(model(batch.graph, batch.segments), batch.targets, batch.pieces)
        optimizer.zero_grad()
        objective.total(terms).backward()
        optimizer.step()
        waits.append(ready - started)
        works.append(time.perf_counter() - ready)
    batches.close()
    share = sum(waits) / (sum(waits) + sum(works))
    print(f"\nstep of the paper preset on the CPU, {config.train.batch_structures} structures")
    print(f"  work {np.mean(works):.2f} s, wait for data {1000 * np.mean(waits):.2f} ms")
    print(f"share  {share:.3%}  (target < 2 %)")


def main() -> None:
    """Print rates, ratios and the share of the wait."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--structures", type=int, default=50_000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=2, help="steps of the paper preset")
    options = parser.parse_args()
    print(describe_machine())
    structures = molecules(options.structures, 14, np.random.default_rng(0))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.bp"
        write_pack(path, structures)
        compare_ways(path, structures, options.batch, options.rounds)
        data_wait(path, options.steps)


if __name__ == "__main__":
    main()
