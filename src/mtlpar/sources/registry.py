"""Finds sources by name, built-in ones and those that other packages bring.

A package adds a source without touching this one by declaring an entry point::

    [project.entry-points."mtlpar.sources"]
    mysource = "mypackage.mysource:SOURCE"
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from inspect import getsourcefile
from pathlib import Path
from typing import Any, Final

from mtlpar.sources.base import Source

ENTRY_POINT_GROUP: Final = "mtlpar.sources"

BUILT_IN: Final = ("ani1x", "qm7x", "mptrj", "alexandria", "transition1x")
"""The paper's five sources, in the order of its tables."""


def source_names() -> tuple[str, ...]:
    """Names of all sources that can be read, without importing any reader."""
    others = {point.name for point in entry_points(group=ENTRY_POINT_GROUP)}
    return (*BUILT_IN, *sorted(others - set(BUILT_IN)))


def get_source(name: str) -> Source:
    """Return a source by name.

    Raises:
        ValueError: If no reader has that name.
    """
    if name in BUILT_IN:
        source = import_module(f"mtlpar.sources.{name}").SOURCE
    else:
        points = entry_points(group=ENTRY_POINT_GROUP, name=name)
        if not points:
            raise ValueError(
                f"no source is called {name!r}; known are {', '.join(source_names())}. Other "
                f"sources are declared as entry points in the group {ENTRY_POINT_GROUP!r}."
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
