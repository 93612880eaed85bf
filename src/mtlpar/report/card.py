"""The card of a model: what it learned, how well, and what it is not for, in Markdown.

The head is what Hugging Face reads. What the model file does not hold, such as test errors and
licences, comes from the results and the catalogue, where they are given.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mtlpar.core.error_names import ERROR_UNITS, MAE_NAMES
from mtlpar.core.files import file_digest
from mtlpar.core.paths import Workspace
from mtlpar.core.wording import counted
from mtlpar.core.yaml_text import dump_yaml
from mtlpar.download.catalogue import CatalogueRow, read_catalogue
from mtlpar.evaluate.metrics import read_metrics
from mtlpar.model.describe import describe_model, elements_text
from mtlpar.model.multitask import count_parameters
from mtlpar.model.saved import SavedModel
from mtlpar.report.grid import format_number
from mtlpar.report.names import source_title


def name_of(model: SavedModel, path: Path) -> str:
    """What a model is called: as it was trained, or as its folder."""
    return model.training.get("model") or path.parent.name


def card(model: SavedModel, path: Path, *, workspace: Workspace | None, catalogue: Path) -> str:
    """Describe a model for those who did not train it.

    Args:
        model: The model.
        path: Its file.
        workspace: Where its test errors lie, if it was tested there; None if it was not.
        catalogue: Table of the real files with licences and citations; used if it is there.

    Raises:
        ValueError: If a file of the results or the catalogue is damaged.
    """
    # What was learned at another level are not the published labels, whatever the source's name.
    rows = [
        row
        for row in (read_catalogue(catalogue) if catalogue.is_file() else [])
        if model.level_of_theory.get(row.source) == row.level_of_theory
    ]
    name = name_of(model, path)
    parts = [
        _head(name, model, rows),
        f"# {name}",
        _summary(model),
        "## Use",
        _use(model, path),
        "## Training data",
        _data(model, rows),
        "## Errors",
        _errors(name, model, workspace),
        "## Uncertainty",
        _uncertainty(name, model, workspace),
        "## Not for",
        _limits(model),
        "## Training",
        _training(model, name_of(model, path)),
        "## File",
        f"SHA-256 `{file_digest(path)}`, {path.stat().st_size:,} bytes",
        f"```text\n{describe_model(model)}\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(name: str, model: SavedModel, rows: Sequence[CatalogueRow]) -> str:
    licences = sorted({row.licence for row in rows})
    head = {
        "library_name": "mtlpar",
        "model_name": name,
        "tags": ["machine-learned interatomic potential", "multi-fidelity", "chemistry"],
        "datasets": [source_title(source) for source in model.sources],
        # Licences of data; that of the weights is for those who publish them to state.
        **({"data_licences": licences} if licences else {}),
    }
    return f"---\n{dump_yaml(head).strip()}\n---"


def _summary(model: SavedModel) -> str:
    encoder, forces = model.settings.encoder, model.settings.head.forces
    how = (
        "Forces and stress are derivatives of its energy."
        if forces == "conservative"
        else "Forces are predicted by a head of their own."
    )
    return (
        f"A graph neural network ({encoder.kind}, {encoder.layers} layers of {encoder.width}, "
        f"{count_parameters(model.network):,} parameters) with one level of theory or more in each "
        f"of its branches: {', '.join(model.branches)}. {how} Neighbours within "
        f"{model.settings.graph.cutoff_angstrom:g} Å."
    )


def _use(model: SavedModel, path: Path) -> str:
    return (
        "```python\nimport mtlpar\n\n"
        f'atoms.calc = mtlpar.Calculator("{path.name}", source="{model.sources[0]}")\n```\n\n'
        "Energies are totals in eV at the level of theory of the source that is asked for. Those "
        "of different sources cannot be compared."
    )


def _data(model: SavedModel, rows: Sequence[CatalogueRow]) -> str:
    table = [
        [
            source_title(source),
            branch,
            model.level_of_theory[source],
            elements_text(model, source),
            model.training.get("data", {}).get(source, "")[:12] or "–",
        ]
        for branch, sources in model.branches.items()
        for source in sources
    ]
    header = ["source", "branch", "level of theory", "elements", "digest of data"]
    lines = [*_table(header, table)]
    for source in model.sources:
        found = [row for row in rows if row.source == source]
        if found:
            lines += ["", f"{source_title(source)}: {found[0].citation}. {found[0].licence}."]
    if leaky := model.training.get("leaky_sources"):
        lines += ["", f"**Leaky splits** ({', '.join(leaky)}): errors on these flatter."]
    return "\n".join(lines)


def _errors(name: str, model: SavedModel, workspace: Workspace | None) -> str:
    found = dict(_metrics(name, model, workspace))
    if not found:
        return "Not tested here: `mtlpar evaluate` writes the errors that would be in this place."
    untested = [source_title(source) for source in model.sources if source not in found]
    labels = [
        label for label, key in MAE_NAMES.items() if any(key in one for one in found.values())
    ]
    header = ["source", "structures", *(f"{label} ({ERROR_UNITS[label]})" for label in labels)]
    table = []
    for source, one in found.items():
        cells = [_with_zero(one, MAE_NAMES[label]) for label in labels]
        table.append([source_title(source), f"{one['num_structures']:,}", *cells])
    return "\n".join(
        [
            "Mean absolute errors on test structures of groups that were not trained on, and in "
            "brackets those of predicting zero, which is the composition alone.",
            "",
            *_table(header, table),
            *(["", f"Not tested here: {', '.join(untested)}."] if untested else []),
        ]
    )


def _with_zero(one: Mapping[str, Any], key: str) -> str:
    """An error, and in brackets that of predicting zero; a dash for a label that is not there."""
    if key not in one:
        return _number(one, key)
    return f"{_number(one, key)} (zero: {_number(one['zero_predictor'], key)})"


def _uncertainty(name: str, model: SavedModel, workspace: Workspace | None) -> str:
    """What is known of the uncertainty of energies, and how good it was on test structures."""
    tested = {source: one.get("uncertainty") for source, one in _metrics(name, model, workspace)}
    header = ["source", "calibrated on", "mean (eV/atom)", "errors in 90 % interval", "new groups"]
    rows, lines = [], []
    for source in model.sources:
        known = model.uncertainty_of(source)
        if known is None:
            lines.append(f"- {source_title(source)}: {model.no_uncertainty_because(source)}.")
            continue
        found = {
            key: value for key, value in (tested.get(source) or {}).items() if value is not None
        }
        rows.append(
            [
                source_title(source),
                f"{counted(known.num_validation, 'structure')}, "
                f"{counted(known.num_groups, 'group')} of its branch",
                _number(found, "mean_ev_per_atom"),
                f"{found['coverage_90']:.0%}" if found else "–",
                _number(found, "auroc_group_never_seen"),
                _number(found, "auroc_pair_never_seen"),
            ]
        )
    if not rows:
        return "\n".join(lines)
    text = (
        "`energy_uncertainty` is one standard deviation of the energy, by the covariance of the "
        "last layer's features. Of test structures: the mean, the share of errors within the "
        "interval that is to hold 90 % of them, and how well it tells structures of new groups "
        "from training structures, and those with a pair of elements that was never seen together "
        "from others (area under the receiver operating characteristic; 0.5 is chance). Forces "
        "have none."
    )
    table = _table([*header, "new pairs of elements"], rows)
    return "\n".join([text, "", *table, *(["", *lines] if lines else [])])


def _metrics(
    name: str, model: SavedModel, workspace: Workspace | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    for source in model.sources:
        # A folder or a broken link in its place is an error of the reader's, not a test unmade.
        if workspace is not None and os.path.lexists(workspace.metrics(name, source)):
            yield source, read_metrics(workspace, name, source).given()


def _number(content: Mapping[str, float], key: str) -> str:
    return format_number(content.get(key, float("nan")))


def _limits(model: SavedModel) -> str:
    states = (
        [
            "- Elements that a source does not list, which are an error.",
            "- Charges and spins beyond those it was trained on.",
        ]
        if _knows_state(model)
        else [
            "- Elements that a source does not list, and charged or open-shell structures: both "
            "are errors."
        ]
    )
    lines = [
        *states,
        "- Differences between energies of two sources.",
        f"- Interactions beyond {model.settings.graph.cutoff_angstrom:g} Å times the number of "
        "layers.",
    ]
    if not model.network.is_conservative:
        lines.insert(
            0,
            "- Dynamics at constant energy, tight relaxations, cells and phonons: its forces are "
            "not the gradient of its energy.",
        )
    for branch, found in model.training.get("drift", {}).items():
        if found["num_structures"] and found["energy_ev_per_atom"] > 0:
            lines.append(
                f"- Branch {branch} was kept while the encoder moved: its predictions have "
                f"changed by {1000 * found['energy_ev_per_atom']:.1f} meV/atom and "
                f"{1000 * found['force_ev_per_angstrom']:.1f} meV/Å."
            )
    return "\n".join(lines)


def _knows_state(model: SavedModel) -> bool:
    return model.settings.encoder.charge_and_spin


def _training(model: SavedModel, name: str) -> str:
    training = model.training
    facts = {
        key: training[key]
        for key in ("seed", "epochs", "steps", "best_step", "fingerprint", "start")
        if key in training
    }
    branches = {branch: list(sources) for branch, sources in model.branches.items()}
    config = {
        "sources": list(model.sources),
        "seed": training.get("seed"),
        "model": model.settings.model_dump(mode="json"),
        "train": _train_settings(model),
        "models": {name: {"branches": branches}},
    }
    known = dump_yaml({key: value for key, value in config.items() if value is not None})
    start = f"; with `models.{name}.start_from`, the model above" if "start" in training else ""
    return (
        f"```json\n{json.dumps(facts, indent=1, ensure_ascii=False)}\n```\n\n"
        f"As a `config.yaml`{start}:\n\n```yaml\n{known}```"
    )


def _train_settings(model: SavedModel) -> dict[str, Any] | None:
    """Settings of the training, without what is of sources that only other models had."""
    settings = model.training.get("settings")
    if settings is None:
        return None
    own = {
        key: {source: value for source, value in settings[key].items() if source in model.sources}
        for key in ("passes_per_epoch", "source_weights")
        if key in settings
    }
    return {**settings, **own}


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines]
