#!/usr/bin/env bash
# ASE 3.29.0: a model behind SocketClient has no stress, and that is reported as a stress of zero.
#
# Expected: SocketIOCalculator, which names stress among what it knows, asks the client for it, or
# says that there is none, as a calculator without stress does (PropertyNotImplementedError).
# Seen: unless told use_stress=True, SocketClient.run() sends zeros, also if its calculator knows
# better. At the other end these are a result like any other. A copper crystal under 56 GPa relaxes
# its cell "successfully" in no step at all. That use_stress exists is said in no message of either
# side.
#
# mtlpar's calculator can be served this way: pass use_stress=True.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet ase==3.29.0
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import threading
from pathlib import Path

from ase import units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.socketio import SocketClient, SocketIOCalculator
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

crystal = bulk("Cu", a=3.3)
name = Path.cwd().name


def serve():
    client = SocketClient(unixsocket=name, timeout=60)
    model = crystal.copy()
    model.calc = EMT()
    client.run(model)


direct = crystal.copy()
direct.calc = EMT()
with SocketIOCalculator(unixsocket=name, timeout=60) as socket:
    thread = threading.Thread(target=serve)
    crystal.calc = socket
    thread.start()
    energy = crystal.get_potential_energy()
    optimizer = BFGS(FrechetCellFilter(crystal), logfile=None)
    converged = optimizer.run(fmax=1e-3)
    stress = crystal.get_stress()
thread.join()
print(f"direct {direct.get_stress()[0] / units.GPa:.1f} GPa, socket {stress[0]:.1f} GPa,")
print(f"relaxed: {converged} after {optimizer.nsteps} steps")
assert abs(energy - direct.get_potential_energy()) < 1e-9
assert direct.get_stress()[0] < -20 * units.GPa
assert not stress.any() and converged and optimizer.nsteps == 0
PYTHON
