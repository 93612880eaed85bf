"""The shape of ``config.yaml``: one block per stage, each defined by its stage."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import (
    ConfigDict,
    Field,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from mtlpar.core.paths import Workspace
from mtlpar.core.settings import Settings, laid_over, without_nulls
from mtlpar.download.settings import DownloadSettings
from mtlpar.evaluate.settings import EvaluateSettings
from mtlpar.extract.settings import ExtractSettings
from mtlpar.model.settings import ModelSettings
from mtlpar.normalize.settings import NormalizeSettings
from mtlpar.pack.settings import PackSettings
from mtlpar.report.settings import ReportSettings
from mtlpar.sources.registry import BUILT_IN, packaged_names
from mtlpar.sources.settings import CustomSource
from mtlpar.study.settings import StudySettings
from mtlpar.train.settings import TrainSettings

STAGES = ("download", "extract", "normalize", "pack", "train", "evaluate", "report")
"""The stages in the order in which they run."""


class PathSettings(Settings):
    """Where files lie, relative to the working directory."""

    raw: Path = Field(
        default=Path("data/raw"),
        description="Folder of the native files, which holds a folder per source.",
    )
    results: Path = Field(
        default=Path("results"), description="Folder of everything that the stages compute."
    )
    catalogue: Path = Field(
        default=Path("workflow/sources.csv"),
        description="Table of the real files: addresses, sizes, checksums, licences.",
    )


class StartFrom(Settings):
    """Which trained model another one starts from, and what of it moves."""

    model: str = Field(
        description="Model to start from: its encoder and branches of the same name go on. A name "
        "of this config, or the path of a model.pt, which ends in .pt or has a slash."
    )
    branches: dict[str, str] = Field(
        default={},
        description="New branches by the branch of that model that they start from. Their "
        "reference energies are fitted to what it leaves of the new labels.",
    )
    mode: str = Field(
        default="full",
        pattern=r"^(full|heads|(last|lora):[1-9][0-9]*)$",
        examples=["full", "heads", "last:2", "lora:8"],
        description="What moves. full: all weights; heads: the branches, with the encoder as it "
        "is, so that all other branches predict the same to the last bit; last:N: the branches and "
        "the last N layers of the encoder; lora:R: the branches, and the encoder by updates of "
        "rank R, which are merged into it in the model file.",
    )
    keep_branches: bool = Field(
        default=True,
        description="Keep the branches of that model that no source here feeds: they are in the "
        "model file as they were, and how far the encoder has drifted under them is reported.",
    )

    @property
    def file(self) -> Path | None:
        """The model file that is meant; None for a model of the config."""
        is_path = "/" in self.model or self.model.endswith(".pt")
        return Path(self.model) if is_path else None


class ModelEntry(Settings):
    """One named model: which branches it has and which sources feed each of them."""

    branches: dict[str, tuple[str, ...]] = Field(
        min_length=1,
        description="Sources by branch. A source may feed one branch only. They replace those of "
        "an earlier file. With a null among them they change those: null takes a branch away, the "
        "others are added or replaced.",
    )
    start_from: StartFrom | None = Field(
        default=None,
        description="Start from a trained model: to fine-tune it, or with a branch more or less. "
        "A name or a path alone stands for its key model.",
    )
    train: TrainSettings = Field(
        default=TrainSettings(),
        description="Training settings of this model alone, laid over the block train.",
    )
    model: ModelSettings = Field(
        default=ModelSettings(),
        description="Architecture of this model alone, laid over the block model.",
    )

    @field_validator("start_from", mode="before")
    @classmethod
    def _name_stands_for_model(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value

    @field_serializer("train", "model")
    def _only_what_is_given(self, block: Settings) -> dict[str, Any]:
        """What is left out comes from the blocks of all models."""
        return block.model_dump(mode="json", exclude_unset=True)

    @field_validator("branches", mode="before")
    @classmethod
    def _null_takes_a_branch_away(cls, value: Any) -> Any:
        return without_nulls(value)

    @property
    def sources(self) -> tuple[str, ...]:
        """Sources the model learns from, in the order of its branches."""
        return tuple(source for sources in self.branches.values() for source in sources)

    @model_validator(mode="after")
    def _one_branch_per_source(self) -> ModelEntry:
        for branch, sources in self.branches.items():
            if not sources:
                raise ValueError(f"branch {branch!r} has no source; give it one or remove it")
            if not branch.isidentifier():
                raise ValueError(f"branch {branch!r} must be an identifier (letters, digits, _)")
        repeated = {name for name in self.sources if self.sources.count(name) > 1}
        if repeated:
            raise ValueError(f"sources {sorted(repeated)} feed more than one branch")
        return self


class Config(Settings):
    """The whole configuration."""

    model_config = ConfigDict(title="mtlpar configuration")

    seed: int = Field(default=0, ge=0, description="The one seed; every other is derived from it.")
    sources: tuple[str, ...] = Field(
        default=BUILT_IN, min_length=1, description="Sources to run, in the order of the tables."
    )
    custom_sources: dict[str, CustomSource] = Field(
        default={},
        description="Further sources in files that ASE reads, by name; list the name in sources.",
    )
    paths: PathSettings = Field(default=PathSettings(), description="Where files lie.")
    download: DownloadSettings = Field(default=DownloadSettings(), description="Stage download.")
    extract: ExtractSettings = Field(default=ExtractSettings(), description="Stage extract.")
    normalize: NormalizeSettings = Field(
        default=NormalizeSettings(), description="Stage normalize."
    )
    pack: PackSettings = Field(default=PackSettings(), description="Stage pack.")
    model: ModelSettings = Field(
        default=ModelSettings(), description="Architecture of all named models."
    )
    models: dict[str, ModelEntry] = Field(
        min_length=1,
        description="The models by name, in the order of the tables. null takes away a model that "
        "an earlier file has.",
    )
    train: TrainSettings = Field(default=TrainSettings(), description="Stage train.")
    evaluate: EvaluateSettings = Field(default=EvaluateSettings(), description="Stage evaluate.")
    report: ReportSettings = Field(default=ReportSettings(), description="Stage report.")
    study: StudySettings = Field(
        default=StudySettings(), description="Studies of layouts, of transfer and of compatibility."
    )

    @field_validator("models", mode="before")
    @classmethod
    def _null_takes_a_model_away(cls, value: Any) -> Any:
        return without_nulls(value)

    @property
    def workspace(self) -> Workspace:
        """Paths of all products."""
        return Workspace(raw=self.paths.raw, results=self.paths.results)

    @property
    def predicts_stress(self) -> bool:
        """Whether some model predicts stresses."""
        return any(self._is_conservative(name) for name in self.models)

    def train_of(self, name: str) -> TrainSettings:
        """How a named model is trained: its own settings laid over those of all models."""
        return laid_over(self.train, self.model_entry(name).train)

    def model_of(self, name: str) -> ModelSettings:
        """Architecture of a named model: its own settings laid over those of all models."""
        return laid_over(self.model, self.model_entry(name).model)

    def start_file(self, name: str) -> Path | None:
        """The model file that a named model starts from; None for random weights."""
        start = self.model_entry(name).start_from
        return None if start is None else start.file or self.workspace.model(start.model)

    def _is_conservative(self, name: str) -> bool:
        return self.model_of(name).head.forces == "conservative"

    def model_entry(self, name: str) -> ModelEntry:
        """Return a named model.

        Raises:
            ValueError: If the configuration has no such model.
        """
        if name not in self.models:
            raise ValueError(f"no model is called {name!r}; there are {', '.join(self.models)}")
        return self.models[name]

    @model_validator(mode="after")
    def _names_exist(self) -> Config:
        if problems := [
            *self._problems_of_sources(),
            *self._problems_of_models(),
            *self._problems_of_settings_by_source(),
        ]:
            raise ValueError("\n".join(problems))
        return self

    def _problems_of_sources(self) -> list[str]:
        packaged = packaged_names()
        readers = (*packaged, *self.custom_sources)
        known = ", ".join(readers)
        problems = [
            f"sources: no reader is called {name!r}; known readers: {known}"
            for name in self.sources
            if name not in readers
        ]
        for name, custom in self.custom_sources.items():
            where, like = f"custom_sources.{name}", custom.groups_like
            if not name.isidentifier() or name in packaged:
                problems.append(
                    f"{where}: a source's name must be an identifier that no reader has"
                )
            if name == self.workspace.leaks.stem:
                problems.append(
                    f"{where}: reserved, {name}.json is another file beside the ledgers"
                )
            if like is not None and not self._names_groups(like):
                problems.append(
                    f"{where}.groups_like: {like!r} is none of {known}, or is named after another "
                    "one itself"
                )
        if len(set(self.sources)) != len(self.sources):
            problems.append(f"sources: a name is repeated in {list(self.sources)}")
        return problems

    def _problems_of_models(self) -> list[str]:
        problems = []
        for model, entry in self.models.items():
            problems += [
                f"models.{model}: source {name!r} is not listed in sources"
                for name in entry.sources
                if name not in self.sources
            ]
            if not model.isidentifier():
                problems.append(f"models.{model}: a model's name must be an identifier")
            problems += self._problems_of_overrides(model)
            problems += self._problems_of_start(model, entry)
        # What is wrong with settings of all models is found with each of them.
        return list(dict.fromkeys(problems))

    def _problems_of_settings_by_source(self) -> list[str]:
        split = self.normalize.split
        by_source: dict[str, Iterable[str]] = {
            "normalize.split": split if isinstance(split, dict) else (),
            "normalize.reference_energies": self.normalize.reference_energies,
            "train.source_weights": self.train.source_weights,
            "train.passes_per_epoch": self.train.passes_per_epoch,
        }
        problems = [
            f"{key}.{name}: not listed in sources"
            for key, names in by_source.items()
            for name in names
            if name not in self.sources
        ]
        problems += [
            f"normalize.split.{name}: custom_sources.{name}.splits gives the splits, and nothing "
            "is dealt; keep one of them"
            for name, custom in self.custom_sources.items()
            if custom.splits is not None and name in by_source["normalize.split"]
        ]
        return problems + [
            f"study.transfer.families.{name}: must be an identifier that no source has"
            for name in self.study.transfer.families
            if not name.isidentifier() or name in (*packaged_names(), *self.custom_sources)
        ]

    def _names_groups(self, source: str) -> bool:
        """Whether a source is there and names its groups itself."""
        custom = self.custom_sources.get(source)
        return source in packaged_names() if custom is None else custom.groups_like is None

    def _problems_of_overrides(self, model: str) -> list[str]:
        """What is wrong with a model once its own settings lie over those of all models."""
        try:
            train, is_conservative = self.train_of(model), self._is_conservative(model)
        except ValidationError as error:
            return [f"models.{model}: {one['msg']}" for one in error.errors()]
        known = {branch for one in self.models.values() for branch in one.branches}
        problems = [
            f"{'' if name in self.train.branch_rates else f'models.{model}.'}train.branch_rates."
            f"{name}: no model has such a branch; there are {', '.join(sorted(known))}"
            for name in train.branch_rates
            if name not in known
        ]
        weights = [train.weights_of(source) for source in self.models[model].sources]
        if not any(
            energy or forces or (stress and is_conservative) for energy, forces, stress in weights
        ):
            problems.append(
                f"models.{model}: train.energy_weight, force_weight, stress_weight and "
                "source_weights leave nothing to learn"
            )
        if train.compile and is_conservative:
            of_all = self.train.compile and self.model.head.forces == "conservative"
            problems.append(
                f"{'' if of_all else f'models.{model}.'}train.compile: not for conservative "
                "forces, which are differentiated twice"
            )
        return problems

    def _problems_of_start(self, model: str, entry: ModelEntry) -> list[str]:
        if entry.start_from is None:
            return []
        where, start = f"models.{model}.start_from", entry.start_from
        problems = [
            f"{where}.branches.{new}: models.{model} has no such branch"
            for new in start.branches
            if new not in entry.branches
        ]
        if start.file is not None:
            return problems
        if start.model not in self.models:
            return [
                f"{where}.model: no model is called {start.model!r}; a file is named by its path, "
                f"such as ./{start.model}.pt"
            ]
        line = [model]
        while (before := self.models[line[-1]].start_from) and before.model in self.models:
            line.append(before.model)
            if before.model in line[:-1]:
                return [f"{where}: {' starts from '.join(line)}"]
        theirs = self._branches_in_file(start.model)
        return problems + [
            f"{where}.branches.{new}: no branch {old!r} there, only {', '.join(theirs)}"
            for new, old in start.branches.items()
            if old not in theirs
        ]

    def _branches_in_file(self, model: str) -> tuple[str, ...]:
        """Branches of a model's file: its own, and those that it keeps of where it started."""
        entry = self.models[model]
        start = entry.start_from
        kept: tuple[str, ...] = ()
        if start is not None and start.keep_branches and start.model in self.models:
            kept = self._branches_in_file(start.model)
        return tuple(dict.fromkeys((*entry.branches, *kept)))


def json_schema() -> dict[str, Any]:
    """JSON schema of the configuration, as ``workflow/schemas/config.schema.json`` holds it."""
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, **Config.model_json_schema()}
