"""The objective is the documented formula, however a batch is cut."""

from __future__ import annotations

import torch

from mtlpar.model.multitask import Prediction
from mtlpar.train.objective import DatasetPiece, Objective, Targets
from mtlpar.train.settings import TrainSettings


def _objective() -> Objective:
    settings = TrainSettings(energy_weight=2.0, force_weight=5.0, dataset_weights={"b": 0.5})
    return Objective({name: settings.weights_of(name) for name in ("a", "b")})


def test_total_is_the_formula_on_a_hand_computed_batch() -> None:
    # a: structures of one and two atoms; b: one of one atom.
    prediction = Prediction(torch.tensor([1.0, 2.0, 5.0]), torch.zeros(4, 3))
    forces = torch.tensor([[3.0, 0, 0], [0, 0, 0], [0, 6.0, 0], [1.0, 1.0, 1.0]])
    targets = Targets(torch.tensor([0.0, 4.0, 4.0]), forces)
    pieces = [
        DatasetPiece("a", (0, 2), (0, 3), global_structures=2, global_atoms=3),
        DatasetPiece("b", (2, 3), (3, 4), global_structures=1, global_atoms=1),
    ]
    objective = _objective()
    terms = objective.terms(prediction, targets, pieces)
    # a: energy (1 + 2) / 2, forces (3 + 6) / 9; b: energy 1, forces 3 / 3.
    torch.testing.assert_close(terms, torch.tensor([[1.5, 1.0], [1.0, 1.0]]))
    expected = 2.0 * 1.5 + 5.0 * 1.0 + 0.5 * (2.0 * 1.0 + 5.0 * 1.0)
    torch.testing.assert_close(objective.total(terms), torch.tensor(expected))


def test_terms_of_the_pieces_add_up_to_the_terms_of_the_whole() -> None:
    torch.manual_seed(0)
    energy, forces = torch.randn(4, dtype=torch.float64), torch.randn(9, 3, dtype=torch.float64)
    zeros = Targets(torch.zeros(4, dtype=torch.float64), torch.zeros(9, 3, dtype=torch.float64))
    objective = _objective()
    whole = objective.terms(
        Prediction(energy, forces), zeros, [DatasetPiece("a", (0, 4), (0, 9), 4, 9)]
    )
    # An uneven cut: a mean of per-rank means would differ.
    left = objective.terms(
        Prediction(energy, forces), zeros, [DatasetPiece("a", (0, 1), (0, 2), 4, 9)]
    )
    right = objective.terms(
        Prediction(energy, forces), zeros, [DatasetPiece("a", (1, 4), (2, 9), 4, 9)]
    )
    torch.testing.assert_close(left + right, whole)
