"""Any layout takes the same steps: one process, MTL-par and MTL-base, even and uneven.

In float64 and on data of very different sizes with odd counts, one of them with a structure or two
in a step, so that a mean of per-rank means, a trimmed batch, a padded shard or a rank without
samples would show up far above the tolerance.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from training import MODEL, TRAIN, command_line, losses, run_alone, run_ranks
from warm import warm_python

from mtlpar.core.paths import Workspace
from mtlpar.graph.collate import collate
from mtlpar.model.file import load_model
from mtlpar.model.multitask import MultiTaskModel, Segment, TargetScale
from mtlpar.store.dataset import PackedDataset
from mtlpar.store.pack import Pack
from mtlpar.train.sampler import EpochPlan

SOURCES = ("ani1x", "qm7x", "alexandria")
BRANCHES = {source: (source,) for source in SOURCES}


@pytest.fixture(scope="module")
def serial(five_sources: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The run of one process that all others must equal."""
    results = tmp_path_factory.mktemp("serial")
    (results / "packed").symlink_to(five_sources.results / "packed")
    workspace = Workspace(raw=five_sources.raw, results=results)
    run_alone(workspace, BRANCHES)
    return workspace


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("ranks", "layout", "ranks_per_copy"),
    [
        pytest.param(3, "mtl-par", None, id="one branch per rank"),
        # Two ranks take passes in the test below.
        pytest.param(2, "mtl-par", None, id="several branches per rank", marks=pytest.mark.slow),
        pytest.param(4, "mtl-par", None, id="uneven groups"),
        pytest.param(3, "mtl-base", 2, id="every branch on every rank"),
        pytest.param(2, "auto", None, id="what the planner takes", marks=pytest.mark.slow),
    ],
)
def test_twenty_steps_equal_those_of_one_process(
    serial: Workspace,
    copy_of: Callable[[Workspace], Workspace],
    ranks: int,
    layout: str,
    ranks_per_copy: int | None,
) -> None:
    workspace = copy_of(serial)
    layouts = {"layout": layout, "ranks_per_copy": ranks_per_copy}
    done = run_ranks(workspace, ranks, branches=BRANCHES, **layouts)
    assert done.returncode == 0, done.stderr
    expected, got = losses(serial), losses(workspace)
    assert len(expected) == len(got) >= 20
    np.testing.assert_allclose(got, expected, rtol=1e-10)
    reference = load_model(serial.model("mtl")).network.state_dict()
    for name, tensor in load_model(workspace.model("mtl")).network.state_dict().items():
        torch.testing.assert_close(tensor, reference[name], rtol=0, atol=1e-8, msg=name)


@pytest.mark.mpi
def test_equal_groups_on_a_two_by_two_mesh_equal_one_process(
    five_sources: Workspace, copy_of: Callable[[Workspace], Workspace]
) -> None:
    # Two branches, two ranks each, and two sources in one branch.
    branches = {"molecules": ("ani1x",), "crystals": ("mptrj", "alexandria")}
    weights = {"source_weights": {"mptrj": 0.5}}
    workspace = copy_of(five_sources)
    run_alone(workspace, branches, **weights)
    expected = losses(workspace)
    workspace.training_metrics("mtl").unlink()
    done = run_ranks(workspace, 4, branches=branches, **weights)
    assert done.returncode == 0, done.stderr
    assert "molecules: 0-1, crystals: 2-3" in done.stderr
    np.testing.assert_allclose(losses(workspace), expected, rtol=1e-10)


@pytest.mark.mpi
def test_computing_a_batch_in_passes_changes_no_step(
    serial: Workspace, copy_of: Callable[[Workspace], Workspace]
) -> None:
    # Thirty atoms are about five of the twenty structures of a step: ranks need different numbers
    # of passes, and some passes lack branches that others have.
    workspace = copy_of(serial)
    done = run_ranks(workspace, 2, branches=BRANCHES, max_atoms_per_pass=30)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(losses(workspace), losses(serial), rtol=1e-10)


@pytest.mark.mpi
def test_ranks_of_torchrun_need_no_mpi(
    serial: Workspace, copy_of: Callable[[Workspace], Workspace], tmp_path: Path
) -> None:
    # Every branch on both ranks: data that ranks of MPI would share.
    workspace = copy_of(serial)
    (tmp_path / "without" / "mpi4py").mkdir(parents=True)
    (tmp_path / "without" / "mpi4py" / "__init__.py").write_text("raise ImportError\n")
    python = warm_python()
    line = command_line(workspace, 2, branches=BRANCHES, python=python, layout="mtl-base")
    line[4:4] = ["--launcher", "torchrun"]
    path = os.pathsep.join([str(tmp_path / "without"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        line,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)},
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(losses(workspace), losses(serial), rtol=1e-10)


def test_first_step_equals_the_formula_summed_structure_by_structure(serial: Workspace) -> None:
    # An independent way to the same number: no loader, no batching, no segments.
    model = MultiTaskModel(MODEL, SOURCES, seed=0)
    packs = {source: PackedDataset(Pack.open(serial.pack(source, "train"))) for source in SOURCES}
    model.set_scales({source: _scale(packs[source]) for source in SOURCES})
    model.double()
    plan = EpochPlan({source: len(pack) for source, pack in packs.items()}, 11, seed=0)
    total = 0.0
    for source, pack in packs.items():
        chosen = plan.order(source, 0)[slice(*plan.bounds(source, 0))]
        if not len(chosen):
            continue
        energy_error = force_error = 0.0
        for index in chosen:
            one = pack.structures.take([index])
            graph = collate(one, MODEL.graph, dtype=torch.float64)
            energy, forces, *_ = model(graph, [Segment(source, 0, 1)])
            energy_error += abs(energy.item() - pack.target_ev_per_atom[index])
            force_error += np.abs(forces.detach().numpy() - one.forces).sum()
        atoms = pack.structures.num_atoms[chosen].sum()
        weight = TRAIN.source_weights.get(source, 1.0)
        total += weight * (energy_error / len(chosen) + 3.0 * force_error / (3 * atoms))
    np.testing.assert_allclose(losses(serial)[0], total, rtol=1e-12)


def _scale(pack: PackedDataset) -> TargetScale:
    statistics = pack.header.train_statistics
    return TargetScale(statistics.energy_rms_ev_per_atom, statistics.force_rms_ev_per_angstrom)
