"""The command line: parses arguments, checks the config, and calls one stage. No logic."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mtlpar import __version__
from mtlpar.config import Config, json_schema, load_config
from mtlpar.core.log import set_up_logging

logger = logging.getLogger(__name__)

Command = Callable[[argparse.Namespace], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status; mistakes of the user end with one clear line."""
    options = build_parser().parse_args(arguments)
    set_up_logging(verbose=options.verbose)
    try:
        options.command(options)
    except ValueError as error:
        logger.error("error: %s", error)
        return 1
    except KeyboardInterrupt:
        logger.error("interrupted")
        return 130
    return 0


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(
        prog="mtlpar",
        description="Pre-trains graph foundation models on several atomistic datasets with "
        "multi-task parallelism. Each stage of the workflow is a command; "
        "`snakemake` runs them all in order.",
    )
    parser.add_argument("--version", action="version", version=f"mtlpar {__version__}")
    commands = parser.add_subparsers(title="stages and tools", metavar="COMMAND", required=True)
    _add_source_stage(commands, "download", _download, "fetch the native files of a source")
    _add_source_stage(commands, "extract", _extract, "read native files into columns")
    _add_source_stage(commands, "normalize", _normalize, "split and fit reference energies")
    _add_source_stage(commands, "pack", _pack, "write shuffled .bp packs of the splits")
    _add_model_stage(commands, "train", _train, "pre-train a model, on one or many ranks")
    _add_model_stage(commands, "evaluate", _evaluate, "test a model on every source")
    _add_report(commands)
    _add_sample(commands)
    _add_launch(commands)
    _add_schema(commands)
    return parser


def _add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    command: Command,
    summary: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=summary, description=summary[0].upper() + summary[1:] + "."
    )
    parser.set_defaults(command=command)
    parser.add_argument("-v", "--verbose", action="store_true", help="log details too")
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        nargs="+",
        default=[Path("config.yaml")],
        metavar="FILE",
        help="configuration files, later ones over earlier ones (default: config.yaml)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one key, for instance train.epochs=5; may be repeated",
    )


def _add_source_stage(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    command: Command,
    summary: str,
) -> None:
    parser = _add_command(commands, name, command, summary)
    _add_config(parser)
    parser.add_argument(
        "--source",
        action="append",
        metavar="NAME",
        help="source to work on; may be repeated (default: all sources of the config)",
    )
    if name == "download":
        parser.add_argument(
            "--list", action="store_true", help="show what would be fetched, and stop"
        )
    if name == "extract":
        parser.add_argument(
            "--jobs", type=int, default=1, metavar="N", help="raw files read side by side"
        )


def _add_model_stage(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    command: Command,
    summary: str,
) -> None:
    parser = _add_command(commands, name, command, summary)
    _add_config(parser)
    parser.add_argument("--model", required=True, metavar="NAME", help="named model of the config")


def _add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(commands, "report", _report, "draw tables and figures from the metrics")
    _add_config(parser)
    parser.add_argument("--item", metavar="NAME", help="only this table or figure (default: all)")
    parser.add_argument(
        "--summary", action="store_true", help="print the main tables and where results lie"
    )


def _add_sample(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(
        commands, "sample", _sample, "compute a sample of all five sources in their native formats"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to write")
    parser.add_argument(
        "--structures", type=int, default=1200, metavar="N", help="structures per source, roughly"
    )
    parser.add_argument("--seed", type=int, default=20250626, help="seed of everything random")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes")
    parser.add_argument("--source", action="append", metavar="NAME", help="only this source")


def _add_launch(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(
        commands, "launch", _launch, "start a command on several ranks (srun, PALS or mpiexec)"
    )
    parser.add_argument("--nodes", type=int, default=1, help="number of nodes")
    parser.add_argument("--ranks-per-node", type=int, default=1, help="ranks on each node")
    parser.add_argument("--cpus-per-rank", type=int, default=1, help="cores of each rank")
    parser.add_argument("--gpus-per-node", type=int, default=0, help="accelerators of each node")
    parser.add_argument(
        "--launcher",
        choices=("auto", "srun", "pals", "mpiexec", "none"),
        default="auto",
        help="how ranks are started (default: recognise the allocation)",
    )
    parser.add_argument("line", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="what to run")


def _add_schema(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(commands, "schema", _schema, "print the JSON schema of the config")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write it to a file instead")


def _config(options: argparse.Namespace) -> Config:
    return load_config(options.config, options.set)


def _sources(options: argparse.Namespace, config: Config) -> tuple[str, ...]:
    unknown = sorted(set(options.source or ()) - set(config.sources))
    if unknown:
        raise ValueError(
            f"--source {', '.join(unknown)}: not among the sources of the config "
            f"({', '.join(config.sources)})"
        )
    return tuple(options.source or config.sources)


def _download(options: argparse.Namespace) -> None:
    from mtlpar.download import stage

    config = _config(options)
    sources, catalogue = _sources(options, config), config.paths.catalogue
    if options.list:
        table = stage.describe(
            sources, workspace=config.workspace, settings=config.download, catalogue=catalogue
        )
        sys.stdout.write(f"{table}\n")
        return
    for source in sources:
        stage.run(source, workspace=config.workspace, settings=config.download, catalogue=catalogue)


def _extract(options: argparse.Namespace) -> None:
    from mtlpar.extract import stage

    config = _config(options)
    for source in _sources(options, config):
        stage.run(source, workspace=config.workspace, settings=config.extract, jobs=options.jobs)


def _normalize(options: argparse.Namespace) -> None:
    from mtlpar.normalize import stage

    config = _config(options)
    for source in _sources(options, config):
        stage.run(source, workspace=config.workspace, settings=config.normalize, seed=config.seed)


def _pack(options: argparse.Namespace) -> None:
    from mtlpar.pack import stage

    config = _config(options)
    for source in _sources(options, config):
        stage.run(source, workspace=config.workspace, settings=config.pack, seed=config.seed)


def _train(options: argparse.Namespace) -> None:
    from mtlpar.parallel.launch import distributed_context

    config = _config(options)
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

    config = _config(options)
    config.model_entry(options.model)
    stage.run(
        options.model,
        workspace=config.workspace,
        settings=config.evaluate,
        sources=config.sources,
        seed=config.seed,
    )


def _report(options: argparse.Namespace) -> None:
    from mtlpar.report import stage

    config = _config(options)
    models = {name: entry.sources for name, entry in config.models.items()}
    if options.summary:
        report = Path("report.html")
        text = stage.summary_text(
            workspace=config.workspace,
            models=models,
            sources=config.sources,
            report=report if report.exists() else None,
        )
        sys.stdout.write(f"{text}\n")
        return
    stage.run(
        options.item,
        workspace=config.workspace,
        settings=config.report,
        models=models,
        sources=config.sources,
    )


def _sample(options: argparse.Namespace) -> None:
    from mtlpar.sample import generate

    generate(
        options.out,
        structures_per_source=options.structures,
        seed=options.seed,
        processes=options.jobs,
        sources=options.source,
    )


def _launch(options: argparse.Namespace) -> None:
    from mtlpar.parallel.launch import Geometry, launch

    line = options.line[1:] if options.line[:1] == ["--"] else options.line
    if not line:
        raise ValueError("nothing to launch; give the command after --")
    geometry = Geometry(
        nodes=options.nodes,
        ranks_per_node=options.ranks_per_node,
        cpus_per_rank=options.cpus_per_rank,
        gpus_per_node=options.gpus_per_node,
    )
    launch(geometry, line, launcher=options.launcher)


def _schema(options: argparse.Namespace) -> None:
    from mtlpar.core.files import write_text

    text = json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
    if options.out:
        write_text(options.out, text)
    else:
        sys.stdout.write(text)
