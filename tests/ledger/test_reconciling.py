"""The proof, from each grain: exact where everything is booked exactly, and one unit too many or too few is seen."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, update

from agent.core.cost.closed import Amount
from agent.ledger.reconciling import reconcile
from agent.ledger.tables import DAY, HOUR, MINUTE, accounts, entries
from tests.support.booked import M0, MINUTE_NS, T0, Place, account, booked, forget, place
from tests.support.money import NS, book, expected_bill

GRAINS = (DAY, HOUR, MINUTE)
BILL = expected_bill(T0, T0 + MINUTE_NS)
FOUND = (account(prices=book()), account("GPU-1"))
RIGHT = (
    (M0, place("unallocated"), Amount(MINUTE_NS, BILL, energy_uj=70, metered_ns=MINUTE_NS)),
    (M0, place("unallocated", "GPU-1"), Amount(MINUTE_NS)),
)


def test_the_proof_of_a_gpu_that_is_booked_exactly() -> None:
    rows = (
        (M0, place("request", outcome="ok"), Amount(40 * NS, BILL - 7, 1, energy_uj=5, metered_ns=30 * NS)),
        (M0, place("request", outcome="error"), Amount(5 * NS, 4, 1, energy_uj=2, metered_ns=5 * NS)),
        (M0, place("gap"), Amount(15 * NS, 3)),
        (M0, place("unallocated", gpu="GPU-1"), Amount(MINUTE_NS)),
        (M0, place("request", gpu="", account_ns=0), Amount(requests=1)),  # of an engine whose GPUs are unknown
    )
    with booked(rows, FOUND, through_ns=T0 + MINUTE_NS, energy={"GPU-0": 7}) as connection:
        proof = reconcile(connection, "node-a")
    assert (proof.node, proof.currency, proof.bill_nano, proof.reconciles) == ("node-a", "CNY", BILL, True)
    assert proof.parts_nano == {"request": BILL - 3, "gap": 3}
    first, second = proof.slots
    assert (first.gpu, first.from_ns, first.to_ns, first.wall_ns) == ("GPU-0", T0, T0 + MINUTE_NS, MINUTE_NS)
    assert (first.parts_ns, first.bill_nano) == ({"gap": 15 * NS, "request": 45 * NS}, BILL)
    assert (first.energy_uj, first.parts_uj, first.metered_ns) == (7, {"gap": 0, "request": 7}, 35 * NS)
    assert (second.parts_ns, second.bill_nano, second.parts_nano) == ({"unallocated": MINUTE_NS}, None, {})
    assert (second.energy_uj, second.parts_uj, second.metered_ns) == (None, {}, 0)


@pytest.mark.parametrize(
    ("where", "wrong", "named"),
    [
        (place("gap"), Amount(1, 0), ["GPU-0"]),
        (place("gap"), Amount(-1, 0), ["GPU-0"]),
        (place("gap"), Amount(0, 1), ["GPU-0"]),
        (place("gap"), Amount(0, -1), ["GPU-0"]),
        (place("gap"), Amount(energy_uj=1), ["GPU-0"]),
        (place("gap", "GPU-1"), Amount(1, 0), ["GPU-1"]),
        (place("gap", "GPU-1"), Amount(energy_uj=-1), ["GPU-1"]),
        (place("gap", "GPU-9"), Amount(1, 0), []),  # of no account at all
        (place("gap", account_ns=T0 + 1), Amount(0, 1), []),
    ],
)
@pytest.mark.parametrize("rolled", [None, M0 + 1])
def test_a_single_unit_too_many_or_too_few_is_seen(
    where: Place, wrong: Amount, named: list[str], rolled: int | None
) -> None:
    more: dict[str, Any] = {"through_ns": T0 + MINUTE_NS, "energy": {"GPU-0": 70}, "rolled": rolled}
    with booked(RIGHT, FOUND, **more) as connection:
        assert all(reconcile(connection, "node-a", grain).reconciles for grain in GRAINS)
    with booked((*RIGHT, (M0, where, wrong)), FOUND, **more) as connection:
        for grain in GRAINS:
            proof = reconcile(connection, "node-a", grain)
            assert not proof.reconciles
            assert [slot.gpu for slot in proof.slots if not slot.reconciles] == named


def test_another_currency_is_in_its_slot_only() -> None:
    later = account(prices=book(currency="USD"), from_ns=T0 + MINUTE_NS)
    rows = (
        (M0, place("gap"), Amount(MINUTE_NS, BILL)),
        (M0 + 1, place("gap", account_ns=T0 + MINUTE_NS), Amount(MINUTE_NS, BILL)),
    )
    with booked(rows, [account(prices=book()), later], through_ns=T0 + 2 * MINUTE_NS) as connection:
        first = accounts.c.from_ns == T0
        connection.execute(update(accounts).where(first).values(through_ns=T0 + MINUTE_NS, is_open=False))
        proof = reconcile(connection, "node-a")
    assert (proof.currency, proof.bill_nano, proof.reconciles) == ("USD", BILL, True)
    assert [slot.bill_nano for slot in proof.slots] == [BILL, BILL]


def test_an_empty_ledger_reconciles() -> None:
    with booked() as connection:
        for grain in GRAINS:
            proof = reconcile(connection, "node-a", grain)
            assert (proof.slots, proof.currency, proof.bill_nano, proof.parts_nano) == ((), None, None, {})
            assert proof.reconciles


def _spoil(connection: Connection, grain: int) -> bool:
    """One unit more in a bucket of one grain; False if it has none."""
    found = connection.execute(entries.select().where(entries.c.grain == grain).limit(1)).first()
    if found is None:
        return False
    key = (entries.c.grain == grain) & (entries.c.minute == found.minute) & (entries.c.place == found.place)
    connection.execute(update(entries).where(key).values(gpu_ns=entries.c.gpu_ns + 1))
    return True


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(("UTC", "Asia/Kathmandu")), st.booleans())
def test_each_grain_proves_the_same_and_its_own_faults(seed: int, zone: str, forgets: bool) -> None:
    dice = random.Random(seed)
    minutes = dice.choice((3, 90, 4000))
    rows = []
    for minute in range(minutes):
        bill = expected_bill(T0, T0 + (minute + 1) * MINUTE_NS) - expected_bill(T0, T0 + minute * MINUTE_NS)
        part, money = dice.randrange(MINUTE_NS), dice.randrange(bill)
        rows.append((M0 + minute, place("request", outcome="ok"), Amount(part, money, energy_uj=minute)))
        rows.append((M0 + minute, place("gap"), Amount(MINUTE_NS - part, bill - money)))
    more: dict[str, Any] = {"through_ns": T0 + minutes * MINUTE_NS, "energy": {"GPU-0": sum(range(minutes))}}
    rolled = M0 + dice.randrange(minutes + 1)
    with booked(rows, FOUND[:1], zones=((0, zone),), rolled=rolled, **more) as connection:
        if forgets:
            minutes_from = dice.randrange(M0, rolled + 1)
            forget(connection, minutes_from, dice.randrange(M0 - 9, minutes_from + 1))
        proofs = [reconcile(connection, "node-a", grain) for grain in GRAINS]
        assert all(proof.reconciles for proof in proofs)
        assert proofs[0] == proofs[1] == proofs[2]
        if not forgets and _spoil(connection, HOUR) and rolled < M0 + minutes:
            assert [reconcile(connection, "node-a", grain).reconciles for grain in GRAINS] == [True, False, True]
