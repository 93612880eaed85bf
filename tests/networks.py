"""Small networks of every architecture, at random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from mtlpar.core.fields import MAX_ATOMIC_NUMBER
from mtlpar.model.digest import DIGEST, content_digest
from mtlpar.model.multitask import ENCODERS as BY_SETTINGS
from mtlpar.model.multitask import MultiTaskModel
from mtlpar.model.settings import HeadSettings, ModelSettings
from mtlpar.model.uncertainty import BranchUncertainty, SourceFeatures, quantiles

# Settings by kind: a new encoder has to pass what these go through.
OF_KIND = {get_args(one.model_fields["kind"].annotation)[0]: one for one in BY_SETTINGS}
ENCODERS = tuple(OF_KIND)
FORCES = ("equivariant", "conservative")
ELEMENTS = (1, 6, 8)


def make_network(
    encoder: str = "egnn",
    forces: str = "equivariant",
    energy: str = "sum",
    isolated_atoms: str = "learned",
    **options: Any,
) -> MultiTaskModel:
    """A network with branches ``a`` and ``b``; options go to the encoder."""
    sizes = {"width": 16, "layers": 2, "vector_channels": 3, "radial_basis": 6}
    known = {key: size for key, size in sizes.items() if key in OF_KIND[encoder].model_fields}
    settings = ModelSettings(
        encoder=OF_KIND[encoder](kind=encoder, **{**known, **options}),
        head=HeadSettings(
            width=16, layers=1, forces=forces, energy=energy, isolated_atoms=isolated_atoms
        ),
    )
    return MultiTaskModel(settings, ["a", "b"], seed=1)


def edit_model(
    path: Path, edit: Callable[[dict[str, Any]], object], *, digest: bool = True
) -> None:
    """Change what a model file holds, as another writer would have written it.

    Args:
        path: The file.
        edit: Changes the content in place.
        digest: Whether that writer gave the file a digest.
    """
    content = torch.load(path, weights_only=True)
    edit(content)
    content.pop(DIGEST)
    torch.save(content | ({DIGEST: content_digest(content)} if digest else {}), path)


def make_uncertainty(
    network: MultiTaskModel,
    *sources: str,
    seed: int = 0,
    elements: tuple[int, ...] = ELEMENTS,
    alone: tuple[int, ...] = (),
) -> BranchUncertainty:
    """What a branch could have measured, of made-up structures of some elements and of metals."""
    rng = np.random.default_rng(seed)
    size = network.settings.head.width + 1
    together = torch.zeros((MAX_ATOMIC_NUMBER + 1, MAX_ATOMIC_NUMBER + 1), dtype=torch.bool)
    together[np.ix_(elements, elements)] = True
    together[alone, alone] = True
    found = {}
    for source in sources:
        rows = rng.normal(size=(3 * size, size))
        rows[:, -1] = 1
        found[source] = SourceFeatures(
            num_structures=len(rows),
            moments=torch.from_numpy(rows.T @ rows / len(rows)),
            seen=quantiles(rng.uniform(1, size, 50)),
            together=together,
            spread=torch.eye(network.settings.encoder.width + 1, dtype=torch.float64),
            distances=quantiles(rng.uniform(1, size, 50)),
        )
    return BranchUncertainty(
        sources=found, regulariser=1e-3, factor=0.02, num_validation=50, num_groups=5
    )
