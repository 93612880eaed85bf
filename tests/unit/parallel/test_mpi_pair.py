"""A launcher and a library of two MPIs are told apart before ranks abort in a library's words."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mtlpar.machine.software import check_mpi
from mtlpar.parallel import launch
from mtlpar.parallel.launch import Geometry
from mtlpar.parallel.mpi_pair import MpiPair, look_at

pytest.importorskip("mpi4py")

OPEN_MPI = "mpiexec (Open MPI) 5.0.11"
HYDRA = "HYDRA build details:\n    Version: 5.0.2"


@pytest.fixture
def launcher_that_says(tmp_path: Path):
    """Write a launcher that says this of itself."""

    def write(words: str) -> str:
        path = tmp_path / "mpiexec"
        path.write_text(f"#!/bin/sh\ncat << EOF\n{words}\nEOF\n")
        path.chmod(0o755)
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
    monkeypatch.setattr("mtlpar.machine.software.find_program", lambda _: program)
    (finding,) = check_mpi()
    assert (finding.check, finding.level) == ("MPI", "FAULT")
    assert program in finding.result
    assert "MPI4PY_LIBMPI" in finding.advice


def test_two_libraries_of_one_family_belong_together() -> None:
    pair = MpiPair("mpiexec", "MPICH", "Intel(R) MPI Library 2021.14", "/opt/libmpi.so.12")
    assert not pair.differ
