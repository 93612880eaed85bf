"""Commands of the studies: memory, scaling, comm, transfer, compatibility, cosines, and draw."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mtlpar.cli.common import Command, add_command, add_config, joined_ranks, read_config
from mtlpar.core.collective import collective
from mtlpar.study.records import ALL_LAYOUTS, STUDIES

if TYPE_CHECKING:
    from mtlpar.cli.common import Commands


def add_commands(commands: Commands) -> None:
    """Add study with its commands."""
    parser = commands.add_parser(
        "study",
        help="measure layouts, and what pre-training is worth",
        description="Measure layouts, and what pre-training is worth.",
    )
    studies = parser.add_subparsers(metavar="WHAT", required=True)
    _add_layouts(studies)
    _add_pretraining(studies)
    draw = add_command(studies, "draw", _draw, "write the table and figure of a study")
    add_config(draw)
    draw.add_argument("--study", choices=STUDIES, required=True, help="study to draw")


def _add_layouts(studies: Commands) -> None:
    """Add what measures layouts."""
    memory = _add_measurement(studies, "memory", _memory, "measure the memory of a rank")
    _add_layout(memory, ALL_LAYOUTS)
    memory.add_argument(
        "--branches", type=int, required=True, metavar="N", help="number of branches"
    )
    _add_measurement(studies, "scaling", _scaling, "time epochs on the ranks of this launch")
    comm = _add_measurement(studies, "comm", _comm, "profile where the time of a step goes")
    _add_layout(comm, ALL_LAYOUTS)


def _add_pretraining(studies: Commands) -> None:
    """Add what measures how sources and their models help one another."""
    transfer = _add_measurement(
        studies,
        "transfer",
        _transfer,
        "measure errors on a new family by number of labels, start and mode",
    )
    transfer.add_argument(
        "--family",
        required=True,
        metavar="NAME",
        help="name of a family in study.transfer.families",
    )
    transfer.add_argument(
        "--seed",
        type=int,
        required=True,
        metavar="N",
        help="seed of the choice of labels, and of the weights",
    )
    together = _add_measurement(
        studies,
        "compatibility",
        _compatibility,
        "measure errors of sources that are trained together",
    )
    together.add_argument(
        "--mixture", required=True, metavar="A+B", help="sources of the config, joined by +"
    )
    together.add_argument(
        "--seed", type=int, required=True, metavar="N", help="seed of the weights"
    )
    cosines = add_command(
        studies,
        "cosines",
        _cosines,
        "print which sources pull the encoder of a model in the same direction",
    )
    add_config(cosines)
    cosines.add_argument(
        "--model",
        required=True,
        metavar="NAME",
        help="name of a model trained with train.cosine_steps",
    )


def _add_measurement(
    studies: Commands, name: str, command: Command, summary: str
) -> argparse.ArgumentParser:
    parser = add_command(studies, name, command, summary)
    add_config(parser)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="file for the measurement"
    )
    return parser


def _add_layout(parser: argparse.ArgumentParser, layouts: Sequence[str]) -> None:
    parser.add_argument("--layout", choices=layouts, required=True, help="layout to measure")


@collective
def _memory(options: argparse.Namespace) -> None:
    config = read_config(options)
    with joined_ranks(options) as context:
        from mtlpar.study import memory

        memory.run(
            options.out,
            layout=options.layout,
            branches=options.branches,
            settings=config.study,
            context=context,
        )


@collective
def _scaling(options: argparse.Namespace) -> None:
    config = read_config(options)
    with joined_ranks(options) as context:
        from mtlpar.study import scaling

        scaling.run(options.out, settings=config.study, context=context)


@collective
def _comm(options: argparse.Namespace) -> None:
    config = read_config(options)
    with joined_ranks(options) as context:
        from mtlpar.study import comm

        comm.run(options.out, layout=options.layout, settings=config.study, context=context)


def _transfer(options: argparse.Namespace) -> None:
    config = read_config(options)
    families = config.study.transfer.families
    if options.family not in families:
        known = ", ".join(families) or "none"
        raise ValueError(f"--family {options.family}: study.transfer.families has {known}")
    from mtlpar.cli.stages import run_stage_here
    from mtlpar.finetune import transfer

    transfer.run(
        options.out, config=config, family=options.family, seed=options.seed, command=run_stage_here
    )


@collective
def _compatibility(options: argparse.Namespace) -> None:
    config = read_config(options)
    sources = tuple(options.mixture.split("+"))
    if not set(sources) <= set(config.sources):
        raise ValueError(f"--mixture {options.mixture}: sources has {', '.join(config.sources)}")
    with joined_ranks(options) as context:
        from mtlpar.study import compatibility

        compatibility.run(
            options.out,
            sources=sources,
            seed=options.seed,
            workspace=config.workspace,
            model=config.model,
            training=compatibility.training_of(
                config.train,
                config.study.compatibility,
                are_all=len(sources) > 1 and set(sources) == set(config.sources),
            ),
            testing=config.evaluate,
            context=context,
        )


def _cosines(options: argparse.Namespace) -> None:
    config = read_config(options)
    config.model_entry(options.model)
    from mtlpar.train.cosines import pair_cosines, table
    from mtlpar.train.watch import find_history, read_history

    lines = read_history(find_history(config.workspace, options.model))
    sys.stdout.write(f"{table(pair_cosines(lines))}\n")


def _draw(options: argparse.Namespace) -> None:
    from mtlpar.flow.table import STAGES
    from mtlpar.report.studies import write_study

    config = read_config(options)
    records = STAGES["study"].inputs(config, options.study)
    caption = write_study(options.study, records, workspace=config.workspace, dpi=config.report.dpi)
    sys.stdout.write(f"{caption}\n")
