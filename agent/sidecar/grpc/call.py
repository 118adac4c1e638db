"""One call on its way: a client's stream ↔ a stream to the engine, byte for byte; what fails becomes a gRPC status."""

from functools import partial
from typing import TYPE_CHECKING

import anyio
from h2.errors import ErrorCodes

from agent.clock import NS
from agent.core.requests import Outcome, Usage
from agent.sidecar.asks import Ask, Refusal
from agent.sidecar.grpc.heads import CallHead, Fields, fields_of, pushback, trailers, trailers_only
from agent.sidecar.grpc.http2 import Headers
from agent.sidecar.grpc.link import Flow
from agent.sidecar.grpc.observation import CallObservation
from agent.sidecar.grpc.services import Ticket
from agent.sidecar.grpc.status import (
    CANCELLED,
    DEADLINE_EXCEEDED,
    UNAVAILABLE,
    decode_message,
    read_status,
    status_of_http,
    status_of_refusal,
    status_of_reset,
    timeout_ns,
)
from agent.sidecar.ids import RequestId
from agent.sidecar.plans import PRIORITY_HEADER

if TYPE_CHECKING:
    from agent.sidecar.grpc.connection import GrpcConnection
    from agent.sidecar.grpc.forwarder import GrpcForwarder
    from agent.sidecar.grpc.upstream import UpstreamLink

# What a bug in the metering could raise. It must cost a record, never a call.
OBSERVATION_ERRORS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
KEPT_BYTES = 64 * 1024  # of a request, to send it again when the engine says that it did not look at it
DEADLINE_SLACK_NS = 20_000_000  # a client's deadline began before its call came here
UNPROCESSED = "the engine turned the call away before it looked at it"


class Call:
    """One call and its answer. Whatever happens, the client gets one end, and a recorded call one record."""

    __slots__ = (
        "_asks", "_forwarder", "_gone", "_kept", "_kept_bytes", "_message", "_priority", "_responding", "_retried",
        "_scope", "_sent", "_status", "_ticket", "_timeout_ns", "client", "down", "finished", "link", "observation",
        "request_id", "started_at_ns", "stream_id", "up", "upstream_id",
    )  # fmt: skip

    def __init__(
        self,
        forwarder: "GrpcForwarder",
        client: "GrpcConnection",
        stream_id: int,
        head: CallHead,
        sent: Fields,
        request_id: RequestId,
        observation: CallObservation | None,
        now_ns: int,
    ) -> None:
        self._forwarder = forwarder
        self.client = client
        self.stream_id = stream_id
        self.request_id = request_id
        self.observation = observation
        self.started_at_ns = now_ns
        self.link: UpstreamLink | None = None
        self.upstream_id = 0
        self.up = Flow(client, stream_id)
        self.down = Flow()
        self.finished = False
        self._sent = sent
        self._timeout_ns = timeout_ns(head.fields.get(b"grpc-timeout"))
        self._priority = head.fields.get(PRIORITY_HEADER)
        self._kept: list[bytes] | None = []
        self._kept_bytes = 0
        self._responding = False  # the client has got the head of an answer
        self._retried = False
        self._asks = False  # a quota is to be asked, as soon as it is known for what
        self._gone = False  # to the engine, or to wait for a connection
        self._scope: anyio.CancelScope | None = None
        self._ticket: Ticket | None = None
        self._status: int | None = None  # what the engine said at the end
        self._message = ""

    # the request's way

    def begin(self, refusal: Refusal | None) -> None:
        """Find a connection to the engine; with quotas, not before they let the call pass."""
        self._forwarder.active.add(self)
        self._forwarder.tally.forwarded += 1
        self.down.to(self.client, self.stream_id)
        self.down.on_done = self._down_finished
        if refusal is not None:
            self.refuse(refusal)
        else:
            quotas = self._forwarder.services.quotas
            self._asks = quotas is not None and quotas.active and self.observation is not None
            if quotas is None or not (self._asks and quotas.decides):
                self._go()

    def _go(self) -> None:
        self._gone = True
        self._forwarder.pool.take(self)

    def attach(self, link: "UpstreamLink") -> None:
        """There is a connection: send what has come so far."""
        self.link = link
        self.upstream_id = link.open(self, self._sent)
        self.down.source, self.down.source_id = link, self.upstream_id
        self.up.to(link, self.upstream_id)

    def request_data(self, data: bytes, size: int, *, end: bool) -> None:
        """DATA of the client; `size` counts in its window."""
        if self.finished:
            return
        observation = self.observation
        if observation is not None and data:
            try:
                observation.request(data, self._forwarder.clock.now_ns())
            except OBSERVATION_ERRORS as error:
                self._forwarder.observation_failed(error)
        if self._kept is not None:
            self._kept.append(data)
            self._kept_bytes += len(data)
            if self._kept_bytes > KEPT_BYTES:
                self._kept = None
        self.up.feed(data, size, end=end)
        if self._asks:
            self._ask(end=end)

    def _ask(self, *, end: bool) -> None:
        observation, quotas = self.observation, self._forwarder.services.quotas
        if observation is None or quotas is None or not (observation.askable or end):
            return
        self._asks = False
        now_ns = self._forwarder.clock.now_ns()
        ask = observation.ask(self._priority)
        answer = quotas.admit(ask, now_ns)
        if answer is None:
            self._forwarder.start(partial(self._wait, ask, now_ns))
        else:
            self._admitted(answer)

    async def _wait(self, ask: Ask, asked_at_ns: int) -> None:
        quotas = self._forwarder.services.quotas
        if quotas is None or self.finished:
            return
        with anyio.CancelScope() as self._scope:
            answer = await quotas.wait(ask)
            self._scope = None
            if self.observation is not None:  # also of one that waited in vain
                self.observation.queued_ns = self._forwarder.clock.now_ns() - asked_at_ns
            self._admitted(answer)
        self._forwarder.flush()

    def _admitted(self, answer: Ticket | Refusal) -> None:
        if isinstance(answer, Refusal):
            self.refuse(answer)
        elif self.finished:
            answer.withdraw(self._forwarder.clock.now_ns())
        else:
            self._ticket = answer
            if not self._gone:
                self._go()

    # the answer's way

    def response(self, headers: Headers, *, end: bool) -> None:
        """The head of the engine's answer; with `end` all of it."""
        self._kept = None
        self._responding = True
        sent = list(headers)
        now_ns = self._forwarder.clock.now_ns()
        if self._ticket is not None:
            sent += fields_of(self._ticket.header_lines(now_ns))
        if self.observation is not None:
            sent.append((b"x-engineroom-request-id", self.request_id.text.encode()))
            try:
                self.observation.response_head(now_ns)
            except OBSERVATION_ERRORS as error:
                self._forwarder.observation_failed(error)
        fields = dict(headers)
        if fields.get(b":status") != b"200":
            code = fields.get(b":status", b"")
            self._status = status_of_http(int(code)) if code.isdigit() else None
            self._message = f"the engine answered with HTTP status {code.decode('latin-1')}"
        client = self.client
        if end:
            self._note_end(headers)
            self._release(ErrorCodes.NO_ERROR)
        if client.http2.alive(self.stream_id) is not None:
            client.http2.head(self.stream_id, sent, end=end)
            client.touch()
        if end:
            self.down.done = True
            self._down_finished()

    def response_data(self, data: bytes, size: int, *, end: bool) -> None:
        """DATA of the engine; `size` counts in its window."""
        if self.finished:
            return
        observation = self.observation
        if observation is not None and data:
            try:
                observation.response(data, self._forwarder.clock.now_ns())
            except OBSERVATION_ERRORS as error:
                self._forwarder.observation_failed(error)
        if end:
            self._release(ErrorCodes.NO_ERROR)
        self.down.feed(data, size, end=end)

    def trailers(self, headers: Headers) -> None:
        """The end of the engine's answer."""
        self._note_end(headers)
        self._release(ErrorCodes.NO_ERROR)
        self.down.finish(headers)

    def _note_end(self, headers: Headers) -> None:
        fields = dict(headers)
        if self._status is None or b"grpc-status" in fields:
            self._status = read_status(fields.get(b"grpc-status"))
            self._message = decode_message(fields.get(b"grpc-message", b""))

    def _down_finished(self) -> None:
        """The client's side is written to its end."""
        if self._status is None:
            self._finish(status_of_http(0), "the answer ended without a grpc-status")
        else:
            self._finish(self._status, self._message)

    def upstream_reset(self, code: int) -> None:
        """The engine broke the call off."""
        if code == ErrorCodes.REFUSED_STREAM and not self._responding:
            self.unprocessed()
            return
        self._release(None)
        status = status_of_reset(code)
        self._reset_client(code)
        self._finish(status, f"the engine broke the call off with {_name(code)}", "error")

    def unprocessed(self) -> None:
        """The engine says that it did not look at the call: once more, or the client shall do so."""
        self._release(None)
        if self._kept is not None and not self._retried:
            self._retried = True
            self._forwarder.tally.retries += 1
            self.up.again(self._kept)
            self._forwarder.pool.take(self)
            return
        self._reset_client(ErrorCodes.REFUSED_STREAM)
        self._finish(UNAVAILABLE, UNPROCESSED, "error")

    def unreachable(self, reason: str, outcome: Outcome) -> None:
        """There is no connection, or it is gone."""
        self._release(None)
        self.answer(UNAVAILABLE, reason, outcome)

    # ends

    def client_gone(self, reason: str) -> None:
        """The client does not want the answer any more: the engine must know at once."""
        self._release(ErrorCodes.CANCEL)
        now_ns = self._forwarder.clock.now_ns()
        if self._timeout_ns is not None and now_ns + DEADLINE_SLACK_NS >= self.started_at_ns + self._timeout_ns:
            self._finish(DEADLINE_EXCEEDED, "the client's deadline (grpc-timeout) passed", "timeout")
        else:
            self._finish(CANCELLED, reason, "client_abort")

    def refuse(self, refusal: Refusal) -> None:
        """The call does not go to the engine."""
        wait_seconds = refusal.retry_after_seconds
        more = [] if wait_seconds is None else pushback(wait_seconds)
        self.answer(status_of_refusal(refusal.status), refusal.message, "rejected", more)

    def answer(self, status: int, message: str, outcome: Outcome, more: Fields | None = None) -> None:
        """End the call with a status of ours, whatever was on its way."""
        if self.finished:
            return
        self._release(ErrorCodes.CANCEL)
        self.down.leave()
        http2 = self.client.http2
        if not self.client.lost and http2.alive(self.stream_id) is not None:
            if self._responding:
                fields = [*trailers(status, message), *(more or ())]
            else:
                own = [(b"x-engineroom-request-id", self.request_id.text.encode())] if self.observation else []
                fields = trailers_only(status, message, own + (more or []))
            self._responding = True
            http2.head(self.stream_id, fields, end=True)
            self.client.touch()
        self._finish(status, message, outcome)

    def check(self, now_ns: int) -> None:
        """Deadlines and progress; called every quarter of a second."""
        observation = self.observation
        times = self._forwarder.services.times
        asked_ns = self.started_at_ns if observation is None else observation.asked_at_ns
        first = times.first_byte_timeout_seconds
        if observation is not None and not self.up.ended and not observation.waits_for_answer:
            seconds = self._forwarder.services.settings.stream_idle_seconds
            if now_ns >= observation.answered_at_ns + int(seconds * NS):
                self.answer(UNAVAILABLE, f"nothing was said for stream_idle_seconds ({seconds:g} s)", "timeout")
                return
        elif now_ns >= asked_ns + int(times.request_timeout_seconds * NS):
            seconds = times.request_timeout_seconds
            detail = f"the call took longer than request_timeout_seconds ({seconds:g} s)"
            self.answer(DEADLINE_EXCEEDED, detail, "timeout")
            return
        elif first is not None and not self._responding and self.up.done and now_ns >= asked_ns + int(first * NS):
            self.answer(DEADLINE_EXCEEDED, f"no answer within first_byte_timeout_seconds ({first:g} s)", "timeout")
            return
        if observation is not None and self._responding:
            try:
                observation.progress(now_ns)
            except OBSERVATION_ERRORS as error:
                self._forwarder.observation_failed(error)

    def _reset_client(self, code: int) -> None:
        if not self.client.lost:
            self.client.http2.reset(self.stream_id, code)
            self.client.touch()

    def _release(self, code: int | None) -> None:
        """Leave the stream to the engine; with a code: end it, if it has not ended."""
        link, self.link = self.link, None
        if link is None:
            self._forwarder.pool.drop(self)
            return
        self.up.leave()
        self.down.source = None
        link.release(self.upstream_id, code)

    def _finish(self, status: int, message: str, cut: Outcome | None = None) -> None:
        if self.finished:
            return
        self.finished = True
        self._kept = None
        self.up.leave()
        self.down.leave()
        if self._scope is not None:
            self._scope.cancel()
        now_ns = self._forwarder.clock.now_ns()
        usage = Usage()
        if self.observation is not None:
            try:
                record = self.observation.end(
                    now_ns, status=status, message=message, cut=cut, answered=self._responding
                )
                usage = record.usage
            except OBSERVATION_ERRORS as error:
                self._forwarder.observation_failed(error)
        if self._ticket is not None and self.upstream_id:
            self._ticket.done(usage, now_ns)
        elif self._ticket is not None:
            self._ticket.withdraw(now_ns)
        self._forwarder.active.discard(self)
        self.client.call_finished(self)


def _name(code: int) -> str:
    try:
        return ErrorCodes(code).name
    except ValueError:
        return f"code {code}"
