"""Settings of the studies."""

from __future__ import annotations

from pydantic import Field

from mtlpar.core.settings import Settings
from mtlpar.model.settings import EncoderSettings, HeadSettings, ModelSettings


class MemoryStudySettings(Settings):
    """Memory per rank against the number of branches."""

    branches: tuple[int, ...] = Field(
        default=(2, 4, 8, 16),
        min_length=1,
        description="Numbers of branches. MTL-par takes a rank for each.",
    )
    batch_structures: int = Field(default=4, gt=0, description="Structures per rank.")
    steps: int = Field(default=3, gt=0, description="Steps to train.")


class ScalingStudySettings(Settings):
    """Time of an epoch against the number of ranks."""

    branches: int = Field(default=4, gt=0, description="Branches, with equal amounts of data.")
    ranks: tuple[int, ...] = Field(
        default=(1, 2, 4), min_length=1, description="Numbers of ranks, smallest first."
    )
    batch_structures: tuple[int, ...] = Field(
        default=(8, 16),
        min_length=1,
        description="Batch sizes: of all ranks in strong scaling, of each rank in weak scaling.",
    )
    steps: int = Field(default=2, gt=0, description="Steps of an epoch.")
    repeats: int = Field(default=3, gt=0, description="Epochs that are timed.")


class CommStudySettings(Settings):
    """Where the time of a step goes."""

    ranks: int = Field(default=5, gt=0, description="Ranks.")
    batch_structures: tuple[int, ...] = Field(
        default=(8, 4, 2, 2),
        min_length=1,
        description="Structures of each branch in the global batch: branches as different as "
        "datasets are.",
    )
    steps: int = Field(default=5, gt=0, description="Steps to take the mean of.")


class StudySettings(Settings):
    """The studies of memory, scaling and communication, on made-up structures."""

    model: ModelSettings = Field(
        default=ModelSettings(
            encoder=EncoderSettings(width=433), head=HeadSettings(width=445, layers=3)
        ),
        description="Architecture; half the paper's widths, large enough to see in a process.",
    )
    atoms: int = Field(default=15, gt=0, description="Atoms of a structure.")
    ranks_per_node: int = Field(
        default=16, gt=0, description="Ranks that a node takes; more ranks go to more nodes."
    )
    gpus_per_node: int = Field(default=0, ge=0, description="GPUs of a node; 0 for the CPU.")
    memory: MemoryStudySettings = Field(
        default=MemoryStudySettings(), description="`snakemake memory`."
    )
    scaling: ScalingStudySettings = Field(
        default=ScalingStudySettings(), description="`snakemake scaling`."
    )
    comm: CommStudySettings = Field(default=CommStudySettings(), description="`snakemake comm`.")
