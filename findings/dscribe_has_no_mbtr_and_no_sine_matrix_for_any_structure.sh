#!/usr/bin/env bash
# dscribe 2.1.2 with ASE 3.29.0, which pip installs together: half of the descriptors do not work.
#
# Expected: MBTR, ValleOganov and SineMatrix describe a structure, as SOAP, ACSF and EwaldSumMatrix
# do.
# Seen: they end in 'Use only one of "momenta" and "velocities"' for any structure, at rest or
# moving: dscribe copies the structure into a class of its own and hands over both, the zeros that
# ASE makes up for atoms at rest included. So there is no structure that passes, and pip sees no
# conflict.
#
# mtlpar does not use dscribe.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet dscribe==2.1.2 ase==3.29.0
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
from ase.build import bulk
from dscribe.descriptors import SOAP, EwaldSumMatrix, SineMatrix, ValleOganov

crystal = bulk("NaCl", "rocksalt", a=5.6)
assert not crystal.has("momenta")
species = ["Na", "Cl"]
soap = SOAP(species=species, r_cut=5, n_max=2, l_max=2, periodic=True)
assert soap.create(crystal).shape[0] == 2
assert EwaldSumMatrix(n_atoms_max=2).create(crystal).size == 4
broken = [
    SineMatrix(n_atoms_max=2),
    ValleOganov(species=species, function="distance", n=10, sigma=0.1, r_cut=5),
]
for descriptor in broken:
    try:
        descriptor.create(crystal)
    except TypeError as error:
        print(type(descriptor).__name__, "of a crystal at rest:", error)
        assert "velocities" in str(error)
    else:
        raise SystemExit(f"{type(descriptor).__name__} works now")
PYTHON
