"""Free memory is what the process may take, not only what the node has."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtlpar.store.memory import free_bytes

MIB = 2**20


def _write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """The folders of the kernel of a node with 64 MiB to spare."""
    _write(tmp_path, {"proc/meminfo": f"MemTotal: 99999 kB\nMemAvailable: {64 * 1024} kB\n"})
    return tmp_path


def test_without_limits_a_node_gives_what_it_has(node: Path) -> None:
    assert free_bytes(node) == 64 * MIB
    _write(node, {"proc/self/cgroup": "0::/user.slice\n"})
    _write(node, {"sys/fs/cgroup/user.slice/memory.max": "max\n"})
    assert free_bytes(node) == 64 * MIB
    assert free_bytes(node / "elsewhere") == 2**63


def test_a_job_gets_what_its_group_and_those_around_it_leave(node: Path) -> None:
    # The step has no limit of its own, the job around it has, and page cache gives way.
    folder = "sys/fs/cgroup/slurm/job_7"
    _write(
        node,
        {
            "proc/self/cgroup": "0::/slurm/job_7/step_0\n",
            f"{folder}/step_0/memory.max": "max\n",
            f"{folder}/memory.max": f"{40 * MIB}\n",
            f"{folder}/memory.current": f"{25 * MIB}\n",
            f"{folder}/memory.stat": f"anon 5\ninactive_file {10 * MIB}\n",
        },
    )
    assert free_bytes(node) == 25 * MIB


def test_the_first_version_of_control_groups_is_read_too(node: Path) -> None:
    # In a container the path is that of the host, and the files are those of the container.
    folder = "sys/fs/cgroup/memory"
    _write(
        node,
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/\n4:memory:/docker/abc\n0::/\n",
            f"{folder}/memory.limit_in_bytes": f"{30 * MIB}\n",
            f"{folder}/memory.usage_in_bytes": f"{12 * MIB}\n",
            f"{folder}/memory.stat": f"cache 1\ntotal_inactive_file {2 * MIB}\n",
        },
    )
    assert free_bytes(node) == 20 * MIB
