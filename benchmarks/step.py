"""Time and memory of a training step beside a plain implementation of the same function.

    python benchmarks/step.py

Both sides are the `paper` preset with the same weights and the same numbers out. The plain side
feeds each edge the concatenation of both atoms' features and keeps what autograd keeps. Times are
the best of several runs in alternation, so that a busy machine disturbs both sides alike; memory is
the growth of a fresh process over one step, weights and optimizer included.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule
from machine import describe_machine
from torch import Tensor, nn

from mtlpar.core.ase_structures import structure_batch
from mtlpar.graph.batch import GraphBatch
from mtlpar.graph.collate import collate
from mtlpar.graph.settings import GraphSettings
from mtlpar.model.egnn.encoder import EgnnLayer
from mtlpar.model.geometry import Edge, sum_to_receivers
from mtlpar.model.multitask import MultiTaskModel, Prediction, Segment
from mtlpar.model.settings import EgnnSettings, HeadSettings, ModelSettings

MOLECULES = ("C6H6", "isobutane", "trans-butane", "CH3CONH2", "C4H4NH", "CH3COCH3", "cyclobutane")


class PlainLayer(nn.Module):
    """`EgnnLayer` as one would write it down: edge inputs concatenated, sums by index_add."""

    def __init__(self, layer: EgnnLayer) -> None:
        super().__init__()
        parts = [layer.receiver_in, layer.sender_in, layer.features_in]
        weight = torch.cat([part.weight for part in parts], dim=1)
        self.edge = nn.Sequential(
            nn.Linear(weight.shape[1], len(weight)), nn.SiLU(), layer.message, nn.SiLU()
        )
        self.edge[0].weight = nn.Parameter(weight.detach())
        self.edge[0].bias = layer.receiver_in.bias
        self.vectors_in, self.filter = layer.vectors_in, layer.filter
        self.vector_out, self.update, self.norm = layer.vector_out, layer.update, layer.norm
        self.inner_products = layer.inner_products

    def forward(self, scalars: Tensor, vectors: Tensor, edge: Edge) -> tuple[Tensor, Tensor]:
        """See `EgnnLayer.forward`."""
        h = self.norm(scalars)
        inputs = [h[edge.receiver], h[edge.sender], edge.radial]
        direction = edge.direction[:, None, :]
        if self.vectors_in:
            inputs += [
                (vectors[ends] * direction).sum(dim=2) for ends in (edge.receiver, edge.sender)
            ]
        message = self.edge(torch.cat(inputs, dim=1)) * self.filter(edge.radial)
        lengths = self.vector_out(message)[:, :, None]
        pushes = lengths[:, : vectors.shape[1]] * direction
        if self.vectors_in:
            pushes = pushes + lengths[:, vectors.shape[1] :] * vectors[edge.sender]
        received = sum_to_receivers(message, edge.receiver, len(scalars))
        added = sum_to_receivers(pushes, edge.receiver, len(scalars))
        inner = self.inner_products(vectors + added)
        return scalars + self.update(torch.cat([h, received, inner], dim=1)), added


def paper_settings(**encoder: Any) -> ModelSettings:
    """Sizes of ``workflow/presets/paper.yaml``."""
    return ModelSettings(
        graph=GraphSettings(cutoff_angstrom=5.0, max_neighbors=20),
        encoder=EgnnSettings(width=866, layers=4, vector_channels=8, radial_basis=16, **encoder),
        head=HeadSettings(width=889, layers=3),
    )


def make_plain(network: MultiTaskModel) -> MultiTaskModel:
    """The same function with plain layers."""
    plain = copy.deepcopy(network)
    plain.encoder.layers = nn.ModuleList(PlainLayer(layer) for layer in plain.encoder.layers)
    return plain


def make_structures(kind: str, seed: int = 0) -> Iterator[Atoms]:
    """Shaken molecules or crystals without end."""
    for index in itertools.count(seed):
        if kind == "molecules":
            atoms = molecule(MOLECULES[index % len(MOLECULES)])
        else:
            atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True).repeat((2, 1, 1))
        atoms.rattle(0.1, seed=index)
        yield atoms


def make_batch(kind: str, edges: int, dtype: torch.dtype = torch.float32) -> GraphBatch:
    """Molecules or crystals with about that many edges."""
    structures: list[Atoms] = []
    found = 0
    for atoms in make_structures(kind):
        structures.append(atoms)
        found += len(atoms) * (20 if kind == "crystals" else len(atoms) - 1)
        if found >= edges:
            break
    return collate_structures(structures, dtype)


def collate_structures(
    structures: Sequence[Atoms], dtype: torch.dtype = torch.float32
) -> GraphBatch:
    """A batch with the preset's edges."""
    return collate(structure_batch(structures), paper_settings().graph, dtype=dtype)


def loss_of(network: MultiTaskModel, batch: GraphBatch) -> tuple[Tensor, Prediction]:
    """Mean absolute energies and forces against targets of zero."""
    prediction = network(batch, [Segment("a", 0, len(batch.num_atoms), (0, len(batch.z)))])
    loss = prediction.energy_per_atom.abs().mean() + 100 * prediction.forces.abs().mean()
    return loss, prediction


class Step:
    """Forward, backward and AdamW on one batch."""

    def __init__(self, network: MultiTaskModel, batch: GraphBatch, *, bf16: bool = False) -> None:
        self.network, self.batch, self.bf16 = network, batch, bf16
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, fused=True)

    def __call__(self) -> None:
        """Take the step."""
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.bf16, self.batch.pos.device.type):
            loss, _ = loss_of(self.network, self.batch)
        loss.backward()
        self.optimizer.step()


def autocast(bf16: bool, device_type: str = "cpu") -> contextlib.AbstractContextManager[Any]:
    """Products in bf16, or nothing."""
    return torch.autocast(device_type, torch.bfloat16) if bf16 else contextlib.nullcontext()


def best_seconds(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Best time of each call, taken in turns."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(repeats + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - started)
    return best


def product_flops(network: MultiTaskModel, batch: GraphBatch) -> float:
    """Operations of the matrix products of one step as this package computes them.

    A weight of n numbers applied to r rows costs 2 n r forward and twice that backward, where its
    rows are differentiated. Products of edge features, but the large one, are done once more in the
    backward pass.
    """
    atoms, edges = len(batch.z), batch.edge_index.shape[1]
    settings = network.settings.encoder
    vectors = settings.vector_channels
    total = 0.0
    for name, parameter in network.named_parameters():
        if parameter.dim() != 2 or "species" in name:
            continue
        passes, rows = 3.0, edges
        if "features_in" in name:
            # Radial functions are not differentiated, components of vectors are.
            passes += 1 - settings.radial_basis / parameter.shape[1]
        elif "vector_out" in name:
            passes += 1 - vectors / len(parameter)
        elif not any(part in name for part in (".message.", ".filter.", ".edge.")):
            rows = atoms
        total += 2 * passes * parameter.numel() * rows
    return total


def matmul_call(dtype: torch.dtype) -> tuple[Callable[[], Any], float]:
    """A product of the sizes that the step is made of, and its operations."""
    rows, width = 4096, 866
    a, b = torch.randn(rows, width, dtype=dtype), torch.randn(width, width, dtype=dtype)
    out = torch.empty(rows, width, dtype=dtype)
    return (lambda: torch.mm(a, b, out=out)), 2.0 * rows * width * width


def report_equality() -> None:
    """Show that both sides compute the same numbers."""
    settings = paper_settings()
    network = MultiTaskModel(settings, ["a"], seed=0).double()
    plain = make_plain(network)
    batch = make_batch("crystals", 400, torch.float64)
    gradients = []
    predictions = []
    for model in (network, plain):
        loss, prediction = loss_of(model, batch)
        loss.backward()
        predictions.append(prediction)
        gradients.append(model.encoder.species.weight.grad)
    pairs = [*zip(predictions[0][:2], predictions[1][:2], strict=True), gradients]
    worst = max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)
    print(f"same numbers in float64 (energies, forces, gradients)   {worst:.1e} relative")


def report_times(kind: str, edges: int, repeats: int) -> None:
    """Times of a step on one kind of batch."""
    network = MultiTaskModel(paper_settings(), ["a"], seed=0)
    batch = make_batch(kind, edges)
    flops = product_flops(network, batch)
    product, product_ops = matmul_call(torch.float32)
    product_bf16, _ = matmul_call(torch.bfloat16)
    seconds = best_seconds(
        {
            "plain": Step(make_plain(network), batch),
            "float32": Step(network, batch),
            "bf16": Step(copy.deepcopy(network), batch, bf16=True),
            "matmul": product,
            "matmul bf16": product_bf16,
        },
        repeats,
    )
    peak, peak_bf16 = (product_ops / seconds[name] for name in ("matmul", "matmul bf16"))
    size = f"{len(batch.num_atoms)} {kind}, {len(batch.z)} atoms, {batch.edge_index.shape[1]} edges"
    print(f"\n{size}")
    for name in ("plain", "float32", "bf16"):
        print(f"  {name:10}{seconds[name]:8.3f} s/step")
    fast, fast_bf16 = seconds["plain"] / seconds["float32"], seconds["plain"] / seconds["bf16"]
    share, share_bf16 = flops / seconds["float32"] / peak, flops / seconds["bf16"] / peak_bf16
    print(f"  ratio float32     {fast:6.2f}x  (target >= 2.0x)")
    print(f"  ratio bf16        {fast_bf16:6.2f}x  (target >= 4.0x)")
    print(f"  share of peak     {share:6.0%}   (target >= 85%; peak {peak / 1e9:.0f} GFLOP/s)")
    print(f"  share of bf16 peak{share_bf16:6.0%}   (peak {peak_bf16 / 1e9:.0f} GFLOP/s)")


def report_conservative(edges: int, repeats: int) -> None:
    """Cost of forces as gradients."""
    batch = make_batch("crystals", edges)
    settings = paper_settings()
    conservative = settings.model_copy(
        update={"head": settings.head.model_copy(update={"forces": "conservative"})}
    )
    seconds = best_seconds(
        {
            name: Step(MultiTaskModel(each, ["a"], seed=0), batch)
            for name, each in {"direct": settings, "conservative": conservative}.items()
        },
        repeats,
    )
    ratio = seconds["conservative"] / seconds["direct"]
    print(f"\nconservative / direct forces     {ratio:6.2f}x  (target <= 2.5x)")


def report_memory(edges: int) -> None:
    """Memory of one step in fresh processes."""
    found = {}
    for name in ("plain", "ours", "checkpointed"):
        command = [sys.executable, __file__, "--memory-of", name, "--edges", str(edges)]
        found[name] = int(subprocess.run(command, check=True, capture_output=True).stdout) / 2**20
    print(f"\nmemory of a step on crystals, {edges} edges")
    for name, mebibytes in found.items():
        print(f"  {name:14}{mebibytes:8.0f} MiB")
    print(f"  ratio             {found['ours'] / found['plain']:6.2f}   (target <= 0.50)")
    print(f"  with checkpointing{found['checkpointed'] / found['plain']:6.2f}   (target <= 0.25)")


def measure_memory(name: str, edges: int) -> int:
    """Growth of the resident memory of this process over building a model and one step.

    A tiny step before it makes the optimizer's moments, which later steps find there.
    """
    batch = make_batch("crystals", edges)
    before = _peak_resident_bytes()
    settings = paper_settings(activation_checkpointing=name == "checkpointed")
    network = MultiTaskModel(settings, ["a"], seed=0)
    step = Step(make_plain(network) if name == "plain" else network, make_batch("crystals", 100))
    step()
    step.batch = batch
    step()
    return _peak_resident_bytes() - before


def _peak_resident_bytes() -> int:
    # Not getrusage: its maximum includes the parent's memory from before this program started.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def report_bf16_accuracy(steps: int) -> None:
    """Validation error of a small model trained in float32 and in bf16 from the same start."""
    errors = {name: _trained_error(steps, bf16=name == "bf16") for name in ("float32", "bf16")}
    print(f"\nvalidation force error after {steps} steps, targets of size one")
    for name, error in errors.items():
        print(f"  {name:10}{error:8.4f}")
    print(f"  ratio         {errors['bf16'] / errors['float32']:6.3f}   (target <= 1.02)")


def _trained_error(steps: int, *, bf16: bool) -> float:
    settings = ModelSettings(encoder=EgnnSettings(width=96, layers=3), head=HeadSettings(width=96))
    network = MultiTaskModel(settings, ["a"], seed=0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    batches = list(_repulsive_batches(24))
    for step in range(steps):
        batch, target = batches[step % 20]
        optimizer.zero_grad()
        with autocast(bf16):
            prediction = network(batch, [Segment("a", 0, len(batch.num_atoms))])
        (prediction.forces - target).abs().mean().backward()
        optimizer.step()
        schedule.step()
    errors = []
    with torch.no_grad(), autocast(bf16):
        for batch, target in batches[20:]:
            prediction = network(batch, [Segment("a", 0, len(batch.num_atoms))])
            errors.append(float((prediction.forces - target).abs().mean()))
    return float(np.mean(errors))


def _repulsive_batches(count: int) -> Iterator[tuple[GraphBatch, Tensor]]:
    """Random molecules that repel each other like softened charges; forces of size one."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        structures = []
        forces = []
        for _ in range(16):
            positions = 1.5 * rng.normal(size=(rng.integers(5, 12), 3))
            numbers = rng.choice([1, 6, 8], len(positions))
            vector = positions[:, None] - positions
            distance = np.sqrt((vector**2).sum(-1) + 0.5)
            product = numbers[:, None] * numbers / 16
            forces.append((product[..., None] * vector / distance[..., None] ** 3).sum(axis=1))
            structures.append(Atoms(numbers, positions))
        target = np.concatenate(forces)
        target /= np.abs(target).mean()
        yield (
            collate(structure_batch(structures), GraphSettings()),
            torch.from_numpy(target).float(),
        )


def main() -> None:
    """Print all comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--edges", type=int, default=4000, help="edges of a timed batch")
    parser.add_argument("--memory-edges", type=int, default=28000, help="edges for memory")
    parser.add_argument("--repeats", type=int, default=4, help="runs of which the best counts")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--train-steps", type=int, default=200, help="steps of the bf16 comparison")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        print(measure_memory(options.memory_of, options.edges))
        return
    print(describe_machine())
    report_equality()
    for kind in ("molecules", "crystals"):
        report_times(kind, options.edges, options.repeats)
    report_conservative(options.edges // 2, options.repeats)
    report_memory(options.memory_edges)
    report_bf16_accuracy(options.train_steps)


if __name__ == "__main__":
    main()
