"""Names for people; files and columns of CSV tables keep the machine names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

_SOURCE_TITLES: Final = {
    "ani1x": "ANI1x",
    "qm7x": "QM7-X",
    "mptrj": "MPTrj",
    "alexandria": "Alexandria",
    "transition1x": "Transition1x",
    "ani1ccx": "ANI1ccx",
}
_MODEL_TITLES: Final = {
    "baseline": "Baseline",
    "mtl": "MTL",
    "mtl_conservative": "MTL-Conservative",
}

TOTAL: Final = "total"
ZERO_NAME: Final = "predict_zero"
ZERO_TITLE: Final = "Predict zero"


def source_title(source: str) -> str:
    """Name of a source for people; a source that is not the paper's is called what it is."""
    return _SOURCE_TITLES.get(source, source)


def is_single_source(model: str, trained_on: Collection[str]) -> bool:
    """Whether a model is *the* model of one source, the one that bears its name."""
    return tuple(trained_on) == (model,)


def model_title(model: str, trained_on: Collection[str], *, sources: Collection[str]) -> str:
    """Name of a model for people, as in the paper.

    Args:
        model: Name of the model.
        trained_on: Sources it learns from.
        sources: All sources of the run.
    """
    if is_single_source(model, trained_on):
        return f"GFM-{source_title(model)}"
    title = f"GFM-{_MODEL_TITLES.get(model, model)}"
    return f"{title}-All" if len(sources) > 1 and set(trained_on) == set(sources) else title


def model_titles(
    models: Mapping[str, tuple[str, ...]], *, sources: Collection[str]
) -> dict[str, str]:
    """Names for people of all models, in the order of the tables."""
    return {
        model: model_title(model, trained_on, sources=sources)
        for model, trained_on in models.items()
    }


def reason_text(reason: str) -> str:
    """Reason for dropping a row, for people."""
    return reason.replace("_", " ")
