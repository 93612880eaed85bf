"""Small structures with a known energy, and workspaces made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mtlpar.core.paths import Workspace
from mtlpar.core.products import ExtractedManifest, RawManifest
from mtlpar.core.records import write_content
from mtlpar.core.structures import StructureBatch
from mtlpar.extract.findings import Findings
from mtlpar.graph.fingerprint import fingerprints
from mtlpar.normalize import stage as normalize
from mtlpar.normalize.settings import NormalizeSettings
from mtlpar.pack import stage as pack
from mtlpar.pack.settings import PackSettings
from mtlpar.store.bp import BpReader, write_bp

REPOSITORY = Path(__file__).parents[1]

# Reference energies in eV that the made-up data are built with.
ELEMENT_ENERGIES_EV = {1: -13.6, 6: -1029.4, 8: -2041.8}


def make_structures(
    count: int, *, seed: int, strength: float = 1.0, atoms: tuple[int, int] = (3, 9)
) -> StructureBatch:
    """Molecules with the energy sum_Z n_Z e_Z + sum_{i<j} strength / (r_ij^2 + 1)^(1/2).

    Forces are the exact gradient, so a model can learn both from the same geometry. Three
    consecutive structures form a group.
    """
    rng = np.random.default_rng(seed)
    num_atoms = rng.integers(*atoms, count)
    numbers = rng.choice(list(ELEMENT_ENERGIES_EV), num_atoms.sum())
    positions = (1.5 * rng.normal(size=(num_atoms.sum(), 3))).astype(np.float32)
    energies, forces = [], []
    for part, z in zip(
        np.split(positions.astype(np.float64), np.cumsum(num_atoms)[:-1]),
        np.split(numbers, np.cumsum(num_atoms)[:-1]),
        strict=True,
    ):
        vector = part[:, None] - part[None]
        softened = np.sqrt((vector**2).sum(-1) + 1)
        np.fill_diagonal(softened, np.inf)
        energies.append(
            sum(ELEMENT_ENERGIES_EV[int(n)] for n in z) + 0.5 * (strength / softened).sum()
        )
        forces.append((strength * vector / softened[..., None] ** 3).sum(axis=1))
    return StructureBatch.from_labels(
        num_atoms=num_atoms,
        atomic_numbers=numbers,
        positions=positions,
        energy=np.array(energies),
        forces=np.concatenate(forces),
        group=np.arange(count) // 3 + 1000 * seed,
    )


def rewrite(
    batch: StructureBatch,
    *,
    seed: int,
    moved: bool = False,
    turned: bool = False,
    reordered: bool = False,
    wrapped: bool = False,
) -> StructureBatch:
    """The same geometries written differently, rounded to float32 again; forces turn with them."""
    rng = np.random.default_rng(seed)
    positions, forces = batch.positions.astype(np.float64), batch.forces.astype(np.float64)
    numbers, cells = batch.atomic_numbers.copy(), batch.cell.astype(np.float64)
    for index, (first, last) in enumerate(zip(batch.offsets, batch.offsets[1:], strict=False)):
        atoms = slice(int(first), int(last))
        if moved:
            positions[atoms] += rng.uniform(-20, 20, 3)
        if wrapped:
            images = rng.integers(-2, 3, (last - first, 3)) * batch.pbc[index]
            positions[atoms] += images @ cells[index]
        if turned:
            # The Q of a random matrix is a random rotation, once its sign is that of one.
            turn = np.linalg.qr(rng.normal(size=(3, 3))).Q
            turn *= np.linalg.det(turn)
            positions[atoms], forces[atoms] = positions[atoms] @ turn, forces[atoms] @ turn
            cells[index] = cells[index] @ turn
        if reordered:
            order = rng.permutation(last - first) + first
            positions[atoms], forces[atoms] = positions[order], forces[order]
            numbers[atoms] = numbers[order]
    columns = {name: values.copy() for name, values in batch.columns().items()}
    del columns["structure_id"], columns["fingerprint"]
    columns |= {"atomic_numbers": numbers, "forces": forces, "cell": cells}
    return StructureBatch.from_labels(**{**columns, "positions": positions.astype(np.float32)})


def pack_attributes(source: str, references_ev: dict[str, float]) -> dict[str, object]:
    """What the pack stage says of the training pack of a source."""
    units = {"energy": "ev_per_atom", "force": "ev_per_angstrom"}
    return {
        "source": source,
        "seed": 0,
        "split_by": "groups",
        "leaky": False,
        "num_labels": {"energy": 1, "forces": 1, "stress": 0},
        "level_of_theory": "softened Coulomb repulsion",
        "references_ev": references_ev,
        "train_statistics": {
            f"{label}_{size}_{units[label]}": 1.0 for label in units for size in ("mean_abs", "rms")
        },
        "raw_files": {},
        "split": "train",
    }


def write_raw_manifest(workspace: Workspace, source: str, files: list[dict[str, Any]]) -> None:
    """Write what the download stage would have written of files from the archive."""
    content = {"source": source, "level_of_theory": None, "files": files}
    write_content(workspace.raw_manifest(source), RawManifest, content)


def write_extracted(
    workspace: Workspace,
    source: str,
    *batches: StructureBatch,
    given_splits: bool = False,
    isolated_atoms_ev: dict[str, float] | None = None,
) -> None:
    """Write what the extract stage would have written, one part per batch."""
    parts = []
    for index, batch in enumerate(batches):
        batch.fingerprint = fingerprints(batch)
        name = f"part-{index:05d}.bp"
        write_bp(
            workspace.extracted_folder(source) / name,
            [batch],
            num_structures=len(batch),
            num_atoms=batch.total_atoms,
            attributes={},
        )
        with BpReader(workspace.extracted_folder(source) / name) as reader:
            sizes = {"num_structures": len(batch), "num_atoms": batch.total_atoms}
            parts.append({"name": name, **sizes, "data_digest": reader.data_digest})
    nothing_found = Findings().as_dict()
    labels = {**nothing_found["labels"], "isolated_atoms_ev": isolated_atoms_ev or {}}
    write_content(
        workspace.extracted_manifest(source),
        ExtractedManifest,
        {
            "source": source,
            "level_of_theory": "softened Coulomb repulsion",
            "given_splits": given_splits,
            "rows": sum(map(len, batches)),
            "dropped": {},
            "files": [
                {
                    "name": f"made-up-{index}" if index else "made-up",
                    "sha256": "0" * 64,
                    "rows": len(batch),
                    "dropped": {},
                    "damage": [],
                    "checks": nothing_found,
                }
                for index, batch in enumerate(batches)
            ],
            "checks": {**nothing_found, "labels": labels},
            "parts": parts,
        },
    )


def make_workspace(folder: Path, sizes: dict[str, int]) -> Workspace:
    """Packs of made-up sources that differ in size and in the strength of their repulsion."""
    workspace = Workspace(raw=folder / "raw", results=folder / "results")
    for index, (source, size) in enumerate(sizes.items()):
        batch = make_structures(size, seed=index + 1, strength=1.0 + index)
        write_extracted(workspace, source, batch)
        settings = NormalizeSettings(val_fraction=0.15, test_fraction=0.15)
        normalize.run(source, workspace=workspace, settings=settings, seed=0)
        pack.run(source, workspace=workspace, settings=PackSettings(), seed=0)
    return workspace
