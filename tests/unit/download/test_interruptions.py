"""Processes that are killed, and processes that want the same file: the bytes stay right."""

import hashlib
import json
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from mtlpar.download import stage
from mtlpar.download.settings import DownloadSettings

NAMES = ("alexandria_000.json.bz2", "alexandria_001.json.bz2")
PROGRAM = """
import sys
from pathlib import Path
from mtlpar.core.log import set_up_logging
from mtlpar.core.paths import Workspace
from mtlpar.download.settings import DownloadSettings
from mtlpar.download.stage import run

folder = Path(sys.argv[1])
set_up_logging()
run(
    "alexandria",
    workspace=Workspace(raw=folder / "raw", results=folder / "results"),
    settings=DownloadSettings(retries=0, timeout_s=20),
    catalogue=folder / "sources.csv",
)
"""


@pytest.fixture
def slow_release(server, tmp_path, catalogue):
    """Two random files of a megabyte that take about half a second, and no published checksum."""
    rng = np.random.default_rng(0)
    contents = {name: rng.bytes(1_000_000) for name in NAMES}
    server.files = {f"/pbe/{name}": content for name, content in contents.items()}
    server.files["/pbe/"] = "".join(f'<a href="{name}">x</a>' for name in NAMES).encode()
    server.etag = '"v1"'
    server.chunk_bytes, server.chunk_pause_s = 20_000, 0.01
    catalogue(("alexandria", "alexandria_*.json.bz2", "/pbe/", "listing"))
    return contents


def start(folder):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder)], stderr=subprocess.PIPE, text=True
    )


def products(folder):
    """Everything that a download leaves behind, by path."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "sources.csv"
    }


def test_a_download_that_was_killed_again_and_again_ends_with_the_same_bytes(
    slow_release, server, tmp_path
):
    # Killed early and late in the transfers and near the manifest; nothing published would catch a
    # wrong seam, only the contents compared here.
    for killed_after in (300_000, 900_000, 1_900_000):
        process = start(tmp_path)
        while server.sent_bytes < killed_after and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    last = start(tmp_path)
    _, log = last.communicate()
    assert last.returncode == 0, log
    for name, content in slow_release.items():
        assert (tmp_path / "raw" / "alexandria" / name).read_bytes() == content
    # Resumed, not started over: what was received is not asked for again, up to what was on its
    # way in the moments of the kills.
    assert server.sent_bytes < 1.6 * sum(map(len, slow_release.values()))
    interrupted = products(tmp_path)

    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    (undisturbed / "sources.csv").write_bytes((tmp_path / "sources.csv").read_bytes())
    server.chunk_pause_s = 0
    process = start(undisturbed)
    process.communicate()
    assert interrupted == products(undisturbed)


def test_two_processes_share_one_transfer_of_a_file(slow_release, server, tmp_path):
    server.chunk_pause_s = 0.5
    first = start(tmp_path)
    while server.sent_bytes == 0:
        time.sleep(0.005)
    second = start(tmp_path)
    # However late it starts: the first one is not done before.
    said = next((line for line in second.stderr if "waiting for it" in line), "")
    assert "another process; waiting for it" in said
    server.chunk_pause_s = 0.01
    logs = [process.communicate()[1] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), logs
    for name, content in slow_release.items():
        assert (tmp_path / "raw" / "alexandria" / name).read_bytes() == content
        assert len(server.ranges_asked(f"/pbe/{name}")) == 1
    names = {path.name for path in (tmp_path / "raw" / "alexandria").iterdir()}
    assert names == {*NAMES, "manifest.json"}


def test_a_process_that_waits_takes_over_when_the_other_is_killed(slow_release, server, tmp_path):
    first = start(tmp_path)
    while server.sent_bytes < 300_000:
        time.sleep(0.005)
    second = start(tmp_path)
    time.sleep(0.1)
    first.kill()
    first.communicate()
    _, log = second.communicate()
    assert second.returncode == 0, log
    for name, content in slow_release.items():
        assert (tmp_path / "raw" / "alexandria" / name).read_bytes() == content


def test_the_keyboard_stops_all_transfers_and_the_next_run_goes_on(
    slow_release, server, workspace, tmp_path, monkeypatch
):
    server.chunk_pause_s = 0.05

    def transfers():
        # Not all threads of the process: other tests may have left some.
        return [one for one in threading.enumerate() if one.name.startswith("mtlpar-download")]

    def interrupt(futures):
        assert transfers()
        while server.sent_bytes < 100_000:
            time.sleep(0.005)
        raise KeyboardInterrupt

    def download():
        stage.run(
            "alexandria",
            workspace=workspace,
            settings=DownloadSettings(retries=0),
            catalogue=tmp_path / "sources.csv",
        )

    with monkeypatch.context() as patch:
        patch.setattr(stage, "as_completed", interrupt)
        with pytest.raises(KeyboardInterrupt):
            download()
    assert not transfers()
    assert server.sent_bytes < 1_000_000
    assert not workspace.raw_manifest("alexandria").exists()
    server.chunk_pause_s = 0
    download()
    manifest = json.loads(workspace.raw_manifest("alexandria").read_text())
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in slow_release.items()}
    assert {file["name"]: file["sha256"] for file in manifest["files"]} == sums
    assert server.ranges_asked(f"/pbe/{NAMES[0]}")[-1] is not None
