"""Batches dealt to ranks by the structures' work, beside batches dealt by their number.

    python benchmarks/deal.py

Crystals with sizes and densities as wide as those of MPtrj, 5 Å, no limit of neighbours. First what
the slowest of many ranks has to do above the mean: in work, and as the planner predicts it without
knowing the structures. Then what a few ranks take, whose shares are computed one after another on
one core; by CPU time, so that others on the machine do not count. Last what the deal itself takes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from machine import describe_machine

from mtlpar.core.structures import StructureBatch
from mtlpar.core.text_table import aligned
from mtlpar.graph.collate import collate
from mtlpar.graph.settings import GraphSettings
from mtlpar.model.multitask import MultiTaskModel, Segment
from mtlpar.model.settings import EgnnSettings, ModelSettings
from mtlpar.parallel.deal import deal
from mtlpar.plan.census import take_census
from mtlpar.plan.machine import GENERIC_CPU
from mtlpar.plan.predict import Deal, predict
from mtlpar.plan.workload import Dataset, Workload
from mtlpar.train.work import work_of

GRAPH = GraphSettings(cutoff_angstrom=5.0)
MODEL = ModelSettings(encoder=EgnnSettings(width=64), graph=GRAPH)
MEAN_ATOMS, VARIATION = 31.2, 0.8
POOL = 4000
Array = npt.NDArray[np.int64]
DEALS: tuple[Deal, ...] = ("count", "work")


def main() -> None:
    """Print both deals."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--per-rank", type=int, default=128, help="structures (default: 128)")
    parser.add_argument("--ranks", type=int, nargs="+", default=[32, 320, 2000], metavar="N")
    parser.add_argument("--computed-ranks", type=int, nargs="+", default=[2, 4], metavar="N")
    parser.add_argument("--computed-per-rank", type=int, default=16, metavar="N")
    parser.add_argument("--batches", type=int, default=10, help="of the mean (default: 10)")
    parser.add_argument("--rounds", type=int, default=5, help="the best of which counts")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(describe_machine())
    rng = np.random.default_rng(options.seed)
    pool = crystals(POOL, rng)
    started = time.thread_time()
    work = work_of(pool, GRAPH)
    rate = len(pool) / (time.thread_time() - started)
    print(
        f"{len(pool)} crystals of {pool.num_atoms.mean():.1f} atoms, work {work.mean():.0f} edges "
        f"with a deviation of {work.std() / work.mean():.2f}; counted at {rate:,.0f} structures/s"
    )
    print("\nslowest rank above the mean, in work")
    print(*aligned(in_work(work, options, rng)), sep="\n")
    print("\nslowest share above the mean, computed")
    print(*aligned(computed(pool, work, options, rng)), sep="\n")


def crystals(count: int, rng: np.random.Generator) -> StructureBatch:
    """Periodic structures in skewed cells, of few to hundreds of atoms, 9 to 40 Å^3 each."""
    sigma = np.sqrt(np.log1p(VARIATION**2))
    sizes = MEAN_ATOMS * rng.lognormal(-(sigma**2) / 2, sigma, count)
    num_atoms = np.clip(np.rint(sizes), 1, 444).astype(np.int64)
    volume = num_atoms * np.exp(rng.uniform(np.log(9), np.log(40), count))
    cell = np.eye(3) + 0.15 * rng.normal(size=(count, 3, 3))
    cell *= np.cbrt(volume / np.abs(np.linalg.det(cell)))[:, None, None]
    atoms = int(num_atoms.sum())
    positions = np.einsum("ai,aij->aj", rng.random((atoms, 3)), np.repeat(cell, num_atoms, axis=0))
    return StructureBatch.from_labels(
        num_atoms=num_atoms,
        atomic_numbers=np.full(atoms, 6),
        positions=positions,
        cell=cell,
        pbc=np.ones((count, 3)),
        energy=np.zeros(count),
        forces=np.zeros((atoms, 3)),
        group=np.arange(count),
    )


def dealt(work: Array, ranks: int, by: Deal) -> Array:
    """Rank of each structure of a batch in random order."""
    if by == "work":
        return deal(work, ranks)
    return np.arange(len(work)) * ranks // len(work)


def above_mean(loads: npt.NDArray[np.float64]) -> float:
    """Largest of some loads over their mean, less one."""
    return float(loads.max() / loads.mean()) - 1


def in_work(
    work: Array, options: argparse.Namespace, rng: np.random.Generator
) -> list[tuple[str, ...]]:
    """Both deals of batches of many ranks, and what the planner predicts of them."""
    header = ("ranks", "by number", "predicted", "by work", "predicted", "deal takes (CPU)")
    rows = [header]
    for ranks in options.ranks:
        batches = [rng.choice(work, ranks * options.per_rank) for _ in range(options.batches)]
        found = {
            by: statistics.mean(
                above_mean(np.bincount(dealt(batch, ranks, by), batch, minlength=ranks))
                for batch in batches
            )
            for by in DEALS
        }
        seconds = min(seconds_of(partial(deal, batch, ranks)) for batch in batches)
        said = {by: f"{predicted(ranks, options.per_rank, by):.2%}" for by in DEALS}
        cells = [text for by in DEALS for text in (f"{found[by]:.2%}", said[by])]
        rows.append((f"{ranks}", *cells, f"{seconds * 1e3:.1f} ms"))
    return rows


def predicted(ranks: int, per_rank: int, by: Deal) -> float:
    """What the planner says of the slowest rank of one branch."""
    dataset = Dataset("crystals", 1e9, MEAN_ATOMS, VARIATION, edges_per_atom=28.0)
    machine = GENERIC_CPU.model_copy(update={"max_nodes": ranks})
    step = predict(
        "mtl-par",
        machine=machine,
        census=take_census(MODEL),
        workload=Workload({"crystals": dataset}, float(per_rank * ranks)),
        ranks=ranks,
        deal=by,
    ).step
    return step.imbalance / step.compute


def computed(
    pool: StructureBatch, work: Array, options: argparse.Namespace, rng: np.random.Generator
) -> list[tuple[str, ...]]:
    """Forward and backward passes of the shares of a few ranks, one after another."""
    model = MultiTaskModel(MODEL, ("crystals",), seed=0)
    share_seconds(model, pool.slice(0, 8))
    rows: list[tuple[str, ...]] = [
        ("ranks", "by number", "by its work", "by work", "by its work", "slowest, of by number")
    ]
    for ranks in options.computed_ranks:
        measured: dict[Deal, list[float]] = {by: [] for by in DEALS}
        expected: dict[Deal, list[float]] = {by: [] for by in DEALS}
        slowest: dict[Deal, float] = dict.fromkeys(DEALS, 0.0)
        for _ in range(options.batches):
            batch = rng.choice(len(pool), ranks * options.computed_per_rank, replace=False)
            for by in DEALS:
                owner = dealt(work[batch], ranks, by)
                shares = [pool.take(batch[owner == rank]) for rank in range(ranks)]
                seconds = np.array(
                    [share_seconds(model, share, options.rounds) for share in shares]
                )
                measured[by].append(above_mean(seconds))
                slowest[by] += seconds.max()
                loads = np.bincount(owner, work[batch], minlength=ranks)
                expected[by].append(above_mean(loads))
        means = [
            f"{statistics.mean(side[by]):.1%}" for by in DEALS for side in (measured, expected)
        ]
        rows.append((f"{ranks}", *means, f"{slowest['work'] / slowest['count']:.2f}"))
    return rows


def share_seconds(model: MultiTaskModel, share: StructureBatch, rounds: int = 1) -> float:
    """CPU seconds of a forward and backward pass, the best of some."""
    batch = collate(share, GRAPH, dtype=torch.float32)
    segments = [Segment("crystals", 0, len(share), (0, share.total_atoms))]

    def run() -> None:
        prediction = model(batch, segments)
        (prediction.energy_per_atom.abs().sum() + prediction.forces.abs().sum()).backward()

    return min(seconds_of(run) for _ in range(rounds))


def seconds_of(run: Callable[[], object]) -> float:
    """CPU seconds of a call in this thread."""
    started = time.thread_time()
    run()
    return time.thread_time() - started


if __name__ == "__main__":
    main()
