"""Tiny files in the native formats, and the real excerpts where they are at hand."""

import bz2
import json
import lzma
from pathlib import Path

import h5py
import numpy as np
import pytest
from qm7x_properties import write_conformation

from mtlpar.core.structures import StructureBatch
from mtlpar.sources.registry import get_source
from mtlpar.sources.settings import SourceSettings

EXCERPTS = Path(__file__).parents[4] / "shared" / "excerpts"


@pytest.fixture
def excerpt():
    """Path of a file with real bytes of a source; the test is skipped where it is not at hand."""

    def find(name):
        path = EXCERPTS / name
        if not path.is_file():
            pytest.skip(f"excerpt {name} is not here")
        return path

    return find


@pytest.fixture
def read():
    """Read a raw file whole: (batch, dropped by reason)."""

    def read_all(source, path, **labels):
        blocks = []
        for block in get_source(source).read(path, SourceSettings(**labels)):
            if block.damage:
                raise ValueError(block.damage)
            blocks.append(block)
        dropped = sum((block.dropped for block in blocks), start=type(blocks[0].dropped)())
        return StructureBatch.concatenate(block.batch for block in blocks), dict(dropped)

    return read_all


def frames(count, size, seed=0):
    """Positions (F, N, 3), energies (F,) and forces (F, N, 3) that are all different."""
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(count, size, 3)),
        rng.normal(-100, 10, size=count),
        rng.normal(size=(count, size, 3)),
    )


@pytest.fixture
def ani1x_file(tmp_path):
    """Write ``ani1x-release.h5`` from ``{formula: conformers}`` of water-like molecules."""

    def write(counts, *, change=None):
        path = tmp_path / "ani1x-release.h5"
        with h5py.File(path, "w") as file:
            for index, (formula, count) in enumerate(counts.items()):
                positions, energy, forces = frames(count, 3, index)
                group = file.create_group(formula)
                group["atomic_numbers"] = np.array([8, 1, 1], np.uint8)
                group["coordinates"] = positions.astype(np.float32)
                group["wb97x_dz.energy"] = energy
                group["wb97x_dz.forces"] = forces.astype(np.float32)
                # The other levels of theory are mostly NaN in the released file.
                group["ccsd(t)_cbs.energy"] = np.full(count, np.nan)
            if change is not None:
                change(file)
        return path

    return write


@pytest.fixture
def qm7x_file(tmp_path):
    """Write ``1000.xz`` from ``{molecule: [conformation, ...]}`` and its list of duplicates."""

    def write(molecules, *, duplicates=(), change=None):
        plain = tmp_path / "plain.hdf5"
        with h5py.File(plain, "w") as file:
            for molecule, names in molecules.items():
                for index, name in enumerate(names):
                    positions, energy, forces = frames(1, 3, index)
                    group = file.create_group(f"{molecule}/{name}")
                    numbers = np.array([8, 1, 1])
                    write_conformation(group, numbers, positions[0], energy, forces[0])
            if change is not None:
                change(file)
        path = tmp_path / "1000.xz"
        path.write_bytes(lzma.compress(plain.read_bytes()))
        plain.unlink()
        (tmp_path / "DupMols.dat").write_text("".join(f"{name}\n" for name in duplicates))
        return path

    return write


@pytest.fixture
def transition1x_file(tmp_path):
    """Write ``Transition1x.h5`` with one reaction of ``count`` frames in each top-level group."""

    def fill(group, data, *, scalar=False):
        positions, energy, forces = data
        group["atomic_numbers"] = np.array([6, 1, 1, 1])
        group["positions"] = positions
        group["wB97x_6-31G(d).energy"] = energy[0] if scalar else energy
        group["wB97x_6-31G(d).forces"] = forces

    def write(tops=("data", "test", "train", "val"), *, count=18, change=None):
        path = tmp_path / "Transition1x.h5"
        with h5py.File(path, "w") as file:
            for top in tops:
                names = ("train", "val", "test") if top == "data" else (top,)
                for name in names:
                    data = frames(count, 4, len(name))
                    group = file.create_group(f"{top}/CH3/rxn-{name}")
                    fill(group, data)
                    for end, index in (("reactant", 0), ("product", 9), ("transition_state", -3)):
                        one = [values[index : index + 1] for values in data]
                        fill(group.create_group(end), one, scalar=end == "product")
            if change is not None:
                change(file)
        return path

    return write


def site(element="Na", xyz=(0.0, 0.0, 0.0), **more):
    return {"species": [{"element": element, "occu": 1}], "xyz": list(xyz), **more}


def structure(*sites, **lattice):
    matrix = [[4.0, 0.0, 0.0], [0.0, 5.0, 0.0], [1.0, 0.0, 6.0]]
    return {"lattice": {"matrix": matrix, **lattice}, "sites": list(sites)}


@pytest.fixture
def frame():
    """One frame of MPTrj: NaCl with all its labels."""

    def make(**changes):
        return {
            "structure": structure(site("Na"), site("Cl", (1.0, 2.0, 3.0))),
            "uncorrected_total_energy": -7.5,
            "corrected_total_energy": -8.25,
            "force": [[0.0, 0.0, 0.125], [0.0, 0.0, -0.125]],
            "stress": [[10.0, 1.0, 2.0], [1.0, 20.0, 3.0], [2.0, 3.0, 30.0]],
            "magmom": None,
            **changes,
        }

    return make


@pytest.fixture
def entry():
    """One entry of Alexandria: NaCl with all its labels."""

    def make(*, sites=None, **data):
        first = site("Na", properties={"forces": [0.0, 0.0, 0.125], "charge": 3.0})
        second = site("Cl", (1.0, 2.0, 3.0), properties={"forces": [0.0, 0.0, -0.125]})
        known = {"mat_id": "agm1", "formula": "NaCl", "energy_total": -7.5, "stress": None}
        return {
            "energy": 999.0,
            "structure": structure(*((first, second) if sites is None else sites)),
            "data": {**known, **data},
        }

    return make


@pytest.fixture
def mptrj_file(tmp_path):
    """Write ``MPtrj_2022.9_full.json``."""

    def write(content):
        path = tmp_path / "MPtrj_2022.9_full.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


@pytest.fixture
def alexandria_file(tmp_path):
    """Write ``alexandria_000.json.bz2``."""

    def write(content):
        path = tmp_path / "alexandria_000.json.bz2"
        path.write_bytes(bz2.compress(json.dumps(content).encode()))
        return path

    return write
