"""Files that stages write for other stages: a type for each, and the only place of its keys.

Who reads one goes through `mtlpar.core.records.read_record`, which compares it with its type and
says which key is wrong. Keys that only some files have are None where a file lacks them.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field, model_validator

from mtlpar.core.error_names import MAE_NAMES
from mtlpar.core.ledger import SplitBy
from mtlpar.core.records import LARGEST, Count, Digest, DigestedRecord, Record, Symbol

Counts = dict[str, Count]
Split = Literal["train", "val", "test"]
Error = Annotated[float, Field(ge=0, le=LARGEST)] | None
"""An error or a size; None where no structure has the label."""


class RawFileRecord(Record):
    """A native file: its name below the source's folder, length, checksum, origin and kind."""

    name: Annotated[str, Field(min_length=1)]
    bytes: Count
    sha256: Digest
    url: str = ""
    kind: str


class RawManifest(DigestedRecord):
    """``data/raw/<source>/manifest.json``; the level is None where the archive's holds."""

    source: str
    level_of_theory: str | None
    files: tuple[RawFileRecord, ...]


class SlopeRecord(Record):
    """Energy differences against a work: pairs, median and quartiles of their slopes."""

    pairs: Count
    slope: float | None
    quartiles: tuple[float, float] | None


class EnergyWorkRecord(SlopeRecord):
    """The same of the forces, and of the stress."""

    stress: SlopeRecord


class StressSizeRecord(Record):
    """Stresses against volumes."""

    pairs: Count
    bulk_modulus_ev_per_cubic_angstrom: float | None
    quartiles: tuple[float, float] | None


class UncomputedRecord(Record):
    """Labels that are exactly zero, by label, and the ranges of energies beside forces."""

    looked_at: Counts
    zeros: Counts
    energy_range_ev: tuple[float, float] | None
    force_range_ev_per_angstrom: tuple[float, float] | None


class ChoiceRecord(Record):
    """A key whose values decide what rows are used for, and how many have each."""

    key: str
    wanted: tuple[str, ...]
    values: Counts


class LabelUseRecord(Record):
    """Labels that rows have and lack, where the configuration says which to read."""

    rows: Count
    lacking: Counts
    unused: Counts
    isolated_atoms_ev: dict[Symbol, float]
    choices: dict[str, ChoiceRecord]


class IngestChecks(Record):
    """What the physics checks counted; see `mtlpar.extract.findings.Findings`."""

    structures: Count
    close_atoms: Count
    net_force: Count
    largest_net_force_ev_per_angstrom: float
    largest_force_ev_per_angstrom: float
    energy_work: EnergyWorkRecord
    stress_size: StressSizeRecord
    without: Counts
    weightless: Counts
    removed_labels: Counts
    uncomputed: UncomputedRecord
    labels: LabelUseRecord


class ExtractedFile(Record):
    """What became of the rows of a raw file."""

    name: str
    sha256: Digest
    rows: Count
    dropped: Counts
    damage: tuple[str, ...]
    checks: IngestChecks


class PartRecord(Record):
    """A ``.bp`` folder with some of the extracted structures."""

    name: Annotated[str, Field(pattern=r"^[^/]+\.bp$")]
    num_structures: Annotated[int, Field(ge=1)]
    num_atoms: Count
    data_digest: Digest


class ExtractedManifest(Record):
    """``results/extracted/<source>/manifest.json``; parts are in the order of the raw files."""

    source: str
    level_of_theory: str
    given_splits: bool
    rows: Count
    dropped: Counts
    checks: IngestChecks
    files: tuple[ExtractedFile, ...]
    parts: Annotated[tuple[PartRecord, ...], Field(min_length=1)]


class Histogram(Record):
    """Counts between edges, and of what lies outside."""

    edges_ev_per_atom: tuple[float, ...]
    counts: tuple[Count, ...]
    below: Count
    above: Count

    @model_validator(mode="after")
    def _has_an_edge_more(self) -> Histogram:
        if len(self.edges_ev_per_atom) != len(self.counts) + 1:
            raise ValueError("expected one edge more than counts")
        return self


class ResidualsRecord(Record):
    """What is left of the energies of train; only the first where there are none."""

    total_energy_rms_ev: float | None
    median_ev_per_atom: float | None = None
    robust_deviation_ev_per_atom: float | None = None
    quantiles_ev_per_atom: dict[str, float] | None = None
    histogram: Histogram | None = None


class TrainStatistics(Record):
    """Size of the labels of a source's training split: what predicting zero would cost."""

    energy_mean_abs_ev_per_atom: Error = None
    energy_rms_ev_per_atom: Error = None
    force_mean_abs_ev_per_angstrom: Error = None
    force_rms_ev_per_angstrom: Error = None
    stress_mean_abs_ev_per_cubic_angstrom: Error = None
    stress_rms_ev_per_cubic_angstrom: Error = None


class ReferencesRecord(DigestedRecord):
    """``results/normalized/<source>/references.json``; see `mtlpar.normalize.fit.ReferenceFit`.

    ``train_digest`` says on which structures and energies.
    """

    source: str
    level_of_theory: str
    fitted_on: Literal["train"] | None
    taken_from: str
    energies_ev: dict[Symbol, float]
    standard_errors_ev: dict[Symbol, Error]
    undetermined: tuple[Symbol, ...]
    rank: Count | None
    num_elements: Count
    num_structures: Count
    train_statistics: TrainStatistics
    residuals: ResidualsRecord
    split_by: SplitBy
    leaky: bool
    train_digest: Digest

    @model_validator(mode="after")
    def _speaks_of_elements_that_it_has(self) -> ReferencesRecord:
        foreign = {*self.standard_errors_ev, *self.undetermined} - self.energies_ev.keys()
        if foreign:
            raise ValueError(f"expected energies_ev of {', '.join(sorted(foreign))} too")
        return self


class Outlier(Record):
    """A structure whose energy per atom stands apart."""

    structure_id: str
    file: str
    split: Split
    distance_from_median_ev_per_atom: float


class Outliers(Record):
    """How many structures stand apart, and the most extreme."""

    limit_ev_per_atom: float
    count: Count
    in_train: Count
    worst: tuple[Outlier, ...]


class Overlaps(Record):
    """What lies in several splits of a source."""

    groups: Count
    structures: Count
    geometries: Count


class ChecksRecord(Record):
    """``results/ledger/<source>.checks.json``: what is suspicious in a source, and kept."""

    source: str
    split_by: SplitBy
    contradicting_duplicates: Count
    contradicting_equivalents: Count
    in_several_splits: Overlaps
    energy_outliers: Outliers
    ingest: IngestChecks
    files: dict[str, IngestChecks]


class SharedComposition(Record):
    """A formula that a test split shares with a train split."""

    formula: str
    train: Count
    test: Count


class LeakPair(Record):
    """What the test split of a source shares with the train split of one."""

    train: str
    test: str
    test_structures: Count
    same_geometry: Count
    equivalent_geometry: Count
    same_composition: Count
    compositions: Count
    most_frequent: tuple[SharedComposition, ...]


class LeaksRecord(Record):
    """``results/ledger/leaks.json``: every test split beside every train split."""

    sources: tuple[str, ...]
    pairs: tuple[LeakPair, ...]


class Errors(Record):
    """Test errors by label; a label that no structure has is left out."""

    energy_mae_ev_per_atom: Error = None
    energy_rmse_ev_per_atom: Error = None
    force_mae_ev_per_angstrom: Error = None
    force_rmse_ev_per_angstrom: Error = None
    stress_mae_ev_per_cubic_angstrom: Error = None
    stress_rmse_ev_per_cubic_angstrom: Error = None

    def by_label(self) -> dict[str, float]:
        """Mean absolute errors of the labels that there are."""
        found = {label: getattr(self, name) for label, name in MAE_NAMES.items()}
        return {label: error for label, error in found.items() if error is not None}


class ZeroShotErrors(Errors):
    """Errors of a branch on a source that it did not learn; see `mtlpar.evaluate.zero_shot`."""

    offset_structures: Count
    num_structures: Count
    unknown_elements: tuple[Symbol, ...]
    zero_predictor: Errors


class UncertaintyQuality(Record):
    """How good uncertainties are on a test set; see `mtlpar.evaluate.uncertainty`."""

    num_structures: Count
    levels: tuple[float, ...]
    observed: tuple[float, ...]
    coverage_90: float
    mean_ev_per_atom: float
    rank_correlation: float | None
    auroc_group_never_seen: float | None
    num_pair_never_seen: Count
    auroc_pair_never_seen: float | None


class MetricsRecord(Errors):
    """``results/metrics/<model>/<source>.json``; the branch is None where none learned it."""

    model: str
    source: str
    branch: str | None
    level_of_theory: str
    split_by: SplitBy
    zero_shot: dict[str, ZeroShotErrors] | None = None
    uncertainty: UncertaintyQuality | None = None
    num_structures: Count
    num_atoms: Count
    num_labels: Counts
    zero_predictor: Errors


_FEWEST_STEPS: Final = 4
StudyLayout = Literal["mtl-base", "mtl-par", "mtl-par-sharded"]
Seconds = Annotated[float, Field(ge=0)]


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
