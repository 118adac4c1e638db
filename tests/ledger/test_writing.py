"""What is stored of a sidecar's events and of settlement steps: once, whatever was repeated, cut or told late."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.core.cost.accounts import Account, open_account
from agent.core.cost.closed import Amount, Closed
from agent.core.cost.live import Booking, Live
from agent.core.cost.prices import BillLine, Part, PriceRow
from agent.core.requests import RecordBatch, RequestEnded, RequestEvent, RequestProgressed, Usage
from agent.ledger.ledger import Ledger
from agent.ledger.tables import accounts, entries, node_state, price_segments, requests, sidecars
from agent.ledger.writing import Accepted
from agent.runners.settlement import Settlement
from tests.support.ledger import T0, fresh, opened, rows
from tests.support.money import MODEL, NS, UPSTREAM, HandClock, Sidecar, book, engine, gpus, record


@pytest.fixture
async def ledger(tmp_path: Path) -> Any:
    async with await fresh(tmp_path / "node") as made:
        yield made


def progress(sidecar: Sidecar, id: str, at_ns: int, tokens: int) -> RequestProgressed:  # noqa: A002
    return RequestProgressed(sequence=sidecar.next(), id=id, at_ns=at_ns, output_tokens=tokens)


def request(ledger: Ledger, id: str) -> dict[str, Any]:  # noqa: A002
    return next(row for row in rows(ledger, requests) if row["id"] == id)


def nothing_new(accepted: Accepted) -> bool:
    return not (accepted.started or accepted.progressed or accepted.ended or accepted.lost or accepted.revised)


async def test_a_batch_that_was_stored_is_only_counted(ledger: Ledger) -> None:
    sidecar = Sidecar()
    events = (
        sidecar.start("a", T0),
        progress(sidecar, "a", T0 + NS, 4),
        sidecar.end(record("a", T0, T0 + 2 * NS)),
        sidecar.start("b", T0),
    )
    first = await ledger.accept(sidecar.batch(T0 + 3 * NS, *events))
    assert (first.receipt.accepted_through, first.receipt.repeated) == (4, 0)
    assert ([e.id for e in first.started], [e.id for e in first.progressed]) == (["a", "b"], ["a"])
    assert [r.id for r in first.ended] == ["a"]
    before = rows(ledger, requests)
    again = await ledger.accept(sidecar.batch(T0 + 9 * NS, *events))
    assert (again.receipt.accepted_through, again.receipt.repeated) == (4, 4)
    assert nothing_new(again)
    assert rows(ledger, requests) == before
    assert [(row["accepted_through"], row["heard_ns"]) for row in rows(ledger, sidecars)] == [(4, T0 + 9 * NS)]


async def test_of_an_overlapping_batch_only_the_rest_is_new(ledger: Ledger) -> None:
    sidecar = Sidecar()
    old, new = sidecar.start("a", T0), sidecar.start("b", T0)
    await ledger.accept(sidecar.batch(T0, old))
    accepted = await ledger.accept(sidecar.batch(T0, old, new))
    assert (accepted.receipt.accepted_through, accepted.receipt.repeated) == (2, 1)
    assert [event.id for event in accepted.started] == ["b"]


async def test_an_empty_batch_says_how_far_it_is_stored(ledger: Ledger) -> None:
    sidecar = Sidecar()
    assert (await ledger.accept(sidecar.batch(T0))).receipt.accepted_through == 0
    await ledger.accept(sidecar.batch(T0, sidecar.start("a", T0), sidecar.start("b", T0)))
    empty = await ledger.accept(sidecar.batch(T0 + NS))
    assert (empty.receipt.accepted_through, empty.receipt.repeated) == (2, 0)
    assert nothing_new(empty)


@pytest.mark.parametrize(("name", "epoch"), [("other", 1), ("sidecar", 2)])
async def test_numbers_count_for_one_start_of_one_sidecar(ledger: Ledger, name: str, epoch: int) -> None:
    first, second = Sidecar(), Sidecar(name, epoch)
    await ledger.accept(first.batch(T0, first.end(record("a", T0, T0))))
    accepted = await ledger.accept(second.batch(T0, second.end(record("b", T0, T0))))
    assert ([r.id for r in accepted.ended], accepted.receipt.repeated) == (["b"], 0)
    assert [row["id"] for row in rows(ledger, requests)] == ["a", "b"]


async def test_an_end_that_is_told_again_under_another_number_is_known_by_its_id(ledger: Ledger) -> None:
    sidecar, later = Sidecar(), Sidecar(epoch=2)
    ended = record("a", T0, T0 + NS)
    await ledger.accept(sidecar.batch(T0, sidecar.end(ended)))
    twice = record("a", T0, T0 + 7 * NS, outcome="error", tokens=99)
    for teller in (sidecar, later):
        accepted = await ledger.accept(teller.batch(T0, teller.end(twice), teller.start("a", T0 + 5 * NS)))
        assert nothing_new(accepted)
    row = request(ledger, "a")
    assert (row["ended_ns"], row["outcome"], row["output_tokens"], row["epoch"]) == (T0 + NS, "ok", 10, 1)


async def test_the_same_id_twice_in_a_batch_is_one_request(ledger: Ledger) -> None:
    sidecar = Sidecar()
    starts = (sidecar.start("a", T0), sidecar.start("a", T0 + NS))
    ends = (sidecar.end(record("a", T0, T0 + NS)), sidecar.end(record("a", T0, T0 + 2 * NS)))
    accepted = await ledger.accept(sidecar.batch(T0, *starts, *ends))
    assert (len(accepted.started), len(accepted.ended)) == (1, 1)
    assert [(row["started_ns"], row["ended_ns"]) for row in rows(ledger, requests)] == [(T0, T0 + NS)]


async def test_an_end_before_its_start_is_the_whole_request(ledger: Ledger) -> None:
    sidecar = Sidecar()
    ended = record("a", T0, T0 + NS, first_token_at_ns=T0 + NS // 4, usage=Usage(input_tokens=3, input_cached_tokens=2))
    end, start = sidecar.end(ended), sidecar.start("a", T0)
    accepted = await ledger.accept(sidecar.batch(T0, end, start))
    assert (accepted.started, accepted.ended) == ([], [ended])
    row = request(ledger, "a")
    assert (row["upstream"], row["engine"], row["model"], row["tenant"]) == (UPSTREAM, UPSTREAM, "llama", "acme")
    assert (row["started_ns"], row["first_token_ns"], row["ended_ns"]) == (T0, T0 + NS // 4, T0 + NS)
    assert (row["input_tokens"], row["input_cached_tokens"], row["output_tokens"]) == (3, 2, None)
    assert (row["gpu_ns"], row["nano"], row["seen_ns"], row["settled"], row["currency"]) == (0, 0, 0, False, None)


async def test_the_last_progress_is_kept_until_the_end(ledger: Ledger) -> None:
    sidecar = Sidecar()
    await ledger.accept(sidecar.batch(T0, sidecar.start("a", T0), progress(sidecar, "a", T0 + NS, 4)))
    told = (progress(sidecar, "a", T0 + 2 * NS, 8), progress(sidecar, "a", T0 + 3 * NS, 15))
    accepted = await ledger.accept(sidecar.batch(T0, *told, progress(sidecar, "unheard", T0, 1)))
    assert [event.output_tokens for event in accepted.progressed] == [8, 15, 1]
    row = request(ledger, "a")
    assert (row["progress_ns"], row["progress_tokens"]) == (T0 + 3 * NS, 15)
    await ledger.accept(sidecar.batch(T0, sidecar.end(record("a", T0, T0 + 4 * NS))))
    await ledger.accept(sidecar.batch(T0, progress(sidecar, "a", T0 + 9 * NS, 99)))
    row = request(ledger, "a")
    assert (row["progress_ns"], row["progress_tokens"], row["output_tokens"]) == (T0 + 3 * NS, 15, 10)
    assert [row["id"] for row in rows(ledger, requests)] == ["a"]


async def test_instants_are_moved_to_the_bills_clock(ledger: Ledger) -> None:
    sidecar, skew = Sidecar(), -17 * NS
    await ledger.accept(sidecar.batch(T0, sidecar.start("a", T0), progress(sidecar, "a", T0 + NS, 1)), skew)
    ended = record("b", T0, T0 + 2 * NS, first_token_at_ns=T0 + NS)
    await ledger.accept(sidecar.batch(T0 + 3 * NS, sidecar.end(ended)), skew)
    a, b = rows(ledger, requests)
    assert (a["started_ns"], a["progress_ns"]) == (T0 + skew, T0 + NS + skew)
    instants = (b["started_ns"], b["first_token_ns"], b["ended_ns"])
    assert instants == (T0 + skew, T0 + NS + skew, T0 + 2 * NS + skew)
    assert rows(ledger, sidecars)[0]["heard_ns"] == T0 + 3 * NS + skew


async def test_a_new_start_of_a_sidecar_loses_what_the_old_one_left_open(ledger: Ledger) -> None:
    old, other, new = Sidecar(epoch=3), Sidecar("other"), Sidecar(epoch=4)
    await ledger.accept(
        old.batch(T0 + NS, old.start("open", T0), old.start("ended", T0), old.end(record("ended", T0, T0)))
    )
    await ledger.accept(other.batch(T0 + NS, other.start("elsewhere", T0)))
    accepted = await ledger.accept(new.batch(T0 + 60 * NS, new.start("fresh", T0 + 59 * NS)))
    assert accepted.lost == {"open": T0 + NS}
    assert [event.id for event in accepted.started] == ["fresh"]
    found = {row["id"]: (row["outcome"], row["ended_ns"]) for row in rows(ledger, requests)}
    assert found == {
        "open": ("lost", T0 + NS),
        "ended": ("ok", T0),
        "elsewhere": (None, None),
        "fresh": (None, None),
    }
    assert (await ledger.accept(new.batch(T0 + 61 * NS, new.start("more", T0)))).lost == {}


async def test_the_end_of_a_lost_request_is_taken_once(ledger: Ledger) -> None:
    old, new = Sidecar(), Sidecar(epoch=2)
    await ledger.accept(old.batch(T0 + NS, old.start("a", T0)))
    await ledger.accept(new.batch(T0 + 9 * NS))
    first = await ledger.accept(old.batch(T0 + 9 * NS, old.end(record("a", T0, T0 + 2 * NS))))
    second = await ledger.accept(new.batch(T0 + 9 * NS, new.end(record("a", T0, T0 + 3 * NS))))
    assert ([r.id for r in first.ended], first.revised) == (["a"], {"a"})
    assert nothing_new(second)
    assert (request(ledger, "a")["outcome"], request(ledger, "a")["ended_ns"]) == ("ok", T0 + 2 * NS)


@pytest.mark.parametrize("later_skew", [0, -5 * NS])
async def test_no_request_ends_before_it_began_when_the_skew_is_known_better(ledger: Ledger, later_skew: int) -> None:
    """The skew is the least of some samples, so an end may be moved less than its start was."""
    first, second = Sidecar(), Sidecar(epoch=2)
    slow = 2 * NS  # the first delivery took this long
    await ledger.accept(first.batch(T0, first.start("told", T0), first.start("lost", T0)), slow)
    await ledger.accept(first.batch(T0 + NS, first.end(record("told", T0, T0 + NS))), later_skew)
    accepted = await ledger.accept(second.batch(T0 + 60 * NS), later_skew)
    for name in ("told", "lost"):
        row = request(ledger, name)
        assert (row["started_ns"], row["ended_ns"]) == (T0 + slow, T0 + slow), name
    assert accepted.lost == {"lost": T0 + slow}


async def test_what_only_the_end_tells_is_kept(ledger: Ledger) -> None:
    """The model of a request whose body was not understood comes with the engine's answer."""
    sidecar, clock = Sidecar(), HandClock(T0)
    settlement = Settlement(ledger, book(), "node-a", clock)
    settlement.observe_gpus(gpus(T0))
    settlement.observe_engine(engine(T0))
    await settlement.accept(sidecar.batch(T0, sidecar.start("a", T0, model=None, tenant=None)))
    await settlement.accept(sidecar.batch(T0, sidecar.end(record("a", T0, T0 + NS))))
    clock.at_ns += 2 * NS
    await settlement.drain()
    cost = await ledger.request_cost("a")
    assert cost is not None
    assert (cost.model, cost.tenant) == ("llama", "acme")
    assert {(e["model"], e["tenant"]) for e in rows(ledger, entries) if e["state"] == "request"} == {("llama", "acme")}


async def test_what_the_start_told_is_not_lost_to_an_end_that_says_less(ledger: Ledger) -> None:
    sidecar = Sidecar()
    await ledger.accept(sidecar.batch(T0, sidecar.start("a", T0)))
    await ledger.accept(sidecar.batch(T0, sidecar.end(record("a", T0, T0 + NS, model=None, tenant=None))))
    assert (request(ledger, "a")["model"], request(ledger, "a")["tenant"]) == ("llama", "acme")


async def test_a_batch_of_more_ids_than_one_question_holds(ledger: Ledger) -> None:
    sidecar = Sidecar()
    ends = [sidecar.end(record(f"{n:04}", T0, T0 + NS)) for n in range(1203)]
    await ledger.accept(sidecar.batch(T0, *ends[:701]))
    again = [RequestEnded(sequence=sidecar.next(), record=end.record) for end in ends]
    accepted = await ledger.accept(sidecar.batch(T0, *again))
    assert [r.id for r in accepted.ended] == [f"{n:04}" for n in range(701, 1203)]
    assert len(rows(ledger, requests)) == 1203


@st.composite
def tellings(draw: st.DrawFn) -> tuple[list[RequestEvent], list[tuple[int, int]]]:
    """A stream of numbered events, and how it was sent: slices in order, each going back over some that were sent."""
    sidecar, told = Sidecar(), dict.fromkeys("abcd", "nothing")
    events: list[RequestEvent] = []
    for name in draw(st.lists(st.sampled_from("abcd"), min_size=1, max_size=14)):
        at = T0 + len(events) * NS
        kind = draw(
            st.sampled_from({"nothing": ("start", "end"), "start": ("progress", "end"), "end": ("end",)}[told[name]])
        )
        match kind:
            case "start":
                events.append(sidecar.start(name, at))
                told[name] = "start"
            case "progress":
                events.append(progress(sidecar, name, at, draw(st.integers(0, 50))))
            case _:
                events.append(sidecar.end(record(name, T0, at)))
                told[name] = "end"
    cuts = sorted({*draw(st.sets(st.integers(1, len(events)))), len(events)})
    return events, [(draw(st.integers(0, low)), high) for low, high in zip([0, *cuts], cuts, strict=False)]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tellings())
async def test_however_events_are_cut_and_repeated_the_same_is_stored(
    tmp_path: Path, telling: tuple[list[RequestEvent], list[tuple[int, int]]]
) -> None:
    events, slices = telling

    async def stored(batches: Sequence[RecordBatch]) -> tuple[list[dict[str, Any]], list[str], list[str], int]:
        started: list[str] = []
        ended: list[str] = []
        async with await fresh(tmp_path / "node") as ledger:
            for batch in batches:
                accepted = await ledger.accept(batch)
                started += [event.id for event in accepted.started]
                ended += [r.id for r in accepted.ended]
                assert accepted.receipt.accepted_through == batch.events[-1].sequence
            return rows(ledger, requests), started, ended, rows(ledger, sidecars)[0]["accepted_through"]

    sidecar = Sidecar()
    whole = await stored([sidecar.batch(T0, *events)])
    assert await stored([sidecar.batch(T0, *events[low:high]) for low, high in slices]) == whole
    assert len(set(whole[2])) == len(whole[2])


PLACE = Booking(T0, "GPU-0", T0, "request", "vllm", "llama", "acme", "in_flight")


def step(number: int, **fields: Any) -> Closed:
    return Closed(number=number, from_ns=T0, through_ns=T0 + number * NS, **fields)


async def test_entries_of_steps_add_up_and_corrections_take_away(ledger: Ledger) -> None:
    ended = PLACE._replace(outcome="ok")
    await ledger.settle(step(1, entries={PLACE: Amount(gpu_ns=7, nano=70)}))
    await ledger.settle(step(2, entries={PLACE: Amount(gpu_ns=5, nano=50)}))
    await ledger.settle(step(3, entries={PLACE: Amount(-12, -120), ended: Amount(12, 120, 1, 5, 10)}))
    await ledger.settle(step(4))
    found = {row["outcome"]: row for row in rows(ledger, entries)}
    names = ("gpu_ns", "nano", "requests", "input_tokens", "output_tokens")
    assert [found["in_flight"][name] for name in names] == [0, 0, 0, 0, 0]
    assert [found["ok"][name] for name in names] == [12, 120, 1, 5, 10]
    assert [(row["step"], row["through_ns"]) for row in rows(ledger, node_state)] == [(4, T0 + 4 * NS)]


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
    async with await opened(ledger.path) as again:
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
    async with await opened(ledger.path) as again:
        assert [(a.gpu, a.from_ns) for a in again.opened.accounts] == [("GPU-0", later)]


async def test_the_cost_of_a_request_is_written_as_it_stands(ledger: Ledger) -> None:
    sidecar = Sidecar()
    await ledger.accept(sidecar.batch(T0, sidecar.start("a", T0), sidecar.start("b", T0)))
    live = Live("a", UPSTREAM, "vllm", T0, model="llama", tenant="acme", gpu_ns=5, nano=50, seen_ns=9, currency="CNY")
    await ledger.settle(step(1, requests={"a": live}))
    names = ("engine", "gpu_ns", "nano", "seen_ns", "currency", "unpriced", "settled")
    assert [request(ledger, "a")[name] for name in names] == ["vllm", 5, 50, 9, "CNY", False, False]
    live.gpu_ns, live.nano, live.unpriced = 6, 60, True
    await ledger.settle(step(2, requests={"a": live}, settled=["a"]))
    assert [request(ledger, "a")[name] for name in names] == ["vllm", 6, 60, 9, "CNY", True, True]
    assert [request(ledger, "b")[name] for name in names] == [UPSTREAM, 0, 0, 0, None, False, False]


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
