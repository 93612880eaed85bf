"""Models that break physics are refused, each by the check that is meant to see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from networks import ELEMENTS, make_network
from torch import nn

from mtlpar.check.mechanics import forces_are_the_gradient
from mtlpar.check.subject import Observed, subject_of
from mtlpar.check.suite import CHECKS, refusals, run_checks
from mtlpar.model import geometry
from mtlpar.model.egnn import EgnnEncoder
from mtlpar.model.multitask import MultiTaskModel


class _RawCoordinates(EgnnEncoder):
    """Positions among the scalar features, as in the paper's configuration."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.place = nn.Linear(3, self.settings.width)

    def forward(self, batch: Any, vector: torch.Tensor) -> Any:
        features = super().forward(batch, vector)
        place = self.place(batch.pos.to(features.scalars.dtype))
        return features._replace(scalars=features.scalars + place)


class _PositionsInHeads(MultiTaskModel):
    """Forces that depend on where an atom is, not only on its neighbours."""

    def forward(self, *arguments: Any, **options: Any) -> Any:
        prediction = super().forward(*arguments, **options)
        return prediction._replace(forces=prediction.forces + 1e-3 * arguments[0].pos)


class _ShiftsZeroed(MultiTaskModel):
    """Neighbours in other cells taken for those in the same cell."""

    def forward(self, batch: Any, segments: Any, **options: Any) -> Any:
        batch = replace(batch, edge_shift=torch.zeros_like(batch.edge_shift))
        return super().forward(batch, segments, **options)


class _LooksAtTheBatch(MultiTaskModel):
    """Energies normalised over the batch."""

    def forward(self, *arguments: Any, **options: Any) -> Any:
        prediction = super().forward(*arguments, **options)
        return prediction._replace(
            energy_per_atom=prediction.energy_per_atom - prediction.energy_per_atom.mean()
        )


class _SlightlyWrongForces(MultiTaskModel):
    """Forces off by a thousandth of the gradient, and a stress with the wrong sign."""

    def _conservative(self, *arguments: Any, **options: Any) -> Any:
        prediction = super()._conservative(*arguments, **options)
        assert prediction.stress is not None
        return prediction._replace(forces=1.001 * prediction.forces, stress=-prediction.stress)


class _Swirl(MultiTaskModel):
    """Forces with a part that does work on closed paths."""

    def _conservative(self, *arguments: Any, **options: Any) -> Any:
        prediction = super()._conservative(*arguments, **options)
        x, y, z = prediction.forces.T
        return prediction._replace(forces=prediction.forces + torch.stack([y, z, x], dim=1))


class _PreferredDirection(MultiTaskModel):
    """Forces with one component stretched."""

    def forward(self, *arguments: Any, **options: Any) -> Any:
        prediction = super().forward(*arguments, **options)
        stretch = torch.tensor([1.0, 1.0, 1.01]).to(prediction.forces)
        return prediction._replace(forces=prediction.forces * stretch)


class _Undefined(MultiTaskModel):
    """No numbers at all."""

    def forward(self, *arguments: Any, **options: Any) -> Any:
        prediction = super().forward(*arguments, **options)
        return prediction._replace(energy_per_atom=prediction.energy_per_atom * torch.nan)


def _refusals(network: MultiTaskModel, *checks: str) -> list[str]:
    subject = subject_of(network, "a", elements=ELEMENTS, dtype=torch.float64)
    return refusals({"float64": list(run_checks(subject, only=checks or tuple(CHECKS)))})


def _as(kind: type[MultiTaskModel], forces: str = "equivariant") -> MultiTaskModel:
    network = make_network(forces=forces)
    network.__class__ = kind
    return network


def test_raw_coordinates_as_features_are_refused() -> None:
    network = make_network()
    network.encoder = _RawCoordinates(network.settings.encoder, cutoff_angstrom=5.0)
    expected = {"rotation", "reflection", "translation", "wrapping", "isolated atom"}
    assert expected <= set(_refusals(network))


BROKEN: dict[type[MultiTaskModel], tuple[str, set[str]]] = {
    _PositionsInHeads: ("equivariant", {"translation", "wrapping", "isolated atom"}),
    _ShiftsZeroed: ("equivariant", {"wrapping", "supercell", "thin cells"}),
    _LooksAtTheBatch: ("equivariant", {"batch = alone"}),
    _PreferredDirection: ("equivariant", {"rotation", "reflection"}),
    _SlightlyWrongForces: ("conservative", {"forces = -dE/dx", "stress = dE/de / V"}),
    _Swirl: ("conservative", {"forces = -dE/dx", "energy kept in NVE"}),
    _Undefined: ("equivariant", {"rotation", "permutation", "no jump at the cutoff"}),
}


@pytest.mark.long
@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
def test_broken_models_are_refused(kind: type[MultiTaskModel]) -> None:
    forces, expected = BROKEN[kind]
    assert expected == set(_refusals(_as(kind, forces), *expected))


# Radial functions are sines, which vanish at the cutoff by themselves, with a slope: without an
# envelope a kink is left, and only what undoes the sines makes a jump.
@pytest.mark.parametrize(("scale", "passes"), [(1.0, True), (1 + 1e-7, False)])
def test_a_steep_energy_is_not_taken_for_forces_that_are_no_gradient(
    scale: float, passes: bool
) -> None:
    # sin(50 x) has a fifth derivative of 3e8: the wide step alone is off by 1e-8 and more.
    def predict(structures: Sequence[Atoms]) -> Observed:
        waves = [50 * atoms.positions[:, 0] for atoms in structures]
        forces = np.zeros((sum(map(len, waves)), 3))
        forces[:, 0] = -50 * scale * np.cos(np.concatenate(waves))
        return Observed(np.array([np.sin(wave).mean() for wave in waves]), forces)

    network = make_network(forces="conservative")
    real = subject_of(network, "a", elements=ELEMENTS, dtype=torch.float64)
    found = forces_are_the_gradient(replace(real, predict=predict))
    assert (found <= real.tolerance) == passes


def _no_envelope(x: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(x)


def _steep_envelope(x: torch.Tensor) -> torch.Tensor:
    return 1 / (1 - x)


@pytest.mark.long
@pytest.mark.parametrize(
    ("envelope", "expected"),
    [(_steep_envelope, "no jump at the cutoff"), (_no_envelope, "no kink at the cutoff")],
)
def test_a_cutoff_that_is_not_smooth_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    envelope: Callable[[torch.Tensor], torch.Tensor],
    expected: str,
) -> None:
    monkeypatch.setattr(geometry, "cutoff_envelope", envelope)
    assert expected in _refusals(make_network())


def test_a_mean_over_neighbours_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # The count of neighbours jumps where one leaves, however smooth the messages are.
    describe = geometry.describe_edges

    def averaged(z: torch.Tensor, *others: Any) -> Any:
        edge = describe(z, *others)
        count = torch.bincount(edge.receiver, minlength=len(z))[edge.receiver]
        return edge._replace(radial=edge.radial / count[:, None])

    monkeypatch.setattr("mtlpar.model.encoder.describe_edges", averaged)
    assert "no jump at the cutoff" in _refusals(make_network())
