"""Settings of the train stage."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TrainSettings(BaseModel):
    """How a model is trained. Nothing here depends on the number of ranks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Literal["mtl-par", "mtl-base"] = Field(
        default="mtl-par",
        description="mtl-par: a rank holds the encoder and only the branches it owns; mtl-base: "
        "every rank holds every branch. Both optimise the same objective.",
    )
    epochs: int = Field(default=20, gt=0, description="Passes over the training data.")
    batch_structures: int = Field(
        default=16,
        gt=0,
        description="Structures per step of the largest dataset, over all ranks; the smaller "
        "datasets are dealt evenly over the same number of steps.",
    )
    learning_rate: float = Field(default=1e-3, gt=0, description="Peak rate of AdamW.")
    weight_decay: float = Field(default=0.01, ge=0, description="Weight decay of AdamW.")
    schedule: Literal["constant", "cosine"] = Field(
        default="cosine", description="How the rate falls after the warm-up."
    )
    warmup_steps: int = Field(default=0, ge=0, description="Steps of linear warm-up.")
    max_gradient_norm: float | None = Field(
        default=None,
        gt=0,
        description="Clip the gradients of the encoder and of each branch, each by its own norm.",
    )
    energy_weight: float = Field(
        default=1.0, ge=0, description="Weight of the error of the energy per atom (eV/atom)."
    )
    force_weight: float = Field(
        default=100.0, ge=0, description="Weight of the error of the forces (eV/Å)."
    )
    dataset_weights: dict[str, float] = Field(
        default={}, description="Weight of a dataset in the objective; 1 where not given."
    )
    patience_epochs: int | None = Field(
        default=10,
        gt=0,
        description="Stop after this many epochs without a better validation score.",
    )
    checkpoint_epochs: int = Field(default=1, gt=0, description="Epochs between checkpoints.")
    precision: Literal["float32", "float64"] = Field(
        default="float32", description="Arithmetic of the model."
    )
