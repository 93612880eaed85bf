#!/usr/bin/env bash
# ASE 3.29.0 writes atoms that moved with the energy and forces from before they moved.
#
# Expected: after atoms.rattle(), a changed cell or another element, a calculator's results belong
# to no structure any more: write() leaves them out, as it does for ASE's trajectories, databases
# and JSON, or atoms.get_potential_energy() computes (or refuses) them.
# Seen: extended XYZ takes calc.results as they lie there, without asking whether they still fit:
# the file holds new positions with the old energy and forces. Whoever reads frames, displaces the
# atoms to make more data and writes them, has labelled data without one calculation, and no
# message.
#
# mtlpar's check of energy against work finds such frames if neighbours of one trajectory hold them.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet ase==3.29.0
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read, write

atoms = bulk("Cu") * (2, 1, 1)
atoms.calc = EMT()
before = atoms.get_potential_energy()
atoms.get_forces()
atoms.rattle(0.3, seed=1)
written = {}
for name in ("moved.xyz", "moved.traj", "moved.json"):
    write(name, atoms)
    calculator = read(name).calc
    written[name] = calculator.results.get("energy") if calculator else None
after = atoms.get_potential_energy()
print(f"energy before {before:.4f}, after {after:.4f}, written {written}")
assert after - before > 1
assert written["moved.traj"] is None and written["moved.json"] is None
assert abs(written["moved.xyz"] - before) < 1e-6
PYTHON
