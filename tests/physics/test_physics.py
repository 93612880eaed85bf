"""What every encoder and head must obey, at any weights.

Weights are random: symmetry must come from the architecture, not from training. The checks are the
library's own, which `mtlpar check` runs on trained models; `test_broken_models.py` shows that each
of them can fail.
"""

from __future__ import annotations

import pytest
import torch
from ase import Atoms
from ase.build import molecule
from networks import ELEMENTS, ENCODERS, FORCES, make_network

from mtlpar.check.subject import subject_of
from mtlpar.check.suite import CHECKS, run_checks
from mtlpar.core.ase_structures import structure_batch
from mtlpar.graph.collate import collate
from mtlpar.model.multitask import MultiTaskModel, Segment

VARIANTS = {
    **{f"{encoder}-{forces}": (encoder, forces, {}) for encoder in ENCODERS for forces in FORCES},
    "mean energy": ("egnn", "conservative", {"energy": "mean"}),
    **{
        f"{encoder}, isolated atoms": (encoder, "conservative", {"isolated_atoms": "reference"})
        for encoder in ENCODERS
    },
    "charge and spin": ("painn", "equivariant", {"charge_and_spin": True}),
}


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_architecture_passes_every_check(variant: str, dtype: torch.dtype) -> None:
    encoder, forces, options = VARIANTS[variant]
    network = make_network(encoder, forces, **options)
    subject = subject_of(network, "a", elements=ELEMENTS, dtype=dtype)
    findings = list(run_checks(subject))
    assert not [found for found in findings if found.is_refused]
    # Nothing is left out that should apply.
    applied = {found.check for found in findings if found.deviation is not None}
    if dtype == torch.float64 and forces == "conservative" and "energy" not in options:
        assert applied == set(CHECKS)


def _batch(*structures: Atoms) -> object:
    return collate(structure_batch(structures), make_network().settings.graph, dtype=torch.float64)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_gradients_of_a_loss_on_conservative_forces_are_right(
    encoder: str, checkpointing: bool
) -> None:
    # Training differentiates twice. A term lost on the way (a detached tensor, a kernel without a
    # second derivative) leaves forces right and gradients wrong.
    network = make_network(encoder, "conservative", activation_checkpointing=checkpointing).double()
    batch = _batch(molecule("H2O"))

    def loss() -> torch.Tensor:
        energy, forces, stress, *_ = network(batch, [Segment("a", 0, 1)])
        assert stress is not None
        return energy.sum() + (forces**2).sum()

    loss().backward()
    generator = torch.Generator().manual_seed(0)
    parameters = [p for p in network.parameters() if p.grad is not None]
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    slope = sum((p.grad * d).sum() for p, d in zip(parameters, direction, strict=True))
    values = {}
    for sign in (-1, 1):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p += sign * 1e-5 * d
            values[sign] = loss()
            for p, d in zip(parameters, direction, strict=True):
                p -= sign * 1e-5 * d
    torch.testing.assert_close((values[1] - values[-1]) / 2e-5, slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("forces", FORCES)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_parameter_learns(encoder: str, forces: str) -> None:
    # Two branches on one rank; a part that no loss reaches is dead weight. The last layer's
    # vectors matter only to direct forces.
    network = make_network(encoder, forces).double()
    batch = _batch(molecule("CH3CH2OH"), molecule("H2O"))
    energy, predicted, *_ = network(batch, [Segment("a", 0, 1), Segment("b", 1, 2)])
    ((energy**2).sum() + (predicted**2).sum()).backward()
    for name, parameter in network.named_parameters():
        reached = parameter.grad is not None and bool((parameter.grad != 0).any())
        assert reached, name


@pytest.mark.parametrize("forces", FORCES)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_bfloat16_products_round_answers_and_gradients_a_little(encoder: str, forces: str) -> None:
    # An energy that left the last layer in bfloat16 would be a multiple of 2^-8 of itself.
    # Several structures, because one energy of random weights may be next to nothing.
    network = make_network(encoder, forces)
    names = ("CH3CH2OH", "C6H6", "CH3NO2", "H2O")
    batch = collate(structure_batch([molecule(name) for name in names]), network.settings.graph)
    found = []
    for enabled in (False, True):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            energy, predicted, *_ = network(batch, [Segment("a", 0, len(names))])
        (energy.sum() + (predicted**2).sum()).backward()
        assert energy.dtype == predicted.dtype == torch.float32
        found.append((energy, predicted, network.encoder.species.weight.grad.clone()))
    for exact, rounded in zip(*found, strict=True):
        error = (rounded - exact).norm() / exact.norm()
        assert 0 < error < 0.1
    assert not torch.equal(energy, energy.bfloat16().float())


@pytest.mark.parametrize("encoder", ENCODERS)
def test_angles_matter(encoder: str) -> None:
    # Distances to the centre are equal: only angles or second neighbours tell them apart.
    straight = Atoms("OH2", [[0, 0, 0], [1, 0, 0], [-1, 0, 0]])
    bent = Atoms("OH2", [[0, 0, 0], [1, 0, 0], [0, 1, 0]])
    subject = subject_of(make_network(encoder), "a", elements=ELEMENTS, dtype=torch.float64)
    assert abs(subject.energy(straight) - subject.energy(bent)) > 1e-4


def _energies(network: MultiTaskModel, *structures: Atoms) -> torch.Tensor:
    batch = collate(structure_batch(structures), network.settings.graph)
    segments = [Segment("a", 0, 1), Segment("b", 1, len(structures))]
    with torch.no_grad():
        return network(batch, segments).energy_per_atom


def test_branches_answer_differently() -> None:
    ethanol = molecule("CH3CH2OH")
    first, second = _energies(make_network(), ethanol, ethanol)
    assert abs(first - second) > 1e-4


def _with(atoms: Atoms, **info: int) -> Atoms:
    atoms = atoms.copy()
    atoms.info.update(info)
    return atoms


def test_charge_and_spin_change_the_energy_only_of_models_that_know_them() -> None:
    oxygen = molecule("O2")
    charged = [_with(oxygen), _with(oxygen, charge=1), _with(oxygen, spin=3), _with(oxygen, spin=1)]
    knows = make_network(charge_and_spin=True)
    _, neutral, cation, triplet, singlet = _energies(knows, oxygen, *charged).tolist()
    assert len({neutral, cation, triplet, singlet}) == 4
    _, *same = _energies(make_network(), oxygen, *charged).tolist()
    assert len(set(same)) == 1


def test_a_charge_without_an_embedding_is_refused() -> None:
    with pytest.raises(ValueError, match=r"charge \[25\] is outside -10 to 10"):
        _energies(make_network(charge_and_spin=True), _with(molecule("O2"), charge=25))


def test_atom_bounds_may_be_given_or_read_off_the_batch() -> None:
    network = make_network().double()
    batch = _batch(molecule("H2O"), molecule("CH4"))
    read = network(batch, [Segment("a", 0, 1), Segment("b", 1, 2)])
    given = network(batch, [Segment("a", 0, 1, (0, 3)), Segment("b", 1, 2, (3, 8))])
    assert torch.equal(read.forces, given.forces)
