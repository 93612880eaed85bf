#!/usr/bin/env bash
# dpdata 1.1.0 gives all frames of an ASE 3.29.0 trajectory the elements of the first.
#
# Expected: LabeledSystem("run.traj", fmt="ase/traj") holds the elements of each frame, as the file
# does: in a Monte Carlo run that swaps atoms only these change. Where one list of elements must do
# for all frames, atoms are put into its order, as MultiSystems does with extended XYZ, or a frame
# that does not fit is refused.
# Seen: the list is that of the first frame, positions and forces are taken as they come. With two
# atoms of an alloy swapped, or with another composition of as many atoms, a frame has its own energy
# beside a structure that it does not belong to. No message; only another number of atoms is an error.
#
# mtlpar reads the elements of every frame of a trajectory.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet dpdata==1.1.0 ase==3.29.0
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import dpdata
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import Trajectory, read


def energy(atoms):
    atoms = atoms.copy()
    atoms.calc = EMT()
    return atoms.get_potential_energy()


alloy = bulk("Cu", cubic=True).repeat((2, 1, 1))
alloy.rattle(0.1, seed=0)
with Trajectory("run.traj", "w") as run:
    for gold in ([0, 1], [0, 6], [0, 1, 2]):
        alloy.symbols[:] = "Cu"
        alloy.symbols[gold] = "Au"
        alloy.calc = EMT()
        alloy.get_potential_energy(), alloy.get_forces()
        run.write(alloy)

frames = read("run.traj", ":")
system = dpdata.LabeledSystem("run.traj", fmt="ase/traj")
assert len(system) == len(frames) == 3
for number, (frame, one) in enumerate(zip(frames, system.to("ase/structure"))):
    label, own, theirs = frame.get_potential_energy(), energy(frame), energy(one)
    print(f"frame {number}: label {label:.4f} eV, ASE's structure {own:.4f} eV ({frame.symbols}), "
          f"dpdata's {theirs:.4f} eV ({one.symbols})")
    assert abs(own - label) < 1e-6
    assert abs(one.get_potential_energy() - label) < 1e-6
    assert (abs(theirs - label) < 1e-6) == (number == 0)
    assert str(one.symbols) == str(system.to("ase/structure")[0].symbols)
PYTHON
