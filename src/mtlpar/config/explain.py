"""Mistakes in a configuration in words: one line each, with the key and where it was given."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel

from mtlpar.config.schema import Config
from mtlpar.core.settings import WRONG_KIND

# What pydantic expects by the type of its problem, where settings may be of several kinds.
_KINDS: Final = {
    "dict_type": "a mapping",
    "float_type": "a number",
    "model_type": "a mapping",
    "path_type": "a path",
}


# Settings of earlier versions by what they are called now.
_RENAMED: Final = {"dataset_weights": "source_weights"}


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
    problems = [_Problem(_follow(one["loc"])[0], one) for one in found]
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
            keys = ", ".join(_fields(_follow((*problem.place, ""))[1]))
            with_keys = f" with the keys {keys}" if keys and expected.endswith("mapping") else ""
            lines.append(f"{'.'.join(problem.place)}: expected {expected}{with_keys}, got {got!r}")
        else:
            lines += _explain(problem.found)
    return [_placed(line, places) for line in dict.fromkeys(lines)]


def _says_more(one: _Problem, other: _Problem) -> bool:
    """Whether a problem makes another one needless to tell.

    Where several kinds may stand, pydantic lists what is wrong with each: a problem inside of the
    value, or with it as the kind that it is, shows which one was meant.
    """
    if one.place == other.place:
        return one.kind is None and other.kind is not None
    return one.place[: len(other.place)] == other.place


def _explain(problem: Any) -> list[str]:
    location, beside = _follow(problem["loc"])
    key = ".".join(location) or "config"
    if problem["type"] == "extra_forbidden":
        return [f"{key}: {_unknown(location, beside)}"]
    if problem["type"] == WRONG_KIND:
        expected = problem["msg"].removeprefix("kind should be ")
        return [f"{key}.kind: expected {expected}, got {problem['input']['kind']!r}"]
    if problem["type"] == "missing":
        return [f"{key}: required, but not given"]
    if problem["type"] == "string_pattern_mismatch" and (examples := _examples(location, beside)):
        return [f"{key}: expected a value such as {examples}, got {problem['input']!r}"]
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        prefix = "" if not location else f"{key}: "
        return [f"{prefix}{line}" for line in message.split("\n")]
    return [f"{key}: {message[0].lower()}{message[1:]}, got {problem['input']!r}"]


def _examples(location: Sequence[str], beside: Sequence[Any]) -> str:
    """Values that a setting may have, for one whose pattern few can read."""
    blocks = [block for block in beside if location[-1] in _fields([block])]
    found = [one for block in blocks for one in block.model_fields[location[-1]].examples or ()]
    return ", ".join(map(str, dict.fromkeys(found)))


def _unknown(location: Sequence[str], beside: Sequence[Any]) -> str:
    """What to say of a key that is none of those that may stand beside it."""
    name = location[-1]
    owners = [block for block in _follow(location)[1] if name in _fields([block])]
    if owners:
        kinds = " or ".join(kind for block in owners for kind in _kinds(block))
        return f"only {kinds} has this setting; null takes away what an earlier file says"
    renamed = _RENAMED.get(name)
    near = difflib.get_close_matches(name, _fields(beside), n=1)
    meant = [renamed] if renamed else near or setting_keys(name)
    hint = f"; did you mean {' or '.join(map(repr, meant))}?" if meant else ""
    return f"unknown key{hint}"


def setting_keys(name: str) -> list[str]:
    """Dotted keys of the settings of one name, in whatever blocks; of nested ones the outermost."""
    keys = [key for key in _all_keys(Config) if key.rpartition(".")[2] == name]
    fewest = min((key.count(".") for key in keys), default=0)
    return [key for key in keys if key.count(".") == fewest]


def _all_keys(block: type[BaseModel]) -> Iterator[str]:
    for name, field in block.model_fields.items():
        yield name
        for inner in _blocks(field.annotation):
            if get_origin(inner) is not dict:
                yield from (f"{name}.{key}" for key in _all_keys(inner))


def _follow(parts: Sequence[object]) -> tuple[tuple[str, ...], list[Any]]:
    """Go where pydantic found a problem.

    Args:
        parts: Keys and, in between, names of the types that pydantic tried.

    Returns:
        The keys alone, and the blocks that the last of them may stand in.
    """
    keys: list[str] = []
    beside: list[Any] = []
    blocks: list[Any] = [Config]
    for part in map(str, parts):
        if tried := [block for block in blocks if part in (_name(block), *_kinds(block))]:
            blocks = tried
        elif "[" not in part:
            keys.append(part)
            beside, blocks = blocks, [inner for block in blocks for inner in _inside(block, part)]
    return tuple(keys), beside


def _inside(block: Any, key: str) -> list[Any]:
    """The blocks that may stand below a key of a block."""
    if get_origin(block) is dict:
        return _blocks(get_args(block)[1])
    field = block.model_fields.get(key)
    return _blocks(field.annotation) if field else []


def _blocks(annotation: Any) -> list[Any]:
    """The settings classes, and mappings by free names, that a value may be."""
    is_settings = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    if is_settings or get_origin(annotation) is dict:
        return [annotation]
    return [block for inner in get_args(annotation) for block in _blocks(inner)]


def _fields(blocks: Iterable[Any]) -> list[str]:
    return [key for block in blocks if get_origin(block) is not dict for key in block.model_fields]


def _name(block: Any) -> str | None:
    return None if get_origin(block) is dict else block.__name__


def _kinds(block: Any) -> tuple[str, ...]:
    """The one ``kind`` of settings that are told apart by it; empty for others."""
    if "kind" not in _fields([block]):
        return ()
    annotation = block.model_fields["kind"].annotation
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _placed(line: str, places: Mapping[str, str]) -> str:
    """Add where the key was given that a line begins with, or else the block around it."""
    key = line.partition(":")[0]
    while key and key not in places:
        key = key.rpartition(".")[0]
    return f"{line} ({places[key]})" if key else line
