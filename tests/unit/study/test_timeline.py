"""Where the time of a step goes, on steps whose answer is known."""

from __future__ import annotations

import pytest

from mtlpar.study.timeline import Span, break_down, steps_of

# Rank 0 computes 4 s and rank 1 computes 6 s. Rank 0 sends its first bucket at 3 s and its second
# at 4.5 s, rank 1 at 5 s and 6 s. A sum takes a second from when both have sent it: the first runs
# from 5 to 6 s, beside rank 1's backward pass, the second from 6 to 7 s, beside nothing.
FAST = [
    Span("data", 0.0, 0.5), Span("compute", 0.5, 4.5), Span("reduce", 4.5, 7.0),
    Span("update", 7.0, 7.5), Span("sum the encoder", 3.0, 6.0), Span("sum the encoder", 4.5, 7.0),
]  # fmt: skip
SLOW = [
    Span("data", 0.0, 0.0), Span("compute", 0.0, 6.0), Span("reduce", 6.0, 7.0),
    Span("update", 7.0, 7.5), Span("sum the encoder", 5.0, 6.0), Span("sum the encoder", 6.0, 7.0),
]  # fmt: skip


def _later(spans: list[Span], seconds: float) -> list[Span]:
    return [span.shifted(seconds) for span in spans]


def test_waiting_ends_when_the_last_rank_has_sent_and_the_rest_is_the_sum() -> None:
    fast, slow = break_down([steps_of(FAST), steps_of(SLOW)])
    # Rank 0 has nothing to do from 4.5 s on. Until 5 s it waits for rank 1; the first sum is
    # exposed on rank 0 and hidden on rank 1.
    assert fast["waiting"] == pytest.approx(0.5)
    assert (fast["encoder_exposed"], fast["encoder_hidden"]) == pytest.approx((2.0, 0.0))
    assert slow["waiting"] == pytest.approx(0.0)
    assert (slow["encoder_exposed"], slow["encoder_hidden"]) == pytest.approx((1.0, 1.0))
    assert fast["step"] == slow["step"] == pytest.approx(7.5)


def test_clocks_that_differ_between_ranks_change_nothing() -> None:
    # A node's clock may be an hour off. Steps of both ranks are repeated, and averaged.
    one = break_down([steps_of(FAST), steps_of(SLOW)])
    ahead = _later(SLOW, 3600.0)
    two = break_down([steps_of(FAST + _later(FAST, 7.5)), steps_of(ahead + _later(ahead, 7.5))])
    for before, after in zip(one, two, strict=True):
        assert after == pytest.approx(before, abs=1e-9)


def test_gathers_of_shards_are_taken_out_of_the_passes() -> None:
    # Both compute from 0 to 6 s. Rank 0 asks for a layer at 1 s and rank 1 at 2 s; it comes at 3 s.
    # A second comes at 5 s, asked for at 4 s by both. Rank 0 is a GPU with work until 4.5 s.
    def spans(*asked: float) -> list[Span]:
        gathers = [Span("shards", start, end) for start, end in zip(asked, (3.0, 5.0), strict=True)]
        return [
            Span("data", 0.0, 0.0), Span("compute", 0.0, 6.0), Span("reduce", 6.0, 6.0),
            Span("update", 6.0, 7.0), *gathers,
        ]  # fmt: skip

    first, second = break_down(
        [steps_of([*spans(1.0, 4.0), Span("kernel", 3.5, 4.5)]), steps_of(spans(2.0, 4.0))]
    )
    # Rank 0 stands still from 1 to 3 s, in the first of which nothing moves yet, and from 4.5 s.
    assert first["waiting"] == pytest.approx(1.0)
    assert (first["encoder_exposed"], first["encoder_hidden"]) == pytest.approx((1.5, 0.5))
    assert first["compute"] == pytest.approx(6.0 - 2.5)
    assert (second["waiting"], second["encoder_exposed"]) == pytest.approx((0.0, 2.0))
    parts = ("data", "compute", "encoder_exposed", "branch_exposed", "waiting", "update")
    for rank in (first, second):
        assert rank["step"] == pytest.approx(sum(rank[part] for part in parts))


def test_a_sum_beside_a_rank_that_waits_for_shards_is_hidden_by_nothing() -> None:
    # The rank stands still from 1 to 4 s. Of the branch's sum only the second from 4 to 5 s lies
    # beside work.
    spans = [
        Span("data", 0.0, 0.0), Span("compute", 0.0, 5.0), Span("reduce", 5.0, 5.0),
        Span("update", 5.0, 6.0), Span("shards", 1.0, 4.0), Span("sum branch a", 2.0, 5.0),
    ]  # fmt: skip
    (alone,) = break_down([steps_of(spans)])
    assert alone["compute"] == pytest.approx(2.0)
    assert alone["branch_hidden"] == pytest.approx(1.0)


def test_a_branch_sum_beside_an_encoder_sum_counts_once() -> None:
    spans = [
        Span("data", 0.0, 1.0), Span("compute", 1.0, 2.0), Span("reduce", 2.0, 6.0),
        Span("update", 6.0, 7.0), Span("sum branch a", 1.5, 5.0), Span("sum the encoder", 4.0, 6.0),
    ]  # fmt: skip
    (alone,) = break_down([steps_of(spans)])
    # From 2 to 6 s: the branch alone until 4 s, then the encoder.
    assert (alone["branch_exposed"], alone["encoder_exposed"]) == pytest.approx((2.0, 2.0))
    assert (alone["branch_hidden"], alone["waiting"]) == pytest.approx((0.5, 0.0))
    parts = ("data", "compute", "encoder_exposed", "branch_exposed", "waiting", "update")
    assert alone["step"] == pytest.approx(sum(alone[part] for part in parts))
