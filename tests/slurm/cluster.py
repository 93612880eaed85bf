#!/usr/bin/env python3
"""A throw-away Slurm on one machine, by default with accounting and nodes like Frontier's.

The tests start it by themselves; by hand::

    python tests/slurm/cluster.py /tmp/slurm     # up; prints how to use it and waits for Enter

Every file and socket lies in one folder, all ports are on the loopback, and only processes that
were started here are stopped. Needs root and the Debian packages of `PACKAGES`.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PACKAGES = (
    "munge", "slurmctld", "slurmd", "slurm-client", "slurm-wlm-basic-plugins", "slurmdbd",
    "mariadb-server",
)  # fmt: skip
ACCOUNT = "proj123"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a cluster is made of.

    Attributes:
        nodes: Names of the nodes.
        cpus: Cores of each.
        gpus: Accelerators of each, which are none.
        memory_mb: Memory of each.
        partitions: Their lines in slurm.conf.
        has_accounting: Whether slurmdbd runs, which knows accounts and how jobs ended.
    """

    nodes: tuple[str, ...]
    cpus: int
    gpus: int
    memory_mb: int
    partitions: str
    has_accounting: bool = True


LIKE_FRONTIER = Shape(
    nodes=("frontier00001", "frontier00002", "shared00001", "shared00002"),
    cpus=56,
    gpus=8,
    memory_mb=512_000,
    # Whole nodes in `batch` as on Frontier; shared ones in `main` and `gpu` as in profiles/slurm.
    partitions="""\
PartitionName=batch Nodes=frontier0000[1-2] Default=YES MaxTime=12:00:00 OverSubscribe=EXCLUSIVE
PartitionName=main Nodes=shared0000[1-2] MaxTime=12:00:00 OverSubscribe=NO
PartitionName=gpu Nodes=shared0000[1-2] MaxTime=12:00:00 OverSubscribe=NO
""",
)
# Nothing that a profile could take for granted: small nodes, no GPUs, little time by default.
SMALL_AND_SHORT = Shape(
    nodes=("cn-a", "cn-b", "cn-c"),
    cpus=4,
    gpus=0,
    memory_mb=16_000,
    partitions="""\
PartitionName=quick Nodes=cn-a,cn-b,cn-c Default=YES MaxTime=00:10:00 OverSubscribe=NO
PartitionName=long Nodes=cn-b,cn-c MaxTime=02:00:00 OverSubscribe=NO
""",
)
# As a group of its own sets one up: no slurmdbd, so no accounts, and `sacct` does not answer.
WITHOUT_ACCOUNTING = Shape(
    nodes=("node1", "node2", "node3"),
    cpus=12,
    gpus=2,
    memory_mb=64_000,
    partitions="PartitionName=all Nodes=ALL Default=YES MaxTime=1-00:00:00 OverSubscribe=NO\n",
    has_accounting=False,
)

_DAEMONS = ("munged", "slurmctld", "slurmd", "slurmdbd", "mariadbd", "mariadb-install-db")
_CLIENTS = (
    "srun", "sbatch", "salloc", "squeue", "scancel", "sacct", "sacctmgr", "scontrol", "sinfo",
    "sshare",
)  # fmt: skip
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

_SLURM_CONF = """\
ClusterName=throwaway
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=3
MinJobAge=7200
FirstJobId={first_job}
SchedulerParameters=sched_interval=2,bf_interval=2,sched_min_interval=100000,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=1000
SlurmdParameters=config_overrides
GresTypes=gpu
{accounting}JobAcctGatherType=jobacct_gather/linux
{nodes}
{partitions}"""

_ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={dbd_port}
AccountingStoragePass={folder}/munge.socket
AccountingStorageTRES=gres/gpu
AccountingStorageEnforce=associations,limits,qos
"""

_SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost=localhost
DbdPort={dbd_port}
SlurmUser=root
PidFile={folder}/slurmdbd.pid
LogFile={folder}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageLoc=slurm_acct_db
StorageUser=root
"""


def missing() -> str:
    """Why no cluster can be started here, or nothing."""
    absent = [name for name in (*_DAEMONS, "sbatch") if not shutil.which(name, path=_PATH)]
    if absent:
        return f"not installed: {', '.join(absent)} (apt-get install {' '.join(PACKAGES)})"
    return "" if os.geteuid() == 0 else "needs root"


@contextmanager
def running(folder: Path, shape: Shape = LIKE_FRONTIER) -> Iterator[dict[str, str]]:
    """Start a cluster in a folder, yield the environment to use it with, and stop it."""
    cluster = _Cluster(folder, shape)
    try:
        cluster.start()
        yield {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    finally:
        cluster.stop()


class _Cluster:
    def __init__(self, folder: Path, shape: Shape) -> None:
        self.folder = folder
        self.shape = shape
        self.mariadb: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._write_files()
        self._start_munge()
        if self.shape.has_accounting:
            self._start_accounting()
        conf = f"{self.folder}/slurm.conf"
        self._daemon("slurmctld", "-f", conf)
        for node in self.shape.nodes:
            self._daemon("slurmd", "-N", node, "-f", conf)
        _wait("idle nodes", self._nodes_are_idle)

    def _nodes_are_idle(self) -> bool:
        names = set(self._client("sinfo", "-hN", "-t", "idle", "-o", "%N").split())
        return names == set(self.shape.nodes)

    def stop(self) -> None:
        if (self.folder / "slurmctld.pid").exists():
            self._client("scancel", "--user=root")
            with suppress(TimeoutError):
                _wait("jobs to end", lambda: not self._client("squeue", "-h"), seconds=20)
        for node in self.shape.nodes:
            self._kill(f"slurmd.{node}.pid", "slurmd")
        self._kill("slurmctld.pid", "slurmctld")
        self._kill("slurmdbd.pid", "slurmdbd")
        if self.mariadb:
            self.mariadb.terminate()
            self.mariadb.wait()
        self._kill("munged.pid", "munged")

    def _write_files(self) -> None:
        for name in ("state", "spool", "gpus", "bin", "mysql"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        # munged trusts no folder that others may write to, and serves all users.
        self.folder.chmod(0o755)
        for index in range(self.shape.gpus):
            # Slurm asks for a device file; a link to one passes.
            (self.folder / "gpus" / f"gpu{index}").symlink_to("/dev/null")
        ctld_port, dbd_port, *node_ports = _free_ports(2 + len(self.shape.nodes))
        cpus, gpus = self.shape.cpus, self.shape.gpus
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={port} "
            f"CPUs={cpus} Boards=1 SocketsPerBoard=1 CoresPerSocket={cpus} ThreadsPerCore=1 "
            f"RealMemory={self.shape.memory_mb}" + (f" Gres=gpu:{gpus}" if gpus else "")
            for name, port in zip(self.shape.nodes, node_ports, strict=True)
        )
        accounting = _ACCOUNTING if self.shape.has_accounting else ""
        values = {
            "folder": self.folder, "host": socket.gethostname(), "nodes": nodes,
            "ctld_port": ctld_port, "dbd_port": dbd_port,
            "accounting": accounting.format(folder=self.folder, dbd_port=dbd_port),
            "partitions": self.shape.partitions,
            # MPICH names its shared memory after the job, and a killed rank leaves it behind: jobs
            # of another cluster on this machine must not have had the same numbers.
            "first_job": int(time.time()) % 60_000_000 + 1,
        }  # fmt: skip
        (self.folder / "slurm.conf").write_text(_SLURM_CONF.format(**values))
        (self.folder / "slurmdbd.conf").write_text(_SLURMDBD_CONF.format(**values))
        (self.folder / "slurmdbd.conf").chmod(0o600)
        (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
        if gpus:
            devices = f"Name=gpu File={self.folder}/gpus/gpu[0-{gpus - 1}] Flags=amd_gpu_env\n"
            (self.folder / "gres.conf").write_text(devices)
        # Snakemake's Slurm plugin removes SLURM_CONF from the environment of rules; PATH stays.
        for name in _CLIENTS:
            script = self.folder / "bin" / name
            program = shutil.which(name, path=_PATH)
            script.write_text(
                f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {program} "$@"\n'
            )
            script.chmod(0o755)

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        options = ("key-file", "socket", "pid-file", "log-file", "seed-file")
        names = ("munge.key", "munge.socket", "munged.pid", "munged.log", "munge.seed")
        self._daemon(
            "munged", "--num-threads=10",
            *(f"--{key}={self.folder / name}" for key, name in zip(options, names, strict=True)),
        )  # fmt: skip

    def _start_accounting(self) -> None:
        data, server = self.folder / "mysql", self.folder / "mysql.socket"
        install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--user=root"]
        install += ["--auth-root-authentication-method=normal", "--skip-test-db"]
        self._run(install)
        self.mariadb = subprocess.Popen(
            [
                _program("mariadbd"), "--no-defaults", f"--datadir={data}", "--user=root",
                "--skip-networking", f"--socket={server}", "--innodb-lock-wait-timeout=900",
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        client = ["mariadb", "--no-defaults", f"--socket={server}", "-e"]
        create = "CREATE DATABASE IF NOT EXISTS slurm_acct_db"
        _wait("the database", lambda: self._run([*client, create], check=False) == 0)
        self._daemon("slurmdbd", MYSQL_UNIX_PORT=str(server))
        _wait("slurmdbd", lambda: "ERROR" not in self._client("sacctmgr", "-n", "show", "cluster"))
        for line in (
            "add cluster throwaway",
            f"add account {ACCOUNT} cluster=throwaway",
            f"add user root account={ACCOUNT} cluster=throwaway",
        ):
            self._client("sacctmgr", "-i", *line.split())

    def _daemon(self, name: str, *arguments: str, **environment: str) -> None:
        self._run([name, *arguments], **environment)

    def _run(self, command: list[str], *, check: bool = True, **environment: str) -> int:
        """Run a program that ends or goes to the background; its output is left alone."""
        done = subprocess.run(
            [_program(command[0]), *command[1:]],
            env={**os.environ, "SLURM_CONF": f"{self.folder}/slurm.conf", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        if check and done.returncode != 0:
            raise RuntimeError(
                f"{command[0]} ended with {done.returncode}; see {self.folder}/*.log"
            )
        return done.returncode

    def _client(self, name: str, *arguments: str) -> str:
        command = [self.folder / "bin" / name, *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=15, check=False)
        except subprocess.TimeoutExpired:
            return "ERROR"
        return done.stdout if done.returncode == 0 else "ERROR"

    def _kill(self, pid_file: str, name: str) -> None:
        """End a daemon by its pid file, if the process there is still that daemon."""
        path = self.folder / pid_file
        if not path.exists():
            return
        pid = int(path.read_text())
        process = Path(f"/proc/{pid}")
        if not process.exists() or name not in (process / "cmdline").read_text():
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            with suppress(TimeoutError):
                _wait(name, lambda: _gone(process), seconds=10)
                return


def _program(name: str) -> str:
    return shutil.which(name, path=_PATH) or name


def _gone(process: Path) -> bool:
    # A daemon's parent may never collect it: a zombie is as good as gone.
    with suppress(FileNotFoundError):
        return "State:\tZ" in (process / "status").read_text()
    return True


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def _wait(what: str, ready: Callable[[], bool], *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.1)


if __name__ == "__main__":
    with running(Path(sys.argv[1])) as environment:
        input(f"export PATH={environment['PATH']}\nEnter stops the cluster: ")
