"""The adapter for the ALCHEMI Toolkit says what the calculator says; atoms move as in ASE."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from networks import ENCODERS
from rattled import (
    assert_as_calculator,
    assert_relaxed,
    expected,
    out_of_balance,
    rattled,
    write_model,
)

import mtlpar

pytestmark = pytest.mark.filterwarnings("ignore")
pytest.importorskip("nvalchemi", reason="nvalchemi-toolkit is not installed")

from nvalchemi.data import AtomicData, Batch  # noqa: E402
from nvalchemi.dynamics import NVE, ConvergenceHook  # noqa: E402
from nvalchemi.dynamics.hooks import AlignCellHook  # noqa: E402
from nvalchemi.dynamics.optimizers import LBFGSVariableCell  # noqa: E402
from nvalchemi.models._utils import validate_contribution  # noqa: E402

from mtlpar.engines.nvalchemi import NvalchemiModel, to_batch  # noqa: E402


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("charge_and_spin", [False, True])
def test_batches_say_what_the_calculator_says(
    encoder: str, charge_and_spin: bool, tmp_path: Path
) -> None:
    path = write_model(tmp_path, encoder=encoder, charge_and_spin=charge_and_spin)
    structures = rattled()
    if not charge_and_spin:
        del structures["charged"]
    model = NvalchemiModel(path, source="pbe")
    names = list(structures)
    # All together in both orders, of which one starts with a molecule, whose fields the toolkit
    # would give all others; and each alone, which goes another way.
    assert not structures[names[0]].pbc.any()
    assert structures["crystal"].pbc.all()
    for order in (names, names[::-1], *([name] for name in names)):
        chosen = [structures[name] for name in order]
        assert_as_calculator(path, chosen, model(to_batch(chosen)))


def test_outputs_have_the_shapes_that_the_toolkit_checks(tmp_path: Path) -> None:
    batch = to_batch([bulk("Mg"), bulk("Fe"), bulk("MgO", "rocksalt", a=4.2)])
    for forces in ("conservative", "equivariant"):
        model = NvalchemiModel(write_model(tmp_path, forces=forces), source="pbe")
        validate_contribution(model(batch), num_atoms=batch.num_nodes, num_graphs=3)


def test_what_is_not_active_is_not_answered(tmp_path: Path) -> None:
    model = NvalchemiModel(write_model(tmp_path), source="pbe")
    with model.narrowed_outputs({"energy"}):
        assert set(model(to_batch([bulk("Mg")]))) == {"energy"}


def test_weights_in_float32_do_not_cost_digits_of_the_total_energy(tmp_path: Path) -> None:
    path = write_model(tmp_path, dtype=torch.float32)
    # The references add up to 10^6 eV, of which float32 resolves 0.06.
    iron = bulk("Fe", "bcc", a=2.9, cubic=True).repeat((2, 2, 4))
    iron.rattle(0.05, seed=1)
    found = NvalchemiModel(path, source="pbe")(to_batch([iron]))
    assert found["energy"].item() == pytest.approx(expected(path, iron)["energy"], abs=1e-6)


@pytest.mark.parametrize("missing", ["charge", "spin"])
def test_a_batch_without_charge_or_spin_is_refused_where_the_model_needs_them(
    missing: str, tmp_path: Path
) -> None:
    model = NvalchemiModel(write_model(tmp_path, charge_and_spin=True), source="pbe")
    charged = rattled()["charged"]
    del charged.info[missing]
    with pytest.raises(ValueError, match=f"the state has no {missing}: have both in the info"):
        model(to_batch([charged]))


def test_charges_of_some_structures_only_are_refused() -> None:
    # The toolkit drops them, or says that the batch is broken, depending on which comes first.
    with pytest.raises(ValueError, match="structure 0 states no charge and structure 1 does"):
        to_batch([bulk("Fe"), rattled()["charged"]])


def test_a_charge_that_the_model_does_not_know_about_is_refused(tmp_path: Path) -> None:
    model = NvalchemiModel(write_model(tmp_path), source="pbe")
    with pytest.raises(ValueError, match="does not know about charge and spin"):
        model(to_batch([rattled()["charged"]]))


def test_an_element_that_the_source_lacks_is_refused(tmp_path: Path) -> None:
    model = NvalchemiModel(write_model(tmp_path), source="hybrid")
    with pytest.raises(ValueError, match="no reference energy for Fe"):
        model(to_batch([bulk("Fe")]))


def test_a_batch_in_which_a_crystal_lost_its_cell_is_refused(tmp_path: Path) -> None:
    model = NvalchemiModel(write_model(tmp_path), source="pbe")
    rows = [
        AtomicData.from_atoms(atoms, dtype=torch.float64) for atoms in (molecule("H2O"), bulk("Mg"))
    ]
    with pytest.raises(ValueError, match="the batch has no cell and no pbc"):
        model(Batch.from_data_list(rows))


def test_a_batch_in_float32_is_refused(tmp_path: Path) -> None:
    model = NvalchemiModel(write_model(tmp_path), source="pbe")
    # Their default.
    batch = Batch.from_data_list([AtomicData.from_atoms(bulk("Fe"))])
    with pytest.raises(ValueError, match="total energies have more digits"):
        model(batch)


def test_direct_forces_have_no_stress(tmp_path: Path) -> None:
    model = NvalchemiModel(write_model(tmp_path, forces="equivariant"), source="pbe")
    assert set(model(to_batch([bulk("Fe")]))) == {"energy", "forces"}


def test_nve_of_a_mixed_batch_goes_where_ase_goes(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    structures = rattled()
    # Of one structure alone, tensors could share the memory of its arrays and move it.
    for names in (["molecule", "slab", "crystal"], ["crystal"]):
        chosen = [structures[name] for name in names]
        for seed, atoms in enumerate(chosen):
            # Masses that are not the elements', and velocities, which their conversion drops.
            atoms.set_masses(atoms.get_masses() + 1)
            MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=np.random.default_rng(seed))
        before = [atoms.positions.copy() for atoms in chosen]
        model = NvalchemiModel(path, source="pbe")
        batch = NVE(model, dt=0.5, n_steps=20).run(to_batch(chosen))
        ends = np.cumsum([len(atoms) for atoms in chosen])[:-1]
        for atoms, start, end in zip(
            chosen, before, np.split(batch.positions.numpy(), ends), strict=True
        ):
            np.testing.assert_array_equal(atoms.positions, start)
            atoms.calc = mtlpar.Calculator(path, source="pbe")
            VelocityVerlet(atoms, timestep=0.5 * units.fs).run(20)
            assert np.abs(atoms.positions - start).max() > 0.01
            # Their femtosecond is that of newer constants.
            np.testing.assert_allclose(end, atoms.positions, atol=1e-6)


def test_a_relaxation_with_cell_ends_where_the_calculator_finds_rest(tmp_path: Path) -> None:
    path = write_model(tmp_path, scale=60.0)
    structures = out_of_balance()
    at_rest = [
        {"key": "forces", "threshold": 0.01, "reduce_op": "norm", "reduce_dims": -1},
        {"key": "stress", "threshold": 1e-3, "reduce_op": "norm", "reduce_dims": (-2, -1)},
    ]
    optimizer = LBFGSVariableCell(
        NvalchemiModel(path, source="pbe"),
        n_steps=200,
        hooks=[AlignCellHook()],
        convergence_hook=ConvergenceHook(criteria=at_rest),
    )
    rows = optimizer.run(to_batch(structures)).to_data_list()
    assert optimizer.step_count < 200
    ends = [
        Atoms(row.atomic_numbers, row.positions, cell=row.cell[0].numpy(), pbc=True) for row in rows
    ]
    assert_relaxed(path, structures, ends)


def test_structures_can_be_read_back_with_what_they_state() -> None:
    charged = rattled()["charged"]
    left_handed = Atoms("Mg", cell=[[0, 4, 0], [4, 0, 0], [0, 0, 4]], pbc=True, info=charged.info)
    rows = to_batch([charged, left_handed]).to_data_list()
    assert (rows[0].charge.item(), rows[0].spin.item()) == (-1, 1)
    np.testing.assert_array_equal(rows[1].cell[0].numpy(), left_handed.cell.array)
