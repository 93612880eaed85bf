"""What is made of leaky splits says so, from the pack to the model and its errors."""

from pathlib import Path

from helpers import make_structures, write_extracted
from training import run_alone

from mtlpar.core.files import read_json
from mtlpar.core.paths import Workspace
from mtlpar.evaluate import stage as evaluate
from mtlpar.evaluate.settings import EvaluateSettings
from mtlpar.model.describe import describe_model
from mtlpar.model.file import load_model
from mtlpar.normalize import stage as normalize
from mtlpar.normalize.settings import NormalizeSettings
from mtlpar.pack import stage as pack
from mtlpar.pack.settings import PackSettings
from mtlpar.report.pack_figure import draw_pack
from mtlpar.report.pack_text import pack_text
from mtlpar.store.summary import summarize


def test_splits_by_frames_are_labelled_in_packs_models_and_metrics(tmp_path: Path) -> None:
    # A model file travels without its tables, and a pack without its ledger.
    workspace = Workspace(raw=tmp_path / "raw", results=tmp_path / "results")
    for source, split in (("ani1x", "frames"), ("qm7x", "groups")):
        write_extracted(workspace, source, make_structures(60, seed=1))
        settings = NormalizeSettings(split=split, val_fraction=0.2, test_fraction=0.2)
        normalize.run(source, workspace=workspace, settings=settings, seed=0)
        pack.run(source, workspace=workspace, settings=PackSettings(), seed=0)
        summary = summarize(workspace.pack(source, "test"), everything=True)
        is_leaky = split == "frames"
        assert ("LEAKY" in pack_text(summary)) == is_leaky
        assert ("leaky" in draw_pack(summary).get_suptitle()) == is_leaky
    branches = {"a": ("ani1x",), "b": ("qm7x",)}
    run_alone(workspace, branches, epochs=1, source_weights={})
    assert "LEAKY SPLITS (ani1x)" in describe_model(load_model(workspace.model("mtl")))
    sources = ("ani1x", "qm7x")
    evaluate.run("mtl", workspace=workspace, settings=EvaluateSettings(), sources=sources, seed=0)
    found = [read_json(workspace.metrics("mtl", source))["split_by"] for source in sources]
    assert found == ["frames", "groups"]
