"""A launcher and a library of two MPIs are told apart before ranks abort in a library's words."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mtlpar.machine.software import check_mpi
from mtlpar.parallel import launch
from mtlpar.parallel.launch import Geometry
from mtlpar.parallel.mpi_pair import look_at, look_at_pals, look_at_srun

pytest.importorskip("mpi4py")

OPEN_MPI = "mpiexec (Open MPI) 5.0.11"
HYDRA = "HYDRA build details:\n    Version: 5.0.2"


@pytest.fixture
def launcher_that_says(tmp_path: Path, monkeypatch):
    """Write a launcher, or another program on PATH, that says this of itself."""

    def write(words: str, name: str = "mpiexec") -> str:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\ncat << EOF\n{words}\nEOF\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        return str(path)

    return write


def test_what_is_installed_here_belongs_together_and_is_named() -> None:
    (finding,) = check_mpi()
    assert finding.level == "ok"
    # The library's own words, and the file: there may be several.
    assert "is of MPICH, mpi4py's library MPICH" in finding.result
    assert "/libmpi" in finding.result


@pytest.mark.parametrize(
    ("words", "differ"),
    [(OPEN_MPI, True), (HYDRA, False), ("Intel(R) MPI Library 2021", False), ("a script", False)],
)
def test_only_launchers_known_to_be_of_another_family_differ(
    launcher_that_says, words: str, differ: bool
) -> None:
    assert look_at(launcher_that_says(words)).differ is differ


def test_a_library_that_does_not_load_is_not_said_to_differ(
    launcher_that_says, monkeypatch
) -> None:
    # Ranks under torchrun need none.
    monkeypatch.setattr("mtlpar.parallel.mpi_pair._ASK", "raise ImportError")
    pair = look_at(launcher_that_says(OPEN_MPI))
    assert not pair.differ
    assert "none that loads" in str(pair)


def test_launch_refuses_two_mpis_and_says_what_to_set(launcher_that_says, monkeypatch) -> None:
    # Every rank would abort: "Runtime environment uses unsupported PMI version PMIx".
    program = launcher_that_says(OPEN_MPI)
    monkeypatch.setattr(launch, "find_program", lambda _: program)
    monkeypatch.setattr(launch.os, "execvpe", lambda *_: pytest.fail("started"))
    with pytest.raises(ValueError, match=r"mpiexec is of Open MPI.*MPICH.*MPI4PY_MPIABI=openmpi"):
        launch.launch(Geometry(ranks_per_node=2), [sys.executable], launcher="mpiexec")


def test_doctor_names_two_mpis_as_a_fault(launcher_that_says, monkeypatch) -> None:
    program = launcher_that_says(OPEN_MPI)
    monkeypatch.setattr(launch, "find_program", lambda _: program)
    (finding,) = check_mpi()
    assert (finding.check, finding.level) == ("MPI", "FAULT")
    assert program in finding.result
    assert "MPI4PY_LIBMPI" in finding.advice


OPEN_MPI_5 = "Open MPI v5.0.8, package: Open MPI conda@1 Distribution"


@pytest.fixture
def library_that_says(monkeypatch):
    """Let mpi4py load a library that says this of itself."""

    def load(words: str) -> None:
        monkeypatch.setattr("mtlpar.parallel.mpi_pair._ASK", f"print({words!r}); print('/lib')")

    return load


def test_two_libraries_of_one_family_belong_together(launcher_that_says, library_that_says) -> None:
    library_that_says("Intel(R) MPI Library 2021.14 for Linux* OS")
    assert not look_at(launcher_that_says(HYDRA)).differ


@pytest.mark.parametrize(
    ("plugin", "library", "differ"),
    [
        # Open MPI 5 dropped PMI-1 and PMI-2; version 4 can be built with them.
        ("pmi2", OPEN_MPI_5, True),
        ("pmi2", "Open MPI v4.1.6, package: Debian", False),
        ("pmix", OPEN_MPI_5, False),
        ("pmi2", "MPICH Version: 4.3.0", False),
        # Every process would be rank 0 of 1.
        ("none", "MPICH Version: 4.3.0", True),
        ("none", OPEN_MPI_5, True),
        ("cray_shasta", "MPI VERSION    : CRAY MPICH version 8.1.31.11", False),
        # Its own libpmi decides.
        ("pmi2", "Something else 1.0", False),
    ],
)
def test_plugins_of_srun_that_a_library_does_not_speak_differ(
    library_that_says, plugin: str, library: str, differ: bool
) -> None:
    library_that_says(library)
    assert look_at_srun(plugin).differ is differ


def test_the_default_plugin_of_a_slurm_is_looked_up(launcher_that_says, library_that_says) -> None:
    library_that_says(OPEN_MPI_5)
    launcher_that_says("MpiDefault              = none", "scontrol")
    pair = look_at_srun("")
    assert pair.differ
    assert "srun --mpi=none, mpi4py's library Open MPI v5" in str(pair)


def test_launch_refuses_a_plugin_before_srun_starts(
    launcher_that_says, library_that_says, monkeypatch
) -> None:
    library_that_says(OPEN_MPI_5)
    launcher_that_says("slurm 24.05", "srun")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("MTLPAR_SRUN_MPI", "pmi2")
    monkeypatch.setattr(launch.os, "execvpe", lambda *_: pytest.fail("started"))
    with pytest.raises(ValueError, match=r"srun --mpi=pmi2.*Open MPI v5.*pmix for Open MPI"):
        launch.launch(Geometry(nodes=2), [sys.executable])
    (finding,) = check_mpi()
    assert (finding.level, "MTLPAR_SRUN_MPI" in finding.advice) == ("FAULT", True)


def test_pals_starts_ranks_of_its_family_only(library_that_says) -> None:
    library_that_says(OPEN_MPI_5)
    assert look_at_pals("mpiexec").differ
    library_that_says("MPICH Version: 5.0.0a1 (Aurora)")
    assert not look_at_pals("mpiexec").differ
