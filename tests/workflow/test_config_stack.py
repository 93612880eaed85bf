"""A stack of configuration files means one thing, whether mtlpar or Snakemake reads it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkout import copy_checkout, make_small, run_snakemake, warm_jobs
from snakemake.api import SnakemakeApi
from snakemake.cli import parse_config
from snakemake.settings.types import ConfigSettings, OutputSettings, ResourceSettings
from warm import warm_python

from mtlpar.config import Config, load_config

pytestmark = pytest.mark.workflow

BELOW = """\
seed: 1
sources: [ani1x, qm7x]
train: {epochs: 3, max_gradient_norm: 10.0, source_weights: {ani1x: 2.0}}
normalize: {reference_energies: {qm7x: {H: -13.6}}}
models:
  mtl: {branches: {ani1x: [ani1x], qm7x: [qm7x]}}
  tuned:
    branches: {ani1x: [ani1x]}
    start_from: {model: mtl, branches: {ani1x: ani1x}}
    train: {epochs: 1}
"""
# What the rules file of the workflow begins with.
SNAKEFILE = """\
configfile: "config.yaml"
from mtlpar.flow import snakefile as flow
CONFIG = flow.read_config(workflow, config)
rule all:
"""

Read = Callable[..., Config]


@pytest.fixture
def by_mtlpar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Read files over config.yaml as `mtlpar --config FILE ... --set KEY=VALUE` does."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(BELOW)

    def read(files: list[Path], overrides: list[str]) -> Config:
        dotted = [override.replace("__", ".") for override in overrides]
        return load_config([Path("config.yaml"), *files], dotted)

    return read


@pytest.fixture
def by_snakemake(by_mtlpar: Read, tmp_path: Path) -> Read:
    """Read them as `snakemake --configfile FILE ... --config KEY=VALUE` does."""
    (tmp_path / "Snakefile").write_text(SNAKEFILE)

    def read(files: list[Path], overrides: list[str]) -> Config:
        settings = ConfigSettings(
            config=parse_config(overrides), configfiles=files, config_args=overrides
        )
        with SnakemakeApi(OutputSettings()) as api:
            workflow = api.workflow(
                resource_settings=ResourceSettings(cores=1),
                config_settings=settings,
                snakefile=tmp_path / "Snakefile",
            )
            config: Config = workflow._workflow.globals["CONFIG"]
        return config

    return read


def branches(config: Config) -> dict[str, dict[str, tuple[str, ...]]]:
    return {name: entry.branches for name, entry in config.models.items()}


BOTH = {"ani1x": ("ani1x",), "qm7x": ("qm7x",)}
TUNED = {"ani1x": ("ani1x",)}
EPOCHS = "train.epochs"

# Files over BELOW, overrides, and what comes of them.
STACKS: dict[str, tuple[list[str], list[str], dict[str, Any]]] = {
    "branches replace those below": (
        ["models: {mtl: {branches: {ani1x: [ani1x]}}}"],
        [],
        {"mtl": {"ani1x": ("ani1x",)}, "tuned": TUNED},
    ),
    "branches get other names": (
        ["models: {mtl: {branches: {small: [qm7x], large: [ani1x]}}, tuned: {start_from: null}}"],
        [],
        {"mtl": {"small": ("qm7x",), "large": ("ani1x",)}, "tuned": TUNED},
    ),
    "null takes one branch away and leaves the others": (
        ["models: {mtl: {branches: {qm7x: null}}}"],
        [],
        {"mtl": {"ani1x": ("ani1x",)}, "tuned": TUNED},
    ),
    "a branch beside a null is added": (
        ["models: {mtl: {branches: {qm7x: null, small: [qm7x]}}}"],
        [],
        {"mtl": {"ani1x": ("ani1x",), "small": ("qm7x",)}, "tuned": TUNED},
    ),
    "models are added and taken away": (
        ["models: {tuned: null, one: {branches: {one: [qm7x]}}}"],
        [],
        {"mtl": BOTH, "one": {"one": ("qm7x",)}},
    ),
    "the last file counts": (
        [
            "models: {mtl: {branches: {a: [ani1x]}}, tuned: null}",
            "models: {mtl: {branches: {b: [qm7x]}}}",
        ],
        [],
        {"mtl": {"b": ("qm7x",)}},
    ),
    "another start brings its own branches": (
        [
            "models: {other: {branches: {o: [qm7x]}}, "
            "tuned: {branches: {t: [ani1x]}, start_from: {model: other, branches: {t: o}}}}"
        ],
        [],
        {"mtl": BOTH, "tuned": {"t": ("ani1x",)}, "other": {"o": ("qm7x",)}},
    ),
    "lists are replaced": (
        ["sources: [qm7x]\ntrain: {source_weights: {}}\nmodels: {mtl: null, tuned: null, "
         "one: {branches: {one: [qm7x]}}}"],
        [],
        {"one": {"one": ("qm7x",)}},
    ),
    "values are merged key by key": (["train: {epochs: 7}"], [], {EPOCHS: 7}),
    "null is a value": (
        ["train: {max_gradient_norm: null}"], [], {"train.max_gradient_norm": None}
    ),
    "an empty mapping replaces": (
        ["normalize: {reference_energies: {}}"], [], {"normalize.reference_energies": {}}
    ),
    "an override comes last": (["train: {epochs: 7}"], ["train__epochs=5"], {EPOCHS: 5}),
    "of two overrides the last counts": ([], ["train={epochs: 4}", "train__epochs=5"], {EPOCHS: 5}),
    "an override of one branch leaves the others": (
        [], ["models__mtl__branches__small=[qm7x]", "models__mtl__branches__qm7x=null"],
        {"mtl": {"ani1x": ("ani1x",), "small": ("qm7x",)}, "tuned": TUNED},
    ),
    "an override of all branches replaces them": (
        [], ["models__mtl__branches={all: [ani1x, qm7x]}", "models__tuned=null"],
        {"mtl": {"all": ("ani1x", "qm7x")}},
    ),
    "an override may be null": (
        [], ["train__max_gradient_norm=null"], {"train.max_gradient_norm": None}
    ),
    "nothing is null": ([], ["train__max_gradient_norm="], {"train.max_gradient_norm": None}),
    "an override may be empty": (
        [], ["normalize__reference_energies={}"], {"normalize.reference_energies": {}}
    ),
    "an override of a whole block is merged": (
        [], ["train={epochs: 5}"], {"train.source_weights": {"ani1x": 2.0}}
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule", STACKS)
def test_both_lay_files_and_overrides_over_each_other_by_the_same_rules(
    by_mtlpar: Read, by_snakemake: Read, tmp_path: Path, rule: str
) -> None:
    texts, overrides, expected = STACKS[rule]
    files = [tmp_path / f"{number}.yaml" for number in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text + "\n")
    config = by_mtlpar(files, overrides)
    assert by_snakemake(files, overrides) == config
    # What stages read has no trace of what was taken away.
    assert Config.model_validate(config.model_dump(mode="json")) == config
    settings = {key: value for key, value in expected.items() if "." in key}
    for key, value in settings.items():
        block, name = key.split(".")
        assert getattr(getattr(config, block), name) == value
    # What no layer speaks of is as it was.
    assert config.seed == 1
    assert branches(config) == ({"mtl": BOTH, "tuned": TUNED} if settings else expected)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: 2\ntrain: {epoch: 7}\n", r"train\.epoch: unknown key.*mine\.yaml, line 2"),
        # Snakemake's own reading takes it for 8.
        ("seed: 010\n", r"mine\.yaml: seed: YAML reads 010 as 8"),
    ],
)
def test_both_say_where_a_mistake_is(by_mtlpar: Read, tmp_path: Path, text: str, said: str) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(text)
    with pytest.raises(ValueError, match=said):
        by_mtlpar([mine], [])
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    command = [*warm_python(), "-m", "snakemake", "--dry-run", "--configfile", str(mine)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.search(said, done.stdout + done.stderr)


def test_jobs_of_a_scheduler_read_what_was_planned(tmp_path: Path) -> None:
    # They are given files and overrides on a command line of their own, and merge them again.
    checkout = copy_checkout(tmp_path / "mtlpar")
    make_small(checkout)
    mine = checkout / "mine.yaml"
    mine.write_text("models: {mtl: {branches: {other: [qm7x]}}}\n")
    submit = tmp_path / "submit"
    submit.write_text('#!/bin/sh\nsh "$1" > "$1.log" 2>&1\necho 1\n')
    submit.chmod(0o755)
    overrides = ["train__max_gradient_norm=null", "models__more={branches: {m: [ani1x, qm7x]}}"]
    with warm_jobs(checkout):
        status, output = run_snakemake(
            checkout, "results/extracted/qm7x/manifest.json", "--cores", "2", "--jobs", "1",
            "--executor", "cluster-generic", "--cluster-generic-submit-cmd", str(submit),
            "--cluster-generic-status-cmd", "sh -c 'echo success'",
            "--seconds-between-status-checks", "1",
            "--configfile", str(mine), "--config", *overrides,
        )  # fmt: skip
    assert status == 0, output[-5000:]
    # The plan says which branches a model gets, if a file changes them.
    assert f"models.mtl.branches: other ['qm7x'] ({mine}, line 1), not ani1x, qm7x" in output, (
        output[-5000:]
    )
    record = json.loads((checkout / "results/provenance/extract/qm7x.json").read_text())
    read_by_the_job = load_config([checkout / record["config"]])
    dotted = [override.replace("__", ".") for override in overrides]
    assert load_config([checkout / "config.yaml", mine], dotted) == read_by_the_job
