"""A machine as the planner sees it: a few rates, stated in a small file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from mtlpar.core.files import read_text, write_text
from mtlpar.core.paths import IN_PROJECT
from mtlpar.core.settings import Positive, Settings
from mtlpar.core.yaml_text import dump_yaml, load_yaml

Precision = Literal["float32", "float64", "bfloat16"]
MACHINES = Path("workflow/machines")
SUFFIXES = (".yaml", ".yml")
"""How names of machine files end."""

_GIBI = 2**30


class Link(Settings):
    """A network by latency and bandwidth: a message of B bytes takes alpha + B / bandwidth."""

    latency_us: float = Field(ge=0, description="alpha, start-up time of a message (µs).")
    gb_per_s: float = Field(gt=0, description="Bandwidth in one direction (1e9 bytes/s).")

    def seconds(self, messages: float, size_bytes: float, *, share: float = 1.0) -> float:
        """Time of messages one after another with so many bytes in all, on a share of the link."""
        return messages * self.latency_us * 1e-6 + size_bytes / (share * self.gb_per_s * 1e9)


class DataRates(Settings):
    """What the stages that prepare data do per second; see `mtlpar.plan.data`."""

    download_mb_per_s: float = Field(gt=0, description="From one host (1e6 bytes/s).")
    extract_structures_per_s: dict[str, Positive] = Field(
        min_length=1, description="By source, one core."
    )
    normalize_structures_per_s: float = Field(gt=0, description="One core.")
    pack_structures_per_s: float = Field(gt=0, description="One core.")
    load_structures_per_s: float = Field(gt=0, description="Pack to memory, one core.")
    bytes_per_structure: float | None = Field(
        default=None,
        gt=0,
        description="Size in a pack of the structures that pack and load were measured with: "
        "larger ones take longer by their bytes; null: all alike.",
    )


class Machine(Settings):
    """Nodes of equal ranks, one device each, and the network inside and between them."""

    description: str = Field(description="One line for people: what a rank is.")
    max_nodes: int = Field(gt=0, description="Nodes that a job may have.")
    ranks_per_node: int = Field(gt=0, description="Devices of a node, one rank each.")
    device_memory_gib: float = Field(gt=0, description="Memory of a device, for one rank (GiB).")
    host_memory_gib: float = Field(gt=0, description="Memory of a node, for the store (GiB).")
    peak_tflops: dict[Precision, Positive] = Field(
        min_length=1, description="Peak of a device (1e12 FLOP/s)."
    )
    memory_gb_per_s: float = Field(gt=0, description="Memory bandwidth of a device (1e9 bytes/s).")
    matmul_efficiency: float = Field(
        gt=0, description="Part of the peak that matrix products reach."
    )
    memory_efficiency: float = Field(
        gt=0, description="Part of the bandwidth that other operations reach."
    )
    kernel_us: float = Field(ge=0, description="Time to start an operation (µs).")
    overlap: float = Field(
        ge=0, le=1, description="Part of a reduction that can hide behind the backward pass."
    )
    intra_node: Link = Field(description="Between two ranks of a node.")
    inter_node: Link = Field(description="Between nodes; bandwidth of a whole node.")
    shards: Link | None = Field(
        default=None,
        description="Gathering or scattering a layer of a sharded encoder inside a node, with the "
        "work around it; null: as intra_node.",
    )
    data: DataRates | None = Field(default=None, description="Rates of the data stages.")
    calibrated: str | None = Field(
        default=None, description="Where and how rates were measured; null if they are stated."
    )

    @property
    def max_ranks(self) -> int:
        """Devices that a job may have."""
        return self.max_nodes * self.ranks_per_node

    @property
    def device_bytes(self) -> float:
        """Memory for one rank."""
        return self.device_memory_gib * _GIBI

    @property
    def host_bytes(self) -> float:
        """Memory of a node."""
        return self.host_memory_gib * _GIBI

    def compute_seconds(
        self, *, flops: float, memory_bytes: float, kernels: float, precision: Precision
    ) -> float:
        """Roofline: arithmetic, traffic and starts of operations that are bound by either.

        Raises:
            ValueError: If the file says no peak for this precision.
        """
        if precision not in self.peak_tflops:
            raise ValueError(
                f"{self.description}: no peak_tflops for {precision}; "
                f"there are {', '.join(self.peak_tflops)}"
            )
        return (
            flops / (self.peak_tflops[precision] * 1e12 * self.matmul_efficiency)
            + self.traffic_seconds(memory_bytes)
            + kernels * self.kernel_us * 1e-6
        )

    def traffic_seconds(self, memory_bytes: float) -> float:
        """Time to move bytes through a device's memory."""
        return memory_bytes / (self.memory_gb_per_s * 1e9 * self.memory_efficiency)

    def ranks_of_node(self, ranks: int) -> int:
        """How many of so many ranks lie on the first node.

        A node that is alone takes more than it has devices; they take turns.
        """
        return ranks if self.max_nodes == 1 else min(ranks, self.ranks_per_node)

    def nodes(self, ranks: int) -> int:
        """Nodes that so many ranks fill."""
        return -(-ranks // self.ranks_of_node(ranks))


def load_machine(name: str) -> Machine:
    """Read a machine by name from ``workflow/machines``, or from a file.

    Raises:
        ValueError: If there is no such machine, or its file is not valid.
    """
    path = Path(name) if name.endswith(SUFFIXES) else MACHINES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in MACHINES.glob("*.yaml")))
        if not known:
            raise ValueError(f"no machine file {path}; give a .yaml file, or {IN_PROJECT}")
        raise ValueError(
            f"no machine file {path}; known are {known}. Give one of them or a .yaml file"
        )
    try:
        machine = Machine.model_validate(load_yaml(read_text(path)))
    except (ValidationError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {_one_line(error)}") from error
    _check_stated(machine, path)
    return machine


def _check_stated(machine: Machine, path: Path) -> None:
    """Refuse efficiencies in per cent.

    Fits to measured steps may be above one: caches are faster than memory, and what shows no time
    in a step has a rate without a bound.
    """
    if machine.calibrated is not None:
        return
    for key in ("matmul_efficiency", "memory_efficiency"):
        value = getattr(machine, key)
        if value > 1:
            raise ValueError(
                f"{path}: {key} is {value:g}, expected a part of the rate, from 0 to 1: write 70 % "
                "as 0.7"
            )


def write_machine(path: Path, machine: Machine) -> None:
    """Write a machine file."""
    plain: dict[str, Any] = machine.model_dump(mode="json", exclude_none=True)
    write_text(path, dump_yaml(plain))


def _one_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'the file'}: {problem['msg']}, "
            f"got {problem['input']!r:.60}"
            for problem in error.errors()
        )
    return " ".join(str(error).split())


# What training assumes about a machine that has no file. The choice of a layout hardly depends on
# it: both layouts do the same arithmetic, and what differs are reductions and updates.
GENERIC_GPU = Machine(
    description="a node with four GPUs of the A100 class",
    max_nodes=1024,
    ranks_per_node=4,
    device_memory_gib=40,
    host_memory_gib=256,
    peak_tflops={"float32": 19.5, "float64": 9.7, "bfloat16": 312},
    memory_gb_per_s=1500,
    matmul_efficiency=0.6,
    memory_efficiency=0.7,
    kernel_us=8,
    overlap=0.8,
    intra_node=Link(latency_us=10, gb_per_s=80),
    inter_node=Link(latency_us=20, gb_per_s=80),
)
GENERIC_CPU = Machine(
    description="a workstation, a rank per core",
    max_nodes=1024,
    ranks_per_node=8,
    device_memory_gib=4,
    host_memory_gib=32,
    peak_tflops={"float32": 0.1, "float64": 0.05, "bfloat16": 0.1},
    memory_gb_per_s=10,
    matmul_efficiency=0.7,
    memory_efficiency=1.0,
    kernel_us=8,
    overlap=0.0,
    intra_node=Link(latency_us=50, gb_per_s=2),
    inter_node=Link(latency_us=100, gb_per_s=1),
)
