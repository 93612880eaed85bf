"""Digests of code over syntax trees, so that only an edit that changes it runs anything again."""

from __future__ import annotations

import ast
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_PACKAGE = "mtlpar"
_ROOT = Path(__file__).parents[1]


@cache
def code_digest(module: str) -> str:
    """Digest of the code of a module and of all modules of this package that it imports.

    Snakemake does not see edits to imported modules; with this digest in ``params`` it does.
    Syntax trees are hashed without comments, docstrings and positions, so formatting, a checkout
    or a touched file never runs anything again.
    """
    digest = hashlib.sha256()
    for name in sorted(_closure(module)):
        digest.update(name.encode())
        digest.update(_code(file_of(name)).canonical)
    return digest.hexdigest()[:16]


def _closure(module: str) -> set[str]:
    """The module and everything of this package that it imports, directly or not."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _code(file_of(name)).imports
    return found


def file_of(module: str) -> Path:
    """File of a module of this package, whether it is there or not."""
    base = _ROOT.joinpath(*module.split(".")[1:])
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


@dataclass(frozen=True, slots=True)
class _Code:
    """What the digests need of a module: the modules of this package it imports, and its code."""

    imports: tuple[str, ...]
    canonical: bytes


# Each job of a cluster starts Snakemake twice, and each start reads all files: parse them once.
@cache
def _code(path: Path) -> _Code:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # "from package import name" may import a module or something inside one.
            names += [f"{node.module}.{alias.name}" for alias in node.names]
            names.append(node.module)
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            _drop_docstring(node)
    own = [name for name in names if name.startswith(f"{_PACKAGE}.")]
    imports = tuple(name for name in own if file_of(name).is_file())
    return _Code(imports, ast.dump(tree).encode())


def _drop_docstring(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef,
) -> None:
    body = node.body
    if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        node.body = body[1:]
