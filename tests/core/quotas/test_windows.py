from hypothesis import given
from hypothesis import strategies as st

from agent.core.quotas.windows import NS, Window

steps = st.lists(st.tuples(st.integers(0, 20 * NS), st.integers(0, 50)), max_size=40)


@given(steps)
def test_the_total_is_never_less_than_what_came_in_the_window_and_at_most_one_cell_more(steps: list[tuple[int, int]]):
    window, now, came = Window(), 10**15, []
    for passed, amount in steps:
        now += passed
        window.add(now, amount)
        came.append((now, amount))
        total = window.total(now)
        assert total >= sum(amount for at, amount in came if at > now - 60 * NS)
        assert total <= sum(amount for at, amount in came if at > now - 61 * NS)


@given(steps, st.integers(1, 200))
def test_after_the_told_wait_so_much_has_left(steps: list[tuple[int, int]], amount: int):
    window, now = Window(), 10**15
    for passed, one in steps:
        now += passed
        window.add(now, one)
    before, wait = window.total(now), window.wait_ns(now, amount)
    if wait is None:
        assert before < amount
    else:
        assert window.total(now + wait) <= before - amount


def test_a_charge_is_changed_where_it_was_made():
    window = Window()
    mark = window.add(100 * NS, 50)
    window.change(mark, -20, 130 * NS)
    assert window.total(130 * NS) == 30
    window.change(mark, 5, 150 * NS)  # more than was reserved counts from now on
    assert window.total(162 * NS) == 5
    window.change(mark, -5, 170 * NS)  # it has left: nothing comes back
    assert window.total(170 * NS) == 5


def test_no_more_is_given_back_than_was_counted():
    window = Window()
    mark = window.add(NS, 5)
    window.change(mark, -50, NS)
    assert window.total(NS) == 0


def test_a_charge_late_in_its_cell_counts_for_the_whole_window():
    window = Window()
    window.add(100_900_000_000, 5)
    assert window.total(160_899_999_999) == 5
    assert window.total(161 * NS) == 0
