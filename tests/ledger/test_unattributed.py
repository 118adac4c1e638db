"""What is found again of traffic past the sidecar: the minutes that were asked for, of their engines, and no more."""

from typing import Any

from agent.core.cost.accounts import Account
from agent.core.cost.closed import MINUTE_NS, Amount, Closed
from agent.core.cost.live import Booking
from agent.ledger.ledger import Ledger
from agent.ledger.retention import Retention
from tests.support.ledger import T0
from tests.support.money import MODEL

DAY_NS = 24 * 60 * MINUTE_NS


def place(minute: int = 0, engine: str = "vllm", **fields: Any) -> Booking:
    """Every field has a value of its own: none may come back as another."""
    named = Booking(T0 + minute * MINUTE_NS, "GPU-0", T0, "unattributed", engine, "llama", "some", "none")
    named = named._replace(slot="MIG-1", reason="process", group="group", namespace="serving", pod="vllm-0")
    return named._replace(**fields)


WHOLE = Amount(
    gpu_ns=7, nano=70, requests=1, input_tokens=2, output_tokens=5, work_ns=3, energy_uj=9, metered_ns=6
)  # fmt: skip


async def settle(ledger: Ledger, entries: dict[Booking, Amount]) -> None:
    currencies = {"GPU-0": "CNY", "GPU-1": None}
    await ledger.settle(
        Closed(
            number=1,
            from_ns=T0,
            through_ns=T0 + 5 * MINUTE_NS,
            changed_accounts=[Account(gpu, MODEL, T0, currency, None) for gpu, currency in currencies.items()],
            entries=entries,
        )
    )


async def test_entries_come_back_as_they_were_booked_with_their_currency(ledger: Ledger) -> None:
    there = {place(): WHOLE, place(gpu="GPU-1", slot="GPU-1"): Amount(gpu_ns=1)}
    await settle(ledger, there)
    found = await ledger.unattributed({"vllm": [T0]})
    assert found.currencies == {("GPU-0", T0): "CNY", ("GPU-1", T0): None}
    assert found.entries.keys() == there.keys()
    got = found.entries[place()]
    assert (got.gpu_ns, got.nano, got.work_ns, got.energy_uj, got.metered_ns, got.output_tokens) == (7, 70, 3, 9, 6, 5)


async def test_only_the_minutes_and_engines_that_were_asked_for(ledger: Ledger) -> None:
    others = [
        place(1),  # between two minutes that are asked for
        place(3),
        place(engine="sglang"),
        place(2, engine="sglang"),
        place(state="request"),
        place(state="loaded_idle"),
    ]
    wanted = [place(), place(2), place(1, engine="sglang")]
    await settle(ledger, dict.fromkeys([*others, *wanted], WHOLE))
    minutes = {"vllm": [T0, T0 + 2 * MINUTE_NS], "sglang": [T0 + MINUTE_NS], "unknown": [T0], "none": []}
    assert set((await ledger.unattributed(minutes)).entries) == set(wanted)


async def test_nothing_asked_is_nothing_found(ledger: Ledger) -> None:
    await settle(ledger, {place(): WHOLE})
    for minutes in ({}, {"vllm": []}, {"unknown": [T0]}):
        found = await ledger.unattributed(minutes)
        assert (found.entries, found.currencies) == ({}, {})


async def test_minutes_that_were_forgotten_are_not_found(ledger: Ledger) -> None:
    """Their hours and days hold the same time, and must not be taken for minutes."""
    await settle(ledger, {place(): WHOLE})
    await ledger.settle(Closed(number=2, from_ns=T0 + 5 * MINUTE_NS, through_ns=T0 + 30 * DAY_NS))
    await ledger.retain(T0 + 30 * DAY_NS, Retention(minutes_days=1, hours_days=90, requests_days=90))
    assert (await ledger.unattributed({"vllm": [T0]})).entries == {}
