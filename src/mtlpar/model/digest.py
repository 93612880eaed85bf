"""The digest of a model file: torch ignores its archive's checksums and loads flipped bits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

DIGEST: Final = "digest"
"""Key of a model file under which its digest stands."""


def content_digest(content: Mapping[str, Any]) -> str:
    """Hexadecimal SHA-256 of all that a model file holds but the digest itself.

    Covered are the plain values and, of each tensor, its name, type, shape and bytes. How the file
    lays them out is not, so that any version of torch finds the same digest.

    Args:
        content: Plain values and tensors by name; under ``state`` only tensors.

    Raises:
        ValueError: If it holds anything else.
    """
    tensors = content.get("state", {})
    if not isinstance(tensors, Mapping):
        raise ValueError(f"state is a {type(tensors).__name__}, expected tensors by name")
    tensors, shapes = dict(tensors), {}
    plain = {
        key: _without_tensors(value, key, tensors)
        for key, value in content.items()
        if key not in (DIGEST, "state")
    }
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"state.{name} is a {type(tensor).__name__}, expected a tensor")
        shapes[name] = [str(tensor.dtype), list(tensor.shape)]
    try:
        text = json.dumps([plain, shapes], sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"it holds more than plain values: {error}") from error
    whole = hashlib.sha256(text.encode())
    for name in sorted(shapes):
        flat = tensors[name].detach().cpu().contiguous().reshape(-1)
        whole.update(flat.view(torch.uint8).numpy())
    return whole.hexdigest()


def _without_tensors(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """A value with names in the place of tensors, which are added to the others."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {key: _without_tensors(one, f"{name}.{key}", tensors) for key, one in value.items()}
    return value
