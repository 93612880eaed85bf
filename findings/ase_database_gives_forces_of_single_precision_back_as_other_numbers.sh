#!/usr/bin/env bash
# ASE 3.29.0's SQLite database stores results of single precision and reads them as double.
#
# Expected: a calculator whose forces are float32, as those of learned potentials are by default,
# can be written with connect("x.db").write(atoms): ASE turns the numbers into doubles, as its
# trajectories and its JSON database do, or refuses them.
# Seen: the bytes go into the row as they are. Reading takes each pair of floats for one double, so
# two atoms come back with forces on one atom and a stress of three numbers, all of them wrong, and
# no message anywhere. An odd number of floats ends in an error that speaks of a buffer, at reading
# time, when the calculation is gone.
#
# mtlpar writes doubles into the databases it exports, and stops at a row whose forces are not those
# of its atoms.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet ase==3.29.0
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import numpy as np
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.db import connect


class SinglePrecision(Calculator):
    implemented_properties = ["energy", "forces", "stress"]

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        forces = np.array([[0.1, 0.2, 0.3]] * (len(atoms) - 1) + [[1, 1, 1]], dtype=np.float32)
        self.results = {"energy": -1.0, "forces": forces}
        self.results["stress"] = np.linspace(0.1, 0.6, 6, dtype=np.float32)


def row_of(path, number_of_atoms):
    atoms = bulk("Cu") * (number_of_atoms, 1, 1)
    atoms.calc = SinglePrecision()
    atoms.get_forces()
    database = connect(path)
    return database.get(database.write(atoms))


right = row_of("two.json", 2)
assert right.forces.shape == (2, 3) and right.stress.shape == (6,)
wrong = row_of("two.db", 2)
print("JSON  ", right.forces.tolist())
print("SQLite", wrong.forces.tolist(), "stress", wrong.stress.tolist())
assert wrong.forces.shape == (1, 3) and wrong.stress.shape == (3,)
assert not np.isin(wrong.forces.round(3), right.forces.round(3)).any()
try:
    row_of("three.db", 3)
except ValueError as error:
    print("SQLite, three atoms:", error)
else:
    raise SystemExit("three atoms are read now")
PYTHON
