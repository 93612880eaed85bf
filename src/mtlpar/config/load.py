"""Reads configuration files, lays overrides on top, and explains every mistake at once."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from mtlpar.config.explain import explain
from mtlpar.config.resolved import is_resolved
from mtlpar.config.schema import Config
from mtlpar.core.files import read_text
from mtlpar.core.paths import IN_PROJECT
from mtlpar.core.settings import without_nulls
from mtlpar.core.wording import counted
from mtlpar.core.yaml_text import compose_yaml, load_yaml
from mtlpar.sources.registry import define_custom_sources

logger = logging.getLogger(__name__)

# Octal by a leading zero, or in sixties by colons.
_MISREAD: Final = re.compile(r"[-+]?0[0-7_]+|.*:.*")


@dataclass
class Stack:
    """Configuration files and overrides, laid over each other.

    Mappings are merged key by key; everything else is replaced, and so are an empty mapping and the
    branches of a model, which belong together: who gives a model two branches means two. With a
    null among them they are a change of the branches below: null takes one away, the others are
    added or replaced.

    Attributes:
        content: What the files and overrides say together.
        places: Where each dotted key was given last.
        files: The files, the first one at the bottom.
        notes: A line for each model whose branches one file has and a later one changes.
    """

    content: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add_file(self, path: Path) -> None:
        """Lay a file over what is there; a resolved configuration is complete and replaces it.

        Raises:
            ValueError: If it cannot be read or says what nobody means.
        """
        content, lines = read_yaml(path)
        if is_resolved(path):
            self.content, self.places, self.files, self.notes = {}, {}, [], []
        before = _branches(self.content)
        _merge(self.content, content)
        after = _branches(self.content)
        self.files.append(path)
        self.places |= {key: f"{path}, line {line}" for key, line in lines.items()}
        for model in before.keys() & after.keys():
            if before[model] != after[model]:
                key = f"models.{model}.branches"
                self.notes.append(
                    f"{key}: {_names(after[model])} ({self.places.get(key, path)}), "
                    f"not {_names(before[model])} as in the files before"
                )

    def add_override(self, assignment: str, *, option: str) -> None:
        """Lay an override such as ``train.epochs=5`` over what is there.

        Args:
            assignment: The override.
            option: The option that gave it, for error messages.

        Raises:
            ValueError: If it has another form.
        """
        key, value = parse_assignment(assignment)
        assign(self.content, key.split("."), value)
        self.places[key] = f"{option} {assignment}"
        # An unknown block is reported by its own name.
        self.places.setdefault(key.partition(".")[0], self.places[key])

    def check(self, where: str | None = None) -> Config:
        """The checked configuration.

        Args:
            where: What to call it in error messages; by default its files.

        Raises:
            ValueError: With every problem on a line of its own, by dotted key, file and line.
        """
        where = where or " + ".join(str(path) for path in self.files)
        return check_config(self.content, where=where, places=self.places)


def load_config(files: Sequence[Path], assignments: Iterable[str] = ()) -> Config:
    """Read configuration files in order, later ones over earlier ones, and check the result.

    Args:
        files: YAML files; see `Stack` for what is merged and what is replaced.
        assignments: Overrides of the form ``train.epochs=5``, applied last.

    Raises:
        ValueError: With every problem on a line of its own, by dotted key, file and line.
    """
    stack = Stack()
    for path in files:
        stack.add_file(path)
    for note in stack.notes:
        logger.info("%s", note)
    for assignment in assignments:
        stack.add_override(assignment, option="--set")
    return stack.check()


def check_config(
    content: Mapping[str, Any], *, where: str, places: Mapping[str, str] | None = None
) -> Config:
    """Turn merged content into a checked configuration, and make its sources known.

    Args:
        content: Nested mapping.
        where: What to call the content in error messages.
        places: Where each dotted key was given, as far as that is known.

    Raises:
        ValueError: With every problem on a line of its own, by dotted key.
    """
    try:
        config = Config.model_validate({str(key): value for key, value in content.items()})
    except ValidationError as error:
        lines = explain(error.errors(), places or {})
        raise ValueError(
            f"{where}: {counted(len(lines), 'problem')}\n  " + "\n  ".join(lines)
        ) from None
    define_custom_sources(config.custom_sources)
    return config


def parse_assignment(text: str) -> tuple[str, Any]:
    """Parse ``dotted.key=value`` into the key and a value, which is read as YAML.

    Raises:
        ValueError: If there is no key, no equals sign, or no value that YAML can read.
    """
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ValueError(f"override {text!r} must look like train.epochs=5")
    try:
        _refuse_misread(compose_yaml(value), key)
        return key, load_yaml(value)
    except yaml.YAMLError as error:
        raise ValueError(f"override {text!r}: the value is not valid YAML: {error}") from error


def _merge(target: dict[str, Any], source: Mapping[str, Any], above: tuple[str, ...] = ()) -> None:
    """Lay a block over ``target`` in place; see `Stack` for what is replaced."""
    for key, value in source.items():
        keys = (*above, key)
        is_block = (
            isinstance(value, Mapping) and len(value) > 0 and not _belong_together(keys, value)
        )
        if is_block and isinstance(target.get(key), dict):
            _merge(target[key], value, keys)
        else:
            target[key] = _apart(value)


def _belong_together(keys: tuple[str, ...], block: Mapping[str, Any]) -> bool:
    """Whether these are all branches of a model, or all branches that others start from."""
    match keys:
        case ("models", _, "branches"):
            return None not in block.values()
        case ("models", _, "start_from", "branches"):
            return True
    return False


def _branches(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Branches by model, as far as a configuration that is not checked yet has them."""
    models = content.get("models")
    entries = models.items() if isinstance(models, Mapping) else ()
    found = {name: entry.get("branches") for name, entry in entries if isinstance(entry, Mapping)}
    return {
        name: without_nulls(branches)
        for name, branches in found.items()
        if isinstance(branches, Mapping)
    }


def _names(branches: Mapping[str, Any]) -> str:
    """Branches, and the sources that feed them where these have other names."""
    return ", ".join(
        str(name) if sources == [name] else f"{name} {sources}"
        for name, sources in branches.items()
    )


def _apart(value: Any) -> Any:
    """A copy in which no mapping is in two places, as that of an anchor is."""
    if isinstance(value, Mapping):
        return {key: _apart(inner) for key, inner in value.items()}
    return [_apart(inner) for inner in value] if isinstance(value, list) else value


def assign(target: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    """Lay one value over the place that the keys lead to, and leave what is beside it."""
    for key in keys[:-1]:
        if not isinstance(target.get(key), dict):
            target[key] = {}
        target = target[key]
    _merge(target, {keys[-1]: value}, tuple(keys[:-1]))


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Content of a file, and the line of each dotted key.

    Raises:
        ValueError: If the file cannot be read, gives a key twice, or says what nobody means.
    """
    try:
        text = read_text(path)
        content = load_yaml(text)
    except FileNotFoundError:
        where = "" if path.is_absolute() else f" in {Path.cwd()}"
        raise ValueError(
            f"config file {path} does not exist{where}; name one with --config, or {IN_PROJECT}"
        ) from None
    except OSError as error:
        raise ValueError(f"config file {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"config file {path} is not valid YAML: {error}") from error
    if content is None:
        return {}, {}
    if not isinstance(content, dict):
        raise ValueError(f"config file {path} must hold a mapping, got {type(content).__name__}")
    root = compose_yaml(text)
    try:
        _refuse_misread(root)
    except ValueError as error:
        raise ValueError(f"config file {path}: {error}") from None
    return content, dict(_lines(root))


def _lines(node: yaml.Node | None, *above: str) -> Iterator[tuple[str, int]]:
    """Dotted key and line of everything in a block."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        name = str(key.value)
        yield ".".join((*above, name)), key.start_mark.line + 1
        yield from _lines(value, *above, name)


def _refuse_misread(
    node: yaml.Node | None, key: str = "", inside: tuple[yaml.Node, ...] = ()
) -> None:
    """Refuse what YAML allows and nobody means.

    Args:
        node: What was read.
        key: Dotted key that leads there; empty for a whole file.
        inside: The blocks and lists around it.

    Raises:
        ValueError: If a block or a list holds itself, a key is given twice, or a number is not what
            it looks like.
    """
    if node in inside:
        raise ValueError(f"{key} refers to a block that it is part of")
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for name, value in node.value:
            inner, line = f"{key}.{name.value}".lstrip("."), name.start_mark.line + 1
            # YAML keeps the last of them and says nothing.
            if inner in lines:
                raise ValueError(f"{inner} is given twice, on lines {lines[inner]} and {line}")
            lines[inner] = line
            _refuse_misread(value, inner, (*inside, node))
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_misread(value, key, (*inside, node))
    elif isinstance(node, yaml.ScalarNode):
        is_number = node.tag.endswith((":int", ":float"))
        if is_number and _MISREAD.fullmatch(node.value):
            number = load_yaml(node.value)
            raise ValueError(
                f"{key}: YAML reads {node.value} as {number}; write that if you mean it"
            )
