"""Who tells of requests: clocks that differ, silence, and what is kept of whom."""

from agent.core.requests import RecordReceipt, RefusedEvent
from agent.ledger.receiving import Accepted
from agent.runners.senders import SILENT_NS, SKEW_SAMPLES, Senders
from tests.support.money import NS, Sidecar, record

T0 = 1_800_000_000 * NS
START = ("", "sidecar", 1)


def senders() -> Senders:
    return Senders([], {}, 0, T0)


def test_the_fastest_delivery_tells_the_difference_of_the_clocks() -> None:
    who, sidecar = senders(), Sidecar()
    ways_ns = [5 * NS, 2 * NS, 9 * NS]
    assert [who.skew_ns(sidecar.batch(T0), "", T0 + way) for way in ways_ns] == [5 * NS, 2 * NS, 2 * NS]


def test_only_the_last_samples_of_a_clock_count() -> None:
    who, sidecar = senders(), Sidecar()
    assert who.skew_ns(sidecar.batch(T0), "", T0 + NS) == NS
    later = [who.skew_ns(sidecar.batch(T0), "", T0 + 3 * NS) for _ in range(SKEW_SAMPLES)]
    assert later[0] == NS
    assert later[-1] == 3 * NS  # the clock was set


def test_a_new_start_of_a_sidecar_is_measured_anew() -> None:
    who = senders()
    assert who.skew_ns(Sidecar(epoch=1).batch(T0), "", T0 + NS) == NS
    assert who.skew_ns(Sidecar(epoch=2).batch(T0), "", T0 + 7 * NS) == 7 * NS


def test_who_left_requests_open_is_silent_a_while_after_the_agent_came_back() -> None:
    who = Senders([START], {}, 0, T0)
    assert list(who.silent(T0 + SILENT_NS)) == []
    assert list(who.silent(T0 + SILENT_NS + 1)) == [(START, T0)]


def test_a_sender_that_is_asked_who_he_is_since_now_still_speaks_for_his_requests_of_before() -> None:
    who = Senders([START], {}, 0, T0)
    who.hear(Sidecar().batch(T0 + SILENT_NS), "pod-a", T0 + SILENT_NS)
    assert list(who.silent(T0 + SILENT_NS + 1)) == []


def test_a_start_is_new_until_it_was_stored_and_again_when_it_was_forgotten() -> None:
    who, sidecar = senders(), Sidecar()
    batch = sidecar.batch(T0)
    who.hear(batch, "", T0)
    assert who.is_new_start(batch, "")
    who.stored(batch, "", Accepted(RecordReceipt(accepted_through=0)))
    assert not who.is_new_start(batch, "")
    who.forget(START)
    assert who.is_new_start(batch, "")


def test_what_came_was_repeated_missing_and_refused_is_counted() -> None:
    who, sidecar = Senders([], {("", "other", 1): 2}, 40, T0), Sidecar()
    end = record("a", T0, T0 + NS)
    batch = sidecar.batch(T0, sidecar.start("a", T0), sidecar.end(end))
    who.hear(batch, "", T0)
    refused = (RefusedEvent(index=2, kind="value", reason="absurd", sequence=9),)
    receipt = RecordReceipt(accepted_through=9, repeated=3, refused=refused)
    who.stored(batch, "", Accepted(receipt, [batch.events[0]], [], [end], missing=6))  # type: ignore[list-item]
    assert who.accepted == {"start": 1, "progress": 0, "end": 41}
    assert (who.repeated, who.refused["value"], who.missing) == (3, 1, 8)
    who.stored(batch, "", Accepted(RecordReceipt(accepted_through=9)))
    assert who.missing == 2
