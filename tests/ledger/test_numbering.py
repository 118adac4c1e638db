from hypothesis import given
from hypothesis import strategies as st

from agent.ledger import numbering
from agent.ledger.numbering import Numbers


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(0, 60))
def test_a_number_is_new_once_in_whatever_order_they_come(numbers: list[int], restart_at: int) -> None:
    kept, came = Numbers(), set[int]()
    for at, number in enumerate(numbers):
        if at == restart_at:
            kept = Numbers(kept.through, kept.holes)
        assert kept.add(number) is (number not in came)
        came.add(number)
        assert kept.through == max(came)
    again = Numbers(kept.through, kept.holes)
    assert again.holes == kept.holes
    assert not any(again.add(number) for number in came)
    absent = set(range(1, kept.through)) - came
    assert (kept.holes is None) is not absent
    assert all(kept.add(number) for number in absent)
    assert (kept.holes, kept.missing) == (None, 0)


@given(st.lists(st.integers(2, 40), min_size=1))
def test_what_is_missing_lies_between_numbers_that_came(numbers: list[int]) -> None:
    kept = Numbers()
    for number in sorted(numbers):
        kept.add(number)
    assert kept.missing == max(numbers) - min(numbers) + 1 - len(set(numbers))


def test_of_too_many_holes_the_oldest_is_given_up_and_stays_counted() -> None:
    kept = Numbers()
    for number in range(1, 2 * numbering.MAX_GAPS + 6, 2):
        kept.add(number)
    assert kept.missing == numbering.MAX_GAPS + 2
    assert kept.given_up == 2
    again = Numbers(kept.through, kept.holes)
    assert (again.missing, again.given_up) == (kept.missing, 2)
    assert [again.add(number) for number in (2, 4, 6)] == [False, False, True]
    assert again.missing == kept.missing - 1


def test_splitting_a_hole_keeps_to_the_limit() -> None:
    kept = Numbers()
    kept.add(1)
    kept.add(10_000)
    for number in range(3, 3 * numbering.MAX_GAPS, 2):
        kept.add(number)
    assert len((kept.holes or "").split(",")) <= 2 * numbering.MAX_GAPS + 1
    assert kept.missing == 9_998 - len(range(3, 3 * numbering.MAX_GAPS, 2))
