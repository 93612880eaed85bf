"""How an encoder and a branch are evaluated where nothing is learned."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from mtlpar.model.egnn import EgnnEncoder
from mtlpar.model.egnn.inference import Answer, EgnnInference
from mtlpar.model.encoder import AtomFeatures, Encoder
from mtlpar.model.heads import Branch


class Inference(Protocol):
    """An encoder and a branch, for any number of structures; see `EgnnInference`."""

    def features(
        self, scalars: Tensor, z: Tensor, edge_index: Tensor, vector: Tensor
    ) -> AtomFeatures:
        """What the encoder says about the atoms."""

    def energies_and_gradient(
        self, scalars: Tensor, z: Tensor, edge_index: Tensor, vector: Tensor
    ) -> Answer:
        """Energies of the atoms, and the gradient of their sum by the edge vectors."""


class ByAutograd:
    """Any encoder, by its own operations."""

    def __init__(self, encoder: Encoder, branch: Branch) -> None:
        self._encoder, self._branch = encoder, branch

    def features(
        self, scalars: Tensor, z: Tensor, edge_index: Tensor, vector: Tensor
    ) -> AtomFeatures:
        """See `Inference`."""
        return self._encoder.encode(scalars, z, edge_index, vector.T)

    def energies_and_gradient(
        self, scalars: Tensor, z: Tensor, edge_index: Tensor, vector: Tensor
    ) -> Answer:
        """See `Inference`."""
        with torch.enable_grad():
            vector = vector.requires_grad_()
            features = self.features(scalars, z, edge_index, vector)
            energies = self._branch.atom_energies(features)
            (gradient,) = torch.autograd.grad([energies.sum()], [vector], materialize_grads=True)
        vector.requires_grad_(False)
        scalars = features.scalars.detach()
        return Answer(energies.detach(), gradient, scalars, self._branch.last_features(scalars))


def inference_of(encoder: Encoder, branch: Branch) -> Inference:
    """The fastest one, with the weights of this moment."""
    # What is written out is laid out for the cache of a CPU.
    if isinstance(encoder, EgnnEncoder) and encoder.species.weight.device.type == "cpu":
        return EgnnInference(encoder, branch)
    return ByAutograd(encoder, branch)
