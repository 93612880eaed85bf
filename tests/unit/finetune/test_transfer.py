"""The transfer study trains what it says it trains, on the labels it says, within one budget."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.io import read, write
from helpers import make_structures

from mtlpar.cli.stages import run_stage_here
from mtlpar.config.load import check_config
from mtlpar.core.files import read_json
from mtlpar.core.paths import Workspace
from mtlpar.evaluate import stage as evaluate
from mtlpar.evaluate.settings import EvaluateSettings
from mtlpar.finetune import transfer

STARTS = {"mtl": ["heads", "replay"]}


def _write_family(path: Path) -> None:
    batch = make_structures(60, seed=7, strength=2.0)
    text = io.StringIO()
    for index in range(len(batch)):
        atoms = slice(batch.offsets[index], batch.offsets[index + 1])
        frame = Atoms(batch.atomic_numbers[atoms], batch.positions[atoms])
        frame.info |= {
            "energy": float(batch.energy[index]),
            "group": f"molecule {index // 2}",
            "part": "test" if index < 12 else "pool",
        }
        frame.arrays["forces"] = batch.forces[atoms].astype(np.float64)
        write(text, frame, format="extxyz", write_results=False)
    path.write_bytes(gzip.compress(text.getvalue().encode()))


def _config(start: Workspace, family: Path, **study: Any) -> dict[str, Any]:
    families = {"fresh": {"file": str(family), "level_of_theory": "other/level", "single": "mtl"}}
    return {
        "paths": {"raw": str(start.raw), "results": str(start.results)},
        "sources": ["ani1x", "qm7x", "mptrj"],
        "model": {"encoder": {"width": 12, "layers": 2}, "head": {"width": 12, "layers": 1}},
        "models": {"mtl": {"branches": {name: [name] for name in ("ani1x", "qm7x", "mptrj")}}},
        "study": {
            "transfer": {
                "families": families,
                "labels": [6, 20],
                "starts": STARTS,
                "steps": 20,
                **study,
            }
        },
    }


@pytest.fixture
def tested(start: Workspace, tmp_path: Path) -> Workspace:
    """The trained model with its errors on the test sets of pre-training."""
    workspace = Workspace(raw=start.raw, results=tmp_path / "results")
    workspace.results.mkdir()
    for name in ("packed", "models"):
        (workspace.results / name).symlink_to(start.results / name)
    sources = ("ani1x", "qm7x", "mptrj")
    evaluate.run("mtl", workspace=workspace, settings=EvaluateSettings(), sources=sources, seed=0)
    return workspace


@pytest.fixture
def family(tmp_path: Path) -> Path:
    path = tmp_path / "fresh.extxyz.gz"
    _write_family(path)
    return path


def test_a_record_has_every_start_with_every_number_of_labels(
    tested: Workspace, family: Path, tmp_path: Path
) -> None:
    trained: dict[str, list[int]] = {}

    def run(stage: str, option: str, target: str) -> None:
        run_stage_here(stage, option, target)
        if stage == "train":
            lines = Path(f"results/models/{target}/metrics.jsonl").read_text().splitlines()
            trained.setdefault(target, []).append(sum('"kind": "step"' in one for one in lines))
            labelled = [len(read(f"{part}.extxyz", index=":")) for part in ("train", "val")]
            assert sum(labelled) == int(Path.cwd().name)

    config = check_config(_config(tested, family), where="test")
    out = tmp_path / "record.json"
    transfer.run(out, config=config, family="fresh", seed=3, command=run)
    record = read_json(out)
    found = [(cell["labels"], cell["start"], cell["mode"]) for cell in record["cells"]]
    assert found == [
        (labels, start, mode)
        for labels in (6, 20)
        for start, mode in ((None, ""), ("mtl", "heads"), ("mtl", "replay"))
    ]
    # One budget: whatever the number of labels and whatever is replayed beside them.
    assert set(trained) == {"scratch", "mtl_heads", "mtl_replay"}
    assert all(steps == [20, 20] for steps in trained.values())
    for cell in record["cells"]:
        assert set(cell["errors"]) == {"energy", "forces"}
        if cell["start"] is None:
            assert cell["pretraining"] == {}
        if cell["mode"] == "heads":
            # The encoder stood still: what was known is known to the last digit.
            assert cell["pretraining"] == record["before"]["mtl"]
        if cell["mode"] == "replay":
            assert cell["pretraining"] != record["before"]["mtl"]
    assert not list(tmp_path.glob(".record*"))


def test_a_family_with_too_few_structures_is_refused_before_any_training(
    start: Workspace, family: Path, tmp_path: Path
) -> None:
    config = check_config(_config(start, family, labels=[10, 100]), where="test")
    with pytest.raises(ValueError, match=r"has 48 structures to learn from, expected 100"):
        transfer.run(
            tmp_path / "out.json", config=config, family="fresh", seed=0, command=_not_called
        )


def test_a_structure_of_neither_part_is_named(
    start: Workspace, family: Path, tmp_path: Path
) -> None:
    # "train" and "val" are what other data sets call them.
    text = gzip.decompress(family.read_bytes()).decode()
    wrong = {"train": ("part=pool", "frame 12 has the part 'train'"), "": ("part=test", "no struc")}
    for part, (old, told) in wrong.items():
        path = tmp_path / "wrong.extxyz"
        path.write_text(text.replace(old, f"part={part or 'pool'}"))
        config = check_config(_config(start, path), where="test")
        with pytest.raises(ValueError, match=told):
            transfer.run(
                tmp_path / "out.json", config=config, family="fresh", seed=0, command=_not_called
            )


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"no structures\n", "frame 0: ASE cannot read it: "),
        (b"1\npart=test\nH 0 0 0\n1\npart=pool\nH 0 0 nought\n", "frame 1: ASE cannot read it: "),
        (b"1\npart=test\nH 0 0 0\n2\npart=pool\nH 0 0 0\n", "ASE cannot read it: "),
        (b"\xff\xfe\x00\x01" * 20, "frame 0: ASE cannot read it: "),
        (b"", "no structure of the part test"),
    ],
)
def test_a_family_that_ase_cannot_read_is_named_with_what_is_expected(
    start: Workspace, tmp_path: Path, content: bytes, told: str
) -> None:
    path = tmp_path / "wrong.extxyz"
    path.write_bytes(content)
    config = check_config(_config(start, path), where="test")
    with pytest.raises(ValueError, match=rf"wrong\.extxyz.*{told}"):
        transfer.run(
            tmp_path / "out.json", config=config, family="fresh", seed=0, command=_not_called
        )


def _not_called(*words: str) -> None:
    raise AssertionError(words)


def test_a_start_that_no_model_is_called_is_refused_when_the_study_is_asked_for(
    start: Workspace, family: Path, tmp_path: Path
) -> None:
    # Not before: whoever removes a model from the default configuration need not know of studies.
    content = _config(start, family, starts={"base": ["full"]})
    config = check_config(content, where="test")
    with pytest.raises(ValueError, match="no model is called 'base'; there are mtl"):
        transfer.run(
            tmp_path / "out.json", config=config, family="fresh", seed=0, command=_not_called
        )


def test_a_family_cannot_have_the_name_of_a_source(start: Workspace, family: Path) -> None:
    described = {"file": str(family), "level_of_theory": "other/level", "single": "mtl"}
    content = _config(start, family, families={"qm7x": described})
    with pytest.raises(ValueError, match="must be an identifier that no source has"):
        check_config(content, where="test")
