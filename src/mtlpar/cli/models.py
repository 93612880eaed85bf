"""Commands that work on one model of the config: train, evaluate, watch."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from mtlpar.cli.common import (
    Command,
    add_command,
    add_config,
    read_config,
    require_positive,
    run_stage,
    stage_on_ranks,
)
from mtlpar.core.collective import collective

if TYPE_CHECKING:
    from mtlpar.cli.common import Commands
    from mtlpar.config import Config
    from mtlpar.model.settings import ModelSettings
    from mtlpar.train.recipe import Start


def add_commands(commands: Commands) -> None:
    """Add the stages that work on a model."""
    parser = _add_stage(commands, "train", _train, "pre-train a model, on one or many ranks")
    parser.add_argument(
        "--deadline-s",
        type=float,
        metavar="SECONDS",
        help="save a checkpoint and stop with exit status 75 after this long; run the same command "
        "again to continue (default: shortly before the walltime, if mtlpar launch knows it; "
        "SIGTERM, SIGUSR1 and Ctrl-C do the same at once)",
    )
    _add_stage(commands, "evaluate", _evaluate, "test a model on every source")
    parser = _add_stage(
        commands, "watch", _watch, "draw the learning curves of a training in the terminal"
    )
    parser.add_argument(
        "--every",
        type=float,
        metavar="SECONDS",
        help="redraw at this interval until interrupted (default: draw once)",
    )


def _add_stage(
    commands: Commands, name: str, command: Command, summary: str
) -> argparse.ArgumentParser:
    parser = add_command(commands, name, command, summary)
    add_config(parser)
    parser.set_defaults(before_ranks=_read_with_model)
    parser.add_argument("--model", metavar="NAME", help="name of a model in the config")
    return parser


def _read_with_model(options: argparse.Namespace) -> Config:
    """The config; refuses a model that it does not have, and lists those that it has."""
    config = read_config(options)
    if options.model is None:
        raise ValueError(f"--model is missing; the config has {', '.join(config.models)}")
    config.model_entry(options.model)
    return config


@collective
def _train(options: argparse.Namespace) -> None:
    from mtlpar.parallel.launch import time_left_s

    config = _read_with_model(options)
    entry = config.model_entry(options.model)
    timeout_s = config.train_of(options.model).collective_timeout_s
    with stage_on_ranks(options, config, "train", options.model, timeout_s=timeout_s) as context:
        if context is None:
            return
        from mtlpar.train import stage

        stage.run(
            options.model,
            branches=entry.branches,
            workspace=config.workspace,
            model_settings=_architecture(config, options.model),
            settings=config.train_of(options.model),
            seed=config.seed,
            context=context,
            start=_start(config, options.model),
            deadline_s=time_left_s() if options.deadline_s is None else options.deadline_s,
        )


def _start(config: Config, name: str) -> Start | None:
    """The trained model that a model of the config starts from."""
    from mtlpar.train.recipe import Start

    start, path = config.model_entry(name).start_from, config.start_file(name)
    if start is None or path is None:
        return None
    return Start(
        path=path,
        new_branches=start.branches,
        mode=start.mode,
        keep_branches=start.keep_branches,
    )


def _architecture(config: Config, name: str) -> ModelSettings:
    """Architecture of a model: of one that starts from a file, itself or by others, the file's."""
    from mtlpar.model.file import load_model
    from mtlpar.model.start import architecture_from

    entry, path = config.model_entry(name), config.start_file(name)
    if entry.start_from is None or path is None or not _begins_with_file(config, name):
        return config.model_of(name)
    if entry.start_from.file is None and not path.is_file():
        # It is not trained yet, which the stage says.
        return config.model_of(name)
    return architecture_from(load_model(path), entry.model)


def _begins_with_file(config: Config, name: str) -> bool:
    """Whether the first of the models that a model starts from is a file from elsewhere."""
    start = config.model_entry(name).start_from
    return start is not None and (start.file is not None or _begins_with_file(config, start.model))


def _evaluate(options: argparse.Namespace) -> None:
    config = _read_with_model(options)
    from mtlpar.evaluate import stage

    run_stage(
        config,
        "evaluate",
        options.model,
        stage.run,
        workspace=config.workspace,
        settings=config.evaluate,
        sources=config.sources,
        seed=config.seed,
        branches=config.model_entry(options.model).branches,
    )


def _watch(options: argparse.Namespace) -> None:
    require_positive(options, "every")
    config = _read_with_model(options)
    from mtlpar.train.watch import draw, find_history, read_history

    is_terminal = sys.stdout.isatty()
    while True:
        lines = read_history(find_history(config.workspace, options.model))
        # Clear the screen, so that curves grow in place.
        start = "\x1b[2J\x1b[H" if options.every and is_terminal else ""
        sys.stdout.write(f"{start}{draw(lines, colour=is_terminal)}\n")
        sys.stdout.flush()
        if not options.every:
            return
        time.sleep(options.every)
