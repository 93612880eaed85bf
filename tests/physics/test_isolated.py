"""With `isolated_atoms: reference` an atom alone has its reference energy, and nothing jumps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from networks import ELEMENTS, ENCODERS, FORCES, make_network
from pydantic import ValidationError
from rattled import REFERENCES, write_model

import mtlpar
from mtlpar.check.subject import Subject, subject_of
from mtlpar.core.ase_structures import structure_batch
from mtlpar.graph.collate import collate
from mtlpar.model.multitask import MultiTaskModel, Segment
from mtlpar.model.settings import ModelSettings

CUTOFF = 5.0


def _subject(encoder: str, forces: str, isolated: str, dtype: torch.dtype) -> Subject:
    network = make_network(encoder, forces, isolated_atoms=isolated)
    return subject_of(network, "a", elements=ELEMENTS, dtype=dtype)


@pytest.mark.filterwarnings("ignore::mtlpar.calculator.DirectForcesWarning")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("forces", FORCES)
def test_the_calculator_gives_an_atom_alone_its_reference_energy(
    encoder: str, forces: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    path = write_model(
        tmp_path, encoder=encoder, forces=forces, dtype=dtype, isolated_atoms="reference"
    )
    calculator = mtlpar.Calculator(path, source="pbe")
    for symbol in ("H", "C", "O", "Fe"):
        alone = Atoms(symbol, calculator=calculator)
        # Of random weights others are eV away: targets of this branch have a size of 6 eV.
        assert alone.get_potential_energy() == pytest.approx(REFERENCES[symbol], abs=1e-5)
    apart = Atoms("HC", [[0, 0, 0], [0, 0, CUTOFF]], calculator=calculator)
    expected = REFERENCES["H"] + REFERENCES["C"]
    assert apart.get_potential_energy() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("forces", FORCES)
def test_the_energy_goes_to_zero_as_the_last_neighbour_leaves(encoder: str, forces: str) -> None:
    subject = _subject(encoder, forces, "reference", torch.float64)
    before = np.array([0.4, 0.2, 0.1, 0.05, 0.01, 1e-4])
    pairs = [Atoms("CO", [[0, 0, 0], [0, 0, CUTOFF - gap]]) for gap in before]
    energies = [abs(subject.energy(atoms)) for atoms in pairs]
    assert abs(subject.energy(Atoms("CO", [[0, 0, 0], [0, 0, CUTOFF]]))) < 1e-15
    assert energies[0] > 1e-6
    # The envelope is zero there with two derivatives: an energy shrinks with the third power.
    assert energies[3] < energies[1] / 30
    assert energies[-1] < 1e-12


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("forces", FORCES)
def test_what_is_learned_changes_by_a_constant_of_each_element_alone(
    encoder: str, forces: str
) -> None:
    # The same weights: forces and differences of isomers are those of a model without the zero.
    with_zero, without = (
        _subject(encoder, forces, isolated, torch.float64) for isolated in ("reference", "learned")
    )
    alone = {z: without.energy(Atoms([z])) for z in ELEMENTS}
    assert min(abs(energy) for energy in alone.values()) > 1e-3
    for name in ("CH3CH2OH", "CH3OCH3", "H2O"):
        atoms = molecule(name)
        shift = sum(alone[z] for z in atoms.numbers)
        expected = without.energy(atoms) - shift
        assert with_zero.energy(atoms) == pytest.approx(expected, abs=1e-9)
        np.testing.assert_allclose(
            with_zero.predict([atoms]).forces, without.predict([atoms]).forces, atol=1e-12
        )


@pytest.mark.parametrize("forces", FORCES)
def test_training_moves_the_zero_too(forces: str) -> None:
    # A zero without gradient would let the bias of the energy head run after itself: the energy of
    # a molecule does not depend on it, so its gradient has to vanish.
    network = make_network("egnn", forces, isolated_atoms="reference").double()

    def energy() -> torch.Tensor:
        batch = collate(
            structure_batch([molecule("CH3OH")]), network.settings.graph, dtype=torch.float64
        )
        return network(batch, [Segment("a", 0, 1)]).energy_per_atom.sum()

    energy().backward()
    head = network.heads["a"].energy
    assert head[-1].bias.grad.abs() < 1e-12
    _assert_slope(network, energy)


def _assert_slope(network: MultiTaskModel, energy) -> None:
    weights = [weight for weight in network.parameters() if weight.grad is not None]
    generator = torch.Generator().manual_seed(0)
    direction = [torch.randn(w.shape, generator=generator, dtype=w.dtype) for w in weights]
    slope = sum((w.grad * d).sum() for w, d in zip(weights, direction, strict=True))
    values = []
    for step in (1e-5, -2e-5):
        with torch.no_grad():
            for weight, along in zip(weights, direction, strict=True):
                weight += step * along
        values.append(energy().detach())
    torch.testing.assert_close((values[0] - values[1]) / 2e-5, slope, rtol=1e-6, atol=1e-8)


def test_an_element_has_one_reference_and_its_ions_have_others() -> None:
    with pytest.raises(ValidationError, match=r"expected encoder\.charge_and_spin false"):
        ModelSettings.model_validate(
            {"encoder": {"charge_and_spin": True}, "head": {"isolated_atoms": "reference"}}
        )
