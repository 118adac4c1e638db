"""What is stored of a sidecar's events: once, whatever was repeated, cut or told late, and by whom it may be told."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.core.requests import (
    RecordBatch,
    RefusedEvent,
    RequestEnded,
    RequestEvent,
    RequestProgressed,
    Usage,
)
from agent.ledger.ledger import Ledger
from agent.ledger.receiving import Accepted
from agent.ledger.tables import requests, sidecars
from agent.runners.settlement import Settlement
from tests.support.ledger import T0, booked, fresh, opened, rows
from tests.support.money import NS, UPSTREAM, HandClock, Sidecar, book, engine, gpus, record


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
    assert [(row["accepted_through"], row["heard_ns"]) for row in rows(ledger, sidecars)] == [(4, T0 + 2 * NS)]


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
    assert (row["gpu_ns"], row["nano"], row["seen_ns"], row["currency"]) == (0, 0, 0, None)


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
    assert rows(ledger, sidecars)[0]["heard_ns"] == T0 + 2 * NS + skew
    await ledger.accept(sidecar.batch(T0 + 5 * NS), skew)
    assert rows(ledger, sidecars)[0]["heard_ns"] == T0 + 5 * NS + skew, "an empty batch is a sign of life"


async def test_a_new_start_of_a_sidecar_loses_what_the_old_one_left_open(ledger: Ledger) -> None:
    old, other, new = Sidecar(epoch=3), Sidecar("other"), Sidecar(epoch=4)
    await ledger.accept(
        old.batch(T0 + NS, old.start("open", T0), old.start("ended", T0), old.end(record("ended", T0, T0)))
    )
    await ledger.accept(old.batch(T0 + NS))  # a sign of life
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
    assert {(e["model"], e["tenant"]) for e in booked(ledger) if e["state"] == "request"} == {("llama", "acme")}


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


@pytest.mark.parametrize(
    ("first", "second", "is_theirs"),
    [
        (("sidecar", ""), ("sidecar", ""), True),
        (("sidecar", ""), ("other", ""), False),
        (("sidecar", "token::a"), ("sidecar", "token::a"), True),
        (("sidecar", "token::a"), ("other", "token::a"), False),
        (("sidecar", "token::a"), ("sidecar", "token::b"), False),
        (("sidecar", "service_account:pod-1:ns/x"), ("sidecar", "service_account:pod-2:ns/x"), False),
        # The doors got locks, or lost them, while a request ran.
        (("sidecar", ""), ("sidecar", "token::a"), True),
        (("sidecar", "token::a"), ("sidecar", ""), True),
        (("sidecar", ""), ("other", "token::a"), False),
    ],
)
async def test_only_who_told_a_request_first_may_go_on(
    ledger: Ledger, first: tuple[str, str], second: tuple[str, str], is_theirs: bool
) -> None:
    """Another can neither end it, nor say how far it is, nor begin it anew; nor advance the numbers of the first."""
    one, two = Sidecar(first[0]), Sidecar(second[0])
    await ledger.accept(one.batch(T0, one.start("a", T0)), sender=first[1])
    two._sequence = 1
    told = (
        progress(two, "a", T0 + NS, 7),
        two.end(record("a", T0, T0 + NS)),
        two.start("a", T0 + NS),
        two.start("b", T0),
    )
    accepted = await ledger.accept(two.batch(T0 + NS, *told), sender=second[1])
    assert accepted.receipt.accepted_through == 5
    row = request(ledger, "a")
    if is_theirs:
        assert (row["outcome"], row["progress_tokens"], accepted.receipt.refused) == ("ok", 7, ())
        return
    assert [(e.index, e.kind, e.sequence) for e in accepted.receipt.refused] == [
        (index, "sender", index + 2) for index in range(3)
    ]
    assert (row["outcome"], row["progress_tokens"], row["sidecar"], row["sender"]) == (None, None, *first)
    assert request(ledger, "b")["sender"] == second[1]
    again = await ledger.accept(two.batch(T0 + NS, *told), sender=second[1])
    assert again.receipt.refused == accepted.receipt.refused, "its sender may not have heard it"
    assert again.receipt.repeated == 1
    own = await ledger.accept(one.batch(T0 + NS, one.end(record("a", T0, T0 + NS))), sender=first[1])
    assert [r.id for r in own.ended] == ["a"], "its own number 2 is not taken"


async def test_a_new_start_of_another_sender_loses_nothing(ledger: Ledger) -> None:
    one, two = Sidecar(epoch=1), Sidecar(epoch=2)
    await ledger.accept(one.batch(T0, one.start("a", T0)), sender="token::a")
    assert (await ledger.accept(two.batch(T0, two.start("b", T0)), sender="token::b")).lost == {}
    assert await ledger.lose("sidecar", 1, T0, "token::b") == {}
    three = Sidecar(epoch=3)
    assert (await ledger.accept(three.batch(T0), sender="token::a")).lost == {"a": T0}


async def test_events_sent_again_after_the_doors_got_locks_change_nothing(ledger: Ledger) -> None:
    """The numbers are kept under another name from then on; what was stored is known by its id."""
    sidecar = Sidecar()
    events = (
        sidecar.start("a", T0),
        progress(sidecar, "a", T0 + NS, 4),
        progress(sidecar, "a", T0 + 2 * NS, 8),
        sidecar.start("b", T0),
        sidecar.end(record("b", T0, T0 + NS)),
    )
    await ledger.accept(sidecar.batch(T0, *events))
    before = rows(ledger, requests)
    again = await ledger.accept(sidecar.batch(T0, *events[:2], *events[3:]), sender="token::a")
    assert (again.started, again.ended, again.receipt.refused, again.missing) == ([], [], (), 1)
    assert again.receipt.repeated == 3
    assert rows(ledger, requests) == before, "nor does an old progress take back a newer one"
    last = await ledger.accept(sidecar.batch(T0, sidecar.end(record("a", T0, T0 + 3 * NS))), sender="token::a")
    assert [r.id for r in last.ended] == ["a"]
    new = Sidecar(epoch=2)
    await ledger.accept(sidecar.batch(T0, sidecar.start("c", T0)))  # a last one, sent before the locks
    assert (await ledger.accept(new.batch(T0), sender="token::a")).lost == {"c": T0 + 2 * NS}


async def test_numbers_that_do_not_come_are_missed_until_they_come(ledger: Ledger) -> None:
    sidecar = Sidecar()
    ends = [sidecar.end(record(f"r{n}", T0, T0 + NS)) for n in range(1, 10)]
    first = await ledger.accept(sidecar.batch(T0, *ends[2:5]))
    assert (first.receipt.accepted_through, first.missing) == (5, 0), "this ledger may be younger than they"
    ahead = await ledger.accept(sidecar.batch(T0, *ends[7:]))
    assert (ahead.receipt.accepted_through, ahead.missing) == (9, 2)
    ledger.close()
    async with await opened(ledger.where) as again:
        assert again.opened.missing == {("", "sidecar", 1): 2}
    late = await ledger.accept(sidecar.batch(T0, *ends[4:7]))
    assert ([r.id for r in late.ended], late.receipt.repeated, late.missing) == (["r6", "r7"], 1, 0)
    assert len((await ledger.accept(sidecar.batch(T0, *ends[:2]))).ended) == 2
    assert [row["holes"] for row in rows(ledger, sidecars)] == [None]


async def test_what_was_refused_before_is_not_waited_for(ledger: Ledger) -> None:
    sidecar = Sidecar()
    ends = [sidecar.end(record(f"r{n}", T0, T0 + NS)) for n in range(1, 6)]
    refused = (
        RefusedEvent(index=1, kind="value", reason="no", sequence=2),
        RefusedEvent(index=3, kind="value", reason="no", sequence=2**60),
        RefusedEvent(index=5, kind="unreadable", reason="no"),
    )
    accepted = await ledger.accept(sidecar.batch(T0, ends[0], ends[2], ends[3]), refused=refused)
    assert (accepted.receipt.accepted_through, accepted.missing, accepted.receipt.refused) == (4, 0, refused)
    other = Sidecar("other")
    taken = other.end(record("r1", T0, T0 + NS))
    both = await ledger.accept(other.batch(T0, other.start("x", T0), taken), refused=refused[:1])
    assert [(e.index, e.kind) for e in both.receipt.refused] == [(1, "value"), (2, "sender")]


async def test_what_was_refused_before_is_stored_when_it_comes_again_from_the_dead_letters(ledger: Ledger) -> None:
    sidecar = Sidecar()
    events = (sidecar.start("a", T0), sidecar.end(record("a", T0, T0 + NS)), sidecar.start("b", T0))
    refused = [
        RefusedEvent(index=index, kind="tenant", reason="not yours", sequence=event.sequence)
        for index, event in enumerate(events[:2])
    ]
    await ledger.accept(sidecar.batch(T0 + 2 * NS, events[2]), refused=refused)
    again = await ledger.accept(sidecar.batch(T0 + 9 * NS, *events[:2]))
    assert again.receipt.repeated == 0
    assert request(ledger, "a")["outcome"] == "ok"
    once_more = await ledger.accept(sidecar.batch(T0 + 10 * NS, *events))
    assert once_more.receipt.repeated == 3
    assert nothing_new(once_more)


async def test_a_batch_of_an_old_start_that_comes_late_counts_its_ends_and_then_loses_the_rest(ledger: Ledger) -> None:
    old, new = Sidecar(epoch=1), Sidecar(epoch=2)
    await ledger.accept(new.batch(T0 + 60 * NS, new.start("now", T0 + 50 * NS)))
    told = (old.start("a", T0), old.start("b", T0 + NS), progress(old, "b", T0 + 3 * NS, 5))
    assert (await ledger.accept(old.batch(T0 + 61 * NS, *told))).lost == {}
    accepted = await ledger.accept(new.batch(T0 + 61 * NS))
    assert accepted.lost == {"a": T0 + 3 * NS, "b": T0 + 3 * NS}, "its last word, not when it was delivered"
    later = await ledger.accept(
        old.batch(T0 + 62 * NS, old.end(record("a", T0, T0 + 4 * NS)), progress(old, "b", T0 + 5 * NS, 9))
    )
    assert ([r.id for r in later.ended], later.revised, later.lost) == (["a"], {"a"}, {})
    assert (await ledger.accept(new.batch(T0 + 63 * NS))).lost == {"b": T0 + 5 * NS}
    found = {row["id"]: (row["outcome"], row["ended_ns"], row["progress_tokens"]) for row in rows(ledger, requests)}
    assert found == {"a": ("ok", T0 + 4 * NS, None), "b": ("lost", T0 + 5 * NS, 9), "now": (None, None, None)}
