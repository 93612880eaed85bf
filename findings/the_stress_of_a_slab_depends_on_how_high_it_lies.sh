#!/usr/bin/env bash
# mace-torch 0.3.16 divides by a volume of its own for structures that do not repeat in all
# directions.
#
# Expected: a copper slab has the stress that its cell implies, wherever in the cell it lies; moving
# all atoms together changes nothing. Whether the vacuum counts as periodic cannot matter where it
# is wider than the cutoff: energy and forces are equal to the last digit.
# Seen: for a direction that does not repeat, the neighbour search makes up a cell vector of five
# cutoffs times the largest coordinate of any atom, and hands it on as the cell. The stress is
# divided by that volume: of a slab in a cell of 20 angstrom with pbc T T F it is a sixteenth of
# what it is with T T T, and with all atoms 100 angstrom higher less than a hundredth.
#
# mtlpar divides by the volume of the cell as it is given. Compare stresses of slabs with T T T.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 mace-torch==0.3.16 ase==3.29.0
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import warnings

warnings.simplefilter("ignore")
import numpy as np
import torch
from ase.build import fcc111
from mace import modules  # before e3nn, whose tables it makes readable for torch
from e3nn import o3
from mace.calculators import MACECalculator

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
model = modules.ScaleShiftMACE(
    r_max=5.0,
    num_bessel=4,
    num_polynomial_cutoff=5,
    max_ell=2,
    interaction_cls=block,
    interaction_cls_first=block,
    num_interactions=2,
    num_elements=1,
    hidden_irreps=o3.Irreps("8x0e"),
    MLP_irreps=o3.Irreps("8x0e"),
    gate=torch.nn.functional.silu,
    atomic_energies=np.zeros(1),
    avg_num_neighbors=12.0,
    atomic_numbers=[29],
    correlation=2,
    atomic_inter_scale=1.0,
    atomic_inter_shift=0.0,
)
calculator = MACECalculator(models=[model], device="cpu", default_dtype="float64")


def outcome(pbc, height):
    slab = fcc111("Cu", (1, 1, 3), vacuum=8)
    slab.pbc = pbc
    slab.positions[:, 2] += height
    slab.calc = calculator
    return slab.get_potential_energy(), slab.get_stress()[0]


whole, low, high = outcome(True, 0), outcome([1, 1, 0], 0), outcome([1, 1, 0], 100)
print("energies (eV)", [round(one[0], 6) for one in (whole, low, high)])
print("stress xx over that of T T T:", low[1] / whole[1], high[1] / whole[1])
assert np.allclose([low[0], high[0]], whole[0])
assert np.isclose(outcome(True, 100)[1], whole[1])
assert low[1] / whole[1] < 0.1 and high[1] / whole[1] < 0.01
PYTHON
