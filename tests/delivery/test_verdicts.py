"""Verdicts by tables."""

from agent.core.ports import Paused, Rejected, TryLater
from agent.delivery.verdicts import not_one_each, sorted_out


def test_each_item_goes_where_it_belongs():
    bad, busy, locked = Rejected("bad"), TryLater("busy", 9.0), Paused("read-only")
    found = sorted_out(["delivered", bad, "duplicate", busy, "delivered", "refused_kept", locked])
    assert found.stored == {"delivered": [0, 4], "duplicate": [2], "refused_kept": [5]}
    assert found.refused == [(1, bad)]
    assert found.later == [3, 6]
    assert found.asks is locked


def test_the_longest_wish_counts_and_a_pause_before_all():
    short, long, none = TryLater("a", 1.0), TryLater("b", 5.0), TryLater("c")
    assert sorted_out([none, short, long, none]).asks is long
    assert sorted_out([long, Paused("d")]).asks is not long
    assert sorted_out([]) == ({}, [], [], None)


def test_a_wrong_count_is_named():
    assert "3 items of 4" in not_one_each(3, 4).reason
