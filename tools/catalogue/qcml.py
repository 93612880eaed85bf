"""Write QCML's records of TensorFlow Datasets as extended XYZ, which mtlpar reads.

    pip install tensorflow-datasets tensorflow
    mkdir -p tfds
    gcloud storage cp -r gs://qcml-datasets/tfds/qcml/dft_force_field tfds/qcml/
    python tools/catalogue/qcml.py tfds qcml

Records are in atomic units. The energy is the formation energy: floating-point numbers of a record
are of single precision, whose step at a total energy of 4,096 Hartree and more is 13 meV.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from ase.units import Bohr, Hartree

STRUCTURES_OF_A_FILE = 200_000


def atoms_of(record: Mapping[str, Any]) -> Atoms:
    """A record in Å, eV and eV/Å, with its charge, multiplicity and whether it is an outlier."""
    positions = np.asarray(record["positions"], np.float64) * Bohr
    atoms = Atoms(np.asarray(record["atomic_numbers"], np.int64), positions)
    atoms.info = {key: int(record[key]) for key in ("charge", "multiplicity", "is_outlier")}
    atoms.calc = SinglePointCalculator(
        atoms,
        energy=float(record["pbe0_formation_energy"]) * Hartree,
        forces=np.asarray(record["pbe0_forces"], np.float64) * (Hartree / Bohr),
    )
    return atoms


def main() -> None:
    """Convert all records."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data_dir", type=Path, help="folder with qcml/dft_force_field/1.0.0")
    parser.add_argument("folder", type=Path, help="where qcml_00000.xyz and the others go")
    options = parser.parse_args()
    import tensorflow_datasets as tfds

    found = tfds.load("qcml/dft_force_field", split="full", data_dir=options.data_dir)
    options.folder.mkdir(parents=True, exist_ok=True)
    records = iter(tfds.as_numpy(found))
    for number in count():
        structures = [atoms_of(record) for record in islice(records, STRUCTURES_OF_A_FILE)]
        if not structures:
            return
        write(options.folder / f"qcml_{number:05d}.xyz", structures, format="extxyz")


if __name__ == "__main__":
    main()
