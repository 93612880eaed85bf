"""envs/: pins are the tested ones, and what the rules of an environment import is in it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.workflow

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = sorted(ROOT.glob("envs/*.yaml"))
OF_RULES = {
    "data": ("download.stage", "extract.stage", "normalize.stage", "normalize.leaks", "pack.stage"),
    "train-cpu": ("train.stage", "evaluate.stage", "machine.doctor", "study.memory"),
    "report": ("report.stage", "report.studies"),
}
# What every command imports, with its stage.
COMMANDS = ("cli", "flow.records", "flow.snakefile")
MODULE_OF = {"pyyaml": "yaml", "torch-geometric": "torch_geometric"}

_IMPORT_WITHOUT = """
import importlib, sys
absent = sys.argv[1].split(",")
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in absent:
            raise ImportError(f"{name} is not in the environment")
sys.meta_path.insert(0, Finder())
for module in sys.argv[2:]:
    importlib.import_module(module)
"""


def packages(file: Path) -> dict[str, str]:
    """Version by name of what an environment lists."""
    content = yaml.safe_load(file.read_text())
    *listed, last = content["dependencies"]
    listed += last["pip"] if isinstance(last, dict) else [last]
    pairs = (re.sub(" *=+", "==", entry).partition("==") for entry in listed)
    return {normal(name): version for name, _, version in pairs}


def requirements(*extras: str) -> set[str]:
    """Names of what the package asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return {normal(re.split("[<>=]", line)[0]) for line in lines}


def normal(name: str) -> str:
    return name.strip().lower().replace("_", "-")


@pytest.mark.parametrize("file", ENVIRONMENTS, ids=lambda file: file.stem)
def test_pins_are_the_tested_versions(file: Path) -> None:
    tested = {
        normal(name): version
        for name, _, version in (
            line.partition("==") for line in (ROOT / "constraints.txt").read_text().splitlines()
        )
        if version
    }
    assert yaml.safe_load(file.read_text())["channels"] == ["conda-forge", "nodefaults"]
    listed = packages(file)
    pins = {name: listed[name].split("+")[0] for name in listed.keys() & tested.keys()}
    assert pins == {name: tested[name] for name in pins}
    # Nothing else but what every environment has.
    others = {name for name in listed.keys() - tested.keys() if not name.startswith("--")}
    assert others == {"python", "pip", "setuptools"}


@pytest.mark.parametrize("file", ENVIRONMENTS, ids=lambda file: file.stem)
def test_the_python_is_the_tested_one(file: Path) -> None:
    # Pins of compiled packages hold for one Python; the package itself takes newer ones too.
    tested = re.search(r"Python (\d+\.\d+)", (ROOT / "constraints.txt").read_text())
    assert tested
    assert packages(file)["python"] == tested[1]
    lowest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    numbers = [tuple(map(int, text.split("."))) for text in (tested[1], lowest.strip(">="))]
    assert numbers[0] >= numbers[1]


@pytest.mark.parametrize("device", ["cuda", "rocm", "xpu"])
def test_an_environment_for_gpus_has_everything(device: str) -> None:
    # mpi4py is built by hand, with the MPI of the machine.
    missing = requirements("workflow") - packages(ROOT / f"envs/train-{device}.yaml").keys()
    assert missing == set()


@pytest.mark.parametrize("name", OF_RULES)
def test_rules_import_nothing_that_their_environment_lacks(name: str) -> None:
    absent = requirements("workflow") - packages(ROOT / f"envs/{name}.yaml").keys()
    modules = [f"mtlpar.{module}" for module in (*COMMANDS, *OF_RULES[name])]
    absent_modules = ",".join(MODULE_OF.get(package, package) for package in absent)
    result = subprocess.run(
        [sys.executable, "-c", _IMPORT_WITHOUT, absent_modules, *modules],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_environments_of_rules_get_the_package() -> None:
    rules = "".join(path.read_text() for path in ROOT.glob("rules/*.smk"))
    used = set(re.findall(r'envs/([\w-]+)\.yaml"', rules))
    assert used == OF_RULES.keys()
    for name in used:
        assert "--editable ." in (ROOT / "envs" / f"{name}.post-deploy.sh").read_text()
