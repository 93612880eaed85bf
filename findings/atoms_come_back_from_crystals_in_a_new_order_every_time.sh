#!/usr/bin/env bash
# crystals 1.7.0: a structure from ASE 3.29.0 comes back with its atoms in an order of chance.
#
# Expected: Crystal.from_ase(atoms).to_ase() keeps the order of the atoms, or sorts them by a rule;
# forces and charges beside it stay valid, or can be sorted likewise.
# Seen: a Crystal holds a set of atoms, whose hashes differ from process to process: of eight atoms
# of salt the same script makes Na2Cl3NaClNa now and Na3Cl4Na next time. Positions are exact, so
# only what belongs to rows (forces, charges, a second structure of another run) meets the wrong
# atoms. And the structure repeats in no direction any more: pbc F F F beside a full cell.
#
# mtlpar keeps rows as they are read. Sort by distance to the original before labels are joined.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet crystals==1.7.0 ase==3.29.0
cd "$work"
cat >there_and_back.py <<'PYTHON'
from ase.build import bulk
from crystals import Crystal

salt = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
salt.rattle(0.05, seed=1)
back = Crystal.from_ase(salt).to_ase()
assert abs(back.cell.volume - salt.cell.volume) < 1e-6 and not back.pbc.any()
distances = abs(back.positions[:, None] - salt.positions).sum(axis=2)
assert (distances.min(axis=1) < 1e-9).all()
print(back.symbols, "rows of the original:", *distances.argmin(axis=1))
PYTHON
for _ in 1 2 3 4 5 6; do
    "$work/venv/bin/python" there_and_back.py | tee -a orders.txt
done
test "$(sort -u orders.txt | wc -l)" -gt 1
