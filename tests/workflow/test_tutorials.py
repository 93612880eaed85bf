"""The tutorials of docs/tutorials/ run as they are written, on a small copy of the repository.

Blocks marked bash and python are run in order, and a block with a title is the file of that name.
Blocks marked sh are what cannot be run here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from checkout import copy_checkout, environment_of, make_small
from helpers import REPOSITORY

from mtlpar.cli import main
from mtlpar.sources import registry

# What they call has tests of its own that every change runs.
pytestmark = [pytest.mark.workflow, pytest.mark.slow]

PAGES = REPOSITORY / "docs" / "tutorials"
BLOCK = re.compile(
    r'^```(bash|python|yaml)(?: title="(.+?)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL
)


def run_page(name: str, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run the blocks of a page in a checkout and return what the shell printed."""
    monkeypatch.chdir(checkout)
    variables = environment_of(checkout) | {"HOME": str(checkout.parent / "home")}
    variables["XDG_CONFIG_HOME"] = str(checkout.parent / "home" / ".config")
    variables["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{variables['PATH']}"
    python: dict[str, object] = {}
    outputs = []
    blocks = BLOCK.findall((PAGES / name).read_text(encoding="utf-8"))
    assert blocks
    for language, title, text in blocks:
        if title:
            (checkout / title).write_text(text, encoding="utf-8")
        elif language == "python":
            exec(compile(text, f"{name}: python", "exec"), python)
        else:
            command = ["bash", "-euo", "pipefail", "-c", text]
            result = subprocess.run(
                command, cwd=checkout, env=variables, capture_output=True, text=True, check=False
            )
            assert result.returncode == 0, f"{text}\n{result.stdout}\n{result.stderr}"
            outputs.append(result.stdout + result.stderr)
    return outputs


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return copy_checkout(tmp_path / "mtlpar")


def test_the_quickstart(checkout, monkeypatch, capsys):
    make_small(checkout, with_conservative=True)
    outputs = run_page("quickstart.md", checkout, monkeypatch)
    assert "GFM-MTL-All" in outputs[1]
    printed = capsys.readouterr().out
    assert printed.startswith("energy: -")
    # A tutorial that replaces a model leaves what the next pages need out of date.
    assert "was made by another training" not in outputs[-1]
    # The page says that it is an error; without one nothing would follow.
    assert "Si" in printed.splitlines()[-1]


@pytest.mark.filterwarnings("ignore::mtlpar.calculator.DirectForcesWarning")
def test_dynamics(tmp_path, monkeypatch, capsys):
    # Tiny models of this file's other tests learn too little to hold a molecule together.
    results = REPOSITORY / "results"
    if not (results / "models" / "mtl_conservative" / "model.pt").exists():
        pytest.skip("needs the models of `make quickstart`")
    (tmp_path / "results").symlink_to(results)
    monkeypatch.setenv("MPLBACKEND", "agg")
    run_page("dynamics.md", tmp_path, monkeypatch)
    printed = dict(re.findall(r"^([^:\n]+): (.+)$", capsys.readouterr().out, re.MULTILINE))
    assert printed["converged"] == printed["cell converged"] == "True"
    # Translations and rotations cost nothing; the softest real mode lies above 100 / cm.
    wavenumbers = [float(one) for one in re.findall(r"[\d.]+", printed["six smallest (1/cm)"])]
    assert len(wavenumbers) == 6
    assert max(wavenumbers) < 40
    assert abs(float(printed["drift, conservative"].split()[0])) < 0.1
    assert float(printed["drift, direct"].split()[0]) > 10
    assert 270 < float(printed["mean temperature"].split()[0]) < 330
    assert float(printed["largest stress"].split()[0]) < 0.02
    assert float(printed["acoustic modes at Gamma"].split()[0]) < 0.5


def test_your_own_data(checkout, monkeypatch, capsys):
    outputs = run_page("own_data.md", checkout, monkeypatch)
    registry.define_custom_sources({})
    # What is counted is what the page promises: all of the made-up structures.
    assert '"rows": 240' in outputs[1]
    # Labels differ by their references alone from nothing: a wrong one would be tens of eV away.
    printed = dict(re.findall(r"^(\w+): (\S+) eV$", capsys.readouterr().out, re.MULTILINE))
    assert float(printed["predicted"]) == pytest.approx(float(printed["label"]), abs=3.0)
    # The end of the page: the same source in the default run.
    mine = yaml.safe_load((checkout / "mine" / "config.yaml").read_text(encoding="utf-8"))
    config = yaml.safe_load((checkout / "config.yaml").read_text(encoding="utf-8"))
    config["sources"].append("alloys")
    mirrors = re.search(r"with `mirrors: \[(.+?)\]` in that", (PAGES / "own_data.md").read_text())
    assert mirrors
    config["custom_sources"] = mine["custom_sources"]
    config["custom_sources"]["alloys"]["mirrors"] = [mirrors[1]]
    (checkout / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert main(["download", "--source", "alloys"]) == 0
    registry.define_custom_sources({})


def test_fine_tuning(checkout, monkeypatch, capsys):
    make_small(checkout, with_conservative=True)
    run_page("quickstart.md", checkout, monkeypatch)
    capsys.readouterr()
    explained, trained, looked, _ = run_page("finetuning.md", checkout, monkeypatch)
    registry.define_custom_sources({})
    assert "level of theory" in explained
    assert "parameters move" in explained
    assert "mean absolute errors on test" in trained
    assert "parity_force.png" in looked
    # Without references at the new level it would be a hundred eV away.
    printed = dict(re.findall(r"^(\w+): (\S+) eV$", capsys.readouterr().out, re.MULTILINE))
    assert float(printed["predicted"]) == pytest.approx(float(printed["label"]), abs=5.0)
    assert (checkout / "predicted.extxyz").read_text().count("energy=") == 240


def test_a_supercomputer_up_to_the_dry_run(checkout, monkeypatch):
    # The preset of the paper has something to say of the conservative model too.
    make_small(checkout, with_conservative=True)
    installed, plan, dry_run, listed = run_page("supercomputer.md", checkout, monkeypatch)
    assert "frontier" in installed
    assert "mtl-par" in plan
    assert re.search(r"^train +2$", dry_run, re.MULTILINE)
    assert "ani1x" in listed
