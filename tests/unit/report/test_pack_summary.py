"""What `mtlpar inspect` counts, prints and draws is what lies in the folder."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from ase.data import chemical_symbols
from helpers import ELEMENT_ENERGIES_EV, make_structures, make_workspace
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread

from mtlpar.cli import main
from mtlpar.core.structures import StructureBatch
from mtlpar.report.pack_figure import draw_pack
from mtlpar.report.pack_text import pack_text
from mtlpar.report.style import house_style
from mtlpar.store import summary as summary_module
from mtlpar.store.bp import write_bp
from mtlpar.store.summary import FORCE_EDGES_EV_PER_ANGSTROM, summarize

_REFERENCES = {chemical_symbols[z]: energy for z, energy in ELEMENT_ENERGIES_EV.items()}


def _write(
    path: Path, batch: StructureBatch, *, block: int = 1000, references: bool = False
) -> Path:
    attributes = {"references_ev": _REFERENCES} if references else {}
    write_bp(
        path,
        [batch.slice(i, min(i + block, len(batch))) for i in range(0, len(batch), block)],
        num_structures=len(batch),
        num_atoms=batch.total_atoms,
        attributes=attributes,
    )
    return path


def _mixed() -> StructureBatch:
    batch = make_structures(30, seed=2)
    batch.pbc[:10], batch.stress_mask[:5] = 1, 1
    batch.forces[0], batch.forces[1] = 0, (3e4, 4e4, 0)  # beyond both ends of the bins
    return batch


def test_summary_counts_what_lies_in_the_folder(tmp_path: Path) -> None:
    batch = _mixed()
    summary = summarize(_write(tmp_path / "a.bp", batch, references=True), everything=True)
    assert summary.is_complete
    assert summary.atoms_of_element == Counter(chemical_symbols[z] for z in batch.atomic_numbers)
    assert summary.structures_of_size == Counter(batch.num_atoms.tolist())
    assert summary.structures_of_dimension == {3: 10, 0: 20}
    assert summary.with_label["stress"] == 5
    assert summary.max_force_ev_per_angstrom == 5e4
    norms = np.linalg.norm(batch.forces.astype(np.float64), axis=1)
    edges = FORCE_EDGES_EV_PER_ANGSTROM
    assert summary.atoms_of_force.sum() == batch.total_atoms
    assert summary.atoms_of_force[0] == (norms < edges[1]).sum() > 0
    assert summary.atoms_of_force[-1] == (norms >= edges[-2]).sum() > 0
    energies = [
        (energy - sum(ELEMENT_ENERGIES_EV[z] for z in numbers)) / len(numbers)
        for energy, numbers in zip(
            batch.energy,
            np.split(batch.atomic_numbers.astype(int), np.cumsum(batch.num_atoms)[:-1]),
            strict=True,
        )
    ]
    np.testing.assert_allclose(summary.energies_ev_per_atom, energies, atol=1e-9)


def test_a_large_folder_is_sampled_unless_everything_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summary_module, "_SLICE_STRUCTURES", 4)
    monkeypatch.setattr(summary_module, "_SAMPLE_STRUCTURES", 12)
    path = _write(tmp_path / "a.bp", make_structures(40, seed=2), block=4)
    sample = summarize(path, everything=False)
    assert sample.structures == 12
    assert "a sample of 12 structures; --verify reads all" in pack_text(sample)
    assert "all checksums agree" in pack_text(summarize(path, everything=True))


def test_text_explains_columns_and_constants(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, {"qm7x": 60})
    text = pack_text(summarize(workspace.pack("qm7x", "train"), everything=False))
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert "softened Coulomb repulsion" in lines["level"]
    assert "eV/Å" in lines["forces"]
    assert "0 in all structures" in lines["cell"]
    assert "Energy without references, eV/atom" in text
    assert "SHA-256 0000" in lines["raw"]


def test_many_elements_and_forces_of_one_size_fit_into_text_and_figure(tmp_path: Path) -> None:
    # As in MPTrj: the elements that are not listed hold most atoms, and forces span one decade.
    batch = make_structures(200, seed=2)
    batch.atomic_numbers[:] = 1 + np.arange(batch.total_atoms) % 89
    batch.forces[:] = np.geomspace(0.25, 4, batch.total_atoms)[:, None] * (1, 0, 0)
    summary = summarize(_write(tmp_path / "a.bp", batch), everything=False)
    elements = pack_text(summary).partition("Elements")[2].partition("Atoms per")[0]
    assert max(map(len, elements.splitlines())) < 80
    with house_style():
        figure = draw_pack(summary)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    for panel in figure.axes:
        both = (False, True)
        texts = [text for minor in both for text in panel.get_xticklabels(minor=minor)]
        boxes = [text.get_window_extent(canvas.get_renderer()) for text in texts if text.get_text()]
        boxes.sort(key=lambda box: box.x0)
        assert all(left.x1 <= right.x0 for left, right in pairwise(boxes)), panel.get_title()


@pytest.mark.parametrize("count", [1, 2, 30])
def test_text_and_figure_can_be_made_of_any_number_of_structures(
    tmp_path: Path, count: int
) -> None:
    # One structure: no width in any histogram. No forces: nothing to take a logarithm of.
    batch = make_structures(count, seed=2)
    batch.forces[:] = 0
    summary = summarize(_write(tmp_path / "a.bp", batch), everything=False)
    assert "Total energy, eV/atom" in pack_text(summary)
    titles = [axes.get_title() for axes in draw_pack(summary).axes]
    assert titles == ["Elements, share of atoms", "Sizes", "Total energy", "Forces"]


@pytest.mark.long
def test_commands_inspect_plot_and_export(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _write(tmp_path / "a.bp", _mixed())
    picture, exported = tmp_path / "a.png", tmp_path / "a.extxyz"
    assert main(["inspect", str(path), "--verify", "--plot", str(picture)]) == 0
    assert "10 crystals" in capsys.readouterr().out
    assert imread(picture).std() > 0.05
    assert main(["export", str(path), str(exported), "--limit", "3"]) == 0
    assert exported.read_text().count("Properties=") == 3


def test_inspect_refuses_a_damaged_folder_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _write(tmp_path / "a.bp", _mixed())
    (path / "data.0").write_bytes((path / "data.0").read_bytes()[:-1])
    assert main(["inspect", str(path)]) == 1
    error = capsys.readouterr().err
    assert "the folder is truncated" in error
    assert "Traceback" not in error
