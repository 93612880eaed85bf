"""Progress bars add up, and logs stay free of them."""

import io
import logging

import pytest
from tqdm import tqdm

from mtlpar.download import progress as module
from mtlpar.download.progress import ProgressBars


@pytest.fixture
def screen(monkeypatch):
    """What a terminal would show."""
    screen = io.StringIO()

    def bar(name, total, *, leave):
        return tqdm(desc=name, total=total, leave=leave, file=screen, mininterval=0)

    monkeypatch.setattr(module, "_bar", bar)
    return screen


def test_the_bar_of_all_files_is_the_sum_of_theirs(screen):
    with ProgressBars(100) as progress:
        with progress.file("a", 60) as a, progress.file("b", None) as b:
            a.move_to(50)
            # The server of a has no ranges, so it starts again; the length of b becomes known.
            a.move_to(0)
            b.expect(40)
            b.move_to(30)
            a.move_to(60)
        assert progress._all.n == 90
        assert progress._all.total == 140


def test_files_that_wait_have_no_bar(screen):
    with ProgressBars(10) as progress, progress.file("waiting", 10):
        pass
    assert "waiting" not in screen.getvalue()


def test_nothing_is_drawn_where_no_terminal_is(capsys):
    with ProgressBars(10) as progress, progress.file("a", 10) as a:
        a.move_to(10)
        logging.getLogger("mtlpar").info("line")
    assert "B/s" not in capsys.readouterr().err
