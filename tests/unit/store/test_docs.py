"""The page on the format says the truth."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import adios2
import numpy as np
import pytest
from helpers import REPOSITORY, make_structures

from mtlpar.core.fields import FIELDS
from mtlpar.store.bp import write_bp

_PAGE = (REPOSITORY / "docs" / "packs.md").read_text(encoding="utf-8")


def test_the_page_lists_the_columns_of_the_registry() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| ([SA]) \| ([\d, ]*)\| (\w+) \| (\S+) \|", _PAGE, re.MULTILINE
    )
    listed = {
        name: (level, tuple(map(int, re.findall(r"\d+", shape))), dtype, unit)
        for name, level, shape, dtype, unit in rows
    }
    assert listed == {
        name: ("S" if field.level == "structure" else "A", field.shape, field.dtype, field.unit)
        for name, field in FIELDS.items()
    }


@pytest.mark.parametrize("constant", [True, False])
def test_the_recipe_for_strangers_reads_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, constant: bool
) -> None:
    batch = make_structures(10, seed=5)
    batch.cell[:] = np.arange(9).reshape(3, 3)
    write_bp(
        tmp_path / "train.bp",
        [batch],
        num_structures=10,
        num_atoms=batch.total_atoms,
        attributes={},
        constants={"cell": batch.cell[0]} if constant else {},
    )
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", _PAGE, re.DOTALL)[0], found)
    one = batch.slice(5, 6)
    np.testing.assert_array_equal(found["numbers"], one.atomic_numbers)
    np.testing.assert_array_equal(found["positions"], one.positions)
    np.testing.assert_array_equal(found["cell"], one.cell[0])
    np.testing.assert_array_equal(found["energy"], batch.energy)


def test_plain_adios2_reads_as_the_page_warns(tmp_path: Path) -> None:
    # Should a newer ADIOS2 do better, the page has to say so.
    batch = make_structures(10, seed=5)
    path = tmp_path / "train.bp"
    write_bp(path, [batch], num_structures=10, num_atoms=batch.total_atoms, attributes={})
    with adios2.FileReader(str(path)) as file:
        part = np.asarray(file.read("energy", [2], [3]))
        np.testing.assert_array_equal(part, batch.energy[2:5])
        # Without start and count: the part of before once more.
        np.testing.assert_array_equal(file.read("energy"), part)
        past = np.asarray(file.read("energy", [8], [5]))
        np.testing.assert_array_equal(past, [*batch.energy[8:], 0, 0, 0])
        with (
            pytest.warns(RuntimeWarning, match="invalid value"),
            pytest.raises(ValueError, match="NaN"),
        ):
            file.read("energy", [2], [0])
