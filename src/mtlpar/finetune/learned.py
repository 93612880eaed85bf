"""What a student learned, beside its teacher: errors on the test sets, and time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from ase import Atoms

from mtlpar.config import Config
from mtlpar.core.error_names import ERROR_UNITS, MAE_NAMES
from mtlpar.core.wording import counted
from mtlpar.evaluate.errors import predict_dataset, sums_of
from mtlpar.finetune.student import STUDENT
from mtlpar.finetune.teacher import Teacher
from mtlpar.model.evaluator import Evaluator
from mtlpar.model.file import load_model
from mtlpar.model.saved import SavedModel
from mtlpar.store.dataset import PackedDataset
from mtlpar.store.export import iterate_atoms
from mtlpar.store.pack import Pack

_TIMED_STRUCTURES: Final = 32
_ROUNDS: Final = 5
# Predicted at a time, in as many steps as that takes.
_ATOMS: Final = 64
# With fewer atoms much of a step is overhead, the same for models of any size.
_MANY_ATOMS: Final = 300
_GAP_ANGSTROM: Final = 2.5


def text(config: Config, teacher: Teacher) -> str:
    """Test errors of teacher and student, and what a prediction of theirs takes.

    Args:
        config: The configuration of the student's folder.
        teacher: Who taught.

    Raises:
        ValueError: If the student or a pack is missing or damaged.
    """
    student = load_model(config.workspace.model(STUDENT))
    sources = config.model_entry(STUDENT).sources
    lines = [f"{'mean absolute errors on test':36}{'teacher':>10}{'student':>10}{'ratio':>8}"]
    for source in sources:
        dataset = PackedDataset(Pack.open(config.workspace.pack(source, "test")))
        # Labels of the teacher have no error of its own.
        first = None if source != teacher.source else teacher.model
        lines += [source, *_errors(first, student, source, dataset, config)]
    with Pack.open(config.workspace.pack(sources[0], "train")) as pack:
        some = list(iterate_atoms(pack.first(_TIMED_STRUCTURES), pack.header))
    models = [(teacher.model, teacher.source), (student, sources[0])]
    atoms = max(some, key=len)
    many = side_by_side(atoms)
    timed = [atoms, many] if len(many) > len(atoms) else [atoms]
    return "\n".join([*lines, "", *(_times(models, structure) for structure in timed)])


def side_by_side(atoms: Atoms) -> Atoms:
    """Copies of a structure, some hundred atoms together: a supercell, or a crystal of molecules.

    Args:
        atoms: A structure; one that has so many atoms comes back as it is.
    """
    copied = atoms.copy()  # type: ignore[no-untyped-call]
    if not copied.pbc.any():
        copied.cell = np.diag(np.ptp(copied.positions, axis=0) + _GAP_ANGSTROM)
        copied.pbc = True
    # Only where it repeats: other cell vectors may be zero.
    copies = int(np.ceil((_MANY_ATOMS / len(copied)) ** (1 / copied.pbc.sum())))
    return copied.repeat(np.where(copied.pbc, copies, 1)) if copies > 1 else atoms


def _times(models: Sequence[tuple[SavedModel, str]], atoms: Atoms) -> str:
    """What a step takes a teacher and a student."""
    of_teacher, of_student = (1e3 * one for one in step_seconds(models, atoms))
    return (
        f"energy and forces of {counted(len(atoms), 'atom')}: teacher {of_teacher:.2f} ms, "
        f"student {of_student:.2f} ms ({of_student / of_teacher:.2f})"
    )


def step_seconds(models: Sequence[tuple[SavedModel, str]], atoms: Atoms) -> list[float]:
    """Time of energy and forces of each model, as a step of dynamics asks for them, in turns.

    Args:
        models: Models, each with one of its sources.
        atoms: The structure.
    """
    evaluators = [Evaluator(model, source=source) for model, source in models]
    best, calls = [np.inf] * len(evaluators), max(1, _ATOMS // len(atoms))
    rng = np.random.default_rng(0)
    moved = atoms.copy()  # type: ignore[no-untyped-call]
    for _ in range(_ROUNDS):
        for index, evaluator in enumerate(evaluators):
            evaluator.predict(moved)
            started = time.perf_counter()
            for _ in range(calls):
                # As far as atoms go in a step: the list of neighbours stays.
                moved.positions = atoms.positions + rng.normal(scale=1e-3, size=(len(atoms), 3))
                evaluator.predict(moved)
            best[index] = min(best[index], (time.perf_counter() - started) / calls)
    return best


def _errors(
    teacher: SavedModel | None,
    student: SavedModel,
    source: str,
    dataset: PackedDataset,
    config: Config,
) -> Iterator[str]:
    found = [
        {}
        if model is None
        else sums_of(
            dataset,
            predict_dataset(
                model,
                dataset,
                model.branch_of(source),
                config.evaluate,
                references=model.references[source],
            ),
        ).as_dict()
        for model in (teacher, student)
    ]
    for label, name in MAE_NAMES.items():
        if name not in found[1]:
            continue
        columns = f"{'-':>10}{found[1][name]:10.4f}"
        if name in found[0]:
            ratio = found[1][name] / found[0][name]
            columns = f"{found[0][name]:10.4f}{found[1][name]:10.4f}{ratio:8.2f}"
        yield f"  {f'{label} ({ERROR_UNITS[label]})':34}{columns}"
