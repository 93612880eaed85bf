"""How fast and how small the readers are, each beside what its format costs at least.

    python benchmarks/extract.py [--megabytes 24] [--conformations 606] [--repeats 3]

Files are made from the embedded sample, those of QM7-X by ``tools/full_size``, and removed
afterwards. Rates are per second of CPU time of the reading process, all threads together, which
other programs on the machine disturb least. Alexandria is read by two threads, one of which only
decompresses: by CPU time the parser counts in full, by the clock next to nothing where each thread
has a core. ``--large-gigabytes 2`` also reads an MPtrj-like file of that size and prints the peak
memory.
"""

from __future__ import annotations

import argparse
import bz2
import json
import lzma
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
from machine import describe_machine

from mtlpar.sources.base import Piece
from mtlpar.sources.hdf5_alike import AlikeGroups
from mtlpar.sources.registry import get_source
from mtlpar.sources.settings import SourceSettings

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "workflow" / "sample"
QM7X_KEYS = ("atNUM", "atXYZ", "ePBE0+MBD", "totFOR")
# An average frame of the released MPtrj file has 31 atoms and takes 7.7 kB.
MPTRJ_ATOMS = 31


def main() -> None:
    """Print every comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=24, help="size of generated JSON")
    parser.add_argument(
        "--conformations", type=int, default=606, help="of two molecules of QM7-X (default: 606)"
    )
    parser.add_argument("--large-gigabytes", type=float, default=0.0, help="size for the memory")
    parser.add_argument("--repeats", type=int, default=3, help="the best of so many counts")
    options = parser.parse_args()
    print(describe_machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        large_arrays(folder, options.repeats)
        qm7x(folder, options.conformations, options.repeats)
        json_streams(folder, options.megabytes * 1_000_000, options.repeats)
        if options.large_gigabytes:
            memory(folder, int(options.large_gigabytes * 1e9))


def read(source: str, path: Path, *pieces: Piece) -> int:
    """Rows of a raw file, read as the extract stage reads them."""
    blocks = get_source(source).read(path, SourceSettings(), *pieces)
    return sum(block.rows for block in blocks)


def best(repeats: int, *functions: Callable[[], int], clock: Callable[[], float]) -> list[float]:
    """Work per second of each function, the best of several runs in turn."""
    rates = [0.0] * len(functions)
    for _ in range(repeats):
        for index, function in enumerate(functions):
            start = clock()
            work = function()
            rates[index] = max(rates[index], work / (clock() - start))
    return rates


def line(what: str, value: str, target: str = "") -> None:
    """One aligned row of the table."""
    print(f"{what:<52} {value:>22}" + (f"  (target {target})" if target else ""))


def large_arrays(folder: Path, repeats: int) -> None:
    """ANI1x and Transition1x: groups of many structures."""
    rng = np.random.default_rng(0)
    ani1x, transition1x = folder / "ani1x-release.h5", folder / "Transition1x.h5"
    with h5py.File(ani1x, "w") as file:
        for index in range(20):
            group = file.create_group(f"C{index}H4N4O4")
            group["atomic_numbers"] = rng.integers(1, 9, 15).astype(np.uint8)
            group["coordinates"] = rng.normal(size=(1600, 15, 3)).astype(np.float32)
            group["wb97x_dz.energy"] = rng.normal(size=1600)
            group["wb97x_dz.forces"] = rng.normal(size=(1600, 15, 3)).astype(np.float32)
    with h5py.File(transition1x, "w") as file:
        # The released file has 955 frames to a reaction, on average.
        for index in range(20):
            group = file.create_group(f"data/C2H5NO2/rxn{index:04d}")
            ends = {"": slice(None), "reactant": slice(1), "product": slice(9, 10)}
            positions, energy = rng.normal(size=(954, 12, 3)), rng.normal(size=954)
            for name, rows in ends.items():
                record = group.require_group(name) if name else group
                record["atomic_numbers"] = rng.integers(1, 9, 12)
                record["positions"] = positions[rows]
                record["wB97x_6-31G(d).energy"] = energy[rows]
                record["wB97x_6-31G(d).forces"] = positions[rows]
    for source, path in (("ani1x", ani1x), ("transition1x", transition1x)):
        [rate] = best(repeats, lambda s=source, p=path: read(s, p), clock=time.process_time)
        line(f"{source}", f"{rate:,.0f} structures/s", ">= 100,000")


def qm7x(folder: Path, conformations: int, repeats: int) -> None:
    """QM7-X, a group for each structure: groups that are alike at once, one by one, plain h5py."""
    sys.path.insert(0, str(ROOT))
    from tools.full_size.qm7x import write_qm7x

    write_qm7x(folder, 16 * conformations, np.random.default_rng(0))
    path = folder / "2000.xz"
    plain = folder / "plain.hdf5"
    plain.write_bytes(lzma.decompress(path.read_bytes()))
    with h5py.File(plain) as file:
        piece = Piece(0, len(file), plain)

    def one_by_one() -> int:
        def nothing(_parent: object, names: Sequence[str], _keys: object) -> Any:
            return np.zeros(len(names), np.bool_), {}

        with mock.patch.object(AlikeGroups, "read", side_effect=nothing):
            return read("qm7x", path, piece)

    def by_h5py() -> int:
        rows = 0
        with h5py.File(plain) as file:
            for molecule in file.values():
                for conformation in molecule.values():
                    for key in QM7X_KEYS:
                        conformation[key][()]
                    rows += 1
        return rows

    ours, single, theirs = best(
        repeats,
        lambda: read("qm7x", path, piece),
        one_by_one,
        by_h5py,
        clock=time.process_time,
    )
    line("qm7x, reader", f"{ours:,.0f} structures/s")
    line("qm7x, the reader where no groups are alike", f"{single:,.0f} structures/s")
    line("ratio", f"{ours / single:.2f}x", ">= 3x")
    line("qm7x, plain h5py, the same keys", f"{theirs:,.0f} structures/s")
    line("ratio", f"{ours / theirs:.2f}x", ">= 5x")

    def unpack() -> int:
        divide = get_source("qm7x").divide
        assert divide is not None
        with divide(path, 1 << 40):
            return plain.stat().st_size

    def by_lzma() -> int:
        return len(lzma.decompress(path.read_bytes()))

    ours, theirs = best(repeats, unpack, by_lzma, clock=time.process_time)
    line("qm7x, unpacking", f"{ours / 1e6:,.0f} MB/s")
    line("lzma alone", f"{theirs / 1e6:,.0f} MB/s")
    line("ratio", f"{ours / theirs:.2f}x", ">= 0.80x")


def json_streams(folder: Path, size: int, repeats: int) -> None:
    """MPtrj by itself and cut into pieces; Alexandria against bz2 alone."""
    path = folder / "MPtrj_2022.9_full.json"
    bytes_written = write_mptrj(path, size)

    def cut() -> int:
        divide = get_source("mptrj").divide
        assert divide is not None
        with divide(path, size // 4):
            return bytes_written

    def mptrj() -> int:
        read("mptrj", path)
        return bytes_written

    def by_json() -> int:
        json.loads(path.read_bytes())
        return bytes_written

    whole, cutting, theirs = best(repeats, mptrj, cut, by_json, clock=time.process_time)
    line("mptrj, reader", f"{whole / 1e6:,.0f} MB/s", ">= 40 MB/s")
    line("json.loads alone, without columns", f"{theirs / 1e6:,.0f} MB/s")
    line("ratio", f"{whole / theirs:.2f}x")
    line("mptrj, finding where to cut", f"{cutting / 1e6:,.0f} MB/s")

    packed = folder / "alexandria_000.json.bz2"
    text = alexandria_text(size)
    packed.write_bytes(bz2.compress(text))

    def by_bz2() -> int:
        with bz2.BZ2File(packed) as stream:
            while stream.read(1 << 18):
                pass
        return len(text)

    def alexandria() -> int:
        read("alexandria", packed)
        return len(text)

    for what, clock in (("CPU time", time.process_time), ("the clock", time.perf_counter)):
        ours, theirs = best(repeats, alexandria, by_bz2, clock=clock)
        line(f"alexandria, reader, by {what}", f"{ours / 1e6:,.1f} MB/s of JSON")
        line(f"bz2 alone, by {what}", f"{theirs / 1e6:,.1f} MB/s of JSON")
        # The reader may use the other core, so the clock says whether decompression is the limit.
        line("ratio", f"{ours / theirs:.2f}x", *([">= 0.80x"] if what == "the clock" else []))


def write_mptrj(path: Path, size: int) -> int:
    """Write an MPtrj-like file of about that many bytes, with every key of the released one."""
    materials = [json.dumps(frames)[1:] for frames in _materials()]
    written = 0
    with path.open("w", encoding="utf-8") as stream:
        stream.write("{")
        for index in range(1 << 62):
            material = materials[index % len(materials)]
            written += stream.write(f'{", " if index else ""}"mp-{index}": {{{material}')
            if written > size:
                break
        stream.write("}")
    return path.stat().st_size


def _materials() -> Iterator[dict[str, object]]:
    content = json.loads((SAMPLE / "mptrj" / "MPtrj_2022.9_full.json").read_text())
    for frames in content.values():
        for frame in frames.values():
            times = round(MPTRJ_ATOMS / len(frame["force"]))
            frame["structure"]["sites"] *= times
            frame["force"] *= times
        yield frames


def alexandria_text(size: int) -> bytes:
    """A file of Alexandria of about that many bytes; numbers vary, as they do in a real one."""
    packed = (SAMPLE / "alexandria" / "alexandria_000.json.bz2").read_bytes()
    entries = json.loads(bz2.decompress(packed))["entries"]
    rng = np.random.default_rng(0)
    texts: list[str] = []
    while sum(map(len, texts)) < size:
        for entry in entries:
            for site in entry["structure"]["sites"]:
                site["xyz"] = rng.normal(size=3).round(8).tolist()
                site["abc"] = rng.random(3).round(8).tolist()
            texts.append(json.dumps(entry))
    return f'{{"entries": [{", ".join(texts)}]}}'.encode()


def memory(folder: Path, size: int) -> None:
    """Peak memory of a process that reads a large MPtrj-like file."""
    path = folder / "MPtrj_2022.9_full.json"
    written = write_mptrj(path, size)
    code = "import sys, pathlib; from extract import read; read('mptrj', pathlib.Path(sys.argv[1]))"
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, path], cwd=Path(__file__).parent, check=True)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    line(f"mptrj, {written / 1e9:.2f} GB", f"{seconds:.0f} s")
    line("its peak memory", f"{peak / 1e6:,.0f} MB", "< 1,000 MB")


if __name__ == "__main__":
    main()
