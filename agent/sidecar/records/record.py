"""What the sidecar saw of each request → record events, numbered. No IO; instants are arguments."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from agent.core.admission import MAX_TOKENS
from agent.core.requests import (
    Outcome,
    RequestEnded,
    RequestEvent,
    RequestProgressed,
    RequestRecord,
    RequestStarted,
)
from agent.sidecar.ids import RequestId
from agent.sidecar.meter.meters import is_stream, meter_of
from agent.sidecar.meter.reading import MAX_CAPTURE_BYTES, Measured, Meter
from agent.sidecar.meter.request import BYTES_PER_TOKEN, RequestSaid, read_request
from agent.sidecar.plans import Plan

PROGRESS_NS = 1_000_000_000
START_NS = 250_000_000
"""A request that is over sooner than this is told by its end alone, which says all that a start says."""
MAX_SHOWN = 256  # of what clients and engines choose: names of models, paths, errors
_NOTHING_SAID = RequestSaid()
_NOTHING_MEASURED = Measured()


def shown(text: str | None) -> str | None:
    """The beginning of a text that somebody else chose: a record must stay small, whatever it is about."""
    return text if text is None or len(text) <= MAX_SHOWN else text[:MAX_SHOWN]


def bounded(tokens: int | None) -> int | None:
    """A count that somebody else chose, at most what the agent takes: a larger one means no limit anyway."""
    return tokens if tokens is None or tokens <= MAX_TOKENS else MAX_TOKENS


@dataclass(slots=True)
class Tally:
    """Counters of this process, read by /metrics."""

    outcomes: dict[str, int] = field(default_factory=dict)  # recorded requests by outcome
    forwarded: int = 0  # requests of every kind
    retries: int = 0
    connects: int = 0
    observation_failures: int = 0


class Slots(Protocol):
    """Where requests that run are noted, so that a successor of a killed sidecar can tell them."""

    def begin(self, hex_id: str, started_at_ns: int, path: str, tenant: str | None = None) -> int: ...
    def tell(self, slot: int, upstream: str, model: str | None) -> None: ...
    def ended(self, slot: int, number: int) -> None: ...


class Recorder:
    """Hands the events of observations to `put`, which never blocks. `ended` gets each record that is made.

    `upstream`: what records say of requests that no engine got.
    """

    def __init__(
        self,
        put: Callable[[Callable[[int], RequestEvent]], int],
        tally: Tally,
        slots: Slots,
        ended: Callable[[RequestRecord], None] = lambda _: None,
        *,
        upstream: str = "",
    ) -> None:
        self.put = put
        self.tally = tally
        self.slots = slots
        self.ended = ended
        self.upstream = upstream


class Observation:
    """One recorded request, from its head to its end. Methods are called in the order of the wire."""

    __slots__ = (
        "_body", "_body_bytes", "_meter", "_progress_at_ns", "_recorder", "_slot", "_started", "_status", "caller",
        "headers_at_ns", "id", "plan", "queued_ns", "request_bytes", "response_bytes", "said", "started_at_ns",
        "streamed", "upstream",
    )  # fmt: skip

    def __init__(self, recorder: Recorder, plan: Plan, request_id: RequestId, started_at_ns: int) -> None:
        self._recorder = recorder
        self.plan = plan
        self.id = request_id
        self.started_at_ns = started_at_ns
        self.caller = plan.caller
        self.upstream = recorder.upstream  # host:port of the engine that got it
        self.said: RequestSaid | None = None  # None: the request is not whole
        self.queued_ns: int | None = None
        self._body: list[bytes] = []
        self._body_bytes = 0
        self.streamed = False
        self._started = False  # the start was told
        self._status: int | None = None
        self._meter: Meter | None = None
        self.headers_at_ns: int | None = None
        self.request_bytes = 0
        self.response_bytes = 0
        self._progress_at_ns = started_at_ns
        self._slot = recorder.slots.begin(request_id.hex, started_at_ns, plan.path, plan.caller.tenant)

    def request_body(self, data: bytes) -> None:
        """A piece of the request's body."""
        self.request_bytes += len(data)
        if self._body_bytes < MAX_CAPTURE_BYTES and self.plan.readable:
            self._body.append(data)
            self._body_bytes += len(data)

    def request_sent(self) -> RequestSaid:
        """The whole request, or as much of it as there was before the answer began: what it says."""
        if self.said is None:
            parts = self._body
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()
            self.said = read_request(body, len(body) == self.request_bytes) if body else _NOTHING_SAID
            self.streamed = bool(self.said.stream)
        return self.said

    def goes_to(self, upstream: str) -> None:
        """The engine that gets it, or that it is sent to again."""
        self.upstream = upstream
        said = self.said
        self._recorder.slots.tell(self._slot, upstream, said.model if said is not None else None)

    def tell_start(self) -> None:
        """Tell that this request runs, once."""
        if self._started:
            return
        self._started = True
        said = self.request_sent()
        self._recorder.put(
            lambda sequence: RequestStarted(
                sequence=sequence,
                id=self.id.text,
                upstream=self.upstream,
                path=self.plan.path[:MAX_SHOWN],
                started_at_ns=self.started_at_ns,
                model=shown(said.model),
                tenant=self.caller.tenant,
                input_tokens_estimate=self._input_estimate(),
            )
        )

    def _input_estimate(self) -> int | None:
        """What quotas reckon with. Of an upload of files the length says nothing."""
        return bounded(self.request_bytes // BYTES_PER_TOKEN) if self.request_bytes and self.plan.has_text else None

    def response_head(self, status: int, content_type: str, content_encoding: str, now_ns: int) -> None:
        """The engine's final status and the type of its body."""
        self.request_sent()
        self._status = status
        self.headers_at_ns = now_ns
        self.streamed = is_stream(content_type)
        self._meter = meter_of(content_type, content_encoding, self.plan.path, status >= 400)

    def response_body(self, data: bytes, now_ns: int) -> None:
        """A piece of the response's body, without chunk framing."""
        self.response_bytes += len(data)
        if self._meter is not None:
            self._meter.feed(data, now_ns)

    def stop_metering(self) -> None:
        """Go on without tokens: the meter failed."""
        self._meter = None

    def progress(self, now_ns: int) -> None:
        """Called now and then while the request runs: tells its start, and of streams at most once a second."""
        if not self._started:
            if self.said is None or now_ns - self.started_at_ns < START_NS:
                return
            self.tell_start()
        if not self.streamed or self._meter is None or now_ns - self._progress_at_ns < PROGRESS_NS:
            return
        tokens = self._meter.output_tokens()
        if not tokens:
            return
        self._progress_at_ns = now_ns
        self._recorder.put(
            lambda sequence: RequestProgressed(sequence=sequence, id=self.id.text, at_ns=now_ns, output_tokens=tokens)
        )

    def end(self, now_ns: int, *, cut: Outcome | None, error: str | None, own_status: int | None) -> RequestRecord:
        """The last event; its record. `cut`: why there was no whole answer; `own_status`: that of an answer of ours."""
        said, plan, meter = self.request_sent(), self.plan, self._meter
        measured = _NOTHING_MEASURED if meter is None else meter.finish(now_ns)
        status = own_status if self._status is None else self._status
        if cut == "client_abort" and self.streamed and meter is not None and measured.complete:
            cut = None  # clients leave at the end mark, and do not wait for the end of the body behind it
        outcome, reason = (cut, error) if cut else self._judge(measured)
        outcomes = self._recorder.tally.outcomes
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        record = RequestRecord(
            id=self.id.text,
            upstream=self.upstream,
            path=plan.path[:MAX_SHOWN],
            started_at_ns=self.started_at_ns,
            ended_at_ns=now_ns,
            outcome=outcome,
            streamed=self.streamed,
            model=shown(said.model or measured.model),
            tenant=self.caller.tenant,
            status=status,
            headers_at_ns=self.headers_at_ns,
            first_token_at_ns=measured.first_token_at_ns,
            usage=measured.usage,
            finish_reason=shown(measured.finish_reason),
            error=shown(reason),
            request_bytes=self.request_bytes,
            response_bytes=self.response_bytes,
            trace_id=plan.trace_id or self.id.hex,
            tenant_source=self.caller.source,
            queued_ns=self.queued_ns,
            max_output_tokens=bounded(said.most_output_tokens),
            attempt=plan.attempt,
            input_tokens_estimate=self._input_estimate() if measured.usage.input_tokens is None else None,
        )
        number = self._recorder.put(lambda sequence: RequestEnded(sequence=sequence, record=record))
        self._recorder.slots.ended(self._slot, number)
        self._recorder.ended(record)
        return record

    def _judge(self, measured: Measured) -> tuple[Outcome, str | None]:
        """A whole answer came: was it a good one? 4xx and a full queue are refusals, not failures of the engine."""
        status = self._status or 0
        if status >= 500:
            refused = status == 503 and measured.queue_full
            return ("rejected" if refused else "error"), measured.error or f"status {status}"
        if status >= 400:
            return "rejected", measured.error or f"status {status}"
        if measured.error:
            return "error", measured.error
        if self.streamed and self._meter is not None and not measured.complete:
            return "error", "stream ended without its end mark"
        return "ok", None
