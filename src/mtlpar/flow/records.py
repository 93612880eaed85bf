"""Runs a stage as the only writer of its outputs, and writes down where they came from.

A record lies in ``results/provenance/<stage>/<target>.json``, beside the outputs and not in them:
the same run twice gives the same bytes, whatever machine and job it ran in.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import platform
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Self

from mtlpar.config import Config
from mtlpar.config.resolved import write_resolved
from mtlpar.core.files import file_digest, remove_leftovers_of
from mtlpar.core.records import parse_record, write_content
from mtlpar.flow.lease import HeldLease, Lease, Owner, hold
from mtlpar.flow.run_record import AttemptRecord, RunRecord, read_run
from mtlpar.flow.stale import check_inputs
from mtlpar.flow.table import STAGES
from mtlpar.parallel.agree import Interrupted
from mtlpar.parallel.allocation import Allocation

logger = logging.getLogger(__name__)

_VERSIONS_OF: Final = ("mtlpar", "torch", "numpy", "adios2", "mpi4py", "snakemake")


@dataclass(frozen=True, slots=True)
class StageRun:
    """One stage at work on one target: a source, a model, or a table or figure.

    Attributes:
        config: The configuration.
        stage: Name of the stage.
        target: What it works on.
        inputs: Files it reads.
        outputs: Files it writes.
    """

    config: Config
    stage: str
    target: str
    inputs: list[Path]
    outputs: list[Path]

    @classmethod
    def of(cls, config: Config, stage: str, target: str) -> StageRun:
        """The run of a stage of the workflow, with the files of its contract."""
        contract = STAGES[stage]
        inputs = contract.inputs(config, target)
        return cls(config, stage, target, inputs, contract.output_files(config, target))

    @property
    def record(self) -> Path:
        """File that says where the outputs came from."""
        return _folder(self.config) / self.stage / f"{self.target}.json"

    @property
    def attempts(self) -> Path:
        """File with one line per attempt, the failed ones included."""
        return self.record.with_suffix(".attempts.jsonl")

    def identity(self) -> dict[str, Any]:
        """What decides about the content of the outputs: inputs, settings of the stage, code."""
        stage = STAGES[self.stage]
        return {
            "inputs": {str(path): digest_of(path) for path in self.inputs},
            "settings": stage.settings(self.config, self.target),
            "code_digest": stage.code(self.config, self.target),
        }

    def is_done(self) -> bool:
        """Whether the outputs are there, whole, and made of what would be used now."""
        if not self.record.exists():
            return False
        try:
            record = read_run(self.record)
        except ValueError as error:
            # Whoever asks will make them, which is what the error advises.
            logger.warning("%s", error)
            return False
        outputs = {str(path): digest_of(path) for path in self.outputs}
        return record.outputs == outputs and self.identity().items() <= record.given().items()


class Attempt:
    """One attempt at a stage: holds the outputs from `begin` to the end of the block.

    Another process that is at them is waited for; one that died is replaced.

    Attributes:
        due: Whether there is anything to do: False if the process that was waited for has just made
            the very same outputs.
    """

    def __init__(self, run: StageRun, allocation: Allocation) -> None:
        """Prepare an attempt.

        Args:
            run: The stage and its target.
            allocation: The job that this process runs in.
        """
        self.due = True
        self._run = run
        self._allocation = allocation
        self._held = ExitStack()
        self._work: tuple[Owner, dict[str, Any]] | None = None

    def begin(self, ranks: int) -> None:
        """Become the only process that writes these outputs.

        Args:
            ranks: Processes that work together.

        Raises:
            ValueError: If inputs were made with other settings than the configuration has now.
        """
        run, job = self._run, self._allocation
        check_inputs(run.config, run.stage, run.target, _folder(run.config))
        owner = Owner.this_process(job=job.job, nodes=job.nodes, ranks=ranks)
        folder = run.outputs[0].parent
        lease = self._held.enter_context(hold(folder, f"{run.stage}-{run.target}", owner))
        _note_predecessor(run, lease)
        if lease.waited and run.is_done():
            logger.info("%s %s: the previous process made it; nothing to do", run.stage, run.target)
            self.due = False
        else:
            remove_leftovers_of([*run.outputs, run.record])
            self._work = owner, run.identity()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with self._held:
            if self._work is None:
                return
            owner, identity = self._work
            if error is None:
                _note_attempt(self._run, owner, ended=time.time(), outcome="done")
                _write_record(self._run, identity, self._allocation)
                return
            outcome = "to be continued" if isinstance(error, Interrupted) else "failed"
            # On a full disk the error says more than a note of it.
            with suppress(OSError):
                _note_attempt(self._run, owner, ended=time.time(), outcome=outcome)


@contextmanager
def stage_run(
    config: Config, stage: str, target: str, *, allocation: Allocation, ranks: int = 1
) -> Iterator[bool]:
    """Run a stage inside this block, as the only process that writes these outputs.

    Args:
        config: The configuration.
        stage: Name of the stage.
        target: Source, model, table or figure.
        allocation: The job that this process runs in.
        ranks: Processes that work together.

    Yields:
        Whether there is anything to do; see `Attempt`.
    """
    with Attempt(StageRun.of(config, stage, target), allocation) as attempt:
        attempt.begin(ranks)
        yield attempt.due


def _write_record(run: StageRun, identity: dict[str, Any], allocation: Allocation) -> None:
    attempts = _attempts_of_this_result(run)
    seconds = sum(attempt["nodes"] * attempt["seconds"] for attempt in attempts)
    config = write_resolved(run.config, _folder(run.config))
    write_content(
        run.record,
        RunRecord,
        {
            "stage": run.stage,
            "target": run.target,
            "outputs": {str(path): digest_of(path) for path in run.outputs},
            **identity,
            "config_digest": file_digest(config),
            "config": str(config),
            "versions": {"python": platform.python_version(), **_versions()},
            "machine": {
                "host": socket.gethostname(),
                "cluster": allocation.cluster,
                "platform": platform.platform(),
            },
            "attempts": attempts,
            "node_hours": seconds / 3600,
        },
    )


def _note_predecessor(run: StageRun, lease: HeldLease) -> None:
    """Write down the attempt of a process that died before it could."""
    previous: Lease | None = lease.previous
    if previous and previous.owner:
        _note_attempt(run, previous.owner, ended=previous.beat_at, outcome="killed")


def _note_attempt(run: StageRun, owner: Owner, *, ended: float, outcome: str) -> None:
    line = {
        "started": owner.since,
        "seconds": ended - owner.since,
        "host": owner.host,
        "job": owner.job,
        "nodes": owner.nodes,
        "ranks": owner.ranks,
        "outcome": outcome,
    }
    run.attempts.parent.mkdir(parents=True, exist_ok=True)
    with run.attempts.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


def _attempts_of_this_result(run: StageRun) -> list[dict[str, Any]]:
    """The last attempt and those before it that did not get to an end.

    A line that a kill or a full disk cut off is left out: it costs some node-hours in the books, an
    error here would cost the outcome.
    """
    lines = run.attempts.read_bytes().splitlines()
    *before, last = filter(None, map(_parse_attempt, lines))
    attempts = [last]
    while before and before[-1].outcome != "done":
        attempts.insert(0, before.pop())
    return [attempt.plain() for attempt in attempts]


def _parse_attempt(line: bytes) -> AttemptRecord | None:
    try:
        return parse_record(line, AttemptRecord, where="attempt", advice="")
    except ValueError:
        return None


def _folder(config: Config) -> Path:
    return config.workspace.results / "provenance"


def digest_of(path: Path) -> str | None:
    """Digest of a file; None if it is none."""
    return file_digest(path) if path.is_file() else None


@cache
def _versions() -> dict[str, str]:
    found = {}
    for name in _VERSIONS_OF:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
