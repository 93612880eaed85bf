"""Options beside a profile: Snakemake lets them replace whole blocks of it, and says nothing."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from checkout import copy_checkout, edit_profile, run_mtlpar, run_snakemake
from helpers import REPOSITORY
from snakemake.cli import parse_args

from mtlpar.flow.command_line import refuse_what_drops_a_profile

pytestmark = pytest.mark.workflow

CLUSTERS = ("slurm", "frontier", "perlmutter", "aurora")


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Check a command line, with the settings that Snakemake itself reads from it."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.delenv("SNAKEMAKE_PROFILE", raising=False)

    def check(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["/usr/bin/snakemake", *arguments])
        _, options = parse_args(list(arguments))
        settings = SimpleNamespace(
            default_resources=options.default_resources,
            overwrite_resources=options.set_resources,
            overwrite_threads=options.set_threads,
        )
        refuse_what_drops_a_profile(
            SimpleNamespace(
                is_main_process=True, workdir_init=str(REPOSITORY), resource_settings=settings
            )
        )

    return check


def content_of(profile: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(
        (REPOSITORY / "profiles" / profile / "config.yaml").read_text()
    )
    return content


@pytest.mark.parametrize("profile", CLUSTERS)
def test_an_option_that_takes_launcher_or_gpus_from_a_training_is_refused(
    checked: Any, profile: str
) -> None:
    train = content_of(profile)["set-resources"]["train"]
    with pytest.raises(ValueError, match="--set-resources replaces all") as refused:
        checked("--profile", f"profiles/{profile}", "--set-resources", "train:nodes=8")
    # What the training loses is named before what other rules do.
    for name in ("gpus_per_node", "mpi"):
        assert (f"train:{name}" in str(refused.value)) == (name in train)
    assert f"Change profiles/{profile}/config.yaml instead" in str(refused.value)
    assert "wildcards.model" in str(refused.value)


@pytest.mark.parametrize("profile", CLUSTERS)
def test_an_option_that_takes_partition_or_memory_from_all_jobs_is_refused(
    checked: Any, profile: str
) -> None:
    names = list(content_of(profile)["default-resources"])
    account = next(name for name in names if name.endswith("_account"))
    with pytest.raises(ValueError, match="--default-resources replaces all") as refused:
        checked("--profile", f"profiles/{profile}", "--default-resources", f"{account}=abc")
    # mem_mb too, of which Snakemake has a default of its own.
    for name in set(names) - {account}:
        assert name in str(refused.value)
    assert f"mtlpar profiles install {profile} --account" in str(refused.value)


def test_whatever_takes_the_block_away_it_is_noticed(
    checked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = "extract_share, pack, pack_share, train"
    with pytest.raises(ValueError, match=rf"--set-threads replaces all .*: {lost}"):
        checked("--profile", "profiles/frontier", "--set-threads", "extract=3")
    # A second profile does the same, whichever way it is given.
    (tmp_path / "config.yaml").write_text("set-resources: {train: {nodes: 8}}\n")
    for option in ("--profile", "--workflow-profile"):
        with pytest.raises(ValueError, match="train:mpi"):
            checked("--profile", "profiles/frontier", option, str(tmp_path))
    monkeypatch.setenv("SNAKEMAKE_PROFILE", "profiles/frontier")
    with pytest.raises(ValueError, match="train:mpi"):
        checked("--set-resources", "train:nodes=8")


def test_what_drops_nothing_is_taken(checked: Any) -> None:
    checked()
    checked("--profile", "profiles/frontier", "--jobs", "3", "--cores", "4", "table1")
    # A laptop's profile has no such block.
    checked("--profile", "profiles/local", "--set-resources", "train:tasks_per_node=4")
    everything = [
        f"{name}={value}" for name, value in content_of("frontier")["default-resources"].items()
    ]
    checked("--profile", "profiles/frontier", "--default-resources", *everything, "qos=debug")


def test_snakemake_plans_no_training_that_lost_its_gpus(tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path / "mtlpar")
    home = {"HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": str(tmp_path / "home" / ".config")}
    done = run_mtlpar(checkout, ["profiles", "install", "frontier", "--account", "abc"], home)
    assert done.returncode == 0, done.stderr
    for profile in ("profiles/aurora", "frontier"):
        options = ("--set-resources", "train:nodes=8", "--dry-run")
        status, output = run_snakemake(checkout, "--profile", profile, *options, environment=home)
        assert status == 1, output
        assert "train:gpus_per_node" in output
        assert f"Change profiles/{Path(profile).name}/config.yaml instead" in output


@pytest.mark.parametrize("profile", ["frontier", "aurora"])
def test_one_model_gets_more_nodes_by_a_line_of_the_profile(tmp_path: Path, profile: str) -> None:
    checkout = copy_checkout(tmp_path / "mtlpar")
    # The line of the message above and of docs/machines.md.
    line = "{'mtl': 8}.get(wildcards.model, 4)"
    edit_profile(checkout, profile, {"set-resources.train.nodes": line})
    status, output = run_snakemake(checkout, "--profile", f"profiles/{profile}", "--dry-run")
    assert status == 0, output[-5000:]
    jobs = re.findall(r"^rule train:\n(?:    .*\n)*", output, re.MULTILINE)
    nodes = {
        re.findall(r"wildcards: model=(\w+)", job)[0]: re.findall(r" nodes=(\d+),", job)[0]
        for job in jobs
    }
    assert nodes.pop("mtl") == "8"
    assert set(nodes.values()) == {"4"}
    # Launcher and GPUs are still there.
    gpus = content_of(profile)["set-resources"]["train"]["gpus_per_node"]
    assert all(f"gpus_per_node={gpus}" in job for job in jobs)
