"""A folder of its own with a configuration that was written for it, and the files it names."""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from mtlpar.config.load import parse_assignment
from mtlpar.core.files import read_text, write_text
from mtlpar.core.hashing import json_digest
from mtlpar.core.system_errors import words_of
from mtlpar.core.yaml_text import dump_yaml
from mtlpar.parallel.agree import AgreedError

Command = Callable[[str, str, str], None]
"""Runs a stage in the present folder: its name, the option of its target, the target."""

Alone = Callable[[Callable[[], None]], None]
"""Lets one process do something, the first rank where there are several; the others wait for it."""

# The first line says whether what follows is still as it was written.
_MARK: Final = "# Written by `mtlpar {}`. Digest of all below: "


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Make a folder the present one inside this block.

    Raises:
        ValueError: For an error of the user inside: paths in it are relative to the folder, which
            the message begins with.
    """
    with contextlib.chdir(folder):
        try:
            yield
        except AgreedError as error:
            # It stays what all ranks raise, and one of them reports.
            error.args = (f"in {folder}: {error}",)
            raise
        except (ValueError, OSError) as error:
            words = words_of(error)
            if words is None:
                raise
            raise ValueError(f"in {folder}: {words}") from error


def prepare(source: str, command: Command) -> None:
    """Bring a source of the present folder from its files to packs."""
    for stage in ("download", "extract", "normalize", "pack"):
        command(stage, "--source", source)


def write_own_config(folder: Path, content: Mapping[str, Any], *, command: str, model: str) -> None:
    """Write ``config.yaml`` of a folder, over none but one that this function wrote.

    Args:
        folder: Where to.
        content: What it says.
        command: Name of the command that asks.
        model: Name of the model that is trained there, for messages.

    Raises:
        ValueError: If there is another ``config.yaml``, or somebody has changed it.
    """
    path, mark = folder / "config.yaml", _MARK.format(command)
    _check_own(path, mark, command=command, model=model)
    text = dump_yaml(dict(content))
    write_text(path, f"{mark}{json_digest(text)}\n{text}")


def _check_own(path: Path, mark: str, *, command: str, model: str) -> None:
    """Refuse to write over a configuration that somebody else has written or changed."""
    if not path.exists():
        return
    first, _, rest = read_text(path).partition("\n")
    if not first.startswith(mark):
        raise ValueError(
            f"{path} is not from mtlpar {command} and would be overwritten; name another place "
            "with --out"
        )
    if first != f"{mark}{json_digest(rest)}":
        raise ValueError(
            f"{path} has been changed by hand, and would be overwritten. Continue in {path.parent} "
            f"with `mtlpar train --model {model}`, or remove the file and give its changes with "
            "--set"
        )


def refuse_own(assignments: Iterable[str], own: Mapping[str, str]) -> None:
    """Refuse settings that a command writes itself, and relies on as it wrote them.

    Args:
        assignments: Settings of the user, such as ``train.epochs=5``.
        own: What to do instead, by dotted key; all below a key is the command's too.

    Raises:
        ValueError: For the first of them.
    """
    for assignment in assignments:
        key, _ = parse_assignment(assignment)
        for mine, instead in own.items():
            # A block that is replaced takes what it holds with it.
            if f"{key}.".startswith(f"{mine}.") or f"{mine}.".startswith(f"{key}."):
                raise ValueError(
                    f"--set {assignment}: the command itself decides about {mine}; {instead}"
                )


def files_of(paths: Iterable[Path]) -> dict[str, Any]:
    """Files as a source names them: their common folder, and their names below it.

    Raises:
        ValueError: If one is a folder or does not exist.
    """
    resolved = [path.resolve() for path in paths]
    if packs := [str(path) for path in resolved if path.suffix == ".bp" and path.is_dir()]:
        raise ValueError(
            f"{', '.join(packs)}: expected files, got a pack; write its structures to a file with "
            "`mtlpar export`"
        )
    if folders := [str(path) for path in resolved if path.is_dir()]:
        raise ValueError(
            f"{', '.join(folders)}: expected files, got a folder; name the files in it"
        )
    if missing := [str(path) for path in resolved if not path.is_file()]:
        raise ValueError(f"no such file: {', '.join(missing)}")
    folder = Path(os.path.commonpath([path.parent for path in resolved]))
    # A source names its files by patterns.
    names = [glob.escape(path.relative_to(folder).as_posix()) for path in resolved]
    return {"files": names, "mirrors": [str(folder)]}


def only_packs(level_of_theory: str) -> dict[str, Any]:
    """A source of which only packs are here; the files they were made of matter no more."""
    return {"files": ["packed.extxyz"], "level_of_theory": level_of_theory}
