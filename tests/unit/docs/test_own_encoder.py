"""The encoder of ``docs/add_an_encoder.md``, taken from its text, obeys physics and learns."""

from __future__ import annotations

import re
import subprocess
import sys
from types import ModuleType

import pytest
import torch
from ase.build import molecule
from helpers import REPOSITORY
from networks import ELEMENTS, FORCES

from mtlpar.check.subject import subject_of
from mtlpar.check.suite import run_checks
from mtlpar.core.ase_structures import structure_batch
from mtlpar.graph.collate import collate
from mtlpar.model import multitask, settings
from mtlpar.model.multitask import MultiTaskModel, Segment
from mtlpar.model.settings import HeadSettings, ModelSettings

PAGE = (REPOSITORY / "docs" / "add_an_encoder.md").read_text(encoding="utf-8")


def _from_the_page(name: str) -> str:
    """The block of the page whose first line is a comment with this file name."""
    found = re.search(rf"```python\n# {re.escape(name)}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None, f"the page has no block for {name}"
    return found[1]


ENCODER = _from_the_page("src/mtlpar/model/convolution.py")


@pytest.fixture
def own(tmp_path, monkeypatch: pytest.MonkeyPatch) -> ModelSettings:
    """A model with the page's settings and encoder; PyG reads its source, so it is a file."""
    names = dict(vars(settings))
    exec(_from_the_page("src/mtlpar/model/settings.py"), names)
    its_settings = names["ConvolutionSettings"]
    monkeypatch.setattr(settings, "ConvolutionSettings", its_settings, raising=False)
    path = tmp_path / "own_convolution.py"
    path.write_text(ENCODER, encoding="utf-8")
    module = ModuleType("own_convolution")
    module.__file__ = str(path)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(ENCODER, path, "exec"), module.__dict__)
    monkeypatch.setitem(multitask.ENCODERS, its_settings, module.ConvolutionEncoder)
    sizes = {"width": 16, "layers": 2, "radial_basis": 6, "typical_neighbors": 4}
    model = ModelSettings(head=HeadSettings(width=16, layers=1))
    # Past the union, which the page has in words only.
    return model.model_copy(update={"encoder": its_settings(kind="convolution", **sizes)})


def make_network(own: ModelSettings, forces: str) -> MultiTaskModel:
    """A network with branches ``a`` and ``b``."""
    head = own.head.model_copy(update={"forces": forces})
    return MultiTaskModel(own.model_copy(update={"head": head}), ["a", "b"], seed=1)


@pytest.mark.parametrize("command", [["check"], ["format", "--diff"]], ids=["check", "format"])
def test_the_encoder_of_the_page_is_written_as_the_project_wants_it(command) -> None:
    name = "src/mtlpar/model/convolution.py"
    options = ["--config", REPOSITORY / "pyproject.toml", "--stdin-filename", name, "-"]
    ruff = subprocess.run(
        [sys.executable, "-m", "ruff", *command, *options],
        input=ENCODER,
        capture_output=True,
        text=True,
    )
    assert ruff.returncode == 0, ruff.stdout + ruff.stderr


@pytest.mark.long
@pytest.mark.parametrize("forces", FORCES)
def test_the_encoder_of_the_page_obeys_physics(own: ModelSettings, forces: str) -> None:
    subject = subject_of(make_network(own, forces), "a", elements=ELEMENTS, dtype=torch.float64)
    assert not [found for found in run_checks(subject) if found.is_refused]


@pytest.mark.parametrize("forces", FORCES)
def test_every_parameter_of_the_encoder_of_the_page_learns(own: ModelSettings, forces: str) -> None:
    network = make_network(own, forces).double()
    structures = structure_batch([molecule("CH3CH2OH"), molecule("H2O")])
    batch = collate(structures, network.settings.graph, dtype=torch.float64)
    energy, predicted, *_ = network(batch, [Segment("a", 0, 1), Segment("b", 1, 2)])
    ((energy**2).sum() + (predicted**2).sum()).backward()
    for name, parameter in network.encoder.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad != 0).any(), name


def test_a_model_of_pyg_reads_batches_as_the_page_says() -> None:
    names: dict[str, object] = {}
    exec(_from_the_page("crystals.py"), names)
    assert names["per_structure"].shape == (2, 16)
    # Rock salt has 6 neighbours at 2.82 Å, 12 at 3.99 and 8 at 4.88: distances of images count.
    of_crystal = names["graph"].edge_index[1] >= 9
    assert of_crystal.sum() == 2 * (6 + 12 + 8)
    assert names["distances"][of_crystal].min() == pytest.approx(2.82, abs=1e-3)
