from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.core.admission import (
    BACKWARDS_NS,
    FUTURE_NS,
    LONGEST_NS,
    MAX_ATTEMPT,
    MAX_BYTES,
    MAX_INSTANT_NS,
    MAX_NAME,
    MAX_SEQUENCE,
    MAX_SHOWN,
    MAX_TOKENS,
    PAST_NS,
    objection_to_batch,
    sifted,
)
from agent.core.requests import RefusedEvent, RequestEnded, RequestProgressed, RequestRecord, RequestStarted, Usage

NS = 1_000_000_000
SENT = 1_800_000_000 * NS
UUID = "0199b7a0-5000-7000-8000-000000000001"
START = RequestStarted(sequence=1, id=UUID, upstream="[::1]:8000", path="/v1", started_at_ns=SENT)
PROGRESS = RequestProgressed(sequence=2, id=UUID, at_ns=SENT, output_tokens=0)
RECORD = RequestRecord(
    id=UUID, upstream="127.0.0.1:8000", path="/v1", started_at_ns=SENT - NS, ended_at_ns=SENT, outcome="ok"
)
END = RequestEnded(sequence=3, record=RECORD)


def ended(**fields: Any) -> RequestEnded:
    return RequestEnded(sequence=3, record=replace(RECORD, **fields))


@pytest.mark.parametrize(
    "event",
    [
        START,
        PROGRESS,
        END,
        replace(START, sequence=MAX_SEQUENCE, id="r", tenant="A tenant & co", model="模型"),
        replace(START, started_at_ns=SENT + FUTURE_NS),
        replace(PROGRESS, at_ns=SENT - PAST_NS, output_tokens=MAX_TOKENS),
        ended(usage=Usage(input_tokens=0, input_cached_tokens=MAX_TOKENS, output_tokens=None), status=499),
        ended(first_token_at_ns=SENT, headers_at_ns=SENT - NS, request_bytes=MAX_BYTES, trace_id="0" * 32),
        ended(started_at_ns=SENT - LONGEST_NS, error="x" * MAX_SHOWN),
        ended(max_output_tokens=MAX_TOKENS, attempt=MAX_ATTEMPT, input_tokens_estimate=0, seen_by="span"),
        replace(START, input_tokens_estimate=MAX_TOKENS),
    ],
)
def test_what_can_be_is_taken_as_it_is(event: Any) -> None:
    assert sifted([event], SENT) == ((event,), ())


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (replace(START, sequence=0), "sequence 0"),
        (replace(PROGRESS, sequence=-3), "sequence -3"),
        (replace(END, sequence=1 << 63), f"sequence {1 << 63}"),
        (replace(START, id=""), "id is not"),
        (replace(START, id="a" * 65), "id is not"),
        (replace(PROGRESS, id="a b"), "id is not"),
        (replace(PROGRESS, id="a\x00"), "id is not"),
        (ended(id="é"), "id is not"),
        (replace(START, upstream=""), "upstream is not"),
        (ended(upstream="h" * (MAX_NAME + 1)), "upstream is not"),
        (replace(START, tenant="a\nb"), "tenant is no"),
        (ended(tenant="t" * 65), "tenant is no"),
        (replace(START, started_at_ns=-1), "started_at_ns -1"),
        (replace(START, started_at_ns=SENT + FUTURE_NS + 1), "started_at_ns"),
        (replace(START, started_at_ns=SENT - PAST_NS - 1), "started_at_ns"),
        (replace(PROGRESS, at_ns=1 << 63), "at_ns"),
        (replace(PROGRESS, output_tokens=-1), "output_tokens -1"),
        (ended(started_at_ns=SENT + 365 * 24 * 3600 * NS), "started_at_ns"),
        (ended(ended_at_ns=-5), "ended_at_ns -5"),
        (ended(ended_at_ns=SENT - NS - BACKWARDS_NS - 1), "after its start"),
        (ended(started_at_ns=SENT - LONGEST_NS - 1), "after its start"),
        (ended(usage=Usage(output_tokens=-1)), "output_tokens -1"),
        (ended(usage=Usage(input_tokens=MAX_TOKENS + 1)), "input_tokens"),
        (ended(usage=Usage(input_cached_tokens=1 << 63)), "input_cached_tokens"),
        (ended(max_output_tokens=-1), "max_output_tokens -1"),
        (ended(attempt=-1), "attempt -1"),
        (ended(input_tokens_estimate=-1), "input_tokens_estimate -1"),
        (ended(input_tokens_estimate=MAX_TOKENS + 1), "input_tokens_estimate"),
        (replace(START, input_tokens_estimate=1 << 63), "input_tokens_estimate"),
        (ended(status=0), "status 0"),
        (ended(response_bytes=-1), "response_bytes"),
        (ended(request_bytes=1 << 63), "request_bytes"),
        (ended(trace_id="x" * 65), "trace_id"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(event: Any, says: str) -> None:
    good, (refused,) = sifted([START, event, PROGRESS], SENT)
    assert good == (START, PROGRESS)
    assert (refused.index, refused.kind, refused.sequence) == (1, "value", event.sequence)
    assert says in refused.reason
    assert len(refused.reason) < 200


def test_what_could_not_be_read_keeps_its_place() -> None:
    unreadable = RefusedEvent(index=1, kind="unreadable", reason="no")
    good, refused = sifted([START, unreadable, replace(PROGRESS, sequence=0)], SENT)
    assert good == (START,)
    assert [event.index for event in refused] == [1, 2]
    assert refused[0] is unreadable


def test_a_sender_of_one_tenant_tells_of_that_tenant_only() -> None:
    told = [START, replace(START, tenant="acme"), replace(START, tenant="zeta"), PROGRESS, ended(tenant="zeta"), END]
    good, refused = sifted(told, SENT, "acme")
    assert good == (
        replace(START, tenant="acme"),
        replace(START, tenant="acme"),
        PROGRESS,
        ended(tenant="acme"),
    )
    assert [(event.index, event.kind) for event in refused] == [(2, "tenant"), (4, "tenant")]
    assert "'zeta'" in refused[0].reason
    assert sifted(told, SENT)[1] == ()


def test_an_empty_tenant_is_none() -> None:
    (event,), _ = sifted([replace(START, tenant="")], SENT)
    assert event == START


def test_text_that_clients_choose_is_cut_rather_than_refused() -> None:
    """A request with a long name must not be one that is never paid for."""
    long = "m" * (MAX_SHOWN + 9)
    event = ended(model=long, path="/" + long, error="a\nb", finish_reason=long)
    (found,), refused = sifted([event], SENT)
    assert refused == ()
    assert isinstance(found, RequestEnded)
    kept = found.record
    assert (len(kept.model or ""), len(kept.path), len(kept.finish_reason or "")) == (MAX_SHOWN,) * 3
    assert kept.error == "a\N{REPLACEMENT CHARACTER}b"
    (begun,), _ = sifted([replace(START, model=long)], SENT)
    assert isinstance(begun, RequestStarted)
    assert begun.model == kept.model


def test_numbers_that_clients_choose_are_cut_rather_than_refused() -> None:
    (found,), refused = sifted([ended(max_output_tokens=1 << 63, attempt=1 << 40)], SENT)
    assert refused == ()
    assert isinstance(found, RequestEnded)
    assert (found.record.max_output_tokens, found.record.attempt) == (MAX_TOKENS, MAX_ATTEMPT)


def test_instants_that_a_stepping_clock_mixed_up_are_put_in_order() -> None:
    """No latency is negative: the sums of histograms never decrease."""
    event = ended(ended_at_ns=SENT - 3 * NS, first_token_at_ns=SENT, headers_at_ns=SENT - 4 * NS)
    (found,), _ = sifted([event], SENT)
    assert isinstance(found, RequestEnded)
    assert found.record.ended_at_ns == found.record.started_at_ns
    assert (found.record.first_token_at_ns, found.record.headers_at_ns) == (None, None)


@given(
    st.lists(
        st.builds(
            RequestEnded,
            sequence=st.integers(),
            record=st.builds(
                RequestRecord,
                id=st.text(),
                upstream=st.text(),
                path=st.text(),
                started_at_ns=st.integers(),
                ended_at_ns=st.integers(),
                first_token_at_ns=st.none() | st.integers(),
                headers_at_ns=st.none() | st.integers(),
                outcome=st.just("ok"),
                tenant=st.none() | st.text(),
                status=st.none() | st.integers(),
                usage=st.builds(Usage, output_tokens=st.none() | st.integers()),
                max_output_tokens=st.none() | st.integers(),
                attempt=st.integers(),
                input_tokens_estimate=st.none() | st.integers(),
            ),
        )
        | st.builds(
            RequestProgressed, sequence=st.integers(), id=st.text(), at_ns=st.integers(), output_tokens=st.integers()
        )
    ),
    st.integers(0, MAX_INSTANT_NS),
    st.none() | st.just("acme"),
)
def test_each_event_is_either_taken_or_refused(told: list[Any], sent_at_ns: int, tenant: str | None) -> None:
    good, refused = sifted(told, sent_at_ns, tenant)
    assert len(good) + len(refused) == len(told)
    places = {event.index for event in refused}
    assert [event.sequence for at, event in enumerate(told) if at not in places] == [e.sequence for e in good]
    assert sifted(good, sent_at_ns, tenant) == (good, ())


@pytest.mark.parametrize(
    ("sidecar", "epoch", "sent_at_ns", "says"),
    [
        ("", 1, 1, "sidecar"),
        ("a\nb", 1, 1, "sidecar"),
        ("s" * (MAX_NAME + 1), 1, 1, "sidecar"),
        ("s", -1, 1, "epoch -1"),
        ("s", 1 << 63, 1, "epoch"),
        ("s", 1, -1, "sent_at_ns -1"),
        ("s", 1, 1 << 63, "sent_at_ns"),
    ],
)
def test_a_batch_whose_frame_cannot_be_is_refused_whole(sidecar: str, epoch: int, sent_at_ns: int, says: str) -> None:
    assert says in (objection_to_batch(sidecar, epoch, sent_at_ns) or "")


def test_a_sane_frame_is_taken() -> None:
    assert objection_to_batch("gpu-17:9480", 0, 0) is None
    assert objection_to_batch("节点", MAX_INSTANT_NS, MAX_INSTANT_NS) is None
