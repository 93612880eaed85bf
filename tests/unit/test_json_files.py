"""Valid JSON of another shape, in any file that a run writes, is one line and never a traceback."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import REPOSITORY

from mtlpar.cli import main
from mtlpar.config import Config, load_config
from mtlpar.core.ledger import Ledger
from mtlpar.core.paths import Workspace
from mtlpar.core.records import read_digested, write_digested
from mtlpar.evaluate import stage as evaluate
from mtlpar.extract import stage as extract
from mtlpar.flow.lineage import describe
from mtlpar.flow.records import StageRun
from mtlpar.flow.run_record import read_run
from mtlpar.flow.stale import check_inputs
from mtlpar.normalize import leaks
from mtlpar.normalize import stage as normalize
from mtlpar.normalize.settings import NormalizeSettings
from mtlpar.report import quality_tables
from mtlpar.report.items import ENERGY_MAE, FORCE_RMSE, STRESS_MAE, Scope
from mtlpar.report.load import read_errors, read_history
from mtlpar.report.reference_plots import draw_references
from mtlpar.report.settings import ReportSettings
from mtlpar.store.bp import BpReader
from mtlpar.store.checksums import check_checksums
from mtlpar.store.extracted import ExtractedSource
from mtlpar.store.pack import Pack
from mtlpar.train.checkpoint import CheckpointFolder
from mtlpar.train.history import read_lines
from mtlpar.train.progress import read_progress
from mtlpar.train.watch import draw

# Tests share two cores: threads that wait for one another would take ten times as long.
torch.set_num_threads(1)

SOURCE = "alexandria"
MODEL = "alexandria"
# A replacement is of another type than the value, or a number that makes no sense.
REPLACEMENTS = (None, "text", [], {}, -7, 1e300)
# What is no object at all, no text, or too deep to be read.
WHOLE = (b"[]", b"{}", b"null", b"3", b'"text"', b"", b"\xff\xfe{}", b"[" * 100_000, b"[NaN]")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A whole run of one small source, through the commands."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        settings = [
            f"paths.raw={folder / 'raw'}",
            f"paths.results={folder / 'results'}",
            "train.epochs=1",
        ]
        options = [text for setting in settings for text in ("--set", setting)]
        for stage in ("download", "extract", "normalize", "pack"):
            assert main([stage, "--source", SOURCE, *options]) == 0
        assert main(["train", "--model", MODEL, *options]) == 0
        config = load_config([REPOSITORY / "config.yaml"], settings)
    leaks.run([SOURCE], workspace=config.workspace)
    evaluate.run(
        MODEL, workspace=config.workspace, settings=config.evaluate, sources=[SOURCE], seed=0
    )
    return config


def _scope(work: Workspace) -> Scope:
    return Scope(
        workspace=work, settings=ReportSettings(), models={MODEL: (SOURCE,)}, sources=[SOURCE]
    )


def _report_checks(config: Config, _: Path) -> None:
    quality_tables.check_grid(_scope(config.workspace))


def _report_leaks(config: Config, _: Path) -> None:
    scope = _scope(config.workspace)
    quality_tables.leak_grid(scope)
    quality_tables.leak_rows(scope)


def _report_references(config: Config, _: Path) -> None:
    scope = _scope(config.workspace)
    quality_tables.reference_grid(scope)
    quality_tables.reference_rows(scope)
    draw_references(scope)


def _normalize(config: Config, _: Path) -> None:
    ExtractedSource(config.workspace, SOURCE).check_parts()
    settings = NormalizeSettings()
    before = {
        path: path.read_bytes()
        for path in (config.workspace.references(SOURCE), config.workspace.ledger(SOURCE),
                     config.workspace.checks(SOURCE), config.workspace.splits(SOURCE))
    }  # fmt: skip
    try:
        normalize.run(SOURCE, workspace=config.workspace, settings=settings, seed=config.seed)
    finally:
        for path, content in before.items():
            path.write_bytes(content)


def _extract(config: Config, _: Path) -> None:
    again = Workspace(raw=config.paths.raw, results=config.paths.results / "again")
    extract.run(SOURCE, workspace=again, settings=config.extract)


def _metrics(config: Config, _: Path) -> None:
    for quantity in (ENERGY_MAE, FORCE_RMSE, STRESS_MAE):
        read_errors(quantity, workspace=config.workspace, models=[MODEL], sources=[SOURCE])


def _provenance(config: Config, path: Path) -> None:
    read_run(path)
    check_inputs(config, "evaluate", MODEL, config.workspace.results / "provenance")
    StageRun.of(config, path.parent.name, path.stem).is_done()
    describe(config.workspace.model(MODEL), config.workspace.results)


def _watch(_: Config, path: Path) -> None:
    draw(read_lines(path), colour=False, width=80)
    read_history(path, [SOURCE])


# Files of a run, and what reads them.
FILES: dict[str, Callable[[Config, Path], object]] = {
    "raw/{source}/manifest.json": _extract,
    "results/extracted/{source}/manifest.json": _normalize,
    "results/extracted/{source}/*.bp/seal.json": lambda _, path: BpReader(path.parent),
    "results/normalized/{source}/references.json": _report_references,
    "results/ledger/{source}.json": lambda _, path: Ledger.read(path),
    "results/ledger/{source}.checks.json": _report_checks,
    "results/ledger/leaks.json": _report_leaks,
    "results/packed/{source}/train.manifest.json": lambda config, _: Pack.of(
        config.workspace, SOURCE, "train"
    ),
    "results/packed/{source}/train.bp/seal.json": lambda config, _: Pack.of(
        config.workspace, SOURCE, "train"
    ),
    "results/metrics/{model}/{source}.json": _metrics,
    "results/checkpoints/{model}/*/step-*/progress.json": lambda _, path: read_progress(path),
    "results/checkpoints/{model}/*/step-*/seal.json": lambda _, path: check_checksums(path.parent),
    "results/checkpoints/{model}/*/step-*/finished.json": lambda _, path: CheckpointFolder(
        path.parent.parent, rank=0
    ).latest(),
    "results/provenance/extract/{source}.json": _provenance,
    "results/provenance/train/{model}.json": _provenance,
}


def _changed(content: Any) -> Iterator[tuple[str, Any]]:
    """The content with each value removed, and replaced by values of other types."""
    for place in _places(content):
        *above, last = place
        told = ".".join(map(str, place))
        for replacement in ("removed", *REPLACEMENTS):
            changed = copy.deepcopy(content)
            parent = changed
            for step in above:
                parent = parent[step]
            if replacement == "removed":
                del parent[last]
            elif type(parent[last]) is type(replacement) and replacement not in (-7, 1e300):
                continue
            else:
                parent[last] = replacement
            yield f"{told} {replacement!r}", changed


def _places(content: Any) -> Iterator[tuple[str | int, ...]]:
    """Where values stand; of a list the first, and of many keys of one kind the first."""
    if isinstance(content, dict):
        keys: list[str | int] = list(content)
        is_table = len(keys) > 4 and len({type(value) for value in content.values()}) == 1
        for key in keys[:1] if is_table else keys:
            yield (key,)
            yield from ((key, *inner) for inner in _places(content[key]))
    elif isinstance(content, list) and content:
        yield (0,)
        yield from ((0, *inner) for inner in _places(content[0]))


def _told(config: Config, path: Path, read: Callable[[Config, Path], object]) -> str | None:
    """What a reader says of a file; anything but a `ValueError` ends the test."""
    try:
        read(config, path)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("pattern", FILES)
def test_a_file_of_another_shape_is_one_line_with_its_name(run: Config, pattern: str) -> None:
    # 23 of 112 such files ended in a KeyError, TypeError or AttributeError.
    folder = run.workspace.results.parent
    path = sorted(folder.glob(pattern.format(source=SOURCE, model=MODEL)))[-1]
    whole, read = path.read_bytes(), FILES[pattern]
    assert _told(run, path, read) is None
    content = json.loads(whole)
    spoilt = {f"whole {text[:9]!r}": text for text in WHOLE}
    spoilt |= {what: json.dumps(changed).encode() for what, changed in _changed(content)}
    refused = 0
    try:
        for what, text in spoilt.items():
            path.write_bytes(text)
            message = _told(run, path, read)
            if message is not None:
                refused += 1
                assert "\n" not in message, what
                # A sound record that contradicts others may be told with those.
                assert path.name in message or SOURCE in message, (what, message)
            else:
                assert not what.startswith("whole"), what
    finally:
        path.write_bytes(whole)
    assert refused > 0.8 * len(spoilt)


@pytest.mark.parametrize("kind", ["step", "epoch"])
def test_a_line_of_a_history_of_another_shape_is_named(run: Config, kind: str) -> None:
    path = run.workspace.training_metrics(MODEL)
    whole = path.read_text()
    lines = whole.splitlines()
    index = next(i for i, line in enumerate(lines) if json.loads(line)["kind"] == kind)
    try:
        for what, changed in _changed(json.loads(lines[index])):
            spoilt = [*lines[:index], json.dumps(changed), *lines[index + 1 :]]
            path.write_text("\n".join(spoilt) + "\n")
            message = _told(run, path, _watch)
            assert message is None or (path.name in message and "\n" not in message), what
    finally:
        path.write_text(whole)


def test_a_damaged_log_of_attempts_costs_no_outcome(run: Config) -> None:
    attempts = StageRun.of(run, "pack", SOURCE).attempts
    attempts.write_bytes(attempts.read_bytes() + b'{"started": 1, \n[]\n\xff\n')
    options = []
    for key, value in (("paths.raw", run.paths.raw), ("paths.results", run.paths.results)):
        options += ["--set", f"{key}={value}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        assert main(["pack", "--source", SOURCE, *options]) == 0
    record = read_run(StageRun.of(run, "pack", SOURCE).record)
    assert [attempt.outcome for attempt in record.attempts] == ["done"]


def test_records_of_pieces_that_are_damaged_are_done_again(tmp_path: Path) -> None:
    path = tmp_path / "one.piece.json"
    write_digested(path, {"rows": 3, "parts": []})
    assert read_digested(path) == {"rows": 3, "parts": []}
    whole = path.read_bytes()
    for text in (*WHOLE, whole.replace(b"3", b"4"), whole[:20]):
        path.write_bytes(text)
        assert read_digested(path) is None
