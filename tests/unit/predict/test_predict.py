"""Every row of the input has a frame in the output: predicted, or refused with the reason."""

from __future__ import annotations

import gzip
import io
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from helpers import make_structures
from networks import make_network, make_uncertainty
from warm import warm_python

from mtlpar.calculator import Calculator, UnseenPairsWarning
from mtlpar.cli import main
from mtlpar.core.references import References
from mtlpar.core.structures import StructureBatch
from mtlpar.model import saved
from mtlpar.model.describe import describe_model
from mtlpar.model.file import load_model, save_model
from mtlpar.model.saved import SavedModel
from mtlpar.predict import stage
from mtlpar.predict.rows import Row
from mtlpar.store.bp import write_bp

ELEMENTS = {"H": -13.6, "C": -1029.0, "O": -2041.0, "Cu": -1300.0}
COPPER = 29


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conservative model with random weights and two levels of theory."""
    path = tmp_path_factory.mktemp("model") / "model.pt"
    network = make_network(forces="conservative")
    save_model(
        path,
        state=network.state_dict(),
        settings=network.settings,
        branches={"a": ("a",), "b": ("b",)},
        references={"a": References(ELEMENTS), "b": References({"H": -1.0})},
        level_of_theory={"a": "PBE", "b": "CCSD(T)"},
        training={"without_energies": ["b"]},
        uncertainty={"a": make_uncertainty(network, "a", alone=(COPPER,))},
    )
    return path


def structures() -> list[Atoms]:
    """Molecules, a slab, a crystal and single atoms, in a mixed order."""
    rng = np.random.default_rng(3)
    slab = bulk("Cu", cubic=True) * (2, 1, 1)
    slab.pbc = (True, True, False)
    kinds = [
        molecule("H2O"),
        bulk("Cu", cubic=True),
        molecule("CH3OH"),
        slab,
        Atoms("H"),
        molecule("H2"),
    ]
    found = []
    for index in range(30):
        atoms = kinds[index % len(kinds)].copy()
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
        found.append(atoms)
    return found


def predict(model_file: Path, out: Path, *inputs: Path, options: Sequence[str] = ()) -> list[Atoms]:
    command = ["predict", str(model_file), *map(str, inputs), "--source", "a", "--out", str(out)]
    assert main([*command, *options]) == 0
    return read(out)


def read(path: Path) -> list[Atoms]:
    return list(ase.io.read(path, ":", format="extxyz"))


def test_a_file_is_predicted_as_by_the_calculator(model_file: Path, tmp_path: Path) -> None:
    ase.io.write(tmp_path / "in.extxyz", structures())
    found = predict(model_file, tmp_path / "out.extxyz", tmp_path / "in.extxyz")
    given = read(tmp_path / "in.extxyz")
    assert len(found) == len(given)
    calculator = Calculator(model_file, source="a")
    for atoms, got in zip(given, found, strict=True):
        atoms.calc = calculator
        assert got.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
        np.testing.assert_allclose(got.get_forces(), atoms.get_forces(), atol=2e-6)
        energies = (
            got.arrays["energies"] if "energies" in got.arrays else got.calc.results["energies"]
        )
        assert np.sum(energies) == pytest.approx(got.get_potential_energy(), rel=1e-9)
        # A slab has one too, per volume of its cell; a molecule has none.
        assert ("stress" in got.calc.results) == bool(atoms.pbc.any())
        if atoms.pbc.any():
            np.testing.assert_allclose(got.get_stress(), atoms.get_stress(), atol=1e-6)
        np.testing.assert_array_equal(got.positions, atoms.positions)
        np.testing.assert_allclose(got.cell.array, atoms.cell.array)


def test_rows_with_elements_that_training_never_had_together_are_marked_and_counted(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Branch a was trained on H, C and O together, and on copper.
    oxide = bulk("CuO", "rocksalt", a=4.2)
    rows = [molecule("H2O"), oxide, Atoms("CuHO", [[0, 0, 0], [0, 0, 2], [0, 1, 3]]), bulk("Cu")]
    ase.io.write(tmp_path / "in.extxyz", rows)
    found = predict(model_file, tmp_path / "out.extxyz", tmp_path / "in.extxyz")
    marks = [atoms.info.get("unseen_pairs") for atoms in found]
    assert marks == [None, "O-Cu", "H-Cu O-Cu", None]
    told = "2 rows with elements that no training structure has, or has together, such as O-Cu (2)"
    assert told in capsys.readouterr().err
    calculator = Calculator(model_file, source="a")
    with pytest.warns(UnseenPairsWarning, match="no training structure of a has O-Cu "):
        calculator.get_potential_energy(oxide)
    # Once for each pair; what is seen has no warning, which would be an error here.
    calculator.get_potential_energy(bulk("CuO", "rocksalt", a=4.3))
    calculator.get_potential_energy(rows[0])


def test_a_description_tells_elements_that_a_branch_has_by_reference_alone(
    model_file: Path,
) -> None:
    # A branch that starts from another one keeps its references, which are at the other level of
    # theory.
    model = load_model(model_file)
    model.uncertainty["a"].sources["a"].together[COPPER, COPPER] = False
    text = describe_model(model)
    assert "elements         H C O; by reference alone Cu, which none of its " in text
    assert "elements         H\n" in text


def test_energies_that_no_label_taught_are_told(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A branch tuned on forces answers with the references of its start, at another level.
    ase.io.write(tmp_path / "in.xyz", [molecule("H2")], format="extxyz")
    line = ["predict", str(model_file), str(tmp_path / "in.xyz"), "--out", str(tmp_path / "o.xyz")]
    told = "b: no training structure has an energy, so only differences at one composition are"
    for source, is_told in (("a", False), ("b", True)):
        assert main([*line, "--source", source]) == 0
        assert (told in capsys.readouterr().err) == is_told
    assert told in describe_model(load_model(model_file))


def test_uncertainty_and_descriptors_are_written_where_they_are_asked_for(
    model_file: Path, tmp_path: Path
) -> None:
    ase.io.write(tmp_path / "in.extxyz", structures())
    plain = predict(model_file, tmp_path / "out.extxyz", tmp_path / "in.extxyz")
    assert not {"energy_uncertainty", "descriptors"} & {*plain[0].info}
    options = ["--uncertainty", "--descriptors"]
    found = predict(model_file, tmp_path / "out.extxyz", tmp_path / "in.extxyz", options=options)
    calculator = Calculator(model_file, source="a")
    for atoms, got in zip(read(tmp_path / "in.extxyz"), found, strict=True):
        expected = calculator.get_property("energy_uncertainty", atoms)
        assert got.info["energy_uncertainty"] == pytest.approx(expected, rel=1e-4)
        assert got.info["descriptors"].shape == (16,)
    # The same molecules, each moved a little: alike, and unlike other molecules.
    water, again, crystal = (found[index].info["descriptors"] for index in (0, 6, 1))
    assert np.abs(water - again).max() < 0.5 * np.abs(water - crystal).max()


def test_a_source_is_chosen_for_each_row(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The spread of the made-up model is wide enough for all but atoms on one another.
    same, alien = Atoms("H2", np.zeros((2, 3))), Atoms("U")
    ase.io.write(tmp_path / "in.extxyz", [*structures()[:6], same, alien])
    out, given = tmp_path / "out.extxyz", str(tmp_path / "in.extxyz")
    assert main(["predict", str(model_file), given, "--source", "auto", "--out", str(out)]) == 0
    found = read(out)
    assert len(found) == 8
    named = predict(model_file, tmp_path / "named.extxyz", tmp_path / "in.extxyz")
    for atoms, one in zip(found[:6], named, strict=False):
        assert atoms.info["source"] == "a"
        assert atoms.info["chosen"].startswith("the only source that knows its elements")
        # Without the row that fails the others are predicted in other batches.
        assert atoms.get_potential_energy() == pytest.approx(one.get_potential_energy(), abs=1e-6)
    assert "not finite" in found[6].info["refused"]
    assert found[7].info["refused"] == "fits no source: element never seen: U with a"
    told = capsys.readouterr().err
    assert "chosen: a 6" in told
    assert "1 refused: fits no source" in told


def test_an_uncertainty_that_is_not_known_is_refused_before_anything_is_predicted(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ase.io.write(tmp_path / "in.extxyz", [molecule("H2")])
    arguments = ["predict", str(model_file), str(tmp_path / "in.extxyz"), "--source", "b"]
    assert main([*arguments, "--uncertainty", "--out", str(tmp_path / "out.extxyz")]) == 1
    assert "--uncertainty: how far off energies of b may be is not known" in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))


def as_pack(path: Path) -> None:
    batch: StructureBatch = make_structures(12, seed=5)
    write_bp(
        path, [batch], num_structures=12, num_atoms=batch.total_atoms, attributes={"source": "x"}
    )


def test_formats_and_folders_are_read_in_order(model_file: Path, tmp_path: Path) -> None:
    given = structures()
    folder = tmp_path / "in"
    folder.mkdir()
    ase.io.write(folder / "a.xyz", given[:5], format="extxyz")
    ase.io.write(folder / "b.traj", given[5:9])
    with ase.db.connect(folder / "c.db") as database:
        for atoms in given[9:14]:
            database.write(atoms)
    as_pack(folder / "d.bp")
    (folder / "notes.txt").write_text("not a structure")
    found = predict(model_file, tmp_path / "out.xyz", folder)
    rows = [atoms.info["row"].removeprefix(f"{folder}/") for atoms in found]
    assert rows[0] == "a.xyz frame 0"
    assert rows[5] == "b.traj image 0"
    assert rows[9] == "c.db row 1"
    assert rows[14] == "d.bp structure 0"
    assert len(rows) == 26
    # Labels that the input has are no predictions.
    assert "refused" not in found[14].info
    for atoms, got in zip(given[:14], found, strict=False):
        np.testing.assert_allclose(got.positions, atoms.positions, atol=1e-8)


def test_what_only_has_the_name_of_a_database_is_left_out_of_a_folder_and_said(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Settings and notes of other programs beside structures; an empty database is one.
    folder = tmp_path / "in"
    (folder / "run").mkdir(parents=True)
    ase.io.write(folder / "a.xyz", structures()[:2], format="extxyz")
    ase.io.write(folder / "rows.json", structures()[2:5], format="json")
    (folder / "none.json").write_text('{"ids": [],\n"nextid": 1}\n')
    for name, text in (("settings", '{"encut": 520}'), ("run/list", "[1, 2]"), ("empty", "")):
        (folder / f"{name}.json").write_text(text)
    with closing(sqlite3.connect(folder / "notes.db")) as database:
        database.execute("CREATE TABLE notes (text)")
        database.commit()
    found = predict(model_file, tmp_path / "out.xyz", folder)
    rows = [atoms.info["row"].removeprefix(f"{folder}/") for atoms in found]
    assert rows == [f"a.xyz frame {i}" for i in range(2)] + [
        f"rows.json row {i}" for i in range(1, 4)
    ]
    told = "left out, for they hold no structures: empty.json, notes.db, run/list.json, settings"
    assert told in capsys.readouterr().err
    # By its own name it is refused.
    line = ["predict", str(model_file), str(folder / "settings.json"), "--source", "a"]
    assert main([*line, "--out", str(tmp_path / "other.xyz")]) == 1
    assert "settings.json is not an ASE database" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.parts"))


def test_a_row_that_cannot_be_predicted_says_why_and_costs_no_other(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    water = molecule("H2O")
    charged = water.copy()
    charged.info["charge"] = 1
    half = water.copy()
    half.info["charge"] = 0.3
    nowhere = water.copy()
    nowhere.positions[0] = np.nan
    same = Atoms("H2", np.zeros((2, 3)))
    given = [water, molecule("NH3"), water, charged, half, nowhere, same, water]
    ase.io.write(tmp_path / "in.extxyz", given)
    found = predict(model_file, tmp_path / "out.extxyz", tmp_path / "in.extxyz")
    reasons = [atoms.info.get("refused") for atoms in found]
    assert [reason is None for reason in reasons] == [
        True,
        False,
        True,
        False,
        False,
        False,
        False,
        True,
    ]
    assert reasons[1] == "element never seen: N with a"
    assert "does not know about charge and spin" in reasons[3]
    assert "expected an integer" in reasons[4]
    assert "not finite" in reasons[5]
    # Not "structure 0": a row knows its own number, and reasons are counted.
    assert reasons[6].startswith("the energy is not finite: two of its atoms coincide")
    assert all(atoms.calc is None for atoms, reason in zip(found, reasons, strict=True) if reason)
    # What was refused is there as it was given, to be mended.
    for atoms, got in zip(given, found, strict=True):
        np.testing.assert_array_equal(got.numbers, atoms.numbers)
        np.testing.assert_allclose(got.positions, atoms.positions, atol=1e-8)
    told = capsys.readouterr().err
    assert "8 rows, 3 predicted" in told
    assert "1 refused: element never seen" in told


def test_damaged_files_cost_neither_the_rows_before_the_damage_nor_other_files(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    water = io.StringIO()
    ase.io.write(water, [molecule("H2O")] * 3, format="extxyz")
    # Cut in its last frame; in an archive whose checksum is behind all rows; text of something
    # else under the name of a database; a pack without its data; and one that is sound.
    (folder / "a.xyz").write_text(water.getvalue()[:-80])
    (folder / "b.xyz.gz").write_bytes(gzip.compress(water.getvalue().encode())[:-6])
    (folder / "c.json.gz").write_bytes(gzip.compress(b'{"encut": 520}'))
    as_pack(folder / "d.bp")
    (folder / "d.bp" / "data.0").unlink()
    (folder / "e.xyz").write_text(water.getvalue())
    found = predict(model_file, tmp_path / "out.xyz", folder)
    rows = [
        (atoms.info["row"].removeprefix(f"{folder}/"), "refused" in atoms.info) for atoms in found
    ]
    assert rows == [
        ("a.xyz frame 0", False),
        ("a.xyz frame 1", False),
        ("a.xyz after frame 1", True),
        ("b.xyz.gz frame 0", False),
        ("b.xyz.gz frame 1", False),
        ("b.xyz.gz frame 2", False),
        ("b.xyz.gz after frame 2", True),
        ("c.json.gz", True),
        ("d.bp", True),
        *[(f"e.xyz frame {row}", False) for row in range(3)],
    ]
    assert found[2].info["refused"].startswith(f"unreadable: {folder}/a.xyz is damaged or cut off")
    told = capsys.readouterr().err
    assert "12 rows, 8 predicted" in told
    assert "4 refused: unreadable" in told
    assert f"{folder}/c.json.gz is refused: " in told


def test_many_refused_rows_leave_the_others_in_one_batch(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Halved until none of them is refused, rows would be predicted one by one.
    ase.io.write(tmp_path / "in.extxyz", [molecule("H2O"), molecule("NH3")] * 4)
    sizes = []

    def predict_batches(network: object, structures: StructureBatch, **options: object) -> object:
        sizes.append(len(structures))
        return original(network, structures, **options)

    original = saved.predict_batches
    monkeypatch.setattr(saved, "predict_batches", predict_batches)
    found = predict(model_file, tmp_path / "out.extxyz", tmp_path / "in.extxyz")
    assert sum("refused" in atoms.info for atoms in found) == 4
    assert sizes == [4]


@pytest.mark.parametrize("name", ['a "b" =c', "it's {1, 2}", "back\\slash", "two\nlines"])
def test_whatever_a_file_is_called_its_frames_can_be_read_back(
    model_file: Path, tmp_path: Path, name: str
) -> None:
    path = tmp_path / f"{name}.extxyz"
    charged = molecule("H2O")
    charged.info["charge"] = "one or two"
    ase.io.write(path, [molecule("H2O"), charged, molecule("NH3")], format="extxyz")
    found = predict(model_file, tmp_path / "out.extxyz", path)
    told = str(path).replace('"', "'").replace("\n", " ")
    assert [atoms.info["row"] for atoms in found] == [f"{told} frame {row}" for row in range(3)]
    assert found[1].info["charge"] == "one or two"
    assert found[0].get_forces().shape == (3, 3)


def test_standard_input_is_read(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = io.StringIO()
    ase.io.write(text, structures()[:3], format="extxyz")
    stream = io.TextIOWrapper(io.BytesIO(text.getvalue().encode()))
    monkeypatch.setattr(sys, "stdin", stream)
    found = predict(model_file, tmp_path / "out.extxyz", Path("-"))
    assert [atoms.info["row"] for atoms in found] == ["- frame 0", "- frame 1", "- frame 2"]


def test_an_interrupted_run_goes_on_and_ends_in_the_same_bytes(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "CHUNK_ROWS", 7)
    ase.io.write(tmp_path / "in.extxyz", structures())
    predict(model_file, tmp_path / "straight.extxyz", tmp_path / "in.extxyz")
    chunks: list[Sequence[Row]] = []
    whole = stage._predict_chunk

    def counted(model: SavedModel, rows: Sequence[Row], **options: Any) -> str:
        chunks.append(rows)
        return whole(model, rows, **options)

    def stops(model: SavedModel, rows: Sequence[Row], **options: Any) -> str:
        if rows[0].name.endswith((" 14", " 21", " 28")):
            raise KeyboardInterrupt
        return counted(model, rows, **options)

    arguments = ["predict", str(model_file), str(tmp_path / "in.extxyz"), "--source", "a"]
    arguments += ["--out", str(tmp_path / "out.extxyz")]
    with monkeypatch.context() as patch:
        patch.setattr(stage, "_predict_chunk", stops)
        assert main(arguments) == 130
    assert not (tmp_path / "out.extxyz").exists()
    # What is there already is not predicted again.
    chunks.clear()
    with monkeypatch.context() as patch:
        patch.setattr(stage, "_predict_chunk", counted)
        assert main(arguments) == 0
    assert len(chunks) == 3
    assert (tmp_path / "out.extxyz").read_bytes() == (tmp_path / "straight.extxyz").read_bytes()
    assert not (tmp_path / "out.extxyz.parts").exists()


def test_what_is_left_of_a_run_with_another_source_is_not_taken(
    model_file: Path, tmp_path: Path
) -> None:
    ase.io.write(tmp_path / "in.extxyz", [molecule("H2"), molecule("H2")])
    out = tmp_path / "out.extxyz"
    predict(model_file, out, tmp_path / "in.extxyz")
    one = out.read_bytes()
    parts = tmp_path / "out.extxyz.parts"
    parts.mkdir()
    (parts / "00000000.extxyz").write_bytes(b"of another run")
    (parts / "run.json").write_text('{"identity": "another"}')
    predict(model_file, out, tmp_path / "in.extxyz")
    assert out.read_bytes() == one


@pytest.mark.parametrize("name", ["in.extxyz", "link.extxyz", "../run/in.extxyz"])
def test_a_file_that_is_read_is_not_written_over(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    given = folder / "in.extxyz"
    ase.io.write(given, structures())
    (folder / "link.extxyz").symlink_to(given)
    before = given.read_bytes()
    arguments = ["predict", str(model_file), str(folder / name), "--source", "a", "--out"]
    assert main([*arguments, str(given)]) == 1
    assert "is an input and would be overwritten; name another file with --out" in (
        capsys.readouterr().err
    )
    assert given.read_bytes() == before


def test_what_a_run_writes_into_the_folder_that_it_reads_is_no_input(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The output of the first run is there in the second one, and parts in one that goes on.
    ase.io.write(tmp_path / "in.extxyz", structures())
    out = tmp_path / "out.extxyz"
    assert len(predict(model_file, out, tmp_path)) == 30
    assert len(predict(model_file, out, tmp_path)) == 30
    monkeypatch.setattr(stage, "CHUNK_ROWS", 7)
    with monkeypatch.context() as patch:
        patch.setattr(stage, "_join", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        arguments = ["predict", str(model_file), str(tmp_path), "--source", "a", "--out", str(out)]
        assert main(arguments) == 130
    assert len(list(tmp_path.glob("out.extxyz.parts/*.extxyz"))) == 5
    assert len(predict(model_file, out, tmp_path)) == 30


def test_parts_of_an_interrupted_run_are_not_believed_for_where_they_lie(
    model_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # A run of days is continued: two parts were exchanged, one was edited, one cut off.
    ase.io.write(tmp_path / "in.extxyz", structures())
    out = tmp_path / "out.extxyz"
    monkeypatch.setattr(stage, "CHUNK_ROWS", 5)
    predict(model_file, out, tmp_path / "in.extxyz")
    expected = out.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(stage, "_join", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        line = ["predict", str(model_file), str(tmp_path / "in.extxyz"), "--source", "a"]
        assert main([*line, "--out", str(out)]) == 130
    first, second, edited, cut, *_ = sorted(tmp_path.glob("out.extxyz.parts/*.extxyz"))
    contents = first.read_bytes(), second.read_bytes()
    second.write_bytes(contents[0])
    first.write_bytes(contents[1])
    edited.write_bytes(edited.read_bytes().replace(b"energy=-", b"energy=-1"))
    cut.write_bytes(cut.read_bytes()[:-9])
    capsys.readouterr()
    predict(model_file, out, tmp_path / "in.extxyz")
    assert out.read_bytes() == expected
    assert capsys.readouterr().err.count("is damaged or was changed, and predicted again") == 4


def test_an_output_that_is_a_folder_is_refused_before_anything_is_predicted(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ase.io.write(tmp_path / "in.extxyz", [molecule("H2O")])
    (tmp_path / "out.extxyz").mkdir()
    arguments = ["predict", str(model_file), str(tmp_path / "in.extxyz"), "--source", "a"]
    assert main([*arguments, "--out", str(tmp_path / "out.extxyz")]) == 1
    assert "out.extxyz is a folder; name a file" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.parts"))


def test_two_runs_that_write_one_file_do_so_one_after_the_other(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With two sources, chunks of one run would be taken for those of the other.
    ase.io.write(tmp_path / "in.extxyz", [molecule("H2")] * 30)
    out = tmp_path / "out.extxyz"
    monkeypatch.setattr(stage, "CHUNK_ROWS", 7)
    whole = stage._predict_chunk
    command = [*warm_python(), "-m", "mtlpar", "predict", str(model_file), "in.extxyz"]
    other: list[subprocess.Popen[bytes]] = []
    seen = threading.Event()

    def with_another_run(*arguments: Any, **options: Any) -> str:
        if not other:
            line = [*command, "--source", "b", "--out", out.name]
            other.append(subprocess.Popen(line, cwd=tmp_path, stderr=subprocess.PIPE))
            assert other[0].stderr is not None
            assert b"waiting for process" in other[0].stderr.readline()
            seen.set()
        return whole(*arguments, **options)

    monkeypatch.setattr(stage, "_predict_chunk", with_another_run)
    # One thread, so that no other chunk is predicted while the first one starts the other run.
    monkeypatch.setattr(stage, "one_thread_each", lambda: nullcontext(1))
    found = predict(model_file, out, tmp_path / "in.extxyz")
    assert seen.is_set()
    assert {atoms.info["source"] for atoms in found} == {"a"}
    other[0].communicate()
    assert other[0].returncode == 0
    assert {atoms.info["source"] for atoms in read(out)} == {"b"}
    assert not list(tmp_path.glob("*.parts"))


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_ranks_write_the_same_file_as_one_process(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranks: int
) -> None:
    monkeypatch.chdir(tmp_path)
    many = [atoms for _ in range(60) for atoms in structures()]
    ase.io.write("in.extxyz", many)
    # Where there is MPI, ASE broadcasts what the first rank reads of a database.
    with ase.db.connect("in.db") as database:
        for atoms in many[:20]:
            database.write(atoms)
    (tmp_path / "more").mkdir()
    (tmp_path / "more/settings.json").write_text('{"batch": 3}')
    (tmp_path / "more/none.xyz").write_text("")
    files = ["in.extxyz", "in.db", "more"]
    arguments = ["predict", str(model_file), *files, "--source", "a", "--out"]
    assert main([*arguments, "one.xyz"]) == 0
    launch = [sys.executable, "-m", "mtlpar", "launch", "--ranks-per-node", str(ranks), "--"]
    line = [*launch, *warm_python(), "-m", "mtlpar", *arguments, "ranks.xyz"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "one.xyz").read_bytes() == (tmp_path / "ranks.xyz").read_bytes()
    assert done.stderr.count("left out, for they hold no structures: settings.json") == 1
    assert done.stderr.count("none.xyz holds no structures") == 1


@pytest.mark.parametrize(
    ("inputs", "out", "told"),
    [
        (["nowhere.xyz"], "out.xyz", "nowhere.xyz does not exist"),
        (["empty"], "out.xyz", "empty holds no file of a known format; expected .xyz .extxyz"),
        (["cut.xyz"], "out.xyz", "cut.xyz is damaged or cut off: the file ends inside frame 0"),
        (["table.h5"], "out.xyz", "table.h5 is an HDF5 file; expected .xyz"),
        (["cut.xyz"], "out.csv", "expected a name that ends in .xyz or .extxyz"),
        (["nowhere.bp"], "out.xyz", "nowhere.bp does not exist"),
        (["pipe"], "out.xyz", "pipe is a pipe or a device, which can be read only once"),
    ],
)
def test_inputs_that_are_not_read_are_told_by_name(
    model_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    inputs: list[str],
    out: str,
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "table.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(600))
    text = io.StringIO()
    ase.io.write(text, [molecule("H2O")], format="extxyz")
    (tmp_path / "cut.xyz").write_text(text.getvalue()[:-80])
    assert main(["predict", str(model_file), *inputs, "--source", "a", "--out", out]) == 1
    assert told in capsys.readouterr().err
    assert not (tmp_path / out).exists()


def test_a_model_of_several_levels_of_theory_is_asked_for_one(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ase.io.write(tmp_path / "in.xyz", [molecule("H2")], format="extxyz")
    inputs = [str(tmp_path / "in.xyz"), "--out", str(tmp_path / "out.xyz")]
    assert main(["predict", str(model_file), *inputs]) == 1
    assert (
        "several levels of theory; name one as source (on the command line --source): a (PBE), b"
        in capsys.readouterr().err
    )


def test_per_atom_energies_add_up_and_are_those_of_ase(model_file: Path) -> None:
    atoms = molecule("CH3OH")
    atoms.calc = Calculator(model_file, source="a")
    energies = atoms.get_potential_energies()
    assert energies.shape == (6,)
    assert energies.sum() == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
    # Atoms of other molecules have no part in them.
    model = load_model(model_file)
    pair = model.predict([molecule("H2O"), atoms], source="a")
    np.testing.assert_allclose(pair[1].atom_energies, energies, atol=2e-5)


def test_an_empty_file_is_told(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.xyz").write_text("")
    assert predict(model_file, tmp_path / "out.xyz", tmp_path / "empty.xyz") == []
    assert "empty.xyz holds no structures" in capsys.readouterr().err
