"""A training step of the `paper` preset on a GPU, beside a plain implementation in float32.

    python benchmarks/gpu.py

Batches have as many structures as the preset gives a rank. Each way takes its steps in alternation
with the others, over several batches of different sizes, and its median counts. Peaks are what a
large matrix product and a large copy reach on the same card. The equality of all ways is checked
first, against the plain implementation in float64.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from machine import describe_machine
from step import (
    Step,
    collate_structures,
    loss_of,
    make_plain,
    make_structures,
    paper_settings,
    product_flops,
)
from torch import Tensor

from mtlpar.graph.batch import GraphBatch
from mtlpar.model.cuda_graphs import replay_passes
from mtlpar.model.multitask import MultiTaskModel

STRUCTURES = 128
DEVICE = torch.device("cuda")


class Way(NamedTuple):
    """How a step is computed.

    Attributes:
        precision: ``float32``, ``tf32`` or ``bf16``.
        form: ``plain``, ``eager`` or ``compiled``, each of the latter also as ``graphs``.
        forces: How forces are predicted.
    """

    precision: str
    form: str
    forces: str = "equivariant"

    def __str__(self) -> str:
        kind = "" if self.forces == "equivariant" else f" {self.forces}"
        return f"{self.form} {self.precision}{kind}"


WAYS = (
    Way("float32", "plain"),
    Way("float32", "graphs"),
    Way("tf32", "graphs"),
    Way("bf16", "plain"),
    Way("bf16", "eager"),
    Way("bf16", "graphs"),
)
COMPILED_WAYS = (Way("bf16", "compiled"), Way("bf16", "compiled graphs"))


@contextlib.contextmanager
def in_precision(precision: str) -> Iterator[None]:
    """Products of float32 in tf32, or as they are."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


class GpuStep(Step):
    """A step of one way, on one batch after the other."""

    def __init__(self, way: Way, batches: Sequence[GraphBatch]) -> None:
        settings = paper_settings()
        head = settings.head.model_copy(update={"forces": way.forces})
        network = MultiTaskModel(settings.model_copy(update={"head": head}), ["a"], seed=0)
        network = prepared(network.to(DEVICE), way)
        super().__init__(network, batches[0], bf16=way.precision == "bf16")
        self.way, self.batches, self.count = way, batches, 0

    def __call__(self) -> None:
        """Take the next step."""
        self.batch = self.batches[self.count % len(self.batches)]
        self.count += 1
        with in_precision(self.way.precision):
            super().__call__()


def prepared(network: MultiTaskModel, way: Way) -> MultiTaskModel:
    """The network in a form."""
    if way.form == "plain":
        return make_plain(network)
    if way.form.startswith("compiled"):
        network.compile_parts()
    if way.form.endswith("graphs"):
        replay_passes(network)
    return network


def seconds_of(call: Callable[[], Any]) -> float:
    """Time of one call, on the device."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def median_seconds(steps: dict[Any, Callable[[], Any]], rounds: int) -> dict[Any, float]:
    """Median time of each, in alternation; a few calls in a row, so that queues are full."""
    found: dict[Any, list[float]] = {key: [] for key in steps}
    for _ in range(rounds):
        for key, step in steps.items():
            found[key] += [seconds_of(step) for _ in range(4)][1:]
    return {key: statistics.median(values) for key, values in found.items()}


def peak_flops(dtype: torch.dtype, precision: str) -> float:
    """Operations per second of a large matrix product of random numbers."""
    size = 8192 if dtype == torch.bfloat16 or precision == "tf32" else 4096
    a, b = (torch.randn(size, size, device=DEVICE, dtype=dtype) for _ in range(2))
    with in_precision(precision):
        seconds = median_seconds({"": lambda: a @ b}, 4)[""]
    return 2.0 * size**3 / seconds


def copy_bytes() -> float:
    """Bytes read and written per second by a large copy."""
    source = torch.empty(2**31, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * len(source) / median_seconds({"": lambda: target.copy_(source)}, 4)[""]


def report_equality(ways: Sequence[Way], batch: GraphBatch) -> None:
    """Print how far each way is from the plain one in float64."""
    network = MultiTaskModel(paper_settings(), ["a"], seed=0).to(DEVICE)
    exact = make_plain(network).double()
    double = batch.apply(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
    expected = results(exact, double)
    print("\ndistance to plain float64 (relative): energies, forces, all gradients of the encoder")
    for way in ways[1:]:
        network = MultiTaskModel(paper_settings(), ["a"], seed=0).to(DEVICE)
        network = prepared(network, way)
        found = results_of(way, network, batch)
        errors = [float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True)]
        print(f"  {way!s:<22}" + "".join(f"{error:>10.1e}" for error in errors))
        again = results_of(way, network, batch)
        if all(torch.equal(a, b) for a, b in zip(found, again, strict=True)):
            print(f"  {'':<18}the same bits twice")


def results_of(
    way: Way, network: MultiTaskModel, batch: GraphBatch
) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers of one way."""
    with (
        in_precision(way.precision),
        torch.autocast(DEVICE.type, torch.bfloat16, enabled=way.precision == "bf16"),
    ):
        return results(network, batch)


def results(network: MultiTaskModel, batch: GraphBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Energies, forces and gradients in float64."""
    network.zero_grad()
    loss, prediction = loss_of(network, batch)
    loss.backward()
    names = [name for name, _ in network.encoder.named_parameters() if "species" not in name]
    # Plain and fused layers hold the same weights under other names: compare what both have.
    shared = [n for n in names if ".update." in n or ".filter." in n or ".vector_out." in n]
    gradients = [network.encoder.get_parameter(name).grad.flatten() for name in sorted(shared)]
    gradients.append(network.encoder.species.weight.grad.flatten())
    return (
        prediction.energy_per_atom.detach().double(),
        prediction.forces.detach().double(),
        torch.cat(gradients).double(),
    )


def report_times(
    ways: Sequence[Way],
    kind: str,
    batches: Sequence[GraphBatch],
    *,
    rounds: int,
    peaks: dict[str, float],
) -> None:
    """Print the times of some ways on one kind of structures; the first is the measure."""
    steps: dict[Any, GpuStep] = {}
    memory = {}
    for way in ways:
        steps[way] = GpuStep(way, batches)
        torch.cuda.synchronize()
        for _ in range(3):
            steps[way]()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        steps[way]()
        memory[way] = (torch.cuda.max_memory_allocated() - before) / 2**20
    seconds = median_seconds(dict(steps), rounds)
    structures = statistics.mean(len(batch.num_atoms) for batch in batches)
    atoms = statistics.mean(len(batch.z) for batch in batches)
    edges = statistics.mean(batch.edge_index.shape[1] for batch in batches)
    flops = statistics.mean(product_flops(steps[ways[0]].network, batch) for batch in batches)
    flops_ours = statistics.mean(product_flops(steps[ways[1]].network, batch) for batch in batches)
    print(f"\n{structures:.0f} {kind}, {atoms:.0f} atoms, {edges:.0f} edges")
    print("                          ms/step  structures/s    atoms/s   ratio    peak      MiB")
    for way, taken in seconds.items():
        done = flops if way.form == "plain" else flops_ours
        print(
            f"  {way!s:<22}{1000 * taken:>10.2f}{structures / taken:>14,.0f}{atoms / taken:>11,.0f}"
            f"{seconds[ways[0]] / taken:>7.1f}x{done / taken / peaks[way.precision]:>8.0%}"
            f"{memory[way]:>9.0f}"
        )


def report_parts(way: Way, batches: Sequence[GraphBatch]) -> None:
    """Print which kernels take the time of a step."""
    step = GpuStep(way, batches)
    for _ in range(4):
        step()
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(4):
            step()
        torch.cuda.synchronize()
    kernels = [
        event
        for event in profile.key_averages()
        if event.device_type == torch.autograd.DeviceType.CUDA
        # A range around kernels that are listed too.
        and not event.key.startswith("Optimizer.")
    ]
    kernels.sort(key=lambda event: -event.self_device_time_total)
    total = sum(event.self_device_time_total for event in kernels) / 4000
    count = sum(event.count for event in kernels) / 4
    print(f"\nwhere the time of `{way}` goes: {total:.2f} ms in {count:.0f} kernels a step")
    for event in kernels[:28]:
        milliseconds = event.self_device_time_total / 4000
        print(f"  {milliseconds:>8.3f} ms {event.count / 4:>6.1f}  {event.key[:88]}")


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=8, help="rounds of three steps a way")
    parser.add_argument("--compiled", action="store_true", help="compile layers and heads too")
    parser.add_argument("--parts", action="store_true", help="show which kernels take the time")
    options = parser.parse_args()
    card = torch.cuda.get_device_properties(0)
    print(f"{describe_machine()}\n{card.name}, {card.total_memory / 2**30:.0f} GiB")
    peaks = {
        "float32": peak_flops(torch.float32, "float32"),
        "tf32": peak_flops(torch.float32, "tf32"),
        "bf16": peak_flops(torch.bfloat16, "bf16"),
    }
    print("peak, TFLOP/s: " + ", ".join(f"{n} {p / 1e12:.0f}" for n, p in peaks.items()))
    print(f"copy: {copy_bytes() / 1e12:.2f} TB/s")
    kinds = {}
    for kind in ("molecules", "crystals"):
        kinds[kind] = [
            collate_structures(list(islice(make_structures(kind, 5 * i), STRUCTURES - i))).to(
                DEVICE
            )
            for i in range(3)
        ]
    ways = (*WAYS, *(COMPILED_WAYS if options.compiled else ()))
    report_equality(ways, kinds["crystals"][0])
    for kind, batches in kinds.items():
        report_times(ways, kind, batches, rounds=options.rounds, peaks=peaks)
    if options.parts:
        report_parts(Way("bf16", "graphs"), kinds["crystals"])


if __name__ == "__main__":
    main()
