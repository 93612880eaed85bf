"""What users of a model file get: predictions through Python and ASE, a description, a verdict."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.db import connect
from ase.filters import FrechetCellFilter
from ase.io import read, write
from helpers import REPOSITORY
from networks import edit_model, make_network

import mtlpar
from mtlpar.calculator import DirectForcesWarning
from mtlpar.check import suite
from mtlpar.check.suite import CHECKS
from mtlpar.cli import main
from mtlpar.core.references import References
from mtlpar.graph.collate import collate
from mtlpar.model import geometry, predict
from mtlpar.model.egnn.encoder import InnerProducts
from mtlpar.model.file import save_model
from mtlpar.model.geometry import RadialBasis
from mtlpar.model.inference import ByAutograd
from mtlpar.model.multitask import MultiTaskModel, Segment
from mtlpar.model.settings import ModelSettings

REFERENCES = {
    "molecules": References({"H": -13.6, "C": -1029.4, "O": -2041.8}),
    "crystals": References({"O": -430.0, "Na": -1300.0, "Cl": -460.0}),
}
ROCKSALT = bulk("NaCl", "rocksalt", a=5.5)


def _write(
    path: Path,
    *,
    encoder: str = "egnn",
    forces: str = "conservative",
    dtype: torch.dtype = torch.float64,
) -> Path:
    network = make_network(encoder, forces).to(dtype)
    save_model(
        path,
        state=network.state_dict(),
        settings=network.settings,
        branches={"a": ("molecules",), "b": ("crystals",)},
        references=REFERENCES,
        level_of_theory={"molecules": "GFN2-xTB", "crystals": "PBE"},
        training={"seed": 0, "epochs": 3},
    )
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return _write(tmp_path / "model.pt")


def test_lists_of_structures_come_back_in_order_with_references_added(path: Path) -> None:
    model = mtlpar.load_model(path)
    structures = [molecule("H2O"), molecule("CH4"), molecule("CH3OH")]
    # Two structures fill a batch: results must not depend on where it is cut.
    together = model.predict(structures, source="molecules", batch_atoms=8)
    for atoms, predicted in zip(structures, together, strict=True):
        (alone,) = model.predict([atoms], source="molecules")
        assert predicted.forces.shape == (len(atoms), 3)
        assert predicted.energy == pytest.approx(alone.energy, abs=1e-9)
        np.testing.assert_allclose(predicted.forces, alone.forces, atol=1e-12)
        references = REFERENCES["molecules"].energies_ev
        total = sum(references[symbol] for symbol in atoms.symbols)
        assert abs(predicted.energy - total) < 10
    assert model.predict([], source="molecules") == []


@pytest.mark.parametrize(
    ("structures", "source", "message"),
    [
        (
            [molecule("H2O")],
            None,
            r"several levels of theory; name one as source.*crystals \(PBE\)",
        ),
        (
            [molecule("H2O")],
            "qm9",
            r"no source is called 'qm9'; .* molecules, crystals",
        ),
        ([molecule("NH3")], "molecules", r"no reference energy for N.*H, C, O"),
        # An empty name is a name, not the absence of one.
        ([molecule("H2O")], "", r"no source is called ''"),
        ([], "qm9", r"no source is called 'qm9'"),
        (molecule("H2O"), "molecules", r"expected a list of structures.*write \[atoms\]"),
        ([Atoms()], "molecules", r"got 1 structure, empty: \[0\]"),
        # Its letters were taken for structures.
        ("h2o.xyz", "molecules", r"structure 0 is 'h', expected ase\.Atoms; read files first"),
        ([molecule("H2O"), None], "molecules", r"structure 1 is None, expected ase\.Atoms"),
        (
            [molecule("H2O"), molecule("CH4"), molecule("NH3"), molecule("NH3")],
            "molecules",
            r"structure 2: no reference energy for N",
        ),
        # Without neighbours both would be answered by the energy of lone atoms.
        ([Atoms("O2", [[0, 0, 0], [np.nan, 0, 0]])], "molecules", r"structure 0 .*not finite"),
        ([Atoms("O2", [[0, 0, 0], [np.inf, 0, 0]])], "molecules", r"structure 0 .*not finite"),
        # It was predicted, with an overflow that NumPy warned of.
        ([Atoms("O", [[1e300, 0, 0]])], "molecules", r"structure 0 .*beyond 1e\+09 Å"),
        # In a byte 257 is 1, hydrogen.
        (
            [molecule("H2O"), Atoms([257, 1])],
            "molecules",
            r"structure 1 .*\[257\], expected 1 to 118",
        ),
        ([Atoms([-1])], "molecules", r"structure 0 .*\[-1\], expected 1 to 118"),
        (
            [molecule("H2O"), Atoms("O", cell=[4, 4, 0], pbc=True)],
            "molecules",
            r"structure 1 .*has a cell .* does not span the periodic directions",
        ),
        # In nanometres it would fit; so it has thousands of neighbours of each kind.
        (
            [Atoms("O2", [[0, 0, 0], [0.1, 0, 0]], cell=[0.3, 0.3, 0.3], pbc=True)],
            "molecules",
            r"structure 0 .*leaves no room for its atoms .0\.013.*give it in Å",
        ),
        (
            [molecule("H2O"), Atoms("O2", np.zeros((2, 3)))],
            "molecules",
            r"energy of structure 1 is not finite: two of its atoms coincide",
        ),
        (
            [Atoms("O", info={"charge": -2})],
            "molecules",
            # Not "and spin multiplicity 0", which nobody stated and does not exist.
            r"charge -2, but this model does not know",
        ),
        (
            [Atoms("O", info={"spin": 1.5})],
            "molecules",
            r"'spin'.*is 1\.5, expected",
        ),
        ([Atoms("O", info={"spin": -1})], "molecules", r"'spin'.*is -1.0, expected"),
        ([Atoms("O", info={"charge": np.nan})], "molecules", r"'charge'.*is nan, expected"),
        *(
            (
                [Atoms("O"), Atoms("O", info={key: 0.5})],
                "molecules",
                rf"atoms\.info of structure 1, O: '{key}' is 0\.5, expected",
            )
            for key in ("charge", "spin")
        ),
    ],
)
def test_what_cannot_be_answered_is_an_error(
    path: Path, structures: Sequence[Atoms], source: str | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        mtlpar.load_model(path).predict(structures, source=source)


def test_stress_is_what_ase_finds_by_straining_the_cell(path: Path) -> None:
    # ASE's own finite differences fix sign, unit and order of the six components.
    atoms = ROCKSALT.copy()
    atoms.rattle(0.1, seed=0)
    atoms.calc = mtlpar.Calculator(path, source="crystals")
    volume, found = atoms.get_volume(), []
    for row, column in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)):
        energies = []
        for sign in (-1, 1):
            strain = np.eye(3)
            strain[row, column] += sign * 5e-5
            strain[column, row] += sign * 5e-5 * (row != column)
            strained = atoms.copy()
            strained.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            strained.calc = atoms.calc
            energies.append(strained.get_potential_energy())
        factor = 1 if row == column else 2
        found.append((energies[1] - energies[0]) / (1e-4 * factor * volume))
    np.testing.assert_allclose(atoms.get_stress(), found, atol=1e-8)
    assert np.abs(found).max() > 1e-5


def test_forces_of_the_calculator_are_smooth_far_from_the_origin(path: Path) -> None:
    # Positions in float32 would be off by 6e-5 Å here, and finite differences pure noise.
    atoms = molecule("H2O")
    atoms.positions += 1000.0
    atoms.calc = mtlpar.Calculator(path, source="molecules")
    forces = atoms.get_forces()
    energies = []
    for sign in (-1, 1):
        moved = atoms.copy()
        moved.positions[1, 2] += sign * 1e-4
        moved.calc = atoms.calc
        energies.append(moved.get_potential_energy())
    assert -(energies[1] - energies[0]) / 2e-4 == pytest.approx(forces[1, 2], abs=1e-6)


@pytest.mark.parametrize(("key", "value"), [("charge", 1), ("spin", 3)])
def test_the_calculator_notices_another_charge_or_spin(path: Path, key: str, value: int) -> None:
    # ASE looks at positions, not at info, and would repeat the energy of the neutral molecule.
    water = molecule("H2O")
    water.calc = mtlpar.Calculator(path, source="molecules")
    neutral = water.get_potential_energy()
    water.info[key] = value
    with pytest.raises(ValueError, match="does not know about charge and spin"):
        water.get_potential_energy()
    del water.info[key]
    assert water.get_potential_energy() == neutral


def test_the_calculator_notices_another_source(path: Path) -> None:
    # The atoms are the same, so ASE would repeat the energy of the source before.
    atoms = Atoms("O2", [[0, 0, 0], [0, 0, 1.3]])
    atoms.calc = calculator = mtlpar.Calculator(path, source="molecules")
    expected = {
        source: mtlpar.load_model(path).predict([atoms], source=source)[0].energy
        for source in REFERENCES
    }
    assert atoms.get_potential_energy() == expected["molecules"]
    calculator.source = "crystals"
    assert atoms.get_potential_energy() == expected["crystals"]
    assert calculator.set(source="molecules") == {"source": "molecules"}
    assert atoms.get_potential_energy() == expected["molecules"]
    with pytest.raises(ValueError, match="no source is called 'qm9'"):
        calculator.source = "qm9"


def test_the_calculator_has_no_parameter_that_it_ignores(path: Path) -> None:
    # A charge given here would be forgotten, and the neutral molecule predicted.
    with pytest.raises(TypeError, match="charge"):
        mtlpar.Calculator(path, source="molecules", charge=1)
    calculator = mtlpar.Calculator(path, source="molecules")
    with pytest.raises(
        ValueError, match=r'no parameter charge, only source.*atoms\.info\["charge"\]'
    ):
        calculator.set(charge=1)


@pytest.mark.parametrize("name", ["results.db", "results.json", "results.traj"])
def test_what_ase_writes_says_whose_results_they_are(path: Path, tmp_path: Path, name: str) -> None:
    # Energies of two sources lay side by side as results of "calculator", which all have.
    frames = []
    for source in REFERENCES:
        frames.append(Atoms("O2", [[0, 0, 0], [0, 0, 1.3]]))
        frames[-1].calc = mtlpar.Calculator(path, source=source)
        frames[-1].get_potential_energy()
    write(tmp_path / name, frames)
    digest = mtlpar.load_model(path).digest
    expected = [
        {"source": "molecules", "level_of_theory": "GFN2-xTB", "model": digest},
        {"source": "crystals", "level_of_theory": "PBE", "model": digest},
    ]
    if name.endswith(".traj"):
        found = [frame.calc for frame in read(tmp_path / name, ":")]
        told = [(calculator.name, calculator.parameters) for calculator in found]
    else:
        rows = connect(tmp_path / name).select()
        told = [(row.calculator, row.calculator_parameters) for row in rows]
    assert told == [("mtlpar", parameters) for parameters in expected]


def test_structures_may_come_one_by_one(path: Path) -> None:
    model = mtlpar.load_model(path)
    pair = [molecule("H2O"), molecule("H2O")]
    at_once = model.predict(pair, source="molecules")
    one_by_one = model.predict((atoms for atoms in pair), source="molecules")
    assert [p.energy for p in one_by_one] == [p.energy for p in at_once]


def test_no_precision_is_loaded_that_cannot_predict(path: Path) -> None:
    with pytest.raises(ValueError, match=r"float32 or torch\.float64, not in torch\.float16"):
        mtlpar.load_model(path, dtype=torch.float16)


def test_a_branch_with_a_name_of_pytorch_is_refused() -> None:
    with pytest.raises(ValueError, match="'train', a name that PyTorch reserves"):
        MultiTaskModel(ModelSettings(), ["train"], seed=0)


def test_a_stress_that_is_not_there_says_why(path: Path, tmp_path: Path) -> None:
    # ASE itself says "not present in this calculation", which helps nobody.
    water = molecule("H2O")
    water.calc = mtlpar.Calculator(path, source="molecules")
    with pytest.raises(PropertyNotImplementedError, match=r"repeats along \[False, False, False\]"):
        water.get_stress()
    water.pbc = (True, True, False)
    water.cell = [[5, 0, 0], [0, 5, 0], [0, 0, 0]]
    with pytest.raises(PropertyNotImplementedError, match=r"volume of 0 Å\^3.*set atoms\.cell"):
        water.get_stress()
    water.cell[2, 2] = 12
    assert water.get_stress().shape == (6,)
    crystal = ROCKSALT.copy()
    crystal.calc = direct = mtlpar.Calculator(
        _write(tmp_path / "direct.pt", forces="equivariant"), source="crystals"
    )
    assert "stress" not in direct.implemented_properties
    instead = (
        r"no stress, which cells need; train a conservative model .*head\.forces: conservative"
    )
    with pytest.raises(PropertyNotImplementedError, match=instead):
        crystal.get_stress()
    # What a user of cells meets first.
    with pytest.raises(PropertyNotImplementedError, match=instead):
        FrechetCellFilter(crystal).get_forces()


def test_direct_forces_are_told_once_by_each_calculator(tmp_path: Path) -> None:
    # 500 fs of NVE with them gain an electronvolt, and ASE would not say a word.
    path = _write(tmp_path / "direct.pt", forces="equivariant")
    for _ in range(2):
        atoms = ROCKSALT.copy()
        atoms.calc = mtlpar.Calculator(path, source="crystals")
        with pytest.warns(DirectForcesWarning, match="not the gradient .* not for NVE"):
            atoms.get_forces()
        # Warnings are errors here.
        atoms.rattle(0.01)
        atoms.get_forces()


def test_conservative_forces_are_no_reason_to_warn(path: Path) -> None:
    atoms = ROCKSALT.copy()
    atoms.calc = mtlpar.Calculator(path, source="crystals")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        atoms.get_forces()


def test_info_says_what_direct_forces_are_not_for(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(path)]) == 0
    assert "not the gradient" not in capsys.readouterr().out
    assert main(["info", str(_write(tmp_path / "direct.pt", forces="equivariant"))]) == 0
    assert "not for NVE dynamics, tight relaxations or cells" in capsys.readouterr().out


@pytest.mark.long
def test_check_counts_what_does_not_apply(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A model with direct forces "passed all checks", three of which had not looked at it.
    path = _write(tmp_path / "direct.pt", forces="equivariant")
    assert main(["check", str(path), "--source", "molecules"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == (
        f"{path}, branch a passes; 3 of {len(CHECKS)} checks do not apply: forces = -dE/dx, "
        "stress = dE/de / V, energy kept in NVE (forces are predicted directly)"
    )


def test_an_egnn_of_an_older_format_is_refused(path: Path) -> None:
    # Its weights do not fit, and no weights of this version are the same function.
    edit_model(path, lambda content: content.update(format_version=2), digest=False)
    with pytest.raises(
        ValueError, match=r"model\.pt has model format 2: its EGNN .* train it again"
    ):
        mtlpar.load_model(path)


def _of_distance_alone(
    basis: RadialBasis, distance: torch.Tensor, _: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """All radial functions up to format 4."""
    x = distance / basis.cutoff
    count = len(basis.frequencies) + len(basis.relative_frequencies)
    waves = torch.sin(np.pi * torch.arange(1, count + 1) * x) / x
    envelope = geometry.cutoff_envelope(x)
    return np.sqrt(2) * waves * envelope, envelope


def _squared_lengths(_: InnerProducts, vectors: torch.Tensor) -> torch.Tensor:
    """What layers took of vectors up to format 3, without weights to mix them."""
    return (vectors**2).sum(dim=2)


@pytest.mark.parametrize(
    ("encoder", "version"),
    [("painn", 2), ("egnn", 3), ("painn", 3), ("egnn", 4), ("painn", 4), ("egnn", 6), ("painn", 6)],
)
def test_a_model_of_an_older_format_predicts_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: str, version: int
) -> None:
    path = _write(tmp_path / "model.pt", encoder=encoder)
    with monkeypatch.context() as then:
        # By the operations that are replaced here.
        then.setattr(predict, "inference_of", ByAutograd)
        if version < 5:
            then.setattr(RadialBasis, "forward", _of_distance_alone)
        if version < 4:
            then.setattr(InnerProducts, "forward", _squared_lengths)
        expected = mtlpar.load_model(path).predict([ROCKSALT], source="crystals")[0]

    def as_then(content: dict[str, Any]) -> None:
        content["format_version"] = version
        # Up to format 6 all kinds had it, and PaiNN did not ask.
        content["settings"]["encoder"].setdefault("vector_channels", 16)
        for name in list(content["state"]):
            if version < 4 and "inner_products" in name:
                del content["state"][name]

    edit_model(path, as_then, digest=version >= 6)
    upgraded = mtlpar.load_model(path)
    assert upgraded.format_version == version
    again = upgraded.predict([ROCKSALT], source="crystals")[0]
    assert again.energy == pytest.approx(expected.energy, abs=1e-6)
    np.testing.assert_allclose(again.forces, expected.forces, atol=1e-6)


def test_a_newer_format_is_refused(path: Path) -> None:
    edit_model(path, lambda content: content.update(format_version=99))
    with pytest.raises(ValueError, match="model format 99; this version of mtlpar reads 2 to 8"):
        mtlpar.load_model(path)


def test_a_device_that_is_not_there_is_no_fault_of_the_file(path: Path) -> None:
    # Torch raises the same error while it reads the file, which was then called damaged.
    missing = f"cuda:{torch.cuda.device_count()}"
    for device in (missing, torch.device(missing), "gpu"):
        with pytest.raises(ValueError, match=f"the device {device} cannot be used"):
            mtlpar.load_model(path, device=device)


def test_damaged_files_and_weights_that_do_not_fit_are_refused(path: Path) -> None:
    edit_model(path, lambda content: content["state"].pop("encoder.species.weight"))
    with pytest.raises(ValueError, match=r"(?s)do not fit its settings.*encoder\.species"):
        mtlpar.load_model(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged or cut off"):
        mtlpar.load_model(path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        *((lambda content, key=key: content.pop(key), key) for key in ("settings", "state")),
        (lambda content: content.pop("references_ev"), "references_ev"),
        (lambda content: content["references_ev"].pop("crystals"), "no reference.* of crystals"),
        (lambda content: content["references_ev"]["crystals"].update(O=np.nan), "crystals.O"),
        (lambda content: content["references_ev"]["crystals"].update(Qq=1.0), r"\['Qq'\]"),
        (lambda content: content["level_of_theory"].clear(), "no level of theory of molecules"),
        (lambda content: content["state"].clear(), "state"),
        (lambda content: content.update(branches=["a", "b"]), "branches"),
        (lambda content: content["settings"]["encoder"].update(kind="mace"), "kind should be"),
    ],
)
@pytest.mark.parametrize("command", ["check", "info"])
def test_a_file_that_lacks_or_contradicts_something_is_refused_by_name(
    path: Path,
    command: str,
    edit: Callable[[dict[str, Any]], object],
    message: str,
) -> None:
    # Total energies need all of it: without references it would be off by thousands of eV.
    edit_model(path, edit)
    with pytest.raises(ValueError, match=f"{path} is not a complete model file: .*{message}"):
        mtlpar.load_model(path)
    assert main([command, str(path)]) == 1


def test_info_counts_every_parameter_once(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(path)]) == 0
    text = capsys.readouterr().out
    network = make_network(forces="conservative")
    assert f"{sum(p.numel() for p in network.parameters()):,}" in text
    assert "GFN2-xTB" in text
    assert "forces conservative" in text
    assert "Na" in text


def test_info_knows_the_sizes_of_the_paper_preset(capsys: pytest.CaptureFixture[str]) -> None:
    config = [REPOSITORY / "config.yaml", REPOSITORY / "workflow" / "presets" / "paper.yaml"]
    assert main(["info", "--config", *map(str, config)]) == 0
    text = capsys.readouterr().out
    # Layers of 866: the edge MLP's two blocks per node, radial and vector inputs, its second
    # layer, the filter, the vectors' output, the update MLP, the mixed vectors and a norm. After
    # the first layer there are vectors to look at and to carry.
    f, c, k, w = 866, 8, 16, 889
    edge = (f * f + f) + f * f + f * k + (f * f + f) + f * k + f * c
    update = (2 * f + c) * f + f + f * f + f + 2 * c * c
    layers = 4 * (edge + update + 2 * f) + 3 * f * (2 * c + c)
    energy = (f * w + w) + 2 * (w * w + w) + w + 1
    force = (f * w + w) + 2 * (w * w + w) + (w + 1) * 4 * c
    for count in (119 * f + layers + 2 * f, energy, force, energy + force):
        assert f"{count:,}" in text


def test_a_reader_that_has_seen_enough_ends_a_command_without_a_traceback() -> None:
    # `mtlpar schema | head`: the pipe is gone before the first line is written.
    command = [sys.executable, "-m", "mtlpar", "schema"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


@pytest.mark.long
def test_check_accepts_a_sound_model_and_refuses_a_broken_one(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["check", str(path), "--source", "molecules"]) == 0
    output = capsys.readouterr().out
    # Of the other branches nothing is known, and numbers without a unit say nothing.
    assert f"{path}, branch a passes all checks" in output
    assert "an energy (eV/atom), force (eV/Å) or stress (eV/Å^3)" in output
    monkeypatch.setattr(geometry, "cutoff_envelope", torch.ones_like)
    monkeypatch.setattr(
        geometry, "envelope_with_slope", lambda x: (torch.ones_like(x), torch.zeros_like(x))
    )
    # One that it passes, and one that it does not.
    both = {name: suite.CHECKS[name] for name in ("rotation", "no jump at the cutoff")}
    monkeypatch.setattr(suite, "CHECKS", both)
    assert main(["check", str(path), "--source", "molecules"]) == 1
    output = capsys.readouterr()
    assert "no jump at the cutoff" in output.out
    assert "REFUSED" in output.out


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


_MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "inference": torch.inference_mode,
    "gradients": torch.enable_grad,
    "autocast": lambda: torch.autocast("cpu"),
    "device": lambda: torch.device("meta"),
    "float16": lambda: _default_dtype(torch.float16),
    "float64": lambda: _default_dtype(torch.float64),
}


def _predicted(path: Path, loading: Any, predicting: Any) -> np.ndarray:
    """Energy and forces of a crystal through Python and through ASE."""
    with loading():
        model = mtlpar.load_model(path)
        calculator = mtlpar.Calculator(path, source="crystals")
    atoms = ROCKSALT.copy()
    atoms.rattle(0.1, seed=1)
    with predicting():
        (found,) = model.predict([atoms], source="crystals")
        atoms.calc = calculator
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    return np.concatenate([[found.energy, energy], found.forces.ravel(), forces.ravel()])


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::mtlpar.calculator.DirectForcesWarning")
@pytest.mark.parametrize("mode", _MODES)
@pytest.mark.parametrize("forces", ["equivariant", "conservative"])
@pytest.mark.parametrize("encoder", ["egnn", "painn"])
def test_predictions_do_not_depend_on_the_modes_of_the_caller(
    tmp_path: Path, mode: str, forces: str, encoder: str
) -> None:
    # Gradients of weights that were loaded in inference mode, and weights on a device without
    # memory, ended in errors of torch.
    path = _write(tmp_path / "model.pt", encoder=encoder, forces=forces, dtype=torch.float32)
    expected = _predicted(path, nullcontext, nullcontext)
    for loading, predicting in ((nullcontext, _MODES[mode]), (_MODES[mode], nullcontext)):
        np.testing.assert_array_equal(_predicted(path, loading, predicting), expected)


def test_a_network_that_cannot_give_forces_in_inference_mode_says_what_to_do(path: Path) -> None:
    model = mtlpar.load_model(path)
    batch = collate(mtlpar.calculator.structure_batch([ROCKSALT]), model.settings.graph)
    with torch.inference_mode(), pytest.raises(ValueError, match=r"gradients.* use torch\.no_grad"):
        model.network(batch, [Segment("b", 0, 1, (0, len(ROCKSALT)))])
