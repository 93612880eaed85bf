"""Writers of the native files of the five sources."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar, cast

from .draws import ConformerPool, Drawn, MoleculeFamily, Trajectory
from .native_crystals import write_alexandria, write_mptrj
from .native_molecules import write_ani1x, write_transition1x
from .native_qm7x import write_qm7x
from .reactions import Reaction

_T = TypeVar("_T")


def write_source(source: str, folder: Path, drawn: Sequence[Drawn], *, seed: int) -> None:
    """Write the draws of one source in its file format, layout and units.

    Args:
        source: Name of the source.
        folder: Folder of the source; made if it is missing.
        drawn: The draws in their order.
        seed: Seed of the sample, for the numbers that are not physical.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if source == "ani1x":
        write_ani1x(folder, _all_of(ConformerPool, drawn), seed=seed)
    elif source == "qm7x":
        write_qm7x(folder, _all_of(MoleculeFamily, drawn))
    elif source == "transition1x":
        write_transition1x(folder, _all_of(Reaction, drawn), seed=seed)
    elif source == "mptrj":
        write_mptrj(folder, _all_of(Trajectory, drawn), seed=seed)
    else:
        write_alexandria(folder, _all_of(Trajectory, drawn), seed=seed)


def _all_of(kind: type[_T], drawn: Sequence[Drawn]) -> list[_T]:
    assert all(isinstance(item, kind) for item in drawn)
    return cast(list[_T], list(drawn))
