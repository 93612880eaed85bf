"""QM7-X: eight xz-compressed HDF5 files, one group of single numbers per conformation.

Energies and forces are read as a consistent pair: PBE0+MBD with its total forces, or PBE0 with its
own. Some equilibrium structures are listed in ``DupMols.dat`` as duplicates of others; they are
left out together with the structures displaced from them.
"""

from __future__ import annotations

import lzma
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Final

import numpy as np

from mtlpar.core.hashing import name_hash
from mtlpar.sources.base import RawBlock, Source
from mtlpar.sources.hdf5 import HDF5_ERRORS, array, members, open_file
from mtlpar.sources.reading import BlockBuilder, Progress, as_atomic_numbers, damage_named
from mtlpar.sources.settings import SourceSettings

_DUPLICATES: Final = "DupMols.dat"
_CHUNK_BYTES: Final = 1 << 22
# The original README writes displaced structures as "-50", the files as "-d50".
_CONFORMATION: Final = re.compile(r"(Geom-m\d+-i\d+-c\d+)-(opt|d?\d+)")


def read(path: Path, settings: SourceSettings) -> Iterator[RawBlock]:
    """Stream one of ``1000.xz`` to ``8000.xz``, which is unpacked beside itself meanwhile.

    Structures listed as duplicates are dropped as ``listed_duplicate``.

    Raises:
        ValueError: If a file is damaged or laid out otherwise, or if ``DupMols.dat`` is missing.
    """
    duplicates = read_duplicates(path.with_name(_DUPLICATES))
    progress = Progress(path)
    block = BlockBuilder()
    with (
        damage_named(progress, *HDF5_ERRORS, EOFError, lzma.LZMAError),
        _unpacked(path) as unpacked,
        open_file(unpacked) as file,
    ):
        for molecule, conformations in file.items():
            progress.last = molecule
            group = name_hash(SOURCE.name, molecule)
            for name, conformation in members(conformations, where=progress.where()):
                progress.last = f"{molecule}/{name}"
                match = _CONFORMATION.fullmatch(name)
                if match is None:
                    raise ValueError(
                        f"{progress.where()} is not the name of a conformation, expected for "
                        "instance Geom-m1-i1-c1-opt or Geom-m1-i1-c1-d50"
                    )
                if match[1] in duplicates:
                    block.drop("listed_duplicate")
                else:
                    _add(block, conformation, group, settings, where=progress.where())
                progress.rows += 1
                if block.full:
                    yield block.take()
        if block.rows:
            yield block.take()


def read_duplicates(path: Path) -> frozenset[str]:
    """Read names of duplicated equilibrium structures, without ``-opt``.

    Raises:
        ValueError: If the file is missing or has a line that is no such name.
    """
    if not path.is_file():
        raise ValueError(
            f"{path} is missing; QM7-X cannot be read without its list of duplicates: run the "
            "download stage"
        )
    names = set()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        match = _CONFORMATION.fullmatch(line.strip())
        if match is None:
            raise ValueError(
                f"{path} line {number} is {line!r}, expected for instance Geom-m1-i1-c1-opt"
            )
        names.add(match[1])
    return frozenset(names)


@contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    # Beside the raw file there is room for files of this size; in /tmp there often is not.
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp") as unpacked:
        with lzma.open(path) as packed:
            shutil.copyfileobj(packed, unpacked, _CHUNK_BYTES)
        unpacked.flush()
        yield Path(unpacked.name)


def _add(
    block: BlockBuilder, conformation: Any, group: int, settings: SourceSettings, *, where: str
) -> None:
    dispersion = settings.qm7x_dispersion
    energy_key, forces_key = ("ePBE0+MBD", "totFOR") if dispersion else ("ePBE0", "pbe0FOR")
    atomic_numbers = array(conformation, "atNUM", (None,), where=where)
    size = len(atomic_numbers)
    block.add(
        atomic_numbers=as_atomic_numbers(atomic_numbers, where=where),
        positions=array(conformation, "atXYZ", (size, 3), where=where).astype(np.float64),
        energy=float(array(conformation, energy_key, (1,), where=where)[0]),
        forces=array(conformation, forces_key, (size, 3), where=where).astype(np.float64),
        group=group,
        spin=1,
    )


def _theory(settings: SourceSettings) -> str:
    return "PBE0+MBD" if settings.qm7x_dispersion else "PBE0"


SOURCE: Final = Source(
    name="qm7x",
    title="QM7-X",
    data_files=("[1-8]000.xz",),
    sidecar_files=(_DUPLICATES,),
    level_of_theory="PBE0+MBD",
    read=read,
    level_of_theory_for=_theory,
)
