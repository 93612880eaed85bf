"""What a model is, as text: size of every part, heads, levels of theory, elements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import torch
from ase.data import atomic_numbers

from mtlpar.core.wording import counted
from mtlpar.model.heads import Branch
from mtlpar.model.multitask import MultiTaskModel, count_parameters
from mtlpar.model.saved import SavedModel
from mtlpar.model.settings import ModelSettings

NO_GRADIENT: Final = (
    "forces are not the gradient of the energy: fit for screening and as a start of training, not "
    "for NVE dynamics, tight relaxations or cells"
)
"""What to know of a model that predicts forces directly."""

CONSERVATIVE_INSTEAD: Final = (
    "train a conservative model that starts from this one: model.head.forces: conservative, and "
    "models.<name>.start_from"
)
"""What to do where that does not suffice."""


def energies_not_learned(source: str, forces: str) -> str:
    """What to know of the energies of a source whose training data have none.

    Args:
        source: The source.
        forces: How the model predicts forces, see `mtlpar.model.settings.HeadSettings`.
    """
    learned = "differences at one composition" if forces == "conservative" else "forces"
    return (
        f"{source}: no training structure has an energy, so only {learned} are learned; total "
        "energies are not at its level of theory"
    )


def describe_settings(settings: ModelSettings, branches: Iterable[str]) -> str:
    """Architecture and parameter counts of a model that is not built.

    Args:
        settings: Architecture.
        branches: Names of the branches.
    """
    with torch.device("meta"):
        network = MultiTaskModel(settings, branches, seed=0)
    return "\n".join([*_architecture(settings), "", *_sizes(network)])


def describe_model(model: SavedModel) -> str:
    """Format, architecture, parameter counts, heads and training of a model file."""
    lines = [
        f"file format   {model.format_version}",
        f"digest        {model.digest or 'none: damage to an older file like this goes unseen'}",
        f"precision     {str(next(model.network.parameters()).dtype).removeprefix('torch.')}",
        *_architecture(model.settings),
        "",
        *_sizes(model.network),
        "",
    ]
    for branch, sources in model.branches.items():
        for source in sources:
            lines += [
                f"head {source}, branch {branch}",
                f"  level of theory  {model.level_of_theory[source]}",
                f"  elements         {elements_text(model, source)}",
                f"  uncertainty      {_uncertainty(model, source)}",
            ]
    facts = [f"{key} {_short(model.training[key])}" for key in _TRAINING if key in model.training]
    if facts:
        lines += ["", f"trained: {', '.join(facts)}"]
    if start := model.training.get("start"):
        lines.append(
            f"started from {start.get('from') or 'a file'} ({start['model'][:12]}), {start['mode']}"
        )
    lines += [_drift(branch, found) for branch, found in model.training.get("drift", {}).items()]
    lines += [
        energies_not_learned(source, model.settings.head.forces)
        for source in model.training.get("without_energies", ())
    ]
    if leaky := model.training.get("leaky_sources"):
        lines.append(f"LEAKY SPLITS ({', '.join(leaky)}): single frames were split; errors flatter")
    return "\n".join(lines)


def elements_text(model: SavedModel, source: str) -> str:
    """Elements that a source can be asked for, and which of them it has by reference alone.

    A branch that starts from another one has the references of that for elements that its own data
    lack: energies of these are at the other level of theory.
    """
    symbols = [*model.references[source].energies_ev]
    known = model.uncertainty_of(source)
    if known is None:
        return " ".join(symbols)
    found = known.sources[source]
    is_seen = found.together.diagonal().tolist()
    unseen = [symbol for symbol in symbols if not is_seen[atomic_numbers[symbol]]]
    seen = " ".join(symbol for symbol in symbols if symbol not in unseen)
    if not unseen:
        return seen
    return (
        f"{seen}; by reference alone {' '.join(unseen)}, which none of its "
        f"{counted(found.num_structures, 'training structure')} has"
    )


def _uncertainty(model: SavedModel, source: str) -> str:
    """What the uncertainty of a source's energies rests on."""
    found = model.uncertainty_of(source)
    if found is None:
        return f"not known: {(model.no_uncertainty_because(source) or '').partition(': ')[2]}"
    return (
        f"measured on {counted(found.sources[source].num_structures, 'structure')}; that of the "
        f"branch calibrated on {found.num_validation:,} of {counted(found.num_groups, 'group')}"
    )


def _drift(branch: str, found: Mapping[str, float]) -> str:
    """How far a kept branch has moved with the encoder."""
    if not found["num_structures"]:
        return f"branch {branch} is kept; its drift is unknown"
    return (
        f"branch {branch} is kept; moved by {1000 * found['energy_ev_per_atom']:.2f} meV/atom and "
        f"{1000 * found['force_ev_per_angstrom']:.2f} meV/Å on the new structures"
    )


_TRAINING = ("model", "seed", "epochs", "steps", "best_step", "best_score")


def _architecture(settings: ModelSettings) -> list[str]:
    encoder, head, graph = settings.encoder, settings.head, settings.graph
    neighbors = "all" if graph.max_neighbors is None else f"the nearest {graph.max_neighbors}"
    return [
        f"encoder       {encoder.kind}, {counted(encoder.layers, 'layer')} x {encoder.width}"
        + (", conditioned on charge and spin" if encoder.charge_and_spin else ""),
        f"heads         {counted(head.layers, 'layer')} x {head.width}; energy {head.energy}, "
        f"forces {head.forces}",
        f"neighbours    {neighbors} within {graph.cutoff_angstrom:g} Å",
        *([f"note          {NO_GRADIENT}"] if head.forces == "equivariant" else []),
    ]


def _short(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _sizes(network: MultiTaskModel) -> list[str]:
    encoder = count_parameters(network.encoder)
    rows = [("encoder", encoder)]
    sizes = []
    for name, branch in network.heads.items():
        assert isinstance(branch, Branch)
        sizes.append(count_parameters(branch))
        rows += [(f"branch {name}", sizes[-1]), ("  energy", count_parameters(branch.energy))]
        rows += [("  forces", count_parameters(branch.force))] if branch.force else []
    rows += [
        ("all", encoder + sum(sizes)),
        ("largest rank of MTL-par with a branch each", encoder + max(sizes, default=0)),
    ]
    return [f"{'parameters':44}{'':>14}", *(f"{name:44}{count:14,}" for name, count in rows)]
