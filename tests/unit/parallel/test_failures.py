"""What explains that ranks are lost is asked while it holds, and let go afterwards."""

from __future__ import annotations

import weakref
from functools import partial

from mtlpar.parallel.failures import FailureDetector


class _Trainer:
    """Something that holds open files."""

    def loss_of(self, ranks: object, what: str) -> str:
        return f"after step 3, {what}: {ranks}"


def test_what_explained_lost_ranks_is_let_go_with_its_block() -> None:
    # The detector lives until the process ends; packs that it keeps open until then are listed as
    # leaks, behind the last line of a user's log.
    failures, trainer = FailureDetector(), _Trainer()
    held = weakref.ref(trainer)
    with failures.described_by(partial(_Trainer.loss_of, trainer)):
        del trainer
        assert held() is not None
    assert held() is None
