"""Curves of a training in the terminal, while it runs or afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, Final

import plotext

from mtlpar.core.error_names import MAE_NAMES
from mtlpar.core.paths import Workspace
from mtlpar.train.history import read_lines

_PANEL_LINES: Final = 16
_SMOOTHED_POINTS: Final = 200
# Tell curves apart where there is no colour.
_MARKERS: Final = "ox+*#%@"
_PANELS: Final = (
    (MAE_NAMES["energy"], "validation error of the energy, eV/atom"),
    (MAE_NAMES["forces"], "validation error of the forces, eV/Å"),
    (MAE_NAMES["stress"], "validation error of the stress, eV/Å^3"),
)


def find_history(workspace: Workspace, model: str) -> Path:
    """The newest history of a model: of the run in progress, or of the one that ended.

    Raises:
        ValueError: If the model was never trained.
    """
    folder = workspace.checkpoints(model)
    found = [*folder.glob("*/metrics.jsonl"), workspace.training_metrics(model)]
    existing = [path for path in found if path.exists()]
    if not existing:
        raise ValueError(
            f"no training of {model!r} has left a metrics.jsonl below {folder}; start it first, or "
            "check the name and paths.results"
        )
    return max(existing, key=lambda path: path.stat().st_mtime)


def read_history(path: Path) -> list[dict[str, Any]]:
    """All complete lines of a history."""
    return read_lines(path)


def draw(lines: Sequence[Mapping[str, Any]], *, colour: bool, width: int | None = None) -> str:
    """Draw loss and validation errors.

    Args:
        lines: Lines of a history.
        colour: Whether the terminal shows colours.
        width: Columns; those of the terminal by default.

    Returns:
        Text to print.
    """
    width = width or min(120, shutil.get_terminal_size().columns)
    steps = [line for line in lines if line["kind"] == "step" and not line["skipped"]]
    epochs = [line for line in lines if line["kind"] == "epoch"]
    if not steps:
        return "no step yet"
    loss = {"loss": _smoothed(steps)}
    panels = [_panel("loss of a step, mean of neighbours", loss, width, colour, x="step")]
    for key, title in _PANELS if epochs else ():
        curves = {
            source: (
                [line["epoch"] for line in epochs],
                [line["val"][source][key] for line in epochs],
            )
            for source, errors in epochs[0]["val"].items()
            if key in errors and all(key in line["val"].get(source, {}) for line in epochs)
        }
        if curves:
            panels.append(_panel(title, curves, width, colour, x="epoch"))
    return "\n\n".join([*panels, _summary(steps[-1], epochs)])


def _smoothed(steps: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    """Means of neighbouring steps: at most as many points as a terminal can show."""
    size = max(1, -(-len(steps) // _SMOOTHED_POINTS))
    chunks = [steps[start : start + size] for start in range(0, len(steps), size)]
    return (
        [chunk[-1]["step"] for chunk in chunks],
        [sum(line["loss"] for line in chunk) / len(chunk) for chunk in chunks],
    )


def _panel(
    title: str,
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    width: int,
    colour: bool,
    *,
    x: str,
) -> str:
    plotext.clear_figure()
    plotext.theme("pro")
    plotext.limit_size(False, False)
    plotext.plot_size(width, _PANEL_LINES)
    plotext.title(title)
    plotext.xlabel(x)
    # Errors fall by orders of magnitude; zero, where nothing is to be predicted, has no logarithm.
    if all(value > 0 for _, values in curves.values() for value in values):
        plotext.yscale("log")
    for (name, (positions, values)), letter in zip(curves.items(), cycle(_MARKERS), strict=False):
        label = name if len(curves) > 1 else None
        marker = "braille" if colour or len(curves) == 1 else letter
        plotext.plot(list(positions), list(values), label=label, marker=marker)
    first, last = positions[0], positions[-1]
    plotext.xticks(sorted({round(first + part * (last - first) / 4) for part in range(5)}))
    text: str = plotext.build()
    return text if colour else plotext.uncolorize(text)


def _summary(step: Mapping[str, Any], epochs: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"epoch {step['epoch']}, step {step['step']}, rate {step['learning_rate']:.2e}"]
    if epochs:
        kept = [line for line in epochs if line["is_best"]][-1]
        lines.append(
            f"kept so far: epoch {kept['epoch']}, score {kept['score']:.4f} (1 = predicting zero)"
        )
        lines += ["", "seconds of the last epoch, by rank", *_time_table(epochs[-1])]
    return "\n".join(lines)


def _time_table(epoch: Mapping[str, Any]) -> list[str]:
    columns = ("data", "compute", "reduce", "validate")
    head = "rank  " + "".join(f"{name:>10}" for name in columns) + "   peak memory"
    rows = [
        f"{rank:>4}  "
        + "".join(f"{seconds.get(name, 0.0):>10.2f}" for name in columns)
        + f"{seconds['peak_memory_bytes'] / 2**20:>10,.0f} MiB"
        for rank, seconds in enumerate(epoch["seconds"]["ranks"])
    ]
    return [head, *rows]
