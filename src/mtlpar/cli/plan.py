"""Commands that predict: plan layout, plan data, and plan calibrate, which measures for them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mtlpar.cli.common import (
    add_command,
    add_config,
    add_source_choice,
    chosen_sources,
    joined_ranks,
    read_config_or_defaults,
    require_within,
)
from mtlpar.core.collective import collective
from mtlpar.core.log import set_up_logging

if TYPE_CHECKING:
    from mtlpar.cli.common import Commands
    from mtlpar.plan.machine import Machine


# Far beyond what there is, and small enough to be answered in seconds, and by finite numbers.
_STRUCTURES: Final = (1, 1e15)
_HOURS: Final = (1e-3, 1e6)
_LAYOUT_BOUNDS: Final = {
    "gpus": (1, 1_000_000),
    "branches": (1, 1_000),
    "structures": _STRUCTURES,
    "batch_per_rank": (1e-3, 1e6),
    "epoch_hours": _HOURS,
}
_DATA_BOUNDS: Final = {"cores": (1, 100_000), "structures": _STRUCTURES, "hours": _HOURS}


def add_commands(commands: Commands) -> None:
    """Add plan with its three commands."""
    parser = commands.add_parser(
        "plan",
        help="predict memory and time on a machine",
        description="Predict memory and time on a machine, or measure its rates.",
    )
    plans = parser.add_subparsers(metavar="WHAT", required=True)
    _add_layout(plans)
    _add_data(plans)
    _add_calibrate(plans)


def _add_layout(plans: Commands) -> None:
    parser = add_command(
        plans, "layout", _layout, "compare layouts by predicted memory and step time"
    )
    add_config(parser)
    _add_machine(parser)
    parser.add_argument(
        "--gpus", type=int, metavar="N", help="number of ranks, one per device (default: one node)"
    )
    parser.add_argument(
        "--branches", type=int, metavar="N", help="number of branches (default: one per source)"
    )
    parser.add_argument(
        "--structures",
        type=float,
        metavar="N",
        help="scale the datasets to this many structures in all, such as 500e6",
    )
    parser.add_argument(
        "--batch-per-rank",
        type=float,
        default=128,
        metavar="N",
        help="structures per rank and step (default: 128)",
    )
    parser.add_argument(
        "--precision", choices=("float32", "float64", "bfloat16"), default="float32",
        help="precision of matrix products (default: float32)",
    )  # fmt: skip
    parser.add_argument(
        "--epoch-hours",
        type=float,
        metavar="H",
        help="recommend the fewest nodes that finish an epoch in this time",
    )
    parser.add_argument(
        "--figure",
        type=Path,
        metavar="FILE",
        help="draw which layout is faster, over branches and ranks",
    )


def _add_data(plans: Commands) -> None:
    parser = add_command(
        plans, "data", _data, "predict time, memory and disk of the stages that prepare data"
    )
    add_config(parser)
    add_source_choice(parser)
    _add_machine(parser)
    parser.add_argument(
        "--catalogue", nargs="+", metavar="NAME",
        help="datasets of workflow/dataset_sizes.csv instead of the config's sources; all takes "
        "every one",
    )  # fmt: skip
    parser.add_argument(
        "--structures",
        type=float,
        metavar="N",
        help="scale the datasets to this many structures in all, such as 500e6",
    )
    parser.add_argument(
        "--cores", type=int, metavar="N", help="cores per node (default: 1)", default=1
    )
    parser.add_argument(
        "--hours",
        type=float,
        metavar="H",
        help="print how many nodes have the data ready in this many hours",
    )
    parser.add_argument(
        "--measure",
        action="store_true",
        help="measure the rates first, on the embedded sample data",
    )


def _add_calibrate(plans: Commands) -> None:
    parser = add_command(
        plans,
        "calibrate",
        _calibrate,
        "measure the rates of this machine; run it under mtlpar launch",
    )
    add_config(parser)
    _add_machine(parser)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="machine file to write, a .yaml"
    )


def _add_machine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--machine", default="laptop", metavar="NAME",
        help="machine of workflow/machines, or a .yaml file (default: laptop)",
    )  # fmt: skip


def _read_machine(options: argparse.Namespace) -> Machine:
    from mtlpar.plan.machine import load_machine

    return load_machine(options.machine)


def _layout(options: argparse.Namespace) -> None:
    require_within(options, _LAYOUT_BOUNDS)
    config = read_config_or_defaults(options)
    machine = _read_machine(options)
    from mtlpar.plan.recommend import Question, crossover, nodes_for
    from mtlpar.plan.text import ASSUMPTIONS, layout_text, recommendation_text
    from mtlpar.plan.workload import read_datasets

    question = Question(
        machine=machine,
        model=config.model,
        datasets=read_datasets(config.sources),
        branches=options.branches or len(config.sources),
        batch_per_rank=options.batch_per_rank,
        total_structures=options.structures,
        precision=options.precision,
    )
    ranks = options.gpus or machine.ranks_per_node
    found = nodes_for(question, max_ranks=ranks, epoch_hours=options.epoch_hours)
    parts = [layout_text(question, ranks), recommendation_text(found, options.epoch_hours)]
    sys.stdout.write("\n\n".join([*parts, ASSUMPTIONS]) + "\n")
    if options.figure:
        from mtlpar.report.crossover import write_crossover

        result = crossover(question, max_ranks=ranks)
        write_crossover(options.figure, question, result, dpi=config.report.dpi)


def _data(options: argparse.Namespace) -> None:
    require_within(options, _DATA_BOUNDS)
    if options.catalogue and options.source:
        raise ValueError(
            "--catalogue and --source both say what to plan for; name all of it with --catalogue"
        )
    config = read_config_or_defaults(options)
    machine = _read_machine(options)
    from mtlpar.plan.data import nodes_to_be_ready, plan_data, rates_of
    from mtlpar.plan.text import data_text, nodes_text
    from mtlpar.plan.workload import read_datasets, scale

    names = options.catalogue or chosen_sources(options, config)
    datasets = read_datasets(None if options.catalogue == ["all"] else names)
    if options.structures:
        datasets = scale(datasets, options.structures)

    if options.measure:
        from mtlpar.study.data_rates import measure_data_rates

        # The stages would report on the sample.
        set_up_logging(rank=0 if options.verbose else 1)
        rates, origin = measure_data_rates(config.sources, like=machine.data), "measured here"
    else:
        rates, origin = rates_of(machine), f"stated for {machine.description}"
    costs = plan_data(datasets, rates, cores=options.cores)
    parts = [data_text(costs, rates, cores=options.cores, origin=origin)]
    if options.hours:
        nodes = nodes_to_be_ready(costs, hours=options.hours)
        parts.append(nodes_text(nodes, cores=options.cores, hours=options.hours))
    sys.stdout.write("\n\n".join(parts) + "\n")


@collective
def _calibrate(options: argparse.Namespace) -> None:
    from mtlpar.plan.machine import SUFFIXES, write_machine

    if options.out.suffix not in SUFFIXES:
        # Not only after everything has been measured: no other name would be read again.
        raise ValueError(f"--out {options.out}: expected a name that ends in .yaml")
    if options.out.is_dir():
        raise ValueError(f"--out {options.out} is a folder; name a file, perhaps one in it")
    config = read_config_or_defaults(options)
    machine = _read_machine(options)
    with joined_ranks(options) as context:
        from mtlpar.study.calibrate import calibrate

        machine = calibrate(
            machine,
            model=config.model,
            atoms=config.study.atoms,
            context=context,
        )
        if context.rank == 0:
            write_machine(options.out, machine)
            sys.stdout.write(f"wrote {options.out}\n")
