"""Formats of model files: what each version changed, and how an older file becomes a new one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch

FORMAT_VERSION: Final = 8
"""1: EGNN with direct forces. 2: the settings say which encoder, energy and forces. 3: messages of
the EGNN have a filter and carry vectors. 4: its atoms mix vectors before they multiply them. 5:
half of the radial functions measure distances by covalent radii. 6: the file has a digest. 7: an
encoder has no settings of another kind. 8: isolated atoms may be the zero of energies."""
WEIGHTS_VERSION: Final = 5
"""The last version that changed what weights mean: a training cannot go on across it."""
_OLDEST_VERSION: Final = 2


def upgraded(content: Any, path: Path) -> dict[str, Any]:
    """Bring the content of a file to the current format, one version at a time.

    Raises:
        ValueError: If its format is not known, cannot be brought up to date or lacks something.
    """
    version: Any = content.get("format_version") if isinstance(content, dict) else None
    known = range(_OLDEST_VERSION, FORMAT_VERSION + 1)
    if version is None:
        raise ValueError(
            f"{path} is not a model file of mtlpar: it holds {_told(content)} and no "
            "format_version, as files of other programs do; expected the model.pt of a training"
        )
    if not isinstance(content, dict) or not isinstance(version, int) or version not in known:
        raise ValueError(
            f"{path} has model format {version!r}; this version of mtlpar reads {_OLDEST_VERSION} "
            f"to {FORMAT_VERSION}. A newer format needs a newer mtlpar, an older model has to be "
            "trained again"
        )
    content["written_as"] = version
    for step in range(version, FORMAT_VERSION):
        try:
            _UPGRADES[step](content)
        except ValueError as error:
            raise ValueError(f"{path} has model format {version}: {error}") from None
        except (LookupError, TypeError) as error:
            raise ValueError(f"{path} is not a complete model file: {error!r}") from error
    return content


def _told(content: Any) -> str:
    if not isinstance(content, dict) or not content:
        return f"a {type(content).__name__}"
    return ", ".join([str(key) for key in content][:3])


def _from_2(content: dict[str, Any]) -> None:
    if content["settings"]["encoder"]["kind"] == "egnn":
        raise ValueError(
            "its EGNN sends messages without filter and vectors, which this version of mtlpar "
            "cannot compute; train it again, or use the version that wrote it"
        )


def _from_3(content: dict[str, Any]) -> None:
    encoder, state = content["settings"]["encoder"], content["state"]
    if encoder["kind"] == "egnn":
        # Squared lengths were products of each vector with itself.
        same = torch.eye(encoder["vector_channels"]).repeat(2, 1)
        for layer in range(encoder["layers"]):
            prefix = f"encoder.layers.{layer}"
            like = state[f"{prefix}.update.0.weight"]
            state[f"{prefix}.inner_products.mix.weight"] = same.to(like)


def _from_4(content: dict[str, Any]) -> None:
    encoder, state = content["settings"]["encoder"], content["state"]
    # All functions were of the distance alone: the other half gets weights of zero.
    count = encoder["radial_basis"]
    encoder["radial_basis"] = 2 * count
    names = ("features_in", "filter") if encoder["kind"] == "egnn" else ("filter",)
    for layer in range(encoder["layers"]):
        for name in names:
            weight = state[f"encoder.layers.{layer}.{name}.weight"]
            parts = [weight[:, :count], torch.zeros_like(weight[:, :count]), weight[:, count:]]
            state[f"encoder.layers.{layer}.{name}.weight"] = torch.cat(parts, dim=1)


def _from_5(_: dict[str, Any]) -> None:
    """Only the digest is new."""


def _from_6(content: dict[str, Any]) -> None:
    encoder = content["settings"]["encoder"]
    if encoder["kind"] == "painn":
        del encoder["vector_channels"]


def _from_7(_: dict[str, Any]) -> None:
    """Isolated atoms are learned where nothing else is said."""


_UPGRADES: Final[Mapping[int, Callable[[dict[str, Any]], None]]] = {
    2: _from_2,
    3: _from_3,
    4: _from_4,
    5: _from_5,
    6: _from_6,
    7: _from_7,
}
