#!/usr/bin/env bash
# phonopy 4.10.0 folds atoms of different mass into one primitive cell and keeps one of the masses.
#
# Expected: a cubic copper cell with two atoms of mass 60 and two of mass 120 has no smaller
# primitive cell: phonopy keeps four atoms, or says that the masses do not fit.
# Seen: symmetry is found by symbols alone. primitive_matrix="auto", the default since version 4,
# and "F", for face-centred cells, make a primitive cell of one atom. Its mass is that of whichever
# atom stands first; the other three are forgotten without a word. All frequencies are those of a
# crystal of one isotope. With "P" the cell stays, and the highest frequency at the zone centre is
# 7.2 THz instead of none but zero.
#
# mtlpar takes no masses from data: energies and forces do not depend on them.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet phonopy==4.10.0 ase==3.29.0
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import warnings

import numpy as np
from ase.build import bulk
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms

copper = bulk("Cu", cubic=True)


def primitive_masses(masses, primitive_matrix):
    cell = PhonopyAtoms(
        symbols=copper.get_chemical_symbols(),
        cell=copper.cell.array,
        scaled_positions=copper.get_scaled_positions(),
        masses=masses,
    )
    phonon = Phonopy(cell, supercell_matrix=np.diag([2, 2, 2]), primitive_matrix=primitive_matrix)
    return phonon.primitive.masses.tolist()


with warnings.catch_warnings():
    warnings.simplefilter("error")
    light_first = primitive_masses([60, 60, 120, 120], "F")
    heavy_first = primitive_masses([120, 60, 60, 60], "F")
kept = primitive_masses([60, 60, 120, 120], "P")
print("light first", light_first, "heavy first", heavy_first, "kept", kept)
assert light_first == [60] and heavy_first == [120]
assert primitive_masses([60, 60, 120, 120], "auto") == [60]
assert kept == [60, 60, 120, 120]
PYTHON
