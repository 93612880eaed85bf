"""Multi-task-parallel pre-training of graph foundation models on atomistic data.

``mtlpar.load_model(path)`` loads a trained model, ``mtlpar.Calculator(path, source=...)`` is its
ASE calculator; everything else is the command line, ``mtlpar --help``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mtlpar.calculator import Calculator
    from mtlpar.model.file import load_model

__all__ = ["Calculator", "__version__", "load_model"]


def __getattr__(name: str) -> Any:
    # Both need torch, whose import costs seconds that most commands need not pay.
    if name == "Calculator":
        from mtlpar.calculator import Calculator

        return Calculator
    if name == "load_model":
        from mtlpar.model.file import load_model

        return load_model
    raise AttributeError(f"module 'mtlpar' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
