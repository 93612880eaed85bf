"""Neighbour lists with a cutoff of 5 Å and the 20 nearest: batched search against one by one.

Structures have realistic densities: molecules fill a sphere with 7 Å^3 an atom, crystals have
skewed cells with 11 to 19 Å^3 an atom. Everything runs on one core; the best of several rounds in
alternation counts. ``--device cuda`` adds the search that accelerators use.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.neighborlist import neighbor_list as ase_neighbor_list
from machine import describe_machine
from vesin import NeighborList

from mtlpar.core.structures import StructureBatch
from mtlpar.graph.binned import binned_neighbor_list
from mtlpar.graph.neighbors import neighbor_list
from mtlpar.graph.settings import GraphSettings
from mtlpar.parallel.device import wait_for

SETTINGS = GraphSettings(cutoff_angstrom=5.0, max_neighbors=20)
TARGETS = {"molecules of 14 atoms": 100_000, "crystals of 8 atoms": 15_000}


def molecules(count: int, atoms: int, rng: np.random.Generator) -> StructureBatch:
    """Open structures of equal size, uniform in a sphere."""
    radius = (7.0 * atoms * 3 / (4 * np.pi)) ** (1 / 3)
    direction = rng.normal(size=(count * atoms, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    positions = radius * direction * rng.random((count * atoms, 1)) ** (1 / 3)
    return _batch(count, atoms, positions)


def crystals(count: int, atoms: int, rng: np.random.Generator) -> StructureBatch:
    """Periodic structures of equal size in skewed cells."""
    volume = rng.uniform(11, 19, (count, 1, 1)) * atoms
    cell = np.eye(3) + 0.15 * rng.normal(size=(count, 3, 3))
    cell *= (volume / np.abs(np.linalg.det(cell))[:, None, None]) ** (1 / 3)
    positions = rng.random((count, atoms, 3)) @ cell
    return _batch(count, atoms, positions.reshape(-1, 3), cell=cell, pbc=np.ones((count, 3)))


def _batch(count: int, atoms: int, positions: np.ndarray, **optional: Any) -> StructureBatch:
    return StructureBatch.from_labels(
        num_atoms=np.full(count, atoms),
        atomic_numbers=np.full(count * atoms, 6),
        positions=positions,
        energy=np.zeros(count),
        forces=np.zeros((count * atoms, 3)),
        group=np.arange(count),
        **optional,
    )


def batched(batch: StructureBatch, size: int) -> None:
    """The project's way."""
    for start in range(0, len(batch), size):
        neighbor_list(batch.slice(start, min(start + size, len(batch))), SETTINGS)


def on_device(batch: StructureBatch, size: int, device: torch.device) -> None:
    """The project's way on an accelerator."""
    for start in range(0, len(batch), size):
        part = batch.slice(start, min(start + size, len(batch)))
        binned_neighbor_list(part, SETTINGS, device)
    wait_for(device)


def one_by_one(batch: StructureBatch) -> None:
    """The linked cells of vesin for each structure, without truncation."""
    search = NeighborList(cutoff=SETTINGS.cutoff_angstrom, full_list=True, n_threads=1)
    first = batch.offsets
    positions, cell = batch.positions.astype(np.float64), batch.cell.astype(np.float64)
    for i in range(len(batch)):
        search.compute(positions[first[i] : first[i + 1]], cell[i], batch.pbc[i] > 0, "ijS")


def with_ase(batch: StructureBatch) -> None:
    """ASE for each structure, without truncation."""
    first = batch.offsets
    for i in range(len(batch)):
        atoms = Atoms(
            positions=batch.positions[first[i] : first[i + 1]],
            numbers=batch.atomic_numbers[first[i] : first[i + 1]],
            cell=batch.cell[i],
            pbc=batch.pbc[i],
        )
        ase_neighbor_list("ijS", atoms, SETTINGS.cutoff_angstrom)


def best_rates(runs: dict[str, tuple[Callable[[], None], int]], rounds: int) -> dict[str, float]:
    """Structures per second of each run, best of several rounds in alternation."""
    best = dict.fromkeys(runs, 0.0)
    for _ in range(rounds):
        for name, (run, structures) in runs.items():
            started = time.perf_counter()
            run()
            best[name] = max(best[name], structures / (time.perf_counter() - started))
    return best


def main() -> None:
    """Print rates and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--structures", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=512, help="structures per call")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", type=torch.device, help="search there too")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    print(describe_machine())
    cases = {
        "molecules of 14 atoms": molecules(options.structures, 14, rng),
        "crystals of 8 atoms": crystals(options.structures, 8, rng),
    }
    few = max(1, options.structures // 64)
    for name, batch in cases.items():
        part = batch.slice(0, few)
        ways = {
            "batched": (lambda batch=batch: batched(batch, options.batch), len(batch)),
            "vesin": (lambda part=part: one_by_one(part), few),
            "ASE": (lambda part=part: with_ase(part), few),
        }
        if options.device is not None:
            search = partial(on_device, batch, options.batch, options.device)
            ways[f"{options.device}"] = (search, len(batch))
        rates = best_rates(ways, options.rounds)
        print(f"\n{name}, cutoff 5 Å, 20 nearest, calls of {options.batch}")
        for way, rate in rates.items():
            print(f"  {way:<10}{rate:>12,.0f} structures/s")
        print(f"  ratio to vesin  {rates['batched'] / rates['vesin']:.1f}x")
        print(f"  ratio to ASE    {rates['batched'] / rates['ASE']:.1f}x")
        if options.device is not None:
            ratio = rates[f"{options.device}"] / rates["batched"]
            print(f"  ratio of {options.device} to batched  {ratio:.1f}x")
        target = TARGETS[name]
        print(f"  ratio to target {rates['batched'] / target:.2f}x  (target {target:,}/s)")


if __name__ == "__main__":
    main()
