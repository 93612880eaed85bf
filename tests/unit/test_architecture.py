"""The shape of the code: imports point one way, and each habit has its one place."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import REPOSITORY
from warm import warm_python

from mtlpar.config.schema import STAGES, Config

PACKAGE = REPOSITORY / "src" / "mtlpar"

# A package may import itself and what stands before it, never what stands after it.
LAYERS = (
    "core", "store", "sources", "graph", "download", "extract", "normalize", "pack",
    "model", "check", "parallel", "plan", "train", "evaluate", "predict", "engines", "study",
    "report", "machine",
)  # fmt: skip
# Settings are plain values that a block above composes.
SETTINGS_OF = {"model": {"graph"}, "extract": {"sources"}}


# As the formatter writes it, anywhere in a file: to parse all that stands between takes long.
_IMPORT = re.compile(r"^ *((?:from [\w.]+ )?import (?:\([^)]*\)|.*))$", re.MULTILINE)


def _modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _imports(path: Path) -> set[str]:
    names = set()
    for node in ast.parse("\n".join(_IMPORT.findall(path.read_text(encoding="utf-8")))).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_point_one_way(layer: str) -> None:
    above = LAYERS[LAYERS.index(layer) + 1 :]
    forbidden = tuple(f"mtlpar.{name}" for name in (*above, "config", "flow", "finetune", "cli"))
    for path in (PACKAGE / layer).rglob("*.py"):
        wrong = [
            name
            for name in _imports(path)
            if any(name == start or name.startswith(f"{start}.") for start in forbidden)
        ]
        assert not wrong, f"{path.relative_to(PACKAGE)} imports {wrong}"


def test_every_package_has_a_layer() -> None:
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages == {*LAYERS, "config", "flow", "finetune", "cli"}


@pytest.mark.long
def test_pytorch_geometric_is_imported_in_one_place_and_only_when_asked_for() -> None:
    # It takes longer to import than torch, in every command and on every rank.
    users = [
        path for path in _modules() if any("torch_geometric" in name for name in _imports(path))
    ]
    assert [path.relative_to(PACKAGE).as_posix() for path in users] == ["graph/batch.py"]
    # A fork of what has imported every stage.
    code = "import sys; print(*{'mtlpar.train.stage', 'torch_geometric'} & {*sys.modules})"
    done = subprocess.run([*warm_python(), "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "mtlpar.train.stage\n"


@pytest.mark.long
def test_what_prepares_data_and_draws_does_not_import_torch() -> None:
    # Libraries in between import it if it is there. Workers are processes, and pay for it each.
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(f'mtlpar.{name}')\n"
        "    assert 'torch' not in sys.modules, name\n"
    )
    stages = ("extract.stage", "normalize.stage", "pack.stage", "store.export", "report.stage")
    done = subprocess.run(
        [sys.executable, "-c", code, *stages], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_only_what_fetches_imports_a_client_of_servers() -> None:
    # Every command and job imports the table of stages.
    code = "import sys, mtlpar.flow.table; sys.exit('httpx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_model_does_not_know_about_ranks() -> None:
    for path in (PACKAGE / "model").rglob("*.py"):
        assert not any(name.startswith("torch.distributed") for name in _imports(path)), path


def test_only_what_starts_and_joins_ranks_reads_environment_variables() -> None:
    readers = [
        path.relative_to(PACKAGE).as_posix()
        for path in _modules()
        if re.search(r"os\.environ|getenv", path.read_text(encoding="utf-8"))
    ]
    assert set(readers) == {"parallel/launch.py", "parallel/ranks.py"}


def test_the_library_does_not_print() -> None:
    for path in _modules():
        text = path.read_text(encoding="utf-8")
        nodes = ast.walk(ast.parse(text)) if "print(" in text else ()
        calls = [
            node
            for node in nodes
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
        ]
        assert not calls, path


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_one_name_everywhere(stage: str) -> None:
    assert (PACKAGE / stage / "stage.py").is_file()
    assert (PACKAGE / stage / "settings.py").is_file()
    rules = (REPOSITORY / "rules" / f"{stage}.smk").read_text(encoding="utf-8")
    assert f"mtlpar {stage} " in rules
    assert f"logs/{stage}/" in rules
    assert stage in Config.model_fields


def test_rules_hold_no_code() -> None:
    for path in [REPOSITORY / "Snakefile", *(REPOSITORY / "rules").glob("*.smk")]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"^\s+(run|script):", text, re.MULTILINE), path
        assert not re.search(r"^\s*def ", text, re.MULTILINE), path
