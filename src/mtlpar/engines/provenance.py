"""What every exported file says of itself, in its name and in its metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from mtlpar import __version__
from mtlpar.core.files import file_digest
from mtlpar.model.saved import SavedModel


def facts(model: SavedModel, source: str, path: Path) -> dict[str, str]:
    """Branch, source, level of theory, references and model of an exported file, as text by name.

    Args:
        model: The model.
        source: Source whose level of theory is exported.
        path: File of the model.
    """
    return {
        "branch": model.branch_of(source),
        "source": source,
        "level_of_theory": model.level_of_theory[source],
        "references_ev": json.dumps(dict(model.references[source].energies_ev)),
        "model_digest": model.digest or file_digest(path),
        "model_name": str(model.training.get("model", path.stem)),
        "elements": " ".join(model.references[source].energies_ev),
        "cutoff_angstrom": f"{model.settings.graph.cutoff_angstrom:g}",
        "charge_and_spin": str(model.settings.encoder.charge_and_spin).lower(),
        "units": "eV, Angstrom, e",
        "mtlpar_version": __version__,
    }


def file_name(facts: Mapping[str, str], ending: str) -> str:
    """A name that tells exported files apart: model, source, level of theory and digest.

    Shells and lists of patterns take it as it stands.
    """
    level = re.sub(r"[^A-Za-z0-9-]+", "_", facts["level_of_theory"]).strip("_")
    parts = (facts["model_name"], facts["source"], level, facts["model_digest"][:8])
    return f"{'.'.join(parts)}.{ending}"
