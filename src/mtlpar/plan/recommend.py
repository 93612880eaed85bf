"""Which layout to take, on how many nodes, and from where on it pays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from mtlpar.model.settings import ModelSettings
from mtlpar.plan.census import take_census
from mtlpar.plan.machine import Machine, Precision
from mtlpar.plan.predict import PLANS, Deal, Forecast, Plan, predict
from mtlpar.plan.workload import Dataset, Workload, make_branches

# Beyond this loss against the smallest run that fits, more nodes are not worth their price.
_LEAST_EFFICIENCY: Final = 0.7
_BRANCHES: Final = (2, 4, 8, 16, 32)
# Predictions between two numbers of nodes before it is looked at more closely.
_STEPS_BETWEEN: Final = 32


class Choice(NamedTuple):
    """What a training run should set.

    Attributes:
        layout: Which branches a rank holds.
        encoder_shards: Ranks that hold one copy of the encoder together.
    """

    layout: Literal["mtl-par", "mtl-base"]
    encoder_shards: int = 1


def recommend(
    *,
    model: ModelSettings,
    branches: Mapping[str, Dataset],
    batch_structures: float,
    world_size: int,
    machine: Machine,
    precision: Precision = "float32",
) -> Choice:
    """Layout for a training run: the faster one among those that fit into memory.

    The encoder is spread over ranks only if that makes fit what otherwise does not. The same
    arguments give the same answer on every rank. It takes seconds, once: for the census.

    Args:
        model: Architecture.
        branches: Data of each branch, its sources taken together.
        batch_structures: Structures of a step, over all branches and ranks.
        world_size: Number of ranks.
        machine: Rates; `mtlpar.plan.machine` has generic ones.
        precision: Arithmetic of the products.
    """
    workload = Workload(branches, batch_structures)

    def ask(plan: Plan) -> Forecast:
        return predict(
            plan,
            machine=machine,
            census=take_census(model),
            workload=workload,
            ranks=world_size,
            precision=precision,
        )

    best = fastest([ask("mtl-base"), ask("mtl-par")])
    if not best.fits:
        sharded = ask("mtl-par sharded")
        best = sharded if sharded.fits else best
    return Choice("mtl-base" if best.plan == "mtl-base" else "mtl-par", best.encoder_shards)


def fastest(predictions: Sequence[Forecast]) -> Forecast:
    """The fastest of those that fit; if none fits, the one that needs the least device memory.

    Among equals the first wins.
    """
    fitting = [prediction for prediction in predictions if prediction.fits]
    if fitting:
        return min(fitting, key=lambda prediction: prediction.step.total)
    return min(predictions, key=lambda prediction: prediction.memory.device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a plan is asked for.

    Attributes:
        machine: Rates.
        model: Architecture.
        datasets: Sizes of the datasets; more branches than datasets repeat them.
        branches: Number of branches.
        batch_per_rank: Structures of a step per rank: the global batch grows with the ranks.
        total_structures: Structures of all branches together; None for those of the datasets.
        precision: Arithmetic of the products.
    """

    machine: Machine
    model: ModelSettings
    datasets: Sequence[Dataset]
    branches: int
    batch_per_rank: float
    total_structures: float | None = None
    precision: Precision = "float32"

    def workload(self, ranks: int, *, branches: int | None = None) -> Workload:
        """Branches and global batch on so many ranks."""
        return Workload(
            make_branches(
                self.datasets,
                self.branches if branches is None else branches,
                total_structures=self.total_structures,
            ),
            self.batch_per_rank * ranks,
        )

    def ask(
        self, plan: Plan, ranks: int, *, branches: int | None = None, deal: Deal = "work"
    ) -> Forecast:
        """Predict one layout."""
        return predict(
            plan,
            machine=self.machine,
            census=take_census(self.model),
            workload=self.workload(ranks, branches=branches),
            ranks=ranks,
            precision=self.precision,
            deal=deal,
        )

    def compare(self, ranks: int, *, branches: int | None = None) -> list[Forecast]:
        """Predict all layouts."""
        return [self.ask(plan, ranks, branches=branches) for plan in PLANS]


def ladder(machine: Machine, max_ranks: int) -> list[int]:
    """Numbers of ranks to look at: a node, doubled until the limit, and the limit."""
    limit = min(max_ranks, machine.max_ranks)
    steps = []
    ranks = min(machine.ranks_per_node, limit)
    while ranks < limit:
        steps.append(ranks)
        ranks *= 2
    return [*steps, limit]


def nodes_for(
    question: Question, *, max_ranks: int, epoch_hours: float | None = None
) -> Forecast | None:
    """Layout and number of nodes to take.

    Args:
        question: What is to be trained, and where.
        max_ranks: Devices at hand.
        epoch_hours: Wanted time of an epoch; the fewest nodes that reach it are taken. Without it,
            the most nodes at which each device still does 70 % of what it does on the fewest
            nodes that fit.

    Returns:
        The prediction for them, or None if nothing fits or is fast enough.
    """
    best = [fastest(question.compare(ranks)) for ranks in ladder(question.machine, max_ranks)]
    if epoch_hours is not None:
        return _fewest(question, best, 3600 * epoch_hours)
    fitting = [prediction for prediction in best if prediction.fits]
    # The batch grows with the ranks: equal times of a step are perfect efficiency.
    efficient = [p for p in fitting if fitting[0].step.total / p.step.total >= _LEAST_EFFICIENCY]
    return efficient[-1] if efficient else None


def _fewest(question: Question, rungs: Sequence[Forecast], epoch_seconds: float) -> Forecast | None:
    """The fewest nodes that hold the training and reach a time of an epoch, if any do.

    Args:
        question: What is to be trained, and where.
        rungs: Predictions for nodes in doublings.
        epoch_seconds: The time.
    """

    def serves(prediction: Forecast) -> bool:
        return prediction.fits and prediction.epoch_seconds <= epoch_seconds

    before = 0
    for rung in rungs:
        if serves(rung):
            # Coarsely first: one by one it would be thousands of predictions on a large machine.
            while step := math.ceil((rung.nodes - before - 1) / _STEPS_BETWEEN):
                for nodes in range(before + step, rung.nodes, step):
                    ranks = nodes * question.machine.ranks_per_node
                    found = fastest(question.compare(ranks))
                    if serves(found):
                        rung = found
                        break
                    before = nodes
                if step == 1:
                    break
            return rung
        before = rung.nodes
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossover:
    """Step times over ranks and branches.

    Attributes:
        ranks: Numbers of ranks.
        branches: Numbers of branches.
        predictions: By branches and ranks, a prediction for every plan.
    """

    ranks: Sequence[int]
    branches: Sequence[int]
    predictions: Mapping[tuple[int, int], Mapping[Plan, Forecast]]

    def speedup(self, branches: int, ranks: int) -> float:
        """Step time of MTL-base over that of MTL-par; above one MTL-par is faster."""
        cell = self.predictions[branches, ranks]
        return cell["mtl-base"].step.total / cell["mtl-par"].step.total


def crossover(question: Question, *, max_ranks: int) -> Crossover:
    """Compare the layouts over ranks and over branches, those of the question among them."""
    ranks = ladder(question.machine, max_ranks)
    branches = sorted({*_BRANCHES, question.branches})
    return Crossover(
        ranks=ranks,
        branches=branches,
        predictions={
            (count, size): {p.plan: p for p in question.compare(size, branches=count)}
            for count in branches
            for size in ranks
        },
    )
