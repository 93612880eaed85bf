"""Plans as text for a terminal. Every table says that its numbers are predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Final

from mtlpar.core.files import format_bytes
from mtlpar.core.text_table import aligned
from mtlpar.core.wording import counted
from mtlpar.plan.data import STAGES, StageCost
from mtlpar.plan.machine import DataRates, Machine
from mtlpar.plan.predict import Forecast
from mtlpar.plan.recommend import Question, fastest
from mtlpar.plan.workload import Workload

ASSUMPTIONS: Final = """\
assumptions
  arithmetic, traffic and operations are counted on the model itself; each takes its own time
  reductions: hierarchical rings, trees between nodes where faster; buckets of 16 MiB behind the
    backward pass as far as the machine's `overlap` says
  the slowest rank sets the pace: what dealing structures by their work leaves, whole ranks for
    groups, and branches whose batches differ in atoms (independent normal deviates)
  data are always there in time; one copy of a dataset among the ranks that own its branch
  see docs/planning.md"""


def layout_text(question: Question, ranks: int) -> str:
    """Comparison of all layouts on so many ranks."""
    predictions = question.compare(ranks)
    best = fastest(predictions)
    header = ("predicted", "memory", "store/node", "step", "compute", "wait", "exposed", "update",
              "epoch", "")  # fmt: skip
    rows = [
        (
            p.plan,
            format_bytes(p.memory.device),
            format_bytes(p.memory.store_per_node),
            *(
                duration_text(seconds)
                for seconds in (
                    p.step.total,
                    p.step.compute,
                    p.step.imbalance,
                    p.step.exposed,
                    p.step.update,
                    p.epoch_seconds,
                )
            ),
            " does not fit" if not p.fits else " <- best" if p is best else "",
        )
        for p in predictions
    ]
    return "\n".join(
        [
            _machine_text(question.machine),
            _workload_text(question.workload(ranks), ranks, question.machine),
            "",
            *aligned([header, *rows]),
            "",
            _deal_text(question, best),
        ]
    )


def _deal_text(question: Question, best: Forecast) -> str:
    """What dealing batches by work instead of by number is worth, for one layout."""
    by_count = question.ask(best.plan, best.ranks, deal="count").step
    above = [f"{step.imbalance / step.compute:.1%}" for step in (best.step, by_count)]
    return (
        f"the slowest rank of {best.plan} computes {above[0]} longer than the mean with batches "
        f"dealt by work; by number of structures it would be {above[1]}"
    )


def recommendation_text(found: Forecast | None, epoch_hours: float | None) -> str:
    """Layout and number of nodes in one line."""
    if found is None:
        limit = "" if epoch_hours is None else f" in {epoch_hours:g} h an epoch"
        return f"recommended: nothing that is allowed fits{limit}; allow more ranks"
    shards = f", train.encoder_shards: {found.encoder_shards}" if found.encoder_shards > 1 else ""
    return (
        f"recommended: {found.plan} on {counted(found.nodes, 'node')} "
        f"({counted(found.ranks, 'rank')}{shards}), predicted {duration_text(found.epoch_seconds)} "
        f"an epoch, {format_bytes(found.memory.device)} a device"
    )


def nodes_text(nodes: Mapping[str, int], *, cores: int, hours: float) -> str:
    """Nodes of each source and of all."""
    each = ", ".join(f"{source} {count}" for source, count in nodes.items())
    return _wrapped(
        f"nodes of {counted(cores, 'core')} to be packed {hours:g} h after the download: "
        f"{sum(nodes.values())}, side by side; {each} (extract.shares and pack.shares: so many "
        "jobs read and sort a source; normalizing, gathering and writing stay on one node)"
    )


def _wrapped(text: str, indent: str = "") -> str:
    return fill(text, 96, initial_indent=indent, subsequent_indent=indent)


def data_text(costs: Sequence[StageCost], rates: DataRates, *, cores: int, origin: str) -> str:
    """Time, memory and disk of every source and stage."""
    sources = tuple(dict.fromkeys(cost.source for cost in costs))
    cell = {(cost.source, cost.stage): cost for cost in costs}
    rows: list[tuple[str, ...]] = [
        ("predicted", *(f"{stage}" for stage in STAGES), "all", "disk", "memory")
    ]
    for source in sources:
        of_source = [cell[source, stage] for stage in STAGES]
        rows.append(_data_row(source, of_source))
    rows.append(_data_row("sum", costs, _sums(costs)))
    speed = ", ".join(
        f"{source} {rate:,.0f}"
        for source, rate in rates.extract_structures_per_s.items()
        if source in sources
    )
    return "\n".join(
        [
            f"rates: {origin}",
            _wrapped(
                f"download {rates.download_mb_per_s:g} MB/s; structures/s of a core: read {speed}; "
                f"normalize {rates.normalize_structures_per_s:,.0f}, pack "
                f"{rates.pack_structures_per_s:,.0f}, load {rates.load_structures_per_s:,.0f}",
                "  ",
            ),
            f"  on {counted(cores, 'core')}; sources one after another",
            "",
            *aligned(rows),
            "",
            "disk: native files, extracted columns and packs; meanwhile packing needs room for one",
            "more copy of its source, reading QM7-X for an unpacked file a job, an archive that is",
            "unpacked by hand for its content; memory: of the hungriest stage",
        ]
    )


def _sums(costs: Sequence[StageCost]) -> Mapping[str, float]:
    return {stage: sum(cost.seconds for cost in costs if cost.stage == stage) for stage in STAGES}


def _data_row(
    name: str, costs: Sequence[StageCost], seconds: Mapping[str, float] | None = None
) -> tuple[str, ...]:
    by_stage = seconds or {cost.stage: cost.seconds for cost in costs}
    return (
        name,
        *(duration_text(by_stage[stage]) for stage in STAGES),
        duration_text(sum(by_stage.values())),
        format_bytes(sum(cost.disk_bytes for cost in costs)),
        format_bytes(max(cost.memory_bytes for cost in costs)),
    )


def _machine_text(machine: Machine) -> str:
    origin = f"measured: {machine.calibrated}" if machine.calibrated else "stated, not measured"
    return f"machine: {machine.description} ({origin})"


def _workload_text(workload: Workload, ranks: int, machine: Machine) -> str:
    structures = sum(dataset.structures for dataset in workload.branches.values())
    return (
        f"{counted(ranks, 'rank')} on {counted(machine.nodes(ranks), 'node')}, "
        f"{counted(len(workload.branches), 'branch')}, {structures:,.0f} structures, "
        f"{workload.batch_structures:,.0f} of them a step, "
        f"{counted(workload.steps_per_epoch, 'step')} an epoch"
    )


def duration_text(seconds: float) -> str:
    """A duration in the unit that suits it."""
    for limit, factor, unit in ((1e-3, 1e6, "us"), (1, 1e3, "ms"), (120, 1, "s"),
                                (7200, 1 / 60, "min")):  # fmt: skip
        if seconds < limit:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds / 3600:,.3g} h" if seconds < 3.6e6 else f"{seconds / 86400:,.0f} d"
