"""The paper's encoder: its layers, and its messages in each of the ways that they are computed."""

from mtlpar.model.egnn.encoder import EgnnEncoder

__all__ = ["EgnnEncoder"]
