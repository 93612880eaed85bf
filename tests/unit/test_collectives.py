"""`@collective` stands at every function in which ranks wait for each other, and at no other.

As far as the source tells; `parity/test_collectives.py` looks at ranks that run.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from functools import cache

import pytest
from marks import functions, is_marked, modules

# In these ranks wait for each other: of torch.distributed, its FSDP, and MPI.
PRIMITIVES = {
    "all_reduce", "all_gather_object", "broadcast_object_list", "barrier", "new_group",
    "new_subgroups_by_enumeration", "init_process_group", "from_group", "unshard", "fully_shard",
    "allgather", "allreduce", "bcast", "Barrier", "Split", "Split_type", "Allocate_shared",
}  # fmt: skip
# These are collective for communicators and windows, but not for types of data.
SOMETIMES = {"Create", "Free"}
# They use in one process what ranks could share.
ALONE = {"mtlpar.finetune.teacher.write_labels", "mtlpar.study.compatibility.run"}


@dataclass
class _Function:
    """What a function uses: names and attributes, and qualified names where they are known."""

    marked: bool
    names: set[str] = field(default_factory=set)
    refers: set[str] = field(default_factory=set)


@cache
def _functions() -> dict[str, _Function]:
    """Functions and methods of the package by qualified name."""
    found = {}
    for _, module, tree in modules():
        known = {
            alias.asname or alias.name: f"{node.module}.{alias.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        known |= {node.name: f"{module}.{node.name}" for node in tree.body if hasattr(node, "name")}
        for name, node in functions(tree):
            owner = f"{module}.{name.rpartition('.')[0]}"
            found[f"{module}.{name}"] = _uses(node, {**known, "self": owner, "cls": owner})
    return found


def _uses(node: ast.FunctionDef, known: dict[str, str]) -> _Function:
    function = _Function(is_marked(node))
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute):
            function.names.add(part.attr)
            if isinstance(part.value, ast.Name):
                function.refers.add(f"{known.get(part.value.id)}.{part.attr}")
        elif isinstance(part, ast.Name):
            function.names.add(part.id)
            function.refers.add(str(known.get(part.id)))
        elif isinstance(part, ast.Call) and isinstance(part.func, ast.Name):
            # A class that is called runs its constructor.
            function.refers.add(f"{known.get(part.func.id)}.__init__")
    return function


def _marked() -> set[str]:
    return {name for name, function in _functions().items() if function.marked}


@pytest.mark.long
def test_what_calls_a_library_in_which_ranks_wait_is_marked() -> None:
    waiting = {name for name, function in _functions().items() if function.names & PRIMITIVES}
    assert len(waiting) > 20
    assert waiting - _marked() == set()


def test_what_calls_a_marked_function_is_marked_up_to_the_commands() -> None:
    # Functions, classes and methods of `self`; of other objects only a run tells the class.
    marked = _marked()
    calling = {name for name, function in _functions().items() if function.refers & marked}
    commands = {name for name in _functions() if name.startswith("mtlpar.cli.")}
    assert calling - marked - commands - ALONE == set()
    assert calling >= ALONE


def test_commands_are_marked_if_ranks_meet_in_them_and_only_then() -> None:
    # `mtlpar launch` starts several ranks of these alone.
    common = "mtlpar.cli.common."
    here = {name: one for name, one in _functions().items() if name.startswith("mtlpar.cli.")}
    meeting = {name for name, one in here.items() if one.marked and name.startswith(common)}
    marked = {name for name, one in here.items() if one.marked} - meeting
    assert marked == {name for name, one in here.items() if one.refers & meeting} - meeting
    assert len(marked) >= 10


def test_nothing_is_marked_that_waits_for_nobody() -> None:
    marked = _marked()
    methods = {name.rpartition(".")[2] for name in marked}
    for name in marked:
        others = methods - {name.rpartition(".")[2]}
        function = _functions()[name]
        assert function.names & (PRIMITIVES | SOMETIMES | others) or function.refers & marked, name
