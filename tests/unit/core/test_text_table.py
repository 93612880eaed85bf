"""Tables for a terminal line up."""

from __future__ import annotations

from mtlpar.core.text_table import aligned


def test_columns_line_up_on_the_side_that_is_asked_for() -> None:
    # The longest cells are in different rows, and the last cell is shorter than its column.
    rows = [("layout", "step", "note"), ("mtl", "1,200 ms", "a")]
    assert aligned(rows) == ["layout      step  note", "mtl     1,200 ms     a"]
    assert aligned(rows, "lll", indent=2) == ["  layout  step      note", "  mtl     1,200 ms  a"]
