"""`mtlpar` in a rank that looks who is waiting, for `parity/test_collectives.py`.

Each collective of torch lists the functions of the package that lead to it, and the rank ends with
status 3 if one of them is not marked as collective. The arguments are those of the command line.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import torch.distributed as dist
from marks import PACKAGE, functions, is_marked

from mtlpar.cli import main

_COLLECTIVES = (
    "all_reduce", "all_gather_object", "broadcast_object_list", "barrier", "new_group",
    "new_subgroups_by_enumeration", "init_process_group",
)  # fmt: skip
_seen: set[tuple[str, str]] = set()


def _callers() -> Iterator[tuple[str, str]]:
    """Functions of the package that are running, with their files, up to the command."""
    frame = sys._getframe(2)
    while frame is not None:
        file, name = frame.f_code.co_filename, frame.f_code.co_qualname.partition(".<locals>")[0]
        if file.startswith(f"{PACKAGE}/"):
            if "/mtlpar/cli/" in file and not file.endswith("common.py"):
                return
            yield file, name
        frame = frame.f_back


def _looking(call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call)
    def looked(*arguments: Any, **options: Any) -> Any:
        _seen.update(_callers())
        return call(*arguments, **options)

    return looked


def _marked() -> set[tuple[str, str]]:
    """Those of the functions seen that are marked."""
    return {
        (file, name)
        for file in {file for file, _ in _seen}
        for name, node in functions(ast.parse(Path(file).read_text(encoding="utf-8")))
        if is_marked(node)
    } & _seen


if __name__ == "__main__":
    for collective in _COLLECTIVES:
        setattr(dist, collective, _looking(getattr(dist, collective)))
    status = main()
    marked = _marked()
    for file, name in sorted(_seen - marked):
        sys.stderr.write(f"not marked: {name} in {file}\n")
    sys.stderr.write(f"{len(marked)} marked functions led to collectives\n")
    sys.exit(status or (3 if _seen - marked else 0))
