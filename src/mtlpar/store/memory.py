"""What nodes are about to hold in memory, beside what they have."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mtlpar.core.files import format_bytes

GIB: Final = 2**30
USABLE: Final = 0.8
"""Part of the free memory that data may take. The rest is for model, batches and page cache."""
# Files with the limit and with what is used, and the entry of `memory.stat` that gives way.
_GROUP_V1: Final = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_GROUP_V2: Final = ("memory.max", "memory.current", "inactive_file")


@dataclass(frozen=True, slots=True)
class Demand:
    """Bytes that a rank, or all ranks of a node, are about to take.

    Attributes:
        node: Name of the node.
        needed_bytes: In all.
        shared_bytes: Part of them in memory that ranks share.
        free_bytes: Free memory of the node.
        free_shared_bytes: Room in its folder of shared memory.
    """

    node: str
    needed_bytes: int
    shared_bytes: int
    free_bytes: int
    free_shared_bytes: int

    @property
    def load(self) -> float:
        """What is needed, over what is free."""
        return max(
            self.needed_bytes / max(1, self.free_bytes),
            self.shared_bytes / max(1, self.free_shared_bytes),
        )

    @property
    def fits(self) -> bool:
        """Whether that much may be taken."""
        return self.load <= USABLE

    def __str__(self) -> str:
        room = f"{format_bytes(self.needed_bytes)} of {format_bytes(self.free_bytes)} free"
        if self.shared_bytes:
            shared = format_bytes(self.shared_bytes), format_bytes(self.free_shared_bytes)
            room += " ({} of {} in shared memory)".format(*shared)
        return f"{room} on {self.node}"


def fullest_node(demands: Sequence[Demand]) -> Demand:
    """Add up the demands of all ranks, node by node; returns the node with the least room."""
    ranks_of: dict[str, list[Demand]] = defaultdict(list)
    for demand in demands:
        ranks_of[demand.node].append(demand)
    nodes = [
        Demand(
            node,
            sum(rank.needed_bytes for rank in ranks),
            sum(rank.shared_bytes for rank in ranks),
            min(rank.free_bytes for rank in ranks),
            min(rank.free_shared_bytes for rank in ranks),
        )
        for node, ranks in ranks_of.items()
    ]
    return max(nodes, key=lambda node: node.load)


def free_bytes(root: Path = Path("/")) -> int:
    """Memory of this node that processes may still take; very much where it does not say.

    Schedulers and containers give a job less than the node has: the kernel kills what exceeds the
    limits of its control groups.

    Args:
        root: Where the folders of the kernel are.
    """
    meminfo = root / "proc/meminfo"
    if not meminfo.exists():
        return 2**63
    lines = meminfo.read_text(encoding="ascii").splitlines()
    available = next(int(s.split()[1]) * 1024 for s in lines if s.startswith("MemAvailable:"))
    return min([available, *_room_in_groups(root)])


def _room_in_groups(root: Path) -> Iterator[int]:
    """What is left of every limit that holds for this process."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        names = _GROUP_V1 if controllers else _GROUP_V2
        group = base / path.strip("/")
        # The limits of the groups around it hold too. In a container the path may be the host's.
        for folder in (group, *group.parents):
            room = _room(folder, *names)
            if room is not None:
                yield room
            if folder == base:
                break


def _room(folder: Path, limit: str, used: str, cache: str) -> int | None:
    """What a control group has left, with the page cache it can do without; None: no limit."""
    try:
        most = int((folder / limit).read_text(encoding="ascii"))
        now = int((folder / used).read_text(encoding="ascii"))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        # "max" is no number.
        return None
    return max(0, most - now + int(stat.get(cache, 0)))


def free_shared_bytes() -> int:
    """Room in this node's folder of shared memory; very much where there is none."""
    folder = Path("/dev/shm")
    return shutil.disk_usage(folder).free if folder.is_dir() else 2**63
