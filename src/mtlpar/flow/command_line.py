"""What the command line of Snakemake takes away from its profile.

An option on the command line, or a second profile, replaces a whole block: `--set-resources
train:nodes=8` leaves trainings with eight nodes and without launcher, GPUs and partition, and all
other rules without everything that the profile gives them. Snakemake says nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from mtlpar.flow.snakemake import options_of_user

_MOST_NAMED: Final = 6
_BLOCKS: Final = ("default-resources", "set-resources", "set-threads")
_INSTEAD: Final = {
    "default-resources": "The account is given once by `mtlpar profiles install {name} --account "
    "...`; all else is changed in {file}",
    "set-resources": "Change {file} instead; nodes of one model alone are written there as "
    "nodes: \"{{'mtl': 8}}.get(wildcards.model, 4)\"",
    "set-threads": "Change {file} instead",
}


def refuse_what_drops_a_profile(workflow: Any) -> None:
    """Compare the blocks of the profiles with what Snakemake was left with.

    Args:
        workflow: Snakemake's; nothing is compared where it is not the user's own process.

    Raises:
        ValueError: If something that a profile gives is lost; with what to do instead.
    """
    options = options_of_user(workflow)
    if options is None:
        return
    names = [*(options.profile or ()), options.workflow_profile]
    profiles = _profiles([name for name in names if name], Path(workflow.workdir_init))
    left = _left(workflow.resource_settings)
    problems = []
    for block in _BLOCKS:
        given = {name: file for file, blocks in profiles for name in blocks.get(block, ())}
        if lost := [name for name in given if name not in left[block]]:
            # Of the rules that were spoken of first.
            rules = {name.partition(":")[0] for name in left[block]}
            lost.sort(key=lambda name: name.partition(":")[0] not in rules)
            problems.append(_explained(block, lost, given[lost[-1]]))
    if problems:
        raise ValueError("\n".join(problems))


def _profiles(names: Iterable[str], started_in: Path) -> list[tuple[Path, dict[str, list[str]]]]:
    """File of each profile, and the names in its blocks."""
    from snakemake.cli import get_profile_dir
    from snakemake.profiles import ProfileConfigFileParser

    found = []
    for name in names:
        path = get_profile_dir(str(started_in / name)) or get_profile_dir(name)
        if path:
            with path[1].open(encoding="utf-8") as stream:
                content = ProfileConfigFileParser().parse(stream)
            blocks = {block: _names(content.get(block, ())) for block in _BLOCKS}
            found.append((path[1], blocks))
    return found


def _names(entries: Iterable[str]) -> list[str]:
    return [entry.partition("=")[0] for entry in entries]


def _left(settings: Any) -> dict[str, set[str]]:
    """Names in the blocks that Snakemake works with."""
    # Its own defaults for mem_mb and disk_mb have no text.
    default = {
        name: getattr(value, "raw", value)
        for name, value in (settings.default_resources or {}).items()
    }
    return {
        "default-resources": {name for name, value in default.items() if value is not None},
        "set-resources": {
            f"{rule}:{name}"
            for rule, those in settings.overwrite_resources.items()
            for name in those
        },
        "set-threads": set(settings.overwrite_threads),
    }


def _explained(block: str, lost: list[str], file: Path) -> str:
    name = file.parent.name
    # An installed profile refers to that of the checkout.
    of_checkout = Path("profiles", name, "config.yaml")
    more = len(lost) - _MOST_NAMED
    named = ", ".join(lost[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
    instead = _INSTEAD[block].format(name=name, file=of_checkout if of_checkout.exists() else file)
    return (
        f"--{block} replaces all that profile {name!r} has there: {named} would be lost. {instead}"
    )
