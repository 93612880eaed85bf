"""`mtlpar` in a rank that looks who is waiting, for `parity/test_collectives.py`.

Each collective of torch lists the functions of the package that lead to it, and the rank ends with
status 3 if one of them is not marked as collective. The arguments are those of the command line.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import torch.distributed as dist
from marks import functions, is_marked, modules

from mtlpar.cli import main

_COLLECTIVES = (
    "all_reduce", "all_gather_object", "broadcast_object_list", "barrier", "new_group",
    "new_subgroups_by_enumeration", "init_process_group",
)  # fmt: skip
_MARKED = {
    (str(path), name)
    for path, _, tree in modules()
    for name, node in functions(tree)
    if is_marked(node)
}
_FILES = {str(path) for path, _, _ in modules()}
_seen: set[tuple[str, str]] = set()


def _callers() -> Iterator[tuple[str, str]]:
    """Functions of the package that are running, with their files, up to the command."""
    frame = sys._getframe(2)
    while frame is not None:
        file, name = frame.f_code.co_filename, frame.f_code.co_qualname.partition(".<locals>")[0]
        if file in _FILES:
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


if __name__ == "__main__":
    for collective in _COLLECTIVES:
        setattr(dist, collective, _looking(getattr(dist, collective)))
    status = main()
    for file, name in sorted(_seen - _MARKED):
        sys.stderr.write(f"not marked: {name} in {file}\n")
    sys.stderr.write(f"{len(_seen & _MARKED)} marked functions led to collectives\n")
    sys.exit(status or (3 if _seen - _MARKED else 0))
