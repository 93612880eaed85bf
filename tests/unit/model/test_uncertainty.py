"""The uncertainty of an energy: one number wherever it is asked for, and the formula's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.singlepoint import SinglePointCalculator
from ase.optimize import BFGS
from networks import ENCODERS, FORCES, edit_model, make_network, make_uncertainty

import mtlpar
from mtlpar.core.references import References
from mtlpar.model import predict
from mtlpar.model.evaluator import Evaluator
from mtlpar.model.file import load_model, save_model
from mtlpar.model.inference import ByAutograd
from mtlpar.model.saved import SavedModel
from mtlpar.model.uncertainty import BranchUncertainty, name_unseen_pairs

REFERENCES = {name: References({"H": -13.6, "C": -1029.4, "O": -2041.8}) for name in "st"}


def model_of(
    encoder: str = "egnn", forces: str = "conservative", energy: str = "sum"
) -> SavedModel:
    network = make_network(encoder, forces, energy).double().eval()
    return SavedModel(
        network=network,
        settings=network.settings,
        branches={"a": ("s",), "b": ("t",)},
        references=REFERENCES,
        level_of_theory=dict.fromkeys("st", "PBE"),
        uncertainty={"a": make_uncertainty(network, "s")},
    )


def saved(model: SavedModel, path: Path) -> Path:
    save_model(
        path,
        state=model.network.state_dict(),
        settings=model.settings,
        branches=model.branches,
        references=model.references,
        level_of_theory=model.level_of_theory,
        training=model.training,
        uncertainty=model.uncertainty,
    )
    return path


def deviation(model: SavedModel, atoms: Atoms) -> float:
    (found,) = model.predict([atoms], source="s", uncertainty=True)
    assert found.energy_uncertainty is not None
    return found.energy_uncertainty


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("forces", FORCES)
@pytest.mark.parametrize("energy", ["sum", "mean"])
def test_batches_and_single_structures_have_the_one_of_the_formula(
    encoder: str, forces: str, energy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(encoder, forces, energy)
    structures = [molecule("CH3OH"), molecule("H2O"), Atoms("O")]
    found = model.predict(structures, source="s", uncertainty=True, descriptors=True)
    evaluator = Evaluator(model, source="s")
    known = model.uncertainty["a"]
    inverse = np.linalg.inv(known.covariance + known.regulariser * np.eye(len(known.covariance)))
    head = model.network.heads["a"]
    for atoms, one in zip(structures, found, strict=True):
        # What enters the last layer, as a hook sees it.
        given: list[torch.Tensor] = []
        hook = head.energy[-1].register_forward_hook(lambda _, inputs, __: given.append(inputs[0]))  # type: ignore[union-attr,operator]  # noqa: B023
        with monkeypatch.context() as patch:
            patch.setattr(predict, "inference_of", ByAutograd)
            model.predict([atoms], source="s")
        hook.remove()
        phi = np.append(given[0].detach().numpy().mean(axis=0), 1.0)
        phi = phi / len(atoms) if energy == "mean" else phi
        expected = len(atoms) * known.factor * np.sqrt(phi @ inverse @ phi)
        assert one.energy_uncertainty == pytest.approx(expected, rel=1e-9)
        assert evaluator.predict(atoms).energy_uncertainty == pytest.approx(expected, rel=1e-9)
        assert one.descriptors is not None
        assert one.descriptors.shape == (16,)


def test_the_energy_is_linear_in_the_features() -> None:
    model = model_of("egnn", "equivariant")
    given: list[torch.Tensor] = []
    head = model.network.heads["a"]
    water = molecule("H2O")
    hook = head.energy[-1].register_forward_hook(lambda _, inputs, __: given.append(inputs[0]))  # type: ignore[union-attr,operator]
    (found,) = model.predict([water], source="s")
    hook.remove()
    phi = np.append(given[0].detach().numpy().mean(axis=0), 1.0)
    energy = 3 * phi @ head.last_layer().numpy()  # type: ignore[operator]
    references = REFERENCES["s"].energies_ev
    total = energy + 2 * references["H"] + references["O"]
    assert found.energy == pytest.approx(total, abs=1e-9)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_it_does_not_change_with_rotation_order_or_origin(encoder: str) -> None:
    model, atoms = model_of(encoder), molecule("CH3OH")
    expected = deviation(model, atoms)
    moved = atoms.copy()
    moved.rotate(37, (1, 2, 3))
    moved.positions += [3.0, -5.0, 7.0]
    moved = moved[[4, 0, 2, 5, 1, 3]]
    assert deviation(model, moved) == pytest.approx(expected, rel=1e-9)


def test_a_supercell_has_as_much_more_as_it_has_atoms() -> None:
    # Errors of the same atoms in the same surroundings are the same, not independent.
    model, crystal = model_of(), bulk("CO", "rocksalt", a=4.0)
    crystal.rattle(0.05, seed=1)
    assert deviation(model, crystal.repeat((2, 1, 1))) == pytest.approx(
        2 * deviation(model, crystal), rel=1e-9
    )


def test_the_calculator_gives_it_as_a_result_and_by_name(tmp_path: Path) -> None:
    model = model_of()
    path = saved(model, tmp_path / "model.pt")
    atoms = molecule("H2O")
    atoms.calc = mtlpar.Calculator(path, source="s")
    expected = deviation(model, atoms)
    atoms.get_potential_energy()
    assert atoms.calc.results["energy_uncertainty"] == pytest.approx(expected, rel=1e-9)
    assert atoms.calc.get_property("energy_uncertainty", atoms) == pytest.approx(expected)
    # What ASE does with results it does not know.
    BFGS(atoms, logfile=None, trajectory=str(tmp_path / "path.traj")).run(steps=2)
    ase.io.write(tmp_path / "out.extxyz", atoms)
    SinglePointCalculator(atoms, energy=atoms.get_potential_energy())
    assert len(ase.io.read(tmp_path / "path.traj", ":")) >= 1


def test_where_it_is_not_known_the_reason_is_told(tmp_path: Path) -> None:
    model = model_of()
    model.training["no_uncertainty"] = {"t": "its data have no energies"}
    path = saved(model, tmp_path / "model.pt")
    found = load_model(path)
    assert found.uncertainty_of("t") is None
    assert found.no_uncertainty_because("s") is None
    with pytest.raises(ValueError, match="is not known: its data have no energies"):
        found.predict([molecule("H2O")], source="t", uncertainty=True)
    calculator = mtlpar.Calculator(path, source="t")
    atoms = molecule("H2O")
    atoms.calc = calculator
    assert "energy_uncertainty" not in (atoms.get_forces() is not None and calculator.results)
    with pytest.raises(PropertyNotImplementedError, match="energies of t may be is not known"):
        calculator.get_property("energy_uncertainty", atoms)


def test_a_file_of_an_earlier_version_says_that_it_lacks_it(tmp_path: Path) -> None:
    path = saved(model_of(), tmp_path / "model.pt")
    edit_model(path, lambda content: content.pop("uncertainty"))
    model = load_model(path)
    assert model.predict([molecule("H2O")], source="s")[0].energy_uncertainty is None
    assert "a version that did not measure it" in (model.no_uncertainty_because("s") or "")


def test_a_file_keeps_it_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    model = model_of()
    path = saved(model, tmp_path / "model.pt")
    found = load_model(path).uncertainty["a"]
    assert isinstance(found, BranchUncertainty)
    assert deviation(load_model(path), molecule("H2O")) == deviation(model, molecule("H2O"))
    edit_model(path, lambda content: moments_of(content)[0, 0].fill_(torch.nan))
    with pytest.raises(
        ValueError, match=r"not a complete model file: uncertainty\.a\.sources\.s.*finite"
    ):
        load_model(path)


def test_the_digest_of_the_file_covers_it(tmp_path: Path) -> None:
    path = saved(model_of(), tmp_path / "model.pt")
    content = torch.load(path, weights_only=True)
    moments_of(content)[0, 0] += 1e-9
    torch.save(content, path)
    with pytest.raises(ValueError, match="digest"):
        load_model(path)


def moments_of(content: dict[str, Any]) -> torch.Tensor:
    moments: torch.Tensor = content["uncertainty"]["a"]["sources"]["s"]["moments"]
    return moments


@pytest.mark.parametrize(
    ("formula", "unseen"),
    [
        ("CH4", ()),
        ("CHNO", ("N-O",)),
        # Its pairs are unseen too, and say no more.
        ("CHS", ("S",)),
        ("S8", ("S",)),
    ],
)
def test_pairs_and_elements_that_were_never_seen_are_named(
    formula: str, unseen: tuple[str, ...]
) -> None:
    together = np.zeros((119, 119), np.bool_)
    for structure in ("CHO", "CHN"):
        numbers = Atoms(structure).numbers
        together[np.ix_(numbers, numbers)] = True
    assert name_unseen_pairs(Atoms(formula).numbers, together) == unseen
