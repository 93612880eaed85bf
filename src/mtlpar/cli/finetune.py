"""The command that fine-tunes a model file on data of one's own."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mtlpar.cli.common import add_command, add_overrides, on_first_rank, require_existing
from mtlpar.cli.model_files import model_file
from mtlpar.cli.stages import run_stage_here
from mtlpar.core.collective import collective

if TYPE_CHECKING:
    from mtlpar.cli.common import Commands
    from mtlpar.model.saved import SavedModel
    from mtlpar.store.pack import Pack


def add_commands(commands: Commands) -> None:
    """Add finetune."""
    parser = add_command(
        commands, "finetune", _finetune, "fine-tune a model file on your own structures"
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="model.pt or its folder")
    parser.add_argument(
        "data",
        type=Path,
        nargs="+",
        metavar="DATA",
        help="structures with labels: extended XYZ, ASE databases or trajectories",
    )
    parser.add_argument(
        "--level", required=True, metavar="TEXT", help="level of theory of the labels"
    )
    parser.add_argument(
        "--name",
        default="own",
        metavar="NAME",
        help="name of the new source and its branch (default: own)",
    )
    parser.add_argument(
        "--branch",
        metavar="NAME",
        help="branch of the model to start from (default: the one that predicts the data best)",
    )
    parser.add_argument(
        "--mode",
        default="full",
        metavar="MODE",
        help="what is trained: full, heads (the encoder and all other branches stay as they are), "
        "last:N layers, or lora:R for low-rank updates of rank R (default: full)",
    )
    _add_replay(parser)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("finetune"),
        metavar="FOLDER",
        help="folder for configuration and results; run the same command again to continue "
        "(default: finetune)",
    )
    add_overrides(
        parser,
        "set one key, such as train.epochs=20 or custom_sources.own.energy_key=REF_energy",
    )
    parser.add_argument(
        "--explain",
        action="store_true",
        help="print what would be trained, with which references and for how long, without "
        "training",
    )


def _add_replay(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--replay",
        default="none",
        metavar="none|packs|pseudo:N",
        help="what keeps the other branches from drifting: the packs of pre-training, or N "
        "structures per branch that the model labels itself (default: none)",
    )
    parser.add_argument(
        "--packs",
        type=Path,
        default=Path("results/packed"),
        metavar="FOLDER",
        help="folder of packs for --replay packs (default: results/packed)",
    )


@collective
def _finetune(options: argparse.Namespace) -> None:
    path = model_file(options.model).resolve()
    require_existing(options.data)
    from mtlpar.finetune import branches, explain
    from mtlpar.finetune.folder import prepare, working_in
    from mtlpar.finetune.project import MODEL, Request, start_of, write_config
    from mtlpar.finetune.replay import sources_with_packs
    from mtlpar.model.file import load_model
    from mtlpar.store.pack import Pack
    from mtlpar.train.start_references import refuse_far_start

    model = load_model(path)
    kind, count = _replay(options.replay)
    if kind != "none" and options.mode == "heads":
        raise ValueError(
            f"--replay {options.replay}: with --mode heads the encoder and the other branches stay "
            "as they are, so there is nothing to hold; leave --replay out"
        )
    request = Request(
        model_file=path,
        data=[one.resolve() for one in options.data],
        level_of_theory=options.level,
        name=options.name,
        mode=options.mode,
        assignments=options.set,
    )
    if options.name in model.sources or options.name in model.branches:
        raise ValueError(
            f"--name {options.name}: the model has a source or branch of that name; choose another"
        )
    if options.branch is not None and options.branch not in model.branches:
        raise ValueError(f"--branch {options.branch}: the model has {', '.join(model.branches)}")
    packed = options.packs.resolve()
    if kind == "packs":
        # Not only after the data have been prepared, which may take hours.
        sources_with_packs(model, packed)
    folder = options.out.resolve()

    def make_ready() -> None:
        write_config(folder, request, model)
        with working_in(folder):
            prepare(options.name, run_stage_here)
            with Pack.open(Path("results/packed", options.name, "train.bp")) as pack:
                candidates = branches.rank_branches(model, pack)
                best = options.branch or candidates[0].branch
                # A setting may say something else.
                branch = start_of(write_config(folder, request, model, branch=best), model)
                sys.stdout.write(f"\n{branches.candidates_text(candidates, chosen=branch)}\n\n")
                for one in candidates:
                    if one.branch == branch:
                        refuse_far_start(one.fit, options.name, model, branch, path=path)
                replay = _replay_sources(kind, count, model, pack, packed)
                passes = _replay_passes(kind, replay, pack)
            write_config(folder, request, model, branch=best, replay=replay, passes=passes)
            for source, given in replay.items():
                if given is not None:
                    _prepare_pseudo_labels(source, count)
            if options.explain:
                sys.stdout.write(f"{explain.text(Path('config.yaml'), model)}\n")

    def test() -> None:
        with working_in(folder):
            run_stage_here("evaluate", "--model", MODEL)
            sys.stdout.write(f"\n{explain.outcome(Path('config.yaml'), model)}\n")

    on_first_rank(options, make_ready)
    if not options.explain:
        with working_in(folder):
            run_stage_here("train", "--model", MODEL)
        on_first_rank(options, test)


def _prepare_pseudo_labels(source: str, count: int) -> None:
    from mtlpar.finetune.folder import prepare

    try:
        prepare(source, run_stage_here)
    except ValueError as error:
        raise ValueError(
            f"--replay pseudo:{count}: the structures that branch {source.removeprefix('replay_')} "
            f"labelled cannot be prepared; more of them may do. {error}"
        ) from error


def _replay(text: str) -> tuple[str, int]:
    from mtlpar.core.fields import SPLITS

    found = re.fullmatch(r"(none|packs|pseudo):?([1-9][0-9]*)?", text)
    if found is None or (found[1] == "pseudo") != (found[2] is not None):
        raise ValueError(f"--replay {text}: expected none, packs or pseudo:N, such as pseudo:200")
    if found[1] == "pseudo" and int(found[2]) < len(SPLITS):
        raise ValueError(
            f"--replay {text}: expected {len(SPLITS)} structures at least, one each to train, "
            "validate and test on"
        )
    return found[1], int(found[2] or 0)


def _replay_sources(
    kind: str,
    count: int,
    model: SavedModel,
    pack: Pack,
    packed: Path,
) -> Mapping[str, Path | None]:
    """Sources that keep other branches where they are; see `write_config`."""
    from mtlpar.finetune import replay

    if kind == "packs":
        return dict.fromkeys(replay.link_packs(model, packed, Path("results/packed")))
    if kind == "pseudo":
        return replay.write_pseudo_labels(model, pack, count, Path.cwd(), seed=pack.header.seed)
    return {}


def _replay_passes(kind: str, sources: Iterable[str], pack: Pack) -> dict[str, float]:
    """How often an epoch visits structures of the packs of pre-training; pseudo-labels: once."""
    from mtlpar.finetune import replay

    if kind != "packs":
        return {}
    return replay.replay_passes(
        replay.sizes_of(Path("results/packed"), sources), pack.header.num_structures
    )
