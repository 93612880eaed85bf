"""The sample generator keeps to the native formats, and its labels are physical."""

from __future__ import annotations

import lzma
import re
from collections import Counter
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tblite")
pytest.importorskip("rdkit")
h5py = pytest.importorskip("h5py")

from tools.sample.base import SOURCES, SampleError, random_stream  # noqa: E402
from tools.sample.crystals import Crystal  # noqa: E402
from tools.sample.dispersion import dispersion  # noqa: E402
from tools.sample.draws import tasks  # noqa: E402
from tools.sample.generate import CHECKSUMS, generate  # noqa: E402
from tools.sample.labels import Surface  # noqa: E402
from tools.sample.molecules import closest_contact, conformers, displaced_geometries  # noqa: E402
from tools.sample.native_crystals import anion_correction, vasp_stress  # noqa: E402
from tools.sample.relaxation import Frame, relax_crystal, relax_molecule  # noqa: E402

from mtlpar.core.units import (  # noqa: E402
    HARTREE_EV,
    VASP_STRESS_KBAR_TO_EV_PER_CUBIC_ANGSTROM,
)

MOLECULAR = ("ani1x", "qm7x", "transition1x")
COMMITTED = Path(__file__).parents[2] / "workflow" / "sample"
SEED = 7

ANI1X_KEYS = {
    "atomic_numbers", "coordinates", "ccsd(t)_cbs.energy", "hf_dz.energy", "hf_tz.energy",
    "hf_qz.energy", "mp2_dz.corr_energy", "mp2_tz.corr_energy", "mp2_qz.corr_energy",
    "npno_ccsd(t)_dz.corr_energy", "npno_ccsd(t)_tz.corr_energy", "tpno_ccsd(t)_dz.corr_energy",
    "wb97x_dz.cm5_charges", "wb97x_dz.dipole", "wb97x_dz.energy", "wb97x_dz.forces",
    "wb97x_dz.hirshfeld_charges", "wb97x_dz.quadrupole", "wb97x_tz.dipole", "wb97x_tz.energy",
    "wb97x_tz.forces", "wb97x_tz.mbis_charges", "wb97x_tz.mbis_dipoles",
    "wb97x_tz.mbis_octupoles", "wb97x_tz.mbis_quadrupoles", "wb97x_tz.mbis_volumes",
}  # fmt: skip
CONFORMATION = re.compile(r"^Geom-m(\d+)-i(\d+)-c(\d+)-(opt|d(\d+))$")


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    generate(folder, structures_per_source=16, seed=SEED, processes=2, sources=MOLECULAR)
    return folder


@pytest.fixture
def ani1x(sample):
    with h5py.File(sample / "ani1x" / "ani1x-release.h5") as file:
        yield file


@pytest.fixture
def qm7x(sample):
    with h5py.File(BytesIO(lzma.decompress((sample / "qm7x" / "1000.xz").read_bytes()))) as file:
        yield file


@pytest.fixture
def transition1x(sample):
    with h5py.File(sample / "transition1x" / "Transition1x.h5") as file:
        yield file


def numerical_force(surface, positions, atom, axis, lattice=None, step=0.004):
    shift = np.zeros_like(positions)
    shift[atom, axis] = step
    ahead = surface(positions + shift, lattice).energy
    behind = surface(positions - shift, lattice).energy
    return -(ahead - behind) / (2 * step)


def rock_salt():
    lattice = 5.7 * 0.5 * np.array([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]])
    positions = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]) @ lattice + [[0.1, 0, 0], [0, 0, 0]]
    numbers = np.array([11, 17])
    charges = {"Na": 1, "Cl": -1}
    return Crystal("rocksalt", 225, ("Na", "Cl"), numbers, positions, lattice, charges)


def test_ani1x_groups_have_all_native_keys_with_native_types(ani1x):
    for name, group in ani1x.items():
        assert re.fullmatch(r"([A-Z][a-z]?\d+)+", name)
        assert set(group) == ANI1X_KEYS
        frames, atoms, _ = group["coordinates"].shape
        assert group["atomic_numbers"].dtype == np.uint8
        assert group["atomic_numbers"].shape == (atoms,)
        assert group["coordinates"].dtype == group["wb97x_dz.forces"].dtype == np.float32
        assert group["wb97x_dz.energy"].dtype == np.float64
        assert group["wb97x_tz.forces"].shape == (frames, atoms, 3)
        assert group["wb97x_dz.quadrupole"].shape == (frames, 6)


def test_ani1x_labels_are_complete_while_other_keys_are_mostly_nan(ani1x):
    for group in ani1x.values():
        assert np.isfinite(group["wb97x_dz.energy"][:]).all()
        assert np.isfinite(group["wb97x_dz.forces"][:]).all()
    coupled = np.concatenate([group["hf_dz.energy"][:] for group in ani1x.values()])
    assert np.isnan(coupled).mean() > 0.5


def test_coupled_cluster_energies_are_never_made_up(ani1x):
    # They are labels of a source; the committed ones were computed, those of other seeds are not.
    for group in ani1x.values():
        assert np.isnan(group["ccsd(t)_cbs.energy"][:]).all()


def test_committed_coupled_cluster_energies_follow_the_same_surface_row_by_row():
    with h5py.File(COMMITTED / "ani1x" / "ani1x-release.h5") as file:
        pairs = [
            (group["ccsd(t)_cbs.energy"][:], group["wb97x_dz.energy"][:]) for group in file.values()
        ]
    kept = [(high[known], low[known]) for high, low in pairs if (known := np.isfinite(high)).any()]
    assert sum(len(high) for high, _ in kept) == 228
    # Displacements of a molecule cost alike at both levels; rows in another order would not.
    high, low = (
        np.concatenate([part[side] - part[side].mean() for part in kept]) for side in (0, 1)
    )
    assert np.corrcoef(high, low)[0, 1] > 0.9


def test_ani1x_forces_are_minus_the_gradient_in_hartree_per_angstrom(ani1x):
    group = next(iter(ani1x.values()))
    surface = Surface("GFN2-xTB", group["atomic_numbers"][:].astype(int))
    positions = group["coordinates"][0].astype(float)
    expected = numerical_force(surface, positions, 1, 2) / HARTREE_EV
    assert group["wb97x_dz.forces"][0, 1, 2] == pytest.approx(expected, abs=2e-4)
    assert group["wb97x_dz.energy"][0] * HARTREE_EV == pytest.approx(surface(positions).energy)


def test_qm7x_identifiers_follow_the_scheme_and_start_at_an_equilibrium(qm7x):
    for identity, molecule in qm7x.items():
        matches = [CONFORMATION.match(key) for key in molecule]
        assert all(match and match.group(1) == identity for match in matches)
        equilibria = Counter(key.rsplit("-", 1)[0] for key in molecule)
        assert all(f"{stem}-opt" in molecule and n > 2 for stem, n in equilibria.items())


def test_qm7x_scalars_have_length_one_and_both_label_pairs_agree(qm7x):
    frame = next(iter(next(iter(qm7x.values())).values()))
    assert len(frame) == 42
    assert frame["ePBE0+MBD"].shape == frame["sRMSD"].shape == frame["HLgap"].shape == (1,)
    assert frame["ePBE0+MBD"][0] == pytest.approx(frame["ePBE0"][0] + frame["eMBD"][0], abs=1e-9)
    np.testing.assert_allclose(frame["totFOR"], frame["pbe0FOR"][:] + frame["vdwFOR"][:])


def test_qm7x_total_forces_are_minus_the_gradient_of_the_total_energy(qm7x):
    frame = next(iter(next(iter(qm7x.values())).values()))
    surface = Surface("GFN1-xTB", frame["atNUM"][:])
    expected = numerical_force(surface, frame["atXYZ"][:], 0, 1)
    assert frame["totFOR"][0, 1] == pytest.approx(expected, abs=3e-3)


def test_dispersion_forces_are_minus_the_gradient():
    numbers = np.array([6, 8, 1, 16])
    positions = random_stream(SEED, 1).normal(0.0, 1.5, (4, 3))
    shift = np.zeros((4, 3))
    shift[2, 1] = 1e-4
    ahead = dispersion(numbers, positions + shift)[0]
    behind = dispersion(numbers, positions - shift)[0]
    assert dispersion(numbers, positions)[1][2, 1] == pytest.approx(-(ahead - behind) / 2e-4)


def test_transition1x_paths_hold_ten_images_and_then_eight_per_band(transition1x):
    for reactions in transition1x["data"].values():
        for reaction in reactions.values():
            energies = reaction["wB97x_6-31G(d).energy"]
            assert energies.shape[0] > 10
            assert (energies.shape[0] - 10) % 8 == 0
            assert reaction["positions"].shape == (
                len(energies),
                len(reaction["atomic_numbers"]),
                3,
            )


def test_transition1x_end_points_repeat_frames_of_the_path_bit_for_bit(transition1x):
    for reactions in transition1x["data"].values():
        for reaction in reactions.values():
            for name, index in (("reactant", 0), ("product", 9)):
                for key in ("positions", "wB97x_6-31G(d).energy", "wB97x_6-31G(d).forces"):
                    assert np.array_equal(reaction[name][key][0], reaction[key][index])


def test_transition1x_splits_partition_the_reactions_of_data(transition1x):
    def names(split):
        return {f"{formula}/{rxn}" for formula in transition1x[split]
                for rxn in transition1x[split][formula]}  # fmt: skip

    splits = [names(split) for split in ("train", "val", "test")]
    assert set.union(*splits) == names("data")
    assert sum(map(len, splits)) == len(names("data"))


def test_same_seed_gives_the_same_bytes_for_any_number_of_processes(sample, tmp_path):
    generate(tmp_path, structures_per_source=16, seed=SEED, processes=1, sources=MOLECULAR)
    assert _checksum_lines(tmp_path) == _checksum_lines(sample)


def test_checksums_list_every_file_of_the_sample(sample):
    listed = dict(reversed(line.split("  ")) for line in _checksum_lines(sample))
    present = {f"{path.parent.name}/{path.name}" for path in sample.glob("*/*")}
    assert set(listed) == present
    assert list(listed) == sorted(listed)


def test_another_seed_draws_other_molecules():
    first, second = (
        [task.subject for _, task in zip(range(300), tasks("ani1x", seed), strict=False)]
        for seed in (1, 2)
    )
    assert first != second
    assert set(first) & set(second)


def test_sources_share_some_molecules_and_not_all():
    ani1x, qm7x = (
        {task.subject for _, task in zip(range(200), tasks(source, SEED), strict=False)}
        for source in ("ani1x", "qm7x")
    )
    assert ani1x & qm7x
    assert ani1x - qm7x


def test_duplicates_of_qm7x_repeat_an_earlier_molecule():
    drawn = [task for _, task in zip(range(100), tasks("qm7x", SEED), strict=False)]
    repeated = [task for task in drawn if task.origin is not None]
    assert len(repeated) == 3
    assert all(drawn[task.origin].subject == task.subject for task in repeated)


def test_displaced_atoms_keep_their_distance():
    rng = random_stream(SEED, 2)
    molecule = conformers("CCO", rng, count=1)[0]
    geometries = displaced_geometries(
        molecule, molecule.positions, rng, count=8, temperatures=(300.0, 1000.0)
    )
    assert min(closest_contact(molecule.numbers, geometry) for geometry in geometries) > 0.6
    assert molecule.mode_energies.max() == pytest.approx(0.46, abs=0.06)


def test_relaxation_of_a_molecule_ends_where_forces_are_small():
    molecule = conformers("CO", random_stream(SEED, 3), count=1)[0]
    frame = relax_molecule(Surface("GFN2-xTB", molecule.numbers), molecule.positions)
    assert np.abs(frame.label.forces).max() < 0.05


def test_relaxation_of_a_crystal_lowers_the_energy_and_the_stress():
    crystal = rock_salt()
    surface = Surface("GFN1-xTB", crystal.numbers)
    frames = relax_crystal(
        surface, crystal.positions, crystal.lattice, settled=lambda _: False, steps=4
    )
    assert frames[-1].label.energy < frames[0].label.energy
    assert np.abs(frames[-1].label.forces).max() < np.abs(frames[0].label.forces).max()


def test_stress_is_in_kbar_and_positive_under_compression():
    crystal = rock_salt()
    surface = Surface("GFN1-xTB", crystal.numbers)
    frame = Frame(crystal.positions, crystal.lattice, surface(crystal.positions, crystal.lattice))
    strain = 2e-3 * np.eye(3)
    energies = [
        surface(crystal.positions @ deformation, crystal.lattice @ deformation).energy
        for deformation in (np.eye(3) + strain, np.eye(3) - strain)
    ]
    tension = (energies[0] - energies[1]) / 4e-3 / abs(np.linalg.det(crystal.lattice))
    kbar = tension / VASP_STRESS_KBAR_TO_EV_PER_CUBIC_ANGSTROM
    assert np.trace(vasp_stress(frame)) == pytest.approx(kbar, rel=0.02, abs=0.5)
    assert VASP_STRESS_KBAR_TO_EV_PER_CUBIC_ANGSTROM < 0


def test_correction_depends_on_anions_only():
    assert anion_correction(rock_salt()) == pytest.approx(-0.614)


@pytest.mark.parametrize(
    "arguments",
    [
        {"structures_per_source": 0, "seed": 1},
        {"structures_per_source": 5, "seed": -1},
        {"structures_per_source": 5, "seed": 1, "processes": 0},
        {"structures_per_source": 5, "seed": 1, "sources": ["ani2x"]},
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path, arguments):
    with pytest.raises(SampleError):
        generate(tmp_path, **arguments)


def test_committed_files_match_their_checksums():
    if not (COMMITTED / CHECKSUMS).is_file():
        pytest.skip("the committed sample is not part of this copy")
    lines = _checksum_lines(COMMITTED)
    assert {line.split("  ")[1].split("/")[0] for line in lines} == set(SOURCES)
    for line in lines:
        digest, name = line.split("  ")
        assert sha256((COMMITTED / name).read_bytes()).hexdigest() == digest, name


def _checksum_lines(folder):
    return (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines()
