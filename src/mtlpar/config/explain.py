"""Mistakes in a configuration in words: one line each, with the key and where it was given."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from pydantic import BaseModel

from mtlpar.config.schema import Config
from mtlpar.train.settings import TaskWeights

# What pydantic expects by the type of its problem, where settings may be of several kinds.
_KINDS: Final = {
    "dict_type": "a mapping",
    "float_type": "a number",
    "model_type": "a mapping",
    "path_type": "a path",
}


class _Problem(NamedTuple):
    """What pydantic found, and the keys that lead there."""

    place: tuple[str, ...]
    found: Any

    @property
    def kind(self) -> str | None:
        """What was expected, if the value is of another kind altogether."""
        return _KINDS.get(self.found["type"])


def explain(found: Iterable[Any], places: Mapping[str, str]) -> list[str]:
    """A line for every problem; a value that may be of several kinds and is of none has one.

    Args:
        found: Problems as pydantic lists them.
        places: Where each dotted key was given, as far as that is known.
    """
    problems = [_Problem(_location(one), one) for one in found]
    kinds: dict[tuple[str, ...], list[str]] = {}
    for problem in problems:
        if problem.kind:
            kinds.setdefault(problem.place, []).append(problem.kind)
    lines: list[str] = []
    for problem in problems:
        if any(_says_more(other, problem) for other in problems):
            continue
        if problem.kind:
            expected = " or ".join(kinds[problem.place])
            got = problem.found["input"]
            lines.append(f"{'.'.join(problem.place)}: expected {expected}, got {got!r}")
        else:
            lines += _explain(problem.place, problem.found)
    return [_placed(line, places) for line in dict.fromkeys(lines)]


def _says_more(one: _Problem, other: _Problem) -> bool:
    """Whether a problem makes another one needless to tell.

    Where several kinds may stand, pydantic lists what is wrong with each: a problem inside of the
    value, or with it as the kind that it is, shows which one was meant.
    """
    if one.place == other.place:
        return one.kind is None and other.kind is not None
    return one.place[: len(other.place)] == other.place


def _location(problem: Any) -> tuple[str, ...]:
    """Keys that lead to a problem, without pydantic's names of the types that it tried."""
    parts = [str(part) for part in problem["loc"]]
    return tuple(part for part in parts if "[" not in part and part != TaskWeights.__name__)


def _explain(location: Sequence[str], problem: Any) -> list[str]:
    key = ".".join(location) or "config"
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(location[-1], _keys_beside(location), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return [f"{key}: unknown key{hint}"]
    if problem["type"] == "missing":
        return [f"{key}: required, but not given"]
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        prefix = "" if not location else f"{key}: "
        return [f"{prefix}{line}" for line in message.split("\n")]
    return [f"{key}: {message[0].lower()}{message[1:]}, got {problem['input']!r}"]


def _keys_beside(location: Sequence[str]) -> list[str]:
    block: Any = Config
    for part in location[:-1]:
        if not (isinstance(block, type) and issubclass(block, BaseModel)):
            return []
        field = block.model_fields.get(part)
        block = field.annotation if field else None
    if isinstance(block, type) and issubclass(block, BaseModel):
        return list(block.model_fields)
    return []


def _placed(line: str, places: Mapping[str, str]) -> str:
    """Add where the key was given that a line begins with, or else the block around it."""
    key = line.partition(":")[0]
    while key and key not in places:
        key = key.rpartition(".")[0]
    return f"{line} ({places[key]})" if key else line
