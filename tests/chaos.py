"""Seeded faults on a tiny finished run: what does the next command make of each?

    make chaos SECONDS=600 SEED=1

A try copies the run, damages one file or folder of it, or kills the command, or lets its disk fill
up. Then the command runs, and what it says and writes is compared with a run without fault. Equal
seeds make equal faults; only the moments of kills depend on the machine. The exit status is 1 if
anything was wrong without a word, ended in a traceback or hung.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch._dynamo  # which a training imports late
import yaml

# The stages are imported once, before the forks.
import mtlpar.evaluate.stage
import mtlpar.extract.stage
import mtlpar.finetune.distill
import mtlpar.flow.table
import mtlpar.normalize.stage
import mtlpar.pack.stage
import mtlpar.predict.stage
import mtlpar.train.stage  # noqa: F401
from mtlpar.cli import main as mtlpar_main
from mtlpar.flow.digest import code_digest
from mtlpar.model.file import load_model

REPOSITORY = Path(__file__).parents[1]
SOURCES = ("alexandria", "transition1x")
MODEL = "both"
# Forks have one thread, and the process that they come from never had another.
torch.set_num_threads(1)
HANG_SECONDS = 10.0
# A command takes longer than usual while others use the machine.
_BUSY = 3
FAILURES = ("SILENT WRONG", "TRACEBACK", "HANG", "DEAD END")
OUTCOMES = ("refused", "repaired", "warned", "harmless", *FAILURES)
_KILLED = -signal.SIGKILL


class Command(NamedTuple):
    """A command that follows the fault.

    Attributes:
        name: How the log calls it.
        arguments: What `mtlpar` is given.
        reads: Patterns of the files that it may read, where faults are put.
        products: Patterns of the files that are compared.
        removed: Patterns of what is taken away first, so that there is something to do.
    """

    name: str
    arguments: tuple[str, ...]
    reads: tuple[str, ...]
    products: tuple[str, ...]
    removed: tuple[str, ...] = ()


def _of_source(stage: str, *reads: str, products: tuple[str, ...]) -> Command:
    return Command(
        stage,
        (stage, "--source", SOURCES[0]),
        (*(f"{folder}/{SOURCES[0]}" for folder in reads), "results/provenance"),
        products,
    )


_TRAINING = ("results/packed", "results/normalized", "results/checkpoints", "results/provenance")
_MODEL = f"results/models/{MODEL}/model.pt"
_TRAIN = ("train", "--model", MODEL)

COMMANDS = (
    _of_source(
        "extract",
        "raw",
        "results/extracted",
        products=(f"results/extracted/{SOURCES[0]}", f"results/ledger/{SOURCES[0]}.checks.json"),
    ),
    _of_source(
        "normalize",
        "results/extracted",
        "results/normalized",
        products=(f"results/normalized/{SOURCES[0]}", f"results/ledger/{SOURCES[0]}.json"),
    ),
    _of_source(
        "pack",
        "results/extracted",
        "results/normalized",
        "results/packed",
        products=(f"results/packed/{SOURCES[0]}",),
    ),
    Command("train", _TRAIN, _TRAINING, (_MODEL,), ("results/checkpoints/*/*", _MODEL)),
    Command(
        "resume",
        _TRAIN,
        _TRAINING,
        (_MODEL,),
        (*(f"results/checkpoints/*/*/{name}" for name in ("{last}", "model.pt")), _MODEL),
    ),
    Command("export", _TRAIN, _TRAINING, (_MODEL,), (_MODEL,)),
    Command(
        "evaluate",
        ("evaluate", "--model", MODEL),
        ("results/packed", "results/models", "results/normalized", "results/provenance"),
        (f"results/metrics/{MODEL}",),
        (f"results/metrics/{MODEL}/*.json",),
    ),
    Command(
        "predict",
        ("predict", _MODEL, "some.extxyz", "--source", SOURCES[0], "--out", "predicted.extxyz"),
        ("results/models",),
        ("predicted.extxyz",),
    ),
)
_FINETUNE = (
    *("finetune", _MODEL, "own.extxyz", "--level", "another", "--out", "tuned"),
    *("--replay", "packs", "--set", "train.epochs=1"),
)
_DISTILL = (
    *("distill", _MODEL, "--source", SOURCES[1], "--out", "student.pt", "--dynamics", "2"),
    *("--structures", "own.extxyz", "--set", "train.epochs=1"),
    *("--set", "model.encoder.width=8", "--set", "model.encoder.layers=1"),
)
_TUNED = ("tuned/results/models/*/model.pt", "tuned/results/metrics/*/*.json")
_STUDENT = ("student.pt", "student/results/metrics/*/*.json")
# What begins with a trained model, and goes on in a folder of its own.
ADAPTING = (
    Command("finetune", _FINETUNE, ("tuned", "results/models", "results/packed"), _TUNED),
    Command("tune more", _FINETUNE, ("tuned",), _TUNED, ("tuned/results/models", *_TUNED)),
    Command("distill", _DISTILL, ("student", "results/models", "results/packed"), _STUDENT),
    Command(
        "teach more",
        _DISTILL,
        ("student",),
        _STUDENT,
        ("student/results/models/student/model.pt", *_STUDENT),
    ),
)


class Ended(NamedTuple):
    """How a command ended: its status, what it said, and how long it took in s."""

    status: int | None
    output: str
    seconds: float

    def lines(self, level: str) -> list[str]:
        """Messages of a level, such as ``W``, without their times."""
        found = re.findall(rf"^\d\d:\d\d:\d\d {level} (.*)$", self.output, flags=re.MULTILINE)
        return [_without_figures(text) for text in found]


def _without_figures(text: str) -> str:
    """A message without what differs between equal runs, such as free room and rates."""
    return re.sub(r"\d[\d.,]*", "#", text)


def run(
    folder: Path,
    arguments: Sequence[str],
    *,
    patience: float = 120.0,
    kill_after: float | None = None,
    limit_bytes: int | None = None,
) -> Ended:
    """Run a command in a fork, in a folder; after its patience (in s) its status is None.

    Patience does not wear while the fork waits for a core, of which others may take all.
    """
    begin = time.monotonic()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _become(folder, arguments, writing, limit_bytes)
    os.close(writing)
    output, deadline = b"", begin + (patience if kill_after is None else kill_after)
    is_over = False
    while not is_over:
        left = deadline - time.monotonic()
        if kill_after is None:
            left += _waited_for_a_core(child)
        if left <= 0:
            break
        if select.select([reading], [], [], left)[0]:
            piece = os.read(reading, 65536)
            output += piece
            is_over = not piece
    if not is_over:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    _, state = os.waitpid(child, 0)
    os.close(reading)
    is_late = not is_over and kill_after is None
    status = None if is_late else os.waitstatus_to_exitcode(state)
    return Ended(status, output.decode(errors="replace"), time.monotonic() - begin)


def _waited_for_a_core(process: int) -> float:
    """How long, in s, threads of a process were ready to run and did not.

    Of all threads: the first may wait for another, such as the loader's, that waits for a core.
    """
    waited_ns = 0
    for path in Path(f"/proc/{process}/task").glob("*/schedstat"):
        # Threads end.
        with suppress(OSError):
            waited_ns += int(path.read_text().split()[1])
    return waited_ns / 1e9


def _become(folder: Path, arguments: Sequence[str], output: int, limit_bytes: int | None) -> None:
    """The fork: run the command and end."""
    status = 70
    try:
        os.setsid()
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = open(1, "w", closefd=False, encoding="utf-8")  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False, encoding="utf-8")  # noqa: SIM115
        os.chdir(folder)
        torch.set_num_threads(1)
        if limit_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
        status = mtlpar_main([*arguments])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - the fork must not go on as its parent
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def make_run(folder: Path, *, seed: int = 0, adapted: bool = False) -> None:
    """A whole run of two small sources and a tiny model; paths in its config are relative.

    Adapted, it has a fine-tuned model and a student too, whose files name the folder.
    """
    folder.mkdir(parents=True)
    config = yaml.safe_load((REPOSITORY / "config.yaml").read_text(encoding="utf-8"))
    config |= {
        "seed": seed,
        "sources": [*SOURCES],
        "paths": {
            "raw": "raw",
            "results": "results",
            "catalogue": str(REPOSITORY / "workflow" / "sources.csv"),
        },
        "download": {"mirrors": [str(REPOSITORY / "workflow" / "sample")]},
        "models": {MODEL: {"branches": {name: [name] for name in SOURCES}}},
        "study": {},
    }
    config["model"]["encoder"] = {"width": 8, "layers": 1, "vector_channels": 2, "radial_basis": 4}
    config["model"]["head"] = {"width": 8, "layers": 1}
    config["train"] |= {"epochs": 2, "batch_structures": 64}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (folder / "some.extxyz").write_text(
        '2\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 pbc="T T T"\n'
        "Na 0 0 0\nCl 2 2 2.1\n",
        encoding="utf-8",
    )
    commands = [
        [stage, "--source", name]
        for stage in ("download", "extract", "normalize", "pack")
        for name in SOURCES
    ]
    commands += [[*_TRAIN], ["evaluate", "--model", MODEL]]
    if adapted:
        own = f"results/packed/{SOURCES[1]}/train.bp"
        commands += [["export", own, "own.extxyz", "--limit", "40"], [*_FINETUNE], [*_DISTILL]]
    for arguments in commands:
        ended = run(folder, arguments)
        if ended.status != 0:
            raise RuntimeError(f"mtlpar {' '.join(arguments)} failed:\n{ended.output}")


def _files(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """Files below what matches, in order; leases and logs of attempts are nobody's input."""
    found = set()
    for pattern in patterns:
        for top in folder.glob(pattern):
            found |= {top} if top.is_file() else set(top.rglob("*"))
    return sorted(
        path
        for path in found
        if path.is_file() and ".lease-" not in path.name and ".attempts." not in path.name
    )


def products(folder: Path, command: Command) -> dict[str, str]:
    """A digest of each product's content."""
    return {
        path.relative_to(folder).as_posix(): _content_digest(path)
        for path in _files(folder, command.products)
    }


def _content_digest(path: Path) -> str:
    if path.name == "model.pt":
        # Its archive carries names and times.
        return str(load_model(path).digest)
    if path.suffix == ".npz":
        # Splits name the bytes of the manifest that they were made from: a blank more is no fault.
        with np.load(path) as arrays:
            content = b"".join(arrays[name].tobytes() for name in arrays if name != "extracted")
    else:
        content = path.read_bytes()
    return hashlib.sha256(content).hexdigest()


def prepare(whole: Path, folder: Path, command: Command) -> None:
    """A fresh copy of the run, with something left to do for the command."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder, symlinks=True)
    last = max(path.name for path in folder.glob("results/checkpoints/*/*/step-*"))
    for pattern in command.removed:
        for path in folder.glob(pattern.format(last=last)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


# --- faults -----------------------------------------------------------------------------------
# Each changes one thing among the given files and says what, or gives None if it finds nothing.

Dice = random.Random
Fault = Callable[[Path, list[Path], Dice, Path], str | None]


def flipped_bit(_folder: Path, files: list[Path], dice: Dice, _other: Path) -> str | None:
    """One bit of a file is another."""
    path = dice.choice(files)
    content = bytearray(path.read_bytes())
    if not content:
        return None
    place, bit = dice.randrange(len(content)), dice.randrange(8)
    content[place] ^= 1 << bit
    path.write_bytes(content)
    return f"bit {bit} of byte {place} of {path}"


def truncated(_folder: Path, files: list[Path], dice: Dice, _other: Path) -> str | None:
    """A file ends too early."""
    path = dice.choice(files)
    size = path.stat().st_size
    if not size:
        return None
    length = dice.choice((0, size - 1, dice.randrange(size)))
    os.truncate(path, length)
    return f"{path} cut from {size} to {length} bytes"


def removed(_folder: Path, files: list[Path], dice: Dice, _other: Path) -> str | None:
    """A file is gone."""
    path = dice.choice(files)
    path.unlink()
    return str(path)


def exchanged_files(_folder: Path, files: list[Path], dice: Dice, _other: Path) -> str | None:
    """Two files of one kind have each other's names."""
    one = dice.choice(files)
    others = [path for path in files if path.suffix == one.suffix and path != one]
    if not others:
        return None
    other = dice.choice(others)
    _exchange(one, other)
    return f"{one} and {other}"


def exchanged_folders(_folder: Path, files: list[Path], dice: Dice, _other: Path) -> str | None:
    """Two packs, parts or checkpoints have each other's names."""
    folders = sorted({path.parent for path in files})
    folders = [path for path in folders if path.suffix == ".bp" or path.name.startswith("step-")]
    if len(folders) < 2:
        return None
    one, other = dice.sample(folders, 2)
    if one.name[:5] != other.name[:5] and one.suffix != other.suffix:
        return None
    _exchange(one, other)
    return f"{one} and {other}"


def _exchange(one: Path, other: Path) -> None:
    spare = one.with_name(f"{one.name}.spare")
    one.rename(spare)
    other.rename(one)
    spare.rename(other)


def other_source(folder: Path, files: list[Path], dice: Dice, _other: Path) -> str | None:
    """A file of one source lies where that of another belongs."""
    path = dice.choice(files)
    place = path.relative_to(folder).as_posix()
    mine = next((name for name in SOURCES if name in place), None)
    if mine is None:
        return None
    there = next(name for name in SOURCES if name != mine)
    foreign = folder / place.replace(mine, there)
    if not foreign.is_file():
        # Raw files and parts carry names of their own.
        beside = folder.joinpath(*Path(place.replace(mine, there)).parts[:3])
        fitting = sorted(each for each in beside.rglob(f"*{path.suffix}") if each.is_file())
        if not beside.is_dir() or not fitting:
            return None
        foreign = dice.choice(fitting)
    shutil.copyfile(foreign, path)
    return f"{foreign} over {path}"


def other_run(folder: Path, files: list[Path], dice: Dice, other: Path) -> str | None:
    """A file or pack of a run with another seed lies there, as after half a restored backup."""
    path = dice.choice(files)
    if path.parent.suffix == ".bp" and dice.random() < 0.7:
        path = path.parent
    foreign = other / path.relative_to(folder)
    # A model of another run is a model, and predicts as such.
    if not foreign.exists() or path.name == "model.pt":
        return None
    if path.is_dir():
        shutil.rmtree(path)
        shutil.copytree(foreign, path)
    else:
        shutil.copyfile(foreign, path)
    return f"{path} of another run"


def edited(_folder: Path, files: list[Path], dice: Dice, _other: Path) -> str | None:
    """A value or key of a JSON file is another."""
    fitting = [path for path in files if path.suffix == ".json"]
    if not fitting:
        return None
    path = dice.choice(fitting)
    content = json.loads(path.read_text(encoding="utf-8"))
    places = _places(content)
    if not places:
        return None
    *above, last = dice.choice(places)
    parent = content
    for step in above:
        parent = parent[step]
    told = ".".join(map(str, [*above, last]))
    how = dice.choice(("removed", "renamed", "changed", "replaced"))
    value = parent.pop(last)
    if how == "renamed" and isinstance(parent, dict):
        parent[f"{last}_"] = value
    elif how in ("changed", "renamed"):
        value = _changed(value, dice)
        parent.insert(last, value) if isinstance(parent, list) else parent.update({last: value})
    elif how == "replaced":
        value = dice.choice((None, "text", [], {}, -7, 1e300, True))
        parent.insert(last, value) if isinstance(parent, list) else parent.update({last: value})
    path.write_text(json.dumps(content), encoding="utf-8")
    return f"{path}: {told} {how}, {str(value)[:40]!r}"


def _changed(value: Any, dice: Dice) -> Any:
    """A value of the same type that could as well stand there."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + dice.choice((-1, 1, 10))
    if isinstance(value, float):
        return value * dice.choice((0.5, 1.01, -1.0)) + 0.001
    if isinstance(value, str):
        return value[:-1] if value else "a"
    return value


def _places(content: Any) -> list[tuple[Any, ...]]:
    items: list[tuple[Any, Any]] = []
    if isinstance(content, dict):
        items = list(content.items())
    elif isinstance(content, list):
        items = list(enumerate(content))
    return [
        place
        for key, value in items
        for place in ((key,), *((key, *inner) for inner in _places(value)))
    ]


FAULTS: tuple[Fault, ...] = (
    flipped_bit,
    truncated,
    removed,
    exchanged_files,
    exchanged_folders,
    other_source,
    other_run,
    edited,
)
KILL, FULL_DISK = "kill", "full_disk"


# --- tries ------------------------------------------------------------------------------------


class Try(NamedTuple):
    """One try: what was done before which command, and what came of it."""

    index: int
    fault: str
    command: str
    what: str
    outcome: str
    said: str
    seconds: float

    def __str__(self) -> str:
        """The line of the log."""
        return (
            f"{self.index:6} {self.outcome:12} {self.fault:17} {self.command:10} "
            f"{self.seconds:5.1f} s  {self.what}  |  {self.said}"
        )


class Usual(NamedTuple):
    """How a command ends without a fault, and a digest of each of its products."""

    ended: Ended
    products: dict[str, str]


class Chaos:
    """A finished run, what its commands do without a fault, and tries with one."""

    def __init__(self, folder: Path, *, seed: int, commands: Sequence[Command] = COMMANDS) -> None:
        self.seed = seed
        self._commands = commands
        self._whole, self._other = folder / "whole", folder / "other"
        self._copy = folder / "try"
        # Parsing the code takes longer than most commands, and a fork remembers it.
        for stage in ("download", "extract", "normalize", "pack", "train", "evaluate"):
            code_digest(f"mtlpar.{stage}.stage")
        for source in SOURCES:
            code_digest(f"mtlpar.sources.{source}")
        adapted = any(command in ADAPTING for command in commands)
        for run_seed, place in enumerate((self._whole, self._other)):
            make_run(self._copy, seed=run_seed, adapted=adapted)
            self._copy.rename(place)
        self._usual: dict[str, Usual] = {}
        for command in commands:
            prepare(self._whole, self._copy, command)
            ended = run(self._copy, command.arguments)
            found, before = products(self._copy, command), products(self._whole, command)
            # What is not made twice alike cannot be compared; predictions are made here first.
            if ended.status != 0 or not found or (before and found != before):
                raise RuntimeError(
                    f"{command.name} without a fault: {found}, expected {before}\n{ended.output}"
                )
            self._usual[command.name] = Usual(ended, found)

    def attempt(self, index: int) -> Try:
        """Make one try; its dice depend on the seed and its number alone."""
        dice = random.Random(f"{self.seed}/{index}")
        while True:
            command = dice.choice(self._commands)
            prepare(self._whole, self._copy, command)
            fault = dice.choice((*FAULTS, KILL, FULL_DISK))
            if not callable(fault):
                return self._interrupted(index, fault, command, dice)
            files = _files(self._copy, command.reads)
            what = fault(self._copy, files, dice, self._other)
            if what is not None:
                ended = self._run(command)
                what = what.replace(f"{self._copy}/", "")
                return self._judged(index, fault.__name__, command, what, ended)

    def _run(self, command: Command, **options: Any) -> Ended:
        usual = self._usual[command.name].ended.seconds
        return run(self._copy, command.arguments, patience=_BUSY * usual + HANG_SECONDS, **options)

    def _interrupted(self, index: int, fault: str, command: Command, dice: Dice) -> Try:
        """Disturb the command itself; the next run has to make up for it."""
        if fault == KILL:
            after = dice.uniform(0.0, 1.0) * self._usual[command.name].ended.seconds
            what = f"killed after {after:.2f} s"
            first = self._run(command, kill_after=after)
        else:
            limit = int(10 ** dice.uniform(1.5, 5.5))
            what = f"files of at most {limit} bytes"
            first = self._run(command, limit_bytes=limit)
        if first.status not in (0, _KILLED):
            judged = self._judged(index, fault, command, what, first)
            if judged.outcome != "refused":
                return judged
        judged = self._judged(index, fault, command, what, self._run(command))
        if first.status != 0 and judged.outcome == "harmless":
            return judged._replace(outcome="repaired", said=(first.lines("E") or ["-"])[-1])
        if judged.outcome == "refused":
            # Nothing is damaged, and yet the plain restart does not go on.
            return judged._replace(outcome="DEAD END")
        return judged

    def _judged(self, index: int, fault: str, command: Command, what: str, ended: Ended) -> Try:
        try:
            found = products(self._copy, command) if ended.status == 0 else {}
        except ValueError as error:
            found = {"cannot be read": str(error)}
        outcome, said = judge(ended, found, self._usual[command.name])
        return Try(index, fault, command.name, what, outcome, said, ended.seconds)


def judge(ended: Ended, found: dict[str, str], usual: Usual) -> tuple[str, str]:
    """The outcome of a command that made products with these digests, and its last word."""
    last = (ended.output.strip().splitlines() or [""])[-1]
    if ended.status is None:
        return "HANG", last
    if "Traceback" in ended.output or ended.status < 0:
        return "TRACEBACK", last
    if ended.status != 0:
        is_one_line = len(ended.lines("E")) == 1
        return ("refused", last) if is_one_line else ("TRACEBACK", f"not one line: {last}")
    new = [text for text in ended.lines("W") if text not in usual.ended.lines("W")]
    if found == usual.products:
        return ("repaired" if new else "harmless"), (new or ["-"])[-1]
    different = ", ".join(sorted(dict(found.items() ^ usual.products.items())))
    return ("warned" if new else "SILENT WRONG"), (new or [f"not as usual: {different}"])[-1]


def table(tries: Sequence[Try]) -> str:
    """How often each fault had each outcome."""
    counts = Counter((one.fault, one.outcome) for one in tries)
    lines = [f"{'fault':18}" + "".join(f"{name:>14}" for name in OUTCOMES)]
    for fault in sorted({one.fault for one in tries}):
        cells = "".join(f"{counts[fault, name] or '-':>14}" for name in OUTCOMES)
        lines.append(f"{fault:18}{cells}")
    totals = Counter(one.outcome for one in tries)
    lines.append(f"{'all':18}" + "".join(f"{totals[name] or '-':>14}" for name in OUTCOMES))
    return "\n".join(lines)


def main() -> int:
    """Try for so many seconds, and log each try."""
    parser = argparse.ArgumentParser(description="Seeded faults on a tiny finished run.")
    parser.add_argument("--seconds", type=float, default=600.0, help="how long to try")
    parser.add_argument("--seed", type=int, default=1, help="what the faults are drawn from")
    parser.add_argument("--tries", type=int, default=sys.maxsize, metavar="N", help="at most N")
    parser.add_argument(
        "--stages", action="store_true", help="leave out finetune and distill, which take a minute"
    )
    parser.add_argument("--only", type=int, metavar="N", help="make try number N alone")
    parser.add_argument("--log", type=Path, default=Path("build/chaos.log"), help="a line per try")
    options = parser.parse_args()
    tries: list[Try] = []
    options.log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        commands = COMMANDS if options.stages else (*COMMANDS, *ADAPTING)
        chaos = Chaos(Path(folder), seed=options.seed, commands=commands)
        end = time.monotonic() + options.seconds
        with options.log.open("w", encoding="utf-8") as log:
            for index in [options.only] if options.only is not None else range(options.tries):
                if time.monotonic() > end:
                    break
                tries.append(chaos.attempt(index))
                log.write(f"{tries[-1]}\n")
                log.flush()
                if tries[-1].outcome in FAILURES or options.only is not None:
                    sys.stdout.write(f"{tries[-1]}\n")
    failed = sum(one.outcome in FAILURES for one in tries)
    sys.stdout.write(
        f"{table(tries)}\n"
        f"seed {options.seed}: {len(tries)} tries, {failed} failed; log: {options.log}\n"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
