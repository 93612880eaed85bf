"""Join the trajectories of a folder, one file each, to fewer files that mtlpar reads as one source.

    python tools/catalogue/join.py oc22_trajectories/trajectories/oc22/raw_trajs oc22
    python tools/catalogue/join.py extxyz_train odac23

A raw file is a part of its own in every stage: OC22 has 62,000 of them and ODAC23 more. Frames keep
their labels and their order; trajectories come in the order of their names, from all folders below.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from ase.io import Trajectory

ENDINGS = (".traj", ".extxyz")


def join(source: Path, target: Path, *, megabytes: float) -> list[Path]:
    """Join files of one kind.

    Args:
        source: Folder with the trajectories, at any depth.
        target: Folder for ``joined_00000.traj`` and so on.
        megabytes: About how large each of them is (1e6 bytes).

    Raises:
        ValueError: If there are none, or of several kinds.
    """
    files = sorted(path for path in source.rglob("*") if path.suffix in ENDINGS)
    kinds = sorted({path.suffix for path in files})
    if len(kinds) != 1:
        raise ValueError(f"{source}: expected files of one of {', '.join(ENDINGS)}, got {kinds}")
    target.mkdir(parents=True, exist_ok=True)
    joined = []
    for number, those in enumerate(_runs(files, megabytes * 1e6)):
        path = target / f"joined_{number:05d}{kinds[0]}"
        (_join_trajectories if kinds == [".traj"] else _join_texts)(those, path)
        joined.append(path)
    return joined


def _runs(files: Sequence[Path], limit: float) -> Iterator[list[Path]]:
    run, size = list[Path](), 0
    for path in files:
        run.append(path)
        size += path.stat().st_size
        if size >= limit:
            yield run
            run, size = [], 0
    if run:
        yield run


def _join_trajectories(files: Sequence[Path], path: Path) -> None:
    with Trajectory(path, "w") as joined:
        for file in files:
            with Trajectory(file) as frames:
                for frame in frames:
                    joined.write(frame)


def _join_texts(files: Sequence[Path], path: Path) -> None:
    with path.open("wb") as joined:
        for file in files:
            with file.open("rb") as text:
                shutil.copyfileobj(text, joined)
                text.seek(-1, 2)
                if text.read(1) != b"\n":
                    joined.write(b"\n")


def main() -> None:
    """Join what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", type=Path, help="folder with the trajectories, at any depth")
    parser.add_argument("target", type=Path, help="folder for the joined files")
    parser.add_argument("--megabytes", type=float, default=500, help="size of each (default: 500)")
    options = parser.parse_args()
    joined = join(options.source, options.target, megabytes=options.megabytes)
    print(f"{len(joined)} files in {options.target}")  # noqa: T201


if __name__ == "__main__":
    main()
