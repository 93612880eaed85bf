"""Settings of the train stage."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field, model_validator

from mtlpar.core.settings import Positive, Settings, Weight

Tracker = Literal["tensorboard", "wandb", "mlflow"]

EXECUTION_ONLY: Final = frozenset(
    {
        "layout",
        "encoder_shards",
        "data",
        "ranks_per_copy",
        "max_atoms_per_pass",
        "compile",
        "cuda_graphs",
        "cosine_steps",
        "checkpoint_minutes",
        "keep_checkpoints",
        "trackers",
        "collective_timeout_s",
    }
)
"""What says how a training runs and never what comes out; a run may continue with others."""


class TaskWeights(Settings):
    """Weights of one dataset, by task."""

    energy: float = Field(default=1.0, ge=0, description="Factor on energy_weight for this source.")
    force: float = Field(default=1.0, ge=0, description="Factor on force_weight for this source.")
    stress: float = Field(default=1.0, ge=0, description="Factor on stress_weight for this source.")


class Loss(Settings):
    """How an error counts in the objective; `mtlpar.train.objective` has the formulas."""

    kind: Literal["l1", "l2", "huber"] = Field(
        default="l1", description="l1: its size; l2: its square; huber: its size beyond delta."
    )
    delta: float = Field(
        default=0.01, gt=0, description="Where huber turns from the square to the size."
    )


class Losses(Settings):
    """The loss of each label."""

    energy: Loss = Field(default=Loss(), description="Energy per atom (eV/atom).")
    forces: Loss = Field(default=Loss(), description="Components of forces (eV/Å).")
    stress: Loss = Field(default=Loss(), description="Components of stress (eV/Å^3).")


class TrainSettings(Settings):
    """How a model is trained. Nothing here depends on the number of ranks."""

    # Data and objective.
    epochs: int = Field(
        default=16, gt=0, description="Passes over the training data, at most: see patience_epochs."
    )
    batch_structures: int = Field(
        default=16,
        gt=0,
        description="Structures of the largest source in each step, over all ranks. The other "
        "sources are spread evenly over the same number of steps.",
    )
    sampling_temperature: float = Field(
        default=1.0,
        ge=1.0,
        description="How often smaller sources are repeated within an epoch: a source of N "
        "structures gives N_max (N / N_max)^(1/temperature) samples. 1: every "
        "structure once; large values: as many samples from every source.",
    )
    passes_per_epoch: dict[str, Positive] = Field(
        default={},
        description="How often an epoch visits each structure of a source, instead of what the "
        "temperature gives; 0.5 visits half of them.",
    )
    shuffle_structures: int = Field(
        default=1_000_000,
        gt=0,
        description="Structures of a source that are shuffled together, in whole blocks of its "
        "pack; smaller sources are shuffled as a whole. Packs are in random order "
        "already. Bounds the memory of streamed data.",
    )
    energy_weight: float = Field(
        default=1.0, ge=0, description="Weight of the error of the energy per atom (eV/atom)."
    )
    force_weight: float = Field(
        default=1.0, ge=0, description="Weight of the error of the forces (eV/Å)."
    )
    stress_weight: float = Field(
        default=10.0,
        ge=0,
        description="Weight of the error of the stress (eV/Å^3), for conservative forces and "
        "sources that have stresses.",
    )
    source_weights: dict[str, Weight | TaskWeights] = Field(
        default={},
        description="Weight of a source in the objective; 1 where not given, 0 to learn nothing "
        "from it. A number, or {energy: ..., force: ..., stress: ...}.",
    )
    losses: Losses = Field(
        default=Losses(), description="How errors count in the objective; l1 is the paper's."
    )

    # Optimizer.
    learning_rate: float = Field(
        default=5e-3, gt=0, description="Highest learning rate of AdamW, which the warm-up ends at."
    )
    encoder_rate: float = Field(
        default=1.0,
        gt=0,
        description="Learning rate of the encoder as a multiple of learning_rate, which is that of "
        "the branches.",
    )
    branch_rates: dict[str, Weight] = Field(
        default={},
        description="Learning rate of a branch as a multiple of learning_rate; 1 where not given, "
        "0 to hold it still while the encoder and other branches move.",
    )
    weight_decay: float = Field(
        default=0.01, ge=0, description="Weight decay of the optimizer, AdamW."
    )
    warmup_steps: int = Field(
        default=50,
        ge=0,
        description="Steps in which the learning rate rises from zero to learning_rate.",
    )
    schedule: Literal["constant", "cosine", "plateau"] = Field(
        default="cosine",
        description="The learning rate after the warm-up: constant, along a cosine down to the "
        "last epoch, or multiplied by plateau_factor whenever plateau_epochs passed without a "
        "better validation score. cooldown says how it falls at the end.",
    )
    cooldown: float = Field(
        default=0.4,
        ge=0,
        lt=1,
        description="Share of the epochs, at the end, in which the learning rate falls to one per "
        "cent. It begins at once when patience_epochs run out. A cosine falls anyway and has a "
        "cooldown only then. 0: none.",
    )
    plateau_factor: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="With schedule plateau: what the learning rate is multiplied by.",
    )
    plateau_epochs: int = Field(
        default=5,
        gt=0,
        description="With schedule plateau: epochs without a better validation score before the "
        "learning rate falls.",
    )
    max_gradient_norm: float | None = Field(
        default=10.0,
        gt=0,
        description="Clip the gradients of the encoder and of each branch to this norm, each on "
        "its own; null: never.",
    )
    ema_decay: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Validate and export a moving average of the weights with this decay, for "
        "instance 0.999; null: the weights themselves.",
    )
    patience_epochs: int | None = Field(
        default=10,
        gt=0,
        description="After this many epochs without a better validation score begin the cooldown, "
        "with which training ends; null: never. With schedule cosine only epochs of the second "
        "half count, in which the rate is low.",
    )
    on_nonfinite: Literal["stop", "skip"] = Field(
        default="stop",
        description="What to do about a loss or gradient that is not finite: stop all ranks "
        "before the optimizer's step, or skip the step and count it.",
    )
    max_skipped_steps: int = Field(
        default=10,
        ge=0,
        description="With on_nonfinite skip: stop when more steps than this were skipped.",
    )

    # Arithmetic.
    precision: Literal["float32", "tf32", "bf16", "float64"] = Field(
        default="float32",
        description="Arithmetic of the model. tf32 and bf16 shorten the factors of matrix "
        "products, which is faster on GPUs; weights, sums and outputs stay in "
        "float32.",
    )

    # Execution: no effect on the result.
    layout: Literal["auto", "mtl-par", "mtl-base"] = Field(
        default="mtl-par",
        description="What each rank holds. mtl-par: the encoder and only the branches that it "
        "owns; mtl-base: every branch; auto: what `mtlpar plan layout` recommends, "
        "with the encoder in shards if it does not fit otherwise. All optimise the "
        "same objective.",
    )
    encoder_shards: int = Field(
        default=1,
        gt=0,
        description="Ranks that hold one copy of the encoder together: its parameters, "
        "gradients and optimizer state are spread over them and gathered layer by "
        "layer. For encoders that do not fit otherwise; the number of ranks must be "
        "a multiple of it. 1: a copy on every rank.",
    )
    data: Literal["auto", "memory", "stream"] = Field(
        default="auto",
        description="How training data reach the ranks. memory: read the packs at the start; "
        "stream: read them from disk all the time, with up to three times "
        "shuffle_structures of each source in memory; auto: stream if a node's "
        "memory is too small.",
    )
    ranks_per_copy: int | None = Field(
        default=None,
        gt=0,
        description="Ranks that keep one copy of their training data in memory between them; where "
        "a copy spans nodes, they read it from each other. null: the ranks of a node. 1: every "
        "rank has a copy of its own.",
    )
    max_atoms_per_pass: int | None = Field(
        default=None,
        gt=0,
        description="Atoms that a rank computes at once, in whole structures. A larger share of "
        "the batch is computed in several passes whose gradients are added up: less memory, the "
        "same step.",
    )
    compile: bool = Field(
        default=False,
        description="Compile layers and heads with torch.compile. Needs a compiler; not for "
        "conservative forces.",
    )
    cuda_graphs: bool = Field(
        default=True,
        description="On a GPU, start all kernels of a pass at once, as a CUDA graph. Batches "
        "are padded to a few sizes. Has no effect with conservative forces or an "
        "encoder in shards.",
    )
    cosine_steps: int | None = Field(
        default=None,
        gt=0,
        description="Every so many steps, measure in which directions the sources pull the "
        "encoder: cosines of their gradients go to metrics.jsonl, and `mtlpar study cosines` sums "
        "them up. Such a step takes a backward pass more for each source. Not for an encoder in "
        "shards; steps are not started as CUDA graphs then. null: never.",
    )
    checkpoint_minutes: float = Field(
        default=10.0,
        ge=0,
        description="Longest time between checkpoints, which is what a killed run loses; there is "
        "one after every epoch in any case.",
    )
    keep_checkpoints: int = Field(
        default=2, gt=0, description="How many of the newest checkpoints to keep, besides the best."
    )
    trackers: tuple[Tracker, ...] = Field(
        default=(),
        description="Where to send metrics besides metrics.jsonl, through libraries that must "
        "be installed.",
    )
    collective_timeout_s: float = Field(
        default=300.0,
        gt=0,
        description="How long a rank waits for the others before it reports them as missing.",
    )

    @model_validator(mode="after")
    def _encoder_is_whole_where_it_is_measured(self) -> TrainSettings:
        if self.cosine_steps is not None and self.encoder_shards > 1:
            raise ValueError(
                f"cosine_steps {self.cosine_steps}: expected encoder_shards 1, got "
                f"{self.encoder_shards}; a rank has no whole gradient of an encoder in shards"
            )
        return self

    def weights_of(self, dataset: str) -> tuple[float, float, float]:
        """Weights of a dataset's energy, force and stress errors in the objective."""
        factor = self.source_weights.get(dataset, 1.0)
        if not isinstance(factor, TaskWeights):
            factor = TaskWeights(energy=factor, force=factor, stress=factor)
        return (
            factor.energy * self.energy_weight,
            factor.force * self.force_weight,
            factor.stress * self.stress_weight,
        )

    def of_result(self) -> dict[str, Any]:
        """What the trained model depends on, as plain values."""
        return self.model_dump(mode="json", exclude=set(EXECUTION_ONLY))
