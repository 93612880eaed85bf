"""Finds sources by name: built-in ones, those of other packages, and those of the configuration.

A package adds a source without touching this one by declaring an entry point::

    [project.entry-points."mtlpar.sources"]
    mysource = "mypackage.mysource:SOURCE"
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoints, entry_points
from inspect import getsourcefile
from pathlib import Path
from typing import Any, Final

from mtlpar.sources.base import Source
from mtlpar.sources.settings import CustomSource

ENTRY_POINT_GROUP: Final = "mtlpar.sources"

BUILT_IN: Final = ("ani1x", "qm7x", "mptrj", "alexandria", "transition1x")
"""The paper's five sources, in the order of its tables."""

OPTIONAL: Final = ("ani1ccx", "alexandria_paths", "spice", "matpes", "matpes_r2scan")
"""Sources that only runs with them in the configuration read."""

_custom: dict[str, CustomSource] = {}


def define_custom_sources(custom: Mapping[str, CustomSource]) -> None:
    """Let `get_source` find the sources of a configuration, in place of those of an earlier one."""
    _custom.clear()
    _custom.update(custom)


@cache
def _plug_ins() -> EntryPoints:
    """Sources of other packages; looking through all that is installed takes a while."""
    return entry_points(group=ENTRY_POINT_GROUP)


def packaged_names() -> tuple[str, ...]:
    """Names of all sources that packages bring, without importing any reader."""
    own = (*BUILT_IN, *OPTIONAL)
    return (*own, *sorted(_plug_ins().names - set(own)))


def source_names() -> tuple[str, ...]:
    """Names of all sources that can be read."""
    return (*packaged_names(), *_custom)


def get_source(name: str) -> Source:
    """Return a source by name.

    Raises:
        ValueError: If no reader has that name.
    """
    if name in _custom:
        source = import_module("mtlpar.sources.ase_files").custom_source(name, _custom[name])
    elif name in (*BUILT_IN, *OPTIONAL):
        source = import_module(f"mtlpar.sources.{name}").SOURCE
    else:
        points = _plug_ins().select(name=name)
        if not points:
            raise ValueError(
                f"no source is called {name!r}; known sources: {', '.join(source_names())}. Other "
                f"sources are declared in custom_sources of the configuration, or by packages as "
                f"entry points in the group {ENTRY_POINT_GROUP!r}."
            )
        source = next(iter(points)).load()
    if not isinstance(source, Source):
        raise ValueError(f"source {name!r} is a {type(source).__name__}, expected a Source")
    return source


def reader_file(name: str) -> Path:
    """File with the code that reads a source."""
    function: Any = get_source(name).read
    file = getsourcefile(getattr(function, "func", function))
    assert file is not None
    return Path(file)
