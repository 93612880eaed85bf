"""Fixtures that several tests share."""

from __future__ import annotations

import fcntl
import gc
import importlib.util
import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import IO

import pytest
import warm
from shared import made_once
from slurm import cluster
from xdist import is_xdist_controller
from xdist.workermanage import WorkerController

from mtlpar.core.paths import Workspace

# Workers take files in turn: with the longest first none is left alone with one at the end.
# `make test-fast` leaves them out.
_LONG = (
    "slurm/test_core.py",
    "workflow/test_dag.py",
    "workflow/test_reruns.py",
    "workflow/test_pbs.py",
    "parity/test_resume.py",
    "parity/test_sharded_encoder.py",
    "parity/test_faults.py",
    "unit/finetune/test_distill.py",
    "parity/test_layouts.py",
    "workflow/test_profiles.py",
    "unit/train/test_trainer.py",
    "unit/study/test_study.py",
    "unit/extract/test_pieces.py",
    "tools/test_sample.py",
    "unit/engines/test_package.py",
    "unit/report/test_report_figures.py",
    "unit/sources/test_damaged_files.py",
    "unit/extract/test_damage.py",
    "workflow/test_adoption.py",
    "parity/test_start_from.py",
    "unit/parallel/test_launch.py",
    "parity/test_labels.py",
    "unit/train/test_extend.py",
    "unit/finetune/test_finetune.py",
    "unit/test_chaos.py",
    "unit/predict/test_predict.py",
    "unit/test_json_files.py",
    "unit/plan/test_census.py",
    "unit/finetune/test_transfer.py",
    "unit/train/test_checkpoint_checksums.py",
    "unit/download/test_interruptions.py",
)


_collects_first: IO[str] | None = None
"""Held by the worker that compiles what all import, where nobody has done so before."""


def pytest_configure_node(node: WorkerController) -> None:
    """Tell a worker whether there is bytecode, which takes much longer to make than to read."""
    torch = importlib.util.find_spec("torch")
    assert torch is not None
    assert torch.origin is not None
    bytecode = Path(importlib.util.cache_from_source(torch.origin))
    node.workerinput["is_compiled"] = bytecode.exists()


def _let_one_compile() -> None:
    """Wait for the worker that compiles, or be it."""
    global _collects_first
    file = Path(__file__).open()  # noqa: SIM115 (closed when all is collected)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _collects_first = file
    except BlockingIOError:
        with file:
            fcntl.flock(file, fcntl.LOCK_SH)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Prepare what runs tests; the process that deals them out to others imports nothing of it."""
    # Several tests share two cores: threads that wait for one another would take ten times as long.
    # The processes that tests start read the variable.
    os.environ["OMP_NUM_THREADS"] = "1"
    if is_xdist_controller(session):
        return
    if not getattr(session.config, "workerinput", {"is_compiled": True})["is_compiled"]:
        _let_one_compile()
    # Looked for after the collection.
    gc.disable()
    import torch
    from hypothesis import settings

    torch.set_num_threads(1)
    if not torch.cuda.is_available():
        # Kernels then run on the CPU, operation by operation. Triton reads this when it is
        # imported, which tests do.
        os.environ["TRITON_INTERPRET"] = "1"
    # The same examples on every run, and no test fails because a machine is busy.
    settings.register_profile("mtlpar", deadline=None, derandomize=True)
    settings.load_profile("mtlpar")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark long files and put them first, the longest one at the beginning."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(_LONG)}
    assert all(path.exists() for path in places)
    for item in items:
        if item.path in places:
            item.add_marker("long")
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage in what is imported and collected: all of it stays to the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        if _collects_first is not None:
            _collects_first.close()


@pytest.fixture(scope="session", autouse=True)
def _one_warm_server(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let the workers of a run share a server, which takes seconds to start."""
    warm.share_in(made_once(tmp_path_factory, "warm", lambda _: None))


@pytest.fixture(scope="session")
def five_sources(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Packs of five sources of very different sizes, named like the real ones; read only."""
    from helpers import make_workspace

    sizes = {"ani1x": 61, "qm7x": 34, "mptrj": 47, "alexandria": 9, "transition1x": 39}
    folder = made_once(tmp_path_factory, "five", lambda folder: make_workspace(folder, sizes))
    return Workspace(raw=folder / "raw", results=folder / "results")


@pytest.fixture(scope="session")
def straight(five_sources: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The training of `run_alone` on them, on one process from start to end; read only."""
    from training import run_alone

    def train(folder: Path) -> None:
        (folder / "packed").symlink_to(five_sources.results / "packed")
        run_alone(Workspace(raw=five_sources.raw, results=folder))

    return Workspace(raw=five_sources.raw, results=made_once(tmp_path_factory, "straight", train))


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small copy of the repository after the whole DAG ran on this machine; read only."""
    from checkout import copy_checkout, make_small, run_snakemake

    def run(folder: Path) -> None:
        checkout = copy_checkout(folder / "mtlpar")
        make_small(checkout)
        status, output = run_snakemake(checkout, "--cores", "2")
        assert status == 0, output[-5000:]

    return made_once(tmp_path_factory, "small", run) / "mtlpar"


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Workspace], Workspace]:
    """A workspace that shares packs with another one and has results of its own."""

    def copy(workspace: Workspace) -> Workspace:
        results = tmp_path / "results"
        results.mkdir()
        (results / "packed").symlink_to(workspace.results / "packed")
        return Workspace(raw=workspace.raw, results=results)

    return copy


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly that nothing was tested on a Slurm, where that is so."""
    skipped = terminalreporter.stats.get("skipped", [])
    slurm = [report for report in skipped if "tests/slurm/" in report.nodeid]
    if slurm:
        terminalreporter.section("NOT TESTED: SLURM", sep="!", red=True, bold=True)
        reason = cluster.missing() or slurm[0].longrepr[2]
        terminalreporter.line(f"{len(slurm)} tests on a real Slurm were skipped: {reason}")
