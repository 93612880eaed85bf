"""Verdicts of the compatibility study, and what it suggests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtlpar.core.files import write_json
from mtlpar.core.measurements import CompatibilityRecord
from mtlpar.core.paths import Workspace
from mtlpar.report.compatibility import (
    Measured,
    compatibility_grid,
    ratio_of,
    suggested_branches,
)
from mtlpar.report.studies import write_study
from mtlpar.study.records import mixtures

SOURCES = ("one", "two", "three")
NOISE = (0.99, 1.0, 1.01)


def _records(*, difference: float = 0.01, shared: int = 50) -> list[dict[str, Any]]:
    """Three seeds in which one gains by two, two loses nothing by one, and three harms both."""
    factors = {("one", "two"): 0.5, ("one", "three"): 2.0, ("two", "three"): 1.5}
    records = []
    for seed, noise in enumerate(NOISE):
        for mixture in mixtures(SOURCES):
            errors = {}
            for source in mixture:
                others = [other for other in mixture if other != source]
                factor = np.prod([factors.get((source, other), 1.0) for other in others])
                errors[source] = {"energy": 0.1 * factor * (noise if others else 1.0)}
                if source != "three":
                    errors[source]["forces"] = errors[source]["energy"] * 2
            levels = {
                "same": False,
                "shared": shared if mixture == ("one", "two") else 0,
                "mean": difference if mixture == ("one", "two") else None,
                "spread": 0.0 if mixture == ("one", "two") else None,
            }
            cosines = {"one two": 0.5, "one three": -0.2, "two three": 0.0}
            records.append(
                {
                    "sources": list(mixture),
                    "seed": seed,
                    "epochs": 3,
                    "errors": errors,
                    "cosines": cosines if mixture == SOURCES else {},
                    "levels": levels if len(mixture) == 2 else None,
                }
            )
    return records


def _typed(records: list[dict[str, Any]]) -> list[CompatibilityRecord]:
    return [CompatibilityRecord.model_validate_json(json.dumps(record)) for record in records]


def test_a_verdict_needs_a_difference_beyond_the_spread_of_the_seeds() -> None:
    alone = (1.0, 1.0, 1.0)
    assert ratio_of((0.8, 0.81, 0.79), alone).verdict == "gain"
    assert ratio_of((1.2, 1.21, 1.19), alone).verdict == "harm"
    # Better in all three seeds, and yet nothing is known: the spread is as large as the gain.
    assert ratio_of((0.99, 0.7, 0.9), alone).verdict == "undecided"


def test_only_a_narrow_interval_says_that_there_is_no_effect() -> None:
    # Two seeds, one degree of freedom: their interval says next to nothing, whatever their mean.
    assert ratio_of((1.0, 1.0, 1.01), (1.0, 1.0, 1.0)).verdict == "none"
    assert ratio_of((1.03, 0.97), (1.0, 1.0)).verdict == "undecided"
    # Beyond doubt, and not worth speaking of: sources that harm each other get no common branch.
    assert ratio_of((1.01, 1.01, 1.011), (1.0, 1.0, 1.0)).verdict == "none"


def test_the_interval_is_that_of_student() -> None:
    ratio = ratio_of((np.e, 1.0, np.exp(-1.0)), (1.0, 1.0, 1.0))
    # Logarithms 1, 0 and -1: standard error 1/sqrt(3), and t(0.975, 2) = 4.3027 from tables.
    assert np.log(ratio) == pytest.approx([0.0, -4.3027 / np.sqrt(3), 4.3027 / np.sqrt(3)], 1e-4)


def test_seeds_are_compared_with_themselves() -> None:
    # Seeds that differ by a factor of nine, and always halve: pooled, the spread would hide it.
    assert ratio_of((0.5, 1.5, 4.5), (1.0, 3.0, 9.0)).verdict == "gain"


def test_directions_of_a_pair_have_verdicts_of_their_own() -> None:
    rows = {
        (row[0].text, row[1].text): [cell.text for cell in row]
        for row in compatibility_grid(_typed(_records())).rows
    }
    assert len(rows) == 9
    assert rows["one", "two"][2] == "0.50"
    assert rows["one", "two"][4] == "gain"
    assert rows["two", "one"][4] == "none"
    assert rows["one", "three"][7] == "harm"
    # Three has no forces; what nobody shares is a dash.
    assert rows["three", "one"][5:8] == ["–"] * 3
    assert rows["one", "three"][8:] == ["-0.20", "–", "–", "–"]
    # The difference changes its sign with the direction.
    assert rows["one", "two"][9:11] == ["50", "0.0100"]
    assert rows["two", "one"][9:11] == ["50", "-0.0100"]


@pytest.mark.parametrize(
    ("difference", "shared", "expected"),
    [
        (0.01, 50, [("one", "two"), ("three",)]),
        # Larger than the error of 0.1 eV/atom alone: one branch cannot say both.
        (0.2, 50, [("one",), ("two",), ("three",)]),
        # Too few geometries to know.
        (0.01, 2, [("one",), ("two",), ("three",)]),
    ],
)
def test_a_branch_is_shared_where_levels_differ_by_less_than_the_error(
    difference: float, shared: int, expected: list[tuple[str, ...]]
) -> None:
    records = _records(difference=difference, shared=shared)
    assert suggested_branches(Measured.of(_typed(records))) == expected


def test_harm_keeps_sources_of_one_level_apart() -> None:
    records = _records()
    for record in records:
        if record["levels"]:
            record["levels"]["same"] = True
    assert suggested_branches(Measured.of(_typed(records))) == [("one", "two"), ("three",)]


def test_table_and_figure_are_written(tmp_path: Path) -> None:
    workspace = Workspace(raw=tmp_path, results=tmp_path)
    paths = []
    for record in _records():
        name = f"{'+'.join(record['sources'])}-{record['seed']}"
        paths.append(workspace.study_record("compatibility", name))
        write_json(paths[-1], record)
    write_study("compatibility", paths, workspace=workspace, dpi=40)
    written = {path.suffix for path in workspace.studies.glob("compatibility.*")}
    assert {".csv", ".md", ".tex", ".svg", ".png"} <= written
