"""Commands that use a model file in other engines: lammps, convert."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mtlpar.cli.common import add_command, require_existing
from mtlpar.cli.model_files import model_file

if TYPE_CHECKING:
    from ase import Atoms

    from mtlpar.cli.common import Commands


def add_commands(commands: Commands) -> None:
    """Add lammps and convert."""
    _add_lammps(commands)
    _add_convert(commands)


def _add_lammps(commands: Commands) -> None:
    parser = add_command(
        commands, "lammps", _lammps, "run a LAMMPS script with a model as its potential"
    )
    parser.add_argument(
        "script",
        type=Path,
        metavar="SCRIPT",
        help="LAMMPS script in metal units, with 'pair_style mtlpar' and 'pair_coeff * * Mg O' "
        "(the element of each atom type)",
    )
    parser.add_argument(
        "--model", type=Path, required=True, metavar="MODEL", help="model.pt or its folder"
    )
    _add_source(parser)
    parser.add_argument(
        "--structure",
        type=Path,
        metavar="FILE",
        help="structure to start from, in any format that ASE reads (the last frame is taken); "
        "units, atom_style, boundary and read_data are then set and must not be in the script",
    )
    parser.add_argument("--charge", type=int, metavar="E", help="total charge of the structure (e)")
    parser.add_argument(
        "--spin",
        type=int,
        metavar="N",
        help="spin multiplicity 2S+1 of the structure; 0 if unknown",
    )
    parser.add_argument(
        "--var",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="set a variable of the script; may be repeated",
    )


def _add_convert(commands: Commands) -> None:
    parser = add_command(
        commands, "convert", _convert, "export one branch of a model for other simulation engines"
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="model.pt or its folder")
    _add_source(parser)
    parser.add_argument(
        "--format",
        required=True,
        choices=("metatomic", "package"),
        help="metatomic: for engines that support metatomic models; package: a function of "
        "positions and neighbours, for torch.export.load",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(),
        metavar="FOLDER",
        help="folder to write to (default: here); the file is named after model, source, level of "
        "theory and digest",
    )


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source",
        metavar="NAME",
        help="source whose level of theory to predict (optional if the model has only one)",
    )


def _lammps(options: argparse.Namespace) -> None:
    if not options.script.is_file():
        raise ValueError(f"{options.script} does not exist; expected a LAMMPS script")
    path = model_file(options.model)
    require_existing([] if options.structure is None else [options.structure])
    from mtlpar.engines.lammps import Simulation
    from mtlpar.model.file import load_model

    structure = None if options.structure is None else _last_frame(options.structure)
    with Simulation(
        load_model(path),
        source=options.source,
        charge=options.charge,
        spin=options.spin,
        arguments=[word for name, value in options.var for word in ("-var", name, value)],
    ) as simulation:
        simulation.run(options.script, structure=structure)


def _convert(options: argparse.Namespace) -> None:
    if not options.out.is_dir():
        raise ValueError(
            f"--out {options.out} is not a folder; create it first, files in it get "
            "names of their own"
        )
    path = model_file(options.model)
    from mtlpar.engines.provenance import facts, file_name
    from mtlpar.model.file import load_model

    model = load_model(path)
    source = model.choose_source(options.source)
    said = facts(model, source, path)
    if options.format == "metatomic":
        from mtlpar.engines import metatomic

        out = options.out / file_name(said, "metatomic.pt")
        metatomic.export(model, source, out, model_file=path)
    else:
        from mtlpar.engines import package

        out = options.out / file_name(said, "pt2")
        package.export(model, source, out, model_file=path)
    sys.stdout.write(f"wrote {out}\n")


def _last_frame(path: Path) -> Atoms:
    """The last structure of a file.

    Raises:
        ValueError: If ASE cannot read it, or it only stands for a file that was not fetched.
    """
    from ase import Atoms
    from ase.io import read

    from mtlpar.core.first_bytes import refuse_stand_in

    refuse_stand_in(path)
    try:
        found = read(path, index=-1)
    except Exception as error:  # readers of ASE raise whatever they stumble over
        raise ValueError(f"{path} is not a structure that ASE can read: {error}") from error
    assert isinstance(found, Atoms)
    return found
