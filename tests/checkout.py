"""Copies of the repository that tests may run, edit and break."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from helpers import REPOSITORY
from warm import warm_environment, warm_python, with_warm_programs

from mtlpar.core.yaml_text import dump_yaml, load_yaml

_KEPT = ("src", "rules", "workflow", "profiles", "envs", "Snakefile", "config.yaml")
_SMALL_SOURCES = ("ani1x", "qm7x")


def copy_checkout(folder: Path) -> Path:
    """Copy what a run needs into a new folder."""
    folder.mkdir(parents=True)
    for name in _KEPT:
        path = REPOSITORY / name
        if path.is_dir():
            # With bytecode, of which a copy that is edited needs most again.
            shutil.copytree(path, folder / name)
        else:
            shutil.copy(path, folder / name)
    return folder


def make_small(checkout: Path, *, with_conservative: bool = False) -> None:
    """Leave two sources and the models that learn from both, tiny and for two epochs."""
    path = checkout / "config.yaml"
    config = load_yaml(path.read_text())
    config["sources"] = list(_SMALL_SOURCES)
    branches = {source: [source] for source in _SMALL_SOURCES}
    conservative = config["models"]["mtl_conservative"] | {"train": {"epochs": 1}}
    config["models"] = {"mtl": {"branches": branches}}
    if with_conservative:
        config["models"]["mtl_conservative"] = conservative | {"branches": branches}
    # Short edges are few.
    config["model"]["graph"]["cutoff_angstrom"] = 3.0
    config["model"]["encoder"] = {"width": 8, "layers": 1}
    config["train"] |= {"epochs": 2, "batch_structures": 128, "warmup_steps": 0}
    config["report"]["dpi"] = 50
    path.write_text(dump_yaml(config))


def partly_run(finished: Path, checkout: Path) -> Path:
    """Copy a finished small run without its doctor, one of its two sources and what needs that.

    A job of each kind is left to do, where it is about schedulers and not about data.
    """
    shutil.copytree(finished, checkout)
    shutil.rmtree(checkout / "logs")
    results = checkout / "results"
    made = ("models", "checkpoints", "metrics", "predictions", "tables", "figures")
    for name in (*made, *(f"provenance/{stage}" for stage in ("train", "evaluate", "report"))):
        shutil.rmtree(results / name)
    for path in [results / "doctor.json", *results.glob(f"*/{_SMALL_SOURCES[0]}*")]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return checkout


def edit_profile(checkout: Path, profile: str, changes: Mapping[str, Any]) -> None:
    """Replace single values of a profile; keys are dotted, None removes one."""
    path = checkout / "profiles" / profile / "config.yaml"
    content = load_yaml(path.read_text())
    for key, value in changes.items():
        block = content
        *parents, last = key.split(".")
        for parent in parents:
            block = block.setdefault(parent, {})
        block[last] = value
        if value is None:
            del block[last]
    path.write_text(dump_yaml(content))


def start_snakemake(
    checkout: Path,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    output: IO[str] | int = subprocess.PIPE,
    python: Sequence[str] = (sys.executable,),
) -> subprocess.Popen[str]:
    """Start Snakemake on the code of a copy; it hears Ctrl-C as in a terminal."""
    return subprocess.Popen(
        [*python, "-m", "snakemake", *arguments],
        cwd=checkout,
        env=environment_of(checkout, environment),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=_hear_ctrl_c,
    )


def run_snakemake(
    checkout: Path,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 1500,
) -> tuple[int, str]:
    """Run Snakemake in a copy; returns its exit status and what it printed.

    Snakemake and the commands of its rules are forks of what has imported everything before; where
    the environment has programs of its own, as of a scheduler, they start as those of users do, but
    for an environment whose programs are those of `warm_environment`.
    """
    variables = {"PATH": with_warm_programs(os.environ["PATH"]), **(environment or {})}
    warm = str(warm_environment())
    is_warm = f"{warm}/bin" in variables["PATH"] or variables.get("MTLPAR_ENV") == warm
    python = warm_python() if is_warm else [sys.executable]
    process = start_snakemake(checkout, *arguments, environment=variables, python=python)
    return finish(process, timeout_s=timeout_s)


@contextmanager
def warm_jobs(checkout: Path) -> Iterator[None]:
    """Let the Snakemake that jobs of a scheduler start be a fork too, for as long as this lasts."""
    path = checkout / "Snakefile"
    text = path.read_text()
    python = str(warm_environment() / "bin" / "python")
    # At the end: rules look for programs beside the real one.
    path.write_text(f"{text}\nimport sys\n\nsys.executable = {python!r}\n")
    yield
    path.write_text(text)


def finish(process: subprocess.Popen[str], *, timeout_s: float = 1500) -> tuple[int, str]:
    """Wait for a Snakemake that was started; one that hangs is killed and shown."""
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        raise AssertionError(f"no end after {timeout_s} s:\n{output[-5000:]}") from None
    return process.returncode, output


def run_mtlpar(
    checkout: Path, arguments: Sequence[str], environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command of mtlpar in a copy."""
    return subprocess.run(
        [*warm_python(), "-m", "mtlpar", *arguments],
        cwd=checkout,
        env=environment_of(checkout, environment),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def environment_of(checkout: Path, changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """Environment in which the copied code runs, not the installed one."""
    return {
        **os.environ,
        "PYTHONPATH": str(checkout / "src"),
        "MTLPAR_ENV": sys.prefix,
        **(changes or {}),
    }


def _hear_ctrl_c() -> None:
    # Background processes of a script ignore SIGINT, and Python then never raises it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
