"""Refuses inputs that were made with other settings than the configuration has now.

Snakemake remakes such inputs by itself. A command works on what is there, and would give results
that the configuration does not describe: units of before a correction, or another architecture.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from mtlpar.config import Config
from mtlpar.flow.run_record import command_of, read_run
from mtlpar.flow.table import ALL_SOURCES, STAGES

# What the settings of a download describe is the world outside, which a command does not ask.
_ABOVE: Final = ("extract", "normalize", "find_leaks", "pack", "train", "evaluate")
_MOST_DIFFERENCES: Final = 4


def check_inputs(config: Config, stage: str, target: str, records: Path) -> None:
    """Compare the settings in the records of everything that a stage's inputs were made of.

    What has no record, such as a file that was put there, is not compared.

    Args:
        config: The configuration.
        stage: Name of the stage that is about to run.
        target: What it works on.
        records: Folder of the records.

    Raises:
        ValueError: If some input was made with other settings; with both, and what to run.
    """
    known = makers(config)
    found_stale: dict[tuple[str, str], list[str]] = {}
    waiting = [(stage, target)]
    seen = set(waiting)
    while waiting:
        above = {
            known[path]
            for path in STAGES[waiting[0][0]].inputs(config, waiting[0][1])
            if path in known
        }
        waiting = [*waiting[1:], *sorted(above - seen)]
        seen |= above
        for one in sorted(above):
            record = records / one[0] / f"{one[1]}.json"
            if differing := _differences(config, *one, record):
                found_stale[one] = differing
    if found_stale:
        lines = [
            f"`{command_of(name, its_target)}` was run with {'; '.join(differing)}"
            for (name, its_target), differing in found_stale.items()
        ]
        first_stage, first_target = min(found_stale, key=lambda one: _ABOVE.index(one[0]))
        raise ValueError(
            f"{stage} {target}: what it would read was made with other settings than the "
            f"configuration has now: {'. '.join(lines)}. Run "
            f"`{command_of(first_stage, first_target)}` and what follows again (snakemake does so "
            "by itself), or put the settings back"
        )


def makers(config: Config) -> dict[Path, tuple[str, str]]:
    """Stage and target of every file that the stages above the report write."""
    found = {}
    for name in _ABOVE:
        kind = STAGES[name].target
        targets = {"{source}": config.sources, "{model}": tuple(config.models)}
        for target in targets.get(kind, (ALL_SOURCES,)):
            for path in STAGES[name].output_files(config, target):
                found[path] = name, target
    return found


def _differences(config: Config, stage: str, target: str, record: Path) -> list[str]:
    """Settings of a run and what they would be now, where that differs."""
    then = read_run(record).settings if record.exists() else None
    now = STAGES[stage].settings(config, target)
    if then is None or then == now:
        return []
    try:
        before = json.loads(then)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{record}: settings is not valid JSON ({error}); run "
            f"`{command_of(stage, target)}` again"
        ) from error
    found = list(_differing("", before, json.loads(now)))
    more = len(found) - _MOST_DIFFERENCES
    return found[:_MOST_DIFFERENCES] + ([f"{more} more"] if more > 0 else [])


def _differing(key: str, then: Any, now: Any) -> Iterator[str]:
    if isinstance(then, dict) and isinstance(now, dict):
        for name in dict.fromkeys((*then, *now)):
            inner = f"{key}.{name}".lstrip(".")
            if name in then and name in now:
                yield from _differing(inner, then[name], now[name])
            elif then.get(name) is not None:
                yield f"{inner} {then[name]!r} (now not given)"
            elif now.get(name) is not None:
                # As of a version that did not have this setting: there is nothing to put back.
                yield f"{inner} not given (now {now[name]!r})"
    elif isinstance(then, list) and isinstance(now, list) and not key:
        # The blocks that a stage depends on. A list among them is that of the sources.
        for before, after in zip(then, now, strict=False):
            yield from _differing("sources" if isinstance(after, list) else "", before, after)
        if len(then) != len(now):
            yield "settings of another version of mtlpar"
    elif then != now:
        yield f"{key or 'seed'} {then!r} (now {now!r})"
