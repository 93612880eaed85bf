"""A model file is what was saved, or it is refused: torch itself loads flipped bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import edit_model, make_network

import mtlpar
from mtlpar.cli import main
from mtlpar.core.references import References
from mtlpar.model.file import load_model, save_model
from mtlpar.model.saved import SavedModel


@pytest.fixture
def path(tmp_path: Path) -> Path:
    network = make_network()
    file = tmp_path / "model.pt"
    save_model(
        file,
        state=network.state_dict(),
        settings=network.settings,
        branches={"a": ("molecules",), "b": ("crystals",)},
        references={name: References({"H": -13.6}) for name in ("molecules", "crystals")},
        level_of_theory={"molecules": "GFN2-xTB", "crystals": "PBE"},
        training={"seed": 0, "best_score": 0.25, "data": {"molecules": "0" * 64}},
    )
    return file


def _all_of(model: SavedModel) -> tuple[object, ...]:
    weights = {name: value.numpy().tobytes() for name, value in model.network.state_dict().items()}
    plain = (model.branches, model.references, model.level_of_theory, model.training)
    return weights, model.settings.model_dump_json(), repr(plain)


@pytest.mark.long
def test_no_flipped_bit_changes_what_is_loaded(path: Path) -> None:
    # Of 120 such files 113 loaded with other weights, up to 3e37: torch compares no checksum.
    whole, expected = path.read_bytes(), _all_of(load_model(path))
    drawn = np.random.default_rng(0).integers(0, 8 * len(whole), size=200)
    refusals = []
    for bit in drawn.tolist():
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            found = load_model(path)
        except ValueError as error:
            refusals.append(str(error))
        else:
            # Such as a date in the archive's directory.
            assert _all_of(found) == expected
    assert len(refusals) > 100
    assert all(str(path) in refusal and "\n" not in refusal for refusal in refusals)


@pytest.mark.parametrize(
    "edit",
    [
        lambda content: content["state"]["heads.a.energy.0.weight"].mul_(1.0001),
        lambda content: content["references_ev"]["crystals"].update(H=-13.5),
        lambda content: content["branches"].update(a=["crystals"], b=["molecules"]),
        lambda content: content["training"].update(best_score=0.2),
        lambda content: content.update(format_version=4),
        lambda content: content.update(note="added"),
        # Tensors of one shape that changed places: the bytes are all there.
        lambda content: content["state"].update(
            {
                "heads.a.energy.0.weight": content["state"]["heads.b.energy.0.weight"],
                "heads.b.energy.0.weight": content["state"]["heads.a.energy.0.weight"],
            }
        ),
        lambda content: content["state"].update(
            {"heads.a.energy_scale": content["state"]["heads.a.energy_scale"].reshape(1)}
        ),
    ],
)
@pytest.mark.parametrize("command", ["info", "check"])
def test_an_edited_file_is_refused(
    path: Path,
    edit: Callable[[dict[str, Any]], object],
    command: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = torch.load(path, weights_only=True)
    edit(content)
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"damaged or was edited: the digest .* copy it again"):
        mtlpar.load_model(path)
    with pytest.raises(ValueError, match="damaged or was edited"):
        mtlpar.Calculator(path, source="molecules")
    assert main([command, str(path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_file_of_this_version_without_digest_is_refused(path: Path) -> None:
    # Else one would only have to leave it out.
    edit_model(path, lambda _: None, digest=False)
    with pytest.raises(ValueError, match="is damaged: it has no digest"):
        load_model(path)


def test_an_older_file_loads_and_says_that_it_carries_no_digest(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(path)]) == 0
    shown = capsys.readouterr()
    assert f"digest        {load_model(path).digest}" in shown.out
    assert shown.err == ""
    edit_model(path, lambda content: content.update(format_version=5), digest=False)
    assert load_model(path).digest is None
    assert main(["info", str(path)]) == 0
    shown = capsys.readouterr()
    assert "digest        none" in shown.out
    assert "has no digest: an older version of mtlpar wrote it" in shown.err


def test_the_digest_does_not_depend_on_how_the_file_is_laid_out(path: Path) -> None:
    # Another version of torch may store the same tensors otherwise.
    before = load_model(path)
    content = torch.load(path, weights_only=True)
    name = "heads.a.energy.0.weight"
    content["state"][name] = content["state"][name].t().contiguous().t()
    torch.save(content, path, _use_new_zipfile_serialization=False)
    after = load_model(path)
    assert after.digest == before.digest
    assert _all_of(after) == _all_of(before)


@pytest.mark.long
def test_no_weight_is_left_as_it_lay_in_memory(path: Path) -> None:
    # Loading draws none: what the file lacks would be whatever was there before.
    for name in torch.load(path, weights_only=True)["state"]:
        whole = path.read_bytes()
        edit_model(path, lambda content, name=name: content["state"].pop(name))
        with pytest.raises(ValueError, match="do not fit its settings"):
            load_model(path)
        path.write_bytes(whole)
