"""What studies write for their tables and figures: a type for each measurement."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field, model_validator

from mtlpar.core.records import LARGEST, Count, DigestedRecord, Record

StudyLayout = Literal["mtl-base", "mtl-par", "mtl-par-sharded"]
Seconds = Annotated[float, Field(ge=0)]
_FEWEST_STEPS: Final = 4


class StudyRecord(Record):
    """A part of a measurement; versions may note more of it than the study draws."""

    model_config = ConfigDict(extra="ignore")


class Measurement(DigestedRecord):
    """A measurement of a study; older ones have no digest."""

    model_config = ConfigDict(extra="ignore")

    digest: str = ""

    @property
    @abstractmethod
    def measured(self) -> str:
        """What was measured: the name of its file."""


class MemoryRecord(Measurement):
    """``results/studies/memory/<layout>-<branches>.json``: memory of the fullest rank in bytes."""

    layout: StudyLayout
    branches: Annotated[int, Field(ge=1)]
    ranks: Annotated[int, Field(ge=1)]
    device: str
    peak_bytes: Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
    parameters_bytes: Annotated[float, Field(ge=0, le=LARGEST)]
    gradients_bytes: Annotated[float, Field(ge=0, le=LARGEST)]
    moments_bytes: Annotated[float, Field(ge=0, le=LARGEST)]
    formula_bytes: Annotated[float, Field(ge=0, le=LARGEST)]

    @property
    def measured(self) -> str:
        """What was measured: the name of its file."""
        return f"{self.layout}-{self.branches}"

    @property
    def held_bytes(self) -> float:
        """What the formula is of."""
        return self.parameters_bytes + self.gradients_bytes + self.moments_bytes


class EpochTimes(StudyRecord):
    """Epoch times of a layout in seconds, one for each repeat."""

    layout: StudyLayout
    scaling: Literal["strong", "weak"]
    batch: Annotated[int, Field(ge=1)]
    seconds: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]


Times = tuple[tuple[float, ...], ...]


class StepTraces(StudyRecord):
    """Times of every step of every rank in s, (R, S); see `mtlpar.study.verdict.Steps`."""

    layout: StudyLayout
    data: Times
    compute: Times
    sending: Times
    arrived: Times
    left: Times
    hosts: tuple[str, ...]
    ranks_per_node: Annotated[int, Field(ge=1)]
    pair_seconds: tuple[Seconds, ...]

    @model_validator(mode="after")
    def _has_every_step_of_every_rank(self) -> StepTraces:
        steps = len(self.data[0]) if self.data else 0
        for name in ("data", "compute", "sending", "arrived", "left"):
            rows = getattr(self, name)
            if len(rows) != len(self.hosts) or any(len(row) != steps for row in rows):
                raise ValueError(f"expected {name} of {len(self.hosts)} ranks and {steps} steps")
        if steps < _FEWEST_STEPS:
            raise ValueError(f"expected at least {_FEWEST_STEPS} steps, got {steps}")
        return self


class ScalingRecord(Measurement):
    """``results/studies/scaling/<ranks>-ranks.json``."""

    ranks: Annotated[int, Field(ge=1)]
    oversubscribed: bool
    steps: Count
    branches: Count
    epochs: tuple[EpochTimes, ...]
    traces: tuple[StepTraces, ...]

    @property
    def measured(self) -> str:
        """What was measured: the name of its file."""
        return f"{self.ranks}-ranks"


class StepTimes(StudyRecord):
    """Where the time of a rank's mean step goes in s; see `mtlpar.study.timeline.break_down`."""

    step: Seconds
    data: float
    compute: float
    encoder_exposed: float
    branch_exposed: float
    waiting: float
    update: float
    encoder_hidden: float
    branch_hidden: float


class CommRecord(Measurement):
    """``results/studies/comm/<layout>.json``."""

    layout: StudyLayout
    device: str
    steps: Count
    batch_structures: tuple[Count, ...]
    branches: tuple[tuple[str, ...], ...]
    oversubscribed: bool
    ranks: Annotated[tuple[StepTimes, ...], Field(min_length=1)]

    @property
    def measured(self) -> str:
        """What was measured: the name of its file."""
        return self.layout

    @model_validator(mode="after")
    def _has_branches_of_each_rank(self) -> CommRecord:
        if len(self.branches) != len(self.ranks):
            raise ValueError(f"expected branches of {len(self.ranks)} ranks")
        return self


ErrorsByLabel = dict[str, Annotated[float, Field(gt=0, le=LARGEST)]]


class TransferCell(StudyRecord):
    """Test errors of one variant with one number of labels; without a start it is from scratch."""

    labels: Annotated[int, Field(ge=1)]
    start: str | None
    mode: str
    errors: ErrorsByLabel
    pretraining: dict[str, ErrorsByLabel]


class TransferRecord(Measurement):
    """``results/studies/transfer/``: one family with one seed."""

    family: str
    single: str
    seed: int
    steps: Count
    before: dict[str, dict[str, ErrorsByLabel]]
    cells: Annotated[tuple[TransferCell, ...], Field(min_length=1)]

    @property
    def measured(self) -> str:
        """What was measured: the name of its file."""
        return f"{self.family}-{self.seed}"

    @model_validator(mode="after")
    def _knows_errors_before(self) -> TransferRecord:
        for cell in self.cells:
            before = {} if cell.start is None else self.before.get(cell.start, {})
            if not cell.pretraining.keys() <= before.keys():
                raise ValueError(f"expected before.{cell.start} of every source of pretraining")
        return self


class LevelsRecord(StudyRecord):
    """How far energies of two sources are apart in eV/atom, on the geometries that both have."""

    same: bool
    shared: Count
    mean: float | None
    spread: Annotated[float, Field(ge=0)] | None

    @property
    def difference(self) -> tuple[float, float] | None:
        """Mean and standard deviation of the difference; None where nothing is shared."""
        return None if self.mean is None or self.spread is None else (self.mean, self.spread)


class CompatibilityRecord(Measurement):
    """``results/studies/compatibility/``: one model of some sources with one seed."""

    sources: Annotated[tuple[str, ...], Field(min_length=1)]
    seed: int
    epochs: Count
    errors: dict[str, ErrorsByLabel]
    cosines: dict[str, Annotated[float, Field(ge=-1.001, le=1.001)]]
    levels: LevelsRecord | None

    @property
    def measured(self) -> str:
        """What was measured: the name of its file."""
        return f"{'+'.join(self.sources)}-{self.seed}"

    @model_validator(mode="after")
    def _has_errors_of_each_source(self) -> CompatibilityRecord:
        if self.errors.keys() != set(self.sources):
            raise ValueError(f"expected errors of {', '.join(self.sources)}")
        return self
