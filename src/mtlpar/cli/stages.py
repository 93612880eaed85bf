"""Stages that a command runs one after the other, in a folder that it has written."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path

logger = logging.getLogger(__name__)


def run_stage_here(stage: str, option: str, target: str) -> None:
    """Run a command in the present folder, unless its outputs are there and would be the same.

    Files outside may be others under the same names: download is always run, and compares them.
    """
    from mtlpar.cli import build_parser
    from mtlpar.config import load_config
    from mtlpar.flow.records import StageRun

    if stage != "download":
        config = load_config([Path("config.yaml")])
        if StageRun.of(config, stage, target).is_done():
            return
    words = [stage, option, target]
    logger.info("%s: mtlpar %s", Path.cwd().name, shlex.join(words))
    options = build_parser().parse_args(words)
    options.command(options)
