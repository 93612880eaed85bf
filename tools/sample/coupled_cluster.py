"""Compute the coupled-cluster energies of the embedded sample and write them into its file.

The smallest structures of the sample's ANI1x get CCSD(T)/6-31G(d) with a frozen core: real
energies of another level of theory, as ANI-1ccx has them for a tenth of ANI-1x. It takes half an
hour of one core. PySCF is needed for nothing else, so it is in no extra:

    pip install pyscf h5py numpy
    python tools/sample/coupled_cluster.py workflow/sample/ani1x/ani1x-release.h5 energies.csv

Rows that the table has already are not computed again, so it can be interrupted at any time. The
checksum of the sample changes: `sha256sum` it for `checksums.txt`.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from pyscf import cc, gto, scf

KEY = "ccsd(t)_cbs.energy"
BASIS = "6-31g(d)"
SMALL_HEAVY_ATOMS = 3
LARGEST = (4, 8, 4)
"""Besides the small ones: of molecules of 4 heavy atoms and at most 8 atoms every fourth row."""


def main() -> None:
    """Compute what the table lacks, the cheapest structures first; then write the sample."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("sample", type=Path, help="ani1x-release.h5 of the sample")
    parser.add_argument("table", type=Path, help="CSV with one row per structure computed")
    options = parser.parse_args()
    if not options.table.is_file():
        options.table.write_text("geometry,formula,energy_hartree\n")
    known = read_table(options.table)
    wanted = []
    for name, numbers, positions in structures(options.sample):
        geometry = digest(numbers, positions)
        wanted.append(geometry)
        if geometry in known:
            continue
        known[geometry] = energy_hartree(numbers, positions)
        with options.table.open("a") as stream:
            stream.write(f"{geometry},{name},{known[geometry]:.8f}\n")
    write_sample(options.sample, {geometry: known[geometry] for geometry in wanted})


def read_table(path: Path) -> dict[str, float]:
    """Energies in Hartree by geometry."""
    with path.open(newline="") as stream:
        return {row["geometry"]: float(row["energy_hartree"]) for row in csv.DictReader(stream)}


def write_sample(path: Path, energies: dict[str, float]) -> None:
    """Write the energies into the sample; rows without one are NaN."""
    with h5py.File(path, "r+") as file:
        for group in file.values():
            numbers = group["atomic_numbers"][()]
            found = [energies.get(digest(numbers, one), np.nan) for one in group["coordinates"]]
            if np.isfinite(found).any() or np.isfinite(group[KEY]).any():
                group[KEY][...] = found


def structures(path: Path) -> Iterator[tuple[str, Any, Any]]:
    """Formula, atomic numbers and positions in Å (float32, as stored) of those to compute."""
    found = []
    with h5py.File(path) as file:
        for name, group in file.items():
            numbers = group["atomic_numbers"][()]
            heavy = int((numbers > 1).sum())
            if heavy <= SMALL_HEAVY_ATOMS:
                rows = group["coordinates"][()]
            elif heavy == LARGEST[0] and len(numbers) <= LARGEST[1]:
                rows = group["coordinates"][:: LARGEST[2]]
            else:
                continue
            found += [(heavy, len(numbers), name, numbers, positions) for positions in rows]
    for *_, name, numbers, positions in sorted(found, key=lambda one: one[:3]):
        yield name, numbers, positions


def digest(numbers: Any, positions: Any) -> str:
    """Name of a geometry: a hash of its elements and positions."""
    content = np.asarray(numbers, np.uint8).tobytes() + np.asarray(positions, "<f4").tobytes()
    return sha256(content).hexdigest()[:16]


def energy_hartree(numbers: Any, positions: Any) -> float:
    """Total energy of the closed-shell molecule; NaN where an iteration does not converge."""
    atoms = list(zip(numbers.tolist(), positions.astype(float).tolist(), strict=True))
    molecule = gto.M(atom=atoms, basis=BASIS, verbose=0)
    field = scf.RHF(molecule).run(conv_tol=1e-10)
    clusters = cc.CCSD(field, frozen=int((numbers > 1).sum())).run(conv_tol=1e-8)
    if not (field.converged and clusters.converged):
        return math.nan
    return float(clusters.e_tot + clusters.ccsd_t())


if __name__ == "__main__":
    main()
