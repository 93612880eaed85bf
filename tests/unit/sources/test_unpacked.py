import signal
import subprocess
import sys
from pathlib import Path

from mtlpar.sources.unpacked import temporary_beside


def test_what_a_killed_process_leaves_is_removed_by_the_next(tmp_path):
    raw = tmp_path / "1000.xz"
    raw.touch()
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from mtlpar.sources.unpacked import temporary_beside\n"
        "with temporary_beside(Path(sys.argv[1])) as stream:\n"
        "    stream.write(b'half'), stream.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, raw], check=False)
    assert killed.returncode == -signal.SIGKILL
    # Unpacked, a file of QM7-X has 1 to 4 GB: a few killed runs would fill the disk.
    assert len(list(tmp_path.glob(".1000.xz.*.tmp"))) == 1
    with temporary_beside(raw) as stream:
        assert [path.name for path in tmp_path.glob(".*.tmp")] == [Path(stream.name).name]
    assert list(tmp_path.iterdir()) == [raw]


def test_a_file_in_use_is_left_alone(tmp_path):
    # Several jobs may unpack the same file, each for its share of the pieces.
    raw = tmp_path / "1000.xz"
    with temporary_beside(raw) as first, temporary_beside(raw) as second:
        assert first.name != second.name
        assert len(list(tmp_path.iterdir())) == 2
    assert list(tmp_path.iterdir()) == []


def test_files_of_other_machines_are_left_alone(tmp_path):
    raw = tmp_path / "1000.xz"
    other = tmp_path / ".1000.xz.another-node.abc.tmp"
    other.touch()
    with temporary_beside(raw):
        pass
    assert other.exists()
