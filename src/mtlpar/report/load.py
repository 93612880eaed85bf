"""Reads what other stages measured; anything missing or not finite is an error with a name."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from numpy.lib.npyio import NpzFile

from mtlpar.core.error_names import MAE_NAMES
from mtlpar.core.files import missing, read_text
from mtlpar.core.first_bytes import refuse_stand_in
from mtlpar.core.ledger import Ledger
from mtlpar.core.paths import Workspace
from mtlpar.core.wording import counted
from mtlpar.evaluate.metrics import read_metrics
from mtlpar.report.items import Quantity

FloatArray = npt.NDArray[np.float64]

# Other models see the same test structures in other batches: sums differ in the last digits.
_SAME_RELATIVE = 1e-6
_UNITS = {
    "energy": "ev_per_atom",
    "force": "ev_per_angstrom",
    "stress": "ev_per_cubic_angstrom",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorTable:
    """One test error of every model on every source.

    Attributes:
        quantity: Which error, with its unit.
        errors: Error by model and source, in the order of rows and columns; NaN where a model has
            no branch for a source, or the test set no such label.
        zero: Error of predicting zero, by source; NaN where it has no such label.
        noise: Standard error of each mean absolute error, by model and source; 0 of other errors.
    """

    quantity: Quantity
    errors: Mapping[str, Mapping[str, float]]
    zero: Mapping[str, float]
    noise: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """What was measured after one epoch.

    Attributes:
        epoch: Its number.
        is_best: Whether the model of this epoch was kept.
        errors: Validation errors by source and key.
    """

    epoch: int
    is_best: bool
    errors: Mapping[str, Mapping[str, float]]


def read_errors(
    quantity: Quantity, *, workspace: Workspace, models: Sequence[str], sources: Sequence[str]
) -> ErrorTable:
    """Read one test error of models on sources.

    Raises:
        ValueError: If a file is missing, lacks a value or holds one that is not finite, or if two
            models were tested on different structures of a source.
    """
    errors: dict[str, dict[str, float]] = {}
    zero: dict[str, float] = {}
    noise: dict[str, dict[str, float]] = {}
    for model in models:
        errors[model] = {}
        noise[model] = {}
        for source in sources:
            path = workspace.metrics(model, source)
            content = read_metrics(workspace, model, source).given()
            has_label = content["num_labels"].get(quantity.label, 0) > 0
            tested = has_label and content["branch"] is not None
            # A model with direct forces predicts no stress.
            tested &= quantity.target != "stress" or quantity.key in content
            factor = quantity.factor
            errors[model][source] = (
                factor * _number(content, quantity.key, path) if tested else math.nan
            )
            noise[model][source] = (
                factor * _standard_error(content, quantity, path) if tested else 0.0
            )
            trivial = math.nan
            if has_label:
                trivial = factor * _number(content, "zero_predictor", path, quantity.key)
            known = zero.setdefault(source, trivial)
            if math.isnan(known) and math.isnan(trivial):
                continue
            if not math.isclose(known, trivial, rel_tol=_SAME_RELATIVE):
                raise ValueError(
                    f"{path}: predicting zero has {quantity.title} {trivial!r}, but "
                    f"{zero[source]!r} in {workspace.metrics(models[0], source)}: the models were "
                    f"tested on different structures; run mtlpar evaluate again for all"
                )
    return ErrorTable(quantity=quantity, errors=errors, zero=zero, noise=noise)


def read_predictions(
    target: Literal["energy", "force", "stress"], *, workspace: Workspace, model: str, source: str
) -> tuple[FloatArray, FloatArray]:
    """Read labels and predictions as two flat arrays of the same length.

    Args:
        target: Energies in eV/atom, force components in eV/Å, or stress components in eV/Å^3.
        workspace: Paths of all products.
        model: Name of the model.
        source: Name of the test set.

    Raises:
        ValueError: If the file is missing or damaged, arrays are missing, empty or of different
            shapes, or a value is not finite.
    """
    path = workspace.predictions(model, source)
    names = [f"{target}_{kind}_{_UNITS[target]}" for kind in ("label", "prediction")]
    label, prediction = _arrays(path, names)
    if label.shape != prediction.shape or label.size == 0:
        raise ValueError(
            f"{path}: {names[0]} has shape {label.shape} and {names[1]} has {prediction.shape}, "
            "expected the same shape and at least one value; run mtlpar evaluate again"
        )
    for name, values in zip(names, (label, prediction), strict=True):
        if not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).sum())
            raise ValueError(
                f"{path}: {bad} of {counted(values.size, 'value')} of {name} not finite; retrain "
                f"{model!r} or run mtlpar evaluate again"
            )
    return label, prediction


def read_history(path: Path, sources: Sequence[str]) -> list[Epoch]:
    """Read validation errors by epoch; of an epoch that was run again the last one counts.

    Args:
        path: The ``metrics.jsonl`` of a model.
        sources: Sources it learns from; each must have validation errors.

    Raises:
        ValueError: If the file is missing, a line is damaged, there is no epoch, or a value is
            missing or not finite.
    """
    try:
        lines = read_text(path).splitlines()
    except FileNotFoundError:
        raise ValueError(missing(path, "train")) from None
    epochs: dict[int, Epoch] = {}
    for index, line in enumerate(lines, start=1):
        where = f"{path}, line {index}"
        try:
            content = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where} is not valid JSON ({error}); retrain the model") from error
        if not isinstance(content, dict) or content.get("kind") != "epoch":
            continue
        errors = {source: _errors_of_source(content, source, where) for source in sources}
        epoch = int(_number(content, "epoch", where))
        epochs[epoch] = Epoch(epoch=epoch, is_best=bool(content.get("is_best")), errors=errors)
    if not epochs:
        raise ValueError(f'{path} has no line of kind "epoch"; train the model for an epoch')
    return [epochs[epoch] for epoch in sorted(epochs)]


def read_ledgers(*, workspace: Workspace, sources: Sequence[str]) -> dict[str, Ledger]:
    """Read the ledgers of sources and check their books.

    Raises:
        ValueError: If a ledger is missing, incomplete, or does not balance.
    """
    ledgers: dict[str, Ledger] = {}
    for source in sources:
        ledgers[source] = Ledger.read(workspace.ledger(source))
    return ledgers


def _number(content: Any, key: str, where: Path | str, *deeper: str) -> float:
    value = content
    for part in (key, *deeper):
        value = value.get(part) if isinstance(value, dict) else None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value):
        name = ".".join((key, *deeper))
        raise ValueError(
            f"{where}: {name} is {'missing' if value is None else repr(value)}, expected a finite "
            "number; rerun the stage that writes the file"
        )
    return float(value)


def _standard_error(content: Mapping[str, Any], quantity: Quantity, path: Path) -> float:
    """Standard error of a mean absolute error, from the mean square and the number of structures.

    Components of one structure are not independent and count as one: it is rather too large.
    """
    rmse = quantity.key.replace("_mae_", "_rmse_")
    if rmse == quantity.key or quantity.key not in content:
        return 0.0
    mean, square = _number(content, quantity.key, path), _number(content, rmse, path) ** 2
    count = _number(content, "num_labels", path, quantity.label)
    return math.sqrt(max(square - mean**2, 0.0) / max(count, 1.0))


def _errors_of_source(content: Any, source: str, where: str) -> dict[str, float]:
    """Validation errors of the labels that a source has; it has one at least."""
    found = (content.get("val") or {}).get(source)
    there = [key for key in MAE_NAMES.values() if isinstance(found, dict) and key in found]
    keys = there or [MAE_NAMES["energy"]]
    return {key: _number(content, "val", where, source, key) for key in keys}


def _arrays(path: Path, names: Sequence[str]) -> list[FloatArray]:
    try:
        with path.open("rb") as stream, NpzFile(stream) as content:
            return [np.asarray(content[name], dtype=np.float64).ravel() for name in names]
    except FileNotFoundError:
        raise ValueError(missing(path, "evaluate")) from None
    except KeyError as error:
        raise ValueError(f"{path} has no array {error}; run mtlpar evaluate again") from error
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        refuse_stand_in(path)
        raise ValueError(f"{path} cannot be read ({error}); run mtlpar evaluate again") from error
