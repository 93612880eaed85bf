"""The stages of the workflow. Rules, records, adoption and commands read this table.

It imports neither torch nor matplotlib, because Snakemake evaluates it for every job.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mtlpar.config import Config
from mtlpar.core.fields import SPLITS
from mtlpar.core.files import file_digest
from mtlpar.core.share import Share
from mtlpar.download.catalogue import read_catalogue
from mtlpar.download.mirror import mirror_fingerprint, mirrors_of
from mtlpar.download.settings import CATALOGUE
from mtlpar.flow.digest import code_digest, file_of
from mtlpar.flow.stage import Outputs, Stage, plain_settings
from mtlpar.report.items import FIGURE_FORMATS, TABLE_FORMATS, Scope, inputs_of, outputs_of
from mtlpar.sources.registry import get_source, reader_file
from mtlpar.study.records import measurements

ALL_SOURCES: Final = "sources"
"""Target of what works on all sources together."""

MACHINE: Final = "machine"
"""Target of the doctor."""


def _code(module: str) -> Callable[[Config, str], str]:
    return lambda _config, _target: code_digest(module)


def _raw_fingerprint(config: Config, source: str) -> str:
    """What the download of a source depends on: the catalogue's rows, or the mirrors' files.

    How patiently files are fetched is no part of it.
    """
    mirrors = mirrors_of(source, config.download)
    if CATALOGUE in mirrors:
        rows = read_catalogue(config.paths.catalogue)
        listed_as = get_source(source).files_name
        parts = [row.contents for row in rows if row.source == listed_as]
    else:
        parts = [mirror_fingerprint(source, mirror) for mirror in mirrors]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _reader_digest(config: Config, source: str) -> str:
    """Digest of the extract stage, and of the reader and the description of one source."""
    reader = f"mtlpar.sources.{source}"
    digests = [code_digest("mtlpar.extract.stage")]
    if file_of(reader).is_file():
        digests.append(code_digest(reader))
    else:
        # Of a reader of another package only its own file counts; what it imports is unknown.
        digests.append(file_digest(reader_file(source))[:16])
    if source in config.custom_sources:
        described = config.custom_sources[source].model_dump_json()
        digests.append(hashlib.sha256(described.encode()).hexdigest()[:16])
    return "-".join(digests)


def _share(target: str) -> tuple[str, str]:
    source, _, share = target.partition("/")
    return source, share


def _extract_settings(config: Config, target: str) -> str:
    # How the work is spread leaves no trace in the structures.
    settings = config.extract.model_dump(mode="json", exclude={"shares"})
    described = config.custom_sources.get(_share(target)[0])
    return plain_settings(settings, *([described] if described else []))


def _shares(count: int) -> list[str]:
    """Names of the shares of a source; with one there is none but the source."""
    return [str(Share(index, count)) for index in range(count)] if count > 1 else []


def _extract_inputs(config: Config, source: str) -> list[Path]:
    work, shares = config.workspace, _shares(config.extract.shares)
    return [work.raw_manifest(source), *(work.extracted_share(source, share) for share in shares)]


def _normalize_inputs(config: Config, source: str) -> list[Path]:
    given = config.normalize.reference_energies.get(source)
    manifest = config.workspace.extracted_manifest(source)
    return [manifest, given] if isinstance(given, Path) else [manifest]


def _normalize_outputs(config: Config, source: str) -> Outputs:
    work = config.workspace
    return {
        "splits": [work.splits(source)],
        "references": [work.references(source)],
        "checks": [work.checks(source)],
        "ledger": [work.ledger(source)],
    }


def _leaks_inputs(config: Config, _target: str) -> list[Path]:
    work = config.workspace
    manifests = [work.extracted_manifest(source) for source in config.sources]
    return [*manifests, *(work.splits(source) for source in config.sources)]


def _pack_settings(config: Config, _target: str) -> str:
    return plain_settings(config.pack.model_dump(mode="json", exclude={"shares"}), config.seed)


def _pack_share_inputs(config: Config, target: str) -> list[Path]:
    source, _ = _share(target)
    return [config.workspace.extracted_manifest(source), config.workspace.splits(source)]


def _pack_inputs(config: Config, source: str) -> list[Path]:
    work, shares = config.workspace, _shares(config.pack.shares)
    return [
        work.extracted_manifest(source),
        work.splits(source),
        work.references(source),
        *(work.packed_share(source, share) for share in shares),
    ]


def _train_inputs(config: Config, model: str) -> list[Path]:
    """Manifests of the packs that a model is trained and validated on, and where it starts from."""
    entry = config.models[model]
    manifests = [
        config.workspace.pack_manifest(source, split)
        for source in entry.sources
        for split in ("train", "val")
    ]
    start = config.start_file(model)
    return manifests if start is None else [*manifests, start]


def _train_outputs(config: Config, model: str) -> Outputs:
    work = config.workspace
    return {"model": [work.model(model)], "history": [work.training_metrics(model)]}


def _train_settings(config: Config, model: str) -> str:
    entry = config.models[model].model_dump(mode="json", include={"branches", "start_from"})
    result = config.train_of(model).of_result()
    return plain_settings(entry, config.model_of(model), result, config.seed)


def _evaluate_inputs(config: Config, model: str) -> list[Path]:
    work = config.workspace
    return [work.model(model), *(work.pack_manifest(source, "test") for source in config.sources)]


def _evaluate_outputs(config: Config, model: str) -> Outputs:
    work = config.workspace
    return {
        "metrics": [work.metrics(model, source) for source in config.sources],
        "predictions": [work.predictions(model, source) for source in config.sources],
    }


def report_scope(config: Config) -> Scope:
    """What the report of a configuration is about."""
    return Scope(
        workspace=config.workspace,
        settings=config.report,
        models={name: entry.sources for name, entry in config.models.items()},
        sources=config.sources,
    )


def _item_inputs(config: Config, item: str) -> list[Path]:
    return inputs_of(item, report_scope(config))


def _study_inputs(config: Config, study: str) -> list[Path]:
    names = measurements(study, config.study, config.sources)
    return [config.workspace.study_record(study, name) for name in names]


def _study_outputs(config: Config, study: str) -> Outputs:
    suffixes = (*TABLE_FORMATS, *FIGURE_FORMATS)
    return {"files": [config.workspace.studies / f"{study}.{suffix}" for suffix in suffixes]}


def _transfer_models(config: Config, family: str) -> list[str]:
    """Models that the transfer study of a family starts from."""
    study = config.study.transfer
    single = study.families[family].single
    return [single if name == "single" else name for name in study.starts]


def _transfer_inputs(config: Config, target: str) -> list[Path]:
    """The family, the models, what they know now, and what replay takes."""
    family, work = target.rsplit("-", 1)[0], config.workspace
    models = _transfer_models(config, family)
    learned = {source for model in models for source in config.model_entry(model).sources}
    return [
        config.study.transfer.families[family].file,
        *(work.model(model) for model in models),
        *(
            work.metrics(model, source)
            for model in models
            for source in config.model_entry(model).sources
        ),
        *(
            work.pack_manifest(source, split)
            for source in config.sources
            if source in learned
            for split in SPLITS
        ),
    ]


def _compatibility_inputs(config: Config, target: str) -> list[Path]:
    """Manifests of all packs of the sources that are trained together."""
    return [
        config.workspace.pack_manifest(source, split)
        for source in target.rsplit("-", 1)[0].split("+")
        for split in SPLITS
    ]


_DATA: Final = (
    Stage(
        name="download",
        target="{source}",
        outputs=lambda config, source: {"manifest": [config.workspace.raw_manifest(source)]},
        settings=_raw_fingerprint,
        code=_code("mtlpar.download.stage"),
    ),
    Stage(
        name="extract_share",
        target="{source}/{share}",
        inputs=lambda config, target: [config.workspace.raw_manifest(_share(target)[0])],
        outputs=lambda config, target: {
            "share": [config.workspace.extracted_share(*_share(target))]
        },
        settings=_extract_settings,
        code=lambda config, target: _reader_digest(config, _share(target)[0]),
    ),
    Stage(
        name="extract",
        target="{source}",
        inputs=_extract_inputs,
        outputs=lambda config, source: {"manifest": [config.workspace.extracted_manifest(source)]},
        settings=_extract_settings,
        code=_reader_digest,
    ),
    Stage(
        name="normalize",
        target="{source}",
        inputs=_normalize_inputs,
        outputs=_normalize_outputs,
        settings=lambda config, source: plain_settings(config.normalize.of(source), config.seed),
        code=_code("mtlpar.normalize.stage"),
    ),
    Stage(
        name="find_leaks",
        target=ALL_SOURCES,
        inputs=_leaks_inputs,
        outputs=lambda config, _: {"leaks": [config.workspace.leaks]},
        settings=lambda config, _: plain_settings(config.sources),
        code=_code("mtlpar.normalize.leaks"),
    ),
    Stage(
        name="pack_share",
        target="{source}/{share}",
        inputs=_pack_share_inputs,
        outputs=lambda config, target: {"share": [config.workspace.packed_share(*_share(target))]},
        settings=_pack_settings,
        code=_code("mtlpar.pack.stage"),
    ),
    Stage(
        name="pack",
        target="{source}",
        inputs=_pack_inputs,
        outputs=lambda config, source: {
            "manifests": [config.workspace.pack_manifest(source, split) for split in SPLITS]
        },
        folders=lambda config, source: [config.workspace.pack(source, split) for split in SPLITS],
        settings=_pack_settings,
        code=_code("mtlpar.pack.stage"),
    ),
)

_MODELS: Final = (
    Stage(
        name="doctor",
        target=MACHINE,
        outputs=lambda config, _: {"findings": [config.workspace.doctor]},
        code=_code("mtlpar.machine.doctor"),
    ),
    Stage(
        name="train",
        target="{model}",
        inputs=_train_inputs,
        after=lambda config, _: [config.workspace.doctor],
        outputs=_train_outputs,
        settings=_train_settings,
        code=_code("mtlpar.train.stage"),
    ),
    Stage(
        name="evaluate",
        target="{model}",
        inputs=_evaluate_inputs,
        outputs=_evaluate_outputs,
        settings=lambda config, _: plain_settings(config.evaluate, config.seed, config.sources),
        code=_code("mtlpar.evaluate.stage"),
    ),
    Stage(
        name="report",
        target="{item}",
        inputs=_item_inputs,
        outputs=lambda config, item: {"files": outputs_of(item, config.workspace)},
        settings=lambda config, _: plain_settings(
            config.report, config.sources, list(config.models)
        ),
        code=_code("mtlpar.report.stage"),
        rule_per_target=True,
    ),
)


def _measurement(
    study: str,
    target: str,
    settings: Callable[[Config], str],
    *,
    code: str | None = None,
    inputs: Callable[[Config, str], list[Path]] = lambda _config, _target: [],
) -> Stage:
    """The stage that makes one measurement of a study."""
    return Stage(
        name=f"{study}_record",
        target=target,
        inputs=inputs,
        outputs=lambda config, measured: {
            "record": [config.workspace.study_record(study, measured)]
        },
        settings=lambda config, _: settings(config),
        code=_code(code or f"mtlpar.study.{study}"),
    )


_STUDIES: Final = (
    _measurement(
        "memory",
        "{layout}-{branches}",
        lambda config: plain_settings(config.study.model, config.study.memory, config.study.atoms),
    ),
    _measurement(
        "scaling",
        "{ranks}-ranks",
        lambda config: plain_settings(config.study.model, config.study.scaling, config.study.atoms),
    ),
    _measurement(
        "comm",
        "{layout}",
        lambda config: plain_settings(config.study.model, config.study.comm, config.study.atoms),
    ),
    _measurement(
        "transfer",
        "{family}-{seed}",
        lambda config: plain_settings(
            config.study.transfer.model_dump(mode="json", exclude={"seeds"}), config.model
        ),
        code="mtlpar.finetune.transfer",
        inputs=_transfer_inputs,
    ),
    _measurement(
        "compatibility",
        "{mixture}-{seed}",
        lambda config: plain_settings(
            config.study.compatibility.model_dump(mode="json", exclude={"seeds"}),
            config.model,
            config.train.of_result(),
            config.evaluate,
        ),
        inputs=_compatibility_inputs,
    ),
    Stage(
        name="study",
        target="{study}",
        inputs=_study_inputs,
        outputs=_study_outputs,
        settings=lambda config, _: plain_settings(config.report),
        code=_code("mtlpar.report.studies"),
        rule_per_target=True,
    ),
)

STAGES: Final[dict[str, Stage]] = {stage.name: stage for stage in (*_DATA, *_MODELS, *_STUDIES)}
"""Every stage by name, in the order of the workflow."""
