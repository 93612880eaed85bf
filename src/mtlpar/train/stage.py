"""Runs the train stage for one named model."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from mtlpar.core.collective import collective
from mtlpar.core.fields import LABELS
from mtlpar.core.files import link, write_json
from mtlpar.core.hashing import json_digest
from mtlpar.core.paths import Workspace
from mtlpar.core.wording import counted
from mtlpar.model.describe import energies_not_learned
from mtlpar.model.file import save_model
from mtlpar.model.moving import merge_updates
from mtlpar.model.multitask import MultiTaskModel, parameter_counts
from mtlpar.model.settings import ModelSettings
from mtlpar.model.uncertainty import BranchUncertainty
from mtlpar.parallel.agree import check_same, failing_together, gather
from mtlpar.parallel.failures import RankLostError
from mtlpar.parallel.layout import ParallelLayout
from mtlpar.parallel.ranks import RankContext
from mtlpar.parallel.shard import whole_encoder
from mtlpar.store.pack import Pack
from mtlpar.train.checkpoint import HISTORY, RUN, CheckpointFolder, model_state
from mtlpar.train.data import load_data, plan_epochs, validation_pack
from mtlpar.train.export import finished_model, without_energies
from mtlpar.train.extend import continue_shorter
from mtlpar.train.history import History
from mtlpar.train.layout import choose_layout
from mtlpar.train.progress import TrainingProgress
from mtlpar.train.recipe import Recipe, Start
from mtlpar.train.sampler import EpochPlan
from mtlpar.train.settings import TrainSettings
from mtlpar.train.start_references import references_of
from mtlpar.train.stopping import StopRequest
from mtlpar.train.trackers import open_trackers
from mtlpar.train.trainer import Trainer
from mtlpar.train.uncertainty import measure
from mtlpar.train.work import edges_per_atom

logger = logging.getLogger(__name__)


@collective
def run(
    name: str,
    *,
    branches: Mapping[str, tuple[str, ...]],
    workspace: Workspace,
    model_settings: ModelSettings,
    settings: TrainSettings,
    seed: int,
    context: RankContext,
    start: Start | None = None,
    deadline_s: float | None = None,
) -> None:
    """Train one model and write ``model.pt`` (the best epoch) and ``metrics.jsonl``.

    Checkpoints lie in a folder named after a fingerprint of data and settings, so an interrupted
    run continues and a changed one starts again.

    Args:
        name: Name of the model.
        branches: Sources by branch.
        workspace: Paths of all products.
        model_settings: Architecture.
        settings: How to train.
        seed: The run's seed.
        context: Who this process is.
        start: Trained model to start from; random weights if None.
        deadline_s: Seconds after which to save a checkpoint and stop.

    Raises:
        ValueError: If packs are missing or damaged, ranks were given different things, or training
            diverges.
        Interrupted: If a signal or the deadline asked to stop; the same call continues.
    """
    stop = StopRequest(deadline_s)
    with stop.listening():
        with failing_together():
            if start is not None and not start.path.is_file():
                raise ValueError(f"{name} starts from {start.path}: there is none; train it first")
            recipe = Recipe(
                name=name,
                branches=branches,
                model_settings=model_settings,
                settings=settings,
                seed=seed,
                start=start,
                packs=_open_packs(workspace, branches),
            )
            if context.rank == 0:
                for line in doubts_of(recipe):
                    logger.warning("%s", line)
        _check_ranks(recipe)
        _RankTraining(recipe, workspace, context).run(stop)
    if dist.is_initialized():
        dist.barrier()


def _open_packs(workspace: Workspace, branches: Mapping[str, tuple[str, ...]]) -> dict[str, Pack]:
    """Training packs of all sources, in the order of the branches."""
    return {
        source: Pack.of(workspace, source, "train")
        for sources in branches.values()
        for source in sources
    }


def doubts_of(recipe: Recipe) -> list[str]:
    """What a user should know before a training, a sentence each."""
    forces = recipe.model_settings.head.forces
    return [
        *labels_not_learned(recipe),
        *states_not_seen(recipe),
        *(energies_not_learned(source, forces) for source in without_energies(recipe)),
    ]


def labels_not_learned(recipe: Recipe) -> list[str]:
    """What training packs hold and this training does not learn, a sentence for each label."""
    predicts_stress = recipe.model_settings.head.forces == "conservative"
    lines = []
    for source, header in recipe.headers.items():
        weights = dict(zip(LABELS, recipe.settings.weights_of(source), strict=True))
        for label, count in header.num_labels.items():
            if count and label == "stress" and not predicts_stress:
                why = (
                    f"forces are predicted directly; models.{recipe.name}.model.head.forces="
                    "conservative learns it"
                )
            elif count and weights[label] == 0:
                why = "its weight is zero (train.*_weight and train.source_weights)"
            else:
                continue
            lines.append(
                f"{source}: the {label} of {counted(count, 'structure')} is not learned: {why}"
            )
    return lines


def states_not_seen(recipe: Recipe) -> list[str]:
    """Sources with charges and spins that the model is blind to, a sentence for each.

    The first block of a pack stands for all: packs are in random order.
    """
    if recipe.model_settings.encoder.charge_and_spin:
        return []
    lines = []
    for source, pack in recipe.packs.items():
        block = pack.read_block(0)
        share = float(np.mean((block.charge != 0) | (block.spin > 1)))
        if share:
            lines.append(
                f"{source}: {share:.1%} of the training structures are charged or open-shell, and "
                "the model does not see that (model.encoder.charge_and_spin is off): it learns "
                "their labels as those of neutral ones, and refuses to predict such structures"
            )
    return lines


@collective
def _check_ranks(recipe: Recipe) -> None:
    """Make sure that all ranks mean the same training, on the same data."""
    settings = {**recipe.plain_settings, "execution": recipe.settings.model_dump(mode="json")}
    data = {
        f"data of {source} (branch {recipe.branch_of[source]}) with the digest": found
        for source, found in recipe.data.items()
    }
    check_same(
        {"settings with the digest": json_digest(settings), **data},
        advice="give all ranks the same config and the same packs",
    )


def _training_of(path: Path, checkpoints: Path) -> Path | None:
    """Where the model at a path is kept, if a training here made it."""
    if not path.exists():
        return None
    kept = checkpoints.glob("*/model.pt")
    return next((one for one in kept if one.samefile(path)), None)


def _loss_of(trainer: Trainer, ranks: Sequence[int], what: str) -> str:
    """What the loss of some ranks means for the training."""
    lost = ", ".join(
        f"rank {rank} (branch {', '.join(trainer.layout.branches_of(rank))})" for rank in ranks
    )
    step = trainer.progress.step
    return f"after step {step}, {lost} {what}; start again from the last checkpoint"


class _RankTraining:
    """This rank's part in carrying out a recipe."""

    @collective
    def __init__(self, recipe: Recipe, workspace: Workspace, context: RankContext) -> None:
        self.recipe = recipe
        self.workspace = workspace
        self.context = context
        self.checkpoints = CheckpointFolder(
            workspace.checkpoints(recipe.name) / recipe.fingerprint[:16],
            rank=context.rank,
            keep=recipe.settings.keep_checkpoints,
        )
        self.references = {source: one.references for source, one in recipe.headers.items()}
        if context.rank == 0:
            write_json(self.checkpoints.folder / RUN, recipe.describe())

    @collective
    def run(self, stop: StopRequest) -> None:
        """Train, from the last checkpoint if there is one; the first rank writes the results.

        Raises:
            RankLostError: If another rank is gone or hangs.
            Interrupted: If it was asked to stop.
        """
        self.agree_on_references()
        trainer = self.trainer(stop)
        # Not for longer: ranks are watched until the process ends, and packs that are still open
        # then are reported as leaks by the library that opened them.
        with self.context.failures.described_by(partial(_loss_of, trainer)):
            self._run(trainer)

    @collective
    def _run(self, trainer: Trainer) -> None:
        name = self.recipe.name
        with failing_together():
            if self.context.rank == 0:
                continue_shorter(self.recipe, self.checkpoints)
        trainer.resume()
        history = self.history(trainer.progress.step)
        try:
            progress = trainer.run(history)
            uncertainty = self.uncertainty(trainer)
        except RuntimeError as error:
            if report := self.context.failures.explain(error):
                raise RankLostError(report) from error
            raise
        finally:
            history.close()
        if self.context.rank == 0:
            self.export(progress, uncertainty)
            history.publish(self.workspace.training_metrics(name))
            self.checkpoints.mark_finished(progress)
            logger.info("%s: wrote %s", name, self.workspace.model(name))

    @collective
    def agree_on_references(self) -> None:
        """Fit the references of a model that starts from another one, on the first rank for all.

        Raises:
            ValueError: If the start is worse than predicting the mean.
        """
        recipe = self.recipe
        if recipe.trained is None:
            return
        found = None
        with failing_together():
            if self.context.rank == 0:
                found = references_of(recipe, recipe.trained, self.checkpoints.folder)
        self.references = gather(found)[0] or {}
        for source, pack in recipe.packs.items():
            pack.use_references(self.references[source])

    @collective
    def trainer(self, stop: StopRequest) -> Trainer:
        """Build the part of the model that this rank holds, and read the data it needs."""
        recipe, context = self.recipe, self.context
        plan = plan_epochs(recipe.headers, recipe.settings, seed=recipe.seed)
        layout = self._layout(plan)
        model = recipe.network(layout.branches_of(context.rank), context.device)
        if recipe.settings.compile:
            model.compile_parts()
        self._log_layout(layout, model)
        data = load_data(
            self.workspace,
            recipe.packs,
            recipe.branch_of,
            plan,
            layout=layout,
            rank=context.rank,
            device=context.device,
            settings=recipe.settings,
            model_settings=recipe.model_settings,
        )
        return Trainer(
            model,
            data,
            layout=layout,
            context=context,
            settings=recipe.settings,
            checkpoints=self.checkpoints,
            stop=stop,
        )

    @collective
    def _layout(self, plan: EpochPlan) -> ParallelLayout:
        recipe = self.recipe
        with failing_together():
            layout = choose_layout(
                recipe.branches,
                recipe.headers,
                plan,
                edges_per_atom={
                    source: edges_per_atom(pack, recipe.model_settings.graph)
                    for source, pack in recipe.packs.items()
                },
                settings=recipe.settings,
                model_settings=recipe.model_settings,
                context=self.context,
            )
        check_same({"branch owners": layout.describe()}, advice="give all ranks alike devices")
        return layout

    def history(self, resume_step: int) -> History:
        """The run's history, beside its checkpoints."""
        recipe, is_first = self.recipe, self.context.rank == 0
        return History(
            self.checkpoints.folder / HISTORY,
            rank=self.context.rank,
            resume_step=resume_step,
            trackers=open_trackers(
                recipe.settings.trackers if is_first else (),
                run=f"{recipe.name}-{recipe.fingerprint[:8]}",
                folder=self.checkpoints.folder,
                settings=recipe.plain_settings,
            ),
        )

    @collective
    def uncertainty(self, trainer: Trainer) -> dict[str, BranchUncertainty]:
        """Measure how far off energies of the best checkpoint may be; all ranks together."""
        recipe, layout = self.recipe, trainer.layout
        model = trainer.load_best()
        packs = {}
        with failing_together():
            for source, train in recipe.packs.items():
                # Opened once: only those of branches that other ranks own are not here yet.
                opened = trainer.data.validation_packs.get(source)
                packs[source] = (train, opened or validation_pack(self.workspace, train))
        with whole_encoder(model):
            return measure(
                model,
                packs,
                recipe.branches,
                layout=layout,
                rank=self.context.rank,
                one_by_one=recipe.settings.compile or layout.encoder_shards > 1,
            )

    def export(
        self, progress: TrainingProgress, uncertainty: Mapping[str, BranchUncertainty]
    ) -> None:
        """Collect all branches of the best checkpoint, and those that are kept, in one file."""
        recipe = self.recipe
        model = recipe.network(tuple(recipe.branches), torch.device("cpu"))
        prefix = "average" if recipe.settings.ema_decay else "model"
        state = model_state(model, prefix=prefix)
        self.checkpoints.load(state, progress.best_step, alone=True)
        merge_updates(model)
        found = finished_model(recipe, model, self.references, progress, uncertainty)
        kept = self.checkpoints.folder / "model.pt"
        save_model(
            kept,
            state=found.network.state_dict(),
            settings=found.settings,
            branches=found.branches,
            references=found.references,
            level_of_theory=found.level_of_theory,
            training=found.training,
            uncertainty=found.uncertainty,
        )
        path = self.workspace.model(recipe.name)
        if (other := _training_of(path, self.checkpoints.folder.parent)) not in (None, kept):
            logger.warning("%s was made by another training; that model stays at %s", path, other)
        link(kept, path)

    def _log_layout(self, layout: ParallelLayout, model: MultiTaskModel) -> None:
        counts = parameter_counts(model)
        logger.info(
            "%s: %s, branch owners %s; rank 0 holds %s parameters (%s)",
            self.recipe.name,
            counted(self.context.world_size, "rank"),
            layout.describe(),
            f"{sum(counts.values()):,}",
            ", ".join(f"{part} {count:,}" for part, count in counts.items()),
        )
        device = self.context.device
        if device.type == "cuda":
            name = torch.cuda.get_device_name(device)
            logger.info("rank 0 computes on %s in %s", name, self.recipe.settings.precision)
            if reason := model.encoder.slow_because(device):
                logger.warning("%s", reason)
