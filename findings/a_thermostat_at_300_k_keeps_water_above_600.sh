#!/usr/bin/env bash
# ASE 3.29.0's Langevin, with its defaults, keeps a single molecule far above the temperature asked for.
#
# Expected: 300 K; or 8/9 of it for water, whose centre of mass the default fixcm=True holds still.
# The deprecation notice speaks of small deviations for large systems.
# Seen: water at 630 to 820 K, ethanol at 360 to 400 K, benzene at 350 to 370 K, for as long as one
# likes. With fixcm=True each atom loses an equal share of the total random momentum and all noise is
# scaled up by sqrt(N / (N - 1)): hydrogen atoms, many times lighter than the rest, take up kicks
# that belong to the heavy ones. With fixcm=False the same runs give 300 K.
#
# mtlpar's pages use fixcm=False, and say so: a model is easily blamed for this heat.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet ase==3.29.0
cd "$work"
"$work/venv/bin/python" -W ignore::FutureWarning - <<'PYTHON'
import numpy as np
from ase import units
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from ase.optimize import BFGS


def mean_temperature(name, **options):
    atoms = molecule(name, calculator=EMT())
    BFGS(atoms, logfile=None).run(fmax=1e-3, steps=500)
    rng = np.random.default_rng(0)
    thermalize_momenta(atoms, temperature_K=300, rng=rng)
    dynamics = Langevin(
        atoms,
        timestep=0.25 * units.fs,
        temperature_K=300,
        friction=0.02 / units.fs,
        rng=rng,
        **options,
    )
    dynamics.run(2000)
    seen = []
    dynamics.attach(lambda: seen.append(atoms.get_temperature()), interval=5)
    dynamics.run(20000)
    return np.mean(seen)


for name, hot in (("H2O", 500), ("CH3CH2OH", 340), ("C6H6", 330)):
    default, free = mean_temperature(name), mean_temperature(name, fixcm=False)
    print(f"{name}: {default:.0f} K by default, {free:.0f} K with fixcm=False, 300 K asked for")
    assert default > hot
    assert 250 < free < 350
PYTHON
