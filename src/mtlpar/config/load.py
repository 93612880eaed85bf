"""Reads configuration files, lays overrides on top, and explains every mistake at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from mtlpar.config.explain import explain
from mtlpar.config.schema import Config
from mtlpar.sources.registry import define_custom_sources

# Octal by a leading zero, or in sixties by colons.
_MISREAD: Final = re.compile(r"[-+]?0[0-7_]+|.*:.*")


def load_config(files: Sequence[Path], assignments: Iterable[str] = ()) -> Config:
    """Read configuration files in order, later ones over earlier ones, and check the result.

    Args:
        files: YAML files. Mappings are merged key by key, everything else is replaced, as
            ``snakemake --configfile`` does.
        assignments: Overrides of the form ``train.epochs=5``, applied last. Here an empty mapping
            replaces what is there, and so do a model's branches as a whole.

    Raises:
        ValueError: With every problem on a line of its own, by dotted key, file and line.
    """
    merged: dict[str, Any] = {}
    places: dict[str, str] = {}
    for path in files:
        content, lines = read_yaml(path)
        _lay_over(merged, content)
        places |= {key: f"{path}, line {line}" for key, line in lines.items()}
    for assignment in assignments:
        key, value = parse_assignment(assignment)
        assign(merged, key.split("."), value)
        places[key] = f"--set {assignment}"
        # An unknown block is told by its own name.
        places.setdefault(key.partition(".")[0], places[key])
    return check_config(merged, where=" + ".join(str(path) for path in files), places=places)


def check_config(
    content: Mapping[str, Any], *, where: str, places: Mapping[str, str] | None = None
) -> Config:
    """Turn merged content into a checked configuration, and make its sources known.

    Args:
        content: Nested mapping. A key such as ``train__epochs`` stands for ``train.epochs``,
            because ``snakemake --config`` allows no dots.
        where: What to call the content in error messages.
        places: Where each dotted key was given, as far as that is known.

    Raises:
        ValueError: With every problem on a line of its own, by dotted key.
    """
    expanded: dict[str, Any] = {}
    # Overrides come last whatever their place: Snakemake puts --config before the files.
    for key, value in sorted(content.items(), key=lambda item: "__" in str(item[0])):
        assign(expanded, str(key).split("__"), value)
    try:
        config = Config.model_validate(expanded)
    except ValidationError as error:
        lines = explain(error.errors(), places or {})
        raise ValueError(f"{where}: {len(lines)} problem(s)\n  " + "\n  ".join(lines)) from None
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
        _refuse_misread(yaml.compose(value, Loader=yaml.SafeLoader), key)
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(f"override {text!r}: the value is not valid YAML: {error}") from error


def _lay_over(target: dict[str, Any], source: Mapping[str, Any]) -> None:
    """Lay one file over those before it, in place, as Snakemake's ``update_config`` does."""
    for key, value in source.items():
        if not isinstance(value, Mapping):
            target[key] = _apart(value)
        elif not value:
            target.setdefault(key, {})
        else:
            if not isinstance(target.get(key), dict):
                target[key] = {}
            _lay_over(target[key], value)


def _merge(target: dict[str, Any], source: Mapping[str, Any]) -> None:
    """Lay an override over ``target`` in place; see `load_config` for what is replaced."""
    for key, value in source.items():
        is_block = isinstance(value, Mapping) and len(value) > 0 and key != "branches"
        if is_block and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = _apart(value)


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
    _merge(target, {keys[-1]: value})


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Content of a file, and the line of each dotted key.

    Raises:
        ValueError: If the file cannot be read, gives a key twice, or says what nobody means.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except FileNotFoundError:
        raise ValueError(f"config file {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"config file {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"config file {path} is not valid YAML: {error}") from error
    if content is None:
        return {}, {}
    if not isinstance(content, dict):
        raise ValueError(f"config file {path} must hold a mapping, got {type(content).__name__}")
    root = yaml.compose(text, Loader=yaml.SafeLoader)
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
            number = yaml.safe_load(node.value)
            raise ValueError(
                f"{key}: YAML reads {node.value} as {number}; write that if you mean it"
            )
