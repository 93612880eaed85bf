"""Files that stages write for other stages: a type for each, and the only place of its keys.

Who reads one goes through `mtlpar.core.records.read_record`, which compares it with its type and
says which key is wrong. Keys that only some files have are None where a file lacks them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

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
