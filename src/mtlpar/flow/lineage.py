"""Tells where an output came from, along the records of the stages."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from mtlpar.core.wording import counted
from mtlpar.flow.records import digest_of
from mtlpar.flow.run_record import RunRecord, read_run
from mtlpar.parallel.allocation import run_client


def describe(path: Path, results: Path) -> str:
    """The chain of stages that a file came from, down to the raw data, as indented text.

    Args:
        path: Any output of the workflow; for a ``.bp`` folder its manifest speaks.
        results: Folder of the results.

    Raises:
        ValueError: If no record speaks of the file.
    """
    records: dict[Path, RunRecord] = {}
    for file in sorted((results / "provenance").glob("*/*.json")):
        record = read_run(file)
        records |= {Path(name).resolve(): record for name in record.outputs}
    if path.suffix == ".bp" and path.exists():
        manifests = (path.with_suffix(".manifest.json"), path.with_name("manifest.json"))
        path = next((one for one in manifests if one.resolve() in records), path)
    if path.resolve() not in records:
        raise ValueError(
            f"no record in {results / 'provenance'} mentions {path}: it is not an output of a "
            "stage, or was made before records were kept; run the command that writes it again"
        )
    versions = records[path.resolve()].versions.items()
    lines = [", ".join(f"{name} {version}" for name, version in versions)]
    _describe_file(path, records, lines, depth=0, described=set())
    return "\n".join(lines)


def _describe_file(
    path: Path,
    records: dict[Path, RunRecord],
    lines: list[str],
    *,
    depth: int,
    described: set[str],
    read_as: str | None = None,
) -> None:
    """Add a file and what it was made of; ``read_as`` is its digest when it was an input."""
    indent = "  " * depth
    record = records.get(path.resolve())
    if record is None:
        # What came from elsewhere, such as a model that somebody sent, has its digest at least.
        known = f"  {_short(read_as)}" if read_as else ""
        lines.append(f"{indent}{path}{known}  ({_state(path, None)})")
        if read_as and path.exists() and digest_of(path) != read_as:
            lines.append(f"{indent}  | READ AS {_short(read_as)}, which has been replaced since")
        return
    name = f"{record.stage} {record.target}"
    digest = record.outputs.get(str(path))
    lines.append(f"{indent}{path}  {_short(digest)}  ({_state(path, digest)})  by {name}")
    if read_as not in (None, digest):
        lines.append(f"{indent}  | READ AS {_short(read_as)}, which has been replaced since")
    if name in described:
        return
    described.add(name)
    lines += [f"{indent}  | {line}" for line in _describe_run(record)]
    for source, digest in record.inputs.items():
        _describe_file(
            Path(source), records, lines, depth=depth + 1, described=described, read_as=digest
        )


def _describe_run(record: RunRecord) -> Iterator[str]:
    yield f"config {_short(record.config_digest)} ({record.config})"
    yield f"code {record.code_digest}"
    for attempt in record.attempts:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(attempt.started))
        where = f"job {attempt.job} on {attempt.host}" if attempt.job else attempt.host
        size = f"{counted(attempt.nodes, 'node')}, {counted(attempt.ranks, 'rank')}"
        yield f"{when}  {where}, {size}, {attempt.seconds:.0f} s, {attempt.outcome}"
        if energy := _energy_joule(attempt.job):
            yield f"  {energy / 3.6e6:.3f} kWh"
    yield f"{record.node_hours:.4f} node-hours"


def _state(path: Path, digest: str | None) -> str:
    if not path.exists():
        return "not here"
    if digest is None:
        return "no record"
    return "unchanged" if digest_of(path) == digest else "CHANGED SINCE"


def _short(digest: str | None) -> str:
    return (digest or "-")[:12]


def _energy_joule(job: str) -> float | None:
    """Energy of a finished job, where Slurm measures it."""
    if not job.isdigit():
        return None
    options = ("--allocations", "--noheader", "--parsable2", "--format=ConsumedEnergyRaw")
    answer = (run_client("sacct", "--jobs", job, *options) or "").strip()
    return float(answer) if answer.isdigit() and answer != "0" else None
