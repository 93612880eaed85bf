"""Measures the rates that the planner needs: of a device, and of what ranks of a node exchange."""

from __future__ import annotations

import itertools
import logging
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from mtlpar.core.collective import collective
from mtlpar.core.wording import counted
from mtlpar.model.settings import ModelSettings
from mtlpar.parallel.device import wait_for
from mtlpar.parallel.layout import ParallelLayout
from mtlpar.parallel.ranks import RankContext
from mtlpar.plan.census import BatchShape, parameters_of, take_census
from mtlpar.plan.machine import Link, Machine
from mtlpar.plan.predict import SHARD_MESSAGES, UPDATE_NUMBERS
from mtlpar.study.steps import StepRunner, StepShape, equal_branches, largest

logger = logging.getLogger(__name__)

_ROUNDS = 3
_PROBES = ((1, 4), (1, 12), (1, 24), (5, 10))
_NARROW = 4
_REDUCE_BYTES = (2**10, 2**16, 2**20, 2**23, 2**25)


@dataclass(frozen=True, slots=True)
class MeasuredStep:
    """A step that was timed, beside what it takes.

    Attributes:
        seconds: Best time.
        flops: Arithmetic.
        memory_bytes: Traffic, the optimizer's included.
        kernels: Operations.
    """

    seconds: float
    flops: float
    memory_bytes: float
    kernels: float


@collective
def calibrate(base: Machine, *, model: ModelSettings, atoms: int, context: RankContext) -> Machine:
    """Replace the rates of a machine by measured ones; see `Calibration`."""
    calibration = Calibration(model=model, atoms=atoms, context=context)
    for _ in range(_ROUNDS):
        calibration.measure()
    return calibration.machine(base)


class Calibration:
    """Measures the rates of a machine, in rounds that other measurements may alternate with.

    All ranks measure at the same time, for cores and memory are shared: start as many as the node
    has devices. Efficiencies are fitted to whole training steps of several sizes; peaks are those
    of a product of large matrices and of a copy. The median of the rounds counts, the slowest rank
    of each.
    """

    @collective
    def __init__(
        self,
        *,
        model: ModelSettings,
        atoms: int,
        context: RankContext,
    ) -> None:
        """Prepare, and do everything once that is slower the first time.

        Args:
            model: Architecture whose steps are timed.
            atoms: Atoms of a structure.
            context: Who this process is.
        """
        self._context = context
        models = (model, _narrow(model))
        self._probes = [
            _Probe(settings, equal_branches(branches, batch), atoms, context.device)
            for settings in models
            for branches, batch in _PROBES
        ]
        self._shard_probes = [
            _ShardProbe(settings, atoms, context) for settings in models if context.world_size > 1
        ]
        self._seconds: dict[str, list[float]] = defaultdict(list)
        self.measure()
        self._seconds.clear()

    @collective
    def measure(self) -> None:
        """Measure everything once more."""
        device = self._context.device
        self._note("product", _matmul_seconds_per_flop(device))
        self._note("copy", _copy_seconds_per_byte(device))
        for index, probe in enumerate(self._probes):
            self._note(f"step {index}", probe.runner.run(1))
        for index, shard_probe in enumerate(self._shard_probes):
            self._note(f"whole {index}", shard_probe.whole.run(1))
            self._note(f"sharded {index}", shard_probe.sharded.run(1))
        if self._context.world_size > 1:
            for size in _REDUCE_BYTES:
                self._note(f"reduction {size}", _reduce_seconds(size, device))

    def machine(self, base: Machine) -> Machine:
        """The machine with measured rates.

        Args:
            base: What else is known: links between nodes, sizes of memory and numbers of nodes.
        """
        flops_per_s = 1 / self._median("product")
        bytes_per_s = 1 / self._median("copy")
        steps = [
            probe.step(self._median(f"step {index}")) for index, probe in enumerate(self._probes)
        ]
        flop_s, byte_s, kernel_s = fit_rates(steps)
        efficiency = base.matmul_efficiency
        if flop_s > 0:
            efficiency = _rounded(1 / (flop_s * flops_per_s))
        elif self._context.rank == 0:
            logger.warning(
                "no product of this model is bound by arithmetic: matmul_efficiency stays %g, as "
                "stated; calibrate with a wider model",
                efficiency,
            )
        ranks = self._context.world_size
        update: dict[str, object] = {
            "peak_tflops": {**base.peak_tflops, "float32": _rounded(flops_per_s / 1e12)},
            "memory_gb_per_s": _rounded(bytes_per_s / 1e9),
            "matmul_efficiency": efficiency,
            "memory_efficiency": _rounded(1 / (byte_s * bytes_per_s)),
            "kernel_us": _rounded(kernel_s * 1e6),
            "calibrated": f"{platform.processor() or platform.machine()}, "
            f"{counted(ranks, f'{self._context.device.type} rank')} at a time, "
            f"torch {torch.__version__}",
        }
        if ranks > 1:
            seconds = [self._median(f"reduction {size}") for size in _REDUCE_BYTES]
            # A ring all-reduce scatters sums and gathers them.
            update["intra_node"] = fit_link(_REDUCE_BYTES, seconds, ranks=ranks, messages=2)
            update["shards"] = self._shards_link()
        return base.model_copy(update=update)

    def _shards_link(self) -> Link:
        sizes = [probe.layer_bytes() for probe in self._shard_probes]
        seconds = [
            max(0.0, self._median(f"sharded {index}") - self._median(f"whole {index}"))
            / (SHARD_MESSAGES * probe.layers)
            for index, probe in enumerate(self._shard_probes)
        ]
        return fit_link(sizes, seconds, ranks=self._context.world_size, messages=1)

    @collective
    def _note(self, what: str, seconds: float) -> None:
        self._seconds[what] += largest([seconds], self._context)

    def _median(self, what: str) -> float:
        return statistics.median(self._seconds[what])


class _Probe:
    """A step without reductions, beside what it takes."""

    @collective
    def __init__(
        self, model: ModelSettings, branches: dict[str, int], atoms: int, device: torch.device
    ) -> None:
        layout = ParallelLayout.build("mtl-base", cost=branches, world_size=1)
        shape = StepShape(model=model, branches=branches, atoms=atoms, layout=layout)
        self.runner = StepRunner(shape, RankContext(0, 1, device))
        self._model = model
        structures = sum(branches.values())
        self._size = BatchShape(len(branches), structures, structures * atoms, self.runner.edges)

    def step(self, seconds: float) -> MeasuredStep:
        # Counted last: ranks that count while others measure would disturb them.
        census, branches = take_census(self._model), self._size.branches
        parameters = census.encoder_parameters + branches * census.branch_parameters
        return MeasuredStep(
            seconds,
            census.flops.of(self._size),
            census.memory_bytes.of(self._size) + 4.0 * UPDATE_NUMBERS * parameters,
            census.kernels.of(self._size),
        )


class _ShardProbe:
    """A step of one structure per rank, with the encoder whole on each rank and in shards."""

    @collective
    def __init__(self, model: ModelSettings, atoms: int, context: RankContext) -> None:
        self.layers = model.encoder.layers
        self._model = model
        # Every branch has one owner: nothing but the encoder is exchanged.
        branches = {f"branch{rank}": 1 for rank in range(context.world_size)}
        one = {"branch0": 1}
        self.whole, self.sharded = (
            StepRunner(
                StepShape(
                    model=model,
                    branches=names,
                    atoms=atoms,
                    layout=ParallelLayout.build(
                        "mtl-par", cost=names, world_size=len(names), encoder_shards=len(names)
                    ),
                ),
                ranks,
            )
            for names, ranks in ((one, RankContext(0, 1, context.device)), (branches, context))
        )

    def layer_bytes(self) -> float:
        return 4.0 * parameters_of(self._model)[0] / self.layers


def fit_rates(steps: Sequence[MeasuredStep]) -> tuple[float, float, float]:
    """Seconds per floating-point operation, per byte and per operation started.

    Least squares of relative errors under the condition that all are positive. What the data cannot
    tell apart from zero is left at a thousandth of what would explain all of the time; what no step
    has any of takes none.

    Args:
        steps: At least three steps of different size.
    """
    amounts = np.array([[s.flops, s.memory_bytes, s.kernels] for s in steps])
    rows = amounts / np.array([[step.seconds] for step in steps])
    best: npt.NDArray[np.float64] = np.zeros(3)
    best_error = np.inf
    for count in (1, 2, 3):
        for chosen in itertools.combinations(range(3), count):
            columns = rows[:, chosen]
            solution = np.linalg.lstsq(columns, np.ones(len(rows)), rcond=None)[0]
            error = float(np.abs(columns @ solution - 1).max())
            if (solution > 0).all() and error < best_error:
                best, best_error = np.zeros(3), error
                best[list(chosen)] = solution
    most = rows.max(axis=0)
    floor = np.divide(1e-3, most, out=np.zeros(3), where=most > 0)
    flop_s, byte_s, kernel_s = np.maximum(best, floor)
    return float(flop_s), float(byte_s), float(kernel_s)


def _narrow(model: ModelSettings) -> ModelSettings:
    """The same architecture at a quarter of the width: less arithmetic per byte."""
    encoder = model.encoder.model_copy(update={"width": max(8, model.encoder.width // _NARROW)})
    head = model.head.model_copy(update={"width": max(8, model.head.width // _NARROW)})
    return model.model_copy(update={"encoder": encoder, "head": head})


@collective
def _reduce_seconds(size_bytes: int, device: torch.device) -> float:
    buffer = torch.zeros(size_bytes // 4, device=device)
    dist.barrier()
    started = time.perf_counter()
    dist.all_reduce(buffer)
    wait_for(device)
    return time.perf_counter() - started


def fit_link(
    sizes: Sequence[float], seconds: Sequence[float], *, ranks: int, messages: int
) -> Link:
    """Latency and bandwidth of a ring, from exchanges of several sizes.

    Each of p ranks sends p - 1 pieces of B / p bytes, ``messages`` times over.
    """
    others = messages * (ranks - 1)
    # What shows no time at all still has some.
    times = np.maximum(seconds, 1e-7)
    system = np.array([[others, others / ranks * size] for size in sizes]) / times[:, None]
    alpha, per_byte = np.linalg.lstsq(system, np.ones(len(times)), rcond=None)[0]
    smallest = times.min() / others
    return Link(
        latency_us=_rounded(max(alpha, smallest / 10) * 1e6),
        gb_per_s=_rounded(1e-9 / max(per_byte, 1e-12)),
    )


def _matmul_seconds_per_flop(device: torch.device, size: int = 1024) -> float:
    a, b = torch.rand(size, size, device=device), torch.rand(size, size, device=device)
    return _timed(lambda: a @ b, device) / (2.0 * size**3)


def _copy_seconds_per_byte(device: torch.device, size: int = 2**24) -> float:
    a, b = torch.rand(size, device=device), torch.rand(size, device=device)
    return _timed(lambda: b.copy_(a), device) / (8.0 * size)


def _timed(work: Callable[[], object], device: torch.device) -> float:
    work()
    wait_for(device)
    started = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - started


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
