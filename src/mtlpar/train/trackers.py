"""TensorBoard, Weights & Biases and MLflow, through their own libraries where installed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from mtlpar.train.settings import Tracker

_LIBRARY = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}


class TrackerWriter(Protocol):
    """Takes the lines of a history."""

    def log(self, entry: Mapping[str, Any]) -> None:
        """Take one line."""

    def close(self) -> None:
        """Finish."""


def open_trackers(
    names: Iterable[Tracker], *, run: str, folder: Path, settings: Mapping[str, Any]
) -> list[TrackerWriter]:
    """Open the trackers that the settings name.

    Args:
        names: Which.
        run: Name of the run.
        folder: Where local files go.
        settings: What to show as the run's settings.

    Raises:
        ValueError: If the library of one is not installed.
    """
    makers: Mapping[Tracker, Callable[[str, Path, Mapping[str, Any]], TrackerWriter]] = {
        "tensorboard": _TensorBoard,
        "wandb": _Wandb,
        "mlflow": _MLflow,
    }
    writers = []
    for name in names:
        try:
            import_module(_LIBRARY[name])
        except ImportError as error:
            raise ValueError(
                f"train.trackers names {name}, but it is not installed ({error}); "
                f"run: pip install {_LIBRARY[name]}"
            ) from error
        writers.append(makers[name](run, folder / name, settings))
    return writers


def scalars(entry: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Flatten a line of the history to numbers by names such as ``val/ani1x/force_mae``."""
    flat: dict[str, float] = {}
    for key, value in entry.items():
        if isinstance(value, Mapping):
            flat |= scalars(value, f"{prefix}{key}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            flat[f"{prefix}{key}"] = float(value)
    return flat


def _numbers(entry: Mapping[str, Any]) -> dict[str, float]:
    content = {key: value for key, value in entry.items() if key not in ("kind", "step")}
    return scalars(content, f"{entry['kind']}/")


class _TensorBoard:
    def __init__(self, run: str, folder: Path, settings: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / run))
        self._writer.add_text("settings", str(dict(settings)))

    def log(self, entry: Mapping[str, Any]) -> None:
        for name, value in _numbers(entry).items():
            self._writer.add_scalar(name, value, entry["step"])

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, run: str, folder: Path, settings: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._run = import_module("wandb").init(
            project="mtlpar", name=run, dir=str(folder), config=dict(settings)
        )

    def log(self, entry: Mapping[str, Any]) -> None:
        self._run.log(_numbers(entry), step=entry["step"])

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    def __init__(self, run: str, folder: Path, settings: Mapping[str, Any]) -> None:
        self._mlflow = import_module("mlflow")
        self._mlflow.set_tracking_uri(folder.absolute().as_uri())
        self._mlflow.set_experiment("mtlpar")
        self._mlflow.start_run(run_name=run)
        self._mlflow.log_params({key: str(value) for key, value in settings.items()})

    def log(self, entry: Mapping[str, Any]) -> None:
        self._mlflow.log_metrics(_numbers(entry), step=entry["step"])

    def close(self) -> None:
        self._mlflow.end_run()
