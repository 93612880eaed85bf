"""Damaged raw files of every source: an error that names the place, or counted and skipped.

The files are those of the embedded sample, spoilt one by one. Whatever was done to them, a run that
skips damage must keep every row before it, and its books must balance.
"""

import bz2
import json
import lzma
import re
import shutil
from functools import cache

import h5py
import numpy as np
import pytest
from helpers import REPOSITORY, write_raw_manifest

from mtlpar.core.files import file_digest, read_json
from mtlpar.core.paths import Workspace
from mtlpar.extract.settings import ExtractSettings
from mtlpar.extract.stage import run

SAMPLE = REPOSITORY / "workflow" / "sample"
FILES = {
    "ani1x": "ani1x-release.h5",
    "qm7x": "1000.xz",
    "mptrj": "MPtrj_2022.9_full.json",
    "alexandria": "alexandria_000.json.bz2",
    "transition1x": "Transition1x.h5",
}


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])


def empty(path):
    path.write_bytes(b"")


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


def replace_by_html(path):
    path.write_bytes(b"<!DOCTYPE html><html><body>403 Forbidden</body></html>")


def flip_bits(path):
    content = bytearray(path.read_bytes())
    # In compressed files one bit breaks a checksum. HDF5 and JSON have none, so break structure:
    # in a file of many groups the heaps in which some keep their names, or any places.
    heaps = [found.start() for found in re.finditer(b"FRHP", content)]
    places = [int(len(content) * part) for part in np.linspace(0.4, 0.6, 5)]
    for start in heaps[-5:] if len(heaps) > 100 else places:
        content[start : start + 64] = bytes(byte ^ 0xA5 for byte in content[start : start + 64])
    path.write_bytes(bytes(content))


def wrong_keys(path):
    rewrite(path, lambda name: f"{name}x" if name in LABELS else name)


def wrong_shapes(path):
    rewrite(path, lambda name: name, cut=True)


LABELS = {"wb97x_dz.forces", "totFOR", "wB97x_6-31G(d).forces", "structure"}


def rewrite(path, rename, *, cut=False):
    """Rename or shorten the labels of the first few records of a file."""
    if path.suffix == ".json":
        content = json.loads(path.read_text())
        frames = next(iter(content.values()))
        for frame in frames.values():
            spoil(frame, rename, cut)
        path.write_text(json.dumps(content))
    elif path.suffix == ".bz2":
        content = json.loads(bz2.decompress(path.read_bytes()))
        for entry in content["entries"][:3]:
            spoil(entry, rename, cut)
        path.write_bytes(bz2.compress(json.dumps(content).encode()))
    elif path.suffix == ".xz":
        plain = path.with_suffix(".plain")
        plain.write_bytes(lzma.decompress(path.read_bytes()))
        rewrite_hdf5(plain, rename, cut)
        path.write_bytes(lzma.compress(plain.read_bytes(), preset=0))
        plain.unlink()
    else:
        rewrite_hdf5(path, rename, cut)


def spoil(record, rename, cut):
    if cut:
        record["structure"]["lattice"]["matrix"].pop()
    else:
        record[rename("structure")] = record.pop("structure")


def rewrite_hdf5(path, rename, cut):
    spoilt = []
    with h5py.File(path, "r+") as file:

        def visit(name, found):
            if isinstance(found, h5py.Dataset) and name.split("/")[-1] in LABELS:
                spoilt.append(name)
            return True if len(spoilt) == 2 else None

        # The splits come after data, which is not read where they are.
        file.get("train", file).visititems(visit)
        prefix = "train/" if "train" in file else ""
        for name in (f"{prefix}{one}" for one in spoilt):
            values = file[name][()]
            del file[name]
            if cut:
                file[name] = values[:, :1]
            else:
                parent, _, key = name.rpartition("/")
                file[f"{parent}/{rename(key)}"] = values


DAMAGES = (
    truncate, empty, replace_by_folder, replace_by_html, flip_bits, wrong_keys, wrong_shapes,
)  # fmt: skip


# Sources of which nothing is left: HDF5 refuses what is cut off, an archive that holds it must be
# whole, and a bzip2 file of this size is a single block.
NOTHING_LEFT = {
    truncate: ("ani1x", "qm7x", "transition1x", "alexandria"),
    flip_bits: ("qm7x", "alexandria"),
    empty: tuple(FILES),
    replace_by_folder: tuple(FILES),
    replace_by_html: tuple(FILES),
}


@pytest.fixture
def workspace(tmp_path):
    return Workspace(raw=tmp_path / "raw", results=tmp_path / "results")


@pytest.fixture
def spoilt(workspace):
    """Put a spoilt file of a source into the raw folder, with a manifest that vouches for it."""
    return lambda source, damage: put(workspace, source, damage)


def put(workspace, source, damage):
    folder = workspace.raw_folder(source)
    folder.mkdir(parents=True)
    path = folder / FILES[source]
    shutil.copyfile(SAMPLE / source / FILES[source], path)
    if source == "qm7x":
        shutil.copyfile(SAMPLE / source / "DupMols.dat", folder / "DupMols.dat")
    damage(path)
    size, digest = (0, "0" * 64) if path.is_dir() else (path.stat().st_size, file_digest(path))
    entry = {"name": path.name, "bytes": size, "sha256": digest, "url": "", "kind": "data"}
    write_raw_manifest(workspace, source, [entry])
    return path


SKIPPING = ExtractSettings(on_error="skip", piece_bytes=300_000)


def unspoilt(path):
    pass


@pytest.fixture(scope="module")
def skipped(tmp_path_factory):
    """Let a run skip the damage of a file: its path and the manifest; each is run once."""

    @cache
    def make(source, damage):
        folder = tmp_path_factory.mktemp("skipped")
        workspace = Workspace(raw=folder / "raw", results=folder / "results")
        path = put(workspace, source, damage)
        run(source, workspace=workspace, settings=SKIPPING)
        return path, read_json(workspace.extracted_manifest(source))

    return make


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("source", FILES)
def test_damage_is_an_error_that_names_the_file_or_a_balanced_entry(
    workspace, spoilt, skipped, source, damage
):
    path = spoilt(source, damage)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        run(source, workspace=workspace, settings=ExtractSettings())
    assert not workspace.extracted_manifest(source).exists()
    if source in NOTHING_LEFT.get(damage, ()):
        with pytest.raises(ValueError, match=f"no usable structure .*{re.escape(str(path))}"):
            run(source, workspace=workspace, settings=SKIPPING)
        return
    path, content = skipped(source, damage)
    kept = sum(part["num_structures"] for part in content["parts"])
    assert kept > 0
    assert content["rows"] == kept + sum(content["dropped"].values())
    assert any(str(path) in message for message in content["files"][0]["damage"])


@pytest.mark.parametrize("damage", [wrong_keys, wrong_shapes, flip_bits, truncate])
@pytest.mark.parametrize("source", FILES)
def test_damage_in_a_file_says_once_that_it_can_be_skipped(workspace, spoilt, source, damage):
    path = spoilt(source, damage)
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        run(source, workspace=workspace, settings=ExtractSettings())
    assert str(caught.value).count("extract.on_error to skip") == 1


@pytest.mark.parametrize("damage", [wrong_keys, wrong_shapes])
@pytest.mark.parametrize("source", FILES)
def test_records_that_are_damaged_cost_only_themselves(skipped, source, damage):
    (_, content), (_, whole) = skipped(source, damage), skipped(source, unspoilt)
    assert content["rows"] == whole["rows"]
    assert not whole["files"][0]["damage"]
    lost = content["dropped"]["damaged_record"]
    kept = [sum(part["num_structures"] for part in one["parts"]) for one in (content, whole)]
    # Some of them would have been dropped for another reason.
    assert 0 < kept[1] - kept[0] <= lost < 0.2 * whole["rows"]


def test_only_what_stands_after_a_cut_is_lost(workspace, spoilt):
    # JSON that ends early: every whole material before the end is there.
    path = spoilt("mptrj", lambda path: path.write_bytes(path.read_bytes()[:2_000_000]))
    frames = json.loads((SAMPLE / "mptrj" / FILES["mptrj"]).read_text())
    whole, length = 0, 1
    for material, content in frames.items():
        length += len(json.dumps({material: content}))
        whole += len(content) if length <= 2_000_000 else 0
    run("mptrj", workspace=workspace, settings=ExtractSettings(on_error="skip"))
    file = read_json(workspace.extracted_manifest("mptrj"))["files"][0]
    assert file["rows"] == whole
    assert f"{path} is damaged or cut off" in file["damage"][0]
    assert f"Of it {whole} structures could be read" in file["damage"][0]


def test_other_files_are_read_when_one_is_damaged(workspace, spoilt):
    path = spoilt("alexandria", replace_by_html)
    other = path.with_name("alexandria_001.json.bz2")
    shutil.copyfile(SAMPLE / "alexandria" / other.name, other)
    manifest = read_json(workspace.raw_manifest("alexandria"))
    entry = {**manifest["files"][0], "name": other.name, "bytes": other.stat().st_size}
    listed = [*manifest["files"], {**entry, "sha256": file_digest(other)}]
    write_raw_manifest(workspace, "alexandria", listed)
    run("alexandria", workspace=workspace, settings=ExtractSettings(on_error="skip"))
    first, second = read_json(workspace.extracted_manifest("alexandria"))["files"]
    assert (first["rows"], len(first["damage"])) == (0, 1)
    assert (second["rows"] > 50, second["damage"]) == (True, [])


def test_a_bit_that_changed_since_the_download_stops_the_stage(workspace, spoilt):
    # A wrong label that no format notices: one bit of one coordinate.
    path = spoilt("ani1x", lambda path: None)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))} has changed since its download"):
        run("ani1x", workspace=workspace, settings=ExtractSettings())
    assert not workspace.extracted_manifest("ani1x").exists()


def test_a_file_that_changed_since_its_download_is_listed_and_read(workspace, spoilt):
    path = spoilt("alexandria", lambda path: None)
    path.write_bytes(path.read_bytes() + b"\0")
    run("alexandria", workspace=workspace, settings=ExtractSettings(on_error="skip"))
    file = read_json(workspace.extracted_manifest("alexandria"))["files"][0]
    assert file["rows"] > 50
    assert "has changed since its download: sha256 is" in file["damage"][0]
