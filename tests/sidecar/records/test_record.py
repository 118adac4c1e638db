"""One observation told step by step, with instants of our own: which events it makes and how it judges."""

from collections.abc import Callable

import msgspec
import pytest

from agent.core.admission import MAX_TOKENS
from agent.core.requests import RequestEnded, RequestEvent, RequestProgressed, RequestRecord, RequestStarted, Usage
from agent.sidecar.asks import Caller
from agent.sidecar.ids import uuid7
from agent.sidecar.plans import Plan
from agent.sidecar.records.record import PROGRESS_NS, Observation, Recorder, Tally
from agent.sidecar.records.record import START_NS as LATE_NS
from agent.sidecar.wire import EngineHead, RequestHead

CHAT = "/v1/chat/completions"
TOKEN = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
START_NS = 1_800_000_000 * 10**9
Fields = tuple[tuple[bytes, bytes], ...]


def _no_head(_host: bytes, _rewrite_host: bool) -> EngineHead:
    raise AssertionError("nothing is sent here")


class Told:
    """An observation and the events it has made."""

    def __init__(
        self, path: str = CHAT, *, readable: bool = True, fields: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None:
        self._events: list[RequestEvent] = []
        self.tally = Tally()
        said = list(fields) if readable else [(b"content-encoding", b"gzip"), *fields]
        head = RequestHead(b"POST", path.encode(), said)
        plan = Plan(
            head, _no_head, Caller("team", "header"), 0, peer="10.0.0.1", keep_alive=True, upgrade=False, http10=False
        )
        self.seen = Observation(Recorder(self._number, self.tally, self), plan, uuid7(START_NS, 1), START_NS)
        self.seen.goes_to("engine:8000")

    def _number(self, make: Callable[[int], RequestEvent]) -> int:
        self._events.append(make(len(self._events) + 1))
        return len(self._events)

    # the slots of requests in flight

    def begin(self, hex_id: str, started_at_ns: int, path: str, tenant: str | None = None) -> int:
        self.slot: list[object] = [hex_id, started_at_ns, path, tenant]
        return 7

    def tell(self, slot: int, upstream: str, model: str | None) -> None:
        assert slot == 7
        self.slot += [upstream, model]

    def ended(self, slot: int, number: int) -> None:
        assert slot == 7
        self.slot.append(number)

    @property
    def events(self) -> tuple[RequestEvent, ...]:
        return tuple(self._events)

    @property
    def record(self) -> RequestRecord:
        event = self.events[-1]
        assert isinstance(event, RequestEnded)
        return event.record

    def answer(self, status: int, kind: str, *body: bytes) -> RequestRecord:
        """A request and a whole answer."""
        self.seen.request_sent()
        self.seen.response_head(status, kind, "", START_NS + 1)
        for part in body:
            self.seen.response_body(part, START_NS + 2)
        self.seen.end(START_NS + 3, cut=None, error=None, own_status=None)
        return self.record


@pytest.mark.parametrize(
    ("status", "kind", "body", "outcome", "error"),
    [
        (200, "application/json", b"{}", "ok", None),
        (201, "text/plain", b"any", "ok", None),
        (302, "text/html", b"", "ok", None),
        (200, "text/event-stream", TOKEN + DONE, "ok", None),
        (200, "text/event-stream", TOKEN, "error", "stream ended without its end mark"),
        (200, "text/event-stream", b'data: {"error":{"type":"Broken"}}\n\n' + DONE, "error", "Broken"),
        (400, "application/json", b"{}", "rejected", "status 400"),
        (404, "application/json", b'{"error":{"type":"NotFoundError"}}', "rejected", "NotFoundError"),
        (429, "text/plain", b"slow", "rejected", "status 429"),
        (500, "text/plain", b"oops", "error", "status 500"),
        (502, "application/json", b"{}", "error", "status 502"),
        (
            503,
            "application/json",
            b'{"error":{"message":"loading"}}',
            "error",
            "error",
        ),  # messages are not repeated: they may quote a prompt
    ],
)
def test_the_outcome_of_a_whole_answer(status: int, kind: str, body: bytes, outcome: str, error: str | None) -> None:
    told = Told()
    record = told.answer(status, kind, body)
    assert (record.outcome, record.error, record.status) == (outcome, error, status)
    assert told.tally.outcomes == {outcome: 1}


@pytest.mark.parametrize(
    ("body", "outcome", "error"),
    [
        (b'{"response":"a","done":false}\n{"response":"","done":true,"eval_count":1}\n', "ok", None),
        (b'{"response":"a","done":false}\n', "error", "stream ended without its end mark"),
        (b'{"response":"a","done":false}\n{"error":"no"}\n', "error", "error"),
    ],
)
def test_lines_are_a_stream_too(body: bytes, outcome: str, error: str | None) -> None:
    record = Told("/api/generate").answer(200, "application/x-ndjson", body)
    assert (record.outcome, record.error, record.streamed) == (outcome, error, True)
    assert (record.usage.output_tokens, record.first_token_at_ns) == (1, START_NS + 2)


def test_a_stream_of_lines_that_is_not_metered_is_not_judged() -> None:
    record = Told("/api/pull").answer(200, "application/x-ndjson", b'{"status":"pulling"}\n')
    assert (record.outcome, record.usage) == ("ok", Usage())


def test_a_full_queue_of_the_engine_is_a_refusal() -> None:
    full = b'{"error":{"message":"The request queue is full."}}'
    assert Told().answer(503, "application/json", full).outcome == "rejected"


@pytest.mark.parametrize(
    ("cut", "own_status", "answered", "status"),
    [
        ("timeout", 504, False, 504),
        ("timeout", None, True, 200),
        ("error", 502, False, 502),
        ("client_abort", None, False, None),
        ("client_abort", None, True, 200),
    ],
)
def test_what_was_cut_keeps_its_reason(cut: str, own_status: int | None, answered: bool, status: int | None) -> None:
    told = Told()
    told.seen.request_sent()
    if answered:
        told.seen.response_head(200, "application/json", "", START_NS + 1)
    told.seen.end(START_NS + 3, cut=cut, error="why", own_status=own_status)  # type: ignore[arg-type] # from a table
    assert (told.record.outcome, told.record.error, told.record.status) == (cut, "why", status)
    assert told.record.headers_at_ns == (START_NS + 1 if answered else None)


@pytest.mark.parametrize(("body", "outcome"), [(TOKEN + DONE, "ok"), (TOKEN, "client_abort")])
def test_a_client_that_leaves_at_the_end_mark_has_had_its_answer(body: bytes, outcome: str) -> None:
    told = Told()
    told.seen.request_sent()
    told.seen.response_head(200, "text/event-stream", "", START_NS + 1)
    told.seen.response_body(body, START_NS + 2)
    told.seen.end(START_NS + 3, cut="client_abort", error="the client closed its connection", own_status=None)
    assert told.record.outcome == outcome


def test_a_client_that_leaves_before_the_answer_has_left() -> None:
    told = Told()
    told.seen.request_body(b'{"model":"tiny","stream":true}')
    told.seen.request_sent()
    told.seen.end(START_NS + 3, cut="client_abort", error="the client closed its connection", own_status=None)
    assert told.record.outcome == "client_abort"


def test_the_events_of_a_stream() -> None:
    told = Told()
    seen = told.seen
    seen.request_body(b'{"model":"ti')
    seen.request_body(b'ny","stream":true}')
    seen.request_sent()
    seen.response_head(200, "text/event-stream", "", START_NS + 5)
    seen.response_body(TOKEN + TOKEN, START_NS + 7)
    seen.progress(START_NS + LATE_NS - 1)  # too early for anything
    assert told.events == ()
    seen.progress(START_NS + LATE_NS)  # no second has passed
    seen.progress(START_NS + PROGRESS_NS)
    seen.progress(START_NS + PROGRESS_NS + 250_000_000)  # a second has not passed since the last
    seen.response_body(TOKEN, START_NS + PROGRESS_NS + 300_000_000)
    seen.progress(START_NS + 2 * PROGRESS_NS)
    seen.response_body(DONE, START_NS + 2 * PROGRESS_NS)
    seen.end(START_NS + 3 * PROGRESS_NS, cut=None, error=None, own_status=None)
    start, first, second, end = told.events
    assert start == RequestStarted(
        sequence=1,
        id=seen.id.text,
        upstream="engine:8000",
        path=CHAT,
        started_at_ns=START_NS,
        model="tiny",
        tenant="team",
        input_tokens_estimate=7,
    )
    assert first == RequestProgressed(sequence=2, id=seen.id.text, at_ns=START_NS + PROGRESS_NS, output_tokens=2)
    assert second == RequestProgressed(sequence=3, id=seen.id.text, at_ns=START_NS + 2 * PROGRESS_NS, output_tokens=3)
    assert isinstance(end, RequestEnded)
    record = end.record
    assert (record.id, record.model, record.tenant) == (seen.id.text, "tiny", "team")
    assert (record.tenant_source, record.trace_id) == ("header", seen.id.hex)
    assert (record.headers_at_ns, record.first_token_at_ns) == (START_NS + 5, START_NS + 7)
    assert record.ended_at_ns == START_NS + 3 * PROGRESS_NS
    assert (record.request_bytes, record.response_bytes) == (30, 3 * len(TOKEN) + len(DONE))
    assert (record.usage.output_tokens, record.usage.source) == (3, "counted")


def test_there_is_no_progress_without_tokens_or_outside_of_a_stream() -> None:
    for kind, body in (("text/event-stream", b": ping\n\n"), ("application/json", b"{}")):
        told = Told()
        told.seen.response_head(200, kind, "", START_NS)
        told.seen.response_body(body, START_NS)
        told.seen.progress(START_NS + 9 * PROGRESS_NS)
        assert [type(event) for event in told.events] == [RequestStarted]


def test_without_its_meter_a_request_still_has_a_record() -> None:
    told = Told()
    told.seen.response_head(200, "text/event-stream", "", START_NS)
    told.seen.response_body(TOKEN, START_NS)
    told.seen.stop_metering()
    told.seen.progress(START_NS + 9 * PROGRESS_NS)
    told.seen.end(START_NS + 9, cut=None, error=None, own_status=None)
    assert (told.record.outcome, told.record.usage.output_tokens) == ("ok", None)  # not 0: it was not measured
    assert told.record.response_bytes == len(TOKEN)


def test_a_short_request_is_told_by_its_end_alone() -> None:
    told = Told()
    told.seen.end(START_NS + 1, cut="error", error="x", own_status=502)
    assert [type(event) for event in told.events] == [RequestEnded]


@pytest.mark.parametrize(
    ("body", "most"),
    [
        (b'{"max_tokens":64}', 64),
        (b'{"max_completion_tokens":64,"n":2}', 128),
        (b'{"options":{"num_predict":-1}}', None),
        (b"{}", None),
        (b'{"max_tokens":1' + b"0" * 40 + b"}", MAX_TOKENS),
    ],
)
def test_what_a_request_allowed_the_engine_to_write_is_told(body: bytes, most: int | None) -> None:
    told = Told()
    told.seen.request_body(body)
    told.answer(200, "application/json", b"{}")
    assert told.record.max_output_tokens == most
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(told.record), type=RequestRecord) == told.record


def test_a_retry_is_told_as_the_attempt_it_is() -> None:
    assert Told(fields=((b"x-stainless-retry-count", b"2"),)).answer(200, "text/plain", b"").attempt == 2
    assert Told().answer(200, "text/plain", b"").attempt == 0


def test_the_estimate_stands_in_only_for_what_was_not_counted() -> None:
    body = b'{"model":"tiny","prompt":"abcdefgh"}'
    counted, cut = Told(), Told()
    for told in (counted, cut):
        told.seen.request_body(body)
    counted.answer(200, "application/json", b'{"usage":{"prompt_tokens":3,"completion_tokens":1}}')
    assert (counted.record.usage.input_tokens, counted.record.input_tokens_estimate) == (3, None)
    cut.seen.end(START_NS + 1, cut="client_abort", error="x", own_status=None)
    assert (cut.record.usage.input_tokens, cut.record.input_tokens_estimate) == (None, len(body) // 4)


def test_the_length_of_files_is_no_estimate() -> None:
    told = Told("/v1/audio/transcriptions", fields=((b"content-type", b"multipart/form-data; boundary=x"),))
    told.seen.request_body(b"x" * 4096)
    told.seen.request_sent()
    told.seen.progress(START_NS + LATE_NS)
    (start,) = told.events
    assert isinstance(start, RequestStarted)
    assert start.input_tokens_estimate is None
    assert told.answer(200, "application/json", b"{}").input_tokens_estimate is None


def test_a_compressed_request_names_no_model() -> None:
    told = Told(readable=False)
    told.seen.request_body(b'{"model":"tiny"}')
    assert told.answer(200, "application/json", b"{}").model is None
    assert told.record.request_bytes == 16


def test_a_request_has_a_slot_until_its_end_has_a_number() -> None:
    told = Told()
    assert told.slot == [told.seen.id.hex, START_NS, CHAT, "team", "engine:8000", None]
    told.answer(200, "application/json", b"{}")
    assert told.slot[-1] == 1
