"""A record of the compatibility study: what was trained, and how far levels are apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training import MODEL, TRAIN

from mtlpar.core.files import read_json
from mtlpar.core.measurements import CompatibilityRecord
from mtlpar.core.paths import Workspace
from mtlpar.core.records import read_record
from mtlpar.evaluate.settings import EvaluateSettings
from mtlpar.parallel.ranks import RankContext
from mtlpar.study import compatibility
from mtlpar.study.records import measurements, mixtures
from mtlpar.study.settings import CompatibilityStudySettings, StudySettings

STUDY = CompatibilityStudySettings(epochs=3, cosine_steps=1)


def _run(workspace: Workspace, out: Path, *sources: str, are_all: bool) -> None:
    compatibility.run(
        out,
        sources=sources,
        seed=0,
        workspace=workspace,
        model=MODEL,
        training=compatibility.training_of(TRAIN, STUDY, are_all=are_all),
        testing=EvaluateSettings(),
        context=RankContext(0, 1, torch.device("cpu")),
    )


@pytest.mark.long
def test_a_record_has_errors_of_each_source_and_what_the_table_needs(
    five_sources: Workspace, tmp_path: Path
) -> None:
    out = tmp_path / "record.json"
    _run(five_sources, out, "ani1x", "qm7x", are_all=True)
    read_record(out, CompatibilityRecord, stage="study compatibility")
    record = read_json(out)
    assert {source: set(errors) for source, errors in record["errors"].items()} == {
        "ani1x": {"energy", "forces"},
        "qm7x": {"energy", "forces"},
    }
    assert set(record["cosines"]) == {"ani1x qm7x"}
    # Made of different random numbers: no geometry is in both.
    assert record["levels"]["shared"] == 0
    assert record["levels"]["mean"] is None
    assert not (five_sources.results / "models" / "together").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_a_source_beside_itself_shares_all_its_geometries(five_sources: Workspace) -> None:
    found = compatibility._levels(("ani1x", "ani1x"), five_sources)
    assert found["shared"] > 60
    assert found["mean"] == pytest.approx(0.0)
    assert found["spread"] == pytest.approx(0.0)


def test_two_sources_are_trained_together_once() -> None:
    # The pair is all there is: a second record of it would be trained for nothing.
    assert mixtures(("a", "b")) == [("a",), ("b",), ("a", "b")]
    assert len(mixtures(("a", "b", "c"))) == 7


@pytest.mark.parametrize(
    ("study", "told"),
    [("transfer", r"one in study\.transfer\.families"), ("compatibility", "at least two sources")],
)
def test_a_study_of_nothing_is_refused_before_anything_is_trained(study: str, told: str) -> None:
    # Drawn from no records it would end in an error of a list.
    with pytest.raises(ValueError, match=told):
        measurements(study, StudySettings(), ["a"])
