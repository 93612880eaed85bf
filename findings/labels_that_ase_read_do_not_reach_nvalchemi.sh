#!/usr/bin/env bash
# nvalchemi-toolkit 0.3.0 with ASE 3.29.0: a labelled frame from a file has no energy and no forces.
#
# Expected: AtomicData.from_atoms(read("frame.xyz")) has the energy and forces of the file; its
# arguments energy_key="energy" and forces_key="forces" say that it looks for them.
# Seen: it looks in atoms.info and atoms.arrays. For some years ASE's readers have put what is named
# energy, forces or stress into a calculator instead, so with the default names nothing is found,
# and nothing is said. Under any other name (REF_energy) the same labels arrive.
#
# mtlpar looks for labels in all three places.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 nvalchemi-toolkit==0.3.0 ase==3.29.0
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import warnings

warnings.simplefilter("ignore")
from ase.io import read
from nvalchemi.data import AtomicData

frame = """1
Properties=species:S:1:pos:R:3:{prefix}forces:R:3 {prefix}energy=-1.5 pbc="F F F"
H 0 0 0 0.1 0.2 0.3
"""
found = {}
for prefix in ("", "REF_"):
    with open("frame.xyz", "w") as stream:
        stream.write(frame.format(prefix=prefix))
    atoms = read("frame.xyz")
    keys = {"energy_key": f"{prefix}energy", "forces_key": f"{prefix}forces"}
    data = AtomicData.from_atoms(atoms, **keys)
    found[prefix + "energy"] = data.energy, data.forces
    if not prefix:
        assert atoms.get_potential_energy() == -1.5
print(found)
assert found["energy"] == (None, None)
assert float(found["REF_energy"][0]) == -1.5 and found["REF_energy"][1] is not None
PYTHON
