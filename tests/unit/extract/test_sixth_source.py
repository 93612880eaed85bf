"""A sixth source without touching the library: by a package of one's own, or by configuration.

The packages and files here are those of ``docs/add_a_source.md``, taken from its text.
"""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from helpers import REPOSITORY

from mtlpar.cli import main
from mtlpar.config import load_config
from mtlpar.core.files import read_json
from mtlpar.download.catalogue import read_catalogue
from mtlpar.sources import registry

PAGE = REPOSITORY / "docs" / "add_a_source.md"


def from_the_page(name):
    """The block of the page whose first line is a comment with this file name."""
    found = re.search(rf"```\w*\n(?:#|//) {re.escape(name)}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None, f"{PAGE.name} has no block for {name}"
    return found[1]


@pytest.fixture
def prepare(tmp_path, monkeypatch):
    """Run the data stages as a user with that configuration would; returns the ledger."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    registry._plug_ins.cache_clear()

    def run(config):
        (tmp_path / "config.yaml").write_text(config)
        for stage in ("download", "extract", "normalize", "pack"):
            assert main([stage]) == 0
        return read_json(tmp_path / "results" / "ledger" / "water.json")

    yield run
    registry.define_custom_sources({})
    registry._plug_ins.cache_clear()


@pytest.mark.parametrize("command", [["check"], ["format", "--diff"]], ids=["check", "format"])
def test_the_reader_of_the_page_is_written_as_the_project_wants_it(command):
    # Whoever copies it gets no complaint from `make lint`.
    options = [
        "--config",
        REPOSITORY / "pyproject.toml",
        "--stdin-filename",
        "water_source.py",
        "-",
    ]
    result = subprocess.run(
        [sys.executable, "-m", "ruff", *command, *options],
        input=from_the_page("water_source.py"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def structures(count):
    rng = np.random.default_rng(0)
    for index in range(count):
        atoms = Atoms("OH2", positions=rng.normal(size=(3, 3)), info={"cluster": f"w{index // 4}"})
        atoms.calc = SinglePointCalculator(
            atoms, energy=rng.normal(-10.0), forces=rng.normal(size=(3, 3))
        )
        yield atoms


def test_a_source_of_another_package_goes_from_file_to_pack(tmp_path, prepare):
    # As pip would install it: a module, and metadata that declare the entry point.
    (tmp_path / "water_source.py").write_text(from_the_page("water_source.py"))
    project = from_the_page("pyproject.toml")
    entry_point = re.search(r'\[project\.entry-points\."(.*)"\]\n(.*)\n', project)
    metadata = tmp_path / "water_source-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: water-source\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        f"[{entry_point[1]}]\n" + entry_point[2].replace('"', "") + "\n"
    )
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    frames = [
        {
            "cluster": atoms.info["cluster"],
            "elements": atoms.get_chemical_symbols(),
            "positions": atoms.positions.tolist(),
            "energy": None if index == 7 else atoms.calc.results["energy"],
            "forces": atoms.calc.results["forces"].tolist(),
        }
        for index, atoms in enumerate(structures(40))
    ]
    (mirror / "water.jsonl").write_text("".join(f"{json.dumps(frame)}\n" for frame in frames))
    ledger = prepare(from_the_page("config.yaml with a package"))
    assert ledger["rows"] == 40
    assert ledger["dropped"] == {"missing_energy": 1}
    assert ledger["train"] + ledger["val"] + ledger["test"] == 39


def test_a_source_of_the_configuration_goes_from_file_to_pack(tmp_path, prepare):
    config = yaml.safe_load(from_the_page("config.yaml"))
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    frames = list(structures(40))
    del frames[5].calc.results["forces"]
    write(mirror / "water_1.xyz", frames[:25], format="extxyz")
    write(mirror / "water_2.xyz", frames[25:], format="extxyz")
    ledger = prepare(yaml.safe_dump(config))
    assert ledger["rows"] == 40
    assert ledger["dropped"] == {}
    manifest = read_json(tmp_path / "results" / "extracted" / "water" / "manifest.json")
    assert [file["rows"] for file in manifest["files"]] == [25, 15]
    assert manifest["level_of_theory"] == config["custom_sources"]["water"]["level_of_theory"]


def test_refused_options_cost_no_results(tmp_path, prepare):
    # A stage that starts removes first what says that it is done.
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    write(mirror / "water_1.xyz", list(structures(40)), format="extxyz")
    prepare(from_the_page("config.yaml"))
    before = _files(tmp_path)
    for line in (
        ["extract", "--jobs", "0"],
        ["extract", "--share", "2-of-2"],
        ["extract", "--share", "../0-of-2"],
        ["normalize", "--jobs", "-1"],
        ["leaks", "--jobs", "0"],
        ["pack", "--jobs", "0"],
    ):
        assert main(line) == 1
    assert _files(tmp_path) == before


def _files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_catalogue_row_of_the_page_is_one(tmp_path):
    header = (REPOSITORY / "workflow" / "sources.csv").read_text().splitlines()[0]
    path = tmp_path / "sources.csv"
    path.write_text(f"{header}\n{from_the_page('workflow/sources.csv')}")
    assert [row.file for row in read_catalogue(path)] == ["water_1.xyz"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("custom_sources.water.format=xyz", "custom_sources.water.format: input should be"),
        ("custom_sources.water.energy_kye=e", "energy_kye: unknown key"),
        ("custom_sources.ani1x={format: db, files: [x], level_of_theory: X}", "that no reader has"),
        ("sources=[ice]", "sources: no reader is called 'ice'; known readers: .*water"),
    ],
)
def test_mistakes_in_a_description_are_named(tmp_path, change, message):
    (tmp_path / "config.yaml").write_text(from_the_page("config.yaml"))
    with pytest.raises(ValueError, match=message):
        load_config([tmp_path / "config.yaml"], [change])


def test_files_of_the_same_name_in_folders_of_their_own_mirror_are_told_apart(tmp_path, prepare):
    # As programs leave them: a folder per run. The mirror of the other sources is not looked at.
    config = yaml.safe_load(from_the_page("config.yaml"))
    config["custom_sources"]["water"] |= {
        "files": ["run*/frames.xyz"],
        "mirrors": [str(tmp_path / "runs")],
    }
    frames = list(structures(40))
    for run, part in (("run1", frames[:25]), ("run2", frames[25:])):
        (tmp_path / "runs" / run).mkdir(parents=True)
        write(tmp_path / "runs" / run / "frames.xyz", part, format="extxyz")
    # Neither a file above nor one below the folders of the pattern belongs to the source.
    write(tmp_path / "runs" / "frames.xyz", frames[:1], format="extxyz")
    (tmp_path / "runs" / "run1" / "old").mkdir()
    write(tmp_path / "runs" / "run1" / "old" / "frames.xyz", frames[:1], format="extxyz")
    ledger = prepare(yaml.safe_dump(config))
    assert ledger["rows"] == 40
    assert {file["name"]: file["rows"] for file in ledger["files"]} == {
        "run1/frames.xyz": 25,
        "run2/frames.xyz": 15,
    }
