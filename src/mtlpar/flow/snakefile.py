"""What the Snakefile needs: the checked config, code digests, and per-rule settings.

Rules hold no logic; it is here, where it has types and tests. This module imports neither torch
nor matplotlib, because Snakemake evaluates it for every job.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from mtlpar.config import Config
from mtlpar.config.load import check_config, read_yaml
from mtlpar.core.files import file_digest, write_text
from mtlpar.download.catalogue import read_catalogue
from mtlpar.download.mirror import mirror_fingerprint
from mtlpar.download.settings import CATALOGUE
from mtlpar.flow.digest import code_digest as code_digest
from mtlpar.flow.digest import file_of
from mtlpar.flow.jobs import cancel_left
from mtlpar.report.items import FIGURE_FORMATS, ITEMS, TABLE_FORMATS, inputs_of, outputs_of
from mtlpar.sources.registry import reader_file
from mtlpar.study.records import memory_ranks as memory_ranks
from mtlpar.study.records import records_of

logger = logging.getLogger(__name__)

RESOLVED_CONFIGS = Path(".snakemake", "mtlpar")
"""Where the configurations lie that Snakemake merged."""


def read_config(content: Mapping[str, Any], files: Iterable[str | Path] = ()) -> Config:
    """Check the configuration that Snakemake merged from files and ``--config``.

    Args:
        content: What it merged.
        files: The files. It has lost by then what YAML reads as something else.

    Raises:
        ValueError: With every problem by dotted key, and if a model could not be tested on every
            source: one with several branches needs one for each.
    """
    for path in files:
        read_yaml(Path(path))
    config = check_config(content, where="config")
    problems = [
        f"models.{name}: has {len(entry.branches)} branches but none for {source}; give it one, or "
        "a single branch"
        for name, entry in config.models.items()
        if len(entry.branches) > 1
        for source in config.sources
        if source not in entry.sources
    ]
    if problems:
        raise ValueError("\n  ".join([f"config: {len(problems)} problem(s)", *problems]))
    return config


def resolved(config: Config) -> str:
    """The checked configuration as YAML, with all defaults."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def write_resolved(config: Config, folder: Path) -> Path:
    """Write the checked configuration for the stages to read, and return the file.

    Its name is a digest of its content, so runs with different overrides never share a file.
    """
    text = resolved(config)
    path = folder / f"config-{hashlib.sha256(text.encode()).hexdigest()[:12]}.yaml"
    if not path.exists():
        write_text(path, text)
    return path


def shell_prefix(config: Config) -> str:
    """What precedes every shell command of the rules: strict mode, PATH and ``$CONFIG_FILE``.

    The folder of the running interpreter goes last on PATH, so that an environment which a
    profile or Snakemake activated wins.
    """
    programs = shlex.quote(str(Path(sys.executable).parent))
    config_file = shlex.quote(str(write_resolved(config, RESOLVED_CONFIGS)))
    return f'set -euo pipefail; PATH="$PATH":{programs}; CONFIG_FILE={config_file}; '


def after_failure(logs: Sequence[str], *, is_main_process: bool) -> None:
    """Cancel what Ctrl-C has left; Snakemake calls this where a run did not end well.

    Args:
        logs: Log files of this Snakemake.
        is_main_process: Whether this Snakemake is the user's, and not one that runs a job.
    """
    for job in cancel_left(Path.cwd(), map(Path, logs)) if is_main_process else ():
        logger.warning("cancelled job %s: %s", job.id, job.what)


def rule_settings(*blocks: BaseModel | int | Sequence[str] | Mapping[str, Any]) -> str:
    """What a rule depends on besides its inputs, as one line of JSON for ``params``.

    Snakemake runs a job again when this line changes, and only then: a rule is given just the
    blocks that its stage reads.
    """
    plain = [
        block.model_dump(mode="json") if isinstance(block, BaseModel) else block for block in blocks
    ]
    return json.dumps(plain, ensure_ascii=False)


def raw_fingerprint(config: Config, source: str) -> str:
    """What the download of a source depends on: the catalogue's rows, or the mirrors' files.

    How patiently files are fetched is no part of it.
    """
    if CATALOGUE in config.download.mirrors:
        rows = read_catalogue(config.paths.catalogue)
        parts = [row.contents for row in rows if row.source == source]
    else:
        parts = [mirror_fingerprint(source, mirror) for mirror in config.download.mirrors]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def reference_files(config: Config, source: str) -> list[Path]:
    """Files with reference energies that the user gives for a source: none or one."""
    entry = config.normalize.reference_energies.get(source)
    return [entry] if isinstance(entry, Path) else []


def reader_digest(config: Config, source: str) -> str:
    """Digest of the extract stage, and of the reader and the description of one source."""
    reader = f"mtlpar.sources.{source}"
    digests = [code_digest("mtlpar.extract.stage")]
    if file_of(reader).is_file():
        digests.append(code_digest(reader))
    else:
        # Of a reader of another package only its own file counts; what it imports is unknown.
        digests.append(file_digest(reader_file(source))[:16])
    if source in config.custom_sources:
        digests.append(
            hashlib.sha256(config.custom_sources[source].model_dump_json().encode()).hexdigest()[
                :16
            ]
        )
    return "-".join(digests)


def extract_settings(config: Config) -> str:
    """What the extracted structures depend on: all settings but how the work is spread."""
    return json.dumps(config.extract.model_dump(mode="json", exclude={"shares"}))


def extract_shares(config: Config, source: str) -> list[Path]:
    """What the shares of a source's work leave behind; nothing where one job does all."""
    count = config.extract.shares
    if count == 1:
        return []
    return [
        config.workspace.extracted_share(source, f"{index}-of-{count}") for index in range(count)
    ]


def training_inputs(config: Config, model: str) -> list[Path]:
    """Manifests of the packs that a model is trained and validated on, and where it starts from."""
    entry = config.models[model]
    manifests = [
        config.workspace.pack_manifest(source, split)
        for source in entry.sources
        for split in ("train", "val")
    ]
    start = entry.start_from
    return manifests if start is None else [*manifests, config.workspace.model(start.model)]


def train_settings(config: Config, model: str) -> str:
    """What the training of one model depends on besides its data."""
    result = config.train.of_result()
    return rule_settings(config.models[model], config.model, result, config.seed)


def local_ranks(config: Config, model: str) -> int:
    """Ranks for a model on one machine: one per branch, so that MTL-par is what runs."""
    return len(config.models[model].branches)


def study_records(config: Config, study: str) -> list[Path]:
    """Measurements that a study is drawn from."""
    return records_of(study, config.workspace, config.study)


def study_outputs(config: Config, study: str) -> list[Path]:
    """Table and figure of a study."""
    suffixes = (*TABLE_FORMATS, *FIGURE_FORMATS)
    return [config.workspace.studies / f"{study}.{suffix}" for suffix in suffixes]


def study_nodes(config: Config, ranks: int) -> int:
    """Nodes for so many ranks of a study."""
    return -(-ranks // config.study.ranks_per_node)


def study_ranks_per_node(config: Config, ranks: int) -> int:
    """Ranks on each of these nodes.

    Raises:
        ValueError: If the ranks do not fill them evenly.
    """
    nodes = study_nodes(config, ranks)
    if ranks % nodes:
        raise ValueError(
            f"study: {ranks} ranks do not fill {nodes} nodes evenly; "
            "change study.ranks_per_node or the numbers of ranks"
        )
    return ranks // nodes


def study_tasks_per_node(config: Config, ranks: int) -> int:
    """Tasks to ask Slurm for on each of these nodes: its plugin refuses one; two hold it."""
    return max(2, study_ranks_per_node(config, ranks))


@dataclass(frozen=True, slots=True)
class ReportItem:
    """A table or figure as Snakemake needs it.

    Attributes:
        name: Name of the item, of its rule and of its caption.
        category: Part of the HTML report it appears in.
        title: What the report calls it.
        inputs: Files it is made of.
        outputs: Files it is written to.
    """

    name: str
    category: str
    title: str
    inputs: list[Path]
    outputs: list[Path]


def report_items(config: Config) -> list[ReportItem]:
    """All tables and figures of the configured models and sources."""
    models = {name: entry.sources for name, entry in config.models.items()}
    return [
        ReportItem(
            name=name,
            category="Tables" if item.kind == "table" else "Figures",
            title=item.title,
            inputs=inputs_of(
                name,
                workspace=config.workspace,
                settings=config.report,
                models=models,
                sources=config.sources,
            ),
            outputs=outputs_of(name, config.workspace),
        )
        for name, item in ITEMS.items()
    ]
