#!/usr/bin/env bash
# ase-extxyz 0.1.2 for ASE 3.29.0: frames written in its format lose energy, forces, stress and
# constraints.
#
# Expected: write(..., format="cextxyz"), the same format by a faster parser, writes what
# format="extxyz" writes; at least its own trajectory, attached to a relaxation, has the energies.
# Seen: results of a calculator are written only if asked for (write_calc=True), fixed atoms never,
# and nothing says so: a labelled data set is copied without its labels. Read with the plugin's
# defaults, labels that ASE wrote lie in info and arrays, and there is no calculator.
#
# mtlpar reads extended XYZ by ASE's own reader, and says which keys of a file nothing uses.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet ase-extxyz==0.1.2 extxyz==0.4.6 ase==3.29.0
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.io import read, write
from ase.optimize import BFGS
from ase_extxyz.io import ExtXYZTrajectoryWriter

copper = bulk("Cu", cubic=True)
copper.rattle(0.1, seed=0)
copper.set_constraint(FixAtoms([0]))
copper.calc = EMT()
copper.get_stress()
with ExtXYZTrajectoryWriter("relaxation.xyz", atoms=copper) as trajectory:
    relaxation = BFGS(copper, logfile=None)
    relaxation.attach(trajectory)
    relaxation.run(fmax=0.05)
write("ase.xyz", copper, format="extxyz")
write("plugin.xyz", copper, format="cextxyz")

for name in ("ase.xyz", "plugin.xyz", "relaxation.xyz"):
    frame = read(name, format="extxyz")
    results = {} if frame.calc is None else frame.calc.results
    print(f"{name}: results {sorted(results)}, {len(frame.constraints)} constraints")
    whole = name == "ase.xyz"
    assert ({"energy", "forces", "stress"} <= set(results)) == whole
    assert len(frame.constraints) == (1 if whole else 0)
    assert whole or not (frame.info or set(frame.arrays) - {"numbers", "positions"})

read_back = read("ase.xyz", format="cextxyz")
print("read with the plugin:", read_back.calc, sorted(read_back.info), sorted(read_back.arrays))
assert read_back.calc is None and "energy" in read_back.info and "forces" in read_back.arrays
PYTHON
