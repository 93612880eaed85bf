"""What every encoder and branch must obey, on molecules and crystals, at any weights.

Weights are random: symmetry must come from the architecture, not from training. Energies and forces
are of order one, so the tolerances are relative errors too.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from mtlpar.calculator import structure_batch
from mtlpar.graph.collate import collate
from mtlpar.graph.settings import GraphSettings
from mtlpar.model.multitask import MultiTaskModel, Segment
from mtlpar.model.settings import EncoderSettings, HeadSettings, ModelSettings

CUTOFF = 5.0
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}


def _shaken(atoms: Atoms, seed: int) -> Atoms:
    atoms = atoms.copy()
    rng = np.random.default_rng(seed)
    # Round, so that float32 storage of positions and cells is exact in both frames compared.
    atoms.positions = np.round((atoms.positions + rng.normal(0, 0.08, (len(atoms), 3))) * 64) / 64
    return atoms


def _crystal(name: str, structure: str, a: float) -> Atoms:
    atoms = bulk(name, structure, a=a, cubic=structure != "hcp")
    atoms.set_cell(np.round(atoms.cell.array * 64) / 64)
    return atoms


STRUCTURES = {
    "ethanol": _shaken(molecule("CH3CH2OH"), 1),
    "NaCl": _shaken(_crystal("NaCl", "rocksalt", 5.5), 2),
    "one-atom cell": bulk("Cu", "fcc", a=3.5),
    "thin cell": _shaken(Atoms("SiO", [[0, 0, 0], [0.5, 0.5, 4]], cell=[2.5, 2.5, 8], pbc=True), 3),
    "slab": _shaken(
        Atoms("C2H", [[0, 0, 0], [1.5, 0, 0], [0, 0, 1.5]], cell=[3, 3, 20], pbc=[1, 1, 0]), 4
    ),
}


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture(scope="module")
def network() -> MultiTaskModel:
    settings = ModelSettings(
        graph=GraphSettings(cutoff_angstrom=CUTOFF),
        encoder=EncoderSettings(width=24, layers=3, vector_channels=4, radial_basis=8),
        head=HeadSettings(width=24, layers=2),
    )
    return MultiTaskModel(settings, ["a", "b"], seed=1).double().eval()


@pytest.fixture
def predict(
    network: MultiTaskModel, dtype: torch.dtype
) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    def run(*structures: Atoms) -> tuple[np.ndarray, np.ndarray]:
        batch = collate(structure_batch(list(structures)), network.settings.graph, dtype=dtype)
        network.to(dtype)
        with torch.no_grad():
            energy, forces, _ = network(batch, [Segment("a", 0, len(structures))])
        return energy.double().numpy(), forces.double().numpy()

    return run


def _rotation(seed: int) -> np.ndarray:
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q *= np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else -q


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("improper", [False, True], ids=["rotation", "reflection"])
def test_energy_is_invariant_and_forces_turn_with_the_structure(
    network: MultiTaskModel, dtype: torch.dtype, name: str, improper: bool
) -> None:
    # Turn the collated tensors, not the stored structure, so that only the model is tested and
    # float32 storage of positions does not hide an error of the same size.
    rotation = torch.tensor(_rotation(7) * (-1 if improper else 1), dtype=dtype)
    network.to(dtype)
    batch = collate(structure_batch([STRUCTURES[name]]), network.settings.graph, dtype=dtype)
    turned = batch.clone()
    turned.pos = batch.pos @ rotation.T
    turned.edge_shift = batch.edge_shift @ rotation.T
    with torch.no_grad():
        energy, forces, _ = network(batch, [Segment("a", 0, 1)])
        turned_energy, turned_forces, _ = network(turned, [Segment("a", 0, 1)])
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(turned_energy, energy, rtol=0, atol=tolerance)
    torch.testing.assert_close(turned_forces, forces @ rotation.T, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", STRUCTURES)
def test_translation_changes_nothing(predict: Callable, dtype: torch.dtype, name: str) -> None:
    atoms = STRUCTURES[name]
    moved = atoms.copy()
    moved.positions += [3.0, -1.5, 0.25]
    for before, after in zip(predict(atoms), predict(moved), strict=True):
        np.testing.assert_allclose(after, before, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("name", STRUCTURES)
def test_order_of_the_atoms_does_not_matter(
    predict: Callable, dtype: torch.dtype, name: str
) -> None:
    atoms = STRUCTURES[name]
    order = np.random.default_rng(0).permutation(len(atoms))
    energy, forces = predict(atoms)
    other_energy, other_forces = predict(atoms[order])
    np.testing.assert_allclose(other_energy, energy, atol=TOLERANCE[dtype])
    np.testing.assert_allclose(other_forces, forces[order], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("name", ["NaCl", "thin cell", "slab"])
def test_wrapping_atoms_into_other_cells_changes_nothing(
    predict: Callable, dtype: torch.dtype, name: str
) -> None:
    atoms = STRUCTURES[name]
    wrapped = atoms.copy()
    jumps = np.random.default_rng(1).integers(-2, 3, (len(atoms), 3)) * atoms.pbc
    wrapped.positions += jumps @ atoms.cell.array
    for before, after in zip(predict(atoms), predict(wrapped), strict=True):
        np.testing.assert_allclose(after, before, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("name", ["NaCl", "one-atom cell", "thin cell"])
def test_a_supercell_has_the_same_energy_per_atom_and_forces(
    predict: Callable, dtype: torch.dtype, name: str
) -> None:
    atoms = STRUCTURES[name]
    energy, forces = predict(atoms)
    double_energy, double_forces = predict(atoms.repeat((2, 1, 1)))
    np.testing.assert_allclose(double_energy, energy, atol=TOLERANCE[dtype])
    np.testing.assert_allclose(double_forces, np.tile(forces, (2, 1)), atol=TOLERANCE[dtype])


def test_a_structure_in_a_batch_equals_the_structure_alone(
    predict: Callable, dtype: torch.dtype
) -> None:
    structures = list(STRUCTURES.values())
    energy, forces = predict(*structures)
    alone = [predict(atoms) for atoms in structures]
    np.testing.assert_allclose(energy, np.concatenate([e for e, _ in alone]), atol=TOLERANCE[dtype])
    np.testing.assert_allclose(forces, np.concatenate([f for _, f in alone]), atol=TOLERANCE[dtype])


def test_energy_and_forces_are_smooth_where_a_neighbour_leaves_the_cutoff(
    predict: Callable, dtype: torch.dtype
) -> None:
    # Without the envelope the jump is of the order of the interaction itself.
    def at(distance: float) -> tuple[np.ndarray, np.ndarray]:
        return predict(Atoms("CO", [[0, 0, 0], [distance, 0, 0]]))

    for inside, outside in zip(at(CUTOFF - 2e-3), at(CUTOFF + 2e-3), strict=True):
        np.testing.assert_allclose(inside, outside, atol=1e-5)


def test_an_isolated_atom_has_an_energy_and_no_force(predict: Callable) -> None:
    energy, forces = predict(Atoms("N", [[0.3, 0.2, 0.1]]))
    assert np.isfinite(energy).all()
    np.testing.assert_array_equal(forces, 0.0)


def test_fragments_far_apart_do_not_feel_each_other(predict: Callable, dtype: torch.dtype) -> None:
    water, methane = _shaken(molecule("H2O"), 5), _shaken(molecule("CH4"), 6)
    far = methane.copy()
    far.positions += [64.0, 0, 0]
    energy, forces = predict(water + far)
    parts = [predict(water), predict(methane)]
    total = 3 * parts[0][0] + 5 * parts[1][0]
    np.testing.assert_allclose(8 * energy, total, atol=10 * TOLERANCE[dtype])
    np.testing.assert_allclose(
        forces, np.concatenate([f for _, f in parts]), atol=10 * TOLERANCE[dtype]
    )


def test_mirror_images_differ_from_other_arrangements(predict: Callable) -> None:
    # The same distances to the centre but other angles: an encoder that only counted neighbours
    # by distance from the centre would be blind to it.
    straight = Atoms("OH2", [[0, 0, 0], [1, 0, 0], [-1, 0, 0]])
    bent = Atoms("OH2", [[0, 0, 0], [1, 0, 0], [0, 1, 0]])
    assert abs(predict(straight)[0] - predict(bent)[0])[0] > 1e-4


def test_branches_answer_differently(network: MultiTaskModel) -> None:
    batch = collate(structure_batch([STRUCTURES["ethanol"]] * 2), network.settings.graph)
    network.float()
    with torch.no_grad():
        energy, *_ = network(batch, [Segment("a", 0, 1), Segment("b", 1, 2)])
    assert abs(energy[0] - energy[1]) > 1e-4
