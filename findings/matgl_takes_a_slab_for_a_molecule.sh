#!/usr/bin/env bash
# matgl 4.1.2: a structure that repeats in two directions is computed as if it repeated in none.
#
# Expected: a copper slab with pbc T T F, as ase.build.fcc111 makes it, has the energy of T T T
# where the vacuum is wider than the cutoff, as with other learned potentials; or the calculator
# refuses it.
# Seen: PESCalculator's graph is periodic if all three directions are, else it has no images at all.
# The atoms of the slab's cell float alone: three copper atoms, not three layers. Its energy is, to
# the last digit, that of pbc F F F. No message (there is one about units of stress).
#
# mtlpar repeats a structure along each direction that pbc names.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 matgl==4.1.2 ase==3.29.0
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import warnings

warnings.simplefilter("ignore")
import torch
from ase.build import fcc111
from matgl.apps.pes import Potential
from matgl.ext.ase import PESCalculator
from matgl.models import TensorNet

torch.manual_seed(0)
network = TensorNet(element_types=("Cu",), is_intensive=False, units=16, nblocks=1)
calculator = PESCalculator(Potential(network), stress_unit="eV/A3")
energies = {}
for pbc in ((True, True, True), (True, True, False), (False, False, False)):
    slab = fcc111("Cu", (1, 1, 3), vacuum=8)
    slab.pbc = pbc
    slab.calc = calculator
    energies[sum(pbc)] = float(slab.get_potential_energy())
print("energy by number of directions that repeat:", energies)
assert energies[2] == energies[0]
assert abs(energies[2] - energies[3]) > 1e-4
PYTHON
