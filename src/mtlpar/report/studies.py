"""Writes table and figure of a study from its records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from matplotlib.figure import Figure

from mtlpar.core.measurements import (
    CommRecord,
    CompatibilityRecord,
    Measurement,
    MemoryRecord,
    ScalingRecord,
    TransferRecord,
)
from mtlpar.core.paths import Workspace
from mtlpar.core.records import read_record
from mtlpar.report.comm import comm_grid, draw_comm
from mtlpar.report.compatibility import compatibility_grid, draw_compatibility
from mtlpar.report.grid import Grid, write_grid
from mtlpar.report.memory import draw_memory, memory_grid
from mtlpar.report.scaling import draw_scaling, scaling_grid
from mtlpar.report.style import house_style, save_figure
from mtlpar.report.transfer import draw_transfer, transfer_grid

R = TypeVar("R", bound=Measurement)


@dataclass(frozen=True, slots=True)
class _Study(Generic[R]):
    """What a study's records are, and what is made of them."""

    record: type[R]
    grid: Callable[[Sequence[R]], Grid]
    draw: Callable[[Sequence[R]], Figure]


_STUDIES: Final[dict[str, _Study[Any]]] = {
    "memory": _Study(MemoryRecord, memory_grid, draw_memory),
    "scaling": _Study(ScalingRecord, scaling_grid, draw_scaling),
    "comm": _Study(CommRecord, comm_grid, draw_comm),
    "transfer": _Study(TransferRecord, transfer_grid, draw_transfer),
    "compatibility": _Study(CompatibilityRecord, compatibility_grid, draw_compatibility),
}


def write_study(name: str, records: Iterable[Path], *, workspace: Workspace, dpi: int) -> str:
    """Write table and figure of a study from its measurements.

    Args:
        name: ``memory``, ``scaling``, ``comm``, ``transfer`` or ``compatibility``.
        records: Files with the measurements.
        workspace: Paths of all products.
        dpi: Resolution of the figure.

    Returns:
        The caption of the table, which says what was found.

    Raises:
        ValueError: If a measurement is missing or there is no such study.
    """
    if name not in _STUDIES:
        raise ValueError(f"no study is called {name!r}; there are {', '.join(_STUDIES)}")
    study = _STUDIES[name]
    measured = [
        read_record(path, study.record, stage=f"study {name}", expected={"measured": path.stem})
        for path in records
    ]
    grid = study.grid(measured)
    write_grid(workspace.studies, name, grid)
    with house_style():
        save_figure(study.draw(measured), workspace.studies, name, dpi=dpi)
    return grid.caption
