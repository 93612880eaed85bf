#!/usr/bin/env bash
# pymatgen 2026.10.24's way to ASE 3.29.0 loses the charge of crystals at once, of molecules later.
#
# Expected: a Structure with charge=2 reaches ASE with that charge: as info, or as initial charges.
# Seen: AseAtomsAdaptor.get_atoms(structure) has neither, and get_structure() returns a neutral
# structure. The spin of a species (Species("Fe", 3, spin=5)) goes the same way: all moments are
# zero, as only a site property "magmom" is looked at. A Molecule's charge does arrive, as an
# attribute that ASE knows nothing of: atoms.copy(), and so most of what ASE does with atoms, makes
# it neutral again.
#
# mtlpar reads charge and spin from info, and from the keys that a source's configuration names.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet ase==3.29.0 pymatgen==2026.10.24
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
from pymatgen.core import Lattice, Molecule, Species, Structure
from pymatgen.io.ase import AseAtomsAdaptor

sites = [[0, 0, 0], [0.5, 0.5, 0.5]]
charged = Structure(Lattice.cubic(4), ["Na", "Cl"], sites, charge=2)
atoms = AseAtomsAdaptor.get_atoms(charged)
back = AseAtomsAdaptor.get_structure(atoms)
print("crystal: info", atoms.info, "charges", atoms.get_initial_charges(), "back", back.charge)
assert not atoms.info and not atoms.get_initial_charges().any() and back.charge == 0

magnetic = Structure(Lattice.cubic(4), [Species("Fe", 3, spin=5), Species("O", -2)], sites)
moments = AseAtomsAdaptor.get_atoms(magnetic).get_initial_magnetic_moments()
print("moments", moments)
assert not moments.any()

lithium = Molecule(["Li", "O", "Li"], [[0, 0, 0], [1.8, 0, 0], [3.6, 0, 0]], charge=2)
atoms = AseAtomsAdaptor.get_atoms(lithium)
first = AseAtomsAdaptor.get_molecule(atoms).charge
second = AseAtomsAdaptor.get_molecule(atoms.copy()).charge
print("molecule:", first, "copied:", second)
assert first == 2 and second == 0
PYTHON
