"""A model and the structures that every engine has to answer for as the calculator does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc100, molecule
from networks import make_network

import mtlpar
from mtlpar.core.references import References
from mtlpar.model.file import save_model
from mtlpar.model.multitask import TargetScale

# Enough elements for torch-sim's own structures too. Sizes are those of all-electron energies, next
# to which the digits of float32 would show.
REFERENCES = {"H": -13.6, "C": -1029.4, "O": -2041.8, "Mg": -5400.0, "Si": -7800.0, "Fe": -34000.0}
OTHER_REFERENCES = {"H": -11.0, "C": -900.0, "O": -1900.0, "Mg": -5000.0}


def write_model(
    folder: Path,
    *,
    encoder: str = "egnn",
    forces: str = "conservative",
    energy: str = "sum",
    scale: float = 6.0,
    dtype: torch.dtype = torch.float64,
    charge_and_spin: bool = False,
    isolated_atoms: str = "learned",
    layers: int = 2,
) -> Path:
    """A model file of random weights with forces of some eV/Å, and two levels of theory.

    ``pbe`` and ``hybrid`` are branches of their own, so that an engine that takes the wrong one is
    wrong by eV. ``scale`` is that of energies and forces of ``pbe``.
    """
    options = {"charge_and_spin": charge_and_spin, "isolated_atoms": isolated_atoms}
    network = make_network(encoder, forces, energy, layers=layers, **options)
    network.set_scales({"a": TargetScale(scale, scale), "b": TargetScale(3.0, 3.0)})
    path = folder / f"{encoder}-{forces}-{energy}-{charge_and_spin}-{dtype}.pt"
    save_model(
        path,
        state=network.to(dtype).state_dict(),
        settings=network.settings,
        branches={"a": ("pbe",), "b": ("hybrid",)},
        references={"pbe": References(REFERENCES), "hybrid": References(OTHER_REFERENCES)},
        level_of_theory={"pbe": "PBE", "hybrid": "PBE0"},
        training={"model": "rattled"},
    )
    return path


def rattled(*, seed: int = 0) -> dict[str, Atoms]:
    """Structures by what they are, none at rest and none in the order of its elements."""
    rng = np.random.default_rng(seed)
    slab = fcc100("Mg", (2, 2, 2), a=4.5, vacuum=6.0)
    slab.set_pbc((True, True, False))
    slab.numbers[[0, 3, 5]] = 8
    crystal = bulk("MgO", "rocksalt", a=4.2).repeat((2, 1, 1))
    # Nothing of it is a right angle or symmetric, so that a transposed cell or stress is seen.
    crystal.set_cell(crystal.cell.array @ (np.eye(3) + 0.08 * rng.normal(size=(3, 3))), True)
    charged = molecule("CH3O")
    charged.info = {"charge": -1, "spin": 1}
    alone = Atoms("O", cell=[9.0, 9.5, 10.0], pbc=True)
    apart = Atoms("HC", [[0.0, 0.0, 0.0], [0.0, 0.0, 30.0]])
    found = {
        "molecule": molecule("CH3CH2OH"),
        "slab": slab,
        "crystal": crystal,
        "charged": charged,
        "one atom": Atoms("O"),
        "one atom that repeats": alone,
        "no pairs": apart,
    }
    for name, atoms in found.items():
        atoms.positions += 0.1 * rng.normal(size=atoms.positions.shape)
        state = {"charge": atoms.info.get("charge", 0), "spin": atoms.info.get("spin", 0)}
        found[name] = atoms[rng.permutation(len(atoms))]
        found[name].info = state
    return found


def out_of_balance() -> list[Atoms]:
    """Two crystals that a model of scale 60 moves: forces of some tenths of an eV/Å, and a stress.

    By random weights other crystals are at rest wherever their atoms are.
    """
    skewed, magnesia = rattled()["crystal"], bulk("MgO", "rocksalt", a=4.2)
    magnesia.rattle(0.05, seed=0)
    magnesia.info = skewed.info
    return [skewed, magnesia]


def assert_relaxed(path: Path, starts: list[Atoms], ends: list[Atoms]) -> None:
    """Fail unless, by the calculator, structures and their cells went downhill and are at rest."""
    for start, end in zip(starts, ends, strict=True):
        first, last = expected(path, start), expected(path, end)
        assert last["energy"] < first["energy"] - 0.5
        assert np.linalg.norm(last["forces"], axis=1).max() < 0.02
        assert np.linalg.norm(last["stress"]) < 0.1 * np.linalg.norm(first["stress"])


def assert_as_calculator(
    path: Path, structures: Sequence[Atoms], found: Mapping[str, torch.Tensor]
) -> None:
    """Fail unless tensors of many structures are what the calculator says of each."""
    ends = np.cumsum([len(atoms) for atoms in structures])[:-1]
    forces = np.split(found["forces"].numpy(), ends)
    for index, atoms in enumerate(structures):
        right = expected(path, atoms)
        assert found["energy"][index].item() == pytest.approx(right["energy"], abs=1e-6)
        np.testing.assert_allclose(forces[index], right["forces"], atol=1e-6)
        stress = found["stress"][index].numpy()
        if "stress" in right:
            np.testing.assert_allclose(stress, right["stress"], atol=1e-6)
        else:
            # Zero would be an answer, and relax cells of what has none.
            assert np.isnan(stress).all()


def expected(path: Path, atoms: Atoms, source: str = "pbe") -> dict[str, np.ndarray]:
    """What the calculator says."""
    found = atoms.copy()
    found.calc = mtlpar.Calculator(path, source=source)
    answers = {"energy": found.get_potential_energy(), "forces": found.get_forces()}
    if "stress" in found.calc.results:
        answers["stress"] = found.get_stress(voigt=False)
    return answers
