"""One HTTP/2 connection (RFC 9113) as a proxy needs it: bytes → h2's events; calls → bytes to send. No IO.

h2, but for this: a GOAWAY ends no streams that are under way; the connection's window is opened as bytes arrive, so
that one stalled call does not stop the others, and a stream's only when its bytes were passed on; and what every call
has, DATA and heads that were seen before, takes a short way, small DATA of one read as one piece. The state of each
stream is h2's in any case.
"""

import struct
from typing import Any, cast

from h2.config import H2Configuration
from h2.connection import AllowedStreamIDs, ConnectionInputs, H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import FrameTooLargeError, ProtocolError
from h2.settings import SettingCodes, Settings
from h2.stream import H2Stream, StreamClosedBy, StreamInputs, StreamState
from h2.utilities import HeaderValidationFlags, validate_headers
from hpack import HeaderTuple, HPACKError
from hyperframe.frame import Frame, GoAwayFrame, HeadersFrame, WindowUpdateFrame

from agent.sidecar.grpc.hpack import BlockDecoder, BlockEncoder

MAX_HEADER_BYTES = 64 * 1024
CONNECTION_WINDOW_BYTES = 16 * 2**20
PREFACE_BYTES = 24
FRAME_HEAD_BYTES = 9
MERGED_BYTES = 16_384
LAST_STREAM_ID = 2**31 - 1
Headers = list[HeaderTuple] | list[tuple[bytes, bytes]]
_FRAME = struct.Struct(">HBBBL")
_END_STREAM, _END_HEADERS, _PADDED = 1, 4, 8
_WHOLE_HEAD = _END_STREAM | _END_HEADERS  # neither padding nor priority
_HEADERS, _RST_STREAM, _CONTINUATION = 1, 3, 9
_OPEN, _ENDING = frozenset(("END_HEADERS",)), frozenset(("END_HEADERS", "END_STREAM"))
_RECEIVING = frozenset((StreamState.OPEN, StreamState.HALF_CLOSED_LOCAL))


class _Head:
    """What h2 reads of a HEADERS frame without priority, at a fifth of the cost of hyperframe's."""

    __slots__ = ("data", "flags", "stream_id")

    def __init__(self, stream_id: int, data: bytes, flags: frozenset[str]) -> None:
        self.stream_id = stream_id
        self.data = data
        self.flags = flags


class Http2(H2Connection):
    """`streams`: most that the other side may open at once. `window`: bytes of a stream on their way."""

    MAX_CLOSED_STREAMS = 1024  # remembered, to tell late frames from wrong ones

    def __init__(self, *, client_side: bool, streams: int, window: int) -> None:
        super().__init__(
            H2Configuration(
                client_side=client_side,
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
                validate_inbound_headers=False,  # it is done below, once for each distinct head
                normalize_inbound_headers=False,
            )
        )
        values = {
            SettingCodes.MAX_CONCURRENT_STREAMS: streams,
            SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEADER_BYTES,
            SettingCodes.INITIAL_WINDOW_SIZE: window,
            SettingCodes.ENABLE_PUSH: 0,
        }
        self.local_settings = Settings(client=client_side, initial_values=values)
        self.encoder: BlockEncoder = BlockEncoder()  # type: ignore[assignment]  # has what h2 calls
        self.decoder: BlockDecoder = BlockDecoder(MAX_HEADER_BYTES)
        self.failure: str | None = None  # why nothing more can be read
        self._held = b""  # a frame that is not whole
        self._preface = 0 if client_side else PREFACE_BYTES
        self._frame_dispatch_table[cast(type[Frame], _Head)] = self._receive_headers_frame
        self.initiate_connection()
        self.increment_flow_control_window(CONNECTION_WINDOW_BYTES - 65535)

    # h2 counts streams by looking at each of them whenever one is opened; here they are forgotten as they end

    @property
    def open_inbound_streams(self) -> int:
        """Streams that the other side has opened and that are not forgotten yet."""
        return len(self.streams) if not self.config.client_side else 0

    @property
    def open_outbound_streams(self) -> int:
        """Streams that this side has opened and that are not forgotten yet."""
        return len(self.streams) if self.config.client_side else 0

    @property
    def waiting(self) -> int:
        """Bytes that are to be sent."""
        return len(self._data_to_send)

    def forget(self, stream_id: int) -> None:
        """Nothing more is to be sent or received on a stream; one that is still open is kept until its end."""
        stream = self.streams.get(stream_id)
        if stream is not None and stream.closed:
            del self.streams[stream_id]
            self._closed_streams[stream_id] = stream.closed_by

    def alive(self, stream_id: int) -> H2Stream | None:
        """A stream that has not ended on both sides."""
        stream = self.streams.get(stream_id)
        return None if stream is None or stream.closed else stream

    def reset(self, stream_id: int, code: int) -> None:
        """End a stream at once, if there is anything left to end, and forget it."""
        if self.alive(stream_id) is not None:
            self.reset_stream(stream_id, code)
        self.forget(stream_id)

    def receive_data(self, data: Any) -> list[Event]:
        """Bytes that have come → events. After a `failure` no more may come; a GOAWAY that says why is written."""
        held = self._held + data if self._held else bytes(data)
        size = len(held)
        at = min(self._preface, size)
        events: list[Event] = []
        try:
            if at:
                self._preface -= at
                events += super().receive_data(held[:at])
            at = self._frames(held, at, events)
        except ProtocolError as error:
            self.failure = str(error)  # what came before it holds
        self._held = held[at:]
        return events

    def _frames(self, held: bytes, at: int, events: list[Event]) -> int:
        size = len(held)
        while size - at >= FRAME_HEAD_BYTES:
            high, low, kind, flags, stream_id = _FRAME.unpack_from(held, at)
            length = high << 8 | low
            if length > self.max_inbound_frame_size:
                self._terminate_connection(ErrorCodes.FRAME_SIZE_ERROR)
                raise FrameTooLargeError(f"a frame of {length} bytes")
            end = at + FRAME_HEAD_BYTES + length
            if end > size:
                break
            body = at + FRAME_HEAD_BYTES
            stream = self.streams.get(stream_id) if kind == 0 and not flags & _PADDED else None
            if stream is not None and self._takes_data(stream):
                event = self._data(stream, held[body:end], end=bool(flags & _END_STREAM))
                last = events[-1] if events else None
                if isinstance(last, DataReceived) and last.stream_id == stream_id and _fits(last, length):
                    last.data += event.data
                    last.flow_controlled_length += length
                    last.stream_ended = event.stream_ended
                else:
                    events.append(event)
            elif kind == _HEADERS and stream_id and flags | _END_STREAM == _WHOLE_HEAD and not self._in_head():
                events += self._head(stream_id, held[body:end], end=bool(flags & _END_STREAM))
            else:
                events += super().receive_data(held[at:end])
            at = end
        return at

    def _takes_data(self, stream: H2Stream) -> bool:
        return (
            stream.state_machine.state in _RECEIVING
            and stream.state_machine.headers_received is not None
            and stream._expected_content_length is None
            and not self._in_head()
        )

    def _in_head(self) -> bool:
        """Whether nothing but a CONTINUATION may come."""
        return bool(self.incoming_buffer._headers_buffer)

    def _head(self, stream_id: int, block: bytes, *, end: bool) -> list[Event]:
        frame = cast(HeadersFrame, _Head(stream_id, block, _ENDING if end else _OPEN))
        opens = not self.config.client_side and stream_id > self.highest_inbound_stream_id and stream_id % 2
        most = self.local_settings.max_concurrent_streams
        if opens and len(self.streams) >= most:
            for each in list(self.streams):
                self.forget(each)  # those that have ended do not count
            if len(self.streams) >= most:
                return self._refuse(stream_id, block)
        return self._headers(frame)

    def _refuse(self, stream_id: int, block: bytes) -> list[Event]:
        """One stream too many: the client may have opened it before it knew how many it may open."""
        try:
            self.decoder.decode(block)
        except HPACKError as error:
            self._terminate_connection(ErrorCodes.COMPRESSION_ERROR)
            raise ProtocolError("a head that cannot be read") from error
        self.highest_inbound_stream_id = stream_id
        self._closed_streams[stream_id] = StreamClosedBy.SEND_RST_STREAM
        self._data_to_send += _FRAME.pack(0, 4, _RST_STREAM, 0, stream_id) + int(ErrorCodes.REFUSED_STREAM).to_bytes(4)
        return [StreamReset(stream_id=stream_id)]

    def _headers(self, frame: HeadersFrame) -> list[Event]:
        try:
            return self._receive_frame(frame)
        except ProtocolError as error:
            self._terminate_connection(error.error_code)
            raise

    def _data(self, stream: H2Stream, data: bytes, *, end: bool) -> DataReceived:
        size = len(data)
        try:
            self._inbound_flow_control_window_manager.window_consumed(size)
            stream._inbound_window_manager.window_consumed(size)
        except ProtocolError as error:
            self._terminate_connection(error.error_code)
            raise
        event = DataReceived(stream_id=stream.stream_id, data=data, flow_controlled_length=size)
        if end:
            (ended,) = stream.state_machine.process_input(StreamInputs.RECV_END_STREAM)
            event.stream_ended = cast(StreamEnded, ended)
        return event

    def _receive_headers_frame(self, frame: HeadersFrame) -> tuple[list[Frame], list[Event]]:
        frames, events = super()._receive_headers_frame(frame)
        checked = self.decoder.checked
        for event in events:
            kind = event.__class__
            if isinstance(event, RequestReceived | ResponseReceived | TrailersReceived) and kind not in checked:
                flags = HeaderValidationFlags(
                    is_client=self.config.client_side,
                    is_trailer=kind is TrailersReceived,
                    is_response_header=kind is ResponseReceived,
                    is_push_promise=False,
                )
                for _ in validate_headers(event.headers, flags):
                    pass  # it raises where something is wrong
                checked.add(kind)
        return frames, events

    def head(self, stream_id: int, fields: Headers, *, end: bool = False) -> None:
        """Write a head or trailers; names are in lower case. On the client's side a new `stream_id` opens a stream."""
        stream = self.streams.get(stream_id)
        if stream is None:
            self.state_machine.process_input(ConnectionInputs.SEND_HEADERS)
            stream = self._begin_new_stream(stream_id, AllowedStreamIDs.ODD)
        stream.state_machine.process_input(StreamInputs.SEND_HEADERS)
        if end:
            stream.state_machine.process_input(StreamInputs.SEND_END_STREAM)
        block = self.encoder.encode(fields)
        out = self._data_to_send
        most = self.max_outbound_frame_size
        for at in range(0, len(block), most):
            part = block[at : at + most]
            size = len(part)
            flags = (_END_HEADERS if at + size == len(block) else 0) | (_END_STREAM if end and not at else 0)
            out += _FRAME.pack(size >> 8, size & 0xFF, _CONTINUATION if at else _HEADERS, flags, stream_id)
            out += part

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[Event]]:
        """The other side opens no more streams; those under way go on (RFC 9113 section 6.8), which h2 forbids."""
        event = ConnectionTerminated()
        event.last_stream_id = frame.last_stream_id
        return [], [event]

    def goaway(self, last_stream_id: int | None = None, code: int = ErrorCodes.NO_ERROR, reason: bytes = b"") -> None:
        """Say that streams above `last_stream_id` are not served; default: none is but those that have come."""
        last = self.highest_inbound_stream_id if last_stream_id is None else last_stream_id
        frame = GoAwayFrame(0, last_stream_id=last, error_code=code, additional_data=reason)
        self._data_to_send += frame.serialize()

    def arrived(self, size: int) -> None:
        """Bytes of any stream have come: the connection takes as many more."""
        increment = self._inbound_flow_control_window_manager.process_bytes(size)
        if increment:
            self._data_to_send += _window_update(0, increment)

    def taken(self, stream_id: int, size: int) -> None:
        """Bytes of a stream were passed on: its sender may send as many more."""
        stream = self.alive(stream_id)
        if stream is not None:
            increment = stream._inbound_window_manager.process_bytes(size)
            if increment:
                self._data_to_send += _window_update(stream_id, increment)

    def send(self, stream_id: int, data: bytes | memoryview, *, end: bool) -> int:
        """Write DATA as far as the windows allow; returns how many bytes. With `end` it closes this side.

        Bytes for a stream that is gone count as written.
        """
        stream = self.alive(stream_id)
        size = len(data)
        if stream is None:
            return size
        room = min(size, self.outbound_flow_control_window, stream.outbound_flow_control_window)
        if room <= 0 and size:
            return 0
        ends = end and room == size
        most = self.max_outbound_frame_size
        out = self._data_to_send
        at = 0
        while at < room or (size == 0 and ends):
            part = min(most, room - at)
            flags = _END_STREAM if ends and at + part == size else 0
            out += _FRAME.pack(part >> 8, part & 0xFF, 0, flags, stream_id)
            out += data[at : at + part] if part != size else data
            at += part
            if size == 0:
                break
        self.outbound_flow_control_window -= room
        stream.outbound_flow_control_window -= room
        if ends:
            stream.state_machine.process_input(StreamInputs.SEND_END_STREAM)
        return room


def _fits(last: DataReceived, length: int) -> bool:
    """Whether small pieces that came at once go on as one; empty ones stay alone, to be counted."""
    return 0 < length <= MERGED_BYTES - len(last.data) and bool(last.data)


def _window_update(stream_id: int, increment: int) -> bytes:
    frame = WindowUpdateFrame(stream_id)
    frame.window_increment = increment
    return frame.serialize()
