"""A package of torch.export says what the calculator says, and what it is, without this library."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from networks import ENCODERS
from rattled import OTHER_REFERENCES, expected, rattled, write_model
from torch import Tensor

import mtlpar
from mtlpar.cli import main
from mtlpar.core.ase_structures import structure_batch
from mtlpar.engines.optional import MissingEngineError, need
from mtlpar.engines.package import FACTS, export
from mtlpar.engines.provenance import file_name
from mtlpar.graph.collate import collate
from mtlpar.model.file import load_model

# Torch's own code for saving what it traced.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


class Exported(NamedTuple):
    """A model, the package of one of its sources and what its precision allows."""

    path: Path
    source: str
    out: Path
    package: torch.nn.Module
    tolerance: float


def _inputs(structures: list, path: Path) -> list[Tensor]:
    batch = collate(
        structure_batch(structures), load_model(path).settings.graph, dtype=torch.float64
    )
    # The order of edges is the caller's.
    order = torch.randperm(batch.edge_index.shape[1], generator=torch.Generator().manual_seed(0))
    edges = batch.edge_index[:, order].contiguous()
    return [
        batch.z,
        batch.pos,
        edges,
        batch.edge_shift[order],
        batch.batch,
        batch.charge,
        batch.spin,
    ]


@pytest.fixture(scope="module", params=["float64", "float32"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Packages that between them have every encoder and every way to add up energies."""
    folder = tmp_path_factory.mktemp("package")
    if request.param == "float64":
        source, tolerance = "hybrid", 1e-6
        path = write_model(folder, encoder=ENCODERS[0], charge_and_spin=True)
    else:
        # Forces are of some eV/Å, with seven digits.
        source, tolerance = "pbe", 5e-6
        path = write_model(folder, encoder=ENCODERS[1], energy="mean", dtype=torch.float32)
    arguments = ["--source", source, "--format", "package", "--out", str(folder)]
    # What is traced differentiates, whatever mode the caller's program holds.
    with torch.inference_mode(request.param == "float32"):
        assert main(["convert", str(path), *arguments]) == 0
    (out,) = folder.glob("*.pt2")
    return Exported(path, source, out, torch.export.load(str(out)).module(), tolerance)


def test_it_says_what_the_calculator_says(exported: Exported) -> None:
    path, source, _, package, tolerance = exported
    structures = rattled()
    if tolerance > 1e-6:
        del structures["charged"]
    # All together, and each alone: sizes of one and none are what tracing takes for constants.
    for names in (list(structures), *([name] for name in structures)):
        chosen = [structures[name] for name in names]
        energies, forces, virials = package(*_inputs(chosen, path))
        by_structure = torch.split(forces, [len(atoms) for atoms in chosen])
        for index, atoms in enumerate(chosen):
            right = expected(path, atoms, source)
            assert energies[index].item() == pytest.approx(right["energy"], abs=tolerance)
            np.testing.assert_allclose(by_structure[index], right["forces"], atol=tolerance)
            if "stress" in right:
                volume = abs(np.linalg.det(atoms.cell.array))
                np.testing.assert_allclose(virials[index] / volume, right["stress"], atol=tolerance)


def test_positions_in_float32_are_refused(exported: Exported) -> None:
    numbers, positions, *rest = _inputs([rattled()["crystal"]], exported.path)
    with pytest.raises(RuntimeError, match="dtype mismatch"):
        exported.package(numbers, positions.float(), *rest)


def test_an_element_that_the_source_lacks_has_no_energy(exported: Exported) -> None:
    numbers, *rest = _inputs([rattled()["molecule"]], exported.path)
    numbers = numbers.clone()
    numbers[0] = 3
    assert exported.package(numbers, *rest)[0].isnan().all()


@pytest.mark.parametrize(
    ("level", "named"),
    [("CCSD(T)*/CBS", "CCSD_T_CBS"), ("PBE+U", "PBE_U"), ("wB97M-D3(BJ)", "wB97M-D3_BJ")],
)
def test_a_name_that_is_made_needs_no_quotes_in_a_shell(level: str, named: str) -> None:
    said = {"model_name": "mtl", "source": "own", "level_of_theory": level, "model_digest": "1" * 9}
    assert file_name(said, "pt2") == f"mtl.own.{named}.11111111.pt2"


@pytest.mark.parametrize("exported", ["float64"], indirect=True)
def test_the_file_says_what_it_is_and_needs_nothing_of_this_library(exported: Exported) -> None:
    digest = mtlpar.load_model(exported.path).digest
    out = exported.out
    assert out.name == f"rattled.hybrid.PBE0.{digest[:8]}.pt2"
    code = (
        "import json, sys, torch\n"
        f"extra = {{{FACTS!r}: ''}}\n"
        f"torch.export.load({str(out)!r}, extra_files=extra).module()\n"
        "assert 'mtlpar' not in sys.modules\n"
        f"print(extra[{FACTS!r}])\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    said = json.loads(done.stdout)
    assert (said["branch"], said["level_of_theory"]) == ("b", "PBE0")
    assert said["model_digest"] == digest
    assert json.loads(said["references_ev"])["H"] == OTHER_REFERENCES["H"]
    # Whoever exports has folders that are nobody's business.
    with zipfile.ZipFile(out) as archive:
        assert not any(b"mtlpar/" in archive.read(name) for name in archive.namelist())


@pytest.mark.parametrize("change", ["direct forces", "nearest neighbours"])
def test_what_others_would_use_wrongly_is_not_exported(change: str, tmp_path: Path) -> None:
    is_direct = change == "direct forces"
    path = write_model(tmp_path, forces="equivariant" if is_direct else "conservative")
    model = load_model(path)
    if not is_direct:
        graph = model.settings.graph
        object.__setattr__(graph, "max_neighbors", 20)
    match = "an engine differentiates" if is_direct else "the nearest 20 neighbours"
    with pytest.raises(ValueError, match=match):
        export(model, "pbe", tmp_path / "out.pt2", model_file=path)


def test_what_is_missing_is_named_with_its_package() -> None:
    with pytest.raises(MissingEngineError, match="pip install no-such-engine"):
        need("no_such_engine", install="no-such-engine")
