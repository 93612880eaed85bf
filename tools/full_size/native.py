"""Which function writes which source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np

from .crystals import write_alexandria, write_mptrj
from .molecules import write_ani1x, write_transition1x
from .qm7x import write_qm7x

WRITERS: Final[Mapping[str, Callable[[Path, int, np.random.Generator], int]]] = {
    "ani1x": write_ani1x,
    "qm7x": write_qm7x,
    "transition1x": write_transition1x,
    "mptrj": write_mptrj,
    "alexandria": write_alexandria,
}
"""``write(folder, structures, rng)`` writes about so many and returns how many there are."""
