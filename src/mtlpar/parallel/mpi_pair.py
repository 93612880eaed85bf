"""Whether the launcher of ranks and the library that they meet by are of one MPI."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import Final

_PATIENCE_S: Final = 60.0
# By what their versions say; members of a family start and meet each other.
_FAMILIES: Final = {
    "Open MPI": ("Open MPI", "OpenRTE", "PRRTE"),
    "MPICH": ("HYDRA", "MPICH", "Intel(R) MPI", "MVAPICH"),
}
_ABI: Final = {"Open MPI": "openmpi", "MPICH": "mpich"}
# In a process of its own: a library that does not load, or aborts, ends only that.
_ASK: Final = """\
import mpi4py
mpi4py.rc(initialize=False, finalize=False)
from mpi4py import MPI
print(MPI.Get_library_version().splitlines()[0])
with open("/proc/self/maps") as maps:
    print(next((line.split()[-1] for line in maps if "/libmpi" in line), "place unknown"))
"""


@dataclass(frozen=True, slots=True)
class MpiPair:
    """A launcher and a library of MPI.

    Attributes:
        program: The launcher.
        launcher: Its family; None if it does not say.
        library: What the library that mpi4py loads says of itself; empty if there is none.
        place: Its file.
    """

    program: str
    launcher: str | None
    library: str
    place: str

    @property
    def differ(self) -> bool:
        """Whether they are known to be of two families, whose ranks do not find each other."""
        return None not in (self.launcher, _family(self.library)) and (
            self.launcher != _family(self.library)
        )

    def __str__(self) -> str:
        library = f"{self.library} ({self.place})" if self.library else "none that loads"
        return f"{self.program} is of {self.launcher or 'unknown make'}, mpi4py's library {library}"

    @property
    def advice(self) -> str:
        """What to do if they differ."""
        return (
            "keep one of the two MPIs in this environment, put the other's mpiexec first on PATH, "
            f"or set MPI4PY_MPIABI={_ABI.get(self.launcher or '', 'mpich')} and MPI4PY_LIBMPI to "
            "the libmpi.so of this launcher"
        )


def look_at(program: str) -> MpiPair:
    """Ask a launcher, and the library that mpi4py loads, what they are.

    Args:
        program: The launcher.
    """
    library, _, place = _said_by([sys.executable, "-c", _ASK]).partition("\n")
    family = _family(_said_by([program, "--version"]))
    return MpiPair(program, family, " ".join(library.split()), place.strip())


def _family(version: str) -> str | None:
    found = (name for name, words in _FAMILIES.items() if any(word in version for word in words))
    return next(found, None)


def _said_by(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
