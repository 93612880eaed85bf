"""The objective is the documented formula, however a batch is cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlpar.core.fields import LABELS
from mtlpar.model.multitask import Prediction
from mtlpar.train.objective import LabelCounts, Objective, SourceShare, Targets
from mtlpar.train.settings import Loss, Losses, TrainSettings


def _objective(**losses: Loss) -> Objective:
    train = TrainSettings(
        energy_weight=2.0, force_weight=5.0, stress_weight=3.0, source_weights={"b": 0.5}
    )
    return Objective({name: train.weights_of(name) for name in ("a", "b")}, Losses(**losses))


def _targets(
    energy: torch.Tensor,
    forces: torch.Tensor,
    *,
    stress: torch.Tensor | None = None,
    stress_weight: torch.Tensor | None = None,
) -> Targets:
    zeros = energy.new_zeros(len(energy))
    return Targets(
        energy,
        forces,
        energy.new_zeros(len(energy), 6) if stress is None else stress,
        torch.ones_like(energy),
        forces.new_ones(len(forces)),
        zeros if stress_weight is None else stress_weight,
    )


def _share(source: str, structures: tuple[int, int], atoms: tuple[int, int], *counts: int):
    return SourceShare(source, structures, atoms, LabelCounts(0, 0, 0), LabelCounts(*counts))


def test_total_is_the_formula_on_a_hand_computed_batch() -> None:
    # a: structures of one and two atoms; b: one of one atom.
    prediction = Prediction(torch.tensor([1.0, 2.0, 5.0]), torch.zeros(4, 3))
    forces = torch.tensor([[3.0, 0, 0], [0, 0, 0], [0, 6.0, 0], [1.0, 1.0, 1.0]])
    targets = _targets(torch.tensor([0.0, 4.0, 4.0]), forces)
    shares = [_share("a", (0, 2), (0, 3), 2, 3, 0), _share("b", (2, 3), (3, 4), 1, 1, 0)]
    objective = _objective()
    terms = objective.terms(prediction, targets, shares)
    # a: energy (1 + 2) / 2, forces (3 + 6) / 9; b: energy 1, forces 3 / 3; no stress anywhere.
    torch.testing.assert_close(terms, torch.tensor([[1.5, 1.0, 0.0], [1.0, 1.0, 0.0]]))
    expected = 2.0 * 1.5 + 5.0 * 1.0 + 0.5 * (2.0 * 1.0 + 5.0 * 1.0)
    torch.testing.assert_close(objective.total(terms), torch.tensor(expected))


def test_terms_of_the_pieces_add_up_to_the_terms_of_the_whole() -> None:
    torch.manual_seed(0)
    energy, forces = torch.randn(4, dtype=torch.float64), torch.randn(9, 3, dtype=torch.float64)
    zeros = _targets(torch.zeros(4, dtype=torch.float64), torch.zeros(9, 3, dtype=torch.float64))
    objective = _objective()
    counts = (4, 9, 0)
    prediction = Prediction(energy, forces)
    whole = objective.terms(prediction, zeros, [_share("a", (0, 4), (0, 9), *counts)])
    # An uneven cut: a mean of per-rank means would differ.
    left = objective.terms(prediction, zeros, [_share("a", (0, 1), (0, 2), *counts)])
    right = objective.terms(prediction, zeros, [_share("a", (1, 4), (2, 9), *counts)])
    torch.testing.assert_close(left + right, whole)


def test_a_stress_without_label_leaves_no_trace_though_its_prediction_is_no_number() -> None:
    # A molecule beside a crystal: NaN times zero would be NaN, in the loss and in every gradient.
    virial = torch.ones(2, 3, 3, dtype=torch.float64, requires_grad=True)
    nowhere = torch.tensor([False, True])[:, None, None]
    stress = torch.where(nowhere, torch.nan, virial)
    energy, forces = torch.zeros(2, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64)
    label = torch.full((2, 6), 0.25, dtype=torch.float64)
    targets = _targets(
        energy, forces, stress=label, stress_weight=torch.tensor([1.0, 0.0], dtype=torch.float64)
    )
    objective = _objective()
    terms = objective.terms(
        Prediction(energy, forces, stress), targets, [_share("a", (0, 2), (0, 2), 2, 2, 1)]
    )
    assert terms[0].tolist() == [0.0, 0.0, 0.75]
    objective.total(terms).backward()
    assert virial.grad is not None
    assert torch.isfinite(virial.grad).all()
    assert virial.grad[1].abs().sum() == 0
    # Each off-diagonal number counts once: lambda w / 6 for six numbers of one structure.
    assert virial.grad[0].sum() == pytest.approx(3.0 * 6 / 6)


def test_weights_of_structures_scale_errors_and_not_the_counts() -> None:
    energy = torch.tensor([1.0, 1.0, 1.0, 1.0])
    targets = _targets(torch.zeros(4), torch.zeros(4, 3))._replace(
        energy_weight=torch.tensor([1.0, 0.5, 2.0, 0.0])
    )
    terms = _objective().terms(
        Prediction(energy, torch.zeros(4, 3)), targets, [_share("a", (0, 4), (0, 4), 4, 4, 0)]
    )
    assert terms[0, 0] == pytest.approx((1.0 + 0.5 + 2.0) / 4)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (Loss(), lambda x: abs(x)),
        (Loss(kind="l2"), lambda x: x * x),
        (Loss(kind="huber", delta=0.5), lambda x: x * x if abs(x) < 0.5 else abs(x) - 0.25),
    ],
)
def test_losses_are_those_of_the_formulas(loss: Loss, expected) -> None:
    errors = np.array([-2.0, -0.5, -0.25, 0.0, 0.4, 0.6])
    prediction = Prediction(torch.from_numpy(errors), torch.zeros(6, 3, dtype=torch.float64))
    targets = _targets(torch.zeros(6, dtype=torch.float64), torch.zeros(6, 3, dtype=torch.float64))
    objective = _objective(energy=loss)
    terms = objective.terms(prediction, targets, [_share("a", (0, 6), (0, 6), 6, 6, 0)])
    assert terms[0, 0].item() == pytest.approx(np.mean([expected(x) for x in errors]))


def test_terms_are_called_errors_only_where_they_are() -> None:
    names = _objective(forces=Loss(kind="huber")).term_names
    assert names == (
        "energy_mae_ev_per_atom",
        "forces_huber_loss",
        "stress_mae_ev_per_cubic_angstrom",
    )


@settings(max_examples=50)
@given(masks=st.lists(st.tuples(*[st.booleans()] * 3), min_size=1, max_size=12))
def test_labels_are_counted_by_their_masks(masks) -> None:
    num_atoms = np.arange(1, len(masks) + 1, dtype=np.int32)
    table = np.array(masks, dtype=np.uint8)
    bits = (table << np.arange(len(LABELS), dtype=np.uint8)).sum(axis=1).astype(np.uint8)
    counts = LabelCounts.of(num_atoms, bits)
    assert counts == (table[:, 0].sum(), num_atoms[table[:, 1] > 0].sum(), table[:, 2].sum())
