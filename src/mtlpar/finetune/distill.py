"""From a teacher to its student: labels, an earlier student if dynamics are wanted, training."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from mtlpar.config import Config, load_config
from mtlpar.core.fields import SPLITS
from mtlpar.finetune.dynamics import label_met
from mtlpar.finetune.folder import Alone, Command, prepare, working_in
from mtlpar.finetune.replay import link_pack
from mtlpar.finetune.student import FIRST, STUDENT, Lessons, write_config, write_references
from mtlpar.finetune.teacher import Labels, Teacher, write_labels

_PACKS: Final = Path("results", "packed")
_LABELS: Final = Path("labels")


def run(
    folder: Path,
    *,
    teacher: Teacher,
    lessons: Lessons,
    packed: Path,
    command: Command,
    alone: Alone,
) -> Config:
    """Teach a student in a folder; the same call goes on where one was interrupted.

    Args:
        folder: Where configuration, labels and results go.
        teacher: Who teaches.
        lessons: What on.
        packed: Folder of the packs of the teacher's sources.
        command: Runs a stage.
        alone: Does in one process all but training.

    Returns:
        The configuration of the folder.

    Raises:
        ValueError: If settings have a mistake, the folder is another's, there is nothing to teach
            on, or a pack or a file of structures is missing or damaged.
    """
    if not (lessons.packs or lessons.structures):
        raise ValueError(
            f"{packed} has no packs of {teacher.source}, and no structures are given: name the "
            "folder with --packs, or files with --structures"
        )
    names = lessons.sources(teacher.source)
    labels: dict[str, Labels] = {}

    def teach() -> None:
        write_config(folder, teacher, lessons, labels)
        with working_in(folder):
            labels.update(_label_what_is_there(teacher, lessons, packed))
            write_references(teacher, _PACKS / teacher.source if lessons.packs else None)
            write_config(folder, teacher, lessons, labels)
            for kind in labels:
                prepare(names[kind], command)

    def teach_what_it_met() -> None:
        labels["dynamics"] = label_met(
            teacher,
            _config().workspace.model(FIRST),
            _PACKS,
            _LABELS,
            frames=lessons.frames,
            temperature_k=lessons.temperature_k,
            usual_ev_per_atom=next(iter(labels.values())).usual_ev_per_atom,
        )
        write_config(folder, teacher, lessons, labels)
        prepare(names["dynamics"], command)

    alone(teach)
    with working_in(folder):
        if lessons.frames:
            command("train", "--model", FIRST)
            alone(teach_what_it_met)
        command("train", "--model", STUDENT)
        alone(lambda: command("evaluate", "--model", STUDENT))
        return _config()


def _config() -> Config:
    """The configuration of the present folder."""
    return load_config([Path("config.yaml")])


def _label_what_is_there(teacher: Teacher, lessons: Lessons, packed: Path) -> dict[str, Labels]:
    """Let the teacher label packs and the structures that are given, by kind."""
    _LABELS.mkdir(exist_ok=True)
    labels = {}
    usual = None
    if lessons.packs:
        link_pack(teacher.model, teacher.source, packed, _PACKS)
        packs = {split: [_PACKS / teacher.source / f"{split}.bp"] for split in SPLITS}
        labels["taught"] = write_labels(teacher, packs, _LABELS, "taught", origin={})
        usual = labels["taught"].usual_ev_per_atom
    if lessons.others:
        packs = {
            split: [packed / source / f"{split}.bp" for source in lessons.others.sources]
            for split in SPLITS
        }
        labels["others"] = write_labels(
            teacher, packs, _LABELS, "others", origin={}, usual_ev_per_atom=usual
        )
    if lessons.structures:
        given = {"all": lessons.structures}
        labels["given"] = write_labels(
            teacher, given, _LABELS, "given", origin={}, usual_ev_per_atom=usual
        )
    return labels
