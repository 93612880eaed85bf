"""Settings of the studies."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, PositiveInt

from mtlpar.core.settings import Settings
from mtlpar.model.settings import EgnnSettings, HeadSettings, ModelSettings


class MemoryStudySettings(Settings):
    """Memory per rank against the number of branches."""

    branches: tuple[int, ...] = Field(
        default=(2, 4, 8, 16),
        min_length=1,
        description="Numbers of branches to measure. MTL-par takes a rank for each branch.",
    )
    batch_structures: int = Field(
        default=4, gt=0, description="Structures that each rank computes in a step."
    )
    steps: int = Field(
        default=3, gt=0, description="Steps to train before the peak of memory is read."
    )


class ScalingStudySettings(Settings):
    """Time of an epoch against the number of ranks."""

    branches: int = Field(
        default=4, gt=0, description="Number of branches, all with equal amounts of data."
    )
    ranks: tuple[int, ...] = Field(
        default=(1, 2, 4), min_length=1, description="Numbers of ranks to measure, smallest first."
    )
    batch_structures: tuple[int, ...] = Field(
        default=(8, 16),
        min_length=1,
        description="Batch sizes: of all ranks in strong scaling, of each rank in weak scaling.",
    )
    steps: int = Field(default=2, gt=0, description="Steps in each epoch that is timed.")
    repeats: int = Field(default=3, gt=0, description="Epochs that are timed for each point.")
    traced_steps: int = Field(
        default=20,
        ge=4,
        description="Steps whose times are noted on every rank, for the verdict on what costs.",
    )


class CommStudySettings(Settings):
    """Where the time of a step goes."""

    ranks: int = Field(default=5, gt=0, description="Number of ranks to profile.")
    batch_structures: tuple[int, ...] = Field(
        default=(8, 4, 2, 2),
        min_length=1,
        description="Structures of each branch in the global batch: branches as different as "
        "datasets are.",
    )
    steps: int = Field(default=5, gt=0, description="Steps whose times are averaged.")


class TransferFamily(Settings):
    """A family of structures that no model has seen."""

    file: Path = Field(
        description="Extended XYZ file with energy, forces, group, and part: pool or test."
    )
    level_of_theory: str = Field(min_length=1, description="How its labels were computed.")
    single: str = Field(
        description="Model of one source that is the nearest start, in place of `single`."
    )


class TransferStudySettings(Settings):
    """Errors on new families by number of labels, start and mode."""

    families: dict[str, TransferFamily] = Field(
        default={}, description="The families by name; each takes minutes for each seed."
    )
    labels: tuple[PositiveInt, ...] = Field(
        default=(10, 30, 100, 300),
        min_length=2,
        description="Numbers of labels, validation included, the smallest first.",
    )
    seeds: int = Field(default=3, gt=0, description="Repetitions with other labels and weights.")
    starts: dict[str, tuple[str, ...]] = Field(
        default={"single": ("full",), "baseline": ("full",), "mtl": ("heads", "full", "replay")},
        description="Models to start from, each with its modes: those of start_from, and replay "
        "for full beside data of pre-training. `single` is each family's own.",
    )
    steps: int = Field(default=200, gt=0, description="Steps of every training.")
    batch_structures: int = Field(default=8, gt=0, description="Structures in each step.")
    learning_rate: float = Field(
        default=2e-3, gt=0, description="Highest learning rate of what starts from a model."
    )
    scratch_rate: float = Field(
        default=5e-3, gt=0, description="Highest learning rate from scratch."
    )


class CompatibilityStudySettings(Settings):
    """Errors of the sources of the configuration alone, in pairs, and all together."""

    epochs: int = Field(
        default=3, gt=0, description="Epochs of every training; with few, all are far from done."
    )
    seeds: int = Field(
        default=3, ge=2, description="Repetitions with other weights; verdicts need at least two."
    )
    cosine_steps: int = Field(
        default=10,
        gt=0,
        description="train.cosine_steps of the model of all sources; it needs ten such steps.",
    )


class StudySettings(Settings):
    """The studies: of layouts on made-up structures, of transfer and of compatibility."""

    model: ModelSettings = Field(
        default=ModelSettings(
            encoder=EgnnSettings(width=433), head=HeadSettings(width=445, layers=3)
        ),
        description="Architecture to measure; by default half the paper's widths, which are "
        "large enough to see.",
    )
    atoms: int = Field(default=15, gt=0, description="Atoms in each made-up structure.")
    ranks_per_node: int = Field(
        default=16, gt=0, description="Ranks that a node takes; more ranks go to more nodes."
    )
    gpus_per_node: int = Field(
        default=0, ge=0, description="GPUs that a node has; 0: measure on its CPU."
    )
    memory: MemoryStudySettings = Field(
        default=MemoryStudySettings(), description="`snakemake memory`."
    )
    scaling: ScalingStudySettings = Field(
        default=ScalingStudySettings(), description="`snakemake scaling`."
    )
    comm: CommStudySettings = Field(default=CommStudySettings(), description="`snakemake comm`.")
    transfer: TransferStudySettings = Field(
        default=TransferStudySettings(), description="`snakemake transfer`."
    )
    compatibility: CompatibilityStudySettings = Field(
        default=CompatibilityStudySettings(), description="`snakemake compatibility`."
    )
