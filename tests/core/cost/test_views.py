import pytest

from agent.core.cost.views import Claim, Owner, SlotView, why_owned


def test_owners_are_in_order_of_their_names_and_the_same_owners_are_equal() -> None:
    """The tariff shares a cell among equal owners once, in this order."""
    a, b = Owner("a", ready=True), Owner("b", ready=False)
    assert sorted([b, a]) == [a, b]
    assert {(a, b): 1}[Owner("a", ready=True), Owner("b", ready=False)] == 1


def test_a_view_without_more_is_a_slot_in_a_state() -> None:
    view = SlotView("GPU-0", 1, "gap")
    assert (view.reason, view.owners, view.holders) == ("", (), ())


def test_claims_of_two_engines_differ_though_they_look_alike() -> None:
    here = frozenset({7})
    assert len({Claim(Owner(name, ready=True), configured=False, pids=here) for name in "ab"}) == 2


@pytest.mark.parametrize(
    ("works", "reason"),
    [
        ([None], "process"),
        ([True], "group_worker"),
        ([False], "group_idle"),
        ([False, True], "group_worker"),
        ([None, True], "process"),
    ],
)
def test_a_slot_that_only_works_for_other_nodes_says_so(works: list[bool | None], reason: str) -> None:
    owners = [Owner(str(n), ready=True, works=one) for n, one in enumerate(works)]
    assert why_owned(owners, "process") == reason
