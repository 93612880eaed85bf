"""A branch that metatomic reads says what the calculator says, and what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import bulk
from networks import ENCODERS
from rattled import expected, rattled, write_model

import mtlpar
from mtlpar.cli import main

pytestmark = pytest.mark.filterwarnings("ignore")
metatomic_ase = pytest.importorskip("metatomic_ase", reason="metatomic-ase is not installed")

from metatensor.torch import Labels  # noqa: E402
from metatomic.torch import ModelOutput, load_atomistic_model, read_model_metadata  # noqa: E402

from mtlpar.engines.metatomic import export  # noqa: E402


def _exported(path: Path, source: str = "pbe") -> Path:
    out = path.with_suffix(f".{source}.pt")
    export(mtlpar.load_model(path), source, out, model_file=path)
    return out


def _calculator(path: Path, source: str = "pbe") -> metatomic_ase.MetatomicCalculator:
    return metatomic_ase.MetatomicCalculator(
        str(path), variants={"energy": source}, check_consistency=True
    )


@pytest.mark.parametrize(
    ("encoder", "options", "dtype"),
    [
        *((encoder, {"charge_and_spin": True}, torch.float64) for encoder in ENCODERS),
        ("egnn", {"energy": "mean"}, torch.float64),
        ("egnn", {"energy": "mean", "isolated_atoms": "reference"}, torch.float64),
        ("egnn", {}, torch.float32),
    ],
)
def test_it_says_what_the_calculator_says(
    encoder: str, options: dict[str, Any], dtype: torch.dtype, tmp_path: Path
) -> None:
    path = write_model(tmp_path, encoder=encoder, dtype=dtype, **options)
    calculator = _calculator(_exported(path))
    structures = rattled()
    if not options.get("charge_and_spin"):
        del structures["charged"]
    # Forces in float32 are of some eV/Å, with seven digits.
    tolerance = 1e-6 if dtype == torch.float64 else 5e-6
    for name, atoms in structures.items():
        right = expected(path, atoms)
        atoms.calc = calculator
        found = atoms.get_potential_energy()
        assert found == pytest.approx(right["energy"], abs=tolerance), name
        np.testing.assert_allclose(atoms.get_forces(), right["forces"], atol=tolerance)
        if "stress" in right:
            stress = atoms.get_stress(voigt=False)
            np.testing.assert_allclose(stress, right["stress"], atol=tolerance)


def test_atoms_of_many_structures_are_told_apart(tmp_path: Path) -> None:
    # The mean knows how many atoms each structure has.
    path = write_model(tmp_path, energy="mean")
    structures = [atoms for name, atoms in rattled().items() if name != "charged"]
    found = _calculator(_exported(path)).compute_energy(
        structures, compute_forces_and_stresses=False
    )
    right = [expected(path, atoms)["energy"] for atoms in structures]
    np.testing.assert_allclose(found["energy"], right, atol=1e-6)


def test_a_branch_is_asked_for_by_name(tmp_path: Path) -> None:
    path, atoms = write_model(tmp_path), rattled()["molecule"]
    for source in ("pbe", "hybrid"):
        exported = _exported(path, source)
        assert list(load_atomistic_model(str(exported)).capabilities().outputs) == [
            f"energy/{source}"
        ]
        with pytest.raises(ValueError, match="no default variant"):
            metatomic_ase.MetatomicCalculator(str(exported))
        atoms.calc = _calculator(exported, source)
        right = expected(path, atoms, source)["energy"]
        assert atoms.get_potential_energy() == pytest.approx(right, abs=1e-6)


def test_energies_of_chosen_atoms_are_those_of_the_calculator(tmp_path: Path) -> None:
    path, atoms = write_model(tmp_path), rattled()["crystal"]
    chosen = Labels(["system", "atom"], torch.tensor([[0, 2], [0, 0]], dtype=torch.int32))
    output = {"energy/pbe": ModelOutput(unit="eV", sample_kind="atom")}
    found = _calculator(_exported(path)).run_model([atoms], output, selected_atoms=chosen)
    block = found["energy/pbe"].block()
    atoms.calc = mtlpar.Calculator(path, source="pbe")
    right = atoms.get_potential_energies()
    for (_, atom), value in zip(block.samples.values.tolist(), block.values.tolist(), strict=True):
        assert value[0] == pytest.approx(right[atom], abs=1e-6)
    assert len(block.values) == 2


def test_an_element_that_the_source_lacks_is_refused(tmp_path: Path) -> None:
    atoms = bulk("Fe")
    atoms.calc = _calculator(_exported(write_model(tmp_path), "hybrid"), "hybrid")
    with pytest.raises(Exception, match="does not support the atomic type '26'"):
        atoms.get_potential_energy()


def test_the_file_says_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_model(tmp_path)
    arguments = ["--source", "hybrid", "--format", "metatomic", "--out", str(tmp_path)]
    assert main(["convert", str(path), *arguments]) == 0
    digest = mtlpar.load_model(path).digest
    exported = tmp_path / f"rattled.hybrid.PBE0.{digest[:8]}.metatomic.pt"
    assert str(exported) in capsys.readouterr().out
    said = read_model_metadata(str(exported)).extra
    assert said["level_of_theory"] == "PBE0"
    assert said["branch"] == "b"
    assert said["model_digest"] == digest
    assert '"H": -11.0' in said["references_ev"]


def test_what_an_engine_would_use_wrongly_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="an engine differentiates energies"):
        _exported(write_model(tmp_path, forces="equivariant"))
