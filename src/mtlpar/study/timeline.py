"""From what a profiler saw on every rank to where the time of a step goes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch._C._autograd import DeviceType
from torch.profiler import profile

from mtlpar.parallel.trace import PREFIX

PHASES = ("data", "compute", "reduce", "update")
ENCODER = "the encoder"
SHARDS = "shards"
_KERNEL = "kernel"
_SUM = "sum "
_GLOO_SUM = "gloo:all_reduce"
# What torch calls a sum when it is sent; the second is one of FSDP's.
_SENT = ("c10d::allreduce_", "c10d::_reduce_scatter_base_")
_FSDP = ("FSDP::all_gather", "FSDP::post_backward_reduce")
_FSDP_COPY = "FSDP::all_gather_copy_out"


class Span(NamedTuple):
    """A stretch of time on one rank's clock, in seconds."""

    name: str
    start: float
    end: float

    def shifted(self, seconds: float) -> Span:
        """The same on another clock."""
        return Span(self.name, self.start + seconds, self.end + seconds)


@dataclass(frozen=True, slots=True)
class StepSpans:
    """One step of one rank.

    Attributes:
        phases: What the rank did, by phase; phases follow one another.
        sums: Sums of gradients under way, from when this rank sent its part to when it had the
            sum. Named after the part of the model, several in a row for several buckets.
        shards: Gathers and sums of an encoder in shards, within the passes.
        kernels: What the device computed meanwhile. A CPU waits for shards and does nothing else.
    """

    phases: Mapping[str, Span]
    sums: Sequence[Span]
    shards: Sequence[Span] = ()
    kernels: Sequence[Span] = ()

    def shifted(self, seconds: float) -> StepSpans:
        """The same on another clock."""
        phases = {name: span.shifted(seconds) for name, span in self.phases.items()}
        moved = (
            [span.shifted(seconds) for span in spans]
            for spans in (self.sums, self.shards, self.kernels)
        )
        return StepSpans(phases, *moved)


def spans_of(trace: profile) -> list[Span]:
    """What the profiler saw of a rank's steps: phases, and sums under the names of their parts.

    On a GPU spans are those of the device. On a CPU the transport notes when it works, but not for
    whom: it takes up sums in the order in which they were sent.
    """
    events: Any = trace.events()  # type: ignore[no-untyped-call]
    device = DeviceType.CUDA if any(_is_ours(e, DeviceType.CUDA) for e in events) else None
    spans = [_span(e) for e in events if _is_ours(e, DeviceType.CPU)]
    shards = [_span(e)._replace(name=SHARDS) for e in events if _is_of_shards(e, device)]
    if device:
        on_device = [_span(e) for e in events if _is_ours(e, device)]
        seen = {span.name for span in on_device}
        kernels = [_span(e)._replace(name=_KERNEL) for e in events if _is_kernel(e, device)]
        on_device += shards + (kernels if shards else [])
        return [span for span in spans if span.name not in seen] + on_device
    sent = sorted((_span(e) for e in events if e.name in _SENT), key=lambda s: s.start)
    taken = sorted((_span(e) for e in events if e.name == _GLOO_SUM), key=lambda s: s.start)
    assert len(sent) == len(taken), f"{len(sent)} sums were sent and {len(taken)} taken up"
    phases = [span for span in spans if not span.name.startswith(_SUM)]
    # Some are FSDP's, or of the norm for clipping.
    sums = [
        ours._replace(end=its.end)
        for ours in spans
        for theirs, its in zip(sent, taken, strict=True)
        if ours.name.startswith(_SUM) and ours.start <= theirs.start <= ours.end
    ]
    return phases + sums + shards


def steps_of(spans: Sequence[Span]) -> list[StepSpans]:
    """Cut what a rank did into steps, in order."""
    by_phase = {
        phase: sorted((s for s in spans if s.name == phase), key=lambda s: s.start)
        for phase in PHASES
    }
    sums = [s._replace(name=s.name.removeprefix(_SUM)) for s in spans if s.name.startswith(_SUM)]
    others = [[s for s in spans if s.name == name] for name in (SHARDS, _KERNEL)]
    steps = []
    for row in zip(*by_phase.values(), strict=True):
        first, last = row[0].start, row[-1].end
        inside = [
            sorted((s for s in kind if first <= s.start < last), key=lambda s: s.start)
            for kind in (sums, *others)
        ]
        steps.append(StepSpans({span.name: span for span in row}, *inside))
    return steps


def break_down(ranks: Sequence[Sequence[StepSpans]]) -> list[dict[str, float]]:
    """Where the time of the mean step goes on every rank.

    A sum cannot begin before the last rank has sent its part: up to then ranks wait for the
    slowest, and from then on for the transport. Clocks of ranks are aligned by the ends of steps'
    last sums over all ranks, which everybody sees at about the same time.

    Args:
        ranks: Steps of every rank, the same number of them.

    Returns:
        For each rank seconds of ``data``, ``compute`` (forward and backward pass),
        ``encoder_exposed`` and ``branch_exposed`` (sums not hidden behind the backward pass),
        ``waiting`` for slower ranks and ``update`` (clipping and optimizer), which add up to
        ``step``; and ``encoder_hidden`` and ``branch_hidden``, which lie within compute.
    """
    aligned = [_on_clock_of(ranks[0], steps) for steps in ranks]
    by_step = [_break_down_step(row) for row in zip(*aligned, strict=True)]
    return [
        {key: statistics.fmean(row[key] for row in rows) for key in rows[0]}
        for rows in zip(*by_step, strict=True)
    ]


def _on_clock_of(first: Sequence[StepSpans], steps: Sequence[StepSpans]) -> list[StepSpans]:
    offsets = [
        _last_end(theirs) - _last_end(ours) for theirs, ours in zip(first, steps, strict=True)
    ]
    offset = statistics.median(offsets)
    return [step.shifted(offset) for step in steps]


def _last_end(step: StepSpans) -> float:
    ends = [span.end for span in step.sums if span.name == ENCODER]
    return max(ends, default=step.phases["reduce"].end)


def _break_down_step(ranks: Sequence[StepSpans]) -> list[dict[str, float]]:
    complete = _when_all_had_sent(ranks)
    return [_break_down_rank(step, complete) for step in ranks]


def _when_all_had_sent(ranks: Sequence[StepSpans]) -> dict[tuple[str, int], float]:
    """Of every part and bucket the time at which the last rank sent its share."""
    latest: dict[tuple[str, int], float] = {}
    for step in ranks:
        for key, span in (*_numbered(step.sums), *_numbered(step.shards)):
            latest[key] = max(latest.get(key, span.start), span.start)
    return latest


def _break_down_rank(
    step: StepSpans, complete: Mapping[tuple[str, int], float]
) -> dict[str, float]:
    moved: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for key, span in _numbered(step.sums):
        if span.end > complete[key]:
            moved[span.name == ENCODER].append((complete[key], span.end))
    seconds = {name: span.end - span.start for name, span in step.phases.items()}
    compute, reduce = step.phases["compute"], step.phases["reduce"]
    encoder = _covered(moved[True], reduce)
    both = _covered(moved[True] + moved[False], reduce)
    shards = [(max(span.start, complete[key]), span.end) for key, span in _numbered(step.shards)]
    # A rank that asks for shards stands still unless its device has work left.
    asked = [(span.start, span.end) for span in step.shards]
    busy = [(span.start, span.end) for span in step.kernels]
    still = _without(asked, busy)
    stalled = _covered(still, compute)
    shards_exposed = _covered(_without(shards, busy), compute)
    return {
        "data": seconds["data"],
        "compute": seconds["compute"] - stalled,
        "encoder_exposed": encoder + shards_exposed,
        "branch_exposed": both - encoder,
        "waiting": seconds["reduce"] - both + stalled - shards_exposed,
        "update": seconds["update"],
        "step": sum(seconds.values()),
        "encoder_hidden": _covered(moved[True] + shards + still, compute) - stalled,
        "branch_hidden": _covered(moved[False] + still, compute) - stalled,
    }


def _numbered(sums: Sequence[Span]) -> list[tuple[tuple[str, int], Span]]:
    """Sums with their part and their number among the buckets of that part."""
    seen: dict[str, int] = {}
    numbered = []
    for span in sums:
        seen[span.name] = seen.get(span.name, -1) + 1
        numbered.append(((span.name, seen[span.name]), span))
    return numbered


def _covered(stretches: Sequence[tuple[float, float]], span: Span) -> float:
    """Seconds of a span in which at least one of the stretches runs."""
    total, reached = 0.0, span.start
    for start, end in sorted(stretches):
        first, last = max(start, reached), min(end, span.end)
        if last > first:
            total += last - first
            reached = last
    return total


def _without(
    stretches: Sequence[tuple[float, float]], others: Sequence[tuple[float, float]]
) -> list[tuple[float, float]]:
    """The parts of stretches in which none of the others runs."""
    parts = list(stretches)
    for start, end in others:
        before = [(first, min(last, start)) for first, last in parts]
        after = [(max(first, end), last) for first, last in parts]
        parts = [(first, last) for first, last in before + after if first < last]
    return parts


def _is_of_shards(event: Any, device: DeviceType | None) -> bool:
    of_fsdp = event.name.startswith(_FSDP) and not event.name.startswith(_FSDP_COPY)
    return bool(of_fsdp and event.device_type == (device or DeviceType.CPU))


def _is_kernel(event: Any, device: DeviceType) -> bool:
    """Whether the device computed or copied; annotations and transport are neither."""
    is_annotation = event.name.startswith((PREFIX, "FSDP::"))
    is_transport = "nccl" in event.name.lower()
    return bool(event.device_type == device and not is_annotation and not is_transport)


def _is_ours(event: Any, device: DeviceType) -> bool:
    return bool(event.name.startswith(PREFIX) and event.device_type == device)


def _span(event: Any) -> Span:
    time = event.time_range
    return Span(event.name.removeprefix(PREFIX), 1e-6 * time.start, 1e-6 * time.end)
