"""Structures that a model meets in its own dynamics: where it is wrong, it goes there."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from ase import Atoms, units
from ase.io import write
from ase.md.langevin import Langevin

from mtlpar.calculator import Calculator
from mtlpar.core.fields import SPLITS
from mtlpar.core.files import atomic_path, file_digest
from mtlpar.core.hashing import json_digest
from mtlpar.core.wording import counted
from mtlpar.finetune.kept import keep, kept
from mtlpar.finetune.replay import displaced
from mtlpar.finetune.teacher import Labels, Teacher, write_labels
from mtlpar.model.file import load_model
from mtlpar.store.export import iterate_atoms
from mtlpar.store.pack import Pack

logger = logging.getLogger(__name__)

STEP_FS: Final = 0.5
STEPS_BETWEEN_FRAMES: Final = 100
_FRICTION_PER_FS: Final = 0.02
_FRAMES_OF_TRAJECTORY: Final = 10
LEAST_TRAJECTORIES: Final = 10
"""So many there are at least, of which one each is for val and test."""
# A model that has left what it knows heats up without end.
_MOST_TIMES_AS_HOT: Final = 10.0


def label_met(
    teacher: Teacher,
    model: Path,
    packs: Path,
    folder: Path,
    *,
    frames: int,
    temperature_k: float,
    usual_ev_per_atom: float | None,
) -> Labels:
    """Let a student move from structures of its training, and its teacher label what it meets.

    A tenth of the trajectories each are for val and test.

    Args:
        teacher: Who labels.
        model: Model file of the student.
        packs: Folder with the packs of the student's sources.
        folder: Where to write. What was done before with the same models is not done again.
        frames: Structures to take, if no trajectory ends early, at least `LEAST_TRAJECTORIES`;
            50 fs lie between two.
        temperature_k: Temperature of the thermostat in K.
        usual_ev_per_atom: See `write_labels`.

    Raises:
        ValueError: If no structure is left for one of the splits.
    """
    student = load_model(model)
    source = student.sources[0]
    count = max(LEAST_TRAJECTORIES, frames // _FRAMES_OF_TRAJECTORY)
    with Pack.open(packs / source / "train.bp") as pack:
        seed = pack.header.seed
        structures = list(iterate_atoms(pack.first(count), pack.header))
    known = set(student.references[source].energies_ev)
    starts = displaced(structures, known, count, np.random.default_rng(seed))
    origin = {
        "dynamics_of": str(model),
        "sha256": file_digest(model),
        "temperature_k": temperature_k,
        "frames": frames,
        "seed": seed,
    }
    stem = f"met-{json_digest(origin)[:12]}"
    files = {split: folder / f"{stem}-{split}.extxyz" for split in SPLITS}
    record = folder / f"{stem}.json"
    if kept(record, files) is None:
        calculator = Calculator(model, source=source)
        lengths = [frames // count + (index < frames % count) for index in range(count)]
        _write_met(calculator, starts, files, lengths, temperature_k, seed)
        keep(record, files, origin)
    inputs = {split: [path] for split, path in files.items()}
    return write_labels(
        teacher, inputs, folder, "dynamics", origin=origin, usual_ev_per_atom=usual_ev_per_atom
    )


def _write_met(
    calculator: Calculator,
    starts: Sequence[Atoms],
    files: Mapping[str, Path],
    lengths: Sequence[int],
    temperature_k: float,
    seed: int,
) -> None:
    """Run dynamics and write so many structures of each trajectory, or those before its end."""
    by_split: dict[str, list[Atoms]] = {split: [] for split in files}
    ended_early = 0
    for index, (start, length) in enumerate(zip(starts, lengths, strict=False)):
        rng = np.random.default_rng([seed, index])
        met = list(_trajectory(start, calculator, length, temperature_k, rng))
        ended_early += len(met) < length
        by_split[_split_of(index)] += met
    if empty := [split for split, met in by_split.items() if not met]:
        raise ValueError(
            f"dynamics at {temperature_k:g} K: no trajectory of {', '.join(empty)} held for "
            f"{STEPS_BETWEEN_FRAMES * STEP_FS:g} fs; train longer, or lower --temperature"
        )
    for split, met in by_split.items():
        with atomic_path(files[split]) as temporary:
            write(temporary, met, format="extxyz")
    logger.info(
        "dynamics at %g K: %s of %s, of which %d ended early",
        temperature_k,
        counted(sum(map(len, by_split.values())), "structure"),
        counted(len(starts), "trajectory"),
        ended_early,
    )


def _split_of(index: int) -> str:
    return {8: "val", 9: "test"}.get(index % 10, "train")


def _trajectory(
    start: Atoms,
    calculator: Calculator,
    frames: int,
    temperature_k: float,
    rng: np.random.Generator,
) -> Iterator[Atoms]:
    """Structures of a trajectory, up to one that is ten times as hot as its thermostat."""
    atoms = start.copy()  # type: ignore[no-untyped-call]
    atoms.calc = calculator
    thermal = np.sqrt(atoms.get_masses()[:, None] * units.kB * temperature_k)
    atoms.set_momenta(thermal * rng.normal(size=(len(atoms), 3)))
    dynamics = Langevin(
        atoms,
        timestep=STEP_FS * units.fs,
        temperature_K=temperature_k,
        friction=_FRICTION_PER_FS / units.fs,
        fixcm=False,
        rng=rng,
    )
    for _ in range(frames):
        try:
            dynamics.run(STEPS_BETWEEN_FRAMES)  # type: ignore[no-untyped-call]
        except ValueError:
            # Atoms on one another have no energy.
            return
        # Not the other way round: what is not finite is not hot.
        if not atoms.get_temperature() < _MOST_TIMES_AS_HOT * temperature_k:
            return
        yield Atoms(
            atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info=dict(start.info)
        )
