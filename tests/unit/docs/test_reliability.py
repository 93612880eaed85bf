"""Every promise of the page on reliability has a test that exists."""

from __future__ import annotations

import re

from helpers import REPOSITORY


def test_each_promise_names_tests_that_are_there() -> None:
    page = (REPOSITORY / "docs" / "reliability.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    promises = [row for row in rows if not row.endswith("| test |")]
    assert len(promises) > 15
    for row in promises:
        named = re.findall(
            r"`((?:unit|parity|workflow|slurm)[\w/.]*)`", row.rsplit("|", maxsplit=2)[1]
        )
        assert named, row
        for name in named:
            assert (REPOSITORY / "tests" / name).exists(), name
