"""The command that predicts files with a model file."""

from __future__ import annotations

import argparse
import gc
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mtlpar.cli.common import add_command, joined_ranks, require_existing, require_positive
from mtlpar.cli.model_files import model_file
from mtlpar.core.collective import collective
from mtlpar.core.wording import counted

if TYPE_CHECKING:
    from mtlpar.cli.common import Commands
    from mtlpar.parallel.ranks import RankContext

logger = logging.getLogger(__name__)


def add_commands(commands: Commands) -> None:
    """Add predict."""
    parser = add_command(
        commands, "predict", _predict, "predict energies, forces and stresses of structures"
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="model.pt or its folder")
    parser.add_argument(
        "inputs",
        type=Path,
        nargs="+",
        metavar="IN",
        help="extended XYZ, ASE databases or trajectories, packs, folders of these, or - for "
        "extended XYZ from standard input",
    )
    parser.add_argument(
        "--source",
        metavar="NAME",
        help="source whose level of theory to predict (optional if the model has only one); auto: "
        "choose for each structure the source whose training data it resembles, or refuse it",
    )
    parser.add_argument(
        "--uncertainty",
        action="store_true",
        help="also write the standard deviation of each energy, as energy_uncertainty in eV",
    )
    parser.add_argument(
        "--descriptors",
        action="store_true",
        help="also write the mean of the encoder's features over the atoms of each structure",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="extended XYZ file to write, one frame per structure, in order; after an "
        "interruption, run the same command again to continue",
    )
    parser.add_argument(
        "--batch-atoms",
        type=int,
        default=4096,
        metavar="N",
        help="atoms predicted at a time (default: 4096)",
    )


@collective
def _predict(options: argparse.Namespace) -> None:
    require_positive(options, "batch_atoms")
    if options.out.suffix not in (".xyz", ".extxyz"):
        raise ValueError(f"--out {options.out}: expected a name that ends in .xyz or .extxyz")
    if options.out.is_dir():
        raise ValueError(f"--out {options.out} is a folder; name a file, perhaps one in it")
    path = model_file(options.model)
    require_existing([one for one in options.inputs if str(one) != "-"])
    with joined_ranks(options) as context, _only_writer(options.out, context):
        from mtlpar.model.choice import AUTO
        from mtlpar.model.describe import energies_not_learned
        from mtlpar.model.file import load_model
        from mtlpar.predict import stage

        model = load_model(path, device=context.device)
        # What is there now stays. Among thousands of rows the collector would visit all of it again
        # and again.
        gc.freeze()
        wanted = stage.Wanted(
            options.source if options.source == AUTO else model.choose_source(options.source),
            options.uncertainty,
            options.descriptors,
        )
        # What is chosen is known to have one.
        if wanted.uncertainty and wanted.source != AUTO:
            reason = model.no_uncertainty_because(wanted.source)
            if reason is not None:
                raise ValueError(f"--uncertainty: {reason}")
        outcome = stage.run(
            model,
            options.inputs,
            options.out,
            wanted=wanted,
            model_file=path,
            context=context,
            batch_atoms=options.batch_atoms,
        )
        if context.rank == 0:
            rows = outcome.predicted + outcome.refused.total()
            logger.info(
                "%s: %s, %d predicted", options.out, counted(rows, "row"), outcome.predicted
            )
            if wanted.source == AUTO:
                _log_sources(outcome.sources)
            if outcome.unseen:
                pairs = (f"{pair} ({count})" for pair, count in outcome.unseen_pairs.most_common(5))
                logger.warning(
                    "%s with elements that no training structure has, or has together, such as %s: "
                    "trust them less than their uncertainty says",
                    counted(outcome.unseen, "row"),
                    ", ".join(pairs),
                )
            for source in model.training.get("without_energies", ()):
                if source in outcome.sources:
                    logger.warning("%s", energies_not_learned(source, model.settings.head.forces))
            for reason, count in outcome.refused.most_common():
                logger.warning("%d refused: %s", count, reason)


def _log_sources(sources: Mapping[str, int]) -> None:
    """How many rows each source was chosen for."""
    counts = ", ".join(f"{source} {count}" for source, count in sources.items())
    logger.info("chosen: %s", counts or "no source for any row")
    if len(sources) > 1:
        logger.warning(
            "energies of different sources are at different levels of theory: do not compare them"
        )


@contextmanager
def _only_writer(out: Path, context: RankContext) -> Iterator[None]:
    """Wait for another run that writes the same file: their parts would be mixed."""
    from mtlpar.flow.lease import Owner, hold

    if context.rank:
        yield
        return
    owner = Owner.this_process(ranks=context.world_size)
    with hold(out.parent, f"predict-{out.name}", owner):
        yield
