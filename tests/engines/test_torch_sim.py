"""The adapter for torch-sim says what the calculator says, and its simulations conserve."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from networks import ENCODERS
from rattled import (
    assert_as_calculator,
    assert_relaxed,
    expected,
    out_of_balance,
    rattled,
    write_model,
)

pytestmark = pytest.mark.filterwarnings("ignore")
torch_sim = pytest.importorskip("torch_sim", reason="torch-sim-atomistic is not installed")

from torch_sim.models.interface import validate_model_outputs  # noqa: E402

from mtlpar.engines.torch_sim import TorchSimModel  # noqa: E402

CPU = torch.device("cpu")
EXTRAS = {"charge": "charge", "spin": "spin"}


def _state(structures: list[Atoms], **options: object) -> torch_sim.SimState:
    options = {"system_extras_map": EXTRAS, **options}
    return torch_sim.io.atoms_to_state(structures, CPU, torch.float64, **options)


def _batches(structures: dict[str, Atoms]) -> list[list[str]]:
    """Names of structures by periodicity, which torch-sim has one of for a state."""
    by_pbc: dict[tuple[bool, ...], list[str]] = {}
    for name, atoms in structures.items():
        by_pbc.setdefault(tuple(atoms.pbc), []).append(name)
    return list(by_pbc.values())


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("charge_and_spin", [False, True])
def test_batches_say_what_the_calculator_says(
    encoder: str, charge_and_spin: bool, tmp_path: Path
) -> None:
    path = write_model(tmp_path, encoder=encoder, charge_and_spin=charge_and_spin)
    structures = rattled()
    if not charge_and_spin:
        del structures["charged"]
    model = TorchSimModel(path, source="pbe")
    batches = _batches(structures)
    assert max(map(len, batches)) > 2
    # All of a periodicity together, in both orders, and each alone, which goes another way.
    orders = [*batches, *(names[::-1] for names in batches), *([name] for name in structures)]
    for names in orders:
        chosen = [structures[name] for name in names]
        assert_as_calculator(path, chosen, model(_state(chosen)))


def test_it_passes_their_test_of_conformance(tmp_path: Path) -> None:
    for forces in ("conservative", "equivariant"):
        path = write_model(tmp_path, forces=forces)
        validate_model_outputs(TorchSimModel(path, source="pbe"), CPU, torch.float64)


def test_weights_in_float32_do_not_cost_digits_of_the_total_energy(tmp_path: Path) -> None:
    path = write_model(tmp_path, dtype=torch.float32)
    # The references add up to 10^6 eV, of which float32 resolves 0.06.
    iron = bulk("Fe", "bcc", a=2.9, cubic=True).repeat((2, 2, 4))
    iron.rattle(0.05, seed=1)
    found = TorchSimModel(path, source="pbe")(_state([iron]))
    assert found["energy"].dtype == torch.float64
    assert found["energy"].item() == pytest.approx(expected(path, iron)["energy"], abs=1e-6)


@pytest.mark.parametrize("left", ["charge", "spin"])
def test_a_state_without_charge_or_spin_is_refused_where_the_model_needs_them(
    left: str, tmp_path: Path
) -> None:
    model = TorchSimModel(write_model(tmp_path, charge_and_spin=True), source="pbe")
    state = _state([rattled()["charged"]], system_extras_map={left: left})
    (missing,) = {"charge", "spin"} - {left}
    with pytest.raises(ValueError, match=f"the state has no {missing}: pass system_extras_map"):
        model(state)


def test_a_charge_that_the_model_does_not_know_about_is_refused(tmp_path: Path) -> None:
    model = TorchSimModel(write_model(tmp_path), source="pbe")
    with pytest.raises(ValueError, match="does not know about charge and spin"):
        model(_state([rattled()["charged"]]))


def test_an_element_that_the_source_lacks_is_refused(tmp_path: Path) -> None:
    model = TorchSimModel(write_model(tmp_path), source="hybrid")
    with pytest.raises(ValueError, match="no reference energy for Fe"):
        model(_state([bulk("Fe")]))


def test_a_state_in_float32_is_refused(tmp_path: Path) -> None:
    model = TorchSimModel(write_model(tmp_path), source="pbe")
    state = torch_sim.io.atoms_to_state([bulk("Fe")], CPU, torch.float32)
    with pytest.raises(ValueError, match="total energies have more digits"):
        model(state)


def test_periodicities_of_single_structures_are_refused(tmp_path: Path) -> None:
    # torch-sim takes them and gives a slice of the state those of other structures.
    model = TorchSimModel(write_model(tmp_path), source="pbe")
    state = _state([bulk("Fe"), bulk("Mg")])
    state.pbc = torch.tensor([[True] * 3, [True, True, False]])
    with pytest.raises(ValueError, match="make a state for each periodicity"):
        model(state)


def test_direct_forces_have_no_stress(tmp_path: Path) -> None:
    model = TorchSimModel(write_model(tmp_path, forces="equivariant"), source="pbe")
    assert not model.compute_stress
    assert "stress" not in model(_state([bulk("Fe")]))


def test_nve_in_batches_conserves_energy(tmp_path: Path) -> None:
    model = TorchSimModel(write_model(tmp_path, scale=60.0), source="pbe")
    totals, potentials = [], []
    state = torch_sim.nve_init(_state(out_of_balance()), model, kT=torch.tensor(0.1))
    # A femtosecond; a step by hand is in Å (u/eV)^(1/2), of which a picosecond is 98.
    dt = torch.tensor(0.001 * torch_sim.units.MetalUnits.time)
    for _ in range(50):
        state = torch_sim.nve_step(state, model, dt=dt)
        kinetic = torch_sim.calc_kinetic_energy(
            masses=state.masses, momenta=state.momenta, system_idx=state.system_idx
        )
        totals.append((state.energy + kinetic).numpy())
        potentials.append(state.energy.numpy())
    moved, exchanged = np.ptp(totals, axis=0), np.ptp(potentials, axis=0)
    assert (exchanged > 1e-2).all(), exchanged
    assert (moved < 0.05 * exchanged).all(), moved


def test_a_relaxation_with_cell_ends_where_the_calculator_finds_rest(tmp_path: Path) -> None:
    path = write_model(tmp_path, scale=60.0)
    structures = out_of_balance()
    state = torch_sim.optimize(
        _state(structures),
        TorchSimModel(path, source="pbe"),
        optimizer=torch_sim.Optimizer.fire,
        convergence_fn=torch_sim.generate_force_convergence_fn(0.01, include_cell_forces=True),
        init_kwargs={"cell_filter": torch_sim.CellFilter.frechet},
        max_steps=2000,
    )
    assert_relaxed(path, structures, torch_sim.io.state_to_atoms(state))
