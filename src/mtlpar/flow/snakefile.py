"""What the Snakefile needs: the checked config, the stages as rules see them, and the shell.

Rules hold no logic; it is here, where it has types and tests. This module imports neither torch
nor matplotlib, because Snakemake evaluates it for every job.
"""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mtlpar.config import Config
from mtlpar.config.load import Stack, check_config
from mtlpar.config.resolved import RESOLVED_CONFIGS, write_resolved
from mtlpar.flow.jobs import cancel_left
from mtlpar.flow.snakemake import tell
from mtlpar.flow.stage import Outputs, Stage
from mtlpar.flow.table import STAGES

logger = logging.getLogger(__name__)

DATA_PRIORITY: Final = 10_000
"""Of jobs that prepare data: above all trainings, of which the longest wait for the last source."""


def read_config(workflow: Any, content: Mapping[str, Any]) -> Config:
    """Lay the configuration files and ``--config`` over each other, as ``mtlpar`` does.

    Snakemake has merged them already, by rules of its own: branches that a file gives a model would
    be added to those that it should not have any more.

    Args:
        workflow: Snakemake's.
        content: What Snakemake merged; used where another workflow includes this one as a module
            with a configuration of its own.

    Raises:
        ValueError: With every problem by dotted key.
    """
    if workflow.modifier.skip_configfile:
        return check_config(content, where="config")
    settings = workflow.config_settings
    if settings.replace_workflow_config:
        raise ValueError(
            "--replace-workflow-config: Snakemake does not pass it on to its jobs, which would "
            "read config.yaml too; set to null what that file should not set"
        )
    of_command_line = len(settings.configfiles)
    files = [*workflow.configfiles[of_command_line:], *workflow.configfiles[:of_command_line]]
    stack = Stack()
    for path in files:
        stack.add_file(Path(path))
    for assignment in settings.config_args:
        key, separator, value = assignment.partition("=")
        # Snakemake allows no dots in keys.
        stack.add_override(f"{key.replace('__', '.')}{separator}{value}", option="--config")
    for note in stack.notes if workflow.is_main_process else ():
        tell(note)
    return stack.check()


@dataclass(frozen=True, slots=True)
class RuleOf:
    """A stage as its rule sees it: outputs with wildcards, all else as functions of these.

    Attributes:
        stage: The stage.
        config: The configuration.
        pattern: What the rule works on; wildcards stand in braces.
    """

    stage: Stage
    config: Config
    pattern: str

    @property
    def outputs(self) -> Outputs:
        """Files that the rule writes, by name."""
        return self.stage.outputs(self.config, self.pattern)

    @property
    def folders(self) -> list[Path]:
        """Folders that the rule writes besides."""
        return self.stage.folders(self.config, self.pattern)

    @property
    def after(self) -> list[Path]:
        """Files that must be there first, but whose changes do not matter."""
        return self.stage.after(self.config, self.pattern)

    def inputs(self, wildcards: Mapping[str, str]) -> list[Path]:
        """Files that a job of the rule reads."""
        return self.stage.inputs(self.config, self._target(wildcards))

    def settings(self, wildcards: Mapping[str, str]) -> str:
        """What a job of the rule depends on besides its inputs and its code."""
        return self.stage.settings(self.config, self._target(wildcards))

    def code(self, wildcards: Mapping[str, str]) -> str:
        """Digest of the code that a job of the rule runs."""
        return self.stage.code(self.config, self._target(wildcards))

    def _target(self, wildcards: Mapping[str, str]) -> str:
        return self.pattern.format(**dict(wildcards.items()))


def rules_of(config: Config) -> dict[str, RuleOf]:
    """Every stage as its rule sees it, by name of the stage."""
    return {name: rule_of(config, name) for name in STAGES}


def rule_of(config: Config, name: str, target: str | None = None) -> RuleOf:
    """A stage as the rule of one target sees it, or as the rule of all."""
    stage = STAGES[name]
    return RuleOf(stage, config, stage.target if target is None else target)


def shell_prefix(config: Config) -> str:
    """What precedes every shell command of the rules: strict mode, PATH and ``$CONFIG_FILE``.

    The folder of the running interpreter goes last on PATH, so that an environment which a
    profile or Snakemake activated wins.
    """
    programs = shlex.quote(str(Path(sys.executable).parent))
    config_file = shlex.quote(str(write_resolved(config, RESOLVED_CONFIGS)))
    return f'set -euo pipefail; PATH="$PATH":{programs}; CONFIG_FILE={config_file}; '


def launch_line(ranks_per_node: str = "tasks_per_node") -> str:
    """What starts the ranks of a rule, before their command.

    Args:
        ranks_per_node: Resource of the rule that says how many ranks each node gets.
    """
    return (
        "mtlpar launch --nodes {resources.nodes}"
        f" --ranks-per-node {{resources.{ranks_per_node}}}"
        " --cpus-per-rank {resources.cpus_per_task} --gpus-per-node {resources.gpus_per_node}"
        " --walltime-min {resources.runtime} -- "
    )


def after_failure(logs: Sequence[str], *, is_main_process: bool) -> None:
    """Cancel what Ctrl-C has left; Snakemake calls this where a run did not end well.

    Args:
        logs: Log files of this Snakemake.
        is_main_process: Whether this Snakemake is the user's, and not one that runs a job.
    """
    for job in cancel_left(Path.cwd(), map(Path, logs)) if is_main_process else ():
        logger.warning("cancelled job %s: %s", job.id, job.what)


def local_ranks(config: Config, model: str) -> int:
    """Ranks for a model on one machine: one per branch, so that MTL-par is what runs."""
    return len(config.models[model].branches)


def training_priority(config: Config, model: str) -> int:
    """Grows with the sources that a model learns from and the ranks that it takes."""
    return len(config.models[model].sources) + local_ranks(config, model)
