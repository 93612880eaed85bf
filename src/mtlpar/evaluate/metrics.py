"""Reads the test errors of a model, as the evaluate stage wrote them."""

from __future__ import annotations

from mtlpar.core.paths import Workspace
from mtlpar.core.products import MetricsRecord
from mtlpar.core.records import read_record


def read_metrics(workspace: Workspace, model: str, source: str) -> MetricsRecord:
    """Read the metrics of a model on the test set of a source.

    Raises:
        ValueError: If they are missing, damaged, or those of another model or source.
    """
    return read_record(
        workspace.metrics(model, source),
        MetricsRecord,
        stage=f"evaluate --model {model}",
        expected={"model": model, "source": source},
    )
