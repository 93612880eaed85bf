"""Whether the launcher of ranks and the library that they meet by are of one MPI."""

from __future__ import annotations

import re
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
# Since version 5 Open MPI knows PMIx only: of ranks by these plugins each becomes a world of one.
_PMIX_ONLY: Final = re.compile(r"Open MPI v([5-9]|\d\d)")
_OTHER_PLUGINS: Final = ("pmi2", "cray_shasta")
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
        launcher: What starts the ranks, and what is known of it.
        library: What the library that mpi4py loads says of itself; empty if there is none.
        place: Its file.
        differ: Whether ranks that the one starts are known not to find each other by the other.
        advice: What to do then.
    """

    launcher: str
    library: str
    place: str
    differ: bool
    advice: str

    def __str__(self) -> str:
        library = f"{self.library} ({self.place})" if self.library else "none that loads"
        return f"{self.launcher}, mpi4py's library {library}"


def look_at(program: str) -> MpiPair:
    """Ask an ``mpiexec``, and the library that mpi4py loads, what they are.

    Args:
        program: The launcher.
    """
    return _of_family(program, _family(_said_by([program, "--version"])))


def look_at_pals(program: str) -> MpiPair:
    """Ask the library that mpi4py loads whether it is one that Cray PALS starts.

    Args:
        program: The launcher, whose version names no family.
    """
    return _of_family(program, "MPICH")


def look_at_srun(plugin: str) -> MpiPair:
    """Ask the library that mpi4py loads whether its ranks meet by a plugin of srun.

    Args:
        plugin: Given to ``srun --mpi``; empty for the default of this Slurm.
    """
    library, place = _library()
    name = plugin or _default_plugin()
    differ = (name == "none" and _family(library) is not None) or (
        name in _OTHER_PLUGINS and _PMIX_ONLY.match(library) is not None
    )
    advice = (
        "set MTLPAR_SRUN_MPI in the profile's env.sh (pmix for Open MPI, pmi2 for the mpich "
        "wheel); `srun --mpi=list` shows what this Slurm has"
    )
    return MpiPair(f"srun --mpi={name or '(unknown)'}", library, place, differ, advice)


def _default_plugin() -> str:
    """The plugin that this Slurm takes where none is named; empty if it does not say."""
    found = re.search(r"^MpiDefault\s*=\s*(\S+)", _said_by(["scontrol", "show", "config"]), re.M)
    return found[1] if found else ""


def _of_family(program: str, family: str | None) -> MpiPair:
    library, place = _library()
    differ = None not in (family, _family(library)) and family != _family(library)
    advice = (
        "keep one of the two MPIs in this environment, put the other's mpiexec first on PATH, "
        f"or set MPI4PY_MPIABI={_ABI.get(family or '', 'mpich')} and MPI4PY_LIBMPI to "
        "the libmpi.so of this launcher"
    )
    return MpiPair(f"{program} is of {family or 'unknown make'}", library, place, differ, advice)


def _library() -> tuple[str, str]:
    """What the library that mpi4py loads says of itself, and its file."""
    library, _, place = _said_by([sys.executable, "-c", _ASK]).partition("\n")
    return " ".join(library.split()), place.strip()


def _family(version: str) -> str | None:
    found = (name for name, words in _FAMILIES.items() if any(word in version for word in words))
    return next(found, None)


def _said_by(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_PATIENCE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
