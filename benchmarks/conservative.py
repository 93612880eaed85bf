"""Time and memory of a training step on conservative forces, beside direct ones.

    python benchmarks/conservative.py [--rounds 20]

Networks have the sizes of `config.yaml`. Steps run along a table of edges, as on a CPU; in blocks
of edges, as where there are no kernels; and conservative ones through ordinary operations, which
autograd differentiates twice. The gradients are the same. Times are the best CPU seconds of one
thread over rounds in alternation; memory is the growth of a fresh process over one step.
"""

from __future__ import annotations

import itertools
import resource

import torch
from fresh import best_seconds, measure_apart, read_options
from machine import describe_machine
from step import collate_structures, make_structures

from mtlpar.graph.batch import GraphBatch
from mtlpar.graph.settings import GraphSettings
from mtlpar.model import geometry
from mtlpar.model.egnn import encoder, messages
from mtlpar.model.egnn.edges import in_blocks
from mtlpar.model.multitask import MultiTaskModel, Segment
from mtlpar.model.settings import EgnnSettings, HeadSettings, ModelSettings
from mtlpar.parallel.allocator import keep_freed_memory

# Structures of a batch whose step is timed, and of one whose memory is measured.
TIMED = {"molecules": 16, "crystals": 16}
MEASURED = {"molecules": 400, "crystals": 200}
WAYS = ("direct-table", "direct-blocks", "table", "blocks", "ordinary")
# Pairs of ways that are compared.
RATIOS = (
    ("direct-table", "direct-blocks"),
    ("table", "blocks"),
    ("table", "ordinary"),
    ("table", "direct-table"),
    ("table", "direct-blocks"),
)


def make_network(way: str) -> MultiTaskModel:
    """A network of the default sizes whose forces are found in that way."""
    if way == "ordinary":
        # Nobody promises in which order gradients are wanted.
        messages.forces_come_first = geometry.forces_come_first = lambda: None
    if way.endswith("blocks"):
        encoder.prepare = lambda edge, atoms, sizes: in_blocks(
            edge, atoms, sizes[1], messages.forces_come_first()
        )
    settings = ModelSettings(
        graph=GraphSettings(cutoff_angstrom=5.0, max_neighbors=None),
        encoder=EgnnSettings(width=64, layers=4, vector_channels=16, radial_basis=16),
        head=HeadSettings(
            width=64, layers=2, forces="equivariant" if "direct" in way else "conservative"
        ),
    )
    return MultiTaskModel(settings, ["a"], seed=0)


def step(network: MultiTaskModel, batch: GraphBatch) -> None:
    """Predict, and differentiate a loss of energies and forces."""
    found = network(batch, [Segment("a", 0, len(batch.num_atoms))])
    loss = found.energy_per_atom.abs().mean() + (found.forces - 0.1).norm(dim=1).mean()
    loss.backward()
    network.zero_grad()


def make_batch(kind: str, structures: int) -> GraphBatch:
    """So many shaken structures."""
    return collate_structures(list(itertools.islice(make_structures(kind), structures)))


def measure(way: str, kind: str, rounds: int) -> None:
    """Print seconds of the best round, and the growth in MiB if there is but one round."""
    keep_freed_memory()
    torch.set_num_threads(1)
    network = make_network(way)
    step(network, make_batch(kind, 1))
    batch = make_batch(kind, (TIMED if rounds > 1 else MEASURED)[kind])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    best = best_seconds(lambda: step(network, batch), rounds)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(batch.edge_index.shape[1], best, grown)


def run(way: str, kind: str, rounds: int) -> tuple[int, float, float]:
    """Edges, seconds and MiB as a fresh process measures them."""
    edges, seconds, grown = measure_apart(__file__, way, kind, rounds=rounds)
    return int(edges), seconds, grown


def main() -> None:
    """Print every measurement."""
    options = read_options(__doc__, measured=2)
    if options.measure:
        measure(*options.measure, options.rounds)
        return
    print(describe_machine())
    for kind in TIMED:
        seconds = dict.fromkeys(WAYS, float("inf"))
        for _, way in itertools.product(range(options.repeats), WAYS):
            edges, found, _ = run(way, kind, options.rounds)
            seconds[way] = min(seconds[way], 1e3 * found)
        tell(f"{kind}, {edges} edges", seconds, "ms")
        grown = {way: run(way, kind, 1) for way in WAYS}
        mib = {way: found for way, (_, _, found) in grown.items()}
        tell(f"{kind}, {grown['table'][0]} edges", mib, "MiB")


def tell(what: str, values: dict[str, float], unit: str) -> None:
    """Print a quantity by each way, and its ratios."""
    text = ", ".join(f"{way} {value:.4g} {unit}" for way, value in values.items())
    print(f"{what}: {text}")
    for one, other in RATIOS:
        print(f"  ratio of {one} to {other}: {values[one] / values[other]:.2f}", flush=True)


if __name__ == "__main__":
    main()
