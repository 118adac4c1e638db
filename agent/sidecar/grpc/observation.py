"""What passes of a recorded call → record events. No IO; instants are arguments."""

from agent.core.requests import Outcome, RequestEnded, RequestProgressed, RequestRecord, RequestStarted
from agent.sidecar.asks import Ask, Caller
from agent.sidecar.grpc.messages import MessageReader
from agent.sidecar.grpc.status import outcome_of
from agent.sidecar.grpc.tokens import HEAD_BYTES, reading_for
from agent.sidecar.ids import RequestId
from agent.sidecar.records.record import MAX_SHOWN, PROGRESS_NS, START_NS, Recorder, bounded, shown

HTTP_OK = 200


class CallObservation:
    """One recorded call. Methods are called in the order of the wire."""

    __slots__ = (
        "_answers", "_progress_at_ns", "_reading", "_recorder", "_requests", "_slot", "_started", "_told",
        "_upstream", "answered_at_ns", "asked_at_ns", "attempt", "caller", "headers_at_ns", "id", "path", "queued_ns",
        "request_bytes", "response_bytes", "started_at_ns", "trace_id",
    )  # fmt: skip

    def __init__(
        self,
        recorder: Recorder,
        upstream: str,
        request_id: RequestId,
        path: str,
        started_at_ns: int,
        *,
        caller: Caller,
        trace_id: str | None,
        attempt: int = 0,
    ) -> None:
        self._recorder = recorder
        self._upstream = upstream
        self.id = request_id.text
        self.path = path[:MAX_SHOWN]
        self.started_at_ns = started_at_ns
        self.caller = caller
        self.trace_id = trace_id or request_id.hex
        self.attempt = attempt
        self._slot = recorder.slots.begin(request_id.hex, started_at_ns, path, caller.tenant)
        self._told = False  # in which slot, and which model
        self._requests = MessageReader(HEAD_BYTES)
        self._answers = MessageReader(HEAD_BYTES)
        self._reading = reading_for(path)
        self._started = False
        self._progress_at_ns = started_at_ns
        self.headers_at_ns: int | None = None
        self.queued_ns: int | None = None
        self.request_bytes = 0
        self.response_bytes = 0
        self.asked_at_ns = started_at_ns  # the first message counts from the start of the call
        self.answered_at_ns = 0

    @property
    def model(self) -> str | None:
        """The model that the client or the engine named."""
        return shown(self._reading.model)

    @property
    def waits_for_answer(self) -> bool:
        """Whether the client waits for more of an answer, as far as one can tell."""
        return self._requests.amid or self.answered_at_ns <= self.asked_at_ns or not self._reading.answered

    @property
    def askable(self) -> bool:
        """Whether enough of the first message has come to say what the call asks for."""
        return self._requests.count > 0 or self._reading.model is not None

    def ask(self, priority: bytes | None = None) -> Ask:
        """What the call asks of the engine; `priority` as its client named it."""
        return Ask(
            id=self.id,
            tenant=self.caller.tenant,
            model=self.model,
            path=self.path,
            input_tokens=self._reading.input_tokens,
            max_output_tokens=self._reading.max_output_tokens,
            priority=None if priority is None else priority.decode("latin-1"),
        )

    def request(self, data: bytes, now_ns: int) -> None:
        """DATA of the client."""
        self.request_bytes += len(data)
        requests = self._requests
        earlier = requests.count
        messages = requests.feed(data)
        if messages:
            if earlier == 0 and not messages[0].compressed:
                self._reading.request(messages[0])
            if requests.count > 1:
                self.asked_at_ns = now_ns
            self._reading.request_counted(requests.count)
        elif not self.askable and (coming := requests.coming) is not None and not coming.compressed:
            self._reading.request(coming)
        if not self._told and self.askable:
            self._told = True
            self._recorder.slots.tell(self._slot, self._upstream, self.model)

    def _tell_start(self) -> None:
        self._started = True
        self._recorder.put(
            lambda sequence: RequestStarted(
                sequence=sequence,
                id=self.id,
                upstream=self._upstream,
                path=self.path,
                started_at_ns=self.started_at_ns,
                model=self.model,
                tenant=self.caller.tenant,
                input_tokens_estimate=bounded(self._reading.input_tokens or None),
            )
        )

    def response_head(self, now_ns: int) -> None:
        """The answer has begun."""
        self.headers_at_ns = now_ns

    def response(self, data: bytes, now_ns: int) -> None:
        """DATA of the engine."""
        self.response_bytes += len(data)
        for message in self._answers.feed(data):
            self.answered_at_ns = now_ns
            if not message.compressed:
                self._reading.response(message, now_ns)

    def progress(self, now_ns: int) -> None:
        """Called now and then: tells the start, and of streams at most once a second the tokens so far."""
        if not self._started:
            if not self.askable or now_ns - self.started_at_ns < START_NS:
                return
            self._tell_start()
        if not self._reading.streamed or now_ns - self._progress_at_ns < PROGRESS_NS:
            return
        tokens = self._reading.output_tokens()
        if not tokens:
            return
        self._progress_at_ns = now_ns
        self._recorder.put(
            lambda sequence: RequestProgressed(sequence=sequence, id=self.id, at_ns=now_ns, output_tokens=tokens)
        )

    def end(self, now_ns: int, *, status: int, message: str, cut: Outcome | None, answered: bool) -> RequestRecord:
        """The last event. `cut`: an outcome that the status does not tell. `answered`: the client got a head."""
        reading = self._reading
        usage = reading.usage()
        outcome = cut or outcome_of(status, message)
        error: str | None = None if outcome == "ok" else message or f"grpc-status {status}"
        if outcome == "ok" and (reading.error or self._answers.amid):
            outcome, error = "error", reading.error or "the answer ended amid a message"
        outcomes = self._recorder.tally.outcomes
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        record = RequestRecord(
            id=self.id,
            upstream=self._upstream,
            path=self.path,
            started_at_ns=self.started_at_ns,
            ended_at_ns=now_ns,
            outcome=outcome,
            streamed=reading.streamed or self._answers.count > 1,
            model=self.model,
            tenant=self.caller.tenant,
            tenant_source=self.caller.source,
            status=HTTP_OK if answered else None,
            headers_at_ns=self.headers_at_ns,
            first_token_at_ns=reading.first_token_at_ns,
            usage=usage,
            finish_reason=shown(reading.finish_reason),
            error=shown(error),
            request_bytes=self.request_bytes,
            response_bytes=self.response_bytes,
            trace_id=self.trace_id,
            queued_ns=self.queued_ns,
            grpc_status=status,
            request_messages=self._requests.count,
            response_messages=self._answers.count,
            max_output_tokens=bounded(reading.max_output_tokens),
            attempt=self.attempt,
            input_tokens_estimate=bounded(reading.input_tokens or None) if usage.input_tokens is None else None,
        )
        number = self._recorder.put(lambda sequence: RequestEnded(sequence=sequence, record=record))
        self._recorder.slots.ended(self._slot, number)
        self._recorder.ended(record)
        return record
