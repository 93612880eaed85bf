"""Weights of an EGNN and of a branch, as steps of a simulation want them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mtlpar.model.egnn.encoder import EgnnEncoder, EgnnLayer
from mtlpar.model.geometry import TYPICAL_NEIGHBORS
from mtlpar.model.heads import Branch


class PlainWeights:
    """Weights of an encoder and of a branch, at the moment when it is made."""

    def __init__(self, encoder: EgnnEncoder, branch: Branch) -> None:
        self.layers = [
            LayerWeights(layer) for layer in encoder.layers if isinstance(layer, EgnnLayer)
        ]
        self.norm, self.basis = encoder.norm, encoder.basis
        self.channels = encoder.settings.vector_channels
        *hidden, last = (
            _weight_and_bias(part) for part in branch.energy if hasattr(part, "weight")
        )
        self.head, scale = hidden, branch.energy_scale.detach()
        # The energy is measured in the scale of its branch.
        self.last, self.last_bias = (values * scale for values in last)


class LayerWeights:
    """Weights of a layer, (inputs, outputs) each, as products from left to right want them."""

    def __init__(self, layer: EgnnLayer) -> None:
        count = layer.filter.in_features
        edge, vector = layer.features_in.weight.detach().T, layer.vector_out.weight.detach().T
        channels = vector.shape[1] - layer.vectors_in
        self.carries = layer.vectors_in > 0
        self.norm = layer.norm
        self.receiver, self.receiver_bias = _weight_and_bias(layer.receiver_in)
        self.sender = layer.sender_in.weight.detach().T
        self.radial = edge[:count]
        self.along_receiver, along_sender = edge[count:].tensor_split(2)
        self.features = torch.cat([along_sender, self.radial])
        self.message, self.message_bias = _weight_and_bias(layer.message)
        self.filter = layer.filter.weight.detach().T / math.sqrt(TYPICAL_NEIGHBORS)
        self.push, self.carry = vector[:, :channels], vector[:, channels:]
        self.mix = layer.inner_products.mix.weight.detach().T
        self.update, self.update_bias = _weight_and_bias(layer.update[0])
        self.update_out, self.update_out_bias = _weight_and_bias(layer.update[2])


def _weight_and_bias(linear: nn.Module) -> tuple[Tensor, Tensor]:
    assert isinstance(linear, nn.Linear)
    return linear.weight.detach().T, linear.bias.detach()
