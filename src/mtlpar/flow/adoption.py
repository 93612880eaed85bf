"""Tells Snakemake about jobs that ended well after it had died.

Snakemake notes the settings and the code of a job when it sees it end. Of a job that nobody saw end
it has no note, or that of an earlier run: it would run the job again, or miss a later change of
its settings. The record of the job itself (see `mtlpar.flow.records`) knows better.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import yaml

from mtlpar.config import load_config
from mtlpar.config.resolved import RESOLVED_CONFIGS
from mtlpar.core.files import read_text, write_text
from mtlpar.core.yaml_text import load_yaml
from mtlpar.flow import jobs
from mtlpar.flow.records import StageRun
from mtlpar.flow.run_record import RunRecord, read_run
from mtlpar.flow.table import STAGES

logger = logging.getLogger(__name__)

# Names the log of the Snakemake whose jobs were looked at last.
_ADOPTED: Final = RESOLVED_CONFIGS / "adopted"


def adopt(checkout: Path) -> list[str]:
    """Mark as finished what the jobs made that the last Snakemake did not see end.

    Only outputs count that are whole and that the present code would make of the present inputs.
    They are marked with the settings that they were made with, so those of a later run are compared
    with these. Nothing else is touched.

    Args:
        checkout: Folder in which Snakemake ran; the current one.

    Returns:
        Stage and target of each.

    Raises:
        ValueError: If Snakemake fails.
    """
    unseen = jobs.unseen(checkout)
    runs: dict[tuple[str, str], list[StageRun]] = defaultdict(list)
    for record in _records(checkout):
        if record.attempts[-1].job not in unseen or record.stage not in STAGES:
            continue
        config = record.config
        run = StageRun.of(load_config([Path(config)]), record.stage, record.target)
        if run.is_done():
            runs[STAGES[run.stage].rule_of(run.target), config].append(run)
        else:
            logger.warning(
                "%s %s: made from other inputs or by other code than are here now. To remake it: "
                "snakemake --force %s",
                run.stage,
                run.target,
                run.outputs[0],
            )
    for (rule, config), made in runs.items():
        _mark_finished(checkout, rule, config, [run.outputs[0] for run in made])
    if logs := jobs.logs_since_jobs_were_sent(checkout):
        write_text(checkout / _ADOPTED, logs[0].name)
    return [f"{run.stage} {run.target}" for made in runs.values() for run in made]


def was_adopted(checkout: Path) -> bool:
    """Whether `adopt` has looked at the jobs of the last Snakemake that sent any."""
    note = checkout / _ADOPTED
    logs = jobs.logs_since_jobs_were_sent(checkout)
    return note.exists() and bool(logs) and note.read_text(errors="replace") == logs[0].name


def _records(checkout: Path) -> Iterator[RunRecord]:
    """Records of all folders of results that Snakemake used here."""
    configs = (checkout / RESOLVED_CONFIGS).glob("*.yaml")
    for results in sorted({found for path in configs if (found := _results_of(path))}):
        for path in sorted((checkout / results / "provenance").glob("*/*.json")):
            yield read_run(path)


def _results_of(config: Path) -> str | None:
    """Folder of results in a configuration that Snakemake resolved; None if it is damaged."""
    try:
        return str(load_yaml(read_text(config))["paths"]["results"])
    except (yaml.YAMLError, ValueError, KeyError, TypeError):
        logger.warning("%s is damaged, and ignored: nothing of its runs is adopted", config)
        return None


def _mark_finished(checkout: Path, rule: str, config: str, outputs: Sequence[Path]) -> None:
    command = [
        sys.executable, "-m", "snakemake", "--cores", "1", "--touch", "--ignore-incomplete",
        # These outputs, whatever Snakemake thinks of them, and nothing that they are made of.
        "--force", "--allowed-rules", rule,
        "--configfile", config, "--", *map(str, outputs),
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=checkout, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if done.returncode != 0:
        raise ValueError(
            f"Snakemake cannot mark {', '.join(map(str, outputs))} as finished; run again to "
            f"remake them:\n{done.stderr[-2000:]}"
        )
