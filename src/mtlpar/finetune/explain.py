"""What a fine-tuning is about to do, and what it did."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from mtlpar.config import Config, load_config
from mtlpar.config.schema import ModelEntry
from mtlpar.core.error_names import ERROR_UNITS, MAE_NAMES
from mtlpar.core.wording import counted
from mtlpar.evaluate.errors import predict_dataset, sums_of, zero_of
from mtlpar.finetune.project import MODEL, start_of
from mtlpar.model.file import load_model
from mtlpar.model.moving import set_moving
from mtlpar.model.multitask import MultiTaskModel, count_parameters
from mtlpar.model.predict import predict_batches
from mtlpar.model.saved import SavedModel
from mtlpar.model.start import architecture_from, start_branch, start_from
from mtlpar.store.dataset import PackedDataset
from mtlpar.store.pack import Pack
from mtlpar.train.data import plan_epochs
from mtlpar.train.kept import kept_branches
from mtlpar.train.recipe import Recipe
from mtlpar.train.stage import doubts_of
from mtlpar.train.start_references import fit_references

_TIMED: int = 32
"""Structures that are predicted to guess how long a training takes."""
# Forward and backward pass by the time of a forward pass; conservative forces take twice that.
_TRAINING_COST = {"equivariant": 3.0, "conservative": 5.0}


def text(path: Path, model: SavedModel) -> str:
    """What a fine-tuning would do: what moves, references, replay, memory and time.

    Args:
        path: Its configuration.
        model: The model to start from.

    Raises:
        ValueError: If packs are missing or damaged.
    """
    config = load_config([path])
    entry = config.model_entry(MODEL)
    assert entry.start_from is not None
    packs = {source: Pack.of(config.workspace, source, "train") for source in entry.sources}
    settings = architecture_from(model, entry.model)
    network = MultiTaskModel(settings, entry.branches, seed=config.seed)
    start_from(network, model, new_branches=entry.start_from.branches)
    set_moving(network, entry.start_from.mode, seed=config.seed)
    own = next(iter(entry.sources))
    headers = {source: pack.header for source, pack in packs.items()}
    samples = plan_epochs(headers, config.train_of(MODEL), seed=config.seed).num_samples
    branch = start_of(config, model)
    recipe = Recipe(
        name=MODEL,
        branches=entry.branches,
        model_settings=settings,
        settings=config.train_of(MODEL),
        seed=config.seed,
        start=None,
        packs=packs,
    )
    lines = [
        f"mode {entry.start_from.mode}",
        f"  {'encoder':20} {_moving(network.encoder)}{_slower(network, config)}",
        *_become(network, model, entry, config.train_of(MODEL).branch_rates),
        "",
        *_references(packs[own], model, branch),
        "",
        *_replay(samples, own),
        "",
        *_cost(config, network, packs[own], sum(samples.values()), model),
        *(f"warning: {line}" for line in doubts_of(recipe)),
    ]
    return "\n".join(lines)


def outcome(path: Path, model: SavedModel) -> str:
    """Test errors before and after a fine-tuning, and what became of the other branches.

    Args:
        path: Its configuration.
        model: The model that was started from.

    Raises:
        ValueError: If the fine-tuned model or a pack is missing or damaged.
    """
    config = load_config([path])
    work = config.workspace
    tuned = load_model(work.model(MODEL))
    lines = [f"{'mean absolute errors on test':36}{'before':>10}{'after':>10}{'of zero':>10}"]
    for source in config.models[MODEL].sources:
        start = start_of(config, model) if source == config.sources[0] else tuned.branch_of(source)
        lines += [source, *_before_and_after(model, tuned, start, source, config)]
    lines += ["", *_drift(tuned.training.get("drift", {}), alone=len(tuned.branches) == 1)]
    return "\n".join([*lines, "", f"model: {work.model(MODEL).resolve()}"])


def _before_and_after(
    model: SavedModel, tuned: SavedModel, start: str | None, source: str, config: Config
) -> list[str]:
    """Lines of a table: errors on the test set of a source by label; before, if it had a start."""
    dataset = PackedDataset(Pack.of(config.workspace, source, "test"))
    # The start with the references that were fitted to it is the model before the first step.
    before, after = (
        {}
        if branch is None
        else sums_of(
            dataset,
            predict_dataset(
                one, dataset, branch, config.evaluate, references=tuned.references[source]
            ),
        ).as_dict()
        for one, branch in ((model, start), (tuned, tuned.branch_of(source)))
    )
    zero = sums_of(dataset, zero_of(dataset)).as_dict()
    lines = []
    for label, name in MAE_NAMES.items():
        if name in after:
            texts = (f"{one[name]:10.4f}" if name in one else "-" for one in (before, after, zero))
            columns = "".join(f"{text:>10}" for text in texts)
            lines.append(f"  {f'{label} ({ERROR_UNITS[label]})':34}{columns}")
    return lines


def _become(
    network: MultiTaskModel, model: SavedModel, entry: ModelEntry, rates: Mapping[str, float]
) -> list[str]:
    """What becomes of each branch: those that are fed, then all others of the start."""
    start, branches = entry.start_from, entry.branches
    assert start is not None
    lines = []
    for name, sources in branches.items():
        like = start_branch(name, model, start.branches)
        if rates.get(name) == 0:
            becomes = "held still; its data hold the encoder to it"
        else:
            origin = (
                "trained on" if name == like else f"new, starts from {like or 'random weights'}"
            )
            becomes = f"{_moving(network.heads[name])}; {origin}"
        lines.append(f"  {name:20} {becomes}, fed by {', '.join(sources)}")
    encoder_moves = _moving_parameters(network.encoder) > 0
    if not start.keep_branches:
        becomes = "left out of the new model file"
    elif encoder_moves:
        becomes = "weights stay; what it predicts drifts with the encoder, which is measured"
    else:
        becomes = "stays: it predicts the same to the last bit"
    others = [name for name in kept_branches(model, branches) if name not in branches]
    return [*lines, *(f"  {name:20} {becomes}" for name in others)]


def _slower(network: MultiTaskModel, config: Config) -> str:
    rate = config.train_of(MODEL).encoder_rate
    moves_slower = rate != 1 and _moving_parameters(network.encoder)
    return f", at {rate:g} of the learning rate" if moves_slower else ""


def _moving(part: torch.nn.Module) -> str:
    return f"{_moving_parameters(part):>10,} of {count_parameters(part):,} parameters move"


def _moving_parameters(part: torch.nn.Module) -> int:
    return sum(p.numel() for p in part.parameters() if p.requires_grad)


def _references(pack: Pack, model: SavedModel, branch: str | None) -> list[str]:
    old: Mapping[str, float] = {}
    new = pack.header.references
    if branch is not None:
        old = model.references[model.branches[branch][0]].energies_ev
        new = fit_references(pack, model, branch).references
    lines = [f"reference energies (eV)       {branch or '':>14}{pack.header.source:>14}"]
    for symbol, energy in new.energies_ev.items():
        if symbol in pack.header.references.energies_ev:
            before = f"{old[symbol]:14.4f}" if symbol in old else f"{'-':>14}"
            lines.append(f"  {symbol:28}{before}{energy:14.4f}")
    return lines


def _replay(samples: Mapping[str, int], own: str) -> list[str]:
    total = sum(samples.values())
    share = 1 - samples[own] / total
    others = ", ".join(f"{name} {count:,}" for name, count in samples.items() if name != own)
    return [f"replay: {share:.0%} of the {total:,} structures of an epoch ({others or 'none'})"]


def _cost(
    config: Config,
    network: MultiTaskModel,
    pack: Pack,
    samples: int,
    model: SavedModel,
) -> list[str]:
    """Rough, from a forward pass on this machine."""
    settings = config.train_of(MODEL)
    some = pack.first(_TIMED)
    # All branches take as long.
    branch = next(iter(model.branches))
    for _ in range(2):
        started = time.perf_counter()
        found = list(
            predict_batches(
                model.network, some, branch=branch, graph=model.settings.graph, batch_atoms=4096
            )
        )
        seconds = time.perf_counter() - started
    assert np.isfinite(found[0].energy_per_atom).all()
    per_structure = _TRAINING_COST[network.settings.head.forces] * seconds / len(some)
    epoch = per_structure * samples
    held = sum(p.numel() * p.element_size() for p in network.parameters())
    moments = 3 * 4 * _moving_parameters(network)
    return [
        f"time: about {epoch:.1f} s an epoch on one process here, "
        f"{counted(settings.epochs, 'epoch')} at most",
        f"memory: {(held + moments) / 2**20:.1f} MiB of weights, gradients and moments, and the "
        "batches",
    ]


def _drift(drift: Mapping[str, Mapping[str, float]], *, alone: bool) -> Sequence[str]:
    if not drift:
        held = "other branches were held by their data: their errors are above"
        return ["no other branch is kept" if alone else held]
    lines = ["other branches, kept as they were; their predictions on the new structures moved by"]
    for branch, found in drift.items():
        if not found["num_structures"]:
            moved = "   not measured: it knows none of the structures"
        elif not found["energy_ev_per_atom"] and not found["force_ev_per_angstrom"]:
            moved = "   nothing: they are the same to the last bit"
        else:
            moved = (
                f"{1000 * found['energy_ev_per_atom']:10.2f} meV/atom"
                f"{1000 * found['force_ev_per_angstrom']:10.2f} meV/Å"
            )
        lines.append(f"  {branch:20}{moved}")
    return lines
