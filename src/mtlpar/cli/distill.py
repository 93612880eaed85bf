"""The command that makes a compact student of one branch of a model file."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mtlpar.cli.common import (
    add_command,
    add_overrides,
    on_first_rank,
    require_existing,
    require_within,
)
from mtlpar.cli.model_files import model_file
from mtlpar.cli.stages import run_stage_here
from mtlpar.core.collective import collective

if TYPE_CHECKING:
    from mtlpar.cli.common import Commands


_MOST_DYNAMICS: Final = 1_000_000


def add_commands(commands: Commands) -> None:
    """Add distill."""
    parser = add_command(
        commands,
        "distill",
        _distill,
        "distill one branch of a model file into a small conservative model",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="model.pt or its folder")
    parser.add_argument(
        "--source",
        metavar="NAME",
        help="source whose level of theory to teach (optional if the model has only one)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="model file to write, such as student.pt; configuration and results go to the folder "
        "student beside it; run the same command again to continue",
    )
    parser.add_argument(
        "--packs",
        type=Path,
        default=Path("results/packed"),
        metavar="FOLDER",
        help="folder with packs of the teacher's sources: labels of SOURCE are learned too, and "
        "the teacher labels structures of the others that are alike (default: results/packed)",
    )
    parser.add_argument(
        "--structures",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="more structures to teach, with or without labels, in any format that `mtlpar "
        "predict` reads",
    )
    parser.add_argument(
        "--dynamics",
        type=int,
        default=400,
        metavar="N",
        help="number of structures to teach from dynamics that a first student runs, at least 10; "
        "0 for none (default: 400)",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=500.0,
        metavar="K",
        help="temperature of these dynamics in kelvin (default: 500)",
    )
    add_overrides(parser, "set one key, such as train.epochs=20 or model.encoder.width=24")


@collective
def _distill(options: argparse.Namespace) -> None:
    require_within(options, {"temperature": (1, 10_000)})
    if options.out.suffix != ".pt":
        raise ValueError(f"--out {options.out}: expected a name that ends in .pt")
    path = model_file(options.model).resolve()
    if Path("-") in options.structures:
        raise ValueError("--structures -: standard input can be read only once; save it as a file")
    require_existing(options.structures)
    if options.out.is_dir():
        raise ValueError(f"--out {options.out} is a folder; name a file, perhaps one in it")
    out = options.out.resolve()
    folder = out.with_suffix("")
    if out == path or (out.exists() and not (folder / "config.yaml").exists()):
        raise ValueError(
            f"--out {options.out}: a model is there that mtlpar distill did not write; name "
            "another file"
        )
    from mtlpar.core.files import link
    from mtlpar.finetune import distill, learned
    from mtlpar.finetune.dynamics import LEAST_TRAJECTORIES
    from mtlpar.finetune.folder import working_in
    from mtlpar.finetune.student import STUDENT, Lessons, find_others
    from mtlpar.finetune.teacher import Teacher
    from mtlpar.predict.rows import input_files

    if options.dynamics and not LEAST_TRAJECTORIES <= options.dynamics <= _MOST_DYNAMICS:
        raise ValueError(
            f"--dynamics {options.dynamics}: expected a number of structures, from "
            f"{LEAST_TRAJECTORIES}, so that each split has some, to {_MOST_DYNAMICS:,}, or 0 for "
            "none"
        )
    teacher = Teacher.load(path, options.source)
    packed = options.packs.resolve()
    lessons = Lessons(
        packs=(packed / teacher.source / "train.bp").is_dir(),
        others=find_others(teacher, packed),
        structures=[path.resolve() for path in input_files(options.structures)],
        frames=options.dynamics,
        temperature_k=options.temperature,
        assignments=options.set,
    )
    config = distill.run(
        folder,
        teacher=teacher,
        lessons=lessons,
        packed=packed,
        command=run_stage_here,
        alone=partial(on_first_rank, options),
    )

    def show() -> None:
        with working_in(folder):
            link(config.workspace.model(STUDENT), out)
            sys.stdout.write(f"\n{learned.text(config, teacher)}\n\nmodel: {out}\n")

    on_first_rank(options, show)
