"""Dynamics of many small molecules in torch-sim: all in one batch, and one after the other.

    build/engines/torch-sim/bin/python benchmarks/batched.py

The environment is the one that ``make test-engines`` sets up. A network has random weights, the
size of the root ``config.yaml`` and conservative forces; molecules move without a thermostat.
Times are those of the process, the best of several rounds in alternation.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from ase import Atoms
from ase.build import molecule
from dynamics import seconds, write_model
from machine import describe_machine

MOLECULES = {"water": "H2O", "ethanol": "CH3CH2OH", "butane": "trans-butane"}
TARGET = 8


def moving(name: str, count: int) -> list[Atoms]:
    """Copies of a molecule, each moved a little."""
    copies = [molecule(name) for _ in range(count)]
    for seed, atoms in enumerate(copies):
        atoms.rattle(0.02, seed=seed)
    return copies


def main() -> None:
    """Print both times of each molecule, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=50, help="molecules in the batch")
    parser.add_argument("--steps", type=int, default=20, help="steps of 0.5 fs in a round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    # Whoever asks for --help may lack it.
    import torch_sim

    from mtlpar.engines.torch_sim import TorchSimModel

    torch.set_num_threads(1)
    print(f"{describe_machine()}, torch-sim {torch_sim.__version__}")
    print(f"{options.count} molecules, ms for a step of one, best of {options.rounds} rounds\n")
    with tempfile.TemporaryDirectory() as folder:
        path = write_model(Path(folder) / "model.pt", "conservative")
        model = TorchSimModel(path)

        def run(structures: list[Atoms]) -> None:
            state = torch_sim.io.atoms_to_state(structures, model.device, model.dtype)
            torch_sim.integrate(
                state,
                model,
                integrator=torch_sim.Integrator.nve,
                n_steps=options.steps,
                temperature=300,
                timestep=0.0005,
            )

        for name, formula in MOLECULES.items():
            structures = moving(formula, options.count)
            run(structures)
            together, alone = [], []
            for _ in range(options.rounds):
                together.append(seconds(lambda batch=structures: run(batch)))
                alone.append(seconds(lambda batch=structures: [run([one]) for one in batch]))
            of_one = 1e3 / options.count / options.steps
            print(
                f"{name:10} batched {min(together) * of_one:6.3f}   one by one "
                f"{min(alone) * of_one:6.3f}   ratio {min(alone) / min(together):4.1f}  "
                f"(target >= {TARGET})"
            )


if __name__ == "__main__":
    main()
