"""The evaluator of single structures says what `SavedModel.predict` says, whatever came before."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atom, Atoms, units
from ase.build import bulk, molecule
from ase.md.verlet import VelocityVerlet
from networks import ENCODERS, FORCES, make_network

import mtlpar
from mtlpar.core.references import References
from mtlpar.model.egnn import EgnnEncoder, inference, steps
from mtlpar.model.egnn.inference import EgnnInference
from mtlpar.model.evaluator import Evaluator
from mtlpar.model.file import save_model
from mtlpar.model.heads import Branch
from mtlpar.model.saved import SavedModel

REFERENCES = {"s": References({"H": -13.6, "C": -1029.4, "O": -2041.8, "Mg": -5400.0})}
MGO = bulk("MgO", "rocksalt", a=4.2, cubic=True)


def _model(
    encoder: str = "egnn",
    forces: str = "conservative",
    energy: str = "sum",
    dtype: torch.dtype = torch.float64,
    **options: object,
) -> SavedModel:
    network = make_network(encoder, forces, energy, **options).to(dtype).eval()
    return SavedModel(
        network=network,
        settings=network.settings,
        branches={"a": ("s",)},
        references=REFERENCES,
        level_of_theory={"s": "PBE"},
    )


def _assert_same(model: SavedModel, evaluator: Evaluator, atoms: Atoms, tolerance: float) -> None:
    (expected,) = model.predict([atoms], source="s")
    found = evaluator.predict(atoms)
    # Next to thousands of eV of references, float64 has no more digits than this.
    assert found.energy == pytest.approx(expected.energy, abs=max(tolerance, 1e-10))
    np.testing.assert_allclose(found.forces, expected.forces, atol=tolerance)
    np.testing.assert_allclose(
        found.atom_energies, expected.atom_energies, atol=max(tolerance, 1e-10)
    )
    assert (found.stress is None) == (expected.stress is None)
    if expected.stress is not None:
        np.testing.assert_allclose(found.stress, expected.stress, atol=tolerance)


def _history() -> Iterator[Atoms]:
    """Structures after one another, each of which another thing that is kept would be wrong for."""
    rng = np.random.default_rng(0)
    atoms = MGO.copy()
    for _ in range(4):
        atoms.positions += 0.05 * rng.normal(size=atoms.positions.shape)
        yield atoms
    atoms.set_cell(atoms.cell.array * 0.97)  # The atoms stay where they are.
    yield atoms
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.02 * rng.normal(size=(3, 3))), True)
    yield atoms
    atoms.pbc = (True, False, True)
    yield atoms
    atoms = atoms[rng.permutation(len(atoms))]
    yield atoms
    atoms.numbers[[0, -1]] = atoms.numbers[[-1, 0]]
    atoms.numbers[1] = 8
    yield atoms
    atoms.positions[2] += atoms.cell.array[0]  # The same crystal, with an atom's image.
    yield atoms
    atoms.append("H")
    atoms.positions[-1] = atoms.positions[0] + [0.9, 0.7, 0.8]
    yield atoms
    yield molecule("CH3OH")
    yield Atoms("H")
    yield MGO


@pytest.mark.long
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("forces", FORCES)
@pytest.mark.parametrize(
    ("energy", "isolated"), [("sum", "learned"), ("mean", "learned"), ("mean", "reference")]
)
def test_predictions_do_not_depend_on_what_came_before(
    encoder: str, forces: str, energy: str, isolated: str
) -> None:
    model = _model(encoder, forces, energy, isolated_atoms=isolated)
    evaluator = Evaluator(model, source="s")
    for atoms in _history():
        _assert_same(model, evaluator, atoms, 1e-12)


@pytest.mark.parametrize(("key", "values"), [("charge", (0, 1, -2)), ("spin", (1, 3, 0))])
def test_charge_and_spin_of_the_structure_before_are_forgotten(
    key: str, values: tuple[int, ...]
) -> None:
    model = _model(charge_and_spin=True)
    evaluator = Evaluator(model, source="s")
    atoms = molecule("CH3OH")
    energies = set()
    for value in values:
        atoms.info[key] = value
        _assert_same(model, evaluator, atoms, 1e-12)
        energies.add(evaluator.predict(atoms).energy)
    assert len(energies) == len(values)


def test_neighbours_are_searched_when_atoms_moved_far_or_the_frame_changed() -> None:
    evaluator = Evaluator(_model(), source="s")
    atoms = MGO.copy()
    # All pairs that an atom's step of 0.2 Å can make neighbours are known; 0.1 Å more are too many.
    for shift, searches in ((0.0, 1), (0.1, 1), (0.1, 1), (0.1, 2), (-0.2, 2)):
        atoms.positions[3, 1] += shift
        evaluator.predict(atoms)
        assert evaluator.searches == searches
    changes: list[Callable[[], object]] = [
        lambda: atoms.set_cell(atoms.cell.array * 1.0001),
        lambda: setattr(atoms, "pbc", (True, True, False)),
        lambda: atoms.numbers.__setitem__(0, 1),
        lambda: atoms.append(Atom("H", (0.4, 0.9, 1.1))),
    ]
    for count, change in enumerate(changes, start=3):
        change()
        evaluator.predict(atoms)
        evaluator.predict(atoms)
        assert evaluator.searches == count


def test_a_structure_that_was_refused_leaves_nothing_behind() -> None:
    model = _model()
    evaluator = Evaluator(model, source="s")
    atoms = molecule("H2O")
    evaluator.predict(atoms)
    broken = atoms.copy()
    broken.positions[0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        evaluator.predict(broken)
    with pytest.raises(ValueError, match=r"no reference energy for N"):
        evaluator.predict(molecule("NH3"))
    with pytest.raises(ValueError, match="two of its atoms coincide"):
        evaluator.predict(Atoms("O2", np.zeros((2, 3))))
    _assert_same(model, evaluator, atoms, 1e-12)


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda evaluator: pickle.loads(pickle.dumps(evaluator))],
    ids=["deepcopy", "pickle"],
)
@pytest.mark.parametrize("forces", FORCES)
def test_copies_do_not_compute_in_the_memory_of_what_they_were_copied_from(
    forces: str, copied: Callable[[Evaluator], Evaluator]
) -> None:
    # Methods of tensors, which steps are written down as, stay those of the first tensors.
    model = _model(forces=forces)
    evaluator = Evaluator(model, source="s")
    first, second = MGO.copy(), MGO.copy()
    second.rattle(0.1, seed=0)
    evaluator.predict(first)
    another = copied(evaluator)
    for _ in range(2):
        _assert_same(model, another, second, 1e-12)
        _assert_same(model, evaluator, first, 1e-12)


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dynamics_follow_fresh_predictions(dtype: torch.dtype, tmp_path: Path) -> None:
    # Hot enough that neighbours come and go, and that the list is searched again on the way.
    model = _model(dtype=dtype)
    state = model.network.state_dict()
    save_model(
        tmp_path / "model.pt",
        state={name: state[name] for name in state if not name.startswith("heads.b.")},
        settings=model.settings,
        branches={"a": ("s",)},
        references=REFERENCES,
        level_of_theory={"s": "PBE"},
        training={},
    )
    atoms = MGO.repeat((2, 1, 1))
    atoms.calc = calculator = mtlpar.Calculator(tmp_path / "model.pt", source="s")
    rng = np.random.default_rng(0)
    masses = atoms.get_masses()[:, None]
    atoms.set_momenta(np.sqrt(masses * units.kB * 3000) * rng.normal(size=(len(atoms), 3)))
    dynamics = VelocityVerlet(atoms, timestep=1.0 * units.fs)
    assert dtype == next(calculator.model.network.parameters()).dtype
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    edges = set()
    for _ in range(20):
        dynamics.run(3)
        (expected,) = calculator.model.predict([atoms], source="s")
        np.testing.assert_allclose(atoms.get_forces(), expected.forces, atol=tolerance)
        edges.add(round(float(np.abs(expected.forces).sum()), 6))
    assert len(edges) == 20
    assert 2 <= calculator.evaluator.searches <= 20


@pytest.mark.parametrize(
    ("block_edges", "kept_bytes"), [(4096, 2**28), (40, 2**28), (40, 0), (1, 0)]
)
def test_the_gradient_written_out_is_that_of_autograd(
    monkeypatch: pytest.MonkeyPatch, block_edges: int, kept_bytes: int
) -> None:
    # In one block, in several, and with messages that are computed again as in large crystals.
    monkeypatch.setattr(inference, "_BLOCK_EDGES", block_edges)
    monkeypatch.setattr(steps, "_KEPT_BYTES", kept_bytes)
    network = make_network(layers=3).double()
    encoder, branch = network.encoder, network.heads["a"]
    assert isinstance(encoder, EgnnEncoder)
    assert isinstance(branch, Branch)
    branch.energy_scale.fill_(1.7)
    torch.manual_seed(0)
    z = torch.randint(1, 9, (7,))
    # Atoms with many neighbours, few and none.
    receiver = torch.tensor([0] * 9 + [1] * 2 + [2] + [4] * 6 + [6] * 3)
    sender = torch.randint(0, 7, (len(receiver),))
    vector = 1.5 * torch.randn(3, len(receiver), dtype=torch.float64, requires_grad=True)
    scalars = encoder.species(z).detach()
    edge_index = torch.stack([sender, receiver])
    atoms = encoder.encode(scalars, z, edge_index, vector.T)
    energies = branch.atom_energies(atoms)
    (gradient,) = torch.autograd.grad(energies.sum(), vector)
    engine = EgnnInference(encoder, branch)
    for _ in range(2):
        # A second time, in memory that has been written to.
        arguments = (scalars, z, edge_index, vector.detach())
        found = engine.energies_and_gradient(*arguments)
        torch.testing.assert_close(found.energies, energies.detach(), rtol=0, atol=1e-13)
        torch.testing.assert_close(found.gradient, gradient, rtol=0, atol=1e-12)
        torch.testing.assert_close(found.scalars, atoms.scalars.detach(), rtol=0, atol=1e-12)
        for ours, theirs in zip(engine.features(*arguments), atoms, strict=True):
            torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=1e-12)
    assert gradient.abs().max() > 1e-3


@pytest.mark.parametrize("forces", FORCES)
@pytest.mark.parametrize(
    "mode",
    [
        pytest.param(lambda: torch.inference_mode(), id="inference"),
        pytest.param(lambda: torch.no_grad(), id="no gradients"),
        pytest.param(lambda: torch.autocast("cpu", dtype=torch.bfloat16), id="autocast"),
    ],
)
def test_modes_of_the_callers_program_change_no_digit(
    forces: str, mode: Callable[[], AbstractContextManager[None]]
) -> None:
    # A program of one's own may hold any: the first costs the gradient, the last three digits.
    model = _model(forces=forces, dtype=torch.float32)
    one = Evaluator(model, source="s").predict(MGO)
    several = model.predict([MGO], source="s")[0]
    with mode():
        again = Evaluator(model, source="s").predict(MGO)
        several_again = model.predict([MGO], source="s")[0]
    assert again.energy == one.energy
    np.testing.assert_array_equal(again.forces, one.forces)
    assert several_again.energy == several.energy
    np.testing.assert_array_equal(several_again.forces, several.forces)
