"""What is exported reads back in ASE to the last digit."""

from __future__ import annotations

from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms
from helpers import make_structures

from mtlpar.core.ase_structures import structure_batch
from mtlpar.core.structures import StructureBatch
from mtlpar.store.bp import write_bp
from mtlpar.store.export import export

_COUNT = 12


def _awkward_structures() -> StructureBatch:
    """Molecules, slabs and crystals with and without stress, and numbers with many digits."""
    batch = make_structures(_COUNT, seed=3)
    rng = np.random.default_rng(0)
    batch.energy[:] = rng.normal(size=_COUNT) * 1e5
    batch.positions[:4] = [[1e-7, -1e-7, 0.1], [12345.678, 1 / 3, 2 / 3], [0, -0.0, 1], [9, 8, 7]]
    batch.forces[:] = rng.normal(size=batch.forces.shape) * 10.0 ** rng.integers(-8, 3)
    batch.cell[4:] = rng.normal(size=(_COUNT - 4, 3, 3)) * 7
    batch.pbc[4:8] = (1, 1, 0)
    batch.pbc[8:] = 1
    batch.stress[6:] = rng.normal(size=(_COUNT - 6, 6)) * 1e-3
    batch.stress_mask[6:] = 1
    batch.charge[:] = rng.integers(-2, 3, _COUNT)
    batch.spin[3:] = 2
    # Hexadecimal digits that read as a float in scientific notation.
    batch.structure_id[0] = 0x12345678E0012345
    return batch


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    batch = _awkward_structures()
    write_bp(
        tmp_path / "a.bp",
        [batch.slice(0, 5), batch.slice(5, _COUNT)],
        num_structures=_COUNT,
        num_atoms=batch.total_atoms,
        attributes={"source": "made-up", "split": "val", "level_of_theory": "a softened law"},
    )
    return tmp_path / "a.bp"


def _read(path: Path) -> list[Atoms]:
    if path.suffix == ".db":
        return [
            row.toatoms(add_additional_information=True) for row in ase.db.connect(path).select()
        ]
    return list(ase.io.read(path, ":", format="extxyz"))


_CHARGE_AND_SPIN = {".extxyz": ("charge", "spin"), ".db": ("total_charge", "spin_multiplicity")}


def test_predictions_see_the_charge_and_spin_of_exported_structures(
    pack: Path, tmp_path: Path
) -> None:
    batch = _awkward_structures()
    export(pack, tmp_path / "out.extxyz")
    told = structure_batch(_read(tmp_path / "out.extxyz"))
    assert batch.charge.any()
    np.testing.assert_array_equal(told.charge, batch.charge)
    np.testing.assert_array_equal(told.spin, batch.spin)


def _facts(atoms: Atoms) -> dict[str, object]:
    return atoms.info.get("key_value_pairs", atoms.info)


@pytest.mark.parametrize("name", ["out.extxyz", "out.db"])
def test_labels_read_back_to_the_last_digit(pack: Path, tmp_path: Path, name: str) -> None:
    batch = _awkward_structures()
    assert export(pack, tmp_path / name) == _COUNT
    frames = _read(tmp_path / name)
    assert len(frames) == _COUNT
    for index, atoms in enumerate(frames):
        one = batch.slice(index, index + 1)
        np.testing.assert_array_equal(atoms.numbers, one.atomic_numbers)
        np.testing.assert_array_equal(atoms.positions.astype(np.float32), one.positions)
        np.testing.assert_array_equal(atoms.cell.array.astype(np.float32), one.cell[0])
        np.testing.assert_array_equal(atoms.pbc, one.pbc[0])
        assert atoms.get_potential_energy() == one.energy[0]
        np.testing.assert_array_equal(atoms.get_forces().astype(np.float32), one.forces)
        assert ("stress" in atoms.calc.results) == bool(one.stress_mask[0])
        if one.stress_mask[0]:
            np.testing.assert_array_equal(atoms.get_stress().astype(np.float32), one.stress[0])
        facts = _facts(atoms)
        # An ASE database has a column called charge that means something else.
        charge, spin = _CHARGE_AND_SPIN[Path(name).suffix]
        assert facts[charge] == one.charge[0]
        assert facts.get(spin, 0) == one.spin[0]
        assert (facts["source"], facts["split"]) == ("made-up", "val")
        assert int(str(facts["structure_id"]), 16) == one.structure_id[0]
        assert int(str(facts["group_id"]), 16) == one.group[0]


@pytest.mark.parametrize("name", ["out.xyz", "out.db"])
def test_a_range_across_blocks_is_exported_in_order(pack: Path, tmp_path: Path, name: str) -> None:
    assert export(pack, tmp_path / name, start=3, limit=4) == 4
    energies = [atoms.get_potential_energy() for atoms in _read(tmp_path / name)]
    assert energies == _awkward_structures().energy[3:7].tolist()


@pytest.mark.parametrize("name", ["out.extxyz", "out.db"])
def test_labels_that_are_not_there_are_not_exported(tmp_path: Path, name: str) -> None:
    # Columns hold numbers in their place, which would read as labels.
    batch = _awkward_structures()
    batch.energy_mask[0] = batch.forces_mask[1] = 0
    attributes = {"source": "made-up"}
    sizes = {"num_structures": _COUNT, "num_atoms": batch.total_atoms}
    write_bp(tmp_path / "b.bp", [batch], attributes=attributes, **sizes)
    export(tmp_path / "b.bp", tmp_path / name)
    found = [set(atoms.calc.results) - {"magmom"} for atoms in _read(tmp_path / name)]
    assert found[:3] == [{"forces"}, {"energy"}, {"energy", "forces"}]


def test_wrong_formats_and_ranges_are_refused_and_leave_nothing(pack: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'.cif'; known formats: .extxyz, .xyz, .db"):
        export(pack, tmp_path / "out.cif")
    with pytest.raises(ValueError, match="has 12 structures: none to write from 12 on"):
        export(pack, tmp_path / "out.db", start=12)
    with pytest.raises(ValueError, match="at most -1"):
        export(pack, tmp_path / "out.db", limit=-1)
    assert [path.name for path in tmp_path.iterdir()] == ["a.bp"]
