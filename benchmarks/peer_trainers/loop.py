"""Trains any peer for so many CPU seconds, the same way for all of them.

A script beside this one says how one library makes its network, graphs and predictions; `run` does
the rest. It runs in the library's own environment, which has torch, NumPy and ASE, not mtlpar.

The clock counts collating, forward and backward passes and the optimiser, as the operating system
counts seconds of the process. Imports, graphs of the training set, validation and the first passes,
in which libraries compile, are not counted. The rate rises over the first fiftieth of the seconds
and falls along a cosine over the others, so no library ends at a high one. A moving average of the
weights is validated five times in the second half, and the best is kept.

Networks learn energies less the references of the elements, which are fitted by least squares to
the training set. The loss is the sum of what the benchmark scores: mean absolute errors of the
energy per atom (eV) and of the components of forces (eV/Å). Steps are Adam's with AMSGrad, on eight
structures: small batches, as these libraries advise for small sets.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.io import read
from ase.md.verlet import VelocityVerlet
from ase.neighborlist import neighbor_list
from torch.optim.swa_utils import AveragedModel

CUTOFF_ANGSTROM = 5.0
_BATCH = 8
_BATCH_AT_INFERENCE = 16
_AVERAGE_DECAY = 0.99
_VALIDATIONS = 5
_WARM_UP_PASSES = 3
_GRADIENT_NORM = 10.0


@dataclass(frozen=True)
class Statistics:
    """What networks are built from.

    Attributes:
        elements: Atomic numbers of the training set, in order.
        force_rms: Root mean square of the components of its forces, eV/Å.
        neighbors: Mean number of neighbours of an atom.
    """

    elements: list[int]
    force_rms: float
    neighbors: float


class Peer(ABC):
    """A library's network and what it is fed with. Energies lack the references.

    Attributes:
        network: What is trained.
        rate: Its highest learning rate.
    """

    network: torch.nn.Module
    rate: float

    @abstractmethod
    def graph(self, atoms: Atoms) -> Any:
        """The library's graph of a structure."""

    @abstractmethod
    def collate(self, graphs: Sequence[Any]) -> Any:
        """One batch of some graphs, which must stay as they are."""

    @abstractmethod
    def predict(
        self, network: torch.nn.Module, batch: Any, *, training: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Energies (S,) in eV and forces (A, 3) in eV/Å; differentiable if training."""

    @abstractmethod
    def calculator(self) -> Calculator:
        """The library's own ASE calculator on the network."""


class Clock:
    """CPU seconds of this process, in all its threads, within ``with clock.counts():``."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def counts(self) -> Iterator[None]:
        """Count what happens in the block."""
        started = time.process_time()
        yield
        self.seconds += time.process_time() - started


@dataclass
class Data:
    """Structures with targets.

    Attributes:
        structures: S structures.
        energies: Energies less references, (S,), eV.
        graphs: The library's graphs.
    """

    structures: list[Atoms]
    energies: np.ndarray
    graphs: list[Any]

    def of(
        self, indices: Sequence[int]
    ) -> tuple[list[Any], torch.Tensor, torch.Tensor, torch.Tensor]:
        """Graphs, energies per atom (s,), forces (a, 3) and numbers of atoms of some structures."""
        chosen = [self.structures[index] for index in indices]
        sizes = torch.tensor([len(atoms) for atoms in chosen])
        energies = torch.as_tensor(self.energies[list(indices)], dtype=torch.float32) / sizes
        forces = np.concatenate([atoms.get_forces() for atoms in chosen])
        return (
            [self.graphs[index] for index in indices],
            energies,
            torch.as_tensor(forces, dtype=torch.float32),
            sizes,
        )


def train(peer: Peer, data: dict[str, Data], *, seconds: float, seed: int) -> dict[str, float]:
    """Train until the seconds are used up, and leave the best average in the network."""
    clock, optimizer = Clock(), torch.optim.Adam(peer.network.parameters(), amsgrad=True)
    average = AveragedModel(peer.network, avg_fn=moving_average)
    best, best_weights, steps = math.inf, None, 0
    validate_at = seconds * (0.5 + 0.5 / _VALIDATIONS)
    warm_up(peer, data["train"])
    for indices in batches(len(data["train"].structures), _BATCH, seed):
        graphs, *targets = data["train"].of(indices)
        with clock.counts():
            for group in optimizer.param_groups:
                group["lr"] = peer.rate * rate_at(clock.seconds / seconds)
            found = peer.predict(peer.network, peer.collate(graphs), training=True)
            optimizer.zero_grad()
            sum(errors(found, *targets)).backward()
            torch.nn.utils.clip_grad_norm_(peer.network.parameters(), _GRADIENT_NORM)
            optimizer.step()
            average.update_parameters(peer.network)
        steps += 1
        if clock.seconds >= min(validate_at, seconds):
            validate_at += seconds / 2 / _VALIDATIONS
            score = validation_score(peer, average.module, data["val"])
            if score < best:
                best = score
                best_weights = {k: v.clone() for k, v in average.module.state_dict().items()}
        if clock.seconds >= seconds:
            break
    if best_weights is None:
        raise SystemExit(f"diverged: the validation score is never finite in {steps} steps")
    peer.network.load_state_dict(best_weights)
    epochs = steps * _BATCH / len(data["train"].structures)
    return {"cpu_seconds": clock.seconds, "steps": steps, "epochs": epochs, "val_score": best}


def moving_average(
    average: torch.Tensor, new: torch.Tensor, steps: torch.Tensor | int
) -> torch.Tensor:
    """An average that forgets its beginning: one of so many steps is no older than they are."""
    decay = min(_AVERAGE_DECAY, (1 + int(steps)) / (10 + int(steps)))
    return average + (1 - decay) * (new - average)


def warm_up(peer: Peer, data: Data) -> None:
    """Some passes over the first batch."""
    for _ in range(_WARM_UP_PASSES):
        graphs, *targets = data.of(range(_BATCH))
        found = peer.predict(peer.network, peer.collate(graphs), training=True)
        sum(errors(found, *targets)).backward()
    peer.network.zero_grad()


def batches(count: int, size: int, seed: int) -> Iterator[list[int]]:
    """Full batches of shuffled indices, for ever."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(count).tolist()
        for first in range(0, max(1, count - size + 1), size):
            yield order[first : first + size]


def rate_at(share: float) -> float:
    """Share of the highest rate after a share of the seconds."""
    warm_up = 0.02
    if share < warm_up:
        return (share + 1e-3) / warm_up
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def errors(
    found: tuple[torch.Tensor, torch.Tensor],
    energies: torch.Tensor,
    forces: torch.Tensor,
    sizes: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean absolute errors of the energy per atom and of the components of forces."""
    return (found[0] / sizes - energies).abs().mean(), (found[1] - forces).abs().mean()


def validation_score(peer: Peer, network: torch.nn.Module, data: Data) -> float:
    """Sum of both errors on the validation set."""
    total = 0.0
    for first in range(0, len(data.structures), _BATCH_AT_INFERENCE):
        part = range(first, min(first + _BATCH_AT_INFERENCE, len(data.structures)))
        graphs, *targets = data.of(part)
        found = peer.predict(network, peer.collate(graphs), training=False)
        total += len(part) * sum(errors(found, *targets)).item()
    return total / len(data.structures)


def predict(peer: Peer, structures: Sequence[Atoms]) -> tuple[np.ndarray, np.ndarray]:
    """Energies (S,) and forces (A, 3) of structures, from their positions on."""
    energies, forces = [], []
    for first in range(0, len(structures), _BATCH_AT_INFERENCE):
        graphs = [peer.graph(atoms) for atoms in structures[first : first + _BATCH_AT_INFERENCE]]
        found = peer.predict(peer.network, peer.collate(graphs), training=False)
        energies.append(found[0].detach().double().numpy())
        forces.append(found[1].detach().double().numpy())
    return np.concatenate(energies), np.concatenate(forces)


def fit_references(structures: Sequence[Atoms]) -> np.ndarray:
    """Energies of elements that explain most of the total energies, by atomic number."""
    counts = composition(structures)
    targets = np.array([atoms.get_potential_energy() for atoms in structures])
    return np.linalg.lstsq(counts, targets, rcond=None)[0]


def composition(structures: Sequence[Atoms]) -> np.ndarray:
    """Atoms of each atomic number, (S, 119)."""
    return np.array([np.bincount(atoms.numbers, minlength=119) for atoms in structures], float)


def statistics_of(structures: Sequence[Atoms]) -> Statistics:
    """What networks are built from."""
    forces = np.concatenate([atoms.get_forces() for atoms in structures])
    some = structures[::10]
    pairs = sum(len(neighbor_list("i", atoms, CUTOFF_ANGSTROM)) for atoms in some)
    return Statistics(
        elements=sorted({int(number) for atoms in structures for number in atoms.numbers}),
        force_rms=float(np.sqrt((forces**2).mean())),
        neighbors=pairs / sum(len(atoms) for atoms in some),
    )


def step_ms(calculator: Calculator, atoms: Atoms) -> float:
    """CPU milliseconds of a step of velocity Verlet, from 300 K on; the best of ten pieces."""
    atoms = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    atoms.calc = calculator
    thermal = np.sqrt(atoms.get_masses()[:, None] * units.kB * 300)
    atoms.set_momenta(thermal * np.random.default_rng(0).normal(size=(len(atoms), 3)))
    dynamics = VelocityVerlet(atoms, timestep=0.5 * units.fs)
    dynamics.run(5)
    taken = []
    for _ in range(10):
        started = time.process_time()
        dynamics.run(5)
        taken.append(time.process_time() - started)
    return min(taken) / 5 * 1e3


def measure(
    out: Path,
    predict_all: Callable[[], tuple[np.ndarray, np.ndarray]],
    calculator: Calculator,
    structures: Sequence[Atoms],
) -> dict[str, float]:
    """Write predictions of the test set; CPU milliseconds of a structure and of a step."""
    started = time.process_time()
    energies, forces = predict_all()
    taken = time.process_time() - started
    np.savez(out / "predictions.npz", energies=energies, forces=forces)
    return {
        "ms_per_structure": taken / len(structures) * 1e3,
        "ms_per_step": step_ms(calculator, structures[0]),
    }


def read_job() -> dict[str, Any]:
    """What the benchmark asks for; this process moves to the core that it names."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {job["core"]})
    torch.set_num_threads(1)
    torch.manual_seed(job["seed"])
    return job


def run(make: Callable[[Statistics], Peer]) -> None:
    """Train, predict and measure as the job says, and write ``result.json`` beside it."""
    job = read_job()
    sets = {name: read(job[name], ":") for name in ("train", "val", "test")}
    references = fit_references(sets["train"])
    peer = make(statistics_of(sets["train"]))
    data = {}
    for name in ("train", "val"):
        energies = [atoms.get_potential_energy() for atoms in sets[name]]
        rest = np.array(energies) - composition(sets[name]) @ references
        data[name] = Data(sets[name], rest, [peer.graph(atoms) for atoms in sets[name]])
    result = train(peer, data, seconds=job["cpu_seconds"], seed=job["seed"])
    peer.network.eval()

    def predict_test() -> tuple[np.ndarray, np.ndarray]:
        energies, forces = predict(peer, sets["test"])
        return energies + composition(sets["test"]) @ references, forces

    out = Path(job["out"])
    result |= measure(out, predict_test, peer.calculator(), sets["test"])
    result["parameters"] = sum(value.numel() for value in peer.network.parameters())
    (out / "result.json").write_text(json.dumps(result), encoding="utf-8")
