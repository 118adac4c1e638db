"""What the sidecar saw of each request → record events, numbered. No IO; instants are arguments."""

from collections.abc import Callable
from dataclasses import dataclass, field

from agent.core.requests import (
    Outcome,
    RequestEnded,
    RequestEvent,
    RequestProgressed,
    RequestRecord,
    RequestStarted,
)
from agent.sidecar.ids import RequestId
from agent.sidecar.meter import RequestSaid, is_metered, is_stream, meter_for, read_request
from agent.sidecar.meter_reading import MAX_CAPTURE_BYTES, Measured, Meter

PROGRESS_NS = 1_000_000_000
MAX_TENANT = 64
MAX_SHOWN = 256  # of what clients and engines choose: names of models, paths, errors
UNRECORDED_PATHS = frozenset(("/health", "/metrics", "/v1/models", "/ping", "/version", "/load", "/props", "/slots"))
UNRECORDED_METHODS = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"CONNECT"))


def is_recorded(method: bytes, path: str) -> bool:
    """Whether a request is work for the engine; probes, scrapes and listings are forwarded only."""
    return method not in UNRECORDED_METHODS and path not in UNRECORDED_PATHS


def tenant_of(value: bytes | None) -> str | None:
    """A name of 1 to 64 printable ASCII characters; anything else is no name: a cut one would be somebody else's."""
    if value is None:
        return None
    name = value.decode("latin-1").strip()
    return name if 0 < len(name) <= MAX_TENANT and name.isascii() and name.isprintable() else None


def shown(text: str | None) -> str | None:
    """The beginning of a text that somebody else chose: a record must stay small, whatever it is about."""
    return text if text is None or len(text) <= MAX_SHOWN else text[:MAX_SHOWN]


@dataclass(slots=True)
class Tally:
    """Counters of this process, read by /metrics."""

    outcomes: dict[str, int] = field(default_factory=dict)  # recorded requests by outcome
    forwarded: int = 0  # requests of every kind
    retries: int = 0
    connects: int = 0
    observation_failures: int = 0


class Recorder:
    """Makes observations and hands their events to `put`, which never blocks."""

    def __init__(self, put: Callable[[Callable[[int], RequestEvent]], None], upstream: str, tally: Tally) -> None:
        self.put = put
        self.upstream = upstream
        self.tally = tally


class Observation:
    """One recorded request, from its head to its end. Methods are called in the order of the wire."""

    __slots__ = (
        "_body", "_body_bytes", "_meter", "_model", "_progress_at_ns", "_readable", "_recorder", "_started",
        "_status", "headers_at_ns", "id", "path", "request_bytes", "response_bytes", "started_at_ns", "streamed",
        "tenant", "trace_id",
    )  # fmt: skip

    def __init__(
        self,
        recorder: Recorder,
        request_id: RequestId,
        path: str,
        started_at_ns: int,
        *,
        tenant: str | None,
        trace_id: str,
        readable: bool,
    ) -> None:
        self._recorder = recorder
        self.id = request_id.text
        self.path = path[:MAX_SHOWN]
        self.started_at_ns = started_at_ns
        self.tenant = tenant
        self.trace_id = trace_id
        self._readable = readable  # the request body is not compressed
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._model: str | None = None
        self.streamed = False
        self._started = False
        self._status: int | None = None
        self._meter: Meter | None = None
        self.headers_at_ns: int | None = None
        self.request_bytes = 0
        self.response_bytes = 0
        self._progress_at_ns = started_at_ns

    def request_body(self, data: bytes) -> None:
        """A piece of the request's body."""
        self.request_bytes += len(data)
        if self._readable and self._body_bytes < MAX_CAPTURE_BYTES:
            self._body.append(data)
            self._body_bytes += len(data)

    def request_sent(self) -> None:
        """The whole request, or as much of it as there was before the answer began, is on its way: tell the start."""
        if self._started:
            return
        self._started = True
        body = b"".join(self._body)
        self._body.clear()
        said = read_request(body, len(body) == self.request_bytes) if body else RequestSaid()
        self._model = shown(said.model)
        self.streamed = bool(said.stream)
        self._recorder.put(
            lambda sequence: RequestStarted(
                sequence=sequence,
                id=self.id,
                upstream=self._recorder.upstream,
                path=self.path,
                started_at_ns=self.started_at_ns,
                model=self._model,
                tenant=self.tenant,
            )
        )

    def response_head(self, status: int, content_type: str, content_encoding: str, now_ns: int) -> None:
        """The engine's final status and the type of its body."""
        self.request_sent()
        self._status = status
        self.headers_at_ns = now_ns
        self.streamed = is_stream(content_type)
        if is_metered(self.path) or status >= 400:
            self._meter = meter_for(content_type, content_encoding, self.path)

    def response_body(self, data: bytes, now_ns: int) -> None:
        """A piece of the response's body, without chunk framing."""
        self.response_bytes += len(data)
        if self._meter is not None:
            self._meter.feed(data, now_ns)

    def stop_metering(self) -> None:
        """Go on without tokens: the meter failed."""
        self._meter = None

    def progress(self, now_ns: int) -> None:
        """Called now and then while the request runs; tells at most once a second, and only of streams."""
        if not self.streamed or self._meter is None or now_ns - self._progress_at_ns < PROGRESS_NS:
            return
        tokens = self._meter.output_tokens()
        if not tokens:
            return
        self._progress_at_ns = now_ns
        self._recorder.put(
            lambda sequence: RequestProgressed(sequence=sequence, id=self.id, at_ns=now_ns, output_tokens=tokens)
        )

    def end(self, now_ns: int, *, cut: Outcome | None, error: str | None, own_status: int | None) -> None:
        """The last event. `cut` says why there was no whole answer; `own_status` is the status of an answer of ours."""
        self.request_sent()
        measured = self._meter.finish(now_ns) if self._meter is not None else Measured()
        status = own_status if self._status is None else self._status
        outcome, reason = (cut, error) if cut else self._judge(measured)
        self._recorder.tally.outcomes[outcome] = self._recorder.tally.outcomes.get(outcome, 0) + 1
        record = RequestRecord(
            id=self.id,
            upstream=self._recorder.upstream,
            path=self.path,
            started_at_ns=self.started_at_ns,
            ended_at_ns=now_ns,
            outcome=outcome,
            streamed=self.streamed,
            model=self._model or shown(measured.model),
            tenant=self.tenant,
            status=status,
            headers_at_ns=self.headers_at_ns,
            first_token_at_ns=measured.first_token_at_ns,
            usage=measured.usage,
            finish_reason=shown(measured.finish_reason),
            error=shown(reason),
            request_bytes=self.request_bytes,
            response_bytes=self.response_bytes,
            trace_id=self.trace_id,
        )
        self._recorder.put(lambda sequence: RequestEnded(sequence=sequence, record=record))

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
