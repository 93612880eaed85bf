"""One command from a model file to a small conservative model of one of its branches."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.io import read, write
from helpers import make_structures, write_extracted
from warm import warm_python

from mtlpar.cli import main
from mtlpar.core.files import file_digest
from mtlpar.core.paths import Workspace
from mtlpar.core.references import References
from mtlpar.finetune import dynamics
from mtlpar.finetune.student import find_others, smaller
from mtlpar.finetune.teacher import Teacher, write_labels
from mtlpar.model.file import load_model, save_model
from mtlpar.model.multitask import MultiTaskModel
from mtlpar.model.settings import EgnnSettings, HeadSettings, ModelSettings
from mtlpar.normalize import stage as normalize
from mtlpar.normalize.settings import NormalizeSettings
from mtlpar.pack import stage as pack
from mtlpar.pack.settings import PackSettings
from mtlpar.plan import census
from mtlpar.store.export import iterate_atoms
from mtlpar.store.pack import Pack

SHORT = ["--set", "train.epochs=2"]
# No multiple of the number of trajectories, each of which would take one too many.
OPTIONS = ("--structures", "mine.extxyz", "--dynamics", "23")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with structures without labels, one of which no source of the model knows."""
    _write_structures(tmp_path)
    _work_in(tmp_path, monkeypatch)
    return tmp_path


def _work_in(folder: Path, patch: pytest.MonkeyPatch) -> None:
    # Dynamics take few steps.
    patch.setattr(dynamics, "STEPS_BETWEEN_FRAMES", 5)
    patch.chdir(folder)


def _write_structures(folder: Path) -> None:
    batch = make_structures(30, seed=7)
    frames = [
        Atoms(batch.atomic_numbers[atoms], batch.positions[atoms])
        for atoms in map(slice, batch.offsets[:-1], batch.offsets[1:])
    ]
    frames[4].numbers[0] = 79
    write(folder / "mine.extxyz", frames)


@pytest.fixture(scope="module")
def distilled(start: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Such a folder after the command ran once; what it printed is in `shown`."""
    folder = tmp_path_factory.mktemp("distilled")
    _write_structures(folder)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as shown:
        _work_in(folder, patch)
        assert distill(start, *OPTIONS) == 0
    (folder / "shown").write_text(shown.getvalue())
    return folder


@pytest.fixture(scope="module")
def without_dynamics(start: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the command ran once, on what the teacher's sources hold alone."""
    folder = tmp_path_factory.mktemp("without_dynamics")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert distill(start, "--dynamics", "0") == 0
    return folder


def distill(start: Workspace, *options: str) -> int:
    arguments = [str(start.model("mtl")), "--source", "qm7x", "--out", "student.pt"]
    packs = ["--packs", str(start.results / "packed")]
    return main(["distill", *arguments, *packs, *SHORT, *options])


def ledger(source: str) -> Any:
    return json.loads(Path(f"student/results/ledger/{source}.json").read_text())


def packed(folder: Path, source: str, split: str) -> list[Atoms]:
    with Pack.open(folder / source / f"{split}.bp") as found:
        return list(iterate_atoms(found.first(1000), found.header))


def places(frames: list[Atoms]) -> set[bytes]:
    return {np.round(frame.positions, 4).tobytes() for frame in frames}


def test_one_command_ends_with_a_small_conservative_model_of_one_branch(
    start: Workspace, distilled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _work_in(distilled, monkeypatch)
    shown = Path("shown").read_text()
    assert "mean absolute errors on test           teacher   student   ratio" in shown
    student, teacher = load_model("student.pt"), load_model(start.model("mtl"))
    taught = [f"qm7x_{kind}" for kind in ("taught", "others", "given", "dynamics")]
    assert student.branches == {"qm7x": ("qm7x", *taught)}
    assert student.network.is_conservative
    assert student.settings.encoder.width < teacher.settings.encoder.width
    # What it was taught says by whom; its own level is that of the true labels.
    digest = file_digest(start.model("mtl"))[:12]
    assert student.level_of_theory["qm7x"] == teacher.level_of_theory["qm7x"]
    for source in taught:
        assert student.level_of_theory[source].endswith(f"as mtl predicts it (sha256 {digest})")
        # A branch with two zeros of energy could not answer.
        assert student.references[source] == student.references["qm7x"]
    # The teacher knows its uncertainty, and so its labels have weights.
    with Pack.open(Path("student/results/packed/qm7x_dynamics/train.bp")) as taught_pack:
        weights = taught_pack.first(1000).energy_weight
    assert np.all(weights > 0)
    assert np.any(weights < 1)
    # Each kind has books of its own: the one structure that the teacher refused is in them.
    assert ledger("qm7x_given")["rows"] == 30
    assert ledger("qm7x_given")["dropped"] == {"not_selected": 1}
    assert ledger("qm7x_dynamics")["rows"] == 23
    record = next(Path("student/labels").glob("dynamics-*.json"))
    assert json.loads(record.read_text())["content"]["teacher"] == file_digest(start.model("mtl"))


def test_the_teacher_labels_what_it_was_trained_on_and_nothing_it_is_tested_on_is_learned(
    start: Workspace, without_dynamics: Path
) -> None:
    ours, theirs = without_dynamics / "student/results/packed", start.results / "packed"
    for split in ("train", "val", "test"):
        taught, true = packed(ours, "qm7x_taught", split), packed(theirs, "qm7x", split)
        assert places(taught) == places(true)
        predicted = load_model(start.model("mtl")).predict(taught, source="qm7x")
        # Packs hold float32.
        energies = [atoms.get_potential_energy() for atoms in taught]
        np.testing.assert_allclose(energies, [one.energy for one in predicted], rtol=1e-6)
        forces = np.concatenate([atoms.get_forces() for atoms in taught])
        expected = np.concatenate([one.forces for one in predicted])
        np.testing.assert_allclose(forces, expected, atol=1e-5)


def test_structures_of_other_sources_that_are_alike_are_taught_at_the_level_of_the_student(
    start: Workspace, without_dynamics: Path
) -> None:
    ours, theirs = without_dynamics / "student/results/packed", start.results / "packed"
    for split in ("train", "val", "test"):
        taught = packed(ours, "qm7x_others", split)
        known = [places(packed(theirs, source, split)) for source in ("ani1x", "mptrj")]
        # In the splits that they have there: nothing of a test set is trained on.
        assert places(taught) == set.union(*known)
        predicted = load_model(start.model("mtl")).predict(taught, source="qm7x")
        energies = [atoms.get_potential_energy() for atoms in taught]
        np.testing.assert_allclose(energies, [one.energy for one in predicted], rtol=1e-6)


def test_others_are_of_known_elements_and_repeat_as_the_source_does(tmp_path: Path) -> None:
    crystals = make_structures(30, seed=2)
    crystals.pbc[:] = 1
    crystals.cell[:] = 9 * np.eye(3)
    gold = make_structures(30, seed=3)
    gold.atomic_numbers[:] = 79
    batches = {
        "own": make_structures(30, seed=4),
        "molecules": make_structures(40, seed=1),
        "crystals": crystals,
        "gold": gold,
    }
    workspace = Workspace(raw=tmp_path / "raw", results=tmp_path)
    splits = NormalizeSettings(val_fraction=0.15, test_fraction=0.15)
    for source, batch in batches.items():
        write_extracted(workspace, source, batch)
        normalize.run(source, workspace=workspace, settings=splits, seed=0)
        pack.run(source, workspace=workspace, settings=PackSettings(), seed=0)
    path = conservative(tmp_path / "big.pt", seed=0, sources=tuple(batches))
    own, others = (
        len(packed(tmp_path / "packed", source, "train")) for source in ("own", "molecules")
    )
    found = find_others(Teacher.load(path, "own"), tmp_path / "packed")
    # Together they are as many in an epoch as the student's own.
    assert found == (("molecules",), own / others)
    assert find_others(Teacher.load(path, "crystals"), tmp_path / "packed") is None
    assert find_others(Teacher.load(path, "own"), tmp_path / "nowhere") is None


def test_labels_that_the_teacher_is_unsure_of_count_less(start: Workspace, here: Path) -> None:
    teacher = Teacher.load(start.model("mtl"), "qm7x")
    inputs = {"all": [here / "mine.extxyz"]}
    labels = write_labels(teacher, inputs, here, "given", origin={})
    frames = read(labels.files["all"], index=":")
    assert isinstance(frames, list)
    known = [atoms for atoms in frames if "refused" not in atoms.info]
    assert len(known) == 29
    assert "weight" not in frames[4].info
    found = teacher.model.predict(known, source="qm7x", uncertainty=True)
    sigma = np.array([one.energy_uncertainty / len(one.forces) for one in found])
    # As much as any up to the median, by the inverse of the variance beyond.
    expected = np.minimum(1, (np.median(sigma) / sigma) ** 2)
    weights = [atoms.info["weight"] for atoms in known]
    np.testing.assert_allclose(weights, expected, rtol=1e-3)
    assert 0 < min(weights) < 0.9
    # Others are measured by the same: all of them may be unusual.
    strict = write_labels(
        teacher, inputs, here, "met", origin={}, usual_ev_per_atom=float(sigma.min())
    )
    again = read(strict.files["all"], index=":")
    weights = [atoms.info["weight"] for atoms in again if "weight" in atoms.info]
    np.testing.assert_allclose(weights, (sigma.min() / sigma) ** 2, rtol=1e-3)


@pytest.mark.parametrize("damage", ["edited", "exchanged", "record", "record of another shape"])
def test_labels_are_not_believed_for_where_they_lie(
    damage: str, start: Workspace, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Nobody compares a student's labels with its teacher again: an edited energy would be learned.
    teacher = Teacher.load(start.model("mtl"), "qm7x")
    inputs = {"train": [here / "mine.extxyz"], "val": [here / "more.extxyz"]}
    frames = read(here / "mine.extxyz", index=":3")
    write(here / "more.extxyz", frames)
    files = write_labels(teacher, inputs, here, "given", origin={}).files
    expected = {split: path.read_bytes() for split, path in files.items()}
    (record,) = here.glob("given-*.json")
    if damage == "edited":
        files["train"].write_bytes(expected["train"].replace(b"energy=-", b"energy=-1", 1))
    elif damage == "exchanged":
        files["train"].write_bytes(expected["val"])
        files["val"].write_bytes(expected["train"])
    elif damage == "record":
        record.write_text(record.read_text().replace('"usual_ev_per_atom": ', '"usual_ev": '))
    else:
        record.write_text('["usual_ev_per_atom"]')
    capsys.readouterr()
    again = write_labels(teacher, inputs, here, "given", origin={})
    assert {split: path.read_bytes() for split, path in again.files.items()} == expected


def test_the_same_command_again_has_nothing_to_do(
    start: Workspace, distilled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _work_in(distilled, monkeypatch)
    files = [path for part in ("labels", "results") for path in Path("student", part).rglob("*")]
    # Whether files of labels are still the same is looked at anew.
    files = [path for path in files if "download" not in path.parts and path.is_file()]
    times = [path.stat().st_mtime_ns for path in files]
    assert distill(start, *OPTIONS) == 0
    assert [path.stat().st_mtime_ns for path in files] == times


def conservative(path: Path, seed: int, sources: Sequence[str] = ("a",)) -> Path:
    """A model of random weights that predicts stresses, with a branch for each source."""
    settings = ModelSettings(
        encoder=EgnnSettings(width=12, layers=2, vector_channels=3, radial_basis=6),
        head=HeadSettings(width=12, layers=1, forces="conservative"),
    )
    save_model(
        path,
        state=MultiTaskModel(settings, sources, seed=seed).state_dict(),
        settings=settings,
        branches={source: (source,) for source in sources},
        references=dict.fromkeys(sources, References({"H": -13.6, "C": -1029.4, "O": -2041.8})),
        level_of_theory=dict.fromkeys(sources, "made up"),
        training={"model": "big"},
    )
    return path


@pytest.mark.parametrize("periodic", [False, True])
def test_a_model_without_its_packs_teaches_structures_and_stresses_of_those_that_have_one(
    here: Path, periodic: bool
) -> None:
    frames = read(here / "mine.extxyz", index=":")
    assert isinstance(frames, list)
    for frame in frames:
        frame.set_cell(np.eye(3) * 9.0)
        frame.pbc = periodic
    write(here / "given.extxyz", frames)
    teacher = conservative(here / "big.pt", seed=0)
    options = ["--structures", "given.extxyz", "--dynamics", "0", *SHORT]
    assert main(["distill", str(teacher), "--out", "student.pt", *options]) == 0
    assert load_model("student.pt").sources == ("a_given",)
    taught = packed(Path("student/results/packed"), "a_given", "train")
    for atoms, one in zip(taught, load_model(teacher).predict(taught), strict=True):
        assert atoms.calc is not None
        assert ("stress" in atoms.calc.results) == periodic
        if periodic:
            # Six numbers of their own sizes and signs: another order would be seen.
            np.testing.assert_allclose(atoms.get_stress(), one.stress, rtol=1e-3, atol=1e-9)


def test_labels_of_another_teacher_are_other_files(here: Path) -> None:
    # Otherwise a student would go on with labels of the model that was there before.
    found = []
    for seed in (0, 1, 0):
        teacher = Teacher.load(conservative(here / "big.pt", seed=seed), None)
        labels = write_labels(teacher, {"all": [here / "mine.extxyz"]}, here, "given", origin={})
        found.append(labels.files["all"])
    assert found[0] == found[2] != found[1]
    assert found[0].read_text() != found[1].read_text()


def test_structures_that_the_teacher_refuses_one_and_all_are_refused_for_its_reason(
    here: Path,
) -> None:
    # Extract found frames without labels, and would advise on keys that the user has not chosen.
    teacher = Teacher.load(conservative(here / "big.pt", seed=0), None)
    write(here / "gold.extxyz", [Atoms("Au")])
    with pytest.raises(
        ValueError, match=r"gold.extxyz: .*big.pt as a predicts none .*: element never seen \(1\)"
    ):
        write_labels(teacher, {"all": [here / "gold.extxyz"]}, here, "given", origin={})


class Exploding(Calculator):  # type: ignore[misc]
    """Forces away from the origin that grow without end, from a moment on."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 - as in ASE

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after, self.calls = after, 0

    def calculate(
        self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        strength = 50.0 if self.calls > self.after else 0.0
        self.results = {"energy": 0.0, "forces": strength * atoms.positions}


def test_a_trajectory_that_heats_up_ends_before_and_keeps_what_it_met(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    atoms = Atoms("H2O", [[1.0, 0, 0], [0, 1, 0], [0, 0, 0.5]], info={"charge": 1})
    rng = np.random.default_rng(0)
    met = list(dynamics._trajectory(atoms, Exploding(after=250), 5, 300.0, rng))
    # 100 steps between two structures: two lie before step 250.
    assert len(met) == 2
    assert [frame.info["charge"] for frame in met] == [1, 1]
    assert all(np.isfinite(frame.positions).all() for frame in met)
    assert not np.allclose(met[0].positions, met[1].positions)


# The quickstart's model has four layers.
@pytest.mark.parametrize("layers", [2, 4])
def test_a_student_takes_a_quarter_of_the_work_of_its_teacher(
    layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = EgnnSettings(layers=layers)
    teacher = ModelSettings(encoder=encoder, head=HeadSettings(forces="conservative"))
    student = ModelSettings.model_validate(smaller(teacher))
    # All products, also those that are bound by memory.
    monkeypatch.setattr(census, "_COMPUTE_BOUND_FLOP_PER_BYTE", 0.0)
    # One structure of 125 atoms, with two blocks of edges: what more of them take is linear.
    (batch, ours), (same, theirs) = (
        census._DummyModel(one).count(1, 1, 125, 2) for one in (student, teacher)
    )
    assert batch == same
    assert 0 < ours.flops <= 0.25 * theirs.flops
    assert ours.memory_bytes <= 0.25 * theirs.memory_bytes


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--packs", "nowhere"], "nowhere has no packs of qm7x, and no structures are given"),
        (["--source", "oc20"], "no source is called 'oc20'"),
        (["--out", "student"], "--out student: expected a name that ends in .pt"),
        (["--dynamics", "-1"], "--dynamics -1: expected a number of structures, from 10,"),
        (["--dynamics", "9"], "so that each split has some, to 1,000,000, or 0 for none"),
        (["--dynamics", "10000000000"], "--dynamics 10000000000: expected a number of structures"),
        (["--temperature", "1e9"], "--temperature 1000000000.0: expected a number from 1 to"),
        (["--structures", "-"], "--structures -: standard input can be read only once"),
        (["--structures", "empty.xyz"], "empty.xyz: no structures; expected some to teach"),
        (["--out", "folder.pt"], "--out folder.pt is a folder; name a file"),
        (["--structures", "none.xyz"], "none.xyz does not exist"),
        (["--set", "train.epoch=3"], "train.epoch: unknown key; did you mean 'epochs'?"),
        (["--set", "models.student=null"], "decides about models.student.branches; name packs"),
        (["--set", "paths.results=/scratch"], "decides about paths.results; name the model with"),
    ],
)
def test_mistakes_are_told_before_anything_is_labelled(
    start: Workspace,
    here: Path,
    options: list[str],
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("empty.xyz").touch()
    Path("folder.pt").mkdir()
    if options[0] == "--structures":
        options = ["--packs", "nowhere", *options]
    assert distill(start, *options) == 1
    assert told in capsys.readouterr().err
    assert not list(here.glob("student/labels/*.json"))


def test_packs_of_other_data_than_the_teacher_learned_are_refused(
    start: Workspace, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = here / "packed/qm7x"
    other.parent.mkdir()
    other.symlink_to(start.results / "packed/mptrj")
    assert distill(start, "--packs", "packed") == 1
    assert "holds other data of qm7x than the model learned" in capsys.readouterr().err


def test_a_model_that_is_there_is_not_written_over(
    start: Workspace, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conservative(here / "months_of_work.pt", seed=0)
    before = file_digest(here / "months_of_work.pt")
    assert distill(start, "--out", "months_of_work.pt") == 1
    assert "a model is there that mtlpar distill did not write" in capsys.readouterr().err
    assert file_digest(here / "months_of_work.pt") == before


@pytest.mark.mpi
def test_of_several_ranks_the_first_alone_labels_and_prints(start: Workspace, here: Path) -> None:
    # Langevin dynamics of ASE, too, which wherever there is MPI broadcast their random numbers.
    options = ["--structures", "mine.extxyz", "--dynamics", "10"]
    arguments = [str(start.model("mtl")), "--source", "qm7x", "--out", "student.pt"]
    launch = [sys.executable, "-m", "mtlpar", "launch", "--ranks-per-node", "2", "--"]
    line = [*launch, *warm_python(), "-m", "mtlpar", "distill", *arguments, *SHORT, *options]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("mean absolute errors on test") == 1
    assert "rank 1/2" not in done.stderr
    assert load_model("student.pt").branches == {"qm7x": ("qm7x_given", "qm7x_dynamics")}
