"""Names for what a step does, as the profiler shows them."""

from __future__ import annotations

from typing import Final

from torch.profiler import record_function

PREFIX: Final = "mtlpar::"


def span(name: str) -> record_function:
    """A stretch of a step under a name of its own; next to nothing while no profiler runs."""
    return record_function(PREFIX + name)
