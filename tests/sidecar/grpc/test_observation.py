"""What passes of a call → record events; time is an argument."""

from typing import Any

import pytest
from tritonclient.grpc import service_pb2

from agent.clock import NS
from agent.core.requests import RequestEnded, RequestEvent, RequestProgressed, RequestStarted, Usage
from agent.sidecar.asks import Ask, Caller
from agent.sidecar.grpc.observation import CallObservation
from agent.sidecar.ids import RequestId, uuid7
from agent.sidecar.records.record import MAX_SHOWN, Recorder, Tally
from tests.support.grpc_sidecar import Slots
from tests.support.http2 import framed
from tests.support.triton import empty_final, token

T0 = 1_795_000_000 * NS
ID: RequestId = uuid7(T0, 7)
INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


class Seen:
    """An observation, and what came of it."""

    def __init__(self, path: str = STREAM, trace_id: str | None = None, attempt: int = 0) -> None:
        self.events: list[RequestEvent] = []
        self.ended: list[Any] = []
        self.slots = Slots()
        self.tally = Tally()
        recorder = Recorder(self.put, self.tally, self.slots, self.ended.append)
        caller = Caller("acme", "key")
        self.of = CallObservation(recorder, "e:8001", ID, path, T0, caller=caller, trace_id=trace_id, attempt=attempt)

    def put(self, make: Any) -> int:
        self.events.append(make(len(self.events) + 1))
        return len(self.events)

    def end(self, now_ns: int = T0 + NS, status: int = 0, message: str = "", cut: Any = None) -> Any:
        return self.of.end(now_ns, status=status, message=message, cut=cut, answered=True)


def question(model: str = "llm", text: bytes = b"word" * 10, limit: int | None = None) -> bytes:
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    request.raw_input_contents.append(len(text).to_bytes(4, "little") + text)
    if limit is not None:
        request.inputs.add(name="max_tokens", datatype="INT32", shape=[1])
        request.raw_input_contents.append(limit.to_bytes(4, "little"))
    return framed(request.SerializeToString())


def said(message: Any) -> bytes:
    return framed(message.SerializeToString())


def test_a_stream_from_its_first_byte_to_its_record() -> None:
    seen = Seen()
    seen.of.request(question(), T0 + 1)
    seen.of.response_head(T0 + 2)
    seen.of.response(said(token("llm", "a", final=False)), T0 + 3)
    seen.of.response(said(token("llm", "b", final=False)) + said(empty_final("llm")), T0 + 4)
    record = seen.end(T0 + 5)
    assert [type(event) for event in seen.events] == [RequestEnded]
    assert seen.ended == [record]
    assert not seen.slots.taken
    assert (record.id, record.upstream, record.path, record.tenant, record.tenant_source) == (
        ID.text,
        "e:8001",
        STREAM,
        "acme",
        "key",
    )
    assert (record.started_at_ns, record.headers_at_ns, record.first_token_at_ns, record.ended_at_ns) == (
        T0,
        T0 + 2,
        T0 + 3,
        T0 + 5,
    )
    assert record.usage == Usage(output_tokens=2, source="counted")
    assert (record.request_messages, record.response_messages, record.streamed) == (1, 3, True)
    assert (record.status, record.grpc_status, record.outcome, record.error) == (200, 0, "ok", None)
    assert record.trace_id == ID.hex
    assert seen.tally.outcomes == {"ok": 1}


def test_what_is_running_is_noted_as_soon_as_it_is_known() -> None:
    seen = Seen()
    assert seen.slots.taken == {1: (ID.hex, STREAM, "acme")}
    data = question(text=b"x" * 100_000)
    seen.of.request(data[:3], T0)
    assert not seen.of.askable
    seen.of.request(data[3:40], T0)  # the name of the model is there, the rest is not
    assert seen.of.askable
    assert seen.slots.taken == {1: (ID.hex, STREAM, "acme", "e:8001", "llm")}


def test_what_a_call_asks_for() -> None:
    seen = Seen(INFER)
    seen.of.request(question(text=b"word" * 25, limit=300), T0)
    asked = Ask(
        id=ID.text, tenant="acme", model="llm", path=INFER, input_tokens=26, max_output_tokens=300, priority="high"
    )
    assert seen.of.ask(b"high") == asked
    assert seen.of.ask().priority is None


def test_start_and_progress_are_told_in_time() -> None:
    seen = Seen()
    seen.of.progress(T0 + NS)
    assert seen.events == []  # nobody knows yet what is asked for
    seen.of.request(question(), T0 + 1)
    seen.of.progress(T0 + NS // 10)
    assert seen.events == []
    seen.of.progress(T0 + NS // 2)
    assert seen.events == [
        RequestStarted(
            sequence=1,
            id=ID.text,
            upstream="e:8001",
            path=STREAM,
            started_at_ns=T0,
            model="llm",
            tenant="acme",
            input_tokens_estimate=11,
        )
    ]
    seen.of.progress(T0 + 2 * NS)
    assert len(seen.events) == 1  # no token so far
    seen.of.response(said(token("llm", "a", final=False)), T0 + 2 * NS)
    seen.of.progress(T0 + 3 * NS)
    seen.of.progress(T0 + 3 * NS + NS // 2)  # not within a second
    assert seen.events[1:] == [RequestProgressed(sequence=2, id=ID.text, at_ns=T0 + 3 * NS, output_tokens=1)]


def test_who_waits_for_whom() -> None:
    seen = Seen()
    assert seen.of.waits_for_answer
    seen.of.request(question(), T0 + 1)
    seen.of.response(said(token("llm", "a", final=False)), T0 + 2)
    assert seen.of.waits_for_answer  # more of the same answer comes
    seen.of.response(said(empty_final("llm")), T0 + 3)
    assert not seen.of.waits_for_answer
    seen.of.request(question(), T0 + 4)
    assert seen.of.waits_for_answer
    assert seen.of.asked_at_ns == T0 + 4


@pytest.mark.parametrize(
    ("status", "message", "cut", "outcome", "error"),
    [
        (0, "", None, "ok", None),
        (13, "boom", None, "error", "boom"),
        (13, "", None, "error", "grpc-status 13"),
        (14, "Exceeds maximum queue size", None, "rejected", "Exceeds maximum queue size"),
        (14, "gone", "timeout", "timeout", "gone"),
        (1, "left", None, "client_abort", "left"),
        (13, "x" * 1000, None, "error", "x" * MAX_SHOWN),
    ],
)
def test_how_it_ended(status: int, message: str, cut: Any, outcome: str, error: str | None) -> None:
    record = Seen().end(status=status, message=message, cut=cut)
    assert (record.outcome, record.error, record.grpc_status) == (outcome, error, status)


def test_an_answer_that_ends_amid_a_message_is_an_error() -> None:
    seen = Seen()
    seen.of.response(said(token("llm", "a", final=True))[:-1], T0)
    record = seen.end()
    assert (record.outcome, record.error, record.grpc_status) == ("error", "the answer ended amid a message", 0)


def test_compressed_messages_are_counted_only() -> None:
    seen = Seen()
    data = bytearray(question())
    data[0] = 1
    seen.of.request(bytes(data), T0)
    answer = bytearray(said(token("llm", "a", final=False)))
    answer[0] = 1
    seen.of.response(bytes(answer), T0)
    record = seen.end()
    assert (record.model, record.usage, record.request_messages, record.response_messages) == (None, Usage(), 1, 1)


def test_ids_of_others_and_long_paths() -> None:
    seen = Seen("/" + "x" * 1000, trace_id="0af7651916cd43dd8448eb211c80319c")
    record = seen.end()
    assert record.trace_id == "0af7651916cd43dd8448eb211c80319c"
    assert len(record.path) == MAX_SHOWN


def test_the_limit_the_attempt_and_the_estimate_are_told() -> None:
    seen = Seen(INFER, attempt=2)
    seen.of.request(question(limit=64), T0 + 1)
    record = seen.end()
    assert (record.max_output_tokens, record.attempt, record.input_tokens_estimate) == (64, 2, 11)


def test_a_call_that_says_nothing_has_none_of_them() -> None:
    record = Seen("/other.Service/Call").end()
    assert (record.max_output_tokens, record.attempt, record.input_tokens_estimate) == (None, 0, None)


def test_a_limit_of_minus_one_is_no_limit() -> None:
    seen = Seen(INFER)
    seen.of.request(question(limit=(1 << 32) - 1), T0 + 1)
    assert seen.end().max_output_tokens is None
