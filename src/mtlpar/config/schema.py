"""The shape of ``config.yaml``: one block per stage, each defined by its stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, model_validator

from mtlpar.core.paths import Workspace
from mtlpar.core.settings import Settings
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
    """Which trained model another one starts from."""

    model: str = Field(
        description="Model to start from: its encoder and branches of the same name go on."
    )
    branches: dict[str, str] = Field(
        default={},
        description="New branches by the branch of that model whose weights they start from.",
    )


class ModelEntry(Settings):
    """One named model: which branches it has and which sources feed each of them."""

    branches: dict[str, tuple[str, ...]] = Field(
        min_length=1, description="Sources by branch. A source may feed one branch only."
    )
    start_from: StartFrom | None = Field(
        default=None,
        description="Start from another model of the config: with a branch added, or removed, or "
        "to fine-tune. Reference energies are those of the present packs.",
    )

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
        min_length=1, description="The models by name, in the order of the tables."
    )
    train: TrainSettings = Field(default=TrainSettings(), description="Stage train.")
    evaluate: EvaluateSettings = Field(default=EvaluateSettings(), description="Stage evaluate.")
    report: ReportSettings = Field(default=ReportSettings(), description="Stage report.")
    study: StudySettings = Field(
        default=StudySettings(), description="Studies of memory and scaling."
    )

    @property
    def workspace(self) -> Workspace:
        """Paths of all products."""
        return Workspace(raw=self.paths.raw, results=self.paths.results)

    @property
    def predicts_stress(self) -> bool:
        """Whether the models predict stresses."""
        return self.model.head.forces == "conservative"

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
        known = (*packaged_names(), *self.custom_sources)
        problems = [
            f"sources: no reader is called {name!r}; known are {', '.join(known)}"
            for name in self.sources
            if name not in known
        ]
        problems += [
            f"custom_sources.{name}: a source's name must be an identifier that no reader has"
            for name in self.custom_sources
            if not name.isidentifier() or name in packaged_names()
        ]
        problems += [
            f"custom_sources.{name}: reserved, {name}.json is another file beside the ledgers"
            for name in self.custom_sources
            if name == self.workspace.leaks.stem
        ]
        if len(set(self.sources)) != len(self.sources):
            problems.append(f"sources: a name is repeated in {list(self.sources)}")
        for model, entry in self.models.items():
            problems += [
                f"models.{model}: source {name!r} is not listed in sources"
                for name in entry.sources
                if name not in self.sources
            ]
            if not model.isidentifier():
                problems.append(f"models.{model}: a model's name must be an identifier")
            if not any(self._can_learn(name) for name in entry.sources):
                problems.append(
                    f"models.{model}: train.energy_weight, force_weight, stress_weight and "
                    "source_weights leave nothing to learn"
                )
            problems += self._problems_of_start(model, entry)
        by_source: dict[str, Mapping[str, object]] = {
            "source_weights": self.train.source_weights,
            "passes_per_epoch": self.train.passes_per_epoch,
        }
        if self.train.compile and self.model.head.forces == "conservative":
            problems.append(
                "train.compile: not for conservative forces, which are differentiated twice"
            )
        problems += [
            f"normalize.reference_energies.{name}: not listed in sources"
            for name in self.normalize.reference_energies
            if name not in self.sources
        ]
        problems += [
            f"train.{key}.{name}: not listed in sources"
            for key, values in by_source.items()
            for name in values
            if name not in self.sources
        ]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _can_learn(self, source: str) -> bool:
        """Whether any weight of a source is above zero that models can learn from."""
        energy, forces, stress = self.train.weights_of(source)
        return bool(energy or forces or (stress and self.predicts_stress))

    def _problems_of_start(self, model: str, entry: ModelEntry) -> list[str]:
        if entry.start_from is None:
            return []
        where, start = f"models.{model}.start_from", entry.start_from
        if start.model not in self.models:
            return [f"{where}.model: no model is called {start.model!r}"]
        line = [model]
        while (before := self.models[line[-1]].start_from) and before.model in self.models:
            line.append(before.model)
            if before.model in line[:-1]:
                return [f"{where}: {' starts from '.join(line)}"]
        theirs = self.models[start.model].branches
        problems = []
        for new, old in start.branches.items():
            if new not in entry.branches:
                problems.append(f"{where}.branches.{new}: models.{model} has no such branch")
            if old not in theirs:
                names = ", ".join(theirs)
                problems.append(f"{where}.branches.{new}: no branch {old!r} there, only {names}")
        return problems


def json_schema() -> dict[str, Any]:
    """JSON schema of the configuration, as ``workflow/schemas/config.schema.json`` holds it."""
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, **Config.model_json_schema()}
