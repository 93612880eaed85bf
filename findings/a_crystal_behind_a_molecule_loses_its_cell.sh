#!/usr/bin/env bash
# nvalchemi-toolkit 0.3.0: a batch has the fields of its first structure; others lose what it lacks.
#
# Expected: Batch.from_data_list([molecule, crystal]) keeps the crystal's cell and gives the
# molecule a zero one, or raises, as the other order does ("Field 'cell' ... is missing from sample
# 1").
# Seen: with the molecule first there is no cell and no pbc in the batch. Taken out of it again, the
# crystal is a cluster of four atoms. No message. So a shuffled epoch of mixed data ends in an error
# or silently trains on clusters, depending on which structure comes first.
#
# mtlpar's batches have every field, and masks where a structure has none.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 nvalchemi-toolkit==0.3.0 ase==3.29.0
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import warnings

warnings.simplefilter("ignore")
from ase.build import bulk, molecule
from nvalchemi.data import AtomicData, Batch

water = AtomicData.from_atoms(molecule("H2O"))
copper = AtomicData.from_atoms(bulk("Cu", cubic=True))
assert copper.cell is not None and bool(copper.pbc.all())
first, second = Batch.from_data_list([water, copper]).to_data_list()
print("behind water: cell", second.cell, "pbc", second.pbc, "atoms", second.num_nodes)
assert second.num_nodes == 4 and second.cell is None and second.pbc is None
try:
    Batch.from_data_list([copper, water])
except ValueError as error:
    print("before water:", error)
else:
    raise SystemExit("both orders work now")
PYTHON
