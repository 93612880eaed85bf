"""What becomes of the branches of the model that another one started from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from ase.data import atomic_numbers

from mtlpar.core.structures import StructureBatch
from mtlpar.model.predict import predict_batches
from mtlpar.model.saved import SavedModel
from mtlpar.store.pack import Pack

_STRUCTURES: Final = 128
"""Structures of each source that drift is measured on."""
_BATCH_ATOMS: Final = 4096


def kept_branches(
    start: SavedModel, branches: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """Sources of a start that no longer feed a model which starts from it, by their branch.

    A branch that other data feed, under its own name, goes on answering for the sources that it
    learned; one that no data feed stays as it was.

    Args:
        start: The trained model.
        branches: Sources by branch of the model that starts from it.
    """
    fed = {source for sources in branches.values() for source in sources}
    left = {
        name: tuple(source for source in sources if source not in fed)
        for name, sources in start.branches.items()
    }
    return {name: sources for name, sources in left.items() if sources}


def drift_of(
    before: SavedModel, after: SavedModel, packs: Mapping[str, Pack]
) -> dict[str, dict[str, float]]:
    """How far a moved encoder has changed what branches predict that were kept as they were.

    It is measured on training structures of the new sources whose elements a branch knows.

    Args:
        before: The model that was started from.
        after: The trained model, which has the kept branches too.
        packs: Training packs by source.

    Returns:
        By branch ``num_structures``, and the mean absolute changes ``energy_ev_per_atom`` and
        ``force_ev_per_angstrom``; these are missing where a branch knows none of the structures.
    """
    fed = set(packs)
    kept = [name for name, sources in after.branches.items() if not fed.intersection(sources)]
    return {name: _drift_of_branch(before, after, name, packs) for name in kept}


def _drift_of_branch(
    before: SavedModel, after: SavedModel, branch: str, packs: Mapping[str, Pack]
) -> dict[str, float]:
    known = [atomic_numbers[symbol] for symbol in before.elements(branch)]
    count, energy, forces = 0, [np.zeros(0)], [np.zeros(0)]
    for structures in _samples(packs, known):
        count += len(structures)
        for old, new in zip(
            *(
                predict_batches(
                    model.network,
                    structures,
                    branch=branch,
                    graph=model.settings.graph,
                    batch_atoms=_BATCH_ATOMS,
                )
                for model in (before, after)
            ),
            strict=True,
        ):
            energy.append(np.abs(new.energy_per_atom - old.energy_per_atom))
            forces.append(np.abs(new.forces - old.forces).ravel())
    if not count:
        return {"num_structures": 0}
    return {
        "num_structures": count,
        "energy_ev_per_atom": float(np.concatenate(energy).mean()),
        "force_ev_per_angstrom": float(np.concatenate(forces).mean()),
    }


def _samples(packs: Mapping[str, Pack], known: list[int]) -> Iterator[StructureBatch]:
    """Some structures of each pack that hold no other elements."""
    for pack in packs.values():
        some = pack.first(_STRUCTURES)
        foreign = np.zeros(len(some), dtype=bool)
        owner = np.repeat(np.arange(len(some)), some.num_atoms)
        np.logical_or.at(foreign, owner, ~np.isin(some.atomic_numbers, known))
        if not foreign.all():
            yield some.take(np.flatnonzero(~foreign))
