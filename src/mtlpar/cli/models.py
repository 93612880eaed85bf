"""Commands that work on one model of the config: train, evaluate."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mtlpar.cli.common import Command, add_command, add_config, read_config
from mtlpar.core.log import set_up_logging

if TYPE_CHECKING:
    from mtlpar.cli.common import Commands


def add_commands(commands: Commands) -> None:
    """Add the stages that work on a model."""
    _add_stage(commands, "train", _train, "pre-train a model, on one or many ranks")
    _add_stage(commands, "evaluate", _evaluate, "test a model on every source")


def _add_stage(
    commands: Commands, name: str, command: Command, summary: str
) -> argparse.ArgumentParser:
    parser = add_command(commands, name, command, summary)
    add_config(parser)
    parser.add_argument("--model", required=True, metavar="NAME", help="named model of the config")
    return parser


def _train(options: argparse.Namespace) -> None:
    from mtlpar.parallel.launch import distributed_context

    config = read_config(options)
    entry = config.model_entry(options.model)
    with distributed_context() as context:
        from mtlpar.train import stage

        set_up_logging(rank=context.rank, world_size=context.world_size, verbose=options.verbose)
        stage.run(
            options.model,
            branches=entry.branches,
            workspace=config.workspace,
            model_settings=config.model,
            settings=config.train,
            seed=config.seed,
            context=context,
        )


def _evaluate(options: argparse.Namespace) -> None:
    from mtlpar.evaluate import stage

    config = read_config(options)
    config.model_entry(options.model)
    stage.run(
        options.model,
        workspace=config.workspace,
        settings=config.evaluate,
        sources=config.sources,
        seed=config.seed,
    )
