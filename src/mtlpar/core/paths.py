"""Names of everything the stages write; others may rely on them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

RAW_MANIFEST: Final = "manifest.json"
"""Lies among the native files of a source; none of them may be called so."""

IN_PROJECT: Final = "run in a checkout, or in a folder that `mtlpar init` wrote"
"""What to do where a file of the project itself is missing."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """Paths of all products, below a folder for raw files and a folder for results.

    The methods accept Snakemake wildcards such as ``"{source}"`` as well as real names.
    """

    raw: Path
    results: Path

    def raw_folder(self, source: str) -> Path:
        """Folder with the native files of a source."""
        return self.raw / source

    def raw_manifest(self, source: str) -> Path:
        """Which native files are there, with bytes and checksums."""
        return self.raw_folder(source) / RAW_MANIFEST

    def extracted_folder(self, source: str) -> Path:
        """Folder with the ``.bp`` parts of a source, in the order of the raw files."""
        return self.results / "extracted" / source

    def extracted_share(self, source: str, share: str) -> Path:
        """Says that one of several jobs has extracted its share, such as ``0-of-8``."""
        return self.results / "extracted" / source / f"share-{share}.json"

    def extracted_manifest(self, source: str) -> Path:
        """The parts, and rows kept and dropped per raw file."""
        return self.extracted_folder(source) / "manifest.json"

    def splits(self, source: str) -> Path:
        """Destination of every extracted structure, as an array."""
        return self.results / "normalized" / source / "splits.npz"

    def references(self, source: str) -> Path:
        """Per-element reference energies, fitted on train."""
        return self.results / "normalized" / source / "references.json"

    def ledger(self, source: str) -> Path:
        """Where every raw row went."""
        return self.results / "ledger" / f"{source}.json"

    def checks(self, source: str) -> Path:
        """What the physics checks counted in a source."""
        return self.results / "ledger" / f"{source}.checks.json"

    @property
    def leaks(self) -> Path:
        """What the splits of different sources share."""
        return self.results / "ledger" / "leaks.json"

    def pack(self, source: str, split: str) -> Path:
        """The shuffled ``.bp`` store of one split."""
        return self.results / "packed" / source / f"{split}.bp"

    def pack_manifest(self, source: str, split: str) -> Path:
        """Counts and checksums of a pack, written last."""
        return self.results / "packed" / source / f"{split}.manifest.json"

    def packed_share(self, source: str, share: str) -> Path:
        """Says that one of several jobs has sorted its share, such as ``0-of-8``."""
        return self.results / "packed" / source / f"share-{share}.json"

    def sorted_runs(self, source: str) -> Path:
        """Folder with what such jobs have sorted; packing empties it."""
        return self.results / "packed" / source / "runs"

    def checkpoints(self, model: str) -> Path:
        """Folder that training resumes from; never an output of a rule."""
        return self.results / "checkpoints" / model

    def model(self, model: str) -> Path:
        """The trained model."""
        return self.results / "models" / model / "model.pt"

    def training_metrics(self, model: str) -> Path:
        """Losses and errors by step and epoch, one JSON object per line."""
        return self.results / "models" / model / "metrics.jsonl"

    def metrics(self, model: str, source: str) -> Path:
        """Test errors of a model on a source."""
        return self.results / "metrics" / model / f"{source}.json"

    def predictions(self, model: str, source: str) -> Path:
        """A bounded sample of predictions, for parity plots."""
        return self.results / "predictions" / model / f"{source}.npz"

    @property
    def doctor(self) -> Path:
        """What the doctor found on the machine that trains."""
        return self.results / "doctor.json"

    @property
    def tables(self) -> Path:
        """Folder with the tables."""
        return self.results / "tables"

    @property
    def figures(self) -> Path:
        """Folder with the figures."""
        return self.results / "figures"

    @property
    def studies(self) -> Path:
        """Folder with what the studies measured, their tables and figures."""
        return self.results / "studies"

    def study_record(self, study: str, measured: str) -> Path:
        """One measurement of a study."""
        return self.studies / study / f"{measured}.json"
