"""Mistakes in a configuration in words: one line each, with the key and where it was given."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, get_args, get_origin

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
            keys = ", ".join(_keys_beside((*problem.place, "")))
            with_keys = f" with the keys {keys}" if keys and expected.endswith("mapping") else ""
            lines.append(f"{'.'.join(problem.place)}: expected {expected}{with_keys}, got {got!r}")
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
        renamed = _RENAMED.get(location[-1])
        near = difflib.get_close_matches(location[-1], _keys_beside(location), n=1)
        meant = [renamed] if renamed else near or setting_keys(location[-1])
        hint = f"; did you mean {' or '.join(map(repr, meant))}?" if meant else ""
        return [f"{key}: unknown key{hint}"]
    if problem["type"] == "missing":
        return [f"{key}: required, but not given"]
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        prefix = "" if not location else f"{key}: "
        return [f"{prefix}{line}" for line in message.split("\n")]
    return [f"{key}: {message[0].lower()}{message[1:]}, got {problem['input']!r}"]


def setting_keys(name: str) -> list[str]:
    """Dotted keys of the settings of one name, in whatever blocks; of nested ones the outermost."""
    keys = [key for key in _all_keys(Config) if key.rpartition(".")[2] == name]
    fewest = min((key.count(".") for key in keys), default=0)
    return [key for key in keys if key.count(".") == fewest]


def _all_keys(block: type[BaseModel]) -> Iterator[str]:
    for name, field in block.model_fields.items():
        yield name
        inner = _settings_in(field.annotation)
        if isinstance(inner, type):
            yield from (f"{name}.{key}" for key in _all_keys(inner))


def _settings_in(annotation: Any) -> Any:
    """The settings class, or the mapping by free names, that an optional value may be."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) is dict:
        return annotation
    found = map(_settings_in, get_args(annotation))
    return next((one for one in found if one is not None), None)


def _keys_beside(location: Sequence[str]) -> list[str]:
    block: Any = Config
    for part in location[:-1]:
        if get_origin(block) is dict:
            block = _settings_in(get_args(block)[1])
        elif block is not None:
            field = block.model_fields.get(part)
            block = _settings_in(field.annotation) if field else None
    return [] if block is None or get_origin(block) is dict else list(block.model_fields)


def _placed(line: str, places: Mapping[str, str]) -> str:
    """Add where the key was given that a line begins with, or else the block around it."""
    key = line.partition(":")[0]
    while key and key not in places:
        key = key.rpartition(".")[0]
    return f"{line} ({places[key]})" if key else line
