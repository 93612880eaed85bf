"""Which functions of the package are marked as collective, by their source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "mtlpar"


def modules() -> Iterator[tuple[Path, str, ast.Module]]:
    """Path, name and content of all modules."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(("mtlpar", *path.relative_to(PACKAGE).with_suffix("").parts))
        yield path, name, ast.parse(path.read_text(encoding="utf-8"))


def functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Functions of a module and methods of its classes; what is nested in them belongs to them."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            for one in node.body:
                if isinstance(one, ast.FunctionDef):
                    yield f"{node.name}.{one.name}", one


def is_marked(function: ast.FunctionDef) -> bool:
    """Whether all ranks call it together."""
    return any(ast.unparse(one) == "collective" for one in function.decorator_list)
