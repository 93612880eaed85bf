"""Write a few structures as each published set has them: its container, its keys, its units.

One description of a structure, in Å, eV and eV/Å, goes out in the layouts that docs/data_sets.md
describes: what mtlpar reads back must be what went in. Factors are those of ASE, not mtlpar's own.
Labels are of atoms on springs; nothing in the files was computed by the methods of the sets.
"""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import qcml
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.db import connect
from ase.io import Trajectory, write
from ase.units import Bohr, GPa, Hartree

STIFFNESS = 2.0
CRYSTALS = ("omat24", "oc20", "oc22", "odac23", "matpes")


@dataclass(frozen=True, slots=True)
class Structure:
    """A structure of N atoms and its labels.

    Attributes:
        numbers: Atomic numbers, (N,).
        positions: Å, (N, 3).
        cell: Lattice vectors in Å, (3, 3); zero for molecules.
        energy: eV.
        forces: eV/Å, (N, 3), on fixed atoms too.
        stress: eV/Å^3, tension positive, xx yy zz yz xz xy, (6,).
        charge: e.
        multiplicity: 2S+1.
    """

    numbers: npt.NDArray[np.int64]
    positions: npt.NDArray[np.float64]
    cell: npt.NDArray[np.float64]
    energy: float
    forces: npt.NDArray[np.float64]
    stress: npt.NDArray[np.float64]
    charge: int
    multiplicity: int

    def atoms(self, *, magmoms: Any = None, **results: Any) -> Atoms:
        """For ASE, with the results that are given."""
        periodic = bool(self.cell.any())
        place = {"cell": self.cell, "pbc": periodic, "magmoms": magmoms}
        atoms = Atoms(self.numbers, self.positions, **place)
        atoms.calc = SinglePointCalculator(atoms, **results)
        return atoms


def make_structures(
    count: int, *, atoms: int, is_crystal: bool, seed: int = 0, charges: Sequence[int] = (0,)
) -> list[Structure]:
    """Structures of atoms on springs to the origin, all with other numbers.

    Args:
        count: How many.
        atoms: Atoms of each.
        is_crystal: With a cell and a stress.
        seed: What is drawn.
        charges: Charges in turn.
    """
    rng = np.random.default_rng(seed)
    numbers = rng.choice([8, 12, 29] if is_crystal else [1, 6, 8], atoms)
    made = []
    for index in range(count):
        # float32, as SPICE and QCML store it.
        positions = rng.normal(0, 1.5 * atoms ** (1 / 3), (atoms, 3)).astype(np.float32)
        positions = positions.astype(np.float64)
        cell = np.diag(rng.uniform(2, 3, 3) * atoms ** (1 / 3)) if is_crystal else np.zeros((3, 3))
        charge = charges[index % len(charges)]
        made.append(
            Structure(
                numbers=numbers,
                positions=positions,
                cell=cell + (0.25 * np.tri(3, k=-1) if is_crystal else 0),
                energy=0.5 * STIFFNESS * float((positions**2).sum()) - 100.0 * atoms,
                forces=-STIFFNESS * positions,
                stress=rng.normal(0, 0.01, 6) if is_crystal else np.zeros(6),
                charge=charge,
                multiplicity=1 if charge % 2 == 0 else 2,
            )
        )
    return made


def write_omat24(folder: Path, structures: Sequence[Structure]) -> Path:
    """A database in LMDB; the crystal of Alexandria is named in the data of each row."""
    path = folder / "rattled-300" / "data.aselmdb"
    path.parent.mkdir(parents=True)
    with connect(path, use_lock_file=False) as database:
        for index, one in enumerate(structures):
            labels = {"energy": one.energy, "forces": one.forces, "stress": one.stress}
            atoms = one.atoms(magmoms=np.zeros(len(one.numbers)), **labels)
            data = {
                "sid": f"agm{index:09d}_A_1_spg1_1_0_rattled-300_abcdef",
                "calc_id": "rattled-300",
                "task_type": "Static",
                "composition_reduced": atoms.get_chemical_formula(),
                "energy_corrected_mp2020": one.energy - 1.0,
                "energy_adjustments_mp2020": [],
                "parent_id": f"agm{index:09d}_A_1_spg1",
            }
            database.write(atoms, data=data)
    return path


def write_omol25(folder: Path, structures: Sequence[Structure]) -> Path:
    """A database in LMDB; charge and multiplicity are in the data of each row."""
    path = folder / "data0000.aselmdb"
    with connect(path, use_lock_file=False) as database:
        for one in structures:
            data = {
                "source": "omol/electrolytes/a/step3/orca.tar.zst",
                "reference_source": None,
                "data_id": "elytes",
                "charge": one.charge,
                "spin": one.multiplicity,
                "num_atoms": len(one.numbers),
                "num_electrons": int(one.numbers.sum()) - one.charge,
                "nl_energy": 41.25,
                "homo_energy": [-8.5],
                "s_squared": 0.0,
                "warnings": [],
                "mulliken_charges": np.full(len(one.numbers), 0.3),
                "lowdin_charges": np.full(len(one.numbers), 0.2),
            }
            database.write(one.atoms(energy=one.energy, forces=one.forces), data=data)
    return path


def write_oc20(folder: Path, structures: Sequence[Structure]) -> Path:
    """Frames of extended XYZ, and beside them systems, frames and reference energies."""
    path = folder / "0.extxyz.xz"
    path.write_bytes(lzma.compress("".join(map(_open_catalyst_frame, structures)).encode()))
    lines = [f"random{index},frame{index},-90.5\n" for index in range(len(structures))]
    (folder / "0.txt.xz").write_bytes(lzma.compress("".join(lines).encode()))
    return path


def write_odac23(folder: Path, structures: Sequence[Structure]) -> Path:
    """A file of extended XYZ for a trajectory."""
    path = folder / "AMILUE_0.08_0_w_CO2_2H2O_1.extxyz"
    path.write_text("".join(map(_open_catalyst_frame, structures)))
    return path


def _open_catalyst_frame(one: Structure) -> str:
    lattice = " ".join(f"{value:.8f}" for value in one.cell.ravel())
    lines = [
        str(len(one.numbers)),
        f'Lattice="{lattice}" Properties=species:S:1:pos:R:3:move_mask:L:1:tags:I:1:forces:R:3 '
        f'energy={one.energy:.8f} free_energy={one.energy - 0.5:.8f} pbc="T T T"',
    ]
    symbols = Atoms(one.numbers).get_chemical_symbols()
    for index, symbol in enumerate(symbols):
        numbers = [f"{value:.8f}" for value in (*one.positions[index], *one.forces[index])]
        # The lower half of the slab is fixed.
        moves, tag = ("F", 0) if index < len(symbols) // 2 else ("T", 2)
        lines.append(" ".join([symbol, *numbers[:3], moves, str(tag), *numbers[3:]]))
    return "\n".join(lines) + "\n"


def write_oc22(folder: Path, structures: Sequence[Structure]) -> Path:
    """A trajectory of ASE, half of whose atoms are fixed."""
    path = folder / "K2Zn6O7_mp-559112_RyQXa0N0uc_ohyUKozY3G.traj"
    with Trajectory(path, "w") as trajectory:
        for one in structures:
            atoms = one.atoms(energy=one.energy, forces=one.forces)
            atoms.set_constraint(FixAtoms(list(range(len(atoms) // 2))))
            trajectory.write(atoms)
    return path


def write_nabla2dft(folder: Path, structures: Sequence[Structure]) -> Path:
    """A database in SQLite as SchNetPack writes it: labels are arrays in the data of each row."""
    path = folder / "train_2k_v2_formation_energy_w_forces.db"
    with connect(path, use_lock_file=False) as database:
        for one in structures:
            labels = {
                "energy": np.array([one.energy / Hartree]),
                "forces": one.forces / Hartree,
            }
            database.write(Atoms(one.numbers, one.positions), data=labels)
    return path


def write_qcml(folder: Path, structures: Sequence[Structure]) -> Path:
    """What qcml.py makes of records of TensorFlow Datasets, in atomic units."""
    records = [
        {
            "atomic_numbers": one.numbers.astype(np.uint8),
            "positions": (one.positions / Bohr).astype(np.float32),
            "pbe0_energy": np.float32(one.energy / Hartree - 1000),
            "pbe0_formation_energy": np.float32(one.energy / Hartree),
            "pbe0_forces": (one.forces * Bohr / Hartree).astype(np.float32),
            "charge": np.int64(one.charge),
            "multiplicity": np.int64(one.multiplicity),
            "is_outlier": np.bool_(False),
            "key_hash": b"0123",
        }
        for one in structures
    ]
    path = folder / "qcml_00000.xyz"
    write(path, [qcml.atoms_of(record) for record in records], format="extxyz")
    return path


def write_spice(folder: Path, structures: Sequence[Structure]) -> Path:
    """HDF5 in atomic units, a group for at most 18 conformations, the mean of the release."""
    path = folder / "SPICE-2.0.1.hdf5"
    by_charge = [
        [one for one in structures if one.charge == charge]
        for charge in sorted({one.charge for one in structures})
    ]
    groups = [alike[at : at + 18] for alike in by_charge for at in range(0, len(alike), 18)]
    with h5py.File(path, "w") as file:
        for index, those in enumerate(groups):
            charge = those[0].charge
            group = file.create_group(f"{index:06d}")
            smiles = f"[O{('+' if charge > 0 else '-') * abs(charge)}:1]"
            group.create_dataset("smiles", data=[smiles], dtype=h5py.string_dtype())
            group.create_dataset("atomic_numbers", data=those[0].numbers, dtype=np.int16)
            bohr = np.array([one.positions for one in those]) / Bohr
            group.create_dataset("conformations", data=bohr, dtype=np.float32)
            group["dft_total_energy"] = [one.energy / Hartree for one in those]
            gradient = -np.array([one.forces for one in those]) * Bohr / Hartree
            group.create_dataset("dft_total_gradient", data=gradient, dtype=np.float32)
    return path


def write_matpes(folder: Path, structures: Sequence[Structure]) -> Path:
    """A gzip-compressed list of entries; the stress is in kbar, compression positive."""
    path = folder / "MatPES-PBE-2025.1.json.gz"
    entries = [
        {
            "structure": {
                "lattice": {"matrix": one.cell.tolist(), "pbc": [True] * 3},
                "sites": [
                    {"species": [{"element": symbol, "occu": 1}], "xyz": xyz}
                    for symbol, xyz in zip(
                        Atoms(one.numbers).get_chemical_symbols(),
                        one.positions.tolist(),
                        strict=True,
                    )
                ],
            },
            "energy": one.energy,
            "forces": one.forces.tolist(),
            "stress": (one.stress / GPa * -10).tolist(),
            "matpes_id": f"matpes-20240214_149_{index}",
            "functional": "PBE",
            "provenance": {"original_mp_id": "mp-149", "md_step": index},
        }
        for index, one in enumerate(structures)
    ]
    path.write_bytes(gzip.compress(json.dumps(entries).encode()))
    return path


WRITERS: dict[str, Callable[[Path, Sequence[Structure]], Path]] = {
    "omat24": write_omat24,
    "omol25": write_omol25,
    "oc20": write_oc20,
    "oc22": write_oc22,
    "odac23": write_odac23,
    "nabla2dft": write_nabla2dft,
    "qcml": write_qcml,
    "spice": write_spice,
    "matpes": write_matpes,
}
