"""What is stored of settlement steps: once, whatever was repeated or cut."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from agent.core.cost.accounts import Account, open_account
from agent.core.cost.closed import Amount, Closed
from agent.core.cost.live import Booking, Live
from agent.core.cost.prices import BillLine, Part, PriceRow
from agent.ledger.ledger import Ledger
from agent.ledger.tables import accounts, entries, node_state, price_segments, requests, settled_requests
from agent.runners.settlement import Settlement
from tests.support.ledger import T0, booked, opened, rows, settled
from tests.support.money import MODEL, NS, UPSTREAM, HandClock, Sidecar, book, gpus, record


def request(ledger: Ledger, id: str) -> dict[str, Any]:  # noqa: A002
    return next(row for row in rows(ledger, requests) if row["id"] == id)


PLACE = Booking(T0, "GPU-0", T0, "request", "vllm", "llama", "acme", "in_flight")


def step(number: int, **fields: Any) -> Closed:
    return Closed(number=number, from_ns=T0, through_ns=T0 + number * NS, **fields)


async def test_entries_of_steps_add_up_and_corrections_take_away(ledger: Ledger) -> None:
    ended = PLACE._replace(outcome="ok")
    await ledger.settle(step(1, entries={PLACE: Amount(gpu_ns=7, nano=70)}))
    await ledger.settle(step(2, entries={PLACE: Amount(gpu_ns=5, nano=50)}))
    await ledger.settle(step(3, entries={PLACE: Amount(-12, -120), ended: Amount(12, 120, 1, 5, 10)}))
    await ledger.settle(step(4))
    found = {row["outcome"]: row for row in booked(ledger)}
    names = ("gpu_ns", "nano", "requests", "input_tokens", "output_tokens")
    assert [found["in_flight"][name] for name in names] == [0, 0, 0, 0, 0]
    assert [found["ok"][name] for name in names] == [12, 120, 1, 5, 10]
    assert [(row["step"], row["through_ns"]) for row in rows(ledger, node_state)] == [(4, T0 + 4 * NS)]


async def test_groups_of_one_engine_are_entries_of_their_own(ledger: Ledger) -> None:
    await ledger.settle(step(1, entries={PLACE: Amount(7, 70), PLACE._replace(group="g"): Amount(5, 50)}))
    await ledger.settle(step(2, entries={PLACE._replace(group="g"): Amount(1, 10)}))
    assert {row["engine_group"]: row["gpu_ns"] for row in booked(ledger)} == {"": 7, "g": 6}


@pytest.mark.parametrize("number", [0, 2, 9])
async def test_a_step_of_another_writer_changes_nothing(ledger: Ledger, number: int) -> None:
    await ledger.settle(step(1, entries={PLACE: Amount(gpu_ns=7, nano=70)}))
    await ledger.settle(step(2, entries={PLACE: Amount(gpu_ns=1, nano=10)}))
    again = step(number, entries={PLACE: Amount(gpu_ns=5, nano=50)})
    if number == 2:
        await ledger.settle(again)  # its answer was lost: this very step is there
    else:
        with pytest.raises(RuntimeError, match=f"at settlement step 2, this process at {number}: two writers"):
            await ledger.settle(again)
    assert [(row["gpu_ns"], row["nano"]) for row in rows(ledger, entries)] == [(8, 80)]
    assert rows(ledger, node_state)[0]["through_ns"] == T0 + 2 * NS


async def test_prices_are_kept_exactly(ledger: Ledger, tmp_path: Path) -> None:
    exact = [(T0, Fraction(10**30 + 1, 3**50)), (T0 + NS, Fraction(0)), (T0 + 2 * NS, Fraction(1, 7))]
    account = Account("GPU-0", MODEL, T0, "CNY", BillLine(exact))
    through = {("GPU-0", T0): T0 + NS}
    await ledger.settle(step(1, changed_accounts=[account], accounts_through=through))
    ledger.close()
    async with await opened(ledger.where) as again:
        (read,) = again.opened.accounts
        assert read.line is not None
        assert (read.gpu, read.gpu_model, read.from_ns, read.currency) == ("GPU-0", MODEL, T0, "CNY")
        assert read.line.segments == tuple(exact)
    renewed = Account("GPU-0", MODEL, T0, "CNY", BillLine(exact[:1]))
    await ledger.settle(step(2, changed_accounts=[renewed], accounts_through={("GPU-0", T0): T0 + 2 * NS}))
    assert [row["at_ns"] for row in rows(ledger, price_segments)] == [T0]
    assert [(row["through_ns"], row["is_open"]) for row in rows(ledger, accounts)] == [(T0 + 2 * NS, True)]


async def test_a_following_account_closes_the_one_before_and_a_retired_one_stays_closed(ledger: Ledger) -> None:
    def account(gpu: str, from_ns: int) -> Account:
        return open_account(book(), gpu, MODEL, from_ns)

    first = [account("GPU-0", T0), account("GPU-1", T0)]
    await ledger.settle(step(1, changed_accounts=first, accounts_through={("GPU-0", T0): T0, ("GPU-1", T0): T0}))
    later = T0 + 2 * NS
    await ledger.settle(step(2, changed_accounts=[account("GPU-0", later)], retired=[("GPU-1", T0)]))
    found = {(row["gpu"], row["from_ns"]): row["is_open"] for row in rows(ledger, accounts)}
    assert found == {("GPU-0", T0): False, ("GPU-0", later): True, ("GPU-1", T0): False}
    ledger.close()
    async with await opened(ledger.where) as again:
        assert [(a.gpu, a.from_ns) for a in again.opened.accounts] == [("GPU-0", later)]


async def test_the_cost_of_a_request_is_written_as_it_stands(ledger: Ledger) -> None:
    sidecar = Sidecar()
    await ledger.accept(sidecar.batch(T0, sidecar.start("a", T0), sidecar.start("b", T0)))
    live = Live("a", UPSTREAM, "vllm", T0, model="llama", tenant="acme", gpu_ns=5, nano=50, seen_ns=9, currency="CNY")
    await ledger.settle(step(1, requests={"a": live}))
    names = ("engine", "gpu_ns", "nano", "seen_ns", "currency", "unpriced")
    assert [request(ledger, "a")[name] for name in names] == ["vllm", 5, 50, 9, "CNY", False]
    await ledger.accept(sidecar.batch(T0, sidecar.end(record("a", T0, T0 + 9))))
    live.gpu_ns, live.nano, live.unpriced = 6, 60, True
    await ledger.settle(step(2, requests={"a": live}, settled=["a"]))
    (moved,), figures = rows(ledger, settled_requests), settled(ledger, "a")
    assert figures is not None
    assert (moved["id"], moved["gpu_ns"], moved["nano"], figures.priced, figures.unpriced) == ("a", 6, 60, True, True)
    assert [row["id"] for row in rows(ledger, requests)] == ["b"]
    assert [request(ledger, "b")[name] for name in names] == [UPSTREAM, 0, 0, 0, None, False]


@pytest.mark.parametrize(
    ("before", "after"), [("CNY", "USD"), (None, "CNY"), ("CNY", None)], ids=["other", "first", "none"]
)
async def test_a_gpu_seen_just_before_a_change_of_prices_has_the_new_currency(
    tmp_path: Path, before: str | None, after: str | None
) -> None:
    """Its account begins at the very instant up to which all is closed: the one that follows takes its place."""

    def prices(currency: str | None) -> Any:
        row = PriceRow("*", (Part("rent", Fraction(3600)),))
        return None if currency is None else book(row, currency=currency)

    path, clock = tmp_path / "ledger.sqlite", HandClock(T0)
    async with await opened(path) as ledger:
        settlement = Settlement(ledger, prices(before), "node-a", clock)
        settlement.observe_gpus(gpus(T0, 1))
        clock.at_ns = T0 + 2 * NS
        settlement.observe_gpus(gpus(clock.at_ns, 2))
        await settlement.settle_to(clock.at_ns)
    async with await opened(path) as ledger:
        settlement = Settlement(ledger, prices(after), "node-a", clock)
        clock.at_ns += 3 * NS
        await settlement.drain()
        found = {(row["gpu"], row["from_ns"]): row["currency"] for row in rows(ledger, accounts)}
        assert found["GPU-1", T0 + 2 * NS] == after
        assert found["GPU-0", T0] == before
        proof = await ledger.reconcile()
        assert proof.reconciles
        (new,) = [slot for slot in proof.slots if slot.gpu == "GPU-1"]
        assert (new.wall_ns, new.bill_nano) == (3 * NS, None if after is None else 3 * NS)
    async with await opened(path) as ledger:
        assert {a.gpu: a.currency for a in ledger.opened.accounts} == {"GPU-0": after, "GPU-1": after}
