"""What keeps other branches where they are while the encoder moves: data of their own levels.

Where the packs of pre-training are at hand they are linked. Where they are not, structures that the
user has are rattled and strained, and labelled by the branches themselves: pseudo-labels, which
hold a branch to what it said before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.io import write

from mtlpar.core.records import read_record
from mtlpar.model.saved import SavedModel
from mtlpar.store.export import iterate_atoms
from mtlpar.store.pack import Pack, PackManifest

REPLAYED: Final = 0.5
"""Structures of each replayed source in an epoch for each new one. Fewer in a batch and the encoder
follows their noise: with a sixth, errors of pre-training grow by 18 %, with half by 2 %."""
_RATTLE_ANGSTROM: Final = 0.08
_STRAIN: Final = 0.01
# Of fewer a split of whole structures would hold one or none.
_FEWEST_STRUCTURES: Final = 10
_STATE: Final = ("charge", "spin")


def hold_still(branches: Iterable[str]) -> dict[str, Any]:
    """Training settings that hold branches still; their data only say where the encoder may go.

    Few structures of each are in a batch. A branch that moves follows their noise, at the full
    rate whatever its gradient's size; one that does not has nothing to lose.

    Args:
        branches: Branches that replay feeds; of none there is nothing to say.
    """
    rates = dict.fromkeys(branches, 0.0)
    return {"branch_rates": rates} if rates else {}


def replay_passes(sizes: Mapping[str, int], new: float) -> dict[str, float]:
    """How often an epoch visits the structures of each source that is replayed.

    Each gives as many, however large it is: a pack of millions would be the epoch.

    Args:
        sizes: Training structures of each source.
        new: New structures in an epoch.
    """
    return {source: REPLAYED * new / size for source, size in sizes.items()}


def link_packs(model: SavedModel, packed: Path, folder: Path) -> list[str]:
    """Link the packs that a model was trained on into the results of a fine-tuning.

    Args:
        model: The model to start from.
        packed: Folder with a folder of packs for each source.
        folder: Folder to link them into.

    Returns:
        The sources.

    Raises:
        ValueError: If none is there, or one was made of other data than the model learned.
    """
    found = sources_with_packs(model, packed)
    for source in found:
        link_pack(model, source, packed, folder)
    return found


def sources_with_packs(model: SavedModel, packed: Path) -> list[str]:
    """Sources of a model whose packs are there.

    Raises:
        ValueError: If there are none.
    """
    found = [source for source in model.sources if (packed / source / "train.bp").is_dir()]
    if not found:
        raise ValueError(
            f"--replay packs: {packed} has no packs of {', '.join(model.sources)}; name the folder "
            "with --packs, or use --replay pseudo:N, which needs none"
        )
    return found


def sizes_of(packed: Path, sources: Iterable[str]) -> dict[str, int]:
    """Training structures of each source, by its pack."""
    sizes = {}
    for source in sources:
        with Pack.open(packed / source / "train.bp") as pack:
            sizes[source] = pack.header.num_structures
    return sizes


def link_pack(model: SavedModel, source: str, packed: Path, folder: Path) -> None:
    """Link the packs of one source; see `link_packs`."""
    path = packed / source / "train.manifest.json"
    digest = read_record(path, PackManifest, stage="pack").training_digest
    learned = model.training.get("data", {}).get(source, digest)
    if digest != learned:
        raise ValueError(
            f"{path.parent} holds other data of {source} than the model learned (digest "
            f"{digest[:12]}, expected {learned[:12]}); name another folder with --packs"
        )
    link = folder / source
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink() and link.resolve() != (packed / source).resolve():
        # Of a run before, which was given other packs.
        link.unlink()
    if not link.exists():
        link.symlink_to((packed / source).resolve())


def write_pseudo_labels(
    model: SavedModel, pack: Pack, count: int, folder: Path, *, seed: int
) -> dict[str, Path]:
    """Write structures with the labels of each branch that knows their elements.

    Args:
        model: The model to start from.
        pack: Training pack of the new source, whose structures are rattled and strained.
        count: Structures for each branch.
        folder: Where to write.
        seed: The run's seed.

    Returns:
        File by source; a source is called ``replay_`` and one that fed the branch.

    Raises:
        ValueError: If no branch knows any of the structures.
    """
    block = pack.read_block(0)
    found: dict[str, Path] = {}
    for sources in model.branches.values():
        source = sources[0]
        known = set(model.references[source].energies_ev)
        rng = np.random.default_rng([seed, len(found)])
        frames = displaced(iterate_atoms(block, pack.header), known, count, rng)
        if frames:
            _deal(frames)
            _label(model, source, frames)
            path = folder / f"replay_{source}.extxyz"
            write(path, frames, format="extxyz")
            found[f"replay_{source}"] = path
    if not found:
        raise ValueError(
            "--replay pseudo: no branch of the model knows the elements of any structure"
        )
    return found


def displaced(
    structures: Iterable[Atoms], known: set[str], count: int, rng: np.random.Generator
) -> list[Atoms]:
    """Rattled and, where they are periodic, strained copies of structures, one after the other.

    Args:
        structures: Structures, each of which gives about as many copies as any other.
        known: Elements that they may hold; others are left out.
        count: Copies; none if no structure is left.
        rng: Where displacements are drawn from.
    """
    usable = [
        atoms
        for atoms in structures
        if {chemical_symbols[number] for number in atoms.numbers} <= known
    ]
    frames = []
    for index in range(count if usable else 0):
        like = usable[index % len(usable)]
        state = {key: like.info[key] for key in _STATE if key in like.info}
        atoms = Atoms(like.numbers, like.positions, cell=like.cell, pbc=like.pbc, info=state)
        if atoms.pbc.any():
            strain = np.eye(3) + rng.normal(scale=_STRAIN, size=(3, 3))
            atoms.set_cell(atoms.cell @ strain, scale_atoms=True)  # type: ignore[no-untyped-call]
        atoms.positions += rng.normal(scale=_RATTLE_ANGSTROM, size=(len(atoms), 3))
        atoms.info["group"] = f"rattled-{index % len(usable)}"
        frames.append(atoms)
    return frames


def _deal(frames: list[Atoms]) -> None:
    """Write splits into frames, by structure; copies of few structures one by one.

    A branch may know the elements of three structures of a thousand. By the hash of their names all
    could lie in one split.
    """
    if len({atoms.info["group"] for atoms in frames}) < _FEWEST_STRUCTURES:
        for index, atoms in enumerate(frames):
            atoms.info["group"] += f"-{index}"
    groups = list(dict.fromkeys(atoms.info["group"] for atoms in frames))
    held = max(1, len(groups) // 10)
    splits = dict.fromkeys(groups, "train")
    splits |= dict.fromkeys(groups[:held], "val") | dict.fromkeys(groups[held : 2 * held], "test")
    for atoms in frames:
        atoms.info["split"] = splits[atoms.info["group"]]


def _label(model: SavedModel, source: str, frames: list[Atoms]) -> None:
    for atoms, found in zip(frames, model.predict(frames, source=source), strict=True):
        atoms.info["energy"] = found.energy
        atoms.arrays["forces"] = found.forces
