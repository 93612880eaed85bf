#!/usr/bin/env bash
# pymatgen 2026.10.24 reads ASE 3.29.0's trajectories with the first frame's cell in every frame.
#
# Expected: Trajectory.from_file("relaxation.traj") has each frame's own cell, as the file does; at
# least a warning, as the reader sees that they differ.
# Seen: constant_lattice=True is the default, also for files in which it is wrong. All frames get
# the cell of the first, with their own fractional positions, energies and stresses: an equation of
# state has one volume and three energies. Elements go the same way in Trajectory.from_structures():
# a frame in which silver replaces copper comes back as copper. No message in either case.
#
# mtlpar reads each frame's own cell and elements.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet ase==3.29.0 pymatgen==2026.10.24
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import warnings

from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write
from pymatgen.core.trajectory import Trajectory
from pymatgen.io.ase import AseAtomsAdaptor

frames = []
for length in (3.6, 3.7, 3.8):
    frames.append(bulk("Cu", cubic=True, a=length))
    frames[-1].calc = EMT()
    frames[-1].get_potential_energy()
write("volumes.traj", frames)
with warnings.catch_warnings():
    warnings.simplefilter("error", UserWarning)
    found = Trajectory.from_file("volumes.traj")
    lengths = [round(structure.lattice.a, 6) for structure in found]
energies = [round(properties["energy"], 3) for properties in found.frame_properties]
print("lattice constants", lengths, "energies", energies)
assert lengths == [3.6, 3.6, 3.6] and len(set(energies)) == 3
varying = Trajectory.from_file("volumes.traj", constant_lattice=False)
assert [round(structure.lattice.a, 6) for structure in varying] == [3.6, 3.7, 3.8]

alloy = frames[0].copy()
alloy.symbols[0] = "Ag"
structures = [AseAtomsAdaptor.get_structure(atoms) for atoms in (frames[0], alloy)]
second = Trajectory.from_structures(structures)[1]
print("silver and copper:", second.composition)
assert second.composition.reduced_formula == "Cu"
PYTHON
