"""Digests of code over syntax trees, so that only an edit that changes it runs anything again."""

from __future__ import annotations

import ast
import hashlib
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import cache_from_source
from pathlib import Path
from typing import Final

from mtlpar.core.records import read_digested, write_digested

_PACKAGE: Final = "mtlpar"
_ROOT: Final = Path(__file__).parents[1]
_MOST_FILES: Final = 4096
"""Of how many files the code is remembered: several versions of all that there are."""


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
        digest.update(_code(file_of(name)).digest.encode())
    _seen().save()
    return digest.hexdigest()[:16]


def _closure(module: str) -> set[str]:
    """The module and everything of this package that it imports, directly or not."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += filter(_is_module, _code(file_of(name)).imports)
    return found


# The modules of a stage share most of what they import.
@cache
def _is_module(name: str) -> bool:
    return file_of(name).is_file()


def file_of(module: str) -> Path:
    """File of a module of this package, whether it is there or not."""
    base = _ROOT.joinpath(*module.split(".")[1:])
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


@dataclass(frozen=True, slots=True)
class _Code:
    """What the digests need of a module: a digest of its code, and what of this package it imports.

    What it imports may be names inside of modules; see `_closure`.
    """

    digest: str
    imports: tuple[str, ...]


class _Seen:
    """Code of modules by what their files hold, and what earlier processes found.

    Half a second goes into parsing the modules of a training, which every job of a run would do
    again. What was found lies beside Python's bytecode and is, like that, of one version of Python.
    """

    def __init__(self, path: Path) -> None:
        """Read what is known.

        Args:
            path: Where it lies, if it is there.
        """
        self._path = path
        self._codes: dict[str, list[str]] = read_digested(path) or {}
        self._parsed = False
        # Another way to make digests makes others of the same file.
        self._way = hashlib.sha256(Path(__file__).read_bytes())

    def code(self, source: bytes) -> _Code:
        """Code of a module of which this is the text."""
        hashed = self._way.copy()
        hashed.update(source)
        key = hashed.hexdigest()
        if key not in self._codes:
            code = _parse(source)
            self._codes[key] = [code.digest, *code.imports]
            self._parsed = True
        digest, *imports = self._codes[key]
        return _Code(digest, tuple(imports))

    def save(self) -> None:
        """Let later processes know, where that is possible."""
        if self._parsed and not sys.dont_write_bytecode:
            newest = dict(list(self._codes.items())[-_MOST_FILES:])
            with suppress(OSError):
                write_digested(self._path, newest)
        self._parsed = False


@cache
def _seen() -> _Seen:
    return _Seen(Path(cache_from_source(__file__)).with_suffix(".json"))


# Each job of a cluster starts Snakemake twice, and each start asks for all stages.
@cache
def _code(path: Path) -> _Code:
    return _seen().code(path.read_bytes())


def _parse(source: bytes) -> _Code:
    tree = ast.parse(source)
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
    own = (name for name in names if name.startswith(f"{_PACKAGE}."))
    return _Code(hashlib.sha256(ast.dump(tree).encode()).hexdigest(), tuple(dict.fromkeys(own)))


def _drop_docstring(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef,
) -> None:
    body = node.body
    if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        node.body = body[1:]
