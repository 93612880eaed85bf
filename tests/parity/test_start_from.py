"""A model that starts from another one begins where that one ended, on any layout."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.data import chemical_symbols
from helpers import make_structures, write_extracted
from networks import edit_model
from training import BRANCHES, MODEL, TRAIN, ask_to_stop, losses, run_alone, run_ranks

from mtlpar.calculator import Calculator
from mtlpar.core.paths import Workspace
from mtlpar.core.structures import StructureBatch
from mtlpar.evaluate import stage as evaluate
from mtlpar.evaluate.settings import EvaluateSettings
from mtlpar.model.file import load_model
from mtlpar.model.predict import predict_batches
from mtlpar.model.saved import SavedModel
from mtlpar.model.settings import ModelSettings
from mtlpar.normalize import stage as normalize
from mtlpar.normalize.settings import NormalizeSettings
from mtlpar.pack import stage as pack
from mtlpar.pack.settings import PackSettings
from mtlpar.parallel.agree import Interrupted
from mtlpar.parallel.ranks import RankContext
from mtlpar.store.dataset import PackedDataset
from mtlpar.store.pack import Pack
from mtlpar.train import stage
from mtlpar.train.recipe import Start

# A rate so small that no weight moves: what comes out is what went in.
STILL = {"learning_rate": 1e-300, "epochs": 1, "weight_decay": 0.0, "source_weights": {}}
OFFSETS = {"H": -3.0, "C": 250.0, "O": -41.0}


def _start(
    workspace: Workspace,
    branches: dict[str, tuple[str, ...]],
    new: dict[str, str],
    *,
    model: ModelSettings = MODEL,
    mode: str = "full",
    keep_branches: bool = True,
    **changes: object,
) -> SavedModel:
    stage.run(
        "next",
        branches=branches,
        workspace=workspace,
        model_settings=model,
        settings=TRAIN.model_copy(update={**STILL, **changes}),
        seed=1,
        context=RankContext(0, 1, torch.device("cpu")),
        start=Start(
            path=workspace.model("mtl"), new_branches=new, mode=mode, keep_branches=keep_branches
        ),
    )
    return load_model(workspace.model("next"))


def _predictions(model: SavedModel, structures: StructureBatch, branch: str) -> np.ndarray:
    pieces = predict_batches(
        model.network, structures, branch=branch, graph=MODEL.graph, batch_atoms=500
    )
    return np.concatenate([np.append(part.energy_per_atom, part.forces) for part in pieces])


def _test_set(workspace: Workspace, source: str) -> StructureBatch:
    return PackedDataset(Pack.open(workspace.pack(source, "test"))).structures


def _add_source(
    workspace: Workspace, name: str, structures: StructureBatch, **settings: float
) -> None:
    """Packs of one more source, beside those that are linked."""
    linked = workspace.results / "packed"
    target = linked.resolve()
    linked.unlink()
    linked.mkdir()
    for source in target.iterdir():
        (linked / source.name).symlink_to(source)
    write_extracted(workspace, name, structures)
    fractions = NormalizeSettings(val_fraction=0.2, test_fraction=0.2)
    normalize.run(name, workspace=workspace, settings=fractions, seed=0)
    pack.run(name, workspace=workspace, settings=PackSettings(), seed=0)


@pytest.fixture(scope="module")
def base(five_sources: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A model of three sources; read only."""
    results = tmp_path_factory.mktemp("base")
    (results / "packed").symlink_to(five_sources.results / "packed")
    workspace = Workspace(raw=five_sources.raw, results=results)
    branches = {name: BRANCHES[name] for name in ("ani1x", "qm7x", "mptrj")}
    run_alone(workspace, branches, epochs=2, learning_rate=1e-2)
    return workspace


@pytest.fixture
def trained(base: Workspace, copy_of: Callable[[Workspace], Workspace]) -> Workspace:
    workspace = copy_of(base)
    workspace.model("mtl").parent.mkdir(parents=True)
    workspace.model("mtl").write_bytes(base.model("mtl").read_bytes())
    return workspace


def test_branches_that_stay_predict_the_same_and_those_without_data_are_kept(
    trained: Workspace,
) -> None:
    before = load_model(trained.model("mtl"))
    branches = {name: BRANCHES[name] for name in ("ani1x", "mptrj", "transition1x")}
    after = _start(trained, branches, {"transition1x": "ani1x"})
    assert list(after.branches) == ["ani1x", "mptrj", "transition1x", "qm7x"]
    for source in ("ani1x", "qm7x", "mptrj"):
        structures = _test_set(trained, source)
        np.testing.assert_array_equal(
            _predictions(after, structures, source), _predictions(before, structures, source)
        )
        # Data that the start has learned keep their references, also those that are not here.
        assert after.references[source] == before.references[source]
        assert after.level_of_theory[source] == before.level_of_theory[source]
        assert after.training["data"][source] == before.training["data"][source]
    assert after.training["drift"]["qm7x"]["energy_ev_per_atom"] == 0


def test_branches_without_data_are_left_behind_where_that_is_asked_for(trained: Workspace) -> None:
    after = _start(trained, {"ani1x": ("ani1x",)}, {}, keep_branches=False)
    assert after.sources == ("ani1x",)
    assert after.training["drift"] == {}


def test_a_new_branch_predicts_what_the_one_it_starts_from_predicts(trained: Workspace) -> None:
    branches = {"transition1x": ("transition1x",)}
    after = _start(trained, branches, {"transition1x": "ani1x"})
    theirs = load_model(trained.model("mtl")).network.heads["ani1x"].state_dict()
    for name, tensor in after.network.heads["transition1x"].state_dict().items():
        assert torch.equal(tensor, theirs[name]), name


def relabelled(start: SavedModel, source: str, count: int) -> StructureBatch:
    """Structures with the energies of a model's branch and an offset for each element."""
    structures = make_structures(count, seed=77)
    reference = start.references[source]
    (part,) = predict_batches(
        start.network, structures, branch=source, graph=MODEL.graph, batch_atoms=10**6
    )
    offsets = np.array([OFFSETS.get(symbol, 0.0) for symbol in chemical_symbols])
    owner = np.repeat(np.arange(count), structures.num_atoms)
    moved = np.bincount(owner, offsets[structures.atomic_numbers])
    structures.energy[:] = (
        part.energy_per_atom * structures.num_atoms + reference.sums(structures) + moved
    )
    structures.forces[:] = part.forces
    return structures


def test_references_of_a_new_level_of_theory_are_those_that_fit_the_start(
    trained: Workspace,
) -> None:
    # The new level is the old one plus offsets of hundreds of eV: nothing is left to learn, if
    # these go into the references. A fit to the energies alone would leave an error of 0.1 eV/atom.
    before = load_model(trained.model("mtl"))
    _add_source(trained, "new", relabelled(before, "ani1x", 60))
    after = _start(trained, {"new": ("new",)}, {"new": "ani1x"})
    for symbol, energy in before.references["ani1x"].energies_ev.items():
        expected = energy + OFFSETS.get(symbol, 0.0)
        assert after.references["new"].energies_ev[symbol] == pytest.approx(expected, abs=1e-5)
    evaluate.run("next", workspace=trained, settings=EvaluateSettings(), sources=("new",), seed=0)
    metrics = json.loads(trained.metrics("next", "new").read_text())
    assert metrics["energy_mae_ev_per_atom"] < 1e-6
    # Predicting the mean is judged with the references of the packs, whatever the model has.
    assert metrics["zero_predictor"]["energy_mae_ev_per_atom"] > 1e-4


def test_what_the_new_data_leave_open_stays_as_in_the_start(trained: Workspace) -> None:
    # Of one formula there is one offset: it is shared by the elements alike, and elements that are
    # not there keep theirs.
    before = load_model(trained.model("mtl"))
    structures = relabelled(before, "ani1x", 40)
    kind = structures.take(np.full(40, 5))
    rng = np.random.default_rng(0)
    kind.positions[:] += rng.normal(scale=0.05, size=kind.positions.shape).astype(np.float32)
    kind.structure_id[:] = rng.integers(1, 2**60, 40)
    kind.group[:] = np.arange(40) // 2
    _add_source(trained, "narrow", kind)
    after = _start(trained, {"narrow": ("narrow",)}, {"narrow": "ani1x"})
    old, new = before.references["ani1x"].energies_ev, after.references["narrow"].energies_ev
    here = {chemical_symbols[z] for z in kind.atomic_numbers}
    shifts = {round(new[symbol] - old[symbol], 6) for symbol in here}
    assert len(shifts) == 1
    assert shifts != {0.0}
    assert all(new[symbol] == old[symbol] for symbol in set(old) - here)


def _scale(path: Path, **factors: float) -> None:
    def edit(content: dict[str, Any]) -> None:
        for label, factor in factors.items():
            content["state"][f"heads.ani1x.{label}_scale"] *= factor

    edit_model(path, edit)


def test_a_start_that_is_a_little_worse_than_the_mean_is_a_warning(
    trained: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    # A start of little training, whose encoder is worth having all the same.
    # Errors are 1.2 and 1.3 times those of the mean then.
    _scale(trained.model("mtl"), energy=3000, force=100)
    with caplog.at_level("WARNING"):
        _start(trained, {"transition1x": ("transition1x",)}, {"transition1x": "ani1x"})
    assert "predicts the energy and forces worse than the mean does, before training" in caplog.text


def test_a_start_that_is_far_worse_than_the_mean_in_every_label_is_refused(
    trained: Workspace,
) -> None:
    _scale(trained.model("mtl"), energy=1e6, force=1e6)
    with pytest.raises(
        ValueError, match=r"far worse start than predicting the mean.*branches \(qm7x"
    ):
        _start(trained, {"transition1x": ("transition1x",)}, {"transition1x": "ani1x"})


def test_a_branch_that_the_start_does_not_have_is_named(trained: Workspace) -> None:
    with pytest.raises(ValueError, match=r"to start from 'oc20'; .* has ani1x, qm7x, mptrj"):
        _start(trained, {"transition1x": ("transition1x",)}, {"transition1x": "oc20"})


def moved_parts(before: SavedModel, after: SavedModel) -> set[str]:
    """Parts of the encoder of which a tensor has changed."""
    theirs = before.network.encoder.state_dict()
    return {
        ".".join(name.split(".")[: 2 if name.startswith("layers") else 1])
        for name, tensor in after.network.encoder.state_dict().items()
        if not torch.equal(tensor, theirs[name])
    }


MODES = {
    "full": {"species", "layers.0", "layers.1", "norm"},
    "heads": set(),
    "last:1": {"layers.1", "norm"},
    "lora:2": {"layers.0", "layers.1"},
}
MOVING = {"learning_rate": 1e-2, "epochs": 1, "weight_decay": 0.01}


@pytest.mark.parametrize("mode", MODES)
def test_only_what_the_mode_says_moves(trained: Workspace, mode: str) -> None:
    # Weight decay and averages move weights without a gradient, if they are asked to.
    before = load_model(trained.model("mtl"))
    branches = {"transition1x": ("transition1x",)}
    after = _start(trained, branches, {"transition1x": "ani1x"}, mode=mode, ema_decay=0.5, **MOVING)
    assert moved_parts(before, after) == MODES[mode]
    own = after.network.heads["transition1x"].state_dict()["energy.0.weight"]
    assert not torch.equal(own, before.network.heads["ani1x"].state_dict()["energy.0.weight"])
    drift = after.training["drift"]
    assert set(drift) == {"ani1x", "qm7x", "mptrj"}
    for branch in drift:
        same = np.array_equal(
            *(_predictions(one, _test_set(trained, "mptrj"), branch) for one in (before, after))
        )
        assert same == (mode == "heads")
        assert (drift[branch]["force_ev_per_angstrom"] == 0) == (mode == "heads")


def test_low_rank_updates_are_merged_into_matrices_of_that_rank(trained: Workspace) -> None:
    before = load_model(trained.model("mtl")).network.encoder.state_dict()
    branches = {"transition1x": ("transition1x",)}
    model = _start(trained, branches, {"transition1x": "ani1x"}, mode="lora:2", **MOVING)
    after = model.network.encoder.state_dict()
    assert after.keys() == before.keys()
    ranks = {
        name: int(torch.linalg.matrix_rank(after[name] - before[name], atol=1e-12))
        for name in before
        if not torch.equal(after[name], before[name])
    }
    assert ranks
    assert set(ranks.values()) == {2}


def test_the_encoder_has_a_rate_of_its_own(trained: Workspace) -> None:
    # A step of AdamW is about as long as the rate, whatever the gradient.
    before = load_model(trained.model("mtl")).network
    after = _start(trained, {"ani1x": ("ani1x",)}, {}, encoder_rate=1e-3, **MOVING).network

    def moved(name: str) -> float:
        change = after.state_dict()[name] - before.state_dict()[name]
        return float(change.abs().max())

    encoder, branch = moved("encoder.layers.1.message.weight"), moved("heads.ani1x.energy.0.weight")
    assert 0 < encoder < 1e-2 * branch


def test_a_branch_with_a_rate_of_zero_is_held_still_to_the_bit(trained: Workspace) -> None:
    # Its data go on pulling at the encoder. Weight decay would move it too, if it were not scaled.
    before = load_model(trained.model("mtl")).network.state_dict()
    branches = {name: (name,) for name in ("ani1x", "qm7x")}
    after = _start(trained, branches, {}, branch_rates={"qm7x": 0}, **MOVING).network.state_dict()
    moved = {
        part: any(
            not torch.equal(weight, before[name])
            for name, weight in after.items()
            if name.startswith(part)
        )
        for part in ("encoder.", "heads.ani1x.", "heads.qm7x.")
    }
    assert moved == {"encoder.": True, "heads.ani1x.": True, "heads.qm7x.": False}


def test_a_conservative_model_starts_from_one_of_direct_forces(trained: Workspace) -> None:
    conservative = MODEL.model_copy(
        update={"head": MODEL.head.model_copy(update={"forces": "conservative"})}
    )
    after = _start(trained, {"ani1x": ("ani1x",)}, {}, model=conservative)
    before = load_model(trained.model("mtl"))
    structures = _test_set(trained, "ani1x")
    energies = [
        next(
            predict_batches(
                one.network, structures, branch="ani1x", graph=MODEL.graph, batch_atoms=10**6
            )
        ).energy_per_atom
        for one in (before, after)
    ]
    np.testing.assert_allclose(*energies, rtol=1e-14)
    assert after.network.is_conservative
    assert not any("force." in name for name in after.network.state_dict())
    assert set(after.branches) == {"ani1x", "qm7x", "mptrj"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"encoder": {"width": 16}},
            r"encoder.width is 12 there and 16 here",
        ),
        ({"graph": {"cutoff_angstrom": 4.0}}, r"graph.cutoff_angstrom is 5.0 there and 4.0 here"),
    ],
)
def test_another_architecture_is_refused_and_the_difference_named(
    trained: Workspace, changes: Mapping[str, Mapping[str, float]], message: str
) -> None:
    plain = MODEL.model_dump()
    other = ModelSettings.model_validate(
        {**plain, **{part: {**plain[part], **values} for part, values in changes.items()}}
    )
    with pytest.raises(ValueError, match=message):
        _start(trained, {"ani1x": ("ani1x",)}, {}, model=other)


def as_atoms(structure: StructureBatch) -> Atoms:
    """One molecule as ASE has it."""
    return Atoms(structure.atomic_numbers, structure.positions)


@pytest.mark.filterwarnings("ignore:forces are not the gradient")
def test_drift_is_what_the_calculator_sees(trained: Workspace) -> None:
    branches = {"transition1x": ("transition1x",)}
    after = _start(trained, branches, {"transition1x": "ani1x"}, **MOVING)
    structures = PackedDataset(Pack.open(trained.pack("transition1x", "train"))).structures
    energies, forces = [], []
    for path in (trained.model("mtl"), trained.model("next")):
        calculator = Calculator(path, source="qm7x")
        molecules = [as_atoms(structures.slice(i, i + 1)) for i in range(len(structures))]
        energies.append([calculator.get_property("energy", one) / len(one) for one in molecules])
        forces.append(np.concatenate([calculator.get_property("forces", one) for one in molecules]))
    drift = after.training["drift"]["qm7x"]
    assert drift["num_structures"] == len(structures)
    assert drift["energy_ev_per_atom"] == pytest.approx(np.abs(np.subtract(*energies)).mean())
    assert drift["force_ev_per_angstrom"] == pytest.approx(np.abs(np.subtract(*forces)).mean())


NEW = {"own": ("transition1x",), "other": ("alexandria",), "ani1x": ("ani1x",)}
FROM = {"own": "ani1x", "other": "mptrj"}


@pytest.mark.mpi
@pytest.mark.parametrize("mode", [pytest.param("heads", marks=pytest.mark.slow), "lora:2"])
def test_ranks_take_the_steps_of_one_process_from_a_start(
    trained: Workspace, mode: str, tmp_path: Path
) -> None:
    start = tmp_path / "start.pt"
    trained.model("mtl").rename(start)
    run_alone(trained, NEW, start=Start(path=start, new_branches=FROM, mode=mode), epochs=2)
    expected = losses(trained)
    serial = load_model(trained.model("mtl"))
    trained.training_metrics("mtl").unlink()
    done = run_ranks(
        trained,
        3,
        branches=NEW,
        start={"model": str(start), "branches": FROM, "mode": mode},
        epochs=2,
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(losses(trained), expected, rtol=1e-10)
    ranks = load_model(trained.model("mtl"))
    assert ranks.references == serial.references
    for name, tensor in serial.network.state_dict().items():
        torch.testing.assert_close(ranks.network.state_dict()[name], tensor, rtol=0, atol=1e-8)


def test_an_interrupted_start_goes_on_as_if_nothing_had_been(
    trained: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = tmp_path / "start.pt"
    trained.model("mtl").rename(start)
    recipe = Start(path=start, new_branches=FROM, mode="lora:2")
    run_alone(trained, NEW, start=recipe, epochs=3)
    straight = trained.model("mtl").read_bytes()
    trained.model("mtl").unlink()
    (trained.results / "checkpoints").rename(tmp_path / "old")
    with monkeypatch.context() as patch:
        ask_to_stop(patch, in_step=7)
        with pytest.raises(Interrupted):
            run_alone(trained, NEW, start=recipe, epochs=3)
    run_alone(trained, NEW, start=recipe, epochs=3)
    assert trained.model("mtl").read_bytes() == straight


def test_another_start_is_another_training(trained: Workspace, tmp_path: Path) -> None:
    start = tmp_path / "start.pt"
    trained.model("mtl").rename(start)
    recipe = Start(path=start, new_branches=FROM, mode="heads")
    for one in (recipe, replace(recipe, mode="full"), replace(recipe, keep_branches=False)):
        run_alone(trained, NEW, start=one, epochs=1)
    assert len(list((trained.results / "checkpoints" / "mtl").iterdir())) == 3
