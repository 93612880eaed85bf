"""Steps of dynamics, single structures and large crystals, beside another build of this package.

    git worktree add ../before COMMIT
    python benchmarks/dynamics.py --against ../before

Both builds run this script with the same random weights, on one core and one thread, in turns;
every round is a process of its own. A network has the size of the root ``config.yaml``. Times of a
case are those of the process, which are wall times on an idle core, the best of all rounds. Memory
is the largest resident set of a fresh process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.md.verlet import VelocityVerlet
from machine import describe_machine

import mtlpar
from mtlpar.core.references import References
from mtlpar.model.multitask import MultiTaskModel
from mtlpar.model.settings import HeadSettings, ModelSettings

try:
    from mtlpar.model.file import save_model
    from mtlpar.model.settings import EgnnSettings
except ImportError:  # Builds before neighbour lists were kept had other names.
    from mtlpar.model.saved import save_model
    from mtlpar.model.settings import EncoderSettings as EgnnSettings

HERE = Path(__file__).resolve()
TARGET = {
    "14-atom molecule, a step": 0.3,
    "64-atom MgO, a step": 0.3,
    "10976 atoms, conservative, time": 0.5,
}


def write_model(path: Path, forces: str) -> Path:
    """A model with random weights, of the quickstart's size."""
    settings = ModelSettings(
        encoder=EgnnSettings(width=64, layers=4, vector_channels=16, radial_basis=16),
        head=HeadSettings(width=64, layers=2, forces=forces),
    )
    energies = {"H": -13.6, "C": -1029.4, "O": -2041.8, "Mg": -5400.0}
    save_model(
        path,
        state=MultiTaskModel(settings, ["a"], seed=0).state_dict(),
        settings=settings,
        branches={"a": ("a",)},
        references={"a": References(energies)},
        level_of_theory={"a": "none"},
        training={},
    )
    return path


def crystal(repeat: int | tuple[int, int, int]) -> Atoms:
    """Rocksalt MgO, slightly disordered."""
    atoms = bulk("MgO", "rocksalt", a=4.21, cubic=True).repeat(repeat)
    atoms.rattle(0.05, seed=0)
    return atoms


def step_ms(model: Path, atoms: Atoms, steps: int) -> float:
    """Time of a step of velocity Verlet that starts at 300 K; the best of ten pieces."""
    atoms.calc = mtlpar.Calculator(model)
    thermal = np.sqrt(atoms.get_masses()[:, None] * units.kB * 300)
    atoms.set_momenta(thermal * np.random.default_rng(0).normal(size=(len(atoms), 3)))
    dynamics = VelocityVerlet(atoms, timestep=0.5 * units.fs)
    dynamics.run(5)
    return min(seconds(lambda: dynamics.run(steps)) for _ in range(10)) / steps * 1e3


def seconds(call: Callable[[], Any]) -> float:
    """Time of a call on its only thread, whatever else the machine does."""
    started = time.process_time()
    call()
    return time.process_time() - started


def time_steps(folder: Path) -> dict[str, float]:
    """Milliseconds a step, with both kinds of forces."""
    found = {}
    for forces, note in (("conservative", ""), ("equivariant", ", direct forces")):
        model = write_model(folder / f"{forces}.pt", forces)
        found[f"14-atom molecule, a step{note}"] = step_ms(model, molecule("trans-butane"), 20)
        found[f"64-atom MgO, a step{note}"] = step_ms(model, crystal(2), 4)
    return found


def time_singles(folder: Path) -> dict[str, float]:
    """Milliseconds for a molecule of nine atoms, among many and each by a calculator's call."""
    model = write_model(folder / "equivariant.pt", "equivariant")
    structures = [molecule("CH3CH2OH") for _ in range(256)]
    for seed, atoms in enumerate(structures):
        atoms.rattle(0.05, seed=seed)
    loaded, calculator = mtlpar.load_model(model), mtlpar.Calculator(model)

    def one_by_one() -> None:
        for atoms in structures:
            calculator.get_potential_energy(atoms)

    calls = {"in a batch": lambda: loaded.predict(structures), "one by one": one_by_one}
    return {
        f"9-atom molecule {name}, direct forces": min(seconds(call) for _ in range(5))
        / len(structures)
        * 1e3
        for name, call in calls.items()
    }


def measure_large(folder: Path, forces: str) -> dict[str, float]:
    """Time and peak memory in GB for forces of a crystal of 10,976 atoms."""
    model = write_model(folder / "model.pt", forces)
    atoms = crystal((14, 14, 7))
    atoms.calc = mtlpar.Calculator(model)
    taken = seconds(atoms.get_forces)
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    note = f"{len(atoms)} atoms, {forces}"
    return {f"{note}, time": 1e3 * taken, f"{note}, peak GB": int(line.split()[1]) * 1024 / 1e9}


CASES: dict[str, Callable[[Path], dict[str, float]]] = {
    "steps": time_steps,
    "singles": time_singles,
    "large": partial(measure_large, forces="conservative"),
    "large-direct": partial(measure_large, forces="equivariant"),
}


def run_in(checkout: Path, case: str, core: int) -> dict[str, float]:
    """One round of a case with the package of a checkout, in a process of its own."""
    if not (checkout / "src" / "mtlpar").is_dir():
        raise SystemExit(f"{checkout} is no checkout: it has no src/mtlpar")
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve() / "src")}
    command = [sys.executable, "-W", "ignore", str(HERE), "--case", case, "--core", str(core)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Print every case of both builds, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="the other build")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--core", type=int, default=0, help="core that everything runs on")
    parser.add_argument("--only", choices=CASES, help="one of the cases")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {options.core})
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as folder:
            sys.stdout.write(json.dumps(CASES[options.case](Path(folder))))
        return
    builds = {"here": HERE.parents[1]}
    if options.against is not None:
        builds["there"] = options.against
    print(describe_machine())
    print(f"best of {options.rounds} rounds, one thread on core {options.core}; milliseconds\n")
    for case in [options.only] if options.only else CASES:
        report(case, builds, options.rounds, options.core)


def report(case: str, builds: dict[str, Path], rounds: int, core: int) -> None:
    """Run one case in turns and print it."""
    best: dict[str, dict[str, float]] = {build: {} for build in builds}
    for _ in range(rounds):
        for build, checkout in builds.items():
            for name, value in run_in(checkout, case, core).items():
                best[build][name] = min(value, best[build].get(name, value))
    for name, value in best["here"].items():
        line = f"{name:48}{value:10.2f}"
        if "there" in best:
            there = best["there"][name]
            line += f"   there {there:10.2f}   ratio {value / there:.2f}"
            line += f"  (target <= {TARGET[name]})" if name in TARGET else ""
        print(line)


if __name__ == "__main__":
    main()
