"""Packages that only one engine needs: imported when it is used, with a clear word if absent."""

from __future__ import annotations

import importlib
from types import ModuleType


class MissingEngineError(ImportError, ValueError):
    """A package that an engine needs is not installed, or not in a version that works."""


def need(module: str, *, install: str) -> ModuleType:
    """Import a module of an optional package.

    Args:
        module: What to import.
        install: What to give to pip.

    Raises:
        MissingEngineError: If it cannot be imported, with what to do.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingEngineError(
            f"{module} cannot be imported ({error}); it comes with `pip install {install}`. "
            "docs/engines.md says which versions were tested"
        ) from error
